//! A ledger behind the node, over real sockets and TLS (INTEROP §1): applications see what they see when they are connected to
//! the ledger node itself, messages take their way whatever becomes of it, and it may end and come back.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use amop::internal::{
    config::Config,
    pki::Profile,
    relay::ledger::{NOT_ALLOWED, OUTCOME_UNKNOWN, UNREACHABLE},
    tls::identity::Identity,
    wire::{
        NodeId, ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::{Value, json};

use crate::support::{
    Nobody, RawSdk, TestNode, application_config, get, host_dir,
    ledger::{ScriptedLedger, SharedChain},
    process::{PROGRAM, output},
    seq, wait_until,
};

/// What a node needs to know of its ledger nodes.
pub(crate) fn section(profile: Profile, ledgers: &[SocketAddr], more: &str) -> String {
    let mut text = format!("[ledger]\ncertificates={}\n{more}", host_dir(profile).join("sdk").display());
    for (number, address) in ledgers.iter().enumerate() {
        text.push_str(&format!("node.{number}={address}\n"));
    }
    text
}

pub(crate) fn node(profile: Profile, ledgers: &[SocketAddr], more: &str) -> TestNode {
    TestNode::start(profile, 0, &[], &section(profile, ledgers, more))
}

/// An application that counts its requests.
pub(crate) struct App {
    pub(crate) sdk: RawSdk,
    pub(crate) asked: u64,
    /// What has come and was not asked for yet.
    early: Vec<(Header, Vec<u8>)>,
}

impl App {
    pub(crate) fn connect(profile: Profile, address: SocketAddr) -> Self {
        let sdk = RawSdk::connect_with(application_config(profile), address).expect("it is let in");
        let mut app = Self { sdk, asked: 0, early: Vec::new() };
        let hello =
            app.send(FrameType::HANDSHAKE, br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"x"}"#);
        app.answer(FrameType::HANDSHAKE, &hello);
        app
    }

    pub(crate) fn of(profile: Profile, node: &TestNode) -> Self {
        Self::connect(profile, node.node().channel_address())
    }

    pub(crate) fn send(&mut self, frame_type: FrameType, data: &[u8]) -> Seq {
        self.asked += 1;
        let seq = seq(self.asked);
        self.sdk.send(&sdk::encode(frame_type, &seq, ResultCode::OK, data));
        seq
    }

    /// The next frame that fits, which may have come already.
    pub(crate) fn next(&mut self, fits: impl Fn(&Header, &[u8]) -> bool) -> Vec<u8> {
        if let Some(at) = self.early.iter().position(|(header, data)| fits(header, data)) {
            return self.early.remove(at).1;
        }
        loop {
            let frame = self.sdk.frame().expect("it is not cut");
            let (header, data) = (Header::decode(&frame).expect("a header"), frame[HEADER_LEN..].to_vec());
            if fits(&header, &data) {
                return data;
            }
            self.early.push((header, data));
        }
    }

    pub(crate) fn answer(&mut self, frame_type: FrameType, seq: &Seq) -> Vec<u8> {
        self.next(|header, _| header.frame_type == frame_type && header.seq == *seq)
    }

    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Seq {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": self.asked });
        self.send(FrameType::RPC, body.to_string().as_bytes())
    }

    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        let seq = self.call(method, params);
        serde_json::from_slice(&self.answer(FrameType::RPC, &seq)).expect("JSON")
    }

    /// A unicast to a topic, which is answered with its own payload.
    pub(crate) fn message(&mut self, topic: &str, payload: &[u8]) -> Seq {
        let body = [&[topic.len() as u8 + 1], topic.as_bytes(), payload].concat();
        self.send(FrameType::REQUEST, &body)
    }

    /// Answers the next message with itself.
    pub(crate) fn echo(&mut self) {
        let (mut request, is_request) = (None, |header: &Header| header.frame_type == FrameType::REQUEST);
        if let Some(at) = self.early.iter().position(|(header, _)| is_request(header)) {
            request = Some(self.early.remove(at));
        }
        while request.is_none() {
            let frame = self.sdk.frame().expect("it is not cut");
            let one = (Header::decode(&frame).expect("a header"), frame[HEADER_LEN..].to_vec());
            if is_request(&one.0) { request = Some(one) } else { self.early.push(one) }
        }
        let (header, data) = request.expect("just found");
        self.sdk.send(&sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, &data));
    }
}

fn filter(id: &str, from: &str, to: &str) -> Vec<u8> {
    let text = json!({ "fromBlock": from, "toBlock": to, "addresses": [], "topics": [], "groupID": "1", "filterID": id });
    [b"\x01", text.to_string().as_bytes()].concat()
}

/// Does all that an application can do with a ledger, and gives all that came of it, by type and seq.
fn everything(app: &mut App) -> BTreeMap<(u16, Seq), Vec<Vec<u8>>> {
    let mut wanted: Vec<(FrameType, Seq)> = Vec::new();
    app.send(FrameType::SUBSCRIBE, br#"["_block_notify_1","t"]"#);
    for (method, params) in [
        ("getClientVersion", json!([])),
        ("getGroupList", json!([])),
        ("getBlockNumber", json!([1])),
        ("getSealerList", json!([1])),
        ("noSuchMethod", json!([1])),
        ("large", json!([1, 1_000_000])),
        ("echo", json!([1, "y".repeat(300_000)])),
    ] {
        wanted.push((FrameType::RPC, app.call(method, &params)));
    }
    wanted.push((FrameType::RPC, app.send(FrameType::RPC, b"nonsense")));
    wanted.push((FrameType::EVENT_REGISTER, app.send(FrameType::EVENT_REGISTER, &filter("f", "1", "2"))));
    // Before it seals anything, the ledger node has heard all this.
    let mut got: BTreeMap<(u16, Seq), Vec<Vec<u8>>> = BTreeMap::new();
    let mut note = |app: &mut App, frame_type: FrameType, seq: Seq| {
        let data = app.answer(frame_type, &seq);
        got.entry((frame_type.0, seq)).or_default().push(data);
    };
    wanted.drain(..).for_each(|(frame_type, seq)| note(app, frame_type, seq));
    for transaction in ["0xaaaaaaaaaa", "0xbbbbbbbbbb", "0xcccccccccc"] {
        let seq = app.call("sendRawTransaction", &json!([1, transaction]));
        note(app, FrameType::RPC, seq);
        note(app, FrameType::RECEIPT, seq);
        note(app, FrameType::BLOCK_NOTICE, [b'0'; 32]);
    }
    // Logs of two blocks, and that it was these.
    (0..3).for_each(|_| note(app, FrameType::EVENT_LOGS, [b'0'; 32]));
    for method in ["getBlockByNumber", "getTransactionByHash", "getTransactionReceipt"] {
        let seq = app.call(method, &json!([1, "0x2"]));
        note(app, FrameType::RPC, seq);
    }
    let seq = app.send(FrameType::EVENT_UNREGISTER, &filter("f", "1", "2"));
    note(app, FrameType::EVENT_UNREGISTER, seq);
    assert_eq!(app.early.len(), 0, "more came than there should: {:?}", app.early);
    got
}

#[test]
fn an_application_gets_byte_by_byte_what_it_gets_of_the_ledger_node_itself() {
    for profile in [Profile::Ec, Profile::Rsa] {
        let results = [false, true].map(|behind_a_node| {
            let chain = SharedChain::default();
            let ledger = ScriptedLedger::start(profile, 1, &chain, None);
            let node = behind_a_node.then(|| node(profile, &[ledger.address], ""));
            let address = node.as_ref().map_or(ledger.address, |node| node.node().channel_address());
            everything(&mut App::connect(profile, address))
        });
        let [direct, behind] = results;
        assert_eq!(direct.keys().collect::<Vec<_>>(), behind.keys().collect::<Vec<_>>());
        for (key, frames) in direct {
            assert!(frames == behind[&key], "{profile:?}: type {:#x} differs", key.0);
        }
    }
}

#[test]
fn a_ledger_node_that_restarts_loses_no_log_and_no_message_and_runs_nothing_twice() {
    let profile = Profile::Ec;
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(profile, 1, &chain, None);
    let address = ledger.address;
    let node = node(profile, &[address], "");
    let mut app = App::of(profile, &node);
    let mut other = App::of(profile, &node);
    app.send(FrameType::SUBSCRIBE, br#"["_block_notify_1","t"]"#);
    node.wait_for_subscribers("t", 1);
    let seq = app.send(FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
    assert_eq!(app.answer(FrameType::EVENT_REGISTER, &seq), b"\x01{\"result\":0}\n");
    assert_eq!(app.ask("sendRawTransaction", &json!([1, "0x01"]))["result"], format!("0x{:064x}", 1));
    // Two that the ledger node has, and whose answers it never gives.
    chain.lock().delay = Duration::from_secs(3_600);
    let lost = ["0x02", "0x03"].map(|transaction| app.call("sendRawTransaction", &json!([1, transaction])));
    wait_until("both are there", || {
        chain.lock().received.iter().filter(|(_, frame_type, _)| *frame_type == FrameType::RPC).count() == 3
    });
    ledger.kill();
    for seq in lost {
        let answer: Value = serde_json::from_slice(&app.answer(FrameType::RPC, &seq)).unwrap();
        assert_eq!(answer["error"]["code"], OUTCOME_UNKNOWN);
    }
    // Messages go on, on the same connection.
    let seq = other.message("t", b"hello");
    app.echo();
    assert_eq!(other.answer(FrameType::RESPONSE, &seq), b"\x02thello");
    chain.lock().delay = Duration::ZERO;
    chain.mine("0x04");
    let _ledger = ScriptedLedger::start(profile, 1, &chain, Some(address));
    // What comes from here on goes to the new one; the filter goes on where it was.
    let answer = app.ask("sendRawTransaction", &json!([1, "0x05"]));
    assert_eq!(answer["result"], format!("0x{:064x}", 3), "{answer}");
    let mut blocks = Vec::new();
    while blocks.len() < 3 {
        let push = app.next(|header, _| header.frame_type == FrameType::EVENT_LOGS);
        let push: Value = serde_json::from_slice(&push).unwrap();
        blocks.extend(
            push["logs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|log| log["blockNumber"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(blocks, ["1", "2", "3"]);
    assert_eq!(chain.lock().executed(), ["0x01", "0x04", "0x05"]);
    app.next(|header, data| {
        header.frame_type == FrameType::BLOCK_NOTICE && data.ends_with(b"{\"blockNumber\":3,\"groupID\":1}\n")
    });
    assert_eq!(node.total(|counters| counters.ledger_reconnects.get()), 1);
    let metrics = [
        node.total(|counters| counters.ledger_outcome_unknown.get()),
        node.total(|counters| counters.ledger_filters_again.get()),
    ];
    assert_eq!(metrics, [2, 1]);
}

#[test]
fn where_no_ledger_node_answers_messages_are_as_fast_as_ever_and_requests_are_told() {
    let nobody = Nobody::new();
    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ledgers = [nobody.address().parse().unwrap(), silent.local_addr().unwrap()];
    let node = node(Profile::Ec, &ledgers, "");
    let (mut app, mut other) = (App::of(Profile::Ec, &node), App::of(Profile::Ec, &node));
    app.send(FrameType::SUBSCRIBE, br#"["_block_notify_1","t"]"#);
    node.wait_for_subscribers("t", 1);
    let asked = Instant::now();
    let seq = app.call("getBlockNumber", &json!([1]));
    for number in 0..100u32 {
        let payload = number.to_be_bytes();
        let message = other.message("t", &payload);
        app.echo();
        assert_eq!(other.answer(FrameType::RESPONSE, &message)[2..], payload);
    }
    let answer: Value = serde_json::from_slice(&app.answer(FrameType::RPC, &seq)).unwrap();
    assert_eq!(answer["error"]["code"], UNREACHABLE);
    assert!(asked.elapsed() >= amop::internal::relay::ledger::WAIT_MAX, "it had its time");
    assert_eq!(node.total(|counters| counters.ledger_unreachable.get()), 1);
    assert!(node.node().shared().counters.iter().any(|counters| counters.ledger_dials.get() > 0));
}

#[test]
fn lists_of_the_ledger_node_see_this_node_and_its_own_see_the_application() {
    let profile = Profile::Ec;
    let sdk = host_dir(profile).join("sdk");
    let key = Identity::load(&sdk.join("sdk.crt"), &sdk.join("sdk.key")).unwrap().node_id().unwrap();
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(profile, 1, &chain, None);
    let stranger = NodeId([7; 64]);
    for (of_ledger, of_node, code) in [
        (None, None, None),
        (Some(key), None, None),
        (Some(stranger), None, Some(NOT_ALLOWED)),
        (None, Some(key), None),
        (None, Some(stranger), Some(NOT_ALLOWED)),
    ] {
        chain.lock().allowlist = of_ledger.map(|key| [key].into());
        let more = of_node.map_or_else(String::new, |key| format!("allow.1={}\n", key.to_hex()));
        let node = node(profile, &[ledger.address], &more);
        let mut app = App::of(profile, &node);
        let answer = app.ask("getBlockNumber", &json!([1]));
        assert_eq!(answer["error"]["code"].as_i64(), code, "{answer}");
        assert_eq!(app.ask("getClientVersion", &json!([]))["result"]["Chain Id"], "7");
        let seq = app.send(FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
        let result = if code.is_some() { -41006 } else { 0 };
        assert_eq!(
            app.answer(FrameType::EVENT_REGISTER, &seq),
            format!("\x01{{\"result\":{result}}}\n").into_bytes()
        );
    }
}

#[test]
fn nodes_and_topics_of_amop_are_shown_among_those_of_the_ledger() {
    let profile = Profile::Rsa;
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(profile, 1, &chain, None);
    let first = node(profile, &[ledger.address], "");
    let second = TestNode::start(profile, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    let mut there = App::of(profile, &second);
    there.send(FrameType::SUBSCRIBE, br#"["there"]"#);
    first.wait_for_subscribers("there", 1);
    let mut app = App::of(profile, &first);
    let peers = app.ask("getPeers", &json!([1]));
    let found: Vec<(&str, &Value)> = peers["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["NodeID"].as_str().unwrap(), &node["Topic"]))
        .collect();
    assert_eq!(found, [("11", &json!([])), (second.node().id().to_hex().as_str(), &json!(["there"]))]);
    assert_eq!(app.ask("getNodeInfo", &json!([]))["result"]["NodeID"], "10");
    // A node without a ledger answers as before.
    assert_eq!(there.ask("getBlockNumber", &json!([1]))["result"], "0x0");
}

#[test]
fn large_answers_reach_a_slow_reader_whole_and_its_messages_are_not_held_up() {
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(Profile::Ec, 1, &chain, None);
    let node = node(Profile::Ec, &[ledger.address], "");
    let (mut app, mut other) = (App::of(Profile::Ec, &node), App::of(Profile::Ec, &node));
    app.send(FrameType::SUBSCRIBE, br#"["t"]"#);
    node.wait_for_subscribers("t", 1);
    // It asks for much, and reads nothing until more waits for it than may.
    let asked: Vec<Seq> = (0..12).map(|_| app.call("large", &json!([1, 4 << 20]))).collect();
    wait_until("the ledger node is read no further", || {
        node.total(|counters| counters.ledger_reads_paused.get()) > 0
    });
    let message = other.message("t", b"through");
    for seq in &asked {
        let answer: Value = serde_json::from_slice(&app.answer(FrameType::RPC, seq)).unwrap();
        assert_eq!(answer["result"].as_str().unwrap().len(), 4 << 20);
    }
    app.echo();
    assert_eq!(other.answer(FrameType::RESPONSE, &message), b"\x02tthrough");
    wait_until("nothing is kept any more", || node.total(|counters| counters.ledger_bytes.get()) < 1 << 16);
}

#[test]
fn what_is_wrong_in_the_section_is_said_with_what_to_do() {
    let dir = host_dir(Profile::Ec).join("node0");
    let problems = |text: &str| {
        let problems = Config::parse(text, &dir).expect_err("a fault");
        problems.into_iter().map(|problem| format!("{}: {}", problem.line, problem.text)).collect::<Vec<_>>()
    };
    let key = "ab".repeat(64);
    assert_eq!(
        problems("[ledger]\nnode.0=nowhere\n"),
        [
            "2: [ledger] node.0 = \"nowhere\" must be the channel port of a ledger node, such as 127.0.0.1:20200, [::1]:20200 or host:20200"
        ]
    );
    assert_eq!(
        problems("[ledger]\nnode.0=a:1\nallow.x=12\n"),
        ["3: [ledger] allow.x = \"12\" must be public keys of 128 hex digits with commas between"]
    );
    assert_eq!(
        problems(&format!("[ledger]\nnode.0=a:1\nallow.x={key}\n")),
        ["3: [ledger] allow.x must have the number of a group behind allow., such as allow.1"]
    );
    assert_eq!(
        problems(&format!("[chain]\nrsa_crypto_channel=true\n[ledger]\nnode.0=a:1\nallow.1={key}\n")),
        [format!(
            "5: [ledger] allow.1 = \"{key}\" must be left out: applications have RSA certificates here, by [chain] rsa_crypto_channel or [cert], and those have no such key"
        )]
    );
    assert_eq!(
        problems("[ledger]\namop=true\n"),
        [
            "2: [ledger] amop = true needs [ledger] node.0: messages are to go by a ledger node, and none is named"
        ]
    );
    assert_eq!(
        problems("[ledger]\nnode.0=a:1\namop=perhaps\n"),
        ["3: [ledger] amop = \"perhaps\" must be true or false"]
    );
    let (config, _) = Config::parse("[ledger]\nnode.0=a:1\namop=true\n", &dir).unwrap();
    assert!(config.relay.ledger.expect("it is named").amop);
    let (_, warnings) = Config::parse("[ledger]\ncertificates=x\n", &dir).unwrap();
    assert_eq!(warnings.len(), 1);
    // Certificates that are not there are an error of the start, and of `amop node --check`.
    let (config, _) = Config::parse("[ledger]\nnode.0=127.0.0.1:1\ncertificates=nowhere\n", &dir).unwrap();
    let checked =
        amop::internal::node::check::check(&config, &dir.join("config.ini"), std::time::SystemTime::now());
    let about: Vec<&str> = checked
        .findings
        .iter()
        .filter(|one| one.text.contains("[ledger]"))
        .map(|one| one.text.as_str())
        .collect();
    assert!(about.len() == 1 && about[0].contains("ca.crt, sdk.crt and sdk.key"), "{about:?}");
}

#[test]
fn lists_and_amop_top_show_ledger_nodes_as_what_they_are() {
    let profile = Profile::Ec;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(profile, 1, &chain, None);
    let more = format!("[admin]\nlisten_port=0\n{}", section(profile, &[nobody, ledger.address], ""));
    let node = TestNode::start(profile, 0, &[], &more);
    let mut app = App::of(profile, &node);
    let _idle = App::of(profile, &node);
    let seq = app.send(FrameType::EVENT_REGISTER, &filter("f", "1", "latest"));
    app.answer(FrameType::EVENT_REGISTER, &seq);
    chain.lock().delay = Duration::from_secs(3_600);
    app.call("getBlockNumber", &json!([1]));
    let admin = node.node().admin_address().expect("the endpoint is configured");
    let get = |path: &str| -> Value { serde_json::from_str(&self::get(admin, path).1).expect("JSON") };

    wait_until("the request waits", || {
        get("/sessions?sort=ledger_requests&order=desc")["items"][0]["ledger_requests"] == 1
    });
    let sessions = get("/sessions?sort=ledger_requests&order=desc");
    let [one, idle] = [0, 1].map(|at| sessions["items"][at].clone());
    assert_eq!((&one["ledger"], &one["ledger_filters"]), (&"up".into(), &1.into()));
    assert_eq!((&idle["ledger"], &idle["ledger_requests"]), (&"idle".into(), &0.into()));

    let nodes = get("/nodes");
    let behind = serde_json::json!({ "kind": "ledger", "address": ledger.address.to_string() });
    assert_eq!(nodes["total"], 2, "both that are named");
    assert!(nodes["items"].as_array().unwrap().contains(&behind), "{nodes}");

    let links = get("/links?sort=kind");
    assert_eq!(links["total"], 3, "two sessions, and what one of them needs");
    let link = &links["items"][0];
    assert_eq!(
        (&link["kind"], &link["state"], &link["peer"]),
        (&"ledger".into(), &"active".into(), &one["id"])
    );
    assert_eq!(link["address"], ledger.address.to_string());
    assert!(link["received_bytes"].as_u64() > Some(0) && link["sent_frames"].as_u64() >= Some(3), "{link}");

    let ledgers = get("/ledgers");
    let [dead, alive] = [0, 1].map(|at| ledgers["items"][at].clone());
    assert_eq!((&dead["address"], &dead["sessions"]), (&nobody.to_string().into(), &0.into()));
    assert_eq!((&dead["failure"]["cause"], &dead["dials_failed"]), (&"io".into(), &1.into()));
    assert!(dead["failure"]["remedy"].as_str().expect("a text").contains("whether the ledger node runs"));
    assert_eq!((&alive["sessions"], &alive["pending_requests"]), (&1.into(), &1.into()));
    assert!(alive.get("failure").is_none(), "{alive}");

    let (_, metrics) = self::get(admin, "/metrics");
    let figure = |name: &str, of: SocketAddr| -> f64 {
        let sample = format!("amop_ledger_node_{name}{{ledger=\"{of}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&sample));
        value.unwrap_or_else(|| panic!("no {sample}: {metrics}")).parse().expect("a number")
    };
    assert_eq!(
        ["sessions", "requests_total", "dials_total"].map(|name| figure(name, ledger.address)),
        [1.0, 2.0, 1.0]
    );
    assert_eq!(
        ["sessions", "requests_total", "dials_failed_total"].map(|name| figure(name, nobody)),
        [0.0, 0.0, 1.0]
    );
    assert!(
        figure("sent_bytes_total", ledger.address) > 0.0
            && figure("received_bytes_total", ledger.address) > 0.0
    );

    let output = output(
        std::process::Command::new(PROGRAM)
            .args(["top", "--once", "--interval", "0.1", "--admin"])
            .arg(admin.to_string()),
    );
    let text = String::from_utf8(output.stdout).expect("text");
    let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("ledger nodes: 2; ")).collect();
    assert!(table[2].contains(&nobody.to_string()) && table[2].contains("not reached: "), "{text}");
    assert!(table[3].contains(&ledger.address.to_string()) && table[3].contains(" reached"), "{text}");
    assert!(text.contains("links to nodes: 0"), "{text}");
}
