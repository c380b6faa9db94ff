//! A rate of multicasts on offer, and what of it arrives: the bandwidth limit from outside, and a flood.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::BenchArgs;
use crate::{
    cli::{Failure, connect::ConnectArgs},
    client::{Client, Dialect, MessageKind, Messages},
    supervise::contained_task,
    wire::ResultCode,
};

pub(super) fn run(args: &BenchArgs) -> Result<ExitCode, Failure> {
    crate::cli::runtime()?.block_on(async {
        let at = |node: &String| ConnectArgs { nodes: vec![node.clone()], certs: args.connect.certs.clone() };
        let (publisher, _unused) = at(args.publish_at()).connect(Dialect::V2).await?;
        let (subscriber, messages) = at(args.subscribe_at()).connect(Dialect::V2).await?;
        subscriber.subscribe(&[&args.topic]).await?;
        let received = Arc::new(AtomicU64::new(0));
        contained_task(answer(subscriber.clone(), messages, received.clone(), args.deaf));
        wait_for_subscriber(&args.topic, &publisher).await?;
        offer(args, &publisher, &received, args.mbit).await
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

async fn wait_for_subscriber(topic: &str, publisher: &Client) -> Result<(), Failure> {
    for _ in 0..200 {
        if publisher.request(topic, b"", Duration::from_secs(1)).await?.code == ResultCode::OK {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the subscriber's node does not become known to the publisher's: are the nodes linked?".into())
}

async fn offer(
    args: &BenchArgs,
    publisher: &Client,
    received: &AtomicU64,
    mbit: f64,
) -> Result<ExitCode, Failure> {
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
        contained_task(async move {
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
    if args.output.is_json() {
        let said = serde_json::json!({
            "mode": "offer", "offered_mbit": mbit, "seconds": elapsed, "arrived_mbit": counted,
            "accepted": accepted.load(Relaxed), "refused": refused.load(Relaxed), "other": other.load(Relaxed),
        });
        line!("{said}")?;
        return Ok(ExitCode::SUCCESS);
    }
    line!(
        "offered {mbit} Mbit/s of payload for {elapsed:.1} s: {counted:.4} Mbit/s arrived as the cap counts it; {} accepted, {} refused with 103, {} other",
        accepted.load(Relaxed),
        refused.load(Relaxed),
        other.load(Relaxed),
    )?;
    Ok(ExitCode::SUCCESS)
}
