//! What a Java publisher is told when its message has no receiver.

use amop::wire::{ResultCode, sdk::FrameType};
use serde_json::{Value, json};

use crate::kit::{
    Machine, Subscriber, certificates, have_java, hex, noise, publish, two_nodes, wait_for_subscribers,
};

#[test]
fn a_java_subscriber_that_does_not_answer_costs_time_or_102() {
    if !have_java() {
        return;
    }
    let (first, second) = two_nodes("[amop]\npush_timeout_ms=2000\n");
    let machine = Machine::start();
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut slow = machine.connect(&certificates(), &[&second]);
    let _quick = Subscriber::start(&second, "both", &["--reply", "quick"]);
    for topic in ["both", "slow"] {
        slow.tell(json!({ "do": "subscribe", "topic": topic, "hold": true }));
    }
    slow.tell(json!({ "do": "subscribe_without_callback", "topic": "mute" }));
    wait_for_subscribers(&[&first], "both", 2);
    wait_for_subscribers(&[&first], "mute", 1);

    // Where there is another, it answers instead.
    while !slow.has_received("both") {
        let answer = publisher.unicast("both", b"question");
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"quick"))));
    }
    // Alone, the node says so with nothing else in the frame.
    assert_eq!(publisher.frame(FrameType::REQUEST, "slow", b"first"), (ResultCode(102), String::new()));
    // The SDK has a 102 of its own, and says then for which request only by the callback.
    let own = publisher
        .ask(json!({ "do": "unicast", "topic": "slow", "payload": hex(b"second"), "timeout_ms": 100 }));
    assert_eq!((&own["code"], &own["seq"]), (&json!(102), &Value::Null));
    // What it answers too late disturbs no later request.
    slow.tell(json!({ "do": "release" }));
    for payload in [b"first", b"again"] {
        let answer = publisher.unicast("slow", payload);
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(payload))));
    }
    // The SDK takes a subscription without a callback, and answers nothing to what it brings.
    assert_eq!(publisher.frame(FrameType::REQUEST, "mute", b""), (ResultCode(102), String::new()));
}

#[test]
fn what_the_limiter_refuses_reaches_a_java_publisher_as_103() {
    if !have_java() {
        return;
    }
    // 1,311 bytes a second.
    let (first, second) = two_nodes("[flow_control]\noutgoing_bandwidth_limit=0.01\n");
    let machine = Machine::start();
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut subscriber = machine.connect(&certificates(), &[&second]);
    let _near = Subscriber::start(&first, "near", &["--reply", "near"]);
    subscriber.subscribe("far");
    wait_for_subscribers(&[&first], "far", 1);
    wait_for_subscribers(&[&first], "near", 1);

    // A full bucket lets one frame through whatever its length, and then owes for minutes.
    let payload = noise(500_000);
    let answer = publisher.unicast("far", &payload);
    assert!(answer["code"] == 0 && answer["payload"] == hex(&payload));
    assert!(subscriber.received("far")["payload"] == hex(&payload));
    let answer = publisher.unicast("far", b"refused");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(103), &Value::Null));
    assert!(answer["seq"].is_string(), "the node's own answer");
    for kind in [FrameType::REQUEST, FrameType::MULTICAST] {
        assert_eq!(publisher.frame(kind, "far", b"refused"), (ResultCode(103), String::new()));
    }
    // What stays on a node is free.
    let answer = publisher.unicast("near", b"");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"near"))));
    assert_eq!(publish(&second, &["far", "at home"])["code"], 0);
    assert_eq!(subscriber.received("far")["payload"], hex(b"at home"));
}
