//! What the applications write down, and what the script says that it did.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A unicast on a topic that only this node has a subscriber of.
    One(usize),
    /// A unicast on a topic that all subscribers share.
    Any,
    /// A multicast to all subscribers, the publisher among them if it is one.
    All,
}

/// What a message holds; spaces follow up to its length.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// The publisher's node.
    pub publisher: usize,
    /// Of all that the publisher sends, from 0.
    pub number: u64,
    pub kind: Kind,
    /// When the schedule has it.
    pub due: u64,
}

/// A line of an application's account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A message has been sent, and its answer is here.
    Asked {
        #[serde(flatten)]
        message: Payload,
        code: i32,
        answered: u64,
        /// The node whose subscriber answered.
        answerer: Option<usize>,
    },
    /// A message has come. In the order of their coming.
    Got {
        receiver: usize,
        #[serde(flatten)]
        message: Payload,
        got: u64,
    },
}

/// A part of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// What was done to the network; nothing if it is [`QUIET`].
    pub name: String,
    /// Messages that are due from here …
    pub begin: u64,
    /// … to here belong to it.
    pub end: u64,
    /// Nodes that were killed.
    pub dead: Vec<usize>,
    /// For so long that the nodes had to notice it, no route led from some publishers to some subscribers.
    pub cut_off: bool,
}

/// Name of phases in which nothing is done.
pub(crate) const QUIET: &str = "quiet";

/// A run: a network, and what was done to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timeline {
    pub topology: String,
    pub nodes: usize,
    pub links: usize,
    pub publishers: Vec<usize>,
    pub subscribers: Vec<usize>,
    /// Messages of each publisher in a second.
    pub rate: u32,
    pub payload: usize,
    /// The machine's load in the minute before the run and in its last one, and its processors.
    pub load_before: f64,
    pub load_after: f64,
    pub processors: usize,
    pub kernel: String,
    pub phases: Vec<Phase>,
    /// What went wrong with the nodes themselves.
    pub troubles: Vec<String>,
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
