//! The relay of one reactor: a state machine without I/O.
//!
//! Events go in by `handle_*`; what follows from them goes out through the [`Outbound`] passed along,
//! before the call returns. A shard owns its sessions and node links outright and shares nothing with
//! other shards but the snapshot, the limiters and the mesh.
//!
//! | file | holds |
//! |---|---|
//! | `session` | what an application may say: handshake, heartbeat, subscription, JSON-RPC |
//! | `seqs` | tables by seq |
//! | `request` | unicasts: drawing receivers, trying again, answering exactly once |
//! | `push` | a request at one of our sessions, until it answers |
//! | `room` | requests that wait for room in a session's queue |
//! | `multicast` | copies to everybody |
//! | `publisher` | private topics: whom a publisher has challenged and accepted |
//! | `desk` | private topics: carrying challenges to subscribers, once and to nobody else |
//! | `private` | private topics: subscribers' numbers, challenges at our sessions |
//! | `neighbour` | another node: which link is live, what it has not acknowledged, what it sent before |
//! | `peer` | the same node as the end of messages: which life of it, whose answers are awaited, what it sent before |
//! | `channel` | messages to and from a node that is no neighbour: numbered, kept, put in order |
//! | `around` | such messages in both directions: sealed, sent again, acknowledged |
//! | `route` | frames on their way over more than one link: the next hop, other ways, waiting for one |
//! | `node_link` | frames of node links: Hello, Ack, state, AMOP |
//! | `ping` | finding out the way to another node |
//! | `charge` | what leaves on node links, and who pays for it |
//! | `too_long` | frames that are longer than a node takes |
//! | `trace` | accounts of messages that are over, for who asks for one by its seq |
//! | `twin` | two nodes with one key |
//! | `logs` | how many lines are logged |
//!
//! # Invariants
//! - A request sits in the table until it was answered; every path out of the table answers it.
//! - A session is in the list of a topic exactly if the topic is in its set.
//! - A push is in its session's table exactly as long as its frame is on the way, its timer runs, or the session is
//!   silent and may still answer.
//! - While a request waits in the line of a session, nothing else is queued there but replies.

mod around;
mod channel;
mod charge;
mod desk;
pub(super) mod logs;
mod long_answer;
mod multicast;
mod neighbour;
mod node_link;
mod peer;
mod ping;
mod private;
mod publisher;
mod push;
mod recount;
mod request;
mod room;
mod round_trip;
mod route;
mod seqs;
mod session;
mod too_long;
mod trace;
mod twin;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;

pub use around::FLOORS_MAX;
pub(super) use channel::HELD_MAX;
pub(super) use desk::{CARRIED_MAX, CARRIED_MEMORY, CHALLENGES_MAX, CHALLENGES_OF_NODE_MAX};
pub(in crate::relay) use node_link::STATE_PAYLOAD_LEN_MAX;
pub(super) use publisher::{OPEN_FOR_MAX, OPEN_IN_ALL_MAX, OPEN_MAX, PAIRS_MAX};
pub(super) use request::TRIES_MAX;
pub(super) use route::{PARKED_BYTES_MAX, PARKED_MAX};

use self::{
    channel::Floor,
    desk::Desk,
    logs::Logs,
    neighbour::Neighbour,
    node_link::NodeLink,
    peer::Peer,
    ping::Pings,
    private::Subscribers,
    publisher::Publisher,
    push::PushTimer,
    request::{Requests, Unsettled},
    room::RoomWaits,
    route::Parked,
    session::{LocalTopics, Session},
    trace::Traces,
};
use super::{
    CloseReason, LinkKey, LinkUp, MeshMessage, NotPushed, Outbound, ReactorId, RegistryInput, RegistryOutput,
    RequestId, STATE_BYTES_MAX, SessionId, Shared,
    admission::Admission,
    counters::Counters,
    current::Current,
    report::LinkReport,
    rng::{FastRng, SecretRng, Seed},
    sealing::Subject,
    snapshot::{NodeRef, Snapshot},
    timers::Timers,
};
use crate::wire::{FrameRef, NodeId};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How often node links are looked at: keep-alive, death, grace. A quarter of the shortest time that
/// depends on it.
const NODE_TICK: Duration = Duration::from_millis(100);
/// A session is looked at so often within its idle timeout, and closed at the first look after it.
const IDLE_CHECKS_PER_TIMEOUT: u32 = 6;
/// How long a deferred subscription waits before it is tried again.
const DEFERRED_SUBSCRIPTION_DELAY: Duration = Duration::from_millis(50);

/// The relay of one reactor.
pub struct Shard {
    shared: Arc<Shared>,
    snapshot: Current<Snapshot>,
    admission: Current<Admission>,
    counters: Arc<Counters>,
    id: ReactorId,
    /// The last moment that was asked for by [`Self::nanos`], and what it is.
    clock: (Instant, u64),
    /// What this shard's time leaves out of the real one.
    paused: Duration,
    fast_rng: FastRng,
    /// Draws keys, tokens and numbers.
    secret_rng: SecretRng,
    /// Keys all hash tables, so that the seed decides the order in which they are walked, too.
    hashing: RandomState,
    /// Links by [`LinkKey::index`].
    links: Vec<Option<Link>>,
    sessions_started: u64,
    session_indices: AHashMap<SessionId, u32>,
    local_topics: LocalTopics,
    subscribers: Subscribers,
    /// By link index.
    publishers: BTreeMap<u32, Publisher>,
    /// Pairs of all its publishers.
    pairs: usize,
    desk: Desk,
    requests: Requests,
    /// Those for which no receiver is known as long as the state of a neighbour is on its way.
    unsettled: Unsettled,
    retained_bytes: usize,
    pushes: usize,
    neighbours: AHashMap<NodeId, Neighbour>,
    peers: AHashMap<NodeId, Peer>,
    parked: Parked,
    /// How many payloads were sealed in this life.
    sealed: u64,
    /// Of all nodes that have, or had, a channel in this life of the node.
    floors: AHashMap<NodeId, Floor>,
    /// The life of the node in the place of which a later one was asked for.
    life_asked: Option<u64>,
    /// Bytes in the windows of all neighbours.
    windows_bytes: usize,
    /// Bytes in the channels with all nodes that are no neighbours.
    kept_bytes: usize,
    /// Message identities remembered for all neighbours.
    identities: usize,
    node_links_started: u64,
    push_timers: Timers<PushTimer>,
    request_timers: Timers<RequestId>,
    idle_timers: Timers<LinkKey>,
    room_waits: RoomWaits,
    deferred_subscriptions: Timers<LinkKey>,
    ack_timers: Timers<AckDue>,
    next_node_tick: Option<Instant>,
    next_publisher_look: Option<Instant>,
    draining: bool,
    logs: Logs,
    traces: Traces,
    pings: Pings,
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
    pub(super) identity: usize,
    pub(super) pair: usize,
    pub(super) asked: usize,
    pub(super) challenge: usize,
    pub(super) carried: usize,
    pub(super) question: usize,
    pub(super) steps: usize,
    pub(super) ping: usize,
}

pub(super) fn sizes() -> Sizes {
    Sizes {
        session: size_of::<Option<Link>>() + size_of::<Session>(),
        request: request::REQUEST_LEN,
        awaiting: peer::AWAITING_LEN,
        push: size_of::<(seqs::SeqKey, push::Push)>(),
        push_timer: size_of::<PushTimer>() + 32,
        neighbour: size_of::<Neighbour>(),
        node_link: size_of::<NodeLink>(),
        peer: size_of::<(NodeId, Peer)>() + size_of::<channel::Channel>() + 32,
        floor: size_of::<(NodeId, channel::Floor)>(),
        identity: peer::IDENTITY_LEN,
        pair: publisher::PAIR_LEN,
        asked: publisher::OPEN_LEN,
        challenge: desk::OPEN_LEN,
        carried: desk::CARRIED_LEN,
        question: trace::QUESTION_LEN,
        steps: trace::STEPS_LEN,
        ping: ping::PING_SIZE,
    }
}

/// What an acknowledgement is due on.
enum AckDue {
    Link(LinkKey),
    Channel(NodeId),
}

struct Link {
    generation: u32,
    kind: LinkKind,
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
    /// Most frames in the window of any neighbour.
    pub window_frames: usize,
    /// Most bytes in the window of any neighbour.
    pub window_bytes: usize,
    /// Bytes in the windows of all neighbours.
    pub windows_bytes: usize,
    /// Bytes kept for, and held of, nodes that are no neighbours.
    pub kept_bytes: usize,
    /// Other nodes of which something is remembered.
    pub peers: usize,
    /// Most message identities remembered for any neighbour.
    pub identities: usize,
    /// Message identities remembered for all neighbours.
    pub all_identities: usize,
    /// Distinct topics of its sessions.
    pub topics: usize,
}

enum LinkKind {
    Sdk(Box<Session>),
    Node(Box<NodeLink>),
}

impl Shard {
    /// A shard without links. `seed` decides all its random choices; `id` must be below
    /// `shared.reactors`.
    pub fn new(shared: Arc<Shared>, id: ReactorId, seed: Seed, _now: Instant) -> Self {
        let settings = &shared.settings;
        let mut secret_rng = SecretRng::new(&seed);
        let fast_rng = FastRng::new(&mut secret_rng);
        let mut number = || secret_rng.number();
        let hashing = RandomState::with_seeds(number(), number(), number(), number());
        Self {
            snapshot: Current::new(&shared.snapshot),
            admission: Current::new(&shared.admission),
            counters: shared.counters[usize::from(id.0)].clone(),
            id,
            clock: (shared.started, 0),
            paused: Duration::ZERO,
            fast_rng,
            secret_rng,
            links: Vec::new(),
            sessions_started: 0,
            session_indices: AHashMap::with_hasher(hashing.clone()),
            local_topics: LocalTopics::new(hashing.clone()),
            subscribers: Subscribers::new(hashing.clone()),
            publishers: BTreeMap::new(),
            pairs: 0,
            desk: Desk::new(hashing.clone()),
            traces: Traces::new(hashing.clone()),
            pings: Pings::new(hashing.clone()),
            requests: Requests::default(),
            unsettled: Unsettled::default(),
            retained_bytes: 0,
            pushes: 0,
            neighbours: AHashMap::with_hasher(hashing.clone()),
            peers: AHashMap::with_hasher(hashing.clone()),
            parked: Parked::default(),
            sealed: 0,
            floors: AHashMap::with_hasher(hashing.clone()),
            life_asked: None,
            windows_bytes: 0,
            kept_bytes: 0,
            identities: 0,
            room_waits: RoomWaits::new(settings.request_timeout, hashing.clone()),
            hashing,
            node_links_started: 0,
            push_timers: Timers::new(settings.push_timeout),
            request_timers: Timers::new(settings.request_timeout),
            idle_timers: Timers::new(settings.idle_timeout / IDLE_CHECKS_PER_TIMEOUT),
            deferred_subscriptions: Timers::new(DEFERRED_SUBSCRIPTION_DELAY),
            ack_timers: Timers::new(settings.ack_delay_max),
            next_node_tick: None,
            next_publisher_look: None,
            draining: false,
            logs: shared.logs.clone(),
            shared,
        }
    }

    /// A link has come up.
    pub fn handle_link_up(&mut self, now: Instant, key: LinkKey, up: LinkUp, out: &mut impl Outbound) {
        let index = key.index as usize;
        if self.links.len() <= index {
            self.links.resize_with(index + 1, || None);
        }
        debug_assert!(self.links[index].is_none(), "a link came up in an occupied slot");
        let kind = match up {
            LinkUp::Sdk { address, subject } => {
                LinkKind::Sdk(Box::new(self.new_session(now, key, address, subject)))
            }
            LinkUp::Node { id, dialed, address, agency, name } => {
                let link =
                    self.new_node_link(now, id, dialed, node_link::PeerLabel { address, agency, name });
                LinkKind::Node(Box::new(link))
            }
        };
        let is_node = matches!(kind, LinkKind::Node(_));
        self.links[index] = Some(Link { generation: key.generation, kind });
        if is_node {
            self.greet(now, key, out);
        }
    }

    /// Bytes arrived on a link, whether or not they complete a frame.
    pub fn handle_activity(&mut self, now: Instant, key: LinkKey) {
        match self.link_mut(key) {
            Some(LinkKind::Sdk(session)) => session.last_activity = now,
            Some(LinkKind::Node(link)) => link.last_received = now,
            None => {}
        }
    }

    /// A whole frame arrived on a link.
    pub fn handle_frame(&mut self, now: Instant, key: LinkKey, frame: FrameRef<'_>, out: &mut impl Outbound) {
        match self.link_mut(key) {
            Some(LinkKind::Sdk(_)) => self.handle_sdk_frame(now, key, frame, out),
            Some(LinkKind::Node(_)) => self.handle_node_frame(now, key, frame, out),
            None => {}
        }
    }

    /// A link is gone. Comes once for each link that came up.
    pub fn handle_link_down(
        &mut self,
        now: Instant,
        key: LinkKey,
        reason: CloseReason,
        out: &mut impl Outbound,
    ) {
        let Some(slot) = self.links.get_mut(key.index as usize) else { return };
        let Some(link) = slot.take_if(|link| link.generation == key.generation) else { return };
        match reason {
            CloseReason::Tls
            | CloseReason::TlsUnexpected
            | CloseReason::FrameLength(_)
            | CloseReason::FrameUnfinished
            | CloseReason::FramePoolFull
            | CloseReason::NodeFrame
            | CloseReason::Protocol => self.counters.closed_protocol.increment(),
            CloseReason::Stalled => self.counters.closed_stalled.increment(),
            CloseReason::KeysWorn => self.counters.closed_worn.increment(),
            _ => {}
        }
        match link.kind {
            LinkKind::Sdk(session) => self.end_session(now, *session, reason, out),
            LinkKind::Node(node_link) => self.end_node_link(now, key, *node_link, reason, out),
        }
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
        match message {
            MeshMessage::Deliver { request, audience, excluded, wait_for_room } => {
                let message = (request, audience.as_deref(), excluded, wait_for_room);
                self.handle_deliver(now, from, message, frame, out);
            }
            MeshMessage::ForgetWait { request } => {
                self.forget_wait((from, request));
            }
            MeshMessage::Undeliverable { request, why } => {
                self.handle_undeliverable(now, request, from, why, frame, out);
            }
            MeshMessage::PushFailed { request, session, seq, silent } => {
                self.handle_push_failed(now, request, session, seq, silent, out);
            }
            MeshMessage::Answer { request, session } => {
                self.answer_from_session(now, request, session, frame, out);
            }
            MeshMessage::ForgetPush { session, seq } => self.forget_push(session, &seq),
            MeshMessage::Multicast => self.handle_multicast_of_reactor(now, frame, out),
            MeshMessage::PrivateMulticast { audience } => {
                let mut copies = self.copies();
                self.deliver_private_multicast(now, &audience.0, frame, &mut copies, out);
                self.keep_copies(now, frame, copies, None);
            }
            MeshMessage::OpenChallenge { challenge } => self.open_challenge(now, challenge, out),
            MeshMessage::ChallengeOpened { publisher, token, node } => {
                self.challenge_opened(publisher, &token, node.as_deref(), out);
            }
            MeshMessage::SendNotice { node, notice } => self.send_notice(now, *node, *notice, out),
            MeshMessage::Carry { request, sender } => {
                if !self.carry(now, from, request, sender, frame, out) {
                    let why = NotPushed::ChallengeClosed;
                    out.to_reactor(from, MeshMessage::Undeliverable { request, why }, FrameRef::Slice(&[]));
                }
            }
            MeshMessage::Present { coordinator, request, sender, challenge } => {
                if !self.present(now, coordinator, request, sender, &challenge, frame, out) {
                    self.report_not_presented(now, coordinator, request, out);
                }
            }
            MeshMessage::ChallengeAnswered { publisher, token, node } => {
                self.challenge_answered(now, publisher, &token, node.as_deref(), out);
            }
            MeshMessage::Forward { request, node, message, time_left_ms, may_wait, audience } => {
                let audience = audience.as_deref();
                let time_left = (time_left_ms, may_wait);
                if !self.forward(now, from, request, &node, message, time_left, audience, frame, out) {
                    let failed = MeshMessage::ForwardFailed { request, message, taken: false };
                    out.to_reactor(from, failed, FrameRef::Slice(&[]));
                }
            }
            MeshMessage::Pass { packet, next } => self.pass(now, *packet, *next, frame, out),
            MeshMessage::Arrived { source, packet_type, seq } => {
                self.arrive(now, &source, Subject { packet_type, seq }, frame, out);
            }
            MeshMessage::NotPassed { node, packet_type, seq } => {
                self.handle_not_passed(now, &node, Subject { packet_type, seq });
            }
            MeshMessage::Taken { node, message } => self.note_taken_on_the_way(&node, message),
            MeshMessage::ForwardFailed { request, message, taken } => {
                self.handle_forward_failed(now, request, message, taken, out);
            }
            MeshMessage::ForwardAnswer { request, message, by_node } => {
                self.answer_from_node(now, request, message, by_node, frame, out);
            }
            MeshMessage::AnswerBegun { request, len } => self.handle_answer_begun(now, request, len, out),
            MeshMessage::ForgetForward { node, message, report } => {
                if let Some((request, taken)) = self.forget_forward(now, &node, message)
                    && report
                {
                    let failed = MeshMessage::ForwardFailed { request, message, taken };
                    out.to_reactor(from, failed, FrameRef::Slice(&[]));
                }
            }
            MeshMessage::ForwardMulticast { nodes, message } => {
                let mut copies = self.copies();
                let nodes: SmallVec<[&NodeRef; 8]> = nodes.iter().collect();
                self.forward_multicast_to_all(now, &nodes, message, frame, &mut copies, out);
                self.keep_copies(now, frame, copies, None);
            }
            MeshMessage::ForwardPrivateMulticast { node, message, audience } => {
                let taken = self.forward_multicast(now, &node, message, Some(&audience), frame, out);
                let mut copies = self.copies();
                copies.note_node(&node, message, taken);
                self.keep_copies(now, frame, copies, None);
            }
            MeshMessage::TellTrace { node, question, seq } => self.tell(now, *node, question, &seq, out),
            MeshMessage::AnswerProbe { source, notice } => self.answer_probe(now, &source, *notice, out),
            MeshMessage::ProbeEnded { by, seq, why, destination, tag } => {
                self.handle_way_ended(now, &by, (seq, why, destination, tag), out);
            }
        }
    }

    /// The registry has something to say.
    pub fn handle_registry(&mut self, now: Instant, output: RegistryOutput, out: &mut impl Outbound) {
        match output {
            RegistryOutput::ToNode { to, packet_type, seq, payload } => {
                self.send_state(now, &to, packet_type, seq, &payload, out);
            }
            RegistryOutput::RpcAnswer { link, seq, body } => {
                self.send_rpc_answer(now, link, &seq, &body, out);
            }
            RegistryOutput::Reach { id, incarnation } => self.handle_reach(now, &id, incarnation, out),
            RegistryOutput::WaysChanged { is_node_lost } => self.handle_ways_changed(now, is_node_lost, out),
            RegistryOutput::StateCame => self.try_unsettled(now, out),
            RegistryOutput::NewLife => self.begin_life(now, out),
            RegistryOutput::CloseNode { id, reason } => self.close_node(now, &id, reason, out),
        }
    }

    /// When [`Self::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.push_timers.deadline(),
            self.request_timers.deadline(),
            self.idle_timers.deadline(),
            self.room_waits.deadline(),
            self.deferred_subscriptions.deadline(),
            self.ack_timers.deadline(),
            self.traces.deadline(),
            self.pings.deadline(),
            self.next_node_tick,
            self.next_publisher_look,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut impl Outbound) {
        while let Some(timer) = self.push_timers.pop_expired(now) {
            self.handle_push_timeout(now, timer, out);
        }
        while let Some(request) = self.request_timers.pop_expired(now) {
            self.handle_request_timeout(now, request, out);
        }
        while let Some(key) = self.idle_timers.pop_expired(now) {
            self.check_idle(now, key, out);
        }
        while let Some(request) = self.room_waits.pop_expired(now) {
            self.handle_room_timeout(now, request, out);
        }
        while let Some(key) = self.deferred_subscriptions.pop_expired(now) {
            self.apply_deferred_subscription(now, key, out);
        }
        while let Some(due) = self.ack_timers.pop_expired(now) {
            match due {
                AckDue::Link(key) => self.send_due_ack(now, key, out),
                AckDue::Channel(id) => self.send_due_channel_ack(now, &id, out),
            }
        }
        self.end_questions(now, out);
        self.end_pings(now, out);
        if self.next_node_tick.is_some_and(|due| due <= now) {
            self.tick_nodes(now, out);
        }
        if self.next_publisher_look.is_some_and(|due| due <= now) {
            self.look_at_publishers(now, out);
        }
    }

    /// The keys of a link are worn out; to be told once. A node link is to be replaced by whoever dialled it. A session gets
    /// its requests in flight answered and new ones refused with 99, and is then to be closed.
    pub fn handle_link_worn(&mut self, key: LinkKey) {
        match self.link_mut(key) {
            Some(LinkKind::Sdk(session)) => {
                session.is_worn = true;
                self.counters.sessions_worn.increment();
            }
            Some(LinkKind::Node(_)) => self.wear_node_link(key),
            None => {}
        }
    }

    /// Whether a link's session, if it is one, waits for no answer, and none is awaited of it.
    pub fn is_link_quiet(&mut self, key: LinkKey) -> bool {
        self.session_mut(key).is_none_or(|session| session.requests.is_empty() && session.pushes.is_empty())
    }

    /// The node shuts down: what is in flight is answered, new requests get 99.
    pub fn handle_drain(&mut self, _now: Instant, _out: &mut impl Outbound) {
        self.draining = true;
    }

    /// Tells about the links in slots from `from` on, at most `slots_max` of them; with it comes where to
    /// go on, until there are no more.
    pub fn report_links(&self, from: u32, slots_max: u32) -> (Vec<LinkReport>, Option<u32>) {
        let end = from.saturating_add(slots_max).min(self.links.len() as u32);
        let slots = self.links.get(from as usize..end as usize).unwrap_or_default();
        let reports = slots
            .iter()
            .enumerate()
            .filter_map(|(offset, slot)| {
                let link = slot.as_ref()?;
                let key = LinkKey { index: from + offset as u32, generation: link.generation };
                Some(match &link.kind {
                    LinkKind::Sdk(session) => session.report(key),
                    LinkKind::Node(link) => link.report(key, self.is_active(key, &link.peer)),
                })
            })
            .collect();
        (reports, ((end as usize) < self.links.len()).then_some(end))
    }

    /// Whether a drain is complete: no request waits for its answer.
    pub fn is_drained(&self) -> bool {
        // A request whose node was told that nobody answered is kept for a late answer only.
        self.draining && self.requests.iter().all(request::Request::is_answered_for_now)
    }

    /// How full its tables are. Looks at every neighbour.
    pub fn usage(&self) -> Usage {
        let neighbours = || self.neighbours.values().map(Neighbour::usage);
        Usage {
            requests: self.requests.len(),
            pushes: self.pushes,
            retained_bytes: self.retained_bytes,
            awaiting: self.peers.values().map(Peer::awaiting).sum(),
            window_frames: neighbours().map(|usage| usage.window_frames).max().unwrap_or(0),
            window_bytes: neighbours().map(|usage| usage.window_bytes).max().unwrap_or(0),
            peers: self.peers.len(),
            identities: self.peers.values().map(Peer::identities).max().unwrap_or(0),
            windows_bytes: self.windows_bytes,
            kept_bytes: self.kept_bytes,
            all_identities: self.identities,
            topics: self.local_topics.len(),
        }
    }

    /// This shard's time stood still for so long in all: what the reactors have in common goes by the real time.
    pub fn set_paused(&mut self, paused: Duration) {
        self.paused = paused;
    }

    /// A moment by the clock of the limiters, which all reactors have in common.
    fn limiter_time(&self, now: Instant) -> Duration {
        (now + self.paused).saturating_duration_since(self.shared.started)
    }

    /// Passes a state frame or a JSON-RPC request on, if there is room.
    fn to_registry(&self, input: RegistryInput, out: &mut impl Outbound) -> bool {
        let (RegistryInput::State { payload: bytes, .. } | RegistryInput::Rpc { body: bytes, .. }) = &input
        else {
            return out.to_registry(input);
        };
        let (len, on_the_way) = (bytes.len(), &self.shared.registry_input_bytes);
        if on_the_way.load(Relaxed) >= STATE_BYTES_MAX {
            return false;
        }
        // Before it is passed on: the registry takes it off.
        on_the_way.fetch_add(len, Relaxed);
        let passed = out.to_registry(input);
        if !passed {
            on_the_way.fetch_sub(len, Relaxed);
        }
        passed
    }

    /// Makes the figures show how full its tables are.
    pub fn count_usage(&self) {
        let (usage, counters) = (self.usage(), &self.counters);
        for (gauge, value) in [
            (&counters.pending_requests, usage.requests),
            (&counters.pending_pushes, usage.pushes),
            (&counters.peers, usage.peers),
            (&counters.retained_bytes, usage.retained_bytes),
            (&counters.awaited_answers, usage.awaiting),
            (&counters.window_frames, usage.window_frames),
            (&counters.window_bytes, usage.window_bytes),
            (&counters.windows_bytes, usage.windows_bytes),
            (&counters.kept_bytes, usage.kept_bytes),
            (&counters.identities, usage.identities),
            (&counters.all_identities, usage.all_identities),
        ] {
            gauge.set(value as u64);
        }
        let (failed, others) = self.traces.kept();
        counters.traces_failed_kept.set(failed as u64);
        counters.traces_other_kept.set(others as u64);
    }

    /// Nanoseconds from the node's start to a moment. All that comes at one moment is reckoned once.
    fn nanos(&mut self, now: Instant) -> u64 {
        if now != self.clock.0 {
            let elapsed = now.saturating_duration_since(self.shared.started);
            self.clock = (now, elapsed.as_secs() * NANOS_PER_SECOND + u64::from(elapsed.subsec_nanos()));
        }
        self.clock.1
    }

    /// Microseconds from a moment, in nanoseconds from the node's start, to another one.
    fn micros_since(&mut self, now: Instant, nanos: u64) -> u64 {
        self.nanos(now).saturating_sub(nanos) / 1_000
    }

    /// Whether this node has to do with another one.
    fn admits(&mut self, id: &NodeId) -> bool {
        self.admission.refresh();
        self.admission.admits(id)
    }

    fn link_mut(&mut self, key: LinkKey) -> Option<&mut LinkKind> {
        match self.links.get_mut(key.index as usize)? {
            Some(link) if link.generation == key.generation => Some(&mut link.kind),
            _ => None,
        }
    }

    fn session_mut(&mut self, key: LinkKey) -> Option<&mut Session> {
        session_of(&mut self.links, key)
    }

    fn node_link_mut(&mut self, key: LinkKey) -> Option<&mut NodeLink> {
        match self.link_mut(key)? {
            LinkKind::Node(link) => Some(link),
            LinkKind::Sdk(_) => None,
        }
    }

    /// The session at an index that a topic's list or a session number gave.
    fn session_at(&mut self, index: u32) -> Option<&mut Session> {
        match self.links.get_mut(index as usize)? {
            Some(Link { kind: LinkKind::Sdk(session), .. }) => Some(session),
            _ => None,
        }
    }
}

fn session_of(links: &mut [Option<Link>], key: LinkKey) -> Option<&mut Session> {
    match links.get_mut(key.index as usize)? {
        Some(Link { generation, kind: LinkKind::Sdk(session) }) if *generation == key.generation => {
            Some(session)
        }
        _ => None,
    }
}
