//! What nodes of FISCO BCOS 2.x do with messages (WIRE §8, INTEROP §1.1 and §2.1; ChannelRPCServer and Service of v2.10.3), for the
//! ledger nodes of the network: all that are up are linked with each other, and have applications of their own.
//!
//! A unicast goes to a random node whose sessions have the topic, the node itself among them, where it is lost; there to a random
//! session, for 5 s, then to another one, and if none is left it is answered 104 with its own data. An answer is told by its seq
//! alone, of whatever type it is. A multicast goes to all other nodes, one hop far.

use std::{collections::BTreeMap, time::Duration};

use amop::internal::wire::{
    ResultCode,
    sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
};
use rand::RngExt;

use super::{ConnectionIndex, Event, LedgerIndex, Network, Received};

/// How long a session is waited for.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long another node is.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// A session of a ledger node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A node's connection for one of its sessions.
    Connection(ConnectionIndex),
    /// An application that is connected to the ledger node itself.
    Direct(usize),
}

/// An application at a ledger node.
pub struct DirectApp {
    pub ledger: LedgerIndex,
    pub topics: Vec<String>,
    /// Whether it answers unicasts, with what is in them.
    pub answers: bool,
    pub received: Vec<Received>,
}

#[derive(Default)]
pub struct VirtualMessages {
    pub direct: Vec<DirectApp>,
    /// Whether no ledger node reaches another one.
    pub is_cut: bool,
    /// Whether every message goes nowhere, answered 103.
    pub is_over_bandwidth: bool,
    pushes: BTreeMap<(Member, Seq), Pushed>,
    started: u64,
}

/// A unicast at a session.
#[derive(Clone)]
struct Pushed {
    number: u64,
    from: Member,
    frame: Vec<u8>,
    tried: Vec<Member>,
}

#[derive(Debug)]
pub enum Between {
    Unicast {
        to: LedgerIndex,
        from: Member,
        frame: Vec<u8>,
        others: Vec<LedgerIndex>,
    },
    Multicast {
        to: LedgerIndex,
        frame: Vec<u8>,
    },
    Answer {
        to: Member,
        frame: Vec<u8>,
    },
    Late {
        member: Member,
        seq: Seq,
        number: u64,
    },
    /// The node to which a unicast went has not answered.
    Lost {
        from: Member,
        frame: Vec<u8>,
        others: Vec<LedgerIndex>,
    },
}

fn topic_of(frame: &[u8]) -> String {
    AmopBody::decode(&frame[HEADER_LEN..])
        .expect("what ends a ledger node is not sent there")
        .topic
        .to_owned()
}

fn answer(frame: &[u8], code: i32, with_data: bool) -> Vec<u8> {
    let seq = Header::decode(frame).expect("a frame").seq;
    sdk::encode(
        FrameType::RESPONSE,
        &seq,
        ResultCode(code),
        if with_data { &frame[HEADER_LEN..] } else { &[] },
    )
}

impl Network {
    /// An application that is connected to a ledger node itself.
    pub fn direct_app(&mut self, ledger: LedgerIndex, topics: &[&str], answers: bool) -> usize {
        let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        self.chain.messages.direct.push(DirectApp { ledger, topics, answers, received: Vec::new() });
        self.chain.messages.direct.len() - 1
    }

    /// It sends a message.
    pub fn direct_sends(&mut self, app: usize, frame_type: FrameType, topic: &str, payload: &[u8]) -> Seq {
        let seq = self.seq();
        let frame = sdk::encode_amop(frame_type, &seq, ResultCode::OK, topic, payload);
        self.take_message(Member::Direct(app), &frame);
        seq
    }

    /// It sends a whole frame.
    pub fn direct_sends_bytes(&mut self, app: usize, frame: &[u8]) {
        self.take_message(Member::Direct(app), frame);
    }

    /// What an application at a ledger node got of a type: topic and payload.
    pub fn direct_pushed(&self, app: usize, frame_type: FrameType) -> Vec<(String, Vec<u8>)> {
        let received = &self.chain.messages.direct[app].received;
        let of_type = received.iter().filter(|one| one.header.frame_type == frame_type);
        let read = |one: &Received| {
            let body = AmopBody::decode(&one.data).expect("a body");
            (body.topic.to_owned(), one.data[body.payload_offset..].to_vec())
        };
        of_type.map(read).collect()
    }

    fn ledger_of(&self, member: Member) -> LedgerIndex {
        match member {
            Member::Connection(connection) => self.chain.connections[connection].ledger,
            Member::Direct(app) => self.chain.messages.direct[app].ledger,
        }
    }

    fn is_working(&self, ledger: LedgerIndex) -> bool {
        self.chain.nodes[ledger].is_up && !self.chain.nodes[ledger].is_frozen
    }

    /// Sessions of a ledger node that have a topic.
    fn members(&self, ledger: LedgerIndex, topic: &str) -> Vec<Member> {
        let connections = self.chain.connections.iter().enumerate().filter(|(_, one)| {
            one.is_open && one.ledger == ledger && one.topics.iter().any(|other| other == topic)
        });
        let direct = self.chain.messages.direct.iter().enumerate();
        let direct =
            direct.filter(|(_, one)| one.ledger == ledger && one.topics.iter().any(|other| other == topic));
        connections
            .map(|(index, _)| Member::Connection(index))
            .chain(direct.map(|(index, _)| Member::Direct(index)))
            .collect()
    }

    fn others(&self, ledger: LedgerIndex) -> Vec<LedgerIndex> {
        let is_cut = self.chain.messages.is_cut;
        let linked = |&other: &LedgerIndex| other != ledger && !is_cut && self.is_working(other);
        (0..self.chain.nodes.len()).filter(linked).collect()
    }

    fn later(&mut self, between: Between) {
        let delay = self.link_latency();
        self.schedule(delay, Event::BetweenLedgers(between));
    }

    /// A ledger node has a frame of one of its sessions.
    pub(super) fn take_message(&mut self, member: Member, frame: &[u8]) {
        let ledger = self.ledger_of(member);
        let header = Header::decode(frame).expect("a frame");
        if !self.is_working(ledger) {
            return;
        }
        // Told by its seq alone.
        if let Some(pushed) = self.chain.messages.pushes.remove(&(member, header.seq)) {
            return self.later(Between::Answer { to: pushed.from, frame: frame.to_vec() });
        }
        if self.chain.nodes[ledger].is_mute {
            return;
        }
        match header.frame_type {
            FrameType::REQUEST | FrameType::MULTICAST if self.chain.messages.is_over_bandwidth => {
                self.tell(member, answer(frame, 103, false));
            }
            FrameType::REQUEST => {
                let topic = topic_of(frame);
                let mut others = self.others(ledger);
                others.retain(|&other| !self.members(other, &topic).is_empty());
                if !self.members(ledger, &topic).is_empty() {
                    others.push(ledger);
                }
                self.try_next(member, frame.to_vec(), others);
            }
            FrameType::MULTICAST => {
                for to in self.others(ledger) {
                    self.later(Between::Multicast { to, frame: frame.to_vec() });
                }
                self.tell(member, answer(frame, 0, true));
            }
            // One that nobody waits for: its topic is read.
            FrameType::RESPONSE if frame.len() > HEADER_LEN => {
                let data = &frame[HEADER_LEN..];
                assert!(
                    data[0] > 0 && usize::from(data[0]) <= data.len(),
                    "this ends a real ledger node: {data:?}"
                );
            }
            _ => {}
        }
    }

    fn try_next(&mut self, from: Member, frame: Vec<u8>, mut others: Vec<LedgerIndex>) {
        if others.is_empty() {
            return self.tell(from, answer(&frame, 100, false));
        }
        let chosen = self.rng.random_range(0..others.len());
        let to = others.swap_remove(chosen);
        let lost = Between::Lost { from, frame: frame.clone(), others: others.clone() };
        // What a node sends itself is lost.
        if to == self.ledger_of(from) {
            return self.schedule(NODE_TIMEOUT, Event::BetweenLedgers(lost));
        }
        self.later(Between::Unicast { to, from, frame, others });
    }

    pub(super) fn between_ledgers(&mut self, between: Between) {
        match between {
            Between::Unicast { to, from, frame, others } => {
                if !self.is_working(to) {
                    let lost = Between::Lost { from, frame, others };
                    return self.schedule(NODE_TIMEOUT, Event::BetweenLedgers(lost));
                }
                let pushed = Pushed { number: 0, from, frame, tried: Vec::new() };
                self.push_to_member(to, pushed);
            }
            Between::Multicast { to, frame } => {
                if self.is_working(to) {
                    for member in self.members(to, &topic_of(&frame)) {
                        self.tell(member, frame.clone());
                    }
                }
            }
            Between::Answer { to, frame } => self.tell(to, frame),
            Between::Late { member, seq, number } => {
                let is_it = |pushed: &Pushed| pushed.number == number;
                if self.chain.messages.pushes.get(&(member, seq)).is_some_and(is_it)
                    && let Some(pushed) = self.chain.messages.pushes.remove(&(member, seq))
                {
                    self.push_to_member(self.ledger_of(member), pushed);
                }
            }
            Between::Lost { from, frame, others } => self.try_next(from, frame, others),
        }
    }

    fn push_to_member(&mut self, ledger: LedgerIndex, mut pushed: Pushed) {
        let mut members = self.members(ledger, &topic_of(&pushed.frame));
        members.retain(|member| !pushed.tried.contains(member));
        if members.is_empty() || !self.is_working(ledger) {
            let frame = answer(&pushed.frame, 104, true);
            return self.later(Between::Answer { to: pushed.from, frame });
        }
        let member = members[self.rng.random_range(0..members.len())];
        self.chain.messages.started += 1;
        pushed.number = self.chain.messages.started;
        pushed.tried.push(member);
        let (seq, number) = (Header::decode(&pushed.frame).expect("a frame").seq, pushed.number);
        let frame = pushed.frame.clone();
        self.chain.messages.pushes.entry((member, seq)).or_insert(pushed);
        self.schedule(PUSH_TIMEOUT, Event::BetweenLedgers(Between::Late { member, seq, number }));
        self.tell(member, frame);
    }

    /// A session gets a frame.
    fn tell(&mut self, member: Member, frame: Vec<u8>) {
        if !self.is_working(self.ledger_of(member)) {
            return;
        }
        match member {
            Member::Connection(connection) => self.ledger_sends_bytes(connection, frame),
            Member::Direct(app) => {
                let header = Header::decode(&frame).expect("a frame");
                let received = Received { at: self.now, header, data: frame[HEADER_LEN..].to_vec() };
                let app_of = &mut self.chain.messages.direct[app];
                app_of.received.push(received);
                if app_of.answers && header.frame_type == FrameType::REQUEST {
                    self.take_message(member, &answer(&frame, 0, true));
                }
            }
        }
    }

    /// A ledger node ends, and forgets what was under way.
    pub(super) fn forget_messages_of(&mut self, ledger: LedgerIndex) {
        let mut pushes = std::mem::take(&mut self.chain.messages.pushes);
        pushes.retain(|(member, _), _| self.ledger_of(*member) != ledger);
        self.chain.messages.pushes = pushes;
    }

    /// A session is gone: what it had not answered goes to another one.
    pub(super) fn end_member(&mut self, member: Member) {
        let keys: Vec<(Member, Seq)> =
            self.chain.messages.pushes.keys().filter(|(other, _)| *other == member).copied().collect();
        for key in keys {
            if let Some(pushed) = self.chain.messages.pushes.remove(&key) {
                self.push_to_member(self.ledger_of(member), pushed);
            }
        }
    }
}
