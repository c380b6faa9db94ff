//! Frames out of plaintext: most lie whole in one record and are passed on where they lie; others are
//! put together in chunks, into which the records of a large frame are opened. Pure; no I/O.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    blocks::{BLOCK_LEN, Block, Blocks},
    bounds::{BYTES_PER_SECOND_MIN, FRAME_COMPLETE_WITHIN},
};
use crate::{
    relay::CloseReason,
    wire::{FrameRef, frame::HEAD_LEN_MAX},
};

/// While a frame has less than so many bytes, its memory is a quarter more than what came at most, if more than as much is
/// still to come.
const SMALL_LEN_MAX: usize = 32 * 1024;
/// What at least is still to come for a block to be taken: so it is at least half full in the end.
const BLOCK_FROM: usize = BLOCK_LEN / 2;
const _: () = assert!(BLOCK_FROM > HEAD_LEN_MAX, "the beginning of a long frame lies in one piece");

/// Memory of unfinished frames and records on all links of the node, and their bound. Beyond it the link that holds
/// most of it goes, whichever reactor has it: whoever holds no more than the others is safe.
#[derive(Debug)]
pub(super) struct UnfinishedFrames {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// What the largest holder of each reactor held when it was looked for last.
    largest: Box<[AtomicUsize]>,
    /// Which reactors are to look whether their largest holder is to go.
    asked: Box<[AtomicBool]>,
}

impl UnfinishedFrames {
    pub(super) fn new(bytes_max: usize, reactors: u16) -> Self {
        let largest = (0..reactors).map(|_| AtomicUsize::new(0)).collect();
        let asked = (0..reactors).map(|_| AtomicBool::new(false)).collect();
        Self { bytes: AtomicUsize::new(0), bytes_max, largest, asked }
    }

    /// A reactor is to look whether its largest holder is to go.
    pub(super) fn ask(&self, reactor: usize) {
        self.asked[reactor].store(true, Relaxed);
    }

    /// Whether a reactor was asked to.
    pub(super) fn take_asked(&self, reactor: usize) -> bool {
        self.asked[reactor].load(Relaxed) && self.asked[reactor].swap(false, Relaxed)
    }

    /// The largest holder of a reactor holds so much; gives the reactor whose largest holder is to go.
    pub(super) fn note_largest(&self, reactor: usize, bytes: usize) -> usize {
        self.largest[reactor].store(bytes, Relaxed);
        let of_all = self.largest.iter().map(|largest| largest.load(Relaxed));
        // Where two hold the same, the reactor that looked is right.
        of_all
            .enumerate()
            .max_by_key(|&(other, bytes)| (bytes, other == reactor))
            .map_or(reactor, |(one, _)| one)
    }

    /// Whether the bound is passed.
    pub(super) fn is_over(&self) -> bool {
        self.bytes.load(Relaxed) > self.bytes_max
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Bytes now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

/// The bounds on a frame's length, by kind of link.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameBounds {
    pub(super) len_min: usize,
    pub(super) len_max: usize,
    /// A frame that is longer than `len_max` and not than this is read over: only its beginning is lent, as a frame whose
    /// length field says more than is there.
    pub(super) read_over_max: usize,
}

/// What of a frame is lent, and how much behind that is read over.
#[derive(Clone, Copy, Debug)]
struct FrameLen {
    lent: usize,
    read_over: usize,
}

/// A frame that is not complete yet.
pub(super) struct Assembler {
    blocks: Blocks,
    chunks: Vec<Chunk>,
    chunk: Chunk,
    /// Bytes that are here.
    have: usize,
    /// Length of the frame, or of what is lent of it, once its first four bytes are here.
    want: Option<usize>,
    /// Bytes that are read over once that is here, or are to be read over next.
    read_over: usize,
    since: Option<Instant>,
    /// Memory of all chunks in bytes, as it is counted among the unfinished frames.
    charged: usize,
}

/// A piece of a frame in memory that may be longer.
#[derive(Default)]
struct Chunk {
    memory: Block,
    len: usize,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

/// A whole frame.
pub(super) struct Assembled {
    chunks: Vec<Chunk>,
    last: Chunk,
    len: usize,
}

impl Assembled {
    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The beginning, which lies in one piece: all that is ever looked at.
    pub(super) fn head(&mut self) -> &mut [u8] {
        let first = self.chunks.first_mut().unwrap_or(&mut self.last);
        &mut first.memory[..first.len]
    }

    /// Puts `bytes` in the place of the first `replaced` ones, which lie in the head and are fewer.
    pub(super) fn put_in_front(&mut self, bytes: &[u8], replaced: usize) {
        let first = self.chunks.first_mut().unwrap_or(&mut self.last);
        let rest = &first.as_ref()[replaced..];
        let mut memory = Block::of_len(bytes.len() + rest.len());
        memory[..bytes.len()].copy_from_slice(bytes);
        memory[bytes.len()..].copy_from_slice(rest);
        self.len = self.len - replaced + bytes.len();
        *first = Chunk { len: memory.len(), memory };
    }

    /// Lends it to `handle` without its first bytes, which lie in the head.
    pub(super) fn lend(self, skip: usize, mut handle: impl FnMut(FrameRef<'_>) -> bool) -> bool {
        if self.chunks.is_empty() && self.len <= HEAD_LEN_MAX {
            return handle(FrameRef::Slice(&self.last.as_ref()[skip..]));
        }
        let chunks = self.chunks.into_iter().chain([self.last]);
        let chunks: Vec<Bytes> = chunks.map(Bytes::from_owner).collect();
        handle(FrameRef::Chunks { chunks: &chunks, skip, len: self.len - skip })
    }
}

impl Assembler {
    pub(super) fn new(blocks: Blocks) -> Self {
        let (chunks, chunk) = Default::default();
        Self { blocks, chunks, chunk, have: 0, want: None, read_over: 0, since: None, charged: 0 }
    }

    /// Cuts frames out of `plaintext` and lends each to `handle`, which tells whether to go on. `false`
    /// comes back if it did not.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        bounds: FrameBounds,
        unfinished: &UnfinishedFrames,
        mut plaintext: &[u8],
        mut handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        while !plaintext.is_empty() {
            if self.have == 0 && self.read_over > 0 {
                let dropped = self.read_over.min(plaintext.len());
                self.read_over -= dropped;
                plaintext = &plaintext[dropped..];
                continue;
            }
            if self.have == 0
                && let Some(FrameLen { lent, read_over }) = frame_len(plaintext, bounds)?
                && lent <= plaintext.len()
            {
                let (frame, rest) = plaintext.split_at(lent);
                plaintext = rest;
                self.read_over = read_over;
                if !handle(FrameRef::Slice(frame)) {
                    return Ok(false);
                }
                continue;
            }
            self.since.get_or_insert(now);
            // The length itself may arrive byte by byte.
            let wanted = self.want.unwrap_or(4) - self.have;
            let (taken, rest) = plaintext.split_at(plaintext.len().min(wanted));
            plaintext = rest;
            self.reserve(unfinished, taken.len());
            self.chunk.memory[self.chunk.len..][..taken.len()].copy_from_slice(taken);
            if self.want.is_none() && self.have + taken.len() == 4 {
                let len = frame_len(&self.chunk.memory, bounds)?;
                self.want = len.map(|len| len.lent);
                self.read_over = len.map_or(0, |len| len.read_over);
            }
            if !self.take(unfinished, taken.len(), &mut handle) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where to open a record that holds at most so many bytes, if all of them belong to the frame in
    /// progress; [`Self::take`] tells how many came. It is longer by a byte.
    pub(super) fn room(&mut self, unfinished: &UnfinishedFrames, len: usize) -> Option<&mut [u8]> {
        if len == 0 || self.left() < len {
            return None;
        }
        self.reserve(unfinished, len + 1);
        Some(&mut self.chunk.memory[self.chunk.len..][..=len])
    }

    /// Bytes of the frame in progress that are still to come, as far as is known.
    pub(super) fn left(&self) -> usize {
        self.want.map_or(0, |want| want - self.have)
    }

    /// Takes it that so many bytes were written behind the current chunk; lends out the frame if it is
    /// complete.
    pub(super) fn take(
        &mut self,
        unfinished: &UnfinishedFrames,
        len: usize,
        handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> bool {
        self.add(len);
        self.want != Some(self.have) || self.finish(unfinished).lend(0, handle)
    }

    /// What was written to where [`Self::room`] said, before it is added.
    pub(super) fn written(&mut self, len: usize) -> &mut [u8] {
        &mut self.chunk.memory[self.chunk.len..][..len]
    }

    /// So many bytes were written behind the current chunk.
    pub(super) fn add(&mut self, len: usize) {
        self.chunk.len += len;
        self.have += len;
    }

    /// So many bytes more are known to come of the frame in progress, or of a new one.
    pub(super) fn expect(&mut self, now: Instant, more: usize) {
        self.since.get_or_insert(now);
        self.want = Some(self.have + more);
    }

    /// Copies bytes that were expected.
    pub(super) fn append(&mut self, unfinished: &UnfinishedFrames, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.left());
        self.reserve(unfinished, bytes.len());
        self.chunk.memory[self.chunk.len..][..bytes.len()].copy_from_slice(bytes);
        self.add(bytes.len());
    }

    /// The frame is whole.
    pub(super) fn finish(&mut self, unfinished: &UnfinishedFrames) -> Assembled {
        let (chunks, last) = (std::mem::take(&mut self.chunks), std::mem::take(&mut self.chunk));
        let len = self.have;
        self.reset(unfinished);
        Assembled { chunks, last, len }
    }

    /// Makes room for `more` bytes in one piece. Memory is taken as bytes arrive: while they are few, it is
    /// little more than they are; later it is a block more at most, which is charged whole, for it is there.
    fn reserve(&mut self, unfinished: &UnfinishedFrames, more: usize) {
        let Self { blocks, chunks, chunk, .. } = self;
        if chunk.memory.len() - chunk.len >= more {
            return;
        }
        // The beginning stays in one piece: it may hold all that is ever looked at.
        let begins = chunk.len < SMALL_LEN_MAX;
        let kept = if begins { chunk.len } else { 0 };
        let whole = kept + self.want.map_or(0, |want| want - self.have).max(more);
        let needed = kept + more;
        let memory = match () {
            () if needed < SMALL_LEN_MAX && 2 * needed < whole => Block::of_len(needed.max(kept + kept / 4)),
            () if whole < BLOCK_FROM => Block::of_len(whole + 1),
            () => blocks.take(),
        };
        unfinished.add(memory.len());
        self.charged += memory.len();
        let before = std::mem::replace(chunk, Chunk { memory, len: kept });
        if begins {
            chunk.memory[..kept].copy_from_slice(before.as_ref());
            unfinished.release(before.memory.len());
            self.charged -= before.memory.len();
        } else {
            chunks.push(before);
        }
    }

    fn reset(&mut self, unfinished: &UnfinishedFrames) {
        unfinished.release(self.charged);
        *self = Self { read_over: self.read_over, ..Self::new(self.blocks.clone()) };
    }

    /// Gives up the frame in progress; its link ends.
    pub(super) fn abandon(&mut self, unfinished: &UnfinishedFrames) {
        self.reset(unfinished);
    }

    /// Bytes of the frame in progress.
    pub(super) fn progress(&self) -> usize {
        self.have
    }

    /// The beginning of the frame in progress, as far as it is here.
    pub(super) fn head(&self) -> &[u8] {
        self.chunks.first().unwrap_or(&self.chunk).as_ref()
    }

    /// When its first byte came.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Its beginning is to count as so much later.
    pub(super) fn delay(&mut self, by: Duration) {
        self.since = self.since.map(|since| since + by);
    }

    /// Whether the frame in progress has taken too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let bytes = self.want.unwrap_or(0);
        let allowed = FRAME_COMPLETE_WITHIN + Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64);
        self.since.is_some_and(|since| now.saturating_duration_since(since) > allowed)
    }
}

/// The length of the frame at the start of `bytes`, once it is there.
fn frame_len(bytes: &[u8], bounds: FrameBounds) -> Result<Option<FrameLen>, CloseReason> {
    let Some(len) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*len);
    match len as usize {
        all if (bounds.len_min..=bounds.len_max).contains(&all) => {
            Ok(Some(FrameLen { lent: all, read_over: 0 }))
        }
        all if all > bounds.len_max && all <= bounds.read_over_max => {
            let lent = all.min(HEAD_LEN_MAX);
            Ok(Some(FrameLen { lent, read_over: all - lent }))
        }
        _ => Err(CloseReason::FrameLength(len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: FrameBounds = FrameBounds { len_min: 42, len_max: 1 << 20, read_over_max: 0 };

    fn frame(len: usize, fill: u8) -> Vec<u8> {
        let mut frame = vec![fill; len];
        frame[..4].copy_from_slice(&(len as u32).to_be_bytes());
        frame
    }

    #[test]
    fn frames_come_out_whole_and_in_order_however_their_bytes_are_cut() {
        let frames: Vec<_> = [42, 43, 1000, 70_000, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, 900_000, 42]
            .into_iter()
            .enumerate()
            .map(|(i, len)| frame(len, i as u8))
            .collect();
        let stream = frames.concat();
        for step in [1, 3, 41, 16_384, 100_000, stream.len()] {
            let unfinished = UnfinishedFrames::new(usize::MAX, 1);
            let (mut assembler, mut got) = (Assembler::new(Blocks::new()), Vec::new());
            for piece in stream.chunks(step) {
                let fed = assembler.feed(Instant::now(), BOUNDS, &unfinished, piece, |frame| {
                    got.push(frame.pieces().flatten().copied().collect::<Vec<u8>>());
                    true
                });
                assert_eq!(fed, Ok(true));
            }
            assert!(got == frames, "cut every {step} bytes");
            assert_eq!(unfinished.bytes(), 0);
        }
    }

    #[test]
    fn lengths_outside_the_bounds_end_the_link_before_memory_is_taken() {
        let unfinished = UnfinishedFrames::new(usize::MAX, 1);
        for len in [0u32, 41, (1 << 20) + 1, u32::MAX] {
            let mut assembler = Assembler::new(Blocks::new());
            let fed =
                assembler.feed(Instant::now(), BOUNDS, &unfinished, &len.to_be_bytes(), |_| unreachable!());
            assert_eq!(fed, Err(CloseReason::FrameLength(len)));
            assembler.abandon(&unfinished);
        }
        assert_eq!(unfinished.bytes(), 0);
    }

    #[test]
    fn a_frame_that_is_too_long_is_read_over_and_takes_no_memory_beyond_its_beginning() {
        let bounds = FrameBounds { len_min: 42, len_max: 50_000, read_over_max: 1 << 20 };
        let (before, long, after) = (frame(1_000, 1), frame(900_000, 2), frame(50_000, 3));
        let shortest = frame(50_001, 4);
        let stream = [&before[..], &long, &shortest, &after].concat();
        for step in [1, 3, 16_384, 100_000, stream.len()] {
            let unfinished = UnfinishedFrames::new(usize::MAX, 1);
            let (mut assembler, mut got) = (Assembler::new(Blocks::new()), Vec::new());
            for piece in stream.chunks(step) {
                let fed = assembler.feed(Instant::now(), bounds, &unfinished, piece, |frame| {
                    got.push(frame.pieces().flatten().copied().collect::<Vec<u8>>());
                    true
                });
                assert_eq!(fed, Ok(true));
                assert!(unfinished.bytes() <= 50_000 + 2 * BLOCK_LEN);
            }
            let expected = [
                before.clone(),
                long[..HEAD_LEN_MAX].to_vec(),
                shortest[..HEAD_LEN_MAX].to_vec(),
                after.clone(),
            ];
            assert!(got == expected, "cut every {step} bytes");
            assert_eq!(unfinished.bytes(), 0);
        }
        let mut assembler = Assembler::new(Blocks::new());
        let unfinished = UnfinishedFrames::new(usize::MAX, 1);
        let beyond = ((1u32 << 20) + 1).to_be_bytes();
        let fed = assembler.feed(Instant::now(), bounds, &unfinished, &beyond, |_| unreachable!());
        assert_eq!(fed, Err(CloseReason::FrameLength((1 << 20) + 1)));
    }

    #[test]
    fn memory_is_a_quarter_more_than_what_came_at_most_and_later_a_block_more() {
        for step in [1, 37, 1_000, 5_000, 16_000, 16_384] {
            let frame = frame(1 << 20, 7);
            let unfinished = UnfinishedFrames::new(usize::MAX, 1);
            let mut assembler = Assembler::new(Blocks::new());
            for piece in frame[..900_000].chunks(step) {
                // A record is opened where it is to lie, if it belongs to the frame as a whole.
                if let Some(room) = assembler.room(&unfinished, piece.len()) {
                    room[..piece.len()].copy_from_slice(piece);
                    assert!(assembler.take(&unfinished, piece.len(), |_| unreachable!()));
                } else {
                    let fed = assembler.feed(Instant::now(), BOUNDS, &unfinished, piece, |_| unreachable!());
                    assert_eq!(fed, Ok(true));
                }
                let (came, taken) = (assembler.progress(), unfinished.bytes());
                let more = if came < SMALL_LEN_MAX { came / 4 + 1 } else { BLOCK_LEN };
                assert!((came..=came + more).contains(&taken), "{taken} bytes for {came}, {step} at a time");
            }
            assembler.abandon(&unfinished);
            assert_eq!(unfinished.bytes(), 0);
        }
    }

    #[test]
    fn a_frame_that_dribbles_is_overdue() {
        let unfinished = UnfinishedFrames::new(usize::MAX, 1);
        let (mut assembler, start) = (Assembler::new(Blocks::new()), Instant::now());
        assembler.feed(start, BOUNDS, &unfinished, &frame(1 << 20, 0)[..5000], |_| unreachable!()).unwrap();
        assert!(!assembler.is_overdue(start + Duration::from_secs(40)));
        assert!(assembler.is_overdue(start + Duration::from_secs(41)));
    }

    #[test]
    fn the_reactor_with_the_largest_holder_is_named_by_whoever_looks() {
        let unfinished = UnfinishedFrames::new(100, 3);
        assert_eq!(unfinished.note_largest(1, 10), 1);
        assert_eq!(unfinished.note_largest(0, 10), 0);
        assert_eq!(unfinished.note_largest(2, 90), 2);
        assert_eq!(unfinished.note_largest(0, 20), 2);
        assert_eq!(unfinished.note_largest(2, 0), 0);
    }
}
