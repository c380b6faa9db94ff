//! One reactor: a thread with a ring that owns its links and its shard.
//!
//! A turn: take what other reactors, the door and the registry sent; do what time asks for; seal and
//! send what is due; then wait for completions, and hand what arrived to the shard.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::io::Errno;
use tracing::{debug, error};

use super::{
    EngineSettings, LinkClosed, LinkPage, LinkReport, NewLink,
    assemble::{FrameBounds, UnfinishedFrames},
    buffers::{Buffers, GROUP},
    mesh::{Item, Mesh, MeshSender},
    receive::Receive,
    ring::{self, EngineError},
    transmit::Transmit,
};
use crate::{
    relay::{
        Class, CloseReason, LinkKey, LinkUp, MeshMessage, Outbound, ReactorId, RegistryInput, RegistryOutput,
        SendError, Shared, counters::Counters, shard::Shard,
    },
    wire::{FrameRef, node, sdk},
};

/// Completions handled before the other sources get their turn.
const COMPLETIONS_PER_TURN: usize = 1_024;
/// Messages of one other reactor handled in one turn.
const MESH_PER_TURN: usize = 1_024;
/// How often all links are looked at: stalls, overdue frames, worn keys, closing.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Requests for state or JSON-RPC that may wait for the registry; further ones are refused.
const REGISTRY_QUEUE_MAX: usize = 16_384;
/// Slots of links that are looked at for one report; there is at most one report a turn.
const REPORT_SLOTS_MAX: u32 = 256;
/// AES blocks per key: a node link is replaced there …
const NODE_KEY_BLOCKS_MAX: u64 = 1 << 34;
/// … and a link to an application, which cannot get new keys, is logged …
const SDK_KEY_BLOCKS_LOGGED: u64 = 1 << 40;
/// … and closed.
const SDK_KEY_BLOCKS_MAX: u64 = 1 << 44;

const KIND_WAKE: u64 = 0;
const KIND_RECEIVE: u64 = 1;
const KIND_SEND: u64 = 2;

/// What the door, the registry and the engine tell a reactor.
pub(super) enum Command {
    Adopt(Box<NewLink>),
    Registry(RegistryOutput),
    ReportLinks { from: u32, reply: ReportReply },
    Drain,
    CloseAll,
}

/// Takes a report, on the reactor's thread.
pub type ReportReply = Box<dyn FnOnce(LinkPage) + Send>;

/// What the links' owner does for its shard.
struct Io {
    now: Instant,
    transmits: Vec<Option<Transmit>>,
    dirty: Vec<u32>,
    mesh: MeshSender,
    registry: Sender<RegistryInput>,
}

impl Io {
    fn transmit(&mut self, key: LinkKey) -> Option<&mut Transmit> {
        self.transmits.get_mut(key.index as usize)?.as_mut().filter(|transmit| transmit.key == key)
    }

    fn touch(&mut self, key: LinkKey) {
        if let Some(transmit) = self.transmit(key)
            && !std::mem::replace(&mut transmit.is_dirty, true)
        {
            self.dirty.push(key.index);
        }
    }

    fn end(&mut self, key: LinkKey, reason: CloseReason, aborted: bool) {
        let now = self.now;
        if let Some(transmit) = self.transmit(key) {
            transmit.close(now, reason, aborted);
            self.touch(key);
        }
    }

    fn is_ending(&mut self, key: LinkKey) -> bool {
        self.transmit(key).is_none_or(|transmit| transmit.closing.is_some())
    }
}

impl Outbound for Io {
    fn send(&mut self, key: LinkKey, class: Class, head: &[u8], body: FrameRef<'_>) -> Result<(), SendError> {
        let now = self.now;
        let sent = self.transmit(key).ok_or(SendError::Gone)?.send(now, class, head, body);
        self.touch(key);
        sent
    }

    fn to_reactor(&mut self, to: ReactorId, message: MeshMessage, frame: FrameRef<'_>) {
        self.mesh.send(to, Item { message, frame: frame.retain() });
    }

    fn to_registry(&mut self, input: RegistryInput) -> bool {
        let refusable = matches!(input, RegistryInput::State { .. } | RegistryInput::Rpc { .. });
        if refusable && self.registry.len() >= REGISTRY_QUEUE_MAX {
            return false;
        }
        // The registry outlives the reactors.
        self.registry.send(input).is_ok()
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

/// What belongs to a link beside its sending side.
struct Slot {
    receive: Receive,
    token: u64,
    is_sdk: bool,
    shut_down: bool,
    worn_logged: bool,
}

pub(super) struct Reactor {
    id: ReactorId,
    // The ring goes first: the kernel must be done with the buffers before they go.
    ring: IoUring,
    buffers: Buffers,
    shard: Shard,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    settings: EngineSettings,
    slots: Vec<Option<Slot>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    io: Io,
    mesh: Arc<Mesh>,
    inbox: Receiver<Command>,
    /// Where the kernel puts the eventfd's counter; never freed, since the read outlives the reactor.
    wake_counter: &'static mut u64,
    wake_fd: i32,
    unfinished: Arc<UnfinishedFrames>,
    closed: Arc<dyn Fn(LinkClosed) + Send + Sync>,
    drained: Arc<AtomicBool>,
    /// Links whose receive ended because buffers ran out.
    rearm: Vec<LinkKey>,
    next_sweep: Instant,
    stopping: bool,
    completions: Vec<(u64, i32, u32)>,
}

pub(super) struct ReactorParts {
    pub(super) id: ReactorId,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: EngineSettings,
    pub(super) mesh: Arc<Mesh>,
    pub(super) inbox: Receiver<Command>,
    pub(super) registry: Sender<RegistryInput>,
    pub(super) wake_fd: i32,
    pub(super) unfinished: Arc<UnfinishedFrames>,
    pub(super) closed: Arc<dyn Fn(LinkClosed) + Send + Sync>,
    pub(super) drained: Arc<AtomicBool>,
    pub(super) seed: u64,
}

impl Reactor {
    /// Must be called on the thread that runs it.
    pub(super) fn new(parts: ReactorParts) -> Result<Self, EngineError> {
        let now = Instant::now();
        let ring = ring::build(parts.settings.ring_entries)?;
        let buffers =
            Buffers::register(&ring, parts.settings.receive_buffers, parts.settings.receive_buffer_len)?;
        let mut reactor = Self {
            id: parts.id,
            ring,
            buffers,
            shard: Shard::new(parts.shared.clone(), parts.id, parts.seed, now),
            counters: parts.shared.counters[usize::from(parts.id.0)].clone(),
            shared: parts.shared,
            settings: parts.settings,
            slots: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            io: Io {
                now,
                transmits: Vec::new(),
                dirty: Vec::new(),
                mesh: MeshSender::new(parts.mesh.clone(), parts.id),
                registry: parts.registry,
            },
            mesh: parts.mesh,
            inbox: parts.inbox,
            wake_counter: Box::leak(Box::new(0)),
            wake_fd: parts.wake_fd,
            unfinished: parts.unfinished,
            closed: parts.closed,
            drained: parts.drained,
            rearm: Vec::new(),
            next_sweep: now + SWEEP_INTERVAL,
            stopping: false,
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN),
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    /// Runs until it was told to close all links and they are gone.
    pub(super) fn run(mut self) {
        let mut idle_since: Option<Instant> = None;
        while !(self.stopping && self.slots.iter().all(Option::is_none)) {
            self.io.now = Instant::now();
            let mut busy = self.handle_mesh();
            busy |= self.handle_inbox();
            self.handle_time();
            self.flush();
            self.io.mesh.flush();
            let backed_up = self.io.mesh.is_backed_up();
            if busy || backed_up {
                idle_since = None;
                self.enter(Some(Duration::ZERO));
            } else if self.spins(&mut idle_since) {
                self.enter(Some(Duration::ZERO));
            } else {
                self.sleep();
            }
            if backed_up {
                // Nothing more is taken in until the others have room.
                std::thread::yield_now();
            } else if self.handle_completions() {
                idle_since = None;
            }
        }
    }

    fn spins(&self, idle_since: &mut Option<Instant>) -> bool {
        if self.settings.spin.is_zero() {
            return false;
        }
        let since = *idle_since.get_or_insert(self.io.now);
        self.io.now.saturating_duration_since(since) < self.settings.spin
    }

    fn sleep(&mut self) {
        let sleeper = self.mesh.clone();
        let sleeper = &sleeper.sleepers[usize::from(self.id.0)];
        sleeper.prepare_sleep();
        if self.mesh.is_empty_for(self.id) && self.inbox.is_empty() {
            let due = self.shard.poll_timeout().map_or(self.next_sweep, |due| due.min(self.next_sweep));
            self.enter(Some(due.saturating_duration_since(Instant::now())));
        }
        sleeper.awake();
    }

    /// Submits, and waits for a completion at most so long.
    fn enter(&mut self, wait: Option<Duration>) {
        let timeout = types::Timespec::from(wait.unwrap_or_default());
        let args = types::SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                // Time is up, a signal came, or completions wait to be taken first.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => {}
                _ => {
                    error!(%error, "io_uring_enter failed, the node cannot go on");
                    std::process::abort();
                }
            },
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: callers pass entries whose memory (send buffers, the wake counter, the buffer ring)
            // and descriptors stay until their completion has been handled.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            if let Err(error) = self.ring.submit() {
                debug!(%error, "submitting early");
                std::thread::yield_now();
            }
        }
    }

    fn arm_wake(&mut self) {
        let target = (&raw mut *self.wake_counter).cast::<u8>();
        let entry = opcode::Read::new(types::Fd(self.wake_fd), target, 8).build().user_data(KIND_WAKE << 56);
        self.push(&entry);
    }

    fn handle_mesh(&mut self) -> bool {
        let mut any = false;
        for from in 0..self.shared.reactors {
            let from = ReactorId(from);
            for _ in 0..MESH_PER_TURN {
                let Some(item) = self.mesh.pop(from, self.id) else { break };
                any = true;
                self.shard.handle_mesh(self.io.now, from, item.message, item.frame.as_ref(), &mut self.io);
            }
        }
        any
    }

    fn handle_inbox(&mut self) -> bool {
        let mut any = false;
        while let Ok(command) = self.inbox.try_recv() {
            any = true;
            match command {
                Command::Adopt(link) => self.adopt(*link),
                Command::Registry(output) => self.shard.handle_registry(self.io.now, output, &mut self.io),
                Command::ReportLinks { from, reply } => {
                    reply(self.report_links(from));
                    // The rest has time until the next turn.
                    return true;
                }
                Command::Drain => self.shard.handle_drain(self.io.now, &mut self.io),
                Command::CloseAll => {
                    self.stopping = true;
                    let keys: Vec<LinkKey> = self.io.transmits.iter().flatten().map(|one| one.key).collect();
                    for key in keys {
                        self.io.close(key, CloseReason::Shutdown);
                    }
                }
            }
        }
        any
    }

    fn report_links(&mut self, from: u32) -> LinkPage {
        let (links, next) = self.shard.report_links(from, REPORT_SLOTS_MAX);
        let reactor = self.id;
        let report = |link: crate::relay::report::LinkReport| {
            let transmit = self.io.transmit(link.key)?;
            Some(LinkReport {
                reactor,
                queued_bytes: transmit.queued_bytes(),
                ending: transmit.closing.is_some(),
                link,
            })
        };
        LinkPage { links: links.into_iter().filter_map(report).collect(), next }
    }

    fn handle_time(&mut self) {
        let now = self.io.now;
        if self.shard.poll_timeout().is_some_and(|due| due <= now) {
            self.shard.handle_timeout(now, &mut self.io);
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.sweep();
        }
        self.drained.store(self.shard.is_drained(), Relaxed);
        self.counters.heartbeat.beat(now.saturating_duration_since(self.shared.started));
    }

    fn adopt(&mut self, link: NewLink) {
        let now = self.io.now;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            self.io.transmits.push(None);
            (self.slots.len() - 1) as u32
        });
        let generation = &mut self.generations[index as usize];
        *generation = generation.wrapping_add(1);
        let key = LinkKey { index, generation: *generation };
        let is_sdk = matches!(link.up, LinkUp::Sdk { .. });
        let settings = &self.shared.settings;
        let extra = node::HEADER_LEN_MAX + 2 + node::EXTENSIONS_LEN_MAX;
        let (bounds, queue_bytes_max) = if is_sdk {
            let bounds = FrameBounds { len_min: sdk::HEADER_LEN, len_max: settings.frame_len_max };
            (bounds, settings.session_queue_bytes_max)
        } else {
            let len_max = settings.frame_len_max + extra;
            // Room for a whole window again when a link replaces another.
            (FrameBounds { len_min: node::HEADER_LEN_MIN, len_max }, 2 * settings.window_bytes_max + len_max)
        };
        self.slots[index as usize] = Some(Slot {
            receive: Receive::new(link.opener, bounds),
            token: link.token,
            is_sdk,
            shut_down: false,
            worn_logged: false,
        });
        let transmit = Transmit::new(now, key, link.socket, link.sealer, is_sdk, queue_bytes_max);
        self.io.transmits[index as usize] = Some(transmit);
        self.shard.handle_link_up(now, key, link.up, &mut self.io);
        if self.stopping {
            self.io.close(key, CloseReason::Shutdown);
        }
        self.arm_receive(key);
        let mut received = link.received;
        self.take_bytes(key, Some(&link.plaintext), &mut received);
    }

    fn arm_receive(&mut self, key: LinkKey) {
        let Some(transmit) = self.io.transmit(key) else { return };
        let fd = types::Fd(transmit.socket.as_raw_fd());
        let Some(slot) = self.slots[key.index as usize].as_mut() else { return };
        slot.receive.receiving = true;
        let entry = opcode::RecvMulti::new(fd, GROUP).build().user_data(user_data(KIND_RECEIVE, key));
        self.push(&entry);
    }

    /// Feeds bytes that are not in a receive buffer.
    fn take_bytes(&mut self, key: LinkKey, plaintext: Option<&[u8]>, bytes: &mut [u8]) {
        let Self { slots, io, shard, unfinished, .. } = self;
        let Some(slot) = slots[key.index as usize].as_mut() else { return };
        let now = io.now;
        let mut handle = |frame: FrameRef<'_>| {
            shard.handle_frame(now, key, frame, io);
            !io.is_ending(key)
        };
        let taken = slot
            .receive
            .handle_plaintext(now, unfinished, plaintext.unwrap_or_default(), &mut handle)
            .and_then(|_| slot.receive.handle_bytes(now, unfinished, bytes, &mut handle));
        if let Err(reason) = taken {
            io.abort(key, reason);
        }
    }

    /// Seals and sends for every link that has something new, and lets go of links that are done.
    fn flush(&mut self) {
        while let Some(index) = self.io.dirty.pop() {
            let Some(transmit) = self.io.transmits[index as usize].as_mut() else { continue };
            transmit.is_dirty = false;
            let key = transmit.key;
            match transmit.next_send() {
                Ok(Some((bytes, len))) => {
                    let fd = types::Fd(transmit.socket.as_raw_fd());
                    let entry = opcode::Send::new(fd, bytes, len)
                        .flags(rustix::net::SendFlags::NOSIGNAL.bits() as i32)
                        .build()
                        .user_data(user_data(KIND_SEND, key));
                    self.push(&entry);
                }
                Ok(None) => {}
                Err(_) => transmit.close(self.io.now, CloseReason::KeysWorn, true),
            }
            self.advance_closing(key);
        }
    }

    /// A closing link: shut down once all is sent, gone once the kernel is done with it.
    fn advance_closing(&mut self, key: LinkKey) {
        let Some(transmit) = self.io.transmit(key) else { return };
        let Some(closing) = transmit.closing else { return };
        let (flushed, sending) = (transmit.is_flushed(), transmit.sending);
        let Some(slot) = self.slots[key.index as usize].as_mut() else { return };
        if (flushed && (!sending || closing.aborted)) && !std::mem::replace(&mut slot.shut_down, true) {
            let Some(transmit) = self.io.transmit(key) else { return };
            // Fails only if the peer has closed already.
            let _ = rustix::net::shutdown(transmit.socket.as_fd(), rustix::net::Shutdown::Both);
        }
        let Some(slot) = self.slots[key.index as usize].as_mut() else { return };
        if slot.shut_down && !slot.receive.receiving && !sending {
            slot.receive.assembler.abandon(&self.unfinished);
            let token = slot.token;
            self.slots[key.index as usize] = None;
            self.io.transmits[key.index as usize] = None;
            self.free.push(key.index);
            self.shard.handle_link_down(self.io.now, key, closing.reason, &mut self.io);
            (self.closed)(LinkClosed { token, reason: closing.reason });
        }
    }

    fn handle_completions(&mut self) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(
            self.ring
                .completion()
                .take(COMPLETIONS_PER_TURN)
                .map(|completion| (completion.user_data(), completion.result(), completion.flags())),
        );
        let any = !completions.is_empty();
        self.io.now = Instant::now();
        for (user_data, result, flags) in completions.drain(..) {
            let key = LinkKey { index: (user_data >> 32) as u32 & 0xff_ffff, generation: user_data as u32 };
            match user_data >> 56 {
                KIND_RECEIVE => self.handle_received(key, result, flags),
                KIND_SEND => self.handle_sent(key, result),
                _ => self.arm_wake(),
            }
        }
        self.completions = completions;
        for key in std::mem::take(&mut self.rearm) {
            self.arm_receive(key);
        }
        any
    }

    fn handle_received(&mut self, key: LinkKey, result: i32, flags: u32) {
        if let (Some(id), Ok(len)) = (cqueue::buffer_select(flags), usize::try_from(result)) {
            self.handle_buffer(key, id, len);
            self.buffers.give_back(id);
        }
        if cqueue::more(flags) {
            return;
        }
        let Some(transmit) = self.io.transmit(key) else { return };
        let ending = transmit.closing.is_some();
        let Some(slot) = self.slots[key.index as usize].as_mut() else { return };
        slot.receive.receiving = false;
        let out_of_buffers = result == -Errno::NOBUFS.raw_os_error();
        if (result > 0 || out_of_buffers) && !ending {
            if out_of_buffers {
                self.counters.receive_buffers_exhausted.increment();
            }
            // Re-armed when this turn's buffers are back.
            self.rearm.push(key);
            return;
        }
        let reason = if result == 0 { CloseReason::ByPeer } else { CloseReason::Broken };
        self.io.abort(key, reason);
        self.io.touch(key);
    }

    fn handle_buffer(&mut self, key: LinkKey, id: u16, len: usize) {
        let Self { slots, io, shard, unfinished, buffers, counters, .. } = self;
        if len == 0 || io.is_ending(key) {
            return;
        }
        let Some(slot) = slots[key.index as usize].as_mut() else { return };
        let now = io.now;
        counters.received_bytes.add(len as u64);
        shard.handle_activity(now, key);
        let taken = slot.receive.handle_bytes(now, unfinished, buffers.filled(id, len), |frame| {
            shard.handle_frame(now, key, frame, io);
            !io.is_ending(key)
        });
        match taken {
            Ok(_) => {}
            Err(CloseReason::ByPeer) => io.close(key, CloseReason::ByPeer),
            Err(reason) => io.abort(key, reason),
        }
        if unfinished.is_over() {
            self.drop_slowest_frame();
        }
    }

    /// The pool of unfinished frames is full: the link whose frame has progressed least goes.
    fn drop_slowest_frame(&mut self) {
        let slowest = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((slot.as_ref()?.receive.assembler.progress(), index)))
            .filter(|&(progress, _)| progress > 0)
            .min();
        if let Some((_, index)) = slowest
            && let Some(key) = self.io.transmits[index].as_ref().map(|transmit| transmit.key)
        {
            self.io.abort(key, CloseReason::FramePoolFull);
        }
    }

    fn handle_sent(&mut self, key: LinkKey, result: i32) {
        let now = self.io.now;
        let Some(transmit) = self.io.transmit(key) else { return };
        match usize::try_from(result) {
            Ok(len) => {
                transmit.handle_sent(now, len);
                self.counters.sent_bytes.add(len as u64);
            }
            Err(_) => {
                transmit.handle_sent(now, 0);
                transmit.close(now, CloseReason::Broken, true);
            }
        }
        self.io.touch(key);
    }

    /// Looks at all links.
    fn sweep(&mut self) {
        self.shard.count_usage();
        let now = self.io.now;
        let stall_timeout = self.shared.settings.stall_timeout;
        let keys: Vec<LinkKey> = self.io.transmits.iter().flatten().map(|transmit| transmit.key).collect();
        for key in keys {
            let Some(slot) = self.slots[key.index as usize].as_mut() else { continue };
            let Some(transmit) = self.io.transmits[key.index as usize].as_mut() else { continue };
            if let Some(closing) = &mut transmit.closing {
                closing.aborted |= now >= closing.deadline;
                self.io.touch(key);
                continue;
            }
            let blocks = slot.receive.blocks().max(transmit.blocks());
            if slot.receive.assembler.is_overdue(now) {
                self.io.abort(key, CloseReason::FrameUnfinished);
            } else if transmit.is_stalled(now, stall_timeout) {
                self.io.abort(key, CloseReason::Stalled);
            } else if blocks >= if slot.is_sdk { SDK_KEY_BLOCKS_MAX } else { NODE_KEY_BLOCKS_MAX } {
                self.io.close(key, CloseReason::KeysWorn);
            } else if slot.is_sdk
                && blocks >= SDK_KEY_BLOCKS_LOGGED
                && !std::mem::replace(&mut slot.worn_logged, true)
            {
                self.shard.warn_keys_wear_out(key);
            } else if slot.receive.take_update_request() {
                transmit.update_keys();
                self.io.touch(key);
            }
        }
    }
}

fn user_data(kind: u64, key: LinkKey) -> u64 {
    kind << 56 | u64::from(key.index & 0xff_ffff) << 32 | u64::from(key.generation)
}
