//! Messages to and from nodes that are no neighbours (WIRE §6.4): each goes into the channel with its node, sealed, and
//! stays there until that node has taken it.
//!
//! # Invariants
//! - What is kept in a channel is sent again when a node on the way is lost, when no neighbour could take it, and when
//!   nothing is heard of it for long.
//! - What is in the channel of a node is older than what waits for a link to it. When one comes up, the channel's goes
//!   first, and stays what it is.
//! - Nothing is taken twice in a life of this node: whoever has a channel has a floor, which outlives the channel.
//! - Nothing is made known, or forgotten, by nodes that nobody has heard of: anybody can invent them.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;

use super::{
    AckDue, Common, Context, Parts,
    channel::{Accepted, Arrival, Channel, Floor, Kept, NUMBERS_LEN, PATIENCE_SHARES, read_numbers},
    node_link::Came,
};
use crate::{
    relay::{
        Outbound, Packet, RegistryInput,
        sealing::{
            CONTENT_KEY_LEN, ContentKey, FRONT_LEN, Life, Lives, Salt, Seal, Subject, TAG_LEN, number_of,
        },
        snapshot::NodeRef,
    },
    wire::{
        FrameRef, NodeId, RetainedFrame,
        frame::HEAD_LEN_MAX,
        node::{HEADER_LEN_MIN, Header, PacketType},
    },
};

/// Nodes of which it is remembered how far their messages were, so that nothing comes twice. Where there would be more,
/// this node begins a later life, in which nothing of before opens.
pub const FLOORS_MAX: usize = 16_384;
/// Nodes that one frame of a shared multicast is for: with their ids, their tickets lie in the head of the frame.
pub(super) const SHARED_MAX: usize = 88;
/// Bytes of a node's ticket before the content of a shared multicast.
pub(super) const TICKET_LEN: usize = FRONT_LEN + NUMBERS_LEN + CONTENT_KEY_LEN + TAG_LEN;

const _: () = assert!(HEADER_LEN_MIN + NodeId::LEN + SHARED_MAX * (NodeId::LEN + TICKET_LEN) <= HEAD_LEN_MAX);

/// Messages of a channel that are sent again at once when nothing is heard of them.
const SENT_AGAIN_MAX: usize = 64;

/// Which of what is kept is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// What no neighbour has taken.
    Unsent,
    /// The oldest.
    Oldest,
}

/// What the channels of a shard have in common. Each lies with its [`Peer`](super::peer::Peer).
///
/// # Invariants
/// - `kept_bytes` are those in all of them.
pub(super) struct Channels {
    pub(super) kept_bytes: usize,
    /// How many payloads were sealed in this life of the node.
    sealed: u64,
    /// Of all nodes that have, or had, a channel in this life of the node.
    floors: AHashMap<NodeId, Floor>,
    /// The life of the node in the place of which a later one was asked for.
    life_asked: Option<u64>,
}

impl Channels {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { kept_bytes: 0, sealed: 0, floors: AHashMap::with_hasher(hashing), life_asked: None }
    }

    /// The node begins another life, in which nothing has come yet.
    pub(super) fn forget_floors(&mut self) {
        self.floors.clear();
    }

    /// The number for the next payload that is sealed. None is given twice: a key and a number seal but one payload.
    fn next_seal(&mut self) -> u64 {
        self.sealed += 1;
        self.sealed
    }
}

impl Parts {
    /// Sends a message to a node over others, and keeps it until that has taken it. `false` if that is not possible.
    pub(super) fn send_around(
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
        let Some(kept) = channel.keep(cx.now, sealed_as, subject, pieces, len) else { return false };
        let (number, frame) = (kept.number, kept.frame());
        self.channels.kept_bytes += channel.bytes().0 - before;
        self.want_node_tick(cx.now);
        self.send_kept(cx, id, number, cx.own_packet(id, subject, false), &frame);
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

    /// Sends a multicast to several nodes over others, as one frame for each way that they are reached by. Gives those
    /// that it was not sent to.
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
            match self.keep_shared(cx, &node.id, seq, &key, &content) {
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

    /// Keeps a node's share of a multicast; gives its ticket.
    fn keep_shared(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        seq: u32,
        key: &ContentKey,
        content: &RetainedFrame,
    ) -> Option<[u8; TICKET_LEN]> {
        if !self.has_room(cx, id, 2, self.channels.kept_bytes) {
            return None;
        }
        let sealed_as = self.channels.next_seal();
        let channel = self.channel(cx, id)?;
        let before = channel.bytes().0;
        let kept = channel.keep_shared(cx.now, sealed_as, seq, key, content.clone())?;
        let (number, ticket) = (kept.number, kept.sealed.as_ref().head().first_chunk().copied());
        channel.note_sent(number, true);
        self.channels.kept_bytes += channel.bytes().0 - before;
        ticket
    }

    /// Sends a frame of this node to another one; `false` if there is no way.
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

    fn send_kept(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        number: u64,
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

    fn note_sent(&mut self, id: &NodeId, number: u64, is_sent: bool) {
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

    /// The channel with a node in the life that is known of it.
    fn channel(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> Option<&mut Channel> {
        if !self.peers.by_id.contains_key(id) {
            let incarnation = cx.shared.snapshot.load().paths.get(id)?.incarnation;
            self.begin_peer(cx, id, incarnation);
        }
        let peer = self.peers.by_id.get_mut(id)?;
        if peer.channel.is_none() {
            let snapshot = cx.shared.snapshot.load();
            let path = snapshot.paths.get(id).filter(|path| path.incarnation == peer.incarnation)?;
            let life = Life { incarnation: peer.incarnation, salt: path.salt? };
            let secret = cx.shared.signer.as_ref()?.share_with(*id)?;
            let seal = Seal::new(secret, cx.shared.life(), life)?;
            let floor = self.take_floor(cx, id, life)?;
            let first = self.channels.sealed;
            let peer = self.peers.by_id.get_mut(id)?;
            peer.channel = Some(Box::new(Channel::new(cx.now, seal, first, floor)));
        }
        self.peers.by_id.get_mut(id)?.channel.as_deref_mut()
    }

    /// How far a life of a node had come before its channel was let go. From now on it is remembered. `None` if that life
    /// is over, or if there is no room.
    fn take_floor(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, life: Life) -> Option<Floor> {
        let begun = Floor::begin(life);
        if let Some(floor) = self.channels.floors.get_mut(id) {
            if floor.life.incarnation < life.incarnation {
                *floor = begun;
            }
            return (floor.life == life).then_some(*floor);
        }
        if self.channels.floors.len() >= FLOORS_MAX && !self.make_room_for_floors(cx) {
            return None;
        }
        self.channels.floors.insert(*id, begun);
        Some(begun)
    }

    /// Forgets nodes that the lists leave out, of which nothing is delivered: that only counts when other lists admit
    /// them. If all are admitted, none can be forgotten in this life of the node.
    fn make_room_for_floors(&mut self, cx: &mut Context<'_, impl Outbound>) -> bool {
        let before = self.channels.floors.len();
        let admission = cx.shared.admission.load();
        let peers = &self.peers.by_id;
        self.channels.floors.retain(|id, _| admission.admits(id) || peers.contains_key(id));
        if self.channels.floors.len() < before {
            cx.shared.has_forgotten.store(true, Relaxed);
            return true;
        }
        let incarnation = cx.shared.incarnation();
        if self.channels.life_asked != Some(incarnation)
            && cx.out.to_registry(RegistryInput::LifeUsedUp { incarnation })
        {
            self.channels.life_asked = Some(incarnation);
        }
        false
    }

    /// Lets go of the channel with a node. Nothing of it is taken again.
    pub(super) fn drop_channel(&mut self, id: &NodeId) {
        let Some(mut channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.take()) else {
            return;
        };
        if let Some(timer) = channel.ack_timer.take() {
            self.node_links.ack_timers.cancel(timer);
        }
        let (kept, held) = channel.bytes();
        self.channels.kept_bytes -= kept + held;
        let floor = self.channels.floors.get_mut(id);
        debug_assert!(floor.is_some(), "whoever has a channel has a floor");
        if let Some(floor) = floor.filter(|floor| floor.life == channel.floor().life) {
            *floor = channel.floor();
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
        let (Some(lives), Some(sealed_as)) = (Lives::of(&bytes), number_of(&bytes)) else {
            return cx.counters.sealed_refused.increment();
        };
        let peer = self.peers.by_id.get(source).map(|peer| peer.incarnation);
        let recorded = cx.shared.snapshot.load().paths.get(source).map(|path| (path.incarnation, path.salt));
        if peer.is_none() && recorded.is_none() {
            // Its source sends it again, and is known by then if it is not invented.
            return cx.counters.strangers_refused.increment();
        }
        let floor =
            self.channels.floors.get(source).map(|floor| (floor.life.incarnation, Some(floor.life.salt)));
        let is_before = |known: (u64, Option<Salt>)| lives.source.is_before(known.0, known.1);
        if lives.destination != cx.shared.incarnation()
            || peer.is_some_and(|incarnation| is_before((incarnation, None)))
            || recorded.is_some_and(is_before)
            || floor.is_some_and(is_before)
        {
            return cx.counters.sealed_late.increment();
        }
        if self.open(cx, source, lives, subject, &mut bytes).is_none() {
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

    /// Opens a payload in place. Only what opens makes a life of its source known.
    fn open(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        lives: Lives,
        subject: Subject,
        bytes: &mut [u8],
    ) -> Option<()> {
        let peer = self.peers.by_id.get(source).filter(|peer| peer.incarnation == lives.source.incarnation);
        if let Some(channel) = peer.and_then(|peer| peer.channel.as_ref()) {
            return channel.seal.open(subject, bytes).ok().map(|_| ());
        }
        let is_known_life = peer.is_some();
        let secret = cx.shared.signer.as_ref()?.share_with(*source)?;
        let seal = Seal::new(secret, cx.shared.life(), lives.source)?;
        seal.open(subject, bytes).ok()?;
        if !is_known_life {
            self.replace_life(cx, source, lives.source.incarnation);
        }
        let floor = self.take_floor(cx, source, lives.source)?;
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
        peer.channel = Some(Box::new(Channel::new(cx.now, seal, self.channels.sealed + 1, floor)));
        Some(())
    }

    fn accept(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        number: u64,
        least: u64,
        arrival: Arrival,
    ) {
        let settings = &cx.shared.settings;
        let all_max = settings.windows_bytes_max / usize::from(cx.shared.reactors);
        let Some(channel) = self.peers.by_id.get_mut(source).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        let before = channel.bytes().1;
        let held_max =
            settings.window_bytes_max.min(before + all_max.saturating_sub(self.channels.kept_bytes));
        let len = arrival.payload.len();
        let accepted = channel.accept(number, least, arrival, held_max);
        self.channels.kept_bytes = self.channels.kept_bytes + channel.bytes().1 - before;
        match accepted {
            Accepted::InOrder(arrivals) => {
                let arrivals = arrivals.into_iter().filter(|arrival| !arrival.payload.is_empty());
                for Arrival { subject: Subject { packet_type, seq }, payload, since } in arrivals {
                    let header = Header::direct(packet_type, seq);
                    let came = Came::Sealed { since };
                    self.handle_amop(cx, came, source, &header, FrameRef::Slice(&payload));
                }
            }
            Accepted::Held => cx.counters.held_for_order.increment(),
            Accepted::Known => cx.counters.duplicates_dropped.increment(),
            Accepted::NoRoom => return cx.counters.not_held_for_order.increment(),
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
        let (frames, bytes) = &mut channel.unacknowledged;
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
        channel.unacknowledged = (0, 0);
        let below = channel.taken_below().to_be_bytes();
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
        let Some(&below) = payload.head().first_chunk::<8>() else {
            return cx.counters.sealed_refused.increment();
        };
        let before = channel.bytes().0;
        let Some(taken) = channel.acknowledge(cx.now, u64::from_be_bytes(below)) else {
            return cx.counters.sealed_refused.increment();
        };
        self.channels.kept_bytes -= before - channel.bytes().0;
        for Subject { packet_type, seq } in taken {
            if packet_type == PacketType::UNICAST {
                peer.note_taken(seq);
            }
        }
    }

    /// Sends again what is kept for nodes that are no neighbours: all of it, where a node is lost that may have had it,
    /// or where the way is another one. On the old one it may have come to a node that it cannot go back from.
    pub(super) fn send_kept_of_all(&mut self, cx: &mut Context<'_, impl Outbound>, is_node_lost: bool) {
        let snapshot = cx.shared.snapshot.load_full();
        for id in self.kept_for() {
            let (hops, next) = snapshot.paths.get(&id).map_or((0, &[][..]), |path| (path.hops, &path.next));
            let channel = self.peers.by_id.get_mut(&id).and_then(|peer| peer.channel.as_mut());
            let is_new = channel.is_some_and(|channel| channel.is_way_new(hops, next));
            let which = if is_node_lost || is_new { Which::All } else { Which::Unsent };
            self.send_again(cx, &id, which);
        }
    }

    /// Looks at what is kept: sends what was not sent, and again of what nothing is heard.
    pub(super) fn tick_channels(&mut self, cx: &mut Context<'_, impl Outbound>) {
        for id in self.kept_for() {
            let share = cx.fast_rng.in_range(PATIENCE_SHARES);
            let channel = self.peers.by_id.get_mut(&id).and_then(|peer| peer.channel.as_mut());
            let is_overdue = channel.is_some_and(|channel| channel.is_overdue(cx.now, share));
            self.send_again(cx, &id, if is_overdue { Which::Oldest } else { Which::Unsent });
        }
    }

    fn kept_for(&self) -> Vec<NodeId> {
        let keeps = |channel: &Channel| channel.frames() > 0;
        let peers = self.peers.by_id.iter().filter(|(_, peer)| peer.channel.as_deref().is_some_and(keeps));
        peers.map(|(id, _)| *id).collect()
    }

    fn send_again(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, which: Which) {
        let Some(channel) = self.peers.by_id.get(id).and_then(|peer| peer.channel.as_ref()) else { return };
        let is_chosen = |kept: &&Kept| which != Which::Unsent || !kept.is_sent;
        let max = if which == Which::Oldest { SENT_AGAIN_MAX } else { usize::MAX };
        let chosen: Vec<(u64, Subject, RetainedFrame)> = channel
            .kept()
            .filter(is_chosen)
            .take(max)
            .map(|kept| (kept.number, kept.subject, kept.frame()))
            .collect();
        for (number, subject, frame) in chosen {
            if !self.send_kept(cx, id, number, cx.own_packet(id, subject, true), &frame) {
                return;
            }
            cx.counters.frames_sent_again.increment();
        }
    }

    /// Whether a way leads to a node whose home is here, and to which life of it.
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
                self.replace_life(cx, id, incarnation);
            }
            Some(_) => {
                if let Some(peer) = self.peers.by_id.get_mut(id) {
                    peer.lost_since = None;
                }
            }
            None => {
                self.fail_awaiting(cx, id);
                if !cx.shared.admits(id) {
                    self.drop_kept(id);
                }
                if let Some(peer) = self.peers.by_id.get_mut(id) {
                    peer.lost_since = Some(cx.now);
                    self.want_node_tick(cx.now);
                }
            }
        }
    }

    /// Nothing of what is kept for a node goes there any more.
    pub(super) fn drop_kept(&mut self, id: &NodeId) {
        let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        self.channels.kept_bytes -= channel.bytes().0;
        channel.drop_kept();
    }

    /// A unicast to a node is not wanted any more. If it is on its way, it may still arrive.
    pub(super) fn void_unicast(&mut self, common: &Common, now: Instant, id: &NodeId, seq: u32) {
        let subject = Subject { packet_type: PacketType::UNICAST, seq };
        let Some(channel) = self.peers.by_id.get_mut(id).and_then(|peer| peer.channel.as_mut()) else {
            return;
        };
        let before = channel.bytes().0;
        self.channels.sealed += 1;
        let unsent = channel.void(self.channels.sealed, subject);
        self.channels.kept_bytes = self.channels.kept_bytes + channel.bytes().0 - before;
        common.give_back(unsent as u64);
        self.want_node_tick(now);
    }
}

impl Common {
    pub(super) fn own_packet(&self, id: &NodeId, subject: Subject, again: bool) -> Packet {
        Packet::of_own(self.shared.id, *id, subject, again)
    }
}
