//! Nodes that take frames of different lengths (WIRE §1.1): what is too long for one hurts nobody else.

use std::time::Duration;

use amop::internal::{
    relay::settings::Settings,
    wire::{
        node::{Header, PacketType},
        sdk::{self, FrameType},
    },
};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex, line};

const SOON: Duration = Duration::from_millis(300);
const SHORT: usize = 1 << 20;
const LONG: &[u8] = &[7; 2 << 20];

/// Nodes of which some take no more than a MiB.
fn network(
    seed: u64,
    reactors: u16,
    nodes: usize,
    edges: &[(NodeIndex, NodeIndex)],
    short: &[NodeIndex],
) -> Network {
    let mut net = Network::new(seed);
    for node in 0..nodes {
        let usual = Settings { window_bytes_max: 256 << 20, ..Settings::default() };
        let frame_len_max = if short.contains(&node) { SHORT } else { usual.frame_len_max };
        net.add_node(reactors, Settings { frame_len_max, session_queue_bytes_max: 64 << 20, ..usual });
    }
    edges.iter().for_each(|&(one, other)| net.connect(one, other));
    net.run_for(Duration::from_secs(1));
    net
}

fn subscriber(net: &mut Network, node: NodeIndex) -> AppIndex {
    let app = net.subscriber(node, &["t"]);
    net.run_for(Duration::from_secs(1));
    app
}

fn too_long(net: &Network, node: NodeIndex) -> u64 {
    net.nodes[node].total(|counters| counters.refused_too_long.get())
}

fn read_over(net: &Network) -> u64 {
    net.nodes.iter().map(|node| node.total(|counters| counters.read_over.get())).sum()
}

fn links_lost(net: &Network) -> u64 {
    net.nodes.iter().map(|node| node.total(|counters| counters.closed_protocol.get())).sum()
}

#[test]
fn what_its_node_does_not_take_is_answered_99_at_once_and_the_link_stays() {
    for (reactors, edges) in [(1, line(2)), (3, line(2)), (1, line(3)), (2, line(4))] {
        let last = edges.len();
        let mut net = network(1, reactors, last + 1, &edges, &[last]);
        subscriber(&mut net, last);
        let publisher = net.app(0, Behaviour::Silent);
        for _ in 0..3 {
            let seq = net.unicast(publisher, "t", LONG);
            assert_eq!(net.answer(publisher, &seq, Duration::from_millis(20)).0, 99);
            let seq = net.unicast(publisher, "t", b"short");
            assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        }
        let longest = vec![7; SHORT - 42 - 2];
        let seq = net.unicast(publisher, "t", &longest);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0, "the longest that it takes");
        assert_eq!((read_over(&net), too_long(&net, 0), links_lost(&net)), (0, 3, 0));
    }
}

#[test]
fn a_subscriber_whose_node_takes_it_is_chosen_before_one_whose_node_does_not() {
    let mut net = network(2, 2, 3, &[(0, 1), (0, 2)], &[1]);
    (0..5).for_each(|_| {
        subscriber(&mut net, 1);
    });
    let able = subscriber(&mut net, 2);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..10 {
        let seq = net.unicast(publisher, "t", LONG);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
    assert_eq!(net.pushed(able, FrameType::REQUEST).len(), 10);
    assert_eq!((read_over(&net), too_long(&net, 0)), (0, 0));
}

#[test]
fn a_multicast_goes_to_the_nodes_that_take_it_and_is_counted_for_the_others() {
    // 3 and 4 are reached over 1; 2 takes less.
    for reactors in [1, 2] {
        let mut net = network(3, reactors, 5, &[(0, 1), (0, 2), (1, 3), (1, 4)], &[2, 4]);
        let subscribers: Vec<_> = (0..5).map(|node| subscriber(&mut net, node)).collect();
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.multicast(publisher, "t", LONG);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        net.multicast(publisher, "t", b"short");
        net.run_for(Duration::from_secs(1));
        let got = subscribers.iter().map(|app| net.pushed(*app, FrameType::MULTICAST).len());
        assert_eq!(got.collect::<Vec<_>>(), [2, 2, 1, 2, 1]);
        assert_eq!((read_over(&net), too_long(&net, 0)), (0, 2));
    }
}

#[test]
fn long_frames_go_around_a_node_that_does_not_take_them_and_short_ones_through_it() {
    // 0 - 1 - 4 is shorter than 0 - 2 - 3 - 4.
    let edges = [(0, 1), (1, 4), (0, 2), (2, 3), (3, 4)];
    for reactors in [1, 2] {
        let mut net = network(4, reactors, 5, &edges, &[1]);
        let far = subscriber(&mut net, 4);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", LONG);
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(1)).0, 0);
        net.multicast(publisher, "t", LONG);
        net.run_for(Duration::from_secs(1));
        assert_eq!(net.pushed(far, FrameType::MULTICAST).len(), 1);
        let relayed = |net: &Network, node: NodeIndex| net.nodes[node].total(|c| c.relayed_bytes.get());
        assert!(relayed(&net, 2) > 2 * LONG.len() as u64 && relayed(&net, 1) < SHORT as u64);
        let before = relayed(&net, 1);
        let seq = net.unicast(publisher, "t", b"short");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        assert!(relayed(&net, 1) > before);
        // No other route is left: it is refused at once, and nothing waits for it.
        net.break_links(2, 3);
        net.run_for(Duration::from_secs(3));
        let seq = net.unicast(publisher, "t", LONG);
        assert_eq!(net.answer(publisher, &seq, Duration::from_millis(20)).0, 99);
        let seq = net.unicast(publisher, "t", b"short");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        assert_eq!((read_over(&net), links_lost(&net)), (0, 0));
    }
}

/// A publisher and a receiver whose nodes have just lost their link; the way around it takes only what is short.
fn without_the_link_between_them(seed: u64, reactors: u16) -> (Network, AppIndex, AppIndex) {
    let mut net = network(seed, reactors, 3, &[(0, 1), (0, 2), (2, 1)], &[2]);
    let receiver = subscriber(&mut net, 1);
    let publisher = net.app(0, Behaviour::Silent);
    net.break_links(0, 1);
    net.run_for(Duration::from_millis(200));
    (net, publisher, receiver)
}

#[test]
fn nothing_overtakes_a_long_frame_that_waits_for_its_link_since_no_other_way_takes_it() {
    for reactors in [1, 2] {
        let (mut net, publisher, receiver) = without_the_link_between_them(7, reactors);
        let sent: [&[u8]; 6] = [LONG, b"1", b"2", b"3", LONG, b"4"];
        for payload in sent {
            net.multicast(publisher, "t", payload);
        }
        net.run_for(Duration::from_millis(200));
        net.connect(0, 1);
        net.run_for(Duration::from_secs(1));
        let got = net.pushed(receiver, FrameType::MULTICAST);
        let got: Vec<&[u8]> = got.iter().map(|(_, payload)| payload.as_slice()).collect();
        let brief = |payloads: &[&[u8]]| payloads.iter().map(|one| one[..1].to_vec()).collect::<Vec<_>>();
        assert_eq!(brief(&got), brief(&sent));
    }
}

#[test]
fn what_waits_for_a_link_that_does_not_return_ends_if_it_is_too_long_and_what_is_behind_it_goes_around() {
    for reactors in [1, 2] {
        let (mut net, publisher, receiver) = without_the_link_between_them(8, reactors);
        let long = net.unicast(publisher, "t", LONG);
        let short = net.unicast(publisher, "t", b"short");
        net.multicast(publisher, "t", LONG);
        net.multicast(publisher, "t", b"short");
        assert_eq!(net.answer(publisher, &long, Duration::from_secs(3)).0, 99);
        assert_eq!(net.answer(publisher, &short, SOON).0, 0);
        net.run_for(SOON);
        assert_eq!(net.pushed(receiver, FrameType::MULTICAST), [("t".to_owned(), b"short".to_vec())]);
    }
}

#[test]
fn an_answer_that_its_publishers_node_does_not_take_ends_the_request_with_102_at_once() {
    for edges in [line(2), line(3)] {
        let last = edges.len();
        let mut net = network(5, 1, last + 1, &edges, &[0]);
        let answering = net.app(last, Behaviour::Silent);
        net.subscribe(answering, &["t"]);
        net.run_for(Duration::from_secs(1));
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"how long is it?");
        net.run_for(SOON);
        let answer =
            sdk::encode_amop(FrameType::RESPONSE, &seq, amop::internal::wire::ResultCode::OK, "t", LONG);
        net.bytes(answering, answer);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 102);
        assert_eq!((read_over(&net), too_long(&net, last), links_lost(&net)), (0, 1, 0));
    }
}

#[test]
fn what_comes_too_long_all_the_same_is_read_over_refused_and_acknowledged() {
    // Node 1 does not say how little it takes.
    let mut net = network(7, 1, 2, &line(2), &[1]);
    let subscribed = subscriber(&mut net, 1);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"short");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    net.tamper = Some(Box::new(|from, _, bytes: &mut Vec<u8>| {
        let packet_type = Header::decode(bytes).unwrap().0.packet_type;
        if from == 0 && [PacketType::UNICAST, PacketType::MULTICAST].contains(&packet_type) {
            bytes.resize(LONG.len(), 7);
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_be_bytes());
        }
    }));
    for _ in 0..100 {
        let seq = net.unicast(publisher, "t", b"made long on the way");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 101);
        net.multicast(publisher, "t", b"made long on the way");
    }
    net.run_for(SOON);
    net.tamper = None;
    assert_eq!(net.nodes[1].total(|counters| counters.read_over.get()), 200);
    assert_eq!(net.pushed(subscribed, FrameType::MULTICAST).len(), 0);
    let seq = net.unicast(publisher, "t", b"short");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    net.run_for(SOON);
    assert!(net.nodes[0].usage().all(|usage| usage.window_frames == 0), "what was read over is acknowledged");
    assert_eq!(net.links_between(0, 1).len(), 1);
}

#[test]
fn a_node_that_takes_short_messages_only_learns_of_all_topics_however_many() {
    let mut net = Network::new(3);
    net.add_node(1, Settings { frame_len_max: 1024, ..Settings::default() });
    net.add_node(1, Settings::default());
    let topics: Vec<String> = (0..5_000).map(|number| format!("topic-{number}")).collect();
    let all: Vec<&str> = topics.iter().map(String::as_str).collect();
    net.subscriber(1, &all);
    net.run_for(Duration::from_secs(1));
    net.connect(0, 1);
    net.run_for(Duration::from_secs(5));
    let known = net.nodes[0].shared.snapshot.load();
    assert!(topics.iter().all(|topic| known.topic(topic).is_some()));
    // What is too long for it all the same is refused.
    let app = net.app(1, Behaviour::Silent);
    net.subscriber(0, &["t"]);
    net.run_for(Duration::from_secs(1));
    let seq = net.unicast(app, "t", &[7; 2_000]);
    assert_eq!(net.answer(app, &seq, SOON).0, 99);
    assert_eq!(links_lost(&net), 0);
}
