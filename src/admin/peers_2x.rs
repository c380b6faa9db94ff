//! `/peers_2x`: the nodes of FISCO BCOS 2.x that this one is linked with, and what passes between them.

use super::{
    Watched, json,
    listing::{Field, Query},
    lists::{self, Clock, page},
    pages::NoPage,
};
use crate::relay::report::{LinkReport, Peer2xReport, PeerReport};

fn of(link: &LinkReport) -> Option<&Peer2xReport> {
    match &link.peer {
        PeerReport::Node2x(peer) => Some(peer),
        _ => None,
    }
}

const FIELDS: &[Field<LinkReport>] = &[
    ("id", |a, b| of(a).map(|one| one.id).cmp(&of(b).map(|one| one.id))),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("state", |a, b| lists::state(a).cmp(lists::state(b))),
    ("up_since", |a, b| a.since.cmp(&b.since)),
    ("topics", |a, b| of(a).map(|one| one.topics).cmp(&of(b).map(|one| one.topics))),
    ("pending_requests", |a, b| {
        of(a).map(|one| one.pending_requests).cmp(&of(b).map(|one| one.pending_requests))
    }),
    ("pending_pushes", |a, b| of(a).map(|one| one.pending_pushes).cmp(&of(b).map(|one| one.pending_pushes))),
    ("dropped_copies", |a, b| of(a).map(|one| one.dropped_copies).cmp(&of(b).map(|one| one.dropped_copies))),
    ("queued_bytes", |a, b| a.load.queued_bytes.cmp(&b.load.queued_bytes)),
    ("received_bytes", |a, b| a.load.received_bytes.cmp(&b.load.received_bytes)),
    ("sent_bytes", |a, b| a.load.sent_bytes.cmp(&b.load.sent_bytes)),
];

pub(super) async fn peers_2x(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    let query = Query::parse(query, FIELDS)?;
    let mut links = watched.links().await?;
    links.retain(|link| of(link).is_some());
    let (total, clock) = (links.len(), Clock::now());
    let show = |link: LinkReport| {
        let peer = of(&link)?;
        Some(json::Peer2x {
            id: peer.id.to_hex(),
            address: link.address.clone(),
            state: lists::state(&link).into(),
            dialed: peer.dialed,
            topics: peer.topics,
            pending_requests: peer.pending_requests,
            pending_pushes: peer.pending_pushes,
            dropped_copies: peer.dropped_copies,
            queued_bytes: link.load.queued_bytes,
            received_bytes: link.load.received_bytes,
            sent_bytes: link.load.sent_bytes,
            up_since: clock.show(link.since),
        })
    };
    Ok(page(total, query.page(links).into_iter().filter_map(show)))
}
