//! What an application may say to its node (WIRE §1).

use std::time::Duration;

use amop::internal::{relay::settings::Settings, wire::sdk::FrameType};
use serde_json::Value;

use crate::kit::{AppIndex, Behaviour, Network, Received};

const SOON: Duration = Duration::from_millis(100);

fn replies(net: &Network, app: AppIndex, frame_type: FrameType) -> Vec<Vec<u8>> {
    let of_type = |received: &&Received| received.header.frame_type == frame_type;
    net.apps[app].received.iter().filter(of_type).map(|received| received.data.clone()).collect()
}

fn ask(net: &mut Network, app: AppIndex, frame_type: FrameType, data: &[u8]) -> Option<Vec<u8>> {
    let seq = net.frame(app, frame_type, data);
    net.run_for(SOON);
    let of_seq =
        |received: &&Received| received.header.seq == seq && received.header.frame_type == frame_type;
    net.apps[app].received.iter().find(of_seq).map(|received| received.data.clone())
}

#[test]
fn heartbeats_are_answered_as_the_protocol_version_says() {
    let mut net = Network::mesh(1, 1, 1);
    let app = net.app(0, Behaviour::Silent);
    let beat = FrameType::HEARTBEAT;
    assert_eq!(ask(&mut net, app, beat, b"0"), Some(b"1".to_vec()));
    assert_eq!(ask(&mut net, app, beat, b"{}"), None);
    assert_eq!(ask(&mut net, app, beat, b""), None);
    for maximum in [2, 3] {
        ask(&mut net, app, FrameType::HANDSHAKE, format!("{{\"maximumSupport\":{maximum}}}").as_bytes());
        for body in [&b"0"[..], b"", b"{}"] {
            assert_eq!(ask(&mut net, app, beat, body), Some(b"{\"heartBeat\":1}\n".to_vec()));
        }
    }
}

#[test]
fn handshakes_are_answered_to_the_byte() {
    let mut net = Network::mesh(2, 1, 1);
    let app = net.app(0, Behaviour::Silent);
    let mut shake = |body: &[u8]| ask(&mut net, app, FrameType::HANDSHAKE, body);
    let answer =
        |protocol| Some(format!("{{\"nodeVersion\":\"2.10.2\",\"protocol\":{protocol}}}\n").into_bytes());
    assert_eq!(shake(br#"{"minimumSupport":1,"maximumSupport":9,"clientType":"x"}"#), answer(3));
    assert_eq!(shake(br#"{"minimumSupport":1,"maximumSupport":2}"#), answer(2));
    assert_eq!(shake(b"{}"), answer(1));
    assert_eq!(shake(b"nope"), answer(1));
    assert_eq!(shake(br#"{"minimumSupport":4,"maximumSupport":5}"#), None);
    assert!(net.apps[app].closed, "disjoint ranges close the session");
}

#[test]
fn a_subscription_replaces_the_whole_set() {
    let mut net = Network::mesh(3, 2, 2);
    let subscriber = net.subscriber(1, &["a", "b"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.subscribe(subscriber, &["b", "c"]);
    for (topic, code) in [("a", 100), ("b", 0), ("c", 0)] {
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{topic}");
    }
    net.subscribe(subscriber, &[]);
    let seq = net.unicast(publisher, "b", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 100);
}

#[test]
fn a_subscription_holds_for_the_next_frame_of_the_same_session() {
    let mut net = Network::mesh(4, 1, 1);
    let app = net.app(0, Behaviour::Silent);
    net.frame(app, FrameType::SUBSCRIBE, br#"["t"]"#);
    net.multicast(app, "t", b"mine");
    net.run_for(SOON);
    assert_eq!(net.pushed(app, FrameType::MULTICAST).len(), 1);
}

#[test]
fn a_malformed_subscription_leaves_the_old_set() {
    let mut net = Network::new(5);
    net.add_node(1, Settings { session_topics_max: 3, ..Settings::default() });
    let subscriber = net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for body in [&b"{}"[..], b"[", b"[1]", br#"["a","b","c","d"]"#, b"\xff"] {
        net.frame(subscriber, FrameType::SUBSCRIBE, body);
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
    assert_eq!(net.nodes[0].total(|counters| counters.subscriptions_refused.get()), 5);
}

#[test]
fn topic_changes_beyond_twenty_a_second_are_merged_and_the_last_one_wins() {
    let mut net = Network::mesh(6, 1, 1);
    let app = net.app(0, Behaviour::Echo(Duration::ZERO));
    for number in 0..100 {
        net.frame(app, FrameType::SUBSCRIBE, format!("[\"t{number}\"]").as_bytes());
    }
    net.run_for(Duration::from_secs(1));
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t99", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    let seq = net.unicast(publisher, "t98", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 100);
    assert!(net.nodes[0].total(|counters| counters.subscriptions_deferred.get()) >= 79);
}

#[test]
fn a_subscription_to_what_holds_already_undoes_the_one_that_was_put_off() {
    let mut net = Network::mesh(6, 1, 1);
    let app = net.app(0, Behaviour::Echo(Duration::ZERO));
    let deferred = |net: &Network| net.nodes[0].total(|counters| counters.subscriptions_deferred.get());
    let mut put_off = 0;
    while deferred(&net) == 0 {
        put_off += 1;
        net.subscribe(app, &[&format!("t{put_off}")]);
    }
    let holds = format!("t{}", put_off - 1);
    net.subscribe(app, &[&holds]);
    net.run_for(Duration::from_secs(2));
    let publisher = net.app(0, Behaviour::Silent);
    for (topic, code) in [(holds, 0), (format!("t{put_off}"), 100)] {
        let seq = net.unicast(publisher, &topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, code, "{topic}");
    }
}

#[test]
fn a_session_silent_in_both_directions_is_closed_and_a_busy_one_is_not() {
    let mut net = Network::mesh(7, 1, 1);
    let silent = net.app(0, Behaviour::Silent);
    let busy = net.app(0, Behaviour::Silent);
    let receiver = net.subscriber(0, &["t"]);
    for _ in 0..20 {
        net.frame(busy, FrameType::HEARTBEAT, b"0");
        net.multicast(busy, "t", b"x");
        net.run_for(Duration::from_secs(4));
    }
    assert!(net.apps[silent].closed);
    assert!(!net.apps[busy].closed && !net.apps[receiver].closed);
}

#[test]
fn event_registrations_are_refused_in_their_own_form() {
    let mut net = Network::mesh(8, 1, 1);
    let app = net.app(0, Behaviour::Silent);
    for frame_type in [FrameType::EVENT_REGISTER, FrameType::EVENT_UNREGISTER] {
        let body = ask(&mut net, app, frame_type, b"\x01{}").expect("always answered");
        assert_eq!(body[0], 1, "an empty topic");
        let value: Value = serde_json::from_slice(&body[1..]).unwrap();
        assert_ne!(value["result"], 0);
    }
}

#[test]
fn unknown_types_are_counted_and_ignored() {
    let mut net = Network::mesh(9, 1, 1);
    let app = net.app(0, Behaviour::Silent);
    assert_eq!(ask(&mut net, app, FrameType(0x77), b"zz"), None);
    assert!(!net.apps[app].closed);
    assert_eq!(net.nodes[0].total(|counters| counters.unknown_types.get()), 1);
}

#[test]
fn json_rpc_is_answered_with_result_0_and_lists_the_peers_topics() {
    let mut net = Network::mesh(10, 3, 2);
    net.subscriber(
        1,
        &["t", "#!$TopicNeedVerify_p", "#!$PushChannel_#!$TopicNeedVerify_p", "_block_notify_1"],
    );
    let app = net.app(0, Behaviour::Silent);
    let mut rpc = |method: &str| -> Value {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":[1],"id":5}}"#);
        let answer = ask(&mut net, app, FrameType::RPC, body.as_bytes()).expect(method);
        serde_json::from_slice(&answer).unwrap()
    };
    assert_eq!(rpc("getClientVersion")["result"]["Supported Version"], "2.10.2");
    assert_eq!(rpc("getBlockNumber")["result"], "0x0");
    assert_eq!(rpc("nonsense")["error"]["code"], -32601);
    let peers = rpc("getPeers");
    assert_eq!(peers["id"], 5);
    let peers = peers["result"].as_array().unwrap().clone();
    assert_eq!(peers.len(), 2);
    let topics: Vec<&Value> = peers.iter().flat_map(|peer| peer["Topic"].as_array().unwrap()).collect();
    let names: Vec<&str> = topics.iter().filter_map(|topic| topic.as_str()).collect();
    assert!(names[1].starts_with("#!$VerifyChannel_#!$TopicNeedVerify_p_"), "its subscriber's");
    assert_eq!([names[0], names[2]], ["#!$TopicNeedVerify_p", "t"]);
    assert_eq!(names.len(), 3);
    assert_eq!(rpc("getNodeIDList")["result"].as_array().unwrap().len(), 3);
    assert_eq!(replies(&net, app, FrameType::RPC).len(), 5);
}

#[test]
fn a_draining_node_answers_what_is_in_flight_and_refuses_what_is_new() {
    let mut net = Network::mesh(11, 1, 2);
    let subscriber = net.app(0, Behaviour::Echo(Duration::from_secs(1)));
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let before = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.drain(0);
    assert!(!net.is_drained(0));
    let after = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &after, SOON), (99, vec![]));
    assert_eq!(net.answer(publisher, &before, Duration::from_secs(2)).0, 0);
    assert!(net.is_drained(0));
}

#[test]
fn a_draining_node_does_not_wait_for_the_late_answer_of_a_silent_session() {
    let mut net = Network::mesh(12, 2, 2);
    let silent = net.app(1, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SOON);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.drain(1);
    assert!(!net.is_drained(1), "it may answer in time");
    assert_eq!(net.answer(publisher, &seq, 2 * Settings::default().push_timeout), (102, vec![]));
    assert!(net.is_drained(1));
}

/// What the registry refuses is not on its way to it: each refusal would else take room from all that comes later.
#[test]
fn what_the_registry_refuses_takes_no_room_from_what_comes_then() {
    let mut net = Network::mesh(1, 2, 1);
    let app = net.app(0, Behaviour::Silent);
    net.nodes[0].set_registry_behind(true);
    let peers = br#"{"jsonrpc":"2.0","id":1,"method":"getPeers","params":[1]}"#;
    let refused: Vec<_> = (0..10).map(|_| net.frame(app, FrameType::RPC, peers)).collect();
    // Its neighbour tells it of a topic, too.
    net.subscriber(1, &["t"]);
    net.run_for(Duration::from_secs(10));
    let of = |net: &Network, seq| {
        let all = net.apps[app].received.iter().filter(|received| received.header.seq == seq);
        all.map(|received| String::from_utf8_lossy(&received.data).into_owned()).collect::<Vec<_>>()
    };
    for seq in refused {
        assert!(matches!(of(&net, seq).as_slice(), [one] if one.contains("error")), "{:?}", of(&net, seq));
    }
    assert_eq!(net.miscount(), None);
    net.nodes[0].set_registry_behind(false);
    let seq = net.frame(app, FrameType::RPC, peers);
    net.run_for(Duration::from_secs(1));
    assert!(matches!(of(&net, seq).as_slice(), [one] if one.contains("result")), "{:?}", of(&net, seq));
}
