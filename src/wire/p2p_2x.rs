//! Frames of the node link of FISCO BCOS 2.x (INTEROP §2.1). A frame carries topics, or a whole frame of the SDK link.
//!
//! ```text
//!   u32 length ─ u16 version ─ i32 protocol ─ u16 packet type ─ u32 seq ─ payload
//! ```
//!
//! A response has its protocol negated, and repeats the seq. What a ledger's groups say to each other has the group's number in
//! the upper half of the protocol; nothing of that is read here.

use super::{FrameRef, Topic, TopicKind, reader::Reader, topic};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 16;
/// The bit of the version that says that the payload is compressed.
const COMPRESSED: u16 = 0x8000;
const PROTOCOL_AMOP: i32 = 1;
const PROTOCOL_TOPIC: i32 = 2;
const UNICAST: u16 = 0;
const MULTICAST: u16 = 1;
const TOPIC_SEQ: u16 = 1;
const REQUEST_TOPICS: u16 = 2;
const TOPICS: u16 = 3;
/// A byte of Snappy stands for less than so many: its densest element has three bytes for 64.
const EXPANSION_MAX: usize = 22;
/// Digits of the longest seq of topics.
const SEQ_DIGITS_MAX: usize = 10;

/// Which dialect the first frame of a node link is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// That of this kind of node (docs/node-link.md).
    Own,
    /// That of FISCO BCOS 2.x.
    V2x,
}

impl Dialect {
    /// Told by the version, which both have behind the length; `None` if there are not so many bytes.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut reader = Reader(frame);
        reader.u32()?;
        let version = reader.u16()?;
        Some(if version & !COMPRESSED == 0 { Self::V2x } else { Self::Own })
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SendTopicSeq: the number of the present list of topics.
    TopicSeq,
    /// RequestTopics: asks for that list.
    RequestTopics,
    /// SendTopics: the list, in answer to that.
    Topics,
    /// A unicast: a frame 0x30 of the SDK link. A node none of whose sessions has the topic answers it in this form, too, by a
    /// 0x31 under its seq (seen in the source of 2.10.3: the answer's protocol is not negated where pushing failed at once).
    Unicast,
    /// A multicast: a frame 0x35 of the SDK link.
    Multicast,
    /// The answer to a unicast: a frame 0x31 of the SDK link.
    Answer,
    /// Anything else: what groups say, and what is not known.
    Other,
}

impl Kind {
    fn protocol_and_type(self) -> Option<(i32, u16)> {
        Some(match self {
            Self::TopicSeq => (PROTOCOL_TOPIC, TOPIC_SEQ),
            Self::RequestTopics => (PROTOCOL_TOPIC, REQUEST_TOPICS),
            Self::Topics => (-PROTOCOL_TOPIC, TOPICS),
            Self::Unicast => (PROTOCOL_AMOP, UNICAST),
            Self::Multicast => (PROTOCOL_AMOP, MULTICAST),
            Self::Answer => (-PROTOCOL_AMOP, UNICAST),
            Self::Other => return None,
        })
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole frame in bytes, header included.
    pub len: u32,
    /// Whether the payload is compressed.
    pub is_compressed: bool,
    /// What the frame is.
    pub kind: Kind,
    /// By which a response is matched with its request.
    pub seq: u32,
}

/// Why the beginning of a frame is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer than [`HEADER_LEN`] bytes.
    #[error("the frame is shorter than its header")]
    Truncated,
    /// Not the dialect of FISCO BCOS 2.x.
    #[error("the frame has version {0}, and not that of FISCO BCOS 2.x")]
    Version(u16),
}

impl Header {
    /// Reads the header at the start of a frame. Whether the length is that of the frame is for the reader of frames to know.
    pub fn decode(frame: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader(frame.first_chunk::<HEADER_LEN>().ok_or(HeaderError::Truncated)?);
        let mut read = || {
            let (len, version) = (reader.u32()?, reader.u16()?);
            let protocol = i32::from_be_bytes(reader.array()?);
            Some((len, version, protocol, reader.u16()?, reader.u32()?))
        };
        let (len, version, protocol, packet_type, seq) = read().ok_or(HeaderError::Truncated)?;
        if version & !COMPRESSED != 0 {
            return Err(HeaderError::Version(version));
        }
        let kind = match (protocol, packet_type) {
            (PROTOCOL_TOPIC, TOPIC_SEQ) => Kind::TopicSeq,
            (PROTOCOL_TOPIC, REQUEST_TOPICS) => Kind::RequestTopics,
            (protocol, TOPICS) if protocol == -PROTOCOL_TOPIC => Kind::Topics,
            (PROTOCOL_AMOP, UNICAST) => Kind::Unicast,
            (PROTOCOL_AMOP, MULTICAST) => Kind::Multicast,
            (protocol, _) if protocol == -PROTOCOL_AMOP => Kind::Answer,
            _ => Kind::Other,
        };
        Ok(Self { len, is_compressed: version & COMPRESSED != 0, kind, seq })
    }

    /// The header of a frame that is made here: never compressed, since the other end may not be able to read that.
    ///
    /// # Panics
    /// If it is of a kind that is not made here.
    pub fn encode(kind: Kind, seq: u32, payload_len: usize) -> [u8; HEADER_LEN] {
        let (protocol, packet_type) = kind.protocol_and_type().expect("a kind that is made here");
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&((HEADER_LEN + payload_len) as u32).to_be_bytes());
        bytes[6..10].copy_from_slice(&protocol.to_be_bytes());
        bytes[10..12].copy_from_slice(&packet_type.to_be_bytes());
        bytes[12..].copy_from_slice(&seq.to_be_bytes());
        bytes
    }
}

/// Why a compressed payload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// It says that it is longer than what is taken.
    #[error("the payload would be {len} bytes long, and {len_max} are taken")]
    TooLong {
        /// What it says.
        len: usize,
        /// The bound.
        len_max: usize,
    },
    /// It is no Snappy, or not what it says that it is.
    #[error("the payload is no valid Snappy")]
    Malformed,
}

/// Opens a compressed payload, of at most `len_max` bytes. Memory is taken for no more than what so many bytes of Snappy can
/// stand for, whatever they say.
pub fn decompress(payload: FrameRef<'_>, len_max: usize) -> Result<Vec<u8>, CompressionError> {
    let whole = payload.first(payload.len());
    let len = snap::raw::decompress_len(&whole).map_err(|_| CompressionError::Malformed)?;
    if len > len_max {
        return Err(CompressionError::TooLong { len, len_max });
    }
    if len > whole.len().saturating_mul(EXPANSION_MAX) {
        return Err(CompressionError::Malformed);
    }
    snap::raw::Decoder::new().decompress_vec(&whole).map_err(|_| CompressionError::Malformed)
}

/// Reads the number of a list of topics; `None` if it is none.
pub fn decode_topic_seq(payload: &[u8]) -> Option<u32> {
    let is_number = (1..=SEQ_DIGITS_MAX).contains(&payload.len()) && payload.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(payload).ok().filter(|_| is_number)?.parse().ok()
}

/// A list of topics that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicList {
    /// Its number.
    pub seq: u32,
    /// The ordinary ones, sorted, each once.
    pub topics: Vec<Topic>,
    /// Those of private topics, sorted, each once: data topics, route topics and markers.
    pub private: Vec<Topic>,
    /// Those of the ledger, which never pass from one kind of node to the other.
    pub withheld: usize,
    /// Names that are none.
    pub invalid: usize,
}

/// Why a list of topics is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicListError {
    /// It does not begin with its number.
    #[error("the list of topics does not begin with its number")]
    Seq,
    /// It names more topics than are taken.
    #[error("the list names more than {0} topics")]
    TooMany(usize),
}

impl TopicList {
    /// Reads a list of at most `topics_max` topics.
    pub fn decode(payload: &[u8], topics_max: usize) -> Result<Self, TopicListError> {
        let mut fields = payload.split(|&byte| byte == b'\t');
        let seq = fields.next().and_then(decode_topic_seq).ok_or(TopicListError::Seq)?;
        let mut list = Self { seq, topics: Vec::new(), private: Vec::new(), withheld: 0, invalid: 0 };
        // A node without topics may end its list with the separator.
        for (number, name) in fields.filter(|name| !name.is_empty()).enumerate() {
            if number >= topics_max {
                return Err(TopicListError::TooMany(topics_max));
            }
            match topic::read(name).and_then(Topic::new) {
                Some(topic) => match topic.kind() {
                    TopicKind::Ordinary => list.topics.push(topic),
                    TopicKind::Data | TopicKind::Route | TopicKind::Marker => list.private.push(topic),
                    TopicKind::BlockNotify => list.withheld += 1,
                },
                None => list.invalid += 1,
            }
        }
        for topics in [&mut list.topics, &mut list.private] {
            topics.sort_unstable();
            topics.dedup();
        }
        Ok(list)
    }

    /// The payload of a list.
    pub fn encode<'a>(seq: u32, topics: impl IntoIterator<Item = &'a Topic>) -> Vec<u8> {
        let mut payload = seq.to_string().into_bytes();
        for topic in topics {
            payload.push(b'\t');
            payload.extend_from_slice(topic.as_str().as_bytes());
        }
        payload
    }
}

/// A whole frame.
pub fn encode(kind: Kind, seq: u32, payload: &[u8]) -> Vec<u8> {
    [&Header::encode(kind, seq, payload.len()), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sdk;

    /// A frame as it was seen on the wire of FISCO BCOS 2.10.2.
    fn seen(digits: &str) -> Vec<u8> {
        let (digits, _) = digits.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.iter().map(byte).collect()
    }

    #[test]
    fn topic_frames_are_read_and_made_to_the_byte_as_a_real_node_has_them() {
        let frames: [(&str, Kind, u32, &[u8]); 4] = [
            ("0000001100000000000200010000000030", Kind::TopicSeq, 0, b"0"),
            ("00000010000000000002000200000002", Kind::RequestTopics, 2, b""),
            ("000000160000fffffffe000300000002310954095432", Kind::Topics, 2, b"1\tT\tT2"),
            ("000000110000fffffffe00030000000632", Kind::Topics, 6, b"2"),
        ];
        for (digits, kind, seq, payload) in frames {
            let bytes = seen(digits);
            let len = bytes.len() as u32;
            assert_eq!(Header::decode(&bytes), Ok(Header { len, is_compressed: false, kind, seq }));
            assert_eq!(&bytes[HEADER_LEN..], payload);
            assert_eq!(encode(kind, seq, payload), bytes);
            assert_eq!(Dialect::of(&bytes), Some(Dialect::V2x));
        }
        assert_eq!(decode_topic_seq(b"0"), Some(0));
        let list = TopicList::decode(b"1\tT\tT2", 10).unwrap();
        assert_eq!((list.seq, list.topics.len(), list.withheld, list.invalid), (1, 2, 0, 0));
        assert_eq!(TopicList::encode(1, &list.topics), b"1\tT\tT2");
        assert_eq!(TopicList::encode(2, &[]), b"2");
    }

    #[test]
    fn a_unicast_a_multicast_and_an_answer_carry_a_whole_frame_of_the_sdk_link() {
        let frames = [
            (
                "00000041000000000001000000000003000000310030623361653630393834333230343333616133656662633634363265663631303200000000025468656c6c6f",
                Kind::Unicast,
                3,
                sdk::FrameType::REQUEST,
            ),
            (
                "000000410000ffffffff0000000000030000003100316233616536303938343332303433336161336566626336343632656636313032000000000254776f726c64",
                Kind::Answer,
                3,
                sdk::FrameType::RESPONSE,
            ),
            (
                "0000003e0000000000010001000000050000002e003533383035393965663235343934363133396331396331643837643963393337640000000002546d63",
                Kind::Multicast,
                5,
                sdk::FrameType::MULTICAST,
            ),
        ];
        for (digits, kind, seq, frame_type) in frames {
            let bytes = seen(digits);
            let header = Header::decode(&bytes).unwrap();
            assert_eq!((header.kind, header.seq, header.len as usize), (kind, seq, bytes.len()));
            let frame = &bytes[HEADER_LEN..];
            let inner = sdk::Header::decode(frame).unwrap();
            assert_eq!((inner.frame_type, inner.len as usize), (frame_type, frame.len()));
            assert_eq!(encode(kind, seq, frame), bytes);
        }
    }

    #[test]
    fn a_compressed_payload_is_opened_to_what_the_real_node_had_put_in() {
        let bytes = seen(
            "000000788000ffffffff0000000000059408d00000041400316164333930656130353966623437326439386662343466373530313338303937000000000242616263646566676861fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe0800fe08007a0800",
        );
        let header = Header::decode(&bytes).unwrap();
        assert_eq!((header.kind, header.is_compressed, header.seq), (Kind::Answer, true, 5));
        let payload = FrameRef::Slice(&bytes[HEADER_LEN..]);
        let frame = decompress(payload, 1_044).unwrap();
        let inner = sdk::Header::decode(&frame).unwrap();
        assert_eq!((inner.len as usize, inner.frame_type), (1_044, sdk::FrameType::RESPONSE));
        assert_eq!(frame[42..], [b"\x02B", &b"abcdefgh".repeat(125)[..]].concat());
        assert_eq!(decompress(payload, 1_043), Err(CompressionError::TooLong { len: 1_044, len_max: 1_043 }));
        // In pieces, as a long one lies.
        let whole = bytes::Bytes::from(bytes);
        let chunks: Vec<_> =
            (0..whole.len()).step_by(7).map(|at| whole.slice(at..whole.len().min(at + 7))).collect();
        let pieces = FrameRef::Chunks { chunks: &chunks[2..], skip: 2, len: whole.len() - HEADER_LEN };
        assert_eq!(decompress(pieces, 1_044), Ok(frame));
    }

    #[test]
    fn what_says_that_it_is_longer_than_its_bytes_can_stand_for_takes_no_memory() {
        // 64 MiB in ten bytes.
        let bomb = [0x80, 0x80, 0x80, 0x20, 0xfe, 0x01, 0x00, 0xfe, 0x01, 0x00];
        assert_eq!(decompress(FrameRef::Slice(&bomb), 100 << 20), Err(CompressionError::Malformed));
        assert_eq!(decompress(FrameRef::Slice(&[0xff; 5]), 100 << 20), Err(CompressionError::Malformed));
        assert_eq!(decompress(FrameRef::EMPTY, 100), Err(CompressionError::Malformed));
        // The densest that there is still opens: a byte, then copies of 64 from behind.
        let mut dense = vec![0x81, 0x80, 0x04, 0x00, b'x'];
        dense.extend([0xfe, 0x01, 0x00].repeat(1_024));
        assert_eq!(decompress(FrameRef::Slice(&dense), 100 << 20).unwrap(), [b'x'; 65_537]);
    }

    #[test]
    fn a_list_with_too_many_topics_or_without_a_number_is_refused_and_bad_names_are_left_out() {
        assert_eq!(TopicList::decode(b"", 10), Err(TopicListError::Seq));
        assert_eq!(TopicList::decode(b"\tT", 10), Err(TopicListError::Seq));
        assert_eq!(TopicList::decode(b"4294967296\tT", 10), Err(TopicListError::Seq));
        assert_eq!(TopicList::decode(b"1\ta\tb\tc", 2), Err(TopicListError::TooMany(2)));
        let list = "7\tb\ta\tb\t\t#!$TopicNeedVerify_V\t#!$VerifyChannel_#!$TopicNeedVerify_V_uuid1\t_block_notify_1\tx\0y";
        let list = TopicList::decode(list.as_bytes(), 10).unwrap();
        let names: Vec<&str> = list.topics.iter().map(Topic::as_str).collect();
        assert_eq!((list.seq, names, list.withheld, list.invalid), (7, vec!["a", "b"], 1, 1));
        let private: Vec<&str> = list.private.iter().map(Topic::as_str).collect();
        assert_eq!(private, ["#!$TopicNeedVerify_V", "#!$VerifyChannel_#!$TopicNeedVerify_V_uuid1"]);
        for bad in [&b""[..], b"-1", b"+1", b" 1", b"1 ", b"x", b"00000000001"] {
            assert_eq!(decode_topic_seq(bad), None, "{bad:?}");
        }
        assert_eq!(decode_topic_seq(b"4294967295"), Some(u32::MAX));
    }

    #[test]
    fn the_first_bytes_tell_the_dialects_apart() {
        use crate::wire::node;
        let mut own = smallvec::SmallVec::new();
        node::Header::direct(node::PacketType::HELLO, 0).encode_into(0, &mut own);
        assert_eq!(Dialect::of(&own), Some(Dialect::Own));
        assert_eq!(Header::decode(&own), Err(HeaderError::Version(1)));
        assert_eq!(Dialect::of(&[0, 0, 0, 16, 0x80, 0]), Some(Dialect::V2x));
        assert_eq!(Dialect::of(&[0, 0, 0, 16, 0]), None);
        assert_eq!(Header::decode(&[0; 15]), Err(HeaderError::Truncated));
        // What groups say, and what nobody knows.
        for (protocol, packet_type) in [(0x0001_0009, 0), (0, 0), (2, 3), (1, 2), (-2, 1), (i32::MIN, 0)] {
            let mut frame = Header::encode(Kind::Unicast, 1, 0);
            frame[6..10].copy_from_slice(&i32::to_be_bytes(protocol));
            frame[10..12].copy_from_slice(&u16::to_be_bytes(packet_type));
            assert_eq!(Header::decode(&frame).unwrap().kind, Kind::Other, "{protocol} {packet_type}");
        }
    }
}
