//! Frames that are longer than a node takes (WIRE §1.1, §6.4): each node tells the others its bound, so whoever has such a
//! frame refuses it at once, and no link ends by it. What comes all the same, from a node that was not told, is read over.

use std::time::Instant;

use tracing::warn;

use super::Shard;
use crate::{
    relay::{LinkKey, Outbound},
    wire::{
        FrameRef, NodeId, ResultCode,
        node::{Extensions, Header, PacketType},
        sdk,
        trace::Refusal,
    },
};

impl Shard {
    /// Whether a node, and those on the way to it, take a frame of an SDK link of so many bytes.
    pub(super) fn takes(&self, node: &NodeId, frame_len: usize) -> bool {
        let snapshot = self.shared.snapshot.load();
        match self.neighbours.get(node).filter(|neighbour| neighbour.active.is_some()) {
            Some(neighbour) => {
                let told = snapshot.paths.get(node).map_or(usize::MAX, |path| path.frame_len_max as usize);
                frame_len <= told.min(neighbour.frame_len_max)
            }
            None => snapshot.takes(node, frame_len),
        }
    }

    /// A message does not go to a node, for it, or nobody on the way, takes frames of so many bytes.
    pub(super) fn note_too_long(&mut self, now: Instant, node: &NodeId, frame_len: usize) {
        self.counters.refused_too_long.increment();
        if self.logs.too_long.admits(now) {
            let snapshot = self.shared.snapshot.load();
            let taken = snapshot.paths.get(node).map_or(0, |path| path.frame_len_max);
            warn!(
                peer = %node, bytes = frame_len, peer_bytes_max = taken,
                "a message is not sent, it is longer than its node, or those on every way there, take: set [amop] frame_len_max to the same on all nodes",
            );
        }
    }

    /// A frame of a node link of so many bytes was read over, of which only the beginning is here. Its source is told, so far
    /// as that is possible, and the link goes on.
    pub(super) fn handle_read_over(
        &mut self,
        now: Instant,
        key: LinkKey,
        (peer, is_for_us): (&NodeId, bool),
        header: &Header<'_>,
        (payload, len): (FrameRef<'_>, usize),
        out: &mut impl Outbound,
    ) {
        self.counters.read_over.increment();
        if self.logs.too_long.admits(now) {
            warn!(
                peer = %peer, bytes = len, bytes_max = self.shared.settings.frame_len_max,
                "a message of a node is dropped, it is longer than this node takes, and the node was not told: set [amop] frame_len_max to the same on all nodes, or run one version",
            );
        }
        if !header.packet_type.is_amop() {
            return;
        }
        if is_for_us {
            self.refuse_read_over(now, peer, header, payload, out);
        }
        self.note_taken(now, key, len, out);
    }

    fn refuse_read_over(
        &mut self,
        now: Instant,
        peer: &NodeId,
        header: &Header<'_>,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let inner = Extensions::decode(payload.head()).map(|(_, offset)| payload.advance(offset));
        let Some(inner) = inner.and_then(|frame| sdk::Header::decode(frame.head())) else { return };
        let (packet_type, message) = (header.packet_type, header.seq);
        match packet_type {
            PacketType::UNICAST => {
                let Some(incarnation) = self.take_new_message(now, peer, packet_type, message) else {
                    return;
                };
                let answer = super::request::answer_frame(&inner.seq, ResultCode::NOT_DELIVERED);
                self.keep_refused_of_node(now, (peer, message), &inner, "", Refusal::TooLong);
                self.respond(now, (peer, incarnation, message), true, FrameRef::Slice(&answer), out);
            }
            // Somebody has answered; what, nobody here will know.
            PacketType::UNICAST_RESPONSE => {
                let answer = super::request::answer_frame(&inner.seq, ResultCode::TIMEOUT);
                self.handle_response(now, peer, message, true, FrameRef::Slice(&answer), out);
            }
            _ => {}
        }
    }
}
