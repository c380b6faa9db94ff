//! An answer that is long enough to be on its way for seconds: its request has as much more time (WIRE §2.3), wherever that
//! is waited for.
//!
//! ```text
//!  subscriber's shard ── AnswerBegun ──► coordinator ── Notice::AnswerBegun ──► home of the publisher's node there
//!                                                                                    └─ AnswerBegun ──► coordinator
//! ```

use super::{
    Context, LinkKind, Parts,
    request::{FromNode, Origin, RequestOf},
};
use crate::{
    relay::{LinkKey, MeshMessage, Outbound, RequestId},
    wire::{
        FrameRef, MessageNumber, NodeId,
        notice::Notice,
        sdk::{self, FrameType, Header},
    },
};

impl Parts {
    /// The beginning of a long frame of a session is here: at least the header.
    pub(super) fn handle_frame_begun(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        head: &[u8],
    ) {
        let Some(header) = Header::decode(head) else { return };
        if header.frame_type != FrameType::RESPONSE {
            return;
        }
        if let Some(LinkKind::Ledger(link)) = self.link_mut(key) {
            let session = link.session;
            return self.handle_message_answer_begun(cx, session, &header);
        }
        let seq = cx.seq_key(&header.seq);
        let Some(session) = self.session_mut(key) else { return };
        // An answer that nobody waits for is dropped once it is here.
        if let Some(request) = session.pushes.get(&seq).and_then(|push| push.request()) {
            let begun = MeshMessage::AnswerBegun { request: request.id, len: header.len };
            self.send_to_reactor(cx, request.coordinator, begun, FrameRef::EMPTY);
        }
    }

    /// An answer of so many bytes to a request of this shard has begun to come.
    pub(super) fn handle_answer_begun(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        len: u32,
    ) {
        let time = sdk::transfer_time(len as usize);
        if time.is_zero() {
            return;
        }
        if let Some(Origin::Node(FromNode { id: node, message, .. })) =
            self.extend_request(cx.common, id, time)
        {
            self.send_notice(cx, node, Notice::AnswerBegun { message, len });
        }
    }

    /// A node says that an answer of so many bytes to a message of ours has begun to come to it.
    pub(super) fn handle_answer_begun_elsewhere(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        (message, len): (MessageNumber, u32),
    ) {
        // What is longer than a frame may be gives no time.
        let bytes_max = cx.shared.settings.frame_len_max;
        let Some(RequestOf { coordinator, id: request }) =
            self.peers.get(peer).and_then(|peer| peer.awaited(message))
        else {
            return;
        };
        if len as usize <= bytes_max {
            self.send_to_reactor(cx, coordinator, MeshMessage::AnswerBegun { request, len }, FrameRef::EMPTY);
        }
    }
}
