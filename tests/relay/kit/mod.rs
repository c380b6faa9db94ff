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
//!
//! | file | holds |
//! |---|---|
//! | `node` | nodes: start, end, and what is asked of them beside messages |
//! | `io` | what a shard sees of its engine |
//! | `links` | how links come up and end, and how fast they take what is sent |
//! | `recount` | what nodes count by hand, counted anew |
//! | `ledger` | ledger nodes, to which nodes connect for their applications |
//! | `two_x` | the messages of ledger nodes, as FISCO BCOS 2.x has them |
//! | `peer_2x` | nodes of FISCO BCOS 2.x, with their faults |
//! | `private_2x` | private topics at these |
//! | `dialect_3x` | applications of FISCO BCOS 3.x |
//! | `apps` | what applications send, how they treat what comes, what they have |

mod apps;
mod dialect_3x;
mod io;
mod ledger;
mod links;
mod node;
mod peer_2x;
mod private_2x;
mod recount;
mod two_x;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        Class, CloseReason, LedgerDial, LinkKey, MeshMessage, ReactorId, RegistryInput, RegistryOutput,
        settings::Settings, shard::Shard,
    },
    wire::{FrameRef, frame::HEAD_LEN_MAX, sdk::Seq},
};
pub use apps::{Application, Behaviour, Received};
use io::Effect;
pub use io::Io;
pub use ledger::{ConnectionIndex, LedgerIndex, VirtualChain};
pub use node::VirtualNode;
use peer_2x::PeerLink;
pub use peer_2x::{PeerBehaviour, PeerIndex, PeerReceived, VirtualPeer};
pub use private_2x::{Flag, PrivateRole, PrivateSession};
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
    /// The link to another node has taken a frame.
    Left { from: NodeIndex, bytes: Vec<u8> },
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

/// Where the frames of a link's end come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    App(AppIndex),
    Ledger(ConnectionIndex),
    Peer2x(peer_2x::PeerLinkIndex),
    Node { node: NodeIndex, incarnation: u64, reactor: ReactorId, key: LinkKey },
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
    /// A slow link has written its frame.
    Written {
        from: (NodeIndex, u64, ReactorId, LinkKey),
    },
    /// A part of a frame has come.
    Activity {
        to: End,
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
    LedgerDialled {
        node: NodeIndex,
        incarnation: u64,
        reactor: ReactorId,
        dial: LedgerDial,
    },
    PeerBeats {
        link: peer_2x::PeerLinkIndex,
    },
    PeerSent {
        link: peer_2x::PeerLinkIndex,
        bytes: Vec<u8>,
    },
    PeerReads {
        link: peer_2x::PeerLinkIndex,
    },
    PeerHandles {
        peer: PeerIndex,
        link: Option<peer_2x::PeerLinkIndex>,
        bytes: Vec<u8>,
    },
    PeerAnswers {
        link: peer_2x::PeerLinkIndex,
        bytes: Vec<u8>,
    },
    PeerTries {
        peer: PeerIndex,
        number: u32,
    },
    PeerRedials {
        peer: PeerIndex,
        node: NodeIndex,
    },
    LedgerAnswers {
        ledger: LedgerIndex,
        seq: Seq,
        answer: Vec<u8>,
    },
    BetweenLedgers(two_x::Between),
}

pub type Tamper = Box<dyn FnMut(NodeIndex, NodeIndex, &mut Vec<u8>)>;

pub struct Network {
    pub now: Instant,
    pub apps: Vec<Application>,
    pub nodes: Vec<VirtualNode>,
    pub chain: VirtualChain,
    pub peers_2x: Vec<VirtualPeer>,
    /// All links that they have had.
    pub peer_links: Vec<PeerLink>,
    pub timing: Timing,
    /// Set to an empty list to have what happens noted.
    pub seen: Option<Vec<Seen>>,
    /// Whether all is counted anew when it is dropped; not so where who has it does.
    pub recounts_at_end: bool,
    /// Sees, and may change, every frame from node to node as it leaves.
    pub tamper: Option<Tamper>,
    rng: SmallRng,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    pending: BTreeMap<u64, Event>,
    sequence: u64,
    incarnations: u64,
    starts: u64,
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
    local_arrivals: BTreeMap<Direction, Instant>,
    /// Bytes a second that a node takes from another one, where it is slow.
    link_rates: BTreeMap<(NodeIndex, NodeIndex), u64>,
    /// The next place of messages that one node sends another one over their link.
    next_places: BTreeMap<(NodeIndex, NodeIndex), u64>,
    /// Messages that one node seemed to send another one over their link.
    forged: BTreeMap<(NodeIndex, NodeIndex), u64>,
}

/// A queue inside a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
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
            chain: VirtualChain::default(),
            peers_2x: Vec::new(),
            peer_links: Vec::new(),
            timing: Timing::default(),
            seen: None,
            recounts_at_end: true,
            tamper: None,
            rng: SmallRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            sequence: 0,
            incarnations: FIRST_INCARNATION,
            starts: 0,
            lost_incarnations: FIRST_INCARNATION,
            app_latency: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            held: BTreeSet::new(),
            local_arrivals: BTreeMap::new(),
            link_rates: BTreeMap::new(),
            next_places: BTreeMap::new(),
            forged: BTreeMap::new(),
        }
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
                self.publish_soon(node, self.nodes[node].incarnation);
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
            for event in std::mem::take(&mut self.nodes[node].deferred) {
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
        self.nodes[node].running && self.nodes[node].incarnation == incarnation
    }

    fn handle(&mut self, event: Event) {
        // What reaches a frozen node waits for it.
        let addressee = match &event {
            Event::Frame { to: End::Node { node, .. }, .. }
            | Event::Activity { to: End::Node { node, .. } }
            | Event::Mesh { node, .. }
            | Event::Registry { node, .. }
            | Event::Publish { node, .. }
            | Event::FromRegistry { node, .. }
            | Event::LedgerDialled { node, .. } => Some(*node),
            Event::AppSends { app, .. } => Some(self.apps[*app].node),
            Event::PeerSent { link, .. } => Some(self.peer_links[*link].node),
            Event::LinkDown { end: End::Node { node, .. }, .. } => Some(*node),
            _ => None,
        };
        if let Some(node) = addressee.filter(|&node| self.nodes[node].frozen) {
            self.held.insert(node);
            return self.nodes[node].deferred.push_back(event);
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
            Event::Activity { to } => {
                if let End::Node { node, incarnation, reactor, key } = to
                    && self.is_current(node, incarnation)
                    && self.nodes[node].io[usize::from(reactor.0)].link(key).is_some()
                {
                    self.drive(node, reactor, |shard, now, _| shard.handle_activity(now, key));
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
            Event::LedgerDialled { node, incarnation, reactor, dial } => {
                if self.is_current(node, incarnation) {
                    self.end_ledger_dial(node, reactor, dial);
                }
            }
            Event::PeerBeats { link } => self.beat(link),
            Event::PeerSent { link, bytes } => self.take_from_peer(link, bytes),
            Event::PeerReads { link } => self.read_peer(link),
            Event::PeerHandles { peer, link, bytes } => self.peer_handles(peer, link, &bytes),
            Event::PeerAnswers { link, bytes } => self.peer_says(link, bytes),
            Event::PeerTries { peer, number } => self.peer_tries(peer, number),
            Event::PeerRedials { peer, node } => self.redial(peer, node),
            Event::LedgerAnswers { ledger, seq, answer } => self.ledger_answers(ledger, &seq, &answer),
            Event::BetweenLedgers(between) => self.between_ledgers(between),
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

    fn deliver(&mut self, to: End, mut bytes: Vec<u8>) {
        match to {
            End::App(app) => self.deliver_to_app(app, &bytes),
            End::Ledger(connection) => self.deliver_to_ledger(connection, &bytes),
            End::Peer2x(link) => self.deliver_to_peer(link, &bytes),
            End::Node { node, incarnation, reactor, key } if self.is_of_ledger(to) => {
                if self.is_current(node, incarnation)
                    && let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key)
                {
                    link.unread.push_back(bytes);
                    self.read_ledger(node, reactor, key);
                }
            }
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
        let incarnation = virtual_node.incarnation;
        virtual_node.io[index].now = Some(now);
        handle(&mut virtual_node.shards[index], now, &mut virtual_node.io[index]);
        let effects: VecDeque<Effect> = virtual_node.io[index].effects.drain(..).collect();
        self.look_at_timer(node, reactor.0);
        // As in the engine, room is told of, and what was put off is read, once all that came of this is on its way.
        let (mut has_written, mut resumed, mut dirty) = (false, Vec::new(), BTreeMap::new());
        for effect in effects {
            match effect {
                Effect::Resume { link } => resumed.push(link),
                Effect::DialLedger(dial) => self.begin_ledger_dial(node, reactor, dial),
                Effect::Frame { link, class, bytes } => {
                    let to = self.nodes[node].io[index].link(link).map(|link| link.other);
                    if let Some(End::Node { .. }) = to {
                        self.send_to_node((node, reactor, link), class, bytes);
                        dirty.insert(link.index, link);
                        continue;
                    }
                    let latency = self.link_latency();
                    let Some(io_link) = self.nodes[node].io[index].link(link) else { continue };
                    let to = io_link.other;
                    let at = (now + latency).max(io_link.last_arrival);
                    let at = io_link.stalled_until.map_or(at, |until| at.max(until));
                    io_link.last_arrival = at;
                    let cut = io_link.cut;
                    if let (End::Peer2x(_), Some(io_link)) = (to, self.nodes[node].io[index].link(link)) {
                        io_link.unsent_bytes[io::queue_of(class)] -= bytes.len();
                    }
                    if let End::App(app) = to
                        && self.seen.is_some()
                        && let Some(bytes) = self.apps[app].hear(&bytes)
                    {
                        self.note(|| Seen::Emitted { app, bytes });
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
                    self.schedule_at(at, Event::Frame { to, class, bytes, from });
                }
                Effect::Mesh { to, message, frame } => {
                    let event = Event::Mesh { node, incarnation, from: reactor, to, message, frame };
                    self.schedule_local(Direction::Mesh(node, reactor, to), event);
                }
                Effect::Registry(input) => {
                    let event = Event::Registry { node, incarnation, input };
                    self.schedule_local(Direction::ToRegistry(node, reactor), event);
                }
                Effect::Close { link, reason } => {
                    if dirty.remove(&link.index).is_some() {
                        self.flush((node, reactor, link));
                    }
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
        for (_, link) in dirty {
            self.flush((node, reactor, link));
            has_written = true;
        }
        if has_written {
            self.tell_room(node, reactor);
        }
        for link in resumed {
            let other = self.nodes[node].io[index].link(link).map(|link| link.other);
            match other {
                Some(End::App(app)) => self.read(app, (node, reactor, link)),
                Some(End::Ledger(_)) => self.read_ledger(node, reactor, link),
                _ => {}
            }
        }
    }

    /// Whether an end of a node is that of a connection to a ledger node.
    fn is_of_ledger(&mut self, end: End) -> bool {
        let End::Node { node, reactor, key, .. } = end else { return false };
        let link = self.nodes[node].io[usize::from(reactor.0)].link(key);
        link.is_some_and(|link| matches!(link.other, End::Ledger(_)))
    }

    fn collect_registry(&mut self, node: NodeIndex) {
        let incarnation = self.nodes[node].incarnation;
        while let Some((reactor, output)) = self.nodes[node].registry.poll_output() {
            let event = Event::FromRegistry { node, incarnation, reactor, output };
            self.schedule_local(Direction::FromRegistry(node, reactor), event);
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

    fn schedule_local(&mut self, direction: Direction, event: Event) {
        let latency = self.draw_latency(self.timing.local.clone());
        let arrival = self.local_arrivals.entry(direction).or_insert(self.now);
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
