//! A node that was cut off and returned in the same incarnation is a node like any other: what is on its way to it, or from it,
//! survives the next loss of its link as long as another route leads there (WIRE §6.4).

use std::{cell::RefCell, rc::Rc, time::Duration};

use amop::internal::{
    relay::settings::Settings,
    wire::{
        node::{Header, PacketType},
        sdk::FrameType,
    },
};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than a node that is gone is remembered.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15);

/// How long the node is cut off: its link is lost and comes back, it is given up, or it is let go of.
const ABSENCES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_millis(1_500),
    Duration::from_secs(3),
    Duration::from_secs(9),
    Duration::from_secs(14),
];

/// Nodes 0, 1 and 2, all linked. Node 1 is cut off for so long and returns, and then long nothing happens.
fn after_a_return(seed: u64, absence: Duration, topic: &str, answers: Behaviour) -> (Network, AppIndex) {
    let settings = Settings { push_timeout: 20 * SECOND, ..Settings::default() };
    let mut net = Network::new(seed);
    for _ in 0..3 {
        net.add_node(1, settings.clone());
    }
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        net.connect(one, other);
    }
    net.run_for(SECOND);
    let subscriber = net.app(1, answers);
    net.subscribe(subscriber, &[topic]);
    net.run_for(SECOND);
    for other in [0, 2] {
        net.break_links(other, 1);
    }
    net.run_for(absence);
    for other in [0, 2] {
        net.connect(other, 1);
    }
    net.run_for(FORGOTTEN_AFTER);
    (net, subscriber)
}

/// The codes of unicasts that `publisher` sends, one a second, and that are answered after 3 s.
fn codes_of_unicasts(net: &mut Network, publisher: AppIndex, count: usize) -> Vec<i32> {
    let mut seqs = Vec::new();
    for _ in 0..count {
        net.run_for(SECOND);
        seqs.push(net.unicast(publisher, "t", b"payload"));
    }
    net.run_for(10 * SECOND);
    seqs.iter().map(|seq| net.answers(publisher, seq).first().map_or(-1, |answer| answer.code().0)).collect()
}

#[test]
fn unicasts_to_a_node_that_returned_are_answered_when_its_link_is_lost_later() {
    for (seed, absence) in (0..).zip(ABSENCES) {
        let (mut net, _) = after_a_return(seed, absence, "t", Behaviour::Echo(3 * SECOND));
        net.break_links(0, 1);
        let publisher = net.app(0, Behaviour::Silent);
        let codes = codes_of_unicasts(&mut net, publisher, 20);
        assert!(codes.iter().all(|code| *code == 0), "absent for {absence:?}: {codes:?}");
    }
}

#[test]
fn answers_of_a_node_that_returned_arrive_when_the_link_is_lost_later() {
    // The other way round: the publisher is at the node that was away.
    for (seed, absence) in (0..).zip(ABSENCES) {
        let (mut net, _) = after_a_return(seed, absence, "other", Behaviour::Silent);
        let subscriber = net.app(0, Behaviour::Echo(3 * SECOND));
        net.subscribe(subscriber, &["t"]);
        net.run_for(SECOND);
        net.break_links(0, 1);
        let publisher = net.app(1, Behaviour::Silent);
        let codes = codes_of_unicasts(&mut net, publisher, 20);
        assert!(codes.iter().all(|code| *code == 0), "absent for {absence:?}: {codes:?}");
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 20, "absent for {absence:?}");
    }
}

#[test]
fn multicasts_to_a_node_that_returned_all_arrive_when_its_link_is_lost_later() {
    const COUNT: u32 = 2_000;
    for (seed, absence) in (0..).zip(ABSENCES) {
        let (mut net, subscriber) = after_a_return(seed, absence, "t", Behaviour::Silent);
        net.break_links(0, 1);
        let publisher = net.app(0, Behaviour::Silent);
        // In the middle of what is sent from now on falls when the link would be given up, and the node forgotten.
        net.run_for(Duration::from_millis(10_500));
        for number in 0..COUNT {
            net.multicast(publisher, "t", &number.to_be_bytes());
            net.run_for(Duration::from_micros(900));
        }
        net.run_for(20 * SECOND);
        let pushed = net.pushed(subscriber, FrameType::MULTICAST).into_iter();
        let got: Vec<u32> =
            pushed.map(|(_, payload)| u32::from_be_bytes(payload.try_into().unwrap())).collect();
        assert!(got.iter().copied().eq(0..COUNT), "absent for {absence:?}: {} of {COUNT}", got.len());
    }
}

/// Multicasts that cross from node 0 from now on.
fn record_multicasts(net: &mut Network) -> Rc<RefCell<Vec<Vec<u8>>>> {
    let frames = Rc::<RefCell<Vec<Vec<u8>>>>::default();
    let all = frames.clone();
    net.tamper = Some(Box::new(move |from, _, bytes| {
        let header = Header::decode(bytes).expect("nodes send whole frames").0;
        if from == 0 && header.packet_type == PacketType::MULTICAST {
            all.borrow_mut().push(bytes.clone());
        }
    }));
    frames
}

#[test]
fn messages_to_a_node_that_was_let_go_of_are_new_to_it_when_it_returns_and_those_of_before_are_not() {
    for reactors in [1, 2] {
        let mut net = Network::of_edges(6, 2, reactors, &[(0, 1)]);
        let subscriber = net.subscriber(1, &["t"]);
        net.run_for(SECOND);
        let publisher = net.app(0, Behaviour::Silent);
        let frames = record_multicasts(&mut net);
        for number in 0..6u8 {
            net.multicast(publisher, "t", &[number]);
            net.run_for(SECOND);
            if number == 2 {
                // Both ends forget all of the channel but how far it had come.
                net.break_links(0, 1);
                net.run_for(2 * FORGOTTEN_AFTER);
                assert_eq!(net.nodes[0].usage().map(|usage| usage.peers).sum::<usize>(), 0);
                net.connect(0, 1);
                net.run_for(SECOND);
                let before = frames.take();
                assert_eq!(before.len(), 3);
                before.iter().for_each(|bytes| net.forge(0, 1, bytes));
                net.run_for(SECOND);
            }
        }
        let pushed = net.pushed(subscriber, FrameType::MULTICAST);
        let got: Vec<u8> = pushed.into_iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(got, [0, 1, 2, 3, 4, 5], "{reactors} reactors");
    }
}

#[test]
fn what_waited_at_a_node_on_the_way_for_one_that_was_given_up_is_not_delivered_twice_when_that_returns() {
    for seed in 0..4 {
        let mut net = Network::of_edges(seed, 3, 1, &[(0, 1), (1, 2), (0, 2)]);
        let subscriber = net.app(2, Behaviour::Silent);
        net.subscribe(subscriber, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        // It is pushed, and node 0 does not learn that it was taken: it sends it again, over node 1.
        net.cut_one_way(2, 0);
        net.unicast(publisher, "t", b"payload");
        net.run_for(Duration::from_millis(10));
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 1);
        net.break_links(1, 2);
        net.break_links(0, 2);
        // Longer than node 2 remembers what it took.
        net.run_for(Duration::from_millis(10_500));
        net.connect(1, 2);
        net.run_for(5 * SECOND);
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 1, "seed {seed}");
    }
}

#[test]
fn a_node_farther_away_that_returned_is_not_forgotten_when_its_way_changes_later() {
    // 0 - 1 - 3 and 0 - 2 - 3: node 3 loses both of its links, and has them again.
    for (seed, absence) in (0..).zip(ABSENCES) {
        let mut net = Network::of_edges(seed, 4, 1, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        let subscriber = net.app(3, Behaviour::Echo(3 * SECOND));
        net.subscribe(subscriber, &["t"]);
        let each = |net: &mut Network, act: fn(&mut Network, NodeIndex, NodeIndex)| {
            [1, 2].into_iter().for_each(|other| act(net, other, 3));
        };
        each(&mut net, Network::break_links);
        net.run_for(absence);
        each(&mut net, Network::connect);
        net.run_for(FORGOTTEN_AFTER);
        // Now it is a neighbour for a while, and then no more.
        net.connect(0, 3);
        net.run_for(SECOND);
        net.break_links(0, 3);
        let publisher = net.app(0, Behaviour::Silent);
        let codes = codes_of_unicasts(&mut net, publisher, 20);
        assert!(codes.iter().all(|code| *code == 0), "absent for {absence:?}: {codes:?}");
    }
}
