//! What happens in a simulated network: applications that behave well and badly, and everything that can
//! befall nodes and links, all drawn from one seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt::Write,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{bandwidth::Limiter, settings::Settings},
    wire::{
        ResultCode,
        node::{self, PacketType},
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    SEEDS_PER_WIDE,
    crossings::{self, Crossings},
    faults::Mend,
    graph::{Edge, Graph},
    hostile,
    oracle::{Oracle, Rules, Verdict, number, proofs::Tally},
    private::{AUTHORISED_WITHIN, Asked, DATA, Private},
    starts::Starts,
};
use crate::kit::{AppIndex, Behaviour, Network, NodeIndex, Seen, Timing};

pub(super) const TOPICS: [&str; 6] = ["gold", "silver", "copper", "tin", DATA[0], "_block_notify_1"];
/// Topics of subscribers that go on as long as their node does, and answer at once; each has one.
pub(super) const STEADY: [&str; 3] = ["steady-0", "steady-1", "steady-2"];
/// One world in so many has applications of FISCO BCOS 3.x.
const WORLDS_PER_3X: u64 = 3;
/// Nodes of wide networks, by turns.
const WIDE: [usize; 5] = [20, 40, 60, 100, 200];
/// After the faults stop, everything works again within this.
const CONVERGED_WITHIN: Duration = Duration::from_secs(12);
/// How long it is quiet at the end.
const QUIET_SECONDS: u64 = 11;
/// What the parts of a node may take to pass on a change of state.
const STATE_LOCALLY: Duration = Duration::from_millis(5);
/// What publishers have sent that are read no further is read after so long: their requests end one after the other.
const ALL_READ_WITHIN: Duration = Duration::from_secs(600);
/// Longer than any request, and than any session may be silent.
const UNTIL_ALL_IS_OVER: Duration = Duration::from_secs(75);

/// How an application treats what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Character {
    /// Replies soon.
    Good,
    /// Replies soon, and then again.
    Twice,
    /// Replies soon, and to what others were asked, too.
    Liar,
    /// Replies after up to 40 s.
    Late,
    Never,
    /// Does not read.
    Deaf,
}

pub(super) enum Action {
    Publish(AppIndex),
    PlayRole(AppIndex),
    TakePrivateTopics(AppIndex),
    Challenge { sender: AppIndex, publisher: AppIndex, asked: Asked },
    Subscribe(AppIndex),
    Reply { app: AppIndex, frame: Vec<u8> },
    Alive(AppIndex),
    Leave(AppIndex),
    Arrive(NodeIndex),
    ArriveSteady { node: NodeIndex, which: usize },
    Door { from: NodeIndex, to: NodeIndex },
    Fault,
    Flap { link: Edge, until: Instant },
    Mend { fault: usize, how: Mend },
}

/// What kind of network a seed makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Up to 4 nodes, everyone linked to every other.
    Mesh,
    /// 3 to 12 nodes, few of which are linked.
    Sparse,
    /// Up to 200 nodes, few of which are linked, with little traffic.
    Wide,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Mesh, Self::Sparse, Self::Wide];
}

/// What a run came to.
/// The least bound on the length of frames: answers and challenges are below it.
const LEAST_FRAME_LEN_MAX: usize = 600;
/// The longest payload where nodes have different bounds; beyond the room that node frames have anyway.
const LONGEST_FRAME_LEN: usize = 40_000;

#[derive(Default, Debug)]
pub struct Report {
    pub virtual_time: Duration,
    pub messages: usize,
    pub pushes: u64,
    pub faults: usize,
    pub codes: BTreeMap<i32, u64>,
    pub private: Tally,
    pub crossings: crossings::Tally,
    /// Unicasts that another node's application answered while something was wrong.
    pub in_spite: u64,
    /// Pushes between applications of FISCO BCOS 2.x and 3.x.
    pub between_dialects: u64,
}

pub struct World {
    pub(super) kind: Kind,
    pub(super) graph: Graph,
    pub(super) crossings: Crossings,
    pub(super) net: Network,
    pub(super) oracle: Oracle,
    pub(super) rng: SmallRng,
    /// Draws how fast applications read: apart, so that a seed's story stays what it was otherwise.
    speeds: SmallRng,
    /// Draws who is an application of FISCO BCOS 3.x, in the worlds that have them; apart, too.
    dialects: Option<SmallRng>,
    pub(super) private: Private,
    pub(super) starts: Starts,
    /// Whether applications with private topics come.
    has_private_topics: bool,
    start: Instant,
    actions: BinaryHeap<Reverse<(Instant, u64)>>,
    pending: BTreeMap<u64, Action>,
    sequence: u64,
    pub(super) characters: Vec<Character>,
    /// Steady subscribers, and which each is.
    steady: BTreeMap<AppIndex, usize>,
    /// Pairs that cannot connect, with how many faults say so.
    pub(super) blocked: BTreeMap<Edge, u32>,
    /// Nodes that something befalls, so that nothing else does.
    pub(super) troubled: BTreeSet<NodeIndex>,
    /// Seqs of unicasts that were pushed lately, for liars and for reuse.
    lately: Vec<(Seq, usize)>,
    pub(super) chaos_ends: Instant,
    pub(super) calm: bool,
    /// Applications send nothing more of their own accord.
    pub(super) ending: bool,
    pub(super) faults: usize,
    /// Sessions that ended.
    ended: u64,
    looked_at: usize,
    /// Whether some nodes take less long frames than others.
    is_mixed: bool,
    trace: Option<String>,
}

impl World {
    /// A network that follows from a seed.
    pub fn new(kind: Kind, seed: u64, traced: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut net = Network::new(rng.random());
        net.seen = Some(Vec::new());
        // Done here, so that what is wrong has its story.
        net.recounts_at_end = false;
        let start = net.now;
        let slowest = match kind {
            Kind::Mesh => [2, 20, 200][rng.random_range(0..3)],
            _ => [2, 20][rng.random_range(0..2)],
        };
        let slowest = Duration::from_millis(slowest);
        net.timing = Timing {
            link: Duration::from_micros(100)..=slowest,
            local: Duration::from_micros(1)..=Duration::from_micros([60, 1_500][rng.random_range(0..2)]),
            between: BTreeMap::new(),
        };
        let tight = rng.random_bool(if kind == Kind::Wide { 0.0 } else { 0.25 });
        let limited = rng.random_bool(if kind == Kind::Wide { 0.0 } else { 0.15 });
        let mut settings =
            Settings { retry_after_push_timeout: rng.random_bool(0.85), ..Settings::default() };
        if tight {
            settings.pending_requests_max = rng.random_range(1..20);
            settings.pending_pushes_max = rng.random_range(1..20);
            settings.retained_bytes_max = rng.random_range(0..2_000);
            settings.window_frames_max = rng.random_range(1..20);
            settings.window_bytes_max = rng.random_range(100..4_000);
            settings.windows_bytes_max = rng.random_range(100..8_000);
            settings.session_queue_bytes_max = rng.random_range(100..4_000);
        }
        let nodes = match kind {
            Kind::Mesh => rng.random_range(1..=4),
            Kind::Sparse => rng.random_range(3..=12),
            Kind::Wide => WIDE[(seed + seed / SEEDS_PER_WIDE) as usize % WIDE.len()],
        };
        let reactors = match kind {
            Kind::Wide => 1,
            _ => rng.random_range(1..=3),
        };
        let graph = match kind {
            Kind::Mesh => Graph::full(nodes),
            _ => Graph::draw(&mut rng, nodes),
        };
        let is_mixed = rng.random_bool(0.3);
        let mut bounds = Vec::new();
        for node in 0..nodes {
            let limiter = match limited {
                true => Limiter::new(rng.random_range(200.0..20_000.0), Duration::from_millis(100)),
                // Nothing is over it, and all is charged.
                false => Limiter::new(1e12, Duration::from_millis(100)),
            };
            let mut settings = Settings { relays: !graph.ends.contains(&node), ..settings.clone() };
            if is_mixed && rng.random_bool(0.4) {
                settings.frame_len_max = LEAST_FRAME_LEN_MAX + rng.random_range(0..LONGEST_FRAME_LEN);
            }
            bounds.push(settings.frame_len_max);
            net.add_limited_node(reactors, settings, limiter);
        }
        // Where a link of two neighbours is lost, there are two.
        let links = graph.diameter().expect("it was drawn so").max(2) as u32;
        let mut across = links * (slowest + STATE_LOCALLY);
        if kind != Kind::Mesh {
            // Some links are slow, and slower in one direction than in the other.
            for &(a, b) in &graph.edges {
                if rng.random_bool(1.0 / graph.edges.len() as f64) {
                    let time = Duration::from_millis(rng.random_range(20..300));
                    let back = Duration::from_millis(rng.random_range(1..300));
                    net.timing.between.insert((a, b), time / 2..=time);
                    net.timing.between.insert((b, a), back..=back);
                    across += time.max(back);
                }
            }
        }
        let hostile = (kind == Kind::Sparse && rng.random_bool(0.3)).then(|| rng.random_range(0..nodes));
        let rules = Rules {
            tight,
            limited,
            push_timeout: settings.push_timeout,
            request_timeout: settings.request_timeout,
            retry_after_push_timeout: settings.retry_after_push_timeout,
            across,
            hostile: hostile.is_some(),
        };
        net.tamper = hostile.map(|node| hostile::alters(node, net.nodes[node].id, rng.random()));
        let mut world = Self {
            chaos_ends: start + Duration::from_secs(rng.random_range(10..50)),
            oracle: Oracle::new(rules, graph.clone(), bounds),
            has_private_topics: rng.random_bool(if kind == Kind::Wide { 0.0 } else { 0.6 }),
            private: Private::default(),
            starts: Starts::default(),
            crossings: Crossings::new(net.nodes.iter().map(|node| node.id), &graph),
            kind,
            graph,
            rng,
            speeds: SmallRng::seed_from_u64(seed ^ 0x5eed_0f5b_eed5),
            dialects: (seed % WORLDS_PER_3X == 2).then(|| SmallRng::seed_from_u64(seed ^ 0x3d1a_1ec7)),
            start,
            net,
            actions: BinaryHeap::new(),
            pending: BTreeMap::new(),
            sequence: 0,
            characters: Vec::new(),
            steady: BTreeMap::new(),
            blocked: BTreeMap::new(),
            troubled: BTreeSet::new(),
            lately: Vec::new(),
            calm: false,
            ending: false,
            faults: 0,
            ended: 0,
            looked_at: 0,
            is_mixed,
            trace: traced.then(String::new),
        };
        let graph = world.graph.to_string();
        world.say(|| {
            format!("{graph}; {reactors} reactors, links up to {slowest:?}; hostile {hostile:?}; {rules:?}")
        });
        world.begin();
        world
    }

    fn begin(&mut self) {
        let nodes = self.net.nodes.len();
        // The smaller of two nodes dials in one case of three, the greater in another.
        let links: Vec<Edge> = match self.kind {
            Kind::Mesh => (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b))).collect(),
            _ => self.graph.edges.iter().map(|&(a, b)| (b, a)).collect(),
        };
        for (a, b) in links {
            let dialers = match self.rng.random_range(0..3) {
                0 => vec![(a, b)],
                1 => vec![(b, a)],
                _ => vec![(a, b), (b, a)],
            };
            for &(from, to) in &dialers {
                self.starts.names(from, to);
                self.after(Duration::ZERO, Action::Door { from, to });
            }
        }
        for node in 0..nodes {
            self.begin_start(node);
        }
        let more = if self.has_private_topics { 4 } else { 0 };
        for _ in 0..self.rng.random_range(2..=12) + more {
            let node = self.rng.random_range(0..nodes);
            let arrival = self.millis(0..3_000);
            self.after(arrival, Action::Arrive(node));
        }
        if self.kind != Kind::Mesh {
            for which in 0..STEADY.len() {
                let node = self.rng.random_range(0..nodes);
                self.after(Duration::ZERO, Action::ArriveSteady { node, which });
            }
        }
        if self.rng.random_bool(0.9) {
            let first = self.millis(500..8_000);
            self.after(first, Action::Fault);
        }
    }

    /// Lets everything happen and checks it. The error says what was wrong, with the time.
    pub fn run(&mut self) -> Result<Report, String> {
        let ran = self.run_all().and_then(|()| self.net.miscount().map_or(Ok(()), Err));
        if ran.is_err() && self.trace.is_some() {
            self.tell_what_nodes_know();
        }
        ran.map_err(|error| format!("at {}: {error}", self.clock()))?;
        Ok(Report {
            virtual_time: self.net.now - self.start,
            messages: self.oracle.messages.len(),
            pushes: self.oracle.pushes,
            between_dialects: self.oracle.between_dialects,
            faults: self.faults,
            codes: std::mem::take(&mut self.oracle.codes),
            private: self.oracle.proofs.tally,
            crossings: self.crossings.tally,
            in_spite: self.oracle.in_spite,
        })
    }

    /// Adds to the trace what every node knows of the others.
    fn tell_what_nodes_know(&mut self) {
        for (index, node) in self.net.nodes.iter().enumerate().filter(|(_, node)| node.running) {
            for known in node.network().nodes {
                let id = self.net.nodes.iter().position(|other| other.id == known.id);
                let trace = self.trace.get_or_insert_default();
                let _ = writeln!(
                    trace,
                    "node{index} knows of node{}: {:?}, routed {}, incarnation {}, seq {}, {:?}",
                    id.map_or("?".to_owned(), |id| id.to_string()),
                    known.standing,
                    known.is_routed,
                    known.incarnation,
                    known.seq,
                    known
                        .entries
                        .iter()
                        .map(|(key, value)| (key.escape_ascii().to_string(), value.len()))
                        .collect::<Vec<_>>(),
                );
            }
        }
    }

    /// What happened, a line an event.
    pub fn trace(&self) -> &str {
        self.trace.as_deref().unwrap_or_default()
    }

    fn run_all(&mut self) -> Verdict {
        self.run_until(self.chaos_ends)?;
        self.calm = true;
        self.say(|| "the faults stop".to_owned());
        self.run_until_converged()?;
        self.check_convergence()?;
        if self.has_private_topics {
            self.renew_publishers();
            self.run_until(self.net.now + AUTHORISED_WITHIN + 4 * self.oracle.rules.across)?;
            self.check_authorised()?;
        }
        self.ending = true;
        self.publish_in_private();
        // Once more from everywhere to everywhere, now that nothing is wrong.
        let everywhere = self.net.nodes.len();
        let step = everywhere.div_ceil(12);
        for node in (0..everywhere).step_by(step) {
            let app = self.arrive(node, Character::Never);
            let steady = if self.kind == Kind::Mesh { &[][..] } else { &STEADY };
            for topic in TOPICS.iter().chain(steady) {
                self.publish(app, topic, false);
                self.publish(app, topic, true);
            }
        }
        // What waits in the connections of applications that are read no further is taken in its turn, and so is what waits for
        // those that read slowly: a push is known for as long as it is on its way.
        let read_by = self.net.now + ALL_READ_WITHIN;
        while (self.net.is_anything_unread() || self.net.is_anything_untaken()) && self.net.now < read_by {
            self.run_until(self.net.now + Duration::from_secs(1))?;
        }
        if self.net.is_anything_unread() {
            return Err("what applications sent is not read, though nothing is wrong".to_owned());
        }
        // A node that gets a request late in its incarnation may keep it for as long again.
        self.run_until(self.net.now + 2 * self.oracle.rules.request_timeout + Duration::from_secs(12))?;
        self.oracle.finish(self.net.now)?;
        self.check_that_nobody_waits()?;
        self.crossings.begin_quiet();
        let ended = self.ended;
        self.run_until(self.net.now + Duration::from_secs(QUIET_SECONDS))?;
        self.crossings.check_quiet(QUIET_SECONDS, self.has_private_topics, self.ended - ended)?;
        self.crossings.finish()?;
        self.pending.clear();
        self.actions.clear();
        for app in 0..self.net.apps.len() {
            if !self.net.apps[app].closed {
                self.net.disconnect(app);
                self.oracle.closed(self.net.now, app);
            }
        }
        self.run_until(self.net.now + UNTIL_ALL_IS_OVER)?;
        self.check_that_nothing_is_left()
    }

    /// Until all changes of topics must be known everywhere: from when their nodes have taken them, which is later for
    /// applications that are read no further.
    fn run_until_converged(&mut self) -> Verdict {
        let (begin, settled) = (self.net.now, CONVERGED_WITHIN + 4 * self.oracle.rules.across);
        self.run_until(begin + settled)?;
        while let Some(changed) = self.oracle.last_change()
            && changed + settled > self.net.now
            && self.net.now < begin + ALL_READ_WITHIN
        {
            self.run_until(changed + settled)?;
        }
        Ok(())
    }

    fn run_until(&mut self, end: Instant) -> Verdict {
        loop {
            let action = self.actions.peek().map(|Reverse((at, _))| *at).filter(|&at| at <= end);
            if self.net.step(action.unwrap_or(end)) {
                self.observe()?;
                continue;
            }
            let Some(at) = action else { break };
            self.net.now = self.net.now.max(at);
            if let Some(Reverse((_, number))) = self.actions.pop()
                && let Some(action) = self.pending.remove(&number)
            {
                self.act(action);
                self.observe()?;
            }
        }
        self.net.now = self.net.now.max(end);
        Ok(())
    }

    fn observe(&mut self) -> Verdict {
        let now = self.net.now;
        for seen in self.net.seen.replace(Vec::new()).unwrap_or_default() {
            if self.trace.is_some() {
                let line = self.describe(&seen);
                self.say(|| line);
            }
            match seen {
                Seen::Taken { app, bytes } => self.oracle.taken(now, app, &bytes),
                Seen::Emitted { app, bytes } => self.oracle.emitted(now, app, &bytes)?,
                Seen::Left { bytes, .. } => self.oracle.left(now, &bytes),
                Seen::Crossed { from, to, bytes } => {
                    self.oracle.crossed(now, from, to, &bytes);
                    self.crossings.crossed(now, &self.oracle, &self.net.nodes, (from, to), &bytes)?;
                }
                Seen::AppClosed { app } => self.left(app),
                Seen::SessionEnded { app } => self.oracle.closed(now, app),
                Seen::LinkClosed { node, other, .. } => {
                    if self.net.links_between(node, other).is_empty() {
                        self.oracle.unlinked(node, other);
                    }
                }
                Seen::Delivered { app, bytes } => self.delivered(app, &bytes),
            }
        }
        self.look_at_starts();
        self.check_bounds()
    }

    fn check_bounds(&mut self) -> Verdict {
        // Of many nodes one at a time.
        self.looked_at += 1;
        let turn = self.looked_at % self.net.nodes.len();
        let due = |index: usize| self.kind == Kind::Mesh || index == turn;
        for (index, node) in self.net.nodes.iter().enumerate().filter(|(index, _)| due(*index)) {
            let (charged, _) = node.shared.limiter.charged_and_prepaid();
            let counted = node.total(|counters| counters.bandwidth_charged_bytes.get());
            if [charged, counted] != [node.left_bytes(); 2] {
                let left = node.left_bytes();
                return Err(format!(
                    "{left} bytes left node{index}, {charged} were charged, {counted} counted"
                ));
            }
            if node.total(|counters| counters.read_over.get()) > 0 && !self.oracle.rules.hostile {
                return Err(format!("a frame came to node{index}, which does not take frames so long"));
            }
            if let Some(miscount) = node.miscount() {
                return Err(format!("node{index}: {miscount}"));
            }
            let settings = &node.shared.settings;
            // Of a multicast that goes to several others over one link there is a ticket for each.
            let nodes = self.net.nodes.len();
            let frame = 1_000 + 200 * nodes + if self.is_mixed { LONGEST_FRAME_LEN } else { 0 };
            for usage in node.usage() {
                for (what, used, bound) in [
                    ("requests", usage.requests, settings.pending_requests_max),
                    ("pushes", usage.pushes, settings.pending_pushes_max),
                    ("retained bytes", usage.retained_bytes, settings.retained_bytes_max + frame),
                    ("unacknowledged messages of a node", usage.window_frames, settings.window_frames_max),
                    ("bytes of them", usage.window_bytes, settings.window_bytes_max + frame),
                    ("bytes of channels", usage.windows_bytes, settings.windows_bytes_max + frame),
                ] {
                    if used > bound {
                        return Err(format!("node{index} has {used} {what}, more than {bound}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every node knows how many sessions of each node have each topic.
    fn check_convergence(&self) -> Verdict {
        let expected = self.oracle.subscribers();
        for (index, node) in self.net.nodes.iter().enumerate() {
            let snapshot = node.shared.snapshot.load();
            let distances = self.graph.distances(index, |_| true, |_| true);
            for (other, links) in distances.iter().enumerate().filter(|(other, _)| *other != index) {
                let known = snapshot.paths.get(&self.net.nodes[other].id).map(|path| usize::from(path.hops));
                if known != *links {
                    return Err(format!(
                        "node{index} has not converged: it knows a way of {known:?} links to node{other}, real is {links:?}"
                    ));
                }
            }
            for topic in TOPICS.iter().filter(|topic| !topic.starts_with(['#', '_'])) {
                let mut known = BTreeMap::new();
                if let Some(entry) = snapshot.topic(topic) {
                    known.insert(index, entry.reactors.iter().map(|(_, count)| count).sum::<u32>());
                    for (other, count) in &entry.nodes {
                        let other = self.net.nodes.iter().position(|node| node.id == other.id);
                        known.insert(other.ok_or("a node that does not exist is known")?, *count);
                    }
                }
                known.retain(|_, count| *count > 0);
                let real = expected.get(*topic).cloned().unwrap_or_default();
                if known != real {
                    return Err(format!(
                        "node{index} has not converged: of {topic} it knows {known:?}, real is {real:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// All requests are over: whoever still could answer one is forgotten.
    fn check_that_nobody_waits(&self) -> Verdict {
        for (index, node) in self.net.nodes.iter().enumerate() {
            for usage in node.usage() {
                let waiting = [usage.requests, usage.pushes, usage.retained_bytes, usage.awaiting];
                if waiting.iter().any(|&waiting| waiting > 0) {
                    return Err(format!("node{index} waits for answers that nobody wants: {usage:?}"));
                }
            }
        }
        Ok(())
    }

    /// With the applications gone and time passed, no table keeps anything.
    fn check_that_nothing_is_left(&self) -> Verdict {
        for (index, node) in self.net.nodes.iter().enumerate() {
            for usage in node.usage() {
                let left = [
                    usage.requests,
                    usage.pushes,
                    usage.retained_bytes,
                    usage.awaiting,
                    usage.window_frames,
                    usage.windows_bytes,
                    usage.topics,
                ];
                if left.iter().any(|&left| left > 0) {
                    return Err(format!("node{index} keeps what nobody waits for: {usage:?}"));
                }
            }
            let topics = node.shared.snapshot.load().topics();
            if topics > 0 || node.total(|counters| counters.sessions.get()) > 0 {
                return Err(format!("node{index} still knows {topics} topics, or sessions, that are gone"));
            }
        }
        Ok(())
    }

    pub(super) fn after(&mut self, delay: Duration, action: Action) {
        self.sequence += 1;
        self.actions.push(Reverse((self.net.now + delay, self.sequence)));
        self.pending.insert(self.sequence, action);
    }

    pub(super) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Publish(app) => {
                if self.net.apps[app].closed || self.ending {
                    return;
                }
                let topic = if self.kind != Kind::Mesh && self.rng.random_bool(0.4) {
                    STEADY[self.rng.random_range(0..STEADY.len())]
                } else {
                    let topic = self.favourite_topic(app);
                    topic.unwrap_or_else(|| TOPICS[self.rng.random_range(0..TOPICS.len())])
                };
                let multicast = self.rng.random_bool(0.3);
                self.publish(app, topic, multicast);
                if self.kind != Kind::Mesh && self.rng.random_bool(0.1) {
                    // Several at once must not overtake each other.
                    for _ in 0..self.rng.random_range(2..8) {
                        let multicast = self.rng.random_bool(0.5);
                        self.publish(app, topic, multicast);
                    }
                }
                let pause = self.rng.random_range(0.0..1.0f64);
                self.after(Duration::from_secs_f64(-0.6 * pause.max(1e-3).ln()), Action::Publish(app));
            }
            Action::PlayRole(app) => self.play_role(app),
            Action::TakePrivateTopics(app) => {
                if !self.net.apps[app].closed {
                    self.take_private_topics(app);
                }
            }
            Action::Challenge { sender, publisher, asked } => self.challenge(sender, publisher, asked),
            Action::Subscribe(app) => {
                if self.net.apps[app].closed || self.calm {
                    return;
                }
                self.subscribe(app);
                let pause = match self.rng.random_range(0..10) {
                    0 => self.millis(1..60),
                    _ => self.millis(500..30_000),
                };
                self.after(pause, Action::Subscribe(app));
            }
            Action::Reply { app, frame } => {
                if !self.net.apps[app].closed {
                    self.net.bytes(app, frame);
                }
            }
            Action::Alive(app) => {
                if !self.net.apps[app].closed {
                    self.net.frame(app, FrameType::HEARTBEAT, b"0");
                    self.after(Duration::from_secs(10), Action::Alive(app));
                }
            }
            Action::Leave(app) => {
                if !self.net.apps[app].closed && !self.calm {
                    self.say(|| format!("app{app} leaves"));
                    self.net.disconnect(app);
                    self.left(app);
                }
            }
            Action::Arrive(node) => {
                if !self.lets_in(node) {
                    let later = self.millis(100..2_000);
                    return self.after(later, Action::Arrive(node));
                }
                let character = match self.rng.random_range(0..20) {
                    0..=9 => Character::Good,
                    10..=11 => Character::Twice,
                    12..=13 => Character::Liar,
                    14..=16 => Character::Late,
                    17..=18 => Character::Never,
                    _ => Character::Deaf,
                };
                self.arrive(node, character);
            }
            Action::ArriveSteady { node, which } => self.arrive_steady(node, which),
            Action::Flap { link, until } => self.flap(link, until),
            Action::Door { from, to } => self.look_at_door(from, to),
            Action::Fault => self.befall(),
            Action::Mend { fault, how } => self.mend(fault, how),
        }
    }

    fn lets_in(&self, node: NodeIndex) -> bool {
        let virtual_node = &self.net.nodes[node];
        virtual_node.running && !virtual_node.frozen && self.starts.serves(node)
    }

    /// Whoever is gone comes again.
    fn arrive_steady(&mut self, node: NodeIndex, which: usize) {
        if !self.lets_in(node) {
            // Whoever was there a moment ago tries again and again.
            let later = self.millis(1..500);
            return self.after(later, Action::ArriveSteady { node, which });
        }
        let app = self.connect_app(node, Character::Good);
        self.steady.insert(app, which);
        let body = serde_json::to_vec(&[STEADY[which]]).expect("strings");
        self.net.frame(app, FrameType::SUBSCRIBE, &body);
    }

    fn connect_app(&mut self, node: NodeIndex, character: Character) -> AppIndex {
        let behaviour = if character == Character::Deaf { Behaviour::Deaf } else { Behaviour::Silent };
        let is_3x = self.dialects.as_mut().is_some_and(|dialects| dialects.random_bool(0.5));
        let app = match is_3x {
            true => self.net.app_3x(node, behaviour),
            false => self.net.app(node, behaviour),
        };
        // Readers of all speeds: who is to answer soon gets what is pushed soon.
        if behaviour == Behaviour::Silent && self.speeds.random_bool(0.3) {
            let is_quick = matches!(character, Character::Good | Character::Twice | Character::Liar);
            let rates = if is_quick { 500_000..20_000_000 } else { 5_000..100_000 };
            self.net.set_rate(app, self.speeds.random_range(rates));
        }
        self.characters.push(character);
        let good = matches!(character, Character::Good | Character::Twice | Character::Liar);
        self.oracle.add_app(self.net.now, app, node, good, character == Character::Deaf);
        if is_3x {
            self.oracle.speaks_3x(app);
        }
        let dialect = if is_3x { "3.x" } else { "2.x" };
        self.say(|| format!("app{app} ({character:?}) connects to node{node}, of {dialect}"));
        self.after(Duration::from_secs(10), Action::Alive(app));
        app
    }

    pub(super) fn arrive(&mut self, node: NodeIndex, character: Character) -> AppIndex {
        let app = self.connect_app(node, character);
        if self.calm {
            return app;
        }
        if self.has_private_topics && self.rng.random_bool(0.6) && !self.net.apps[app].is_3x {
            self.take_role(app);
            let first = self.millis(200..20_000);
            self.after(first, Action::PlayRole(app));
        } else {
            self.after(Duration::ZERO, Action::Subscribe(app));
        }
        if self.rng.random_bool(0.7) {
            let first = self.millis(0..2_000);
            self.after(first, Action::Publish(app));
        }
        if character == Character::Deaf {
            // The engine would cut it loose.
            self.after(Duration::from_secs(20), Action::Leave(app));
        } else if self.rng.random_bool(0.4) {
            let stay = self.millis(500..40_000);
            self.after(stay, Action::Leave(app));
        }
        app
    }

    /// An application is gone; another one comes in its place.
    fn left(&mut self, app: AppIndex) {
        self.ended += 1;
        self.oracle.closed(self.net.now, app);
        let node = self.net.apps[app].node;
        if let Some(which) = self.steady.remove(&app) {
            return self.after(Duration::ZERO, Action::ArriveSteady { node, which });
        }
        if !self.calm && self.rng.random_bool(0.9) {
            let pause = self.millis(5..3_000);
            self.after(pause, Action::Arrive(node));
        }
    }

    fn subscribe(&mut self, app: AppIndex) {
        let count = self.rng.random_range(0..4);
        let topics: Vec<&str> = (0..count).map(|_| TOPICS[self.rng.random_range(0..TOPICS.len())]).collect();
        let body = match self.rng.random_range(0..30) {
            0 => b"[\"gold\"".to_vec(),
            1 => b"{}".to_vec(),
            _ => serde_json::to_vec(&topics).expect("strings"),
        };
        self.net.frame(app, FrameType::SUBSCRIBE, &body);
    }

    pub(super) fn publish(&mut self, app: AppIndex, topic: &str, multicast: bool) {
        let seq = match self.rng.random_range(0..40) {
            // One that is in use: by somebody else, or by itself.
            // Not by one of 3.x, whose answers name no topic by which to tell two apart.
            0 if !self.lately.is_empty() && !multicast && !self.net.apps[app].is_3x => {
                let (seq, other) = self.lately[self.rng.random_range(0..self.lately.len())];
                self.oracle.messages[other].shares_seq = true;
                seq
            }
            _ => self.net.seq(),
        };
        let number = self.oracle.add_message(app, seq, topic, multicast);
        if self.lately.iter().any(|(other, _)| *other == seq) {
            self.oracle.messages[number].shares_seq = true;
        }
        let frame_type = if multicast { FrameType::MULTICAST } else { FrameType::REQUEST };
        let frame = match self.rng.random_range(0..60) {
            0 => sdk::encode(frame_type, &seq, ResultCode::OK, b""),
            1 => sdk::encode(frame_type, &seq, ResultCode::OK, b"\0payload"),
            2 => sdk::encode(frame_type, &seq, ResultCode::OK, b"\x40short"),
            _ => {
                let mut payload = (number as u64).to_be_bytes().to_vec();
                // Now and then one that not all nodes take, if some take less than others. What is sealed may have as
                // much more as extensions take.
                let bound = self.net.nodes[self.net.apps[app].node].shared.settings.frame_len_max;
                let is_long = self.is_mixed && self.rng.random_bool(0.2);
                let most = if is_long { LONGEST_FRAME_LEN } else { 300 };
                let room = bound.saturating_sub(HEADER_LEN + 1 + topic.len() + 8);
                payload.resize(8 + self.rng.random_range(0..most).min(room), b'.');
                sdk::encode_amop(frame_type, &seq, ResultCode::OK, topic, &payload)
            }
        };
        self.oracle.messages[number].frame = frame.clone();
        if !multicast {
            self.lately.push((seq, number));
            if self.lately.len() > 8 {
                self.lately.remove(0);
            }
        }
        self.net.bytes(app, frame);
    }

    /// An application has a frame: it does what is its character.
    fn delivered(&mut self, app: AppIndex, bytes: &[u8]) {
        self.oracle.had(self.net.now, app, bytes);
        let Some(header) = Header::decode(bytes) else { return };
        if self.delivered_private(app, &header, bytes) || header.frame_type != FrameType::REQUEST {
            return;
        }
        let Some(number) = number(bytes) else { return };
        let reply = |world: &mut Self, seq: Seq, number: usize, tag: u8| {
            let topic = world.oracle.messages[number].topic.clone();
            let mut payload = (number as u64).to_be_bytes().to_vec();
            payload.extend_from_slice(&[tag, app as u8]);
            let result = ResultCode([0, 0, 0, -7, 99][world.rng.random_range(0..5)]);
            sdk::encode_amop(FrameType::RESPONSE, &seq, result, &topic, &payload)
        };
        let character = self.characters[app];
        let delay = match character {
            Character::Late => self.millis(0..40_000),
            _ => self.millis(0..200),
        };
        if character == Character::Liar && !self.lately.is_empty() {
            let (seq, other) = self.lately[self.rng.random_range(0..self.lately.len())];
            if other != number && seq != header.seq {
                // Nobody asked this one.
                let frame = reply(self, seq, other, b'F');
                self.after(delay / 2, Action::Reply { app, frame });
            }
        }
        if !matches!(character, Character::Never | Character::Deaf) {
            let frame = reply(self, header.seq, number, b'G');
            self.after(delay, Action::Reply { app, frame });
        }
        if character == Character::Twice {
            let frame = reply(self, header.seq, number, b'2');
            let later = delay + self.millis(1..2_000);
            self.after(later, Action::Reply { app, frame });
        }
    }

    fn clock(&self) -> String {
        format!("{:9.4} s", (self.net.now - self.start).as_secs_f64())
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        let clock = self.clock();
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{clock}  {}", line());
        }
    }

    fn describe(&self, seen: &Seen) -> String {
        let sdk = |bytes: &[u8]| {
            let Some(header) = Header::decode(bytes) else { return "nonsense".to_owned() };
            let seq = String::from_utf8_lossy(&header.seq[..6]).into_owned();
            let mut line = format!("0x{:02x} seq {seq}… code {}", header.frame_type.0, header.result.0);
            if let Ok(body) = AmopBody::decode(&bytes[HEADER_LEN..]) {
                let _ = write!(line, " topic {}", body.topic);
            } else if [FrameType::SUBSCRIBE, FrameType::TOPIC_CERTIFICATION, FrameType::TOPIC_STATUS]
                .contains(&header.frame_type)
            {
                let _ = write!(line, " {}", String::from_utf8_lossy(&bytes[HEADER_LEN..]));
            }
            if let Some(number) = number(bytes) {
                let _ = write!(line, " message {number}");
            }
            line
        };
        match seen {
            Seen::Taken { app, bytes } => {
                format!("app{app} -> node{}: {}", self.net.apps[*app].node, sdk(bytes))
            }
            Seen::Emitted { app, bytes } => {
                format!("node{} => app{app}: {}", self.net.apps[*app].node, sdk(bytes))
            }
            Seen::Delivered { app, bytes } => format!("app{app} has {}", sdk(bytes)),
            Seen::Left { from, bytes } => format!("node{from}: a link takes {} bytes", bytes.len()),
            Seen::Crossed { from, to, bytes } => match node::Header::decode(bytes) {
                Ok((header, _)) if header.flags & node::FLAG_SEALED != 0 => {
                    let node::Addressing::EndToEnd { source, destinations } = header.addressing else {
                        return format!("node{from} -> node{to}: sealed and unnamed");
                    };
                    let name = |id: &[u8; 64]| {
                        let node = self.net.nodes.iter().position(|node| node.id.0 == *id);
                        node.map_or_else(|| "nobody".to_owned(), |node| format!("node{node}"))
                    };
                    let (source, to_all): (String, Vec<String>) =
                        (name(source), destinations.iter().map(name).collect());
                    let (seq, packet_type) = (header.seq, header.packet_type.0);
                    let again = if header.flags & node::FLAG_SENT_AGAIN != 0 { " again" } else { "" };
                    let left = header.hops_left;
                    format!(
                        "node{from} -> node{to}: sealed #{seq}{again} {packet_type:#x} from {source} for {to_all:?}, {left} hops left"
                    )
                }
                Ok((header, offset)) if header.packet_type.is_amop() => {
                    let payload = bytes.get(offset + node::Numbers::LEN..).unwrap_or_default();
                    let after = node::Extensions::decode(payload).map_or(0, |(_, len)| len);
                    let inner = sdk(&payload[after..]);
                    let again = if header.flags & node::FLAG_SENT_AGAIN != 0 { " again" } else { "" };
                    format!("node{from} -> node{to}: #{}{again} {inner}", header.seq)
                }
                Ok((header, _)) => {
                    let name = match header.packet_type {
                        PacketType::HELLO => "Hello",
                        PacketType::ACK => "Ack",
                        PacketType::STATE_SEQ => "StateSeq",
                        PacketType::STATE_REQUEST => "StateRequest",
                        _ => "StateReply",
                    };
                    format!("node{from} -> node{to}: {name} of {} bytes", bytes.len())
                }
                Err(error) => format!("node{from} -> node{to}: {error}"),
            },
            Seen::AppClosed { app } => format!("app{app} is closed"),
            Seen::SessionEnded { app } => format!("app{app} is gone for its node"),
            Seen::LinkClosed { node, other, reason } => {
                format!("node{node}: the link to node{other} is gone: {reason}")
            }
        }
    }
}
