//! A rate limit: how much may be used at once, and how fast it comes back.

use std::time::{Duration, Instant};

/// So many in a period: that many at once, and one more whenever a period's part has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    max: u32,
    period: Duration,
}

impl Rate {
    pub(crate) const fn new(max: u32, period: Duration) -> Self {
        Self { max, period }
    }

    pub(crate) const fn per_second(max: u32) -> Self {
        Self::new(max, Duration::from_secs(1))
    }

    pub(crate) const fn per_minute(max: u32) -> Self {
        Self::new(max, Duration::from_secs(60))
    }

    /// How long it takes until so many are back; `None` if they never are.
    fn time_of(self, count: u32) -> Option<Duration> {
        let nanos = self.period.as_nanos() * u128::from(count);
        let nanos = nanos.checked_div(u128::from(self.max))?;
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }
}

/// What is left of a rate, known by the one time at which all of it is back (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateLimit {
    full_at: Option<Instant>,
}

impl RateLimit {
    /// Takes so many if as many are left; none otherwise.
    pub(crate) fn take(&mut self, now: Instant, rate: Rate, count: u32) -> bool {
        let Some(time) = rate.time_of(count) else { return false };
        if self.until_full(now) + time > rate.period {
            return false;
        }
        self.charge(now, time);
        true
    }

    /// What comes back in such a time was used up, be it more than is left.
    pub(crate) fn charge(&mut self, now: Instant, time: Duration) {
        if !time.is_zero() {
            self.full_at = (now + self.until_full(now)).checked_add(time).or(self.full_at);
        }
    }

    /// How long it is until all of it is back.
    pub(crate) fn until_full(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }

    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.until_full(now).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_at_once_and_then_one_whenever_a_part_of_the_period_has_passed() {
        for max in [1, 2, 3, 64, 100_000] {
            let (start, rate) = (Instant::now(), Rate::per_second(max));
            let mut limit = RateLimit::default();
            assert_eq!((0..2 * max).filter(|_| limit.take(start, rate, 1)).count(), max as usize);
            let part = rate.time_of(1).unwrap();
            // A period is a little longer than its parts, where it cannot be divided.
            let rounding = rate.period - part * max;
            let next = start + part - rounding;
            assert!(!limit.take(next - Duration::from_nanos(1), rate, 1), "{max}");
            assert!(limit.take(next, rate, 1) && !limit.take(next, rate, 1), "{max}");
            assert!(!limit.is_full(next) && limit.is_full(next + rate.period));
            // Nothing is saved up beyond it.
            let late = start + 100 * rate.period;
            assert!(!limit.take(late, rate, max + 1) && limit.take(late, rate, max));
            assert!(!limit.take(late, rate, 1));
        }
    }

    #[test]
    fn where_none_may_pass_none_does() {
        let mut limit = RateLimit::default();
        assert!(!limit.take(Instant::now(), Rate::per_second(0), 1));
        assert!(limit.is_full(Instant::now()));
    }

    #[test]
    fn what_was_used_beyond_a_limit_has_to_come_back_as_well() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut limit = RateLimit::default();
        limit.charge(start, 10 * second);
        limit.charge(start + second, second);
        assert_eq!(limit.until_full(start + second), 10 * second);
        assert!(!limit.take(start + 10 * second, Rate::per_second(1), 1));
        assert!(limit.take(start + 11 * second, Rate::per_second(1), 1));
    }
}
