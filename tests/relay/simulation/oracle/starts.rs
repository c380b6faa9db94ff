//! What a node must know since it lets applications in, and of a neighbour since it shows it: nobody is told that a topic
//! has no subscriber (code 100) while a way has led to one all that time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use amop::internal::wire::{TopicKind, node::HOPS_MAX};

use super::{Fault, Message, Oracle, Scope};
use crate::{
    kit::{AppIndex, NodeIndex},
    simulation::graph::{Edge, edge},
};

/// A time, and how many moments had been before: much happens at one time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Instant, u64);

#[derive(Default)]
pub(super) struct Since {
    /// When each node began to let applications in, in its present incarnation.
    serving: BTreeMap<NodeIndex, Moment>,
    /// When the links were made that are there.
    linked: BTreeMap<Edge, Moment>,
    /// Moments so far.
    moments: u64,
    /// When nodes first heard over the links that are there who is at the other end: before that, a link brings nothing.
    greeted: BTreeMap<(NodeIndex, NodeIndex), Instant>,
    /// When nodes began to show others as their neighbours.
    shown: BTreeMap<(NodeIndex, NodeIndex), Instant>,
}

impl Since {
    fn moment(&mut self, now: Instant) -> Moment {
        self.moments += 1;
        Moment(now, self.moments)
    }
}

impl Oracle {
    /// A node lets applications in from now on.
    pub fn serves(&mut self, now: Instant, node: NodeIndex) {
        let moment = self.since.moment(now);
        self.since.serving.insert(node, moment);
    }

    /// A node is gone.
    pub fn stopped(&mut self, node: NodeIndex) {
        self.since.serving.remove(&node);
        self.since.linked.retain(|(a, b), _| *a != node && *b != node);
        self.since.shown.retain(|(a, b), _| *a != node && *b != node);
    }

    /// Two nodes have a link.
    pub fn linked(&mut self, now: Instant, one: NodeIndex, other: NodeIndex) {
        let moment = self.since.moment(now);
        self.since.linked.entry(edge(one, other)).or_insert(moment);
    }

    /// Two nodes have no link any more.
    pub fn unlinked(&mut self, one: NodeIndex, other: NodeIndex) {
        self.since.linked.remove(&edge(one, other));
    }

    /// Whether there are links of which not all nodes may have heard by then.
    pub(super) fn has_new_links(&self, at: Instant) -> bool {
        self.since.linked.values().any(|linked| linked.0 + self.rules.recovered_after() > at)
    }

    /// A node has heard from another one who that is.
    pub(super) fn greeted(&mut self, now: Instant, from: NodeIndex, to: NodeIndex) {
        let linked = self.since.linked.get(&edge(from, to)).map_or(now, |linked| linked.0);
        let greeted = self.since.greeted.entry((from, to)).or_insert(now);
        if *greeted < linked {
            *greeted = now;
        }
    }

    /// A node shows these as its neighbours. Whether it did not show one of them before.
    pub fn shows(&mut self, now: Instant, node: NodeIndex, neighbours: &BTreeSet<NodeIndex>) -> bool {
        let is_new = neighbours.iter().any(|neighbour| !self.since.shown.contains_key(&(node, *neighbour)));
        self.since.shown.retain(|(from, to), _| *from != node || neighbours.contains(to));
        for &neighbour in neighbours {
            self.since.shown.entry((node, neighbour)).or_insert(now);
        }
        is_new
    }

    /// Somebody who subscribes and to whom a way has led all the time since before the publisher's node let
    /// applications in, or since it shows the neighbour with whom the way begins.
    pub(super) fn known_to_subscribe(
        &self,
        message: &Message,
        sent: Instant,
        now: Instant,
    ) -> Option<AppIndex> {
        if TopicKind::of(message.topic.as_bytes()) != TopicKind::Ordinary {
            return None;
        }
        let publisher = self.apps[message.from].node;
        let subscribes = |&app: &AppIndex| {
            app != message.from
                && !self.apps[app].deaf
                && self.held(app, &message.topic, sent - self.rules.known_after(), now)
        };
        let subscribers: Vec<AppIndex> = (0..self.apps.len()).filter(subscribes).collect();
        let serving = *self.since.serving.get(&publisher)?;
        if subscribers.is_empty() || self.befell(serving.0, sent, now, |scope| is_node(scope, publisher)) {
            return None;
        }
        if let Some(own) = subscribers.iter().find(|app| self.apps[**app].node == publisher) {
            return Some(*own);
        }
        let faults: Vec<&Fault> = self.faults_in(sent, now).collect();
        let is_well = |node| node != publisher && !faults.iter().any(|fault| is_node(&fault.scope, node));
        let is_whole = |edge: Edge| {
            edge.0 != publisher
                && edge.1 != publisher
                && !faults.iter().any(|fault| is_link(&fault.scope, edge))
        };
        let firsts = self.graph.neighbours(publisher).filter(|first| {
            let link = edge(publisher, *first);
            let since = self.first_link_since(publisher, *first, serving, sent);
            is_well(*first)
                && since.is_some_and(|since| !self.befell(since, sent, now, |scope| is_link(scope, link)))
        });
        for first in firsts {
            let distances = self.graph.distances(first, is_whole, is_well);
            let is_reached = |app: &&AppIndex| {
                let node = self.apps[**app].node;
                let links = distances[node].filter(|links| *links < usize::from(HOPS_MAX) && is_well(node));
                links.is_some() && (node == first || !self.graph.ends.contains(&first))
            };
            if let Some(app) = subscribers.iter().find(is_reached) {
                return Some(*app);
            }
        }
        None
    }

    /// Since when a node has had a link that it must have known all of when a message was sent.
    fn first_link_since(
        &self,
        node: NodeIndex,
        neighbour: NodeIndex,
        serving: Moment,
        sent: Instant,
    ) -> Option<Instant> {
        let linked = *self.since.linked.get(&edge(node, neighbour))?;
        if linked < serving {
            return Some(linked.0);
        }
        let shown = *self.since.shown.get(&(node, neighbour))?;
        // A neighbour whose link is lost is shown as long as that may return.
        let greeted = *self.since.greeted.get(&(neighbour, node)).filter(|greeted| **greeted >= linked.0)?;
        // A message that waits for state needs room.
        Some(shown.max(greeted)).filter(|since| *since <= sent && !self.rules.tight)
    }

    /// Whether something that ended after `since` matters between `from` and `to`.
    fn befell(&self, since: Instant, from: Instant, to: Instant, is_it: impl Fn(&Scope) -> bool) -> bool {
        self.faults_in(from, to).any(|fault| is_it(&fault.scope) && fault.to.is_none_or(|end| end > since))
    }
}

fn is_node(scope: &Scope, node: NodeIndex) -> bool {
    matches!(scope, Scope::Node(other) if *other == node)
}

fn is_link(scope: &Scope, link: Edge) -> bool {
    matches!(scope, Scope::Links(links) if links.contains(&link))
}
