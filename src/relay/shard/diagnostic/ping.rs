//! Finding out the route to another node, as frames really take it, and how long it takes.
//!
//! A ping is a sealed frame with few hops left, and with a flag that says what it is. Where its hops end, a node tells its
//! source by a notice of its own; the destination replies for itself. So each answer is by who it says it is.
//!
//! ```text
//!   home of the destination: seal, hops 1, 2, 3 … ─► as any frame (route)
//!   link of a neighbour ─► hops used up, or no route on ─► home of the source: rate limit, notice
//!   home of who answers ─► home of the destination: matched with the ping
//! ```
//!
//! # Invariants
//! - An answer counts once: of the destination with the number that nobody else has seen, or of another node with the
//!   end of the frame, which only nodes on its path have seen.
//! - Nothing is answered to an answer: those are not flagged.

use std::time::Duration;

use super::{Answer, Asked, Context, Kind, Open, Parts, Taken, Traits, memory, reply_time};
use crate::{
    bound::fixed,
    relay::{
        MeshMessage, Outbound, Packet, home_reactor_of,
        sealing::{FRONT_LEN, Subject, TAG_LEN},
    },
    wire::{
        FrameRef, MessageNumber, NodeId, RetainedFrame,
        node::PacketType,
        notice::{Diagnostic, Notice, PING_LEN, PathEnd, PathEnded},
    },
};

/// Pings that one reactor may have open.
pub const PINGS_MAX: usize = 256;
/// Pings of one node that are answered in a second, be it the destination that answers or a node where their path ends.
pub const ANSWERS_PER_SECOND_MAX: u32 = 64;

pub(super) const TRAITS: Traits = Traits {
    tag: 6,
    open_max: PINGS_MAX,
    requests_per_second_max: ANSWERS_PER_SECOND_MAX,
    ignored: |counters| &counters.ping_answers_ignored,
    bounds: |reactors| {
        [
            fixed("pings under way", PINGS_MAX, "pings", "reactor", "not sent: pings_over_bound")
                .memory(memory(reactors * PINGS_MAX, 0)),
            reply_time("ping", "shown as lost: pings_unanswered"),
            fixed(
                "pings of another node that are answered",
                ANSWERS_PER_SECOND_MAX as usize,
                "pings a second",
                "other node",
                "not answered: pings_not_answered",
            ),
        ]
    },
};

/// Zeros behind a ping's number: no answer to it is longer.
const PADDING_LEN: usize = PING_LEN - 1 - 8;

/// What became of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingEnd {
    /// Its destination has answered.
    Answered,
    /// A node on the path says that it did not get further.
    Ended {
        /// Who says so.
        by: NodeId,
        /// Why.
        why: PathEnd,
    },
    /// Nobody has answered within [`REPLY_TIME_MAX`](super::REPLY_TIME_MAX).
    Silent,
    /// This node knows no route to its destination.
    NoRoute,
    /// Too many pings are open.
    TooMany,
}

/// A ping that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinged {
    /// What became of it.
    pub end: PingEnd,
    /// How long that took.
    pub round_trip: Duration,
}

/// A ping that is under way, or has just ended.
pub(super) struct SentPing {
    message: MessageNumber,
    tag: [u8; TAG_LEN],
    pub(super) end: PingEnd,
}

/// The last bytes of a sealed payload.
fn tag_of(payload: FrameRef<'_>) -> Option<[u8; TAG_LEN]> {
    let mut end: Vec<u8> = Vec::with_capacity(2 * TAG_LEN);
    for piece in payload.pieces() {
        end.extend_from_slice(&piece[piece.len().saturating_sub(TAG_LEN)..]);
        end.drain(..end.len().saturating_sub(TAG_LEN));
    }
    end.try_into().ok()
}

/// A node, if it was asked at all, answers a ping.
pub(super) fn take_reply(open: Option<&mut Open>) -> Taken {
    let Some(Open { asked: Asked::Ping(sent), .. }) = open else { return Taken::Ignored };
    sent.end = PingEnd::Answered;
    Taken::Whole
}

impl Parts {
    /// Sends a ping with so many hops left to a node whose home this shard is.
    pub(super) fn ping(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: u64,
        node: &NodeId,
        hops: u8,
    ) -> Result<Asked, Answer> {
        let over = |end| Answer::Ping(Pinged { end, round_trip: Duration::ZERO });
        if !self.diagnostics.has_room(Kind::Ping, id) {
            cx.counters.pings_over_bound.increment();
            return Err(over(PingEnd::TooMany));
        }
        let message = cx.next_message();
        let subject = Subject { packet_type: PacketType::BROADCAST, message };
        let packet = Packet { hops_left: hops, is_probe: true, ..cx.own_packet(node, subject, false) };
        let ping = Notice::Request(Diagnostic { kind: TRAITS.tag, id, body: vec![0; PADDING_LEN] });
        let sealed = self.seal_control(cx, node, subject, &ping.encode());
        let payload = sealed.as_ref().map(RetainedFrame::as_ref);
        let Some((payload, tag)) = payload.and_then(|payload| Some((payload, tag_of(payload)?))) else {
            return Err(over(PingEnd::NoRoute));
        };
        if !self.send_packet(cx, node, packet, payload) {
            return Err(over(PingEnd::NoRoute));
        }
        cx.counters.pings.increment();
        Ok(Asked::Ping(SentPing { message, tag, end: PingEnd::Silent }))
    }

    /// A node asks for a sign of life.
    pub(super) fn handle_ping(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        ping: &Diagnostic,
    ) {
        if ping.body.len() < PADDING_LEN {
            return cx.counters.unknown_packets.increment();
        }
        if self.admits_ping(cx, source) {
            cx.counters.pings_answered.increment();
            self.reply_to_node(cx, source, Diagnostic { body: Vec::new(), ..*ping });
        }
    }

    fn admits_ping(&mut self, cx: &mut Context<'_, impl Outbound>, source: &NodeId) -> bool {
        let admitted = self.admits_request(cx.now, source, Kind::Ping);
        if !admitted {
            cx.counters.pings_not_answered.increment();
        }
        admitted
    }

    /// A frame for another node does not get further. If it is a ping or a message, its source is told.
    pub(in crate::relay::shard) fn notify_path_ended(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        packet: &Packet,
        why: PathEnd,
        payload: FrameRef<'_>,
    ) {
        let is_told = match packet.packet_type {
            PacketType::BROADCAST => packet.is_probe && payload.len() >= FRONT_LEN + PING_LEN + TAG_LEN,
            other => other.is_amop() && why == PathEnd::NoRoute,
        };
        let Some(tag) = tag_of(payload).filter(|_| is_told) else { return };
        // Of a message for several, all of which are longer than what is told of them.
        for destination in packet.destinations.iter().map(NodeId::short) {
            let ended = PathEnded { seq: packet.message.0, why, destination, tag };
            self.send_notice(cx, packet.source, Notice::PathEnded(ended));
        }
    }

    /// Whether the source of a ping, whose home is here, is told that its path has ended at this node.
    pub(in crate::relay::shard) fn admits_path_ended(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
    ) -> bool {
        if self.peers.get(source).is_none() {
            // Whoever it says it is must be a node that can be answered.
            let known = cx.shared.snapshot.load().paths.get(source).map(|path| (path.incarnation, path.salt));
            let Some((incarnation, salt)) = known else {
                cx.counters.pings_not_answered.increment();
                return false;
            };
            self.begin_peer(cx, source, incarnation, salt);
        }
        let admitted = self.admits_ping(cx, source);
        if admitted {
            cx.counters.pings_ended.increment();
        }
        admitted
    }

    /// A node says that a ping or a message did not get beyond it.
    pub(in crate::relay::shard) fn handle_path_ended(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        by: &NodeId,
        ended: PathEnded,
    ) {
        let home = home_reactor_of(ended.destination, cx.shared.reactors);
        if home != cx.id {
            let notice = Box::new(Notice::PathEnded(ended));
            return cx.out.to_reactor(home, MeshMessage::TakeNotice { from: *by, notice }, FrameRef::EMPTY);
        }
        let found =
            self.diagnostics.open.iter_mut().find_map(|(&id, Open { node, asked, .. })| match asked {
                Asked::Ping(sent)
                    if (sent.message.0, sent.tag, node.short()) == (ended.seq, ended.tag, ended.destination)
                    // That would be no end.
                    && node != by =>
                {
                    Some((id, sent))
                }
                _ => None,
            });
        let Some((id, sent)) = found else {
            if !self.note_dropped_on_path(cx.now, ended.destination, ended.seq) {
                cx.counters.ping_answers_ignored.increment();
            }
            return;
        };
        sent.end = PingEnd::Ended { by: *by, why: ended.why };
        self.end_question(cx, id);
    }
}
