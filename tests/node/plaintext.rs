//! `[tls] channel_plaintext`: applications without TLS, on loopback, for measuring.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use amop::internal::{
    config::Config,
    node::Node,
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType},
    },
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    self, BOUND, RawSdk, TestNode, application_config, client, host_dir,
    process::{PROGRAM, Process, write_config},
    runtime, wait_until,
};

const PLAINTEXT: &str = "[tls]\nchannel_plaintext=true\n";
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An application without TLS.
struct PlainSdk {
    socket: TcpStream,
}

impl PlainSdk {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("the node listens");
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { socket }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the node reads");
    }

    /// The next frame; `None` once the node has closed in order, and nothing else is left.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4];
        match self.socket.read_exact(&mut frame) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            read => read.expect("a frame"),
        }
        frame.resize(u32::from_be_bytes(*frame.first_chunk().unwrap()) as usize, 0);
        self.socket.read_exact(&mut frame[4..]).expect("the whole frame");
        Some(frame)
    }

    /// Whether it gets the answer to a heartbeat.
    fn is_served(&mut self) -> bool {
        self.send(&heartbeat());
        self.frame().is_some_and(|frame| frame[42..] == *b"1")
    }
}

fn heartbeat() -> Vec<u8> {
    sdk::encode(FrameType::HEARTBEAT, &[b'h'; 32], ResultCode::OK, b"0")
}

fn subscription(topics: &str) -> Vec<u8> {
    sdk::encode(FrameType::SUBSCRIBE, &[b's'; 32], ResultCode::OK, topics.as_bytes())
}

#[test]
fn an_application_without_tls_exchanges_messages_of_any_length_with_one_that_has_it_on_another_node() {
    let plain = TestNode::start(Profile::Ec, 0, &[], PLAINTEXT);
    let other = TestNode::start(Profile::Ec, 1, &[&plain], "");
    other.wait_for_neighbours(&[&plain]);
    let mut app = PlainSdk::connect(plain.node().channel_address());
    app.send(&subscription(r#"["to-plain"]"#));
    other.wait_for_subscribers("to-plain", 1);
    runtime().block_on(async {
        let (client, mut messages) = client(Profile::Ec, &[&other]).await;
        client.subscribe(&["to-tls"]).await.unwrap();
        plain.wait_for_subscribers("to-tls", 1);
        for len in [0, 1, 1_000, 16_341, 70_000, 1 << 20, 5 << 20] {
            let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            // Towards it, and its answer.
            let (to_plain, mut socket) = (payload.clone(), app.socket.try_clone().unwrap());
            let answering = tokio::task::spawn_blocking(move || {
                let mut app = PlainSdk { socket: socket.try_clone().unwrap() };
                let mut frame = app.frame().expect("the node keeps the connection");
                let body = sdk::AmopBody::decode(&frame[42..]).unwrap();
                assert_eq!(body.topic, "to-plain");
                assert!(frame[42 + body.payload_offset..] == to_plain);
                frame[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
                socket.write_all(&frame).unwrap();
            });
            let answer = client.request("to-plain", &payload, BOUND).await.unwrap();
            assert_eq!(answer.code, ResultCode::OK);
            assert!(answer.payload == payload, "{len} bytes");
            answering.await.unwrap();
            // From it, in pieces that are cut anywhere.
            let seq = [b'0' + (len % 10) as u8; 32];
            let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "to-tls", &payload);
            for piece in frame.chunks(3 + frame.len() / 7) {
                app.send(piece);
            }
            let message = messages.recv().await.unwrap();
            assert!(message.payload == payload, "{len} bytes");
            client.respond(&message, &message.payload).await;
            let answer = app.frame().unwrap();
            assert!(answer[..4] == frame[..4] && answer[42..] == frame[42..], "{len} bytes");
        }
    });
}

#[test]
fn frames_that_come_together_are_all_answered_in_order_and_the_end_adds_no_byte() {
    let node = TestNode::start(Profile::Ec, 0, &[], PLAINTEXT);
    let mut app = PlainSdk::connect(node.node().channel_address());
    let seqs: Vec<[u8; 32]> = (0..3_000)
        .map(|number| format!("{number:032}").into_bytes())
        .map(|seq| seq.try_into().unwrap())
        .collect();
    let frames: Vec<_> = seqs
        .iter()
        .map(|seq| sdk::encode_amop(FrameType::MULTICAST, seq, ResultCode::OK, "nobody", &[7; 300]))
        .collect();
    let (mut sending, all) = (app.socket.try_clone().unwrap(), frames.concat());
    let writer = std::thread::spawn(move || {
        sending.write_all(&all).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    for seq in &seqs {
        let answer = app.frame().expect("what came before the end is answered");
        assert_eq!((&answer[4..6], &answer[6..38]), (&[0, 0x31][..], &seq[..]));
    }
    assert_eq!(app.frame(), None);
    writer.join().unwrap();
    wait_until("the session is gone", || node.total(|counters| counters.sessions.get()) == 0);
    assert_eq!(node.total(|counters| counters.closed_protocol.get()), 0);
}

#[test]
fn a_tls_client_is_turned_away_by_a_listener_without_tls_and_others_notice_nothing() {
    let node = TestNode::start(Profile::Ec, 0, &[], PLAINTEXT);
    let address = node.node().channel_address();
    let mut app = PlainSdk::connect(address);
    for _ in 0..3 {
        let refused = RawSdk::connect_with(application_config(Profile::Ec), address);
        assert!(refused.is_err());
        assert!(app.is_served());
    }
    wait_until("they are closed", || node.total(|counters| counters.closed_protocol.get()) == 3);
    wait_until("one is left", || node.total(|counters| counters.sessions.get()) == 1);
    assert!(app.is_served());
}

#[test]
fn links_between_nodes_keep_their_tls() {
    let node = TestNode::start(Profile::Ec, 0, &[], PLAINTEXT);
    let mut stranger = PlainSdk::connect(node.node().p2p_address());
    stranger.send(&heartbeat());
    let mut answer = Vec::new();
    let _ = stranger.socket.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer[0] == 21, "nothing but an alert");
    let linked = TestNode::start(Profile::Ec, 1, &[&node], "");
    node.wait_for_neighbours(&[&linked]);
}

#[test]
fn a_session_without_tls_has_an_address_and_no_subject() {
    let more = format!("{PLAINTEXT}[admin]\nlisten_port=0\n");
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let mut app = PlainSdk::connect(node.node().channel_address());
    assert!(app.is_served());
    let (_, sessions) = support::get(node.node().admin_address().unwrap(), "/sessions");
    let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
    let own = app.socket.local_addr().unwrap().to_string();
    let session = &sessions["items"][0];
    assert_eq!((session["address"].as_str(), session["subject"].as_str()), (Some(own.as_str()), Some("")));
}

#[test]
fn only_a_listener_on_loopback_may_be_without_tls() {
    for (ip, may) in [
        ("", false),
        ("channel_listen_ip=0.0.0.0\n", false),
        ("channel_listen_ip=::\n", false),
        ("channel_listen_ip=10.0.0.1\n", false),
        ("channel_listen_ip=::ffff:10.0.0.1\n", false),
        ("listen_ip=127.0.0.1\nchannel_listen_ip=0.0.0.0\n", false),
        ("listen_ip=127.0.0.1\n", true),
        ("channel_listen_ip=127.0.0.1\n", true),
        ("channel_listen_ip=127.8.9.10\n", true),
        ("channel_listen_ip=::1\n", true),
    ] {
        let text = format!("[rpc]\n{ip}{PLAINTEXT}");
        match Config::parse(&text, Path::new(".")) {
            Ok((config, warnings)) => {
                assert!(may && config.channel_plaintext, "{ip}");
                assert_eq!(warnings, []);
            }
            Err(problems) => {
                assert!(!may && problems.len() == 1, "{ip}: {problems:?}");
                let line = text.lines().position(|line| line.starts_with("channel_plaintext")).unwrap() + 1;
                assert_eq!(problems[0].line as usize, line);
                for word in ["[tls] channel_plaintext", "[rpc] channel_listen_ip", "127.0.0.1"] {
                    assert!(problems[0].text.contains(word), "{}", problems[0].text);
                }
            }
        }
    }
    assert!(
        !Config::parse("", Path::new(".")).unwrap().0.channel_plaintext,
        "TLS unless it is said otherwise"
    );
}

#[test]
fn a_node_that_would_be_without_tls_for_others_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let config = write_config(dir.path(), &conf, false, [everywhere, LOOPBACK], PLAINTEXT);
    let ended =
        Command::new(PROGRAM).args(["node", "-c"]).arg(&config).stdin(Stdio::null()).output().unwrap();
    assert!(!ended.status.success());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("[tls] channel_plaintext") && said.contains("channel_listen_ip"), "{said}");

    // Nor one whose address was changed after its configuration was read.
    let directory = host_dir(Profile::Ec).join("node0");
    let text =
        format!("[rpc]\nlisten_ip=127.0.0.1\nchannel_listen_port=0\n[p2p]\nlisten_port=0\n{PLAINTEXT}");
    let (mut config, _) = Config::parse(&text, &directory).unwrap();
    config.channel_listen.0 = "0.0.0.0".to_owned();
    let refused = Node::start(config).err().expect("it does not start").to_string();
    assert!(
        refused.contains("[tls] channel_plaintext") && refused.contains("channel_listen_ip"),
        "{refused}"
    );
}

/// A node's process whose configuration can be written again.
struct Reloadable {
    process: Process,
    config: PathBuf,
    _dir: tempfile::TempDir,
}

impl Reloadable {
    fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::run(&Self::write(dir.path(), more));
        Self { process, config: dir.path().to_owned(), _dir: dir }
    }

    fn write(dir: &Path, more: &str) -> PathBuf {
        write_config(dir, &host_dir(Profile::Ec).join("node0/conf"), false, [LOOPBACK; 2], more)
    }

    fn reload(&self, more: &str) {
        Self::write(&self.config, more);
        kill_process(Pid::from_child(&self.process.child), Signal::HUP).unwrap();
        let taken = "configuration read again: [p2p] node.N, the lists and the certificates hold from now on, other keys from the next start";
        wait_until("it is read again", || !self.process.logged(taken).is_empty());
    }
}

#[test]
fn what_a_reload_says_changes_no_listener() {
    let node = Reloadable::start(PLAINTEXT);
    // A file without the section would be refused.
    node.reload("[tls]\nchannel_plaintext=false\n");
    assert!(PlainSdk::connect(node.process.channel).is_served());
    assert!(RawSdk::connect_with(application_config(Profile::Ec), node.process.channel).is_err());

    let node = Reloadable::start("");
    node.reload(PLAINTEXT);
    let mut app = RawSdk::connect_with(application_config(Profile::Ec), node.process.channel).unwrap();
    app.send(&heartbeat());
    assert_eq!(app.frame().unwrap()[42..], *b"1");
    // What is no TLS is answered with an alert at most.
    let mut plain = PlainSdk::connect(node.process.channel);
    plain.send(&heartbeat());
    let mut answer = Vec::new();
    let _ = plain.socket.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer[0] == 21);
}

#[test]
fn a_node_without_tls_says_so_when_it_starts() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut child = support::process::spawn(&Reloadable::write(dir.path(), PLAINTEXT));
    let mut warned = false;
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let message = line["fields"]["message"].as_str().unwrap_or_default();
        warned |= line["level"] == "WARN" && message.contains("WITHOUT TLS");
        if message == "the node is up" {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(warned);
}
