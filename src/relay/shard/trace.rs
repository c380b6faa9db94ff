//! Keeping traces of messages, for who asks what this shard knows of one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{Common, Parts};
use crate::{
    relay::{
        LinkKey,
        trace::{LocalTrace, LocalTraces, Record, Records, Sender, TopicName},
    },
    wire::{
        sdk::Seq,
        trace::{End, MessageTrace, TRACES_MAX},
    },
};

/// What a shard keeps.
pub(super) struct Traces {
    /// Messages that did not end with 0.
    failed: Records,
    /// Those that did, while tracing was on.
    others: Records,
}

impl Traces {
    /// None yet; of all shards so many of each kind are kept.
    pub(super) fn new(kept_max: usize) -> Self {
        Self { failed: Records::new(kept_max), others: Records::new(kept_max) }
    }
}

/// A message that is over, or never began.
pub(super) struct Finished {
    pub(super) seq: Seq,
    pub(super) taken: Instant,
    pub(super) topic: TopicName,
    pub(super) sender: Option<Arc<Sender>>,
    pub(super) trace: MessageTrace,
}

impl Traces {
    /// Messages that did not end with 0 that are kept, and others.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.failed.len(), self.others.len())
    }

    /// Messages that did not end with 0, the newest first.
    pub(super) fn newest_failures(&self) -> impl Iterator<Item = &Record> {
        self.failed.newest()
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
        known.extend(records.into_iter().flatten().map(|record| record.tell(now_us)));
        known.sort_by_key(|known| known.trace.age_us);
        let more = known.len() > TRACES_MAX;
        known.truncate(TRACES_MAX);
        LocalTraces { known, more }
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

    pub(super) fn micros(&self, moment: Instant) -> u64 {
        micros(moment.saturating_duration_since(self.shared.started))
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
