//! How soon a change is known in all of a network: after how many links one behind the other everybody has a topic,
//! or knows the shortest routes, in random networks of 3 to 200 nodes. The time begins when the nodes that it happens to
//! have noticed it; what they gather changes for, and what their processors take, is not in it.
//!
//! `cargo run --release -p amop-perf --bin convergence [-- --quick]` writes `perf/results/convergence.csv` and
//! `perf/results/convergence.svg`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    io::Write,
};

use amop::internal::wire::{Topic, node::HOPS_MAX};
use plotters::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use registries::Registries;

#[path = "../scenarios/registries.rs"]
mod registries;

/// Networks of each size.
const SEEDS: u64 = 30;
/// Ways of this network that lie behind so many links are not found in any number of them.
const LINKS_MAX: usize = 200;

/// Topics that two parts of a network take while they are parted.
const PARTS: [&str; 2] = ["of one part", "of the other"];

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Subscription,
    LinkLost,
    LinkUp,
    NodeDead,
    /// A link that joins two parts in each of which something changed meanwhile.
    PartsJoined,
}

impl Change {
    const ALL: [Self; 5] =
        [Self::Subscription, Self::LinkLost, Self::LinkUp, Self::NodeDead, Self::PartsJoined];

    fn name(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::LinkLost => "link lost",
            Self::LinkUp => "link up",
            Self::NodeDead => "node dead",
            Self::PartsJoined => "parts joined",
        }
    }

    fn colour(self) -> RGBColor {
        match self {
            Self::Subscription => BLUE,
            Self::LinkLost => RED,
            Self::LinkUp => GREEN,
            Self::NodeDead => BLACK,
            Self::PartsJoined => MAGENTA,
        }
    }
}

/// Who is linked with whom. Of each link the smaller node is first.
#[derive(Clone)]
struct Graph {
    nodes: usize,
    edges: BTreeSet<(usize, usize)>,
}

impl Graph {
    /// One whose parts are all connected, long or wide as it is drawn.
    fn draw(nodes: usize, random: &mut SmallRng) -> Self {
        loop {
            let (reach, chords) = (random.random_range(1..nodes), random.random_range(0..=nodes / 2));
            let mut edges: BTreeSet<(usize, usize)> = (1..nodes)
                .map(|node| (random.random_range(node.saturating_sub(reach)..node), node))
                .collect();
            for _ in 0..chords {
                let (one, other) = (random.random_range(0..nodes), random.random_range(0..nodes));
                if one != other {
                    edges.insert((one.min(other), one.max(other)));
                }
            }
            let graph = Self { nodes, edges };
            // A frame goes no farther.
            if graph.diameter() <= usize::from(HOPS_MAX) {
                return graph;
            }
        }
    }

    /// How many links away each node is that can be reached.
    fn distances(&self, from: usize) -> BTreeMap<usize, usize> {
        let mut links = vec![Vec::new(); self.nodes];
        for &(one, other) in &self.edges {
            links[one].push(other);
            links[other].push(one);
        }
        let (mut distances, mut queue) = (BTreeMap::from([(from, 0)]), VecDeque::from([from]));
        while let Some(node) = queue.pop_front() {
            let distance = distances[&node] + 1;
            for &next in &links[node] {
                if distance <= usize::from(HOPS_MAX) && !distances.contains_key(&next) {
                    distances.insert(next, distance);
                    queue.push_back(next);
                }
            }
        }
        distances
    }

    /// Links between the two nodes of one part that are farthest from each other.
    fn diameter(&self) -> usize {
        let farthest = |node| {
            let distances = self.distances(node);
            match distances.len() == self.nodes {
                true => distances.into_values().max().unwrap_or(0),
                false => usize::MAX,
            }
        };
        (0..self.nodes).map(farthest).max().unwrap_or(0)
    }

    fn draw_edge(&self, random: &mut SmallRng) -> (usize, usize) {
        let at = random.random_range(0..self.edges.len());
        self.edges.iter().nth(at).copied().expect("a network has links")
    }
}

/// Whether all nodes that live know the shortest routes of the network as it is.
fn agree(network: &Registries, graph: &Graph, living: &[usize]) -> bool {
    living.iter().all(|&node| {
        let distances = graph.distances(node);
        let snapshot = network.shared[node].snapshot.load();
        let real = distances.iter().filter(|(other, _)| **other != node);
        snapshot.paths.len() == distances.len() - 1
            && real.into_iter().all(|(other, links)| {
                snapshot.paths.get(&network.ids[*other]).is_some_and(|path| usize::from(path.hops) == *links)
            })
    })
}

/// Whether all nodes know of a subscriber of a topic.
fn have(network: &Registries, topic: &str) -> bool {
    network.shared.iter().all(|shared| shared.snapshot.load().topic(topic).is_some())
}

/// After how many links what is asked for is so.
fn links_until(network: &mut Registries, is_so: impl Fn(&Registries) -> bool) -> usize {
    let mut is_moving = network.begin();
    for links in 0..LINKS_MAX {
        if is_so(network) {
            return links;
        }
        assert!(is_moving, "nothing is under way any more, and it is not known everywhere");
        is_moving = network.step();
    }
    panic!("not known everywhere after {LINKS_MAX} links");
}

struct Run {
    change: Change,
    /// Of the network in which the change must become known.
    diameter: usize,
    links: usize,
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a valid name")
}

/// Everything that may happen to one network, one after the other.
fn run(nodes: usize, seed: u64) -> Vec<Run> {
    let mut random = SmallRng::seed_from_u64(seed << 16 | nodes as u64);
    let whole = Graph::draw(nodes, &mut random);
    let mut network = Registries::new(nodes, &mut random);
    whole.edges.iter().for_each(|&(one, other)| network.link(one, other));
    network.rest();
    let all: Vec<usize> = (0..nodes).collect();
    assert!(agree(&network, &whole, &all), "a network at rest knows its ways");
    let mut runs = Vec::new();
    let mut note = |change, graph: &Graph, links| {
        let diameter = (0..nodes).filter_map(|node| graph.distances(node).into_values().max()).max();
        runs.push(Run { change, diameter: diameter.unwrap_or(0), links });
    };

    network.subscribe(random.random_range(0..nodes), vec![(topic("news"), 1)]);
    let links = links_until(&mut network, |network| have(network, "news"));
    note(Change::Subscription, &whole, links);
    network.rest();

    let (one, other) = whole.draw_edge(&mut random);
    let mut broken = whole.clone();
    broken.edges.remove(&(one, other));
    network.lose(one, other);
    network.lose(other, one);
    let links = links_until(&mut network, |network| agree(network, &broken, &all));
    note(Change::LinkLost, &broken, links);
    network.rest();

    // Where that has parted the network, both parts have changed before it returns.
    let is_parted = broken.distances(one).len() < nodes;
    if is_parted {
        for (node, name) in [one, other].into_iter().zip(PARTS) {
            network.subscribe(node, vec![(topic(name), 1)]);
        }
        network.rest();
    }
    network.link(one, other);
    let links = links_until(&mut network, |network| {
        agree(network, &whole, &all) && (!is_parted || PARTS.iter().all(|name| have(network, name)))
    });
    note(if is_parted { Change::PartsJoined } else { Change::LinkUp }, &whole, links);
    network.rest();

    let dead = random.random_range(0..nodes);
    let mut left = whole.clone();
    left.edges.retain(|(one, other)| *one != dead && *other != dead);
    for &(one, other) in whole.edges.iter().filter(|(one, other)| *one == dead || *other == dead) {
        network.lose(if one == dead { other } else { one }, dead);
    }
    let living: Vec<usize> = all.iter().copied().filter(|&node| node != dead).collect();
    let links = links_until(&mut network, |network| agree(network, &left, &living));
    note(Change::NodeDead, &left, links);
    runs
}

fn median(values: &mut [usize]) -> usize {
    values.sort_unstable();
    values[values.len() / 2]
}

fn draw(path: &str, runs: &[Run]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (1000, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let most = runs.iter().map(|run| run.links.max(run.diameter)).max().unwrap_or(1) as f64;
    let widest = runs.iter().map(|run| run.diameter).max().unwrap_or(1) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("until all nodes know of a change: median and most of all networks", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..widest + 0.5, 0.0..most + 1.0)?;
    chart
        .configure_mesh()
        .x_desc("links between the two nodes that are farthest from each other")
        .y_desc("links one behind the other")
        .draw()?;
    for change in Change::ALL {
        let mut by_diameter: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.change == change) {
            by_diameter.entry(run.diameter).or_default().push(run.links);
        }
        let points: Vec<(f64, f64, f64)> = by_diameter
            .iter_mut()
            .map(|(diameter, links)| {
                let most = links.iter().copied().max().unwrap_or(0);
                (*diameter as f64, median(links) as f64, most as f64)
            })
            .collect();
        let colour = change.colour();
        chart
            .draw_series(LineSeries::new(points.iter().map(|&(x, middle, _)| (x, middle)), colour))?
            .label(change.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        chart.draw_series(points.iter().map(|&(x, _, most)| Circle::new((x, most), 3, colour.filled())))?;
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let sizes: &[usize] = if quick { &[3, 10, 30] } else { &[3, 5, 10, 20, 50, 100, 200] };
    let seeds = if quick { 5 } else { SEEDS };
    let mut runs = Vec::new();
    let mut rows = Vec::new();
    for &nodes in sizes {
        let of_size: Vec<Run> = (0..seeds).flat_map(|seed| run(nodes, seed)).collect();
        for change in Change::ALL {
            let of_change: Vec<&Run> = of_size.iter().filter(|run| run.change == change).collect();
            let (Some(most), Some(widest)) =
                (of_change.iter().map(|run| run.links).max(), of_change.iter().map(|run| run.diameter).max())
            else {
                continue;
            };
            let mut links: Vec<usize> = of_change.iter().map(|run| run.links).collect();
            let mut diameters: Vec<usize> = of_change.iter().map(|run| run.diameter).collect();
            let beyond = of_change.iter().map(|run| run.links.saturating_sub(run.diameter)).max();
            let beyond = beyond.unwrap_or(0);
            let (count, links, diameter) = (of_change.len(), median(&mut links), median(&mut diameters));
            println!(
                "{nodes:>4} nodes, {:<13} {count:>3} times: known after {links:>2} links, at most {most:>2}; diameter {diameter:>2}, at most {widest:>2}; at most {beyond} more than it",
                change.name(),
            );
            rows.push(format!(
                "{nodes},{},{count},{links},{most},{diameter},{widest},{beyond}",
                change.name()
            ));
        }
        runs.extend(of_size);
    }
    if quick {
        return Ok(());
    }
    let mut csv = fs::File::create("perf/results/convergence.csv")?;
    writeln!(
        csv,
        "nodes,change,networks,links_median,links_max,diameter_median,diameter_max,links_beyond_diameter_max"
    )?;
    for row in rows {
        writeln!(csv, "{row}")?;
    }
    draw("perf/results/convergence.svg", &runs)
}
