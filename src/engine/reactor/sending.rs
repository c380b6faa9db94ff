//! What goes out over links, and how they end.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use super::{
    Reactor,
    link::{Ending, KIND_SEND, user_data},
    outbound::Io,
};
use crate::{
    engine::{
        LinkClosed, LinkEvent,
        bounds::{BULK_BYTES_PER_TURN, LINGER},
        ring::Operation,
        transmit::RoomWanted,
    },
    relay::{CloseReason, LinkKey},
};

impl Reactor {
    /// Tells the relay where there is room now that it waits for: once for each link, for whoever still waits then has
    /// found none.
    pub(super) fn tell_room(&mut self) {
        for key in std::mem::take(&mut self.io.watching_room) {
            let Io { transmits, queues, watching_room, .. } = &mut self.io;
            let transmit = transmits.get_mut(key.index as usize);
            let Some(transmit) = transmit.filter(|transmit| transmit.key == key) else { continue };
            if transmit.has_wanted_room(queues) {
                transmit.room_wanted = RoomWanted::default();
                self.shard.handle_room(self.io.now, key, &mut self.io);
            } else {
                watching_room.push(key);
            }
        }
    }

    /// Seals and sends for every link that has something new, and lets go of links that are done.
    pub(super) fn flush(&mut self) {
        self.flush_dirty();
        if !self.io.watching_room.is_empty() {
            self.tell_room();
            self.flush_dirty();
        }
        if !self.io.bulk.is_empty() {
            self.flush_bulk();
            self.flush_dirty();
        }
    }

    /// What is little goes at once; links with much wait for their turn.
    pub(super) fn flush_dirty(&mut self) {
        while let Some(index) = self.io.dirty.pop() {
            match self.io.transmits.get(index as usize) {
                Some(transmit) if transmit.is_bulk() => self.io.bulk.push_back(index),
                _ => {
                    self.flush_link(index);
                }
            }
        }
    }

    /// Seals and sends for links with much to send, one after the other, as much as one turn may take. What is little has
    /// left before.
    pub(super) fn flush_bulk(&mut self) {
        self.submit();
        let mut sent = 0;
        while sent < BULK_BYTES_PER_TURN
            && let Some(index) = self.io.bulk.pop_front()
        {
            sent += self.flush_link(index);
        }
    }

    /// Seals and sends for a link; gives how many bytes.
    pub(super) fn flush_link(&mut self, index: u32) -> usize {
        let Some(transmit) = self.io.transmits.get_mut(index as usize) else { return 0 };
        transmit.is_dirty = false;
        let key = transmit.key;
        let Some(slot) = self.slots.get(index as usize) else { return 0 };
        let mut sent = 0;
        match transmit.next_send() {
            Ok(Some(bytes)) => {
                sent = bytes.len();
                let (socket, bytes) = (slot.socket.as_raw_fd(), bytes.as_ptr());
                let operation = Operation::Send { socket, bytes, len: sent as u32 };
                // SAFETY: a slot stays, with its socket, while its link is `sending`, and so does the link's memory, which is
                // neither moved nor written to until `handle_sent`.
                unsafe { self.push(operation, user_data(KIND_SEND, key)) };
                self.sends += 1;
            }
            Ok(None) => {}
            Err(_) => transmit.close(self.io.now, CloseReason::KeysExhausted, true),
        }
        self.io.recount(index);
        self.update_reading(key);
        self.advance_closing(key);
        sent
    }

    /// A closing link: shut down once all is sent, gone once the kernel is done with it.
    pub(super) fn advance_closing(&mut self, key: LinkKey) {
        let Some(transmit) = self.io.transmit(key) else { return };
        let Some(closing) = transmit.closing else { return };
        let (flushed, sending) = (transmit.is_flushed(), transmit.sending);
        let Some(slot) = self.slots.get_mut(key.index as usize) else { return };
        // What the peer still sends is dropped.
        slot.receive.abandon(&self.unfinished);
        if closing.aborted && slot.ending != Ending::Cut {
            slot.ending = Ending::Cut;
            // What the peer has not taken is freed at once, and it is told by a reset.
            let _ = rustix::net::sockopt::set_socket_linger(&slot.socket, Some(Duration::ZERO));
            // Fails only if the peer has closed already.
            let _ = rustix::net::shutdown(slot.socket.as_fd(), rustix::net::Shutdown::Both);
        } else if flushed && !sending && slot.ending == Ending::No {
            let until = self.io.now + LINGER;
            slot.ending = Ending::Lingers(until);
            self.next_sweep = self.next_sweep.min(until);
            let _ = rustix::net::shutdown(slot.socket.as_fd(), rustix::net::Shutdown::Write);
        }
        if slot.ending != Ending::No && !slot.receive.receiving && !sending {
            let token = slot.token;
            self.ring.let_go(slot.socket.as_raw_fd());
            self.slots.remove(key.index as usize);
            self.io.transmits.remove(key.index as usize).discharge(&mut self.io.queues);
            self.shard.handle_link_down(self.io.now, key, closing.reason, &mut self.io);
            (self.events)(LinkEvent::Closed(LinkClosed { token, reason: closing.reason }));
        }
    }

    pub(super) fn handle_sent(&mut self, key: LinkKey, result: i32) {
        let now = self.io.now;
        let Some(transmit) = self.io.transmit(key) else { return };
        match usize::try_from(result) {
            Ok(len) => {
                transmit.handle_sent(now, len);
                self.counters.sent_bytes.add(len as u64);
            }
            Err(_) => {
                transmit.handle_sent(now, 0);
                transmit.has_failed = true;
                let slot = self.slots.get(key.index as usize);
                let reading = slot.filter(|slot| slot.read_paused.is_none() && transmit.closing.is_none());
                if let Some(slot) = reading {
                    // A peer that has closed in order may be gone before its last record is read here. The receive ends once all is
                    // read that came, and then the link does.
                    let _ = rustix::net::shutdown(slot.socket.as_fd(), rustix::net::Shutdown::Both);
                } else {
                    transmit.close(now, CloseReason::Broken, true);
                }
            }
        }
        self.io.recount(key.index);
        self.io.touch(key);
    }
}
