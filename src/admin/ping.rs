//! `/ping/NODE`: the route to a node as frames take it now, one round of pings: one to each hop at the same time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    Watched,
    lists::{Clock, ListError},
    network::ask_registry,
};
use crate::{
    clock,
    relay::{
        home_reactor,
        ping::{ANSWER_TIME_MAX, PingEnd, Pinged},
        report::{KnownReport, Reachability},
    },
    wire::{NodeId, node::HOPS_MAX, private::PathEnd},
};

/// How long a round may find out that its path is longer than it was known to be.
const LENGTHENING_TIME_MAX: Duration = Duration::from_secs(10);
/// Nodes that are named where several begin alike.
const NAMED_MAX: usize = 8;

/// Why no round is made.
#[derive(Debug, thiserror::Error)]
pub(super) enum PingError {
    #[error(
        "{0:?} is no node's id: it must be 128 hex digits, or the first of them that tell the node from all others"
    )]
    NoId(String),
    #[error("no node of the network is known whose id begins with {0}: see `amop net` for those that are")]
    Unknown(String),
    #[error("{count} nodes' ids begin with {beginning}, give more digits: {named}")]
    Ambiguous { beginning: String, count: usize, named: String },
    #[error("{0}")]
    List(#[from] ListError),
}

/// One round.
#[derive(Serialize)]
struct RoundItem<'a> {
    node: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    /// `own`, `neighbour`, `reachable`, `out_of_reach` or `lost`.
    standing: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_since: Option<String>,
    /// How many links lead there, as the records of all nodes have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    known_hops: Option<u8>,
    /// `answered`, `silent`, `no_way` or `own`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<u64>,
    hops: Vec<HopItem<'a>>,
}

/// A node on the path.
#[derive(Serialize)]
struct HopItem<'a> {
    hop: u8,
    /// Who has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    /// `answered` by the node itself, `passed` by one on the path, `no_way` on from there, `ended` for a reason that is not
    /// known here; `silent`, `not_sent`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<u64>,
}

/// The one node whose id begins so.
fn find<'a>(nodes: &'a [KnownReport], beginning: &str) -> Result<&'a KnownReport, PingError> {
    let digits = beginning.to_ascii_lowercase();
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || !(1..=2 * NodeId::LEN).contains(&digits.len()) {
        return Err(PingError::NoId(beginning.chars().take(2 * NodeId::LEN).collect()));
    }
    let begins: Vec<&KnownReport> =
        nodes.iter().filter(|node| node.id.to_hex().starts_with(&digits)).collect();
    match begins.as_slice() {
        [] => Err(PingError::Unknown(digits)),
        [one] => Ok(one),
        several => {
            let named: Vec<String> =
                several.iter().take(NAMED_MAX).map(|node| node.id.to_hex()[..16].to_owned()).collect();
            Err(PingError::Ambiguous {
                beginning: digits,
                count: several.len(),
                named: named.join(", ") + if several.len() > NAMED_MAX { ", …" } else { "" },
            })
        }
    }
}

/// Makes one round.
pub(super) async fn ping(watched: &Watched, beginning: &str) -> Result<Vec<u8>, PingError> {
    let report = ask_registry(watched).await?;
    let node = find(&report.nodes, beginning)?;
    let names: BTreeMap<NodeId, &str> =
        report.nodes.iter().filter_map(|node| Some((node.id, node.label.as_ref()?.name.as_str()))).collect();
    let name = |id: &NodeId| names.get(id).copied().unwrap_or_default();
    let mut round = RoundItem {
        node: node.id.to_hex(),
        name: name(&node.id),
        standing: super::network::reachability_name(&node.standing),
        lost_since: None,
        known_hops: None,
        outcome: "no_way",
        round_trip_us: None,
        hops: Vec::new(),
    };
    match node.standing {
        Reachability::Own => round.outcome = "own",
        Reachability::Lost { since } => round.lost_since = Some(Clock::now().show(since)),
        Reachability::OutOfReach => {}
        Reachability::Reachable { hops } => {
            round.known_hops = Some(hops);
            for (hop, pinged) in (1..).zip(pings(watched, node.id, hops).await?) {
                let (by, outcome) = match pinged.end {
                    PingEnd::Answered => (Some(node.id), "answered"),
                    PingEnd::Ended { by, why: PathEnd::HopsUsed } => (Some(by), "passed"),
                    PingEnd::Ended { by, why: PathEnd::NoRoute } => (Some(by), "no_way"),
                    PingEnd::Ended { by, why: PathEnd::Other } => (Some(by), "ended"),
                    PingEnd::Silent => (None, "silent"),
                    PingEnd::NoRoute => (None, "no_way"),
                    PingEnd::TooMany => (None, "not_sent"),
                };
                let micros = u64::try_from(pinged.round_trip.as_micros()).unwrap_or(u64::MAX);
                let round_trip_us = by.map(|_| micros);
                round.hops.push(HopItem {
                    hop,
                    node: by.map(|by| by.to_hex()),
                    name: by.map(|by| name(&by)).unwrap_or_default(),
                    outcome,
                    round_trip_us,
                });
                // What went further came to the same node.
                if outcome == "answered" {
                    (round.outcome, round.round_trip_us) = (outcome, round_trip_us);
                    break;
                }
            }
            if round.outcome != "answered" && round.hops.iter().any(|hop| hop.outcome != "no_way") {
                round.outcome = "silent";
            }
        }
    }
    // Serialising our own rows into memory cannot fail.
    Ok(serde_json::to_vec(&round).unwrap_or_default())
}

/// One ping to each hop that is known, and to further ones as long as the last of them was on the path only.
async fn pings(watched: &Watched, node: NodeId, known_hops: u8) -> Result<Vec<Pinged>, ListError> {
    let since = Instant::now();
    let sent: Vec<_> = (1..=known_hops).map(|hops| send(watched, node, hops)).collect();
    let mut all = Vec::new();
    for answer in sent {
        all.push(awaited(watched, &node, answer).await?);
    }
    while let Some(Pinged { end: PingEnd::Ended { why: PathEnd::HopsUsed, .. }, .. }) = all.last()
        && all.len() < usize::from(HOPS_MAX)
        && since.elapsed() < LENGTHENING_TIME_MAX
    {
        let answer = send(watched, node, all.len() as u8 + 1);
        all.push(awaited(watched, &node, answer).await?);
    }
    Ok(all)
}

fn send(watched: &Watched, node: NodeId, hops: u8) -> oneshot::Receiver<Pinged> {
    let (reply, answer) = oneshot::channel();
    let reply = Box::new(move |pinged| {
        // Who asked may be gone.
        let _ = reply.send(pinged);
    });
    let home = home_reactor(&node, watched.shared.reactors);
    watched.engine.ping(home, node, rand::random(), hops, reply);
    answer
}

async fn awaited(
    watched: &Watched,
    node: &NodeId,
    answer: oneshot::Receiver<Pinged>,
) -> Result<Pinged, ListError> {
    let bound = ANSWER_TIME_MAX + super::lists::ANSWER_TIME_MAX;
    let pinged = clock::timeout(bound, answer).await.and_then(Result::ok);
    let home = home_reactor(node, watched.shared.reactors);
    pinged.ok_or_else(|| ListError::Unanswered(format!("reactor {}", home.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: [u8; 64]) -> KnownReport {
        KnownReport {
            id: NodeId(id),
            standing: Reachability::OutOfReach,
            next_hops: Vec::new(),
            is_routed: false,
            is_admitted: true,
            incarnation: 1,
            seq: 1,
            label: None,
            entries: Default::default(),
        }
    }

    #[test]
    fn a_node_is_found_by_as_many_digits_as_tell_it_from_all_others() {
        let mut other = [0xab; 64];
        other[1] = 0xac;
        let nodes = [known([0xab; 64]), known(other), known([0x12; 64])];
        for (beginning, index) in
            [("1", 2), ("12", 2), ("abab", 0), ("ABac", 1), (&"ab".repeat(64), 0), (&"12".repeat(64), 2)]
        {
            assert_eq!(find(&nodes, beginning).unwrap().id, nodes[index].id, "{beginning}");
        }
        for (beginning, expected) in [
            ("", "\"\" is no node's id"),
            ("node0", "\"node0\" is no node's id"),
            ("a\u{1b}", "\"a\\u{1b}\" is no node's id"),
            (&"a".repeat(129), "is no node's id"),
            ("f", "no node of the network is known whose id begins with f"),
            ("a", "2 nodes' ids begin with a, give more digits: abababababababab, abacababababa"),
        ] {
            let error = find(&nodes, beginning).err().unwrap().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
        let many: Vec<_> = (0..20).map(|number| known([number; 64])).collect();
        let error = find(&many, "0").err().unwrap().to_string();
        assert!(error.contains("16 nodes' ids") && error.ends_with("0707070707070707, …"), "{error}");
    }
}
