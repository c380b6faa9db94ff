//! The admin endpoint of real nodes.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use amop::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::Value;
use support::{RawSdk, TestNode, wait_until};

const BOUND: Duration = Duration::from_secs(30);
const ADMIN: &str = "[admin]\nlisten_port=0\n";

struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn admin(node: &TestNode) -> SocketAddr {
    node.node().admin_address().expect("the endpoint is configured")
}

/// Sends bytes to the endpoint, and reads what it says until it closes.
fn exchange(address: SocketAddr, request: &str) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n"))
}

fn get_json(address: SocketAddr, path: &str) -> Value {
    let answer = get(address, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    serde_json::from_str(&answer.body).unwrap()
}

type Labels = Vec<(String, String)>;
/// Samples by name and labels.
type Samples = BTreeMap<String, BTreeMap<Labels, f64>>;

fn sum(samples: &Samples, name: &str, label: &str) -> f64 {
    let of_name = samples.get(name).unwrap_or_else(|| panic!("no {name}"));
    let fits =
        |labels: &[(String, String)]| label.is_empty() || labels.iter().any(|(_, value)| value == label);
    of_name.iter().filter(|(labels, _)| fits(labels)).map(|(_, value)| value).sum()
}

/// Reads the text format strictly: what this takes, Prometheus takes.
fn scrape(address: SocketAddr) -> Samples {
    let answer = get(address, "/metrics");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let form = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(form), "{}", answer.head);
    let text = answer.body.strip_suffix("# EOF\n").expect("the end is marked");
    let mut samples = Samples::new();
    let mut families = BTreeSet::new();
    let mut family = (String::new(), String::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) =
                (words.next().unwrap(), words.next().unwrap(), words.next().expect("a value"));
            match what {
                "HELP" => {
                    assert!(families.insert(name.to_owned()), "{name} is there twice");
                    assert!(rest.ends_with('.'), "{line}");
                    family = (name.to_owned(), String::new());
                }
                "TYPE" => family.1 = rest.to_owned(),
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(name, family.0, "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let labels: Labels = labels
            .strip_suffix('}')
            .unwrap()
            .split(',')
            .filter(|label| !label.is_empty())
            .map(|label| {
                let (key, value) = label.split_once('=').unwrap();
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
                (key.to_owned(), value.to_owned())
            })
            .collect();
        for (key, _) in &labels {
            assert!(["reactor", "outcome", "le", "version"].contains(&key.as_str()), "{line}");
        }
        let suffixes: &[&str] = match family.1.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            other => panic!("{other}: {line}"),
        };
        let suffix = name.strip_prefix(&family.0).unwrap_or_else(|| panic!("{line} is not of {}", family.0));
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(name.starts_with("amop_") || name.starts_with("process_"), "{line}");
        let value: f64 = value.parse().unwrap();
        assert!(value >= 0.0, "{line}");
        let before = samples.entry(name.to_owned()).or_default().insert(labels, value);
        assert_eq!(before, None, "{line} is there twice");
    }
    check_histograms(&samples);
    samples
}

/// Buckets are cumulative, and the last holds all.
fn check_histograms(samples: &Samples) {
    for (name, buckets) in samples {
        let Some(family) = name.strip_suffix("_bucket") else { continue };
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (labels, &count) in buckets {
            let (bound, others): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(key, _)| key == "le");
            let bound = bound[0].1.parse::<f64>().unwrap();
            series.entry(others).or_default().push((bound, count));
        }
        for (labels, mut buckets) in series {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels:?}");
            let (bound, all) = *buckets.last().unwrap();
            assert_eq!(bound, f64::INFINITY, "{name}");
            assert_eq!(samples[&format!("{family}_count")][&labels], all, "{name} {labels:?}");
            assert!(samples[&format!("{family}_sum")].contains_key(&labels), "{name} {labels:?}");
        }
    }
}

fn seq(number: u8) -> Seq {
    [b'a' + number % 26; 32]
}

fn subscribe(app: &mut RawSdk, topics: &[&str]) {
    let topics = serde_json::to_vec(topics).unwrap();
    app.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(0), ResultCode::OK, &topics));
}

fn request(app: &mut RawSdk, number: u8, topic: &str) {
    app.send(&sdk::encode_amop(FrameType::REQUEST, &seq(number), ResultCode::OK, topic, b"question"));
}

fn answer(app: &mut RawSdk) {
    let asked = app.frame().expect("a request");
    let header = Header::decode(&asked).unwrap();
    app.send(&sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, &asked[HEADER_LEN..]));
}

fn result(app: &mut RawSdk) -> ResultCode {
    Header::decode(&app.frame().expect("an answer")).unwrap().result
}

#[test]
fn metrics_are_text_that_prometheus_reads_and_move_with_messages() {
    let first = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let second = TestNode::start(Profile::Ec, 1, &[&first], ADMIN);
    first.wait_for_neighbours(&[&second]);
    let mut subscriber = RawSdk::connect(Profile::Ec, &second);
    subscribe(&mut subscriber, &["t"]);
    first.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &first);
    let before = scrape(admin(&first));
    assert_eq!(sum(&before, "amop_requests_total", ""), 0.0);
    for number in 0..5 {
        request(&mut publisher, number, "t");
        answer(&mut subscriber);
        assert_eq!(result(&mut publisher), ResultCode::OK);
    }
    request(&mut publisher, 6, "nobody's");
    assert_eq!(result(&mut publisher), ResultCode::NO_RECEIVER);

    let (here, there) = (scrape(admin(&first)), scrape(admin(&second)));
    assert_eq!(sum(&here, "amop_requests_total", ""), 6.0);
    assert_eq!(sum(&here, "amop_answered_by_subscriber_total", ""), 5.0);
    assert_eq!(sum(&here, "amop_request_seconds_count", "answered"), 5.0);
    assert_eq!(sum(&here, "amop_request_seconds_count", "no_receiver"), 1.0);
    assert_eq!(sum(&here, "amop_request_seconds_count", "timeout"), 0.0);
    assert!(sum(&here, "amop_request_seconds_sum", "answered") > 0.0);
    assert_eq!(sum(&here, "amop_push_seconds_count", ""), 0.0, "the session is at the other node");
    assert_eq!(sum(&there, "amop_push_seconds_count", ""), 5.0);
    assert_eq!(sum(&there, "amop_request_seconds_count", ""), 0.0, "the other node coordinated them");
    assert_eq!(sum(&here, "amop_sessions", ""), 1.0);
    assert_eq!(sum(&here, "amop_neighbours", ""), 1.0);
    assert_eq!(sum(&here, "amop_routed_topics", ""), 1.0);
    assert!(sum(&here, "amop_received_bytes_total", "") > sum(&before, "amop_received_bytes_total", ""));
    assert!(sum(&here, "amop_bandwidth_charged_bytes_total", "") > 0.0);
    assert!(sum(&here, "amop_registry_snapshots_total", "") > 0.0);
    assert!(sum(&there, "amop_registry_steps_signed_total", "") > 0.0);
    assert_eq!(sum(&here, "amop_door_handshakes_done_total", ""), 2.0);
    assert!(sum(&there, "amop_door_dials_total", "") >= 1.0);
    assert!(sum(&here, "process_resident_memory_bytes", "") > 1e6);
    assert!(sum(&here, "process_open_fds", "") >= 10.0);
    assert_eq!(sum(&here, "amop_build_info", env!("CARGO_PKG_VERSION")), 1.0);
}

#[test]
fn every_figure_of_every_reactor_is_in_the_metrics_and_its_bounds_are() {
    let more = format!("{ADMIN}[amop]\nnode_topics_max=777\n[flow_control]\noutgoing_bandwidth_limit=8\n");
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let samples = scrape(admin(&node));
    for (reactor, counters) in node.node().shared().counters.iter().enumerate() {
        let labels = vec![("reactor".to_owned(), reactor.to_string())];
        for figure in counters.all() {
            let gauge = format!("amop_{}", figure.name);
            let name = match figure.kind {
                amop::relay::counters::Kind::Counter => format!("{gauge}_total"),
                amop::relay::counters::Kind::Gauge => gauge,
            };
            assert!(samples[&name].contains_key(&labels), "{name} {labels:?}");
        }
        assert!(samples["amop_reactor_last_turn_seconds"].contains_key(&labels));
    }
    assert_eq!(sum(&samples, "amop_topics_max", ""), 777.0);
    assert_eq!(sum(&samples, "amop_bandwidth_limit_bytes_per_second", "").round(), 1_048_576.0);
    assert!(sum(&samples, "amop_sessions_max", "") > 0.0);
    assert!(sum(&samples, "amop_unfinished_bytes_max", "") > 0.0);
    // The beginning of a long frame is held.
    assert_eq!(sum(&samples, "amop_unfinished_bytes", ""), 0.0);
    let mut app = RawSdk::connect(Profile::Ec, &node);
    app.send(&[&1_000_000u32.to_be_bytes()[..], &[0; 50_000]].concat());
    wait_until("it shows", || sum(&scrape(admin(&node)), "amop_unfinished_bytes", "") >= 50_004.0);
}

#[test]
fn refused_handshakes_are_counted_by_what_was_wrong() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let count = |reason: &str| {
        let samples = scrape(admin(&node));
        sum(&samples, &format!("amop_door_handshakes_failed_{reason}_total"), "")
    };
    let mut socket = TcpStream::connect(node.node().channel_address()).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    wait_until("a stranger to TLS is counted", || count("tls") == 1.0);
    drop(TcpStream::connect(node.node().channel_address()).unwrap());
    wait_until("one that hangs up is counted", || count("closed") == 1.0);
    assert_eq!(count("certificate"), 0.0);
    let samples = scrape(admin(&node));
    assert_eq!(sum(&samples, "amop_door_handshakes_begun_total", ""), 2.0);
    assert_eq!(sum(&samples, "amop_door_pending_handshakes", ""), 0.0);
}

#[test]
fn a_node_that_drains_is_live_and_not_ready() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let address = admin(&node);
    assert_eq!(get(address, "/readyz").status, 200);
    assert_eq!(get(address, "/livez").status, 200);
    let mut subscriber = RawSdk::connect(Profile::Ec, &node);
    subscribe(&mut subscriber, &["t"]);
    node.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    request(&mut publisher, 1, "t");
    wait_until("the request waits for its answer", || node.total(|counters| counters.deliveries.get()) == 1);
    // It cannot end before the answer.
    let stopping = std::thread::spawn(move || node.stop());
    wait_until("the node says that it stops", || get(address, "/readyz").status == 503);
    assert_eq!(get(address, "/livez").status, 200);
    assert_eq!(get(address, "/metrics").status, 200);
    answer(&mut subscriber);
    assert_eq!(result(&mut publisher), ResultCode::OK);
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "the endpoint goes with its node");
}

#[test]
fn lists_show_nodes_sessions_links_and_topics_sorted_and_limited() {
    let first = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    let address = admin(&first);
    let mut apps: Vec<RawSdk> = (0..3).map(|_| RawSdk::connect(Profile::Ec, &first)).collect();
    subscribe(&mut apps[0], &["a"]);
    subscribe(&mut apps[1], &["a", "b", "c"]);
    subscribe(&mut apps[2], &["a", "b"]);
    let mut elsewhere = RawSdk::connect(Profile::Ec, &second);
    subscribe(&mut elsewhere, &["b", "d"]);
    for (topic, count) in [("a", 3), ("b", 3), ("c", 1), ("d", 1)] {
        first.wait_for_subscribers(topic, count);
    }

    let list = get_json(address, "/sessions?sort=topics&order=desc&limit=2");
    assert_eq!(list["total"], 3);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.iter().map(|item| item["topics"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 2]);
    let local = apps[1].socket.local_addr().unwrap().to_string();
    assert_eq!(items[0]["address"], local);
    assert!(items[0]["subject"].as_str().unwrap().contains("CN=sdk"), "{}", items[0]);
    assert_eq!(items[0]["queued_bytes"], 0);
    assert!(items[0]["connected_since"].as_str().unwrap().ends_with('Z'));
    let id: u64 = items[0]["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(items[0]["reactor"], id >> 48);

    let nodes = get_json(address, "/nodes");
    assert_eq!((&nodes["total"], &nodes["items"][0]["topics"]), (&1.into(), &2.into()));
    assert_eq!(nodes["items"][0]["id"], second.node().id().to_hex());
    assert_eq!(nodes["items"][0]["incarnation"], second.node().shared().incarnation());
    assert_eq!(nodes["items"][0]["name"], second.node().shared().own_name);

    let links = get_json(address, "/links?sort=kind");
    assert_eq!(links["total"], 4);
    let node_link = &links["items"][0];
    assert_eq!((&node_link["kind"], &node_link["state"]), (&"node".into(), &"active".into()));
    assert_eq!((&node_link["peer"], &node_link["dialed"]), (&nodes["items"][0]["id"], &false.into()));
    assert_eq!(links["items"][1]["kind"], "session");

    let topics = get_json(address, "/topics");
    assert_eq!(topics["total"], 4);
    let names: Vec<_> = topics["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let b = &topics["items"][1];
    assert_eq!((&b["local_sessions"], &b["remote_sessions"]), (&2.into(), &1.into()));
    assert_eq!(b["nodes"][0]["id"], nodes["items"][0]["id"]);
    assert_eq!(b["nodes"][0]["sessions"], 1);
    assert_eq!(topics["items"][0]["nodes"], serde_json::json!([]));
    let most = get_json(address, "/topics?sort=local_sessions&order=desc&limit=1");
    assert_eq!(most["items"][0]["name"], "a");
    assert_eq!(get_json(address, "/topics?limit=0"), serde_json::json!({"total": 4, "items": []}));
}

#[test]
fn a_list_goes_over_all_links_of_all_reactors() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    // More than one reactor shows in one turn, with a hole where one left.
    let count = 600;
    let mut apps: Vec<RawSdk> = (0..count).map(|_| RawSdk::connect(Profile::Ec, &node)).collect();
    wait_until("all are in", || node.total(|counters| counters.sessions.get()) == count);
    drop(apps.swap_remove(0));
    wait_until("one has left", || node.total(|counters| counters.sessions.get()) == count - 1);
    let list = get_json(admin(&node), "/sessions?limit=10000");
    assert_eq!(list["total"], count - 1);
    let shown: BTreeSet<String> =
        list["items"].as_array().unwrap().iter().map(|item| item["address"].to_string()).collect();
    let connected: BTreeSet<String> =
        apps.iter().map(|app| format!("\"{}\"", app.socket.local_addr().unwrap())).collect();
    assert_eq!(shown, connected);
    assert_eq!(get_json(admin(&node), "/sessions")["items"].as_array().unwrap().len(), 100);
}

#[test]
fn what_is_asked_wrongly_is_told_what_there_is() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let address = admin(&node);
    for (path, status, line) in [
        ("/", 404, "there is /metrics, /livez, /readyz, and as JSON /nodes, /sessions, /links, /topics"),
        ("/topics?limit=10001", 400, "limit must be a number from 0 to 10000"),
        (
            "/nodes?sort=colour",
            400,
            "sort must be one of id, address, agency, name, reactor, incarnation, up_since, topics",
        ),
        ("/sessions?order=up", 400, "order must be asc or desc"),
        ("/links?offset=3", 400, "there is ?limit=, &sort= and &order= only"),
    ] {
        let answer = get(address, path);
        assert_eq!((answer.status, answer.body.trim_end()), (status, line), "{path}");
        assert_eq!(answer.body.lines().count(), 1);
    }
    let answer = exchange(address, "POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((answer.status, answer.body.trim_end()), (405, "there is GET and HEAD only"));
    assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    assert_eq!(exchange(address, "nonsense\r\n\r\n").status, 400);
    let long = format!("GET /livez HTTP/1.1\r\nHost: node\r\nX: {}\r\n\r\n", "x".repeat(8 * 1024));
    assert_eq!(exchange(address, &long).status, 431);
    let many = format!("GET /livez HTTP/1.1\r\nHost: node\r\n{}\r\n", "X: x\r\n".repeat(100));
    assert_eq!(exchange(address, &many).status, 431);
    let head = exchange(address, "HEAD /livez HTTP/1.1\r\nHost: node\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 5"), "{}", head.head);
}

#[test]
fn the_endpoint_is_not_there_unless_it_has_a_port() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    assert_eq!(node.node().admin_address(), None);
    let node = TestNode::start(Profile::Ec, 1, &[], ADMIN);
    assert!(admin(&node).ip().is_loopback());
}

#[test]
fn an_address_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = support::host_dir(Profile::Ec).join("node0");
    let text = format!(
        "[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n[p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n\
         [admin]\nlisten_port={port}\n"
    );
    let (config, _) = amop::config::Config::parse(&text, &dir).unwrap();
    let error = amop::node::Node::start(config).err().expect("the port is taken").to_string();
    assert!(
        error.starts_with(&format!("cannot listen on 127.0.0.1:{port} ([admin] listen_port)")),
        "{error}"
    );
}

#[test]
fn a_hundred_stuck_connections_disturb_neither_messages_nor_the_endpoint_for_long() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let address = admin(&node);
    let stuck: Vec<TcpStream> = (0..100)
        .map(|index| {
            let mut socket = TcpStream::connect(address).unwrap();
            // Nothing, half a header, or a list that nobody reads.
            let said = ["", "GET /metrics HTTP/1.1\r\nHost:", "GET /topics HTTP/1.1\r\nHost: node\r\n\r\n"];
            socket.write_all(said[index % 3].as_bytes()).unwrap();
            socket
        })
        .collect();
    let mut subscriber = RawSdk::connect(Profile::Ec, &node);
    subscribe(&mut subscriber, &["t"]);
    node.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    for number in 0..20 {
        request(&mut publisher, number, "t");
        answer(&mut subscriber);
        assert_eq!(result(&mut publisher), ResultCode::OK);
    }
    // Those that say nothing are closed in time, and others get their turn.
    assert_eq!(get(address, "/livez").status, 200);
    drop(stuck);
}
