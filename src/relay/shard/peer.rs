//! Another node as the other end of messages, whatever route they take: which incarnation of it, whose answers are awaited from
//! it, and the channel with it (WIRE §6.2, §6.3).
//!
//! # Invariants
//! - A peer is there as long as there is something to know of it: a link, or another route to it.
//! - What is here is of one incarnation of the node.

use std::time::Instant;

use ahash::{AHashMap, RandomState};

use super::{
    Common, Context, NODE_TICK, Parts,
    channel::Channel,
    diagnostic::{RequestLimits, ping::ANSWERS_PER_SECOND_MAX},
    neighbour::Neighbour,
    request::RequestOf,
};
use crate::{
    rate_limit::{Rate, RateLimit},
    relay::{
        CloseReason, LinkKey, MeshMessage, Outbound, RequestId,
        channel::ChannelNumber,
        sealing::{IncarnationId, Salt},
    },
    wire::{FrameRef, MessageNumber, NodeId},
};

/// Another node whose home is this shard.
pub(super) struct Peer {
    pub(super) incarnation: u64,
    /// What tells it from others with that number, once it is known.
    pub(super) salt: Option<Salt>,
    awaiting: AHashMap<MessageNumber, Awaiting>,
    /// How many of its requests are answered.
    pub(super) request_limits: RequestLimits,
    /// How often it is believed that it dropped a frame of ours.
    path_ends: RateLimit,
    /// Its links, from the first one on until it is forgotten that there was one.
    pub(super) neighbour: Option<Neighbour>,
    /// Made when it is needed.
    pub(super) channel: Option<Box<Channel>>,
    /// Since when no route leads to it, if it is no neighbour.
    pub(super) lost_since: Option<Instant>,
}

/// A unicast that the node has, or will have.
struct Awaiting {
    request: RequestOf,
    /// Of the unicast.
    place: ChannelNumber,
    /// Whether the node has answered for itself.
    taken: bool,
}

/// Memory of an awaited answer with its key, in bytes.
pub(super) const AWAITING_LEN: usize = size_of::<(MessageNumber, Awaiting)>();
impl Peer {
    /// A node in one incarnation of it, of which nothing else is known.
    pub(super) fn new(incarnation: u64, salt: Option<Salt>, hashing: &RandomState) -> Self {
        Self {
            incarnation,
            salt,
            awaiting: AHashMap::with_hasher(hashing.clone()),
            request_limits: RequestLimits::default(),
            path_ends: RateLimit::default(),
            neighbour: None,
            channel: None,
            lost_since: None,
        }
    }

    pub(super) fn awaiting(&self) -> usize {
        self.awaiting.len()
    }

    /// The link that carries everything to it, if there is one.
    #[inline]
    pub(super) fn link(&self) -> Option<LinkKey> {
        self.neighbour.as_ref()?.active
    }

    /// Whether it is linked, or its link may return.
    pub(super) fn is_neighbour(&self) -> bool {
        self.neighbour.as_ref().is_some_and(|neighbour| !neighbour.is_given_up())
    }

    /// Whether it has to be looked at from time to time.
    pub(super) fn needs_looks(&self) -> bool {
        self.neighbour.is_some() || self.lost_since.is_some() || self.has_unacknowledged()
    }

    /// Whether it has not acknowledged all that was sent to it.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.sender.len() > 0)
    }

    /// Whether what it says of a frame of ours that it dropped is looked at. It says so as often as nodes do.
    pub(super) fn admits_path_end(&mut self, now: Instant) -> bool {
        self.path_ends.take(now, Rate::per_second(ANSWERS_PER_SECOND_MAX), 1)
    }

    /// Whether it is in this incarnation, as far as is known.
    pub(super) fn is_of(&self, incarnation_id: &IncarnationId) -> bool {
        self.incarnation == incarnation_id.incarnation
            && self.salt.is_none_or(|salt| salt == incarnation_id.salt)
    }

    /// A unicast was sent to it.
    pub(super) fn await_answer(&mut self, message: MessageNumber, request: RequestOf, place: ChannelNumber) {
        self.awaiting.insert(message, Awaiting { request, place, taken: false });
    }

    /// Whose answer is awaited from it under this number.
    pub(super) fn awaited(&self, message: MessageNumber) -> Option<RequestOf> {
        self.awaiting.get(&message).map(|awaiting| awaiting.request)
    }
}

/// The other nodes whose home is a shard.
pub(super) struct Peers {
    by_id: AHashMap<NodeId, Peer>,
}

impl Peers {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { by_id: AHashMap::with_hasher(hashing) }
    }

    #[inline]
    pub(super) fn get(&self, id: &NodeId) -> Option<&Peer> {
        self.by_id.get(id)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: &NodeId) -> Option<&mut Peer> {
        self.by_id.get_mut(id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.by_id.iter()
    }

    /// The node with so much of an id.
    pub(super) fn find(&mut self, short: u64) -> Option<&mut Peer> {
        self.by_id.iter_mut().find(|(id, _)| id.short() == short).map(|(_, peer)| peer)
    }

    /// Those of which something is true.
    pub(super) fn ids_of(&self, is_meant: impl Fn(&Peer) -> bool) -> Vec<NodeId> {
        self.iter().filter(|(_, peer)| is_meant(peer)).map(|(id, _)| *id).collect()
    }

    /// The channel with a node, if it was begun.
    #[inline]
    pub(super) fn channel(&self, id: &NodeId) -> Option<&Channel> {
        self.get(id)?.channel.as_deref()
    }

    #[inline]
    pub(super) fn channel_mut(&mut self, id: &NodeId) -> Option<&mut Channel> {
        self.get_mut(id)?.channel.as_deref_mut()
    }

    /// The channels with all of them.
    pub(super) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.by_id.values().filter_map(|peer| peer.channel.as_deref())
    }

    /// What is known of the links to a node, if there are any or were before long.
    #[inline]
    pub(super) fn neighbour(&self, id: &NodeId) -> Option<&Neighbour> {
        self.get(id)?.neighbour.as_ref()
    }

    pub(super) fn neighbour_mut(&mut self, id: &NodeId) -> Option<&mut Neighbour> {
        self.get_mut(id)?.neighbour.as_mut()
    }

    /// The link that carries everything to a node, if there is one.
    #[inline]
    pub(super) fn link_to(&self, id: &NodeId) -> Option<LinkKey> {
        self.get(id)?.link()
    }

    /// Whether a node is linked, or its link may return.
    pub(super) fn is_neighbour(&self, id: &NodeId) -> bool {
        self.get(id).is_some_and(Peer::is_neighbour)
    }
}

impl Parts {
    /// Takes up a node in one incarnation of it; nothing of another one stays, and what waits for that fails.
    pub(super) fn begin_peer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        incarnation: u64,
        salt: Option<Salt>,
    ) {
        self.forget_peer(cx, id);
        self.peers.by_id.insert(*id, Peer::new(incarnation, salt, &cx.hashing));
    }

    pub(super) fn forget_peer(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        self.fail_awaiting(cx, id);
        self.drop_channel(cx.common, id);
        let forgotten = self.peers.by_id.remove(id);
        debug_assert!(
            forgotten.is_none_or(|peer| peer.neighbour.is_none()),
            "a node is forgotten once its links are"
        );
    }

    /// A later incarnation of a node is heard of: what waits for the one before fails.
    pub(super) fn replace_incarnation(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        incarnation: u64,
        salt: Option<Salt>,
    ) {
        if self.peers.neighbour(id).is_some() {
            self.give_up_node(cx, id, CloseReason::Replaced);
            self.forget_neighbour(cx, id);
        }
        self.begin_peer(cx, id, incarnation, salt);
    }

    /// Whether a route leads to a node whose home is here, and to which incarnation of it.
    pub(super) fn handle_reach(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        incarnation: Option<u64>,
    ) {
        if self.peers.is_neighbour(id) {
            // Its links tell more, and earlier.
            return;
        }
        match incarnation {
            Some(incarnation) if self.peers.get(id).is_some_and(|peer| peer.incarnation < incarnation) => {
                self.replace_incarnation(cx, id, incarnation, None);
            }
            Some(_) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.lost_since = None;
                }
            }
            None => {
                if !cx.shared.admits(id) {
                    self.fail_awaiting(cx, id);
                    self.drop_unacknowledged(id);
                }
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.lost_since = Some(cx.now);
                    self.want_node_tick(cx.now);
                }
            }
        }
    }

    /// Answers are awaited no more from nodes that no route leads to, and nodes that none led to for long are let go of.
    pub(super) fn tick_peers(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let memory = cx.shared.settings.lost_node_memory;
        let is_over = |since: Instant| cx.now.saturating_duration_since(since) >= NODE_TICK;
        for id in self.peers.ids_of(|peer| peer.lost_since.is_some_and(is_over)) {
            let has_route = cx.shared.snapshot.load().paths.contains_key(&id) && cx.shared.admits(&id);
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.is_neighbour() || has_route {
                // Whoever is there now is not forgotten, whatever was heard of it before.
                peer.lost_since = None;
                continue;
            }
            let is_forgotten = peer.neighbour.is_none()
                && peer.lost_since.is_some_and(|since| cx.now.saturating_duration_since(since) >= memory);
            if is_forgotten {
                self.forget_peer(cx, &id);
            } else {
                // By now no neighbour's reactor has anything left to say of what it was handed when the last route went: it is
                // known whether a link took it.
                self.fail_awaiting(cx, &id);
            }
        }
    }

    /// What waits for a node's answers fails. What it sent is remembered, for the case that only the routes to it were
    /// gone.
    pub(super) fn fail_awaiting(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let messages: Vec<_> = peer.awaiting.keys().copied().collect();
        messages.into_iter().for_each(|message| self.fail_unicast(cx, id, message));
    }

    /// A unicast that is not answered any more fails.
    pub(super) fn fail_unicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        message: MessageNumber,
    ) {
        let Some((RequestOf { coordinator, id: request }, taken)) =
            self.end_awaiting(cx.common, cx.now, id, message)
        else {
            return;
        };
        let failed = MeshMessage::ForwardFailed { request, message, taken };
        self.send_to_reactor(cx, coordinator, failed, FrameRef::EMPTY);
    }

    /// An answer is not awaited any more: gives whose request it was, and whether the node may have the unicast.
    fn end_awaiting(
        &mut self,
        common: &Common,
        now: Instant,
        id: &NodeId,
        message: MessageNumber,
    ) -> Option<(RequestOf, bool)> {
        let Awaiting { request, place, taken } = self.peers.get_mut(id)?.awaiting.remove(&message)?;
        let taken = taken || self.was_sent(id, place);
        self.void_message(common, now, id, place);
        Some((request, taken))
    }

    /// A response of the node: whose request it answers. One that no session gave leaves the door open for a
    /// late answer if `may_follow`.
    pub(super) fn take_awaiting(
        &mut self,
        id: &NodeId,
        message: MessageNumber,
        may_follow: bool,
    ) -> Option<RequestOf> {
        let peer = self.peers.get_mut(id)?;
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
        message: MessageNumber,
    ) -> Option<(RequestId, bool)> {
        let (request, taken) = self.end_awaiting(common, now, id, message)?;
        Some((request.id, taken))
    }
}
