//! Metrics of each peer: the nodes that this one is linked with, also those of FISCO BCOS 2.x, by the label `peer`.
//!
//! Links come and go, counters of a peer only grow: at each look what its links have carried since the last one is added.
//!
//! # Invariants
//! - At most [`PEERS_NAMED_MAX`] peers are named, each under digits of its own; the others are counted.
//! - A peer that is named stays so while it is linked, and for a day after that unless its place is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::encode_gauge;
use crate::{
    relay::{
        LinkKey, ReactorId,
        report::{LinkLoad, LinkReport, Peer2xReport, PeerReport},
    },
    wire::NodeId,
};

/// Peers that metrics name.
pub(in crate::admin) const PEERS_NAMED_MAX: usize = 64;
/// How long a peer is named that is not linked any more.
const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// Digits of a peer's id that name it, as in logs and commands.
const DIGITS: usize = 8;
/// Characters of its names in its certificate.
const NAME_LEN_MAX: usize = 64;

/// The peers, as they were at the last look.
#[derive(Default)]
pub(super) struct Peers {
    /// By the first digits of their ids.
    named: BTreeMap<String, Peer>,
    left_out: usize,
}

struct Peer {
    id: NodeId,
    kind: &'static str,
    agency: String,
    name: String,
    links: BTreeMap<(ReactorId, LinkKey), Link>,
    linked_at: Instant,
    links_begun: u64,
    carried: Carried,
}

struct Link {
    load: LinkLoad,
    round_trip: Option<Duration>,
}

/// What went over all links of a peer that were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Carried {
    received_frames: u64,
    received_bytes: u64,
    sent_frames: u64,
    sent_bytes: u64,
}

/// What a link's report says of its peer.
fn peer_of(report: &LinkReport) -> Option<(Peer, Option<Duration>)> {
    let (id, kind, agency, name, round_trip) = match &report.peer {
        PeerReport::Node { id, agency, name, round_trip, .. } => {
            (id, "node", agency, name, round_trip.map(|round_trip| round_trip.smoothed))
        }
        PeerReport::Node2x(Peer2xReport { id, agency, name, .. }) => (id, "node_2x", agency, name, None),
        PeerReport::Session(_) | PeerReport::Ledger { .. } => return None,
    };
    let shown = |name: &String| name.chars().take(NAME_LEN_MAX).collect();
    let peer = Peer {
        id: *id,
        kind,
        agency: shown(agency),
        name: shown(name),
        links: BTreeMap::new(),
        linked_at: report.since,
        links_begun: 0,
        carried: Carried::default(),
    };
    Some((peer, round_trip))
}

impl Peers {
    /// Takes what reactors have answered about their links to nodes. What is known of one that has not answered stays.
    pub(super) fn look(&mut self, now: Instant, answers: Vec<(ReactorId, Vec<LinkReport>)>) {
        let answered: BTreeSet<ReactorId> = answers.iter().map(|(reactor, _)| *reactor).collect();
        let reports: Vec<LinkReport> = answers.into_iter().flat_map(|(_, links)| links).collect();
        let seen: BTreeSet<_> = reports.iter().map(|link| (link.reactor, link.key)).collect();
        for peer in self.named.values_mut() {
            peer.links.retain(|key, _| !answered.contains(&key.0) || seen.contains(key));
        }
        self.named.retain(|_, peer| {
            !peer.links.is_empty() || now.saturating_duration_since(peer.linked_at) < KEPT_FOR
        });
        let mut left_out = BTreeSet::new();
        for report in reports {
            let Some((peer, round_trip)) = peer_of(&report) else { continue };
            let id = peer.id;
            match self.named_mut(peer) {
                Some(peer) => peer.add(now, &report, round_trip),
                None => _ = left_out.insert(id),
            }
        }
        self.left_out = left_out.len();
    }

    /// The peer under its name, if there is room for it.
    fn named_mut(&mut self, peer: Peer) -> Option<&mut Peer> {
        let digits: String = peer.id.to_hex().chars().take(DIGITS).collect();
        if !self.named.contains_key(&digits) && self.named.len() >= PEERS_NAMED_MAX {
            let unlinked = self.named.iter().filter(|(_, other)| other.links.is_empty());
            let oldest = unlinked.min_by_key(|(_, other)| other.linked_at)?.0.clone();
            self.named.remove(&oldest);
        }
        let id = peer.id;
        let named = self.named.entry(digits).or_insert(peer);
        // Two whose ids begin alike would be one series.
        (named.id == id).then_some(named)
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Peers that metrics name: linked, or not linked any more for less than a day.";
        encode_gauge(encoder, "amop_peers_named", help, self.named.len() as f64)?;
        let help = "Peers that are linked and that metrics do not name, for there are too many.";
        encode_gauge(encoder, "amop_peers_left_out", help, self.left_out as f64)?;
        if self.named.is_empty() {
            return Ok(());
        }
        let help = "Who a peer is, as its certificate says: kind is node, or node_2x of FISCO BCOS 2.x.";
        let mut family = encoder.encode_descriptor("amop_peer_info", help, None, MetricType::Gauge)?;
        for (digits, peer) in &self.named {
            let labels = [
                ("peer", digits.as_str()),
                ("kind", peer.kind),
                ("agency", peer.agency.as_str()),
                ("name", peer.name.as_str()),
            ];
            ConstGauge::new(1_u64).encode(family.encode_family(&labels)?)?;
        }
        self.gauges(encoder, "amop_peer_up", "Whether a peer is linked: 1 or 0.", |peer| {
            u64::from(!peer.links.is_empty())
        })?;
        self.gauges(encoder, "amop_peer_links", "Links with a peer.", |peer| peer.links.len() as u64)?;
        self.gauges(encoder, "amop_peer_queued_bytes", "Bytes for a peer that are not sent yet.", |peer| {
            peer.links.values().map(|link| link.load.queued_bytes as u64).sum()
        })?;
        self.counters(encoder, "amop_peer_links_begun", "Links with a peer that were seen.", |peer| {
            peer.links_begun
        })?;
        let help = "Frames that came from a peer, as far as its links were looked at before they ended.";
        self.counters(encoder, "amop_peer_received_frames", help, |peer| peer.carried.received_frames)?;
        let help = "Frames for a peer, likewise.";
        self.counters(encoder, "amop_peer_sent_frames", help, |peer| peer.carried.sent_frames)?;
        let help = "Bytes that came from a peer, as TLS records, likewise.";
        self.counters(encoder, "amop_peer_received_bytes", help, |peer| peer.carried.received_bytes)?;
        let help = "Bytes sent to a peer, as TLS records, likewise.";
        self.counters(encoder, "amop_peer_sent_bytes", help, |peer| peer.carried.sent_bytes)?;
        let help = "How long a frame takes to a peer and back, smoothed, by its fastest link; absent until it was measured.";
        let (name, unit) = ("amop_peer_round_trip", Some(&Unit::Seconds));
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (digits, peer) in &self.named {
            if let Some(time) = peer.links.values().filter_map(|link| link.round_trip).min() {
                ConstGauge::new(time.as_secs_f64()).encode(family.encode_family(&[("peer", digits)])?)?;
            }
        }
        Ok(())
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: fn(&Peer) -> u64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        self.named.iter().try_for_each(|(digits, peer)| {
            ConstGauge::new(value(peer)).encode(family.encode_family(&[("peer", digits)])?)
        })
    }

    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: fn(&Peer) -> u64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        self.named.iter().try_for_each(|(digits, peer)| {
            ConstCounter::new(value(peer)).encode(family.encode_family(&[("peer", digits)])?)
        })
    }
}

impl Peer {
    /// Takes what one of its links is now.
    fn add(&mut self, now: Instant, report: &LinkReport, round_trip: Option<Duration>) {
        let before = self.links.insert((report.reactor, report.key), Link { load: report.load, round_trip });
        self.links_begun += u64::from(before.is_none());
        self.linked_at = now;
        self.carried.add(&report.load, &before.map_or_else(LinkLoad::default, |link| link.load));
    }
}

impl Carried {
    fn add(&mut self, now: &LinkLoad, before: &LinkLoad) {
        self.received_frames += now.received_frames.saturating_sub(before.received_frames);
        self.received_bytes += now.received_bytes.saturating_sub(before.received_bytes);
        self.sent_frames += now.sent_frames.saturating_sub(before.sent_frames);
        self.sent_bytes += now.sent_bytes.saturating_sub(before.sent_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::report::NodeLinkState;

    const REACTOR: ReactorId = ReactorId(0);

    fn link(index: u32, peer: usize, frames: u64, since: Instant) -> LinkReport {
        let mut id = NodeId([0; 64]);
        id.0[..4].copy_from_slice(&(peer as u32).to_be_bytes());
        let load = LinkLoad { received_frames: frames, sent_bytes: 100 * frames, ..LinkLoad::default() };
        let peer = PeerReport::Node {
            id,
            agency: String::new(),
            name: String::new(),
            dialed: true,
            state: NodeLinkState::Active,
            round_trip: None,
        };
        let key = LinkKey { index, generation: 1 };
        LinkReport { reactor: REACTOR, key, since, address: String::new(), peer, load }
    }

    fn carried(peers: &Peers, digits: &str) -> (u64, u64, usize, u64) {
        let peer = &peers.named[digits];
        (peer.carried.received_frames, peer.carried.sent_bytes, peer.links.len(), peer.links_begun)
    }

    #[test]
    fn what_a_peer_is_counted_for_only_grows_while_its_links_come_and_go() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.look(now, vec![(REACTOR, vec![link(0, 7, 5, now)])]);
        assert_eq!(carried(&peers, "00000007"), (5, 500, 1, 1));
        peers.look(now, vec![(REACTOR, vec![link(0, 7, 8, now), link(1, 7, 2, now)])]);
        assert_eq!(carried(&peers, "00000007"), (10, 1_000, 2, 2));
        peers.look(now, vec![(REACTOR, vec![link(1, 7, 3, now)])]);
        assert_eq!(carried(&peers, "00000007"), (11, 1_100, 1, 2));
        peers.look(now, vec![(REACTOR, vec![])]);
        assert_eq!(carried(&peers, "00000007"), (11, 1_100, 0, 2));
    }

    #[test]
    fn links_of_a_reactor_that_has_not_answered_are_not_counted_anew_when_it_does() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.look(now, vec![(REACTOR, vec![link(0, 7, 5, now)])]);
        peers.look(now, vec![(ReactorId(1), vec![])]);
        assert_eq!(carried(&peers, "00000007"), (5, 500, 1, 1));
        peers.look(now, vec![(REACTOR, vec![link(0, 7, 6, now)])]);
        assert_eq!(carried(&peers, "00000007"), (6, 600, 1, 1));
    }

    #[test]
    fn so_many_peers_are_named_and_the_others_counted_and_one_that_is_gone_makes_room() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let links = |from: usize, to: usize| (from..to).map(|peer| link(peer as u32, peer, 1, now)).collect();
        peers.look(now, vec![(REACTOR, links(0, PEERS_NAMED_MAX + 3))]);
        assert_eq!((peers.named.len(), peers.left_out), (PEERS_NAMED_MAX, 3));
        peers.look(now, vec![(REACTOR, links(2, PEERS_NAMED_MAX + 3))]);
        assert_eq!((peers.named.len(), peers.left_out), (PEERS_NAMED_MAX, 1));
        assert!(!peers.named.contains_key("00000000") && peers.named.contains_key("00000002"));
    }

    #[test]
    fn a_peer_that_is_gone_is_named_for_a_day_and_one_whose_id_begins_alike_is_not_taken_for_it() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.look(now, vec![(REACTOR, vec![link(0, 7, 5, now)])]);
        let mut alike = link(1, 7, 50, now);
        let PeerReport::Node { id, .. } = &mut alike.peer else { unreachable!() };
        id.0[63] = 1;
        peers.look(now, vec![(REACTOR, vec![link(0, 7, 5, now), alike])]);
        assert_eq!((carried(&peers, "00000007"), peers.left_out), ((5, 500, 1, 1), 1));
        peers.look(now + KEPT_FOR / 2, vec![(REACTOR, vec![])]);
        assert_eq!((peers.named.len(), peers.left_out), (1, 0));
        peers.look(now + KEPT_FOR, vec![(REACTOR, vec![])]);
        assert!(peers.named.is_empty());
    }
}
