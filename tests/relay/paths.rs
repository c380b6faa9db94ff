//! Messages over more than one link (WIRE §6.4): they arrive as long as a way leads from sender to receiver.

use std::time::Duration;

use amop::relay::settings::Settings;
use amop::wire::sdk::FrameType;

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex};

const SOON: Duration = Duration::from_secs(1);

fn network(seed: u64, nodes: usize, reactors: u16, edges: &[(NodeIndex, NodeIndex)]) -> Network {
    let mut net = Network::new(seed);
    for _ in 0..nodes {
        net.add_node(reactors, Settings::default());
    }
    edges.iter().for_each(|&(one, other)| net.connect(one, other));
    net.run_for(SOON);
    net
}

fn line(nodes: usize) -> Vec<(NodeIndex, NodeIndex)> {
    (1..nodes).map(|node| (node - 1, node)).collect()
}

fn ring(nodes: usize) -> Vec<(NodeIndex, NodeIndex)> {
    (0..nodes).map(|node| (node, (node + 1) % nodes)).collect()
}

/// Subscribes everywhere in the network, and gives the applications.
fn subscribers(net: &mut Network, nodes: &[NodeIndex]) -> Vec<AppIndex> {
    let apps = nodes.iter().map(|&node| net.subscriber(node, &["t"])).collect();
    net.run_for(SOON);
    apps
}

#[test]
fn a_unicast_crosses_a_line_of_five_nodes_and_its_answer_comes_back() {
    for (seed, reactors) in [(1, 1), (2, 2), (3, 3)] {
        let mut net = network(seed, 5, reactors, &line(5));
        subscribers(&mut net, &[4]);
        let publisher = net.app(0, Behaviour::Silent);
        for number in 0..20u8 {
            let seq = net.unicast(publisher, "t", &[number]);
            assert_eq!(net.answer(publisher, &seq, SOON).0, 0, "message {number}, {reactors} reactors");
        }
        for between in 1..4 {
            assert_eq!(net.nodes[between].total(|counters| counters.relayed.get()), 40);
        }
    }
}

#[test]
fn a_multicast_reaches_every_subscriber_of_the_network_once() {
    let mut net = network(4, 6, 2, &[(0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (2, 4)]);
    let apps = subscribers(&mut net, &[0, 1, 2, 3, 4, 5]);
    let publisher = net.app(0, Behaviour::Silent);
    for number in 0..10u8 {
        let seq = net.multicast(publisher, "t", &[number]);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
    net.run_for(SOON);
    for app in apps {
        let got: Vec<u8> =
            net.pushed(app, FrameType::MULTICAST).into_iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(got, (0..10).collect::<Vec<u8>>());
    }
}

#[test]
fn a_link_that_breaks_in_mid_traffic_costs_neither_a_loss_nor_a_double_delivery() {
    for seed in 0..8 {
        let mut net = network(10 + seed, 5, 2, &ring(5));
        let apps = subscribers(&mut net, &[2]);
        let publisher = net.app(0, Behaviour::Silent);
        let mut sent = Vec::new();
        for number in 0..200u8 {
            sent.push(net.unicast(publisher, "t", &[number]));
            net.run_for(Duration::from_millis(1));
            if number == 60 {
                net.break_links(0, 1);
            }
            if number == 130 {
                net.connect(0, 1);
            }
        }
        net.run_for(3 * SOON);
        for (number, seq) in sent.iter().enumerate() {
            let answers = net.answers(publisher, seq);
            assert_eq!(answers.len(), 1, "seed {seed}, message {number}");
            assert_eq!(answers[0].code().0, 0, "seed {seed}, message {number}");
        }
        let mut got: Vec<u8> =
            net.pushed(apps[0], FrameType::REQUEST).into_iter().map(|(_, payload)| payload[0]).collect();
        let count = got.len();
        got.sort_unstable();
        got.dedup();
        assert_eq!((count, got.len()), (200, 200), "seed {seed}");
    }
}
