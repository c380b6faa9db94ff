//! The official Java SDK, as it is, against the built program. Without Java or Maven these tests say so and
//! pass, unless AMOP_INTEROP_REQUIRED is set, as in CI. `interop/java` is what runs over there: it does what
//! it is told and reports what happens.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{OnceLock, mpsc},
    time::Duration,
};

use amop::{
    pki::Profile,
    wire::{ResultCode, sdk::FrameType},
};
use serde_json::{Value, json};
use support::{
    have, host_dir,
    process::{PROGRAM, Process, write_config},
    wait_until, wait_until_within,
};

/// Longer than anything here takes: the SDK looks only every 20 s whether it has lost a connection.
const BOUND: Duration = Duration::from_secs(90);
/// Between two looks at other processes, which share the processors with this one.
const POLL: Duration = Duration::from_millis(20);
/// Above every timeout of a node, so that the SDK does not answer itself.
const PATIENCE_MS: u64 = 60_000;
const ADMIN: &str = "[admin]\nlisten_port=0\n";

fn have_java() -> bool {
    have("javac", "-version") && have("mvn", "-version")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Compiles the application once per run, without the network if Maven has all it needs, and gives the
/// class path.
fn class_path() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| {
        let build = Path::new(env!("CARGO_TARGET_TMPDIR")).join("java");
        let list = build.join("classpath");
        let maven = |more: &[&str]| {
            Command::new("mvn")
                .args(["-q", "-B"])
                .args(more)
                .arg(format!("-Dbuild={}", build.display()))
                .arg(format!("-Dmdep.outputFile={}", list.display()))
                .args(["compiler:compile", "dependency:build-classpath"])
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/java"))
                .output()
                .unwrap()
        };
        let mut output = maven(&["-o"]);
        if !output.status.success() {
            output = maven(&[]);
        }
        assert!(output.status.success(), "mvn: {}{}", text(&output.stdout), text(&output.stderr));
        let dependencies = std::fs::read_to_string(&list).unwrap();
        format!("{}:{}", build.join("classes").display(), dependencies.trim())
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An application of the Java SDK.
struct Java {
    child: Child,
    /// Until it stops.
    commands: Option<ChildStdin>,
    events: mpsc::Receiver<Value>,
    /// Events that came before they were asked for.
    early: Vec<Value>,
    requests: u64,
    dir: tempfile::TempDir,
}

impl Java {
    fn connect(certificates: &Path, nodes: &[&Process]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers: Vec<String> = nodes.iter().map(|node| format!("{:?}", node.channel.to_string())).collect();
        let config = format!(
            "[cryptoMaterial]\ncertPath={:?}\n[network]\npeers=[{}]\n[account]\nkeyStoreDir={:?}\n\
             accountFileFormat=\"pem\"\n[threadPool]\nmaxBlockingQueueSize=\"102400\"\n",
            certificates.display().to_string(),
            peers.join(","),
            dir.path().display().to_string(),
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", class_path(), "Peer", "config.toml"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (sender, events) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            // Whatever else the SDK prints is none of ours.
            for line in lines.filter(|line| line.starts_with('{')) {
                let _ = sender.send(serde_json::from_str(&line).expect("one object a line"));
            }
        });
        let commands = child.stdin.take();
        let mut java = Self { child, commands, events, early: Vec::new(), requests: 0, dir };
        assert_ne!(java.next("connected")["nodes"], json!([]));
        java.wait_for_nodes(nodes);
        java
    }

    fn tell(&mut self, command: &Value) {
        let commands = self.commands.as_mut().expect("it runs");
        writeln!(commands, "{command}").expect("the application reads");
    }

    /// The next event that fits, which may have come already.
    fn next_that(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.early.iter().position(&fits) {
            return self.early.remove(index);
        }
        loop {
            match self.events.recv_timeout(BOUND) {
                Ok(event) if fits(&event) => return event,
                Ok(event) => self.early.push(event),
                Err(error) => panic!("{error}; so far: {:?}", self.early),
            }
        }
    }

    fn next(&mut self, event: &str) -> Value {
        self.next_that(|value| value["event"] == event)
    }

    fn wait_for_nodes(&mut self, nodes: &[&Process]) {
        let mut wanted: Vec<String> = nodes.iter().map(|node| node.channel.to_string()).collect();
        wanted.sort();
        wait_until_within(BOUND, POLL, "the application has its connections", || {
            self.tell(&json!({ "do": "nodes" }));
            let mut nodes: Vec<String> =
                serde_json::from_value(self.next("nodes")["nodes"].clone()).expect("addresses");
            nodes.sort();
            nodes == wanted
        });
    }

    /// Whether a message of this topic has come.
    fn has_received(&mut self, topic: &str) -> bool {
        self.early.extend(self.events.try_iter());
        self.early.iter().any(|event| event["event"] == "received" && event["topic"] == topic)
    }

    fn subscribe(&mut self, topic: &str) {
        self.tell(&json!({ "do": "subscribe", "topic": topic }));
    }

    /// Sends a unicast through the AMOP interface, and gives the answer.
    fn unicast(&mut self, topic: &str, payload: &[u8]) -> Value {
        let id = self.send(topic, payload);
        self.answer(id)
    }

    /// Sends a unicast, and gives the number by which to ask for the answer.
    fn send(&mut self, topic: &str, payload: &[u8]) -> u64 {
        self.begin(
            json!({ "do": "unicast", "topic": topic, "payload": hex(payload), "timeout_ms": PATIENCE_MS }),
        )
    }

    fn send_file(&mut self, topic: &str, name: &str, content: &[u8]) -> Value {
        self.ask(json!({
            "do": "send_file", "topic": topic, "name": name, "payload": hex(content), "timeout_ms": PATIENCE_MS,
        }))
    }

    /// Sends a frame, and gives the answer's. It must be the node's or a subscriber's, not the SDK's own.
    fn frame(&mut self, kind: FrameType, topic: &str, payload: &[u8]) -> (ResultCode, String) {
        let answer = self.ask(json!({
            "do": "send_frame", "type": kind.0, "topic": topic, "payload": hex(payload),
            "timeout_ms": PATIENCE_MS,
        }));
        assert_eq!(answer["seq"], answer["sent_seq"]);
        let code = answer["code"].as_i64().unwrap() as i32;
        (ResultCode(code), answer["data"].as_str().unwrap().to_owned())
    }

    fn ask(&mut self, command: Value) -> Value {
        let id = self.begin(command);
        self.answer(id)
    }

    fn begin(&mut self, mut command: Value) -> u64 {
        self.requests += 1;
        command["id"] = self.requests.into();
        self.tell(&command);
        self.requests
    }

    fn answer(&mut self, id: u64) -> Value {
        self.next_that(|event| event["id"] == id)
    }

    fn received(&mut self, topic: &str) -> Value {
        self.next_that(|event| event["event"] == "received" && event["topic"] == topic)
    }

    fn broadcast(&mut self, topic: &str, payload: &[u8]) {
        self.tell(&json!({ "do": "broadcast", "topic": topic, "payload": hex(payload) }));
    }

    /// Ends the application in order, and gives its exit status.
    fn stop(mut self) -> Option<i32> {
        self.commands.take();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("an application's log:\n{log}");
        }
    }
}

/// `amop sub` with JSON output.
struct Subscriber {
    child: Child,
    messages: mpsc::Receiver<Value>,
}

impl Subscriber {
    fn start(node: &Process, topic: &str, more: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["sub", topic, "-o", "json", "-n", &node.channel.to_string(), "-c"])
            .arg(certificates())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, messages) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            for line in lines {
                let _ = sender.send(serde_json::from_str(&line).expect("one object a line"));
            }
        });
        Self { child, messages }
    }

    fn next(&self) -> Value {
        self.messages.recv_timeout(BOUND).expect("a message")
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `amop pub`, and what it says of the answer.
fn publish(node: &Process, arguments: &[&str]) -> Value {
    let Output { stdout, stderr, .. } = Command::new(PROGRAM)
        .args(["pub", "-o", "json", "-n", &node.channel.to_string(), "-c"])
        .arg(certificates())
        .args(arguments)
        .output()
        .unwrap();
    serde_json::from_slice(&stdout).unwrap_or_else(|_| panic!("{}{}", text(&stdout), text(&stderr)))
}

fn certificates() -> PathBuf {
    host_dir(Profile::Rsa).join("sdk")
}

/// Two nodes that are neighbours; `more` is further configuration of both.
fn two_nodes(more: &str) -> (Process, Process) {
    let host = host_dir(Profile::Rsa);
    let first = Process::start_with(&host.join("node0/conf"), true, &format!("{ADMIN}{more}"));
    let more = format!("node.0={}\n{ADMIN}{more}", first.p2p);
    let second = Process::start_with(&host.join("node1/conf"), true, &more);
    wait_until("the nodes are neighbours", || first.admin_json("/nodes")["total"] == 1);
    (first, second)
}

fn wait_for_subscribers(nodes: &[&Process], topic: &str, count: u64) {
    wait_until_within(BOUND, POLL, "the subscribers are known", || {
        nodes.iter().all(|node| node.subscribers(topic) == count)
    });
}

/// Bytes that are no text.
fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn java_applications_and_our_own_exchange_messages_over_two_nodes() {
    if !have_java() {
        return;
    }
    let (first, second) = two_nodes("");
    let mut publisher = Java::connect(&certificates(), &[&first]);
    let mut subscriber = Java::connect(&certificates(), &[&second]);

    subscriber.subscribe("贸易");
    wait_for_subscribers(&[&first, &second], "贸易", 1);
    for payload in [&b"hello"[..], "你好".as_bytes(), b"", &noise(20_000), &noise(1 << 20)] {
        let answer = publisher.unicast("贸易", payload);
        assert_eq!((&answer["code"], &answer["topic"]), (&json!(0), &json!("贸易")));
        assert!(answer["payload"] == hex(payload), "{} bytes came back changed", payload.len());
        let received = subscriber.received("贸易");
        assert_eq!(received["seq"], answer["seq"]);
        assert_eq!((&received["multicast"], &received["result"]), (&json!(false), &json!(0)));
        assert!(received["payload"] == hex(payload), "{} bytes arrived changed", payload.len());
    }

    let name = "报告.pdf";
    let answer = publisher.send_file("贸易", name, &noise(70_000));
    assert_eq!(answer["code"], 0);
    assert_eq!(subscriber.received("贸易")["file"], json!({ "name": name, "content": hex(&noise(70_000)) }));

    // The other applications speak the same.
    let ours = Subscriber::start(&second, "ours", &["--reply", "from ours"]);
    wait_for_subscribers(&[&first], "ours", 1);
    let answer = publisher.unicast("ours", b"from Java");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"from ours"))));
    let received = ours.next();
    assert_eq!((&received["text"], &received["seq"]), (&json!("from Java"), &answer["seq"]));
    // Without waiting for answers they arrive in the order sent.
    let ids: Vec<u64> =
        (0..200).map(|number| publisher.send("ours", number.to_string().as_bytes())).collect();
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(ours.next()["text"], number.to_string());
        assert_eq!(publisher.answer(id)["code"], 0);
    }
    let answer = publish(&first, &["贸易", "from ours"]);
    assert_eq!((&answer["code"], &answer["answer"]), (&json!(0), &json!("from ours")));
    assert_eq!(subscriber.received("贸易")["payload"], hex(b"from ours"));

    // Everybody once, on the publisher's node too, and the publisher.
    let mut near = Java::connect(&certificates(), &[&first]);
    for java in [&mut publisher, &mut subscriber, &mut near] {
        java.subscribe("ours");
    }
    wait_for_subscribers(&[&first, &second], "ours", 4);
    publisher.broadcast("ours", b"all");
    let copies = [&mut publisher, &mut subscriber, &mut near].map(|java| java.received("ours"));
    for copy in &copies {
        assert_eq!((&copy["multicast"], &copy["payload"]), (&json!(true), &json!(hex(b"all"))));
        assert_eq!(copy["seq"], copies[0]["seq"]);
    }
    let copy = ours.next();
    assert_eq!((&copy["kind"], &copy["seq"]), (&json!("multicast"), &copies[0]["seq"]));
    // A second copy would have come before what follows on the same connection.
    publisher.broadcast("ours", b"again");
    for java in [&mut publisher, &mut subscriber, &mut near] {
        assert_eq!(java.received("ours")["payload"], hex(b"again"));
    }
    assert_eq!(ours.next()["text"], "again");
    assert_eq!(publish(&second, &["ours", "ours to all", "--multicast"])["code"], 0);
    for java in [&mut publisher, &mut subscriber, &mut near] {
        assert_eq!(java.received("ours")["payload"], hex(b"ours to all"));
    }

    // The nodes as the SDK sees them, which is how its demos wait for a subscriber.
    publisher.tell(&json!({ "do": "get_peers" }));
    let peers = publisher.next("peers")["peers"].clone();
    let topics: Vec<String> = serde_json::from_value(peers[0]["Topic"].clone()).unwrap();
    assert!(peers.as_array().unwrap().len() == 1 && topics.contains(&"贸易".to_owned()), "{peers}");

    // The SDK writes the length of a topic that is too long as 0, which crashed FISCO BCOS' node (WIRE §8).
    let too_long = "t".repeat(255);
    assert_eq!(publisher.frame(FrameType::REQUEST, &too_long, b""), (ResultCode(100), String::new()));
    assert_eq!(publisher.unicast("贸易", b"still here")["code"], 0);

    // An application that unsubscribes is gone, and only from that topic.
    subscriber.tell(&json!({ "do": "unsubscribe", "topic": "贸易" }));
    wait_for_subscribers(&[&first], "贸易", 0);
    let answer = publisher.unicast("贸易", b"nobody");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(100), &Value::Null));
    assert_eq!(first.subscribers("ours"), 4);
    assert_eq!(publisher.frame(FrameType::REQUEST, "贸易", b"nobody"), (ResultCode(100), String::new()));
    // A multicast is accepted even then, and answered with its topic.
    let topic = hex(&[&[7], "贸易".as_bytes()].concat());
    assert_eq!(publisher.frame(FrameType::MULTICAST, "贸易", b"nobody"), (ResultCode::OK, topic));

    // The SDK sends its whole list with each new topic, here faster than a node takes changes.
    for number in 0..50 {
        near.subscribe(&format!("burst {number}"));
    }
    for topic in ["burst 0", "burst 49"] {
        wait_for_subscribers(&[&first, &second], topic, 1);
    }
    // An application that ends is gone from all.
    assert_eq!(near.stop(), Some(0));
    for (topic, left) in [("burst 0", 0), ("burst 49", 0), ("ours", 3)] {
        wait_for_subscribers(&[&first, &second], topic, left);
    }
}

#[test]
fn files_travel_among_three_nodes_between_java_applications_and_our_own() {
    if !have_java() {
        return;
    }
    let (first, third) = two_nodes("");
    let more = format!("node.0={}\nnode.1={}\n{ADMIN}", first.p2p, third.p2p);
    let second = Process::start_with(&host_dir(Profile::Rsa).join("node2/conf"), true, &more);
    let mut java = Java::connect(&certificates(), &[&first]);
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("saved");
    let ours = Subscriber::start(&second, "reports", &["--save", saved.to_str().unwrap()]);
    java.subscribe("statements");
    wait_for_subscribers(&[&first], "reports", 1);
    wait_for_subscribers(&[&second], "statements", 1);

    let content = noise(300_000);
    assert_eq!(java.send_file("reports", "../报告.pdf", &content)["code"], 0);
    let received = ours.next();
    assert_eq!(received["file"]["name"], "../报告.pdf");
    // Its name leads nowhere else.
    assert!(std::fs::read(saved.join("报告.pdf")).unwrap() == content);

    let file = dir.path().join("对账单.csv");
    std::fs::write(&file, &content).unwrap();
    let answer = publish(&second, &["statements", "--file", file.to_str().unwrap()]);
    assert_eq!(answer["code"], 0);
    let file = java.received("statements")["file"].clone();
    assert_eq!(file["name"], "对账单.csv");
    assert!(file["content"] == hex(&content));
}

#[test]
fn java_applications_of_two_nodes_outlive_either_and_subscribe_again_by_themselves() {
    if !have_java() {
        return;
    }
    let host = host_dir(Profile::Rsa);
    let first = Process::start_with(&host.join("node0/conf"), true, ADMIN);
    let dir = tempfile::tempdir().unwrap();
    // An address of its own: nobody else takes the ports while the node is away.
    let any = SocketAddr::from(([127, 0, 78, 1], 0));
    let more = format!("node.0={}\n{ADMIN}", first.p2p);
    let config = |listen| write_config(dir.path(), &host.join("node1/conf"), true, listen, &more);
    let second = Process::run(&config([any; 2]));
    let config = config([second.channel, second.p2p]);
    let mut publisher = Java::connect(&certificates(), &[&first, &second]);
    let mut subscriber = Java::connect(&certificates(), &[&first, &second]);
    subscriber.subscribe("t");
    wait_for_subscribers(&[&first, &second], "t", 2);

    // The SDK broadcasts to each of its nodes, and each of the subscriber's two sessions gets each frame.
    publisher.broadcast("t", b"four");
    let copies: Vec<Value> = (0..4).map(|_| subscriber.received("t")).collect();
    for copy in &copies {
        assert_eq!((&copy["multicast"], &copy["seq"]), (&json!(true), &copies[0]["seq"]));
    }
    let through_first = copies.iter().filter(|copy| copy["node"] == format!("/{}", first.channel)).count();
    assert_eq!(through_first, 2);
    // A unicast arrives once, and there was no fifth copy.
    for number in 0..8u8 {
        let answer = publisher.unicast("t", &[number]);
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(&[number]))));
        let received = subscriber.received("t");
        assert_eq!((&received["seq"], &received["payload"]), (&answer["seq"], &answer["payload"]));
    }

    assert_eq!(second.stop(), Some(0));
    for java in [&mut publisher, &mut subscriber] {
        java.wait_for_nodes(&[&first]);
    }
    assert_eq!(publisher.unicast("t", b"through the first alone")["code"], 0);

    let second = Process::run(&config);
    for java in [&mut publisher, &mut subscriber] {
        java.wait_for_nodes(&[&first, &second]);
    }
    wait_for_subscribers(&[&first, &second], "t", 2);
    assert_eq!(first.stop(), Some(0));
    for java in [&mut publisher, &mut subscriber] {
        java.wait_for_nodes(&[&second]);
    }
    assert_eq!(subscriber.received("t")["payload"], hex(b"through the first alone"));
    let answer = publisher.unicast("t", b"through the one that was away");
    assert_eq!((&answer["code"], &answer["node"]), (&json!(0), &json!(format!("/{}", second.channel))));
    assert_eq!(subscriber.received("t")["payload"], hex(b"through the one that was away"));
}

#[test]
fn a_java_subscriber_that_does_not_answer_costs_time_or_102() {
    if !have_java() {
        return;
    }
    let (first, second) = two_nodes("[amop]\npush_timeout_ms=2000\n");
    let mut publisher = Java::connect(&certificates(), &[&first]);
    let mut slow = Java::connect(&certificates(), &[&second]);
    let _quick = Subscriber::start(&second, "both", &["--reply", "quick"]);
    for topic in ["both", "slow"] {
        slow.tell(&json!({ "do": "subscribe", "topic": topic, "hold": true }));
    }
    slow.tell(&json!({ "do": "subscribe_without_callback", "topic": "mute" }));
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
    slow.tell(&json!({ "do": "release" }));
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
    let mut publisher = Java::connect(&certificates(), &[&first]);
    let mut subscriber = Java::connect(&certificates(), &[&second]);
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

#[test]
fn the_java_sdk_takes_certificates_as_build_chain_makes_them_with_openssl() {
    if !have_java() || !have("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/openssl_chain.sh");
    let output = Command::new("sh").arg(script).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "openssl_chain.sh: {}", text(&output.stderr));
    let node = Process::start_with(&dir.path().join("conf"), true, ADMIN);
    let mut java = Java::connect(&dir.path().join("sdk"), &[&node]);
    java.subscribe("t");
    wait_for_subscribers(&[&node], "t", 1);
    java.broadcast("t", b"to myself");
    assert_eq!(java.received("t")["payload"], hex(b"to myself"));
}
