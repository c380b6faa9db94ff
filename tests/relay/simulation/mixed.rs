//! Mixed networks under faults, from one seed: nodes of this kind and of FISCO BCOS 2.x, the latter with the faults of WIRE §8. What
//! holds across the border holds at every moment, or once nothing has changed for a while:
//!
//! | always | |
//! |---|---|
//! | a unicast of an application here has one answer | while its session lives |
//! | an application here gets a multicast of theirs at most once | whatever gateways do |
//! | what one of theirs sent comes to another only over their own links | |
//! | **while nothing changes** | |
//! | one of theirs gets a multicast of ours once | while gateways change it may get two, or none |
//! | topics of each side are known on the other; the linked node with the least id acts | |
//! | every application reaches every other one | |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amop::internal::{relay::settings::Settings, wire::sdk::FrameType, wire::sdk::Seq};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::kit::{AppIndex, Behaviour, Clock, Network, NodeIndex, PeerBehaviour, PeerIndex};

/// Seeds of every test run.
const SEEDS: u64 = 24;
const STEPS: usize = 80;
const TOPICS: [&str; 3] = ["a", "b", "c"];
/// How long ago the last change must be for what holds while nothing changes.
const SETTLED_BEFORE: Duration = Duration::from_secs(16);
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// Longer than any request, and any try of theirs.
const ALL_OVER: Duration = Duration::from_secs(70);

/// Who sent a message, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sender {
    App(AppIndex),
    Peer(PeerIndex),
}

struct Sent {
    sender: Sender,
    topic: &'static str,
    is_unicast: bool,
    seq: Seq,
    at: Instant,
}

struct World {
    net: Network,
    rng: SmallRng,
    /// Node of each node of theirs that it is linked with.
    linked: Vec<BTreeSet<NodeIndex>>,
    sent: BTreeMap<u32, Sent>,
    /// When something changed.
    changes: Vec<Instant>,
    dead: BTreeSet<NodeIndex>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut net = Network::new(seed);
        net.timing.link = Duration::from_micros(200)..=Duration::from_millis(rng.random_range(1..20));
        let nodes = rng.random_range(1..=4);
        for _ in 0..nodes {
            let reactors = rng.random_range(1..=3);
            // Nobody is closed for having nothing to say: who is there is known.
            let idle_timeout = Duration::from_secs(1 << 20);
            net.add_node(reactors, Settings { idle_timeout, ..Settings::default() });
        }
        for one in 1..nodes {
            // Connected, and more or less so.
            net.connect(one, rng.random_range(0..one));
            if rng.random_bool(0.5) {
                net.connect(one, rng.random_range(0..one));
            }
        }
        let mut world = Self {
            net,
            rng,
            linked: Vec::new(),
            sent: BTreeMap::new(),
            changes: Vec::new(),
            dead: BTreeSet::new(),
        };
        for _ in 0..world.rng.random_range(1..=3) {
            let topics = world.some_topics();
            let peer = world.net.add_peer_2x(&topics);
            let slowest = Duration::from_millis(world.rng.random_range(1..1_500));
            world.net.peers_2x[peer].delay = Duration::from_millis(1)..=slowest;
            let mut with: BTreeSet<NodeIndex> = (0..nodes).filter(|_| world.rng.random_bool(0.6)).collect();
            with.insert(world.rng.random_range(0..nodes));
            with.iter().for_each(|&node| world.net.keep_peer_2x_linked(peer, node));
            world.linked.push(with);
        }
        for node in 0..nodes {
            for _ in 0..world.rng.random_range(1..=2) {
                world.connect_app(node);
            }
        }
        world.changes.push(world.net.now);
        world.net.run_for(Duration::from_secs(8));
        world
    }

    fn some_topics(&mut self) -> Vec<&'static str> {
        TOPICS.into_iter().filter(|_| self.rng.random_bool(0.6)).collect()
    }

    fn connect_app(&mut self, node: NodeIndex) {
        let behaviour = match self.rng.random_range(0..5) {
            0 => Behaviour::Silent,
            _ => Behaviour::Echo(Duration::from_millis(self.rng.random_range(0..200))),
        };
        let app = self.net.app(node, behaviour);
        let topics = self.some_topics();
        self.net.subscribe(app, &topics);
    }

    fn live_apps(&self) -> Vec<AppIndex> {
        let apps = self.net.apps.iter().enumerate();
        apps.filter(|(_, app)| !app.closed && !self.dead.contains(&app.node))
            .map(|(index, _)| index)
            .collect()
    }

    fn live_peers(&self) -> Vec<PeerIndex> {
        let peers = self.net.peers_2x.iter().enumerate();
        peers.filter(|(_, peer)| peer.is_up && !peer.is_frozen).map(|(index, _)| index).collect()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.rng.random_range(0..all.len())])
    }

    fn send(&mut self, sender: Sender, topic: &'static str, is_unicast: bool) -> u32 {
        let number = self.sent.len() as u32;
        let payload = number.to_be_bytes();
        let seq = match (sender, is_unicast) {
            (Sender::App(app), true) => self.net.unicast(app, topic, &payload),
            (Sender::App(app), false) => self.net.multicast(app, topic, &payload),
            (Sender::Peer(peer), true) => self.net.peer_unicast(peer, topic, &payload),
            (Sender::Peer(peer), false) => self.net.peer_multicast(peer, topic, &payload),
        };
        self.sent.insert(number, Sent { sender, topic, is_unicast, seq, at: self.net.now });
        number
    }

    fn act(&mut self) {
        let topic = TOPICS[self.rng.random_range(0..TOPICS.len())];
        let (apps, peers) = (self.live_apps(), self.live_peers());
        let (node, peer) =
            (self.rng.random_range(0..self.net.nodes.len()), self.rng.random_range(0..self.linked.len()));
        match self.rng.random_range(0..40) {
            0..=9 => _ = self.one_of(&apps).map(|app| self.send(Sender::App(app), topic, true)),
            10..=17 => _ = self.one_of(&apps).map(|app| self.send(Sender::App(app), topic, false)),
            18..=23 => _ = self.one_of(&peers).map(|peer| self.send(Sender::Peer(peer), topic, true)),
            24..=29 => _ = self.one_of(&peers).map(|peer| self.send(Sender::Peer(peer), topic, false)),
            action => {
                self.changes.push(self.net.now);
                match action {
                    30 => self.net.break_peer_link(peer, node),
                    31 => {
                        let topics = self.some_topics();
                        self.net.set_peer_topics(peer, &topics);
                    }
                    32 => self.net.peers_2x[peer].is_frozen ^= true,
                    33 if self.net.peers_2x[peer].is_up => self.net.kill_peer_2x(peer),
                    33 => self.net.revive_peer_2x(peer),
                    34 => {
                        let topics = self.some_topics();
                        if let Some(app) = self.one_of(&apps) {
                            self.net.subscribe(app, &topics);
                        }
                    }
                    35 if self.dead.contains(&node) => self.revive(node),
                    35 => self.kill(node),
                    36 => self.lose_links(node),
                    37 => {
                        let behaviours = [PeerBehaviour::Echo, PeerBehaviour::Silent];
                        self.net.peers_2x[peer].behaviour = behaviours[self.rng.random_range(0..2)];
                    }
                    // A second link, which the later one of the two ends closes.
                    38 if self.linked[peer].contains(&node) && !self.dead.contains(&node) => {
                        if self.net.peers_2x[peer].is_up {
                            self.net.link_peer_2x(peer, node, true);
                        }
                    }
                    _ => {
                        if !self.dead.contains(&node) {
                            self.connect_app(node);
                        }
                    }
                }
            }
        }
    }

    fn kill(&mut self, node: NodeIndex) {
        self.net.kill(node);
        self.dead.insert(node);
    }

    fn revive(&mut self, node: NodeIndex) {
        self.net.revive(node, Clock::Right);
        self.dead.remove(&node);
        self.connect_all(node);
    }

    fn connect_all(&mut self, node: NodeIndex) {
        for other in (0..self.net.nodes.len()).filter(|&other| other != node) {
            if !self.dead.contains(&other) && self.net.links_between(node, other).is_empty() {
                self.net.connect(node, other);
            }
        }
    }

    fn lose_links(&mut self, node: NodeIndex) {
        for other in (0..self.net.nodes.len()).filter(|&other| other != node) {
            if !self.dead.contains(&other) {
                self.net.break_links(node, other);
            }
        }
        if !self.dead.contains(&node) {
            self.net.run_for(Duration::from_millis(self.rng.random_range(0..2_000)));
            self.connect_all(node);
        }
    }

    /// Whether nothing changed around that moment.
    fn was_settled(&self, at: Instant) -> bool {
        !self.changes.iter().any(|&change| change + SETTLED_BEFORE > at && change < at + SETTLED_AFTER)
    }

    fn heal(&mut self) {
        for node in self.dead.clone() {
            self.revive(node);
        }
        (0..self.net.nodes.len()).for_each(|node| self.connect_all(node));
        for peer in 0..self.linked.len() {
            self.net.peers_2x[peer].is_frozen = false;
            self.net.peers_2x[peer].behaviour = PeerBehaviour::Echo;
            self.net.peers_2x[peer].delay = Duration::from_millis(1)..=Duration::from_millis(50);
            if !self.net.peers_2x[peer].is_up {
                self.net.revive_peer_2x(peer);
            }
        }
        self.changes.push(self.net.now);
        self.net.run_for(ALL_OVER);
    }

    fn numbers(&self, app: AppIndex, frame_type: FrameType) -> Vec<u32> {
        let pushed = self.net.pushed(app, frame_type).into_iter();
        pushed.map(|(_, payload)| u32::from_be_bytes(*payload.first_chunk().expect("four bytes"))).collect()
    }

    /// What holds whatever happens, and of each message what holds because nothing did.
    fn check_messages(&self, seed: u64) {
        for (number, sent) in &self.sent {
            let told = format!("seed {seed}, message {number} of {:?} to {}", sent.sender, sent.topic);
            match sent.sender {
                Sender::App(app) if sent.is_unicast => {
                    let answers = self.net.answers(app, &sent.seq).len();
                    assert!(answers == 1 || (answers == 0 && self.net.apps[app].closed), "{told}: {answers}");
                }
                Sender::Peer(peer) if sent.is_unicast => {
                    let answers = self.net.peers_2x[peer].answers.get(&sent.seq).map_or(0, Vec::len);
                    assert!(answers <= 1, "{told}: {answers} answers");
                }
                _ => {}
            }
        }
        for app in 0..self.net.apps.len() {
            let mut got = self.numbers(app, FrameType::MULTICAST);
            got.sort_unstable();
            let twice = got.windows(2).find(|pair| pair[0] == pair[1]);
            assert_eq!(twice, None, "seed {seed}: application {app} got a multicast twice");
        }
        for (index, peer) in self.net.peers_2x.iter().enumerate() {
            let mut got = BTreeMap::<u32, u32>::new();
            for received in &peer.received {
                let number = u32::from_be_bytes(*received.payload.first_chunk().expect("four bytes"));
                let sent = &self.sent[&number];
                let is_theirs = matches!(sent.sender, Sender::Peer(_));
                assert!(
                    !is_theirs || received.from.is_none(),
                    "seed {seed}: {number} went through to {index}"
                );
                if received.frame_type == FrameType::MULTICAST && !is_theirs {
                    *got.entry(number).or_default() += 1;
                }
            }
            for (number, count) in got {
                let most = if self.was_settled(self.sent[&number].at) { 1 } else { 3 };
                assert!(count <= most, "seed {seed}: {index} of theirs got multicast {number} {count} times");
            }
        }
    }

    /// All is well: who acts, what is known, who is reached.
    fn check_that_all_reach_all(&mut self, seed: u64) {
        let peers = self.linked.len();
        for peer in 0..peers {
            let linked = self.linked[peer].iter().copied();
            let least = linked.min_by_key(|&node| self.net.nodes[node].id).expect("it is linked");
            for topic in TOPICS {
                let here = self.live_apps().iter().any(|&app| self.net.apps[app].subscribes_to(topic));
                let expected = if here { vec![least] } else { vec![] };
                assert_eq!(
                    self.net.gateways_of(peer, topic),
                    expected,
                    "seed {seed}: {topic} at {peer} of theirs"
                );
            }
        }
        for topic in TOPICS {
            let here =
                self.live_apps().into_iter().filter(|&app| self.net.apps[app].subscribes_to(topic)).count();
            let theirs = |peer: &crate::kit::VirtualPeer| peer.topics.iter().any(|name| name == topic);
            let expected = here + self.net.peers_2x.iter().filter(|peer| theirs(peer)).count();
            for node in &self.net.nodes {
                let snapshot = node.shared.snapshot.load();
                let known: u32 = snapshot.topic(topic).map_or(0, |entry| {
                    let own: u32 = entry.reactors.iter().map(|(_, count)| count).sum();
                    own + entry.nodes.iter().map(|(_, count)| count).sum::<u32>()
                });
                assert_eq!(known as usize, expected, "seed {seed}: subscribers of {topic}");
            }
            for sender in self.live_apps().into_iter().map(Sender::App).chain((0..peers).map(Sender::Peer)) {
                let (one, all) = (self.send(sender, topic, true), self.send(sender, topic, false));
                self.net.run_for(Duration::from_secs(8));
                self.check_reach(seed, sender, topic, (one, all));
            }
        }
    }

    fn check_reach(&self, seed: u64, sender: Sender, topic: &str, (one, all): (u32, u32)) {
        let told = format!("seed {seed}: {sender:?} to {topic}");
        for app in self.live_apps() {
            let got = self.numbers(app, FrameType::MULTICAST).iter().filter(|&&number| number == all).count();
            assert_eq!(
                got,
                usize::from(self.net.apps[app].subscribes_to(topic)),
                "{told}: application {app}"
            );
        }
        for (index, peer) in
            self.net.peers_2x.iter().enumerate().filter(|(index, _)| sender != Sender::Peer(*index))
        {
            let is_it = |payload: &[u8]| payload == all.to_be_bytes();
            let got = peer.received.iter().filter(|received| is_it(&received.payload)).count();
            let has_topic = peer.topics.iter().any(|name| name == topic);
            assert_eq!(got, usize::from(has_topic), "{told}: {index} of theirs");
        }
        let echoes = |app: AppIndex| {
            self.net.apps[app].subscribes_to(topic)
                && matches!(self.net.apps[app].behaviour, Behaviour::Echo(_))
        };
        let sent = &self.sent[&one];
        let others = self.live_apps().into_iter().filter(|&app| sender != Sender::App(app) && echoes(app));
        let theirs = self.net.peers_2x.iter().any(|peer| peer.topics.iter().any(|name| name == topic));
        match sender {
            // Silent ones are tried for 5 s each.
            Sender::App(app) if others.count() > 0 || theirs => {
                let answers = self.net.answers(app, &sent.seq);
                assert!(answers.iter().all(|answer| answer.code().0 == 0), "{told}: {answers:?}");
            }
            Sender::Peer(peer) if self.live_apps().into_iter().any(echoes) => {
                let answers = self.net.peers_2x[peer].answers.get(&sent.seq).cloned().unwrap_or_default();
                assert!(answers.iter().all(|&code| code == 0), "{told}: {answers:?}");
            }
            _ => {}
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.act();
        let pause = match world.rng.random_range(0..20) {
            0 => Duration::from_secs(world.rng.random_range(5..40)),
            _ => Duration::from_millis(world.rng.random_range(0..800)),
        };
        world.net.run_for(pause);
    }
    world.heal();
    world.check_messages(seed);
    world.check_that_all_reach_all(seed);
    world.net.run_for(ALL_OVER);
    world.check_messages(seed);
}

#[test]
fn messages_pass_the_border_to_nodes_of_fisco_bcos_2x_whatever_befalls_either_side() {
    match super::number("AMOP_SEED") {
        Some(seed) => run(seed),
        None => (0..SEEDS).for_each(run),
    }
}

/// `AMOP_SEEDS` seeds from `AMOP_FIRST_SEED` on.
#[test]
#[ignore = "runs as long as it is told to"]
fn any_number_of_mixed_networks() {
    let first = super::number("AMOP_FIRST_SEED").unwrap_or(0);
    let count = super::number("AMOP_SEEDS").unwrap_or(2_000);
    let failed: Vec<u64> =
        (first..first + count).filter(|&seed| std::panic::catch_unwind(|| run(seed)).is_err()).collect();
    assert_eq!(failed, [0; 0]);
}
