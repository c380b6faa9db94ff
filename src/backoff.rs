//! How long to wait before a connection is tried again, of those that a node dials and of those of the client library.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Only a connection that lasted so long shows that the next one may be tried at once: a peer that completes the
/// handshake and then hangs up (its lists, another protocol, a bound) would be dialled without a pause for ever.
pub(crate) const LASTED: Duration = Duration::from_secs(10);

/// Waits that double up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// A connection is over that was there for so long.
    pub(crate) fn ended_after(&mut self, lasted: Duration) {
        if lasted >= LASTED {
            self.next = self.min;
        }
    }

    /// The wait before the next try. It doubles from one to the next up to the bound, and each is up to 30 % longer or
    /// shorter, so that peers do not try in step.
    pub(crate) fn next_pause(&mut self, random: &mut impl Rng) -> Duration {
        let pause = self.next.mul_f64(random.random_range(0.7..1.3));
        self.next = (self.next * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// The waits of so many tries, each after a connection of such a length.
    fn pauses(lasted: Duration, tries: usize) -> Vec<f64> {
        let mut random = rand::rngs::SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let pause = |_| {
            backoff.ended_after(lasted);
            backoff.next_pause(&mut random).as_secs_f64()
        };
        (0..tries).map(pause).collect()
    }

    #[test]
    fn waits_double_up_to_the_bound_unless_a_connection_has_lasted() {
        for lasted in [Duration::ZERO, LASTED - Duration::from_millis(1)] {
            let pauses = pauses(lasted, 20);
            for (pause, nominal) in pauses.iter().zip([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]) {
                assert!((nominal * 0.7..nominal * 1.3).contains(pause), "{pause} {nominal}");
            }
            assert!(pauses[8..].iter().all(|pause| (7.0..13.0).contains(pause)), "{pauses:?}");
        }
        assert!(pauses(LASTED, 20).iter().all(|pause| (0.14..0.26).contains(pause)));
    }

    #[test]
    fn no_two_waits_are_the_same() {
        let mut pauses = pauses(Duration::ZERO, 20).split_off(6);
        pauses.sort_by(f64::total_cmp);
        pauses.dedup();
        assert_eq!(pauses.len(), 14);
    }
}
