//! What a Java publisher is told when its message has no receiver.

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::{Value, json};

use crate::{
    kit::{
        ADMIN, Java, Machine, PATIENCE_MS, Subscriber, certificates, have_java, hex, noise, publish, text,
        two_nodes, wait_for, wait_for_subscribers,
    },
    support::{RawSdk, application_config, host_dir, process::Process},
};

/// A subscriber that answers in its own way, by topic, which no SDK lets it do. It ends with its session.
fn start_scripted_subscriber(node: &Process, topics: &[&str]) {
    let mut session =
        RawSdk::connect_with(application_config(Profile::Rsa), node.channel).expect("the node lets it in");
    let topics = serde_json::to_vec(topics).unwrap();
    session.send(&sdk::encode(FrameType::SUBSCRIBE, &[b'0'; 32], ResultCode::OK, &topics));
    std::thread::spawn(move || {
        let mut held: Vec<Vec<u8>> = Vec::new();
        while let Some(frame) = session.frame() {
            let header = Header::decode(&frame).unwrap();
            let data = &frame[HEADER_LEN..];
            let (result, data) = match AmopBody::decode(data).expect("nodes push valid bodies").topic {
                "own code" => (ResultCode(7), data),
                "own code, no data" => (ResultCode(-5), &data[..0]),
                "leaves" => return,
                "held" => {
                    held.push(frame);
                    continue;
                }
                "release" => {
                    for frame in held.drain(..) {
                        let seq = Header::decode(&frame).unwrap().seq;
                        let data = &frame[HEADER_LEN..];
                        session.send(&sdk::encode(FrameType::RESPONSE, &seq, ResultCode::OK, data));
                    }
                    continue;
                }
                _ => continue,
            };
            session.send(&sdk::encode(FrameType::RESPONSE, &header.seq, result, data));
        }
    });
}

/// Of all sessions of a node now; the figure of that name is not as fresh.
fn pending_requests(node: &Process) -> u64 {
    let sessions = node.admin_json("/sessions");
    let items = sessions["items"].as_array().expect("a list");
    items.iter().map(|item| item["pending_requests"].as_u64().expect("a number")).sum()
}

/// Requests of another session that are on their way when the publisher asks.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    /// With the publisher's seq, to the same subscriber.
    SameSeq,
    /// As many as the publisher's node takes.
    FullTable,
}

/// For each code of WIRE §3 how it comes about, and which data it has: none where a node made it.
const CODES: [(&str, Before, i32, &[u8]); 8] = [
    ("echo", Before::Nothing, 0, b"\x05echox"),
    ("own code", Before::Nothing, 7, b"\x09own codex"),
    ("own code, no data", Before::Nothing, -5, b""),
    ("echo", Before::FullTable, 99, b""),
    ("nobody", Before::Nothing, 100, b""),
    ("held", Before::SameSeq, 101, b""),
    ("silent", Before::Nothing, 102, b""),
    ("leaves", Before::Nothing, 102, b""),
];
const PENDING_REQUESTS_MAX: u8 = 3;

fn provoke_each_code(first: &Process, second: &Process) {
    let machine = Machine::start();
    let mut publisher = machine.connect(&certificates(), &[first]);
    let mut other = machine.connect(&certificates(), &[first]);
    let mut echo = machine.connect(&certificates(), &[second]);
    echo.subscribe("echo");
    start_scripted_subscriber(second, &["own code", "own code, no data", "silent", "held", "release"]);
    start_scripted_subscriber(second, &["leaves"]);
    for topic in ["echo", "release", "leaves"] {
        wait_for_subscribers(&[first], topic, 1);
    }
    let ask = |java: &mut Java, topic: &str, seq: &Seq| {
        java.begin(json!({
            "do": "send_frame", "type": FrameType::REQUEST.0, "topic": topic, "payload": hex(b"x"),
            "seq": text(seq), "timeout_ms": PATIENCE_MS,
        }))
    };
    let expect = |java: &mut Java, id: u64, seq: &Seq, code: i32, data: &[u8], what: &str| {
        let answer = java.answer(id);
        assert_eq!((&answer["code"], &answer["data"]), (&json!(code), &json!(hex(data))), "{what}");
        assert_eq!(answer["seq"], text(seq), "{what}");
    };
    let mut next_seq =
        (0..).map(|number| format!("{number:032x}").into_bytes().try_into().expect("32 digits"));
    let mut seq = move || -> Seq { next_seq.next().expect("it does not end") };
    for (topic, before, code, data) in CODES {
        let what = format!("{code} from {topic:?}");
        let own = seq();
        let others: Vec<Seq> = match before {
            Before::Nothing => Vec::new(),
            Before::SameSeq => vec![own],
            Before::FullTable => (0..PENDING_REQUESTS_MAX).map(|_| seq()).collect(),
        };
        let ids: Vec<u64> = others.iter().map(|seq| ask(&mut other, "held", seq)).collect();
        wait_for(&format!("those before {what} are on their way"), || {
            pending_requests(first) == ids.len() as u64
        });
        let id = ask(&mut publisher, topic, &own);
        expect(&mut publisher, id, &own, code, data, &what);
        // Not where there are none: it could come late and release those of the next row.
        if !ids.is_empty() {
            publisher.broadcast("release", b"");
        }
        for (id, seq) in ids.into_iter().zip(&others) {
            expect(&mut other, id, seq, 0, b"\x05heldx", &format!("before {what}"));
        }
    }
    // The SDK's AMOP interface passes on code and seq; the data of another code than 0 it drops, also that
    // of a subscriber.
    for (topic, before, code, data) in CODES {
        if matches!(before, Before::Nothing) && topic != "leaves" {
            let answer = publisher.unicast(topic, b"x");
            assert_eq!(answer["code"], code, "{topic}");
            assert!(answer["seq"].is_string(), "{answer}");
            assert_eq!(answer["payload"].is_null(), code != 0, "{topic}: {data:?}");
        }
    }
}

/// Low bounds; requests that nobody answers are over soon.
const LOW: &str = "[amop]\npush_timeout_ms=4000\nrequest_timeout_ms=12000\npending_requests_max=3\n\
    [engine]\nreactors=1\n";

#[test]
fn a_java_publisher_on_the_subscribers_node_gets_each_code() {
    if !have_java() {
        return;
    }
    let conf = host_dir(Profile::Rsa).join("node0/conf");
    let node = Process::start_with(&conf, true, &format!("{ADMIN}{LOW}"));
    provoke_each_code(&node, &node);
}

#[test]
fn a_java_publisher_on_another_node_gets_each_code() {
    if !have_java() {
        return;
    }
    let (first, second) = two_nodes(LOW);
    provoke_each_code(&first, &second);
}

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
