//! `/trace/SEQ`: what became of one message, from here and from every node on its path.
//!
//! What this node knows names other nodes; those are asked, what they know may name further ones, and so on.
//! Nodes tell how long ago things were, not when: so everything is put on this node's clock, right up to half
//! a round trip, and what followed from what is never shown the other way round.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hyper::StatusCode;

use super::{
    Answer, Watched,
    ask::Unanswered,
    json::{self, Trace, TraceEvent, TraceNode, TraceStanding, TraceStep},
    json_answer,
    lists::{Clock, micros},
    pages::NoPage,
};
use crate::{
    relay::{
        diagnostic::{
            Question,
            trace::{ReplyStatus, TraceReply},
        },
        report::PeerReport,
        trace::{LocalTraces, Sender},
    },
    wire::{
        NodeId,
        sdk::Seq,
        trace::{
            Attempt, AttemptKind, AttemptOutcome, End, MessageTrace, Refusal, Role, seq_from_text,
            seq_to_text,
        },
    },
};

/// Nodes that are asked for one message.
pub(super) const NODES_MAX: usize = 64;

/// A node on the message's path.
struct NodeOnPath {
    /// The first 8 bytes of its id.
    short: u64,
    /// What is said of it.
    said: TraceNode,
}

/// A trace, and where it lies in time.
struct Placed {
    node: u64,
    /// When the message was taken there, in µs before this node was asked.
    before_us: i64,
    accuracy_us: u64,
    trace: MessageTrace,
    topic: String,
    sender: Option<Arc<Sender>>,
}

/// The page of a message. One that nobody knows is answered 404, with whom was asked.
pub(super) async fn page(watched: &Watched, seq: &str) -> Result<Answer, NoPage> {
    let seq = seq_from_text(seq).ok_or_else(|| {
        let what =
            "a seq is 32 letters and digits, such a UUID with dashes, or the 64 hex digits of its bytes";
        NoPage::new(StatusCode::BAD_REQUEST, what)
    })?;
    let (is_known, trace) = trace(watched, &seq).await?;
    let mut answer = json_answer(&trace);
    if !is_known {
        *answer.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(answer)
}

/// Collects what is known of a message; whether anything is.
async fn trace(watched: &Watched, seq: &Seq) -> Result<(bool, Trace), Unanswered> {
    let shared = &watched.shared;
    let clock = Clock::now();
    let neighbours = watched.ask_registry(|registry| registry.report_nodes()).await?;
    let mut path = Path {
        clock,
        names: neighbours.into_iter().map(|node| (node.id.short(), node.name)).collect(),
        nodes: Vec::new(),
        placed: Vec::new(),
    };
    path.look_here(watched, seq).await?;
    while path.ask_further(watched, seq).await? {}
    let own = shared.id.short();
    let Path { clock, nodes, placed, .. } = path;
    let sessions = match placed.iter().any(|placed| placed.node == own && names_sessions(&placed.trace)) {
        true => sessions(watched).await?,
        false => BTreeMap::new(),
    };
    let view = View { nodes: &nodes, sessions: &sessions, own };
    let (timeline, accounts) =
        (view.timeline(&placed, &clock), placed.iter().map(|placed| view.item(placed, &clock)).collect());
    let nodes = nodes.into_iter().map(|node| node.said).collect();
    let trace = Trace { seq: seq_to_text(seq), node: shared.id.to_hex(), timeline, nodes, accounts };
    Ok((!placed.is_empty(), trace))
}

/// The nodes that had to do with a message, as far as they are known, and what they know of it.
struct Path {
    clock: Clock,
    /// Of the neighbours, by the first 8 bytes of their ids.
    names: BTreeMap<u64, String>,
    nodes: Vec<NodeOnPath>,
    placed: Vec<Placed>,
}

impl Path {
    /// What this node knows itself.
    async fn look_here(&mut self, watched: &Watched, seq: &Seq) -> Result<(), Unanswered> {
        let shared = &watched.shared;
        let (short, id, name) = (shared.id.short(), shared.id.to_hex(), shared.own_name.clone());
        let mut said = new_node(id, name, TraceStanding::Here);
        (said.tracing, said.up_us) = (shared.tracing.load(Relaxed), micros(shared.started.elapsed()));
        for (here, told) in watched.ask_reactors::<LocalTraces>(&Question::KnownOf(*seq)).await? {
            said.more |= here.more;
            self.placed.extend(here.known.into_iter().map(|known| Placed {
                node: short,
                before_us: self.clock.before_us(told) + known.trace.age_us as i64,
                accuracy_us: 0,
                trace: known.trace,
                topic: known.topic,
                sender: known.sender,
            }));
        }
        said.accounts = self.placed.len();
        if self.placed.is_empty() {
            said.remark = knows_nothing(said.tracing).into();
        }
        self.nodes.push(NodeOnPath { short, said });
        Ok(())
    }

    /// Asks the nodes that are named and were not asked. Whether there were any: what they tell may name further ones.
    async fn ask_further(&mut self, watched: &Watched, seq: &Seq) -> Result<bool, Unanswered> {
        let is_known = |short: u64| self.nodes.iter().any(|node| node.short == short);
        let named = self.placed.iter().flat_map(|placed| named_nodes(&placed.trace));
        let mut named: Vec<u64> = named.filter(|&node| !is_known(node)).collect();
        named.sort_unstable();
        named.dedup();
        // Hostile nodes could name any number of others.
        named.truncate(2 * NODES_MAX);
        if named.is_empty() || self.nodes.len() > NODES_MAX {
            return Ok(false);
        }
        let mut asked = Vec::new();
        for short in named {
            let has_room = self.nodes.len() + asked.len() <= NODES_MAX;
            let snapshot = watched.shared.snapshot.load();
            let id = snapshot.neighbours.iter().find(|id| id.short() == short).copied();
            let ask =
                |node: NodeId| watched.ask_node::<TraceReply>(&node, Question::Trace { node, seq: *seq });
            asked.push((short, id, id.filter(|_| has_room).map(ask)));
        }
        for (short, id, answer) in asked {
            let hex = id.map_or_else(|| format!("{short:016x}"), |id| id.to_hex());
            let name = self.names.get(&short).cloned().unwrap_or_default();
            let standing = if id.is_some() { TraceStanding::NotAsked } else { TraceStanding::NotLinked };
            let mut node = NodeOnPath { short, said: new_node(hex, name, standing) };
            if let Some(answer) = answer
                && let Ok((reply, came)) = answer.await
            {
                take_reply(&mut node, reply, self.clock.before_us(came), &mut self.placed);
            }
            node.said.remark = remark(&node, &self.placed).into();
            self.nodes.push(node);
        }
        Ok(true)
    }
}

/// A node of which nothing else is known.
fn new_node(id: String, name: String, standing: TraceStanding) -> TraceNode {
    let remark = "".into();
    TraceNode {
        id,
        name,
        standing,
        accounts: 0,
        more: false,
        tracing: false,
        up_us: 0,
        round_trip_us: 0,
        remark,
    }
}

/// Takes what a node told, at the moment so long before this node was asked.
fn take_reply(node: &mut NodeOnPath, reply: TraceReply, came_before_us: i64, placed: &mut Vec<Placed>) {
    let said = &mut node.said;
    said.standing = match reply.status {
        ReplyStatus::Answered => TraceStanding::Answered,
        ReplyStatus::Silent => TraceStanding::Silent,
        ReplyStatus::NotLinked => TraceStanding::NotLinked,
        ReplyStatus::TooMany => TraceStanding::NotAsked,
    };
    said.accounts = reply.traces.len();
    (said.more, said.tracing) = (reply.more, reply.tracing);
    (said.up_us, said.round_trip_us) = (micros(reply.up), micros(reply.round_trip));
    let half_us = micros(reply.round_trip) as i64 / 2;
    for trace in reply.traces {
        let age_us = i64::try_from(trace.age_us).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        let mut new = Placed {
            node: node.short,
            before_us: came_before_us + half_us + age_us,
            accuracy_us: half_us as u64,
            trace,
            topic: String::new(),
            sender: None,
        };
        for other in placed.iter() {
            fit(&mut new, other);
        }
        placed.push(new);
    }
}

/// Moves a trace in time, so that it begins after it was sent and ends before its answer came, as far as both
/// can be.
fn fit(new: &mut Placed, other: &Placed) {
    let is_hop = |from: &Placed, to: &Placed, attempt: &Attempt| {
        attempt.kind == AttemptKind::Node
            && attempt.who == to.node
            && to.trace.is_from_node()
            && to.trace.origin == from.node
            && to.trace.message == attempt.message
    };
    let hop = |from: &Placed, to: &Placed| {
        from.trace.attempts.as_slice().iter().find(|attempt| is_hop(from, to, attempt)).copied()
    };
    let is_back = |attempt: &Attempt| {
        matches!(
            attempt.outcome,
            AttemptOutcome::Answered | AttemptOutcome::NotDelivered | AttemptOutcome::TimedOut
        )
    };
    // In these numbers later is less. A microsecond apart, so that no two moments are one.
    let (mut latest, mut earliest) = (i64::MIN, i64::MAX);
    if let Some(attempt) = hop(other, new) {
        let sent = other.before_us - i64::from(attempt.at_us);
        earliest = sent - 1;
        if is_back(&attempt) {
            latest = sent - i64::from(attempt.took_us) + i64::from(new.trace.took_us) + 1;
        }
    } else if let Some(attempt) = hop(new, other) {
        latest = other.before_us + i64::from(attempt.at_us) + 1;
        if is_back(&attempt) {
            let back = other.before_us - i64::from(other.trace.took_us);
            earliest = back + i64::from(attempt.at_us) + i64::from(attempt.took_us) - 1;
        }
    }
    // Where not both can be, as rounding and liars have it, it begins after it was sent.
    new.before_us = match hop(other, new).is_some() {
        true => new.before_us.max(latest).min(earliest),
        false => new.before_us.min(earliest).max(latest),
    };
}

/// Nodes that a trace names.
fn named_nodes(trace: &MessageTrace) -> impl Iterator<Item = u64> {
    let named = trace.attempts.as_slice().iter().filter(|attempt| attempt.kind == AttemptKind::Node);
    named.map(|attempt| attempt.who).chain(trace.is_from_node().then_some(trace.origin))
}

fn names_sessions(trace: &MessageTrace) -> bool {
    let is_session = |kind| matches!(kind, AttemptKind::Session | AttemptKind::Challenged);
    trace.attempts.as_slice().iter().any(|attempt| is_session(attempt.kind))
}

/// The sessions that this node has now: address and subject. A node of FISCO BCOS 2.x is one of them to a message.
async fn sessions(watched: &Watched) -> Result<BTreeMap<u64, (String, String)>, Unanswered> {
    let sessions = watched.links().await?.into_iter().filter_map(|link| match link.peer {
        PeerReport::Session(session) => Some((session.id.0, (link.address, session.subject))),
        PeerReport::Node2x(peer) => {
            let subject = format!("node {} of FISCO BCOS 2.x, {}", digits(peer.id.short()), peer.name);
            Some((peer.session.0, (link.address, subject)))
        }
        PeerReport::Node { .. } | PeerReport::Ledger { .. } => None,
    });
    Ok(sessions.collect())
}

fn knows_nothing(tracing: bool) -> &'static str {
    match tracing {
        true => "knows nothing of it: it never came there, or was forgotten because newer ones came",
        false => {
            "knows nothing of it: it never came there, ended with 0 there while tracing is off, or was \
             forgotten because newer ones came"
        }
    }
}

fn remark(node: &NodeOnPath, placed: &[Placed]) -> &'static str {
    let mentioned =
        placed.iter().filter(|placed| named_nodes(&placed.trace).any(|other| other == node.short));
    let since = mentioned.map(|placed| placed.before_us).max().unwrap_or(0);
    match node.said.standing {
        TraceStanding::Here | TraceStanding::Other => "",
        TraceStanding::Answered if node.said.accounts > 0 => "",
        TraceStanding::Answered if i64::try_from(node.said.up_us).is_ok_and(|up| up < since) => {
            "no longer knows it: it was restarted since"
        }
        TraceStanding::Answered => knows_nothing(node.said.tracing),
        TraceStanding::Silent => {
            "does not answer: it hangs, the link to it fails, or its version does not know how; see its log"
        }
        TraceStanding::NotLinked => {
            "is not linked with this node now: see whether it runs, or ask its own admin endpoint"
        }
        TraceStanding::NotAsked => "was not asked: too many questions are open; ask again",
    }
}

/// Whom to name how.
struct View<'a> {
    nodes: &'a [NodeOnPath],
    sessions: &'a BTreeMap<u64, (String, String)>,
    own: u64,
}

/// The eight digits by which logs name a node.
fn digits(short: u64) -> String {
    format!("{:08x}", short >> 32)
}

fn seconds(micros: u64) -> String {
    match micros {
        0..1_000_000 => format!("{}.{:03} ms", micros / 1_000, micros % 1_000),
        _ => format!("{}.{:03} s", micros / 1_000_000, micros / 1_000 % 1_000),
    }
}

impl View<'_> {
    fn node(&self, short: u64) -> String {
        match self.nodes.iter().find(|node| node.short == short && !node.said.name.is_empty()) {
            Some(node) => format!("node {} ({})", digits(short), node.said.name),
            None => format!("node {}", digits(short)),
        }
    }

    fn known_session(&self, node: u64, number: u64) -> Option<(&str, &str)> {
        let session = self.sessions.get(&number).filter(|_| node == self.own);
        session.map(|(address, subject)| (address.as_str(), subject.as_str()))
    }

    fn session(&self, node: u64, number: u64) -> String {
        if number << 16 == 0 {
            return format!("a session of reactor {}", number >> 48);
        }
        match self.known_session(node, number) {
            Some((address, subject)) => format!("session {number} ({address}, {subject})"),
            None if node == self.own => format!("session {number}, which is gone now,"),
            None => format!("session {number}"),
        }
    }

    fn timeline(&self, placed: &[Placed], clock: &Clock) -> Vec<TraceEvent> {
        let first = placed.iter().map(|placed| placed.before_us).max().unwrap_or(0);
        let mut events = Vec::new();
        for (index, placed) in placed.iter().enumerate() {
            let mut say = |at_us: u32, what: String| {
                let before_us = placed.before_us - i64::from(at_us);
                let (at, node) = (clock.show_micros(before_us), digits(placed.node));
                events.push((index, TraceEvent { at, after_us: first - before_us, node, what }));
            };
            let trace = &placed.trace;
            say(0, self.beginning(placed));
            for attempt in trace.attempts.as_slice() {
                let (begun, ended) = self.attempt(placed, attempt);
                if let Some(begun) = begun {
                    say(attempt.at_us, begun);
                }
                if let Some(ended) = ended {
                    say(attempt.at_us.saturating_add(attempt.took_us), ended);
                }
            }
            if trace.attempts.left_out() > 0 {
                let at_us = trace.attempts.as_slice().last().map_or(0, |attempt| attempt.at_us);
                say(at_us, format!("{} tries in between are not shown", trace.attempts.left_out()));
            }
            if let Some(end) = end(trace) {
                say(trace.took_us, end);
            }
        }
        // At one moment, what was told by the same node goes in its order.
        events.sort_by_key(|(index, event)| (event.after_us, *index));
        events.into_iter().map(|(_, event)| event).collect()
    }

    fn beginning(&self, placed: &Placed) -> String {
        let trace = &placed.trace;
        let from = match (&placed.sender, trace.is_from_node()) {
            (Some(sender), _) => {
                format!("session {} ({}, {})", trace.origin, sender.address, sender.subject)
            }
            (None, true) => self.node(trace.origin),
            (None, false) if trace.role == Role::OfLedger => ledger_node(trace.origin),
            (None, false) => self.session(placed.node, trace.origin),
        };
        let topic = match placed.topic.as_str() {
            "" => String::new(),
            topic => format!(" to {topic:?}"),
        };
        let size = trace.size;
        match trace.role {
            Role::Request => {
                let time = seconds(u64::from(trace.time_ms) * 1_000);
                let time = if trace.time_ms > 0 { format!("; it may take {time}") } else { String::new() };
                format!("takes a request of {size} bytes{topic} from {from}{time}")
            }
            Role::Forwarded => {
                let left = seconds(u64::from(trace.time_ms) * 1_000);
                format!("takes it{topic} from {from}, with {left} left")
            }
            Role::Multicast => format!("takes a multicast of {size} bytes{topic} from {from}"),
            Role::ForwardedMulticast => format!("takes a multicast of {size} bytes{topic} from {from}"),
            Role::OfLedger => match size {
                0 => format!("takes it{topic} from {from}"),
                size => format!("takes a request of {size} bytes{topic} from {from}"),
            },
            Role::FanOut => "another reactor takes its part of the multicast".to_owned(),
            Role::Other => "has to do with it in a way that this version does not know".to_owned(),
        }
    }

    fn attempt(&self, placed: &Placed, attempt: &Attempt) -> (Option<String>, Option<String>) {
        let who = match attempt.kind {
            AttemptKind::Node => self.node(attempt.who),
            AttemptKind::Ledger => ledger_node(attempt.who),
            AttemptKind::Challenged => format!("the challenged {}", self.session(placed.node, attempt.who)),
            _ => self.session(placed.node, attempt.who),
        };
        let left = u64::from(placed.trace.time_ms) * 1_000;
        let left = match left.checked_sub(attempt.at_us.into()) {
            Some(left) if placed.trace.time_ms > 0 => format!(", with {} left", seconds(left)),
            _ => String::new(),
        };
        let to_node = matches!(attempt.kind, AttemptKind::Node | AttemptKind::Ledger);
        let took = seconds(attempt.took_us.into());
        let begun = match to_node {
            true => format!("sends it to {who}{left}"),
            false => format!("pushes it to {who}{left}"),
        };
        let outcome = match attempt.outcome {
            AttemptOutcome::Open if placed.trace.end == End::Open => "has not answered yet".to_owned(),
            AttemptOutcome::Open if to_node => "did not answer while it was waited for".to_owned(),
            AttemptOutcome::Open => "had not answered by the end".to_owned(),
            AttemptOutcome::Answered => format!("answers, after {took}"),
            AttemptOutcome::Silent => format!("was silent for {took}"),
            AttemptOutcome::Left => format!("left without an answer, after {took}"),
            AttemptOutcome::NobodyLeft if attempt.kind == AttemptKind::Ledger => {
                format!("answers 100, no other node of the ledger has the topic, after {took}")
            }
            AttemptOutcome::OverBandwidth if attempt.kind == AttemptKind::Ledger && attempt.took_us > 0 => {
                "answers 103, its own bandwidth limit is reached".to_owned()
            }
            AttemptOutcome::NobodyLeft => "could not get it: nobody (else) there has the topic".to_owned(),
            AttemptOutcome::QueueFull => "could not get it: its queue is full".to_owned(),
            AttemptOutcome::SeqInUse => {
                "could not get it: it still has another request with this seq".to_owned()
            }
            AttemptOutcome::PushesFull => {
                "could not get it: too many pushes wait for their answer there".to_owned()
            }
            AttemptOutcome::NotTaken => "did not take it: the link to it was full, lost or silent".to_owned(),
            AttemptOutcome::NotHeard => "took it, and what became of it was not heard in time".to_owned(),
            AttemptOutcome::NotDelivered => {
                format!("answers 101, none of its sessions could take it, after {took}")
            }
            AttemptOutcome::TimedOut => {
                format!("answers 102, its sessions were silent or left, after {took}")
            }
            AttemptOutcome::OverBandwidth => "was not sent it: the bandwidth limit is reached".to_owned(),
            AttemptOutcome::ChallengeClosed => {
                "could not get it: its challenge is not open, or was carried already".to_owned()
            }
            AttemptOutcome::Sent => return (Some(format!("puts it on the link to {who}")), None),
            AttemptOutcome::TooLong => {
                "was not sent it: it is longer than that node, or those on the path, take".to_owned()
            }
            AttemptOutcome::Other => "ended in a way that this version does not know".to_owned(),
        };
        let was_reached = !matches!(
            attempt.outcome,
            AttemptOutcome::NobodyLeft
                | AttemptOutcome::QueueFull
                | AttemptOutcome::SeqInUse
                | AttemptOutcome::PushesFull
                | AttemptOutcome::OverBandwidth
                | AttemptOutcome::TooLong
                | AttemptOutcome::ChallengeClosed
        );
        let is_over = attempt.outcome != AttemptOutcome::Open;
        match (was_reached, is_over) {
            (true, true) => (Some(begun), Some(format!("{who} {outcome}"))),
            (true, false) => (Some(format!("{begun}; it {outcome}")), None),
            (false, _) => (None, Some(format!("{who} {outcome}"))),
        }
    }

    fn item(&self, placed: &Placed, clock: &Clock) -> json::MessageTrace {
        let trace = &placed.trace;
        let sender = placed.sender.as_deref();
        json::MessageTrace {
            node: format!("{:016x}", placed.node),
            role: trace.role.name().into(),
            end: trace.end.name().into(),
            refusal: trace.refusal.name().into(),
            code: trace.code().map(|code| code.0),
            taken: clock.show_micros(placed.before_us),
            taken_accuracy_us: placed.accuracy_us,
            took_us: trace.took_us,
            time_ms: trace.time_ms,
            origin: who(trace.is_from_node(), trace.origin),
            address: sender.map(|sender| sender.address.clone()),
            subject: sender.map(|sender| sender.subject.clone()),
            topic: placed.topic.clone(),
            message: trace.message.0,
            size: trace.size,
            copies: trace.copies,
            dropped: trace.dropped,
            steps_left_out: trace.attempts.left_out(),
            steps: trace.attempts.as_slice().iter().map(|attempt| self.step(placed.node, attempt)).collect(),
        }
    }

    fn step(&self, node: u64, attempt: &Attempt) -> TraceStep {
        let is_node = attempt.kind == AttemptKind::Node;
        let is_session = matches!(attempt.kind, AttemptKind::Session | AttemptKind::Challenged);
        let known = if !is_session { None } else { self.known_session(node, attempt.who) };
        TraceStep {
            at_us: attempt.at_us,
            took_us: attempt.took_us,
            tried: attempt.kind.name().into(),
            who: who(is_node, attempt.who),
            address: known.map(|(address, _)| address.to_owned()),
            subject: known.map(|(_, subject)| subject.to_owned()),
            message: attempt.message.0,
            fate: attempt.outcome.name().into(),
        }
    }
}

/// A node or a session as programs read it.
fn who(is_node: bool, number: u64) -> String {
    if is_node { format!("{number:016x}") } else { number.to_string() }
}

/// The ledger node behind a node, as people read it.
fn ledger_node(number: u64) -> String {
    format!("ledger node {number}")
}

/// How it ended, in words.
fn end(trace: &MessageTrace) -> Option<String> {
    let copies = |trace: &MessageTrace| {
        let dropped = match trace.dropped {
            0 => String::new(),
            dropped => format!(", {dropped} dropped because a queue was full"),
        };
        format!("{} copies for its sessions{dropped}", trace.copies)
    };
    let why = match trace.refusal {
        Refusal::None => "",
        Refusal::BadBody => ": its body is malformed",
        Refusal::NotRoutable => ": its topic is not routed, or it is private and nobody is accepted",
        Refusal::SeqInUse => ": its session already waits for an answer under this seq",
        Refusal::TableFull => ": too many requests wait for their answer",
        Refusal::Stopping => ": the node is stopping",
        Refusal::KeysExhausted => ": the session's TLS keys are used up",
        Refusal::OverBandwidth => ": the bandwidth limit is reached",
        Refusal::NotAdmitted => ": its node is left out by the lists of this one",
        Refusal::TooLong => ": it is longer than the node takes ([amop] frame_len_max)",
    };
    let code = trace.code().unwrap_or_default();
    match (trace.role, trace.end) {
        (_, End::Open) => None,
        (_, End::SenderLeft) => Some("the session that sent it left; nobody waits for the answer".to_owned()),
        (_, End::Unanswered) => Some("gives it up; the ledger node has a timeout of its own".to_owned()),
        (Role::Multicast, _) if trace.refusal == Refusal::None => {
            Some(format!("answers 0; {}", copies(trace)))
        }
        (Role::FanOut | Role::ForwardedMulticast, _) => Some(copies(trace)),
        (_, End::BySession) => Some(format!("passes the answer back: {code}")),
        (_, End::ByNode) => Some(format!("answers {code}{why}")),
        (_, End::Other) => Some("is done with it in a way that this version does not know".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MessageNumber;

    fn placed(node: u64, before_us: i64, trace: MessageTrace) -> Placed {
        Placed { node, before_us, accuracy_us: 0, trace, topic: String::new(), sender: None }
    }

    /// At node 1, which sent it to node 2 after 10 µs and had an answer after another 100; and there, where it
    /// took 40.
    fn source() -> MessageTrace {
        let mut trace = MessageTrace { role: Role::Request, took_us: 110, ..MessageTrace::default() };
        let (kind, outcome) = (AttemptKind::Node, AttemptOutcome::TimedOut);
        trace.attempts.push(Attempt {
            at_us: 10,
            took_us: 100,
            who: 2,
            message: MessageNumber(7),
            kind,
            outcome,
        });
        trace
    }

    fn destination() -> MessageTrace {
        MessageTrace {
            role: Role::Forwarded,
            origin: 1,
            message: MessageNumber(7),
            took_us: 40,
            ..MessageTrace::default()
        }
    }

    #[test]
    fn what_followed_from_what_is_never_shown_the_other_way_round() {
        for (reply, expected) in [(950, 950), (2_000, 989), (0, 931), (i64::MIN / 4, 931)] {
            let mut there = placed(2, reply, destination());
            fit(&mut there, &placed(1, 1_000, source()));
            assert_eq!(there.before_us, expected);
        }
        for (reply, expected) in [(1_000, 1_000), (0, 961), (2_000, 1_019)] {
            let mut here = placed(1, reply, source());
            fit(&mut here, &placed(2, 950, destination()));
            assert_eq!(here.before_us, expected);
        }
    }

    #[test]
    fn messages_of_other_numbers_and_nodes_do_not_move_each_other() {
        let other = |change: fn(&mut MessageTrace)| {
            let mut trace = destination();
            change(&mut trace);
            trace
        };
        for (node, trace) in [
            (3, destination()),
            (2, other(|trace| trace.message = MessageNumber(8))),
            (2, other(|trace| trace.origin = 3)),
            (2, other(|trace| trace.role = Role::Request)),
        ] {
            let mut there = placed(node, 0, trace);
            fit(&mut there, &placed(1, 1_000, source()));
            assert_eq!(there.before_us, 0);
        }
    }

    #[test]
    fn a_liar_that_tells_of_longer_than_there_was_still_begins_after_it_was_sent() {
        let mut there = placed(2, 5_000, MessageTrace { took_us: u32::MAX, ..destination() });
        fit(&mut there, &placed(1, 1_000, source()));
        assert_eq!(there.before_us, 989);
    }
}
