//! What the links' owner does for its shard.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use ahash::AHashMap;
use slab::Slab;

use super::{AnswerCallback, registry_queue::RegistryQueue};
use crate::{
    engine::{
        LinkEvent,
        mesh::{Item, MeshSender},
        queues::Queues,
        receive::Wanted,
        transmit::{NotTaken, Transmit},
    },
    relay::{
        Class, CloseReason, LedgerDial, LinkKey, LinkProgress, MeshMessage, Outbound, Queued, ReactorId,
        RegistryInput, SendError, counters::Counters, diagnostic::Answer, session_queue::NoRoom,
        shard::Shard,
    },
    wire::{FrameRef, ws},
};

/// What the links' owner does for its shard.
pub(super) struct Io {
    pub(super) now: Instant,
    pub(super) transmits: Slab<Transmit>,
    pub(super) dirty: Vec<u32>,
    /// Links with much to send, which wait for their turn.
    pub(super) bulk: VecDeque<u32>,
    pub(super) mesh: MeshSender,
    pub(super) registry: RegistryQueue,
    pub(super) reactor: ReactorId,
    pub(super) counters: Arc<Counters>,
    /// Who waits for an answer that other nodes are to give, by its id; as many as the shard has open.
    pub(super) asking: AHashMap<u64, AnswerCallback>,
    /// What the outgoing queues of all sessions of this reactor take.
    pub(super) queues: Queues,
    /// Links whose queues the relay wants to know room in.
    pub(super) watching_room: Vec<LinkKey>,
    pub(super) events: Arc<dyn Fn(LinkEvent) + Send + Sync>,
}

impl Io {
    pub(super) fn transmit(&mut self, key: LinkKey) -> Option<&mut Transmit> {
        self.transmits.get_mut(key.index as usize).filter(|transmit| transmit.key == key)
    }

    /// Counts again what a link's queue takes, after it changed.
    pub(super) fn recount(&mut self, index: u32) {
        if let Some(transmit) = self.transmits.get_mut(index as usize) {
            transmit.recount(&mut self.queues);
        }
    }

    pub(super) fn touch(&mut self, key: LinkKey) {
        if let Some(transmit) = self.transmit(key)
            && !std::mem::replace(&mut transmit.is_dirty, true)
        {
            self.dirty.push(key.index);
        }
    }

    pub(super) fn end(&mut self, key: LinkKey, reason: CloseReason, aborted: bool) {
        let now = self.now;
        if let Some(transmit) = self.transmit(key) {
            transmit.close(now, reason, aborted);
            self.touch(key);
        }
    }

    /// What a link's peer sends has come to its end, in order or not.
    pub(super) fn end_of_input(&mut self, key: LinkKey, reason: CloseReason) {
        // It sends no more, and may read on: what is queued for it still goes out.
        let has_failed = self.transmit(key).is_some_and(|transmit| transmit.has_failed);
        let reads_on = !has_failed
            && matches!(reason, CloseReason::ByPeer | CloseReason::Vanished | CloseReason::WebSocket(_));
        self.end(key, reason, !reads_on);
    }

    /// Does what the peer of a WebSocket wants beside frames.
    pub(super) fn answer_web_socket(&mut self, shard: &mut Shard, key: LinkKey, wanted: Wanted) {
        match wanted {
            Wanted::Upgrade(request) => {
                shard.handle_upgrade(self.now, key, &request, self);
                let is_granted = !self.is_ending(key);
                if let Some(transmit) = self.transmit(key) {
                    transmit.is_web_socket = is_granted;
                }
            }
            // So little is taken always; whoever does not read is read no further, as with all replies.
            Wanted::Pong(payload) => {
                let pong = ws::frame::encode_pong(&payload);
                _ = self.send(key, Class::Control, &pong, FrameRef::EMPTY);
            }
        }
    }

    pub(super) fn is_ending(&mut self, key: LinkKey) -> bool {
        self.transmit(key).is_none_or(|transmit| transmit.closing.is_some())
    }
}

impl Outbound for Io {
    fn send(
        &mut self,
        key: LinkKey,
        class: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        let Self { now, transmits, dirty, counters, queues, .. } = self;
        let transmit = transmits.get_mut(key.index as usize);
        let transmit = transmit.filter(|transmit| transmit.key == key).ok_or(SendError::Gone)?;
        let sent = transmit.send(*now, class, head, body, queues);
        transmit.recount(queues);
        if !std::mem::replace(&mut transmit.is_dirty, true) {
            dirty.push(key.index);
        }
        sent.map_err(|why| match why {
            NotTaken::Gone => SendError::Gone,
            NotTaken::Full(why) => {
                if why == NoRoom::Pool {
                    counters.queues_full.increment();
                }
                SendError::Full
            }
        })
    }

    fn progress(&mut self, key: LinkKey) -> Option<LinkProgress> {
        let (now, pool) = (self.now, self.queues.pool());
        let transmit = self.transmit(key)?;
        transmit.note_taken(now);
        let (taken, last_taken) = transmit.taken();
        let (is_receiving_long, is_read_paused) = (transmit.is_receiving_long, transmit.is_read_paused(pool));
        Some(LinkProgress { taken, last_taken, is_receiving_long, is_read_paused })
    }

    fn watch_taken(&mut self, key: LinkKey) {
        if let Some(transmit) = self.transmit(key) {
            transmit.watches_taken = true;
        }
    }

    fn watch_room(&mut self, key: LinkKey, class: Class, len: usize) {
        if let Some(transmit) = self.transmit(key)
            && !transmit.room_wanted.replace(class, len)
        {
            self.watching_room.push(key);
        }
    }

    fn dial_ledger(&mut self, dial: LedgerDial) {
        (self.events)(LinkEvent::DialLedger { reactor: self.reactor, dial });
    }

    fn pause_reading(&mut self, key: LinkKey, pause: bool) {
        if let Some(transmit) = self.transmit(key) {
            transmit.relay_pauses = pause;
            self.touch(key);
        }
    }

    fn to_reactor(&mut self, to: ReactorId, message: MeshMessage, frame: FrameRef<'_>) {
        self.mesh.send(to, Item { message, frame: frame.retain() });
    }

    fn to_registry(&mut self, input: RegistryInput) -> bool {
        self.registry.send(input)
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        if let Some(reply) = self.asking.remove(&id) {
            reply(answer);
        }
    }

    fn share_records(&mut self, key: LinkKey) {
        if let Some(transmit) = self.transmit(key) {
            transmit.share_records();
        }
    }

    fn close(&mut self, key: LinkKey, reason: CloseReason) {
        self.end(key, reason, false);
    }

    fn abort(&mut self, key: LinkKey, reason: CloseReason) {
        self.end(key, reason, true);
    }
}
