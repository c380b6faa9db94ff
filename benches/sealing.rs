//! What it costs that messages over more than one link are sealed between their ends (WIRE §6.4): sealing and opening one,
//! sealing one for several nodes, and the shared secret, which is made once for each node and life.

use std::hint::black_box;

use amop::internal::{
    relay::{
        sealing::{ContentKey, IncarnationId, Seal, SealNumber, Subject},
        signing::NodeSigner,
    },
    wire::{MessageNumber, node::PacketType},
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SUBJECT: Subject = Subject { packet_type: PacketType::UNICAST, message: MessageNumber(7) };
const SIZES: [usize; 4] = [256, 4 << 10, 64 << 10, 1 << 20];

fn signer(number: u8) -> NodeSigner {
    NodeSigner::from_secret_bytes(&[number; 32]).expect("a valid key")
}

fn seal(own: u8, other: u8) -> Seal {
    let secret = signer(own).share_with(signer(other).id()).expect("a valid id");
    let life = IncarnationId { incarnation: 1, salt: [1; 16] };
    Seal::new(secret, life, life).expect("a key of the right length")
}

fn sealing(criterion: &mut Criterion) {
    let (source, destination) = (seal(1, 2), seal(2, 1));
    let mut group = criterion.benchmark_group("sealing");
    for size in SIZES {
        let payload = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        let mut sealed = Vec::new();
        group.bench_function(BenchmarkId::new("seal", size), |bencher| {
            let mut number = 0;
            bencher.iter(|| {
                number += 1;
                sealed.clear();
                source
                    .seal(SealNumber(number), SUBJECT, &[0; 16], std::iter::once(&payload[..]), &mut sealed)
                    .expect("short enough");
                black_box(&sealed);
            });
        });
        group.bench_function(BenchmarkId::new("open", size), |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| black_box(destination.open(SUBJECT, sealed).expect("as it was sealed").len()),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("seal for several", size), |bencher| {
            bencher.iter(|| {
                sealed.clear();
                ContentKey::seal([7; 16], &[0; 2], std::iter::once(&payload[..]), &mut sealed).is_some()
            });
        });
    }
    group.finish();
    let (own, other) = (signer(1), signer(2).id());
    criterion.bench_function("share a secret", |bencher| {
        bencher.iter(|| black_box(own.share_with(black_box(other))).is_some());
    });
}

criterion_group!(benches, sealing);
criterion_main!(benches);
