//! What the way to a ledger node through this one costs: the same JSON-RPC requests over the same number of links, by turns to a
//! scripted ledger node itself and to it through a node of the built program.
//!
//! ```text
//! cargo build --release && cargo run --release -p amop-perf --bin ledger
//! cargo run --release -p amop-perf --bin ledger -- --links 16 --window 4 --answer 102400
//! ```
//!
//! The node is on one processor; the load and the ledger node, which answers at once and alike, share the other one. So direct
//! requests show what those two can do, and the difference is the node. Processor time of the node is read from /proc.

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
        sdk::{self, FrameType, Seq},
    },
};
use clap::Parser;
use hdrhistogram::Histogram;
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned, pki_types::ServerName,
};

use child::{Failure, Node, Run, application, of, pin, read_frame};

/// Longest answer that is told in a result.
const ANSWER_MAX: usize = 16 << 20;
/// Requests of each link before those that are measured.
const WARM_UP: usize = 20;

#[derive(Parser)]
struct Args {
    /// The program; by default the one that was built beside this.
    program: Option<PathBuf>,
    /// Links of applications.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    links: Vec<usize>,
    /// Requests under way on each link.
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Bytes of each answer's result.
    #[arg(long, default_value_t = 256)]
    answer: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Runs of each kind, of which the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Processors of the node, and of the load and the ledger node.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    pin: Vec<usize>,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let &[node_core, load_core] = args.pin.as_slice() else {
        return Err("--pin takes two processors".into());
    };
    if args.answer > ANSWER_MAX || args.window == 0 || args.rounds == 0 {
        return Err("--answer is at most 16 MiB, --window and --rounds at least 1".into());
    }
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("amop"),
    };
    let dir = tempfile::tempdir()?;
    let plan = NetworkPlan { profile: Profile::Rsa, days: 1, ..NetworkPlan::default() };
    build_network(&plan, &dir.path().join("nodes"))?;
    let host = dir.path().join("nodes/127.0.0.1");
    pin(load_core)?;
    let ledger = serve(&host, args.answer)?;
    // A child runs where its parent does.
    pin(node_core)?;
    let more = format!("[ledger]\nnode.0={ledger}\ncertificates={}\n", host.join("sdk").display());
    let node = Node::start(&program, &host.join("node0"), &more)?;
    pin(load_core)?;
    let tls = application(&host)?;
    for &links in &args.links {
        let mut runs: [Vec<Run>; 2] = Default::default();
        for round in 0..args.rounds {
            // By turns, every other time in the opposite order.
            for kind in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let address = [ledger, node.channel][kind];
                runs[kind].push(measure(&args, &tls, links, address, &node)?);
            }
        }
        tell(&args, links, &runs);
    }
    Ok(())
}

fn tell(args: &Args, links: usize, [direct, behind]: &[Vec<Run>; 2]) {
    println!(
        "{links} links, {} under way on each, answers of {} B; medians of {} runs of {} s (least to most):",
        args.window, args.answer, args.rounds, args.seconds
    );
    for (name, runs) in [("to the ledger node itself", direct), ("through a node", behind)] {
        let (rate, p50, p99) =
            (of(runs, |run| run.rate), of(runs, |run| run.p50_us), of(runs, |run| run.p99_us));
        print!(
            "  {name:<26} {:>7.0}/s ({:.0} to {:.0})  p50 {:>6.0} µs ({:.0} to {:.0})  p99 {:>6.0} µs",
            rate.1, rate.0, rate.2, p50.1, p50.0, p50.2, p99.1
        );
        match std::ptr::eq(runs, behind) {
            true => {
                println!("  the node's processor time for each {:.1} µs", of(runs, |run| run.node_us_each).1)
            }
            false => println!(),
        }
    }
}

/// The ledger node: answers each request at once by the same result.
fn serve(host: &Path, answer_len: usize) -> Result<SocketAddr, Failure> {
    let dir = host.join("node1/conf/channel_cert");
    let identity = Identity::load(&dir.join("node.crt"), &dir.join("node.key"))?;
    let roots = Roots::load(&dir.join("ca.crt"))?;
    let tls = server_config(&identity, &roots, &TlsSettings::default(), IssuerPolicy::default())?;
    let config: Arc<ServerConfig> = tls.serving(true);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let answer = format!("{{\"id\":1,\"jsonrpc\":\"2.0\",\"result\":\"{}\"}}\n", "x".repeat(answer_len));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, answer) = (config.clone(), answer.clone());
            thread::spawn(move || answer_all(stream, config, answer.as_bytes()));
        }
    });
    Ok(address)
}

fn answer_all(stream: TcpStream, config: Arc<ServerConfig>, answer: &[u8]) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    loop {
        let (header, _) = read_frame(&mut stream)?;
        let data: &[u8] = match header.frame_type {
            FrameType::RPC => answer,
            FrameType::HANDSHAKE => b"{\"nodeVersion\":\"2.10.3\",\"protocol\":3}\n",
            FrameType::HEARTBEAT => b"{\"heartBeat\":1}\n",
            _ => continue,
        };
        stream.write_all(&sdk::encode(header.frame_type, &header.seq, ResultCode::OK, data))?;
    }
}

fn measure(
    args: &Args,
    tls: &Arc<ClientConfig>,
    links: usize,
    address: SocketAddr,
    node: &Node,
) -> Result<Run, Failure> {
    let loads = (0..links).map(|link| {
        let tls = tls.clone();
        let load = Load { link, window: args.window, answer_len: args.answer, seconds: args.seconds };
        move |ready: &Barrier| load.run(tls, address, ready)
    });
    child::measure(node, loads)
}

/// One link, in a closed loop.
struct Load {
    link: usize,
    window: usize,
    answer_len: usize,
    seconds: f64,
}

impl Load {
    fn run(
        &self,
        tls: Arc<ClientConfig>,
        address: SocketAddr,
        ready: &Barrier,
    ) -> Result<Histogram<u64>, Failure> {
        let connected = self.connect(tls, address);
        ready.wait();
        let mut stream = connected?;
        let mut took = Histogram::new(3)?;
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut sent = VecDeque::new();
        let mut number = 0;
        while Instant::now() < end || !sent.is_empty() {
            while sent.len() < self.window && Instant::now() < end {
                number += 1;
                sent.push_back((self.seq(number), Instant::now()));
                self.ask(&mut stream, number)?;
            }
            let Some((seq, at)) = sent.pop_front() else { break };
            self.take(&mut stream, &seq)?;
            took.record(at.elapsed().as_nanos() as u64)?;
        }
        Ok(took)
    }

    fn connect(
        &self,
        tls: Arc<ClientConfig>,
        address: SocketAddr,
    ) -> Result<StreamOwned<ClientConnection, TcpStream>, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let nobody = ServerName::try_from("0.0.0.0")?;
        let mut stream = StreamOwned::new(ClientConnection::new(tls, nobody)?, socket);
        let hello = br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"amop-perf"}"#;
        stream.write_all(&sdk::encode(FrameType::HANDSHAKE, &self.seq(0), ResultCode::OK, hello))?;
        read_frame(&mut stream)?;
        for number in 1..=WARM_UP {
            self.ask(&mut stream, number)?;
            self.take(&mut stream, &self.seq(number))?;
        }
        Ok(stream)
    }

    fn seq(&self, number: usize) -> Seq {
        format!("{:016x}{number:016x}", self.link).into_bytes().try_into().expect("32 digits")
    }

    fn ask(&self, stream: &mut impl Write, number: usize) -> Result<(), Failure> {
        let body = br#"{"jsonrpc":"2.0","method":"getBlockNumber","params":[1],"id":1}"#;
        Ok(stream.write_all(&sdk::encode(FrameType::RPC, &self.seq(number), ResultCode::OK, body))?)
    }

    /// Takes the answer that must come next.
    fn take(&self, stream: &mut impl Read, seq: &Seq) -> Result<(), Failure> {
        let (header, data) = read_frame(stream)?;
        if header.seq != *seq || data.len() < self.answer_len {
            return Err(format!("not the answer: {}", String::from_utf8_lossy(&data)).into());
        }
        Ok(())
    }
}
