//! The topic table at 10² to 10⁶ topics: a look-up, and a change with its publication. Both must grow with
//! the logarithm of the number of topics at most.

use std::{hint::black_box, sync::Arc};

use amop::{
    relay::{ReactorId, snapshot::Snapshot},
    wire::Topic,
};
use arc_swap::ArcSwap;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn topics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topics");
    for exponent in [2, 3, 4, 5, 6] {
        let count = 10usize.pow(exponent);
        let names: Vec<Topic> =
            (0..count).filter_map(|number| Topic::new(&format!("bank/{number}/payments"))).collect();
        let mut snapshot = Snapshot::default();
        for name in &names {
            snapshot.set_reactor(name, ReactorId(0), 1);
        }
        let published = ArcSwap::from_pointee(snapshot.clone());
        let mut next = 0;
        group.bench_function(BenchmarkId::new("lookup", count), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % names.len();
                black_box(published.load().topic(names[next].as_str()).is_some())
            });
        });
        group.bench_function(BenchmarkId::new("change and publish", count), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % names.len();
                snapshot.set_reactor(&names[next], ReactorId(1), 1);
                published.store(Arc::new(snapshot.clone()));
                snapshot.set_reactor(&names[next], ReactorId(1), 0);
                published.store(Arc::new(snapshot.clone()));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = topics
}
criterion_main!(benches);
