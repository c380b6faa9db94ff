//! Frames over more than one link (WIRE §6.4): sealed for their destination, passed on from neighbour to neighbour.
//!
//! ```text
//!  home of the destination: seal ─► next hop ─► home of that neighbour: window, link
//!  link of a neighbour ─► for us? ─► home of the source: open, as if it had come over a link to it
//!                           └ else ─► next hop ─► home of that neighbour: window, link
//! ```
//!
//! # Invariants
//! - A frame never goes back to the neighbour that it came from.
//! - What waits in the window of a neighbour whose link is lost goes over another way as soon as there is one, in its
//!   order, under the same identity.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Shard, neighbour::Sent};
use crate::{
    relay::{
        Class, MeshMessage, Outbound, Packet, home_reactor,
        sealing::{FRONT_LEN, Lives, Seal, Subject, TAG_LEN},
    },
    wire::{
        FrameRef, NodeId, RetainedFrame,
        node::{
            FLAG_PROBE, FLAG_SEALED, FLAG_SENT_AGAIN, HEADER_LEN_MIN, HOPS_MAX, Header, PacketType, Route,
        },
        private::WayEnd,
    },
};

/// Frames for other nodes that wait for a way …
pub(in crate::relay) const PARKED_MAX: usize = 4_096;
/// … and bytes of them.
pub(in crate::relay) const PARKED_BYTES_MAX: usize = 16 << 20;
/// Neighbours that a frame is to go to here one after the other, while none of them can take it.
const TRIES_MAX: u8 = 4;

/// Frames for other nodes that no way leads to just now: the network has changed, and not all have heard of it.
#[derive(Default)]
pub(super) struct Parked {
    frames: VecDeque<(Instant, Packet, RetainedFrame)>,
    bytes: usize,
}

impl Parked {
    fn holds(&self, destination: &NodeId) -> bool {
        self.frames.iter().any(|(_, packet, _)| packet.destination == *destination)
    }

    /// `false` if there is no room.
    fn push(&mut self, now: Instant, packet: Packet, payload: FrameRef<'_>) -> bool {
        if self.frames.len() >= PARKED_MAX || self.bytes + payload.len() > PARKED_BYTES_MAX {
            return false;
        }
        self.bytes += payload.len();
        self.frames.push_back((now, packet, payload.retain()));
        true
    }
}

impl Packet {
    /// Its header before a payload of so many bytes.
    fn head(&self, payload_len: usize) -> SmallVec<[u8; 128]> {
        let mut head = SmallVec::new();
        let header = Header {
            packet_type: self.packet_type,
            seq: self.seq,
            hops_left: self.hops_left,
            flags: FLAG_SEALED
                | if self.again { FLAG_SENT_AGAIN } else { 0 }
                | if self.is_probe { FLAG_PROBE } else { 0 },
            route: Route::Named { source: &self.source.0, destinations: &[self.destination.0] },
        };
        header.encode_into(payload_len, &mut head);
        head
    }
}

impl Shard {
    /// Whether messages for a node can go over others.
    pub(super) fn has_way_around(&self, id: &NodeId) -> bool {
        let snapshot = self.shared.snapshot.load();
        snapshot.paths.get(id).is_some_and(|path| path.next.iter().any(|next| next != id))
    }

    /// The neighbour that a frame goes to next. All that goes to one node takes one way, so that order holds.
    fn next_hop(&self, packet: &Packet, except: Option<&NodeId>) -> Option<NodeId> {
        let snapshot = self.shared.snapshot.load();
        let path = snapshot.paths.get(&packet.destination)?;
        let can = |next: &&NodeId| Some(*next) != except && Some(*next) != packet.from.as_ref();
        let count = path.next.iter().filter(can).count();
        let [.., a, b] = packet.destination.0;
        let choice = usize::from(u16::from_be_bytes([a, b])).checked_rem(count)?;
        path.next.iter().filter(can).nth(choice).copied()
    }

    /// Sends a frame on; `false` if there is no way.
    pub(super) fn route(
        &mut self,
        now: Instant,
        packet: Packet,
        payload: FrameRef<'_>,
        except: Option<&NodeId>,
        out: &mut impl Outbound,
    ) -> bool {
        let Some(next) = self.next_hop(&packet, except) else { return false };
        let home = home_reactor(&next, self.shared.reactors);
        if home == self.id {
            self.pass(now, packet, next, payload, out);
        } else {
            let pass = MeshMessage::Pass { packet: Box::new(packet), next: Box::new(next) };
            out.to_reactor(home, pass, payload);
        }
        true
    }

    /// Sends a frame on to a neighbour whose home is here.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        mut packet: Packet,
        next: NodeId,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let link = self.neighbours.get(&next).and_then(|neighbour| neighbour.active);
        if let Some(link) = link {
            let head = packet.head(payload.len());
            if !packet.packet_type.is_amop() {
                // Lost without harm.
                if out.send(link, Class::Control, &head, payload).is_err() {
                    self.counters.dropped_control_full.increment();
                }
                return;
            }
            if !self.enqueue(now, &next, head, payload, packet.packet_type, packet.seq, Some(packet), out) {
                self.not_passed(now, &packet, payload, out);
            }
            return;
        }
        packet.tries += 1;
        if packet.tries < TRIES_MAX && self.route(now, packet, payload, Some(&next), out) {
            return;
        }
        // It may return.
        let head = packet.head(payload.len());
        if !packet.packet_type.is_amop()
            || !self.enqueue(now, &next, head, payload, packet.packet_type, packet.seq, Some(packet), out)
        {
            self.not_passed(now, &packet, payload, out);
        }
    }

    /// No neighbour could take a frame.
    pub(super) fn not_passed(
        &mut self,
        now: Instant,
        packet: &Packet,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        if packet.source != self.shared.id {
            return self.park(now, *packet, payload);
        }
        let (node, packet_type, message) = (packet.destination, packet.packet_type, packet.seq);
        let home = home_reactor(&node, self.shared.reactors);
        if home == self.id {
            self.handle_not_passed(now, &node, packet_type, message, out);
        } else {
            let told = MeshMessage::NotPassed { node: Box::new(node), packet_type, message };
            out.to_reactor(home, told, FrameRef::Slice(&[]));
        }
    }

    pub(super) fn handle_not_passed(
        &mut self,
        now: Instant,
        node: &NodeId,
        packet_type: PacketType,
        message: u32,
        out: &mut impl Outbound,
    ) {
        if packet_type == PacketType::UNICAST {
            self.fail_one(now, node, message, out);
        } else if packet_type.is_amop() {
            self.counters.dropped_window_full.increment();
        }
    }

    /// The seal for a node in the life that is known of it.
    fn seal(&mut self, id: &NodeId) -> Option<&mut Seal> {
        let own = self.shared.incarnation();
        let signer = self.shared.signer.as_ref()?;
        let peer = self.peers.get_mut(id)?;
        if peer.seal.is_none() {
            peer.seal = Seal::new(signer.share_with(*id)?, own, peer.incarnation);
        }
        peer.seal.as_mut()
    }

    /// Seals a payload for a node that is reached over others, and sends it. `None` if it is not.
    pub(super) fn send_around(
        &mut self,
        now: Instant,
        id: &NodeId,
        (packet_type, seq): (PacketType, u32),
        pieces: &[&[u8]],
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> Option<bool> {
        if !self.has_way_around(id) {
            return None;
        }
        let packet = self.packet(*id, packet_type, seq, false);
        let sealed = self.seal_payload(now, id, &packet, pieces, frame, out)?;
        let chunks = [sealed];
        let payload = FrameRef::Chunks { chunks: &chunks, skip: 0, len: chunks[0].len() };
        Some(self.route(now, packet, payload, Some(id), out))
    }

    pub(super) fn packet(
        &self,
        destination: NodeId,
        packet_type: PacketType,
        seq: u32,
        again: bool,
    ) -> Packet {
        let source = self.shared.id;
        Packet {
            source,
            destination,
            packet_type,
            seq,
            hops_left: HOPS_MAX,
            again,
            is_probe: false,
            from: None,
            tries: 0,
        }
    }

    pub(super) fn seal_payload(
        &mut self,
        now: Instant,
        id: &NodeId,
        packet: &Packet,
        pieces: &[&[u8]],
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> Option<Bytes> {
        if !self.peers.contains_key(id) {
            let incarnation = self.shared.snapshot.load().paths.get(id)?.incarnation;
            self.begin_peer(now, id, incarnation, out);
        }
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>() + frame.len();
        let mut sealed = Vec::with_capacity(FRONT_LEN + len + TAG_LEN);
        let subject = Subject { packet_type: packet.packet_type, seq: packet.seq };
        self.seal(id)?.seal(subject, pieces.iter().copied().chain(frame.pieces()), &mut sealed)?;
        Some(sealed.into())
    }

    /// A frame that names its ends came from a neighbour.
    pub(super) fn handle_named(
        &mut self,
        now: Instant,
        peer: &NodeId,
        header: &Header<'_>,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let own = self.shared.id;
        let Route::Named { source, destinations } = header.route else { return };
        let source = NodeId(*source);
        if header.flags & FLAG_SEALED == 0 || source == own {
            return self.counters.not_for_us.increment();
        }
        for destination in destinations {
            let destination = NodeId(*destination);
            if destination == own {
                let home = home_reactor(&source, self.shared.reactors);
                if home == self.id {
                    self.arrive(now, &source, header.packet_type, header.seq, payload, out);
                } else {
                    let (packet_type, seq) = (header.packet_type, header.seq);
                    let arrived = MeshMessage::Arrived { source: Box::new(source), packet_type, seq };
                    out.to_reactor(home, arrived, payload);
                }
                continue;
            }
            if !self.shared.settings.relays || header.hops_left <= 1 {
                self.counters.relay_refused.increment();
                if header.hops_left <= 1 {
                    let ends = (&source, &destination);
                    self.tell_way_ended(now, header, ends, WayEnd::HopsUsed, payload, out);
                }
                continue;
            }
            let packet = Packet {
                source,
                destination,
                packet_type: header.packet_type,
                seq: header.seq,
                hops_left: header.hops_left - 1,
                again: header.flags & FLAG_SENT_AGAIN != 0,
                is_probe: header.flags & FLAG_PROBE != 0,
                from: Some(*peer),
                tries: 0,
            };
            let elapsed = now.saturating_duration_since(self.shared.started);
            self.shared.limiter.charge(elapsed, payload.len() as u64);
            self.counters.relayed.increment();
            // None overtakes those before it.
            if self.parked.holds(&destination) || !self.route(now, packet, payload, None, out) {
                self.park(now, packet, payload);
                self.tell_way_ended(now, header, (&source, &destination), WayEnd::NoWay, payload, out);
            }
        }
    }

    /// A sealed payload for this node, at the home of its source.
    pub(super) fn arrive(
        &mut self,
        now: Instant,
        source: &NodeId,
        packet_type: PacketType,
        seq: u32,
        sealed: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let mut bytes: Vec<u8> = sealed.pieces().collect::<Vec<_>>().concat();
        let Some(lives) = Lives::of(&bytes) else { return self.counters.sealed_refused.increment() };
        let known = self.peers.get(source).map(|peer| peer.incarnation);
        if lives.destination != self.shared.incarnation() || known.is_some_and(|known| lives.source < known) {
            return self.counters.sealed_late.increment();
        }
        let subject = Subject { packet_type, seq };
        let is_new_life = known != Some(lives.source);
        let opened = if is_new_life {
            // Only what opens makes a life known.
            let signer = self.shared.signer.as_ref();
            let secret = signer.and_then(|signer| signer.share_with(*source));
            secret.and_then(|secret| Seal::new(secret, self.shared.incarnation(), lives.source)).is_some_and(
                |seal| {
                    let opens = seal.open(subject, &mut bytes).is_ok();
                    if opens {
                        self.replace_life(now, source, lives.source, out);
                        if let Some(peer) = self.peers.get_mut(source) {
                            peer.seal = Some(seal);
                        }
                    }
                    opens
                },
            )
        } else {
            self.seal(source).is_some_and(|seal| seal.open(subject, &mut bytes).is_ok())
        };
        if !opened {
            return self.counters.sealed_refused.increment();
        }
        let chunks = [Bytes::from(bytes).slice(FRONT_LEN..)];
        let len = chunks[0].len() - TAG_LEN;
        let payload = FrameRef::Chunks { chunks: &chunks, skip: 0, len };
        let header = Header::direct(packet_type, seq);
        match packet_type {
            PacketType::BROADCAST => self.handle_notice(now, source, payload, out),
            _ if packet_type.is_amop() => self.handle_amop(now, None, source, &header, payload, out),
            _ => self.counters.unknown_packets.increment(),
        }
    }

    /// Sends what waits for a neighbour over other ways, where there are some.
    pub(super) fn send_waiting_around(&mut self, now: Instant, id: &NodeId, out: &mut impl Outbound) {
        for sent in self.take_window(id) {
            let Sent { head, body, packet_type, message, packet } = sent;
            let rerouted = match packet {
                Some(packet) => {
                    let packet = Packet { again: true, tries: 0, ..packet };
                    self.route(now, packet, body.as_ref(), Some(id), out)
                }
                None if self.has_way_around(id) => {
                    let packet = self.packet(*id, packet_type, message, true);
                    let front: &[u8] = &head[HEADER_LEN_MIN..];
                    match self.seal_payload(now, id, &packet, &[front], body.as_ref(), out) {
                        Some(sealed) => {
                            let sealed = RetainedFrame::from_bytes(sealed);
                            self.route(now, packet, sealed.as_ref(), Some(id), out)
                        }
                        None => false,
                    }
                }
                None => false,
            };
            if rerouted {
                self.counters.frames_sent_again.increment();
            } else {
                self.keep_waiting(id, Sent { head, body, packet_type, message, packet });
            }
        }
    }

    /// Has a frame for another node wait for a way.
    fn park(&mut self, now: Instant, packet: Packet, payload: FrameRef<'_>) {
        if !packet.packet_type.is_amop() || !self.parked.push(now, Packet { tries: 0, ..packet }, payload) {
            return self.counters.relay_dropped.increment();
        }
        self.want_node_tick(now);
    }

    /// Sends on what was parked, if it has a way now.
    fn send_parked(&mut self, now: Instant, out: &mut impl Outbound) {
        let Parked { frames, .. } = std::mem::take(&mut self.parked);
        for (since, packet, payload) in frames {
            if self.parked.holds(&packet.destination) || !self.route(now, packet, payload.as_ref(), None, out)
            {
                self.parked.push(since, packet, payload.as_ref());
            }
        }
    }

    /// Drops what has waited for too long.
    pub(super) fn tick_parked(&mut self, now: Instant) {
        let memory = self.shared.settings.node_grace;
        while let Some((since, _, payload)) = self.parked.frames.front()
            && now.saturating_duration_since(*since) >= memory
        {
            self.parked.bytes -= payload.len();
            self.parked.frames.pop_front();
            self.counters.relay_dropped.increment();
        }
    }

    /// The ways have changed: what waits may have one now.
    pub(super) fn handle_ways_changed(&mut self, now: Instant, out: &mut impl Outbound) {
        let waiting: Vec<NodeId> = self.waiting_neighbours();
        for id in waiting {
            self.send_waiting_around(now, &id, out);
        }
        self.send_parked(now, out);
    }

    /// Whether a way leads to a node whose home is here, and to which life of it.
    pub(super) fn handle_reach(
        &mut self,
        now: Instant,
        id: &NodeId,
        incarnation: Option<u64>,
        out: &mut impl Outbound,
    ) {
        if self.is_neighbour(id) {
            // Its links tell more, and earlier.
            return;
        }
        match incarnation {
            Some(incarnation) if self.peers.get(id).is_some_and(|peer| peer.incarnation < incarnation) => {
                self.replace_life(now, id, incarnation, out);
            }
            Some(_) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.lost_since = None;
                }
            }
            None => {
                self.fail_awaiting(now, id, out);
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.lost_since = Some(now);
                    self.want_node_tick(now);
                }
            }
        }
    }
}
