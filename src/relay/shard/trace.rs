//! Keeping traces of messages, and telling them: to this node's operator, and to neighbours that ask.
//!
//! A neighbour's question goes from its home to all reactors, and each answers for itself; so nothing is kept
//! of it here. Our own questions are kept at the home of the neighbour that they were sent to.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};

use super::{Common, Context, Parts};
use crate::{
    relay::{
        LinkKey, MeshMessage, Outbound, ReactorId,
        timers::{TimerKey, Timers},
        trace::{
            ANSWER_TIME_MAX, ANSWER_TRACES_MAX, LocalTrace, LocalTraces, QUESTIONS_MAX,
            QUESTIONS_PER_SECOND_MAX, Record, Records, ReplyStatus, Sender, TopicName, TraceReply,
        },
    },
    wire::{
        FrameRef, NodeId,
        private::Notice,
        sdk::Seq,
        trace::{End, MessageTrace, Part, TRACES_MAX},
    },
};

/// What a shard keeps, and what it has asked.
pub(super) struct Traces {
    /// Messages that did not end with 0.
    failed: Records,
    /// Those that did, while tracing was on.
    others: Records,
    questions: AHashMap<u64, Question>,
    timers: Timers<u64>,
}

/// A message that is over, or never began.
pub(super) struct Finished {
    pub(super) seq: Seq,
    pub(super) taken: Instant,
    pub(super) topic: TopicName,
    pub(super) sender: Option<Arc<Sender>>,
    pub(super) trace: MessageTrace,
}

/// A question to a neighbour.
struct Question {
    since: Instant,
    timer: TimerKey,
    /// How many parts its answer has, once one has come.
    parts: Option<u16>,
    /// Which of them have come.
    came: [u64; 4],
    reply: TraceReply,
}

/// Memory of an open question, in bytes.
pub(super) const QUESTION_LEN: usize =
    size_of::<(u64, Question)>() + ANSWER_TRACES_MAX * (size_of::<MessageTrace>() + ATTEMPTS_LEN);
/// Memory of the attempts of a trace that are not in it itself, in bytes.
pub(super) const ATTEMPTS_LEN: usize =
    crate::wire::trace::ATTEMPTS_MAX * size_of::<crate::wire::trace::Attempt>() + 32;

impl Traces {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self {
            failed: Records::default(),
            others: Records::default(),
            questions: AHashMap::with_hasher(hashing),
            timers: Timers::new(ANSWER_TIME_MAX),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Messages that did not end with 0 that are kept, and others.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.failed.len(), self.others.len())
    }
}

impl Parts {
    /// The session on a link as its messages' traces name it.
    pub(super) fn sender(&mut self, key: LinkKey) -> Option<Arc<Sender>> {
        self.session_mut(key).map(super::session::Session::sender)
    }

    /// What this shard knows of a message.
    pub(super) fn known_of(&mut self, common: &Common, now: Instant, seq: &Seq) -> LocalTraces {
        let mut known: Vec<LocalTrace> = self.pending_of(now, seq);
        let now_us = common.micros(now);
        let records = [
            common.traces.failed.find(seq, &common.shared.failed_tickets).take(TRACES_MAX + 1),
            common.traces.others.find(seq, &common.shared.traced_tickets).take(TRACES_MAX + 1),
        ];
        known.extend(records.into_iter().flatten().map(|record| LocalTrace {
            trace: MessageTrace { age_us: now_us.saturating_sub(record.taken_us), ..record.trace.clone() },
            topic: record.topic.to_text(),
            sender: record.sender.clone(),
        }));
        known.sort_by_key(|known| known.trace.age_us);
        let more = known.len() > TRACES_MAX;
        known.truncate(TRACES_MAX);
        LocalTraces { known, more }
    }

    /// Asks a neighbour, whose home this shard is, what it knows of a message. [`Outbound::reply`] follows.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        question: u64,
        node: NodeId,
        seq: &Seq,
    ) {
        let reply = |status| TraceReply {
            question,
            node,
            status,
            round_trip: Duration::ZERO,
            up: Duration::ZERO,
            tracing: false,
            more: false,
            traces: Vec::new(),
        };
        let is_linked = self.neighbours.by_id.get(&node).is_some_and(|neighbour| neighbour.active.is_some());
        let is_reached = is_linked || cx.has_indirect_route(&node, 0);
        if !is_reached || !cx.shared.admits(&node) {
            return cx.out.trace_reply(reply(ReplyStatus::NotLinked));
        }
        if cx.common.traces.questions.len() >= QUESTIONS_MAX
            || cx.common.traces.questions.contains_key(&question)
        {
            cx.counters.trace_questions_over_bound.increment();
            return cx.out.trace_reply(reply(ReplyStatus::TooMany));
        }
        let timer = cx.common.traces.timers.start(cx.now, question);
        let (since, reply) = (cx.now, reply(ReplyStatus::Silent));
        cx.common
            .traces
            .questions
            .insert(question, Question { since, timer, parts: None, came: [0; 4], reply });
        self.send_notice(cx, node, Notice::Trace { question, seq: *seq });
    }

    /// A neighbour asks about a message.
    pub(super) fn handle_trace_question(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        question: u64,
        seq: &Seq,
    ) {
        cx.counters.trace_questions.increment();
        let admitted = self.peers.by_id.get_mut(peer).is_some_and(|peer| {
            let second = Duration::from_secs(1);
            peer.questions.take(cx.now, second, QUESTIONS_PER_SECOND_MAX).is_some()
        });
        if !admitted {
            return cx.counters.trace_questions_over_bound.increment();
        }
        for reactor in (0..cx.shared.reactors).map(ReactorId) {
            let look = MeshMessage::SendTrace { node: Box::new(*peer), question, seq: *seq };
            self.send_to_reactor(cx, reactor, look, FrameRef::EMPTY);
        }
    }

    /// Tells a neighbour what this shard knows of a message.
    pub(super) fn tell(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: NodeId,
        question: u64,
        seq: &Seq,
    ) {
        let here = self.known_of(cx.common, cx.now, seq);
        let part = Part {
            question,
            reactor: cx.id.0,
            reactors: cx.shared.reactors,
            up_us: cx.micros(cx.now),
            tracing: cx.is_kept(false),
            more: here.more,
            traces: here.known.into_iter().map(|known| known.trace).collect(),
        };
        self.send_notice(cx, node, Notice::Traced(Box::new(part)));
    }
}

impl<O: Outbound> Context<'_, O> {
    /// A part of a neighbour's answer. One that was not asked for is ignored.
    pub(super) fn handle_trace_part(&mut self, peer: &NodeId, part: Part) {
        let (word, bit) = (usize::from(part.reactor) / 64, 1 << (part.reactor % 64));
        let open = self.common.traces.questions.get_mut(&part.question).filter(|question| {
            question.reply.node == *peer
                && question.parts.unwrap_or(part.reactors) == part.reactors
                && question.came.get(word).is_some_and(|came| came & bit == 0)
        });
        let Some(question) = open else { return self.counters.trace_answers_ignored.increment() };
        question.parts = Some(part.reactors);
        question.came[word] |= bit;
        let reply = &mut question.reply;
        let room = ANSWER_TRACES_MAX - reply.traces.len();
        reply.more |= part.more || part.traces.len() > room;
        reply.traces.extend(part.traces.into_iter().take(room));
        reply.tracing = part.tracing;
        reply.up = Duration::from_micros(part.up_us);
        reply.round_trip = self.now.saturating_duration_since(question.since);
        let came: u32 = question.came.iter().map(|came| came.count_ones()).sum();
        if came == u32::from(part.reactors) {
            reply.status = ReplyStatus::Answered;
            if let Some(question) = self.common.traces.questions.remove(&part.question) {
                self.common.traces.timers.cancel(question.timer);
                self.out.trace_reply(question.reply);
            }
        }
    }

    /// Gives up on answers that did not come.
    pub(super) fn end_questions(&mut self) {
        while let Some(question) = self.common.traces.timers.pop_expired(self.now) {
            if let Some(question) = self.common.traces.questions.remove(&question) {
                self.out.trace_reply(question.reply);
            }
        }
    }
}

/// Of a time that is bounded by that of a request.
pub(super) fn short_micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// A trace that ends with what this node says to it at once.
pub(super) fn refused(refusal: crate::wire::trace::Refusal, code: crate::wire::ResultCode) -> MessageTrace {
    MessageTrace { refusal, code: code.0, end: End::ByNode, ..MessageTrace::default() }
}

impl Common {
    /// Whether a message that ended so leaves a trace.
    pub(super) fn is_kept(&self, failed: bool) -> bool {
        failed || self.shared.tracing.load(Relaxed)
    }

    /// Keeps the trace of a message that is over.
    #[cold]
    pub(super) fn keep(&mut self, Finished { seq, taken, topic, sender, trace }: Finished, failed: bool) {
        let record = Record { seq, taken_us: self.micros(taken), trace, topic, sender };
        let (records, tickets) = match failed {
            true => (&mut self.traces.failed, &self.shared.failed_tickets),
            false => (&mut self.traces.others, &self.shared.traced_tickets),
        };
        let forgotten = records.push(record, tickets);
        self.counters.traces_forgotten.add(forgotten as u64);
        self.counters.traces.increment();
    }

    /// Forgets what newer messages of other reactors have made too old.
    pub(super) fn forget_old_traces(&mut self) {
        let traces = &mut self.traces;
        let forgotten = traces.failed.forget(&self.shared.failed_tickets)
            + traces.others.forget(&self.shared.traced_tickets);
        self.counters.traces_forgotten.add(forgotten as u64);
    }

    fn micros(&self, moment: Instant) -> u64 {
        micros(moment.saturating_duration_since(self.shared.started))
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
