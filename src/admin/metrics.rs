//! `/metrics`: every metric and bound, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Names are `amop_` and those of the metrics in `relay::counters`, `relay::registry` and `door`, units
//! last. The only labels are `reactor`, `outcome` of requests, and `ledger`, a ledger node of the configuration: nothing that a peer
//! could multiply.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use hyper::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use super::{Answer, Watched, text, with_body};
use crate::{
    bound::{Bound, BoundMetric},
    door::{DoorCounters, LedgerNode},
    engine::EngineHandle,
    log,
    relay::{
        Shared,
        counters::{Histogram, Kind, LedgerNodeCounters, Metric, Outcome},
        registry::RegistryCounters,
    },
    supervise,
    tls::validity::CertificateEnds,
};

/// The form of the text, by which scrapers know how to read it.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a node.
pub(super) struct Metrics(Registry);

impl Metrics {
    pub(super) fn new(watched: &Watched) -> Self {
        let mut registry = Registry::default();
        let elapsed = watched.shared.started.elapsed();
        registry.register_collector(Box::new(NodeMetrics {
            shared: watched.shared.clone(),
            registry: watched.registry_counters.clone(),
            door: watched.door_counters.clone(),
            engine: watched.engine.clone(),
            bounds: watched.bounds.clone(),
            certificates: watched.certificates.clone(),
            ledger_nodes: watched.ledger_nodes.clone(),
            started: SystemTime::now().checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH),
        }));
        Self(registry)
    }

    pub(super) fn answer(&self) -> Answer {
        let mut out = String::new();
        match encode(&mut out, &self.0) {
            Ok(()) => with_body(StatusCode::OK, CONTENT_TYPE, out.into_bytes()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

struct NodeMetrics {
    shared: Arc<Shared>,
    registry: Arc<RegistryCounters>,
    door: Arc<DoorCounters>,
    engine: EngineHandle,
    bounds: Vec<Bound>,
    certificates: Arc<ArcSwap<CertificateEnds>>,
    ledger_nodes: Arc<[LedgerNode]>,
    /// When the node started.
    started: SystemTime,
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_reactors(encoder)?;
        self.encode_ledger_nodes(encoder)?;
        for metric in self.registry.all() {
            encode_metric(encoder, "amop_registry", &metric)?;
        }
        for metric in self.door.all() {
            encode_metric(encoder, "amop_door", &metric)?;
        }
        let snapshot = self.shared.snapshot.load();
        encode_gauge(
            encoder,
            "amop_neighbours",
            "Neighbours that are up.",
            snapshot.neighbours.len() as f64,
        )?;
        let routed = snapshot.topics() as f64;
        encode_gauge(
            encoder,
            "amop_routed_topics",
            "Topics with subscribers, here or at neighbours.",
            routed,
        )?;
        encode_gauge(
            encoder,
            "amop_tracing",
            "Whether messages that end with 0 are traced, too: 1 or 0.",
            f64::from(self.shared.tracing.load(Relaxed)),
        )?;
        let help = "Bytes of frames that are not complete yet, on all links.";
        encode_gauge(encoder, "amop_unfinished_bytes", help, self.engine.unfinished_bytes() as f64)?;
        encode_log(encoder)?;
        self.encode_certificates(encoder)?;
        self.encode_bounds(encoder)?;
        self.encode_process(encoder)
    }
}

impl NodeMetrics {
    fn encode_reactors(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reactors: Vec<Vec<Metric>> =
            self.shared.counters.iter().map(|counters| counters.all().collect()).collect();
        let labels: Vec<String> = (0..reactors.len()).map(|reactor| reactor.to_string()).collect();
        let labels: Vec<_> = labels.iter().map(|reactor| [("reactor", reactor.as_str())]).collect();
        for (index, metric) in reactors[0].iter().enumerate() {
            let name = format!("amop_{}", metric.name);
            let mut family = encoder.encode_descriptor(&name, metric.help, None, metric_type(metric.kind))?;
            for (metrics, labels) in reactors.iter().zip(&labels) {
                encode_value(&metrics[index], family.encode_family(labels)?)?;
            }
        }
        let since_start = self.shared.started.elapsed();
        let help = "Time since the reactor last turned.";
        let mut family = encoder.encode_descriptor(
            "amop_reactor_last_turn",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (counters, labels) in self.shared.counters.iter().zip(&labels) {
            let silent = since_start.saturating_sub(counters.heartbeat.last()).as_secs_f64();
            ConstGauge::new(silent).encode(family.encode_family(labels)?)?;
        }
        let help = "Time from a session's request to its answer, by how it ended; requests that are refused at once are not here.";
        let mut family =
            encoder.encode_descriptor("amop_request", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (counters, [reactor]) in self.shared.counters.iter().zip(&labels) {
            for outcome in Outcome::ALL {
                let labels = [*reactor, ("outcome", outcome.label())];
                encode_histogram(family.encode_family(&labels)?, counters.latencies.requests(outcome))?;
            }
        }
        let help = "Time from a push to a session to its answer.";
        let mut family =
            encoder.encode_descriptor("amop_push", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (counters, labels) in self.shared.counters.iter().zip(&labels) {
            encode_histogram(family.encode_family(labels)?, &counters.latencies.pushes)?;
        }
        let help = "Time from a measuring Hello on a node link to its answer.";
        let mut family = encoder.encode_descriptor(
            "amop_node_round_trip",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (counters, labels) in self.shared.counters.iter().zip(&labels) {
            encode_histogram(family.encode_family(labels)?, &counters.latencies.round_trips)?;
        }
        let help = "Time from a session's JSON-RPC request to the ledger node's answer.";
        let mut family =
            encoder.encode_descriptor("amop_ledger", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (counters, labels) in self.shared.counters.iter().zip(&labels) {
            encode_histogram(family.encode_family(labels)?, &counters.latencies.ledger)?;
        }
        Ok(())
    }

    /// What is counted of each ledger node, by its address as the configuration has it.
    fn encode_ledger_nodes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ledgers = || self.ledger_nodes.iter().enumerate();
        if self.ledger_nodes.is_empty() {
            return Ok(());
        }
        let mut counters = |name, help, value: fn(&LedgerNode) -> u64| -> fmt::Result {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            self.ledger_nodes.iter().try_for_each(|node| {
                let labels = [("ledger", node.address.as_str())];
                ConstCounter::new(value(node)).encode(family.encode_family(&labels)?)
            })
        };
        let help = "Times that this ledger node was dialled for a session.";
        counters("amop_ledger_node_dials", help, |node| node.dials.get())?;
        counters("amop_ledger_node_dials_failed", "The same without success.", |node| {
            node.dials_failed.get()
        })?;
        let reactors = &self.shared.ledger_counters;
        let names: Vec<Metric> = LedgerNodeCounters::default().all().collect();
        for (index, metric) in names.iter().enumerate() {
            let name = format!("amop_ledger_node_{}", metric.name);
            let mut family = encoder.encode_descriptor(&name, metric.help, None, metric_type(metric.kind))?;
            for (number, node) in ledgers() {
                let of_reactor = |counters: &Vec<LedgerNodeCounters>| {
                    counters.get(number)?.all().nth(index).map(|one| one.value)
                };
                let value = reactors.iter().filter_map(of_reactor).sum();
                let labels = [("ledger", node.address.as_str())];
                encode_value(&Metric { value, ..*metric }, family.encode_family(&labels)?)?;
            }
        }
        let help = "Time from a session's JSON-RPC request to the answer of this ledger node.";
        let mut family = encoder.encode_descriptor(
            "amop_ledger_node",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (reactor, counters) in reactors.iter().enumerate() {
            let reactor = reactor.to_string();
            for ((_, node), counters) in ledgers().zip(counters) {
                let labels = [("reactor", reactor.as_str()), ("ledger", node.address.as_str())];
                encode_histogram(family.encode_family(&labels)?, &counters.latency)?;
            }
        }
        Ok(())
    }

    fn encode_certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When this of the node's own certificates ends, since 1970; of several in a file the first that ends.";
        for (certificate, end) in self.certificates.load().iter() {
            let name = format!("amop_{certificate}_not_after");
            let gauge = encoder.encode_descriptor(&name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            ConstGauge::new(*end).encode(gauge)?;
        }
        Ok(())
    }

    fn encode_bounds(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for bound in &self.bounds {
            if let Some(BoundMetric { name, help, .. }) = bound.metric {
                encode_gauge(encoder, name, help, bound.value as f64)?;
            }
        }
        if let Some(rate) = self.shared.limiter.units_per_second() {
            let help = "Limit of outbound bandwidth, in bytes per second; absent if there is none.";
            encode_gauge(encoder, "amop_bandwidth_limit_bytes_per_second", help, rate)?;
        }
        if let Some(rate) = self.shared.rpc_limiter.units_per_second() {
            let help = "Limit of JSON-RPC requests per second; absent if there is none.";
            encode_gauge(encoder, "amop_rpc_requests_limit_per_second", help, rate)?;
        }
        Ok(())
    }

    /// By the names that Prometheus' own libraries give them.
    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let family = encoder.encode_descriptor("amop_build", "What runs.", None, MetricType::Info)?;
        build.encode(family)?;
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let help = "When the node started, since 1970.";
        encode_gauge(encoder, "process_start_time_seconds", help, started.as_secs_f64())?;
        if let Some(bytes) = resident_bytes() {
            encode_gauge(encoder, "process_resident_memory_bytes", "Resident memory.", bytes as f64)?;
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory itself.
            let open = files.count().saturating_sub(1);
            encode_gauge(encoder, "process_open_fds", "Open files.", open as f64)?;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.map_or(f64::INFINITY, |limit| limit as f64);
        encode_gauge(encoder, "process_max_fds", "Files that may be open.", limit)
    }
}

/// The log and the threads are the process's, whatever nodes it has.
fn encode_log(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let log = log::metrics();
    let lost =
        "Log lines that were lost: whoever reads the log did not keep up, or they could not be written.";
    encode_counter(encoder, "amop_log_lines_lost", lost, log.lines_lost)?;
    let waiting = "Bytes of log lines that wait to be written.";
    encode_gauge(encoder, "amop_log_queue_bytes", waiting, log.queue_bytes as f64)?;
    let deaths = "Threads and tasks that have died by a fault of amop; the log says of what.";
    encode_counter(encoder, "amop_deaths", deaths, supervise::deaths())
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    }
}

fn encode_metric(encoder: &mut DescriptorEncoder<'_>, prefix: &str, metric: &Metric) -> fmt::Result {
    let name = format!("{prefix}_{}", metric.name);
    encode_value(metric, encoder.encode_descriptor(&name, metric.help, None, metric_type(metric.kind))?)
}

fn encode_value(metric: &Metric, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
    match metric.kind {
        Kind::Counter => ConstCounter::new(metric.value).encode(encoder),
        Kind::Gauge => ConstGauge::new(metric.value).encode(encoder),
    }
}

fn encode_counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn encode_gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn encode_histogram(
    mut encoder: prometheus_client::encoding::MetricEncoder<'_>,
    histogram: &Histogram,
) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(histogram.sum_seconds(), count, &buckets, None)
}

/// Resident memory of the process, from the second number of `/proc/self/statm`.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
