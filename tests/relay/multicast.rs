//! Multicasts (WIRE §1.2, §2.2).

use std::time::Duration;

use amop::internal::{relay::settings::Settings, wire::sdk::FrameType};

use crate::kit::{Behaviour, Network};

const SOON: Duration = Duration::from_millis(100);

#[test]
fn every_subscriber_of_the_network_gets_one_copy() {
    let mut net = Network::mesh(1, 3, 2);
    let subscribers: Vec<_> = (0..9).map(|index| net.subscriber(index % 3, &["t"])).collect();
    let bystander = net.subscriber(1, &["other"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.multicast(publisher, "t", b"news");
    net.run_for(SOON);
    for subscriber in subscribers {
        assert_eq!(net.pushed(subscriber, FrameType::MULTICAST), [("t".to_owned(), b"news".to_vec())]);
    }
    assert_eq!(net.pushed(bystander, FrameType::MULTICAST), []);
}

#[test]
fn the_acknowledgement_repeats_the_topic_without_payload_even_if_nobody_subscribes() {
    let mut net = Network::mesh(2, 1, 1);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.multicast(publisher, "nobody", b"news");
    assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x07nobody".to_vec()));
}

#[test]
fn a_sender_that_subscribes_gets_its_acknowledgement_before_its_copy() {
    let mut net = Network::mesh(3, 1, 2);
    for reactor in 0..2 {
        let app = net.app_on(0, amop::internal::relay::ReactorId(reactor), Behaviour::Silent);
        net.subscribe(app, &["t"]);
        net.multicast(app, "t", b"news");
        net.run_for(SOON);
        let types: Vec<_> =
            net.apps[app].received.iter().map(|received| received.header.frame_type).take(2).collect();
        assert_eq!(types, [FrameType::RESPONSE, FrameType::MULTICAST]);
    }
}

#[test]
fn a_receiver_without_room_loses_its_copy_and_nobody_else_does() {
    let mut net = Network::new(4);
    net.add_node(2, Settings { session_queue_bytes_max: 1_000, ..Settings::default() });
    let deaf = net.app(0, Behaviour::Deaf);
    net.subscribe(deaf, &["t"]);
    let others: Vec<_> = (0..4).map(|_| net.subscriber(0, &["t"])).collect();
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..10 {
        net.multicast(publisher, "t", &[0; 500]);
        net.run_for(SOON);
    }
    for other in others {
        assert_eq!(net.pushed(other, FrameType::MULTICAST).len(), 10);
    }
    assert!(net.nodes[0].total(|counters| counters.dropped_queue_full.get()) >= 7);
}

#[test]
fn without_a_proof_private_and_special_topics_reach_nobody_and_are_acknowledged() {
    let mut net = Network::mesh(5, 2, 1);
    for topic in ["#!$TopicNeedVerify_t", "#!$PushChannel_#!$TopicNeedVerify_t", "_block_notify_1"] {
        let subscribers = [net.subscriber(0, &[topic]), net.subscriber(1, &[topic])];
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.multicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON), (100, vec![]));
        for subscriber in subscribers {
            for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
                assert_eq!(net.pushed(subscriber, frame_type), [], "{topic}");
            }
        }
    }
}
