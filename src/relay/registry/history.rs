//! What is given of a record to those who ask: the steps that they missed, or the whole in parts.

use std::collections::VecDeque;

use crate::wire::state::{Entries, Head, Message, STEPS_LEN_MAX, STEPS_MAX, Step, Version};

/// Steps that are kept of one record.
const STEPS_KEPT_MAX: usize = STEPS_MAX;

/// Steps without a gap, oldest first.
#[derive(Default)]
pub(super) struct History {
    steps: VecDeque<(Head, Vec<u8>)>,
    bytes: usize,
}

/// What one step takes in memory.
fn cost(changes: &[u8]) -> usize {
    size_of::<(Head, Vec<u8>)>() + changes.len()
}

impl History {
    /// Adds the step that follows the last one; lets go of old ones until at most `bytes_max` are kept.
    pub(super) fn push(&mut self, head: Head, changes: Vec<u8>, bytes_max: usize) {
        self.bytes += cost(&changes);
        self.steps.push_back((head, changes));
        while self.steps.len() > STEPS_KEPT_MAX || self.bytes > bytes_max {
            let Some((_, changes)) = self.steps.pop_front() else { break };
            self.bytes -= cost(&changes);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory that the steps take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The steps behind number `seq`, as many as one message may hold. `None` if the first of them is not kept
    /// any more.
    fn after(&self, seq: u64) -> Option<Vec<Step<'_>>> {
        let oldest = self.steps.front()?.0.seq;
        let first = usize::try_from((seq + 1).checked_sub(oldest)?).ok()?;
        let mut len = 0;
        let steps = self.steps.range(first.min(self.steps.len())..).take_while(|(_, changes)| {
            len += Head::LEN + 4 + changes.len();
            len <= STEPS_LEN_MAX
        });
        Some(steps.map(|(head, changes)| (head.clone(), changes.as_slice())).collect())
    }
}

/// A record as somebody may ask for it.
pub(super) struct Held<'a> {
    pub(super) head: Option<&'a Head>,
    pub(super) entries: &'a Entries,
    pub(super) history: &'a History,
}

impl<'a> Held<'a> {
    /// The steps behind what is known, as many as one message may hold; none if nothing is newer.
    /// `None` if the history does not reach back that far, or what is known is of another incarnation.
    pub(super) fn steps_after(&self, known: &Version) -> Option<Vec<Step<'a>>> {
        let Some(head) = self.head else { return Some(Vec::new()) };
        if known.incarnation != head.incarnation {
            return (known.incarnation > head.incarnation).then(Vec::new);
        }
        if known.seq >= head.seq {
            return Some(Vec::new());
        }
        self.history.after(known.seq)
    }

    /// The record as it is now; `None` before the first step.
    pub(super) fn pin(&self) -> Option<Pinned> {
        Some(Pinned { head: self.head?.clone(), entries: self.entries.clone() })
    }
}

/// The record as it was at one step, so that a transfer in parts is of one piece while the record
/// goes on changing.
pub(super) struct Pinned {
    head: Head,
    entries: Entries,
}

impl Pinned {
    /// The message with the part behind `after`, and whether it is the last.
    pub(super) fn part(&self, after: &[u8]) -> (Vec<u8>, bool) {
        let (entries, last) = self.entries.part(after);
        (Message::Part { head: self.head.clone(), after, last, entries: &entries }.encode(), last)
    }
}
