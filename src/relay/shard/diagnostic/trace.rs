//! What other nodes know of a message: asked for at their home, told by each reactor of the node that is asked.
//!
//! A request goes from its sender's home to all reactors, and each replies for itself; so nothing is kept of it here.

use std::time::{Duration, Instant};

use super::{Answer, Asked, Context, Kind, Open, Parts, Taken, Traits, memory, reply_time};
use crate::{
    bound::fixed,
    relay::{MeshMessage, Outbound, ReactorId},
    wire::{
        FrameRef, NodeId,
        notice::{Diagnostic, Notice},
        sdk::Seq,
        trace::{Attempt, MessageTrace, Part},
    },
};

/// Questions about messages that one reactor may have open at other nodes.
pub const QUESTIONS_MAX: usize = 64;
/// Questions of one node that are answered in a second.
pub const QUESTIONS_PER_SECOND_MAX: u32 = 64;
/// Traces that one node's answer may have, the newest of each of its reactors.
pub const ANSWER_TRACES_MAX: usize = 64;

pub(super) const TRAITS: Traits = Traits {
    tag: 4,
    open_max: QUESTIONS_MAX,
    requests_per_second_max: QUESTIONS_PER_SECOND_MAX,
    ignored: |counters| &counters.trace_answers_ignored,
    bounds: |reactors| {
        [
            fixed(
                "questions about messages to neighbours",
                QUESTIONS_MAX,
                "questions",
                "reactor",
                "not asked: trace_questions_over_bound",
            )
            .memory(memory(reactors * QUESTIONS_MAX, GATHERED_LEN)),
            reply_time("question", "the node is named as one that does not answer"),
            fixed(
                "questions about messages of a neighbour",
                QUESTIONS_PER_SECOND_MAX as usize,
                "questions a second",
                "neighbour",
                "not answered: trace_questions_over_bound",
            ),
        ]
    },
};

/// Memory of what a question about a message gathers, in bytes.
const GATHERED_LEN: usize = ANSWER_TRACES_MAX * (size_of::<MessageTrace>() + ATTEMPTS_LEN);
/// Memory of the attempts of a trace that are not in it itself, in bytes.
pub(in crate::relay::shard) const ATTEMPTS_LEN: usize =
    crate::wire::trace::ATTEMPTS_MAX * size_of::<Attempt>() + 32;

/// How far a question to another node came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyStatus {
    /// It has answered.
    Answered,
    /// It has not, or not in full, within [`REPLY_TIME_MAX`](super::REPLY_TIME_MAX).
    Silent,
    /// There is no link to it.
    NotLinked,
    /// Too many questions are open.
    TooMany,
}

/// Another node's reply to a question about a message.
#[derive(Clone, Debug)]
pub struct TraceReply {
    /// Whether it answered.
    pub status: ReplyStatus,
    /// How long that took.
    pub round_trip: Duration,
    /// For how long it had been up.
    pub up: Duration,
    /// Whether it keeps messages that end with 0.
    pub tracing: bool,
    /// Whether it knows of more, which is older.
    pub more: bool,
    /// What it knows. Ages are those at the moment of its answer, which was within the round trip.
    pub traces: Vec<MessageTrace>,
}

impl TraceReply {
    fn empty(status: ReplyStatus) -> Self {
        let (round_trip, up) = (Duration::ZERO, Duration::ZERO);
        Self { status, round_trip, up, tracing: false, more: false, traces: Vec::new() }
    }
}

/// What the reactors of a node have told so far.
pub(super) struct GatheredTraces {
    /// How many parts its reply has, once one has come.
    parts: Option<u16>,
    /// Which of them have come.
    came: [u64; 4],
    pub(super) reply: TraceReply,
}

/// A part of a node's reply.
pub(super) fn take_reply(open: Option<&mut Open>, now: Instant, body: &[u8]) -> Taken {
    let Some(part) = Part::decode(body) else { return Taken::Malformed };
    let Some(Open { since, asked: Asked::Trace(gathered), .. }) = open else { return Taken::Ignored };
    let (word, bit) = (usize::from(part.reactor) / 64, 1 << (part.reactor % 64));
    let is_new = gathered.parts.unwrap_or(part.reactors) == part.reactors
        && gathered.came.get(word).is_some_and(|came| came & bit == 0);
    if !is_new {
        return Taken::Ignored;
    }
    gathered.parts = Some(part.reactors);
    gathered.came[word] |= bit;
    let reply = &mut gathered.reply;
    let room = ANSWER_TRACES_MAX - reply.traces.len();
    reply.more |= part.more || part.traces.len() > room;
    reply.traces.extend(part.traces.into_iter().take(room));
    reply.tracing = part.tracing;
    reply.up = Duration::from_micros(part.up_us);
    reply.round_trip = now.saturating_duration_since(*since);
    let came: u32 = gathered.came.iter().map(|came| came.count_ones()).sum();
    if came < u32::from(part.reactors) {
        return Taken::Part;
    }
    reply.status = ReplyStatus::Answered;
    Taken::Whole
}

impl Parts {
    /// Asks a node, whose home this shard is, what it knows of a message.
    pub(super) fn ask_for_traces(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: u64,
        node: &NodeId,
        seq: &Seq,
    ) -> Result<Asked, Answer> {
        let unasked = |status| Err(Answer::Trace(TraceReply::empty(status)));
        let is_linked = self.peers.link_to(node).is_some();
        let is_reached = is_linked || cx.has_indirect_route(node, 0);
        if !is_reached || !cx.shared.admits(node) {
            return unasked(ReplyStatus::NotLinked);
        }
        if !self.diagnostics.has_room(Kind::Trace, id) {
            cx.counters.trace_questions_over_bound.increment();
            return unasked(ReplyStatus::TooMany);
        }
        let request = Diagnostic { kind: TRAITS.tag, id, body: seq.to_vec() };
        self.send_notice(cx, *node, Notice::Request(request));
        let reply = TraceReply::empty(ReplyStatus::Silent);
        Ok(Asked::Trace(GatheredTraces { parts: None, came: [0; 4], reply }))
    }

    /// A node asks about a message: all reactors reply.
    pub(super) fn handle_trace_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        mut request: Diagnostic,
    ) {
        if request.body.len() < size_of::<Seq>() {
            return cx.counters.unknown_packets.increment();
        }
        request.body.truncate(size_of::<Seq>());
        cx.counters.trace_questions.increment();
        if !self.admits_request(cx.now, peer, Kind::Trace) {
            return cx.counters.trace_questions_over_bound.increment();
        }
        for reactor in (0..cx.shared.reactors).map(ReactorId) {
            let notice = Box::new(Notice::Request(request.clone()));
            let take = MeshMessage::TakeNotice { from: *peer, notice };
            self.send_to_reactor(cx, reactor, take, FrameRef::EMPTY);
        }
    }

    /// Tells a node what this shard knows of a message. Its home has admitted the request.
    pub(super) fn reply_with_traces(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        request: &Diagnostic,
    ) {
        let Some(seq) = request.body.first_chunk() else { return };
        let here = self.known_of(cx.common, cx.now, seq);
        let part = Part {
            reactor: cx.id.0,
            reactors: cx.shared.reactors,
            up_us: cx.micros(cx.now),
            tracing: cx.is_kept(false),
            more: here.more,
            traces: here.known.into_iter().map(|known| known.trace).collect(),
        };
        self.reply_to_node(cx, node, Diagnostic { body: part.encode(), ..*request });
    }
}
