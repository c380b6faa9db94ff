//! Whether the node lives, and whether it takes work.

use std::time::Duration;

use hyper::StatusCode;

use super::{Answer, text};
use crate::relay::{ReactorId, Shared};

/// A reactor looks at its links twice a second; one that has not turned for so long hangs.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// 200 while all reactors turn.
pub(super) fn live(shared: &Shared, since_start: Duration) -> Answer {
    match hung_reactor(shared, since_start) {
        None => text(StatusCode::OK, "live"),
        Some((reactor, silent)) => {
            let line = format!("reactor {} has not turned for {} s", reactor.0, silent.as_secs());
            text(StatusCode::SERVICE_UNAVAILABLE, &line)
        }
    }
}

/// 200 while the node takes new work.
pub(super) fn ready(shared: &Shared, since_start: Duration, stopping: bool) -> Answer {
    if stopping {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping: what is in flight is answered, no new links",
        );
    }
    match hung_reactor(shared, since_start) {
        None => text(StatusCode::OK, "ready"),
        Some(_) => live(shared, since_start),
    }
}

/// The reactor that has not turned for longest, if any hangs.
fn hung_reactor(shared: &Shared, since_start: Duration) -> Option<(ReactorId, Duration)> {
    let silent = |(index, counters): (usize, &std::sync::Arc<crate::relay::counters::Counters>)| {
        (ReactorId(index as u16), since_start.saturating_sub(counters.heartbeat.last()))
    };
    let silent = shared.counters.iter().enumerate().map(silent);
    silent.max_by_key(|(_, silent)| *silent).filter(|(_, silent)| *silent >= HUNG_AFTER)
}
