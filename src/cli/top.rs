//! `amop top`: what a node does just now.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io::IsTerminal,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    Failure,
    admin::{AdminAddress, AdminArgs, get_json, get_text},
    help::examples,
    net::{name_of, names, network_path},
    output::print_line,
    text::{Column, bytes, millis, numbers, short, table, words},
};
use crate::{
    admin::json::{LedgerNode, Link, Network, Page, Peer2x, Session, Standing},
    bound::{Bound, BoundMetric},
    bounds,
    escape::shown,
};

/// Moves to the upper left corner and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";
/// Sessions that are shown as those that do not keep up.
const SESSIONS_SHOWN: usize = 10;
/// Nodes of FISCO BCOS 2.x that are shown.
const PEERS_2X_SHOWN: usize = 20;
/// Nodes whose names are asked for, the nearest first.
const NODES_NAMED: usize = 64;
/// Links that are shown, those with most traffic first.
const LINKS_SHOWN: usize = 10;
/// Metrics that are shown with their bound, the fullest first.
const FILLS_SHOWN: usize = 8;
/// Part of a bound from which a metric is marked.
const FILL_WORTH_A_LOOK: f64 = 0.8;
/// The bounds that nodes tell by metrics. How much they are, each node says itself.
static BOUNDS: LazyLock<Vec<Bound>> =
    LazyLock::new(|| bounds::of_defaults().into_iter().flat_map(|(_, bounds)| bounds).collect());
/// How requests ended, and the metric that counts it.
const ANSWERS: [(&str, &str); 6] = [
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

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop top --admin 127.0.0.1:9100", "on a terminal, anew every two seconds"),
            ("amop top --admin 127.0.0.1:9100 --once", "one look as plain text, over two seconds"),
            ("amop top --admin 127.0.0.1:9100 --interval 60 >> node0.log", ""),
        ],
        &[
            "The node needs [admin] listen_port. Rates are per second, over the interval. A metric at 80 % of its \
             bound, or more, is marked with !. Ctrl-C ends it.",
        ],
    ))]
pub(super) struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Look once, and end.
    #[arg(long)]
    once: bool,
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it must be a number from 0.1 to 3600".to_owned())
}

/// All that a node says at one time.
struct Look {
    at: Instant,
    metrics: MetricValues,
    network: Network,
    sessions: Page<Session>,
    /// Empty of a node that is older than they are.
    ledgers: Vec<LedgerNode>,
    /// Likewise.
    peers_2x: Page<Peer2x>,
}

pub(super) fn run(args: &TopArgs) -> Result<ExitCode, Failure> {
    super::runtime()?.block_on(watch(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn watch(args: &TopArgs) -> Result<(), Failure> {
    let on_terminal = !args.once && std::io::stdout().is_terminal();
    let admin = args.admin.address()?;
    let mut before = look(admin).await?;
    loop {
        tokio::time::sleep(args.interval).await;
        let now = look(admin).await?;
        let text = show(&before, &now);
        let text = if on_terminal { format!("{CLEAR}{}", text.trim_end()) } else { text };
        print_line(&text)?;
        if args.once {
            return Ok(());
        }
        before = now;
    }
}

async fn look(admin: &AdminAddress) -> Result<Look, String> {
    let at = Instant::now();
    let metrics = MetricValues::parse(&get_text(admin, "/metrics").await?)
        .ok_or_else(|| format!("{admin} gives no metrics of a node: is it a node of this version?"))?;
    let network = get_json(admin, &network_path(NODES_NAMED)).await?;
    let path = format!("/sessions?sort=queued_bytes&order=desc&limit={SESSIONS_SHOWN}");
    let sessions = get_json(admin, &path).await?;
    let ledgers = get_json::<Page<LedgerNode>>(admin, "/ledgers").await.map(|page| page.items);
    let ledgers = ledgers.unwrap_or_default();
    let peers_2x = get_json::<Page<Peer2x>>(admin, &format!("/peers_2x?limit={PEERS_2X_SHOWN}")).await;
    let peers_2x = peers_2x.unwrap_or(Page { total: 0, items: Vec::new() });
    Ok(Look { at, metrics, network, sessions, ledgers, peers_2x })
}

/// Metrics by name: their sum over all reactors, and the largest of one.
struct MetricValues(BTreeMap<String, (f64, f64)>);

impl MetricValues {
    /// Reads the text form of `/metrics`; buckets of histograms are left out.
    fn parse(text: &str) -> Option<Self> {
        let mut metrics = BTreeMap::<String, (f64, f64)>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ')?;
            let name = sample.split_once('{').map_or(sample, |(name, _)| name);
            if name.ends_with("_bucket") {
                continue;
            }
            let value: f64 = value.parse().ok()?;
            let (sum, largest) = metrics.entry(name.to_owned()).or_default();
            *sum += value;
            *largest = largest.max(value);
        }
        metrics.contains_key("amop_sessions").then_some(Self(metrics))
    }

    fn sum(&self, name: &str) -> f64 {
        self.0.get(name).map_or(0.0, |(sum, _)| *sum)
    }

    /// Each metric that has a bound, the bound, and the part of it that is reached; the fullest first.
    fn fills(&self) -> Vec<Fill> {
        let fill = |bound: &Bound| {
            let BoundMetric { name, of, .. } = bound.metric?;
            let (_, value_max) = self.0.get(name)?;
            let (sum, largest) = self.0.get(of)?;
            let value = if bound.is_of_each_reactor() { *largest } else { *sum };
            Some((of, value, *value_max, if *value_max > 0.0 { value / value_max } else { 0.0 }))
        };
        let files = self.0.get("process_max_fds").and_then(|(_, bound)| {
            let (value, _) = self.0.get("process_open_fds")?;
            Some(("process_open_fds", *value, *bound, value / bound))
        });
        let mut fills: Vec<_> = BOUNDS.iter().filter_map(fill).chain(files).collect();
        fills.sort_by(|a, b| b.3.total_cmp(&a.3).then(a.0.cmp(b.0)));
        fills
    }
}

/// A metric that has a bound, what it is, the bound, and the part of it that is reached.
type Fill = (&'static str, f64, f64, f64);

/// What a counter grew by per second.
struct Rates<'a> {
    before: &'a MetricValues,
    now: &'a MetricValues,
    seconds: f64,
}

impl Rates<'_> {
    fn of(&self, name: &str) -> f64 {
        (self.now.sum(name) - self.before.sum(name)).max(0.0) / self.seconds
    }
}

fn show(before: &Look, now: &Look) -> String {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE);
    let start_time = |metrics: &MetricValues| metrics.sum("process_start_time_seconds");
    let restarted = start_time(&before.metrics) != start_time(&now.metrics);
    let rates = Rates { before: &before.metrics, now: &now.metrics, seconds };
    let mut text = head(now);
    if restarted {
        text.push_str("\nthe node has started anew since the last look\n");
        return text;
    }
    show_rates(&mut text, &rates);
    show_trouble(&mut text, &rates);
    show_fills(&mut text, &now.metrics);
    show_links(&mut text, before, now, seconds);
    if now.peers_2x.total > 0 {
        show_peers_2x(&mut text, &rates, &now.peers_2x);
    }
    if !now.ledgers.is_empty() {
        show_ledgers(&mut text, &rates, &now.ledgers);
    }
    show_sessions(&mut text, &now.sessions);
    text
}

fn head(now: &Look) -> String {
    let metrics = &now.metrics;
    let own = now.network.items.iter().find(|node| node.standing == Standing::Own);
    let (id, name) = own.map_or_else(Default::default, |node| {
        (short(&node.id), [&node.agency, &node.name].map(|part| shown(part.as_deref().unwrap_or_default())))
    });
    let up = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64() - metrics.sum("process_start_time_seconds"));
    format!(
        "node {id}, up {}; sessions {}, neighbours {}, other nodes reached {} of {}, topics routed {}, memory {}\nagency {}, name {}\n",
        age(up.max(0.0) as u64),
        metrics.sum("amop_sessions"),
        metrics.sum("amop_neighbours"),
        now.network.reachable,
        now.network.total.saturating_sub(1),
        metrics.sum("amop_routed_topics"),
        bytes(metrics.sum("process_resident_memory_bytes")),
        name[0],
        name[1],
    )
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn show_rates(text: &mut String, rates: &Rates<'_>) {
    let _ = writeln!(text, "\nper second, over {:.1} s", rates.seconds);
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let volume = |name: &str| bytes(rates.of(name));
    let rows = [
        [
            "messages taken from sessions".to_owned(),
            format!("unicast {}", count("amop_requests_total")),
            format!("multicast {}", count("amop_multicasts_total")),
        ],
        [
            "copies for subscribers".to_owned(),
            format!("queued {}", count("amop_deliveries_total")),
            format!("dropped {}", count("amop_dropped_queue_full_total")),
        ],
        [
            "frames of applications".to_owned(),
            format!("in {}", count("amop_sdk_frames_received_total")),
            format!("out {}", count("amop_sdk_frames_sent_total")),
        ],
        [
            "frames of nodes".to_owned(),
            format!("in {}", count("amop_node_frames_received_total")),
            format!("out {}", count("amop_node_frames_sent_total")),
        ],
        [
            "of them passed on for others".to_owned(),
            format!("frames {}", count("amop_relayed_total")),
            format!("bytes {}", volume("amop_relayed_bytes_total")),
        ],
        [
            "bytes".to_owned(),
            format!("in {}", volume("amop_received_bytes_total")),
            format!("out {}", volume("amop_sent_bytes_total")),
        ],
    ];
    let columns: [Column<'_, [String; 3]>; 3] = [
        (words(""), &|row| row[0].clone()),
        (words(""), &|row| row[1].clone()),
        (words(""), &|row| row[2].clone()),
    ];
    text.push_str(&table(&rows, &columns));
    let answers: Vec<String> =
        ANSWERS.iter().map(|(code, name)| format!("{code}: {}", count(name))).collect();
    let _ = writeln!(text, "  answers by code               {}", answers.join("  "));
    let waiting = ["amop_pending_requests", "amop_pending_pushes", "amop_awaited_answers"];
    let [requests, pushes, answers] = waiting.map(|name| rates.now.sum(name));
    let _ = writeln!(
        text,
        "  waiting now                   requests {requests}  pushes {pushes}  answers of nodes {answers}  in queues {}",
        bytes(rates.now.sum("amop_queues_bytes"))
    );
}

fn show_trouble(text: &mut String, rates: &Rates<'_>) {
    let is_trouble = |name: &str| name.ends_with("_total") && TROUBLE.iter().any(|part| name.contains(part));
    let growing: Vec<_> = rates
        .now
        .0
        .keys()
        .filter(|name| is_trouble(name))
        .filter_map(|name| {
            let grown = rates.now.sum(name) - rates.before.sum(name);
            (grown > 0.0).then_some((grown, name))
        })
        .collect();
    if !growing.is_empty() {
        text.push_str("\nwhat did not go as it should\n");
        let columns: [Column<'_, (f64, &String)>; 2] = [
            (numbers("since"), &|(grown, _)| format!("+{grown}")),
            (words("metric"), &|(_, name)| shown(name)),
        ];
        text.push_str(&table(&growing, &columns));
    }
}

fn show_fills(text: &mut String, metrics: &MetricValues) {
    text.push_str("\nnearest to their bound\n");
    let fills: Vec<_> = metrics.fills().into_iter().take(FILLS_SHOWN).collect();
    let columns: [Column<'_, Fill>; 5] = [
        (words(""), &|&(.., part)| if part >= FILL_WORTH_A_LOOK { "!" } else { "" }.to_owned()),
        (numbers("reached"), &|(.., part)| format!("{:.1} %", 100.0 * part)),
        (numbers("now"), &|(_, value, ..)| value.to_string()),
        (numbers("bound"), &|(_, _, bound, _)| bound.to_string()),
        (words("metric"), &|(name, ..)| shown(name)),
    ];
    text.push_str(&table(&fills, &columns));
}

/// Bytes a second in and out, and the link.
type LinkRates<'a> = (f64, f64, &'a Link);

fn show_links(text: &mut String, before: &Look, now: &Look, seconds: f64) {
    let names = names(&now.network);
    let identity = |link: &Link| (link.reactor, link.link, link.peer.clone(), link.up_since.clone());
    let earlier: BTreeMap<_, &Link> =
        before.network.links.iter().map(|link| (identity(link), link)).collect();
    let mut links: Vec<LinkRates<'_>> = now
        .network
        .links
        .iter()
        .map(|link| {
            let earlier = earlier.get(&identity(link));
            let rate = |now: u64, of: fn(&Link) -> u64| {
                now.saturating_sub(earlier.map_or(0, |link| of(link))) as f64 / seconds
            };
            (
                rate(link.received_bytes, |link| link.received_bytes),
                rate(link.sent_bytes, |link| link.sent_bytes),
                link,
            )
        })
        .collect();
    links.sort_by(|a, b| (b.0 + b.1).total_cmp(&(a.0 + a.1)).then_with(|| a.2.peer.cmp(&b.2.peer)));
    let _ = writeln!(text, "\nlinks to nodes: {}", links.len());
    links.truncate(LINKS_SHOWN);
    let columns: [Column<'_, LinkRates<'_>>; 8] = [
        (words("to"), &|(.., link)| short(&link.peer)),
        (words("state"), &|(.., link)| shown(&link.state)),
        (numbers("round trip"), &|(.., link)| millis(link.round_trip_smoothed_us)),
        (numbers("in"), &|(received, ..)| format!("{}/s", bytes(*received))),
        (numbers("out"), &|(_, sent, _)| format!("{}/s", bytes(*sent))),
        (numbers("queued"), &|(.., link)| bytes(link.queued_bytes as f64)),
        (words("address"), &|(.., link)| shown(&link.address)),
        (words("name"), &|(.., link)| name_of(&link.peer, &names)),
    ];
    text.push_str(&table(&links, &columns));
}

/// Nodes of FISCO BCOS 2.x, and what passes between the two networks.
fn show_peers_2x(text: &mut String, rates: &Rates<'_>, peers: &Page<Peer2x>) {
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let _ = writeln!(
        text,
        "\nnodes of FISCO BCOS 2.x: {}; per second: requests of theirs {}, multicasts {}, not answered there {}",
        peers.total,
        count("amop_peer_2x_requests_total"),
        count("amop_peer_2x_multicasts_total"),
        count("amop_peer_2x_not_answered_total"),
    );
    let state = |peer: &Peer2x| match shown(&peer.state).as_str() {
        "active" => "this node is its gateway".to_owned(),
        "spare" => "another node is its gateway".to_owned(),
        "silent" => "silent: see whether it runs".to_owned(),
        other => other.to_owned(),
    };
    let columns: [Column<'_, Peer2x>; 6] = [
        (words("address"), &|peer| shown(&peer.address)),
        (numbers("topics"), &|peer| peer.topics.to_string()),
        (numbers("waiting"), &|peer| format!("{} + {}", peer.pending_requests, peer.pending_pushes)),
        (numbers("queued"), &|peer| bytes(peer.queued_bytes as f64)),
        (numbers("dropped"), &|peer| peer.dropped_copies.to_string()),
        (words("state"), &state),
    ];
    text.push_str(&table(&peers.items, &columns));
}

/// Ledger nodes, and what passes between applications and them.
fn show_ledgers(text: &mut String, rates: &Rates<'_>, ledgers: &[LedgerNode]) {
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let (asked, took) = (rates.of("amop_ledger_seconds_count"), rates.of("amop_ledger_seconds_sum"));
    let mean = millis((asked > 0.0).then_some((1e6 * took / asked) as u64));
    let _ = writeln!(
        text,
        "\nledger nodes: {}; per second: requests {}, notices {}, outcome unknown {}, messages to them {:.1}, from them {}; an answer takes {mean}",
        ledgers.len(),
        count("amop_ledger_requests_total"),
        count("amop_ledger_notices_total"),
        count("amop_ledger_outcome_unknown_total"),
        rates.of("amop_ledger_unicasts_total") + rates.of("amop_ledger_multicasts_total"),
        count("amop_ledger_pushes_total"),
    );
    let state = |ledger: &LedgerNode| match &ledger.failure {
        Some(failure) => format!("not reached: {}; {}", shown(&failure.reason), shown(&failure.remedy)),
        None if ledger.dials == 0 => "not needed so far".to_owned(),
        None => "reached".to_owned(),
    };
    let columns: [Column<'_, LedgerNode>; 6] = [
        (words("address"), &|ledger| shown(&ledger.address)),
        (numbers("sessions"), &|ledger| ledger.sessions.to_string()),
        (numbers("waiting"), &|ledger| ledger.pending_requests.to_string()),
        (numbers("queued"), &|ledger| bytes(ledger.queued_bytes as f64)),
        (numbers("dials failed"), &|ledger| format!("{} of {}", ledger.dials_failed, ledger.dials)),
        (words("state"), &state),
    ];
    text.push_str(&table(ledgers, &columns));
}

fn show_sessions(text: &mut String, sessions: &Page<Session>) {
    let slow: Vec<_> = sessions.items.iter().filter(|session| session.queued_bytes > 0).collect();
    if slow.is_empty() {
        text.push_str("\nall sessions keep up\n");
        return;
    }
    text.push_str("\nsessions that do not keep up\n");
    let columns: [Column<'_, &Session>; 7] = [
        (words("session"), &|session| shown(&session.id)),
        (words("dialect"), &|session| shown(&session.dialect)),
        (numbers("queued"), &|session| bytes(session.queued_bytes as f64)),
        (numbers("requests"), &|session| session.pending_requests.to_string()),
        (numbers("pushes"), &|session| session.pending_pushes.to_string()),
        (words("address"), &|session| shown(&session.address)),
        (words("subject"), &|session| shown(&session.subject)),
    ];
    text.push_str(&table(&slow, &columns));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP amop_sessions SDK sessions now.
# TYPE amop_sessions gauge
amop_sessions{reactor=\"0\"} 90
amop_sessions{reactor=\"1\"} 10
amop_sessions_max 100
amop_pending_requests{reactor=\"0\"} 5
amop_pending_requests{reactor=\"1\"} 30
amop_pending_requests_max 60
amop_request_seconds_bucket{le=\"+Inf\"} 7
amop_registry_nodes_known 1
amop_nodes_known_max 4
process_open_fds 2
process_max_fds +Inf
amop_closed_stalled_total{reactor=\"0\"} 3
# EOF
";

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
        let mut text = String::new();
        show_fills(&mut text, &metrics);
        assert!(text.contains("  !  100.0 %  100    100  amop_sessions\n"), "{text}");
    }

    #[test]
    fn what_grew_in_the_interval_is_trouble_and_what_stands_still_is_not() {
        let before = MetricValues::parse(TEXT).unwrap();
        let grown = TEXT.replace("total{reactor=\"0\"} 3", "total{reactor=\"0\"} 5");
        let now = MetricValues::parse(&grown).unwrap();
        let mut text = String::new();
        show_trouble(&mut text, &Rates { before: &before, now: &before, seconds: 2.0 });
        assert_eq!(text, "");
        let rates = Rates { before: &before, now: &now, seconds: 2.0 };
        show_trouble(&mut text, &rates);
        assert!(text.contains("+2  amop_closed_stalled_total"), "{text}");
        assert_eq!(rates.of("amop_closed_stalled_total"), 1.0);
    }

    #[test]
    fn what_is_no_list_of_figures_is_none() {
        for text in ["", "hello\n", "amop_sessions\n", "amop_sessions x\n", "other 1\n"] {
            assert!(MetricValues::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_interval_is_a_number_of_seconds_within_bounds() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "3601", "2s", ""] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
