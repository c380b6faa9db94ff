//! A rate limit: at most so many in a period, of what one peer may ask for or announce.

use std::time::{Duration, Instant};

/// Counts down from a maximum that is restored at the first use after a period.
pub(super) struct RateLimit {
    left: u32,
    since: Instant,
}

impl RateLimit {
    /// A whole period's worth.
    pub(super) fn new(now: Instant, max: u32) -> Self {
        Self { left: max, since: now }
    }

    /// Takes one; gives how many are left of this period's, `None` if there was none.
    pub(super) fn take(&mut self, now: Instant, period: Duration, max: u32) -> Option<u32> {
        if now.saturating_duration_since(self.since) >= period {
            *self = Self::new(now, max);
        }
        self.left = self.left.checked_sub(1)?;
        Some(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_restored_with_the_next_period() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut rate_limit = RateLimit::new(start, 2);
        let take = |rate_limit: &mut RateLimit, after_ms: u64| {
            rate_limit.take(start + Duration::from_millis(after_ms), second, 2)
        };
        assert_eq!([take(&mut rate_limit, 0), take(&mut rate_limit, 500)], [Some(1), Some(0)]);
        assert_eq!(take(&mut rate_limit, 999), None);
        assert_eq!(take(&mut rate_limit, 1_000), Some(1));
    }
}
