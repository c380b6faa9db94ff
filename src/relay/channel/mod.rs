//! The channel between two nodes (WIRE §6.3, §6.4): what one sends to the other is numbered, kept until it was acknowledged, and
//! taken once and in order, whatever routes it took. It is the only place where messages between nodes are kept, counted,
//! ordered and known again; links only carry.
//!
//! ```text
//!   X                                                        Y
//!   Sender: place 7 8 9 …  ── any link, any route, again ──►  Receiver: expects 7
//!           lets go of all   ◄── "taken below 10", on data ──           7, then 8, then 9
//!           below 10              or in an Ack of its own
//! ```
//!
//! The two halves know no clock of their own, no links and no keys. Each direction between two nodes has one of each.

mod receiver;
mod sender;

pub(in crate::relay) use receiver::{Arrival, REORDER_MESSAGES_MAX, Receiver, Verdict};
pub(in crate::relay) use sender::{Message, RETRANSMIT_JITTER, Sender};

#[cfg(test)]
mod tests;

/// The place of a message in the order of those from one node to another one; they have no gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::relay) struct ChannelNumber(pub(in crate::relay) u64);

impl ChannelNumber {
    #[must_use]
    pub(in crate::relay) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether none comes after it.
    fn is_last(self) -> bool {
        self.0 == u64::MAX
    }

    /// How many messages lie between it and an earlier one.
    fn since(self, earlier: Self) -> Option<usize> {
        self.0.checked_sub(earlier.0).map(|count| count as usize)
    }
}
