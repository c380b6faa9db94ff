//! The admin endpoint of real nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header},
    },
};
use serde_json::Value;

use crate::support::{self, RawSdk, ReservedPort, TestNode, seq, wait_until};

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

/// The labels that there are.
const LABELS: [&str; 12] = [
    "io", "reactor", "outcome", "ledger", "le", "version", "commit", "features", "peer", "kind", "agency",
    "name",
];

/// Metrics as whoever asks with these header lines gets them.
fn metrics_for(address: SocketAddr, header: &str) -> Answer {
    let answer = exchange(address, &format!("GET /metrics HTTP/1.1\r\nHost: node\r\n{header}\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

/// Reads OpenMetrics strictly: what this takes, Prometheus takes.
fn scrape(address: SocketAddr) -> Samples {
    let answer = metrics_for(address, "Accept: application/openmetrics-text; version=1.0.0\r\n");
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
            assert!(LABELS.contains(&key.as_str()), "{line}");
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

fn request(app: &mut RawSdk, number: u8, topic: &str) {
    app.send(&sdk::encode_amop(FrameType::REQUEST, &seq(number.into()), ResultCode::OK, topic, b"question"));
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
    subscriber.subscribe(&["t"]);
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
    assert_eq!(sum(&here, "amop_request_seconds_count", "failed"), 1.0);
    assert_eq!(sum(&here, "amop_answered_no_receiver_total", ""), 1.0);
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
    assert!(sum(&here, "process_virtual_memory_bytes", "") > sum(&here, "process_resident_memory_bytes", ""));
    assert!(
        sum(&here, "process_cpu_seconds_total", "") > sum(&before, "process_cpu_seconds_total", "")
            && sum(&before, "process_cpu_seconds_total", "") > 0.0
    );
    assert!(sum(&here, "process_max_fds", "") >= sum(&here, "process_open_fds", ""));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 3_600.0..=now).contains(&sum(&here, "process_start_time_seconds", "")));
    assert!(sum(&here, "amop_node_certificate_not_after_seconds", "") > now);
    assert!(sum(&here, "process_open_fds", "") >= 10.0);
    assert_eq!(sum(&here, "amop_build_info", env!("CARGO_PKG_VERSION")), 1.0);
}

#[test]
fn every_figure_is_in_the_metrics_of_each_reactor_or_summed_and_its_bounds_are() {
    let more = format!("{ADMIN}[amop]\nnode_topics_max=777\n[flow_control]\noutgoing_bandwidth_limit=8\n");
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let samples = scrape(admin(&node));
    let reactors = node.node().shared().counters.len();
    let of_reactors: BTreeSet<Labels> =
        (0..reactors).map(|reactor| vec![("reactor".to_owned(), reactor.to_string())]).collect();
    for metric in node.node().shared().counters[0].all() {
        let gauge = format!("amop_{}", metric.name);
        let name = match metric.kind {
            amop::internal::relay::counters::Kind::Counter => format!("{gauge}_total"),
            amop::internal::relay::counters::Kind::Gauge => gauge,
        };
        let series: BTreeSet<Labels> = samples[&name].keys().cloned().collect();
        assert!(series == of_reactors || series == BTreeSet::from([Labels::new()]), "{name} {series:?}");
    }
    assert!(samples["amop_reactor_last_turn_seconds"].keys().eq(&of_reactors));
    assert!(samples["amop_requests_total"].keys().eq(&of_reactors));
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
fn metrics_are_text_unless_open_metrics_is_asked_for_and_both_have_the_same_samples() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let names = |answer: &Answer| -> BTreeSet<String> {
        let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let open = metrics_for(
        admin(&node),
        "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n",
    );
    assert!(
        open.head
            .contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
    );
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("# TYPE amop_requests counter\n"));
    for header in [
        "",
        "Accept: */*\r\n",
        "Accept: text/plain\r\n",
        "Accept: application/openmetrics-text;q=0.1\r\nAccept: text/plain;q=0.2\r\n",
    ] {
        let text = metrics_for(admin(&node), header);
        assert!(
            text.head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{}",
            text.head
        );
        assert!(text.head.contains("\r\nvary: accept\r\n"), "{}", text.head);
        assert!(text.body.contains("# TYPE amop_requests_total counter\n"));
        assert!(
            !text.body.contains("# EOF") && !text.body.contains("# UNIT") && !text.body.contains(" info\n")
        );
        assert_eq!(names(&text), names(&open));
    }
}

/// Series of a node, with `[ledger]`, by what its numbers of reactors, peers and ledger nodes allow.
fn series_at_most(samples: &Samples, reactors: usize, others: usize) {
    let series: usize = samples.values().map(BTreeMap::len).sum();
    assert!(series <= 400 + 30 * reactors + 20 * others, "{series}");
    let with = |label: &str| {
        let labels = samples.values().flat_map(BTreeMap::keys);
        labels.filter(|labels| labels.iter().any(|(key, _)| key == label)).count()
    };
    let labelled = with("reactor") + with("peer") + with("ledger");
    assert!(series - labelled <= 400, "{}", series - labelled);
    assert!(with("reactor") <= 30 * reactors, "{}", with("reactor"));
    assert!(with("peer") + with("ledger") <= 20 * others, "{}", with("peer") + with("ledger"));
}

#[test]
fn a_node_has_no_more_series_than_its_reactors_peers_and_ledger_nodes_allow() {
    let ledger = format!(
        "[ledger]\nnode.0=127.0.0.1:1\nnode.1=127.0.0.1:2\ncertificates={}\n",
        support::host_dir(Profile::Ec).join("sdk").display()
    );
    let more = format!("{ADMIN}[flow_control]\nlimit_req=5\noutgoing_bandwidth_limit=8\n{ledger}");
    let with = |index, peers: &[&TestNode], more: &str, reactors| {
        TestNode::start_with(Profile::Ec, index, peers, more, |config| config.reactors = Some(reactors))
    };
    let first = with(0, &[], &more, 3);
    let second = with(1, &[&first], ADMIN, 1);
    let third = TestNode::start(Profile::Ec, 2, &[&first, &second], "");
    first.wait_for_neighbours(&[&second, &third]);
    second.wait_for_neighbours(&[&first, &third]);
    // With everything that a peer may have.
    wait_until("both are measured", || {
        let samples = scrape(admin(&first));
        samples.get("amop_peer_round_trip_seconds").is_some_and(|peers| peers.len() == 2)
    });
    series_at_most(&scrape(admin(&first)), 3, 2 + 2);
    series_at_most(&scrape(admin(&second)), 1, 2);
}

#[test]
fn peers_are_in_the_metrics_by_name_and_stay_there_when_they_are_gone() {
    let first = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    let digits = second.node().id().to_hex()[..8].to_owned();
    let of_peer = |samples: &Samples, name: &str| sum(samples, name, &digits);
    let before = scrape(admin(&first));
    let info = before["amop_peer_info"].keys().next().unwrap();
    let value = |key: &str| &info.iter().find(|(name, _)| name == key).unwrap().1;
    assert_eq!((value("peer"), value("kind").as_str()), (&digits, "node"));
    assert_eq!(value("name"), &second.node().shared().own_name);
    assert_eq!(value("agency"), &second.node().shared().own_agency);
    assert_eq!((of_peer(&before, "amop_peer_up"), of_peer(&before, "amop_peer_links")), (1.0, 1.0));
    let mut subscriber = RawSdk::connect(Profile::Ec, &second);
    subscriber.subscribe(&["t"]);
    first.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &first);
    request(&mut publisher, 1, "t");
    answer(&mut subscriber);
    assert_eq!(result(&mut publisher), ResultCode::OK);
    let after = scrape(admin(&first));
    for name in ["received_frames", "sent_frames", "received_bytes", "sent_bytes"] {
        let name = format!("amop_peer_{name}_total");
        assert!(of_peer(&after, &name) > of_peer(&before, &name), "{name}");
    }
    second.stop();
    wait_until("it is shown as gone", || of_peer(&scrape(admin(&first)), "amop_peer_up") == 0.0);
    let gone = scrape(admin(&first));
    assert_eq!(of_peer(&gone, "amop_peer_links_begun_total"), 1.0);
    assert!(of_peer(&gone, "amop_peer_sent_bytes_total") >= of_peer(&after, "amop_peer_sent_bytes_total"));
    assert_eq!((sum(&gone, "amop_peers_named", ""), sum(&gone, "amop_peers_left_out", "")), (1.0, 0.0));
    assert_eq!(sum(&gone, "amop_peers_named_max", ""), 64.0);
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
    wait_until("a stranger to TLS is counted", || count("not_tls") == 1.0);
    TcpStream::connect(node.node().channel_address()).unwrap().write_all(&[22]).unwrap();
    wait_until("one that hangs up is counted", || count("closed") == 1.0);
    assert_eq!(count("no_certificate"), 0.0);
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
    subscriber.subscribe(&["t"]);
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
    apps[0].subscribe(&["a"]);
    apps[1].subscribe(&["a", "b", "c"]);
    apps[2].subscribe(&["a", "b"]);
    let mut elsewhere = RawSdk::connect(Profile::Ec, &second);
    elsewhere.subscribe(&["b", "d"]);
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
    assert!(links["items"][1].get("round_trip_us").is_none(), "sessions are not measured");
    assert!(node_link["received_frames"].as_u64().unwrap() >= 2, "a Hello and a list at least");
    assert!(node_link["sent_bytes"].as_u64() > node_link["sent_frames"].as_u64());
    wait_until("the link is measured", || {
        let links = get_json(address, "/links?sort=round_trip_smoothed_us&order=desc&limit=1");
        links["items"][0]["round_trip_smoothed_us"].is_u64() && links["items"][0]["round_trip_us"].is_u64()
    });
    assert!(sum(&scrape(address), "amop_node_round_trip_seconds_count", "") >= 1.0);

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
fn the_last_messages_that_failed_are_listed_with_why_and_the_newest_may_come_first() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let mut app = RawSdk::connect(Profile::Ec, &node);
    for number in 1..=3 {
        let request = sdk::encode_amop(FrameType::REQUEST, &seq(number), ResultCode::OK, "nobody", b"lost");
        app.send(&request);
        app.frame().expect("an answer");
    }
    let list = get_json(admin(&node), "/failures?sort=taken&order=desc&limit=2");
    assert_eq!(list["total"], 3);
    let items = list["items"].as_array().unwrap();
    let seqs: Vec<&str> = items.iter().map(|item| item["seq"].as_str().unwrap()).collect();
    let wanted = [3, 2].map(|number| String::from_utf8(seq(number).to_vec()).unwrap());
    assert_eq!(seqs, wanted);
    for item in items {
        assert_eq!((item["code"].as_i64(), item["topic"].as_str()), (Some(100), Some("nobody")), "{item}");
        assert_eq!(item["address"], app.socket.local_addr().unwrap().to_string());
    }
}

#[test]
fn a_browser_gets_a_page_that_may_reach_this_node_only() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    for (path, content_type) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/words.js", "text/javascript"),
    ] {
        let answer = get(admin(&node), path);
        assert_eq!(answer.status, 200, "{path}");
        for wanted in
            [&format!("content-type: {content_type}"), "default-src 'none'", "connect-src 'self'", "nosniff"]
        {
            assert!(answer.head.contains(wanted), "{wanted} in {}", answer.head);
        }
    }
}

#[test]
fn what_is_asked_wrongly_is_told_what_there_is() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let address = admin(&node);
    for (path, status, line) in [
        (
            "/node",
            404,
            "there is / for browsers, /metrics, /livez, /readyz, and as JSON /nodes, /sessions, /links, /ledgers, /peers_2x, \
             /topics, /failures, /network, /network/topics, /trace/SEQ, /ping/NODE",
        ),
        ("/network?sort=colour", 400, "sort must be one of id, hops, topics, neighbours, incarnation, seq"),
        ("/network/topics?sort=hops", 400, "sort must be one of name, sessions, nodes"),
        ("/network/topics?offset=3", 400, "there is ?limit=, &sort=, &order=, &filter= and &after= only"),
        ("/network/topics?filter=%ff", 400, "filter and after must be UTF-8 in percent-encoding"),
        (
            "/trace/abc",
            400,
            "a seq is 32 letters and digits, such a UUID with dashes, or the 64 hex digits of its bytes",
        ),
        ("/topics?limit=10001", 400, "limit must be a number from 0 to 10000"),
        (
            "/nodes?sort=colour",
            400,
            "sort must be one of kind, id, address, agency, name, reactor, incarnation, up_since, topics",
        ),
        ("/sessions?order=up", 400, "order must be asc or desc"),
        ("/links?offset=3", 400, "there is ?limit=, &sort= and &order= only"),
        (
            "/ping/node1",
            400,
            "\"node1\" is no node's id: it must be 128 hex digits, or the first of them that tell the node from all \
             others",
        ),
        (
            "/ping/0000000000000000",
            404,
            "no node of the network is known whose id begins with 0000000000000000: see `amop net` for those that are",
        ),
        ("/announce", 405, "there is POST only"),
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
    let (config, _) = amop::internal::config::Config::parse(&text, &dir).unwrap();
    let error = amop::internal::node::Node::start(config).err().expect("the port is taken").to_string();
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
    subscriber.subscribe(&["t"]);
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

#[test]
fn connections_that_say_nothing_keep_no_probe_waiting_for_their_time() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let address = admin(&node);
    let mut silent: Vec<TcpStream> = (0..192).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(get(address, "/livez").status, 200);
    // The newest still has its time: only older ones made room.
    let newest = silent.last_mut().unwrap();
    newest.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = String::new();
    newest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(silent[0].read(&mut [0]).unwrap_or_default(), 0, "the oldest is closed");
}

/// A name that would take over a terminal, and end a string of a drawing, if it were shown as it is.
const HOSTILE: &str = "\u{1b}[2J\u{7}\r\n\u{9b}31m\u{202e}evil\u{2066}\u{200b}\"];x->y\\\u{85}\u{2028}";

/// Three nodes in a line, each with one subscriber: of `t` and its own topic.
struct Line {
    nodes: [TestNode; 3],
    _apps: Vec<RawSdk>,
}

impl Line {
    fn start() -> Self {
        let first = TestNode::start(Profile::Ec, 0, &[], ADMIN);
        let second = TestNode::start(Profile::Ec, 1, &[&first], ADMIN);
        let third = TestNode::start(Profile::Ec, 2, &[&second], ADMIN);
        let nodes = [first, second, third];
        let own_topics = ["first", "second", HOSTILE];
        let apps = nodes.iter().zip(own_topics).map(|(node, own)| {
            let mut app = RawSdk::connect(Profile::Ec, node);
            app.subscribe(&["t", own]);
            app
        });
        let apps = apps.collect();
        let line = Self { nodes, _apps: apps };
        line.wait(|network| {
            let items = network["items"].as_array().unwrap();
            items.len() == 3 && items.iter().all(|item| item["topics"] == 2 && item["hops"].is_u64())
        });
        line
    }

    fn id(&self, index: usize) -> String {
        self.nodes[index].node().id().to_hex()
    }

    /// Waits until what the first node shows of the network is so.
    fn wait(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let mut network = Value::Null;
        wait_until("the first node shows the network so", || {
            network = get_json(admin(&self.nodes[0]), "/network?sort=hops");
            holds(&network)
        });
        network
    }
}

fn item<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let items = list["items"].as_array().unwrap();
    items.iter().find(|item| item[key] == value).unwrap_or_else(|| panic!("no {value}: {list}"))
}

#[test]
fn a_node_shows_the_whole_network_with_those_that_are_no_neighbours() {
    let line = Line::start();
    let ids = [line.id(0), line.id(1), line.id(2)];
    let network = line.wait(|network| {
        let links = network["links"].as_array().unwrap();
        links.len() == 1 && links[0]["round_trip_smoothed_us"].is_u64()
    });
    assert_eq!((&network["total"], &network["reachable"]), (&3.into(), &2.into()));
    let order: Vec<_> = network["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
    assert_eq!(order, ids.iter().collect::<Vec<_>>());
    let [own, near, far] = [0, 1, 2].map(|index| &network["items"][index]);
    assert_eq!(
        (&own["standing"], &own["hops"], &own["next_hops"]),
        (&"own".into(), &0.into(), &serde_json::json!([]))
    );
    assert_eq!(own["name"], line.nodes[0].node().shared().own_name);
    assert_eq!((&near["standing"], &near["hops"]), (&"neighbour".into(), &1.into()));
    assert_eq!(near["name"], line.nodes[1].node().shared().own_name);
    assert_eq!((&far["standing"], &far["hops"]), (&"reachable".into(), &2.into()));
    assert_eq!(far["next_hops"], serde_json::json!([ids[1]]));
    assert!(far.get("name").is_none() && far.get("address").is_none(), "{far}");
    assert_eq!(far["incarnation"], line.nodes[2].node().shared().incarnation());
    assert!(far["seq"].as_u64().unwrap() >= 1);
    assert_eq!(far["neighbours"], serde_json::json!([{"id": ids[1], "agreed": true}]));
    let listed: BTreeSet<&str> =
        near["neighbours"].as_array().unwrap().iter().map(|other| other["id"].as_str().unwrap()).collect();
    assert_eq!(listed, BTreeSet::from([ids[0].as_str(), ids[2].as_str()]));
    assert_eq!(network["links"][0]["peer"], ids[1]);

    let topics = get_json(admin(&line.nodes[0]), "/network/topics");
    assert_eq!(topics["total"], 4);
    let t = item(&topics, "name", "t");
    assert_eq!((&t["sessions"], &t["nodes_total"], &t["kind"]), (&3.into(), &3.into(), &"ordinary".into()));
    let where_to: Vec<_> =
        t["nodes"].as_array().unwrap().iter().map(|node| (&node["id"], &node["hops"])).collect();
    let expected: Vec<_> =
        ids.iter().map(|id| Value::from(id.as_str())).zip([0, 1, 2].map(Value::from)).collect();
    assert_eq!(where_to, expected.iter().map(|(id, hops)| (id, hops)).collect::<Vec<_>>());
    assert_eq!(item(&topics, "name", HOSTILE)["nodes"][0]["id"], ids[2]);
    let filtered = get_json(admin(&line.nodes[0]), "/network/topics?filter=ir&limit=1");
    assert_eq!((&filtered["total"], &filtered["items"][0]["name"]), (&1.into(), &"first".into()));
}

#[test]
fn a_node_whose_links_are_gone_is_shown_as_lost() {
    let line = Line::start();
    let far = line.id(2);
    let Line { nodes: [first, second, third], _apps } = line;
    third.stop();
    wait_until("the third is lost", || {
        let network = get_json(admin(&first), "/network");
        let far = item(&network, "id", &far);
        far["standing"] == "lost" && far["lost_since"].as_str().is_some_and(|date| date.ends_with('Z'))
    });
    let network = get_json(admin(&first), "/network");
    assert!(item(&network, "id", &far).get("hops").is_none());
    let near = item(&network, "id", &second.node().id().to_hex());
    assert_eq!((&near["standing"], &near["neighbours_total"]), (&"neighbour".into(), &1.into()));
}

/// Runs a command of the built program on a node; gives whether it did what was asked, and what it said.
fn amop(arguments: &[&str], address: SocketAddr) -> (bool, String, String) {
    let mut command = std::process::Command::new(support::process::PROGRAM);
    let output = command.args(arguments).arg("--admin").arg(address.to_string()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// The same where it must succeed; checks that nothing it says controls a terminal.
fn said(arguments: &[&str], address: SocketAddr) -> String {
    let (done, text, errors) = amop(arguments, address);
    assert!(done && errors.is_empty(), "{errors}");
    let is_unseen =
        |character: char| character != '\n' && (character.is_control() || HOSTILE.contains(character));
    let unseen = text
        .chars()
        .find(|&character| !character.is_ascii_graphic() && character != ' ' && is_unseen(character));
    assert_eq!(unseen, None, "{text}");
    text
}

/// The words of a line.
fn cells(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn amop_net_shows_nodes_and_links_of_the_whole_network() {
    let line = Line::start();
    line.wait(|network| network["links"][0]["round_trip_smoothed_us"].is_u64());
    let address = admin(&line.nodes[0]);
    let short: Vec<String> = (0..3).map(|index| line.id(index)[..8].to_owned()).collect();
    let names = [0, 1].map(|index| line.nodes[index].node().shared().own_name.clone());
    let text = said(&["net"], address);
    assert!(
        text.starts_with(&format!(
            "3 nodes, as {} ({}) knows them; others that can be reached: 2\n",
            short[0], names[0]
        )),
        "{text}"
    );
    let row = |id: &str, column: usize| {
        let rows = text.lines().map(cells).filter(|cells| cells.first() == Some(&id)).collect::<Vec<_>>();
        rows[0][column].to_owned()
    };
    for (index, hops) in ["0", "1", "2"].iter().enumerate() {
        assert_eq!((row(&short[index], 1).as_str(), row(&short[index], 2).as_str()), (*hops, "2"), "{text}");
    }
    assert_eq!(row(&short[2], 6), short[1], "by way of the second: {text}");
    let link = text.lines().skip_while(|line| *line != "its links").nth(2).unwrap();
    assert_eq!(cells(link)[..3], [&short[1], "active", "there"], "{text}");
    assert!(link.contains(" ms ") && link.contains(" KiB ") && link.ends_with(&names[1]), "{link}");
    let edges: Vec<Vec<&str>> =
        text.lines().skip_while(|line| *line != "links of the network").skip(2).map(cells).collect();
    assert_eq!(edges.len(), 2, "{text}");
    assert!(edges.iter().all(|edge| edge[2..] == ["both", "say", "so"] && edge.contains(&short[1].as_str())));

    let json: Value = serde_json::from_str(&said(&["net", "--json"], address)).unwrap();
    assert_eq!((&json["total"], &json["items"][2]["id"]), (&3.into(), &line.id(2).into()));

    let drawing = Drawing::read(&said(&["net", "--dot"], address));
    assert_eq!(drawing.nodes.len(), 3);
    assert_eq!(drawing.nodes[&line.id(0)], format!("{} ({})", short[0], names[0]));
    assert_eq!(drawing.nodes[&line.id(2)], short[2]);
    let ends = |one: usize, other: usize| {
        let ends =
            |one, other| drawing.edges.iter().find(|edge| edge.0 == line.id(one) && edge.1 == line.id(other));
        ends(one, other).or_else(|| ends(other, one)).map(|edge| edge.2.as_str())
    };
    assert!(ends(0, 1).is_some_and(|label| label.ends_with(" ms")), "its own link was measured");
    assert_eq!((ends(1, 2), ends(0, 2), drawing.edges.len()), (Some(""), None, 2));
}

#[test]
fn amop_net_shows_topics_whose_names_break_neither_a_terminal_nor_a_drawing() {
    let line = Line::start();
    let address = admin(&line.nodes[0]);
    let short: Vec<String> = (0..3).map(|index| line.id(index)[..8].to_owned()).collect();
    let text = said(&["net", "--topics"], address);
    assert!(text.starts_with("4 topics\n"), "{text}");
    let of_all: Vec<&str> = cells(text.lines().last().unwrap());
    assert_eq!((of_all[0], of_all[1], of_all.last()), ("3", "3", Some(&"t")), "{text}");
    assert!(short.iter().all(|id| text.lines().last().unwrap().contains(id.as_str())), "{text}");
    let hostile = text.lines().find(|line| line.contains("evil")).expect("it is there");
    assert!(
        hostile.contains(r"\u{1b}[2J\u{7}\r\n") && hostile.contains(&format!("{}×1", short[2])),
        "{hostile}"
    );

    let json: Value = serde_json::from_str(&said(&["net", "--topics", "--json"], address)).unwrap();
    assert_eq!(item(&json, "name", HOSTILE)["sessions"], 1);
    let only: Value =
        serde_json::from_str(&said(&["net", "--topics", "--json", "--filter", HOSTILE], address)).unwrap();
    assert_eq!((&only["total"], &only["items"][0]["name"]), (&1.into(), &HOSTILE.into()));
    let none = said(&["net", "--topics", "--filter", "100%&limit=0"], address);
    assert!(none.starts_with("0 topics\n"), "{none}");
    let first = said(&["net", "--topics", "--limit", "1"], address);
    assert!(first.contains("and 3 more: see --filter and --limit"), "{first}");

    let drawing = Drawing::read(&said(&["net", "--topics", "--dot"], address));
    assert_eq!((drawing.nodes.len(), drawing.edges.len()), (3 + 4, 3 + 3));
    let labels: BTreeSet<&str> = drawing.nodes.values().map(String::as_str).collect();
    assert!(
        labels.contains("t") && labels.iter().any(|label| label.contains(r#"\u{202e}evil"#)),
        "{labels:?}"
    );
    assert!(!drawing.nodes.contains_key("x") && !drawing.nodes.contains_key("y"), "{labels:?}");
}

/// What a DOT file says, read by the rules of the language as far as `amop net` uses it.
#[derive(Default)]
struct Drawing {
    /// Labels by id.
    nodes: BTreeMap<String, String>,
    /// Two ids and a label.
    edges: Vec<(String, String, String)>,
}

impl Drawing {
    fn read(text: &str) -> Self {
        let tokens = Self::tokens(text);
        let mut drawing = Self::default();
        let body =
            tokens.strip_prefix(["graph", "amop", "{"].map(str::to_owned).as_slice()).expect("a graph");
        let body = body.strip_suffix(["}".to_owned()].as_slice()).expect("its end");
        for statement in body.split(|token| token == ";").filter(|statement| !statement.is_empty()) {
            let value = |name: &str| {
                let at = statement.windows(2).position(|pair| pair == [name, "="]);
                at.map_or_else(String::new, |at| statement[at + 2].clone())
            };
            match statement {
                [one, dashes, other, ..] if dashes == "--" => {
                    drawing.edges.push((one.clone(), other.clone(), value("label")));
                }
                [_, equals, _] if equals == "=" => {}
                [defaults, ..] if defaults == "node" => {}
                [id, bracket, ..] if bracket == "[" && statement.last().unwrap() == "]" => {
                    drawing.nodes.insert(id.clone(), value("label"));
                }
                other => panic!("{other:?} is no statement: {text}"),
            }
        }
        for (one, other, _) in &drawing.edges {
            assert!(drawing.nodes.contains_key(one) && drawing.nodes.contains_key(other), "{text}");
        }
        drawing
    }

    /// Words, signs, and strings without their quotes and escapes.
    fn tokens(text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                ' ' | '\n' => {}
                '"' => {
                    let mut string = String::new();
                    loop {
                        match rest.next().expect("the end of a string") {
                            '"' => break,
                            '\\' => string.push(match rest.next() {
                                Some(escaped @ ('"' | '\\')) => escaped,
                                other => panic!("{other:?} is not to be escaped: {text}"),
                            }),
                            '\n' => panic!("a string over several lines: {text}"),
                            character => string.push(character),
                        }
                    }
                    tokens.push(string);
                }
                '-' if rest.next_if_eq(&'-').is_some() => tokens.push("--".to_owned()),
                '{' | '}' | '[' | ']' | ';' | '=' | ',' => tokens.push(character.to_string()),
                character if character.is_ascii_alphanumeric() => {
                    let mut word = character.to_string();
                    while let Some(next) = rest.next_if(char::is_ascii_alphanumeric) {
                        word.push(next);
                    }
                    tokens.push(word);
                }
                other => panic!("{other:?} is no part of the language: {text}"),
            }
        }
        tokens
    }
}

#[test]
fn amop_top_shows_what_a_node_does_and_who_does_not_keep_up() {
    let more = format!("{ADMIN}[amop]\nsession_queue_bytes_max=262144\nstall_timeout_ms=3600000\n");
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let other = TestNode::start(Profile::Ec, 1, &[&node], "");
    node.wait_for_neighbours(&[&other]);
    let address = admin(&node);
    wait_until("the record of the other came", || {
        get_json(address, "/network")["items"].as_array().unwrap().iter().all(|item| item["hops"].is_u64())
    });
    let quiet = said(&["top", "--once", "--interval", "0.1"], address);
    assert!(quiet.contains("all sessions keep up"), "{quiet}");
    assert!(quiet.contains("other nodes reached 1 of 1"), "{quiet}");
    let link = quiet.lines().skip_while(|line| !line.starts_with("links to nodes: 1")).nth(2).unwrap();
    assert_eq!(cells(link)[..2], [&other.node().id().to_hex()[..8], "active"], "{quiet}");
    assert!(quiet.contains("nearest to their bound") && quiet.contains("  amop_"), "{quiet}");

    let mut deaf = RawSdk::connect(Profile::Ec, &node);
    deaf.subscribe(&["flood"]);
    node.wait_for_subscribers("flood", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    let flood = sdk::encode_amop(FrameType::MULTICAST, &seq(1), ResultCode::OK, "flood", &[7; 60_000]);
    wait_until("its queue is full, for nobody reads", || {
        publisher.send(&flood);
        assert!(publisher.frame().is_some());
        node.total(|counters| counters.dropped_queue_full.get()) > 0
    });
    // All the while, so that some fall into the interval.
    let going_on = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asking = std::thread::spawn({
        let going_on = going_on.clone();
        move || {
            while going_on.load(std::sync::atomic::Ordering::Relaxed) {
                request(&mut publisher, 2, "nobody's");
                assert_eq!(result(&mut publisher), ResultCode::NO_RECEIVER);
            }
        }
    });
    let text = said(&["top", "--once", "--interval", "0.5"], address);
    going_on.store(false, std::sync::atomic::Ordering::Relaxed);
    asking.join().unwrap();
    let behind = text.lines().skip_while(|line| *line != "sessions that do not keep up").nth(2).unwrap();
    assert!(behind.contains(&deaf.socket.local_addr().unwrap().to_string()), "{text}");
    assert!(behind.contains("CN=sdk"), "{text}");
    let rate = |line: &str, before: &str| -> f64 {
        let line = text.lines().find(|other| other.trim_start().starts_with(line)).unwrap();
        let words = cells(line);
        words[words.iter().position(|word| *word == before).unwrap() + 1].parse().unwrap()
    };
    assert!(rate("messages taken", "unicast") > 0.0, "{text}");
    assert!(rate("answers by code", "100:") > 0.0, "{text}");
    assert_eq!(rate("answers by code", "99:"), 0.0, "{text}");
}

#[test]
fn amop_net_and_top_tell_what_to_do_where_no_endpoint_is() {
    let node = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let reserved = ReservedPort::new();
    let nobody = reserved.address();
    for command in [&["net"][..], &["net", "--topics"], &["top", "--once"]] {
        let (done, text, errors) = amop(command, nobody);
        assert!(!done && text.is_empty());
        assert!(errors.starts_with(&format!("amop: cannot connect to {nobody} (")), "{errors}");
        assert!(errors.contains("is the node running, is [admin] listen_port set"), "{errors}");
        let (done, text, errors) = amop(command, node.node().channel_address());
        assert!(!done && text.is_empty());
        assert!(errors.contains("does not speak HTTP as a node does"), "{errors}");
    }
    let (done, _, errors) = amop(&["net", "--filter", "x"], admin(&node));
    assert!(!done && errors.contains("--topics"), "{errors}");
    let (done, _, errors) = amop(&["top", "--interval", "0"], admin(&node));
    assert!(!done && errors.contains("it must be a number from 0.1 to 3600"), "{errors}");
}
