//! What large frames cost: a node of the built program on one processor, a publisher and its subscribers on another,
//! and beside it, at the same time and on the node's processor, the AEAD alone: one open of each frame and one seal
//! for each subscriber, from memory to memory.
//!
//! ```text
//! cargo build --release && cargo run --release -p amop-perf --bin large
//! cargo run --release -p amop-perf --bin large -- --tls 1.3 --subscribers 4 target/release/amop
//! ```
//!
//! A forwarder that receives and sends the same bytes without looking at them says what the kernel takes at least.
//! It sends each frame to one only.
//!
//! The node's time is read from /proc. Applications open what arrives while the node warms up and compare it with
//! what was sent; afterwards they count records, so that the load is cheaper than the node.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use amop::internal::{
    load::shake_hands,
    pki::{NetworkPlan, Profile, build_network},
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        record::{ContentType, OVERHEAD_MAX, Opened, Opener, PLAINTEXT_LEN_MAX, Sealer, record_len},
        settings::TlsSettings,
    },
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
};
use clap::{Parser, ValueEnum};
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

type Failure = Box<dyn Error + Send + Sync>;

const TOPIC: &str = "large";
const TAG_LEN: usize = 16;
/// Frames that are opened and compared before the measurement.
const WARM_UP: u64 = 50;
const MEBIBYTE: f64 = (1 << 20) as f64;

#[derive(Parser)]
struct Args {
    /// The program; by default the one that was built beside this.
    program: Option<PathBuf>,
    /// Payload in bytes.
    #[arg(long, default_value_t = 1 << 20)]
    payload: usize,
    /// Frames under way at once.
    #[arg(long, default_value_t = 4)]
    window: u64,
    /// Frames in a round.
    #[arg(long, default_value_t = 2_000)]
    frames: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// TLS version.
    #[arg(long, default_value = "1.2")]
    tls: String,
    /// What is measured in each round.
    #[arg(long, value_delimiter = ',', default_value = "unicast,multicast")]
    kinds: Vec<Kind>,
    /// Who gets each multicast.
    #[arg(long, default_value_t = 1)]
    subscribers: usize,
    /// Processors of the node and of the load.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    pin: Vec<usize>,
    /// More lines of the node's configuration.
    #[arg(long, default_value = "")]
    config: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Unicast,
    Multicast,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let &[node_core, load_core] = args.pin.as_slice() else {
        return Err("--pin takes two processors".into());
    };
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("amop"),
    };
    let dir = tempfile::tempdir()?;
    let plan = NetworkPlan { profile: Profile::Rsa, days: 1, ..NetworkPlan::default() };
    build_network(&plan, &dir.path().join("nodes"))?;
    let host = dir.path().join("nodes/127.0.0.1");
    // A child runs where its parent does.
    pin(node_core)?;
    let mut node = Node::start(&program, &host, &args)?;
    pin(load_core)?;
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..args.rounds {
        for &kind in &args.kinds {
            let subscribers = if kind == Kind::Unicast { 1 } else { args.subscribers };
            let (aead, stop) = (Aead::new(args.payload, subscribers)?, Arc::new(AtomicBool::new(false)));
            let stopped = stop.clone();
            let measuring = thread::spawn(move || aead.measure(node_core, &stopped));
            let used = run(&args, kind, subscribers, &host, &mut node);
            stop.store(true, SeqCst);
            let aead = measuring.join().map_err(|_| "the AEAD failed")??;
            let used = used?;
            let bare = bare(&args, node_core, load_core)?;
            let row = Row { kind, aead, bare, used };
            println!("round {}: {}", round + 1, row.text(&args));
            rows.push(row);
        }
    }
    for &kind in &args.kinds {
        let of = |value: &dyn Fn(&Row) -> f64| {
            let mut values: Vec<f64> = rows.iter().filter(|row| row.kind == kind).map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{kind:?}, median of {}: user time {:.2} x the AEAD alone; {:.0} % of its rate, of {:.0} % that would be left if \
             nothing but this and the passing of bytes took time",
            args.rounds,
            of(&|row| row.used.user / row.aead),
            of(&|row| 100.0 * row.aead / (row.used.user + row.used.system)),
            of(&|row| 100.0 * row.aead / (row.aead + row.bare)),
        );
    }
    Ok(())
}

/// Seconds for one frame.
struct Row {
    kind: Kind,
    aead: f64,
    bare: f64,
    used: Used,
}

impl Row {
    fn text(&self, args: &Args) -> String {
        let per_mebibyte = 1e6 * MEBIBYTE / args.payload as f64;
        let Self { kind, aead, bare, used } = self;
        format!(
            "{kind:?}: AEAD {:.0} us/MiB, received and sent only {:.0}, node {:.0} user + {:.0} system, {:.0} minor faults; user {:.2} x the AEAD, \
             {:.0} % of its rate; node {:.0} % busy, load {:.0} %; {:.0} MiB/s",
            aead * per_mebibyte,
            bare * per_mebibyte,
            used.user * per_mebibyte,
            used.system * per_mebibyte,
            used.faults * MEBIBYTE / args.payload as f64,
            used.user / aead,
            100.0 * aead / (used.user + used.system),
            100.0 * (used.user + used.system) / used.elapsed,
            100.0 * used.load / used.elapsed,
            args.payload as f64 / MEBIBYTE / used.elapsed,
        )
    }
}

/// What one frame took, in seconds of processor time, page faults, and seconds.
struct Used {
    user: f64,
    system: f64,
    load: f64,
    faults: f64,
    elapsed: f64,
}

fn pin(core: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

fn cpu_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The AEAD alone: opens one payload and seals it so many times, in records of full length, each from one
/// buffer into another.
struct Aead {
    key: LessSafeKey,
    seals: usize,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
    tags: Vec<[u8; TAG_LEN]>,
    out_tags: Vec<[u8; TAG_LEN]>,
}

impl Aead {
    fn new(payload: usize, seals: usize) -> Result<Self, Failure> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16])?);
        let tags = vec![[0; TAG_LEN]; payload.div_ceil(PLAINTEXT_LEN_MAX)];
        let (sealed, plain, out) = (vec![1; payload], vec![0; payload], vec![0; payload]);
        let mut aead = Self { key, seals, sealed, plain, out, out_tags: tags.clone(), tags };
        aead.seal()?;
        std::mem::swap(&mut aead.out, &mut aead.sealed);
        std::mem::swap(&mut aead.out_tags, &mut aead.tags);
        Ok(aead)
    }

    fn nonce(record: usize) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(record as u64).to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self) -> Result<(), Unspecified> {
        let Self { key, plain, out, out_tags, .. } = self;
        let records = plain.chunks(PLAINTEXT_LEN_MAX).zip(out.chunks_mut(PLAINTEXT_LEN_MAX)).zip(out_tags);
        for (record, ((plain, out), tag)) in records.enumerate() {
            let aad = Aad::from([0; 13]);
            key.seal_out_of_place_scatter(Self::nonce(record), aad, plain, out, &[], tag)?;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Unspecified> {
        let Self { key, plain, sealed, tags, .. } = self;
        let records = sealed.chunks(PLAINTEXT_LEN_MAX).zip(plain.chunks_mut(PLAINTEXT_LEN_MAX)).zip(tags);
        for (record, ((sealed, plain), tag)) in records.enumerate() {
            key.open_separate_gather(Self::nonce(record), Aad::from([0; 13]), sealed, tag, plain)?;
        }
        Ok(())
    }

    /// Seconds of processor time for one payload, measured in short slices until it is told to stop: what else
    /// the machine does slows both this and the node.
    fn measure(mut self, core: usize, stop: &AtomicBool) -> Result<f64, Failure> {
        pin(core)?;
        let (mut passes, mut taken) = (0, 0.0);
        while !stop.load(SeqCst) {
            // What others left in the caches is not counted.
            self.open()?;
            let begun = cpu_seconds(ClockId::ThreadCPUTime);
            for _ in 0..10 {
                self.open()?;
                for _ in 0..self.seals {
                    self.seal()?;
                }
            }
            taken += cpu_seconds(ClockId::ThreadCPUTime) - begun;
            passes += 10;
            thread::sleep(Duration::from_millis(90));
        }
        Ok(taken / f64::from(passes))
    }
}

/// Seconds of processor time for one payload that only comes and goes: it is received and sent as the node does
/// it, and not looked at.
fn bare(args: &Args, node_core: usize, load_core: usize) -> Result<f64, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connect = || Ok::<_, Failure>((TcpStream::connect(listener.local_addr()?)?, listener.accept()?.0));
    let ((mut publisher, mut from), (mut to, mut subscriber)) = (connect()?, connect()?);
    let (payload, frames) = (args.payload, args.frames.min(500));
    let forward = thread::spawn(move || {
        pin(node_core)?;
        let mut buffer = vec![0; 256 * 1024];
        let begun = cpu_seconds(ClockId::ThreadCPUTime);
        loop {
            let len = from.read(&mut buffer)?;
            if len == 0 {
                return Ok::<_, Failure>((cpu_seconds(ClockId::ThreadCPUTime) - begun) / frames as f64);
            }
            to.write_all(&buffer[..len])?;
        }
    });
    pin(load_core)?;
    let drain = thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while subscriber.read(&mut buffer).is_ok_and(|len| len > 0) {}
    });
    let bytes = vec![7; payload];
    for _ in 0..frames {
        publisher.write_all(&bytes)?;
    }
    drop(publisher);
    let taken = forward.join().map_err(|_| "the forwarder failed")?;
    drain.join().map_err(|_| "the forwarder's receiver failed")?;
    taken
}

struct Node {
    process: Child,
    channel: SocketAddr,
}

impl Node {
    fn start(program: &Path, host: &Path, args: &Args) -> Result<Self, Failure> {
        let config = host.join("config.ini");
        let text = format!(
            "[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n[network_security]\ndata_path={}\n\
             [chain]\nrsa_crypto_channel=true\n[log]\nformat=json\n[engine]\nreactors=1\n\
             [tls]\nchannel_versions={}\n[p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n{}\n",
            host.join("node0/conf").display(),
            args.tls,
            args.config.replace("\\n", "\n"),
        );
        std::fs::write(&config, text)?;
        let mut process =
            Command::new(program).args(["node", "-c"]).arg(&config).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stderr.take().ok_or("no log")?).lines().map_while(Result::ok);
        let mut log = String::new();
        let channel = lines.by_ref().find_map(|line| {
            let value: serde_json::Value = serde_json::from_str(&line).ok()?;
            log = log.clone() + &line + "\n";
            value["fields"]["channel"].as_str()?.parse().ok()
        });
        let channel = channel.ok_or_else(|| format!("the node does not come up: {log}"))?;
        // It must go on being read.
        thread::spawn(move || {
            lines.filter(|line| !line.contains("\"INFO\"")).for_each(|line| eprintln!("{line}"))
        });
        Ok(Self { process, channel })
    }

    /// User and system time in seconds, and minor page faults.
    fn used(&self) -> Result<[f64; 3], Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Ok([fields[11].parse::<f64>()? / ticks, fields[12].parse::<f64>()? / ticks, fields[7].parse()?])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An application over our own record layer.
struct App {
    socket: TcpStream,
    sealer: Sealer,
    opener: Opener,
    received: Vec<u8>,
    /// Where in `received` what was not looked at yet begins.
    at: usize,
}

impl App {
    fn connect(args: &Args, host: &Path, node: SocketAddr) -> Result<Self, Failure> {
        let dir = host.join("sdk");
        let identity = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key"))?;
        let suite = match args.tls.as_str() {
            "1.3" => "TLS_AES_128_GCM_SHA256",
            _ => "ECDHE-RSA-AES128-GCM-SHA256",
        };
        let settings = TlsSettings::from_names(std::slice::from_ref(&args.tls), &[suite.to_owned()], &[])?;
        let config = client_config(&identity, &Roots::load(&dir.join("ca.crt"))?, &settings)?;
        let mut socket = TcpStream::connect(node)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let established = shake_hands(&mut socket, &config)?;
        Ok(Self {
            socket,
            sealer: established.sealer,
            opener: established.opener,
            received: established.received,
            at: 0,
        })
    }

    fn send(&mut self, frame: &[u8], sealed: &mut Vec<u8>) -> Result<(), Failure> {
        sealed.clear();
        for piece in frame.chunks(PLAINTEXT_LEN_MAX) {
            self.sealer.seal(ContentType::ApplicationData, &[piece], sealed)?;
        }
        Ok(self.socket.write_all(sealed)?)
    }

    /// Subscribes, and waits until that is known: what is sent to `own`, a topic of this application's, comes
    /// back.
    fn subscribe(&mut self, own: &str, sealed: &mut Vec<u8>) -> Result<(), Failure> {
        let topics = format!("[\"{TOPIC}\",\"{own}\"]");
        let subscribe = sdk::encode(FrameType::SUBSCRIBE, &seq(0), ResultCode::OK, topics.as_bytes());
        self.send(&subscribe, sealed)?;
        loop {
            let echo = sdk::encode_amop(FrameType::MULTICAST, &seq(0), ResultCode::OK, own, b"");
            self.send(&echo, sealed)?;
            self.send(&sdk::encode(FrameType::HEARTBEAT, &seq(0), ResultCode::OK, b"0"), sealed)?;
            let mut came_back = false;
            loop {
                match Header::decode(&self.frame()?).ok_or("half a frame")?.frame_type {
                    FrameType::HEARTBEAT => break,
                    frame_type => came_back |= frame_type == FrameType::MULTICAST,
                }
            }
            if came_back {
                return Ok(());
            }
        }
    }

    /// The next record, as it came.
    fn record(&mut self) -> Result<&mut [u8], Failure> {
        loop {
            if let Some(len) = record_len(&self.received[self.at..])?
                && len <= self.received.len() - self.at
            {
                self.at += len;
                return Ok(&mut self.received[self.at - len..self.at]);
            }
            self.received.drain(..self.at);
            self.at = 0;
            let have = self.received.len();
            self.received.resize(have + (1 << 18), 0);
            let read = self.socket.read(&mut self.received[have..])?;
            self.received.truncate(have + read);
            if read == 0 {
                return Err("the node closed".into());
            }
        }
    }

    fn frame(&mut self) -> Result<Vec<u8>, Failure> {
        let mut frame = Vec::new();
        loop {
            let mut record = self.record()?.to_vec();
            if let Opened::Data(data) = self.opener.open_in_place(&mut record)? {
                frame.extend_from_slice(data);
            }
            if let Some(header) = Header::decode(&frame)
                && frame.len() >= header.len as usize
            {
                return Ok(frame);
            }
        }
    }

    /// Counts a frame's records without opening them. Long ones end with the first that is not full.
    fn skip_frame(&mut self, frame_len: usize) -> Result<(), Failure> {
        let mut left = frame_len;
        while left > 0 {
            let record = self.record()?.len();
            let plaintext = left.min(PLAINTEXT_LEN_MAX);
            if !(plaintext..=plaintext + OVERHEAD_MAX).contains(&record) {
                return Err(format!("a record of {record} bytes where {plaintext} were to come").into());
            }
            left -= plaintext;
        }
        Ok(())
    }
}

fn seq(number: u64) -> Seq {
    format!("{number:032}").into_bytes().try_into().expect("32 digits")
}

/// What threads tell the publisher.
struct Progress {
    publisher: thread::Thread,
    /// Frames that each subscriber has, and answers.
    counts: Vec<AtomicU64>,
}

impl Progress {
    fn add(&self, index: usize) {
        self.counts[index].fetch_add(1, SeqCst);
        self.publisher.unpark();
    }

    fn wait_for(&self, count: u64) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_secs(30);
        while self.counts.iter().any(|one| one.load(SeqCst) < count) {
            if Instant::now() > end {
                return Err(format!("of {count} frames came, and answers last: {:?}", self.counts).into());
            }
            thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Says at once what ends a thread, for others then wait for it in vain.
fn spawn(
    who: &'static str,
    body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> thread::JoinHandle<Result<(), Failure>> {
    thread::spawn(move || body().inspect_err(|error| eprintln!("{who}: {error}")))
}

/// Has `count` frames pass, and gives what one took.
fn run(args: &Args, kind: Kind, subscribers: usize, host: &Path, node: &mut Node) -> Result<Used, Failure> {
    let frame_type = match kind {
        Kind::Unicast => FrameType::REQUEST,
        Kind::Multicast => FrameType::MULTICAST,
    };
    let payload: Vec<u8> = (0..args.payload).map(|index| ((index * index) >> 7) as u8).collect();
    let mut frame = sdk::encode_amop(frame_type, &seq(0), ResultCode::OK, TOPIC, &payload);
    let total = WARM_UP + args.frames;
    let progress = Arc::new(Progress {
        publisher: thread::current(),
        counts: (0..=subscribers).map(|_| AtomicU64::new(0)).collect(),
    });
    let mut threads = Vec::new();
    for index in 0..subscribers {
        let mut app = App::connect(args, host, node.channel)?;
        let mut sealed = Vec::new();
        app.subscribe(&format!("{TOPIC}-{index}"), &mut sealed)?;
        let (progress, wanted) = (progress.clone(), frame.clone());
        threads.push(spawn("a subscriber", move || {
            for number in 0..total {
                if number >= WARM_UP {
                    app.skip_frame(wanted.len())?;
                } else if app.frame()?[HEADER_LEN..] != wanted[HEADER_LEN..] {
                    return Err("what arrived is not what was sent".into());
                }
                if kind == Kind::Unicast {
                    let (code, seq) = (ResultCode::OK, seq(number));
                    let answer = sdk::encode_amop(FrameType::RESPONSE, &seq, code, TOPIC, b"taken");
                    app.send(&answer, &mut sealed)?;
                }
                progress.add(index);
            }
            Ok(())
        }));
    }
    let mut publisher = App::connect(args, host, node.channel)?;
    // One link has two halves; the other one's are not used.
    let mut answers = App {
        socket: publisher.socket.try_clone()?,
        received: std::mem::take(&mut publisher.received),
        ..App::connect(args, host, node.channel)?
    };
    std::mem::swap(&mut answers.opener, &mut publisher.opener);
    let counted = progress.clone();
    threads.push(spawn("who takes the answers", move || {
        for number in 0..total {
            let answer = answers.frame()?;
            let header = Header::decode(&answer).ok_or("half an answer")?;
            if header.result != ResultCode::OK || (kind == Kind::Unicast && header.seq != seq(number)) {
                return Err(format!("frame {number} was answered with code {}", header.result.0).into());
            }
            counted.add(subscribers);
        }
        Ok(())
    }));
    let mut sealed = Vec::new();
    let mut begun = None;
    for number in 0..total {
        if number == WARM_UP {
            progress.wait_for(WARM_UP)?;
            begun = Some((node.used()?, cpu_seconds(ClockId::ProcessCPUTime), Instant::now()));
        }
        progress.wait_for((number + 1).saturating_sub(args.window))?;
        frame[6..38].copy_from_slice(&seq(number));
        publisher.send(&frame, &mut sealed)?;
    }
    progress.wait_for(total)?;
    let (before, load, at) = begun.ok_or("no frames")?;
    let after = node.used()?;
    let one = |index: usize| (after[index] - before[index]) / args.frames as f64;
    let used = Used {
        user: one(0),
        system: one(1),
        faults: one(2),
        load: (cpu_seconds(ClockId::ProcessCPUTime) - load) / args.frames as f64,
        elapsed: at.elapsed().as_secs_f64() / args.frames as f64,
    };
    for thread in threads {
        thread.join().map_err(|_| "a thread failed")??;
    }
    Ok(used)
}
