//! The node under a service manager, as systemd is one: what it is told, and sockets that it hands over and keeps itself.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::{Child, Command, Stdio},
};

use amop::internal::{
    pki::Profile,
    wire::sdk::{self, FrameType, Header, Seq},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    self, BOUND, RawSdk, ReservedPort, application_config, host_dir,
    process::{PROGRAM, Process, write_config},
};

const SEQ: Seq = *b"0123456789abcdef0123456789abcdef";
const PING: &str = "WATCHDOG=1";
const FOR_EVER: &str = "[amop]\nready_timeout_ms=600000\n";

/// Where a node says how it is.
struct Notified {
    socket: UnixDatagram,
    /// What came of one datagram and is not looked at yet, the last first.
    lines: Vec<String>,
}

impl Notified {
    fn new(dir: &Path) -> Self {
        let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { socket, lines: Vec::new() }
    }

    fn next_of_all(&mut self) -> String {
        while self.lines.is_empty() {
            let mut datagram = [0; 4_096];
            let length = self.socket.recv(&mut datagram).expect("the node says how it is");
            let text = std::str::from_utf8(&datagram[..length]).unwrap();
            self.lines = text.lines().rev().map(str::to_owned).collect();
        }
        self.lines.pop().expect("a line")
    }

    /// The next line that is no ping.
    fn next(&mut self) -> String {
        loop {
            let line = self.next_of_all();
            if line != PING {
                return line;
            }
        }
    }

    /// Waits for two pings, so that one was sent after this was called.
    fn await_pings(&mut self) {
        for _ in 0..2 {
            while self.next_of_all() != PING {}
        }
    }

    /// The next line that begins so; others may only be statuses.
    fn await_line(&mut self, begins: &str) -> String {
        loop {
            let line = self.next();
            if line.starts_with(begins) {
                return line;
            }
            assert!(line.starts_with("STATUS="), "{line} while {begins} is awaited");
        }
    }
}

/// A node's process, which does not outlive a test that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn the_service_manager_is_told_when_a_node_is_ready_lives_reloads_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut notified = Notified::new(dir.path());
    let (silent, channel) = (TcpListener::bind("127.0.0.1:0").unwrap(), ReservedPort::new());
    let listen = [channel.address(), SocketAddr::from(([127, 0, 0, 1], 0))];
    let more = format!("node.0={}\n{FOR_EVER}", silent.local_addr().unwrap());
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let config = write_config(dir.path(), &conf, false, listen, &more);
    let mut command = Command::new(PROGRAM);
    command.args(["node", "-c"]).arg(&config).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "300000");
    let mut node = Running(command.stdout(Stdio::null()).spawn().unwrap());

    // It waits for the peer that says nothing: it lives, and is not ready.
    let (dialled, _) = silent.accept().unwrap();
    assert!(notified.next().contains("the state of other nodes is on its way"));
    notified.await_pings();
    assert!(TcpStream::connect(channel.address()).is_err(), "the port is closed");
    signal(&node.0, Signal::HUP);
    notified.await_pings();
    drop((dialled, silent));
    assert_eq!(notified.next(), "READY=1", "no reload was told of before");
    drop(TcpStream::connect(channel.address()).expect("the port is open"));
    assert_eq!(notified.next(), "STATUS=0 sessions, 0 links to nodes");
    let session = RawSdk::connect_with(application_config(Profile::Ec), channel.address()).unwrap();
    assert_eq!(notified.next(), "STATUS=1 sessions, 0 links to nodes");
    notified.await_pings();

    signal(&node.0, Signal::HUP);
    notified.await_line("RELOADING=1");
    let time = notified.next();
    let time = time.strip_prefix("MONOTONIC_USEC=").expect("the time of the reload");
    assert!(time.parse::<u64>().unwrap() > 0);
    notified.await_line("READY=1");
    std::fs::write(&config, "[rpc]\nchannel_listen_port=none\n").unwrap();
    signal(&node.0, Signal::HUP);
    notified.await_line("RELOADING=1");
    assert!(notified.next().starts_with("MONOTONIC_USEC="));
    assert!(notified.await_line("STATUS=").contains("is refused"));
    notified.await_line("READY=1");

    drop(session);
    signal(&node.0, Signal::TERM);
    notified.await_line("STOPPING=1");
    assert_eq!(node.0.wait().unwrap().code(), Some(0));
}

/// A node with sockets of the service manager, for which this is, by their names.
fn start_with(config: &Path, sockets: [Option<(&str, &TcpListener)>; 2]) -> Child {
    let [first, second] = sockets;
    let names: Vec<&str> = [first, second].into_iter().flatten().map(|(name, _)| name).collect();
    // The shell becomes the node, so that its process id is known before.
    let script = format!(
        "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"",
        names.len(),
        names.join(":")
    );
    let pipe = |socket: Option<(&str, &TcpListener)>| match socket {
        Some((_, listener)) => Stdio::from(OwnedFd::from(listener.try_clone().unwrap())),
        None => Stdio::null(),
    };
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", PROGRAM, "node", "-c"]).arg(config);
    command.stdin(pipe(first)).stdout(pipe(second)).stderr(Stdio::piped()).spawn().unwrap()
}

fn heartbeat(app: &mut RawSdk) {
    app.send(&sdk::encode(FrameType::HEARTBEAT, &SEQ, amop::internal::wire::ResultCode::OK, b"0"));
    assert_eq!(Header::decode(&app.frame().expect("an answer")).unwrap().frame_type, FrameType::HEARTBEAT);
}

#[test]
fn a_restart_with_sockets_of_the_service_manager_refuses_nobody() {
    let [channel, p2p] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let listen = [&channel, &p2p].map(|listener| listener.local_addr().unwrap());
    let config = write_config(dir.path(), &conf, false, listen, "");
    let start = || start_with(&config, [Some(("channel", &channel)), Some(("p2p", &p2p))]);
    for _ in 0..2 {
        let node = Process::come_up(start()).unwrap_or_else(|(_, log)| panic!("{log}"));
        assert_eq!([node.channel, node.p2p], listen);
        heartbeat(&mut RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap());
        assert_eq!(node.stop(), Some(0));
        // Between the two processes.
        let waits = TcpStream::connect(listen[0]).expect("it is not refused");
        let next = start();
        let mut app =
            RawSdk::connect_over(application_config(Profile::Ec), waits).expect("the next one serves it");
        heartbeat(&mut app);
        let next = Process::come_up(next).unwrap_or_else(|(_, log)| panic!("{log}"));
        assert_eq!(next.stop(), Some(0));
    }
    // Whoever comes while a node stops is served by the next one, too.
    let mut node = Process::come_up(start()).unwrap_or_else(|(_, log)| panic!("{log}"));
    signal(&node.child, Signal::TERM);
    while node.child.try_wait().unwrap().is_none() {
        std::thread::park_timeout(std::time::Duration::from_millis(1));
        drop(TcpStream::connect(listen[0]).expect("it is not refused"));
    }
    let last = TcpStream::connect(listen[0]).expect("it is not refused");
    let next = Process::come_up(start()).unwrap_or_else(|(_, log)| panic!("{log}"));
    heartbeat(&mut RawSdk::connect_over(application_config(Profile::Ec), last).expect("it is served"));
    assert_eq!(next.stop(), Some(0));
}

#[test]
fn the_admin_endpoint_takes_its_socket_and_a_socket_for_nobody_is_refused() {
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let any = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
    let config = write_config(dir.path(), &conf, false, any, "[admin]\nlisten_port=1\n");
    let child = start_with(&config, [Some(("admin", &admin)), None]);
    let node = Process::come_up(child).unwrap_or_else(|(_, log)| panic!("{log}"));
    assert_eq!(node.admin, Some(admin.local_addr().unwrap()));
    assert_eq!(support::get(node.admin.unwrap(), "/readyz").0, 200);
    assert_eq!(node.stop(), Some(0));

    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&any[0].into()).unwrap();
    let silent = TcpListener::from(OwnedFd::from(bound));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = write_config(dir.path(), &conf, false, any, "");
    for (sockets, says) in [
        ([Some(("metrics", &other)), None], "must be channel, p2p or admin"),
        ([Some(("p2p", &other)), Some(("p2p", &admin))], "two sockets named p2p"),
        ([Some(("admin", &other)), None], "set [admin] listen_port"),
        ([Some(("channel", &silent)), None], "none that listens"),
    ] {
        let output = support::process::output_of(start_with(&plain, sockets));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
