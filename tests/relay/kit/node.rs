//! A node: its start and its end, and what is asked of it beside messages.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        CloseReason, ReactorId, RegistryInput, Shared,
        admission::Admission,
        bandwidth::Limiter,
        counters::Counters,
        diagnostic::{Answer, Question, REPLY_TIME_MAX, ping::Pinged, trace::TraceReply},
        home_reactor,
        registry::{AnnounceError, Announced, Registry, RegistryCounters},
        report::{AnnouncementReport, NetworkReport, PeerReport},
        settings::Settings,
        shard::{Shard, Usage},
        signing::NodeSigner,
        trace::LocalTrace,
    },
    wire::{NodeId, sdk::Seq},
};
use rand::RngExt;

use super::{
    Clock, End, Event, FIRST_INCARNATION, INCARNATION_STEP, LINK_LATENCY, LOCAL_LATENCY, Network, NodeIndex,
    Part, REGISTRY, io::Io,
};

pub struct VirtualNode {
    pub id: NodeId,
    pub shared: Arc<Shared>,
    /// Frozen nodes do nothing until they are thawed.
    pub frozen: bool,
    pub running: bool,
    /// Tells its starts apart, whatever its clock says.
    pub(super) incarnation: u64,
    /// What its clock said when it started.
    pub(super) started_as: u64,
    /// What came while it was frozen.
    pub(super) deferred: VecDeque<Event>,
    pub(super) keys: NodeSigner,
    pub(super) shards: Vec<Shard>,
    pub(super) io: Vec<Io>,
    pub(super) registry: Registry,
    pub(super) publish_due: bool,
}

impl VirtualNode {
    /// What a shard or the registry has counted wrongly.
    pub fn miscount(&self) -> Option<String> {
        self.shards.iter().find_map(Shard::miscount).or_else(|| self.registry.miscount())
    }

    /// Has the registry refuse what it may refuse, as one that has too much to do.
    pub fn set_registry_behind(&mut self, is_behind: bool) {
        self.io.iter_mut().for_each(|io| io.is_registry_behind = is_behind);
    }

    /// How full the tables of its shards are.
    pub fn usage(&self) -> impl Iterator<Item = Usage> {
        self.shards.iter().map(Shard::usage)
    }

    /// Bytes of data that have left on its links to other nodes in this incarnation.
    pub fn left_bytes(&self) -> u64 {
        self.io.iter().map(|io| io.left_bytes).sum()
    }

    /// The neighbours whose state it has.
    pub fn settled(&self) -> &BTreeSet<NodeId> {
        self.registry.settled()
    }

    /// What it knows of the network.
    pub fn network(&self) -> NetworkReport {
        self.registry.report_network()
    }

    /// The metrics of its registry.
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

    pub(super) fn deadline(&self, part: Part) -> Option<Instant> {
        let shard = self.shards.get(usize::from(part));
        if part == REGISTRY { self.registry.poll_timeout() } else { shard?.poll_timeout() }
    }

    pub fn total(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.shared.counters.iter().map(|counters| counter(counters)).sum()
    }
}

impl Network {
    pub fn add_node(&mut self, reactors: u16, settings: Settings) -> NodeIndex {
        self.add_limited_node(reactors, settings, Limiter::unlimited())
    }

    pub fn add_limited_node(&mut self, reactors: u16, settings: Settings, limiter: Limiter) -> NodeIndex {
        let keys =
            NodeSigner::from_secret_bytes(&self.rng.random::<[u8; 32]>()).expect("a random key is valid");
        let incarnation = self.next_incarnation(Clock::Right, 0);
        let node = self.build_node(keys, reactors, settings, limiter, incarnation);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The incarnation of a node that starts now with such a clock, after it had the one before.
    fn next_incarnation(&mut self, clock: Clock, before: u64) -> u64 {
        match clock {
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
        }
    }

    fn build_node(
        &mut self,
        keys: NodeSigner,
        reactors: u16,
        settings: Settings,
        limiter: Limiter,
        incarnation: u64,
    ) -> VirtualNode {
        let queue_bytes_max = settings.session_queue_bytes_max;
        // As in the engine, a window twice and a frame.
        let node_queue_bytes_max = 2 * settings.window_bytes_max + settings.node_link_frame_len_max();
        let shared = Arc::new(Shared {
            signer: Some(keys.clone()),
            own_agency: "agency".to_owned(),
            own_name: "node".to_owned(),
            limiter,
            next_message: AtomicU32::new(self.rng.random()),
            salt: *blake3::hash(&self.starts.to_be_bytes()).as_bytes().first_chunk().expect("16 of 32 bytes"),
            ..Shared::new(keys.id(), incarnation, reactors, self.now, settings)
        });
        self.starts += 1;
        VirtualNode {
            id: shared.id,
            frozen: false,
            running: true,
            incarnation: self.starts,
            started_as: incarnation,
            deferred: VecDeque::new(),
            shards: (0..reactors)
                .map(|id| {
                    let seed = blake3::hash(&self.rng.random::<u64>().to_be_bytes());
                    Shard::new(shared.clone(), ReactorId(id), *seed.as_bytes(), self.now)
                })
                .collect(),
            io: (0..reactors)
                .map(|_| Io { queue_bytes_max, node_queue_bytes_max, ..Io::default() })
                .collect(),
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
        let incarnation = self.next_incarnation(clock, before);
        let fresh = self.build_node(keys, reactors, settings, limiter, incarnation);
        self.nodes[node] = fresh;
        self.look_at_timers(node);
    }

    /// Stops a node without a word.
    pub fn kill(&mut self, node: NodeIndex) {
        self.nodes[node].running = false;
        self.nodes[node].deferred.clear();
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

    /// Gives a node other lists, as a reload of its configuration does: links with whom they leave out are closed.
    pub fn set_admission(&mut self, node: NodeIndex, admission: Admission) {
        let virtual_node = &self.nodes[node];
        virtual_node.shared.admission.store(Arc::new(admission));
        let incarnation = virtual_node.incarnation;
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

    /// What a reactor answers at once.
    fn ask_at_once(&mut self, node: NodeIndex, reactor: ReactorId, question: Question) -> Answer {
        let mut answer = None;
        self.drive(node, reactor, |shard, now, io| answer = shard.ask(now, 0, question, io));
        answer.expect("it asks nobody else")
    }

    /// The last and the smoothed round-trip time of each of its links to another node.
    pub fn round_trips(&mut self, node: NodeIndex, other: &NodeId) -> Vec<Option<(Duration, Duration)>> {
        let mut links = Vec::new();
        for reactor in (0..self.nodes[node].shared.reactors).map(ReactorId) {
            let mut next = Some(0);
            while let Some(from) = next {
                let answer = self.ask_at_once(node, reactor, Question::Links { from });
                let Answer::Links(page) = answer else { panic!("{answer:?}") };
                links.extend(page.links);
                next = page.next;
            }
        }
        let round_trip = |peer: PeerReport| match peer {
            PeerReport::Node { id, round_trip, .. } if id == *other => {
                Some(round_trip.map(|known| (known.last, known.smoothed)))
            }
            _ => None,
        };
        links.into_iter().filter_map(|link| round_trip(link.peer)).collect()
    }

    /// What a node itself knows of a message, the newest first of each reactor.
    pub fn known_of(&mut self, node: NodeIndex, seq: &Seq) -> Vec<LocalTrace> {
        let reactors = (0..self.nodes[node].shared.reactors).map(ReactorId);
        let known = |reactor| match self.ask_at_once(node, reactor, Question::KnownOf(*seq)) {
            Answer::KnownOf(known) => known.known,
            answer => panic!("{answer:?}"),
        };
        reactors.flat_map(known).collect()
    }

    /// Has `node` ask another one something by the reactor that is its home.
    pub fn ask(&mut self, node: NodeIndex, other: &NodeId, id: u64, question: Question) {
        let home = home_reactor(other, self.nodes[node].shared.reactors);
        self.drive(node, home, |shard, now, io| {
            let answer = shard.ask(now, id, question, io);
            io.answers.extend(answer.map(|answer| (id, answer)));
        });
    }

    /// The answer to a question of `node`, if there is one.
    pub fn answer_to(&self, node: NodeIndex, id: u64) -> Option<&Answer> {
        let all = self.nodes[node].io.iter().flat_map(|io| &io.answers);
        let to_this: Vec<_> = all.filter(|(other, _)| *other == id).collect();
        assert!(to_this.len() <= 1, "it is answered twice");
        to_this.first().map(|(_, answer)| answer)
    }

    /// The same after running until there is one, at most for so long.
    fn await_answer(&mut self, node: NodeIndex, id: u64, bound: Duration) -> Option<&Answer> {
        let end = self.now + bound;
        while self.answer_to(node, id).is_none() && self.step(end) {}
        self.answer_to(node, id)
    }

    /// Has `node` ask `other` what it knows of a message, and gives what it is told within `bound`.
    pub fn ask_for_traces(
        &mut self,
        node: NodeIndex,
        other: NodeIndex,
        seq: &Seq,
        bound: Duration,
    ) -> Option<TraceReply> {
        let (id, other, seq) = (self.rng.random(), self.nodes[other].id, *seq);
        self.ask(node, &other, id, Question::Trace { node: other, seq });
        match self.await_answer(node, id, bound)? {
            Answer::Trace(reply) => Some(reply.clone()),
            answer => panic!("{answer:?}"),
        }
    }

    /// Has `node` send a ping with so many hops left; gives its number.
    pub fn start_ping(&mut self, node: NodeIndex, other: NodeId, hops: u8) -> u64 {
        let number = self.rng.random();
        self.ask(node, &other, number, Question::Ping { node: other, hops });
        number
    }

    /// What became of a ping of `node`, if it is over.
    pub fn pinged(&self, node: NodeIndex, number: u64) -> Option<Pinged> {
        self.answer_to(node, number).map(|answer| match answer {
            Answer::Ping(pinged) => *pinged,
            answer => panic!("{answer:?}"),
        })
    }

    /// Sends a ping and runs until it is over.
    pub fn ping(&mut self, node: NodeIndex, other: NodeIndex, hops: u8) -> Pinged {
        let number = self.start_ping(node, self.nodes[other].id, hops);
        self.await_answer(node, number, 2 * REPLY_TIME_MAX);
        self.pinged(node, number).expect("a ping has an end")
    }

    /// Has a node announce a text to all others.
    pub fn announce(&mut self, node: NodeIndex, text: &str) -> Result<Announced, AnnounceError> {
        let now = self.now;
        let announced = self.nodes[node].registry.announce_text(now, text);
        self.collect_registry(node);
        announced
    }

    /// Lets a node finish what is in flight.
    pub fn drain(&mut self, node: NodeIndex) {
        for reactor in 0..self.nodes[node].shared.reactors {
            self.drive(node, ReactorId(reactor), |shard, now, io| shard.handle_drain(now, io));
        }
    }

    /// A node lets its applications go, within such a time.
    pub fn begin_lame_duck(&mut self, node: NodeIndex, within: Duration) {
        for reactor in 0..self.nodes[node].shared.reactors {
            self.drive(node, ReactorId(reactor), |shard, now, io| shard.handle_lame_duck(now, within, io));
        }
    }

    pub fn is_drained(&self, node: NodeIndex) -> bool {
        self.nodes[node].shards.iter().all(Shard::is_drained)
    }
}
