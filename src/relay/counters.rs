//! The metrics that a thread counts. Each has one writer, so plain relaxed stores suffice.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::wire::ResultCode;

/// A number that only its thread changes and anybody may read.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Call it from the owning thread only.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds one. Call it from the owning thread only.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes one off, for gauges. Call it from the owning thread only.
    pub fn decrement(&self) {
        self.add(1u64.wrapping_neg());
    }

    /// Sets the value, for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The kind of a metric: whether it only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows, from 0 at the start.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// What it is called; its unit, where it has one, is last.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// The value.
    pub value: u64,
}

/// Makes a struct of metrics, each with its meaning and kind, that can be listed.
macro_rules! metrics {
    (
        $(#[doc = $about:literal])+
        pub struct $Metrics:ident {
            $($(#[doc = $help:literal])+ $kind:ident $name:ident,)+
        }
        $(beside { $($(#[doc = $other_help:literal])+ $other:ident: $Other:ty,)+ })?
    ) => {
        $(#[doc = $about])+
        #[derive(Default, Debug)]
        pub struct $Metrics {
            $($(#[doc = $help])+ pub $name: $crate::relay::counters::Counter,)+
            $($($(#[doc = $other_help])+ pub $other: $Other,)+)?
        }

        impl $Metrics {
            /// All metrics that are one number each.
            pub fn all(&self) -> impl Iterator<Item = $crate::relay::counters::Metric> {
                [$($crate::relay::counters::Metric {
                    name: stringify!($name),
                    help: concat!($($help),+).trim_start(),
                    kind: $crate::relay::counters::metrics!(@kind $kind),
                    value: self.$name.get(),
                },)+].into_iter()
            }
        }
    };
    (@kind counter) => { $crate::relay::counters::Kind::Counter };
    (@kind gauge) => { $crate::relay::counters::Kind::Gauge };
}
pub(crate) use metrics;

/// Bounds of a histogram: the first is 2 to this power, in microseconds; each further one is twice that.
const BOUND_FIRST_LOG2: u32 = 4;
/// Number of bounds: up to 33.6 s, beyond the time of any request.
const BOUNDS: usize = 22;

/// How long something took, in buckets of powers of two.
#[derive(Default, Debug)]
pub struct Histogram {
    /// One for each bound, and one for what took longer than the last.
    buckets: [Counter; BOUNDS + 1],
    sum_micros: Counter,
}

impl Histogram {
    /// Counts one. Call it from the owning thread only.
    pub fn record(&self, took: Duration) {
        self.record_micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// The same, in microseconds.
    pub fn record_micros(&self, micros: u64) {
        let log2 = u64::BITS - micros.saturating_sub(1).leading_zeros();
        let bucket = (log2.saturating_sub(BOUND_FIRST_LOG2) as usize).min(BOUNDS);
        self.buckets[bucket].increment();
        self.sum_micros.add(micros);
    }

    /// How many fell into each bucket: its upper bound in seconds, the last one infinite, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds =
            (0..BOUNDS as i32).map(|power| f64::exp2(f64::from(power + BOUND_FIRST_LOG2 as i32)) / 1e6);
        bounds.chain([f64::INFINITY]).zip(self.buckets.iter().map(Counter::get))
    }

    /// Sum of all that was counted, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_micros.get() as f64 / 1e6
    }
}

/// How a request of a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0 or a subscriber's own code.
    Answered,
    /// 99.
    NotSent,
    /// 100.
    NoReceiver,
    /// 101.
    NotDelivered,
    /// 102.
    Timeout,
    /// 103.
    OverBandwidth,
}

impl Outcome {
    /// All of them, in the order of [`Latencies::requests`].
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::NotSent,
        Self::NoReceiver,
        Self::NotDelivered,
        Self::Timeout,
        Self::OverBandwidth,
    ];

    /// That of a code of the node's own making.
    pub fn of(code: ResultCode) -> Self {
        match code {
            ResultCode::NOT_SENT => Self::NotSent,
            ResultCode::NO_RECEIVER => Self::NoReceiver,
            ResultCode::NOT_DELIVERED => Self::NotDelivered,
            ResultCode::TIMEOUT => Self::Timeout,
            ResultCode::OVER_BANDWIDTH => Self::OverBandwidth,
            _ => Self::Answered,
        }
    }

    /// Its name as a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotSent => "not_sent",
            Self::NoReceiver => "no_receiver",
            Self::NotDelivered => "not_delivered",
            Self::Timeout => "timeout",
            Self::OverBandwidth => "over_bandwidth",
        }
    }
}

/// How long things took at one reactor.
#[derive(Default, Debug)]
pub struct Latencies {
    /// From a session's request to its answer, for each [`Outcome`]. Requests that are refused at once
    /// (malformed, nobody who may get them, over a bound) are not here.
    requests: [Histogram; Outcome::ALL.len()],
    /// From the push to a session to its answer.
    pub pushes: Histogram,
    /// From a probe of a node link to its answer.
    pub round_trips: Histogram,
    /// From a JSON-RPC request of a session to the ledger node's answer.
    pub ledger: Histogram,
}

impl Latencies {
    /// Requests with this outcome.
    pub fn requests(&self, outcome: Outcome) -> &Histogram {
        &self.requests[outcome as usize]
    }
}

/// When a reactor last turned, as time since the node's start: one that hangs shows by it.
#[derive(Default, Debug)]
pub struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// The reactor turns.
    pub fn beat(&self, since_start: Duration) {
        self.0.store(u64::try_from(since_start.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// When it last did.
    pub fn last(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }
}

metrics! {
    /// The metrics of one reactor.
    pub struct Counters {
        /// SDK sessions now.
        gauge sessions,
        /// Those of them that are of applications of FISCO BCOS 3.x.
        gauge sessions_3x,
        /// Links to other nodes now.
        gauge node_links,
        /// Distinct topics that sessions of this reactor subscribe to now.
        gauge topics,
        /// Subscriptions of this reactor's sessions now: pairs of session and topic, with those that wait.
        gauge subscriptions,
        /// Bytes in the outgoing queues of this reactor's sessions now.
        gauge queues_bytes,
        /// Requests that wait for their answer now.
        gauge pending_requests,
        /// Pushes to sessions that wait for their answer now.
        gauge pending_pushes,
        /// Bytes of frames that are kept for another try now.
        gauge retained_bytes,
        /// Unicasts whose answer is awaited from neighbours now.
        gauge awaited_answers,
        /// Messages sent and not acknowledged now, of the node that has most.
        gauge window_frames,
        /// Bytes of messages sent and not acknowledged now, of the node that has most.
        gauge window_bytes,
        /// Bytes of messages sent and not acknowledged now, of all nodes, and of those that came before their turn.
        gauge windows_bytes,
        /// Other nodes of which something is remembered now: messages, channels.
        gauge peers,
        /// Frames received on SDK links.
        counter sdk_frames_received,
        /// Frames sent on SDK links.
        counter sdk_frames_sent,
        /// Frames received on node links.
        counter node_frames_received,
        /// Frames sent on node links.
        counter node_frames_sent,
        /// Unicast requests taken from sessions.
        counter requests,
        /// Requests answered 0 or with a subscriber's own code.
        counter answered_by_subscriber,
        /// Requests answered 99.
        counter answered_not_sent,
        /// Requests answered 100.
        counter answered_no_receiver,
        /// Requests answered 101.
        counter answered_not_delivered,
        /// Requests answered 102.
        counter answered_timeout,
        /// Requests and multicasts answered 103.
        counter answered_over_bandwidth,
        /// Multicasts taken from sessions.
        counter multicasts,
        /// Copies of frames queued for subscribers.
        counter deliveries,
        /// Copies dropped because the subscriber's queue was full.
        counter dropped_queue_full,
        /// Frames refused because the queues of all sessions together were full, and this one's not small.
        counter queues_full,
        /// Requests that waited for room in a session's queue.
        counter room_waits,
        /// Requests that could not wait for it, because too much waited.
        counter room_waits_refused,
        /// Answers that the memory for what waits for sessions had no room for: answered 102 in their place.
        counter answers_dropped,
        /// How often a session was read no further for a while, because too much waited for it or its requests.
        counter reads_paused,
        /// How often a reactor stood still, with its process or machine.
        counter pauses,
        /// Multicast copies and answers not sent to another node, which had too much unacknowledged or was gone.
        counter dropped_window_full,
        /// Messages of nodes that came over a link of an incarnation of theirs that is over.
        counter late_messages,
        /// Messages that a node had not acknowledged when it was given up, or began a new incarnation.
        counter messages_given_up,
        /// Messages, and copies of multicasts, not sent to a node because they are longer than it, or those on every route to
        /// it, take; or not to an application of FISCO BCOS 3.x, whose SDK takes 32 MiB.
        counter refused_too_long,
        /// Frames of node links that were read over because they are longer than this node takes.
        counter read_over,
        /// Multicasts with a private topic and no authorised receiver, and copies for one that is no more.
        counter dropped_unauthorised,
        /// Requests without a retry because no more frames could be kept.
        counter retention_refused,
        /// Answers that came after their request was over.
        counter late_answers,
        /// 0x31 from sessions that were not asked.
        counter unsolicited_answers,
        /// Pushes that a session did not answer in time.
        counter push_timeouts,
        /// Frames of unknown type on SDK links.
        counter unknown_types,
        /// Packets of unknown type on node links.
        counter unknown_packets,
        /// AMOP bodies that were malformed.
        counter bad_bodies,
        /// Subscriptions refused whole.
        counter subscriptions_refused,
        /// Topic names skipped in subscriptions.
        counter topics_skipped,
        /// Subscriptions put off because the session changed its topics too often.
        counter subscriptions_deferred,
        /// JSON-RPC requests.
        counter rpc_requests,
        /// JSON-RPC requests refused by a limit.
        counter rpc_refused,
        /// Sessions closed because they were idle.
        counter closed_idle,
        /// Sessions closed because they did not read.
        counter closed_stalled,
        /// Node links closed because nothing was heard.
        counter closed_dead,
        /// Links closed because of malformed frames or records.
        counter closed_protocol,
        /// Requests given up after the most tries that one may have.
        counter tries_exhausted,
        /// Repeated messages of neighbours that were not delivered again.
        counter duplicates_dropped,
        /// Frames sent again on a new link.
        counter frames_sent_again,
        /// State frames of neighbours that the registry had no room for.
        counter state_refused,
        /// Frames that name their ends and must not be so: not sealed, from this node, for more nodes than there may be.
        counter not_for_us,
        /// Frames passed on for other nodes, acknowledgements and notices among them.
        counter relayed,
        /// Their bytes, headers included.
        counter relayed_bytes,
        /// Frames for other nodes that no neighbour could take; their source sends messages again.
        counter relay_dropped,
        /// Frames for other nodes that are not passed on: their hops are used up, or `[p2p] relay` is off.
        counter relay_refused,
        /// Sealed payloads that their source did not seal for this node and message.
        counter sealed_refused,
        /// Sealed payloads of, or for, an incarnation that is over.
        counter sealed_late,
        /// Nodes that the lists leave out of which it was forgotten how far their messages were, for there were too many.
        counter replay_floors_forgotten,
        /// Channels refused because no more nodes can be remembered in this incarnation: a later one is begun.
        counter replay_floors_full,
        /// Pings sent.
        counter pings,
        /// Pings that nobody answered in time.
        counter pings_unanswered,
        /// Pings not sent because too many were open.
        counter pings_over_bound,
        /// Pings of other nodes answered as their destination.
        counter pings_answered,
        /// Pings of other nodes to others that ended here, and were told so.
        counter pings_ended,
        /// Pings of other nodes not answered: more of one node than are in a second, or of a node that is not known.
        counter pings_not_answered,
        /// Answers to pings that were not waited for, or not of this node.
        counter ping_answers_ignored,
        /// Sealed payloads of nodes that are not known, refused.
        counter strangers_refused,
        /// Messages of nodes that the blacklist or the whitelist leaves out, refused whatever route they took.
        counter not_admitted,
        /// Messages of other nodes that came out of order and waited in a reorder buffer.
        counter held_for_order,
        /// The same that there was no room for; they come again.
        counter not_held_for_order,
        /// Times that the receive buffers were all in use.
        counter receive_buffers_exhausted,
        /// Times that a large frame began on a link and too many others received into blocks of their own.
        counter own_receives_refused,
        /// Links closed because unfinished frames of all links together took too much memory.
        counter unfinished_frames_dropped,
        /// Control frames of node links that were not sent because too many waited.
        counter dropped_control_full,
        /// Measurements of a node link's round trip that were not answered before the next one.
        counter round_trips_unanswered,
        /// Turns in which nothing was taken in because another reactor was behind.
        counter turns_backed_up,
        /// Times that a reactor looked whether anything had come, instead of sleeping until it does.
        counter looks,
        /// Times that a reactor slept until something came.
        counter waits_slept,
        /// Times that a reactor waited a moment for several messages to come, for they came fast.
        counter waits_gathered,
        /// Frames of the registry for neighbours that were dropped because the reactor was behind.
        counter registry_frames_dropped,
        /// Changes of topics that waited because the registry was behind.
        counter registry_changes_put_off,
        /// Links closed because their keys were used up; node links only if nobody replaced them.
        counter closed_worn,
        /// Links of a node that was linked already in another incarnation, and alive: two nodes have one key.
        counter keys_used_twice,
        /// Node links whose keys were used up, to be replaced.
        counter node_links_worn,
        /// Sessions whose keys were used up, to be closed.
        counter sessions_worn,
        /// TLS 1.3 keys that were renewed.
        counter keys_updated,
        /// Pairs of publisher and subscriber sessions of private topics now.
        gauge pairs,
        /// Challenges to this node's subscribers that are open now, or were when the last one came.
        gauge challenges_open,
        /// Publishers of private topics asked to verify a subscriber.
        counter challenges,
        /// Challenges pushed to subscribers of private topics.
        counter challenges_presented,
        /// Challenges that ended without a verdict, or without the subscriber's answer.
        counter challenges_unanswered,
        /// Requests to minted route topics of no open challenge, or of one that was carried already.
        counter challenges_closed,
        /// Challenges not carried because another session had the same payload before: it may hand on its own.
        counter challenges_handed_on,
        /// Challenges refused because the publisher's node is none of those that may publish the topic here.
        counter challenges_not_pinned,
        /// Challenges refused because there were too many.
        counter challenges_over_bound,
        /// Pairs of publisher and subscriber sessions that are not challenged because there are too many.
        counter pairs_over_bound,
        /// Subscribers accepted by publishers.
        counter verdicts_positive,
        /// Subscribers refused by publishers.
        counter verdicts_negative,
        /// Verdicts of sessions that were not asked, or not with this token, or that are malformed.
        counter verdicts_ignored,
        /// Messages kept for tracing now that did not end with 0.
        gauge traces_failed_kept,
        /// Messages kept for tracing now that did.
        gauge traces_other_kept,
        /// Messages kept for tracing.
        counter traces,
        /// Messages kept for tracing that were forgotten because newer ones came.
        counter traces_forgotten,
        /// Questions of neighbours about messages.
        counter trace_questions,
        /// Such questions that were not answered, and ours that were not asked, because there were too many.
        counter trace_questions_over_bound,
        /// Answers of neighbours about messages that were not asked for.
        counter trace_answers_ignored,
        /// Connections to ledger nodes now.
        gauge ledger_links,
        /// Bytes kept for ledger nodes now: requests until their answer, event filters, and what waits for its session.
        gauge ledger_bytes,
        /// Requests of sessions that wait for a ledger node or its answer now.
        gauge ledger_pending_requests,
        /// Frames sent to ledger nodes.
        counter ledger_frames_sent,
        /// Frames received from ledger nodes.
        counter ledger_frames_received,
        /// Requests of sessions sent to ledger nodes: JSON-RPC and event filters.
        counter ledger_requests,
        /// Receipts, block notices and logs of events from ledger nodes.
        counter ledger_notices,
        /// Times that a ledger node was dialled for a session.
        counter ledger_dials,
        /// The same without success.
        counter ledger_dials_failed,
        /// Connections to ledger nodes that were lost while their session was there.
        counter ledger_links_lost,
        /// Sessions connected to a ledger node anew, after they had lost one.
        counter ledger_reconnects,
        /// Event filters opened anew at another connection.
        counter ledger_filters_again,
        /// The same that the ledger node refused, which their sessions were told.
        counter ledger_filters_refused,
        /// JSON-RPC requests answered with -32000: the ledger node was lost, or did not answer in time.
        counter ledger_outcome_unknown,
        /// Requests that a ledger node did not answer in time.
        counter ledger_unanswered,
        /// Requests answered without being sent, because no ledger node could be reached.
        counter ledger_unreachable,
        /// Requests and event filters refused because too much waited for the ledger node, or its seq was in use.
        counter ledger_busy,
        /// Requests and event filters refused because `[ledger] allow` leaves the application out.
        counter ledger_not_allowed,
        /// Frames of ledger nodes that nobody waited for.
        counter ledger_ignored,
        /// How often a ledger node was read no further for a while, because its session did not take what came.
        counter ledger_reads_paused,
        /// Unicasts of sessions sent to ledger nodes, because no other node has a subscriber.
        counter ledger_unicasts,
        /// Multicasts of sessions sent to ledger nodes, beside those to other nodes.
        counter ledger_multicasts,
        /// Messages of sessions that were not sent to a ledger node: none was reached in time, or too much waited for it.
        counter ledger_messages_not_sent,
        /// Unicasts sent to a ledger node that was lost before its answer, or gave none in time, answered 102.
        counter ledger_messages_unknown,
        /// Answers other than 0 of ledger nodes to what waits for none: multicasts that they have refused, or late ones.
        counter ledger_messages_refused,
        /// Unicasts and multicasts from ledger nodes for their sessions.
        counter ledger_pushes,
        /// Unicasts from ledger nodes answered 101: the session has dropped the topic, waits for another one with this seq, or
        /// for too many.
        counter ledger_pushes_refused,
        /// Answers of sessions sent to their ledger nodes.
        counter ledger_answers,
        /// Answers of sessions that were not: too late, malformed, or their ledger node took no more.
        counter ledger_answers_dropped,
        /// Copies of multicasts that a session had from the other side already, the mesh or its ledger node.
        counter ledger_copies_dropped,
        /// Multicasts at sessions that would be known again if their copy came from the other side now.
        gauge ledger_copies_known,
        /// The same that were forgotten before their time because newer ones came: a copy may have come twice.
        counter ledger_copies_forgotten,
        /// Links to nodes of FISCO BCOS 2.x now.
        gauge peer_2x_links,
        /// Frames received from nodes of FISCO BCOS 2.x.
        counter peer_2x_frames_received,
        /// Frames sent to nodes of FISCO BCOS 2.x.
        counter peer_2x_frames_sent,
        /// Unicasts of their applications taken from nodes of FISCO BCOS 2.x.
        counter peer_2x_requests,
        /// Multicasts of their applications taken from nodes of FISCO BCOS 2.x.
        counter peer_2x_multicasts,
        /// Multicasts of nodes of FISCO BCOS 2.x that another gateway had brought before.
        counter peer_2x_repeated,
        /// Multicasts of nodes of FISCO BCOS 2.x that would not be known again, for too many came.
        counter peer_2x_forgotten,
        /// Unicasts that a node of FISCO BCOS 2.x could not have answered by its sessions.
        counter peer_2x_not_answered,
        /// Messages of nodes of FISCO BCOS 2.x with private topics or none that can be read, which are not taken.
        counter peer_2x_withheld,
        /// Topics of nodes of FISCO BCOS 2.x that are private or of the ledger, which are not taken.
        counter peer_2x_topics_withheld,
        /// Lists of topics of nodes of FISCO BCOS 2.x that are not taken: malformed, or too long.
        counter peer_2x_lists_refused,
        /// Requests for the topics of a node of FISCO BCOS 2.x that were not answered in time.
        counter peer_2x_lists_unanswered,
        /// Requests of nodes of FISCO BCOS 2.x for our topics that are not answered, for they come too fast.
        counter peer_2x_lists_not_given,
        /// Frames of nodes of FISCO BCOS 2.x that hold no message that can be read.
        counter peer_2x_malformed,
        /// Frames of nodes of FISCO BCOS 2.x that are not for this node: what groups say, and answers that nobody waits for.
        counter peer_2x_ignored,
        /// Times that a node of FISCO BCOS 2.x was silent for so long that messages went elsewhere.
        counter peer_2x_silent,
        /// Bytes received, as TLS records.
        counter received_bytes,
        /// Bytes sent, as TLS records.
        counter sent_bytes,
        /// Bytes of AMOP frames that left on node links and to ledger nodes, headers included: what the outbound bandwidth is charged for.
        counter bandwidth_charged_bytes,
    }
    beside {
        /// How long requests and pushes took.
        latencies: Latencies,
        /// When the reactor last turned.
        heartbeat: Heartbeat,
    }
}

metrics! {
    /// What one reactor counts of one ledger node.
    pub struct LedgerNodeCounters {
        /// Sessions that are connected to this ledger node now.
        gauge sessions,
        /// Requests of sessions sent to this ledger node: JSON-RPC and event filters.
        counter requests,
        /// JSON-RPC requests whose outcome at this ledger node is unknown: it was lost, or did not answer in time.
        counter outcome_unknown,
        /// Receipts, block notices and logs of events from this ledger node.
        counter notices,
        /// Unicasts and multicasts sent to this ledger node.
        counter messages_sent,
        /// Unicasts and multicasts from this ledger node.
        counter messages_received,
        /// Unicasts whose outcome is unknown, because this ledger node was lost before its answer, or gave none in time.
        counter messages_unknown,
        /// Connections to this ledger node that were lost while their session was there.
        counter links_lost,
        /// Sessions connected to this ledger node after they had lost this or another one.
        counter reconnects,
        /// Bytes of frames from this ledger node.
        counter received_bytes,
        /// Bytes of frames to this ledger node.
        counter sent_bytes,
    }
    beside {
        /// From a JSON-RPC request of a session to this ledger node's answer.
        latency: Histogram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        let micros = [0, 1, 16, 17, 32, 33, 1 << 25, (1 << 25) + 1, u64::MAX];
        for micros in micros {
            let before: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
            histogram.record(Duration::from_micros(micros));
            let changed: Vec<f64> = histogram
                .buckets()
                .zip(before)
                .filter(|((_, count), before)| count != before)
                .map(|((bound, _), _)| bound)
                .collect();
            let seconds = micros as f64 / 1e6;
            let expected = histogram.buckets().map(|(bound, _)| bound).find(|&bound| seconds <= bound);
            assert_eq!(changed, [expected.unwrap()], "{micros} µs");
        }
        assert_eq!(histogram.buckets().map(|(_, count)| count).sum::<u64>(), micros.len() as u64);
    }

    #[test]
    fn the_sum_of_latencies_is_in_seconds() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1500));
        histogram.record(Duration::from_millis(500));
        assert_eq!(histogram.sum_seconds(), 2.0);
    }

    #[test]
    fn outcomes_are_where_their_histograms_are() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }

    #[test]
    fn every_figure_is_listed_with_its_meaning() {
        let counters = Counters::default();
        counters.requests.add(3);
        let metric = counters.all().find(|metric| metric.name == "requests").unwrap();
        assert_eq!((metric.kind, metric.value), (Kind::Counter, 3));
        assert!(counters.all().all(|metric| metric.help.ends_with('.') && !metric.help.starts_with(' ')));
    }
}
