//! Timers that all run equally long: a list in the order of their deadlines, with O(1) insertion and
//! cancellation. The relay has one for each of its constants.

use std::time::{Duration, Instant};

/// Names a running timer; stale once it expired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

const NONE: u32 = u32::MAX;

struct Timer<T> {
    deadline: Instant,
    previous: u32,
    next: u32,
    /// `None` while the slot is free.
    payload: Option<T>,
}

/// Timers of one length, first in, first out.
pub(crate) struct Timers<T> {
    length: Duration,
    slots: Vec<Timer<T>>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

impl<T> Timers<T> {
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, slots: Vec::new(), free: Vec::new(), first: NONE, last: NONE }
    }

    /// Starts a timer. `now` never goes back between calls.
    pub(crate) fn start(&mut self, now: Instant, payload: T) -> TimerKey {
        let deadline = now + self.length;
        let timer = Timer { deadline, previous: self.last, next: NONE, payload: Some(payload) };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = timer;
                index
            }
            None => {
                self.slots.push(timer);
                (self.slots.len() - 1) as u32
            }
        };
        match self.last {
            NONE => self.first = index,
            last => self.slots[last as usize].next = index,
        }
        self.last = index;
        TimerKey(index)
    }

    /// Stops a running timer. The caller drops its key when the timer expires.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let timer = self.slots.get_mut(key.0 as usize)?;
        let payload = timer.payload.take()?;
        let (previous, next) = (timer.previous, timer.next);
        match previous {
            NONE => self.first = next,
            previous => self.slots[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.slots[next as usize].previous = previous,
        }
        self.free.push(key.0);
        Some(payload)
    }

    /// When the next timer expires.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.first != NONE).then(|| self.slots[self.first as usize].deadline)
    }

    /// Takes one timer that has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        if self.deadline()? > now {
            return None;
        }
        self.cancel(TimerKey(self.first))
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
}
