//! Unicasts for which nobody is known while the state of a neighbour is on its way (WIRE §3, code 100): they wait for it.

use std::time::Duration;

use amop::internal::{
    relay::settings::Settings,
    wire::{
        node::{Header, PacketType},
        sdk::FrameType,
    },
};

use crate::kit::{AppIndex, Behaviour, Clock, Network, NodeIndex, line};

const SECOND: Duration = Duration::from_secs(1);
/// So long that messages certainly fall between a link and the state that comes over it.
const SLOW: Duration = Duration::from_millis(50);
const NO_RECEIVER: i32 = 100;

/// Some nodes, linked in a line or not, whose links are slow.
fn slow_line(seed: u64, nodes: usize, reactors: u16, are_linked: bool) -> Network {
    let mut net = Network::new(seed);
    for node in 0..nodes {
        net.add_node(reactors, Settings::default());
        for other in 0..node {
            net.timing.between.insert((node, other), SLOW..=SLOW);
            net.timing.between.insert((other, node), SLOW..=SLOW);
        }
    }
    if are_linked {
        line(nodes).into_iter().for_each(|(one, other)| net.connect(one, other));
    }
    net.run_for(2 * SECOND);
    net
}

/// Runs until a node shows its first neighbour.
fn run_until_linked(net: &mut Network, node: NodeIndex) {
    let end = net.now + SECOND;
    while net.nodes[node].shared.snapshot.load().neighbours.is_empty() {
        assert!(net.step(end), "no link");
    }
}

/// A unicast that nobody is known for waits as long as the state of a neighbour is waited for, and is answered 100 then.
fn assert_answered_after_the_timeout(net: &mut Network, publisher: AppIndex) {
    let (begin, timeout) = (net.now, Settings::default().ready_timeout);
    let seq = net.unicast(publisher, "t", b"payload");
    assert_eq!(net.answer(publisher, &seq, 2 * timeout).0, NO_RECEIVER);
    let waited = net.now - begin;
    assert!((timeout - SECOND / 10..=timeout + SECOND / 10).contains(&waited), "{waited:?}");
}

#[test]
fn a_unicast_is_answered_by_a_subscriber_whose_node_was_linked_a_moment_ago() {
    for (seed, reactors) in [(1, 1), (2, 3)] {
        let mut net = slow_line(seed, 2, reactors, false);
        net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"before");
        assert_eq!(net.answer(publisher, &seq, SECOND).0, NO_RECEIVER);
        net.connect(0, 1);
        run_until_linked(&mut net, 0);
        let seq = net.unicast(publisher, "t", b"after");
        assert_eq!(net.answer(publisher, &seq, SECOND).0, 0, "{reactors} reactors");
    }
}

#[test]
fn a_reconnect_to_a_part_of_the_network_answers_with_what_has_come_there_meanwhile() {
    // Apart so long that records are let go, or not.
    for apart in [2 * SECOND, 100 * SECOND] {
        let mut net = slow_line(3, 4, 2, true);
        net.break_links(0, 1);
        net.run_for(apart);
        net.subscriber(3, &["t"]);
        net.run_for(2 * SECOND);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"apart");
        assert_eq!(net.answer(publisher, &seq, SECOND).0, NO_RECEIVER);
        net.connect(1, 0);
        run_until_linked(&mut net, 0);
        let seq = net.unicast(publisher, "t", b"together");
        assert_eq!(net.answer(publisher, &seq, 2 * SECOND).0, 0, "apart for {apart:?}");
    }
}

#[test]
fn what_waits_keeps_its_order() {
    let mut net = slow_line(4, 2, 2, false);
    let subscriber = net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.connect(0, 1);
    run_until_linked(&mut net, 0);
    for number in 0..200u8 {
        net.unicast(publisher, "t", &[number]);
        net.run_for(SLOW / 50);
    }
    net.run_for(2 * SECOND);
    let pushed = net.pushed(subscriber, FrameType::REQUEST).into_iter();
    let got: Vec<u8> = pushed.map(|(_, payload)| payload[0]).collect();
    assert_eq!(got, (0..200).collect::<Vec<u8>>());
}

#[test]
fn a_neighbour_that_never_tells_its_state_keeps_nobody_waiting_for_longer_than_the_timeout() {
    let mut net = slow_line(5, 2, 1, false);
    net.tamper = Some(Box::new(|from, _, bytes: &mut Vec<u8>| {
        let is_state = |packet_type| [PacketType::STATE_SEQ, PacketType::STATE_REPLY].contains(&packet_type);
        if from == 1 && Header::decode(bytes).is_ok_and(|(header, _)| is_state(header.packet_type)) {
            // A type that nobody knows.
            bytes[6..8].copy_from_slice(&0x77i16.to_be_bytes());
        }
    }));
    let publisher = net.app(0, Behaviour::Silent);
    net.connect(0, 1);
    run_until_linked(&mut net, 0);
    assert_answered_after_the_timeout(&mut net, publisher);
    let seq = net.unicast(publisher, "t", b"payload");
    assert_eq!(net.answer(publisher, &seq, SECOND).0, NO_RECEIVER, "once is enough");
}

/// What such a node says first is that it has nothing, and that is of an incarnation that is over.
#[test]
fn a_unicast_is_answered_by_a_subscriber_whose_node_has_come_back_with_its_clock_behind() {
    let mut net = slow_line(6, 2, 2, true);
    // Let go of, or not.
    for apart in [5 * SECOND, 100 * SECOND] {
        net.kill(1);
        net.run_for(apart);
        net.revive(1, Clock::Lost);
        net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        net.run_for(SECOND / 10);
        net.connect(0, 1);
        run_until_linked(&mut net, 0);
        let seq = net.unicast(publisher, "t", b"payload");
        // It ends its links when it has heard that its incarnation must be a later one.
        while !net.links_between(0, 1).is_empty() {
            assert!(net.step(net.now + SECOND), "no later incarnation");
        }
        net.run_for(SECOND / 2);
        net.connect(1, 0);
        assert_eq!(net.answer(publisher, &seq, 2 * SECOND).0, 0, "apart for {apart:?}");
    }
}

#[test]
fn a_neighbour_that_does_not_come_back_from_an_earlier_incarnation_keeps_nobody_waiting_for_longer_than_the_timeout()
 {
    let mut net = slow_line(7, 2, 1, true);
    net.kill(1);
    net.run_for(5 * SECOND);
    net.revive(1, Clock::Lost);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND / 10);
    net.connect(0, 1);
    run_until_linked(&mut net, 0);
    assert_answered_after_the_timeout(&mut net, publisher);
}
