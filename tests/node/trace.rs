//! Following a message by its seq over real nodes: the admin endpoint, and `amop trace`.

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::Value;

use crate::support::{
    Nobody, RawSdk, TestNode, application_config, get, host_dir,
    process::{PROGRAM, Process},
    wait_until,
};

const SEQ: Seq = *b"b3ae60984320433aa3efbc6462ef6102";
const TEXT: &str = "b3ae60984320433aa3efbc6462ef6102";
/// A push that nobody answers is soon over.
const SHORT: &str = "[admin]\nlisten_port=0\n[amop]\npush_timeout_ms=50\n";

fn admin(node: &TestNode) -> SocketAddr {
    node.node().admin_address().expect("the endpoint is configured")
}

fn send(app: &mut RawSdk, frame_type: FrameType, seq: &Seq, topic: &str) -> ResultCode {
    app.send(&sdk::encode_amop(frame_type, seq, ResultCode::OK, topic, b"a secret"));
    result(app)
}

fn result(app: &mut RawSdk) -> ResultCode {
    Header::decode(&app.frame().expect("an answer")).unwrap().result
}

fn trace(admin: SocketAddr) -> (u16, Value) {
    let (status, body) = get(admin, &format!("/trace/{TEXT}"));
    assert!(!body.contains("a secret"));
    (status, serde_json::from_str(&body).expect(&body))
}

fn told(trace: &Value) -> Vec<String> {
    let events = trace["timeline"].as_array().unwrap().iter();
    events.map(|event| event["what"].as_str().unwrap().to_owned()).collect()
}

/// The item of a node in the list of nodes.
fn of_node<'a>(trace: &'a Value, id: &str) -> &'a Value {
    let mut nodes = trace["nodes"].as_array().unwrap().iter();
    nodes.find(|node| node["id"] == id).unwrap_or_else(|| panic!("no {id} in {trace}"))
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).arg("trace").args(arguments).output().unwrap()
}

#[test]
fn a_node_tells_who_sent_a_message_who_was_tried_and_how_it_ended() {
    let node = TestNode::start(Profile::Ec, 0, &[], SHORT);
    let mut silent = RawSdk::connect(Profile::Ec, &node);
    silent.subscribe(&["t"]);
    node.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    assert_eq!(trace(admin(&node)).0, 404);
    assert_eq!(send(&mut publisher, FrameType::REQUEST, &SEQ, "t"), ResultCode::TIMEOUT);

    let (status, trace) = trace(admin(&node));
    assert_eq!((status, &trace["seq"]), (200, &TEXT.into()));
    let account = &trace["accounts"][0];
    let addresses = [&publisher, &silent].map(|app| app.socket.local_addr().unwrap().to_string());
    assert_eq!((&account["role"], &account["end"]), (&"request".into(), &"answered_by_node".into()));
    assert_eq!((&account["code"], &account["topic"]), (&102.into(), &"t".into()));
    assert_eq!((&account["size"], &account["address"]), (&52.into(), &addresses[0].as_str().into()));
    assert!(account["subject"].as_str().unwrap().contains("CN=sdk"), "{account}");
    assert!(account["took_us"].as_u64().unwrap() >= 50_000);
    let step = &account["steps"][0];
    assert_eq!((&step["tried"], &step["fate"]), (&"session".into(), &"silent".into()));
    assert_eq!(step["address"], addresses[1].as_str());
    let told = told(&trace);
    assert!(told[0].starts_with("takes a request of 52 bytes to \"t\" from session "), "{told:?}");
    assert!(told[0].contains(&addresses[0]) && told[0].ends_with("; it may take 30.000 s"), "{told:?}");
    assert!(told[1].starts_with("pushes it to session ") && told[1].contains(&addresses[1]), "{told:?}");
    assert!(told[2].contains("was silent for "), "{told:?}");
    assert!(told.last().unwrap().starts_with("answers 102 (timeout"), "{told:?}");
    let item = of_node(&trace, &node.node().id().to_hex());
    assert_eq!((&item["standing"], &item["accounts"]), (&"here".into(), &1.into()));

    // Who has left is known still, and tried sessions by their numbers.
    drop(publisher);
    drop(silent);
    wait_until("both are gone", || node.total(|counters| counters.sessions.get()) == 0);
    let (_, trace) = self::trace(admin(&node));
    assert_eq!(trace["accounts"][0]["address"], addresses[0].as_str());
    assert!(self::told(&trace)[1].contains("which is gone now"), "{trace}");
}

#[test]
fn either_node_tells_the_whole_way_in_order() {
    let first = TestNode::start(Profile::Ec, 0, &[], SHORT);
    let second = TestNode::start(Profile::Ec, 1, &[&first], SHORT);
    first.wait_for_neighbours(&[&second]);
    let mut silent = RawSdk::connect(Profile::Ec, &second);
    silent.subscribe(&["t"]);
    first.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &first);
    assert_eq!(send(&mut publisher, FrameType::REQUEST, &SEQ, "t"), ResultCode::TIMEOUT);

    let [here, there] = [&first, &second].map(|node| node.node().id().to_hex());
    for asked in [&first, &second] {
        let (status, trace) = trace(admin(asked));
        assert_eq!(status, 200);
        for (id, is_asked) in [(&here, asked.node().id() == first.node().id()), (&there, false)] {
            let item = of_node(&trace, id);
            assert_eq!(item["accounts"], 1, "{trace}");
            if is_asked {
                assert_eq!(item["standing"], "here");
            }
        }
        let events = trace["timeline"].as_array().unwrap();
        let nodes: Vec<&str> = events.iter().map(|event| event["node"].as_str().unwrap()).collect();
        let (a, b) = (&here[..8], &there[..8]);
        assert_eq!(nodes, [a, a, b, b, b, b, a, a], "{trace:#}");
        let told = told(&trace);
        for (told, expected) in told.iter().zip([
            "takes a request of 52 bytes",
            "sends it to node ",
            "takes it",
            "pushes it to session ",
            "session ",
            "answers 102",
            "node ",
            "answers 102",
        ]) {
            assert!(told.starts_with(expected), "{told:?} instead of {expected}");
        }
        assert!(told[6].contains("answers 102, its sessions were silent or left"), "{told:?}");
        let names_sender = told[0].contains(&publisher.socket.local_addr().unwrap().to_string());
        assert_eq!(names_sender, asked.node().id() == first.node().id(), "names do not go to other nodes");
    }
}

#[test]
fn a_node_that_is_gone_is_named_and_one_that_came_back_no_longer_knows_it() {
    let first = TestNode::start(Profile::Ec, 0, &[], SHORT);
    let (conf, more) =
        (host_dir(Profile::Ec).join("node1/conf"), format!("node.0={}\n{SHORT}", first.node().p2p_address()));
    let second = Process::start_with(&conf, false, &more);
    let linked = |count: usize| first.node().shared().snapshot.load().neighbours.len() == count;
    wait_until("they are linked", || linked(1));
    let id = first.node().shared().snapshot.load().neighbours[0].to_hex();
    let mut silent = RawSdk::connect_with(application_config(Profile::Ec), second.channel).unwrap();
    silent.subscribe(&["t"]);
    first.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &first);
    assert_eq!(send(&mut publisher, FrameType::REQUEST, &SEQ, "t"), ResultCode::TIMEOUT);
    assert_eq!(of_node(&trace(admin(&first)).1, &id)["standing"], "answered");

    // Killed without a word.
    drop(second);
    wait_until("it is missed", || linked(0));
    let (status, gone) = trace(admin(&first));
    assert_eq!(status, 200);
    let item = of_node(&gone, &id[..16]);
    assert_eq!((&item["standing"], &item["accounts"]), (&"not_linked".into(), &0.into()));
    assert!(item["remark"].as_str().unwrap().starts_with("is not linked with this node now"));
    assert!(told(&gone)[1].starts_with(&format!("sends it to node {}", &id[..8])));

    let second = Process::start_with(&conf, false, &more);
    wait_until("it is back", || linked(1));
    let (_, back) = trace(admin(&first));
    let item = of_node(&back, &id);
    assert_eq!((&item["standing"], &item["accounts"]), (&"answered".into(), &0.into()));
    assert_eq!(item["remark"], "no longer knows it: it was restarted since");
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn what_ends_with_0_is_traced_while_that_is_switched_on() {
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let node = Process::start_with(&conf, false, "[admin]\nlisten_port=0\n");
    let (address, admin) = (node.channel, node.admin.unwrap());
    let app = || RawSdk::connect_with(application_config(Profile::Ec), address).unwrap();
    let (mut subscriber, mut publisher) = (app(), app());
    subscriber.subscribe(&["t"]);
    wait_until("it is known", || node.subscribers("t") == 1);
    let is_on = || get(admin, "/metrics").1.contains("\namop_tracing 1");
    let switch = |signal, on: bool| {
        let pid = rustix::process::Pid::from_child(&node.child);
        rustix::process::kill_process(pid, signal).unwrap();
        wait_until("it is switched", || is_on() == on);
    };
    let mut exchange = |frame_type| {
        publisher.send(&sdk::encode_amop(frame_type, &SEQ, ResultCode::OK, "t", b"a secret"));
        let pushed = subscriber.frame().unwrap();
        if frame_type == FrameType::REQUEST {
            let answer = sdk::encode(FrameType::RESPONSE, &SEQ, ResultCode::OK, &pushed[HEADER_LEN..]);
            subscriber.send(&answer);
        }
        assert_eq!(result(&mut publisher), ResultCode::OK);
    };
    exchange(FrameType::REQUEST);
    assert_eq!(trace(admin).0, 404);
    switch(rustix::process::Signal::USR1, true);
    exchange(FrameType::REQUEST);
    exchange(FrameType::MULTICAST);
    switch(rustix::process::Signal::USR2, false);
    exchange(FrameType::REQUEST);
    let (status, trace) = trace(admin);
    assert_eq!(status, 200);
    let roles: Vec<_> = trace["accounts"].as_array().unwrap().iter().map(|a| a["role"].clone()).collect();
    assert!(roles.contains(&"request".into()) && roles.contains(&"multicast".into()), "{trace}");
    assert_eq!(roles.iter().filter(|role| **role == "request").count(), 1);
    let copies: u64 =
        trace["accounts"].as_array().unwrap().iter().map(|a| a["copies"].as_u64().unwrap()).sum();
    assert_eq!(copies, 1);
    assert!(told(&trace).iter().any(|what| what == "passes the answer back: 0 (answered)"), "{trace}");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn the_command_prints_a_timeline_and_says_by_its_status_whether_the_message_is_known() {
    let node = TestNode::start(Profile::Ec, 0, &[], SHORT);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    assert_eq!(send(&mut publisher, FrameType::REQUEST, &SEQ, "nobody"), ResultCode::NO_RECEIVER);
    let admin = admin(&node).to_string();

    let known = run(&["b3ae6098-4320-433a-a3ef-bc6462ef6102", "--admin", &admin]);
    let text = String::from_utf8(known.stdout).unwrap();
    assert_eq!(known.status.code(), Some(0), "{text}");
    assert!(text.starts_with(&format!("message {TEXT}, first seen at 20")), "{text}");
    assert!(text.contains("+0.000 ms") && text.contains("to \"nobody\" from session"), "{text}");
    assert!(text.contains("answers 100 (no node can receive it"), "{text}");
    assert!(text.contains(&format!("{} (", &node.node().id().to_hex()[..8])), "{text}");

    let json = run(&[TEXT, "--admin", &admin, "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["accounts"][0]["code"], 100);

    let unknown = run(&[&"0".repeat(32), "--admin", &admin]);
    let text = String::from_utf8(unknown.stdout).unwrap();
    assert_eq!(unknown.status.code(), Some(3), "{text}");
    assert!(
        text.contains("no node that was asked knows it") && text.contains("knows nothing of it"),
        "{text}"
    );

    let channel = node.node().channel_address().to_string();
    let closed = Nobody::new();
    for (arguments, status, expected) in [
        (["abc", "--admin", &admin], 2, "\"abc\" is no seq"),
        ([TEXT, "--admin", &closed.address()], 1, "is [admin] listen_port set"),
        ([TEXT, "--admin", &channel], 1, "is it the [admin] port of a node?"),
        ([TEXT, "--admin", "nonsense"], 2, "it must be host:port"),
    ] {
        let failed = run(&arguments);
        let text = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(failed.status.code(), Some(status), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
