//! Whoever reads the log may stall: the node goes on, ends when it is told to, and loses nothing that it can still say.

use std::{
    io::{BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType},
    },
};

use crate::support::{RawSdk, application_config, get, host_dir, process, wait_until};

const SEQ: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

/// A node whose log comes by a pipe that is read only when the test does.
struct Piped {
    child: Child,
    log: BufReader<PipeReader>,
    /// The node's own end.
    end: Option<PipeWriter>,
    dir: tempfile::TempDir,
    channel: SocketAddr,
    admin: SocketAddr,
}

impl Piped {
    fn start() -> Self {
        let conf = host_dir(Profile::Ec).join("node0/conf");
        let dir = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = process::write_config(dir.path(), &conf, false, [any; 2], "[admin]\nlisten_port=0\n");
        let (log, end) = std::io::pipe().unwrap();
        let child = Command::new(process::PROGRAM)
            .args(["node", "--pid-file", "amop.pid", "--up-file", "amop.up", "-c"])
            .arg(&config)
            .current_dir(&dir)
            .stderr(end.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(log);
        let (mut admin, mut channel) = (None, None);
        while channel.is_none() {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the node does not come up");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let address = |name: &str| line["fields"][name].as_str().and_then(|text| text.parse().ok());
            admin = admin.or_else(|| address("address"));
            channel = address("channel");
        }
        let (channel, admin) = (channel.unwrap(), admin.unwrap());
        Self { child, log, end: Some(end), dir, channel, admin }
    }

    fn stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whoever reads it has stopped reading.
fn fill(mut end: &PipeWriter) {
    let flags = rustix::fs::fcntl_getfl(end).unwrap();
    rustix::fs::fcntl_setfl(end, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    // To the last byte: where a page does not fit, less of it may.
    for len in [4_096, 1] {
        let full = loop {
            if let Err(error) = end.write(&[b'\n'; 4_096][..len]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    rustix::fs::fcntl_setfl(end, flags).unwrap();
}

fn end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn beats(app: &mut RawSdk) {
    app.send(&sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0"));
    let answer = app.frame().expect("an answer");
    assert_eq!(answer[..6], [0, 0, 0, 43, 0, 0x13]);
}

#[test]
fn a_node_whose_log_nobody_reads_goes_on_and_ends_when_it_is_told_to() {
    let mut node = Piped::start();
    let connect = || RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap();
    let mut sessions: Vec<RawSdk> = (0..4).map(|_| connect()).collect();
    fill(node.end.as_ref().unwrap());
    // Each of these is a line or two, of the reactors and of the door.
    for _ in 0..4 {
        let mut bad = connect();
        bad.send(&[0, 0, 0, 10, 0, 0x30, 0, 0]);
        while bad.frame().is_some() {}
        let mut stranger = std::net::TcpStream::connect(node.channel).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    sessions.iter_mut().for_each(beats);
    connect();
    assert_eq!(get(node.admin, "/livez").0, 200);
    let (_, metrics) = get(node.admin, "/metrics");
    let waits = metrics.lines().find_map(|line| line.strip_prefix("amop_log_queue_bytes ")).unwrap();
    assert!(waits.parse::<f64>().unwrap() > 0.0, "{waits}");
    assert!(metrics.contains("\namop_log_lines_lost_total 0\n"), "there was room for all");
    node.stop();
    assert!(end(&mut node.child).success());
}

#[test]
fn what_waits_when_a_node_is_told_to_end_is_read_to_the_last_line() {
    let mut node = Piped::start();
    fill(node.end.as_ref().unwrap());
    let mut session = RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap();
    beats(&mut session);
    node.stop();
    // It has closed what it listened on, and goes on to end.
    wait_until("it stops", || std::net::TcpStream::connect(node.channel).is_err());
    node.end.take();
    let mut log = String::new();
    node.log.read_to_string(&mut log).unwrap();
    assert!(end(&mut node.child).success());
    let lines: Vec<serde_json::Value> =
        log.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let position = |message: &str| lines.iter().position(|line| line["fields"]["message"] == message);
    let (up, down) = (position("session up").unwrap(), position("session down").unwrap());
    assert!(up < down && down < lines.len() - 1, "{log}");
    assert_eq!(lines.last().unwrap()["fields"]["message"], "stopped");
}

#[test]
fn a_node_that_waits_for_the_reader_of_its_log_has_not_ended_for_anybody() {
    let mut node = Piped::start();
    let there = |name: &str| node.dir.path().join(name).exists();
    wait_until("it is up", || there("amop.up"));
    fill(node.end.as_ref().unwrap());
    node.stop();
    wait_until("it is not up any more", || !there("amop.up"));
    // It waits a while for the reader.
    let has_pid_file = there("amop.pid");
    assert!(has_pid_file || node.child.try_wait().unwrap().is_some(), "its pid file is free, and it lives");
    node.end.take();
    node.log.read_to_string(&mut String::new()).unwrap();
    assert!(end(&mut node.child).success());
    assert!(!node.dir.path().join("amop.pid").exists());
}

#[test]
fn an_error_at_the_start_ends_the_process_whether_or_not_anybody_reads_it() {
    let run = |config: &str, full: bool| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.ini");
        std::fs::write(&path, config).unwrap();
        let (mut log, pipe) = std::io::pipe().unwrap();
        if full {
            fill(&pipe);
        }
        let mut child = Command::new(process::PROGRAM)
            .args(["node", "-c"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(pipe)
            .spawn()
            .unwrap();
        assert!(!end(&mut child).success());
        let mut said = String::new();
        log.read_to_string(&mut said).unwrap();
        said.trim().to_owned()
    };
    for config in ["[p2p]\nlisten_port=x\n", "[network_security]\ndata_path=/nowhere\n"] {
        assert!(run(config, false).contains("amop: "));
        assert_eq!(run(config, true), "");
    }
}
