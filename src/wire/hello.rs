//! Hello: the first frame of both ends of a node link (docs/node-link.md).

use super::reader::Reader;

/// Payload of [`super::node::PacketType::HELLO`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version of the node link that the sender speaks.
    pub version_min: u16,
    /// Newest version of the node link that the sender speaks.
    pub version_max: u16,
    /// Bits of what the sender can do beyond its version; unknown bits are ignored.
    pub features: u64,
    /// Grows with every start of the node.
    pub incarnation: u64,
    /// Which of several parallel links this is.
    pub lane: u16,
    /// The sender's own number for this link, unique within its incarnation.
    pub link_number: u64,
    /// The sender's number of the link that this one replaces; 0 if none.
    pub replaces: u64,
    /// Longest frame of an SDK link that the sender takes, in bytes; `None` from nodes that do not say.
    pub frame_len_max: Option<u32>,
    /// What tells the sender's process from others with its incarnation; `None` from nodes of version 1.
    pub salt: Option<[u8; 16]>,
}

impl Hello {
    /// Reads a payload; bytes behind the known fields belong to newer versions and are ignored.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let hello = Self {
            version_min: reader.u16()?,
            version_max: reader.u16()?,
            features: reader.u64()?,
            incarnation: reader.u64()?,
            lane: reader.u16()?,
            link_number: reader.u64()?,
            replaces: reader.u64()?,
            frame_len_max: reader.u32(),
            salt: reader.array(),
        };
        (hello.version_min <= hello.version_max).then_some(hello)
    }

    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(58);
        out.extend_from_slice(&self.version_min.to_be_bytes());
        out.extend_from_slice(&self.version_max.to_be_bytes());
        out.extend_from_slice(&self.features.to_be_bytes());
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.extend_from_slice(&self.lane.to_be_bytes());
        out.extend_from_slice(&self.link_number.to_be_bytes());
        out.extend_from_slice(&self.replaces.to_be_bytes());
        if let Some(frame_len_max) = self.frame_len_max {
            out.extend_from_slice(&frame_len_max.to_be_bytes());
            out.extend_from_slice(self.salt.as_ref().map_or(&[], |salt| &salt[..]));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_encoding_and_ignores_what_newer_nodes_add_and_older_ones_lack() {
        let hello = Hello {
            version_min: 1,
            version_max: 2,
            features: 3,
            incarnation: 4,
            lane: 5,
            link_number: 6,
            replaces: 7,
            frame_len_max: Some(8),
            salt: Some([9; 16]),
        };
        let mut bytes = hello.encode();
        let older = Hello { frame_len_max: None, salt: None, ..hello.clone() };
        assert_eq!(Hello::decode(&bytes[..bytes.len() - 20]), Some(older.clone()));
        assert_eq!(Hello::decode(&older.encode()), Some(older));
        assert_eq!(Hello::decode(&bytes[..bytes.len() - 21]), None);
        bytes.extend_from_slice(b"more");
        assert_eq!(Hello::decode(&bytes), Some(hello));
    }
}
