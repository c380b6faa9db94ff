//! Requests for which no receiver is known while the state of a neighbour is on its way: its link is new, and somebody
//! behind it may subscribe. They wait for that, for `[amop] ready_timeout_ms` at most, instead of being told that nobody
//! does.

use super::{Furthest, Origin};
use crate::{
    relay::{
        Outbound, RequestId,
        shard::{Context, Parts},
    },
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

impl Parts {
    /// Whether a request that nobody is known for waits for the state of neighbours.
    pub(super) fn waits_for_state(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        frame: FrameRef<'_>,
    ) -> bool {
        let timeout = cx.shared.settings.ready_timeout;
        if cx.snapshot.is_complete
            || self.requests.unsettled.ids.len() >= cx.shared.settings.pending_requests_max
        {
            return false;
        }
        let is_untold = self.requests.get(id).is_some_and(|request| {
            matches!(request.origin, Origin::Session { .. })
                && request.furthest == Furthest::NoReceiver
                && cx.now.saturating_duration_since(request.taken) < timeout
        });
        if !is_untold {
            return false;
        }
        self.retain(cx, id, frame);
        let waits = self.requests.get(id).is_some_and(|request| request.retained.is_some());
        if waits {
            self.requests.unsettled.ids.push(id);
            self.requests.unsettled.version = cx.snapshot.version;
        }
        waits
    }

    /// More of the state of neighbours is here: tries what waits for it once more.
    pub(in crate::relay::shard) fn try_unsettled(&mut self, cx: &mut Context<'_, impl Outbound>) {
        // Those that are over are none any more; of the others each waits again if it must.
        for id in std::mem::take(&mut self.requests.unsettled.ids) {
            self.retry(cx, id);
        }
    }

    /// The same before a message that came after them, so that it does not overtake them.
    pub(in crate::relay::shard) fn try_unsettled_first(&mut self, cx: &mut Context<'_, impl Outbound>) {
        if !self.requests.unsettled.ids.is_empty() {
            cx.snapshot.refresh();
            if cx.snapshot.version != self.requests.unsettled.version {
                self.try_unsettled(cx);
            }
        }
    }
}
