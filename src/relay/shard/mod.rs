//! The relay of one reactor: a state machine without I/O.
//!
//! Events go in by `handle_*`; what follows from them goes out through the [`Outbound`] passed along,
//! before the call returns. A shard owns its sessions and node links outright and shares nothing with
//! other shards but the snapshot, the limiters and the mesh.
//!
//! ```text
//!  engine ── event ──► Shard ──► Parts, which own their state          what follows
//!                        │         sessions · requests · pushes · …  ──────────────► Outbound
//!                        └── Context: the moment, the way out, Common ─┘
//! ```
//!
//! What concerns several parts is a method of `Parts`. What another reactor would do of it is a `MeshMessage`, sent by
//! `Parts::send_to_reactor`, whichever reactor it is for.
//!
//! | file | holds |
//! |---|---|
//! | `context` | what all parts need: the moment, the way out, the snapshot, counters, random numbers |
//! | `dispatch` | the parts, and which of them an event goes to |
//! | `session` | what an application may say: handshake, heartbeat, JSON-RPC |
//! | `subscription` | what sessions subscribe to |
//! | `seqs` | tables by seq |
//! | `request` | unicasts: drawing receivers, trying again, answering exactly once |
//! | `push` | a request at one of our sessions, until it answers |
//! | `room` | requests that wait for room in a session's queue |
//! | `multicast` | copies to everybody |
//! | `publisher` | private topics: whom a publisher has challenged and accepted |
//! | `challenge_broker` | private topics: carrying challenges to subscribers, once and to nobody else |
//! | `private` | private topics: subscribers' numbers, challenges at our sessions |
//! | `peer` | another node: which incarnation of it, whose answers are awaited |
//! | `neighbour` | which link to it carries everything |
//! | `node_link` | frames of node links: Hello, Ack, state, AMOP |
//! | `forward` | what this node's sessions have for other nodes |
//! | `channel` | messages to and from another node: sent, sent again, acknowledged, taken in order |
//! | `sealed` | what goes over others: sealed and opened, shared multicasts |
//! | `route` | frames on their way over more than one link: the next hop |
//! | `notice` | what nodes tell each other in Broadcasts |
//! | `diagnostic` | what people ask reactors, and nodes each other for that |
//! | `charge` | what leaves on node links, and who pays for it |
//! | `upstream` | connections to ledger nodes: what sessions ask there, what comes from there |
//! | `peer_2x` | nodes of FISCO BCOS 2.x: their topics, and messages both ways |
//! | `dialect_3x` | applications of FISCO BCOS 3.x: what they say, and how it is said to them |
//! | `too_long` | frames that are longer than a node takes |
//! | `trace` | traces of messages that are over, for who asks for one by its seq |
//! | `duplicate_key` | two nodes with one key |
//! | `recount` | what is counted by hand, counted anew |
//! | `logs` | how many lines are logged |
//!
//! # Invariants
//! - A request sits in the table until it was answered; every path out of the table answers it.
//! - A session is in the list of a topic exactly if the topic is in its set.
//! - A push is in its session's table exactly as long as its frame is on the way, its timer runs, or the session is
//!   silent and may still answer.
//! - While a request waits in the line of a session, nothing else is queued there but replies.

mod challenge_broker;
mod channel;
mod charge;
mod context;
pub mod diagnostic;
mod dialect_3x;
mod dispatch;
mod duplicate_key;
mod forward;
mod lame_duck;
pub(super) mod logs;
mod long_answer;
mod multicast;
mod neighbour;
mod node_link;
mod notice;
mod peer;
mod peer_2x;
mod private;
mod publisher;
mod push;
mod recount;
mod replay;
mod request;
mod room;
mod round_trip;
mod route;
mod sealed;
mod seqs;
mod session;
mod subscription;
mod too_long;
mod trace;
mod upstream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use challenge_broker::{CARRIED_MAX, CARRIED_MEMORY, CHALLENGES_MAX, CHALLENGES_OF_NODE_MAX};
pub(in crate::relay) use node_link::STATE_PAYLOAD_LEN_MAX;
pub(super) use publisher::{OPEN_FOR_MAX, OPEN_IN_ALL_MAX, OPEN_MAX, PAIRS_MAX, TURN_2X};
pub use replay::REPLAY_FLOORS_MAX;
pub(super) use request::REQUEST_ATTEMPTS_MAX;

use self::{
    context::{Common, Context},
    diagnostic::{Answer, Question},
    dispatch::{Link, LinkKind, Parts, session_of},
    neighbour::Neighbour,
    node_link::NodeLink,
    peer::Peer,
    push::PushTimer,
    session::Session,
};
use super::{
    CloseReason, LinkKey, LinkUp, MeshMessage, Outbound, ReactorId, RegistryOutput, Shared, rng::Seed,
    sealing::Seal,
};
use crate::wire::{FrameRef, NodeId};

/// How often node links are looked at: keep-alive, death, grace. A quarter of the shortest time that
/// depends on it.
const NODE_TICK: Duration = Duration::from_millis(100);
/// A session is looked at so often within its idle timeout, and closed at the first look after it.
const IDLE_CHECKS_PER_TIMEOUT: u32 = 6;
/// How long a deferred subscription waits before it is tried again.
const DEFERRED_SUBSCRIPTION_DELAY: Duration = Duration::from_millis(50);

/// The relay of one reactor.
pub struct Shard {
    common: Common,
    parts: Parts,
    /// Events so far, of which some are checked.
    #[cfg(debug_assertions)]
    events: u32,
}

/// Events between two checks of a debug build, each of which counts anew what the shard counts by hand: it takes as long as many events.
#[cfg(debug_assertions)]
const EVENTS_PER_CHECK: u32 = 64;

impl Shard {
    /// A shard without links. `seed` decides all its random choices; `id` must be below
    /// `shared.reactors`.
    pub fn new(shared: Arc<Shared>, id: ReactorId, seed: Seed, _now: Instant) -> Self {
        let common = Common::new(shared, id, &seed);
        let parts = Parts::new(&common);
        Self {
            common,
            parts,
            #[cfg(debug_assertions)]
            events: 0,
        }
    }

    /// The parts, and the context of an event that happens now.
    fn at<'a, O: Outbound>(&'a mut self, now: Instant, out: &'a mut O) -> (&'a mut Parts, Context<'a, O>) {
        #[cfg(debug_assertions)]
        {
            self.events = self.events.wrapping_add(1);
            if self.events.is_multiple_of(EVENTS_PER_CHECK) {
                assert_eq!(self.parts.miscount(&self.common), None, "what a shard counts has gone wrong");
            }
        }
        (&mut self.parts, Context { now, out, common: &mut self.common })
    }

    /// A link has come up.
    pub fn handle_link_up(&mut self, now: Instant, key: LinkKey, up: LinkUp, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_link_up(&mut cx, key, up)
    }

    /// A whole frame arrived on a link.
    pub fn handle_frame(&mut self, now: Instant, key: LinkKey, frame: FrameRef<'_>, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_frame(&mut cx, key, frame)
    }

    /// The first bytes of a session are an HTTP request, which is whole: an application of FISCO BCOS 3.x asks for a WebSocket.
    /// From then on its frames come in the form of 2.x, with raw data in answers, and go out as they are on that link.
    pub fn handle_upgrade(&mut self, now: Instant, key: LinkKey, request: &[u8], out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_upgrade(&mut cx, key, request)
    }

    /// The beginning of a long frame of a session is here: at least the header.
    pub fn handle_frame_begun(&mut self, now: Instant, key: LinkKey, head: &[u8], out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_frame_begun(&mut cx, key, head)
    }

    /// A session's machine has taken so many bytes of its link.
    pub fn handle_taken(&mut self, now: Instant, key: LinkKey, taken: u64, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_taken(&mut cx, key, taken)
    }

    /// A session's queue, which was full, takes data again.
    pub fn handle_room(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_room(&mut cx, key);
        parts.handle_ledger_room(&mut cx, key);
        parts.handle_upstream_room(&mut cx, key);
    }

    /// A link is gone. Comes once for each link that came up.
    pub fn handle_link_down(
        &mut self,
        now: Instant,
        key: LinkKey,
        reason: CloseReason,
        out: &mut impl Outbound,
    ) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_link_down(&mut cx, key, reason)
    }

    /// Another shard sent a message, with the frame that belongs to it.
    pub fn handle_mesh(
        &mut self,
        now: Instant,
        from: ReactorId,
        message: MeshMessage,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_mesh(&mut cx, from, message, frame)
    }

    /// The registry has something to say.
    pub fn handle_registry(&mut self, now: Instant, output: RegistryOutput, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_registry(&mut cx, output)
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_timeout(&mut cx)
    }

    /// Asks this shard something for people. `id` must be drawn at random each time. Without an answer [`Outbound::answer`]
    /// follows.
    pub fn ask(
        &mut self,
        now: Instant,
        id: u64,
        question: Question,
        out: &mut impl Outbound,
    ) -> Option<Answer> {
        let (parts, mut cx) = self.at(now, out);
        parts.ask(&mut cx, id, question)
    }

    /// A ledger node was not reached that [`Outbound::dial_ledger`] asked for.
    pub fn handle_dial_failed(
        &mut self,
        now: Instant,
        session: LinkKey,
        number: u64,
        out: &mut impl Outbound,
    ) {
        let (parts, mut cx) = self.at(now, out);
        parts.handle_dial_failed(&mut cx, session, number);
    }

    /// Closes all links to a node. One that is not to be linked any more is given up at once.
    pub fn close_node(&mut self, now: Instant, id: &NodeId, reason: CloseReason, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.close_node(&mut cx, id, reason);
    }

    /// Bytes arrived on a link, whether or not they complete a frame.
    pub fn handle_activity(&mut self, now: Instant, key: LinkKey) {
        self.parts.handle_activity(now, key);
    }

    /// The keys of a link are worn out; to be told once. A node link is to be replaced by whoever dialled it. A session gets
    /// its requests in flight answered and new ones refused with 99, and is then to be closed.
    pub fn handle_rekey_due(&mut self, key: LinkKey) {
        self.parts.handle_rekey_due(&self.common, key);
    }

    /// The node is to stop: applications are let go within such a time, one after the other, so that they come to other nodes
    /// without a rush, and no message is lost.
    pub fn handle_lame_duck(&mut self, now: Instant, within: Duration, out: &mut impl Outbound) {
        let (parts, mut cx) = self.at(now, out);
        parts.begin_lame_duck(&mut cx, within);
    }

    /// The node shuts down: what is in flight is answered, new requests get 99.
    pub fn handle_drain(&mut self, _now: Instant, _out: &mut impl Outbound) {
        self.common.draining = true;
    }

    /// When [`Self::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.parts.poll_timeout()
    }

    /// Whether a link's session, if it is one, waits for no answer, and none is awaited of it.
    pub fn is_link_quiet(&mut self, key: LinkKey) -> bool {
        self.parts.is_link_quiet(key)
    }

    /// How many answers are to come, of those who were asked something.
    pub fn awaited(&self) -> usize {
        self.parts.awaited()
    }

    /// Whether a drain is complete: no request waits for its answer.
    pub fn is_drained(&self) -> bool {
        self.common.draining && self.parts.is_drained()
    }

    /// Forgets traces that newer messages of other reactors have made too old.
    pub fn forget_old_traces(&mut self) {
        self.common.forget_old_traces();
    }

    /// This shard's time stood still for so long in all: what the reactors have in common goes by the real time.
    pub fn set_paused(&mut self, paused: Duration) {
        self.common.paused = paused;
    }

    /// Whether a line may tell that this node stood still.
    pub fn may_log_pause(&mut self, now: Instant) -> bool {
        self.common.logs.pauses.admits(now)
    }

    /// Says, once a session, that it is to reconnect before long.
    pub fn warn_keys_exhausted(&mut self, now: Instant, key: LinkKey) {
        if let Some(session) = self.parts.session_mut(key) {
            session.warn_keys_exhausted(now, &mut self.common.logs.keys_exhausted);
        }
    }

    /// Says that a session is about to be cut because it takes nothing.
    pub fn warn_stalled(&mut self, now: Instant, key: LinkKey, stalled_for: Duration, waiting_bytes: usize) {
        if let Some(session) = self.parts.session_mut(key) {
            session.warn_stalled(now, &mut self.common.logs.sessions_cut, stalled_for, waiting_bytes);
        }
    }

    /// How full its tables are. Looks at every neighbour.
    pub fn usage(&self) -> Usage {
        self.parts.usage()
    }

    /// For tests: what does not agree with the tables that it is the sum of, in words; `None` if all does.
    pub fn miscount(&self) -> Option<String> {
        self.parts.miscount(&self.common)
    }

    /// Makes the metrics show how full its tables are.
    pub fn count_usage(&self) {
        let (usage, counters) = (self.usage(), &self.common.counters);
        for (gauge, value) in [
            (&counters.pending_requests, usage.requests),
            (&counters.pending_pushes, usage.pushes),
            (&counters.peers, usage.peers),
            (&counters.retained_bytes, usage.retained_bytes),
            (&counters.awaited_answers, usage.awaiting),
            (&counters.window_frames, usage.window_frames),
            (&counters.window_bytes, usage.window_bytes),
            (&counters.windows_bytes, usage.windows_bytes),
        ] {
            gauge.set(value as u64);
        }
        counters.ledger_bytes.set(self.parts.upstreams.bytes() as u64);
        counters.ledger_pending_requests.set(self.parts.upstreams.asked() as u64);
        let (failed, others) = self.common.traces.kept();
        counters.traces_failed_kept.set(failed as u64);
        counters.traces_other_kept.set(others as u64);
    }
}

/// How full the tables of a shard are. Each has its bound in
/// [`Settings`](crate::relay::settings::Settings).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests that wait for their answer.
    pub requests: usize,
    /// Pushes to this shard's sessions that wait for their answer.
    pub pushes: usize,
    /// Bytes of frames kept for another try.
    pub retained_bytes: usize,
    /// Unicasts whose answer is awaited from neighbours.
    pub awaiting: usize,
    /// Most messages that any node has not acknowledged.
    pub window_frames: usize,
    /// Most bytes of them.
    pub window_bytes: usize,
    /// Bytes that all nodes have not acknowledged, and of what came before its turn.
    pub windows_bytes: usize,
    /// Other nodes of which something is remembered.
    pub peers: usize,
    /// Distinct topics of its sessions.
    pub topics: usize,
}

/// Bytes of memory that the parts of a shard take, for its bounds.
pub(super) struct Sizes {
    pub(super) session: usize,
    pub(super) request: usize,
    pub(super) awaiting: usize,
    pub(super) push: usize,
    pub(super) push_timer: usize,
    pub(super) neighbour: usize,
    pub(super) node_link: usize,
    pub(super) peer: usize,
    pub(super) floor: usize,
    pub(super) pair: usize,
    pub(super) asked: usize,
    pub(super) challenge: usize,
    pub(super) carried: usize,
    pub(super) attempts: usize,
    pub(super) upstream: usize,
    pub(super) peer_2x: usize,
    pub(super) remembered_2x: usize,
}

/// Memory of a multicast that is known again, where it can come from two sides.
pub(super) const fn copy_len() -> usize {
    upstream::copies::COPY_LEN
}

pub(super) fn sizes() -> Sizes {
    Sizes {
        session: size_of::<Option<Link>>() + size_of::<Session>(),
        request: request::REQUEST_LEN,
        awaiting: peer::AWAITING_LEN,
        push: push::PUSH_LEN,
        push_timer: size_of::<PushTimer>() + 32,
        neighbour: size_of::<Neighbour>(),
        node_link: size_of::<NodeLink>(),
        peer: size_of::<(NodeId, Peer)>() + size_of::<channel::Channel>() + size_of::<Seal>() + 2 * 32,
        floor: size_of::<(NodeId, replay::ReplayFloor)>(),
        pair: publisher::PAIR_LEN,
        asked: publisher::OPEN_LEN,
        challenge: challenge_broker::OPEN_LEN,
        carried: challenge_broker::CARRIED_LEN,
        attempts: diagnostic::trace::ATTEMPTS_LEN,
        upstream: upstream::UPSTREAM_LEN + upstream::HANDSHAKE_LEN_MAX,
        peer_2x: peer_2x::PEER_LEN,
        remembered_2x: peer_2x::REMEMBERED_LEN,
    }
}
