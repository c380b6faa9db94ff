//! Payloads that go over more than one link are sealed between their two ends (WIRE §6.4): a node on the path reads
//! nothing of them, and can neither alter nor make one.
//!
//! The two nodes share a secret by their keys alone (ECDH on secp256k1), so nothing has to be agreed first. A key is
//! made of it for one direction and one incarnation of each end. Which incarnations these are stands in the open before what is sealed,
//! and so does a number that no other payload under that key has.
//!
//! ```text
//!   u64 incarnation of the source | 16 bytes its salt | u64 incarnation of the destination | u64 number | sealed payload | 16 bytes tag
//! ```
//!
//! An incarnation alone does not tell incarnations apart: clocks go back, machines are restored. So each process draws a salt,
//! which its record tells, and which is in the keys of both directions.
//!
//! # Invariants
//! - No number is used twice with one key: whoever seals counts up in one place as long as it lives, and a key is of one
//!   process of its sealer.
//! - What opens was made by the other node, for this node, as a message of that type and number at its source.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use secp256k1::{PublicKey, SecretKey, ecdh::SharedSecret};

use crate::wire::{FrameBuffer, MessageNumber, NodeId, RetainedFrame, node::PacketType};

/// Bytes before a sealed payload.
pub const FRONT_LEN: usize = 40;
/// Bytes behind it.
pub const TAG_LEN: usize = 16;

const CONTEXT: &str = "amop 2026 payload between two nodes, AES-128-GCM, version 2";

/// Random bytes that a process draws when it starts.
pub type Salt = [u8; 16];

/// One incarnation of a node. The same incarnation with another salt is another process, before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncarnationId {
    /// Grows with every start, as long as the clock does not go back.
    pub incarnation: u64,
    /// Differs in every process.
    pub salt: Salt,
}

impl IncarnationId {
    /// Whether it is over, as far as can be told, where an incarnation of the node with this incarnation is known, and its salt
    /// if that is known: of two processes with one incarnation the other one may be the earlier.
    pub fn is_before(&self, incarnation: u64, salt: Option<Salt>) -> bool {
        self.incarnation < incarnation
            || (self.incarnation == incarnation && salt.is_some_and(|salt| salt != self.salt))
    }
}

/// The number that a payload is sealed under: with the key it is the nonce, and its sender gives none twice in one incarnation.
/// A message that is sealed anew gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealNumber(pub u64);

impl SealNumber {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    fn nonce(self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.0.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Why a payload does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is shorter than what stands around a payload.
    #[error("the payload is too short to be sealed")]
    Short,
    /// It is for another incarnation of this node.
    #[error("the payload is for another incarnation of this node")]
    OtherIncarnation,
    /// It was not made by the node that it names, or not as this message, or it was changed.
    #[error("the payload was not sealed by its source for this message")]
    Forged,
}

/// What a sealed payload belongs to, besides its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What the payload is.
    pub packet_type: PacketType,
    /// The message's number at its source.
    pub message: MessageNumber,
}

/// What two nodes share, whatever incarnation they are in.
#[derive(Clone)]
pub struct Secret {
    shared: [u8; 32],
    own: NodeId,
    other: NodeId,
}

impl Secret {
    /// Of this node's key and another node's id; `None` if the id is no point on the curve.
    pub fn new(own: &SecretKey, own_id: NodeId, other: NodeId) -> Option<Self> {
        let mut point = [4; 65];
        point[1..].copy_from_slice(&other.0);
        let public = PublicKey::from_byte_array_uncompressed(point).ok()?;
        let shared = SharedSecret::new(&public, own).secret_bytes();
        Some(Self { shared, own: own_id, other })
    }

    /// The key for what goes from one of the two to the other.
    fn key(
        &self,
        source: (&NodeId, &IncarnationId),
        destination: (&NodeId, &IncarnationId),
    ) -> Option<LessSafeKey> {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.shared);
        for (id, incarnation_id) in [source, destination] {
            hasher.update(&id.0);
            hasher.update(&incarnation_id.incarnation.to_be_bytes());
            hasher.update(&incarnation_id.salt);
        }
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        let unbound = UnboundKey::new(&AES_128_GCM, &key).ok();
        zeroize::Zeroize::zeroize(&mut key);
        unbound.map(LessSafeKey::new)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.shared);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} and {})", self.own, self.other)
    }
}

/// Seals for one other node, and opens what it sealed, in one incarnation of each.
pub struct Seal {
    secret: Secret,
    own_incarnation: IncarnationId,
    other_incarnation: IncarnationId,
    sealing: LessSafeKey,
    opening: LessSafeKey,
}

impl Seal {
    /// For these incarnations of the two nodes.
    pub fn new(
        secret: Secret,
        own_incarnation: IncarnationId,
        other_incarnation: IncarnationId,
    ) -> Option<Self> {
        let (own, other) = ((&secret.own, &own_incarnation), (&secret.other, &other_incarnation));
        let sealing = secret.key(own, other)?;
        let opening = secret.key(other, own)?;
        Some(Self { secret, own_incarnation, other_incarnation, sealing, opening })
    }

    /// The incarnation of the other node that it is for.
    pub fn other_incarnation(&self) -> IncarnationId {
        self.other_incarnation
    }

    /// Appends the sealed form of a payload that comes in pieces behind a first one, under a number that no other one has in this incarnation of
    /// this node. `None` if it is too long for AES-GCM.
    pub fn seal<'a>(
        &self,
        number: SealNumber,
        subject: Subject,
        first: &[u8],
        pieces: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        out.extend_from_slice(&self.own_incarnation.incarnation.to_be_bytes());
        out.extend_from_slice(&self.own_incarnation.salt);
        out.extend_from_slice(&self.other_incarnation.incarnation.to_be_bytes());
        out.extend_from_slice(&number.0.to_be_bytes());
        let start = out.len();
        out.extend_from_slice(first);
        pieces.for_each(|piece| out.extend_from_slice(piece));
        let aad = aad(subject, &self.secret.own, &self.secret.other);
        let tag = self.sealing.seal_in_place_separate_tag(number.nonce(), aad, &mut out[start..]).ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(())
    }

    /// The same as a frame of its own. What comes behind the first piece has `len` bytes.
    pub fn seal_whole<'a>(
        &self,
        number: SealNumber,
        subject: Subject,
        first: &[u8],
        pieces: impl Iterator<Item = &'a [u8]>,
        len: usize,
    ) -> Option<RetainedFrame> {
        let mut sealed = FrameBuffer::with_capacity(FRONT_LEN + first.len() + len + TAG_LEN);
        self.seal(number, subject, first, pieces, &mut sealed)?;
        Some(sealed.into_frame())
    }

    /// Opens a payload of the other node in place; gives what was sealed.
    pub fn open<'a>(&self, subject: Subject, sealed: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        let incarnations = SealIncarnations {
            source: self.other_incarnation,
            destination: self.own_incarnation.incarnation,
        };
        if SealIncarnations::of(sealed).ok_or(OpenError::Short)? != incarnations {
            return Err(OpenError::OtherIncarnation);
        }
        let number = number_of(sealed).ok_or(OpenError::Short)?;
        let aad = aad(subject, &self.secret.other, &self.secret.own);
        let sealed = sealed.get_mut(FRONT_LEN..).ok_or(OpenError::Short)?;
        let opened = self.opening.open_in_place(number.nonce(), aad, sealed);
        opened.map(|opened| &*opened).map_err(|_| OpenError::Forged)
    }
}

/// The number that a payload says it was sealed under; `None` if it is too short to be sealed.
pub fn number_of(sealed: &[u8]) -> Option<SealNumber> {
    u64_at(sealed, 32).map(SealNumber)
}

/// A payload for several nodes is sealed once, under a key of its own. Each of them gets that key in a ticket, which is
/// sealed for it alone and also says which payload it belongs to, so that none of them can make another one for it.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentKey {
    key: [u8; 16],
    hash: [u8; 32],
}

/// Bytes of a ticket's content.
pub const CONTENT_KEY_LEN: usize = 48;

impl ContentKey {
    /// Appends the sealed form of a payload that comes in pieces behind a first one; the key is for this payload alone.
    /// `None` if it is too long for AES-GCM.
    pub fn seal<'a>(
        key: [u8; 16],
        first: &[u8],
        pieces: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> Option<Self> {
        let start = out.len();
        out.extend_from_slice(first);
        pieces.for_each(|piece| out.extend_from_slice(piece));
        let sealing = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).ok()?);
        let tag = sealing
            .seal_in_place_separate_tag(SealNumber(0).nonce(), Aad::empty(), &mut out[start..])
            .ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(Self { key, hash: *blake3::hash(&out[start..]).as_bytes() })
    }

    /// Opens a payload in place; gives what was sealed.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        if *blake3::hash(sealed).as_bytes() != self.hash {
            return Err(OpenError::Forged);
        }
        let opening = UnboundKey::new(&AES_128_GCM, &self.key).map_err(|_| OpenError::Forged)?;
        let opening = LessSafeKey::new(opening);
        opening
            .open_in_place(SealNumber(0).nonce(), Aad::empty(), sealed)
            .map(|opened| &*opened)
            .map_err(|_| OpenError::Forged)
    }

    /// What a ticket holds.
    pub fn encode(&self) -> [u8; CONTENT_KEY_LEN] {
        let mut bytes = [0; CONTENT_KEY_LEN];
        bytes[..16].copy_from_slice(&self.key);
        bytes[16..].copy_from_slice(&self.hash);
        bytes
    }

    /// Reads it back; `None` if it has another length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; CONTENT_KEY_LEN] = bytes.try_into().ok()?;
        let (key, hash) = (*bytes.first_chunk()?, *bytes.last_chunk()?);
        Some(Self { key, hash })
    }
}

impl Drop for ContentKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

/// For which incarnations of its ends a payload was sealed, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealIncarnations {
    /// Of the node that sealed it.
    pub source: IncarnationId,
    /// The incarnation of the node that it is for, which knows its own salt.
    pub destination: u64,
}

impl SealIncarnations {
    /// `None` if the payload is too short to be sealed.
    pub fn of(sealed: &[u8]) -> Option<Self> {
        (sealed.len() >= FRONT_LEN + TAG_LEN).then_some(())?;
        let salt = *sealed.get(8..)?.first_chunk()?;
        let source = IncarnationId { incarnation: u64_at(sealed, 0)?, salt };
        Some(Self { source, destination: u64_at(sealed, 24)? })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn aad(subject: Subject, source: &NodeId, destination: &NodeId) -> Aad<[u8; 134]> {
    let mut bytes = [0; 134];
    bytes[..2].copy_from_slice(&subject.packet_type.0.to_be_bytes());
    bytes[2..6].copy_from_slice(&subject.message.0.to_be_bytes());
    bytes[6..70].copy_from_slice(&source.0);
    bytes[70..].copy_from_slice(&destination.0);
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject { packet_type: PacketType::UNICAST, message: MessageNumber(7) };

    fn party(number: u8) -> (SecretKey, NodeId) {
        let secret = SecretKey::from_byte_array([number; 32]).unwrap();
        let [_, id @ ..] = PublicKey::from_secret_key(secp256k1::SECP256K1, &secret).serialize_uncompressed();
        (secret, NodeId(id))
    }

    /// In incarnations that are called by one number: the incarnation, which is in the salt, too.
    fn seal_of(own: u8, other: u8, incarnations: (u8, u8)) -> Seal {
        let ((secret, id), (_, other)) = (party(own), party(other));
        Seal::new(
            Secret::new(&secret, id, other).unwrap(),
            incarnation_id(incarnations.0),
            incarnation_id(incarnations.1),
        )
        .unwrap()
    }

    fn incarnation_id(number: u8) -> IncarnationId {
        IncarnationId { incarnation: number.into(), salt: [number; 16] }
    }

    fn sealed(seal: &Seal, number: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal.seal(SealNumber(number), SUBJECT, &[], payload.chunks(3), &mut out).unwrap();
        out
    }

    #[test]
    fn the_other_end_opens_what_was_sealed_and_every_payload_has_a_number_of_its_own() {
        let (one, other) = (seal_of(1, 2, (10, 20)), seal_of(2, 1, (20, 10)));
        let mut seen = std::collections::BTreeSet::new();
        for (number, payload) in (5..).zip([&b"first"[..], b"", b"first", &[9; 10_000]]) {
            let mut bytes = sealed(&one, number, payload);
            assert_eq!(number_of(&bytes), Some(SealNumber(number)));
            assert_eq!(bytes.len(), FRONT_LEN + payload.len() + TAG_LEN);
            assert_eq!(
                SealIncarnations::of(&bytes),
                Some(SealIncarnations { source: incarnation_id(10), destination: 20 })
            );
            assert!(seen.insert(bytes.clone()));
            assert_eq!(other.open(SUBJECT, &mut bytes), Ok(payload));
            let mut back = sealed(&other, number, payload);
            assert!(seen.insert(back.clone()), "the two directions have keys of their own");
            assert_eq!(one.open(SUBJECT, &mut back), Ok(payload));
        }
    }

    #[test]
    fn processes_with_one_incarnation_and_salts_that_differ_have_no_key_in_common() {
        let ((secret, id), (_, other)) = (party(1), party(2));
        let of = |own: IncarnationId, other_incarnation: IncarnationId| {
            Seal::new(Secret::new(&secret, id, other).unwrap(), own, other_incarnation).unwrap()
        };
        let salted = |salt: u8| IncarnationId { incarnation: 5, salt: [salt; 16] };
        let mut seen = std::collections::BTreeSet::new();
        for (own, other) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let bytes = sealed(&of(salted(own), salted(other)), 7, &[0; 16]);
            // Under one key these were the same.
            assert!(seen.insert(bytes[FRONT_LEN..].to_vec()), "{own} {other}");
            let back = seal_back(salted(other), salted(own));
            assert_eq!(back.open(SUBJECT, &mut bytes.clone()), Ok(&[0; 16][..]));
            for (other, own) in [(3, own), (other, 3)] {
                let back = seal_back(salted(other), salted(own));
                assert!(back.open(SUBJECT, &mut bytes.clone()).is_err());
            }
        }
    }

    fn seal_back(own: IncarnationId, other_incarnation: IncarnationId) -> Seal {
        let ((secret, id), (_, other)) = (party(2), party(1));
        Seal::new(Secret::new(&secret, id, other).unwrap(), own, other_incarnation).unwrap()
    }

    #[test]
    fn the_example_of_the_documentation_is_what_is_sealed() {
        let one = seal_of(1, 2, (10, 20));
        let mut sealed = Vec::new();
        let subject = Subject { packet_type: PacketType::MULTICAST, message: MessageNumber(7) };
        one.seal(SealNumber(7), subject, b"", std::iter::once(&b"pay 5 to bob"[..]), &mut sealed).unwrap();
        let digits: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<&str> =
            (0..digits.len()).step_by(64).map(|at| &digits[at..digits.len().min(at + 64)]).collect();
        let document = include_str!("../../docs/node-link.md");
        assert!(document.contains(&lines.join("\n")), "{}", lines.join("\n"));
    }

    #[test]
    fn whatever_is_changed_on_the_way_shows() {
        let one = seal_of(1, 2, (10, 20));
        let other = seal_of(2, 1, (20, 10));
        let bytes = sealed(&one, 0, b"pay 5 to bob");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(other.open(SUBJECT, &mut changed).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert!(other.open(SUBJECT, &mut bytes[..len].to_vec()).is_err(), "cut to {len}");
        }
        for subject in [
            Subject { message: MessageNumber(8), ..SUBJECT },
            Subject { packet_type: PacketType::UNICAST_RESPONSE, ..SUBJECT },
            Subject { packet_type: PacketType::MULTICAST, ..SUBJECT },
        ] {
            assert_eq!(other.open(subject, &mut bytes.clone()), Err(OpenError::Forged), "{subject:?}");
        }
        assert_eq!(other.open(SUBJECT, &mut bytes.clone()), Ok(&b"pay 5 to bob"[..]));
    }

    #[test]
    fn a_payload_for_several_opens_with_its_key_and_no_other_payload_does() {
        let mut sealed = Vec::new();
        let key =
            ContentKey::seal([7; 16], b"to ", [&b"all"[..], b" of you"].into_iter(), &mut sealed).unwrap();
        assert!(ContentKey::decode(&key.encode()).unwrap() == key);
        assert_eq!(key.open(&mut sealed.clone()), Ok(&b"to all of you"[..]));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&mut changed), Err(OpenError::Forged));
        }
        // One who has the key can seal another payload under it, but not for others.
        let mut other = Vec::new();
        ContentKey::seal([7; 16], b"to all of us", std::iter::empty(), &mut other).unwrap();
        assert_eq!(key.open(&mut other), Err(OpenError::Forged));
        assert_eq!(key.open(&mut []), Err(OpenError::Forged));
        assert!(ContentKey::decode(&[0; CONTENT_KEY_LEN + 1]).is_none());
    }

    #[test]
    fn it_opens_at_nobody_else_in_no_other_incarnation_and_not_where_it_came_from() {
        let one = seal_of(1, 2, (10, 20));
        let bytes = sealed(&one, 0, b"payload");
        let open = |seal: &Seal| seal.open(SUBJECT, &mut bytes.clone()).map(<[u8]>::to_vec);
        assert_eq!(open(&seal_of(3, 1, (20, 10))), Err(OpenError::Forged), "a third node");
        assert_eq!(open(&seal_of(2, 3, (20, 10))), Err(OpenError::Forged), "as if it came from a third node");
        assert_eq!(open(&seal_of(2, 1, (21, 10))), Err(OpenError::OtherIncarnation));
        assert_eq!(open(&seal_of(2, 1, (20, 11))), Err(OpenError::OtherIncarnation));
        assert_eq!(open(&seal_of(1, 2, (20, 10))), Err(OpenError::Forged), "sent back");
        assert!(Secret::new(&party(1).0, party(1).1, NodeId([0; 64])).is_none(), "no point of the curve");
    }
}
