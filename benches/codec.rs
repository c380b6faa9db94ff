//! What it costs to read and to write a frame: headers and bodies of the SDK link, packets of node links, changes and
//! messages of state.

use std::hint::black_box;

use amop::internal::wire::{
    NodeId, ResultCode,
    node::{self, Addressing, Extensions, HOPS_MAX, PacketType},
    sdk::{self, AmopBody, FrameType, HEADER_LEN},
    state::{Change, Head, topic_key},
};
use criterion::{Criterion, criterion_group, criterion_main};
use smallvec::SmallVec;

const SEQ: sdk::Seq = *b"b3ae60984320433aa3efbc6462ef6102";
const PAYLOAD: [u8; 256] = [7; 256];

fn sdk_link(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sdk");
    let frame = sdk::encode_amop(FrameType::REQUEST, &SEQ, ResultCode::OK, "orders/europe", &PAYLOAD);
    let header = sdk::Header::decode(&frame).expect("whole");
    group.bench_function("header decode", |bencher| {
        bencher.iter(|| sdk::Header::decode(black_box(&frame)));
    });
    group.bench_function("header encode", |bencher| bencher.iter(|| black_box(&header).encode()));
    group.bench_function("body decode", |bencher| {
        bencher.iter(|| AmopBody::decode(black_box(&frame[HEADER_LEN..])).map(|body| body.payload_offset));
    });
    group.bench_function("frame encode", |bencher| {
        bencher.iter(|| {
            sdk::encode_amop(FrameType::REQUEST, black_box(&SEQ), ResultCode::OK, "orders/europe", &PAYLOAD)
        });
    });
    group.finish();
}

fn node_link(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("node");
    let extensions = Extensions { time_left_ms: Some(30_000), ..Extensions::default() };
    let direct = node::Header::direct(PacketType::UNICAST, 7);
    let destinations = [[2; 64]];
    let named = node::Header {
        packet_type: PacketType::UNICAST,
        seq: 7,
        hops_left: HOPS_MAX,
        flags: node::FLAG_SEALED,
        addressing: Addressing::EndToEnd { source: &[1; 64], destinations: &destinations },
    };
    for (name, header) in [("direct", direct), ("named", named)] {
        let mut packet = SmallVec::new();
        header.encode_into(PAYLOAD.len(), &mut packet);
        packet.extend_from_slice(&PAYLOAD);
        group.bench_function(format!("{name} header encode"), |bencher| {
            bencher.iter(|| {
                let mut head = SmallVec::new();
                black_box(&header).encode_into(PAYLOAD.len(), &mut head);
                head
            });
        });
        group.bench_function(format!("{name} header decode"), |bencher| {
            bencher.iter(|| node::Header::decode(black_box(&packet)).map(|(_, offset)| offset).ok());
        });
    }
    let block = extensions.encode();
    group.bench_function("extensions encode", |bencher| {
        bencher.iter(|| black_box(&extensions).encode());
    });
    group.bench_function("extensions decode", |bencher| {
        bencher.iter(|| Extensions::decode(black_box(&block)).map(|(_, offset)| offset));
    });
    group.finish();
}

fn state(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state");
    let keys: Vec<Vec<u8>> = (0..100).map(|index| topic_key(&format!("orders/{index}"))).collect();
    let changes = keys.iter().map(|key| Change { key, value: Some(&[0, 0, 0, 1]) });
    let encode = || {
        let mut bytes = Vec::new();
        changes.clone().for_each(|change| change.encode_into(&mut bytes));
        bytes
    };
    let bytes = encode();
    group.bench_function("100 changes encode", |bencher| bencher.iter(|| black_box(encode())));
    group.bench_function("100 changes decode", |bencher| {
        bencher.iter(|| Change::decode_all(black_box(&bytes)).map(|changes| changes.len()));
    });
    let head = Head {
        origin: NodeId([1; 64]),
        incarnation: 1,
        seq: 2,
        previous: [3; 32],
        root: [4; 32],
        changes_hash: amop::internal::wire::state::changes_hash(&bytes),
        signature: [5; 64],
    };
    group.bench_function("head encode", |bencher| bencher.iter(|| black_box(&head).encode()));
    group.bench_function("head digest", |bencher| bencher.iter(|| black_box(&head).digest()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = sdk_link, node_link, state
}
criterion_main!(benches);
