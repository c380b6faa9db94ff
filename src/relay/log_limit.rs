//! Log lines that somebody outside can cause, in a number that a person can read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

/// Lines of one kind …
const LINES_MAX: usize = 10;
/// … in so long.
const PERIOD: Duration = Duration::from_secs(10);

/// Lets at most 10 lines of one kind pass in any 10 s, and tells how many it left out. Clones, for further threads of
/// the same node, have the 10 lines together.
#[derive(Debug)]
pub(crate) struct LogLimit {
    kind: &'static str,
    all: Arc<Mutex<All>>,
    /// No line passes before; so most that is left out needs no lock.
    not_before: Option<Instant>,
    left_out: u64,
}

/// What all threads have let pass.
#[derive(Debug, Default)]
struct All {
    /// When the last lines passed; the oldest is at `oldest`.
    passed: [Option<Instant>; LINES_MAX],
    oldest: usize,
    left_out: u64,
    told: Option<Instant>,
}

impl Clone for LogLimit {
    fn clone(&self) -> Self {
        Self { kind: self.kind, all: self.all.clone(), not_before: None, left_out: 0 }
    }
}

impl LogLimit {
    /// For lines of a kind, named as people call it.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, all: Arc::default(), not_before: None, left_out: 0 }
    }

    /// Whether a line may be written now. Says first how many could not.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        self.left_out += 1;
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return false;
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.left_out += std::mem::take(&mut self.left_out);
        self.not_before = all.passed[all.oldest].map(|oldest| oldest + PERIOD);
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return false;
        }
        // It is this one.
        all.left_out -= 1;
        let oldest = all.oldest;
        all.passed[oldest] = Some(now);
        all.oldest = (oldest + 1) % LINES_MAX;
        let may_tell = all.told.is_none_or(|told| now.saturating_duration_since(told) >= PERIOD);
        if may_tell && all.left_out > 0 {
            all.told = Some(now);
            let left_out = std::mem::take(&mut all.left_out);
            drop(all);
            warn!(kind = self.kind, left_out, "log lines of a kind were left out; /metrics counts all");
        }
        true
    }

    #[cfg(test)]
    fn left_out(&self) -> u64 {
        self.all.lock().unwrap().left_out + self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_pass_in_any_ten_seconds_and_the_rest_is_counted() {
        let mut limit = LogLimit::new("test");
        let start = Instant::now();
        let mut passed = Vec::new();
        // One line, and long after it nine; then many at all times.
        for (at_ms, lines) in
            [(0, 1), (9_900, 9)].into_iter().chain((10_000..40_000).step_by(10).map(|at| (at, 3)))
        {
            let now = start + Duration::from_millis(at_ms);
            passed.extend((0..lines).filter(|_| limit.admits(now)).map(|_| now));
        }
        assert!(passed.windows(LINES_MAX + 1).all(|lines| lines[LINES_MAX] - lines[0] >= PERIOD));
        assert_eq!(passed.len(), 1 + 9 + 1 + 9 + 1 + 9 + 1 + 9, "as many as may");
    }

    #[test]
    fn what_was_left_out_is_told_once_in_a_period() {
        let mut limit = LogLimit::new("test");
        let start = Instant::now();
        assert_eq!((0..25).filter(|_| limit.admits(start)).count(), 10);
        assert_eq!(limit.left_out(), 15);
        assert_eq!((0..25).filter(|_| limit.admits(start + PERIOD)).count(), 10);
        assert_eq!(limit.left_out(), 15, "what was left out before has been told");
    }

    #[test]
    fn all_threads_of_a_node_have_ten_lines_together() {
        let first = LogLimit::new("test");
        let mut limits = [first.clone(), first.clone(), first.clone(), first];
        let start = Instant::now();
        let mut passed =
            |now| limits.iter_mut().map(|limit| (0..8).filter(|_| limit.admits(now)).count()).sum::<usize>();
        assert_eq!(passed(start), 10);
        assert_eq!(passed(start + PERIOD - Duration::from_millis(1)), 0);
        assert_eq!(passed(start + PERIOD), 10);
    }
}
