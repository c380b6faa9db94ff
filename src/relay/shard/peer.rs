//! Another node as the other end of messages, whatever route they take: which incarnation of it, whose answers are awaited from
//! it, what it sent before (WIRE §6.2).
//!
//! # Invariants
//! - A peer is there as long as there is something to know of it: a neighbour of that id, or another route to it.
//! - What is here is of one incarnation of the node.

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};

use super::{Common, Context, Parts, channel::Channel, diagnostic::RequestLimits, request::RequestOf};
use crate::{
    relay::{
        CloseReason, MeshMessage, Outbound, RequestId,
        expiring_map::{self, ExpiringMap},
    },
    wire::{FrameRef, NodeId, node::PacketType},
};

/// Another node whose home is this shard.
pub(super) struct Peer {
    pub(super) incarnation: u64,
    awaiting: AHashMap<u32, Awaiting>,
    /// Messages of the node that were taken: repeats are dropped.
    identities: ExpiringMap<Identity, ()>,
    /// How many of its requests are answered.
    pub(super) request_limits: RequestLimits,
    /// For what goes over other nodes; made when it is needed.
    pub(super) channel: Option<Box<Channel>>,
    /// Since when no route leads to it, if it is no neighbour.
    pub(super) lost_since: Option<Instant>,
}

/// A unicast that the node has, or will have.
struct Awaiting {
    request: RequestOf,
    taken: bool,
}

/// Memory of an awaited answer with its key, in bytes.
pub(super) const AWAITING_LEN: usize = size_of::<(u32, Awaiting)>();
/// Memory of a message's identity, in bytes.
pub(super) const IDENTITY_LEN: usize = expiring_map::entry_len::<Identity, ()>();

/// Packet type and number of a message, in one.
type Identity = u64;

fn identity_of(packet_type: PacketType, message: u32) -> Identity {
    u64::from(packet_type.0.cast_unsigned()) << 32 | u64::from(message)
}

impl Peer {
    /// A node in one incarnation of it, of which nothing else is known.
    pub(super) fn new(
        now: Instant,
        incarnation: u64,
        identity_memory: Duration,
        hashing: &RandomState,
    ) -> Self {
        Self {
            incarnation,
            awaiting: AHashMap::with_hasher(hashing.clone()),
            identities: ExpiringMap::new(identity_memory, hashing.clone()),
            request_limits: RequestLimits::new(now),
            channel: None,
            lost_since: None,
        }
    }

    pub(super) fn awaiting(&self) -> usize {
        self.awaiting.len()
    }

    /// Whether it has to be looked at from time to time.
    pub(super) fn needs_looks(&self) -> bool {
        self.lost_since.is_some() || self.channel.as_ref().is_some_and(|channel| channel.frames() > 0)
    }

    pub(super) fn identities(&self) -> usize {
        self.identities.len()
    }

    /// For checks: identities that are not forgotten in their time.
    pub(super) fn miscount(&self) -> Option<String> {
        let (known, in_time) = self.identities.counted();
        (known != in_time)
            .then(|| format!("{in_time} identities of a node are to be forgotten, and {known} are known"))
    }

    /// A unicast was sent to it.
    pub(super) fn await_answer(&mut self, message: u32, request: RequestOf) {
        self.awaiting.insert(message, Awaiting { request, taken: false });
    }

    /// Whose answer is awaited from it under this number.
    pub(super) fn awaited(&self, message: u32) -> Option<RequestOf> {
        self.awaiting.get(&message).map(|awaiting| awaiting.request)
    }

    /// A unicast was taken by it.
    pub(super) fn note_taken(&mut self, message: u32) {
        if let Some(awaiting) = self.awaiting.get_mut(&message) {
            awaiting.taken = true;
        }
    }
}

/// The other nodes whose home is a shard.
///
/// # Invariants
/// - `identities` are those of all of them.
pub(super) struct Peers {
    pub(super) by_id: AHashMap<NodeId, Peer>,
    identities: usize,
}

impl Peers {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { by_id: AHashMap::with_hasher(hashing), identities: 0 }
    }

    /// Message identities remembered for all of them.
    pub(super) fn all_identities(&self) -> usize {
        self.identities
    }
}

impl Parts {
    /// Takes up a node in one incarnation of it; nothing of another one stays, and what waits for that fails.
    pub(super) fn begin_peer(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, incarnation: u64) {
        self.forget_peer(cx, id);
        let memory = cx.shared.settings.identity_memory;
        self.peers.by_id.insert(*id, Peer::new(cx.now, incarnation, memory, &cx.hashing));
    }

    pub(super) fn forget_peer(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        self.fail_awaiting(cx, id);
        self.drop_channel(id);
        if let Some(peer) = self.peers.by_id.remove(id) {
            self.peers.identities -= peer.identities();
        }
    }

    /// A later incarnation of a node is heard of: what waits for the one before fails.
    pub(super) fn replace_incarnation(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        incarnation: u64,
    ) {
        if self.neighbours.by_id.contains_key(id) {
            self.give_up_node(cx, id, CloseReason::Replaced);
            self.forget_neighbour(cx, id);
        }
        self.begin_peer(cx, id, incarnation);
    }

    /// Lets go of nodes that no route led to for long.
    pub(super) fn tick_peers(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let memory = cx.shared.settings.identity_memory;
        let is_over = |since: Instant| cx.now.saturating_duration_since(since) >= memory;
        let gone: Vec<NodeId> = self
            .peers
            .by_id
            .iter()
            .filter(|(_, peer)| peer.lost_since.is_some_and(is_over))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let has_route = cx.shared.snapshot.load().paths.contains_key(&id) && cx.shared.admits(&id);
            if self.is_neighbour(&id) || has_route {
                // Whoever is there now is not forgotten, whatever was heard of it before.
                if let Some(peer) = self.peers.by_id.get_mut(&id) {
                    peer.lost_since = None;
                }
            } else if !self.neighbours.by_id.contains_key(&id) {
                self.forget_peer(cx, &id);
            }
        }
    }

    /// A node on the path has taken a unicast.
    pub(super) fn note_taken_in_transit(&mut self, id: &NodeId, message: u32) {
        if let Some(peer) = self.peers.by_id.get_mut(id) {
            peer.note_taken(message);
        }
    }

    /// What waits for a node's answers fails. What it sent is remembered, for the case that only the routes to it were
    /// gone.
    pub(super) fn fail_awaiting(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        let Some(peer) = self.peers.by_id.get_mut(id) else { return };
        let messages: Vec<u32> = peer.awaiting.keys().copied().collect();
        messages.into_iter().for_each(|message| self.fail_unicast(cx, id, message));
    }

    /// A unicast that is not answered any more fails.
    pub(super) fn fail_unicast(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId, message: u32) {
        let awaiting = self.peers.by_id.get_mut(id).and_then(|peer| peer.awaiting.remove(&message));
        let Some(Awaiting { request: RequestOf { coordinator, id: request }, taken }) = awaiting else {
            return;
        };
        self.void_unicast(cx.common, cx.now, id, message);
        let failed = MeshMessage::ForwardFailed { request, message, taken };
        self.send_to_reactor(cx, coordinator, failed, FrameRef::EMPTY);
    }

    /// The incarnation of the node that a message is of, if the message is new; then it is remembered.
    pub(super) fn take_new_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        packet_type: PacketType,
        message: u32,
    ) -> Option<u64> {
        let settings = &cx.shared.settings;
        let peer = self.peers.by_id.get_mut(id)?;
        let before = peer.identities();
        // When all nodes together have their maximum, each keeps what it has, its newest.
        let max = match self.peers.identities < settings.all_identities_max {
            true => settings.identities_max,
            false => before.clamp(1, settings.identities_max),
        };
        // Whatever is sent again after a pause comes before anything new: until then nothing is forgotten, however old it is.
        if !peer.identities.insert_new(cx.now, identity_of(packet_type, message), ()) {
            cx.counters.duplicates_dropped.increment();
            return None;
        }
        while peer.identities.pop_expired(cx.now).is_some() {}
        while peer.identities() > max && peer.identities.pop_oldest().is_some() {
            cx.counters.identities_forgotten.increment();
        }
        self.peers.identities = self.peers.identities + peer.identities() - before;
        Some(peer.incarnation)
    }

    /// A response of the node: whose request it answers. One that no session gave leaves the door open for a
    /// late answer if `may_follow`.
    pub(super) fn take_awaiting(&mut self, id: &NodeId, message: u32, may_follow: bool) -> Option<RequestOf> {
        let peer = self.peers.by_id.get_mut(id)?;
        if may_follow {
            let awaiting = peer.awaiting.get_mut(&message)?;
            awaiting.taken = true;
            return Some(awaiting.request);
        }
        peer.awaiting.remove(&message).map(|awaiting| awaiting.request)
    }

    /// The request is over; tells which it was and whether the node had taken it.
    pub(super) fn forget_forward(
        &mut self,
        common: &Common,
        now: Instant,
        id: &NodeId,
        message: u32,
    ) -> Option<(RequestId, bool)> {
        let awaiting = self.peers.by_id.get_mut(id)?.awaiting.remove(&message)?;
        self.void_unicast(common, now, id, message);
        Some((awaiting.request.id, awaiting.taken))
    }
}
