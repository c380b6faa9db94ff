//! What it costs to ask the bandwidth limiter whether a frame may go: alone, and with other threads at it.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use amop::internal::relay::bandwidth::Limiter;
use criterion::{Criterion, criterion_group, criterion_main};

const COST: u64 = 300;
const GAP: Duration = Duration::from_micros(1);

fn limiter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limiter");
    let mut now = Duration::ZERO;
    let mut next = || {
        now += GAP;
        now
    };
    // Of what is offered, all is admitted at one rate, and half at the other.
    let rate = COST as f64 / GAP.as_secs_f64();
    for (name, limiter) in [
        ("without a limit", Limiter::unlimited()),
        ("admits all", Limiter::new(2.0 * rate, Duration::from_millis(100))),
        ("admits half", Limiter::new(rate / 2.0, Duration::from_millis(100))),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(limiter.admit(next(), COST))));
    }
    let shared = Limiter::new(4.0 * rate, Duration::from_millis(100));
    group.bench_function("charge", |bencher| bencher.iter(|| shared.charge(next(), COST)));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                black_box(shared.admit(Duration::from_secs(1), COST));
            }
        });
        group.bench_function("admits all, another thread at it", |bencher| {
            bencher.iter(|| black_box(shared.admit(next(), COST)));
        });
        is_over.store(true, Relaxed);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = limiter
}
criterion_main!(benches);
