//! Unicasts that wait for room: all who could take one have full queues, and nobody else is left to be tried (WIRE §2.3).
//!
//! A waiting request stands in the line of one session. As long as anybody stands there, the session's queue counts
//! as full for everybody else, so that nothing overtakes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Link, LinkKind, Shard, push::PushFor, seqs::SeqKey};
use crate::{
    relay::{
        Class, LinkKey, MeshMessage, NotPushed, Outbound, ReactorId, RequestId, SendError, SessionId,
        timers::TimerKey,
    },
    wire::{
        FrameRef, RetainedFrame,
        sdk::{AmopBody, HEADER_LEN},
    },
};

/// A request may wait until so long before its time is up: its end is then told by who knows that it was never pushed.
pub(super) const WAIT_ENDS_BEFORE: Duration = Duration::from_millis(500);

/// Names a request in the node: its coordinator, and that one's number for it.
pub(super) type RequestOf = (ReactorId, RequestId);

/// A request in the line of a session.
pub(super) struct Waiter {
    request: RequestOf,
    seq: SeqKey,
    frame: RetainedFrame,
    timer: TimerKey,
}

/// Those who wait for room in one session's queue, in the order in which they came.
pub(super) type Line = VecDeque<Waiter>;

impl Shard {
    /// Puts a request into the line of a session for so long. `false` if too much waits already.
    pub(super) fn wait_for_room(
        &mut self,
        now: Instant,
        (index, time): (u32, Duration),
        request: RequestOf,
        seq: &SeqKey,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> bool {
        let bytes_max = self.shared.settings.retained_bytes_max / usize::from(self.shared.reactors);
        if self.room_bytes + frame.len() > bytes_max {
            self.counters.room_waits_refused.increment();
            return false;
        }
        let Self { links, room_timers, .. } = self;
        let Some(Some(Link { kind: LinkKind::Sdk(session), .. })) = links.get_mut(index as usize) else {
            return false;
        };
        let timer = room_timers.start_until(now + time, request);
        session.line.push_back(Waiter { request, seq: *seq, frame: frame.retain(), timer });
        let key = session.key;
        self.room_bytes += frame.len();
        self.room_waits.insert(request, key);
        self.counters.room_waits.increment();
        out.watch_room(key);
        true
    }

    /// A session's queue, which was full, takes data again.
    pub fn handle_room(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        while let Some(session) = self.session_mut(key) {
            let id = session.id;
            let Some(waiter) = session.line.pop_front() else { return };
            let frame = waiter.frame.as_ref();
            let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) else { return };
            let is_in_use = session.pushes.contains_key(&waiter.seq);
            let refused = if self.pushes >= self.shared.settings.pending_pushes_max {
                Some(NotPushed::PushesFull)
            } else if is_in_use {
                Some(NotPushed::SeqInUse)
            } else if !self.subscribes(key.index, body.topic) {
                Some(NotPushed::NobodyLeft)
            } else {
                match out.send(key, Class::Data, &[], frame) {
                    Ok(queued) => {
                        let (request, seq) = (waiter.request, waiter.seq);
                        self.leave_line(&waiter);
                        self.note_push(now, key.index, &seq, request, PushFor::Message, queued, out);
                        self.counters.deliveries.increment();
                        continue;
                    }
                    Err(SendError::Full) => {
                        if let Some(session) = self.session_mut(key) {
                            session.line.push_front(waiter);
                        }
                        out.watch_room(key);
                        return;
                    }
                    Err(SendError::Gone) => Some(NotPushed::QueueFull(id)),
                }
            };
            self.leave_line(&waiter);
            if let Some(why) = refused {
                self.report_undeliverable(now, waiter.request, why, waiter.frame.as_ref(), out);
            }
        }
    }

    /// A request has waited for as long as it may.
    pub(super) fn handle_room_timeout(&mut self, now: Instant, request: RequestOf, out: &mut impl Outbound) {
        if let Some((session, frame)) = self.leave(request) {
            self.counters.dropped_queue_full.increment();
            if self.logs.queue_full.admits(now)
                && let Some(&index) = self.session_indices.get(&session)
                && let Some(session) = self.session_at(index)
            {
                session.warn_queue_full();
            }
            self.report_undeliverable(now, request, NotPushed::QueueFull(session), frame.as_ref(), out);
        }
    }

    /// A request is over, or goes elsewhere: it waits no longer.
    pub(super) fn forget_wait(&mut self, request: RequestOf) {
        self.leave(request);
    }

    /// Takes a request out of the line in which it stands; gives whose that is, and its frame.
    fn leave(&mut self, request: RequestOf) -> Option<(SessionId, RetainedFrame)> {
        let key = self.room_waits.get(&request).copied()?;
        let session = self.session_mut(key)?;
        let id = session.id;
        let at = session.line.iter().position(|waiter| waiter.request == request)?;
        let waiter = session.line.remove(at)?;
        self.leave_line(&waiter);
        Some((id, waiter.frame))
    }

    /// A session is gone, and with it its line: other sessions may be there by now.
    pub(super) fn end_line(&mut self, now: Instant, line: Line, out: &mut impl Outbound) {
        for waiter in &line {
            self.leave_line(waiter);
        }
        for waiter in line {
            self.report_undeliverable(now, waiter.request, NotPushed::NobodyLeft, waiter.frame.as_ref(), out);
        }
    }

    fn leave_line(&mut self, waiter: &Waiter) {
        self.room_timers.cancel(waiter.timer);
        self.room_waits.remove(&waiter.request);
        self.room_bytes -= waiter.frame.len();
    }

    /// Tells a request's coordinator that no session here can take it. `frame` is the request's, where it was kept here,
    /// so that others can be tried with it.
    pub(super) fn report_undeliverable(
        &mut self,
        now: Instant,
        (coordinator, request): RequestOf,
        why: NotPushed,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        if coordinator == self.id {
            self.handle_undeliverable(now, request, self.id, why, frame, out);
        } else {
            out.to_reactor(coordinator, MeshMessage::Undeliverable { request, why }, frame);
        }
    }
}
