//! AMOP by the ledger node (INTEROP §1.3): what goes there and what comes from there, that what the mesh reaches goes first, and
//! that nothing is doubled, nor lost that one way carried, whatever becomes of ledger nodes and links.

mod worlds;

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use amop::internal::{
    relay::{
        bandwidth::Limiter,
        ledger::{Ledger, PUSH_KEPT, WAIT_MAX},
        peer_2x::COPIES_TIME,
        settings::Settings,
    },
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Seq},
        trace::{AttemptKind, AttemptOutcome, End, Role},
    },
};

use crate::kit::{AppIndex, Behaviour, Network, Received};

const SOON: Duration = Duration::from_millis(200);
const ANSWERED: Duration = Duration::from_secs(31);

fn settings(ledger: Ledger) -> Settings {
    // These applications send no heartbeats.
    Settings { ledger: Some(ledger), idle_timeout: Duration::from_secs(3_600), ..Settings::default() }
}

fn with_amop(nodes: u16) -> Ledger {
    Ledger { amop: true, ..Ledger::of_nodes(nodes) }
}

/// A node of one reactor with a ledger node behind it, and one more ledger node, which is another institution's.
fn network(seed: u64) -> Network {
    let mut net = Network::new(seed);
    (0..2).for_each(|_| _ = net.add_ledger());
    net.add_node(1, settings(with_amop(1)));
    net
}

/// The same with a second node, which has no ledger node and is linked with the first one.
fn mesh(seed: u64) -> Network {
    let mut net = network(seed);
    net.add_node(1, Settings::default());
    net.connect(0, 1);
    net.run_for(SOON);
    net
}

fn silent(net: &mut Network, topics: &[&str]) -> AppIndex {
    let app = net.app(0, Behaviour::Silent);
    net.subscribe(app, topics);
    net.run_for(SOON);
    app
}

fn total(net: &Network, of: fn(&amop::internal::relay::counters::Counters) -> u64) -> u64 {
    net.nodes[0].total(of)
}

/// Frames of a type that a connection brought its ledger node.
fn of_type(net: &Network, connection: usize, frame_type: FrameType) -> Vec<Received> {
    net.chain.connections[connection].of_type(frame_type).into_iter().cloned().collect()
}

fn unicasts(net: &Network, app: AppIndex) -> Vec<&Received> {
    net.apps[app].received.iter().filter(|one| one.header.frame_type == FrameType::REQUEST).collect()
}

fn answer_with(net: &mut Network, app: AppIndex, seq: &Seq, code: i32, data: &[u8]) {
    net.bytes(app, sdk::encode(FrameType::RESPONSE, seq, ResultCode(code), data));
    net.run_for(SOON);
}

#[test]
fn ordinary_topics_of_a_session_are_its_ledger_nodes_too_and_no_private_ones() {
    let mut net = network(1);
    let app = net.app(0, Behaviour::Silent);
    net.run_for(SOON);
    assert_eq!(net.ledger_connections().count(), 0, "nobody needs it yet");
    net.subscribe(app, &["a", "#!$TopicNeedVerify_private", "_block_notify_1", "b"]);
    net.run_for(SOON);
    assert_eq!(net.chain.connections[0].topics, ["_block_notify_1", "a", "b"]);
    net.subscribe(app, &["b", "c"]);
    net.run_for(SOON);
    assert_eq!(net.chain.connections[0].topics, ["b", "c"]);
    // What changes of private topics only is nothing new.
    net.subscribe(app, &["b", "c", "#!$TopicNeedVerify_private"]);
    net.run_for(SOON);
    assert_eq!(of_type(&net, 0, FrameType::SUBSCRIBE).len(), 2);
    // Nor are any pushed that come from there, whatever that node thinks.
    for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
        let topic = "#!$TopicNeedVerify_private";
        net.ledger_sends_bytes(0, sdk::encode_amop(frame_type, &[b'9'; 32], ResultCode::OK, topic, b"x"));
        net.run_for(SOON);
        assert_eq!(net.pushed(app, frame_type).len(), 0);
    }
    net.kill_ledger(0);
    net.revive_ledger(0);
    net.run_for(Duration::from_secs(5));
    let topics = net.ledger_connections().next().expect("it is connected again").topics.clone();
    assert_eq!(topics, ["b", "c"]);
    net.subscribe(app, &[]);
    net.run_for(SOON);
    assert_eq!(net.ledger_connections().next().expect("it is there").topics, [""; 0]);
}

#[test]
fn without_being_told_so_a_node_passes_no_message_to_or_from_its_ledger_node() {
    let mut net = Network::new(2);
    (0..2).for_each(|_| _ = net.add_ledger());
    net.add_node(1, settings(Ledger::of_nodes(1)));
    let direct = net.direct_app(1, &["t"], true);
    let app = silent(&mut net, &["t", "_block_notify_1"]);
    let other = net.app(0, Behaviour::Silent);
    net.multicast(other, "t", b"x");
    let seq = net.unicast(other, "elsewhere", b"x");
    assert_eq!(net.answer(other, &seq, SOON).0, 100);
    net.direct_sends(direct, FrameType::MULTICAST, "t", b"x");
    for frame_type in [FrameType::REQUEST, FrameType::MULTICAST, FrameType::RESPONSE] {
        net.ledger_sends(0, frame_type, &[b'7'; 32], b"\x02tx");
    }
    net.run_for(SOON);
    assert_eq!(net.pushed(app, FrameType::MULTICAST).len(), 1);
    assert_eq!((unicasts(&net, app).len(), net.direct_pushed(direct, FrameType::MULTICAST).len()), (0, 0));
    assert_eq!(total(&net, |counters| counters.ledger_ignored.get()), 3);
}

#[test]
fn a_unicast_from_there_is_pushed_under_its_own_seq_and_its_answer_goes_back_there_only() {
    let mut net = mesh(3);
    let direct = net.direct_app(1, &[], false);
    let app = silent(&mut net, &["t"]);
    let seq = net.direct_sends(direct, FrameType::REQUEST, "t", b"question");
    net.run_for(SOON);
    let pushed = unicasts(&net, app);
    assert_eq!((pushed.len(), pushed[0].header.seq, &pushed[0].data[..]), (1, seq, &b"\x02tquestion"[..]));
    answer_with(&mut net, app, &seq, 7, b"\x02tanswer");
    let received = &net.chain.messages.direct[direct].received;
    assert_eq!(received.len(), 1);
    let header = received[0].header;
    assert_eq!(
        (header.frame_type, header.seq, header.result.0, &received[0].data[..]),
        (FrameType::RESPONSE, seq, 7, &b"\x02tanswer"[..])
    );
    // A second answer, and one in time's end, is nobody's.
    answer_with(&mut net, app, &seq, 0, b"\x02tagain");
    let late = net.direct_sends(direct, FrameType::REQUEST, "t", b"late");
    net.run_for(PUSH_KEPT + SOON);
    answer_with(&mut net, app, &late, 0, b"\x02tlate");
    assert_eq!(total(&net, |counters| counters.unsolicited_answers.get()), 2);
    let codes: Vec<i32> =
        net.chain.messages.direct[direct].received.iter().map(|one| one.header.result.0).collect();
    assert_eq!(codes, [7, 104], "that node has its own timeout");
    assert_eq!(total(&net, |counters| counters.ledger_answers.get()), 1);
}

#[test]
fn what_became_of_a_message_that_goes_by_a_ledger_node_or_comes_from_there_is_told_by_its_seq() {
    let mut net = network(19);
    let app = silent(&mut net, &["t"]);
    net.nodes[0].shared.tracing.store(true, Relaxed);
    let direct = net.direct_app(1, &["there"], true);
    let told = |net: &mut Network, seq: &Seq| {
        let mut known = net.known_of(0, seq);
        assert_eq!(known.len(), 1, "{known:?}");
        let trace = known.remove(0).trace;
        let attempt = trace.attempts.as_slice().last().copied().unwrap_or_default();
        (trace.role, trace.end, trace.code, attempt.kind, attempt.outcome)
    };
    let seq = net.unicast(app, "there", b"x");
    assert_eq!(net.answer(app, &seq, SOON).0, 0);
    let (kind, session) = (AttemptKind::Ledger, AttemptKind::Session);
    let (role, of_ledger) = (Role::Request, Role::OfLedger);
    assert_eq!(told(&mut net, &seq), (role, End::BySession, 0, kind, AttemptOutcome::Answered));
    let seq = net.unicast(app, "nobody", b"x");
    assert_eq!(net.answer(app, &seq, SOON).0, 100);
    assert_eq!(told(&mut net, &seq), (role, End::ByNode, 100, kind, AttemptOutcome::NobodyLeft));
    let seq = net.multicast(app, "there", b"x");
    net.run_for(SOON);
    assert_eq!(told(&mut net, &seq), (Role::Multicast, End::ByNode, 0, kind, AttemptOutcome::Sent));
    let answered = net.direct_sends(direct, FrameType::REQUEST, "t", b"x");
    net.run_for(SOON);
    answer_with(&mut net, app, &answered, 7, b"");
    assert_eq!(told(&mut net, &answered), (of_ledger, End::BySession, 7, session, AttemptOutcome::Answered));
    let late = net.direct_sends(direct, FrameType::REQUEST, "t", b"x");
    net.run_for(PUSH_KEPT + SOON);
    assert_eq!(told(&mut net, &late), (of_ledger, End::Unanswered, 0, session, AttemptOutcome::Silent));
    net.ledger_sends_bytes(0, sdk::encode_amop(FrameType::REQUEST, &[b'9'; 32], ResultCode::OK, "u", b""));
    net.run_for(SOON);
    let refused = told(&mut net, &[b'9'; 32]);
    assert_eq!((refused.0, refused.1, refused.2), (of_ledger, End::ByNode, 101));
}

#[test]
fn a_unicast_that_nobody_in_the_mesh_can_get_goes_by_the_ledger_node_under_a_seq_of_its_own() {
    let mut net = mesh(4);
    let direct = net.direct_app(1, &["there"], true);
    let app = net.app(0, Behaviour::Silent);
    // It never subscribed, and so has no connection yet.
    for payload in [&b"one"[..], b"two"] {
        let seq = net.unicast(app, "there", payload);
        let expected = [b"\x06there", payload].concat();
        assert_eq!(net.answer(app, &seq, SOON), (0, expected.clone()));
        let sent = of_type(&net, 0, FrameType::REQUEST);
        let last = sent.last().expect("it went there");
        assert_ne!(last.header.seq, seq);
        assert_eq!(last.data, expected);
    }
    let seqs: Vec<Seq> = of_type(&net, 0, FrameType::REQUEST).iter().map(|one| one.header.seq).collect();
    assert!(seqs[0] != seqs[1] && seqs.iter().flatten().all(u8::is_ascii_hexdigit));
    assert_eq!(net.direct_pushed(direct, FrameType::REQUEST).len(), 2);
    assert_eq!(total(&net, |counters| counters.ledger_unicasts.get()), 2);
}

#[test]
fn what_the_mesh_reaches_goes_there_and_not_by_the_ledger_node() {
    let mut net = mesh(5);
    net.direct_app(1, &["t"], true);
    let app = net.app(0, Behaviour::Silent);
    net.subscriber(1, &["t"]);
    net.run_for(SOON);
    for _ in 0..20 {
        let seq = net.unicast(app, "t", b"x");
        assert_eq!(net.answer(app, &seq, SOON).0, 0);
    }
    assert_eq!(total(&net, |counters| counters.ledger_unicasts.get()), 0);
    // Nor when it fails there, since it may have been pushed.
    let silent = net.app(1, Behaviour::Silent);
    net.subscribe(silent, &["silent"]);
    net.direct_app(1, &["silent"], true);
    net.run_for(SOON);
    let seq = net.unicast(app, "silent", b"x");
    assert_eq!(net.answer(app, &seq, ANSWERED).0, 102);
    // The same where several are tried one after the other, and their node has kept the message for that.
    for _ in 0..2 {
        let silent = net.app(0, Behaviour::Silent);
        net.subscribe(silent, &["several"]);
    }
    net.direct_app(1, &["several"], true);
    net.run_for(SOON);
    let seq = net.unicast(app, "several", b"x");
    assert_eq!(net.answer(app, &seq, ANSWERED).0, 102);
    // Nor when nobody there can take it.
    let occupied = net.app(0, Behaviour::Silent);
    net.subscribe(occupied, &["occupied"]);
    net.direct_app(1, &["occupied"], true);
    net.run_for(SOON);
    let other = net.app(0, Behaviour::Silent);
    let seq = net.unicast(other, "occupied", b"x");
    net.run_for(SOON);
    net.bytes(app, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "occupied", b"y"));
    assert_eq!(net.answer(app, &seq, SOON).0, 101);
    assert_eq!(total(&net, |counters| counters.ledger_unicasts.get()), 0);
}

#[test]
fn codes_of_the_ledger_node_are_told_as_this_network_has_them() {
    let mut net = network(6);
    let app = net.app(0, Behaviour::Silent);
    net.direct_app(1, &["silent"], false);
    let seq = net.unicast(app, "nobody", b"x");
    assert_eq!(net.answer(app, &seq, SOON), (100, Vec::new()));
    // 104, with the request's own data.
    let seq = net.unicast(app, "silent", b"x");
    assert_eq!(net.answer(app, &seq, ANSWERED), (102, Vec::new()));
    net.chain.messages.is_over_bandwidth = true;
    let seq = net.unicast(app, "silent", b"x");
    assert_eq!(net.answer(app, &seq, SOON), (103, Vec::new()));
    net.multicast(app, "silent", b"x");
    net.run_for(SOON);
    assert_eq!(total(&net, |counters| counters.ledger_messages_refused.get()), 1);
    // A subscriber's own code and data pass unchanged, whatever they are.
    net.chain.nodes[0].is_mute = true;
    for (code, data) in [(-5, &b"\x02tx"[..]), (102, b"\x02tx"), (7, b"")] {
        let seq = net.unicast(app, "t", b"x");
        net.run_for(SOON);
        let own = of_type(&net, 0, FrameType::REQUEST).last().expect("it went there").header.seq;
        net.ledger_sends_bytes(0, sdk::encode(FrameType::RESPONSE, &own, ResultCode(code), data));
        assert_eq!(net.answer(app, &seq, SOON), (code, data.to_vec()));
    }
    // One that never answers: it had it.
    let seq = net.unicast(app, "t", b"x");
    assert_eq!(net.answer(app, &seq, ANSWERED), (102, Vec::new()));
    assert_eq!(total(&net, |counters| counters.ledger_messages_unknown.get()), 1);
    net.drain(0);
    assert!(net.is_drained(0));
}

#[test]
fn a_ledger_node_that_is_lost_has_unicasts_answered_102_and_none_is_sent_twice() {
    let mut net = network(7);
    let direct = net.direct_app(1, &["t"], false);
    let app = net.app(0, Behaviour::Silent);
    let seqs: Vec<Seq> = (0..3).map(|_| net.unicast(app, "t", b"x")).collect();
    net.run_for(SOON);
    assert_eq!(net.direct_pushed(direct, FrameType::REQUEST).len(), 3);
    net.kill_ledger(0);
    net.run_for(SOON);
    for seq in &seqs {
        assert_eq!(net.answer(app, seq, SOON), (102, Vec::new()));
    }
    assert_eq!(total(&net, |counters| counters.ledger_messages_unknown.get()), 3);
    // What comes meanwhile waits for the next connection, but not for ever; it was not sent, and so nobody has it.
    let late = net.unicast(app, "t", b"x");
    assert_eq!(net.answer(app, &late, WAIT_MAX + SOON), (100, Vec::new()));
    let waiting = net.unicast(app, "t", b"x");
    net.run_for(Duration::from_secs(1));
    net.revive_ledger(0);
    net.chain.messages.direct[direct].answers = true;
    assert_eq!(net.answer(app, &waiting, WAIT_MAX).0, 0);
    net.run_for(Duration::from_secs(100));
    assert_eq!(net.direct_pushed(direct, FrameType::REQUEST).len(), 4);
    assert_eq!(total(&net, |counters| counters.ledger_messages_not_sent.get()), 1);
}

#[test]
fn a_long_answer_that_has_begun_to_come_has_the_time_that_it_takes() {
    let mut net = network(18);
    let app = net.app(0, Behaviour::Silent);
    net.chain.nodes[0].is_mute = true;
    let seq = net.unicast(app, "t", b"x");
    net.run_for(Duration::from_secs(29));
    let own = of_type(&net, 0, FrameType::REQUEST)[0].header.seq;
    let data = [b"\x02t", &vec![7; 1 << 20][..]].concat();
    let answer = sdk::encode(FrameType::RESPONSE, &own, ResultCode::OK, &data);
    net.ledger_begins(0, &answer);
    net.run_for(Duration::from_secs(9));
    net.ledger_sends_bytes(0, answer);
    assert_eq!(net.answer(app, &seq, SOON), (0, data));
}

#[test]
fn a_publisher_that_leaves_leaves_nothing_behind() {
    let mut net = network(8);
    net.kill_ledger(0);
    let app = net.app(0, Behaviour::Silent);
    net.unicast(app, "t", b"x");
    net.multicast(app, "t", b"x");
    net.run_for(SOON);
    net.drain(0);
    assert!(!net.is_drained(0));
    net.disconnect(app);
    net.run_for(SOON);
    assert!(net.is_drained(0));
    assert_eq!(total(&net, |counters| counters.ledger_messages_not_sent.get()), 2);
}

#[test]
fn a_multicast_goes_to_the_mesh_and_once_to_the_ledger_node_and_comes_once_to_each() {
    let mut net = mesh(9);
    let direct = net.direct_app(1, &["t"], false);
    let publisher = net.app(0, Behaviour::Silent);
    let subscribers = [silent(&mut net, &["t"]), silent(&mut net, &["t"])];
    let elsewhere = net.app(1, Behaviour::Silent);
    net.subscribe(elsewhere, &["t"]);
    net.run_for(SOON);
    // The first one waits until there is a connection.
    for payload in [&b"one"[..], b"two"] {
        let seq = net.multicast(publisher, "t", payload);
        net.run_for(SOON);
        assert_eq!(net.answers(publisher, &seq).len(), 1);
    }
    let both = [b"one", b"two"].map(|payload| ("t".to_owned(), payload.to_vec()));
    for app in subscribers.into_iter().chain([elsewhere]) {
        assert_eq!(net.pushed(app, FrameType::MULTICAST), both);
    }
    assert_eq!(net.direct_pushed(direct, FrameType::MULTICAST), both, "in order, once");
    // By the publisher's connection and no other one.
    let connections: Vec<usize> =
        (0..net.chain.connections.len()).map(|at| of_type(&net, at, FrameType::MULTICAST).len()).collect();
    assert_eq!(connections.iter().sum::<usize>(), 2);
    assert_eq!(connections.iter().filter(|count| **count > 0).count(), 1);
}

/// Two nodes, each with its own ledger node, which are linked, as the nodes are.
fn two_institutions(seed: u64) -> (Network, AppIndex, AppIndex) {
    let mut net = Network::new(seed);
    for node in 0..2 {
        net.add_ledger();
        net.add_node(1, settings(with_amop(1)));
        net.chain.behind.insert(node, vec![node]);
    }
    net.connect(0, 1);
    net.run_for(SOON);
    let [publisher, subscriber] = [0, 1].map(|node| net.app(node, Behaviour::Silent));
    net.subscribe(publisher, &["of the publisher"]);
    net.subscribe(subscriber, &["t"]);
    net.run_for(SOON);
    let ledgers: Vec<usize> = net.ledger_connections().map(|one| one.ledger).collect();
    assert_eq!(ledgers, [0, 1]);
    (net, publisher, subscriber)
}

#[test]
fn copies_from_both_sides_are_one_message_whichever_comes_first() {
    for slow_mesh in [false, true] {
        let (mut net, publisher, subscriber) = two_institutions(10);
        let slow = Duration::from_millis(100);
        if slow_mesh {
            net.timing.between.insert((0, 1), slow..=slow);
        }
        for number in 0..20u8 {
            net.multicast(publisher, "t", &[number]);
        }
        net.run_for(Duration::from_secs(1));
        let payloads: Vec<u8> =
            net.pushed(subscriber, FrameType::MULTICAST).iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(payloads, (0..20).collect::<Vec<_>>(), "slow mesh: {slow_mesh}");
        assert_eq!(net.nodes[1].total(|counters| counters.ledger_copies_dropped.get()), 20);
        // Where one way is closed, the other one carries it.
        net.chain.messages.is_cut = true;
        net.multicast(publisher, "t", b"by the mesh");
        net.run_for(SOON);
        net.chain.messages.is_cut = false;
        net.break_links(0, 1);
        net.multicast(publisher, "t", b"by the ledger");
        net.run_for(Duration::from_secs(1));
        assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 22);
    }
}

#[test]
fn what_has_the_same_seq_and_another_body_or_is_sent_again_is_another_message() {
    let (mut net, publisher, subscriber) = two_institutions(11);
    let seq = [b'5'; 32];
    let frame = |payload: &[u8]| sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, "t", payload);
    for payload in [&b"one"[..], b"two", b"two"] {
        net.bytes(publisher, frame(payload));
    }
    net.run_for(SOON);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 3);
    // One by the mesh alone, and another one under its seq by the ledger node alone.
    net.chain.messages.is_cut = true;
    net.bytes(publisher, frame(b"by the mesh"));
    net.run_for(SOON);
    net.ledger_sends_bytes(1, frame(b"by the ledger"));
    net.run_for(SOON);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 5);
    // After its time a copy is one more message.
    net.run_for(COPIES_TIME);
    net.ledger_sends_bytes(1, frame(b"one"));
    net.run_for(SOON);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 6);
}

#[test]
fn a_copy_that_a_full_queue_dropped_comes_by_the_other_way() {
    let mut net = Network::new(12);
    (0..2).for_each(|_| _ = net.add_ledger());
    net.add_node(1, Settings { session_queue_bytes_max: 50_000, ..settings(with_amop(1)) });
    let reader = silent(&mut net, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.set_rate(reader, 100_000);
    let seqs: Vec<Seq> =
        (0..10u8).map(|number| net.multicast(publisher, "t", &vec![number; 20_000])).collect();
    net.run_for(Duration::from_millis(50));
    let dropped = total(&net, |counters| counters.dropped_queue_full.get());
    assert!(dropped > 3, "{dropped}");
    for (number, seq) in (0..10u8).zip(seqs) {
        let payload = vec![number; 20_000];
        net.ledger_sends_bytes(
            0,
            sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, "t", &payload),
        );
    }
    net.run_for(Duration::from_secs(10));
    let mut got: Vec<u8> =
        net.pushed(reader, FrameType::MULTICAST).iter().map(|(_, payload)| payload[0]).collect();
    got.sort_unstable();
    assert_eq!(got, (0..10).collect::<Vec<_>>());
    assert_eq!(total(&net, |counters| counters.ledger_copies_dropped.get()), 10 - dropped);
}

#[test]
fn a_seq_from_there_that_is_under_way_from_the_mesh_is_answered_101_and_confuses_nobody() {
    let mut net = mesh(13);
    let app = silent(&mut net, &["t"]);
    let publisher = net.app(1, Behaviour::Silent);
    let direct = net.direct_app(1, &[], false);
    let seq = net.unicast(publisher, "t", b"of the mesh");
    net.run_for(SOON);
    let frame = |payload: &[u8]| sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "t", payload);
    net.direct_sends_bytes(direct, &frame(b"of the ledger"));
    net.run_for(SOON);
    let codes = |net: &Network| -> Vec<i32> {
        net.chain.messages.direct[direct].received.iter().map(|one| one.header.result.0).collect()
    };
    assert_eq!((unicasts(&net, app).len(), codes(&net)), (1, vec![101]));
    answer_with(&mut net, app, &seq, 0, b"\x02tanswer");
    assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x02tanswer".to_vec()));
    assert_eq!(codes(&net), [101]);
    // The other way round.
    net.direct_sends_bytes(direct, &frame(b"of the ledger"));
    net.run_for(SOON);
    net.bytes(publisher, frame(b"of the mesh"));
    net.run_for(SOON);
    assert_eq!(net.answers(publisher, &seq)[1].header.result.0, 101);
    // A second one from there under the same seq would be confused there.
    net.ledger_sends_bytes(0, frame(b"once more"));
    net.run_for(SOON);
    assert_eq!(unicasts(&net, app).len(), 2);
    answer_with(&mut net, app, &seq, 0, b"\x02tanswer");
    assert_eq!(codes(&net), [101, 0]);
    assert_eq!(total(&net, |counters| counters.ledger_pushes_refused.get()), 2);
    // A topic that was dropped meanwhile.
    net.ledger_sends_bytes(0, sdk::encode_amop(FrameType::REQUEST, &[b'9'; 32], ResultCode::OK, "u", b""));
    net.run_for(SOON);
    let told = of_type(&net, 0, FrameType::RESPONSE);
    assert_eq!(told.last().map(|one| (one.header.seq, one.header.result.0)), Some(([b'9'; 32], 101)));
}

#[test]
fn an_answer_that_would_end_a_ledger_node_is_not_sent_there_and_after_a_loss_none_is() {
    let mut net = network(14);
    let app = silent(&mut net, &["t"]);
    let direct = net.direct_app(1, &[], false);
    for deadly in [&b"\0"[..], b"\x09t"] {
        let seq = net.direct_sends(direct, FrameType::REQUEST, "t", b"x");
        net.run_for(SOON);
        answer_with(&mut net, app, &seq, 0, deadly);
    }
    assert_eq!(of_type(&net, 0, FrameType::RESPONSE).len(), 0);
    let seq = net.direct_sends(direct, FrameType::REQUEST, "t", b"x");
    net.run_for(SOON);
    net.kill_ledger(0);
    net.revive_ledger(0);
    net.run_for(Duration::from_secs(2));
    assert_eq!(net.ledger_connections().count(), 1);
    answer_with(&mut net, app, &seq, 0, b"\x02tx");
    assert_eq!(of_type(&net, 1, FrameType::RESPONSE).len(), 0);
    let dropped = total(&net, |counters| counters.ledger_answers_dropped.get());
    assert_eq!((dropped, total(&net, |counters| counters.unsolicited_answers.get())), (2, 1));
}

#[test]
fn a_session_that_takes_little_loses_no_message_from_there_and_others_have_their_room() {
    let mut net = network(15);
    let reader = silent(&mut net, &["t", "here"]);
    let publisher = net.app(0, Behaviour::Silent);
    let direct = net.direct_app(1, &[], false);
    net.set_rate(reader, 500_000);
    for number in 0..100u8 {
        net.direct_sends(direct, FrameType::MULTICAST, "t", &vec![number; 50_000]);
    }
    net.run_for(Duration::from_millis(500));
    assert!(total(&net, |counters| counters.ledger_reads_paused.get()) > 0);
    (0..20).for_each(|_| _ = net.multicast(publisher, "here", &[7; 50_000]));
    net.run_for(Duration::from_secs(60));
    let of = |topic: &str| {
        let pushed = net.pushed(reader, FrameType::MULTICAST).into_iter();
        pushed.filter(|(other, _)| other == topic).map(|(_, payload)| payload[0]).collect::<Vec<_>>()
    };
    assert_eq!(of("t"), (0..100).collect::<Vec<_>>(), "in order");
    assert_eq!(of("here").len(), 20);
    assert_eq!(total(&net, |counters| counters.dropped_queue_full.get()), 0);
}

#[test]
fn topics_that_found_a_connection_full_are_told_when_it_has_room() {
    let mut net = Network::new(16);
    net.add_ledger();
    net.add_node(1, Settings { session_queue_bytes_max: 50_000, ..settings(with_amop(1)) });
    net.chain.nodes[0].rate = Some(50_000);
    let app = silent(&mut net, &["a"]);
    (0..5).for_each(|_| _ = net.multicast(app, "t", &[7; 40_000]));
    net.subscribe(app, &["b"]);
    net.run_for(SOON);
    assert!(total(&net, |counters| counters.ledger_messages_not_sent.get()) > 0);
    let seq = net.unicast(app, "nobody", &[7; 10]);
    assert_eq!(net.answer(app, &seq, SOON).0, 99, "it took nothing");
    assert_eq!(net.chain.connections[0].topics, ["a"]);
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.chain.connections[0].topics, ["b"]);
}

#[test]
fn the_limit_of_bandwidth_counts_what_goes_by_the_ledger_node() {
    let mut net = Network::new(17);
    (0..2).for_each(|_| _ = net.add_ledger());
    // 100 ms of it are 10 kB.
    net.add_limited_node(1, settings(with_amop(1)), Limiter::new(100_000.0, Duration::from_millis(100)));
    let direct = net.direct_app(1, &["t"], true);
    let app = silent(&mut net, &["own"]);
    let charged = |net: &Network| total(net, |counters| counters.bandwidth_charged_bytes.get());
    let len = |payload: usize| (HEADER_LEN + 2 + payload) as u64;
    net.multicast(app, "t", &[7; 20_000]);
    net.run_for(Duration::from_millis(20));
    assert_eq!(charged(&net), len(20_000));
    let (one, other) = (net.unicast(app, "t", &[7; 9_000]), net.multicast(app, "t", &[7; 9_000]));
    net.run_for(Duration::from_millis(20));
    assert_eq!(
        (net.answers(app, &one)[0].header.result.0, net.answers(app, &other)[0].header.result.0),
        (103, 103)
    );
    assert_eq!(charged(&net), len(20_000));
    net.run_for(Duration::from_secs(2));
    let seq = net.unicast(app, "t", &[7; 9_000]);
    assert_eq!(net.answer(app, &seq, SOON).0, 0);
    assert_eq!(net.direct_pushed(direct, FrameType::MULTICAST).len(), 1);
    assert_eq!(charged(&net), len(20_000) + len(9_000));
}

#[test]
fn an_application_of_3x_has_nothing_to_do_with_the_ledger_node() {
    let mut net = network(70);
    let app = net.subscriber_3x(0, &["t"]);
    net.multicast(app, "theirs", b"x");
    let seq = net.unicast(app, "theirs", b"x");
    assert_eq!(net.answer(app, &seq, ANSWERED).0, 100);
    assert_eq!(net.ledger_connections().count(), 0);
}
