//! The lists: what is asked of whom, and how it is shown.

use std::{
    cmp::Ordering,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Watched,
    ask::Unanswered,
    json,
    listing::{Field, NAMED_MAX, Query},
    pages::NoPage,
};
use crate::{
    relay::{
        report::{
            LedgerState, LinkLoad, LinkReport, NodeLinkState, PeerReport, SessionLedgerReport, SessionReport,
        },
        snapshot::{NodeRef, TopicEntry},
    },
    supervise::blocking,
    wire::Topic,
};

pub(super) fn page<T: Serialize>(total: usize, items: impl Iterator<Item = T>) -> Vec<u8> {
    shown(&json::Page { total, items: items.collect() })
}

/// What is said, as JSON.
pub(super) fn shown(said: &impl Serialize) -> Vec<u8> {
    // Serialising our own types into memory cannot fail.
    serde_json::to_vec(said).unwrap_or_default()
}

fn session(link: &LinkReport) -> Option<&SessionReport> {
    match &link.peer {
        PeerReport::Session(session) => Some(session),
        PeerReport::Node { .. } | PeerReport::Ledger { .. } | PeerReport::Node2x(_) => None,
    }
}

fn dialect(session: &SessionReport) -> &'static str {
    if session.is_3x { "3.x" } else { "2.x" }
}

/// How the sessions of two links compare.
fn compare<K: Ord>(a: &LinkReport, b: &LinkReport, key: fn(&SessionReport) -> K) -> Ordering {
    session(a).map(key).cmp(&session(b).map(key))
}

const SESSION_FIELDS: &[Field<LinkReport>] = &[
    ("id", |a, b| compare(a, b, |session| session.id)),
    ("reactor", |a, b| a.reactor.cmp(&b.reactor)),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("subject", |a, b| session(a).map(|one| &one.subject).cmp(&session(b).map(|one| &one.subject))),
    ("dialect", |a, b| session(a).map(dialect).cmp(&session(b).map(dialect))),
    ("connected_since", |a, b| a.since.cmp(&b.since)),
    ("topics", |a, b| compare(a, b, |session| session.topics)),
    ("queued_bytes", |a, b| a.load.queued_bytes.cmp(&b.load.queued_bytes)),
    ("pending_requests", |a, b| compare(a, b, |session| session.pending_requests)),
    ("pending_pushes", |a, b| compare(a, b, |session| session.pending_pushes)),
    ("waiting_requests", |a, b| compare(a, b, |session| session.waiting_requests)),
    ("dropped_copies", |a, b| compare(a, b, |session| session.dropped_copies)),
    ("ledger", |a, b| compare(a, b, |session| session.ledger.map(|ledger| ledger_state(ledger.state)))),
    ("ledger_requests", |a, b| compare(a, b, |session| session.ledger.map(|ledger| ledger.pending_requests))),
    ("ledger_filters", |a, b| compare(a, b, |session| session.ledger.map(|ledger| ledger.filters))),
    ("ledger_topics", |a, b| compare(a, b, |session| session.ledger.map(|ledger| ledger.topics))),
];

fn ledger_state(state: LedgerState) -> &'static str {
    match state {
        LedgerState::Idle => "idle",
        LedgerState::Dialling => "dialling",
        LedgerState::Pausing => "pausing",
        LedgerState::Greeting => "greeting",
        LedgerState::Up => "up",
    }
}

/// The sessions of applications.
pub(super) async fn sessions(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    let query = Query::parse(query, SESSION_FIELDS)?;
    let mut links = watched.links().await?;
    links.retain(|link| session(link).is_some());
    let (total, clock) = (links.len(), Clock::now());
    let show = |link: LinkReport| {
        let PeerReport::Session(session) = link.peer else { return None };
        let ledger = |of: fn(SessionLedgerReport) -> usize| session.ledger.map(of);
        Some(json::Session {
            id: session.id.0.to_string(),
            reactor: link.reactor.0,
            address: link.address,
            dialect: dialect(&session).into(),
            subject: session.subject,
            connected_since: clock.show(link.since),
            topics: session.topics,
            queued_bytes: link.load.queued_bytes,
            pending_requests: session.pending_requests,
            pending_pushes: session.pending_pushes,
            waiting_requests: session.waiting_requests,
            dropped_copies: session.dropped_copies,
            ledger: session.ledger.map(|ledger| ledger_state(ledger.state).into()),
            ledger_requests: ledger(|ledger| ledger.pending_requests),
            ledger_filters: ledger(|ledger| ledger.filters),
            ledger_topics: ledger(|ledger| ledger.topics),
        })
    };
    Ok(page(total, query.page(links).into_iter().filter_map(show)))
}

pub(super) fn show_link(link: LinkReport, clock: &Clock) -> json::Link {
    let (kind, state) = (kind(&link).into(), state(&link).into());
    let (peer, dialed, round_trip) = match &link.peer {
        PeerReport::Session(session) => (session.id.0.to_string(), None, None),
        PeerReport::Ledger { session, .. } => (session.0.to_string(), Some(true), None),
        PeerReport::Node { id, dialed, round_trip, .. } => (id.to_hex(), Some(*dialed), *round_trip),
        PeerReport::Node2x(peer) => (peer.id.to_hex(), Some(peer.dialed), None),
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
        PeerReport::Session(_) | PeerReport::Ledger { .. } | PeerReport::Node2x(_) => None,
    }
}

fn kind(link: &LinkReport) -> &'static str {
    match link.peer {
        PeerReport::Session(_) => "session",
        PeerReport::Node { .. } => "node",
        PeerReport::Ledger { .. } => "ledger",
        PeerReport::Node2x(_) => "node_2x",
    }
}

pub(super) fn state(link: &LinkReport) -> &'static str {
    match &link.peer {
        _ if link.load.is_ending => "ending",
        PeerReport::Session(_) | PeerReport::Node { state: NodeLinkState::Active, .. } => "active",
        PeerReport::Ledger { state: LedgerState::Up, .. } => "active",
        PeerReport::Node { state: NodeLinkState::Greeting, .. } | PeerReport::Ledger { .. } => "greeting",
        PeerReport::Node { state: NodeLinkState::Spare, .. } => "spare",
        PeerReport::Node2x(peer) if peer.is_silent => "silent",
        PeerReport::Node2x(peer) if peer.is_gateway => "active",
        // Another node passes its messages.
        PeerReport::Node2x(_) => "spare",
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

/// The links of all kinds.
pub(super) async fn links(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
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
pub(super) async fn topics(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
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
