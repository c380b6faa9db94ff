//! `amop bench`: a closed loop or a fixed rate through one or more nodes, idle links, a capped link, and a
//! flood.

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;

use super::connect::ConnectArgs;
use crate::{
    client::{Answer, Client, MessageKind, Messages},
    wire::ResultCode,
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  amop bench -c nodes/127.0.0.1/sdk --window 1,16,128 --pid $(pgrep -f node0)
  amop bench -n HOST:20200 -n HOST:20201        publisher at the first node, subscriber at the last
  amop bench --idle 1000 --pid PID              memory of idle links
  amop bench -n A -n B --offer-mbit 20          what arrives where [flow_control] caps node A
  amop bench --rate 500                         latency of requests that do not wait for each other
  amop bench --offer-mbit 200 --deaf --topic f  flood a subscriber that never reads")]
pub(super) struct BenchArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Requests under way at once; several are run one after another.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    window: Vec<usize>,
    /// Payload in bytes.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Seconds for each run.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Process ids of the nodes: their processor time and memory are read from /proc.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Send so many requests a second instead, whether or not those before are answered.
    #[arg(long, conflicts_with = "window")]
    rate: Option<u32>,
    /// Open so many idle links instead.
    #[arg(long)]
    idle: Option<usize>,
    /// Offer so much instead, and count what arrives.
    #[arg(long)]
    offer_mbit: Option<f64>,
    /// The subscriber answers once, to be known, and then reads nothing any more.
    #[arg(long, requires = "offer_mbit")]
    deaf: bool,
    /// What to subscribe to and to publish on; runs at the same time need different ones.
    #[arg(long, default_value = "amop-bench")]
    topic: String,
    /// One JSON object a run.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: BenchArgs) -> Result<ExitCode, super::Failure> {
    super::runtime()?.block_on(async {
        if let Some(count) = args.idle {
            return idle(&args, count).await;
        }
        let first =
            ConnectArgs { nodes: vec![args.connect.nodes[0].clone()], certs: args.connect.certs.clone() };
        let last =
            ConnectArgs { nodes: args.connect.nodes.last().cloned().into_iter().collect(), ..first.clone() };
        let (publisher, _unused) = first.connect().await?;
        let (subscriber, messages) = last.connect().await?;
        subscriber.subscribe(&[&args.topic]).await?;
        let received = Arc::new(AtomicU64::new(0));
        tokio::spawn(answer(subscriber.clone(), messages, received.clone(), args.deaf));
        wait_for_subscriber(&args.topic, &publisher).await?;
        if let Some(rate) = args.rate {
            fixed_rate(&args, &publisher, rate.max(1)).await?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(mbit) = args.offer_mbit {
            return offer(&args, &publisher, &received, mbit).await;
        }
        for &window in &args.window {
            closed_loop(&args, &publisher, window.max(1)).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn answer(client: Client, mut messages: Messages, received: Arc<AtomicU64>, only_once: bool) {
    while let Some(message) = messages.recv().await {
        received.fetch_add(message.payload.len() as u64, Relaxed);
        if message.kind == MessageKind::Unicast {
            client.respond(&message, &message.payload).await;
            if only_once {
                // What nobody takes fills the client's queue, and then it stops reading.
                return std::future::pending().await;
            }
        }
    }
}

async fn wait_for_subscriber(topic: &str, publisher: &Client) -> Result<(), super::Failure> {
    for _ in 0..200 {
        if publisher.request(topic, b"", Duration::from_secs(1)).await?.code == ResultCode::OK {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the subscriber's node does not become known to the publisher's: are the nodes linked?".into())
}

async fn closed_loop(args: &BenchArgs, publisher: &Client, window: usize) -> Result<(), super::Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let payload: Arc<[u8]> = vec![b'x'; args.payload].into();
    let topic: Arc<str> = args.topic.as_str().into();
    let begun = Begun::now(args);
    let workers: Vec<_> = (0..window)
        .map(|_| {
            let (publisher, stop, payload, topic) =
                (publisher.clone(), stop.clone(), payload.clone(), topic.clone());
            tokio::spawn(async move {
                let mut outcome = Outcome::new().ok()?;
                while !stop.load(Relaxed) {
                    outcome.record(publisher.request(&topic, &payload, ANSWERED_WITHIN).await.ok()?);
                }
                Some(outcome)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    stop.store(true, Relaxed);
    let mut total = Outcome::new()?;
    for worker in workers {
        if let Some(outcome) = worker.await? {
            total.round_trips.add(outcome.round_trips)?;
            total.failed += outcome.failed;
        }
    }
    begun.report(args, "window", window as u64, &total);
    Ok(())
}

async fn fixed_rate(args: &BenchArgs, publisher: &Client, rate: u32) -> Result<(), super::Failure> {
    let payload: Arc<[u8]> = vec![b'x'; args.payload].into();
    let topic: Arc<str> = args.topic.as_str().into();
    let total = Arc::new(Mutex::new(Outcome::new()?));
    let (begun, start) = (Begun::now(args), Instant::now());
    let gap = Duration::from_secs(1) / rate;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..rate.saturating_mul(u32::try_from(args.seconds).unwrap_or(u32::MAX)) {
        tokio::time::sleep_until((start + gap * number).into()).await;
        let (publisher, topic, payload, total) =
            (publisher.clone(), topic.clone(), payload.clone(), total.clone());
        asking.spawn(async move {
            if let Ok(answer) = publisher.request(&topic, &payload, ANSWERED_WITHIN).await {
                total.lock().unwrap_or_else(PoisonError::into_inner).record(answer);
            }
        });
    }
    asking.join_all().await;
    let total = total.lock().unwrap_or_else(PoisonError::into_inner);
    begun.report(args, "rate", rate.into(), &total);
    Ok(())
}

/// How long an answer is waited for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(35);

/// What became of a number of requests.
struct Outcome {
    /// In nanoseconds.
    round_trips: Histogram<u64>,
    failed: u64,
}

impl Outcome {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self { round_trips: Histogram::new_with_bounds(1, 60_000_000_000, 3)?, failed: 0 })
    }

    fn record(&mut self, answer: Answer) {
        if answer.code == ResultCode::OK {
            self.round_trips.saturating_record(answer.round_trip.as_nanos() as u64);
        } else {
            self.failed += 1;
        }
    }
}

/// Figures at the beginning of a run.
struct Begun {
    at: Instant,
    /// Processor time of the nodes, and of this load, in seconds.
    cpu: f64,
    own_cpu: f64,
}

impl Begun {
    fn now(args: &BenchArgs) -> Self {
        Self { cpu: cpu_of(&args.pid), own_cpu: cpu_of(&[std::process::id()]), at: Instant::now() }
    }

    /// Prints a run; `load` names what made it, such as its window.
    fn report(&self, args: &BenchArgs, load: &str, value: u64, outcome: &Outcome) {
        let Outcome { round_trips, failed } = outcome;
        let elapsed = self.at.elapsed().as_secs_f64();
        let micros = |quantile| round_trips.value_at_quantile(quantile) as f64 / 1000.0;
        let (rate, p50, p99) = (round_trips.len() as f64 / elapsed, micros(0.5), micros(0.99));
        let node_cpu = (cpu_of(&args.pid) - self.cpu) * 1e6 / round_trips.len().max(1) as f64;
        let own_share = (cpu_of(&[std::process::id()]) - self.own_cpu) / elapsed;
        if args.json {
            super::print_line(
                &serde_json::json!({
                    load: value, "payload": args.payload, "round_trips_per_second": rate, "failed": failed,
                    "p50_us": p50, "p99_us": p99, "max_us": round_trips.max() as f64 / 1000.0,
                    "node_cpu_us_per_round_trip": if args.pid.is_empty() { None } else { Some(node_cpu) },
                    "own_cores": own_share,
                })
                .to_string(),
            );
            return;
        }
        let cpu = if args.pid.is_empty() {
            String::new()
        } else {
            format!(", nodes {node_cpu:.1} µs of processor each")
        };
        super::print_line(&format!(
            "{load} {value}: {rate:.0} round trips/s, p50 {p50:.0} µs, p99 {p99:.0} µs, {failed} failed{cpu}; this load used {own_share:.2} cores",
        ));
    }
}

async fn idle(args: &BenchArgs, count: usize) -> Result<ExitCode, super::Failure> {
    let before = rss_of(&args.pid);
    super::print_line(&format!("before: {before} KiB resident"));
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(args.connect.connect().await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = rss_of(&args.pid);
    let each = (after.saturating_sub(before)) as f64 / count.max(1) as f64;
    super::print_line(&format!("with {count} idle links: {after} KiB resident, {each:.2} KiB a link"));
    Ok(ExitCode::SUCCESS)
}

async fn offer(
    args: &BenchArgs,
    publisher: &Client,
    received: &AtomicU64,
    mbit: f64,
) -> Result<ExitCode, super::Failure> {
    let payload: Arc<[u8]> = vec![b'x'; args.payload].into();
    let topic: Arc<str> = args.topic.as_str().into();
    let gap = Duration::from_secs_f64(args.payload as f64 * 8.0 / (mbit * 1_048_576.0));
    let (accepted, refused, other) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (before, start) = (received.load(Relaxed), Instant::now());
    let mut sent = 0u32;
    while start.elapsed() < Duration::from_secs(args.seconds) {
        tokio::time::sleep_until((start + gap * sent).into()).await;
        sent += 1;
        let (publisher, payload, topic) = (publisher.clone(), payload.clone(), topic.clone());
        let (accepted, refused, other) = (accepted.clone(), refused.clone(), other.clone());
        tokio::spawn(async move {
            let code = publisher
                .multicast(&topic, &payload, Duration::from_secs(30))
                .await
                .map(|answer| answer.code);
            match code {
                Ok(ResultCode::OK) => accepted.fetch_add(1, Relaxed),
                Ok(ResultCode::OVER_BANDWIDTH) => refused.fetch_add(1, Relaxed),
                _ => other.fetch_add(1, Relaxed),
            };
        });
    }
    let elapsed = start.elapsed().as_secs_f64();
    let arrived = (received.load(Relaxed) - before) as f64;
    // What the cap counts: the frame with its headers on the node link.
    let overhead = (42 + 1 + args.topic.len() + 20 + 10) as f64;
    let frames = arrived / args.payload as f64;
    let counted = (arrived + frames * overhead) * 8.0 / 1_048_576.0 / elapsed;
    super::print_line(&format!(
        "offered {mbit} Mbit/s of payload for {elapsed:.1} s: {counted:.4} Mbit/s arrived as the cap counts it; {} accepted, {} refused with 103, {} other",
        accepted.load(Relaxed),
        refused.load(Relaxed),
        other.load(Relaxed),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Processor time of processes in seconds, user and system.
fn cpu_of(pids: &[u32]) -> f64 {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    pids.iter()
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let time = |index: usize| fields.get(index)?.parse::<f64>().ok();
            Some((time(11)? + time(12)?) / ticks)
        })
        .sum()
}

/// Resident memory of processes in KiB.
fn rss_of(pids: &[u32]) -> u64 {
    pids.iter()
        .filter_map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}
