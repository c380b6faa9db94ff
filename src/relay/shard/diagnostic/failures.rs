//! The last messages that did not end with 0, for who looks for one and does not know its seq.

use std::time::Instant;

use crate::{
    relay::{
        shard::{Common, Parts},
        trace::LocalTrace,
    },
    wire::sdk::Seq,
};

/// Messages that one reactor tells of.
pub const FAILURES_MAX: usize = 100;

/// A message that did not end with 0.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it is found by.
    pub seq: Seq,
    /// What is known of it here.
    pub known: LocalTrace,
}

impl Parts {
    /// The last of them, the newest first.
    pub(super) fn failures(&self, common: &Common, now: Instant) -> Vec<Failure> {
        let now_us = common.micros(now);
        let newest = common.traces.newest_failures().take(FAILURES_MAX);
        newest.map(|record| Failure { seq: record.seq, known: record.tell(now_us) }).collect()
    }
}
