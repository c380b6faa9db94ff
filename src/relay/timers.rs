//! Timers that nearly all run equally long: a list in the order of their deadlines, with O(1) insertion and
//! cancellation. The relay has one for each of its constants. The few that run longer, for large frames, are in a
//! tree beside it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use slab::Slab;

/// Names a running timer; stale once it expired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

const NONE: u32 = u32::MAX;

struct Timer<T> {
    deadline: Instant,
    previous: u32,
    next: u32,
    /// Whether it is in the tree instead of the list.
    is_other: bool,
    payload: T,
}

/// Timers of one length, first in, first out, and a few of other lengths.
pub(crate) struct Timers<T> {
    length: Duration,
    others: BTreeSet<(Instant, u32)>,
    running: Slab<Timer<T>>,
    first: u32,
    last: u32,
}

impl<T> Timers<T> {
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, others: BTreeSet::new(), running: Slab::new(), first: NONE, last: NONE }
    }

    /// Starts a timer. `now` never goes back between calls.
    pub(crate) fn start(&mut self, now: Instant, payload: T) -> TimerKey {
        let deadline = now + self.length;
        let timer = Timer { deadline, previous: self.last, next: NONE, is_other: false, payload };
        let index = self.running.insert(timer) as u32;
        match self.last {
            NONE => self.first = index,
            last => self.running[last as usize].next = index,
        }
        self.last = index;
        TimerKey(index)
    }

    /// Starts a timer that runs for another time than the usual one.
    pub(crate) fn start_until(&mut self, deadline: Instant, payload: T) -> TimerKey {
        let timer = Timer { deadline, previous: NONE, next: NONE, is_other: true, payload };
        let index = self.running.insert(timer) as u32;
        self.others.insert((deadline, index));
        TimerKey(index)
    }

    /// Stops a running timer. The caller drops its key when the timer expires.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let Timer { deadline, previous, next, is_other, payload } =
            self.running.try_remove(key.0 as usize)?;
        if is_other {
            self.others.remove(&(deadline, key.0));
            return Some(payload);
        }
        match previous {
            NONE => self.first = next,
            previous => self.running[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.running[next as usize].previous = previous,
        }
        Some(payload)
    }

    /// When the next timer expires.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next().map(|(deadline, _)| deadline)
    }

    fn next(&self) -> Option<(Instant, u32)> {
        let usual = (self.first != NONE).then(|| (self.running[self.first as usize].deadline, self.first));
        match self.others.first() {
            None => usual,
            Some(&other) => Some(usual.map_or(other, |usual| usual.min(other))),
        }
    }

    /// Takes one timer that has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let (deadline, index) = self.next()?;
        if deadline > now {
            return None;
        }
        self.cancel(TimerKey(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_in_order_and_cancelled_ones_never() {
        let start = Instant::now();
        let mut timers = Timers::new(Duration::from_secs(5));
        let keys: Vec<_> = (0..6u64).map(|i| timers.start(start + Duration::from_secs(i), i)).collect();
        for cancelled in [0, 3, 5] {
            assert_eq!(timers.cancel(keys[cancelled]), Some(cancelled as u64));
            assert_eq!(timers.cancel(keys[cancelled]), None);
        }
        assert_eq!(timers.deadline(), Some(start + Duration::from_secs(6)));
        assert_eq!(timers.pop_expired(start + Duration::from_secs(5)), None);
        let again = timers.start(start + Duration::from_secs(6), 9);
        let late = start + Duration::from_secs(60);
        let expired: Vec<_> = std::iter::from_fn(|| timers.pop_expired(late)).collect();
        assert_eq!(expired, [1, 2, 4, 9]);
        assert_eq!(timers.deadline(), None);
        assert_eq!(timers.cancel(again), None);
    }

    #[test]
    fn timers_of_other_lengths_expire_at_their_own_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::new(Duration::from_secs(5));
        let long = timers.start_until(at(60), 'l');
        timers.start(start, 'u');
        timers.start_until(at(7), 'o');
        timers.start(at(3), 'v');
        let gone = timers.start_until(at(6), 'g');
        assert_eq!(timers.cancel(gone), Some('g'));
        assert_eq!(timers.cancel(gone), None);
        let expired: Vec<_> = std::iter::from_fn(|| timers.pop_expired(at(59))).collect();
        assert_eq!(expired, ['u', 'o', 'v']);
        assert_eq!(timers.deadline(), Some(at(60)));
        assert_eq!(timers.cancel(long), Some('l'));
        assert_eq!(timers.deadline(), None);
    }
}
