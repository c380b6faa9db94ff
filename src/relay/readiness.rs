//! When a node that has just started may let applications in: not before it knows the network, or it would tell them
//! that nobody subscribes (WIRE §3, code 100) though somebody does.
//!
//! It waits for the nodes that its configuration names and that answer the first dial, and for whoever has dialled it by
//! then, until the registry has their state ([`Registry::settled`]); and for nobody longer than `[amop] ready_timeout_ms`. Once it is ready it stays so:
//! what is said later while a neighbour's state is on its way, waits for that (`shard/request/unsettled.rs`).
//!
//! [`Registry::settled`]: super::registry::Registry::settled

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::wire::NodeId;

/// How far the wait for the named peers has come.
#[derive(Debug)]
pub struct Readiness {
    deadline: Instant,
    /// Peers whose state is not here, by their addresses; with who is there, once that is known.
    awaited: BTreeMap<String, Option<NodeId>>,
}

impl Readiness {
    /// A node that starts, and which peers it dials.
    pub fn new<'a>(now: Instant, timeout: Duration, peers: impl IntoIterator<Item = &'a String>) -> Self {
        Self {
            deadline: now + timeout,
            awaited: peers.into_iter().map(|peer| (peer.clone(), None)).collect(),
        }
    }

    /// A peer was dialled, and this node is there.
    pub fn note_answer(&mut self, peer: &str, id: NodeId) {
        if let Some(awaited) = self.awaited.get_mut(peer) {
            *awaited = Some(id);
        }
    }

    /// A peer does not answer, or is none any more.
    pub fn note_absence(&mut self, peer: &str) {
        self.awaited.remove(peer);
    }

    /// Whether the node is ready. `linked` are the nodes that have a link, whoever dialled it, and `settled` those of them
    /// whose state is here; who answered and has no link any more is not waited for.
    pub fn is_ready(&mut self, now: Instant, linked: &BTreeSet<NodeId>, settled: &BTreeSet<NodeId>) -> bool {
        self.awaited.retain(|_, id| id.is_none_or(|id| linked.contains(&id) && !settled.contains(&id)));
        (self.awaited.is_empty() && linked.is_subset(settled)) || now >= self.deadline
    }

    /// The peers whose state is not here.
    pub fn awaited(&self) -> impl Iterator<Item = &str> {
        self.awaited.keys().map(String::as_str)
    }

    /// When it waits no longer.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn id(number: u8) -> NodeId {
        NodeId([number; 64])
    }

    fn starting(now: Instant, peers: &[&str]) -> Readiness {
        Readiness::new(now, TIMEOUT, &peers.iter().map(|&peer| peer.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_node_that_names_no_peers_is_ready_at_once() {
        let now = Instant::now();
        assert!(starting(now, &[]).is_ready(now, &BTreeSet::new(), &BTreeSet::new()));
    }

    #[test]
    fn the_state_of_all_peers_that_answer_is_waited_for() {
        let now = Instant::now();
        let mut readiness = starting(now, &["a:1", "b:1", "c:1"]);
        let (linked, mut settled) = (BTreeSet::from([id(2), id(3)]), BTreeSet::new());
        assert!(!readiness.is_ready(now, &linked, &settled), "nobody was dialled");
        readiness.note_absence("a:1");
        readiness.note_answer("b:1", id(2));
        readiness.note_answer("c:1", id(3));
        settled.insert(id(2));
        assert!(!readiness.is_ready(now, &linked, &settled));
        assert_eq!(readiness.awaited().collect::<Vec<_>>(), ["c:1"]);
        settled.insert(id(3));
        assert!(readiness.is_ready(now, &linked, &settled));
    }

    #[test]
    fn the_state_of_whoever_has_dialled_is_waited_for() {
        let now = Instant::now();
        let mut readiness = starting(now, &[]);
        let dialled_us = BTreeSet::from([id(7)]);
        assert!(!readiness.is_ready(now, &dialled_us, &BTreeSet::new()));
        assert!(readiness.is_ready(now, &dialled_us, &dialled_us));
        assert!(readiness.is_ready(now + TIMEOUT, &dialled_us, &BTreeSet::new()));
    }

    #[test]
    fn nobody_is_waited_for_who_hangs_up_or_is_not_to_be_linked_any_more() {
        let now = Instant::now();
        let mut readiness = starting(now, &["a:1", "b:1"]);
        readiness.note_answer("a:1", id(1));
        assert!(!readiness.is_ready(now, &BTreeSet::from([id(1)]), &BTreeSet::new()));
        readiness.note_absence("b:1");
        assert!(readiness.is_ready(now, &BTreeSet::new(), &BTreeSet::new()));
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_timeout() {
        let now = Instant::now();
        let mut readiness = starting(now, &["a:1"]);
        let none = BTreeSet::new();
        assert!(!readiness.is_ready(now + TIMEOUT - Duration::from_nanos(1), &none, &none));
        assert!(readiness.is_ready(readiness.deadline(), &none, &none));
        assert_eq!(readiness.awaited().count(), 1);
    }
}
