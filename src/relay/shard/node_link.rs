//! Frames of node links: Hello, Ack, state, AMOP (WIRE §6.2, §6.3).

use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::{info, warn};

use super::{
    Common, Context, LinkKind, NODE_TICK, Parts,
    neighbour::LinkFacts,
    request::{FromNode, NodeRequest, RequestOf},
    round_trip::RoundTrip,
    too_long::ReadOver,
};
use crate::{
    relay::{
        Class, CloseReason, LinkKey, MeshMessage, NodeFault, Outbound, Recipients, RegistryInput, SendError,
        report::{NodeLinkState, PeerReport, RoundTripReport},
        sealing::{IncarnationId, Subject},
    },
    wire::{
        FrameRef, MessageNumber, NodeId, ResultCode,
        hello::Hello,
        node::{Addressing, Extensions, FLAG_SEALED, Header, PacketType},
        p2p_2x::Dialect,
        sdk,
    },
};

/// Version of the node link that is spoken here.
const LINK_VERSION: u16 = 2;
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
    /// Whether it is to be replaced, because its keys are used up.
    rekey_due: bool,
    /// What the peer's Hello said, once it came: its number for the link …
    pub(super) peer_link_number: Option<u64>,
    /// … and which incarnation of it there is.
    incarnation_id: Option<IncarnationId>,
    since: Instant,
    pub(super) last_received: Instant,
    pub(super) last_sent: Instant,
    /// When it was asked for a sign of life.
    probed: Option<Instant>,
    round_trip: RoundTrip,
}

impl NodeLink {
    /// Whether its first frame, if this is it, shows that a node of FISCO BCOS 2.x is there.
    pub(super) fn is_of_2x(&self, frame: FrameRef<'_>) -> bool {
        self.incarnation_id.is_none() && Dialect::of(frame.head()) == Some(Dialect::V2x)
    }

    pub(super) fn probe(&mut self, now: Instant) {
        self.probed = Some(now);
    }

    /// Since when it is there, its address, and what else people see of it.
    pub(super) fn report(&self, active: bool) -> (Instant, String, PeerReport) {
        let state = match self.peer_link_number {
            None => NodeLinkState::Greeting,
            Some(_) if active => NodeLinkState::Active,
            Some(_) => NodeLinkState::Spare,
        };
        let round_trip = self.round_trip.known().map(|(last, smoothed)| RoundTripReport { last, smoothed });
        let peer = PeerReport::Node {
            id: self.peer,
            agency: self.label.agency.clone(),
            name: self.label.name.clone(),
            dialed: self.dialed,
            state,
            round_trip,
        };
        (self.since, self.label.address.clone(), peer)
    }
}

/// What a message of another node came by.
#[derive(Clone, Copy)]
pub(super) enum Carrier {
    /// The link to the node in one incarnation of it, which is to blame for what is wrong with it.
    Link(LinkKey, IncarnationId),
    /// Others, which are to blame for nothing, or it waited for those before it since then.
    Waited { since: Instant },
}

impl Carrier {
    fn waited(self, now: Instant) -> Duration {
        match self {
            Self::Link(..) => Duration::ZERO,
            Self::Waited { since } => now.saturating_duration_since(since),
        }
    }
}

/// How a peer is shown to people.
pub(super) struct PeerLabel {
    pub(super) address: String,
    pub(super) agency: String,
    pub(super) name: String,
}

/// The node links of a shard, beside what lies with each.
pub(super) struct NodeLinks {
    started: u64,
    /// When they are looked at next.
    pub(super) next_tick: Option<Instant>,
}

impl NodeLinks {
    pub(super) fn new() -> Self {
        Self { started: 0, next_tick: None }
    }
}

impl Parts {
    pub(super) fn new_node_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: NodeId,
        dialed: bool,
        label: PeerLabel,
    ) -> NodeLink {
        let replaces = if dialed { self.link_to_replace(&peer) } else { 0 };
        self.node_links.started += 1;
        cx.counters.node_links.increment();
        self.want_node_tick(cx.now);
        NodeLink {
            peer,
            dialed,
            label,
            number: u64::from(cx.id.0) << 48 | self.node_links.started,
            replaces,
            rekey_due: false,
            peer_link_number: None,
            incarnation_id: None,
            since: cx.now,
            last_received: cx.now,
            last_sent: cx.now,
            probed: None,
            round_trip: RoundTrip::new(cx.now),
        }
    }

    /// Our number of the active link to a node if it is to be replaced; else 0.
    fn link_to_replace(&mut self, peer: &NodeId) -> u64 {
        let active = self.peers.link_to(peer);
        match active.and_then(|key| self.node_link_mut(key)) {
            Some(link) if link.rekey_due => link.number,
            _ => 0,
        }
    }

    /// The keys of a node link are worn out: whoever dialled it replaces it.
    pub(super) fn set_rekey_due(&mut self, common: &Common, key: LinkKey) {
        if let Some(link) = self.node_link_mut(key) {
            link.rekey_due = true;
            common.counters.node_links_worn.increment();
        }
    }

    /// Says Hello: the first frame of both ends.
    pub(super) fn greet(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let own = cx.shared.id;
        let Some(link) = self.node_link_mut(key) else { return };
        if link.peer == own {
            cx.out.abort(key, CloseReason::OwnId);
            return;
        }
        // A node of FISCO BCOS 2.x reads the upper half of the number as one of a group's protocols; 0 is none.
        self.send_hello(cx, key, Some(0));
    }

    fn send_hello(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, seq: Option<u32>) {
        let IncarnationId { incarnation, salt } = cx.shared.incarnation_id();
        let frame_len_max = cx.shared.settings.advertised_frame_len_max();
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
            salt: Some(salt),
        };
        self.send_control(cx, key, PacketType::HELLO, seq, &hello.encode());
    }

    /// Asks a link for a sign of life: a Hello on a link that is up is answered at once by an Ack.
    pub(super) fn probe(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        self.send_hello(cx, key, None);
    }

    /// Asks in the same way how long the round trip to the peer takes.
    fn measure(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let seq = cx.next_message().0;
        let Some(link) = self.node_link_mut(key) else { return };
        if link.round_trip.begin(cx.now, seq) {
            cx.counters.round_trips_unanswered.increment();
        }
        self.send_hello(cx, key, Some(seq));
    }

    pub(super) fn end_node_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        link: NodeLink,
        reason: CloseReason,
    ) {
        cx.counters.node_links.decrement();
        if link.peer_link_number.is_none() && cx.common.logs.nodes_misbehaved.admits(cx.now) {
            let (peer, address) = (&link.peer, &link.label.address);
            match reason {
                CloseReason::Idle
                | CloseReason::NodeFrame
                | CloseReason::FrameLength(_)
                | CloseReason::FrameUnfinished => warn!(
                    %peer, %address, %reason,
                    "a node link ended before the peer said anything that a node says; see what it runs",
                ),
                // Of two nodes that dial each other at once, one hangs up.
                _ => info!(
                    %peer, %address, %reason,
                    "a node link ended before the peer said Hello; if that goes on, see the peer's log, which may say why",
                ),
            }
        }
        self.lose_link(cx, key, &link, reason);
    }

    pub(super) fn handle_node_frame(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        cx.counters.node_frames_received.increment();
        let own = cx.shared.id;
        let Some(link) = self.node_link_mut(key) else { return };
        let peer = link.peer;
        let incarnation_id = link.incarnation_id;
        if link.probed.take().is_some() {
            self.drop_candidate_link(cx, &peer);
        }
        let (header, offset) = match Header::decode(frame.head()) {
            Ok(decoded) => decoded,
            Err(error) => return self.misbehaved(cx, key, error.into()),
        };
        let for_us = match header.addressing {
            Addressing::Direct => true,
            Addressing::EndToEnd { source, destinations } => {
                header.flags & FLAG_SEALED == 0
                    && *source == peer.0
                    && matches!(destinations, [only] if *only == own.0)
            }
        };
        let is_hello = header.packet_type == PacketType::HELLO;
        if incarnation_id.is_none() && !is_hello {
            return self.misbehaved(cx, key, NodeFault::BeforeHello);
        }
        let carrier = incarnation_id.map(|incarnation_id| Carrier::Link(key, incarnation_id));
        let payload = frame.advance(offset);
        let is_too_long = |len: &usize| {
            let message_max = cx.shared.settings.node_frame_len_max();
            *len > frame.len() || (header.packet_type.is_amop() && *len > message_max)
        };
        if let Some(len) = whole_len(frame).filter(is_too_long) {
            let carrier = carrier.filter(|_| for_us);
            return self
                .handle_read_over(cx, ReadOver { peer: &peer, carrier, header: &header, payload, len });
        }
        if header.packet_type.is_amop() {
            // Also on a link that lost against another one: the peer may not have agreed yet. What it
            // sends again on the link that stays is known by its place.
            if let Some(carrier) = carrier.filter(|_| for_us) {
                let subject = Subject { packet_type: header.packet_type, message: MessageNumber(header.seq) };
                self.handle_numbered(cx, carrier, &peer, subject, payload);
            } else {
                self.handle_end_to_end(cx, &peer, &header, payload);
            }
            return;
        }
        if !for_us {
            return self.handle_end_to_end(cx, &peer, &header, payload);
        }
        match header.packet_type {
            PacketType::HELLO => self.handle_hello(cx, key, header.seq, payload),
            PacketType::ACK => self.handle_ack(cx, key, &peer, header.seq, payload),
            PacketType::STATE_SEQ | PacketType::STATE_REQUEST | PacketType::STATE_REPLY => {
                if payload.len() > STATE_PAYLOAD_LEN_MAX {
                    return self.misbehaved(cx, key, NodeFault::StateLength);
                }
                let payload: Bytes = payload.pieces().collect::<Vec<_>>().concat().into();
                let state = RegistryInput::State {
                    from: peer,
                    packet_type: header.packet_type,
                    seq: header.seq,
                    payload,
                };
                if !cx.tell_registry(state) {
                    // The next digest shows what was missed.
                    cx.counters.state_refused.increment();
                }
            }
            PacketType::BROADCAST => self.handle_notice(cx, &peer, payload),
            _ => cx.counters.unknown_packets.increment(),
        }
    }

    pub(super) fn is_active(&self, key: LinkKey, peer: &NodeId) -> bool {
        self.peers.link_to(peer) == Some(key)
    }

    fn misbehaved(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, what: NodeFault) {
        if cx.common.logs.nodes_misbehaved.admits(cx.now)
            && let Some(link) = self.node_link_mut(key)
        {
            warn!(
                peer = %link.peer, address = %link.label.address, %what,
                "closing a node link: the peer broke the protocol; see what it runs, or put it on [certificate_blacklist]",
            );
        }
        cx.out.abort(key, CloseReason::NodeFrame);
    }

    /// What a link brought is the fault of its peer; what was sealed, of nobody on the path.
    pub(super) fn bad_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        carrier: Carrier,
        what: NodeFault,
    ) {
        match carrier {
            Carrier::Link(key, _) => self.misbehaved(cx, key, what),
            Carrier::Waited { .. } => cx.counters.sealed_refused.increment(),
        }
    }

    fn handle_hello(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        seq: u32,
        payload: FrameRef<'_>,
    ) {
        let Some(hello) = Hello::decode(payload.head()) else {
            return self.misbehaved(cx, key, NodeFault::Hello);
        };
        if hello.version_min > LINK_VERSION || hello.version_max < LINK_VERSION {
            return self.refuse_version(cx, key, (hello.version_min, hello.version_max));
        }
        let (Some(frame_len_max), Some(salt)) = (hello.frame_len_max, hello.salt) else {
            return self.misbehaved(cx, key, NodeFault::Hello);
        };
        let incarnation_id = IncarnationId { incarnation: hello.incarnation, salt };
        let Some(link) = self.node_link_mut(key) else { return };
        if link.peer_link_number.replace(hello.link_number).is_some() {
            // A probe.
            self.send_ack(cx, key, Some(seq));
            return;
        }
        link.incarnation_id = Some(incarnation_id);
        let facts = LinkFacts {
            peer: link.peer,
            incarnation_id,
            dialed: link.dialed,
            replaces: hello.replaces,
            replaces_here: link.replaces,
            frame_len_max: frame_len_max as usize,
        };
        self.settle_link(cx, key, &facts);
    }

    fn handle_ack(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        peer: &NodeId,
        seq: u32,
        payload: FrameRef<'_>,
    ) {
        let Some(&taken) = payload.head().first_chunk::<8>() else {
            return self.misbehaved(cx, key, NodeFault::Ack);
        };
        let taken_below = u64::from_be_bytes(taken);
        let active = self.is_active(key, peer);
        let Some(link) = self.node_link_mut(key) else { return };
        let round_trip = link.round_trip.finish(cx.now, seq);
        if let Some(took) = round_trip {
            cx.counters.latencies.round_trips.record(took);
        }
        if active && !self.acknowledge(cx.now, peer, taken_below) {
            self.misbehaved(cx, key, NodeFault::AckOfNothing);
        }
    }

    /// The versions of the node link that a peer speaks are not spoken here.
    fn refuse_version(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, (min, max): (u16, u16)) {
        if cx.common.logs.nodes_misbehaved.admits(cx.now)
            && let Some(link) = self.node_link_mut(key)
        {
            warn!(
                peer = %link.peer, address = %link.label.address,
                "closing a node link: the peer speaks versions {min} to {max} of it, and this node version {LINK_VERSION}; \
                 run the same release of amop on both",
            );
        }
        cx.out.close(key, CloseReason::Protocol);
    }

    /// A message whose turn it is.
    pub(super) fn handle_amop(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        carrier: Carrier,
        origin: FromNode,
        packet_type: PacketType,
        payload: FrameRef<'_>,
    ) {
        let FromNode { id: ref peer, message, .. } = origin;
        let Some((extensions, offset)) = Extensions::decode(payload.head()) else {
            return self.bad_message(cx, carrier, NodeFault::Extensions);
        };
        let frame = payload.advance(offset);
        let expected = match packet_type {
            PacketType::UNICAST => sdk::FrameType::REQUEST,
            PacketType::MULTICAST => sdk::FrameType::MULTICAST,
            PacketType::UNICAST_RESPONSE => sdk::FrameType::RESPONSE,
            _ => return self.bad_message(cx, carrier, NodeFault::NoTicket),
        };
        let inner = sdk::Header::decode(frame.head())
            .filter(|inner| inner.len as usize == frame.len() && inner.frame_type == expected);
        let Some(inner) = inner else { return self.bad_message(cx, carrier, NodeFault::InnerFrame) };
        let is_admitted = cx.admits(peer);
        if !is_admitted {
            cx.counters.not_admitted.increment();
        }
        // A unicast is answered, so that its publisher's node tries others at once.
        if !is_admitted && packet_type != PacketType::UNICAST {
            return;
        }
        if packet_type == PacketType::UNICAST_RESPONSE {
            self.handle_response(cx, peer, message, extensions.by_node, frame);
            return;
        }
        // It names but one destination: us.
        let audience = extensions.audience.as_ref().and_then(|audience| audience.first());
        let audience = audience.map(|numbers| Recipients::from_numbers(numbers, cx.shared.reactors));
        if packet_type == PacketType::MULTICAST {
            match extensions.from_2x {
                None => self.handle_multicast_of_node(cx, (peer, message), audience, frame),
                Some(sender) => self.handle_multicast_of_gateway(cx, sender, frame),
            }
            return;
        }
        let time_left = extensions
            .time_left_ms
            .map_or(cx.shared.settings.request_timeout, |ms| Duration::from_millis(ms.into()))
            .saturating_sub(carrier.waited(cx.now));
        let Extensions { may_wait, from_2x, .. } = extensions;
        let request =
            NodeRequest { origin, header: inner, is_admitted, time_left, may_wait, audience, from_2x };
        self.handle_request_of_node(cx, request, frame);
    }

    pub(super) fn handle_response(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        message: MessageNumber,
        by_node: bool,
        frame: FrameRef<'_>,
    ) {
        let is_timeout =
            || sdk::Header::decode(frame.head()).is_some_and(|header| header.result == ResultCode::TIMEOUT);
        let may_follow = by_node && is_timeout();
        let Some(RequestOf { coordinator, id: request }) = self.take_awaiting(peer, message, may_follow)
        else {
            cx.counters.late_answers.increment();
            return;
        };
        // Each answer of another node takes this path, so none becomes a message that stays at its reactor.
        if coordinator == cx.id {
            self.answer_from_node(cx, request, message, by_node, frame);
        } else {
            cx.out.to_reactor(coordinator, MeshMessage::ForwardAnswer { request, message, by_node }, frame);
        }
    }

    /// Acknowledges what was taken of the peer, and shows that this node lives. `answers` is the Seq of the Hello that asks
    /// for it.
    pub(super) fn send_ack(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        answers: Option<u32>,
    ) {
        let Some(peer) = self.node_link_mut(key).map(|link| link.peer) else { return };
        // On a link that does not carry everything yet it is not known what the peer knows of its messages.
        let is_active = self.is_active(key, &peer);
        let taken_below = if is_active { self.taken_below(&peer) } else { 0 };
        // One that was not taken is due with the next message, or with the next sign of life.
        if self.send_control(cx, key, PacketType::ACK, answers, &taken_below.to_be_bytes()) && is_active {
            self.note_ack_sent(&peer);
        }
    }

    pub(super) fn send_state(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        to: &NodeId,
        packet_type: PacketType,
        seq: Option<u32>,
        payload: &[u8],
    ) {
        if let Some(link) = self.peers.link_to(to) {
            self.send_control(cx, link, packet_type, seq, payload);
        }
    }

    /// Sends a control frame; `false` if the link did not take it.
    fn send_control(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        packet_type: PacketType,
        seq: Option<u32>,
        payload: &[u8],
    ) -> bool {
        let seq = seq.unwrap_or_else(|| cx.next_message().0);
        let mut head = SmallVec::new();
        Header::direct(packet_type, seq).encode_into(payload.len(), &mut head);
        match cx.out.send(key, Class::Control, &head, FrameRef::Slice(payload)) {
            Ok(_) => {
                cx.counters.node_frames_sent.increment();
                if let Some(link) = self.node_link_mut(key) {
                    link.last_sent = cx.now;
                }
                true
            }
            Err(SendError::Full) => {
                cx.counters.dropped_control_full.increment();
                false
            }
            Err(SendError::Gone) => false,
        }
    }

    pub(super) fn want_node_tick(&mut self, now: Instant) {
        self.node_links.next_tick.get_or_insert(now + NODE_TICK);
    }

    /// Keeps links alive, and finds the dead.
    pub(super) fn tick_nodes(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let settings = &cx.shared.settings;
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
                link.peer_link_number.is_none() && cx.now.saturating_duration_since(link.since) >= dead_after;
            if greeting_overdue || cx.now.saturating_duration_since(link.last_received) >= dead_after {
                dead.push(key);
                continue;
            }
            if link.peer_link_number.is_some() && link.round_trip.is_due(cx.now) {
                unmeasured.push(key);
            }
            if cx.now.saturating_duration_since(link.last_sent) + NODE_TICK >= keepalive {
                quiet.push(key);
            }
        }
        for key in dead {
            if cx.common.logs.nodes_down.admits(cx.now)
                && let Some(link) = self.node_link_mut(key)
            {
                warn!(
                    peer = %link.peer, address = %link.label.address,
                    "nothing heard from a node for {dead_after:?}: see whether it runs, and the network between",
                );
            }
            cx.counters.closed_dead.increment();
            cx.out.abort(key, CloseReason::Idle);
        }
        for key in quiet {
            self.send_ack(cx, key, None);
        }
        for key in unmeasured {
            self.measure(cx, key);
        }
        self.tick_neighbours(cx);
        self.tick_peers(cx);
        self.tick_channels(cx);
        self.node_links.next_tick = None;
        if cx.counters.node_links.get() > 0 || self.peers.iter().any(|(_, peer)| peer.needs_looks()) {
            self.want_node_tick(cx.now);
        }
    }
}

/// Length of a frame as it says itself.
fn whole_len(frame: FrameRef<'_>) -> Option<usize> {
    frame.head().first_chunk().map(|len| u32::from_be_bytes(*len) as usize)
}

#[cfg(test)]
mod tests;
