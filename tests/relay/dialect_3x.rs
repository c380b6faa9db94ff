//! Applications of FISCO BCOS 3.x beside those of 2.x (INTEROP §3): one network, whoever speaks what.

use std::time::Duration;

use amop::internal::{
    relay::{bandwidth::Limiter, settings::Settings},
    wire::{
        ResultCode,
        sdk::{self, FrameType, Seq},
        ws::MessageType,
    },
};
use serde_json::{Value, json};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex};

const SOON: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
/// The longest message that the SDK of 3.x takes.
const LONGEST_MESSAGE: usize = 32 << 20;
/// What goes before the data of a message with the topic `t`.
const HEAD_LEN: usize = 10 + 32 + 4 + 2 + 1;

fn app_of(net: &mut Network, node: NodeIndex, is_3x: bool) -> AppIndex {
    let behaviour = Behaviour::Echo(Duration::ZERO);
    if is_3x { net.app_3x(node, behaviour) } else { net.app(node, behaviour) }
}

/// The status of the one answer that an application of 3.x got for a seq, and its data.
fn status(net: &Network, app: AppIndex, seq: &Seq) -> (i16, Vec<u8>) {
    let is_answer = |(head, _): &&(amop::internal::wire::ws::MessageHead, Vec<u8>)| {
        head.message_type == MessageType::RESPONSE && head.seq == *seq
    };
    let answers: Vec<_> = net.apps[app].messages.iter().filter(is_answer).collect();
    match answers.as_slice() {
        [(head, data)] => (head.status, data.clone()),
        several => panic!("{} answers instead of one", several.len()),
    }
}

fn is_answered(net: &Network, app: AppIndex, seq: &Seq) -> bool {
    net.apps[app].messages.iter().any(|(head, _)| head.seq == *seq)
}

fn message(net: &mut Network, app: AppIndex, message_type: MessageType, body: &[u8]) -> Seq {
    net.frame(app, FrameType(message_type.0), body)
}

#[test]
fn an_answer_of_any_length_that_memory_has_no_room_for_is_told_as_1000() {
    // Of a length that goes before pushes, and longer.
    for (len, has_room_for) in [(20_000, 2), (90_000, 1)] {
        let mut net = Network::mesh(1, 1, 1);
        let publisher = net.app_3x(0, Behaviour::Silent);
        net.subscriber_3x(0, &["t"]);
        net.set_queues_bytes_max(0, 3 * len / 2);
        net.set_rate(publisher, 1_000);
        let seqs: Vec<_> = (0..3).map(|_| net.unicast(publisher, "t", &vec![7; len])).collect();
        net.run_for(400 * SECOND);
        let statuses: Vec<_> = seqs.iter().map(|seq| status(&net, publisher, seq).0).collect();
        let expected: Vec<_> = (0..3).map(|number| if number < has_room_for { 0 } else { 1_000 }).collect();
        assert_eq!(statuses, expected, "{len} bytes");
    }
}

#[test]
fn whoever_speaks_which_dialect_payloads_and_answers_arrive_unchanged() {
    let lens = [0, 1, 300, 16_300, 16_384, 70_000];
    for (from_3x, to_3x) in [(false, true), (true, false), (true, true), (false, false)] {
        // On one reactor, on two of a node, on two nodes.
        for (nodes, reactors) in [(1, 1), (1, 2), (2, 2)] {
            let mut net = Network::mesh(1, nodes, reactors);
            let publisher = app_of(&mut net, 0, from_3x);
            let subscriber = app_of(&mut net, nodes - 1, to_3x);
            net.subscribe(subscriber, &["topic"]);
            let told = format!("3.x to 3.x: {from_3x} to {to_3x}, {nodes} nodes");
            for (sent, len) in lens.into_iter().enumerate() {
                let payload: Vec<u8> = (0..len).map(|at| at as u8 ^ 0xa5).collect();
                let seq = net.unicast(publisher, "topic", &payload);
                let echo = [b"\x06topic", &payload[..]].concat();
                assert_eq!(net.answer(publisher, &seq, SECOND), (0, echo), "{told}, {len} bytes");
                net.multicast(publisher, "topic", &payload);
                net.run_for(SECOND);
                let expected = Some(&("topic".to_owned(), payload));
                let pushed = net.pushed(subscriber, FrameType::REQUEST);
                assert_eq!((pushed.len(), pushed.last()), (sent + 1, expected), "{told}, {len} bytes");
                let pushed = net.pushed(subscriber, FrameType::MULTICAST);
                assert_eq!((pushed.len(), pushed.last()), (sent + 1, expected), "{told}, {len} bytes");
            }
        }
    }
}

#[test]
fn a_subscribers_own_code_is_a_status_and_a_status_its_own_code() {
    for (code, expected) in [(-7, -7), (4_711, 4_711), (70_000, i16::MAX), (0, 0)] {
        let mut net = Network::mesh(2, 2, 1);
        let publisher = net.app_3x(0, Behaviour::Silent);
        let subscriber = net.app(1, Behaviour::Silent);
        net.subscribe(subscriber, &["t"]);
        let seq = net.unicast(publisher, "t", b"x");
        net.run_for(SOON);
        let answer = sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode(code), "t", b"why");
        net.bytes(subscriber, answer);
        net.run_for(SOON);
        assert_eq!(status(&net, publisher, &seq), (expected, b"why".to_vec()));
    }
    let mut net = Network::mesh(2, 2, 1);
    let publisher = net.app(0, Behaviour::Silent);
    let subscriber = net.app_3x(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.bytes(subscriber, sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode(-7), "t", b"why"));
    assert_eq!(net.answer(publisher, &seq, SOON), (-7, b"\x02twhy".to_vec()));
}

#[test]
fn an_answer_of_2x_that_names_no_topic_goes_to_3x_as_it_is() {
    let mut net = Network::mesh(3, 1, 1);
    let publisher = net.app_3x(0, Behaviour::Silent);
    let subscriber = net.app(0, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    for data in [&b""[..], b"\0raw", b"\xff"] {
        let seq = net.unicast(publisher, "t", b"x");
        net.run_for(SOON);
        net.bytes(subscriber, sdk::encode(FrameType::RESPONSE, &seq, ResultCode::OK, data));
        net.run_for(SOON);
        assert_eq!(status(&net, publisher, &seq), (0, data.to_vec()));
    }
}

#[test]
fn each_code_of_a_node_is_the_status_of_3x_with_a_text() {
    let describe = |code: i32| ResultCode(code).describe().as_bytes().to_vec();
    // 100: nobody subscribes.
    let mut net = Network::mesh(4, 2, 1);
    let publisher = net.app_3x(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    assert_eq!(status(&net, publisher, &seq), (3001, describe(100)));
    // 102: it is pushed, and never answered.
    let silent = net.app_3x(1, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(40 * SECOND);
    assert_eq!(status(&net, publisher, &seq), (1000, describe(102)));
    // 99: the link to the only node fails.
    let settled = net.now;
    net.break_links(0, 1);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(settled + 6 * SECOND - net.now);
    assert_eq!(status(&net, publisher, &seq), (3003, describe(99)));
    // 101: a second request with a seq that is open.
    let mut net = Network::mesh(4, 1, 1);
    let silent = net.app(0, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let publisher = net.app_3x(0, Behaviour::Silent);
    let seq = net.seq();
    for _ in 0..2 {
        net.bytes(publisher, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "t", b"x"));
    }
    net.run_for(SOON);
    assert_eq!(status(&net, publisher, &seq), (3002, describe(101)));
    // 103: over the bandwidth.
    let mut net = Network::new(4);
    net.add_limited_node(1, Settings::default(), Limiter::new(1_000.0, SOON));
    net.add_node(1, Settings::default());
    net.connect(0, 1);
    net.run_for(SECOND);
    net.subscriber(1, &["t"]);
    let publisher = net.app_3x(0, Behaviour::Silent);
    let first = net.unicast(publisher, "t", &[0; 5_000]);
    let second = net.unicast(publisher, "t", b"x");
    net.run_for(SECOND);
    assert_eq!(status(&net, publisher, &first).0, 0);
    assert_eq!(status(&net, publisher, &second), (1004, describe(103)));
}

#[test]
fn a_malformed_request_is_answered_and_the_session_stays() {
    let mut net = Network::mesh(5, 1, 1);
    let app = net.app_3x(0, Behaviour::Silent);
    let long = [&[0, 0, 0, 0, 0, 255][..], &[b't'; 255]].concat();
    for body in [&b""[..], b"\0\0\0", b"\0\0\0\0\0\x09short", b"\0\0\0\0\0\0data", &long] {
        let seq = message(&mut net, app, MessageType::REQUEST, body);
        net.run_for(SOON);
        assert_eq!(status(&net, app, &seq).0, 3001, "{body:?}");
        let seq = message(&mut net, app, MessageType::BROADCAST, body);
        net.run_for(SOON);
        assert!(!is_answered(&net, app, &seq), "{body:?}");
    }
    assert_eq!(net.nodes[0].total(|counters| counters.bad_bodies.get()), 10);
    assert!(!net.apps[app].closed);
}

#[test]
fn a_list_of_topics_replaces_the_one_before() {
    let mut net = Network::mesh(6, 2, 2);
    let subscriber = net.subscriber_3x(1, &["a", "b"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND);
    net.subscribe(subscriber, &["b", "c"]);
    for (topic, code) in [("a", 100), ("b", 0), ("c", 0)] {
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{topic}");
    }
    for malformed in [&b"[\"b\"]"[..], b"{}", b"{\"topics\":[1]}", b"{\"topics\":[\"z\"", b"\xff"] {
        message(&mut net, subscriber, MessageType::TOPICS, malformed);
    }
    net.run_for(SOON);
    assert_eq!(net.nodes[1].total(|counters| counters.subscriptions_refused.get()), 5);
    let seq = net.unicast(publisher, "b", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0, "a bad list leaves the old one");
    net.run_for(SECOND);
    net.subscribe(subscriber, &[]);
    let seq = net.unicast(publisher, "b", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 100);
}

#[test]
fn lists_that_come_together_lose_no_topic_whichever_is_the_newer_one() {
    let mut net = Network::mesh(6, 2, 2);
    let subscriber = net.subscriber_3x(1, &[]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND);
    let reached = |net: &mut Network| -> String {
        let is_reached = |topic: &&str| {
            let seq = net.unicast(publisher, topic, b"x");
            net.answer(publisher, &seq, SOON).0 == 0
        };
        ["a", "b", "c", "d"].into_iter().filter(is_reached).collect()
    };
    // As the SDK 3.6.0 sends those of four calls in a row, some of them put off.
    for list in [&["a"][..], &["a", "b", "c", "d"], &["a", "b", "c"], &["a", "b"]] {
        net.subscribe(subscriber, list);
    }
    net.run_for(SECOND);
    assert_eq!(reached(&mut net), "abcd");
    // Each begins the second anew.
    for list in [&["a", "b", "c"][..], &["a"], &["b"]] {
        net.subscribe(subscriber, list);
        net.run_for(9 * SOON);
    }
    assert_eq!(reached(&mut net), "abc");
    net.run_for(SECOND);
    net.subscribe(subscriber, &["b"]);
    assert_eq!(reached(&mut net), "b");
}

#[test]
fn lists_that_come_together_lose_no_topic_either_where_they_are_put_off() {
    let mut net = Network::new(6);
    net.add_node(1, Settings { session_changes_per_second_max: 1, ..Settings::default() });
    let subscriber = net.subscriber_3x(0, &["a"]);
    net.subscribe(subscriber, &["a", "b", "c", "d"]);
    net.subscribe(subscriber, &["a", "b"]);
    assert_eq!(net.nodes[0].total(|counters| counters.subscriptions_deferred.get()), 2);
    net.run_for(3 * SECOND);
    assert_eq!(net.nodes[0].total(|counters| counters.subscriptions.get()), 4);
}

#[test]
fn lists_that_come_together_stay_below_the_bound() {
    let mut net = Network::new(7);
    net.add_node(1, Settings { session_topics_max: 3, ..Settings::default() });
    let subscriber = net.subscriber_3x(0, &["a", "b"]);
    net.subscribe(subscriber, &["c", "d"]);
    assert_eq!(net.nodes[0].total(|counters| counters.subscriptions_refused.get()), 1);
    assert_eq!(net.nodes[0].total(|counters| counters.subscriptions.get()), 2, "the old ones stay");
    net.subscribe(subscriber, &["c"]);
    assert_eq!(net.nodes[0].total(|counters| counters.subscriptions.get()), 3);
}

#[test]
fn a_list_beyond_the_bound_leaves_the_old_one() {
    let mut net = Network::new(7);
    net.add_node(1, Settings { session_topics_max: 2, ..Settings::default() });
    let subscriber = net.subscriber_3x(0, &["a", "b"]);
    net.subscribe(subscriber, &["c", "d", "e"]);
    let publisher = net.app_3x(0, Behaviour::Silent);
    for (topic, code) in [("a", 0), ("c", 100)] {
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{topic}");
    }
}

#[test]
fn topics_with_a_prefix_of_2x_mean_nothing_to_an_application_of_3x() {
    let prefixed = [
        "#!$TopicNeedVerify_t",
        "#!$VerifyChannel_#!$TopicNeedVerify_t_1",
        "#!$PushChannel_#!$TopicNeedVerify_t",
        "_block_notify_1",
    ];
    let mut net = Network::mesh(8, 1, 1);
    let app = net.app_3x(0, Behaviour::Silent);
    net.subscribe(app, &[&prefixed[..], &["t"]].concat());
    let counters = |net: &Network| net.nodes[0].total(|counters| counters.subscriptions.get());
    assert_eq!(counters(&net), 1, "t alone");
    assert_eq!(net.nodes[0].total(|counters| counters.topics_skipped.get()), prefixed.len() as u64);
    let subscriber = net.subscriber(0, &prefixed);
    for topic in prefixed {
        let seq = net.unicast(app, topic, b"x");
        net.multicast(app, topic, b"x");
        assert_eq!(net.answer(app, &seq, SOON), (100, vec![]), "{topic}");
    }
    net.run_for(SOON);
    assert_eq!(net.pushed(subscriber, FrameType::REQUEST), []);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST), []);
}

#[test]
fn a_multicast_of_3x_reaches_all_the_sender_too_and_is_not_answered() {
    let mut net = Network::mesh(9, 2, 2);
    let publisher = net.app_3x(0, Behaviour::Silent);
    net.subscribe(publisher, &["t"]);
    let others = [net.subscriber(0, &["t"]), net.subscriber_3x(0, &["t"]), net.subscriber_3x(1, &["t"])];
    let seq = net.multicast(publisher, "t", b"to all");
    net.run_for(SOON);
    for app in others.into_iter().chain([publisher]) {
        let expected = [("t".to_owned(), b"to all".to_vec())];
        assert_eq!(net.pushed(app, FrameType::MULTICAST), expected, "app{app}");
    }
    assert_eq!(net.answers(publisher, &seq).len(), 0);
    let seq = net.multicast(publisher, "nobody", b"x");
    net.run_for(SOON);
    assert_eq!(net.answers(publisher, &seq).len(), 0);
    // One of 2.x is told as ever.
    let seq = net.multicast(others[0], "t", b"x");
    assert_eq!(net.answer(others[0], &seq, SOON), (0, b"\x02t".to_vec()));
}

#[test]
fn what_an_application_of_3x_answers_to_a_multicast_goes_nowhere() {
    let mut net = Network::mesh(10, 2, 1);
    let subscriber = net.app_3x(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    for is_3x in [false, true] {
        let publisher = app_of(&mut net, 0, is_3x);
        let seq = net.multicast(publisher, "t", b"x");
        net.run_for(SOON);
        let had = net.apps[publisher].received.len();
        net.bytes(subscriber, sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, "t", b"thanks"));
        net.run_for(SOON);
        assert_eq!(net.apps[publisher].received.len(), had);
    }
    assert_eq!(net.nodes[1].total(|counters| counters.unsolicited_answers.get()), 2);
}

#[test]
fn a_handshake_is_answered_with_the_protocol_that_both_speak_or_refused() {
    let mut net = Network::mesh(11, 1, 1);
    let mut shake = |body: &[u8]| {
        let app = net.app_3x(0, Behaviour::Silent);
        let seq = message(&mut net, app, MessageType::HANDSHAKE, body);
        net.run_for(SOON);
        let answers = net.apps[app].messages.iter().filter(|(head, _)| head.seq == seq);
        let answers: Vec<_> = answers.cloned().collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (head, data) = answers[0].clone();
        assert_eq!(head.message_type, MessageType::HANDSHAKE);
        (head.status, data, net.apps[app].closed)
    };
    let (status, answer, closed) = shake(b"{\"maxVersion\":2,\"minVersion\":0,\"moduleID\":2}\n");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!((status, closed), (0, false));
    assert_eq!(answer, json!({ "protocolVersion": 1, "groupInfoList": [] }));
    for refused in
        [&br#"{"maxVersion":9,"minVersion":2}"#[..], br#"{"maxVersion":0,"minVersion":0}"#, b"nope"]
    {
        let (status, answer, closed) = shake(refused);
        assert!(status != 0 && serde_json::from_slice::<Value>(&answer).is_err() && closed);
    }
}

#[test]
fn json_rpc_is_answered_by_an_error_that_says_that_there_is_no_ledger() {
    let mut net = Network::mesh(12, 1, 1);
    let app = net.app_3x(0, Behaviour::Silent);
    let mut ask = |body: &[u8]| {
        let seq = message(&mut net, app, MessageType::RPC, body);
        net.run_for(SOON);
        let of_seq = net.apps[app].messages.iter().filter(|(head, _)| head.seq == seq);
        let answers: Vec<Vec<u8>> = of_seq
            .map(|(head, data)| {
                assert_eq!((head.message_type, head.status), (MessageType::RPC, 0));
                data.clone()
            })
            .collect();
        answers
    };
    let answers = ask(br#"{"jsonrpc":"2.0","id":7,"method":"getBlockNumber","params":["group0",""]}"#);
    let answer: Value = serde_json::from_slice(&answers[0]).expect("JSON");
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32601)));
    assert!(answer["error"]["message"].as_str().expect("a text").contains("no ledger"));
    let answer: Value = serde_json::from_slice(&ask(b"{")[0]).expect("JSON");
    assert_eq!(answer["error"]["code"], json!(-32700));
    assert_eq!(ask(br#"{"jsonrpc":"2.0","method":"notified"}"#), Vec::<Vec<u8>>::new());
    assert!(!net.apps[app].closed);
}

#[test]
fn what_has_no_meaning_is_counted_and_the_session_stays() {
    let mut net = Network::mesh(13, 1, 1);
    let app = net.app_3x(0, Behaviour::Silent);
    for number in [0x101, 0x103, 0x120, 0x121, 0x122, 0x999] {
        message(&mut net, app, MessageType(number), b"{}");
    }
    net.run_for(SOON);
    assert_eq!(net.nodes[0].total(|counters| counters.unknown_types.get()), 6);
    assert!(!net.apps[app].closed);
}

#[test]
fn a_request_that_asks_for_no_upgrade_is_refused_and_the_session_closed() {
    let mut net = Network::mesh(14, 1, 1);
    let app = net.app(0, Behaviour::Deaf);
    net.upgrade(app, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    net.run_for(SOON);
    assert!(net.apps[app].closed);
    assert_eq!(net.nodes[0].total(|counters| counters.sessions_3x.get()), 0);
}

#[test]
fn sessions_of_3x_are_counted_while_they_are_there() {
    let mut net = Network::mesh(15, 1, 2);
    let count = |net: &Network| {
        let total = |of: fn(&amop::internal::relay::counters::Counters) -> u64| net.nodes[0].total(of);
        (total(|counters| counters.sessions.get()), total(|counters| counters.sessions_3x.get()))
    };
    let (_, app) = (net.app(0, Behaviour::Silent), net.app_3x(0, Behaviour::Silent));
    net.run_for(SOON);
    assert_eq!(count(&net), (2, 1));
    net.disconnect(app);
    net.run_for(SOON);
    assert_eq!(count(&net), (1, 0));
}

#[test]
fn a_message_longer_than_an_sdk_of_3x_takes_goes_to_others_or_is_answered() {
    let mut net = Network::mesh(16, 1, 1);
    let subscriber = net.subscriber_3x(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let fits = vec![7; LONGEST_MESSAGE - HEAD_LEN];
    let seq = net.unicast(publisher, "t", &fits);
    net.run_for(SOON);
    assert_eq!(net.answers(publisher, &seq)[0].code(), ResultCode::OK);
    let too_long = vec![7; LONGEST_MESSAGE - HEAD_LEN + 1];
    let seq = net.unicast(publisher, "t", &too_long);
    assert_eq!(net.answer(publisher, &seq, SOON), (101, vec![]));
    let other = net.subscriber(0, &["t"]);
    let seq = net.unicast(publisher, "t", &too_long);
    net.multicast(publisher, "t", &too_long);
    net.run_for(SOON);
    assert_eq!(net.answers(publisher, &seq)[0].code(), ResultCode::OK);
    assert_eq!(net.pushed(other, FrameType::MULTICAST).len(), 1);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 0);
    assert!(!net.apps[subscriber].closed);
}

#[test]
fn an_answer_longer_than_an_sdk_of_3x_takes_is_told_as_a_timeout() {
    let mut net = Network::mesh(17, 1, 1);
    let subscriber = net.app(0, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app_3x(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    let answer = vec![7; LONGEST_MESSAGE];
    net.bytes(subscriber, sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, "t", &answer));
    net.run_for(SOON);
    assert_eq!(status(&net, publisher, &seq).0, 1000);
    assert!(!net.apps[publisher].closed);
}

#[test]
fn an_answer_that_its_topic_makes_too_long_is_told_as_a_timeout() {
    let mut net = Network::new(18);
    net.add_node(1, Settings { frame_len_max: 1_000, ..Settings::default() });
    let subscriber = net.app_3x(0, Behaviour::Silent);
    net.subscribe(subscriber, &["topic"]);
    let publisher = net.app(0, Behaviour::Silent);
    for (len, code) in [(1_000 - 42 - 6, 0), (1_000 - 42 - 5, 102)] {
        let seq = net.unicast(publisher, "topic", b"x");
        net.run_for(SOON);
        let answer = vec![7; len];
        net.bytes(subscriber, sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, "topic", &answer));
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{len} bytes");
    }
}

#[test]
fn a_request_waits_for_room_in_the_queue_of_a_session_of_3x() {
    let mut net = Network::new(19);
    net.add_node(1, Settings { session_queue_bytes_max: 200_000, ..Settings::default() });
    let subscriber = net.subscriber_3x(0, &["t"]);
    net.set_rate(subscriber, 50_000);
    let publisher = net.app(0, Behaviour::Silent);
    let seqs: Vec<_> = (0..4).map(|_| net.unicast(publisher, "t", &[7; 100_000])).collect();
    net.run_for(30 * SECOND);
    for seq in seqs {
        assert_eq!(net.answers(publisher, &seq)[0].code(), ResultCode::OK);
    }
    assert!(net.nodes[0].total(|counters| counters.room_waits.get()) > 0);
    let pushed = net.pushed(subscriber, FrameType::REQUEST);
    assert_eq!(pushed, vec![("t".to_owned(), vec![7; 100_000]); 4]);
}

#[test]
fn a_session_that_pings_is_not_idle_and_one_that_is_silent_is_closed() {
    let mut net = Network::mesh(20, 1, 1);
    let (pings, silent) = (net.app_3x(0, Behaviour::Silent), net.app_3x(0, Behaviour::Silent));
    for _ in 0..20 {
        // What the kit says for a heartbeat: bytes, and no message.
        net.frame(pings, FrameType::HEARTBEAT, b"");
        net.run_for(5 * SECOND);
    }
    assert!(!net.apps[pings].closed);
    assert!(net.apps[silent].closed);
}

#[test]
fn applications_of_3x_and_of_nodes_of_2x_reach_each_other() {
    let mut net = Network::mesh(21, 2, 2);
    let peer = net.add_peer_2x(&["theirs"]);
    net.keep_peer_2x_linked(peer, 0);
    net.run_for(SECOND);
    let app = net.subscriber_3x(1, &["ours"]);
    net.run_for(6 * SECOND);
    let seq = net.unicast(app, "theirs", b"to them");
    assert_eq!(net.answer(app, &seq, 2 * SECOND).0, 0);
    net.multicast(app, "theirs", b"to all of them");
    let seq = net.peer_unicast(peer, "ours", b"to us");
    net.peer_multicast(peer, "ours", b"to all of us");
    net.run_for(2 * SECOND);
    let received: Vec<&[u8]> = net.peers_2x[peer].received.iter().map(|one| &one.payload[..]).collect();
    assert_eq!(received, [&b"to them"[..], b"to all of them"]);
    assert_eq!(net.pushed(app, FrameType::REQUEST), [("ours".to_owned(), b"to us".to_vec())]);
    assert_eq!(net.pushed(app, FrameType::MULTICAST), [("ours".to_owned(), b"to all of us".to_vec())]);
    assert_eq!(net.peers_2x[peer].answers[&seq].len(), 1);
}

#[test]
fn a_session_that_leaves_lets_go_of_what_it_was_asked_and_others_are_tried() {
    let mut net = Network::mesh(22, 2, 1);
    let leaves = net.app_3x(1, Behaviour::Silent);
    net.subscribe(leaves, &["t"]);
    let stays = net.subscriber_3x(1, &["t"]);
    let publisher = net.app_3x(0, Behaviour::Silent);
    let seqs: Vec<_> = (0..8).map(|_| net.unicast(publisher, "t", b"x")).collect();
    net.run_for(SOON);
    assert!(!net.pushed(leaves, FrameType::REQUEST).is_empty(), "one of eight");
    net.disconnect(leaves);
    for seq in seqs {
        assert_eq!(net.answer(publisher, &seq, SECOND), (0, b"\x02tx".to_vec()));
    }
    assert_eq!(net.pushed(stays, FrameType::REQUEST).len(), 8);
}
