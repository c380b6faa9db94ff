//! What it costs that a publisher's and a subscriber's link belong to different reactors: messages through a running
//! engine over socket pairs, with both links at one reactor, and with each at another, where every frame crosses the mesh.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../perf/src/scenarios/engine.rs"]
mod engine;
use engine::Traffic;

fn mesh(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("over socket pairs");
    for (name, reactor) in [("one reactor", 0), ("two reactors", 1)] {
        let mut traffic = Traffic::start(&[reactor]);
        for window in [1, 64] {
            group.throughput(Throughput::Elements(window as u64));
            group.bench_function(format!("{name}, {window} round trips at once"), |bencher| {
                bencher.iter(|| traffic.round_trips(window));
            });
            group.bench_function(format!("{name}, {window} multicasts at once"), |bencher| {
                bencher.iter(|| traffic.multicasts(window));
            });
        }
        traffic.stop();
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = mesh
}
criterion_main!(benches);
