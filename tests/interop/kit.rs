//! Applications of the official SDKs and our own, and the nodes that they connect to.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use amop::internal::{
    pki::Profile,
    wire::{ResultCode, sdk::FrameType},
};
use serde_json::{Value, json};

use crate::keys::{PASSWORD, PASSWORD_VARIABLE};
use crate::support::{
    have, host_dir,
    process::{PROGRAM, Process},
    wait_until, wait_until_within,
};

/// Longer than anything here takes: the SDK looks only every 20 s whether it has lost a connection.
const BOUND: Duration = Duration::from_secs(90);
/// Between two looks at other processes, which share the processors with this one.
const POLL: Duration = Duration::from_millis(20);
/// Above every timeout of a node, so that the SDK does not answer itself.
pub(crate) const PATIENCE_MS: u64 = 60_000;
pub(crate) const ADMIN: &str = "[admin]\nlisten_port=0\n";

pub(crate) fn have_java() -> bool {
    have("javac", "-version") && have("mvn", "-version")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that are no text.
pub(crate) fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Whose applications run in a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// The Java SDK for FISCO BCOS 2.x.
    Java2x,
    /// The Java SDK for FISCO BCOS 3.x.
    Java3x,
    /// The C library for FISCO BCOS 3.x, which Python calls.
    C3x,
}

impl Sdk {
    /// Whether what it needs is there, besides what Maven brings.
    pub(crate) fn is_there(self) -> bool {
        have_java() && (self != Self::C3x || have("python3", "--version"))
    }

    fn is_3x(self) -> bool {
        self != Self::Java2x
    }

    /// The directory with its applications.
    fn project(self) -> &'static str {
        if self.is_3x() { "java3x" } else { "java" }
    }

    /// Compiles the applications once per run, without the network if Maven has all it needs, and gives the
    /// class path.
    fn class_path(self) -> &'static str {
        static CLASS_PATHS: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
        CLASS_PATHS[usize::from(self.is_3x())].get_or_init(|| {
            let build = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.project());
            let list = build.join("classpath");
            let maven = |more: &[&str]| {
                Command::new("mvn")
                    .args(["-q", "-B"])
                    .args(more)
                    .arg(format!("-Dbuild={}", build.display()))
                    .arg(format!("-Dmdep.outputFile={}", list.display()))
                    .args(["compiler:compile", "dependency:build-classpath"])
                    .current_dir(
                        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(self.project()),
                    )
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

    /// The program that does what it is told; `dir` is where it may write.
    fn program(self, dir: &Path) -> Command {
        let class_path = self.class_path();
        if self == Self::C3x {
            let jar = class_path.split(':').find(|path| path.contains("bcos-sdk-jni-")).expect("the library");
            let mut program = Command::new("python3");
            program.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/c_sdk.py")).arg(jar);
            return program;
        }
        let mut program = Command::new("java");
        program.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", class_path]);
        // The library is unpacked there.
        program.arg(format!("-Djava.io.tmpdir={}", dir.display()));
        program
    }

    /// The configuration of an application in its own directory; `more` ends the file of 2.x, and its section about certificates in those of 3.x.
    fn config(self, dir: &Path, certificates: &Path, peers: &[String], more: &str) -> (&'static str, String) {
        let listed = peers.iter().map(|peer| format!("{peer:?}")).collect::<Vec<_>>().join(",");
        let certificates = certificates.display().to_string();
        match self {
            // One thread for what arrives, so that it is seen in the order in which it came.
            Self::Java2x => (
                "config.toml",
                format!(
                    "[cryptoMaterial]\ncertPath={certificates:?}\n[network]\npeers=[{listed}]\n[account]\n\
                     keyStoreDir={:?}\naccountFileFormat=\"pem\"\n[threadPool]\nchannelProcessorThreadSize=\"1\"\n\
                     maxBlockingQueueSize=\"102400\"\n{more}",
                    dir.display().to_string(),
                ),
            ),
            Self::Java3x => (
                "config.toml",
                format!(
                    "[cryptoMaterial]\ncertPath={certificates:?}\nuseSMCrypto=\"false\"\n{more}[network]\ndefaultGroup=\"group0\"\n\
                     peers=[{listed}]\n[account]\nkeyStoreDir={:?}\naccountFileFormat=\"pem\"\n[threadPool]\n",
                    dir.display().to_string(),
                ),
            ),
            Self::C3x => {
                let numbered = peers.iter().enumerate();
                let peers: String =
                    numbered.map(|(number, peer)| format!("node.{number}={peer}\n")).collect();
                (
                    "config.ini",
                    format!(
                        "[common]\nthread_pool_size=2\nmessage_timeout_ms=10000\n{more}[cert]\nssl_type=ssl\nca_path={certificates}\n\
                         ca_cert=ca.crt\nsdk_key=sdk.key\nsdk_cert=sdk.crt\n[peers]\n{peers}"
                    ),
                )
            }
        }
    }
}

type Receivers = Arc<Mutex<BTreeMap<u64, mpsc::Sender<Value>>>>;

/// A process of an SDK, for one test's applications.
#[derive(Clone)]
pub(crate) struct Machine(Arc<Running>);

struct Running {
    sdk: Sdk,
    child: Mutex<Child>,
    commands: Mutex<ChildStdin>,
    receivers: Receivers,
    dir: tempfile::TempDir,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further options of Java's.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        Self::run(Sdk::Java2x, options)
    }

    /// The same for another SDK.
    pub(crate) fn start_of(sdk: Sdk) -> Self {
        Self::run(sdk, &[])
    }

    fn run(sdk: Sdk, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let main: &[&str] = match sdk {
            Sdk::Java2x => &["Peer"],
            Sdk::Java3x => &["Peer3x"],
            Sdk::C3x => &[],
        };
        let mut child = sdk
            .program(dir.path())
            .args(options)
            .args(main)
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let receivers = Receivers::default();
        let senders = receivers.clone();
        std::thread::spawn(move || {
            // Whatever else the SDK prints is none of ours.
            for line in lines.filter(|line| line.starts_with('{')) {
                let event: Value = serde_json::from_str(&line).expect("one object a line");
                let application = event["application"].as_u64().expect("a number");
                if let Some(sender) = lock(&senders).get(&application) {
                    let _ = sender.send(event);
                }
            }
            lock(&senders).clear();
        });
        let commands = Mutex::new(child.stdin.take().unwrap());
        Self(Arc::new(Running { sdk, child: Mutex::new(child), commands, receivers, dir }))
    }

    /// An application with connections to these nodes.
    pub(crate) fn connect(&self, certificates: &Path, nodes: &[&Process]) -> Java {
        self.connect_with(certificates, nodes, &[], "")
    }

    /// The same with further addresses, at which there is nobody yet, and further configuration.
    pub(crate) fn connect_with(
        &self,
        certificates: &Path,
        nodes: &[&Process],
        away: &[SocketAddr],
        more: &str,
    ) -> Java {
        let mut java = self.begin_to_connect(certificates, nodes, away, more);
        assert_ne!(java.next("connected")["nodes"], json!([]));
        // Those of 3.x cannot tell, and are connected to all that are there.
        if !self.0.sdk.is_3x() {
            java.wait_for_nodes(nodes);
        }
        java
    }

    /// The same with addresses at which there are nodes of any kind.
    pub(crate) fn connect_at(&self, certificates: &Path, addresses: &[SocketAddr]) -> Java {
        let mut java = self.begin_to_connect(certificates, &[], addresses, "");
        assert_ne!(java.next("connected")["nodes"], json!([]));
        java
    }

    fn begin_to_connect(
        &self,
        certificates: &Path,
        nodes: &[&Process],
        away: &[SocketAddr],
        more: &str,
    ) -> Java {
        let (sender, events) = mpsc::channel();
        let number = {
            let mut receivers = lock(&self.0.receivers);
            let number = receivers.len() as u64;
            receivers.insert(number, sender);
            number
        };
        let dir = self.0.dir.path().join(number.to_string());
        std::fs::create_dir(&dir).unwrap();
        let peers = nodes.iter().map(|node| &node.channel).chain(away);
        let peers: Vec<String> = peers.map(SocketAddr::to_string).collect();
        let (name, config) = self.0.sdk.config(&dir, certificates, &peers, more);
        let path = dir.join(name);
        std::fs::write(&path, config).unwrap();
        let mut java = Java { machine: self.clone(), number, events, early: Vec::new(), requests: 0 };
        java.tell(json!({ "do": "connect", "config": path.display().to_string() }));
        java
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("the applications' log:\n{log}");
        }
    }
}

/// An application of an official SDK.
pub(crate) struct Java {
    machine: Machine,
    number: u64,
    events: mpsc::Receiver<Value>,
    /// Events that came before they were asked for.
    early: Vec<Value>,
    requests: u64,
}

impl Java {
    pub(crate) fn tell(&mut self, mut command: Value) {
        command["application"] = self.number.into();
        writeln!(lock(&self.machine.0.commands), "{command}").expect("the applications read");
    }

    /// The next event that fits, which may have come already.
    pub(crate) fn next_of(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.early.iter().position(&fits) {
            return self.early.remove(index);
        }
        loop {
            match self.events.recv_timeout(BOUND) {
                Ok(event) if fits(&event) => return event,
                Ok(event) if event["event"] == "failed" => panic!("{event}"),
                Ok(event) => self.early.push(event),
                Err(error) => panic!("{error}; so far: {:?}", self.early),
            }
        }
    }

    pub(crate) fn next(&mut self, event: &str) -> Value {
        self.next_of(|value| value["event"] == event)
    }

    /// Waits until it is connected to these and no others.
    pub(crate) fn wait_for_nodes(&mut self, nodes: &[&Process]) {
        let mut wanted: Vec<String> = nodes.iter().map(|node| node.channel.to_string()).collect();
        wanted.sort();
        wait_until_within(BOUND, POLL, "the application has its connections", || {
            self.tell(json!({ "do": "nodes" }));
            let mut nodes: Vec<String> =
                serde_json::from_value(self.next("nodes")["nodes"].clone()).expect("addresses");
            nodes.sort();
            nodes == wanted
        });
    }

    /// Whether a message of this topic has come.
    pub(crate) fn has_received(&mut self, topic: &str) -> bool {
        self.early.extend(self.events.try_iter());
        self.early.iter().any(|event| event["event"] == "received" && event["topic"] == topic)
    }

    pub(crate) fn subscribe(&mut self, topic: &str) {
        self.tell(json!({ "do": "subscribe", "topic": topic }));
    }

    pub(crate) fn unsubscribe(&mut self, topic: &str) {
        self.tell(json!({ "do": "unsubscribe", "topic": topic }));
    }

    /// Sends a unicast through the AMOP interface, and gives the answer.
    pub(crate) fn unicast(&mut self, topic: &str, payload: &[u8]) -> Value {
        let id = self.send(topic, payload);
        self.answer(id)
    }

    /// Sends a unicast, and gives the number by which to ask for the answer.
    pub(crate) fn send(&mut self, topic: &str, payload: &[u8]) -> u64 {
        self.begin(
            json!({ "do": "unicast", "topic": topic, "payload": hex(payload), "timeout_ms": PATIENCE_MS }),
        )
    }

    /// The same for a private topic, whose plain name the SDK takes.
    pub(crate) fn unicast_privately(&mut self, topic: &str, payload: &[u8]) -> Value {
        self.ask(json!({
            "do": "unicast", "private": true, "topic": topic, "payload": hex(payload),
            "timeout_ms": PATIENCE_MS,
        }))
    }

    pub(crate) fn broadcast_privately(&mut self, topic: &str, payload: &[u8]) {
        let payload = hex(payload);
        self.tell(json!({ "do": "broadcast", "private": true, "topic": topic, "payload": payload }));
    }

    /// Subscribes to a private topic with a key that the SDK reads from where `key` says.
    pub(crate) fn subscribe_privately(&mut self, topic: &str, key: &Value) {
        self.tell(json!({ "do": "subscribe_privately", "topic": topic, "key": key }));
    }

    /// Declares itself publisher of a private topic, for subscribers with these public keys.
    pub(crate) fn publish_privately(&mut self, topic: &str, keys: &[Value]) {
        self.tell(json!({ "do": "publish_privately", "topic": topic, "keys": keys }));
    }

    pub(crate) fn send_file(&mut self, topic: &str, name: &str, content: &[u8]) -> Value {
        self.send_file_as(false, topic, name, content)
    }

    pub(crate) fn send_file_privately(&mut self, topic: &str, name: &str, content: &[u8]) -> Value {
        self.send_file_as(true, topic, name, content)
    }

    fn send_file_as(&mut self, private: bool, topic: &str, name: &str, content: &[u8]) -> Value {
        self.ask(json!({
            "do": "send_file", "private": private, "topic": topic, "name": name, "payload": hex(content),
            "timeout_ms": PATIENCE_MS,
        }))
    }

    /// Sends a frame, and gives the answer's. It must be the node's or a subscriber's, not the SDK's own.
    pub(crate) fn frame(&mut self, kind: FrameType, topic: &str, payload: &[u8]) -> (ResultCode, String) {
        let answer = self.ask(json!({
            "do": "send_frame", "type": kind.0, "topic": topic, "payload": hex(payload),
            "timeout_ms": PATIENCE_MS,
        }));
        assert_eq!(answer["seq"], answer["sent_seq"]);
        let code = answer["code"].as_i64().unwrap() as i32;
        (ResultCode(code), answer["data"].as_str().unwrap().to_owned())
    }

    pub(crate) fn ask(&mut self, command: Value) -> Value {
        let id = self.begin(command);
        self.answer(id)
    }

    pub(crate) fn begin(&mut self, mut command: Value) -> u64 {
        self.requests += 1;
        command["id"] = self.requests.into();
        self.tell(command);
        self.requests
    }

    pub(crate) fn answer(&mut self, id: u64) -> Value {
        self.next_of(|event| event["id"] == id)
    }

    pub(crate) fn received(&mut self, topic: &str) -> Value {
        self.next_of(|event| event["event"] == "received" && event["topic"] == topic)
    }

    pub(crate) fn broadcast(&mut self, topic: &str, payload: &[u8]) {
        self.tell(json!({ "do": "broadcast", "topic": topic, "payload": hex(payload) }));
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        self.tell(json!({ "do": "stop" }));
        self.next("stopped");
    }
}

/// `amop sub` with JSON output.
pub(crate) struct Subscriber {
    child: Child,
    messages: mpsc::Receiver<Value>,
}

impl Subscriber {
    pub(crate) fn start(node: &Process, topic: &str, more: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["sub", topic, "-o", "json", "-n", &node.channel.to_string(), "-c"])
            .arg(certificates())
            .args(more)
            .env(PASSWORD_VARIABLE, PASSWORD)
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

    pub(crate) fn next(&self) -> Value {
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
pub(crate) fn publish(node: &Process, arguments: &[&str]) -> Value {
    let Output { stdout, stderr, .. } = Command::new(PROGRAM)
        .args(["pub", "-o", "json", "-n", &node.channel.to_string(), "-c"])
        .arg(certificates())
        .args(arguments)
        .output()
        .unwrap();
    serde_json::from_slice(&stdout).unwrap_or_else(|_| panic!("{}{}", text(&stdout), text(&stderr)))
}

pub(crate) fn certificates() -> PathBuf {
    host_dir(Profile::Rsa).join("sdk")
}

/// Two nodes that are neighbours; `more` is further configuration of both.
pub(crate) fn two_nodes(more: &str) -> (Process, Process) {
    let host = host_dir(Profile::Rsa);
    let first = Process::start_with(&host.join("node0/conf"), true, &format!("{ADMIN}{more}"));
    let more = format!("node.0={}\n{ADMIN}{more}", first.p2p);
    let second = Process::start_with(&host.join("node1/conf"), true, &more);
    wait_until("the nodes are neighbours", || first.admin_json("/nodes")["total"] == 1);
    (first, second)
}

/// Waits until something about other processes holds.
pub(crate) fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_until_within(BOUND, POLL, what, holds);
}

pub(crate) fn wait_for_subscribers(nodes: &[&Process], topic: &str, count: u64) {
    wait_for("the subscribers are known", || nodes.iter().all(|node| node.subscribers(topic) == count));
}
