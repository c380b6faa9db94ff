//! The one writer of what all shards read, and the keeper of state records (WIRE §6.3).
//!
//! Sans-IO: changes of our sessions and messages of neighbours go in by [`Registry::handle`]; a
//! [`Registry::publish`] after a number of them makes one snapshot and one signed step of our own
//! record; [`Registry::poll_output`] gives what shards are to send. `docs/node-link.md` describes the
//! messages.
//!
//! ```text
//!   Topics, NodeUp, NodeDown ──► own record ── publish ──► step ──► every neighbour
//!                          └───► snapshot ─────────────► all shards
//!   steps, parts ──► record of the neighbour ──┘
//!   digest, list ──► behind? ──► request ──► steps, or the whole record in parts
//! ```
//!
//! Now every node tells its neighbours about itself only. Records and steps are signed and chained as
//! they will be when others pass them on.
//!
//! # Invariants
//! - Counts in the snapshot are those of the inputs so far, as of the last publish.
//! - A neighbour's entries are those of a record whose root its key has signed.
//! - JSON-RPC waits for everything else, within a bound: it costs most, and anybody may ask.
//! - What a neighbour sends that is wrong is ignored and counted ([`RegistryCounters`]); only one that
//!   goes on and on loses its link.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ahash::AHashMap;
use smallvec::SmallVec;
use tracing::{debug, info, warn};

use self::{
    own::{OwnRecord, Pinned},
    record::{Record, Taken},
};
use super::{
    LinkKey, ReactorId, RegistryInput, RegistryOutput, Shared, SubscriberId,
    counters::{Counter, figures},
    home_reactor,
    log_limit::LogLimit,
    report::NodeReport,
    rpc,
    settings::SESSIONS_MAX,
    signing::NodeSigner,
    snapshot::{NodeEntry, NodeRef, Snapshot},
};
use crate::wire::{
    NodeId, Topic, TopicKind,
    node::PacketType,
    sdk::Seq,
    state::{self, Change, Entries, Message, MessageError, Scope, Version},
};
pub(in crate::relay) use own::HISTORY_LEN_MAX;

mod own;
mod record;
#[cfg(test)]
mod tests;

/// How often a node says by a digest what it knows.
const DIGEST_INTERVAL: Duration = Duration::from_secs(5);
/// Requests of one neighbour that are answered per second.
const REQUESTS_PER_SECOND_MAX: u32 = 512;
/// A neighbour that does not fetch the next part for so long begins anew.
const PIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Neighbours at once.
pub const NODES_MAX: usize = 512;
/// Bytes of JSON-RPC requests that wait to be answered, each with its place in the queue; further ones are
/// refused.
pub(in crate::relay) const RPC_WAITING_BYTES_MAX: usize = 16 << 20;
/// A neighbour whose messages are refused more often per minute loses its link.
const REFUSALS_PER_MINUTE_MAX: u32 = 100;

/// What was wrong with something that a neighbour sent about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not a message of the state protocol, or not one for its packet type.
    #[error("the message is malformed")]
    Malformed,
    /// About another node than the neighbour itself.
    #[error("the record of another node than the neighbour")]
    Origin,
    /// Not by the origin's key.
    #[error("the signature is not the origin's")]
    Signature,
    /// The step does not build on the step before it that is known here.
    #[error("the step contradicts the one before it")]
    Chain,
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
    /// The records of all neighbours have as much memory as they may.
    #[error("no room for more topics of other nodes ([amop] records_bytes_max)")]
    Room,
}

impl StateError {
    /// Whether an honest node never does this.
    fn is_misbehaviour(self) -> bool {
        !matches!(self, Self::Rate | Self::Unasked | Self::Room)
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

figures! {
    /// The figures of a registry.
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
        /// Lists that name our own id with an incarnation that is not below ours.
        counter own_id_elsewhere,
        /// Messages of neighbours refused: not of the state protocol.
        counter refused_malformed,
        /// Messages of neighbours refused: about another node than the neighbour.
        counter refused_origin,
        /// Messages of neighbours refused: not signed by the origin's key.
        counter refused_signature,
        /// Messages of neighbours refused: a step that contradicts the one before it.
        counter refused_chain,
        /// Messages of neighbours refused: changes that do not lead to the signed root.
        counter refused_root,
        /// Messages of neighbours refused: more entries or bytes than are allowed.
        counter refused_size,
        /// Messages of neighbours refused: more of them per second than are taken.
        counter refused_rate,
        /// Messages of neighbours refused: a reply that was not asked for.
        counter refused_unasked,
        /// Messages of neighbours refused: no room for more topics of other nodes.
        counter refused_room,
        /// Subscribers of private topics that other nodes were not told of, at each change, because there are
        /// too many of one topic.
        counter subscribers_not_told,
        /// Neighbours beyond the most that are linked.
        counter refused_nodes,
        /// About how many bytes of memory the records of all neighbours take.
        gauge records_bytes,
        /// JSON-RPC requests refused because too many waited, or too many answers were not taken yet.
        counter rpc_refused,
    }
}

impl RegistryCounters {
    /// The figure of refusals for one cause.
    pub fn refused(&self, error: StateError) -> &Counter {
        match error {
            StateError::Malformed => &self.refused_malformed,
            StateError::Origin => &self.refused_origin,
            StateError::Signature => &self.refused_signature,
            StateError::Chain => &self.refused_chain,
            StateError::Root => &self.refused_root,
            StateError::Size => &self.refused_size,
            StateError::Rate => &self.refused_rate,
            StateError::Unasked => &self.refused_unasked,
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
    nodes: BTreeMap<NodeId, Neighbour>,
    /// About how many bytes of memory their records take.
    records_bytes: usize,
    /// Grows with everything that JSON-RPC shows.
    view_version: u64,
    rpc_cache: rpc::Cache,
    rpc_waiting: VecDeque<RpcRequest>,
    rpc_waiting_bytes: usize,
    outputs: VecDeque<(ReactorId, RegistryOutput)>,
    next_digest: Option<Instant>,
    log_own_id: LogLimit,
    log_bad_state: LogLimit,
    log_no_room: LogLimit,
}

struct Neighbour {
    entry: NodeRef,
    address: String,
    agency: String,
    name: String,
    since: Instant,
    record: Record,
    /// Our record as this neighbour is fetching it, and when it last asked.
    pinned: Option<(Pinned, Instant)>,
    requests: Allowance,
    refusals: Allowance,
}

/// A JSON-RPC request that waits for its turn.
struct RpcRequest {
    since: Instant,
    reactor: ReactorId,
    link: LinkKey,
    seq: Seq,
    body: bytes::Bytes,
}

impl RpcRequest {
    /// What it counts for in the bound.
    fn cost(&self) -> usize {
        size_of::<Self>() + self.body.len()
    }
}

/// Counts down from a maximum that is restored at the first use after a period.
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant, period: Duration, max: u32) -> Option<u32> {
        if now.saturating_duration_since(self.since) >= period {
            *self = Self { left: max, since: now };
        }
        self.left = self.left.checked_sub(1)?;
        Some(self.left)
    }
}

impl Registry {
    /// A registry that knows nobody yet.
    pub fn new(shared: Arc<Shared>, signer: NodeSigner) -> Self {
        Self {
            own: OwnRecord::new(shared.id, shared.incarnation, signer),
            shared,
            counters: Arc::default(),
            snapshot: Snapshot::default(),
            snapshot_changed: false,
            data_topics: AHashMap::new(),
            changed_subscribers: BTreeSet::new(),
            nodes: BTreeMap::new(),
            records_bytes: 0,
            view_version: 0,
            rpc_cache: rpc::Cache::default(),
            rpc_waiting: VecDeque::new(),
            rpc_waiting_bytes: 0,
            outputs: VecDeque::new(),
            next_digest: None,
            log_own_id: LogLimit::new("this node's id elsewhere"),
            log_no_room: LogLimit::new("nodes and topics for which there is no room"),
            log_bad_state: LogLimit::new("neighbours that go on to send bad state"),
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
            RegistryInput::NodeUp { id, incarnation, reactor, address, agency, name } => {
                self.handle_node_up(now, id, incarnation, reactor, (address, agency, name));
            }
            RegistryInput::NodeDown { id, incarnation } => self.handle_node_down(&id, incarnation),
            RegistryInput::State { from, packet_type, seq, payload } => {
                if let Err(error) = self.handle_state(now, &from, packet_type, seq, &payload) {
                    self.refuse(now, &from, error);
                }
            }
            RegistryInput::Rpc { reactor, link, seq, body } => {
                self.handle_rpc(RpcRequest { since: now, reactor, link, seq, body });
            }
        }
    }

    /// Publishes a snapshot if anything changed, and announces what of our own record changed.
    pub fn publish(&mut self, _now: Instant) {
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
        rpc.into_iter().chain(self.next_digest).min()
    }

    /// Says to all neighbours what this node has, and asks again for what it still lacks.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_digest.is_none_or(|due| due > now) {
            return;
        }
        let hash = state::versions_hash(&mut [self.own.version()]);
        self.announce(Message::Digest { scope: Scope::OWN, hash }.encode());
        let mut behind = SmallVec::<[NodeId; 4]>::new();
        for (id, neighbour) in &mut self.nodes {
            neighbour.pinned.take_if(|(_, used)| now.saturating_duration_since(*used) > PIN_TIMEOUT);
            if neighbour.record.is_behind() {
                behind.push(*id);
            }
        }
        for id in behind {
            self.request(now, &id);
        }
        self.next_digest = (!self.nodes.is_empty()).then(|| now + DIGEST_INTERVAL);
    }

    /// The figures, which anybody may read while the registry runs.
    pub fn counters(&self) -> Arc<RegistryCounters> {
        self.counters.clone()
    }

    /// Tells about the neighbours.
    pub fn report_nodes(&self) -> Vec<NodeReport> {
        let report = |(id, neighbour): (&NodeId, &Neighbour)| NodeReport {
            id: *id,
            address: neighbour.address.clone(),
            agency: neighbour.agency.clone(),
            name: neighbour.name.clone(),
            reactor: neighbour.entry.reactor,
            incarnation: neighbour.entry.incarnation,
            since: neighbour.since,
            topics: neighbour.record.entries().topics().count(),
        };
        self.nodes.iter().map(report).collect()
    }

    fn handle_rpc(&mut self, request: RpcRequest) {
        if self.rpc_waiting_bytes + request.cost() > RPC_WAITING_BYTES_MAX {
            self.counters.rpc_refused.increment();
            let RpcRequest { reactor, link, seq, body, .. } = request;
            let body = rpc::over_rate(&body);
            self.shared.rpc_answer_bytes.fetch_add(body.len(), Relaxed);
            let output = RegistryOutput::RpcAnswer { link, seq, body: body.into() };
            return self.outputs.push_back((reactor, output));
        }
        self.rpc_waiting_bytes += request.cost();
        self.rpc_waiting.push_back(request);
    }

    fn answer_rpc(&mut self) {
        let Some(request) = self.rpc_waiting.pop_front() else { return };
        self.rpc_waiting_bytes -= request.cost();
        let RpcRequest { reactor, link, seq, body, .. } = request;
        let answer = if self.shared.rpc_answer_bytes.load(Relaxed) >= rpc::ANSWERS_BYTES_MAX {
            self.counters.rpc_refused.increment();
            Some(rpc::over_rate(&body))
        } else {
            let mut cache = std::mem::take(&mut self.rpc_cache);
            let answer =
                rpc::answer(&body, self.view_version, &self.view(), &self.shared.settings, &mut cache);
            self.rpc_cache = cache;
            answer
        };
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
                sum(self.snapshot.topic(topic.as_str()).map_or(&[], |entry| &entry.reactors))
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
        match self.nodes.get(&id).map(|neighbour| neighbour.entry.incarnation) {
            Some(known) if known > incarnation => return,
            Some(known) if known < incarnation => self.forget_node(&id),
            None if self.nodes.len() >= NODES_MAX => {
                self.counters.refused_nodes.increment();
                if self.log_no_room.admits(now) {
                    warn!(
                        peer = %id, %address,
                        "closing a node's link, {NODES_MAX} nodes are linked already: let in less of them by [certificate_whitelist]",
                    );
                }
                self.outputs.push_back((reactor, RegistryOutput::CloseNode { id }));
                return;
            }
            _ => {}
        }
        let neighbour = self.nodes.entry(id).or_insert_with(|| Neighbour {
            entry: Arc::new(NodeEntry { id, incarnation, reactor }),
            address: String::new(),
            agency: String::new(),
            name: String::new(),
            since: now,
            record: Record::new(now, id, incarnation),
            pinned: None,
            requests: Allowance { left: REQUESTS_PER_SECOND_MAX, since: now },
            refusals: Allowance { left: REFUSALS_PER_MINUTE_MAX, since: now },
        });
        (neighbour.address, neighbour.agency, neighbour.name) = (address, agency, name);
        neighbour.record.handle_new_link();
        self.own.change(state::neighbour_key(&id), Some(Vec::new()));
        self.neighbours_changed();
        self.next_digest.get_or_insert(now + DIGEST_INTERVAL);
        // The neighbour asks for what it does not have.
        let list = Message::List(vec![self.own.version()]).encode();
        self.send(&id, PacketType::STATE_SEQ, None, list);
    }

    fn handle_node_down(&mut self, id: &NodeId, incarnation: u64) {
        if self.nodes.get(id).is_some_and(|neighbour| neighbour.entry.incarnation == incarnation) {
            self.forget_node(id);
            self.own.change(state::neighbour_key(id), None);
            self.neighbours_changed();
        }
    }

    fn neighbours_changed(&mut self) {
        self.snapshot.neighbours = self.nodes.keys().copied().collect();
        self.snapshot_changed = true;
        self.view_version += 1;
    }

    fn forget_node(&mut self, id: &NodeId) {
        let Some(neighbour) = self.nodes.remove(id) else { return };
        self.records_bytes -= neighbour.record.footprint();
        self.counters.records_bytes.set(self.records_bytes as u64);
        for (key, _) in neighbour.record.entries().iter() {
            apply_to_snapshot(&mut self.snapshot, &neighbour.entry, &Change { key, value: None });
        }
        self.neighbours_changed();
    }

    fn announce(&mut self, payload: Vec<u8>) {
        let payload = bytes::Bytes::from(payload);
        for (id, neighbour) in &self.nodes {
            let output = RegistryOutput::ToNode {
                to: *id,
                packet_type: PacketType::STATE_SEQ,
                seq: None,
                payload: payload.clone(),
            };
            self.outputs.push_back((neighbour.entry.reactor, output));
        }
    }

    fn send(&mut self, to: &NodeId, packet_type: PacketType, seq: Option<u32>, payload: Vec<u8>) {
        if let Some(neighbour) = self.nodes.get(to) {
            let output = RegistryOutput::ToNode { to: *to, packet_type, seq, payload: payload.into() };
            self.outputs.push_back((neighbour.entry.reactor, output));
        }
    }

    fn handle_state(
        &mut self,
        now: Instant,
        from: &NodeId,
        packet_type: PacketType,
        seq: u32,
        payload: &[u8],
    ) -> Result<(), StateError> {
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(()) };
        let message = match Message::decode(payload) {
            Err(MessageError::UnknownKind(_)) => {
                self.counters.unknown_kinds.increment();
                return Ok(());
            }
            message => message?,
        };
        // Lists are small and may come unasked.
        let is_reply = packet_type == PacketType::STATE_REPLY && !matches!(message, Message::List(_));
        let was_asked = is_reply && neighbour.record.handle_reply();
        if is_reply && !was_asked {
            return Err(StateError::Unasked);
        }
        match (packet_type, message) {
            (PacketType::STATE_SEQ | PacketType::STATE_REPLY, Message::Steps(steps)) => {
                let mut progress = false;
                for (head, changes) in steps {
                    progress |= self.take_step(now, from, head, changes, !was_asked)?;
                }
                // One reply may not hold all; one that helped nothing is not asked for again at once.
                if was_asked && progress && self.is_behind(from) {
                    self.request(now, from);
                }
            }
            (PacketType::STATE_SEQ, Message::Digest { scope: Scope::OWN, hash }) => {
                if hash != state::versions_hash(&mut [neighbour.record.version()]) {
                    self.send(from, PacketType::STATE_REQUEST, None, Message::WantList.encode());
                }
            }
            (PacketType::STATE_SEQ, Message::Digest { .. }) => self.counters.unknown_kinds.increment(),
            (PacketType::STATE_SEQ | PacketType::STATE_REPLY, Message::List(versions)) => {
                self.handle_list(now, from, &versions);
            }
            (PacketType::STATE_REQUEST, message @ (Message::WantList | Message::Want { .. })) => {
                self.handle_request(now, from, seq, &message)?;
            }
            (PacketType::STATE_REPLY, Message::Part { head, after, last, entries }) => {
                self.take_part(now, from, head, after, last, entries)?;
            }
            _ => return Err(StateError::Malformed),
        }
        Ok(())
    }

    fn handle_list(&mut self, now: Instant, from: &NodeId, versions: &[Version]) {
        for version in versions {
            if version.origin == self.shared.id && version.incarnation >= self.shared.incarnation {
                // Hellos of live nodes with our id are refused where links are made; this is for
                // records that outlived us under a clock that ran ahead.
                self.counters.own_id_elsewhere.increment();
                if self.log_own_id.admits(now) {
                    warn!(
                        peer = %from, incarnation = version.incarnation,
                        "this node's id is known with a later start than ours: set this machine's clock right and restart, or give two nodes with one key a key each",
                    );
                }
            }
        }
        let Some(neighbour) = self.nodes.get_mut(from) else { return };
        let mut behind = false;
        for version in versions {
            behind |= neighbour.record.handle_listed(version);
        }
        if behind {
            self.request(now, from);
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        from: &NodeId,
        seq: u32,
        message: &Message<'_>,
    ) -> Result<(), StateError> {
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(()) };
        if neighbour.requests.take(now, Duration::from_secs(1), REQUESTS_PER_SECOND_MAX).is_none() {
            return Err(StateError::Rate);
        }
        let answer = match message {
            Message::Want { known, .. } if known.origin != self.shared.id => return Err(StateError::Origin),
            Message::Want { known, after } => {
                let steps = if after.is_empty() { self.own.steps_after(known) } else { None };
                if let Some(steps) = steps {
                    Message::Steps(steps).encode()
                } else {
                    // The first part, or one whose record was let go: from the record as it is.
                    let kept = neighbour.pinned.take().filter(|_| !after.is_empty());
                    let Some(pinned) = kept.map(|(pinned, _)| pinned).or_else(|| self.own.pin()) else {
                        return Ok(());
                    };
                    let (part, last) = pinned.part(after);
                    neighbour.pinned = (!last).then_some((pinned, now));
                    part
                }
            }
            _ => Message::List(vec![self.own.version()]).encode(),
        };
        self.send(from, PacketType::STATE_REPLY, Some(seq), answer);
        self.counters.requests_answered.increment();
        Ok(())
    }

    fn is_behind(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|neighbour| neighbour.record.is_behind())
    }

    fn request(&mut self, now: Instant, from: &NodeId) {
        let request = self.nodes.get_mut(from).and_then(|neighbour| neighbour.record.ask(now));
        if let Some(request) = request {
            self.send(from, PacketType::STATE_REQUEST, None, request);
        }
    }

    /// Gives whether the record got newer.
    fn take_step(
        &mut self,
        now: Instant,
        from: &NodeId,
        head: state::Head,
        changes: &[u8],
        announced: bool,
    ) -> Result<bool, StateError> {
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(false) };
        let others = self.records_bytes - neighbour.record.footprint();
        let room = self.shared.settings.records_bytes_max.saturating_sub(others);
        let taken = neighbour.record.take_step(now, head, changes, announced, room);
        self.records_bytes = others + neighbour.record.footprint();
        self.counters.records_bytes.set(self.records_bytes as u64);
        match taken {
            Ok(Taken::Changes(changes)) => {
                for change in &changes {
                    apply_to_snapshot(&mut self.snapshot, &neighbour.entry, change);
                }
                self.snapshot_changed = true;
                self.view_version += 1;
                self.counters.steps_taken.increment();
                Ok(true)
            }
            Ok(Taken::Gap) => {
                self.request(now, from);
                Ok(false)
            }
            Ok(_) => {
                self.counters.stale.increment();
                Ok(false)
            }
            Err(error) => {
                if error == StateError::Chain {
                    self.request(now, from);
                }
                Err(error)
            }
        }
    }

    fn take_part(
        &mut self,
        now: Instant,
        from: &NodeId,
        head: state::Head,
        after: &[u8],
        last: bool,
        entries: &[u8],
    ) -> Result<(), StateError> {
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(()) };
        let others = self.records_bytes - neighbour.record.footprint();
        let room = self.shared.settings.records_bytes_max.saturating_sub(others);
        let taken = neighbour.record.take_part(now, room, head, after, last, entries);
        self.records_bytes = others + neighbour.record.footprint();
        self.counters.records_bytes.set(self.records_bytes as u64);
        match taken? {
            Taken::Partly | Taken::Gap => self.request(now, from),
            Taken::Exchanged(before) => {
                let record = neighbour.record.entries();
                exchange_in_snapshot(&mut self.snapshot, &neighbour.entry, &before, record);
                info!(peer = %from, entries = record.len(), "state of the node received whole");
                self.snapshot_changed = true;
                self.view_version += 1;
                self.counters.records_taken.increment();
                if self.is_behind(from) {
                    self.request(now, from);
                }
            }
            Taken::Stale | Taken::Changes(_) => self.counters.stale.increment(),
        }
        Ok(())
    }

    fn refuse(&mut self, now: Instant, from: &NodeId, error: StateError) {
        self.counters.refused(error).increment();
        let Some(neighbour) = self.nodes.get_mut(from) else { return };
        if error == StateError::Room {
            if self.log_no_room.admits(now) {
                warn!(peer = %from, %error, "topics of a node are not known here in full: raise the bound, or have less topics");
            }
            return;
        }
        if !error.is_misbehaviour() {
            debug!(peer = %from, %error, "state of a neighbour ignored");
            return;
        }
        match neighbour.refusals.take(now, Duration::from_secs(60), REFUSALS_PER_MINUTE_MAX) {
            // One line a minute says it; the counters say how often.
            Some(left) if left + 1 == REFUSALS_PER_MINUTE_MAX => {
                warn!(peer = %from, %error, "state of a neighbour refused; see that it runs the same version");
            }
            Some(_) => debug!(peer = %from, %error, "state of a neighbour refused"),
            None => {
                if self.log_bad_state.admits(now) {
                    warn!(peer = %from, %error, "closing a neighbour's link: it goes on to send bad state; see what it runs");
                }
                let reactor = neighbour.entry.reactor;
                self.outputs.push_back((reactor, RegistryOutput::CloseNode { id: *from }));
            }
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
            .nodes
            .iter()
            .map(|(id, neighbour)| rpc::NodeView {
                id: *id,
                address: &neighbour.address,
                agency: &neighbour.agency,
                name: &neighbour.name,
                entries: neighbour.record.entries(),
            })
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
    let [state::KIND_TOPIC, name @ ..] = key else { return None };
    if TopicKind::of(name) != TopicKind::Ordinary {
        return None;
    }
    let count =
        value.and_then(|value| value.first_chunk::<4>()).map_or(0, |count| u32::from_be_bytes(*count));
    // No node has more sessions: one that says so would draw all unicasts to itself.
    Some((std::str::from_utf8(name).ok()?, count.min(SESSIONS_MAX as u32)))
}

/// Carries one change of a neighbour's record into the topic table.
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
        snapshot.set_node(&topic, node, count);
    }
}

/// Carries the exchange of a neighbour's whole record into the topic table.
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
