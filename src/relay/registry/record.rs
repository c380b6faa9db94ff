//! Another node's record as this node holds it: what is taken, what is refused.
//!
//! # Invariants
//! - The entries are those of a head that the origin signed: a step that does not lead to its signed
//!   root leaves no trace.
//! - The version never goes back: not within an incarnation, and not to an earlier one.

use std::time::{Duration, Instant};

use super::{
    StateError,
    history::{Held, History},
};
use crate::{
    rate_limit::{Rate, RateLimit},
    relay::signing,
    wire::{
        NodeId,
        state::{CHANGES_MAX, Change, Entries, Head, Version, changes_hash},
    },
};

/// Steps that one origin may announce per second; what it announces beyond that is ignored, and the
/// next digest brings it.
const STEPS_PER_SECOND_MAX: u32 = 2_000;
/// A record for which there is no room is not asked for again for so long.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(60);
/// Changes in such steps per second, for each costs a hash of its own: two of the largest steps.
const CHANGES_PER_SECOND_MAX: u32 = 2 * CHANGES_MAX as u32;
/// Bytes of a record's last steps that are kept for those who missed some, or an eighth of the record if that
/// is more: then the whole is not much dearer.
const HISTORY_LEN_MIN: usize = 64 << 10;

/// The account that another node gives of itself, as far as it has come here.
pub(super) struct Record {
    /// What is known of whom. Before the first step: the version of a record that was let go, below which nothing
    /// is taken.
    version: Version,
    head: Option<Head>,
    entries: Entries,
    history: History,
    /// A whole record that is arriving in parts.
    transfer: Option<Transfer>,
    /// Set when steps contradict each other: only the whole record helps.
    forked: bool,
    no_room_since: Option<Instant>,
    steps: RateLimit,
    changes: RateLimit,
}

struct Transfer {
    head: Head,
    entries: Entries,
    /// The last key so far.
    after: Vec<u8>,
}

/// What became of a step or a part.
pub(super) enum Taken<'a> {
    /// It holds nothing new.
    Stale,
    /// It does not follow what is known.
    Gap,
    /// It is kept, and more is needed.
    Partly,
    /// These changes hold now.
    Changes(Vec<Change<'a>>),
    /// The record was exchanged for another; these were the entries before.
    Exchanged(Entries),
}

/// A part of a whole record (WIRE §6.3).
pub(super) struct Part<'a> {
    pub(super) head: Head,
    /// The last key of the part before it; empty in the first.
    pub(super) after: &'a [u8],
    pub(super) last: bool,
    pub(super) entries: &'a [u8],
}

impl Record {
    /// A record of which nothing is known but, perhaps, that nothing below a version is to be taken.
    pub(super) fn new(floor: Version) -> Self {
        Self {
            version: floor,
            head: None,
            entries: Entries::default(),
            history: History::default(),
            transfer: None,
            forked: false,
            no_room_since: None,
            steps: RateLimit::default(),
            changes: RateLimit::default(),
        }
    }

    pub(super) fn origin(&self) -> &NodeId {
        &self.version.origin
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    pub(super) fn held(&self) -> Held<'_> {
        Held { head: self.head.as_ref(), entries: &self.entries, history: &self.history }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn footprint(&self) -> usize {
        let arriving = self.transfer.as_ref().map_or(0, |transfer| transfer.entries.footprint());
        self.entries.footprint() + self.history.bytes() + arriving
    }

    fn refuse_for_room(&mut self, now: Instant) -> StateError {
        self.transfer = None;
        self.no_room_since = Some(now);
        StateError::Room
    }

    /// Whether anything is known.
    pub(super) fn is_known(&self) -> bool {
        self.head.is_some()
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether somebody who has this version has something that is lacking here.
    pub(super) fn lacks(&self, version: &Version) -> bool {
        let (offered, known) =
            ((version.incarnation, version.seq), (self.version.incarnation, self.version.seq));
        offered > known || (offered == known && (self.forked || !self.is_known()) && version.seq > 0)
    }

    /// Bytes of a whole record that have arrived in parts so far.
    pub(super) fn transferred(&self) -> usize {
        self.transfer.as_ref().map_or(0, |transfer| transfer.entries.footprint())
    }

    /// What to ask somebody for; `None` while there is no room.
    pub(super) fn want(&self, now: Instant) -> Option<(Version, &[u8])> {
        if self.no_room_since.is_some_and(|since| now.saturating_duration_since(since) < NO_ROOM_PAUSE) {
            return None;
        }
        let mut known = self.version;
        if self.forked || !self.is_known() {
            (known.incarnation, known.seq) = (0, 0);
        }
        Some((known, self.transfer.as_ref().map_or(&[][..], |transfer| &transfer.after)))
    }

    /// Checks and takes one step. `announced` steps, unlike those that were asked for, count against
    /// the origin's rate limit. The record may take `room` bytes of memory.
    pub(super) fn take_step<'a>(
        &mut self,
        now: Instant,
        head: Head,
        changes: &'a [u8],
        announced: bool,
        room: usize,
    ) -> Result<Taken<'a>, StateError> {
        if !self.lacks(&version_of(&head)) {
            return Ok(Taken::Stale);
        }
        self.check_signature(&head)?;
        // After that: nobody else's forgeries use up the origin's rate limit.
        if announced && !self.steps.take(now, Rate::per_second(STEPS_PER_SECOND_MAX), 1) {
            return Err(StateError::Rate);
        }
        // Also a record that was let go begins anew.
        let is_new_incarnation = head.incarnation != self.version.incarnation || !self.is_known();
        let known = if is_new_incarnation { 0 } else { self.version.seq };
        if head.seq != known + 1 {
            return Ok(Taken::Gap);
        }
        let before = self.head.as_ref().filter(|_| !is_new_incarnation);
        if head.previous != before.map_or([0; 32], Head::digest) {
            self.forked |= !is_new_incarnation;
            self.transfer = None;
            return Err(StateError::Chain);
        }
        if changes_hash(changes) != head.changes_hash {
            return Err(StateError::Root);
        }
        let decoded = Change::decode_all(changes).ok_or(StateError::Malformed)?;
        if announced
            && !self.changes.take(now, Rate::per_second(CHANGES_PER_SECOND_MAX), decoded.len() as u32)
        {
            return Err(StateError::Rate);
        }
        // The untouched entries are shared, so a step that turns out wrong costs only itself.
        let mut entries = if is_new_incarnation { Entries::default() } else { self.entries.clone() };
        for change in &decoded {
            entries.apply(change);
        }
        if !entries.within_bounds() {
            return Err(StateError::Size);
        }
        if entries.footprint() + self.history.bytes() > room {
            return Err(self.refuse_for_room(now));
        }
        if entries.root() != head.root {
            return Err(StateError::Root);
        }
        let before = self.exchange(head.clone(), entries, is_new_incarnation);
        let history_max = HISTORY_LEN_MIN.max(self.entries.footprint() / 8);
        self.history.push(head, changes.to_vec(), history_max);
        Ok(if is_new_incarnation { Taken::Exchanged(before) } else { Taken::Changes(decoded) })
    }

    /// Checks and takes one part of the whole record, which may take `room` bytes of memory.
    pub(super) fn take_part(
        &mut self,
        now: Instant,
        room: usize,
        part: Part<'_>,
    ) -> Result<Taken<'static>, StateError> {
        let Part { head, after, last, entries } = part;
        if !self.lacks(&version_of(&head)) {
            self.transfer = None;
            return Ok(Taken::Stale);
        }
        let under_way = self.transfer.take().filter(|transfer| transfer.head == head);
        let mut transfer = match under_way {
            Some(transfer) if transfer.after == after => transfer,
            _ if !after.is_empty() => return Ok(Taken::Gap),
            _ => {
                self.check_signature(&head)?;
                Transfer { head, entries: Entries::default(), after: Vec::new() }
            }
        };
        let changes = Change::decode_all(entries).ok_or(StateError::Malformed)?;
        if changes.is_empty() && !last {
            return Err(StateError::Malformed);
        }
        for change in &changes {
            // Ascending keys: no entry comes twice, and every part brings the end nearer.
            if change.key <= transfer.after.as_slice() || change.value.is_none() {
                return Err(StateError::Malformed);
            }
            transfer.entries.apply(change);
            transfer.after.clear();
            transfer.after.extend_from_slice(change.key);
        }
        if !transfer.entries.within_bounds() {
            return Err(StateError::Size);
        }
        // Until it is whole the old one stays beside it.
        if self.entries.footprint() + self.history.bytes() + transfer.entries.footprint() > room {
            return Err(self.refuse_for_room(now));
        }
        if !last {
            self.transfer = Some(transfer);
            return Ok(Taken::Partly);
        }
        if transfer.entries.root() != transfer.head.root {
            return Err(StateError::Root);
        }
        Ok(Taken::Exchanged(self.exchange(transfer.head, transfer.entries, true)))
    }

    /// Puts checked entries in the place of those before, which it gives. They do not follow from the steps
    /// that are kept if they `begin_anew`.
    fn exchange(&mut self, head: Head, entries: Entries, begin_anew: bool) -> Entries {
        if begin_anew {
            self.history.clear();
            self.forked = false;
            self.transfer = None;
        }
        self.version = version_of(&head);
        self.head = Some(head);
        std::mem::replace(&mut self.entries, entries)
    }

    fn check_signature(&self, head: &Head) -> Result<(), StateError> {
        if signing::verify(self.origin(), &head.digest(), &head.signature) {
            Ok(())
        } else {
            Err(StateError::Signature)
        }
    }
}

pub(super) fn version_of(head: &Head) -> Version {
    Version { origin: head.origin, incarnation: head.incarnation, seq: head.seq }
}
