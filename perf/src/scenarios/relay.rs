//! Whole relays in memory: real shards and registries of nodes in a line, whose links are buffers, and applications
//! that answer at once. What is measured with it is what the node does for a frame beside sockets and encryption.
//!
//! Unlike the network of `tests/relay`, nothing here allocates, copies or orders more than a socket would make necessary
//! once traffic flows: a frame for an application is counted, one for another node is copied once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        Class, CloseReason, LedgerDial, LinkKey, LinkProgress, LinkUp, MeshMessage, Outbound, Queued,
        ReactorId, RegistryInput, SendError, Shared, diagnostic::Answer, registry::Registry,
        settings::Settings, shard::Shard, signing::NodeSigner,
    },
    wire::{
        FrameRef, ResultCode,
        sdk::{self, FrameType, Seq},
    },
};

/// By how much an operation is later than the one before.
const STEP: Duration = Duration::from_micros(2);
/// Operations after which shards are asked what is due, as a reactor asks after a batch.
const OPERATIONS_PER_TURN: u64 = 32;
/// So short that tables of what is remembered stop growing after some hundred operations.
const IDENTITY_MEMORY: Duration = Duration::from_millis(1);
/// Bytes of a payload.
pub(super) const PAYLOAD_LEN: usize = 256;
/// Where the seq lies in a frame of the SDK link.
const SEQ_OFFSET: usize = 6;
const TOPIC: &str = "orders";

/// What a shard sends.
#[derive(Default)]
struct Out {
    /// For each link the node at its other end, and the link there; `None` for an application's.
    ends: Vec<Option<App>>,
    /// Frames for other nodes, one behind the other …
    wire: Vec<u8>,
    /// … by link and end.
    frames: Vec<(LinkKey, usize)>,
    inputs: Vec<RegistryInput>,
    /// Frames sent to applications.
    delivered: u64,
    /// The application that was sent the last of them.
    last: Option<LinkKey>,
}

impl Out {
    fn next_link(&self) -> LinkKey {
        LinkKey { index: self.ends.len() as u32, generation: 1 }
    }
}

impl Outbound for Out {
    fn send(
        &mut self,
        link: LinkKey,
        _: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        if self.ends[link.index as usize].is_none() {
            self.delivered += 1;
            self.last = Some(link);
            return Ok(Queued::default());
        }
        self.wire.extend_from_slice(head);
        body.pieces().for_each(|piece| self.wire.extend_from_slice(piece));
        self.frames.push((link, self.wire.len()));
        Ok(Queued::default())
    }

    fn progress(&mut self, _: LinkKey) -> Option<LinkProgress> {
        None
    }

    fn watch_taken(&mut self, _: LinkKey) {}

    fn watch_room(&mut self, _: LinkKey, _: Class, _: usize) {}

    fn dial_ledger(&mut self, _: LedgerDial) {}

    fn pause_reading(&mut self, _: LinkKey, _: bool) {}

    fn to_reactor(&mut self, _: ReactorId, _: MeshMessage, _: FrameRef<'_>) {
        panic!("a node of one reactor has no others");
    }

    fn to_registry(&mut self, input: RegistryInput) -> bool {
        self.inputs.push(input);
        true
    }

    fn answer(&mut self, _: u64, _: Answer) {}

    fn share_records(&mut self, _: LinkKey) {}

    fn close(&mut self, _: LinkKey, reason: CloseReason) {
        panic!("a link is closed: {reason}");
    }

    fn abort(&mut self, link: LinkKey, reason: CloseReason) {
        self.close(link, reason);
    }
}

struct Node {
    shared: Arc<Shared>,
    shard: Shard,
    registry: Registry,
    out: Out,
}

/// An application's link, or a node's: the index of the node that has it, and the link there.
#[derive(Clone, Copy)]
pub(super) struct App(usize, LinkKey);

/// Nodes of one reactor each, each linked with the next one.
pub(super) struct Relay {
    now: Instant,
    nodes: Vec<Node>,
    operations: u64,
    /// Buffers of a wire while its frames are handled.
    spare: (Vec<u8>, Vec<(LinkKey, usize)>),
    request: Vec<u8>,
    response: Vec<u8>,
    multicast: Vec<u8>,
}

impl Relay {
    pub(super) fn new(nodes: u8) -> Self {
        let now = Instant::now();
        let settings = Settings {
            session_changes_per_second_max: u32::MAX,
            lost_node_memory: IDENTITY_MEMORY,
            ..Settings::default()
        };
        let nodes = (1..=nodes).map(|number| {
            let signer = NodeSigner::from_secret_bytes(&[number; 32]).expect("a valid key");
            let shared = Shared::new(signer.id(), 1, 1, now, settings.clone());
            let shared = Arc::new(Shared { signer: Some(signer.clone()), ..shared });
            Node {
                shard: Shard::new(shared.clone(), ReactorId(0), [number; 32], now),
                registry: Registry::new(shared.clone(), signer),
                out: Out::default(),
                shared,
            }
        });
        let frame =
            |frame_type| sdk::encode_amop(frame_type, &[0; 32], ResultCode::OK, TOPIC, &[7; PAYLOAD_LEN]);
        let mut relay = Self {
            now,
            nodes: nodes.collect(),
            operations: 0,
            spare: Default::default(),
            request: frame(FrameType::REQUEST),
            response: frame(FrameType::RESPONSE),
            multicast: frame(FrameType::MULTICAST),
        };
        for first in 1..relay.nodes.len() {
            let (one, other) = (first - 1, first);
            let ends = [one, other].map(|node| App(node, relay.nodes[node].out.next_link()));
            for (at, end, dialed) in [(one, ends[1], true), (other, ends[0], false)] {
                let (id, (address, agency, name)) = (relay.nodes[end.0].shared.id, Default::default());
                relay.link_up(at, Some(end), LinkUp::Node { id, dialed, address, agency, name });
            }
        }
        relay.settle();
        relay
    }

    fn link_up(&mut self, node: usize, end: Option<App>, up: LinkUp) -> App {
        let now = self.now;
        let Node { shard, out, .. } = &mut self.nodes[node];
        let key = out.next_link();
        out.ends.push(end);
        shard.handle_link_up(now, key, up, out);
        App(node, key)
    }

    /// A publisher.
    pub(super) fn app(&mut self, node: usize) -> App {
        let (address, subject) = Default::default();
        self.link_up(node, None, LinkUp::Sdk { address, subject, public_key: None })
    }

    /// A subscriber to the topic of all messages.
    pub(super) fn subscriber(&mut self, node: usize) -> App {
        let app = self.app(node);
        self.subscribe(app, &[TOPIC]);
        app
    }

    /// Sets what an application subscribes to; all nodes know of it when this returns.
    pub(super) fn subscribe(&mut self, app: App, topics: &[&str]) {
        let body = serde_json::to_vec(topics).expect("strings");
        let frame = sdk::encode(FrameType::SUBSCRIBE, &[0; 32], ResultCode::OK, &body);
        self.receive(app, &frame);
        self.settle();
    }

    fn receive(&mut self, App(node, key): App, frame: &[u8]) {
        let Node { shard, out, .. } = &mut self.nodes[node];
        shard.handle_activity(self.now, key);
        shard.handle_frame(self.now, key, FrameRef::Slice(frame), out);
    }

    /// Hands over what nodes have sent each other, until they are quiet.
    fn exchange(&mut self) {
        while let Some(from) = self.nodes.iter().position(|node| !node.out.frames.is_empty()) {
            let out = &mut self.nodes[from].out;
            let (mut wire, mut frames) = std::mem::take(&mut self.spare);
            std::mem::swap(&mut out.wire, &mut wire);
            std::mem::swap(&mut out.frames, &mut frames);
            let mut start = 0;
            for (link, end) in frames.drain(..) {
                let far = self.nodes[from].out.ends[link.index as usize].expect("a link to a node");
                self.receive(far, &wire[start..end]);
                start = end;
            }
            wire.clear();
            self.spare = (wire, frames);
        }
    }

    /// Lets registries do what there is to do, and tell each other.
    fn settle(&mut self) {
        loop {
            self.exchange();
            let mut is_quiet = true;
            for Node { shard, registry, out, .. } in &mut self.nodes {
                for input in std::mem::take(&mut out.inputs) {
                    registry.handle(self.now, input);
                    is_quiet = false;
                }
                registry.publish(self.now);
                while let Some((_, output)) = registry.poll_output() {
                    shard.handle_registry(self.now, output, out);
                    is_quiet = false;
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    /// Time goes on, and what is due is done now and then.
    fn step(&mut self) -> Seq {
        self.now += STEP;
        self.operations += 1;
        if self.operations.is_multiple_of(OPERATIONS_PER_TURN) {
            for Node { shard, out, .. } in &mut self.nodes {
                if shard.poll_timeout().is_some_and(|due| due <= self.now) {
                    shard.handle_timeout(self.now, out);
                }
            }
            // Registries tell by digests, every few seconds of this time, that nothing is new.
            if self.nodes.iter().any(|node| !node.out.inputs.is_empty()) {
                self.settle();
            }
        }
        let mut seq = *b"9f1c2d3e4b5a69788796a5b4c3d2e1f0";
        seq[8..16].copy_from_slice(&self.operations.to_be_bytes());
        seq
    }

    fn send(&mut self, app: App, frame: fn(&mut Self) -> &mut Vec<u8>, seq: &Seq) {
        let mut bytes = std::mem::take(frame(self));
        bytes[SEQ_OFFSET..SEQ_OFFSET + 32].copy_from_slice(seq);
        self.receive(app, &bytes);
        *frame(self) = bytes;
        self.exchange();
    }

    /// Request, push, response, response: from a publisher to any of the subscribers at a node.
    pub(super) fn round_trip(&mut self, publisher: App, subscribers: usize) {
        let seq = self.step();
        self.send(publisher, |relay| &mut relay.request, &seq);
        let out = &self.nodes[subscribers].out;
        let (pushed, delivered) = (out.last.expect("a request is pushed"), out.delivered);
        self.send(App(subscribers, pushed), |relay| &mut relay.response, &seq);
        let out = &self.nodes[publisher.0].out;
        assert!(out.last == Some(publisher.1) && (publisher.0 != subscribers || out.delivered > delivered));
    }

    /// Sends a multicast to all subscribers, of whom there are so many.
    pub(super) fn multicast(&mut self, publisher: App, subscribers: u64) {
        let seq = self.step();
        let delivered = |relay: &Self| relay.nodes.iter().map(|node| node.out.delivered).sum::<u64>();
        let before = delivered(self);
        self.send(publisher, |relay| &mut relay.multicast, &seq);
        assert_eq!(delivered(self) - before, subscribers + 1, "all copies, and the acknowledgement");
    }
}
