//! A request at one of our sessions, from the push until the session answers (WIRE §2.2).

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{Shard, private::Presented, room::RequestOf, seqs::SeqKey, session::Session, session_of};
use crate::{
    relay::{
        LinkKey, MeshMessage, Named, NotPushed, Outbound, Queued, ReactorId, RequestId, SendError, SessionId,
        timers::TimerKey,
    },
    wire::{
        FrameRef, TopicKind,
        sdk::{AmopBody, HEADER_LEN, Header, Seq},
    },
};

/// How often a receiver is drawn blindly before the eligible ones are listed: enough that listing is
/// rare while most sessions of a topic are eligible.
const BLIND_DRAWS: usize = 4;

/// An open push: keyed by seq in its session.
pub(super) struct Push {
    coordinator: ReactorId,
    request: RequestId,
    /// In nanoseconds from the node's start.
    since_nanos: u64,
    /// The session has the frame when its machine has taken so many bytes of its link.
    end: u64,
    waits_for: WaitsFor,
    what: PushFor,
}

impl Push {
    /// Whose it is: the coordinator, and its number for the request.
    pub(super) fn request(&self) -> RequestOf {
        (self.coordinator, self.request)
    }
}

/// What an open push waits for.
enum WaitsFor {
    /// That the session's machine has the frame. The push timeout has not begun (WIRE §2.3).
    Taken,
    /// The answer, for the push timeout.
    Answer(TimerKey),
    /// The answer, though the session was silent for too long.
    LateAnswer,
}

/// What a push is for.
pub(super) enum PushFor {
    /// A message.
    Message,
    /// A challenge of a private topic's publisher.
    Challenge(Box<Presented>),
}

/// Who may get a request, who may not, and how long it may wait for room where all their queues are full.
pub(super) type Receivers<'a> = (Option<&'a Named>, SmallVec<[SessionId; 2]>, Option<Duration>);

/// The same with the coordinator's number for the request.
pub(super) type DeliverTo<'a> = (RequestId, Option<&'a Named>, SmallVec<[SessionId; 2]>, Option<Duration>);

/// What a push timer is about.
#[derive(Clone, Copy)]
pub(super) struct PushTimer {
    key: LinkKey,
    seq: SeqKey,
}

impl Shard {
    /// The coordinator of a request has drawn this reactor.
    pub(super) fn handle_deliver(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        (request, audience, excluded, wait_for_room): DeliverTo<'_>,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let head = frame.head();
        let request = (coordinator, request);
        let pushed = match (Header::decode(head), AmopBody::decode(&head[HEADER_LEN..])) {
            (Some(header), Ok(body)) => {
                let seq = self.seq_key(&header.seq);
                let message = (&seq, body.topic);
                let receivers = (audience, excluded, wait_for_room);
                self.push_to_any(now, request, receivers, message, frame, out)
            }
            _ => Err(NotPushed::NobodyLeft),
        };
        if let Err(why) = pushed {
            self.report_undeliverable(now, request, why, FrameRef::Slice(&[]), out);
        }
    }

    /// Pushes a unicast of this seq and topic to one of this shard's subscribers that is not `excluded`, each
    /// equally likely; with a private topic only to one that the `audience` names. Where all their queues are full it
    /// waits for room, if it may. Tells why if none can take it.
    pub(super) fn push_to_any(
        &mut self,
        now: Instant,
        request: RequestOf,
        (audience, mut excluded, wait_for_room): Receivers<'_>,
        (seq, topic): (&SeqKey, &str),
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> Result<(), NotPushed> {
        if self.pushes >= self.shared.settings.pending_pushes_max {
            return Err(NotPushed::PushesFull);
        }
        let named: Option<Vec<u32>> = match (TopicKind::of(topic.as_bytes()), audience) {
            (TopicKind::Ordinary, None) => None,
            (TopicKind::Data, Some(audience)) => {
                let index_of = |&number| self.subscribers.index_of(number, topic);
                Some(audience.0.iter().filter_map(index_of).collect())
            }
            _ => return Err(NotPushed::NobodyLeft),
        };
        // Whose queue was found full first.
        let mut full = None;
        while let Some(index) = self.draw_session(topic, named.as_deref(), &excluded, seq) {
            let Some(session) = self.session_at(index) else { break };
            let id = session.id;
            match session.send_data(frame, out) {
                Ok(queued) => {
                    self.note_push(now, index, seq, request, PushFor::Message, queued, out);
                    self.counters.deliveries.increment();
                    return Ok(());
                }
                Err(SendError::Full) => full = full.or(Some((index, id))),
                Err(SendError::Gone) => {}
            }
            excluded.push(id);
        }
        let Some((index, id)) = full else {
            return Err(self.why_nobody(topic, named.as_deref(), &excluded, seq));
        };
        if let Some(time) = wait_for_room
            && self.wait_for_room(now, (index, time), request, (seq, topic), frame, out)
        {
            return Ok(());
        }
        self.counters.dropped_queue_full.increment();
        if self.logs.queue_full.admits(now)
            && let Some(session) = self.session_at(index)
        {
            session.warn_queue_full();
        }
        Err(NotPushed::QueueFull(id))
    }

    /// Why none of the sessions can be drawn.
    #[cold]
    fn why_nobody(
        &self,
        topic: &str,
        named: Option<&[u32]>,
        excluded: &[SessionId],
        seq: &SeqKey,
    ) -> NotPushed {
        let waits = |&index: &u32| match self.links.get(index as usize) {
            Some(Some(super::Link { kind: super::LinkKind::Sdk(session), .. })) => {
                !excluded.contains(&session.id) && session.pushes.contains_key(seq)
            }
            _ => false,
        };
        match named.unwrap_or_else(|| self.local_topics.sessions(topic)).iter().any(waits) {
            true => NotPushed::SeqInUse,
            false => NotPushed::NobodyLeft,
        }
    }

    /// Waits for the answer to what was just pushed to the session at `index`.
    #[allow(clippy::too_many_arguments)] // the fields of one push
    pub(super) fn note_push(
        &mut self,
        now: Instant,
        index: u32,
        seq: &SeqKey,
        (coordinator, request): RequestOf,
        what: PushFor,
        queued: Queued,
        out: &mut impl Outbound,
    ) {
        let since_nanos = self.nanos(now);
        let Self { links, push_timers, .. } = self;
        let Some(Some(super::Link { kind: super::LinkKind::Sdk(session), .. })) =
            links.get_mut(index as usize)
        else {
            return;
        };
        let key = session.key;
        let waits_for = if queued.is_behind {
            session.untaken.push_back((queued.end, *seq));
            out.watch_taken(key);
            WaitsFor::Taken
        } else {
            WaitsFor::Answer(push_timers.start(now, PushTimer { key, seq: *seq }))
        };
        session.last_activity = now;
        session
            .pushes
            .insert(*seq, Push { coordinator, request, since_nanos, end: queued.end, waits_for, what });
        self.pushes += 1;
        self.counters.sdk_frames_sent.increment();
    }

    /// A session's machine has taken so many bytes: the push timeout of what ends there begins. Asks to be told again as
    /// long as anything is on its way.
    pub fn handle_taken(&mut self, now: Instant, key: LinkKey, taken: u64, out: &mut impl Outbound) {
        let Self { links, push_timers, .. } = self;
        let Some(session) = session_of(links, key) else { return };
        while let Some(&(end, seq)) = session.untaken.front()
            && end <= taken
        {
            session.untaken.pop_front();
            if let Some(push) = session.pushes.get_mut(&seq)
                && push.end == end
                && matches!(push.waits_for, WaitsFor::Taken)
            {
                push.waits_for = WaitsFor::Answer(push_timers.start(now, PushTimer { key, seq }));
            }
        }
        if !session.untaken.is_empty() {
            out.watch_taken(key);
        }
    }

    /// Link index of a random session that subscribes (or is `named`), is not excluded and has no open push
    /// with this seq.
    fn draw_session(
        &mut self,
        topic: &str,
        named: Option<&[u32]>,
        excluded: &[SessionId],
        seq: &SeqKey,
    ) -> Option<u32> {
        let Self { local_topics, links, fast_rng, .. } = self;
        let sessions = named.unwrap_or_else(|| local_topics.sessions(topic));
        let eligible = |index: u32| match links.get(index as usize) {
            Some(Some(super::Link { kind: super::LinkKind::Sdk(session), .. })) => {
                !excluded.contains(&session.id) && !session.pushes.contains_key(seq)
            }
            _ => false,
        };
        if sessions.is_empty() {
            return None;
        }
        for _ in 0..BLIND_DRAWS {
            let index = sessions[fast_rng.in_range(0..sessions.len())];
            if eligible(index) {
                return Some(index);
            }
        }
        let listed: Vec<u32> = sessions.iter().copied().filter(|&index| eligible(index)).collect();
        (!listed.is_empty()).then(|| listed[fast_rng.in_range(0..listed.len())])
    }

    /// A 0x31 from a session: the answer to a push, or nothing that anybody waits for.
    pub(super) fn handle_session_answer(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let seq = self.seq_key(&header.seq);
        let Some(session) = self.session_mut(key) else { return };
        let id = session.id;
        let Some(push) = session.pushes.remove(&seq) else {
            self.counters.unsolicited_answers.increment();
            return;
        };
        self.end_push(&push);
        let took = self.micros_since(now, push.since_nanos);
        self.counters.latencies.pushes.record_micros(took);
        let rewritten = match &push.what {
            PushFor::Message => None,
            PushFor::Challenge(presented) => self.take_challenge_answer(now, presented, frame, out),
        };
        let frame = rewritten.as_deref().map_or(frame, FrameRef::Slice);
        if push.coordinator == self.id {
            self.answer_from_session(now, push.request, id, frame, out);
        } else {
            let answer = MeshMessage::Answer { request: push.request, session: id };
            out.to_reactor(push.coordinator, answer, frame);
        }
    }

    fn end_push(&mut self, push: &Push) {
        if let WaitsFor::Answer(timer) = push.waits_for {
            self.push_timers.cancel(timer);
        }
        self.pushes -= 1;
    }

    pub(super) fn handle_push_timeout(&mut self, now: Instant, timer: PushTimer, out: &mut impl Outbound) {
        let Self { links, push_timers, .. } = self;
        let Some(session) = session_of(links, timer.key) else { return };
        let id = session.id;
        let Some(push) = session.pushes.get_mut(&timer.seq) else { return };
        let progress = out.progress(timer.key);
        if progress.is_some_and(|progress| progress.taken < push.end) {
            // It was thought to be there, and is not: its peer is slow.
            push.waits_for = WaitsFor::Taken;
            let at = session.untaken.partition_point(|&(end, _)| end <= push.end);
            session.untaken.insert(at, (push.end, timer.seq));
            return out.watch_taken(timer.key);
        }
        if progress.is_some_and(|progress| progress.is_receiving_long || progress.is_read_paused) {
            // Who is in the middle of a long frame, or is not read, is not silent.
            push.waits_for = WaitsFor::Answer(push_timers.start(now, timer));
            return;
        }
        push.waits_for = WaitsFor::LateAnswer;
        let (coordinator, request) = (push.coordinator, push.request);
        self.counters.push_timeouts.increment();
        self.report_push_failed(now, coordinator, request, id, timer.seq.seq, true, out);
    }

    /// The session is gone, and with it every push to it.
    pub(super) fn end_pushes(&mut self, now: Instant, session: &mut Session, out: &mut impl Outbound) {
        let id = session.id;
        for (seq, push) in session.pushes.drain() {
            self.end_push(&push);
            self.report_push_failed(now, push.coordinator, push.request, id, seq.seq, false, out);
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one message
    fn report_push_failed(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        session: SessionId,
        seq: Seq,
        silent: bool,
        out: &mut impl Outbound,
    ) {
        if coordinator == self.id {
            self.handle_push_failed(now, request, session, seq, silent, out);
        } else {
            let failed = MeshMessage::PushFailed { request, session, seq, silent };
            out.to_reactor(coordinator, failed, FrameRef::Slice(&[]));
        }
    }

    /// The request is over: a late answer of this session would be nobody's.
    pub(super) fn forget_push(&mut self, session: SessionId, seq: &Seq) {
        let Some(&index) = self.session_indices.get(&session) else { return };
        let seq = self.seq_key(seq);
        let push = self.session_at(index).and_then(|session| session.pushes.remove(&seq));
        if let Some(push) = push {
            self.end_push(&push);
        }
    }
}
