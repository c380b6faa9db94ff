//! A look at all links every half second: stalls, overdue frames, used-up keys, closing.

use std::{os::fd::AsFd, sync::atomic::Ordering::Relaxed};

use super::{
    Reactor,
    link::{Ending, KIND_RECEIVE_OWN},
};
use crate::{
    engine::{
        LinkEvent,
        bounds::{CLOSE_WITHIN, LINGER, REPLACE_WITHIN},
        descriptor::untaken_bytes,
    },
    relay::{CloseReason, LinkKey, Outbound},
};

impl Reactor {
    /// Looks at all links.
    pub(super) fn sweep(&mut self) {
        self.blocks.trim();
        self.shard.forget_old_traces();
        self.shard.count_usage();
        let now = self.io.now;
        let dropped = self.dropped[usize::from(self.id.0)].load(Relaxed);
        self.counters.registry_frames_dropped.set(dropped);
        self.counters.queues_bytes.set(self.io.queues.pool().bytes as u64);
        self.note_largest_frame();
        let stall_timeout = self.shared.settings.stall_timeout;
        let keys: Vec<LinkKey> = self.io.transmits.iter().map(|(_, transmit)| transmit.key).collect();
        for key in keys {
            let Some(transmit) = self.io.transmits.get_mut(key.index as usize) else { continue };
            if transmit.needs_look() {
                transmit.look(now);
                let (taken, _) = transmit.taken();
                if std::mem::take(&mut transmit.watches_taken) {
                    self.shard.handle_taken(now, key, taken, &mut self.io);
                }
            }
            let Some(slot) = self.slots.get_mut(key.index as usize) else { continue };
            let Some(transmit) = self.io.transmits.get_mut(key.index as usize) else { continue };
            let (_, last_taken) = transmit.taken();
            if let Some(closing) = &mut transmit.closing {
                // Whoever only reads on is given the time that one has who takes nothing; a link that this node ends is not.
                let patience =
                    if closing.reason == CloseReason::ByPeer { stall_timeout } else { CLOSE_WITHIN };
                let deadline = closing.deadline.max(last_taken + patience);
                match slot.ending {
                    Ending::No => closing.aborted |= now >= deadline,
                    Ending::Lingers(until) if now >= until => {
                        if now < deadline && untaken_bytes(&slot.socket) > 0 {
                            slot.ending = Ending::Lingers(now + LINGER);
                        } else {
                            slot.ending = Ending::Cut;
                            let _ = rustix::net::shutdown(slot.socket.as_fd(), rustix::net::Shutdown::Both);
                        }
                    }
                    Ending::Lingers(until) => self.next_sweep = self.next_sweep.min(until),
                    Ending::Cut => {}
                }
                self.io.touch(key);
                continue;
            }
            if slot.receive.is_own_idle() && slot.receive.receiving && !slot.receive.called_off {
                slot.receive.called_off = true;
                self.call_off_receive(key, KIND_RECEIVE_OWN);
            }
            let Some(slot) = self.slots.get_mut(key.index as usize) else { continue };
            let Some(transmit) = self.io.transmits.get_mut(key.index as usize) else { continue };
            if slot.read_paused.is_none() && slot.receive.is_overdue(now) {
                self.io.abort(key, CloseReason::FrameUnfinished);
            } else if let Some(stalled_for) = transmit.stalled_for(now, stall_timeout) {
                let unsent_bytes = transmit.unsent_bytes();
                self.shard.warn_stalled(now, key, stalled_for, unsent_bytes);
                self.io.abort(key, CloseReason::Stalled);
            } else {
                self.check_keys(key);
            }
        }
    }

    /// New keys for a link, or a new link, or its end, when its keys are used up.
    pub(super) fn check_keys(&mut self, key: LinkKey) {
        let now = self.io.now;
        let limits = self.settings.keys;
        let Some(slot) = self.slots.get_mut(key.index as usize) else { return };
        let Some(transmit) = self.io.transmits.get_mut(key.index as usize) else { return };
        let updatable = transmit.can_update_keys();
        if updatable && transmit.blocks() >= limits.node_blocks_max {
            transmit.update_keys(now);
            self.counters.keys_updated.increment();
            self.io.touch(key);
            return;
        }
        let blocks = slot.receive.blocks().max(transmit.blocks());
        let blocks_max = match (slot.is_sdk, updatable) {
            (true, _) => limits.sdk_blocks_max,
            (false, false) => limits.node_blocks_max,
            // The peer renews its own, and may be a little late.
            (false, true) => limits.node_blocks_max.saturating_mul(2),
        };
        if blocks < blocks_max {
            if slot.is_sdk
                && blocks >= limits.sdk_blocks_logged
                && !std::mem::replace(&mut slot.rekey_warned, true)
            {
                self.shard.warn_keys_exhausted(now, key);
            }
            return;
        }
        let Some(since) = slot.rekey_due_since else {
            slot.rekey_due_since = Some(now);
            self.shard.handle_rekey_due(key);
            if !slot.is_sdk {
                (self.events)(LinkEvent::RekeyDue { token: slot.token });
            }
            return;
        };
        let over = now.saturating_duration_since(since);
        let done = match slot.is_sdk {
            true => self.shard.is_link_quiet(key) || over >= self.shared.settings.request_timeout,
            false => over >= REPLACE_WITHIN,
        };
        if done {
            self.io.close(key, CloseReason::KeysExhausted);
        }
    }
}
