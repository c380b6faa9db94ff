//! Multicasts that can come to a session from both sides, the mesh and its ledger node (INTEROP §1.3): which copy is one that it
//! has already.
//!
//! A copy is known again by its session, its seq, and what is in it. An application that sends one multicast over two links, as the
//! Java SDK does, is not told apart from one that sends it twice; so copies are counted on each side, and one is dropped only if
//! it has its equal on the other side. A session gets as many as the side has that had more of them.

use std::{
    hash::{BuildHasher, Hasher},
    time::Instant,
};

use ahash::RandomState;

use super::{Context, LinkKey, Outbound};
use crate::{
    relay::{
        expiring_map::{self, ExpiringMap},
        ledger::COPIES_MAX,
        peer_2x::COPIES_TIME,
    },
    wire::{
        FrameRef,
        sdk::{HEADER_LEN, Seq},
    },
};

/// Bytes that are hashed at once, however the frame is cut.
const BLOCK_LEN: usize = 256;
/// Memory of a copy.
pub(in crate::relay) const COPY_LEN: usize = expiring_map::entry_len::<(LinkKey, Digest), Counts>();

/// Which multicast it is: its seq and its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::relay::shard) struct Digest(u64);

/// From where a copy comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay::shard) enum Side {
    /// From a session of this node, or another node.
    Mesh,
    /// From the session's ledger node.
    Ledger,
}

/// Copies that came from each side.
#[derive(Clone, Copy, Default)]
struct Counts {
    mesh: u16,
    ledger: u16,
}

impl Counts {
    fn of(&mut self, side: Side) -> &mut u16 {
        match side {
            Side::Mesh => &mut self.mesh,
            Side::Ledger => &mut self.ledger,
        }
    }
}

/// Copies that sessions had within the last seconds.
pub(super) struct Copies {
    known: ExpiringMap<(LinkKey, Digest), Counts>,
    hashing: RandomState,
}

impl Copies {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { known: ExpiringMap::new(COPIES_TIME, hashing.clone()), hashing }
    }

    fn digest(&self, seq: &Seq, body: FrameRef<'_>) -> Digest {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(seq);
        let (mut block, mut filled) = ([0; BLOCK_LEN], 0);
        for mut piece in body.pieces() {
            while !piece.is_empty() {
                let (part, rest) = piece.split_at(piece.len().min(BLOCK_LEN - filled));
                block[filled..filled + part.len()].copy_from_slice(part);
                filled += part.len();
                piece = rest;
                if filled == BLOCK_LEN {
                    hasher.write(&block);
                    filled = 0;
                }
            }
        }
        hasher.write(&block[..filled]);
        Digest(hasher.finish())
    }

    /// Whether a copy from one side has its equal among those that came from the other one.
    fn is_known(&self, session: LinkKey, digest: Digest, side: Side) -> bool {
        self.known.get(&(session, digest)).is_some_and(|counts| match side {
            Side::Mesh => counts.mesh < counts.ledger,
            Side::Ledger => counts.ledger < counts.mesh,
        })
    }

    /// A copy has come from one side. Gives how many others were forgotten before their time.
    fn note(&mut self, now: Instant, session: LinkKey, digest: Digest, side: Side, copies_max: usize) -> u64 {
        while self.known.pop_expired(now).is_some() {}
        if let Some(counts) = self.known.get_mut(&(session, digest)) {
            let count = counts.of(side);
            *count = count.saturating_add(1);
            return 0;
        }
        let mut counts = Counts::default();
        *counts.of(side) = 1;
        let is_full = self.known.is_full(copies_max) && self.known.pop_oldest().is_some();
        self.known.insert(now, (session, digest), counts);
        is_full.into()
    }
}

impl super::Upstreams {
    /// By which copies of a multicast are known again; `None` where none can come from another side.
    pub(in crate::relay::shard) fn digest(
        &self,
        cx: &Context<'_, impl Outbound>,
        frame: FrameRef<'_>,
    ) -> Option<Digest> {
        if !cx.carries_amop() {
            return None;
        }
        let header = crate::wire::sdk::Header::decode(frame.head())?;
        Some(self.copies.digest(&header.seq, frame.advance(HEADER_LEN)))
    }

    /// Whether a session has had a copy from the other side; then this one is dropped.
    #[cold]
    pub(in crate::relay::shard) fn drops_copy(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        digest: Digest,
        side: Side,
    ) -> bool {
        let is_known = self.copies.is_known(session, digest, side);
        if is_known {
            cx.counters.ledger_copies_dropped.increment();
            self.note_copy(cx, session, digest, side);
        }
        is_known
    }

    /// A copy has its place in a session's queue.
    #[cold]
    pub(in crate::relay::shard) fn note_copy(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        digest: Digest,
        side: Side,
    ) {
        let forgotten =
            self.copies.note(cx.now, session, digest, side, cx.shared.settings.tables.of(COPIES_MAX));
        cx.counters.ledger_copies_forgotten.add(forgotten);
        cx.counters.ledger_copies_known.set(self.copies.known.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    const SESSION: LinkKey = LinkKey { index: 1, generation: 1 };
    const SEQ: Seq = [b'1'; 32];

    fn copies() -> Copies {
        Copies::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_multicast_is_known_again_however_it_is_cut_and_by_its_seq_and_each_of_its_bytes() {
        let copies = copies();
        let body: Vec<u8> = (0..1_000u32).map(|number| number as u8).collect();
        let whole = copies.digest(&SEQ, FrameRef::Slice(&body));
        for len in [1, 7, 255, 256, 257, 999] {
            let chunks: Vec<Bytes> = body.chunks(len).map(Bytes::copy_from_slice).collect();
            let cut = FrameRef::Chunks { chunks: &chunks, skip: 0, len: body.len() };
            assert_eq!(copies.digest(&SEQ, cut), whole, "in pieces of {len}");
        }
        assert_ne!(copies.digest(&[b'2'; 32], FrameRef::Slice(&body)), whole);
        for at in [0, 255, 256, 999] {
            let mut other = body.clone();
            other[at] ^= 1;
            assert_ne!(copies.digest(&SEQ, FrameRef::Slice(&other)), whole, "byte {at}");
        }
        assert_ne!(copies.digest(&SEQ, FrameRef::Slice(&body[..999])), whole);
    }

    /// Gives which of the copies are passed on.
    fn passed(copies: &mut Copies, now: Instant, sides: &[Side]) -> Vec<bool> {
        let digest = copies.digest(&SEQ, FrameRef::Slice(b"x"));
        let mut passed = Vec::new();
        for &side in sides {
            passed.push(!copies.is_known(SESSION, digest, side));
            copies.note(now, SESSION, digest, side, COPIES_MAX);
        }
        passed
    }

    #[test]
    fn as_many_copies_pass_as_the_side_had_that_had_more_of_them() {
        use Side::{Ledger, Mesh};
        let now = Instant::now();
        for (sides, expected) in [
            (&[Mesh, Ledger][..], &[true, false][..]),
            (&[Ledger, Mesh], &[true, false]),
            (&[Mesh, Mesh, Ledger, Ledger], &[true, true, false, false]),
            (&[Mesh, Ledger, Ledger, Mesh], &[true, false, true, false]),
            (&[Ledger, Ledger, Mesh], &[true, true, false]),
            (&[Mesh, Ledger, Mesh], &[true, false, true]),
        ] {
            assert_eq!(passed(&mut copies(), now, sides), expected, "{sides:?}");
        }
    }

    #[test]
    fn a_copy_is_forgotten_after_its_time_and_of_another_session_it_is_another_one() {
        let (mut copies, now) = (copies(), Instant::now());
        assert_eq!(passed(&mut copies, now, &[Side::Mesh]), [true]);
        let digest = copies.digest(&SEQ, FrameRef::Slice(b"x"));
        let other = LinkKey { index: 1, generation: 2 };
        assert!(!copies.is_known(other, digest, Side::Ledger));
        copies.note(now + COPIES_TIME, other, digest, Side::Mesh, COPIES_MAX);
        assert_eq!(passed(&mut copies, now + COPIES_TIME, &[Side::Ledger]), [true]);
        assert_eq!(copies.known.len(), 2);
    }

    #[test]
    fn there_are_no_more_than_their_bound_and_the_oldest_go_first() {
        let (mut copies, now) = (copies(), Instant::now());
        let mut forgotten = 0;
        for number in 0..COPIES_MAX as u64 + 3 {
            let at = now + Duration::from_micros(number);
            forgotten += copies.note(at, SESSION, Digest(number), Side::Mesh, COPIES_MAX);
        }
        assert_eq!((forgotten, copies.known.len()), (3, COPIES_MAX));
        assert!(!copies.is_known(SESSION, Digest(2), Side::Ledger));
        assert!(copies.is_known(SESSION, Digest(3), Side::Ledger));
    }
}
