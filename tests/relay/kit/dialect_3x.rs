//! Applications of FISCO BCOS 3.x. Scripts and oracles know one form of frames, that of 2.x: what such an application says goes
//! through its dialect as bytes on the wire, and what it hears comes back from there.

use std::collections::BTreeMap;

use amop::internal::wire::{
    ResultCode,
    sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
    ws::{Deframer, MessageHead, MessageType, Opcode, Role, SdkHead, Step, frame, message},
};

use super::{AppIndex, Application, Behaviour, Network, NodeIndex};

const MASK: [u8; 4] = [0x5a, 0, 0xff, 0x13];

/// The message that a frame is in the dialect of 3.x; `None` for what has no form there, as heartbeats, which are pings.
fn message(frame: &[u8]) -> Option<Vec<u8>> {
    let header = Header::decode(frame).expect("a frame");
    let data = &frame[HEADER_LEN..];
    let head =
        |message_type| MessageHead { message_type, status: header.result.0 as i16, seq: header.seq, ext: 0 };
    let with_topic = |message_type| match (AmopBody::decode(data), data) {
        (Ok(body), _) => head(message_type).encode_amop_message(body.topic, &data[body.payload_offset..]),
        // As broken as it is there.
        (_, []) => head(message_type).encode_message(b""),
        (_, [0, rest @ ..]) => head(message_type).encode_message(&[&[0, 0, 0, 0, 1, 0], rest].concat()),
        (_, [len, rest @ ..]) => {
            head(message_type).encode_message(&[&[0, 0, 0, 0, 0, len - 1], rest].concat())
        }
    };
    Some(match header.frame_type {
        FrameType::REQUEST => with_topic(MessageType::REQUEST),
        FrameType::MULTICAST => with_topic(MessageType::BROADCAST),
        FrameType::RESPONSE => {
            let begin = AmopBody::decode(data).map_or(0, |body| body.payload_offset);
            head(MessageType::RESPONSE).encode_message(&data[begin..])
        }
        FrameType::SUBSCRIBE if serde_json::from_slice::<Vec<String>>(data).is_ok() => {
            let list = [&b"{\"topics\":"[..], data, b"}\n"].concat();
            head(MessageType::TOPICS).encode_message(&list)
        }
        FrameType::SUBSCRIBE => head(MessageType::TOPICS).encode_message(data),
        FrameType(number @ 0x100..=0xfff) => head(MessageType(number)).encode_message(data),
        _ => return None,
    })
}

/// What a node's engine makes of a frame that such an application says; `None` if it is nothing but a ping.
pub(super) fn said(frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = frame::encode_masked(Opcode::Binary, MASK, &message(frame)?);
    let (_, step) = Deframer::new(Role::Server, usize::MAX).step(&mut bytes).expect("a whole frame");
    let Step::Data(piece) = step else { panic!("{step:?}") };
    let mut message = bytes[piece.start..piece.end].to_vec();
    let sdk_head = SdkHead::of(&message, message.len()).expect("a head");
    Some(match sdk_head.write(&mut message) {
        Some(skip) => message.split_off(skip),
        None => [sdk_head.bytes(), &message[sdk_head.replaces()..]].concat(),
    })
}

/// The one message of one WebSocket frame.
pub(super) fn message_of(bytes: &[u8]) -> (MessageHead, Vec<u8>) {
    let mut bytes = bytes.to_vec();
    let (taken, step) = Deframer::new(Role::Client, usize::MAX).step(&mut bytes).expect("a whole frame");
    let Step::Data(piece) = step else { panic!("{step:?}") };
    assert!(piece.begins && piece.ends && taken == bytes.len(), "one message is one frame");
    let message = &bytes[piece.start..piece.end];
    let (head, len) = MessageHead::decode(message).expect("nodes send whole messages");
    (head, message[len..].to_vec())
}

/// The frame that such an application hears; `None` for the answer to its upgrade.
fn heard(bytes: &[u8], topics: &BTreeMap<Seq, String>) -> Option<Vec<u8>> {
    if bytes.starts_with(b"HTTP/1.1 ") {
        return None;
    }
    let (head, body) = message_of(bytes);
    let (seq, body) = (head.seq, &body[..]);
    let with_topic = |frame_type| {
        assert_eq!(head.status, 0, "what is pushed has no status");
        let read = message::AmopBody::decode(body).expect("nodes push valid bodies");
        let topic = std::str::from_utf8(read.topic).expect("topics are text");
        sdk::encode_amop(frame_type, &seq, ResultCode::OK, topic, &body[read.data_offset..])
    };
    Some(match head.message_type {
        MessageType::REQUEST => with_topic(FrameType::REQUEST),
        MessageType::BROADCAST => with_topic(FrameType::MULTICAST),
        MessageType::RESPONSE => {
            let code = ResultCode::from_status_3x(head.status);
            let is_by_node = code != ResultCode::OK && body == code.describe().as_bytes();
            match topics.get(&seq).filter(|_| !is_by_node) {
                Some(topic) => sdk::encode_amop(FrameType::RESPONSE, &seq, code, topic, body),
                None => sdk::encode(FrameType::RESPONSE, &seq, code, b""),
            }
        }
        MessageType(number) => sdk::encode(FrameType(number), &seq, ResultCode(head.status.into()), body),
    })
}

impl Application {
    /// A frame of a node as the application understands it.
    pub(super) fn hear(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self.is_3x {
            true => heard(bytes, &self.asked),
            false => Some(bytes.to_vec()),
        }
    }

    /// It is about to send a frame.
    pub(super) fn note_asked(&mut self, frame: &[u8]) {
        if let Some(header) = Header::decode(frame).filter(|header| header.frame_type == FrameType::REQUEST)
            && let Ok(body) = AmopBody::decode(&frame[HEADER_LEN..])
        {
            self.asked.insert(header.seq, body.topic.to_owned());
        }
    }
}

impl Network {
    /// An application of FISCO BCOS 3.x.
    pub fn app_3x(&mut self, node: NodeIndex, behaviour: Behaviour) -> AppIndex {
        let app = self.app(node, behaviour);
        self.upgrade(
            app,
            b"GET / HTTP/1.1\r\nHost: a:1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        self.frame(
            app,
            FrameType(MessageType::HANDSHAKE.0),
            b"{\"maxVersion\":2,\"minVersion\":0,\"moduleID\":2}\n",
        );
        app
    }

    /// One that echoes and subscribes to `topics`; the network knows when this returns.
    pub fn subscriber_3x(&mut self, node: NodeIndex, topics: &[&str]) -> AppIndex {
        let app = self.app_3x(node, Behaviour::Echo(std::time::Duration::ZERO));
        self.subscribe(app, topics);
        app
    }

    /// The first bytes of an application are this request.
    pub fn upgrade(&mut self, app: AppIndex, request: &[u8]) {
        self.apps[app].is_3x = true;
        let Application { node, link: (reactor, key), .. } = self.apps[app];
        self.drive(node, reactor, |shard, now, io| shard.handle_upgrade(now, key, request, io));
    }
}
