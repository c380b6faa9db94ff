//! What a shard and the registry tell about themselves when asked: for people, not for routing.

use std::time::Instant;

use super::{LinkKey, ReactorId, SessionId};
use crate::wire::NodeId;

/// One link of a shard.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// Which link.
    pub key: LinkKey,
    /// Since when.
    pub since: Instant,
    /// The peer's `ip:port`.
    pub address: String,
    /// Who the peer is.
    pub peer: PeerReport,
}

/// Who is at the other end of a link.
#[derive(Clone, Debug)]
pub enum PeerReport {
    /// An application.
    Session {
        /// Its number.
        id: SessionId,
        /// Subject of its certificate.
        subject: String,
        /// Topics that it subscribes to.
        topics: usize,
        /// Its requests that wait for their answer.
        pending_requests: usize,
        /// Pushes to it that wait for their answer.
        pending_pushes: usize,
    },
    /// Another node.
    Node {
        /// Its id.
        id: NodeId,
        /// Whether this end dialled.
        dialed: bool,
        /// How far the link got.
        state: NodeLinkState,
    },
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
    /// Which life of it.
    pub incarnation: u64,
    /// Since when it is a neighbour in this life.
    pub since: Instant,
    /// Topics with subscribers there, as far as its state has come.
    pub topics: usize,
}
