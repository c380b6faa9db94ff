//! Time without pauses. While the process or its machine stood still, time did not pass for it: what a peer sent
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

/// Waits for so long without pauses: after one, what came meanwhile is handled first.
pub(crate) async fn sleep(time: Duration) {
    let real = || tokio::time::Instant::now().into_std();
    let mut clock = Clock::new(real());
    let mut now = clock.last;
    let end = now + time;
    let mut has_paused = false;
    while now < end || has_paused {
        let step = if has_paused { PAUSE_MIN } else { PAUSE_MIN.min(end - now) };
        tokio::time::sleep(step).await;
        now = clock.read(real(), step);
        has_paused = clock.take_pause().is_some();
    }
}

/// What a future gives, if it is done within so long without pauses.
pub(crate) async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = sleep(time) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_was_due_in_a_pause_is_over_only_after_what_came_in_it() {
        let start = tokio::time::Instant::now();
        let waiting = tokio::spawn(sleep(Duration::from_secs(10)));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        waiting.await.unwrap();
        // The pause, of which a little counts, and what was left.
        let took = start.elapsed();
        assert!((69..=70).contains(&took.as_secs()), "{took:?}");

        let late =
            tokio::spawn(timeout(Duration::from_secs(10), tokio::time::sleep(Duration::from_secs(61))));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(late.await.unwrap(), Some(()));
        let never = timeout(Duration::from_secs(10), std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        assert_eq!(never.await, None);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

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
