//! Tables by seq. Its hash is taken once for each frame, whatever tables it is looked up in.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
};

use super::Common;
use crate::wire::sdk::Seq;

/// A seq and its hash, which is keyed: whoever chooses seqs cannot choose those that collide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SeqKey {
    hash: u64,
    pub(super) seq: Seq,
}

impl Hash for SeqKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Gives back the hash that a key brings along.
#[derive(Clone, Copy, Default)]
pub(super) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Keys of these tables are none but those above.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A table by seq.
pub(super) type BySeq<T> = HashMap<SeqKey, T, BuildHasherDefault<IdentityHasher>>;

impl Common {
    pub(super) fn seq_key(&self, seq: &Seq) -> SeqKey {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(seq);
        SeqKey { hash: hasher.finish(), seq: *seq }
    }
}
