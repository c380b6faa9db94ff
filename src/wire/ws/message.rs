//! Messages of the 3.x SDK link (INTEROP §3.2), and the form in which the relay sees them: that of SDK frames of 2.x.
//!
//! ```text
//!   offset 0        2     4       6  8            8+n  10+n
//!   version 0 │ type │ status │ n │ seq (n bytes) │ ext │ body
//!   body of a request or a broadcast: u32 version 0 │ u16 topic length │ topic │ data
//! ```
//!
//! A seq has 32 bytes or fewer. A shorter one has zeroes behind it in an SDK frame, and loses them again on its way
//! back: the empty one, which occurs, is 32 zeroes there.

use smallvec::SmallVec;

use super::frame::{self, FrameHead, Opcode};
use crate::wire::{
    ResultCode,
    reader::Reader,
    sdk::{self, FrameType, Seq},
};

/// Length of the head of a message without its seq.
const HEAD_LEN_WITHOUT_SEQ: usize = 10;
/// The longest head of a message in bytes.
pub const HEAD_LEN_MAX: usize = HEAD_LEN_WITHOUT_SEQ + size_of::<Seq>();
/// Version and length of the topic, before it.
const AMOP_PREFIX_LEN: usize = 6;
/// What at most is looked at of a message to make an SDK frame of it.
pub const HEAD_WITH_TOPIC_LEN_MAX: usize = HEAD_LEN_MAX + AMOP_PREFIX_LEN;
/// A topic is no longer, for an SDK frame has a byte for its length and one more.
const TOPIC_LEN_MAX: usize = u8::MAX as usize - 1;
/// A message may have so many bytes more than its SDK frame.
pub const MESSAGE_LEN_MORE_MAX: usize = AMOP_PREFIX_LEN - 1;

const _: () = assert!(HEAD_LEN_MAX == sdk::HEADER_LEN, "an SDK header is written over the head of a message");

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MessageType(pub u16);

#[allow(missing_docs)] // named as in INTEROP §3.2
impl MessageType {
    pub const HANDSHAKE: Self = Self(0x100);
    pub const BLOCK_NOTICE: Self = Self(0x101);
    pub const RPC: Self = Self(0x102);
    pub const GROUP_NOTICE: Self = Self(0x103);
    pub const TOPICS: Self = Self(0x110);
    pub const REQUEST: Self = Self(0x111);
    pub const BROADCAST: Self = Self(0x112);
    pub const RESPONSE: Self = Self(0x113);
    pub const EVENT_SUBSCRIBE: Self = Self(0x120);
    pub const EVENT_UNSUBSCRIBE: Self = Self(0x121);
    pub const EVENT_PUSH: Self = Self(0x122);
}

impl MessageType {
    /// The type of the SDK frame that a message becomes. What is neither a message with a topic nor an answer keeps its
    /// number, which no frame of 2.x has; numbers that frames of 2.x have become 0, which has no meaning.
    pub fn to_frame_type(self) -> FrameType {
        match self {
            Self::REQUEST => FrameType::REQUEST,
            Self::BROADCAST => FrameType::MULTICAST,
            Self::RESPONSE => FrameType::RESPONSE,
            Self(0x100..=0xfff) => FrameType(self.0),
            _ => FrameType(0),
        }
    }

    /// Whether its body is a topic and data.
    pub fn has_topic(self) -> bool {
        matches!(self, Self::REQUEST | Self::BROADCAST)
    }
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is shorter than its head.
    #[error("shorter than its head")]
    Truncated,
    /// Its seq is longer than any that is carried.
    #[error("a seq of {0} bytes, where 32 is the most")]
    SeqLength(u16),
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHead {
    /// What the message is.
    pub message_type: MessageType,
    /// 0 or an error code.
    pub status: i16,
    /// What it is matched by; one shorter than 32 bytes has zeroes behind it.
    pub seq: Seq,
    /// Flags; one of them marks responses.
    pub ext: u16,
}

impl MessageHead {
    /// Reads the head at the start of a message, and gives its length. Its version is not looked at.
    pub fn decode(message: &[u8]) -> Result<(Self, usize), MessageError> {
        let mut reader = Reader(message);
        let mut fields = || {
            let _version = reader.u16()?;
            Some((MessageType(reader.u16()?), reader.u16()? as i16, reader.u16()?))
        };
        let (message_type, status, n) = fields().ok_or(MessageError::Truncated)?;
        let mut seq = [0; size_of::<Seq>()];
        let room = seq.get_mut(..usize::from(n)).ok_or(MessageError::SeqLength(n))?;
        room.copy_from_slice(reader.take(usize::from(n)).ok_or(MessageError::Truncated)?);
        let ext = reader.u16().ok_or(MessageError::Truncated)?;
        let head = Self { message_type, status, seq, ext };
        Ok((head, HEAD_LEN_WITHOUT_SEQ + usize::from(n)))
    }

    /// The head's bytes.
    fn encode(&self) -> SmallVec<[u8; HEAD_LEN_MAX]> {
        let n = self.seq.len() - self.seq.iter().rev().take_while(|&&byte| byte == 0).count();
        let mut bytes = SmallVec::new();
        bytes.extend_from_slice(&0u16.to_be_bytes());
        bytes.extend_from_slice(&self.message_type.0.to_be_bytes());
        bytes.extend_from_slice(&self.status.to_be_bytes());
        bytes.extend_from_slice(&(n as u16).to_be_bytes());
        bytes.extend_from_slice(&self.seq[..n]);
        bytes.extend_from_slice(&self.ext.to_be_bytes());
        bytes
    }

    /// A whole message, without a WebSocket frame around it.
    pub fn encode_message(&self, body: &[u8]) -> Vec<u8> {
        [&self.encode(), body].concat()
    }

    /// The same of a message with a topic.
    pub fn encode_amop_message(&self, topic: &str, data: &[u8]) -> Vec<u8> {
        [&self.encode()[..], &amop_prefix(topic), topic.as_bytes(), data].concat()
    }

    /// What a server sends before a body of so many bytes: the header of the one frame of the message, and its head.
    ///
    /// ```
    /// use amop::internal::wire::ws::{MessageHead, MessageType};
    ///
    /// let seq = *b"b3ae60984320433aa3efbc6462ef6102";
    /// let head = MessageHead { message_type: MessageType::RESPONSE, status: 0, seq, ext: 0 };
    /// let frame = [&head.frame_head(5)[..], b"hello"].concat();
    /// assert_eq!(frame[..2], [0x82, 10 + 32 + 5]);
    /// ```
    pub fn frame_head(&self, body_len: usize) -> FrameHead {
        self.frame_head_with(&[], body_len)
    }

    /// The same of a message with a topic, before data of so many bytes.
    pub fn amop_frame_head(&self, topic: &str, data_len: usize) -> FrameHead {
        self.frame_head_with(&[&amop_prefix(topic), topic.as_bytes()], data_len)
    }

    fn frame_head_with(&self, pieces: &[&[u8]], body_len: usize) -> FrameHead {
        let head = self.encode();
        let len = head.len() + pieces.iter().map(|piece| piece.len()).sum::<usize>() + body_len;
        let header = frame::Header { opcode: Opcode::Binary, is_final: true, mask: None, len: len as u64 };
        let mut bytes = header.encode();
        bytes.extend_from_slice(&head);
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }
}

fn amop_prefix(topic: &str) -> [u8; AMOP_PREFIX_LEN] {
    debug_assert!(topic.len() <= TOPIC_LEN_MAX);
    let [high, low] = (topic.len() as u16).to_be_bytes();
    [0, 0, 0, 0, high, low]
}

/// The topic of the body of a request or a broadcast, and where its data begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmopBody<'a> {
    /// Any bytes.
    pub topic: &'a [u8],
    /// Offset of the data from the start of the body, in bytes.
    pub data_offset: usize,
}

impl<'a> AmopBody<'a> {
    /// Reads the beginning of a body; `None` if it is shorter than it says. Its version is not looked at.
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let _version = reader.u32()?;
        let len = usize::from(reader.u16()?);
        Some(Self { topic: reader.take(len)?, data_offset: AMOP_PREFIX_LEN + len })
    }
}

/// What goes in place of the head of a message to make an SDK frame of it: the header, and for a message with a topic
/// the byte before that. The topic, the data and every other body stay where they lie.
///
/// ```
/// use amop::internal::wire::{ResultCode, sdk::{self, FrameType}, ws::{MessageHead, MessageType, SdkHead}};
///
/// let seq = *b"b3ae60984320433aa3efbc6462ef6102";
/// let head = MessageHead { message_type: MessageType::REQUEST, status: 0, seq, ext: 0 };
/// let mut message = head.encode_amop_message("payments", b"5 to bob");
///
/// let sdk_head = SdkHead::of(&message, message.len())?;
/// let skip = sdk_head.write(&mut message).expect("a seq of 32 bytes leaves room");
/// let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "payments", b"5 to bob");
/// assert_eq!(message[skip..], frame);
/// # Ok::<_, amop::internal::wire::ws::message::MessageError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdkHead {
    bytes: [u8; sdk::HEADER_LEN + 1],
    len: usize,
    replaces: usize,
    frame_len: usize,
}

impl SdkHead {
    /// For a message of `message_len` bytes, whose beginning `first` is, of which [`HEAD_WITH_TOPIC_LEN_MAX`] bytes suffice.
    ///
    /// A body that is no topic and data becomes one that is none in an SDK frame either: whoever reads that says so.
    pub fn of(first: &[u8], message_len: usize) -> Result<Self, MessageError> {
        debug_assert!(first.len() <= message_len);
        let (head, head_len) = MessageHead::decode(first)?;
        let (mut len, mut replaces) = (sdk::HEADER_LEN, head_len);
        let mut topic_byte = 0;
        if head.message_type.has_topic() {
            match first[head_len..].first_chunk::<AMOP_PREFIX_LEN>() {
                Some(&[.., high, low]) => {
                    len += 1;
                    replaces += AMOP_PREFIX_LEN;
                    let topic_len = u16::from_be_bytes([high, low]);
                    // 0 says that there is no topic; one that is not whole is found by its length.
                    topic_byte = u8::try_from(u32::from(topic_len) + 1).unwrap_or(0);
                }
                // No topic: an empty body.
                None => replaces = message_len,
            }
        }
        let frame_len = len + (message_len - replaces);
        let header = sdk::Header {
            // A message is never so long that this is cut off: its length has a bound.
            len: frame_len as u32,
            frame_type: head.message_type.to_frame_type(),
            seq: head.seq,
            result: ResultCode(i32::from(head.status)),
        };
        let mut bytes = [topic_byte; sdk::HEADER_LEN + 1];
        bytes[..sdk::HEADER_LEN].copy_from_slice(&header.encode());
        Ok(Self { bytes, len, replaces, frame_len })
    }

    /// Length of the SDK frame in bytes.
    pub fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// The beginning of the SDK frame: a header, and maybe the length of its topic.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How many bytes of the message it takes the place of.
    pub fn replaces(&self) -> usize {
        self.replaces
    }

    /// Writes it over the message's beginning; gives where the frame begins. `None`, and nothing written, if the message
    /// has too little in front: its seq is short, or it is shorter than it should be.
    pub fn write(&self, first: &mut [u8]) -> Option<usize> {
        let skip = self.replaces.checked_sub(self.len)?;
        first.get_mut(skip..self.replaces)?.copy_from_slice(self.bytes());
        Some(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQ: Seq = *b"b3ae60984320433aa3efbc6462ef6102";

    fn head(message_type: MessageType) -> MessageHead {
        MessageHead { message_type, status: 0, seq: SEQ, ext: 0 }
    }

    /// The SDK frame of a message, by whichever way there is.
    fn to_frame(message: &[u8]) -> Result<Vec<u8>, MessageError> {
        let sdk_head = SdkHead::of(message, message.len())?;
        let mut written = message.to_vec();
        let frame = match sdk_head.write(&mut written) {
            Some(skip) => written.split_off(skip),
            None => [sdk_head.bytes(), &message[sdk_head.replaces()..]].concat(),
        };
        assert_eq!(frame.len(), sdk_head.frame_len());
        Ok(frame)
    }

    #[test]
    fn the_recorded_request_is_encoded_to_the_byte() {
        let message = head(MessageType::REQUEST).encode_amop_message("T", b"hello");
        let expected = [&[0, 0, 0x01, 0x11, 0, 0, 0, 32][..], &SEQ, &[0, 0, 0, 0, 0, 0, 0, 1], b"Thello"];
        assert_eq!(message, expected.concat());
    }

    #[test]
    fn a_message_with_a_topic_becomes_the_frame_that_an_sdk_of_2x_would_send() {
        let types =
            [(MessageType::REQUEST, FrameType::REQUEST), (MessageType::BROADCAST, FrameType::MULTICAST)];
        for (message_type, frame_type) in types {
            for topic_len in [1, 5, 253, 254] {
                let topic = "t".repeat(topic_len);
                let message = head(message_type).encode_amop_message(&topic, b"5 to bob");
                let frame = sdk::encode_amop(frame_type, &SEQ, ResultCode::OK, &topic, b"5 to bob");
                assert_eq!(to_frame(&message), Ok(frame));
                assert!(SdkHead::of(&message, message.len()).unwrap().write(&mut message.clone()).is_some());
            }
        }
    }

    #[test]
    fn other_messages_keep_their_number_and_their_body() {
        let answer = MessageHead { status: -7, ..head(MessageType::RESPONSE) };
        let frame = sdk::encode(FrameType::RESPONSE, &SEQ, ResultCode(-7), b"raw data");
        assert_eq!(to_frame(&answer.encode_message(b"raw data")), Ok(frame));
        for number in [0x100, 0x102, 0x110, 0x120, 0x122] {
            let message = head(MessageType(number)).encode_message(b"{}");
            let frame = sdk::encode(FrameType(number), &SEQ, ResultCode::OK, b"{}");
            assert_eq!(to_frame(&message), Ok(frame));
        }
    }

    #[test]
    fn a_number_that_frames_of_2x_have_is_not_taken_for_one() {
        for number in [0x12, 0x13, 0x14, 0x30, 0x31, 0x32, 0x35, 0x37, 0x38, 0x1000, 0x1001] {
            assert_eq!(MessageType(number).to_frame_type(), FrameType(0), "{number:#x}");
        }
    }

    #[test]
    fn a_short_seq_has_zeroes_behind_it_and_loses_them_on_its_way_back() {
        for len in 0..=32 {
            let mut seq = [0; 32];
            seq[..len].copy_from_slice(&SEQ[..len]);
            let head = MessageHead { seq, ..head(MessageType::REQUEST) };
            let message = head.encode_amop_message("T", b"hello");
            assert_eq!(message.len(), 10 + len + 6 + 6);
            assert_eq!(MessageHead::decode(&message), Ok((head, 10 + len)));
            let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "T", b"hello");
            assert_eq!(to_frame(&message), Ok(frame), "a seq of {len} bytes");
            let response = MessageHead { message_type: MessageType::RESPONSE, ..head };
            let frame = sdk::encode(FrameType::RESPONSE, &seq, ResultCode::OK, b"");
            assert_eq!(to_frame(&response.encode_message(b"")), Ok(frame), "a seq of {len} bytes");
        }
    }

    #[test]
    fn what_is_shorter_than_it_says_is_told() {
        let message = head(MessageType::RESPONSE).encode_message(b"");
        for len in 0..message.len() {
            assert_eq!(to_frame(&message[..len]), Err(MessageError::Truncated), "{len} bytes");
        }
        let mut long = message.clone();
        long[6..8].copy_from_slice(&33u16.to_be_bytes());
        long.push(b'7');
        assert_eq!(to_frame(&long), Err(MessageError::SeqLength(33)));
    }

    #[test]
    fn a_body_that_is_no_topic_and_data_is_none_in_its_frame_either() {
        use crate::wire::sdk::{AmopBody, BodyError};
        let of = |body: &[u8]| {
            let frame = to_frame(&head(MessageType::REQUEST).encode_message(body)).unwrap();
            let header = sdk::Header::decode(&frame).unwrap();
            assert_eq!(header.len as usize, frame.len());
            AmopBody::decode(&frame[sdk::HEADER_LEN..]).map(|body| body.topic.to_owned())
        };
        for short in [&b""[..], b"\0", b"\0\0\0\0\0"] {
            assert_eq!(of(short), Err(BodyError::Empty));
        }
        assert_eq!(of(b"\0\0\0\0\0\x05abc"), Err(BodyError::Truncated));
        for long in [b"\0\0\0\0\0\xff", b"\0\0\0\0\x01\0", b"\0\0\0\0\xff\xff"] {
            assert_eq!(of(&[&long[..], &[b't'; 70_000]].concat()), Err(BodyError::ZeroLength));
        }
        assert_eq!(of(b"\0\0\0\0\0\0data"), Err(BodyError::InvalidTopic));
        assert_eq!(of(b"\0\0\0\0\0\x01\xffdata"), Err(BodyError::InvalidTopic));
    }

    #[test]
    fn what_a_server_sends_before_a_body_is_a_header_that_counts_it_and_the_head() {
        use crate::wire::ws::{Deframer, Role, Step};
        for len in [0, 1, 70, 60_000, 70_000] {
            let data = vec![7; len];
            let request = head(MessageType::REQUEST);
            let cases = [
                (request.frame_head(len), request.encode_message(&data)),
                (request.amop_frame_head("topic", len), request.encode_amop_message("topic", &data)),
            ];
            for (head, message) in cases {
                let mut frame = [&head[..], &data].concat();
                let (taken, step) = Deframer::new(Role::Client, 1 << 20).step(&mut frame).unwrap();
                let Step::Data(piece) = step else { panic!("{step:?}") };
                assert_eq!(taken, frame.len());
                assert!(piece.begins && piece.ends && frame[piece.start..piece.end] == message);
            }
        }
    }

    #[test]
    fn an_amop_body_is_read_as_far_as_it_says() {
        let body = AmopBody::decode(b"\0\0\0\0\0\x01Thello").unwrap();
        assert_eq!((body.topic, body.data_offset), (&b"T"[..], 7));
        assert_eq!(AmopBody::decode(b"\0\0\0\0\0\x02T"), None);
        assert_eq!(AmopBody::decode(b"\0\0\0\0\0"), None);
    }
}
