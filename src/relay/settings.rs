//! Bounds and times of the relay, with the defaults of WIRE.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{ledger::Ledger, registry::NEIGHBOURS_MAX};
use crate::wire::NodeId;

/// Sessions of a node (WIRE §1.8), unless memory is little.
pub const SESSIONS_MAX: usize = 65_536;

/// How large the tables are that nobody sets: as large as their constants say, or a part of it where `[engine] memory_max`
/// leaves no room for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Of [`Self::WHOLE`].
    parts: usize,
}

impl Tables {
    /// As large as their constants say.
    pub const FULL: Self = Self { parts: Self::WHOLE };
    /// The parts of a whole table.
    pub const WHOLE: usize = 1024;
    /// No table is smaller than so many parts.
    const PARTS_MIN: usize = 16;

    /// So many parts of [`Self::WHOLE`], or as near to it as may be.
    pub fn of_parts(parts: usize) -> Self {
        Self { parts: parts.clamp(Self::PARTS_MIN, Self::WHOLE) }
    }

    /// How much a table holds that would hold `full`.
    pub const fn of(self, full: usize) -> usize {
        let part = full / Self::WHOLE * self.parts + full % Self::WHOLE * self.parts / Self::WHOLE;
        if part == 0 { 1 } else { part }
    }
}

/// The most that [`Settings::frame_len_max`] may be set to.
pub const FRAME_LEN_SETTABLE_MAX: usize = 1 << 30;
/// Bytes that a frame of a node link may have beyond the longest frame of an SDK link: header, tickets or extensions, seal.
pub const NODE_FRAME_ROOM: usize = crate::wire::frame::HEAD_LEN_MAX;
/// Longest frame with state in bytes (docs/node-link.md 7.1).
const STATE_FRAME_LEN_MAX: usize = super::shard::STATE_PAYLOAD_LEN_MAX + crate::wire::node::HEADER_LEN_MAX;

/// Everything about the relay that an operator may set, and the bounds that nobody need set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest frame on an SDK link, in bytes, header included (WIRE §1.1).
    pub frame_len_max: usize,
    /// How long the state of other nodes is waited for: at the start by all applications, and later, where a link is
    /// new, by messages for which no receiver is known.
    pub ready_timeout: Duration,
    /// How long a pushed session may take to answer before another is tried (WIRE §3).
    pub push_timeout: Duration,
    /// How long a request may take in all (WIRE §3).
    pub request_timeout: Duration,
    /// Whether another session is tried when one stays silent (WIRE §2.2).
    pub retry_after_push_timeout: bool,
    /// A session silent in both directions for so long is closed (WIRE §1.4).
    pub idle_timeout: Duration,
    /// A session that takes nothing of what is queued for it for so long is closed.
    pub stall_timeout: Duration,
    /// Sessions of the node.
    pub sessions_max: usize,
    /// Nodes that are linked with this one.
    pub neighbours_max: usize,
    /// How large the tables are that nobody sets.
    pub tables: Tables,
    /// Topics of one session (WIRE §1.6).
    pub session_topics_max: usize,
    /// Topics of the node (WIRE §1.6).
    pub node_topics_max: usize,
    /// Subscriptions of the node: pairs of session and topic.
    pub node_subscriptions_max: usize,
    /// Bytes of memory that the records of all neighbours may take together, about.
    pub records_bytes_max: usize,
    /// Effective changes of one session's topics per second (WIRE §1.6).
    pub session_changes_per_second_max: u32,
    /// Requests of one reactor's sessions that wait for their answer.
    pub pending_requests_max: usize,
    /// Pushes to one reactor's sessions that wait for their answer.
    pub pending_pushes_max: usize,
    /// Bytes of frames that the node keeps for a retry, and as many for requests that wait for room in a session's queue; each
    /// reactor has an equal share of both, and one frame may go beyond it.
    pub retained_bytes_max: usize,
    /// Bytes that may wait in a session's outgoing queue, without what is left of the frame that is on its way; one frame
    /// may go beyond it.
    pub session_queue_bytes_max: usize,
    /// Messages sent to another node and not acknowledged; all but answers stop at half of it.
    pub window_frames_max: usize,
    /// Bytes of such messages; one may go beyond it.
    pub window_bytes_max: usize,
    /// Bytes of such messages to all nodes, and of those that came before their turn; each reactor has an equal share, and one
    /// message may go beyond it. Frames of other nodes that wait for links have as much.
    pub windows_bytes_max: usize,
    /// How long a node that no route leads to is remembered, with what it has not acknowledged.
    pub lost_node_memory: Duration,
    /// A node link sends something at least so often (WIRE §6.1).
    pub keepalive_interval: Duration,
    /// A node link without a byte for so long is dead (WIRE §6.1).
    pub dead_after: Duration,
    /// How long the active link is probed before a second link to the same node replaces it (WIRE §6.1).
    pub probe_timeout: Duration,
    /// How long a lost neighbour's messages wait for it to return before other routes are tried.
    pub node_grace: Duration,
    /// The same after the neighbour closed its link in order: long enough for a link that replaces it.
    pub node_grace_after_close: Duration,
    /// A node link acknowledges after at most so many frames (WIRE §6.3) …
    pub ack_frames_max: u64,
    /// … or so many bytes …
    pub ack_bytes_max: usize,
    /// … or so long.
    pub ack_delay_max: Duration,
    /// JSON-RPC requests of the node per second; `None` is unlimited (WIRE §1.5).
    pub rpc_requests_per_second_max: Option<u32>,
    /// Whether messages that end with 0 are kept for tracing from the start.
    pub trace: bool,
    /// Whether `getPeers` and `getNodeInfo` list topics (WIRE §1.5).
    pub list_topics: bool,
    /// Whether frames are passed on for other nodes (WIRE §6.4).
    pub relays: bool,
    /// Whether a request goes to the subscribers on the nearest nodes as long as one of them can take it.
    pub prefers_near: bool,
    /// Whether neighbours' neighbours are dialled, too, where they tell their address.
    pub discovers: bool,
    /// For data topics that are pinned, the nodes whose publishers may reach subscribers of this node (WIRE §4).
    pub private_publishers: BTreeMap<String, BTreeSet<NodeId>>,
    /// Data topics whose messages may pass to nodes of FISCO BCOS 2.x and from them, where a proof holds for the whole node.
    pub private_over_2x: BTreeSet<String>,
    /// What topics begin with, one of them, that nodes of FISCO BCOS 2.x are told of; `None` if they are told of all.
    pub announce_to_2x: Option<Vec<String>>,
    /// What is behind this node for applications' JSON-RPC and events, if a ledger node is.
    pub ledger: Option<Ledger>,
    /// `[chain] id`.
    pub chain_id: String,
    /// Ids of `[group]`, for `getGroupList`.
    pub groups: Vec<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            frame_len_max: crate::wire::sdk::FRAME_LEN_MAX,
            ready_timeout: Duration::from_secs(5),
            push_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry_after_push_timeout: true,
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(20),
            sessions_max: SESSIONS_MAX,
            neighbours_max: NEIGHBOURS_MAX,
            tables: Tables::FULL,
            session_topics_max: 10_000,
            node_topics_max: 1_000_000,
            node_subscriptions_max: 1_000_000,
            records_bytes_max: 1 << 30,
            session_changes_per_second_max: 20,
            pending_requests_max: 262_144,
            pending_pushes_max: 262_144,
            retained_bytes_max: 256 << 20,
            session_queue_bytes_max: queue_bytes_of(crate::wire::sdk::FRAME_LEN_MAX),
            window_frames_max: 65_536,
            window_bytes_max: 2 * queue_bytes_of(crate::wire::sdk::FRAME_LEN_MAX),
            windows_bytes_max: 1 << 30,
            lost_node_memory: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            probe_timeout: Duration::from_millis(500),
            node_grace: Duration::from_secs(1),
            node_grace_after_close: Duration::from_millis(100),
            ack_frames_max: 64,
            ack_bytes_max: 256 << 10,
            ack_delay_max: Duration::from_millis(20),
            rpc_requests_per_second_max: None,
            trace: false,
            list_topics: true,
            relays: true,
            prefers_near: false,
            discovers: false,
            private_publishers: BTreeMap::new(),
            private_over_2x: BTreeSet::new(),
            announce_to_2x: None,
            ledger: None,
            chain_id: "1".to_owned(),
            groups: vec![1],
        }
    }
}

/// What a session's queue holds by default: two of the longest frames (WIRE §2.3).
pub fn queue_bytes_of(frame_len_max: usize) -> usize {
    2 * frame_len_max
}

impl Settings {
    /// Longest frame with a message that is taken on a node link, in bytes.
    pub fn node_frame_len_max(&self) -> usize {
        self.frame_len_max + NODE_FRAME_ROOM
    }

    /// Longest frame of a node link that is not read over, in bytes: what nodes say of themselves does not depend on how
    /// long messages may be.
    pub fn node_link_frame_len_max(&self) -> usize {
        self.node_frame_len_max().max(STATE_FRAME_LEN_MAX)
    }

    /// What other nodes are told of [`Self::frame_len_max`].
    pub fn advertised_frame_len_max(&self) -> u32 {
        u32::try_from(self.frame_len_max).unwrap_or(u32::MAX)
    }

    /// Bytes of a publisher's requests that may wait for their answers at once before it is read no further: as much as
    /// two sessions' queues hold.
    pub fn open_requests_bytes_max(&self) -> usize {
        2 * self.session_queue_bytes_max
    }

    /// Whether publishers of a node may reach this node's subscribers of a data topic.
    pub fn may_publish(&self, data_topic: &str, node: &NodeId) -> bool {
        self.private_publishers.get(data_topic).is_none_or(|nodes| nodes.contains(node))
    }
}
