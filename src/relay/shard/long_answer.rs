//! An answer that is long enough to be on its way for seconds: its request has as much more time (WIRE §2.3), wherever that
//! is waited for.
//!
//! ```text
//!  subscriber's shard ── AnswerBegun ──► coordinator ── Notice::AnswerBegun ──► home of the publisher's node there
//!                                                                                    └─ AnswerBegun ──► coordinator
//! ```

use std::time::Instant;

use super::{Shard, request::Origin};
use crate::{
    relay::{LinkKey, MeshMessage, Outbound, ReactorId, RequestId},
    wire::{
        FrameRef, NodeId,
        private::Notice,
        sdk::{self, FrameType, Header},
    },
};

impl Shard {
    /// The beginning of a long frame of a session is here: at least the header.
    pub fn handle_frame_begun(&mut self, now: Instant, key: LinkKey, head: &[u8], out: &mut impl Outbound) {
        let Some(header) = Header::decode(head) else { return };
        if header.frame_type != FrameType::RESPONSE {
            return;
        }
        let seq = self.seq_key(&header.seq);
        let Some(session) = self.session_mut(key) else { return };
        // An answer that nobody waits for is dropped once it is here.
        if let Some((coordinator, request)) = session.pushes.get(&seq).map(|push| push.request()) {
            self.tell_answer_begun(now, coordinator, request, header.len, out);
        }
    }

    fn tell_answer_begun(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        len: u32,
        out: &mut impl Outbound,
    ) {
        if coordinator == self.id {
            self.handle_answer_begun(now, request, len, out);
        } else {
            out.to_reactor(coordinator, MeshMessage::AnswerBegun { request, len }, FrameRef::Slice(&[]));
        }
    }

    /// An answer of so many bytes to a request of this shard has begun to come.
    pub(super) fn handle_answer_begun(
        &mut self,
        now: Instant,
        id: RequestId,
        len: u32,
        out: &mut impl Outbound,
    ) {
        let time = sdk::transfer_time(len as usize);
        if time.is_zero() {
            return;
        }
        if let Some(Origin::Node { id: node, message, .. }) = self.extend_request(id, time) {
            self.send_notice(now, node, Notice::AnswerBegun { message, len }, out);
        }
    }

    /// A node says that an answer of so many bytes to a message of ours has begun to come to it.
    pub(super) fn handle_answer_begun_elsewhere(
        &mut self,
        now: Instant,
        peer: &NodeId,
        (message, len): (u32, u32),
        out: &mut impl Outbound,
    ) {
        // What is longer than a frame may be gives no time.
        let bytes_max = self.shared.settings.frame_len_max;
        let Some((coordinator, request)) = self.peers.get(peer).and_then(|peer| peer.awaited(message)) else {
            return;
        };
        if len as usize <= bytes_max {
            self.tell_answer_begun(now, coordinator, request, len, out);
        }
    }
}
