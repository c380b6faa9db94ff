//! What `amop bench` prints.

use std::time::Duration;

use super::{BenchArgs, Mode};
use crate::{
    cli::output::{OutputError, note},
    load::{Pace, Records, Run, Usage},
};

/// A line a second for whoever watches.
pub(super) fn progress(elapsed: Duration, done: u64) {
    use std::io::{IsTerminal, Write};
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
        // Nobody need see it.
        let _ = write!(out, "\r{:.0} s: {rate:.0} messages/s ", elapsed.as_secs_f64());
    }
}

/// Prints a run; `false` if anything was lost, failed, or not asked for. `handshakes` were made meanwhile by others.
pub(super) fn print(
    args: &BenchArgs,
    pace: Pace,
    handshakes: Option<usize>,
    run: &Run,
) -> Result<bool, OutputError> {
    let outcome = &run.outcome;
    let messages = outcome.times.len();
    let per_second = messages as f64 / run.elapsed.as_secs_f64();
    let deliveries_per_second = outcome.deliveries as f64 / run.elapsed.as_secs_f64();
    // What a node's processor time is told for: each delivery, where there are many of a message.
    let (what, count) = match args.mode {
        Mode::Multicast => ("delivery", outcome.deliveries),
        _ => ("message", messages),
    };
    let is_clean = run.is_clean();
    let (load, value) = match pace {
        Pace::Closed { window } => ("window", window as u64),
        Pace::Open { per_second, .. } => ("rate", per_second.into()),
    };
    if args.output.is_json() {
        let mut object = run.to_json(pace, what, count);
        let more = serde_json::json!({
            "mode": format!("{:?}", args.mode).to_lowercase(), "publishers": args.publishers,
            "subscribers": args.shape().subscribers, "payload": args.payload, "tls": !args.plaintext,
            "shared_records": args.records() == Records::Shared, "sdk_shape": args.sdk_shape, "handshakes": handshakes,
        });
        if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        line!("{object}")?;
    } else {
        let deliveries = match outcome.deliveries {
            0 => String::new(),
            _ => format!(" ({deliveries_per_second:.0} deliveries/s)"),
        };
        let beside =
            handshakes.map_or(String::new(), |made| format!("while others made {made} connections, "));
        let nodes = match args.pid.as_slice() {
            [] => String::new(),
            _ => format!(
                ", nodes {:.2} µs of processor a {what} ({:.0} % busy)",
                run.watched_micros_per(count),
                run.watched_share() * 100.0
            ),
        };
        let mut troubles = String::new();
        for (code, count) in &outcome.failed {
            troubles += &format!(", {count} answered {code}");
        }
        for (count, trouble) in
            [(outcome.unmatched, "that nobody asked for"), (run.lost, "lost"), (run.unsent, "not sent")]
        {
            if count > 0 {
                troubles += &format!(", {count} {trouble}");
            }
        }
        line!(
            "{load} {value}: {beside}{per_second:.0} messages/s{deliveries}, p50 {:.0} µs, p99 {:.0} µs, longest {:.0} µs{nodes}{troubles}; this load used {:.2} processors",
            outcome.micros(0.5),
            outcome.micros(0.99),
            outcome.micros(1.0),
            run.own_share(),
        )?;
    }
    if run.is_load_bottleneck(pace) {
        note(&format!(
            "amop bench: the load itself was at its limit ({:.0} % of a processor, sent {:.0} µs late at p99): this run says more of it than of the node",
            run.own_share() * 100.0,
            run.late_micros(),
        ));
    }
    Ok(is_clean)
}

/// Prints what idle links take.
pub(super) fn print_idle(args: &BenchArgs, before: Usage, after: Usage) -> Result<(), OutputError> {
    let each = after.resident_kib.saturating_sub(before.resident_kib) as f64 / args.links.max(1) as f64;
    if args.output.is_json() {
        line!(
            "{}",
            serde_json::json!({
                "mode": "idle", "links": args.links, "tls": !args.plaintext,
                "resident_kib_before": before.resident_kib, "resident_kib": after.resident_kib,
                "kib_per_link": each,
            })
        )
    } else {
        line!(
            "{} KiB resident before, {} KiB with {} idle links: {each:.2} KiB a link",
            before.resident_kib,
            after.resident_kib,
            args.links
        )
    }
}
