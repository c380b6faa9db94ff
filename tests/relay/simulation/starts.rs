//! When the nodes of a simulated network let applications in: as their doors would, which dial whom the configuration
//! names and open the port once [`Readiness`] says so.

use std::collections::BTreeMap;

use amop::internal::relay::readiness::Readiness;
use rand::RngExt;

use super::world::{Character, Kind, STEADY, TOPICS, World};
use crate::kit::{AppIndex, NodeIndex};

#[derive(Default)]
pub(super) struct Starts {
    /// Whom each node dials.
    dials: BTreeMap<NodeIndex, Vec<NodeIndex>>,
    /// Nodes that let nobody in yet.
    waiting: BTreeMap<NodeIndex, Readiness>,
    /// The snapshots whose neighbours the oracle knows.
    told: Vec<u64>,
}

impl Starts {
    /// The configuration of a node names another one.
    pub(super) fn names(&mut self, node: NodeIndex, other: NodeIndex) {
        self.dials.entry(node).or_default().push(other);
    }

    /// Whether a node lets applications in.
    pub(super) fn serves(&self, node: NodeIndex) -> bool {
        !self.waiting.contains_key(&node)
    }

    /// A node is gone, and waits for nothing.
    pub(super) fn stop(&mut self, node: NodeIndex) {
        self.waiting.remove(&node);
    }
}

fn name(node: NodeIndex) -> String {
    format!("node{node}")
}

impl World {
    /// A node has started: it dials, and waits for the state of those who answer.
    pub(super) fn begin_start(&mut self, node: NodeIndex) {
        let peers = self.starts.dials.get(&node).cloned().unwrap_or_default();
        let names: Vec<String> = peers.iter().copied().map(name).collect();
        let timeout = self.net.nodes[node].shared.settings.ready_timeout;
        let mut readiness = Readiness::new(self.net.now, timeout, &names);
        for peer in peers {
            self.dial_if_missing(node, peer);
            match self.net.links_between(node, peer).is_empty() {
                true => readiness.note_absence(&name(peer)),
                false => readiness.note_answer(&name(peer), self.net.nodes[peer].id),
            }
        }
        self.starts.waiting.insert(node, readiness);
    }

    /// Looks who is ready now, and tells the oracle whom nodes show as their neighbours.
    pub(super) fn look_at_starts(&mut self) {
        let now = self.net.now;
        let mut ready = Vec::new();
        for (&node, readiness) in &mut self.starts.waiting {
            let (net, virtual_node) = (&self.net, &self.net.nodes[node]);
            let is_linked = |other: &NodeIndex| !net.links_between(node, *other).is_empty();
            let linked = (0..net.nodes.len()).filter(is_linked).map(|other| net.nodes[other].id).collect();
            if virtual_node.running
                && !virtual_node.frozen
                && readiness.is_ready(now, &linked, virtual_node.settled())
            {
                ready.push((node, readiness.awaited().count()));
            }
        }
        for (node, missing) in ready {
            self.starts.waiting.remove(&node);
            self.say(|| format!("node{node} lets applications in, without the state of {missing} others"));
            self.oracle.serves(now, node);
            self.ask_indirectly(node);
        }
        if self.kind != Kind::Wide {
            self.tell_neighbours();
        }
    }

    /// Publishes from a node just when it may not know all yet.
    fn ask_indirectly(&mut self, node: NodeIndex) {
        if self.calm || !self.starts.serves(node) || self.rng.random_bool(0.5) {
            return;
        }
        let is_usable = |&app: &AppIndex| {
            let (application, character) = (&self.net.apps[app], self.characters[app]);
            application.node == node && !application.closed && character != Character::Deaf
        };
        let there = (0..self.net.apps.len()).rev().find(is_usable);
        let app = there.unwrap_or_else(|| self.arrive(node, Character::Good));
        for topic in TOPICS[..4].iter().chain(&STEADY) {
            self.publish(app, topic, false);
        }
    }

    fn tell_neighbours(&mut self) {
        self.starts.told.resize(self.net.nodes.len(), 0);
        let mut renewed = Vec::new();
        for (index, node) in self.net.nodes.iter().enumerate() {
            let snapshot = node.shared.snapshot.load();
            if std::mem::replace(&mut self.starts.told[index], snapshot.version) != snapshot.version {
                let position = |id: &_| self.net.nodes.iter().position(|other| other.id == *id);
                let shown = snapshot.neighbours.iter().filter_map(position).collect();
                if self.oracle.shows(self.net.now, index, &shown) {
                    renewed.push(index);
                }
            }
        }
        for node in renewed {
            self.ask_indirectly(node);
        }
    }
}
