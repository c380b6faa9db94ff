//! What is told of a request: whom it was tried at, what came of that, how it ended.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    super::trace::{micros, refused, short_micros},
    FromNode, Origin, Request,
};
use crate::{
    relay::{
        NotPushed, Outbound, ReactorId, RequestId, SessionId,
        shard::{Context, Parts, trace::Finished},
        trace::{Known, PENDING_LOOKED_AT_MAX, TopicName},
    },
    wire::{
        NodeId, ResultCode,
        sdk::{Header, Seq},
        trace::{ACCOUNTS_MAX, Account, End, Fate, Refusal, Role, Step, Tried},
    },
};

impl Request {
    pub(super) fn begin_step(&mut self, now: Instant, tried: Tried, who: u64, message: u32) {
        // Most messages are tried once, at once.
        let at_us = match now == self.taken {
            true => 0,
            false => short_micros(now.saturating_duration_since(self.taken)),
        };
        self.steps.push(Step { at_us, took_us: 0, who, message, tried, fate: Fate::Open });
    }

    /// Notes what came of the last try that fits and has no outcome.
    pub(super) fn end_step(
        &mut self,
        now: Instant,
        fate: Fate,
        fits: impl Fn(&Step) -> bool,
    ) -> Option<&mut Step> {
        let now_us = short_micros(now.saturating_duration_since(self.taken));
        let step = self.steps.last_mut(|step| step.fate == Fate::Open && fits(step))?;
        step.fate = fate;
        step.took_us = now_us.saturating_sub(step.at_us);
        Some(step)
    }

    pub(super) fn end_node_step(&mut self, now: Instant, message: u32, fate: Fate) {
        self.end_step(now, fate, |step| step.tried == Tried::Node && step.message == message);
    }

    /// The session that was tried here last is known now.
    pub(super) fn end_session_step(&mut self, now: Instant, session: SessionId, fate: Fate) {
        // A silent one may answer late, while another is tried.
        let is_late = |step: &Step| step.fate == Fate::Silent && step.who == session.0;
        if let Some(step) = self.steps.last_mut(is_late) {
            step.fate = fate;
            step.took_us = short_micros(now.saturating_duration_since(self.taken)).saturating_sub(step.at_us);
        } else if let Some(step) = self.end_step(now, fate, |step| step.tried != Tried::Node) {
            step.who = session.0;
        }
    }

    pub(super) fn end_refused_step(&mut self, now: Instant, why: NotPushed) {
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
    pub(super) fn account(&self, now: Instant, end: End, code: ResultCode) -> Account {
        let (role, origin, message) = match self.origin {
            Origin::Session { id, .. } => (Role::Request, id.0, 0),
            Origin::Node(FromNode { id, message, .. }) => (Role::Forwarded, id.short(), message),
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
pub(super) fn some_session(reactor: ReactorId) -> u64 {
    u64::from(reactor.0) << 48
}

impl Parts {
    /// Keeps the account of a request that is about to end, if it is one that is kept; only then the last `step` is
    /// taken.
    pub(super) fn note_end(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        end: End,
        code: ResultCode,
        step: impl FnOnce(&mut Request),
    ) {
        let Some(request) = self.requests.get_mut(id) else { return };
        // The neighbour may have given up before the late answer came to it.
        let failed = code != ResultCode::OK || request.answered_for_now.is_some();
        if !(failed || cx.shared.tracing.load(Relaxed)) {
            return;
        }
        step(request);
        let account = request.account(cx.now, end, code);
        let (origin, seq, taken, topic) = (request.origin, request.seq.seq, request.taken, request.topic);
        let sender = match origin {
            Origin::Session { key, .. } => self.sender(key),
            Origin::Node(_) => None,
        };
        cx.common.keep(Finished { seq, taken, topic, sender, account }, failed);
    }

    /// What is known of requests that are not over.
    pub(in crate::relay::shard) fn pending_of(&mut self, now: Instant, seq: &Seq) -> Vec<Known> {
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
}

impl<O: Outbound> Context<'_, O> {
    pub(in crate::relay::shard) fn keep_refused_of_node(
        &mut self,
        (node, message): (&NodeId, u32),
        header: &Header,
        topic: &str,
        refusal: Refusal,
    ) {
        let (role, origin, size) = (Role::Forwarded, node.short(), header.len);
        let refused = refused(refusal, ResultCode::NOT_DELIVERED);
        let account = Account { role, origin, message, size, ..refused };
        let (seq, taken, topic) = (header.seq, self.now, TopicName::new(topic));
        self.common.keep(Finished { seq, taken, topic, sender: None, account }, true);
    }
}
