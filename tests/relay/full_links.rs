//! Links between nodes that take less than is sent over them (WIRE §2.3, §6.4).

use std::time::Duration;

use amop::internal::{
    relay::settings::Settings,
    wire::{
        node::{Header, PacketType},
        sdk::FrameType,
    },
};

use crate::kit::{Behaviour, Network, Seen, line};

const SECOND: Duration = Duration::from_secs(1);
const FRAME: usize = 10_000;
/// Frames that wait on a link, with the one that is being sent.
const ROOM: u8 = 10;
const BOTH: [FrameType; 2] = [FrameType::REQUEST, FrameType::MULTICAST];

/// A line of nodes with a publisher on the first and a subscriber on the last. The link from one node to the next takes so
/// many bytes a second, and [`ROOM`] frames wait for it.
fn slow(nodes: usize, reactors: u16, from: usize, rate: u64) -> (Network, usize, usize) {
    let mut net = Network::of_edges(5, nodes, reactors, &line(nodes));
    net.set_node_queue_bytes_max(from, usize::from(ROOM) * FRAME);
    let subscriber = net.subscriber(nodes - 1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND);
    net.set_link_rate(from, from + 1, Some(rate));
    (net, publisher, subscriber)
}

fn send(net: &mut Network, publisher: usize, frame_type: FrameType, number: u8) -> [u8; 32] {
    let mut payload = vec![7; FRAME];
    payload[0] = number;
    match frame_type {
        FrameType::REQUEST => net.unicast(publisher, "t", &payload),
        _ => net.multicast(publisher, "t", &payload),
    }
}

/// The numbers of what a subscriber got, in order.
fn numbers(net: &Network, subscriber: usize, frame_type: FrameType) -> Vec<u8> {
    net.pushed(subscriber, frame_type).iter().map(|(_, payload)| payload[0]).collect()
}

#[test]
fn a_full_link_loses_nothing_that_it_took_and_the_rest_is_answered_99() {
    for reactors in [1, 3] {
        let (mut net, publisher, subscriber) = slow(2, reactors, 0, 50_000);
        let seqs: Vec<_> =
            (0..40).map(|number| send(&mut net, publisher, FrameType::REQUEST, number)).collect();
        let codes: Vec<i32> = seqs.iter().map(|seq| net.answer(publisher, seq, 10 * SECOND).0).collect();
        let taken = usize::from(ROOM);
        assert_eq!(codes[..taken], [0; ROOM as usize], "{reactors} reactors");
        assert!(codes[taken..].iter().all(|code| *code == 99), "{reactors} reactors: {codes:?}");
        let got = numbers(&net, subscriber, FrameType::REQUEST);
        assert_eq!(got, (0..ROOM).collect::<Vec<_>>(), "{reactors} reactors");
        // Once it has drained it takes as many again.
        let seq = send(&mut net, publisher, FrameType::REQUEST, 99);
        assert_eq!(net.answer(publisher, &seq, SECOND).0, 0, "{reactors} reactors");
    }
}

#[test]
fn a_multicast_skips_a_full_link_and_is_counted() {
    for reactors in [1, 3] {
        let (mut net, publisher, subscriber) = slow(2, reactors, 0, 50_000);
        for number in 0..40 {
            send(&mut net, publisher, FrameType::MULTICAST, number);
        }
        net.run_for(10 * SECOND);
        let got = numbers(&net, subscriber, FrameType::MULTICAST);
        assert_eq!(got, (0..ROOM).collect::<Vec<_>>(), "{reactors} reactors");
        assert_eq!(net.nodes[0].total(|counters| counters.dropped_window_full.get()), 40 - u64::from(ROOM));
    }
}

#[test]
fn what_waited_for_a_link_that_has_no_room_for_all_of_it_goes_when_there_is_some() {
    for reactors in [1, 3] {
        let (mut net, publisher, subscriber) = slow(2, reactors, 0, 50_000);
        net.break_links(0, 1);
        for number in 0..3 * ROOM {
            send(&mut net, publisher, FrameType::MULTICAST, number);
        }
        // Until its home has all of them.
        net.run_for(SECOND / 20);
        net.connect(0, 1);
        net.run_for(10 * SECOND);
        let got = numbers(&net, subscriber, FrameType::MULTICAST);
        assert_eq!(got, (0..3 * ROOM).collect::<Vec<_>>(), "{reactors} reactors");
    }
}

#[test]
fn multicasts_for_several_nodes_behind_another_have_half_of_the_channel_with_each() {
    for reactors in [1, 3] {
        let mut net = Network::new(6);
        for _ in 0..4 {
            net.add_node(reactors, Settings { window_frames_max: 6, ..Settings::default() });
        }
        for (one, other) in [(0, 1), (1, 2), (1, 3)] {
            net.connect(one, other);
        }
        net.run_for(SECOND);
        let subscribers = [2, 3].map(|node| net.subscriber(node, &["t"]));
        let publisher = net.app(0, Behaviour::Silent);
        [2, 3].into_iter().for_each(|node| net.cut_links(1, node));
        for number in 0..10 {
            send(&mut net, publisher, FrameType::MULTICAST, number);
        }
        net.run_for(SECOND / 10);
        assert!(net.nodes[0].usage().all(|usage| usage.window_frames <= 3), "{reactors} reactors");
        assert_eq!(net.nodes[0].total(|counters| counters.dropped_window_full.get()), 2 * 7);
        assert!(subscribers.iter().all(|app| numbers(&net, *app, FrameType::MULTICAST).is_empty()));
    }
}

#[test]
fn a_request_whose_link_is_full_goes_to_a_subscriber_behind_another() {
    let (mut net, publisher, subscriber) = slow(2, 1, 0, 50_000);
    let free = net.add_node(1, Settings::default());
    net.connect(0, free);
    net.run_for(SECOND);
    let other = net.subscriber(free, &["t"]);
    let seqs: Vec<_> = (0..60).map(|number| send(&mut net, publisher, FrameType::REQUEST, number)).collect();
    for seq in &seqs {
        assert_eq!(net.answer(publisher, seq, 10 * SECOND).0, 0);
    }
    assert_eq!(numbers(&net, subscriber, FrameType::REQUEST).len(), usize::from(ROOM));
    assert_eq!(numbers(&net, other, FrameType::REQUEST).len(), 60 - usize::from(ROOM));
}

#[test]
fn what_a_full_link_on_the_way_did_not_take_comes_later_once_and_in_its_order() {
    // Of the source, and of a node on the path.
    for (from, reactors, frame_type) in [0, 1]
        .into_iter()
        .flat_map(|from| [1, 3].map(|reactors| BOTH.map(|kind| (from, reactors, kind))))
        .flatten()
    {
        let (mut net, publisher, subscriber) = slow(3, reactors, from, 50_000);
        let seqs: Vec<_> = (0..40).map(|number| send(&mut net, publisher, frame_type, number)).collect();
        net.run_for(60 * SECOND);
        let case = format!("{frame_type:?} by node {from} of {reactors} reactors");
        assert_eq!(numbers(&net, subscriber, frame_type), (0..40).collect::<Vec<_>>(), "{case}");
        for seq in &seqs {
            assert_eq!(net.answer(publisher, seq, SECOND).0, 0, "{case}");
        }
        let dropped = net.nodes[from].total(|counters| counters.relay_dropped.get());
        assert_eq!(dropped > 0, from == 1, "{case}: {dropped}");
        // They went again when their source had waited for long: at once would be more of what is too much.
        assert!(dropped < 200, "{case}: {dropped}");
    }
}

#[test]
fn a_node_whose_link_was_full_for_a_moment_passes_on_what_comes_then() {
    for reactors in [1, 3] {
        let (mut net, publisher, subscriber) = slow(3, reactors, 1, 50_000);
        for number in 0..20 {
            send(&mut net, publisher, FrameType::MULTICAST, number);
        }
        net.run_for(SECOND / 4);
        net.set_link_rate(1, 2, None);
        // It never stops: what waited for a pause would wait for ever.
        for number in 20..120 {
            net.run_for(SECOND / 10);
            send(&mut net, publisher, FrameType::MULTICAST, number);
        }
        net.run_for(SECOND / 10);
        let got = numbers(&net, subscriber, FrameType::MULTICAST);
        assert_eq!(got, (0..120).collect::<Vec<_>>(), "{reactors} reactors");
    }
}

/// A node on the path acknowledges what it gets: nobody knows what became of it then.
#[test]
fn a_request_that_a_node_on_the_way_has_no_room_for_in_all_its_time_is_answered_102() {
    let (mut net, publisher, subscriber) = slow(3, 1, 1, 2_000);
    let seqs: Vec<_> = (0..30).map(|number| send(&mut net, publisher, FrameType::REQUEST, number)).collect();
    let codes: Vec<i32> = seqs.iter().map(|seq| net.answer(publisher, seq, 60 * SECOND).0).collect();
    let in_time = codes.iter().take_while(|code| **code == 0).count();
    // Each takes 5 s, and less than 31 s are there.
    assert!((5..=6).contains(&in_time), "{codes:?}");
    assert!(codes[in_time..].iter().all(|code| *code == 102), "{codes:?}");
    let got = numbers(&net, subscriber, FrameType::REQUEST);
    assert_eq!(got, (0..got.len() as u8).collect::<Vec<_>>());
}

#[test]
fn acknowledgements_and_signs_of_life_overtake_what_waits_on_a_full_link() {
    for reactors in [1, 3] {
        // Each frame takes 2 s.
        let (mut net, publisher, _) = slow(2, reactors, 0, 5_000);
        let there = net.subscriber(0, &["back"]);
        let back = net.app(1, Behaviour::Silent);
        net.run_for(SECOND);
        net.seen = Some(Vec::new());
        for number in 0..20 {
            send(&mut net, publisher, FrameType::MULTICAST, number);
        }
        net.run_for(SECOND / 10);
        for _ in 0..3 {
            net.multicast(back, "back", b"x");
        }
        net.run_for(40 * SECOND);
        let seen = net.seen.take().expect("it was set");
        let crossed: Vec<PacketType> = seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Crossed { from: 0, bytes, .. } => {
                    Some(Header::decode(bytes).expect("nodes send whole frames").0.packet_type)
                }
                _ => None,
            })
            .collect();
        let data = crossed.iter().filter(|kind| **kind == PacketType::MULTICAST).count();
        assert_eq!(data, usize::from(ROOM), "{reactors} reactors");
        let between = crossed.split(|kind| *kind == PacketType::MULTICAST);
        // Each end says something every second, and each frame takes two.
        let control: Vec<usize> = between.map(|between| between.len()).collect();
        assert!(control[1..data].iter().all(|count| *count > 0), "{reactors} reactors: {control:?}");
        let is_lost = |seen: &Seen| matches!(seen, Seen::LinkClosed { .. });
        assert!(!seen.iter().any(is_lost), "{reactors} reactors: a link is cut for being slow");
        let delivered =
            seen.iter().filter(|seen| matches!(seen, Seen::Delivered { app, .. } if *app == there));
        assert_eq!(delivered.count(), 3, "{reactors} reactors");
    }
}
