//! What befalls nodes and links of a simulated network, and how it is mended.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;

use super::{
    graph::{Edge, edge},
    oracle::Scope,
    world::{Action, Kind, World},
};
use crate::kit::{Clock, NodeIndex};

/// How long a door waits before it looks again whether its link is up.
const DOOR_INTERVAL: Duration = Duration::from_millis(300);
/// A link that has become slow takes so long, and from one end to the other half of it.
const SLOW: Duration = Duration::from_millis(900);

#[derive(Clone)]
pub(super) enum Mend {
    Nothing,
    Unblock(BTreeSet<Edge>),
    Connect(NodeIndex, NodeIndex),
    /// It is as fast again as it was.
    Quicken(Edge),
    Thaw(NodeIndex),
    Kill(NodeIndex),
    Revive(NodeIndex, Clock),
}

impl World {
    /// Dials where a link is missing.
    pub(super) fn look_at_door(&mut self, from: NodeIndex, to: NodeIndex) {
        let pause = DOOR_INTERVAL + self.millis(0..200);
        self.after(pause, Action::Door { from, to });
        self.dial_if_missing(from, to);
    }

    pub(super) fn dial_if_missing(&mut self, from: NodeIndex, to: NodeIndex) {
        if self.can_connect(from, to) && self.net.links_between(from, to).is_empty() {
            self.say(|| format!("node{from} dials node{to}"));
            self.crossings.dialed(from, to);
            self.net.connect(from, to);
            self.oracle.linked(self.net.now, from, to);
        }
    }

    fn can_connect(&self, a: NodeIndex, b: NodeIndex) -> bool {
        let usable = |node: NodeIndex| self.net.nodes[node].running && !self.net.nodes[node].frozen;
        usable(a) && usable(b) && !self.blocked.contains_key(&edge(a, b))
    }

    /// Something bad happens.
    pub(super) fn befall(&mut self) {
        if self.calm || self.net.now + Duration::from_secs(2) > self.chaos_ends {
            return;
        }
        let next = self.millis(300..9_000);
        self.after(next, Action::Fault);
        if self.kind != Kind::Mesh && self.rng.random_bool(0.3) {
            return self.befall_a_way();
        }
        let (a, b) = match self.kind {
            Kind::Mesh => {
                let nodes = self.net.nodes.len();
                (self.rng.random_range(0..nodes), self.rng.random_range(0..nodes))
            }
            _ => self.draw_edge(),
        };
        if self.troubled.contains(&a) || self.troubled.contains(&b) {
            return;
        }
        if a != b && self.rng.random_bool(0.15) {
            // Nothing bad: nobody must notice.
            if self.can_connect(a, b) && !self.net.links_between(a, b).is_empty() {
                self.say(|| format!("the keys between node{a} and node{b} are worn out, node{a} dials anew"));
                self.crossings.dialed(a, b);
                self.net.wear_links(a, b);
                self.net.connect(a, b);
            }
            return;
        }
        let now = self.net.now;
        let left = (self.chaos_ends - now).as_millis() as u64;
        let long = self.millis(50..8_000.min(left));
        self.faults += 1;
        if a != b && self.rng.random_bool(0.6) {
            self.befall_link(a.min(b), a.max(b), long);
        } else {
            self.befall_node(a, long);
        }
    }

    fn draw_edge(&mut self) -> Edge {
        let at = self.rng.random_range(0..self.graph.edges.len());
        self.graph.edges.iter().nth(at).copied().expect("in range")
    }

    fn befall_link(&mut self, a: NodeIndex, b: NodeIndex, long: Duration) {
        let now = self.net.now;
        let (from, to) = if self.rng.random_bool(0.5) { (a, b) } else { (b, a) };
        if self.rng.random_bool(0.2) {
            let back = self.millis(120..600);
            self.say(|| format!("FAULT node{to} closes its link to node{from}, back in {back:?}"));
            let fault = self.oracle.begin_short_break(now, (a, b), from);
            self.net.close_links_by_peer(to, from);
            return self.after(back, Action::Mend { fault, how: Mend::Connect(from, to) });
        }
        let fault = self.oracle.begin_fault(now, Scope::Links([(a, b)].into()), false);
        match self.rng.random_range(0..5) {
            0 => {
                self.say(|| format!("FAULT the link of node{a} and node{b} breaks"));
                self.net.break_links(a, b);
                self.after(Duration::ZERO, Action::Mend { fault, how: Mend::Nothing });
            }
            1 => {
                self.say(|| format!("FAULT node{a} and node{b} are cut off from each other for {long:?}"));
                self.net.cut_links(a, b);
                self.block([(a, b)].into(), fault, long);
            }
            2 => {
                self.say(|| format!("FAULT what node{from} sends to node{to} is lost for {long:?}"));
                self.net.cut_one_way(from, to);
                self.block([(a, b)].into(), fault, long);
            }
            3 => {
                self.say(|| format!("FAULT what node{from} sends to node{to} is stuck for {long:?}"));
                self.net.stall(from, to, now + long);
                self.after(long, Action::Mend { fault, how: Mend::Nothing });
            }
            _ => {
                self.say(|| format!("FAULT node{from} dials node{to} although there may be a link"));
                if self.can_connect(a, b) {
                    self.crossings.dialed(from, to);
                    self.net.connect(from, to);
                    self.oracle.linked(self.net.now, from, to);
                }
                self.after(Duration::ZERO, Action::Mend { fault, how: Mend::Nothing });
            }
        }
    }

    fn block(&mut self, links: BTreeSet<Edge>, fault: usize, long: Duration) {
        for link in &links {
            *self.blocked.entry(*link).or_default() += 1;
        }
        self.after(long, Action::Mend { fault, how: Mend::Unblock(links) });
    }

    /// A part of the network is cut off, a link breaks again and again, or becomes slow.
    fn befall_a_way(&mut self) {
        let now = self.net.now;
        let left = (self.chaos_ends - now).as_millis() as u64;
        let long = self.millis(500..12_000.min(left));
        self.faults += 1;
        let (a, b) = self.draw_edge();
        match self.rng.random_range(0..4) {
            0 | 1 => {
                let (side, links) = self.graph.draw_border(&mut self.rng);
                let silently = self.rng.random_bool(0.5);
                let how = if silently { "silently" } else { "audibly" };
                self.say(|| format!("FAULT {side:?} are cut off from the others, {how}, for {long:?}"));
                for &(a, b) in &links {
                    if silently {
                        self.net.cut_links(a, b);
                    } else {
                        self.net.break_links(a, b);
                    }
                }
                let fault = self.oracle.begin_fault(now, Scope::Links(links.clone()), false);
                self.block(links, fault, long);
            }
            2 => {
                self.say(|| format!("FAULT the link of node{a} and node{b} flaps for {long:?}"));
                let fault = self.oracle.begin_fault(now, Scope::Links([(a, b)].into()), false);
                self.after(Duration::ZERO, Action::Flap { link: (a, b), until: now + long });
                self.after(long, Action::Mend { fault, how: Mend::Nothing });
            }
            _ => {
                if self.net.timing.between.contains_key(&(a, b)) {
                    return;
                }
                self.say(|| format!("FAULT the link of node{a} and node{b} is slow for {long:?}"));
                let fault = self.oracle.begin_fault(now, Scope::Links([(a, b)].into()), false);
                self.net.timing.between.insert((a, b), SLOW / 2..=SLOW);
                self.net.timing.between.insert((b, a), SLOW / 4..=SLOW / 2);
                self.after(long, Action::Mend { fault, how: Mend::Quicken((a, b)) });
            }
        }
    }

    /// A link breaks, is made again, and so on.
    pub(super) fn flap(&mut self, (a, b): Edge, until: std::time::Instant) {
        if self.net.now >= until {
            return;
        }
        if self.net.links_between(a, b).is_empty() {
            self.dial_if_missing(a, b);
        } else {
            self.say(|| format!("the link of node{a} and node{b} breaks"));
            self.net.break_links(a, b);
        }
        let pause = self.millis(20..1_500);
        self.after(pause, Action::Flap { link: (a, b), until });
    }

    fn befall_node(&mut self, node: NodeIndex, long: Duration) {
        self.troubled.insert(node);
        let freezes = self.rng.random_bool(0.5);
        let fault = self.oracle.begin_fault(self.net.now, Scope::Node(node), freezes);
        if freezes {
            self.say(|| format!("FAULT node{node} freezes for {long:?}"));
            self.net.nodes[node].frozen = true;
            return self.after(long, Action::Mend { fault, how: Mend::Thaw(node) });
        }
        let clock = match self.rng.random_bool(0.3) {
            true => Clock::Lost,
            false if self.faults.is_multiple_of(5) => Clock::Ahead,
            false => Clock::Right,
        };
        if self.rng.random_bool(0.3) {
            self.say(|| format!("FAULT node{node} drains"));
            self.net.drain(node);
            let short = self.millis(10..1_000);
            self.after(short, Action::Mend { fault, how: Mend::Kill(node) });
        } else {
            self.say(|| format!("FAULT node{node} is killed"));
            self.kill(node);
        }
        self.after(long + Duration::from_secs(1), Action::Mend { fault, how: Mend::Revive(node, clock) });
    }

    fn kill(&mut self, node: NodeIndex) {
        self.net.kill(node);
        self.starts.stop(node);
        self.oracle.stopped(node);
    }

    pub(super) fn mend(&mut self, fault: usize, how: Mend) {
        match how {
            Mend::Nothing => {}
            Mend::Unblock(links) => {
                for (a, b) in links {
                    self.say(|| format!("node{a} and node{b} can connect again"));
                    if let Some(count) = self.blocked.get_mut(&(a, b)) {
                        *count -= 1;
                        if *count == 0 {
                            self.blocked.remove(&(a, b));
                        }
                    }
                }
            }
            Mend::Connect(from, to) => self.dial_if_missing(from, to),
            Mend::Quicken((a, b)) => {
                self.say(|| format!("the link of node{a} and node{b} is fast again"));
                self.net.timing.between.remove(&(a, b));
                self.net.timing.between.remove(&(b, a));
            }
            Mend::Thaw(node) => {
                self.say(|| format!("node{node} goes on"));
                self.net.nodes[node].frozen = false;
                self.troubled.remove(&node);
            }
            Mend::Kill(node) => {
                self.say(|| format!("node{node} ends"));
                return self.kill(node);
            }
            Mend::Revive(node, clock) => {
                self.say(|| format!("node{node} starts, its clock {clock:?}"));
                self.net.revive(node, clock);
                self.crossings.revived(node);
                self.troubled.remove(&node);
                self.oracle.end_fault(self.net.now, fault);
                return self.begin_start(node);
            }
        }
        self.oracle.end_fault(self.net.now, fault);
    }
}
