//! Diagnostics: what people ask the reactors of this node, and what nodes ask each other for that.
//!
//! ```text
//!   admin endpoint ── Question ─► a reactor, which answers at once
//!                  ── Question ─► the home of another node: Open ── Notice::Request ─► that node
//!                  ◄─── Answer ── matched, put together, or given up ◄ Notice::Reply ─ its reactors
//! ```
//!
//! Each diagnostic is a file: what it asks and answers, how its requests and replies are encoded, what a node replies. Here is
//! what all of them need: how many may be open, which replies count, when they are given up, how many requests of a node
//! are answered.
//!
//! # Invariants
//! - Each question is answered once: by [`Shard::ask`](super::Shard::ask) or, after that, by [`Outbound::answer`].
//! - A reply counts only if it is of the node that was asked, for the same diagnostic, while the question is open.

pub mod failures;
pub mod ping;
pub mod trace;

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};

use self::{
    failures::Failure,
    ping::{Pinged, SentPing},
    trace::{GatheredTraces, TraceReply},
};
use super::{Context, Parts};
use crate::{
    bound::{Bound, fixed},
    rate_limit::{Rate, RateLimit},
    relay::{
        Outbound,
        bounds::ALLOCATION,
        counters::{Counter, Counters},
        report::LinkPage,
        timers::{TimerKey, Timers},
        trace::LocalTraces,
    },
    wire::{
        NodeId,
        notice::{Diagnostic, Notice},
        sdk::Seq,
    },
};

/// How long the reply of another node is waited for.
pub const REPLY_TIME_MAX: Duration = Duration::from_secs(2);
/// Slots of links that are looked at for one answer.
pub const LINK_SLOTS_MAX: u32 = 256;

/// What a reactor is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// About its links, in slots from here on.
    Links {
        /// The first of them.
        from: u32,
    },
    /// About all its links to nodes.
    NodeLinks,
    /// What it knows of a message itself.
    KnownOf(Seq),
    /// About the last messages that did not end with 0.
    Failures,
    /// To the home of a node: what does that one know of a message?
    Trace {
        /// Which node.
        node: NodeId,
        /// Which message.
        seq: Seq,
    },
    /// To the home of a node: does a ping get there?
    Ping {
        /// Which node.
        node: NodeId,
        /// Links that the ping may take.
        hops: u8,
    },
}

impl Question {
    /// The node that is to reply, if it is another one: its home is asked.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Links { .. } | Self::NodeLinks | Self::KnownOf(_) | Self::Failures => None,
            Self::Trace { node, .. } | Self::Ping { node, .. } => Some(node),
        }
    }
}

/// Makes an enum of answers, and each of them what it holds.
macro_rules! answers {
    ($($(#[doc = $about:literal])+ $Name:ident($Held:ty),)+) => {
        /// What the answer to each [`Question`] is.
        #[derive(Clone, Debug)]
        pub enum Answer {
            $($(#[doc = $about])+ $Name($Held),)+
        }

        $(impl TryFrom<Answer> for $Held {
            type Error = Answer;

            fn try_from(answer: Answer) -> Result<Self, Answer> {
                match answer {
                    Answer::$Name(held) => Ok(held),
                    other => Err(other),
                }
            }
        })+
    };
}

answers! {
    /// To [`Question::Links`] and [`Question::NodeLinks`].
    Links(LinkPage),
    /// To [`Question::KnownOf`].
    KnownOf(LocalTraces),
    /// To [`Question::Failures`].
    Failures(Vec<Failure>),
    /// To [`Question::Trace`].
    Trace(TraceReply),
    /// To [`Question::Ping`].
    Ping(Pinged),
}

/// A diagnostic that asks other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Trace,
    Ping,
}

/// What is different between them beside what they say.
struct Traits {
    /// The kind of its requests on the wire, an even number that no other notice has.
    tag: u8,
    /// How many one reactor may have open.
    open_max: usize,
    /// Requests of one node that are answered in a second.
    requests_per_second_max: u32,
    /// Counts replies that were not waited for.
    ignored: fn(&Counters) -> &Counter,
    /// The bounds of it on so many reactors: how many may be open, how long each may be, how many requests are answered.
    bounds: fn(usize) -> [Bound; 3],
}

impl Kind {
    const ALL: [Self; 2] = [Self::Trace, Self::Ping];

    fn traits(self) -> &'static Traits {
        match self {
            Self::Trace => &trace::TRAITS,
            Self::Ping => &ping::TRAITS,
        }
    }

    fn of(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.traits().tag == tag)
    }
}

/// How many requests of each kind of one node are answered.
#[derive(Default)]
pub(super) struct RequestLimits([RateLimit; Kind::ALL.len()]);

impl RequestLimits {
    fn admit(&mut self, now: Instant, kind: Kind) -> bool {
        self.0[kind as usize].take(now, Rate::per_second(kind.traits().requests_per_second_max), 1)
    }
}

/// The questions of a shard to nodes whose home it is.
pub(super) struct Diagnostics {
    open: AHashMap<u64, Open>,
    timers: Timers<u64>,
}

/// A question that another node is to reply to.
struct Open {
    node: NodeId,
    since: Instant,
    timer: TimerKey,
    asked: Asked,
}

/// What has come of it so far.
enum Asked {
    Trace(GatheredTraces),
    Ping(SentPing),
}

/// The bounds of all diagnostics that ask other nodes.
pub(in crate::relay) fn bounds(reactors: usize) -> impl Iterator<Item = Bound> {
    Kind::ALL.into_iter().flat_map(move |kind| (kind.traits().bounds)(reactors))
}

/// Memory of so many open questions, each with so much that it gathers, in bytes.
fn memory(questions: usize, gathered_len: usize) -> usize {
    // A hash table is at most twice as large as what is in it.
    questions * (2 * (size_of::<(u64, Open)>() + ALLOCATION) + gathered_len)
}

/// How long an answer may take.
fn reply_time(per: &'static str, then: &'static str) -> Bound {
    fixed("the answer to one", REPLY_TIME_MAX.as_millis() as usize, "ms", per, then)
}

/// What a reply was.
enum Taken {
    /// It cannot be read.
    Malformed,
    /// Nobody waits for it.
    Ignored,
    /// There is more to come.
    Part,
    /// The question is answered.
    Whole,
}

impl Asked {
    fn kind(&self) -> Kind {
        match self {
            Self::Trace(_) => Kind::Trace,
            Self::Ping(_) => Kind::Ping,
        }
    }
}

impl Open {
    /// What there is to answer now.
    fn answer(self, now: Instant) -> Answer {
        match self.asked {
            Asked::Trace(gathered) => Answer::Trace(gathered.reply),
            Asked::Ping(SentPing { end, .. }) => {
                Answer::Ping(Pinged { end, round_trip: now.saturating_duration_since(self.since) })
            }
        }
    }
}

impl Diagnostics {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { open: AHashMap::with_hasher(hashing), timers: Timers::new(REPLY_TIME_MAX) }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Whether one more question of this kind may be open, under this id.
    fn has_room(&self, kind: Kind, id: u64) -> bool {
        let of_kind = self.open.values().filter(|open| open.asked.kind() == kind);
        !self.open.contains_key(&id) && of_kind.count() < kind.traits().open_max
    }

    fn begin(&mut self, now: Instant, id: u64, node: NodeId, asked: Asked) {
        debug_assert!(self.has_room(asked.kind(), id));
        let timer = self.timers.start(now, id);
        self.open.insert(id, Open { node, since: now, timer, asked });
    }

    fn end(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.timers.cancel(open.timer);
        Some(open)
    }
}

impl Parts {
    /// Asks this shard something. `id` must be drawn at random each time. Without an answer [`Outbound::answer`] follows.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: u64,
        question: Question,
    ) -> Option<Answer> {
        let (node, asked) = match question {
            Question::Links { from } => {
                return Some(Answer::Links(self.report_links(cx.common, from, LINK_SLOTS_MAX)));
            }
            Question::NodeLinks => return Some(Answer::Links(self.report_node_links(cx.common))),
            Question::KnownOf(seq) => {
                return Some(Answer::KnownOf(self.known_of(cx.common, cx.now, &seq)));
            }
            Question::Failures => return Some(Answer::Failures(self.failures(cx.common, cx.now))),
            Question::Trace { node, seq } => (node, self.ask_for_traces(cx, id, &node, &seq)),
            Question::Ping { node, hops } => (node, self.ping(cx, id, &node, hops)),
        };
        match asked {
            Ok(asked) => {
                self.diagnostics.begin(cx.now, id, node, asked);
                None
            }
            Err(answer) => Some(answer),
        }
    }

    /// Another node asks something.
    pub(super) fn handle_diagnostic_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        request: Diagnostic,
    ) {
        match Kind::of(request.kind) {
            Some(Kind::Trace) => self.handle_trace_request(cx, peer, request),
            Some(Kind::Ping) => self.handle_ping(cx, peer, &request),
            None => cx.counters.unknown_packets.increment(),
        }
    }

    /// Replies for this reactor alone, to what the home of the other node has admitted.
    pub(super) fn reply_for_reactor(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        request: &Diagnostic,
    ) {
        match Kind::of(request.kind) {
            Some(Kind::Trace) => self.reply_with_traces(cx, peer, request),
            Some(Kind::Ping) | None => debug_assert!(false, "one reactor replies to {request:?}"),
        }
    }

    /// Whether one more request of a node, whose home this shard is, is answered.
    fn admits_request(&mut self, now: Instant, peer: &NodeId, kind: Kind) -> bool {
        self.peers.get_mut(peer).is_some_and(|peer| peer.request_limits.admit(now, kind))
    }

    fn reply_to_node(&mut self, cx: &mut Context<'_, impl Outbound>, to: &NodeId, reply: Diagnostic) {
        self.send_notice(cx, *to, Notice::Reply(reply));
    }

    /// Another node replies.
    pub(super) fn handle_diagnostic_reply(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        reply: &Diagnostic,
    ) {
        let open = self.diagnostics.open.get_mut(&reply.id).filter(|open| open.node == *peer);
        let Some(kind) = Kind::of(reply.kind) else { return cx.counters.unknown_packets.increment() };
        let taken = match kind {
            Kind::Trace => trace::take_reply(open, cx.now, &reply.body),
            Kind::Ping => ping::take_reply(open),
        };
        match taken {
            Taken::Malformed => cx.counters.unknown_packets.increment(),
            Taken::Ignored => (kind.traits().ignored)(&cx.counters).increment(),
            Taken::Part => {}
            Taken::Whole => self.end_question(cx, reply.id),
        }
    }

    fn end_question(&mut self, cx: &mut Context<'_, impl Outbound>, id: u64) {
        if let Some(open) = self.diagnostics.end(id) {
            cx.out.answer(id, open.answer(cx.now));
        }
    }

    /// Gives up on replies that did not come.
    pub(super) fn end_late_questions(&mut self, cx: &mut Context<'_, impl Outbound>) {
        while let Some(id) = self.diagnostics.timers.pop_expired(cx.now) {
            let Some(open) = self.diagnostics.open.remove(&id) else { continue };
            if open.asked.kind() == Kind::Ping {
                cx.counters.pings_unanswered.increment();
            }
            cx.out.answer(id, open.answer(cx.now));
        }
    }
}
