//! What `amop top -o json` prints of a node.

use serde_json::{Map, Value, json};

use super::look::{ANSWERS, Look, Rates};
use crate::escape::shown_json;

/// Metrics that are shown with their bound, the fullest first.
const FILLS_SHOWN: usize = 8;

/// A look at a node, and what went on since the one before, if it has not started anew in between.
pub(super) fn show(admin: &str, now: &Look, rates: Option<&Rates<'_>>) -> String {
    let own = now.own();
    let sum = |name: &str| now.metrics.sum(name);
    let bounds = now.metrics.fills().into_iter().filter(|(.., part)| part.is_finite()).take(FILLS_SHOWN);
    let bounds = bounds.filter(|(_, _, bound, _)| bound.is_finite()).map(|(metric, value, bound, part)| {
        json!({ "metric": metric, "value": value, "bound": bound, "part": part })
    });
    let mut said = json!({
        "admin": admin, "node": own.map(|node| &node.id), "name": own.and_then(|node| node.name.as_ref()),
        "up_seconds": now.up_seconds(), "sessions": sum("amop_sessions"), "neighbours": sum("amop_neighbours"),
        "reachable": now.network.reachable, "topics": sum("amop_routed_topics"),
        "memory_bytes": sum("process_resident_memory_bytes"), "queued_bytes": sum("amop_queues_bytes"),
        "pending_requests": sum("amop_pending_requests"), "bounds": bounds.collect::<Vec<_>>(), "restarted": rates.is_none(),
    });
    if let (Some(rates), Some(said)) = (rates, said.as_object_mut()) {
        said.extend(of_rates(rates));
    }
    shown_json(&said.to_string())
}

fn of_rates(rates: &Rates<'_>) -> Map<String, Value> {
    let answers: Map<String, Value> =
        ANSWERS.iter().map(|(code, metric)| ((*code).to_owned(), rates.of(metric).into())).collect();
    // Beyond the last bound of the histogram nothing is known.
    let latency = |quantile| rates.latency_us(quantile).filter(|micros| *micros < u64::MAX);
    let trouble =
        rates.trouble().into_iter().map(|(grown, metric)| json!({ "metric": metric, "grown": grown }));
    let object = json!({
        "seconds": rates.seconds,
        "unicasts_per_second": rates.of("amop_requests_total"),
        "multicasts_per_second": rates.of("amop_multicasts_total"),
        "received_bytes_per_second": rates.of("amop_received_bytes_total"),
        "sent_bytes_per_second": rates.of("amop_sent_bytes_total"),
        "answers_per_second": answers,
        "latency_us": { "p50": latency(0.5), "p90": latency(0.9), "p99": latency(0.99) },
        "trouble": trouble.collect::<Vec<_>>(),
    });
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
