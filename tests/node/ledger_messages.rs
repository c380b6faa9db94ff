//! AMOP by the ledger node (INTEROP §1.3), over real sockets and TLS: applications behind a node exchange messages with those that
//! are connected to another ledger node of the chain, as if they were connected to one themselves.

use std::net::SocketAddr;

use amop::internal::{
    pki::Profile,
    relay::counters::Counters,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::{Value, json};

use crate::{
    ledger::{App, node, section},
    support::{
        TestNode, get,
        ledger::{ScriptedLedger, SharedChain},
        process::{PROGRAM, output},
        wait_until,
    },
};

const AMOP: &str = "amop=true\n";

fn body(topic: &str, payload: &[u8]) -> Vec<u8> {
    [&[topic.len() as u8 + 1], topic.as_bytes(), payload].concat()
}

/// The next frame of a type, with its header.
fn next(app: &mut App, frame_type: FrameType) -> (Header, Vec<u8>) {
    loop {
        let frame = app.sdk.frame().expect("it is not cut");
        let header = Header::decode(&frame).expect("a header");
        if header.frame_type == frame_type {
            return (header, frame[HEADER_LEN..].to_vec());
        }
    }
}

fn answer(app: &mut App, seq: &Seq) -> (i32, Vec<u8>) {
    loop {
        let (header, data) = next(app, FrameType::RESPONSE);
        if header.seq == *seq {
            return (header.result.0, data);
        }
    }
}

fn send_answer(app: &mut App, seq: &Seq, code: i32, data: &[u8]) {
    app.sdk.send(&sdk::encode(FrameType::RESPONSE, seq, ResultCode(code), data));
}

fn wait_for_topic(chain: &SharedChain, topic: &str, sessions: usize) {
    wait_until("ledger nodes know who subscribes", || {
        let topics = chain.lock().topics();
        topics.iter().filter(|of_session| of_session.iter().any(|other| other == topic)).count() == sessions
    });
}

fn subscribe(app: &mut App, chain: &SharedChain, topic: &str, sessions: usize) {
    app.send(FrameType::SUBSCRIBE, json!([topic]).to_string().as_bytes());
    wait_for_topic(chain, topic, sessions);
}

/// An application that is connected to a ledger node itself.
fn direct(profile: Profile, ledger: SocketAddr) -> App {
    App::connect(profile, ledger)
}

#[test]
fn messages_pass_both_ways_whatever_their_length_each_byte_as_it_was_sent() {
    for profile in [Profile::Ec, Profile::Rsa] {
        let chain = SharedChain::default();
        let ledgers = [1, 0].map(|index| ScriptedLedger::start(profile, index, &chain, None));
        let node = node(profile, &[ledgers[0].address], AMOP);
        let mut here = App::of(profile, &node);
        let mut there = direct(profile, ledgers[1].address);
        subscribe(&mut here, &chain, "here", 1);
        subscribe(&mut there, &chain, "there", 1);
        for len in [0, 5, 20_000, 300_000, 3 << 20] {
            let payload: Vec<u8> =
                (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            // From here to there, and back.
            let seq = here.send(FrameType::REQUEST, &body("there", &payload));
            let (header, data) = next(&mut there, FrameType::REQUEST);
            assert!(data == body("there", &payload) && header.seq != seq, "{len} bytes");
            send_answer(&mut there, &header.seq, -7, &data);
            assert!(answer(&mut here, &seq) == (-7, body("there", &payload)), "{len} bytes");
            // From there to here, and back.
            let seq = there.send(FrameType::REQUEST, &body("here", &payload));
            let (header, data) = next(&mut here, FrameType::REQUEST);
            assert!((header.seq, &data) == (seq, &body("here", &payload)), "{len} bytes");
            send_answer(&mut here, &seq, 9, &data);
            assert!(answer(&mut there, &seq) == (9, body("here", &payload)), "{len} bytes");
            // To all, from each of them.
            let seq = here.send(FrameType::MULTICAST, &body("there", &payload));
            let (header, data) = next(&mut there, FrameType::MULTICAST);
            assert!((header.seq, data) == (seq, body("there", &payload)), "{len} bytes");
            let seq = there.send(FrameType::MULTICAST, &body("here", &payload));
            let (header, data) = next(&mut here, FrameType::MULTICAST);
            assert!((header.seq, data) == (seq, body("here", &payload)), "{len} bytes");
        }
        let seq = here.send(FrameType::REQUEST, &body("nobody", b"x"));
        assert_eq!(answer(&mut here, &seq), (100, Vec::new()));
    }
}

/// Two institutions whose nodes are linked, each with its own ledger node.
struct Institutions {
    chain: SharedChain,
    ledgers: [ScriptedLedger; 2],
    nodes: [TestNode; 2],
}

impl Institutions {
    fn start(profile: Profile) -> Self {
        let chain = SharedChain::default();
        let ledgers = [2, 3].map(|index| ScriptedLedger::start(profile, index, &chain, None));
        let admin = "[admin]\nlisten_port=0\n";
        let text = |ledger: usize| format!("{admin}{}", section(profile, &[ledgers[ledger].address], AMOP));
        let first = TestNode::start(profile, 0, &[], &text(0));
        let second = TestNode::start(profile, 1, &[&first], &text(1));
        first.wait_for_neighbours(&[&second]);
        Self { chain, ledgers, nodes: [first, second] }
    }

    fn total(&self, node: usize, of: fn(&Counters) -> u64) -> u64 {
        self.nodes[node].total(of)
    }
}

#[test]
fn a_multicast_that_comes_over_the_mesh_and_by_the_ledger_node_is_one_message() {
    let profile = Profile::Ec;
    let both = Institutions::start(profile);
    let mut publisher = App::of(profile, &both.nodes[0]);
    let mut subscriber = App::of(profile, &both.nodes[1]);
    subscribe(&mut publisher, &both.chain, "of the publisher", 1);
    subscribe(&mut subscriber, &both.chain, "t", 1);
    both.nodes[0].wait_for_subscribers("t", 1);
    // Short ones lie in one piece, long ones are received in several.
    for len in [10, 20_000, 400_000] {
        let before = both.total(1, |counters| counters.ledger_copies_dropped.get());
        publisher.send(FrameType::MULTICAST, &body("t", &vec![7; len]));
        assert_eq!(next(&mut subscriber, FrameType::MULTICAST).1.len(), 2 + len);
        wait_until("the other copy came", || {
            both.total(1, |counters| counters.ledger_copies_dropped.get()) == before + 1
        });
    }
    // A unicast goes over the mesh.
    let seq = publisher.send(FrameType::REQUEST, &body("t", b"x"));
    let (header, data) = next(&mut subscriber, FrameType::REQUEST);
    assert_eq!(header.seq, seq);
    send_answer(&mut subscriber, &seq, 0, &data);
    assert_eq!(answer(&mut publisher, &seq), (0, data));
    assert_eq!(both.total(0, |counters| counters.ledger_unicasts.get()), 0);
    // Nothing else came.
    subscriber.send(FrameType::HEARTBEAT, b"0");
    let frame = subscriber.sdk.frame().expect("it is not cut");
    assert_eq!(Header::decode(&frame).expect("a header").frame_type, FrameType::HEARTBEAT);
}

#[test]
fn a_ledger_node_that_restarts_has_unicasts_told_102_and_messages_go_on_when_it_is_back() {
    let profile = Profile::Ec;
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(profile, 1, &chain, None);
    let other = ScriptedLedger::start(profile, 0, &chain, None);
    let address = ledger.address;
    let node = node(profile, &[address], AMOP);
    let mut here = App::of(profile, &node);
    let mut there = direct(profile, other.address);
    subscribe(&mut here, &chain, "here", 1);
    subscribe(&mut there, &chain, "there", 1);
    let seq = here.send(FrameType::REQUEST, &body("there", b"lost"));
    let (lost, _) = next(&mut there, FrameType::REQUEST);
    ledger.kill();
    assert_eq!(answer(&mut here, &seq), (102, Vec::new()));
    send_answer(&mut there, &lost.seq, 0, b"");
    // One that waits for the next connection.
    let seq = here.send(FrameType::REQUEST, &body("there", b"waits"));
    let _ledger = ScriptedLedger::start(profile, 1, &chain, Some(address));
    let (header, data) = next(&mut there, FrameType::REQUEST);
    assert_eq!(data, body("there", b"waits"), "the other one is not sent again");
    send_answer(&mut there, &header.seq, 0, &data);
    assert_eq!(answer(&mut here, &seq), (0, data));
    wait_for_topic(&chain, "here", 1);
    there.send(FrameType::MULTICAST, &body("here", b"again"));
    assert_eq!(next(&mut here, FrameType::MULTICAST).1, body("here", b"again"));
    let of_node = &node.node().shared().ledger_counters;
    let unknown: u64 = of_node.iter().map(|of_reactor| of_reactor[0].messages_unknown.get()).sum();
    assert_eq!(unknown, 1);
}

#[test]
fn lists_metrics_and_traces_tell_of_messages_by_the_ledger_node() {
    let profile = Profile::Ec;
    let both = Institutions::start(profile);
    let mut here = App::of(profile, &both.nodes[0]);
    subscribe(&mut here, &both.chain, "here", 1);
    let mut there = direct(profile, both.ledgers[1].address);
    // Its seqs are others.
    there.asked = 1_000;
    subscribe(&mut there, &both.chain, "there", 1);
    let asked = here.send(FrameType::REQUEST, &body("there", b"x"));
    let (header, _) = next(&mut there, FrameType::REQUEST);
    send_answer(&mut there, &header.seq, 5, b"");
    assert_eq!(answer(&mut here, &asked).0, 5);
    let pushed = there.send(FrameType::REQUEST, &body("here", b"x"));
    let (header, data) = next(&mut here, FrameType::REQUEST);
    send_answer(&mut here, &header.seq, 6, &data);
    assert_eq!(answer(&mut there, &pushed).0, 6);

    let admin = both.nodes[0].node().admin_address().expect("the endpoint is configured");
    let get = |path: &str| -> Value { serde_json::from_str(&self::get(admin, path).1).expect("JSON") };
    let session = get("/sessions")["items"][0].clone();
    assert_eq!((&session["ledger"], &session["ledger_topics"]), (&"up".into(), &1.into()));
    let ledger = get("/ledgers")["items"][0].clone();
    assert_eq!((&ledger["messages_sent"], &ledger["messages_received"]), (&1.into(), &1.into()), "{ledger}");
    assert_eq!(get("/network")["ledgers"][0]["address"], ledger["address"]);
    let mut command = std::process::Command::new(PROGRAM);
    let output = output(command.args(["net", "--admin"]).arg(admin.to_string()));
    let shown = String::from_utf8(output.stdout).expect("text");
    let line = shown.lines().skip_while(|line| *line != "its ledger nodes").nth(2).expect("a line");
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields, ["0", &both.ledgers[0].address.to_string(), "1", "1", "1"], "{shown}");
    let (_, metrics) = self::get(admin, "/metrics");
    let address = both.ledgers[0].address;
    for sample in ["messages_sent_total", "messages_received_total"] {
        let sample = format!("amop_ledger_node_{sample}{{ledger=\"{address}\"}} 1");
        assert!(metrics.contains(&sample), "no {sample}: {metrics}");
    }

    let text = |seq: &Seq| {
        let seq = std::str::from_utf8(seq).expect("digits");
        let trace = get(&format!("/trace/{seq}"));
        let account = trace["accounts"][0].clone();
        let mut command = std::process::Command::new(PROGRAM);
        let output = self::output(command.args(["trace", seq, "--admin"]).arg(admin.to_string()));
        (account, String::from_utf8(output.stdout).expect("text"))
    };
    let (account, told) = text(&asked);
    assert_eq!(
        (
            &account["role"],
            &account["steps"][0]["tried"],
            &account["steps"][0]["who"],
            &account["steps"][0]["fate"]
        ),
        (&"request".into(), &"ledger_node".into(), &"0".into(), &"answered".into())
    );
    assert!(told.contains("sends it to ledger node 0"), "{told}");
    let (account, told) = text(&pushed);
    assert_eq!((&account["role"], &account["code"]), (&"request_of_ledger_node".into(), &6.into()));
    assert!(told.contains("from ledger node 0"), "{told}");
}
