//! Frames of node links: Hello, Ack, state, AMOP (WIRE §6.2, §6.3).

use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::{info, warn};

use super::{
    AckDue, LinkKind, NODE_TICK, Shard, neighbour::LinkFacts, peer::Peer, request::Origin,
    round_trip::RoundTrip,
};
use crate::{
    relay::{
        Class, CloseReason, LinkKey, MeshMessage, Named, Outbound, RegistryInput, SendError,
        report::{LinkReport, NodeLinkState, PeerReport, RoundTripReport},
        timers::TimerKey,
    },
    wire::{
        FrameRef, NodeId, ResultCode,
        hello::Hello,
        node::{Extensions, FLAG_SEALED, Header, PacketType, Route},
        sdk,
    },
};

/// Version of the node link that is spoken here.
const LINK_VERSION: u16 = 1;
/// Longest payload of a state frame that is passed to the registry.
pub(in crate::relay) const STATE_PAYLOAD_LEN_MAX: usize = 2 << 20;

/// One link to another node.
pub(super) struct NodeLink {
    pub(super) peer: NodeId,
    pub(super) dialed: bool,
    pub(super) label: PeerLabel,
    /// Our number for the link.
    pub(super) number: u64,
    /// Our number of the link that this one, dialled here, replaces; 0 if none.
    replaces: u64,
    /// Whether it is to be replaced, because its keys are worn out.
    is_worn: bool,
    /// The peer's number for it, once its Hello came.
    pub(super) peer_link_number: Option<u64>,
    since: Instant,
    pub(super) last_received: Instant,
    pub(super) last_sent: Instant,
    /// When it was asked for a sign of life.
    probed: Option<Instant>,
    round_trip: RoundTrip,
    /// AMOP frames taken from it since it came up.
    taken: u64,
    /// How many of them the peer was told.
    acknowledged: u64,
    unacknowledged_bytes: usize,
    ack_timer: Option<TimerKey>,
    /// How many of ours the peer told us.
    acknowledged_by_peer: u64,
}

impl NodeLink {
    pub(super) fn probe(&mut self, now: Instant) {
        self.probed = Some(now);
    }

    pub(super) fn report(&self, key: LinkKey, active: bool) -> LinkReport {
        let state = match self.peer_link_number {
            None => NodeLinkState::Greeting,
            Some(_) if active => NodeLinkState::Active,
            Some(_) => NodeLinkState::Spare,
        };
        LinkReport {
            key,
            since: self.since,
            address: self.label.address.clone(),
            peer: PeerReport::Node {
                id: self.peer,
                dialed: self.dialed,
                state,
                round_trip: self
                    .round_trip
                    .known()
                    .map(|(last, smoothed)| RoundTripReport { last, smoothed }),
            },
        }
    }
}

/// How a message of another node came.
#[derive(Clone, Copy)]
pub(super) enum Came {
    /// Over the link to the node.
    OverLink(LinkKey),
    /// Over others. It may have waited here since then for those before it.
    Sealed { since: Instant },
}

impl Came {
    fn waited(self, now: Instant) -> Duration {
        match self {
            Self::OverLink(_) => Duration::ZERO,
            Self::Sealed { since } => now.saturating_duration_since(since),
        }
    }
}

/// How a peer is shown to people.
pub(super) struct PeerLabel {
    pub(super) address: String,
    pub(super) agency: String,
    pub(super) name: String,
}

impl Shard {
    pub(super) fn new_node_link(
        &mut self,
        now: Instant,
        peer: NodeId,
        dialed: bool,
        label: PeerLabel,
    ) -> NodeLink {
        let replaces = if dialed { self.worn_link_to(&peer) } else { 0 };
        self.node_links_started += 1;
        self.counters.node_links.increment();
        self.want_node_tick(now);
        NodeLink {
            peer,
            dialed,
            label,
            number: u64::from(self.id.0) << 48 | self.node_links_started,
            replaces,
            is_worn: false,
            peer_link_number: None,
            since: now,
            last_received: now,
            last_sent: now,
            probed: None,
            round_trip: RoundTrip::new(now),
            taken: 0,
            acknowledged: 0,
            unacknowledged_bytes: 0,
            ack_timer: None,
            acknowledged_by_peer: 0,
        }
    }

    /// Our number of the active link to a node if it is to be replaced; else 0.
    fn worn_link_to(&mut self, peer: &NodeId) -> u64 {
        let active = self.neighbours.get(peer).and_then(|neighbour| neighbour.active);
        match active.and_then(|key| self.node_link_mut(key)) {
            Some(link) if link.is_worn => link.number,
            _ => 0,
        }
    }

    /// The keys of a node link are worn out: whoever dialled it replaces it.
    pub(super) fn wear_node_link(&mut self, key: LinkKey) {
        if let Some(link) = self.node_link_mut(key) {
            link.is_worn = true;
            self.counters.node_links_worn.increment();
        }
    }

    /// Says Hello: the first frame of both ends.
    pub(super) fn greet(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        let own = self.shared.id;
        let Some(link) = self.node_link_mut(key) else { return };
        if link.peer == own {
            out.abort(key, CloseReason::OwnId);
            return;
        }
        self.send_hello(now, key, None, out);
    }

    fn send_hello(&mut self, now: Instant, key: LinkKey, seq: Option<u32>, out: &mut impl Outbound) {
        let incarnation = self.shared.incarnation();
        let frame_len_max = self.shared.settings.told_frame_len_max();
        let Some(link) = self.node_link_mut(key) else { return };
        let hello = Hello {
            version_min: LINK_VERSION,
            version_max: LINK_VERSION,
            features: 0,
            incarnation,
            lane: 0,
            link_number: link.number,
            replaces: link.replaces,
            frame_len_max: Some(frame_len_max),
        };
        self.send_control(now, key, PacketType::HELLO, seq, &hello.encode(), out);
    }

    /// Asks a link for a sign of life: a Hello on a link that is up is answered at once by an Ack.
    pub(super) fn probe(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        self.send_hello(now, key, None, out);
    }

    /// Asks in the same way how long the way to the peer and back takes.
    fn measure(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        let seq = self.next_message();
        let Some(link) = self.node_link_mut(key) else { return };
        if link.round_trip.begin(now, seq) {
            self.counters.round_trips_unanswered.increment();
        }
        self.send_hello(now, key, Some(seq), out);
    }

    pub(super) fn end_node_link(
        &mut self,
        now: Instant,
        key: LinkKey,
        mut link: NodeLink,
        reason: CloseReason,
        out: &mut impl Outbound,
    ) {
        self.counters.node_links.decrement();
        if link.peer_link_number.is_none() && self.logs.nodes_misbehaved.admits(now) {
            let (peer, address) = (&link.peer, &link.label.address);
            match reason {
                CloseReason::Idle
                | CloseReason::NodeFrame
                | CloseReason::FrameLength(_)
                | CloseReason::FrameUnfinished => warn!(
                    %peer, %address, %reason,
                    "a node link ended before the peer said Hello; nodes of FISCO BCOS 2.x do not, and cannot be peers yet",
                ),
                // Of two nodes that dial each other at once, one hangs up.
                _ => info!(
                    %peer, %address, %reason,
                    "a node link ended before the peer said Hello; if that goes on, see the peer's log, which may say why",
                ),
            }
        }
        if let Some(timer) = link.ack_timer.take() {
            self.ack_timers.cancel(timer);
        }
        self.lose_link(now, key, &link, reason, out);
    }

    pub(super) fn handle_node_frame(
        &mut self,
        now: Instant,
        key: LinkKey,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        self.counters.node_frames_received.increment();
        let own = self.shared.id;
        let Some(link) = self.node_link_mut(key) else { return };
        let peer = link.peer;
        let greeted = link.peer_link_number.is_some();
        if link.probed.take().is_some() {
            self.drop_rival(&peer, out);
        }
        let (header, offset) = match Header::decode(frame.head()) {
            Ok(decoded) => decoded,
            Err(error) => return self.misbehaved(now, key, &error.to_string(), out),
        };
        let for_us = match header.route {
            Route::Direct => true,
            Route::Named { source, destinations } => {
                header.flags & FLAG_SEALED == 0
                    && *source == peer.0
                    && matches!(destinations, [only] if *only == own.0)
            }
        };
        let is_hello = header.packet_type == PacketType::HELLO;
        if !greeted && !is_hello {
            return self.misbehaved(now, key, "a frame before its Hello", out);
        }
        let payload = frame.advance(offset);
        let is_too_long = |len: &usize| {
            let message_max = self.shared.settings.node_frame_len_max();
            *len > frame.len() || (header.packet_type.is_amop() && *len > message_max)
        };
        if let Some(len) = whole_len(frame).filter(is_too_long) {
            return self.handle_read_over(now, key, (&peer, for_us), &header, (payload, len), out);
        }
        if header.packet_type.is_amop() {
            // Also on a link that lost against another one: the peer may not have agreed yet. What it
            // sends again on the link that stays is known by its identity.
            if for_us {
                self.handle_amop(now, Came::OverLink(key), &peer, &header, payload, out);
            } else {
                self.handle_named(now, &peer, &header, payload, out);
            }
            self.note_taken(now, key, frame.len(), out);
            return;
        }
        if !for_us {
            return self.handle_named(now, &peer, &header, payload, out);
        }
        match header.packet_type {
            PacketType::HELLO => self.handle_hello(now, key, header.seq, payload, out),
            PacketType::ACK => self.handle_ack(now, key, &peer, header.seq, payload, out),
            PacketType::STATE_SEQ | PacketType::STATE_REQUEST | PacketType::STATE_REPLY => {
                if payload.len() > STATE_PAYLOAD_LEN_MAX {
                    return self.misbehaved(now, key, "a state frame beyond the bound", out);
                }
                let payload: Bytes = payload.pieces().collect::<Vec<_>>().concat().into();
                let state = RegistryInput::State {
                    from: peer,
                    packet_type: header.packet_type,
                    seq: header.seq,
                    payload,
                };
                if !self.to_registry(state, out) {
                    // The next digest shows what was missed.
                    self.counters.state_refused.increment();
                }
            }
            PacketType::BROADCAST => self.handle_notice(now, &peer, payload, out),
            _ => self.counters.unknown_packets.increment(),
        }
    }

    pub(super) fn is_active(&self, key: LinkKey, peer: &NodeId) -> bool {
        self.neighbours.get(peer).is_some_and(|neighbour| neighbour.active == Some(key))
    }

    fn misbehaved(&mut self, now: Instant, key: LinkKey, what: &str, out: &mut impl Outbound) {
        if self.logs.nodes_misbehaved.admits(now)
            && let Some(link) = self.node_link_mut(key)
        {
            warn!(
                peer = %link.peer, address = %link.label.address, what,
                "closing a node link: the peer broke the protocol; see what it runs, or put it on [certificate_blacklist]",
            );
        }
        out.abort(key, CloseReason::NodeFrame);
    }

    /// What a link brought is the fault of its peer; what was sealed, of nobody on the way.
    fn bad_amop(&mut self, now: Instant, came: Came, what: &str, out: &mut impl Outbound) {
        match came {
            Came::OverLink(key) => self.misbehaved(now, key, what, out),
            Came::Sealed { .. } => self.counters.sealed_refused.increment(),
        }
    }

    fn handle_hello(
        &mut self,
        now: Instant,
        key: LinkKey,
        seq: u32,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some(hello) = Hello::decode(payload.head()) else {
            return self.misbehaved(now, key, "a malformed Hello", out);
        };
        if hello.version_min > LINK_VERSION || hello.version_max < LINK_VERSION {
            out.close(key, CloseReason::Protocol);
            return;
        }
        let Some(link) = self.node_link_mut(key) else { return };
        if link.peer_link_number.replace(hello.link_number).is_some() {
            // A probe.
            self.send_ack(now, key, Some(seq), out);
            return;
        }
        let facts = LinkFacts {
            peer: link.peer,
            incarnation: hello.incarnation,
            dialed: link.dialed,
            replaces: hello.replaces,
            replaces_here: link.replaces,
            frame_len_max: hello.frame_len_max.map_or(sdk::FRAME_LEN_MAX, |len| len as usize),
        };
        self.settle_link(now, key, &facts, out);
    }

    fn handle_ack(
        &mut self,
        now: Instant,
        key: LinkKey,
        peer: &NodeId,
        seq: u32,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some(&taken) = payload.head().first_chunk::<8>() else {
            return self.misbehaved(now, key, "a malformed Ack", out);
        };
        let taken = u64::from_be_bytes(taken);
        let active = self.is_active(key, peer);
        let Some(link) = self.node_link_mut(key) else { return };
        let round_trip = link.round_trip.finish(now, seq);
        if let Some(took) = round_trip {
            self.counters.latencies.round_trips.record(took);
        }
        let Some(link) = self.node_link_mut(key) else { return };
        if !active || taken == link.acknowledged_by_peer {
            return;
        }
        let count = taken.checked_sub(link.acknowledged_by_peer);
        link.acknowledged_by_peer = taken;
        if !count.is_some_and(|count| self.acknowledge(peer, count, out)) {
            self.misbehaved(now, key, "an Ack of frames that were never sent", out);
        }
    }

    pub(super) fn handle_amop(
        &mut self,
        now: Instant,
        came: Came,
        peer: &NodeId,
        header: &Header<'_>,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some((extensions, offset)) = Extensions::decode(payload.head()) else {
            return self.bad_amop(now, came, "malformed extensions", out);
        };
        let frame = payload.advance(offset);
        let expected = match header.packet_type {
            PacketType::UNICAST => sdk::FrameType::REQUEST,
            PacketType::MULTICAST => sdk::FrameType::MULTICAST,
            PacketType::UNICAST_RESPONSE => sdk::FrameType::RESPONSE,
            _ => return self.bad_amop(now, came, "a multicast for several nodes without its ticket", out),
        };
        match sdk::Header::decode(frame.head()) {
            Some(inner) if inner.len as usize == frame.len() && inner.frame_type == expected => {}
            _ => return self.bad_amop(now, came, "an AMOP frame that lies about its length or type", out),
        }
        let is_admitted = self.admits(peer);
        if !is_admitted {
            self.counters.not_admitted.increment();
        }
        // A unicast is answered, so that its publisher's node tries others at once.
        if !is_admitted && header.packet_type != PacketType::UNICAST {
            return;
        }
        if header.packet_type == PacketType::UNICAST_RESPONSE {
            self.handle_response(now, peer, header.seq, extensions.by_node, frame, out);
            return;
        }
        let Some(incarnation) = self.take_new_message(now, peer, header.packet_type, header.seq) else {
            return;
        };
        // It names but one destination: us.
        let audience = extensions.audience.as_ref().and_then(|audience| audience.first());
        let audience = audience.map(|numbers| Named::from_numbers(numbers, self.shared.reactors));
        if header.packet_type == PacketType::MULTICAST {
            self.handle_multicast_of_node(now, (peer, header.seq), audience, frame, out);
            return;
        }
        let time_left = extensions
            .time_left_ms
            .map_or(self.shared.settings.request_timeout, |ms| Duration::from_millis(ms.into()))
            .saturating_sub(came.waited(now));
        let origin = Origin::Node { id: *peer, incarnation, message: header.seq };
        let time_left = (time_left, extensions.may_wait);
        self.handle_request_of_node(now, origin, time_left, audience, frame, out);
    }

    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        peer: &NodeId,
        message: u32,
        by_node: bool,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let result = sdk::Header::decode(frame.head()).map(|header| header.result);
        let may_follow = by_node && result == Some(ResultCode::TIMEOUT);
        let Some((coordinator, request)) = self.take_awaiting(peer, message, may_follow) else {
            self.counters.late_answers.increment();
            return;
        };
        if coordinator == self.id {
            self.answer_from_node(now, request, message, by_node, frame, out);
        } else {
            out.to_reactor(coordinator, MeshMessage::ForwardAnswer { request, message, by_node }, frame);
        }
    }

    /// Counts a frame as taken, and acknowledges when it is time.
    pub(super) fn note_taken(&mut self, now: Instant, key: LinkKey, len: usize, out: &mut impl Outbound) {
        let (frames_max, bytes_max) =
            (self.shared.settings.ack_frames_max, self.shared.settings.ack_bytes_max);
        let Some(link) = self.node_link_mut(key) else { return };
        link.taken += 1;
        link.unacknowledged_bytes += len;
        if link.taken - link.acknowledged >= frames_max || link.unacknowledged_bytes >= bytes_max {
            self.send_ack(now, key, None, out);
        } else if link.ack_timer.is_none() {
            let timer = self.ack_timers.start(now, AckDue::Link(key));
            if let Some(link) = self.node_link_mut(key) {
                link.ack_timer = Some(timer);
            }
        }
    }

    pub(super) fn send_due_ack(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        if let Some(link) = self.node_link_mut(key) {
            link.ack_timer = None;
            self.send_ack(now, key, None, out);
        }
    }

    /// `answers` is the Seq of the Hello that asks for it.
    fn send_ack(&mut self, now: Instant, key: LinkKey, answers: Option<u32>, out: &mut impl Outbound) {
        let Some(link) = self.node_link_mut(key) else { return };
        let taken = link.taken;
        if let Some(timer) = link.ack_timer.take() {
            self.ack_timers.cancel(timer);
        }
        // One that was not taken is due with the next frame, or with the next sign of life.
        if self.send_control(now, key, PacketType::ACK, answers, &taken.to_be_bytes(), out)
            && let Some(link) = self.node_link_mut(key)
        {
            link.acknowledged = taken;
            link.unacknowledged_bytes = 0;
        }
    }

    pub(super) fn send_state(
        &mut self,
        now: Instant,
        to: &NodeId,
        packet_type: PacketType,
        seq: Option<u32>,
        payload: &[u8],
        out: &mut impl Outbound,
    ) {
        if let Some(link) = self.neighbours.get(to).and_then(|neighbour| neighbour.active) {
            self.send_control(now, link, packet_type, seq, payload, out);
        }
    }

    /// Sends a control frame; `false` if the link did not take it.
    fn send_control(
        &mut self,
        now: Instant,
        key: LinkKey,
        packet_type: PacketType,
        seq: Option<u32>,
        payload: &[u8],
        out: &mut impl Outbound,
    ) -> bool {
        let seq = seq.unwrap_or_else(|| self.next_message());
        let mut head = SmallVec::new();
        Header::direct(packet_type, seq).encode_into(payload.len(), &mut head);
        match out.send(key, Class::Control, &head, FrameRef::Slice(payload)) {
            Ok(_) => {
                self.counters.node_frames_sent.increment();
                if let Some(link) = self.node_link_mut(key) {
                    link.last_sent = now;
                }
                true
            }
            Err(SendError::Full) => {
                self.counters.dropped_control_full.increment();
                false
            }
            Err(SendError::Gone) => false,
        }
    }

    pub(super) fn want_node_tick(&mut self, now: Instant) {
        self.next_node_tick.get_or_insert(now + NODE_TICK);
    }

    /// Keeps links alive, and finds the dead.
    pub(super) fn tick_nodes(&mut self, now: Instant, out: &mut impl Outbound) {
        let settings = &self.shared.settings;
        let (keepalive, dead_after) = (settings.keepalive_interval, settings.dead_after);
        let mut quiet: SmallVec<[LinkKey; 8]> = SmallVec::new();
        let mut dead: SmallVec<[LinkKey; 8]> = SmallVec::new();
        let mut unmeasured: SmallVec<[LinkKey; 8]> = SmallVec::new();
        let node_links = self.links.iter().enumerate().filter_map(|(index, link)| match link {
            Some(super::Link { generation, kind: LinkKind::Node(link) }) => {
                Some((LinkKey { index: index as u32, generation: *generation }, link))
            }
            _ => None,
        });
        for (key, link) in node_links {
            let greeting_overdue =
                link.peer_link_number.is_none() && now.saturating_duration_since(link.since) >= dead_after;
            if greeting_overdue || now.saturating_duration_since(link.last_received) >= dead_after {
                dead.push(key);
                continue;
            }
            if link.peer_link_number.is_some() && link.round_trip.is_due(now) {
                unmeasured.push(key);
            }
            if now.saturating_duration_since(link.last_sent) + NODE_TICK >= keepalive {
                quiet.push(key);
            }
        }
        for key in dead {
            if self.logs.nodes_down.admits(now)
                && let Some(link) = self.node_link_mut(key)
            {
                warn!(
                    peer = %link.peer, address = %link.label.address,
                    "nothing heard from a node for {dead_after:?}: see whether it runs, and the network between",
                );
            }
            self.counters.closed_dead.increment();
            out.abort(key, CloseReason::Idle);
        }
        for key in quiet {
            self.send_ack(now, key, None, out);
        }
        for key in unmeasured {
            self.measure(now, key, out);
        }
        self.tick_neighbours(now, out);
        self.tick_peers(now, out);
        self.tick_parked(now);
        self.tick_channels(now, out);
        self.next_node_tick = None;
        if self.counters.node_links.get() > 0
            || !self.neighbours.is_empty()
            || !self.parked.is_empty()
            || self.peers.values().any(Peer::needs_looks)
        {
            self.want_node_tick(now);
        }
    }
}

/// Length of a frame as it says itself.
fn whole_len(frame: FrameRef<'_>) -> Option<usize> {
    frame.head().first_chunk().map(|len| u32::from_be_bytes(*len) as usize)
}

#[cfg(test)]
mod tests;
