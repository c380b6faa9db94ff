//! A node that stood still, as a paused container or virtual machine does, takes what came meanwhile before any timer, and
//! its own absence for nobody's silence.

use std::io::{self, Read, Write};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, Header, Seq},
    },
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{RawSdk, application_config, host_dir, process::Process, wait_until};

const SEQ: Seq = *b"0123456789abcdef0123456789abcdef";
const TIMERS: &str =
    "[amop]\nidle_timeout_ms=2000\npush_timeout_ms=1500\nrequest_timeout_ms=1500\n[admin]\nlisten_port=0\n";

fn frame(frame_type: FrameType, data: &[u8]) -> Vec<u8> {
    sdk::encode(frame_type, &SEQ, ResultCode::OK, data)
}

fn connect(node: &Process) -> RawSdk {
    RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap()
}

fn type_of(frame: Option<Vec<u8>>) -> FrameType {
    Header::decode(&frame.expect("nobody is cut")).unwrap().frame_type
}

/// A connection whose node stands still while the last part of the handshake is on its way, until its time is over.
struct Pausing<'a> {
    socket: std::net::TcpStream,
    written: usize,
    node: &'a Process,
    watch: &'a Process,
}

impl Read for Pausing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Pausing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += 1;
        if self.written == 1 {
            return self.socket.write(bytes);
        }
        // Another node, with which a connection says nothing, tells when the time of a handshake is over.
        let mut silent = std::net::TcpStream::connect(self.watch.channel)?;
        let pid = Pid::from_child(&self.node.child);
        kill_process(pid, Signal::STOP)?;
        let written = self.socket.write(bytes);
        assert_eq!(silent.read(&mut [0])?, 0, "whoever says nothing is closed");
        kill_process(pid, Signal::CONT)?;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_handshake_whose_end_came_while_the_node_stood_still_is_done() {
    let start = || Process::start(&host_dir(Profile::Ec).join("node0/conf"), false);
    let (node, watch) = (start(), start());
    let socket = std::net::TcpStream::connect(node.channel).unwrap();
    let mut pausing = Pausing { socket: socket.try_clone().unwrap(), written: 0, node: &node, watch: &watch };
    amop::internal::load::shake_hands(&mut pausing, &application_config(Profile::Ec)).unwrap();
    // The node reads on: it answers with what it is asked, or closes what is no record.
    assert_eq!(pausing.written, 2);
}

#[test]
fn what_came_while_a_node_stood_still_counts_and_its_absence_is_nobodys_silence() {
    let start = || Process::start_with(&host_dir(Profile::Ec).join("node0/conf"), false, TIMERS);
    let (frozen, watch) = (start(), start());
    // The last one says nothing while the node is away.
    let [mut subscriber, mut publisher, mut quiet] = [(); 3].map(|()| connect(&frozen));
    subscriber.send(&frame(FrameType::SUBSCRIBE, br#"["t"]"#));
    // The reactor of the publisher may be another one, which hears of it by the registry.
    wait_until("the topic is routed", || frozen.admin_json("/topics")["total"] == 1);
    quiet.send(&frame(FrameType::HEARTBEAT, b"0"));
    assert_eq!(type_of(quiet.frame()), FrameType::HEARTBEAT);
    let mut idle = connect(&watch);
    publisher.send(&sdk::encode_amop(FrameType::REQUEST, &SEQ, ResultCode::OK, "t", b"x"));
    assert_eq!(type_of(subscriber.frame()), FrameType::REQUEST);

    let pid = Pid::from_child(&frozen.child);
    kill_process(pid, Signal::STOP).unwrap();
    subscriber.send(&sdk::encode_amop(FrameType::RESPONSE, &SEQ, ResultCode::OK, "t", b"answer"));
    // The other node's timers tell that each of this one's is long due.
    for _ in 0..2 {
        assert_eq!(idle.frame(), None, "whoever says nothing is closed");
        idle = connect(&watch);
    }
    kill_process(pid, Signal::CONT).unwrap();

    let answer = publisher.frame().expect("nobody is cut");
    let header = Header::decode(&answer).unwrap();
    assert_eq!((header.frame_type, header.result), (FrameType::RESPONSE, ResultCode::OK));
    for app in [&mut subscriber, &mut publisher, &mut quiet] {
        app.send(&frame(FrameType::HEARTBEAT, b"0"));
        assert_eq!(type_of(app.frame()), FrameType::HEARTBEAT);
    }
}
