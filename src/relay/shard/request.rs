//! Unicasts: drawing a receiver, trying again, answering exactly once (WIRE §2.2, §3).
//!
//! The shard that takes a request coordinates it to its end. A publisher's request may go to sessions
//! of this node and to other nodes; one that a neighbour sent goes to sessions of this node only.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use rand::RngExt;
use smallvec::SmallVec;

use super::{
    Shard,
    desk::DESK,
    neighbour::{forwarded_len, private_forwarded_len},
    publisher::Audience,
    seqs::SeqKey,
    session_of,
    trace::{micros, refused, short_micros},
};
use crate::{
    relay::{
        LinkKey, MeshMessage, Named, NotPushed, Outbound, ReactorId, RequestId, SessionId,
        counters::Outcome,
        home_reactor,
        snapshot::{NodeEntry, NodeRef},
        timers::TimerKey,
        trace::{Known, PENDING_LOOKED_AT_MAX, Sender, TopicName},
    },
    wire::{
        FrameRef, NodeId, ResultCode, RetainedFrame, TopicKind,
        node::AUDIENCE_MAX,
        sdk::{AmopBody, FrameType, HEADER_LEN, Header, Seq},
        topic::MintedTopic,
        trace::{ACCOUNTS_MAX, Account, End, Fate, Refusal, Role, Step, Steps, Tried},
    },
};

/// Sessions and nodes that one request is tried at.
pub(in crate::relay) const TRIES_MAX: usize = 64;

/// A unicast that waits for its answer.
pub(super) struct Request {
    generation: u32,
    /// Whether it waits. Else its slot is free, and all that it had on the heap is gone.
    is_open: bool,
    origin: Origin,
    seq: SeqKey,
    taken: Instant,
    /// The same, in nanoseconds from the node's start.
    taken_nanos: u64,
    deadline: Instant,
    /// How long it may take in all.
    time: Duration,
    timer: Option<TimerKey>,
    /// The frame, if somebody else could be tried with it.
    retained: Option<RetainedFrame>,
    current: Try,
    /// Who failed, once somebody has.
    failed: Option<Box<Failed>>,
    /// Nodes that failed or are being tried, with the number of the message sent to them.
    nodes: SmallVec<[(NodeRef, u32); 1]>,
    furthest: Furthest,
    /// Who may get a neighbour's message with a private topic.
    audience: Option<Named>,
    /// When the neighbour was told that nobody answered; a late answer still goes to it.
    answered_for_now: Option<Instant>,
    topic: TopicName,
    /// Of the frame, in bytes.
    size: u32,
    /// Who was tried, for accounts.
    steps: Steps,
}

/// Who failed at this node.
#[derive(Default)]
struct Failed {
    /// Sessions that failed.
    tried: SmallVec<[SessionId; 2]>,
    /// Reactors none of whose (other) sessions can take it.
    exhausted: SmallVec<[ReactorId; 2]>,
    /// Sessions that are silent and may still answer.
    silent: SmallVec<[SessionId; 1]>,
}

/// Memory of a request, in bytes.
pub(super) const REQUEST_LEN: usize = size_of::<Request>() + size_of::<Failed>() + 16;

impl Request {
    /// Whether its node was told that nobody answered.
    pub(super) fn is_answered_for_now(&self) -> bool {
        self.answered_for_now.is_some()
    }

    fn tried(&self) -> &[SessionId] {
        self.failed.as_ref().map_or(&[], |failed| &failed.tried)
    }

    fn exhausted(&self) -> &[ReactorId] {
        self.failed.as_ref().map_or(&[], |failed| &failed.exhausted)
    }

    fn silent(&self) -> &[SessionId] {
        self.failed.as_ref().map_or(&[], |failed| &failed.silent)
    }

    fn failed(&mut self) -> &mut Failed {
        self.failed.get_or_insert_default()
    }

    /// It is over; what it still has on the heap goes.
    fn close(&mut self) {
        self.is_open = false;
        (self.retained, self.audience) = (None, None);
        self.steps = Steps::default();
    }

    /// Whether nobody has been tried yet.
    fn is_untried(&self) -> bool {
        self.nodes.is_empty() && self.exhausted().is_empty() && self.tried().is_empty()
    }
}

/// The requests of a shard by their index. None is moved while it waits: it is begun where the one before it ended.
#[derive(Default)]
pub(super) struct Requests {
    slots: Vec<Request>,
    free: Vec<u32>,
    started: u32,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Those that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().filter(|request| request.is_open)
    }

    /// The number of the next one.
    fn next_id(&self) -> RequestId {
        let index = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        RequestId { index, generation: self.started.wrapping_add(1) }
    }

    fn get(&self, id: RequestId) -> Option<&Request> {
        let request = self.slots.get(id.index as usize)?;
        (request.is_open && request.generation == id.generation).then_some(request)
    }

    fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        let request = self.slots.get_mut(id.index as usize)?;
        (request.is_open && request.generation == id.generation).then_some(request)
    }
}

/// Who waits for the answer.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Session {
        key: LinkKey,
        id: SessionId,
    },
    /// A neighbour, and its number for the message.
    Node {
        id: NodeId,
        incarnation: u64,
        message: u32,
    },
}

impl Request {
    fn begin_step(&mut self, now: Instant, tried: Tried, who: u64, message: u32) {
        // Most messages are tried once, at once.
        let at_us = match now == self.taken {
            true => 0,
            false => short_micros(now.saturating_duration_since(self.taken)),
        };
        self.steps.push(Step { at_us, took_us: 0, who, message, tried, fate: Fate::Open });
    }

    /// Notes what came of the last try that fits and has no outcome.
    fn end_step(&mut self, now: Instant, fate: Fate, fits: impl Fn(&Step) -> bool) -> Option<&mut Step> {
        let now_us = short_micros(now.saturating_duration_since(self.taken));
        let step = self.steps.last_mut(|step| step.fate == Fate::Open && fits(step))?;
        step.fate = fate;
        step.took_us = now_us.saturating_sub(step.at_us);
        Some(step)
    }

    fn end_node_step(&mut self, now: Instant, message: u32, fate: Fate) {
        self.end_step(now, fate, |step| step.tried == Tried::Node && step.message == message);
    }

    /// The session that was tried here last is known now.
    fn end_session_step(&mut self, now: Instant, session: SessionId, fate: Fate) {
        // A silent one may answer late, while another is tried.
        let is_late = |step: &Step| step.fate == Fate::Silent && step.who == session.0;
        if let Some(step) = self.steps.last_mut(is_late) {
            step.fate = fate;
            step.took_us = short_micros(now.saturating_duration_since(self.taken)).saturating_sub(step.at_us);
        } else if let Some(step) = self.end_step(now, fate, |step| step.tried != Tried::Node) {
            step.who = session.0;
        }
    }

    fn end_refused_step(&mut self, now: Instant, why: NotPushed) {
        let (fate, session) = match why {
            NotPushed::NobodyLeft => (Fate::NobodyLeft, None),
            NotPushed::QueueFull(session) => (Fate::QueueFull, Some(session)),
            NotPushed::SeqInUse => (Fate::SeqInUse, None),
            NotPushed::PushesFull => (Fate::PushesFull, None),
            NotPushed::ChallengeClosed => (Fate::ChallengeClosed, None),
        };
        let step = self.end_step(now, fate, |step| step.tried != Tried::Node);
        if let (Some(step), Some(session)) = (step, session) {
            step.who = session.0;
        }
    }

    /// What is told of it.
    fn account(&self, now: Instant, end: End, code: ResultCode) -> Account {
        let (role, origin, message) = match self.origin {
            Origin::Session { id, .. } => (Role::Request, id.0, 0),
            Origin::Node { id, message, .. } => (Role::Forwarded, id.short(), message),
        };
        let ended = self.answered_for_now.filter(|_| end == End::ByNode).unwrap_or(now);
        Account {
            role,
            end,
            code: code.0,
            took_us: short_micros(ended.saturating_duration_since(self.taken)),
            time_ms: u32::try_from(self.time.as_millis()).unwrap_or(u32::MAX),
            origin,
            message,
            size: self.size,
            steps: self.steps.clone(),
            ..Account::default()
        }
    }
}

/// The number by which an account names some session of a reactor.
fn some_session(reactor: ReactorId) -> u64 {
    u64::from(reactor.0) << 48
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    None,
    Reactor(ReactorId),
    /// The desk, which has a challenge carried to one session.
    Desk,
    Node(u32),
}

/// How far any try got; decides the code (WIRE §3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Furthest {
    NoReceiver,
    NotSent,
    NotDelivered,
    Pushed,
}

impl Furthest {
    fn code(self) -> ResultCode {
        match self {
            Self::NoReceiver => ResultCode::NO_RECEIVER,
            Self::NotSent => ResultCode::NOT_SENT,
            Self::NotDelivered => ResultCode::NOT_DELIVERED,
            Self::Pushed => ResultCode::TIMEOUT,
        }
    }
}

/// Who ended a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnsweredBy {
    /// This node, or nobody.
    Nobody,
    /// A session of this node.
    Session(SessionId),
    /// Another node, to which it was sent under this number.
    Node(u32),
}

/// What is left to do for a request that is over.
struct Ended {
    origin: Origin,
    taken_nanos: u64,
    /// Whether its node was told that nobody answered.
    is_answered_for_now: bool,
}

enum Candidate {
    /// With a private topic only those of its sessions that are named.
    Reactor(ReactorId, Option<Box<Named>>),
    Desk,
    /// With a private topic only those of its sessions that are named.
    Node(NodeRef, Option<Box<Named>>),
}

impl Shard {
    /// A 0x30 from a session.
    pub(super) fn handle_request(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        self.counters.requests.increment();
        let body = match AmopBody::decode(&frame.head()[HEADER_LEN..]) {
            Ok(body) => body,
            Err(_) => {
                self.counters.bad_bodies.increment();
                let message = (header, Role::Request, "");
                self.refuse(now, key, message, Refusal::BadBody, ResultCode::NO_RECEIVER, out);
                return;
            }
        };
        let is_routable = match body.kind() {
            TopicKind::Ordinary => true,
            TopicKind::Data => {
                self.note_subscribers(now, key.index);
                !self.audience(key.index, body.topic).is_empty()
            }
            // As subscribed they are not; those that were minted lead to the desk of a node.
            TopicKind::Route => self.minted_way(body.topic, true).is_some(),
            TopicKind::Marker | TopicKind::BlockNotify => false,
        };
        let message = (header, Role::Request, body.topic);
        if !is_routable {
            self.refuse(now, key, message, Refusal::NotRoutable, ResultCode::NO_RECEIVER, out);
            return;
        }
        let pending_max = self.shared.settings.pending_requests_max;
        let full = self.draining || self.requests.len() >= pending_max;
        let (seq, request) = (self.seq_key(&header.seq), self.requests.next_id());
        let Some(session) = self.session_mut(key) else { return };
        let (id, is_worn) = (session.id, session.is_worn);
        let is_in_use = match session.requests.entry(seq) {
            Entry::Occupied(_) => true,
            Entry::Vacant(_) if full || is_worn => false,
            Entry::Vacant(entry) => {
                entry.insert(request);
                false
            }
        };
        if is_in_use {
            self.refuse(now, key, message, Refusal::SeqInUse, ResultCode::NOT_DELIVERED, out);
            return;
        }
        if full {
            self.warn_pending_full(now, key);
        }
        if full || is_worn {
            let refusal = match is_worn {
                true => Refusal::KeysWorn,
                false if self.draining => Refusal::Stopping,
                false => Refusal::TableFull,
            };
            self.refuse(now, key, message, refusal, ResultCode::NOT_SENT, out);
            return;
        }
        let origin = Origin::Session { key, id };
        let time = self.shared.settings.request_timeout;
        self.open_request(now, origin, (&seq, header.len), body.topic, time, None);
        self.advance(now, request, body.topic, frame, out);
    }

    /// A unicast from a neighbour, for sessions of this node.
    pub(super) fn handle_request_of_node(
        &mut self,
        now: Instant,
        origin: Origin,
        time_left: Duration,
        audience: Option<Named>,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let head = frame.head();
        let Some(header) = Header::decode(head) else { return };
        let body = AmopBody::decode(&head[HEADER_LEN..]);
        let Origin::Node { id, incarnation, message } = origin else { return };
        let is_admitted = self.admits(&id);
        let is_for_us = |body: &AmopBody<'_>| match body.kind() {
            _ if !is_admitted => false,
            TopicKind::Ordinary => true,
            // Without an audience it is never delivered.
            TopicKind::Data => audience.is_some() && self.shared.settings.may_publish(body.topic, &id),
            TopicKind::Route => self.minted_way(body.topic, false).is_some(),
            TopicKind::Marker | TopicKind::BlockNotify => false,
        };
        let Some(body) = body.as_ref().ok().filter(|body| is_for_us(body)) else {
            let topic = body.as_ref().map_or("", |body| body.topic);
            let refusal = match body {
                _ if !is_admitted => Refusal::NotAdmitted,
                Ok(_) => Refusal::NotRoutable,
                Err(_) => Refusal::BadBody,
            };
            self.keep_refused_of_node(now, (&id, message), &header, topic, refusal);
            let answer = answer_frame(&header.seq, ResultCode::NOT_DELIVERED);
            self.respond(now, (&id, incarnation, message), true, FrameRef::Slice(&answer), out);
            return;
        };
        if self.draining || self.requests.len() >= self.shared.settings.pending_requests_max {
            let refusal = if self.draining { Refusal::Stopping } else { Refusal::TableFull };
            self.keep_refused_of_node(now, (&id, message), &header, body.topic, refusal);
            let answer = answer_frame(&header.seq, ResultCode::NOT_DELIVERED);
            self.respond(now, (&id, incarnation, message), true, FrameRef::Slice(&answer), out);
            return;
        }
        let time = time_left.min(self.shared.settings.request_timeout);
        let seq = self.seq_key(&header.seq);
        let request = self.open_request(now, origin, (&seq, header.len), body.topic, time, audience);
        self.advance(now, request, body.topic, frame, out);
    }

    /// Takes a request up; of its header come the seq and the length.
    fn open_request(
        &mut self,
        now: Instant,
        origin: Origin,
        (seq, size): (&SeqKey, u32),
        topic: &str,
        time: Duration,
        audience: Option<Named>,
    ) -> RequestId {
        let id = self.requests.next_id();
        let furthest = match origin {
            Origin::Session { .. } => Furthest::NoReceiver,
            Origin::Node { .. } => Furthest::NotDelivered,
        };
        let timer = Some(self.request_timers.start(now, id));
        let taken_nanos = self.nanos(now);
        let deadline = now + time;
        self.requests.started = id.generation;
        if self.requests.free.pop().is_some()
            && let Some(request) = self.requests.slots.get_mut(id.index as usize)
        {
            request.generation = id.generation;
            request.is_open = true;
            request.origin = origin;
            request.seq = *seq;
            (request.taken, request.taken_nanos) = (now, taken_nanos);
            (request.deadline, request.time) = (deadline, time);
            (request.timer, request.current, request.furthest) = (timer, Try::None, furthest);
            (request.audience, request.answered_for_now) = (audience, None);
            request.topic.set(topic);
            request.size = size;
            return id;
        }
        self.requests.slots.push(Request {
            generation: id.generation,
            is_open: true,
            origin,
            seq: *seq,
            taken: now,
            taken_nanos,
            deadline,
            time,
            timer,
            retained: None,
            current: Try::None,
            failed: None,
            nodes: SmallVec::new(),
            furthest,
            audience,
            answered_for_now: None,
            topic: TopicName::new(topic),
            size,
            steps: Steps::default(),
        });
        id
    }

    fn request_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.requests.get_mut(id)
    }

    /// Tries the next candidate; answers when there is none.
    fn advance(
        &mut self,
        now: Instant,
        id: RequestId,
        topic: &str,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let own = self.id;
        loop {
            let (candidate, others) = self.draw(id, topic);
            if others {
                self.retain(id, frame);
            }
            let Some(request) = self.request_mut(id) else { return };
            if now >= request.deadline {
                return self.give_up(now, id, out);
            }
            match candidate {
                None => return self.give_up(now, id, out),
                Some(Candidate::Desk) => {
                    request.current = Try::Desk;
                    request.begin_step(now, Tried::Challenged, some_session(DESK), 0);
                    let sender = match request.origin {
                        Origin::Session { id, .. } => Some(id),
                        Origin::Node { .. } => None,
                    };
                    if own != DESK {
                        return out.to_reactor(DESK, MeshMessage::Carry { request: id, sender }, frame);
                    }
                    if !self.carry(now, own, id, sender, frame, out) {
                        self.handle_undeliverable(now, id, DESK, NotPushed::ChallengeClosed, out);
                    }
                    return;
                }
                Some(Candidate::Reactor(reactor, audience)) => {
                    request.current = Try::Reactor(reactor);
                    request.begin_step(now, Tried::Session, some_session(reactor), 0);
                    let mut excluded: SmallVec<[SessionId; 2]> = SmallVec::new();
                    if !request.tried().is_empty() {
                        excluded.extend_from_slice(request.tried());
                    }
                    if let Origin::Session { id, .. } = request.origin {
                        excluded.push(id);
                    }
                    if reactor != own {
                        return out.to_reactor(
                            reactor,
                            MeshMessage::Deliver { request: id, audience, excluded },
                            frame,
                        );
                    }
                    let audience = audience.as_deref();
                    let seq = request.seq;
                    let message = (&seq, topic);
                    let pushed = self.push_to_any(now, own, id, audience, excluded, message, frame, out);
                    let Err(why) = pushed else { return };
                    if let Some(request) = self.request_mut(id) {
                        request.end_refused_step(now, why);
                        request.failed().exhausted.push(own);
                        request.furthest = request.furthest.max(Furthest::NotDelivered);
                    }
                }
                Some(Candidate::Node(node, audience)) => {
                    let origin = request.origin;
                    let first = request.is_untried();
                    let time_left = match now == request.taken {
                        true => request.time,
                        false => request.deadline.saturating_duration_since(now),
                    };
                    let time_left_ms = time_left.as_millis().try_into().unwrap_or(u32::MAX);
                    // What a client offers is admitted or refused; tries after the first are charged.
                    let cost = self.sealed_len(&node.id)
                        + match &audience {
                            None => forwarded_len(frame.len()),
                            Some(named) => private_forwarded_len(frame.len(), named.0.len()),
                        };
                    let elapsed = self.shared.limiter_time(now);
                    let admitted = match origin {
                        _ if !first => {
                            self.shared.limiter.charge(elapsed, cost);
                            true
                        }
                        Origin::Session { key, .. } => self.admit_bandwidth(now, key, cost),
                        Origin::Node { .. } => self.shared.limiter.admit(elapsed, cost),
                    };
                    if !admitted {
                        if let Origin::Session { key, .. } = origin {
                            self.warn_over_bandwidth(now, key);
                        }
                        if let Some(request) = self.request_mut(id) {
                            request.begin_step(now, Tried::Node, node.id.short(), 0);
                            request.end_node_step(now, 0, Fate::OverBandwidth);
                        }
                        return self.answer_myself(now, id, ResultCode::OVER_BANDWIDTH, out);
                    }
                    self.counters.bandwidth_charged_bytes.add(cost);
                    let message = self.next_message();
                    if let Some(request) = self.request_mut(id) {
                        request.nodes.push((node.clone(), message));
                        request.begin_step(now, Tried::Node, node.id.short(), message);
                        request.current = Try::Node(message);
                    }
                    if node.reactor != own {
                        let forward = MeshMessage::Forward {
                            request: id,
                            node: node.id,
                            message,
                            time_left_ms,
                            audience,
                        };
                        return out.to_reactor(node.reactor, forward, frame);
                    }
                    let audience = audience.as_deref();
                    if self.forward(now, own, id, &node.id, message, time_left_ms, audience, frame, out) {
                        return;
                    }
                    if let Some(request) = self.request_mut(id) {
                        request.end_node_step(now, message, Fate::NotTaken);
                        request.furthest = request.furthest.max(Furthest::NotSent);
                    }
                }
            }
        }
    }

    pub(super) fn next_message(&self) -> u32 {
        self.shared.next_message.fetch_add(1, Relaxed)
    }

    /// Draws the next reactor or node, each weighted by its subscribers that were not tried yet, with
    /// [`Settings::prefers_near`] among the nearest only; also tells whether anybody else would be left.
    ///
    /// [`Settings::prefers_near`]: crate::relay::settings::Settings::prefers_near
    fn draw(&mut self, id: RequestId, topic: &str) -> (Option<Candidate>, bool) {
        self.snapshot.refresh();
        let Some(request) = self.requests.get(id) else { return (None, false) };
        let audience = match (TopicKind::of(topic.as_bytes()), request.origin) {
            (TopicKind::Data, Origin::Session { key, .. }) => Some(self.audience(key.index, topic)),
            (TopicKind::Data, Origin::Node { .. }) => request.audience.clone().map(Audience::of_this_node),
            (TopicKind::Route, origin) => {
                // There is one way, and it is gone once.
                let way = self.minted_way(topic, matches!(origin, Origin::Session { .. }));
                return (way.filter(|_| request.is_untried()), false);
            }
            _ => None,
        };
        let accepted = audience.as_ref().map(Audience::entry);
        let entry = accepted.as_ref().or_else(|| self.snapshot.topic(topic));
        let (all_reactors, all_nodes) =
            entry.map_or((&[][..], &[][..]), |entry| (&entry.reactors[..], &entry.nodes[..]));
        let (publisher, foreign) = match request.origin {
            Origin::Session { key, .. } => (Some(key.index), true),
            Origin::Node { .. } => (None, false),
        };
        let own_sessions = self.local_topics.sessions(topic);
        let own = self.id;
        let tried_of =
            |reactor: ReactorId| request.tried().iter().filter(move |session| session.reactor() == reactor);
        // Our own sessions are known better than the snapshot knows them.
        let still_subscribes = |session: &&SessionId| {
            self.session_indices.get(session).is_some_and(|&index| self.subscribes(index, topic))
        };
        let itself = publisher.is_some_and(|index| self.subscribes(index, topic));
        let gone = usize::from(itself) + tried_of(own).filter(still_subscribes).count();
        // Those that were tried elsewhere may have left, and others be there in their place: who knows is
        // asked.
        let weight_of = |reactor: ReactorId, count: u64| match request.exhausted().contains(&reactor) {
            true => 0,
            false => count.saturating_sub(tried_of(reactor).count() as u64).max(count.min(1)),
        };
        let own_weight = match audience {
            _ if request.exhausted().contains(&own) => 0,
            None => own_sessions.len().saturating_sub(gone) as u64,
            Some(_) => all_reactors
                .iter()
                .find(|(reactor, _)| *reactor == own)
                .map_or(0, |&(reactor, count)| weight_of(reactor, count.into())),
        };
        let named = |reactor: ReactorId| {
            let mut parts = audience.iter().flat_map(Audience::by_reactor);
            parts.find(|(other, _)| *other == reactor).map(|(_, part)| Box::new(Named(part.to_vec())))
        };
        let reactors = all_reactors.iter().filter(|(reactor, _)| *reactor != own);
        let nodes = all_nodes
            .iter()
            .filter(|(node, _)| foreign && !request.nodes.iter().any(|(tried, _)| tried.id == node.id));
        let here = own_weight
            + reactors.clone().map(|&(reactor, count)| weight_of(reactor, count.into())).sum::<u64>();
        let total = here + subscribers_of(nodes.clone());
        if total == 0 {
            return (None, false);
        }
        // Those at the least distance, where near goes before far; else all.
        let hops_to = |node: &NodeRef| self.snapshot.paths.get(&node.id).map_or(u8::MAX, |path| path.hops);
        let hops_max = match self.shared.settings.prefers_near {
            false => u8::MAX,
            true if here > 0 => 0,
            true => nodes.clone().map(|(node, _)| hops_to(node)).min().unwrap_or(u8::MAX),
        };
        let nodes = nodes.filter(|(node, _)| hops_max == u8::MAX || hops_to(node) <= hops_max);
        let mut point = self.rng.random_range(0..here + subscribers_of(nodes.clone()));
        if point < own_weight {
            return (Some(Candidate::Reactor(own, named(own))), total > 1);
        }
        point -= own_weight;
        for &(reactor, count) in reactors {
            let weight = weight_of(reactor, count.into());
            if point < weight {
                return (Some(Candidate::Reactor(reactor, named(reactor))), total > 1);
            }
            point -= weight;
        }
        for (node, count) in nodes {
            if point < u64::from(*count) {
                // Should one frame not hold all names, it holds those from a random one on.
                let named = audience.iter().flat_map(|audience| &audience.nodes);
                let mut named = named.filter(|(other, _)| other.id == node.id);
                let named = named.next().map(|(_, named)| {
                    let from = named.iter().cycle().skip(point as usize);
                    Box::new(Named(from.take(named.len().min(AUDIENCE_MAX)).copied().collect()))
                });
                return (Some(Candidate::Node(node.clone(), named)), total > u64::from(*count));
            }
            point -= u64::from(*count);
        }
        (None, false)
    }

    /// Keeps the frame for another try, if there is room.
    fn retain(&mut self, id: RequestId, frame: FrameRef<'_>) {
        let bytes_max = self.shared.settings.retained_bytes_max / usize::from(self.shared.reactors);
        let room = self.retained_bytes + frame.len() <= bytes_max;
        let Some(request) = self.request_mut(id) else { return };
        if request.retained.is_some() {
            return;
        }
        if room {
            request.retained = Some(frame.retain());
            self.retained_bytes += frame.len();
        } else {
            self.counters.retention_refused.increment();
        }
    }

    /// Tries the next candidate with the frame that was kept.
    fn retry(&mut self, now: Instant, id: RequestId, out: &mut impl Outbound) {
        let Some(request) = self.request_mut(id) else { return };
        request.current = Try::None;
        if request.tried().len() + request.nodes.len() >= TRIES_MAX {
            self.counters.tries_exhausted.increment();
            return self.give_up(now, id, out);
        }
        let Some(frame) = request.retained.clone() else { return self.give_up(now, id, out) };
        let frame = frame.as_ref();
        match AmopBody::decode(&frame.head()[HEADER_LEN..]) {
            Ok(body) => self.advance(now, id, body.topic, frame, out),
            Err(_) => self.give_up(now, id, out),
        }
    }

    /// Where a challenge with this route topic goes: to the desk here, or to a node `elsewhere` by the
    /// topic's node part. `None` if it is no node's.
    fn minted_way(&self, topic: &str, elsewhere: bool) -> Option<Candidate> {
        let minted = MintedTopic::decode(topic)?;
        if minted.is_at(&self.shared.id) {
            return Some(Candidate::Desk);
        }
        let snapshot = self.shared.snapshot.load();
        let admission = self.shared.admission.load();
        let id = *snapshot.paths.keys().find(|id| elsewhere && minted.is_at(id) && admission.admits(id))?;
        let reactor = home_reactor(&id, self.shared.reactors);
        // Which life of it does not matter: a challenge of another one is not open.
        Some(Candidate::Node(NodeRef::new(NodeEntry { id, incarnation: 0, reactor }), None))
    }

    /// A challenged session could not take its challenge.
    pub(super) fn report_not_presented(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        out: &mut impl Outbound,
    ) {
        let why = NotPushed::ChallengeClosed;
        if coordinator == self.id {
            self.handle_undeliverable(now, request, self.id, why, out);
        } else {
            out.to_reactor(coordinator, MeshMessage::Undeliverable { request, why }, FrameRef::Slice(&[]));
        }
    }

    pub(super) fn handle_undeliverable(
        &mut self,
        now: Instant,
        id: RequestId,
        reactor: ReactorId,
        why: NotPushed,
        out: &mut impl Outbound,
    ) {
        let Some(request) = self.request_mut(id) else { return };
        request.end_refused_step(now, why);
        request.failed().exhausted.push(reactor);
        request.furthest = request.furthest.max(Furthest::NotDelivered);
        if request.current == Try::Reactor(reactor) || request.current == Try::Desk {
            self.retry(now, id, out);
        }
    }

    pub(super) fn handle_push_failed(
        &mut self,
        now: Instant,
        id: RequestId,
        session: SessionId,
        seq: Seq,
        silent: bool,
        out: &mut impl Outbound,
    ) {
        let retry_silent = self.shared.settings.retry_after_push_timeout;
        let Some(request) = self.request_mut(id) else {
            if silent {
                self.forget_push_anywhere(session, &seq, out);
            }
            return;
        };
        request.furthest = Furthest::Pushed;
        if silent {
            request.failed().silent.push(session);
        } else if let Some(position) = request.silent().iter().position(|&other| other == session) {
            // It was given up already; now it cannot answer late either.
            request.failed().silent.swap_remove(position);
            return;
        }
        let fate = if silent { Fate::Silent } else { Fate::Left };
        request.end_session_step(now, session, fate);
        request.failed().tried.push(session);
        if silent && !retry_silent {
            self.give_up(now, id, out);
        } else {
            self.retry(now, id, out);
        }
    }

    pub(super) fn handle_forward_failed(
        &mut self,
        now: Instant,
        id: RequestId,
        message: u32,
        taken: bool,
        out: &mut impl Outbound,
    ) {
        let Some(request) = self.request_mut(id) else { return };
        let (reached, fate) = match taken {
            true => (Furthest::Pushed, Fate::NotHeard),
            false => (Furthest::NotSent, Fate::NotTaken),
        };
        request.end_node_step(now, message, fate);
        request.furthest = request.furthest.max(reached);
        if request.current == Try::Node(message) {
            self.retry(now, id, out);
        }
    }

    /// The time of a request is up.
    pub(super) fn handle_request_timeout(&mut self, now: Instant, id: RequestId, out: &mut impl Outbound) {
        let own = self.id;
        let Some(request) = self.request_mut(id) else { return };
        request.timer = None;
        request.deadline = request.deadline.min(now);
        // The retained frame is of no use any more; whatever is reported now ends the request.
        let freed = request.retained.take().map_or(0, |frame| frame.len());
        let current = request.current;
        let node = request.nodes.last().cloned();
        self.retained_bytes -= freed;
        match (current, node) {
            (Try::Reactor(_) | Try::Desk, _) => {
                self.note_pushed(id);
                self.close_request(now, id, out);
            }
            (Try::Node(message), Some((node, _))) if node.reactor != own => {
                let forget = MeshMessage::ForgetForward { node: node.id, message, report: true };
                out.to_reactor(node.reactor, forget, FrameRef::Slice(&[]));
                // The report ends the request. Should the link's shard know nothing of the message any
                // more, its answer is on the way and does.
            }
            (Try::Node(message), Some((node, _))) => {
                let taken = self.forget_forward(now, &node.id, message).is_some_and(|(_, taken)| taken);
                self.handle_forward_failed(now, id, message, taken, out);
            }
            _ => self.close_request(now, id, out),
        }
    }

    fn note_pushed(&mut self, id: RequestId) {
        if let Some(request) = self.request_mut(id) {
            request.furthest = Furthest::Pushed;
        }
    }

    /// Nobody is left to try: answers with how far it got. A neighbour's request with silent sessions
    /// stays open behind that, so that a late answer still reaches the publisher.
    fn give_up(&mut self, now: Instant, id: RequestId, out: &mut impl Outbound) {
        let Some(request) = self.request_mut(id) else { return };
        if let Origin::Node { id: node, incarnation, message } = request.origin
            && !request.silent().is_empty()
            && request.timer.is_some()
        {
            if request.answered_for_now.replace(now).is_none() {
                let answer = answer_frame(&request.seq.seq, request.furthest.code());
                self.respond(now, (&node, incarnation, message), true, FrameRef::Slice(&answer), out);
            }
            return;
        }
        self.close_request(now, id, out);
    }

    fn close_request(&mut self, now: Instant, id: RequestId, out: &mut impl Outbound) {
        if let Some(request) = self.request_mut(id) {
            let code = request.furthest.code();
            self.answer_myself(now, id, code, out);
        }
    }

    /// Ends a request with an answer of the node's own making: empty data (WIRE §3).
    fn answer_myself(&mut self, now: Instant, id: RequestId, code: ResultCode, out: &mut impl Outbound) {
        let Some(request) = self.requests.get(id) else { return };
        let answer = answer_frame(&request.seq.seq, code);
        self.note_end(now, id, End::ByNode, code, |_| ());
        let Some(request) = self.end_request(now, id, AnsweredBy::Nobody, out) else { return };
        match request.origin {
            Origin::Session { key, .. } => {
                self.count_answer(code);
                self.note_latency(now, &request, Outcome::of(code));
                self.send_to_session(key, &answer, FrameRef::Slice(&[]), out);
            }
            Origin::Node { id, incarnation, message } if !request.is_answered_for_now => {
                self.respond(now, (&id, incarnation, message), true, FrameRef::Slice(&answer), out);
            }
            Origin::Node { .. } => {}
        }
    }

    /// A session that has the request answered; `frame` is its 0x31, passed on unchanged.
    pub(super) fn answer_from_session(
        &mut self,
        now: Instant,
        id: RequestId,
        session: SessionId,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let step = |request: &mut Request| request.end_session_step(now, session, Fate::Answered);
        self.note_end(now, id, End::BySession, result_of(frame), step);
        let Some(request) = self.end_request(now, id, AnsweredBy::Session(session), out) else {
            self.counters.late_answers.increment();
            return;
        };
        match request.origin {
            Origin::Session { key, .. } => {
                self.counters.answered_by_subscriber.increment();
                self.note_latency(now, &request, Outcome::Answered);
                self.send_to_session(key, &[], frame, out);
            }
            Origin::Node { id, incarnation, message } => {
                self.respond(now, (&id, incarnation, message), false, frame, out)
            }
        }
    }

    /// A destination node answered.
    pub(super) fn answer_from_node(
        &mut self,
        now: Instant,
        id: RequestId,
        message: u32,
        by_node: bool,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some(request) = self.requests.get(id) else {
            if !by_node {
                self.counters.late_answers.increment();
            }
            return;
        };
        // Passed on unchanged, an answer under another seq would answer nothing, or another request: the
        // node has failed.
        let header = Header::decode(frame.head()).filter(|header| header.seq == request.seq.seq);
        if !by_node && header.is_some() {
            if let Origin::Session { key, .. } = request.origin
                && self.publishers.contains_key(&key.index)
                && let Some((node, _)) = request.nodes.iter().find(|(_, sent)| *sent == message)
            {
                let node = node.id;
                self.note_challenge_answered(now, key.index, &node, frame, out);
            }
            let step = |request: &mut Request| request.end_node_step(now, message, Fate::Answered);
            self.note_end(now, id, End::BySession, result_of(frame), step);
            let answered = AnsweredBy::Node(message);
            let Some(request) = self.end_request(now, id, answered, out) else { return };
            if let Origin::Session { key, .. } = request.origin {
                self.counters.answered_by_subscriber.increment();
                self.note_latency(now, &request, Outcome::Answered);
                self.send_to_session(key, &[], frame, out);
            }
            return;
        }
        let code = header.map_or(ResultCode::NOT_DELIVERED, |header| header.result);
        let Some(request) = self.request_mut(id) else { return };
        let (reached, fate) = match code {
            ResultCode::TIMEOUT => (Furthest::Pushed, Fate::TimedOut),
            _ => (Furthest::NotDelivered, Fate::NotDelivered),
        };
        request.end_node_step(now, message, fate);
        request.furthest = request.furthest.max(reached);
        if request.current == Try::Node(message) {
            self.retry(now, id, out);
        }
    }

    /// Takes a request out of the table and lets go of everything that still waits for it.
    fn end_request(
        &mut self,
        now: Instant,
        id: RequestId,
        answered_by: AnsweredBy,
        out: &mut impl Outbound,
    ) -> Option<Ended> {
        let Self { requests, links, .. } = self;
        let request = requests.get_mut(id)?;
        if let Some(timer) = request.timer {
            self.request_timers.cancel(timer);
        }
        self.retained_bytes -= request.retained.as_ref().map_or(0, RetainedFrame::len);
        let (origin, taken_nanos) = (request.origin, request.taken_nanos);
        let is_answered_for_now = request.is_answered_for_now();
        if let Origin::Session { key, .. } = origin
            && let Some(session) = session_of(links, key)
        {
            session.requests.remove(&request.seq);
        }
        let nodes = std::mem::take(&mut request.nodes);
        let failed = request.failed.take().map(|failed| (failed, request.seq.seq));
        request.close();
        requests.free.push(id.index);
        if let Some((failed, seq)) = failed {
            let waits = |&&session: &&SessionId| answered_by != AnsweredBy::Session(session);
            for &session in failed.silent.iter().filter(waits) {
                self.forget_push_anywhere(session, &seq, out);
            }
        }
        // Where an answer came from, the home of that node waits for none any more.
        for (node, message) in nodes.iter().filter(|(_, message)| answered_by != AnsweredBy::Node(*message)) {
            if node.reactor == self.id {
                self.forget_forward(now, &node.id, *message);
            } else {
                let forget = MeshMessage::ForgetForward { node: node.id, message: *message, report: false };
                out.to_reactor(node.reactor, forget, FrameRef::Slice(&[]));
            }
        }
        Some(Ended { origin, taken_nanos, is_answered_for_now })
    }

    fn forget_push_anywhere(&mut self, session: SessionId, seq: &Seq, out: &mut impl Outbound) {
        if session.reactor() == self.id {
            self.forget_push(session, seq);
        } else {
            let forget = MeshMessage::ForgetPush { session, seq: *seq };
            out.to_reactor(session.reactor(), forget, FrameRef::Slice(&[]));
        }
    }

    /// The publisher is gone; nobody waits for the answer.
    pub(super) fn abandon_request(
        &mut self,
        now: Instant,
        id: RequestId,
        sender: Arc<Sender>,
        out: &mut impl Outbound,
    ) {
        if let Some(request) = self.requests.get(id) {
            let account = request.account(now, End::SenderLeft, ResultCode::OK);
            let (seq, taken, topic) = (request.seq.seq, request.taken, request.topic);
            self.keep(&seq, taken, topic, Some(sender), account, true);
            self.end_request(now, id, AnsweredBy::Nobody, out);
        }
    }

    /// Answers a message that is not even begun with: its header, what it is, and its topic.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        key: LinkKey,
        (header, role, topic): (&Header, Role, &str),
        refusal: Refusal,
        code: ResultCode,
        out: &mut impl Outbound,
    ) {
        self.count_answer(code);
        let Some(origin) = self.session_mut(key).map(|session| session.id.0) else { return };
        let sender = self.sender(key);
        let account = Account { role, origin, size: header.len, ..refused(refusal, code) };
        self.keep(&header.seq, now, TopicName::new(topic), sender, account, true);
        self.reply(key, FrameType::RESPONSE, &header.seq, code, &[], out);
    }

    fn keep_refused_of_node(
        &mut self,
        now: Instant,
        (node, message): (&NodeId, u32),
        header: &Header,
        topic: &str,
        refusal: Refusal,
    ) {
        let (role, origin, size) = (Role::Forwarded, node.short(), header.len);
        let refused = refused(refusal, ResultCode::NOT_DELIVERED);
        let account = Account { role, origin, message, size, ..refused };
        self.keep(&header.seq, now, TopicName::new(topic), None, account, true);
    }

    /// Keeps the account of a request that is about to end, if it is one that is kept; only then the last `step` is
    /// taken.
    fn note_end(
        &mut self,
        now: Instant,
        id: RequestId,
        end: End,
        code: ResultCode,
        step: impl FnOnce(&mut Request),
    ) {
        let Some(request) = self.requests.get_mut(id) else { return };
        // The neighbour may have given up before the late answer came to it.
        let failed = code != ResultCode::OK || request.answered_for_now.is_some();
        if !(failed || self.shared.tracing.load(Relaxed)) {
            return;
        }
        step(request);
        let account = request.account(now, end, code);
        let (origin, seq, taken, topic) = (request.origin, request.seq.seq, request.taken, request.topic);
        let sender = match origin {
            Origin::Session { key, .. } => self.sender(key),
            Origin::Node { .. } => None,
        };
        self.keep(&seq, taken, topic, sender, account, failed);
    }

    /// What is known of requests that are not over.
    pub(super) fn pending_of(&mut self, now: Instant, seq: &Seq) -> Vec<Known> {
        let pending = self.requests.iter().take(PENDING_LOOKED_AT_MAX);
        let pending = pending.filter(|request| request.seq.seq == *seq).take(ACCOUNTS_MAX);
        let known = pending.map(|request| {
            let age_us = micros(now.saturating_duration_since(request.taken));
            let (end, code) = match request.answered_for_now {
                Some(_) => (End::ByNode, request.furthest.code()),
                None => (End::Open, ResultCode::OK),
            };
            let known = Known {
                account: Account { age_us, ..request.account(now, end, code) },
                topic: request.topic.to_text(),
                sender: None,
            };
            (known, request.origin)
        });
        let mut known: Vec<_> = known.collect();
        for (known, origin) in &mut known {
            if let Origin::Session { key, .. } = *origin {
                known.sender = self.sender(key);
            }
        }
        known.into_iter().map(|(known, _)| known).collect()
    }

    fn note_latency(&mut self, now: Instant, request: &Ended, outcome: Outcome) {
        let took = self.micros_since(now, request.taken_nanos);
        self.counters.latencies.requests(outcome).record_micros(took);
    }

    pub(super) fn count_answer(&self, code: ResultCode) {
        let counter = match code {
            ResultCode::NOT_SENT => &self.counters.answered_not_sent,
            ResultCode::NO_RECEIVER => &self.counters.answered_no_receiver,
            ResultCode::NOT_DELIVERED => &self.counters.answered_not_delivered,
            ResultCode::TIMEOUT => &self.counters.answered_timeout,
            ResultCode::OVER_BANDWIDTH => &self.counters.answered_over_bandwidth,
            _ => &self.counters.answered_by_subscriber,
        };
        counter.increment();
    }
}

/// Sessions of other nodes.
fn subscribers_of<'a>(nodes: impl Iterator<Item = &'a (NodeRef, u32)>) -> u64 {
    nodes.map(|&(_, count)| u64::from(count)).sum()
}

/// The code of an answer that a session gave.
fn result_of(frame: FrameRef<'_>) -> ResultCode {
    let code = frame.head().get(HEADER_LEN - 4..HEADER_LEN).and_then(|code| code.first_chunk());
    ResultCode(code.map_or(0, |&code| i32::from_be_bytes(code)))
}

/// A 0x31 of the node's own making: a code and no data.
fn answer_frame(seq: &Seq, result: ResultCode) -> [u8; HEADER_LEN] {
    Header { len: HEADER_LEN as u32, frame_type: FrameType::RESPONSE, seq: *seq, result }.encode()
}
