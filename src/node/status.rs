//! How the node is, in a line for the service manager.

use std::sync::atomic::Ordering::Relaxed;

use super::Node;
use crate::{
    admin::{Phase, hang},
    service::ServiceManager,
};

impl Node {
    /// Tells the service manager, if that is due.
    pub(super) fn report(&self, manager: &mut ServiceManager) {
        let (status, is_live) = self.status();
        manager.look(status, is_live);
    }

    /// How it is, and whether its reactors turn.
    fn status(&self) -> (String, bool) {
        let counters = &self.shared.counters;
        if let Some(hang) = hang(counters, self.shared.started.elapsed()) {
            return (hang, false);
        }
        let phase =
            Phase::of(*self.door.opening.borrow(), self.stopping.load(Relaxed), self.supervisor.has_ended());
        if let Some(hindrance) = phase.hindrance() {
            return (hindrance.to_owned(), true);
        }
        let sessions: u64 = counters.iter().map(|counters| counters.sessions.get()).sum();
        let links: u64 = counters.iter().map(|counters| counters.node_links.get()).sum();
        let refused = match self.is_reload_refused {
            true => "; the configuration that was read again is refused, see the log",
            false => "",
        };
        (format!("{sessions} sessions, {links} links to nodes{refused}"), true)
    }
}
