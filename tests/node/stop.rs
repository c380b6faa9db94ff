//! A node ends within `[amop] shutdown_timeout_ms`, whatever hangs.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, Header, Seq},
    },
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    RawSdk, TestNode, host_dir,
    process::{PROGRAM, write_config},
    wait_until,
};

const SEQ: Seq = *b"0123456789abcdef0123456789abcdef";
/// Far more than the stop below may take, and less than the time that one link gets to close at most.
const IN_TIME: Duration = Duration::from_secs(4);

fn send(app: &mut RawSdk, frame_type: FrameType, topic: &str, payload: &[u8]) {
    app.send(&sdk::encode_amop(frame_type, &SEQ, ResultCode::OK, topic, payload));
}

/// An address where connections are neither accepted nor refused: its backlog is full. With what fills it.
fn black_hole() -> (SocketAddr, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Those beyond the backlog stay on their way.
        let _ = socket.connect(&address.into());
        held.push(socket);
    }
    (address, held)
}

#[test]
fn a_stop_takes_its_time_and_no_more_whatever_hangs() {
    let (nowhere, _held) = black_hole();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!(
        "node.8={nowhere}\nnode.9={}\n[admin]\nlisten_port=0\n[amop]\nshutdown_timeout_ms=1000\n\
         push_timeout_ms=600000\nrequest_timeout_ms=600000\n",
        silent.local_addr().unwrap()
    );
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    // A handshake of each kind that stops, and a request over HTTP that does.
    let dialled = silent.accept().unwrap();
    let mut half = Vec::new();
    for address in
        [node.node().channel_address(), node.node().p2p_address(), node.node().admin_address().unwrap()]
    {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
        half.push(socket);
    }
    // A session that reads nothing of what it was sent, and one that never answers.
    let mut deaf = RawSdk::connect(Profile::Ec, &node);
    deaf.subscribe(&["much"]);
    let mut mute = RawSdk::connect(Profile::Ec, &node);
    mute.subscribe(&["question"]);
    node.wait_for_subscribers("much", 1);
    node.wait_for_subscribers("question", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    for _ in 0..8 {
        send(&mut publisher, FrameType::MULTICAST, "much", &[0; 1 << 20]);
        assert_eq!(Header::decode(&publisher.frame().unwrap()).unwrap().result, ResultCode::OK);
    }
    send(&mut publisher, FrameType::REQUEST, "question", b"?");
    assert!(mute.frame().is_some(), "it is asked");
    let begun = Instant::now();
    node.stop();
    let took = begun.elapsed();
    assert!(took < IN_TIME, "{took:?}");
    drop((dialled, half, deaf));
}

/// A process that has said so in its log.
fn started(config: &std::path::Path, line: &str) -> (Child, std::thread::JoinHandle<()>) {
    let mut child =
        Command::new(PROGRAM).args(["node", "-c"]).arg(config).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|said| said.contains(line)), "it never says {line:?}");
    // It must go on being read.
    (child, std::thread::spawn(move || log.for_each(drop)))
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn ends_well(mut child: Child) -> bool {
    let mut status = None;
    wait_until("the process has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().success()
}

#[test]
fn a_node_that_is_told_to_end_while_it_waits_for_its_address_ends_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), &conf, false, [taken.local_addr().unwrap(), any], "");
    let (child, log) = started(&config, "is in use");
    signal(&child, Signal::TERM);
    // Else it would fail to start.
    assert!(ends_well(child));
    log.join().unwrap();
}

#[test]
fn a_node_that_reads_its_configuration_from_what_hangs_ends_when_it_is_told_to() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), &conf, false, [any; 2], "");
    let (child, log) = started(&config, "the node is up");
    // A file of a server that is gone hangs like a pipe that nobody writes to.
    std::fs::remove_file(&config).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    signal(&child, Signal::HUP);
    let mut writer = None;
    wait_until("it reads", || {
        // Fails until somebody reads.
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        writer = rustix::fs::open(&config, flags, rustix::fs::Mode::empty()).ok();
        writer.is_some()
    });
    signal(&child, Signal::TERM);
    assert!(ends_well(child));
    log.join().unwrap();
}
