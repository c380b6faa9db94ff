//! Whether what a neighbour knows has come here since its link is up. Until then nobody can be told for certain that a
//! topic has no subscriber.
//!
//! A neighbour says first, by a list in which it is itself, how far it knows every record. Its state is here when none
//! of those is lacking any more, or it could not give one. If more of itself is known here, it has come back with its clock
//! behind and does not know yet: its state is that of the later incarnation, which it begins when it hears of this (WIRE §6.3). It
//! makes its links anew then, and is waited for until it has.

use std::{collections::BTreeSet, time::Instant};

use super::{NEIGHBOURS_MAX, Registry, tombstones::Tombstone};
use crate::wire::{NodeId, state::Version};

/// How far the state of a neighbour has come.
pub(super) enum CatchUp {
    /// It has not said what it knows; the link is up since then. What it said before it began a later incarnation is kept.
    Unheard { since: Instant, said: Vec<Version> },
    /// These are on their way.
    Behind { since: Instant, lacking: Vec<Version> },
    /// All is here, or was waited for long enough.
    Settled,
}

impl CatchUp {
    /// A list of a neighbour came, of which this is known here.
    fn hear(&mut self, known: &Version, versions: &[Version]) {
        if let Self::Unheard { since, said } = self
            && let Some(own) = versions.iter().find(|version| version.origin == known.origin)
        {
            if own < known {
                if said.len() < versions.len() {
                    *said = versions.to_vec();
                }
            } else {
                let lacking = said.iter().chain(versions).copied().collect();
                *self = Self::Behind { since: *since, lacking };
            }
        }
    }

    /// Since when it is waited for; `None` if it is not.
    fn since(&self) -> Option<Instant> {
        match self {
            Self::Unheard { since, .. } | Self::Behind { since, .. } => Some(*since),
            Self::Settled => None,
        }
    }
}

impl Registry {
    /// The neighbours whose state is here.
    pub fn settled(&self) -> &BTreeSet<NodeId> {
        &self.settled
    }

    /// The same, if it is not what it was the last time.
    pub fn take_settled(&mut self) -> Option<BTreeSet<NodeId>> {
        std::mem::take(&mut self.settled_changed).then(|| self.settled.clone())
    }

    /// A list of a neighbour came, once what it offers is noted.
    pub(super) fn hear_what_it_knows(&mut self, from: &NodeId, versions: &[Version]) {
        let known = self.known.get(from).map(|known| known.record.version());
        let nothing = Version { origin: *from, incarnation: 0, seq: 0 };
        // Be it gone.
        let latest = known.max(self.tombstones.get(from).map(Tombstone::version)).unwrap_or(nothing);
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.catch_up.hear(&latest, versions);
        }
    }

    /// The state of a neighbour is waited for, for its link is new.
    pub(super) fn begin_catch_up(&mut self, now: Instant, id: &NodeId) {
        if let Some(neighbour) = self.neighbours.get_mut(id) {
            neighbour.catch_up = CatchUp::Unheard { since: now, said: Vec::new() };
            self.returning.remove(id);
            self.unsettled.insert(*id);
            self.settled_changed |= self.settled.remove(id);
        }
    }

    /// The state of a neighbour that is gone is not waited for, unless it has to begin a later incarnation.
    pub(super) fn end_catch_up(&mut self, id: &NodeId) {
        if self.unsettled.remove(id)
            && let Some(CatchUp::Unheard { since, said }) = self.neighbours.get(id).map(|one| &one.catch_up)
            && !said.is_empty()
            && self.returning.len() < NEIGHBOURS_MAX
        {
            self.returning.insert(*since, *id, ());
        }
        self.settled_changed |= self.settled.remove(id);
    }

    /// Looks whose state is here now; before the snapshot goes out.
    pub(super) fn look_at_catch_ups(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let is_coming = |version: &Version| {
            let known = self.known.get(&version.origin);
            known.is_some_and(|known| known.record.lacks(version) && !known.offers.is_empty())
        };
        let mut here = Vec::new();
        for id in &self.unsettled {
            let Some(neighbour) = self.neighbours.get_mut(id) else { continue };
            if let CatchUp::Behind { lacking, .. } = &mut neighbour.catch_up {
                lacking.retain(is_coming);
                if lacking.is_empty() {
                    here.push(*id);
                }
            }
        }
        self.settle(&here);
    }

    /// Waits no longer for those whose state was waited for long enough.
    pub(super) fn expire_catch_ups(&mut self, now: Instant) {
        let timeout = self.shared.settings.ready_timeout;
        let is_late = |id: &&NodeId| {
            let since = self.neighbours.get(id).and_then(|neighbour| neighbour.catch_up.since());
            since.is_none_or(|since| now >= since + timeout)
        };
        let late: Vec<NodeId> = self.unsettled.iter().filter(is_late).copied().collect();
        self.settle(&late);
        while self.returning.pop_expired(now).is_some() {}
    }

    /// Whether no neighbour's state is waited for.
    pub(super) fn is_complete(&self) -> bool {
        self.unsettled.is_empty() && self.returning.is_empty()
    }

    fn settle(&mut self, neighbours: &[NodeId]) {
        for id in neighbours {
            if let Some(neighbour) = self.neighbours.get_mut(id) {
                neighbour.catch_up = CatchUp::Settled;
                self.settled.insert(*id);
                self.settled_changed = true;
            }
            self.unsettled.remove(id);
        }
    }

    /// When the next neighbour is not waited for any more.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        let since = self.unsettled.iter().filter_map(|id| self.neighbours.get(id)?.catch_up.since());
        let timeout = self.shared.settings.ready_timeout;
        since.map(|since| since + timeout).chain(self.returning.deadline()).min()
    }
}
