//! Signed state records and the steps that change them (WIRE §6.3, docs/node-link.md).
//!
//! A record is a map from keys to values; a key begins with the kind of its entry. Kinds that are not
//! known here are kept and counted into the root like all others, so that newer nodes can add some.
//! The root is a hash over the set of entries that is kept up to date entry by entry.

use std::{ops::Bound, sync::Arc};

use super::{NodeId, node::is_node_address, reader::Reader};

/// Entry kind: a topic; the key is its name, the value a u32 count of subscriber sessions.
pub const KIND_TOPIC: u8 = 1;
/// Entry kind: who subscribes to a private topic; the key is the name of its data topic, the value u64
/// subscriber numbers, at most [`SUBSCRIBERS_MAX`].
pub const KIND_TOPIC_SESSIONS: u8 = 2;
/// Entry kind: a live neighbour; the key is its id, the value empty.
pub const KIND_NEIGHBOUR: u8 = 3;
/// Entry kind: where other nodes reach the node; the key is the kind alone, the value `host:port` as text, see
/// [`address_of`].
pub const KIND_ADDRESS: u8 = 5;
/// Entry kind: what the node is like; the key is the kind alone, the value a [`NodeTraits`]. Without it they are the usual ones.
pub const KIND_SELF: u8 = 4;
/// Entry kind: what the node's process has drawn at random, for the keys of what is sealed; the key is the kind alone, see
/// [`salt_of`].
pub const KIND_SALT: u8 = 6;
/// Entry kind: a node of FISCO BCOS 2.x that the node is linked with; the key is its id, the value one byte, see
/// [`is_gateway_2x`].
pub const KIND_PEER_2X: u8 = 7;
/// Entry kind: a topic of nodes of FISCO BCOS 2.x whose gateway the node is; the key is its name, the value a u32 count of those
/// nodes.
pub const KIND_TOPIC_2X: u8 = 8;
/// The node passes on no frames for others.
pub const FLAG_NO_RELAY: u8 = 1;

/// What a node tells others of itself in an entry of [`KIND_SELF`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeTraits {
    /// Whether it passes on frames for others.
    pub relays: bool,
    /// Longest frame of an SDK link that it takes, in bytes.
    pub frame_len_max: u32,
}

impl Default for NodeTraits {
    fn default() -> Self {
        Self { relays: true, frame_len_max: super::sdk::FRAME_LEN_MAX as u32 }
    }
}

impl NodeTraits {
    /// Reads a value; what is not there is as usual, what is behind it belongs to newer versions.
    pub fn decode(value: &[u8]) -> Self {
        let mut reader = Reader(value);
        let flags = reader.u8().unwrap_or(0);
        let usual = Self::default();
        Self {
            relays: flags & FLAG_NO_RELAY == 0,
            frame_len_max: reader.u32().unwrap_or(usual.frame_len_max),
        }
    }

    /// The value; `None` if all is as usual.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let usual = Self::default();
        let mut value = vec![if self.relays { 0 } else { FLAG_NO_RELAY }];
        if self.frame_len_max != usual.frame_len_max {
            value.extend_from_slice(&self.frame_len_max.to_be_bytes());
        }
        (*self != usual).then_some(value)
    }
}

/// Longest key in bytes, kind included.
pub const KEY_LEN_MAX: usize = 256;
/// Longest value in bytes.
pub const VALUE_LEN_MAX: usize = 16 * 1024;
/// Subscribers of one private topic that a record names.
pub const SUBSCRIBERS_MAX: usize = VALUE_LEN_MAX / 8;
/// Entries of one record: topics, neighbours, and room for what newer nodes add.
pub const ENTRIES_MAX: usize = 1_100_000;
/// Bytes of the keys and values of one record: a million of the longest topics.
pub const RECORD_LEN_MAX: usize = 288 << 20;
/// Changes in one step, and entries in one part.
pub const CHANGES_MAX: usize = 65_536;
/// Bytes of the changes of one step.
pub const CHANGES_LEN_MAX: usize = 1 << 20;
/// Steps in one message.
pub const STEPS_MAX: usize = 4_096;
/// Bytes of heads and changes of all steps in one message.
pub const STEPS_LEN_MAX: usize = CHANGES_LEN_MAX + Head::LEN + 4;
/// Bytes of entries in one part of a record.
pub const PART_LEN_MAX: usize = 256 << 10;
/// Records that one list may name.
pub const LIST_MAX: usize = 1_024;

const VERSION: u8 = 1;
const STEP_DOMAIN: &[u8] = b"amop state step 1";

/// The key of a topic's entry.
pub fn topic_key(topic: &str) -> Vec<u8> {
    [&[KIND_TOPIC], topic.as_bytes()].concat()
}

/// The key of the entry with the subscribers of a private topic.
pub fn topic_sessions_key(topic: &str) -> Vec<u8> {
    [&[KIND_TOPIC_SESSIONS], topic.as_bytes()].concat()
}

/// The key of a neighbour's entry.
pub fn neighbour_key(id: &NodeId) -> Vec<u8> {
    [&[KIND_NEIGHBOUR][..], &id.0].concat()
}

/// The key of the entry of a node of FISCO BCOS 2.x.
pub fn peer_2x_key(id: &NodeId) -> Vec<u8> {
    [&[KIND_PEER_2X][..], &id.0].concat()
}

/// The key of the entry of a topic of nodes of FISCO BCOS 2.x.
pub fn topic_2x_key(topic: &str) -> Vec<u8> {
    [&[KIND_TOPIC_2X], topic.as_bytes()].concat()
}

/// Whether an entry of [`KIND_PEER_2X`] says that the node acts as the other's gateway; what is behind that belongs to newer
/// versions.
pub fn is_gateway_2x(value: &[u8]) -> bool {
    value.first() == Some(&1)
}

/// Reads the value of an entry of [`KIND_SALT`]; what is behind it belongs to newer versions. `None` if it is too short.
pub fn salt_of(value: &[u8]) -> Option<[u8; 16]> {
    value.first_chunk().copied()
}

/// What an entry of [`KIND_ADDRESS`] says; `None` if that is no address.
pub fn address_of(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| is_node_address(text))
}

/// A hash of a set of entries: adding and removing one costs the same whatever the size of the set
/// (LtHash with 1,024 sums of 16 bits, over BLAKE3).
#[derive(Clone, PartialEq, Eq)]
pub struct SetHash(Box<[u16; 1024]>);

impl Default for SetHash {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl SetHash {
    fn combine(&mut self, key: &[u8], value: &[u8], add: bool) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(key.len() as u16).to_be_bytes());
        hasher.update(key);
        hasher.update(value);
        let mut expanded = [0; 2048];
        hasher.finalize_xof().fill(&mut expanded);
        let (terms, _) = expanded.as_chunks::<2>();
        for (sum, term) in self.0.iter_mut().zip(terms) {
            let term = u16::from_le_bytes(*term);
            *sum = if add { sum.wrapping_add(term) } else { sum.wrapping_sub(term) };
        }
    }

    /// The 32 bytes that a step is signed with.
    pub fn root(&self) -> [u8; 32] {
        // In one piece: every step takes a root, and a thousand pieces cost several times as much.
        let mut bytes = [0; 2048];
        let (pairs, _) = bytes.as_chunks_mut::<2>();
        for (pair, sum) in pairs.iter_mut().zip(self.0.iter()) {
            *pair = sum.to_le_bytes();
        }
        *blake3::hash(&bytes).as_bytes()
    }
}

/// What an entry takes in memory beside its key and value: two allocations, its place in the tree, and
/// its place in the topic table with the name once more.
pub const ENTRY_FOOTPRINT: usize = 512;

/// The entries of a node's record, with their hash. A clone shares them; a change to it copies
/// O(log n).
#[derive(Clone, Default)]
pub struct Entries {
    map: imbl::OrdMap<Arc<[u8]>, Arc<[u8]>>,
    hash: SetHash,
    bytes: usize,
}

impl Entries {
    /// Sets or removes one entry; gives the value before.
    pub fn apply(&mut self, change: &Change<'_>) -> Option<Arc<[u8]>> {
        let before = match change.value {
            Some(value) => {
                self.hash.combine(change.key, value, true);
                self.bytes += change.key.len() + value.len();
                self.map.insert(change.key.into(), value.into())
            }
            None => self.map.remove(change.key),
        };
        if let Some(before) = &before {
            self.hash.combine(change.key, before, false);
            self.bytes -= change.key.len() + before.len();
        }
        before
    }

    /// Whether the record is within [`ENTRIES_MAX`] and [`RECORD_LEN_MAX`].
    pub fn within_bounds(&self) -> bool {
        self.map.len() <= ENTRIES_MAX && self.bytes <= RECORD_LEN_MAX
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// About how many bytes of memory the entries take, here and in the topic table.
    pub fn footprint(&self) -> usize {
        self.bytes + self.map.len() * ENTRY_FOOTPRINT
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.map.get(key).map(|value| &**value)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The hash over all entries.
    pub fn root(&self) -> [u8; 32] {
        self.hash.root()
    }

    /// All entries, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.map.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Names of the topics, in order.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.map
            .range::<_, [u8]>((Bound::Included(&[KIND_TOPIC][..]), Bound::Excluded(&[KIND_TOPIC + 1][..])))
            .filter_map(|(key, _)| std::str::from_utf8(&key[1..]).ok())
    }

    /// Topics behind the name `after`, in order, and how many sessions subscribe to each.
    pub fn topic_sessions(&self, after: &str) -> impl Iterator<Item = (&str, u32)> {
        let behind = [&[KIND_TOPIC], after.as_bytes()].concat();
        let end: &[u8] = &[KIND_TOPIC + 1];
        self.map.range::<_, [u8]>((Bound::Excluded(&behind[..]), Bound::Excluded(end))).filter_map(
            |(key, value)| {
                let count = value.first_chunk::<4>().map_or(0, |count| u32::from_be_bytes(*count));
                Some((std::str::from_utf8(&key[1..]).ok()?, count))
            },
        )
    }

    /// Names of the topics of nodes of FISCO BCOS 2.x whose gateway the node is, in order.
    pub fn topics_2x(&self) -> impl Iterator<Item = &str> {
        let (from, end): (&[u8], &[u8]) = (&[KIND_TOPIC_2X], &[KIND_TOPIC_2X + 1]);
        self.map
            .range::<_, [u8]>((Bound::Included(from), Bound::Excluded(end)))
            .filter_map(|(key, _)| std::str::from_utf8(&key[1..]).ok())
    }

    /// Ids of the nodes of FISCO BCOS 2.x that the node is linked with, in order, and whether it is the gateway of each.
    pub fn peers_2x(&self) -> impl Iterator<Item = (NodeId, bool)> {
        let (from, end): (&[u8], &[u8]) = (&[KIND_PEER_2X], &[KIND_PEER_2X + 1]);
        self.map
            .range::<_, [u8]>((Bound::Included(from), Bound::Excluded(end)))
            .filter_map(|(key, value)| Some((NodeId(key[1..].try_into().ok()?), is_gateway_2x(value))))
    }

    /// Ids of the neighbours, in order.
    pub fn neighbours(&self) -> impl Iterator<Item = NodeId> {
        let (from, end): (&[u8], &[u8]) = (&[KIND_NEIGHBOUR], &[KIND_NEIGHBOUR + 1]);
        self.map
            .range::<_, [u8]>((Bound::Included(from), Bound::Excluded(end)))
            .filter_map(|(key, _)| key[1..].try_into().ok().map(NodeId))
    }

    /// Encodes entries from the first key after `after`, at most [`PART_LEN_MAX`] bytes of them. Gives
    /// the bytes, and whether they are the last.
    pub fn part(&self, after: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        for (key, value) in self.map.range::<_, [u8]>((Bound::Excluded(after), Bound::Unbounded)) {
            if !out.is_empty() && out.len() + key.len() + value.len() + 5 > PART_LEN_MAX {
                return (out, false);
            }
            Change { key, value: Some(value) }.encode_into(&mut out);
        }
        (out, true)
    }
}

/// One entry that is set, or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Kind, then name.
    pub key: &'a [u8],
    /// `None` removes the entry.
    pub value: Option<&'a [u8]>,
}

impl<'a> Change<'a> {
    /// Appends the change.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.value.is_some()));
        out.extend_from_slice(&(self.key.len() as u16).to_be_bytes());
        out.extend_from_slice(self.key);
        if let Some(value) = self.value {
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value);
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let set = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let key_len = usize::from(reader.u16()?);
        let key = reader.take(key_len)?;
        let value = if set {
            let len = usize::from(reader.u16()?);
            Some(reader.take(len)?)
        } else {
            None
        };
        let valid =
            (1..=KEY_LEN_MAX).contains(&key.len()) && value.is_none_or(|value| value.len() <= VALUE_LEN_MAX);
        valid.then_some(Self { key, value })
    }

    /// Reads a whole list of at most [`CHANGES_MAX`] changes.
    pub fn decode_all(bytes: &'a [u8]) -> Option<Vec<Self>> {
        let mut reader = Reader(bytes);
        let mut changes = Vec::new();
        while !reader.is_empty() {
            if changes.len() == CHANGES_MAX {
                return None;
            }
            changes.push(Self::decode(&mut reader)?);
        }
        Some(changes)
    }
}

/// The signed part of a step: enough to check a whole record against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose record.
    pub origin: NodeId,
    /// Which incarnation of the origin.
    pub incarnation: u64,
    /// Number of the step; the first is 1.
    pub seq: u64,
    /// Digest of the step before; zeros for the first.
    pub previous: [u8; 32],
    /// Hash over all entries after the step.
    pub root: [u8; 32],
    /// Hash of the encoded changes.
    pub changes_hash: [u8; 32],
    /// By the origin's key, over [`Self::digest`].
    pub signature: [u8; 64],
}

impl Head {
    /// Length of an encoded head in bytes.
    pub const LEN: usize = 1 + 64 + 8 + 8 + 32 + 32 + 32 + 64;

    /// What is signed, and what the next step is chained to.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(STEP_DOMAIN);
        hasher.update(&self.encode()[..Self::LEN - 64]);
        *hasher.finalize().as_bytes()
    }

    /// The head's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.origin.0);
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.previous);
        out.extend_from_slice(&self.root);
        out.extend_from_slice(&self.changes_hash);
        out.extend_from_slice(&self.signature);
        out
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.u8()? != VERSION {
            return None;
        }
        Some(Self {
            origin: NodeId(reader.array()?),
            incarnation: reader.u64()?,
            seq: reader.u64()?,
            previous: reader.array()?,
            root: reader.array()?,
            changes_hash: reader.array()?,
            signature: reader.array()?,
        })
    }
}

/// Hash of encoded changes, for [`Head::changes_hash`].
pub fn changes_hash(changes: &[u8]) -> [u8; 32] {
    *blake3::hash(changes).as_bytes()
}

/// How much of a record somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Whose record.
    pub origin: NodeId,
    /// Which incarnation of the origin; 0 if nothing is known.
    pub incarnation: u64,
    /// Its last step; 0 if nothing is known.
    pub seq: u64,
}

/// A hash over what a node announces, to compare without sending it.
pub fn versions_hash(versions: &mut [Version]) -> [u8; 32] {
    versions.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for version in versions.iter() {
        hasher.update(&version.origin.0);
        hasher.update(&version.incarnation.to_be_bytes());
        hasher.update(&version.seq.to_be_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A step as it travels: its head, then the encoded changes.
pub type Step<'a> = (Head, &'a [u8]);

/// Which records a digest is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub u8);

impl Scope {
    /// All records that the sender offers: its own, and those of nodes in its part of the network.
    pub const ALL: Self = Self(2);
}

/// Why a payload is no message of the state protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It ends early, or a field has a value that it cannot have.
    #[error("the state message is malformed")]
    Malformed,
    /// A count or length beyond what this module names.
    #[error("the state message is over a bound")]
    Oversized,
    /// A kind of message that a newer node may send; not the sender's fault.
    #[error("state messages of kind {0} are not known here")]
    UnknownKind(u8),
}

/// Payload of STATE_SEQ, STATE_REQUEST or STATE_REPLY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// STATE_SEQ, STATE_REPLY: steps, oldest first; of several origins only in a STATE_SEQ.
    Steps(Vec<Step<'a>>),
    /// STATE_SEQ: a hash over the versions of the records in scope.
    Digest {
        /// Which records.
        scope: Scope,
        /// See [`versions_hash`].
        hash: [u8; 32],
    },
    /// STATE_SEQ, STATE_REPLY: those versions. As the answer to [`Self::Want`]: what there is, and it is not newer.
    List(Vec<Version>),
    /// STATE_REQUEST: for the list.
    WantList,
    /// STATE_REQUEST: for what is newer than this; or, if `after` is not empty, for the part of the whole
    /// record behind that key.
    Want {
        /// What is known. With incarnation and seq 0: the whole record.
        known: Version,
        /// The last key that was received of a record in parts.
        after: &'a [u8],
    },
    /// STATE_REPLY: a part of a whole record.
    Part {
        /// The record's last step.
        head: Head,
        /// The part holds what follows this key; empty for the first part.
        after: &'a [u8],
        /// Whether no other part follows.
        last: bool,
        /// Encoded entries, ascending by key.
        entries: &'a [u8],
    },
}

const STEPS: u8 = 1;
const DIGEST: u8 = 2;
const LIST: u8 = 3;
const WANT_LIST: u8 = 4;
const WANT: u8 = 5;
const PART: u8 = 6;

impl<'a> Message<'a> {
    /// Reads a payload. Bytes behind the known fields belong to newer versions and are ignored.
    pub fn decode(payload: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let kind = reader.u8().ok_or(MessageError::Malformed)?;
        if !(STEPS..=PART).contains(&kind) {
            return Err(MessageError::UnknownKind(kind));
        }
        Self::decode_known(kind, &mut reader).ok_or(MessageError::Malformed)?
    }

    /// `None` if the bytes end early or are wrong.
    fn decode_known(kind: u8, reader: &mut Reader<'a>) -> Option<Result<Self, MessageError>> {
        let oversized = Some(Err(MessageError::Oversized));
        Some(Ok(match kind {
            STEPS => {
                let count = usize::from(reader.u16()?);
                if count > STEPS_MAX {
                    return oversized;
                }
                let mut steps = Vec::new();
                for _ in 0..count {
                    let head = Head::decode(reader)?;
                    let len = reader.u32()? as usize;
                    if len > CHANGES_LEN_MAX {
                        return oversized;
                    }
                    steps.push((head, reader.take(len)?));
                }
                Self::Steps(steps)
            }
            DIGEST => Self::Digest { scope: Scope(reader.u8()?), hash: reader.array()? },
            LIST => {
                let count = usize::from(reader.u16()?);
                if count > LIST_MAX {
                    return oversized;
                }
                let mut versions = Vec::new();
                for _ in 0..count {
                    versions.push(decode_version(reader)?);
                }
                Self::List(versions)
            }
            WANT_LIST => Self::WantList,
            WANT => Self::Want { known: decode_version(reader)?, after: decode_key(reader)? },
            _ => {
                let head = Head::decode(reader)?;
                let after = decode_key(reader)?;
                let last = reader.u8()? != 0;
                let len = reader.u32()? as usize;
                if len > PART_LEN_MAX + KEY_LEN_MAX + VALUE_LEN_MAX {
                    return oversized;
                }
                Self::Part { head, after, last, entries: reader.take(len)? }
            }
        }))
    }

    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Steps(steps) => {
                out.push(STEPS);
                out.extend_from_slice(&(steps.len() as u16).to_be_bytes());
                for (head, changes) in steps {
                    out.extend_from_slice(&head.encode());
                    out.extend_from_slice(&(changes.len() as u32).to_be_bytes());
                    out.extend_from_slice(changes);
                }
            }
            Self::Digest { scope, hash } => {
                out.extend_from_slice(&[DIGEST, scope.0]);
                out.extend_from_slice(hash);
            }
            Self::List(versions) => {
                out.push(LIST);
                out.extend_from_slice(&(versions.len() as u16).to_be_bytes());
                versions.iter().for_each(|version| encode_version(version, &mut out));
            }
            Self::WantList => out.push(WANT_LIST),
            Self::Want { known, after } => {
                out.push(WANT);
                encode_version(known, &mut out);
                encode_key(after, &mut out);
            }
            Self::Part { head, after, last, entries } => {
                out.push(PART);
                out.extend_from_slice(&head.encode());
                encode_key(after, &mut out);
                out.push(u8::from(*last));
                out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
                out.extend_from_slice(entries);
            }
        }
        out
    }
}

fn encode_key(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(key.len() as u16).to_be_bytes());
    out.extend_from_slice(key);
}

fn decode_key<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = usize::from(reader.u16()?);
    if len > KEY_LEN_MAX {
        return None;
    }
    reader.take(len)
}

fn encode_version(version: &Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.origin.0);
    out.extend_from_slice(&version.incarnation.to_be_bytes());
    out.extend_from_slice(&version.seq.to_be_bytes());
}

fn decode_version(reader: &mut Reader<'_>) -> Option<Version> {
    Some(Version { origin: NodeId(reader.array()?), incarnation: reader.u64()?, seq: reader.u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::hex;

    fn head() -> Head {
        Head {
            origin: NodeId([1; 64]),
            incarnation: 2,
            seq: 3,
            previous: [4; 32],
            root: [5; 32],
            changes_hash: [6; 32],
            signature: [7; 64],
        }
    }

    #[test]
    fn messages_survive_encoding_and_cut_ones_are_refused() {
        let version = Version { origin: NodeId([9; 64]), incarnation: 1, seq: 2 };
        let messages = [
            Message::Steps(vec![(head(), b"changes"), (head(), b"")]),
            Message::Digest { scope: Scope::ALL, hash: [3; 32] },
            Message::List(vec![version, version]),
            Message::WantList,
            Message::Want { known: version, after: b"key" },
            Message::Part { head: head(), after: b"", last: true, entries: b"entries" },
        ];
        for message in &messages {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).as_ref(), Ok(message));
            for cut in 0..bytes.len() {
                let refused = Err(MessageError::Malformed);
                assert_eq!(Message::decode(&bytes[..cut]), refused, "{message:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn counts_and_lengths_over_a_bound_are_told_from_malformed_bytes() {
        assert_eq!(Message::decode(&[STEPS, 0xff, 0xff]), Err(MessageError::Oversized));
        assert_eq!(Message::decode(&[LIST, 0xff, 0xff]), Err(MessageError::Oversized));
        assert_eq!(Message::decode(&[99, 1, 2]), Err(MessageError::UnknownKind(99)));
        let mut step = Message::Steps(vec![(head(), b"")]).encode();
        let len_at = step.len() - 4;
        step[len_at..].copy_from_slice(&(CHANGES_LEN_MAX as u32 + 1).to_be_bytes());
        assert_eq!(Message::decode(&step), Err(MessageError::Oversized));
    }

    #[test]
    fn mutated_messages_never_panic() {
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::SmallRng::seed_from_u64(7);
        let mut changes = Vec::new();
        Change { key: &topic_key("t"), value: Some(&[0, 0, 0, 1]) }.encode_into(&mut changes);
        Change { key: &topic_key("gone"), value: None }.encode_into(&mut changes);
        let version = Version { origin: NodeId([9; 64]), incarnation: 1, seq: 2 };
        let messages = [
            Message::Steps(vec![(head(), &changes), (head(), &changes)]).encode(),
            Message::Digest { scope: Scope::ALL, hash: [3; 32] }.encode(),
            Message::List(vec![version; 3]).encode(),
            Message::Want { known: version, after: b"key" }.encode(),
            Message::Part { head: head(), after: b"k", last: false, entries: &changes }.encode(),
        ];
        let rounds = if cfg!(miri) { 200 } else { 20_000 };
        for round in 0..rounds {
            let mut bytes = messages[round % messages.len()].clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            match Message::decode(&bytes) {
                Ok(Message::Steps(steps)) => {
                    steps.iter().for_each(|(_, changes)| drop(Change::decode_all(changes)));
                }
                Ok(Message::Part { entries, .. }) => drop(Change::decode_all(entries)),
                _ => {}
            }
        }
    }

    #[test]
    fn an_entry_of_an_unknown_kind_is_kept_and_counts_into_the_root() {
        let mut entries = Entries::default();
        let before = entries.root();
        entries.apply(&Change { key: &[200, 1, 2], value: Some(b"from the future") });
        assert_ne!(entries.root(), before);
        assert_eq!(entries.part(&[]), {
            let mut out = Vec::new();
            Change { key: &[200, 1, 2], value: Some(b"from the future") }.encode_into(&mut out);
            (out, true)
        });
        assert_eq!(entries.topics().count(), 0);
        assert_eq!(entries.bytes(), 3 + 15);
    }

    #[test]
    fn the_root_depends_on_the_entries_and_not_on_their_history() {
        let set = |key: &'static [u8], value: &'static [u8]| Change { key, value: Some(value) };
        let mut one = Entries::default();
        for change in [set(b"a", b"1"), set(b"b", b"2"), set(b"a", b"3")] {
            one.apply(&change);
        }
        let mut other = Entries::default();
        for change in [set(b"c", b"0"), set(b"b", b"2"), set(b"a", b"3"), Change { key: b"c", value: None }] {
            other.apply(&change);
        }
        assert_eq!(one.root(), other.root());
        other.apply(&set(b"a", b"1"));
        assert_ne!(one.root(), other.root());
    }

    #[test]
    fn roots_are_those_that_the_document_gives() {
        let mut entries = Entries::default();
        let empty = hex::encode(&entries.root());
        entries.apply(&Change { key: &topic_key("news"), value: Some(&1u32.to_be_bytes()) });
        let document = include_str!("../../docs/node-link.md");
        for root in [hex::encode(&entries.root()), empty] {
            assert!(document.contains(&format!("`{root}`")), "{root}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn parts_of_a_record_join_to_the_whole() {
        let mut whole = Entries::default();
        for i in 0..20_000u32 {
            whole
                .apply(&Change { key: &topic_key(&format!("topic/{i:040}")), value: Some(&i.to_be_bytes()) });
        }
        let (mut joined, mut after, mut parts) = (Entries::default(), Vec::new(), 0);
        loop {
            let (bytes, last) = whole.part(&after);
            for change in Change::decode_all(&bytes).unwrap() {
                joined.apply(&change);
                after = change.key.to_vec();
            }
            parts += 1;
            if last {
                break;
            }
        }
        assert!(parts > 3);
        assert_eq!(joined.root(), whole.root());
        assert_eq!(joined.topics().count(), 20_000);
    }
}
