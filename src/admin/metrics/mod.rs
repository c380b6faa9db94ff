//! `/metrics`: every metric and bound, as text for Prometheus or as OpenMetrics (`format.rs`).
//!
//! Names are `amop_` and those of the metrics in `relay::counters`, `relay::registry` and `door`, units
//! last. Labels are `reactor`, `outcome` of requests, `ledger`, a ledger node of the configuration, and `peer`, of which there are
//! so many at most (`peers.rs`): nothing that a peer could multiply. A node has no more series than 400, 30 for each reactor and 20
//! for each peer and each ledger node.

mod format;
mod peers;
mod process;
mod reactors;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderValue, VARY},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

pub(super) use self::peers::PEERS_NAMED_MAX;
use self::{
    format::Format,
    peers::Peers,
    reactors::{Sum, encode_histogram},
};
use super::{Answer, Watched, text, with_body};
use crate::{
    bound::{Bound, BoundMetric},
    door::{DoorCounters, LedgerNode},
    engine::EngineHandle,
    log,
    relay::{
        Shared,
        counters::{Kind, LedgerNodeCounters, Metric},
        registry::RegistryCounters,
    },
    supervise,
    tls::validity::CertificateEnds,
};

/// All metrics of a node.
pub(super) struct Metrics {
    registry: Registry,
    peers: Arc<Mutex<Peers>>,
}

impl Metrics {
    pub(super) fn new(watched: &Watched) -> Self {
        let mut registry = Registry::default();
        let elapsed = watched.shared.started.elapsed();
        let peers = Arc::<Mutex<Peers>>::default();
        registry.register_collector(Box::new(NodeMetrics {
            shared: watched.shared.clone(),
            registry: watched.registry_counters.clone(),
            door: watched.door_counters.clone(),
            engine: watched.engine.clone(),
            memory_max: watched.memory_max,
            bounds: watched.bounds.clone(),
            certificates: watched.certificates.clone(),
            ledger_nodes: watched.ledger_nodes.clone(),
            peers: peers.clone(),
            started: SystemTime::now().checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH),
        }));
        Self { registry, peers }
    }

    /// What a scraper gets that sends these headers.
    pub(super) async fn answer(&self, watched: &Watched, headers: &HeaderMap) -> Answer {
        let answers = watched.node_links().await;
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).look(Instant::now(), answers);
        let mut out = String::new();
        if let Err(error) = encode(&mut out, &self.registry) {
            return text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
        }
        let format = Format::of(headers);
        let mut answer = with_body(StatusCode::OK, format.content_type(), format.write(out).into_bytes());
        answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        answer
    }
}

struct NodeMetrics {
    shared: Arc<Shared>,
    registry: Arc<RegistryCounters>,
    door: Arc<DoorCounters>,
    engine: EngineHandle,
    memory_max: u64,
    bounds: Vec<Bound>,
    certificates: Arc<ArcSwap<CertificateEnds>>,
    ledger_nodes: Arc<[LedgerNode]>,
    peers: Arc<Mutex<Peers>>,
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
        reactors::encode(encoder, &self.shared.counters, self.shared.started.elapsed())?;
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).encode(encoder)?;
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
        self.encode_engine(encoder)?;
        self.encode_bounds(encoder)?;
        let help = "Bytes of memory that all bounds together are within.";
        encode_gauge(encoder, "amop_memory_max_bytes", help, self.memory_max as f64)?;
        process::encode(encoder, self.started)
    }
}

impl NodeMetrics {
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
        for (number, node) in ledgers() {
            let labels = [("ledger", node.address.as_str())];
            let histograms = reactors.iter().filter_map(|counters| Some(&counters.get(number)?.latency));
            encode_histogram(family.encode_family(&labels)?, Sum::coarse(histograms))?;
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

    fn encode_engine(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let engine = Info::new([("io", self.engine.io().name())]);
        let help = "What the node's links are on: io_uring, or epoll.";
        engine.encode(encoder.encode_descriptor("amop_engine", help, None, MetricType::Info)?)
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
}

/// The log and the threads are the process's, whatever nodes it has.
fn encode_log(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let log = log::metrics();
    let lost =
        "Log lines that were lost: whoever reads the log did not keep up, or they could not be written.";
    encode_counter(encoder, "amop_log_lines_lost", lost, log.lines_lost)?;
    let removed = "Log files that were removed, because there were too many.";
    encode_counter(encoder, "amop_log_files_removed", removed, log.files_removed)?;
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
