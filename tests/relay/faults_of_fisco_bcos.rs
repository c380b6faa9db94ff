//! Faults seen in FISCO BCOS 2.10.2 that we do not share (WIRE §8): each row has a test named after it,
//! here or, where it takes sockets, in `tests/node/network.rs`.

use std::{collections::BTreeSet, time::Duration};

use amop::internal::wire::{ResultCode, sdk, sdk::FrameType};

use crate::kit::{Behaviour, Network};

const SOON: Duration = Duration::from_millis(100);

#[test]
fn local_subscriber_never_gets_the_message() {
    let mut net = Network::mesh(1, 1, 2);
    let subscriber = net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    net.multicast(publisher, "t", b"y");
    net.run_for(SOON);
    assert_eq!(net.apps[subscriber].received.len(), 2);
}

#[test]
fn topic_length_byte_0_crashes_the_node() {
    let mut net = Network::mesh(2, 2, 1);
    let publisher = net.app(0, Behaviour::Silent);
    for data in [&b"\0"[..], b"\0hello", b"\x09short", b"\x02\xff", b"\x01", b"\x03a\tb"] {
        for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
            let seq = net.frame(publisher, frame_type, data);
            assert_eq!(net.answer(publisher, &seq, SOON), (100, vec![]), "{data:?}");
        }
    }
    assert!(!net.apps[publisher].closed);
}

#[test]
fn request_with_empty_data_gets_no_answer() {
    let mut net = Network::mesh(3, 1, 1);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.frame(publisher, FrameType::REQUEST, b"");
    assert_eq!(net.answer(publisher, &seq, SOON), (100, vec![]));
}

#[test]
fn messages_of_one_publisher_overtake_each_other() {
    let mut net = Network::mesh(4, 2, 2);
    let subscriber = net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for number in 0..250u8 {
        net.multicast(publisher, "t", &[number]);
    }
    net.run_for(SOON);
    let numbers: Vec<u8> =
        net.pushed(subscriber, FrameType::MULTICAST).iter().map(|(_, payload)| payload[0]).collect();
    assert_eq!(numbers, (0..250).collect::<Vec<_>>());
}

#[test]
fn second_of_two_requests_with_one_seq_is_never_answered() {
    let mut net = Network::mesh(5, 1, 1);
    let subscriber = net.app(0, Behaviour::Echo(Duration::from_secs(1)));
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.seq();
    for _ in 0..2 {
        net.bytes(publisher, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "t", b"x"));
    }
    net.run_for(Duration::from_secs(3));
    let codes: Vec<i32> = net.answers(publisher, &seq).iter().map(|answer| answer.code().0).collect();
    assert_eq!(codes, [101, 0]);
}

#[test]
fn no_answer_gives_code_104_with_the_request_echoed() {
    let mut net = Network::mesh(6, 2, 1);
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)), (102, vec![]));
}

#[test]
fn unicasts_within_one_second_all_go_to_the_same_node() {
    let mut net = Network::mesh(7, 4, 1);
    let subscribers: Vec<_> = (1..4).map(|node| net.subscriber(node, &["t"])).collect();
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..60 {
        net.unicast(publisher, "t", b"x");
    }
    net.run_for(Duration::from_millis(500));
    for subscriber in subscribers {
        assert!(net.pushed(subscriber, FrameType::REQUEST).len() > 5);
    }
}

#[test]
fn frozen_node_delays_a_request_by_30_seconds() {
    let mut net = Network::mesh(8, 2, 1);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.nodes[1].frozen = true;
    let seq = net.unicast(publisher, "t", b"x");
    // Dead after 3 s, given up 1 s later: nobody else has the topic. It may have come there.
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(5)), (102, vec![]));
}

#[test]
fn topics_reach_other_nodes_after_up_to_5_seconds() {
    let mut net = Network::mesh(9, 3, 1);
    let publishers: BTreeSet<_> = (1..3).map(|node| net.app(node, Behaviour::Silent)).collect();
    let subscriber = net.app(0, Behaviour::Echo(Duration::ZERO));
    net.frame(subscriber, FrameType::SUBSCRIBE, br#"["t"]"#);
    net.run_for(Duration::from_millis(5));
    for publisher in publishers {
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
}

#[test]
fn two_nodes_that_dial_each_other_drop_both_links() {
    for seed in 0..20 {
        let mut net = Network::new(seed);
        for _ in 0..2 {
            net.add_node(1, Default::default());
        }
        net.connect(1, 0);
        net.run_for(Duration::from_micros(seed * 150));
        net.connect(0, 1);
        net.run_for(SOON);
        assert_eq!(net.links_between(0, 1).len(), 1, "seed {seed}");
    }
}
