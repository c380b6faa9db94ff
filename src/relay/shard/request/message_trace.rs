//! The trace of a request: the attempts to deliver it with their outcomes, and how it ended.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    super::trace::{micros, refused, short_micros},
    FromNode, Origin, Request,
};
use crate::{
    relay::{
        NotPushed, Outbound, ReactorId, RequestId, SessionId,
        shard::{Context, Parts, trace::Finished},
        trace::{LocalTrace, PENDING_LOOKED_AT_MAX, TopicName},
    },
    wire::{
        MessageNumber, NodeId, ResultCode,
        sdk::{Header, Seq},
        trace::{Attempt, AttemptKind, AttemptOutcome, End, MessageTrace, Refusal, Role, TRACES_MAX},
    },
};

impl Request {
    pub(super) fn begin_attempt(
        &mut self,
        now: Instant,
        kind: AttemptKind,
        who: u64,
        message: MessageNumber,
    ) {
        // Most messages are tried once, at once.
        let at_us = match now == self.taken {
            true => 0,
            false => short_micros(now.saturating_duration_since(self.taken)),
        };
        self.attempts.push(Attempt { at_us, took_us: 0, who, message, kind, outcome: AttemptOutcome::Open });
    }

    /// Notes what came of the last try that fits and has no outcome.
    pub(super) fn end_attempt(
        &mut self,
        now: Instant,
        outcome: AttemptOutcome,
        fits: impl Fn(&Attempt) -> bool,
    ) -> Option<&mut Attempt> {
        let now_us = short_micros(now.saturating_duration_since(self.taken));
        let attempt =
            self.attempts.last_mut(|attempt| attempt.outcome == AttemptOutcome::Open && fits(attempt))?;
        attempt.outcome = outcome;
        attempt.took_us = now_us.saturating_sub(attempt.at_us);
        Some(attempt)
    }

    pub(super) fn end_node_attempt(&mut self, now: Instant, message: MessageNumber, outcome: AttemptOutcome) {
        self.end_attempt(now, outcome, |attempt| {
            attempt.kind == AttemptKind::Node && attempt.message == message
        });
    }

    /// The session that was tried here last is known now.
    pub(super) fn end_session_attempt(&mut self, now: Instant, session: SessionId, outcome: AttemptOutcome) {
        // A silent one may answer late, while another is tried.
        let is_late =
            |attempt: &Attempt| attempt.outcome == AttemptOutcome::Silent && attempt.who == session.0;
        if let Some(attempt) = self.attempts.last_mut(is_late) {
            attempt.outcome = outcome;
            attempt.took_us =
                short_micros(now.saturating_duration_since(self.taken)).saturating_sub(attempt.at_us);
        } else if let Some(attempt) = self.end_attempt(now, outcome, |attempt| {
            !matches!(attempt.kind, AttemptKind::Node | AttemptKind::Ledger)
        }) {
            attempt.who = session.0;
        }
    }

    pub(super) fn end_refused_attempt(&mut self, now: Instant, why: NotPushed) {
        let (outcome, session) = match why {
            NotPushed::NobodyLeft => (AttemptOutcome::NobodyLeft, None),
            NotPushed::QueueFull(session) => (AttemptOutcome::QueueFull, Some(session)),
            NotPushed::SeqInUse => (AttemptOutcome::SeqInUse, None),
            NotPushed::PushesFull => (AttemptOutcome::PushesFull, None),
            NotPushed::ChallengeClosed => (AttemptOutcome::ChallengeClosed, None),
        };
        let attempt = self.end_attempt(now, outcome, |attempt| attempt.kind != AttemptKind::Node);
        if let (Some(attempt), Some(session)) = (attempt, session) {
            attempt.who = session.0;
        }
    }

    /// What is told of it.
    pub(super) fn trace(&self, now: Instant, end: End, code: ResultCode) -> MessageTrace {
        let (role, origin, message) = match self.origin {
            Origin::Session { id, .. } => (Role::Request, id.0, MessageNumber::NONE),
            Origin::Node(FromNode { id, message, .. }) => (Role::Forwarded, id.short(), message),
        };
        let ended = self.answered_for_now.filter(|_| end == End::ByNode).unwrap_or(now);
        MessageTrace {
            role,
            end,
            code: code.0,
            took_us: short_micros(ended.saturating_duration_since(self.taken)),
            time_ms: u32::try_from(self.time.as_millis()).unwrap_or(u32::MAX),
            origin,
            message,
            size: self.size,
            attempts: self.attempts.clone(),
            ..MessageTrace::default()
        }
    }
}

/// The number by which a trace names some session of a reactor.
pub(super) fn some_session(reactor: ReactorId) -> u64 {
    u64::from(reactor.0) << 48
}

impl Parts {
    /// Keeps the trace of a request that is about to end, if it is one that is kept; only then the last `attempt` is
    /// taken.
    pub(super) fn note_end(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        end: End,
        code: ResultCode,
        attempt: impl FnOnce(&mut Request),
    ) {
        let Some(request) = self.requests.get_mut(id) else { return };
        // The neighbour may have given up before the late answer came to it.
        let failed = code != ResultCode::OK || request.answered_for_now.is_some();
        if !(failed || cx.shared.tracing.load(Relaxed)) {
            return;
        }
        attempt(request);
        let trace = request.trace(cx.now, end, code);
        let (origin, seq, taken, topic) = (request.origin, request.seq.seq, request.taken, request.topic);
        let sender = match origin {
            Origin::Session { key, .. } => self.sender(key),
            Origin::Node(_) => None,
        };
        cx.common.keep(Finished { seq, taken, topic, sender, trace }, failed);
    }

    /// What is known of requests that are not over.
    pub(in crate::relay::shard) fn pending_of(&mut self, now: Instant, seq: &Seq) -> Vec<LocalTrace> {
        let pending = self.requests.iter().take(PENDING_LOOKED_AT_MAX);
        let pending = pending.filter(|request| request.seq.seq == *seq).take(TRACES_MAX);
        let known = pending.map(|request| {
            let age_us = micros(now.saturating_duration_since(request.taken));
            let (end, code) = match request.answered_for_now {
                Some(_) => (End::ByNode, request.furthest.code()),
                None => (End::Open, ResultCode::OK),
            };
            let known = LocalTrace {
                trace: MessageTrace { age_us, ..request.trace(now, end, code) },
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
}

impl<O: Outbound> Context<'_, O> {
    pub(in crate::relay::shard) fn keep_refused_of_node(
        &mut self,
        (node, message): (&NodeId, MessageNumber),
        header: &Header,
        topic: &str,
        refusal: Refusal,
    ) {
        let (role, origin, size) = (Role::Forwarded, node.short(), header.len);
        let refused = refused(refusal, ResultCode::NOT_DELIVERED);
        let trace = MessageTrace { role, origin, message, size, ..refused };
        let (seq, taken, topic) = (header.seq, self.now, TopicName::new(topic));
        self.common.keep(Finished { seq, taken, topic, sender: None, trace }, true);
    }
}
