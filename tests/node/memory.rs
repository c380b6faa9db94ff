//! Whether a node takes no more memory than its bounds say: the built program is filled to them, one after
//! another and all at once. `scripts/memory` does it whole, which takes minutes; a quarter of it is a test like any other.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use amop::internal::{
    bounds::{self, Bound},
    config::Config,
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, Header},
    },
};

use crate::support::{RawSdk, application_config, host_dir, process::Process, seq, wait_until};

/// How far a node is filled: its bounds, and what is sent to reach them, are divided by this.
#[derive(Clone, Copy)]
struct Divisor(usize);

impl Divisor {
    fn of(self, whole: usize) -> usize {
        whole / self.0
    }

    /// Low bounds, and times so long that nothing is let go meanwhile. It begins in `[p2p]`.
    fn config(self) -> String {
        let bounds = [
            ("session_queue_bytes_max", 16 << 20),
            ("retained_bytes_max", 32 << 20),
            ("records_bytes_max", 32 << 20),
            ("windows_bytes_max", 32 << 20),
            ("node_topics_max", 50_000),
            ("node_subscriptions_max", 50_000),
            ("pending_requests_max", 20_000),
        ]
        .map(|(key, whole)| format!("{key}={}\n", self.of(whole)))
        .concat();
        format!(
            "[admin]\nlisten_port=0\n[engine]\nreactors=1\nreceive_buffers=64\nunfinished_bytes_max={unfinished}\nqueues_bytes_max={queues}\n\
             [amop]\nframe_len_max=4194304\npush_timeout_ms=600000\nrequest_timeout_ms=600000\n\
             idle_timeout_ms=3600000\nstall_timeout_ms=3600000\n{bounds}",
            unfinished = self.of(64 << 20),
            queues = self.of(64 << 20),
        )
    }
}

/// One node is filled after the other: what is awaited comes late where two are at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const SESSIONS: usize = 1_000;
const HANDSHAKES: usize = 1_000;

struct Filling {
    node: Process,
    rooms: Vec<bounds::ModuleBounds>,
    before: usize,
    failed: bool,
    /// What the whole node must stay below, if that is asked and not each part.
    memory_max: Option<u64>,
    /// What was computed for all parts so far but was not taken. A part may use it where the machine has other work, since
    /// what was sent for one part may then arrive with the next.
    left: u64,
    carries_over: bool,
}

impl Filling {
    fn app(&self) -> RawSdk {
        RawSdk::connect_with(application_config(Profile::Ec), self.node.channel).expect("let in")
    }

    fn bound(&self, name: &str, per: &str) -> &Bound {
        let all = self.rooms.iter().flat_map(|(_, bounds)| bounds);
        all.into_iter().find(|bound| bound.name == name && bound.per == per).expect("listed")
    }

    fn await_subscriptions(&self, count: u64) {
        wait_until("sessions are subscribed", || self.node.figure("subscriptions") >= count);
    }

    /// Compares what the node has taken since the last part with what was computed for this one.
    fn compare(&mut self, part: &str, computed: u64) {
        // What was sent is worked through when the memory stops growing.
        let mut resident = self.node.resident_bytes();
        loop {
            thread::sleep(Duration::from_millis(500));
            let now = self.node.resident_bytes();
            if now <= resident + (256 << 10) {
                break;
            }
            resident = now;
        }
        let taken = resident.saturating_sub(self.before);
        self.before = resident;
        if let Some(max) = self.memory_max {
            self.failed |= resident as u64 > max;
            println!("{part:<44} {:>9} KiB of {} KiB", resident >> 10, max >> 10);
            return;
        }
        let allowed = computed + if self.carries_over { self.left } else { 0 };
        let verdict = if taken as u64 <= allowed { "" } else { "  MORE" };
        self.failed |= taken as u64 > allowed;
        self.left = allowed.saturating_sub(taken as u64);
        println!("{part:<44} computed {:>9} KiB, taken {:>9} KiB{verdict}", computed >> 10, taken >> 10);
    }
}

/// Reads and drops everything, for ever.
fn drain(app: &RawSdk) {
    let mut socket = app.socket.try_clone().expect("a descriptor");
    socket.set_read_timeout(None).expect("a socket");
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while socket.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
}

#[test]
fn a_node_at_a_quarter_of_these_bounds_takes_no_more_memory_than_computed() {
    fill_to_the_bounds(Divisor(4), &Divisor(4).config(), false);
}

#[test]
#[ignore = "takes some minutes and hundreds of MiB: scripts/memory"]
fn a_node_at_its_bounds_takes_no_more_memory_than_computed() {
    fill_to_the_bounds(Divisor(1), &Divisor(1).config(), false);
}

/// Nothing is set but how much memory it may take: what is sent is more than its bounds have room for.
#[test]
fn a_node_that_is_sent_more_than_memory_max_stays_below_it() {
    let config = "[admin]\nlisten_port=0\n[engine]\nreactors=1\nmemory_max=256M\n[amop]\npush_timeout_ms=600000\n\
        request_timeout_ms=600000\nidle_timeout_ms=3600000\nstall_timeout_ms=3600000\n";
    fill_to_the_bounds(Divisor(1), config, true);
}

/// With `is_whole` the whole node is compared with `memory_max`, else each part with what was computed for it.
fn fill_to_the_bounds(divisor: Divisor, config: &str, is_whole: bool) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Process::start_with(&host_dir(Profile::Ec).join("node0/conf"), false, config);
    let (config, _) = Config::parse(&format!("[p2p]\n{config}"), Path::new(".")).expect("a configuration");
    let before = node.resident_bytes();
    println!("{:<44} {:>40} KiB", "an idle node", before >> 10);
    let mut filling = Filling {
        node,
        rooms: config.bounds(),
        before,
        failed: false,
        memory_max: is_whole.then_some(config.memory_max.bytes),
        left: 0,
        carries_over: divisor.0 > 1,
    };
    let of = |filling: &Filling, name: &str, per: &str| filling.bound(name, per).memory;

    let sessions: Vec<RawSdk> = (0..SESSIONS).map(|_| filling.app()).collect();
    let links = filling.bound("links", "node");
    let a_session = links.memory / links.value
        + of(&filling, "sessions", "node") / filling.bound("sessions", "node").value
        + of(&filling, "share of a session in them", "session") / filling.bound("sessions", "node").value;
    filling.compare(&format!("{SESSIONS} idle sessions"), SESSIONS as u64 * a_session);

    let mut subscribers: Vec<RawSdk> = (0..5).map(|_| filling.app()).collect();
    for (number, app) in subscribers.iter_mut().enumerate() {
        let topics: Vec<String> =
            (0..divisor.of(9_990)).map(|topic| format!("{number}-{topic:0>250}")).collect();
        let body = serde_json::to_vec(&topics).expect("strings");
        app.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(number as u64), ResultCode::OK, &body));
    }
    let topics = filling.bound("topics", "node").memory
        + filling.bound("subscriptions, those that wait included", "node").memory
        + filling.bound("steps of our own record that are kept", "node").memory;
    filling.compare("topics of 254 bytes", topics);

    let subscribed = filling.node.figure("subscriptions");
    let mut silent: Vec<RawSdk> = (0..2).map(|_| filling.app()).collect();
    for app in &mut silent {
        drain(app);
        app.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(0), ResultCode::OK, br#"["silent"]"#));
    }
    let mut publisher = filling.app();
    drain(&publisher);
    filling.await_subscriptions(subscribed + 2);
    for number in 0..divisor.of(25_000) {
        publisher.send(&sdk::encode_amop(
            FrameType::REQUEST,
            &seq(number as u64),
            ResultCode::OK,
            "silent",
            &[7; 1_600],
        ));
    }
    let computed = of(&filling, "requests that wait for their answer", "reactor")
        + of(&filling, "pushes that wait for their answer", "reactor")
        + filling
            .rooms
            .iter()
            .flat_map(|(_, bounds)| bounds)
            .filter(|bound| bound.name == "frames kept for another try")
            .map(|bound| bound.memory)
            .sum::<u64>();
    filling.compare("requests, pushes, frames kept for a retry", computed);

    let mut slow: Vec<RawSdk> = (0..divisor.of(80)).map(|_| filling.app()).collect();
    for app in &mut slow {
        let header =
            Header { len: 1 << 20, frame_type: FrameType::MULTICAST, seq: seq(1), result: ResultCode::OK };
        app.send(&header.encode());
        // Those that are cut when the pool is full may not take it.
        let rest = app.seal(&vec![7; (1 << 20) - 1_000]);
        let _ = app.socket.write_all(&rest);
    }
    let computed = of(&filling, "unfinished frames and records", "node");
    filling.compare("unfinished frames", computed);

    let mut deaf: Vec<RawSdk> = (0..8).map(|_| filling.app()).collect();
    for app in &mut deaf {
        app.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(0), ResultCode::OK, br#"["deaf"]"#));
    }
    filling.await_subscriptions(subscribed + 10);
    for number in 0..divisor.of(600) {
        publisher.send(&sdk::encode_amop(
            FrameType::MULTICAST,
            &seq(number as u64),
            ResultCode::OK,
            "deaf",
            &[7; 60_000],
        ));
    }
    let computed = of(&filling, "outgoing queues of all sessions", "node");
    filling.compare("queues of sessions that do not read", computed);

    let handshakes_count = divisor.of(HANDSHAKES);
    let handshakes: Vec<TcpStream> = (0..handshakes_count)
        .map(|number| {
            let source = SocketAddr::from((Ipv4Addr::new(127, 0, 1, (number / 60) as u8 + 1), 0));
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.bind(&source.into()).expect("a loopback address");
            socket.connect(&filling.node.channel.into()).expect("a listener");
            let mut stream = TcpStream::from(socket);
            // The beginning of a ClientHello that promises more than comes.
            let _ =
                stream.write_all(&[&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..], &[7; 12_000]].concat());
            stream
        })
        .collect();
    let all = filling.bound("handshakes", "listener");
    let computed = all.memory / (2 * all.value) * handshakes_count as u64;
    filling.compare(&format!("{handshakes_count} handshakes that stop half-way"), computed);

    let bound = bounds::memory(&filling.rooms);
    println!(
        "{:<44} computed {:>9} KiB, taken {:>9} KiB",
        "all bounds at once, and what was reached here",
        bound >> 10,
        filling.node.resident_bytes() >> 10
    );
    assert!(!filling.failed, "a part takes more than was computed for it, or the node more than it may");
    assert!(bound <= config.memory_max.bytes);
    drop((handshakes, deaf, slow, silent, subscribers, sessions));
}
