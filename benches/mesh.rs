//! What it costs that a publisher's and a subscriber's link belong to different reactors: round trips through a running
//! engine over socket pairs, with both links at one reactor, and with each at another, where every frame crosses the mesh.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use amop::{
    engine::{Engine, EngineSettings, NewLink},
    relay::{LinkUp, ReactorId, Shared, settings::Settings, snapshot::Snapshot},
    tls::record::{Aead, ContentType, Opened, Opener, Sealer, record_len},
    wire::{
        NodeId, ResultCode, Topic,
        sdk::{self, FrameType, HEADER_LEN},
    },
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustls::ProtocolVersion;

const TOPIC: &str = "orders";
const PAYLOAD_LEN: usize = 256;
const SEQ_OFFSET: usize = 6;

/// Both sides of one direction.
fn keys(direction: u8) -> (Sealer, Opener) {
    let (version, aead, key, iv) = (ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, [direction; 16], [9; 12]);
    let sealer = Sealer::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    let opener = Opener::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    (sealer, opener)
}

/// An application that has a link to a reactor.
struct App {
    socket: UnixStream,
    sealer: Sealer,
    opener: Opener,
    /// What has come of records that are not whole yet.
    received: Vec<u8>,
    out: Vec<u8>,
}

impl App {
    fn new(engine: &Engine, reactor: u16) -> Self {
        let (socket, other) = UnixStream::pair().expect("a pair");
        let ((sealer, node_opener), (node_sealer, opener)) = (keys(1), keys(2));
        engine.handle().adopt(NewLink {
            token: reactor.into(),
            reactor: ReactorId(reactor),
            socket: other.into(),
            up: LinkUp::Sdk { address: String::new(), subject: String::new() },
            tls: Some((node_sealer, node_opener)),
            plaintext: Vec::new(),
            received: Vec::new(),
        });
        Self { socket, sealer, opener, received: Vec::new(), out: Vec::new() }
    }

    fn queue(&mut self, frame: &[u8]) {
        self.sealer.seal(ContentType::ApplicationData, &[frame], &mut self.out).expect("keys that are new");
    }

    fn flush(&mut self) {
        self.socket.write_all(&self.out).expect("the node is there");
        self.out.clear();
    }

    /// Waits for some records, and hands out what is in them: the node puts each frame into one of its own.
    fn take(&mut self, mut each: impl FnMut(&mut [u8])) -> usize {
        let mut buffer = [0; 1 << 16];
        let read = self.socket.read(&mut buffer).expect("the node is there");
        self.received.extend_from_slice(&buffer[..read]);
        let (mut start, mut count) = (0, 0);
        while let Ok(Some(len)) = record_len(&self.received[start..])
            && start + len <= self.received.len()
        {
            let Ok(Opened::Data(frame)) = self.opener.open_in_place(&mut self.received[start..start + len])
            else {
                panic!("the node sent a record that is none");
            };
            each(frame);
            (start, count) = (start + len, count + 1);
        }
        self.received.drain(..start);
        count
    }
}

fn mesh(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip over socket pairs");
    for (name, reactor) in [("one reactor", 0), ("two reactors", 1)] {
        let shared = Arc::new(Shared::new(NodeId([1; 64]), 1, 2, Instant::now(), Settings::default()));
        let mut snapshot = Snapshot::default();
        snapshot.set_reactor(&Topic::new(TOPIC).expect("a valid name"), ReactorId(reactor), 1);
        shared.snapshot.store(Arc::new(snapshot));
        let (registry, _inputs) = crossbeam::channel::unbounded();
        let events: Arc<dyn Fn(_) + Send + Sync> = Arc::new(|_| {});
        let engine =
            Engine::start(&EngineSettings::default(), &shared, &registry, &events).expect("io_uring");
        let (mut publisher, mut subscriber) = (App::new(&engine, 0), App::new(&engine, reactor));
        let topics = serde_json::to_vec(&[TOPIC]).expect("strings");
        subscriber.queue(&sdk::encode(FrameType::SUBSCRIBE, &[0; 32], ResultCode::OK, &topics));
        subscriber.flush();
        while shared.counters[usize::from(reactor)].topics.get() == 0 {
            std::thread::yield_now();
        }
        let answering = subscriber.socket.try_clone().expect("a descriptor");
        let answers = std::thread::spawn(move || {
            let response = (FrameType::RESPONSE.0).to_be_bytes();
            let mut frames = Vec::new();
            loop {
                subscriber.take(|frame| {
                    frame[4..SEQ_OFFSET].copy_from_slice(&response);
                    frames.extend_from_slice(frame);
                });
                if frames.is_empty() {
                    return;
                }
                for frame in frames.chunks(HEADER_LEN + 1 + TOPIC.len() + PAYLOAD_LEN) {
                    subscriber.queue(frame);
                }
                frames.clear();
                subscriber.flush();
            }
        });
        let mut request =
            sdk::encode_amop(FrameType::REQUEST, &[7; 32], ResultCode::OK, TOPIC, &[7; PAYLOAD_LEN]);
        let mut number = 0u64;
        for window in [1usize, 64] {
            group.throughput(Throughput::Elements(window as u64));
            group.bench_function(format!("{name}, {window} at once"), |bencher| {
                bencher.iter(|| {
                    for _ in 0..window {
                        number += 1;
                        request[SEQ_OFFSET..SEQ_OFFSET + 8].copy_from_slice(&number.to_be_bytes());
                        publisher.queue(&request);
                    }
                    publisher.flush();
                    let mut answered = 0;
                    while answered < window {
                        answered += publisher.take(|frame| {
                            let header = sdk::Header::decode(frame).expect("a frame");
                            assert_eq!(header.result, ResultCode::OK);
                        });
                    }
                });
            });
        }
        answering.shutdown(std::net::Shutdown::Both).expect("it is there");
        answers.join().expect("it ends");
        engine.stop(Duration::ZERO);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = mesh
}
criterion_main!(benches);
