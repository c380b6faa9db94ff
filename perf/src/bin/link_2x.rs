//! What a link to a node of FISCO BCOS 2.x costs beside one to a node of our own: the same unicasts of an application at one node of the
//! built program, by turns to a subscriber at a scripted node of FISCO BCOS 2.x and to one at another node of the program.
//!
//! ```text
//! cargo build --release && cargo run --release -p amop-perf --bin link_2x
//! cargo run --release -p amop-perf --bin link_2x -- --links 16 --window 4 --payload 10240
//!
//!   application ── node ──┬── scripted node, which answers itself
//!                         └── node ── subscriber, which answers
//! ```
//!
//! The node that is measured is on one processor; all else shares the other one. Its processor time for each round trip, read from /proc, can be
//! compared: it does the same on both ways but for the link. Latencies cannot without thought: on our own way there is
//! another node and another SDK link, which a real node of FISCO BCOS 2.x has, too, and the scripted one has not.

#[path = "../child.rs"]
mod child;

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use amop::internal::{
    pki::{NetworkPlan, Profile, build_network},
    tls::{
        config::server_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
    wire::{
        ResultCode,
        p2p_2x::{self, Kind},
        sdk::{self, AmopBody, FrameType, Seq},
    },
};
use child::{FRAME_LEN_MAX, Failure, Node, Run, application, of, pin, read_frame};
use clap::Parser;
use hdrhistogram::Histogram;
use rustls::{ClientConfig, ClientConnection, ServerConnection, StreamOwned, pki_types::ServerName};

/// The topic of whom a message is for.
const TOPICS: [&str; 2] = ["theirs", "ours"];
/// Round trips of each link before those that are measured.
const WARM_UP: u64 = 20;
/// How long a subscriber may take until it is known.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Args {
    /// The program; by default the one that was built beside this.
    program: Option<PathBuf>,
    /// Links of applications.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    links: Vec<u64>,
    /// Messages under way on each link.
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Bytes of each message's payload, and of its answer's.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Runs of each kind, of which the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Processors of the node, and of all else.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    pin: Vec<usize>,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let &[node_core, load_core] = args.pin.as_slice() else {
        return Err("--pin takes two processors".into());
    };
    if args.payload > FRAME_LEN_MAX / 2 || args.window == 0 || args.rounds == 0 {
        return Err("--payload is at most 16 MiB, --window and --rounds at least 1".into());
    }
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("amop"),
    };
    let dir = tempfile::tempdir()?;
    let plan = NetworkPlan { profile: Profile::Rsa, days: 1, ..NetworkPlan::default() };
    build_network(&plan, &dir.path().join("nodes"))?;
    let host = dir.path().join("nodes/127.0.0.1");
    let tls = application(&host)?;
    pin(load_core)?;
    let peer = serve_2x(&host.join("node2/conf"))?;
    let other = Node::start(&program, &host.join("node1"), "")?;
    // A child runs where its parent does.
    pin(node_core)?;
    let node = Node::start(&program, &host.join("node0"), &format!("node.0={peer}\nnode.1={}\n", other.p2p))?;
    pin(load_core)?;
    let subscriber = Link::connect(&tls, other.channel, 1 << 32)?;
    thread::spawn(move || subscriber.answer_all());
    for &links in &args.links {
        let mut runs: [Vec<Run>; 2] = Default::default();
        for round in 0..args.rounds {
            // By turns, every other time in the opposite order.
            for kind in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                runs[kind].push(measure(&args, &tls, links, TOPICS[kind], &node)?);
            }
        }
        tell(&args, links, &runs);
    }
    Ok(())
}

fn tell(args: &Args, links: u64, runs: &[Vec<Run>; 2]) {
    println!(
        "{links} links, {} under way on each, {} B there and back; medians of {} runs of {} s (least to most):",
        args.window, args.payload, args.rounds, args.seconds
    );
    let names = ["to a scripted node of FISCO BCOS 2.x", "to a subscriber at another node"];
    for (name, runs) in names.iter().zip(runs) {
        let (rate, p50, p99) =
            (of(runs, |run| run.rate), of(runs, |run| run.p50_us), of(runs, |run| run.p99_us));
        let used = of(runs, |run| run.node_us_each);
        println!(
            "  {name:<36} {:>7.0}/s  p50 {:>6.0} µs ({:.0} to {:.0})  p99 {:>6.0} µs  the node's processor time for each {:.1} µs ({:.1} to {:.1})",
            rate.1, p50.1, p50.0, p50.2, p99.1, used.1, used.0, used.2
        );
    }
}

/// The node of FISCO BCOS 2.x: has one topic, and answers each message at once with its payload.
fn serve_2x(dir: &Path) -> Result<SocketAddr, Failure> {
    let identity = Identity::load(&dir.join("node.crt"), &dir.join("node.key"))?;
    let roots = Roots::load(&dir.join("ca.crt"))?;
    let tls = server_config(&identity, &roots, &TlsSettings::default(), IssuerPolicy::default())?;
    let config = tls.serving(true);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            thread::spawn(move || {
                stream.set_nodelay(true)?;
                speak_2x(&mut StreamOwned::new(ServerConnection::new(config)?, stream))
            });
        }
    });
    Ok(address)
}

fn speak_2x(stream: &mut (impl Read + Write)) -> Result<(), Failure> {
    stream.write_all(&p2p_2x::encode(Kind::TopicSeq, 0, b"1"))?;
    loop {
        let mut head = [0; p2p_2x::HEADER_LEN];
        stream.read_exact(&mut head)?;
        // A Hello of our own is of no protocol that it knows, and of another version.
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let len = len.checked_sub(p2p_2x::HEADER_LEN).filter(|len| *len <= FRAME_LEN_MAX);
        let mut payload = vec![0; len.ok_or("a frame of an odd length")?];
        stream.read_exact(&mut payload)?;
        let Ok(header) = p2p_2x::Header::decode(&head) else { continue };
        let answer = match header.kind {
            // Which shows that it lives, too.
            Kind::TopicSeq => p2p_2x::encode(Kind::TopicSeq, 0, b"1"),
            Kind::RequestTopics => {
                p2p_2x::encode(Kind::Topics, header.seq, format!("1\t{}", TOPICS[0]).as_bytes())
            }
            Kind::Unicast => {
                payload[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
                p2p_2x::encode(Kind::Answer, header.seq, &payload)
            }
            _ => continue,
        };
        stream.write_all(&answer)?;
    }
}

fn measure(
    args: &Args,
    tls: &Arc<ClientConfig>,
    links: u64,
    topic: &'static str,
    node: &Node,
) -> Result<Run, Failure> {
    let loads = (0..links).map(|link| {
        let (tls, address) = (tls.clone(), node.channel);
        let load = Load { topic, window: args.window, payload: args.payload, seconds: args.seconds };
        move |ready: &Barrier| {
            let connected = Link::connect(&tls, address, link).and_then(|mut link| {
                load.warm_up(&mut link)?;
                Ok(link)
            });
            ready.wait();
            load.run(&mut connected?)
        }
    });
    child::measure(node, loads)
}

/// An application's link.
struct Link {
    stream: StreamOwned<ClientConnection, TcpStream>,
    number: u64,
}

impl Link {
    fn connect(tls: &Arc<ClientConfig>, address: SocketAddr, number: u64) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let nobody = ServerName::try_from("0.0.0.0")?;
        let stream = StreamOwned::new(ClientConnection::new(tls.clone(), nobody)?, socket);
        let mut link = Self { stream, number };
        let hello = br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"amop-perf"}"#;
        let seq = link.seq(0);
        link.stream.write_all(&sdk::encode(FrameType::HANDSHAKE, &seq, ResultCode::OK, hello))?;
        read_frame(&mut link.stream)?;
        Ok(link)
    }

    fn seq(&self, number: u64) -> Seq {
        format!("{:016x}{number:016x}", self.number).into_bytes().try_into().expect("32 digits")
    }

    /// Subscribes, and answers all that comes with its payload.
    fn answer_all(mut self) -> Result<(), Failure> {
        let topics = format!("[\"{}\"]", TOPICS[1]);
        let seq = self.seq(1);
        self.stream.write_all(&sdk::encode(FrameType::SUBSCRIBE, &seq, ResultCode::OK, topics.as_bytes()))?;
        loop {
            let (header, data) = read_frame(&mut self.stream)?;
            if header.frame_type == FrameType::REQUEST {
                let answer = sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, &data);
                self.stream.write_all(&answer)?;
            }
        }
    }
}

/// What an application does, in a closed loop.
struct Load {
    topic: &'static str,
    window: usize,
    payload: usize,
    seconds: f64,
}

impl Load {
    fn ask(&self, link: &mut Link, number: u64) -> Result<Seq, Failure> {
        let seq = link.seq(number);
        let payload = vec![7; self.payload];
        let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, self.topic, &payload);
        link.stream.write_all(&frame)?;
        Ok(seq)
    }

    /// Takes the next answer; gives its seq and code.
    fn take(&self, link: &mut Link) -> Result<(Seq, ResultCode), Failure> {
        let (header, data) = read_frame(&mut link.stream)?;
        if header.result == ResultCode::OK {
            let payload_offset = AmopBody::decode(&data).map_err(|_| "no body")?.payload_offset;
            if data.len() - payload_offset != self.payload {
                return Err("an answer that is none".into());
            }
        }
        Ok((header.seq, header.result))
    }

    /// Until the subscriber is known, and some more.
    fn warm_up(&self, link: &mut Link) -> Result<(), Failure> {
        let end = Instant::now() + KNOWN_WITHIN;
        let mut number = 0;
        let mut answered = 0;
        while answered < WARM_UP {
            number += 1;
            self.ask(link, number)?;
            match self.take(link)?.1 {
                ResultCode::OK => answered += 1,
                _ if Instant::now() < end => thread::sleep(Duration::from_millis(50)),
                code => return Err(format!("{} is answered {code:?}", self.topic).into()),
            }
        }
        Ok(())
    }

    fn run(&self, link: &mut Link) -> Result<Histogram<u64>, Failure> {
        let mut took = Histogram::new(3)?;
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut sent: VecDeque<(Seq, Instant)> = VecDeque::new();
        let mut number = 1 << 32;
        while Instant::now() < end || !sent.is_empty() {
            while sent.len() < self.window && Instant::now() < end {
                number += 1;
                let at = Instant::now();
                sent.push_back((self.ask(link, number)?, at));
            }
            if sent.is_empty() {
                break;
            }
            let (seq, code) = self.take(link)?;
            let asked = sent.iter().position(|(other, _)| *other == seq).ok_or("nobody asked that")?;
            let (_, at) = sent.remove(asked).ok_or("nobody asked that")?;
            if code != ResultCode::OK {
                return Err(format!("{} is answered {code:?}", self.topic).into());
            }
            took.record(at.elapsed().as_nanos() as u64)?;
        }
        Ok(took)
    }
}
