//! Nodes of FISCO BCOS 2.x: which node of the network is the gateway of each, and what the network knows of their topics
//! (INTEROP §2.2).
//!
//! Every node says in its record with which of them it is linked, and of which it acts as the gateway. The least id of those that
//! are linked with one is to act. It begins once no other one acts that a route leads to; one that sees a lesser id stops at
//! once. So there are not two at a time while the network holds together, and a change takes as long as news do.
//!
//! A node that the lists keep off, and that a route leads to, is no way to such a node for this one's applications. If that has the lesser id, this
//! node acts, but for itself: others, which may know both, go by the other one, for a message would come twice over two.
//!
//! # Invariants
//! - Topics of such a node are in the own record exactly as long as this node acts for it and for all.
//! - What such nodes are told of is kept as long as any is linked.

use std::{collections::BTreeMap, time::Instant};

use tracing::warn;

use super::{Registry, changed};
use crate::{
    relay::{
        RegistryOutput, home_reactor,
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

/// Whether this node acts for one of them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Acting {
    #[default]
    No,
    /// Others do not know of it.
    ForItself,
    ForAll,
}

struct Peer2x {
    address: String,
    agency: String,
    name: String,
    acting: Acting,
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
        let peer = Peer2x { address, agency, name, acting: Acting::No, entries: Entries::default() };
        self.peers_2x.by_id.insert(id, peer);
        self.own.change(state::peer_2x_key(&id), Some(vec![0]));
        // What was decided about a link before may still be on its way.
        let home = home_reactor(&id, self.shared.reactors);
        self.outputs
            .push_back((home, RegistryOutput::Gateway2x { id, is_gateway: false, is_for_all: false }));
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
            self.record_topic_2x(topic.as_str());
        }
        self.snapshot_changed = true;
        self.view_version += 1;
    }

    /// Has the own record say how many of those that this node acts for have a topic.
    fn record_topic_2x(&mut self, topic: &str) {
        let key = state::topic_key(topic);
        let peers = self.peers_2x.by_id.values().filter(|peer| peer.acting == Acting::ForAll);
        let count = peers.filter(|peer| peer.entries.get(&key).is_some()).count() as u32;
        let value = (count > 0).then(|| count.to_be_bytes().to_vec());
        self.own.change(state::topic_2x_key(topic), value);
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
        let ids: Vec<NodeId> = self.peers_2x.by_id.keys().copied().collect();
        for id in ids {
            let Some(before) = self.peers_2x.by_id.get(&id).map(|peer| peer.acting) else { continue };
            let acting = self.acting_for(&id, before);
            let Some(peer) = self.peers_2x.by_id.get_mut(&id).filter(|_| acting != before) else { continue };
            peer.acting = acting;
            let topics: Vec<String> = peer.entries.topics().map(str::to_owned).collect();
            self.own.change(state::peer_2x_key(&id), Some(vec![u8::from(acting == Acting::ForAll)]));
            topics.iter().for_each(|topic| self.record_topic_2x(topic));
            let home = home_reactor(&id, self.shared.reactors);
            let (is_gateway, is_for_all) = (acting != Acting::No, acting == Acting::ForAll);
            self.outputs.push_back((home, RegistryOutput::Gateway2x { id, is_gateway, is_for_all }));
        }
    }

    /// Whether this node is to act for one of them, by who else is linked with it.
    fn acting_for(&self, id: &NodeId, before: Acting) -> Acting {
        let (own, key) = (self.shared.id, state::peer_2x_key(id));
        let (mut is_least, mut others_act, mut is_least_of_all) = (true, false, true);
        for (other, known) in &self.known {
            let Some(value) = known.record.entries().get(&key) else { continue };
            if known.routed.is_some() {
                is_least &= own < *other;
                others_act |= state::is_gateway_2x(value);
            } else if !self.shared.admits(other) && self.routes.paths.contains_key(other) {
                is_least_of_all &= own < *other;
            }
        }
        match is_least && (before != Acting::No || !others_act) {
            false => Acting::No,
            true if is_least_of_all => Acting::ForAll,
            true => Acting::ForItself,
        }
    }

    /// Those that are linked, for applications.
    pub(super) fn view_peers_2x(&self) -> impl Iterator<Item = super::rpc::NodeView<'_>> {
        self.peers_2x.by_id.iter().map(|(id, Peer2x { address, agency, name, entries, .. })| {
            super::rpc::NodeView { id: *id, address, agency, name, entries }
        })
    }
}
