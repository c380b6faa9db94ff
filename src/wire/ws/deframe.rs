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

    /// Bytes of the message in progress as far as headers have told of them; `None` between messages.
    pub fn message_len(&self) -> Option<usize> {
        self.message_len
    }

    /// Whether a header or a control frame is not whole.
    pub fn is_midway(&self) -> bool {
        !self.head.is_empty() || self.current.is_some_and(|current| current.opcode.is_control())
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::wire::ws::frame::encode_masked;

    const LEN_MAX: usize = if cfg!(miri) { 2_000 } else { 1 << 17 };

    /// What came out of a stream.
    #[derive(Debug, PartialEq, Eq)]
    enum Came {
        Message(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<CloseCode>),
    }

    /// Lets a stream come in pieces.
    fn receive<'a>(
        deframer: &mut Deframer,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> (Vec<Came>, Result<(), Fault>) {
        let (mut came, mut message) = (Vec::new(), None::<Vec<u8>>);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let mut rest = &mut bytes[..];
            while !rest.is_empty() {
                let (taken, step) = match deframer.step(rest) {
                    Ok(step) => step,
                    Err(fault) => return (came, Err(fault)),
                };
                match step {
                    Step::Nothing => {}
                    Step::Data(piece) => {
                        if piece.begins {
                            assert!(message.replace(Vec::new()).is_none(), "a message begins in another");
                        }
                        let message_now = message.as_mut().expect("a message goes on that was never begun");
                        message_now.extend_from_slice(&rest[piece.start..piece.end]);
                        assert_eq!(deframer.message_len().is_none(), piece.ends);
                        if piece.ends {
                            came.extend(message.take().map(Came::Message));
                        }
                    }
                    Step::Ping => came.push(Came::Ping(deframer.control().to_vec())),
                    Step::Pong => came.push(Came::Pong(deframer.control().to_vec())),
                    Step::Close(code) => came.push(Came::Close(code)),
                }
                rest = &mut rest[taken..];
            }
        }
        (came, Ok(()))
    }

    fn frame(random: &mut SmallRng, opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = encode_masked(opcode, random.random(), payload);
        if !is_final {
            frame[0] &= 0x7f;
        }
        frame
    }

    /// A message in random fragments, with control frames between them.
    fn fragments(random: &mut SmallRng, message: &[u8], came: &mut Vec<Came>) -> Vec<u8> {
        let (mut stream, mut at, mut opcode) = (Vec::new(), 0, Opcode::Binary);
        loop {
            let len =
                if random.random_bool(0.4) { message.len() - at } else { random.random_range(0..2_000) };
            let end = (at + len).min(message.len());
            let is_final = end == message.len() && random.random_bool(0.7);
            stream.extend(frame(random, opcode, is_final, &message[at..end]));
            if is_final {
                break;
            }
            (at, opcode) = (end, Opcode::Continuation);
            let payload: Vec<u8> = (0..random.random_range(0..=125)).map(|_| random.random()).collect();
            match random.random_range(0..4) {
                0 => {
                    stream.extend(frame(random, Opcode::Ping, true, &payload));
                    came.push(Came::Ping(payload));
                }
                1 => {
                    stream.extend(frame(random, Opcode::Pong, true, &payload));
                    came.push(Came::Pong(payload));
                }
                _ => {}
            }
        }
        came.push(Came::Message(message.to_vec()));
        stream
    }

    #[test]
    fn messages_come_out_whole_and_in_order_whatever_their_fragments_and_the_cuts() {
        let mut random = SmallRng::seed_from_u64(11);
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        let lens = [0, 1, 5, 125, 126, 127, 4_000, 65_535, 65_536, 100_000, LEN_MAX, 3];
        for len in lens.into_iter().filter(|len| *len < 1_000 || !cfg!(miri)) {
            let message: Vec<u8> = (0..len).map(|_| random.random()).collect();
            stream.extend(fragments(&mut random, &message, &mut expected));
        }
        stream.extend(frame(&mut random, Opcode::Close, true, &[0x03, 0xe8]));
        expected.push(Came::Close(Some(CloseCode::NORMAL)));
        for step in [1, 2, 3, 7, 13, 14, 100, 4_096, stream.len()] {
            let mut deframer = Deframer::new(Role::Server, LEN_MAX);
            let (came, result) = receive(&mut deframer, stream.chunks(step));
            assert_eq!(result, Ok(()));
            assert!(came == expected, "cut every {step} bytes");
            assert!(!deframer.is_midway() && deframer.left() == 0);
        }
    }

    /// What ends a stream of these frames, however it is cut, and how many bytes are needed to know.
    fn fault_of(frames: &[Vec<u8>]) -> Fault {
        let stream = frames.concat();
        let faults: Vec<_> = [1, 3, stream.len()]
            .into_iter()
            .map(|step| receive(&mut Deframer::new(Role::Server, LEN_MAX), stream.chunks(step)).1)
            .collect();
        assert!(faults.windows(2).all(|two| two[0] == two[1]), "{faults:?}");
        faults[0].expect_err("these frames break a rule")
    }

    #[test]
    fn frames_that_are_in_no_place_for_them_end_the_stream() {
        let random = &mut SmallRng::seed_from_u64(12);
        let begun = frame(random, Opcode::Binary, false, b"begun");
        let more = frame(random, Opcode::Continuation, false, b"more");
        let last = frame(random, Opcode::Continuation, true, b"last");
        let whole = frame(random, Opcode::Binary, true, b"whole");
        assert_eq!(fault_of(&[more]), Fault::NothingToContinue);
        assert_eq!(fault_of(&[begun.clone(), last.clone(), last]), Fault::NothingToContinue);
        assert_eq!(fault_of(&[begun.clone(), whole]), Fault::MessageInterrupted);
        assert_eq!(fault_of(&[begun.clone(), begun]), Fault::MessageInterrupted);
        assert_eq!(fault_of(&[frame(random, Opcode::Text, true, b"{}")]), Fault::Text);
        assert_eq!(fault_of(&[frame(random, Opcode::Text, false, b"{}")]), Fault::Text);
        assert_eq!(fault_of(&[frame(random, Opcode::Close, true, b"!")]), Fault::CloseMalformed);
    }

    #[test]
    fn a_message_beyond_the_bound_is_refused_by_its_header_in_however_many_fragments_it_comes() {
        let random = &mut SmallRng::seed_from_u64(13);
        let too_long = Fault::MessageTooLong(LEN_MAX as u64 + 1);
        // Nothing but a header has come.
        let mut one = frame(random, Opcode::Binary, true, &vec![0; LEN_MAX + 1]);
        one.truncate(14);
        assert_eq!(fault_of(&[one]), too_long);
        let mut huge = vec![0x82, 0xff];
        huge.extend_from_slice(&(u64::MAX >> 1).to_be_bytes());
        huge.extend_from_slice(&[1, 2, 3, 4]);
        assert_eq!(fault_of(&[huge]), Fault::MessageTooLong(u64::MAX >> 1));
        let begun = frame(random, Opcode::Binary, false, &vec![0; LEN_MAX - 1]);
        let mut last = frame(random, Opcode::Continuation, true, &[0; 2]);
        last.truncate(6);
        assert_eq!(fault_of(&[begun, last]), too_long);
    }

    #[test]
    fn what_is_left_of_a_frame_is_known_while_it_comes() {
        let random = &mut SmallRng::seed_from_u64(14);
        let mut deframer = Deframer::new(Role::Server, LEN_MAX);
        let mut begun = frame(random, Opcode::Binary, false, &[7; 1_000]);
        let (taken, step) = deframer.step(&mut begun[..508]).unwrap();
        assert_eq!((taken, step), (508, Step::Data(Piece { start: 8, end: 508, begins: true, ends: false })));
        assert_eq!((deframer.left(), deframer.message_len()), (500, Some(1_000)));
        let (taken, step) = deframer.step(&mut begun[508..]).unwrap();
        assert_eq!(
            (taken, step),
            (500, Step::Data(Piece { start: 0, end: 500, begins: false, ends: false }))
        );
        assert_eq!((deframer.left(), deframer.message_len()), (0, Some(1_000)));
        // A control frame in between is none of it.
        let mut ping = frame(random, Opcode::Ping, true, b"ping");
        assert_eq!(deframer.step(&mut ping[..8]), Ok((8, Step::Nothing)));
        assert!(deframer.is_midway() && deframer.left() == 0);
        assert_eq!(deframer.step(&mut ping[8..]), Ok((2, Step::Ping)));
        let mut last = frame(random, Opcode::Continuation, true, b"");
        let (_, step) = deframer.step(&mut last).unwrap();
        assert_eq!(step, Step::Data(Piece { start: 6, end: 6, begins: false, ends: true }));
    }
}
