//! `amop bench`: closed loops and fixed rates over many links, storms of handshakes, idle links, and a rate on offer.

mod offer;
mod report;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};

use super::{
    Failure,
    connect::ConnectArgs,
    help::examples,
    output::{OutputArgs, note},
    status::{Status, UsageError},
};
use crate::{
    client::{Certificates, Dialect},
    load::{
        Amop, Load, Mix, Pace, Protocol, Records, Role, Security, Shape, Span, ThreadRole, Usage,
        set_thread_role,
    },
    relay::settings::FRAME_LEN_SETTABLE_MAX,
    supervise::joined_thread,
    wire::{
        sdk::{FRAME_LEN_MAX, payload_len_max},
        topic::TOPIC_LEN_MAX,
    },
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Messages to one subscriber, and its answers.
    Unicast,
    /// Messages to all subscribers of a topic.
    Multicast,
    /// Both.
    Mixed,
    /// Unicasts while others connect and leave, as fast as the node lets them.
    Storm,
    /// Memory of links that do nothing.
    Idle,
    /// Multicasts on offer, and what of them arrives: the bandwidth limit, a flood.
    Offer,
}

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop bench -C nodes/127.0.0.1/sdk --window 1,16,128 --pid $(cat nodes/127.0.0.1/node0/amop.pid)", ""),
            ("amop bench -n HOST:20200 -n HOST:20201", "publishers at the first, subscribers at the last"),
            ("amop bench --publishers 16 --window 2", "sixteen publishers, each with a subscriber"),
            ("amop bench multicast --subscribers 100", "one publisher, all subscribers on its topic"),
            ("amop bench --sdk-shape --window 1,128", "the same as an official SDK sees it"),
            ("amop bench --rate 500", "latency at a fixed rate, whatever waits"),
            ("amop bench storm --rate 1000", "the same before and while 2,000 others connect"),
            ("amop bench idle --links 1000 --pid PID", "memory of idle links"),
            ("amop bench offer -n A:20200 -n B:20200 --mbit 20", "what arrives where [flow_control] caps node A"),
            ("amop bench offer --mbit 200 --deaf --topic f", "flood a subscriber that never reads"),
        ],
        &[
            "Exit status: 0 all was answered; 4 messages were lost or failed; 2 the command line is wrong; 1 \
             anything else.",
        ],
    ))]
pub(super) struct BenchArgs {
    /// What is measured.
    #[arg(value_enum, default_value_t = Mode::Unicast)]
    mode: Mode,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Messages under way at once for each publisher; several are run one after another.
    #[arg(help_heading = "Load", long, value_delimiter = ',', default_value = "1,16,128")]
    window: Vec<usize>,
    /// Send so many messages a second instead, whether or not those before are done; several are run one after another.
    #[arg(help_heading = "Load", long, value_delimiter = ',', conflicts_with = "window")]
    rate: Vec<u32>,
    /// Links that publish, each on a topic of its own.
    #[arg(help_heading = "Load", long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    publishers: u32,
    /// Links that are subscribed, to one publisher's topic each; as many as publishers unless said.
    #[arg(help_heading = "Load", long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: Option<u32>,
    /// Topics that each subscriber takes besides, and to which nobody publishes: they fill the node's table.
    #[arg(help_heading = "Load", long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..10_000))]
    more_topics: u32,
    /// Payload in bytes.
    #[arg(help_heading = "Load", long, default_value_t = 256)]
    payload: usize,
    /// Seconds that are counted of each run.
    #[arg(help_heading = "Load", long, default_value_t = 5)]
    seconds: u64,
    /// Seconds before, that are not.
    #[arg(help_heading = "Load", long, default_value_t = 1)]
    warm_up: u64,
    /// Mixed: so many of a hundred messages go to all.
    #[arg(help_heading = "Of one mode", long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    multicast_percent: u8,
    /// Storm: connections that others make.
    #[arg(help_heading = "Of one mode", long, default_value_t = 2_000)]
    handshakes: usize,
    /// Idle: links.
    #[arg(help_heading = "Of one mode", long, default_value_t = 1_000)]
    links: usize,
    /// Idle: directories of certificates that take turns with that of --certs, for a node lets in only so many sessions of one.
    #[arg(help_heading = "Of one mode", long, value_delimiter = ',', value_name = "DIR")]
    more_certs: Vec<PathBuf>,
    /// Offer: Mbit (of 1,048,576 bits) of payload a second.
    #[arg(help_heading = "Of one mode", long, default_value_t = 10.0)]
    mbit: f64,
    /// Offer: the subscriber answers once, to be known, and then reads nothing any more.
    #[arg(help_heading = "Of one mode", long)]
    deaf: bool,
    /// With --rate: look for answers without sleeping. Times are then the node's alone, where the load has a processor of its own.
    #[arg(help_heading = "How it talks", long, requires = "rate")]
    spin: bool,
    /// Have each frame in TLS records of its own, both ways, as SDKs other than ours need it.
    #[arg(help_heading = "How it talks", long)]
    own_records: bool,
    /// Talk as official SDKs do: each frame in TLS records of its own, both ways; each record written by itself, at once; and
    /// read by itself, its header first and then the rest. Not for --plaintext and `offer`.
    #[arg(help_heading = "How it talks", long, conflicts_with = "plaintext")]
    sdk_shape: bool,
    /// Without TLS, for a node that listens so on a loopback address.
    #[arg(help_heading = "How it talks", long)]
    plaintext: bool,
    /// Process ids of the nodes: their processor time and memory are read from /proc.
    #[arg(help_heading = "Output", long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Topics are named so; runs at the same time need different ones.
    #[arg(help_heading = "Load", long, default_value = "amop-bench")]
    topic: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl BenchArgs {
    fn publish_at(&self) -> &String {
        &self.connect.nodes[0]
    }

    fn subscribe_at(&self) -> &String {
        self.connect.nodes.last().unwrap_or(&self.connect.nodes[0])
    }

    fn shape(&self) -> Shape {
        let subscribers = match self.mode {
            Mode::Idle => 0,
            _ => self.subscribers.unwrap_or(self.publishers) as usize,
        };
        Shape {
            publishers: if self.mode == Mode::Idle { 0 } else { self.publishers as usize },
            subscribers,
            publish_at: self.publish_at().clone(),
            subscribe_at: self.subscribe_at().clone(),
        }
    }

    fn security(&self, certs: &Path) -> Result<Security, Failure> {
        if self.plaintext {
            return Ok(Security::Plain);
        }
        let config = Certificates::load(certs)?.tls();
        Ok(Security::Tls { config, records: self.records() })
    }

    fn records(&self) -> Records {
        match (self.sdk_shape, self.own_records) {
            (true, _) => Records::OneByOne,
            (false, true) => Records::Own,
            (false, false) => Records::Shared,
        }
    }

    fn protocol(&self) -> Amop {
        let takes_shared_records = self.records() == Records::Shared;
        Amop::new(&self.topic, self.publishers as usize, self.payload, takes_shared_records)
            .with_more_topics(self.more_topics as usize)
    }

    fn span(&self) -> Span {
        let (warm_up, counted) =
            (Duration::from_secs(self.warm_up), Duration::from_secs(self.seconds.max(1)));
        Span { warm_up, counted, pids: self.pid.clone() }
    }

    fn mix(&self) -> Mix {
        Mix {
            multicast_percent: match self.mode {
                Mode::Multicast => 100,
                Mode::Mixed => self.multicast_percent,
                _ => 0,
            },
        }
    }

    fn paces(&self) -> Vec<Pace> {
        match self.rate.as_slice() {
            [] => self.window.iter().map(|&window| Pace::Closed { window: window.max(1) }).collect(),
            rates => rates
                .iter()
                .map(|&per_second| Pace::Open { per_second: per_second.max(1), spins: self.spin })
                .collect(),
        }
    }
}

pub(super) fn run(args: BenchArgs) -> Result<ExitCode, Failure> {
    // Publishers' topics have their number behind the name.
    let head_len = FRAME_LEN_MAX - payload_len_max((args.topic.len() + "-9999".len()).min(TOPIC_LEN_MAX));
    // What some node may take; one that takes less answers so.
    let len_max = FRAME_LEN_SETTABLE_MAX - head_len;
    if args.payload > len_max {
        let text =
            format!("--payload: with such a topic a message carries at most {len_max} bytes at any node");
        return Err(UsageError::from(text).into());
    }
    if args.mode == Mode::Offer {
        if args.sdk_shape {
            let text = "--sdk-shape: `offer` talks as our own client does; leave it out";
            return Err(UsageError::from(text).into());
        }
        return offer::run(&args);
    }
    let security = args.security(&args.connect.certs)?;
    raise_open_files();
    let mut load =
        Load::connect(args.protocol(), &args.shape(), &security).map_err(|error| explained(&args, error))?;
    if args.mode == Mode::Idle {
        return idle(&args, &mut load, security);
    }
    load.set_mix(args.mix());
    load.wait_until_ready().map_err(|error| explained(&args, error))?;
    let mut is_clean = true;
    for pace in args.paces() {
        let run = load.run(pace, &args.span(), report::progress)?;
        is_clean &= report::print(&args, pace, None, &run)?;
        if args.mode == Mode::Storm {
            let storm = Storm::start(&args, &security)?;
            let run = load.run(pace, &args.span(), report::progress)?;
            let made = storm.end()?;
            is_clean &= report::print(&args, pace, Some(made), &run)?;
        }
    }
    Ok(if is_clean { Status::Done } else { Status::Incomplete }.into())
}

/// Why the load is not let in: the client library knows better what a handshake fails by.
fn explained(args: &BenchArgs, error: io::Error) -> Failure {
    if args.plaintext {
        let hint = "does the node listen without TLS ([tls] channel_plaintext), and on this port?";
        return format!("{error}: {hint}").into();
    }
    let trying = async {
        for node in [args.publish_at(), args.subscribe_at()] {
            let at = ConnectArgs { nodes: vec![node.clone()], certs: args.connect.certs.clone() };
            at.connect(Dialect::V2).await?;
        }
        Ok::<_, Failure>(())
    };
    let tried = super::runtime().map_err(Failure::from).and_then(|runtime| runtime.block_on(trying));
    tried.err().unwrap_or_else(|| error.into())
}

/// Connections that others make and leave at once.
struct Storm {
    makers: Vec<std::thread::JoinHandle<io::Result<usize>>>,
}

/// Threads that make connections.
const STORM_THREADS: usize = 4;

impl Storm {
    fn start(args: &BenchArgs, security: &Security) -> io::Result<Self> {
        let maker = |number: usize| {
            let count = (args.handshakes + number) / STORM_THREADS;
            let (address, security, protocol) =
                (args.publish_at().clone(), security.clone(), args.protocol());
            joined_thread("amop-storm", move || {
                // They are others' machines: what they take of this one must not keep back the thread that measures.
                set_thread_role(ThreadRole::Background);
                for _ in 0..count {
                    protocol.connect(&address, &security, Role::Idle)?;
                }
                Ok(count)
            })
        };
        Ok(Self { makers: (0..STORM_THREADS).map(maker).collect::<io::Result<_>>()? })
    }

    fn end(self) -> io::Result<usize> {
        self.makers
            .into_iter()
            .map(|maker| maker.join().map_err(|_| io::Error::other("a thread failed"))?)
            .sum()
    }
}

/// How long links idle before memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

fn idle(args: &BenchArgs, load: &mut Load<Amop>, security: Security) -> Result<ExitCode, Failure> {
    let mut securities = vec![security];
    for certs in &args.more_certs {
        securities.push(args.security(certs)?);
    }
    let before = Usage::of(&args.pid);
    for (made, security) in (1..=args.links).zip(securities.iter().cycle()) {
        load.add(args.publish_at(), security, Role::Idle).map_err(|error| {
            let hint = match made {
                1 => "",
                _ => "; does it let in so many sessions of a certificate? See --more-certs",
            };
            format!("link {made} of {}: {error}{hint}", args.links)
        })?;
        if made % 1_000 == 0 {
            note(&format!("{made} links"));
        }
    }
    load.idle(SETTLE)?;
    report::print_idle(args, before, Usage::of(&args.pid))?;
    Ok(ExitCode::SUCCESS)
}

/// Each link is an open file.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Fails only where it is not allowed, and then connecting says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
