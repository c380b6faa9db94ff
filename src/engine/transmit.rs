//! The sending side of a link: frames are sealed into its own buffer as soon as they are given, and what
//! was sealed goes out in one send per turn. Pure but for the socket that it holds.
//!
//! # Invariants
//! - What is sealed is sent, in the order sealed; the bound is checked before.
//! - A frame that has been begun is finished before another.
//! - On links to applications every frame starts a record and shares it with no other (WIRE §1.7).

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    relay::{Class, CloseReason, LinkKey, SendError},
    tls::record::{ContentType, PLAINTEXT_LEN_MAX, SealError, Sealer},
    wire::{FrameRef, RetainedFrame},
};

/// Bytes that may be sealed and not sent: a link whose peer is slower than that keeps its frames
/// unsealed, so that control can go before data and memory is shared.
const SEALED_AHEAD_MAX: usize = 256 * 1024;
/// A buffer larger than this is not kept for the next turn.
const BUFFER_KEPT_MAX: usize = 64 * 1024;
/// Frames up to this length are sealed at once.
const SEAL_AT_ONCE_MAX: usize = 64 * 1024;
/// Control frames may wait up to this many bytes on one link.
const CONTROL_BYTES_MAX: usize = 64 << 20;
/// How long a closing link may take to send what is queued.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A frame that waits unsealed.
struct Waiting {
    head: SmallVec<[u8; 128]>,
    body: RetainedFrame,
    /// Bytes of it that are sealed already.
    sealed: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

pub(super) struct Transmit {
    pub(super) key: LinkKey,
    pub(super) socket: OwnedFd,
    sealer: Sealer,
    is_sdk: bool,
    share_records: bool,
    queue_bytes_max: usize,
    /// Plaintext that waits to share a record.
    gathered: Vec<u8>,
    sealed: Vec<u8>,
    /// What the kernel is sending, and how much of it is sent.
    in_flight: Vec<u8>,
    sent: usize,
    pub(super) sending: bool,
    /// Control, then data.
    waiting: [VecDeque<Waiting>; 2],
    waiting_bytes: usize,
    /// Which queue's first frame has been begun.
    begun: Option<usize>,
    pub(super) closing: Option<Closing>,
    close_notify_sealed: bool,
    last_progress: Instant,
    /// Whether the link is in the reactor's list of those to flush.
    pub(super) is_dirty: bool,
}

/// A link that ends.
#[derive(Clone, Copy)]
pub(super) struct Closing {
    pub(super) reason: CloseReason,
    pub(super) deadline: Instant,
    /// Nothing more is to be sent.
    pub(super) aborted: bool,
}

impl Transmit {
    pub(super) fn new(
        now: Instant,
        key: LinkKey,
        socket: OwnedFd,
        sealer: Sealer,
        is_sdk: bool,
        queue_bytes_max: usize,
    ) -> Self {
        Self {
            key,
            socket,
            sealer,
            is_sdk,
            share_records: !is_sdk,
            queue_bytes_max,
            gathered: Vec::new(),
            sealed: Vec::new(),
            in_flight: Vec::new(),
            sent: 0,
            sending: false,
            waiting: [VecDeque::new(), VecDeque::new()],
            waiting_bytes: 0,
            begun: None,
            closing: None,
            close_notify_sealed: false,
            last_progress: now,
            is_dirty: false,
        }
    }

    /// Lets frames share records from here on.
    pub(super) fn share_records(&mut self) {
        self.share_records = true;
    }

    /// Bytes that are not sent yet.
    pub(super) fn queued_bytes(&self) -> usize {
        self.sealed.len() + self.gathered.len() + self.in_flight.len() - self.sent + self.waiting_bytes
    }

    /// TLS 1.3: moves on to new keys, as the peer asked.
    pub(super) fn update_keys(&mut self) {
        let updated = self.seal_gathered().and_then(|()| self.sealer.update_keys(&mut self.sealed));
        if updated.is_err() {
            let now = self.last_progress;
            self.close(now, CloseReason::KeysWorn, true);
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.sealer.blocks()
    }

    /// Takes a frame.
    pub(super) fn send(
        &mut self,
        now: Instant,
        class: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<(), SendError> {
        if self.closing.is_some() {
            return Err(SendError::Gone);
        }
        let queued = self.queued_bytes();
        let bound =
            if class == Class::Control && !self.is_sdk { CONTROL_BYTES_MAX } else { self.queue_bytes_max };
        if queued >= bound {
            return Err(SendError::Full);
        }
        if queued == 0 {
            self.last_progress = now;
        }
        let len = head.len() + body.len();
        let nothing_waits = self.waiting_bytes == 0;
        if nothing_waits && len <= SEAL_AT_ONCE_MAX && self.sealed.len() < SEALED_AHEAD_MAX {
            return self.seal_whole(head, body).map_err(|_| SendError::Gone);
        }
        let queue = usize::from(!self.is_sdk && class == Class::Data);
        self.waiting[queue].push_back(Waiting {
            head: SmallVec::from_slice(head),
            body: body.retain(),
            sealed: 0,
        });
        self.waiting_bytes += len;
        Ok(())
    }

    fn seal_whole(&mut self, head: &[u8], body: FrameRef<'_>) -> Result<(), SealError> {
        let len = head.len() + body.len();
        if self.share_records && len <= PLAINTEXT_LEN_MAX {
            if self.gathered.len() + len > PLAINTEXT_LEN_MAX {
                self.seal_gathered()?;
            }
            self.gathered.extend_from_slice(head);
            body.pieces().for_each(|piece| self.gathered.extend_from_slice(piece));
            return Ok(());
        }
        self.seal_gathered()?;
        let Self { sealer, sealed, .. } = self;
        seal_range(sealer, sealed, head, body, 0, usize::MAX).map(|_| ())
    }

    fn seal_gathered(&mut self) -> Result<(), SealError> {
        if !self.gathered.is_empty() {
            self.sealer.seal(ContentType::ApplicationData, &[&self.gathered], &mut self.sealed)?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// Seals what waits, as far as may be ahead.
    fn seal_waiting(&mut self) -> Result<(), SealError> {
        while self.waiting_bytes > 0 && self.sealed.len() + self.gathered.len() < SEALED_AHEAD_MAX {
            let queue = self.begun.unwrap_or(usize::from(self.waiting[0].is_empty()));
            let Some(mut frame) = self.waiting[queue].pop_front() else { break };
            let len = frame.len();
            if frame.sealed == 0 && len <= SEAL_AT_ONCE_MAX {
                self.waiting_bytes -= len;
                self.seal_whole(&frame.head, frame.body.as_ref())?;
                continue;
            }
            self.seal_gathered()?;
            let Self { sealer, sealed, .. } = self;
            let before = frame.sealed;
            frame.sealed =
                seal_range(sealer, sealed, &frame.head, frame.body.as_ref(), before, SEALED_AHEAD_MAX)?;
            self.waiting_bytes -= frame.sealed - before;
            if frame.sealed < len {
                self.waiting[queue].push_front(frame);
                self.begun = Some(queue);
            } else {
                self.begun = None;
            }
        }
        Ok(())
    }

    /// What to send now, if nothing is being sent: pointer and length, good until [`Self::handle_sent`].
    pub(super) fn next_send(&mut self) -> Result<Option<(*const u8, u32)>, SealError> {
        if self.sending || self.closing.is_some_and(|closing| closing.aborted) {
            return Ok(None);
        }
        if self.sent == self.in_flight.len() {
            self.seal_waiting()?;
            self.seal_gathered()?;
            if self.closing.is_some() && self.waiting_bytes == 0 && !self.close_notify_sealed {
                self.close_notify_sealed = true;
                self.sealer.close_notify(&mut self.sealed)?;
            }
            self.in_flight.clear();
            self.sent = 0;
            std::mem::swap(&mut self.in_flight, &mut self.sealed);
            if self.in_flight.is_empty() {
                for buffer in [&mut self.in_flight, &mut self.sealed, &mut self.gathered] {
                    *buffer = Vec::new();
                }
                return Ok(None);
            }
            for buffer in [&mut self.sealed, &mut self.gathered] {
                if buffer.capacity() > BUFFER_KEPT_MAX {
                    *buffer = Vec::new();
                }
            }
        }
        self.sending = true;
        let rest = &self.in_flight[self.sent..];
        Ok(Some((rest.as_ptr(), rest.len() as u32)))
    }

    /// The kernel has sent `len` bytes.
    pub(super) fn handle_sent(&mut self, now: Instant, len: usize) {
        self.sending = false;
        self.sent = (self.sent + len).min(self.in_flight.len());
        self.last_progress = now;
    }

    /// Begins to close; what is queued still goes out.
    pub(super) fn close(&mut self, now: Instant, reason: CloseReason, aborted: bool) {
        let deadline = now + CLOSE_WITHIN;
        let closing = self.closing.get_or_insert(Closing { reason, deadline, aborted });
        closing.aborted |= aborted;
    }

    /// Whether everything is sent that will be.
    pub(super) fn is_flushed(&self) -> bool {
        self.closing.is_some_and(|closing| closing.aborted)
            || (self.queued_bytes() == 0 && (self.close_notify_sealed || self.closing.is_none()))
    }

    /// Whether the peer has taken nothing of what is queued for so long.
    pub(super) fn is_stalled(&self, now: Instant, timeout: Duration) -> bool {
        self.is_sdk && self.queued_bytes() > 0 && now.saturating_duration_since(self.last_progress) >= timeout
    }
}

/// Seals bytes `from..` of a frame, at most about `bytes_max` of them, in records that are full but for the
/// last. Gives up to where.
fn seal_range(
    sealer: &mut Sealer,
    out: &mut Vec<u8>,
    head: &[u8],
    body: FrameRef<'_>,
    from: usize,
    bytes_max: usize,
) -> Result<usize, SealError> {
    let len = head.len() + body.len();
    let end = from.saturating_add(bytes_max).min(len);
    let mut at = from;
    while at < end {
        let record_end = (at + PLAINTEXT_LEN_MAX).min(len);
        let mut parts: SmallVec<[&[u8]; 4]> = SmallVec::new();
        let mut offset = 0;
        for piece in std::iter::once(head).chain(body.pieces()) {
            let (start, stop) = (at.max(offset), record_end.min(offset + piece.len()));
            if start < stop {
                parts.push(&piece[start - offset..stop - offset]);
            }
            offset += piece.len();
            if offset >= record_end {
                break;
            }
        }
        sealer.seal(ContentType::ApplicationData, &parts, out)?;
        at = record_end;
    }
    Ok(at)
}
