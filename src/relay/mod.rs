//! What the node decides: who gets a frame, who is answered what, and when.
//!
//! Sans-IO. A [`Shard`](shard::Shard) is the relay of one reactor: events go in by `handle_*`, consequences come
//! out through the [`Outbound`] that is passed in, time is an argument, randomness comes from a seed. The
//! [`registry`] is the one writer of what all shards read: the topic table and the node map, published as
//! a [`snapshot`]. The same code runs on the ring and in the tests' virtual network.
//!
//! ```text
//!        frames, links, time                    changes, records of peers
//!  engine ───────────────────► shard 0 … n ───────────────────────────────► registry
//!         ◄───────────────────             ◄───────────────────────────────
//!        send, close, to_reactor            ArcSwap<Snapshot>, frames for peers
//! ```
//!
//! May import `wire` and nothing else of ours.
//!
//! # Invariants
//! - Every unicast of a session is answered exactly once while the session lives.
//! - Nothing is kept without a bound of [`settings::Settings`]; each refusal shows in [`counters`].

pub mod admission;
pub mod bandwidth;
pub mod bounds;
mod channel;
pub mod counters;
mod current;
mod expiring_map;
mod fault;
pub mod ledger;
pub(crate) mod log_limit;
mod packet;
pub mod peer_2x;
mod private_topics;
pub mod readiness;
pub mod registry;
pub mod report;
pub mod rng;
pub mod rpc;
pub mod sealing;
pub mod session_queue;
pub mod settings;
pub mod shard;
pub mod signing;
pub mod snapshot;
mod timers;
pub mod trace;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use smallvec::SmallVec;

pub use self::fault::{CloseReason, Fault, NodeFault};
pub use self::packet::Packet;
pub use self::private_topics::{Challenge, Recipients, SubscriberId};
pub use self::shard::diagnostic;
use self::snapshot::NodeRef;
use crate::wire::{
    FrameRef, MessageNumber, NodeId, Topic, json::ChallengeToken, node::PacketType, notice::Notice, sdk::Seq,
};

/// Bytes of state frames and JSON-RPC requests that may be on their way to the registry; one may go beyond
/// it.
pub const STATE_BYTES_MAX: usize = 64 << 20;

/// Index of a reactor, and of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReactorId(pub u16);

/// A link of one reactor. Keys are never reused: a slot that is filled again has a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkKey {
    /// Slot in the reactor's table of links.
    pub index: u32,
    /// How often the slot has been filled.
    pub generation: u32,
}

/// A session's number: never reused within an incarnation of the node. Its upper 16 bits name the
/// reactor that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The reactor that owns the session.
    pub fn reactor(self) -> ReactorId {
        ReactorId((self.0 >> 48) as u16)
    }
}

/// Who is at the other end of a link that has just come up.
#[derive(Clone, Debug)]
pub enum LinkUp {
    /// An application.
    Sdk {
        /// Its address, for logs.
        address: String,
        /// Subject of its certificate, for logs.
        subject: String,
        /// The public key of its certificate, if that is a secp256k1 key.
        public_key: Option<NodeId>,
    },
    /// A ledger node, which was dialled for a session ([`Outbound::dial_ledger`]).
    Ledger {
        /// The session.
        session: LinkKey,
        /// The dial's number.
        number: u64,
        /// Its address, for logs.
        address: String,
    },
    /// Another node.
    Node {
        /// Its id, from the certificate.
        id: NodeId,
        /// Whether this end dialled.
        dialed: bool,
        /// Its address (`ip:port`), for logs and `getPeers`.
        address: String,
        /// The organisation in its certificate, for `getPeers`.
        agency: String,
        /// The common name in its certificate, for `getPeers`.
        name: String,
    },
}

/// How a frame is queued, and what becomes of it when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Goes before all data that has not begun. On a node link: Hello, state, acknowledgements. To a session: answers of at
    /// most [`SMALL_REPLY_LEN_MAX`] bytes and what the node itself says.
    Control,
    /// An answer that a session waits for and that is too long for [`Self::Control`]: it is queued beyond the session's
    /// bound, and the session is read no further until it has drained (WIRE §2.3). On a node link the same as
    /// [`Self::Data`].
    Answer,
    /// AMOP frames; to a session what is pushed to it. Refused at the bound.
    Data,
    /// To a session what comes from its ledger node. Refused at a bound of its own, so that AMOP has its room, whatever comes
    /// from there; the ledger node is read no further until there is room.
    Ledger,
    /// On a node link, AMOP frames of other nodes. Refused when all that wait on the node links of a reactor take their part of
    /// `[amop] windows_bytes_max`, too: their sources have them.
    Relayed,
}

/// Answers to a session of at most so many bytes go before pushes (WIRE §2.3).
pub const SMALL_REPLY_LEN_MAX: usize = 64 * 1024;

/// Where a frame that was queued stands on its link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// The peer has the frame when it has taken so many bytes of this link, counted as [`LinkProgress::taken`] is.
    pub end: u64,
    /// Whether it may take a while until it is there: it is long, or others wait before it, or the peer is slow.
    pub is_behind: bool,
}

/// A connection to a ledger node that a session needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerDial {
    /// The session's link, to whose reactor the connection goes.
    pub session: LinkKey,
    /// The dial's number, of this reactor.
    pub number: u64,
    /// Which ledger node, as `[ledger] node.N` lists them.
    pub node: u16,
}

/// How a link gets on.
#[derive(Clone, Copy, Debug)]
pub struct LinkProgress {
    /// Bytes that the peer's machine has taken since the link came up.
    pub taken: u64,
    /// When it was last seen to have taken some.
    pub last_taken: std::time::Instant,
    /// Whether a frame of more than [`SMALL_REPLY_LEN_MAX`] bytes is on its way in.
    pub is_receiving_long: bool,
    /// Whether the link is not read because too much waits for its peer.
    pub is_read_paused: bool,
}

/// Why [`Outbound::send`] did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The link's queue is at its bound.
    Full,
    /// The link is closed or closing.
    Gone,
}

/// A coordinating shard's number for a request, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// Slot in the shard's table of requests.
    pub index: u32,
    /// Tells requests in one slot apart.
    pub generation: u32,
}

/// Why a unicast was not pushed to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPushed {
    /// Nobody (else) subscribes there.
    NobodyLeft,
    /// This session's queue is full, and there is nobody else; or it stayed full for as long as might be waited.
    QueueFull(SessionId),
    /// Those who are left wait for an answer under this seq already.
    SeqInUse,
    /// Too many pushes wait for their answer.
    PushesFull,
    /// The challenge is not open, or was carried already.
    ChallengeClosed,
}

/// A unicast for another node.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The coordinator's number for the request.
    pub request: RequestId,
    /// Where to.
    pub node: NodeId,
    /// The message's number at this node.
    pub message: MessageNumber,
    /// Milliseconds left for the request.
    pub time_left_ms: u32,
    /// Whether it is to wait there for room in a session's queue, for nobody else is left to be tried.
    pub may_wait: bool,
    /// For a private topic, who may get it.
    pub audience: Option<Box<Recipients>>,
    /// If a node of FISCO BCOS 2.x sent it, the first bytes of that one's id.
    pub from_2x: Option<u64>,
}

/// What one shard tells another; travels over the mesh together with a frame.
///
/// The shard that took a request (from a publisher's session, or from a neighbour) coordinates it: it
/// draws who is tried, keeps the time, and answers. Others push, forward and report.
#[derive(Clone, Debug)]
pub enum MeshMessage {
    /// Push a unicast (the frame) to one of your sessions.
    Deliver {
        /// The coordinator's number for the request.
        request: RequestId,
        /// For a private topic, who may get it.
        audience: Option<Box<Recipients>>,
        /// Sessions that must not get it: the publisher and those that were tried already.
        excluded: SmallVec<[SessionId; 2]>,
        /// How long it may wait for room where all their queues are full. `None`: others are to be tried.
        wait_for_room: Option<Duration>,
        /// Whether it goes to a node of FISCO BCOS 2.x.
        draw_2x: peer_2x::Draw2x,
        /// Bytes that its publisher has paid for, should it leave to a node of FISCO BCOS 2.x; else they are given back.
        prepaid: u64,
    },
    /// The request is over, or goes elsewhere: it waits for room no longer.
    ForgetWait {
        /// The coordinator's number for the request.
        request: RequestId,
    },
    /// No (other) session of yours could take the request. The frame is the request's if it had waited here, else empty.
    Undeliverable {
        /// The coordinator's number for the request.
        request: RequestId,
        /// Why.
        why: NotPushed,
    },
    /// A session to which the request was pushed did not answer in time, or left.
    PushFailed {
        /// The coordinator's number for the request.
        request: RequestId,
        /// Who failed.
        session: SessionId,
        /// What the push is keyed by, with the session.
        seq: Seq,
        /// Whether it is only silent and may still answer.
        silent: bool,
    },
    /// A session's answer to a push; the frame is the 0x31.
    Answer {
        /// The coordinator's number for the request.
        request: RequestId,
        /// Who answered.
        session: SessionId,
    },
    /// A long answer to a request has begun to come.
    AnswerBegun {
        /// The coordinator's number for the request.
        request: RequestId,
        /// Length of the 0x31 in bytes.
        len: u32,
    },
    /// The request is over; forget the push to this session.
    ForgetPush {
        /// The pushed session.
        session: SessionId,
        /// What the push is keyed by, with the session.
        seq: Seq,
    },
    /// Deliver a multicast (the frame) to all your subscribers.
    Multicast,
    /// The same, of another node.
    MulticastOfNode,
    /// Deliver a multicast (the frame) of a node of FISCO BCOS 2.x to your subscribers, other such nodes left out.
    MulticastOf2x {
        /// The first bytes of that node's id.
        sender: u64,
        /// Whether it has just come to this node: whoever is asked looks whether it is new, and tells the other reactors.
        is_first: bool,
    },
    /// Deliver a multicast (the frame) with a private topic to these of your subscribers.
    PrivateMulticast {
        /// Who may get it.
        audience: Box<Recipients>,
    },
    /// To the challenge broker: a publisher is about to challenge a subscriber of this node.
    OpenChallenge {
        /// The challenge.
        challenge: Box<Challenge>,
    },
    /// The challenge is open: the publisher may be asked.
    ChallengeOpened {
        /// The publisher's session.
        publisher: SessionId,
        /// Which challenge.
        token: ChallengeToken,
        /// The subscriber's node that says so, if it is another one.
        node: Option<Box<NodeId>>,
    },
    /// To the home of a node: tell it something.
    SendNotice {
        /// Which node.
        node: NodeId,
        /// What.
        notice: Box<Notice>,
    },
    /// To the challenge broker: a unicast (the frame) to a minted route topic of this node.
    Carry {
        /// The coordinator's number for the request.
        request: RequestId,
        /// The session that sent it, if it is one of this node.
        sender: Option<SessionId>,
    },
    /// From the challenge broker: push this challenge (the frame) to the challenged session.
    Present {
        /// The request's coordinator.
        coordinator: ReactorId,
        /// Its number for the request.
        request: RequestId,
        /// The session that sent it, if it is one of this node.
        sender: Option<SessionId>,
        /// Which challenge.
        challenge: Box<Challenge>,
    },
    /// The challenged session has answered.
    ChallengeAnswered {
        /// The publisher's session.
        publisher: SessionId,
        /// Which challenge.
        token: ChallengeToken,
        /// The subscriber's node that says so, if it is another one.
        node: Option<Box<NodeId>>,
    },
    /// Send a unicast (the frame) over your link to a node.
    Forward(Forward),
    /// To the home of `next`: send a frame that names its ends on to that neighbour. The frame is the payload.
    Pass {
        /// What, and where to.
        packet: Box<Packet>,
        /// The neighbour.
        next: NodeId,
    },
    /// To the home of its source: a sealed payload has come for this node.
    Arrived {
        /// The node that sealed it.
        source: NodeId,
        /// What it is.
        packet_type: PacketType,
        /// The message's number at its source.
        message: MessageNumber,
    },
    /// To the home of a destination: a frame to it was not sent.
    NotPassed {
        /// Where it was to go.
        node: NodeId,
        /// What it was.
        packet_type: PacketType,
        /// Its number.
        message: MessageNumber,
    },
    /// A forwarded request will not be answered by that node.
    ForwardFailed {
        /// The coordinator's number for the request.
        request: RequestId,
        /// The message's number at this node.
        message: MessageNumber,
        /// Whether the destination may have it: a link took it.
        taken: bool,
    },
    /// The destination node's response; the frame is the 0x31.
    ForwardAnswer {
        /// The coordinator's number for the request.
        request: RequestId,
        /// The message's number at this node.
        message: MessageNumber,
        /// Whether the destination node itself made it, because no session of its answered.
        by_node: bool,
    },
    /// The request is over, or its time is up; its answer is not awaited any longer.
    ForgetForward {
        /// Where it went.
        node: NodeId,
        /// The message's number at this node.
        message: MessageNumber,
        /// Set if the coordinator wants to know, by a [`Self::ForwardFailed`], how far it got.
        report: bool,
    },
    /// Send a multicast (the frame) with a private topic over your link to this node.
    ForwardPrivateMulticast {
        /// Where to.
        node: Box<NodeId>,
        /// The message's number at this node.
        message: MessageNumber,
        /// Who may get it there.
        audience: Box<Recipients>,
    },
    /// Act on a notice of another node, which its home has passed on to you.
    TakeNotice {
        /// Who sent it.
        from: NodeId,
        /// What it is.
        notice: Box<Notice>,
    },
    /// Send a multicast (the frame) over your links to these nodes.
    ForwardMulticast {
        /// Where to.
        nodes: SmallVec<[NodeRef; 2]>,
        /// What it is.
        of: peer_2x::MulticastOf,
    },
}

/// What a shard tells the registry.
#[derive(Clone, Debug)]
pub enum RegistryInput {
    /// Subscriptions of one reactor changed: by how many sessions each topic grew or shrank.
    Topics {
        /// Whose sessions.
        reactor: ReactorId,
        /// Topic and difference; each topic once.
        changes: Vec<(Topic, i32)>,
    },
    /// Sessions took private topics, or dropped them.
    Subscribers {
        /// The data topic, the subscriber, and whether it took the topic.
        changes: Vec<(Topic, SubscriberId, bool)>,
    },
    /// Something about a node of FISCO BCOS 2.x.
    Peer2x {
        /// Which one.
        id: NodeId,
        /// What.
        news: peer_2x::News,
    },
    /// The first link to a node came up (after its Hello).
    NodeUp {
        /// Who.
        id: NodeId,
        /// Its incarnation.
        incarnation: u64,
        /// The reactor that owns the link.
        reactor: ReactorId,
        /// Its address, for `getPeers`.
        address: String,
        /// The organisation in its certificate.
        agency: String,
        /// The common name in its certificate.
        name: String,
    },
    /// The last link to a node is gone; it may return.
    LinkLost {
        /// Who.
        id: NodeId,
        /// Which incarnation of it.
        incarnation: u64,
    },
    /// The last link to a node is gone, and the grace for its return is over.
    NodeDown {
        /// Who.
        id: NodeId,
        /// Which incarnation of it; an older one than the registry knows is ignored.
        incarnation: u64,
    },
    /// The lists have changed.
    Admission,
    /// As many nodes have sent sealed messages as can be remembered, so that a later incarnation is to begin.
    ReplayFloorsFull {
        /// The incarnation that is to end.
        incarnation: u64,
    },
    /// A STATE_SEQ, STATE_REQUEST or STATE_REPLY of a neighbour, or a BROADCAST that is an announcement.
    State {
        /// The neighbour that sent it.
        from: NodeId,
        /// Which of these.
        packet_type: PacketType,
        /// Seq of the frame; a reply repeats its request's.
        seq: u32,
        /// The payload, extension-free.
        payload: Bytes,
    },
    /// A JSON-RPC request that needs the node map.
    Rpc {
        /// Where the session lives.
        reactor: ReactorId,
        /// The session's link.
        link: LinkKey,
        /// Seq of the frame, repeated in the answer.
        seq: Seq,
        /// The request's body, or the ledger node's answer to it.
        body: Bytes,
        /// If it is that, what it is to be merged with.
        ledger: Option<ledger::call::Merged>,
    },
}

/// What the registry tells a shard.
#[derive(Clone, Debug)]
pub enum RegistryOutput {
    /// Send a control frame over the link to a neighbour. Lost without harm if there is none.
    ToNode {
        /// Which neighbour.
        to: NodeId,
        /// STATE_SEQ, STATE_REQUEST, STATE_REPLY or BROADCAST.
        packet_type: PacketType,
        /// For a reply the request's seq; else the shard takes a fresh one.
        seq: Option<u32>,
        /// The payload.
        payload: Bytes,
    },
    /// Answer a JSON-RPC request.
    RpcAnswer {
        /// The session's link.
        link: LinkKey,
        /// Seq of the request.
        seq: Seq,
        /// Body of the answer.
        body: Bytes,
    },
    /// This node begins a later incarnation: all links to other nodes are to be made anew.
    NewIncarnation,
    /// To a node's home: whether a route leads to it, and to which incarnation of it.
    Reach {
        /// Which node.
        id: NodeId,
        /// Its incarnation; `None` if no route leads to it.
        incarnation: Option<u64>,
    },
    /// To the home of a node of FISCO BCOS 2.x: whether this node is its gateway.
    Gateway2x {
        /// Which one.
        id: NodeId,
        /// Whether.
        is_gateway: bool,
        /// Whether it acts for other nodes, too.
        is_for_all: bool,
    },
    /// To all: the snapshot's paths have changed.
    RoutesChanged,
    /// To all: more of the state of neighbours is here that was waited for.
    StateCame,
    /// A neighbour's link is to be closed.
    CloseNode {
        /// Which neighbour.
        id: NodeId,
        /// Why.
        reason: CloseReason,
    },
}

/// Where a shard's consequences go: the engine's queues, or the tests' virtual network. Calls take
/// effect at once and in order.
pub trait Outbound {
    /// Queues one whole frame: `head`, then `body`. Both are read before the call returns.
    fn send(
        &mut self,
        link: LinkKey,
        class: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<Queued, SendError>;

    /// How a link gets on. May ask the kernel: not for the path of every frame.
    fn progress(&mut self, link: LinkKey) -> Option<LinkProgress>;

    /// Asks for [`shard::Shard::handle_taken`] as the peer takes what is queued now.
    fn watch_taken(&mut self, link: LinkKey);

    /// Asks for one [`shard::Shard::handle_room`] when the link's queue takes so many bytes of a class again.
    fn watch_room(&mut self, link: LinkKey, class: Class, len: usize);

    /// Stops or resumes reading a link. What was read already is still handled.
    fn pause_reading(&mut self, link: LinkKey, pause: bool);

    /// Passes a message and a frame (perhaps empty) to another reactor's shard. Never lost: a full mesh
    /// makes this reactor stop reading.
    fn to_reactor(&mut self, to: ReactorId, message: MeshMessage, frame: FrameRef<'_>);

    /// Passes a message to the registry; `false` if its queue is full and the message was refused.
    /// Changes of topics and nodes are never refused.
    fn to_registry(&mut self, input: RegistryInput) -> bool;

    /// Answers a question of [`shard::Shard::ask`] that was not answered at once.
    fn answer(&mut self, id: u64, answer: diagnostic::Answer);

    /// Has a ledger node dialled. A [`LinkUp::Ledger`] follows, or [`shard::Shard::handle_dial_failed`].
    fn dial_ledger(&mut self, dial: LedgerDial);

    /// Lets frames share TLS records on an SDK link whose client asked for it (WIRE §1.7).
    fn share_records(&mut self, link: LinkKey);

    /// Closes a link; what is queued is sent first, within a bound. `handle_link_down` follows.
    fn close(&mut self, link: LinkKey, reason: CloseReason);

    /// Closes a link without sending what is queued.
    fn abort(&mut self, link: LinkKey, reason: CloseReason);
}

/// The reactor at which everything about another node comes together: its links, and the channel with it.
pub fn home_reactor(id: &NodeId, reactors: u16) -> ReactorId {
    home_reactor_of(id.short(), reactors)
}

/// The same by the first bytes of its id.
fn home_reactor_of(short: u64, reactors: u16) -> ReactorId {
    // Any bytes of a public key are as good as random.
    ReactorId(((short >> 32) % u64::from(reactors.max(1))) as u16)
}

/// What all shards of a node share.
pub struct Shared {
    /// This node.
    pub id: NodeId,
    /// Grows with every start; read by [`Self::incarnation`], written by the registry alone.
    pub incarnation: std::sync::atomic::AtomicU64,
    /// Drawn at random by each process, so that no two incarnations of the node have a key in common, whatever its clock says.
    pub salt: sealing::Salt,
    /// Number of reactors.
    pub reactors: u16,
    /// Zero of the clock by which the limiters count.
    pub started: std::time::Instant,
    /// This node's `ip:port` for node links, for `getNodeInfo`.
    pub own_address: String,
    /// Where other nodes reach it, if it tells them.
    pub advertised: Option<String>,
    /// The organisation in its certificate.
    pub own_agency: String,
    /// The common name in its certificate.
    pub own_name: String,
    /// Its key, for what is sealed; without one nothing goes over more than one link.
    pub signer: Option<signing::NodeSigner>,
    /// Bounds and times.
    pub settings: settings::Settings,
    /// Whether it was forgotten how far the messages of some nodes were that the lists left out.
    pub has_forgotten: std::sync::atomic::AtomicBool,
    /// The lists. Whoever changes them tells the registry ([`RegistryInput::Admission`]).
    pub admission: Arc<arc_swap::ArcSwap<admission::Admission>>,
    /// The topic table and node map.
    pub snapshot: Arc<arc_swap::ArcSwap<snapshot::Snapshot>>,
    /// Outbound bandwidth of the node.
    pub limiter: bandwidth::Limiter,
    /// JSON-RPC requests of the node; one unit each.
    pub rpc_limiter: bandwidth::Limiter,
    /// Bytes of state frames and JSON-RPC requests on their way from the shards to the registry.
    pub registry_input_bytes: std::sync::atomic::AtomicUsize,
    /// Bytes of JSON-RPC answers on their way from the registry to the shards.
    pub rpc_answer_bytes: std::sync::atomic::AtomicUsize,
    /// Number of the next message that this node originates on node links (WIRE §6.2).
    pub next_message: std::sync::atomic::AtomicU32,
    /// Whether messages that end with 0 are kept, too. May change at any time.
    pub tracing: std::sync::atomic::AtomicBool,
    /// How many messages that did not end with 0 have been kept so far.
    pub failed_tickets: std::sync::atomic::AtomicU64,
    /// How many others.
    pub traced_tickets: std::sync::atomic::AtomicU64,
    /// Limits of the shards' log lines.
    pub logs: shard::logs::Logs,
    /// Metrics, one set per reactor.
    pub counters: Vec<Arc<counters::Counters>>,
    /// What each reactor counts of each ledger node.
    pub ledger_counters: Vec<Vec<counters::LedgerNodeCounters>>,
}

impl Shared {
    /// A node of this id, without limits on bandwidth and JSON-RPC, without names, and with nobody known.
    pub fn new(
        id: NodeId,
        incarnation: u64,
        reactors: u16,
        started: std::time::Instant,
        settings: settings::Settings,
    ) -> Self {
        let ledgers = settings.ledger.as_ref().map_or(0, |ledger| usize::from(ledger.nodes));
        let of_ledgers = || std::iter::repeat_with(Default::default).take(ledgers).collect();
        Self {
            ledger_counters: std::iter::repeat_with(of_ledgers).take(reactors.into()).collect(),
            id,
            incarnation: incarnation.into(),
            salt: [0; 16],
            reactors,
            started,
            own_address: String::new(),
            advertised: None,
            own_agency: String::new(),
            own_name: String::new(),
            signer: None,
            has_forgotten: false.into(),
            admission: Arc::default(),
            snapshot: Arc::default(),
            limiter: bandwidth::Limiter::unlimited(),
            rpc_limiter: bandwidth::Limiter::unlimited(),
            registry_input_bytes: 0.into(),
            rpc_answer_bytes: 0.into(),
            next_message: 0.into(),
            tracing: settings.trace.into(),
            failed_tickets: 0.into(),
            traced_tickets: 0.into(),
            settings,
            logs: shard::logs::Logs::default(),
            counters: (0..reactors).map(|_| Arc::default()).collect(),
        }
    }

    /// Whether this node has to do with another one.
    pub fn admits(&self, id: &NodeId) -> bool {
        self.admission.load().admits(id)
    }

    /// This incarnation of the node: grows with every start, and when the network knows a later one.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The same with what tells it from others of one incarnation.
    pub fn incarnation_id(&self) -> sealing::IncarnationId {
        sealing::IncarnationId { incarnation: self.incarnation(), salt: self.salt }
    }

    /// Only the registry does this.
    pub(in crate::relay) fn set_incarnation(&self, incarnation: u64) {
        self.incarnation.store(incarnation, std::sync::atomic::Ordering::Relaxed);
    }
}
