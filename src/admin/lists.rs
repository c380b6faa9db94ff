//! The lists: what is asked of whom, and how it is shown.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::oneshot;

use super::{
    RegistryRequest, Watched,
    listing::{Field, NAMED_MAX, Query, QueryError},
};
use crate::{
    clock,
    engine::LinkReport,
    relay::{
        ReactorId,
        report::{NodeLinkState, NodeReport, PeerReport},
        snapshot::{NodeRef, TopicEntry},
    },
    supervise::blocking,
    wire::Topic,
};

/// How long a reactor or the registry may take to answer.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a list is not given.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("{0}")]
    Query(#[from] QueryError),
    #[error("{0} does not answer; see /livez")]
    Unanswered(String),
}

/// A page of a list.
#[derive(Serialize)]
struct Page<T> {
    /// How many items there are, shown or not.
    total: usize,
    items: Vec<T>,
}

fn json<T: Serialize>(total: usize, items: impl Iterator<Item = T>) -> Vec<u8> {
    // Serialising our own rows into memory cannot fail.
    serde_json::to_vec(&Page { total, items: items.collect() }).unwrap_or_default()
}

#[derive(Serialize)]
struct NodeItem<'a> {
    id: String,
    address: &'a str,
    agency: &'a str,
    name: &'a str,
    reactor: u16,
    incarnation: u64,
    up_since: String,
    topics: usize,
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
    let nodes = neighbours(watched).await?;
    let (total, clock) = (nodes.len(), Clock::now());
    let page = query.page(nodes);
    Ok(json(
        total,
        page.iter().map(|node| NodeItem {
            id: node.id.to_hex(),
            address: &node.address,
            agency: &node.agency,
            name: &node.name,
            reactor: node.reactor.0,
            incarnation: node.incarnation,
            up_since: clock.show(node.since),
            topics: node.topics,
        }),
    ))
}

/// Asks the registry.
pub(super) async fn neighbours(watched: &Watched) -> Result<Vec<NodeReport>, ListError> {
    let (reply, answer) = oneshot::channel();
    let unanswered = || ListError::Unanswered("the registry".to_owned());
    watched.registry.try_send(RegistryRequest::Nodes(reply)).map_err(|_| unanswered())?;
    answered(answer).await.ok_or_else(unanswered)
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

#[derive(Serialize)]
struct SessionItem<'a> {
    /// As text: it has more digits than JSON's readers keep of a number.
    id: String,
    reactor: u16,
    address: &'a str,
    subject: &'a str,
    connected_since: String,
    topics: usize,
    queued_bytes: usize,
    pending_requests: usize,
    pending_pushes: usize,
    waiting_requests: usize,
    dropped_copies: u64,
}

const SESSION_FIELDS: &[Field<Session>] = &[
    ("id", |a, b| a.id.cmp(&b.id)),
    ("reactor", |a, b| a.link.reactor.cmp(&b.link.reactor)),
    ("address", |a, b| a.link.link.address.cmp(&b.link.link.address)),
    ("subject", |a, b| a.subject.cmp(&b.subject)),
    ("connected_since", |a, b| a.link.link.since.cmp(&b.link.link.since)),
    ("topics", |a, b| a.topics.cmp(&b.topics)),
    ("queued_bytes", |a, b| a.link.queued_bytes.cmp(&b.link.queued_bytes)),
    ("pending_requests", |a, b| a.pending_requests.cmp(&b.pending_requests)),
    ("pending_pushes", |a, b| a.pending_pushes.cmp(&b.pending_pushes)),
    ("waiting_requests", |a, b| a.waiting_requests.cmp(&b.waiting_requests)),
    ("dropped_copies", |a, b| a.dropped_copies.cmp(&b.dropped_copies)),
];

/// The sessions of applications.
pub(super) async fn sessions(watched: &Watched, query: &str) -> Result<Vec<u8>, ListError> {
    let query = Query::parse(query, SESSION_FIELDS)?;
    let session = |mut link: LinkReport| match &mut link.link.peer {
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
    let sessions: Vec<Session> = all_links(watched).await?.into_iter().filter_map(session).collect();
    let (total, clock) = (sessions.len(), Clock::now());
    let page = query.page(sessions);
    Ok(json(
        total,
        page.iter().map(|session| SessionItem {
            id: session.id.to_string(),
            reactor: session.link.reactor.0,
            address: &session.link.link.address,
            subject: &session.subject,
            connected_since: clock.show(session.link.link.since),
            topics: session.topics,
            queued_bytes: session.link.queued_bytes,
            pending_requests: session.pending_requests,
            pending_pushes: session.pending_pushes,
            waiting_requests: session.waiting_requests,
            dropped_copies: session.dropped_copies,
        }),
    ))
}

#[derive(Serialize)]
pub(super) struct LinkItem<'a> {
    reactor: u16,
    /// The link's place in its reactor's table.
    link: u32,
    kind: &'static str,
    /// A session's number, or a node's id.
    peer: String,
    address: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dialed: Option<bool>,
    /// Of a node link, once it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_smoothed_us: Option<u64>,
    received_frames: u64,
    received_bytes: u64,
    sent_frames: u64,
    sent_bytes: u64,
    queued_bytes: usize,
    up_since: String,
}

impl<'a> LinkItem<'a> {
    pub(super) fn new(link: &'a LinkReport, clock: &Clock) -> Self {
        let (peer, dialed, round_trip) = match &link.link.peer {
            PeerReport::Session { id, .. } => (id.0.to_string(), None, None),
            PeerReport::Node { id, dialed, round_trip, .. } => (id.to_hex(), Some(*dialed), *round_trip),
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            reactor: link.reactor.0,
            link: link.link.key.index,
            kind: kind(link),
            peer,
            address: &link.link.address,
            state: state(link),
            dialed,
            round_trip_us: round_trip.map(|known| micros(known.last)),
            round_trip_smoothed_us: round_trip.map(|known| micros(known.smoothed)),
            received_frames: link.traffic.received_frames,
            received_bytes: link.traffic.received_bytes,
            sent_frames: link.traffic.sent_frames,
            sent_bytes: link.traffic.sent_bytes,
            queued_bytes: link.queued_bytes,
            up_since: clock.show(link.link.since),
        }
    }
}

/// The time by which links are sorted; those that have none come first.
fn round_trip(link: &LinkReport) -> Option<Duration> {
    match &link.link.peer {
        PeerReport::Node { round_trip, .. } => round_trip.map(|known| known.smoothed),
        PeerReport::Session { .. } => None,
    }
}

fn kind(link: &LinkReport) -> &'static str {
    match link.link.peer {
        PeerReport::Session { .. } => "session",
        PeerReport::Node { .. } => "node",
    }
}

fn state(link: &LinkReport) -> &'static str {
    match &link.link.peer {
        _ if link.ending => "ending",
        PeerReport::Session { .. } | PeerReport::Node { state: NodeLinkState::Active, .. } => "active",
        PeerReport::Node { state: NodeLinkState::Greeting, .. } => "greeting",
        PeerReport::Node { state: NodeLinkState::Spare, .. } => "spare",
    }
}

const LINK_FIELDS: &[Field<LinkReport>] = &[
    ("link", |a, b| (a.link.key.index, a.reactor).cmp(&(b.link.key.index, b.reactor))),
    ("reactor", |a, b| a.reactor.cmp(&b.reactor)),
    ("kind", |a, b| kind(a).cmp(kind(b))),
    ("address", |a, b| a.link.address.cmp(&b.link.address)),
    ("state", |a, b| state(a).cmp(state(b))),
    ("queued_bytes", |a, b| a.queued_bytes.cmp(&b.queued_bytes)),
    ("up_since", |a, b| a.link.since.cmp(&b.link.since)),
    ("round_trip_smoothed_us", |a, b| round_trip(a).cmp(&round_trip(b))),
    ("received_bytes", |a, b| a.traffic.received_bytes.cmp(&b.traffic.received_bytes)),
    ("sent_bytes", |a, b| a.traffic.sent_bytes.cmp(&b.traffic.sent_bytes)),
];

/// The links of both kinds.
pub(super) async fn links(watched: &Watched, query: &str) -> Result<Vec<u8>, ListError> {
    let query = Query::parse(query, LINK_FIELDS)?;
    let links = all_links(watched).await?;
    let (total, clock) = (links.len(), Clock::now());
    let page = query.page(links);
    Ok(json(total, page.iter().map(|link| LinkItem::new(link, &clock))))
}

type TopicRow<'a> = (&'a Topic, &'a TopicEntry);

fn local_sessions(entry: &TopicEntry) -> u64 {
    entry.reactors.iter().map(|&(_, count)| u64::from(count)).sum()
}

fn remote_sessions(entry: &TopicEntry) -> u64 {
    entry.nodes.iter().map(|&(_, count)| u64::from(count)).sum()
}

#[derive(Serialize)]
struct TopicItem<'a> {
    name: &'a str,
    local_sessions: u64,
    remote_sessions: u64,
    nodes_total: usize,
    nodes: Vec<TopicNodeItem>,
}

#[derive(Serialize)]
struct TopicNodeItem {
    id: String,
    sessions: u32,
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
        let page = query.page(snapshot.all_topics().collect());
        let node =
            |(node, sessions): &(NodeRef, u32)| TopicNodeItem { id: node.id.to_hex(), sessions: *sessions };
        let mut named = NAMED_MAX;
        Ok(json(
            snapshot.topics(),
            page.into_iter().map(|(name, entry)| {
                let nodes: Vec<TopicNodeItem> = entry.nodes.iter().take(named).map(node).collect();
                named -= nodes.len();
                TopicItem {
                    name: name.as_str(),
                    local_sessions: local_sessions(entry),
                    remote_sessions: remote_sessions(entry),
                    nodes_total: entry.nodes.len(),
                    nodes,
                }
            }),
        ))
    });
    list.await.unwrap_or_else(|_| Err(ListError::Unanswered("the topic table".to_owned())))
}

/// Asks all reactors, page by page.
pub(super) async fn all_links(watched: &Watched) -> Result<Vec<LinkReport>, ListError> {
    let mut links = Vec::new();
    for reactor in (0..watched.shared.reactors).map(ReactorId) {
        let mut next = Some(0);
        while let Some(from) = next {
            let (reply, answer) = oneshot::channel();
            let reply = Box::new(move |page| {
                // Who asked may be gone.
                let _ = reply.send(page);
            });
            watched.engine.report_links(reactor, from, reply);
            let page = answered(answer).await;
            let page = page.ok_or_else(|| ListError::Unanswered(format!("reactor {}", reactor.0)))?;
            links.extend(page.links);
            next = page.next;
        }
    }
    Ok(links)
}

pub(super) async fn answered<T>(answer: oneshot::Receiver<T>) -> Option<T> {
    clock::timeout(ANSWER_TIME_MAX, answer).await?.ok()
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
