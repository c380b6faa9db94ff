//! Finding out the way to another node, as frames really take it.
//!
//! A ping is a sealed frame with few hops left, and with a flag that says what it is. Where its hops end, a node tells its
//! source by a notice of its own; the destination answers for itself. So each answer is by who it says it is.
//!
//! ```text
//!   home of the destination: seal, hops 1, 2, 3 … ─► as any frame (route)
//!   link of a neighbour ─► hops used up, or no way on ─► home of the source: allowance, notice
//!   home of who answers ─► home of the destination: matched with the ping
//! ```
//!
//! # Invariants
//! - An answer counts once: of the destination with the number that nobody else has seen, or of another node with the
//!   end of the frame, which only nodes on its way have seen.
//! - Nothing is answered to an answer: those are not flagged.

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};

use super::Shard;
use crate::{
    relay::{
        MeshMessage, Outbound, Packet, home_reactor,
        ping::{ANSWER_TIME_MAX, ANSWERS_PER_SECOND_MAX, PINGS_MAX, PingEnd, Pinged},
        sealing::{FRONT_LEN, Subject, TAG_LEN},
        timers::{TimerKey, Timers},
    },
    wire::{
        FrameRef, NodeId,
        node::{FLAG_PROBE, Header, PacketType, Route},
        private::{Notice, PING_LEN, WayEnd},
    },
};

/// The pings that a shard has sent, as the home of their destinations.
pub(super) struct Pings {
    open: AHashMap<u64, Open>,
    timers: Timers<u64>,
}

struct Open {
    node: NodeId,
    seq: u32,
    tag: [u8; TAG_LEN],
    since: Instant,
    timer: TimerKey,
}

/// Memory of an open ping, in bytes.
pub(super) const PING_SIZE: usize = size_of::<(u64, Open)>() + 32;

impl Pings {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { open: AHashMap::with_hasher(hashing), timers: Timers::new(ANSWER_TIME_MAX) }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    fn take(&mut self, now: Instant, number: u64) -> Option<Duration> {
        let open = self.open.remove(&number)?;
        self.timers.cancel(open.timer);
        Some(now.saturating_duration_since(open.since))
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

impl Shard {
    /// Sends a ping with so many hops left to a node whose home this shard is. [`Outbound::pinged`] follows. `number` must be
    /// drawn at random each time.
    pub fn ping(&mut self, now: Instant, number: u64, node: NodeId, hops: u8, out: &mut impl Outbound) {
        let over = |end| Pinged { number, end, round_trip: Duration::ZERO };
        if self.pings.open.len() >= PINGS_MAX || self.pings.open.contains_key(&number) {
            self.counters.pings_over_bound.increment();
            return out.pinged(over(PingEnd::TooMany));
        }
        let seq = self.next_message();
        let subject = Subject { packet_type: PacketType::BROADCAST, seq };
        let packet = Packet { hops_left: hops, is_probe: true, ..self.own_packet(&node, subject, false) };
        let sealed = self.seal_control(now, &node, subject, &Notice::Ping { number }.encode(), out);
        let payload = sealed.as_deref().map(FrameRef::Slice);
        let Some((payload, tag)) = payload.and_then(|payload| Some((payload, tag_of(payload)?))) else {
            return out.pinged(over(PingEnd::NoWay));
        };
        if !self.send_packet(now, &node, packet, payload, out) {
            return out.pinged(over(PingEnd::NoWay));
        }
        self.counters.pings.increment();
        let timer = self.pings.timers.start(now, number);
        self.pings.open.insert(number, Open { node, seq, tag, since: now, timer });
    }

    /// A frame for another node does not get further. If it is a ping, its source is told.
    pub(super) fn tell_way_ended(
        &mut self,
        now: Instant,
        header: &Header<'_>,
        why: WayEnd,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let is_ping = header.packet_type == PacketType::BROADCAST
            && header.flags & FLAG_PROBE != 0
            && payload.len() >= FRONT_LEN + PING_LEN + TAG_LEN;
        // One frame, one answer.
        let Route::Named { source, destinations: [destination] } = header.route else { return };
        let Some(tag) = tag_of(payload).filter(|_| is_ping) else { return };
        let (source, seq, destination) = (&NodeId(*source), header.seq, NodeId(*destination).short());
        let notice = Notice::WayEnded { seq, why, destination, tag };
        let home = home_reactor(source, self.shared.reactors);
        if home == self.id {
            return self.answer_probe(now, source, notice, out);
        }
        let answer = MeshMessage::AnswerProbe { source: Box::new(*source), notice: Box::new(notice) };
        out.to_reactor(home, answer, FrameRef::Slice(&[]));
    }

    /// Tells the source of a ping, whose home is here, that its way has ended at this node.
    pub(super) fn answer_probe(
        &mut self,
        now: Instant,
        source: &NodeId,
        notice: Notice,
        out: &mut impl Outbound,
    ) {
        if !self.peers.contains_key(source) {
            // Whoever it says it is must be a node that can be answered.
            let incarnation = self.shared.snapshot.load().paths.get(source).map(|path| path.incarnation);
            let Some(incarnation) = incarnation else { return self.counters.pings_not_answered.increment() };
            self.begin_peer(now, source, incarnation, out);
        }
        if self.admits_ping(now, source) {
            self.counters.pings_ended.increment();
            self.send_notice(now, *source, notice, out);
        }
    }

    fn admits_ping(&mut self, now: Instant, source: &NodeId) -> bool {
        let admitted = self.peers.get_mut(source).is_some_and(|peer| {
            peer.pings.take(now, Duration::from_secs(1), ANSWERS_PER_SECOND_MAX).is_some()
        });
        if !admitted {
            self.counters.pings_not_answered.increment();
        }
        admitted
    }

    /// A node asks for a sign of life.
    pub(super) fn handle_ping(
        &mut self,
        now: Instant,
        source: &NodeId,
        number: u64,
        out: &mut impl Outbound,
    ) {
        if self.admits_ping(now, source) {
            self.counters.pings_answered.increment();
            self.send_notice(now, *source, Notice::Pong { number }, out);
        }
    }

    /// A node answers a ping. Only the one that it was for can.
    pub(super) fn handle_pong(&mut self, now: Instant, from: &NodeId, number: u64, out: &mut impl Outbound) {
        let is_its_own = self.pings.open.get(&number).is_some_and(|open| open.node == *from);
        match is_its_own.then(|| self.pings.take(now, number)).flatten() {
            Some(round_trip) => out.pinged(Pinged { number, end: PingEnd::Answered, round_trip }),
            None => self.ignore_answer(),
        }
    }

    /// A node says that a ping did not get beyond it.
    pub(super) fn handle_way_ended(
        &mut self,
        now: Instant,
        by: &NodeId,
        (seq, why, destination, tag): (u32, WayEnd, u64, [u8; TAG_LEN]),
        out: &mut impl Outbound,
    ) {
        let home = home_reactor(&begun(destination), self.shared.reactors);
        if home != self.id {
            let ended = MeshMessage::ProbeEnded { by: Box::new(*by), seq, why, destination, tag };
            return out.to_reactor(home, ended, FrameRef::Slice(&[]));
        }
        let is_this = |(_, open): &(&u64, &Open)| {
            open.seq == seq
                && open.tag == tag
                && open.node.short() == destination
                // That would be no end.
                && open.node != *by
        };
        let number = self.pings.open.iter().find(is_this).map(|(number, _)| *number);
        let taken = number.and_then(|number| Some((number, self.pings.take(now, number)?)));
        let Some((number, round_trip)) = taken else { return self.ignore_answer() };
        out.pinged(Pinged { number, end: PingEnd::Ended { by: *by, why }, round_trip });
    }

    fn ignore_answer(&mut self) {
        self.counters.ping_answers_ignored.increment();
    }

    /// Gives up on answers that did not come.
    pub(super) fn end_pings(&mut self, now: Instant, out: &mut impl Outbound) {
        while let Some(number) = self.pings.timers.pop_expired(now) {
            if let Some(open) = self.pings.open.remove(&number) {
                self.counters.pings_unanswered.increment();
                let round_trip = now.saturating_duration_since(open.since);
                out.pinged(Pinged { number, end: PingEnd::Silent, round_trip });
            }
        }
    }
}
