//! A node that is told to leave in order: its applications go on with another node, and no message of theirs is lost.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use amop::{
    client::{Certificates, Client, ClientOptions, Dialect, Messages, ResultCode},
    internal::{
        pki::Profile,
        wire::sdk::{self, FrameType, HEADER_LEN, Header},
    },
};

use crate::support::{
    RawSdk, application_config, get, host_dir,
    process::{PROGRAM, Process, output_of, write_config},
    runtime, seq, wait_until,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A process of a node with a pid file in `dir`.
fn start(dir: &Path, index: usize, more: &str) -> Process {
    let conf = host_dir(Profile::Ec).join(format!("node{index}/conf"));
    let config = write_config(dir, &conf, false, [ANY; 2], more);
    let child = Command::new(PROGRAM)
        .args(["node", "-c"])
        .arg(config)
        .arg("--pid-file")
        .arg(dir.join("amop.pid"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Process::come_up(child).unwrap_or_else(|(_, log)| panic!("the node does not come up: {log}"))
}

/// Begins `amop drain`.
fn drain(dir: &Path) -> std::process::Child {
    Command::new(PROGRAM)
        .args(["drain", "--timeout", "25", "--pid-file"])
        .arg(dir.join("amop.pid"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn client(nodes: &[&Process]) -> (Client, Messages) {
    let options = ClientOptions {
        nodes: nodes.iter().map(|node| node.channel.to_string()).collect(),
        certificates: Certificates::load(&host_dir(Profile::Ec).join("sdk")).unwrap(),
        connect_timeout: TIMEOUT,
        dialect: Dialect::V2,
    };
    Client::connect(options).await.unwrap()
}

#[test]
fn no_message_fails_while_a_node_leaves_whose_applications_are_connected_to_another_one_too() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let staying = start(dirs[0].path(), 0, "[admin]\nlisten_port=0\n");
    let more = format!("node.0={}\n[admin]\nlisten_port=0\n[amop]\nlame_duck_ms=500\n", staying.p2p);
    let mut leaving = start(dirs[1].path(), 1, &more);
    runtime().block_on(async {
        let (subscriber, mut messages) = client(&[&staying, &leaving]).await;
        subscriber.subscribe(&["t"]).await.unwrap();
        let (publisher, _) = client(&[&staying]).await;
        wait_until("both of the subscriber's links are known", || {
            staying.subscribers("t") == 2 && leaving.subscribers("t") == 2
        });
        let answers = tokio::spawn(async move {
            let mut by_node = [0, 0];
            while let Some(message) = messages.recv().await {
                by_node[message.node] += 1;
                subscriber.respond(&message, b"yes").await;
            }
            by_node
        });
        let ask = async || {
            let answer = publisher.request("t", b"x", TIMEOUT).await.unwrap();
            assert_eq!(answer.code, ResultCode::OK);
        };
        for _ in 0..50 {
            ask().await;
        }
        let mut leaves = drain(dirs[1].path());
        while leaves.try_wait().unwrap().is_none() {
            ask().await;
        }
        let left = output_of(leaves);
        assert!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
        assert_eq!(leaving.child.wait().unwrap().code(), Some(0));
        for _ in 0..50 {
            ask().await;
        }
        answers.abort();
    });
}

#[test]
fn a_node_that_leaves_lets_nobody_in_says_so_and_waits_for_what_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let mut leaving = start(dir.path(), 0, "[admin]\nlisten_port=0\n");
    let connect = || RawSdk::connect_with(application_config(Profile::Ec), leaving.channel).unwrap();
    let (mut slow, mut publisher) = (connect(), connect());
    slow.subscribe(&["slow"]);
    wait_until("the topic is known", || leaving.subscribers("slow") == 1);
    publisher.send(&sdk::encode_amop(FrameType::REQUEST, &seq(1), ResultCode::OK, "slow", b"?"));
    let asked = slow.frame().unwrap();
    let leaves = drain(dir.path());
    let admin = leaving.admin.unwrap();
    wait_until("it says that it leaves", || get(admin, "/readyz").0 == 503);
    let (_, why) = get(admin, "/readyz");
    assert!(why.contains("applications are let go"), "{why}");
    assert_eq!(get(admin, "/livez").0, 200);
    wait_until("nobody is let in", || TcpStream::connect(leaving.channel).is_err());
    let header = Header { frame_type: FrameType::RESPONSE, ..Header::decode(&asked).unwrap() };
    slow.send(&[&header.encode(), &asked[HEADER_LEN..]].concat());
    let answer = Header::decode(&publisher.frame().unwrap()).unwrap();
    assert_eq!((answer.seq, answer.result), (seq(1), ResultCode::OK));
    assert!(slow.frame().is_none() && publisher.frame().is_none(), "both are closed in order");
    drop((slow, publisher));
    assert!(output_of(leaves).status.success());
    assert_eq!(leaving.child.wait().unwrap().code(), Some(0));
}

#[test]
fn where_no_node_holds_a_pid_file_nobody_is_told_to_leave() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |what: &str| {
        let said = output_of(drain(dir.path()));
        assert_eq!(said.status.code(), Some(1), "{what}");
        assert!(
            String::from_utf8_lossy(&said.stderr).contains("no node runs that holds this file"),
            "{what}"
        );
    };
    refused("there is none");
    // What one left that was killed.
    std::fs::write(dir.path().join("amop.pid"), format!("{}\n", std::process::id())).unwrap();
    refused("nobody holds it");
}
