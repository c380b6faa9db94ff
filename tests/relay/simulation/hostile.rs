//! A node that alters what it passes on for others.

use amop::internal::wire::node::{Addressing, Header, NodeId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::kit::{NodeIndex, Tamper};

/// One frame of others in so many is altered.
const ALTERED: u32 = 20;

/// Flips a bit, somewhere in the payload of some frames of others that a node sends on.
pub fn alters(node: NodeIndex, id: NodeId, seed: u64) -> Tamper {
    let mut rng = SmallRng::seed_from_u64(seed);
    Box::new(move |from, _, bytes| {
        let Ok((Header { addressing: Addressing::EndToEnd { source, .. }, .. }, offset)) =
            Header::decode(bytes)
        else {
            return;
        };
        if from == node && id.0 != *source && offset < bytes.len() && rng.random_ratio(1, ALTERED) {
            let at = rng.random_range(offset..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
    })
}
