//! What reactors tell each other of private topics (WIRE §4).

use std::time::Duration;

use super::{ReactorId, SessionId};
use crate::wire::{NodeId, Topic, json::ChallengeToken};

/// A session's number as the subscriber of one private topic: a fresh one each time that it takes the
/// topic, so that who drops a topic takes nothing that it proved with it. Never reused within an
/// incarnation of the node. Its upper 16 bits name the reactor that owns the session. The next one says that the session is that of a
/// node of FISCO BCOS 2.x, which may hand messages to any session of its own: publishers' nodes go by it (docs/node-link.md 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(pub u64);

impl SubscriberId {
    const OF_2X: u64 = 1 << 47;

    /// The subscriber that a reactor has numbered so.
    pub(in crate::relay) fn new(reactor: ReactorId, number: u64, is_of_2x: bool) -> Self {
        debug_assert!(number < Self::OF_2X, "numbers of subscribers have run out");
        Self(u64::from(reactor.0) << 48 | if is_of_2x { Self::OF_2X } else { 0 } | number)
    }

    /// The reactor that owns the session.
    pub fn reactor(self) -> ReactorId {
        ReactorId((self.0 >> 48) as u16)
    }

    /// Whether the session is that of a node of FISCO BCOS 2.x.
    pub fn is_of_2x(self) -> bool {
        self.0 & Self::OF_2X != 0
    }
}

/// The subscribers that may get a message with a private topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients(pub Vec<SubscriberId>);

impl Recipients {
    /// Those that a node with so many reactors may have, in order and once each.
    pub(in crate::relay) fn from_numbers(numbers: &[u64], reactors: u16) -> Self {
        let numbers = numbers.iter().map(|&number| SubscriberId(number));
        let mut recipients: Vec<_> = numbers.filter(|number| number.reactor().0 < reactors).collect();
        recipients.sort_unstable();
        recipients.dedup();
        Self(recipients)
    }
}

/// One challenge of a publisher to a subscriber of a private topic (WIRE §4).
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The data topic.
    pub topic: Topic,
    /// Number of the minted route topic.
    pub number: u64,
    /// Names the challenge between the nodes and the publisher.
    pub token: ChallengeToken,
    /// Who is challenged.
    pub subscriber: SubscriberId,
    /// The publisher's session; if `node` is set, by that node's number.
    pub publisher: SessionId,
    /// The publisher's node, if it is another one.
    pub node: Option<NodeId>,
    /// How long it may be carried to the subscriber.
    pub open_for: Duration,
}
