//! Worlds of three institutions, drawn from a seed: two with nodes and ledger nodes of their own, and one with a ledger node alone.
//! Ledger nodes end, hang and lose each other, and links between nodes break; what does not fail must carry all, and nothing comes
//! twice.

use std::{collections::BTreeMap, time::Duration};

use amop::internal::wire::sdk::{FrameType, Seq};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{settings, with_amop};
use crate::kit::{AppIndex, Behaviour, Network, Received};

/// What fails in a simulation. What does not must carry all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    Nothing,
    Ledgers,
    Mesh,
    Both,
}

/// Most reply soon, some after the push timeout, or never.
fn character(rng: &mut SmallRng) -> Behaviour {
    match rng.random_range(0..6) {
        0 => Behaviour::Silent,
        1 => Behaviour::Echo(Duration::from_millis(rng.random_range(2_000..8_000))),
        _ => Behaviour::Echo(Duration::from_millis(rng.random_range(0..50))),
    }
}

/// Three institutions: two with nodes and ledger nodes of their own, and one with a ledger node alone.
struct World {
    net: Network,
    seed: u64,
    failing: Failing,
    rng: SmallRng,
    apps: Vec<AppIndex>,
    direct: usize,
    is_linked: bool,
    sent: u32,
    /// Payloads of multicasts, with who sent them.
    multicasts: Vec<(Option<AppIndex>, Vec<u8>)>,
    unicasts: Vec<(AppIndex, Seq, Vec<u8>)>,
}

impl World {
    fn new(seed: u64, failing: Failing) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut net = Network::new(seed);
        (0..4).for_each(|_| _ = net.add_ledger());
        for node in 0..2 {
            net.add_node(1 + (seed % 2) as u16, settings(with_amop(2)));
            // The second one is another way to the same network.
            net.chain.behind.insert(node, vec![node, 3]);
        }
        let is_linked = failing != Failing::Mesh;
        if is_linked {
            net.connect(0, 1);
        }
        net.timing.link = Duration::from_millis(1)..=Duration::from_millis(rng.random_range(1..=20));
        let direct = net.direct_app(2, &["t", "direct"], rng.random());
        let apps: Vec<AppIndex> = (0..4).map(|number| net.app(number % 2, character(&mut rng))).collect();
        if rng.random_range(0..3) == 0 {
            net.set_rate(apps[0], 2_000);
        }
        apps.iter().for_each(|&app| net.subscribe(app, &["t"]));
        net.run_for(Duration::from_secs(2));
        let (multicasts, unicasts) = (Vec::new(), Vec::new());
        Self { net, seed, failing, rng, apps, direct, is_linked, sent: 0, multicasts, unicasts }
    }

    fn payload(&mut self) -> Vec<u8> {
        self.sent += 1;
        self.sent.to_be_bytes().to_vec()
    }

    fn step(&mut self) {
        let app = self.apps[self.rng.random_range(0..self.apps.len())];
        let ledger = self.rng.random_range(0..4);
        let fails = |failing: Failing| self.failing == failing || self.failing == Failing::Both;
        let (ledgers_fail, mesh_fails) = (fails(Failing::Ledgers), self.failing == Failing::Both);
        match self.rng.random_range(0..12) {
            0..=3 => {
                let payload = self.payload();
                self.net.multicast(app, "t", &payload);
                self.multicasts.push((Some(app), payload));
            }
            4 => {
                let payload = self.payload();
                self.net.direct_sends(self.direct, FrameType::MULTICAST, "t", &payload);
                self.multicasts.push((None, payload));
            }
            5 | 6 => {
                let payload = self.payload();
                let topic = ["t", "nobody", "direct"][self.rng.random_range(0..3)];
                let seq = self.net.unicast(app, topic, &payload);
                self.unicasts.push((app, seq, payload));
            }
            7 => _ = self.net.direct_sends(self.direct, FrameType::REQUEST, "t", b"question"),
            8 if ledgers_fail => self.net.kill_ledger(ledger),
            9 if ledgers_fail => self.net.drop_ledger_connections(ledger),
            10 if mesh_fails => {
                self.is_linked ^= true;
                match self.is_linked {
                    true => self.net.connect(0, 1),
                    false => self.net.break_links(0, 1),
                }
            }
            11 if ledgers_fail => self.befall(ledger),
            _ if ledgers_fail => self.net.revive_ledger(ledger),
            _ => {}
        }
        if self.rng.random() {
            let time = Duration::from_millis(self.rng.random_range(1..1_500));
            self.net.run_for(time);
        }
    }

    /// What a ledger node suffers beside its end.
    fn befall(&mut self, ledger: usize) {
        match self.rng.random_range(0..4) {
            0 => self.net.chain.nodes[ledger].is_mute ^= true,
            1 => self.net.chain.nodes[ledger].is_frozen ^= true,
            2 => self.net.chain.messages.is_cut ^= true,
            _ => self.net.chain.messages.is_over_bandwidth ^= true,
        }
    }

    /// How often an application has a multicast.
    fn copies(&self, payload: &[u8]) -> BTreeMap<AppIndex, usize> {
        let copies_of = |&app: &AppIndex| {
            let pushed = self.net.pushed(app, FrameType::MULTICAST);
            (app, pushed.iter().filter(|(_, other)| other == payload).count())
        };
        self.apps.iter().map(copies_of).collect()
    }

    fn check_multicasts(&self) {
        let (seed, failing) = (self.seed, self.failing);
        let of_direct = self.net.direct_pushed(self.direct, FrameType::MULTICAST);
        for (publisher, payload) in &self.multicasts {
            for (app, copies) in self.copies(payload) {
                assert!(copies <= 1, "seed {seed}, {failing:?}: {payload:?} came {copies} times to {app}");
                let is_of_node =
                    publisher.is_some_and(|other| self.net.apps[other].node == self.net.apps[app].node);
                let must_come = match failing {
                    Failing::Nothing | Failing::Mesh => true,
                    Failing::Ledgers => publisher.is_some(),
                    Failing::Both => is_of_node,
                };
                assert!(copies == 1 || !must_come, "seed {seed}, {failing:?}: {payload:?} is lost for {app}");
            }
            let copies = of_direct.iter().filter(|(_, other)| other == payload).count();
            let must_come = publisher.is_some() && matches!(failing, Failing::Nothing | Failing::Mesh);
            assert!(
                copies == usize::from(must_come) || (copies <= 1 && publisher.is_some()),
                "seed {seed}, {failing:?}: {payload:?} came {copies} times"
            );
            assert!(copies == 1 || !must_come, "seed {seed}, {failing:?}: {payload:?} is lost");
        }
    }

    fn check_unicasts(&mut self) {
        let seed = self.seed;
        for (app, seq, payload) in &self.unicasts {
            let answers = self.net.answers(*app, seq);
            assert_eq!(answers.len(), 1, "seed {seed}: answers to {payload:?}");
            let code = answers[0].header.result.0;
            assert!([0, 99, 100, 101, 102, 103].contains(&code), "seed {seed}: {code}");
            let is_it =
                |one: &&Received| one.header.frame_type == FrameType::REQUEST && one.data.ends_with(payload);
            let sent = self.net.chain.connections.iter().flat_map(|one| &one.received).filter(is_it).count();
            assert!(sent <= 1, "seed {seed}: {payload:?} was sent to ledger nodes {sent} times");
            let pushed_to = |&app: &AppIndex| self.net.apps[app].received.iter().filter(is_it).count();
            let pushed: usize = self.apps.iter().map(pushed_to).sum();
            let most = self.apps.iter().map(pushed_to).max();
            assert!(most <= Some(1), "seed {seed}: {payload:?} was pushed to one session twice");
            assert!(
                code != 100 || sent == 1 || pushed == 0,
                "seed {seed}: {payload:?} answered 100, and pushed"
            );
        }
    }

    fn finish(mut self) -> [u64; 3] {
        for ledger in 0..4 {
            self.net.revive_ledger(ledger);
            let ledger = &mut self.net.chain.nodes[ledger];
            (ledger.is_mute, ledger.is_frozen) = (false, false);
        }
        self.net.run_for(Duration::from_secs(70));
        self.check_multicasts();
        self.check_unicasts();
        let all = |of: fn(&amop::internal::relay::counters::Counters) -> u64| {
            self.net.nodes.iter().map(|node| node.total(of)).sum()
        };
        [
            all(|counters| counters.ledger_copies_dropped.get()),
            all(|counters| counters.ledger_unicasts.get()),
            all(|counters| counters.ledger_pushes.get()),
        ]
    }
}

fn run_worlds(seeds: std::ops::Range<u64>) {
    let count = seeds.end - seeds.start;
    for failing in [Failing::Nothing, Failing::Ledgers, Failing::Mesh, Failing::Both] {
        let mut seen = [0; 3];
        for seed in seeds.clone() {
            let mut world = World::new(seed, failing);
            (0..60).for_each(|_| world.step());
            let of_world = world.finish();
            seen.iter_mut().zip(of_world).for_each(|(all, one)| *all += one);
        }
        if count < 30 {
            continue;
        }
        // So that it is about what it says.
        let [copies, unicasts, pushes] = seen;
        assert!(unicasts > 2 * count && pushes > 2 * count, "{failing:?}: {seen:?}");
        assert!((copies > 2 * count) == (failing != Failing::Mesh), "{failing:?}: {seen:?}");
    }
}

#[test]
fn whatever_fails_nothing_comes_twice_and_nothing_is_lost_that_one_way_carried() {
    run_worlds(0..30);
}

/// `AMOP_SEEDS` seeds from `AMOP_FIRST_SEED` on.
#[test]
#[ignore = "runs as long as it is told to"]
fn any_number_of_seeds_by_ledger_nodes() {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    let first = number("AMOP_FIRST_SEED").unwrap_or(1_000);
    run_worlds(first..first + number("AMOP_SEEDS").unwrap_or(1_000));
}
