//! `/ledgers`: the ledger nodes of the configuration, who is connected to each, and why one is not reached.

use super::{
    Watched, json,
    listing::{Field, Query},
    lists::{Clock, page},
    pages::NoPage,
};
use crate::{
    door::LedgerNode,
    relay::report::{LinkReport, PeerReport},
};

const LEDGER_FIELDS: &[Field<json::LedgerNode>] = &[
    ("number", |a, b| a.number.cmp(&b.number)),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("sessions", |a, b| a.sessions.cmp(&b.sessions)),
    ("pending_requests", |a, b| a.pending_requests.cmp(&b.pending_requests)),
    ("received_bytes", |a, b| a.received_bytes.cmp(&b.received_bytes)),
    ("sent_bytes", |a, b| a.sent_bytes.cmp(&b.sent_bytes)),
    ("messages_sent", |a, b| a.messages_sent.cmp(&b.messages_sent)),
    ("messages_received", |a, b| a.messages_received.cmp(&b.messages_received)),
    ("dials_failed", |a, b| a.dials_failed.cmp(&b.dials_failed)),
];

pub(super) async fn ledgers(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    let query = Query::parse(query, LEDGER_FIELDS)?;
    let links = if watched.ledger_nodes.is_empty() { Vec::new() } else { watched.links().await? };
    let nodes = accounts(watched, &links, &Clock::now());
    Ok(page(nodes.len(), query.page(nodes).into_iter()))
}

/// The ledger nodes, with what the links of this node are to each.
pub(super) fn accounts(watched: &Watched, links: &[LinkReport], clock: &Clock) -> Vec<json::LedgerNode> {
    let nodes = watched.ledger_nodes.iter().enumerate();
    let mut nodes: Vec<_> = nodes.map(|(number, node)| begin(number, node, clock)).collect();
    for (number, node) in nodes.iter_mut().enumerate() {
        let of_reactors =
            || watched.shared.ledger_counters.iter().filter_map(|counters| counters.get(number));
        node.messages_sent = of_reactors().map(|counters| counters.messages_sent.get()).sum();
        node.messages_received = of_reactors().map(|counters| counters.messages_received.get()).sum();
    }
    links.iter().for_each(|link| add(&mut nodes, link));
    nodes
}

fn begin(number: usize, node: &LedgerNode, clock: &Clock) -> json::LedgerNode {
    let failure = node.failure.load_full().map(|failure| json::LedgerFailure {
        at: clock.show(failure.at),
        cause: failure.cause.into(),
        reason: failure.reason.clone(),
        remedy: failure.remedy.to_owned(),
    });
    json::LedgerNode {
        number,
        address: node.address.clone(),
        sessions: 0,
        pending_requests: 0,
        received_bytes: 0,
        sent_bytes: 0,
        queued_bytes: 0,
        messages_sent: 0,
        messages_received: 0,
        dials: node.dials.get(),
        dials_failed: node.dials_failed.get(),
        failure,
    }
}

/// Adds a link to the account of the ledger node that it leads to, if it leads to one.
fn add(nodes: &mut [json::LedgerNode], link: &LinkReport) {
    let PeerReport::Ledger { node, pending_requests, .. } = link.peer else { return };
    let Some(node) = nodes.get_mut(usize::from(node)) else { return };
    node.sessions += 1;
    node.pending_requests += pending_requests;
    node.received_bytes += link.load.received_bytes;
    node.sent_bytes += link.load.sent_bytes;
    node.queued_bytes += link.load.queued_bytes;
}
