//! The one writer of what all shards read, and the keeper of state records (WIRE §6.3).
//!
//! Sans-IO: changes of our sessions and messages of neighbours go in by [`Registry::handle`]; a
//! [`Registry::publish`] after a number of them makes one snapshot and one signed step of our own
//! record; [`Registry::poll_output`] gives what shards are to send.
//!
//! Now every node tells its neighbours about itself only. Records and steps are signed and chained as
//! they will be when others pass them on.
//!
//! # Invariants
//! - Counts in the snapshot are those of the inputs so far, as of the last publish.
//! - A neighbour's entries are those of a record whose root its key has signed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use smallvec::SmallVec;
use tracing::{debug, info, warn};

use super::{
    ReactorId, RegistryInput, RegistryOutput, Shared, home_reactor, rpc,
    signing::{self, NodeSigner},
    snapshot::{NodeEntry, NodeRef, Snapshot},
};
use crate::wire::{
    NodeId, Topic, TopicKind,
    node::PacketType,
    state::{self, Change, Entries, Head, Message, Step, Version},
};

/// How often a node says by a digest what it knows.
const DIGEST_INTERVAL: Duration = Duration::from_secs(5);
/// Own steps that are kept for neighbours that missed some.
const HISTORY_STEPS_MAX: usize = 1_024;
/// Bytes of their changes.
const HISTORY_BYTES_MAX: usize = 4 << 20;
/// Changes that go into one step; the rest waits for the next.
const STEP_CHANGES_MAX: usize = 8_192;
/// Steps that one neighbour may announce per second; what it announces beyond that is ignored, and
/// the next digest brings it.
const STEPS_PER_SECOND_MAX: u32 = 2_000;

/// What was wrong with something that a neighbour sent about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not a message of the state protocol.
    #[error("the message is malformed or over a bound")]
    Malformed,
    /// About another node than the neighbour itself.
    #[error("the record of another node than the neighbour")]
    Origin,
    /// Not by the origin's key.
    #[error("the signature is not the origin's")]
    Signature,
    /// The changes are not those that were signed, or do not lead to the signed root.
    #[error("the changes do not lead to the signed root")]
    Root,
    /// More topics or entries than a node may have.
    #[error("more entries than a record may have")]
    Size,
}

/// The registry of one node.
pub struct Registry {
    shared: Arc<Shared>,
    signer: NodeSigner,
    snapshot: Snapshot,
    snapshot_changed: bool,
    own: Entries,
    own_head: Option<Head>,
    history: VecDeque<(Head, Vec<u8>)>,
    history_bytes: usize,
    /// Changes of our own record that no step carries yet.
    pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Sessions per reactor that subscribe to a private topic's data topic: announced, never routed by
    /// the topic table.
    data_topics: AHashMap<Topic, SmallVec<[(ReactorId, u32); 2]>>,
    nodes: BTreeMap<NodeId, Neighbour>,
    outputs: VecDeque<(ReactorId, RegistryOutput)>,
    next_digest: Option<Instant>,
    /// Figures of what neighbours sent that was refused.
    refused: u64,
}

struct Neighbour {
    entry: NodeRef,
    address: String,
    agency: String,
    name: String,
    entries: Entries,
    head: Option<Head>,
    /// A whole record that is arriving in parts.
    transfer: Option<(Head, Entries, Vec<u8>)>,
    steps_left: u32,
    steps_counted: Instant,
}

impl Registry {
    /// A registry that knows nobody yet.
    pub fn new(shared: Arc<Shared>, signer: NodeSigner) -> Self {
        Self {
            shared,
            signer,
            snapshot: Snapshot::default(),
            snapshot_changed: false,
            own: Entries::default(),
            own_head: None,
            history: VecDeque::new(),
            history_bytes: 0,
            pending: BTreeMap::new(),
            data_topics: AHashMap::new(),
            nodes: BTreeMap::new(),
            outputs: VecDeque::new(),
            next_digest: None,
            refused: 0,
        }
    }

    /// Takes one input. Nothing is published before [`Self::publish`].
    pub fn handle(&mut self, now: Instant, input: RegistryInput) {
        match input {
            RegistryInput::Topics { reactor, changes } => {
                for (topic, difference) in changes {
                    self.change_local_topic(reactor, &topic, difference);
                }
            }
            RegistryInput::NodeUp { id, incarnation, reactor, address, agency, name } => {
                self.handle_node_up(now, id, incarnation, reactor, (address, agency, name));
            }
            RegistryInput::NodeDown { id, incarnation } => self.handle_node_down(&id, incarnation),
            RegistryInput::State { from, packet_type, seq, payload } => {
                if let Err(error) = self.handle_state(now, &from, packet_type, seq, &payload) {
                    self.refused += 1;
                    warn!(peer = %from, %error, "state of a neighbour refused");
                    if error != StateError::Malformed
                        && let Some(neighbour) = self.nodes.get(&from)
                    {
                        let reactor = neighbour.entry.reactor;
                        self.outputs.push_back((reactor, RegistryOutput::CloseNode { id: from }));
                    }
                }
            }
            RegistryInput::Rpc { reactor, link, seq, body } => {
                let answer = rpc::answer(&body, &self.view(), &self.shared.settings);
                if let Some(body) = answer {
                    let output = RegistryOutput::RpcAnswer { link, seq, body: body.into() };
                    self.outputs.push_back((reactor, output));
                }
            }
        }
    }

    /// Publishes a snapshot if anything changed, and announces what of our own record changed.
    pub fn publish(&mut self, _now: Instant) {
        if std::mem::take(&mut self.snapshot_changed) {
            self.snapshot.version += 1;
            self.shared.snapshot.store(Arc::new(self.snapshot.clone()));
        }
        while !self.pending.is_empty() {
            self.make_step();
        }
    }

    /// What a shard is to do next.
    pub fn poll_output(&mut self) -> Option<(ReactorId, RegistryOutput)> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_digest
    }

    /// Says to all neighbours what this node knows.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_digest.is_none_or(|due| due > now) {
            return;
        }
        let digest = Message::Digest(state::versions_hash(&mut [self.own_version()])).encode();
        self.announce(&digest);
        self.next_digest = (!self.nodes.is_empty()).then(|| now + DIGEST_INTERVAL);
    }

    /// How many messages of neighbours were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn change_local_topic(&mut self, reactor: ReactorId, topic: &Topic, difference: i32) {
        let counts: SmallVec<[(ReactorId, u32); 2]> = match topic.kind() {
            TopicKind::Ordinary => {
                let entry = self.snapshot.topic(topic.as_str());
                let before = entry.map_or(0, |entry| count_of(&entry.reactors, reactor));
                self.snapshot.set_reactor(topic, reactor, before.saturating_add_signed(difference));
                self.snapshot_changed = true;
                self.snapshot.topic(topic.as_str()).map(|entry| entry.reactors.clone()).unwrap_or_default()
            }
            TopicKind::Data => {
                let counts = self.data_topics.entry(topic.clone()).or_default();
                let count = count_of(counts, reactor).saturating_add_signed(difference);
                counts.retain(|(other, _)| *other != reactor);
                if count > 0 {
                    counts.push((reactor, count));
                }
                let counts = counts.clone();
                if counts.is_empty() {
                    self.data_topics.remove(topic.as_str());
                }
                counts
            }
            TopicKind::Route | TopicKind::Marker | TopicKind::BlockNotify => return,
        };
        let sessions: u32 = counts.iter().map(|(_, count)| count).sum();
        let value = (sessions > 0).then(|| sessions.to_be_bytes().to_vec());
        self.pending.insert(state::topic_key(topic.as_str()), value);
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
        if self.nodes.get(&id).is_some_and(|neighbour| neighbour.entry.incarnation != incarnation) {
            self.forget_node(&id);
        }
        let neighbour = self.nodes.entry(id).or_insert_with(|| Neighbour {
            entry: Arc::new(NodeEntry { id, incarnation, reactor }),
            address: String::new(),
            agency: String::new(),
            name: String::new(),
            entries: Entries::default(),
            head: None,
            transfer: None,
            steps_left: STEPS_PER_SECOND_MAX,
            steps_counted: now,
        });
        (neighbour.address, neighbour.agency, neighbour.name) = (address, agency, name);
        self.pending.insert(state::neighbour_key(&id), Some(Vec::new()));
        self.neighbours_changed();
        self.next_digest.get_or_insert(now + DIGEST_INTERVAL);
        // The neighbour asks for what it does not have.
        let list = Message::List(vec![self.own_version()]).encode();
        self.send(&id, PacketType::STATE_SEQ, None, list);
    }

    fn handle_node_down(&mut self, id: &NodeId, incarnation: u64) {
        if self.nodes.get(id).is_some_and(|neighbour| neighbour.entry.incarnation == incarnation) {
            self.forget_node(id);
            self.pending.insert(state::neighbour_key(id), None);
            self.neighbours_changed();
        }
    }

    fn neighbours_changed(&mut self) {
        self.snapshot.neighbours = self.nodes.keys().copied().collect();
        self.snapshot_changed = true;
    }

    fn forget_node(&mut self, id: &NodeId) {
        let Some(neighbour) = self.nodes.remove(id) else { return };
        for topic in neighbour.entries.topics().filter_map(Topic::new) {
            self.snapshot.set_node(&topic, &neighbour.entry, 0);
        }
        self.snapshot_changed = true;
    }

    fn own_version(&self) -> Version {
        Version {
            origin: self.shared.id,
            incarnation: self.shared.incarnation,
            seq: self.own_head.as_ref().map_or(0, |head| head.seq),
        }
    }

    /// Signs the next step of our own record and sends it to all neighbours.
    fn make_step(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..STEP_CHANGES_MAX {
            let Some((key, value)) = self.pending.pop_first() else { break };
            if self.own.get(&key) == value.as_deref() {
                continue;
            }
            let change = Change { key: &key, value: value.as_deref() };
            self.own.apply(&change);
            change.encode_into(&mut changes);
        }
        if changes.is_empty() {
            return;
        }
        let mut head = Head {
            origin: self.shared.id,
            incarnation: self.shared.incarnation,
            seq: self.own_version().seq + 1,
            previous: self.own_head.as_ref().map_or([0; 32], Head::digest),
            root: self.own.root(),
            changes_hash: state::changes_hash(&changes),
            signature: [0; 64],
        };
        head.signature = self.signer.sign(&head.digest());
        let message = Message::Steps(vec![(head.clone(), &changes)]).encode();
        self.announce(&message);
        self.own_head = Some(head.clone());
        self.history_bytes += changes.len();
        self.history.push_back((head, changes));
        while self.history.len() > HISTORY_STEPS_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some((_, changes)) = self.history.pop_front() else { break };
            self.history_bytes -= changes.len();
        }
    }

    fn announce(&mut self, payload: &[u8]) {
        let payload = bytes::Bytes::copy_from_slice(payload);
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
        if !self.nodes.contains_key(from) {
            return Ok(());
        }
        let message = Message::decode(payload).ok_or(StateError::Malformed)?;
        let reply = PacketType::STATE_REPLY;
        match (packet_type, message) {
            (PacketType::STATE_SEQ | PacketType::STATE_REPLY, Message::Steps(steps)) => {
                for (head, changes) in steps {
                    self.take_step(now, from, head, changes)?;
                }
            }
            (PacketType::STATE_SEQ, Message::Digest(digest)) => {
                if digest != state::versions_hash(&mut [self.version_of(from)]) {
                    self.send(from, PacketType::STATE_REQUEST, None, Message::WantList.encode());
                }
            }
            (PacketType::STATE_SEQ | PacketType::STATE_REPLY, Message::List(versions)) => {
                let known = self.version_of(from);
                let newer = versions.iter().any(|version| version.origin == *from && version.seq > known.seq);
                if newer {
                    self.request(from, &[]);
                }
            }
            (PacketType::STATE_REQUEST, Message::WantList) => {
                let list = Message::List(vec![self.own_version()]).encode();
                self.send(from, reply, Some(seq), list);
            }
            (PacketType::STATE_REQUEST, Message::Want { known, after }) => {
                if known.origin == self.shared.id
                    && let Some(answer) = self.answer_request(&known, after)
                {
                    self.send(from, reply, Some(seq), answer);
                }
            }
            (PacketType::STATE_REPLY, Message::Part { head, last, entries }) => {
                self.take_part(from, head, last, entries)?;
            }
            _ => return Err(StateError::Malformed),
        }
        Ok(())
    }

    fn version_of(&self, id: &NodeId) -> Version {
        let neighbour = self.nodes.get(id);
        Version {
            origin: *id,
            incarnation: neighbour.map_or(0, |neighbour| neighbour.entry.incarnation),
            seq: neighbour.and_then(|neighbour| neighbour.head.as_ref()).map_or(0, |head| head.seq),
        }
    }

    fn request(&mut self, from: &NodeId, after: &[u8]) {
        let known = self.version_of(from);
        self.send(from, PacketType::STATE_REQUEST, None, Message::Want { known, after }.encode());
    }

    /// The steps behind what is known, if they are all still here; else a part of the whole record.
    fn answer_request(&self, known: &Version, after: &[u8]) -> Option<Vec<u8>> {
        let head = self.own_head.as_ref()?;
        let from_here = self.history.iter().position(|(step, _)| step.seq == known.seq + 1);
        let same_life = known.incarnation == self.shared.incarnation;
        if after.is_empty()
            && same_life
            && let Some(first) = from_here
        {
            let mut bytes = 0;
            let steps: Vec<Step<'_>> = self
                .history
                .range(first..)
                .take_while(|(_, changes)| {
                    bytes += Head::LEN + changes.len();
                    bytes <= state::CHANGES_LEN_MAX
                })
                .map(|(head, changes)| (head.clone(), changes.as_slice()))
                .collect();
            if !steps.is_empty() {
                return Some(Message::Steps(steps).encode());
            }
        }
        let (entries, last) = self.own.part(after);
        Some(Message::Part { head: head.clone(), last, entries: &entries }.encode())
    }

    /// Checks what a head says of itself.
    fn check_head(from: &NodeId, head: &Head) -> Result<(), StateError> {
        if head.origin != *from {
            return Err(StateError::Origin);
        }
        if !signing::verify(&head.origin, &head.digest(), &head.signature) {
            return Err(StateError::Signature);
        }
        Ok(())
    }

    fn take_step(
        &mut self,
        now: Instant,
        from: &NodeId,
        head: Head,
        changes: &[u8],
    ) -> Result<(), StateError> {
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(()) };
        if head.origin != *from {
            return Err(StateError::Origin);
        }
        let known = neighbour.head.as_ref().map_or(0, |head| head.seq);
        if head.incarnation != neighbour.entry.incarnation || head.seq <= known {
            // Old news: of a former life, or a repetition.
            return Ok(());
        }
        let elapsed = now.saturating_duration_since(neighbour.steps_counted);
        if elapsed >= Duration::from_secs(1) {
            neighbour.steps_counted = now;
            neighbour.steps_left = STEPS_PER_SECOND_MAX;
        }
        let Some(left) = neighbour.steps_left.checked_sub(1) else {
            debug!(peer = %from, "more steps per second than a node may make");
            return Ok(());
        };
        neighbour.steps_left = left;
        let previous = neighbour.head.as_ref().map_or([0; 32], Head::digest);
        if head.seq != known + 1 || head.previous != previous {
            self.request(from, &[]);
            return Ok(());
        }
        Self::check_head(from, &head)?;
        if state::changes_hash(changes) != head.changes_hash {
            return Err(StateError::Root);
        }
        let changes = Change::decode_all(changes).ok_or(StateError::Malformed)?;
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(()) };
        for change in &changes {
            neighbour.entries.apply(change);
            apply_to_snapshot(&mut self.snapshot, &neighbour.entry, change);
        }
        self.snapshot_changed = true;
        if neighbour.entries.len() > state::ENTRIES_MAX {
            return Err(StateError::Size);
        }
        if neighbour.entries.root() != head.root {
            return Err(StateError::Root);
        }
        neighbour.head = Some(head);
        Ok(())
    }

    fn take_part(&mut self, from: &NodeId, head: Head, last: bool, entries: &[u8]) -> Result<(), StateError> {
        Self::check_head(from, &head)?;
        let Some(neighbour) = self.nodes.get_mut(from) else { return Ok(()) };
        let known = neighbour.head.as_ref().map_or(0, |head| head.seq);
        if head.incarnation != neighbour.entry.incarnation || head.seq <= known {
            return Ok(());
        }
        let changes = Change::decode_all(entries).ok_or(StateError::Malformed)?;
        let transfer = match neighbour.transfer.take() {
            Some(transfer) if transfer.0 == head => Some(transfer),
            Some(_) => None,
            None => Some((head.clone(), Entries::default(), Vec::new())),
        };
        let Some((_, mut record, mut after)) = transfer else {
            // The record changed while it was on its way: from the beginning.
            self.request(from, &[]);
            return Ok(());
        };
        for change in &changes {
            if change.key <= after.as_slice() || change.value.is_none() {
                return Err(StateError::Malformed);
            }
            record.apply(change);
            after = change.key.to_vec();
        }
        if record.len() > state::ENTRIES_MAX {
            return Err(StateError::Size);
        }
        if !last {
            if changes.is_empty() {
                return Err(StateError::Malformed);
            }
            neighbour.transfer = Some((head, record, after.clone()));
            self.request(from, &after);
            return Ok(());
        }
        if record.root() != head.root {
            return Err(StateError::Root);
        }
        for topic in neighbour.entries.topics().filter_map(Topic::new) {
            self.snapshot.set_node(&topic, &neighbour.entry, 0);
        }
        for (key, value) in record.iter() {
            apply_to_snapshot(&mut self.snapshot, &neighbour.entry, &Change { key, value: Some(value) });
        }
        info!(peer = %from, entries = record.len(), "state of the node received whole");
        neighbour.entries = record;
        neighbour.head = Some(head);
        self.snapshot_changed = true;
        Ok(())
    }

    fn view(&self) -> rpc::NodesView<'_> {
        let own = rpc::NodeView {
            id: self.shared.id,
            address: &self.shared.own_address,
            agency: &self.shared.own_agency,
            name: &self.shared.own_name,
            entries: &self.own,
        };
        let peers = self
            .nodes
            .iter()
            .map(|(id, neighbour)| rpc::NodeView {
                id: *id,
                address: &neighbour.address,
                agency: &neighbour.agency,
                name: &neighbour.name,
                entries: &neighbour.entries,
            })
            .collect();
        rpc::NodesView { own, peers }
    }
}

fn count_of(counts: &[(ReactorId, u32)], reactor: ReactorId) -> u32 {
    counts.iter().find(|(other, _)| *other == reactor).map_or(0, |(_, count)| *count)
}

/// Carries one change of a neighbour's record into the topic table.
fn apply_to_snapshot(snapshot: &mut Snapshot, node: &NodeRef, change: &Change<'_>) {
    let [state::KIND_TOPIC, name @ ..] = change.key else { return };
    let Some(topic) = std::str::from_utf8(name).ok().and_then(Topic::new) else { return };
    if topic.kind() != TopicKind::Ordinary {
        return;
    }
    let count =
        change.value.and_then(|value| value.first_chunk::<4>()).map_or(0, |count| u32::from_be_bytes(*count));
    snapshot.set_node(&topic, node, count);
}
