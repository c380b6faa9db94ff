//! What operators announce to all nodes of the network: made here, or taken from a neighbour, checked, kept for people to
//! see, and passed on (docs/node-link.md).
//!
//! # Invariants
//! - What is taken was signed by its origin, a node that is known and connected, and is taken once.
//! - It goes over each link at most once in each direction, and not back to where it came from.
//! - Nobody but an origin can use up its rate limit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use tracing::info;

use super::{Registry, StateError};
use crate::{
    rate_limit::{Rate, RateLimit},
    relay::{RegistryOutput, report::AnnouncementReport, signing},
    wire::{
        NodeId,
        announcement::{self, Announcement, DecodeError, TextError},
        node::PacketType,
    },
};

/// Announcements that are kept for people to see, of all nodes.
pub const ANNOUNCEMENTS_MAX: usize = 64;
/// Announcements that this node makes in a minute.
pub const OWN_PER_MINUTE_MAX: u32 = 6;
/// Announcements of another node that are taken in a minute: what it may make in any two of its own that meet here.
pub const OF_NODE_PER_MINUTE_MAX: u32 = 2 * OWN_PER_MINUTE_MAX;
/// Announcements of one neighbour that are looked at in a second, of whatever origin.
pub(in crate::relay) const OF_NEIGHBOUR_PER_SECOND_MAX: u32 = 64;

/// Memory of the announcements that are kept, and of their origins, in bytes.
pub(in crate::relay) const MEMORY: usize = ANNOUNCEMENTS_MAX
    * (size_of::<RecentAnnouncement>()
        + announcement::TEXT_LEN_MAX
        + super::NEIGHBOURS_MAX * 2 * size_of::<NodeId>())
    + super::NODES_MAX * 2 * size_of::<(NodeId, Last)>();

/// Why nothing was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// It is none that may be announced.
    #[error("{0}")]
    Text(#[from] TextError),
    /// More than [`OWN_PER_MINUTE_MAX`].
    #[error("this node has made {OWN_PER_MINUTE_MAX} announcements within a minute: wait for a minute")]
    TooMany,
}

/// What was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its number in this incarnation of the node.
    pub number: u64,
    /// Neighbours that it was sent to.
    pub neighbours: usize,
    /// Other nodes that a route leads to.
    pub reachable: usize,
}

/// What the registry knows of announcements.
#[derive(Default)]
pub(super) struct Announcements {
    /// The oldest first.
    recent: VecDeque<RecentAnnouncement>,
    /// Of nodes that are known.
    last: BTreeMap<NodeId, Last>,
    own_number: u64,
    own_rate_limit: RateLimit,
}

struct RecentAnnouncement {
    announcement: Announcement,
    taken: Instant,
    /// The neighbours that have brought it, in their incarnations since.
    received_from: BTreeSet<NodeId>,
}

/// What a node announced last.
#[derive(Default)]
struct Last {
    incarnation: u64,
    number: u64,
    rate_limit: RateLimit,
}

impl Announcements {
    /// A neighbour has begun a new incarnation, or its link is gone: it may not know what it brought.
    pub(super) fn forget_neighbour(&mut self, id: &NodeId) {
        for recent in &mut self.recent {
            recent.received_from.remove(id);
        }
    }

    fn keep(&mut self, now: Instant, announcement: Announcement, from: Option<&NodeId>) {
        if self.recent.len() >= ANNOUNCEMENTS_MAX {
            self.recent.pop_front();
        }
        let received_from = from.into_iter().copied().collect();
        self.recent.push_back(RecentAnnouncement { announcement, taken: now, received_from });
    }

    /// A node is not known any more: incarnation and number of what it announced last.
    pub(super) fn forget_origin(&mut self, id: &NodeId) -> Option<(u64, u64)> {
        self.last.remove(id).map(|last| (last.incarnation, last.number))
    }

    fn last_of(&mut self, origin: &NodeId) -> &mut Last {
        self.last.entry(*origin).or_default()
    }
}

impl Registry {
    /// Announces a text to all nodes of the network.
    pub fn announce_text(&mut self, now: Instant, text: &str) -> Result<Announced, AnnounceError> {
        announcement::check_text(text)?;
        if !self.announcements.own_rate_limit.take(now, Rate::per_minute(OWN_PER_MINUTE_MAX), 1) {
            return Err(AnnounceError::TooMany);
        }
        self.announcements.own_number += 1;
        let number = self.announcements.own_number;
        let mut announcement = Announcement {
            origin: self.shared.id,
            incarnation: self.own.version().incarnation,
            number,
            text: text.to_owned(),
            signature: [0; 64],
        };
        announcement.signature = self.own.sign(&announcement.digest());
        info!(number, %text, "announcing to all nodes");
        self.counters.announcements_made.increment();
        self.pass_announcement_on(&announcement, None);
        self.announcements.keep(now, announcement, None);
        let reachable = self.routes.paths.len();
        Ok(Announced { number, neighbours: self.neighbours.len(), reachable })
    }

    fn pass_announcement_on(&mut self, announcement: &Announcement, from: Option<&NodeId>) {
        let payload = bytes::Bytes::from(announcement.encode());
        let others = self.neighbours.iter().filter(|(id, _)| Some(*id) != from);
        self.outputs.extend(others.map(|(id, neighbour)| {
            let (packet_type, payload) = (PacketType::BROADCAST, payload.clone());
            (neighbour.entry.reactor, RegistryOutput::ToNode { to: *id, packet_type, seq: None, payload })
        }));
    }

    /// A neighbour brings an announcement, its own or another node's.
    pub(super) fn handle_announcement(
        &mut self,
        now: Instant,
        from: &NodeId,
        payload: &[u8],
    ) -> Result<(), StateError> {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return Ok(()) };
        if !neighbour.announcements.take(now, Rate::per_second(OF_NEIGHBOUR_PER_SECOND_MAX), 1) {
            return Err(StateError::Rate);
        }
        let announcement = Announcement::decode(payload)?;
        let is_this = |recent: &&mut RecentAnnouncement| {
            let one = &recent.announcement;
            (one.origin, one.incarnation, one.number)
                == (announcement.origin, announcement.incarnation, announcement.number)
        };
        if let Some(recent) = self.announcements.recent.iter_mut().find(is_this) {
            if recent.announcement.text != announcement.text {
                // Nobody but the origin could sign both.
                let is_signed = is_signed(&announcement);
                return Err(if is_signed { StateError::Fork } else { StateError::Signature });
            }
            // It is flooded: once by each neighbour is how it goes.
            if !recent.received_from.insert(*from) {
                return Err(StateError::Repeated);
            }
            self.counters.announcements_repeated.increment();
            return Ok(());
        }
        let Announcement { origin, incarnation, number, .. } = announcement;
        // Of ourselves nobody knows more than we do; of others nothing is taken that could not be shown to anybody.
        let known = self.known.get(&origin).filter(|known| known.lost_since.is_none());
        let known = known.filter(|known| known.record.is_known()).map(|known| known.record.version());
        let is_late = known.is_none_or(|known| incarnation < known.incarnation);
        let last = self.announcements.last.get(&origin).map(|last| (last.incarnation, last.number));
        let last = last.or_else(|| self.tombstones.get(&origin)?.announced);
        if is_late || last.is_some_and(|last| (incarnation, number) <= last) {
            self.counters.announcements_late.increment();
            return Ok(());
        }
        if !is_signed(&announcement) {
            return Err(StateError::Signature);
        }
        let last = self.announcements.last_of(&origin);
        // After that: nobody else's forgeries use it up.
        if !last.rate_limit.take(now, Rate::per_minute(OF_NODE_PER_MINUTE_MAX), 1) {
            return Err(StateError::Rate);
        }
        (last.incarnation, last.number) = (incarnation, number);
        self.counters.announcements_taken.increment();
        if self.log_announcements.admits(now) {
            let (agency, name) = self.label_of(&origin);
            // Quoted: whatever character is in it, a terminal does not obey it.
            info!(node = %origin.to_hex(), agency, name, text = %announcement.text, "announcement");
        }
        self.pass_announcement_on(&announcement, Some(from));
        self.announcements.keep(now, announcement, Some(from));
        Ok(())
    }

    /// The organisation and the name in a node's certificate, where that is known: it was seen by its neighbours only.
    fn label_of(&self, id: &NodeId) -> (&str, &str) {
        if *id == self.shared.id {
            return (&self.shared.own_agency, &self.shared.own_name);
        }
        self.neighbours.get(id).map_or(("", ""), |neighbour| (&neighbour.agency, &neighbour.name))
    }

    /// Tells what was announced, the latest first.
    pub fn report_announcements(&self) -> Vec<AnnouncementReport> {
        let report = |recent: &RecentAnnouncement| {
            let Announcement { origin, incarnation, number, text, .. } = &recent.announcement;
            let (agency, name) = self.label_of(origin);
            AnnouncementReport {
                origin: *origin,
                incarnation: *incarnation,
                number: *number,
                agency: agency.to_owned(),
                name: name.to_owned(),
                taken: recent.taken,
                text: text.clone(),
            }
        };
        self.announcements.recent.iter().rev().map(report).collect()
    }
}

fn is_signed(announcement: &Announcement) -> bool {
    signing::verify(&announcement.origin, &announcement.digest(), &announcement.signature)
}

impl From<DecodeError> for StateError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Malformed => Self::Malformed,
            DecodeError::Oversized => Self::Size,
        }
    }
}
