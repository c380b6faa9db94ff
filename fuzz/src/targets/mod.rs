//! One function a target: bytes in, a panic if something does not hold. `fuzz_targets/` hands them to
//! libFuzzer, `tests/repository/fuzz_corpora.rs` runs them over the corpora.

pub mod certificate;
pub mod config;
pub mod ledger;
pub mod p2p_2x;
pub mod record;
pub mod relay;
pub mod shard;
pub mod wire;
pub mod ws;

use arbitrary::{Arbitrary, Unstructured};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Fewer than `MAX` bytes of a script.
#[derive(Debug)]
struct Bytes<'a, const MAX: u8>(&'a [u8]);

impl<'a, const MAX: u8> Arbitrary<'a> for Bytes<'a, MAX> {
    fn arbitrary(script: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let len = usize::from(u8::arbitrary(script)? % MAX);
        script.bytes(len.min(script.len())).map(Self)
    }
}

/// A target by name.
pub struct Target {
    /// As in `fuzz_targets/`.
    pub name: &'static str,
    /// Panics if something does not hold for this input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target { name: "certificate", run: certificate::run, seeds: scripts },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "ledger", run: ledger::run, seeds: ledger::seeds },
    Target { name: "p2p_2x", run: p2p_2x::run, seeds: p2p_2x::seeds },
    Target { name: "record", run: record::run, seeds: scripts },
    Target { name: "relay", run: relay::run, seeds: scripts },
    Target { name: "shard", run: shard::run, seeds: scripts },
    Target { name: "wire", run: wire::run, seeds: wire::seeds },
    Target { name: "ws_frames", run: ws::frames, seeds: ws::frames_seeds },
    Target { name: "ws_message", run: ws::message, seeds: ws::message_seeds },
    Target { name: "ws_upgrade", run: ws::upgrade, seeds: ws::upgrade_seeds },
];

/// Scripts are read from any bytes: random ones are seeds as good as others.
fn scripts() -> Vec<Vec<u8>> {
    let mut random = SmallRng::seed_from_u64(1);
    (1..=24).map(|number| (0..number * 40).map(|_| random.random()).collect()).collect()
}
