//! A ledger behind the node (INTEROP §1): what passes, what is answered here, and what holds when the ledger node is slow,
//! lost, mute, or confuses requests.

use std::time::Duration;

use amop::internal::{
    relay::{
        ReactorId,
        ledger::{
            BUSY, DEAD_AFTER, HEARTBEAT_INTERVAL, Ledger, NOT_ALLOWED, OUTCOME_UNKNOWN, SESSION_CALLS_MAX,
            UNREACHABLE, WAIT_MAX,
        },
        settings::Settings,
    },
    wire::{
        NodeId, ResultCode,
        sdk::{self, FrameType, Seq},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use crate::kit::{AppIndex, Behaviour, LINK_LATENCY, Network, Received};

const SOON: Duration = Duration::from_millis(200);
const HANDSHAKE: &[u8] = br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"java-sdk"}"#;

fn settings(ledger: Ledger) -> Settings {
    // These applications send no heartbeats.
    Settings { ledger: Some(ledger), idle_timeout: Duration::from_secs(3_600), ..Settings::default() }
}

/// One node with two reactors and so many ledger nodes.
fn network(seed: u64, ledgers: u16) -> Network {
    with(seed, Ledger::of_nodes(ledgers))
}

fn with(seed: u64, ledger: Ledger) -> Network {
    let mut net = Network::new(seed);
    (0..ledger.nodes).for_each(|_| _ = net.add_ledger());
    net.add_node(2, settings(ledger));
    net
}

/// An application that has said by 0x14 what it speaks.
fn app(net: &mut Network) -> AppIndex {
    let app = net.app(0, Behaviour::Silent);
    net.frame(app, FrameType::HANDSHAKE, HANDSHAKE);
    net.run_for(SOON);
    app
}

fn call(method: &str, params: &Value) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 7 }).to_string().into_bytes()
}

fn of_seq<'a>(net: &'a Network, app: AppIndex, frame_type: FrameType, seq: &Seq) -> Vec<&'a Received> {
    let fits = |one: &&Received| one.header.frame_type == frame_type && one.header.seq == *seq;
    net.apps[app].received.iter().filter(fits).collect()
}

/// The one answer to a 0x12, once it is there.
fn answer(net: &mut Network, app: AppIndex, seq: &Seq, within: Duration) -> Value {
    let end = net.now + within;
    while of_seq(net, app, FrameType::RPC, seq).is_empty() && net.step(end) {}
    match of_seq(net, app, FrameType::RPC, seq)[..] {
        [one] => {
            assert_eq!(one.header.result, ResultCode::OK);
            serde_json::from_slice(&one.data).expect("JSON")
        }
        ref several => panic!("{} answers instead of one", several.len()),
    }
}

fn ask(net: &mut Network, app: AppIndex, method: &str, params: &Value) -> Value {
    let seq = net.frame(app, FrameType::RPC, &call(method, params));
    answer(net, app, &seq, SOON)
}

fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}"))
}

fn filter(id: &str, from: &str, to: &str) -> Vec<u8> {
    let text = json!({ "fromBlock": from, "toBlock": to, "addresses": [], "topics": [], "groupID": "1", "filterID": id });
    [b"\x01", text.to_string().as_bytes()].concat()
}

/// The result in the one answer to a 0x15 or 0x16.
fn filter_result(net: &Network, app: AppIndex, frame_type: FrameType, seq: &Seq) -> i64 {
    match of_seq(net, app, frame_type, seq)[..] {
        [one] => {
            assert_eq!(one.data[0], 1);
            serde_json::from_slice::<Value>(&one.data[1..]).unwrap()["result"].as_i64().unwrap()
        }
        ref several => panic!("{} answers instead of one", several.len()),
    }
}

/// The blocks whose logs an application has got of a filter, and its last result.
fn logs(net: &Network, app: AppIndex, id: &str) -> (Vec<u64>, i64) {
    let (mut blocks, mut result) = (Vec::new(), 0);
    for one in net.apps[app].received.iter().filter(|one| one.header.frame_type == FrameType::EVENT_LOGS) {
        let push: Value = serde_json::from_slice(&one.data).expect("JSON");
        if push["filterID"] == id {
            assert_eq!(result, 0, "more came of a filter that was over");
            let of_push = push["logs"].as_array().into_iter().flatten();
            blocks.extend(of_push.map(|log| log["blockNumber"].as_str().unwrap().parse::<u64>().unwrap()));
            result = push["result"].as_i64().unwrap();
        }
    }
    (blocks, result)
}

#[test]
fn what_is_the_ledgers_passes_unchanged_both_ways_over_a_connection_of_the_sessions_own() {
    let mut net = network(1, 1);
    let apps = [app(&mut net), app(&mut net)];
    assert_eq!(net.ledger_connections().count(), 0, "nobody needs it yet");
    for (place, &app) in apps.iter().enumerate() {
        let body = call("echo", &json!([1, "x", place]));
        let seq = net.frame(app, FrameType::RPC, &body);
        let reply = answer(&mut net, app, &seq, SOON);
        assert_eq!(reply, json!({ "id": 7, "jsonrpc": "2.0", "result": [1, "x", place] }));
        let connection = &net.chain.connections[place];
        // Its own handshake first, and alone, then its request.
        let frames: Vec<_> =
            connection.received.iter().map(|one| (one.header.frame_type, &one.data[..])).collect();
        assert_eq!(frames, [(FrameType::HANDSHAKE, HANDSHAKE), (FrameType::RPC, &body[..])]);
        assert!(connection.received[1].at >= connection.received[0].at + 2 * LINK_LATENCY, "sent unasked");
        assert_eq!(connection.received[1].header.seq, seq);
    }
    let seq = net.frame(apps[0], FrameType::RPC, &call("sendRawTransaction", &json!([1, "tx"])));
    net.run_for(SOON);
    let receipt = of_seq(&net, apps[0], FrameType::RECEIPT, &seq);
    assert_eq!(receipt[0].data, br#"{"input":"tx","status":"0x0"}"#);
    assert_eq!(of_seq(&net, apps[1], FrameType::RECEIPT, &seq).len(), 0);
    assert_eq!(net.nodes[0].total(|counters| counters.ledger_requests.get()), 3);
}

#[test]
fn a_session_that_never_said_what_it_speaks_is_of_protocol_1_there_too() {
    let mut net = network(2, 1);
    let silent = net.app(0, Behaviour::Silent);
    assert_eq!(ask(&mut net, silent, "echo", &json!([1]))["result"], json!([1]));
    assert_eq!(net.chain.connections[0].received.len(), 1);
    // It may say so later, and malformed ones, which no ledger node answers, are not passed on.
    net.frame(silent, FrameType::HANDSHAKE, b"nonsense");
    net.run_for(SOON);
    assert_eq!(net.chain.connections[0].protocol, 1);
    net.frame(silent, FrameType::HANDSHAKE, HANDSHAKE);
    net.run_for(SOON);
    assert_eq!(net.chain.connections[0].protocol, 3);
    let answers =
        net.apps[silent].received.iter().filter(|one| one.header.frame_type == FrameType::HANDSHAKE);
    assert_eq!(answers.count(), 2, "each is answered once, by this node");
}

#[test]
fn of_a_sessions_topics_only_block_notices_go_to_the_ledger_node() {
    let mut net = network(3, 1);
    let app = app(&mut net);
    net.subscribe(app, &["ordinary", "#!$TopicNeedVerify_private"]);
    net.run_for(SOON);
    assert_eq!(net.chain.connections.len(), 0, "messages need no ledger");
    net.subscribe(app, &["ordinary", "_block_notify_1"]);
    net.run_for(SOON);
    assert_eq!(net.chain.connections[0].topics, ["_block_notify_1"]);
    net.mine("a");
    net.run_for(SOON);
    let notices = |net: &Network| net.pushed(app, FrameType::BLOCK_NOTICE);
    assert_eq!(
        notices(&net),
        [("_block_notify_1".to_owned(), b"{\"blockNumber\":1,\"groupID\":1}\n".to_vec())]
    );
    net.subscribe(app, &["ordinary"]);
    net.run_for(SOON);
    net.mine("b");
    net.run_for(SOON);
    assert_eq!(net.chain.connections[0].topics, [""; 0]);
    assert_eq!(notices(&net).len(), 1);
}

#[test]
fn a_ledger_node_that_is_lost_leaves_no_request_without_an_answer_and_none_is_sent_twice() {
    let mut net = network(4, 1);
    let app = app(&mut net);
    net.chain.nodes[0].delay = Duration::from_secs(1)..=Duration::from_secs(1);
    let lost: Vec<Seq> = (0..5)
        .map(|number| {
            net.frame(app, FrameType::RPC, &call("sendRawTransaction", &json!([1, number.to_string()])))
        })
        .collect();
    net.run_for(Duration::from_millis(500));
    assert_eq!(net.chain.blocks.len(), 5);
    net.kill_ledger(0);
    net.run_for(Duration::from_millis(100));
    for seq in &lost {
        let reply = answer(&mut net, app, seq, SOON);
        assert_eq!((code(&reply), &reply["id"]), (OUTCOME_UNKNOWN, &json!(7)));
    }
    // What comes meanwhile waits, and goes to the next connection.
    let waiting = net.frame(app, FrameType::RPC, &call("sendRawTransaction", &json!([1, "later"])));
    net.run_for(Duration::from_secs(1));
    net.revive_ledger(0);
    assert_eq!(answer(&mut net, app, &waiting, WAIT_MAX)["result"], "hash of later");
    net.run_for(Duration::from_secs(200));
    assert_eq!(net.chain.blocks.len(), 6, "nothing was executed twice");
    assert_eq!(net.nodes[0].total(|counters| counters.ledger_reconnects.get()), 1);
}

#[test]
fn where_no_ledger_node_is_reached_requests_are_told_that_nothing_was_sent() {
    let mut net = network(5, 2);
    let app = app(&mut net);
    (0..2).for_each(|ledger| net.kill_ledger(ledger));
    let call_seq = net.frame(app, FrameType::RPC, &call("echo", &json!([1])));
    let filter_seq = net.frame(app, FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
    net.run_for(WAIT_MAX + SOON);
    assert_eq!(code(&answer(&mut net, app, &call_seq, SOON)), UNREACHABLE);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &filter_seq), -41005);
    // Nothing needs it any more: it is dialled no further.
    let dials = |net: &Network| net.nodes[0].total(|counters| counters.ledger_dials.get());
    net.run_for(Duration::from_secs(10));
    let before = dials(&net);
    net.run_for(Duration::from_secs(100));
    assert_eq!(dials(&net), before);
    // Nodes and topics of AMOP are there all the same.
    let seq = net.frame(app, FrameType::RPC, &call("getNodeInfo", &json!([])));
    let reply = answer(&mut net, app, &seq, WAIT_MAX + SOON);
    assert_eq!(reply["result"]["NodeID"], net.nodes[0].id.to_hex());
}

#[test]
fn another_ledger_node_is_tried_first_and_what_was_open_is_open_there() {
    let mut net = network(6, 2);
    let app = app(&mut net);
    net.subscribe(app, &["_block_notify_1"]);
    net.mine("a");
    net.frame(app, FrameType::EVENT_REGISTER, &filter("all", "1", "latest"));
    net.frame(app, FrameType::EVENT_REGISTER, &filter("some", "1", "3"));
    net.run_for(Duration::from_secs(20));
    assert_eq!((logs(&net, app, "all"), logs(&net, app, "some")), ((vec![1], 0), (vec![1], 0)));
    let first = net.ledger_connections().next().unwrap().ledger;
    net.kill_ledger(first);
    net.mine("b");
    net.run_for(SOON);
    let connection = net.ledger_connections().next().expect("another one");
    assert_ne!(connection.ledger, first);
    assert_eq!((connection.protocol, &connection.topics[..]), (3, &["_block_notify_1".to_owned()][..]));
    assert_eq!(connection.received[0].data, HANDSHAKE);
    assert_eq!(
        (logs(&net, app, "all"), logs(&net, app, "some")),
        ((vec![1, 2], 0), (vec![1, 2], 0)),
        "none lost, none twice"
    );
    ["c", "d"].into_iter().for_each(|transaction| net.mine(transaction));
    net.run_for(SOON);
    assert_eq!(
        (logs(&net, app, "all"), logs(&net, app, "some")),
        ((vec![1, 2, 3, 4], 0), (vec![1, 2, 3], 1))
    );
    // One that has come to its end is not opened again.
    net.revive_ledger(first);
    net.kill_ledger(1 - first);
    net.run_for(Duration::from_secs(20));
    assert_eq!(logs(&net, app, "some"), (vec![1, 2, 3], 1));
    let registered = net.ledger_connections().next().unwrap().of_type(FrameType::EVENT_REGISTER).len();
    assert_eq!(registered, 1);
}

#[test]
fn a_filter_that_ends_is_not_opened_again_and_one_that_is_refused_anew_tells_so() {
    let mut net = network(7, 1);
    let app = app(&mut net);
    let refused = net.frame(
        app,
        FrameType::EVENT_REGISTER,
        &[b"\x01", &br#"{"groupID":"404","filterID":"x"}"#[..]].concat(),
    );
    let seq = net.frame(app, FrameType::EVENT_REGISTER, &filter("ends", "1", "latest"));
    net.run_for(SOON);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &refused), -41002);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &seq), 0);
    let seq = net.frame(app, FrameType::EVENT_UNREGISTER, &filter("ends", "1", "latest"));
    net.run_for(SOON);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_UNREGISTER, &seq), 0);
    net.kill_ledger(0);
    net.revive_ledger(0);
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.ledger_connections().count(), 0, "nothing needs it");
    // One whose end is asked for while there is no connection has ended.
    let seq = net.frame(app, FrameType::EVENT_UNREGISTER, &filter("ends", "1", "latest"));
    net.run_for(SOON);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_UNREGISTER, &seq), 0);
    let malformed = net.frame(app, FrameType::EVENT_REGISTER, b"\x01{");
    net.run_for(SOON);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &malformed), -41001);
}

#[test]
fn a_registration_is_answered_by_its_own_kind_only() {
    let mut net = network(6, 1);
    let app = app(&mut net);
    let first = net.frame(app, FrameType::EVENT_REGISTER, &filter("a", "1", "latest"));
    net.run_for(SOON);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &first), 0);
    net.chain.nodes[0].is_frozen = true;
    let seq = net.frame(app, FrameType::EVENT_REGISTER, &filter("b", "1", "latest"));
    net.run_for(SOON);
    for frame_type in [FrameType::EVENT_UNREGISTER, FrameType::RPC, FrameType::EVENT_REGISTER] {
        net.ledger_sends(0, frame_type, &seq, b"\x01{\"result\":0}\n");
        net.run_for(SOON);
    }
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &seq), 0);
    for frame_type in [FrameType::EVENT_UNREGISTER, FrameType::RPC] {
        assert!(of_seq(&net, app, frame_type, &seq).is_empty(), "nobody asked for {frame_type:?}");
    }
}

#[test]
fn a_registration_in_flight_is_made_at_the_next_connection_and_answered_once() {
    let mut net = network(8, 1);
    let app = app(&mut net);
    net.chain.nodes[0].is_frozen = true;
    net.subscribe(app, &["_block_notify_1"]);
    net.chain.nodes[0].is_frozen = false;
    net.kill_ledger(0);
    net.revive_ledger(0);
    net.run_for(Duration::from_secs(12));
    net.chain.nodes[0].is_frozen = true;
    let seq = net.frame(app, FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
    net.run_for(SOON);
    net.kill_ledger(0);
    net.chain.nodes[0].is_frozen = false;
    net.revive_ledger(0);
    net.mine("a");
    net.run_for(SOON);
    assert_eq!(filter_result(&net, app, FrameType::EVENT_REGISTER, &seq), 0);
    assert_eq!(logs(&net, app, "f"), (vec![1], 0));
}

#[test]
fn a_ledger_node_that_never_answers_touches_no_message_and_its_requests_are_answered_in_the_end() {
    let mut net = network(9, 1);
    let asking = app(&mut net);
    net.subscribe(asking, &["t"]);
    net.chain.nodes[0].is_mute = true;
    let seqs: Vec<Seq> =
        (0..10).map(|_| net.frame(asking, FrameType::RPC, &call("echo", &json!([1])))).collect();
    let publisher = app(&mut net);
    for _ in 0..3 {
        let seq = net.unicast(asking, "nobody", b"x");
        assert_eq!(net.answer(asking, &seq, Duration::from_millis(10)).0, 100);
        net.unicast(publisher, "t", b"x");
        net.run_for(Duration::from_millis(10));
    }
    assert_eq!(net.pushed(asking, FrameType::REQUEST).len(), 3);
    net.run_for(Duration::from_secs(119));
    assert!(seqs.iter().all(|seq| of_seq(&net, asking, FrameType::RPC, seq).is_empty()));
    for seq in &seqs {
        assert_eq!(code(&answer(&mut net, asking, seq, Duration::from_secs(2))), OUTCOME_UNKNOWN);
    }
    // It answers heartbeats, so its connection is kept.
    assert_eq!(net.nodes[0].total(|counters| counters.ledger_links_lost.get()), 0);
}

#[test]
fn a_ledger_node_that_says_nothing_at_all_is_lost() {
    let mut net = network(10, 1);
    let app = app(&mut net);
    assert_eq!(ask(&mut net, app, "echo", &json!([1]))["result"], json!([1]));
    net.chain.nodes[0].is_frozen = true;
    let seq = net.frame(app, FrameType::RPC, &call("echo", &json!([2])));
    net.run_for(DEAD_AFTER - Duration::from_secs(1));
    assert_eq!(of_seq(&net, app, FrameType::RPC, &seq).len(), 0);
    assert_eq!(code(&answer(&mut net, app, &seq, 2 * HEARTBEAT_INTERVAL)), OUTCOME_UNKNOWN);
    // Nor is one used that takes the connection and does not answer the handshake.
    let seq = net.frame(app, FrameType::RPC, &call("echo", &json!([3])));
    assert_eq!(code(&answer(&mut net, app, &seq, WAIT_MAX + SOON)), UNREACHABLE);
    net.chain.nodes[0].is_frozen = false;
    let seq = net.frame(app, FrameType::RPC, &call("echo", &json!([4])));
    assert_eq!(answer(&mut net, app, &seq, WAIT_MAX)["result"], json!([4]));
}

#[test]
fn answers_out_of_order_come_to_who_asked_and_equal_seqs_confuse_nobody_for_ever() {
    let mut net = network(11, 1);
    let apps = [app(&mut net), app(&mut net)];
    net.chain.nodes[0].delay = Duration::ZERO..=Duration::from_millis(100);
    let seqs: Vec<(AppIndex, u32, Seq)> = (0..200)
        .map(|number| {
            let app = apps[number as usize % 2];
            (app, number, net.frame(app, FrameType::RPC, &call("echo", &json!([1, "", number]))))
        })
        .collect();
    net.run_for(Duration::from_secs(1));
    for (app, number, seq) in seqs {
        assert_eq!(answer(&mut net, app, &seq, SOON)["result"][2], number);
    }
    // One session's second request under an open seq is refused at once.
    let seq = [b'7'; 32];
    let frame = |number: u32| {
        sdk::encode(FrameType::RPC, &seq, ResultCode::OK, &call("echo", &json!([1, "", number])))
    };
    (0..2).for_each(|number| net.bytes(apps[0], frame(number)));
    net.run_for(SOON);
    let answers: Vec<Value> = of_seq(&net, apps[0], FrameType::RPC, &seq)
        .iter()
        .map(|one| serde_json::from_slice(&one.data).unwrap())
        .collect();
    assert_eq!((code(&answers[0]), &answers[1]["result"][2], answers.len()), (BUSY, &json!(0), 2));
    // Of two sessions the ledger node answers one only; the other one is told so when its time is up.
    net.chain.nodes[0].delay = Duration::from_millis(50)..=Duration::from_millis(50);
    let seq = [b'8'; 32];
    let frame = sdk::encode(FrameType::RPC, &seq, ResultCode::OK, &call("echo", &json!([1])));
    apps.into_iter().for_each(|app| net.bytes(app, frame.clone()));
    net.run_for(Duration::from_secs(125));
    let mut codes: Vec<Option<i64>> =
        apps.map(|app| answer(&mut net, app, &seq, SOON)["error"]["code"].as_i64()).to_vec();
    codes.sort();
    assert_eq!(codes, [None, Some(OUTCOME_UNKNOWN)]);
}

#[test]
fn a_session_that_takes_little_stops_its_ledger_node_and_loses_nothing_and_messages_have_their_room() {
    let mut net = network(12, 1);
    let reader = app(&mut net);
    let publisher = app(&mut net);
    net.subscribe(reader, &["t"]);
    net.frame(reader, FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
    net.run_for(SOON);
    net.set_rate(reader, 200_000);
    let large = "x".repeat(100_000);
    let mut bytes_max = 0;
    for _ in 0..100 {
        net.mine(&large);
        net.run_for(Duration::from_millis(20));
        bytes_max = bytes_max.max(net.nodes[0].total(|counters| counters.ledger_bytes.get()));
    }
    assert!(net.nodes[0].total(|counters| counters.ledger_reads_paused.get()) > 0);
    // What waits of the ledger takes nothing of the room for messages.
    (0..20).for_each(|_| _ = net.multicast(publisher, "t", &[7; 100_000]));
    net.run_for(Duration::from_secs(100));
    assert_eq!(net.nodes[0].total(|counters| counters.dropped_queue_full.get()), 0);
    assert_eq!(net.pushed(reader, FrameType::MULTICAST).len(), 20);
    assert_eq!(logs(&net, reader, "f").0, (1..=100).collect::<Vec<_>>());
    assert!(bytes_max < 1 << 20, "{bytes_max} bytes are kept of what has come");
    assert!(!net.apps[reader].closed);
}

#[test]
fn merged_answers_for_a_session_that_takes_little_take_nothing_of_the_room_for_messages() {
    let mut net = network(21, 1);
    let reader = app(&mut net);
    let publisher = app(&mut net);
    let topics: Vec<String> = (0..1_000).map(|number| format!("{number:0200}")).collect();
    net.subscriber(0, &topics.iter().map(String::as_str).collect::<Vec<_>>());
    net.subscribe(reader, &["t"]);
    net.run_for(SOON);
    net.set_rate(reader, 400_000);
    let mut seqs = Vec::new();
    for _ in 0..200 {
        seqs.push(net.frame(reader, FrameType::RPC, &call("getNodeInfo", &json!([]))));
        net.run_for(Duration::from_millis(20));
    }
    assert!(net.nodes[0].total(|counters| counters.ledger_reads_paused.get()) > 0);
    (0..20).for_each(|_| _ = net.multicast(publisher, "t", &[7; 100_000]));
    net.run_for(Duration::from_secs(300));
    assert_eq!(net.nodes[0].total(|counters| counters.dropped_queue_full.get()), 0);
    assert_eq!(net.pushed(reader, FrameType::MULTICAST).len(), 20);
    for seq in seqs {
        let answer = answer(&mut net, reader, &seq, SOON);
        assert!(answer["result"]["Topic"].as_array().expect("topics").len() > 1_000);
    }
}

#[test]
fn what_waits_for_a_ledger_node_has_its_bound_and_more_is_refused() {
    let ledger = Ledger { bytes_max: 2 << 20, ..Ledger::of_nodes(1) };
    let mut net = with(13, ledger);
    let app = app(&mut net);
    net.chain.nodes[0].is_mute = true;
    let large = call("echo", &json!([1, "x".repeat(100_000)]));
    let seqs: Vec<Seq> = (0..20).map(|_| net.frame(app, FrameType::RPC, &large)).collect();
    net.run_for(SOON);
    let refused = seqs.iter().filter(|seq| !of_seq(&net, app, FrameType::RPC, seq).is_empty()).count();
    // Half of two MiB is this reactor's.
    assert!((8..=10).contains(&refused), "{refused} are refused");
    let last = net.frame(app, FrameType::RPC, &call("echo", &json!([1])));
    assert_eq!(code(&answer(&mut net, app, &last, SOON)), BUSY);
    net.run_for(Duration::from_secs(125));
    net.chain.nodes[0].is_mute = false;
    assert_eq!(ask(&mut net, app, "echo", &json!([1]))["result"], json!([1]), "there is room again");
    // So many small ones of one session.
    net.chain.nodes[0].is_mute = true;
    let mut many = network(14, 1);
    let other = self::app(&mut many);
    many.chain.nodes[0].is_mute = true;
    let small = call("echo", &json!([1]));
    let seqs: Vec<Seq> =
        (0..SESSION_CALLS_MAX + 3).map(|_| many.frame(other, FrameType::RPC, &small)).collect();
    many.run_for(Duration::from_secs(1));
    let refused = seqs.iter().filter(|seq| !of_seq(&many, other, FrameType::RPC, seq).is_empty()).count();
    assert_eq!(refused, 3);
}

#[test]
fn a_group_with_a_list_is_for_those_applications_that_are_on_it() {
    let (one, other) = (NodeId([1; 64]), NodeId([2; 64]));
    let mut ledger = Ledger::of_nodes(1);
    ledger.allow.insert(1, [one].into());
    let mut net = with(15, ledger);
    let apps = [Some(one), Some(other), None].map(|key| net.app_of(0, ReactorId(0), Behaviour::Silent, key));
    for (place, app) in apps.into_iter().enumerate() {
        let first = ask(&mut net, app, "echo", &json!([1]));
        assert_eq!(ask(&mut net, app, "echo", &json!([2]))["result"], json!([2]), "a group without a list");
        let seq = net.frame(app, FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
        net.subscribe(app, &["_block_notify_1", "_block_notify_2"]);
        net.run_for(SOON);
        let result = filter_result(&net, app, FrameType::EVENT_REGISTER, &seq);
        let topics = &net.chain.connections[place].topics;
        if place == 0 {
            assert_eq!((first["result"].clone(), result, topics.len()), (json!([1]), 0, 2));
        } else {
            assert_eq!(
                (code(&first), result, &topics[..]),
                (NOT_ALLOWED, -41006, &["_block_notify_2".to_owned()][..])
            );
        }
    }
    // What cannot be checked goes nowhere.
    let long = call("echo", &json!([2, "x".repeat(1 << 20)]));
    for body in [&b"{\"params\":/**/[1]}"[..], b"nonsense", &long] {
        let seq = net.frame(apps[0], FrameType::RPC, body);
        assert_eq!(code(&answer(&mut net, apps[0], &seq, SOON)), NOT_ALLOWED);
    }
}

#[test]
fn nodes_and_topics_of_amop_are_among_those_of_the_ledger() {
    let mut net = Network::new(16);
    net.add_ledger();
    net.add_node(2, settings(Ledger::of_nodes(1)));
    net.add_node(1, Settings::default());
    net.connect(0, 1);
    net.run_for(SOON);
    net.subscriber(1, &["there"]);
    net.subscriber(0, &["here"]);
    let app = app(&mut net);
    let peers = ask(&mut net, app, "getPeers", &json!([1]));
    assert_eq!(peers["id"], 7);
    let found: Vec<(String, Value)> = peers["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["NodeID"].as_str().unwrap().to_owned(), node["Topic"].clone()))
        .collect();
    assert_eq!(found, [("11".to_owned(), json!([])), (net.nodes[1].id.to_hex(), json!(["there"]))]);
    let own = ask(&mut net, app, "getNodeInfo", &json!([]));
    assert_eq!((&own["result"]["NodeID"], &own["result"]["Topic"]), (&json!("10"), &json!(["own", "here"])));
    // A registry that is behind holds nothing up.
    net.nodes[0].set_registry_behind(true);
    assert_eq!(ask(&mut net, app, "getPeers", &json!([1]))["result"].as_array().unwrap().len(), 1);
}

#[test]
fn a_session_that_leaves_takes_its_connection_along_and_a_node_that_stops_waits_for_answers() {
    let mut net = network(17, 1);
    let (one, other) = (app(&mut net), app(&mut net));
    net.chain.nodes[0].delay = Duration::from_secs(1)..=Duration::from_secs(1);
    for app in [one, other] {
        net.frame(app, FrameType::RPC, &call("echo", &json!([1])));
    }
    net.run_for(SOON);
    assert_eq!(net.ledger_connections().count(), 2);
    net.disconnect(one);
    net.run_for(SOON);
    assert_eq!(net.ledger_connections().count(), 1);
    net.drain(0);
    assert!(!net.is_drained(0));
    let late = net.frame(other, FrameType::RPC, &call("echo", &json!([1])));
    assert_eq!(code(&answer(&mut net, other, &late, SOON)), BUSY);
    net.run_for(Duration::from_secs(1));
    assert!(net.is_drained(0));
}

#[test]
fn large_requests_and_answers_pass_whole() {
    let mut net = network(18, 1);
    let app = app(&mut net);
    let data = "y".repeat(3 << 20);
    assert_eq!(ask(&mut net, app, "echo", &json!([1, data]))["result"][1], data);
    let reply = ask(&mut net, app, "large", &json!([1, 5 << 20]));
    assert_eq!(reply["result"].as_str().unwrap().len(), 5 << 20);
    // The id of a long request is known, should its answer not come.
    net.chain.nodes[0].is_mute = true;
    let seq = net.frame(app, FrameType::RPC, &call("echo", &json!([1, data])));
    net.run_for(SOON);
    net.kill_ledger(0);
    net.run_for(SOON);
    assert_eq!(answer(&mut net, app, &seq, SOON)["id"], 7);
}

/// What applications have asked in a simulation, and what became of it.
struct Oracle {
    calls: Vec<(AppIndex, Seq, String)>,
    registered: Vec<(AppIndex, Seq, String, u64)>,
}

fn simulate(seed: u64) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let ledgers = rng.random_range(1..=3);
    let request_timeout = Duration::from_secs(rng.random_range(2..60));
    let mut net = with(seed, Ledger { request_timeout, ..Ledger::of_nodes(ledgers) });
    net.timing.link = LINK_LATENCY..=Duration::from_millis(rng.random_range(1..=20));
    let apps: Vec<AppIndex> = (0..4).map(|_| app(&mut net)).collect();
    net.subscribe(apps[0], &["t", "_block_notify_1"]);
    let mut oracle = Oracle { calls: Vec::new(), registered: Vec::new() };
    for step in 0..60 {
        let app = apps[rng.random_range(0..apps.len())];
        let ledger = rng.random_range(0..usize::from(ledgers));
        match rng.random_range(0..12) {
            0..=4 => {
                let text = format!("{step}");
                let seq = net.frame(app, FrameType::RPC, &call("sendRawTransaction", &json!([1, text])));
                oracle.calls.push((app, seq, text));
            }
            5 => {
                let id = format!("{step}");
                let from = net.chain.blocks.len() as u64 + 1;
                let body = filter(&id, &from.to_string(), "latest");
                let seq = net.frame(app, FrameType::EVENT_REGISTER, &body);
                oracle.registered.push((app, seq, id, from));
            }
            6 => net.kill_ledger(ledger),
            7 => net.drop_ledger_connections(ledger),
            8 => {
                let longest = Duration::from_millis(rng.random_range(1..=5_000));
                net.chain.nodes[ledger].delay = Duration::ZERO..=longest;
            }
            9 => net.chain.nodes[ledger].is_mute ^= true,
            10 => net.set_rate(app, rng.random_range(5_000..100_000)),
            _ => net.revive_ledger(ledger),
        }
        if rng.random_range(0..3) > 0 {
            net.run_for(Duration::from_millis(rng.random_range(1..2_000)));
        }
        // Whatever the ledger does, a message takes its way.
        let asking = apps[1 + step % 3];
        let seq = net.unicast(asking, "nobody", b"x");
        assert_eq!(net.answer(asking, &seq, Duration::from_secs(5)).0, 100, "seed {seed}");
    }
    (0..usize::from(ledgers)).for_each(|ledger| {
        net.revive_ledger(ledger);
        net.chain.nodes[ledger].is_mute = false;
    });
    net.run_for(Duration::from_secs(100));
    for (app, seq, text) in &oracle.calls {
        let reply = answer(&mut net, *app, seq, SOON);
        let executed = net.chain.blocks.iter().filter(|block| *block == text).count();
        match reply["error"]["code"].as_i64() {
            None => assert_eq!(
                (executed, &reply["result"]),
                (1, &json!(format!("hash of {text}"))),
                "seed {seed}"
            ),
            Some(OUTCOME_UNKNOWN) => assert!(executed <= 1, "seed {seed}: executed twice"),
            Some(UNREACHABLE | BUSY) => assert_eq!(executed, 0, "seed {seed}: said not to be sent, and was"),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    net.mine("last");
    net.run_for(Duration::from_secs(100));
    let height = net.chain.blocks.len() as u64;
    let mut opened = 0;
    for (app, seq, id, from) in &oracle.registered {
        let (blocks, result) = logs(&net, *app, id);
        let is_open = filter_result(&net, *app, FrameType::EVENT_REGISTER, seq) == 0;
        opened += usize::from(is_open);
        // Those that no ledger node was there for have nothing.
        let expected: Vec<u64> = if is_open { (*from..=height).collect() } else { Vec::new() };
        assert_eq!((result, blocks), (0, expected), "seed {seed}: filter {id}");
    }
    opened
}

#[test]
fn whatever_becomes_of_ledger_nodes_each_call_is_answered_once_and_no_log_is_lost_or_doubled() {
    let opened: usize = (0..60).map(simulate).sum();
    assert!(opened > 60, "{opened} filters were opened");
}
