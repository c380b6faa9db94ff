//! Pings: frames that find out the route to another node, and how long it takes.

use std::time::Duration;

use crate::wire::{NodeId, private::PathEnd};

/// Pings that one reactor may have open.
pub const PINGS_MAX: usize = 256;
/// Pings of one node that are answered in a second, be it the destination that answers or a node where their path ends.
pub const ANSWERS_PER_SECOND_MAX: u32 = 64;
/// How long the answer to one is waited for.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// What became of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingEnd {
    /// Its destination has answered.
    Answered,
    /// A node on the path says that it did not get further.
    Ended {
        /// Who says so.
        by: NodeId,
        /// Why.
        why: PathEnd,
    },
    /// Nobody has answered within [`ANSWER_TIME_MAX`].
    Silent,
    /// This node knows no route to its destination.
    NoRoute,
    /// Too many pings are open.
    TooMany,
}

/// A ping that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinged {
    /// The number that it had.
    pub number: u64,
    /// What became of it.
    pub end: PingEnd,
    /// How long that took.
    pub round_trip: Duration,
}

/// Where a ping of this node has ended, as another one tells it.
#[derive(Clone, Copy, Debug)]
pub struct PathEnded {
    /// Number of the frame that was the ping.
    pub seq: u32,
    /// Why.
    pub why: PathEnd,
    /// The first 8 bytes of its destination's id.
    pub destination: u64,
    /// The end of the frame.
    pub tag: [u8; 16],
}
