//! Nodes of FISCO BCOS 2.x as peers (INTEROP §2): what passes between them and this kind of node, and what not.

use std::time::Duration;

use amop::internal::{
    relay::{admission::Admission, bandwidth::Limiter, peer_2x::COPIES_TIME, settings::Settings},
    wire::{
        ResultCode,
        p2p_2x::{self, Kind},
        sdk::{self, FrameType},
    },
};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex, PeerBehaviour, PeerIndex};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than topics of one of theirs take to be known.
const TOPICS_KNOWN: Duration = Duration::from_secs(6);

/// Nodes that are all linked, and one of theirs with this topic that is linked with some of them.
fn network(seed: u64, nodes: usize, with: &[NodeIndex], topics: &[&str]) -> (Network, PeerIndex) {
    let mut net = Network::mesh(seed, nodes, 2);
    let peer = net.add_peer_2x(topics);
    with.iter().for_each(|&node| net.keep_peer_2x_linked(peer, node));
    net.run_for(SECOND);
    (net, peer)
}

fn subscribers(net: &Network, node: NodeIndex, topic: &str) -> u32 {
    let snapshot = net.nodes[node].shared.snapshot.load();
    snapshot.topic(topic).map_or(0, |entry| {
        let own: u32 = entry.reactors.iter().map(|(_, count)| count).sum();
        own + entry.nodes.iter().map(|(_, count)| count).sum::<u32>()
    })
}

fn payloads_of_peer(net: &Network, peer: PeerIndex) -> Vec<Vec<u8>> {
    net.peers_2x[peer].received.iter().map(|one| one.payload.clone()).collect()
}

fn payloads(net: &Network, app: AppIndex, frame_type: FrameType) -> Vec<Vec<u8>> {
    net.pushed(app, frame_type).into_iter().map(|(_, payload)| payload).collect()
}

/// The one of two nodes with the lesser id first.
fn by_id(net: &Network) -> (NodeIndex, NodeIndex) {
    if net.nodes[0].id < net.nodes[1].id { (0, 1) } else { (1, 0) }
}

#[test]
fn topics_pass_both_ways_but_those_of_private_topics_and_of_the_ledger() {
    let theirs = ["t", "#!$TopicNeedVerify_V", "#!$PushChannel_#!$TopicNeedVerify_W", "_block_notify_1"];
    let (mut net, peer) = network(1, 2, &[0], &theirs);
    net.subscriber(1, &["far", "#!$TopicNeedVerify_U", "_block_notify_1"]);
    net.subscriber(0, &["near"]);
    net.run_for(SECOND);
    assert_eq!([0, 1].map(|node| subscribers(&net, node, "t")), [1, 1]);
    assert!([0, 1].iter().all(|&node| net.nodes[node].shared.snapshot.load().topics() == 3));
    let link = net.peer_link(peer, 0).unwrap();
    assert_eq!(net.peer_links[link].topics, ["far", "near"]);
    // A change of theirs is seconds late, as with their own nodes; one of ours is not.
    net.set_peer_topics(peer, &["u"]);
    net.run_for(TOPICS_KNOWN);
    assert_eq!([subscribers(&net, 1, "t"), subscribers(&net, 1, "u")], [0, 1]);
    let app = net.subscriber(1, &["new"]);
    net.run_for(Duration::from_millis(200));
    assert_eq!(net.gateways_of(peer, "new"), [0]);
    net.disconnect(app);
    net.run_for(Duration::from_millis(200));
    assert_eq!(net.gateways_of(peer, "new"), [0; 0]);
    net.kill_peer_2x(peer);
    net.run_for(SECOND);
    assert_eq!([0, 1].map(|node| subscribers(&net, node, "u")), [0, 0]);
}

#[test]
fn unicasts_pass_both_ways_and_each_subscriber_is_equally_likely() {
    let (mut net, peer) = network(2, 2, &[0], &["t"]);
    net.subscriber(0, &["t"]);
    net.subscriber(1, &["t", "ours"]);
    let publisher = net.app(1, Behaviour::Silent);
    net.run_for(SECOND);
    for number in 0..300_u32 {
        let seq = net.unicast(publisher, "t", &number.to_be_bytes());
        assert_eq!(net.answer(publisher, &seq, SECOND).0, 0);
    }
    let drawn = net.peers_2x[peer].received.len();
    assert!((60..140).contains(&drawn), "one of three subscribers was drawn {drawn} times of 300");
    let seq = net.peer_unicast(peer, "ours", b"hello");
    net.run_for(SECOND);
    assert_eq!(net.peers_2x[peer].answers[&seq], [0]);
    let seq = net.peer_unicast(peer, "nobody", b"hello");
    net.run_for(SECOND);
    assert_eq!(net.peers_2x[peer].answers[&seq], [100]);
}

#[test]
fn who_cannot_answer_there_is_told_as_here_and_another_subscriber_is_tried() {
    let (mut net, peer) = network(3, 2, &[0], &["t"]);
    let publisher = net.app(1, Behaviour::Silent);
    net.peers_2x[peer].behaviour = PeerBehaviour::Silent;
    net.run_for(SECOND);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, 10 * SECOND), (ResultCode::TIMEOUT.0, vec![]));
    net.subscriber(1, &["t"]);
    for _ in 0..20 {
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, 10 * SECOND), (0, b"\x02tx".to_vec()));
    }
    assert!(net.nodes[0].total(|counters| counters.peer_2x_not_answered.get()) > 1);
}

#[test]
fn nobody_is_tried_after_one_of_theirs_where_that_is_not_wanted() {
    let mut net = Network::new(4);
    let settings = Settings { retry_after_push_timeout: false, ..Settings::default() };
    net.add_node(1, settings);
    let peer = net.add_peer_2x(&["t"]);
    net.peers_2x[peer].behaviour = PeerBehaviour::Silent;
    net.keep_peer_2x_linked(peer, 0);
    net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND);
    let codes: Vec<i32> = (0..20)
        .map(|_| {
            let seq = net.unicast(publisher, "t", b"x");
            net.answer(publisher, &seq, 10 * SECOND).0
        })
        .collect();
    assert!(codes.contains(&0) && codes.contains(&ResultCode::TIMEOUT.0), "{codes:?}");
}

#[test]
fn a_multicast_reaches_everybody_once_and_goes_from_none_of_theirs_to_another() {
    let (mut net, one) = network(5, 3, &[0, 1], &["t"]);
    let other = net.add_peer_2x(&["t"]);
    [1, 2].iter().for_each(|&node| net.keep_peer_2x_linked(other, node));
    let apps: Vec<AppIndex> = (0..3).map(|node| net.subscriber(node, &["t"])).collect();
    net.run_for(TOPICS_KNOWN);
    net.multicast(apps[2], "t", b"ours");
    net.run_for(SECOND);
    for peer in [one, other] {
        assert_eq!(payloads_of_peer(&net, peer), [b"ours"]);
    }
    net.peer_multicast(one, "t", b"theirs");
    net.run_for(SECOND);
    for &app in &apps {
        assert_eq!(payloads(&net, app, FrameType::MULTICAST), [&b"ours"[..], b"theirs"]);
    }
    // Its own nodes have brought it to the other one, and nobody else has.
    let got = &net.peers_2x[other].received;
    assert_eq!((got.len(), got[1].from), (2, None));
    assert_eq!(payloads_of_peer(&net, one), [b"ours"]);
    // A unicast from there likewise is for our own sessions only.
    for _ in 0..40 {
        let seq = net.peer_unicast(one, "t", b"one");
        net.run_for(SECOND);
        assert_eq!(net.peers_2x[one].answers[&seq], [0]);
    }
    assert_eq!(net.peers_2x[other].received.len(), 2);
}

#[test]
fn the_node_with_the_least_id_acts_for_one_of_theirs_and_another_one_when_it_is_gone() {
    let (mut net, peer) = network(6, 3, &[0, 1], &["t"]);
    let app = net.subscriber(2, &["ours", "t"]);
    net.run_for(SECOND);
    let (least, other) = by_id(&net);
    assert_eq!(net.gateways_of(peer, "ours"), [least]);
    assert_eq!(subscribers(&net, 2, "t"), 2);
    net.kill(least);
    net.run_for(10 * SECOND);
    assert_eq!(net.gateways_of(peer, "ours"), [other]);
    assert_eq!(subscribers(&net, 2, "t"), 2);
    net.multicast(app, "t", b"1");
    let seq = net.peer_unicast(peer, "ours", b"2");
    net.run_for(SECOND);
    assert_eq!(payloads_of_peer(&net, peer), [b"1"]);
    assert_eq!(net.peers_2x[peer].answers[&seq], [0]);
    // It comes back, and takes over again.
    net.revive(least, crate::kit::Clock::Right);
    (0..3).filter(|&node| node != least).for_each(|node| net.connect(least, node));
    net.run_for(15 * SECOND);
    assert_eq!(net.gateways_of(peer, "ours"), [least]);
    net.multicast(app, "t", b"3");
    net.run_for(SECOND);
    assert_eq!(payloads_of_peer(&net, peer), [b"1", b"3"]);
}

#[test]
fn nodes_that_keep_each_other_off_by_their_lists_do_not_both_act_for_others() {
    let (mut net, peer) = network(16, 3, &[0, 1], &["t"]);
    let apps: Vec<AppIndex> = (0..3).map(|node| net.subscriber(node, &["ours", "t"])).collect();
    let (least, other) = by_id(&net);
    for (node, off) in [(least, other), (other, least)] {
        let blacklist = [net.nodes[off].id].into();
        net.set_admission(node, Admission { blacklist, ..Admission::default() });
    }
    net.run_for(15 * SECOND);
    // The third one knows both, and one way to theirs.
    assert_eq!(subscribers(&net, 2, "t"), 4);
    net.multicast(apps[2], "t", b"1");
    net.run_for(SECOND);
    assert_eq!(payloads_of_peer(&net, peer), [b"1"]);
    // Each reaches theirs by its own link, and is reached once.
    net.multicast(apps[other], "t", b"2");
    net.run_for(SECOND);
    net.multicast(apps[least], "t", b"3");
    net.run_for(SECOND);
    assert_eq!(payloads_of_peer(&net, peer), [b"1", b"2", b"3"]);
    net.peer_multicast(peer, "ours", b"4");
    net.run_for(SECOND);
    for &app in &apps {
        let got = payloads(&net, app, FrameType::MULTICAST);
        assert_eq!(got.iter().filter(|payload| **payload == b"4").count(), 1, "app{app}");
    }
    // As soon as they know each other again, one acts for all.
    [least, other].iter().for_each(|&node| net.set_admission(node, Admission::default()));
    net.run_for(15 * SECOND);
    assert_eq!(net.gateways_of(peer, "ours"), [least]);
    net.multicast(apps[other], "t", b"5");
    net.run_for(SECOND);
    assert_eq!(payloads_of_peer(&net, peer).iter().filter(|payload| **payload == b"5").count(), 1);
}

#[test]
fn no_multicast_is_doubled_and_next_to_none_is_lost_while_another_gateway_takes_over() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut net = Network::mesh(100 + seed, 3, 2);
        let (least, other) = by_id(&net);
        let peer = net.add_peer_2x(&["t"]);
        net.keep_peer_2x_linked(peer, other);
        let app = net.subscriber(2, &["t"]);
        net.run_for(TOPICS_KNOWN);
        for number in 0..200_u8 {
            if number == 100 {
                net.keep_peer_2x_linked(peer, least);
            }
            net.multicast(app, "t", &[number]);
            net.peer_multicast(peer, "t", &[number, 0]);
            net.run_for(Duration::from_millis(5));
        }
        net.run_for(SECOND);
        assert_eq!(net.gateways_of(peer, "t"), [least], "seed {seed}");
        let theirs = payloads_of_peer(&net, peer);
        let ours: Vec<_> =
            payloads(&net, app, FrameType::MULTICAST).into_iter().filter(|one| one.len() == 2).collect();
        for (got, side) in [(theirs, "theirs"), (ours, "ours")] {
            let mut once = got.clone();
            once.dedup();
            assert_eq!(got, once, "seed {seed}, {side}");
            lost += 200 - got.len();
        }
    }
    // What is sent while nobody acts: for as long as news take from node to node.
    assert!(lost < 20 * 10, "{lost} of 8,000 are lost");
}

#[test]
fn a_multicast_that_two_nodes_bring_is_one_and_one_of_later_is_another() {
    let (mut net, peer) = network(7, 2, &[0, 1], &["x"]);
    let apps = [net.subscriber(0, &["t"]), net.subscriber(1, &["t"])];
    net.run_for(SECOND);
    let frame = sdk::encode_amop(FrameType::MULTICAST, &[b'7'; 32], ResultCode::OK, "t", b"once");
    let bytes = p2p_2x::encode(Kind::Multicast, 9, &frame);
    let say = |net: &mut Network| {
        for node in [0, 1] {
            let link = net.peer_link(peer, node).unwrap();
            net.peer_says(link, bytes.clone());
        }
    };
    say(&mut net);
    net.run_for(COPIES_TIME - SECOND);
    say(&mut net);
    net.run_for(SECOND);
    for app in apps {
        assert_eq!(payloads(&net, app, FrameType::MULTICAST), [b"once"]);
    }
    net.run_for(COPIES_TIME + SECOND);
    say(&mut net);
    net.run_for(SECOND);
    for app in apps {
        assert_eq!(payloads(&net, app, FrameType::MULTICAST), [b"once", b"once"]);
    }
}

#[test]
fn a_frozen_one_is_passed_by_after_eleven_seconds_and_its_link_is_closed_after_sixty() {
    let (mut net, peer) = network(8, 1, &[0], &["t"]);
    net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND);
    net.peers_2x[peer].is_frozen = true;
    let seqs: Vec<_> = (0..20).map(|_| net.unicast(publisher, "t", b"x")).collect();
    net.run_for(12 * SECOND);
    for seq in seqs {
        assert_eq!(net.answer(publisher, &seq, Duration::ZERO).0, 0, "another one has answered");
    }
    assert_eq!(subscribers(&net, 0, "t"), 1);
    net.peers_2x[peer].is_frozen = false;
    net.run_for(TOPICS_KNOWN);
    assert_eq!(subscribers(&net, 0, "t"), 2);
    net.peers_2x[peer].is_frozen = true;
    net.run_for(62 * SECOND);
    assert_eq!(net.nodes[0].total(|counters| counters.peer_2x_links.get()), 0);
    assert_eq!(net.nodes[0].total(|counters| counters.closed_dead.get()), 1);
    net.peers_2x[peer].is_frozen = false;
    net.run_for(12 * SECOND);
    assert_eq!(net.nodes[0].total(|counters| counters.peer_2x_links.get()), 1, "it has dialled again");
}

#[test]
fn one_of_theirs_that_is_not_read_because_of_its_own_requests_is_not_silent() {
    let mut net = Network::new(12);
    let push_timeout = Duration::from_secs(60);
    let settings = Settings { session_queue_bytes_max: 4_096, push_timeout, ..Settings::default() };
    net.add_node(1, settings.clone());
    let peer = net.add_peer_2x(&["t"]);
    net.keep_peer_2x_linked(peer, 0);
    let app = net.app(0, Behaviour::Silent);
    net.subscribe(app, &["slow"]);
    net.run_for(TOPICS_KNOWN);
    let silent = |net: &Network| net.nodes[0].total(|counters| counters.peer_2x_silent.get());
    // Its requests are more than a session may have open, and nobody answers them for as long as they may take.
    let link = net.peer_link(peer, 0).unwrap();
    let payload = vec![7; settings.open_requests_bytes_max()];
    let frame = sdk::encode_amop(FrameType::REQUEST, &[b'7'; 32], ResultCode::OK, "slow", &payload);
    net.peer_says(link, p2p_2x::encode(Kind::Unicast, 1, &frame));
    net.run_for(25 * SECOND);
    assert_eq!((silent(&net), net.peer_link(peer, 0)), (0, Some(link)));
    net.run_for(10 * SECOND);
    assert_eq!(subscribers(&net, 0, "t"), 1);
}

#[test]
fn a_second_link_to_one_of_theirs_is_closed_and_one_in_place_of_a_silent_one_stays() {
    let (mut net, peer) = network(9, 1, &[0], &["t"]);
    let first = net.peer_link(peer, 0).unwrap();
    net.double_peer_link(peer, 0);
    net.run_for(SECOND);
    assert_eq!(net.nodes[0].total(|counters| counters.peer_2x_links.get()), 1);
    assert_eq!(net.peer_link(peer, 0), Some(first));
    net.cut_peer_link(first);
    net.run_for(12 * SECOND);
    net.link_peer_2x(peer, 0, false);
    net.run_for(TOPICS_KNOWN);
    assert_eq!(net.nodes[0].total(|counters| counters.peer_2x_links.get()), 1);
    assert_eq!(subscribers(&net, 0, "t"), 1);
}

#[test]
fn topics_are_announced_by_their_beginnings_and_up_to_a_bound() {
    let mut net = Network::new(10);
    let announce_to_2x = Some(vec!["loans.".to_owned(), "kyc".to_owned()]);
    net.add_node(2, Settings { announce_to_2x, session_topics_max: 20_000, ..Settings::default() });
    let peer = net.add_peer_2x(&[]);
    net.keep_peer_2x_linked(peer, 0);
    net.subscriber(0, &["loans.1", "kyc", "other", "loan"]);
    net.run_for(SECOND);
    let link = net.peer_link(peer, 0).unwrap();
    assert_eq!(net.peer_links[link].topics, ["kyc", "loans.1"]);
    let many: Vec<String> = (0..12_000).map(|number| format!("kyc{number:05}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let app = net.subscriber(0, &many);
    net.run_for(SECOND);
    assert_eq!(net.peer_links[link].topics.len(), 10_000);
    // Once there is room, those that were left out are told.
    net.subscribe(app, &many[8_000..]);
    net.run_for(SECOND);
    assert_eq!(net.peer_links[link].topics.len(), 4_002);
}

#[test]
fn one_of_theirs_counts_as_the_topics_of_its_gateway_for_whom_asks_who_is_there() {
    let (mut net, _) = network(11, 2, &[0], &["theirs"]);
    net.subscriber(0, &["ours", "theirs"]);
    net.run_for(SECOND);
    let app = net.app(1, Behaviour::Silent);
    let call = br#"{"jsonrpc":"2.0","method":"getPeers","params":[1],"id":1}"#;
    let seq = net.frame(app, FrameType::RPC, call);
    net.run_for(SECOND);
    let of = |net: &Network, app: AppIndex, seq| {
        let answers = net.apps[app].received.iter().filter(|one| one.header.seq == seq);
        let answers: Vec<serde_json::Value> =
            answers.map(|one| serde_json::from_slice(&one.data).unwrap()).collect();
        answers[0]["result"].clone()
    };
    let peers = of(&net, app, seq);
    assert_eq!(peers[0]["Topic"], serde_json::json!(["ours", "theirs"]), "once, whoever has it");
    let app = net.app(0, Behaviour::Silent);
    let seq = net.frame(app, FrameType::RPC, call);
    net.run_for(SECOND);
    let peers = of(&net, app, seq);
    let peers = peers.as_array().unwrap();
    let theirs = peers.iter().find(|one| one["Node"] == "peer0").unwrap();
    assert_eq!((peers.len(), &theirs["Topic"]), (2, &serde_json::json!(["theirs"])));
}

#[test]
fn what_leaves_to_one_of_theirs_counts_for_the_bandwidth_and_what_is_over_it_is_not_sent() {
    let mut net = Network::new(12);
    // 100,000 bytes a second, a tenth of that at once.
    let limiter = Limiter::new(100_000.0, Duration::from_millis(100));
    net.add_limited_node(2, Settings::default(), limiter);
    let peer = net.add_peer_2x(&["t", "u"]);
    net.keep_peer_2x_linked(peer, 0);
    net.run_for(SECOND);
    let publisher = net.app(0, Behaviour::Silent);
    let mut codes = std::collections::BTreeMap::<i32, usize>::new();
    let mut ask = |net: &mut Network, number: u32| {
        let seq = match number % 2 {
            0 => net.unicast(publisher, "t", &[7; 1_000]),
            _ => net.multicast(publisher, "u", &[7; 1_000]),
        };
        let (code, _) = net.answer(publisher, &seq, SECOND);
        *codes.entry(code).or_default() += 1;
    };
    let start = net.now;
    (0..1_000).for_each(|number| ask(&mut net, number));
    let elapsed = net.now.saturating_duration_since(start).as_secs_f64();
    net.run_for(SECOND);
    let (taken, refused) = (codes[&0], codes[&ResultCode::OVER_BANDWIDTH.0]);
    assert_eq!((taken + refused, net.peers_2x[peer].received.len()), (1_000, taken));
    // 1,061 bytes each.
    let most = (elapsed + 0.1) * 100_000.0 / 1_061.0 + 1.0;
    assert!((taken as f64) < most && (taken as f64) > 0.9 * most - 20.0, "{taken} of at most {most}");
    // A session here costs nothing, though one of theirs might have been drawn.
    let app = net.subscriber(0, &["v"]);
    (0..100).for_each(|_| _ = net.multicast(app, "v", &[7; 1_000]));
    net.run_for(SECOND);
    assert_eq!(net.pushed(app, FrameType::MULTICAST).len(), 100);
}

#[test]
fn a_session_that_is_drawn_beside_one_of_theirs_is_reached_however_little_bandwidth_is_left() {
    for reactors in [1, 3] {
        let mut net = Network::new(14);
        // Not enough for one message in the whole test.
        let limiter = Limiter::new(1.0, Duration::from_millis(100));
        net.add_limited_node(reactors, Settings::default(), limiter);
        let peer = net.add_peer_2x(&["t"]);
        net.keep_peer_2x_linked(peer, 0);
        let apps: Vec<AppIndex> = (0..2).map(|_| net.subscriber(0, &["t"])).collect();
        let publisher = net.subscriber(0, &["t"]);
        net.run_for(SECOND);
        // The first one may go: the level is full, whatever the cost.
        net.multicast(publisher, "t", b"first");
        net.run_for(SECOND);
        let before = net.peers_2x[peer].received.len();
        let mut refused = 0;
        for number in 0..150_u32 {
            let seq = net.unicast(publisher, "t", &number.to_be_bytes());
            match net.answer(publisher, &seq, SECOND).0 {
                0 => {}
                code => {
                    assert_eq!(code, ResultCode::OVER_BANDWIDTH.0);
                    refused += 1;
                }
            }
        }
        // One of three was theirs.
        assert!((30..75).contains(&refused), "{refused} of 150 were refused");
        let reached: usize = apps.iter().map(|&app| net.pushed(app, FrameType::REQUEST).len()).sum();
        assert_eq!((reached, net.peers_2x[peer].received.len()), (150 - refused, before));
    }
}
