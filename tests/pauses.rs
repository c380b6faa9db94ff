//! A node that stood still, as a paused container or virtual machine does, takes what came meanwhile before any timer, and
//! its own absence for nobody's silence.

mod support;

use amop::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, Header, Seq},
    },
};
use rustix::process::{Pid, Signal, kill_process};
use support::{RawSdk, application_config, host_dir, process::Process};

const SEQ: Seq = *b"0123456789abcdef0123456789abcdef";
const TIMERS: &str = "[amop]\nidle_timeout_ms=2000\npush_timeout_ms=1500\nrequest_timeout_ms=1500\n";

fn frame(frame_type: FrameType, data: &[u8]) -> Vec<u8> {
    sdk::encode(frame_type, &SEQ, ResultCode::OK, data)
}

fn connect(node: &Process) -> RawSdk {
    RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap()
}

fn type_of(frame: Option<Vec<u8>>) -> FrameType {
    Header::decode(&frame.expect("nobody is cut")).unwrap().frame_type
}

#[test]
fn what_came_while_a_node_stood_still_counts_and_its_absence_is_nobodys_silence() {
    let start = || Process::start_with(&host_dir(Profile::Ec).join("node0/conf"), false, TIMERS);
    let (frozen, watch) = (start(), start());
    // The last one says nothing while the node is away.
    let [mut subscriber, mut publisher, mut quiet] = [(); 3].map(|()| connect(&frozen));
    // A heartbeat behind it tells that the subscription is taken.
    subscriber.send(&frame(FrameType::SUBSCRIBE, br#"["t"]"#));
    subscriber.send(&frame(FrameType::HEARTBEAT, b"0"));
    assert_eq!(type_of(subscriber.frame()), FrameType::HEARTBEAT);
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
