//! This node's own record: the changes that wait, and the steps that were signed.

use std::collections::BTreeMap;

use super::history::{Held, History};
use crate::{
    relay::signing::{NodeSigner, SIGNATURE_LEN},
    wire::{
        NodeId,
        state::{self, Change, Entries, Head, Message, Version},
    },
};

/// Bytes of the steps that are kept for neighbours that missed some.
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
    history: History,
    /// Bytes of it.
    history_len_max: usize,
    /// Changes that no step carries yet.
    pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl OwnRecord {
    pub(super) fn new(id: NodeId, incarnation: u64, signer: NodeSigner, history_len_max: usize) -> Self {
        Self {
            id,
            incarnation,
            signer,
            entries: Entries::default(),
            head: None,
            history: History::default(),
            history_len_max,
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

    /// Signs a digest with this node's key.
    pub(super) fn sign(&self, digest: &[u8; 32]) -> [u8; SIGNATURE_LEN] {
        self.signer.sign(digest)
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
        self.history.push(head, changes, self.history_len_max);
        Some(message)
    }

    pub(super) fn held(&self) -> Held<'_> {
        Held { head: self.head.as_ref(), entries: &self.entries, history: &self.history }
    }

    /// Begins a new incarnation with the entries of the one before, to be announced anew.
    pub(super) fn begin_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        self.head = None;
        self.history.clear();
        for (key, value) in std::mem::take(&mut self.entries).iter() {
            self.pending.entry(key.to_vec()).or_insert_with(|| Some(value.to_vec()));
        }
    }
}
