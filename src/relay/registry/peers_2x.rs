//! Nodes of FISCO BCOS 2.x: which node of the network is the gateway of each, and what the network knows of their topics
//! (INTEROP §2.2).
//!
//! Every node says in its record with which of them it is linked, and of which it acts as the gateway. The least id of those that
//! are linked with one is to act. It begins once no other one acts that a route leads to; one that sees a lesser id stops at
//! once. So there are not two at a time while the network holds together, and a change takes as long as news do.
//!
//! # Invariants
//! - Topics of such a node are in the own record exactly as long as this node acts for it.
//! - What such nodes are told of is kept as long as any is linked.

use std::{collections::BTreeMap, time::Instant};

use tracing::warn;

use super::{Registry, changed};
use crate::{
    relay::{
        ReactorId, RegistryOutput, home_reactor,
        peer_2x::{ANNOUNCED_MAX, News},
    },
    wire::{
        NodeId, Topic,
        state::{self, Change, Entries},
    },
};

/// The nodes of FISCO BCOS 2.x that this one is linked with.
#[derive(Default)]
pub(super) struct Peers2x {
    by_id: BTreeMap<NodeId, Peer2x>,
    /// Whether who is to act may have changed.
    pub(super) is_changed: bool,
}

struct Peer2x {
    address: String,
    agency: String,
    name: String,
    is_gateway: bool,
    /// Its topics that are subscribed to here, as those of nodes are.
    entries: Entries,
}

impl Registry {
    pub(super) fn handle_peer_2x(&mut self, id: NodeId, news: News) {
        match news {
            News::Up { address, agency, name } => self.handle_peer_2x_up(id, (address, agency, name)),
            News::Settled => self.handle_peer_2x_settled(id),
            News::Topics(changes) => self.change_topics_2x(&id, &changes),
            News::Down => self.handle_peer_2x_down(&id),
        }
    }

    fn handle_peer_2x_up(&mut self, id: NodeId, (address, agency, name): (String, String, String)) {
        if self.peers_2x.by_id.is_empty() {
            let prefixes =
                self.shared.settings.announce_to_2x.as_ref().map(|prefixes| prefixes.as_slice().into());
            self.snapshot.begin_announcing(prefixes, ANNOUNCED_MAX);
            self.snapshot_changed = true;
        }
        let peer = Peer2x { address, agency, name, is_gateway: false, entries: Entries::default() };
        self.peers_2x.by_id.insert(id, peer);
        self.own.change(state::peer_2x_key(&id), Some(vec![0]));
        // What was decided about a link before may still be on its way.
        let home = home_reactor(&id, self.shared.reactors);
        self.outputs.push_back((home, RegistryOutput::Gateway2x { id, is_gateway: false }));
        self.peers_2x.is_changed = true;
        self.view_version += 1;
    }

    /// Its topics are here: applications need not wait for it.
    fn handle_peer_2x_settled(&mut self, id: NodeId) {
        if self.peers_2x.by_id.contains_key(&id) {
            self.settled_changed |= self.settled.insert(id);
        }
    }

    fn handle_peer_2x_down(&mut self, id: &NodeId) {
        if self.peers_2x.by_id.remove(id).is_none() {
            return;
        }
        self.settled_changed |= self.settled.remove(id);
        self.own.change(state::peer_2x_key(id), None);
        self.view_version += 1;
        if self.peers_2x.by_id.is_empty() {
            self.snapshot.end_announcing();
            self.snapshot_changed = true;
        }
    }

    /// Topics of such a node came or went at its home.
    fn change_topics_2x(&mut self, id: &NodeId, changes: &[(Topic, i32)]) {
        let reactor = home_reactor(id, self.shared.reactors);
        for (topic, difference) in changes {
            if let Some(peer) = self.peers_2x.by_id.get_mut(id) {
                let (key, one) = (state::topic_key(topic.as_str()), 1u32.to_be_bytes());
                peer.entries.apply(&Change { key: &key, value: (*difference > 0).then_some(&one[..]) });
            }
            let before = self.snapshot.topic(topic.as_str()).map_or(0, |entry| entry.reactor_2x(reactor));
            self.snapshot.set_reactor_2x(topic, reactor, changed(before, *difference));
            let entry = self.snapshot.topic(topic.as_str());
            let reactors = (0..self.shared.reactors).map(ReactorId);
            let count: u32 = entry.map_or(0, |entry| reactors.map(|reactor| entry.reactor_2x(reactor)).sum());
            let value = (count > 0).then(|| count.to_be_bytes().to_vec());
            self.own.change(state::topic_2x_key(topic.as_str()), value);
        }
        self.snapshot_changed = true;
        self.view_version += 1;
    }

    /// Decides for each of them whether this node acts, where that may have changed.
    pub(super) fn choose_gateways(&mut self, now: Instant) {
        if self.peers_2x.by_id.is_empty() {
            return;
        }
        if self.snapshot.announce_what_was_left_out() {
            self.snapshot_changed = true;
        }
        if self.snapshot.is_announced_truncated() && self.log_no_room.admits(now) {
            warn!(
                "nodes of FISCO BCOS 2.x are told of {ANNOUNCED_MAX} topics, and there are more: choose by [p2p] announce_to_2x which ones matter to them",
            );
        }
        if !std::mem::take(&mut self.peers_2x.is_changed) {
            return;
        }
        let own = self.shared.id;
        for (id, peer) in &mut self.peers_2x.by_id {
            let key = state::peer_2x_key(id);
            let others = self.known.iter().filter(|(_, known)| known.routed.is_some());
            let (mut is_least, mut others_act) = (true, false);
            for (other, known) in others {
                let Some(value) = known.record.entries().get(&key) else { continue };
                is_least &= own < *other;
                others_act |= state::is_gateway_2x(value);
            }
            let is_gateway = is_least && (peer.is_gateway || !others_act);
            if std::mem::replace(&mut peer.is_gateway, is_gateway) != is_gateway {
                self.own.change(key, Some(vec![u8::from(is_gateway)]));
                let home = home_reactor(id, self.shared.reactors);
                self.outputs.push_back((home, RegistryOutput::Gateway2x { id: *id, is_gateway }));
            }
        }
    }

    /// Those that are linked, for applications.
    pub(super) fn view_peers_2x(&self) -> impl Iterator<Item = super::rpc::NodeView<'_>> {
        self.peers_2x.by_id.iter().map(|(id, Peer2x { address, agency, name, entries, .. })| {
            super::rpc::NodeView { id: *id, address, agency, name, entries }
        })
    }
}
