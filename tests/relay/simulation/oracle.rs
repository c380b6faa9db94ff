//! What must be true of everything that happens in the network, checked as it happens.
//!
//! The oracle sees frames where applications and nodes meet, and knows what was done to the network. It
//! knows nothing of the relay's code. Where the network was disturbed it asks for what must hold even so;
//! where it was not, for more.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amop::internal::wire::{
    ResultCode, TopicKind,
    node::{self, PacketType},
    sdk::{AmopBody, FrameType, HEADER_LEN, Header, Seq},
    state::NodeTraits,
};

use super::graph::{Edge, Graph, edge};
use crate::kit::{AppIndex, NodeIndex};

macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

pub mod proofs;
mod starts;

use proofs::{Proofs, is_reply};

/// For what is on its way and for gathering, beside what the links take.
const LOCAL_TIME: Duration = Duration::from_millis(500);
/// So long after a disturbance its consequences are over, beside what the links take: a dead link found, dialled again,
/// state caught up.
const RECOVERED_AFTER: Duration = Duration::from_secs(8);
/// What goes around a disturbance is late by so much: a dead link is found, and what was sent over it goes another route.
const DETOUR: Duration = Duration::from_secs(6);
/// Bounds on the length of frames that nodes have ways for, each of its own (WIRE §6.4).
const LINES_MAX: usize = 4;
/// Changes of topics that a session may make in a second before they are put off.
const CHANGES_PER_SECOND: usize = 20;

/// What kind of network it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Bounds are so low that they are hit: messages may be refused or dropped for it.
    pub tight: bool,
    /// A bandwidth limit is set.
    pub limited: bool,
    pub push_timeout: Duration,
    pub request_timeout: Duration,
    pub retry_after_push_timeout: bool,
    /// The longest that a frame takes over all links that lie between two nodes, if nothing is wrong.
    pub across: Duration,
    /// A node alters some of what it passes on for others.
    pub hostile: bool,
}

impl Rules {
    /// A change of topics is known everywhere after so long.
    pub fn known_after(&self) -> Duration {
        2 * LOCAL_TIME + self.across
    }

    /// An answer is on its way at most so long.
    fn on_the_way(&self) -> Duration {
        LOCAL_TIME + self.across
    }

    /// So long after a disturbance its consequences are over.
    pub fn recovered_after(&self) -> Duration {
        RECOVERED_AFTER + 3 * self.across
    }
}

/// A 0x30 or 0x35 that an application sent.
pub struct Message {
    pub from: AppIndex,
    pub seq: Seq,
    pub topic: String,
    pub frame: Vec<u8>,
    /// When its node had it in hands, and how many messages had been in nodes' hands before.
    taken: Option<(Instant, usize)>,
    /// Since when its publisher had held the marker of its private topic then.
    published_since: Option<Instant>,
    answers: usize,
    pub answered: bool,
    pushes: Vec<(AppIndex, Instant)>,
    /// When applications had it in hands; of one that reads slowly that is later.
    had: Vec<(AppIndex, Instant)>,
    /// It has reached another node.
    left: bool,
    /// 0x31 that applications sent for it: who, when a node had it, the frame.
    replies: Vec<(AppIndex, Instant, Vec<u8>)>,
    /// Its seq was used for another message, too.
    pub shares_seq: bool,
    multicast: bool,
}

impl Message {
    /// How long an application had yet to read before it had what was pushed to it.
    fn waited(&self, (app, at): &(AppIndex, Instant), now: Instant) -> Duration {
        let had = self.had.iter().find(|(other, had)| other == app && had >= at);
        had.map_or(now, |(_, had)| *had).saturating_duration_since(*at)
    }
}

#[derive(Default)]
struct App {
    node: NodeIndex,
    since: Option<Instant>,
    closed: Option<Instant>,
    /// Its sets of topics and from when they hold.
    sets: Vec<(Instant, BTreeSet<String>)>,
    /// A change that its node may put off: both sets count until then.
    unsure_until: Option<Instant>,
    /// Sets that its node may have put off for a later one.
    may_be_skipped: BTreeSet<Instant>,
    /// Answers every push, soon.
    good: bool,
    deaf: bool,
    /// One of FISCO BCOS 3.x: it has ordinary topics only, and its multicasts are not answered.
    is_3x: bool,
    /// When its last list of topics came: one that comes within a second takes nothing away.
    last_list: Option<Instant>,
    got: BTreeSet<usize>,
    /// Position of the newest message of each publisher that came in order.
    newest_multicast: BTreeMap<AppIndex, usize>,
    newest: BTreeMap<AppIndex, usize>,
}

/// What a fault befalls.
pub enum Scope {
    Node(NodeIndex),
    Links(BTreeSet<Edge>),
}

struct Fault {
    scope: Scope,
    from: Instant,
    to: Option<Instant>,
    freezes: bool,
    /// The node that waits for the link to return, in time: answers to its requests must not be lost.
    spares: Option<NodeIndex>,
}

/// Which nodes have had an undisturbed way from one of them, in some time; as of some number of faults and mends.
struct Undisturbed {
    asked: (NodeIndex, Instant, Instant, usize),
    nodes: Vec<bool>,
}

pub struct Oracle {
    pub rules: Rules,
    /// Longest frame of each node.
    bounds: Vec<usize>,
    graph: Graph,
    pub messages: Vec<Message>,
    apps: Vec<App>,
    faults: Vec<Fault>,
    /// Faults begun and ended.
    faults_changed: usize,
    undisturbed: RefCell<Option<Undisturbed>>,
    /// When a link last took a sealed frame: it may have been any message that is not answered.
    sealed_left: Option<Instant>,
    taken: usize,
    by_seq: BTreeMap<(AppIndex, Seq), Vec<usize>>,
    /// Challenges that carry the payload of another message, by their seq.
    handed_on: BTreeMap<Seq, usize>,
    pub proofs: Proofs,
    since: starts::Since,
    /// Answers by code, for the report.
    pub codes: BTreeMap<i32, u64>,
    pub pushes: u64,
    /// Pushes from applications of FISCO BCOS 2.x to those of 3.x, and back.
    pub between_dialects: u64,
    /// Unicasts that another node's application answered while something was wrong in the network, or had just been.
    pub in_spite: u64,
}

pub type Verdict = Result<(), String>;

/// The number that the payload of every message and reply begins with.
pub fn number(frame: &[u8]) -> Option<usize> {
    let body = AmopBody::decode(frame.get(HEADER_LEN..)?).ok()?;
    let payload = &frame[HEADER_LEN + body.payload_offset..];
    Some(u64::from_be_bytes(*payload.first_chunk::<8>()?) as usize)
}

impl Oracle {
    pub fn new(rules: Rules, graph: Graph, bounds: Vec<usize>) -> Self {
        Self {
            rules,
            bounds,
            graph,
            messages: Vec::new(),
            apps: Vec::new(),
            faults: Vec::new(),
            faults_changed: 0,
            undisturbed: RefCell::default(),
            sealed_left: None,
            taken: 0,
            by_seq: BTreeMap::new(),
            handed_on: BTreeMap::new(),
            proofs: Proofs::default(),
            since: starts::Since::default(),
            codes: BTreeMap::new(),
            pushes: 0,
            between_dialects: 0,
            in_spite: 0,
        }
    }

    /// An application is one of FISCO BCOS 3.x.
    pub fn speaks_3x(&mut self, app: AppIndex) {
        self.apps[app].is_3x = true;
    }

    pub fn add_app(&mut self, now: Instant, app: AppIndex, node: NodeIndex, good: bool, deaf: bool) {
        self.apps.resize_with(app + 1, App::default);
        self.apps[app] = App { node, since: Some(now), good, deaf, ..App::default() };
        self.apps[app].sets.push((now, BTreeSet::new()));
    }

    /// A message that is about to be sent; gives its number.
    pub fn add_message(&mut self, from: AppIndex, seq: Seq, topic: &str, multicast: bool) -> usize {
        let number = self.messages.len();
        let same: &mut Vec<usize> = self.by_seq.entry((from, seq)).or_default();
        let shares_seq = !same.is_empty();
        for &other in &*same {
            self.messages[other].shares_seq = true;
        }
        same.push(number);
        self.messages.push(Message {
            from,
            seq,
            topic: topic.to_owned(),
            frame: Vec::new(),
            taken: None,
            published_since: None,
            answers: 0,
            answered: false,
            pushes: Vec::new(),
            had: Vec::new(),
            left: false,
            replies: Vec::new(),
            shares_seq,
            multicast,
        });
        number
    }

    /// A message is about to be sent with the payload of another one.
    pub fn hands_on(&mut self, number: usize) {
        self.handed_on.insert(self.messages[number].seq, number);
    }

    /// Which message a frame that applications sent or get is, or answers.
    fn identify(&self, seq: &Seq, bytes: &[u8]) -> Option<usize> {
        self.handed_on.get(seq).copied().or_else(|| number(bytes))
    }

    /// Something bad begins; gives its number.
    pub fn begin_fault(&mut self, now: Instant, scope: Scope, freezes: bool) -> usize {
        self.faults.push(Fault { scope, from: now, to: None, freezes, spares: None });
        self.faults_changed += 1;
        self.faults.len() - 1
    }

    /// The link between two nodes ends and is back within the time that one of them waits for it.
    pub fn begin_short_break(&mut self, now: Instant, link: Edge, waits: NodeIndex) -> usize {
        let fault = self.begin_fault(now, Scope::Links([link].into()), false);
        self.faults[fault].spares = Some(waits);
        fault
    }

    pub fn end_fault(&mut self, now: Instant, fault: usize) {
        self.faults[fault].to = Some(now);
        self.faults_changed += 1;
    }

    /// What happened so late that it could matter in that time.
    fn faults_in(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Fault> {
        let recovered_after = self.rules.recovered_after();
        self.faults
            .iter()
            .filter(move |fault| fault.from <= to && fault.to.is_none_or(|end| end + recovered_after >= from))
    }

    /// Whether anything bad happened so late that frames may be on their way that it befell.
    pub fn was_disturbed_lately(&self, now: Instant) -> bool {
        let earliest = now.checked_sub(self.rules.request_timeout).unwrap_or(now);
        self.faults_in(earliest, now).next().is_some()
    }

    /// Whether anything bad happened to two nodes, or to every way between them, so late that it could matter
    /// in that time.
    fn is_disturbed(&self, a: NodeIndex, b: NodeIndex, from: Instant, to: Instant) -> bool {
        let asked = (a, from, to, self.faults_changed);
        let mut known = self.undisturbed.borrow_mut();
        if known.as_ref().is_none_or(|known| known.asked != asked) {
            let faults: Vec<&Fault> = self.faults_in(from, to).collect();
            *known = Some(Undisturbed { asked, nodes: self.undisturbed_from(a, &faults, |_| true) });
        }
        known.as_ref().is_none_or(|known| !known.nodes[b])
    }

    /// Whether answers from node `b` may be lost on their way to `a`.
    fn may_lose_answers(&self, a: NodeIndex, b: NodeIndex, from: Instant, to: Instant) -> bool {
        let are_neighbours = self.graph.edges.contains(&edge(a, b));
        let counts = |fault: &&Fault| !are_neighbours || fault.spares != Some(a);
        let faults: Vec<&Fault> = self.faults_in(from, to).filter(counts).collect();
        !self.undisturbed_from(a, &faults, |_| true)[b]
    }

    /// To which nodes a route led in spite of these, over nodes that pass it on.
    fn undisturbed_from(
        &self,
        a: NodeIndex,
        faults: &[&Fault],
        passes_on: impl Fn(NodeIndex) -> bool,
    ) -> Vec<bool> {
        let is_well =
            |node| !faults.iter().any(|fault| matches!(fault.scope, Scope::Node(other) if other == node));
        if !is_well(a) {
            return vec![false; self.graph.nodes];
        }
        let is_whole = |edge| {
            !faults.iter().any(|fault| matches!(&fault.scope, Scope::Links(links) if links.contains(&edge)))
        };
        let distances = self.graph.distances(a, is_whole, |node| is_well(node) && passes_on(node));
        distances.iter().enumerate().map(|(node, links)| links.is_some() && is_well(node)).collect()
    }

    /// By how much something may be late because of what was wrong elsewhere.
    fn slack(&self, from: Instant, to: Instant) -> Duration {
        (self.faults_in(from, to).count() as u32 + u32::from(self.rules.hostile)) * DETOUR
    }

    fn frozen_time(&self, node: NodeIndex, from: Instant, to: Instant) -> Duration {
        self.faults
            .iter()
            .filter(|fault| fault.freezes && matches!(fault.scope, Scope::Node(other) if other == node))
            .map(|fault| fault.to.unwrap_or(to).min(to).saturating_duration_since(fault.from.max(from)))
            .sum()
    }

    /// Whether an application had a topic all the time.
    fn held(&self, app: AppIndex, topic: &str, from: Instant, to: Instant) -> bool {
        let app = &self.apps[app];
        if app.since.is_none_or(|since| since > from) || app.closed.is_some_and(|closed| closed <= to) {
            return false;
        }
        if app.unsure_until.is_some_and(|until| until >= from) {
            return false;
        }
        let mut in_time = app.sets.iter().enumerate().filter(|(index, (since, _))| {
            let until = app.sets.get(index + 1).map(|(next, _)| *next);
            *since <= to && until.is_none_or(|until| until >= from)
        });
        in_time.all(|(_, (_, set))| set.contains(topic))
    }

    /// Whether an application may have had a topic at some time.
    fn ever_held(&self, app: AppIndex, topic: &str, from: Instant, to: Instant) -> bool {
        let app = &self.apps[app];
        app.sets.iter().enumerate().any(|(index, (since, set))| {
            let until = app.sets.get(index + 1).map(|(next, _)| *next).or(app.closed);
            set.contains(topic) && *since <= to && until.is_none_or(|until| until >= from)
        })
    }

    /// From when on what other nodes had may be what a node takes for the present: while it is cut off it hears of no
    /// change.
    fn not_heard_since(&self, at: Instant) -> Instant {
        let recovered_after = self.rules.recovered_after();
        let lately = at.checked_sub(recovered_after).unwrap_or(at);
        let begun = self.faults_in(at, at).map(|fault| fault.from).fold(lately, Instant::min);
        begun.checked_sub(recovered_after).unwrap_or(begun)
    }

    /// Whether an application may have a topic at its node now.
    fn may_have(&self, app: AppIndex, topic: &str, now: Instant) -> bool {
        let app = &self.apps[app];
        match app.unsure_until {
            Some(until) if now <= until => app.sets.iter().any(|(_, set)| set.contains(topic)),
            _ => app.sets.last().is_some_and(|(_, set)| set.contains(topic)),
        }
    }

    /// Sessions that certainly could have taken a message all the time since it was sent.
    fn certain(&self, message: &Message, sent: Instant, now: Instant) -> impl Iterator<Item = AppIndex> {
        let publisher = self.apps[message.from].node;
        (0..self.apps.len()).filter(move |&app| {
            app != message.from
                && !self.apps[app].deaf
                && self.held(app, &message.topic, sent - self.rules.known_after(), now)
                && !self.is_disturbed(publisher, self.apps[app].node, sent, now)
                && match TopicKind::of(message.topic.as_bytes()) {
                    TopicKind::Ordinary => true,
                    TopicKind::Data => self.is_surely_accepted(message.from, app, &message.topic, sent, now),
                    _ => false,
                }
        })
    }

    /// Whether a message can surely get to where an application is, in spite of these: each node has a bound on how long
    /// frames are, also of those that it passes on.
    fn fits(&self, message: &Message, app: AppIndex, faults: &[&Fault]) -> bool {
        let (from, to, len) = (self.apps[message.from].node, self.apps[app].node, message.frame.len());
        if from == to || self.bounds.iter().all(|bound| len <= *bound) {
            return true;
        }
        len <= self.bounds[to]
            && self.undisturbed_from(from, faults, |node| self.bounds[node] >= self.bound_needed(len))[to]
    }

    /// The bound of nodes over which frames of so many bytes go: where there are more different bounds than nodes draw lines
    /// at, long frames go only over those with the highest (WIRE §6.4).
    fn bound_needed(&self, len: usize) -> usize {
        let usual = NodeTraits::default().frame_len_max as usize;
        let relaying = (0..self.bounds.len()).filter(|node| !self.graph.ends.contains(node));
        let bounds: BTreeSet<usize> = relaying.map(|node| self.bounds[node]).chain([usual]).collect();
        let lines_end = bounds.iter().nth(LINES_MAX - 2).filter(|_| bounds.len() > LINES_MAX);
        if lines_end.is_some_and(|end| len > *end) { usual.max(len) } else { len }
    }

    /// A node has a frame of an application in its hands.
    pub fn taken(&mut self, now: Instant, app: AppIndex, bytes: &[u8]) {
        let Some(header) = Header::decode(bytes) else { return };
        match header.frame_type {
            FrameType::REQUEST | FrameType::MULTICAST => {
                // One with a broken body has its number in the table only.
                let number = self.identify(&header.seq, bytes).or_else(|| {
                    let sent = self.by_seq.get(&(app, header.seq))?;
                    sent.iter().copied().find(|&number| self.messages[number].taken.is_none())
                });
                if let Some(number) = number {
                    let marker = proofs::marker_of(&self.messages[number].topic);
                    self.messages[number].published_since = self.holds_since(app, &marker, now);
                    // Nobody says that it is accepted.
                    let is_untold = self.apps[app].is_3x && self.messages[number].multicast;
                    self.messages[number].answered |= is_untold;
                    self.messages[number].taken = Some((now, self.taken));
                    self.taken += 1;
                }
            }
            FrameType::RESPONSE => {
                self.answered_challenge(now, app, header.seq);
                if let Some(number) = self.identify(&header.seq, bytes) {
                    self.messages[number].replies.push((app, now, bytes.to_vec()));
                }
            }
            FrameType::TOPIC_STATUS => self.judged(now, app, bytes),
            FrameType::SUBSCRIBE => {
                let Ok(mut set) = serde_json::from_slice::<BTreeSet<String>>(&bytes[HEADER_LEN..]) else {
                    return;
                };
                let app = &mut self.apps[app];
                if app.is_3x {
                    set.retain(|topic| TopicKind::of(topic.as_bytes()) == TopicKind::Ordinary);
                    let last_list = app.last_list.replace(now);
                    if last_list.is_some_and(|last| now - last < Duration::from_secs(1)) {
                        set.extend(app.sets.last().into_iter().flat_map(|(_, last)| last.iter().cloned()));
                    }
                }
                if app.sets.last().is_some_and(|(_, last)| *last == set) {
                    return;
                }
                let second = Duration::from_secs(1);
                let recent = app.sets.iter().rev().take_while(|(since, _)| now - *since < second).count();
                if recent >= CHANGES_PER_SECOND {
                    app.unsure_until = Some(now + 2 * second);
                    app.may_be_skipped.insert(now);
                }
                app.sets.push((now, set));
            }
            _ => {}
        }
    }

    /// A frame crossed a node link.
    pub fn crossed(&mut self, now: Instant, from: NodeIndex, to: NodeIndex, bytes: &[u8]) {
        let Ok((header, _)) = node::Header::decode(bytes) else { return };
        if header.packet_type == PacketType::HELLO {
            self.greeted(now, from, to);
        }
    }

    /// The link to another node has taken a frame.
    pub fn left(&mut self, now: Instant, bytes: &[u8]) {
        let Ok((header, offset)) = node::Header::decode(bytes) else { return };
        if header.flags & node::FLAG_SEALED != 0 {
            self.sealed_left = Some(now);
            return;
        }
        let offset = offset + node::Numbers::LEN;
        if header.packet_type == PacketType::UNICAST
            && let Some((_, extensions)) = bytes.get(offset..).and_then(node::Extensions::decode)
            && let Some(inner) = Header::decode(&bytes[offset + extensions..])
            && let Some(number) = self.identify(&inner.seq, &bytes[offset + extensions..])
        {
            self.messages[number].left = true;
        }
    }

    /// An application has a frame in its hands.
    pub fn had(&mut self, now: Instant, app: AppIndex, bytes: &[u8]) {
        let Some(header) = Header::decode(bytes) else { return };
        if header.frame_type == FrameType::REQUEST
            && let Some(number) = self.identify(&header.seq, bytes)
        {
            self.messages[number].had.push((app, now));
        }
    }

    pub fn closed(&mut self, now: Instant, app: AppIndex) {
        self.apps[app].closed.get_or_insert(now);
    }

    pub fn node_of(&self, app: AppIndex) -> NodeIndex {
        self.apps[app].node
    }

    /// A node has queued a frame for an application.
    pub fn emitted(&mut self, now: Instant, app: AppIndex, bytes: &[u8]) -> Verdict {
        let header = Header::decode(bytes).ok_or("a frame without a header")?;
        hold!(header.len as usize == bytes.len(), "a frame that lies about its length");
        match header.frame_type {
            FrameType::REQUEST | FrameType::MULTICAST => self.pushed(now, app, bytes),
            FrameType::RESPONSE => self.answered(now, app, &header, bytes),
            FrameType::TOPIC_CERTIFICATION => self.asked(now, app, bytes),
            _ => Ok(()),
        }
    }

    fn pushed(&mut self, now: Instant, app: AppIndex, bytes: &[u8]) -> Verdict {
        let header = Header::decode(bytes).ok_or("a frame without a header")?;
        let known_after = self.rules.known_after();
        let number = self
            .identify(&header.seq, bytes)
            .ok_or_else(|| format!("app{app} gets a frame that nobody sent"))?;
        let message =
            self.messages.get(number).ok_or_else(|| format!("app{app} gets a frame that nobody sent"))?;
        let what = format!("app{app} gets message {number}");
        let (sent, position) = message.taken.ok_or_else(|| format!("{what} before it was sent"))?;
        let (from, topic, multicast) = (message.from, message.topic.clone(), message.multicast);
        let first = message.pushes.is_empty();
        let kind = TopicKind::of(topic.as_bytes());
        hold!(multicast || from != app, "{what}, a unicast of its own");
        match kind {
            TopicKind::Ordinary => {}
            TopicKind::Data => self.check_entitled(app, number, now)?,
            TopicKind::Route if !multicast => self.carried(now, app, number, bytes)?,
            _ => return Err(format!("{what} of a topic that is never routed")),
        }
        if kind != TopicKind::Route {
            hold!(self.messages[number].frame == bytes, "{what}, altered");
            hold!(self.may_have(app, &topic, now), "{what} of topic {topic}, which it does not have");
        }
        hold!(self.apps[app].closed.is_none_or(|closed| now <= closed + known_after), "{what} after it left");
        hold!(self.apps[app].got.insert(number), "{what} twice");
        if multicast && from == app && !self.apps[app].is_3x {
            hold!(self.messages[number].answers > 0, "{what}, its own, before the acknowledgement");
        }
        if !multicast {
            let age = now - sent;
            hold!(
                age <= self.rules.request_timeout + self.longest_freeze() + known_after,
                "{what} after the request's time"
            );
            let open_twin = self.messages.iter().enumerate().rev().take(2_000).find(|(other, twin)| {
                *other != number
                    && twin.seq == self.messages[number].seq
                    && !twin.multicast
                    && !twin.answered
                    && twin.pushes.iter().any(|(pushed, _)| *pushed == app)
                    && !twin.replies.iter().any(|(replier, ..)| *replier == app)
                    && self.apps[twin.from].closed.is_none()
                    && !self.is_disturbed(self.apps[twin.from].node, self.apps[app].node, sent, now)
            });
            hold!(open_twin.is_none(), "{what} while a push with the same seq is open there");
        }
        let publisher = self.apps[from].node;
        let changed_lately = |app: &App| {
            app.sets.last().is_some_and(|(since, _)| *since + 2 * known_after > sent)
                || app.closed.is_some_and(|closed| closed + 2 * known_after > sent)
        };
        let not_heard_since = self.not_heard_since(sent);
        let in_one_try = (known_after + self.slack(sent, now)).min(self.rules.push_timeout - LOCAL_TIME);
        let in_order = multicast
            || first
                && kind != TopicKind::Route
                && !self.rules.tight
                && now - sent < in_one_try
                && !self.messages[number].shares_seq
                && !(0..self.apps.len()).any(|other| {
                    self.ever_held(other, &topic, not_heard_since, now)
                        && (self.is_disturbed(publisher, self.apps[other].node, sent, now)
                            || changed_lately(&self.apps[other]))
                });
        let receiver = &mut self.apps[app];
        if multicast {
            let newest = receiver.newest_multicast.insert(from, position);
            hold!(
                newest.is_none_or(|newest| newest < position),
                "{what} after a later multicast of app{from}"
            );
        }
        if in_order {
            let newest = receiver.newest.insert(from, position);
            hold!(newest.is_none_or(|newest| newest < position), "{what} after a later message of app{from}");
        }
        self.messages[number].pushes.push((app, now));
        self.pushes += 1;
        self.between_dialects += u64::from(self.apps[from].is_3x != self.apps[app].is_3x);
        Ok(())
    }

    fn longest_freeze(&self) -> Duration {
        let freezes = self.faults.iter().filter(|fault| fault.freezes);
        freezes.filter_map(|fault| Some(fault.to? - fault.from)).max().unwrap_or(Duration::from_secs(10))
    }

    fn answered(&mut self, now: Instant, app: AppIndex, header: &Header, bytes: &[u8]) -> Verdict {
        let sent = self.by_seq.get(&(app, header.seq)).map_or(&[][..], Vec::as_slice);
        let taken: Vec<usize> =
            sent.iter().copied().filter(|&number| self.messages[number].taken.is_some()).collect();
        hold!(!taken.is_empty(), "app{app} gets an answer to nothing");
        let code = header.result;
        // Which of several with one seq is answered: the one that the reply names, else the last that is open. But a node says
        // 101 to a second one at once, and 100 if nothing leads to its topic: any other code is for the first, which may have
        // waited until the second came.
        let by_node = bytes.len() == HEADER_LEN;
        let acknowledges = |number: &usize| self.messages[*number].multicast;
        let open = |number: &&usize| self.messages[**number].answers == 0;
        let named = number(bytes).filter(|number| taken.contains(number) && open(&number));
        let is_refused = |number: &usize| {
            let message = &self.messages[*number];
            code == ResultCode::NOT_DELIVERED
                || is_broken(&message.frame)
                || self.leads_nowhere(message)
                || TopicKind::of(message.topic.as_bytes()) == TopicKind::Data
        };
        let is_true = |number: &&usize| {
            let is_unicast = by_node && !acknowledges(number);
            !is_unicast || self.judge(now, **number, code, "").is_ok()
        };
        let (first, last) = (taken.iter().find(open), taken.iter().rfind(open));
        let likely = if by_node && !last.is_some_and(is_refused) { [first, last] } else { [last, first] };
        let unnamed = likely.into_iter().flatten().find(is_true).or(last);
        let number = named
            .or(unnamed.copied())
            .ok_or_else(|| format!("app{app} gets one answer too many (code {})", code.0))?;
        let multicast = acknowledges(&number);
        *self.codes.entry(code.0).or_default() += 1;
        self.messages[number].answers += 1;
        let answers: usize = taken.iter().map(|&number| self.messages[number].answers).sum();
        let what = format!("message {number} of app{app} is answered {}", code.0);
        hold!(answers <= taken.len() && self.messages[number].answers == 1, "{what}, a second time");
        let message = &self.messages[number];
        let (at, _) = message.taken.ok_or("answered before it was sent")?;
        let node = self.apps[app].node;
        let frozen = self.frozen_time(node, at, now);
        if multicast {
            hold!(!self.apps[app].is_3x, "{what}, though it is one of 3.x");
            hold!(now == at || frozen > Duration::ZERO, "{what} late");
            match code {
                ResultCode::OK => {}
                ResultCode::OVER_BANDWIDTH => hold!(self.rules.limited, "{what} without a limit"),
                ResultCode::NO_RECEIVER => hold!(is_broken(&message.frame), "{what}"),
                _ => return Err(what),
            }
            self.messages[number].answered = true;
            return Ok(());
        }
        hold!(
            now - at <= self.rules.request_timeout + frozen + self.rules.known_after(),
            "{what} after {:?}, too late",
            now - at
        );
        let verdict = if by_node {
            self.judge(now, number, code, &what)
        } else {
            let replied = |asked: &Message| {
                asked.replies.iter().any(|(replier, replied, reply)| {
                    let pushed = |(app, at): &(AppIndex, Instant)| app == replier && at <= replied;
                    is_reply(message, reply, bytes) && message.pushes.iter().any(pushed)
                })
            };
            // With a seq of its session that was used before, an old answer may be taken for the new one.
            let mut twins = self.messages.iter().filter(|twin| twin.seq == header.seq);
            let genuine = replied(message) || message.shares_seq && twins.any(replied);
            let is_elsewhere = |(app, _): &(AppIndex, Instant)| self.apps[*app].node != node;
            if message.pushes.last().is_some_and(is_elsewhere) && self.faults_in(at, now).next().is_some() {
                self.in_spite += 1;
            }
            hold!(genuine, "{what} with something that nobody it was pushed to has replied");
            self.replied(now, number);
            Ok(())
        };
        self.messages[number].answered = true;
        verdict
    }

    /// Whether a code that a node made is true.
    fn judge(&self, now: Instant, number: usize, code: ResultCode, what: &str) -> Verdict {
        let message = &self.messages[number];
        let (sent, _) = message.taken.ok_or("answered before it was sent")?;
        let node = self.apps[message.from].node;
        if is_broken(&message.frame) || self.leads_nowhere(message) {
            hold!(code == ResultCode::NO_RECEIVER, "{what}, though it can have no receiver");
            return Ok(());
        }
        if message.shares_seq && code == ResultCode::NOT_DELIVERED {
            return Ok(());
        }
        let certain = || self.certain(message, sent, now);
        let faults: Vec<&Fault> = self.faults_in(sent, now).collect();
        let reached = || certain().filter(|app| self.fits(message, *app, &faults));
        let slack = self.slack(sent, now);
        let pushed_surely = message.pushes.iter().find(|(app, at)| {
            let there = self.apps[*app].node;
            *at + self.rules.on_the_way() + slack <= now
                && (there == node || !self.is_disturbed(node, there, sent, now))
        });
        let not_heard_since = self.not_heard_since(sent);
        let ever_held = |app: AppIndex| self.ever_held(app, &message.topic, not_heard_since, now);
        let is_challenge = TopicKind::of(message.topic.as_bytes()) == TopicKind::Route;
        match code {
            ResultCode::NO_RECEIVER => {
                hold!(message.pushes.is_empty(), "{what}, though it was pushed");
                if let Some(app) = certain().next() {
                    return Err(format!("{what}, though app{app} subscribes"));
                }
                if let Some(app) = self.known_to_subscribe(message, sent, now) {
                    return Err(format!(
                        "{what}, though app{app} subscribes and a way led there all the time that it had to be known"
                    ));
                }
            }
            ResultCode::NOT_SENT => {
                hold!(pushed_surely.is_none(), "{what}, though it was pushed");
                let excused =
                    (0..self.apps.len()).any(|app| self.is_disturbed(node, self.apps[app].node, sent, now));
                let mut concerned = (0..self.apps.len())
                    .filter(|app| *app != message.from && (is_challenge || ever_held(*app)));
                // A way on which it does not fit may be known before the one on which it does.
                let is_detour =
                    self.has_new_links(sent) && self.bounds.iter().any(|bound| message.frame.len() > *bound);
                let is_long = is_detour || concerned.any(|app| !self.fits(message, app, &faults));
                hold!(excused || is_long || self.rules.tight, "{what}, though nothing was wrong");
                if !self.rules.tight
                    && !is_detour
                    && let Some(app) = reached().next()
                {
                    return Err(format!("{what}, though app{app} could be reached"));
                }
            }
            ResultCode::NOT_DELIVERED => {
                if let Some((app, _)) = pushed_surely {
                    return Err(format!("{what}, though it was pushed to app{app}"));
                }
                let known = (0..self.apps.len()).any(|app| app != message.from && ever_held(app));
                hold!(known || is_challenge || self.rules.tight, "{what}, though nobody ever had the topic");
                if !self.rules.tight
                    && let Some(app) = reached().next()
                {
                    return Err(format!("{what}, though app{app} could take it"));
                }
            }
            ResultCode::TIMEOUT => {
                let left = message.left || self.sealed_left.is_some_and(|at| at >= sent);
                hold!(!message.pushes.is_empty() || left, "{what}, though no link took it");
                let unheard = message.replies.iter().find(|(replier, replied, _)| {
                    let there = self.apps[*replier].node;
                    let heard = *replied + 2 * self.rules.known_after() + slack;
                    message.pushes.iter().any(|(app, at)| app == replier && at <= replied)
                        && heard <= now
                        && !self.may_lose_answers(node, there, sent, heard)
                });
                if let Some((app, ..)) = unheard
                    && !message.shares_seq
                    && !self.rules.tight
                {
                    return Err(format!("{what}, though app{app} replied in time"));
                }
                let untried = reached().find(|app| {
                    self.apps[*app].good && !message.pushes.iter().any(|(pushed, _)| pushed == app)
                });
                // Whoever was tried may have kept silent for the time of a push, which begins when it has it in hands (WIRE
                // §2.3); after that the next is due.
                let tries = message.pushes.len() as u32 + 1;
                let waited: Duration = message.pushes.iter().map(|push| message.waited(push, now)).sum();
                let on_the_way = self.rules.on_the_way();
                let had_time = tries * self.rules.push_timeout + waited + 2 * on_the_way + slack < now - sent;
                let early = now + on_the_way < sent + self.rules.request_timeout;
                // Who was drawn for its node's only subscriber, as far as that knew, may have been another one that had just
                // come; then nothing of the message was kept to try the next with.
                let known_at = sent - self.rules.known_after();
                let is_new =
                    |(app, at): &(AppIndex, Instant)| !self.held(*app, &message.topic, known_at, *at);
                if let Some(app) = untried
                    && (early || had_time)
                    && !message.pushes.iter().any(is_new)
                    && self.rules.retry_after_push_timeout
                    && !self.rules.tight
                    && !message.shares_seq
                {
                    return Err(format!("{what}, though app{app} was never tried"));
                }
            }
            ResultCode::OVER_BANDWIDTH => hold!(self.rules.limited, "{what} without a limit"),
            _ => return Err(format!("{what} by a node")),
        }
        Ok(())
    }

    /// What must be true when all is over.
    pub fn finish(&self, now: Instant) -> Verdict {
        for (number, message) in self.messages.iter().enumerate() {
            let Some((sent, _)) = message.taken else { continue };
            let app = &self.apps[message.from];
            let waits = app.closed.is_none() && !app.deaf;
            let what = format!("message {number} of app{} (topic {})", message.from, message.topic);
            let is_untold = app.is_3x && message.multicast;
            hold!(message.answers > 0 || !waits || is_untold, "{what} was never answered");
            if !message.multicast || self.rules.tight || self.rules.limited || !message.answered {
                continue;
            }
            // What comes later may make it later.
            let until = sent + 2 * self.rules.known_after();
            let until = until + self.slack(sent, until + self.slack(sent, until));
            let kind = TopicKind::of(message.topic.as_bytes());
            let is_private = kind == TopicKind::Data;
            if until > now || is_broken(&message.frame) || !is_private && kind != TopicKind::Ordinary {
                continue;
            }
            let faults: Vec<&Fault> = self.faults_in(sent, until).collect();
            for receiver in (0..self.apps.len()).filter(|&receiver| {
                !self.apps[receiver].deaf
                    && self.fits(message, receiver, &faults)
                    && self.held(receiver, &message.topic, sent - self.rules.known_after(), until)
                    && !self.is_disturbed(app.node, self.apps[receiver].node, sent, until)
                    && (!is_private
                        || self.is_surely_accepted(message.from, receiver, &message.topic, sent, until))
            }) {
                hold!(
                    self.apps[receiver].got.contains(&number),
                    "{what}, a multicast, never reached app{receiver}"
                );
            }
        }
        Ok(())
    }

    /// Whether unicasts are on their way to an application that reads slowly.
    pub fn has_yet_to_read(&self, app: AppIndex) -> bool {
        self.messages.iter().any(|message| {
            let mut pushes = message.pushes.iter().filter(|(pushed, _)| *pushed == app && !message.multicast);
            pushes.any(|(_, at)| !message.had.iter().any(|(had, when)| *had == app && when >= at))
        })
    }

    /// When a node last took a change of topics.
    pub fn last_change(&self) -> Option<Instant> {
        self.apps.iter().filter_map(|app| app.sets.last()).map(|(since, _)| *since).max()
    }

    /// How many sessions of each node have a topic.
    pub fn subscribers(&self) -> BTreeMap<String, BTreeMap<NodeIndex, u32>> {
        let mut topics: BTreeMap<String, BTreeMap<NodeIndex, u32>> = BTreeMap::new();
        for app in self.apps.iter().filter(|app| app.closed.is_none()) {
            for topic in app.sets.last().into_iter().flat_map(|(_, set)| set) {
                *topics.entry(topic.clone()).or_default().entry(app.node).or_default() += 1;
            }
        }
        topics
    }
}

/// Whether a 0x30 or 0x35 has no valid AMOP body.
fn is_broken(frame: &[u8]) -> bool {
    AmopBody::decode(&frame[HEADER_LEN..]).is_err()
}
