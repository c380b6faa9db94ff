//! Announcements: from one node to all, hop by hop, each signed by its origin and taken once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use amop::internal::{
    relay::registry::{
        ANNOUNCEMENTS_MAX, AnnounceError, OF_NODE_PER_MINUTE_MAX, OWN_PER_MINUTE_MAX, RegistryCounters,
    },
    wire::{
        announcement::{Announcement, TEXT_LEN_MAX, TextError},
        node::{Header, PacketType},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::kit::{Clock, Network, NodeIndex, line, ring};

const SOON: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn texts(net: &Network, node: NodeIndex) -> Vec<String> {
    net.nodes[node].announcements().into_iter().map(|one| one.text).collect()
}

fn figure(net: &Network, node: NodeIndex, of: fn(&RegistryCounters) -> u64) -> u64 {
    of(&net.nodes[node].registry_counters())
}

/// Counts announcements from node to node.
fn count_crossings(net: &mut Network) -> Rc<RefCell<BTreeMap<(NodeIndex, NodeIndex), usize>>> {
    let counts = Rc::new(RefCell::new(BTreeMap::new()));
    let counting = counts.clone();
    net.tamper = Some(Box::new(move |from, to, bytes| {
        if is_announcement(bytes) {
            *counting.borrow_mut().entry((from, to)).or_default() += 1;
        }
    }));
    counts
}

fn is_announcement(bytes: &[u8]) -> bool {
    Header::decode(bytes).is_ok_and(|(header, offset)| {
        header.packet_type == PacketType::BROADCAST && Announcement::is_one(&bytes[offset..])
    })
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = smallvec::SmallVec::new();
    Header::direct(PacketType::BROADCAST, 1).encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

/// One that a node has signed, whatever it says.
fn signed(net: &Network, node: NodeIndex, number: u64, text: &str) -> Announcement {
    let mut announcement = Announcement {
        origin: net.nodes[node].id,
        incarnation: net.nodes[node].shared.incarnation(),
        number,
        text: text.to_owned(),
        signature: [0; 64],
    };
    announcement.signature = net.nodes[node].sign(&announcement.digest());
    announcement
}

#[test]
fn every_node_of_a_line_gets_it_once_with_its_origin() {
    let mut net = Network::of_edges(1, 5, 2, &line(5));
    let counts = count_crossings(&mut net);
    let announced = net.announce(0, "升级 at 22:00").unwrap();
    assert_eq!((announced.number, announced.neighbours, announced.reachable), (1, 1, 4));
    net.run_for(SOON / 10);
    for node in 0..5 {
        let all = net.nodes[node].announcements();
        assert_eq!(all.len(), 1, "node {node}");
        assert_eq!((all[0].origin, all[0].number), (net.nodes[0].id, 1));
        assert_eq!(all[0].text, "升级 at 22:00");
        // Names come from certificates, which only neighbours have seen.
        let expected = match node {
            0 => ("agency", "node"),
            1 => ("agency", "node0"),
            _ => ("", ""),
        };
        assert_eq!((all[0].agency.as_str(), all[0].name.as_str()), expected, "node {node}");
    }
    let expected: BTreeMap<_, _> = line(5).into_iter().map(|link| (link, 1)).collect();
    assert_eq!(*counts.borrow(), expected, "outward only");
}

#[test]
fn in_a_network_of_many_ways_each_link_carries_it_at_most_once_in_each_direction() {
    let mut full = Vec::new();
    for one in 0..6 {
        full.extend((0..one).map(|other| (one, other)));
    }
    let grid = vec![(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)];
    for (seed, edges) in [(2, ring(6)), (3, full), (4, grid)] {
        let mut net = Network::of_edges(seed, 6, 2, &edges);
        let counts = count_crossings(&mut net);
        for origin in 0..6 {
            net.announce(origin, &format!("from {origin}")).unwrap();
            net.run_for(SOON / 10);
            let crossed = std::mem::take(&mut *counts.borrow_mut());
            assert!(crossed.values().all(|&count| count == 1), "{crossed:?}");
            assert!(crossed.len() <= 2 * edges.len(), "{crossed:?}");
        }
        for node in 0..6 {
            let expected: Vec<String> = (0..6).rev().map(|origin| format!("from {origin}")).collect();
            assert_eq!(texts(&net, node), expected);
            assert_eq!(figure(&net, node, |counters| counters.announcements_taken.get()), 5);
            assert_eq!(figure(&net, node, |counters| counters.refused_repeated.get()), 0);
        }
    }
}

#[test]
fn several_of_one_node_come_in_order_and_all_at_once_of_all_nodes_come_too() {
    let mut net = Network::of_edges(5, 5, 2, &ring(5));
    for number in 0..4 {
        net.announce(0, &number.to_string()).unwrap();
    }
    (1..5).for_each(|node| _ = net.announce(node, "x").unwrap());
    net.run_for(SOON);
    for node in 0..5 {
        let all = net.nodes[node].announcements();
        assert_eq!(all.len(), 8);
        let of_first = all.iter().rev().filter(|one| one.origin == net.nodes[0].id);
        assert!(of_first.map(|one| one.text.as_str()).eq(["0", "1", "2", "3"]));
    }
}

#[test]
fn what_a_node_on_the_way_alters_or_makes_up_is_refused_and_costs_it_its_link() {
    type Change = fn(&mut Announcement);
    type Counted = fn(&RegistryCounters) -> u64;
    let changes: [(Change, Counted); 6] = [
        (|one| one.text = "bay 5 to pob".to_owned(), |counters| counters.refused_signature.get()),
        (|one| one.number += 1, |counters| counters.refused_signature.get()),
        (|one| one.incarnation += 1, |counters| counters.refused_signature.get()),
        (|one| one.signature[40] ^= 1, |counters| counters.refused_signature.get()),
        (|one| one.text = "a\u{1b}[2J".to_owned(), |counters| counters.refused_malformed.get()),
        (|one| one.text = "y".repeat(TEXT_LEN_MAX + 1), |counters| counters.refused_size.get()),
    ];
    for (seed, (change, refused)) in (10..).zip(changes) {
        // 1 is hostile, and 2 has no other route to 0.
        let mut net = Network::of_edges(seed, 4, 2, &line(4));
        let mut forged = signed(&net, 0, 1, "pay 5 to bob");
        change(&mut forged);
        net.forge(1, 2, &frame(&forged.encode()));
        net.run_for(SOON);
        assert_eq!(refused(&net.nodes[2].registry_counters()), 1);
        for node in [2, 3] {
            assert_eq!(texts(&net, node), [""; 0]);
        }
        // It does not use up what the origin may say.
        for number in 1..=3 {
            net.announce(0, &number.to_string()).unwrap();
        }
        net.run_for(SOON);
        assert_eq!(texts(&net, 3), ["3", "2", "1"]);
        // Who goes on is cut.
        for _ in 0..60 {
            net.forge(1, 2, &frame(&forged.encode()));
        }
        net.run_for(2 * SOON);
        assert_eq!(net.links_between(2, 1).len(), 1);
        for _ in 0..60 {
            net.forge(1, 2, &frame(&forged.encode()));
        }
        net.run_for(SOON / 100);
        assert_eq!(net.links_between(2, 1).len(), 0, "seed {seed}");
    }
}

#[test]
fn one_that_a_neighbour_brings_again_is_refused_and_counted_against_it() {
    let mut net = Network::of_edges(20, 4, 2, &[(0, 1), (1, 2), (2, 3), (0, 2)]);
    net.announce(0, "once").unwrap();
    net.run_for(SOON);
    let replayed = frame(&signed(&net, 0, 1, "once").encode());
    let refused = |net: &Network| figure(net, 2, |counters| counters.refused_repeated.get());
    assert_eq!(refused(&net), 0);
    for count in 1..=3 {
        net.forge(1, 2, &replayed);
        net.run_for(SOON);
        assert_eq!(refused(&net), count);
    }
    assert_eq!((texts(&net, 2), texts(&net, 3)), (vec!["once".to_owned()], vec!["once".to_owned()]));
    // Later ones do not make it new, nor does a new incarnation of who brings it.
    for number in 0..4 {
        net.announce(0, &number.to_string()).unwrap();
    }
    net.run_for(SOON);
    net.restart(1, SOON);
    net.connect(1, 2);
    net.run_for(SOON);
    net.forge(1, 2, &replayed);
    net.run_for(SOON);
    assert_eq!(refused(&net), 3, "its new incarnation has not brought it before");
    assert_eq!(texts(&net, 3).len(), 5);
    assert_eq!(figure(&net, 3, |counters| counters.announcements_taken.get()), 5);
}

#[test]
fn what_a_node_says_twice_under_one_number_is_no_fault_of_who_brings_it() {
    let mut net = Network::of_edges(21, 4, 2, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
    let [one, other] = ["yes", "no"].map(|text| frame(&signed(&net, 0, 1, text).encode()));
    net.forge(0, 1, &one);
    net.run_for(SOON);
    net.forge(0, 2, &other);
    net.run_for(SOON);
    assert_eq!(texts(&net, 3), ["yes"]);
    let forks = |node| figure(&net, node, |counters| counters.refused_fork.get());
    assert!((1..=3).map(forks).sum::<u64>() > 0);
    assert_eq!(net.links_between(3, 1).len() + net.links_between(3, 2).len(), 2);
}

#[test]
fn a_node_makes_some_a_minute_and_others_take_no_more_than_they_must() {
    let mut net = Network::of_edges(22, 3, 2, &line(3));
    for number in 1..=u64::from(OWN_PER_MINUTE_MAX) {
        assert_eq!(net.announce(0, "x").unwrap().number, number);
    }
    assert_eq!(net.announce(0, "x"), Err(AnnounceError::TooMany));
    net.run_for(MINUTE);
    assert!(net.announce(0, "x").is_ok());
    net.run_for(2 * MINUTE);
    // A hostile one does not keep to that, and is no neighbour of 2.
    let before = texts(&net, 2).len();
    for number in 100..200 {
        let frame = frame(&signed(&net, 0, number, "spam").encode());
        net.forge(0, 1, &frame);
        net.run_for(SOON / 10);
    }
    // As many at once, and another one whenever a minute's part has passed.
    let taken = OF_NODE_PER_MINUTE_MAX + (99 * SOON / 10).as_secs() as u32 * OF_NODE_PER_MINUTE_MAX / 60;
    assert_eq!(texts(&net, 2).len() - before, taken as usize);
    assert_eq!(figure(&net, 1, |counters| counters.refused_rate.get()), 100 - u64::from(taken));
    assert_eq!(figure(&net, 2, |counters| counters.refused_rate.get()), 0);
    assert_eq!(net.links_between(1, 0).len(), 1, "a bound is no crime");
}

#[test]
fn a_neighbour_that_brings_many_a_second_is_not_listened_to() {
    let mut net = Network::of_edges(23, 2, 2, &line(2));
    let mut forged = signed(&net, 0, 1, "x");
    forged.signature[0] ^= 1;
    for _ in 0..200 {
        net.forge(0, 1, &frame(&forged.encode()));
    }
    net.run_for(SOON / 10);
    let counters = net.nodes[1].registry_counters();
    assert_eq!((counters.refused_signature.get(), counters.refused_rate.get()), (64, 136));
}

#[test]
fn nothing_is_taken_of_a_node_that_is_not_known_or_has_begun_a_later_incarnation() {
    let mut net = Network::of_edges(24, 4, 2, &line(3));
    // 3 is linked with nobody; its signature is right.
    let stranger = frame(&signed(&net, 3, 1, "who?").encode());
    net.forge(1, 2, &stranger);
    let old = frame(&signed(&net, 0, 9, "before").encode());
    net.run_for(SOON);
    net.restart(0, SOON);
    net.connect(0, 1);
    net.run_for(2 * SOON);
    net.forge(1, 2, &old);
    net.run_for(SOON);
    assert_eq!(texts(&net, 2), [""; 0]);
    assert_eq!(figure(&net, 2, |counters| counters.announcements_late.get()), 2);
    // The new incarnation counts from 1.
    assert_eq!(net.announce(0, "after").unwrap().number, 1);
    net.run_for(SOON);
    assert_eq!(texts(&net, 2), ["after"]);
}

#[test]
fn a_node_whose_clock_went_back_is_heard() {
    let mut net = Network::of_edges(25, 3, 2, &line(3));
    for _ in 0..3 {
        net.announce(0, "before").unwrap();
    }
    net.run_for(SOON);
    net.kill(0);
    net.run_for(5 * SOON);
    net.revive(0, Clock::Lost);
    net.connect(0, 1);
    net.run_for(SOON);
    // It makes its links anew in a later incarnation.
    net.connect(0, 1);
    net.run_for(5 * SOON);
    net.announce(0, "after").unwrap();
    net.run_for(SOON);
    assert_eq!(texts(&net, 2)[0], "after");
}

#[test]
fn the_last_ones_are_kept_and_those_before_are_not_taken_again() {
    let mut net = Network::of_edges(26, 13, 2, &(1..13).map(|node| (0, node)).collect::<Vec<_>>());
    let first = frame(&signed(&net, 1, 1, "1 0").encode());
    for number in 0..6 {
        for node in 1..13 {
            net.announce(node, &format!("{node} {number}")).unwrap();
        }
        net.run_for(SOON);
    }
    for node in 0..13 {
        let all = texts(&net, node);
        assert_eq!(all.len(), ANNOUNCEMENTS_MAX);
        assert!(all.contains(&"12 5".to_owned()) && !all.contains(&"1 0".to_owned()));
    }
    let before = texts(&net, 0);
    net.forge(2, 0, &first);
    net.run_for(SOON);
    assert_eq!(texts(&net, 0), before);
    assert_eq!(figure(&net, 0, |counters| counters.announcements_late.get()), 1);
    // Nor when its node was away for so long that it was forgotten.
    net.break_links(0, 1);
    net.run_for(Duration::from_secs(150));
    assert_eq!(figure(&net, 0, |counters| counters.records_let_go.get()), 1);
    net.connect(0, 1);
    net.run_for(2 * SOON);
    net.forge(2, 0, &first);
    net.run_for(SOON);
    assert_eq!(texts(&net, 0), before);
    assert_eq!(figure(&net, 0, |counters| counters.announcements_late.get()), 2);
}

#[test]
fn a_text_that_is_none_is_not_announced() {
    let mut net = Network::of_edges(27, 2, 2, &line(2));
    for (text, error) in [
        ("", TextError::Empty),
        ("two\nlines", TextError::Control('\n')),
        ("\u{1b}]0;title\u{7}", TextError::Control('\u{1b}')),
        (&"x".repeat(TEXT_LEN_MAX + 1), TextError::TooLong(TEXT_LEN_MAX + 1)),
    ] {
        assert_eq!(net.announce(0, text), Err(AnnounceError::Text(error)));
    }
    let longest = "x".repeat(TEXT_LEN_MAX);
    net.announce(0, &longest).unwrap();
    net.run_for(SOON);
    assert_eq!(texts(&net, 1), [longest]);
}

#[test]
fn frames_that_name_their_ends_bring_no_announcement() {
    use amop::internal::wire::node::{Addressing, FLAG_SEALED};
    let mut net = Network::of_edges(28, 3, 2, &line(3));
    let payload = signed(&net, 0, 1, "x").encode();
    let (source, destination) = (net.nodes[0].id, net.nodes[2].id);
    let addressing = Addressing::EndToEnd { source: &source.0, destinations: &[destination.0] };
    let header = Header { addressing, flags: FLAG_SEALED, ..Header::direct(PacketType::BROADCAST, 5) };
    let mut frame = smallvec::SmallVec::new();
    header.encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(&payload);
    net.forge(1, 2, &frame);
    net.run_for(SOON);
    assert_eq!(texts(&net, 2), [""; 0]);
}

/// A connected graph: a random tree, and some more edges.
fn random_graph(random: &mut SmallRng, nodes: usize) -> Vec<(NodeIndex, NodeIndex)> {
    let mut edges: Vec<_> = (1..nodes).map(|node| (random.random_range(0..node), node)).collect();
    for _ in 0..random.random_range(0..nodes) {
        let (one, other) = (random.random_range(0..nodes), random.random_range(0..nodes));
        if one < other && !edges.contains(&(one, other)) {
            edges.push((one, other));
        }
    }
    edges
}

#[test]
fn in_random_networks_under_faults_nothing_comes_twice_and_no_honest_neighbour_is_blamed() {
    for seed in 100..108 {
        let mut random = SmallRng::seed_from_u64(seed);
        let nodes = random.random_range(3..9);
        let edges = random_graph(&mut random, nodes);
        let mut net = Network::of_edges(seed, nodes, 2, &edges);
        let mut made = BTreeSet::new();
        for round in 0..20 {
            let origin = random.random_range(0..nodes);
            let text = format!("{origin} in round {round}");
            if net.announce(origin, &text).is_ok() {
                made.insert((net.nodes[origin].id, text));
            }
            net.run_for(Duration::from_micros(random.random_range(0..3_000)));
            let (one, other) = edges[random.random_range(0..edges.len())];
            match random.random_range(0..4) {
                0 => {
                    net.break_links(one, other);
                    net.run_for(Duration::from_millis(random.random_range(0..3_000)));
                    net.connect(one, other);
                }
                1 => {
                    net.restart(one, Duration::from_millis(random.random_range(0..2_000)));
                    for &(a, b) in edges.iter().filter(|&&(a, b)| a == one || b == one) {
                        net.connect(a, b);
                    }
                }
                _ => {}
            }
            net.run_for(Duration::from_millis(random.random_range(0..8_000)));
        }
        for node in 0..nodes {
            let all = net.nodes[node].announcements();
            let seen: BTreeSet<_> = all.iter().map(|one| (one.origin, one.text.clone())).collect();
            assert_eq!(seen.len(), all.len(), "seed {seed}, node {node}: twice");
            assert!(seen.is_subset(&made), "seed {seed}, node {node}: made up");
            let counters = net.nodes[node].registry_counters();
            for figure in [&counters.refused_repeated, &counters.refused_signature, &counters.refused_fork] {
                assert_eq!(figure.get(), 0, "seed {seed}, node {node}: {counters:?}");
            }
        }
        // Once it is calm, everybody is reached.
        net.run_for(90 * SOON);
        let before = figure(&net, nodes - 1, |counters| counters.announcements_taken.get());
        net.announce(0, "calm").unwrap();
        net.run_for(SOON);
        for node in 0..nodes {
            assert_eq!(texts(&net, node)[0], "calm", "seed {seed}, node {node}");
        }
        assert_eq!(figure(&net, nodes - 1, |counters| counters.announcements_taken.get()), before + 1);
    }
}
