//! Registries joined by queues, without shards and sockets: what state costs, and how it spreads, one link after the
//! other. For the measurements of this folder.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        ReactorId, RegistryInput, RegistryOutput, Shared, registry::Registry, settings::Settings,
        signing::NodeSigner,
    },
    wire::{NodeId, Topic, node::PacketType},
};
use bytes::Bytes;
use rand::{RngExt, rngs::SmallRng};

const HOME: ReactorId = ReactorId(0);
/// Header of a node frame, which the registry's messages travel in.
const HEADER_LEN: usize = amop::internal::wire::node::HEADER_LEN_MIN;
/// How often registries say by a digest what they know.
const DIGEST_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Registries {
    pub(super) now: Instant,
    pub(super) ids: Vec<NodeId>,
    #[allow(dead_code)] // not every measurement reads it
    pub(super) shared: Vec<Arc<Shared>>,
    /// Bytes of all links.
    pub(super) bytes: usize,
    registries: Vec<Registry>,
    wire: VecDeque<(usize, usize, PacketType, u32, Bytes)>,
    seq: u32,
}

impl Registries {
    /// So many, none linked with another.
    pub(super) fn new(nodes: usize, random: &mut SmallRng) -> Self {
        let now = Instant::now();
        let keys: Vec<NodeSigner> = (0..nodes)
            .map(|_| NodeSigner::from_secret_bytes(&random.random()).expect("a valid key"))
            .collect();
        let settings = Settings { records_bytes_max: 1 << 40, ..Settings::default() };
        let shared: Vec<Arc<Shared>> =
            keys.iter().map(|key| Arc::new(Shared::new(key.id(), 1, 1, now, settings.clone()))).collect();
        let registries = shared
            .iter()
            .zip(&keys)
            .map(|(shared, key)| Registry::new(shared.clone(), key.clone()))
            .collect();
        let ids = keys.iter().map(NodeSigner::id).collect();
        Self { now, ids, shared, bytes: 0, registries, wire: VecDeque::new(), seq: 0 }
    }

    #[allow(dead_code)] // not every measurement needs it
    pub(super) fn subscribe(&mut self, node: usize, changes: Vec<(Topic, i32)>) {
        self.registries[node].handle(self.now, RegistryInput::Topics { reactor: HOME, changes });
    }

    /// Both ends have said Hello.
    pub(super) fn link(&mut self, one: usize, other: usize) {
        for (at, peer) in [(one, other), (other, one)] {
            let input = RegistryInput::NodeUp {
                id: self.ids[peer],
                incarnation: 1,
                reactor: HOME,
                address: String::new(),
                agency: String::new(),
                name: String::new(),
            };
            self.registries[at].handle(self.now, input);
        }
    }

    /// A node notices that its link to another one is gone for good. What is on the way is lost.
    #[allow(dead_code)] // not every measurement needs it
    pub(super) fn lose(&mut self, at: usize, peer: usize) {
        let id = self.ids[peer];
        self.registries[at].handle(self.now, RegistryInput::LinkLost { id, incarnation: 1 });
        self.registries[at].handle(self.now, RegistryInput::NodeDown { id, incarnation: 1 });
        self.wire.retain(|(from, to, ..)| (*from, *to) != (at, peer) && (*from, *to) != (peer, at));
    }

    /// Publishes everywhere and takes what is to be sent.
    fn collect(&mut self) {
        for (from, registry) in self.registries.iter_mut().enumerate() {
            registry.publish(self.now);
            while let Some((_, output)) = registry.poll_output() {
                if let RegistryOutput::ToNode { to, packet_type, seq, payload } = output
                    && let Some(to) = self.ids.iter().position(|id| *id == to)
                {
                    self.seq += 1;
                    self.bytes += HEADER_LEN + payload.len();
                    self.wire.push_back((from, to, packet_type, seq.unwrap_or(self.seq), payload));
                }
            }
        }
    }

    /// Publishes what has changed; `false` if nothing is under way.
    pub(super) fn begin(&mut self) -> bool {
        self.collect();
        !self.wire.is_empty()
    }

    /// Everything that is under way takes its link. `false` if nothing is under way then.
    pub(super) fn step(&mut self) -> bool {
        for _ in 0..self.wire.len() {
            let Some((from, to, packet_type, seq, payload)) = self.wire.pop_front() else { break };
            let input = RegistryInput::State { from: self.ids[from], packet_type, seq, payload };
            self.registries[to].handle(self.now, input);
        }
        self.begin()
    }

    /// Delivers until nothing is under way; gives after how many links one behind the other that was.
    pub(super) fn settle(&mut self) -> usize {
        let mut links = 0;
        let mut is_moving = self.begin();
        while is_moving {
            is_moving = self.step();
            links += 1;
        }
        links
    }

    /// Until all know all: announcements beyond an origin's rate limit are fetched after the next digest.
    pub(super) fn rest(&mut self) {
        for _ in 0..3 {
            self.settle();
            self.now += DIGEST_INTERVAL;
            let now = self.now;
            self.registries.iter_mut().for_each(|registry| registry.handle_timeout(now));
        }
        self.settle();
    }
}
