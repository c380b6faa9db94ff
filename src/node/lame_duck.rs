//! A node that is told to stop lets its applications go first, so that they come to other nodes one after the other.

use std::time::Duration;

use tokio::signal::unix::Signal;
use tracing::info;

use super::{Node, PartFailed};
use crate::service::ServiceManager;

/// Within so long applications are let go where `[amop] lame_duck_ms` does not say, and somebody asks for it (SIGQUIT).
const WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether all have gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Node {
    /// Within which SIGTERM lets applications go; `None` if they are all closed at the stop.
    pub(super) fn lame_duck(&self) -> Option<Duration> {
        (!self.config.lame_duck.is_zero()).then_some(self.config.lame_duck)
    }

    /// The same for SIGQUIT, which asks for it.
    pub(super) fn lame_duck_at_request(&self) -> Duration {
        self.lame_duck().unwrap_or(WITHIN)
    }

    /// Lets all applications go, and returns when none is left, when all have had the time that a request may take besides, or at another
    /// signal to end.
    pub(super) async fn let_go(
        &self,
        within: Duration,
        [terminate, interrupt]: [&mut Signal; 2],
        manager: &mut ServiceManager,
    ) -> Result<(), PartFailed> {
        let sessions = || self.shared.counters.iter().map(|counters| counters.sessions.get()).sum::<u64>();
        info!(
            sessions = sessions(),
            within_ms = within.as_millis() as u64,
            "letting applications go before the stop; no new ones are let in",
        );
        self.door.let_no_applications_in();
        if let Some(engine) = &self.engine {
            engine.handle().begin_lame_duck(within);
        }
        let end = tokio::time::sleep(within + self.config.relay.request_timeout + LOOK_EVERY);
        tokio::pin!(end);
        let (mut looks, mut reports) = (tokio::time::interval(LOOK_EVERY), manager.looks());
        while sessions() > 0 {
            tokio::select! {
                _ = looks.tick() => {}
                _ = reports.tick() => self.report(manager),
                () = &mut end => break,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                failed = self.failed() => return Err(failed),
            }
        }
        info!(sessions = sessions(), "applications have been let go");
        Ok(())
    }
}
