//! Headers of WebSocket frames (RFC 6455, 5.2), masks, and control frames.

use smallvec::SmallVec;

use super::fault::{CloseCode, Fault};

/// The longest header in bytes.
pub const HEADER_LEN_MAX: usize = 14;
/// The longest payload of a control frame in bytes.
pub const CONTROL_LEN_MAX: usize = 125;

/// Payload lengths up to this are in the second byte …
const LEN_IN_BYTE_MAX: usize = 125;
/// … which else says that two bytes follow, or eight.
const LEN_IN_TWO: u8 = 126;
const LEN_IN_EIGHT: u8 = 127;
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What goes before the body of a message: it is sent as it is, and the body from where it lies.
pub type FrameHead = SmallVec<[u8; 128]>;

/// Which end of a WebSocket this is: clients mask what they send, servers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Frames that come must be masked.
    Server,
    /// Frames that come must not be.
    Client,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named as in RFC 6455
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn decode(code: u8) -> Result<Self, Fault> {
        Ok(match code {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(Fault::ReservedOpcode(code)),
        })
    }

    fn encode(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Whether it may come between the parts of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub opcode: Opcode,
    /// Whether it is the last of its message.
    pub is_final: bool,
    /// What its payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// Length of its payload in bytes, below 2^63.
    pub len: u64,
}

impl Header {
    /// Reads the header at the start of `bytes`, which comes to the end `role` has, and gives its length; `None` if it
    /// is not whole. What is wrong is found as soon as it is there.
    pub fn decode(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, Fault> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Fault::ReservedBit);
        }
        let opcode = Opcode::decode(first & 0x0f)?;
        let is_final = first & FINAL != 0;
        let is_masked = second & MASKED != 0;
        match role {
            Role::Server if !is_masked => return Err(Fault::NotMasked),
            Role::Client if is_masked => return Err(Fault::Masked),
            _ => {}
        }
        let short = second & !MASKED;
        if opcode.is_control() {
            if usize::from(short) > CONTROL_LEN_MAX {
                return Err(Fault::ControlTooLong);
            }
            if !is_final {
                return Err(Fault::ControlFragmented);
            }
        }
        let (len, rest) = match short {
            LEN_IN_TWO => {
                let Some((len, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*len)), rest)
            }
            LEN_IN_EIGHT => {
                let Some((len, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*len), rest)
            }
            _ => (u64::from(short), rest),
        };
        let is_allowed = match short {
            LEN_IN_TWO => len > LEN_IN_BYTE_MAX as u64,
            LEN_IN_EIGHT => len > u64::from(u16::MAX) && len >> 63 == 0,
            _ => true,
        };
        if !is_allowed {
            return Err(Fault::LengthEncoding);
        }
        let (mask, rest) = if is_masked {
            let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            (Some(*mask), rest)
        } else {
            (None, rest)
        };
        Ok(Some((Self { opcode, is_final, mask, len }, bytes.len() - rest.len())))
    }

    /// The header's bytes, with room for what follows.
    pub fn encode(&self) -> FrameHead {
        let mut bytes = FrameHead::new();
        bytes.push(self.opcode.encode() | if self.is_final { FINAL } else { 0 });
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        match self.len {
            len if len <= LEN_IN_BYTE_MAX as u64 => bytes.push(len as u8 | masked),
            len if len <= u64::from(u16::MAX) => {
                bytes.push(LEN_IN_TWO | masked);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                debug_assert!(len >> 63 == 0);
                bytes.push(LEN_IN_EIGHT | masked);
                bytes.extend_from_slice(&len.to_be_bytes());
            }
        }
        if let Some(mask) = self.mask {
            bytes.extend_from_slice(&mask);
        }
        bytes
    }
}

/// Masks `bytes` with a mask whose first byte is for the first of them, or takes the mask off again; gives the mask
/// for the byte that follows.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let mask_8 = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (eights, rest) = bytes.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ mask_8).to_ne_bytes();
    }
    let mut next = mask;
    next.rotate_left(rest.len() % 4);
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    next
}

/// A whole frame as a server sends it.
fn encode_unmasked(opcode: Opcode, payload: &[u8]) -> FrameHead {
    let header = Header { opcode, is_final: true, mask: None, len: payload.len() as u64 };
    let mut frame = header.encode();
    frame.extend_from_slice(payload);
    frame
}

/// A whole frame as a client sends it; masks should be drawn at random.
pub fn encode_masked(opcode: Opcode, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let header = Header { opcode, is_final: true, mask: Some(mask), len: payload.len() as u64 };
    let mut frame = header.encode().into_vec();
    let start = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[start..], mask);
    frame
}

/// A server's answer to a ping that had such a payload.
pub fn encode_pong(payload: &[u8]) -> FrameHead {
    debug_assert!(payload.len() <= CONTROL_LEN_MAX);
    encode_unmasked(Opcode::Pong, payload)
}

/// A server's close frame.
pub fn encode_close(code: CloseCode) -> FrameHead {
    debug_assert!(code.may_be_sent());
    encode_unmasked(Opcode::Close, &code.0.to_be_bytes())
}

/// The code in the payload of a close frame, which may have none.
pub fn decode_close(payload: &[u8]) -> Result<Option<CloseCode>, Fault> {
    let Some((code, _reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Fault::CloseMalformed) };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if code.may_be_sent() { Ok(Some(code)) } else { Err(Fault::CloseMalformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_encoding_and_is_read_only_when_it_is_whole() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, (1 << 63) - 1] {
            for (mask, role) in [(None, Role::Client), (Some([1, 2, 3, 4]), Role::Server)] {
                let header = Header { opcode: Opcode::Binary, is_final: len % 2 == 0, mask, len };
                let bytes = header.encode();
                assert_eq!(Header::decode(&bytes, role), Ok(Some((header, bytes.len()))));
                assert!(bytes.len() <= HEADER_LEN_MAX);
                for cut in 0..bytes.len() {
                    assert_eq!(Header::decode(&bytes[..cut], role), Ok(None), "{len} cut to {cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_header_is_found_as_soon_as_it_is_there() {
        let cases: [(&[u8], Fault); 12] = [
            (&[0x82, 0x05], Fault::NotMasked),
            (&[0xc2, 0x85], Fault::ReservedBit),
            (&[0xa2, 0x85], Fault::ReservedBit),
            (&[0x92, 0x85], Fault::ReservedBit),
            (&[0x83, 0x85], Fault::ReservedOpcode(3)),
            (&[0x8f, 0x85], Fault::ReservedOpcode(15)),
            (&[0x89, 0xfe], Fault::ControlTooLong),
            (&[0x88, 0xff], Fault::ControlTooLong),
            (&[0x09, 0x80], Fault::ControlFragmented),
            (&[0x82, 0xfe, 0, 125], Fault::LengthEncoding),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Fault::LengthEncoding),
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0], Fault::LengthEncoding),
        ];
        for (bytes, fault) in cases {
            assert_eq!(Header::decode(bytes, Role::Server), Err(fault), "{bytes:02x?}");
        }
        assert_eq!(Header::decode(&[0x82, 0x85], Role::Client), Err(Fault::Masked));
    }

    #[test]
    fn a_mask_goes_on_and_off_whatever_the_cuts() {
        let whole: Vec<u8> = (0..=255).collect();
        let mask = [0x11, 0x22, 0x33, 0x44];
        let plain: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        for step in 1..=20 {
            let (mut bytes, mut next) = (whole.clone(), mask);
            for piece in bytes.chunks_mut(step) {
                next = apply_mask(piece, next);
            }
            assert_eq!(bytes, plain, "cut every {step} bytes");
        }
    }

    #[test]
    fn a_close_frame_bears_a_code_that_may_be_sent_or_none() {
        assert_eq!(encode_close(CloseCode::MESSAGE_TOO_BIG)[..], [0x88, 2, 0x03, 0xf1]);
        assert_eq!(decode_close(b""), Ok(None));
        assert_eq!(decode_close(&[0x03, 0xe8, b'b', b'y', b'e']), Ok(Some(CloseCode::NORMAL)));
        for payload in [&[3][..], &[0, 0], &[0x03, 0xed], &[0x03, 0xee], &[0x03, 0xff], &[0x13, 0x88]] {
            assert_eq!(decode_close(payload), Err(Fault::CloseMalformed), "{payload:02x?}");
        }
    }

    #[test]
    fn a_pong_repeats_the_payload_of_the_ping() {
        assert_eq!(encode_pong(b"are you there")[..], *b"\x8a\x0dare you there");
    }
}
