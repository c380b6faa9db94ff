//! `/nodes`: the nodes that this one is linked with, of whatever kind, and the ledger nodes behind it.

use std::time::Instant;

use super::{
    Watched, json, ledgers,
    listing::{Field, Query},
    lists::{Clock, page},
    pages::NoPage,
};
use crate::{
    relay::{
        ReactorId,
        report::{LinkReport, NodeReport, PeerReport},
    },
    wire::NodeId,
};

/// A node, with what is known of its kind.
struct Row {
    kind: &'static str,
    id: Option<NodeId>,
    address: String,
    agency: Option<String>,
    name: Option<String>,
    reactor: Option<ReactorId>,
    incarnation: Option<u64>,
    since: Option<Instant>,
    topics: Option<usize>,
}

const FIELDS: &[Field<Row>] = &[
    ("kind", |a, b| a.kind.cmp(b.kind)),
    ("id", |a, b| a.id.cmp(&b.id)),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("agency", |a, b| a.agency.cmp(&b.agency)),
    ("name", |a, b| a.name.cmp(&b.name)),
    ("reactor", |a, b| a.reactor.cmp(&b.reactor)),
    ("incarnation", |a, b| a.incarnation.cmp(&b.incarnation)),
    ("up_since", |a, b| a.since.cmp(&b.since)),
    ("topics", |a, b| a.topics.cmp(&b.topics)),
];

fn neighbour(node: NodeReport) -> Row {
    Row {
        kind: "node",
        id: Some(node.id),
        address: node.address,
        agency: Some(node.agency),
        name: Some(node.name),
        reactor: Some(node.reactor),
        incarnation: Some(node.incarnation),
        since: Some(node.since),
        topics: Some(node.topics),
    }
}

fn node_2x(link: &LinkReport) -> Option<Row> {
    let PeerReport::Node2x(peer) = &link.peer else { return None };
    Some(Row {
        kind: "node_2x",
        id: Some(peer.id),
        address: link.address.clone(),
        agency: Some(peer.agency.clone()),
        name: Some(peer.name.clone()),
        reactor: Some(link.reactor),
        incarnation: None,
        since: Some(link.since),
        topics: Some(peer.topics),
    })
}

fn ledger(node: json::LedgerNode) -> Row {
    Row {
        kind: "ledger",
        id: None,
        address: node.address,
        agency: None,
        name: None,
        reactor: None,
        incarnation: None,
        since: None,
        topics: None,
    }
}

pub(super) async fn nodes(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    let query = Query::parse(query, FIELDS)?;
    let neighbours = watched.ask_registry(|registry| registry.report_nodes()).await?;
    let (links, clock) = (watched.links().await?, Clock::now());
    let mut rows: Vec<Row> = neighbours.into_iter().map(neighbour).collect();
    rows.extend(links.iter().filter_map(node_2x));
    rows.extend(ledgers::accounts(watched, &links, &clock).into_iter().map(ledger));
    let total = rows.len();
    let show = |row: Row| json::LinkedNode {
        kind: row.kind.into(),
        id: row.id.map(|id| id.to_hex()),
        address: row.address,
        agency: row.agency,
        name: row.name,
        reactor: row.reactor.map(|reactor| reactor.0),
        incarnation: row.incarnation,
        up_since: row.since.map(|since| clock.show(since)),
        topics: row.topics,
    };
    Ok(page(total, query.page(rows).into_iter().map(show)))
}
