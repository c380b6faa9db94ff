//! The dialect of FISCO BCOS 3.x at the edge of a connection (INTEROP §3): within the client all frames have the form of 2.x.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::new_seq;
use crate::wire::{
    ResultCode,
    json::Handshake3x,
    sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
    ws::{
        Deframer, MessageHead, MessageType, Opcode, Role, SdkHead, Step, frame::encode_masked,
        message::MESSAGE_LEN_MORE_MAX, upgrade,
    },
};

/// The longest frame that is sent, in bytes: as a message it may be longer, and nodes of FISCO BCOS 3.x take 32 MiB.
pub(super) const FRAME_LEN_MAX: usize = (32 << 20) - MESSAGE_LEN_MORE_MAX;
/// The longest message that is read.
const MESSAGE_LEN_MAX: usize = sdk::FRAME_LEN_MAX + MESSAGE_LEN_MORE_MAX;
/// The protocols that this client speaks.
const PROTOCOLS: Handshake3x = Handshake3x { minimum: 0, maximum: 2 };

/// What a node said.
pub(super) enum Heard {
    /// A frame, and its data: of an answer it is raw.
    Frame(Header, Bytes),
    /// It asks whether we are there: what it is answered.
    Ping(Vec<u8>),
}

/// A node's end of a WebSocket.
pub(super) struct WebSocket {
    deframer: Deframer,
    /// As much of a message as is here.
    message: BytesMut,
}

impl WebSocket {
    /// Makes a WebSocket of a connection; what has come behind the answer is left in `buffer`.
    pub(super) async fn open(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        host: &str,
        buffer: &mut BytesMut,
    ) -> io::Result<Self> {
        let client = upgrade::Client::new(rand::random());
        stream.write_all(&client.request(host)).await?;
        stream.flush().await?;
        loop {
            if let Some(len) = client.read_response(buffer).map_err(io::Error::other)? {
                buffer.advance(len);
                break;
            }
            if stream.read_buf(buffer).await? == 0 {
                let text = "the node closed the connection instead of making a WebSocket of it";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        Ok(Self { deframer: Deframer::new(Role::Client, MESSAGE_LEN_MAX), message: BytesMut::new() })
    }

    /// What is whole at the beginning of `buffer`, which is taken off.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Heard>> {
        while !buffer.is_empty() {
            let (taken, step) = self.deframer.step(buffer).map_err(malformed)?;
            let heard = match step {
                Step::Nothing => None,
                Step::Data(piece) => {
                    self.message.extend_from_slice(&buffer[piece.start..piece.end]);
                    match piece.ends {
                        true => Some(hear(self.message.split())?),
                        false => None,
                    }
                }
                Step::Ping => Some(Heard::Ping(mask(Opcode::Pong, self.deframer.control()))),
                Step::Pong => acknowledged(self.deframer.control()),
                Step::Close(code) => {
                    let text = match code {
                        Some(code) => format!("the node closed the WebSocket with code {}", code.0),
                        None => "the node closed the WebSocket".to_owned(),
                    };
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            };
            buffer.advance(taken);
            if heard.is_some() {
                return Ok(heard);
            }
        }
        Ok(None)
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn mask(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    encode_masked(opcode, rand::random(), payload)
}

/// A message as a frame.
fn hear(mut message: BytesMut) -> io::Result<Heard> {
    let sdk_head = SdkHead::of(&message, message.len()).map_err(malformed)?;
    match sdk_head.write(&mut message) {
        Some(skip) => message.advance(skip),
        // One with a short seq, which is no answer to ours.
        None => {
            message = BytesMut::from(&[sdk_head.bytes(), &message[sdk_head.replaces()..]].concat()[..]);
        }
    }
    let mut header = Header::decode(&message).ok_or_else(|| malformed("the node sent half a message"))?;
    message.advance(HEADER_LEN);
    let mut data = message.freeze();
    let status = header.result.0 as i16;
    match MessageType(header.frame_type.0) {
        MessageType::HANDSHAKE => {
            let protocol = Handshake3x::protocol_of(&data).filter(|protocol| *protocol > 0);
            if status != 0 || protocol.is_none() {
                let text = String::from_utf8_lossy(&data);
                return Err(io::Error::other(format!("the node refuses the handshake: {text}")));
            }
            (header.frame_type, data) = (FrameType::HANDSHAKE, Bytes::new());
        }
        MessageType::RPC => header.frame_type = FrameType::RPC,
        _ => {}
    }
    if header.frame_type == FrameType::RESPONSE {
        header.result = ResultCode::from_status_3x(status);
        if header.result != ResultCode(status.into()) {
            // The node's own, with a text that says the same.
            data = Bytes::new();
        }
    }
    Ok(Heard::Frame(header, data))
}

/// What follows a multicast is answered, so the node has that.
fn acknowledged(pong: &[u8]) -> Option<Heard> {
    let seq: Seq = pong.try_into().ok()?;
    let (len, frame_type, result) = (HEADER_LEN as u32, FrameType::RESPONSE, ResultCode::OK);
    Some(Heard::Frame(Header { len, frame_type, seq, result }, Bytes::new()))
}

/// The first message on a WebSocket.
pub(super) fn handshake() -> Vec<u8> {
    let head = MessageHead { message_type: MessageType::HANDSHAKE, status: 0, seq: new_seq(), ext: 0 };
    mask(Opcode::Binary, &head.encode_message(PROTOCOLS.encode().as_bytes()))
}

/// A frame as it goes to a node. A multicast, which no node acknowledges, has a ping behind it that bears its seq: the pong
/// says that the node has read it. A heartbeat is a ping.
pub(super) fn encode(frame: &[u8]) -> Vec<u8> {
    let Some(header) = Header::decode(frame) else { return Vec::new() };
    let data = &frame[HEADER_LEN..];
    let status = header.result.to_status();
    let head = |message_type| MessageHead { message_type, status, seq: header.seq, ext: 0 };
    let body = AmopBody::decode(data);
    let message = match (header.frame_type, body) {
        (FrameType::REQUEST, Ok(body)) => {
            head(MessageType::REQUEST).encode_amop_message(body.topic, &data[body.payload_offset..])
        }
        (FrameType::MULTICAST, Ok(body)) => {
            head(MessageType::BROADCAST).encode_amop_message(body.topic, &data[body.payload_offset..])
        }
        (FrameType::RESPONSE, Ok(body)) => {
            head(MessageType::RESPONSE).encode_message(&data[body.payload_offset..])
        }
        (FrameType::SUBSCRIBE, _) => {
            let list = [&b"{\"topics\":"[..], data, b"}\n"].concat();
            head(MessageType::TOPICS).encode_message(&list)
        }
        (FrameType::RPC, _) => head(MessageType::RPC).encode_message(data),
        (FrameType::HEARTBEAT, _) => return mask(Opcode::Ping, &[]),
        // What belongs to private topics, of which there are none.
        _ => return Vec::new(),
    };
    let mut bytes = mask(Opcode::Binary, &message);
    if header.frame_type == FrameType::MULTICAST {
        bytes.extend_from_slice(&mask(Opcode::Ping, &header.seq));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ws::frame;

    const SEQ: Seq = *b"b3ae60984320433aa3efbc6462ef6102";

    fn web_socket() -> WebSocket {
        WebSocket { deframer: Deframer::new(Role::Client, MESSAGE_LEN_MAX), message: BytesMut::new() }
    }

    /// A frame as nodes send it.
    fn of_node(opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let header = frame::Header { opcode, is_final, mask: None, len: payload.len() as u64 };
        [&header.encode()[..], payload].concat()
    }

    fn message(message_type: MessageType, status: i16, body: &[u8]) -> Vec<u8> {
        MessageHead { message_type, status, seq: SEQ, ext: 0 }.encode_message(body)
    }

    fn hear_one(bytes: &[u8]) -> io::Result<Option<Heard>> {
        web_socket().next(&mut BytesMut::from(bytes))
    }

    fn frame_of(heard: io::Result<Option<Heard>>) -> (Header, Bytes) {
        match heard {
            Ok(Some(Heard::Frame(header, data))) => (header, data),
            _ => panic!("no frame"),
        }
    }

    #[test]
    fn a_message_is_heard_in_however_many_pieces_it_comes_with_pings_in_between() {
        let whole = MessageHead { message_type: MessageType::REQUEST, status: 0, seq: SEQ, ext: 0 }
            .encode_amop_message("topic", b"payload");
        let (first, last) = whole.split_at(50);
        let bytes = [
            of_node(Opcode::Binary, false, first),
            of_node(Opcode::Ping, true, b"there?"),
            of_node(Opcode::Continuation, true, last),
        ]
        .concat();
        let (mut web_socket, mut buffer, mut pongs) = (web_socket(), BytesMut::new(), 0);
        for (at, byte) in bytes.iter().enumerate() {
            buffer.extend_from_slice(&[*byte]);
            match web_socket.next(&mut buffer).expect("all is well") {
                Some(Heard::Ping(pong)) => {
                    let mut pong = pong;
                    let (_, step) = Deframer::new(Role::Server, 100).step(&mut pong).expect("a frame");
                    assert_eq!((step, &pong[6..]), (Step::Pong, &b"there?"[..]));
                    pongs += 1;
                }
                Some(Heard::Frame(header, data)) => {
                    assert_eq!(at, bytes.len() - 1);
                    assert_eq!((header.frame_type, header.seq, pongs), (FrameType::REQUEST, SEQ, 1));
                    assert_eq!(data, &b"\x06topicpayload"[..]);
                }
                None => assert!(at < bytes.len() - 1),
            }
        }
    }

    #[test]
    fn statuses_of_nodes_are_codes_without_their_text_and_others_are_kept() {
        for (status, text, code, data) in [
            (3001, "no peer", 100, ""),
            (1000, "late", 102, ""),
            (-7, "why", -7, "why"),
            (0, "yes", 0, "yes"),
        ] {
            let answer = message(MessageType::RESPONSE, status, text.as_bytes());
            let (header, heard) = frame_of(hear_one(&of_node(Opcode::Binary, true, &answer)));
            assert_eq!((header.frame_type, header.result.0), (FrameType::RESPONSE, code));
            assert_eq!(heard, data.as_bytes());
        }
    }

    #[test]
    fn a_handshake_is_granted_by_a_protocol_and_nothing_else() {
        let hear = |status, body: &str| {
            let answer = message(MessageType::HANDSHAKE, status, body.as_bytes());
            hear_one(&of_node(Opcode::Binary, true, &answer)).map(|heard| frame_of(Ok(heard)).0.frame_type)
        };
        assert_eq!(hear(0, r#"{"groupInfoList":[],"protocolVersion":2}"#).unwrap(), FrameType::HANDSHAKE);
        for (status, body) in [(-1, r#"{"protocolVersion":1}"#), (0, r#"{"protocolVersion":0}"#), (0, "no")] {
            let refused = hear(status, body).expect_err("it is refused").to_string();
            assert!(refused.contains(body), "{refused}");
        }
    }

    #[test]
    fn the_pong_behind_a_multicast_acknowledges_it() {
        let multicast = sdk::encode_amop(FrameType::MULTICAST, &SEQ, ResultCode::OK, "t", b"x");
        let mut sent = encode(&multicast);
        let mut deframer = Deframer::new(Role::Server, 1_000);
        let (taken, step) = deframer.step(&mut sent).expect("a message");
        assert!(matches!(step, Step::Data(piece) if piece.ends));
        assert_eq!(deframer.step(&mut sent[taken..]).expect("a ping").1, Step::Ping);
        let (header, data) = frame_of(hear_one(&of_node(Opcode::Pong, true, deframer.control())));
        assert_eq!((header.frame_type, header.seq, header.result.0), (FrameType::RESPONSE, SEQ, 0));
        assert!(data.is_empty());
        // That of a heartbeat says nothing.
        assert!(hear_one(&of_node(Opcode::Pong, true, b"")).unwrap().is_none());
    }

    #[test]
    fn what_ends_a_web_socket_says_why() {
        let error = |bytes: &[u8]| hear_one(bytes).err().expect("it ends").to_string();
        assert!(error(&of_node(Opcode::Close, true, &[0x03, 0xe9])).contains("code 1001"));
        assert!(error(&of_node(Opcode::Binary, true, b"short")).contains("shorter than its head"));
        assert!(error(&[0x82, 0x85]).contains("masked"));
    }
}
