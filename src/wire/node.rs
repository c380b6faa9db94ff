//! Frames of the node link (WIRE §6.2, §6.3).

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use smallvec::SmallVec;

use super::{hex, reader::Reader};

/// Version of the frame format.
pub const VERSION: u16 = 1;
/// Length of a header between the two ends of a link: no group, no node ids.
pub const HEADER_LEN_MIN: usize = 20;
/// Hops that a fresh frame may take.
pub const HOPS_MAX: u8 = 16;
/// Most destinations that one frame may name.
pub const DESTINATIONS_MAX: usize = 128;
/// Longest extension block in bytes.
pub const EXTENSIONS_LEN_MAX: usize = 4 * 1024;
/// Longest header in bytes: every destination named.
pub const HEADER_LEN_MAX: usize = HEADER_LEN_MIN + NodeId::LEN * (1 + DESTINATIONS_MAX);

const _: () = assert!(
    HEADER_LEN_MAX + Numbers::LEN + 2 + EXTENSIONS_LEN_MAX + super::sdk::HEADER_LEN + 256
        <= super::frame::HEAD_LEN_MAX,
    "everything that a decoder looks at must be contiguous"
);

/// A message's number at the node that originated it: answers, traces and notices name it by that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageNumber(pub u32);

impl MessageNumber {
    /// In traces, of what was not sent to a node.
    pub const NONE: Self = Self(0);
}

/// A node's secp256k1 public key: the uncompressed point without its leading 04 (WIRE §6.1).
#[derive(Clone, Copy, Eq, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 64]);

/// In two halves: those are compared on the spot, the whole by a call.
impl PartialEq for NodeId {
    fn eq(&self, other: &Self) -> bool {
        let ((first, second), (other_first, other_second)) = (self.halves(), other.halves());
        first == other_first && second == other_second
    }
}

/// Its first bytes are as good as all: nobody finds many keys that agree in them.
impl Hash for NodeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.short());
    }
}

impl NodeId {
    /// Length in bytes.
    pub const LEN: usize = 64;

    /// The 128 hex digits that people know a node by.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.0)
    }

    fn halves(&self) -> (&[u8; 32], &[u8; 32]) {
        // Both are there: it is as long as the two.
        (self.0.first_chunk().unwrap_or(&[0; 32]), self.0.last_chunk().unwrap_or(&[0; 32]))
    }

    /// Its first 8 bytes, by which accounts of messages name it.
    pub fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Reads 128 hex digits of either case.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).map(Self)
    }
}

/// The first eight hex digits, enough to tell nodes apart in a log.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Longest address of a node in bytes: a DNS name and a port.
pub const ADDRESS_LEN_MAX: usize = 253 + 6;

/// Whether a text says where a node is: `10.0.0.1:30300`, `[::1]:30300` or `host:30300`. The port is not 0.
pub fn is_node_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b":/[]".contains(&byte))
        }
    };
    is_host && text.len() <= ADDRESS_LEN_MAX && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The packet type; a response has the negated type of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketType(pub i16);

#[allow(missing_docs)] // named as in WIRE §6.3
impl PacketType {
    pub const HELLO: Self = Self(1);
    pub const STATE_SEQ: Self = Self(2);
    pub const STATE_REQUEST: Self = Self(3);
    pub const STATE_REPLY: Self = Self(-3);
    pub const ACK: Self = Self(4);
    pub const UNICAST: Self = Self(0x30);
    pub const UNICAST_RESPONSE: Self = Self(-0x30);
    pub const MULTICAST: Self = Self(0x35);
    pub const SHARED_MULTICAST: Self = Self(0x36);
    pub const BROADCAST: Self = Self(0x40);

    /// What one of the nodes that a frame is for takes it as.
    #[must_use]
    pub fn of_one(self) -> Self {
        if self == Self::SHARED_MULTICAST { Self::MULTICAST } else { self }
    }

    /// Whether the frame carries an AMOP frame, so that it has a place in the channel between its ends.
    pub fn is_amop(self) -> bool {
        matches!(self, Self::UNICAST | Self::UNICAST_RESPONSE | Self::MULTICAST | Self::SHARED_MULTICAST)
    }
}

/// Flag: the payload is compressed.
pub const FLAG_COMPRESSED: u8 = 1;
/// Flag: the frame was sent before, perhaps over another path.
pub const FLAG_SENT_AGAIN: u8 = 2;

/// Flag: the payload is sealed between source and destination.
pub const FLAG_SEALED: u8 = 4;
/// Flag: the frame is a ping: the node where its way ends tells its source (docs/node-link.md).
pub const FLAG_PROBE: u8 = 8;

/// Why a node link's bytes are no frame; each closes the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The frame ends inside its header or options.
    #[error("the frame ends inside its header")]
    Truncated,
    /// Another version than [`VERSION`].
    #[error("version {0} of the node link is not spoken here")]
    Version(u16),
    /// A node id length other than 0 and 64, or destinations without ids.
    #[error("the options are laid out wrongly")]
    Options,
    /// More destinations than [`DESTINATIONS_MAX`].
    #[error("{0} destinations are too many")]
    Destinations(u16),
}

/// Which nodes a frame comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing<'a> {
    /// The two ends of this link.
    Direct,
    /// Nodes that need not be the two ends of this link.
    EndToEnd {
        /// The node that originated the message.
        source: &'a [u8; 64],
        /// The nodes that it is for.
        destinations: &'a [[u8; 64]],
    },
}

/// Header and options of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// What the payload is.
    pub packet_type: PacketType,
    /// The message's number at its source.
    pub seq: u32,
    /// Hops that the frame may still take.
    pub hops_left: u8,
    /// [`FLAG_COMPRESSED`], [`FLAG_SENT_AGAIN`], [`FLAG_SEALED`], [`FLAG_PROBE`].
    pub flags: u8,
    /// Source and destinations.
    pub addressing: Addressing<'a>,
}

impl<'a> Header<'a> {
    /// A header between the two ends of a link.
    pub fn direct(packet_type: PacketType, seq: u32) -> Self {
        Self { packet_type, seq, hops_left: HOPS_MAX, flags: 0, addressing: Addressing::Direct }
    }

    /// Reads the header at the start of a frame's head; also gives where the payload begins. The length
    /// field has been used to cut the frame and is not looked at again.
    pub fn decode(head: &'a [u8]) -> Result<(Self, usize), HeaderError> {
        Self::decode_inner(head).unwrap_or(Err(HeaderError::Truncated))
    }

    fn decode_inner(head: &'a [u8]) -> Option<Result<(Self, usize), HeaderError>> {
        // A header between the two ends of a link: all that is in it is looked at once.
        if let Some(short) = head.first_chunk::<HEADER_LEN_MIN>()
            && let [_, _, _, _, v0, v1, t0, t1, s0, s1, s2, s3, hops_left, flags, 0, 0, 0, 0, 0, 0 | 1] =
                *short
            && u16::from_be_bytes([v0, v1]) == VERSION
        {
            let packet_type = PacketType(i16::from_be_bytes([t0, t1]));
            let seq = u32::from_be_bytes([s0, s1, s2, s3]);
            let header = Self { packet_type, seq, hops_left, flags, addressing: Addressing::Direct };
            return Some(Ok((header, HEADER_LEN_MIN)));
        }
        let mut reader = Reader(head);
        let _len = reader.u32()?;
        let version = reader.u16()?;
        if version != VERSION {
            return Some(Err(HeaderError::Version(version)));
        }
        let packet_type = PacketType(i16::from_be_bytes(reader.array()?));
        let seq = reader.u32()?;
        let [hops_left, flags] = reader.array()?;
        let group_len = reader.u16()?;
        reader.take(usize::from(group_len))?;
        let id_len = reader.u16()?;
        let addressing = match usize::from(id_len) {
            0 => {
                if reader.u16()? > 1 {
                    return Some(Err(HeaderError::Options));
                }
                Addressing::Direct
            }
            NodeId::LEN => {
                let source: &'a [u8; 64] = reader.take(NodeId::LEN)?.first_chunk()?;
                let count = reader.u16()?;
                if usize::from(count) > DESTINATIONS_MAX {
                    return Some(Err(HeaderError::Destinations(count)));
                }
                let (destinations, _) = reader.take(NodeId::LEN * usize::from(count))?.as_chunks::<64>();
                if destinations.is_empty() {
                    return Some(Err(HeaderError::Options));
                }
                Addressing::EndToEnd { source, destinations }
            }
            _ => return Some(Err(HeaderError::Options)),
        };
        let offset = head.len() - reader.0.len();
        Some(Ok((Self { packet_type, seq, hops_left, flags, addressing }, offset)))
    }

    /// Its first bytes, as of a frame between the two ends of a link; the length is that of the whole frame.
    fn front(&self, len: usize) -> [u8; HEADER_LEN_MIN] {
        let mut front = [0; HEADER_LEN_MIN];
        front[..4].copy_from_slice(&(len as u32).to_be_bytes());
        front[4..6].copy_from_slice(&VERSION.to_be_bytes());
        front[6..8].copy_from_slice(&self.packet_type.0.to_be_bytes());
        front[8..12].copy_from_slice(&self.seq.to_be_bytes());
        front[12..14].copy_from_slice(&[self.hops_left, self.flags]);
        front
    }

    /// Appends the header of a frame whose payload is `payload_len` bytes.
    pub fn encode_into(&self, payload_len: usize, out: &mut SmallVec<[u8; 160]>) {
        let ids = match self.addressing {
            Addressing::Direct => 0,
            Addressing::EndToEnd { destinations, .. } => 1 + destinations.len(),
        };
        // Put together before it is appended: appending costs more than what is appended.
        let mut front = self.front(HEADER_LEN_MIN + ids * NodeId::LEN + payload_len);
        match self.addressing {
            Addressing::Direct => out.extend_from_slice(&front),
            Addressing::EndToEnd { source, destinations } => {
                front[16..18].copy_from_slice(&(NodeId::LEN as u16).to_be_bytes());
                let mut ends = [0; 18 + NodeId::LEN + 2];
                ends[..18].copy_from_slice(&front[..18]);
                ends[18..82].copy_from_slice(source);
                ends[82..].copy_from_slice(&(destinations.len() as u16).to_be_bytes());
                out.extend_from_slice(&ends);
                out.extend_from_slice(destinations.as_flattened());
            }
        }
    }
}

/// What travels in front of the SDK-link frame of a Unicast or Multicast (WIRE §6.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Time left for the request in milliseconds.
    pub time_left_ms: Option<u32>,
    /// Whether a request may wait at its destination for room in a session's queue, since nobody else is left to be
    /// tried (WIRE §2.3). Only with the time left.
    pub may_wait: bool,
    /// For each destination in order, the session numbers that may get the frame.
    pub audience: Option<Vec<Vec<u64>>>,
    /// Sessions of the destination that were tried already.
    pub tried: SmallVec<[u64; 4]>,
    /// On a response: the destination node made it itself, because no session of its answered. The
    /// source may go on trying; without this the answer is a subscriber's own, whatever its code.
    pub by_node: bool,
    /// On a message that a node of FISCO BCOS 2.x sent: the first bytes of that one's id. It goes to none of these any more.
    pub from_2x: Option<u64>,
}

/// Sessions that the audience of one destination may name, so that all extensions fit.
pub const AUDIENCE_MAX: usize = 480;
/// Bytes that an audience for one destination takes.
pub fn audience_len(sessions: usize) -> usize {
    2 + 2 + 2 + 8 * sessions
}

const _: () = assert!(2 + 2 + 2 + 8 * AUDIENCE_MAX + 128 <= EXTENSIONS_LEN_MAX);

const EXTENSION_TIME_LEFT: u16 = 1;
const EXTENSION_AUDIENCE: u16 = 2;
const EXTENSION_TRIED: u16 = 3;
const EXTENSION_BY_NODE: u16 = 4;
/// The time left, of a request that may wait for room. Who does not know it takes the time of its own configuration.
const EXTENSION_TIME_LEFT_MAY_WAIT: u16 = 5;
const EXTENSION_FROM_2X: u16 = 6;

/// An extension without a value.
const BY_NODE_EXTENSION: [u8; 4] = {
    let [first, second] = EXTENSION_BY_NODE.to_be_bytes();
    [first, second, 0, 0]
};

fn time_left_extension(time_left_ms: u32, may_wait: bool) -> [u8; 8] {
    let kind = if may_wait { EXTENSION_TIME_LEFT_MAY_WAIT } else { EXTENSION_TIME_LEFT };
    let ([k0, k1], [t0, t1, t2, t3]) = (kind.to_be_bytes(), time_left_ms.to_be_bytes());
    [k0, k1, 0, 4, t0, t1, t2, t3]
}

/// Where a data frame stands in what its source sends to its destination, and how far that is with what comes back: the
/// first bytes of its payload (docs/node-link.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Its place: one more than that of the message before it.
    pub place: u64,
    /// The least place that may still come.
    pub least: u64,
    /// All places of the other direction below this were taken.
    pub taken_below: u64,
}

impl Numbers {
    /// Length in bytes.
    pub const LEN: usize = 24;

    /// Reads them at the start of a payload.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = payload.first_chunk()?;
        let (numbers, _) = bytes.as_chunks::<8>();
        let [place, least, taken_below] = *numbers else { return None };
        let [place, least, taken_below] = [place, least, taken_below].map(u64::from_be_bytes);
        Some(Self { place, least, taken_below })
    }

    /// Their bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.place.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.least.to_be_bytes());
        bytes[16..].copy_from_slice(&self.taken_below.to_be_bytes());
        bytes
    }
}

/// Room for the header, the numbers and the extensions of a usual frame between the two ends of a link, in bytes.
pub const HEAD_LEN_USUAL: usize = 64;
/// Where the extensions of a data frame between the two ends of a link begin.
pub const EXTENSIONS_OFFSET: usize = HEADER_LEN_MIN + Numbers::LEN;

const _: () = assert!(EXTENSIONS_OFFSET + 2 + 8 + 4 <= HEAD_LEN_USUAL);

/// The beginning of a data frame between the two ends of a link: its header, its numbers, and its extensions as they were
/// encoded.
pub fn data_head(
    header: &Header<'_>,
    numbers: &Numbers,
    extensions: &[u8],
    frame_len: usize,
) -> SmallVec<[u8; HEAD_LEN_USUAL]> {
    let len = EXTENSIONS_OFFSET + extensions.len();
    // Put together in place: appending costs more than what is appended.
    let mut front = [0; EXTENSIONS_OFFSET];
    front[..HEADER_LEN_MIN].copy_from_slice(&header.front(len + frame_len));
    front[HEADER_LEN_MIN..].copy_from_slice(&numbers.encode());
    if len > HEAD_LEN_USUAL {
        return front.iter().chain(extensions).copied().collect();
    }
    let mut head = [0; HEAD_LEN_USUAL];
    head[..EXTENSIONS_OFFSET].copy_from_slice(&front);
    head[EXTENSIONS_OFFSET..len].copy_from_slice(extensions);
    SmallVec::from_buf_and_len(head, len)
}

/// Extensions as they are encoded, their length first.
pub type ExtensionBlock = SmallVec<[u8; EXTENSIONS_LEN_USUAL]>;
/// Room for those of a usual frame, in bytes.
pub const EXTENSIONS_LEN_USUAL: usize = 16;

impl Extensions {
    /// Reads the block at the start of `payload` and gives where the SDK-link frame begins. `None` if
    /// it is malformed or longer than [`EXTENSIONS_LEN_MAX`]; extensions not known here are skipped.
    pub fn decode(payload: &[u8]) -> Option<(Self, usize)> {
        // None, and what a forwarded unicast has: most frames bring one or the other.
        match payload {
            [0, 0, ..] => return Some((Self::default(), 2)),
            [0, 8, 0, kind @ (1 | 5), 0, 4, t0, t1, t2, t3, ..] => {
                let time_left_ms = Some(u32::from_be_bytes([*t0, *t1, *t2, *t3]));
                return Some((Self { time_left_ms, may_wait: *kind == 5, ..Self::default() }, 2 + 8));
            }
            _ => {}
        }
        let mut reader = Reader(payload);
        let len = usize::from(reader.u16()?);
        if len > EXTENSIONS_LEN_MAX {
            return None;
        }
        let mut block = Reader(reader.take(len)?);
        let mut extensions = Self::default();
        while !block.is_empty() {
            let kind = block.u16()?;
            let len = usize::from(block.u16()?);
            let mut value = Reader(block.take(len)?);
            match kind {
                EXTENSION_TIME_LEFT | EXTENSION_TIME_LEFT_MAY_WAIT => {
                    extensions.time_left_ms = Some(value.u32()?);
                    extensions.may_wait = kind == EXTENSION_TIME_LEFT_MAY_WAIT;
                }
                EXTENSION_AUDIENCE => {
                    let mut audience = Vec::new();
                    while !value.is_empty() {
                        let count = usize::from(value.u16()?);
                        let (numbers, _) = value.take(8 * count)?.as_chunks::<8>();
                        audience.push(numbers.iter().map(|&number| u64::from_be_bytes(number)).collect());
                    }
                    extensions.audience = Some(audience);
                }
                EXTENSION_TRIED => {
                    let (numbers, rest) = value.0.as_chunks::<8>();
                    if !rest.is_empty() {
                        return None;
                    }
                    extensions.tried = numbers.iter().map(|&number| u64::from_be_bytes(number)).collect();
                }
                EXTENSION_BY_NODE => extensions.by_node = true,
                EXTENSION_FROM_2X => extensions.from_2x = Some(value.u64()?),
                _ => {}
            }
        }
        Some((extensions, 2 + len))
    }

    /// The block, its length first.
    pub fn encode(&self) -> ExtensionBlock {
        if self.audience.is_some() || !self.tried.is_empty() || self.from_2x.is_some() {
            let mut block = SmallVec::new();
            self.encode_into(&mut block);
            return block;
        }
        // The usual ones, put together in place.
        let (mut block, mut end) = ([0; EXTENSIONS_LEN_USUAL], 2);
        let mut put = |bytes: &[u8]| {
            block[end..end + bytes.len()].copy_from_slice(bytes);
            end += bytes.len();
        };
        if let Some(time_left_ms) = self.time_left_ms {
            put(&time_left_extension(time_left_ms, self.may_wait));
        }
        if self.by_node {
            put(&BY_NODE_EXTENSION);
        }
        block[..2].copy_from_slice(&((end - 2) as u16).to_be_bytes());
        SmallVec::from_buf_and_len(block, end)
    }

    fn encode_into(&self, out: &mut ExtensionBlock) {
        out.extend_from_slice(&[0; 2]);
        if let Some(time_left_ms) = self.time_left_ms {
            out.extend_from_slice(&time_left_extension(time_left_ms, self.may_wait));
        }
        if let Some(audience) = &self.audience {
            let len: usize = audience.iter().map(|sessions| 2 + 8 * sessions.len()).sum();
            out.extend_from_slice(&EXTENSION_AUDIENCE.to_be_bytes());
            out.extend_from_slice(&(len as u16).to_be_bytes());
            for sessions in audience {
                out.extend_from_slice(&(sessions.len() as u16).to_be_bytes());
                sessions.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
            }
        }
        if !self.tried.is_empty() {
            out.extend_from_slice(&EXTENSION_TRIED.to_be_bytes());
            out.extend_from_slice(&(8 * self.tried.len() as u16).to_be_bytes());
            self.tried.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        }
        if self.by_node {
            out.extend_from_slice(&BY_NODE_EXTENSION);
        }
        if let Some(sender) = self.from_2x {
            out.extend_from_slice(&EXTENSION_FROM_2X.to_be_bytes());
            out.extend_from_slice(&8u16.to_be_bytes());
            out.extend_from_slice(&sender.to_be_bytes());
        }
        let len = (out.len() - 2) as u16;
        out[..2].copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["10.0.0.1:30300", "[::1]:30300", "bank.example:1", "a:65535"] {
            assert!(is_node_address(good), "{good}");
        }
        let long = format!("{}:30300", "a".repeat(ADDRESS_LEN_MAX - 5));
        for bad in [
            "",
            ":1",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "::1:1",
            "[a]:1",
            "a b:1",
            "a/b:1",
            "a\u{202e}:1",
            "a\n:1",
            &long,
        ] {
            assert!(!is_node_address(bad), "{bad:?}");
        }
    }

    fn encoded(header: &Header<'_>, payload: &[u8]) -> Vec<u8> {
        let mut out = SmallVec::new();
        header.encode_into(payload.len(), &mut out);
        out.extend_from_slice(payload);
        out.to_vec()
    }

    #[test]
    fn a_data_frame_has_its_numbers_between_its_header_and_its_extensions() {
        let (times, audiences) = ([None, Some(0x1234_5678)], [None, Some(vec![vec![7, 8]])]);
        let numbers = Numbers { place: 1 << 40, least: 3, taken_below: u64::MAX };
        for (time_left_ms, audience) in
            times.into_iter().flat_map(|time| audiences.clone().map(|it| (time, it)))
        {
            for (tried, by_node) in [(&[][..], false), (&[][..], true), (&[9][..], false), (&[9][..], true)] {
                let audience = audience.clone();
                // Only with the time left, so one or the other.
                let may_wait = time_left_ms.is_some() && by_node;
                let from_2x = by_node.then_some(0x0123_4567_89ab_cdef);
                let tried = tried.into();
                let extensions = Extensions { time_left_ms, may_wait, audience, tried, by_node, from_2x };
                let block = extensions.encode();
                assert_eq!(Extensions::decode(&block), Some((extensions, block.len())));
                let payload = [&numbers.encode(), &block[..], b"frame"].concat();
                assert_eq!(Numbers::decode(&payload), Some(numbers));
                let header = Header { flags: FLAG_SENT_AGAIN, ..Header::direct(PacketType::UNICAST, 7) };
                let head = data_head(&header, &numbers, &block, 5);
                assert_eq!([&head, &b"frame"[..]].concat(), encoded(&header, &payload));
            }
        }
        assert_eq!(Numbers::decode(&[0; Numbers::LEN - 1]), None);
    }

    #[test]
    fn headers_survive_encoding() {
        let direct = Header::direct(PacketType::UNICAST, 7);
        let bytes = encoded(&direct, b"payload");
        assert_eq!(bytes.len(), HEADER_LEN_MIN + 7);
        assert_eq!(bytes[..4], (bytes.len() as u32).to_be_bytes());
        assert_eq!(Header::decode(&bytes), Ok((direct, HEADER_LEN_MIN)));

        let destinations = [[2; 64], [3; 64]];
        let named = Header {
            packet_type: PacketType::UNICAST_RESPONSE,
            seq: u32::MAX,
            hops_left: 3,
            flags: FLAG_SENT_AGAIN,
            addressing: Addressing::EndToEnd { source: &[1; 64], destinations: &destinations },
        };
        let bytes = encoded(&named, b"");
        assert_eq!(Header::decode(&bytes), Ok((named, bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..cut]), Err(HeaderError::Truncated));
        }
    }

    #[test]
    fn a_wrong_version_or_layout_is_refused() {
        let mut bytes = encoded(&Header::direct(PacketType::ACK, 0), b"");
        bytes[5] = 0;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Version(0)));
        bytes[5] = 1;
        bytes[17] = 63;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Options));
    }

    #[test]
    fn extensions_survive_encoding_and_unknown_ones_are_skipped() {
        let extensions = Extensions {
            time_left_ms: Some(29_000),
            may_wait: true,
            audience: Some(vec![vec![1, 2], vec![]]),
            tried: SmallVec::from_slice(&[9, 10]),
            by_node: true,
            from_2x: Some(7),
        };
        let mut out = extensions.encode();
        let len = out.len();
        out.extend_from_slice(b"frame");
        assert_eq!(Extensions::decode(&out), Some((extensions, len)));
        assert_eq!(Extensions::decode(b"\0\x06\x7f\xff\0\x02hiX"), Some((Extensions::default(), 8)));
        assert_eq!(Extensions::decode(b"\0\x06\x7f\xff\0\x03hiX"), None);
    }

    #[test]
    fn a_node_id_is_read_back_from_its_hex_digits() {
        let id = NodeId(std::array::from_fn(|i| i as u8 * 3));
        assert_eq!(NodeId::from_hex(&id.to_hex().to_uppercase()), Some(id));
        assert_eq!(NodeId::from_hex("00"), None);
    }
}
