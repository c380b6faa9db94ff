//! What arrived, against what WIRE §5 promises.

use std::time::Duration;

/// Shortest window that the accuracy is promised for …
pub(super) const WINDOW_MIN: Duration = Duration::from_secs(10);
/// … and how many frames it must hold.
pub(super) const WINDOW_FRAMES: u64 = 200;

/// How much of the cap arrived, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    /// In the window that got least.
    pub(super) low: f64,
    /// In the window that got most.
    pub(super) high: f64,
}

/// Over all windows of a length within `end`, of frames that cost `cost` each, by their arrivals since the start, in order.
/// `None` if no window fits.
pub(super) fn over_windows(
    arrivals: &[Duration],
    cost: u64,
    bytes_per_second: f64,
    window: Duration,
    end: Duration,
) -> Option<Share> {
    let whole = bytes_per_second * window.as_secs_f64();
    let share = |frames: usize| frames as f64 * cost as f64 * 100.0 / whole;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut until = 0;
    for (from, &start) in arrivals.iter().enumerate() {
        if start + window > end {
            break;
        }
        while until < arrivals.len() && arrivals[until] < start + window {
            until += 1;
        }
        // One that begins with an arrival, and one that begins right after it.
        high = high.max(share(until - from));
        let closed = arrivals[until..].iter().take_while(|&&at| at == start + window).count();
        low = low.min(share(until + closed - from - 1));
    }
    (high >= 0.0).then_some(Share { low, high })
}

/// The rate between the first arrival and the last, for frames of which a window holds too few.
pub(super) fn between_arrivals(arrivals: &[Duration], cost: u64, bytes_per_second: f64) -> Option<Share> {
    let span = arrivals.last()?.checked_sub(*arrivals.first()?)?;
    let bytes = (arrivals.len() - 1) as f64 * cost as f64;
    let share = bytes * 100.0 / (bytes_per_second * span.as_secs_f64());
    (arrivals.len() > 1 && span > Duration::ZERO).then_some(Share { low: share, high: share })
}

/// By how many percent of the mean the session with most is above the one with least, and by how many frames.
pub(super) fn unfairness(frames: &[u64]) -> (f64, u64) {
    let (most, least) =
        (frames.iter().max().copied().unwrap_or(0), frames.iter().min().copied().unwrap_or(0));
    let mean = frames.iter().sum::<u64>() as f64 / frames.len().max(1) as f64;
    ((most - least) as f64 * 100.0 / mean.max(f64::MIN_POSITIVE), most - least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(gap_ms: u64, count: u64) -> Vec<Duration> {
        (0..count).map(|number| Duration::from_millis(number * gap_ms)).collect()
    }

    #[test]
    fn an_even_stream_has_its_rate_in_every_window() {
        let arrivals = every(10, 1_501);
        let end = Duration::from_secs(15);
        let share = over_windows(&arrivals, 100, 10_000.0, WINDOW_MIN, end).unwrap();
        assert_eq!(share, Share { low: 100.0, high: 100.0 });
        assert_eq!(between_arrivals(&arrivals, 100, 10_000.0).unwrap(), share);
    }

    #[test]
    fn a_burst_and_a_gap_show_in_some_window() {
        let mut arrivals = every(10, 2_000);
        arrivals.drain(500..550);
        arrivals.extend(std::iter::repeat_n(Duration::from_secs(12), 20));
        arrivals.sort();
        let share = over_windows(&arrivals, 100, 10_000.0, WINDOW_MIN, Duration::from_secs(20)).unwrap();
        assert_eq!(share, Share { low: 95.0, high: 102.0 });
        assert_eq!(over_windows(&arrivals, 100, 10_000.0, WINDOW_MIN, Duration::from_secs(9)), None);
    }

    #[test]
    fn unfairness_is_between_the_session_with_most_and_the_one_with_least() {
        assert_eq!(unfairness(&[100, 100, 95, 105]), (10.0, 10));
        assert_eq!(unfairness(&[7, 7]), (0.0, 0));
    }
}
