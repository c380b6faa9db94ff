//! The exchange of records with neighbours (WIRE §6.3): who offers what, what is asked of whom, what is taken and
//! passed on.
//!
//! ```text
//!   steps ─► taken? ─► snapshot, topology, and on to the other neighbours
//!                └ gap ──┐
//!   list, digest ─► offers ─► one request for each record ─► steps, or the whole in parts
//! ```
//!
//! # Invariants
//! - What a neighbour claims to have is only an offer: it is asked for once, and forgotten if nothing comes of it.
//! - Requests are bounded, and one that ends leaves nothing behind (`requests`).
//! - A record that no path leads to is offered to nobody, so that one whose node is gone dies out.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};

use super::{
    NODES_MAX, NeighbourSync, Registry, StateError,
    history::{Held, Pinned},
    record::{Part, Record, Taken, version_of},
    requests::{Offers, Requests, WANTS_MAX},
    tombstones::Tombstone,
};
use crate::{
    rate_limit::Rate,
    relay::{CloseReason, Fault, ReactorId, RegistryOutput, signing, snapshot::NodeRef},
    wire::{
        NodeId,
        node::PacketType,
        state::{self, Entries, Head, Message, MessageError, Scope, Step, Version},
    },
};

/// Requests of one neighbour that are answered per second.
pub(super) const REQUESTS_PER_SECOND_MAX: u32 = 1_024;
/// Steps of one neighbour that are looked at per second, of whatever origin.
pub(super) const STEPS_OF_NEIGHBOUR_PER_SECOND_MAX: u32 = 10_000;
/// Records that one neighbour may be fetching in parts.
pub(super) const PINS_MAX: usize = WANTS_MAX;
/// A neighbour whose messages are refused more often per minute loses its link.
pub(super) const REFUSALS_PER_MINUTE_MAX: u32 = 100;
/// A node that hears of itself takes a later incarnation at most so often …
pub(super) const INCARNATIONS_MAX: u32 = 4;
/// … in this time. Parts of the network that were apart may know it by different incarnations, so once is not enough; two nodes
/// with one key must not keep all others busy.
const INCARNATION_INTERVAL: Duration = Duration::from_secs(10);
/// An incarnation that begins because a later one was heard of is later than that by less than this, in µs, beside the least that
/// it must be.
const LIFE_JUMP_MAX: u32 = 1 << 20;
/// Who hears of later incarnations of itself so often …
const TWIN_HEARD: u32 = 3;
/// … each within so long of the one before shares its key with another node: parts of the network that know different incarnations do not come in such a row.
const TWIN_WITHIN: Duration = Duration::from_secs(60);

/// Another node of the network, as far as this one has heard of it.
pub(super) struct Known {
    pub(super) record: Record,
    /// Neighbours that say that they have something newer.
    pub(super) offers: Offers,
    /// As the snapshot names it, while its entries are in there.
    pub(super) routed: Option<NodeRef>,
    pub(super) since: Instant,
    /// Since when it is in no part of the network that this node is in; `None` if it is.
    pub(super) lost_since: Option<Instant>,
}

impl Known {
    fn new(now: Instant, floor: Version) -> Self {
        Self {
            record: Record::new(floor),
            offers: Offers::default(),
            routed: None,
            since: now,
            lost_since: Some(now),
        }
    }
}

/// What was taken and is to be passed on.
#[derive(Default)]
pub(super) struct News {
    /// With the neighbours that they came from.
    steps: Vec<(NodeId, Head, Vec<u8>)>,
    /// Records that came whole.
    pub(super) versions: Vec<(NodeId, Version)>,
}

impl Registry {
    /// The versions of all records that a neighbour may ask for.
    pub(super) fn shared_versions(&self) -> Vec<Version> {
        let known = self.known.values().filter(|known| known.lost_since.is_none() && known.record.is_known());
        std::iter::once(self.own.version()).chain(known.map(|known| known.record.version())).collect()
    }

    fn held(&self, origin: &NodeId) -> Option<Held<'_>> {
        if *origin == self.shared.id {
            return Some(self.own.held());
        }
        self.known.get(origin).map(|known| known.record.held())
    }

    pub(super) fn handle_state(
        &mut self,
        now: Instant,
        from: &NodeId,
        packet_type: PacketType,
        seq: u32,
        payload: &[u8],
    ) -> Result<(), StateError> {
        if !self.neighbours.contains_key(from) {
            return Ok(());
        }
        let message = match Message::decode(payload) {
            Err(MessageError::UnknownKind(_)) => {
                self.counters.unknown_kinds.increment();
                return Ok(());
            }
            message => message?,
        };
        match (packet_type, message) {
            (PacketType::STATE_SEQ, Message::Steps(steps)) => {
                for (head, changes) in steps {
                    self.take_step(now, from, head, changes, true)?;
                }
            }
            (PacketType::STATE_REPLY, Message::Steps(steps)) => {
                let origin = steps.first().ok_or(StateError::Malformed)?.0.origin;
                self.end_request(from, &origin)?;
                let before = self.progress(&origin);
                let taken = self.take_steps_of(now, from, &origin, steps);
                self.note_reply(from, &origin, before, &taken);
                // One reply may not hold all.
                self.ask(now, &origin);
                taken?;
            }
            (PacketType::STATE_REPLY, Message::Part { head, after, last, entries }) => {
                let origin = head.origin;
                self.end_request(from, &origin)?;
                let before = self.progress(&origin);
                let taken = self.take_part(now, from, Part { head, after, last, entries });
                self.note_reply(from, &origin, before, &taken);
                self.ask(now, &origin);
                taken?;
            }
            (PacketType::STATE_SEQ, Message::Digest { scope: Scope::ALL, hash }) => {
                if hash != state::versions_hash(&mut self.shared_versions()) {
                    self.send(from, PacketType::STATE_REQUEST, None, Message::WantList.encode());
                }
            }
            (PacketType::STATE_SEQ, Message::Digest { .. }) => self.counters.unknown_kinds.increment(),
            // Lists are small and may come unasked.
            (PacketType::STATE_SEQ | PacketType::STATE_REPLY, Message::List(versions)) => {
                self.offer_later_incarnations(from, &versions);
                for version in &versions {
                    self.handle_offer(now, from, version, packet_type == PacketType::STATE_REPLY);
                }
                self.hear_what_it_knows(from, &versions);
            }
            (PacketType::STATE_REQUEST, message @ (Message::WantList | Message::Want { .. })) => {
                self.handle_request(now, from, seq, &message)?;
            }
            _ => return Err(StateError::Malformed),
        }
        self.ask_for_more(now, from);
        Ok(())
    }

    /// A neighbour says how far it knows a record.
    fn handle_offer(&mut self, now: Instant, from: &NodeId, version: &Version, is_reply: bool) {
        if version.origin == self.shared.id {
            self.hear_of_own(now, from, version, is_reply);
            return;
        }
        if !self.known.contains_key(&version.origin)
            && (version.seq == 0 || self.is_buried_later(version) || !self.admit_origin(now, version))
        {
            return;
        }
        let Some(known) = self.known.get_mut(&version.origin) else { return };
        let was_asked = is_reply && self.requests.asked(&version.origin) == Some(from);
        if was_asked && !known.record.lacks(version) {
            // The answer to a request for something newer: there is nothing.
            self.requests.end(&version.origin);
            known.offers.forget(from);
        } else {
            self.note_offer(from, version);
        }
        self.ask(now, &version.origin);
    }

    /// Whether a node is gone whose incarnation was a later one.
    fn is_buried_later(&self, version: &Version) -> bool {
        let buried = self.tombstones.get(&version.origin);
        buried.is_some_and(|buried| version.incarnation < buried.head.incarnation)
    }

    /// Offers what is known of nodes that are gone to a neighbour that has older incarnations of them. If one of those has come
    /// back with its clock behind, it hears of itself that way, wherever it is; else somebody brings what is over.
    fn offer_later_incarnations(&mut self, to: &NodeId, versions: &[Version]) {
        let is_older = |version: &&Version| {
            version.seq > 0 && !self.known.contains_key(&version.origin) && self.is_buried_later(version)
        };
        let older = versions.iter().filter(is_older);
        let later: Vec<Version> = older
            .filter_map(|version| self.tombstones.get(&version.origin))
            .map(Tombstone::version)
            .collect();
        if !later.is_empty() {
            self.send(to, PacketType::STATE_SEQ, None, Message::List(later).encode());
        }
    }

    fn note_offer(&mut self, from: &NodeId, version: &Version) {
        let Some(known) = self.known.get_mut(&version.origin) else { return };
        if known.record.lacks(version) {
            known.offers.note(from, version);
            self.behind.insert(version.origin);
        } else {
            known.offers.forget(from);
        }
    }

    /// How far a record has come here, a transfer in parts included.
    fn progress(&self, origin: &NodeId) -> Option<(Version, usize)> {
        self.known.get(origin).map(|known| (known.record.version(), known.record.transferred()))
    }

    /// A neighbour has replied about a record that had come as far as `before`.
    fn note_reply(
        &mut self,
        from: &NodeId,
        origin: &NodeId,
        before: Option<(Version, usize)>,
        taken: &Result<(), StateError>,
    ) {
        let is_further = self.progress(origin) != before;
        if *origin == self.shared.id {
            // All that it can say of this node it has said now.
            self.own_offers.forget(from);
        }
        let Some(known) = self.known.get_mut(origin) else { return };
        match taken {
            // The record contradicts what is known here: the same neighbour may have it whole.
            Ok(()) if is_further => known.offers.note_success(from),
            Err(StateError::Chain | StateError::Fork) | Ok(()) => known.offers.note_failure(from),
            // What this neighbour has is of no use.
            Err(_) => known.offers.forget(from),
        }
    }

    /// Makes room for what is heard of a node for the first time. `false` if it must not, or cannot, be known here.
    fn admit_origin(&mut self, now: Instant, version: &Version) -> bool {
        if self.known.len() >= NODES_MAX {
            self.counters.refused_nodes.increment();
            if self.log_no_room.admits(now) {
                warn!(
                    node = %version.origin,
                    "a node is not known here, the network has more than {NODES_MAX} others: see who they are by `amop net`",
                );
            }
            return false;
        }
        let unknown = Version { origin: version.origin, incarnation: 0, seq: 0 };
        let floor = self.tombstones.get(&version.origin).map_or(unknown, Tombstone::version);
        self.known.insert(version.origin, Known::new(now, floor));
        true
    }

    /// A new link to a neighbour, perhaps in a new incarnation: nothing that it said before holds.
    pub(super) fn begin_exchange(&mut self, now: Instant, id: &NodeId, incarnation: u64) {
        self.end_exchange(now, id);
        // What it signed counts, however late that says it was; what only a Hello said does not outlive its link.
        let is_kept =
            |known: &Known| known.record.is_known() && known.record.version().incarnation >= incarnation;
        if !self.known.get(id).is_some_and(is_kept) {
            self.bury(now, id);
            self.forget_record(id);
            let begun = Version { origin: *id, incarnation, seq: 0 };
            let buried = self.tombstones.get(id).map(Tombstone::version);
            let floor = buried.filter(|buried| buried.incarnation >= incarnation).unwrap_or(begun);
            if self.known.len() < NODES_MAX {
                self.known.insert(*id, Known::new(now, floor));
            }
        }
        // The neighbour asks for what it does not have.
        let list = Message::List(self.list_for(id)).encode();
        self.send(id, PacketType::STATE_SEQ, None, list);
    }

    /// What a new neighbour is told: also what is known of itself, though nobody else may be linked with it.
    fn list_for(&self, id: &NodeId) -> Vec<Version> {
        let mut versions = self.shared_versions();
        let known = self.known.get(id).filter(|known| known.lost_since.is_some() && known.record.is_known());
        let known = known.map(|known| known.record.version());
        versions.extend(known.or_else(|| self.tombstones.get(id).map(Tombstone::version)));
        versions.truncate(state::LIST_MAX);
        versions
    }

    /// A neighbour is asked for nothing any more; others are asked for what it was asked for.
    pub(super) fn end_exchange(&mut self, now: Instant, id: &NodeId) {
        for known in self.known.values_mut() {
            known.offers.forget(id);
        }
        self.own_offers.forget(id);
        if let Some(neighbour) = self.neighbours.get_mut(id) {
            neighbour.pinned.clear();
        }
        self.end_requests_of(now, id);
    }

    /// What a neighbour was asked for it will not answer any more.
    pub(super) fn end_requests_of(&mut self, now: Instant, id: &NodeId) {
        for origin in self.requests.end_all_of(id) {
            self.ask(now, &origin);
        }
    }

    /// Asks others for what neighbours did not answer in time.
    pub(super) fn expire_requests(&mut self, now: Instant) {
        let mut is_any_late = false;
        while let Some((origin, neighbour)) = self.requests.end_late(now) {
            is_any_late = true;
            if origin == self.shared.id {
                self.own_offers.note_failure(&neighbour);
            } else if let Some(known) = self.known.get_mut(&origin) {
                known.offers.note_failure(&neighbour);
            }
            self.ask(now, &origin);
        }
        if is_any_late {
            self.ask_for_all(now);
        }
    }

    /// Asks for all that is lacking here and that nobody is asked for.
    pub(super) fn ask_for_all(&mut self, now: Instant) {
        for origin in self.behind.clone() {
            self.ask(now, &origin);
        }
    }

    /// A reply came. An error if none was asked for.
    fn end_request(&mut self, from: &NodeId, origin: &NodeId) -> Result<(), StateError> {
        if self.requests.asked(origin) != Some(from) {
            return Err(StateError::Unasked);
        }
        self.requests.end(origin);
        Ok(())
    }

    /// Asks for what is newer of a record, if anybody has it and nobody is asked yet.
    pub(super) fn ask(&mut self, now: Instant, origin: &NodeId) {
        if *origin == self.shared.id {
            return self.ask_for_own(now);
        }
        let Some(known) = self.known.get_mut(origin) else {
            self.behind.remove(origin);
            return;
        };
        let record = &known.record;
        known.offers.retain(|version| record.lacks(version));
        if known.offers.is_empty() {
            self.behind.remove(origin);
            if !known.record.is_known() && !self.neighbours.contains_key(origin) {
                self.forget_record(origin);
            }
            return;
        }
        if self.requests.asked(origin).is_some() {
            return;
        }
        let Some(from) = known.offers.best(|id| can_be_asked(&self.neighbours, &self.requests, id)) else {
            return;
        };
        let Some((version, after)) = known.record.want(now) else { return };
        let want = Message::Want { known: version, after }.encode();
        self.requests.begin(now, *origin, from);
        self.send(&from, PacketType::STATE_REQUEST, None, want);
    }

    /// The same for this node's own record.
    fn ask_for_own(&mut self, now: Instant) {
        let own = self.own.version();
        self.own_offers.retain(|version| (version.incarnation, version.seq) > (own.incarnation, own.seq));
        if self.requests.asked(&own.origin).is_some() {
            return;
        }
        let best = self.own_offers.best(|id| can_be_asked(&self.neighbours, &self.requests, id));
        let Some(from) = best else { return };
        let known = Version { origin: own.origin, incarnation: 0, seq: 0 };
        self.requests.begin(now, own.origin, from);
        self.send(&from, PacketType::STATE_REQUEST, None, Message::Want { known, after: b"" }.encode());
    }

    /// A neighbour has answered: asks it for the next of the records that wait.
    fn ask_for_more(&mut self, now: Instant, from: &NodeId) {
        if self.behind.is_empty() || !self.requests.has_room(from) {
            return;
        }
        for origin in self.behind.clone() {
            if !self.requests.has_room(from) {
                return;
            }
            self.ask(now, &origin);
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        from: &NodeId,
        seq: u32,
        message: &Message<'_>,
    ) -> Result<(), StateError> {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return Ok(()) };
        if !neighbour.requests.take(now, Rate::per_second(REQUESTS_PER_SECOND_MAX), 1) {
            return Err(StateError::Rate);
        }
        let answer = match message {
            Message::Want { known, after } => self.answer_want(now, from, known, after),
            _ => Message::List(self.shared_versions()).encode(),
        };
        self.send(from, PacketType::STATE_REPLY, Some(seq), answer);
        self.counters.requests_answered.increment();
        Ok(())
    }

    fn answer_want(&mut self, now: Instant, from: &NodeId, known: &Version, after: &[u8]) -> Vec<u8> {
        let nothing = Version { origin: known.origin, incarnation: 0, seq: 0 };
        let pinned =
            self.neighbours.get_mut(from).and_then(|neighbour| neighbour.pinned.remove(&known.origin));
        let held = self.held(&known.origin).filter(|held| held.head.is_some());
        let Some(held) = held else {
            return match self.tombstones.get(&known.origin) {
                // Whoever it is about sees by the head that it had a later incarnation, and others that what they have of it is old.
                Some(Tombstone { head, .. })
                    if known.origin == *from || known.incarnation < head.incarnation =>
                {
                    Message::Part { head: head.clone(), after: b"", last: true, entries: b"" }.encode()
                }
                _ => Message::List(vec![nothing]).encode(),
            };
        };
        let version = held.head.map_or(nothing, version_of);
        match if after.is_empty() { held.steps_after(known) } else { None } {
            Some(steps) if steps.is_empty() => return Message::List(vec![version]).encode(),
            Some(steps) => return Message::Steps(steps).encode(),
            None => {}
        }
        // The first part, or one whose record was let go: from the record as it is.
        let kept = pinned.filter(|_| !after.is_empty());
        let Some(pinned) = kept.or_else(|| held.pin()) else {
            return Message::List(vec![version]).encode();
        };
        let (part, last) = pinned.part(after);
        if !last {
            self.pin(now, from, known.origin, pinned);
        }
        part
    }

    /// Keeps a record as it is while a neighbour fetches it; in the place of the one that was asked for least lately
    /// if there are too many.
    fn pin(&mut self, now: Instant, for_neighbour: &NodeId, origin: NodeId, pinned: Pinned) {
        let Some(neighbour) = self.neighbours.get_mut(for_neighbour) else { return };
        if neighbour.pinned.len() >= PINS_MAX && neighbour.pinned.pop_oldest().is_some() {
            self.counters.pins_forgotten.increment();
        }
        neighbour.pinned.insert(now, origin, pinned);
    }

    fn room_beside(&self, record: &Record) -> (usize, usize) {
        let others = self.records_bytes - record.footprint();
        (others, self.shared.settings.records_bytes_max.saturating_sub(others))
    }

    fn set_records_bytes(&mut self, bytes: usize) {
        self.records_bytes = bytes;
        self.counters.records_bytes.set(bytes as u64);
    }

    /// Takes the steps of one record that were asked for.
    fn take_steps_of(
        &mut self,
        now: Instant,
        from: &NodeId,
        origin: &NodeId,
        steps: Vec<Step<'_>>,
    ) -> Result<(), StateError> {
        for (head, changes) in steps {
            if head.origin != *origin {
                return Err(StateError::Malformed);
            }
            self.take_step(now, from, head, changes, false)?;
        }
        Ok(())
    }

    fn take_step(
        &mut self,
        now: Instant,
        from: &NodeId,
        head: Head,
        changes: &[u8],
        announced: bool,
    ) -> Result<(), StateError> {
        let version = version_of(&head);
        let origin = version.origin;
        if origin == self.shared.id {
            self.hear_of_own_step(now, from, &head);
            return Ok(());
        }
        if self.known.get(&origin).is_some_and(|known| !known.record.lacks(&version)) {
            self.counters.stale.increment();
            return Ok(());
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return Ok(()) };
        if announced && !neighbour.steps.take(now, Rate::per_second(STEPS_OF_NEIGHBOUR_PER_SECOND_MAX), 1) {
            return Err(StateError::Rate);
        }
        if !self.known.contains_key(&origin) {
            if self.is_buried_later(&version) {
                self.counters.stale.increment();
                return Ok(());
            }
            // Only what is signed makes a node known.
            if !signing::verify(&origin, &head.digest(), &head.signature) {
                return Err(StateError::Signature);
            }
            if !self.admit_origin(now, &version) {
                return Err(StateError::Room);
            }
        }
        let Some(known) = self.known.get(&origin) else { return Ok(()) };
        let (others, room) = self.room_beside(&known.record);
        let Some(known) = self.known.get_mut(&origin) else { return Ok(()) };
        let passed_on = head.clone();
        let taken = known.record.take_step(now, head, changes, announced, room);
        let footprint = known.record.footprint();
        self.set_records_bytes(others + footprint);
        match taken {
            Ok(Taken::Changes(decoded)) => {
                self.counters.steps_taken.increment();
                self.record_changed(&origin, &decoded);
                self.news.steps.push((*from, passed_on, changes.to_vec()));
            }
            Ok(Taken::Exchanged(before)) => {
                self.counters.steps_taken.increment();
                self.record_exchanged(&origin, &before);
                self.news.steps.push((*from, passed_on, changes.to_vec()));
            }
            Ok(Taken::Gap) => {
                self.note_offer(from, &version);
                if announced {
                    self.ask(now, &origin);
                }
            }
            Ok(Taken::Stale | Taken::Partly) => self.counters.stale.increment(),
            Err(error) => {
                if error == StateError::Chain {
                    self.note_offer(from, &version);
                    if announced {
                        self.ask(now, &origin);
                    }
                }
                return Err(match error {
                    // The origin has signed both; who passes one on has done no wrong.
                    StateError::Chain if origin != *from => StateError::Fork,
                    error => error,
                });
            }
        }
        Ok(())
    }

    fn take_part(&mut self, now: Instant, from: &NodeId, part: Part<'_>) -> Result<(), StateError> {
        let Part { ref head, after, last, entries } = part;
        let version = version_of(head);
        let origin = version.origin;
        if origin == self.shared.id {
            self.hear_of_own_step(now, from, head);
            return Ok(());
        }
        let Some(known) = self.known.get(&origin) else { return Ok(()) };
        if known.record.version().incarnation < version.incarnation
            && after.is_empty()
            && entries.is_empty()
            && last
            && head.root != Entries::default().root()
        {
            return self.take_tombstone(now, part.head);
        }
        let (others, room) = self.room_beside(&known.record);
        let Some(known) = self.known.get_mut(&origin) else { return Ok(()) };
        let taken = known.record.take_part(now, room, part);
        let footprint = known.record.footprint();
        self.set_records_bytes(others + footprint);
        match taken {
            Ok(Taken::Partly | Taken::Gap) => {
                // The neighbour may have gone on since it offered.
                self.note_offer(from, &version);
            }
            Ok(Taken::Exchanged(before)) => {
                self.counters.records_taken.increment();
                self.record_exchanged(&origin, &before);
                self.news.versions.push((*from, version));
                if self.log_received.admits(now) {
                    info!(node = %origin, peer = %from, "state of a node received whole");
                }
            }
            Ok(Taken::Stale | Taken::Changes(_)) => self.counters.stale.increment(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A neighbour remembers a later incarnation of a node, and nothing of what it said: what is known here of that node is over.
    fn take_tombstone(&mut self, now: Instant, head: Head) -> Result<(), StateError> {
        let origin = head.origin;
        if !signing::verify(&origin, &head.digest(), &head.signature) {
            return Err(StateError::Signature);
        }
        let version = version_of(&head);
        self.bury(now, &origin);
        self.forget_record(&origin);
        let is_admitted = self.shared.admission.load().admits(&origin);
        self.tombstones.bury(head, None, is_admitted, Duration::ZERO);
        if self.neighbours.contains_key(&origin) {
            // It may be that node that lives, with its clock behind.
            self.known.insert(origin, Known::new(now, version));
            self.send(&origin, PacketType::STATE_SEQ, None, Message::List(vec![version]).encode());
        }
        Ok(())
    }

    /// Passes on what was taken since the last time, to everybody but those it came from.
    pub(super) fn pass_on(&mut self) {
        let News { steps, versions } = std::mem::take(&mut self.news);
        if steps.is_empty() && versions.is_empty() {
            return;
        }
        let sources: Vec<NodeId> =
            steps.iter().map(|(from, ..)| *from).chain(versions.iter().map(|(from, _)| *from)).collect();
        let messages = |except: Option<&NodeId>| {
            let steps = steps.iter().filter(|(from, ..)| Some(from) != except);
            let mut messages = encode_steps(steps.map(|(_, head, changes)| (head, changes.as_slice())));
            let versions: Vec<Version> = versions
                .iter()
                .filter(|(from, _)| Some(from) != except)
                .map(|(_, version)| *version)
                .collect();
            messages
                .extend(versions.chunks(state::LIST_MAX).map(|part| Message::List(part.to_vec()).encode()));
            messages.into_iter().map(bytes::Bytes::from).collect::<Vec<_>>()
        };
        let for_others = messages(None);
        for (id, neighbour) in &self.neighbours {
            let own = sources.contains(id).then(|| messages(Some(id)));
            let payloads = own.as_ref().unwrap_or(&for_others);
            self.outputs.extend(payloads.iter().map(|payload| neighbour.announcement(payload.clone())));
        }
    }

    /// Somebody says that it has a later record of this node: only what we have signed is believed.
    fn hear_of_own(&mut self, now: Instant, from: &NodeId, version: &Version, is_reply: bool) {
        let own = self.own.version();
        if (version.incarnation, version.seq) > (own.incarnation, own.seq) {
            self.own_offers.note(from, version);
        } else {
            self.own_offers.forget(from);
            if is_reply && self.requests.asked(&own.origin) == Some(from) {
                self.requests.end(&own.origin);
            }
        }
        self.ask_for_own(now);
    }

    /// A head of this node's own record. If it is of an incarnation that is not this one, or of a longer one, our clock went
    /// back: a later incarnation begins, so that the network takes what we say (WIRE §6.3).
    fn hear_of_own_step(&mut self, now: Instant, from: &NodeId, head: &Head) {
        let own = self.own.version();
        if (head.incarnation, head.seq) <= (own.incarnation, own.seq) {
            return;
        }
        if !signing::verify(&self.shared.id, &head.digest(), &head.signature) {
            return;
        }
        self.counters.own_id_elsewhere.increment();
        self.say_own_id_elsewhere(now, from, head);
        if !self.incarnation_rate.take(now, Rate::new(INCARNATIONS_MAX, INCARNATION_INTERVAL), 1) {
            return;
        }
        self.begin_incarnation(head.incarnation);
    }

    /// Begins an incarnation that is later than another one, by chance up to a second: whoever is told of the same incarnation at each
    /// start is not to begin the same one each time.
    pub(super) fn begin_incarnation(&mut self, after: u64) {
        let [_, a, b, c, ..] = self.shared.salt;
        let jump = u32::from_be_bytes([0, a, b, c]) % LIFE_JUMP_MAX;
        let incarnation = after.saturating_add(1).saturating_add(jump.into());
        self.shared.set_incarnation(incarnation);
        self.shared.has_forgotten.store(false, Relaxed);
        self.own.begin_incarnation(incarnation);
        // Also links that are no neighbours' yet have said Hello in the incarnation before.
        let reactors = (0..self.shared.reactors).map(ReactorId);
        self.outputs.extend(reactors.map(|reactor| (reactor, RegistryOutput::NewIncarnation)));
    }

    /// Once a later incarnation has begun, nobody but another node with our key goes beyond it again and again.
    fn say_own_id_elsewhere(&mut self, now: Instant, from: &NodeId, head: &Head) {
        let heard = match self.own_elsewhere {
            Some((at, heard)) if now.saturating_duration_since(at) < TWIN_WITHIN => heard.saturating_add(1),
            _ => 1,
        };
        self.own_elsewhere = Some((now, heard));
        if !self.log_own_id.admits(now) {
            return;
        }
        let address = self.neighbours.get(from).map(|neighbour| neighbour.address.as_str());
        if heard >= TWIN_HEARD {
            error!(
                incarnation = head.incarnation, heard_from = %from, address,
                "two nodes have one key: another node that lives signs as this one, and the network follows whoever spoke last; stop one, and \
                 give it a key of its own (amop pki). The log of the node that this was heard from may have its address",
            );
        } else {
            warn!(
                incarnation = head.incarnation, heard_from = %from, address,
                "the network knows this node's id with a later start than ours: it begins a new incarnation; set this machine's clock right, or give two nodes with one key a key each",
            );
        }
    }

    pub(super) fn refuse(&mut self, now: Instant, from: &NodeId, error: StateError) {
        self.counters.refused(error).increment();
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if error == StateError::Room {
            if self.log_no_room.admits(now) {
                warn!(peer = %from, %error, "topics of a node are not known here in full: raise the bound, or have less topics");
            }
            return;
        }
        if error.fault() != Fault::Protocol {
            debug!(peer = %from, %error, "state of a neighbour ignored");
            return;
        }
        if !neighbour.refusals.take(now, Rate::per_minute(REFUSALS_PER_MINUTE_MAX), 1) {
            if self.log_bad_state.admits(now) {
                warn!(peer = %from, %error, "closing a neighbour's link: it goes on to send bad state; see what it runs");
            }
            let reactor = neighbour.entry.reactor;
            let output = RegistryOutput::CloseNode { id: *from, reason: CloseReason::NodeFrame };
            return self.outputs.push_back((reactor, output));
        }
        // The counters say how often.
        if neighbour.refusals_logged.take(now, Rate::per_minute(1), 1) && self.log_refused.admits(now) {
            warn!(peer = %from, %error, "state of a neighbour refused; see that it runs the same version");
        } else {
            debug!(peer = %from, %error, "state of a neighbour refused");
        }
    }
}

/// Whether a neighbour's link is there, and one more request may go to it.
fn can_be_asked(neighbours: &BTreeMap<NodeId, NeighbourSync>, requests: &Requests, id: &NodeId) -> bool {
    neighbours.get(id).is_some_and(|neighbour| !neighbour.is_lost) && requests.has_room(id)
}

/// As few messages as the bounds allow.
fn encode_steps<'a>(steps: impl Iterator<Item = (&'a Head, &'a [u8])>) -> Vec<Vec<u8>> {
    let (mut messages, mut waiting, mut len) = (Vec::new(), Vec::new(), 0);
    for (head, changes) in steps {
        let cost = Head::LEN + 4 + changes.len();
        if !waiting.is_empty() && (len + cost > state::STEPS_LEN_MAX || waiting.len() >= state::STEPS_MAX) {
            messages.push(Message::Steps(std::mem::take(&mut waiting)).encode());
            len = 0;
        }
        len += cost;
        waiting.push((head.clone(), changes));
    }
    if !waiting.is_empty() {
        messages.push(Message::Steps(waiting).encode());
    }
    messages
}
