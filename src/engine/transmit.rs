//! The sending side of a link: frames are sealed into its own buffer as soon as they are given, and what
//! was sealed goes out in one send per turn. Pure. On a link without TLS to seal is to copy: the same bytes,
//! without records.
//!
//! # Invariants
//! - What is sealed is sent, in the order sealed; the bound is checked before.
//! - A frame that has been begun is finished before another; control goes before data that has not begun.
//! - Progress is what the peer's machine has taken, not what the kernel here has.
//! - On links to applications every frame starts a record and shares it with no other (WIRE §1.7).

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    blocks::Blocks,
    bounds::{CLOSE_WITHIN, CONTROL_BYTES_MAX, SEALED_AHEAD_MAX},
    descriptor::untaken_bytes,
    output::Output,
    queues::{Queues, SharedFrame},
};
use crate::{
    relay::{
        Class, CloseReason, LinkKey, Queued,
        session_queue::{NoRoom, QueuePool, SessionQueue, TransmitProgress},
    },
    tls::record::{PLAINTEXT_LEN_MAX, SealError, Sealer},
    wire::{FrameRef, RetainedFrame, ws},
};

/// Frames up to this length are sealed at once.
const SEAL_AT_ONCE_MAX: usize = 64 * 1024;
/// What a waiting frame is charged beside its own bytes: its place in the queue, and what the allocator
/// and the shared body take for it.
pub(super) const WAITING_COST: usize = size_of::<Waiting>() + 64;

/// Index of the queue of control frames …
const CONTROL: usize = 0;
/// … and of that of data.
const DATA: usize = 1;

/// A frame that waits unsealed.
struct Waiting {
    head: SmallVec<[u8; 128]>,
    body: RetainedFrame,
    class: Class,
    /// Bytes of it that are sealed already.
    sealed: usize,
    /// Set if the body may be in other queues, too.
    shared: Option<Rc<SharedFrame>>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// What of it belongs to this queue alone.
    fn owned_bytes(&self) -> usize {
        let body = if self.shared.is_some() { 0 } else { self.body.len() };
        self.head.len() + body + WAITING_COST
    }
}

/// For how many bytes room is asked for: of messages, and of what comes from the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoomWanted {
    data: Option<usize>,
    ledger: Option<usize>,
}

impl RoomWanted {
    /// Asks for room of a class; gives whether any was asked for before.
    pub(super) fn replace(&mut self, class: Class, len: usize) -> bool {
        let was_asked = self.data.is_some() || self.ledger.is_some();
        let of_class = if class == Class::Ledger { &mut self.ledger } else { &mut self.data };
        *of_class = Some(len);
        was_asked
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The link ends.
    Gone,
    /// There is no room for it.
    Full(NoRoom),
}

pub(super) struct Transmit {
    pub(super) key: LinkKey,
    /// Where it goes; `None` in tests.
    pub(super) socket: Option<Rc<OwnedFd>>,
    /// `None` without TLS.
    sealer: Option<Sealer>,
    is_sdk: bool,
    share_records: bool,
    queue_bytes_max: usize,
    /// Plaintext that waits to share a record.
    gathered: Vec<u8>,
    sealed: Output,
    /// What the kernel is sending, and how much of it is sent.
    in_flight: Output,
    sent: usize,
    /// Where memory for much at once comes from.
    blocks: Blocks,
    pub(super) sending: bool,
    /// A send failed. Nothing goes out any more, and what came in before may tell why.
    pub(super) has_failed: bool,
    /// Control, then data.
    waiting: [VecDeque<Waiting>; 2],
    /// Bytes of each that are not sealed yet.
    waiting_bytes: [usize; 2],
    /// What waits for a session, by class.
    session_queue: SessionQueue,
    /// What of that belongs to this queue alone.
    owned_bytes: usize,
    /// Which queue's first frame has been begun.
    begun: Option<usize>,
    pub(super) closing: Option<Closing>,
    close_notify_sealed: bool,
    last_progress: Instant,
    /// Bytes that the peer was seen to have taken.
    taken: u64,
    /// Bytes that were sent when the link was looked at last.
    sent_at_look: u64,
    /// Whether the peer had not taken by then what had been sent by the look before.
    is_slow: bool,
    /// Whether the relay asks what the peer has taken.
    pub(super) watches_taken: bool,
    /// For how many bytes the relay asks for room.
    pub(super) room_wanted: RoomWanted,
    /// Whether the relay wants the link read no further for now.
    pub(super) relay_pauses: bool,
    /// Whether a frame that is no small reply is on its way in.
    pub(super) is_receiving_long: bool,
    /// What the queue owned when it was counted last.
    charged: usize,
    /// Frames taken to be sent, and bytes sent, since the link came up.
    pub(super) sent_frames: u64,
    pub(super) sent_bytes: u64,
    /// Whether the link is in the reactor's list of those to flush.
    pub(super) is_dirty: bool,
    /// Whether it is a WebSocket, which ends by a frame that says why.
    pub(super) is_web_socket: bool,
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
        sealer: Option<Sealer>,
        is_sdk: bool,
        queue_bytes_max: usize,
        blocks: Blocks,
    ) -> Self {
        Self {
            key,
            socket: None,
            share_records: !is_sdk && sealer.is_some(),
            sealer,
            is_sdk,
            queue_bytes_max,
            gathered: Vec::new(),
            sealed: Output::default(),
            in_flight: Output::default(),
            sent: 0,
            blocks,
            sending: false,
            has_failed: false,
            waiting: [VecDeque::new(), VecDeque::new()],
            waiting_bytes: [0; 2],
            session_queue: SessionQueue::default(),
            owned_bytes: 0,
            begun: None,
            closing: None,
            close_notify_sealed: false,
            last_progress: now,
            taken: 0,
            sent_at_look: 0,
            is_slow: false,
            watches_taken: false,
            room_wanted: RoomWanted::default(),
            relay_pauses: false,
            is_receiving_long: false,
            charged: 0,
            sent_frames: 0,
            sent_bytes: 0,
            is_dirty: false,
            is_web_socket: false,
        }
    }

    /// Lets frames share records from here on.
    pub(super) fn share_records(&mut self) {
        self.share_records = self.sealer.is_some();
    }

    /// Bytes that are not sent yet.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.sealed_bytes() + self.waiting_bytes.iter().sum::<usize>()
    }

    /// Bytes that are sealed, or about to share a record, and not sent yet.
    fn sealed_bytes(&self) -> usize {
        self.sealed.len() + self.gathered.len() + self.in_flight.len() - self.sent
    }

    /// What a queue's frames take.
    fn waiting_cost(&self, queue: usize) -> usize {
        self.waiting_bytes[queue] + self.waiting[queue].len() * WAITING_COST
    }

    /// Counts what the queue of a session owns, after it changed, and on a node link what waits of other nodes: what waits of this
    /// one is bounded by what may be unacknowledged.
    pub(super) fn recount(&mut self, queues: &mut Queues) {
        let now =
            if self.is_sdk { self.sealed_bytes() + self.owned_bytes } else { self.session_queue.relayed() };
        let before = std::mem::replace(&mut self.charged, now);
        match self.is_sdk {
            true => queues.recount(before, now),
            false => queues.recount_relayed(before, now),
        }
    }

    /// What it had waiting when it was counted last.
    #[cfg(test)]
    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    /// What it has charged is charged no longer.
    pub(super) fn discharge(&self, queues: &mut Queues) {
        match self.is_sdk {
            true => queues.recount(self.charged, 0),
            false => queues.recount_relayed(self.charged, 0),
        }
    }

    /// Whether the peer is to be read no further for now.
    pub(super) fn is_read_paused(&mut self, pool: QueuePool) -> bool {
        let has_much_waiting = self.is_sdk && self.session_queue.is_read_paused(self.queue_bytes_max, pool);
        self.closing.is_none() && !self.has_failed && (has_much_waiting || self.relay_pauses)
    }

    /// Whether there is room for something that the relay asks room for.
    pub(super) fn has_wanted_room(&self, queues: &Queues) -> bool {
        let has_room = |class, len: Option<usize>| {
            len.is_some_and(|len| self.admit_to_session(class, len, queues).is_ok())
        };
        self.closing.is_none()
            && (has_room(Class::Data, self.room_wanted.data)
                || has_room(Class::Ledger, self.room_wanted.ledger))
    }

    fn admit_to_session(&self, class: Class, len: usize, queues: &Queues) -> Result<(), NoRoom> {
        let begun = match self.begun {
            Some(DATA) => {
                self.waiting[DATA].front().map_or(0, |frame| frame.len() - frame.sealed + WAITING_COST)
            }
            _ => 0,
        };
        let (sealed, pool) = (self.sealed_bytes(), queues.pool());
        self.session_queue.admit(class, len, TransmitProgress { begun, sealed }, self.queue_bytes_max, pool)
    }

    fn is_anything_waiting(&self) -> bool {
        self.waiting.iter().any(|queue| !queue.is_empty())
    }

    /// TLS 1.3: moves on to new keys.
    pub(super) fn update_keys(&mut self, now: Instant) {
        if self.closing.is_some() {
            return;
        }
        let mut record = Vec::new();
        let updated = self.seal_gathered().and_then(|()| match &mut self.sealer {
            Some(sealer) => sealer.update_keys(&mut record),
            None => Ok(()),
        });
        match updated {
            Ok(()) => self.sealed.append(&self.blocks, &record),
            Err(_) => self.close(now, CloseReason::KeysExhausted, true),
        }
    }

    /// Whether [`Self::update_keys`] gives new keys.
    pub(super) fn can_update_keys(&self) -> bool {
        self.sealer.as_ref().is_some_and(Sealer::can_update_keys)
    }

    pub(super) fn blocks(&self) -> u64 {
        self.sealer.as_ref().map_or(0, Sealer::blocks)
    }

    /// Takes a frame.
    pub(super) fn send(
        &mut self,
        now: Instant,
        class: Class,
        head: &[u8],
        body: FrameRef<'_>,
        queues: &mut Queues,
    ) -> Result<Queued, NotTaken> {
        if self.closing.is_some() {
            return Err(NotTaken::Gone);
        }
        let queue = if class == Class::Control { CONTROL } else { DATA };
        let len = head.len() + body.len();
        if self.is_sdk {
            self.admit_to_session(class, len, queues).map_err(NotTaken::Full)?;
        } else {
            // Neither blocks the other: control gets by a full data queue.
            let is_full = match queue {
                CONTROL => self.waiting_cost(CONTROL) >= CONTROL_BYTES_MAX,
                _ => {
                    self.sealed_bytes() + self.waiting_cost(DATA) >= self.queue_bytes_max
                        || (class == Class::Relayed && !queues.has_room_for_relayed())
                }
            };
            if is_full {
                return Err(NotTaken::Full(NoRoom::Session));
            }
        }
        if self.unsent_bytes() == 0 {
            self.last_progress = now;
        }
        self.sent_frames += 1;
        if !self.is_anything_waiting() && len <= SEAL_AT_ONCE_MAX && self.sealed_bytes() < SEALED_AHEAD_MAX {
            if self.seal_whole(head, body).is_err() {
                // A record that is half in the buffer must not go out, and nothing after it can.
                self.close(now, CloseReason::KeysExhausted, true);
                return Err(NotTaken::Gone);
            }
            return Ok(self.queued());
        }
        let shared = if self.is_sdk { queues.share(body) } else { None };
        let frame =
            Waiting { head: SmallVec::from_slice(head), body: body.retain(), class, sealed: 0, shared };
        self.waiting_bytes[queue] += len;
        self.session_queue.add(class, len + WAITING_COST);
        self.owned_bytes += frame.owned_bytes();
        self.waiting[queue].push_back(frame);
        Ok(self.queued())
    }

    /// Where the end of all that is queued now stands. Control that overtakes it moves it by as much as that is long.
    fn queued(&self) -> Queued {
        let waiting: usize = self.waiting_bytes.iter().sum();
        let frames: usize = self.waiting.iter().map(VecDeque::len).sum();
        let records = waiting / PLAINTEXT_LEN_MAX + frames;
        let overhead = self.sealer.as_ref().map_or(0, Sealer::overhead) * records;
        Queued {
            end: self.sent_bytes + (self.sealed_bytes() + waiting + overhead) as u64,
            is_behind: frames > 0 || self.is_slow || self.sealed_bytes() > SEAL_AT_ONCE_MAX,
        }
    }

    fn seal_whole(&mut self, head: &[u8], body: FrameRef<'_>) -> Result<(), SealError> {
        let len = head.len() + body.len();
        if self.share_records && len <= PLAINTEXT_LEN_MAX {
            if self.gathered.len() + len > PLAINTEXT_LEN_MAX {
                self.seal_gathered()?;
            }
            if self.gathered.capacity() == 0 {
                self.gathered = self.blocks.take_gathered();
            }
            self.gathered.extend_from_slice(head);
            body.pieces().for_each(|piece| self.gathered.extend_from_slice(piece));
            return Ok(());
        }
        self.seal_gathered()?;
        if let FrameRef::Slice(bytes) = body
            && len <= PLAINTEXT_LEN_MAX
        {
            // A large one that lies in one piece needs no copy.
            let parts = [head, bytes];
            let parts = if head.is_empty() { &parts[1..] } else { &parts[..] };
            return self.sealed.seal(&self.blocks, self.sealer.as_mut(), parts);
        }
        self.seal_range(head, body, 0, usize::MAX).map(|_| ())
    }

    fn seal_gathered(&mut self) -> Result<(), SealError> {
        if !self.gathered.is_empty() {
            let Self { sealer, sealed, blocks, gathered, .. } = self;
            sealed.seal(blocks, sealer.as_mut(), &[gathered])?;
            gathered.clear();
        }
        Ok(())
    }

    /// Seals what waits, as far as may be ahead.
    fn seal_waiting(&mut self) -> Result<(), SealError> {
        while self.is_anything_waiting() && self.sealed_bytes() < SEALED_AHEAD_MAX {
            let first = if self.waiting[CONTROL].is_empty() { DATA } else { CONTROL };
            let queue = self.begun.unwrap_or(first);
            let Some(mut frame) = self.waiting[queue].pop_front() else { break };
            let len = frame.len();
            if frame.sealed == 0 && len <= SEAL_AT_ONCE_MAX {
                self.waiting_bytes[queue] -= len;
                self.session_queue.remove(frame.class, len + WAITING_COST);
                self.owned_bytes -= frame.owned_bytes();
                self.seal_whole(&frame.head, frame.body.as_ref())?;
                continue;
            }
            self.seal_gathered()?;
            let room = SEALED_AHEAD_MAX.saturating_sub(self.sealed_bytes()).max(1);
            let before = frame.sealed;
            frame.sealed = self.seal_range(&frame.head, frame.body.as_ref(), before, room)?;
            self.waiting_bytes[queue] -= frame.sealed - before;
            self.session_queue.remove(frame.class, frame.sealed - before);
            if frame.sealed < len {
                self.waiting[queue].push_front(frame);
                self.begun = Some(queue);
            } else {
                self.begun = None;
                self.session_queue.remove(frame.class, WAITING_COST);
                self.owned_bytes -= frame.owned_bytes();
            }
        }
        Ok(())
    }

    /// Seals bytes `from..` of a frame, about `bytes_max` of them or all. Gives up to where.
    ///
    /// Records are full but for the last; where they may be shared, one also ends with its piece, for what
    /// lies in one piece is sealed from where it lies.
    fn seal_range(
        &mut self,
        head: &[u8],
        body: FrameRef<'_>,
        from: usize,
        bytes_max: usize,
    ) -> Result<usize, SealError> {
        let Self { sealer, sealed, blocks, share_records, .. } = self;
        let len = head.len() + body.len();
        let end = from.saturating_add(bytes_max).min(len);
        // What little is left goes along.
        let end = if len - end < PLAINTEXT_LEN_MAX { len } else { end };
        sealed.reserve(blocks, end.saturating_sub(from).min(SEALED_AHEAD_MAX));
        let mut at = from;
        while at < end {
            let mut record_end = (at + PLAINTEXT_LEN_MAX).min(len);
            let mut parts: SmallVec<[&[u8]; 4]> = SmallVec::new();
            let mut offset = 0;
            for piece in std::iter::once(head).chain(body.pieces()) {
                let (start, stop) = (at.max(offset), record_end.min(offset + piece.len()));
                if start < stop {
                    parts.push(&piece[start - offset..stop - offset]);
                    if *share_records && start >= head.len() {
                        record_end = stop;
                    }
                }
                offset += piece.len();
                if offset >= record_end {
                    break;
                }
            }
            sealed.seal(blocks, sealer.as_mut(), &parts)?;
            at = record_end;
        }
        Ok(at)
    }

    /// Whether more is to be sealed and sent than others should wait for.
    pub(super) fn is_bulk(&self) -> bool {
        !self.sending && (self.is_anything_waiting() || self.sealed.len() > SEAL_AT_ONCE_MAX)
    }

    /// What to send now, if nothing is being sent. It stays where it is until [`Self::handle_sent`].
    pub(super) fn next_send(&mut self) -> Result<Option<&[u8]>, SealError> {
        if self.sending || self.has_failed || self.closing.is_some_and(|closing| closing.aborted) {
            return Ok(None);
        }
        if self.sent == self.in_flight.len() {
            // First of all, so that what is sealed now may lie where this did.
            self.in_flight.clear();
            self.sent = 0;
            self.seal_waiting()?;
            self.seal_gathered()?;
            if let Some(closing) = self.closing
                && !self.is_anything_waiting()
                && !self.close_notify_sealed
            {
                self.close_notify_sealed = true;
                if self.is_web_socket {
                    let frame = ws::frame::encode_close(closing.reason.close_code());
                    self.sealed.seal(&self.blocks, self.sealer.as_mut(), &[&frame])?;
                }
                if let Some(sealer) = &mut self.sealer {
                    let mut record = Vec::new();
                    sealer.close_notify(&mut record)?;
                    self.sealed.append(&self.blocks, &record);
                }
            }
            std::mem::swap(&mut self.in_flight, &mut self.sealed);
            if self.in_flight.len() == 0 {
                self.in_flight.give_back(&self.blocks);
                self.sealed.give_back(&self.blocks);
                self.blocks.keep_gathered(std::mem::take(&mut self.gathered));
                self.waiting = Default::default();
                return Ok(None);
            }
        }
        self.sending = true;
        Ok(Some(&self.in_flight.as_slice()[self.sent..]))
    }

    /// The kernel has sent `len` bytes.
    pub(super) fn handle_sent(&mut self, now: Instant, len: usize) {
        assert!(std::mem::take(&mut self.sending), "what is sent was being sent");
        let sent_before = self.sent;
        self.sent = (self.sent + len).min(self.in_flight.len());
        self.sent_bytes += (self.sent - sent_before) as u64;
        if self.sent > sent_before {
            // The kernel has room again only because the peer has taken something, or for a first part.
            self.last_progress = now;
        }
    }

    /// Asks the kernel what the peer's machine has taken.
    pub(super) fn note_taken(&mut self, now: Instant) {
        let untaken = self.socket.as_ref().map_or(0, |socket| untaken_bytes(socket));
        let taken = self.sent_bytes.saturating_sub(untaken as u64);
        if taken > self.taken {
            self.taken = taken;
            self.last_progress = now;
        }
    }

    /// The same at a regular look, by which a slow peer is known.
    pub(super) fn look(&mut self, now: Instant) {
        self.note_taken(now);
        self.is_slow = self.taken < self.sent_at_look;
        self.sent_at_look = self.sent_bytes;
    }

    /// Whether a regular look at the link has something to find.
    pub(super) fn needs_look(&self) -> bool {
        self.unsent_bytes() > 0 || self.is_slow || self.watches_taken || self.closing.is_some()
    }

    /// Up to where the peer was seen to have taken what was queued, and when it last was. Where [`Self::queued`] says that
    /// something ends is reckoned, with a record too many sometimes: once all is taken, so is that.
    pub(super) fn taken(&self) -> (u64, Instant) {
        let is_all_taken = self.unsent_bytes() == 0 && self.taken == self.sent_bytes;
        (if is_all_taken { u64::MAX } else { self.taken }, self.last_progress)
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
            || (self.unsent_bytes() == 0 && (self.close_notify_sealed || self.closing.is_none()))
    }

    /// For how long the peer has taken nothing of what is queued, if that is too long. A look has been taken.
    pub(super) fn stalled_for(&self, now: Instant, timeout: Duration) -> Option<Duration> {
        let stalled_for = now.saturating_duration_since(self.last_progress);
        (self.is_sdk && self.unsent_bytes() > 0 && stalled_for >= timeout).then_some(stalled_for)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        engine::testing::connection,
        tls::record::{Opened, Opener, record_len},
    };

    const KEY: LinkKey = LinkKey { index: 0, generation: 1 };

    fn transmit(is_sdk: bool, queue_bytes_max: usize) -> (Transmit, Opener) {
        let (sealer, opener) = connection();
        (Transmit::new(Instant::now(), KEY, Some(sealer), is_sdk, queue_bytes_max, Blocks::new()), opener)
    }

    fn send(transmit: &mut Transmit, class: Class, frame: &[u8]) -> Result<Queued, NotTaken> {
        let mut queues = Queues::new(usize::MAX);
        transmit.send(Instant::now(), class, &[], FrameRef::Slice(frame), &mut queues)
    }

    /// Lets the peer take everything; gives the plaintext.
    fn drain(transmit: &mut Transmit, opener: &mut Opener) -> Vec<u8> {
        drain_records(transmit, opener).concat()
    }

    /// The same record by record.
    fn drain_records(transmit: &mut Transmit, opener: &mut Opener) -> Vec<Vec<u8>> {
        let mut received = Vec::new();
        loop {
            if !transmit.sending && transmit.next_send().unwrap().is_none() {
                break;
            }
            received.extend_from_slice(&transmit.in_flight.as_slice()[transmit.sent..]);
            transmit.handle_sent(Instant::now(), usize::MAX / 2);
        }
        let (mut records, mut rest) = (Vec::new(), received.as_mut_slice());
        while let Some(len) = record_len(rest).unwrap() {
            let (record, others) = rest.split_at_mut(len);
            if let Opened::Data(data) = opener.open_in_place(record).unwrap() {
                records.push(data.to_vec());
            }
            rest = others;
        }
        records
    }

    #[test]
    fn frames_of_other_nodes_that_wait_have_a_bound_and_leave_room_for_those_of_this_one() {
        let mut transmit = transmit(false, usize::MAX).0;
        let mut queues = Queues::new(usize::MAX).with_relayed_bytes_max(1 << 20);
        let frame = vec![7; 100_000];
        let send = |transmit: &mut Transmit, queues: &mut Queues, class| {
            let sent = transmit.send(Instant::now(), class, &[], FrameRef::Slice(&frame), queues);
            transmit.recount(queues);
            sent.is_ok()
        };
        let relayed = (0..100).filter(|_| send(&mut transmit, &mut queues, Class::Relayed)).count();
        assert!((10..=30).contains(&relayed), "{relayed} frames, those that are sealed already included");
        assert!(send(&mut transmit, &mut queues, Class::Data), "its own have their room");
        assert!(!send(&mut transmit, &mut queues, Class::Relayed));
        // Another link has its part, too.
        let mut other = self::transmit(false, usize::MAX).0;
        assert!(!send(&mut other, &mut queues, Class::Relayed));
        transmit.discharge(&mut queues);
        assert!(send(&mut other, &mut queues, Class::Relayed));
    }

    #[test]
    fn once_all_is_taken_so_is_each_frame_whatever_its_end_was_reckoned_to_be() {
        let (mut transmit, mut opener) = transmit(true, 8 << 20);
        let ends: Vec<u64> =
            (0..3).map(|_| send(&mut transmit, Class::Data, &[7; 80_000]).unwrap().end).collect();
        assert!(transmit.taken().0 < ends[0]);
        drain(&mut transmit, &mut opener);
        transmit.note_taken(Instant::now());
        assert!(transmit.taken().0 >= ends[2]);
    }

    #[test]
    fn control_is_taken_and_goes_first_while_data_is_at_its_bound() {
        let (mut transmit, mut opener) = transmit(false, CONTROL_BYTES_MAX + (1 << 20));
        let data = vec![1; 1 << 20];
        let mut taken = 0;
        while send(&mut transmit, Class::Data, &data).is_ok() {
            taken += data.len();
        }
        assert!(taken > CONTROL_BYTES_MAX);
        assert!(send(&mut transmit, Class::Control, &[2; 100]).is_ok());
        let received = drain(&mut transmit, &mut opener);
        assert_eq!(received.len(), taken + 100);
        assert!(received[..100] == [2; 100]);
    }

    #[test]
    fn control_has_a_bound_of_its_own_that_leaves_room_for_data() {
        let (mut transmit, _) = transmit(false, 1 << 20);
        let control = vec![2; 1 << 20];
        let mut taken = 0;
        while send(&mut transmit, Class::Control, &control).is_ok() {
            taken += control.len();
        }
        assert!((CONTROL_BYTES_MAX..=CONTROL_BYTES_MAX + control.len()).contains(&taken));
        assert!(send(&mut transmit, Class::Data, &[1; 100]).is_ok());
    }

    #[test]
    fn what_is_in_flight_counts_as_sealed_ahead() {
        for is_sdk in [true, false] {
            let (mut transmit, mut opener) = transmit(is_sdk, 8 << 20);
            let frame = [7; 10_000];
            let mut sent = 0;
            let mut started = false;
            while send(&mut transmit, Class::Data, &frame).is_ok() {
                sent += frame.len();
                // The kernel has the first lot and takes none of it.
                if !transmit.sending && transmit.sealed_bytes() >= SEALED_AHEAD_MAX {
                    started = transmit.next_send().unwrap().is_some();
                }
                let per_record = 64;
                assert!(transmit.sealed_bytes() < SEALED_AHEAD_MAX + frame.len() + per_record);
            }
            assert!(started && sent > SEALED_AHEAD_MAX);
            assert_eq!(drain(&mut transmit, &mut opener).len(), sent);
        }
    }

    #[test]
    fn small_frames_that_wait_are_charged_what_they_cost() {
        let bound = 1 << 20;
        let (mut transmit, mut opener) = transmit(true, bound);
        let mut taken = 0;
        while send(&mut transmit, Class::Data, &[3; 42]).is_ok() {
            taken += 1;
            let memory = transmit.sealed_bytes() + transmit.waiting[DATA].len() * size_of::<Waiting>();
            assert!(memory <= bound + SEALED_AHEAD_MAX + WAITING_COST);
        }
        assert!(transmit.waiting[DATA].len() > 1_000);
        assert_eq!(drain(&mut transmit, &mut opener).len(), taken * 42);
        assert_eq!(transmit.waiting[DATA].capacity(), 0, "an idle link keeps nothing");
    }

    #[test]
    fn without_tls_what_is_sent_is_what_was_given_and_nothing_follows_it() {
        let now = Instant::now();
        let mut transmit = Transmit::new(now, KEY, None, true, 64 << 20, Blocks::new());
        transmit.share_records();
        let (mut given, mut sent) = (Vec::new(), Vec::new());
        for (number, len) in [42, 300, 16_384, 16_385, 70_000, 1 << 20, 300_000, 42].into_iter().enumerate() {
            let frame = vec![number as u8; len];
            let body = FrameRef::Slice(&frame[42..]);
            transmit.send(now, Class::Data, &frame[..42], body, &mut Queues::new(usize::MAX)).unwrap();
            given.extend(frame);
        }
        transmit.update_keys(now);
        transmit.close(now, CloseReason::Shutdown, false);
        while transmit.next_send().unwrap().is_some() {
            sent.extend_from_slice(&transmit.in_flight.as_slice()[transmit.sent..]);
            transmit.handle_sent(now, usize::MAX / 2);
        }
        assert!(sent == given);
        assert!(transmit.is_flushed());
        assert_eq!((transmit.blocks(), transmit.can_update_keys()), (0, false));
    }

    #[test]
    fn a_closing_link_sends_what_is_queued_and_then_says_so() {
        let (mut transmit, mut opener) = transmit(true, 8 << 20);
        for _ in 0..100 {
            send(&mut transmit, Class::Data, &[5; 10_000]).unwrap();
        }
        transmit.close(Instant::now(), CloseReason::ByPeer, false);
        assert_eq!(send(&mut transmit, Class::Data, &[5]), Err(NotTaken::Gone));
        assert!(!transmit.is_flushed());
        assert_eq!(drain(&mut transmit, &mut opener).len(), 1_000_000);
        assert!(transmit.is_flushed() && transmit.close_notify_sealed);
    }

    #[test]
    fn a_large_frame_goes_to_applications_in_full_records_and_to_nodes_from_where_its_pieces_lie() {
        let head = [1; 100];
        let lens = [278_500, 278_528, 100, 300_000];
        let chunks: Vec<Bytes> = (2..).zip(lens).map(|(fill, len)| Bytes::from(vec![fill; len])).collect();
        let len = chunks.iter().map(Bytes::len).sum::<usize>() - 42;
        let frame = FrameRef::Chunks { chunks: &chunks, skip: 42, len };
        let whole = [&head[..], &chunks.concat()[42..]].concat();
        for is_sdk in [true, false] {
            let (mut transmit, mut opener) = transmit(is_sdk, 8 << 20);
            for _ in 0..2 {
                let mut queues = Queues::new(usize::MAX);
                transmit.send(Instant::now(), Class::Data, &head, frame, &mut queues).unwrap();
            }
            let records = drain_records(&mut transmit, &mut opener);
            assert!(records.concat() == [&whole[..], &whole].concat());
            let (first, second) = records.split_at(records.len() / 2);
            assert_eq!(first, second);
            let is_full = |record: &Vec<u8>| record.len() == PLAINTEXT_LEN_MAX;
            if is_sdk {
                assert!(first[..first.len() - 1].iter().all(is_full));
            } else {
                // But for the one with the head, none has bytes of two pieces.
                assert!(first[1..].iter().all(|record| record.iter().all(|byte| *byte == record[0])));
                assert!(first.iter().filter(|record| !is_full(record)).count() <= lens.len() + 1);
            }
        }
    }
}
