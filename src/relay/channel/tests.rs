//! The two halves of channels against a pipe that loses, reorders, doubles and delays, and against ends that forget.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    relay::sealing::Subject,
    wire::{
        MessageNumber, RetainedFrame,
        node::{ExtensionBlock, Numbers, PacketType},
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn subject(seq: u32) -> Subject {
    Subject { packet_type: PacketType::MULTICAST, message: MessageNumber(seq) }
}

fn message(seq: u32, is_sent: bool) -> Message {
    let frame = RetainedFrame::from_bytes(seq.to_be_bytes().to_vec().into());
    Message::new(subject(seq), ExtensionBlock::new(), frame, is_sent)
}

fn payload(frame: &RetainedFrame) -> Vec<u8> {
    frame.as_ref().pieces().flatten().copied().collect()
}

fn arrival(seq: u32, payload: &[u8], since: Instant) -> Arrival {
    let payload = RetainedFrame::from_bytes(payload.to_vec().into());
    Arrival { subject: subject(seq), payload, since }
}

/// Takes a message as a shard does; gives whose turn it is then, or why none.
fn take(
    receiver: &mut Receiver,
    numbers: Numbers,
    arrival: Arrival,
    bytes_max: usize,
) -> Result<Vec<Arrival>, Verdict> {
    match receiver.judge(&numbers) {
        Verdict::InTurn => Ok(vec![arrival]),
        Verdict::Early => {
            if !receiver.keep(ChannelNumber(numbers.place), arrival, bytes_max) {
                return Err(Verdict::Early);
            }
            Ok(std::iter::from_fn(|| receiver.pop_ready()).collect())
        }
        other => Err(other),
    }
}

fn seqs(arrivals: &[Arrival]) -> Vec<u32> {
    arrivals.iter().map(|arrival| arrival.subject.message.0).collect()
}

struct Pair {
    now: Instant,
    sender: Sender,
    receiver: Receiver,
}

fn pair() -> Pair {
    let now = Instant::now();
    let sender = Sender::new(now, ChannelNumber(70));
    Pair { now, sender, receiver: Receiver::new(ChannelNumber(0)) }
}

impl Pair {
    fn send(&mut self, seq: u32) -> Numbers {
        let numbers = self.sender.numbers(self.sender.next(), ChannelNumber(0));
        self.sender.push(self.now, message(seq, true));
        numbers
    }

    fn accept(&mut self, seq: u32, numbers: Numbers) -> Result<Vec<u32>, Verdict> {
        take(&mut self.receiver, numbers, arrival(seq, &[1], self.now), 1 << 20).map(|ready| seqs(&ready))
    }
}

#[test]
fn messages_are_taken_once_and_in_order_in_whatever_order_they_come() {
    let mut pair = pair();
    let sent: Vec<Numbers> = (0..5).map(|seq| pair.send(seq)).collect();
    assert_eq!(pair.accept(0, sent[0]), Ok(vec![0]));
    assert_eq!(pair.accept(3, sent[3]), Ok(vec![]));
    assert_eq!(pair.accept(2, sent[2]), Ok(vec![]));
    assert_eq!(pair.accept(3, sent[3]), Err(Verdict::Duplicate));
    assert_eq!(pair.accept(0, sent[0]), Err(Verdict::Duplicate));
    assert_eq!(pair.accept(1, sent[1]), Ok(vec![1, 2, 3]));
    assert_eq!(pair.accept(4, sent[4]), Ok(vec![4]));
    assert_eq!(pair.receiver.bytes(), 0);
    let below = pair.receiver.taken_below();
    assert_eq!(pair.sender.acknowledge(pair.now, below), Ok(()));
    assert_eq!((pair.sender.len(), pair.sender.bytes()), (0, 0));
    assert!(pair.sender.acknowledge(pair.now, below.next()).is_err(), "it was never sent");
    assert_eq!(pair.sender.acknowledge(pair.now, ChannelNumber(1)), Ok(()), "an old one");
}

#[test]
fn what_is_not_wanted_any_more_is_not_waited_for() {
    let mut pair = pair();
    let sent: Vec<Numbers> = (0..4).map(|seq| pair.send(seq)).collect();
    assert_eq!(pair.accept(0, sent[0]), Ok(vec![0]));
    assert_eq!(pair.accept(2, sent[2]), Ok(vec![]));
    let place = ChannelNumber(71);
    assert_eq!(pair.sender.void(place), 0, "a link has taken it");
    let waits: Vec<ChannelNumber> = pair.sender.places(false).map(|(place, _)| place).collect();
    assert_eq!(waits, [place]);
    assert!(pair.sender.get(place).unwrap().frame.is_empty());
    let numbers = pair.sender.numbers(place, ChannelNumber(0));
    assert_eq!(pair.accept(1, numbers), Ok(vec![1, 2]));
    assert_eq!(pair.accept(1, sent[1]), Err(Verdict::Duplicate), "the message itself comes too late");
    pair.sender.push(pair.now, message(9, false));
    assert_eq!(pair.sender.void(ChannelNumber(74)), 4, "no link has taken it");
}

#[test]
fn all_below_the_least_place_that_may_come_counts_as_taken() {
    let mut pair = pair();
    let sent: Vec<Numbers> = (0..4).map(|seq| pair.send(seq)).collect();
    assert_eq!(pair.accept(0, sent[0]), Ok(vec![0]));
    assert_eq!(pair.accept(2, sent[2]), Ok(vec![]));
    // As if it had been given up.
    pair.sender.acknowledge(pair.now, ChannelNumber(74)).unwrap();
    let next = pair.send(4);
    assert_eq!(pair.accept(4, next), Ok(vec![2, 4]), "what was in the reorder buffer is taken with it");
    assert_eq!(pair.accept(1, sent[1]), Err(Verdict::Duplicate), "too late");
}

#[test]
fn what_comes_before_its_turn_is_held_within_bounds_and_whose_turn_it_is_always_fits() {
    let mut pair = pair();
    let first = pair.send(0);
    pair.accept(0, first).unwrap();
    let second = pair.send(1);
    for seq in 2..2 + REORDER_MESSAGES_MAX as u32 {
        let numbers = pair.send(seq);
        assert_eq!(pair.accept(seq, numbers), Ok(vec![]));
    }
    let numbers = pair.send(9_999);
    assert_eq!(pair.accept(9_999, numbers), Err(Verdict::Early));
    assert_eq!(pair.accept(1, second).unwrap().len(), 1 + REORDER_MESSAGES_MAX);
    let far = Numbers { place: 1 << 40, least: 0, taken_below: 0 };
    assert!(take(&mut pair.receiver, far, arrival(1, &[0; 100], pair.now), 99).is_err());
    let contradicting = Numbers { place: 5, least: 6, taken_below: 0 };
    assert_eq!(pair.accept(1, contradicting), Err(Verdict::Malformed));
    let but_one = Numbers { place: u64::MAX - 1, least: u64::MAX - 1, taken_below: 0 };
    assert_eq!(pair.accept(1, but_one), Ok(vec![1]));
    let last = Numbers { place: u64::MAX, least: 0, taken_below: 0 };
    assert_eq!(pair.accept(1, last), Err(Verdict::Malformed));
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
    pair.sender.acknowledge(at, ChannelNumber(71)).unwrap();
    assert!(!pair.sender.is_overdue(at + SECOND / 2, 1.0));
    assert!(pair.sender.is_overdue(at + SECOND, 1.0));
}

#[test]
fn a_message_that_no_link_took_is_told_from_one_that_a_link_took_before_its_route_changed() {
    let mut pair = pair();
    pair.send(0);
    let place = pair.sender.push(pair.now, message(1, false));
    assert!(!pair.sender.was_sent(place) && pair.sender.has_unsent());
    pair.sender.set_sent(place, true);
    pair.sender.note_not_sent(subject(1));
    assert!(!pair.sender.was_sent(place));
    pair.sender.forget_route();
    assert_eq!(pair.sender.places(false).count(), 2);
    assert!(pair.sender.was_sent(ChannelNumber(70)) && !pair.sender.was_sent(place));
    assert_eq!(pair.sender.miscount(), None);
    pair.sender.acknowledge(pair.now, place.next()).unwrap();
    assert!(pair.sender.was_sent(place), "it was taken");
    assert_eq!((pair.sender.miscount(), pair.sender.has_unsent()), (None, false));
}

/// What is on its way from the sender: numbers, seq, payload.
type Datagram = (Numbers, u32, Vec<u8>);

/// Both ends, and what is between them.
struct Network {
    random: SmallRng,
    now: Instant,
    sender: Sender,
    receiver: Receiver,
    datagrams: VecDeque<Datagram>,
    acknowledgements: VecDeque<u64>,
    /// Messages so far, in all lives of the sender's half.
    sent: u32,
    issued: u64,
    taken: Vec<u32>,
    voided: std::collections::BTreeSet<u32>,
    given_up: std::collections::BTreeSet<u32>,
}

impl Network {
    fn transmit(&mut self, place: ChannelNumber) {
        let numbers = self.sender.numbers(place, ChannelNumber(0));
        let Some(message) = self.sender.get(place) else { return };
        let (seq, bytes) = (message.subject.message.0, payload(&message.frame));
        let lossy = self.random.random_range(0..10);
        self.sender.set_sent(place, lossy > 0);
        match lossy {
            // No link takes it, it is lost, or it comes twice.
            0 | 1 => {}
            2 => (0..2).for_each(|_| self.datagrams.push_back((numbers, seq, bytes.clone()))),
            _ => self.datagrams.push_back((numbers, seq, bytes)),
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..35 if self.sender.len() < 200 => {
                let place = self.sender.push(self.now, message(self.sent, false));
                (self.sent, self.issued) = (self.sent + 1, self.issued + 1);
                self.transmit(place);
            }
            0..75 => self.deliver(),
            75..85 => {
                if let Some(below) = self.acknowledgements.pop_front() {
                    self.sender.acknowledge(self.now, ChannelNumber(below)).expect("it was sent");
                }
            }
            85..92 => {
                while let Some(place) = self.sender.next_unsent() {
                    self.transmit(place);
                    if self.sender.next_unsent() == Some(place) {
                        break;
                    }
                }
            }
            92..95 => {
                self.now += SECOND;
                if self.sender.is_overdue(self.now, 1.0) {
                    let oldest: Vec<ChannelNumber> =
                        self.sender.places(true).take(20).map(|(place, _)| place).collect();
                    oldest.into_iter().for_each(|place| self.transmit(place));
                }
            }
            95 => self.sender.forget_route(),
            96 => {
                let unacknowledged: Vec<(ChannelNumber, u32)> = self
                    .sender
                    .places(true)
                    .map(|(place, message)| (place, message.subject.message.0))
                    .collect();
                if let Some(&(place, seq)) = unacknowledged.first() {
                    self.sender.void(place);
                    self.voided.insert(seq);
                }
            }
            // The receiver forgets all but how far it had come.
            97 => self.receiver = Receiver::new(self.receiver.taken_below()),
            // The sender forgets what is unacknowledged, or the whole half.
            98 if self.random.random_bool(0.1) => {
                self.given_up.extend(self.sender.places(true).map(|(_, message)| message.subject.message.0));
                self.sender.clear();
            }
            99 if self.random.random_bool(0.1) => {
                self.given_up.extend(self.sender.places(true).map(|(_, message)| message.subject.message.0));
                self.sender = Sender::new(self.now, ChannelNumber(self.issued + 1));
                self.acknowledgements.clear();
            }
            _ => {}
        }
    }

    fn deliver(&mut self) {
        if self.datagrams.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.datagrams.len().min(30));
        let (numbers, seq, bytes) = self.datagrams.remove(at).expect("it is there");
        let bytes_max = if self.random.random_bool(0.1) { 200 } else { 1 << 20 };
        let arrival = arrival(seq, &bytes, self.now);
        let taken = take(&mut self.receiver, numbers, arrival, bytes_max);
        assert_ne!(taken.as_ref().err(), Some(&Verdict::Malformed));
        for arrival in taken.unwrap_or_default() {
            if !arrival.payload.is_empty() {
                assert_eq!(payload(&arrival.payload), arrival.subject.message.0.to_be_bytes());
                self.taken.push(arrival.subject.message.0);
            }
        }
        if self.random.random_bool(0.5) {
            self.acknowledgements.push_back(self.receiver.taken_below().0);
        }
    }
}

/// Some hundred thousand steps in all; `AMOP_CHANNEL_STEPS` has it take more.
#[test]
fn over_a_pipe_that_loses_reorders_and_doubles_everything_is_taken_once_and_in_order() {
    let steps =
        std::env::var("AMOP_CHANNEL_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(20_000);
    for seed in 0..20 {
        let now = Instant::now();
        let mut network = Network {
            random: SmallRng::seed_from_u64(seed),
            now,
            sender: Sender::new(now, ChannelNumber(1)),
            receiver: Receiver::new(ChannelNumber(0)),
            datagrams: VecDeque::new(),
            acknowledgements: VecDeque::new(),
            sent: 0,
            issued: 0,
            taken: Vec::new(),
            voided: std::collections::BTreeSet::new(),
            given_up: std::collections::BTreeSet::new(),
        };
        for step in 0..steps {
            network.step();
            if step % 64 == 0 {
                assert_eq!(network.sender.miscount().or(network.receiver.miscount()), None);
            }
        }
        // From now on nothing is lost.
        for round in 0.. {
            if network.sender.len() == 0 {
                break;
            }
            assert!(round < 1_000, "nothing more is acknowledged");
            let places: Vec<ChannelNumber> = network.sender.places(true).map(|(place, _)| place).collect();
            places.into_iter().for_each(|place| network.transmit(place));
            while !network.datagrams.is_empty() {
                network.deliver();
            }
            let below = network.receiver.taken_below();
            network.sender.acknowledge(network.now, below).unwrap();
        }
        assert!(network.taken.is_sorted_by(|one, next| one < next), "once and in order");
        let taken: std::collections::BTreeSet<u32> = network.taken.iter().copied().collect();
        let all_others = |seq: &u32| network.voided.contains(seq) || network.given_up.contains(seq);
        let lost: Vec<u32> =
            (0..network.sent).filter(|seq| !taken.contains(seq) && !all_others(seq)).collect();
        assert!(lost.is_empty(), "of {} messages {lost:?} are lost in seed {seed}", network.sent);
        assert!(network.sent > 1_000 && taken.len() > 500, "{} of {}", taken.len(), network.sent);
    }
}
