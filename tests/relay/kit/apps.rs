//! Applications: what they send, how they treat what comes, what they have received.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{CloseReason, LinkKey, LinkUp, ReactorId},
    wire::{
        FrameRef, NodeId, ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
        ws::MessageHead,
    },
};
use rand::RngExt;

use super::{AppIndex, End, Event, LINK_LATENCY, Network, NodeIndex, Seen, dialect_3x};

/// How an application treats what is pushed to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers a unicast with its own payload, after so long.
    Echo(Duration),
    /// Reads and never answers.
    Silent,
    /// Does not read: its queue at the node fills.
    Deaf,
}

pub struct Application {
    pub node: NodeIndex,
    pub behaviour: Behaviour,
    /// What it received, in order.
    pub received: Vec<Received>,
    pub closed: bool,
    pub(super) link: (ReactorId, LinkKey),
    /// The incarnation of the node that it is connected to.
    pub(super) incarnation: u64,
    pub(super) topics: Vec<String>,
    /// Whether it is one of FISCO BCOS 3.x.
    pub is_3x: bool,
    /// What it received then, as it came.
    pub messages: Vec<(MessageHead, Vec<u8>)>,
    /// The topic of each request that it sent, which answers in that dialect do not name.
    pub(super) asked: BTreeMap<Seq, String>,
}

impl Application {
    /// Whether it has said that it subscribes to a topic.
    pub fn subscribes_to(&self, topic: &str) -> bool {
        self.topics.iter().any(|name| name == topic)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub at: Instant,
    pub header: Header,
    pub data: Vec<u8>,
}

impl Received {
    pub fn code(&self) -> ResultCode {
        self.header.result
    }
}

impl Network {
    /// An application connected to `node`, on the reactor of its turn.
    pub fn app(&mut self, node: NodeIndex, behaviour: Behaviour) -> AppIndex {
        let reactor = ReactorId((self.apps.len() % usize::from(self.nodes[node].shared.reactors)) as u16);
        self.app_on(node, reactor, behaviour)
    }

    pub fn app_on(&mut self, node: NodeIndex, reactor: ReactorId, behaviour: Behaviour) -> AppIndex {
        self.app_of(node, reactor, behaviour, None)
    }

    /// An application whose certificate has this key.
    pub fn app_of(
        &mut self,
        node: NodeIndex,
        reactor: ReactorId,
        behaviour: Behaviour,
        public_key: Option<NodeId>,
    ) -> AppIndex {
        let app = self.apps.len();
        let now = self.now;
        let key = self.nodes[node].io[usize::from(reactor.0)].insert(now, true, End::App(app));
        self.apps.push(Application {
            node,
            behaviour,
            received: Vec::new(),
            closed: false,
            link: (reactor, key),
            incarnation: self.nodes[node].incarnation,
            topics: Vec::new(),
            is_3x: false,
            messages: Vec::new(),
            asked: BTreeMap::new(),
        });
        let up =
            LinkUp::Sdk { address: format!("127.0.0.1:{app}"), subject: "CN=sdk".to_owned(), public_key };
        self.drive(node, reactor, |shard, now, io| shard.handle_link_up(now, key, up, io));
        app
    }

    /// An application that echoes and subscribes to `topics`; the network knows when this returns.
    pub fn subscriber(&mut self, node: NodeIndex, topics: &[&str]) -> AppIndex {
        let app = self.app(node, Behaviour::Echo(Duration::ZERO));
        self.subscribe(app, topics);
        app
    }

    pub fn subscribe(&mut self, app: AppIndex, topics: &[&str]) {
        self.apps[app].topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        let body = serde_json::to_vec(topics).expect("strings");
        self.frame(app, FrameType::SUBSCRIBE, &body);
        self.run_for(Duration::from_millis(20));
    }

    /// Sends a frame and gives its seq.
    pub fn frame(&mut self, app: AppIndex, frame_type: FrameType, data: &[u8]) -> Seq {
        let seq = self.seq();
        self.bytes(app, sdk::encode(frame_type, &seq, ResultCode::OK, data));
        seq
    }

    pub fn seq(&mut self) -> Seq {
        std::array::from_fn(|_| b"0123456789abcdef"[self.rng.random_range(0..16)])
    }

    pub fn unicast(&mut self, app: AppIndex, topic: &str, payload: &[u8]) -> Seq {
        let seq = self.seq();
        self.bytes(app, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, topic, payload));
        seq
    }

    pub fn multicast(&mut self, app: AppIndex, topic: &str, payload: &[u8]) -> Seq {
        let seq = self.seq();
        self.bytes(app, sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, topic, payload));
        seq
    }

    /// Sends one whole frame, whatever it is.
    pub fn bytes(&mut self, app: AppIndex, bytes: Vec<u8>) {
        if self.apps[app].is_3x {
            self.apps[app].note_asked(&bytes);
        }
        // In order on the link, whatever else happens.
        let latency = self.link_latency();
        let at = self.app_latency.get(&app).copied().unwrap_or(self.now).max(self.now + latency);
        self.app_latency.insert(app, at);
        self.schedule_at(at, Event::AppSends { app, bytes });
    }

    /// Begins to send a long frame, of which the node has no more than the beginning for now.
    pub fn begin_long(&mut self, app: AppIndex, frame: &[u8]) {
        self.sends_long(app, true);
        let Application { node, link: (reactor, key), .. } = self.apps[app];
        let said = if self.apps[app].is_3x { dialect_3x::said(frame) } else { Some(frame.to_vec()) };
        let Some(said) = said else { return };
        let head = &said[..sdk::HEADER_LEN];
        self.drive(node, reactor, |shard, now, io| shard.handle_frame_begun(now, key, head, io));
    }

    /// The rest of it is sent.
    pub fn end_long(&mut self, app: AppIndex, frame: Vec<u8>) {
        self.sends_long(app, false);
        self.bytes(app, frame);
    }

    fn sends_long(&mut self, app: AppIndex, whether: bool) {
        let Application { node, link: (reactor, key), .. } = self.apps[app];
        let link = self.nodes[node].io[usize::from(reactor.0)].link(key);
        link.expect("it is connected").is_sending_long = whether;
    }

    pub fn disconnect(&mut self, app: AppIndex) {
        let Application { node, incarnation, link: (reactor, key), .. } = self.apps[app];
        self.link_down(End::Node { node, incarnation, reactor, key }, CloseReason::ByPeer);
        self.apps[app].closed = true;
    }

    /// All 0x31 that an application got for a seq.
    pub fn answers(&self, app: AppIndex, seq: &Seq) -> Vec<&Received> {
        self.apps[app]
            .received
            .iter()
            .filter(|received| {
                received.header.frame_type == FrameType::RESPONSE && received.header.seq == *seq
            })
            .collect()
    }

    /// Runs until the one answer is there, within `bound`, and gives its code and data.
    ///
    /// # Panics
    /// If there is none in time, or more than one.
    pub fn answer(&mut self, app: AppIndex, seq: &Seq, bound: Duration) -> (i32, Vec<u8>) {
        let end = self.now + bound;
        while self.answers(app, seq).is_empty() && self.step(end) {}
        match self.answers(app, seq).as_slice() {
            [one] => (one.header.result.0, one.data.clone()),
            several => panic!("{} answers instead of one within {bound:?}", several.len()),
        }
    }

    /// Pushed frames of a kind that an application got: topic and payload.
    pub fn pushed(&self, app: AppIndex, frame_type: FrameType) -> Vec<(String, Vec<u8>)> {
        self.apps[app]
            .received
            .iter()
            .filter(|received| received.header.frame_type == frame_type)
            .map(|received| {
                let body = sdk::AmopBody::decode(&received.data).expect("nodes push valid bodies");
                (body.topic.to_owned(), received.data[body.payload_offset..].to_vec())
            })
            .collect()
    }

    /// Lets a node take what an application has sent, as far as it reads.
    pub(super) fn read(&mut self, app: AppIndex, (node, reactor, key): (NodeIndex, ReactorId, LinkKey)) {
        loop {
            let io = &mut self.nodes[node].io[usize::from(reactor.0)];
            let (bound, pool) = (io.queue_bytes_max, io.pool());
            let Some(link) = io.link(key) else { return };
            if link.is_read_paused(bound, pool) {
                return;
            }
            let Some(bytes) = link.unread.pop_front() else { return };
            self.note(|| Seen::Taken { app, bytes: bytes.clone() });
            let said = if self.apps[app].is_3x { dialect_3x::said(&bytes) } else { Some(bytes) };
            self.drive(node, reactor, |shard, now, io| {
                shard.handle_activity(now, key);
                if let Some(bytes) = said {
                    shard.handle_frame(now, key, FrameRef::Slice(&bytes), io);
                }
            });
        }
    }

    /// Lets an application take no more than so many bytes a second from now on.
    pub fn set_rate(&mut self, app: AppIndex, bytes_per_second: u64) {
        let Application { node, link: (reactor, key), .. } = self.apps[app];
        self.nodes[node].io[usize::from(reactor.0)].link(key).expect("it is connected").rate =
            Some(bytes_per_second);
    }

    /// Whether applications have sent what their nodes do not read yet.
    pub fn is_anything_unread(&self) -> bool {
        let running = self.nodes.iter().filter(|node| node.running);
        running
            .flat_map(|node| &node.io)
            .flat_map(|io| io.links.iter().flatten())
            .any(|link| !link.unread.is_empty())
    }

    /// Whether applications that read have not taken yet what is queued for them.
    pub fn is_anything_untaken(&self) -> bool {
        let running = self.nodes.iter().filter(|node| node.running);
        running
            .flat_map(|node| &node.io)
            .flat_map(|io| io.links.iter().flatten())
            .any(|link| link.sdk && link.open && link.taken < link.queued_in_all && !self.is_deaf(link.other))
    }

    pub(super) fn is_deaf(&self, end: End) -> bool {
        matches!(end, End::App(app) if self.apps[app].behaviour == Behaviour::Deaf)
    }

    pub(super) fn deliver_to_app(&mut self, app: AppIndex, bytes: &[u8]) {
        let sent = bytes;
        let Some(bytes) = self.apps[app].hear(sent) else { return };
        let bytes = &bytes[..];
        let header = Header::decode(bytes).expect("nodes send whole frames");
        assert_eq!(header.len as usize, bytes.len(), "a node lied about a frame's length");
        let at = self.now;
        let application = &mut self.apps[app];
        if application.closed || application.behaviour == Behaviour::Deaf {
            return;
        }
        if let Some(seen) = &mut self.seen {
            seen.push(Seen::Delivered { app, bytes: bytes.to_vec() });
        } else {
            if application.is_3x {
                application.messages.push(dialect_3x::message_of(sent));
            }
            application.received.push(Received { at, header, data: bytes[HEADER_LEN..].to_vec() });
        }
        if let Behaviour::Echo(delay) = application.behaviour
            && header.frame_type == FrameType::REQUEST
        {
            let answer = sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, &bytes[HEADER_LEN..]);
            self.schedule(delay + LINK_LATENCY, Event::AppSends { app, bytes: answer });
        }
    }
}
