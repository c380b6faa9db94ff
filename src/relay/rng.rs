//! Random numbers, all of which follow from a seed. What others must not guess (keys, tokens, numbers) comes from
//! `SecretRng`: its seed is as long as a key, and whoever sees some of its output cannot compute the rest. Random choices come from
//! `FastRng`, whose state can be computed from its output; so that is never shown to anybody.

use rand::{
    RngExt, SeedableRng,
    distr::uniform::{SampleRange, SampleUniform},
    rngs::SmallRng,
};

/// Bytes of randomness that a generator begins with. Where nodes run, they come from the system.
pub type Seed = [u8; 32];

const CONTEXT: &str = "amop 2026 secrets of one reactor";

/// A generator of secrets: BLAKE3 in its extendable-output mode.
pub(super) struct SecretRng(blake3::OutputReader);

impl SecretRng {
    pub(super) fn new(seed: &Seed) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(seed);
        Self(hasher.finalize_xof())
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }

    pub(super) fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }
}

/// A generator for random choices.
pub(super) struct FastRng(SmallRng);

impl FastRng {
    pub(super) fn new(secret_rng: &mut SecretRng) -> Self {
        Self(SmallRng::seed_from_u64(secret_rng.number()))
    }

    /// A number of a range, which is not empty.
    #[inline]
    pub(super) fn in_range<T: SampleUniform>(&mut self, range: impl SampleRange<T>) -> T {
        self.0.random_range(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_seed_counts_and_nothing_comes_twice() {
        let first = |seed: &Seed| SecretRng::new(seed).bytes::<32>();
        let mut seen = std::collections::BTreeSet::from([first(&[0; 32])]);
        for at in 0..32 {
            let mut seed = [0; 32];
            seed[at] = 1;
            assert!(seen.insert(first(&seed)), "byte {at}");
        }
        let mut secret_rng = SecretRng::new(&[0; 32]);
        assert_eq!(secret_rng.bytes(), first(&[0; 32]));
        assert!((0..100).all(|_| seen.insert(secret_rng.bytes())));
    }
}
