//! Messages over more than one link with a hostile node on the path: it forges, repeats, alters and readdresses named
//! and sealed frames, and seals what it likes in its own name and in that of nodes that it invents.
//!
//! What must hold: nothing panics; each request of an application on an honest node is answered exactly once, with the
//! subscriber's own data if with 0; nobody gets a message twice, or one that no honest application sent and the hostile
//! node did not seal itself; afterwards honest nodes reach each other.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    time::Duration,
};

use amop::internal::{
    relay::{
        sealing::{ContentKey, IncarnationId, Seal, SealNumber, Subject},
        settings::Settings,
        signing::NodeSigner,
    },
    wire::{
        MessageNumber, NodeId, ResultCode,
        node::{self, Addressing, Extensions, FLAG_SEALED, Numbers, PacketType},
        sdk::{self, FrameType, Seq},
    },
};
use arbitrary::{Arbitrary, Unstructured};

use super::shard::kit::{AppIndex, Behaviour, Network, NodeIndex};

/// The hostile node stands between 0 and 2, as node 3 does; node 4 is behind both.
const HOSTILE: NodeIndex = 1;
const HONEST: [NodeIndex; 4] = [0, 2, 3, 4];
const EDGES: [(NodeIndex, NodeIndex); 6] = [(0, 1), (1, 2), (0, 3), (3, 2), (1, 4), (3, 4)];
const STEPS_MAX: usize = 48;
const CAPTURED_MAX: usize = 64;
/// How what the hostile node makes begins.
const MARK: &[u8] = b"hostile";
const TOPIC: &str = "t";

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Unicast {
        from: u8,
        len: u8,
    },
    Multicast {
        from: u8,
        len: u8,
    },
    /// What goes over the hostile node is changed at one place from now on; not at all with 0.
    Alter {
        at: u16,
        with: u8,
    },
    /// A frame that it had in its hands, to anybody.
    Repeat {
        which: u8,
        to: u8,
    },
    /// Header and payload as it likes.
    Forge {
        to: u8,
        header: EndToEndHeader,
        payload: Payload<'a>,
    },
    Seal {
        to: u8,
        sealed: Sealed<'a>,
    },
    /// The bytes as they are.
    Bytes {
        to: u8,
        bytes: Bytes<'a>,
    },
    Break {
        edge: u8,
    },
    Connect {
        edge: u8,
    },
    Run {
        ms: u16,
    },
}

/// Some bytes, and not most of the script.
type Bytes<'a> = super::Bytes<'a, 160>;

#[derive(Arbitrary, Debug)]
struct EndToEndHeader {
    kind: u8,
    seq: u32,
    hops_left: u8,
    flags: u8,
    is_sealed: bool,
    source: Name,
    is_for_receiver: bool,
    /// The first of them may stand there again and again.
    destinations: [Name; 3],
    count: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Name {
    Node(u8),
    /// Whoever gets the frame.
    Receiver,
    Hostile,
    /// A key that no node has.
    Invented(u8),
    /// No key.
    Byte(u8),
}

#[derive(Arbitrary, Debug)]
enum Payload<'a> {
    Bytes(Bytes<'a>),
    /// That of a frame that it had in its hands.
    Captured(u8),
}

/// What the hostile node, or one that it invents, seals by the right rules for the node that gets it.
#[derive(Arbitrary, Debug)]
struct Sealed<'a> {
    invented: Option<u8>,
    life_shift: Option<i8>,
    kind: u8,
    seq: u32,
    number: Number,
    place: Number,
    /// The least that may still come; the place itself if there is none.
    least: Option<Number>,
    inner: Inner<'a>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Low(u8),
    /// So far below the highest.
    High(u8),
    Any(u64),
}

impl Number {
    fn get(self) -> u64 {
        match self {
            Self::Low(number) => number.into(),
            Self::High(below) => u64::MAX - u64::from(below),
            Self::Any(number) => number,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Inner<'a> {
    Bytes(Bytes<'a>),
    /// As it should be.
    Amop {
        topic_is_good: bool,
        time_left_ms: Option<u32>,
        by_node: bool,
    },
}

#[derive(Default)]
struct Hands {
    captured: Vec<Vec<u8>>,
    at: usize,
    with: u8,
}

struct Run {
    network: Network,
    hands: Rc<RefCell<Hands>>,
    publishers: HashMap<NodeIndex, AppIndex>,
    subscribers: Vec<AppIndex>,
    /// Who sent which request with which payload.
    requests: Vec<(AppIndex, Seq, Vec<u8>)>,
    payloads: HashSet<Vec<u8>>,
}

/// The input is [`Step`]s.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mut run = Run::new();
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut script) else { break };
        run.step(step);
        if script.is_empty() {
            break;
        }
    }
    run.finish();
}

fn is_sealed(bytes: &[u8]) -> bool {
    node::Header::decode(bytes).is_ok_and(|(header, _)| header.flags & FLAG_SEALED != 0)
}

fn invented(number: u8) -> NodeSigner {
    NodeSigner::from_secret_bytes(&[number % 254 + 1; 32]).expect("a key")
}

/// A neighbour of the hostile node.
fn receiver(choice: u8) -> NodeIndex {
    [0, 2, 4][usize::from(choice) % 3]
}

fn packet_type(choice: u8) -> PacketType {
    const KINDS: [PacketType; 7] = [
        PacketType::UNICAST,
        PacketType::UNICAST_RESPONSE,
        PacketType::MULTICAST,
        PacketType::SHARED_MULTICAST,
        PacketType::BROADCAST,
        PacketType::ACK,
        PacketType(0x77),
    ];
    KINDS[usize::from(choice) % KINDS.len()]
}

fn whole(header: &node::Header<'_>, payload: &[u8]) -> Vec<u8> {
    let mut frame = smallvec::SmallVec::new();
    header.encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

impl Run {
    fn new() -> Self {
        let settings = Settings {
            push_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(4),
            window_frames_max: 64,
            window_bytes_max: 64 << 10,
            // No application here sends heartbeats, and a script may last for an hour.
            idle_timeout: Duration::from_secs(86_400),
            ..Settings::default()
        };
        let mut network = Network::new(7);
        for _ in 0..5 {
            network.add_node(2, settings.clone());
        }
        EDGES.into_iter().for_each(|(one, other)| network.connect(one, other));
        network.run_for(Duration::from_millis(200));
        let mut subscriber = |node| network.subscriber(node, &[TOPIC]);
        let subscribers = vec![subscriber(2), subscriber(4), subscriber(4)];
        let publishers =
            HONEST.into_iter().map(|node| (node, network.app(node, Behaviour::Silent))).collect();
        network.run_for(Duration::from_millis(200));
        let hands = Rc::new(RefCell::new(Hands::default()));
        let held = hands.clone();
        network.tamper = Some(Box::new(move |from, _, bytes| {
            if from != HOSTILE || !is_sealed(bytes) {
                return;
            }
            let mut hands = held.borrow_mut();
            if hands.captured.len() < CAPTURED_MAX {
                hands.captured.push(bytes.clone());
            }
            let at = hands.at % bytes.len();
            bytes[at] ^= hands.with;
        }));
        Self { network, hands, publishers, subscribers, requests: Vec::new(), payloads: HashSet::new() }
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Unicast { from, len } => {
                let (app, payload) = self.publisher(from, len);
                let seq = self.network.unicast(app, TOPIC, &payload);
                self.requests.push((app, seq, payload));
            }
            Step::Multicast { from, len } => {
                let (app, payload) = self.publisher(from, len);
                self.network.multicast(app, TOPIC, &payload);
            }
            Step::Alter { at, with } => {
                let mut hands = self.hands.borrow_mut();
                (hands.at, hands.with) = (at.into(), with);
            }
            Step::Repeat { which, to } => {
                let frame = self.captured(which);
                self.send(to, &frame);
            }
            Step::Forge { to, header, payload } => self.forge(to, &header, &payload),
            Step::Seal { to, sealed } => self.seal(to, &sealed),
            Step::Bytes { to, bytes } => self.send(to, bytes.0),
            Step::Break { edge } => {
                let (one, other) = EDGES[usize::from(edge) % EDGES.len()];
                self.network.break_links(one, other);
            }
            Step::Connect { edge } => self.connect(EDGES[usize::from(edge) % EDGES.len()]),
            Step::Run { ms } => self.network.run_for(Duration::from_millis((ms % 2_000).into())),
        }
    }

    fn connect(&mut self, (one, other): (NodeIndex, NodeIndex)) {
        if self.network.links_between(one, other).is_empty() {
            self.network.connect(one, other);
        }
    }

    fn publisher(&mut self, from: u8, len: u8) -> (AppIndex, Vec<u8>) {
        let app = self.publishers[&HONEST[usize::from(from) % HONEST.len()]];
        let mut payload = format!("{} of {app} ", self.payloads.len()).into_bytes();
        payload.resize(payload.len() + usize::from(len), b'.');
        self.payloads.insert(payload.clone());
        (app, payload)
    }

    fn captured(&self, which: u8) -> Vec<u8> {
        let captured = &self.hands.borrow().captured;
        let which = usize::from(which).checked_rem(captured.len());
        which.map_or_else(Vec::new, |which| captured[which].clone())
    }

    /// Over a link of the hostile node.
    fn send(&mut self, to: u8, bytes: &[u8]) {
        let to = receiver(to);
        self.network.forge(HOSTILE, to, bytes);
        // It is told of a frame taken that it knows nothing of, and ends the link.
        self.network.run_for(Duration::from_millis(30));
        self.connect((HOSTILE, to));
        self.network.run_for(Duration::from_millis(30));
    }

    fn id(&self, name: Name, receiver: NodeIndex) -> NodeId {
        match name {
            Name::Node(node) => self.network.nodes[usize::from(node) % 5].id,
            Name::Receiver => self.network.nodes[receiver].id,
            Name::Hostile => self.network.nodes[HOSTILE].id,
            Name::Invented(number) => invented(number).id(),
            Name::Byte(byte) => NodeId([byte; 64]),
        }
    }

    fn forge(&mut self, to: u8, header: &EndToEndHeader, payload: &Payload<'_>) {
        let receiver = receiver(to);
        let source = self.id(header.source, receiver);
        let payload = match payload {
            Payload::Bytes(bytes) => bytes.0.to_vec(),
            Payload::Captured(which) => {
                let frame = self.captured(*which);
                let offset = node::Header::decode(&frame).map_or(0, |(_, offset)| offset);
                frame[offset..].to_vec()
            }
        };
        let [first, second, third] = header.destinations.map(|name| self.id(name, receiver).0);
        let mut destinations = vec![first; usize::from(header.count)];
        destinations.extend([second, third]);
        if header.is_for_receiver {
            destinations = vec![self.network.nodes[receiver].id.0];
        }
        let header = node::Header {
            packet_type: packet_type(header.kind),
            seq: header.seq,
            hops_left: header.hops_left,
            flags: header.flags | if header.is_sealed { FLAG_SEALED } else { 0 },
            addressing: Addressing::EndToEnd { source: &source.0, destinations: &destinations },
        };
        self.send(to, &whole(&header, &payload));
    }

    fn seal(&mut self, to: u8, sealed: &Sealed<'_>) {
        let (packet_type, destination) = (packet_type(sealed.kind), &self.network.nodes[receiver(to)].shared);
        let hostile = &self.network.nodes[HOSTILE].shared;
        let (signer, mut incarnation_id) = match sealed.invented {
            Some(number) => (invented(number), IncarnationId { incarnation: 1, salt: [1; 16] }),
            None => (hostile.signer.clone().expect("it has a key"), hostile.incarnation_id()),
        };
        incarnation_id.incarnation =
            incarnation_id.incarnation.wrapping_add_signed(sealed.life_shift.unwrap_or(0).into());
        let secret = signer.share_with(destination.id).expect("it is a key");
        let seal = Seal::new(secret, incarnation_id, destination.incarnation_id())
            .expect("any incarnations will do");
        let place = sealed.place.get();
        let least = sealed.least.map_or(place, Number::get);
        let numbers = Numbers { place, least, taken_below: 0 }.encode();
        let first = if packet_type.is_amop() { &numbers[..] } else { &[] };
        let destination = destination.id;
        let mut inner = self.inner(packet_type, &sealed.inner);
        let mut content = Vec::new();
        if packet_type == PacketType::SHARED_MULTICAST {
            let key = ContentKey::seal([7; 16], &[], std::iter::once(inner.as_slice()), &mut content);
            inner = key.expect("short enough").encode().to_vec();
        }
        let subject = Subject { packet_type, message: MessageNumber(sealed.seq) };
        let mut payload = Vec::new();
        seal.seal(
            SealNumber(sealed.number.get()),
            subject,
            first,
            std::iter::once(inner.as_slice()),
            &mut payload,
        )
        .expect("short enough");
        payload.extend_from_slice(&content);
        let addressing = Addressing::EndToEnd { source: &signer.id().0, destinations: &[destination.0] };
        let header =
            node::Header { flags: FLAG_SEALED, addressing, ..node::Header::direct(packet_type, sealed.seq) };
        self.send(to, &whole(&header, &payload));
    }

    fn inner(&mut self, packet_type: PacketType, inner: &Inner<'_>) -> Vec<u8> {
        match inner {
            Inner::Bytes(bytes) => bytes.0.to_vec(),
            Inner::Amop { topic_is_good, time_left_ms, by_node } => {
                let frame_type = match packet_type {
                    PacketType::UNICAST => FrameType::REQUEST,
                    PacketType::MULTICAST | PacketType::SHARED_MULTICAST => FrameType::MULTICAST,
                    _ => FrameType::RESPONSE,
                };
                let topic = if *topic_is_good { TOPIC } else { "#!$TopicNeedVerify_t" };
                let seq = self.network.seq();
                let extensions =
                    Extensions { time_left_ms: *time_left_ms, by_node: *by_node, ..Extensions::default() };
                let mut payload = extensions.encode();
                payload.extend_from_slice(&sdk::encode_amop(frame_type, &seq, ResultCode::OK, topic, MARK));
                payload.to_vec()
            }
        }
    }

    fn finish(mut self) {
        self.hands.borrow_mut().with = 0;
        EDGES.into_iter().for_each(|edge| self.connect(edge));
        // Longer than a request may take, and than what was altered waits to be sent again.
        self.network.run_for(Duration::from_secs(25));
        EDGES.into_iter().for_each(|edge| self.connect(edge));
        self.network.run_for(Duration::from_secs(1));
        for (app, seq, payload) in &self.requests {
            let answers = self.network.answers(*app, seq);
            assert_eq!(answers.len(), 1, "answers to {}", String::from_utf8_lossy(payload));
            if answers[0].code() == ResultCode::OK {
                assert!(answers[0].data.ends_with(payload), "somebody else's answer");
            }
        }
        for &app in &self.subscribers {
            for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
                let mut got = HashSet::new();
                for (topic, payload) in self.network.pushed(app, frame_type) {
                    assert_eq!(topic, TOPIC);
                    let is_known = self.payloads.contains(&payload);
                    assert!(is_known || payload == MARK, "{payload:?} was never sent");
                    assert!(!is_known || got.insert(payload), "twice");
                }
            }
        }
        for (to, topic) in HONEST.into_iter().zip(["0", "2", "3", "4"]) {
            self.network.subscriber(to, &[topic]);
            self.network.run_for(Duration::from_millis(100));
            for from in HONEST {
                let publisher = self.publishers[&from];
                let seq = self.network.unicast(publisher, topic, b"still there?");
                let (code, _) = self.network.answer(publisher, &seq, Duration::from_secs(5));
                assert_eq!(code, 0, "from node {from} to node {to}");
            }
        }
    }
}
