//! The receiving side of a link that is a WebSocket: an upgrade, then messages, each of which becomes an SDK frame where it
//! lies. Pure; no I/O.
//!
//! A message that lies whole in one record is unmasked and lent there. Others are put together as frames are, into chunks
//! into which the records of a large message are opened: unmasking is one pass over them there.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{
    assemble::{Assembler, UnfinishedFrames},
    bounds::{FRAME_COMPLETE_WITHIN, UPGRADE_COMPLETE_WITHIN},
};
use crate::{
    relay::CloseReason,
    wire::{
        FrameRef, sdk,
        ws::{Deframer, Fault, Role, SdkHead, Step, frame::CONTROL_LEN_MAX, message, upgrade},
    },
};

/// The request that a link begins with. It is counted among the unfinished frames.
pub(super) struct UpgradeRequest {
    head: Vec<u8>,
    since: Instant,
    is_whole: bool,
}

impl UpgradeRequest {
    pub(super) fn new(now: Instant) -> Self {
        Self { head: Vec::new(), since: now, is_whole: false }
    }

    /// Takes bytes as they come. Of what goes beyond the bound one byte is kept, so that it is seen; and whoever sends on before
    /// it is answered shows by that, too.
    pub(super) fn feed(&mut self, unfinished: &UnfinishedFrames, bytes: &[u8]) {
        let room = upgrade::HEAD_LEN_MAX + 1 - self.head.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.head.extend_from_slice(taken);
        unfinished.add(taken.len());
        self.is_whole |= self.head.len() > upgrade::HEAD_LEN_MAX || upgrade::has_end(&self.head, taken.len());
    }

    /// What came, once it can be answered.
    pub(super) fn take(&mut self, unfinished: &UnfinishedFrames) -> Option<Vec<u8>> {
        self.is_whole.then(|| self.abandon(unfinished))
    }

    pub(super) fn abandon(&mut self, unfinished: &UnfinishedFrames) -> Vec<u8> {
        unfinished.release(self.head.len());
        std::mem::take(&mut self.head)
    }

    pub(super) fn progress(&self) -> usize {
        self.head.len()
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > UPGRADE_COMPLETE_WITHIN
    }

    pub(super) fn delay(&mut self, by: Duration) {
        self.since += by;
    }
}

/// Messages out of the plaintext of a link.
pub(super) struct WebSocket {
    deframer: Deframer,
    /// The most that an SDK frame may have.
    frame_len_max: usize,
    /// Since when a header or a control frame is not whole.
    since: Option<Instant>,
    /// The last ping, which is not answered yet: those before it need no answer (RFC 6455, 5.5.3).
    ping: Option<SmallVec<[u8; CONTROL_LEN_MAX]>>,
}

impl WebSocket {
    pub(super) fn new(frame_len_max: usize) -> Self {
        let deframer = Deframer::new(Role::Server, frame_len_max + message::MESSAGE_LEN_MORE_MAX);
        Self { deframer, frame_len_max, since: None, ping: None }
    }

    /// Finds messages in `plaintext` and lends each to `handle` as an SDK frame; `false` comes back if that said not to go on.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        (assembler, unfinished): (&mut Assembler, &UnfinishedFrames),
        mut plaintext: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        while !plaintext.is_empty() {
            let (taken, step) = self.deframer.step(plaintext)?;
            let (these, rest) = std::mem::take(&mut plaintext).split_at_mut(taken);
            plaintext = rest;
            let goes_on = match step {
                Step::Data(piece) => {
                    let payload = &mut these[piece.start..piece.end];
                    if piece.begins && piece.ends {
                        self.lend(payload, handle)?
                    } else {
                        assembler.expect(now, payload.len() + self.deframer.left());
                        assembler.append(unfinished, payload);
                        !piece.ends || self.finish(assembler, unfinished, handle)?
                    }
                }
                Step::Ping => {
                    self.ping = Some(SmallVec::from_slice(self.deframer.control()));
                    true
                }
                Step::Close(_) => return Err(CloseReason::ByPeer),
                Step::Nothing | Step::Pong => true,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        self.since = self.deframer.is_midway().then(|| self.since.unwrap_or(now));
        Ok(true)
    }

    /// So many bytes of a message were written to where [`Assembler::room`] said.
    pub(super) fn take(
        &mut self,
        assembler: &mut Assembler,
        unfinished: &UnfinishedFrames,
        len: usize,
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let (_, step) = self.deframer.step(assembler.written(len))?;
        assembler.add(len);
        match step {
            Step::Data(piece) if piece.ends => self.finish(assembler, unfinished, handle),
            _ => Ok(true),
        }
    }

    /// Lends a message that lies in one piece.
    fn lend(
        &self,
        message: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let head = self.sdk_head(message, message.len())?;
        Ok(match head.write(message) {
            Some(skip) => handle(FrameRef::Slice(&message[skip..])),
            // Its seq is short, as no SDK makes it.
            None => handle(FrameRef::Slice(&[head.bytes(), &message[head.replaces()..]].concat())),
        })
    }

    /// Lends a message that was put together.
    fn finish(
        &self,
        assembler: &mut Assembler,
        unfinished: &UnfinishedFrames,
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let mut message = assembler.finish(unfinished);
        let len = message.len();
        let head = self.sdk_head(message.head(), len)?;
        let skip = head.write(message.head()).unwrap_or_else(|| {
            message.put_in_front(head.bytes(), head.replaces());
            0
        });
        Ok(message.lend(skip, handle))
    }

    fn sdk_head(&self, first: &[u8], len: usize) -> Result<SdkHead, Fault> {
        let head = SdkHead::of(first, len)?;
        if head.frame_len() > self.frame_len_max {
            return Err(Fault::MessageTooLong(len as u64));
        }
        Ok(head)
    }

    /// The header of the SDK frame that the message in progress becomes, as long as is known by now, once its head is here.
    pub(super) fn long_head(&self, first: &[u8]) -> Option<[u8; sdk::HEADER_LEN]> {
        let len = self.deframer.message_len()?;
        let is_here = first.len() >= message::HEAD_WITH_TOPIC_LEN_MAX;
        let head = if is_here { SdkHead::of(first, len).ok()? } else { return None };
        head.bytes().first_chunk().copied()
    }

    /// The payload of a ping that is to be answered.
    pub(super) fn take_ping(&mut self) -> Option<SmallVec<[u8; CONTROL_LEN_MAX]>> {
        self.ping.take()
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) > FRAME_COMPLETE_WITHIN)
    }

    pub(super) fn delay(&mut self, by: Duration) {
        self.since = self.since.map(|since| since + by);
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        engine::{
            assemble::FrameBounds,
            blocks::{BLOCK_LEN, Blocks},
            receive::{Receive, Wanted},
            testing::{connection_of, pump},
        },
        tls::record::{ContentType, Opener, PLAINTEXT_LEN_MAX, Sealer},
        wire::{
            ResultCode,
            sdk::{FrameType, Seq},
            ws::{MessageHead, MessageType, Opcode, frame::encode_masked, message::MessageError},
        },
    };

    const BOUNDS: FrameBounds = FrameBounds { len_min: 42, len_max: 1 << 20, read_over_max: 0 };

    fn request() -> Vec<u8> {
        upgrade::Client::new([7; 16]).request("localhost:20200")
    }

    /// What seals a peer's bytes, if they are sealed, and the receiving side of its link.
    struct Link {
        sealer: Option<Sealer>,
        receive: Receive,
        unfinished: UnfinishedFrames,
    }

    impl Link {
        fn new(version: Option<&str>) -> Self {
            let (sealer, opener): (Option<Sealer>, Option<Opener>) = version.map(connection_of).unzip();
            let receive = Receive::new(opener, BOUNDS, Blocks::new()).of_application();
            Self { sealer, receive, unfinished: UnfinishedFrames::new(usize::MAX, 1) }
        }

        /// One whose upgrade is behind it.
        fn upgraded(version: Option<&str>) -> Self {
            let mut link = Self::new(version);
            assert_eq!(link.send(&request()), Ok(vec![]));
            assert!(matches!(link.wanted(), Some(Wanted::Upgrade(_))));
            link
        }

        fn seal(&mut self, plaintext: &[u8], record_len: usize) -> Vec<u8> {
            let Some(sealer) = &mut self.sealer else { return plaintext.to_vec() };
            let mut records = Vec::new();
            for part in plaintext.chunks(record_len) {
                sealer.seal(ContentType::ApplicationData, &[part], &mut records).unwrap();
            }
            records
        }

        /// Lets bytes come at once; gives the frames that are lent.
        fn send(&mut self, plaintext: &[u8]) -> Result<Vec<Vec<u8>>, CloseReason> {
            self.send_at(Instant::now(), plaintext)
        }

        fn send_at(&mut self, now: Instant, plaintext: &[u8]) -> Result<Vec<Vec<u8>>, CloseReason> {
            let mut bytes = self.seal(plaintext, PLAINTEXT_LEN_MAX);
            let mut frames = Vec::new();
            let mut take = |frame: FrameRef<'_>| {
                frames.push(frame.pieces().collect::<Vec<_>>().concat());
                true
            };
            for part in bytes.chunks_mut(30_000) {
                assert!(self.receive.handle_bytes(now, &self.unfinished, part, &mut take)?);
            }
            Ok(frames)
        }

        fn wanted(&mut self) -> Option<Wanted> {
            self.receive.take_wanted(&self.unfinished)
        }
    }

    const ALL: [Option<&str>; 3] = [Some("1.2"), Some("1.3"), None];

    fn random_bytes(random: &mut SmallRng, len: usize) -> Vec<u8> {
        (0..len).map(|_| random.random()).collect()
    }

    /// A message, the SDK frame that it is to become, and its frames on the wire.
    fn message(random: &mut SmallRng, len: usize) -> (Vec<u8>, Vec<u8>) {
        let mut seq: Seq = random.random();
        let seq_len = if random.random_bool(0.7) { 32 } else { random.random_range(0..32) };
        seq[seq_len..].fill(0);
        let (topic, data) = ("t".repeat(random.random_range(1..255)), random_bytes(random, len));
        let status = random.random();
        let result = ResultCode(i32::from(status));
        let ext = random.random();
        let head = |message_type| MessageHead { message_type, status, seq, ext };
        match random.random_range(0..3) {
            0 => (
                head(MessageType::REQUEST).encode_amop_message(&topic, &data),
                sdk::encode_amop(FrameType::REQUEST, &seq, result, &topic, &data),
            ),
            1 => (
                head(MessageType::BROADCAST).encode_amop_message(&topic, &data),
                sdk::encode_amop(FrameType::MULTICAST, &seq, result, &topic, &data),
            ),
            _ => (
                head(MessageType::RESPONSE).encode_message(&data),
                sdk::encode(FrameType::RESPONSE, &seq, result, &data),
            ),
        }
    }

    fn fragments(random: &mut SmallRng, message: &[u8], count: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        let parts: Vec<&[u8]> = message.chunks(message.len().div_ceil(count)).collect();
        for (number, part) in parts.iter().enumerate() {
            let opcode = if number == 0 { Opcode::Binary } else { Opcode::Continuation };
            let mut frame = encode_masked(opcode, random.random(), part);
            if number + 1 < parts.len() {
                frame[0] &= 0x7f;
            }
            stream.extend(frame);
            if random.random_bool(0.3) {
                stream.extend(encode_masked(Opcode::Ping, random.random(), b"in between"));
            }
        }
        stream
    }

    #[test]
    fn messages_of_all_lengths_become_frames_whole_and_in_order_however_receives_are_cut() {
        let mut random = SmallRng::seed_from_u64(21);
        for version in ALL {
            for record_len in [PLAINTEXT_LEN_MAX, 4_000, 16_000] {
                let (mut frames, mut plaintext) = (Vec::new(), Vec::new());
                for len in [1_000_000, 0, 900_000, 70_000, 1_000_000, 20_000, 16_300, 5_000, 1, 300_000] {
                    let (message, frame) = message(&mut random, len);
                    let count = if random.random_bool(0.7) { 1 } else { random.random_range(1..7) };
                    plaintext.extend(fragments(&mut random, &message, count));
                    frames.push(frame);
                }
                let mut link = Link::upgraded(version);
                let stream = link.seal(&plaintext, record_len);
                let mut came = Vec::new();
                let Link { receive, unfinished, .. } = &mut link;
                let own = pump(
                    receive,
                    unfinished,
                    &stream,
                    || random.random_range(0..400_000),
                    |frame| {
                        let head = frame.head();
                        assert!(head.len() == frame.len() || head.len() >= crate::wire::frame::HEAD_LEN_MAX);
                        came.push(frame.pieces().collect::<Vec<_>>().concat());
                        true
                    },
                );
                assert!(came == frames, "TLS {version:?}, records of {record_len} bytes");
                // Most came into the block.
                assert!(version.is_none() || own.unwrap() > stream.len() / 3);
                assert_eq!((unfinished.bytes(), receive.progress()), (0, 0));
            }
        }
    }

    #[test]
    fn a_small_message_is_lent_from_where_it_was_received() {
        let mut random = SmallRng::seed_from_u64(22);
        let mut link = Link::upgraded(Some("1.2"));
        let message = MessageHead { message_type: MessageType::REQUEST, status: 0, seq: [b'7'; 32], ext: 0 }
            .encode_amop_message("topic", b"data");
        let plaintext = encode_masked(Opcode::Binary, random.random(), &message);
        let mut bytes = link.seal(&plaintext, PLAINTEXT_LEN_MAX);
        let range = bytes.as_ptr_range();
        let mut frames = 0;
        let taken = link.receive.handle_bytes(Instant::now(), &link.unfinished, &mut bytes, |frame| {
            assert!(range.contains(&frame.head().as_ptr()));
            frames += 1;
            true
        });
        assert_eq!((taken, frames), (Ok(true), 1));
    }

    #[test]
    fn an_upgrade_is_wanted_once_it_is_whole_however_it_comes() {
        for version in ALL {
            let (mut link, request) = (Link::new(version), request());
            let (last, first) = request.split_last().unwrap();
            for (number, byte) in first.iter().enumerate() {
                assert_eq!(link.send(&[*byte]), Ok(vec![]));
                assert!(link.wanted().is_none() && link.receive.progress() == number + 1);
            }
            assert!(link.unfinished.bytes() >= first.len());
            assert_eq!(link.send(&[*last]), Ok(vec![]));
            let Some(Wanted::Upgrade(came)) = link.wanted() else { panic!("no upgrade is wanted") };
            assert_eq!((came, link.unfinished.bytes()), (request, 0));
        }
    }

    #[test]
    fn of_a_request_without_an_end_only_the_bound_and_a_byte_are_kept() {
        let mut link = Link::new(None);
        let endless = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 1 << 20]].concat();
        assert_eq!(link.send(&endless), Ok(vec![]));
        assert_eq!(link.unfinished.bytes(), upgrade::HEAD_LEN_MAX + 1);
        let Some(Wanted::Upgrade(came)) = link.wanted() else { panic!("it is to be answered") };
        assert_eq!(came, endless[..=upgrade::HEAD_LEN_MAX]);
        assert_eq!(link.unfinished.bytes(), 0);
    }

    #[test]
    fn what_follows_a_request_before_its_answer_is_seen_by_who_answers_it() {
        let mut link = Link::new(Some("1.2"));
        let mut both = link.seal(&request(), PLAINTEXT_LEN_MAX);
        both.extend(link.seal(&encode_masked(Opcode::Binary, [0; 4], b"early"), PLAINTEXT_LEN_MAX));
        let now = Instant::now();
        let taken = link.receive.handle_bytes(now, &link.unfinished, &mut both, |_| unreachable!());
        assert_eq!(taken, Ok(true));
        let Some(Wanted::Upgrade(came)) = link.wanted() else { panic!("it is to be answered") };
        assert_eq!(upgrade::Request::decode(&came), Err(upgrade::Refusal::TooMuch));
    }

    #[test]
    fn a_request_that_dribbles_is_overdue_and_a_header_and_a_message_that_do_are_too() {
        let (start, mut link) = (Instant::now(), Link::new(Some("1.2")));
        for (number, byte) in request()[..100].iter().enumerate() {
            link.send_at(start + Duration::from_millis(90) * number as u32, &[*byte]).unwrap();
        }
        assert!(!link.receive.is_overdue(start + UPGRADE_COMPLETE_WITHIN));
        assert!(link.receive.is_overdue(start + UPGRADE_COMPLETE_WITHIN + Duration::from_millis(1)));
        let late = start + FRAME_COMPLETE_WITHIN + Duration::from_millis(1);
        let ping = encode_masked(Opcode::Ping, [1; 4], b"are you there");
        let mut begun = encode_masked(Opcode::Binary, [1; 4], b"");
        begun[0] &= 0x7f;
        for dribbled in [&ping[..1], &ping[..10], &begun[..3], &begun] {
            let mut link = Link::upgraded(Some("1.2"));
            link.send_at(start, dribbled).unwrap();
            assert!(!link.receive.is_overdue(start + FRAME_COMPLETE_WITHIN));
            assert!(link.receive.is_overdue(late), "{dribbled:02x?}");
            // The time in which the link was not read is not its peer's.
            link.receive.delay(Duration::from_secs(1));
            assert!(!link.receive.is_overdue(late));
        }
        let mut link = Link::upgraded(Some("1.2"));
        link.send_at(start, &ping[..10]).unwrap();
        link.send_at(start, &ping[10..]).unwrap();
        assert!(!link.receive.is_overdue(late), "all that came is whole");
    }

    #[test]
    fn of_many_pings_the_last_is_answered() {
        let mut link = Link::upgraded(Some("1.2"));
        let pings: Vec<u8> =
            (0..200u8).flat_map(|number| encode_masked(Opcode::Ping, [number; 4], &[number])).collect();
        assert_eq!(link.send(&pings), Ok(vec![]));
        let Some(Wanted::Pong(payload)) = link.wanted() else { panic!("a pong is due") };
        assert_eq!(payload[..], [199]);
        assert!(link.wanted().is_none());
        assert_eq!(link.send(&encode_masked(Opcode::Pong, [1; 4], b"unasked")), Ok(vec![]));
        assert!(link.wanted().is_none());
        let close = encode_masked(Opcode::Close, [1; 4], &[0x03, 0xe8]);
        assert_eq!(link.send(&close), Err(CloseReason::ByPeer));
    }

    #[test]
    fn frames_of_2x_are_taken_whatever_the_cuts_of_the_first() {
        let frame = sdk::encode(FrameType::HEARTBEAT, &[b'0'; 32], ResultCode::OK, b"0");
        for version in ALL {
            for cut in 0..8 {
                let mut link = Link::new(version);
                let mut frames = link.send(&frame[..cut]).unwrap();
                frames.extend(link.send(&frame[cut..]).unwrap());
                frames.extend(link.send(&frame).unwrap());
                assert_eq!(frames, [frame.clone(), frame.clone()]);
                assert!(link.wanted().is_none());
            }
        }
    }

    #[test]
    fn a_message_whose_frame_would_pass_the_bound_ends_the_link_and_takes_no_memory() {
        let head = |message_type, seq| MessageHead { message_type, status: 0, seq, ext: 0 };
        let (seq, empty) = ([b'7'; 32], [0; 32]);
        let data = vec![0; BOUNDS.len_max];
        let fits = [
            head(MessageType::REQUEST, seq).encode_amop_message("t", &data[44..]),
            head(MessageType::RESPONSE, seq).encode_message(&data[42..]),
            head(MessageType::RESPONSE, empty).encode_message(&data[42..]),
        ];
        for message in fits {
            let frame = encode_masked(Opcode::Binary, [1; 4], &message);
            let frames = Link::upgraded(Some("1.2")).send(&frame).unwrap();
            assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [BOUNDS.len_max]);
            let mut link = Link::upgraded(Some("1.2"));
            let longer = [&message[..], b"."].concat();
            let reason = link.send(&encode_masked(Opcode::Binary, [1; 4], &longer)).unwrap_err();
            assert!(matches!(reason, CloseReason::WebSocket(Fault::MessageTooLong(_))), "{reason}");
            link.receive.abandon(&link.unfinished);
            assert_eq!(link.unfinished.bytes(), 0);
        }
        let malformed = encode_masked(Opcode::Binary, [1; 4], b"short");
        let reason = Link::upgraded(None).send(&malformed).unwrap_err();
        assert_eq!(reason, CloseReason::WebSocket(Fault::Message(MessageError::Truncated)));
    }

    #[test]
    fn fragments_without_end_take_memory_for_what_came_and_end_at_the_bound() {
        let mut link = Link::upgraded(Some("1.2"));
        let mut opcode = Opcode::Binary;
        let reason = loop {
            let mut frame = encode_masked(opcode, [1; 4], &[7; 1_000]);
            frame[0] &= 0x7f;
            if let Err(reason) = link.send(&frame) {
                break reason;
            }
            opcode = Opcode::Continuation;
            let came = link.receive.progress();
            assert!(link.unfinished.bytes() <= came + BLOCK_LEN);
        };
        assert!(matches!(reason, CloseReason::WebSocket(Fault::MessageTooLong(_))), "{reason}");
        link.receive.abandon(&link.unfinished);
        assert_eq!(link.unfinished.bytes(), 0);
    }

    #[test]
    fn the_header_of_a_long_message_is_known_once_its_head_is_here() {
        let mut link = Link::upgraded(Some("1.2"));
        let head = MessageHead { message_type: MessageType::RESPONSE, status: 3, seq: [b'7'; 32], ext: 0 };
        let frame = encode_masked(Opcode::Binary, [1; 4], &head.encode_message(&[7; 500_000]));
        link.send(&frame[..14 + 47]).unwrap();
        assert_eq!(link.receive.long_head(), None);
        link.send(&frame[14 + 47..100_000]).unwrap();
        let expected = sdk::encode(FrameType::RESPONSE, &head.seq, ResultCode(3), &[7; 500_000]);
        assert_eq!(link.receive.long_head().as_ref().map(|head| &head[..]), Some(&expected[..42]));
        assert_eq!(link.send(&frame[100_000..]), Ok(vec![expected]));
    }
}
