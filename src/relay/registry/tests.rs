//! Each rule of the registry, with records as other nodes would send them.

use bytes::Bytes;

use super::{
    exchange::{INCARNATIONS_MAX, REFUSALS_PER_MINUTE_MAX, REQUESTS_PER_SECOND_MAX},
    *,
};
use crate::{
    relay::{LinkKey, settings::Settings},
    wire::state::{Head, Version},
};

const HOME: ReactorId = ReactorId(0);
const SECOND: Duration = Duration::from_secs(1);

/// Registries joined by queues. Nothing moves before [`Net::deliver`].
struct Net {
    now: Instant,
    nodes: Vec<Registry>,
    keys: Vec<NodeSigner>,
    /// Sender, receiver, and what was sent.
    wire: VecDeque<(usize, usize, PacketType, u32, Bytes)>,
    answers: Vec<Bytes>,
    closed: Vec<(usize, NodeId)>,
    /// Who has begun a later incarnation.
    incarnations: Vec<usize>,
    next_seq: u32,
}

fn key(index: usize) -> NodeSigner {
    NodeSigner::from_secret_bytes(&[index as u8 + 1; 32]).unwrap()
}

fn registry(now: Instant, signer: &NodeSigner, incarnation: u64) -> Registry {
    let shared = Arc::new(Shared {
        own_address: "127.0.0.1:30300".into(),
        own_agency: "agency".into(),
        own_name: "node".into(),
        ..Shared::new(signer.id(), incarnation, 1, now, Settings::default())
    });
    Registry::new(shared, signer.clone())
}

impl Net {
    fn new(nodes: usize) -> Self {
        let now = Instant::now();
        let keys: Vec<_> = (0..nodes).map(key).collect();
        Self {
            now,
            nodes: keys.iter().map(|key| registry(now, key, 1)).collect(),
            keys,
            wire: VecDeque::new(),
            answers: Vec::new(),
            closed: Vec::new(),
            incarnations: Vec::new(),
            next_seq: 0,
        }
    }

    /// Nodes linked as the edges say.
    fn graph(nodes: usize, edges: &[(usize, usize)]) -> Self {
        let mut net = Self::new(nodes);
        edges.iter().for_each(|&(one, other)| net.link(one, other));
        net.settle();
        net
    }

    /// All nodes linked with each other.
    fn mesh(nodes: usize) -> Self {
        let mut net = Self::new(nodes);
        for one in 0..nodes {
            for other in one + 1..nodes {
                net.link(one, other);
            }
        }
        net.settle();
        net
    }

    fn up(&mut self, at: usize, peer: usize) {
        let input = RegistryInput::NodeUp {
            id: self.keys[peer].id(),
            incarnation: self.nodes[peer].shared.incarnation(),
            reactor: HOME,
            address: format!("10.0.0.{peer}:30300"),
            agency: "agency".into(),
            name: format!("node{peer}"),
        };
        self.nodes[at].handle(self.now, input);
    }

    fn link(&mut self, one: usize, other: usize) {
        self.up(one, other);
        self.up(other, one);
    }

    fn down(&mut self, at: usize, peer: usize) {
        let incarnation = self.nodes[at].neighbours[&self.keys[peer].id()].entry.incarnation;
        self.nodes[at].handle(self.now, RegistryInput::NodeDown { id: self.keys[peer].id(), incarnation });
    }

    fn unlink(&mut self, one: usize, other: usize) {
        for (at, peer) in [(one, other), (other, one)] {
            if self.nodes[at].neighbours.contains_key(&self.keys[peer].id()) {
                self.down(at, peer);
            }
        }
    }

    /// The version of a node's record as another node knows it; `None` if it does not.
    fn known(&self, at: usize, origin: usize) -> Option<Version> {
        let known = self.nodes[at].known.get(&self.keys[origin].id())?;
        known.record.is_known().then(|| known.record.version())
    }

    /// Whether every node knows the records of all nodes that are connected with it as they are.
    fn is_converged(&self, edges: &[(usize, usize)]) -> bool {
        let mut part: Vec<usize> = (0..self.nodes.len()).collect();
        for _ in 0..self.nodes.len() {
            for &(one, other) in edges {
                let least = part[one].min(part[other]);
                (part[one], part[other]) = (least, least);
            }
        }
        (0..self.nodes.len()).all(|at| {
            (0..self.nodes.len()).filter(|&origin| origin != at && part[origin] == part[at]).all(|origin| {
                self.known(at, origin) == Some(self.nodes[origin].own.version())
                    && self.nodes[at].known[&self.keys[origin].id()].lost_since.is_none()
            })
        })
    }

    fn subscribe(&mut self, at: usize, topic: &str, difference: i32) {
        let changes = vec![(Topic::new(topic).unwrap(), difference)];
        self.nodes[at].handle(self.now, RegistryInput::Topics { reactor: HOME, changes });
    }

    /// Publishes everywhere and takes what is to be sent.
    fn collect(&mut self) {
        for (from, node) in self.nodes.iter_mut().enumerate() {
            node.publish(self.now);
            while let Some((_, output)) = node.poll_output() {
                match output {
                    RegistryOutput::ToNode { to, packet_type, seq, payload } => {
                        let Some(to) = self.keys.iter().position(|key| key.id() == to) else { continue };
                        self.next_seq += 1;
                        let seq = seq.unwrap_or(self.next_seq);
                        self.wire.push_back((from, to, packet_type, seq, payload));
                    }
                    RegistryOutput::RpcAnswer { body, .. } => self.answers.push(body),
                    RegistryOutput::CloseNode { id, .. } => self.closed.push((from, id)),
                    RegistryOutput::NewIncarnation => self.incarnations.push(from),
                    // The snapshot says the same.
                    RegistryOutput::Reach { .. }
                    | RegistryOutput::Gateway2x { .. }
                    | RegistryOutput::RoutesChanged
                    | RegistryOutput::StateCame => {}
                }
            }
        }
    }

    /// Delivers what is under way now, once; what that causes is under way afterwards.
    fn deliver(&mut self) -> usize {
        self.collect();
        let count = self.wire.len();
        for _ in 0..count {
            let Some((from, to, packet_type, seq, payload)) = self.wire.pop_front() else { break };
            let input = RegistryInput::State { from: self.keys[from].id(), packet_type, seq, payload };
            self.nodes[to].handle(self.now, input);
        }
        self.collect();
        count
    }

    /// Delivers until nothing is under way.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.deliver() == 0 {
                return;
            }
        }
        panic!("the registries never come to rest");
    }

    fn lose_all(&mut self) {
        self.collect();
        self.wire.clear();
    }

    fn tick(&mut self, time: Duration) {
        self.now += time;
        for node in &mut self.nodes {
            node.handle_timeout(self.now);
        }
    }

    /// Time passes, and what comes of it is delivered.
    fn pass(&mut self, time: Duration) {
        self.tick(time);
        self.settle();
    }

    /// How many sessions of `peer` subscribe, as far as the shards of `at` can see.
    fn count(&self, at: usize, topic: &str, peer: usize) -> u32 {
        let snapshot = self.nodes[at].shared.snapshot.load();
        let id = self.keys[peer].id();
        snapshot
            .topic(topic)
            .and_then(|entry| entry.nodes.iter().find(|(node, _)| node.id == id).map(|(_, count)| *count))
            .unwrap_or(0)
    }

    fn inject(&mut self, at: usize, from: usize, packet_type: PacketType, message: &Message<'_>) {
        let input = RegistryInput::State {
            from: self.keys[from].id(),
            packet_type,
            seq: 0,
            payload: message.encode().into(),
        };
        self.nodes[at].handle(self.now, input);
    }

    fn refused(&self, at: usize, error: StateError) -> u64 {
        self.nodes[at].counters.refused(error).get()
    }

    /// The message with which a node's record began.
    fn first_step(&self, origin: usize) -> Vec<u8> {
        let own = &self.nodes[origin].own;
        let steps = own.held().steps_after(&Version { seq: 0, ..own.version() }).expect("it is kept");
        Message::Steps(vec![steps[0].clone()]).encode()
    }

    /// A step that follows what node `at` knows of node `origin`, signed by that node's key.
    fn forge(&self, at: usize, origin: usize, changes: &[u8], edit: impl FnOnce(&mut Head)) -> Head {
        let record = &self.nodes[at].known[&self.keys[origin].id()].record;
        let known = record.version();
        let mut entries = record.entries().clone();
        Change::decode_all(changes).unwrap().iter().for_each(|change| drop(entries.apply(change)));
        let mut head = Head {
            origin: self.keys[origin].id(),
            incarnation: known.incarnation,
            seq: known.seq + 1,
            previous: self.nodes[origin]
                .own
                .held()
                .steps_after(&Version { seq: known.seq - 1, ..known })
                .unwrap()[0]
                .0
                .digest(),
            root: entries.root(),
            changes_hash: state::changes_hash(changes),
            signature: [0; 64],
        };
        edit(&mut head);
        head.signature = self.keys[origin].sign(&head.digest());
        head
    }
}

fn set(topic: &str, count: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Change { key: &state::topic_key(topic), value: Some(&count.to_be_bytes()) }.encode_into(&mut bytes);
    bytes
}

#[test]
fn a_subscription_shows_at_neighbours_after_one_delivery() {
    let mut net = Net::mesh(3);
    net.subscribe(0, "news", 2);
    net.deliver();
    assert_eq!((net.count(1, "news", 0), net.count(2, "news", 0)), (2, 2));
    net.subscribe(0, "news", -1);
    net.subscribe(1, "news", 1);
    net.deliver();
    assert_eq!((net.count(1, "news", 0), net.count(2, "news", 0), net.count(2, "news", 1)), (1, 1, 1));
    net.subscribe(0, "news", -1);
    net.deliver();
    assert_eq!((net.count(2, "news", 0), net.count(2, "news", 1)), (0, 1));
}

#[test]
fn no_node_counts_for_more_subscribers_than_it_can_have_sessions() {
    let mut net = Net::graph(2, &[(0, 1)]);
    for (difference, counted) in
        [(SESSIONS_MAX as i32, SESSIONS_MAX), (1, SESSIONS_MAX), (-2, SESSIONS_MAX - 1)]
    {
        net.subscribe(1, "many", difference);
        net.settle();
        assert_eq!(net.count(0, "many", 1), counted as u32, "{difference} more");
    }
}

#[test]
fn a_new_neighbour_knows_the_topics_within_one_round_trip() {
    let mut net = Net::new(2);
    net.subscribe(0, "old", 1);
    net.collect();
    net.link(0, 1);
    // The list, the request, the reply.
    for _ in 0..3 {
        net.deliver();
    }
    assert_eq!(net.count(1, "old", 0), 1);
}

#[test]
fn private_route_marker_and_notice_topics_are_never_routed_by_the_table() {
    let mut net = Net::mesh(2);
    let data = "#!$TopicNeedVerify_p";
    let route = "#!$VerifyChannel_#!$TopicNeedVerify_p_00000000000000000000000000000000";
    let marker = "#!$PushChannel_#!$TopicNeedVerify_p";
    for topic in [data, route, marker, "_block_notify_1"] {
        net.subscribe(0, topic, 1);
    }
    net.settle();
    for at in 0..2 {
        for topic in [data, route, marker, "_block_notify_1"] {
            assert!(net.nodes[at].shared.snapshot.load().topic(topic).is_none(), "{topic} at {at}");
        }
    }
    let record = &net.nodes[1].known[&net.keys[0].id()].record;
    assert_eq!(record.entries().topics().collect::<Vec<_>>(), [data]);
}

#[test]
fn a_lost_step_heals_by_the_next_digest() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "lost", 1);
    net.lose_all();
    net.pass(DIGEST_INTERVAL);
    assert_eq!(net.count(1, "lost", 0), 1);
    assert_eq!(net.nodes[1].counters.records_taken.get(), 0, "the missing step sufficed");
}

#[test]
fn a_lost_step_heals_by_the_step_after_it() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "lost", 1);
    net.lose_all();
    net.subscribe(0, "seen", 1);
    net.settle();
    assert_eq!((net.count(1, "lost", 0), net.count(1, "seen", 0)), (1, 1));
}

#[test]
fn a_lost_request_is_made_again() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "lost", 1);
    net.lose_all();
    net.tick(DIGEST_INTERVAL);
    // The digest, the list, and then the request for the step is lost.
    net.deliver();
    net.deliver();
    net.lose_all();
    net.pass(DIGEST_INTERVAL);
    assert_eq!(net.count(1, "lost", 0), 1);
}

#[test]
fn more_steps_than_the_history_keeps_heal_by_the_whole_record() {
    let mut net = Net::mesh(2);
    for i in 0..state::STEPS_MAX + 10 {
        net.subscribe(0, &format!("t{i}"), 1);
        net.nodes[0].publish(net.now);
    }
    net.lose_all();
    net.pass(DIGEST_INTERVAL);
    assert_eq!((net.count(1, "t0", 0), net.count(1, "t4105", 0)), (1, 1));
    assert_eq!(net.nodes[1].counters.records_taken.get(), 1);
}

#[test]
fn what_comes_and_goes_between_two_publications_makes_no_step() {
    let mut net = Net::mesh(2);
    let before = net.nodes[0].own.version();
    net.subscribe(0, "t", 1);
    net.subscribe(0, "t", -1);
    assert_eq!(net.deliver(), 0);
    assert_eq!(net.nodes[0].own.version(), before);
}

#[test]
fn steps_with_long_names_stay_within_what_receivers_accept() {
    let mut net = Net::mesh(2);
    for i in 0..9_000 {
        net.subscribe(0, &format!("{i:0254}"), 1);
    }
    net.settle();
    assert_eq!(net.count(1, &format!("{:0254}", 8_999), 0), 1);
    assert_eq!(net.nodes[1].counters.records_taken.get(), 0);
    assert_eq!(net.refused(1, StateError::Size), 0);
}

#[test]
fn a_record_of_100_000_topics_arrives_in_parts_while_it_goes_on_changing() {
    let mut net = Net::new(2);
    for i in 0..100_000 {
        net.subscribe(0, &format!("a topic with a name of usual length/{i}"), 1);
    }
    // More steps than the history reaches back, so that only the whole record helps.
    for i in 0..state::STEPS_MAX {
        net.nodes[0].publish(net.now);
        net.subscribe(0, &format!("u{}", i % 7), 1);
    }
    net.collect();
    net.link(0, 1);
    let mut longest = 0;
    for round in 0.. {
        net.subscribe(0, &format!("during {round}"), 1);
        net.collect();
        longest = net.wire.iter().map(|(.., payload)| payload.len()).max().unwrap_or(0).max(longest);
        net.deliver();
        if net.nodes[1].counters.records_taken.get() > 0 {
            break;
        }
        assert!(round < 1_000, "the transfer never ends");
    }
    net.settle();
    assert_eq!(net.nodes[1].counters.records_taken.get(), 1, "changes do not make it begin anew");
    assert_eq!(net.count(1, "a topic with a name of usual length/99999", 0), 1);
    assert_eq!(net.count(1, "during 3", 0), 1);
    let known = net.nodes[1].known[&net.keys[0].id()].record.version();
    assert_eq!(known, net.nodes[0].own.version());
    assert!(longest <= 1 << 20, "{longest} bytes in one message");
    assert!(net.nodes[0].neighbours[&net.keys[1].id()].pinned.is_empty());
}

#[test]
fn a_neighbour_that_is_gone_takes_its_topics_along() {
    let mut net = Net::mesh(3);
    net.subscribe(0, "t", 1);
    net.subscribe(2, "t", 1);
    net.settle();
    net.down(1, 0);
    net.settle();
    assert_eq!((net.count(1, "t", 0), net.count(1, "t", 2)), (1, 1), "another way leads to it");
    net.unlink(0, 2);
    net.settle();
    assert_eq!((net.count(1, "t", 0), net.count(1, "t", 2)), (1, 1), "the way to it may return");
    net.pass(WAY_GRACE);
    assert_eq!((net.count(1, "t", 0), net.count(1, "t", 2)), (0, 1));
    let neighbours = net.nodes[1].shared.snapshot.load().neighbours.clone();
    assert_eq!(*neighbours, [net.keys[2].id()]);
    let shown = &net.nodes[2].known[&net.keys[1].id()].record;
    assert!(shown.entries().get(&state::neighbour_key(&net.keys[0].id())).is_none());
    assert!(shown.entries().get(&state::neighbour_key(&net.keys[2].id())).is_some());
}

#[test]
fn a_restarted_node_is_known_by_its_new_record_only() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "before", 1);
    net.settle();
    net.nodes[0] = registry(net.now, &net.keys[0], 2);
    net.subscribe(0, "after", 1);
    net.link(0, 1);
    net.settle();
    assert_eq!((net.count(1, "before", 0), net.count(1, "after", 0)), (0, 1));
    // The old link's end comes late.
    let id = net.keys[0].id();
    net.nodes[1].handle(net.now, RegistryInput::NodeDown { id, incarnation: 1 });
    net.settle();
    assert_eq!(net.count(1, "after", 0), 1);
}

#[test]
fn a_link_that_returns_brings_what_was_missed() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "missed", 1);
    net.lose_all();
    net.link(0, 1);
    net.settle();
    assert_eq!(net.count(1, "missed", 0), 1);
}

#[test]
fn what_is_forged_is_refused_counted_and_leaves_no_trace() {
    let mut net = Net::mesh(3);
    net.subscribe(0, "t", 1);
    net.settle();
    let changes = set("forged", 9);
    let seq = PacketType::STATE_SEQ;

    let mut unsigned = net.forge(1, 0, &changes, |_| {});
    unsigned.signature[5] ^= 1;
    net.inject(1, 0, seq, &Message::Steps(vec![(unsigned, &changes)]));
    assert_eq!(net.refused(1, StateError::Signature), 1);

    // About a third node, signed by the one that brings it.
    let mut foreign = net.forge(1, 2, &changes, |_| {});
    foreign.signature = net.keys[0].sign(&foreign.digest());
    net.inject(1, 0, seq, &Message::Steps(vec![(foreign, &changes)]));
    assert_eq!(net.refused(1, StateError::Signature), 2);

    let other_changes = net.forge(1, 0, &set("else", 1), |_| {});
    net.inject(1, 0, seq, &Message::Steps(vec![(other_changes, &changes)]));
    let wrong_root = net.forge(1, 0, &changes, |head| head.root = [0; 32]);
    net.inject(1, 0, seq, &Message::Steps(vec![(wrong_root, &changes)]));
    assert_eq!(net.refused(1, StateError::Root), 2);

    net.inject(1, 0, PacketType::STATE_REQUEST, &Message::WantList);
    net.inject(1, 0, PacketType::STATE_REQUEST, &Message::Steps(vec![]));
    assert_eq!(net.refused(1, StateError::Malformed), 1);

    let part = net.forge(1, 0, &changes, |_| {});
    net.inject(
        1,
        0,
        PacketType::STATE_REPLY,
        &Message::Part { head: part, after: b"", last: true, entries: &changes },
    );
    assert_eq!(net.refused(1, StateError::Unasked), 1);

    net.settle();
    assert_eq!((net.count(1, "forged", 0), net.count(1, "t", 0)), (0, 1));
    // The origin's honest steps still follow.
    net.subscribe(0, "honest", 1);
    net.deliver();
    assert_eq!(net.count(1, "honest", 0), 1);
    assert!(net.closed.is_empty());
}

#[test]
fn a_replayed_step_changes_nothing() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "t", 1);
    net.collect();
    let replayed: Vec<_> = net.wire.iter().cloned().collect();
    net.settle();
    net.subscribe(0, "t", -1);
    net.settle();
    net.wire.extend(replayed);
    net.settle();
    assert_eq!(net.count(1, "t", 0), 0);
    assert!(net.nodes[1].counters.stale.get() > 0);
}

#[test]
fn a_broken_chain_leads_to_the_whole_record() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "t", 1);
    net.settle();
    // Another step with the next number, as from a node whose clock went back into an old incarnation.
    let changes = set("fork", 1);
    let head = net.forge(1, 0, &changes, |_| {});
    net.inject(1, 0, PacketType::STATE_SEQ, &Message::Steps(vec![(head, &changes)]));
    assert_eq!(net.count(1, "fork", 0), 0, "not published yet");
    net.subscribe(0, "true", 1);
    net.nodes[0].publish(net.now);
    net.subscribe(0, "truth", 1);
    net.settle();
    assert_eq!(net.refused(1, StateError::Chain), 1);
    assert_eq!((net.count(1, "true", 0), net.count(1, "truth", 0), net.count(1, "fork", 0)), (1, 1, 0));
    assert_eq!(net.nodes[1].counters.records_taken.get(), 1);
}

#[test]
fn steps_beyond_the_allowance_wait_for_the_digest() {
    let mut net = Net::mesh(2);
    for i in 0..3_000 {
        net.subscribe(0, &format!("t{i}"), 1);
        net.nodes[0].publish(net.now);
    }
    net.deliver();
    assert!(net.refused(1, StateError::Rate) > 0);
    assert!(net.closed.is_empty());
    net.pass(DIGEST_INTERVAL);
    assert_eq!(net.count(1, "t2999", 0), 1);
}

#[test]
fn large_steps_one_after_another_are_taken_at_a_bounded_rate() {
    let mut net = Net::mesh(2);
    net.settle();
    net.now += SECOND;
    // Removals of nothing: as many as a step may hold, and quickly made.
    let mut changes = Vec::new();
    for _ in 0..state::CHANGES_MAX {
        Change { key: &[state::KIND_TOPIC, b't'], value: None }.encode_into(&mut changes);
    }
    let announce = |net: &mut Net, head: &Head| {
        net.inject(0, 1, PacketType::STATE_SEQ, &Message::Steps(vec![(head.clone(), &changes)]));
    };
    let mut heads = vec![net.forge(0, 1, &changes, |_| {})];
    for number in 1..3 {
        let last: &Head = &heads[number - 1];
        let mut next = Head { seq: last.seq + 1, previous: last.digest(), ..last.clone() };
        next.signature = net.keys[1].sign(&next.digest());
        heads.push(next);
    }
    announce(&mut net, &heads[0]);
    announce(&mut net, &heads[1]);
    assert_eq!(net.refused(0, StateError::Rate), 0);
    announce(&mut net, &heads[2]);
    announce(&mut net, &heads[2]);
    assert_eq!(net.refused(0, StateError::Rate), 2);
    net.now += SECOND;
    let taken = net.nodes[0].counters.steps_taken.get();
    announce(&mut net, &heads[2]);
    assert_eq!(net.refused(0, StateError::Rate), 2);
    assert_eq!(net.nodes[0].counters.steps_taken.get(), taken + 1);
}

#[test]
fn a_neighbour_that_asks_without_end_is_answered_within_bounds() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "t", 1);
    net.settle();
    let known = Version { origin: net.keys[0].id(), incarnation: 0, seq: 0 };
    for _ in 0..2 * REQUESTS_PER_SECOND_MAX {
        net.inject(0, 1, PacketType::STATE_REQUEST, &Message::Want { known, after: b"" });
    }
    net.collect();
    assert!(net.wire.len() <= REQUESTS_PER_SECOND_MAX as usize);
    net.wire.clear();
    net.now += SECOND;
    net.inject(0, 1, PacketType::STATE_REQUEST, &Message::Want { known, after: b"" });
    net.collect();
    assert_eq!(net.wire.len(), 1);
}

#[test]
fn only_a_neighbour_that_goes_on_breaking_rules_loses_its_link() {
    let mut net = Net::mesh(2);
    for refusals in 0..=REFUSALS_PER_MINUTE_MAX {
        assert!(net.closed.is_empty(), "after {refusals}");
        net.inject(1, 0, PacketType::STATE_SEQ, &Message::WantList);
        net.collect();
    }
    assert_eq!(net.closed, [(1, net.keys[0].id())]);
}

#[test]
fn kinds_of_messages_and_entries_that_are_not_known_here_do_no_harm() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "t", 1);
    net.settle();
    let unknown = |packet_type, payload: &'static [u8]| RegistryInput::State {
        from: key(0).id(),
        packet_type,
        seq: 0,
        payload: Bytes::from_static(payload),
    };
    net.nodes[1].handle(net.now, unknown(PacketType::STATE_SEQ, b"\xc8whatever"));
    net.inject(1, 0, PacketType::STATE_SEQ, &Message::Digest { scope: Scope(9), hash: [1; 32] });
    assert_eq!(net.nodes[1].counters.unknown_kinds.get(), 2);

    let mut changes = Vec::new();
    Change { key: b"\xc8key", value: Some(b"value") }.encode_into(&mut changes);
    changes.extend_from_slice(&set("beside", 3));
    let head = net.forge(1, 0, &changes, |_| {});
    net.inject(1, 0, PacketType::STATE_SEQ, &Message::Steps(vec![(head, &changes)]));
    net.nodes[1].publish(net.now);
    assert_eq!(net.count(1, "beside", 0), 3);
    let record = &net.nodes[1].known[&net.keys[0].id()].record;
    assert_eq!(record.entries().get(b"\xc8key"), Some(&b"value"[..]));
}

#[test]
fn mutated_messages_of_a_neighbour_never_panic_and_never_show() {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::SmallRng::seed_from_u64(11);
    let mut net = Net::mesh(2);
    net.subscribe(0, "t", 1);
    net.settle();
    let changes = set("t", 5);
    let head = net.forge(1, 0, &changes, |_| {});
    let known = Version { origin: net.keys[1].id(), incarnation: 1, seq: 1 };
    let samples = [
        (PacketType::STATE_SEQ, Message::Steps(vec![(head.clone(), &changes)]).encode()),
        (PacketType::STATE_SEQ, Message::List(vec![known]).encode()),
        (PacketType::STATE_REQUEST, Message::Want { known, after: b"" }.encode()),
        (PacketType::STATE_REPLY, Message::Part { head, after: b"", last: true, entries: &changes }.encode()),
    ];
    for round in 0..4_000 {
        let (packet_type, sample) = &samples[round % samples.len()];
        let mut payload = sample.clone();
        let at = random.random_range(0..payload.len());
        payload[at] ^= 1 << random.random_range(0..8);
        if random.random_bool(0.2) {
            payload.truncate(at);
        }
        if *packet_type == PacketType::STATE_REPLY {
            // As if it had been asked for.
            let newer = Version { origin: net.keys[0].id(), incarnation: 1, seq: 1_000 };
            net.inject(1, 0, PacketType::STATE_SEQ, &Message::List(vec![newer]));
        }
        let from = net.keys[0].id();
        let input = RegistryInput::State { from, packet_type: *packet_type, seq: 0, payload: payload.into() };
        net.nodes[1].handle(net.now, input);
        net.now += Duration::from_millis(1);
    }
    net.lose_all();
    assert_eq!(net.count(1, "t", 0), 1);
}

#[test]
fn peers_are_answered_from_their_records() {
    let mut net = Net::mesh(2);
    net.subscribe(0, "news", 1);
    net.subscribe(0, "#!$TopicNeedVerify_p", 1);
    net.settle();
    let input = RegistryInput::Rpc {
        ledger: None,
        reactor: HOME,
        link: LinkKey { index: 0, generation: 1 },
        seq: [b'0'; 32],
        body: Bytes::from_static(br#"{"jsonrpc":"2.0","method":"getPeers","params":[1],"id":1}"#),
    };
    net.nodes[1].handle(net.now, input.clone());
    net.collect();
    net.subscribe(0, "more", 1);
    net.settle();
    net.nodes[1].handle(net.now, input);
    net.collect();
    let topics: Vec<serde_json::Value> = net
        .answers
        .iter()
        .map(|body| serde_json::from_slice::<serde_json::Value>(body).unwrap()["result"][0]["Topic"].clone())
        .collect();
    let shown = |names: &[&str]| serde_json::json!(names);
    assert_eq!(topics[0], shown(&["#!$TopicNeedVerify_p", "news"]));
    assert_eq!(topics[1], shown(&["#!$TopicNeedVerify_p", "more", "news"]));
}

#[test]
fn rpc_waits_within_a_bound_and_for_everything_else() {
    let mut net = Net::mesh(2);
    net.settle();
    let notification =
        Bytes::from(br#"{"method":"x","params":["#.iter().copied().cycle().take(1 << 20).collect::<Vec<_>>());
    let question = Bytes::from_static(br#"{"method":"getNodeIDList","id":1}"#);
    let rpc = |body: &Bytes| RegistryInput::Rpc {
        ledger: None,
        reactor: HOME,
        link: LinkKey { index: 0, generation: 1 },
        seq: [b'0'; 32],
        body: body.clone(),
    };
    let node = &mut net.nodes[0];
    for _ in 0..20 {
        node.handle(net.now, rpc(&notification));
    }
    node.handle(net.now, rpc(&question));
    // 15 of 1 MiB and the question fit beside each other.
    assert_eq!(node.counters().rpc_refused.get(), 5);
    let changes = vec![(Topic::new("t").unwrap(), 1)];
    node.handle(net.now, RegistryInput::Topics { reactor: HOME, changes });
    node.publish(net.now);
    let mut outputs = Vec::new();
    while node.has_output() {
        outputs.extend(node.poll_output());
    }
    let refused = outputs.iter().filter(|(_, output)| matches!(output, RegistryOutput::RpcAnswer { .. }));
    assert_eq!(refused.count(), 5, "at once");
    assert!(outputs.iter().any(|(_, output)| matches!(output, RegistryOutput::ToNode { .. })));
    assert_eq!(node.poll_timeout(), Some(net.now), "more is left");
    for answered in 1..=16 {
        let Some((_, RegistryOutput::RpcAnswer { .. })) = node.poll_output() else { panic!("no answer") };
        assert_eq!(node.poll_timeout() == Some(net.now), answered < 16);
    }
    assert!(node.poll_output().is_none());
    for _ in 0..15 {
        node.handle(net.now, rpc(&notification));
    }
    assert_eq!(node.counters().rpc_refused.get(), 5, "there is room again");
}

#[test]
fn changes_of_one_reactor_apply_in_order_and_reactors_add_up() {
    let mut net = Net::mesh(2);
    let topic = Topic::new("t").unwrap();
    for (reactor, difference) in [(0, 1), (1, 1), (0, -1), (0, 1), (1, 2)] {
        let changes = vec![(topic.clone(), difference)];
        net.nodes[0].handle(net.now, RegistryInput::Topics { reactor: ReactorId(reactor), changes });
    }
    net.settle();
    let snapshot = net.nodes[0].shared.snapshot.load();
    let mut reactors = snapshot.topic("t").unwrap().reactors.to_vec();
    reactors.sort_unstable();
    assert_eq!(reactors, [(ReactorId(0), 1), (ReactorId(1), 3)]);
    assert_eq!(net.count(1, "t", 0), 4);
}

fn ring(nodes: usize) -> Vec<(usize, usize)> {
    (0..nodes).map(|node| (node, (node + 1) % nodes)).collect()
}

#[test]
fn a_change_reaches_every_node_hop_by_hop_and_each_link_carries_it_at_most_once_each_way() {
    let line = [(0, 1), (1, 2), (2, 3), (3, 4)];
    let mut net = Net::graph(5, &line);
    assert!(net.is_converged(&line));
    net.subscribe(0, "t", 1);
    net.collect();
    for hops in 1..5 {
        assert_ne!(net.known(hops, 0), Some(net.nodes[0].own.version()));
        net.deliver();
        assert_eq!(net.known(hops, 0), Some(net.nodes[0].own.version()), "after {hops} links");
    }
    let mut net = Net::graph(6, &ring(6));
    net.subscribe(0, "t", 1);
    net.collect();
    let mut carried = BTreeSet::new();
    while !net.wire.is_empty() {
        for (from, to, ..) in &net.wire {
            assert!(carried.insert((*from, *to)), "{from} to {to} a second time");
        }
        net.deliver();
    }
    assert!(net.is_converged(&ring(6)));
}

#[test]
fn a_node_that_joins_learns_of_all_and_all_learn_of_it() {
    let mut edges = ring(5);
    let mut net = Net::graph(6, &edges);
    net.subscribe(5, "new", 1);
    net.link(5, 2);
    net.settle();
    edges.push((5, 2));
    assert!(net.is_converged(&edges));
}

#[test]
fn two_halves_that_changed_meanwhile_converge_when_they_are_joined() {
    for time in [SECOND, LOST_MEMORY + 2 * DIGEST_INTERVAL] {
        let mut edges = vec![(0, 1), (1, 2), (0, 2), (3, 4), (2, 3)];
        let mut net = Net::graph(5, &edges);
        net.unlink(2, 3);
        edges.pop();
        net.settle();
        for node in 0..5 {
            net.subscribe(node, "meanwhile", 1);
        }
        for _ in 0..=time.as_secs() / DIGEST_INTERVAL.as_secs() {
            net.pass(DIGEST_INTERVAL);
        }
        assert!(net.is_converged(&edges));
        let kept = net.known(0, 4).is_some();
        assert_eq!(kept, time < LOST_MEMORY, "who is lost for long is forgotten");
        assert_eq!(net.nodes[0].tombstones.len(), if kept { 0 } else { 2 });
        net.link(1, 4);
        edges.push((1, 4));
        net.settle();
        assert!(net.is_converged(&edges));
    }
}

#[test]
fn an_older_record_of_a_node_that_was_let_go_is_not_taken_again() {
    let mut net = Net::graph(3, &[(0, 1), (1, 2)]);
    let replayed = net.first_step(2);
    net.subscribe(2, "new", 1);
    net.settle();
    net.unlink(1, 2);
    net.settle();
    for _ in 0..20 {
        net.pass(DIGEST_INTERVAL);
    }
    assert_eq!((net.known(0, 2), net.known(1, 2)), (None, None));
    net.inject(0, 1, PacketType::STATE_SEQ, &Message::decode(&replayed).unwrap());
    net.settle();
    assert_eq!(net.known(0, 2), None);
    // The same record, no older, is taken when the node is back.
    net.link(1, 2);
    net.settle();
    assert!(net.is_converged(&[(0, 1), (1, 2)]));
}

/// Has a neighbour tell of nodes that it has invented.
fn invent(net: &mut Net, at: usize, from: usize, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mut secret = [9; 32];
        secret[..8].copy_from_slice(&number.to_be_bytes());
        let signer = NodeSigner::from_secret_bytes(&secret).unwrap();
        let changes = set("invented", 1);
        let mut entries = Entries::default();
        Change::decode_all(&changes).unwrap().iter().for_each(|change| drop(entries.apply(change)));
        let mut head = Head {
            origin: signer.id(),
            incarnation: 1,
            seq: 1,
            previous: [0; 32],
            root: entries.root(),
            changes_hash: state::changes_hash(&changes),
            signature: [0; 64],
        };
        head.signature = signer.sign(&head.digest());
        net.inject(at, from, PacketType::STATE_SEQ, &Message::Steps(vec![(head, &changes)]));
    }
    net.lose_all();
}

#[test]
fn an_older_record_is_not_taken_though_its_node_is_away_for_long_and_others_are_invented() {
    let mut net = Net::graph(3, &[(0, 1), (1, 2)]);
    let replayed = net.first_step(2);
    net.subscribe(2, "new", 1);
    net.settle();
    for _ in 0..20 {
        net.pass(DIGEST_INTERVAL);
    }
    net.unlink(1, 2);
    net.settle();
    net.pass(LOST_MEMORY + SECOND);
    net.pass(LOST_MEMORY + SECOND);
    assert_eq!(net.known(0, 2), None);
    // Away for more than an hour, while five thousand others come and go.
    for round in 0..61 {
        if round < 5 {
            invent(&mut net, 0, 1, 1_000 * round..1_000 * (round + 1));
            assert!(net.nodes[0].known.len() >= 1_000);
        }
        net.tick(LOST_MEMORY + SECOND);
        net.lose_all();
    }
    net.inject(0, 1, PacketType::STATE_SEQ, &Message::decode(&replayed).unwrap());
    net.settle();
    assert_eq!(net.known(0, 2), None);
    net.link(1, 2);
    net.settle();
    assert!(net.is_converged(&[(0, 1), (1, 2)]));
}

#[test]
fn a_neighbours_later_incarnation_does_not_let_its_older_record_in_when_it_is_gone_before_it_said_anything() {
    let mut net = Net::graph(2, &[(0, 1)]);
    let replayed = net.first_step(1);
    net.subscribe(1, "new", 1);
    net.settle();
    net.unlink(0, 1);
    net.nodes[1] = registry(net.now, &net.keys[1], 2);
    net.up(0, 1);
    net.lose_all();
    net.down(0, 1);
    for _ in 0..2 {
        net.tick(LOST_MEMORY + SECOND);
        net.lose_all();
    }
    assert_eq!(net.known(0, 1), None);
    let messenger = key(7);
    net.keys.push(messenger.clone());
    net.nodes.push(registry(net.now, &messenger, 1));
    net.link(0, 2);
    net.settle();
    net.inject(0, 2, PacketType::STATE_SEQ, &Message::decode(&replayed).unwrap());
    net.settle();
    assert_eq!(net.known(0, 1), None);
}

/// Its neighbour has begun anew and knows nothing of it, but a node behind that one does.
#[test]
fn a_node_whose_clock_went_back_while_it_was_away_hears_of_itself_over_others() {
    let mut net = Net::new(4);
    net.nodes[0] = registry(net.now, &net.keys[0], 5);
    let edges = [(0, 1), (1, 2), (2, 3)];
    edges.iter().for_each(|&(one, other)| net.link(one, other));
    net.settle();
    net.unlink(0, 1);
    for _ in 0..2 {
        net.pass(LOST_MEMORY + SECOND);
    }
    assert_eq!(net.known(3, 0), None);
    net.unlink(1, 2);
    net.nodes[0] = registry(net.now, &net.keys[0], 1);
    net.nodes[1] = registry(net.now, &net.keys[1], 2);
    net.subscribe(0, "back", 1);
    net.link(0, 1);
    net.settle();
    net.link(1, 2);
    for _ in 0..5 {
        net.pass(DIGEST_INTERVAL);
    }
    assert_eq!((net.nodes[0].shared.incarnation(), &net.incarnations[..]), (6, &[0][..]));
    net.unlink(0, 1);
    net.link(0, 1);
    net.settle();
    assert!(net.is_converged(&edges));
    assert_eq!(net.count(3, "back", 0), 1);
}

#[test]
fn a_restarted_node_is_known_by_its_new_record_everywhere() {
    let edges = [(0, 1), (1, 2), (2, 3)];
    let mut net = Net::graph(4, &edges);
    net.subscribe(0, "before", 1);
    net.settle();
    net.nodes[0] = registry(net.now, &net.keys[0], 2);
    net.subscribe(0, "after", 1);
    net.link(0, 1);
    net.settle();
    assert!(net.is_converged(&edges));
    let id = net.keys[0].id();
    let topics: Vec<&str> = net.nodes[3].known[&id].record.entries().topics().collect();
    assert_eq!(topics, ["after"]);
}

#[test]
fn a_node_whose_clock_went_back_takes_a_later_incarnation_when_it_hears_of_itself() {
    let edges = [(0, 1), (1, 2)];
    let mut net = Net::graph(3, &edges);
    net.subscribe(0, "before", 1);
    net.settle();
    net.nodes[0] = registry(net.now, &net.keys[0], 0);
    net.subscribe(0, "after", 1);
    net.unlink(1, 0);
    net.link(0, 1);
    net.settle();
    assert_eq!(net.nodes[0].shared.incarnation(), 2);
    assert_eq!(net.incarnations, [0], "links are made anew");
    net.unlink(0, 1);
    net.link(0, 1);
    net.settle();
    assert!(net.is_converged(&edges));
    assert_eq!(net.count(1, "after", 0), 1);
    assert_eq!(net.count(1, "before", 0), 0);
    assert_eq!(net.nodes[0].counters.own_id_elsewhere.get(), 1);
}

#[test]
fn a_node_whose_clock_went_back_takes_a_later_incarnation_of_each_part_of_the_network_that_knows_another_one()
{
    let edges = [(0, 1), (0, 2)];
    let mut net = Net::graph(3, &edges);
    net.unlink(0, 2);
    net.settle();
    // Only node 2 hears of an incarnation in between.
    net.unlink(0, 1);
    net.nodes[0] = registry(net.now, &net.keys[0], 7);
    net.link(0, 2);
    net.settle();
    net.unlink(0, 2);
    net.nodes[0] = registry(net.now, &net.keys[0], 0);
    for (other, incarnation) in [(1, 2), (2, 8)] {
        net.link(0, other);
        net.settle();
        assert_eq!(net.nodes[0].shared.incarnation(), incarnation);
        net.unlink(0, other);
        net.link(0, other);
        net.settle();
    }
    assert_eq!(net.incarnations, [0, 0]);
}

#[test]
fn two_nodes_with_one_key_take_later_incarnations_no_more_often_than_the_bound() {
    let mut net = Net::mesh(2);
    net.settle();
    for incarnation in 2..20 {
        let changes = set("t", 1);
        let mut head = net.forge(1, 0, &changes, |head| head.incarnation = 10 * incarnation);
        head.signature = net.keys[0].sign(&head.digest());
        net.inject(0, 1, PacketType::STATE_SEQ, &Message::Steps(vec![(head, &changes)]));
        net.settle();
    }
    assert_eq!(net.incarnations.len(), INCARNATIONS_MAX as usize);
}

#[test]
fn what_nobody_signed_makes_no_node_take_a_later_incarnation() {
    let mut net = Net::mesh(2);
    let id = net.keys[0].id();
    let own = Version { origin: id, incarnation: u64::MAX, seq: 9 };
    net.inject(0, 1, PacketType::STATE_SEQ, &Message::List(vec![own]));
    net.settle();
    let changes = set("t", 1);
    let mut head = net.forge(1, 0, &changes, |head| head.incarnation = 9);
    head.signature = net.keys[1].sign(&head.digest());
    net.inject(0, 1, PacketType::STATE_SEQ, &Message::Steps(vec![(head, &changes)]));
    net.settle();
    assert_eq!(net.nodes[0].shared.incarnation(), 1);
}

#[test]
fn a_neighbour_that_claims_what_it_does_not_have_is_asked_once_and_no_more() {
    let mut net = Net::graph(3, &[(0, 1), (1, 2)]);
    let claimed = Version { origin: net.keys[2].id(), incarnation: 1, seq: 1_000 };
    let stranger = Version { origin: key(7).id(), incarnation: 1, seq: 1 };
    net.inject(0, 1, PacketType::STATE_SEQ, &Message::List(vec![claimed, stranger]));
    net.collect();
    assert_eq!(net.wire.len(), 2);
    net.settle();
    net.tick(DIGEST_INTERVAL);
    let digests = net.deliver();
    assert_eq!(digests, 4, "and nothing else");
    net.settle();
    assert!(!net.nodes[0].known.contains_key(&stranger.origin));
    assert!(net.nodes[0].behind.is_empty());
}

#[test]
fn a_request_that_is_lost_is_made_of_another_neighbour() {
    let edges = [(0, 1), (0, 2), (1, 3), (2, 3)];
    let mut net = Net::graph(4, &edges);
    net.subscribe(3, "t", 1);
    // Node 0 hears of it, and the way back to the one that told it is dead.
    net.deliver();
    net.deliver();
    net.lose_all();
    let version = net.nodes[3].own.version();
    let later = Version { seq: version.seq + 1, ..version };
    net.subscribe(3, "t", 1);
    net.deliver();
    net.lose_all();
    for teller in [1, 2] {
        net.inject(0, teller, PacketType::STATE_SEQ, &Message::List(vec![later]));
    }
    net.lose_all();
    net.tick(DIGEST_INTERVAL);
    net.collect();
    let asked: Vec<usize> = net
        .wire
        .iter()
        .filter(|(from, _, packet_type, ..)| *from == 0 && *packet_type == PacketType::STATE_REQUEST)
        .map(|(_, to, ..)| *to)
        .collect();
    assert_eq!(asked.len(), 1);
    net.settle();
    assert!(net.is_converged(&edges));
}

#[test]
fn random_networks_converge_however_links_come_and_go_and_messages_are_lost() {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    for seed in 0..8 {
        let mut random = SmallRng::seed_from_u64(seed);
        let nodes = random.random_range(3..16);
        let mut net = Net::new(nodes);
        let mut edges: Vec<(usize, usize)> = Vec::new();
        for round in 0..60 {
            let (one, other) = (random.random_range(0..nodes), random.random_range(0..nodes));
            let edge = (one.min(other), one.max(other));
            if one != other {
                if let Some(at) = edges.iter().position(|known| *known == edge) {
                    edges.swap_remove(at);
                    net.unlink(one, other);
                } else {
                    edges.push(edge);
                    net.link(one, other);
                }
            }
            net.subscribe(one, &format!("t{round}"), 1);
            for _ in 0..random.random_range(0..4) {
                net.deliver();
                if random.random_bool(0.1) {
                    net.lose_all();
                }
            }
            net.tick(Duration::from_millis(random.random_range(0..3_000)));
        }
        // Three digests heal whatever was lost.
        for _ in 0..3 {
            net.settle();
            net.tick(DIGEST_INTERVAL);
        }
        net.settle();
        assert!(net.is_converged(&edges), "seed {seed}");
        assert!(net.closed.is_empty());
        net.tick(DIGEST_INTERVAL);
        assert_eq!(net.deliver(), 2 * edges.len(), "seed {seed}: digests agree");
        net.settle();
    }
}

#[test]
fn neighbours_neighbours_are_found_by_the_addresses_that_they_tell() {
    let mut net = Net::new(5);
    for (node, address) in [(1, "b:1"), (2, "10.0.0.3:30300"), (3, "not an address"), (4, "e:1")] {
        let change = (vec![state::KIND_ADDRESS], Some(address.as_bytes().to_vec()));
        net.nodes[node].own.change(change.0, change.1);
    }
    net.nodes[0] = {
        let settings = Settings { discovers: true, ..Settings::default() };
        let shared = Shared::new(net.keys[0].id(), 1, 1, net.now, settings);
        Registry::new(Arc::new(shared), net.keys[0].clone())
    };
    for (one, other) in [(0, 1), (1, 2), (1, 3), (2, 4)] {
        net.link(one, other);
    }
    net.settle();
    let found = |net: &mut Net| {
        let found = net.nodes[0].take_discovered()?;
        let mut addresses: Vec<String> = found.into_values().collect();
        addresses.sort();
        Some(addresses)
    };
    assert_eq!(found(&mut net), Some(vec!["10.0.0.3:30300".to_owned(), "b:1".to_owned()]));
    assert_eq!(found(&mut net), None, "nothing new");
    net.link(0, 2);
    net.settle();
    assert_eq!(found(&mut net).map(|found| found.len()), Some(3), "and whom it is linked with stays");
}

#[test]
fn a_node_whose_clock_went_back_while_it_was_away_for_long_is_told_by_what_remains_of_its_record() {
    let edges = [(0, 1), (1, 2)];
    let mut net = Net::graph(3, &edges);
    net.nodes[0] = registry(net.now, &net.keys[0], 5);
    net.unlink(1, 0);
    net.link(0, 1);
    net.settle();
    net.unlink(0, 1);
    for _ in 0..20 {
        net.pass(DIGEST_INTERVAL);
    }
    assert_eq!(net.known(1, 0), None);
    net.nodes[0] = registry(net.now, &net.keys[0], 2);
    net.link(0, 1);
    net.settle();
    assert_eq!(net.nodes[0].shared.incarnation(), 6);
    net.unlink(0, 1);
    net.link(0, 1);
    net.settle();
    assert!(net.is_converged(&edges));
}

#[test]
fn an_incarnation_that_only_a_hello_named_does_not_outlive_its_link() {
    let mut net = Net::graph(2, &[]);
    let absurd = |incarnation: u64| RegistryInput::NodeUp {
        id: key(0).id(),
        incarnation,
        reactor: HOME,
        address: String::new(),
        agency: String::new(),
        name: String::new(),
    };
    net.nodes[1].handle(net.now, absurd(u64::MAX));
    net.lose_all();
    let id = net.keys[0].id();
    net.nodes[1].handle(net.now, RegistryInput::NodeDown { id, incarnation: u64::MAX });
    net.link(0, 1);
    net.settle();
    assert!(net.is_converged(&[(0, 1)]));
}

#[test]
fn the_report_of_the_network_has_every_node_with_the_ways_to_it_and_what_it_says() {
    use crate::relay::report::Reachability;
    // A ring of four, and a tail that passes nothing on, behind which is one more.
    let mut net = Net::new(6);
    let shared = &net.nodes[4].shared;
    let settings = Settings { relays: false, ..Settings::default() };
    let shared = Shared::new(shared.id, 1, 1, net.now, settings);
    net.nodes[4] = Registry::new(Arc::new(shared), net.keys[4].clone());
    for (one, other) in [(0, 1), (1, 2), (2, 3), (3, 0), (2, 4), (4, 5)] {
        net.link(one, other);
    }
    net.subscribe(2, "t", 1);
    net.subscribe(2, "u", 3);
    net.settle();
    let id = |index: usize| key(index).id();
    let report = |net: &Net| net.nodes[0].report_network().nodes;
    let of = |net: &Net, index: usize| report(net).into_iter().find(|node| node.id == id(index)).unwrap();
    assert_eq!(report(&net).len(), 6);
    assert_eq!((report(&net)[0].id, report(&net)[0].standing), (id(0), Reachability::Own));
    let far = of(&net, 2);
    assert_eq!((far.standing, far.label.is_none()), (Reachability::Reachable { hops: 2 }, true));
    let mut both = vec![id(1), id(3)];
    both.sort();
    assert_eq!(far.next_hops, both);
    assert_eq!(far.entries.topic_sessions("").collect::<Vec<_>>(), [("t", 1), ("u", 3)]);
    assert_eq!(far.entries.topic_sessions("t").collect::<Vec<_>>(), [("u", 3)]);
    let mut neighbours = vec![id(1), id(3), id(4)];
    neighbours.sort();
    assert_eq!(far.entries.neighbours().collect::<Vec<_>>(), neighbours);
    let version = net.nodes[2].own.version();
    assert_eq!((far.incarnation, far.seq), (version.incarnation, version.seq));
    let near = of(&net, 1);
    assert_eq!((near.standing, near.is_routed), (Reachability::Reachable { hops: 1 }, true));
    assert_eq!(near.label.unwrap().name, "node1");
    assert_eq!(of(&net, 4).standing, Reachability::Reachable { hops: 3 });
    assert_eq!(of(&net, 5).standing, Reachability::OutOfReach);
    assert_eq!(of(&net, 5).next_hops, []);
    let cut = net.now;
    net.unlink(2, 4);
    net.settle();
    net.pass(WAY_GRACE);
    for lost in [4, 5] {
        assert!(matches!(of(&net, lost).standing, Reachability::Lost { since } if since >= cut), "{lost}");
    }
}
