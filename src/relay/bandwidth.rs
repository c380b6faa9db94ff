//! Outbound bandwidth of the node (WIRE §5): one token bucket that all reactors share, without a lock.
//!
//! The bucket is kept as one number: the moment at which it was, or will be, empty. Its level is what
//! has flowed in since then, at most its capacity; a charge moves the moment into the future.

use std::{
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::Duration,
};

/// Moments are counted in so many parts of a nanosecond: fine enough for single frames at the highest
/// rate, and 290 years / 32 long.
const TICKS_PER_NANOSECOND: i64 = 32;
const TICKS_PER_SECOND: f64 = 1e9 * TICKS_PER_NANOSECOND as f64;
/// How far frames that are never refused may push the level below zero.
const DEBT_MAX: Duration = Duration::from_secs(1);

/// A token bucket.
#[derive(Debug)]
pub struct Limiter {
    /// `None` lets everything pass.
    bucket: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// When the bucket was or will be empty, in ticks since the clock's zero.
    empty_at: AtomicI64,
    ticks_per_unit: f64,
    capacity_ticks: i64,
}

impl Limiter {
    /// One that never refuses.
    pub fn unlimited() -> Self {
        Self { bucket: None }
    }

    /// One that lets `units_per_second` pass, in bursts of at most `burst` worth of that. It begins full.
    ///
    /// # Panics
    /// If the rate is not positive and finite.
    pub fn new(units_per_second: f64, burst: Duration) -> Self {
        assert!(units_per_second > 0.0 && units_per_second.is_finite(), "a rate is positive");
        let capacity_ticks = ticks(burst).max(1);
        let bucket = Bucket {
            empty_at: AtomicI64::new(-capacity_ticks),
            ticks_per_unit: TICKS_PER_SECOND / units_per_second,
            capacity_ticks,
        };
        Self { bucket: Some(bucket) }
    }

    /// Whether there is a limit at all.
    pub fn is_limited(&self) -> bool {
        self.bucket.is_some()
    }

    /// The rate in units per second, if there is a limit.
    pub fn units_per_second(&self) -> Option<f64> {
        self.bucket.as_ref().map(|bucket| TICKS_PER_SECOND / bucket.ticks_per_unit)
    }

    /// Charges `cost` units if the level is at least that, or the bucket full. `now` is the time since
    /// the node's start.
    pub fn admit(&self, now: Duration, cost: u64) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        let (now, cost) = (ticks(now), bucket.cost_ticks(cost));
        bucket
            .empty_at
            .fetch_update(Relaxed, Relaxed, |empty_at| {
                let empty_at = empty_at.max(now - bucket.capacity_ticks);
                let level = now - empty_at;
                (level >= cost.min(bucket.capacity_ticks)).then(|| empty_at.saturating_add(cost))
            })
            .is_ok()
    }

    /// Charges `cost` units whatever the level is, down to one second's worth below zero.
    pub fn charge(&self, now: Duration, cost: u64) {
        let Some(bucket) = &self.bucket else { return };
        let (now, cost) = (ticks(now), bucket.cost_ticks(cost));
        let _ = bucket.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let empty_at = empty_at.max(now - bucket.capacity_ticks);
            let lowest = now + ticks(DEBT_MAX);
            (empty_at < lowest).then(|| empty_at.saturating_add(cost).min(lowest))
        });
    }
}

impl Bucket {
    fn cost_ticks(&self, units: u64) -> i64 {
        (units as f64 * self.ticks_per_unit).ceil() as i64
    }
}

fn ticks(time: Duration) -> i64 {
    i64::try_from(time.as_nanos())
        .unwrap_or(i64::MAX / TICKS_PER_NANOSECOND)
        .saturating_mul(TICKS_PER_NANOSECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Duration = Duration::from_millis(100);

    /// Offers frames of `cost` every `gap` for `length`; gives the moments of those admitted.
    fn offer(limiter: &Limiter, cost: u64, gap: Duration, length: Duration) -> Vec<Duration> {
        let mut admitted = Vec::new();
        let mut now = Duration::from_secs(1);
        while now < length {
            if limiter.admit(now, cost) {
                admitted.push(now);
            }
            now += gap;
        }
        admitted
    }

    #[test]
    fn any_window_of_ten_seconds_holds_99_to_101_percent_of_the_cap() {
        for (rate, cost) in
            [(131_072.0, 300), (1_310_720.0, 4_096), (13_107_200.0, 65_536), (131_072_000.0, 1_000)]
        {
            let limiter = Limiter::new(rate, BURST);
            let gap = Duration::from_secs_f64(cost as f64 / rate / 3.0);
            let admitted = offer(&limiter, cost, gap, Duration::from_secs(if rate > 1e8 { 12 } else { 40 }));
            let window = Duration::from_secs(10);
            let mut end = 0;
            for (start, &at) in admitted.iter().enumerate() {
                while end < admitted.len() && admitted[end] < at + window {
                    end += 1;
                }
                if end == admitted.len() {
                    break;
                }
                let share = (end - start) as f64 * cost as f64 / (rate * 10.0);
                assert!((0.99..=1.0101).contains(&share), "rate {rate}, cost {cost}: {share}");
            }
        }
    }

    #[test]
    fn a_frame_larger_than_the_bucket_passes_when_the_bucket_is_full() {
        let limiter = Limiter::new(1000.0, BURST);
        let second = Duration::from_secs(1);
        assert!(limiter.admit(second, 5000));
        assert!(!limiter.admit(second, 1));
        assert!(!limiter.admit(second + Duration::from_millis(4900), 1));
        assert!(limiter.admit(second + Duration::from_millis(5000), 1));
    }

    #[test]
    fn frames_that_are_never_refused_cost_at_most_one_second() {
        let limiter = Limiter::new(1000.0, BURST);
        let now = Duration::from_secs(1);
        for _ in 0..100 {
            limiter.charge(now, 1000);
        }
        assert!(!limiter.admit(now + Duration::from_millis(999), 1));
        assert!(limiter.admit(now + Duration::from_millis(1002), 1));
    }

    #[test]
    fn threads_together_get_no_more_than_one() {
        let limiter = Limiter::new(1_000_000.0, BURST);
        let now = Duration::from_secs(1);
        let admitted: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..50_000).filter(|_| limiter.admit(now, 10)).count() as u64))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 10_000);
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let limiter = Limiter::unlimited();
        assert!(!limiter.is_limited());
        assert!(limiter.admit(Duration::ZERO, u64::MAX));
    }
}
