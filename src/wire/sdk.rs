//! Frames of the SDK link (WIRE §1.1, §1.2).

use super::{
    ResultCode,
    reader::Reader,
    topic::{self, TopicKind},
};

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 42;
/// What a frame's length adds to the time of a request: a second for each 100 KiB (WIRE §2.3).
pub fn transfer_time(frame_len: usize) -> std::time::Duration {
    std::time::Duration::from_secs((frame_len / (100 * 1024)) as u64)
}

/// Default bound on a whole frame in bytes, as in FISCO BCOS.
pub const FRAME_LEN_MAX: usize = 100 * 1024 * 1024;

/// The longest payload of an AMOP frame whose topic has so many bytes on the wire.
pub const fn payload_len_max(topic_len: usize) -> usize {
    FRAME_LEN_MAX - HEADER_LEN - 1 - topic_len
}

/// The type field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameType(pub u16);

#[allow(missing_docs)] // named as in WIRE §1.2
impl FrameType {
    pub const RPC: Self = Self(0x12);
    pub const HEARTBEAT: Self = Self(0x13);
    pub const HANDSHAKE: Self = Self(0x14);
    pub const EVENT_REGISTER: Self = Self(0x15);
    pub const EVENT_UNREGISTER: Self = Self(0x16);
    pub const REQUEST: Self = Self(0x30);
    pub const RESPONSE: Self = Self(0x31);
    pub const SUBSCRIBE: Self = Self(0x32);
    pub const MULTICAST: Self = Self(0x35);
    pub const TOPIC_CERTIFICATION: Self = Self(0x37);
    pub const TOPIC_STATUS: Self = Self(0x38);
    pub const RECEIPT: Self = Self(0x1000);
    pub const BLOCK_NOTICE: Self = Self(0x1001);
    pub const EVENT_LOGS: Self = Self(0x1002);
}

/// The 32 bytes by which a request and its answer are matched; opaque to the node.
pub type Seq = [u8; 32];

/// The fixed header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole frame in bytes, header included.
    pub len: u32,
    /// What the frame is.
    pub frame_type: FrameType,
    /// What it is matched by.
    pub seq: Seq,
    /// 0 or an error code.
    pub result: ResultCode,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` if fewer than [`HEADER_LEN`] are there.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        // Looked at once for all fields whether they are there.
        let mut reader = Reader(bytes.first_chunk::<HEADER_LEN>()?);
        Some(Self {
            len: reader.u32()?,
            frame_type: FrameType(reader.u16()?),
            seq: reader.array()?,
            result: ResultCode(i32::from_be_bytes(reader.array()?)),
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.len.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.frame_type.0.to_be_bytes());
        bytes[6..38].copy_from_slice(&self.seq);
        bytes[38..].copy_from_slice(&self.result.0.to_be_bytes());
        bytes
    }
}

/// A whole frame with `data` behind a header that tells its length.
pub fn encode(frame_type: FrameType, seq: &Seq, result: ResultCode, data: &[u8]) -> Vec<u8> {
    encode_parts(frame_type, seq, result, &[data])
}

/// The same with data in several pieces.
fn encode_parts(frame_type: FrameType, seq: &Seq, result: ResultCode, data: &[&[u8]]) -> Vec<u8> {
    let len = HEADER_LEN + data.iter().map(|piece| piece.len()).sum::<usize>();
    let mut frame = Vec::with_capacity(len);
    frame.extend_from_slice(&Header { len: len as u32, frame_type, seq: *seq, result }.encode());
    for piece in data {
        frame.extend_from_slice(piece);
    }
    frame
}

/// An AMOP frame: header, topic and payload.
///
/// ```
/// use amop::internal::wire::{ResultCode, sdk::{self, AmopBody, FrameType, HEADER_LEN, Header}};
///
/// let seq = *b"b3ae60984320433aa3efbc6462ef6102";
/// let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "payments", b"5 to bob");
///
/// let header = Header::decode(&frame).expect("42 bytes are there");
/// assert_eq!((header.len as usize, header.seq), (frame.len(), seq));
/// let body = AmopBody::decode(&frame[HEADER_LEN..]).expect("a valid topic");
/// assert_eq!(body.topic, "payments");
/// assert_eq!(&frame[HEADER_LEN + body.payload_offset..], b"5 to bob");
/// ```
pub fn encode_amop(
    frame_type: FrameType,
    seq: &Seq,
    result: ResultCode,
    topic: &str,
    payload: &[u8],
) -> Vec<u8> {
    debug_assert!(topic.len() <= topic::TOPIC_LEN_MAX);
    encode_parts(frame_type, seq, result, &[&[topic.len() as u8 + 1], topic.as_bytes(), payload])
}

/// Why the data of a 0x30, 0x31 or 0x35 is no AMOP body (WIRE §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No length byte at all.
    #[error("the body is empty")]
    Empty,
    /// The length byte is 0.
    #[error("the topic length byte is 0")]
    ZeroLength,
    /// The topic is longer than the bytes that are there.
    #[error("the topic is longer than the body")]
    Truncated,
    /// The name breaks WIRE §2.1.
    #[error("the topic is not valid")]
    InvalidTopic,
}

/// The topic of an AMOP body and where its payload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmopBody<'a> {
    /// A valid name.
    pub topic: &'a str,
    /// Offset of the payload from the start of the body, in bytes.
    pub payload_offset: usize,
}

impl<'a> AmopBody<'a> {
    /// Reads the beginning of `body`, of which the first 255 bytes suffice.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let (&len, rest) = body.split_first().ok_or(BodyError::Empty)?;
        let len = usize::from(len).checked_sub(1).ok_or(BodyError::ZeroLength)?;
        let name = rest.get(..len).ok_or(BodyError::Truncated)?;
        let topic = topic::read(name).ok_or(BodyError::InvalidTopic)?;
        Ok(Self { topic, payload_offset: 1 + len })
    }

    /// What the topic is for.
    pub fn kind(&self) -> TopicKind {
        TopicKind::of(self.topic.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_encoding() {
        let header =
            Header { len: 99, frame_type: FrameType::REQUEST, seq: [b'a'; 32], result: ResultCode(-7) };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Header::decode(&header.encode()[..41]), None);
    }

    #[test]
    fn the_recorded_unicast_is_encoded_to_the_byte() {
        // A frame seen on the wire of FISCO BCOS 2.10.2: topic "T", payload "hello".
        let seq: Seq = *b"b3ae60984320433aa3efbc6462ef6102";
        let frame = encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "T", b"hello");
        assert_eq!(frame[..6], [0, 0, 0, 0x31, 0, 0x30]);
        assert_eq!(frame[42..], *b"\x02Thello");
    }

    #[test]
    fn each_malformed_body_has_its_error() {
        assert_eq!(AmopBody::decode(b""), Err(BodyError::Empty));
        assert_eq!(AmopBody::decode(b"\0abc"), Err(BodyError::ZeroLength));
        assert_eq!(AmopBody::decode(b"\x05abc"), Err(BodyError::Truncated));
        assert_eq!(AmopBody::decode(b"\x01abc"), Err(BodyError::InvalidTopic));
        assert_eq!(AmopBody::decode(b"\x02\xffabc"), Err(BodyError::InvalidTopic));
        assert_eq!(AmopBody::decode(b"\x02Tabc"), Ok(AmopBody { topic: "T", payload_offset: 2 }));
    }
}
