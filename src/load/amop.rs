//! The load as an application of AMOP.

use std::io;

use rand::RngExt;

use super::{
    link::{Connection, Link, Security},
    protocol::{Protocol, Role, Seen, Ticket, decode_ticket, encode_ticket},
};
use crate::{
    relay::settings::FRAME_LEN_SETTABLE_MAX,
    wire::{
        ResultCode, json,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};

/// AMOP as applications speak it (WIRE §1).
pub struct Amop {
    /// A request for each topic, whose seq is still to be filled in.
    requests: Vec<Vec<u8>>,
    topics: Vec<String>,
    /// To which each subscriber is subscribed besides, and nobody publishes.
    more_topics: usize,
    /// Told to the node at the beginning: what sort of client this is.
    hello: Option<String>,
    /// First half of each seq, so that two loads at once have different ones.
    name: [u8; 16],
}

/// Offset of the seq in a frame.
const SEQ: usize = 6;

impl Amop {
    /// Topics `name-0`, `name-1` …, and messages of so many bytes. `takes_shared_records` tells the node that frames for
    /// us may share TLS records (WIRE §1.7); other SDKs cannot.
    pub fn new(name: &str, topics: usize, payload_len: usize, takes_shared_records: bool) -> Self {
        let hello = match takes_shared_records {
            true => format!(
                "{{\"minimumSupport\":1,\"maximumSupport\":3,\"clientType\":\"{}\",\"{}\":true}}",
                json::OWN_CLIENT_TYPE,
                json::SHARED_RECORDS_FIELD,
            ),
            false => "{\"minimumSupport\":1,\"maximumSupport\":3,\"clientType\":\"amop-bench\"}".to_owned(),
        };
        Self { hello: Some(hello), ..Self::without_hello(name, topics, payload_len) }
    }

    /// The same frames for a peer that only passes bytes on, and is told nothing.
    pub fn without_hello(name: &str, topics: usize, payload_len: usize) -> Self {
        let topics: Vec<String> = (0..topics).map(|number| format!("{name}-{number}")).collect();
        let payload = vec![b'x'; payload_len];
        let request =
            |topic: &String| sdk::encode_amop(FrameType::REQUEST, &[0; 32], ResultCode::OK, topic, &payload);
        let name = encode_ticket(rand::rng().random());
        Self { requests: topics.iter().map(request).collect(), topics, more_topics: 0, hello: None, name }
    }

    /// Has each subscriber take so many topics besides its own, which fill the node's table.
    pub fn with_more_topics(self, more_topics: usize) -> Self {
        Self { more_topics, ..self }
    }

    fn seq(&self, ticket: Ticket) -> Seq {
        let mut seq = [0; 32];
        seq[..16].copy_from_slice(&self.name);
        seq[16..].copy_from_slice(&encode_ticket(ticket));
        seq
    }

    fn publish(&self, frame_type: FrameType, topic: usize, ticket: Ticket, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.requests[topic]);
        out[start + 4..start + SEQ].copy_from_slice(&frame_type.0.to_be_bytes());
        out[start + SEQ..start + SEQ + 32].copy_from_slice(&self.seq(ticket));
    }

    /// Length of a message on the wire, without TLS.
    pub fn frame_bytes(&self) -> usize {
        self.requests.first().map_or(0, Vec::len)
    }
}

impl Protocol for Amop {
    const MULTICASTS_ARE_ANSWERED: bool = true;

    fn connect(&self, address: &str, security: &Security, role: Role) -> io::Result<Connection> {
        let mut connection = Connection::new(address)?;
        connection.secure(security)?;
        let Some(hello) = &self.hello else { return Ok(connection) };
        let tell = |frame_type, data: &[u8]| {
            sdk::encode(frame_type, &self.seq(rand::rng().random()), ResultCode::OK, data)
        };
        connection.write(&tell(FrameType::HANDSHAKE, hello.as_bytes()))?;
        connection.read(|bytes| self.frame_len(bytes))?;
        if let Role::Subscriber(topic) = role {
            let own = &self.topics[topic];
            let more = (0..self.more_topics).map(|number| format!("{own}-more-{number}"));
            let topics: Vec<String> = [own.clone()].into_iter().chain(more).collect();
            connection
                .write(&tell(FrameType::SUBSCRIBE, serde_json::json!(topics).to_string().as_bytes()))?;
        }
        Ok(connection)
    }

    fn request(&self, topic: usize, ticket: Ticket, out: &mut Vec<u8>) {
        self.publish(FrameType::REQUEST, topic, ticket, out);
    }

    fn multicast(&self, topic: usize, ticket: Ticket, out: &mut Vec<u8>) {
        self.publish(FrameType::MULTICAST, topic, ticket, out);
    }

    fn heartbeat(&self, out: &mut Vec<u8>) {
        let seq = self.seq(rand::rng().random());
        out.extend_from_slice(&sdk::encode(FrameType::HEARTBEAT, &seq, ResultCode::OK, b"0"));
    }

    fn frame_len(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(len) = bytes.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        if !(HEADER_LEN..=FRAME_LEN_SETTABLE_MAX).contains(&len) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the node sent a malformed frame"));
        }
        Ok((len <= bytes.len()).then_some(len))
    }

    fn handle(&self, frame: &[u8], link: &mut Link) -> Seen {
        let Some(header) = Header::decode(frame) else { return Seen::Nothing };
        let Some(ticket) = decode_ticket(&header.seq[16..]) else { return Seen::Nothing };
        match header.frame_type {
            FrameType::REQUEST => {
                let out = link.frame();
                let start = out.len();
                out.extend_from_slice(frame);
                out[start + 4..start + SEQ].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
                Seen::Request
            }
            FrameType::MULTICAST => Seen::Delivered(ticket),
            FrameType::RESPONSE => Seen::Answered { ticket, code: header.result.0 },
            _ => Seen::Nothing,
        }
    }
}
