//! Metrics of the reactors: their load one by one, by the label `reactor`, all else as the sum over them. So a node with
//! many reactors has few series.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use super::{encode_metric, encode_value, metric_type};
use crate::relay::counters::{Counters, Histogram, Latencies, Metric, Outcome};

/// Counters that are told of each reactor: by them one sees whether the load is spread, and those that have a bound of each
/// reactor are nowhere near it by their sum alone.
pub(super) const BY_REACTOR: [&str; 28] = [
    "sessions",
    "node_links",
    "subscriptions",
    "queues_bytes",
    "pending_requests",
    "pending_pushes",
    "retained_bytes",
    "awaited_answers",
    "window_frames",
    "window_bytes",
    "windows_bytes",
    "ledger_bytes",
    "ledger_copies_known",
    "sdk_frames_received",
    "sdk_frames_sent",
    "node_frames_received",
    "node_frames_sent",
    "requests",
    "multicasts",
    "deliveries",
    "received_bytes",
    "sent_bytes",
    "receive_buffers_exhausted",
    "turns_backed_up",
    "looks",
    "waits_slept",
    "waits_gathered",
    "relayed",
];

/// Bounds of histograms begin here; what took less is in the first bucket.
const BOUND_LEAST: Duration = Duration::from_micros(64);
/// The few bounds of a histogram that there is for each ledger node.
const FEW_BOUNDS: [Duration; 4] = [
    Duration::from_micros(1 << 16),
    Duration::from_micros(1 << 20),
    Duration::from_micros(1 << 22),
    Duration::from_micros(1 << 24),
];

/// All of all reactors, the time of whose last turns is measured from the node's start.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    reactors: &[Arc<Counters>],
    since_start: Duration,
) -> fmt::Result {
    let metrics: Vec<Vec<Metric>> = reactors.iter().map(|counters| counters.all().collect()).collect();
    let labels: Vec<String> = (0..reactors.len()).map(|reactor| reactor.to_string()).collect();
    let labels: Vec<_> = labels.iter().map(|reactor| [("reactor", reactor.as_str())]).collect();
    for (index, first) in metrics.first().into_iter().flatten().enumerate() {
        let of_reactors = metrics.iter().map(|metrics| metrics[index]);
        if BY_REACTOR.contains(&first.name) {
            let name = format!("amop_{}", first.name);
            let mut family = encoder.encode_descriptor(&name, first.help, None, metric_type(first.kind))?;
            for (metric, labels) in of_reactors.zip(&labels) {
                encode_value(&metric, family.encode_family(labels)?)?;
            }
        } else {
            let value = of_reactors.fold(0, |sum: u64, metric| sum.wrapping_add(metric.value));
            encode_metric(encoder, "amop", &Metric { value, ..*first })?;
        }
    }
    let (name, help) = ("amop_reactor_last_turn", "Time since the reactor last turned.");
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for (counters, labels) in reactors.iter().zip(&labels) {
        let silent = since_start.saturating_sub(counters.heartbeat.last()).as_secs_f64();
        ConstGauge::new(silent).encode(family.encode_family(labels)?)?;
    }
    encode_latencies(encoder, reactors)
}

fn encode_latencies(encoder: &mut DescriptorEncoder<'_>, reactors: &[Arc<Counters>]) -> fmt::Result {
    let latencies = || reactors.iter().map(|counters| &counters.latencies);
    let help = "Time from a session's request to its answer: answered by a subscriber, or failed, whose codes amop_answered_* count; requests that are refused at once are not here.";
    let mut family =
        encoder.encode_descriptor("amop_request", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (outcome, is_answered) in [("answered", true), ("failed", false)] {
        let outcomes = Outcome::ALL.into_iter().filter(|one| (*one == Outcome::Answered) == is_answered);
        let histograms =
            outcomes.flat_map(|outcome| latencies().map(move |latencies| latencies.requests(outcome)));
        encode_histogram(family.encode_family(&[("outcome", outcome)])?, Sum::of(histograms))?;
    }
    type Part = fn(&Latencies) -> &Histogram;
    let parts: [(&str, &str, Part); 3] = [
        ("amop_push", "Time from a push to a session to its answer.", |latencies| &latencies.pushes),
        ("amop_node_round_trip", "Time from a measuring Hello on a node link to its answer.", |latencies| {
            &latencies.round_trips
        }),
        ("amop_ledger", "Time from a session's JSON-RPC request to the ledger node's answer.", |latencies| {
            &latencies.ledger
        }),
    ];
    for (name, help, part) in parts {
        let metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encode_histogram(metric, Sum::of(latencies().map(part)))?;
    }
    Ok(())
}

/// Several histograms as one.
pub(super) struct Sum {
    /// Each with its upper bound in seconds, the last one infinite.
    buckets: Vec<(f64, u64)>,
    sum_seconds: f64,
}

impl Sum {
    /// With all bounds from the least on.
    pub(super) fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        Self::with_bounds(histograms, |bound| bound >= BOUND_LEAST.as_secs_f64())
    }

    /// With a few bounds.
    pub(super) fn coarse<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        Self::with_bounds(histograms, |bound| FEW_BOUNDS.iter().any(|few| few.as_secs_f64() == bound))
    }

    fn with_bounds<'a>(
        histograms: impl Iterator<Item = &'a Histogram>,
        is_told: impl Fn(f64) -> bool,
    ) -> Self {
        let none = Histogram::default();
        let bounds =
            none.buckets().map(|(bound, _)| bound).filter(|&bound| bound.is_infinite() || is_told(bound));
        let mut sum = Self { buckets: bounds.map(|bound| (bound, 0)).collect(), sum_seconds: 0.0 };
        for histogram in histograms {
            sum.sum_seconds += histogram.sum_seconds();
            for (bound, count) in histogram.buckets() {
                // The last bound is infinite.
                let at = sum.buckets.partition_point(|(told, _)| *told < bound);
                sum.buckets[at].1 += count;
            }
        }
        sum
    }
}

pub(super) fn encode_histogram(mut encoder: MetricEncoder<'_>, sum: Sum) -> fmt::Result {
    let count = sum.buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(sum.sum_seconds, count, &sum.buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_are_told_of_each_reactor_are_there_once_and_are_less_than_thirty() {
        let there: Vec<&str> = Counters::default().all().map(|metric| metric.name).collect();
        for (index, name) in BY_REACTOR.iter().enumerate() {
            assert!(there.contains(name) && !BY_REACTOR[..index].contains(name), "{name}");
        }
        // And the time of the last turn.
        assert!(BY_REACTOR.len() < 30);
    }

    #[test]
    fn what_has_a_bound_of_each_reactor_is_told_of_each() {
        let (config, _) = crate::config::Config::parse("", std::path::Path::new(".")).unwrap();
        let bounds = config.bounds().into_iter().flat_map(|(_, bounds)| bounds);
        for bound in bounds.filter(crate::bound::Bound::is_of_each_reactor) {
            let Some(of) = bound.metric.and_then(|metric| metric.of.strip_prefix("amop_")) else { continue };
            if Counters::default().all().any(|metric| metric.name == of) {
                assert!(BY_REACTOR.contains(&of), "{of}");
            }
        }
    }

    #[test]
    fn histograms_of_all_reactors_are_one_whose_buckets_hold_all_of_them() {
        let histograms = [Histogram::default(), Histogram::default()];
        for micros in [1, 64, 65, 1 << 16, (1 << 16) + 1, 1 << 40] {
            histograms[0].record_micros(micros);
            histograms[1].record_micros(micros);
        }
        for sum in [Sum::of(histograms.iter()), Sum::coarse(histograms.iter())] {
            assert_eq!(sum.buckets.iter().map(|(_, count)| count).sum::<u64>(), 12);
            assert_eq!(sum.buckets.last().unwrap(), &(f64::INFINITY, 2));
            assert_eq!(sum.sum_seconds, histograms[0].sum_seconds() * 2.0);
        }
        let fine = Sum::of(histograms.iter()).buckets;
        assert_eq!(fine[..2], [(64e-6, 4), (128e-6, 2)]);
        let coarse = Sum::coarse(histograms.iter()).buckets;
        assert_eq!(coarse[..2], [(0.065536, 8), (1.048576, 2)]);
        assert_eq!(coarse.len(), FEW_BOUNDS.len() + 1);
    }
}
