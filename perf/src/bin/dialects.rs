//! What a round trip between applications of FISCO BCOS 3.x costs the node beside one between those of 2.x: processor time
//! of its reactor. Both pairs are at one engine in this process, over socket pairs and the record layer, and take turns.
//!
//! ```text
//! cargo run --release -p amop-perf --bin dialects [> perf/results/dialects.csv]
//! ```

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use amop::internal::{
    engine::{Engine, EngineSettings, NewLink},
    relay::{
        LinkUp, ReactorId, RegistryInput, Shared, settings::Settings, signing::NodeSigner, snapshot::Snapshot,
    },
    tls::record::{Aead, ContentType, Opened, Opener, PLAINTEXT_LEN_MAX, Sealer, record_len},
    wire::{
        ResultCode, Topic,
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Seq},
        ws::{self, MessageHead, MessageType, Opcode, Role, frame, upgrade},
    },
};
use crossbeam::channel::{Receiver, unbounded};
use rustls::ProtocolVersion;

/// Payloads in bytes, round trips at once, and batches of those in a turn of each dialect.
const CASES: [(usize, usize, usize); 5] =
    [(256, 1, 1_000), (256, 16, 300), (4_096, 16, 200), (16_384, 8, 150), (1 << 20, 1, 60)];
const TURNS: usize = 15;
/// A mask as good as any: what it takes to put it on is not the node's.
const MASK: [u8; 4] = [0; 4];

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    V2x,
    V3x,
}

impl Dialect {
    fn topic(self) -> &'static str {
        match self {
            Self::V2x => "orders-2x",
            Self::V3x => "orders-3x",
        }
    }

    fn request(self, seq: &Seq, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V2x => sdk::encode_amop(FrameType::REQUEST, seq, ResultCode::OK, self.topic(), payload),
            Self::V3x => {
                let message = head(MessageType::REQUEST, seq).encode_amop_message(self.topic(), payload);
                frame::encode_masked(Opcode::Binary, MASK, &message)
            }
        }
    }

    /// The answer to what a subscriber got, with the same payload.
    fn answer(self, request: &[u8]) -> Vec<u8> {
        match self {
            Self::V2x => {
                let mut answer = request.to_vec();
                answer[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
                answer
            }
            Self::V3x => {
                let (head, body) = read_3x(request);
                let data_offset = ws::message::AmopBody::decode(body).expect("a request").data_offset;
                let message = MessageHead { message_type: MessageType::RESPONSE, ..head }
                    .encode_message(&body[data_offset..]);
                frame::encode_masked(Opcode::Binary, MASK, &message)
            }
        }
    }

    /// Length of the payload of an answer that says that all went well.
    fn payload_len(self, answer: &[u8]) -> usize {
        match self {
            Self::V2x => {
                let header = sdk::Header::decode(answer).expect("a frame");
                assert_eq!((header.frame_type, header.result), (FrameType::RESPONSE, ResultCode::OK));
                let body = AmopBody::decode(&answer[HEADER_LEN..]).expect("an answer");
                answer.len() - HEADER_LEN - body.payload_offset
            }
            Self::V3x => {
                let (head, body) = read_3x(answer);
                assert_eq!((head.message_type, head.status), (MessageType::RESPONSE, 0));
                body.len()
            }
        }
    }

    /// Length of the frame at the start of `bytes`, once it can be told.
    fn frame_len(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::V2x => Some(sdk::Header::decode(bytes)?.len as usize),
            Self::V3x => {
                let (header, len) = frame::Header::decode(bytes, Role::Client).expect("a good frame")?;
                Some(len + header.len as usize)
            }
        }
    }
}

fn head(message_type: MessageType, seq: &Seq) -> MessageHead {
    MessageHead { message_type, status: 0, seq: *seq, ext: 0 }
}

fn read_3x(bytes: &[u8]) -> (MessageHead, &[u8]) {
    let (_, len) = frame::Header::decode(bytes, Role::Client).expect("a good frame").expect("a whole one");
    let (head, head_len) = MessageHead::decode(&bytes[len..]).expect("a good message");
    (head, &bytes[len + head_len..])
}

/// Both sides of one direction.
fn keys(direction: u8) -> (Sealer, Opener) {
    let (version, aead, key, iv) = (ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, [direction; 16], [9; 12]);
    let sealer = Sealer::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    let opener = Opener::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    (sealer, opener)
}

/// An application that has a link to the reactor.
struct App {
    dialect: Dialect,
    socket: UnixStream,
    sealer: Sealer,
    opener: Opener,
    /// What has come of records that are not whole yet, and of frames.
    records: Vec<u8>,
    plaintext: Vec<u8>,
}

impl App {
    fn new(engine: &Engine, dialect: Dialect) -> Self {
        let (socket, other) = UnixStream::pair().expect("a pair");
        let ((sealer, node_opener), (node_sealer, opener)) = (keys(1), keys(2));
        engine.handle().adopt(NewLink {
            token: 0,
            reactor: ReactorId(0),
            socket: other.into(),
            up: LinkUp::Sdk { address: String::new(), subject: String::new(), public_key: None },
            tls: Some((node_sealer, node_opener)),
            plaintext: Vec::new(),
            received: Vec::new(),
        });
        let mut app = Self { dialect, socket, sealer, opener, records: Vec::new(), plaintext: Vec::new() };
        if dialect == Dialect::V3x {
            let client = upgrade::Client::new([7; 16]);
            app.send(&[client.request("localhost")]);
            let len = loop {
                app.receive();
                if let Some(len) = client.read_response(&app.plaintext).expect("an upgrade") {
                    break len;
                }
            };
            app.plaintext.drain(..len);
        }
        app
    }

    fn subscribe(&mut self) {
        let topic = self.dialect.topic();
        match self.dialect {
            Dialect::V2x => {
                let topics = serde_json::to_vec(&[topic]).expect("strings");
                self.send(&[sdk::encode(FrameType::SUBSCRIBE, &[0; 32], ResultCode::OK, &topics)]);
            }
            Dialect::V3x => {
                let topics = format!("{{\"topics\":[\"{topic}\"]}}");
                let message = head(MessageType::TOPICS, &[1; 32]).encode_message(topics.as_bytes());
                self.send(&[frame::encode_masked(Opcode::Binary, MASK, &message)]);
            }
        }
    }

    /// Sends frames, each of which starts a record.
    fn send(&mut self, frames: &[Vec<u8>]) {
        let mut records = Vec::new();
        for part in frames.iter().flat_map(|frame| frame.chunks(PLAINTEXT_LEN_MAX)) {
            self.sealer.seal(ContentType::ApplicationData, &[part], &mut records).expect("keys that are new");
        }
        self.socket.write_all(&records).expect("the node is there");
    }

    fn receive(&mut self) {
        let mut buffer = [0; 1 << 16];
        let read = self.socket.read(&mut buffer).expect("the node is there");
        assert!(read > 0, "the node is there");
        self.records.extend_from_slice(&buffer[..read]);
        let mut start = 0;
        while let Ok(Some(len)) = record_len(&self.records[start..])
            && let Some(record) = self.records.get_mut(start..start + len)
        {
            let Ok(Opened::Data(data)) = self.opener.open_in_place(record) else {
                panic!("the node sent a record that is none");
            };
            self.plaintext.extend_from_slice(data);
            start += len;
        }
        self.records.drain(..start);
    }

    /// Waits for so many frames.
    fn take(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while frames.len() < count {
            match self.dialect.frame_len(&self.plaintext) {
                Some(len) if len <= self.plaintext.len() => {
                    frames.push(self.plaintext.drain(..len).collect());
                }
                _ => self.receive(),
            }
        }
        frames
    }
}

/// A publisher and a subscriber of one dialect.
struct Pair {
    dialect: Dialect,
    publisher: App,
    subscriber: App,
    number: u64,
}

impl Pair {
    fn new(engine: &Engine, dialect: Dialect) -> Self {
        let (publisher, mut subscriber) = (App::new(engine, dialect), App::new(engine, dialect));
        subscriber.subscribe();
        Self { dialect, publisher, subscriber, number: 0 }
    }

    /// So many round trips at once.
    fn round_trips(&mut self, payload: &[u8], count: usize) {
        let mut requests = Vec::new();
        for _ in 0..count {
            self.number += 1;
            let seq = format!("{:032}", self.number).into_bytes();
            requests.push(self.dialect.request(&seq.try_into().expect("32 digits"), payload));
        }
        // Both ends are this thread: what is large goes out while it is read.
        let Self { dialect, publisher, subscriber, .. } = self;
        let pass = |from: &mut App, to: &mut App, frames: &[Vec<u8>]| {
            std::thread::scope(|scope| {
                let sending = scope.spawn(|| from.send(frames));
                let frames = to.take(count);
                sending.join().expect("it sends");
                frames
            })
        };
        let asked = pass(publisher, subscriber, &requests);
        let answers: Vec<_> = asked.iter().map(|request| dialect.answer(request)).collect();
        for answer in pass(subscriber, publisher, &answers) {
            assert_eq!(dialect.payload_len(&answer), payload.len());
        }
    }
}

/// Processor time of the reactor so far.
fn reactor_time() -> Duration {
    let threads =
        fs::read_dir("/proc/self/task").expect("Linux").map(|entry| entry.expect("a thread").path());
    let reactor = threads.into_iter().find(|path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("amop-reactor"))
    });
    let statistics =
        fs::read_to_string(reactor.expect("a reactor").join("schedstat")).expect("the kernel counts");
    let nanoseconds = statistics.split_whitespace().next().and_then(|time| time.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn start() -> (Engine, Receiver<RegistryInput>) {
    let id = NodeSigner::from_secret_bytes(&[7; 32]).expect("a valid key").id();
    let shared = Arc::new(Shared::new(id, 1, 1, Instant::now(), Settings::default()));
    let mut snapshot = Snapshot::default();
    for dialect in [Dialect::V2x, Dialect::V3x] {
        snapshot.set_reactor(&Topic::new(dialect.topic()).expect("a valid name"), ReactorId(0), 1);
    }
    shared.snapshot.store(Arc::new(snapshot));
    let (registry, inputs) = unbounded();
    let events: Arc<dyn Fn(_) + Send + Sync> = Arc::new(|_| {});
    // It sleeps when it has nothing to do: looking again costs time that no message needs.
    let mut settings = EngineSettings::default();
    (settings.wait.spin, settings.wait.gather) = (Some(Duration::ZERO), Some(Duration::ZERO));
    (Engine::start(&settings, &shared, &registry, &events).expect("io_uring"), inputs)
}

fn main() {
    let (engine, _inputs) = start();
    let mut pairs = [Dialect::V2x, Dialect::V3x].map(|dialect| Pair::new(&engine, dialect));
    println!("payload_bytes;at_once;us_2x;us_3x;ratio");
    for (payload_len, count, batches) in CASES {
        let payload = vec![7; payload_len];
        let mut times = [Vec::new(), Vec::new()];
        for turn in 0..=TURNS {
            for (pair, times) in pairs.iter_mut().zip(&mut times) {
                let before = reactor_time();
                (0..batches).for_each(|_| pair.round_trips(&payload, count));
                // The first turn warms up.
                if turn > 0 {
                    times.push((reactor_time() - before).as_secs_f64() * 1e6 / (batches * count) as f64);
                }
            }
        }
        let [of_2x, of_3x] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("{payload_len};{count};{of_2x:.2};{of_3x:.2};{:.3}", of_3x / of_2x);
    }
    engine.stop(Duration::ZERO);
}
