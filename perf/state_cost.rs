//! What a change of one topic costs a whole network, over the number of nodes and of topics that there are; and
//! how long it takes, in links one behind the other. Registries are joined by queues, without sockets.
//!
//! `cargo run --release --example state_cost [-- --quick]` writes `perf/state_cost.csv` and `perf/state_cost.svg`.

use std::{
    collections::VecDeque,
    fs,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use amop::{
    relay::{
        ReactorId, RegistryInput, RegistryOutput, Shared, registry::Registry, settings::Settings,
        signing::NodeSigner,
    },
    wire::{NodeId, Topic, node::PacketType},
};
use bytes::Bytes;
use plotters::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustix::time::{ClockId, clock_gettime};

const HOME: ReactorId = ReactorId(0);
/// Links of a node, about.
const DEGREE: usize = 4;
/// Changes that are measured, each by itself.
const CHANGES: usize = 50;
/// Header of a node frame, which the registry's messages travel in.
const HEADER_LEN: usize = amop::wire::node::HEADER_LEN_MIN;

struct Network {
    now: Instant,
    ids: Vec<NodeId>,
    registries: Vec<Registry>,
    links: usize,
    wire: VecDeque<(usize, usize, PacketType, u32, Bytes)>,
    seq: u32,
    /// Bytes of all links, and of the busiest one in one direction since [`Network::measure`].
    bytes: usize,
}

fn topic(node: usize, index: usize) -> Topic {
    Topic::new(&format!("institution-{node}/orders/{index}")).expect("a valid name")
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Network {
    /// A ring with random chords, each node with its share of the topics, at rest.
    fn new(nodes: usize, topics: usize) -> Self {
        let now = Instant::now();
        let mut random = SmallRng::seed_from_u64(nodes as u64);
        let keys: Vec<NodeSigner> = (0..nodes)
            .map(|_| NodeSigner::from_secret_bytes(&random.random()).expect("a valid key"))
            .collect();
        let settings = Settings { records_bytes_max: 1 << 40, ..Settings::default() };
        let registries = keys
            .iter()
            .map(|key| {
                let shared = Shared::new(key.id(), 1, 1, now, settings.clone());
                Registry::new(Arc::new(shared), key.clone())
            })
            .collect();
        let ids = keys.iter().map(NodeSigner::id).collect();
        let mut network = Self { now, ids, registries, links: 0, wire: VecDeque::new(), seq: 0, bytes: 0 };
        for node in 0..nodes {
            let changes = (0..topics / nodes).map(|index| (topic(node, index), 1)).collect();
            network.subscribe(node, changes);
        }
        let mut edges: Vec<(usize, usize)> = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
        while edges.len() < nodes * DEGREE / 2 && nodes > DEGREE {
            let (one, other) = (random.random_range(0..nodes), random.random_range(0..nodes));
            if one != other && !edges.contains(&(one, other)) && !edges.contains(&(other, one)) {
                edges.push((one, other));
            }
        }
        edges.retain(|(one, other)| one != other);
        for &(one, other) in &edges {
            for (at, peer) in [(one, other), (other, one)] {
                let input = RegistryInput::NodeUp {
                    id: network.ids[peer],
                    incarnation: 1,
                    reactor: HOME,
                    address: String::new(),
                    agency: String::new(),
                    name: String::new(),
                };
                network.registries[at].handle(now, input);
            }
        }
        network.links = edges.len();
        // Announcements beyond an origin's allowance are fetched after the next digest.
        for _ in 0..3 {
            network.settle();
            network.now += Duration::from_secs(5);
            let now = network.now;
            network.registries.iter_mut().for_each(|registry| registry.handle_timeout(now));
        }
        network.settle();
        network
    }

    fn subscribe(&mut self, node: usize, changes: Vec<(Topic, i32)>) {
        self.registries[node].handle(self.now, RegistryInput::Topics { reactor: HOME, changes });
    }

    /// Publishes everywhere and takes what is to be sent.
    fn collect(&mut self) {
        for (from, registry) in self.registries.iter_mut().enumerate() {
            registry.publish(self.now);
            while let Some((_, output)) = registry.poll_output() {
                if let RegistryOutput::ToNode { to, packet_type, seq, payload } = output
                    && let Some(to) = self.ids.iter().position(|id| *id == to)
                {
                    self.seq += 1;
                    self.bytes += HEADER_LEN + payload.len();
                    self.wire.push_back((from, to, packet_type, seq.unwrap_or(self.seq), payload));
                }
            }
        }
    }

    /// Delivers until nothing is under way; gives after how many links one behind the other that was.
    fn settle(&mut self) -> usize {
        let mut links = 0;
        self.collect();
        while !self.wire.is_empty() {
            for _ in 0..self.wire.len() {
                let Some((from, to, packet_type, seq, payload)) = self.wire.pop_front() else { break };
                let input = RegistryInput::State { from: self.ids[from], packet_type, seq, payload };
                self.registries[to].handle(self.now, input);
            }
            self.collect();
            links += 1;
        }
        links
    }
}

/// What one change costs.
struct Row {
    nodes: usize,
    topics: usize,
    bytes_per_link: f64,
    microseconds_per_node: f64,
    links: usize,
}

fn measure(nodes: usize, topics: usize) -> Row {
    let mut network = Network::new(nodes, topics);
    let mut random = SmallRng::seed_from_u64(1);
    let mut longest = 0;
    network.bytes = 0;
    let start = processor_time();
    for change in 0..CHANGES {
        let node = random.random_range(0..nodes);
        let name = topic(node, topics / nodes + change);
        network.subscribe(node, vec![(name, 1)]);
        // Its last delivery only finds that everybody knows it already.
        longest = longest.max(network.settle());
    }
    let time = processor_time() - start;
    let changes = CHANGES as f64;
    Row {
        nodes,
        topics,
        bytes_per_link: network.bytes as f64 / changes / network.links as f64,
        microseconds_per_node: time.as_secs_f64() * 1e6 / changes / nodes as f64,
        links: longest,
    }
}

fn draw(path: &str, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (1000, 760)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((2, 2));
    let by_topics: Vec<&Row> = rows.iter().filter(|row| row.nodes == 10).collect();
    let by_nodes: Vec<&Row> = rows.iter().filter(|row| row.topics == 10_000).collect();
    type Figure = fn(&Row) -> f64;
    let size: [(&str, &[&Row], Figure); 2] = [
        ("topics in a network of 10 nodes", &by_topics, |row| row.topics as f64),
        ("nodes with 10,000 topics together", &by_nodes, |row| row.nodes as f64),
    ];
    let cost: [(&str, Figure); 2] = [
        ("bytes per link for one change", |row| row.bytes_per_link),
        ("processor time per node, µs", |row| row.microseconds_per_node),
    ];
    for (area, (size, cost)) in
        areas.iter().zip(size.iter().flat_map(|size| cost.iter().map(move |cost| (size, cost))))
    {
        let (what, rows, x) = size;
        let (caption, y) = cost;
        let points: Vec<(f64, f64)> = rows.iter().map(|row| (x(row), y(row))).collect();
        let Some((&(first, _), &(last, _))) = points.first().zip(points.last()) else { continue };
        let most = points.iter().map(|(_, y)| *y).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(*caption, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((first..last.max(first + 1.0)).log_scale(), 0.0..most * 1.2)?;
        chart.configure_mesh().x_desc(*what).draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), BLUE))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, BLUE.filled())))?;
    }
    root.present()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let topics: &[usize] =
        if quick { &[100, 1_000, 10_000] } else { &[100, 1_000, 10_000, 100_000, 1_000_000] };
    let nodes: &[usize] = if quick { &[3, 10, 30] } else { &[3, 10, 30, 100, 200, 500] };
    let mut sizes: Vec<(usize, usize)> = topics.iter().map(|&topics| (10, topics)).collect();
    sizes.extend(nodes.iter().filter(|&&nodes| nodes != 10).map(|&nodes| (nodes, 10_000)));
    let mut rows = Vec::new();
    for (nodes, topics) in sizes {
        let row = measure(nodes, topics);
        println!(
            "{nodes:>4} nodes, {topics:>8} topics: {:>7.0} bytes per link, {:>7.1} µs per node, {:>2} links",
            row.bytes_per_link, row.microseconds_per_node, row.links
        );
        rows.push(row);
    }
    if quick {
        return Ok(());
    }
    rows.sort_by_key(|row| (row.nodes, row.topics));
    let mut csv = fs::File::create("perf/state_cost.csv")?;
    writeln!(csv, "nodes,topics,bytes_per_link,microseconds_per_node,links")?;
    for row in &rows {
        writeln!(
            csv,
            "{},{},{:.0},{:.1},{}",
            row.nodes, row.topics, row.bytes_per_link, row.microseconds_per_node, row.links
        )?;
    }
    draw("perf/state_cost.svg", &rows)
}
