//! This node's own record: the changes that wait, the steps that were signed, the whole for those who
//! missed too many.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    relay::signing::NodeSigner,
    wire::{
        NodeId,
        state::{self, Change, Entries, Head, Message, STEPS_LEN_MAX, STEPS_MAX, Step, Version},
    },
};

/// Steps that are kept for neighbours that missed some.
const HISTORY_STEPS_MAX: usize = STEPS_MAX;
/// Bytes of their changes.
pub(in crate::relay) const HISTORY_LEN_MAX: usize = 16 << 20;
/// Changes that go into one step; the rest waits for the next.
const STEP_CHANGES_MAX: usize = 8_192;
/// Bytes of changes after which a step is closed; well below what receivers accept.
const STEP_LEN_MAX: usize = 512 << 10;

const _: () = assert!(
    STEP_LEN_MAX + state::KEY_LEN_MAX + state::VALUE_LEN_MAX + 5 <= state::CHANGES_LEN_MAX
        && STEP_CHANGES_MAX <= state::CHANGES_MAX,
    "a step that is made here must be one that receivers accept"
);

/// The account that this node gives of itself.
pub(super) struct OwnRecord {
    id: NodeId,
    incarnation: u64,
    signer: NodeSigner,
    entries: Entries,
    head: Option<Head>,
    history: VecDeque<(Head, Vec<u8>)>,
    history_len: usize,
    /// Changes that no step carries yet.
    pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// The record as it was at one step, so that a transfer in parts is of one piece while the record
/// goes on changing.
pub(super) struct Pinned {
    head: Head,
    entries: Entries,
}

impl OwnRecord {
    pub(super) fn new(id: NodeId, incarnation: u64, signer: NodeSigner) -> Self {
        Self {
            id,
            incarnation,
            signer,
            entries: Entries::default(),
            head: None,
            history: VecDeque::new(),
            history_len: 0,
            pending: BTreeMap::new(),
        }
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    pub(super) fn version(&self) -> Version {
        let seq = self.head.as_ref().map_or(0, |head| head.seq);
        Version { origin: self.id, incarnation: self.incarnation, seq }
    }

    /// Notes that an entry is to be set or removed by one of the next steps.
    pub(super) fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.pending.insert(key, value);
    }

    /// Signs the next step if changes wait; gives the message that announces it.
    pub(super) fn next_step(&mut self) -> Option<Vec<u8>> {
        let mut changes = Vec::new();
        let mut count = 0;
        while count < STEP_CHANGES_MAX && changes.len() < STEP_LEN_MAX {
            let Some((key, value)) = self.pending.pop_first() else { break };
            // What came and went between two steps is no change.
            if self.entries.get(&key) == value.as_deref() {
                continue;
            }
            let change = Change { key: &key, value: value.as_deref() };
            self.entries.apply(&change);
            change.encode_into(&mut changes);
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let mut head = Head {
            origin: self.id,
            incarnation: self.incarnation,
            seq: self.version().seq + 1,
            previous: self.head.as_ref().map_or([0; 32], Head::digest),
            root: self.entries.root(),
            changes_hash: state::changes_hash(&changes),
            signature: [0; 64],
        };
        head.signature = self.signer.sign(&head.digest());
        let message = Message::Steps(vec![(head.clone(), &changes)]).encode();
        self.head = Some(head.clone());
        self.history_len += changes.len();
        self.history.push_back((head, changes));
        while self.history.len() > HISTORY_STEPS_MAX || self.history_len > HISTORY_LEN_MAX {
            let Some((_, changes)) = self.history.pop_front() else { break };
            self.history_len -= changes.len();
        }
        Some(message)
    }

    /// The steps behind what is known, as many as one message may hold; none if nothing is newer.
    /// `None` if the history does not reach back that far, or what is known is of another life.
    pub(super) fn steps_after(&self, known: &Version) -> Option<Vec<Step<'_>>> {
        let Some(head) = &self.head else { return Some(Vec::new()) };
        if known.incarnation != self.incarnation {
            return None;
        }
        if known.seq >= head.seq {
            return Some(Vec::new());
        }
        let oldest = self.history.front()?.0.seq;
        let first = usize::try_from((known.seq + 1).checked_sub(oldest)?).ok()?;
        let mut len = 0;
        let steps = self.history.range(first..).take_while(|(_, changes)| {
            len += Head::LEN + 4 + changes.len();
            len <= STEPS_LEN_MAX
        });
        Some(steps.map(|(head, changes)| (head.clone(), changes.as_slice())).collect())
    }

    /// The record as it is now; `None` before the first step.
    pub(super) fn pin(&self) -> Option<Pinned> {
        Some(Pinned { head: self.head.clone()?, entries: self.entries.clone() })
    }
}

impl Pinned {
    /// The message with the part behind `after`, and whether it is the last.
    pub(super) fn part(&self, after: &[u8]) -> (Vec<u8>, bool) {
        let (entries, last) = self.entries.part(after);
        (Message::Part { head: self.head.clone(), after, last, entries: &entries }.encode(), last)
    }
}
