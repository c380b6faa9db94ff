//! Unicasts: drawing a receiver, trying again, answering exactly once (WIRE §2.2, §3).
//!
//! The shard that takes a request coordinates it to its end. A publisher's request may go to sessions
//! of this node and to other nodes; one that a neighbour sent goes to sessions of this node only.
//!
//! `draw` chooses whom it is tried at next, `outcome` takes what came of that and ends it, `account` tells of it.

mod account;
mod draw;
mod outcome;
mod unsettled;

use std::{
    collections::hash_map::Entry,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use self::{
    account::some_session,
    draw::{Candidate, Others},
};
use super::{Shard, desk::DESK, room::WAIT_ENDS_BEFORE, seqs::SeqKey, trace::refused};
use crate::{
    relay::{
        LinkKey, MeshMessage, Named, NotPushed, Outbound, ReactorId, RequestId, SessionId, snapshot::NodeRef,
        timers::TimerKey, trace::TopicName,
    },
    wire::{
        FrameRef, NodeId, ResultCode, RetainedFrame, TopicKind,
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
        trace::{Account, Fate, Refusal, Role, Steps, Tried},
    },
};
pub(super) use unsettled::Unsettled;

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
    /// Whether it may wait for room where nobody else is left to be tried: a neighbour's, if it said so.
    may_wait: bool,
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

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Length of its frame in bytes.
    pub(super) fn frame_len(&self) -> usize {
        self.size as usize
    }

    /// What of its frame is kept, in bytes.
    pub(super) fn retained_len(&self) -> usize {
        self.retained.as_ref().map_or(0, RetainedFrame::len)
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

    /// Whether this one waits for its answer.
    pub(super) fn is_open(&self, id: RequestId) -> bool {
        self.get(id).is_some()
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
        self.try_unsettled_first(now, out);
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
        let bytes_max = self.shared.settings.open_requests_bytes_max();
        if let Some(session) = self.session_mut(key) {
            session.open_request(header.len as usize, bytes_max, out);
        }
        let time = self.request_time(header.len as usize);
        self.open_request(now, origin, (&seq, header.len), body.topic, time, None);
        if body.kind() == TopicKind::Route {
            self.note_challenge_sent(key.index, body.topic, request);
        }
        self.advance(now, request, body.topic, frame, out);
    }

    /// A unicast from a neighbour, for sessions of this node.
    pub(super) fn handle_request_of_node(
        &mut self,
        now: Instant,
        origin: Origin,
        (time_left, may_wait): (Duration, bool),
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
        let time = time_left.min(self.request_time(frame.len()));
        let seq = self.seq_key(&header.seq);
        let request = self.open_request(now, origin, (&seq, header.len), body.topic, time, audience);
        if let Some(request) = self.request_mut(request) {
            request.may_wait = may_wait;
        }
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
        let timer = Some(match self.request_time(size as usize) {
            usual if usual == self.shared.settings.request_timeout => self.request_timers.start(now, id),
            longer => self.request_timers.start_until(now + longer, id),
        });
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
            (request.audience, request.answered_for_now, request.may_wait) = (audience, None, true);
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
            may_wait: true,
            answered_for_now: None,
            topic: TopicName::new(topic),
            size,
            steps: Steps::default(),
        });
        id
    }

    /// How long a request with a frame of so many bytes may take (WIRE §2.3).
    fn request_time(&self, frame_len: usize) -> Duration {
        self.shared.settings.request_timeout + sdk::transfer_time(frame_len)
    }

    /// A request may take so much longer than its own frame gives it (WIRE §2.3); its time is never shortened. Gives whose it
    /// is, if that changed anything.
    pub(super) fn extend_request(&mut self, id: RequestId, by: Duration) -> Option<Origin> {
        let Self { requests, request_timers, shared, .. } = self;
        let request = requests.get_mut(id)?;
        let time = shared.settings.request_timeout + sdk::transfer_time(request.size as usize) + by;
        let deadline = request.taken + time;
        // Without a timer its time is up already.
        let timer = request.timer.filter(|_| deadline > request.deadline)?;
        request_timers.cancel(timer);
        (request.deadline, request.time) = (deadline, time);
        request.timer = Some(request_timers.start_until(deadline, id));
        Some(request.origin)
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
            if others != Others::None {
                self.retain(id, frame);
            }
            if candidate.is_none() && self.waits_for_state(now, id, frame) {
                return;
            }
            let Some(request) = self.request_mut(id) else { return };
            if now >= request.deadline {
                return self.give_up(now, id, out);
            }
            match candidate {
                None => return self.give_up(now, id, out),
                Some(Candidate::TooLong(node)) => {
                    request.begin_step(now, Tried::Node, node.short(), 0);
                    request.end_node_step(now, 0, Fate::TooLong);
                    request.furthest = request.furthest.max(Furthest::NotSent);
                    self.note_too_long(now, &node, frame.len());
                    return self.give_up(now, id, out);
                }
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
                        let why = NotPushed::ChallengeClosed;
                        self.handle_undeliverable(now, id, DESK, why, FrameRef::Slice(&[]), out);
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
                    // It waits where it would else end.
                    let wait_for_room = (others != Others::Elsewhere && request.may_wait)
                        .then(|| (request.deadline - now).saturating_sub(WAIT_ENDS_BEFORE));
                    if reactor != own {
                        return out.to_reactor(
                            reactor,
                            MeshMessage::Deliver { request: id, audience, excluded, wait_for_room },
                            frame,
                        );
                    }
                    let receivers = (audience.as_deref(), excluded, wait_for_room);
                    let seq = request.seq;
                    let message = (&seq, topic);
                    let pushed = self.push_to_any(now, (own, id), receivers, message, frame, out);
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
                    let may_wait = others == Others::None;
                    // What a client offers is admitted or refused; tries after the first are charged as they leave.
                    if let Origin::Session { key, .. } = origin
                        && first
                        && self.shared.limiter.is_limited()
                        && let named = audience.as_ref().map(|named| named.0.len())
                        && let cost = self.unicast_len(&node.id, frame.len(), named)
                        && !self.admit_bandwidth(now, key, cost)
                    {
                        self.warn_over_bandwidth(now, key);
                        if let Some(request) = self.request_mut(id) {
                            request.begin_step(now, Tried::Node, node.id.short(), 0);
                            request.end_node_step(now, 0, Fate::OverBandwidth);
                        }
                        return self.answer_myself(now, id, ResultCode::OVER_BANDWIDTH, out);
                    }
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
                            may_wait,
                            audience,
                        };
                        return out.to_reactor(node.reactor, forward, frame);
                    }
                    let audience = audience.as_deref();
                    let time_left = (time_left_ms, may_wait);
                    if self.forward(now, own, id, &node.id, message, time_left, audience, frame, out) {
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

    /// Keeps the frame for another try, if there is room; one may go beyond the bound, so that the longest is kept, too.
    fn retain(&mut self, id: RequestId, frame: FrameRef<'_>) {
        let bytes_max = self.shared.settings.retained_bytes_max / usize::from(self.shared.reactors);
        let room = self.retained_bytes < bytes_max;
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
        self.reply(now, key, FrameType::RESPONSE, &header.seq, code, &[], out);
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

/// A 0x31 of the node's own making: a code and no data.
pub(super) fn answer_frame(seq: &Seq, result: ResultCode) -> [u8; HEADER_LEN] {
    Header { len: HEADER_LEN as u32, frame_type: FrameType::RESPONSE, seq: *seq, result }.encode()
}
