//! `amop net`: the whole network, as one node knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    process::ExitCode,
};

use clap::Args;

use super::{
    Failure,
    admin::{AdminArgs, get_json, get_text, parse, percent_encode},
    diagnostics::Diagnostic,
    help::examples,
    output::{OutputArgs, ended, print_line},
    status::Status,
    text::{Column, bytes, dot_string, millis, numbers, or_dash, quote_for_dot, short, table, words},
};
use crate::{
    admin::json::{
        Announcement, LedgerNode, Link, ListedNeighbour, Network, NetworkTopic, Node, Page, Standing,
        TopicNode,
    },
    escape::{shown, shown_json},
};

/// Nodes that are asked for; no node knows more.
const NODES_MAX: usize = 10_000;
/// Next hops that are shown of a node, and nodes of a topic.
const SHOWN_MAX: usize = 4;
/// Announcements that are shown.
const ANNOUNCEMENTS_SHOWN_MAX: usize = 16;

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = examples(
        &[
            ("amop net --admin 127.0.0.1:20300", "nodes, links, who is linked with whom"),
            ("amop net --admin 127.0.0.1:20300 --dot | dot -Tsvg > network.svg", ""),
            ("amop net --admin 127.0.0.1:20300 --topics --filter pay", "where the subscribers of topics are"),
            ("amop net --admin 127.0.0.1:20300 -o json | jq '.items[] | select(.standing == \"lost\")'", ""),
            ("amop net ping 68fcf240 --admin 127.0.0.1:20300", "the route to a node, and how long each hop takes"),
            ("amop net announce 'upgrade at 22:00' --admin 127.0.0.1:20300", ""),
        ],
        &[
            "The node needs [admin] listen_port. It knows all nodes by what each says of itself; names of its \
             neighbours only, and addresses of those and of nodes that tell theirs. Characters that a terminal \
             would obey are written as \\u{…}.",
        ],
    )
)]
pub(super) struct NetArgs {
    #[command(subcommand)]
    diagnostic: Option<Diagnostic>,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Print a drawing for Graphviz.
    #[arg(help_heading = "Output", long, conflicts_with_all = ["output", "json"])]
    dot: bool,
    /// Show topics, and where their subscribers are.
    #[arg(help_heading = "Topics", long)]
    topics: bool,
    /// Only topics whose names contain this.
    #[arg(
        help_heading = "Topics",
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        requires = "topics"
    )]
    filter: String,
    /// Topics at most, by name.
    #[arg(help_heading = "Topics", 
        long,
        value_name = "COUNT",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
        requires = "topics"
    )]
    limit: u32,
}

pub(super) fn run(args: &NetArgs) -> Result<ExitCode, Failure> {
    if let Some(diagnostic) = &args.diagnostic {
        return diagnostic.run();
    }
    let text = super::runtime()?.block_on(make(args))?;
    ended(print_line(text.trim_end()), Status::Done)
}

/// The path of what is known of the network, with the nearest nodes.
pub(super) fn network_path(nodes: usize) -> String {
    format!("/network?sort=hops&limit={nodes}")
}

async fn make(args: &NetArgs) -> Result<String, Failure> {
    let admin = args.admin.address()?;
    let path = if args.topics {
        format!("/network/topics?limit={}&filter={}", args.limit, percent_encode(&args.filter))
    } else {
        network_path(NODES_MAX)
    };
    let answer = get_text(admin, &path).await?;
    if args.output.is_json() {
        return Ok(shown_json(&answer));
    }
    if !args.topics {
        let network: Network = parse(admin, answer.as_bytes())?;
        return Ok(if args.dot { draw_network(&network) } else { show_network(&network) });
    }
    let topics: Page<NetworkTopic> = parse(admin, answer.as_bytes())?;
    // For the names of the nodes.
    let network: Network = get_json(admin, &network_path(NODES_MAX)).await?;
    let names = names(&network);
    Ok(if args.dot { draw_topics(&topics, &names) } else { show_topics(&topics, &names) })
}

/// Names of the nodes that have one, by id.
pub(super) fn names(network: &Network) -> BTreeMap<&str, &str> {
    let named = network.items.iter().filter_map(|node| Some((node.id.as_str(), node.name.as_deref()?)));
    named.filter(|(_, name)| !name.is_empty()).collect()
}

/// The name of a node, if it is known.
pub(super) fn name_of(id: &str, names: &BTreeMap<&str, &str>) -> String {
    names.get(id).map(|name| shown(name)).unwrap_or_default()
}

/// A node's short id, with its name where it is known.
fn label(id: &str, names: &BTreeMap<&str, &str>) -> String {
    names.get(id).map_or_else(|| short(id), |name| format!("{} ({})", short(id), shown(name)))
}

fn state(node: &Node) -> String {
    let mut state = match &node.lost_since {
        Some(since) => format!("lost since {}", shown(since)),
        None => match node.standing {
            Standing::Own => "own",
            Standing::Neighbour => "neighbour",
            Standing::Reachable => "reachable",
            Standing::OutOfReach => "out of reach",
            Standing::Lost => "lost",
            Standing::Other => "other",
        }
        .to_owned(),
    };
    if !node.admitted {
        state.push_str(", left out by the lists");
    } else if !node.routed && node.lost_since.is_none() {
        state.push_str(", gets no messages from here");
    }
    if !node.relays {
        state.push_str(", passes nothing on");
    }
    state
}

fn and_more(mut shown: Vec<String>, total: usize) -> String {
    if total > shown.len() {
        shown.push(format!("+{}", total - shown.len()));
    }
    shown.join(", ")
}

fn show_network(network: &Network) -> String {
    let names = names(network);
    let mut text = String::new();
    if let Some(own) = network.items.iter().find(|node| node.standing == Standing::Own) {
        let own = label(&own.id, &names);
        let (total, reachable) = (network.total, network.reachable);
        let _ =
            writeln!(text, "{total} nodes, as {own} knows them; others that can be reached: {reachable}\n");
    }
    let columns: [Column<'_, Node>; 10] = [
        (words("node"), &|node| short(&node.id)),
        (numbers("hops"), &|node| or_dash(node.hops)),
        (numbers("topics"), &|node| node.topics.to_string()),
        (numbers("neighbours"), &|node| node.neighbours_total.to_string()),
        (numbers("incarnation"), &|node| node.incarnation.to_string()),
        (numbers("seq"), &|node| node.seq.to_string()),
        (words("by way of"), &|node| {
            let via = node.next_hops.iter().take(SHOWN_MAX).map(|id| short(id)).collect();
            and_more(via, node.next_hops_total)
        }),
        (words("state"), &state),
        (words("address"), &|node| {
            or_dash(node.address.as_deref().or(node.advertised.as_deref()).map(shown))
        }),
        (words("name"), &|node| node.name.as_deref().map(shown).unwrap_or_default()),
    ];
    text.push_str(&table(&network.items, &columns));

    text.push_str("\nits links\n");
    let columns: [Column<'_, Link>; 13] = [
        (words("to"), &|link| short(&link.peer)),
        (words("state"), &|link| shown(&link.state)),
        (words("dialled"), &|link| or_dash(link.dialed.map(|here| if here { "here" } else { "there" }))),
        (numbers("round trip"), &|link| millis(link.round_trip_us)),
        (numbers("smoothed"), &|link| millis(link.round_trip_smoothed_us)),
        (numbers("frames in"), &|link| link.received_frames.to_string()),
        (numbers("bytes in"), &|link| bytes(link.received_bytes as f64)),
        (numbers("frames out"), &|link| link.sent_frames.to_string()),
        (numbers("bytes out"), &|link| bytes(link.sent_bytes as f64)),
        (numbers("queued"), &|link| bytes(link.queued_bytes as f64)),
        (words("up since"), &|link| shown(&link.up_since)),
        (words("address"), &|link| shown(&link.address)),
        (words("name"), &|link| name_of(&link.peer, &names)),
    ];
    text.push_str(&table(&network.links, &columns));

    if !network.ledgers.is_empty() {
        show_ledgers(&network.ledgers, &mut text);
    }
    show_peers_2x(network, &mut text);

    text.push_str("\nlinks of the network\n");
    let columns: [Column<'_, Edge<'_>>; 3] = [
        (words("node"), &|edge| short(edge.one)),
        (words("node"), &|edge| short(edge.other)),
        (words("state"), &|edge| match edge.agreed {
            true => "both say so".to_owned(),
            false => format!("only {} says so", short(edge.one)),
        }),
    ];
    text.push_str(&table(&edges(network), &columns));
    let hidden: usize =
        network.items.iter().map(|node| node.neighbours_total.saturating_sub(node.neighbours.len())).sum();
    if hidden > 0 {
        let _ = writeln!(text, "  and {hidden} neighbours that the node does not name");
    }
    show_announcements(&network.announcements, &mut text);
    text
}

/// The nodes of a ledger behind the node that tells.
fn show_ledgers(ledgers: &[LedgerNode], text: &mut String) {
    text.push_str("\nits ledger nodes\n");
    let columns: [Column<'_, LedgerNode>; 5] = [
        (numbers("number"), &|ledger| ledger.number.to_string()),
        (words("address"), &|ledger| shown(&ledger.address)),
        (numbers("sessions"), &|ledger| ledger.sessions.to_string()),
        (numbers("messages there"), &|ledger| ledger.messages_sent.to_string()),
        (numbers("from there"), &|ledger| ledger.messages_received.to_string()),
    ];
    text.push_str(&table(ledgers, &columns));
}

/// A node of FISCO BCOS 2.x, as the nodes of the network have it.
#[derive(Default)]
struct Attached {
    id: String,
    /// Those that are linked with it.
    nodes: Vec<String>,
    /// Who passes messages to and from it.
    gateway: Option<String>,
}

/// The nodes of FISCO BCOS 2.x that any node of the network is linked with.
fn show_peers_2x(network: &Network, text: &mut String) {
    let mut linked: BTreeMap<&str, Attached> = BTreeMap::new();
    for node in &network.items {
        for peer in &node.peers_2x {
            let attached = linked.entry(&peer.id).or_default();
            attached.id = short(&peer.id);
            attached.nodes.push(short(&node.id));
            if peer.gateway {
                attached.gateway = Some(short(&node.id));
            }
        }
    }
    if linked.is_empty() {
        return;
    }
    text.push_str("\nnodes of FISCO BCOS 2.x\n");
    let rows: Vec<Attached> = linked.into_values().collect();
    let columns: [Column<'_, Attached>; 3] = [
        (words("node"), &|one| one.id.clone()),
        (words("gateway"), &|one| one.gateway.clone().unwrap_or_else(|| "none".to_owned())),
        (words("linked with"), &|one| one.nodes.join(" ")),
    ];
    text.push_str(&table(&rows, &columns));
}

/// What operators have said, the latest first.
fn show_announcements(announcements: &[Announcement], text: &mut String) {
    if announcements.is_empty() {
        return;
    }
    text.push_str("\nannouncements\n");
    let latest = &announcements[..announcements.len().min(ANNOUNCEMENTS_SHOWN_MAX)];
    let columns: [Column<'_, Announcement>; 5] = [
        (words("came"), &|one| shown(&one.came)),
        (numbers("age"), &|one| age(one.age_ms)),
        (words("of"), &|one| short(&one.origin)),
        (words("name"), &|one| {
            let who = [shown(&one.name), shown(&one.agency)];
            who.into_iter().filter(|who| !who.is_empty()).collect::<Vec<_>>().join(", ")
        }),
        (words("text"), &|one| shown(&one.text)),
    ];
    text.push_str(&table(latest, &columns));
    if announcements.len() > latest.len() {
        let _ = writeln!(text, "  and {} older ones: see -o json", announcements.len() - latest.len());
    }
}

/// In the largest unit that leaves a whole number.
fn age(millis: u64) -> String {
    match millis / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

struct Edge<'a> {
    one: &'a str,
    other: &'a str,
    agreed: bool,
}

/// Each link that both ends list once, and each that one lists.
fn edges(network: &Network) -> Vec<Edge<'_>> {
    let mut seen = BTreeSet::new();
    let mut edges = Vec::new();
    for node in &network.items {
        for ListedNeighbour { id, agreed } in &node.neighbours {
            let (one, other) = (node.id.as_str(), id.as_str());
            if !agreed || seen.insert((one.min(other), one.max(other))) {
                edges.push(Edge { one, other, agreed: *agreed });
            }
        }
    }
    edges
}

fn draw_network(network: &Network) -> String {
    let names = names(network);
    let mut text = String::from("graph amop {\n  node [shape=box, style=rounded];\n");
    let known: BTreeSet<&str> = network.items.iter().map(|node| node.id.as_str()).collect();
    for node in &network.items {
        let label = match node.standing {
            Standing::Own | Standing::Neighbour | Standing::Reachable => label(&node.id, &names),
            _ => format!("{}: {}", label(&node.id, &names), state(node)),
        };
        let style = match node.standing {
            Standing::Own => ", style=\"rounded,bold\"",
            Standing::Neighbour | Standing::Reachable => "",
            _ => ", style=\"rounded,dashed\"",
        };
        let _ = writeln!(text, "  {} [label={}{style}];", dot_string(&node.id), quote_for_dot(&label));
    }
    let edges = edges(network);
    let unknown: BTreeSet<&str> =
        edges.iter().map(|edge| edge.other).filter(|id| !known.contains(id)).collect();
    for id in unknown {
        let _ = writeln!(text, "  {} [label={}, style=dotted];", dot_string(id), quote_for_dot(&short(id)));
    }
    let own = network.items.iter().find(|node| node.standing == Standing::Own).map(|node| node.id.as_str());
    let round_trip = |one: &str, other: &str| {
        let peer = if own == Some(one) { other } else { one };
        let is_own = own == Some(one) || own == Some(other);
        let link = network.links.iter().find(|link| is_own && link.peer == peer && link.state == "active")?;
        link.round_trip_smoothed_us
    };
    for Edge { one, other, agreed } in edges {
        let attributes = match (agreed, round_trip(one, other)) {
            (false, _) => " [style=dashed, dir=forward]".to_owned(),
            (true, Some(micros)) => format!(" [label={}]", quote_for_dot(&millis(Some(micros)))),
            (true, None) => String::new(),
        };
        let _ = writeln!(text, "  {} -- {}{attributes};", dot_string(one), dot_string(other));
    }
    text.push_str("}\n");
    text
}

fn where_to(node: &TopicNode, names: &BTreeMap<&str, &str>) -> String {
    let route = match node.hops {
        Some(0) => " here",
        Some(_) => "",
        None => " not reached",
    };
    format!("{}×{}{route}", label(&node.id, names), node.sessions)
}

fn show_topics(topics: &Page<NetworkTopic>, names: &BTreeMap<&str, &str>) -> String {
    let mut text = format!("{} topics\n\n", topics.total);
    let columns: [Column<'_, NetworkTopic>; 5] = [
        (numbers("subscribers"), &|topic| topic.sessions.to_string()),
        (numbers("nodes"), &|topic| topic.nodes_total.to_string()),
        (words("kind"), &|topic| shown(&topic.kind)),
        (words("where"), &|topic| {
            let nodes = topic.nodes.iter().take(SHOWN_MAX).map(|node| where_to(node, names)).collect();
            and_more(nodes, topic.nodes_total)
        }),
        (words("topic"), &|topic| shown(&topic.name)),
    ];
    text.push_str(&table(&topics.items, &columns));
    if topics.total > topics.items.len() {
        let _ = writeln!(text, "  and {} more: see --filter and --limit", topics.total - topics.items.len());
    }
    text
}

fn draw_topics(topics: &Page<NetworkTopic>, names: &BTreeMap<&str, &str>) -> String {
    let mut text = String::from("graph amop {\n  rankdir=LR;\n");
    let nodes: BTreeSet<&str> =
        topics.items.iter().flat_map(|topic| &topic.nodes).map(|node| node.id.as_str()).collect();
    for id in nodes {
        let _ = writeln!(
            text,
            "  {} [shape=box, style=rounded, label={}];",
            dot_string(id),
            quote_for_dot(&label(id, names))
        );
    }
    for (number, topic) in topics.items.iter().enumerate() {
        let _ = writeln!(text, "  topic{number} [shape=ellipse, label={}];", dot_string(&topic.name));
        for node in &topic.nodes {
            let _ =
                writeln!(text, "  topic{number} -- {} [label=\"{}\"];", dot_string(&node.id), node.sessions);
        }
    }
    text.push_str("}\n");
    text
}
