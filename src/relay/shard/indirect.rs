//! Indirect messages: those to and from nodes that are no neighbours (WIRE §6.4). Each goes into the channel with its node,
//! sealed, and stays there until that node has acknowledged it.
//!
//! # Invariants
//! - Unacknowledged messages of a channel are sent again when a node on the path is lost, when no neighbour could take
//!   them, and when the retransmit timeout passes.
//! - What is in the channel with a node is older than what waits for a link to it. When a link comes up, the channel's
//!   messages go first, unchanged.
//! - Nothing is taken twice in one incarnation of this node: every node with a channel has a replay floor, which outlives
//!   the channel.
//! - Nodes that nobody has heard of make nothing known and nothing forgotten: anybody can invent them.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;

use super::{
    AckDue, Common, Context, Parts,
    channel::{
        Accepted, Arrival, Channel, ChannelNumber, NUMBERS_LEN, RETRANSMIT_JITTER, ReplayFloor,
        UnacknowledgedMessage, read_numbers,
    },
    node_link::Came,
};
use crate::{
    relay::{
        Outbound, Packet, RegistryInput,
        sealing::{
            CONTENT_KEY_LEN, ContentKey, FRONT_LEN, IncarnationId, Salt, Seal, SealIncarnations, SealNumber,
            Subject, TAG_LEN, number_of,
        },
        snapshot::NodeRef,
    },
    wire::{
        FrameRef, NodeId, RetainedFrame,
        frame::HEAD_LEN_MAX,
        node::{HEADER_LEN_MIN, Header, PacketType},
    },
};

/// Nodes whose replay floors are remembered. Where there would be more, this node begins a later incarnation, in which
/// nothing that was sealed before opens.
pub const REPLAY_FLOORS_MAX: usize = 16_384;
/// Nodes that one frame of a shared multicast is for: with their ids, their tickets lie in the head of the frame.
pub(super) const SHARED_MAX: usize = 88;
/// Bytes of a node's ticket before the content of a shared multicast.
pub(super) const TICKET_LEN: usize = FRONT_LEN + NUMBERS_LEN + CONTENT_KEY_LEN + TAG_LEN;

const _: () = assert!(HEADER_LEN_MIN + NodeId::LEN + SHARED_MAX * (NodeId::LEN + TICKET_LEN) <= HEAD_LEN_MAX);

/// Messages of a channel that are sent again at once after the retransmit timeout.
const RETRANSMIT_AT_ONCE_MAX: usize = 64;

/// Which unacknowledged messages are sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Selection {
    All,
    /// What no neighbour has taken.
    Unsent,
    /// The oldest.
    Oldest,
}

/// What the channels of a shard have in common. Each lies with its [`Peer`](super::peer::Peer).
///
/// # Invariants
/// - `bytes` is the memory of all of them.
pub(super) struct Channels {
    pub(super) bytes: usize,
    /// The last number that a payload was sealed under in this incarnation of the node.
    sealed: SealNumber,
    /// Of all nodes that have, or had, a channel in this incarnation of the node.
    replay_floors: AHashMap<NodeId, ReplayFloor>,
    /// The incarnation of the node in whose place a later one was requested.
    incarnation_requested: Option<u64>,
}

impl Channels {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self {
            bytes: 0,
            sealed: SealNumber::default(),
            replay_floors: AHashMap::with_hasher(hashing),
            incarnation_requested: None,
        }
    }

    /// The node begins another incarnation, in which nothing has come yet.
    pub(super) fn forget_replay_floors(&mut self) {
        self.replay_floors.clear();
    }

    /// The number for the next payload that is sealed. None is given twice: a key and a number seal but one payload.
    fn next_seal(&mut self) -> SealNumber {
        self.sealed = self.sealed.next();
        self.sealed
    }
}

impl Parts {
    /// Sends a message to a node over others, and keeps it until that node has acknowledged it. `false` if that is not possible.
    pub(super) fn send_indirect(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        pieces: &[&[u8]],
        frame: FrameRef<'_>,
    ) -> bool {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>() + frame.len();
        let pieces = pieces.iter().copied().chain(frame.pieces());
        let sealed_as = self.channels.next_seal();
        let Some(channel) = self.channel(cx, id) else { return false };
        let before = channel.bytes().0;
        let Some(message) = channel.seal_message(cx.now, sealed_as, subject, pieces, len) else {
            return false;
        };
        let (number, frame) = (message.number, message.frame());
        self.channels.bytes += channel.bytes().0 - before;
        self.want_node_tick(cx.now);
        self.send_unacknowledged(cx, id, number, cx.own_packet(id, subject, false), &frame);
        true
    }

    /// Sends a control payload to a node, sealed, and forgets it.
    pub(super) fn send_sealed_control(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        payload: &[u8],
    ) {
        if let Some(sealed) = self.seal_control(cx, id, subject, payload) {
            let packet = cx.own_packet(id, subject, false);
            self.send_packet(cx, id, packet, FrameRef::Slice(&sealed));
        }
    }

    /// Seals a control payload for a node, however it is reached.
    pub(super) fn seal_control(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let sealed_as = self.channels.next_seal();
        let channel = self.channel(cx, id)?;
        let mut sealed = Vec::with_capacity(FRONT_LEN + payload.len() + TAG_LEN);
        channel.seal.seal(sealed_as, subject, &[], std::iter::once(payload), &mut sealed)?;
        Some(sealed)
    }

    /// Sends a multicast to several nodes over others, as one frame for each next hop. Gives those that it was not sent to.
    pub(super) fn send_shared(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        nodes: &[&NodeRef],
        seq: u32,
        frame: FrameRef<'_>,
    ) -> SmallVec<[NodeId; 2]> {
        let mut refused = SmallVec::new();
        let mut content = Vec::with_capacity(2 + frame.len() + TAG_LEN);
        // No extensions.
        let key = ContentKey::seal(cx.secret_rng.bytes(), &[0, 0], frame.pieces(), &mut content);
        let Some(key) = key else { return nodes.iter().map(|node| node.id).collect() };
        let content = RetainedFrame::from_bytes(content.into());
        let mut tickets: Vec<u8> = Vec::with_capacity(nodes.len() * TICKET_LEN);
        let mut destinations: SmallVec<[NodeId; 1]> = SmallVec::new();
        for node in nodes {
            match self.seal_ticket(cx, &node.id, seq, &key, &content) {
                Some(ticket) => {
                    tickets.extend_from_slice(&ticket);
                    destinations.push(node.id);
                }
                None => {
                    refused.push(node.id);
                    cx.give_back((NodeId::LEN + TICKET_LEN) as u64);
                }
            }
        }
        let Some(first) = destinations.first() else {
            cx.give_back(frame.len() as u64);
            return refused;
        };
        let subject = Subject { packet_type: PacketType::SHARED_MULTICAST, seq };
        let packet = Packet { destinations: destinations.clone(), ..cx.own_packet(first, subject, false) };
        if !self.route(cx, packet.clone(), content.behind(tickets.into()).as_ref(), None) {
            self.not_passed(cx, packet, FrameRef::EMPTY);
        }
        self.want_node_tick(cx.now);
        refused
    }

    /// Keeps a multicast for one of its nodes until that has acknowledged it; gives the node's ticket.
    fn seal_ticket(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        seq: u32,
        key: &ContentKey,
        content: &RetainedFrame,
    ) -> Option<[u8; TICKET_LEN]> {
        if !self.has_room(cx, id, 2, self.channels.bytes) {
            return None;
        }
        let sealed_as = self.channels.next_seal();
        let channel = self.channel(cx, id)?;
        let before = channel.bytes().0;
        let message = channel.seal_ticket(cx.now, sealed_as, seq, key, content.clone())?;
        let (number, ticket) = (message.number, message.sealed.as_ref().head().first_chunk().copied());
        channel.note_sent(number, true);
        self.channels.bytes += channel.bytes().0 - before;
        ticket
    }

    /// Sends a frame of this node to another one; `false` if there is no route.
    pub(super) fn send_packet(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        packet: Packet,
        payload: FrameRef<'_>,
    ) -> bool {
        if self.is_linked(id) {
            self.send_to_next(cx, packet, *id, payload);
            return true;
        }
        self.route(cx, packet, payload, Some(id))
    }

    fn send_unacknowledged(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        number: ChannelNumber,
        packet: Packet,
        frame: &RetainedFrame,
    ) -> bool {
        // It may be told that it was not sent before the call returns.
        self.note_sent(id, number, true);
        let is_sent = self.send_packet(cx, id, packet, frame.as_ref());
        if !is_sent {
            self.note_sent(id, number, false);
        }
        is_sent
    }

    fn note_sent(&mut self, id: &NodeId, number: ChannelNumber, is_sent: bool) {
        if let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) {
            channel.note_sent(number, is_sent);
        }
    }

    /// No neighbour took a message: it is sent again in a moment.
    pub(super) fn handle_not_passed(&mut self, now: Instant, id: &NodeId, subject: Subject) {
        if let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) {
            channel.note_not_sent(subject);
            self.want_node_tick(now);
        }
    }

    /// The channel with a node in the incarnation that is known of it.
    fn channel(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> Option<&mut Channel> {
        if !self.peers.by_id.contains_key(id) {
            let incarnation = cx.shared.snapshot.load().paths.get(id)?.incarnation;
            self.begin_peer(cx, id, incarnation);
        }
        let peer = self.peers.by_id.get_mut(id)?;
        if peer.channel.is_none() {
            let snapshot = cx.shared.snapshot.load();
            let path = snapshot.paths.get(id).filter(|path| path.incarnation == peer.incarnation)?;
            let incarnation_id = IncarnationId { incarnation: peer.incarnation, salt: path.salt? };
            let secret = cx.shared.signer.as_ref()?.share_with(*id)?;
            let seal = Seal::new(secret, cx.shared.incarnation_id(), incarnation_id)?;
            let replay_floor = self.take_replay_floor(cx, id, incarnation_id)?;
            let first = ChannelNumber::first_after(self.channels.sealed);
            let peer = self.peers.by_id.get_mut(id)?;
            peer.channel = Some(Box::new(Channel::new(cx.now, seal, first, replay_floor)));
        }
        self.peers.by_id.get_mut(id)?.channel.as_deref_mut()
    }

    /// The replay floor of an incarnation of a node; it is remembered from now on. `None` if that incarnation is over, or if
    /// there is no room.
    fn take_replay_floor(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        incarnation_id: IncarnationId,
    ) -> Option<ReplayFloor> {
        let begun = ReplayFloor::begin(incarnation_id);
        if let Some(replay_floor) = self.channels.replay_floors.get_mut(id) {
            if replay_floor.incarnation_id.incarnation < incarnation_id.incarnation {
                *replay_floor = begun;
            }
            return (replay_floor.incarnation_id == incarnation_id).then_some(*replay_floor);
        }
        if self.channels.replay_floors.len() >= REPLAY_FLOORS_MAX && !self.forget_floors_of_excluded(cx) {
            return None;
        }
        self.channels.replay_floors.insert(*id, begun);
        Some(begun)
    }

    /// Forgets nodes that the lists leave out, of which nothing is delivered: that only counts when other lists admit
    /// them. If all are admitted, none can be forgotten in this incarnation of the node.
    fn forget_floors_of_excluded(&mut self, cx: &mut Context<'_, impl Outbound>) -> bool {
        let before = self.channels.replay_floors.len();
        let admission = cx.shared.admission.load();
        let peers = &self.peers.by_id;
        self.channels.replay_floors.retain(|id, _| admission.admits(id) || peers.contains_key(id));
        let forgotten = before - self.channels.replay_floors.len();
        if forgotten > 0 {
            cx.counters.replay_floors_forgotten.add(forgotten as u64);
            cx.shared.has_forgotten.store(true, Relaxed);
            return true;
        }
        cx.counters.replay_floors_full.increment();
        let incarnation = cx.shared.incarnation();
        if self.channels.incarnation_requested != Some(incarnation)
            && cx.out.to_registry(RegistryInput::ReplayFloorsFull { incarnation })
        {
            self.channels.incarnation_requested = Some(incarnation);
        }
        false
    }

    /// Drops the channel with a node. Its replay floor stays, so that nothing of it is taken again.
    pub(super) fn drop_channel(&mut self, id: &NodeId) {
        let Some(mut channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.take()) else {
            return;
        };
        if let Some(timer) = channel.ack_timer.take() {
            self.node_links.ack_timers.cancel(timer);
        }
        let (unacknowledged, reordering) = channel.bytes();
        self.channels.bytes -= unacknowledged + reordering;
        let replay_floor = self.channels.replay_floors.get_mut(id);
        debug_assert!(replay_floor.is_some(), "whoever has a channel has a replay floor");
        if let Some(replay_floor) = replay_floor
            .filter(|replay_floor| replay_floor.incarnation_id == channel.replay_floor().incarnation_id)
        {
            *replay_floor = channel.replay_floor();
        }
    }

    /// A sealed payload for this node, at the home of its source.
    pub(super) fn arrive(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        subject: Subject,
        sealed: FrameRef<'_>,
    ) {
        let mut bytes: Vec<u8> = sealed.pieces().collect::<Vec<_>>().concat();
        let is_shared = subject.packet_type == PacketType::SHARED_MULTICAST;
        let content = (is_shared && bytes.len() >= TICKET_LEN).then(|| bytes.split_off(TICKET_LEN));
        let (Some(incarnations), Some(sealed_as)) = (SealIncarnations::of(&bytes), number_of(&bytes)) else {
            return cx.counters.sealed_refused.increment();
        };
        let peer = self.peers.by_id.get(source).map(|peer| peer.incarnation);
        let recorded = cx.shared.snapshot.load().paths.get(source).map(|path| (path.incarnation, path.salt));
        if peer.is_none() && recorded.is_none() {
            // Its source sends it again, and is known by then if it is not invented.
            return cx.counters.strangers_refused.increment();
        }
        let replay_floor = self.channels.replay_floors.get(source).map(|replay_floor| {
            (replay_floor.incarnation_id.incarnation, Some(replay_floor.incarnation_id.salt))
        });
        let is_before = |known: (u64, Option<Salt>)| incarnations.source.is_before(known.0, known.1);
        if incarnations.destination != cx.shared.incarnation()
            || peer.is_some_and(|incarnation| is_before((incarnation, None)))
            || recorded.is_some_and(is_before)
            || replay_floor.is_some_and(is_before)
        {
            return cx.counters.sealed_late.increment();
        }
        if self.open(cx, source, incarnations, subject, &mut bytes).is_none() {
            return cx.counters.sealed_refused.increment();
        }
        if subject.packet_type.is_amop() {
            let read =
                read_numbers(cx.now, subject, bytes).and_then(|(number, least, arrival)| match content {
                    Some(content) => Some((number, least, arrival.with_content(content)?)),
                    None => Some((number, least, arrival)),
                });
            return match read {
                Some((number, least, arrival)) => self.accept(cx, source, number, least, arrival),
                None => cx.counters.sealed_refused.increment(),
            };
        }
        let Some(channel) = self.peers.by_id.get_mut(source).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        if !channel.is_new_control(sealed_as) {
            return cx.counters.duplicates_dropped.increment();
        }
        let payload = FrameRef::Slice(&bytes[FRONT_LEN..bytes.len() - TAG_LEN]);
        match subject.packet_type {
            PacketType::BROADCAST => self.handle_notice(cx, source, payload),
            PacketType::ACK => self.handle_channel_ack(cx, source, payload),
            _ => cx.counters.unknown_packets.increment(),
        }
    }

    fn is_reached(&self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> bool {
        self.neighbours.by_id.contains_key(id) || cx.shared.snapshot.load().paths.contains_key(id)
    }

    /// Opens a payload in place. Only what opens makes an incarnation of its source known.
    fn open(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        incarnations: SealIncarnations,
        subject: Subject,
        bytes: &mut [u8],
    ) -> Option<()> {
        let peer =
            self.peers.by_id.get(source).filter(|peer| peer.incarnation == incarnations.source.incarnation);
        if let Some(channel) = peer.and_then(|peer| peer.channel.as_ref()) {
            return channel.seal.open(subject, bytes).ok().map(|_| ());
        }
        let is_known_incarnation = peer.is_some();
        let secret = cx.shared.signer.as_ref()?.share_with(*source)?;
        let seal = Seal::new(secret, cx.shared.incarnation_id(), incarnations.source)?;
        seal.open(subject, bytes).ok()?;
        if !is_known_incarnation {
            self.replace_incarnation(cx, source, incarnations.source.incarnation);
        }
        let replay_floor = self.take_replay_floor(cx, source, incarnations.source)?;
        // The registry tells nothing of those that the lists leave out.
        let stays = self.is_reached(cx, source) && cx.shared.admits(source);
        if !stays {
            self.want_node_tick(cx.now);
        }
        let peer = self.peers.by_id.get_mut(source)?;
        if !stays {
            peer.lost_since.get_or_insert(cx.now);
        }
        // A number that is free, as none is sealed under the next one yet.
        let first = ChannelNumber::first_after(self.channels.sealed.next());
        peer.channel = Some(Box::new(Channel::new(cx.now, seal, first, replay_floor)));
        Some(())
    }

    fn accept(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        number: ChannelNumber,
        least: ChannelNumber,
        arrival: Arrival,
    ) {
        let settings = &cx.shared.settings;
        let all_max = settings.windows_bytes_max / usize::from(cx.shared.reactors);
        let Some(channel) = self.peers.by_id.get_mut(source).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        let before = channel.bytes().1;
        let reorder_bytes_max =
            settings.window_bytes_max.min(before + all_max.saturating_sub(self.channels.bytes));
        let len = arrival.payload.len();
        let accepted = channel.accept(number, least, arrival, reorder_bytes_max);
        self.channels.bytes = self.channels.bytes + channel.bytes().1 - before;
        match accepted {
            Accepted::InOrder(arrivals) => {
                let arrivals = arrivals.into_iter().filter(|arrival| !arrival.payload.is_empty());
                for Arrival { subject: Subject { packet_type, seq }, payload, since } in arrivals {
                    let header = Header::direct(packet_type, seq);
                    let came = Came::Sealed { since };
                    self.handle_amop(cx, came, source, &header, FrameRef::Slice(&payload));
                }
            }
            Accepted::OutOfOrder => cx.counters.held_for_order.increment(),
            Accepted::Duplicate => cx.counters.duplicates_dropped.increment(),
            Accepted::BufferFull => return cx.counters.not_held_for_order.increment(),
            Accepted::Malformed => return cx.counters.sealed_refused.increment(),
        }
        self.note_accepted(cx, source, len);
    }

    /// A message of a channel was taken, or came again: acknowledges when it is time.
    fn note_accepted(&mut self, cx: &mut Context<'_, impl Outbound>, source: &NodeId, len: usize) {
        let settings = &cx.shared.settings;
        let Some(channel) = self.peers.by_id.get_mut(source).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        let (frames, bytes) = &mut channel.pending_ack;
        *frames += 1;
        *bytes += len;
        if *frames >= settings.ack_frames_max || *bytes >= settings.ack_bytes_max {
            self.send_channel_ack(cx, source);
        } else if channel.ack_timer.is_none() {
            channel.ack_timer = Some(self.node_links.ack_timers.start(cx.now, AckDue::Channel(*source)));
        }
    }

    pub(super) fn send_due_channel_ack(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        if let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) {
            channel.ack_timer = None;
            self.send_channel_ack(cx, id);
        }
    }

    fn send_channel_ack(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        channel.pending_ack = (0, 0);
        let below = channel.taken_below().to_bytes();
        if let Some(timer) = channel.ack_timer.take() {
            self.node_links.ack_timers.cancel(timer);
        }
        let subject = Subject { packet_type: PacketType::ACK, seq: cx.next_message() };
        // One that is lost is sent again when the message comes again.
        self.send_sealed_control(cx, id, subject, &below);
    }

    fn handle_channel_ack(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        payload: FrameRef<'_>,
    ) {
        let Some(peer) = self.peers.by_id.get_mut(id) else { return };
        let Some(channel) = peer.channel.as_mut() else { return };
        let Some(&below) = payload.head().first_chunk() else {
            return cx.counters.sealed_refused.increment();
        };
        let before = channel.bytes().0;
        let Some(taken) = channel.acknowledge(cx.now, ChannelNumber::from_bytes(below)) else {
            return cx.counters.sealed_refused.increment();
        };
        self.channels.bytes -= before - channel.bytes().0;
        for Subject { packet_type, seq } in taken {
            if packet_type == PacketType::UNICAST {
                peer.note_taken(seq);
            }
        }
    }

    /// Sends unacknowledged messages of all channels again: all of them where a node is lost that may have had them, or
    /// where the route has changed. On the old route they may have come to a node that cannot send them back.
    pub(super) fn retransmit_all_channels(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        is_node_lost: bool,
    ) {
        let snapshot = cx.shared.snapshot.load_full();
        for id in self.peers_with_unacknowledged() {
            let (hops, next) = snapshot.paths.get(&id).map_or((0, &[][..]), |path| (path.hops, &path.next));
            let channel = self.peers.by_id.get_mut(&id).and_then(|peer| peer.channel.as_mut());
            let is_new = channel.is_some_and(|channel| channel.route_changed(hops, next));
            let selection = if is_node_lost || is_new { Selection::All } else { Selection::Unsent };
            self.retransmit(cx, &id, selection);
        }
    }

    /// Sends what no neighbour has taken yet, and sends again what has waited for its acknowledgement for too long.
    pub(super) fn tick_channels(&mut self, cx: &mut Context<'_, impl Outbound>) {
        for id in self.peers_with_unacknowledged() {
            let jitter = cx.fast_rng.in_range(RETRANSMIT_JITTER);
            let channel = self.peers.by_id.get_mut(&id).and_then(|peer| peer.channel.as_mut());
            let is_overdue = channel.is_some_and(|channel| channel.is_overdue(cx.now, jitter));
            self.retransmit(cx, &id, if is_overdue { Selection::Oldest } else { Selection::Unsent });
        }
    }

    fn peers_with_unacknowledged(&self) -> Vec<NodeId> {
        let keeps = |channel: &Channel| channel.frames() > 0;
        let peers = self.peers.by_id.iter().filter(|(_, peer)| peer.channel.as_deref().is_some_and(keeps));
        peers.map(|(id, _)| *id).collect()
    }

    fn retransmit(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, selection: Selection) {
        let Some(channel) = self.peers.by_id.get(id).and_then(|peer| peer.channel.as_ref()) else { return };
        let is_chosen = |message: &&UnacknowledgedMessage| selection != Selection::Unsent || !message.is_sent;
        let max = if selection == Selection::Oldest { RETRANSMIT_AT_ONCE_MAX } else { usize::MAX };
        let chosen: Vec<(ChannelNumber, Subject, RetainedFrame)> = channel
            .unacknowledged()
            .filter(is_chosen)
            .take(max)
            .map(|message| (message.number, message.subject, message.frame()))
            .collect();
        for (number, subject, frame) in chosen {
            if !self.send_unacknowledged(cx, id, number, cx.own_packet(id, subject, true), &frame) {
                return;
            }
            cx.counters.frames_sent_again.increment();
        }
    }

    /// Whether a route leads to a node whose home is here, and to which incarnation of it.
    pub(super) fn handle_reach(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        incarnation: Option<u64>,
    ) {
        if self.is_neighbour(id) {
            // Its links tell more, and earlier.
            return;
        }
        match incarnation {
            Some(incarnation)
                if self.peers.by_id.get(id).is_some_and(|peer| peer.incarnation < incarnation) =>
            {
                self.replace_incarnation(cx, id, incarnation);
            }
            Some(_) => {
                if let Some(peer) = self.peers.by_id.get_mut(id) {
                    peer.lost_since = None;
                }
            }
            None => {
                self.fail_awaiting(cx, id);
                if !cx.shared.admits(id) {
                    self.drop_unacknowledged(id);
                }
                if let Some(peer) = self.peers.by_id.get_mut(id) {
                    peer.lost_since = Some(cx.now);
                    self.want_node_tick(cx.now);
                }
            }
        }
    }

    /// Drops unacknowledged messages to a node: nothing goes there any more.
    pub(super) fn drop_unacknowledged(&mut self, id: &NodeId) {
        let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        self.channels.bytes -= channel.bytes().0;
        channel.drop_unacknowledged();
    }

    /// A unicast to a node is not wanted any more. If it is on its way, it may still arrive.
    pub(super) fn void_unicast(&mut self, common: &Common, now: Instant, id: &NodeId, seq: u32) {
        let subject = Subject { packet_type: PacketType::UNICAST, seq };
        let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        let before = channel.bytes().0;
        let unsent = channel.void(self.channels.next_seal(), subject);
        self.channels.bytes = self.channels.bytes + channel.bytes().0 - before;
        common.give_back(unsent as u64);
        self.want_node_tick(now);
    }
}

impl Common {
    pub(super) fn own_packet(&self, id: &NodeId, subject: Subject, again: bool) -> Packet {
        Packet::of_own(self.shared.id, *id, subject, again)
    }
}
