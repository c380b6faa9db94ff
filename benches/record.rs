//! The record layer beside rustls' own two, over one suite and the same plaintext: what a record costs to seal and to open,
//! and what it saves that frames share one.

use std::{
    hint::black_box,
    io::{Read, Write},
    path::Path,
};

use amop::internal::{
    pki::Profile,
    tls::{
        config::{client_config, server_config},
        identity::{Identity, Roots},
        record::{Aead, ContentType, Opener, Sealer},
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustls::{
    ClientConnection, ProtocolVersion, ServerConnection,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

#[allow(dead_code)] // a part of it is enough here
#[path = "../tests/support/mod.rs"]
mod support;

const SUITE: &str = "ECDHE-RSA-AES128-GCM-SHA256";
const SIZES: [usize; 5] = [64, 256, 1_024, 4_096, 16_384];
/// Frames that share a record, and their length in bytes.
const SHARED: (usize, usize) = (16, 256);
const RECORD_LEN_MAX: usize = 17 * 1_024;

fn configs() -> (std::sync::Arc<rustls::ClientConfig>, std::sync::Arc<rustls::ServerConfig>) {
    let host = support::host_dir(Profile::Rsa);
    let settings = TlsSettings::from_names(&["1.2".to_owned()], &[SUITE.to_owned()], &[]).expect("a suite");
    let side = |dir: &Path, name: &str| {
        let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let identity = Identity::load(&certificate, &key).expect("an identity");
        (identity, Roots::load(&dir.join("ca.crt")).expect("roots"))
    };
    let (identity, roots) = side(&host.join("node0/conf/channel_cert"), "node");
    let server = server_config(&identity, &roots, &settings, IssuerPolicy::default()).expect("a server");
    let (identity, roots) = side(&host.join("sdk"), "sdk");
    let client = client_config(&identity, &roots, &settings).expect("a client");
    (client, server.serving(false))
}

fn ours() -> (Sealer, Opener) {
    let (version, aead, key, iv) = (ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, [7; 16], [9; 12]);
    let sealer = Sealer::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    let opener = Opener::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    (sealer, opener)
}

/// Both ends of rustls' connection after their handshake.
fn buffered() -> (ClientConnection, ServerConnection) {
    let (client, server) = configs();
    let name = "0.0.0.0".try_into().expect("an address");
    let mut client = ClientConnection::new(client, name).expect("a client");
    let mut server = ServerConnection::new(server).expect("a server");
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("a vector takes all");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("a slice gives all");
            server.process_new_packets().expect("a good client");
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("a vector takes all");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("a slice gives all");
            client.process_new_packets().expect("a good server");
        }
    }
    (client, server)
}

/// Takes one step of a handshake. Gives how many bytes were used, whether more can be done at once, and whether it is
/// over.
fn step<Data>(status: UnbufferedStatus<'_, '_, Data>, out: &mut Vec<u8>) -> (usize, bool, bool) {
    let (goes_on, is_over) = match status.state.expect("a good peer") {
        ConnectionState::EncodeTlsData(mut encode) => {
            let start = out.len();
            out.resize(start + RECORD_LEN_MAX, 0);
            let len = encode.encode(&mut out[start..]).expect("room for a record");
            out.truncate(start + len);
            (true, false)
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done();
            (true, false)
        }
        ConnectionState::BlockedHandshake => (false, false),
        ConnectionState::WriteTraffic(_) => (false, true),
        _ => panic!("a handshake has no such state"),
    };
    (status.discard, goes_on, is_over)
}

/// The same without rustls' buffers.
fn unbuffered() -> (UnbufferedClientConnection, UnbufferedServerConnection) {
    let (client, server) = configs();
    let name = "0.0.0.0".try_into().expect("an address");
    let mut client = UnbufferedClientConnection::new(client, name).expect("a client");
    let mut server = UnbufferedServerConnection::new(server).expect("a server");
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        let client_is_done = loop {
            let (used, goes_on, is_over) = step(client.process_tls_records(&mut to_client), &mut to_server);
            to_client.drain(..used);
            if !goes_on {
                break is_over;
            }
        };
        let server_is_done = loop {
            let (used, goes_on, is_over) = step(server.process_tls_records(&mut to_server), &mut to_client);
            to_server.drain(..used);
            if !goes_on {
                break is_over;
            }
        };
        if client_is_done && server_is_done {
            return (client, server);
        }
    }
}

/// One record.
fn encrypt(client: &mut UnbufferedClientConnection, plaintext: &[u8], out: &mut [u8]) -> usize {
    match client.process_tls_records(&mut []).state.expect("a good peer") {
        ConnectionState::WriteTraffic(mut traffic) => traffic.encrypt(plaintext, out).expect("room"),
        _ => panic!("an established connection can write"),
    }
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    let (mut sealer, _) = ours();
    let (mut client, _) = buffered();
    let (mut raw_client, _) = unbuffered();
    let mut out = Vec::with_capacity(2 * RECORD_LEN_MAX);
    let mut slice = vec![0; RECORD_LEN_MAX];
    for size in SIZES {
        let plaintext = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("own", size), |bencher| {
            bencher.iter(|| {
                out.clear();
                sealer
                    .seal(ContentType::ApplicationData, &[&plaintext], &mut out)
                    .expect("keys that are new");
                black_box(&out);
            });
        });
        group.bench_function(BenchmarkId::new("rustls, buffered", size), |bencher| {
            bencher.iter(|| {
                out.clear();
                client.writer().write_all(&plaintext).expect("room");
                while client.wants_write() {
                    client.write_tls(&mut out).expect("a vector takes all");
                }
                black_box(&out);
            });
        });
        group.bench_function(BenchmarkId::new("rustls, unbuffered", size), |bencher| {
            bencher.iter(|| black_box(encrypt(&mut raw_client, &plaintext, &mut slice)));
        });
    }
    let (count, len) = SHARED;
    let frame = vec![7; len];
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("own, 16 frames of 256 B in a record each", |bencher| {
        bencher.iter(|| {
            out.clear();
            for _ in 0..count {
                sealer.seal(ContentType::ApplicationData, &[&frame], &mut out).expect("keys that are new");
            }
        });
    });
    group.bench_function("own, 16 frames of 256 B in one record", |bencher| {
        bencher.iter(|| {
            out.clear();
            sealer
                .seal(ContentType::ApplicationData, &[&frame[..]; SHARED.0], &mut out)
                .expect("keys that are new");
        });
    });
    group.finish();
}

/// Opens records that were sealed in this order; each can be opened once, so they are sealed outside of the measurement.
fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    let (mut sealer, mut opener) = ours();
    let (mut client, mut server) = buffered();
    let (mut raw_client, mut raw_server) = unbuffered();
    let mut plain = vec![0; RECORD_LEN_MAX];
    for size in SIZES {
        let plaintext = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("own", size), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let mut record = Vec::new();
                    let sealed = sealer.seal(ContentType::ApplicationData, &[&plaintext], &mut record);
                    sealed.expect("keys that are new");
                    record
                },
                |record| assert!(opener.open_in_place(record).is_ok()),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("rustls, buffered", size), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let mut record = Vec::new();
                    client.writer().write_all(&plaintext).expect("room");
                    while client.wants_write() {
                        client.write_tls(&mut record).expect("a vector takes all");
                    }
                    record
                },
                |record| {
                    let mut rest = &record[..];
                    let mut read = 0;
                    while !rest.is_empty() {
                        server.read_tls(&mut rest).expect("a slice gives all");
                        server.process_new_packets().expect("a good client");
                        while read < size
                            && let Ok(more @ 1..) = server.reader().read(&mut plain)
                        {
                            read += more;
                        }
                    }
                    assert_eq!(read, size);
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("rustls, unbuffered", size), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let mut record = vec![0; RECORD_LEN_MAX];
                    let len = encrypt(&mut raw_client, &plaintext, &mut record);
                    record.truncate(len);
                    record
                },
                |record| match raw_server.process_tls_records(record).state.expect("a good client") {
                    ConnectionState::ReadTraffic(mut traffic) => {
                        let record = traffic.next_record().expect("one").expect("a good record");
                        assert_eq!(record.payload.len(), size);
                    }
                    _ => panic!("a record holds data"),
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = seal, open
}
criterion_main!(benches);
