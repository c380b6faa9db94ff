//! The one writer of what all shards read, and the keeper of state records (WIRE §6.3).
//!
//! Sans-IO: changes of our sessions and messages of neighbours go in by [`Registry::handle`]; a
//! [`Registry::publish`] after a number of them makes one snapshot and one signed step of our own
//! record; [`Registry::poll_output`] gives what shards are to send. `docs/node-link.md` describes the
//! messages. What operators announce to all nodes goes from neighbour to neighbour in the same way
//! ([`Registry::announce_text`]).
//!
//! ```text
//!   Topics, NodeUp, NodeDown ──► own record ── publish ──► step ──► every neighbour
//!                          └───► snapshot ─────────────► all shards      ▲
//!   steps, parts ──► records ────┴──► topology ──► routes                │
//!           └────────────────────────────────────────────────────────────┘ (exchange)
//! ```
//!
//! # Invariants
//! - Counts in the snapshot are those of the inputs so far, as of the last publish.
//! - A node's entries are those of a record whose root its key has signed.
//! - A node's entries are in the snapshot exactly while a route leads to it and the lists admit it. Routes go over
//!   nodes that the lists leave out like over others: all nodes must have one picture, or frames would circle.
//! - JSON-RPC waits for everything else, within a bound: it costs most, and anybody may ask.
//! - What a neighbour sends that is wrong is ignored and counted ([`RegistryCounters`]); only one that
//!   goes on and on loses its link.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;
use tracing::warn;

use self::{
    announcements::Announcements,
    catch_up::CatchUp,
    exchange::{Known, News},
    history::Pinned,
    own::OwnRecord,
    peers_2x::Peers2x,
    requests::{Offers, Requests},
    tombstones::Tombstones,
    topology::{Route, Routes, Topology},
};
use super::{
    CloseReason, Fault, LinkKey, ReactorId, RegistryInput, RegistryOutput, Shared, SubscriberId,
    counters::{Counter, metrics},
    expiring_map::ExpiringMap,
    home_reactor,
    ledger::call::Merged,
    log_limit::LogLimit,
    report::NodeReport,
    rpc,
    settings::SESSIONS_MAX,
    signing::NodeSigner,
    snapshot::{self, LongPaths, NodeEntry, NodeRef, Snapshot},
};
use crate::{
    rate_limit::RateLimit,
    wire::{
        NodeId, Topic, TopicKind,
        node::PacketType,
        sdk::Seq,
        state::{self, Change, Entries, Message, MessageError, NodeTraits, Scope},
    },
};
pub use announcements::{
    ANNOUNCEMENTS_MAX, AnnounceError, Announced, OF_NODE_PER_MINUTE_MAX, OWN_PER_MINUTE_MAX,
};
pub(in crate::relay) use announcements::{MEMORY as ANNOUNCEMENTS_MEMORY, OF_NEIGHBOUR_PER_SECOND_MAX};
pub(in crate::relay) use own::HISTORY_LEN_MAX;
pub(in crate::relay) use tombstones::{TOMBSTONE_LEN, TOMBSTONES_MAX};
pub(in crate::relay) use topology::LONG_ROUTES_MAX;

mod announcements;
mod catch_up;
mod exchange;
mod history;
mod own;
mod peers_2x;
mod record;
mod recount;
mod report;
mod requests;
#[cfg(test)]
mod tests;
mod tombstones;
mod topology;

/// How often a node says by a digest what it knows.
const DIGEST_INTERVAL: Duration = Duration::from_secs(5);
/// How long the route to a node farther away still counts when it is lost.
pub(super) const WAY_GRACE: Duration = Duration::from_millis(500);
/// A neighbour that does not fetch the next part for so long begins anew.
const PIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Neighbours at once.
pub const NEIGHBOURS_MAX: usize = 512;
/// Other nodes of the network; a list names them all, and the one that sends it.
pub const NODES_MAX: usize = state::LIST_MAX - 1;
/// A record that no route leads to is kept for so long: the node, or the route, may come back.
const LOST_MEMORY: Duration = Duration::from_secs(60);
/// Nodes that are found by discovery.
pub const DISCOVERED_MAX: usize = 64;
/// How far the nodes are that are found: neighbours' neighbours.
const DISCOVERED_HOPS_MAX: u8 = 2;
/// Bytes of JSON-RPC requests that wait to be answered, each with its place in the queue; further ones are
/// refused.
pub(in crate::relay) const RPC_WAITING_BYTES_MAX: usize = 16 << 20;

/// Tombstones that are kept; where memory is little, still several for each node that is known.
pub(in crate::relay) fn tombstones_max(settings: &super::settings::Settings) -> usize {
    settings.tables.of(TOMBSTONES_MAX).max(4 * NODES_MAX)
}

/// The same where memory is little: the longest request fits.
pub(in crate::relay) fn rpc_waiting_bytes_max(settings: &super::settings::Settings) -> usize {
    settings.tables.of(RPC_WAITING_BYTES_MAX).max(2 * rpc::BODY_LEN_MAX)
}

/// What was wrong with something that a neighbour sent about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not a message of the state protocol, or not one for its packet type.
    #[error("the message is malformed")]
    Malformed,
    /// Not by the origin's key.
    #[error("the signature is not the origin's")]
    Signature,
    /// The step does not build on the step before it that is known here.
    #[error("the step contradicts the one before it")]
    Chain,
    /// The same, of another node than the neighbour: it has signed two steps with one number.
    #[error("a third node's step contradicts the one before it")]
    Fork,
    /// The changes are not those that were signed, or do not lead to the signed root.
    #[error("the changes do not lead to the signed root")]
    Root,
    /// More entries or bytes than a record, or a message, may have.
    #[error("more entries or bytes than are allowed")]
    Size,
    /// More steps per second than an origin may make, or more requests than are answered.
    #[error("more messages per second than are taken")]
    Rate,
    /// A reply to no request.
    #[error("a reply that was not asked for")]
    Unasked,
    /// An announcement that the same neighbour has brought before.
    #[error("an announcement for the second time")]
    Repeated,
    /// The records of all neighbours have as much memory as they may.
    #[error("no room for more topics of other nodes ([amop] records_bytes_max)")]
    Room,
}

impl StateError {
    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        match self {
            Self::Malformed | Self::Signature | Self::Chain | Self::Root | Self::Size | Self::Repeated => {
                Fault::Protocol
            }
            Self::Fork => Fault::Other,
            Self::Room => Fault::Operator,
            // Such messages cross others.
            Self::Rate | Self::Unasked => Fault::Nobody,
        }
    }
}

impl From<MessageError> for StateError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Oversized => Self::Size,
            MessageError::Malformed | MessageError::UnknownKind(_) => Self::Malformed,
        }
    }
}

metrics! {
    /// The metrics of a registry.
    pub struct RegistryCounters {
        /// Changes, messages and requests that wait for the registry now.
        gauge pending_inputs,
        /// Snapshots published.
        counter snapshots,
        /// Steps of our own record signed.
        counter steps_signed,
        /// Steps of neighbours taken.
        counter steps_taken,
        /// Whole records of neighbours taken.
        counter records_taken,
        /// Requests of neighbours answered.
        counter requests_answered,
        /// Steps and parts that held nothing new.
        counter stale,
        /// Messages of kinds not known here.
        counter unknown_kinds,
        /// Steps signed by this node's key that are later than its own: its clock went back, or its key is used twice.
        counter own_id_elsewhere,
        /// Other nodes of the network that are known, whether a route leads to them or not.
        gauge nodes_known,
        /// Other nodes that a route leads to, those that the lists leave out not counted.
        gauge nodes_reachable,
        /// Other nodes that a route leads to and that the blacklist or the whitelist leaves out: no message goes there.
        gauge nodes_not_admitted,
        /// Times that the routes through the network were found anew.
        counter ways_found,
        /// Records that a neighbour was fetching and that were let go of, for it fetched too many at once.
        counter pins_forgotten,
        /// Records of other nodes let go because no route led to them for a minute.
        counter records_let_go,
        /// Nodes that are gone of which it was forgotten how far their records were, for there were too many.
        counter tombstones_forgotten,
        /// Messages of neighbours refused: not of the state protocol.
        counter refused_malformed,
        /// Messages of neighbours refused: not signed by the origin's key.
        counter refused_signature,
        /// Messages of neighbours refused: a step that contradicts the one before it.
        counter refused_chain,
        /// Messages of neighbours refused: a third node's step that contradicts the one before it.
        counter refused_fork,
        /// Messages of neighbours refused: changes that do not lead to the signed root.
        counter refused_root,
        /// Messages of neighbours refused: more entries or bytes than are allowed.
        counter refused_size,
        /// Messages of neighbours refused: more of them per second than are taken.
        counter refused_rate,
        /// Messages of neighbours refused: a reply that was not asked for.
        counter refused_unasked,
        /// Messages of neighbours refused: an announcement that the neighbour had brought before.
        counter refused_repeated,
        /// Announcements made here.
        counter announcements_made,
        /// Announcements of other nodes taken and passed on.
        counter announcements_taken,
        /// Announcements that another neighbour had brought before, as is usual in a network with several routes.
        counter announcements_repeated,
        /// Announcements not taken: of an incarnation that is over, older than the origin's last, or of a node that is not known.
        counter announcements_late,
        /// Messages of neighbours refused: no room for more topics of other nodes.
        counter refused_room,
        /// Subscribers of private topics that other nodes were not told of, at each change, because there are
        /// too many of one topic.
        counter subscribers_not_told,
        /// Neighbours beyond the most that are linked, and nodes beyond the most that are known.
        counter refused_nodes,
        /// About how many bytes of memory the records of all other nodes take.
        gauge records_bytes,
        /// JSON-RPC requests refused because too many waited, or too many answers were not taken yet.
        counter rpc_refused,
    }
}

impl RegistryCounters {
    /// The metric of refusals for one cause.
    pub fn refused(&self, error: StateError) -> &Counter {
        match error {
            StateError::Malformed => &self.refused_malformed,
            StateError::Signature => &self.refused_signature,
            StateError::Chain => &self.refused_chain,
            StateError::Fork => &self.refused_fork,
            StateError::Root => &self.refused_root,
            StateError::Size => &self.refused_size,
            StateError::Rate => &self.refused_rate,
            StateError::Unasked => &self.refused_unasked,
            StateError::Repeated => &self.refused_repeated,
            StateError::Room => &self.refused_room,
        }
    }
}

/// The registry of one node.
pub struct Registry {
    shared: Arc<Shared>,
    counters: Arc<RegistryCounters>,
    snapshot: Snapshot,
    snapshot_changed: bool,
    own: OwnRecord,
    /// Sessions per reactor that subscribe to a private topic's data topic: announced, never routed by
    /// the topic table.
    data_topics: AHashMap<Topic, SmallVec<[(ReactorId, u32); 2]>>,
    /// Data topics whose subscribers here have changed since the last publish.
    changed_subscribers: BTreeSet<Topic>,
    neighbours: BTreeMap<NodeId, NeighbourSync>,
    /// All other nodes of the network that were heard of, neighbours included.
    known: BTreeMap<NodeId, Known>,
    /// Those of them of which somebody has something newer.
    behind: BTreeSet<NodeId>,
    tombstones: Tombstones,
    topology: Topology,
    topology_changed: bool,
    /// Nodes that no route leads to since then, while the old one still counts.
    unreached: BTreeMap<NodeId, Instant>,
    /// As they were found last.
    routes: Routes,
    news: News,
    /// Neighbours, and their neighbours, that tell their address; and whether that was told.
    discovered: (BTreeMap<NodeId, String>, bool),
    /// When a later incarnation of this node was last heard of, and how often in a row.
    own_elsewhere: Option<(Instant, u32)>,
    /// Neighbours that say that they have a later record of our own.
    own_offers: Offers,
    requests: Requests,
    /// Neighbours whose state is on its way.
    unsettled: BTreeSet<NodeId>,
    /// Neighbours that are gone for a moment, since they begin a later incarnation, as long as their state is waited for.
    returning: ExpiringMap<NodeId, ()>,
    /// Neighbours whose state is here, and whether that is to be told.
    settled: BTreeSet<NodeId>,
    settled_changed: bool,
    /// How often a later incarnation is begun because our clock had gone back.
    incarnation_rate: RateLimit,
    /// About how many bytes of memory all records but our own take.
    records_bytes: usize,
    /// Grows with everything that JSON-RPC shows.
    view_version: u64,
    /// What is shown of a neighbour before its record came.
    no_entries: Entries,
    announcements: Announcements,
    peers_2x: Peers2x,
    rpc_cache: rpc::Cache,
    rpc_waiting: VecDeque<RpcRequest>,
    rpc_waiting_bytes: usize,
    outputs: VecDeque<(ReactorId, RegistryOutput)>,
    next_digest: Option<Instant>,
    log_own_id: LogLimit,
    log_bad_state: LogLimit,
    log_no_room: LogLimit,
    log_received: LogLimit,
    log_refused: LogLimit,
    log_announcements: LogLimit,
}

/// A neighbour, and how far the exchange of state with it has come.
struct NeighbourSync {
    entry: NodeRef,
    address: String,
    agency: String,
    name: String,
    since: Instant,
    /// Its link is lost and may return.
    is_lost: bool,
    /// How far its state has come here.
    catch_up: CatchUp,
    /// Records as this neighbour is fetching them, from when it last asked.
    pinned: ExpiringMap<NodeId, Pinned>,
    requests: RateLimit,
    steps: RateLimit,
    announcements: RateLimit,
    refusals: RateLimit,
    refusals_logged: RateLimit,
}

impl NeighbourSync {
    /// A STATE_SEQ to it.
    fn announcement(&self, payload: bytes::Bytes) -> (ReactorId, RegistryOutput) {
        let packet_type = PacketType::STATE_SEQ;
        (self.entry.reactor, RegistryOutput::ToNode { to: self.entry.id, packet_type, seq: None, payload })
    }
}

/// A JSON-RPC request that waits for its turn.
struct RpcRequest {
    since: Instant,
    reactor: ReactorId,
    link: LinkKey,
    seq: Seq,
    /// The request, or the ledger node's answer to it …
    body: bytes::Bytes,
    /// … and then what it is to be merged with.
    ledger: Option<Merged>,
}

impl RpcRequest {
    /// What it counts for in the bound.
    fn cost(&self) -> usize {
        size_of::<Self>() + self.body.len()
    }
}

impl Registry {
    /// A registry that knows nobody yet.
    pub fn new(shared: Arc<Shared>, signer: NodeSigner) -> Self {
        let mut own = OwnRecord::new(
            shared.id,
            shared.incarnation(),
            signer,
            shared.settings.tables.of(HISTORY_LEN_MAX),
        );
        own.change(vec![state::KIND_SALT], Some(shared.salt.to_vec()));
        let traits = NodeTraits {
            relays: shared.settings.relays,
            frame_len_max: shared.settings.advertised_frame_len_max(),
        };
        if let Some(value) = traits.encode() {
            own.change(vec![state::KIND_SELF], Some(value));
        }
        if let Some(address) = &shared.advertised {
            own.change(vec![state::KIND_ADDRESS], Some(address.clone().into_bytes()));
        }
        Self {
            own,
            counters: Arc::default(),
            snapshot: Snapshot::default(),
            snapshot_changed: false,
            data_topics: AHashMap::new(),
            changed_subscribers: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            known: BTreeMap::new(),
            behind: BTreeSet::new(),
            tombstones: Tombstones::new(tombstones_max(&shared.settings)),
            topology: Topology::default(),
            topology_changed: false,
            unreached: BTreeMap::new(),
            routes: Routes::default(),
            news: News::default(),
            discovered: (BTreeMap::new(), true),
            own_elsewhere: None,
            own_offers: Offers::default(),
            requests: Requests::new(),
            unsettled: BTreeSet::new(),
            returning: ExpiringMap::new(shared.settings.ready_timeout, RandomState::new()),
            settled: BTreeSet::new(),
            settled_changed: false,
            incarnation_rate: RateLimit::default(),
            records_bytes: 0,
            view_version: 0,
            no_entries: Entries::default(),
            announcements: Announcements::default(),
            peers_2x: Peers2x::default(),
            rpc_cache: rpc::Cache::default(),
            rpc_waiting: VecDeque::new(),
            rpc_waiting_bytes: 0,
            outputs: VecDeque::new(),
            next_digest: None,
            log_own_id: LogLimit::new("this node's id elsewhere"),
            log_received: LogLimit::new("states of nodes received whole"),
            log_refused: LogLimit::new("neighbours whose state is refused"),
            log_no_room: LogLimit::new("nodes and topics for which there is no room"),
            log_bad_state: LogLimit::new("neighbours that go on to send bad state"),
            log_announcements: LogLimit::new("announcements"),
            shared,
        }
    }

    /// Takes one input. Nothing is published before [`Self::publish`].
    pub fn handle(&mut self, now: Instant, input: RegistryInput) {
        if let RegistryInput::State { payload: bytes, .. } | RegistryInput::Rpc { body: bytes, .. } = &input {
            self.shared.registry_input_bytes.fetch_sub(bytes.len(), Relaxed);
        }
        match input {
            RegistryInput::Topics { reactor, changes } => {
                for (topic, difference) in changes {
                    self.change_local_topic(reactor, &topic, difference);
                }
            }
            RegistryInput::Subscribers { changes } => {
                for (topic, subscriber, subscribes) in changes {
                    self.snapshot.set_own_subscriber(&topic, subscriber, subscribes);
                    self.snapshot_changed = true;
                    self.changed_subscribers.insert(topic);
                }
            }
            RegistryInput::Peer2x { id, news } => self.handle_peer_2x(id, news),
            RegistryInput::NodeUp { id, incarnation, reactor, address, agency, name } => {
                self.handle_node_up(now, id, incarnation, reactor, (address, agency, name));
            }
            RegistryInput::LinkLost { id, incarnation } => self.handle_link_lost(now, &id, incarnation),
            RegistryInput::NodeDown { id, incarnation } => self.handle_node_down(now, &id, incarnation),
            RegistryInput::Admission => {
                self.topology_changed = true;
                if self.shared.has_forgotten.swap(false, Relaxed) {
                    // Messages of them that somebody kept would be delivered now.
                    self.begin_incarnation(self.own.version().incarnation);
                }
            }
            RegistryInput::ReplayFloorsFull { incarnation } => {
                if incarnation == self.own.version().incarnation {
                    if self.log_no_room.admits(now) {
                        warn!(
                            "so many nodes have sent messages over others that no more can be remembered: all links to nodes are made anew; \
                             see who they are by `amop net`, and let in less of them by [certificate_whitelist]",
                        );
                    }
                    self.begin_incarnation(incarnation);
                }
            }
            RegistryInput::State { from, packet_type: PacketType::BROADCAST, payload, .. } => {
                if let Err(error) = self.handle_announcement(now, &from, &payload) {
                    self.refuse(now, &from, error);
                }
            }
            RegistryInput::State { from, packet_type, seq, payload } => {
                if let Err(error) = self.handle_state(now, &from, packet_type, seq, &payload) {
                    self.refuse(now, &from, error);
                }
            }
            RegistryInput::Rpc { reactor, link, seq, body, ledger } => {
                self.handle_rpc(RpcRequest { since: now, reactor, link, seq, body, ledger });
            }
        }
    }

    /// Publishes a snapshot if anything changed, and announces what of our own record changed.
    pub fn publish(&mut self, now: Instant) {
        if std::mem::take(&mut self.topology_changed) {
            self.find_routes(now);
        }
        self.choose_gateways(now);
        self.look_at_catch_ups();
        let is_complete = self.is_complete();
        let was_complete = std::mem::replace(&mut self.snapshot.is_complete, is_complete);
        self.snapshot_changed |= is_complete != was_complete;
        if !was_complete && self.snapshot_changed {
            let reactors = (0..self.shared.reactors).map(ReactorId);
            self.outputs.extend(reactors.map(|reactor| (reactor, RegistryOutput::StateCame)));
        }
        if std::mem::take(&mut self.snapshot_changed) {
            self.snapshot.version += 1;
            self.shared.snapshot.store(Arc::new(self.snapshot.clone()));
            self.counters.snapshots.increment();
        }
        for topic in std::mem::take(&mut self.changed_subscribers) {
            let entry = self.snapshot.private(topic.as_str());
            let sessions = entry.map_or(0, |entry| entry.own.len());
            self.counters.subscribers_not_told.add(sessions.saturating_sub(state::SUBSCRIBERS_MAX) as u64);
            let own = entry.into_iter().flat_map(|entry| entry.own.iter());
            let value: Vec<u8> =
                own.take(state::SUBSCRIBERS_MAX).flat_map(|number| number.0.to_be_bytes()).collect();
            let value = Some(value).filter(|value| !value.is_empty());
            self.own.change(state::topic_sessions_key(topic.as_str()), value);
        }
        while let Some(message) = self.own.next_step() {
            self.counters.steps_signed.increment();
            self.view_version += 1;
            self.announce(message);
        }
        self.pass_on();
    }

    /// What a shard is to do next. When nothing else is left, one JSON-RPC request is answered; whoever has
    /// inputs hands them in before asking for another.
    pub fn poll_output(&mut self) -> Option<(ReactorId, RegistryOutput)> {
        if self.outputs.is_empty() {
            self.answer_rpc();
        }
        self.outputs.pop_front()
    }

    /// Whether anything but JSON-RPC requests waits for [`Self::poll_output`].
    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// When [`Self::handle_timeout`] is due, or there is more to answer.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rpc = self.rpc_waiting.front().map(|request| request.since);
        let unreached = self.unreached.values().min().filter(|_| !self.topology_changed);
        let unreached = unreached.map(|since| *since + WAY_GRACE);
        [rpc, unreached, self.requests.next_late(), self.next_settled(), self.next_digest]
            .into_iter()
            .flatten()
            .min()
    }

    /// Says to all neighbours what this node has, asks again for what it still lacks, and lets go of nodes that
    /// are gone.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.unreached.values().any(|since| now.saturating_duration_since(*since) >= WAY_GRACE) {
            self.topology_changed = true;
        }
        self.expire_requests(now);
        self.expire_catch_ups(now);
        if self.next_digest.is_none_or(|due| due > now) {
            return;
        }
        let hash = state::versions_hash(&mut self.shared_versions());
        self.announce(Message::Digest { scope: Scope::ALL, hash }.encode());
        let is_old = |since: Instant, memory: Duration| now.saturating_duration_since(since) > memory;
        for neighbour in self.neighbours.values_mut() {
            while neighbour.pinned.pop_expired(now).is_some() {}
        }
        self.ask_for_all(now);
        let lost = |known: &Known| known.lost_since.is_some_and(|since| is_old(since, LOST_MEMORY));
        let gone: Vec<NodeId> =
            self.known.iter().filter(|(_, known)| lost(known)).map(|(origin, _)| *origin).collect();
        for origin in gone {
            self.let_go(now, &origin);
        }
        let is_alone = self.neighbours.is_empty() && self.known.is_empty();
        self.next_digest = (!is_alone).then(|| now + DIGEST_INTERVAL);
    }

    /// The route to a node farther away may return in a moment, as a neighbour's link may: until then what is for it goes
    /// on along the old one, as far as that leads.
    fn keep_lost_routes(&mut self, now: Instant, routes: &mut Routes) {
        self.unreached.retain(|id, _| !routes.paths.contains_key(id));
        for (id, path) in &self.routes.paths {
            if path.hops == 1 || routes.paths.contains_key(id) {
                continue;
            }
            let since = *self.unreached.entry(*id).or_insert(now);
            if now.saturating_duration_since(since) < WAY_GRACE {
                routes.paths.insert(*id, path.clone());
            }
        }
        self.unreached.retain(|id, _| routes.paths.contains_key(id));
    }

    /// The same for long frames, to nodes of which the usual route is kept.
    fn keep_lost_long_routes(&self, above: u32, usual: &Routes, routes: &mut Routes) {
        let Some(before) = self.snapshot.long_paths.iter().find(|long| long.above == above) else { return };
        for (id, path) in &before.paths {
            let is_kept = self.unreached.contains_key(id) && usual.paths.contains_key(id);
            if is_kept && !routes.paths.contains_key(id) {
                let snapshot::Path { hops, fingerprint, .. } = *path;
                let path = Route { hops, next: path.next.clone(), fingerprint };
                routes.paths.insert(*id, path);
            }
        }
    }

    /// The nodes that are found by discovery, and where they are; `None` if that is the same as the last time.
    pub fn take_discovered(&mut self) -> Option<BTreeMap<NodeId, String>> {
        let (discovered, is_told) = &mut self.discovered;
        (!std::mem::replace(is_told, true)).then(|| discovered.clone())
    }

    /// Neighbours stay in it, so that whoever is found and linked goes on being kept.
    fn discover(&mut self, routes: &Routes) {
        let near = |hops: u8| routes.paths.iter().filter(move |(_, path)| path.hops == hops);
        let found = (1..=DISCOVERED_HOPS_MAX)
            .flat_map(near)
            .filter_map(|(id, _)| {
                let address = self.known.get(id)?.record.entries().get(&[state::KIND_ADDRESS])?;
                Some((*id, state::address_of(address)?.to_owned()))
            })
            .take(DISCOVERED_MAX)
            .collect();
        if found != self.discovered.0 {
            self.discovered = (found, false);
        }
    }

    /// The metrics, which anybody may read while the registry runs.
    pub fn counters(&self) -> Arc<RegistryCounters> {
        self.counters.clone()
    }

    /// Tells about the neighbours.
    pub fn report_nodes(&self) -> Vec<NodeReport> {
        let report = |(id, neighbour): (&NodeId, &NeighbourSync)| NodeReport {
            id: *id,
            address: neighbour.address.clone(),
            agency: neighbour.agency.clone(),
            name: neighbour.name.clone(),
            reactor: neighbour.entry.reactor,
            incarnation: neighbour.entry.incarnation,
            since: neighbour.since,
            topics: self.known.get(id).map_or(0, |known| known.record.entries().topics().count()),
        };
        self.neighbours.iter().map(report).collect()
    }

    fn handle_rpc(&mut self, request: RpcRequest) {
        if self.rpc_waiting_bytes + request.cost() > rpc_waiting_bytes_max(&self.shared.settings) {
            self.counters.rpc_refused.increment();
            let RpcRequest { reactor, link, seq, body, ledger, .. } = request;
            // What the ledger node has answered holds, if not all of it is there.
            let answer = if ledger.is_some() { Some(body.into()) } else { rpc::over_rate(&body) };
            return self.send_rpc_answer(reactor, link, seq, answer);
        }
        self.rpc_waiting_bytes += request.cost();
        self.rpc_waiting.push_back(request);
    }

    fn answer_rpc(&mut self) {
        let Some(request) = self.rpc_waiting.pop_front() else { return };
        self.rpc_waiting_bytes -= request.cost();
        let RpcRequest { reactor, link, seq, body, ledger, .. } = request;
        let answer = if let Some(merged) = ledger {
            let mut cache = std::mem::take(&mut self.rpc_cache);
            let answer =
                rpc::merge(merged, &body, self.view_version, &self.view(), &self.shared.settings, &mut cache);
            self.rpc_cache = cache;
            Some(answer.unwrap_or_else(|| body.into()))
        } else if self.shared.rpc_answer_bytes.load(Relaxed)
            >= self.shared.settings.tables.of(rpc::ANSWERS_BYTES_MAX)
        {
            self.counters.rpc_refused.increment();
            rpc::over_rate(&body)
        } else {
            let mut cache = std::mem::take(&mut self.rpc_cache);
            let answer =
                rpc::answer(&body, self.view_version, &self.view(), &self.shared.settings, &mut cache);
            self.rpc_cache = cache;
            answer
        };
        self.send_rpc_answer(reactor, link, seq, answer);
    }

    fn send_rpc_answer(&mut self, reactor: ReactorId, link: LinkKey, seq: Seq, answer: Option<Vec<u8>>) {
        if let Some(body) = answer {
            self.shared.rpc_answer_bytes.fetch_add(body.len(), Relaxed);
            let output = RegistryOutput::RpcAnswer { link, seq, body: body.into() };
            self.outputs.push_back((reactor, output));
        }
    }

    fn change_local_topic(&mut self, reactor: ReactorId, topic: &Topic, difference: i32) {
        let sessions: u32 = match topic.kind() {
            TopicKind::Ordinary => {
                let entry = self.snapshot.topic(topic.as_str());
                let before = entry.map_or(0, |entry| count_of(&entry.reactors, reactor));
                self.snapshot.set_reactor(topic, reactor, changed(before, difference));
                self.snapshot_changed = true;
                let entry = self.snapshot.topic(topic.as_str());
                let of_2x =
                    entry.and_then(|entry| entry.of_2x.as_deref()).map_or(0, |of_2x| sum(&of_2x.reactors));
                // Nodes of FISCO BCOS 2.x have an entry of their own.
                sum(entry.map_or(&[], |entry| &entry.reactors)).saturating_sub(of_2x)
            }
            TopicKind::Data => {
                let counts = self.data_topics.entry(topic.clone()).or_default();
                let count = changed(count_of(counts, reactor), difference);
                counts.retain(|(other, _)| *other != reactor);
                if count > 0 {
                    counts.push((reactor, count));
                }
                let sessions = sum(counts);
                if sessions == 0 {
                    self.data_topics.remove(topic.as_str());
                }
                sessions
            }
            TopicKind::Route | TopicKind::Marker | TopicKind::BlockNotify => return,
        };
        let value = (sessions > 0).then(|| sessions.to_be_bytes().to_vec());
        self.own.change(state::topic_key(topic.as_str()), value);
    }

    fn handle_node_up(
        &mut self,
        now: Instant,
        id: NodeId,
        incarnation: u64,
        reactor: ReactorId,
        (address, agency, name): (String, String, String),
    ) {
        debug_assert_eq!(reactor, home_reactor(&id, self.shared.reactors));
        match self.neighbours.get(&id).map(|neighbour| neighbour.entry.incarnation) {
            Some(known) if known > incarnation => return,
            None if self.neighbours.len() >= self.shared.settings.neighbours_max => {
                self.counters.refused_nodes.increment();
                if self.log_no_room.admits(now) {
                    warn!(
                        peer = %id, %address,
                        "closing a node's link, {} nodes are linked already: let in less of them by [certificate_whitelist], or raise [engine] memory_max",
                        self.shared.settings.neighbours_max,
                    );
                }
                let output = RegistryOutput::CloseNode { id, reason: CloseReason::NodeFrame };
                self.outputs.push_back((reactor, output));
                return;
            }
            _ => {}
        }
        let neighbour = self.neighbours.entry(id).or_insert_with(|| NeighbourSync {
            entry: Arc::new(NodeEntry { id, incarnation, reactor }),
            address: String::new(),
            agency: String::new(),
            name: String::new(),
            since: now,
            is_lost: false,
            catch_up: CatchUp::Settled,
            pinned: ExpiringMap::new(PIN_TIMEOUT, RandomState::new()),
            requests: RateLimit::default(),
            steps: RateLimit::default(),
            announcements: RateLimit::default(),
            refusals: RateLimit::default(),
            refusals_logged: RateLimit::default(),
        });
        if neighbour.entry.incarnation < incarnation {
            neighbour.entry = Arc::new(NodeEntry { id, incarnation, reactor });
            neighbour.since = now;
            self.announcements.forget_neighbour(&id);
        }
        neighbour.is_lost = false;
        (neighbour.address, neighbour.agency, neighbour.name) = (address, agency, name);
        self.own.change(state::neighbour_key(&id), Some(Vec::new()));
        self.neighbours_changed();
        self.next_digest.get_or_insert(now + DIGEST_INTERVAL);
        self.begin_exchange(now, &id, incarnation);
        self.begin_catch_up(now, &id);
    }

    fn handle_node_down(&mut self, now: Instant, id: &NodeId, incarnation: u64) {
        if self.neighbours.get(id).is_some_and(|neighbour| neighbour.entry.incarnation == incarnation) {
            self.end_exchange(now, id);
            self.end_catch_up(id);
            self.announcements.forget_neighbour(id);
            self.neighbours.remove(id);
            self.own.change(state::neighbour_key(id), None);
            self.neighbours_changed();
        }
    }

    /// Others are told at once, and routes around it are used; what has no other route waits for its return.
    fn handle_link_lost(&mut self, now: Instant, id: &NodeId, incarnation: u64) {
        if let Some(neighbour) = self.neighbours.get_mut(id)
            && neighbour.entry.incarnation == incarnation
        {
            neighbour.is_lost = true;
            self.own.change(state::neighbour_key(id), None);
            self.topology_changed = true;
            self.end_requests_of(now, id);
        }
    }

    fn neighbours_changed(&mut self) {
        self.snapshot.neighbours = self.neighbours.keys().copied().collect();
        self.snapshot_changed = true;
        self.topology_changed = true;
        self.view_version += 1;
    }

    /// Steps changed a record.
    fn record_changed(&mut self, origin: &NodeId, changes: &[Change<'_>]) {
        let Some(known) = self.known.get(origin) else { return };
        for change in changes {
            self.topology_changed |= apply_to_topology(&mut self.topology, origin, change);
            self.peers_2x.is_changed |= change.key.first() == Some(&state::KIND_PEER_2X);
            if let Some(node) = &known.routed {
                apply_to_snapshot(&mut self.snapshot, node, change);
                self.snapshot_changed = true;
            }
        }
        self.view_version += 1;
    }

    /// A record came whole, or began anew.
    fn record_exchanged(&mut self, origin: &NodeId, before: &Entries) {
        let Some(known) = self.known.get_mut(origin) else { return };
        let after = known.record.entries();
        self.topology.forget(origin);
        for (key, value) in after.iter() {
            apply_to_topology(&mut self.topology, origin, &Change { key, value: Some(value) });
        }
        self.topology_changed = true;
        self.peers_2x.is_changed = true;
        self.view_version += 1;
        let Some(node) = known.routed.take() else { return };
        self.snapshot_changed = true;
        if node.incarnation == known.record.version().incarnation {
            exchange_in_snapshot(&mut self.snapshot, &node, before, after);
            known.routed = Some(node);
        } else {
            // The routes are found anew with the node's new incarnation.
            exchange_in_snapshot(&mut self.snapshot, &node, before, &Entries::default());
        }
    }

    /// Takes a record out of everything that was made of it.
    fn forget_record(&mut self, origin: &NodeId) {
        self.behind.remove(origin);
        self.requests.end(origin);
        let Some(known) = self.known.remove(origin) else { return };
        self.records_bytes -= known.record.footprint();
        self.counters.records_bytes.set(self.records_bytes as u64);
        if let Some(node) = &known.routed {
            exchange_in_snapshot(&mut self.snapshot, node, known.record.entries(), &Entries::default());
            self.snapshot_changed = true;
        }
        self.topology.forget(origin);
        self.topology_changed = true;
        self.peers_2x.is_changed = true;
        self.view_version += 1;
    }

    /// No route led to a node for long.
    fn let_go(&mut self, now: Instant, origin: &NodeId) {
        if self.known.get(origin).is_some_and(|known| known.record.is_known()) {
            self.counters.records_let_go.increment();
        }
        self.bury(now, origin);
        self.forget_record(origin);
    }

    /// Remembers how far a node was that will be forgotten.
    fn bury(&mut self, now: Instant, origin: &NodeId) {
        let Some(known) = self.known.get(origin) else { return };
        let Some(head) = known.record.held().head else { return };
        // Whoever was never there was known for no time.
        let until = known.lost_since.unwrap_or(now);
        let known_for = until.saturating_duration_since(known.since);
        let is_admitted = self.shared.admission.load().admits(origin);
        let announced = self.announcements.forget_origin(origin);
        if self.tombstones.bury(head.clone(), announced, is_admitted, known_for) {
            self.counters.tombstones_forgotten.increment();
        }
    }

    /// Finds the routes through the network, and puts into the snapshot whom they lead to.
    fn find_routes(&mut self, now: Instant) {
        let mut routes = self.routes_for(0);
        self.keep_lost_routes(now, &mut routes);
        self.counters.ways_found.increment();
        let own = self.shared.id;
        let (mut reachable, mut not_admitted) = (0, 0);
        let admission = self.shared.admission.load();
        for (origin, known) in &mut self.known {
            let version = known.record.version();
            if !routes.connected.contains(origin) {
                known.lost_since.get_or_insert(now);
            } else if known.lost_since.take().is_some() && known.record.is_known() {
                // Neighbours may not have it: it was not offered while it was lost.
                self.news.versions.push((own, version));
            }
            let is_reached = routes.paths.contains_key(origin);
            // Of a neighbour whose clock went back an older incarnation is known, until it begins a later one.
            let is_current_incarnation = self
                .neighbours
                .get(origin)
                .is_none_or(|neighbour| neighbour.entry.incarnation == version.incarnation);
            let is_admitted = admission.admits(origin);
            not_admitted += u64::from(is_reached && !is_admitted);
            let is_routed = is_reached && is_admitted && is_current_incarnation && known.record.is_known();
            reachable += u64::from(is_routed);
            let entries = known.record.entries();
            self.peers_2x.is_changed |=
                is_routed != known.routed.is_some() || is_reached != self.routes.paths.contains_key(origin);
            if !is_routed && let Some(node) = known.routed.take() {
                exchange_in_snapshot(&mut self.snapshot, &node, entries, &Entries::default());
                self.snapshot_changed = true;
                self.outputs
                    .push_back((node.reactor, RegistryOutput::Reach { id: *origin, incarnation: None }));
            } else if is_routed && known.routed.is_none() {
                let reactor = home_reactor(origin, self.shared.reactors);
                let node = Arc::new(NodeEntry { id: *origin, incarnation: version.incarnation, reactor });
                exchange_in_snapshot(&mut self.snapshot, &node, &Entries::default(), entries);
                let reach = RegistryOutput::Reach { id: *origin, incarnation: Some(version.incarnation) };
                self.outputs.push_back((reactor, reach));
                known.routed = Some(node);
                self.snapshot_changed = true;
            }
        }
        let path = |(id, path): (&NodeId, &Route)| {
            let record = &self.known.get(id)?.record;
            let (incarnation, next) = (record.version().incarnation, path.next.clone());
            let salt = record.entries().get(&[state::KIND_SALT]).and_then(state::salt_of);
            let frame_len_max = self.topology.traits(id).frame_len_max;
            let Route { hops, fingerprint, .. } = *path;
            Some((*id, snapshot::Path { incarnation, salt, hops, next, frame_len_max, fingerprint }))
        };
        let paths: BTreeMap<NodeId, snapshot::Path> = routes.paths.iter().filter_map(path).collect();
        let long_paths = |(above, least)| {
            let mut long_routes = self.routes_for(least);
            self.keep_lost_long_routes(above, &routes, &mut long_routes);
            LongPaths { above, paths: long_routes.paths.iter().filter_map(path).collect() }
        };
        let settings = &self.shared.settings;
        let own = NodeTraits { relays: settings.relays, frame_len_max: settings.advertised_frame_len_max() };
        let long_frames = self.topology.long_frames(own);
        let long_paths: Vec<LongPaths> = long_frames.into_iter().map(long_paths).collect();
        if self.snapshot.set_paths(paths, long_paths) {
            self.snapshot_changed = true;
            let reactors = (0..self.shared.reactors).map(ReactorId);
            self.outputs.extend(reactors.map(|reactor| (reactor, RegistryOutput::RoutesChanged)));
        }
        if self.shared.settings.discovers {
            self.discover(&routes);
        }
        self.counters.nodes_known.set(self.known.len() as u64);
        self.counters.nodes_reachable.set(reachable);
        self.counters.nodes_not_admitted.set(not_admitted);
        self.routes = routes;
    }

    /// The routes for frames of an SDK link of so many bytes. What leads only over links that are lost just now goes on to
    /// count for a moment: they may return.
    fn routes_for(&self, frame_len: u32) -> Routes {
        let linked = |lost: bool| {
            let neighbours = self.neighbours.iter().filter(move |(_, neighbour)| lost || !neighbour.is_lost);
            neighbours.map(|(id, _)| *id)
        };
        let mut routes = self.topology.routes(&self.shared.id, linked(false), frame_len);
        if self.neighbours.values().any(|neighbour| neighbour.is_lost) {
            let others = self.topology.routes(&self.shared.id, linked(true), frame_len);
            for (id, path) in others.paths {
                routes.paths.entry(id).or_insert(path);
            }
            routes.connected.extend(others.connected);
        }
        routes
    }

    fn announce(&mut self, payload: Vec<u8>) {
        let payload = bytes::Bytes::from(payload);
        self.outputs
            .extend(self.neighbours.values().map(|neighbour| neighbour.announcement(payload.clone())));
    }

    fn send(&mut self, to: &NodeId, packet_type: PacketType, seq: Option<u32>, payload: Vec<u8>) {
        if let Some(neighbour) = self.neighbours.get(to) {
            let output = RegistryOutput::ToNode { to: *to, packet_type, seq, payload: payload.into() };
            self.outputs.push_back((neighbour.entry.reactor, output));
        }
    }

    fn view(&self) -> rpc::NodesView<'_> {
        let own = rpc::NodeView {
            id: self.shared.id,
            address: &self.shared.own_address,
            agency: &self.shared.own_agency,
            name: &self.shared.own_name,
            entries: self.own.entries(),
        };
        let peers = self
            .neighbours
            .iter()
            .map(|(id, NeighbourSync { address, agency, name, .. })| {
                let entries = self.known.get(id).map_or(&self.no_entries, |known| known.record.entries());
                rpc::NodeView { id: *id, address, agency, name, entries }
            })
            .chain(self.view_peers_2x())
            .collect();
        rpc::NodesView { own, peers }
    }
}

fn count_of(counts: &[(ReactorId, u32)], reactor: ReactorId) -> u32 {
    counts.iter().find(|(other, _)| *other == reactor).map_or(0, |(_, count)| *count)
}

fn sum(counts: &[(ReactorId, u32)]) -> u32 {
    counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

fn changed(count: u32, difference: i32) -> u32 {
    debug_assert!(
        count.checked_add_signed(difference).is_some(),
        "{count} sessions cannot change by {difference}"
    );
    count.saturating_add_signed(difference)
}

/// Name and count of a topic that the table holds.
fn routed<'a>(key: &'a [u8], value: Option<&[u8]>) -> Option<(&'a str, u32)> {
    let [state::KIND_TOPIC | state::KIND_TOPIC_2X, name @ ..] = key else { return None };
    if TopicKind::of(name) != TopicKind::Ordinary {
        return None;
    }
    let count =
        value.and_then(|value| value.first_chunk::<4>()).map_or(0, |count| u32::from_be_bytes(*count));
    // No node has more sessions: one that says so would draw all unicasts to itself.
    Some((std::str::from_utf8(name).ok()?, count.min(SESSIONS_MAX as u32)))
}

/// Carries one change of a node's record into the topology; gives whether it had to do with it.
fn apply_to_topology(topology: &mut Topology, node: &NodeId, change: &Change<'_>) -> bool {
    match change.key {
        [state::KIND_NEIGHBOUR, id @ ..] => {
            let Ok(id) = <[u8; 64]>::try_from(id) else { return false };
            topology.list(*node, NodeId(id), change.value.is_some());
        }
        [state::KIND_ADDRESS] => {}
        [state::KIND_SALT] => {
            topology.set_salt(*node, change.value.and_then(state::salt_of));
        }
        [state::KIND_SELF] => {
            topology.set_traits(*node, NodeTraits::decode(change.value.unwrap_or_default()));
        }
        _ => return false,
    }
    true
}

/// Carries one change of a node's record into the topic table.
fn apply_to_snapshot(snapshot: &mut Snapshot, node: &NodeRef, change: &Change<'_>) {
    if let [state::KIND_TOPIC_SESSIONS, name @ ..] = change.key {
        let topic = std::str::from_utf8(name).ok().and_then(Topic::new);
        if let Some(topic) = topic.filter(|topic| topic.kind() == TopicKind::Data) {
            let (numbers, _) = change.value.unwrap_or_default().as_chunks::<8>();
            let numbers = numbers.iter().map(|&number| SubscriberId(u64::from_be_bytes(number)));
            snapshot.set_node_subscribers(&topic, node, numbers.collect());
        }
        return;
    }
    if let Some((name, count)) = routed(change.key, change.value)
        && let Some(topic) = Topic::new(name)
    {
        match change.key.first() {
            Some(&state::KIND_TOPIC_2X) => snapshot.set_node_2x(&topic, node, count),
            _ => snapshot.set_node(&topic, node, count),
        }
    }
}

/// Carries the exchange of a node's whole record into the topic table.
fn exchange_in_snapshot(snapshot: &mut Snapshot, node: &NodeRef, before: &Entries, after: &Entries) {
    for (key, _) in before.iter() {
        if after.get(key).is_none() {
            apply_to_snapshot(snapshot, node, &Change { key, value: None });
        }
    }
    for (key, value) in after.iter() {
        if before.get(key) != Some(value) {
            apply_to_snapshot(snapshot, node, &Change { key, value: Some(value) });
        }
    }
}
