//! Finding out the route to another node, as frames really take it.
//!
//! A ping is a sealed frame with few hops left, and with a flag that says what it is. Where its hops end, a node tells its
//! source by a notice of its own; the destination answers for itself. So each answer is by who it says it is.
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

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};

use super::{Common, Context, Parts};
use crate::{
    relay::{
        MeshMessage, Outbound, Packet, home_reactor,
        ping::{ANSWER_TIME_MAX, ANSWERS_PER_SECOND_MAX, PINGS_MAX, PathEnded, PingEnd, Pinged},
        sealing::{FRONT_LEN, Subject, TAG_LEN},
        timers::{TimerKey, Timers},
    },
    wire::{
        FrameRef, NodeId,
        node::{Addressing, FLAG_PROBE, Header, PacketType},
        private::{Notice, PING_LEN, PathEnd},
    },
};

/// The pings that a shard has sent, as the home of their destinations.
pub(super) struct Pings {
    pending: AHashMap<u64, PendingPing>,
    timers: Timers<u64>,
}

struct PendingPing {
    node: NodeId,
    seq: u32,
    tag: [u8; TAG_LEN],
    since: Instant,
    timer: TimerKey,
}

/// Memory of an open ping, in bytes.
pub(super) const PING_SIZE: usize = size_of::<(u64, PendingPing)>() + 32;

impl Pings {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { pending: AHashMap::with_hasher(hashing), timers: Timers::new(ANSWER_TIME_MAX) }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    fn take(&mut self, now: Instant, number: u64) -> Option<Duration> {
        let ping = self.pending.remove(&number)?;
        self.timers.cancel(ping.timer);
        Some(now.saturating_duration_since(ping.since))
    }
}

/// The last bytes of a sealed payload.
fn tag_of(payload: FrameRef<'_>) -> Option<[u8; TAG_LEN]> {
    let end = payload.advance(payload.len().checked_sub(TAG_LEN)?);
    end.pieces().flatten().copied().collect::<Vec<u8>>().try_into().ok()
}

/// An id that begins in this way, for finding its home.
fn begun(short: u64) -> NodeId {
    let mut id = [0; NodeId::LEN];
    id[..8].copy_from_slice(&short.to_be_bytes());
    NodeId(id)
}

impl Parts {
    /// Sends a ping with so many hops left to a node whose home this shard is. [`Outbound::pinged`] follows. `number` must be
    /// drawn at random each time.
    pub(super) fn ping(&mut self, cx: &mut Context<'_, impl Outbound>, number: u64, node: NodeId, hops: u8) {
        let over = |end| Pinged { number, end, round_trip: Duration::ZERO };
        if self.pings.pending.len() >= PINGS_MAX || self.pings.pending.contains_key(&number) {
            cx.counters.pings_over_bound.increment();
            return cx.out.pinged(over(PingEnd::TooMany));
        }
        let seq = cx.next_message();
        let subject = Subject { packet_type: PacketType::BROADCAST, seq };
        let packet = Packet { hops_left: hops, is_probe: true, ..cx.own_packet(&node, subject, false) };
        let sealed = self.seal_control(cx, &node, subject, &Notice::Ping { number }.encode());
        let payload = sealed.as_deref().map(FrameRef::Slice);
        let Some((payload, tag)) = payload.and_then(|payload| Some((payload, tag_of(payload)?))) else {
            return cx.out.pinged(over(PingEnd::NoRoute));
        };
        if !self.send_packet(cx, &node, packet, payload) {
            return cx.out.pinged(over(PingEnd::NoRoute));
        }
        cx.counters.pings.increment();
        let timer = self.pings.timers.start(cx.now, number);
        self.pings.pending.insert(number, PendingPing { node, seq, tag, since: cx.now, timer });
    }

    /// A frame for another node does not get further. If it is a ping, its source is told.
    pub(super) fn notify_path_ended(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        header: &Header<'_>,
        why: PathEnd,
        payload: FrameRef<'_>,
    ) {
        let is_ping = header.packet_type == PacketType::BROADCAST
            && header.flags & FLAG_PROBE != 0
            && payload.len() >= FRONT_LEN + PING_LEN + TAG_LEN;
        // One frame, one answer.
        let Addressing::EndToEnd { source, destinations: [destination] } = header.addressing else { return };
        let Some(tag) = tag_of(payload).filter(|_| is_ping) else { return };
        let (source, seq, destination) = (&NodeId(*source), header.seq, NodeId(*destination).short());
        let notice = Notice::PathEnded { seq, why, destination, tag };
        let home = home_reactor(source, cx.shared.reactors);
        let answer = MeshMessage::AnswerProbe { source: *source, notice: Box::new(notice) };
        self.send_to_reactor(cx, home, answer, FrameRef::EMPTY);
    }

    /// Tells the source of a ping, whose home is here, that its path has ended at this node.
    pub(super) fn answer_probe(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        notice: Notice,
    ) {
        if !self.peers.by_id.contains_key(source) {
            // Whoever it says it is must be a node that can be answered.
            let incarnation = cx.shared.snapshot.load().paths.get(source).map(|path| path.incarnation);
            let Some(incarnation) = incarnation else { return cx.counters.pings_not_answered.increment() };
            self.begin_peer(cx, source, incarnation);
        }
        if self.admits_ping(cx, source) {
            cx.counters.pings_ended.increment();
            self.send_notice(cx, *source, notice);
        }
    }

    fn admits_ping(&mut self, cx: &mut Context<'_, impl Outbound>, source: &NodeId) -> bool {
        let admitted = self.peers.by_id.get_mut(source).is_some_and(|peer| {
            peer.pings.take(cx.now, Duration::from_secs(1), ANSWERS_PER_SECOND_MAX).is_some()
        });
        if !admitted {
            cx.counters.pings_not_answered.increment();
        }
        admitted
    }

    /// A node asks for a sign of life.
    pub(super) fn handle_ping(&mut self, cx: &mut Context<'_, impl Outbound>, source: &NodeId, number: u64) {
        if self.admits_ping(cx, source) {
            cx.counters.pings_answered.increment();
            self.send_notice(cx, *source, Notice::Pong { number });
        }
    }

    /// A node answers a ping. Only the one that it was for can.
    pub(super) fn handle_pong(&mut self, cx: &mut Context<'_, impl Outbound>, from: &NodeId, number: u64) {
        let is_its_own = self.pings.pending.get(&number).is_some_and(|ping| ping.node == *from);
        match is_its_own.then(|| self.pings.take(cx.now, number)).flatten() {
            Some(round_trip) => cx.out.pinged(Pinged { number, end: PingEnd::Answered, round_trip }),
            None => cx.ignore_answer(),
        }
    }

    /// A node says that a ping did not get beyond it.
    pub(super) fn handle_path_ended(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        by: &NodeId,
        ended: PathEnded,
    ) {
        let PathEnded { seq, why, destination, tag } = ended;
        let home = home_reactor(&begun(destination), cx.shared.reactors);
        if home != cx.id {
            return cx.out.to_reactor(home, MeshMessage::ProbeEnded { by: *by, ended }, FrameRef::EMPTY);
        }
        let is_this = |(_, ping): &(&u64, &PendingPing)| {
            ping.seq == seq
                && ping.tag == tag
                && ping.node.short() == destination
                // That would be no end.
                && ping.node != *by
        };
        let number = self.pings.pending.iter().find(is_this).map(|(number, _)| *number);
        let taken = number.and_then(|number| Some((number, self.pings.take(cx.now, number)?)));
        let Some((number, round_trip)) = taken else { return cx.ignore_answer() };
        cx.out.pinged(Pinged { number, end: PingEnd::Ended { by: *by, why }, round_trip });
    }

    /// Gives up on answers that did not come.
    pub(super) fn end_pings(&mut self, cx: &mut Context<'_, impl Outbound>) {
        while let Some(number) = self.pings.timers.pop_expired(cx.now) {
            if let Some(ping) = self.pings.pending.remove(&number) {
                cx.counters.pings_unanswered.increment();
                let round_trip = cx.now.saturating_duration_since(ping.since);
                cx.out.pinged(Pinged { number, end: PingEnd::Silent, round_trip });
            }
        }
    }
}

impl Common {
    fn ignore_answer(&mut self) {
        self.counters.ping_answers_ignored.increment();
    }
}
