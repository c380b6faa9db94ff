//! The lists: what is asked of whom, and how it is shown.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Watched,
    ask::Unanswered,
    json,
    listing::{Field, NAMED_MAX, Query, QueryError},
};
use crate::{
    relay::{
        report::{LinkLoad, LinkReport, NodeLinkState, NodeReport, PeerReport},
        snapshot::{NodeRef, TopicEntry},
    },
    supervise::blocking,
    wire::Topic,
};

/// Why a list is not given.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("{0}")]
    Query(#[from] QueryError),
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
}

fn page<T: Serialize>(total: usize, items: impl Iterator<Item = T>) -> Vec<u8> {
    shown(&json::Page { total, items: items.collect() })
}

/// What is said, as JSON.
pub(super) fn shown(said: &impl Serialize) -> Vec<u8> {
    // Serialising our own types into memory cannot fail.
    serde_json::to_vec(said).unwrap_or_default()
}

const NODE_FIELDS: &[Field<NodeReport>] = &[
    ("id", |a, b| a.id.cmp(&b.id)),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("agency", |a, b| a.agency.cmp(&b.agency)),
    ("name", |a, b| a.name.cmp(&b.name)),
    ("reactor", |a, b| a.reactor.cmp(&b.reactor)),
    ("incarnation", |a, b| a.incarnation.cmp(&b.incarnation)),
    ("up_since", |a, b| a.since.cmp(&b.since)),
    ("topics", |a, b| a.topics.cmp(&b.topics)),
];

/// The neighbours, as the registry knows them.
pub(super) async fn nodes(watched: &Watched, query: &str) -> Result<Vec<u8>, ListError> {
    let query = Query::parse(query, NODE_FIELDS)?;
    let nodes = watched.ask_registry(|registry| registry.report_nodes()).await?;
    let (total, clock) = (nodes.len(), Clock::now());
    let nodes = query.page(nodes);
    Ok(page(
        total,
        nodes.into_iter().map(|node| json::Neighbour {
            id: node.id.to_hex(),
            address: node.address,
            agency: node.agency,
            name: node.name,
            reactor: node.reactor.0,
            incarnation: node.incarnation,
            up_since: clock.show(node.since),
            topics: node.topics,
        }),
    ))
}

/// A session, with what its link tells.
struct Session {
    link: LinkReport,
    id: u64,
    subject: String,
    topics: usize,
    pending_requests: usize,
    pending_pushes: usize,
    waiting_requests: usize,
    dropped_copies: u64,
}

const SESSION_FIELDS: &[Field<Session>] = &[
    ("id", |a, b| a.id.cmp(&b.id)),
    ("reactor", |a, b| a.link.reactor.cmp(&b.link.reactor)),
    ("address", |a, b| a.link.address.cmp(&b.link.address)),
    ("subject", |a, b| a.subject.cmp(&b.subject)),
    ("connected_since", |a, b| a.link.since.cmp(&b.link.since)),
    ("topics", |a, b| a.topics.cmp(&b.topics)),
    ("queued_bytes", |a, b| a.link.load.queued_bytes.cmp(&b.link.load.queued_bytes)),
    ("pending_requests", |a, b| a.pending_requests.cmp(&b.pending_requests)),
    ("pending_pushes", |a, b| a.pending_pushes.cmp(&b.pending_pushes)),
    ("waiting_requests", |a, b| a.waiting_requests.cmp(&b.waiting_requests)),
    ("dropped_copies", |a, b| a.dropped_copies.cmp(&b.dropped_copies)),
];

/// The sessions of applications.
pub(super) async fn sessions(watched: &Watched, query: &str) -> Result<Vec<u8>, ListError> {
    let query = Query::parse(query, SESSION_FIELDS)?;
    let session = |mut link: LinkReport| match &mut link.peer {
        PeerReport::Session {
            id,
            subject,
            topics,
            pending_requests,
            pending_pushes,
            waiting_requests,
            dropped_copies,
        } => Some(Session {
            id: id.0,
            subject: std::mem::take(subject),
            topics: *topics,
            pending_requests: *pending_requests,
            pending_pushes: *pending_pushes,
            waiting_requests: *waiting_requests,
            dropped_copies: *dropped_copies,
            link,
        }),
        PeerReport::Node { .. } => None,
    };
    let sessions: Vec<Session> = watched.links().await?.into_iter().filter_map(session).collect();
    let (total, clock) = (sessions.len(), Clock::now());
    let sessions = query.page(sessions);
    Ok(page(
        total,
        sessions.into_iter().map(|session| json::Session {
            id: session.id.to_string(),
            reactor: session.link.reactor.0,
            connected_since: clock.show(session.link.since),
            address: session.link.address,
            subject: session.subject,
            topics: session.topics,
            queued_bytes: session.link.load.queued_bytes,
            pending_requests: session.pending_requests,
            pending_pushes: session.pending_pushes,
            waiting_requests: session.waiting_requests,
            dropped_copies: session.dropped_copies,
        }),
    ))
}

pub(super) fn show_link(link: LinkReport, clock: &Clock) -> json::Link {
    let (kind, state) = (kind(&link).into(), state(&link).into());
    let (peer, dialed, round_trip) = match &link.peer {
        PeerReport::Session { id, .. } => (id.0.to_string(), None, None),
        PeerReport::Node { id, dialed, round_trip, .. } => (id.to_hex(), Some(*dialed), *round_trip),
    };
    let LinkLoad { queued_bytes, received_frames, received_bytes, sent_frames, sent_bytes, .. } = link.load;
    json::Link {
        reactor: link.reactor.0,
        link: link.key.index,
        kind,
        peer,
        address: link.address,
        state,
        dialed,
        round_trip_us: round_trip.map(|known| micros(known.last)),
        round_trip_smoothed_us: round_trip.map(|known| micros(known.smoothed)),
        received_frames,
        received_bytes,
        sent_frames,
        sent_bytes,
        queued_bytes,
        up_since: clock.show(link.since),
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The time by which links are sorted; those that have none come first.
fn round_trip(link: &LinkReport) -> Option<Duration> {
    match &link.peer {
        PeerReport::Node { round_trip, .. } => round_trip.map(|known| known.smoothed),
        PeerReport::Session { .. } => None,
    }
}

fn kind(link: &LinkReport) -> &'static str {
    match link.peer {
        PeerReport::Session { .. } => "session",
        PeerReport::Node { .. } => "node",
    }
}

fn state(link: &LinkReport) -> &'static str {
    match &link.peer {
        _ if link.load.is_ending => "ending",
        PeerReport::Session { .. } | PeerReport::Node { state: NodeLinkState::Active, .. } => "active",
        PeerReport::Node { state: NodeLinkState::Greeting, .. } => "greeting",
        PeerReport::Node { state: NodeLinkState::Spare, .. } => "spare",
    }
}

const LINK_FIELDS: &[Field<LinkReport>] = &[
    ("link", |a, b| (a.key.index, a.reactor).cmp(&(b.key.index, b.reactor))),
    ("reactor", |a, b| a.reactor.cmp(&b.reactor)),
    ("kind", |a, b| kind(a).cmp(kind(b))),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("state", |a, b| state(a).cmp(state(b))),
    ("queued_bytes", |a, b| a.load.queued_bytes.cmp(&b.load.queued_bytes)),
    ("up_since", |a, b| a.since.cmp(&b.since)),
    ("round_trip_smoothed_us", |a, b| round_trip(a).cmp(&round_trip(b))),
    ("received_bytes", |a, b| a.load.received_bytes.cmp(&b.load.received_bytes)),
    ("sent_bytes", |a, b| a.load.sent_bytes.cmp(&b.load.sent_bytes)),
];

/// The links of both kinds.
pub(super) async fn links(watched: &Watched, query: &str) -> Result<Vec<u8>, ListError> {
    let query = Query::parse(query, LINK_FIELDS)?;
    let links = watched.links().await?;
    let (total, clock) = (links.len(), Clock::now());
    let links = query.page(links);
    Ok(page(total, links.into_iter().map(|link| show_link(link, &clock))))
}

type TopicRow<'a> = (&'a Topic, &'a TopicEntry);

fn local_sessions(entry: &TopicEntry) -> u64 {
    entry.reactors.iter().map(|&(_, count)| u64::from(count)).sum()
}

fn remote_sessions(entry: &TopicEntry) -> u64 {
    entry.nodes.iter().map(|&(_, count)| u64::from(count)).sum()
}

fn topic_fields<'a>() -> [Field<TopicRow<'a>>; 4] {
    [
        ("name", |(a, _), (b, _)| a.cmp(b)),
        ("local_sessions", |(_, a), (_, b)| local_sessions(a).cmp(&local_sessions(b))),
        ("remote_sessions", |(_, a), (_, b)| remote_sessions(a).cmp(&remote_sessions(b))),
        ("nodes", |(_, a), (_, b)| a.nodes.len().cmp(&b.nodes.len())),
    ]
}

/// The topics that are routed, as shards know them.
pub(super) async fn topics(watched: &Watched, query: &str) -> Result<Vec<u8>, ListError> {
    let (snapshot, query) = (watched.shared.snapshot.load_full(), query.to_owned());
    // There may be a million: on a thread of its own, so that probes are answered meanwhile.
    let list = blocking(move || {
        let fields = topic_fields();
        let query = Query::parse(&query, &fields)?;
        let topics = query.page(snapshot.all_topics().collect());
        let node = |(node, sessions): &(NodeRef, u32)| json::TopicNode {
            id: node.id.to_hex(),
            hops: None,
            sessions: *sessions,
        };
        let mut named = NAMED_MAX;
        Ok(page(
            snapshot.topics(),
            topics.into_iter().map(|(name, entry)| {
                let nodes: Vec<_> = entry.nodes.iter().take(named).map(node).collect();
                named -= nodes.len();
                json::RoutedTopic {
                    name: name.as_str().to_owned(),
                    local_sessions: local_sessions(entry),
                    remote_sessions: remote_sessions(entry),
                    nodes_total: entry.nodes.len(),
                    nodes,
                }
            }),
        ))
    });
    list.await.unwrap_or_else(|_| Err(Unanswered("the topic table".into()).into()))
}

/// Shows moments of the monotonic clock as dates.
pub(super) struct Clock {
    instant: Instant,
    date: SystemTime,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self { instant: Instant::now(), date: SystemTime::now() }
    }

    pub(super) fn show(&self, moment: Instant) -> String {
        let date = self.date.checked_sub(self.instant.saturating_duration_since(moment));
        let date = OffsetDateTime::from(date.unwrap_or(SystemTime::UNIX_EPOCH));
        let seconds = date.replace_nanosecond(0).unwrap_or(date);
        seconds.format(&Rfc3339).unwrap_or_default()
    }

    /// How long before this clock was made a moment was, in microseconds; less than 0 after it.
    pub(super) fn before_us(&self, moment: Instant) -> i64 {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        match self.instant.checked_duration_since(moment) {
            Some(before) => micros(before),
            None => -micros(moment.duration_since(self.instant)),
        }
    }

    /// Shows such a moment, to the microsecond.
    pub(super) fn show_micros(&self, before_us: i64) -> String {
        let distance = Duration::from_micros(before_us.unsigned_abs());
        let date = match before_us > 0 {
            true => self.date.checked_sub(distance),
            false => self.date.checked_add(distance),
        };
        let date = OffsetDateTime::from(date.unwrap_or(SystemTime::UNIX_EPOCH));
        let micros = date.replace_nanosecond(date.microsecond() * 1_000).unwrap_or(date);
        micros.format(&Rfc3339).unwrap_or_default()
    }
}
