//! A neighbour's record as this node holds it: what is taken, what is refused, what is asked for.
//!
//! # Invariants
//! - The entries are those of a head that the origin signed: a step that does not lead to its signed
//!   root leaves no trace.
//! - At most one request is under way, so a burst of news cannot make a burst of requests.

use std::time::{Duration, Instant};

use super::StateError;
use crate::{
    relay::signing,
    wire::{
        NodeId,
        state::{Change, Entries, Head, Message, Version, changes_hash},
    },
};

/// Steps that one origin may announce per second; what it announces beyond that is ignored, and the
/// next digest brings it.
const STEPS_PER_SECOND_MAX: u32 = 2_000;
/// A record for which there is no room is not asked for again for so long.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(60);
/// After so long without a reply a request may be repeated.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The account that another node gives of itself, as far as it has come here.
pub(super) struct Record {
    origin: NodeId,
    incarnation: u64,
    entries: Entries,
    head: Option<Head>,
    /// The newest step that the origin signed or listed, as far as heard.
    heard: u64,
    /// A whole record that is arriving in parts.
    transfer: Option<Transfer>,
    /// Set when steps contradict each other: only the whole record helps.
    forked: bool,
    asked: Option<Instant>,
    no_room_since: Option<Instant>,
    steps_left: u32,
    steps_counted: Instant,
}

struct Transfer {
    head: Head,
    entries: Entries,
    /// The last key so far.
    after: Vec<u8>,
}

/// What became of a step or a part.
pub(super) enum Taken<'a> {
    /// It holds nothing new, or is of another life.
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

impl Record {
    pub(super) fn new(now: Instant, origin: NodeId, incarnation: u64) -> Self {
        Self {
            origin,
            incarnation,
            entries: Entries::default(),
            head: None,
            heard: 0,
            transfer: None,
            forked: false,
            asked: None,
            no_room_since: None,
            steps_left: STEPS_PER_SECOND_MAX,
            steps_counted: now,
        }
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// About how many bytes of memory it takes.
    pub(super) fn footprint(&self) -> usize {
        let arriving = self.transfer.as_ref().map_or(0, |transfer| transfer.entries.footprint());
        self.entries.footprint() + arriving
    }

    fn refuse_for_room(&mut self, now: Instant) -> StateError {
        self.transfer = None;
        self.no_room_since = Some(now);
        StateError::Room
    }

    pub(super) fn version(&self) -> Version {
        let seq = self.head.as_ref().map_or(0, |head| head.seq);
        Version { origin: self.origin, incarnation: self.incarnation, seq }
    }

    /// A new link: what was asked over the old one may never be answered.
    pub(super) fn handle_new_link(&mut self) {
        self.asked = None;
    }

    /// A reply to a request came. `false` if there was none.
    pub(super) fn handle_reply(&mut self) -> bool {
        self.asked.take().is_some()
    }

    /// The origin says how far its record goes. Gives whether that is news.
    pub(super) fn handle_listed(&mut self, version: &Version) -> bool {
        if version.origin != self.origin || version.incarnation != self.incarnation {
            return false;
        }
        self.heard = self.heard.max(version.seq);
        self.is_behind()
    }

    /// Whether the origin is known to have made steps that are not here.
    pub(super) fn is_behind(&self) -> bool {
        self.forked || self.version().seq < self.heard
    }

    /// What to ask the origin for; `None` while another request is under way.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Vec<u8>> {
        let under_way =
            self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < REQUEST_TIMEOUT);
        let no_room = self.no_room_since.is_some_and(|since| now - since < NO_ROOM_PAUSE);
        if under_way || no_room {
            return None;
        }
        self.asked = Some(now);
        let mut known = self.version();
        if self.forked {
            (known.incarnation, known.seq) = (0, 0);
        }
        let after = self.transfer.as_ref().map_or(&[][..], |transfer| &transfer.after);
        Some(Message::Want { known, after }.encode())
    }

    /// Checks and takes one step. `announced` steps, unlike those that were asked for, count against
    /// the origin's allowance. The record may take `room` bytes of memory.
    pub(super) fn take_step<'a>(
        &mut self,
        now: Instant,
        head: Head,
        changes: &'a [u8],
        announced: bool,
        room: usize,
    ) -> Result<Taken<'a>, StateError> {
        if head.origin != self.origin {
            return Err(StateError::Origin);
        }
        let known = self.version().seq;
        if head.incarnation != self.incarnation || head.seq <= known {
            return Ok(Taken::Stale);
        }
        if announced && !self.admit_step(now) {
            return Err(StateError::Rate);
        }
        self.check_signature(&head)?;
        self.heard = self.heard.max(head.seq);
        if head.seq != known + 1 {
            return Ok(Taken::Gap);
        }
        if head.previous != self.head.as_ref().map_or([0; 32], Head::digest) {
            self.forked = true;
            self.transfer = None;
            return Err(StateError::Chain);
        }
        if changes_hash(changes) != head.changes_hash {
            return Err(StateError::Root);
        }
        let changes = Change::decode_all(changes).ok_or(StateError::Malformed)?;
        // The untouched entries are shared, so a step that turns out wrong costs only itself.
        let mut entries = self.entries.clone();
        for change in &changes {
            entries.apply(change);
        }
        if !entries.within_bounds() {
            return Err(StateError::Size);
        }
        if entries.footprint() > room {
            return Err(self.refuse_for_room(now));
        }
        if entries.root() != head.root {
            return Err(StateError::Root);
        }
        self.entries = entries;
        self.head = Some(head);
        Ok(Taken::Changes(changes))
    }

    /// Checks and takes one part of the whole record, which may take `room` bytes of memory.
    pub(super) fn take_part(
        &mut self,
        now: Instant,
        room: usize,
        head: Head,
        after: &[u8],
        last: bool,
        entries: &[u8],
    ) -> Result<Taken<'static>, StateError> {
        if head.origin != self.origin {
            return Err(StateError::Origin);
        }
        let newer = head.seq > self.version().seq || self.forked;
        if head.incarnation != self.incarnation || !newer {
            self.transfer = None;
            return Ok(Taken::Stale);
        }
        let under_way = self.transfer.take().filter(|transfer| transfer.head == head);
        let mut transfer = match under_way {
            Some(transfer) if transfer.after == after => transfer,
            _ if !after.is_empty() => return Ok(Taken::Gap),
            _ => {
                self.check_signature(&head)?;
                self.heard = self.heard.max(head.seq);
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
        if self.entries.footprint() + transfer.entries.footprint() > room {
            return Err(self.refuse_for_room(now));
        }
        if !last {
            self.transfer = Some(transfer);
            return Ok(Taken::Partly);
        }
        if transfer.entries.root() != transfer.head.root {
            return Err(StateError::Root);
        }
        self.forked = false;
        self.head = Some(transfer.head);
        Ok(Taken::Exchanged(std::mem::replace(&mut self.entries, transfer.entries)))
    }

    fn admit_step(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.steps_counted) >= Duration::from_secs(1) {
            self.steps_counted = now;
            self.steps_left = STEPS_PER_SECOND_MAX;
        }
        let admitted = self.steps_left > 0;
        self.steps_left = self.steps_left.saturating_sub(1);
        admitted
    }

    fn check_signature(&self, head: &Head) -> Result<(), StateError> {
        if signing::verify(&self.origin, &head.digest(), &head.signature) {
            Ok(())
        } else {
            Err(StateError::Signature)
        }
    }
}
