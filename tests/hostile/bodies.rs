//! Frames whose bodies are bad: topics and JSON.

use std::collections::HashSet;

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN},
    },
};

use crate::{
    healthy::{HealthyPair, answer_of, answers, connect, frame_type},
    support::{RawSdk, TestNode, seq},
};

fn frame(frame_type: FrameType, body: &[u8]) -> Vec<u8> {
    sdk::encode(frame_type, &seq(7), ResultCode::OK, body)
}

/// The code of the 0x31 that a frame is answered with.
fn code_for(app: &mut RawSdk, frame: &[u8]) -> ResultCode {
    app.send(frame);
    let (answered, code, payload) = answer_of(&app.frame().expect("every request is answered"));
    assert_eq!((answered, payload), (seq(7), vec![]));
    code
}

#[test]
fn topics_that_are_none_are_answered_100_and_their_session_stays() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let long = [&[255][..], &[b'x'; 253]].concat();
    let bad: [&[u8]; 12] = [
        b"",
        b"\0",
        b"\0payload",
        b"\x01",
        b"\x01payload",
        b"\xff",
        b"\xffshort",
        &long,
        b"\x03\xc3\x28payload",
        b"\x02\xffpayload",
        b"\x04a\0bpayload",
        b"\x04a\tbpayload",
    ];
    for body in bad {
        for frame_type in [FrameType::REQUEST, FrameType::MULTICAST] {
            let code = code_for(&mut app, &frame(frame_type, body));
            assert_eq!(code, ResultCode::NO_RECEIVER, "{frame_type:?} {body:?}");
        }
        // To nobody's question; dropped.
        app.send(&frame(FrameType::RESPONSE, body));
        assert!(answers(&mut app));
    }
    // The longest name there is, and one of a single byte, are good.
    for name in ["x".repeat(254), "y".to_owned()] {
        app.send(&frame(FrameType::SUBSCRIBE, format!("[{name:?}]").as_bytes()));
        node.wait_for_subscribers(&name, 1);
        let multicast = sdk::encode_amop(FrameType::MULTICAST, &seq(7), ResultCode::OK, &name, b"p");
        assert_eq!(code_for(&mut app, &multicast), ResultCode::OK);
        assert_eq!(app.frame().unwrap(), multicast);
    }
    assert_eq!(node.total(|counters| counters.bad_bodies.get()), 2 * bad.len() as u64);
    healthy.finish();
}

#[test]
fn names_that_are_none_are_skipped_and_malformed_lists_change_nothing() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let names = serde_json::json!(["good", "", "a\tb", "a\u{0}b", "x".repeat(255), "y".repeat(254)]);
    app.send(&frame(FrameType::SUBSCRIBE, names.to_string().as_bytes()));
    node.wait_for_subscribers("good", 1);
    node.wait_for_subscribers(&"y".repeat(254), 1);
    assert_eq!(node.total(|counters| counters.topics_skipped.get()), 4);
    let malformed: [&[u8]; 12] = [
        b"",
        b"[",
        b"null",
        b"{}",
        b"\"good\"",
        b"[1]",
        b"[\"a\",null]",
        b"[\"\xff\xfe\"]",
        b"[\"a\\ud800\"]",
        b"[\"a\"",
        b"[\"a\"] and more",
        b"[[\"a\"]]",
    ];
    for body in malformed {
        app.send(&frame(FrameType::SUBSCRIBE, body));
    }
    assert!(answers(&mut app));
    assert_eq!(node.total(|counters| counters.subscriptions_refused.get()), malformed.len() as u64);
    node.wait_for_subscribers("good", 1);
    healthy.finish();
}

/// Texts that cost more to read than to write.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let keys: String = (0..50_000).map(|number| format!("\"{number}\":0,")).collect();
    vec![
        ("nested arrays", vec![b'['; 500_000]),
        ("nested objects", b"{\"a\":".repeat(150_000)),
        ("nested and closed", [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
        ("nested in a string's place", [&b"{\"method\":"[..], &vec![b'['; 500_000]].concat()),
        ("a huge array", [&b"["[..], &b"1,".repeat(400_000), b"1]"].concat()),
        ("a huge object", format!("{{{keys}\"x\":0}}").into_bytes()),
        ("duplicate keys", [&b"{"[..], &b"\"id\":1,".repeat(100_000), b"\"id\":2}"].concat()),
        ("a number of a million digits", vec![b'9'; 1_000_000]),
        ("a number beyond all floats", b"{\"id\":1e999999999,\"method\":\"getBlockNumber\"}".to_vec()),
        ("a number with a long exponent", [&b"1e"[..], &vec![b'9'; 500_000]].concat()),
        ("a string of a million escapes", [&b"\""[..], &b"\\u0041".repeat(150_000), b"\""].concat()),
        ("spaces", vec![b' '; 1_000_000]),
    ]
}

#[test]
fn json_bombs_in_rpc_are_answered_with_an_error() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let mut sent = 0;
    let mut error_for = |app: &mut RawSdk, what: &str, body: &[u8]| {
        sent += 1;
        app.send(&frame(FrameType::RPC, body));
        let answer = app.frame().expect("every request is answered");
        assert_eq!(frame_type(&answer), FrameType::RPC, "{what}");
        let header = sdk::Header::decode(&answer).unwrap();
        assert_eq!((header.seq, header.result), (seq(7), ResultCode::OK), "{what}");
        let value: serde_json::Value = serde_json::from_slice(&answer[HEADER_LEN..]).expect(what);
        // An answer costs no more than its question.
        assert!(answer.len() <= body.len() + 1000, "{what}: {} bytes", answer.len());
        match value {
            serde_json::Value::Array(answers) => answers[0]["error"]["code"].as_i64(),
            value => value["error"]["code"].as_i64(),
        }
    };
    for (what, body) in bombs() {
        let code = error_for(&mut app, what, &body);
        assert!(matches!(code, Some(-32700 | -32600 | -32601)), "{what}: {code:?}");
    }
    let depth = |depth: usize| {
        format!(r#"{{"id":1,"method":"getPeers","params":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    assert_eq!(error_for(&mut app, "depth 40", depth(40).as_bytes()), Some(-32600));
    let batch = [&b"["[..], &br#"{"id":1,"method":"x"},"#.repeat(40_000), b"1]"].concat();
    assert_eq!(error_for(&mut app, "a batch of 40,000", &batch), Some(-32600));
    let large = [br#"{"id":1,"method":""#, &vec![b'x'; 2 << 20][..], b"\"}"].concat();
    assert_eq!(error_for(&mut app, "2 MiB", &large), Some(-32600));
    let id = [br#"{"method":"x","id":""#, &vec![b'x'; 500_000][..], b"\"}"].concat();
    assert_eq!(error_for(&mut app, "a huge id", &id), Some(-32601));
    assert!(answers(&mut app));
    assert_eq!(node.total(|counters| counters.rpc_requests.get()), sent);
    healthy.finish();
}

#[test]
fn json_bombs_in_handshakes_are_answered_as_if_empty() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let more: [(&str, &[u8]); 5] = [
        ("invalid UTF-8", b"{\"clientType\":\"\xff\"}"),
        ("a float for a version", b"{\"maximumSupport\":1e400}"),
        ("a negative version", b"{\"maximumSupport\":-3}"),
        ("a text for a version", b"{\"maximumSupport\":\"3\"}"),
        ("an empty body", b""),
    ];
    let more = more.map(|(what, body)| (what, body.to_vec()));
    for (what, body) in bombs().into_iter().chain(more) {
        app.send(&frame(FrameType::HANDSHAKE, &body));
        let answer = app.frame().expect("every handshake is answered");
        assert_eq!(frame_type(&answer), FrameType::HANDSHAKE, "{what}");
        let value: serde_json::Value = serde_json::from_slice(&answer[HEADER_LEN..]).unwrap();
        assert_eq!(value["protocol"], 1, "{what}");
    }
    // A repeated key: the last counts, and nothing breaks.
    let twice = br#"{"maximumSupport":1,"maximumSupport":18446744073709551615}"#;
    app.send(&frame(FrameType::HANDSHAKE, twice));
    let answer = app.frame().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&answer[HEADER_LEN..]).unwrap();
    assert_eq!(value["protocol"], 3);
    healthy.finish();
}

#[test]
fn json_bombs_and_100_000_topics_in_one_subscription_leave_the_old_topics() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    app.send(&frame(FrameType::SUBSCRIBE, br#"["kept"]"#));
    node.wait_for_subscribers("kept", 1);
    let many: Vec<String> = (0..100_000).map(|number| format!("topic/{number}")).collect();
    let many = ("100,000 topics", serde_json::to_vec(&many).unwrap());
    let mut sent = 0;
    for (_, body) in bombs().into_iter().chain([many]) {
        app.send(&frame(FrameType::SUBSCRIBE, &body));
        sent += 1;
    }
    assert!(answers(&mut app));
    assert_eq!(node.total(|counters| counters.subscriptions_refused.get()), sent);
    node.wait_for_subscribers("kept", 1);
    healthy.finish();
}

#[test]
fn a_flood_of_dear_rpc_is_answered_one_by_one_and_holds_up_no_subscription() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let mut honest = connect(&node);
    // Small to send and dear to answer.
    let batch = [&b"["[..], &br#"{"id":1,"method":"getPeers"},"#.repeat(990), b"{}]"].concat();
    let mut waiting = HashSet::new();
    for number in 0..300 {
        app.send(&sdk::encode(FrameType::RPC, &seq(number), ResultCode::OK, &batch));
        waiting.insert(seq(number));
    }
    for number in 0..10 {
        honest.send(&frame(FrameType::SUBSCRIBE, format!("[\"honest/{number}\"]").as_bytes()));
        node.wait_for_subscribers(&format!("honest/{number}"), 1);
    }
    while !waiting.is_empty() {
        let answer = app.frame().unwrap();
        assert!(waiting.remove(&sdk::Header::decode(&answer).unwrap().seq), "answered twice");
        let value: serde_json::Value = serde_json::from_slice(&answer[HEADER_LEN..]).unwrap();
        let answered = value.as_array().is_some_and(|answers| answers.len() == 991);
        assert!(answered || value["error"]["code"] == -40011);
    }
    healthy.finish();
}
