//! Messages over more than one link (WIRE §6.4): they arrive as long as a route leads from sender to receiver.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use amop::internal::{
    relay::settings::Settings,
    wire::{
        ResultCode,
        node::{Addressing, FLAG_SEALED, Header, PacketType},
        sdk::{self, FrameType},
    },
};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex, line, ring};

const SOON: Duration = Duration::from_secs(1);

/// Subscribes everywhere in the network, and gives the applications.
fn subscribers(net: &mut Network, nodes: &[NodeIndex]) -> Vec<AppIndex> {
    let apps = nodes.iter().map(|&node| net.subscriber(node, &["t"])).collect();
    net.run_for(SOON);
    apps
}

#[test]
fn a_unicast_crosses_a_line_of_five_nodes_and_its_answer_comes_back() {
    for (seed, reactors) in [(1, 1), (2, 2), (3, 3)] {
        let mut net = Network::of_edges(seed, 5, reactors, &line(5));
        subscribers(&mut net, &[4]);
        let publisher = net.app(0, Behaviour::Silent);
        for number in 0..20u8 {
            let seq = net.unicast(publisher, "t", &[number]);
            assert_eq!(net.answer(publisher, &seq, SOON).0, 0, "message {number}, {reactors} reactors");
        }
        for between in 1..4 {
            // Acknowledgements besides.
            assert!(net.nodes[between].total(|counters| counters.relayed.get()) >= 40);
        }
    }
}

#[test]
fn a_multicast_reaches_every_subscriber_of_the_network_once() {
    let mut net = Network::of_edges(4, 6, 2, &[(0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (2, 4)]);
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
fn a_multicast_crosses_each_link_once_and_splits_where_ways_part() {
    // 0 - 1 - 2 - 3, and from 2 a star to 4, 5 and 6.
    let edges = [(0, 1), (1, 2), (2, 3), (2, 4), (2, 5), (2, 6)];
    let mut net = Network::of_edges(5, 7, 1, &edges);
    let apps = subscribers(&mut net, &[2, 3, 4, 5, 6]);
    let publisher = net.app(0, Behaviour::Silent);
    let crossed: Rc<RefCell<Vec<(NodeIndex, NodeIndex, usize)>>> = Rc::default();
    let seen = crossed.clone();
    net.tamper = Some(Box::new(move |from, to, bytes| {
        if is_sealed(bytes)
            && let Ok((Header { addressing: Addressing::EndToEnd { destinations, .. }, .. }, _)) =
                Header::decode(bytes)
        {
            seen.borrow_mut().push((from, to, destinations.len()));
        }
    }));
    for payload in [vec![7; 10], vec![8; 200_000]] {
        crossed.borrow_mut().clear();
        net.multicast(publisher, "t", &payload);
        net.run_for(SOON);
        let mut frames = crossed.borrow().clone();
        frames.sort_unstable();
        assert_eq!(frames, [(0, 1, 5), (1, 2, 5), (2, 3, 1), (2, 4, 1), (2, 5, 1), (2, 6, 1)]);
        for &app in &apps {
            let (_, last) = net.pushed(app, FrameType::MULTICAST).pop().unwrap();
            assert!(last == payload);
        }
    }
}

#[test]
fn a_link_that_breaks_in_mid_traffic_costs_neither_a_loss_nor_a_double_delivery() {
    for seed in 0..8 {
        let mut net = Network::of_edges(10 + seed, 5, 2, &ring(5));
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

#[test]
fn an_only_way_that_is_lost_for_a_moment_costs_nothing() {
    for seed in 0..6 {
        // 0 - 1 - 2 - 3: the middle link breaks again and again, and is back soon after.
        let mut net = Network::of_edges(70 + seed, 4, 2, &line(4));
        let apps = subscribers(&mut net, &[3]);
        let publisher = net.app(0, Behaviour::Silent);
        let mut sent = Vec::new();
        for number in 0..200u8 {
            sent.push(net.unicast(publisher, "t", &[number]));
            net.multicast(publisher, "t", &[number]);
            net.run_for(Duration::from_millis(2));
            match number % 50 {
                20 => net.break_links(1, 2),
                40 => net.connect(1, 2),
                _ => {}
            }
        }
        net.run_for(5 * SOON);
        let codes: Vec<i32> = sent.iter().map(|seq| net.answers(publisher, seq)[0].code().0).collect();
        assert!(codes.iter().all(|&code| code == 0), "seed {seed}: {codes:?}");
        for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
            let pushed = net.pushed(apps[0], frame_type);
            let got: Vec<u8> = pushed.into_iter().map(|(_, payload)| payload[0]).collect();
            assert_eq!(got, (0..200).collect::<Vec<u8>>(), "seed {seed}");
        }
    }
}

#[test]
fn what_cannot_go_back_from_a_lost_link_is_sent_again_as_soon_as_its_source_hears_of_that() {
    for seed in 0..6 {
        // A ring: from 0 to 2 over 1, and around over 5, 4 and 3.
        let mut net = Network::of_edges(80 + seed, 6, 1, &ring(6));
        let apps = subscribers(&mut net, &[2]);
        let publisher = net.app(0, Behaviour::Silent);
        let mut sent = Vec::new();
        for number in 0..100u8 {
            sent.push(net.unicast(publisher, "t", &[number]));
            net.run_for(Duration::from_millis(1));
            if number == 50 {
                net.break_links(1, 2);
            }
        }
        // Less than the patience of the source.
        net.run_for(SOON / 2);
        for (number, seq) in sent.iter().enumerate() {
            assert_eq!(net.answers(publisher, seq).len(), 1, "seed {seed}, message {number}");
        }
        let pushed = net.pushed(apps[0], FrameType::REQUEST);
        let got: Vec<u8> = pushed.into_iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(got, (0..100).collect::<Vec<u8>>(), "seed {seed}");
    }
}

#[test]
fn what_a_node_on_the_way_dropped_goes_again_before_the_patience_of_its_source_ends() {
    for seed in 0..6 {
        // The only way to 2 is lost for a moment, in which it stays the way: nothing but node 1 tells that it drops.
        let mut net = Network::of_edges(100 + seed, 3, 2, &line(3));
        let app = subscribers(&mut net, &[2])[0];
        let publisher = net.app(0, Behaviour::Silent);
        net.break_links(1, 2);
        net.run_for(Duration::from_millis(20));
        for number in 0..5u8 {
            net.multicast(publisher, "t", &[number]);
        }
        net.run_for(Duration::from_millis(50));
        net.connect(1, 2);
        net.run_for(Duration::from_millis(300));
        let pushed = net.pushed(app, FrameType::MULTICAST);
        let got: Vec<u8> = pushed.into_iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(got, [0, 1, 2, 3, 4], "seed {seed}");
    }
}

#[test]
fn what_is_kept_for_a_node_goes_to_it_when_it_returns_as_the_neighbour_that_it_was_long_ago() {
    for seed in 0..4 {
        let mut net = Network::of_edges(90 + seed, 3, 2, &ring(3));
        let app = subscribers(&mut net, &[2])[0];
        let publisher = net.app(0, Behaviour::Silent);
        net.break_links(0, 2);
        // In the meantime it is reached over 1; then nothing leads there, and what was known of the link is forgotten.
        net.run_for(8 * SOON);
        for number in 0..5u8 {
            net.multicast(publisher, "t", &[number]);
        }
        net.kill(1);
        net.run_for(7 * SOON);
        assert_eq!(net.pushed(app, FrameType::MULTICAST), [], "seed {seed}");
        net.connect(0, 2);
        net.run_for(SOON);
        net.multicast(publisher, "t", &[5]);
        net.run_for(SOON);
        let pushed = net.pushed(app, FrameType::MULTICAST);
        let got: Vec<u8> = pushed.into_iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(got, [0, 1, 2, 3, 4, 5], "seed {seed}");
    }
}

#[test]
fn order_holds_when_links_of_a_full_mesh_fall_silent_and_return() {
    for seed in 0..2 {
        let mut net = Network::mesh(90 + seed, 5, 2);
        let apps = subscribers(&mut net, &[0, 1, 3]);
        let own = net.subscriber(0, &["zero"]);
        net.run_for(SOON);
        let publishers = [net.app(2, Behaviour::Silent), net.app(4, Behaviour::Silent)];
        for number in 0..3_000u16 {
            let bytes = number.to_be_bytes();
            for publisher in publishers {
                match number % 3 {
                    0 => net.multicast(publisher, "t", &bytes),
                    1 => net.multicast(publisher, "zero", &bytes),
                    _ => net.unicast(publisher, "zero", &bytes),
                };
            }
            net.run_for(Duration::from_millis(5));
            if number == 200 {
                net.cut_links(0, 1);
                net.cut_links(0, 2);
            }
            if number == 1_800 {
                net.connect(0, 1);
                net.connect(0, 2);
            }
        }
        net.run_for(10 * SOON);
        for (app, types) in
            [(apps[0], vec![FrameType::MULTICAST]), (own, vec![FrameType::MULTICAST, FrameType::REQUEST])]
        {
            for frame_type in types {
                let pushed = net.pushed(app, frame_type);
                let got: Vec<u16> =
                    pushed.iter().map(|(_, payload)| u16::from_be_bytes([payload[0], payload[1]])).collect();
                // Of two publishers, each of whose messages must be in order.
                let (mut lasts, mut counts) = ([None; 2], [0; 2]);
                for number in got {
                    let of = usize::from(lasts[0].is_some_and(|last| number <= last));
                    assert!(
                        lasts[of].is_none_or(|last| number > last),
                        "seed {seed}: {number} behind {lasts:?}"
                    );
                    lasts[of] = Some(number);
                    counts[of] += 1;
                }
                assert_eq!(counts[0] + counts[1], 2_000, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_node_that_dies_in_mid_traffic_is_gone_around() {
    for seed in 0..4 {
        let mut net = Network::of_edges(30 + seed, 4, 2, &ring(4));
        subscribers(&mut net, &[2]);
        let publisher = net.app(0, Behaviour::Silent);
        let mut sent = Vec::new();
        for number in 0..60u8 {
            sent.push(net.unicast(publisher, "t", &[number]));
            net.run_for(Duration::from_millis(1));
            if number == 20 {
                net.kill(1);
            }
        }
        net.run_for(40 * SOON);
        let codes: Vec<i32> = sent.iter().map(|seq| net.answers(publisher, seq)[0].code().0).collect();
        assert!(codes.iter().all(|&code| code == 0), "seed {seed}: {codes:?}");
    }
}

#[test]
fn every_subscriber_of_the_network_is_equally_likely_however_far() {
    let mut net = Network::of_edges(40, 5, 2, &line(5));
    let apps = subscribers(&mut net, &[0, 1, 1, 2, 3, 3, 3, 4]);
    let publisher = net.app(0, Behaviour::Silent);
    let draws = 1_600;
    for number in 0..draws {
        let seq = net.unicast(publisher, "t", &[number as u8]);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
    let expected = f64::from(draws) / apps.len() as f64;
    let chi_square: f64 = apps
        .iter()
        .map(|&app| (net.pushed(app, FrameType::REQUEST).len() as f64 - expected).powi(2) / expected)
        .sum();
    // Seven degrees of freedom: 24.3 is exceeded once in a thousand.
    assert!(chi_square < 24.3, "{chi_square}");
}

#[test]
fn a_node_that_passes_on_nothing_is_gone_around_or_ends_the_way() {
    let mut net = Network::new(41);
    net.add_node(1, Settings::default());
    net.add_node(1, Settings { relays: false, ..Settings::default() });
    for _ in 0..2 {
        net.add_node(1, Settings::default());
    }
    for (one, other) in [(0, 1), (1, 2)] {
        net.connect(one, other);
    }
    net.run_for(SOON);
    subscribers(&mut net, &[2]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 100);
    net.connect(0, 3);
    net.connect(3, 2);
    net.run_for(SOON);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    assert_eq!(net.nodes[1].total(|counters| counters.relayed.get()), 0);
}

/// A line on which near goes before far, and applications on its nodes that answer.
fn near_line(seed: u64, reactors: u16, nodes: &[NodeIndex]) -> (Network, AppIndex, Vec<AppIndex>) {
    let mut net = Network::new(seed);
    for _ in 0..4 {
        net.add_node(reactors, Settings { prefers_near: true, ..Settings::default() });
    }
    line(4).into_iter().for_each(|(one, other)| net.connect(one, other));
    // A star at the end: two nodes at one distance.
    net.add_node(reactors, Settings::default());
    net.connect(1, 4);
    net.run_for(SOON);
    let apps = subscribers(&mut net, nodes);
    let publisher = net.app(0, Behaviour::Silent);
    (net, publisher, apps)
}

fn requests_at(net: &Network, apps: &[AppIndex]) -> Vec<usize> {
    apps.iter().map(|&app| net.pushed(app, FrameType::REQUEST).len()).collect()
}

#[test]
fn near_goes_before_far_where_it_is_preferred_and_those_at_the_least_distance_are_equally_likely() {
    for (seed, nodes, nearest) in [
        // On the publisher's own node, at all of its reactors.
        (60, [0, 0, 0, 0, 1, 3].as_slice(), 4),
        (61, [1, 1, 2, 3].as_slice(), 2),
        // On two nodes at one distance, one of which has more.
        (62, [2, 4, 4, 4, 3].as_slice(), 4),
        (63, [3].as_slice(), 1),
    ] {
        let (mut net, publisher, apps) = near_line(seed, 3, nodes);
        let draws = 800;
        for number in 0..draws {
            let seq = net.unicast(publisher, "t", &[number as u8]);
            assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        }
        let got = requests_at(&net, &apps);
        let expected = f64::from(draws) / nearest as f64;
        let chi_square: f64 =
            got[..nearest].iter().map(|&got| (got as f64 - expected).powi(2) / expected).sum();
        // Three degrees of freedom: 16.3 is exceeded once in a thousand.
        assert!(chi_square < 16.3, "{nodes:?}: {got:?}");
        assert!(got[nearest..].iter().all(|&got| got == 0), "{nodes:?}: {got:?}");
    }
}

#[test]
fn a_far_one_is_tried_only_after_all_near_ones_have_failed() {
    for (seed, reactors) in [(64, 1), (65, 3)] {
        let (mut net, publisher, far) = near_line(seed, reactors, &[2, 3]);
        let near: Vec<AppIndex> = [0, 0, 1].map(|node| net.app(node, Behaviour::Silent)).into();
        near.iter().for_each(|&app| net.subscribe(app, &["t"]));
        net.run_for(SOON);
        let seq = net.unicast(publisher, "t", b"x");
        // Each silent one has its five seconds: two here, one at the neighbour.
        let bound = 5 * SOON;
        net.run_for(2 * bound - SOON);
        assert_eq!(requests_at(&net, &near), [1, 1, 0], "the own node's first");
        net.run_for(bound);
        assert_eq!((requests_at(&net, &near), requests_at(&net, &far)), (vec![1, 1, 1], vec![0, 0]));
        assert_eq!(net.answer(publisher, &seq, bound).0, 0);
        assert_eq!(requests_at(&net, &far), [1, 0], "the nearest of the others");
    }
}

/// Found by a test of the program on a busy machine.
#[test]
fn an_answer_waits_for_the_way_where_the_request_came_before_the_records_of_its_node() {
    let mut net = Network::of_edges(67, 3, 2, &[(1, 2)]);
    subscribers(&mut net, &[2]);
    let publisher = net.app(0, Behaviour::Silent);
    // Node 2 hears nothing of node 0.
    net.tamper = Some(Box::new(|from, to, bytes| {
        let is_state = Header::decode(bytes).is_ok_and(|(header, _)| {
            [PacketType::STATE_SEQ, PacketType::STATE_REPLY].contains(&header.packet_type)
        });
        if (from, to) == (1, 2) && is_state {
            bytes[6..8].copy_from_slice(&0x77i16.to_be_bytes());
        }
    }));
    net.connect(0, 1);
    net.run_for(SOON / 2);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    assert!(net.answers(publisher, &seq).is_empty());
    net.tamper = None;
    assert_eq!(net.answer(publisher, &seq, 8 * SOON).0, 0);
}

#[test]
fn near_is_what_the_ways_are_now() {
    let (mut net, publisher, apps) = near_line(66, 2, &[3, 4]);
    let send = |net: &mut Network| {
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        requests_at(net, &apps)
    };
    assert_eq!(send(&mut net), [0, 1]);
    net.connect(0, 3);
    net.run_for(SOON);
    assert_eq!(send(&mut net), [1, 1]);
    net.break_links(0, 3);
    net.run_for(3 * SOON);
    assert_eq!(send(&mut net), [1, 2]);
}

/// Whether a frame is sealed for somebody else than the two ends of its link.
fn is_sealed(bytes: &[u8]) -> bool {
    Header::decode(bytes)
        .is_ok_and(|(header, _)| header.flags & FLAG_SEALED != 0 && header.packet_type.is_amop())
}

const SECRET: &[u8] = b"pay 5 to bob";

/// Node 1 stands between 0 and 2 and does with each sealed frame what `tamper` says.
fn with_a_hostile_node_between(
    seed: u64,
    mut tamper: impl FnMut(&mut Vec<u8>) + 'static,
) -> (Network, AppIndex, AppIndex) {
    let mut net = Network::of_edges(seed, 4, 2, &[(0, 1), (1, 2), (1, 3)]);
    let subscriber = subscribers(&mut net, &[2])[0];
    let publisher = net.app(0, Behaviour::Silent);
    net.tamper = Some(Box::new(move |from, _, bytes| {
        if from == 1 && is_sealed(bytes) {
            tamper(bytes);
        }
    }));
    (net, publisher, subscriber)
}

#[test]
fn a_node_on_the_way_sees_neither_topic_nor_payload() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let all = seen.clone();
    let (mut net, publisher, _) =
        with_a_hostile_node_between(50, move |bytes| all.borrow_mut().push(bytes.clone()));
    let seq = net.unicast(publisher, "t", SECRET);
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    let seen = seen.borrow();
    assert_eq!(seen.len(), 2, "the message and its answer");
    for bytes in seen.iter() {
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET));
        assert!(!bytes.windows(32).any(|window| window == seq), "not even the seq");
    }
}

#[test]
fn a_node_on_the_way_that_alters_a_frame_anywhere_has_nothing_delivered() {
    let at = Rc::new(Cell::new(0));
    let chosen = at.clone();
    let (mut net, publisher, subscriber) = with_a_hostile_node_between(51, move |bytes| {
        let (_, offset) = Header::decode(bytes).unwrap();
        let index = offset + chosen.get() % (bytes.len() - offset);
        bytes[index] ^= 1;
    });
    for index in 0..160 {
        at.set(index);
        net.multicast(publisher, "t", SECRET);
        net.run_for(SOON / 10);
    }
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 0);
    let counted = |net: &Network| {
        net.nodes[2].total(|counters| counters.sealed_refused.get() + counters.sealed_late.get())
    };
    assert!(counted(&net) >= 160);
    net.tamper = None;
    net.multicast(publisher, "t", SECRET);
    net.run_for(20 * SOON);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 161, "it could but delay them");
}

#[test]
fn a_node_on_the_way_that_gives_a_frame_another_number_type_or_destination_has_nothing_delivered() {
    for what in 0..3 {
        let strange = Rc::new(Cell::new([0; 64]));
        let destination = strange.clone();
        let (mut net, publisher, subscriber) = with_a_hostile_node_between(52, move |bytes| match what {
            0 => bytes[11] ^= 1,
            1 => bytes[7] = 0x30,
            _ => bytes[20 + 64..][..64].copy_from_slice(&destination.get()),
        });
        strange.set(net.nodes[3].id.0);
        net.multicast(publisher, "t", SECRET);
        net.run_for(SOON);
        assert_eq!(net.pushed(subscriber, FrameType::MULTICAST), []);
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST), []);
    }
}

#[test]
fn a_multicast_for_several_is_delivered_as_it_was_or_not_at_all() {
    // Node 1 stands before 2 and 3 and alters each byte of what it sends to either in turn.
    let at = Rc::new(Cell::new(0));
    let chosen = at.clone();
    let mut net = Network::of_edges(55, 4, 2, &[(0, 1), (1, 2), (1, 3)]);
    let apps = subscribers(&mut net, &[2, 3]);
    let publisher = net.app(0, Behaviour::Silent);
    net.tamper = Some(Box::new(move |from, _, bytes| {
        if from == 1 && is_sealed(bytes) {
            let (_, offset) = Header::decode(bytes).unwrap();
            let index = offset + chosen.get() % (bytes.len() - offset);
            bytes[index] ^= 1;
        }
    }));
    for index in 0..250 {
        at.set(index);
        net.multicast(publisher, "t", SECRET);
        net.run_for(SOON / 10);
    }
    let got = |net: &Network, app| {
        let pushed = net.pushed(app, FrameType::MULTICAST);
        assert!(pushed.iter().all(|(_, payload)| payload == SECRET));
        pushed.len()
    };
    assert!(apps.iter().all(|&app| got(&net, app) == 0));
    net.tamper = None;
    net.run_for(30 * SOON);
    assert!(apps.iter().all(|&app| got(&net, app) == 250), "they are sent again until they arrive");
}

#[test]
fn a_replayed_frame_is_delivered_once() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let all = seen.clone();
    let (mut net, publisher, subscriber) =
        with_a_hostile_node_between(53, move |bytes| all.borrow_mut().push(bytes.clone()));
    net.multicast(publisher, "t", SECRET);
    net.run_for(SOON);
    for _ in 0..3 {
        let frame = seen.borrow()[0].clone();
        net.forge(1, 2, &frame);
        net.run_for(SOON);
        // The node that forged has ended the link: it was told of a frame taken that it knows nothing of.
        net.connect(1, 2);
        net.run_for(SOON);
    }
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 1);
}

#[test]
fn a_frame_in_anothers_name_that_is_not_sealed_by_it_is_counted_and_dropped() {
    let mut net = Network::of_edges(54, 3, 1, &line(3));
    let subscriber = subscribers(&mut net, &[2])[0];
    let (source, destination) = (net.nodes[0].id, net.nodes[2].id);
    let seq = net.seq();
    let inner = sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, "t", SECRET);
    for flags in [0, FLAG_SEALED] {
        let payload = [&[0, 0], inner.as_slice()].concat();
        let addressing = Addressing::EndToEnd { source: &source.0, destinations: &[destination.0] };
        let header =
            Header { addressing, flags, ..Header::direct(PacketType::MULTICAST, 1_000 + u32::from(flags)) };
        let mut frame = Default::default();
        header.encode_into(payload.len(), &mut frame);
        frame.extend_from_slice(&payload);
        net.forge(1, 2, &frame);
        net.run_for(SOON);
        net.connect(1, 2);
        net.run_for(SOON);
    }
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST), []);
    let counted =
        |counter: fn(&amop::internal::relay::counters::Counters) -> u64| net.nodes[2].total(counter);
    assert_eq!(counted(|counters| counters.not_for_us.get()), 1);
    assert_eq!(counted(|counters| counters.sealed_refused.get() + counters.sealed_late.get()), 1);
}
