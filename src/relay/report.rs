//! What a shard and the registry tell about themselves when asked: for people, not for routing.

use std::time::{Duration, Instant};

use super::{LinkKey, ReactorId, SessionId};
use crate::wire::{NodeId, state::Entries};

/// Some of a reactor's links.
#[derive(Clone, Debug)]
pub struct LinkPage {
    /// Those that there are.
    pub links: Vec<LinkReport>,
    /// Where to go on asking, if there are more.
    pub next: Option<u32>,
}

/// One link, as it is now.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// The reactor that owns it.
    pub reactor: ReactorId,
    /// Which link.
    pub key: LinkKey,
    /// Since when.
    pub since: Instant,
    /// The peer's `ip:port`.
    pub address: String,
    /// Who the peer is.
    pub peer: PeerReport,
    /// What passes over it. A shard does not know: whoever owns the sockets says it.
    pub load: LinkLoad,
}

/// What passes over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkLoad {
    /// Bytes that are not sent yet.
    pub queued_bytes: usize,
    /// Whether it is being closed.
    pub is_ending: bool,
    /// Frames that have come since it came up.
    pub received_frames: u64,
    /// Bytes that have come, as TLS records.
    pub received_bytes: u64,
    /// Frames that were taken to be sent.
    pub sent_frames: u64,
    /// Bytes sent, as TLS records.
    pub sent_bytes: u64,
}

/// Who is at the other end of a link.
#[derive(Clone, Debug)]
pub enum PeerReport {
    /// An application.
    Session(SessionReport),
    /// Another node.
    Node {
        /// Its id.
        id: NodeId,
        /// The organisation in its certificate.
        agency: String,
        /// The common name in its certificate.
        name: String,
        /// Whether this end dialled.
        dialed: bool,
        /// How far the link got.
        state: NodeLinkState,
        /// How long a frame takes there and back, once it was measured.
        round_trip: Option<RoundTripReport>,
    },
    /// A node of FISCO BCOS 2.x.
    Node2x(Peer2xReport),
    /// A ledger node.
    Ledger {
        /// Which one, of those that are configured.
        node: u16,
        /// The session that it is for.
        session: SessionId,
        /// How far the connection got.
        state: LedgerState,
        /// What that session asked over it, and waits for.
        pending_requests: usize,
    },
}

/// A node of FISCO BCOS 2.x that is linked.
#[derive(Clone, Debug)]
pub struct Peer2xReport {
    /// Its id.
    pub id: NodeId,
    /// The session as which it gets messages.
    pub session: SessionId,
    /// The organisation in its certificate.
    pub agency: String,
    /// The common name in its certificate.
    pub name: String,
    /// Whether this end dialled.
    pub dialed: bool,
    /// Whether this node is its gateway.
    pub is_gateway: bool,
    /// Whether it has said nothing for so long that messages go elsewhere.
    pub is_silent: bool,
    /// Topics that it has told.
    pub topics: usize,
    /// Its requests that wait for their answer.
    pub pending_requests: usize,
    /// What it was sent and has not answered.
    pub pending_pushes: usize,
    /// Copies of multicasts that the link had no room for.
    pub dropped_copies: u64,
}

/// The session of an application.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Its number.
    pub id: SessionId,
    /// Subject of its certificate.
    pub subject: String,
    /// Whether it is an application of FISCO BCOS 3.x.
    pub is_3x: bool,
    /// Topics that it subscribes to.
    pub topics: usize,
    /// Its requests that wait for their answer.
    pub pending_requests: usize,
    /// Pushes to it that wait for their answer.
    pub pending_pushes: usize,
    /// Requests that wait for room in its queue.
    pub waiting_requests: usize,
    /// Copies of multicasts that its full queue had no room for.
    pub dropped_copies: u64,
    /// What it has to do with the ledger, if there is one.
    pub ledger: Option<SessionLedgerReport>,
}

/// What a session has to do with the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionLedgerReport {
    /// Its connection to a ledger node.
    pub state: LedgerState,
    /// Requests that wait for a ledger node or its answer.
    pub pending_requests: usize,
    /// Event filters that are open.
    pub filters: usize,
    /// Its topics that its ledger node knows now.
    pub topics: usize,
}

/// How far a session's connection to a ledger node got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LedgerState {
    /// Nothing needs one.
    #[default]
    Idle,
    /// It is being made.
    Dialling,
    /// It is made again after a pause.
    Pausing,
    /// The ledger node has not answered the handshake of the session.
    Greeting,
    /// It carries all that is for the ledger.
    Up,
}

/// The round-trip time of a node link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTripReport {
    /// As it was measured last.
    pub last: Duration,
    /// Smoothed over about the last eight.
    pub smoothed: Duration,
}

/// How far a node link got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLinkState {
    /// The peer has not said Hello.
    Greeting,
    /// It carries everything between the two nodes.
    Active,
    /// Another link to the same node does.
    Spare,
}

/// A neighbour of the node.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Its id.
    pub id: NodeId,
    /// Its `ip:port`.
    pub address: String,
    /// The organisation in its certificate.
    pub agency: String,
    /// The common name in its certificate.
    pub name: String,
    /// The reactor that is its home.
    pub reactor: ReactorId,
    /// Which incarnation of it.
    pub incarnation: u64,
    /// Since when it is a neighbour in this incarnation.
    pub since: Instant,
    /// Topics with subscribers there, as far as its state has come.
    pub topics: usize,
}

/// All nodes that a node knows.
#[derive(Clone)]
pub struct NetworkReport {
    /// The node that tells first, the others by their id.
    pub nodes: Vec<KnownReport>,
    /// What was announced, the latest first.
    pub announcements: Vec<AnnouncementReport>,
}

/// A node of the network, as another one knows it by its record.
#[derive(Clone)]
pub struct KnownReport {
    /// Its id.
    pub id: NodeId,
    /// Whether and how it is reached.
    pub standing: Reachability,
    /// The neighbours with which the shortest routes to it begin.
    pub next_hops: Vec<NodeId>,
    /// Whether frames for its subscribers go to it.
    pub is_routed: bool,
    /// Whether the lists admit it.
    pub is_admitted: bool,
    /// Which incarnation of it.
    pub incarnation: u64,
    /// The last step of its record that is known; 0 before its record came.
    pub seq: u64,
    /// What its certificate and its link say; `None` unless it is a neighbour.
    pub label: Option<NodeLabel>,
    /// What it says of itself: topics, neighbours. Shared with the registry.
    pub entries: Entries,
}

/// Whether and how a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// The node that tells.
    Own,
    /// Over so many links.
    Reachable {
        /// 1 for a neighbour.
        hops: u8,
    },
    /// Links lead to it, but they are too many, or only go through nodes that pass nothing on.
    OutOfReach,
    /// No links lead to it.
    Lost {
        /// Since when.
        since: Instant,
    },
}

/// What is known of a neighbour beside its record.
#[derive(Clone, Debug)]
pub struct NodeLabel {
    /// Its `ip:port`.
    pub address: String,
    /// The organisation in its certificate.
    pub agency: String,
    /// The common name in its certificate.
    pub name: String,
}

/// What a node has announced to all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementReport {
    /// The node that announced it: it has signed this.
    pub origin: NodeId,
    /// Which incarnation of it.
    pub incarnation: u64,
    /// Its number in that incarnation.
    pub number: u64,
    /// The organisation in the origin's certificate; empty unless it is this node or a neighbour.
    pub agency: String,
    /// The common name in the origin's certificate; likewise.
    pub name: String,
    /// When it came here.
    pub taken: Instant,
    /// What it says: one line, with whatever characters but controls.
    pub text: String,
}
