//! A network in memory: nodes made of the real shards and registries, applications that follow a
//! script, links with latency, one virtual clock, one seed.
//!
//! ```text
//!   Application ── link ── shard ─ mesh ─ shard ── link ── shard …      every arrow is an event in a
//!                            └── registry ──┘                           queue ordered by virtual time
//! ```
//!
//! Nothing here decides anything about messages: that is the code under test. The kit delivers what
//! shards send, later, and in order on each link.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};

use amop::{
    relay::{
        Class, CloseReason, LinkKey, LinkProgress, LinkUp, MeshMessage, Outbound, Queued, ReactorId,
        RegistryInput, RegistryOutput, SendError, Shared,
        admission::Admission,
        bandwidth::Limiter,
        counters::Counters,
        home_reactor,
        ping::{self, Pinged},
        registry::{AnnounceError, Announced, Registry, RegistryCounters},
        report::{AnnouncementReport, NetworkReport, PeerReport},
        session_queue::{QueuePool, SessionQueue},
        settings::Settings,
        shard::{Shard, Usage},
        signing::NodeSigner,
        trace::{Known, Told},
    },
    wire::{
        FrameRef, NodeId, ResultCode,
        frame::HEAD_LEN_MAX,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// One way over a link between machines.
pub const LINK_LATENCY: Duration = Duration::from_millis(1);
/// From reactor to reactor, and between reactors and registry.
const LOCAL_LATENCY: Duration = Duration::from_micros(50);
/// How long a registry gathers changes.
const GATHER: Duration = Duration::from_millis(1);

pub type NodeIndex = usize;
pub type AppIndex = usize;

/// How long things take on their way. What goes the same way never overtakes.
#[derive(Clone, Debug)]
pub struct Timing {
    /// One way over a link between machines, drawn for each frame.
    pub link: RangeInclusive<Duration>,
    /// From reactor to reactor, and between reactors and registry.
    pub local: RangeInclusive<Duration>,
    /// The same as `link` for what goes from one node to another, where it differs.
    pub between: BTreeMap<(NodeIndex, NodeIndex), RangeInclusive<Duration>>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            link: LINK_LATENCY..=LINK_LATENCY,
            local: LOCAL_LATENCY..=LOCAL_LATENCY,
            between: BTreeMap::new(),
        }
    }
}

/// What a watcher of the network sees, in the order in which it happens.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A node has a frame of an application in its hands.
    Taken { app: AppIndex, bytes: Vec<u8> },
    /// A node has queued a frame for an application.
    Emitted { app: AppIndex, bytes: Vec<u8> },
    /// An application has a frame.
    Delivered { app: AppIndex, bytes: Vec<u8> },
    /// A frame has crossed from node to node.
    Crossed { from: NodeIndex, to: NodeIndex, bytes: Vec<u8> },
    /// An application's connection is gone.
    AppClosed { app: AppIndex },
    /// A node has ended a session, which its application may not know yet.
    SessionEnded { app: AppIndex },
    /// A link between nodes is gone, as the first of them sees it.
    LinkClosed { node: NodeIndex, other: NodeIndex, reason: CloseReason },
}

/// How the clock of a node stands when it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Later than at its last start.
    Right,
    /// Earlier: the new incarnation is below all others.
    Lost,
    /// Far ahead: the new incarnation is above those of all right clocks.
    Ahead,
    /// The same as at its last start, as on a machine that was restored.
    Same,
}

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
    link: (ReactorId, LinkKey),
    /// The life of the node that it is connected to.
    incarnation: u64,
    topics: Vec<String>,
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

/// Where the frames of a link's end come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    App(AppIndex),
    Node { node: NodeIndex, incarnation: u64, reactor: ReactorId, key: LinkKey },
}

struct IoLink {
    key: LinkKey,
    other: End,
    sdk: bool,
    open: bool,
    /// What waits for an application, or is on its way to it.
    queue: SessionQueue,
    /// What a slow application's link still has to write: replies, then the others. The first of them is under way.
    waiting: [VecDeque<(Class, Vec<u8>)>; 2],
    /// Bytes a second that the application takes; `None` is as fast as they come.
    rate: Option<u64>,
    is_writing: Option<usize>,
    /// Bytes that were queued since it came up, and those of them that the application has taken.
    queued_in_all: u64,
    taken: u64,
    last_taken: Instant,
    watches_taken: bool,
    /// For how many bytes the relay asks for room.
    room_wanted: Option<usize>,
    relay_pauses: bool,
    /// What the application has sent, and the node does not read yet.
    unread: VecDeque<Vec<u8>>,
    /// The application is in the middle of a long frame.
    is_sending_long: bool,
    /// Frames vanish, as on a cable that was cut.
    cut: bool,
    /// Frames wait on the way until then.
    stalled_until: Option<Instant>,
    last_arrival: Instant,
}

/// The engine of one reactor, as far as a shard can tell.
#[derive(Default)]
pub struct Io {
    links: Vec<Option<IoLink>>,
    generations: Vec<u32>,
    effects: Vec<Effect>,
    queue_bytes_max: usize,
    /// Bytes of data that nodes' links took.
    left_bytes: u64,
    /// What all queues of the reactor may take.
    pool: Option<QueuePool>,
    now: Option<Instant>,
    /// What neighbours told of messages.
    told: Vec<Told>,
    /// What became of pings.
    pinged: Vec<Pinged>,
}

enum Effect {
    Frame { link: LinkKey, class: Class, bytes: Vec<u8> },
    Resume { link: LinkKey },
    Mesh { to: ReactorId, message: MeshMessage, frame: Vec<u8> },
    Registry(RegistryInput),
    Close { link: LinkKey, reason: CloseReason },
}

impl Io {
    fn link(&mut self, key: LinkKey) -> Option<&mut IoLink> {
        self.links.get_mut(key.index as usize)?.as_mut().filter(|link| link.key == key)
    }

    fn insert(&mut self, now: Instant, sdk: bool, other: End) -> LinkKey {
        let index = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        if index == self.links.len() {
            self.links.push(None);
            self.generations.push(0);
        }
        self.generations[index] += 1;
        let key = LinkKey { index: index as u32, generation: self.generations[index] };
        self.links[index] = Some(IoLink {
            key,
            other,
            sdk,
            open: true,
            queue: SessionQueue::default(),
            waiting: Default::default(),
            rate: None,
            is_writing: None,
            queued_in_all: 0,
            taken: 0,
            last_taken: now,
            watches_taken: false,
            room_wanted: None,
            relay_pauses: false,
            unread: VecDeque::new(),
            is_sending_long: false,
            cut: false,
            stalled_until: None,
            last_arrival: now,
        });
        key
    }
}

impl IoLink {
    /// What is left of the frame that is being written.
    fn begun(&self) -> usize {
        match self.is_writing {
            Some(1) => self.waiting[1].front().map_or(0, |(_, bytes)| bytes.len()),
            _ => 0,
        }
    }

    fn is_read_paused(&mut self, queue_bytes_max: usize, pool: QueuePool) -> bool {
        self.sdk && (self.queue.is_read_paused(queue_bytes_max, pool) || self.relay_pauses)
    }
}

impl Io {
    fn pool(&self) -> QueuePool {
        self.pool.unwrap_or(QueuePool { bytes: 0, bytes_max: usize::MAX })
    }

    /// A link's application has taken a frame.
    fn note_taken(&mut self, now: Instant, key: LinkKey, class: Class, len: usize) {
        if let Some(link) = self.link(key)
            && link.sdk
        {
            link.queue.remove(class, len);
            link.taken += len as u64;
            link.last_taken = now;
            if let Some(pool) = &mut self.pool {
                pool.bytes -= len;
            }
        }
    }
}

impl Outbound for Io {
    fn send(
        &mut self,
        key: LinkKey,
        class: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        let (bound, pool) = (self.queue_bytes_max, self.pool());
        let link = self.link(key).filter(|link| link.open).ok_or(SendError::Gone)?;
        let len = head.len() + body.len();
        let mut queued = Queued::default();
        if link.sdk {
            let begun = link.begun();
            link.queue.admit(class, len, begun, 0, bound, pool).map_err(|_| SendError::Full)?;
            link.queue.add(class, len);
            link.queued_in_all += len as u64;
            queued = Queued { end: link.queued_in_all, is_behind: link.rate.is_some() };
        }
        let is_data = !link.sdk && class == Class::Data;
        let (is_sdk, left_bytes) = (link.sdk, if is_data { len as u64 } else { 0 });
        if let Some(pool) = &mut self.pool
            && is_sdk
        {
            pool.bytes += len;
        }
        self.left_bytes += left_bytes;
        let bytes: Vec<u8> = std::iter::once(head).chain(body.pieces()).flatten().copied().collect();
        self.effects.push(Effect::Frame { link: key, class, bytes });
        Ok(queued)
    }

    fn progress(&mut self, key: LinkKey) -> Option<LinkProgress> {
        let (now, bound, pool) = (self.now?, self.queue_bytes_max, self.pool());
        let link = self.link(key)?;
        // As fast as they come, or not at all: then the kernels between hold what was sent.
        let (taken, last_taken) = match link.rate {
            Some(_) => (link.taken, if link.is_writing.is_some() { now } else { link.last_taken }),
            None => (link.queued_in_all, link.last_taken),
        };
        let (is_receiving_long, is_read_paused) = (link.is_sending_long, link.is_read_paused(bound, pool));
        Some(LinkProgress { taken, last_taken, is_receiving_long, is_read_paused })
    }

    fn watch_taken(&mut self, key: LinkKey) {
        if let Some(link) = self.link(key) {
            link.watches_taken = true;
        }
    }

    fn watch_room(&mut self, key: LinkKey, len: usize) {
        if let Some(link) = self.link(key) {
            link.room_wanted = Some(len);
        }
    }

    fn pause_reading(&mut self, key: LinkKey, pause: bool) {
        if let Some(link) = self.link(key) {
            link.relay_pauses = pause;
            self.effects.push(Effect::Resume { link: key });
        }
    }

    fn to_reactor(&mut self, to: ReactorId, message: MeshMessage, frame: FrameRef<'_>) {
        let frame = frame.pieces().flatten().copied().collect();
        self.effects.push(Effect::Mesh { to, message, frame });
    }

    fn to_registry(&mut self, input: RegistryInput) -> bool {
        self.effects.push(Effect::Registry(input));
        true
    }

    fn told(&mut self, told: Told) {
        self.told.push(told);
    }

    fn pinged(&mut self, pinged: Pinged) {
        self.pinged.push(pinged);
    }

    fn share_records(&mut self, _: LinkKey) {}

    fn close(&mut self, key: LinkKey, reason: CloseReason) {
        if let Some(link) = self.link(key).filter(|link| link.open) {
            link.open = false;
            self.effects.push(Effect::Close { link: key, reason });
        }
    }

    fn abort(&mut self, key: LinkKey, reason: CloseReason) {
        self.close(key, reason);
    }
}

pub struct VirtualNode {
    pub id: NodeId,
    pub shared: Arc<Shared>,
    /// Frozen nodes do nothing until they are thawed.
    pub frozen: bool,
    pub running: bool,
    /// Tells its starts apart, whatever its clock says.
    life: u64,
    /// What its clock said when it started.
    started_as: u64,
    /// What came while it was frozen.
    parked: VecDeque<Event>,
    keys: NodeSigner,
    shards: Vec<Shard>,
    io: Vec<Io>,
    registry: Registry,
    publish_due: bool,
}

impl VirtualNode {
    /// What a shard has counted wrongly.
    pub fn miscount(&self) -> Option<String> {
        self.shards.iter().find_map(Shard::miscount)
    }

    /// How full the tables of its shards are.
    pub fn usage(&self) -> impl Iterator<Item = Usage> {
        self.shards.iter().map(Shard::usage)
    }

    /// Bytes of data that have left on its links to other nodes in this life.
    pub fn left_bytes(&self) -> u64 {
        self.io.iter().map(|io| io.left_bytes).sum()
    }

    /// The last and the smoothed round-trip time of each of its links to another node.
    pub fn round_trips(&self, other: &NodeId) -> Vec<Option<(Duration, Duration)>> {
        let links = self.shards.iter().flat_map(|shard| shard.report_links(0, u32::MAX).0);
        links
            .filter_map(|link| match link.peer {
                PeerReport::Node { id, round_trip, .. } if id == *other => {
                    Some(round_trip.map(|known| (known.last, known.smoothed)))
                }
                _ => None,
            })
            .collect()
    }

    /// The neighbours whose state it has.
    pub fn settled(&self) -> &BTreeSet<NodeId> {
        self.registry.settled()
    }

    /// What it knows of the network.
    pub fn network(&self) -> NetworkReport {
        self.registry.report_network()
    }

    /// The figures of its registry.
    pub fn registry_counters(&self) -> Arc<RegistryCounters> {
        self.registry.counters()
    }

    /// What it shows of announcements, the latest first.
    pub fn announcements(&self) -> Vec<AnnouncementReport> {
        self.registry.report_announcements()
    }

    /// Signs in its name.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; 64] {
        self.keys.sign(digest)
    }

    fn deadline(&self, part: Part) -> Option<Instant> {
        let shard = self.shards.get(usize::from(part));
        if part == REGISTRY { self.registry.poll_timeout() } else { shard?.poll_timeout() }
    }

    pub fn total(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.shared.counters.iter().map(|counters| counter(counters)).sum()
    }
}

/// A reactor of a node by its number, or the registry.
type Part = u16;
const REGISTRY: Part = Part::MAX;

#[derive(Debug)]
enum Event {
    Frame {
        to: End,
        class: Class,
        bytes: Vec<u8>,
        from: Option<(NodeIndex, u64, ReactorId, LinkKey)>,
    },
    /// A slow application's link has written its frame.
    Written {
        from: (NodeIndex, u64, ReactorId, LinkKey),
    },
    LinkDown {
        end: End,
        reason: CloseReason,
    },
    Mesh {
        node: NodeIndex,
        incarnation: u64,
        from: ReactorId,
        to: ReactorId,
        message: MeshMessage,
        frame: Vec<u8>,
    },
    Registry {
        node: NodeIndex,
        incarnation: u64,
        input: RegistryInput,
    },
    Publish {
        node: NodeIndex,
        incarnation: u64,
    },
    FromRegistry {
        node: NodeIndex,
        incarnation: u64,
        reactor: ReactorId,
        output: RegistryOutput,
    },
    AppSends {
        app: AppIndex,
        bytes: Vec<u8>,
    },
}

pub type Tamper = Box<dyn FnMut(NodeIndex, NodeIndex, &mut Vec<u8>)>;

pub struct Network {
    pub now: Instant,
    pub apps: Vec<Application>,
    pub nodes: Vec<VirtualNode>,
    pub timing: Timing,
    /// Set to an empty list to have what happens noted.
    pub seen: Option<Vec<Seen>>,
    /// Sees, and may change, every frame from node to node as it leaves.
    pub tamper: Option<Tamper>,
    rng: SmallRng,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    pending: BTreeMap<u64, Event>,
    sequence: u64,
    incarnations: u64,
    lives: u64,
    /// Incarnations of clocks that were lost; counts down.
    lost_incarnations: u64,
    app_latency: BTreeMap<AppIndex, Instant>,
    /// When each part of each node is to be woken, as it said last …
    timers: BTreeSet<(Instant, NodeIndex, Part)>,
    /// … and where to find that.
    timer_of: BTreeMap<(NodeIndex, Part), Instant>,
    /// Nodes that were frozen when something came for them, or was due.
    held: BTreeSet<NodeIndex>,
    /// When what goes from one part of a node to another arrives at the earliest.
    local_arrivals: BTreeMap<Way, Instant>,
}

/// A queue inside a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Mesh(NodeIndex, ReactorId, ReactorId),
    ToRegistry(NodeIndex, ReactorId),
    FromRegistry(NodeIndex, ReactorId),
}

/// Above all incarnations of lost clocks.
const FIRST_INCARNATION: u64 = 1 << 40;
/// A second between two starts, at least.
const INCARNATION_STEP: u64 = 1 << 20;

/// The edges of a line.
pub fn line(nodes: usize) -> Vec<(NodeIndex, NodeIndex)> {
    (1..nodes).map(|node| (node - 1, node)).collect()
}

/// The edges of a ring.
pub fn ring(nodes: usize) -> Vec<(NodeIndex, NodeIndex)> {
    (0..nodes).map(|node| (node, (node + 1) % nodes)).collect()
}

impl Network {
    /// `nodes` nodes of `reactors` reactors each, every one linked to every other.
    pub fn mesh(seed: u64, nodes: usize, reactors: u16) -> Self {
        let mut network = Self::new(seed);
        for _ in 0..nodes {
            network.add_node(reactors, Settings::default());
        }
        for a in 0..nodes {
            for b in 0..a {
                network.connect(a, b);
            }
        }
        network.run_for(Duration::from_millis(100));
        network
    }

    /// Nodes with links between some of them, after a second.
    pub fn of_edges(seed: u64, nodes: usize, reactors: u16, edges: &[(NodeIndex, NodeIndex)]) -> Self {
        let mut net = Self::new(seed);
        for _ in 0..nodes {
            net.add_node(reactors, Settings::default());
        }
        edges.iter().for_each(|&(one, other)| net.connect(one, other));
        net.run_for(Duration::from_secs(1));
        net
    }

    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            apps: Vec::new(),
            nodes: Vec::new(),
            timing: Timing::default(),
            seen: None,
            tamper: None,
            rng: SmallRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            sequence: 0,
            incarnations: FIRST_INCARNATION,
            lives: 0,
            lost_incarnations: FIRST_INCARNATION,
            app_latency: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            held: BTreeSet::new(),
            local_arrivals: BTreeMap::new(),
        }
    }

    pub fn add_node(&mut self, reactors: u16, settings: Settings) -> NodeIndex {
        self.add_limited_node(reactors, settings, Limiter::unlimited())
    }

    pub fn add_limited_node(&mut self, reactors: u16, settings: Settings, limiter: Limiter) -> NodeIndex {
        let keys =
            NodeSigner::from_secret_bytes(&self.rng.random::<[u8; 32]>()).expect("a random key is valid");
        let node = self.build_node(keys, reactors, settings, limiter, Clock::Right, 0);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn build_node(
        &mut self,
        keys: NodeSigner,
        reactors: u16,
        settings: Settings,
        limiter: Limiter,
        clock: Clock,
        before: u64,
    ) -> VirtualNode {
        let incarnation = match clock {
            Clock::Right => {
                self.incarnations += INCARNATION_STEP;
                self.incarnations
            }
            Clock::Lost => {
                self.lost_incarnations -= INCARNATION_STEP;
                self.lost_incarnations
            }
            Clock::Ahead => {
                self.incarnations += INCARNATION_STEP;
                self.incarnations + FIRST_INCARNATION
            }
            Clock::Same => before,
        };
        let queue_bytes_max = settings.session_queue_bytes_max;
        let shared = Arc::new(Shared {
            signer: Some(keys.clone()),
            own_agency: "agency".to_owned(),
            own_name: "node".to_owned(),
            limiter,
            next_message: AtomicU32::new(self.rng.random()),
            salt: *blake3::hash(&self.lives.to_be_bytes()).as_bytes().first_chunk().expect("16 of 32 bytes"),
            ..Shared::new(keys.id(), incarnation, reactors, self.now, settings)
        });
        self.lives += 1;
        VirtualNode {
            id: shared.id,
            frozen: false,
            running: true,
            life: self.lives,
            started_as: incarnation,
            parked: VecDeque::new(),
            shards: (0..reactors)
                .map(|id| {
                    let seed = blake3::hash(&self.rng.random::<u64>().to_be_bytes());
                    Shard::new(shared.clone(), ReactorId(id), *seed.as_bytes(), self.now)
                })
                .collect(),
            io: (0..reactors).map(|_| Io { queue_bytes_max, ..Io::default() }).collect(),
            registry: Registry::new(shared.clone(), keys.clone()),
            keys,
            publish_due: false,
            shared,
        }
    }

    /// Stops a node without a word and starts it again with the same key. Its links break; applications
    /// that were connected to it are closed.
    pub fn restart(&mut self, node: NodeIndex, downtime: Duration) {
        self.kill(node);
        self.run_for(downtime);
        self.revive(node, Clock::Right);
    }

    /// Starts a node that was killed again, with the same key.
    pub fn revive(&mut self, node: NodeIndex, clock: Clock) {
        let old = &self.nodes[node];
        let (keys, reactors, settings) = (old.keys.clone(), old.shared.reactors, old.shared.settings.clone());
        let limiter = match old.shared.limiter.units_per_second() {
            Some(rate) => Limiter::new(rate, Duration::from_millis(100)),
            None => Limiter::unlimited(),
        };
        let before = old.started_as;
        let fresh = self.build_node(keys, reactors, settings, limiter, clock, before);
        self.nodes[node] = fresh;
        self.look_at_timers(node);
    }

    /// Stops a node without a word.
    pub fn kill(&mut self, node: NodeIndex) {
        self.nodes[node].running = false;
        self.nodes[node].parked.clear();
        self.look_at_timers(node);
        let others: Vec<End> = self.nodes[node]
            .io
            .iter()
            .flat_map(|io| io.links.iter().flatten())
            .filter(|link| !link.cut)
            .map(|link| link.other)
            .collect();
        for end in others {
            self.schedule(LINK_LATENCY, Event::LinkDown { end, reason: CloseReason::Broken });
        }
    }

    /// Dials `to` from `from`.
    pub fn connect(&mut self, from: NodeIndex, to: NodeIndex) {
        let (from_id, to_id) = (self.nodes[from].id, self.nodes[to].id);
        let here = home_reactor(&to_id, self.nodes[from].shared.reactors);
        let there = home_reactor(&from_id, self.nodes[to].shared.reactors);
        let now = self.now;
        let near = self.nodes[from].io[usize::from(here.0)].insert(now, false, End::App(usize::MAX));
        let end = self.end(from, here, near);
        let far = self.nodes[to].io[usize::from(there.0)].insert(now, false, end);
        let other = self.end(to, there, far);
        self.nodes[from].io[usize::from(here.0)].link(near).expect("just inserted").other = other;
        for (node, reactor, key, peer, dialed) in
            [(from, here, near, to_id, true), (to, there, far, from_id, false)]
        {
            let up = LinkUp::Node {
                id: peer,
                dialed,
                address: format!("127.0.0.1:{}", 30300 + if dialed { to } else { from }),
                agency: "agency".to_owned(),
                name: format!("node{}", if dialed { to } else { from }),
            };
            self.drive(node, reactor, |shard, now, io| shard.handle_link_up(now, key, up, io));
        }
    }

    fn end(&self, node: NodeIndex, reactor: ReactorId, key: LinkKey) -> End {
        End::Node { node, incarnation: self.nodes[node].life, reactor, key }
    }

    /// The links between two nodes, as (reactor, key) at the first of them.
    pub fn links_between(&self, a: NodeIndex, b: NodeIndex) -> Vec<(ReactorId, LinkKey)> {
        let mut links = Vec::new();
        for (reactor, io) in self.nodes[a].io.iter().enumerate() {
            for link in io.links.iter().flatten() {
                if matches!(link.other, End::Node { node, .. } if node == b) {
                    links.push((ReactorId(reactor as u16), link.key));
                }
            }
        }
        links
    }

    /// Gives `to` a frame as if `from` had sent it over each of their links.
    pub fn forge(&mut self, from: NodeIndex, to: NodeIndex, bytes: &[u8]) {
        for (reactor, key) in self.links_between(to, from) {
            let to = self.end(to, reactor, key);
            let class = Class::Data;
            self.schedule(LINK_LATENCY, Event::Frame { to, class, bytes: bytes.to_vec(), from: None });
        }
    }

    /// Breaks all links between two nodes: both ends notice at once.
    pub fn break_links(&mut self, a: NodeIndex, b: NodeIndex) {
        for (x, y) in [(a, b), (b, a)] {
            for (reactor, key) in self.links_between(x, y) {
                let end = self.end(x, reactor, key);
                self.link_down(end, CloseReason::Broken);
            }
        }
    }

    /// A node sees one of its links end.
    pub fn lose_link(&mut self, node: NodeIndex, (reactor, key): (ReactorId, LinkKey), reason: CloseReason) {
        let end = self.end(node, reactor, key);
        self.link_down(end, reason);
    }

    /// Ends all links between two nodes: the first sees the other close them, that one sees them break.
    pub fn close_links_by_peer(&mut self, a: NodeIndex, b: NodeIndex) {
        for (x, y, reason) in [(a, b, CloseReason::ByPeer), (b, a, CloseReason::Broken)] {
            for link in self.links_between(x, y) {
                self.lose_link(x, link, reason);
            }
        }
    }

    /// Gives a node other lists, as a reload of its configuration does: links with whom they leave out are closed.
    pub fn set_admission(&mut self, node: NodeIndex, admission: Admission) {
        let virtual_node = &self.nodes[node];
        virtual_node.shared.admission.store(Arc::new(admission));
        let incarnation = virtual_node.life;
        self.schedule(LOCAL_LATENCY, Event::Registry { node, incarnation, input: RegistryInput::Admission });
        for other in 0..self.nodes.len() {
            let (id, shared) = (self.nodes[other].id, &self.nodes[node].shared);
            if !shared.admits(&id) && !self.links_between(node, other).is_empty() {
                let home = home_reactor(&id, self.nodes[node].shared.reactors);
                self.drive(node, home, |shard, now, io| {
                    shard.close_node(now, &id, CloseReason::NotAdmitted, io);
                });
            }
        }
    }

    /// Cuts the cable: nobody notices, frames vanish.
    pub fn cut_links(&mut self, a: NodeIndex, b: NodeIndex) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// What `from` sends to `to` vanishes; nobody notices.
    pub fn cut_one_way(&mut self, from: NodeIndex, to: NodeIndex) {
        for (reactor, key) in self.links_between(from, to) {
            self.nodes[from].io[usize::from(reactor.0)].link(key).expect("listed").cut = true;
        }
    }

    /// The keys of the links between two nodes are worn out; both ends see it.
    pub fn wear_links(&mut self, a: NodeIndex, b: NodeIndex) {
        for (x, y) in [(a, b), (b, a)] {
            for (reactor, key) in self.links_between(x, y) {
                self.nodes[x].shards[usize::from(reactor.0)].handle_link_worn(key);
                self.look_at_timer(x, reactor.0);
            }
        }
    }

    /// What `from` sends to `to` waits on its way until `until`.
    pub fn stall(&mut self, from: NodeIndex, to: NodeIndex, until: Instant) {
        for (reactor, key) in self.links_between(from, to) {
            let link = self.nodes[from].io[usize::from(reactor.0)].link(key).expect("listed");
            link.stalled_until = Some(until);
        }
    }

    /// What a node itself knows of a message, the newest first of each reactor.
    pub fn known_of(&mut self, node: NodeIndex, seq: &Seq) -> Vec<Known> {
        let now = self.now;
        let known =
            self.nodes[node].shards.iter_mut().flat_map(|shard| shard.known_of(now, seq).known).collect();
        self.look_at_timers(node);
        known
    }

    /// Has `node` ask `other` what it knows of a message, and gives what it is told within `bound`.
    pub fn ask(&mut self, node: NodeIndex, other: NodeIndex, seq: &Seq, bound: Duration) -> Option<Told> {
        let (id, reactors) = (self.nodes[other].id, self.nodes[node].shared.reactors);
        let (home, question) = (home_reactor(&id, reactors), self.rng.random());
        self.drive(node, home, |shard, now, io| shard.ask(now, question, id, seq, io));
        let end = self.now + bound;
        loop {
            let told = &mut self.nodes[node].io[usize::from(home.0)].told;
            if let Some(at) = told.iter().position(|told| told.question == question) {
                return Some(told.swap_remove(at));
            }
            if !self.step(end) {
                return None;
            }
        }
    }

    /// Has `node` send a ping with so many hops left; gives its number.
    pub fn start_ping(&mut self, node: NodeIndex, other: NodeId, hops: u8) -> u64 {
        let number = self.rng.random();
        let home = home_reactor(&other, self.nodes[node].shared.reactors);
        self.drive(node, home, |shard, now, io| shard.ping(now, number, other, hops, io));
        number
    }

    /// What became of a ping of `node`, if it is over.
    pub fn pinged(&self, node: NodeIndex, number: u64) -> Option<Pinged> {
        let all = self.nodes[node].io.iter().flat_map(|io| &io.pinged);
        let of_number: Vec<&Pinged> = all.filter(|pinged| pinged.number == number).collect();
        assert!(of_number.len() <= 1, "a ping ended twice");
        of_number.first().map(|pinged| **pinged)
    }

    /// Sends a ping and runs until it is over.
    pub fn ping(&mut self, node: NodeIndex, other: NodeIndex, hops: u8) -> Pinged {
        let number = self.start_ping(node, self.nodes[other].id, hops);
        let end = self.now + 2 * ping::ANSWER_TIME_MAX;
        loop {
            if let Some(pinged) = self.pinged(node, number) {
                return pinged;
            }
            assert!(self.step(end), "a ping has no end");
        }
    }

    /// Has a node announce a text to all others.
    pub fn announce(&mut self, node: NodeIndex, text: &str) -> Result<Announced, AnnounceError> {
        let now = self.now;
        let announced = self.nodes[node].registry.announce_text(now, text);
        self.collect_registry(node);
        announced
    }

    /// An application connected to `node`, on the reactor of its turn.
    pub fn app(&mut self, node: NodeIndex, behaviour: Behaviour) -> AppIndex {
        let reactor = ReactorId((self.apps.len() % usize::from(self.nodes[node].shared.reactors)) as u16);
        self.app_on(node, reactor, behaviour)
    }

    pub fn app_on(&mut self, node: NodeIndex, reactor: ReactorId, behaviour: Behaviour) -> AppIndex {
        let app = self.apps.len();
        let now = self.now;
        let key = self.nodes[node].io[usize::from(reactor.0)].insert(now, true, End::App(app));
        self.apps.push(Application {
            node,
            behaviour,
            received: Vec::new(),
            closed: false,
            link: (reactor, key),
            incarnation: self.nodes[node].life,
            topics: Vec::new(),
        });
        let up = LinkUp::Sdk { address: format!("127.0.0.1:{app}"), subject: "CN=sdk".to_owned() };
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
        let head = &frame[..sdk::HEADER_LEN];
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

    /// Lets a node finish what is in flight.
    pub fn drain(&mut self, node: NodeIndex) {
        for reactor in 0..self.nodes[node].shared.reactors {
            self.drive(node, ReactorId(reactor), |shard, now, io| shard.handle_drain(now, io));
        }
    }

    pub fn is_drained(&self, node: NodeIndex) -> bool {
        self.nodes[node].shards.iter().all(Shard::is_drained)
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

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Does what is due next, not after `end`. `false` if nothing is.
    pub fn step(&mut self, end: Instant) -> bool {
        self.go_on_where_thawed();
        let event = self.events.peek().map(|Reverse((at, _))| *at);
        let timer = self.next_timer();
        let due = [event, timer.map(|(at, ..)| at)].into_iter().flatten().min();
        let Some(due) = due.filter(|&due| due <= end) else { return false };
        self.now = self.now.max(due);
        if let Some((at, node, part)) = timer
            && at <= due
        {
            if part == REGISTRY {
                let now = self.now;
                self.nodes[node].registry.handle_timeout(now);
                self.publish_soon(node, self.nodes[node].life);
                self.collect_registry(node);
            } else {
                self.drive(node, ReactorId(part), |shard, now, io| shard.handle_timeout(now, io));
            }
            return true;
        }
        let Some(Reverse((_, number))) = self.events.pop() else { return false };
        if let Some(event) = self.pending.remove(&number) {
            self.handle(event);
        }
        true
    }

    /// Takes up what waited for nodes that are frozen no longer.
    fn go_on_where_thawed(&mut self) {
        let thawed: Vec<NodeIndex> =
            self.held.iter().copied().filter(|&node| !self.nodes[node].frozen).collect();
        for node in thawed {
            self.held.remove(&node);
            for event in std::mem::take(&mut self.nodes[node].parked) {
                self.schedule(Duration::ZERO, event);
            }
            self.look_at_timers(node);
        }
    }

    fn next_timer(&mut self) -> Option<(Instant, NodeIndex, Part)> {
        loop {
            let &(at, node, part) = self.timers.first()?;
            if !self.nodes[node].frozen {
                return Some((at, node, part));
            }
            self.held.insert(node);
            self.set_timer(node, part, None);
        }
    }

    fn set_timer(&mut self, node: NodeIndex, part: Part, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.timer_of.insert((node, part), at),
            None => self.timer_of.remove(&(node, part)),
        };
        if before != at {
            before.map(|before| self.timers.remove(&(before, node, part)));
            at.map(|at| self.timers.insert((at, node, part)));
        }
    }

    /// A part of a node has done something: it may want to be woken at another time.
    fn look_at_timer(&mut self, node: NodeIndex, part: Part) {
        let due = self.nodes[node].deadline(part).filter(|_| self.nodes[node].running);
        self.set_timer(node, part, due);
    }

    fn look_at_timers(&mut self, node: NodeIndex) {
        for part in (0..self.nodes[node].shared.reactors).chain([REGISTRY]) {
            self.look_at_timer(node, part);
        }
    }

    fn publish_soon(&mut self, node: NodeIndex, incarnation: u64) {
        if !std::mem::replace(&mut self.nodes[node].publish_due, true) {
            self.schedule(GATHER, Event::Publish { node, incarnation });
        }
    }

    fn is_current(&self, node: NodeIndex, incarnation: u64) -> bool {
        self.nodes[node].running && self.nodes[node].life == incarnation
    }

    fn handle(&mut self, event: Event) {
        // What reaches a frozen node waits for it.
        let addressee = match &event {
            Event::Frame { to: End::Node { node, .. }, .. }
            | Event::Mesh { node, .. }
            | Event::Registry { node, .. }
            | Event::Publish { node, .. }
            | Event::FromRegistry { node, .. } => Some(*node),
            Event::AppSends { app, .. } => Some(self.apps[*app].node),
            Event::LinkDown { end: End::Node { node, .. }, .. } => Some(*node),
            _ => None,
        };
        if let Some(node) = addressee.filter(|&node| self.nodes[node].frozen) {
            self.held.insert(node);
            return self.nodes[node].parked.push_back(event);
        }
        match event {
            Event::Frame { to, class, bytes, from } => {
                if let Some((node, incarnation, reactor, key)) = from
                    && self.is_current(node, incarnation)
                    && !self.is_deaf(to)
                {
                    self.note_taken((node, reactor, key), class, bytes.len());
                }
                if let (Some((from, ..)), End::Node { node: to, incarnation, .. }) = (from, to)
                    && self.is_current(to, incarnation)
                {
                    self.note(|| Seen::Crossed { from, to, bytes: bytes.clone() });
                }
                self.deliver(to, bytes);
            }
            Event::Written { from: (node, incarnation, reactor, key) } => {
                if self.is_current(node, incarnation) {
                    self.written(node, reactor, key);
                }
            }
            Event::LinkDown { end, reason } => self.link_down(end, reason),
            Event::Mesh { node, incarnation, from, to, message, frame } => {
                if self.is_current(node, incarnation) {
                    self.drive(node, to, |shard, now, io| {
                        shard.handle_mesh(now, from, message, FrameRef::Slice(&frame), io);
                    });
                }
            }
            Event::Registry { node, incarnation, input } => {
                if self.is_current(node, incarnation) {
                    let now = self.now;
                    self.nodes[node].registry.handle(now, input);
                    self.publish_soon(node, incarnation);
                    self.collect_registry(node);
                }
            }
            Event::Publish { node, incarnation } => {
                if self.is_current(node, incarnation) {
                    let now = self.now;
                    self.nodes[node].publish_due = false;
                    self.nodes[node].registry.publish(now);
                    self.collect_registry(node);
                }
            }
            Event::FromRegistry { node, incarnation, reactor, output } => {
                if self.is_current(node, incarnation) {
                    self.drive(node, reactor, |shard, now, io| shard.handle_registry(now, output, io));
                }
            }
            Event::AppSends { app, bytes } => {
                let Application { node, incarnation, link: (reactor, key), closed, .. } = self.apps[app];
                if closed || !self.is_current(node, incarnation) {
                    return;
                }
                let io = &mut self.nodes[node].io[usize::from(reactor.0)];
                let Some(link) = io.link(key) else { return };
                link.unread.push_back(bytes);
                self.read(app, (node, reactor, key));
            }
        }
    }

    /// Lets a node take what an application has sent, as far as it reads.
    fn read(&mut self, app: AppIndex, (node, reactor, key): (NodeIndex, ReactorId, LinkKey)) {
        loop {
            let io = &mut self.nodes[node].io[usize::from(reactor.0)];
            let (bound, pool) = (io.queue_bytes_max, io.pool());
            let Some(link) = io.link(key) else { return };
            if link.is_read_paused(bound, pool) {
                return;
            }
            let Some(bytes) = link.unread.pop_front() else { return };
            self.note(|| Seen::Taken { app, bytes: bytes.clone() });
            self.drive(node, reactor, |shard, now, io| {
                shard.handle_activity(now, key);
                shard.handle_frame(now, key, FrameRef::Slice(&bytes), io);
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

    /// Gives the queues of each reactor of a node so much memory in all.
    pub fn set_queues_bytes_max(&mut self, node: NodeIndex, bytes_max: usize) {
        for io in &mut self.nodes[node].io {
            io.pool = Some(QueuePool { bytes: 0, bytes_max });
        }
    }

    /// An application has taken a frame: what the engine tells the relay then.
    fn note_taken(
        &mut self,
        (node, reactor, key): (NodeIndex, ReactorId, LinkKey),
        class: Class,
        len: usize,
    ) {
        let now = self.now;
        let io = &mut self.nodes[node].io[usize::from(reactor.0)];
        io.note_taken(now, key, class, len);
        let Some(link) = io.link(key) else { return };
        let (taken, other) = (link.taken, link.other);
        if std::mem::take(&mut link.watches_taken) {
            self.drive(node, reactor, |shard, now, io| shard.handle_taken(now, key, taken, io));
        }
        self.tell_room(node, reactor);
        if let End::App(app) = other {
            self.read(app, (node, reactor, key));
        }
    }

    fn tell_room(&mut self, node: NodeIndex, reactor: ReactorId) {
        let io = &mut self.nodes[node].io[usize::from(reactor.0)];
        let (bound, pool) = (io.queue_bytes_max, io.pool());
        let has_room = |link: &IoLink| {
            link.room_wanted
                .is_some_and(|len| link.queue.admit(Class::Data, len, link.begun(), 0, bound, pool).is_ok())
        };
        let keys: Vec<LinkKey> =
            io.links.iter().flatten().filter(|link| has_room(link)).map(|link| link.key).collect();
        for key in keys {
            if let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) {
                link.room_wanted = None;
                self.drive(node, reactor, |shard, now, io| shard.handle_room(now, key, io));
            }
        }
    }

    /// Begins to write the next frame to a slow application, if none is being written: replies first.
    fn write(&mut self, node: NodeIndex, reactor: ReactorId, key: LinkKey) {
        let incarnation = self.nodes[node].life;
        let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) else { return };
        let (None, Some(rate)) = (link.is_writing, link.rate) else { return };
        let Some(queue) = link.waiting.iter().position(|queue| !queue.is_empty()) else { return };
        link.is_writing = Some(queue);
        let len = link.waiting[queue][0].1.len();
        let time = Duration::from_secs_f64(len as f64 / rate as f64);
        // What has begun takes no room: there may be more now.
        self.schedule(time, Event::Written { from: (node, incarnation, reactor, key) });
    }

    fn written(&mut self, node: NodeIndex, reactor: ReactorId, key: LinkKey) {
        let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) else { return };
        let Some(queue) = link.is_writing.take() else { return };
        let Some((class, bytes)) = link.waiting[queue].pop_front() else { return };
        let other = link.other;
        self.write(node, reactor, key);
        self.note_taken((node, reactor, key), class, bytes.len());
        if let End::App(app) = other {
            self.schedule(LINK_LATENCY, Event::Frame { to: End::App(app), class, bytes, from: None });
        }
    }

    fn is_deaf(&self, end: End) -> bool {
        matches!(end, End::App(app) if self.apps[app].behaviour == Behaviour::Deaf)
    }

    fn deliver(&mut self, to: End, mut bytes: Vec<u8>) {
        match to {
            End::App(app) => self.deliver_to_app(app, &bytes),
            End::Node { node, incarnation, reactor, key } => {
                if self.is_current(node, incarnation) {
                    // As the engine does it.
                    if bytes.len() > self.nodes[node].shared.settings.node_link_frame_len_max() {
                        bytes.truncate(HEAD_LEN_MAX);
                    }
                    self.drive(node, reactor, |shard, now, io| {
                        shard.handle_activity(now, key);
                        shard.handle_frame(now, key, FrameRef::Slice(&bytes), io);
                    });
                }
            }
        }
    }

    fn deliver_to_app(&mut self, app: AppIndex, bytes: &[u8]) {
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
            application.received.push(Received { at, header, data: bytes[HEADER_LEN..].to_vec() });
        }
        if let Behaviour::Echo(delay) = application.behaviour
            && header.frame_type == FrameType::REQUEST
        {
            let answer = sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, &bytes[HEADER_LEN..]);
            self.schedule(delay + LINK_LATENCY, Event::AppSends { app, bytes: answer });
        }
    }

    fn link_down(&mut self, end: End, reason: CloseReason) {
        match end {
            End::App(app) if app < self.apps.len() => {
                if !std::mem::replace(&mut self.apps[app].closed, true) {
                    self.note(|| Seen::AppClosed { app });
                }
            }
            End::App(_) => {}
            End::Node { node, incarnation, reactor, key } => {
                if !self.is_current(node, incarnation) {
                    return;
                }
                let io = &mut self.nodes[node].io[usize::from(reactor.0)];
                let Some(link) = io.link(key) else { return };
                let other = link.other;
                io.links[key.index as usize] = None;
                match other {
                    End::Node { node: other, .. } => self.note(|| Seen::LinkClosed { node, other, reason }),
                    End::App(app) => self.note(|| Seen::SessionEnded { app }),
                }
                self.drive(node, reactor, |shard, now, io| shard.handle_link_down(now, key, reason, io));
            }
        }
    }

    /// What a node's shards were told of messages and nobody has taken.
    pub fn told(&self, node: NodeIndex) -> Vec<&Told> {
        self.nodes[node].io.iter().flat_map(|io| &io.told).collect()
    }

    /// Lets a shard handle something, and schedules what follows.
    pub fn drive(
        &mut self,
        node: NodeIndex,
        reactor: ReactorId,
        handle: impl FnOnce(&mut Shard, Instant, &mut Io),
    ) {
        let now = self.now;
        let index = usize::from(reactor.0);
        let virtual_node = &mut self.nodes[node];
        let incarnation = virtual_node.life;
        virtual_node.io[index].now = Some(now);
        handle(&mut virtual_node.shards[index], now, &mut virtual_node.io[index]);
        let effects: VecDeque<Effect> = virtual_node.io[index].effects.drain(..).collect();
        self.look_at_timer(node, reactor.0);
        // As in the engine, room is told of, and what was put off is read, once all that came of this is on its way.
        let (mut has_written, mut resumed) = (false, Vec::new());
        for effect in effects {
            match effect {
                Effect::Resume { link } => resumed.push(link),
                Effect::Frame { link, class, bytes } => {
                    let to = self.nodes[node].io[index].link(link).map(|link| link.other);
                    let latency = match to {
                        Some(End::Node { node: to, .. }) => self.latency_between(node, to),
                        _ => self.link_latency(),
                    };
                    let Some(io_link) = self.nodes[node].io[index].link(link) else { continue };
                    let to = io_link.other;
                    let at = (now + latency).max(io_link.last_arrival);
                    let at = io_link.stalled_until.map_or(at, |until| at.max(until));
                    io_link.last_arrival = at;
                    let cut = io_link.cut;
                    if let End::App(app) = to {
                        self.note(|| Seen::Emitted { app, bytes: bytes.clone() });
                    }
                    if cut {
                        continue;
                    }
                    if let Some(io_link) = self.nodes[node].io[index].link(link)
                        && io_link.rate.is_some()
                    {
                        io_link.waiting[usize::from(class != Class::Control)].push_back((class, bytes));
                        self.write(node, reactor, link);
                        has_written = true;
                        continue;
                    }
                    let from = Some((node, incarnation, reactor, link));
                    let mut bytes = bytes;
                    if let (Some(tamper), End::Node { node: other, .. }) = (&mut self.tamper, to) {
                        tamper(node, other, &mut bytes);
                    }
                    self.schedule_at(at, Event::Frame { to, class, bytes, from });
                }
                Effect::Mesh { to, message, frame } => {
                    let event = Event::Mesh { node, incarnation, from: reactor, to, message, frame };
                    self.schedule_local(Way::Mesh(node, reactor, to), event);
                }
                Effect::Registry(input) => {
                    let event = Event::Registry { node, incarnation, input };
                    self.schedule_local(Way::ToRegistry(node, reactor), event);
                }
                Effect::Close { link, reason } => {
                    let Some(io_link) = self.nodes[node].io[index].link(link) else { continue };
                    let (other, at) = (io_link.other, (now + LINK_LATENCY).max(io_link.last_arrival));
                    let cut = io_link.cut;
                    let end = self.end(node, reactor, link);
                    self.schedule(Duration::ZERO, Event::LinkDown { end, reason });
                    if !cut {
                        self.schedule_at(at, Event::LinkDown { end: other, reason: CloseReason::ByPeer });
                    }
                }
            }
        }
        if has_written {
            self.tell_room(node, reactor);
        }
        for link in resumed {
            let other = self.nodes[node].io[index].link(link).map(|link| link.other);
            if let Some(End::App(app)) = other {
                self.read(app, (node, reactor, link));
            }
        }
    }

    fn collect_registry(&mut self, node: NodeIndex) {
        let incarnation = self.nodes[node].life;
        while let Some((reactor, output)) = self.nodes[node].registry.poll_output() {
            let event = Event::FromRegistry { node, incarnation, reactor, output };
            self.schedule_local(Way::FromRegistry(node, reactor), event);
        }
        self.look_at_timer(node, REGISTRY);
    }

    fn link_latency(&mut self) -> Duration {
        self.draw_latency(self.timing.link.clone())
    }

    fn latency_between(&mut self, from: NodeIndex, to: NodeIndex) -> Duration {
        self.draw_latency(self.timing.between.get(&(from, to)).unwrap_or(&self.timing.link).clone())
    }

    fn draw_latency(&mut self, range: RangeInclusive<Duration>) -> Duration {
        let (shortest, longest) = range.into_inner();
        if shortest == longest { shortest } else { self.rng.random_range(shortest..=longest) }
    }

    fn schedule_local(&mut self, way: Way, event: Event) {
        let latency = self.draw_latency(self.timing.local.clone());
        let arrival = self.local_arrivals.entry(way).or_insert(self.now);
        *arrival = (self.now + latency).max(*arrival);
        let at = *arrival;
        self.schedule_at(at, event);
    }

    fn note(&mut self, seen: impl FnOnce() -> Seen) {
        if let Some(list) = &mut self.seen {
            list.push(seen());
        }
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.schedule_at(self.now + delay, event);
    }

    fn schedule_at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence)));
        self.pending.insert(self.sequence, event);
    }
}
