//! A table that forgets each entry after a time. Nearly all entries have the same time, so the order in which they are
//! forgotten is that in which they came.
//!
//! It has no bound of its own: whoever puts something in looks first whether it [is full](ExpiringMap::is_full) and refuses, or
//! takes out [the oldest](ExpiringMap::pop_oldest) afterwards, and counts either.
//!
//! # Invariants
//! - Each entry has one place in the order, by its time. Other places there are stale: of entries that were taken out, or put
//!   in anew. None of these comes first, so the first tells when the next one is forgotten.

use std::{
    collections::VecDeque,
    hash::Hash,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};

/// Entries by key, each until its time is over.
pub(super) struct ExpiringMap<K, V> {
    time: Duration,
    /// With the number of its place in the order.
    entries: AHashMap<K, (u64, V)>,
    /// Those that are forgotten first come first.
    order: VecDeque<Place<K>>,
    /// How many of these are of no entry any more.
    stale: usize,
    /// How many were put in.
    inserted: u64,
}

struct Place<K> {
    until: Instant,
    number: u64,
    key: K,
}

/// Memory of an entry, in bytes.
pub(super) const fn entry_len<K, V>() -> usize {
    size_of::<(K, (u64, V))>() + size_of::<Place<K>>()
}

impl<K: Copy + Eq + Hash, V> ExpiringMap<K, V> {
    /// Whose entries are kept for that time.
    pub(super) fn new(time: Duration, hashing: RandomState) -> Self {
        let entries = AHashMap::with_hasher(hashing);
        Self { time, entries, order: VecDeque::new(), stale: 0, inserted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether as many were put in as may be, those counted twice that were put in anew within the time.
    pub(super) fn is_full(&self, max: usize) -> bool {
        self.order.len() >= max
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// All of them, in the order in which they will be forgotten.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|place| {
            let (number, value) = self.entries.get(&place.key)?;
            (*number == place.number).then_some((&place.key, value))
        })
    }

    /// Puts one in, in the place of the one that is there, for the usual time. `now` never goes back between calls.
    pub(super) fn insert(&mut self, now: Instant, key: K, value: V) {
        self.insert_until(now + self.time, key, value);
    }

    /// The same for another time.
    pub(super) fn insert_until(&mut self, until: Instant, key: K, value: V) {
        self.inserted += 1;
        let replaced = self.entries.insert(key, (self.inserted, value));
        self.stale += usize::from(replaced.is_some());
        self.enter(until, key);
        self.drop_stale();
    }

    /// Gives the one that was put in last its place.
    #[inline]
    fn enter(&mut self, until: Instant, key: K) {
        let place = Place { until, number: self.inserted, key };
        if self.order.back().is_none_or(|last| last.until <= until) {
            self.order.push_back(place);
        } else {
            let index = self.order.partition_point(|other| other.until <= until);
            self.order.insert(index, place);
        }
    }

    /// Takes one out before its time.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (_, value) = self.entries.remove(key)?;
        self.stale += 1;
        self.drop_stale();
        if self.stale > self.entries.len() {
            let entries = &self.entries;
            self.order.retain(|place| is_current(entries, place));
            self.stale = 0;
        }
        Some(value)
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.stale = 0;
    }

    /// Takes out one whose time is over.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<(K, V)> {
        self.deadline().filter(|until| *until <= now)?;
        self.pop_oldest()
    }

    /// Takes out the one that would be forgotten next.
    pub(super) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let Place { key, .. } = self.order.pop_front()?;
        let (_, value) = self.entries.remove(&key)?;
        self.drop_stale();
        Some((key, value))
    }

    /// When the next one is forgotten.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|place| place.until)
    }

    /// Sees to it that the first place is of an entry.
    fn drop_stale(&mut self) {
        while self.stale > 0
            && let Some(place) = self.order.front()
            && !is_current(&self.entries, place)
        {
            self.order.pop_front();
            self.stale -= 1;
        }
    }

    /// For checks: entries, and those of them of which it is known when to forget them.
    pub(super) fn counted(&self) -> (usize, usize) {
        debug_assert!(self.order.iter().is_sorted_by_key(|place| place.until), "the order is by time");
        debug_assert_eq!(self.order.len(), self.entries.len() + self.stale, "all other places are stale");
        (self.entries.len(), self.iter().count())
    }
}

fn is_current<K: Eq + Hash, V>(entries: &AHashMap<K, (u64, V)>, place: &Place<K>) -> bool {
    entries.get(&place.key).is_some_and(|(number, _)| *number == place.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn map() -> (Instant, ExpiringMap<u32, char>) {
        (Instant::now(), ExpiringMap::new(MINUTE, RandomState::with_seeds(1, 2, 3, 4)))
    }

    fn expired(map: &mut ExpiringMap<u32, char>, now: Instant) -> Vec<(u32, char)> {
        std::iter::from_fn(|| map.pop_expired(now)).collect()
    }

    #[test]
    fn each_entry_is_forgotten_after_its_own_time_and_not_before() {
        let (start, mut map) = map();
        let second = Duration::from_secs(1);
        map.insert(start, 1, 'a');
        map.insert(start + second, 2, 'b');
        map.insert_until(start + 2 * second, 3, 'c');
        map.insert_until(start + 2 * MINUTE, 4, 'd');
        map.insert(start + 2 * second, 5, 'e');
        assert_eq!(map.deadline(), Some(start + 2 * second));
        assert_eq!(expired(&mut map, start + second), []);
        assert_eq!(expired(&mut map, start + MINUTE), [(3, 'c'), (1, 'a')]);
        assert_eq!(map.counted(), (3, 3));
        assert_eq!(expired(&mut map, start + 2 * MINUTE), [(2, 'b'), (5, 'e'), (4, 'd')]);
        assert_eq!((map.len(), map.deadline()), (0, None));
    }

    #[test]
    fn what_is_put_in_anew_is_kept_from_then_on_and_what_was_taken_out_ends_no_other() {
        let (start, mut map) = map();
        let second = Duration::from_secs(1);
        for key in 1..=3 {
            map.insert(start, key, 'a');
        }
        map.insert(start + second, 1, 'b');
        assert_eq!(map.remove(&3), Some('a'));
        assert_eq!(map.remove(&3), None);
        map.insert(start + 2 * second, 3, 'c');
        assert!(map.is_full(4), "all that takes memory counts");
        assert_eq!(map.counted(), (3, 3));
        assert_eq!(expired(&mut map, start + MINUTE), [(2, 'a')]);
        assert!(!map.is_full(3));
        assert_eq!(map.get(&3), Some(&'c'));
        assert_eq!(expired(&mut map, start + MINUTE + 2 * second), [(1, 'b'), (3, 'c')]);
    }

    #[test]
    fn the_oldest_goes_first() {
        let (start, mut map) = map();
        map.insert(start, 1, 'a');
        map.insert(start, 2, 'b');
        assert_eq!(map.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(map.pop_oldest(), Some((1, 'a')));
        map.insert(start + MINUTE / 2, 1, 'c');
        map.remove(&2);
        assert_eq!(map.deadline(), Some(start + MINUTE / 2 + MINUTE), "never that of one that is gone");
        assert_eq!(map.counted(), (1, 1));
    }

    #[test]
    fn what_is_taken_out_leaves_no_more_behind_than_there_is() {
        let (start, mut map) = map();
        map.insert(start, 0, 'a');
        for key in 1..10_000 {
            map.insert(start, key, 'b');
            map.remove(&key);
            assert!(!map.is_full(4), "{}", map.order.len());
        }
        assert_eq!(map.counted(), (1, 1));
    }

    #[test]
    fn it_agrees_with_a_list_whatever_is_done() {
        let (start, mut map) = map();
        let mut list: Vec<(Instant, u32, char)> = Vec::new();
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..20_000u64 {
            let now = start + Duration::from_secs(step / 4);
            let key = next(40) as u32;
            match next(4) {
                0 => {
                    map.insert(now, key, 'a');
                    list.retain(|(_, other, _)| *other != key);
                    list.push((now + MINUTE, key, 'a'));
                }
                1 => {
                    let until = now + Duration::from_secs(next(90));
                    map.insert_until(until, key, 'b');
                    list.retain(|(_, other, _)| *other != key);
                    list.push((until, key, 'b'));
                }
                2 => {
                    let is_new = list.iter().all(|(_, other, _)| *other != key);
                    assert_eq!(map.remove(&key).is_none(), is_new);
                    list.retain(|(_, other, _)| *other != key);
                }
                _ => {
                    let mut gone = expired(&mut map, now);
                    let mut over: Vec<_> = list.extract_if(.., |(until, ..)| *until <= now).collect();
                    gone.sort_unstable();
                    over.sort_unstable_by_key(|(_, key, value)| (*key, *value));
                    assert_eq!(gone, over.iter().map(|(_, key, value)| (*key, *value)).collect::<Vec<_>>());
                }
            }
            assert_eq!(map.counted(), (list.len(), list.len()));
            assert_eq!(map.deadline(), list.iter().map(|(until, ..)| *until).min());
        }
    }
}
