//! What neighbours say that they have of a record, and what is asked of whom.
//!
//! # Invariants
//! - For one record one request is under way, and at most [`WANTS_MAX`] are at one neighbour.
//! - How many are at a neighbour follows from those that are under way: one that ends, however, leaves nothing behind.
//! - Whoever let a request end in nothing is asked again only when nobody else has failed less often.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ahash::RandomState;
use smallvec::SmallVec;

use crate::{
    relay::expiring_map::ExpiringMap,
    wire::{NodeId, state::Version},
};

/// After so long without a reply something is asked of another neighbour, or again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests to one neighbour that are under way.
pub(super) const WANTS_MAX: usize = 32;
/// Neighbours that are noted as having something newer of one record.
const OFFERS_MAX: usize = 8;
/// Requests that end in nothing before a neighbour's offer is forgotten; it may make it again.
const FAILURES_MAX: u8 = 3;

/// The requests that are under way.
pub(super) struct Requests {
    /// By the record that they are about: of whom.
    open: ExpiringMap<NodeId, NodeId>,
    /// How many are at each neighbour; never 0.
    counts: BTreeMap<NodeId, usize>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self { open: ExpiringMap::new(REQUEST_TIMEOUT, RandomState::new()), counts: BTreeMap::new() }
    }

    /// Whether one more may go to a neighbour.
    pub(super) fn has_room(&self, neighbour: &NodeId) -> bool {
        self.counts.get(neighbour).is_none_or(|count| *count < WANTS_MAX)
    }

    /// For checks: those that are under way, the same by their time, and by who is asked.
    pub(super) fn counted(&self) -> (usize, usize, usize) {
        let (open, in_time) = self.open.counted();
        (open, in_time, self.counts.values().sum())
    }

    /// Of whom a record is asked now.
    pub(super) fn asked(&self, origin: &NodeId) -> Option<&NodeId> {
        self.open.get(origin)
    }

    /// A neighbour is asked for a record that nobody is asked for.
    pub(super) fn begin(&mut self, now: Instant, origin: NodeId, neighbour: NodeId) {
        debug_assert!(self.asked(&origin).is_none() && self.has_room(&neighbour));
        self.end(&origin);
        self.open.insert(now, origin, neighbour);
        *self.counts.entry(neighbour).or_default() += 1;
    }

    /// The request for a record is over; gives whom it was made of.
    pub(super) fn end(&mut self, origin: &NodeId) -> Option<NodeId> {
        let neighbour = self.open.remove(origin)?;
        self.discount(&neighbour);
        Some(neighbour)
    }

    fn discount(&mut self, neighbour: &NodeId) {
        if let Some(count) = self.counts.get_mut(neighbour) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(neighbour);
            }
        }
    }

    /// All requests of a neighbour are over; gives the records that they were about.
    pub(super) fn end_all_of(&mut self, neighbour: &NodeId) -> Vec<NodeId> {
        if !self.counts.contains_key(neighbour) {
            return Vec::new();
        }
        let ended = self.open.iter().filter(|(_, asked)| *asked == neighbour);
        let ended: Vec<NodeId> = ended.map(|(origin, _)| *origin).collect();
        for origin in &ended {
            self.end(origin);
        }
        ended
    }

    /// Ends the oldest request if it was not answered in time; gives what it was about, and whom it was made of.
    pub(super) fn end_late(&mut self, now: Instant) -> Option<(NodeId, NodeId)> {
        let (origin, neighbour) = self.open.pop_expired(now)?;
        self.discount(&neighbour);
        Some((origin, neighbour))
    }

    /// When the next one is late.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.open.deadline()
    }
}

/// Neighbours that say that they have something newer of one record.
#[derive(Default)]
pub(super) struct Offers(SmallVec<[Offer; 1]>);

struct Offer {
    neighbour: NodeId,
    version: Version,
    /// Requests to it for this record that ended in nothing.
    failures: u8,
}

impl Offers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A neighbour says that it has this version.
    pub(super) fn note(&mut self, neighbour: &NodeId, version: &Version) {
        let failures = self.find(neighbour).map_or(0, |offer| offer.failures);
        self.forget(neighbour);
        if self.0.len() >= OFFERS_MAX {
            self.0.remove(0);
        }
        self.0.push(Offer { neighbour: *neighbour, version: *version, failures });
    }

    pub(super) fn forget(&mut self, neighbour: &NodeId) {
        self.0.retain(|offer| offer.neighbour != *neighbour);
    }

    /// Keeps those of versions that are wanted.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Version) -> bool) {
        self.0.retain(|offer| is_wanted(&offer.version));
    }

    /// A request to a neighbour ended in nothing.
    pub(super) fn note_failure(&mut self, neighbour: &NodeId) {
        if let Some(offer) = self.find(neighbour) {
            offer.failures += 1;
            if offer.failures >= FAILURES_MAX {
                self.forget(neighbour);
            }
        }
    }

    /// A request to a neighbour brought something.
    pub(super) fn note_success(&mut self, neighbour: &NodeId) {
        if let Some(offer) = self.find(neighbour) {
            offer.failures = 0;
        }
    }

    /// Whom to ask of those that can be asked: who has failed least often, of those who has the newest.
    pub(super) fn best(&self, can_be_asked: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        let offers = self.0.iter().filter(|offer| can_be_asked(&offer.neighbour));
        let best = offers.max_by_key(|Offer { version, failures, .. }| {
            (std::cmp::Reverse(*failures), version.incarnation, version.seq)
        });
        best.map(|offer| offer.neighbour)
    }

    fn find(&mut self, neighbour: &NodeId) -> Option<&mut Offer> {
        self.0.iter_mut().find(|offer| offer.neighbour == *neighbour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> NodeId {
        NodeId([number; 64])
    }

    fn version(seq: u64) -> Version {
        Version { origin: id(9), incarnation: 1, seq }
    }

    #[test]
    fn a_request_that_ends_in_any_way_gives_its_place_back() {
        let now = Instant::now();
        let mut requests = Requests::new();
        for round in 0..3 {
            for origin in 0..WANTS_MAX as u8 {
                assert!(requests.has_room(&id(200)), "round {round}, request {origin}");
                requests.begin(now, id(origin), id(200));
            }
            assert!(!requests.has_room(&id(200)) && requests.has_room(&id(201)));
            match round {
                0 => (0..WANTS_MAX as u8)
                    .for_each(|origin| assert_eq!(requests.end(&id(origin)), Some(id(200)))),
                1 => assert_eq!(requests.end_all_of(&id(200)).len(), WANTS_MAX),
                _ => {
                    assert_eq!(requests.next_late(), Some(now + REQUEST_TIMEOUT));
                    assert_eq!(requests.end_late(now + REQUEST_TIMEOUT - Duration::from_nanos(1)), None);
                    while requests.end_late(now + REQUEST_TIMEOUT).is_some() {}
                }
            }
            assert!(requests.open.is_empty() && requests.counts.is_empty());
            assert_eq!(requests.next_late(), None);
        }
    }

    #[test]
    fn who_fails_is_asked_after_those_who_do_not_and_is_forgotten_in_the_end() {
        let mut offers = Offers::default();
        offers.note(&id(1), &version(9));
        offers.note(&id(2), &version(5));
        assert_eq!(offers.best(|_| true), Some(id(1)), "it has the newest");
        assert_eq!(offers.best(|neighbour| *neighbour != id(1)), Some(id(2)), "it can be asked");
        offers.note_failure(&id(1));
        assert_eq!(offers.best(|_| true), Some(id(2)));
        // Saying so again changes nothing.
        offers.note(&id(1), &version(11));
        assert_eq!(offers.best(|_| true), Some(id(2)));
        offers.note_failure(&id(2));
        assert_eq!(offers.best(|_| true), Some(id(1)));
        offers.note_success(&id(2));
        assert_eq!(offers.best(|_| true), Some(id(2)));
        (1..FAILURES_MAX).for_each(|_| offers.note_failure(&id(1)));
        assert_eq!(offers.best(|neighbour| *neighbour == id(1)), None);
        assert_eq!(offers.best(|neighbour| *neighbour == id(2)), Some(id(2)));
    }
}
