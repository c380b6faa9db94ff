//! The links that were let in: who has them, and how many there are.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use tokio::sync::Notify;

use super::{DoorLimits, LINKS_PER_NODE_MAX, SESSIONS_PER_CERTIFICATE_MAX};
use crate::{relay::ReactorId, wire::NodeId};

/// Why a link is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectionLimit {
    #[error("the node has its maximum of {0} sessions")]
    Sessions(usize),
    #[error("this certificate has its maximum of {SESSIONS_PER_CERTIFICATE_MAX} sessions")]
    Certificate,
    #[error("this node has its maximum of {LINKS_PER_NODE_MAX} links at once")]
    Links,
    #[error("{0} nodes are linked already")]
    Nodes(usize),
}

enum LinkEntry {
    Session {
        fingerprint: [u8; 32],
        reactor: ReactorId,
    },
    /// A session's connection to a ledger node; there is at most one for each session.
    Ledger,
    /// Another node's link, and whether it is to be replaced.
    Node {
        id: NodeId,
        rekey_due: bool,
    },
}

pub(super) struct Connections {
    next_token: u64,
    connections: HashMap<u64, LinkEntry>,
    sessions: usize,
    by_certificate: HashMap<[u8; 32], usize>,
    by_reactor: Vec<usize>,
    nodes: HashMap<NodeId, usize>,
    limits: DoorLimits,
    /// Told whenever a node's link ends or is to be replaced.
    pub(super) node_left: Rc<Notify>,
}

impl Connections {
    pub(super) fn new(reactors: u16, limits: DoorLimits) -> Self {
        Self {
            next_token: 0,
            connections: HashMap::new(),
            sessions: 0,
            by_certificate: HashMap::new(),
            by_reactor: vec![0; usize::from(reactors)],
            nodes: HashMap::new(),
            limits,
            node_left: Rc::default(),
        }
    }

    /// Lets a session in: its token, and the reactor with the fewest.
    pub(super) fn admit_session(
        &mut self,
        fingerprint: [u8; 32],
    ) -> Result<(u64, ReactorId), ConnectionLimit> {
        if self.sessions >= self.limits.sessions_max {
            return Err(ConnectionLimit::Sessions(self.limits.sessions_max));
        }
        let with_certificate = self.by_certificate.entry(fingerprint).or_default();
        if *with_certificate >= SESSIONS_PER_CERTIFICATE_MAX {
            return Err(ConnectionLimit::Certificate);
        }
        *with_certificate += 1;
        self.sessions += 1;
        let least = (0..self.by_reactor.len()).min_by_key(|&index| self.by_reactor[index]).unwrap_or(0);
        self.by_reactor[least] += 1;
        let reactor = ReactorId(least as u16);
        Ok((self.insert(LinkEntry::Session { fingerprint, reactor }), reactor))
    }

    /// Lets a node's link in.
    pub(super) fn admit_node(&mut self, id: NodeId) -> Result<u64, ConnectionLimit> {
        if self.nodes.len() >= self.limits.neighbours_max && !self.nodes.contains_key(&id) {
            return Err(ConnectionLimit::Nodes(self.limits.neighbours_max));
        }
        let links = self.nodes.entry(id).or_default();
        if *links >= LINKS_PER_NODE_MAX {
            return Err(ConnectionLimit::Links);
        }
        *links += 1;
        Ok(self.insert(LinkEntry::Node { id, rekey_due: false }))
    }

    /// A ledger node was reached for a session.
    pub(super) fn admit_ledger(&mut self) -> u64 {
        self.insert(LinkEntry::Ledger)
    }

    fn insert(&mut self, entry: LinkEntry) -> u64 {
        self.next_token += 1;
        self.connections.insert(self.next_token, entry);
        self.next_token
    }

    /// The nodes that are linked.
    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Whether there is a link to the node.
    pub(super) fn has_node(&self, id: &NodeId) -> bool {
        self.nodes.contains_key(id)
    }

    /// Whether the link is still there.
    pub(super) fn is_here(&self, token: u64) -> bool {
        self.connections.contains_key(&token)
    }

    /// Whether the link is there and need not be replaced.
    pub(super) fn is_fresh(&self, token: u64) -> bool {
        matches!(
            self.connections.get(&token),
            Some(LinkEntry::Session { .. } | LinkEntry::Ledger | LinkEntry::Node { rekey_due: false, .. })
        )
    }

    /// A node's link is to be replaced.
    pub(super) fn set_rekey_due(&mut self, token: u64) {
        if let Some(LinkEntry::Node { rekey_due, .. }) = self.connections.get_mut(&token) {
            *rekey_due = true;
            self.node_left.notify_waiters();
        }
    }

    /// A link has ended.
    pub(super) fn leave(&mut self, token: u64) {
        match self.connections.remove(&token) {
            Some(LinkEntry::Session { fingerprint, reactor }) => {
                self.sessions -= 1;
                self.by_reactor[usize::from(reactor.0)] -= 1;
                if let Some(count) = self.by_certificate.get_mut(&fingerprint) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_certificate.remove(&fingerprint);
                    }
                }
            }
            Some(LinkEntry::Node { id, .. }) => {
                if let Some(count) = self.nodes.get_mut(&id) {
                    *count -= 1;
                    if *count == 0 {
                        self.nodes.remove(&id);
                    }
                }
                self.node_left.notify_waiters();
            }
            Some(LinkEntry::Ledger) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{
        registry::NEIGHBOURS_MAX,
        settings::{SESSIONS_MAX, Settings},
    };

    #[test]
    fn sessions_go_to_the_emptiest_reactor_and_are_bounded_per_certificate() {
        let mut connections = Connections::new(2, DoorLimits::of(&Settings::default()));
        let (first, one) = connections.admit_session([1; 32]).unwrap();
        let (_, other) = connections.admit_session([1; 32]).unwrap();
        assert_ne!(one, other);
        connections.leave(first);
        assert_eq!(connections.admit_session([1; 32]).unwrap().1, one);
        for _ in 2..SESSIONS_PER_CERTIFICATE_MAX {
            connections.admit_session([1; 32]).unwrap();
        }
        assert_eq!(connections.admit_session([1; 32]), Err(ConnectionLimit::Certificate));
        assert!(connections.admit_session([2; 32]).is_ok());
    }

    #[test]
    fn sessions_are_bounded_in_all() {
        let mut connections = Connections::new(1, DoorLimits::of(&Settings::default()));
        let fingerprint = |number: usize| {
            let mut fingerprint = [0; 32];
            fingerprint[..8].copy_from_slice(&number.to_be_bytes());
            fingerprint
        };
        let (first, _) = connections.admit_session(fingerprint(0)).unwrap();
        for number in 1..SESSIONS_MAX {
            connections.admit_session(fingerprint(number)).unwrap();
        }
        assert_eq!(
            connections.admit_session(fingerprint(SESSIONS_MAX)),
            Err(ConnectionLimit::Sessions(SESSIONS_MAX))
        );
        connections.leave(first);
        assert!(connections.admit_session(fingerprint(SESSIONS_MAX)).is_ok());
    }

    #[test]
    fn links_are_bounded_per_node_and_nodes_in_all() {
        let mut connections = Connections::new(1, DoorLimits::of(&Settings::default()));
        let id = |number: usize| {
            let mut id = [0; 64];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(id)
        };
        let tokens: Vec<_> =
            (0..LINKS_PER_NODE_MAX).map(|_| connections.admit_node(id(0)).unwrap()).collect();
        assert_eq!(connections.admit_node(id(0)), Err(ConnectionLimit::Links));
        for number in 1..NEIGHBOURS_MAX {
            connections.admit_node(id(number)).unwrap();
        }
        assert_eq!(connections.admit_node(id(NEIGHBOURS_MAX)), Err(ConnectionLimit::Nodes(NEIGHBOURS_MAX)));
        connections.leave(tokens[0]);
        assert!(connections.admit_node(id(0)).is_ok());
    }
}
