//! What passes between this node and nodes of FISCO BCOS 2.x (INTEROP §2): its times and bounds, and what the parts of a node tell
//! each other of it.

use std::time::Duration;

use crate::wire::{MessageNumber, ResultCode, Topic};

/// How often each end says what the number of its list of topics is. Nothing else shows that it lives.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A node that has missed two of those gets nothing new until it says something; what it was sent is tried elsewhere.
pub const SILENT_AFTER: Duration = Duration::from_secs(11);
/// A link without a byte for so long is closed.
pub const DEAD_AFTER: Duration = Duration::from_secs(60);
/// How long such a node may take to answer a unicast: it tries its own sessions one after the other, 5 s each.
pub const PUSH_TIMEOUT: Duration = Duration::from_secs(30);
/// A request for the list of topics that is not answered is made again after so long.
pub const REQUEST_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The list of one node is asked for so often at most, however often it says that it has another one.
pub const REQUEST_PAUSE: Duration = Duration::from_millis(250);
/// Lists that one node is given in a second.
pub const LISTS_PER_SECOND_MAX: u32 = 4;
/// Topics that are taken of one node.
pub const TOPICS_MAX: usize = 10_000;
/// Topics of all such nodes whose home is one reactor.
pub const TOPICS_IN_ALL_MAX: usize = 65_536;
/// Route topics and markers of private topics that are taken of one node.
pub const PRIVATE_TOPICS_MAX: usize = 256;
/// Topics that such nodes are told of.
pub const ANNOUNCED_MAX: usize = 10_000;
/// Copies of one multicast that come two ways within so long are one message: by two gateways, or by the mesh and a session's
/// ledger node. INTEROP §1.3 and §2.2 have 10 s, but between nodes a message may be kept for longer: until a link is found dead,
/// and for the time that a node without a route is remembered, which is 10 s itself.
pub const COPIES_TIME: Duration = Duration::from_secs(30);
/// The code that they answer with where a session was silent or left, or has gone: it is in no document (WIRE §8).
pub const NO_ANSWER: ResultCode = ResultCode(104);
/// Multicasts of such nodes that are known again.
pub const REMEMBERED_MAX: usize = 65_536;
/// Longest frame that such a node takes, in bytes.
pub const FRAME_LEN_MAX: usize = 100 << 20;

/// Whether a unicast goes to a node of FISCO BCOS 2.x among the subscribers of the reactor that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw2x {
    /// It is as likely as a session.
    Equally,
    /// One was drawn and is paid for: sessions are tried after these.
    First,
    /// A session was drawn: these, which are not paid for, are tried after the sessions.
    Last,
    /// To none, for one of these sent it.
    Never,
}

/// Who has sent a multicast: to which nodes of FISCO BCOS 2.x it goes from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MulticastFrom {
    /// An application at this node: to all that it acts for.
    Session,
    /// Another node: to those that this one acts for for others, too.
    Node,
    /// One of these: to none.
    Node2x,
}

/// What is known of a multicast beside its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MulticastOf {
    /// Its number at this node.
    pub message: MessageNumber,
    /// If a node of FISCO BCOS 2.x sent it, the first bytes of that one's id.
    pub from_2x: Option<u64>,
}

impl MulticastOf {
    /// One of an application here.
    pub fn session(message: MessageNumber) -> Self {
        Self { message, from_2x: None }
    }
}

/// What the home of a node of FISCO BCOS 2.x tells the registry of it.
#[derive(Clone, Debug)]
pub enum News {
    /// It is linked.
    Up {
        /// Its address, for `getPeers`.
        address: String,
        /// The organisation in its certificate.
        agency: String,
        /// The common name in its certificate.
        name: String,
    },
    /// Its topics are known, as far as there are any.
    Settled,
    /// Some that messages go there for came or went: each once, with 1 or -1.
    Topics(Vec<(Topic, i32)>),
    /// It is linked no more. Its topics were taken off before.
    Down,
}
