//! What a node says at one time, and what grew between two.

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, Instant},
};

use crate::{
    admin::json::{LedgerNode, Link, Network, Node, Page, Peer2x, Session, Standing},
    bound::{Bound, BoundMetric},
    bounds,
    cli::{
        admin::{AdminAddress, get_json, get_text},
        net::network_path,
    },
};

/// Nodes of FISCO BCOS 2.x that are asked for.
const PEERS_2X_SHOWN: usize = 20;
/// Nodes whose names are asked for, the nearest first.
const NODES_NAMED: usize = 64;
/// How long a node may take to say all of it: one that hangs is told as such.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long requests took, by how they ended.
const LATENCY: &str = "amop_request_seconds_bucket";
/// The bounds that nodes tell by metrics. How much they are, each node says itself.
static BOUNDS: LazyLock<Vec<Bound>> =
    LazyLock::new(|| bounds::of_defaults().into_iter().flat_map(|(_, bounds)| bounds).collect());
/// How requests ended, and the metric that counts it.
pub(super) const ANSWERS: [(&str, &str); 6] = [
    ("0 or own", "amop_answered_by_subscriber_total"),
    ("99", "amop_answered_not_sent_total"),
    ("100", "amop_answered_no_receiver_total"),
    ("101", "amop_answered_not_delivered_total"),
    ("102", "amop_answered_timeout_total"),
    ("103", "amop_answered_over_bandwidth_total"),
];
/// What the names of metrics hold that count what did not go as it should.
const TROUBLE: [&str; 13] = [
    "not_admitted",
    "not_for_us",
    "not_held",
    "dropped",
    "refused",
    "closed_",
    "failed",
    "_full",
    "timeouts",
    "unanswered",
    "exhausted",
    "late_",
    "ignored",
];

/// All that a node says at one time.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) metrics: MetricValues,
    pub(super) network: Network,
    pub(super) sessions: Page<Session>,
    /// Empty of a node that is older than they are.
    pub(super) ledgers: Vec<LedgerNode>,
    /// Likewise.
    pub(super) peers_2x: Page<Peer2x>,
}

impl Look {
    /// Asks a node, with so many of its sessions: those that have most waiting.
    pub(super) async fn at(admin: &AdminAddress, sessions: usize) -> Result<Self, String> {
        let asked = tokio::time::timeout(ANSWER_TIME_MAX, Self::ask(admin, sessions)).await;
        asked.unwrap_or_else(|_| {
            Err(format!("{admin} does not answer within {ANSWER_TIME_MAX:?}: see its /livez"))
        })
    }

    async fn ask(admin: &AdminAddress, sessions: usize) -> Result<Self, String> {
        let at = Instant::now();
        let metrics = MetricValues::parse(&get_text(admin, "/metrics").await?)
            .ok_or_else(|| format!("{admin} gives no metrics of a node: is it a node of this version?"))?;
        let network = get_json(admin, &network_path(NODES_NAMED)).await?;
        let path = format!("/sessions?sort=queued_bytes&order=desc&limit={sessions}");
        let sessions = get_json(admin, &path).await?;
        let ledgers = get_json::<Page<LedgerNode>>(admin, "/ledgers").await.map(|page| page.items);
        let ledgers = ledgers.unwrap_or_default();
        let peers_2x = get_json::<Page<Peer2x>>(admin, &format!("/peers_2x?limit={PEERS_2X_SHOWN}")).await;
        let peers_2x = peers_2x.unwrap_or(Page { total: 0, items: Vec::new() });
        Ok(Self { at, metrics, network, sessions, ledgers, peers_2x })
    }

    /// The node itself.
    pub(super) fn own(&self) -> Option<&Node> {
        self.network.items.iter().find(|node| node.standing == Standing::Own)
    }

    /// How long the node runs, by this machine's clock, in seconds.
    pub(super) fn up_seconds(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let start = self.metrics.sum("process_start_time_seconds");
        now.map_or(0, |now| (now.as_secs_f64() - start).max(0.0) as u64)
    }
}

/// Metrics by name: their sum over all reactors, and the largest of one; and how many requests took at most so long.
#[derive(Default)]
pub(super) struct MetricValues {
    values: BTreeMap<String, (f64, f64)>,
    /// By the upper bound in microseconds.
    latencies: BTreeMap<u64, f64>,
}

impl MetricValues {
    /// Reads the text form of `/metrics`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ')?;
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let value: f64 = value.parse().ok()?;
            if name == LATENCY
                && let Some(bound) = labels.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"'))
            {
                let micros = bound.0.parse::<f64>().map_or(u64::MAX, |seconds| (seconds * 1e6) as u64);
                *metrics.latencies.entry(micros).or_default() += value;
            }
            if name.ends_with("_bucket") {
                continue;
            }
            let (sum, largest) = metrics.values.entry(name.to_owned()).or_default();
            *sum += value;
            *largest = largest.max(value);
        }
        metrics.values.contains_key("amop_sessions").then_some(metrics)
    }

    pub(super) fn sum(&self, name: &str) -> f64 {
        self.values.get(name).map_or(0.0, |(sum, _)| *sum)
    }

    /// Each metric that has a bound, the bound, and the part of it that is reached; the fullest first.
    pub(super) fn fills(&self) -> Vec<Fill> {
        let fill = |bound: &Bound| {
            let BoundMetric { name, of, .. } = bound.metric?;
            let (_, value_max) = self.values.get(name)?;
            let (sum, largest) = self.values.get(of)?;
            let value = if bound.is_of_each_reactor() { *largest } else { *sum };
            Some((of, value, *value_max, if *value_max > 0.0 { value / value_max } else { 0.0 }))
        };
        let files = self.values.get("process_max_fds").and_then(|(_, bound)| {
            let (value, _) = self.values.get("process_open_fds")?;
            Some(("process_open_fds", *value, *bound, value / bound))
        });
        let mut fills: Vec<_> = BOUNDS.iter().filter_map(fill).chain(files).collect();
        fills.sort_by(|a, b| b.3.total_cmp(&a.3).then(a.0.cmp(b.0)));
        fills
    }
}

/// A metric that has a bound, what it is, the bound, and the part of it that is reached.
pub(super) type Fill = (&'static str, f64, f64, f64);

/// Bytes a second in and out, and the link.
pub(super) type LinkRates<'a> = (f64, f64, &'a Link);

/// What grew between two looks.
pub(super) struct Rates<'a> {
    pub(super) before: &'a Look,
    pub(super) now: &'a Look,
    pub(super) seconds: f64,
}

impl<'a> Rates<'a> {
    /// `None` where the node has started anew in between.
    pub(super) fn between(before: &'a Look, now: &'a Look) -> Option<Self> {
        let start = |look: &Look| look.metrics.sum("process_start_time_seconds");
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE);
        (start(before) == start(now)).then_some(Self { before, now, seconds })
    }

    /// What a counter grew by per second.
    pub(super) fn of(&self, name: &str) -> f64 {
        (self.now.metrics.sum(name) - self.before.metrics.sum(name)).max(0.0) / self.seconds
    }

    /// Counters of what did not go as it should, and what they grew by.
    pub(super) fn trouble(&self) -> Vec<(f64, &'a str)> {
        let is_trouble =
            |name: &str| name.ends_with("_total") && TROUBLE.iter().any(|part| name.contains(part));
        let names = self.now.metrics.values.keys().filter(|name| is_trouble(name));
        let grown =
            names.map(|name| (self.now.metrics.sum(name) - self.before.metrics.sum(name), name.as_str()));
        grown.filter(|(grown, _)| *grown > 0.0).collect()
    }

    /// The time within which this part of the requests was answered that ended meanwhile; the bound of a bucket.
    pub(super) fn latency_us(&self, quantile: f64) -> Option<u64> {
        let earlier = &self.before.metrics.latencies;
        let grown = |(bound, count): (&u64, &f64)| (*bound, count - earlier.get(bound).unwrap_or(&0.0));
        let grown: Vec<(u64, f64)> = self.now.metrics.latencies.iter().map(grown).collect();
        let (_, all) = *grown.last()?;
        let wanted = all * quantile;
        grown.into_iter().find(|(_, count)| all > 0.0 && *count >= wanted).map(|(bound, _)| bound)
    }

    /// All links, those with most traffic first.
    pub(super) fn links(&self) -> Vec<LinkRates<'a>> {
        let identity = |link: &Link| (link.reactor, link.link, link.peer.clone(), link.up_since.clone());
        let earlier: BTreeMap<_, &Link> =
            self.before.network.links.iter().map(|link| (identity(link), link)).collect();
        let rates = |link: &'a Link| {
            let earlier = earlier.get(&identity(link));
            let rate = |of: fn(&Link) -> u64| {
                of(link).saturating_sub(earlier.map_or(0, |link| of(link))) as f64 / self.seconds
            };
            (rate(|link| link.received_bytes), rate(|link| link.sent_bytes), link)
        };
        let mut links: Vec<LinkRates<'a>> = self.now.network.links.iter().map(rates).collect();
        links.sort_by(|a, b| (b.0 + b.1).total_cmp(&(a.0 + a.1)).then_with(|| a.2.peer.cmp(&b.2.peer)));
        links
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::top) const TEXT: &str = "\
# HELP amop_sessions SDK sessions now.
# TYPE amop_sessions gauge
amop_sessions{reactor=\"0\"} 90
amop_sessions{reactor=\"1\"} 10
amop_sessions_max 100
amop_pending_requests{reactor=\"0\"} 5
amop_pending_requests{reactor=\"1\"} 30
amop_pending_requests_max 60
amop_request_seconds_bucket{end=\"answered\",le=\"0.001\"} 4
amop_request_seconds_bucket{end=\"answered\",le=\"+Inf\"} 7
amop_registry_nodes_known 1
amop_nodes_known_max 4
process_open_fds 2
process_max_fds +Inf
amop_closed_stalled_total{reactor=\"0\"} 3
# EOF
";

    /// What a node without links and sessions says.
    pub(in crate::cli::top) fn look(metrics: &str, after: Duration, start: Instant) -> Look {
        let network = serde_json::json!({ "total": 1, "reachable": 0, "items": [], "links": [] });
        let none = serde_json::json!({ "total": 0, "items": [] });
        Look {
            at: start + after,
            metrics: MetricValues::parse(metrics).unwrap(),
            network: serde_json::from_value(network).unwrap(),
            sessions: serde_json::from_value(none.clone()).unwrap(),
            ledgers: Vec::new(),
            peers_2x: serde_json::from_value(none).unwrap(),
        }
    }

    #[test]
    fn figures_stand_beside_their_bound_the_fullest_first() {
        let metrics = MetricValues::parse(TEXT).unwrap();
        assert_eq!(
            metrics.fills(),
            [
                ("amop_sessions", 100.0, 100.0, 1.0),
                ("amop_pending_requests", 30.0, 60.0, 0.5),
                ("amop_registry_nodes_known", 1.0, 4.0, 0.25),
                ("process_open_fds", 2.0, f64::INFINITY, 0.0),
            ]
        );
        assert_eq!(metrics.sum("amop_request_seconds_bucket"), 0.0);
    }

    #[test]
    fn what_grew_in_the_interval_is_trouble_and_what_stands_still_is_not() {
        let start = Instant::now();
        let (before, same) = (look(TEXT, Duration::ZERO, start), look(TEXT, Duration::from_secs(2), start));
        assert_eq!(Rates::between(&before, &same).unwrap().trouble(), []);
        let grown = TEXT.replace("total{reactor=\"0\"} 3", "total{reactor=\"0\"} 5");
        let now = look(&grown, Duration::from_secs(2), start);
        let rates = Rates::between(&before, &now).unwrap();
        assert_eq!(rates.trouble(), [(2.0, "amop_closed_stalled_total")]);
        assert_eq!(rates.of("amop_closed_stalled_total"), 1.0);
    }

    #[test]
    fn latency_is_that_of_the_requests_that_ended_in_the_interval() {
        let start = Instant::now();
        let before = look(TEXT, Duration::ZERO, start);
        let grown =
            TEXT.replace("le=\"0.001\"} 4", "le=\"0.001\"} 13").replace("le=\"+Inf\"} 7", "le=\"+Inf\"} 17");
        let now = look(&grown, Duration::from_secs(2), start);
        let rates = Rates::between(&before, &now).unwrap();
        // Nine of ten within a millisecond.
        assert_eq!((rates.latency_us(0.5), rates.latency_us(0.9)), (Some(1_000), Some(1_000)));
        assert_eq!(rates.latency_us(0.99), Some(u64::MAX));
        assert_eq!(Rates::between(&before, &before).unwrap().latency_us(0.5), None);
    }

    #[test]
    fn nothing_is_compared_over_a_restart() {
        let start = Instant::now();
        let text = format!("{TEXT}process_start_time_seconds 1\n");
        let before = look(&text, Duration::ZERO, start);
        let now = look(&text.replace("seconds 1", "seconds 2"), Duration::from_secs(2), start);
        assert!(Rates::between(&before, &now).is_none());
    }

    #[test]
    fn what_is_no_list_of_figures_is_none() {
        for text in ["", "hello\n", "amop_sessions\n", "amop_sessions x\n", "other 1\n"] {
            assert!(MetricValues::parse(text).is_none(), "{text}");
        }
    }
}
