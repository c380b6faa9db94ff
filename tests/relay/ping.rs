//! Pings: the way that frames take to a node, told by the nodes on it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use amop::internal::{
    relay::{
        counters::Counters,
        diagnostic::{
            REPLY_TIME_MAX,
            ping::{ANSWERS_PER_SECOND_MAX, PINGS_MAX, PingEnd, Pinged},
        },
        home_reactor,
    },
    wire::{
        NodeId,
        node::{Addressing, FLAG_PROBE, FLAG_SEALED, Header, PacketType},
        notice::{Diagnostic, Notice, PING_LEN, PathEnd, PathEnded},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::kit::{self, LINK_LATENCY, Network, NodeIndex};

const SOON: Duration = Duration::from_secs(1);
/// The kind of pings on the wire (docs/node-link.md §11).
const PING: u8 = 6;

fn line(seed: u64, nodes: usize, reactors: u16) -> Network {
    Network::of_edges(seed, nodes, reactors, &kit::line(nodes))
}

fn ended_by(net: &Network, node: NodeIndex) -> PingEnd {
    PingEnd::Ended { by: net.nodes[node].id, why: PathEnd::HopsUsed }
}

fn total(net: &Network, node: NodeIndex, counter: fn(&Counters) -> u64) -> u64 {
    net.nodes[node].total(counter)
}

#[test]
fn each_node_of_a_line_tells_where_hops_end_and_the_last_answers() {
    for (seed, reactors) in [(1, 1), (2, 2), (3, 3)] {
        let mut net = line(seed, 5, reactors);
        for hops in 1..=16 {
            let Pinged { end, round_trip, .. } = net.ping(0, 4, hops);
            let expected = if hops < 4 { ended_by(&net, hops.into()) } else { PingEnd::Answered };
            assert_eq!(end, expected, "{hops} hops, {reactors} reactors");
            let links = 2 * u32::from(hops.min(4));
            assert!(round_trip >= links * LINK_LATENCY && round_trip < (links + 1) * LINK_LATENCY);
        }
        let sums = [1, 2, 3].map(|node| total(&net, node, |counters| counters.pings_ended.get()));
        assert_eq!(sums, [1; 3]);
        assert_eq!(total(&net, 4, |counters| counters.pings_answered.get()), 13);
        assert_eq!(total(&net, 0, |counters| counters.pings.get()), 16);
    }
}

#[test]
fn a_direct_neighbour_is_one_hop_away_and_in_a_ring_the_shorter_way_is_shown() {
    for reactors in [1, 2] {
        let edges: Vec<_> = (0..5).map(|node| (node, (node + 1) % 5)).collect();
        let mut net = Network::of_edges(4, 5, reactors, &edges);
        for (other, way) in [(1, &[1][..]), (2, &[1, 2]), (3, &[4, 3]), (4, &[4])] {
            for (hop, &node) in (1..).zip(way) {
                let expected = if node == other { PingEnd::Answered } else { ended_by(&net, node) };
                assert_eq!(net.ping(0, other, hop).end, expected, "to {other}, hop {hop}");
            }
        }
        // The detour after a broken link.
        net.break_links(0, 1);
        net.run_for(SOON);
        let ends = [1, 2, 3].map(|hops| net.ping(0, 2, hops).end);
        assert_eq!(ends, [ended_by(&net, 4), ended_by(&net, 3), PingEnd::Answered]);
    }
}

#[test]
fn the_way_of_a_ping_is_the_way_of_messages() {
    // Two ways of equal length to each of the far nodes.
    let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4), (1, 5), (2, 5)];
    let mut net = Network::of_edges(5, 6, 2, &edges);
    for far in 3..6 {
        net.subscriber(far, &[&format!("t{far}")]);
    }
    net.run_for(SOON);
    let publisher = net.app(0, crate::kit::Behaviour::Silent);
    for far in 3..6 {
        let relayed = |net: &Network| [1, 2].map(|node| total(net, node, |counters| counters.relayed.get()));
        let before = relayed(&net);
        let seq = net.unicast(publisher, &format!("t{far}"), b"x");
        net.run_for(SOON / 10);
        assert_eq!(net.answers(publisher, &seq).len(), 1);
        // The request over one of them; the answer may come over the other.
        let after = relayed(&net);
        let PingEnd::Ended { by, .. } = net.ping(0, far, 1).end else { panic!("no end at the first hop") };
        let first = if by == net.nodes[1].id { 0 } else { 1 };
        assert!(after[first] > before[first], "to {far}: {before:?} {after:?}");
    }
}

#[test]
fn what_cannot_be_reached_is_said_at_once_or_lost_after_its_time() {
    let mut net = line(6, 4, 2);
    // Nobody by that id, and the node itself.
    for id in [NodeId([7; 64]), net.nodes[0].id] {
        let number = net.start_ping(0, id, 3);
        assert_eq!(net.pinged(0, number).map(|pinged| pinged.end), Some(PingEnd::NoRoute));
    }
    // One that hangs.
    net.nodes[2].frozen = true;
    let lost = net.ping(0, 3, 2);
    assert_eq!((lost.end, lost.round_trip), (PingEnd::Silent, REPLY_TIME_MAX));
    assert_eq!(net.ping(0, 3, 1).end, ended_by(&net, 1));
    assert_eq!(total(&net, 0, |counters| counters.pings_unanswered.get()), 1);
    net.nodes[2].frozen = false;
    // One that is dead, once that is known.
    net.kill(3);
    net.run_for(10 * SOON);
    assert_eq!(net.ping(0, 3, 3).end, PingEnd::NoRoute);
}

#[test]
fn a_ping_that_meets_a_node_without_a_way_on_is_told_so() {
    let mut net = line(7, 3, 2);
    let (source, nobody) = (net.nodes[0].id, NodeId([7; 64]));
    net.forge(0, 1, &probe(&source, &nobody, PacketType::BROADCAST, FLAG_SEALED | FLAG_PROBE, 9));
    net.run_for(SOON);
    assert_eq!(total(&net, 1, |counters| counters.pings_ended.get()), 1);
    assert_eq!(total(&net, 0, |counters| counters.ping_answers_ignored.get()), 1, "it never sent it");
}

/// A frame as a ping is on the wire, with something in it that nobody sealed.
fn probe(
    source: &NodeId,
    destination: &NodeId,
    packet_type: PacketType,
    flags: u8,
    hops_left: u8,
) -> Vec<u8> {
    let payload = [5; 40 + PING_LEN + 16];
    let addressing = Addressing::EndToEnd { source: &source.0, destinations: &[destination.0] };
    let header = Header { addressing, flags, hops_left, ..Header::direct(packet_type, 77) };
    let mut frame = smallvec::SmallVec::new();
    header.encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(&payload);
    frame.to_vec()
}

#[test]
fn only_flagged_broadcasts_are_answered_where_their_hops_end() {
    let mut net = line(8, 3, 1);
    let (source, destination) = (net.nodes[0].id, net.nodes[2].id);
    for (packet_type, flags) in [
        (PacketType::BROADCAST, FLAG_SEALED),
        (PacketType::BROADCAST, FLAG_PROBE),
        (PacketType::STATE_SEQ, FLAG_SEALED | FLAG_PROBE),
        (PacketType(99), FLAG_SEALED | FLAG_PROBE),
    ] {
        net.forge(0, 1, &probe(&source, &destination, packet_type, flags, 1));
        net.run_for(SOON);
    }
    // Too short for the answer to be no longer.
    let mut short = probe(&source, &destination, PacketType::BROADCAST, FLAG_SEALED | FLAG_PROBE, 1);
    short.pop();
    let len = (short.len() as u32).to_be_bytes();
    short[..4].copy_from_slice(&len);
    net.forge(0, 1, &short);
    net.run_for(SOON);
    // Many answers for one frame.
    let several = [[3; 64]; 100];
    let addressing = Addressing::EndToEnd { source: &source.0, destinations: &several };
    let header = Header {
        addressing,
        flags: FLAG_SEALED | FLAG_PROBE,
        hops_left: 1,
        ..Header::direct(PacketType::BROADCAST, 78)
    };
    let mut frame = smallvec::SmallVec::new();
    header.encode_into(200, &mut frame);
    frame.extend_from_slice(&[5; 200]);
    net.forge(0, 1, &frame);
    net.run_for(SOON);
    let ended = |net: &Network| total(net, 1, |counters| counters.pings_ended.get());
    assert_eq!(ended(&net), 0);
    net.forge(0, 1, &probe(&source, &destination, PacketType::BROADCAST, FLAG_SEALED | FLAG_PROBE, 1));
    net.run_for(SOON);
    assert_eq!(ended(&net), 1);
    // Whoever it is said to come from must be known.
    let stranger = NodeId([9; 64]);
    net.forge(0, 1, &probe(&stranger, &destination, PacketType::BROADCAST, FLAG_SEALED | FLAG_PROBE, 1));
    net.run_for(SOON);
    assert_eq!((ended(&net), total(&net, 1, |counters| counters.pings_not_answered.get())), (1, 1));
}

#[test]
fn no_answer_is_longer_than_its_ping_and_none_asks_for_an_answer() {
    let mut net = line(9, 4, 2);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let all = seen.clone();
    net.tamper = Some(Box::new(move |from, to, bytes| {
        let header = Header::decode(bytes).unwrap().0;
        if header.packet_type == PacketType::BROADCAST {
            all.borrow_mut().push((from < to, header.flags & FLAG_PROBE != 0, bytes.len()));
        }
    }));
    for hops in 1..=3 {
        net.ping(0, 3, hops);
    }
    let seen = seen.borrow();
    assert_eq!(seen.len(), 2 * (1 + 2 + 3));
    let asked = seen.iter().find(|(outward, ..)| *outward).unwrap().2;
    for &(outward, is_probe, len) in seen.iter() {
        assert_eq!(outward, is_probe);
        assert!(len <= asked, "{len} bytes for {asked}");
    }
}

#[test]
fn nobody_on_the_way_can_answer_for_the_destination() {
    // 1 is hostile. It sees all, drops what it likes, and says what it likes.
    let mut net = Network::of_edges(10, 4, 2, &[(0, 1), (1, 2), (0, 3)]);
    let replayed = Rc::new(RefCell::new(Vec::new()));
    let all = replayed.clone();
    net.tamper = Some(Box::new(move |from, _, bytes| {
        let header = Header::decode(bytes).unwrap().0;
        if from == 1 && header.flags & FLAG_SEALED != 0 {
            all.borrow_mut().push(bytes.clone());
        }
    }));
    assert_eq!(net.ping(0, 2, 2).end, PingEnd::Answered);
    let honest = replayed.borrow()[1].clone();
    net.tamper = None;
    net.nodes[2].frozen = true;

    let (by, destination) = (net.nodes[1].id, net.nodes[2].id);
    let ignored = |net: &Network| total(net, 0, |counters| counters.ping_answers_ignored.get());
    let number = net.start_ping(0, destination, 2);
    // The answer of before, and the right number in its own name; it could not even know that.
    net.forge(1, 0, &honest);
    net.forge(1, 0, &direct(&Notice::Reply(Diagnostic { kind: PING, id: number, body: Vec::new() })));
    // Sent back as if it were the answer.
    let own = probe(&net.nodes[0].id, &net.nodes[0].id, PacketType::BROADCAST, FLAG_SEALED, 3);
    net.forge(1, 0, &own);
    // Forged in the name of the destination.
    net.forge(1, 0, &probe(&destination, &net.nodes[0].id, PacketType::BROADCAST, FLAG_SEALED, 3));
    net.run_for(SOON);
    assert_eq!(net.pinged(0, number), None);
    assert_eq!(ignored(&net), 1);
    assert_eq!(total(&net, 0, |counters| counters.duplicates_dropped.get()), 1, "the answer of before");
    net.run_for(2 * REPLY_TIME_MAX);
    assert_eq!(net.pinged(0, number).unwrap().end, PingEnd::Silent);

    net.nodes[2].frozen = false;
    net.run_for(10 * SOON);
    net.break_links(1, 2);
    net.connect(1, 2);
    net.run_for(SOON);
    net.nodes[2].frozen = true;
    // That its hops ended there it can say, under its own name; not who has not seen it.
    let sniffed = Rc::new(Cell::new(None));
    let last = sniffed.clone();
    net.tamper = Some(Box::new(move |from, _, bytes| {
        let header = Header::decode(bytes).unwrap().0;
        if from == 0 && header.flags & FLAG_PROBE != 0 {
            last.set(Some((header.seq, *bytes.last_chunk::<16>().unwrap())));
        }
    }));
    let number = net.start_ping(0, destination, 2);
    net.run_for(LINK_LATENCY / 2);
    let (seq, tag) = sniffed.get().unwrap();
    let short = destination.short();
    let why = PathEnd::HopsUsed;
    let ended = |seq, destination, tag| direct(&Notice::PathEnded(PathEnded { seq, why, destination, tag }));
    let before = ignored(&net);
    net.forge(3, 0, &ended(seq, short, [0; 16]));
    net.forge(3, 0, &ended(seq ^ 1, short, tag));
    net.forge(3, 0, &ended(seq, short ^ 1, tag));
    net.run_for(SOON);
    assert_eq!((ignored(&net) - before, net.pinged(0, number)), (3, None));
    net.forge(1, 0, &ended(seq, short, tag));
    net.run_for(SOON / 100);
    assert_eq!(net.pinged(0, number).unwrap().end, PingEnd::Ended { by, why: PathEnd::HopsUsed });
}

fn direct(notice: &Notice) -> Vec<u8> {
    let payload = notice.encode();
    let mut frame = smallvec::SmallVec::new();
    Header::direct(PacketType::BROADCAST, 1).encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(&payload);
    frame.to_vec()
}

#[test]
fn a_node_that_alters_or_drops_pings_shows_as_a_loss_behind_it() {
    let mut net = line(11, 4, 2);
    net.tamper = Some(Box::new(|from, to, bytes| {
        if (from, to) == (2, 3) && Header::decode(bytes).unwrap().0.flags & FLAG_PROBE != 0 {
            *bytes.last_mut().unwrap() ^= 1;
        }
    }));
    let ends = [1, 2, 3].map(|hops| net.ping(0, 3, hops).end);
    assert_eq!(ends, [ended_by(&net, 1), ended_by(&net, 2), PingEnd::Silent]);
    assert_eq!(total(&net, 3, |counters| counters.sealed_refused.get()), 1);
}

#[test]
fn pings_of_one_node_are_answered_within_an_allowance() {
    for (hops, counter) in [
        (1, (|counters: &Counters| counters.pings_ended.get()) as fn(&Counters) -> u64),
        (2, |counters| counters.pings_answered.get()),
    ] {
        let mut net = line(12, 3, 2);
        let answering: NodeIndex = hops.into();
        let destination = net.nodes[2].id;
        let numbers: Vec<u64> = (0..100).map(|_| net.start_ping(0, destination, hops)).collect();
        net.run_for(2 * REPLY_TIME_MAX);
        let silent = |number: &&u64| net.pinged(0, **number).unwrap().end == PingEnd::Silent;
        assert_eq!(numbers.iter().filter(silent).count(), 100 - ANSWERS_PER_SECOND_MAX as usize);
        assert_eq!(total(&net, answering, counter), u64::from(ANSWERS_PER_SECOND_MAX));
        assert_eq!(total(&net, answering, |counters| counters.pings_not_answered.get()), 36);
        // The next second is a new one.
        assert_ne!(net.ping(0, 2, hops).end, PingEnd::Silent);
    }
}

#[test]
fn no_more_pings_are_open_than_the_bound() {
    let mut net = line(13, 2, 1);
    net.nodes[1].frozen = true;
    let destination = net.nodes[1].id;
    assert_eq!(home_reactor(&destination, 1).0, 0);
    let numbers: Vec<u64> = (0..PINGS_MAX + 3).map(|_| net.start_ping(0, destination, 1)).collect();
    let refused = |number: &&u64| net.pinged(0, **number).map(|pinged| pinged.end) == Some(PingEnd::TooMany);
    assert_eq!(numbers.iter().filter(refused).count(), 3);
    assert_eq!(total(&net, 0, |counters| counters.pings_over_bound.get()), 3);
    net.nodes[1].frozen = false;
    net.run_for(2 * REPLY_TIME_MAX);
    assert!(numbers.iter().all(|&number| net.pinged(0, number).is_some()));
    assert_eq!(net.ping(0, 1, 1).end, PingEnd::Answered);
}

#[test]
fn in_random_networks_the_hops_are_a_shortest_way() {
    for seed in 100..120 {
        let mut random = SmallRng::seed_from_u64(seed);
        let nodes = random.random_range(3..20);
        let mut edges: Vec<_> = (1..nodes).map(|node| (random.random_range(0..node), node)).collect();
        for _ in 0..nodes {
            let (one, other) = (random.random_range(0..nodes), random.random_range(0..nodes));
            if one < other && !edges.contains(&(one, other)) {
                edges.push((one, other));
            }
        }
        let mut net = Network::of_edges(seed, nodes, random.random_range(1..4), &edges);
        net.run_for(5 * SOON);
        let are_linked = |a: usize, b: usize| edges.contains(&(a, b)) || edges.contains(&(b, a));
        let mut distance = vec![usize::MAX; nodes];
        distance[0] = 0;
        for _ in 0..nodes {
            for &(one, other) in &edges {
                let near = distance[one].min(distance[other]).saturating_add(1);
                distance[one] = distance[one].min(near);
                distance[other] = distance[other].min(near);
            }
        }
        for (other, &distance) in distance.iter().enumerate().skip(1) {
            let mut at = 0;
            for hop in 1..=distance {
                let next = match net.ping(0, other, hop as u8).end {
                    PingEnd::Answered => other,
                    PingEnd::Ended { by, why: PathEnd::HopsUsed } => {
                        net.nodes.iter().position(|node| node.id == by).unwrap()
                    }
                    end => panic!("seed {seed}, to {other}, hop {hop}: {end:?}"),
                };
                assert!(are_linked(at, next), "seed {seed}: {at} and {next} are not linked");
                assert_eq!(next == other, hop == distance, "seed {seed}, to {other}, hop {hop}");
                at = next;
            }
        }
    }
}
