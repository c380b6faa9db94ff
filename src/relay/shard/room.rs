//! Unicasts that wait for room: all who could take one have full queues, and nobody else is left to be tried (WIRE §2.3).
//!
//! A waiting request stands in the line of one session. As long as anybody stands there, the session's queue counts
//! as full for everybody else, so that nothing overtakes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};

use super::{
    Context, Link, LinkKind, Parts,
    push::{Delivery, NewPush, PushFor},
    request::RequestOf,
    seqs::SeqKey,
};
use crate::{
    relay::{
        Class, LinkKey, MeshMessage, NotPushed, Outbound, SendError, SessionId, SubscriberId,
        timers::{TimerKey, Timers},
    },
    wire::{
        FrameRef, RetainedFrame,
        sdk::{AmopBody, HEADER_LEN},
    },
};

/// A request may wait until so long before its time is up: its end is then told by who knows that it was never pushed.
pub(super) const WAIT_ENDS_BEFORE: Duration = Duration::from_millis(500);

/// A request in the line of a session.
pub(super) struct Waiter {
    request: RequestOf,
    seq: SeqKey,
    frame: RetainedFrame,
    timer: TimerKey,
    /// With a private topic, under which number the session has proved that it may get it.
    subscriber: Option<SubscriberId>,
}

/// Those who wait for room in one session's queue, in the order in which they came.
pub(super) type Line = VecDeque<Waiter>;

/// All of a shard's requests that stand in lines.
///
/// # Invariants
/// - Each stands in the line of the session that is noted here, and has a timer.
/// - `bytes` are those of their frames.
pub(super) struct RoomWaits {
    timers: Timers<RequestOf>,
    sessions: AHashMap<RequestOf, LinkKey>,
    bytes: usize,
}

impl RoomWaits {
    pub(super) fn new(request_timeout: Duration, hashing: RandomState) -> Self {
        let sessions = AHashMap::with_hasher(hashing);
        Self { timers: Timers::new(request_timeout), sessions, bytes: 0 }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<RequestOf> {
        self.timers.pop_expired(now)
    }

    fn enter(&mut self, deadline: Instant, key: LinkKey, request: RequestOf, len: usize) -> TimerKey {
        self.sessions.insert(request, key);
        self.bytes += len;
        self.timers.start_until(deadline, request)
    }

    fn leave(&mut self, waiter: &Waiter) {
        self.timers.cancel(waiter.timer);
        self.sessions.remove(&waiter.request);
        self.bytes -= waiter.frame.len();
    }

    /// For checks: requests and bytes, as they were counted when they came and went.
    pub(super) fn counted(&self) -> (usize, usize) {
        (self.sessions.len(), self.bytes)
    }
}

/// The same of one line, counted anew.
pub(super) fn count(line: &Line) -> (usize, usize) {
    (line.len(), line.iter().map(|waiter| waiter.frame.len()).sum())
}

impl Parts {
    /// Puts a request into the line of a session for so long. `false` if too much waits already; one frame may go beyond
    /// the bound, so that there is always room for the longest.
    pub(super) fn wait_for_room(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        delivery: Delivery<'_>,
        index: u32,
        time: Duration,
    ) -> bool {
        let bytes_max = cx.shared.settings.retained_bytes_max / usize::from(cx.shared.reactors);
        if self.room_waits.bytes >= bytes_max {
            cx.counters.room_waits_refused.increment();
            return false;
        }
        let Delivery { request, seq, topic, frame } = delivery;
        let subscriber = self.subscribers.number_of(index, topic);
        let Self { links, room_waits, .. } = self;
        // The link to another node tells nothing of its room.
        let Some(Some(Link { kind: LinkKind::Sdk(session), .. })) = links.get_mut(index as usize) else {
            return false;
        };
        let key = session.key;
        let timer = room_waits.enter(cx.now + time, key, request, frame.len());
        session.line.push_back(Waiter { request, seq: *seq, frame: frame.retain(), timer, subscriber });
        cx.counters.room_waits.increment();
        self.watch_room(cx, key);
        true
    }

    /// Asks to be told when the first in a line has room.
    fn watch_room(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Some(session) = self.session_mut(key) else { return };
        if let Some(first) = session.line.front() {
            cx.out.watch_room(key, Class::Data, session.len_on_link(first.frame.len()));
        }
    }

    /// Whether what waits is still for the session: nothing is for who has dropped the topic, and a private topic that it
    /// took anew is another one to it.
    fn is_still_for(&self, key: LinkKey, waiter: &Waiter, topic: &str) -> bool {
        match waiter.subscriber {
            Some(number) => self.subscribers.index_of(number, topic) == Some(key.index),
            None => self.subscribes(key.index, topic),
        }
    }

    /// A session's queue, which was full, takes data again.
    pub(super) fn handle_room(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        while let Some(session) = self.session_mut(key) {
            let Some(waiter) = session.line.pop_front() else { return };
            let is_in_use = session.pushes.contains_key(&waiter.seq);
            let frame = waiter.frame.as_ref();
            let body = AmopBody::decode(&frame.head()[HEADER_LEN..]);
            let is_for_it = body.is_ok_and(|body| self.is_still_for(key, &waiter, body.topic));
            let why = if self.pushes.len() >= cx.shared.settings.pending_pushes_max {
                NotPushed::PushesFull
            } else if is_in_use || !is_for_it {
                // It cannot be this session. Others may have room meanwhile.
                NotPushed::NobodyLeft
            } else {
                let session = self.session_mut(key);
                match session.map_or(Err(SendError::Gone), |session| session.send_pushed(cx, &[], frame)) {
                    Ok(queued) => {
                        self.room_waits.leave(&waiter);
                        let (request, seq) = (waiter.request, waiter.seq);
                        let topic = body.map_or("", |body| body.topic);
                        let push = NewPush { request, seq, what: PushFor::Message(topic) };
                        self.note_push(cx, key.index, push, queued);
                        cx.counters.deliveries.increment();
                        continue;
                    }
                    Err(SendError::Full) => {
                        if let Some(session) = self.session_mut(key) {
                            session.line.push_front(waiter);
                        }
                        return self.watch_room(cx, key);
                    }
                    Err(SendError::Gone) => NotPushed::NobodyLeft,
                }
            };
            self.room_waits.leave(&waiter);
            self.report_undeliverable(cx, waiter.request, why, waiter.frame.as_ref());
        }
    }

    /// A request has waited for as long as it may.
    pub(super) fn handle_room_timeout(&mut self, cx: &mut Context<'_, impl Outbound>, request: RequestOf) {
        if let Some((session, frame)) = self.leave(request) {
            cx.counters.dropped_queue_full.increment();
            if cx.common.logs.queue_full.admits(cx.now)
                && let Some(&index) = self.sessions.indices.get(&session)
                && let Some(session) = self.session_at(index)
            {
                session.warn_queue_full();
            }
            self.report_undeliverable(cx, request, NotPushed::QueueFull(session), frame.as_ref());
        }
    }

    /// A request is over, or goes elsewhere: it waits no longer.
    pub(super) fn forget_wait(&mut self, request: RequestOf) {
        self.leave(request);
    }

    /// Takes a request out of the line in which it stands; gives whose that is, and its frame.
    fn leave(&mut self, request: RequestOf) -> Option<(SessionId, RetainedFrame)> {
        let key = self.room_waits.sessions.get(&request).copied()?;
        let session = self.session_mut(key)?;
        let id = session.id;
        let at = session.line.iter().position(|waiter| waiter.request == request)?;
        let waiter = session.line.remove(at)?;
        self.room_waits.leave(&waiter);
        Some((id, waiter.frame))
    }

    /// A session is gone, and with it its line: other sessions may be there by now.
    pub(super) fn end_line(&mut self, cx: &mut Context<'_, impl Outbound>, line: Line) {
        for waiter in &line {
            self.room_waits.leave(waiter);
        }
        for waiter in line {
            self.report_undeliverable(cx, waiter.request, NotPushed::NobodyLeft, waiter.frame.as_ref());
        }
    }

    /// Tells a request's coordinator that no session here can take it. `frame` is the request's, where it was kept here,
    /// so that others can be tried with it.
    pub(super) fn report_undeliverable(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        request: RequestOf,
        why: NotPushed,
        frame: FrameRef<'_>,
    ) {
        let RequestOf { coordinator, id } = request;
        self.send_to_reactor(cx, coordinator, MeshMessage::Undeliverable { request: id, why }, frame);
    }
}
