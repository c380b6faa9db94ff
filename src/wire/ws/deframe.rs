//! Messages out of the bytes of a WebSocket: frames are found and unmasked where they lie, whatever the pieces in
//! which they come. Nothing is gathered here but headers and control frames; who drives it puts messages together.

use smallvec::SmallVec;

use super::{
    fault::{CloseCode, Fault},
    frame::{self, CONTROL_LEN_MAX, HEADER_LEN_MAX, Header, Opcode, Role},
};

/// What some bytes were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A part of a header or of a control frame.
    Nothing,
    /// Payload of a message, unmasked.
    Data(Piece),
    /// A ping, whose payload is [`Deframer::control`].
    Ping,
    /// A pong.
    Pong,
    /// The peer closes, and may say why.
    Close(Option<CloseCode>),
}

/// A piece of a message: where it lies in the bytes that were given, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub start: usize,
    /// Where it ends; it may be empty.
    pub end: usize,
    /// Whether it is the beginning of a message.
    pub begins: bool,
    /// Whether the message is whole with it.
    pub ends: bool,
}

/// A state machine for what comes over one WebSocket.
///
/// # Invariants
/// - No message is longer than its bound, in however many fragments it comes: that is said by the header that would
///   pass it, before any payload of it is taken.
/// - Control frames leave the message alone in whose middle they come.
#[derive(Debug)]
pub struct Deframer {
    role: Role,
    message_len_max: usize,
    /// The beginning of a header whose end is not here yet.
    head: SmallVec<[u8; HEADER_LEN_MAX]>,
    /// The frame whose payload is under way.
    current: Option<Current>,
    /// Bytes of the message in progress as far as headers have told of them; `None` between messages.
    message_len: Option<usize>,
    /// Payload of the control frame that is under way, or was the last.
    control: SmallVec<[u8; CONTROL_LEN_MAX]>,
}

/// A frame whose header is here.
#[derive(Clone, Copy, Debug)]
struct Current {
    opcode: Opcode,
    is_final: bool,
    /// For the next byte; zeroes where there is none.
    mask: [u8; 4],
    /// Bytes that are still to come.
    left: usize,
    /// Whether it is the first of its message, and nothing was said of it.
    begins: bool,
}

impl Deframer {
    /// For one end of a WebSocket that takes messages up to such a length in bytes.
    pub fn new(role: Role, message_len_max: usize) -> Self {
        let (head, control) = Default::default();
        Self { role, message_len_max, head, current: None, message_len: None, control }
    }

    /// Looks at the beginning of `bytes`, which must not be empty, and takes off the mask of what is payload; gives how
    /// many bytes that were, at least one, and what they were.
    pub fn step(&mut self, bytes: &mut [u8]) -> Result<(usize, Step), Fault> {
        let mut taken = 0;
        if self.current.is_none() {
            let Some(header) = self.take_header(bytes, &mut taken)? else {
                return Ok((taken, Step::Nothing));
            };
            self.current = Some(self.begin(&header)?);
        }
        let Some(current) = &mut self.current else { return Ok((taken, Step::Nothing)) };
        let (start, end) = (taken, bytes.len().min(taken + current.left));
        let payload = &mut bytes[start..end];
        current.mask = frame::apply_mask(payload, current.mask);
        current.left -= payload.len();
        let is_whole = current.left == 0;
        if current.opcode.is_control() {
            self.control.extend_from_slice(payload);
            let step = if is_whole { self.end_control()? } else { Step::Nothing };
            return Ok((end, step));
        }
        let begins = std::mem::take(&mut current.begins);
        let ends = is_whole && current.is_final;
        if is_whole {
            self.current = None;
        }
        if ends {
            self.message_len = None;
        }
        Ok((end, Step::Data(Piece { start, end, begins, ends })))
    }

    /// The header that is whole with the beginning of `bytes`.
    fn take_header(&mut self, bytes: &[u8], taken: &mut usize) -> Result<Option<Header>, Fault> {
        if self.head.is_empty()
            && let Some((header, len)) = Header::decode(bytes, self.role)?
        {
            *taken = len;
            return Ok(Some(header));
        }
        // The end of what is gathered is in sight: a header is short.
        for &byte in bytes {
            self.head.push(byte);
            *taken += 1;
            if let Some((header, _)) = Header::decode(&self.head, self.role)? {
                self.head.clear();
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// A frame may come next, and its payload is awaited.
    fn begin(&mut self, header: &Header) -> Result<Current, Fault> {
        let &Header { opcode, is_final, mask, len } = header;
        let begins = match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                self.control.clear();
                false
            }
            Opcode::Text => return Err(Fault::Text),
            Opcode::Binary if self.message_len.is_some() => return Err(Fault::MessageInterrupted),
            Opcode::Continuation if self.message_len.is_none() => return Err(Fault::NothingToContinue),
            Opcode::Binary => true,
            Opcode::Continuation => false,
        };
        if !opcode.is_control() {
            let all = self.message_len.unwrap_or(0) as u64 + len;
            if all > self.message_len_max as u64 {
                return Err(Fault::MessageTooLong(all));
            }
            self.message_len = Some(all as usize);
        }
        Ok(Current { opcode, is_final, mask: mask.unwrap_or_default(), left: len as usize, begins })
    }

    fn end_control(&mut self) -> Result<Step, Fault> {
        Ok(match self.current.take().map(|current| current.opcode) {
            Some(Opcode::Ping) => Step::Ping,
            Some(Opcode::Close) => Step::Close(frame::decode_close(&self.control)?),
            _ => Step::Pong,
        })
    }

    /// Payload of the last control frame.
    pub fn control(&self) -> &[u8] {
        &self.control
    }

    /// Bytes of the current frame that are still to come, if it is of a message.
    pub fn left(&self) -> usize {
        match self.current {
            Some(Current { opcode, left, .. }) if !opcode.is_control() => left,
            _ => 0,
        }
    }

    /// Bytes of the message in progress as far as headers have told of them, and whether its last frame has begun;
    /// `None` between messages.
    pub fn message_len(&self) -> Option<(usize, bool)> {
        let is_known = self.current.is_some_and(|current| !current.opcode.is_control() && current.is_final);
        Some((self.message_len?, is_known))
    }
}
