//! The bandwidth limit under fire: two nodes with TLS, sessions at the one that offer more than its cap lets pass, and what
//! of it arrives at the other's subscriber. Measured are the accuracy of WIRE §5, how soon the rest is answered 103, and how
//! evenly the sessions are served.
//!
//! ```text
//!  sessions ──TLS──► node 0 (capped) ──TLS──► node 1 ──TLS──► subscriber: counts, and answers unicasts
//! ```

mod judge;
mod link;
mod load;
mod nodes;

use std::{
    error::Error,
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use amop::internal::wire::sdk::FrameType;
use clap::Parser;
use hdrhistogram::Histogram;
use rustls::ClientConfig;

use self::{
    judge::{Share, WINDOW_FRAMES, WINDOW_MIN},
    load::{Offer, TOPIC},
    nodes::{Files, Node, cpu_seconds},
};

/// What a frame takes on the node link beside itself: node header, length of extensions, time left.
const NODE_LINK_LEN: usize = amop::internal::wire::node::HEADER_LEN_MIN + 2 + 8;
/// Longest window without `--full`.
const SHORT_WINDOW: Duration = Duration::from_secs(26);
/// A case lasts so much longer than its window, so that there are some.
const BEYOND_WINDOW: Duration = Duration::from_secs(3);
/// Bytes that are offered a second at most where the cap is lower: so many that a frame comes before credit is lost.
const DENSE_BYTES: f64 = 150e6;
/// Frames likewise.
const DENSE_FRAMES: f64 = 4_000.0;
/// Over a cap that this does not reach, so much more is offered.
const BEYOND_CAP: f64 = 1.4;

/// How far off, in percent, the rate between the first and the last of a few frames may be.
const FEW_FRAMES_TOLERANCE: f64 = 2.0;

#[derive(Parser)]
struct Args {
    /// The program whose nodes are measured.
    #[arg(long, default_value = "target/release/amop")]
    amop: PathBuf,
    /// Caps in Mbit/s.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 10.0, 100.0, 1000.0])]
    caps: Vec<f64>,
    /// Lengths of frames in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [4096, 1 << 20])]
    frames: Vec<usize>,
    /// Reactors of each node.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    reactors: Vec<u16>,
    /// Sessions that publish.
    #[arg(long, default_value_t = 4)]
    sessions: u32,
    /// The first session offers so many times what each other one does.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 8.0])]
    greed: Vec<f64>,
    /// Only unicasts, or only multicasts.
    #[arg(long, value_parser = ["unicast", "multicast"])]
    only: Option<String>,
    /// Each case as long as 200 frames take: half an hour for 1 MiB at 1 Mbit/s.
    #[arg(long)]
    full: bool,
    /// Where to write the rows.
    #[arg(long, default_value = "perf/results/limiter.csv")]
    out: PathBuf,
}

#[derive(Clone, Copy)]
struct Case {
    cap_mbit: f64,
    reactors: u16,
    frame_len: usize,
    frame_type: FrameType,
    sessions: u32,
    greed: f64,
    full: bool,
}

impl Case {
    /// What a frame takes on the node link.
    fn cost(&self) -> u64 {
        (self.frame_len + NODE_LINK_LEN) as u64
    }

    fn bytes_per_second(&self) -> f64 {
        self.cap_mbit * 1_048_576.0 / 8.0
    }

    /// How many frames all sessions offer.
    fn frames_per_second(&self) -> f64 {
        let dense = (DENSE_BYTES / self.frame_len as f64).min(DENSE_FRAMES);
        dense.max(self.bytes_per_second() * BEYOND_CAP / self.cost() as f64)
    }

    /// Whether each session offers more than its part of the cap, so that all are to get the same.
    fn all_offer_enough(&self) -> bool {
        let sessions = f64::from(self.sessions);
        let least = self.frames_per_second() / (self.greed + sessions - 1.0);
        least * self.cost() as f64 > self.bytes_per_second() * 1.2 / sessions
    }
}

struct Row {
    window: Duration,
    frames: usize,
    offered_mbit: f64,
    share: Option<Share>,
    /// Whether a window holds as many frames as the accuracy is promised for.
    is_promised: bool,
    /// What came over the node link, as TLS records, over what was counted.
    link_share: f64,
    accepted: u64,
    refused: u64,
    others: u64,
    refusals: Histogram<u64>,
    unfair_percent: f64,
    unfair_frames: u64,
    node_cpu_us: f64,
    load_cores: f64,
}

const HEADER: &str = "cap_mbit,reactors,frame_bytes,kind,sessions,greed,window_s,frames_arrived,offered_mbit,share_low_percent,\
share_high_percent,window_has_200_frames,link_share,accepted,answered_103,other_codes,p50_103_us,p99_103_us,max_103_us,\
unfair_percent,unfair_frames,capped_node_cpu_us_per_offer,load_cores,load_average";

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("limiter: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let files = Files::make()?;
    let mut text = format!("{HEADER}\n");
    let mut all_hold = true;
    let kinds = [("unicast", FrameType::REQUEST), ("multicast", FrameType::MULTICAST)];
    for &cap_mbit in &args.caps {
        for &frame_len in &args.frames {
            for &reactors in &args.reactors {
                for (kind, frame_type) in kinds {
                    if args.only.as_ref().is_some_and(|only| only != kind) {
                        continue;
                    }
                    for &greed in &args.greed {
                        let case = Case {
                            cap_mbit,
                            reactors,
                            frame_len,
                            frame_type,
                            sessions: args.sessions,
                            greed,
                            full: args.full,
                        };
                        if !case.all_offer_enough() {
                            continue;
                        }
                        let row = measure(args, &files, case)?;
                        let faults = row.faults();
                        all_hold &= faults.is_empty();
                        let line = row.line(&case, kind);
                        println!(
                            "{line}{}{}",
                            if faults.is_empty() { "" } else { "  # " },
                            faults.join(", ")
                        );
                        writeln!(text, "{line}")?;
                        std::fs::write(&args.out, &text)?;
                    }
                }
            }
        }
    }
    Ok(all_hold)
}

fn measure(args: &Args, files: &Files, case: Case) -> Result<Row, Box<dyn Error>> {
    // What was accepted and is to be delivered is not to fail for the receiver's sake.
    let room = "[amop]\nsession_queue_bytes_max=536870912\n";
    let cap = format!("[flow_control]\noutgoing_bandwidth_limit={}\n", case.cap_mbit);
    let other = Node::start(&args.amop, files, 1, case.reactors, None, room)?;
    let capped = Node::start(&args.amop, files, 0, case.reactors, Some(&other), &cap)?;
    let config = files.application()?;
    // A little later, so that all sessions are there.
    let start = Instant::now() + Duration::from_millis(700);
    let subscriber = load::subscribe(config.clone(), other.channel, start)?;
    capped.wait_for_subscribers(TOPIC, 1)?;

    let (cost, bytes_per_second) = (case.cost(), case.bytes_per_second());
    let wanted =
        Duration::from_secs_f64(WINDOW_FRAMES as f64 * cost as f64 / bytes_per_second).max(WINDOW_MIN);
    let window = if case.full { wanted } else { wanted.min(SHORT_WINDOW) };
    let time = window + BEYOND_WINDOW;
    let before = (capped.cpu_seconds(), other.received_from_nodes()?, cpu_seconds(std::process::id()));
    let sessions = publishers(case, &config, &capped, start, time);
    let published = sessions.into_iter().map(|session| match session.join() {
        Ok(published) => published.map_err(|error| -> Box<dyn Error> { error }),
        Err(_) => Err("a publisher failed".into()),
    });
    let published = published.collect::<Result<Vec<_>, _>>()?;
    // A multicast is answered before it arrives.
    thread::sleep(Duration::from_millis(500));
    let lasted = start.elapsed().as_secs_f64();
    let link_bytes = other.received_from_nodes()? - before.1;
    let node_cpu = capped.cpu_seconds() - before.0;
    let load_cores = (cpu_seconds(std::process::id()) - before.2) / lasted;
    let mut arrived = subscriber.end().map_err(|error| error.to_string())?;
    arrived.by_session.resize(case.sessions as usize, 0);

    let mut refusals = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    for one in &published {
        refusals.add(&one.refusals)?;
    }
    let sum = |of: fn(&load::Published) -> u64| published.iter().map(of).sum::<u64>();
    let offered = sum(|one| one.offered);
    let is_promised = window >= wanted;
    let share = if is_promised {
        judge::over_windows(&arrived.at, cost, bytes_per_second, window, time)
    } else {
        judge::between_arrivals(&arrived.at, cost, bytes_per_second)
    };
    let (unfair_percent, unfair_frames) = judge::unfairness(&arrived.by_session);
    Ok(Row {
        window,
        frames: arrived.at.len(),
        offered_mbit: offered as f64 * cost as f64 * 8.0 / 1_048_576.0 / time.as_secs_f64(),
        share,
        is_promised,
        link_share: link_bytes as f64 / (arrived.at.len() as f64 * cost as f64),
        accepted: sum(|one| one.accepted),
        refused: sum(|one| one.over_bandwidth),
        others: sum(|one| one.others + one.unanswered),
        refusals,
        unfair_percent,
        unfair_frames,
        node_cpu_us: node_cpu * 1e6 / offered.max(1) as f64,
        load_cores,
    })
}

type Publishing = thread::JoinHandle<Result<load::Published, Box<dyn Error + Send + Sync>>>;

fn publishers(
    case: Case,
    config: &Arc<ClientConfig>,
    node: &Node,
    start: Instant,
    time: Duration,
) -> Vec<Publishing> {
    let weights = case.greed + f64::from(case.sessions) - 1.0;
    let publish = |number| {
        let weight = if number == 0 { case.greed } else { 1.0 };
        let frames_per_second = case.frames_per_second() * weight / weights;
        let frame_type = case.frame_type;
        let offer = Offer { number, frame_type, frame_len: case.frame_len, frames_per_second, start, time };
        let (config, address) = (config.clone(), node.channel);
        thread::spawn(move || load::publish(config, address, offer))
    };
    (0..case.sessions).map(publish).collect()
}

impl Row {
    /// What does not hold.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match self.share {
            None => faults.push("no window".to_owned()),
            Some(Share { low, high }) => {
                // A few arrivals say less: one may be late.
                let tolerance = if self.is_promised { 1.0 } else { FEW_FRAMES_TOLERANCE };
                if low < 100.0 - tolerance {
                    faults.push(format!("only {low:.2} % of the cap"));
                }
                if high > 100.0 + tolerance {
                    faults.push(format!("{high:.2} % of the cap"));
                }
            }
        }
        if self.unfair_percent > 5.0 && self.unfair_frames > 1 {
            faults.push(format!("unfair by {:.1} %", self.unfair_percent));
        }
        if self.others > 0 {
            faults.push(format!("{} with other codes or none", self.others));
        }
        if self.accepted != self.frames as u64 {
            faults.push(format!("{} accepted, {} arrived", self.accepted, self.frames));
        }
        faults
    }

    fn line(&self, case: &Case, kind: &str) -> String {
        let Share { low, high } = self.share.unwrap_or(Share { low: f64::NAN, high: f64::NAN });
        let micros = |quantile| self.refusals.value_at_quantile(quantile) as f64 / 1_000.0;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        format!(
            "{},{},{},{kind},{},{},{:.1},{},{:.1},{low:.3},{high:.3},{},{:.4},{},{},{},{:.0},{:.0},{:.0},{:.2},{},{:.2},{:.2},{}",
            case.cap_mbit,
            case.reactors,
            case.frame_len,
            case.sessions,
            case.greed,
            self.window.as_secs_f64(),
            self.frames,
            self.offered_mbit,
            self.is_promised,
            self.link_share,
            self.accepted,
            self.refused,
            self.others,
            micros(0.5),
            micros(0.99),
            micros(1.0),
            self.unfair_percent,
            self.unfair_frames,
            self.node_cpu_us,
            self.load_cores,
            load.split(' ').next().unwrap_or_default(),
        )
    }
}
