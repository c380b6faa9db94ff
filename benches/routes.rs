//! Routes to other nodes in networks of 10 to 500: looking one up, and finding all anew after a link has changed.

use std::{hint::black_box, sync::Arc};

use amop::internal::{
    relay::snapshot::{Path, Snapshot},
    wire::NodeId,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use smallvec::smallvec;

#[path = "../perf/src/scenarios/registries.rs"]
mod registries;
use registries::Registries;

const LOOKED_UP: [usize; 4] = [10, 50, 200, 500];
/// All nodes of these verify each other's records first.
const FOUND: [usize; 3] = [10, 50, 100];
/// Links of a node beside those of the ring.
const CHORDS: usize = 2;

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route looked up");
    for nodes in LOOKED_UP {
        let mut random = SmallRng::seed_from_u64(nodes as u64);
        let ids: Vec<NodeId> = (0..nodes).map(|_| NodeId(random.random())).collect();
        let next = smallvec![ids[0], ids[1]];
        let path = |id: &NodeId| {
            (
                *id,
                Path {
                    incarnation: 1,
                    salt: None,
                    hops: 2,
                    next: next.clone(),
                    frame_len_max: u32::MAX,
                    fingerprint: 0,
                },
            )
        };
        let paths = Arc::new(ids.iter().map(path).collect());
        let mut snapshot = Snapshot::default();
        snapshot.paths = paths;
        let mut next = ids.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(nodes), |bencher| {
            bencher.iter(|| black_box(next.next().and_then(|id| snapshot.paths.get(id))));
        });
    }
    group.finish();
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("link lost and made again, routes found, signed and published");
    group.sample_size(10);
    for nodes in FOUND {
        let mut random = SmallRng::seed_from_u64(nodes as u64);
        let mut network = Registries::new(nodes, &mut random);
        for node in 0..nodes {
            network.link(node, (node + 1) % nodes);
            (0..CHORDS).map(|_| random.random_range(0..nodes)).filter(|other| *other != node).for_each(
                |other| {
                    network.link(node, other);
                },
            );
        }
        network.rest();
        group.bench_function(BenchmarkId::from_parameter(nodes), |bencher| {
            bencher.iter(|| {
                network.lose(0, 1);
                network.begin();
                network.link(0, 1);
                network.begin()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = lookup, change
}
criterion_main!(benches);
