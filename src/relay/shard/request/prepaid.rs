//! What a client pays for a unicast that may leave to a node of FISCO BCOS 2.x (WIRE §5).

use super::Origin;
use crate::{
    relay::{
        Outbound, ReactorId, RequestId,
        shard::{Context, Parts},
    },
    wire::{ResultCode, p2p_2x},
};

impl Parts {
    /// A client's first try at a reactor that may send it to a node of FISCO BCOS 2.x is paid for, as if it did; gives how many
    /// bytes those are. `None` if that is over the bandwidth limit, and it is answered so.
    pub(super) fn prepay_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        (reactor, topic): (ReactorId, &str),
        frame_len: usize,
    ) -> Option<u64> {
        if !cx.shared.limiter.is_limited() {
            return Some(0);
        }
        let request = self.request_mut(id)?;
        let Origin::Session { key, .. } = request.origin else { return Some(0) };
        let is_first = request.nodes.is_empty() && request.failed.is_none() && request.from_2x.is_none();
        let may_leave = cx.common.snapshot.topic(topic).is_some_and(|entry| entry.reactor_2x(reactor) > 0);
        if !is_first || !may_leave {
            return Some(0);
        }
        let cost = (p2p_2x::HEADER_LEN + frame_len) as u64;
        if self.admit_bandwidth(cx, key, cost) {
            return Some(cost);
        }
        self.warn_over_bandwidth(cx, key);
        self.answer_myself(cx, id, ResultCode::OVER_BANDWIDTH);
        None
    }
}
