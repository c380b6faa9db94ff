//! The topic table from a hundred to a million topics: looking one up, and subscribing, publishing
//! and unsubscribing. A change must cost O(log n) of the topics that are there.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        ReactorId, RegistryInput, Shared, registry::Registry, settings::Settings, signing::NodeSigner,
        snapshot::Snapshot,
    },
    wire::Topic,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const SIZES: [usize; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];
const REACTOR: ReactorId = ReactorId(0);

fn topic(index: usize) -> Topic {
    Topic::new(&format!("orders/region-{}/{index}", index % 97)).expect("a valid name")
}

fn registry() -> (Arc<Shared>, Registry) {
    let signer = NodeSigner::from_secret_bytes(&[7; 32]).expect("a valid key");
    let shared = Arc::new(Shared::new(signer.id(), 1, 1, Instant::now(), Settings::default()));
    (shared.clone(), Registry::new(shared, signer))
}

fn topics(criterion: &mut Criterion) {
    let now = Instant::now();
    for size in SIZES {
        let names: Vec<Topic> = (0..size).map(topic).collect();
        let (shared, mut registry) = registry();
        let changes = names.iter().map(|name| (name.clone(), 1)).collect();
        registry.handle(now, RegistryInput::Topics { reactor: REACTOR, changes });
        registry.publish(now);

        let mut next = (0..).map(|i: usize| i.wrapping_mul(7_919) % size);
        let snapshot = shared.snapshot.load_full();
        criterion.benchmark_group("lookup").bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let index = next.next().unwrap_or_default();
                black_box(snapshot.topic(names[index].as_str()));
            });
        });

        // The table alone: a published clone is held, so that each change must copy its path.
        let mut table: Snapshot = (*snapshot).clone();
        let fresh = topic(size + 1);
        criterion.benchmark_group("table_change").bench_function(
            BenchmarkId::from_parameter(size),
            |bencher| {
                bencher.iter(|| {
                    table.set_reactor(&fresh, REACTOR, 1);
                    let published = table.clone();
                    table.set_reactor(&fresh, REACTOR, 0);
                    black_box(published);
                });
            },
        );

        // The whole way: subscribe and publish, unsubscribe and publish; two steps hashed and signed.
        criterion.benchmark_group("subscribe_publish_unsubscribe_publish").bench_function(
            BenchmarkId::from_parameter(size),
            |bencher| {
                bencher.iter(|| {
                    for difference in [1, -1] {
                        let changes = vec![(fresh.clone(), difference)];
                        registry.handle(now, RegistryInput::Topics { reactor: REACTOR, changes });
                        registry.publish(now);
                    }
                });
            },
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = topics
}
criterion_main!(benches);
