//! A text that one node tells all nodes of the network (docs/node-link.md): the payload of a Broadcast, signed by its
//! origin and passed on from neighbour to neighbour.

use super::{NodeId, reader::Reader};

/// Longest text in bytes of UTF-8.
pub const TEXT_LEN_MAX: usize = 1_024;
/// Longest payload with all fields that are known here, in bytes.
pub const LEN_MAX: usize = 1 + 64 + 8 + 8 + 2 + TEXT_LEN_MAX + 64;

/// The kind of notice that it is.
pub const KIND: u8 = 9;

const DOMAIN: &[u8] = b"amop announcement 1";

/// Why a text cannot be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing but space.
    #[error("the text is empty")]
    Empty,
    /// More bytes than [`TEXT_LEN_MAX`].
    #[error("the text has {0} bytes of UTF-8, and must have at most {TEXT_LEN_MAX}")]
    TooLong(usize),
    /// A character that could command a terminal, or break a line of a log.
    #[error("the text has a control character, {0:?}: it must be one line without tabs and escapes")]
    Control(char),
}

/// Whether a text may be announced.
pub fn check_text(text: &str) -> Result<(), TextError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(TextError::TooLong(text.len()));
    }
    if let Some(control) = text.chars().find(|character| character.is_control()) {
        return Err(TextError::Control(control));
    }
    if text.trim().is_empty() { Err(TextError::Empty) } else { Ok(()) }
}

/// Why bytes are no announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end early, or the text is empty, no UTF-8, or has control characters.
    #[error("the announcement is malformed")]
    Malformed,
    /// The text is longer than [`TEXT_LEN_MAX`].
    #[error("the announcement is over the bound of {TEXT_LEN_MAX} bytes")]
    Oversized,
}

/// A text, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The node that announces.
    pub origin: NodeId,
    /// Which incarnation of it.
    pub incarnation: u64,
    /// Grows with each announcement of that incarnation; the first is 1.
    pub number: u64,
    /// What it says: not empty, no control characters.
    pub text: String,
    /// By the origin's key, over [`Self::digest`].
    pub signature: [u8; 64],
}

impl Announcement {
    /// What is signed.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(&self.front());
        hasher.update(self.text.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// What stands before the text.
    fn front(&self) -> Vec<u8> {
        let mut front = Vec::with_capacity(LEN_MAX);
        front.extend_from_slice(&self.origin.0);
        front.extend_from_slice(&self.incarnation.to_be_bytes());
        front.extend_from_slice(&self.number.to_be_bytes());
        front.extend_from_slice(&(self.text.len() as u16).to_be_bytes());
        front
    }

    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.front();
        out.insert(0, KIND);
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(&self.signature);
        out
    }

    /// Whether a payload claims to be an announcement.
    pub fn is_one(payload: &[u8]) -> bool {
        payload.first() == Some(&KIND)
    }

    /// Reads a payload of which [`Self::is_one`] holds. Bytes behind the known fields belong to newer versions and are
    /// ignored.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_inner(payload).unwrap_or(Err(DecodeError::Malformed))
    }

    fn decode_inner(payload: &[u8]) -> Option<Result<Self, DecodeError>> {
        let mut reader = Reader(payload);
        if reader.u8()? != KIND {
            return None;
        }
        let (origin, incarnation, number) = (NodeId(reader.array()?), reader.u64()?, reader.u64()?);
        let len = usize::from(reader.u16()?);
        if len > TEXT_LEN_MAX {
            return Some(Err(DecodeError::Oversized));
        }
        let is_line = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
        let text = std::str::from_utf8(reader.take(len)?).ok().filter(is_line)?;
        let signature = reader.array()?;
        (number > 0).then(|| Ok(Self { origin, incarnation, number, text: text.to_owned(), signature }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(text: &str) -> Announcement {
        let (origin, signature) = (NodeId([1; 64]), [4; 64]);
        Announcement { origin, incarnation: 2, number: 3, text: text.to_owned(), signature }
    }

    #[test]
    fn announcements_survive_encoding_and_cut_ones_are_malformed() {
        for text in ["x", "Wartung um 22:00 – bitte warten", "升级 😀", &"y".repeat(TEXT_LEN_MAX)] {
            let announcement = announcement(text);
            let mut bytes = announcement.encode();
            assert!(Announcement::is_one(&bytes) && bytes.len() <= LEN_MAX);
            for cut in 0..bytes.len() {
                assert_eq!(Announcement::decode(&bytes[..cut]), Err(DecodeError::Malformed), "{cut}");
            }
            bytes.extend_from_slice(b"newer");
            assert_eq!(Announcement::decode(&bytes), Ok(announcement));
        }
    }

    #[test]
    fn what_commands_a_terminal_is_empty_or_too_long_is_no_announcement() {
        for (text, error) in [
            ("", TextError::Empty),
            ("a\u{1b}[2J", TextError::Control('\u{1b}')),
            ("a\nb", TextError::Control('\n')),
            ("\u{9b}31m", TextError::Control('\u{9b}')),
            ("a\0", TextError::Control('\0')),
            ("\u{7f}", TextError::Control('\u{7f}')),
            (&"é".repeat(513), TextError::TooLong(1_026)),
        ] {
            assert_eq!(check_text(text), Err(error), "{text:?}");
            let expected = match error {
                TextError::TooLong(_) => DecodeError::Oversized,
                _ => DecodeError::Malformed,
            };
            assert_eq!(Announcement::decode(&announcement(text).encode()), Err(expected), "{text:?}");
        }
        assert_eq!(check_text(" \u{3000}"), Err(TextError::Empty));
        let mut bytes = announcement("abc").encode();
        bytes[1 + 64 + 8 + 8 + 2] = 0xff;
        assert_eq!(Announcement::decode(&bytes), Err(DecodeError::Malformed), "no UTF-8");
        let unnumbered = Announcement { number: 0, ..announcement("abc") };
        assert_eq!(Announcement::decode(&unnumbered.encode()), Err(DecodeError::Malformed));
    }

    #[test]
    fn every_field_is_signed() {
        let one = announcement("abc");
        let changed: [fn(&mut Announcement); 5] = [
            |one| one.origin.0[63] ^= 1,
            |one| one.incarnation += 1,
            |one| one.number += 1,
            |one| one.text.push('d'),
            |one| one.text.replace_range(0..1, "x"),
        ];
        for change in changed {
            let mut other = one.clone();
            change(&mut other);
            assert_ne!(one.digest(), other.digest(), "{other:?}");
        }
    }
}
