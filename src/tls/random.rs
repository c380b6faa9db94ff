//! Randomness of the system, for what others must not guess.

/// Fresh random bytes.
///
/// # Panics
/// If the system has no randomness: then nothing would be secret.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}
