//! Log lines that somebody outside can cause, in a number that a person can read.

use std::time::{Duration, Instant};

use tracing::warn;

/// Lines of one kind …
const LINES_MAX: u32 = 10;
/// … in so long.
const PERIOD: Duration = Duration::from_secs(10);

/// Lets at most 10 lines of one kind pass in 10 s, and tells how many it left out.
#[derive(Debug)]
pub(crate) struct LogLimit {
    kind: &'static str,
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// For lines of a kind, named as people call it.
    pub(crate) const fn new(kind: &'static str) -> Self {
        Self { kind, since: None, lines: 0, left_out: 0 }
    }

    /// Whether a line may be written now. Says first how many could not since the last one.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            self.since = Some(now);
            self.lines = 0;
            let left_out = std::mem::take(&mut self.left_out);
            if left_out > 0 {
                warn!(kind = self.kind, left_out, "log lines of a kind were left out; /metrics counts all");
            }
        }
        if self.lines == LINES_MAX {
            self.left_out += 1;
            return false;
        }
        self.lines += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_pass_in_ten_seconds_and_the_rest_is_counted() {
        let mut limit = LogLimit::new("test");
        let start = Instant::now();
        let passed = |limit: &mut LogLimit, now| (0..25).filter(|_| limit.admits(now)).count();
        assert_eq!(passed(&mut limit, start), 10);
        assert_eq!(passed(&mut limit, start + PERIOD - Duration::from_millis(1)), 0);
        assert_eq!(limit.left_out, 40);
        assert_eq!(passed(&mut limit, start + PERIOD), 10);
        assert_eq!(limit.left_out, 15, "what was left out before has been told");
    }
}
