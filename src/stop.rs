//! The time that a stop may take, all in all, and threads that are waited for within it.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often it is looked whether a thread has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// What links get at most to be closed in order, out of the time of the whole stop; a quarter of it if that is less.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// What threads get at most to end once all links are cut; a tenth of the time if that is less.
const END_WITHIN: Duration = Duration::from_millis(250);

/// When each step of a stop is over, at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StopTimes {
    /// What is in flight is answered until then …
    pub(crate) drained_by: Instant,
    /// … links are closed in order until then, and cut after it …
    pub(crate) closed_by: Instant,
    /// … and what has not ended then is left behind.
    pub(crate) ended_by: Instant,
}

impl StopTimes {
    /// Of a stop that begins now.
    pub(crate) fn new(now: Instant, timeout: Duration) -> Self {
        let end = END_WITHIN.min(timeout / 10);
        let close = CLOSE_WITHIN.min(timeout / 4);
        Self {
            drained_by: now + (timeout - end - close),
            closed_by: now + (timeout - end),
            ended_by: now + timeout,
        }
    }
}

/// Waits for a thread until then, and looks at it once at least. Gives it back if it still runs: it ends with the process.
pub(crate) fn join_by(thread: JoinHandle<()>, deadline: Instant) -> Result<(), JoinHandle<()>> {
    if !wait_by(deadline, || thread.is_finished()) {
        return Err(thread);
    }
    // One that has failed has ended.
    let _ = thread.join();
    Ok(())
}

/// Waits until something holds, at most until then; whether it does.
pub(crate) fn wait_by(deadline: Instant, holds: impl Fn() -> bool) -> bool {
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_PAUSE);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_steps_of_a_stop_fit_into_its_time_whatever_that_is() {
        let now = Instant::now();
        for (timeout, drained, closed) in [
            (0, 0, 0),
            (1, 0, 0),
            (100, 65, 90),
            (1_000, 650, 900),
            (10_000, 8_750, 9_750),
            (600_000, 598_750, 599_750),
        ] {
            let times = StopTimes::new(now, Duration::from_millis(timeout));
            let millis = |at: Instant| (at - now).as_millis() as u64;
            assert_eq!((millis(times.drained_by), millis(times.closed_by)), (drained, closed));
            assert_eq!(times.ended_by, now + Duration::from_millis(timeout));
        }
    }

    #[test]
    fn a_thread_that_hangs_is_left_behind_and_one_that_ends_is_joined() {
        let (release, hangs) = mpsc::channel::<()>();
        let hung = thread::spawn(move || _ = hangs.recv());
        let hung = join_by(hung, Instant::now() + Duration::from_millis(5)).unwrap_err();
        drop(release);
        join_by(hung, Instant::now() + Duration::from_secs(30)).unwrap();
    }
}
