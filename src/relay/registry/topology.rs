//! Who is linked with whom, and the shortest routes from here (WIRE §6.3, §6.4).
//!
//! Each node's record lists its neighbours. An edge exists only if both ends list each other; of our own
//! edges we know ourselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::SmallVec;

use crate::{
    relay::sealing::Salt,
    wire::{NodeId, node::HOPS_MAX, state::NodeTraits},
};

/// What all records say about edges.
#[derive(Default)]
pub(super) struct Topology {
    lists: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Of nodes that are not as usual.
    traits: BTreeMap<NodeId, NodeTraits>,
    /// What tells a process of a node from those before and after it.
    salts: BTreeMap<NodeId, Salt>,
}

/// Bounds on the length of frames that routes are found for, each of its own. Where nodes have more different ones, long
/// frames go only through those with the highest.
pub(in crate::relay) const LONG_ROUTES_MAX: usize = 4;

/// How a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Links of the path; 1 to a neighbour.
    pub(super) hops: u8,
    /// The neighbours with which a shortest route begins, by id; never empty.
    pub(super) next: SmallVec<[NodeId; 2]>,
    /// Differs when any of the shortest routes does, wherever, or a node on them is another process: what was under way may
    /// be lost.
    pub(super) fingerprint: u64,
}

/// Of routes that lead on to one more node.
fn fingerprint_of(route: u64, node: &NodeId, salt: Option<&Salt>) -> u64 {
    let salt = salt.and_then(|salt| salt.first_chunk()).map_or(0, |salt| u64::from_be_bytes(*salt));
    let mixed = (route ^ node.short().rotate_left(32) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// What there is to be known about nodes from here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Nodes that a frame can reach.
    pub(super) paths: BTreeMap<NodeId, Route>,
    /// Nodes in the same part of the network, those too far for a frame included.
    pub(super) connected: BTreeSet<NodeId>,
}

impl Topology {
    /// A node's record lists a neighbour, or does no more.
    pub(super) fn list(&mut self, node: NodeId, neighbour: NodeId, lists: bool) {
        if lists {
            self.lists.entry(node).or_default().insert(neighbour);
        } else if let Some(list) = self.lists.get_mut(&node) {
            list.remove(&neighbour);
        }
    }

    /// A node's record says whether it passes on frames for others.
    pub(super) fn set_traits(&mut self, node: NodeId, traits: NodeTraits) {
        if traits == NodeTraits::default() {
            self.traits.remove(&node);
        } else {
            self.traits.insert(node, traits);
        }
    }

    /// A node's record says which process of it there is.
    pub(super) fn set_salt(&mut self, node: NodeId, salt: Option<Salt>) {
        match salt {
            Some(salt) => self.salts.insert(node, salt),
            None => self.salts.remove(&node),
        };
    }

    /// What a node is like.
    pub(super) fn traits(&self, node: &NodeId) -> NodeTraits {
        self.traits.get(node).copied().unwrap_or_default()
    }

    /// Which long frames need routes of their own, of those that this node takes itself: frames that are longer than the first
    /// go only through nodes that take the second. The shortest first.
    ///
    /// All nodes must draw the lines in the same places, or one sends a frame to another that knows no route on for it. So all
    /// bounds count, those included that are of no use to this node, and its own, which is one of the others' bounds.
    pub(super) fn long_frames(&self, own: NodeTraits) -> Vec<(u32, u32)> {
        let all = self.traits.values().copied().chain([own, NodeTraits::default()]);
        let bounds: BTreeSet<u32> =
            all.filter(|traits| traits.relays).map(|traits| traits.frame_len_max).collect();
        let bounds: Vec<u32> = bounds.into_iter().collect();
        let next = |bound: u32| (bound, bound.saturating_add(1));
        let lines = match (bounds.as_slice(), bounds.last()) {
            (few, _) if few.len() <= LONG_ROUTES_MAX => few.iter().copied().map(next).collect(),
            // Those between go only through nodes that take the longest.
            (many, Some(&highest)) => {
                let mut lines: Vec<(u32, u32)> =
                    many[..LONG_ROUTES_MAX - 2].iter().copied().map(next).collect();
                lines.extend([(many[LONG_ROUTES_MAX - 2], highest), next(highest)]);
                lines
            }
            (_, None) => Vec::new(),
        };
        lines.into_iter().filter(|(above, _)| *above < own.frame_len_max).collect()
    }

    /// Nothing is known of a node any more.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.lists.remove(node);
        self.traits.remove(node);
        self.salts.remove(node);
    }

    fn are_linked(&self, one: &NodeId, other: &NodeId) -> bool {
        self.lists.get(other).is_some_and(|list| list.contains(one))
    }

    fn edges(&self, own: &NodeId, node: &NodeId) -> impl Iterator<Item = &NodeId> {
        let list = self.lists.get(node).into_iter().flatten();
        list.filter(move |other| *other != own && self.are_linked(node, other))
    }

    /// Finds all routes that begin with the links to `neighbours`, for frames of an SDK link of so many bytes.
    pub(super) fn routes(
        &self,
        own: &NodeId,
        neighbours: impl Iterator<Item = NodeId>,
        frame_len: u32,
    ) -> Routes {
        let fingerprint = |before, node: &NodeId| fingerprint_of(before, node, self.salts.get(node));
        let mut paths: BTreeMap<NodeId, Route> = neighbours
            .map(|neighbour| {
                let (next, fingerprint) = (SmallVec::from_slice(&[neighbour]), fingerprint(0, &neighbour));
                (neighbour, Route { hops: 1, next, fingerprint })
            })
            .collect();
        let mut connected: BTreeSet<NodeId> = paths.keys().copied().collect();
        let mut unseen: Vec<NodeId> = connected.iter().copied().collect();
        while let Some(node) = unseen.pop() {
            unseen.extend(self.edges(own, &node).filter(|next| connected.insert(**next)));
        }
        // Breadth first: whoever is taken from the queue has all of its shortest routes.
        let mut queue: VecDeque<NodeId> = paths.keys().copied().collect();
        while let Some(node) = queue.pop_front() {
            let traits = self.traits(&node);
            let passes_on =
                |path: &&Route| path.hops < HOPS_MAX && traits.relays && frame_len <= traits.frame_len_max;
            let Some(path) = paths.get(&node).filter(passes_on).cloned() else { continue };
            for next in self.edges(own, &node) {
                let fingerprint = fingerprint(path.fingerprint, next);
                match paths.get_mut(next) {
                    None => {
                        let (hops, first) = (path.hops + 1, path.next.clone());
                        paths.insert(*next, Route { hops, next: first, fingerprint });
                        queue.push_back(*next);
                    }
                    Some(other) if other.hops == path.hops + 1 => {
                        // In whatever order they are found.
                        other.fingerprint = other.fingerprint.wrapping_add(fingerprint);
                        for first in &path.next {
                            if !other.next.contains(first) {
                                other.next.push(*first);
                            }
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        paths.values_mut().for_each(|path| path.next.sort_unstable());
        Routes { paths, connected }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    const OWN: u16 = 0;

    fn id(number: u16) -> NodeId {
        let mut id = [0; 64];
        id[..2].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    struct Graph {
        topology: Topology,
        edges: BTreeSet<(u16, u16)>,
    }

    impl Graph {
        fn new(edges: &[(u16, u16)]) -> Self {
            let mut graph = Self { topology: Topology::default(), edges: BTreeSet::new() };
            edges.iter().for_each(|&(one, other)| graph.set(one, other, true));
            graph
        }

        fn set(&mut self, one: u16, other: u16, linked: bool) {
            for (one, other) in [(one, other), (other, one)] {
                self.topology.list(id(one), id(other), linked);
                if linked {
                    self.edges.insert((one, other));
                } else {
                    self.edges.remove(&(one, other));
                }
            }
        }

        fn routes(&self) -> Routes {
            let neighbours = self.edges.iter().filter(|(one, _)| *one == OWN).map(|(_, other)| id(*other));
            self.topology.routes(&id(OWN), neighbours, 0)
        }

        fn long_path(&self, to: u16, frame_len: u32) -> Option<(u8, Vec<NodeId>)> {
            let neighbours = self.edges.iter().filter(|(one, _)| *one == OWN).map(|(_, other)| id(*other));
            let routes = self.topology.routes(&id(OWN), neighbours, frame_len);
            routes.paths.get(&id(to)).map(|path| (path.hops, path.next.to_vec()))
        }

        fn set_frame_len_max(&mut self, node: u16, frame_len_max: u32) {
            self.topology.set_traits(id(node), NodeTraits { frame_len_max, ..NodeTraits::default() });
        }

        fn path(&self, to: u16) -> Option<(u8, Vec<NodeId>)> {
            self.routes().paths.get(&id(to)).map(|path| (path.hops, path.next.to_vec()))
        }
    }

    #[test]
    fn all_equally_short_ways_are_found_and_no_longer_one() {
        // A ring of four, and a tail.
        let mut graph = Graph::new(&[(0, 1), (1, 2), (2, 3), (3, 0), (2, 4)]);
        assert_eq!(graph.path(1), Some((1, vec![id(1)])));
        assert_eq!(graph.path(2), Some((2, vec![id(1), id(3)])));
        assert_eq!(graph.path(4), Some((3, vec![id(1), id(3)])));
        graph.set(3, 0, false);
        assert_eq!(graph.path(4), Some((3, vec![id(1)])));
        assert_eq!(graph.path(3), Some((3, vec![id(1)])));
        graph.set(0, 4, true);
        assert_eq!(graph.path(3), Some((3, vec![id(1), id(4)])));
    }

    #[test]
    fn the_fingerprint_of_routes_differs_when_any_shortest_one_does_or_a_node_on_it_is_another_process() {
        // To 7 over 1 and 3, over 1 and 4, or over 2 and 5; the way over 6 is longer.
        let shortest = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (3, 7), (4, 7), (5, 7)];
        let longer = [(0, 6), (6, 8), (8, 9), (9, 7)];
        let mut graph = Graph::new(&[shortest.as_slice(), &longer].concat());
        let fingerprint = |graph: &Graph| graph.routes().paths[&id(7)].fingerprint;
        let whole = fingerprint(&graph);
        for (edges, is_other) in [(shortest.as_slice(), true), (&longer, false)] {
            for &(one, other) in edges {
                graph.set(one, other, false);
                assert_eq!(fingerprint(&graph) != whole, is_other, "without {one} - {other}");
                graph.set(one, other, true);
                assert_eq!(fingerprint(&graph), whole);
            }
        }
        for (node, is_other) in [1, 2, 3, 4, 5, 7].map(|node| (node, true)).into_iter().chain([(6, false)]) {
            graph.topology.set_salt(id(node), Some([1; 16]));
            assert_eq!(fingerprint(&graph) != whole, is_other, "another process of {node}");
            graph.topology.set_salt(id(node), None);
        }
    }

    #[test]
    fn what_only_one_end_says_is_no_edge() {
        let mut graph = Graph::new(&[(0, 1)]);
        graph.topology.list(id(1), id(2), true);
        assert_eq!(graph.path(2), None);
        graph.topology.list(id(2), id(1), true);
        assert_eq!(graph.path(2), Some((2, vec![id(1)])));
        graph.topology.forget(&id(2));
        assert_eq!(graph.path(2), None);
    }

    #[test]
    fn a_node_that_passes_on_nothing_is_reached_and_not_gone_through() {
        let mut graph = Graph::new(&[(0, 1), (1, 2), (0, 3), (3, 4), (4, 2)]);
        graph.topology.set_traits(id(1), NodeTraits { relays: false, ..NodeTraits::default() });
        assert_eq!(graph.path(1), Some((1, vec![id(1)])));
        assert_eq!(graph.path(2), Some((3, vec![id(3)])));
        graph.set(3, 4, false);
        assert_eq!(graph.path(2), None);
        assert!(graph.routes().connected.contains(&id(2)));
        graph.topology.set_traits(id(1), NodeTraits::default());
        assert_eq!(graph.path(2), Some((2, vec![id(1)])));
    }

    #[test]
    fn long_frames_go_around_nodes_that_do_not_take_them() {
        let mut graph = Graph::new(&[(0, 1), (1, 2), (0, 3), (3, 4), (4, 2)]);
        graph.set_frame_len_max(1, 1_000);
        assert_eq!(graph.path(2), Some((2, vec![id(1)])));
        assert_eq!(graph.long_path(2, 1_000), Some((2, vec![id(1)])));
        assert_eq!(graph.long_path(2, 1_001), Some((3, vec![id(3)])));
        assert_eq!(
            graph.long_path(1, 1_001),
            Some((1, vec![id(1)])),
            "whether it takes them is not asked here"
        );
        graph.set_frame_len_max(4, 2_000);
        assert_eq!(graph.long_path(2, 2_000), Some((3, vec![id(3)])));
        assert_eq!(graph.long_path(2, 2_001), None);
        let own = |frame_len_max| NodeTraits { relays: true, frame_len_max };
        let lines = |graph: &Graph, own| graph.topology.long_frames(own);
        assert_eq!(lines(&graph, own(9_000)), [(1_000, 1_001), (2_000, 2_001)]);
        assert_eq!(lines(&graph, own(2_000)), [(1_000, 1_001)], "longer ones are not taken here");
        let usual = NodeTraits::default().frame_len_max;
        let longest = lines(&graph, own(u32::MAX));
        assert_eq!(longest[2..], [(usual, usual + 1)], "nodes that are as usual do not take all, either");
        let none = NodeTraits { relays: false, frame_len_max: 5 };
        graph.topology.set_traits(id(3), none);
        assert_eq!(lines(&graph, own(9_000)).len(), 2, "a node that passes on nothing does not matter");
    }

    #[test]
    fn all_nodes_draw_the_lines_between_long_frames_in_the_same_places() {
        let bounds = |count: u16| (0..count).map(|node| 3_000 + 100 * u32::from(node));
        for count in 1..20 {
            let lines: Vec<Vec<(u32, u32)>> = (0..count)
                .map(|own| {
                    let mut graph = Graph::new(&[(0, 1)]);
                    let others = bounds(count).enumerate().filter(|(node, _)| *node as u16 != own);
                    others.for_each(|(node, bound)| graph.set_frame_len_max(node as u16, bound));
                    let frame_len_max = bounds(count).nth(own.into()).unwrap();
                    graph.topology.long_frames(NodeTraits { relays: true, frame_len_max })
                })
                .collect();
            for (own, bound) in bounds(count).enumerate() {
                assert!(lines[own].len() <= LONG_ROUTES_MAX);
                // Whoever takes more has the lines of all that take less, and others above.
                let (own, all) = (&lines[own], &lines[usize::from(count) - 1]);
                assert_eq!(own[..], all[..own.len()]);
                assert!(all[own.len()..].iter().all(|(above, _)| *above >= bound));
            }
        }
    }

    #[test]
    fn what_is_further_than_a_frame_can_go_is_connected_and_not_reached() {
        let line: Vec<(u16, u16)> = (0..20).map(|node| (node, node + 1)).collect();
        let graph = Graph::new(&line);
        let hops = u16::from(HOPS_MAX);
        assert_eq!(graph.path(hops), Some((HOPS_MAX, vec![id(1)])));
        assert_eq!(graph.path(hops + 1), None);
        assert!(graph.routes().connected.contains(&id(20)));
    }

    #[test]
    fn in_random_networks_each_way_is_as_short_as_can_be_and_leads_there() {
        let mut random = SmallRng::seed_from_u64(3);
        for _ in 0..50 {
            let nodes = random.random_range(2..40u16);
            let edges: Vec<(u16, u16)> = (0..random.random_range(1..120))
                .map(|_| (random.random_range(0..nodes), random.random_range(0..nodes)))
                .filter(|(one, other)| one != other)
                .collect();
            let graph = Graph::new(&edges);
            // Distances by relaxation of all edges.
            let mut distances = vec![usize::MAX; usize::from(nodes)];
            distances[usize::from(OWN)] = 0;
            for _ in 0..nodes {
                for &(one, other) in &graph.edges {
                    let through = distances[usize::from(one)].saturating_add(1);
                    distances[usize::from(other)] = distances[usize::from(other)].min(through);
                }
            }
            // The same from each neighbour tells which first links lie on a shortest route.
            let routes = graph.routes();
            for node in 1..nodes {
                let distance = distances[usize::from(node)];
                let path = routes.paths.get(&id(node));
                assert_eq!(path.is_some(), distance <= usize::from(HOPS_MAX));
                let Some(path) = path else { continue };
                assert_eq!(usize::from(path.hops), distance);
                let first: Vec<NodeId> = (1..nodes)
                    .filter(|&first| graph.edges.contains(&(OWN, first)))
                    .filter(|&first| distance_between(&graph, first, node) == distance - 1)
                    .map(id)
                    .collect();
                assert_eq!(path.next.to_vec(), first);
            }
        }
    }

    fn distance_between(graph: &Graph, from: u16, to: u16) -> usize {
        let (mut reached, mut distance) = (BTreeSet::from([from]), 0);
        while !reached.contains(&to) {
            let further: BTreeSet<u16> = graph
                .edges
                .iter()
                .filter(|(one, other)| reached.contains(one) && *other != OWN)
                .map(|(_, other)| *other)
                .collect();
            let before = reached.len();
            reached.extend(further);
            distance += 1;
            if reached.len() == before {
                return usize::MAX;
            }
        }
        distance
    }
}
