//! Outbound bandwidth of the node (WIRE §5): one token bucket that all reactors share, without a lock.
//!
//! The bucket is kept as one number: the moment at which it was, or will be, empty. Its level is what
//! has flowed in since then, at most its capacity; a charge moves the moment into the future.
//!
//! # Sessions against each other
//! Whoever asks most often would get most, for who is refused is not put into a queue but answered. So each session's frames
//! follow each other on a line on which they are as long as they cost, and the node remembers how far up that line frames have
//! begun that it let pass (start-time fair queueing, without the queue). A session that is well beyond that has had more
//! than others: while others ask, too, it passes only from a level that is a reserve higher. So those that have had less find
//! enough in the bucket when they ask. Nobody is refused for long because of somebody who does not ask: the reserve is there
//! after an eighth of the burst. Large frames come less often, and each takes most of what is there: for them the bucket holds
//! more, as much as any window may, and the reserve is nearly all of that.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::SessionId;

/// Moments are counted in so many parts of a nanosecond: fine enough for single frames at the highest
/// rate, and 290 years / 32 long.
const TICKS_PER_NANOSECOND: i64 = 32;
const TICKS_PER_SECOND: f64 = 1e9 * TICKS_PER_NANOSECOND as f64;
/// How far frames that are never refused may push the level below zero.
const DEBT_MAX: Duration = Duration::from_secs(1);

/// The part of the capacity, or of what a frame costs that costs more, that is kept for sessions that have had less than others.
const RESERVE_PART: i64 = 8;
/// How far ahead of the last a session may be, as a part of the capacity: so one that asks only a little more often than its
/// part is worth, or many frames at once, still gets that.
const LEAD_PART: i64 = 32;
/// A session that was away has credit for so many of its frames, or for one burst if that is more.
const CREDIT_FRAMES: i64 = 2;
/// Two sessions compete while both have asked within so long.
const COMPETING_WITHIN: Duration = Duration::from_secs(1);
/// Who asked, and when, is written down again after so long: the reactors share it.
const NOTED_AGAIN: Duration = Duration::from_millis(10);
/// No session has this number.
const NOBODY: u64 = u64::MAX;

/// What a session has had, for [`Limiter::admit_session`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Where on the line its last frame ended.
    end: i64,
}

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
    /// How far up the line of sessions' frames one has begun, less the lead that each may have. It never goes back, so that a
    /// session's credit for the time that it was away is bounded.
    begun: AtomicI64,
    /// The session that asked last, and when, and until when it and others compete.
    asked_last: AtomicU64,
    asked_at: AtomicI64,
    contended_until: AtomicI64,
    /// How much may flow into the full bucket, and until when.
    extension: AtomicI64,
    extended_until: AtomicI64,
    /// Units of sessions' frames that were charged and have not left yet.
    prepaid: AtomicU64,
    /// Units charged in all.
    charged: AtomicU64,
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
            begun: AtomicI64::new(0),
            asked_last: AtomicU64::new(NOBODY),
            asked_at: AtomicI64::new(0),
            contended_until: AtomicI64::new(0),
            extension: AtomicI64::new(0),
            extended_until: AtomicI64::new(0),
            prepaid: AtomicU64::new(0),
            charged: AtomicU64::new(0),
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
        bucket.take(ticks(now), bucket.cost_ticks(cost), 0, 0)
    }

    /// The same for a session, which while others ask, too, is to get no more than they. It is charged for what is to
    /// [leave](Self::leave), or else to be [given back](Self::give_back).
    pub fn admit_session(&self, now: Duration, units: u64, session: SessionId, share: &mut Share) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        let (now, cost) = (ticks(now), bucket.cost_ticks(units));
        let has_competitors = bucket.note_asked(now, session.0);
        let begun = bucket.begun.load(Relaxed);
        let credit = bucket.capacity_ticks.max(cost.saturating_mul(CREDIT_FRAMES));
        let begins = share.end.max(begun - credit);
        let lead = bucket.capacity_ticks / LEAD_PART;
        let is_ahead = begins - begun > lead;
        let grace = if has_competitors { bucket.grace(cost) } else { 0 };
        let reserve = match is_ahead && has_competitors {
            true if bucket.is_large(cost) => {
                bucket.extend(now, grace);
                bucket.reserve_for_large(cost, grace)
            }
            true => grace,
            false => 0,
        };
        if !bucket.take(now, cost, reserve, grace) {
            return false;
        }
        bucket.prepaid.fetch_add(units, Relaxed);
        bucket.charged.fetch_add(units, Relaxed);
        bucket.begun.fetch_max(begins - lead, Relaxed);
        share.end = begins.saturating_add(cost);
        true
    }

    /// So many units leave: what of them was not charged when a session's frame was admitted is charged now, whatever the
    /// level is.
    pub fn leave(&self, now: Duration, units: u64) {
        let Some(bucket) = &self.bucket else { return };
        let paid = bucket.take_prepaid(units);
        if paid < units {
            self.charge(now, units - paid);
        }
    }

    /// So many units that were charged for a session's frame do not leave.
    pub fn give_back(&self, units: u64) {
        let Some(bucket) = &self.bucket else { return };
        let paid = bucket.take_prepaid(units);
        bucket.charged.fetch_sub(paid, Relaxed);
        bucket.empty_at.fetch_sub(bucket.cost_ticks(paid), Relaxed);
    }

    /// Units that were charged for what has left, and those for what is to leave.
    pub fn charged_and_prepaid(&self) -> (u64, u64) {
        self.bucket.as_ref().map_or((0, 0), |bucket| {
            let prepaid = bucket.prepaid.load(Relaxed);
            (bucket.charged.load(Relaxed).saturating_sub(prepaid), prepaid)
        })
    }

    /// Charges `units` whatever the level is, down to one second's worth below zero.
    pub fn charge(&self, now: Duration, units: u64) {
        let Some(bucket) = &self.bucket else { return };
        bucket.charged.fetch_add(units, Relaxed);
        let (now, cost) = (ticks(now), bucket.cost_ticks(units));
        let _ = bucket.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let empty_at = empty_at.max(now - bucket.capacity_ticks);
            let lowest = now + ticks(DEBT_MAX);
            (empty_at < lowest).then(|| empty_at.saturating_add(cost).min(lowest))
        });
    }
}

impl Bucket {
    /// Uses up so many of the units that were charged and have not left, or as many as there are; gives how many.
    fn take_prepaid(&self, units: u64) -> u64 {
        let take = |prepaid: u64| (prepaid > 0).then(|| prepaid.saturating_sub(units));
        self.prepaid.fetch_update(Relaxed, Relaxed, take).map_or(0, |before| before.min(units))
    }

    /// Whether a frame takes so much of the bucket that there is no room above it for a reserve.
    fn is_large(&self, cost: i64) -> bool {
        cost > self.capacity_ticks / 4 * 3
    }

    /// What is kept for sessions that have had less than others; for large frames, what the bucket holds on top of its
    /// capacity. So its level moves by what two of them cost, a hundredth of 200.
    fn grace(&self, cost: i64) -> i64 {
        let least = self.least_reserve(cost);
        match self.is_large(cost) {
            true => least.max(2 * cost.min(self.capacity_ticks) - self.capacity_ticks),
            false => least,
        }
    }

    /// What is kept of a bucket that holds that much more. A little less than all of it: who asks only now and then finds it
    /// there before anything is lost.
    fn reserve_for_large(&self, cost: i64, grace: i64) -> i64 {
        let all = self.capacity_ticks + grace - cost.min(self.capacity_ticks);
        (all - self.capacity_ticks / RESERVE_PART).max(self.least_reserve(cost))
    }

    fn least_reserve(&self, cost: i64) -> i64 {
        self.capacity_ticks.max(cost) / RESERVE_PART
    }

    /// Lets that much flow into a full bucket for a while, for a large frame that waits for its reserve: whoever takes
    /// something meanwhile would else take that away, too.
    fn extend(&self, now: i64, grace: i64) {
        let until = self.extended_until.swap(now + ticks(COMPETING_WITHIN), Relaxed);
        if now < until {
            self.extension.fetch_max(grace, Relaxed);
        } else {
            self.extension.store(grace, Relaxed);
        }
    }

    /// Charges `cost` if that leaves `reserve`. For large frames up to `grace` of what flows into a full bucket is not lost.
    fn take(&self, now: i64, cost: i64, reserve: i64, grace: i64) -> bool {
        let extended = now < self.extended_until.load(Relaxed);
        let extension = if extended { self.extension.load(Relaxed) } else { 0 };
        let beyond = extension.max(if self.is_large(cost) { grace } else { reserve });
        let wanted = cost.min(self.capacity_ticks) + reserve;
        let take = |empty_at: i64| {
            let empty_at = empty_at.max(now - self.capacity_ticks - beyond);
            (now - empty_at >= wanted).then(|| empty_at.saturating_add(cost))
        };
        self.empty_at.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Notes who asks; tells whether somebody else has asked lately.
    fn note_asked(&self, now: i64, session: u64) -> bool {
        let (last, at) = (self.asked_last.load(Relaxed), self.asked_at.load(Relaxed));
        if last != session {
            if last != NOBODY && now - at < ticks(COMPETING_WITHIN) {
                self.contended_until.store(now + ticks(COMPETING_WITHIN), Relaxed);
            }
            self.asked_last.store(session, Relaxed);
        }
        if last != session || now - at >= ticks(NOTED_AGAIN) {
            self.asked_at.store(now, Relaxed);
        }
        now < self.contended_until.load(Relaxed)
    }

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
    fn what_leaves_is_charged_once_whenever_it_is() {
        let limiter = Limiter::new(1_000.0, BURST);
        let (now, mut share) = (Duration::from_secs(10), Share::default());
        assert!(limiter.admit_session(now, 5_000, SessionId(1), &mut share));
        assert_eq!(limiter.charged_and_prepaid(), (0, 5_000));
        limiter.leave(now, 4_000);
        assert_eq!(limiter.charged_and_prepaid(), (4_000, 1_000));
        // More leaves than was paid for.
        limiter.leave(now, 1_500);
        assert_eq!(limiter.charged_and_prepaid(), (5_500, 0));
        limiter.give_back(700);
        assert_eq!(limiter.charged_and_prepaid(), (5_500, 0), "nothing is left to be given back");
    }

    #[test]
    fn what_is_given_back_may_be_used_by_others() {
        let limiter = Limiter::new(1_000.0, BURST);
        let (now, mut share) = (Duration::from_secs(10), Share::default());
        assert!(limiter.admit_session(now, 5_000, SessionId(1), &mut share));
        assert!(!limiter.admit(now, 1));
        limiter.give_back(5_000);
        assert_eq!(limiter.charged_and_prepaid(), (0, 0));
        assert!(limiter.admit(now, 100));
        assert!(!limiter.admit(now, 1), "no more than the bucket holds");
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

    /// Sessions that ask by turns, each after its own time, for `length`; gives what passed of each.
    fn competitors(limiter: &Limiter, cost: u64, gaps_us: &[u64], length: Duration) -> Vec<u64> {
        let mut shares = vec![Share::default(); gaps_us.len()];
        let (mut passed, mut next) = (vec![0; gaps_us.len()], vec![0; gaps_us.len()]);
        loop {
            let first = (0..next.len()).min_by_key(|&session| next[session]).unwrap();
            let now = Duration::from_micros(next[first]);
            if now >= length {
                return passed;
            }
            next[first] += gaps_us[first];
            let id = SessionId(first as u64);
            passed[first] += u64::from(limiter.admit_session(now, cost, id, &mut shares[first]));
        }
    }

    #[test]
    fn rivals_get_the_same_within_a_frame_and_together_the_whole_cap() {
        // Frames that cost a fraction of the bucket, nearly all of it, and many times as much.
        let (dense, large) = ([700, 700, 700, 700], [28_000, 29_000, 30_000, 31_000]);
        let (greedy, large_greedy) = ([290, 1_900, 2_100, 2_300], [9_000, 77_000, 77_000, 77_000]);
        for (rate, cost, slower, seconds) in [
            (131_072.0, 4_126, 1.0, 12),
            (131_072_000.0, 4_126, 0.025, 12),
            (13_107_200.0, 1 << 20, 1.0, 20),
            (1_310_720.0, 1 << 20, 1.0, 170),
            (131_072.0, 1 << 20, 1.0, 330),
        ] {
            let length = Duration::from_secs(seconds);
            let is_slow = cost as f64 / rate > 0.5;
            let is_large = cost == 1 << 20;
            for gaps in match (is_slow, is_large) {
                (true, _) => vec![dense, large, large_greedy],
                // As often as frames are paid for, and hardly more often than the session's part is worth.
                (false, true) => vec![dense, large_greedy, [10_000, 100_000, 100_000, 100_000]],
                (false, false) => vec![dense, greedy],
            } {
                let dense = gaps.map(|gap| (gap as f64 * slower) as u64);
                let limiter = Limiter::new(rate, BURST);
                let passed = competitors(&limiter, cost, &dense, length);
                let (most, least) = (passed.iter().max().unwrap(), passed.iter().min().unwrap());
                assert!(most - least <= 1 + most / 100, "rate {rate}, cost {cost}, {gaps:?}: {passed:?}");
                let all = passed.iter().sum::<u64>() as f64 * cost as f64;
                let share = all / (rate * seconds as f64);
                let one = cost as f64 / (rate * seconds as f64);
                assert!(
                    (0.99 - one..=1.01 + one).contains(&share),
                    "rate {rate}, cost {cost}, {gaps:?}: {share}"
                );
            }
        }
    }

    #[test]
    fn who_has_no_rivals_waits_for_no_reserve() {
        let limiter = Limiter::new(1000.0, BURST);
        let (mut one, mut other) = (Share::default(), Share::default());
        let ask = |share: &mut Share, session, ms| {
            limiter.admit_session(Duration::from_millis(ms), 5000, SessionId(session), share)
        };
        assert!(ask(&mut one, 1, 1_000));
        assert!(!ask(&mut one, 1, 5_999) && ask(&mut one, 1, 6_000));
        // While somebody else asks, too, it does, and that one does not.
        assert!(!ask(&mut other, 2, 6_001) && !ask(&mut one, 1, 10_500) && !ask(&mut other, 2, 10_900));
        assert!(!ask(&mut one, 1, 11_000) && ask(&mut other, 2, 11_000));
    }

    #[test]
    fn a_session_with_large_frames_is_not_held_up_for_ever_by_one_that_asks_little() {
        let limiter = Limiter::new(10_000.0, BURST);
        let (mut large, mut small) = (Share::default(), Share::default());
        let (mut passed, mut times) = ([0, 0], 0);
        for ms in 1_000..61_000 {
            let now = Duration::from_millis(ms);
            passed[0] += u64::from(limiter.admit_session(now, 5_000, SessionId(1), &mut large));
            // One percent of the rate, each a tenth of the bucket.
            if ms % 1_000 == 500 {
                times += 1;
                passed[1] += u64::from(limiter.admit_session(now, 100, SessionId(2), &mut small));
            }
        }
        assert!(passed[0] >= 100, "{passed:?} of 120 that the rate is worth");
        assert!(passed[1] <= times);
    }

    #[test]
    fn a_session_that_was_away_has_credit_for_one_burst_at_most() {
        let limiter = Limiter::new(1_000_000.0, BURST);
        let mut shares = [Share::default(), Share::default()];
        let mut passed = [0; 2];
        for ms in 1_000..21_000 {
            // The second comes after ten seconds.
            for session in 0..if ms < 11_000 { 1 } else { 2 } {
                for _ in 0..4 {
                    let id = SessionId(session as u64);
                    let now = Duration::from_millis(ms);
                    passed[session] += u64::from(limiter.admit_session(now, 1_000, id, &mut shares[session]));
                }
            }
        }
        assert!(passed[0].abs_diff(15_000) <= 150 && passed[1].abs_diff(5_000) <= 150, "{passed:?}");
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let limiter = Limiter::unlimited();
        assert!(!limiter.is_limited());
        assert!(limiter.admit(Duration::ZERO, u64::MAX));
    }
}
