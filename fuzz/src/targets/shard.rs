//! Whole sessions: real shards and registries on the virtual network of `tests/relay`, driven by a script
//! of frames, links that come and go, forged frames and time.
//!
//! What must hold: each 0x30 of a session that lives is answered exactly once; no subscriber gets a
//! frame twice or one of its own requests; nothing reaches a session without the topic; afterwards a node
//! that runs still works.

// Also used by tests/relay, which needs more of it.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../../tests/relay/kit/mod.rs"]
pub(super) mod kit;

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::settings::Settings,
    wire::{
        ResultCode, Topic, TopicKind, json,
        node::{self, Extensions, PacketType},
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
    },
};
use arbitrary::{Arbitrary, Unstructured};

use self::kit::{AppIndex, Behaviour, Network};

const NODES_MAX: usize = 3;
const APPS_MAX: usize = 12;
const STEPS_MAX: usize = 96;
/// Longest payload; a few are longer than what an application's queue holds.
const PAYLOAD_LEN_MAX: usize = 4_096;
/// A topic that was dropped may still arrive so much later: what was under way, and a change that was
/// put off because changes came too fast.
const DROP_GRACE: Duration = Duration::from_secs(6);

const TOPICS: [&str; 8] = [
    "a",
    "b",
    "news",
    "主题",
    "#!$TopicNeedVerify_t",
    "#!$PushChannel_#!$TopicNeedVerify_t",
    "#!$VerifyChannel_#!$TopicNeedVerify_t_00112233445566778899aabbccddeeff",
    "_block_notify_1",
];

/// What a script begins with; [`Step`]s follow to its end.
#[derive(Arbitrary, Debug)]
struct Setting {
    seed: u8,
    /// How many, and in its higher bits whether every other application is one of FISCO BCOS 3.x.
    nodes: u8,
    reactors: u8,
    retry_after_push_timeout: bool,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    App {
        node: u8,
        behaviour: AppBehaviour,
    },
    /// Subscribes to the topics whose bits are set.
    Subscribe {
        app: u8,
        topics: u8,
    },
    Unicast {
        app: u8,
        topic: u8,
        len: u16,
    },
    Multicast {
        app: u8,
        topic: u8,
        len: u16,
    },
    /// A frame with a header that is right, the rest as it comes.
    Frame {
        app: u8,
        kind: u8,
        seq: SeqChoice,
        result: i32,
        body: &'a [u8],
    },
    /// A valid body under a seq that was used before.
    Again {
        app: u8,
        multicast: bool,
        topic: u8,
        seq: u8,
    },
    Disconnect {
        app: u8,
    },
    /// Bytes as if a node had sent them to another one.
    Forge {
        from: u8,
        to: u8,
        bytes: &'a [u8],
    },
    /// A packet with a header that is right.
    ForgePacket {
        from: u8,
        to: u8,
        kind: u8,
        message: Message,
        payload: &'a [u8],
    },
    /// A unicast, an answer or a multicast as it should be, if only it were true.
    ForgeAmop {
        from: u8,
        to: u8,
        kind: u8,
        message: Message,
        flags: u8,
        time_left_ms: Option<u32>,
        seq: SeqChoice,
        topic: u8,
    },
    Connect {
        from: u8,
        to: u8,
    },
    Break {
        one: u8,
        other: u8,
    },
    Cut {
        one: u8,
        other: u8,
    },
    Freeze {
        node: u8,
        frozen: bool,
    },
    Restart {
        node: u8,
        downtime_ms: u16,
    },
    Kill {
        node: u8,
    },
    Drain {
        node: u8,
    },
    Run {
        ms: u16,
    },
}

#[derive(Arbitrary, Debug)]
enum AppBehaviour {
    Echo { delay_ms: u16 },
    Silent,
    Deaf,
}

#[derive(Arbitrary, Debug)]
enum SeqChoice {
    Fresh,
    /// One that somebody used.
    Known(u8),
    /// One byte, repeated.
    Repeated(u8),
}

/// The number of a forged packet.
#[derive(Arbitrary, Debug)]
enum Message {
    Any(u32),
    /// That of a message that the receiver sent, and may wait for an answer to.
    OfReceiver(u8),
    /// That of a message of the node in whose name the packet comes: a repeat.
    OfSender(u8),
}

/// What an application did, to judge what it gets.
#[derive(Default)]
struct Record {
    /// Topics, and when they were dropped.
    topics: HashMap<String, Option<Instant>>,
    /// How many 0x30 and 0x35 were sent under a seq. Both are answered.
    requests: HashMap<Seq, usize>,
}

struct Run {
    network: Network,
    has_apps_of_3x: bool,
    records: Vec<Record>,
    seqs: Vec<Seq>,
    /// How often a frame was sent under a seq, by anybody.
    sent: HashMap<Seq, usize>,
    /// Somebody forged frames between nodes: identities and answers may be lies.
    forged: bool,
    /// Some node was frozen: what it does, it may do late.
    frozen: bool,
    stopped: [bool; NODES_MAX],
    draining: [bool; NODES_MAX],
}

/// The input is a [`Setting`] and [`Step`]s.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let Ok(setting) = Setting::arbitrary(&mut script) else { return };
    let settings = Settings {
        push_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_secs(2),
        retry_after_push_timeout: setting.retry_after_push_timeout,
        session_topics_max: 16,
        pending_requests_max: 24,
        pending_pushes_max: 24,
        retained_bytes_max: 32 << 10,
        session_queue_bytes_max: 16 << 10,
        window_frames_max: 16,
        window_bytes_max: 32 << 10,
        ..Settings::default()
    };
    let mut network = Network::new(u64::from(setting.seed));
    let nodes = 1 + usize::from(setting.nodes) % NODES_MAX;
    for _ in 0..nodes {
        network.add_node(1 + u16::from(setting.reactors % 2), settings.clone());
    }
    for one in 0..nodes {
        for other in 0..one {
            network.connect(one, other);
        }
    }
    network.run_for(Duration::from_millis(50));
    let mut run = Run {
        network,
        has_apps_of_3x: setting.nodes >> 4 & 1 == 1,
        records: Vec::new(),
        seqs: Vec::new(),
        sent: HashMap::new(),
        forged: false,
        frozen: false,
        stopped: [false; NODES_MAX],
        draining: [false; NODES_MAX],
    };
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut script) else { break };
        run.step(step);
        if script.is_empty() {
            break;
        }
    }
    run.finish();
}

impl Run {
    fn node(&self, choice: u8) -> usize {
        usize::from(choice) % self.network.nodes.len()
    }

    fn two_nodes(&self, one: u8, other: u8) -> Option<(usize, usize)> {
        let (one, other) = (self.node(one), self.node(other));
        (one != other && !self.stopped[one] && !self.stopped[other]).then_some((one, other))
    }

    fn app(&self, choice: u8) -> Option<AppIndex> {
        let apps = self.network.apps.len();
        (apps > 0).then(|| usize::from(choice) % apps).filter(|&app| self.is_alive(app))
    }

    fn is_alive(&self, app: AppIndex) -> bool {
        let app = &self.network.apps[app];
        !app.closed && !self.stopped[app.node]
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::App { node, behaviour } => {
                let node = self.node(node);
                if self.stopped[node] || self.network.apps.len() == APPS_MAX {
                    return;
                }
                let behaviour = match behaviour {
                    AppBehaviour::Echo { delay_ms } => {
                        Behaviour::Echo(Duration::from_millis(delay_ms.into()))
                    }
                    AppBehaviour::Silent => Behaviour::Silent,
                    AppBehaviour::Deaf => Behaviour::Deaf,
                };
                match self.has_apps_of_3x && self.network.apps.len() % 2 == 1 {
                    true => self.network.app_3x(node, behaviour),
                    false => self.network.app(node, behaviour),
                };
                self.records.push(Record::default());
            }
            Step::Subscribe { app, topics } => {
                let Some(app) = self.app(app) else { return };
                let chosen: Vec<&str> = TOPICS
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| topics >> bit & 1 == 1)
                    .map(|(_, name)| *name)
                    .collect();
                let body = serde_json::to_vec(&chosen).expect("strings");
                self.send(app, FrameType::SUBSCRIBE, None, ResultCode::OK, &body);
            }
            Step::Unicast { app, topic, len } => self.publish(app, FrameType::REQUEST, topic, len),
            Step::Multicast { app, topic, len } => self.publish(app, FrameType::MULTICAST, topic, len),
            Step::Again { app, multicast, topic, seq } => {
                let Some(app) = self.app(app) else { return };
                let Some(seq) = self.known_seq(seq) else { return };
                let frame_type = if multicast { FrameType::MULTICAST } else { FrameType::REQUEST };
                self.send(app, frame_type, Some(seq), ResultCode::OK, &body(topic, 3));
            }
            Step::Frame { app, kind, seq, result, body } => {
                let Some(app) = self.app(app) else { return };
                let seq = self.choose(seq);
                const KINDS: [u16; 16] = [
                    0x12, 0x13, 0x14, 0x15, 0x16, 0x30, 0x31, 0x32, 0x35, 0x37, 0x38, 0x1000, 0x1001, 0x1002,
                    0, 0xffff,
                ];
                // The rest are messages of their dialect, with bodies as they come.
                const KINDS_OF_3X: [u16; 16] = [
                    0x102, 0x13, 0x100, 0x110, 0x111, 0x30, 0x31, 0x32, 0x35, 0x112, 0x113, 0x101, 0x103,
                    0x120, 0x122, 0xfff,
                ];
                let kinds = if self.network.apps[app].is_3x { KINDS_OF_3X } else { KINDS };
                let frame_type = FrameType(kinds[usize::from(kind) % kinds.len()]);
                self.send(app, frame_type, seq, ResultCode(result), body);
            }
            Step::Disconnect { app } => {
                if let Some(app) = self.app(app) {
                    self.network.disconnect(app);
                }
            }
            Step::Forge { from, to, bytes } => {
                // The engine cuts frames by their length and closes a link whose lengths cannot be.
                let Some((from, to)) = self.two_nodes(from, to) else { return };
                if bytes.len() >= node::HEADER_LEN_MIN {
                    self.forged = true;
                    self.network.forge(from, to, bytes);
                }
            }
            Step::ForgePacket { from, to, kind, message, payload } => {
                const KINDS: [i16; 9] = [1, 2, 3, -3, 4, 0x30, -0x30, 0x35, 0x40];
                let packet_type = PacketType(KINDS[usize::from(kind) % KINDS.len()]);
                self.forge(from, to, (packet_type, message), payload);
            }
            Step::ForgeAmop { from, to, kind, message, flags, time_left_ms, seq, topic } => {
                let (packet_type, frame_type) = [
                    (PacketType::UNICAST, FrameType::REQUEST),
                    (PacketType::UNICAST_RESPONSE, FrameType::RESPONSE),
                    (PacketType::MULTICAST, FrameType::MULTICAST),
                ][usize::from(kind % 3)];
                let seq = self.choose(seq).unwrap_or([b'f'; 32]);
                let by_node = flags & 4 == 4;
                let result = if by_node { ResultCode(98 + i32::from(flags >> 4)) } else { ResultCode::OK };
                let extensions = Extensions { time_left_ms, by_node, ..Extensions::default() };
                let frame = sdk::encode(frame_type, &seq, result, &body(topic, 3));
                let Some((from, to)) = self.two_nodes(from, to) else { return };
                let seq = self.number(from, to, message);
                self.forged = true;
                self.network.forge_message(from, to, (packet_type, seq), &extensions, &frame);
            }
            Step::Connect { from, to } => {
                if let Some((from, to)) = self.two_nodes(from, to)
                    && self.network.links_between(from, to).len() < 4
                {
                    self.network.connect(from, to);
                }
            }
            Step::Break { one, other } => {
                if let Some((one, other)) = self.two_nodes(one, other) {
                    self.network.break_links(one, other);
                }
            }
            Step::Cut { one, other } => {
                if let Some((one, other)) = self.two_nodes(one, other) {
                    self.network.cut_links(one, other);
                }
            }
            Step::Freeze { node, frozen } => {
                let node = self.node(node);
                self.network.nodes[node].frozen = frozen;
                self.frozen |= frozen;
            }
            Step::Restart { node, downtime_ms } => {
                let node = self.node(node);
                self.close_apps_of(node);
                self.network.restart(node, Duration::from_millis((downtime_ms % 5_000).into()));
                self.stopped[node] = false;
                self.draining[node] = false;
            }
            Step::Kill { node } => {
                let node = self.node(node);
                if !self.stopped[node] {
                    self.close_apps_of(node);
                    self.network.kill(node);
                    self.stopped[node] = true;
                }
            }
            Step::Drain { node } => {
                let node = self.node(node);
                if !self.stopped[node] {
                    self.network.drain(node);
                    self.draining[node] = true;
                }
            }
            Step::Run { ms } => self.network.run_for(Duration::from_millis((ms % 4_000).into())),
        }
    }

    fn close_apps_of(&mut self, node: usize) {
        self.network.apps.iter_mut().filter(|app| app.node == node).for_each(|app| app.closed = true);
    }

    /// A number that a message of one node to another one has, had, or never had.
    fn number(&self, from: usize, to: usize, message: Message) -> u32 {
        let next = |node: usize| self.network.nodes[node].shared.next_message.load(Ordering::Relaxed);
        match message {
            Message::Any(number) => number,
            Message::OfReceiver(back) => next(to).wrapping_sub(back.into()),
            Message::OfSender(back) => next(from).wrapping_sub(back.into()),
        }
    }

    fn forge(&mut self, from: u8, to: u8, (packet_type, message): (PacketType, Message), payload: &[u8]) {
        let Some((from, to)) = self.two_nodes(from, to) else { return };
        let header = node::Header::direct(packet_type, self.number(from, to, message));
        let mut packet = smallvec::SmallVec::new();
        header.encode_into(payload.len(), &mut packet);
        packet.extend_from_slice(payload);
        self.forged = true;
        self.network.forge(from, to, &packet);
    }

    fn choose(&self, choice: SeqChoice) -> Option<Seq> {
        match choice {
            SeqChoice::Fresh => None,
            SeqChoice::Known(choice) => self.known_seq(choice),
            SeqChoice::Repeated(byte) => Some([byte; 32]),
        }
    }

    fn known_seq(&self, choice: u8) -> Option<Seq> {
        (!self.seqs.is_empty()).then(|| self.seqs[usize::from(choice) % self.seqs.len()])
    }

    fn publish(&mut self, app: u8, frame_type: FrameType, topic: u8, len: u16) {
        if let Some(app) = self.app(app) {
            self.send(app, frame_type, None, ResultCode::OK, &body(topic, len));
        }
    }

    fn send(
        &mut self,
        app: AppIndex,
        frame_type: FrameType,
        seq: Option<Seq>,
        result: ResultCode,
        data: &[u8],
    ) {
        let seq = seq.unwrap_or_else(|| self.network.seq());
        self.seqs.push(seq);
        let is_3x = self.network.apps[app].is_3x;
        let record = &mut self.records[app];
        let is_list = serde_json::from_slice::<Vec<String>>(data).is_ok();
        match frame_type {
            // A multicast of 3.x is not answered.
            FrameType::REQUEST | FrameType::MULTICAST | FrameType(0x111 | 0x112) => {
                let is_answered = !is_3x || matches!(frame_type, FrameType::REQUEST | FrameType(0x111));
                *record.requests.entry(seq).or_default() += usize::from(is_answered);
                *self.sent.entry(seq).or_default() += 1;
            }
            FrameType::SUBSCRIBE | FrameType(0x110) => {
                let read = match is_3x && (frame_type != FrameType::SUBSCRIBE || !is_list) {
                    true => json::decode_subscription_3x(data, 16),
                    false => json::decode_subscription(data, 16),
                };
                if let Ok((topics, _)) = read {
                    let now = self.network.now;
                    for (name, dropped) in &mut record.topics {
                        if !topics.iter().any(|topic| topic.as_str() == name) {
                            dropped.get_or_insert(now);
                        }
                    }
                    record.topics.extend(topics.iter().map(|topic| (topic.as_str().to_owned(), None)));
                }
            }
            _ => {}
        }
        self.network.bytes(app, sdk::encode(frame_type, &seq, result, data));
    }

    fn finish(mut self) {
        for node in &mut self.network.nodes {
            node.frozen = false;
        }
        // Longer than a request may take, its way through the network included.
        self.network.run_for(Duration::from_secs(10));
        for app in 0..self.network.apps.len() {
            self.check(app);
        }
        self.check_that_nodes_work();
    }

    fn check(&self, app: AppIndex) {
        let (application, record) = (&self.network.apps[app], &self.records[app]);
        if application.behaviour != Behaviour::Deaf && self.is_alive(app) {
            for (seq, &requests) in &record.requests {
                let answers = self.network.answers(app, seq).len();
                assert_eq!(answers, requests, "answers to {}", String::from_utf8_lossy(seq));
            }
        }
        let mut got: HashMap<(FrameType, Seq), usize> = HashMap::new();
        for received in &application.received {
            let Header { frame_type, seq, .. } = received.header;
            if frame_type == FrameType::RESPONSE {
                let known = record.requests.contains_key(&seq);
                assert!(known, "an answer to nothing: {}", String::from_utf8_lossy(&seq));
            }
            if frame_type != FrameType::REQUEST && frame_type != FrameType::MULTICAST {
                continue;
            }
            let body = AmopBody::decode(&received.data).expect("nodes push valid bodies");
            let dropped =
                record.topics.get(body.topic).unwrap_or_else(|| panic!("never subscribed to {}", body.topic));
            let late = dropped.is_some_and(|dropped| received.at > dropped + DROP_GRACE);
            assert!(!late || self.frozen, "{} was dropped long before", body.topic);
            assert_eq!(body.kind(), TopicKind::Ordinary, "private topics reach nobody without proof");
            assert!(Topic::new(body.topic).is_some());
            if self.forged {
                continue;
            }
            let count = got.entry((frame_type, seq)).or_default();
            *count += 1;
            let sent = self.sent.get(&seq).copied().unwrap_or(0);
            assert!(
                *count <= sent,
                "{count} times got, {sent} times sent: {}",
                String::from_utf8_lossy(&seq)
            );
            let own = record.requests.get(&seq).copied().unwrap_or(0);
            assert!(frame_type == FrameType::MULTICAST || own < sent, "its own request came back");
        }
    }

    /// A new publisher reaches a new subscriber of each node that is up, whatever happened before.
    fn check_that_nodes_work(&mut self) {
        for node in 0..self.network.nodes.len() {
            if self.stopped[node] || self.draining[node] {
                continue;
            }
            let topic = format!("afterwards/{node}");
            self.network.subscriber(node, &[&topic]);
            let publisher = self.network.app(node, Behaviour::Silent);
            let seq = self.network.unicast(publisher, &topic, b"still there?");
            let (code, data) = self.network.answer(publisher, &seq, Duration::from_secs(3));
            assert_eq!(code, 0, "node {node} does not deliver any more");
            assert_eq!(AmopBody::decode(&data).map(|body| body.topic), Ok(topic.as_str()));
        }
    }
}

fn body(topic: u8, len: u16) -> Vec<u8> {
    let frame = sdk::encode_amop(
        FrameType::REQUEST,
        &[0; 32],
        ResultCode::OK,
        TOPICS[usize::from(topic) % TOPICS.len()],
        &vec![b'x'; usize::from(len) % PAYLOAD_LEN_MAX],
    );
    frame[HEADER_LEN..].to_vec()
}
