//! Files of the crate with their own tests, as Miri runs them: `cargo +nightly miri test --package amop-miri`. It has only
//! what they need, since Miri builds every dependency anew.

#![cfg(test)]
// What the other modules of the crate use, and what clippy grants to its public types.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::wrong_self_convention)]

#[path = "../../../src/bound.rs"]
mod bound;
#[path = "../../../src/escape.rs"]
mod escape;
#[path = "../../../src/wire/mod.rs"]
mod wire;

#[path = "../../../src/engine"]
mod engine {
    use std::sync::atomic;

    mod mesh;
    mod sleep_flag;
    mod wake;

    /// Bounds of the mesh that are reached after few steps.
    mod bounds {
        pub(super) const MESH_BYTES_MAX: usize = 4 << 20;
        pub(super) const MESH_QUEUE_LEN: usize = 16;
        pub(super) const MESH_SMALL_FRAME_MAX: usize = 2_048;
    }
}

/// What the mesh carries, without the relay.
mod relay {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReactorId(pub u16);

    #[derive(Debug)]
    pub enum MeshMessage {
        Multicast,
    }
}
