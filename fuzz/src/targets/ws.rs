//! What applications of FISCO BCOS 3.x may send: requests for a WebSocket, frames in whatever pieces, and messages. Each is
//! held to a plain model, or to itself cut in another way.

use amop::internal::wire::{
    sdk::{self, HEADER_LEN},
    ws::{
        CloseCode, Deframer, Fault, MessageHead, MessageType, Opcode, Role, SdkHead, Step,
        frame::{self, encode_masked},
        message::{AmopBody, HEAD_WITH_TOPIC_LEN_MAX},
        upgrade::{self, Client, Refusal, Request, ResponseError},
    },
};
use arbitrary::{Arbitrary, Unstructured};

use super::Bytes;

/// The longest message that is taken.
const MESSAGE_LEN_MAX: usize = 2_000;

/// A request, or an answer to one.
pub fn upgrade(data: &[u8]) {
    let ends = data.windows(4).any(|window| window == b"\r\n\r\n");
    assert_eq!(upgrade::has_end(data, data.len()), ends);
    let (have, new) = data.split_at(data.len() / 2);
    assert_eq!(upgrade::has_end(have, have.len()) || upgrade::has_end(data, new.len()), ends);
    let client = Client::new([7; 16]);
    match Request::decode(data) {
        Ok(request) => {
            // httparse takes lines that end without a return, too.
            assert!(data.len() <= upgrade::HEAD_LEN_MAX && data.ends_with(b"\n"));
            let response = request.response();
            // It is of another key than ours, unless the fuzzer has found that one.
            let read = client.read_response(&response);
            assert!(matches!(read, Ok(Some(_)) | Err(ResponseError::Accept)), "{read:?}");
            let more = [data, b"x"].concat();
            assert!(matches!(Request::decode(&more), Err(Refusal::TooMuch | Refusal::HeadTooLong)));
        }
        Err(refusal) => {
            let response = String::from_utf8(refusal.response()).expect("text");
            let (head, text) = response.split_once("\r\n\r\n").expect("a head and a text");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())));
            let refused = Err(ResponseError::Refused(refusal.status().0));
            assert_eq!(client.read_response(response.as_bytes()), refused);
        }
    }
    if let Ok(Some(len)) = client.read_response(data) {
        assert!(len <= data.len());
        assert_eq!(client.read_response(&data[..len]), Ok(Some(len)));
    }
}

/// What comes out of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<CloseCode>),
    Fault(Fault),
}

/// A frame of a script.
#[derive(Arbitrary, Debug)]
struct Frame<'a> {
    opcode: u8,
    is_final: bool,
    mask: [u8; 4],
    payload: Bytes<'a, 200>,
    /// How often the payload is there.
    times: u8,
    oddity: u8,
}

const FRAMES_MAX: usize = 64;

/// The first byte says whether frames are made by a script, or are any bytes; the second how they are cut.
pub fn frames(data: &[u8]) {
    let Some((&[selector, cut], data)) = data.split_first_chunk() else { return };
    let step = usize::from(cut) + 1;
    if selector % 2 == 0 {
        for role in [Role::Server, Role::Client] {
            let whole = deframe(role, data, data.len().max(1));
            assert_eq!(deframe(role, data, step), whole, "cut every {step} bytes");
        }
        return;
    }
    let mut script = Unstructured::new(data);
    let (mut stream, mut expected, mut message) = (Vec::new(), Vec::new(), None);
    for _ in 0..FRAMES_MAX {
        let Ok(frame) = Frame::arbitrary(&mut script) else { break };
        let is_over = model(&frame, &mut message, &mut expected);
        stream.extend(encode(&frame));
        if is_over {
            break;
        }
    }
    assert_eq!(deframe(Role::Server, &stream, step), expected, "cut every {step} bytes");
}

fn opcode(frame: &Frame<'_>) -> Opcode {
    [Opcode::Continuation, Opcode::Binary, Opcode::Ping, Opcode::Pong, Opcode::Close, Opcode::Text]
        [usize::from(frame.opcode) % 6]
}

fn payload(frame: &Frame<'_>) -> Vec<u8> {
    frame.payload.0.repeat(usize::from(frame.times % 16))
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = encode_masked(opcode(frame), frame.mask, &payload(frame));
    if !frame.is_final {
        bytes[0] &= 0x7f;
    }
    match frame.oddity {
        0xff => bytes[0] |= 0x40,
        0xfe => bytes[1] &= 0x7f,
        0xfd => bytes[0] = bytes[0] & 0xf0 | 0x0b,
        _ => {}
    }
    bytes
}

/// What a frame is to bring, by the rules as they are written; gives whether the stream ends with it.
fn model(frame: &Frame<'_>, message: &mut Option<Vec<u8>>, came: &mut Vec<Came>) -> bool {
    let (opcode, payload) = (opcode(frame), payload(frame));
    let fault = match frame.oddity {
        0xff => Some(Fault::ReservedBit),
        0xfd => Some(Fault::ReservedOpcode(11)),
        0xfe => Some(Fault::NotMasked),
        _ if opcode.is_control() && payload.len() > 125 => Some(Fault::ControlTooLong),
        _ if opcode.is_control() && !frame.is_final => Some(Fault::ControlFragmented),
        _ if opcode == Opcode::Text => Some(Fault::Text),
        _ if opcode == Opcode::Binary && message.is_some() => Some(Fault::MessageInterrupted),
        _ if opcode == Opcode::Continuation && message.is_none() => Some(Fault::NothingToContinue),
        _ if !opcode.is_control() => {
            let len = message.as_ref().map_or(0, Vec::len) + payload.len();
            (len > MESSAGE_LEN_MAX).then_some(Fault::MessageTooLong(len as u64))
        }
        _ if opcode == Opcode::Close => frame::decode_close(&payload).err(),
        _ => None,
    };
    if let Some(fault) = fault {
        came.push(Came::Fault(fault));
        return true;
    }
    match opcode {
        Opcode::Ping => came.push(Came::Ping(payload)),
        Opcode::Pong => came.push(Came::Pong),
        Opcode::Close => came.push(Came::Close(frame::decode_close(&payload).expect("seen above"))),
        _ => {
            message.get_or_insert_default().extend(payload);
            if frame.is_final {
                came.extend(message.take().map(Came::Message));
            }
        }
    }
    false
}

/// What comes out of a stream that comes in pieces of such a length.
fn deframe(role: Role, stream: &[u8], step: usize) -> Vec<Came> {
    let (mut deframer, mut came, mut message) = (Deframer::new(role, MESSAGE_LEN_MAX), Vec::new(), None);
    for piece in stream.chunks(step) {
        let mut bytes = piece.to_vec();
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let left = deframer.left();
            let (taken, step) = match deframer.step(rest) {
                Ok(step) => step,
                Err(fault) => {
                    came.push(Came::Fault(fault));
                    return came;
                }
            };
            assert!((1..=rest.len()).contains(&taken));
            match step {
                Step::Nothing => {}
                Step::Data(piece) => {
                    assert!(piece.end == taken && (left == 0 || piece.start == 0));
                    assert_eq!(piece.begins, message.is_none());
                    let whole: &mut Vec<u8> = message.get_or_insert_default();
                    whole.extend_from_slice(&rest[piece.start..piece.end]);
                    assert!(whole.len() <= MESSAGE_LEN_MAX);
                    if piece.ends {
                        assert_eq!((deframer.left(), deframer.message_len()), (0, None));
                        came.extend(message.take().map(Came::Message));
                    }
                }
                Step::Ping => came.push(Came::Ping(deframer.control().to_vec())),
                Step::Pong => came.push(Came::Pong),
                Step::Close(code) => came.push(Came::Close(code)),
            }
            rest = &mut rest[taken..];
        }
    }
    came
}

/// A message, which becomes an SDK frame.
pub fn message(data: &[u8]) {
    let Ok((head, head_len)) = MessageHead::decode(data) else {
        assert!(SdkHead::of(data, data.len()).is_err());
        return;
    };
    let body = &data[head_len..];
    let again = head.encode_message(body);
    let (head_again, len_again) = MessageHead::decode(&again).expect("what is made is read");
    assert_eq!((head_again, &again[len_again..]), (head, body));

    let sdk_head = SdkHead::of(data, data.len()).expect("its head is read");
    let first = &data[..data.len().min(HEAD_WITH_TOPIC_LEN_MAX)];
    assert_eq!(SdkHead::of(first, data.len()), Ok(sdk_head));
    let moved = [sdk_head.bytes(), &data[sdk_head.replaces()..]].concat();
    let mut written = data.to_vec();
    if let Some(skip) = sdk_head.write(&mut written) {
        assert_eq!(written[skip..], moved);
    } else {
        assert_eq!(written, data);
    }
    let header = sdk::Header::decode(&moved).expect("a header is there");
    assert_eq!((header.len as usize, moved.len()), (moved.len(), sdk_head.frame_len()));
    assert_eq!((header.seq, header.result.0), (head.seq, i32::from(head.status)));
    assert_eq!(header.frame_type, head.message_type.to_frame_type());
    let frame_body = &moved[HEADER_LEN..];
    if !head.message_type.has_topic() {
        return assert_eq!(frame_body, body);
    }
    let (theirs, ours) = (AmopBody::decode(body), sdk::AmopBody::decode(frame_body));
    if let Ok(ours) = ours {
        let theirs = theirs.expect("what is one in the frame is one in the message");
        assert_eq!(theirs.topic, ours.topic.as_bytes());
        assert_eq!(body[theirs.data_offset..], frame_body[ours.payload_offset..]);
    }
    // As a server sends it.
    let head_bytes = head.frame_head(body.len());
    let came = deframe(Role::Client, &[&head_bytes[..], body].concat(), 7);
    if again.len() <= MESSAGE_LEN_MAX {
        assert_eq!(came, [Came::Message(again)]);
    }
}

/// Requests and answers as programs send them.
pub fn upgrade_seeds() -> Vec<Vec<u8>> {
    // As the official SDK sends it.
    let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:21000\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: HqdhSdljnP7poytaI4Fj7w==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let client = Client::new([7; 16]);
    let own = client.request("localhost");
    let granted = Request::decode(&own).expect("our own").response();
    let refused =
        [Refusal::Method, Refusal::NoUpgrade, Refusal::HeadTooLong].map(|refusal| refusal.response());
    [request.to_vec(), own, granted].into_iter().chain(refused).collect()
}

/// Frames of every kind, whole and in fragments, and scripts.
pub fn frames_seeds() -> Vec<Vec<u8>> {
    let mut begun = encode_masked(Opcode::Binary, [1; 4], &[7; 130]);
    begun[0] &= 0x7f;
    let streams = [
        encode_masked(Opcode::Binary, [1, 2, 3, 4], b"message"),
        encode_masked(Opcode::Close, [1, 2, 3, 4], &[0x03, 0xe8]),
        encode_masked(Opcode::Text, [0; 4], b"{}"),
        [
            &begun[..],
            &encode_masked(Opcode::Ping, [1; 4], b"ping"),
            &encode_masked(Opcode::Continuation, [1; 4], b"end"),
        ]
        .concat(),
        frame::encode_pong(b"pong").to_vec(),
        frame::encode_close(CloseCode::GOING_AWAY).to_vec(),
        [&[0x82, 0xff][..], &(u64::MAX >> 1).to_be_bytes(), &[0; 4]].concat(),
    ];
    let of = |selector: u8, bytes: &[u8]| [&[selector, 3][..], bytes].concat();
    let scripts = super::scripts().into_iter().map(|script| of(1, &script));
    streams.iter().map(|stream| of(0, stream)).chain(scripts).collect()
}

/// Messages as the official SDK sends them.
pub fn message_seeds() -> Vec<Vec<u8>> {
    let seq = *b"b3ae60984320433aa3efbc6462ef6102";
    let head = |message_type| MessageHead { message_type, status: 0, seq, ext: 0 };
    let answer = MessageHead { status: 3001, ext: 1, ..head(MessageType::RESPONSE) };
    vec![
        head(MessageType::HANDSHAKE).encode_message(b"{\"maxVersion\":2,\"minVersion\":0,\"moduleID\":2}\n"),
        head(MessageType::TOPICS).encode_message(b"{\"topics\":[]}\n"),
        head(MessageType::REQUEST).encode_amop_message("T", b"hello"),
        head(MessageType::BROADCAST).encode_amop_message("topic", b""),
        head(MessageType::REQUEST).encode_message(b""),
        answer.encode_message(b"nobody"),
        MessageHead { seq: [0; 32], ..answer }.encode_message(b"an empty seq"),
        MessageHead { seq: [0; 32], ..head(MessageType::REQUEST) }.encode_amop_message("T", b"an empty seq"),
    ]
}
