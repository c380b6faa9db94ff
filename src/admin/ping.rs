//! `/ping/NODE`: the route to a node as frames take it now, one round of pings: one to each hop at the same time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Watched,
    ask::Unanswered,
    json::{PingHop, PingOutcome, PingRound},
    lists::{Clock, micros},
    network::standing,
    pages::NoPage,
};
use crate::{
    relay::{
        diagnostic::{
            Question,
            ping::{PingEnd, Pinged},
        },
        report::{KnownReport, Reachability},
    },
    wire::{NodeId, node::HOPS_MAX, notice::PathEnd},
};

/// How long a round may find out that its path is longer than it was known to be.
const LENGTHENING_TIME_MAX: Duration = Duration::from_secs(10);
/// Nodes that are named where several begin alike.
const NAMED_MAX: usize = 8;

/// Why it is not known which node is meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    #[error(
        "{0:?} is no node's id: it must be 128 hex digits, or the first of them that tell the node from all others"
    )]
    NoId(String),
    #[error("no node of the network is known whose id begins with {0}: see `amop net` for those that are")]
    Unknown(String),
    #[error("{count} nodes' ids begin with {beginning}, give more digits: {named}")]
    Ambiguous { beginning: String, count: usize, named: String },
}

/// The one node whose id begins so.
pub(super) fn find<'a>(nodes: &'a [KnownReport], beginning: &str) -> Result<&'a KnownReport, NodeError> {
    let digits = beginning.to_ascii_lowercase();
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || !(1..=2 * NodeId::LEN).contains(&digits.len()) {
        return Err(NodeError::NoId(beginning.chars().take(2 * NodeId::LEN).collect()));
    }
    let begins: Vec<&KnownReport> =
        nodes.iter().filter(|node| node.id.to_hex().starts_with(&digits)).collect();
    match begins.as_slice() {
        [] => Err(NodeError::Unknown(digits)),
        [one] => Ok(one),
        several => {
            let named: Vec<String> =
                several.iter().take(NAMED_MAX).map(|node| node.id.to_hex()[..16].to_owned()).collect();
            Err(NodeError::Ambiguous {
                beginning: digits,
                count: several.len(),
                named: named.join(", ") + if several.len() > NAMED_MAX { ", …" } else { "" },
            })
        }
    }
}

/// Makes one round.
pub(super) async fn ping(watched: &Watched, beginning: &str) -> Result<PingRound, NoPage> {
    let report = watched.ask_registry(|registry| registry.report_network()).await?;
    let node = find(&report.nodes, beginning)?;
    let names: BTreeMap<NodeId, &str> =
        report.nodes.iter().filter_map(|node| Some((node.id, node.label.as_ref()?.name.as_str()))).collect();
    let name = |id: &NodeId| names.get(id).copied().unwrap_or_default().to_owned();
    let mut round = PingRound {
        node: node.id.to_hex(),
        name: name(&node.id),
        standing: standing(&node.standing),
        lost_since: None,
        known_hops: None,
        outcome: PingOutcome::NoRoute,
        round_trip_us: None,
        hops: Vec::new(),
    };
    match node.standing {
        Reachability::Own => round.outcome = PingOutcome::Own,
        Reachability::Lost { since } => round.lost_since = Some(Clock::now().show(since)),
        Reachability::OutOfReach => {}
        Reachability::Reachable { hops } => {
            round.known_hops = Some(hops);
            for (hop, pinged) in (1..).zip(pings(watched, node.id, hops).await?) {
                let (by, outcome) = outcome(node.id, pinged.end);
                let round_trip_us = by.map(|_| micros(pinged.round_trip));
                round.hops.push(PingHop {
                    hop,
                    node: by.map(|by| by.to_hex()),
                    name: by.map(|by| name(&by)).unwrap_or_default(),
                    outcome,
                    round_trip_us,
                });
                // What went further came to the same node.
                if outcome == PingOutcome::Answered {
                    (round.outcome, round.round_trip_us) = (outcome, round_trip_us);
                    break;
                }
            }
            let went_on = round.hops.iter().any(|hop| hop.outcome != PingOutcome::NoRoute);
            if round.outcome != PingOutcome::Answered && went_on {
                round.outcome = PingOutcome::Silent;
            }
        }
    }
    Ok(round)
}

/// Who has answered a ping to a node, and what that says.
fn outcome(node: NodeId, end: PingEnd) -> (Option<NodeId>, PingOutcome) {
    match end {
        PingEnd::Answered => (Some(node), PingOutcome::Answered),
        PingEnd::Ended { by, why: PathEnd::HopsUsed } => (Some(by), PingOutcome::Passed),
        PingEnd::Ended { by, why: PathEnd::NoRoute } => (Some(by), PingOutcome::NoRoute),
        PingEnd::Ended { by, why: PathEnd::Other } => (Some(by), PingOutcome::Ended),
        PingEnd::Silent => (None, PingOutcome::Silent),
        PingEnd::NoRoute => (None, PingOutcome::NoRoute),
        PingEnd::TooMany => (None, PingOutcome::NotSent),
    }
}

/// One ping to each hop that is known, and to further ones as long as the last of them was on the path only.
async fn pings(watched: &Watched, node: NodeId, known_hops: u8) -> Result<Vec<Pinged>, Unanswered> {
    let since = Instant::now();
    let send = |hops| watched.ask_node::<Pinged>(&node, Question::Ping { node, hops });
    let sent: Vec<_> = (1..=known_hops).map(send).collect();
    let mut all = Vec::new();
    for answer in sent {
        all.push(answer.await?.0);
    }
    while let Some(Pinged { end: PingEnd::Ended { why: PathEnd::HopsUsed, .. }, .. }) = all.last()
        && all.len() < usize::from(HOPS_MAX)
        && since.elapsed() < LENGTHENING_TIME_MAX
    {
        all.push(send(all.len() as u8 + 1).await?.0);
    }
    Ok(all)
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
