//! `amop bench` against real nodes: every mode ends well, counts all that it sends, and says what is wrong.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use amop::internal::{pki::Profile, relay::counters::Counters};

use crate::support::{
    TestNode, host_dir,
    process::{PROGRAM, Process},
};

fn start(more: &str) -> Process {
    Process::start_with(&host_dir(Profile::Rsa).join("node0/conf"), true, more)
}

fn bench(at: &[&str], arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--json", "--seconds", "1", "--warm-up", "0"]).args(arguments);
    command.arg("-c").arg(host_dir(Profile::Rsa).join("sdk"));
    at.iter().for_each(|node| {
        command.args(["-n", node]);
    });
    command.output().unwrap()
}

/// What a run that ends well prints, one value for each line.
fn figures(node: &Process, arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = bench(&[&node.channel.to_string()], arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn count(value: &serde_json::Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
}

#[test]
fn every_message_of_every_mode_is_answered_and_counted() {
    let node = start("");
    let runs = figures(&node, &["--window", "1,8", "--publishers", "3"]);
    assert_eq!(runs.len(), 2);
    let mixed =
        figures(&node, &["mixed", "--window", "4", "--subscribers", "5", "--multicast-percent", "30"]);
    let open = figures(&node, &["--rate", "200", "--own-records", "--spin", "--more-topics", "50"]);
    let large = figures(&node, &["--window", "2", "--payload", "300000"]);
    let storm = figures(&node, &["storm", "--rate", "100", "--handshakes", "20"]);
    assert_eq!(storm.len(), 2);
    let sdk = figures(
        &node,
        &["mixed", "--sdk-shape", "--window", "1,8", "--publishers", "3", "--subscribers", "6"],
    );
    let sdk_open = figures(&node, &["storm", "--sdk-shape", "--rate", "200", "--handshakes", "20"]);
    let sdk_large = figures(&node, &["--sdk-shape", "--window", "4", "--payload", "3000000"]);
    for run in [runs, mixed, open, large, storm, sdk, sdk_open, sdk_large].iter().flatten() {
        assert_eq!(run["is_clean"], true, "{run}");
        assert!(count(run, "messages") > 0, "{run}");
        assert!(
            run["p50_us"].as_f64() <= run["p99_us"].as_f64()
                && run["p99_us"].as_f64() <= run["max_us"].as_f64()
        );
    }
}

#[test]
fn a_multicast_counts_as_done_when_all_subscribers_have_it() {
    let node = start("");
    for run in figures(&node, &["multicast", "--window", "4", "--subscribers", "7"]) {
        let messages = run["messages_per_second"].as_f64().unwrap();
        let deliveries = run["deliveries_per_second"].as_f64().unwrap();
        let seconds = run["seconds"].as_f64().unwrap();
        // What is under way at the beginning and at the end is counted in part.
        assert!(messages > 0.0 && (deliveries - 7.0 * messages).abs() * seconds <= 2.0 * 4.0 * 7.0, "{run}");
    }
}

#[test]
fn a_node_without_tls_can_be_measured_too() {
    let node = start("[tls]\nchannel_plaintext=true\n");
    assert_eq!(figures(&node, &["--plaintext", "--window", "8"])[0]["is_clean"], true);
}

#[test]
fn reactors_that_look_for_work_without_sleeping_answer_all_of_it() {
    let node = start("[engine]\nreactors=2\nspin_us=1000000\n");
    for run in figures(&node, &["--window", "1,8", "--publishers", "3"]) {
        assert_eq!(run["is_clean"], true, "{run}");
        assert!(count(&run, "messages") > 0, "{run}");
    }
}

#[test]
fn idle_links_take_turns_with_certificates() {
    let node = start("");
    let other = host_dir(Profile::Rsa).join("sdk");
    let idle = figures(&node, &["idle", "--links", "6", "--more-certs", other.to_str().unwrap()]);
    assert_eq!(count(&idle[0], "links"), 6);
}

#[test]
fn publishers_and_subscribers_may_be_at_different_nodes() {
    let near = TestNode::start(Profile::Rsa, 0, &[], "");
    let far = TestNode::start(Profile::Rsa, 1, &[&near], "");
    near.wait_for_neighbours(&[&far]);
    let at = [&near, &far].map(|node| node.node().channel_address().to_string());
    let output = bench(&[&at[0], &at[1]], &["--window", "8", "--publishers", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["is_clean"], true);
    assert!(far.total(|counters| counters.node_frames_received.get()) >= count(&run, "messages"));
}

#[test]
fn messages_that_fail_are_told_and_the_run_fails() {
    // Nearly nothing passes to the other node.
    let near = TestNode::start(Profile::Rsa, 0, &[], "[flow_control]\noutgoing_bandwidth_limit=0.05\n");
    let far = TestNode::start(Profile::Rsa, 1, &[&near], "");
    near.wait_for_neighbours(&[&far]);
    let at = [&near, &far].map(|node| node.node().channel_address().to_string());
    let output = bench(&[&at[0], &at[1]], &["--window", "16", "--payload", "5000"]);
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success() && run["is_clean"] == false, "{run}");
    assert!(count(&run["failed"], "103") > 0, "{run}");
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let output = bench(&["127.0.0.1:1"], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("127.0.0.1:1"), "{told}");
}

/// Type of a record (RFC 5246 §6.2.1).
const APPLICATION_DATA: u8 = 23;

/// Passes on what a load and a node say to each other, and counts the records of data in it: from the load, and from the node.
fn count_records(node: SocketAddr) -> (SocketAddr, [Arc<AtomicU64>; 2]) {
    fn pass_on(mut from: TcpStream, mut to: TcpStream, records: &AtomicU64) {
        let (mut bytes, mut waiting) = ([0; 4_096], Vec::new());
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            waiting.extend_from_slice(&bytes[..len]);
            // Type, version, length (RFC 5246 §6.2.1).
            while let Some(&[content_type, _, _, high, low]) = waiting.first_chunk::<5>() {
                let len = 5 + usize::from(u16::from_be_bytes([high, low]));
                if len > waiting.len() {
                    break;
                }
                records.fetch_add(u64::from(content_type == APPLICATION_DATA), SeqCst);
                waiting.drain(..len);
            }
            if to.write_all(&bytes[..len]).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, counts) = (listener.local_addr().unwrap(), [(); 2].map(|()| Arc::new(AtomicU64::new(0))));
    let [from_load, from_node] = counts.clone();
    thread::spawn(move || {
        for load in listener.incoming().map(Result::unwrap) {
            let (node, counts) = (TcpStream::connect(node).unwrap(), [from_load.clone(), from_node.clone()]);
            let [out, back] = [(&load, &node), (&node, &load)]
                .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
            for ((from, to), count) in [out, back].into_iter().zip(counts) {
                thread::spawn(move || pass_on(from, to, &count));
            }
        }
    });
    (address, counts)
}

#[test]
fn in_the_shape_of_sdks_no_two_frames_share_a_record_either_way() {
    let shares = |option: &[&str]| {
        let node = TestNode::start(Profile::Rsa, 0, &[], "");
        let (between, counts) = count_records(node.node().channel_address());
        let output = bench(&[&between.to_string()], &[&["mixed", "--window", "16"], option].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let [from_load, from_node] = counts.map(|count| count.load(SeqCst));
        let frames = |counter: fn(&Counters) -> u64| node.total(counter);
        let received = frames(|counters| counters.sdk_frames_received.get());
        let sent = frames(|counters| counters.sdk_frames_sent.get());
        [received > from_load, sent > from_node]
    };
    assert_eq!([shares(&["--sdk-shape"]), shares(&[])], [[false; 2], [true; 2]]);
}

#[test]
fn a_shape_that_a_mode_does_not_have_is_refused() {
    for options in [["offer", "--sdk-shape"], ["--plaintext", "--sdk-shape"]] {
        let output = bench(&["127.0.0.1:1"], &options);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("--sdk-shape"), "{told}");
    }
}
