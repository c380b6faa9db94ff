//! Whole relays in memory: what nodes do for a message beside sockets and encryption.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../perf/src/scenarios/relay.rs"]
mod relay;
use relay::Relay;

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip");
    for subscribers in [1, 16] {
        let mut relay = Relay::new(1);
        let publisher = relay.app(0);
        (0..subscribers).for_each(|_| _ = relay.subscriber(0));
        group.bench_function(BenchmarkId::new("one node, subscribers", subscribers), |bencher| {
            bencher.iter(|| relay.round_trip(publisher, 0));
        });
    }
    let mut relay = Relay::new(2);
    let (publisher, _) = (relay.app(0), relay.subscriber(1));
    group.bench_function("two nodes", |bencher| bencher.iter(|| relay.round_trip(publisher, 1)));
    group.finish();
}

fn multicasts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("multicast");
    for (nodes, subscribers) in [(1, 1), (1, 100), (2, 100)] {
        let mut relay = Relay::new(nodes);
        let publisher = relay.app(0);
        (0..subscribers).for_each(|_| _ = relay.subscriber(usize::from(nodes) - 1));
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(format!("to {subscribers} through {nodes} nodes"), |bencher| {
            bencher.iter(|| relay.multicast(publisher, subscribers));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = round_trips, multicasts
}
criterion_main!(benches);
