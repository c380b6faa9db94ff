//! Requests for which no receiver is known while the state of a neighbour is on its way: its link is new, and somebody
//! behind it may subscribe. They wait for that, for `[amop] ready_timeout_ms` at most, instead of being told that nobody
//! does.

use std::time::Instant;

use super::{super::Shard, Furthest, Origin};
use crate::{
    relay::{Outbound, RequestId},
    wire::FrameRef,
};

/// The requests that wait.
#[derive(Default)]
pub(in crate::relay::shard) struct Unsettled {
    /// In the order in which they came. Some may be over.
    ids: Vec<RequestId>,
    /// The snapshot that they were last tried with.
    version: u64,
}

impl Shard {
    /// Whether a request that nobody is known for waits for the state of neighbours.
    pub(super) fn waits_for_state(&mut self, now: Instant, id: RequestId, frame: FrameRef<'_>) -> bool {
        let timeout = self.shared.settings.ready_timeout;
        if self.snapshot.is_complete || self.unsettled.ids.len() >= self.shared.settings.pending_requests_max
        {
            return false;
        }
        let is_untold = self.requests.get(id).is_some_and(|request| {
            matches!(request.origin, Origin::Session { .. })
                && request.furthest == Furthest::NoReceiver
                && now.saturating_duration_since(request.taken) < timeout
        });
        if !is_untold {
            return false;
        }
        self.retain(id, frame);
        let waits = self.requests.get(id).is_some_and(|request| request.retained.is_some());
        if waits {
            self.unsettled.ids.push(id);
            self.unsettled.version = self.snapshot.version;
        }
        waits
    }

    /// More of the state of neighbours is here: tries what waits for it once more.
    pub(in crate::relay::shard) fn try_unsettled(&mut self, now: Instant, out: &mut impl Outbound) {
        // Those that are over are none any more; of the others each waits again if it must.
        for id in std::mem::take(&mut self.unsettled.ids) {
            self.retry(now, id, out);
        }
    }

    /// The same before a message that came after them, so that it does not overtake them.
    pub(in crate::relay::shard) fn try_unsettled_first(&mut self, now: Instant, out: &mut impl Outbound) {
        if !self.unsettled.ids.is_empty() {
            self.snapshot.refresh();
            if self.snapshot.version != self.unsettled.version {
                self.try_unsettled(now, out);
            }
        }
    }
}
