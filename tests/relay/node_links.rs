//! Links between nodes: which one stays, what is sent again, what a neighbour knows (WIRE §6).

use std::{sync::atomic::Ordering, time::Duration};

use amop::internal::{
    relay::CloseReason,
    wire::{
        ResultCode,
        node::{Extensions, PacketType},
        sdk::{self, FrameType},
    },
};

use crate::kit::{Behaviour, LINK_LATENCY, Network};

const SOON: Duration = Duration::from_millis(100);

fn links(net: &Network) -> (usize, usize) {
    (net.links_between(0, 1).len(), net.links_between(1, 0).len())
}

#[test]
fn a_neighbour_knows_of_a_subscription_within_one_round_trip() {
    let mut net = Network::mesh(1, 2, 2);
    let publisher = net.app(0, Behaviour::Silent);
    let subscriber = net.app(1, Behaviour::Echo(Duration::ZERO));
    net.frame(subscriber, FrameType::SUBSCRIBE, br#"["t"]"#);
    // The frame's own way to its node, the millisecond that changes are gathered, and a round trip.
    net.run_for(LINK_LATENCY + Duration::from_millis(2) + 2 * LINK_LATENCY);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
}

#[test]
fn of_two_simultaneous_dials_one_link_stays() {
    for seed in 0..20 {
        let mut net = Network::new(seed);
        for _ in 0..2 {
            net.add_node(2, Default::default());
        }
        net.connect(0, 1);
        net.connect(1, 0);
        net.run_for(SOON);
        assert_eq!(links(&net), (1, 1), "seed {seed}");
        net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
}

#[test]
fn a_second_link_to_a_live_node_is_closed() {
    let mut net = Network::mesh(2, 2, 1);
    net.run_for(Duration::from_secs(5));
    net.connect(1, 0);
    net.run_for(Duration::from_secs(2));
    assert_eq!(links(&net), (1, 1));
}

#[test]
fn a_half_open_link_is_replaced_when_the_peer_dials_again() {
    let mut net = Network::mesh(3, 2, 1);
    net.run_for(Duration::from_secs(5));
    net.cut_links(0, 1);
    net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    net.run_for(Duration::from_secs(4));
    assert_eq!(links(&net), (1, 1));
}

#[test]
fn a_restarted_node_replaces_its_old_links_at_once() {
    let mut net = Network::mesh(4, 2, 2);
    net.subscriber(1, &["t"]);
    net.cut_links(0, 1);
    net.restart(1, Duration::from_millis(10));
    net.connect(1, 0);
    net.subscriber(1, &["u"]);
    net.run_for(SOON);
    let publisher = net.app(0, Behaviour::Silent);
    for (topic, code) in [("t", 100), ("u", 0)] {
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{topic}");
    }
}

#[test]
fn a_dead_link_is_noticed_within_three_seconds() {
    let mut net = Network::mesh(5, 2, 1);
    net.cut_links(0, 1);
    net.run_for(Duration::from_millis(3_300));
    assert_eq!(links(&net), (0, 0));
    assert_eq!(net.nodes[0].total(|counters| counters.closed_dead.get()), 1);
}

#[test]
fn an_idle_link_stays_up() {
    let mut net = Network::mesh(6, 3, 2);
    net.run_for(Duration::from_secs(120));
    assert_eq!(links(&net), (1, 1));
    assert_eq!(net.nodes[0].total(|counters| counters.closed_dead.get()), 0);
}

#[test]
fn a_broken_link_that_comes_back_loses_and_doubles_nothing() {
    let mut again = 0;
    for seed in 10..30 {
        let mut net = Network::mesh(seed, 2, 2);
        let subscriber = net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        let mut seqs = Vec::new();
        for number in 0..300u32 {
            seqs.push(net.unicast(publisher, "t", &number.to_be_bytes()));
            net.multicast(publisher, "t", &number.to_be_bytes());
            if number % 50 == 25 {
                // While some are on their way, or after all have come.
                net.run_for(Duration::from_micros(100 + 31 * u64::from(number)));
                net.break_links(0, 1);
                net.run_for(Duration::from_millis(u64::from(number)));
                net.connect(
                    u32::is_multiple_of(number, 100).into(),
                    usize::from(!u32::is_multiple_of(number, 100)),
                );
            }
        }
        net.run_for(Duration::from_secs(2));
        for seq in &seqs {
            assert_eq!(net.answers(publisher, seq).len(), 1, "seed {seed}");
            assert_eq!(net.answers(publisher, seq)[0].header.result.0, 0, "seed {seed}");
        }
        for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
            let numbers: Vec<u32> = net
                .pushed(subscriber, frame_type)
                .iter()
                .map(|(_, payload)| u32::from_be_bytes(payload.as_slice().try_into().unwrap()))
                .collect();
            assert_eq!(numbers, (0..300).collect::<Vec<_>>(), "seed {seed}: each once, in order");
        }
        again += net.nodes[0].total(|counters| counters.frames_sent_again.get());
    }
    assert!(again > 0, "what was on its way went again");
}

#[test]
fn a_node_that_joins_learns_everything_and_one_that_leaves_is_forgotten() {
    let mut net = Network::mesh(7, 2, 2);
    for number in 0..50 {
        let topic = format!("t{number}");
        net.subscriber(number % 2, &[&topic]);
    }
    let node = net.add_node(1, Default::default());
    net.connect(node, 0);
    net.connect(node, 1);
    net.run_for(SOON);
    let publisher = net.app(node, Behaviour::Silent);
    for number in 0..50 {
        let seq = net.unicast(publisher, &format!("t{number}"), b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
    net.kill(1);
    net.run_for(Duration::from_secs(5));
    for number in 0..50 {
        let seq = net.unicast(publisher, &format!("t{number}"), b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, if number % 2 == 0 { 0 } else { 100 });
    }
}

#[test]
fn state_that_was_lost_on_a_link_is_made_good() {
    let mut net = Network::mesh(8, 2, 1);
    let subscriber = net.subscriber(1, &["a"]);
    // The link breaks in the moment of the change, so that the step is lost.
    net.frame(subscriber, FrameType::SUBSCRIBE, br#"["b"]"#);
    net.run_for(LINK_LATENCY + Duration::from_micros(1_200));
    net.break_links(0, 1);
    net.run_for(Duration::from_millis(50));
    net.connect(0, 1);
    net.run_for(SOON);
    let publisher = net.app(0, Behaviour::Silent);
    for (topic, code) in [("a", 100), ("b", 0)] {
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{topic}");
    }
}

#[test]
fn a_frozen_node_delays_its_requests_only_until_the_next_one_is_tried() {
    let mut net = Network::mesh(9, 3, 1);
    for node in [1, 2] {
        net.subscriber(node, &["t"]);
    }
    let publisher = net.app(0, Behaviour::Silent);
    net.nodes[1].frozen = true;
    for _ in 0..20 {
        let seq = net.unicast(publisher, "t", b"x");
        let before = net.now;
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(5)).0, 0);
        assert!(net.now - before < Duration::from_secs(5));
    }
}

/// Found by the simulator: a node that was away longer than the grace came back in the same incarnation, sent its
/// unicast again, and had it delivered twice; and the answer of the first delivery was lost.
#[test]
fn a_message_sent_again_after_the_node_was_given_up_is_known_and_its_answer_is_sent_again() {
    let mut net = Network::mesh(7, 2, 1);
    let subscriber = net.app(1, Behaviour::Echo(Duration::from_millis(400)));
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(4 * LINK_LATENCY);
    assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 1);
    // Node 1 sees its neighbour close the link and gives it up after a short grace; node 0 sees the link
    // break and waits longer.
    net.close_links_by_peer(1, 0);
    net.run_for(Duration::from_millis(600));
    net.connect(0, 1);
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 1);
}

#[test]
fn a_node_that_answers_under_another_seq_counts_as_failed() {
    let mut net = Network::mesh(5, 2, 1);
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let (first, second) = (net.unicast(publisher, "t", b"1"), net.unicast(publisher, "t", b"2"));
    net.run_for(SOON);
    // The node answers all that it has, each time under the seq of the second.
    let next = net.nodes[0].shared.next_message.load(Ordering::Relaxed);
    for message in (1..=8).map(|back| next.wrapping_sub(back)) {
        let answer = sdk::encode_amop(FrameType::RESPONSE, &second, ResultCode::OK, "t", b"lie");
        net.forge_message(1, 0, (PacketType::UNICAST_RESPONSE, message), &Extensions::default(), &answer);
    }
    assert_eq!(net.answer(publisher, &second, SOON).0, 0);
    assert_eq!(net.answer(publisher, &first, SOON), (ResultCode::NOT_DELIVERED.0, Vec::new()));
}

/// Found by the simulator: the end of a worn link overtook the Hello of the one that replaced it, and the
/// node was given up in between.
#[test]
fn a_node_whose_next_link_is_there_already_is_not_given_up() {
    let mut net = Network::mesh(8, 2, 1);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.wear_links(0, 1);
    let worn = net.links_between(0, 1)[0];
    let usual = net.timing.clone();
    let slow = Duration::from_millis(400);
    net.timing.link = slow..=slow;
    net.connect(1, 0);
    net.timing = usual;
    net.lose_link(0, worn, CloseReason::ByPeer);
    net.run_for(Duration::from_millis(300));
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_millis(500)).0, 0);
}

#[test]
fn the_round_trip_of_a_link_is_measured_while_it_is_idle_and_while_it_is_busy() {
    let millis = Duration::from_millis;
    let mut net = Network::mesh(40, 2, 2);
    net.run_for(Duration::from_secs(1));
    let (first, second) = (net.nodes[0].id, net.nodes[1].id);
    let there_and_back = 2 * LINK_LATENCY;
    assert_eq!(net.round_trips(0, &second), [Some((there_and_back, there_and_back))]);
    assert_eq!(net.round_trips(1, &first), [Some((there_and_back, there_and_back))]);
    // The way gets longer, and all the time acknowledgements cross it that answer no measurement.
    net.timing.link = millis(9)..=millis(9);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..500 {
        net.multicast(publisher, "t", b"x");
        net.run_for(millis(10));
    }
    let smoothed = (there_and_back * 7 + millis(18)) / 8;
    assert_eq!(net.round_trips(0, &second), [Some((millis(18), smoothed))]);
    // Once in five seconds, and nothing is left open.
    let measured = |net: &Network| -> u64 {
        let histograms = net.nodes[0].shared.counters.iter().map(|counters| &counters.latencies.round_trips);
        histograms.flat_map(|histogram| histogram.buckets()).map(|(_, count)| count).sum()
    };
    let before = measured(&net);
    net.run_for(Duration::from_secs(60));
    assert!((11..=12).contains(&(measured(&net) - before)), "{}", measured(&net) - before);
    assert_eq!(net.nodes[0].total(|counters| counters.round_trips_unanswered.get()), 0);
}

#[test]
fn a_link_is_measured_and_a_rival_is_probed_without_disturbing_each_other() {
    for seed in 41..61 {
        let mut net = Network::mesh(seed, 2, 1);
        // About when the next measurement is due, a second link to the live node comes and goes.
        net.run_for(Duration::from_millis(4_800 + 10 * (seed - 41)));
        net.connect(1, 0);
        net.run_for(Duration::from_secs(1));
        assert_eq!(links(&net), (1, 1), "seed {seed}");
        let other = net.nodes[1].id;
        let there_and_back = 2 * LINK_LATENCY;
        assert_eq!(net.round_trips(0, &other), [Some((there_and_back, there_and_back))]);
        // One that is half open is replaced as before, for no answer is a sign of life.
        net.cut_links(0, 1);
        net.connect(0, 1);
        net.run_for(Duration::from_secs(1));
        let replaced = net.round_trips(0, &other);
        assert_eq!(replaced.last(), Some(&Some((there_and_back, there_and_back))), "seed {seed}");
    }
}

#[test]
fn what_is_sent_again_after_a_pause_longer_than_it_is_remembered_is_known_all_the_same() {
    let mut net = Network::mesh(31, 2, 1);
    let subscriber = net.subscriber(1, &["t"]);
    net.run_for(Duration::from_secs(1));
    let publisher = net.app(0, Behaviour::Silent);
    // What node 1 says is lost, acknowledgements among it; then node 0 stands still for long.
    net.cut_one_way(1, 0);
    for number in 0..5u8 {
        net.multicast(publisher, "t", &[number]);
    }
    net.run_for(Duration::from_millis(500));
    net.nodes[0].frozen = true;
    net.run_for(Duration::from_secs(9));
    net.connect(1, 0);
    net.run_for(Duration::from_secs(3));
    net.nodes[0].frozen = false;
    net.run_for(Duration::from_millis(100));
    if net.links_between(0, 1).is_empty() {
        net.connect(1, 0);
    }
    net.run_for(Duration::from_secs(5));
    let got: Vec<u8> =
        net.pushed(subscriber, FrameType::MULTICAST).into_iter().map(|(_, payload)| payload[0]).collect();
    assert_eq!(got, [0, 1, 2, 3, 4]);
}
