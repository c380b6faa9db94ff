//! Frames out of plaintext: most lie whole in one record and are passed on where they lie; others are
//! put together. Pure; no I/O.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::bounds::{BYTES_PER_SECOND_MIN, FRAME_COMPLETE_WITHIN};
use crate::{relay::CloseReason, wire::FrameRef};

/// Pieces of large frames have this length in bytes, so that a head is contiguous.
pub(super) const CHUNK_LEN: usize = 64 * 1024;
/// Bytes of unfinished frames and records on all links of the node, and their bound.
#[derive(Debug)]
pub(super) struct UnfinishedFrames {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl UnfinishedFrames {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max }
    }

    /// Bytes now, and their bound.
    pub(super) fn bytes_and_max(&self) -> (usize, usize) {
        (self.bytes.load(Relaxed), self.bytes_max)
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

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

/// The bounds on a frame's length, by kind of link.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameBounds {
    pub(super) len_min: usize,
    pub(super) len_max: usize,
}

/// A frame that is not complete yet.
#[derive(Default)]
pub(super) struct Assembler {
    chunks: Vec<Bytes>,
    chunk: BytesMut,
    /// Bytes that are here.
    have: usize,
    /// Length of the frame, once its first four bytes are here.
    want: Option<usize>,
    since: Option<Instant>,
}

impl Assembler {
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
            if self.have == 0
                && let Some(len) = frame_len(plaintext, bounds)?
                && len <= plaintext.len()
            {
                let (frame, rest) = plaintext.split_at(len);
                plaintext = rest;
                if !handle(FrameRef::Slice(frame)) {
                    return Ok(false);
                }
                continue;
            }
            plaintext = self.take(now, bounds, unfinished, plaintext)?;
            if self.want == Some(self.have) {
                let len = self.have;
                let mut chunks = std::mem::take(&mut self.chunks);
                chunks.push(std::mem::take(&mut self.chunk).freeze());
                self.reset(unfinished);
                let frame = match chunks.as_slice() {
                    [one] => FrameRef::Slice(one),
                    chunks => FrameRef::Chunks { chunks, skip: 0, len },
                };
                if !handle(frame) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Moves what belongs to the current frame out of `plaintext`; memory is taken as bytes arrive.
    fn take<'a>(
        &mut self,
        now: Instant,
        bounds: FrameBounds,
        unfinished: &UnfinishedFrames,
        plaintext: &'a [u8],
    ) -> Result<&'a [u8], CloseReason> {
        self.since.get_or_insert(now);
        let wanted = match self.want {
            Some(want) => want - self.have,
            // The length itself may arrive byte by byte.
            None => 4 - self.have,
        };
        let room = CHUNK_LEN - self.chunk.len();
        let (taken, rest) = plaintext.split_at(plaintext.len().min(wanted).min(room));
        self.chunk.extend_from_slice(taken);
        self.have += taken.len();
        unfinished.add(taken.len());
        if self.want.is_none() {
            self.want = frame_len(&self.chunk, bounds)?;
        }
        if self.chunk.len() == CHUNK_LEN && self.want != Some(self.have) {
            self.chunks.push(std::mem::take(&mut self.chunk).freeze());
        }
        Ok(rest)
    }

    fn reset(&mut self, unfinished: &UnfinishedFrames) {
        unfinished.release(self.have);
        *self = Self::default();
    }

    /// Gives up the frame in progress; its link ends.
    pub(super) fn abandon(&mut self, unfinished: &UnfinishedFrames) {
        self.reset(unfinished);
    }

    /// Bytes of the frame in progress.
    pub(super) fn progress(&self) -> usize {
        self.have
    }

    /// Whether the frame in progress has taken too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let bytes = self.want.unwrap_or(0);
        let allowed = FRAME_COMPLETE_WITHIN + Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64);
        self.since.is_some_and(|since| now.saturating_duration_since(since) > allowed)
    }
}

/// The length of the frame at the start of `bytes`, once it is there.
fn frame_len(bytes: &[u8], bounds: FrameBounds) -> Result<Option<usize>, CloseReason> {
    let Some(len) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*len);
    if (bounds.len_min..=bounds.len_max).contains(&(len as usize)) {
        Ok(Some(len as usize))
    } else {
        Err(CloseReason::FrameLength(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: FrameBounds = FrameBounds { len_min: 42, len_max: 1 << 20 };

    fn frame(len: usize, fill: u8) -> Vec<u8> {
        let mut frame = vec![fill; len];
        frame[..4].copy_from_slice(&(len as u32).to_be_bytes());
        frame
    }

    #[test]
    fn frames_come_out_whole_and_in_order_however_their_bytes_are_cut() {
        let frames: Vec<_> = [42, 43, 1000, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 300_000, 42]
            .into_iter()
            .enumerate()
            .map(|(i, len)| frame(len, i as u8))
            .collect();
        let stream = frames.concat();
        for step in [1, 3, 41, 16_384, 100_000, stream.len()] {
            let unfinished = UnfinishedFrames::new(usize::MAX);
            let (mut assembler, mut got) = (Assembler::default(), Vec::new());
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
        let unfinished = UnfinishedFrames::new(usize::MAX);
        for len in [0u32, 41, (1 << 20) + 1, u32::MAX] {
            let mut assembler = Assembler::default();
            let fed =
                assembler.feed(Instant::now(), BOUNDS, &unfinished, &len.to_be_bytes(), |_| unreachable!());
            assert_eq!(fed, Err(CloseReason::FrameLength(len)));
            assembler.abandon(&unfinished);
        }
        assert_eq!(unfinished.bytes(), 0);
    }

    #[test]
    fn a_frame_that_dribbles_is_overdue() {
        let unfinished = UnfinishedFrames::new(usize::MAX);
        let (mut assembler, start) = (Assembler::default(), Instant::now());
        assembler.feed(start, BOUNDS, &unfinished, &frame(1 << 20, 0)[..5000], |_| unreachable!()).unwrap();
        assert!(!assembler.is_overdue(start + Duration::from_secs(40)));
        assert!(assembler.is_overdue(start + Duration::from_secs(41)));
    }
}
