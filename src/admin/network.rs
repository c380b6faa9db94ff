//! The whole network, as this node knows it by the records of all nodes.

use std::{
    cell::OnceCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, binary_heap::PeekMut},
};

use super::{
    Watched,
    ask::Unanswered,
    json, ledgers,
    listing::{Field, NAMED_MAX, Query, QueryError, percent_decode},
    lists::{Clock, show_link, shown},
    pages::NoPage,
};
use crate::{
    relay::{
        report::{AnnouncementReport, KnownReport, LinkReport, NetworkReport, PeerReport, Reachability},
        settings::SESSIONS_MAX,
    },
    supervise::blocking,
    wire::{
        NodeId, TopicKind,
        state::{self, Entries, NodeTraits},
    },
};

/// Nodes with subscribers that are named for one topic; the nearest ones.
pub(super) const TOPIC_NODES_MAX: usize = 64;
/// Next hops that are named for one node.
pub(super) const NEXT_HOPS_MAX: usize = 16;
/// Topics that are kept beyond those that are wanted before the others are dropped.
const SURPLUS_MAX: usize = 1_024;

/// A node, with what its record adds up to, which is counted only where it is shown or sorted by: there may be
/// a million topics.
struct KnownRow<'a> {
    node: &'a KnownReport,
    topics: OnceCell<usize>,
    neighbours: OnceCell<usize>,
}

impl KnownRow<'_> {
    fn topics(&self) -> usize {
        *self.topics.get_or_init(|| self.node.entries.topics().count())
    }

    fn neighbours(&self) -> usize {
        *self.neighbours.get_or_init(|| self.node.entries.neighbours().count())
    }
}

/// Own first, then near before far, lost ones last.
fn distance(standing: &Reachability) -> u16 {
    match standing {
        Reachability::Own => 0,
        Reachability::Reachable { hops } => u16::from(*hops),
        Reachability::OutOfReach => u16::MAX - 1,
        Reachability::Lost { .. } => u16::MAX,
    }
}

fn hops(standing: &Reachability) -> Option<u8> {
    match standing {
        Reachability::Own => Some(0),
        Reachability::Reachable { hops } => Some(*hops),
        Reachability::OutOfReach | Reachability::Lost { .. } => None,
    }
}

fn known_fields<'a>() -> [Field<KnownRow<'a>>; 6] {
    [
        ("id", |a, b| a.node.id.cmp(&b.node.id)),
        ("hops", |a, b| distance(&a.node.standing).cmp(&distance(&b.node.standing))),
        ("topics", |a, b| a.topics().cmp(&b.topics())),
        ("neighbours", |a, b| a.neighbours().cmp(&b.neighbours())),
        ("incarnation", |a, b| a.node.incarnation.cmp(&b.node.incarnation)),
        ("seq", |a, b| a.node.seq.cmp(&b.node.seq)),
    ]
}

/// Runs what may take long on a thread of its own, so that probes are answered meanwhile.
async fn apart(make: impl FnOnce() -> Result<Vec<u8>, NoPage> + Send + 'static) -> Result<Vec<u8>, NoPage> {
    let made = blocking(make).await;
    made.unwrap_or_else(|_| Err(Unanswered("the list of the network".into()).into()))
}

/// All nodes, and this one's links to others.
pub(super) async fn network(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    Query::parse(query, &known_fields())?;
    let report = watched.ask_registry(|registry| registry.report_network()).await?;
    let is_node_link =
        |link: &LinkReport| matches!(link.peer, PeerReport::Node { .. } | PeerReport::Node2x(_));
    let links = watched.links().await?;
    let ledgers = ledgers::accounts(watched, &links, &Clock::now());
    let links: Vec<LinkReport> = links.into_iter().filter(is_node_link).collect();
    let query = query.to_owned();
    apart(move || {
        let fields = known_fields();
        let query = Query::parse(&query, &fields)?;
        Ok(show_network(&report, (links, ledgers), &query))
    })
    .await
}

fn show_network<'a>(
    report: &'a NetworkReport,
    (links, ledgers): (Vec<LinkReport>, Vec<json::LedgerNode>),
    query: &Query<'_, KnownRow<'a>>,
) -> Vec<u8> {
    let records: BTreeMap<&NodeId, &Entries> =
        report.nodes.iter().map(|node| (&node.id, &node.entries)).collect();
    let rows = report.nodes.iter().map(|node| KnownRow {
        node,
        topics: OnceCell::new(),
        neighbours: OnceCell::new(),
    });
    let clock = Clock::now();
    let mut named = NAMED_MAX;
    let items = query.page(rows.collect()).into_iter().map(|row| {
        let node = row.node;
        let own_key = state::neighbour_key(&node.id);
        let agrees =
            |other: &NodeId| records.get(other).is_some_and(|entries| entries.get(&own_key).is_some());
        let listed: Vec<_> = node
            .entries
            .neighbours()
            .take(named)
            .map(|other| json::ListedNeighbour { id: other.to_hex(), agreed: agrees(&other) })
            .collect();
        named -= listed.len();
        let lost_since = match node.standing {
            Reachability::Lost { since } => Some(clock.show(since)),
            _ => None,
        };
        let traits = NodeTraits::decode(node.entries.get(&[state::KIND_SELF]).unwrap_or_default());
        json::Node {
            id: node.id.to_hex(),
            standing: standing(&node.standing),
            hops: hops(&node.standing),
            lost_since,
            next_hops_total: node.next_hops.len(),
            next_hops: node.next_hops.iter().take(NEXT_HOPS_MAX).map(NodeId::to_hex).collect(),
            routed: node.is_routed,
            admitted: node.is_admitted,
            relays: traits.relays,
            frame_bytes_max: traits.frame_len_max,
            address: node.label.as_ref().map(|label| label.address.clone()),
            advertised: node
                .entries
                .get(&[state::KIND_ADDRESS])
                .and_then(state::address_of)
                .map(str::to_owned),
            agency: node.label.as_ref().map(|label| label.agency.clone()),
            name: node.label.as_ref().map(|label| label.name.clone()),
            incarnation: node.incarnation,
            seq: node.seq,
            topics: row.topics(),
            neighbours_total: row.neighbours(),
            neighbours: listed,
            peers_2x: attached(&node.entries),
        }
    });
    let announcements = report.announcements.iter().map(|one| show_announcement(one, &clock));
    shown(&json::Network {
        total: report.nodes.len(),
        reachable: report
            .nodes
            .iter()
            .filter(|node| matches!(node.standing, Reachability::Reachable { .. }))
            .count(),
        items: items.collect(),
        links: links.into_iter().map(|link| show_link(link, &clock)).collect(),
        ledgers,
        announcements: announcements.collect(),
    })
}

fn show_announcement(one: &AnnouncementReport, clock: &Clock) -> json::Announcement {
    json::Announcement {
        origin: one.origin.to_hex(),
        agency: one.agency.clone(),
        name: one.name.clone(),
        incarnation: one.incarnation,
        number: one.number,
        came: clock.show(one.taken),
        age_ms: u64::try_from(clock.before_us(one.taken)).unwrap_or(0) / 1_000,
        text: one.text.clone(),
    }
}

/// Nodes of FISCO BCOS 2.x that a node is linked with.
fn attached(entries: &Entries) -> Vec<json::Attached2x> {
    let peers = entries.peers_2x().take(NEXT_HOPS_MAX);
    peers.map(|(id, gateway)| json::Attached2x { id: id.to_hex(), gateway }).collect()
}

pub(super) fn standing(reachability: &Reachability) -> json::Standing {
    match reachability {
        Reachability::Own => json::Standing::Own,
        Reachability::Reachable { hops: 1 } => json::Standing::Neighbour,
        Reachability::Reachable { .. } => json::Standing::Reachable,
        Reachability::OutOfReach => json::Standing::OutOfReach,
        Reachability::Lost { .. } => json::Standing::Lost,
    }
}

struct TopicRow<'a> {
    name: &'a str,
    kind: &'static str,
    sessions: u64,
    nodes_total: usize,
    /// The nearest of them, and how many sessions each has.
    nodes: Vec<(&'a KnownReport, u32)>,
}

fn topic_fields<'a>() -> [Field<TopicRow<'a>>; 3] {
    [
        ("name", |a, b| a.name.cmp(b.name)),
        ("sessions", |a, b| a.sessions.cmp(&b.sessions)),
        ("nodes", |a, b| a.nodes_total.cmp(&b.nodes_total)),
    ]
}

/// What a query for topics says beside what all lists have.
struct TopicsQuery {
    rest: String,
    filter: String,
    after: String,
}

impl TopicsQuery {
    fn parse(query: &str) -> Result<Self, QueryError> {
        let mut parsed = Self { rest: String::new(), filter: String::new(), after: String::new() };
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("filter", text)) => parsed.filter = percent_decode(text).ok_or(QueryError::Text)?,
                Some(("after", text)) => parsed.after = percent_decode(text).ok_or(QueryError::Text)?,
                _ => parsed.rest = [parsed.rest.as_str(), pair].join("&"),
            }
        }
        Ok(parsed)
    }
}

/// The topics in the records of all nodes, with where their subscribers are.
pub(super) async fn topics(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    let wanted = TopicsQuery::parse(query)?;
    // Before anybody is asked.
    page_of_topics(&wanted.rest, &topic_fields())?;
    let mut report = watched.ask_registry(|registry| registry.report_network()).await?;
    apart(move || {
        near_first(&mut report);
        let fields = topic_fields();
        let query = page_of_topics(&wanted.rest, &fields)?;
        Ok(show_topics(&report, &wanted, &query))
    })
    .await
}

/// The nodes of a topic are named in this order.
fn near_first(report: &mut NetworkReport) {
    report.nodes.sort_by(|a, b| distance(&a.standing).cmp(&distance(&b.standing)).then(a.id.cmp(&b.id)));
}

fn page_of_topics<'f, 'a>(
    query: &str,
    fields: &'f [Field<TopicRow<'a>>],
) -> Result<Query<'f, TopicRow<'a>>, QueryError> {
    Query::parse(query, fields).map_err(|error| match error {
        QueryError::Unknown => QueryError::UnknownOfTopics,
        error => error,
    })
}

fn show_topics<'a>(
    report: &'a NetworkReport,
    wanted: &TopicsQuery,
    query: &Query<'_, TopicRow<'a>>,
) -> Vec<u8> {
    let (total, page) = merge_topics(report, wanted, query);
    let mut named = NAMED_MAX;
    let items = page.into_iter().map(|row| {
        let nodes: Vec<_> = row
            .nodes
            .iter()
            .take(named)
            .map(|(node, sessions)| json::TopicNode {
                id: node.id.to_hex(),
                hops: hops(&node.standing),
                sessions: *sessions,
            })
            .collect();
        named -= nodes.len();
        json::NetworkTopic {
            name: row.name.to_owned(),
            kind: row.kind.into(),
            sessions: row.sessions,
            nodes_total: row.nodes_total,
            nodes,
        }
    });
    shown(&json::Page { total, items: items.collect() })
}

/// Goes through all records at once, name by name. Gives how many topics fit, and those of the page.
fn merge_topics<'a>(
    report: &'a NetworkReport,
    wanted: &TopicsQuery,
    query: &Query<'_, TopicRow<'a>>,
) -> (usize, Vec<TopicRow<'a>>) {
    let nodes = &report.nodes;
    let mut records: Vec<_> = nodes.iter().map(|node| node.entries.topic_sessions(&wanted.after)).collect();
    // The next topic of each record.
    let mut heads: BinaryHeap<Reverse<(&str, usize, u32)>> = BinaryHeap::with_capacity(nodes.len());
    for (index, record) in records.iter_mut().enumerate() {
        heads.extend(record.next().map(|(name, count)| Reverse((name, index, count))));
    }
    let (mut total, mut rows) = (0, Vec::<TopicRow<'_>>::new());
    while let Some(Reverse((name, _, _))) = heads.peek().copied() {
        let kind = match TopicKind::of(name.as_bytes()) {
            TopicKind::Ordinary => Some("ordinary"),
            TopicKind::Data => Some("private"),
            TopicKind::Route | TopicKind::Marker | TopicKind::BlockNotify => None,
        };
        let kind = kind.filter(|_| name.contains(&wanted.filter));
        let mut row =
            TopicRow { name, kind: kind.unwrap_or_default(), sessions: 0, nodes_total: 0, nodes: Vec::new() };
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((other, index, count)) = *head;
            if other != name {
                break;
            }
            match records[index].next() {
                Some((next, count)) => *head = Reverse((next, index, count)),
                None => _ = PeekMut::pop(head),
            }
            // No node has more sessions, whatever it says.
            let count = count.min(SESSIONS_MAX as u32);
            row.sessions += u64::from(count);
            row.nodes_total += 1;
            if kind.is_some() && row.nodes.len() < TOPIC_NODES_MAX {
                row.nodes.push((&nodes[index], count));
            }
        }
        if kind.is_some() {
            total += 1;
            rows.push(row);
            if rows.len() > 2 * query.limit() + SURPLUS_MAX {
                rows = query.page(rows);
            }
        }
    }
    (total, query.page(rows))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::wire::state::Change;

    fn id(number: usize) -> NodeId {
        NodeId([number as u8; 64])
    }

    fn node(
        number: usize,
        standing: Reachability,
        topics: &[(&str, u32)],
        neighbours: &[usize],
    ) -> KnownReport {
        let mut entries = Entries::default();
        for (topic, count) in topics {
            let (key, count) = (state::topic_key(topic), count.to_be_bytes());
            entries.apply(&Change { key: &key, value: Some(&count) });
        }
        for neighbour in neighbours {
            entries.apply(&Change { key: &state::neighbour_key(&id(*neighbour)), value: Some(&[]) });
        }
        KnownReport {
            id: id(number),
            standing,
            next_hops: Vec::new(),
            is_routed: false,
            is_admitted: true,
            incarnation: 1,
            seq: 1,
            label: None,
            entries,
        }
    }

    fn topics(report: &NetworkReport, query: &str) -> Value {
        let wanted = TopicsQuery::parse(query).unwrap();
        let mut report = report.clone();
        near_first(&mut report);
        let fields = topic_fields();
        let query = page_of_topics(&wanted.rest, &fields).unwrap();
        serde_json::from_slice(&show_topics(&report, &wanted, &query)).unwrap()
    }

    fn names(list: &Value) -> Vec<&str> {
        list["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn topics_of_all_records_are_merged_with_the_nearest_nodes_first() {
        let report = NetworkReport {
            nodes: vec![
                node(5, Reachability::Own, &[("a", 1), ("b", 2)], &[]),
                node(1, Reachability::Reachable { hops: 2 }, &[("b", 4), ("c", u32::MAX)], &[]),
                node(2, Reachability::Reachable { hops: 1 }, &[("b", 1), ("#!$TopicNeedVerify_p", 1)], &[]),
                node(3, Reachability::Lost { since: std::time::Instant::now() }, &[("b", 9), ("z", 1)], &[]),
            ],
            announcements: Vec::new(),
        };
        let list = topics(&report, "");
        assert_eq!(list["total"], 5);
        assert_eq!(names(&list), ["#!$TopicNeedVerify_p", "a", "b", "c", "z"]);
        assert_eq!(
            (&list["items"][0]["kind"], &list["items"][1]["kind"]),
            (&"private".into(), &"ordinary".into())
        );
        let b = &list["items"][2];
        assert_eq!((&b["sessions"], &b["nodes_total"]), (&16.into(), &4.into()));
        let ids: Vec<&str> =
            b["nodes"].as_array().unwrap().iter().map(|node| &node["id"].as_str().unwrap()[..2]).collect();
        assert_eq!(ids, ["05", "02", "01", "03"]);
        assert_eq!(b["nodes"][2]["hops"], 2);
        assert_eq!(b["nodes"][3].get("hops"), None, "no way leads there");
        assert_eq!(list["items"][3]["sessions"], SESSIONS_MAX, "no node has more");
        assert_eq!(names(&topics(&report, "sort=sessions&order=desc&limit=2")), ["c", "b"]);
        assert_eq!(names(&topics(&report, "after=a&limit=2")), ["b", "c"]);
        let private = topics(&report, "filter=%23!%24Topic");
        assert_eq!((names(&private), &private["total"]), (vec!["#!$TopicNeedVerify_p"], &1.into()));
    }

    #[test]
    fn of_many_topics_and_nodes_a_page_is_kept_and_all_are_counted() {
        let all: Vec<String> = (0..5_000).map(|number| format!("{number:04}")).collect();
        let counts: Vec<(&str, u32)> =
            all.iter().enumerate().map(|(number, name)| (name.as_str(), number as u32 % 997 + 1)).collect();
        let nodes = (0..80).map(|number| {
            let topics = if number == 0 { &counts[..] } else { &counts[996..997] };
            node(number, Reachability::Reachable { hops: 1 }, topics, &[])
        });
        let report = NetworkReport { nodes: nodes.collect(), announcements: Vec::new() };
        let list = topics(&report, "sort=sessions&order=desc&limit=3");
        assert_eq!((&list["total"], names(&list)), (&5_000.into(), vec!["0996", "4984", "3987"]));
        let most = &list["items"][0];
        assert_eq!((&most["nodes_total"], &most["sessions"]), (&80.into(), &(80 * 997).into()));
        assert_eq!(most["nodes"].as_array().unwrap().len(), TOPIC_NODES_MAX);
    }

    #[test]
    fn a_link_is_agreed_if_both_records_list_it_and_what_is_beyond_the_bound_is_counted() {
        // All list all, but 8, which lists 7 alone; and one lists more than there is room for.
        let all: Vec<usize> = (0..=255).collect();
        let mut nodes: Vec<KnownReport> = all
            .iter()
            .map(|&number| {
                let neighbours = if number == 8 { &[7][..] } else { &all };
                node(number, Reachability::OutOfReach, &[], neighbours)
            })
            .collect();
        let endless = &mut nodes[255].entries;
        for number in 0..1_000u16 {
            let mut other = [0xff; 64];
            other[..2].copy_from_slice(&number.to_be_bytes());
            endless.apply(&Change { key: &state::neighbour_key(&NodeId(other)), value: Some(&[]) });
        }
        let report = NetworkReport { nodes, announcements: Vec::new() };
        let fields = known_fields();
        let query = Query::parse("limit=10000", &fields).unwrap();
        let shown: Value =
            serde_json::from_slice(&show_network(&report, Default::default(), &query)).unwrap();
        let items = shown["items"].as_array().unwrap();
        let listed: usize = items.iter().map(|item| item["neighbours"].as_array().unwrap().len()).sum();
        let total: u64 = items.iter().map(|item| item["neighbours_total"].as_u64().unwrap()).sum();
        assert_eq!((total, listed), (255 * 256 + 1 + 1_000, NAMED_MAX));
        let agreed = |from: usize, to: usize| {
            let item = items.iter().find(|item| item["id"] == id(from).to_hex()).unwrap();
            let neighbours = item["neighbours"].as_array().unwrap();
            neighbours
                .iter()
                .find(|other| other["id"] == id(to).to_hex())
                .map(|other| other["agreed"] == true)
        };
        assert_eq!(agreed(7, 8), Some(true));
        assert_eq!(agreed(6, 8), Some(false));
        assert_eq!(agreed(8, 7), Some(true));
        assert_eq!(agreed(8, 6), None);
    }
}
