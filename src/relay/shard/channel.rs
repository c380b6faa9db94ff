//! The channels of a shard (WIRE §6.3, §6.4): one with each other node whose home it is. Here they get their links and routes:
//! what is new is sent at once, what is unacknowledged again when the route changes.
//!
//! # Invariants
//! - Over a link a message goes as it is, since both ends proved themselves there; over other nodes it goes sealed. Its place is
//!   the same.
//! - Unacknowledged messages are sent again when the route to the other end is another one, when no link could take them, when a
//!   node on the path says that it dropped them, and over other nodes when the retransmit timeout passes.
//! - Nothing is taken twice in one incarnation of this node: every node with a channel has a replay floor, which outlives
//!   the channel.
//! - Nodes that nobody has heard of make nothing known and nothing forgotten: anybody can invent them.

use std::time::{Duration, Instant};

use ahash::RandomState;
use smallvec::SmallVec;
use tracing::warn;

use super::{
    Common, Context, Parts,
    node_link::Carrier,
    peer::Peer,
    replay::{ControlReplayWindow, ReplayFloor, ReplayFloors},
    request::FromNode,
};
use crate::{
    relay::{
        Class, LinkKey, NodeFault, Outbound, SendError, Shared,
        channel::{Arrival, ChannelNumber, Message, RETRANSMIT_JITTER, Receiver, Sender, Verdict},
        sealing::{IncarnationId, Seal, SealNumber, Subject},
        settings::Settings,
        timers::{TimerKey, Timers},
    },
    wire::{
        FrameRef, NodeId, RetainedFrame,
        node::{ExtensionBlock, FLAG_SENT_AGAIN, Header, Numbers, PacketType, data_head},
    },
};

/// Messages of a channel that are sent again at once after the retransmit timeout.
const RETRANSMIT_AT_ONCE_MAX: usize = 64;
/// Messages that no link could take, which are tried again at one time over other nodes: each is sealed anew.
const SEND_AT_ONCE_MAX: usize = 1_024;
/// The channel with another node, in one incarnation of each.
pub(super) struct Channel {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// Of the other end.
    incarnation_id: IncarnationId,
    /// For what goes over other nodes; made when it is needed.
    pub(super) seal: Option<Box<Seal>>,
    controls: ControlReplayWindow,
    /// Messages and bytes that were taken and not acknowledged.
    pending_ack: (u64, usize),
    ack_timer: Option<TimerKey>,
    /// What leads to the other end.
    route: RouteTaken,
}

/// The route that what is sent takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RouteTaken {
    None,
    Link(LinkKey),
    /// Over others, by the fingerprint of all shortest routes.
    Others(u64),
}

impl Channel {
    fn new(now: Instant, first: ChannelNumber, replay_floor: ReplayFloor) -> Self {
        Self {
            sender: Sender::new(now, first),
            receiver: Receiver::new(replay_floor.expected),
            incarnation_id: replay_floor.incarnation_id,
            seal: None,
            controls: ControlReplayWindow::new(replay_floor.control),
            pending_ack: (0, 0),
            ack_timer: None,
            route: RouteTaken::None,
        }
    }

    fn replay_floor(&self) -> ReplayFloor {
        let (incarnation_id, expected) = (self.incarnation_id, self.receiver.taken_below());
        ReplayFloor { incarnation_id, expected, control: self.controls.last() }
    }

    /// Memory of unacknowledged messages, and of the reorder buffer.
    pub(super) fn bytes(&self) -> usize {
        self.sender.bytes() + self.receiver.bytes()
    }

    /// For checks: what is counted wrongly.
    pub(super) fn miscount(&self) -> Option<String> {
        self.sender.miscount().or_else(|| self.receiver.miscount())
    }

    /// What goes before the message with a place. Once that is sent, all that was taken is acknowledged.
    #[inline]
    fn numbers(&self, place: ChannelNumber) -> Numbers {
        self.sender.numbers(place, self.receiver.taken_below())
    }

    pub(super) fn incarnation_id(&self) -> IncarnationId {
        self.incarnation_id
    }

    /// Whether a control payload sealed under that number did not come before.
    pub(super) fn is_new_control(&mut self, sealed_as: SealNumber) -> bool {
        self.controls.is_new(sealed_as)
    }
}

/// What the channels of a shard have in common. Each lies with its [`Peer`].
///
/// # Invariants
/// - `bytes` is the memory of all of them.
pub(super) struct Channels {
    bytes: usize,
    /// Messages that were sent in any channel in this process: no place of before is above it.
    sent: u64,
    /// The last number that a payload was sealed under in this process.
    sealed: SealNumber,
    pub(super) replay_floors: ReplayFloors,
    /// When acknowledgements are due that no message takes along before.
    ack_timers: Timers<NodeId>,
}

impl Channels {
    pub(super) fn new(ack_delay_max: Duration, hashing: RandomState) -> Self {
        Self {
            bytes: 0,
            sent: 0,
            sealed: SealNumber::default(),
            replay_floors: ReplayFloors::new(hashing),
            ack_timers: Timers::new(ack_delay_max),
        }
    }

    /// Memory of all channels in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps the next message of a channel until it is acknowledged.
    #[inline]
    fn keep(&mut self, channel: &mut Channel, now: Instant, message: Message) -> ChannelNumber {
        let before = channel.sender.bytes();
        let place = channel.sender.push(now, message);
        self.bytes += channel.sender.bytes() - before;
        self.sent += 1;
        place
    }

    /// A message of a node was taken, or came again; gives whether an acknowledgement is due at once. Most often the next
    /// message to that node takes it along.
    #[inline]
    fn note_accepted(
        &mut self,
        channel: &mut Channel,
        now: Instant,
        source: &NodeId,
        len: usize,
        settings: &Settings,
    ) -> bool {
        let (frames, bytes) = &mut channel.pending_ack;
        *frames += 1;
        *bytes += len;
        let is_due = *frames >= settings.ack_frames_max || *bytes >= settings.ack_bytes_max;
        if !is_due && channel.ack_timer.is_none() {
            channel.ack_timer = Some(self.ack_timers.start(now, *source));
        }
        is_due
    }

    /// When [`Self::pop_due_ack`] gives one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ack_timers.deadline()
    }

    /// A node that is to be sent an acknowledgement.
    pub(super) fn pop_due_ack(&mut self, now: Instant) -> Option<NodeId> {
        self.ack_timers.pop_expired(now)
    }

    /// The number for the next payload that is sealed. None is given twice: a key and a number seal but one payload.
    pub(super) fn next_seal(&mut self) -> SealNumber {
        self.sealed = self.sealed.next();
        self.sealed
    }
}

impl Parts {
    /// The channel with a node in the incarnation that is known of it.
    pub(super) fn channel(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
    ) -> Option<&mut Channel> {
        // Looked up twice: a channel that is given back cannot be made if it is not there.
        if self.peers.channel(id).is_some() {
            return self.peers.channel_mut(id);
        }
        self.begin_channel(cx, id)
    }

    #[cold]
    fn begin_channel(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> Option<&mut Channel> {
        let snapshot = cx.shared.snapshot.load();
        let path = snapshot.paths.get(id);
        if self.peers.get(id).is_none() {
            let path = path?;
            self.begin_peer(cx, id, path.incarnation, path.salt);
        }
        let peer = self.peers.get(id)?;
        let recorded = path.filter(|path| path.incarnation == peer.incarnation).and_then(|path| path.salt);
        let incarnation_id = IncarnationId { incarnation: peer.incarnation, salt: peer.salt.or(recorded)? };
        let replay_floors = &mut self.channels.replay_floors;
        let replay_floor = replay_floors.take(cx, &self.peers, id, incarnation_id).or_else(|| {
            // A neighbour whose clock went back proved its incarnation by its link. What was sealed in the later one
            // is still refused.
            let is_linked = self.peers.neighbour(id).is_some();
            let has_other = replay_floors.get(id).is_some();
            (is_linked && has_other).then(|| ReplayFloor::begin(incarnation_id))
        })?;
        let first = ChannelNumber(self.channels.sent + 1);
        let mut channel = Box::new(Channel::new(cx.now, first, replay_floor));
        channel.route = self.route_to(cx, id);
        let peer = self.peers.get_mut(id)?;
        Some(peer.channel.insert(channel))
    }

    /// Drops the channel with a node. Its replay floor stays, so that nothing of it is taken again.
    pub(super) fn drop_channel(&mut self, common: &Common, id: &NodeId) {
        let Some(mut channel) = self.peers.get_mut(id).and_then(|peer| peer.channel.take()) else {
            return;
        };
        if let Some(timer) = channel.ack_timer.take() {
            self.channels.ack_timers.cancel(timer);
        }
        self.channels.bytes -= channel.bytes();
        let lost = channel.sender.places(true).filter(|(_, message)| !message.frame.is_empty()).count();
        common.counters.messages_given_up.add(lost as u64);
        self.channels.replay_floors.raise(id, channel.replay_floor());
    }

    fn route_to(&self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> RouteTaken {
        match self.peers.link_to(id) {
            Some(link) => RouteTaken::Link(link),
            None => cx.shared.snapshot.load().fingerprint(id).map_or(RouteTaken::None, RouteTaken::Others),
        }
    }

    /// Sends a message to a node, over the link to it or over others, or has it wait for one of these, and keeps it until that
    /// node has acknowledged it. Gives its place; `None` if there is no room. Requests leave room for answers: a lost answer
    /// costs its publisher the whole request time.
    pub(super) fn send_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        extensions: ExtensionBlock,
        frame: FrameRef<'_>,
    ) -> Option<ChannelNumber> {
        let link = self.peers.link_to(id);
        let Some(channel) = self.peers.channel_mut(id) else {
            self.begin_channel(cx, id)?;
            return self.send_message(cx, id, subject, extensions, frame);
        };
        if !has_room(&cx.shared, channel, subject.packet_type, self.channels.bytes) {
            cx.warn_no_room(id);
            return None;
        }
        let mut is_sent = false;
        // None overtakes those that wait for the link: what comes before its turn may find no room there, and on a link that
        // lives nothing goes again.
        if let Some(key) = link.filter(|_| !channel.sender.has_unsent()) {
            let numbers = channel.numbers(channel.sender.next());
            let header = Header::direct(subject.packet_type, subject.message.0);
            let head = data_head(&header, &numbers, &extensions, frame.len());
            match cx.out.send(key, Class::Data, &head, frame) {
                Ok(_) => {
                    is_sent = true;
                    channel.pending_ack = (0, 0);
                    cx.pay(head.len() + frame.len());
                }
                Err(SendError::Full) => {
                    cx.warn_no_room(id);
                    return None;
                }
                // A link that is about to end takes nothing: the message waits for the next one.
                Err(SendError::Gone) => {}
            }
        }
        let message = Message::new(subject, extensions, frame.retain(), is_sent);
        let place = self.channels.keep(channel, cx.now, message);
        cx.counters.node_frames_sent.increment();
        if !is_sent {
            self.want_node_tick(cx.now);
            match link {
                Some(link) => self.send_unsent_over_link(cx, id, link),
                None => _ = self.send_sealed(cx, id, place),
            }
        }
        Some(place)
    }

    /// Keeps a message that is sent in another way, for which there is room: gives what goes before it.
    pub(super) fn keep_sent(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        extensions: ExtensionBlock,
        frame: RetainedFrame,
    ) -> Option<Numbers> {
        self.channel(cx, id)?;
        let channel = self.peers.channel_mut(id)?;
        if !has_room(&cx.shared, channel, subject.packet_type, self.channels.bytes) {
            cx.warn_no_room(id);
            return None;
        }
        let numbers = channel.numbers(channel.sender.next());
        channel.pending_ack = (0, 0);
        self.channels.keep(channel, cx.now, Message::new(subject, extensions, frame, true));
        self.want_node_tick(cx.now);
        Some(numbers)
    }

    /// Sends what no link has taken on the present route; over other nodes the oldest `max` of it.
    fn send_unsent(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, max: usize) {
        let Some(channel) = self.peers.channel(id) else { return };
        if !channel.sender.has_unsent() {
            return;
        }
        match self.peers.link_to(id) {
            Some(link) => self.send_unsent_over_link(cx, id, link),
            None => self.send_again_over_others(cx, id, false, max),
        }
    }

    fn send_unsent_over_link(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, link: LinkKey) {
        let Some(channel) = self.peers.channel_mut(id) else {
            return;
        };
        let (mut again, mut bytes) = (0, 0);
        while let Some(place) = channel.sender.next_unsent() {
            let numbers = channel.numbers(place);
            let Some(message) = channel.sender.get(place) else { break };
            let Subject { packet_type, message: number } = message.subject;
            let flags = if message.was_sent() { FLAG_SENT_AGAIN } else { 0 };
            let header = Header { flags, ..Header::direct(packet_type, number.0) };
            let head = data_head(&header, &numbers, &message.extensions, message.frame.len());
            if cx.out.send(link, Class::Data, &head, message.frame.as_ref()).is_err() {
                // It is tried again before long, or goes over the next link.
                break;
            }
            channel.pending_ack = (0, 0);
            bytes += head.len() + message.frame.len();
            again += u64::from(message.was_sent());
            channel.sender.set_sent(place, true);
        }
        cx.pay(bytes);
        cx.counters.frames_sent_again.add(again);
    }

    /// Sends the oldest unacknowledged messages again, at most `max`: all of them, or those that no neighbour has taken.
    fn send_again_over_others(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        all: bool,
        max: usize,
    ) {
        let Some(channel) = self.peers.channel(id) else { return };
        let places: Vec<ChannelNumber> =
            channel.sender.places(all).take(max).map(|(place, _)| place).collect();
        for place in places {
            let was_sent = self.was_sent(id, place);
            if !self.send_sealed(cx, id, place) {
                return;
            }
            cx.counters.frames_sent_again.add(u64::from(was_sent));
        }
    }

    /// Whether a link ever took a message, or the other end has.
    pub(super) fn was_sent(&self, id: &NodeId, place: ChannelNumber) -> bool {
        let channel = self.peers.channel(id);
        channel.is_some_and(|channel| channel.sender.was_sent(place))
    }

    /// Sends a message of a channel over other nodes. `false` if no route leads there.
    fn send_sealed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        place: ChannelNumber,
    ) -> bool {
        let sealed_as = self.channels.next_seal();
        let Some(channel) = self.sealed_channel(cx, id) else { return false };
        let numbers = channel.numbers(place);
        let (Some(message), Some(seal)) = (channel.sender.get(place), &channel.seal) else { return false };
        let (subject, was_sent) = (message.subject, message.was_sent());
        let pieces = std::iter::once(&message.extensions[..]).chain(message.frame.as_ref().pieces());
        let len = message.extensions.len() + message.frame.len();
        let Some(sealed) = seal.seal_whole(sealed_as, subject, &numbers.encode(), pieces, len) else {
            return false;
        };
        // It may be told that it was not sent before the call returns.
        channel.sender.set_sent(place, true);
        let packet = cx.own_packet(id, subject, was_sent);
        channel.pending_ack = (0, 0);
        let is_sent = self.route(cx, packet, sealed.as_ref(), Some(id)).is_none();
        if !is_sent {
            self.handle_not_passed(cx.now, id, subject);
        }
        is_sent
    }

    /// The channel with a node with the keys for what goes over others.
    pub(super) fn sealed_channel(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
    ) -> Option<&mut Channel> {
        let (signer, own) = (cx.shared.signer.clone(), cx.shared.incarnation_id());
        let channel = self.channel(cx, id)?;
        if channel.seal.is_none() {
            let secret = signer?.share_with(*id)?;
            channel.seal = Some(Box::new(Seal::new(secret, own, channel.incarnation_id)?));
        }
        Some(channel)
    }

    /// No link could take a message: it is sent again in a moment.
    pub(super) fn handle_not_passed(&mut self, now: Instant, id: &NodeId, subject: Subject) {
        if let Some(channel) = self.peers.channel_mut(id) {
            channel.sender.note_not_sent(subject);
            self.want_node_tick(now);
        }
    }

    /// The link to a node has come up or was lost, or its routes may have changed: unacknowledged messages are sent again if
    /// they have. On the old route they may have come to a node that cannot send them on.
    pub(super) fn refresh_route(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        let route = self.route_to(cx, id);
        let Some(channel) = self.peers.channel_mut(id) else {
            return;
        };
        if channel.route != route {
            channel.route = route;
            channel.sender.forget_route();
            self.void_too_long(cx, id);
            return self.send_unsent(cx, id, usize::MAX);
        }
        self.send_unsent(cx, id, SEND_AT_ONCE_MAX);
    }

    /// Messages that are too long for all routes that are left would hold up those behind them. A link that may return takes
    /// them.
    pub(super) fn void_too_long(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        let Some(channel) = self.peers.channel(id) else { return };
        if !matches!(channel.route, RouteTaken::Others(_)) || self.peers.is_neighbour(id) {
            return;
        }
        let snapshot = cx.shared.snapshot.load();
        let messages = channel.sender.places(false);
        let too_long: Vec<(ChannelNumber, Subject, usize)> = messages
            .filter(|(_, message)| !snapshot.takes(id, message.frame.len()))
            .map(|(place, message)| (place, message.subject, message.frame.len()))
            .collect();
        for (place, subject, len) in too_long {
            cx.note_too_long(id, len);
            match subject.packet_type {
                PacketType::UNICAST => self.fail_unicast(cx, id, subject.message),
                _ => self.void_message(cx.common, cx.now, id, place),
            }
        }
    }

    /// The same for all nodes.
    pub(super) fn refresh_routes(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let ids = self.peers.ids_of(|peer| peer.channel.is_some());
        ids.iter().for_each(|id| self.refresh_route(cx, id));
    }

    /// Sends what no link has taken yet, and sends again what has waited for its acknowledgement for too long. On a link
    /// nothing is lost as long as it lives.
    pub(super) fn tick_channels(&mut self, cx: &mut Context<'_, impl Outbound>) {
        for id in self.peers.ids_of(Peer::has_unacknowledged) {
            self.send_unsent(cx, &id, SEND_AT_ONCE_MAX);
            let jitter = cx.fast_rng.in_range(RETRANSMIT_JITTER);
            let is_linked = self.peers.link_to(&id).is_some();
            let channel = self.peers.channel_mut(&id);
            if !is_linked && channel.is_some_and(|channel| channel.sender.is_overdue(cx.now, jitter)) {
                self.send_again_over_others(cx, &id, true, RETRANSMIT_AT_ONCE_MAX);
            }
        }
    }

    /// Drops unacknowledged messages to a node: nothing goes there any more.
    pub(super) fn drop_unacknowledged(&mut self, id: &NodeId) {
        let Some(channel) = self.peers.channel_mut(id) else {
            return;
        };
        self.channels.bytes -= channel.sender.bytes();
        channel.sender.clear();
    }

    /// A message to a node is not wanted any more. If it is on its way, it may still arrive.
    pub(super) fn void_message(&mut self, common: &Common, now: Instant, id: &NodeId, place: ChannelNumber) {
        let Some(channel) = self.peers.channel_mut(id) else {
            return;
        };
        let is_sent = channel.sender.get(place).is_none_or(Message::is_sent);
        if is_sent && matches!(channel.route, RouteTaken::Link(_)) {
            // It comes before anything that could be sent in its place.
            return;
        }
        let before = channel.sender.bytes();
        let never_sent = channel.sender.void(place);
        self.channels.bytes -= before - channel.sender.bytes();
        common.give_back(never_sent as u64);
        self.want_node_tick(now);
    }

    /// A message has come with its numbers, which are the beginning of the payload.
    pub(super) fn handle_numbered(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        carrier: Carrier,
        source: &NodeId,
        subject: Subject,
        payload: FrameRef<'_>,
    ) {
        let Some(numbers) = Numbers::decode(payload.head()) else {
            return self.bad_message(cx, carrier, NodeFault::Numbers);
        };
        let message = payload.advance(Numbers::LEN);
        let known = self.peers.channel_mut(source);
        let Some(channel) = known else {
            if self.begin_channel(cx, source).is_none() {
                // It begins a later incarnation before long, or is sent again.
                return cx.counters.strangers_refused.increment();
            }
            return self.handle_numbered(cx, carrier, source, subject, payload);
        };
        // The link of an incarnation that is over may still bring what was on its way: its places are others.
        if let Carrier::Link(_, incarnation_id) = carrier
            && channel.incarnation_id != incarnation_id
        {
            return cx.counters.late_messages.increment();
        }
        let incarnation = channel.incarnation_id.incarnation;
        let origin = FromNode { id: *source, incarnation, message: subject.message };
        let before = channel.sender.bytes();
        let acknowledged = channel.sender.acknowledge(cx.now, ChannelNumber(numbers.taken_below));
        self.channels.bytes -= before - channel.sender.bytes();
        let verdict = acknowledged.map(|()| channel.receiver.judge(&numbers));
        let Ok(verdict) = verdict else { return self.bad_message(cx, carrier, NodeFault::AckOfNothing) };
        match verdict {
            Verdict::Malformed => return self.bad_message(cx, carrier, NodeFault::Numbers),
            Verdict::Duplicate => cx.counters.duplicates_dropped.increment(),
            Verdict::InTurn => {
                let settings = &cx.common.shared.settings;
                if self.channels.note_accepted(channel, cx.now, source, payload.len(), settings) {
                    self.send_channel_ack(cx, source);
                }
                if !message.is_empty() {
                    self.handle_amop(cx, carrier, origin, subject.packet_type, message);
                }
                return;
            }
            Verdict::Early => {
                let arrival = Arrival { subject, payload: message.retain(), since: cx.now };
                if !self.take_early(cx, source, ChannelNumber(numbers.place), arrival) {
                    return cx.counters.not_held_for_order.increment();
                }
            }
        }
        let Some(channel) = self.peers.channel_mut(source) else {
            return;
        };
        let settings = &cx.common.shared.settings;
        if self.channels.note_accepted(channel, cx.now, source, payload.len(), settings) {
            self.send_channel_ack(cx, source);
        }
    }

    /// A message has come that is not the next one, or the next one where others wait for it. `false` if there is no room.
    fn take_early(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        place: ChannelNumber,
        arrival: Arrival,
    ) -> bool {
        let settings = &cx.shared.settings;
        let all_max = settings.windows_bytes_max / usize::from(cx.shared.reactors);
        let Some(channel) = self.peers.channel_mut(source) else {
            return false;
        };
        let incarnation = channel.incarnation_id.incarnation;
        let before = channel.receiver.bytes();
        let bytes_max = settings.window_bytes_max.min(before + all_max.saturating_sub(self.channels.bytes));
        if !channel.receiver.keep(place, arrival, bytes_max) {
            return false;
        }
        let mut ready: SmallVec<[Arrival; 4]> = SmallVec::new();
        ready.extend(std::iter::from_fn(|| channel.receiver.pop_ready()));
        self.channels.bytes = self.channels.bytes + channel.receiver.bytes() - before;
        if ready.is_empty() {
            cx.counters.held_for_order.increment();
        }
        for Arrival { subject, payload, since } in ready {
            if !payload.is_empty() {
                let origin = FromNode { id: *source, incarnation, message: subject.message };
                let carrier = Carrier::Waited { since };
                self.handle_amop(cx, carrier, origin, subject.packet_type, payload.as_ref());
            }
        }
        true
    }

    /// The time of an acknowledgement is up, unless a message took it along.
    pub(super) fn send_due_ack(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        if let Some(channel) = self.peers.channel_mut(id) {
            channel.ack_timer = None;
            if channel.pending_ack.0 > 0 {
                self.send_channel_ack(cx, id);
            }
        }
    }

    fn send_channel_ack(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        if let Some(link) = self.peers.link_to(id) {
            return self.send_ack(cx, link, None);
        }
        let Some(channel) = self.peers.channel_mut(id) else {
            return;
        };
        channel.pending_ack = (0, 0);
        let below = channel.receiver.taken_below().0.to_be_bytes();
        let subject = Subject { packet_type: PacketType::ACK, message: cx.next_message() };
        // One that is lost is sent again when the message comes again.
        self.send_sealed_control(cx, id, subject, &below);
    }

    /// What an Ack to a node says.
    pub(super) fn taken_below(&self, id: &NodeId) -> u64 {
        let channel = self.peers.channel(id);
        channel.map_or(0, |channel| channel.receiver.taken_below().0)
    }

    /// An Ack was taken by a link.
    pub(super) fn note_ack_sent(&mut self, id: &NodeId) {
        if let Some(channel) = self.peers.channel_mut(id) {
            channel.pending_ack = (0, 0);
        }
    }

    /// A node has taken all messages below a place. `false` if they were never sent.
    pub(super) fn acknowledge(&mut self, now: Instant, id: &NodeId, below: u64) -> bool {
        let Some(channel) = self.peers.channel_mut(id) else {
            // What it acknowledges was given up.
            return below <= self.channels.sent + 1;
        };
        let before = channel.sender.bytes();
        let acknowledged = channel.sender.acknowledge(now, ChannelNumber(below));
        self.channels.bytes -= before - channel.sender.bytes();
        acknowledged.is_ok()
    }

    /// A node on the path says that it dropped a message of ours, since no route led on. `false` if there is no such message.
    pub(super) fn note_dropped_on_path(&mut self, now: Instant, destination: u64, seq: u32) -> bool {
        let peer = self.peers.find(destination);
        let Some(channel) = peer.and_then(|peer| peer.channel.as_deref_mut()) else { return false };
        let dropped = channel.sender.places(true).find(|(_, message)| message.subject.message.0 == seq);
        let Some((place, _)) = dropped else { return false };
        if matches!(channel.route, RouteTaken::Others(_)) {
            channel.sender.set_sent(place, false);
            self.want_node_tick(now);
        }
        true
    }
}

impl<O: Outbound> Context<'_, O> {
    #[cold]
    fn warn_no_room(&mut self, node: &NodeId) {
        if self.common.logs.window_full.admits(self.now) {
            warn!(
                peer = %node,
                "a message for a node is not sent, it does not acknowledge those before: see its load and the network between, or raise [amop] window_bytes_max",
            );
        }
    }
}

/// Whether a channel leaves room for one more message. All channels of a shard have `all_bytes`.
fn has_room(shared: &Shared, channel: &Channel, packet_type: PacketType, all_bytes: usize) -> bool {
    let settings = &shared.settings;
    let halves = u32::from(packet_type != PacketType::UNICAST_RESPONSE);
    channel.sender.len() < settings.window_frames_max >> halves
        && channel.sender.bytes() < settings.window_bytes_max >> halves
        && all_bytes < (settings.windows_bytes_max / usize::from(shared.reactors)) >> halves
}
