//! The round-trip time of a node link: a Hello on a link that is up, and the Ack that repeats its Seq.
//!
//! For people, not for routing. It has nothing to do with the probe that a candidate link causes: that one waits
//! for any byte.

use std::time::{Duration, Instant};

/// How often a node link is measured.
pub(super) const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(5);
/// The part of each new round trip in the smoothed one: 1 / this (as of TCP, RFC 6298).
const SMOOTHING: u32 = 8;

/// What is known of a link's round-trip time.
pub(super) struct RoundTrip {
    /// The probe that waits for its answer, and when it was sent.
    asked: Option<(u32, Instant)>,
    due: Instant,
    last: Option<Duration>,
    smoothed: Option<Duration>,
}

impl RoundTrip {
    /// Nothing is known of a link that has just come up; it may be measured at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: None, due: now, last: None, smoothed: None }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// A probe with this Seq goes out. Gives whether the one before it was never answered.
    pub(super) fn begin(&mut self, now: Instant, seq: u32) -> bool {
        self.due = now + ROUND_TRIP_INTERVAL;
        self.asked.replace((seq, now)).is_some()
    }

    /// An Ack with this Seq came; gives the round trip if it answers the probe.
    pub(super) fn finish(&mut self, now: Instant, seq: u32) -> Option<Duration> {
        let (_, since) = self.asked.take_if(|(asked, _)| *asked == seq)?;
        let took = now.saturating_duration_since(since);
        self.smoothed = Some(match self.smoothed {
            None => took,
            Some(smoothed) => (smoothed * (SMOOTHING - 1) + took) / SMOOTHING,
        });
        self.last = Some(took);
        Some(took)
    }

    /// The last round trip, and the smoothed one.
    pub(super) fn known(&self) -> Option<(Duration, Duration)> {
        self.last.zip(self.smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_last_probe_counts_and_once() {
        let start = Instant::now();
        let mut round_trip = RoundTrip::new(start);
        let millis = Duration::from_millis;
        assert!(round_trip.is_due(start));
        assert!(!round_trip.begin(start, 7));
        assert!(!round_trip.is_due(start + ROUND_TRIP_INTERVAL - millis(1)));
        assert_eq!(round_trip.finish(start + millis(1), 8), None);
        let again = start + ROUND_TRIP_INTERVAL;
        assert!(round_trip.is_due(again));
        assert!(round_trip.begin(again, 9), "the first was not answered");
        assert_eq!(round_trip.finish(again, 7), None);
        assert_eq!(round_trip.known(), None);
        assert_eq!(round_trip.finish(again + millis(8), 9), Some(millis(8)));
        assert_eq!(round_trip.finish(again + millis(9), 9), None);
        assert_eq!(round_trip.known(), Some((millis(8), millis(8))));
        assert!(!round_trip.begin(again, 10));
        round_trip.finish(again + millis(16), 10);
        assert_eq!(round_trip.known(), Some((millis(16), millis(9))));
    }
}
