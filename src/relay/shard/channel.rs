//! The channel between this node and one that is no neighbour (WIRE §6.4). Its messages are numbered and sealed. The
//! sender keeps each until the other end has acknowledged it, and sends it again after a timeout. The receiver takes them in
//! the order of their numbers, whatever routes they took.
//!
//! A node on the path that dies, or drops what it has no room for, costs a retransmission and loses no message.
//!
//! # Invariants
//! - Unacknowledged messages have consecutive numbers. All below the least of them were taken, or go over a link.
//! - A retransmission has the same bytes as the message, or is empty under the same number; the first that comes counts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    relay::{
        sealing::{ContentKey, FRONT_LEN, IncarnationId, Seal, SealNumber, Subject, TAG_LEN},
        timers::TimerKey,
    },
    wire::{NodeId, RetainedFrame, node::PacketType},
};

/// Bytes in a sealed message before its extensions: its number, and the least one that may still come.
pub(super) const NUMBERS_LEN: usize = 2 * ChannelNumber::LEN;
/// Messages of one node that wait in the reorder buffer for those before them.
pub(in crate::relay) const REORDER_MESSAGES_MAX: usize = 4_096;
/// Time after which unacknowledged messages are sent again. It doubles with each retransmission …
const RETRANSMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// … up to this.
const RETRANSMIT_TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// The share of that time after which it is done, drawn at random.
pub(super) const RETRANSMIT_JITTER: std::ops::Range<f64> = 0.5..1.0;
/// Control payloads that one node may have sent out of their order.
const CONTROLS_MAX: usize = 64;

/// The place of a message in the order of those from one node to another one; they have no gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChannelNumber(u64);

impl ChannelNumber {
    pub(super) const LEN: usize = 8;

    /// The first of a channel that is made when so many payloads were sealed: each message of an earlier one with that node was
    /// sealed under a number of its own, so it had a lower one.
    pub(super) fn first_after(sealed: SealNumber) -> Self {
        Self(sealed.0)
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether none comes after it.
    fn is_last(self) -> bool {
        self.0 == u64::MAX
    }

    /// How many messages lie between it and an earlier one.
    fn since(self, earlier: Self) -> Option<usize> {
        self.0.checked_sub(earlier.0).map(|count| count as usize)
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

/// Both directions between this node and another one, in one incarnation of each.
pub(super) struct Channel {
    pub(super) seal: Seal,
    next: ChannelNumber,
    unacknowledged: VecDeque<UnacknowledgedMessage>,
    unacknowledged_bytes: usize,
    retransmit_timeout: Duration,
    /// When unacknowledged messages are sent again, unless an acknowledgement comes before.
    retransmit_at: Instant,
    /// All below were taken.
    expected: ChannelNumber,
    reorder_buffer: BTreeMap<ChannelNumber, Arrival>,
    reorder_bytes: usize,
    controls: ControlReplayWindow,
    /// Messages and bytes that were taken and not acknowledged.
    pub(super) pending_ack: (u64, usize),
    pub(super) ack_timer: Option<TimerKey>,
    /// The route to the other end when it was last looked at: number of links, and the neighbours that are its first hops.
    route: (u8, SmallVec<[NodeId; 2]>),
}

/// A message that the other end has not acknowledged.
pub(super) struct UnacknowledgedMessage {
    pub(super) number: ChannelNumber,
    pub(super) subject: Subject,
    /// Of a shared multicast, the ticket.
    pub(super) sealed: RetainedFrame,
    /// Of a shared multicast, what the ticket is for.
    content: Option<RetainedFrame>,
    /// Whether a neighbour took it.
    pub(super) is_sent: bool,
}

impl UnacknowledgedMessage {
    fn cost(&self) -> usize {
        let content = self.content.as_ref().map_or(0, RetainedFrame::len);
        self.sealed.len() + content + size_of::<Self>() + 64
    }

    /// What is sent.
    pub(super) fn frame(&self) -> RetainedFrame {
        match &self.content {
            None => self.sealed.clone(),
            Some(content) => {
                let ticket: Vec<u8> = self.sealed.as_ref().pieces().flatten().copied().collect();
                content.behind(ticket.into())
            }
        }
    }
}

/// A message of the other end, opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) subject: Subject,
    /// Extensions and frame.
    pub(super) payload: Bytes,
    /// When it came.
    pub(super) since: Instant,
}

impl Arrival {
    /// Opens what a ticket is for. `None` if it is no ticket for that.
    pub(super) fn with_content(self, mut content: Vec<u8>) -> Option<Self> {
        ContentKey::decode(&self.payload)?.open(&mut content).ok()?;
        content.truncate(content.len() - TAG_LEN);
        let subject = Subject { packet_type: PacketType::MULTICAST, ..self.subject };
        Some(Self { subject, payload: content.into(), ..self })
    }

    fn cost(&self) -> usize {
        self.payload.len() + size_of::<Self>() + 64
    }
}

/// What becomes of a message that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// These are to be taken now.
    InOrder(SmallVec<[Arrival; 1]>),
    /// It is in the reorder buffer until those before it have come.
    OutOfOrder,
    /// It came before.
    Duplicate,
    /// The reorder buffer has no room for it.
    BufferFull,
    /// Its numbers contradict each other.
    Malformed,
}

/// What is remembered of a channel that was dropped: messages and control payloads below it are replays.
#[derive(Clone, Copy)]
pub(super) struct ReplayFloor {
    pub(super) incarnation_id: IncarnationId,
    expected: ChannelNumber,
    control: Option<SealNumber>,
}

impl ReplayFloor {
    /// Of an incarnation of which nothing came yet.
    pub(super) fn begin(incarnation_id: IncarnationId) -> Self {
        Self { incarnation_id, expected: ChannelNumber::default(), control: None }
    }
}

/// Control payloads that came, by the number that they are sealed under: each is taken once.
#[derive(Default)]
struct ControlReplayWindow {
    seen: BTreeSet<SealNumber>,
    /// All up to this number are replays.
    replay_floor: Option<SealNumber>,
}

impl ControlReplayWindow {
    fn is_new(&mut self, number: SealNumber) -> bool {
        if self.replay_floor.is_some_and(|replay_floor| number <= replay_floor) || !self.seen.insert(number) {
            return false;
        }
        if self.seen.len() > CONTROLS_MAX {
            self.replay_floor = self.seen.pop_first();
        }
        true
    }
}

impl Channel {
    /// `first` is a number that no message had in these incarnations of the two nodes.
    pub(super) fn new(now: Instant, seal: Seal, first: ChannelNumber, replay_floor: ReplayFloor) -> Self {
        Self {
            seal,
            next: first,
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            retransmit_timeout: RETRANSMIT_TIMEOUT,
            retransmit_at: now + RETRANSMIT_TIMEOUT,
            expected: replay_floor.expected,
            reorder_buffer: BTreeMap::new(),
            reorder_bytes: 0,
            controls: ControlReplayWindow {
                replay_floor: replay_floor.control,
                ..ControlReplayWindow::default()
            },
            pending_ack: (0, 0),
            ack_timer: None,
            route: (0, SmallVec::new()),
        }
    }

    /// Whether the route to the other end differs from the one of the last call.
    pub(super) fn route_changed(&mut self, hops: u8, next: &[NodeId]) -> bool {
        let is_new = (self.route.0, self.route.1.as_slice()) != (hops, next);
        if is_new {
            self.route = (hops, next.into());
        }
        is_new
    }

    pub(super) fn replay_floor(&self) -> ReplayFloor {
        let control = self.controls.seen.last().copied().or(self.controls.replay_floor);
        ReplayFloor { incarnation_id: self.seal.other_incarnation(), expected: self.expected, control }
    }

    /// Number of unacknowledged messages.
    pub(super) fn frames(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Memory of unacknowledged messages, and of the reorder buffer.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.unacknowledged_bytes, self.reorder_bytes)
    }

    /// For checks: both, counted anew.
    pub(super) fn bytes_anew(&self) -> usize {
        let unacknowledged: usize = self.unacknowledged.iter().map(UnacknowledgedMessage::cost).sum();
        unacknowledged + self.reorder_buffer.values().map(Arrival::cost).sum::<usize>()
    }

    /// Seals a message under `sealed_as`, a number that nothing else was sealed under, and keeps it until it is acknowledged.
    pub(super) fn seal_message<'a>(
        &mut self,
        now: Instant,
        sealed_as: SealNumber,
        subject: Subject,
        pieces: impl Iterator<Item = &'a [u8]>,
        len: usize,
    ) -> Option<&UnacknowledgedMessage> {
        let number = self.next;
        let least = self.unacknowledged.front().map_or(number, |message| message.number);
        let sealed = self.seal_numbered(sealed_as, subject, (number, least), pieces, len)?;
        if self.unacknowledged.is_empty() {
            (self.retransmit_timeout, self.retransmit_at) = (RETRANSMIT_TIMEOUT, now + RETRANSMIT_TIMEOUT);
        }
        self.next = self.next.next();
        let message = UnacknowledgedMessage { number, subject, sealed, content: None, is_sent: false };
        self.unacknowledged_bytes += message.cost();
        self.unacknowledged.push_back(message);
        self.unacknowledged.back()
    }

    fn seal_numbered<'a>(
        &self,
        sealed_as: SealNumber,
        subject: Subject,
        (number, least): (ChannelNumber, ChannelNumber),
        pieces: impl Iterator<Item = &'a [u8]>,
        len: usize,
    ) -> Option<RetainedFrame> {
        let mut numbers = [0; NUMBERS_LEN];
        numbers[..ChannelNumber::LEN].copy_from_slice(&number.to_bytes());
        numbers[ChannelNumber::LEN..].copy_from_slice(&least.to_bytes());
        let mut sealed = Vec::with_capacity(FRONT_LEN + NUMBERS_LEN + len + TAG_LEN);
        self.seal.seal(sealed_as, subject, &numbers, pieces, &mut sealed)?;
        Some(RetainedFrame::from_bytes(sealed.into()))
    }

    /// The same with a ticket for a content that several nodes get.
    pub(super) fn seal_ticket(
        &mut self,
        now: Instant,
        sealed_as: SealNumber,
        seq: u32,
        key: &ContentKey,
        content: RetainedFrame,
    ) -> Option<&UnacknowledgedMessage> {
        let subject = Subject { packet_type: PacketType::SHARED_MULTICAST, seq };
        let key = key.encode();
        self.seal_message(now, sealed_as, subject, std::iter::once(&key[..]), key.len())?;
        let message = self.unacknowledged.back_mut()?;
        self.unacknowledged_bytes += content.len();
        message.content = Some(content);
        Some(message)
    }

    /// Unacknowledged messages, the oldest first.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = &UnacknowledgedMessage> {
        self.unacknowledged.iter()
    }

    /// All unacknowledged messages, marked as sent: a link to the other end has come up, over which they go.
    pub(super) fn retransmit_all(&mut self) -> Vec<(Subject, RetainedFrame)> {
        let send = |message: &mut UnacknowledgedMessage| {
            message.is_sent = true;
            (message.subject, message.frame())
        };
        self.unacknowledged.iter_mut().map(send).collect()
    }

    pub(super) fn note_sent(&mut self, number: ChannelNumber, is_sent: bool) {
        let Some(first) = self.unacknowledged.front().map(|message| message.number) else { return };
        if let Some(message) = number.since(first).and_then(|index| self.unacknowledged.get_mut(index)) {
            message.is_sent = is_sent;
        }
    }

    /// The same by the message's number at this node.
    pub(super) fn note_not_sent(&mut self, subject: Subject) {
        if let Some(message) = self.unacknowledged.iter_mut().find(|message| message.subject == subject) {
            message.is_sent = false;
        }
    }

    /// Forgets unacknowledged messages. The other end does not wait for them: it hears of the least number that may come.
    pub(super) fn drop_unacknowledged(&mut self) {
        self.unacknowledged.clear();
        self.unacknowledged_bytes = 0;
    }

    /// A message is not wanted any more: an empty one takes its place, so that those behind it need not wait for it.
    /// Should it have been taken already, it stays so. Gives how many bytes of it no neighbour has taken.
    pub(super) fn void(&mut self, sealed_as: SealNumber, subject: Subject) -> usize {
        let Some(index) = self.unacknowledged.iter().position(|message| message.subject == subject) else {
            return 0;
        };
        let number = self.unacknowledged[index].number;
        let least = self.unacknowledged.front().map_or(number, |message| message.number);
        if let Some(sealed) = self.seal_numbered(sealed_as, subject, (number, least), std::iter::empty(), 0) {
            let message = &mut self.unacknowledged[index];
            let unsent = if message.is_sent { 0 } else { message.sealed.len() };
            self.unacknowledged_bytes -= message.cost();
            (message.sealed, message.is_sent) = (sealed, false);
            self.unacknowledged_bytes += message.cost();
            return unsent;
        }
        0
    }

    /// The other end has taken all messages below a number; gives which. `None` if they were never sent.
    pub(super) fn acknowledge(&mut self, now: Instant, below: ChannelNumber) -> Option<Vec<Subject>> {
        if below > self.next {
            return None;
        }
        let mut taken = Vec::new();
        while self.unacknowledged.front().is_some_and(|message| message.number < below)
            && let Some(message) = self.unacknowledged.pop_front()
        {
            self.unacknowledged_bytes -= message.cost();
            taken.push(message.subject);
        }
        if !taken.is_empty() {
            (self.retransmit_timeout, self.retransmit_at) = (RETRANSMIT_TIMEOUT, now + RETRANSMIT_TIMEOUT);
        }
        Some(taken)
    }

    /// Whether the retransmit timeout has passed. It doubles for the next time, of which `jitter` is the share that counts:
    /// nodes that send over one neighbour that lacks room should not send again at the same moment.
    pub(super) fn is_overdue(&mut self, now: Instant, jitter: f64) -> bool {
        let is_overdue = !self.unacknowledged.is_empty() && now >= self.retransmit_at;
        if is_overdue {
            self.retransmit_timeout = (self.retransmit_timeout * 2).min(RETRANSMIT_TIMEOUT_MAX);
            self.retransmit_at = now + self.retransmit_timeout.mul_f64(jitter);
        }
        is_overdue
    }

    /// A message of the other end came, with its number and the least one that may still come. The reorder buffer may take
    /// `reorder_bytes_max`.
    pub(super) fn accept(
        &mut self,
        number: ChannelNumber,
        least: ChannelNumber,
        arrival: Arrival,
        reorder_bytes_max: usize,
    ) -> Accepted {
        // Beyond the highest nothing could be counted.
        if least > number || number.is_last() {
            return Accepted::Malformed;
        }
        let mut in_order = SmallVec::new();
        if least > self.expected {
            let later = self.reorder_buffer.split_off(&least);
            in_order.extend(std::mem::replace(&mut self.reorder_buffer, later).into_values());
            self.expected = least;
        }
        let accepted = if number < self.expected || self.reorder_buffer.contains_key(&number) {
            Accepted::Duplicate
        } else if number > self.expected
            && (self.reorder_buffer.len() >= REORDER_MESSAGES_MAX
                || self.reorder_bytes + arrival.cost() > reorder_bytes_max)
        {
            Accepted::BufferFull
        } else {
            self.reorder_bytes += arrival.cost();
            self.reorder_buffer.insert(number, arrival);
            Accepted::OutOfOrder
        };
        while let Some(arrival) = self.reorder_buffer.remove(&self.expected) {
            self.expected = self.expected.next();
            in_order.push(arrival);
        }
        self.reorder_bytes -= in_order.iter().map(Arrival::cost).sum::<usize>();
        if in_order.is_empty() { accepted } else { Accepted::InOrder(in_order) }
    }

    /// All messages of the other end below this were taken.
    pub(super) fn taken_below(&self) -> ChannelNumber {
        self.expected
    }

    /// Whether a control payload sealed under that number did not come before.
    pub(super) fn is_new_control(&mut self, sealed_as: SealNumber) -> bool {
        self.controls.is_new(sealed_as)
    }
}

/// What is between the front with the numbers and the tag.
fn payload_of(opened: Vec<u8>) -> Bytes {
    let end = opened.len() - TAG_LEN;
    Bytes::from(opened).slice(FRONT_LEN + NUMBERS_LEN..end)
}

/// A message as it was opened in place: its numbers, and the rest. `None` if it is too short.
pub(super) fn read_numbers(
    now: Instant,
    subject: Subject,
    opened: Vec<u8>,
) -> Option<(ChannelNumber, ChannelNumber, Arrival)> {
    let numbers = opened.get(FRONT_LEN..opened.len() - TAG_LEN)?;
    let number = ChannelNumber::from_bytes(*numbers.first_chunk()?);
    let least = ChannelNumber::from_bytes(*numbers.get(ChannelNumber::LEN..)?.first_chunk()?);
    Some((number, least, Arrival { subject, payload: payload_of(opened), since: now }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::signing::NodeSigner;

    const SECOND: Duration = Duration::from_secs(1);
    const INCARNATION: IncarnationId = IncarnationId { incarnation: 1, salt: [1; 16] };

    fn seal(own: u8, other: u8) -> Seal {
        let signer = |number: u8| NodeSigner::from_secret_bytes(&[number; 32]).unwrap();
        Seal::new(signer(own).share_with(signer(other).id()).unwrap(), INCARNATION, INCARNATION).unwrap()
    }

    struct Pair {
        now: Instant,
        sender: Channel,
        receiver: Channel,
        sealed: SealNumber,
    }

    fn pair() -> Pair {
        let now = Instant::now();
        let sender = Channel::new(now, seal(1, 2), ChannelNumber(70), ReplayFloor::begin(INCARNATION));
        Pair {
            now,
            sender,
            receiver: Channel::new(now, seal(2, 1), ChannelNumber(0), ReplayFloor::begin(INCARNATION)),
            sealed: SealNumber(70),
        }
    }

    fn subject(seq: u32) -> Subject {
        Subject { packet_type: PacketType::MULTICAST, seq }
    }

    impl Pair {
        /// Sends; gives the sealed bytes.
        fn send(&mut self, seq: u32) -> Vec<u8> {
            self.sealed = self.sealed.next();
            let text = seq.to_string();
            let pieces = std::iter::once(text.as_bytes());
            let message =
                self.sender.seal_message(self.now, self.sealed, subject(seq), pieces, text.len()).unwrap();
            message.sealed.as_ref().pieces().flatten().copied().collect()
        }

        /// Whose turn it is after a message came.
        fn accept(&mut self, seq: u32, sealed: &[u8]) -> Result<Vec<u32>, Accepted> {
            let mut bytes = sealed.to_vec();
            self.receiver.seal.open(subject(seq), &mut bytes).unwrap();
            let (number, least, arrival) = read_numbers(self.now, subject(seq), bytes).unwrap();
            match self.receiver.accept(number, least, arrival, 1 << 20) {
                Accepted::InOrder(arrivals) => {
                    let seqs = arrivals.iter().map(|arrival| {
                        assert_eq!(arrival.payload, arrival.subject.seq.to_string());
                        arrival.subject.seq
                    });
                    Ok(seqs.collect())
                }
                other => Err(other),
            }
        }
    }

    #[test]
    fn messages_are_taken_once_and_in_order_in_whatever_order_they_come() {
        let mut pair = pair();
        let sealed: Vec<Vec<u8>> = (0..5).map(|seq| pair.send(seq)).collect();
        assert_eq!(pair.accept(0, &sealed[0]), Ok(vec![0]));
        assert_eq!(pair.accept(3, &sealed[3]), Err(Accepted::OutOfOrder));
        assert_eq!(pair.accept(2, &sealed[2]), Err(Accepted::OutOfOrder));
        assert_eq!(pair.accept(3, &sealed[3]), Err(Accepted::Duplicate));
        assert_eq!(pair.accept(0, &sealed[0]), Err(Accepted::Duplicate));
        assert_eq!(pair.accept(1, &sealed[1]), Ok(vec![1, 2, 3]));
        assert_eq!(pair.accept(4, &sealed[4]), Ok(vec![4]));
        assert_eq!(pair.receiver.bytes(), (0, 0));
        let below = pair.receiver.taken_below();
        assert_eq!(pair.sender.acknowledge(pair.now, below).unwrap().len(), 5);
        assert_eq!(pair.sender.bytes(), (0, 0));
        assert_eq!(pair.sender.acknowledge(pair.now, below.next()), None, "it was never sent");
    }

    #[test]
    fn what_is_not_wanted_any_more_is_not_waited_for() {
        let mut pair = pair();
        let sealed: Vec<Vec<u8>> = (0..4).map(|seq| pair.send(seq)).collect();
        assert_eq!(pair.accept(0, &sealed[0]), Ok(vec![0]));
        assert_eq!(pair.accept(2, &sealed[2]), Err(Accepted::OutOfOrder));
        pair.sender.void(SealNumber(1_000), subject(1));
        let void = &pair.sender.unacknowledged[1];
        assert!(!void.is_sent && void.sealed.len() == FRONT_LEN + NUMBERS_LEN + TAG_LEN);
        let mut bytes: Vec<u8> = void.sealed.as_ref().pieces().flatten().copied().collect();
        pair.receiver.seal.open(subject(1), &mut bytes).unwrap();
        let (number, least, arrival) = read_numbers(pair.now, subject(1), bytes).unwrap();
        assert!(arrival.payload.is_empty());
        let Accepted::InOrder(arrivals) = pair.receiver.accept(number, least, arrival, 0) else { panic!() };
        assert_eq!(arrivals.iter().map(|arrival| arrival.subject.seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pair.accept(1, &sealed[1]), Err(Accepted::Duplicate), "the message itself comes too late");
        assert_eq!(pair.accept(3, &sealed[3]), Ok(vec![3]));
        let below = pair.receiver.taken_below();
        assert_eq!(pair.sender.acknowledge(pair.now, below).unwrap().len(), 4);
        assert_eq!(pair.sender.bytes(), (0, 0));
    }

    #[test]
    fn all_below_the_least_number_that_may_come_counts_as_taken() {
        let mut pair = pair();
        let sealed: Vec<Vec<u8>> = (0..4).map(|seq| pair.send(seq)).collect();
        assert_eq!(pair.accept(0, &sealed[0]), Ok(vec![0]));
        assert_eq!(pair.accept(2, &sealed[2]), Err(Accepted::OutOfOrder));
        // As if the acknowledgement of them came over a link.
        pair.sender.acknowledge(pair.now, ChannelNumber(74)).unwrap();
        let next = pair.send(4);
        assert_eq!(pair.accept(4, &next), Ok(vec![2, 4]), "what was in the reorder buffer is taken with it");
        assert_eq!(pair.accept(1, &sealed[1]), Err(Accepted::Duplicate), "too late");
    }

    #[test]
    fn a_channel_that_is_taken_up_again_takes_nothing_that_it_took_before() {
        let mut pair = pair();
        let sealed: Vec<Vec<u8>> = (0..3).map(|seq| pair.send(seq)).collect();
        for (seq, sealed) in (0..).zip(&sealed) {
            pair.accept(seq, sealed).unwrap();
        }
        assert!(pair.receiver.is_new_control(SealNumber(9)));
        let replay_floor = pair.receiver.replay_floor();
        pair.receiver = Channel::new(pair.now, seal(2, 1), ChannelNumber(50), replay_floor);
        for (seq, sealed) in (0..).zip(&sealed) {
            assert_eq!(pair.accept(seq, sealed), Err(Accepted::Duplicate));
        }
        assert!(!pair.receiver.is_new_control(SealNumber(9)));
        assert!(pair.receiver.is_new_control(SealNumber(10)));
        // The sender forgets, too; its numbers go on.
        pair.sender = Channel::new(
            pair.now,
            seal(1, 2),
            ChannelNumber::first_after(pair.sealed),
            ReplayFloor::begin(INCARNATION),
        );
        let next = pair.send(3);
        assert_eq!(pair.accept(3, &next), Ok(vec![3]));
    }

    #[test]
    fn what_comes_before_its_turn_is_held_within_bounds() {
        let mut pair = pair();
        let first = pair.send(0);
        pair.accept(0, &first).unwrap();
        pair.send(1);
        for seq in 2..2 + REORDER_MESSAGES_MAX as u32 {
            let sealed = pair.send(seq);
            assert_eq!(pair.accept(seq, &sealed), Err(Accepted::OutOfOrder));
        }
        let sealed = pair.send(9_999);
        assert_eq!(pair.accept(9_999, &sealed), Err(Accepted::BufferFull));
        let since = pair.now;
        let arrival = |payload| Arrival { subject: subject(1), payload, since };
        let long = arrival(Bytes::from_static(&[0; 100]));
        assert_eq!(
            pair.receiver.accept(ChannelNumber(1 << 40), ChannelNumber(0), long, 99),
            Accepted::BufferFull
        );
        let arrival = arrival(Bytes::new());
        assert_eq!(
            pair.receiver.accept(ChannelNumber(5), ChannelNumber(6), arrival, 99),
            Accepted::Malformed
        );
    }

    #[test]
    fn control_payloads_are_taken_once_each_within_some_disorder() {
        let mut controls = ControlReplayWindow::default();
        for number in [5, 3, 4, 900, 2].map(SealNumber) {
            assert!(controls.is_new(number));
            assert!(!controls.is_new(number));
        }
        (1_000..1_000 + CONTROLS_MAX as u64).for_each(|number| assert!(controls.is_new(SealNumber(number))));
        for number in [0, 2, 5, 900, 1_000].map(SealNumber) {
            assert!(!controls.is_new(number), "{number:?}");
        }
        assert!(controls.is_new(SealNumber(2_000)));
    }

    #[test]
    fn the_retransmit_timeout_grows_while_nothing_is_heard_and_begins_anew_with_an_acknowledgement() {
        let mut pair = pair();
        assert!(!pair.sender.is_overdue(pair.now + 100 * SECOND, 1.0), "nothing is unacknowledged");
        pair.send(0);
        pair.send(1);
        let mut at = pair.now;
        for wait in [1, 2, 4, 8, 8] {
            assert!(!pair.sender.is_overdue(at + wait * SECOND - SECOND / 10, 1.0));
            at += wait * SECOND;
            assert!(pair.sender.is_overdue(at, 1.0));
        }
        assert_eq!(pair.sender.acknowledge(at, ChannelNumber(71)).unwrap(), [subject(0)]);
        assert!(!pair.sender.is_overdue(at + SECOND / 2, 1.0));
        assert!(pair.sender.is_overdue(at + SECOND, 1.0));
    }
}
