//! Unicasts: drawing a receiver, trying again, answering exactly once (WIRE §2.2, §3).
//!
//! The shard that takes a request coordinates it to its end. A publisher's request may go to sessions
//! of this node and to other nodes; one that a neighbour sent goes to sessions of this node only.
//!
//! `draw` chooses whom it is tried at next, `outcome` takes what came of that and ends it, `message_trace` notes it for traces.

mod draw;
mod ledger;
mod message_trace;
mod outcome;
mod prepaid;
mod unsettled;

use std::{
    collections::hash_map::Entry,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

pub(super) use self::ledger::LedgerFailure;
use self::{
    draw::{Candidate, Others},
    message_trace::some_session,
    unsettled::Unsettled,
};
use super::{
    Common, Context, Parts,
    challenge_broker::CHALLENGE_BROKER,
    push::{Delivery, Receivers},
    room::WAIT_ENDS_BEFORE,
    seqs::SeqKey,
    session::Reply,
    trace::{Finished, refused},
};
use crate::{
    relay::{
        Forward, LinkKey, MeshMessage, Outbound, ReactorId, Recipients, RequestId, SessionId,
        snapshot::NodeRef,
        timers::{TimerKey, Timers},
        trace::TopicName,
    },
    wire::{
        FrameRef, MessageNumber, NodeId, ResultCode, RetainedFrame, TopicKind,
        sdk::{AmopBody, FrameType, HEADER_LEN, Header, Seq},
        trace::{AttemptKind, AttemptOutcome, Attempts, MessageTrace, Refusal, Role},
    },
};

/// Sessions and nodes that one request is tried at.
pub(in crate::relay) const REQUEST_ATTEMPTS_MAX: usize = 64;

/// A request, wherever in the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestOf {
    pub(super) coordinator: ReactorId,
    /// The coordinator's number for it.
    pub(super) id: RequestId,
}

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
    current: CurrentAttempt,
    /// Who failed, once somebody has.
    failed: Option<Box<Failed>>,
    /// Nodes that failed or are being tried, with the number of the message sent to them.
    nodes: SmallVec<[(NodeRef, MessageNumber); 1]>,
    furthest: Furthest,
    /// Who may get a neighbour's message with a private topic.
    audience: Option<Recipients>,
    /// Whether it may wait for room where nobody else is left to be tried: a neighbour's, if it said so.
    may_wait: bool,
    /// If a node of FISCO BCOS 2.x sent it, the first bytes of that one's id: it goes to none of these.
    from_2x: Option<u64>,
    /// When the neighbour was told that nobody answered; a late answer still goes to it.
    answered_for_now: Option<Instant>,
    topic: TopicName,
    /// Of the frame, in bytes.
    size: u32,
    /// Who was tried, for traces.
    attempts: Attempts,
}

/// Who failed at this node.
#[derive(Default)]
struct Failed {
    /// Sessions that failed.
    attempted: SmallVec<[SessionId; 2]>,
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

    fn attempted(&self) -> &[SessionId] {
        self.failed.as_ref().map_or(&[], |failed| &failed.attempted)
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
        self.attempts = Attempts::default();
    }

    fn time_left(&self, now: Instant) -> Duration {
        // Most are tried at once.
        match now == self.taken {
            true => self.time,
            false => self.deadline.saturating_duration_since(now),
        }
    }

    /// Whether nobody has been tried yet.
    fn is_first_attempt(&self) -> bool {
        self.nodes.is_empty() && self.exhausted().is_empty() && self.attempted().is_empty()
    }
}

/// The requests of a shard by their index. A request stays in its slot until it is over; the next one reuses that slot in
/// place, since moving it in and out took a twentieth of the instructions of a round trip (`scripts/instructions`).
///
/// # Invariants
/// - `retained_bytes` are those of the frames that they keep for another try.
pub(super) struct Requests {
    slots: Vec<Request>,
    free: Vec<u32>,
    started: u32,
    timers: Timers<RequestId>,
    retained_bytes: usize,
    /// Those for which no receiver is known as long as the state of a neighbour is on its way.
    unsettled: Unsettled,
}

impl Requests {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            started: 0,
            timers: Timers::new(timeout),
            retained_bytes: 0,
            unsettled: Unsettled::default(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<RequestId> {
        self.timers.pop_expired(now)
    }

    /// Bytes of frames kept for another try.
    pub(super) fn retained_bytes(&self) -> usize {
        self.retained_bytes
    }

    /// Keeps the frame of a request for another try; `false` if there is no room, for which one frame may go beyond the bound,
    /// so that the longest is kept, too.
    fn retain(&mut self, id: RequestId, frame: FrameRef<'_>, bytes_max: usize) -> bool {
        let has_room = self.retained_bytes < bytes_max;
        let Some(request) = self.get_mut(id) else { return true };
        if request.retained.is_none() && has_room {
            request.retained = Some(frame.retain());
            self.retained_bytes += frame.len();
            return true;
        }
        request.retained.is_some()
    }

    /// Its frame is of no use any more.
    fn drop_retained(&mut self, id: RequestId) {
        let freed = self.get_mut(id).and_then(|request| request.retained.take());
        self.retained_bytes -= freed.map_or(0, |frame| frame.len());
    }

    /// Nothing is tried for a request any more, and its time does not count. Gives the request.
    fn stop(&mut self, id: RequestId) -> Option<&mut Request> {
        let Self { slots, timers, retained_bytes, .. } = self;
        let request = slots.get_mut(id.index as usize)?;
        if !request.is_open || request.generation != id.generation {
            return None;
        }
        if let Some(timer) = request.timer.take() {
            timers.cancel(timer);
        }
        *retained_bytes -= request.retained.take().map_or(0, |frame| frame.len());
        Some(request)
    }

    /// A request may take until then. Without a timer its time is up already: `false`.
    fn postpone(&mut self, id: RequestId, deadline: Instant) -> bool {
        let Some(request) = self.get_mut(id) else { return false };
        let Some(timer) = request.timer.filter(|_| deadline > request.deadline) else { return false };
        (request.deadline, request.time) = (deadline, deadline - request.taken);
        self.timers.cancel(timer);
        let timer = self.timers.start_until(deadline, id);
        if let Some(request) = self.get_mut(id) {
            request.timer = Some(timer);
        }
        true
    }

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

/// A message from another node, by which its answer is known there.
#[derive(Clone, Copy)]
pub(super) struct FromNode {
    pub(super) id: NodeId,
    pub(super) incarnation: u64,
    /// Its number for the message.
    pub(super) message: MessageNumber,
}

/// Another node's request, with what it says of it.
pub(super) struct NodeRequest {
    pub(super) origin: FromNode,
    /// Of the frame of its SDK link.
    pub(super) header: Header,
    /// Whether this node has to do with the other one.
    pub(super) is_admitted: bool,
    /// How long it may take.
    pub(super) time_left: Duration,
    /// Whether it may wait for room where nobody else is left to be tried.
    pub(super) may_wait: bool,
    /// Who may get a message with a private topic.
    pub(super) audience: Option<Recipients>,
    /// If a node of FISCO BCOS 2.x sent it, the first bytes of that one's id.
    pub(super) from_2x: Option<u64>,
}

/// A request to be taken up.
struct NewRequest<'a> {
    origin: Origin,
    seq: SeqKey,
    /// Of its frame, in bytes.
    size: u32,
    topic: &'a str,
    /// How long it may take in all.
    time: Duration,
    may_wait: bool,
    audience: Option<Recipients>,
    from_2x: Option<u64>,
}

/// What is known of a session's message when it is refused.
#[derive(Clone, Copy)]
pub(super) struct Refused<'a> {
    pub(super) header: &'a Header,
    pub(super) role: Role,
    /// Empty if it could not be read.
    pub(super) topic: &'a str,
}

/// Who waits for the answer.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Session { key: LinkKey, id: SessionId },
    Node(FromNode),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CurrentAttempt {
    None,
    Reactor(ReactorId),
    /// The challenge broker, which has a challenge carried to one session.
    ChallengeBroker,
    Node(MessageNumber),
    /// The ledger node of its session.
    Ledger,
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
    Node(MessageNumber),
}

/// What is left to do for a request that is over.
struct Ended {
    origin: Origin,
    taken_nanos: u64,
    /// Whether its node was told that nobody answered.
    is_answered_for_now: bool,
}

impl Parts {
    /// A 0x30 from a session.
    pub(super) fn handle_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        cx.counters.requests.increment();
        self.try_unsettled_first(cx);
        let body = match AmopBody::decode(&frame.head()[HEADER_LEN..]) {
            Ok(body) => body,
            Err(_) => {
                cx.counters.bad_bodies.increment();
                let message = Refused { header, role: Role::Request, topic: "" };
                self.refuse(cx, key, message, Refusal::BadBody, ResultCode::NO_RECEIVER);
                return;
            }
        };
        let is_routable = match body.kind() {
            TopicKind::Ordinary => true,
            TopicKind::Data => {
                self.note_subscribers(cx, key.index);
                !self.audience(key.index, body.topic).is_empty()
            }
            // As subscribed they are not; those that were minted lead to the challenge broker of a node.
            TopicKind::Route => cx.minted_topic_candidate(body.topic, true).is_some(),
            TopicKind::Marker | TopicKind::BlockNotify => false,
        };
        let message = Refused { header, role: Role::Request, topic: body.topic };
        if !is_routable {
            self.refuse(cx, key, message, Refusal::NotRoutable, ResultCode::NO_RECEIVER);
            return;
        }
        let pending_max = cx.shared.settings.pending_requests_max;
        let full = cx.draining || self.requests.len() >= pending_max;
        let (seq, request) = (cx.seq_key(&header.seq), self.requests.next_id());
        let Some(session) = self.session_mut(key) else { return };
        let (id, keys_exhausted, from_2x) = (session.id, session.keys_exhausted, session.dialect.of_2x());
        let is_in_use = match session.requests.entry(seq) {
            Entry::Occupied(_) => true,
            Entry::Vacant(_) if full || keys_exhausted => false,
            Entry::Vacant(entry) => {
                entry.insert(request);
                false
            }
        };
        if is_in_use {
            self.refuse(cx, key, message, Refusal::SeqInUse, ResultCode::NOT_DELIVERED);
            return;
        }
        if full {
            self.warn_pending_full(cx, key);
        }
        if full || keys_exhausted {
            let refusal = match keys_exhausted {
                true => Refusal::KeysExhausted,
                false if cx.draining => Refusal::Stopping,
                false => Refusal::TableFull,
            };
            self.refuse(cx, key, message, refusal, ResultCode::NOT_SENT);
            return;
        }
        let origin = Origin::Session { key, id };
        let bytes_max = cx.shared.settings.open_requests_bytes_max();
        if let Some(session) = self.session_mut(key) {
            session.open_request(cx, header.len as usize, bytes_max);
        }
        let (size, time) = (header.len, cx.request_time(header.len as usize));
        let (topic, may_wait, audience) = (body.topic, true, None);
        self.open_request(cx, NewRequest { origin, seq, size, topic, time, may_wait, audience, from_2x });
        if body.kind() == TopicKind::Route {
            self.note_challenge_sent(key.index, body.topic, request);
        }
        self.advance(cx, request, body.topic, frame);
    }

    /// A unicast from a neighbour, for sessions of this node.
    pub(super) fn handle_request_of_node(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        request: NodeRequest,
        frame: FrameRef<'_>,
    ) {
        let NodeRequest { origin, header, is_admitted, time_left, may_wait, audience, from_2x } = request;
        let FromNode { ref id, message, .. } = origin;
        let body = AmopBody::decode(&frame.head()[HEADER_LEN..]);
        let is_for_us = |body: &AmopBody<'_>| match body.kind() {
            _ if !is_admitted => false,
            TopicKind::Ordinary => true,
            // Without an audience it is never delivered.
            TopicKind::Data => audience.is_some() && cx.shared.settings.may_publish(body.topic, id),
            TopicKind::Route => cx.minted_topic_candidate(body.topic, false).is_some(),
            TopicKind::Marker | TopicKind::BlockNotify => false,
        };
        let Some(body) = body.as_ref().ok().filter(|body| is_for_us(body)) else {
            let topic = body.as_ref().map_or("", |body| body.topic);
            let refusal = match body {
                _ if !is_admitted => Refusal::NotAdmitted,
                Ok(_) => Refusal::NotRoutable,
                Err(_) => Refusal::BadBody,
            };
            cx.keep_refused_of_node((id, message), &header, topic, refusal);
            let answer = answer_frame(&header.seq, ResultCode::NOT_DELIVERED);
            self.respond(cx, &origin, true, FrameRef::Slice(&answer));
            return;
        };
        if cx.draining || self.requests.len() >= cx.shared.settings.pending_requests_max {
            let refusal = if cx.draining { Refusal::Stopping } else { Refusal::TableFull };
            cx.keep_refused_of_node((id, message), &header, body.topic, refusal);
            let answer = answer_frame(&header.seq, ResultCode::NOT_DELIVERED);
            self.respond(cx, &origin, true, FrameRef::Slice(&answer));
            return;
        }
        let time = time_left.min(cx.request_time(frame.len()));
        let (origin, seq, size) = (Origin::Node(origin), cx.seq_key(&header.seq), header.len);
        let topic = body.topic;
        let new = NewRequest { origin, seq, size, topic, time, may_wait, audience, from_2x };
        let request = self.open_request(cx, new);
        self.advance(cx, request, body.topic, frame);
    }

    /// Takes a request up.
    fn open_request(&mut self, cx: &mut Context<'_, impl Outbound>, new: NewRequest<'_>) -> RequestId {
        let NewRequest { origin, seq, size, topic, time, may_wait, audience, from_2x } = new;
        let id = self.requests.next_id();
        let furthest = match origin {
            Origin::Session { .. } => Furthest::NoReceiver,
            Origin::Node(_) => Furthest::NotDelivered,
        };
        let timer = Some(match cx.request_time(size as usize) {
            usual if usual == cx.shared.settings.request_timeout => self.requests.timers.start(cx.now, id),
            longer => self.requests.timers.start_until(cx.now + longer, id),
        });
        let taken_nanos = cx.nanos();
        let deadline = cx.now + time;
        self.requests.started = id.generation;
        if self.requests.free.pop().is_some()
            && let Some(request) = self.requests.slots.get_mut(id.index as usize)
        {
            request.generation = id.generation;
            request.is_open = true;
            request.origin = origin;
            request.seq = seq;
            (request.taken, request.taken_nanos) = (cx.now, taken_nanos);
            (request.deadline, request.time) = (deadline, time);
            (request.timer, request.current, request.furthest) = (timer, CurrentAttempt::None, furthest);
            (request.audience, request.answered_for_now, request.may_wait) = (audience, None, may_wait);
            request.from_2x = from_2x;
            request.topic.set(topic);
            request.size = size;
            return id;
        }
        self.requests.slots.push(Request {
            generation: id.generation,
            is_open: true,
            origin,
            seq,
            taken: cx.now,
            taken_nanos,
            deadline,
            time,
            timer,
            retained: None,
            current: CurrentAttempt::None,
            failed: None,
            nodes: SmallVec::new(),
            furthest,
            audience,
            may_wait,
            from_2x,
            answered_for_now: None,
            topic: TopicName::new(topic),
            size,
            attempts: Attempts::default(),
        });
        id
    }

    /// A request may take so much longer than its own frame gives it (WIRE §2.3); its time is never shortened. Gives whose it
    /// is, if that changed anything.
    pub(super) fn extend_request(&mut self, common: &Common, id: RequestId, by: Duration) -> Option<Origin> {
        let request = self.requests.get(id)?;
        let (origin, time) = (request.origin, common.request_time(request.frame_len()) + by);
        let deadline = request.taken + time;
        self.requests.postpone(id, deadline).then_some(origin)
    }

    fn request_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.requests.get_mut(id)
    }

    /// Tries the next candidate; answers when there is none.
    fn advance(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        topic: &str,
        frame: FrameRef<'_>,
    ) {
        let own = cx.id;
        loop {
            let (candidate, others) = self.draw(cx, id, topic);
            if others != Others::None {
                self.retain(cx, id, frame);
            }
            if candidate.is_none() && self.waits_for_state(cx, id, frame) {
                return;
            }
            let Some(request) = self.request_mut(id) else { return };
            if cx.now >= request.deadline {
                return self.give_up(cx, id);
            }
            match candidate {
                None => {
                    if self.try_ledger(cx, id, topic, frame) {
                        return;
                    }
                    return self.give_up(cx, id);
                }
                Some(Candidate::TooLong(node)) => {
                    request.begin_attempt(cx.now, AttemptKind::Node, node.short(), MessageNumber::NONE);
                    request.end_node_attempt(cx.now, MessageNumber::NONE, AttemptOutcome::TooLong);
                    request.furthest = request.furthest.max(Furthest::NotSent);
                    cx.note_too_long(&node, frame.len());
                    return self.give_up(cx, id);
                }
                Some(Candidate::ChallengeBroker) => {
                    request.current = CurrentAttempt::ChallengeBroker;
                    request.begin_attempt(
                        cx.now,
                        AttemptKind::Challenged,
                        some_session(CHALLENGE_BROKER),
                        MessageNumber::NONE,
                    );
                    let sender = match request.origin {
                        Origin::Session { id, .. } => Some(id),
                        Origin::Node(_) => None,
                    };
                    return self.send_to_reactor(
                        cx,
                        CHALLENGE_BROKER,
                        MeshMessage::Carry { request: id, sender },
                        frame,
                    );
                }
                Some(Candidate::Reactor(reactor, audience)) => {
                    request.current = CurrentAttempt::Reactor(reactor);
                    request.begin_attempt(
                        cx.now,
                        AttemptKind::Session,
                        some_session(reactor),
                        MessageNumber::NONE,
                    );
                    let mut excluded: SmallVec<[SessionId; 2]> = SmallVec::new();
                    if !request.attempted().is_empty() {
                        excluded.extend_from_slice(request.attempted());
                    }
                    if let Origin::Session { id, .. } = request.origin {
                        excluded.push(id);
                    }
                    // It waits where it would else end.
                    let wait_for_room = (others != Others::Elsewhere && request.may_wait)
                        .then(|| request.time_left(cx.now).saturating_sub(WAIT_ENDS_BEFORE));
                    let (from_2x, seq) = (request.from_2x.is_some(), request.seq);
                    let drawn = (reactor, topic, audience.as_deref());
                    let drawn_2x = self.draw_2x(cx, id, from_2x, (drawn, frame.len()));
                    let Some((draw_2x, prepaid)) = drawn_2x else { return };
                    if reactor != own {
                        let request = id;
                        let deliver = MeshMessage::Deliver {
                            request,
                            audience,
                            excluded,
                            wait_for_room,
                            draw_2x,
                            prepaid,
                        };
                        return cx.out.to_reactor(reactor, deliver, frame);
                    }
                    let audience = audience.as_deref();
                    let receivers = Receivers { audience, excluded, wait_for_room, draw_2x, prepaid };
                    let request = RequestOf { coordinator: own, id };
                    let pushed =
                        self.push_to_any(cx, Delivery { request, seq: &seq, topic, frame }, receivers);
                    let Err(why) = pushed else { return };
                    if let Some(request) = self.request_mut(id) {
                        request.end_refused_attempt(cx.now, why);
                        request.failed().exhausted.push(own);
                        request.furthest = request.furthest.max(Furthest::NotDelivered);
                    }
                }
                Some(Candidate::Node(node, audience)) => {
                    let (origin, from_2x) = (request.origin, request.from_2x);
                    let first = request.is_first_attempt();
                    let time_left_ms = request.time_left(cx.now).as_millis().try_into().unwrap_or(u32::MAX);
                    let may_wait = others == Others::None;
                    // What a client offers is admitted or refused; tries after the first are charged as they leave.
                    if let Origin::Session { key, .. } = origin
                        && first
                        && cx.shared.limiter.is_limited()
                        && let recipients = audience.as_ref().map(|recipients| recipients.0.len())
                        && let cost = self.unicast_len(cx, &node.id, frame.len(), recipients)
                        && !self.admit_bandwidth(cx, key, cost)
                    {
                        self.warn_over_bandwidth(cx, key);
                        if let Some(request) = self.request_mut(id) {
                            request.begin_attempt(
                                cx.now,
                                AttemptKind::Node,
                                node.id.short(),
                                MessageNumber::NONE,
                            );
                            request.end_node_attempt(
                                cx.now,
                                MessageNumber::NONE,
                                AttemptOutcome::OverBandwidth,
                            );
                        }
                        return self.answer_myself(cx, id, ResultCode::OVER_BANDWIDTH);
                    }
                    let message = cx.next_message();
                    if let Some(request) = self.request_mut(id) {
                        request.nodes.push((node.clone(), message));
                        request.begin_attempt(cx.now, AttemptKind::Node, node.id.short(), message);
                        request.current = CurrentAttempt::Node(message);
                    }
                    let (request, node_id) = (id, node.id);
                    let forward = Forward {
                        request,
                        node: node_id,
                        message,
                        time_left_ms,
                        may_wait,
                        audience,
                        from_2x,
                    };
                    if node.reactor != own {
                        return cx.out.to_reactor(node.reactor, MeshMessage::Forward(forward), frame);
                    }
                    if self.forward(cx, own, &forward, frame) {
                        return;
                    }
                    if let Some(request) = self.request_mut(id) {
                        request.end_node_attempt(cx.now, message, AttemptOutcome::NotTaken);
                        request.furthest = request.furthest.max(Furthest::NotSent);
                    }
                }
            }
        }
    }

    /// Keeps the frame for another try, if there is room.
    fn retain(&mut self, cx: &mut Context<'_, impl Outbound>, id: RequestId, frame: FrameRef<'_>) {
        let bytes_max = cx.shared.settings.retained_bytes_max / usize::from(cx.shared.reactors);
        if !self.requests.retain(id, frame, bytes_max) {
            cx.counters.retention_refused.increment();
        }
    }

    /// Tries the next candidate with the frame that was kept.
    fn retry(&mut self, cx: &mut Context<'_, impl Outbound>, id: RequestId) {
        let Some(request) = self.request_mut(id) else { return };
        request.current = CurrentAttempt::None;
        if request.attempted().len() + request.nodes.len() >= REQUEST_ATTEMPTS_MAX {
            cx.counters.tries_exhausted.increment();
            return self.give_up(cx, id);
        }
        let Some(frame) = request.retained.clone() else { return self.give_up(cx, id) };
        let frame = frame.as_ref();
        match AmopBody::decode(&frame.head()[HEADER_LEN..]) {
            Ok(body) => self.advance(cx, id, body.topic, frame),
            Err(_) => self.give_up(cx, id),
        }
    }

    /// Answers a message that is not even begun with.
    pub(super) fn refuse(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        message: Refused<'_>,
        refusal: Refusal,
        code: ResultCode,
    ) {
        let Refused { header, role, topic } = message;
        cx.count_answer(code);
        let Some(origin) = self.session_mut(key).map(|session| session.id.0) else { return };
        let sender = self.sender(key);
        let trace = MessageTrace { role, origin, size: header.len, ..refused(refusal, code) };
        let (seq, taken, topic) = (header.seq, cx.now, TopicName::new(topic));
        cx.common.keep(Finished { seq, taken, topic, sender, trace }, true);
        if role == Role::Multicast && self.speaks_3x(key) {
            return;
        }
        self.reply(cx, key, Reply { frame_type: FrameType::RESPONSE, seq: &seq, result: code, data: &[] });
    }
}

/// A 0x31 of the node's own making: a code and no data.
pub(super) fn answer_frame(seq: &Seq, result: ResultCode) -> [u8; HEADER_LEN] {
    Header { len: HEADER_LEN as u32, frame_type: FrameType::RESPONSE, seq: *seq, result }.encode()
}
