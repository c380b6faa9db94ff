//! One node by its id, and all nodes: `amop net ping` and `amop net announce` over real nodes.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    process::{Command, Output},
};

use amop::internal::pki::Profile;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    Nobody, TestNode, host_dir,
    process::{PROGRAM, Process},
    wait_until,
};

const ADMIN: &str = "[admin]\nlisten_port=0\n";

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).arg("net").args(arguments).output().unwrap()
}

#[track_caller]
fn text_of(output: &Output, status: i32) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    // Nothing that a terminal obeys, whatever others have named or said.
    assert!(!text.contains(|character: char| character.is_control() && character != '\n'), "{text:?}");
    text
}

/// Processes of the built program, each linked with the one before.
fn line(count: usize) -> Vec<Process> {
    let mut nodes: Vec<Process> = Vec::new();
    for number in 0..count {
        let peer = nodes.last().map(|last| format!("node.0={}\n", last.p2p)).unwrap_or_default();
        let conf = host_dir(Profile::Ec).join(format!("node{number}/conf"));
        nodes.push(Process::start_with(&conf, false, &format!("{peer}{ADMIN}")));
    }
    for node in &nodes {
        wait_until("all are reached", || node.admin_json("/network")["reachable"] == count - 1);
    }
    nodes
}

fn admin(node: &Process) -> String {
    node.admin.unwrap().to_string()
}

fn id(node: &Process) -> String {
    let network = node.admin_json("/network");
    let mut items = network["items"].as_array().unwrap().iter();
    items.find(|item| item["standing"] == "own").unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn ping_shows_each_hop_of_the_way_to_a_node_and_what_is_lost() {
    let mut nodes = line(3);
    let ids: Vec<String> = nodes.iter().map(id).collect();
    let first = admin(&nodes[0]);
    let ping = |node: &str, more: &[&str]| {
        run(&[&["ping", node, "--admin", &first, "--interval", "0.1"][..], more].concat())
    };

    let text = text_of(&ping(&ids[2], &["-c", "2"]), 0);
    assert!(text.contains(&format!("round 2: {} answers over 2 hops in ", &ids[2][..8])), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for (hop, node) in [("1", &ids[1]), ("2", &ids[2])] {
        let row = rows.iter().find(|row| row.first() == Some(&hop)).unwrap_or_else(|| panic!("{text}"));
        assert_eq!((row[1], row[2]), ("2", "0"), "{text}");
        assert!(row.contains(&&node[..8]), "{text}");
    }
    assert!(text.trim_end().ends_with(": 2 pings, 2 answered, 0 % lost"), "{text}");

    let json = text_of(&ping(&ids[2][..16], &["-c", "3", "--json"]), 0);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["node"], &json["sent"], &json["lost"]),
        (&ids[2].as_str().into(), &3.into(), &0.into())
    );
    let hops = json["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 2);
    for (hop, node) in hops.iter().zip(&ids[1..]) {
        assert_eq!(
            (&hop["sent"], &hop["lost"], hop["nodes"].as_array().unwrap().len()),
            (&3.into(), &0.into(), 1)
        );
        assert_eq!(
            (&hop["nodes"][0]["node"], &hop["nodes"][0]["answered"]),
            (&node.as_str().into(), &3.into())
        );
        assert!(hop["nodes"][0]["best_us"].as_u64().unwrap() > 0);
    }
    assert_eq!(nodes[1].figure("pings_ended"), 2 + 3);
    assert_eq!(nodes[2].figure("pings_answered"), 2 + 3);

    // A neighbour is a way of one hop, and has a name.
    let text = text_of(&ping(&ids[1], &["-c", "1"]), 0);
    assert!(text.contains(&format!("round 1: {} (node1) answers over 1 hop in ", &ids[1][..8])), "{text}");

    for (node, status, expected) in [
        (ids[0].as_str(), 1, "is the node that you ask itself"),
        (&"0".repeat(128), 1, "no node of the network is known whose id begins with 000"),
        ("node2", 2, "must be the 128 hex digits"),
    ] {
        let text = text_of(&ping(node, &["-c", "1"]), status);
        assert!(text.contains(expected), "{text}");
    }
    let closed = Nobody::new();
    let text = text_of(&run(&["ping", &ids[2], "--admin", &closed.address()]), 1);
    assert!(text.contains("is [admin] listen_port set"), "{text}");

    // One that hangs does not answer; those before it do.
    let pid = Pid::from_child(&nodes[2].child);
    kill_process(pid, Signal::STOP).unwrap();
    let text = text_of(&ping(&ids[2], &["-c", "1"]), 3);
    assert!(text.contains("1 pings, 0 answered, 100 % lost"), "{text}");
    // On a machine without time for this, its link has been given up meanwhile.
    if !text.contains("no links lead to it") {
        assert!(text.contains("no answer"), "{text}");
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.iter().any(|row| row.first() == Some(&"1") && row.contains(&&ids[1][..8])), "{text}");
        assert!(rows.iter().any(|row| row.first() == Some(&"2") && row.last() == Some(&"*")), "{text}");
    }

    // One that is dead is said to be.
    drop(nodes.pop());
    wait_until("its loss is known", || nodes[0].admin_json("/network")["reachable"] == 1);
    let text = text_of(&ping(&ids[2], &["-c", "5"]), 3);
    assert!(text.contains("no links lead to it since 20"), "{text}");
    assert!(text.contains("1 pings, 0 answered"), "nobody waits for it: {text}");
}

#[test]
fn an_announcement_reaches_all_nodes_and_their_logs() {
    let nodes = line(3);
    let ids: Vec<String> = nodes.iter().map(id).collect();
    let text = "升级 at 22:00 \u{202e}– expect \"restarts\"";
    let said = text_of(&run(&["announce", text, "--admin", &admin(&nodes[0])]), 0);
    assert_eq!(
        said.trim_end(),
        "announcement 1 is on its way; neighbours that it was sent to: 1, nodes that can be reached: 2"
    );
    for node in &nodes {
        let announcements = || node.admin_json("/network")["announcements"].clone();
        wait_until("it has come", || announcements().as_array().unwrap().len() == 1);
        let one = announcements()[0].clone();
        assert_eq!(
            (&one["text"], &one["origin"], &one["number"]),
            (&text.into(), &ids[0].as_str().into(), &1.into())
        );
        assert!(one["age_ms"].is_u64() && one["came"].as_str().unwrap().ends_with('Z'));
        let shown = text_of(&run(&["--admin", &admin(node)]), 0);
        assert!(shown.contains("升级 at 22:00 \\u{202e}– expect \"restarts\""), "{shown}");
        assert!(shown.contains("\nannouncements\n"), "{shown}");
    }
    for (node, name) in [(&nodes[1], "node0"), (&nodes[2], "")] {
        let logged = || node.logged("announcement");
        wait_until("it is logged", || logged().len() == 1);
        let one = logged().remove(0);
        assert_eq!((&one["node"], &one["name"]), (&ids[0].as_str().into(), &name.into()));
        assert!(one["agency"].is_string());
        assert_eq!(one["text"], text);
    }
    assert_eq!(nodes[2].figure("registry_announcements_taken"), 1);

    for (text, expected) in [
        ("two\nlines", "control character"),
        ("\u{1b}[31mred", "control character"),
        ("", "is empty"),
        (&"x".repeat(1_025), "must have at most 1024"),
    ] {
        let said = text_of(&run(&["announce", text, "--admin", &admin(&nodes[0])]), 1);
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
    }
    for number in 2..=6 {
        let said = text_of(&run(&["announce", "again", "--admin", &admin(&nodes[0]), "--json"]), 0);
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["number"], number);
    }
    let said = text_of(&run(&["announce", "too often", "--admin", &admin(&nodes[0])]), 1);
    assert!(said.contains("wait for a minute"), "{said}");
}

/// What the endpoint says to one request: status and body.
fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim_end().to_owned())
}

#[test]
fn only_programs_of_this_machine_announce_and_only_if_they_may() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let address = node.node().admin_address().unwrap();
    let post = |headers: &str, body: &str| {
        let len = body.len();
        exchange(address, &format!("POST /announce HTTP/1.1\r\n{headers}Content-Length: {len}\r\n\r\n{body}"))
    };
    let good = "Host: localhost\r\nContent-Type: application/json\r\n";
    let body = "{\"text\":\"x\"}";
    for (headers, body, status, said) in [
        (format!("{good}Origin: http://a.example\r\n"), body, 403, "announcing is not for pages in browsers"),
        (good.replace("localhost", "a.example"), body, 403, "Host must be localhost or a loopback address"),
        (good.replace("application/json", "text/plain"), body, 415, "Content-Type must be application/json"),
        (good.to_owned(), "x", 400, "the body must be JSON: {\"text\":\"…\"}"),
        (good.to_owned(), "{\"text\":1}", 400, "the body must be JSON: {\"text\":\"…\"}"),
        (good.to_owned(), "{\"text\":\"\"}", 400, "the text is empty"),
        (good.to_owned(), &format!("\"{}\"", "x".repeat(10_000)), 413, "the body has more than 6208 bytes"),
    ] {
        assert_eq!(post(&headers, body), (status, said.to_owned()), "{headers}");
    }
    let (status, said) = exchange(address, "GET /announce HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((status, said.as_str()), (405, "there is POST only"));
    assert_eq!(node.node().shared().counters.len(), 2);
    // Alone it is kept, and nobody gets it.
    assert_eq!(post(good, body), (200, "{\"number\":1,\"neighbours\":0,\"reachable\":0}".to_owned()));
    let text = text_of(&run(&["announce", "y", "--admin", &address.to_string()]), 3);
    assert!(text.contains("no other node can be reached now"), "{text}");
    node.stop();

    let node = TestNode::start(Profile::Ec, 0, &[], &format!("{ADMIN}announce=false\n"));
    let address = node.node().admin_address().unwrap().to_string();
    let text = text_of(&run(&["announce", "x", "--admin", &address]), 1);
    assert!(text.contains("this node's [admin] announce is false"), "{text}");
}
