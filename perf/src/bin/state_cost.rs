//! What a change of one topic costs a whole network, over the number of nodes and of topics that there are; and
//! how long it takes, in links one behind the other. Registries are joined by queues, without sockets.
//!
//! `cargo run --release -p amop-perf --bin state_cost [-- --quick]` writes `perf/results/state_cost.csv` and
//! `perf/results/state_cost.svg`.

use std::{fs, io::Write, time::Duration};

use amop::internal::wire::Topic;
use plotters::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use registries::Registries;
use rustix::time::{ClockId, clock_gettime};

#[path = "../scenarios/registries.rs"]
mod registries;

/// Links of a node, about.
const DEGREE: usize = 4;
/// Changes that are measured, each by itself.
const CHANGES: usize = 50;

fn topic(node: usize, index: usize) -> Topic {
    Topic::new(&format!("institution-{node}/orders/{index}")).expect("a valid name")
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A ring with random chords, each node with its share of the topics, at rest; and how many links it has.
fn network(nodes: usize, topics: usize) -> (Registries, usize) {
    let mut random = SmallRng::seed_from_u64(nodes as u64);
    let mut network = Registries::new(nodes, &mut random);
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
    edges.iter().for_each(|&(one, other)| network.link(one, other));
    network.rest();
    (network, edges.len())
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
    let (mut network, links) = network(nodes, topics);
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
        bytes_per_link: network.bytes as f64 / changes / links as f64,
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
    let mut csv = fs::File::create("perf/results/state_cost.csv")?;
    writeln!(csv, "nodes,topics,bytes_per_link,microseconds_per_node,links")?;
    for row in &rows {
        writeln!(
            csv,
            "{},{},{:.0},{:.1},{}",
            row.nodes, row.topics, row.bytes_per_link, row.microseconds_per_node, row.links
        )?;
    }
    draw("perf/results/state_cost.svg", &rows)
}
