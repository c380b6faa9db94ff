//! What came before does not count again, also once its channel is forgotten (WIRE §6.4): how far each node's messages have
//! come, and which control payloads have.

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

use ahash::{AHashMap, RandomState};

use super::{Context, peer::Peers};
use crate::{
    relay::{
        Outbound, RegistryInput,
        channel::ChannelNumber,
        sealing::{IncarnationId, SealNumber},
    },
    wire::NodeId,
};

/// Nodes whose replay floors are remembered. Where there would be more, this node begins a later incarnation, in which
/// nothing that was sealed before opens.
pub const REPLAY_FLOORS_MAX: usize = 16_384;
/// Control payloads that one node may have sent out of their order.
const CONTROLS_MAX: usize = 64;

/// What is remembered of a channel that was dropped: messages and control payloads below it are replays.
#[derive(Clone, Copy)]
pub(super) struct ReplayFloor {
    pub(super) incarnation_id: IncarnationId,
    pub(super) expected: ChannelNumber,
    pub(super) control: Option<SealNumber>,
}

impl ReplayFloor {
    /// Of an incarnation of which nothing came yet.
    pub(super) fn begin(incarnation_id: IncarnationId) -> Self {
        Self { incarnation_id, expected: ChannelNumber::default(), control: None }
    }
}

/// Control payloads that came, by the number that they are sealed under: each is taken once.
pub(super) struct ControlReplayWindow {
    seen: BTreeSet<SealNumber>,
    /// All up to this number are replays.
    replay_floor: Option<SealNumber>,
}

impl ControlReplayWindow {
    pub(super) fn new(replay_floor: Option<SealNumber>) -> Self {
        Self { seen: BTreeSet::new(), replay_floor }
    }

    pub(super) fn is_new(&mut self, number: SealNumber) -> bool {
        if self.replay_floor.is_some_and(|replay_floor| number <= replay_floor) || !self.seen.insert(number) {
            return false;
        }
        if self.seen.len() > CONTROLS_MAX {
            self.replay_floor = self.seen.pop_first();
        }
        true
    }

    /// The highest number that came.
    pub(super) fn last(&self) -> Option<SealNumber> {
        self.seen.last().copied().or(self.replay_floor)
    }
}

/// The replay floors of all nodes that have, or had, a channel in this incarnation of the node.
pub(super) struct ReplayFloors {
    by_node: AHashMap<NodeId, ReplayFloor>,
    /// The incarnation of the node in whose place a later one was requested.
    incarnation_requested: Option<u64>,
}

impl ReplayFloors {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { by_node: AHashMap::with_hasher(hashing), incarnation_requested: None }
    }

    /// The node begins another incarnation, in which nothing has come yet.
    pub(super) fn clear(&mut self) {
        self.by_node.clear();
    }

    pub(super) fn get(&self, id: &NodeId) -> Option<&ReplayFloor> {
        self.by_node.get(id)
    }

    /// The replay floor of an incarnation of a node; it is remembered from now on. `None` if that incarnation is over, or if
    /// there is no room.
    pub(super) fn take(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peers: &Peers,
        id: &NodeId,
        incarnation_id: IncarnationId,
    ) -> Option<ReplayFloor> {
        let begun = ReplayFloor::begin(incarnation_id);
        if let Some(replay_floor) = self.by_node.get_mut(id) {
            if replay_floor.incarnation_id.incarnation < incarnation_id.incarnation {
                *replay_floor = begun;
            }
            return (replay_floor.incarnation_id == incarnation_id).then_some(*replay_floor);
        }
        if self.by_node.len() >= REPLAY_FLOORS_MAX && !self.forget_excluded(cx, peers) {
            return None;
        }
        self.by_node.insert(*id, begun);
        Some(begun)
    }

    /// Forgets nodes that the lists leave out, of which nothing is delivered: that only counts when other lists admit
    /// them. If all are admitted, none can be forgotten in this incarnation of the node.
    fn forget_excluded(&mut self, cx: &mut Context<'_, impl Outbound>, peers: &Peers) -> bool {
        let before = self.by_node.len();
        let admission = cx.shared.admission.load();
        self.by_node.retain(|id, _| admission.admits(id) || peers.get(id).is_some());
        let forgotten = before - self.by_node.len();
        if forgotten > 0 {
            cx.counters.replay_floors_forgotten.add(forgotten as u64);
            cx.shared.has_forgotten.store(true, Relaxed);
            return true;
        }
        cx.counters.replay_floors_full.increment();
        let incarnation = cx.shared.incarnation();
        if self.incarnation_requested != Some(incarnation)
            && cx.out.to_registry(RegistryInput::ReplayFloorsFull { incarnation })
        {
            self.incarnation_requested = Some(incarnation);
        }
        false
    }

    /// A channel is dropped: nothing of it is taken again.
    pub(super) fn raise(&mut self, id: &NodeId, to: ReplayFloor) {
        let replay_floor = self.by_node.get_mut(id);
        debug_assert!(replay_floor.is_some(), "whoever has a channel has a replay floor");
        if let Some(replay_floor) = replay_floor
            && replay_floor.incarnation_id == to.incarnation_id
        {
            *replay_floor = to;
        }
    }
}
