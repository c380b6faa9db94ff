//! A request at one of our sessions, from the push until the session answers (WIRE §2.2).

use std::time::Instant;

use rand::RngExt;
use smallvec::SmallVec;

use super::{Shard, private::Presented, seqs::SeqKey, session::Session};
use crate::{
    relay::{
        Class, LinkKey, MeshMessage, Named, NotPushed, Outbound, ReactorId, RequestId, SessionId,
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
    /// `None` once it expired: the session is silent, but may still answer.
    timer: Option<TimerKey>,
    what: PushFor,
}

/// What a push is for.
pub(super) enum PushFor {
    /// A message.
    Message,
    /// A challenge of a private topic's publisher.
    Challenge(Box<Presented>),
}

/// What a push timer is about.
#[derive(Clone, Copy)]
pub(super) struct PushTimer {
    key: LinkKey,
    seq: SeqKey,
}

impl Shard {
    /// The coordinator of a request has drawn this reactor.
    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn handle_deliver(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        audience: Option<&Named>,
        excluded: SmallVec<[SessionId; 2]>,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let head = frame.head();
        let pushed = match (Header::decode(head), AmopBody::decode(&head[HEADER_LEN..])) {
            (Some(header), Ok(body)) => {
                let seq = self.seq_key(&header.seq);
                let message = (&seq, body.topic);
                self.push_to_any(now, coordinator, request, audience, excluded, message, frame, out)
            }
            _ => Err(NotPushed::NobodyLeft),
        };
        if let Err(why) = pushed {
            out.to_reactor(coordinator, MeshMessage::Undeliverable { request, why }, FrameRef::Slice(&[]));
        }
    }

    /// Pushes a unicast of this seq and topic to one of this shard's subscribers that is not `excluded`, each
    /// equally likely; with a private topic only to one that the `audience` names. Tells why if none can take it.
    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn push_to_any(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        audience: Option<&Named>,
        mut excluded: SmallVec<[SessionId; 2]>,
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
        let mut why = None;
        while let Some(index) = self.draw_session(topic, named.as_deref(), &excluded, seq) {
            let Some(session) = self.session_at(index) else { break };
            let (key, id) = (session.key, session.id);
            if out.send(key, Class::Data, &[], frame).is_err() {
                self.counters.dropped_queue_full.increment();
                if self.logs.queue_full.admits(now)
                    && let Some(session) = self.session_at(index)
                {
                    session.warn_queue_full();
                }
                why = Some(NotPushed::QueueFull(id));
                excluded.push(id);
                continue;
            }
            self.note_push(now, index, seq, (coordinator, request), PushFor::Message);
            self.counters.deliveries.increment();
            return Ok(());
        }
        Err(why.unwrap_or_else(|| self.why_nobody(topic, named.as_deref(), &excluded, seq)))
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
    pub(super) fn note_push(
        &mut self,
        now: Instant,
        index: u32,
        seq: &SeqKey,
        (coordinator, request): (ReactorId, RequestId),
        what: PushFor,
    ) {
        let since_nanos = self.nanos(now);
        let Self { links, push_timers, .. } = self;
        let Some(Some(super::Link { kind: super::LinkKind::Sdk(session), .. })) =
            links.get_mut(index as usize)
        else {
            return;
        };
        let timer = Some(push_timers.start(now, PushTimer { key: session.key, seq: *seq }));
        session.last_activity = now;
        session.pushes.insert(*seq, Push { coordinator, request, since_nanos, timer, what });
        self.pushes += 1;
        self.counters.sdk_frames_sent.increment();
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
        let Self { local_topics, links, rng, .. } = self;
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
            let index = sessions[rng.random_range(0..sessions.len())];
            if eligible(index) {
                return Some(index);
            }
        }
        let listed: Vec<u32> = sessions.iter().copied().filter(|&index| eligible(index)).collect();
        (!listed.is_empty()).then(|| listed[rng.random_range(0..listed.len())])
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
        if let Some(timer) = push.timer {
            self.push_timers.cancel(timer);
        }
        self.pushes -= 1;
    }

    pub(super) fn handle_push_timeout(&mut self, now: Instant, timer: PushTimer, out: &mut impl Outbound) {
        let Some(session) = self.session_mut(timer.key) else { return };
        let id = session.id;
        let Some(push) = session.pushes.get_mut(&timer.seq) else { return };
        push.timer = None;
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
