//! Whether the node lives, and whether it takes work.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;

use super::{Answer, text};
use crate::{
    door::Opening,
    relay::{ReactorId, counters::Counters},
};

/// A reactor looks at its links twice a second; one that has not turned for so long hangs.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// 200 while all reactors turn.
pub(super) fn live(reactors: &[Arc<Counters>], since_start: Duration) -> Answer {
    match hang(reactors, since_start) {
        None => text(StatusCode::OK, "live"),
        Some(hang) => text(StatusCode::SERVICE_UNAVAILABLE, &hang),
    }
}

/// What says that a reactor hangs, and for how long, if one does.
pub(crate) fn hang(reactors: &[Arc<Counters>], since_start: Duration) -> Option<String> {
    hung_reactor(reactors, since_start)
        .map(|(reactor, silent)| format!("reactor {} has not turned for {} s", reactor.0, silent.as_secs()))
}

/// Where a node is between its start and its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It lets no application in yet, as long as the state of other nodes is on its way …
    AwaitsState,
    /// … or as somebody else listens on the port for them.
    AwaitsPort,
    Up,
    /// It lets applications go, and is about to stop.
    LetsGo,
    /// A part of it has ended of itself, and it is about to stop.
    Failed,
    Stopping,
}

impl Phase {
    pub(crate) fn of(opening: Opening, stopping: bool, has_failed: bool) -> Self {
        match opening {
            _ if stopping => Self::Stopping,
            _ if has_failed => Self::Failed,
            Opening::AwaitsState => Self::AwaitsState,
            Opening::AwaitsPort => Self::AwaitsPort,
            Opening::Open => Self::Up,
            Opening::Closed => Self::LetsGo,
        }
    }

    /// What keeps the node from taking new work.
    pub(crate) fn hindrance(self) -> Option<&'static str> {
        match self {
            Self::Up => None,
            Self::AwaitsState => {
                Some("starting: the state of other nodes is on its way, no application is let in")
            }
            Self::AwaitsPort => Some(
                "starting: somebody else listens on the port for applications, [rpc] channel_listen_port",
            ),
            Self::LetsGo => {
                Some("stopping before long: applications are let go one after the other, no new ones come in")
            }
            Self::Failed => Some("a part of the node has ended, and the node ends: see its log"),
            Self::Stopping => Some("stopping: what is in flight is answered, no new links"),
        }
    }
}

/// 200 while the node takes new work.
pub(super) fn ready(reactors: &[Arc<Counters>], since_start: Duration, phase: Phase) -> Answer {
    if let Some(reason) = phase.hindrance() {
        return text(StatusCode::SERVICE_UNAVAILABLE, reason);
    }
    match hung_reactor(reactors, since_start) {
        None => text(StatusCode::OK, "ready"),
        Some(_) => live(reactors, since_start),
    }
}

/// The reactor that has not turned for longest, if any hangs.
fn hung_reactor(reactors: &[Arc<Counters>], since_start: Duration) -> Option<(ReactorId, Duration)> {
    let silent = reactors.iter().enumerate().map(|(index, counters)| {
        (ReactorId(index as u16), since_start.saturating_sub(counters.heartbeat.last()))
    });
    silent.max_by_key(|(_, silent)| *silent).filter(|(_, silent)| *silent >= HUNG_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reactor_that_hangs_makes_the_node_neither_live_nor_ready() {
        let reactors: Vec<Arc<Counters>> = vec![Arc::default(), Arc::default()];
        let second = Duration::from_secs(1);
        let status = |since_start| {
            (live(&reactors, since_start).status(), ready(&reactors, since_start, Phase::Up).status())
        };
        assert_eq!(status(9 * second), (StatusCode::OK, StatusCode::OK));
        reactors[0].heartbeat.beat(9 * second);
        let none = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(10 * second), none, "the second has not turned since the start");
        reactors[1].heartbeat.beat(10 * second);
        assert_eq!(status(10 * second), (StatusCode::OK, StatusCode::OK));
        assert_eq!(status(19 * second), none);
    }

    #[test]
    fn a_node_that_starts_or_stops_is_live_and_not_ready() {
        let reactors = [Arc::default()];
        for (phase, code) in [
            (Phase::AwaitsState, StatusCode::SERVICE_UNAVAILABLE),
            (Phase::AwaitsPort, StatusCode::SERVICE_UNAVAILABLE),
            (Phase::Up, StatusCode::OK),
            (Phase::of(Opening::Open, false, true), StatusCode::SERVICE_UNAVAILABLE),
            (Phase::of(Opening::Closed, false, false), StatusCode::SERVICE_UNAVAILABLE),
            (Phase::Stopping, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            assert_eq!(ready(&reactors, Duration::ZERO, phase).status(), code);
        }
        assert_eq!(live(&reactors, Duration::ZERO).status(), StatusCode::OK);
    }
}
