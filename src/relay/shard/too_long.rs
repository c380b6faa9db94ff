//! Frames that are longer than a node takes (WIRE §1.1, §6.4): each node tells the others its bound, so whoever has such a
//! frame refuses it at once, and no link ends by it. What comes all the same, from a node that was not told, is read over.

use tracing::warn;

use super::{Common, Context, Parts, neighbour::Neighbour, node_link::Carrier, request::FromNode};
use crate::{
    relay::{Outbound, sealing::Subject},
    wire::{
        FrameRef, MessageNumber, NodeId, ResultCode,
        node::{Extensions, Header, Numbers, PacketType},
        sdk,
        trace::Refusal,
    },
};

/// A frame of a node link that was read over.
pub(super) struct ReadOver<'a> {
    pub(super) peer: &'a NodeId,
    /// What it came by, if this node is its end.
    pub(super) carrier: Option<Carrier>,
    pub(super) header: &'a Header<'a>,
    /// The beginning of what it carried …
    pub(super) payload: FrameRef<'a>,
    /// … and the length of all of it, in bytes.
    pub(super) len: usize,
}

impl Parts {
    /// A frame of a node link was read over. Its source is told, so far
    /// as that is possible, and the link goes on.
    pub(super) fn handle_read_over(&mut self, cx: &mut Context<'_, impl Outbound>, frame: ReadOver<'_>) {
        let ReadOver { peer, carrier, header, payload, len } = frame;
        cx.counters.read_over.increment();
        if cx.common.logs.too_long.admits(cx.now) {
            warn!(
                peer = %peer, bytes = len, bytes_max = cx.shared.settings.frame_len_max,
                "a message of a node is dropped, it is longer than this node takes, and the node was not told: set [amop] frame_len_max to the same on all nodes, or run one version",
            );
        }
        let Some(carrier) = carrier.filter(|_| header.packet_type.is_amop()) else { return };
        // Its place is taken by an empty message, once.
        let Some(numbers) = Numbers::decode(payload.head()) else { return };
        let is_new = self.channel(cx, peer).is_some_and(|channel| channel.receiver.is_new(&numbers));
        let subject = Subject { packet_type: header.packet_type, message: MessageNumber(header.seq) };
        let in_its_place = numbers.encode();
        self.handle_numbered(cx, carrier, peer, subject, FrameRef::Slice(&in_its_place));
        if is_new {
            self.refuse_read_over(cx, peer, subject, payload.advance(Numbers::LEN));
        }
    }

    fn refuse_read_over(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        subject: Subject,
        payload: FrameRef<'_>,
    ) {
        let inner = Extensions::decode(payload.head()).map(|(_, offset)| payload.advance(offset));
        let Some(inner) = inner.and_then(|frame| sdk::Header::decode(frame.head())) else { return };
        let Subject { packet_type, message } = subject;
        match packet_type {
            PacketType::UNICAST => {
                let Some(incarnation) = self.peers.get(peer).map(|peer| peer.incarnation) else {
                    return;
                };
                let answer = super::request::answer_frame(&inner.seq, ResultCode::NOT_DELIVERED);
                cx.keep_refused_of_node((peer, message), &inner, "", Refusal::TooLong);
                let origin = FromNode { id: *peer, incarnation, message };
                self.respond(cx, &origin, true, FrameRef::Slice(&answer));
            }
            // Somebody has answered; what, nobody here will know.
            PacketType::UNICAST_RESPONSE => {
                let answer = super::request::answer_frame(&inner.seq, ResultCode::TIMEOUT);
                self.handle_response(cx, peer, message, true, FrameRef::Slice(&answer));
            }
            _ => {}
        }
    }
}

impl Common {
    /// Whether a node, which may be a neighbour, and those on the route to it take a frame of an SDK link of so many bytes.
    #[inline]
    pub(super) fn takes(&mut self, node: &NodeId, neighbour: Option<&Neighbour>, frame_len: usize) -> bool {
        self.snapshot.refresh();
        match neighbour.filter(|neighbour| neighbour.active.is_some()) {
            Some(neighbour) => {
                frame_len <= neighbour.frame_len_max && self.snapshot.takes_as_neighbour(node, frame_len)
            }
            None => self.snapshot.takes(node, frame_len),
        }
    }
}

impl<O: Outbound> Context<'_, O> {
    /// A message does not go to a node, for it, or nobody on the way, takes frames of so many bytes.
    pub(super) fn note_too_long(&mut self, node: &NodeId, frame_len: usize) {
        self.counters.refused_too_long.increment();
        if self.common.logs.too_long.admits(self.now) {
            let snapshot = self.shared.snapshot.load();
            let taken = snapshot.paths.get(node).map_or(0, |path| path.frame_len_max);
            warn!(
                peer = %node, bytes = frame_len, peer_bytes_max = taken,
                "a message is not sent, it is longer than its node, or those on every way there, take: set [amop] frame_len_max to the same on all nodes",
            );
        }
    }
}
