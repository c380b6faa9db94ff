//! Blacklist and whitelist (WIRE §6.1) in a network where messages go over more than one link: a node that they leave
//! out exchanges no messages with this one, and nobody else is disturbed.

use std::time::Duration;

use amop::internal::{
    relay::{admission::Admission, settings::Settings},
    wire::{NodeId, sdk::FrameType},
};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex};

const SOON: Duration = Duration::from_secs(1);

fn line(seed: u64, nodes: usize) -> Network {
    let mut net = Network::new(seed);
    for _ in 0..nodes {
        net.add_node(2, Settings::default());
    }
    (1..nodes).for_each(|node| net.connect(node - 1, node));
    net.run_for(SOON);
    net
}

fn without(net: &Network, nodes: &[NodeIndex]) -> Admission {
    Admission { blacklist: ids(net, nodes).collect(), ..Admission::default() }
}

fn only(net: &Network, nodes: &[NodeIndex]) -> Admission {
    Admission { whitelist: ids(net, nodes).collect(), ..Admission::default() }
}

fn ids<'a>(net: &'a Network, nodes: &'a [NodeIndex]) -> impl Iterator<Item = NodeId> + 'a {
    nodes.iter().map(|&node| net.nodes[node].id)
}

fn code(net: &mut Network, publisher: AppIndex, topic: &str) -> i32 {
    let seq = net.unicast(publisher, topic, b"x");
    net.answer(publisher, &seq, SOON).0
}

fn pushed(net: &Network, app: AppIndex) -> usize {
    net.pushed(app, FrameType::REQUEST).len() + net.pushed(app, FrameType::MULTICAST).len()
}

fn not_admitted(net: &Network, node: NodeIndex) -> u64 {
    net.nodes[node].total(|counters| counters.not_admitted.get())
}

/// Node 0 leaves node 2 out, which is not its neighbour, in both ways in which it can.
fn with_the_far_one_left_out(mut test: impl FnMut(Network)) {
    for by_whitelist in [false, true] {
        let mut net = line(1, 3);
        let admission = if by_whitelist { only(&net, &[1]) } else { without(&net, &[2]) };
        net.set_admission(0, admission);
        net.run_for(SOON);
        test(net);
    }
}

#[test]
fn no_message_goes_to_a_node_that_the_lists_leave_out_behind_a_neighbour() {
    with_the_far_one_left_out(|mut net| {
        let far = net.subscriber(2, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        net.run_for(SOON);
        assert_eq!(code(&mut net, publisher, "t"), 100);
        net.multicast(publisher, "t", b"x");
        net.run_for(SOON);
        assert_eq!(pushed(&net, far), 0);
        assert_eq!(net.nodes[1].total(|counters| counters.relayed.get()), 0);
        let near = net.subscriber(1, &["t"]);
        net.run_for(SOON);
        for _ in 0..20 {
            assert_eq!(code(&mut net, publisher, "t"), 0);
        }
        assert_eq!((pushed(&net, near), pushed(&net, far)), (20, 0));
    });
}

#[test]
fn messages_of_a_node_that_the_lists_leave_out_are_refused_and_counted_and_its_publisher_is_answered_at_once()
{
    with_the_far_one_left_out(|mut net| {
        let subscriber = net.subscriber(0, &["t"]);
        let publisher = net.app(2, Behaviour::Silent);
        net.run_for(SOON);
        assert_eq!(code(&mut net, publisher, "t"), 101);
        net.multicast(publisher, "t", b"x");
        net.run_for(SOON);
        assert_eq!((pushed(&net, subscriber), not_admitted(&net, 0)), (0, 2));
        // Others are drawn at once, so nobody waits because of what somebody else's lists say.
        let near = net.subscriber(1, &["t"]);
        net.run_for(SOON);
        for _ in 0..20 {
            assert_eq!(code(&mut net, publisher, "t"), 0);
        }
        assert_eq!((pushed(&net, near), pushed(&net, subscriber)), (20, 0));
        // Of those that are admitted it takes them as before.
        let neighbour = net.app(1, Behaviour::Silent);
        for _ in 0..20 {
            assert_eq!(code(&mut net, neighbour, "t"), 0);
        }
        assert!(pushed(&net, subscriber) > 0);
    });
}

#[test]
fn what_others_exchange_with_a_node_that_is_left_out_is_relayed_as_before() {
    // 0 - 1 - 2, and node 1 in the middle leaves out one that is a neighbour of neither end: 3 behind 2.
    let mut net = line(2, 4);
    let admission = without(&net, &[3]);
    net.set_admission(1, admission);
    net.run_for(SOON);
    net.subscriber(3, &["t"]);
    net.subscriber(0, &["u"]);
    let [publisher, far_publisher, middle] = [0, 3, 1].map(|node| net.app(node, Behaviour::Silent));
    net.run_for(SOON);
    for _ in 0..5 {
        assert_eq!(code(&mut net, publisher, "t"), 0);
        assert_eq!(code(&mut net, far_publisher, "u"), 0);
        assert_eq!(code(&mut net, middle, "t"), 100);
    }
    assert!(net.nodes[1].total(|counters| counters.relayed.get()) >= 20);
    assert_eq!(not_admitted(&net, 1), 0);
}

#[test]
fn a_way_over_a_node_that_is_left_out_is_a_way() {
    let mut net = line(3, 4);
    let admission = without(&net, &[2]);
    net.set_admission(0, admission);
    net.subscriber(3, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SOON);
    assert_eq!(code(&mut net, publisher, "t"), 0);
}

#[test]
fn a_neighbour_that_is_left_out_is_not_reached_by_another_way_and_lists_hold_at_once_and_until_they_change() {
    for seed in 4..12 {
        // A triangle: there is a way around the link that is closed.
        let mut net = line(seed, 3);
        net.connect(0, 2);
        net.run_for(SOON);
        let far = net.subscriber(2, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        net.run_for(SOON);
        assert_eq!(code(&mut net, publisher, "t"), 0);
        // Some of them are on their way.
        let sent: Vec<_> = (0..20u8)
            .map(|number| {
                net.run_for(Duration::from_micros(300));
                net.unicast(publisher, "t", &[number])
            })
            .collect();
        let admission = without(&net, &[2]);
        net.set_admission(0, admission);
        net.run_for(Duration::from_millis(10));
        let got = pushed(&net, far);
        net.run_for(2 * SOON);
        for seq in &sent {
            let answers = net.answers(publisher, seq);
            assert_eq!(answers.len(), 1, "seed {seed}");
            assert!([0, 99, 100, 102].contains(&answers[0].code().0), "seed {seed}: {:?}", answers[0]);
        }
        assert_eq!(code(&mut net, publisher, "t"), 100);
        assert_eq!(pushed(&net, far), got, "seed {seed}: nothing more goes there");
        net.set_admission(0, Admission::default());
        net.run_for(SOON);
        assert_eq!(code(&mut net, publisher, "t"), 0, "over the other way");
        net.connect(0, 2);
        net.run_for(SOON);
        assert_eq!(code(&mut net, publisher, "t"), 0);
    }
}
