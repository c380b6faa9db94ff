//! The receiving side of a link: bytes → records → plaintext → frames, in place where they lie whole. Without
//! TLS the bytes are the plaintext. The first four bytes that an application sends tell whether its link is a WebSocket
//! (`web_socket.rs`): as the length of a frame they would be above any bound.
//!
//! While a large frame comes, its link receives into a block of its own instead of the buffers that all links
//! share: a record whose end is still to come is then in its place already, and its few bytes are moved only
//! when the block is full. Records are opened from there into the frame's chunks.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    assemble::{Assembler, FrameBounds, UnfinishedFrames},
    blocks::{Block, Blocks},
    bounds::RECORD_COMPLETE_WITHIN,
    web_socket::{UpgradeRequest, WebSocket},
};
use crate::{
    relay::{CloseReason, SMALL_REPLY_LEN_MAX},
    tls::record::{Opened, Opener, record_len},
    wire::{
        FrameRef, sdk,
        ws::{frame::CONTROL_LEN_MAX, upgrade},
    },
};

/// What a TLS connection begins with: type and major version of a handshake's record.
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

pub(super) struct Receive {
    /// `None` without TLS.
    opener: Option<Opener>,
    bounds: FrameBounds,
    /// The beginning of a record whose end is not here yet; counted among the unfinished frames.
    carry: Vec<u8>,
    /// When the first byte of the record in progress came.
    carried_since: Option<Instant>,
    assembler: Assembler,
    framing: Framing,
    blocks: Blocks,
    /// Where the link receives while large frames come.
    own: Option<Own>,
    /// Whether the last bytes had any of a large frame.
    is_large: bool,
    /// Whether a receive is pending at the kernel.
    pub(super) receiving: bool,
    /// Whether that one has been called off.
    pub(super) called_off: bool,
}

/// How frames are found in what a link's peer sends.
enum Framing {
    /// Each begins with its length.
    Length,
    /// An application's, of whose first four bytes some are still to come.
    Unknown,
    /// The request comes by which the link becomes a WebSocket.
    Upgrade(Box<UpgradeRequest>),
    /// In messages of a WebSocket.
    WebSocket(Box<WebSocket>),
}

/// What the peer of a WebSocket wants beside frames.
pub(super) enum Wanted {
    /// An upgrade, by this request. What follows is a WebSocket.
    Upgrade(Vec<u8>),
    /// A pong with this payload.
    Pong(SmallVec<[u8; CONTROL_LEN_MAX]>),
}

/// A block that a link receives into. While a receive is pending the kernel writes to it, from `end` on.
struct Own {
    memory: Block,
    /// Where the beginning of a record lies.
    start: usize,
    end: usize,
    /// Whether there was any of a large frame since the last look.
    used: bool,
    _right: Rc<()>,
}

/// What is still to come of a frame for its link to receive into a block of its own.
const OWN_FROM: usize = 32 * 1024;
/// Room in it for a receive; if there is less, what is there moves to the front.
const OWN_ROOM_MIN: usize = 128 * 1024;

impl Receive {
    pub(super) fn new(opener: Option<Opener>, bounds: FrameBounds, blocks: Blocks) -> Self {
        Self {
            opener,
            bounds,
            carry: Vec::new(),
            carried_since: None,
            assembler: Assembler::new(blocks.clone()),
            framing: Framing::Length,
            blocks,
            own: None,
            is_large: false,
            receiving: false,
            called_off: false,
        }
    }

    /// Of an application, which may make a WebSocket of it. Nothing has come yet.
    pub(super) fn of_application(mut self) -> Self {
        self.framing = Framing::Unknown;
        self
    }

    pub(super) fn blocks(&self) -> u64 {
        self.opener.as_ref().map_or(0, Opener::blocks)
    }

    /// Whether the peer asked for new keys.
    pub(super) fn take_update_request(&mut self) -> bool {
        self.opener.as_mut().is_some_and(Opener::take_update_request)
    }

    /// Plaintext that came with the handshake.
    pub(super) fn handle_plaintext(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        plaintext: &mut [u8],
        mut handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        self.feed(now, unfinished, plaintext, &mut handle)
    }

    /// Finds frames in plaintext.
    fn feed(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        plaintext: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        match &mut self.framing {
            Framing::Length => self.assembler.feed(now, self.bounds, unfinished, plaintext, handle),
            Framing::WebSocket(socket) => {
                socket.feed(now, (&mut self.assembler, unfinished), plaintext, handle)
            }
            Framing::Upgrade(request) => {
                request.feed(unfinished, plaintext);
                Ok(true)
            }
            Framing::Unknown => self.feed_unknown(now, unfinished, plaintext, handle),
        }
    }

    /// The first four bytes decide. Until they are here they are the beginning of a frame.
    #[cold]
    fn feed_unknown(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        plaintext: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let before = self.assembler.head();
        let first: SmallVec<[u8; 4]> = before.iter().chain(plaintext.iter()).take(4).copied().collect();
        match first.first_chunk() {
            Some(first) if upgrade::is_http(first) => {
                let mut request = UpgradeRequest::new(self.assembler.since().unwrap_or(now));
                request.feed(unfinished, before);
                request.feed(unfinished, plaintext);
                self.assembler.abandon(unfinished);
                self.framing = Framing::Upgrade(Box::new(request));
                return Ok(true);
            }
            Some(_) => self.framing = Framing::Length,
            None => {}
        }
        self.assembler.feed(now, self.bounds, unfinished, plaintext, handle)
    }

    /// What the peer of a WebSocket wants by what came. What follows an upgrade is messages.
    pub(super) fn take_wanted(&mut self, unfinished: &UnfinishedFrames) -> Option<Wanted> {
        match &mut self.framing {
            Framing::Length | Framing::Unknown => None,
            Framing::Upgrade(request) => {
                let request = request.take(unfinished)?;
                self.framing = Framing::WebSocket(Box::new(WebSocket::new(self.bounds.len_max)));
                Some(Wanted::Upgrade(request))
            }
            Framing::WebSocket(socket) => socket.take_ping().map(Wanted::Pong),
        }
    }

    /// Bytes off the socket. `handle` gets each frame and tells whether to go on; what follows after it
    /// said no is dropped, for the link ends.
    pub(super) fn handle_bytes(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        mut bytes: &mut [u8],
        mut handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        if self.opener.is_none() {
            return self.handle_without_tls(now, unfinished, bytes, handle);
        }
        while !self.carry.is_empty() && !bytes.is_empty() {
            let wanted = match record_len(&self.carry).map_err(|_| CloseReason::Tls)? {
                Some(len) => len - self.carry.len(),
                None => crate::tls::record::HEADER_LEN - self.carry.len(),
            };
            let (taken, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            self.carry(now, unfinished, taken);
            bytes = rest;
            if record_len(&self.carry).map_err(|_| CloseReason::Tls)? == Some(self.carry.len()) {
                let mut record = self.take_carried(unfinished);
                if !self.handle_record(now, unfinished, &mut record, &mut handle)? {
                    return Ok(false);
                }
            }
        }
        let Some(taken) = self.handle_records(now, unfinished, bytes, &mut handle)? else {
            return Ok(false);
        };
        self.carry(now, unfinished, &bytes[taken..]);
        Ok(true)
    }

    /// Handles the whole records at the start of `bytes` and gives their length; `None` if `handle` said no.
    fn handle_records(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        bytes: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<Option<usize>, CloseReason> {
        let mut at = 0;
        while let Some(len) = record_len(&bytes[at..]).map_err(|_| CloseReason::Tls)?
            && let Some(record) = bytes.get_mut(at..at + len)
        {
            at += len;
            if !self.handle_record(now, unfinished, record, handle)? {
                return Ok(None);
            }
        }
        Ok(Some(at))
    }

    /// Whether a large frame is on its way and its link could receive into a block, but does not yet.
    pub(super) fn wants_own(&self) -> bool {
        self.opener.is_some() && self.own.is_none() && self.assembler.left() >= OWN_FROM
    }

    /// Receives into a block from the next receive on; `false` if too many links do.
    pub(super) fn begin_own(&mut self) -> bool {
        let Some(right) = self.blocks.take_receive() else { return false };
        self.own = Some(Own { memory: self.blocks.take(), start: 0, end: 0, used: true, _right: right });
        true
    }

    /// Where to receive, if that is into a block. It stays where it is until that receive is over.
    pub(super) fn own_room(&mut self, unfinished: &UnfinishedFrames) -> Option<&mut [u8]> {
        let own = self.own.as_mut()?;
        assert!(!self.receiving, "the kernel may write to the block");
        if own.memory.len() - own.end < OWN_ROOM_MIN || own.start == own.end {
            own.memory.copy_within(own.start..own.end, 0);
            (own.start, own.end) = (0, own.end - own.start);
        }
        // What came before the block was there.
        unfinished.release(self.carry.len());
        own.memory[own.end..][..self.carry.len()].copy_from_slice(&self.carry);
        own.end += self.carry.len();
        self.carry = Vec::new();
        Some(&mut own.memory[own.end..])
    }

    /// So many bytes came into the block; the rest is as with [`Self::handle_bytes`].
    pub(super) fn handle_own(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        len: usize,
        mut handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let Some(mut own) = self.own.take() else { return Ok(true) };
        own.end += len;
        self.is_large = false;
        let taken = self.handle_records(now, unfinished, &mut own.memory[own.start..own.end], &mut handle)?;
        let Some(taken) = taken else { return Ok(false) };
        own.start += taken;
        if taken > 0 {
            self.carried_since = None;
        }
        if own.start < own.end {
            self.carried_since.get_or_insert(now);
        }
        own.used |= self.is_large;
        self.own = Some(own);
        Ok(true)
    }

    /// Whether the link receives into a block.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Whether a frame that is no small reply is on its way.
    pub(super) fn is_receiving_long(&self) -> bool {
        self.assembler.progress() + self.assembler.left() > SMALL_REPLY_LEN_MAX
    }

    /// The header of such a frame, once it is here.
    pub(super) fn long_head(&self) -> Option<[u8; sdk::HEADER_LEN]> {
        if !self.is_receiving_long() {
            return None;
        }
        match &self.framing {
            Framing::WebSocket(socket) => socket.long_head(self.assembler.head()),
            _ => self.assembler.head().first_chunk().copied(),
        }
    }

    /// What is on its way was not read for so long: that is not its peer's delay.
    pub(super) fn delay(&mut self, by: Duration) {
        self.carried_since = self.carried_since.map(|since| since + by);
        self.assembler.delay(by);
        match &mut self.framing {
            Framing::Length | Framing::Unknown => {}
            Framing::Upgrade(request) => request.delay(by),
            Framing::WebSocket(socket) => socket.delay(by),
        }
    }

    /// Whether the link has a block that it did not need since the last call.
    pub(super) fn is_own_idle(&mut self) -> bool {
        self.own.as_mut().is_some_and(|own| !std::mem::replace(&mut own.used, false))
    }

    /// Receives as other links do again. No receive may be pending.
    pub(super) fn end_own(&mut self, now: Instant, unfinished: &UnfinishedFrames) {
        assert!(!self.receiving, "the kernel may write to the block");
        if let Some(own) = self.own.take() {
            self.carry(now, unfinished, &own.memory[own.start..own.end]);
        }
    }

    fn carry(&mut self, now: Instant, unfinished: &UnfinishedFrames, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.carried_since.get_or_insert(now);
            self.carry.extend_from_slice(bytes);
            unfinished.add(bytes.len());
        }
    }

    fn take_carried(&mut self, unfinished: &UnfinishedFrames) -> Vec<u8> {
        self.carried_since = None;
        unfinished.release(self.carry.len());
        std::mem::take(&mut self.carry)
    }

    /// Gives up the frame and the record in progress; the link ends.
    pub(super) fn abandon(&mut self, unfinished: &UnfinishedFrames) {
        self.take_carried(unfinished);
        self.assembler.abandon(unfinished);
        if let Framing::Upgrade(request) = &mut self.framing {
            request.abandon(unfinished);
        }
    }

    /// Bytes of the frame in progress.
    pub(super) fn progress(&self) -> usize {
        let request = if let Framing::Upgrade(request) = &self.framing { request.progress() } else { 0 };
        let own = self.own.as_ref().map_or(0, |own| own.end - own.start);
        self.assembler.progress() + self.carry.len() + request + own
    }

    /// Whether the frame or the record in progress has taken too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let is_overdue = match &self.framing {
            Framing::Length | Framing::Unknown => false,
            Framing::Upgrade(request) => request.is_overdue(now),
            Framing::WebSocket(socket) => socket.is_overdue(now),
        };
        is_overdue
            || self.assembler.is_overdue(now)
            || self
                .carried_since
                .is_some_and(|since| now.saturating_duration_since(since) > RECORD_COMPLETE_WITHIN)
    }

    fn handle_without_tls(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        bytes: &mut [u8],
        mut handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        self.feed(now, unfinished, bytes, &mut handle).map_err(|reason| match reason {
            CloseReason::FrameLength(len) if len.to_be_bytes().starts_with(&TLS_HANDSHAKE) => {
                CloseReason::TlsUnexpected
            }
            reason => reason,
        })
    }

    fn handle_record(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        record: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let Some(opener) = &mut self.opener else { return Err(CloseReason::Tls) };
        let len = opener.plaintext_len_max(record.len());
        if let Some(room) = self.assembler.room(unfinished, len) {
            self.is_large = true;
            return match opener.open_into(record, room) {
                Ok(Opened::Data(len)) => match &mut self.framing {
                    Framing::WebSocket(socket) => socket.take(&mut self.assembler, unfinished, len, handle),
                    _ => Ok(self.assembler.take(unfinished, len, handle)),
                },
                Ok(Opened::Nothing) => Ok(true),
                Ok(Opened::CloseNotify) => Err(CloseReason::ByPeer),
                Err(_) => Err(CloseReason::Tls),
            };
        }
        match opener.open_in_place(record) {
            Ok(Opened::Data(plaintext)) => match &mut self.framing {
                Framing::Length => self.assembler.feed(now, self.bounds, unfinished, plaintext, handle),
                _ => self.feed(now, unfinished, plaintext, handle),
            },
            Ok(Opened::Nothing) => Ok(true),
            Ok(Opened::CloseNotify) => Err(CloseReason::ByPeer),
            Err(_) => Err(CloseReason::Tls),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        engine::testing::{connection, connection_of, pump},
        tls::record::{ContentType, PLAINTEXT_LEN_MAX, Sealer},
    };

    const BOUNDS: FrameBounds = FrameBounds { len_min: 42, len_max: 1 << 20, read_over_max: 0 };

    fn record(sealer: &mut Sealer, frame_len: usize) -> Vec<u8> {
        let mut frame = vec![0; frame_len];
        frame[..4].copy_from_slice(&(frame_len as u32).to_be_bytes());
        let mut record = Vec::new();
        sealer.seal(ContentType::ApplicationData, &[&frame], &mut record).unwrap();
        record
    }

    #[test]
    fn a_record_that_dribbles_is_counted_and_overdue_until_it_is_whole() {
        let (mut sealer, opener) = connection();
        let (mut receive, start) = (Receive::new(Some(opener), BOUNDS, Blocks::new()), Instant::now());
        let unfinished = UnfinishedFrames::new(usize::MAX, 1);
        let mut record = record(&mut sealer, 9_000);
        let (last, dribbled) = record.split_last_mut().unwrap();
        let mut now = start;
        for byte in dribbled {
            now += Duration::from_millis(2);
            let taken =
                receive.handle_bytes(now, &unfinished, std::slice::from_mut(byte), |_| unreachable!());
            assert_eq!(taken, Ok(true));
        }
        assert_eq!(unfinished.bytes(), receive.progress());
        assert!(unfinished.bytes() > 9_000);
        assert!(!receive.is_overdue(start + RECORD_COMPLETE_WITHIN));
        assert!(receive.is_overdue(now));
        let mut frames = 0;
        let taken = receive.handle_bytes(now, &unfinished, std::slice::from_mut(last), |_| {
            frames += 1;
            true
        });
        assert_eq!((taken, frames), (Ok(true), 1));
        assert!(!receive.is_overdue(now + Duration::from_secs(3600)));
        assert_eq!(unfinished.bytes(), 0);
    }

    #[test]
    fn a_link_that_ends_gives_back_what_it_had_of_a_record() {
        let (mut sealer, opener) = connection();
        let mut receive = Receive::new(Some(opener), BOUNDS, Blocks::new());
        let unfinished = UnfinishedFrames::new(10, 1);
        let mut record = record(&mut sealer, 100);
        let taken = receive.handle_bytes(Instant::now(), &unfinished, &mut record[..50], |_| unreachable!());
        assert_eq!(taken, Ok(true));
        assert!(unfinished.is_over());
        receive.abandon(&unfinished);
        assert_eq!(unfinished.bytes(), 0);
    }

    #[test]
    fn frames_of_all_lengths_come_out_whole_and_in_order_however_receives_are_cut() {
        let mut random = SmallRng::seed_from_u64(7);
        for version in ["1.2", "1.3"] {
            for record_len in [PLAINTEXT_LEN_MAX, 4_000, 16_000] {
                let (mut sealer, opener) = connection_of(version);
                let (mut frames, mut stream) = (Vec::new(), Vec::new());
                for len in [1 << 20, 42, 900_000, 70_000, 1 << 20, 20_000, 16_384, 5_000, 1 << 20, 300_000] {
                    let mut frame: Vec<u8> = (0..len).map(|_| random.random()).collect();
                    frame[..4].copy_from_slice(&(len as u32).to_be_bytes());
                    for part in frame.chunks(record_len) {
                        sealer.seal(ContentType::ApplicationData, &[part], &mut stream).unwrap();
                    }
                    frames.push(frame);
                }
                let unfinished = UnfinishedFrames::new(usize::MAX, 1);
                let mut receive = Receive::new(Some(opener), BOUNDS, Blocks::new());
                let mut came = Vec::new();
                let own = pump(
                    &mut receive,
                    &unfinished,
                    &stream,
                    || random.random_range(0..400_000),
                    |frame| {
                        came.push(frame.pieces().collect::<Vec<_>>().concat());
                        true
                    },
                );
                assert!(came == frames, "TLS {version}, records of {record_len} bytes");
                // Nearly all came into the block.
                assert!(own.unwrap() > stream.len() / 2);
                assert_eq!((unfinished.bytes(), receive.progress()), (0, 0));
            }
        }
    }

    #[test]
    fn a_large_frame_with_a_forged_record_is_lent_to_nobody() {
        for forged in [0, 1, 20, 63] {
            let (mut sealer, opener) = connection();
            let mut stream = Vec::new();
            let mut frame = vec![7; 1 << 20];
            frame[..4].copy_from_slice(&(1u32 << 20).to_be_bytes());
            for part in frame.chunks(PLAINTEXT_LEN_MAX) {
                sealer.seal(ContentType::ApplicationData, &[part], &mut stream).unwrap();
            }
            let record_len = stream.len() / 64;
            stream[(forged + 1) * record_len - 1] ^= 1;
            let unfinished = UnfinishedFrames::new(usize::MAX, 1);
            let mut receive = Receive::new(Some(opener), BOUNDS, Blocks::new());
            let taken = pump(&mut receive, &unfinished, &stream, || 100_000, |_| panic!("nobody said this"));
            assert_eq!(taken, Err(CloseReason::Tls), "record {forged}");
            receive.abandon(&unfinished);
            assert_eq!(unfinished.bytes(), 0);
        }
    }

    #[test]
    fn a_record_that_dribbles_into_a_block_is_overdue_until_it_is_whole() {
        let (mut sealer, opener) = connection();
        let (mut stream, mut frame) = (Vec::new(), vec![7; 1 << 20]);
        frame[..4].copy_from_slice(&(1u32 << 20).to_be_bytes());
        for part in frame.chunks(PLAINTEXT_LEN_MAX) {
            sealer.seal(ContentType::ApplicationData, &[part], &mut stream).unwrap();
        }
        let (mut receive, start) = (Receive::new(Some(opener), BOUNDS, Blocks::new()), Instant::now());
        let unfinished = UnfinishedFrames::new(usize::MAX, 1);
        assert_eq!(receive.handle_bytes(start, &unfinished, &mut stream[..20_000], |_| true), Ok(true));
        assert!(receive.wants_own() && receive.begin_own());
        let mut at = 20_000;
        let mut come = |receive: &mut Receive, len: usize, now| {
            receive.own_room(&unfinished).unwrap()[..len].copy_from_slice(&stream[at..at + len]);
            assert_eq!(receive.handle_own(now, &unfinished, len, |_| true), Ok(true));
            at += len;
        };
        let late = start + RECORD_COMPLETE_WITHIN + Duration::from_millis(1);
        come(&mut receive, 1, late);
        assert!(receive.is_overdue(late));
        // The rest of it, and the beginning of the next.
        come(&mut receive, 15_000, late);
        assert!(!receive.is_overdue(late));
        assert!(receive.is_overdue(late + RECORD_COMPLETE_WITHIN + Duration::from_millis(1)));
    }
}
