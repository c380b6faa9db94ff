//! An application of FISCO BCOS 3.x as a script: its link, with TLS or without, and what goes over it byte by byte.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use amop::internal::wire::{
    sdk::Seq,
    ws::{CloseCode, Deframer, MessageHead, MessageType, Opcode, Role, Step, frame::encode_masked, upgrade},
};

use super::RawSdk;

/// What a frame is masked with: any will do.
pub const MASK: [u8; 4] = [0x1b, 0x2c, 0x3d, 0x4e];
/// The longest message that is read here.
const MESSAGE_LEN_MAX: usize = 40 << 20;

/// What a node sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>),
}

pub trait Link {
    fn send(&mut self, bytes: &[u8]);

    /// What comes next; `None` once the node has closed.
    fn receive(&mut self) -> Option<Vec<u8>>;
}

impl Link for RawSdk {
    fn send(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.record()
    }
}

impl Link for TcpStream {
    fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).expect("the node reads");
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 65_536];
        let len = self.read(&mut bytes).expect("the node ends in order");
        bytes.truncate(len);
        (len > 0).then_some(bytes)
    }
}

pub struct WebSocketSdk<L = RawSdk> {
    pub link: L,
    deframer: Deframer,
    received: Vec<u8>,
    message: Vec<u8>,
}

impl<L: Link> WebSocketSdk<L> {
    /// Over a link on which nothing has been said.
    pub fn upgrade(mut link: L) -> Self {
        let client = upgrade::Client::new([7; 16]);
        link.send(&client.request("localhost"));
        let mut received = Vec::new();
        let len = loop {
            received.extend(link.receive().expect("the node answers an upgrade"));
            if let Some(len) = client.read_response(&received).expect("the upgrade is granted") {
                break len;
            }
        };
        received.drain(..len);
        Self { link, deframer: Deframer::new(Role::Client, MESSAGE_LEN_MAX), received, message: Vec::new() }
    }

    pub fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        self.link.send(&encode_masked(opcode, MASK, payload));
    }

    pub fn send_message(&mut self, message_type: MessageType, seq: &Seq, body: &[u8]) {
        let head = MessageHead { message_type, status: 0, seq: *seq, ext: 0 };
        self.send_frame(Opcode::Binary, &head.encode_message(body));
    }

    /// What the node says next, a message: its head and its body.
    pub fn message(&mut self) -> (MessageHead, Vec<u8>) {
        let said = self.said();
        let Some(Said::Message(mut message)) = said else { panic!("{said:?} where a message was to come") };
        let (head, len) = MessageHead::decode(&message).expect("nodes send good messages");
        (head, message.split_off(len))
    }

    /// What the node says next; `None` once it has closed.
    pub fn said(&mut self) -> Option<Said> {
        loop {
            if self.received.is_empty() {
                self.received = self.link.receive()?;
            }
            let (taken, step) = self.deframer.step(&mut self.received).expect("nodes follow the rules");
            let these: Vec<u8> = self.received.drain(..taken).collect();
            let control = self.deframer.control().to_vec();
            return Some(match step {
                Step::Nothing => continue,
                Step::Data(piece) => {
                    self.message.extend_from_slice(&these[piece.start..piece.end]);
                    if !piece.ends {
                        continue;
                    }
                    Said::Message(std::mem::take(&mut self.message))
                }
                Step::Ping => Said::Ping(control),
                Step::Pong => Said::Pong(control),
                Step::Close(code) => Said::Close(code),
            });
        }
    }

    /// Whether the node answers a ping next.
    pub fn answers(&mut self) -> bool {
        self.send_frame(Opcode::Ping, b"are you there");
        self.said() == Some(Said::Pong(b"are you there".to_vec()))
    }

    /// The code of the close frame that the node says next, behind which it closes.
    pub fn close_code(&mut self) -> Option<CloseCode> {
        let said = self.said();
        let Some(Said::Close(code)) = said else { panic!("{said:?} where a close frame was to come") };
        assert_eq!(self.said(), None, "a close frame is the last");
        code
    }
}
