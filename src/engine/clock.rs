//! A reactor's time. While the process or its machine stood still, time did not pass for it: what a peer sent
//! meanwhile waits in a socket, and its silence was ours.

use std::time::{Duration, Instant};

/// A turn that takes longer than this, beyond what was to be waited, is a pause; so much of it still counts.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Tells the time without pauses.
#[derive(Debug)]
pub(crate) struct Clock {
    /// What the pauses took.
    paused: Duration,
    last: Instant,
    /// What of that was since [`Self::take_pause`].
    new_pause: Duration,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { paused: Duration::ZERO, last: now, new_pause: Duration::ZERO }
    }

    /// The time at the real time `now`, when at most `waited` was to pass since the last call.
    pub(crate) fn read(&mut self, now: Instant, waited: Duration) -> Instant {
        let beyond = now.saturating_duration_since(self.last).saturating_sub(waited);
        if let Some(pause) = beyond.checked_sub(PAUSE_MIN) {
            self.paused += pause;
            self.new_pause += pause;
        }
        self.last = now;
        now - self.paused
    }

    /// How long the pause was that there was since the last call, if there was one.
    pub(crate) fn take_pause(&mut self) -> Option<Duration> {
        Some(std::mem::take(&mut self.new_pause)).filter(|pause| !pause.is_zero())
    }

    /// What the pauses took in all.
    pub(crate) fn paused(&self) -> Duration {
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_do_not_count_and_what_was_to_be_waited_does() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut clock = Clock::new(start);
        assert_eq!(clock.read(at(400), Duration::ZERO), at(400));
        assert_eq!(clock.read(at(10_400), Duration::from_secs(10)), at(10_400));
        assert_eq!(clock.take_pause(), None);
        assert_eq!(clock.read(at(20_400), Duration::from_secs(1)), at(11_900));
        assert_eq!([clock.take_pause(), clock.take_pause()], [Some(Duration::from_millis(8_500)), None]);
        assert_eq!(clock.paused(), Duration::from_millis(8_500));
        assert_eq!(clock.read(at(20_500), Duration::ZERO), at(12_000));
        // It never goes back, and never stands still for good.
        let mut last = at(12_000);
        for turn in 0..10 {
            let now = clock.read(at(30_500 + 10_000 * turn), Duration::ZERO);
            assert_eq!(now - last, PAUSE_MIN);
            last = now;
        }
    }
}
