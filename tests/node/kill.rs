//! Node and subscriber processes are killed while requests flow, at random and at chosen points: every
//! publisher gets exactly one answer to each request on its connection as long as its own node lives, and no
//! session gets a request twice. `scripts/kill` runs as many rounds as it is told to, of the release program.

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use amop::internal::{
    pki::Profile,
    tls::{config::client_config, identity, settings::TlsSettings},
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::support::{
    RawSdk, host_dir,
    process::{Process, write_config},
    wait_until,
};

const TOPIC: &str = "t";
const NODES: usize = 3;
/// Requests of a publisher that are open at once.
const WINDOW: usize = 8;
/// A publisher's pause after an answer: the others need the processors too.
const PACE: Duration = Duration::from_millis(1);
/// Shorter than by default, so that a round is short.
const TIMES: &str = "[amop]\npush_timeout_ms=500\nrequest_timeout_ms=5000\n";
/// What a subscriber process says begins so.
const SAYS: &str = "subscriber: ";

/// What happened, over all rounds.
#[derive(Default)]
struct Tally {
    asked: AtomicU64,
    answered: AtomicU64,
    delivered: AtomicU64,
    /// Requests whose publisher's own node was killed.
    excepted: AtomicU64,
    codes: Mutex<BTreeMap<i32, u64>>,
    /// What must not be.
    faults: Mutex<Vec<String>>,
    /// How often each node was killed.
    kills: [AtomicU64; NODES],
}

impl Tally {
    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }
}

/// Connects with an application's files.
fn connect(files: &Path, address: SocketAddr) -> Option<RawSdk> {
    let identity = identity::Identity::load(&files.join("sdk.crt"), &files.join("sdk.key")).unwrap();
    let roots = identity::Roots::load(&files.join("ca.crt")).unwrap();
    let config = client_config(&identity, &roots, &TlsSettings::default()).unwrap();
    RawSdk::connect_with(config, address).ok()
}

fn send(app: &mut RawSdk, bytes: &[u8]) -> bool {
    let record = app.seal(bytes);
    app.socket.write_all(&record).is_ok()
}

/// Asks all the time, on one connection after another; the next begins when the one before ends.
fn publish(number: usize, files: &Path, addresses: [SocketAddr; NODES], stop: &AtomicBool, tally: &Tally) {
    let node = number % NODES;
    let mut asked = 0u64;
    'connections: while !stop.load(Relaxed) {
        let kills = tally.kills[node].load(Relaxed);
        let Some(mut app) = connect(files, addresses[node]) else {
            thread::park_timeout(10 * PACE);
            continue;
        };
        let (mut open, mut over) = (HashSet::<Seq>::new(), HashSet::<Seq>::new());
        let mut beaten = false;
        loop {
            let mut is_sent = true;
            while is_sent && open.len() < WINDOW && !stop.load(Relaxed) {
                asked += 1;
                let seq: Seq = format!("{number:04x}{asked:028x}").into_bytes().try_into().unwrap();
                is_sent =
                    send(&mut app, &sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, TOPIC, &seq));
                open.insert(seq);
                tally.asked.fetch_add(1, Relaxed);
            }
            if is_sent && open.is_empty() && !beaten {
                // A second answer would come before the answer to this.
                beaten = true;
                let beat = sdk::encode(FrameType::HEARTBEAT, &[b'0'; 32], ResultCode::OK, b"0");
                // If it is gone already, that shows in what comes.
                let _ = send(&mut app, &beat);
            }
            // What it had said before it was killed may still be on its way.
            let Ok(frame) = catch_unwind(AssertUnwindSafe(|| app.frame())) else {
                tally.fault(format!("publisher {number}: {} requests are never answered", open.len()));
                return;
            };
            let Some(frame) = frame else {
                tally.excepted.fetch_add(open.len() as u64, Relaxed);
                if tally.kills[node].load(Relaxed) == kills {
                    tally.fault(format!("publisher {number}: node {node}, which lives, has closed"));
                }
                continue 'connections;
            };
            let header = Header::decode(&frame).expect("a whole frame");
            if header.frame_type == FrameType::HEARTBEAT {
                return;
            }
            let seq = String::from_utf8_lossy(&header.seq).into_owned();
            if over.contains(&header.seq) {
                tally.fault(format!("publisher {number}: {seq} is answered a second time"));
            } else if header.frame_type != FrameType::RESPONSE || !open.remove(&header.seq) {
                tally.fault(format!("publisher {number} gets what it did not ask for: {header:?}"));
            }
            let is_whole = match header.result {
                ResultCode::OK => frame.ends_with(&header.seq) && frame.len() > HEADER_LEN + header.seq.len(),
                _ => frame.len() == HEADER_LEN,
            };
            if !is_whole {
                tally.fault(format!("{seq} is answered {} with {} bytes", header.result.0, frame.len()));
            }
            over.insert(header.seq);
            *tally.codes.lock().unwrap().entry(header.result.0).or_default() += 1;
            tally.answered.fetch_add(1, Relaxed);
            thread::park_timeout(PACE);
        }
    }
}

/// Not a test: the process of a subscriber, which says what it gets before it answers.
#[test]
#[ignore = "is run by the tests as a process of its own"]
fn subscriber_process() {
    let Some(address) = std::env::var_os("AMOP_KILL_NODE") else { return };
    let address: SocketAddr = address.to_str().unwrap().parse().unwrap();
    let files = PathBuf::from(std::env::var_os("AMOP_KILL_FILES").unwrap());
    thread::spawn(|| {
        // Nobody outlives the test.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let say = |what: &str| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{SAYS}{what}").and_then(|()| out.flush());
    };
    loop {
        let Some(mut app) = connect(&files, address) else {
            thread::park_timeout(10 * PACE);
            continue;
        };
        app.socket.set_read_timeout(None).unwrap();
        say("connected");
        if !send(&mut app, &sdk::encode(FrameType::SUBSCRIBE, &[b'0'; 32], ResultCode::OK, br#"["t"]"#)) {
            continue;
        }
        while let Some(mut frame) = app.frame() {
            let header = Header::decode(&frame).expect("a whole frame");
            if header.frame_type == FrameType::REQUEST {
                say(std::str::from_utf8(&header.seq).unwrap());
                frame[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
                if !send(&mut app, &frame) {
                    break;
                }
            }
        }
    }
}

/// A subscriber's process, and a thread that hears what it says.
struct Subscriber {
    child: Child,
    delivered: Arc<AtomicU64>,
}

impl Subscriber {
    fn start(files: &Path, address: SocketAddr, tally: &Arc<Tally>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::subscriber_process", "--ignored", "--nocapture"])
            .env("AMOP_KILL_NODE", address.to_string())
            .env("AMOP_KILL_FILES", files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let delivered = Arc::new(AtomicU64::new(0));
        let (lines, tally, count) =
            (BufReader::new(child.stdout.take().unwrap()).lines(), tally.clone(), delivered.clone());
        thread::spawn(move || {
            let mut had = HashSet::new();
            for line in lines.map_while(Result::ok) {
                // The test program says something of its own before.
                let Some((_, said)) = line.split_once(SAYS) else { continue };
                if said == "connected" {
                    had.clear();
                    continue;
                }
                count.fetch_add(1, Relaxed);
                tally.delivered.fetch_add(1, Relaxed);
                if !had.insert(said.to_owned()) {
                    tally.fault(format!("one session gets {said} twice"));
                }
            }
        });
        Self { child, delivered }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When somebody is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as some publisher has sent one more request.
    ARequestIsSent,
    /// As soon as the subscriber at the node has one more request and has hardly answered.
    ARequestIsDelivered,
    /// As soon as some publisher has one more answer.
    ARequestIsAnswered,
    Whenever,
}

struct Network {
    configs: Vec<PathBuf>,
    addresses: [SocketAddr; NODES],
    files: PathBuf,
    nodes: Vec<Option<Process>>,
    subscribers: Vec<Subscriber>,
    tally: Arc<Tally>,
}

impl Network {
    /// `block`: the third byte of the nodes' addresses, so that nobody else takes the ports of a node while
    /// it is away.
    fn start(dir: &Path, block: u8) -> Self {
        let free = |node: usize| {
            let ip = IpAddr::from([127, 0, block, 1 + node as u8]);
            [0; 2].map(|_| TcpListener::bind((ip, 0)).unwrap()).map(|socket| socket.local_addr().unwrap())
        };
        let listen: [[SocketAddr; 2]; NODES] = std::array::from_fn(free);
        let host = host_dir(Profile::Ec);
        let configs: Vec<PathBuf> = (0..NODES)
            .map(|node| {
                let dir = dir.join(node.to_string());
                std::fs::create_dir(&dir).unwrap();
                let peers = listen.iter().enumerate().filter(|(other, _)| *other != node);
                let peers: String = peers.map(|(other, [_, p2p])| format!("node.{other}={p2p}\n")).collect();
                let more = format!("{peers}[admin]\nlisten_port=0\n[engine]\nreactors=2\n{TIMES}");
                write_config(&dir, &host.join(format!("node{node}/conf")), false, listen[node], &more)
            })
            .collect();
        let nodes = configs.iter().map(|config| Some(Process::run(config))).collect();
        let (addresses, files, tally) =
            (listen.map(|[channel, _]| channel), host.join("sdk"), Arc::default());
        let subscribers =
            addresses.iter().map(|&address| Subscriber::start(&files, address, &tally)).collect();
        let network = Self { configs, addresses, files, nodes, subscribers, tally };
        network.wait_until_whole();
        network
    }

    fn wait_until_whole(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let node = node.as_ref().expect("it was started again");
            wait_until(&format!("node {number} knows all subscribers"), || {
                node.subscribers(TOPIC) == NODES as u64
            });
        }
    }

    /// Waits for the moment; requests flow all the time, so it comes.
    fn wait_for(&self, moment: Moment, node: usize, random: &mut SmallRng) {
        let count = match moment {
            Moment::ARequestIsSent => &self.tally.asked,
            Moment::ARequestIsDelivered => &self.subscribers[node].delivered,
            Moment::ARequestIsAnswered => &self.tally.answered,
            Moment::Whenever => {
                return thread::sleep(Duration::from_micros(random.random_range(0..50_000)));
            }
        };
        let before = count.load(Relaxed);
        wait_until("requests flow", || {
            thread::yield_now();
            count.load(Relaxed) > before
        });
    }

    fn kill_node(&mut self, node: usize) {
        self.tally.kills[node].fetch_add(1, Relaxed);
        // Dropping it kills it.
        self.nodes[node] = None;
    }

    fn kill_subscriber(&mut self, node: usize) {
        let child = &mut self.subscribers[node].child;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Kills one or two, and starts them again.
    fn round(&mut self, random: &mut SmallRng) -> String {
        let node = random.random_range(0..NODES);
        let moment = [
            Moment::ARequestIsSent,
            Moment::ARequestIsDelivered,
            Moment::ARequestIsAnswered,
            Moment::Whenever,
        ][random.random_range(0..4)];
        let victims = random.random_range(0..10);
        self.wait_for(moment, node, random);
        let (kills_node, kills_subscriber) = (victims >= 4, victims < 4 || victims == 9);
        if kills_subscriber {
            self.kill_subscriber(node);
        }
        if kills_node {
            self.kill_node(node);
        }
        thread::sleep(Duration::from_millis(random.random_range(0..400)));
        if kills_node {
            self.nodes[node] = Some(Process::run(&self.configs[node]));
        }
        if kills_subscriber {
            self.subscribers[node] = Subscriber::start(&self.files, self.addresses[node], &self.tally);
        }
        // Sometimes the next one is killed before the network has found itself.
        if random.random_bool(0.7) {
            self.wait_until_whole();
        }
        let who = match (kills_node, kills_subscriber) {
            (true, true) => "node and subscriber",
            (true, false) => "node",
            _ => "subscriber",
        };
        format!("{who}, {moment:?}")
    }
}

fn kill_for(rounds: u64, seed: u64, block: u8) {
    let dir = tempfile::tempdir().unwrap();
    let mut network = Network::start(dir.path(), block);
    let mut random = SmallRng::seed_from_u64(seed);
    let (tally, stop) = (network.tally.clone(), AtomicBool::new(false));
    let mut kinds = BTreeMap::<String, u64>::new();
    let (files, addresses) = (network.files.clone(), network.addresses);
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..2 * NODES)
            .map(|number| {
                let (files, stop, tally) = (&files, &stop, &*tally);
                scope.spawn(move || publish(number, files, addresses, stop, tally))
            })
            .collect();
        // However it ends, the publishers must.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..rounds {
                *kinds.entry(network.round(&mut random)).or_default() += 1;
            }
            network.wait_until_whole();
        }));
        stop.store(true, Relaxed);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    println!("{rounds} rounds, seed {seed}; killed, and when:");
    for (kind, count) in kinds {
        println!("{count:6}  {kind}");
    }
    let faults = tally.faults.lock().unwrap();
    println!(
        "{} requests, {} deliveries, {} answers by code {:?}; {} requests whose own node was killed; {} faults",
        count(&tally.asked),
        count(&tally.delivered),
        count(&tally.answered),
        tally.codes.lock().unwrap(),
        count(&tally.excepted),
        faults.len(),
    );
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(count(&tally.asked), count(&tally.answered) + count(&tally.excepted));
    assert!(count(&tally.answered) > rounds, "requests flow");
}

#[test]
fn whoever_is_killed_publishers_get_one_answer_and_sessions_no_request_twice() {
    kill_for(8, 1, 78);
}

/// For `scripts/kill`: `AMOP_ROUNDS` rounds with the seed `AMOP_SEED`.
#[test]
#[ignore = "runs as long as it is told to"]
fn any_number_of_rounds() {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    kill_for(number("AMOP_ROUNDS").unwrap_or(100), number("AMOP_SEED").unwrap_or(1), 79);
}
