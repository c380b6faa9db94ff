//! Log lines of real nodes: few, each with the peer and what to do.
//!
//! A program of its own: the log is the whole process's.

#[allow(dead_code)] // a part of it is enough here
mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType},
    },
};
use support::{RawSdk, TestNode, wait_until};

const SEQ: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

/// All that was logged. Reactors log on their own threads, so that there is one for the process, and one
/// test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self, what: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_peers_cause_is_logged_in_bounded_number_with_who_and_what_to_do() {
    let log = Log::default();
    let writer = log.clone();
    // Each line begins with the seconds since now.
    let timer = tracing_subscriber::fmt::time::uptime();
    tracing_subscriber::fmt().with_ansi(false).with_timer(timer).with_writer(move || writer.clone()).init();
    let node = TestNode::start(
        Profile::Ec,
        0,
        &[],
        "[amop]\nstall_timeout_ms=1000\nsession_queue_bytes_max=65536\n",
    );

    // Far more strangers than lines.
    let mut addresses = Vec::new();
    for _ in 0..40 {
        let mut socket = TcpStream::connect(node.node().channel_address()).unwrap();
        addresses.push(socket.local_addr().unwrap().to_string());
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let failed = log.lines("the handshake of an application failed");
    // Ten, and an eleventh not before 10 s after the first, if all of them took so long.
    assert!(failed.len() >= 10, "{failed:?}");
    let at = |line: &String| -> f64 {
        let seconds = line.split_whitespace().next().and_then(|time| time.strip_suffix('s'));
        seconds.and_then(|seconds| seconds.parse().ok()).expect("a time")
    };
    for (first, eleventh) in failed.iter().zip(failed.iter().skip(10)) {
        // The limit looks at its clock before the line is written.
        assert!(at(eleventh) - at(first) > 9.9, "{first}\n{eleventh}");
    }
    assert!(
        failed[0].contains(&addresses[0]) && failed[0].contains("HTTP was sent to a port of TLS"),
        "{failed:?}"
    );

    // A session that does not read.
    let mut deaf = RawSdk::connect(Profile::Ec, &node);
    deaf.send(&sdk::encode(FrameType::SUBSCRIBE, &SEQ, ResultCode::OK, br#"["t"]"#));
    node.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    let frame = sdk::encode_amop(FrameType::MULTICAST, &SEQ, ResultCode::OK, "t", &[7; 60_000]);
    wait_until("the deaf session is closed", || {
        publisher.send(&frame);
        assert!(publisher.frame().is_some());
        node.total(|counters| counters.closed_stalled.get()) == 1
    });
    let address = deaf.socket.local_addr().unwrap().to_string();
    wait_until("it is logged", || log.lines("session cut").len() == 1);
    let dropped = log.lines("a message for a session is dropped");
    assert!(node.total(|counters| counters.dropped_queue_full.get()) > dropped.len() as u64);
    for line in log.lines("session cut").iter().chain(&dropped) {
        assert!(line.contains(&address) && line.contains("CN=sdk"), "{line}");
        assert!(line.contains("raise [amop] session_queue_bytes_max"), "{line}");
    }
    assert!(!dropped.is_empty());
}
