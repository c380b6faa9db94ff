//! Sessions that follow the format and not the rules.

use std::collections::HashSet;

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType},
    },
};

use crate::{
    healthy::{HealthyPair, answer_of, answers, connect, frame_type, is_closed, try_send},
    support::{TestNode, seq, wait_until},
};

fn request(number: u64, topic: &str, payload: &[u8]) -> Vec<u8> {
    sdk::encode_amop(FrameType::REQUEST, &seq(number), ResultCode::OK, topic, payload)
}

fn response(number: u64, topic: &str, payload: &[u8]) -> Vec<u8> {
    sdk::encode_amop(FrameType::RESPONSE, &seq(number), ResultCode::OK, topic, payload)
}

#[test]
fn a_subscriber_that_never_reads_is_alone_cut_loose_while_it_is_flooded() {
    let more = "[amop]\nstall_timeout_ms=1000\nsession_queue_bytes_max=1048576\n";
    let node = TestNode::start(Profile::Ec, 0, &[], more);
    let healthy = HealthyPair::start(&node);
    let mut deaf = connect(&node);
    deaf.subscribe(&["flooded"]);
    let mut reading = connect(&node);
    reading.subscribe(&["flooded"]);
    node.wait_for_subscribers("flooded", 2);
    let mut publisher = connect(&node);
    let frame = sdk::encode_amop(FrameType::MULTICAST, &seq(2), ResultCode::OK, "flooded", &[7; 60_000]);
    wait_until("the deaf session is closed", || {
        publisher.send(&frame);
        assert_eq!(answer_of(&publisher.frame().unwrap()).1, ResultCode::OK);
        assert!(reading.frame().unwrap() == frame, "the other subscriber gets every copy");
        node.total(|counters| counters.closed_stalled.get()) == 1
    });
    assert!(node.total(|counters| counters.dropped_queue_full.get()) > 0);
    node.wait_for_subscribers("flooded", 1);
    assert!(answers(&mut reading) && answers(&mut publisher));
    assert_eq!(node.total(|counters| counters.sessions.get()), 4);
    healthy.finish();
}

#[test]
fn a_client_that_asks_and_never_reads_its_answers_is_alone_cut_loose() {
    let more = "[amop]\nstall_timeout_ms=1000\nsession_queue_bytes_max=65536\n";
    let node = TestNode::start(Profile::Ec, 0, &[], more);
    let healthy = HealthyPair::start(&node);
    let mut deaf = connect(&node);
    let rpc = br#"{"id":1,"jsonrpc":"2.0","method":"getClientVersion","params":[]}"#;
    let ask = sdk::encode(FrameType::RPC, &seq(3), ResultCode::OK, rpc).repeat(200);
    wait_until("it is closed", || {
        let records = deaf.seal(&ask);
        try_send(&mut deaf, &records);
        node.total(|counters| counters.closed_stalled.get()) == 1
    });
    healthy.finish();
}

#[test]
fn a_subscriber_that_never_answers_costs_its_publisher_a_102_each() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[amop]\npush_timeout_ms=200\n");
    let healthy = HealthyPair::start(&node);
    let mut silent = connect(&node);
    silent.subscribe(&["silent"]);
    node.wait_for_subscribers("silent", 1);
    let mut publisher = connect(&node);
    for number in 0..200 {
        publisher.send(&request(number, "silent", b"x"));
    }
    let mut waiting: HashSet<_> = (0..200).map(seq).collect();
    while !waiting.is_empty() {
        let (answered, code, payload) = answer_of(&publisher.frame().unwrap());
        assert!(waiting.remove(&answered), "answered twice");
        assert_eq!((code, payload), (ResultCode::TIMEOUT, vec![]));
    }
    assert!(answers(&mut publisher) && node.total(|counters| counters.push_timeouts.get()) == 200);
    healthy.finish();
}

#[test]
fn answers_of_strangers_are_counted_and_reach_nobody() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut asked = connect(&node);
    asked.subscribe(&["asked"]);
    node.wait_for_subscribers("asked", 1);
    // At both reactors.
    let mut strangers: Vec<_> = (0..4).map(|_| connect(&node)).collect();
    strangers[0].subscribe(&["another"]);
    let mut publisher = connect(&node);
    let rounds = 20;
    for round in 0..rounds {
        publisher.send(&request(round, "asked", b"the question"));
        let pushed = asked.frame().unwrap();
        assert_eq!(frame_type(&pushed), FrameType::REQUEST);
        for stranger in &mut strangers {
            stranger.send(&response(round, "asked", b"a lie"));
            assert!(answers(stranger));
        }
        // The publisher itself is a stranger too.
        publisher.send(&response(round, "asked", b"a lie"));
        assert!(answers(&mut publisher), "nothing came before its heartbeat's answer");
        asked.send(&response(round, "asked", b"the truth"));
        // A second one is late.
        asked.send(&response(round, "asked", b"the truth, twice"));
        let answer = answer_of(&publisher.frame().unwrap());
        assert_eq!(answer, (seq(round), ResultCode::OK, b"the truth".to_vec()));
    }
    assert!(answers(&mut publisher) && answers(&mut asked));
    let unasked = node.total(|counters| counters.unsolicited_answers.get() + counters.late_answers.get());
    assert_eq!(unasked, rounds * (strangers.len() as u64 + 2));
    healthy.finish();
}

#[test]
fn one_seq_used_by_two_sessions_at_once_is_answered_right_to_both() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut subscribers = [connect(&node), connect(&node)];
    let mut publishers = [connect(&node), connect(&node)];
    let mut third = connect(&node);
    for subscriber in &mut subscribers {
        subscriber.subscribe(&["twice"]);
    }
    node.wait_for_subscribers("twice", 2);
    for round in 0..20 {
        let payloads = [b"one".to_vec(), b"other".to_vec()];
        for (publisher, payload) in publishers.iter_mut().zip(&payloads) {
            publisher.send(&request(round, "twice", payload));
        }
        // Each subscriber gets one of them: with one seq it could not tell two apart.
        let mut pushed = subscribers.each_mut().map(|subscriber| subscriber.frame().unwrap());
        // For a third there is nobody left while they are open.
        third.send(&request(round, "twice", b"third"));
        let refused = (seq(round), ResultCode::NOT_DELIVERED, vec![]);
        assert_eq!(answer_of(&third.frame().unwrap()), refused);
        for (subscriber, frame) in subscribers.iter_mut().zip(&mut pushed).rev() {
            frame[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
            subscriber.send(frame);
        }
        for (publisher, payload) in publishers.iter_mut().zip(payloads) {
            assert_eq!(answer_of(&publisher.frame().unwrap()), (seq(round), ResultCode::OK, payload));
        }
    }
    healthy.finish();
}

#[test]
fn one_seq_used_twice_by_one_session_is_answered_twice() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut subscriber = connect(&node);
    subscriber.subscribe(&["same"]);
    node.wait_for_subscribers("same", 1);
    let mut publisher = connect(&node);
    publisher.send(&request(1, "same", b"first"));
    publisher.send(&request(1, "same", b"second"));
    assert_eq!(answer_of(&publisher.frame().unwrap()), (seq(1), ResultCode::NOT_DELIVERED, vec![]));
    assert_eq!(frame_type(&subscriber.frame().unwrap()), FrameType::REQUEST);
    subscriber.send(&response(1, "same", b"answer"));
    assert_eq!(answer_of(&publisher.frame().unwrap()), (seq(1), ResultCode::OK, b"answer".to_vec()));
    healthy.finish();
}

#[test]
fn a_flood_of_unknown_frames_and_changes_of_topics_is_counted_and_disturbs_nobody() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let unknown: Vec<u8> = (0..1_000u16)
        .flat_map(|number| sdk::encode(FrameType(0x2000 + number), &seq(1), ResultCode(-1), b"what?"))
        .collect();
    app.send(&unknown);
    for number in 0..1_000 {
        app.subscribe(&[&format!("topic/{number}")]);
    }
    assert!(answers(&mut app));
    assert_eq!(node.total(|counters| counters.unknown_types.get()), 1_000);
    assert!(node.total(|counters| counters.subscriptions_deferred.get()) > 0);
    // The last one wins, though most were put off.
    node.wait_for_subscribers("topic/999", 1);
    let mut gone = connect(&node);
    gone.send(&sdk::encode(
        FrameType::HANDSHAKE,
        &seq(1),
        ResultCode::OK,
        br#"{"minimumSupport":9,"maximumSupport":9}"#,
    ));
    assert!(is_closed(&mut gone), "protocols that are not spoken here");
    healthy.finish();
}
