//! Chance, which all follows from a seed. What others must not guess (keys, tokens, numbers) comes from a generator whose
//! seed is as long as a key, so that nobody who sees some of it can find the rest. What only draws lots has a faster one,
//! whose state can be found from what it gives: so it gives nothing but lots.

use rand::{
    RngExt, SeedableRng,
    distr::uniform::{SampleRange, SampleUniform},
    rngs::SmallRng,
};

/// Bytes of randomness that a generator begins with. Where nodes run, they come from the system.
pub type Seed = [u8; 32];

const CONTEXT: &str = "amop 2026 secrets of one reactor";

/// A generator of secrets: BLAKE3 in its extendable-output mode.
pub(super) struct Secrets(blake3::OutputReader);

impl Secrets {
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

/// Draws lots.
pub(super) struct Lots(SmallRng);

impl Lots {
    pub(super) fn new(secrets: &mut Secrets) -> Self {
        Self(SmallRng::seed_from_u64(secrets.number()))
    }

    /// One of a range that is not empty.
    #[inline]
    pub(super) fn draw<T: SampleUniform>(&mut self, range: impl SampleRange<T>) -> T {
        self.0.random_range(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_seed_counts_and_nothing_comes_twice() {
        let first = |seed: &Seed| Secrets::new(seed).bytes::<32>();
        let mut seen = std::collections::BTreeSet::from([first(&[0; 32])]);
        for at in 0..32 {
            let mut seed = [0; 32];
            seed[at] = 1;
            assert!(seen.insert(first(&seed)), "byte {at}");
        }
        let mut secrets = Secrets::new(&[0; 32]);
        assert_eq!(secrets.bytes(), first(&[0; 32]));
        assert!((0..100).all(|_| seen.insert(secrets.bytes())));
    }
}
