//! What commands print as JSON is what docs/json.md says: each field that is documented is printed, with such values, and
//! no other one is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use amop::{
    client::file,
    internal::{
        pki::Profile,
        wire::{
            ResultCode,
            sdk::{self, FrameType},
        },
    },
};
use serde_json::Value;

use crate::{
    ledger,
    support::{
        BOUND, Nobody, RawSdk, TestNode, client, get, host_dir,
        peer_2x::ScriptedPeer,
        process::{PROGRAM, Process, output, write_config},
        runtime, seq, wait_until,
    },
};

/// The fields of a command, and the kinds of their values.
type Fields = BTreeMap<String, BTreeSet<&'static str>>;

/// Fields whose own fields have names that are data.
const MAPS: [&str; 2] = ["failed", "answers_per_second"];

/// Adds what a value has at a path.
fn add(value: &Value, path: &str, fields: &mut Fields) {
    let kind = match value {
        Value::Object(object) if !MAPS.contains(&path) => {
            for (name, inner) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                add(inner, &path, fields);
            }
            return;
        }
        Value::Array(items) => {
            items.iter().for_each(|item| add(item, &format!("{path}[]"), fields));
            return;
        }
        Value::Object(_) => "object",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    fields.entry(path.to_owned()).or_default().insert(kind);
}

/// What docs/json.md says of a command.
fn documented(command: &str) -> Fields {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let page = std::fs::read_to_string(path).unwrap();
    let heading = format!("\n## {command}\n");
    let section = page.split(&heading).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap();
    let kinds = ["string", "number", "boolean", "object", "null"];
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let found = kinds.into_iter().filter(|kind| cells[2].split(' ').any(|word| word == *kind)).collect();
        (cells[1].trim_matches('`').to_owned(), found)
    })
    .collect()
}

/// Compares what a command has printed, all together, with what is documented.
#[track_caller]
fn check(command: &str, printed: &[Value]) {
    assert!(!printed.is_empty(), "{command} has printed nothing");
    let mut fields = Fields::new();
    printed.iter().for_each(|value| add(value, "", &mut fields));
    let documented = documented(command);
    let table = || {
        let row = |(path, kinds): (&String, &BTreeSet<&str>)| {
            format!("| `{path}` | {} | |", kinds.iter().copied().collect::<Vec<_>>().join(" or "))
        };
        fields.iter().map(row).collect::<Vec<_>>().join("\n")
    };
    let names = |fields: &Fields| fields.keys().cloned().collect::<BTreeSet<_>>();
    let (here, there) = (names(&fields), names(&documented));
    let undocumented: Vec<_> = here.difference(&there).collect();
    let unprinted: Vec<_> = there.difference(&here).collect();
    assert!(
        undocumented.is_empty() && unprinted.is_empty(),
        "{command}: not in docs/json.md: {undocumented:?}; never printed: {unprinted:?}; printed:\n{}",
        table()
    );
    for (path, kinds) in &fields {
        assert!(kinds.is_subset(&documented[path]), "{command}: {path} is {kinds:?}, not {documented:?}");
    }
}

fn values(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// What the program prints as JSON, a value a line.
#[track_caller]
fn printed(arguments: &[&str], status: i32) -> Vec<Value> {
    let output = output(Command::new(PROGRAM).args(arguments).args(["-o", "json"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    values(&output.stdout)
}

fn admin(node: &TestNode) -> String {
    node.node().admin_address().unwrap().to_string()
}

fn certs() -> String {
    host_dir(Profile::Ec).join("sdk").display().to_string()
}

const ADMIN: &str = "[admin]\nlisten_port=0\n[amop]\ntrace=true\n";

/// Three nodes in a line, the first with all that may be beside a node, and the last one gone.
struct Network {
    first: TestNode,
    second: TestNode,
    lost: String,
    _peer: ScriptedPeer,
}

impl Network {
    fn start() -> Self {
        let nobody = Nobody::new();
        let third = TestNode::start(Profile::Ec, 2, &[], "");
        let second =
            TestNode::start(Profile::Ec, 1, &[&third], &format!("advertise=amop.example:30300\n{ADMIN}"));
        let peer = ScriptedPeer::start(3, None);
        let ledger = ledger::section(Profile::Ec, &[nobody.address().parse().unwrap()], "");
        let more = format!("node.1={}\n{ADMIN}{ledger}", peer.address);
        let first = TestNode::start(Profile::Ec, 0, &[&second], &more);
        let network = |node: &TestNode| -> Value {
            serde_json::from_str(&get(node.node().admin_address().unwrap(), "/network").1).unwrap()
        };
        wait_until("all are known", || network(&first)["reachable"] == 2);
        let lost = third.node().id().to_hex();
        third.stop();
        wait_until("one is lost", || network(&first)["reachable"] == 1);
        runtime().block_on(async {
            // It needs the ledger node, which is not there.
            let (application, _messages) = client(Profile::Ec, &[&first]).await;
            let request = r#"{"jsonrpc":"2.0","method":"getBlockNumber","params":[1],"id":1}"#;
            application.rpc(request, BOUND).await.unwrap();
        });
        let is_whole = |known: &Value| {
            let has = |list: &str, field: &str| {
                known[list].as_array().unwrap().iter().any(|item| item.get(field).is_some())
            };
            has("links", "round_trip_us") && has("ledgers", "failure") && has("items", "peers_2x")
        };
        let announced =
            output(Command::new(PROGRAM).args(["net", "announce", "x", "--admin", &admin(&second)]));
        assert!(announced.status.success());
        wait_until("all is known", || {
            is_whole(&network(&first)) && network(&first)["announcements"][0].is_object()
        });
        Self { first, second, lost, _peer: peer }
    }
}

#[test]
fn what_a_network_is_shown_by_has_the_fields_that_are_documented() {
    let network = Network::start();
    let asked = admin(&network.first);
    check("amop net", &printed(&["net", "--admin", &asked], 0));
    let looking = std::thread::spawn({
        let asked = asked.clone();
        move || printed(&["top", "--once", "--interval", "2", "--admin", &asked], 0)
    });
    // Something that does not go as it should, for as long as it looks.
    let channel = network.first.node().channel_address().to_string();
    while !looking.is_finished() {
        printed(&["pub", "nobody", "x", "-n", &channel, "-C", &certs()], 3);
        _ = std::net::TcpStream::connect(&channel)
            .map(|mut socket| std::io::Write::write_all(&mut socket, b"GET / HTTP/1.1\r\n\r\n"));
    }
    check("amop top", &looking.join().unwrap());
    check("amop net announce", &printed(&["net", "announce", "y", "--admin", &asked], 0));
    let neighbour = network.second.node().id().to_hex();
    let mut rounds = printed(&["net", "ping", &neighbour, "--admin", &asked, "--count", "1"], 0);
    rounds.extend(printed(&["net", "ping", &network.lost, "--admin", &asked, "--count", "1"], 3));
    check("amop net ping", &rounds);

    let (mut traces, mut subscribers) = (Vec::new(), Vec::new());
    // Of subscribers elsewhere a node does not tell addresses.
    for (topic, node) in [("far", &network.second), ("near", &network.first)] {
        let mut subscriber = RawSdk::connect(Profile::Ec, node);
        subscriber.subscribe(&[topic]);
        network.first.wait_for_subscribers(topic, 1);
        let answering = std::thread::spawn(move || {
            let pushed = subscriber.frame().unwrap();
            let header = sdk::Header::decode(&pushed).unwrap();
            let body = &pushed[sdk::HEADER_LEN..];
            subscriber.send(&sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, body));
            subscriber
        });
        let sent = printed(&["pub", topic, "x", "-n", &channel, "-C", &certs()], 0);
        // While it is connected, its address is known.
        subscribers.push(answering.join().unwrap());
        traces.extend(printed(&["trace", sent[0]["seq"].as_str().unwrap(), "--admin", &asked], 0));
    }
    check("amop trace", &traces);
    check("amop net --topics", &printed(&["net", "--topics", "--admin", &asked], 0));
}

/// `amop sub` of a topic, once its node knows it.
fn subscriber(node: &TestNode, topic: &str, more: &[&str]) -> Child {
    let channel = node.node().channel_address().to_string();
    let mut command = Command::new(PROGRAM);
    command.args(["sub", topic, "-n", &channel, "-C", &certs(), "-o", "json"]).args(more);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    node.wait_for_subscribers(topic, 1);
    child
}

#[test]
fn messages_and_answers_have_the_fields_that_are_documented() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let channel = node.node().channel_address().to_string();
    let dir = tempfile::tempdir().unwrap();
    let (kept, gone) = (dir.path().join("kept"), dir.path().join("gone"));
    let publish = |topic: &str, payload: &[u8]| {
        let mut publisher = RawSdk::connect(Profile::Ec, &node);
        publisher.send(&sdk::encode_amop(FrameType::MULTICAST, &seq(1), ResultCode::OK, topic, payload));
        assert!(publisher.frame().is_some());
    };
    let received = |child: Child| values(&child.wait_with_output().unwrap().stdout);
    let with_file = file::encode("a.txt", b"abc");
    let mut messages = Vec::new();
    let plain = subscriber(&node, "plain", &["--count", "3"]);
    for payload in [&b"text"[..], b"\xff", &with_file] {
        publish("plain", payload);
    }
    messages.extend(received(plain));
    for (topic, save) in [("kept", &kept), ("gone", &gone)] {
        let saving = subscriber(&node, topic, &["--count", "1", "--save", save.to_str().unwrap()]);
        if topic == "gone" {
            std::fs::remove_dir(save).unwrap();
        }
        publish(topic, &with_file);
        messages.extend(received(saving));
    }
    check("amop sub", &messages);

    let publish = |topic: &str, status| printed(&["pub", topic, "x", "-n", &channel, "-C", &certs()], status);
    let mut answers = publish("nobody", 3);
    let mut answering = RawSdk::connect(Profile::Ec, &node);
    answering.subscribe(&["binary"]);
    node.wait_for_subscribers("binary", 1);
    let answer = std::thread::spawn(move || {
        let header = sdk::Header::decode(&answering.frame().unwrap()).unwrap();
        answering.send(&sdk::encode_amop(
            FrameType::RESPONSE,
            &header.seq,
            ResultCode::OK,
            "binary",
            b"\xff",
        ));
        answering
    });
    answers.extend(publish("binary", 0));
    answer.join().unwrap();
    check("amop pub", &answers);
}

#[test]
fn what_measures_has_the_fields_that_are_documented() {
    let node = Process::start(&host_dir(Profile::Ec).join("node0/conf"), false);
    let (channel, pid) = (node.channel.to_string(), node.child.id().to_string());
    let bench = |arguments: &[&str]| {
        let common = ["--seconds", "1", "--warm-up", "0", "-n", &channel, "-C", &certs(), "--pid", &pid];
        printed(&[&["bench"], arguments, &common].concat(), 0)
    };
    let runs = [bench(&["--window", "1"]), bench(&["storm", "--rate", "100", "--handshakes", "5"])].concat();
    check("amop bench", &runs);
    check("amop bench idle", &bench(&["idle", "--links", "2"]));
    check("amop bench offer", &bench(&["offer", "--mbit", "1"]));
}

#[test]
fn the_bounds_of_a_node_have_the_fields_that_are_documented() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.ini");
    std::fs::write(&config, "[ledger]\nnode.0=127.0.0.1:20200\n").unwrap();
    check("amop bounds", &printed(&["bounds", "-c", config.to_str().unwrap()], 0));
}

#[test]
fn what_files_hold_has_the_fields_that_are_documented() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().display().to_string();
    let made = printed(&["keys", "new", "--out", &out], 0);
    check("amop keys new", &made);
    check("amop keys show", &printed(&["keys", "show", made[0]["private_file"].as_str().unwrap()], 0));
    let certificate = |file: &str| host_dir(Profile::Ec).join(file).display().to_string();
    check("amop pki show", &printed(&["pki", "show", &certificate("node0/conf/node.crt")], 0));

    // One port that is taken, and a ledger node that is not there.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let nobody = Nobody::new();
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let more = ledger::section(Profile::Ec, &[nobody.address().parse().unwrap()], "");
    let checked = |listen: [SocketAddr; 2], status| {
        let config = write_config(dir.path(), &conf, false, listen, &more);
        printed(&["node", "--check", "-c", config.to_str().unwrap()], status)
    };
    let checks = [checked([any; 2], 0), checked([taken.local_addr().unwrap(), any], 78)].concat();
    check("amop node --check", &checks);

    // Whatever there is to say of this machine.
    let looked = output(Command::new(PROGRAM).args(["doctor", "-o", "json"]));
    assert!(matches!(looked.status.code(), Some(0 | 4)));
    check("amop doctor", &values(&looked.stdout));
}
