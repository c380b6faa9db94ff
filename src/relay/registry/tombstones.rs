//! How far the records of nodes were that are gone, and their announcements, so that nobody brings older ones in their names.
//!
//! A node may be away for as long as it likes, so no time ends this; only a bound does. Whoever invents nodes could have others
//! forgotten by it. So those go first that the lists leave out, and then those that were known for the shortest time:
//! as only so many are known at once, it takes invented nodes many times as long as a node was known to have that one
//! forgotten.
//!
//! # Invariants
//! - What is told of a node never goes back while it is remembered.
//! - The order names exactly those that are remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::record::version_of;
use crate::wire::{
    NodeId,
    state::{Head, Version},
};

/// Nodes that are gone of which it is remembered how far they were.
pub(in crate::relay) const TOMBSTONES_MAX: usize = 16_384;

/// What is remembered of a node.
#[derive(Clone)]
pub(super) struct Tombstone {
    /// The last of its record.
    pub(super) head: Head,
    /// IncarnationId and number of its last announcement.
    pub(super) announced: Option<(u64, u64)>,
    rank: Rank,
}

/// Who is remembered rather: whom the lists admit, and who was known for longer.
type Rank = (bool, Duration);

/// Memory of one, in bytes.
pub(in crate::relay) const TOMBSTONE_LEN: usize =
    2 * (size_of::<(NodeId, Tombstone)>() + size_of::<(Rank, NodeId)>());

impl Tombstone {
    pub(super) fn version(&self) -> Version {
        version_of(&self.head)
    }
}

pub(super) struct Tombstones {
    max: usize,
    of: BTreeMap<NodeId, Tombstone>,
    order: BTreeSet<(Rank, NodeId)>,
}

impl Tombstones {
    /// None yet, and so many at most.
    pub(super) fn new(max: usize) -> Self {
        Self { max, of: BTreeMap::new(), order: BTreeSet::new() }
    }

    pub(super) fn get(&self, id: &NodeId) -> Option<&Tombstone> {
        self.of.get(id)
    }

    /// For checks: how many there are, and how many have a rank.
    pub(super) fn counted(&self) -> (usize, usize) {
        (self.of.len(), self.order.len())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// A node is gone that the lists admit, or not, and that was known for so long since it was gone last. Gives whether
    /// another one, or this one, was forgotten for it.
    pub(super) fn bury(
        &mut self,
        head: Head,
        announced: Option<(u64, u64)>,
        is_admitted: bool,
        known_for: Duration,
    ) -> bool {
        let id = head.origin;
        let mut tombstone = Tombstone { head, announced, rank: (is_admitted, known_for) };
        if let Some(before) = self.of.remove(&id) {
            self.order.remove(&(before.rank, id));
            tombstone.rank.1 += before.rank.1;
            tombstone.announced = tombstone.announced.max(before.announced);
            let place = |tombstone: &Tombstone| (tombstone.head.incarnation, tombstone.head.seq);
            if place(&before) > place(&tombstone) {
                tombstone.head = before.head;
            }
        }
        self.order.insert((tombstone.rank, id));
        self.of.insert(id, tombstone);
        let is_too_many = self.of.len() > self.max;
        if is_too_many && let Some((_, least)) = self.order.pop_first() {
            self.of.remove(&least);
        }
        debug_assert_eq!(self.of.len(), self.order.len());
        is_too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> NodeId {
        let mut id = [0; 64];
        id[..8].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    fn head(number: u64, incarnation: u64, seq: u64) -> Head {
        Head {
            origin: id(number),
            incarnation,
            seq,
            previous: [0; 32],
            changes_hash: [0; 32],
            root: [0; 32],
            signature: [0; 64],
        }
    }

    fn full(known_for: Duration) -> Tombstones {
        let mut tombstones = Tombstones::new(TOMBSTONES_MAX);
        for number in 0..TOMBSTONES_MAX as u64 {
            assert!(!tombstones.bury(head(number, 1, 1), None, true, known_for));
        }
        tombstones
    }

    #[test]
    fn who_was_known_for_long_or_is_admitted_is_not_forgotten_for_others() {
        let second = Duration::from_secs(1);
        let mut tombstones = full(second);
        assert!(tombstones.bury(head(1 << 32, 1, 1), None, true, 60 * second), "one is forgotten for it");
        tombstones.bury(head(2 << 32, 1, 1), None, false, 3_600 * second);
        assert_eq!(tombstones.len(), TOMBSTONES_MAX);
        assert!(tombstones.get(&id(1 << 32)).is_some());
        assert!(tombstones.get(&id(2 << 32)).is_none(), "whom the lists leave out is the first to go");
        for number in 0..2 * TOMBSTONES_MAX as u64 {
            tombstones.bury(head(3 << 32 | number, u64::MAX, 1), None, true, 59 * second);
        }
        assert_eq!(tombstones.len(), TOMBSTONES_MAX);
        assert!(tombstones.get(&id(1 << 32)).is_some());
    }

    #[test]
    fn what_is_remembered_of_a_node_never_goes_back_and_its_times_are_added_up() {
        let second = Duration::from_secs(1);
        let mut tombstones = full(10 * second);
        let node = 1 << 32;
        tombstones.bury(head(node, 5, 7), Some((5, 2)), true, 20 * second);
        for (incarnation, seq) in [(5, 6), (4, 9)] {
            tombstones.bury(head(node, incarnation, seq), None, true, 20 * second);
            let remembered = tombstones.get(&id(node)).unwrap();
            assert_eq!((remembered.version().incarnation, remembered.version().seq), (5, 7));
            assert_eq!(remembered.announced, Some((5, 2)));
        }
        (0..TOMBSTONES_MAX as u64).for_each(|number| {
            tombstones.bury(head(2 << 32 | number, 1, 1), None, true, 59 * second);
        });
        assert!(tombstones.get(&id(node)).is_some());
        (0..TOMBSTONES_MAX as u64).for_each(|number| {
            tombstones.bury(head(3 << 32 | number, 1, 1), None, true, 61 * second);
        });
        assert!(tombstones.get(&id(node)).is_none());
    }
}
