//! What the endpoint says in JSON: made here, and read by the commands.
//!
//! Whoever reads it may be older or newer than the node: what was added to a type since is `default`, and fields that are not
//! known are ignored.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A name out of a list that grows.
pub(crate) type Word = Cow<'static, str>;

/// A page of a list.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Page<T> {
    /// How many items there are, shown or not.
    pub(crate) total: usize,
    pub(crate) items: Vec<T>,
}

/// An item of `/nodes`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LinkedNode {
    /// `node`, `node_2x` (of FISCO BCOS 2.x) or `ledger`, of which the address is known alone.
    pub(crate) kind: Word,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reactor: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) incarnation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) up_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topics: Option<usize>,
}

/// An item of `/failures`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Failure {
    pub(crate) seq: String,
    pub(crate) taken: String,
    pub(crate) role: Word,
    pub(crate) end: Word,
    pub(crate) refusal: Word,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<i32>,
    pub(crate) topic: String,
    pub(crate) size: u32,
    pub(crate) took_us: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
}

/// An item of `/sessions`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Session {
    /// As text: it has more digits than JSON's readers keep of a number.
    pub(crate) id: String,
    pub(crate) reactor: u16,
    pub(crate) address: String,
    pub(crate) subject: String,
    /// Of which FISCO BCOS the application's SDK is: `2.x` or `3.x`.
    #[serde(default)]
    pub(crate) dialect: Word,
    pub(crate) connected_since: String,
    pub(crate) topics: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) pending_requests: usize,
    pub(crate) pending_pushes: usize,
    pub(crate) waiting_requests: usize,
    pub(crate) dropped_copies: u64,
    /// Its connection to a ledger node, where there are any: `idle`, `dialling`, `pausing`, `greeting` or `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ledger: Option<Word>,
    /// Its requests that wait for a ledger node or its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ledger_requests: Option<usize>,
    /// Its event filters that are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ledger_filters: Option<usize>,
    /// Its topics that its ledger node knows: block notices, and ordinary ones where messages go that way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ledger_topics: Option<usize>,
}

/// An item of `/links`, and of the links in `/network`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Link {
    pub(crate) reactor: u16,
    /// The link's place in its reactor's table.
    pub(crate) link: u32,
    /// `session`, `node`, `ledger`, or `node_2x`: a node of FISCO BCOS 2.x.
    pub(crate) kind: Word,
    /// A session's number, or a node's id; of a link to a ledger node the number of the session that it is for.
    pub(crate) peer: String,
    pub(crate) address: String,
    /// `greeting`, `active`, `spare` (another link, or of a `node_2x` another node, carries everything), `silent` (a `node_2x`
    /// from which nothing has come for long) or `ending`.
    pub(crate) state: Word,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dialed: Option<bool>,
    /// Of a node link, once it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip_smoothed_us: Option<u64>,
    pub(crate) received_frames: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_frames: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) queued_bytes: usize,
    pub(crate) up_since: String,
}

/// An item of `/ledgers`: a ledger node of the configuration.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LedgerNode {
    /// Its number among them.
    pub(crate) number: usize,
    pub(crate) address: String,
    /// Sessions that are connected to it now.
    pub(crate) sessions: usize,
    /// Requests of those that wait for it.
    pub(crate) pending_requests: usize,
    /// Over the connections that are there now.
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) queued_bytes: usize,
    /// Messages since the node's start that went by it, and that came from there.
    #[serde(default)]
    pub(crate) messages_sent: u64,
    #[serde(default)]
    pub(crate) messages_received: u64,
    /// Dials since the node's start, and those without success.
    pub(crate) dials: u64,
    pub(crate) dials_failed: u64,
    /// Why the last dial had no success; absent if it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<LedgerFailure>,
}

/// Why a ledger node was not reached.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LedgerFailure {
    pub(crate) at: String,
    pub(crate) cause: Word,
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

/// An item of `/peers_2x`: a node of FISCO BCOS 2.x that is linked.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Peer2x {
    pub(crate) id: String,
    pub(crate) address: String,
    /// `active`: this node passes messages to and from it; `spare`: another one does; `silent`: it has said nothing for long;
    /// `ending`.
    pub(crate) state: Word,
    pub(crate) dialed: bool,
    /// Topics that it has told.
    pub(crate) topics: usize,
    /// Its requests that wait for their answer, and what it was sent and has not answered.
    pub(crate) pending_requests: usize,
    pub(crate) pending_pushes: usize,
    pub(crate) dropped_copies: u64,
    pub(crate) queued_bytes: usize,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) up_since: String,
}

/// A node of FISCO BCOS 2.x that a node of the network is linked with.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Attached2x {
    pub(crate) id: String,
    /// Whether that node passes messages to and from it.
    pub(crate) gateway: bool,
}

/// An item of `/topics`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RoutedTopic {
    pub(crate) name: String,
    pub(crate) local_sessions: u64,
    pub(crate) remote_sessions: u64,
    pub(crate) nodes_total: usize,
    pub(crate) nodes: Vec<TopicNode>,
}

/// A node with subscribers of a topic.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TopicNode {
    pub(crate) id: String,
    /// Of `/network/topics`: how many links lead there; absent if none do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hops: Option<u8>,
    pub(crate) sessions: u32,
}

/// An item of `/network/topics`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct NetworkTopic {
    pub(crate) name: String,
    /// `ordinary` or `private`.
    pub(crate) kind: Word,
    pub(crate) sessions: u64,
    pub(crate) nodes_total: usize,
    pub(crate) nodes: Vec<TopicNode>,
}

/// `/network`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Network {
    /// How many nodes there are, shown or not, this one included.
    pub(crate) total: usize,
    /// How many of them frames can reach, this one not included.
    pub(crate) reachable: usize,
    pub(crate) items: Vec<Node>,
    /// This node's links to others.
    pub(crate) links: Vec<Link>,
    /// The ledger nodes behind this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ledgers: Vec<LedgerNode>,
    /// What was announced to all nodes, the latest first.
    #[serde(default)]
    pub(crate) announcements: Vec<Announcement>,
}

/// Whether and how a node is reached.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// It is the node that tells.
    Own,
    Neighbour,
    Reachable,
    OutOfReach,
    Lost,
    /// In a way that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// A node of the network.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) standing: Standing,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hops: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost_since: Option<String>,
    pub(crate) next_hops_total: usize,
    pub(crate) next_hops: Vec<String>,
    /// Whether frames for its subscribers go there.
    pub(crate) routed: bool,
    /// Whether the blacklist and the whitelist admit it.
    pub(crate) admitted: bool,
    /// Whether it passes on frames of others.
    pub(crate) relays: bool,
    pub(crate) frame_bytes_max: u32,
    /// Where its link leads, of a neighbour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// Where it says that others reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advertised: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) incarnation: u64,
    pub(crate) seq: u64,
    pub(crate) topics: usize,
    pub(crate) neighbours_total: usize,
    pub(crate) neighbours: Vec<ListedNeighbour>,
    /// Nodes of FISCO BCOS 2.x that it is linked with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) peers_2x: Vec<Attached2x>,
}

/// A neighbour that a node lists.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ListedNeighbour {
    pub(crate) id: String,
    /// Whether that node lists this one, too: only then there is a route.
    pub(crate) agreed: bool,
}

/// What a node has announced to all others.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Announcement {
    pub(crate) origin: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) agency: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
    /// When it came here.
    pub(crate) came: String,
    pub(crate) age_ms: u64,
    pub(crate) text: String,
}

/// What `POST /announce` is asked for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Announce {
    pub(crate) text: String,
}

/// What `POST /announce` has done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Announced {
    /// The number of the announcement in this incarnation of the node.
    pub(crate) number: u64,
    /// Neighbours that it was sent to.
    pub(crate) neighbours: usize,
    /// Other nodes that a route leads to.
    pub(crate) reachable: usize,
}

/// `/ping/NODE`: one round.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PingRound {
    pub(crate) node: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    pub(crate) standing: Standing,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost_since: Option<String>,
    /// How many links lead there, as the records of all nodes have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) known_hops: Option<u8>,
    pub(crate) outcome: PingOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip_us: Option<u64>,
    pub(crate) hops: Vec<PingHop>,
}

/// A node on the path.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PingHop {
    pub(crate) hop: u8,
    /// Who has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    pub(crate) outcome: PingOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip_us: Option<u64>,
}

/// What came of a round, or of a ping to one hop.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PingOutcome {
    /// The node itself has answered.
    Answered,
    /// A node on the path has passed such pings on.
    Passed,
    /// No route leads on from there.
    #[serde(rename = "no_way")]
    NoRoute,
    /// It ended there for a reason that is not known.
    Ended,
    Silent,
    NotSent,
    /// It is the node that was asked itself.
    Own,
    /// Something that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// `/trace/SEQ`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Trace {
    pub(crate) seq: String,
    pub(crate) node: String,
    pub(crate) timeline: Vec<TraceEvent>,
    pub(crate) nodes: Vec<TraceNode>,
    #[serde(default)]
    pub(crate) accounts: Vec<MessageTrace>,
}

/// Something that befell a message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TraceEvent {
    pub(crate) at: String,
    /// Since the first of them.
    pub(crate) after_us: i64,
    pub(crate) node: String,
    pub(crate) what: String,
}

/// A node on a message's path.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TraceNode {
    /// All 128 digits; the first 16, if no more are known.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) standing: TraceStanding,
    /// How many traces it gave.
    pub(crate) accounts: usize,
    /// Whether it has older ones, too.
    pub(crate) more: bool,
    /// Whether it keeps messages that end with 0.
    pub(crate) tracing: bool,
    pub(crate) up_us: u64,
    pub(crate) round_trip_us: u64,
    /// What an operator should know of that.
    pub(crate) remark: Word,
}

/// How far a node's part is known.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TraceStanding {
    /// It is the node that was asked.
    Here,
    Answered,
    Silent,
    NotLinked,
    NotAsked,
    /// Something that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// What one reactor of a node knows of a message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct MessageTrace {
    pub(crate) node: String,
    pub(crate) role: Word,
    pub(crate) end: Word,
    pub(crate) refusal: Word,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<i32>,
    pub(crate) taken: String,
    pub(crate) taken_accuracy_us: u64,
    pub(crate) took_us: u32,
    pub(crate) time_ms: u32,
    /// A session's number, or the beginning of a node's id.
    pub(crate) origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) topic: String,
    pub(crate) message: u32,
    pub(crate) size: u32,
    pub(crate) copies: u32,
    pub(crate) dropped: u32,
    pub(crate) steps_left_out: u16,
    pub(crate) steps: Vec<TraceStep>,
}

/// One attempt to deliver a message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TraceStep {
    pub(crate) at_us: u32,
    pub(crate) took_us: u32,
    pub(crate) tried: Word,
    pub(crate) who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) message: u32,
    pub(crate) fate: Word,
}
