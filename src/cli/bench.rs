//! `amop bench`: a closed loop through one or more nodes, idle links, and a capped link.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;

use super::connect::ConnectArgs;
use crate::{
    client::{Client, MessageKind, Messages},
    wire::ResultCode,
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  amop bench -c nodes/127.0.0.1/sdk --window 1,16,128 --pid $(pgrep -f node0)
  amop bench -n HOST:20200 -n HOST:20201        publisher at the first node, subscriber at the last
  amop bench --idle 1000 --pid PID              memory of idle links
  amop bench -n A -n B --offer-mbit 20          what arrives where [flow_control] caps node A")]
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
    /// Open so many idle links instead.
    #[arg(long)]
    idle: Option<usize>,
    /// Offer so much instead, and count what arrives.
    #[arg(long)]
    offer_mbit: Option<f64>,
    /// One JSON object a run.
    #[arg(long)]
    json: bool,
}

const TOPIC: &str = "amop-bench";

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
        subscriber.subscribe(&[TOPIC]).await?;
        let received = Arc::new(AtomicU64::new(0));
        tokio::spawn(answer_all(subscriber.clone(), messages, received.clone()));
        wait_for_subscriber(&publisher).await?;
        if let Some(mbit) = args.offer_mbit {
            return offer(&args, &publisher, &received, mbit).await;
        }
        for &window in &args.window {
            closed_loop(&args, &publisher, window.max(1)).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn answer_all(client: Client, mut messages: Messages, received: Arc<AtomicU64>) {
    while let Some(message) = messages.recv().await {
        received.fetch_add(message.payload.len() as u64, Relaxed);
        if message.kind == MessageKind::Unicast {
            client.respond(&message, &message.payload).await;
        }
    }
}

async fn wait_for_subscriber(publisher: &Client) -> Result<(), super::Failure> {
    for _ in 0..200 {
        if publisher.request(TOPIC, b"", Duration::from_secs(1)).await?.code == ResultCode::OK {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the subscriber's node does not become known to the publisher's: are the nodes linked?".into())
}

async fn closed_loop(args: &BenchArgs, publisher: &Client, window: usize) -> Result<(), super::Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let payload: Arc<[u8]> = vec![b'x'; args.payload].into();
    let (cpu_before, own_before, start) = (cpu_of(&args.pid), cpu_of(&[std::process::id()]), Instant::now());
    let workers: Vec<_> = (0..window)
        .map(|_| {
            let (publisher, stop, payload) = (publisher.clone(), stop.clone(), payload.clone());
            tokio::spawn(async move {
                let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).ok()?;
                let mut failed = 0u64;
                while !stop.load(Relaxed) {
                    let answer = publisher.request(TOPIC, &payload, Duration::from_secs(35)).await.ok()?;
                    if answer.code == ResultCode::OK {
                        histogram.saturating_record(answer.round_trip.as_nanos() as u64);
                    } else {
                        failed += 1;
                    }
                }
                Some((histogram, failed))
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    stop.store(true, Relaxed);
    let mut total = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut failed = 0;
    for worker in workers {
        if let Some((histogram, failures)) = worker.await? {
            total.add(histogram)?;
            failed += failures;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    let micros = |quantile| total.value_at_quantile(quantile) as f64 / 1000.0;
    let (rate, p50, p99) = (total.len() as f64 / elapsed, micros(0.5), micros(0.99));
    let per_round_trip = |before: f64, after: f64| (after - before) * 1e6 / total.len().max(1) as f64;
    let node_cpu = per_round_trip(cpu_before, cpu_of(&args.pid));
    let own_share = (cpu_of(&[std::process::id()]) - own_before) / elapsed;
    if args.json {
        super::print_line(
            &serde_json::json!({
                "window": window, "payload": args.payload, "round_trips_per_second": rate, "failed": failed,
                "p50_us": p50, "p99_us": p99, "max_us": total.max() as f64 / 1000.0,
                "node_cpu_us_per_round_trip": if args.pid.is_empty() { None } else { Some(node_cpu) },
                "own_cores": own_share,
            })
            .to_string(),
        );
        return Ok(());
    }
    let cpu = if args.pid.is_empty() {
        String::new()
    } else {
        format!(", nodes {node_cpu:.1} µs of processor each")
    };
    super::print_line(&format!(
        "window {window}: {rate:.0} round trips/s, p50 {p50:.0} µs, p99 {p99:.0} µs, {failed} failed{cpu}; this load used {own_share:.2} cores",
    ));
    Ok(())
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
    let gap = Duration::from_secs_f64(args.payload as f64 * 8.0 / (mbit * 1_048_576.0));
    let (accepted, refused, other) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (before, start) = (received.load(Relaxed), Instant::now());
    let mut sent = 0u32;
    while start.elapsed() < Duration::from_secs(args.seconds) {
        tokio::time::sleep_until((start + gap * sent).into()).await;
        sent += 1;
        let (publisher, payload) = (publisher.clone(), payload.clone());
        let (accepted, refused, other) = (accepted.clone(), refused.clone(), other.clone());
        tokio::spawn(async move {
            let code =
                publisher.multicast(TOPIC, &payload, Duration::from_secs(30)).await.map(|answer| answer.code);
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
    let overhead = (42 + 1 + TOPIC.len() + 20 + 10) as f64;
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
