//! Which nodes of a simulated network are linked with which, and what must follow from that for messages.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use amop::internal::wire::node::HOPS_MAX;
use rand::{RngExt, rngs::SmallRng, seq::SliceRandom};

use crate::kit::NodeIndex;

/// The two ends of a link, the smaller first.
pub type Edge = (NodeIndex, NodeIndex);

pub fn edge(one: NodeIndex, other: NodeIndex) -> Edge {
    (one.min(other), one.max(other))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Everybody with everybody.
    Full,
    Line,
    Ring,
    Star,
    Tree,
    /// Two full meshes, and two links between them that have no end in common where that can be.
    TwoSites,
    /// A tree with some more links.
    Random,
}

/// Who is linked with whom when nothing is wrong.
#[derive(Clone)]
pub struct Graph {
    pub shape: Shape,
    pub nodes: usize,
    pub edges: BTreeSet<Edge>,
    /// Nodes that pass on nothing for others.
    pub ends: BTreeSet<NodeIndex>,
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes, {:?} {:?}, ends {:?}", self.nodes, self.shape, self.edges, self.ends)
    }
}

impl Graph {
    pub fn full(nodes: usize) -> Self {
        Self::new(Shape::Full, nodes, (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b))))
    }

    fn new(shape: Shape, nodes: usize, edges: impl Iterator<Item = (NodeIndex, NodeIndex)>) -> Self {
        let edges = edges.filter(|(a, b)| a != b).map(|(a, b)| edge(a, b)).collect();
        Self { shape, nodes, edges, ends: BTreeSet::new() }
    }

    /// One of so many nodes in which a frame can go from everywhere to everywhere. Which node is where in it is drawn,
    /// too.
    pub fn draw(rng: &mut SmallRng, nodes: usize) -> Self {
        loop {
            let graph = Self::draw_any(rng, nodes);
            if graph.diameter().is_some_and(|links| links <= usize::from(HOPS_MAX)) {
                return graph;
            }
        }
    }

    fn draw_any(rng: &mut SmallRng, nodes: usize) -> Self {
        const SHAPES: [Shape; 7] = [
            Shape::Line,
            Shape::Ring,
            Shape::Star,
            Shape::Tree,
            Shape::TwoSites,
            Shape::Random,
            Shape::Random,
        ];
        let shape = SHAPES[rng.random_range(0..SHAPES.len())];
        let mut edges: Vec<(NodeIndex, NodeIndex)> = Vec::new();
        let grow = |rng: &mut SmallRng, edges: &mut Vec<(NodeIndex, NodeIndex)>| {
            edges.extend((1..nodes).map(|node| (node, rng.random_range(0..node))));
        };
        match shape {
            Shape::Full => edges.extend(Self::full(nodes).edges),
            Shape::Line => edges.extend((1..nodes).map(|node| (node - 1, node))),
            Shape::Ring => edges.extend((0..nodes).map(|node| (node, (node + 1) % nodes))),
            Shape::Star => edges.extend((1..nodes).map(|node| (0, node))),
            Shape::Tree => grow(rng, &mut edges),
            Shape::TwoSites => {
                // Sites of more than a few nodes are sparse themselves.
                let (first, dense) = (nodes / 2, nodes <= 12);
                for (from, to) in [(0, first), (first, nodes)] {
                    for node in from + 1..to {
                        match dense {
                            true => edges.extend((from..node).map(|other| (node, other))),
                            false => {
                                edges.extend((0..2).map(|_| (node, rng.random_range(from..node))));
                            }
                        }
                    }
                }
                let last = first.saturating_sub(1);
                edges.extend([(0, first), (last, nodes - 1)]);
            }
            Shape::Random => {
                grow(rng, &mut edges);
                for _ in 0..rng.random_range(1..=nodes) {
                    edges.push((rng.random_range(0..nodes), rng.random_range(0..nodes)));
                }
            }
        }
        let mut names: Vec<NodeIndex> = (0..nodes).collect();
        names.shuffle(rng);
        let mut graph = Self::new(shape, nodes, edges.into_iter().map(|(a, b)| (names[a], names[b])));
        if rng.random_bool(0.3) {
            // Somebody who relays nothing, where others can do without.
            let node = rng.random_range(0..nodes);
            graph.ends.insert(node);
            if graph.diameter().is_none() {
                graph.ends.clear();
            }
        }
        graph
    }

    pub fn neighbours(&self, node: NodeIndex) -> impl Iterator<Item = NodeIndex> {
        let ends = self.edges.iter().filter(move |(a, b)| *a == node || *b == node);
        ends.map(move |(a, b)| if *a == node { *b } else { *a })
    }

    /// How many links away each node is, over links and nodes that are not in the way; `None` for those that no frame
    /// reaches.
    pub fn distances(
        &self,
        from: NodeIndex,
        is_usable: impl Fn(Edge) -> bool,
        passes_on: impl Fn(NodeIndex) -> bool,
    ) -> Vec<Option<usize>> {
        let mut distances = vec![None; self.nodes];
        distances[from] = Some(0);
        let mut queue = VecDeque::from([from]);
        let mut links = vec![Vec::new(); self.nodes];
        for &(a, b) in self.edges.iter().filter(|edge| is_usable(**edge)) {
            links[a].push(b);
            links[b].push(a);
        }
        while let Some(node) = queue.pop_front() {
            let Some(distance) = distances[node].filter(|&distance| distance < usize::from(HOPS_MAX)) else {
                continue;
            };
            if node != from && (self.ends.contains(&node) || !passes_on(node)) {
                continue;
            }
            for &next in &links[node] {
                if distances[next].is_none() {
                    distances[next] = Some(distance + 1);
                    queue.push_back(next);
                }
            }
        }
        distances
    }

    /// Links between the two nodes that are farthest from each other; `None` if one does not reach another one.
    pub fn diameter(&self) -> Option<usize> {
        let farthest = |from| {
            self.distances(from, |_| true, |_| true)
                .into_iter()
                .try_fold(0, |farthest, distance| Some(farthest.max(distance?)))
        };
        (0..self.nodes).try_fold(0, |diameter, from| Some(diameter.max(farthest(from)?)))
    }

    /// Draws one side of the network, and gives the links that lead out of it.
    pub fn draw_border(&self, rng: &mut SmallRng) -> (BTreeSet<NodeIndex>, BTreeSet<Edge>) {
        // What is near to a node is on its side.
        let distances = self.distances(rng.random_range(0..self.nodes), |_| true, |_| true);
        let mut order: Vec<NodeIndex> = (0..self.nodes).collect();
        order.sort_by_key(|&node| distances[node].unwrap_or(usize::MAX));
        let size = rng.random_range(1..self.nodes);
        let side: BTreeSet<NodeIndex> = order.into_iter().take(size).collect();
        let border =
            self.edges.iter().copied().filter(|(a, b)| side.contains(a) != side.contains(b)).collect();
        (side, border)
    }
}

#[test]
fn drawn_networks_are_what_they_are_called() {
    use rand::SeedableRng;
    let mut rng = SmallRng::seed_from_u64(1);
    for nodes in [3, 5, 12, 60] {
        for _ in 0..40 {
            let graph = Graph::draw(&mut rng, nodes);
            let diameter = graph.diameter().expect("all are reached");
            let degrees: Vec<usize> = (0..nodes).map(|node| graph.neighbours(node).count()).collect();
            let most = degrees.iter().copied().max().unwrap_or_default();
            match graph.shape {
                Shape::Line => assert_eq!((graph.edges.len(), diameter), (nodes - 1, nodes - 1)),
                Shape::Ring => assert_eq!((graph.edges.len(), most), (nodes, 2)),
                Shape::Star => assert_eq!((diameter, most), (2, nodes - 1)),
                Shape::Tree => assert_eq!(graph.edges.len(), nodes - 1),
                Shape::TwoSites | Shape::Random => assert!(graph.edges.len() >= nodes - 1),
                Shape::Full => unreachable!("it is not drawn"),
            }
            let (side, border) = graph.draw_border(&mut rng);
            let distances = graph.distances(
                *side.first().expect("never empty"),
                |edge| !border.contains(&edge),
                |_| true,
            );
            assert!((0..nodes).all(|node| side.contains(&node) || distances[node].is_none()));
        }
    }
}
