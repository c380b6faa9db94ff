//! Outbound bandwidth, measured where the frames arrive (WIRE §5).

use std::time::Duration;

use amop::internal::{
    relay::{bandwidth::Limiter, settings::Settings},
    wire::{
        node::{FLAG_SENT_AGAIN, Header, PacketType},
        sdk::FrameType,
    },
};

use crate::kit::{AppIndex, Behaviour, LINK_LATENCY, Network, NodeIndex, Seen, line};

/// What a multicast of 300 bytes takes on a node link: its own bytes, the node header, the extensions' length.
const FRAME_LEN: usize = 42 + 2 + 300 + 20 + 24 + 2;
/// Node 0 reaches 3, 4 and 5 over 1 and over 2, which are equally near.
const TWO_WAYS: [(NodeIndex, NodeIndex); 8] =
    [(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4), (1, 5), (2, 5)];

/// Node 0 has a limit, and subscribers are at 3, 4 and 5.
fn over_two_ways(seed: u64, reactors: u16, cap: f64) -> (Network, Vec<AppIndex>) {
    let mut net = Network::new(seed);
    net.add_limited_node(reactors, Settings::default(), Limiter::new(cap, Duration::from_millis(100)));
    (1..6).for_each(|_| {
        net.add_node(reactors, Settings::default());
    });
    TWO_WAYS.iter().for_each(|&(one, other)| net.connect(one, other));
    net.run_for(Duration::from_secs(1));
    let subscribers = [3, 4, 5].map(|node| net.subscriber(node, &["t"]));
    net.run_for(Duration::from_secs(1));
    (net, subscribers.to_vec())
}

/// Bytes of AMOP frames that crossed from a node.
fn crossed_from(net: &mut Network, node: NodeIndex) -> u64 {
    let seen = net.seen.replace(Vec::new()).unwrap_or_default();
    let of_node = |seen: &Seen| match seen {
        Seen::Crossed { from, bytes, .. } if *from == node => {
            let (header, _) = Header::decode(bytes).unwrap();
            if header.packet_type.is_amop() { bytes.len() as u64 } else { 0 }
        }
        _ => 0,
    };
    seen.iter().map(of_node).sum()
}

fn charged(net: &Network, node: NodeIndex) -> u64 {
    net.nodes[node].total(|counters| counters.bandwidth_charged_bytes.get())
}

#[test]
fn a_multicast_is_charged_for_each_link_that_it_leaves_on_and_nothing_is_left_over() {
    let mut was_ahead = false;
    for (seed, reactors) in (0..12).map(|seed| (seed, 1 + seed as u16 % 3)) {
        let (mut net, _) = over_two_ways(seed, reactors, 1e9);
        let publisher = net.app(0, Behaviour::Silent);
        for len in [0, 3_000, 100_000] {
            net.seen = Some(Vec::new());
            let before = charged(&net, 0);
            net.multicast(publisher, "t", &vec![0; len]);
            // Its node has just taken it, and the most of it is still on its way between reactors.
            net.run_for(LINK_LATENCY);
            let (left, ahead) = net.nodes[0].shared.limiter.charged_and_prepaid();
            net.run_for(Duration::from_secs(1));
            let crossed = crossed_from(&mut net, 0);
            assert_eq!(charged(&net, 0) - before, crossed, "seed {seed}, {len} bytes");
            let (all, prepaid) = net.nodes[0].shared.limiter.charged_and_prepaid();
            assert_eq!((all, prepaid), (net.nodes[0].left_bytes(), 0), "seed {seed}, {len} bytes");
            assert_eq!(left + ahead, all, "seed {seed}, {len} bytes: all of it is paid as it is admitted");
            was_ahead |= ahead > 0;
        }
        net.seen = None;
    }
    assert!(was_ahead, "nothing was looked at before it left");
}

#[test]
fn a_multicast_is_admitted_by_what_it_takes_on_links_of_both_kinds() {
    for (seed, reactors) in (0..6).map(|seed| (seed, 1 + seed as u16 % 3)) {
        let offer = |cap: f64, burst: Duration| {
            let mut net = Network::new(seed);
            net.add_limited_node(reactors, Settings::default(), Limiter::new(cap, burst));
            (1..6).for_each(|_| _ = net.add_node(reactors, Settings::default()));
            TWO_WAYS.iter().for_each(|&(one, other)| net.connect(one, other));
            net.run_for(Duration::from_secs(1));
            // Two neighbours, and three nodes behind them.
            (1..6).for_each(|node| _ = net.subscriber(node, &["t"]));
            net.run_for(Duration::from_secs(1));
            let publisher = net.app(0, Behaviour::Silent);
            let codes = [0, 1].map(|_| {
                let seq = net.multicast(publisher, "t", &[0; 10_000]);
                net.answer(publisher, &seq, Duration::from_millis(100)).0
            });
            net.run_for(Duration::from_secs(1));
            (codes, charged(&net, 0))
        };
        let (codes, charged_for_both) = offer(1e9, Duration::from_secs(1));
        assert_eq!(codes, [0, 0]);
        // What is left after the first is nine tenths of what the second takes: more than that takes on links of one kind.
        let burst = Duration::from_secs(1_000);
        let (codes, _) = offer(0.95 * charged_for_both as f64 / burst.as_secs_f64(), burst);
        assert_eq!(codes, [0, 103], "seed {seed}");
    }
}

#[test]
fn no_more_than_the_cap_leaves_a_node_whose_multicasts_go_over_two_equal_ways() {
    let cap = 100_000.0;
    for (seed, reactors) in [(0, 1), (1, 2), (2, 1), (3, 3)] {
        let (mut net, _) = over_two_ways(seed, reactors, cap);
        let publisher = net.app(0, Behaviour::Silent);
        let (before, start) = (net.nodes[0].left_bytes(), net.now);
        while net.now - start < Duration::from_secs(12) {
            net.multicast(publisher, "t", &[0; 1_000]);
            net.run_for(Duration::from_millis(2));
        }
        let share = (net.nodes[0].left_bytes() - before) as f64 / (cap * 12.0);
        assert!((0.99..=1.01).contains(&share), "seed {seed}: {share}");
    }
}

#[test]
fn what_is_relayed_is_charged_whatever_its_source_says_of_it() {
    for (flag, packet_type) in
        [(0, None), (FLAG_SENT_AGAIN, None), (0, Some(PacketType(0x77))), (0, Some(PacketType::BROADCAST))]
    {
        let mut net = Network::new(3);
        net.add_node(1, Settings::default());
        net.add_limited_node(1, Settings::default(), Limiter::new(1e9, Duration::from_millis(100)));
        net.add_node(1, Settings::default());
        line(3).iter().for_each(|&(one, other)| net.connect(one, other));
        net.run_for(Duration::from_secs(1));
        net.subscriber(2, &["t"]);
        net.run_for(Duration::from_secs(1));
        let publisher = net.app(0, Behaviour::Silent);
        net.tamper = Some(Box::new(move |from, _, bytes: &mut Vec<u8>| {
            let is_amop = Header::decode(bytes).unwrap().0.packet_type.is_amop();
            if from == 0 && is_amop {
                bytes[13] |= flag;
                if let Some(packet_type) = packet_type {
                    bytes[6..8].copy_from_slice(&packet_type.0.to_be_bytes());
                }
            }
        }));
        for _ in 0..100 {
            net.multicast(publisher, "t", &[0; 10_000]);
        }
        net.run_for(Duration::from_millis(500));
        net.tamper = None;
        let relayed = net.nodes[1].total(|counters| counters.relayed_bytes.get());
        assert!(relayed > 1_000_000 && charged(&net, 1) >= relayed / 100 * 95, "{packet_type:?}");
        let (all, prepaid) = net.nodes[1].shared.limiter.charged_and_prepaid();
        assert_eq!((all, prepaid), (charged(&net, 1), 0));
    }
}

#[test]
fn what_goes_another_way_is_charged_each_time_that_it_leaves() {
    // The links of a ring break in turn while messages and answers are on their way.
    for (seed, reactors) in [(1, 1), (2, 2), (3, 3)] {
        let mut net = Network::new(seed);
        for _ in 0..4 {
            let limiter = Limiter::new(1e9, Duration::from_millis(100));
            net.add_limited_node(reactors, Settings::default(), limiter);
        }
        let edges = crate::kit::ring(4);
        edges.iter().for_each(|&(one, other)| net.connect(one, other));
        net.run_for(Duration::from_secs(1));
        for node in 0..4 {
            net.subscriber(node, &["t"]);
        }
        net.run_for(Duration::from_secs(1));
        let publisher = net.app(0, Behaviour::Silent);
        for (one, other) in edges.iter().cycle().take(12) {
            for _ in 0..5 {
                net.unicast(publisher, "t", &[0; 700]);
                net.multicast(publisher, "t", &[0; 900]);
            }
            net.run_for(Duration::from_micros(1_500));
            net.break_links(*one, *other);
            net.run_for(Duration::from_millis(700));
            net.connect(*one, *other);
            net.run_for(Duration::from_millis(300));
        }
        net.run_for(Duration::from_secs(40));
        let again: u64 = net.nodes.iter().map(|node| node.total(|c| c.frames_sent_again.get())).sum();
        assert!(again > 0, "nothing was sent again");
        for node in &net.nodes {
            let (all, prepaid) = node.shared.limiter.charged_and_prepaid();
            assert_eq!(all, node.left_bytes());
            assert_eq!(all, node.total(|counters| counters.bandwidth_charged_bytes.get()));
            assert_eq!(prepaid, 0);
        }
    }
}

#[test]
fn what_goes_again_over_the_next_link_is_charged_again() {
    for reactors in [1, 2] {
        let mut net = Network::new(8);
        for _ in 0..2 {
            let limiter = Limiter::new(1e9, Duration::from_millis(100));
            net.add_limited_node(reactors, Settings::default(), limiter);
        }
        net.connect(0, 1);
        net.run_for(Duration::from_secs(1));
        net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        for _ in 0..5 {
            net.multicast(publisher, "t", &[0; 900]);
        }
        // They are on their way.
        net.run_for(Duration::from_micros(1_500));
        net.break_links(0, 1);
        net.connect(0, 1);
        net.run_for(Duration::from_secs(2));
        let node = &net.nodes[0];
        assert_eq!(node.total(|counters| counters.frames_sent_again.get()), 5);
        assert_eq!(node.shared.limiter.charged_and_prepaid(), (node.left_bytes(), 0));
    }
}

#[test]
fn between_99_and_101_percent_of_the_cap_arrive_where_more_is_offered() {
    let cap = 100_000.0;
    for reactors in [1, 2] {
        let mut net = Network::new(1);
        net.add_limited_node(reactors, Settings::default(), Limiter::new(cap, Duration::from_millis(100)));
        net.add_node(reactors, Settings::default());
        net.connect(0, 1);
        net.run_for(Duration::from_millis(100));
        let subscriber = net.app(1, Behaviour::Silent);
        net.subscribe(subscriber, &["t"]);
        let publishers = [net.app(0, Behaviour::Silent), net.app(0, Behaviour::Silent)];
        let start = net.now;
        while net.now - start < Duration::from_secs(12) {
            for publisher in publishers {
                net.multicast(publisher, "t", &[0; 300]);
            }
            net.run_for(Duration::from_millis(2));
        }
        let cost = FRAME_LEN;
        let window = start + Duration::from_secs(1)..start + Duration::from_secs(11);
        let arrived = net.apps[subscriber]
            .received
            .iter()
            .filter(|received| received.header.frame_type == FrameType::MULTICAST)
            .filter(|received| window.contains(&received.at))
            .count();
        let share = (arrived * cost) as f64 / (cap * 10.0);
        assert!((0.99..=1.01).contains(&share), "{reactors} reactors: {share}");
    }
}

#[test]
fn deliveries_on_the_own_node_are_free() {
    let mut net = Network::new(2);
    net.add_limited_node(1, Settings::default(), Limiter::new(1.0, Duration::from_millis(100)));
    net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..10 {
        let seq = net.unicast(publisher, "t", &[0; 1_000]);
        assert_eq!(net.answer(publisher, &seq, Duration::from_millis(100)).0, 0);
    }
}

#[test]
fn answers_are_charged_and_never_refused() {
    let mut net = Network::new(3);
    net.add_node(1, Settings::default());
    net.add_limited_node(1, Settings::default(), Limiter::new(100.0, Duration::from_millis(100)));
    net.connect(0, 1);
    net.run_for(Duration::from_millis(100));
    net.subscriber(1, &["t"]);
    net.subscriber(0, &["back"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..20 {
        let seq = net.unicast(publisher, "t", &[0; 500]);
        assert_eq!(net.answer(publisher, &seq, Duration::from_millis(100)).0, 0);
    }
    let other = net.app(1, Behaviour::Silent);
    let seq = net.unicast(other, "back", b"x");
    assert_eq!(net.answer(other, &seq, Duration::from_millis(100)).0, 103);
}

/// Multicasts of several sessions for ten seconds, each so many every 2 ms; gives what arrived of each in the last nine, and
/// their share of the cap in percent.
fn offer(reactors: u16, cap: f64, offers: &[f64]) -> (Vec<usize>, f64) {
    let mut net = Network::new(1);
    net.add_limited_node(reactors, Settings::default(), Limiter::new(cap, Duration::from_millis(100)));
    net.add_node(reactors, Settings::default());
    net.connect(0, 1);
    net.run_for(Duration::from_millis(100));
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publishers: Vec<_> = offers.iter().map(|_| net.app(0, Behaviour::Silent)).collect();
    let (start, mut due) = (net.now, vec![0.0; offers.len()]);
    while net.now - start < Duration::from_secs(10) {
        for (number, publisher) in publishers.iter().enumerate() {
            due[number] += offers[number];
            while due[number] >= 1.0 {
                due[number] -= 1.0;
                net.multicast(*publisher, "t", &[number as u8; 300]);
            }
        }
        net.run_for(Duration::from_millis(2));
    }
    let mut arrived = vec![0; offers.len()];
    for received in &net.apps[subscriber].received {
        if received.header.frame_type == FrameType::MULTICAST && received.at >= start + Duration::from_secs(1)
        {
            arrived[usize::from(*received.data.last().unwrap())] += 1;
        }
    }
    let share = (arrived.iter().sum::<usize>() * FRAME_LEN) as f64 / (cap * 9.0) * 100.0;
    (arrived, share)
}

#[test]
fn sessions_that_each_offer_more_than_their_part_get_the_same_however_much_more_it_is() {
    for reactors in [1, 2] {
        for offers in [[1.0, 1.0, 1.0, 1.0], [6.0, 1.0, 0.5, 1.0]] {
            let (arrived, share) = offer(reactors, 100_000.0, &offers);
            let (most, least) = (*arrived.iter().max().unwrap(), *arrived.iter().min().unwrap());
            assert!(most - least <= most / 50, "{reactors} reactors, {offers:?}: {arrived:?}");
            assert!((99.0..=101.0).contains(&share), "{reactors} reactors, {offers:?}: {share}");
        }
    }
}

#[test]
fn a_session_that_offers_less_than_its_part_gets_nearly_all_of_it_and_the_others_the_rest() {
    // 25 frames a second of the first, where 267 pass in all.
    let (arrived, share) = offer(2, 100_000.0, &[0.05, 3.0, 3.0]);
    assert!(arrived[0] >= 9 * 25 * 95 / 100, "{arrived:?}");
    assert!(arrived[1].abs_diff(arrived[2]) <= arrived[1] / 50, "{arrived:?}");
    assert!((99.0..=101.0).contains(&share), "{share}");
}
