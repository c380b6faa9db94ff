//! What a client pays for a unicast that leaves to a node of FISCO BCOS 2.x (WIRE §5).

use super::Origin;
use crate::{
    relay::{
        Outbound, ReactorId, Recipients, RequestId,
        peer_2x::Draw2x,
        shard::{Context, Parts},
    },
    wire::{ResultCode, p2p_2x},
};

impl Parts {
    /// Whether a request goes to a node of FISCO BCOS 2.x at the reactor that was drawn, and how many bytes are paid for that. `None`
    /// if it is over the bandwidth limit, and it is answered so.
    #[inline]
    pub(super) fn draw_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        from_2x: bool,
        (drawn, frame_len): ((ReactorId, &str, Option<&Recipients>), usize),
    ) -> Option<(Draw2x, u64)> {
        match cx.shared.limiter.is_limited() {
            _ if from_2x => Some((Draw2x::Never, 0)),
            false => Some((Draw2x::Equally, 0)),
            true => self.prepay_2x(cx, id, drawn, frame_len),
        }
    }

    /// Draws whether a request goes to a node of FISCO BCOS 2.x at the reactor that was drawn, where that is to be paid for: by a
    /// client's first try, under a bandwidth limit. Gives what is paid, in bytes. `None` if that is over the limit, and it is answered so.
    #[cold]
    fn prepay_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        drawn: (ReactorId, &str, Option<&Recipients>),
        frame_len: usize,
    ) -> Option<(Draw2x, u64)> {
        let request = self.request_mut(id)?;
        let Origin::Session { key, .. } = request.origin else { return Some((Draw2x::Equally, 0)) };
        if !request.is_first_attempt() {
            return Some((Draw2x::Equally, 0));
        }
        let (of_2x, all) = self.subscribers_at(cx, key.index, drawn);
        if of_2x == 0 {
            return Some((Draw2x::Equally, 0));
        }
        if cx.common.fast_rng.in_range(0..all.max(of_2x)) >= of_2x {
            return Some((Draw2x::Last, 0));
        }
        let cost = (p2p_2x::HEADER_LEN + frame_len) as u64;
        if self.admit_bandwidth(cx, key, cost) {
            return Some((Draw2x::First, cost));
        }
        self.warn_over_bandwidth(cx, key);
        self.answer_myself(cx, id, ResultCode::OVER_BANDWIDTH);
        None
    }

    /// How many subscribers at a reactor are nodes of FISCO BCOS 2.x, and how many there are besides the publisher.
    fn subscribers_at(
        &self,
        cx: &Context<'_, impl Outbound>,
        publisher: u32,
        (reactor, topic, audience): (ReactorId, &str, Option<&Recipients>),
    ) -> (usize, usize) {
        if let Some(Recipients(numbers)) = audience {
            return (numbers.iter().filter(|number| number.is_of_2x()).count(), numbers.len());
        }
        if reactor == cx.id {
            let sessions = self.sessions.topics.sessions(topic);
            let others = sessions.iter().filter(|index| **index != publisher).count();
            return (self.subscribers_2x(sessions), others);
        }
        let Some(entry) = cx.common.snapshot.topic(topic) else { return (0, 0) };
        let at = entry.reactors.iter().find(|(other, _)| *other == reactor);
        (entry.reactor_2x(reactor) as usize, at.map_or(0, |(_, count)| *count as usize))
    }
}
