//! Processor time of an address for handshakes that come to nothing. Somebody without a certificate makes no others, each
//! of which costs the door more than it costs a peer; those that become links are free, so that all applications behind one
//! address can come back at once.

use std::time::{Duration, Instant};

/// So much may be used up at once …
pub(super) const TIME_PER_ADDRESS_MAX: Duration = Duration::from_secs(1);
/// … and it comes back at one part in so many of the door's thread.
pub(super) const TIME_RECOVERY: u32 = 5;

/// What an address has left.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When all of it is back.
    full_at: Option<Instant>,
}

impl Budget {
    /// So much was used up, be it more than is left.
    pub(super) fn charge(&mut self, time: Duration, now: Instant) {
        if time.is_zero() {
            return;
        }
        let from = self.full_at.map_or(now, |full_at| full_at.max(now));
        self.full_at = from.checked_add(time.saturating_mul(TIME_RECOVERY)).or(self.full_at);
    }

    /// How long it is until something is left.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let until_full =
            self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        until_full.saturating_sub(TIME_PER_ADDRESS_MAX * TIME_RECOVERY)
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_once_its_time_is_used_up_and_until_some_is_back() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(budget.is_full(start));
        budget.charge(TIME_PER_ADDRESS_MAX / 2, start);
        budget.charge(TIME_PER_ADDRESS_MAX / 2, start);
        assert_eq!(budget.wait(start), Duration::ZERO);
        // What goes beyond it has to come back as well, however it is charged.
        budget.charge(second / 10, start);
        assert_eq!(budget.wait(start), second / 10 * TIME_RECOVERY);
        assert_eq!(budget.wait(start + second / 10 * TIME_RECOVERY), Duration::ZERO);
        // All of it is back after the time that was used up, times its part.
        let full_at = start + (TIME_PER_ADDRESS_MAX + second / 10) * TIME_RECOVERY;
        assert!(!budget.is_full(full_at - second / 1_000) && budget.is_full(full_at));
        // Nothing is saved up beyond that.
        let later = full_at + 1_000 * second;
        budget.charge(TIME_PER_ADDRESS_MAX + second, later);
        assert_eq!(budget.wait(later), second * TIME_RECOVERY);
    }
}
