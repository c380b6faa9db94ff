//! What comes of links: how they receive, and what becomes of it.

use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::{
    Reactor,
    link::{Ending, KIND_CALL_OFF, KIND_RECEIVE, KIND_RECEIVE_OWN, link_key, user_data},
};
use crate::{
    engine::{
        bounds::BULK_BYTES_PER_TURN,
        ring::{Completion, Operation},
    },
    relay::{CloseReason, LinkKey, Outbound},
    wire::FrameRef,
};

impl Reactor {
    pub(super) fn arm_receive(&mut self, key: LinkKey) {
        if self.io.transmit(key).is_none() {
            return;
        }
        let Some(slot) = self.slots.get_mut(key.index as usize) else { return };
        if slot.ending == Ending::Cut {
            return self.io.touch(key);
        }
        if slot.read_paused.is_some() {
            return;
        }
        let socket = slot.socket.as_raw_fd();
        let (operation, kind) = match slot.receive.own_room(&self.unfinished) {
            Some(room) => {
                let (room, len) = (room.as_mut_ptr(), room.len() as u32);
                (Operation::ReceiveInto { socket, room, len }, KIND_RECEIVE_OWN)
            }
            None => (Operation::ReceiveMany { socket }, KIND_RECEIVE),
        };
        slot.receive.receiving = true;
        // SAFETY: a slot stays, with socket and block, while `receiving` is set, and nothing reads or moves what the block
        // has room for until then.
        unsafe { self.push(operation, user_data(kind, key)) };
    }

    /// Ends a pending receive, if it is still pending, so that the link can receive in another way.
    pub(super) fn call_off_receive(&mut self, key: LinkKey, kind: u64) {
        let Some(slot) = self.slots.get(key.index as usize) else { return };
        let (socket, own_name) = (slot.socket.as_raw_fd(), user_data(KIND_CALL_OFF, key));
        let pushed = self.ring.cancel_receive(socket, user_data(kind, key), own_name);
        self.or_abort(pushed);
    }

    /// Feeds bytes that are not in a receive buffer.
    pub(super) fn take_bytes(&mut self, key: LinkKey, plaintext: &mut [u8], bytes: &mut [u8]) {
        let Self { slots, io, shard, unfinished, .. } = self;
        let Some(slot) = slots.get_mut(key.index as usize) else { return };
        let now = io.now;
        let mut frames = 0;
        let mut handle = |frame: FrameRef<'_>| {
            frames += 1;
            shard.handle_frame(now, key, frame, io);
            !io.is_ending(key)
        };
        let taken = slot
            .receive
            .handle_plaintext(now, unfinished, plaintext, &mut handle)
            .and_then(|_| slot.receive.handle_bytes(now, unfinished, bytes, &mut handle));
        slot.received_frames += frames;
        if let Some(wanted) = slot.receive.take_wanted(unfinished) {
            io.answer_web_socket(shard, key, wanted);
        }
        if let Err(reason) = taken {
            io.end_of_input(key, reason);
        }
    }

    /// Stops reading a link for which too much waits, or resumes.
    pub(super) fn update_reading(&mut self, key: LinkKey) {
        let now = self.io.now;
        let pool = self.io.queues.pool();
        let Some(pause) = self.io.transmit(key).map(|transmit| transmit.is_read_paused(pool)) else { return };
        let Some(slot) = self.slots.get_mut(key.index as usize) else { return };
        match slot.read_paused {
            None if pause => {
                slot.read_paused = Some(now);
                self.counters.reads_paused.increment();
                if slot.receive.receiving && !slot.receive.called_off {
                    slot.receive.called_off = true;
                    let kind = if slot.receive.is_own() { KIND_RECEIVE_OWN } else { KIND_RECEIVE };
                    self.call_off_receive(key, kind);
                }
            }
            Some(since) if !pause => {
                slot.read_paused = None;
                slot.receive.delay(now.saturating_duration_since(since));
                if !slot.receive.receiving {
                    self.arm_receive(key);
                }
            }
            _ => {}
        }
    }

    /// What came of large frames, as much as one turn may take. What came of others, and the answers to it, go first.
    pub(super) fn handle_bulk_received(&mut self) {
        self.flush_dirty();
        self.submit();
        let mut received = 0;
        while received < BULK_BYTES_PER_TURN
            && let Some(completion) = self.bulk_received.pop_front()
        {
            received += usize::try_from(completion.result).unwrap_or(0);
            self.handle_receive_completion(completion);
        }
    }

    pub(super) fn handle_receive_completion(&mut self, completion: Completion) {
        let Completion { user_data, result, .. } = completion;
        let key = link_key(user_data);
        if let Some(id) = completion.buffer() {
            self.ring.take_buffer(id);
            // One that comes with an error is ours again, too.
            if let Ok(len) = usize::try_from(result) {
                self.handle_received(key, Some(id), len);
            }
            self.ring.give_back(id);
        }
        if completion.has_more() {
            return;
        }
        if self.io.transmit(key).is_none() {
            return;
        }
        let Some(slot) = self.slots.get_mut(key.index as usize) else { return };
        slot.receive.receiving = false;
        let called_off = std::mem::take(&mut slot.receive.called_off);
        if user_data >> 56 == KIND_RECEIVE_OWN {
            if let Ok(len) = usize::try_from(result) {
                self.handle_received(key, None, len);
            }
            if called_off && let Some(slot) = self.slots.get_mut(key.index as usize) {
                slot.receive.end_own(self.io.now, &self.unfinished);
            }
        }
        let out_of_buffers = result == -Errno::NOBUFS.raw_os_error();
        if out_of_buffers {
            self.counters.receive_buffers_exhausted.increment();
        }
        match result {
            // Re-armed when this turn's buffers are back.
            _ if result > 0 || out_of_buffers => self.rearm.push(key),
            _ if called_off && result == -Errno::CANCELED.raw_os_error() => self.rearm.push(key),
            0 => {
                let is_node = self.slots.get(key.index as usize).is_some_and(|slot| !slot.is_sdk);
                let has_failed = self.io.transmit(key).is_some_and(|transmit| transmit.has_failed);
                let reason = match is_node {
                    _ if has_failed => CloseReason::Broken,
                    true => CloseReason::Vanished,
                    false => CloseReason::ByPeer,
                };
                self.io.end_of_input(key, reason);
            }
            _ => self.io.end_of_input(key, CloseReason::Broken),
        }
    }

    /// Bytes of a link: in a receive buffer, or in the link's own block.
    pub(super) fn handle_received(&mut self, key: LinkKey, id: Option<u16>, len: usize) {
        let Self { slots, io, shard, unfinished, ring, counters, came, .. } = self;
        if len == 0 || io.is_ending(key) {
            return;
        }
        let Some(slot) = slots.get_mut(key.index as usize) else { return };
        let now = io.now;
        counters.received_bytes.add(len as u64);
        slot.received_bytes += len as u64;
        shard.handle_activity(now, key);
        let mut frames = 0;
        let handle = |frame: FrameRef<'_>| {
            frames += 1;
            shard.handle_frame(now, key, frame, io);
            !io.is_ending(key)
        };
        let taken = match id {
            Some(id) => slot.receive.handle_bytes(now, unfinished, ring.filled(id, len), handle),
            None => slot.receive.handle_own(now, unfinished, len, handle),
        };
        slot.received_frames += frames;
        // A part of a frame is something, too.
        *came += (frames as usize).max(1);
        if slot.receive.take_update_request()
            && let Some(transmit) = io.transmit(key)
        {
            transmit.update_keys(now);
            counters.keys_updated.increment();
            io.touch(key);
        }
        if let Some(wanted) = slot.receive.take_wanted(unfinished) {
            io.answer_web_socket(shard, key, wanted);
        }
        if let Err(reason) = taken {
            io.end_of_input(key, reason);
        }
        let is_receiving_long = slot.receive.is_receiving_long();
        if (is_receiving_long || slot.was_receiving_long)
            && let Some(transmit) = io.transmit(key)
        {
            transmit.is_receiving_long = is_receiving_long;
        }
        slot.was_receiving_long = is_receiving_long;
        if is_receiving_long
            && slot.is_sdk
            && slot.long_told_after != Some(slot.received_frames)
            && let Some(head) = slot.receive.long_head()
        {
            slot.long_told_after = Some(slot.received_frames);
            shard.handle_frame_begun(now, key, &head, io);
        }
        // A receive that is called off may still bring something.
        let may_call_off = slot.receive.receiving && !slot.receive.called_off && !io.is_ending(key);
        let call_off = may_call_off && slot.receive.wants_own() && {
            let begun = slot.receive.begin_own();
            slot.receive.called_off = begun;
            if !begun {
                counters.own_receives_refused.increment();
            }
            begun
        };
        if call_off {
            self.call_off_receive(key, KIND_RECEIVE);
        }
        if self.unfinished.is_over() {
            self.drop_largest_frame();
        }
    }

    /// The pool of unfinished frames is full: the link that holds most of it goes, of those of all reactors that have not
    /// ended already.
    pub(super) fn drop_largest_frame(&mut self) {
        let own = usize::from(self.id.0);
        let (bytes, key) = self.largest_frame().unzip();
        let holder = self.unfinished.note_largest(own, bytes.unwrap_or(0));
        if holder != own {
            // That one looks again, and passes it on if it has no such link any more.
            self.unfinished.ask(holder);
            return self.mesh.sleepers[holder].nudge();
        }
        let Some(key) = key else { return };
        // At once: until the kernel is done with the link, others would have to go too.
        if let Some(slot) = self.slots.get_mut(key.index as usize) {
            slot.receive.abandon(&self.unfinished);
        }
        self.counters.unfinished_frames_dropped.increment();
        self.io.abort(key, CloseReason::FramePoolFull);
        self.note_largest_frame();
    }

    /// The link that holds most bytes of an unfinished frame, and how many.
    pub(super) fn largest_frame(&self) -> Option<(usize, LinkKey)> {
        let links = self.slots.iter().zip(&self.io.transmits).filter_map(|((_, slot), (_, transmit))| {
            let progress = slot.receive.progress();
            (progress > 0 && transmit.closing.is_none()).then_some((progress, transmit.key))
        });
        links.max_by_key(|&(progress, _)| progress)
    }

    /// Lets the other reactors know how much that is.
    pub(super) fn note_largest_frame(&mut self) {
        let bytes = self.largest_frame().map_or(0, |(bytes, _)| bytes);
        self.unfinished.note_largest(usize::from(self.id.0), bytes);
    }
}
