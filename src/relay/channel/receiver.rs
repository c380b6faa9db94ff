//! What comes from another node.

use std::{collections::BTreeMap, time::Instant};

use super::ChannelNumber;
use crate::{
    relay::sealing::Subject,
    wire::{RetainedFrame, node::Numbers},
};

/// Messages of one node that wait in the reorder buffer for those before them.
pub(in crate::relay) const REORDER_MESSAGES_MAX: usize = 4_096;

/// A message of the other end that came before its turn, or whose turn it is.
#[derive(Debug)]
pub(in crate::relay) struct Arrival {
    pub(in crate::relay) subject: Subject,
    /// Extensions and frame; empty in the place of one that is not wanted any more.
    pub(in crate::relay) payload: RetainedFrame,
    /// When it came.
    pub(in crate::relay) since: Instant,
}

impl Arrival {
    fn cost(&self) -> usize {
        self.payload.len() + size_of::<Self>() + 64
    }
}

/// What becomes of a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Verdict {
    /// It is its turn, and nothing else waits. It counts as taken.
    InTurn,
    /// It belongs in the reorder buffer, from which [`Receiver::pop_ready`] gives those whose turn it is then.
    Early,
    /// It came before.
    Duplicate,
    /// Its numbers contradict each other.
    Malformed,
}

/// The receiver's half of a channel.
///
/// # Invariants
/// - Nothing below `expected` is taken again.
/// - `reorder_bytes` is the memory of the reorder buffer.
pub(in crate::relay) struct Receiver {
    /// All below were taken.
    expected: ChannelNumber,
    /// By place. Only until [`Self::pop_ready`] has given them, some are below `expected`.
    reorder_buffer: BTreeMap<ChannelNumber, Arrival>,
    reorder_bytes: usize,
}

impl Receiver {
    /// All below `expected` were taken.
    pub(in crate::relay) fn new(expected: ChannelNumber) -> Self {
        Self { expected, reorder_buffer: BTreeMap::new(), reorder_bytes: 0 }
    }

    /// All messages of the other end below this were taken.
    pub(in crate::relay) fn taken_below(&self) -> ChannelNumber {
        self.expected
    }

    /// Memory of the reorder buffer.
    pub(in crate::relay) fn bytes(&self) -> usize {
        self.reorder_bytes
    }

    /// For checks: what is counted wrongly.
    pub(in crate::relay) fn miscount(&self) -> Option<String> {
        let anew = self.reorder_buffer.values().map(Arrival::cost).sum::<usize>();
        (self.reorder_bytes != anew)
            .then(|| format!("{} bytes in a reorder buffer are counted, not {anew}", self.reorder_bytes))
    }

    /// Whether a message with these numbers did not come before.
    pub(in crate::relay) fn is_new(&self, numbers: &Numbers) -> bool {
        let place = ChannelNumber(numbers.place);
        place >= self.expected && !self.reorder_buffer.contains_key(&place)
    }

    /// A message came with these numbers.
    #[inline]
    pub(in crate::relay) fn judge(&mut self, numbers: &Numbers) -> Verdict {
        let (place, least) = (ChannelNumber(numbers.place), ChannelNumber(numbers.least));
        // Beyond the highest nothing could be counted.
        if least > place || place.is_last() {
            return Verdict::Malformed;
        }
        // What is below it was taken, or is not to come any more.
        self.expected = self.expected.max(least);
        if place == self.expected && self.reorder_buffer.is_empty() {
            self.expected = place.next();
            return Verdict::InTurn;
        }
        match place < self.expected || self.reorder_buffer.contains_key(&place) {
            true => Verdict::Duplicate,
            false => Verdict::Early,
        }
    }

    /// Puts a message in the reorder buffer, which may take so many bytes of those that are before their turn. `false` if there
    /// is no room.
    pub(in crate::relay) fn keep(
        &mut self,
        place: ChannelNumber,
        arrival: Arrival,
        bytes_max: usize,
    ) -> bool {
        let has_room = place == self.expected
            || (self.reorder_buffer.len() < REORDER_MESSAGES_MAX
                && self.reorder_bytes + arrival.cost() <= bytes_max);
        if has_room {
            self.reorder_bytes += arrival.cost();
            let before = self.reorder_buffer.insert(place, arrival);
            debug_assert!(before.is_none(), "a place is in the reorder buffer twice");
        }
        has_room
    }

    /// Takes the next message out of the reorder buffer whose turn it is.
    pub(in crate::relay) fn pop_ready(&mut self) -> Option<Arrival> {
        let first = self.reorder_buffer.first_entry()?;
        if *first.key() > self.expected {
            return None;
        }
        self.expected = self.expected.max(first.key().next());
        let arrival = first.remove();
        self.reorder_bytes -= arrival.cost();
        Some(arrival)
    }
}
