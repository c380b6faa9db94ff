//! A running engine without a door and a registry, and applications at socket pairs whose keys both sides know from the
//! start: messages go through the ring, the record layer and the mesh. An application allocates nothing once traffic flows.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Instant,
};

use amop::internal::{
    engine::{Engine, EngineSettings, NewLink},
    relay::{
        LinkUp, ReactorId, RegistryInput, Shared, settings::Settings, signing::NodeSigner, snapshot::Snapshot,
    },
    tls::record::{Aead, ContentType, Opened, Opener, Sealer, record_len},
    wire::{
        ResultCode, Topic,
        sdk::{self, FrameType, Header},
    },
};
use crossbeam::channel::{Receiver, unbounded};
use rustls::ProtocolVersion;

const TOPIC: &str = "orders";
const PAYLOAD_LEN: usize = 256;
/// Where type and seq lie in a frame of the SDK link.
const TYPE_OFFSET: usize = 4;
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
            up: LinkUp::Sdk { address: String::new(), subject: String::new(), public_key: None },
            tls: Some((node_sealer, node_opener)),
            plaintext: Vec::new(),
            received: Vec::new(),
        });
        let (received, out) = (Vec::with_capacity(1 << 17), Vec::with_capacity(1 << 17));
        Self { socket, sealer, opener, received, out }
    }

    fn queue(&mut self, frame: &[u8]) {
        let sealed = self.sealer.seal(ContentType::ApplicationData, &[frame], &mut self.out);
        sealed.expect("keys that are new");
    }

    fn flush(&mut self) {
        self.socket.write_all(&self.out).expect("the node is there");
        self.out.clear();
    }

    /// Waits for so many frames and hands each out: the node puts every one into a record of its own.
    fn take(&mut self, mut count: usize, mut each: impl FnMut(&mut [u8])) {
        let mut buffer = [0; 1 << 14];
        while count > 0 {
            let read = self.socket.read(&mut buffer).expect("the node is there");
            assert!(read > 0, "the node is there");
            self.received.extend_from_slice(&buffer[..read]);
            let mut start = 0;
            while let Ok(Some(len)) = record_len(&self.received[start..])
                && start + len <= self.received.len()
            {
                let record = &mut self.received[start..start + len];
                let Ok(Opened::Data(frame)) = self.opener.open_in_place(record) else {
                    panic!("the node sent a record that is none");
                };
                each(frame);
                (start, count) = (start + len, count - 1);
            }
            self.received.drain(..start);
        }
    }
}

/// The engine, a publisher at reactor 0, and subscribers.
pub(super) struct Traffic {
    engine: Engine,
    publisher: App,
    subscribers: Vec<App>,
    _inputs: Receiver<RegistryInput>,
    message: Vec<u8>,
    frames: Vec<u8>,
    number: u64,
}

impl Traffic {
    /// A subscriber at each of these reactors, of two.
    pub(super) fn start(subscribers: &[u16]) -> Self {
        let id = NodeSigner::from_secret_bytes(&[7; 32]).expect("a valid key").id();
        let shared = Arc::new(Shared::new(id, 1, 2, Instant::now(), Settings::default()));
        let mut snapshot = Snapshot::default();
        let topic = Topic::new(TOPIC).expect("a valid name");
        for reactor in [0, 1] {
            let count = subscribers.iter().filter(|other| **other == reactor).count();
            snapshot.set_reactor(&topic, ReactorId(reactor), count as u32);
        }
        shared.snapshot.store(Arc::new(snapshot));
        let (registry, inputs) = unbounded();
        let events: Arc<dyn Fn(_) + Send + Sync> = Arc::new(|_| {});
        let engine =
            Engine::start(&EngineSettings::default(), &shared, &registry, &events).expect("io_uring");
        let publisher = App::new(&engine, 0);
        let topics = serde_json::to_vec(&[TOPIC]).expect("strings");
        let subscription = sdk::encode(FrameType::SUBSCRIBE, &[0; 32], ResultCode::OK, &topics);
        let beat = sdk::encode(FrameType::HEARTBEAT, &[0; 32], ResultCode::OK, b"0");
        let subscribers = subscribers.iter().map(|&reactor| {
            let mut app = App::new(&engine, reactor);
            app.queue(&subscription);
            app.queue(&beat);
            app.flush();
            // Frames are handled in their order.
            app.take(1, |_| {});
            app
        });
        Self {
            publisher,
            subscribers: subscribers.collect(),
            engine,
            _inputs: inputs,
            message: sdk::encode_amop(FrameType::REQUEST, &[7; 32], ResultCode::OK, TOPIC, &[7; PAYLOAD_LEN]),
            frames: Vec::with_capacity(1 << 17),
            number: 0,
        }
    }

    fn publish(&mut self, frame_type: FrameType, count: usize) {
        self.message[TYPE_OFFSET..SEQ_OFFSET].copy_from_slice(&frame_type.0.to_be_bytes());
        for _ in 0..count {
            self.number += 1;
            self.message[SEQ_OFFSET..SEQ_OFFSET + 8].copy_from_slice(&self.number.to_be_bytes());
            self.publisher.queue(&self.message);
        }
        self.publisher.flush();
    }

    fn take_answers(&mut self, count: usize) {
        self.publisher.take(count, |frame| {
            assert_eq!(Header::decode(frame).expect("a frame").result, ResultCode::OK);
        });
    }

    /// So many round trips at once, with the only subscriber.
    pub(super) fn round_trips(&mut self, count: usize) {
        self.publish(FrameType::REQUEST, count);
        let [subscriber] = &mut self.subscribers[..] else { panic!("one subscriber") };
        let frames = &mut self.frames;
        subscriber.take(count, |frame| {
            frame[TYPE_OFFSET..SEQ_OFFSET].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
            frames.extend_from_slice(frame);
        });
        frames.chunks(self.message.len()).for_each(|frame| subscriber.queue(frame));
        frames.clear();
        subscriber.flush();
        self.take_answers(count);
    }

    /// So many multicasts at once, to all subscribers.
    pub(super) fn multicasts(&mut self, count: usize) {
        self.publish(FrameType::MULTICAST, count);
        self.subscribers.iter_mut().for_each(|app| app.take(count, |_| {}));
        self.take_answers(count);
    }

    pub(super) fn stop(self) {
        self.engine.stop(std::time::Duration::ZERO);
    }
}
