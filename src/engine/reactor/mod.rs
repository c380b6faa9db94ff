//! One reactor: a thread with a ring that owns its links and its shard.
//!
//! A turn: take what other reactors, the door and the registry sent; do what time asks for; seal and
//! send what is due; then wait for completions, and hand what arrived to the shard.

mod link;
mod outbound;
mod receiving;
mod registry_queue;
mod sending;
mod sweep;
use std::{
    collections::VecDeque,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ahash::AHashMap;
use crossbeam::channel::{Receiver, Sender};
use slab::Slab;
use tracing::warn;

pub(super) use self::link::SLOT_LEN;
use self::{
    link::{
        Ending, KIND_CALL_OFF, KIND_RECEIVE, KIND_RECEIVE_OWN, KIND_SEND, KIND_WAKE, Slot, limit_unsent,
        link_key,
    },
    outbound::Io,
    registry_queue::RegistryQueue,
};
use super::{
    EngineSettings, LinkEvent, NewLink,
    assemble::{FrameBounds, UnfinishedFrames},
    blocks::Blocks,
    bounds::{
        COMMANDS_PER_TURN, COMPLETIONS_PER_TURN, MESH_PER_TURN, NODE_FRAME_LEN_READ_OVER_MAX,
        node_queue_bytes_max,
    },
    mesh::{Mesh, MeshSender},
    moderation::{Moderation, Wait},
    queues::Queues,
    receive::Receive,
    ring::{Completion, EngineError, IoBackend, Operation, Ring},
    transmit::Transmit,
};
use crate::{
    clock::Clock,
    log,
    relay::{
        CloseReason, LedgerDial, LinkKey, LinkUp, Outbound, ReactorId, RegistryInput, RegistryOutput, Shared,
        counters::Counters,
        diagnostic::{Answer, Question},
        report::LinkLoad,
        rng::Seed,
        shard::Shard,
    },
    wire::{NodeId, node, p2p_2x, sdk},
};

/// How often all links are looked at: stalls, overdue frames, used-up keys, closing.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Turns that take in only what came while the thread stood still.
const CATCH_UP_TURNS_MAX: usize = 64;

/// What the door, the registry and the engine tell a reactor.
pub(super) enum Command {
    Adopt(Box<NewLink>),
    Registry(RegistryOutput),
    CloseNode {
        id: NodeId,
        reason: CloseReason,
    },
    LedgerDialFailed(LedgerDial),
    Ask {
        id: u64,
        question: Box<Question>,
        reply: AnswerCallback,
    },
    /// Applications are to be let go, within such a time.
    LameDuck(Duration),
    Drain,
    CloseAll,
    CutAll,
}

/// Takes an answer, on the reactor's thread.
pub type AnswerCallback = Box<dyn FnOnce(Answer) + Send>;

pub(super) struct Reactor {
    id: ReactorId,
    // It goes first: the kernel must be done with what links lend it.
    ring: Ring,
    /// Memory of large frames.
    blocks: Blocks,
    shard: Shard,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    settings: EngineSettings,
    /// At the same indices as `Io::transmits`.
    slots: Slab<Slot>,
    /// Links that there were.
    adopted: u32,
    io: Io,
    /// Without the time in which this thread stood still.
    clock: Clock,
    /// How long at most the last turn was to wait.
    wait: Duration,
    moderation: Moderation,
    /// Frames, and wakes, that the last turn handled.
    came: usize,
    /// Sends since completions were handled last.
    sends: usize,
    mesh: Arc<Mesh>,
    inbox: Receiver<Command>,
    wake_fd: i32,
    unfinished: Arc<UnfinishedFrames>,
    events: Arc<dyn Fn(LinkEvent) + Send + Sync>,
    drained: Arc<AtomicBool>,
    /// Frames of the registry that were dropped, per reactor.
    dropped: Arc<[AtomicU64]>,
    /// Links whose receive ended because buffers ran out.
    rearm: Vec<LinkKey>,
    next_sweep: Instant,
    stopping: bool,
    completions: Vec<Completion>,
    /// Receives that wait while other reactors are behind; bounded by the receive buffers, and one more
    /// for each link.
    held: VecDeque<Completion>,
    /// Receives of links on which a large frame comes: they wait until others had their turn. One for each such link.
    bulk_received: VecDeque<Completion>,
}

pub(super) struct ReactorParts {
    pub(super) id: ReactorId,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: EngineSettings,
    pub(super) io: IoBackend,
    pub(super) mesh: Arc<Mesh>,
    pub(super) inbox: Receiver<Command>,
    pub(super) registry: Sender<RegistryInput>,
    pub(super) wake_fd: i32,
    pub(super) unfinished: Arc<UnfinishedFrames>,
    pub(super) events: Arc<dyn Fn(LinkEvent) + Send + Sync>,
    pub(super) drained: Arc<AtomicBool>,
    pub(super) dropped: Arc<[AtomicU64]>,
    pub(super) seed: Seed,
}

impl Reactor {
    /// Must be called on the thread that runs it.
    pub(super) fn new(parts: ReactorParts) -> Result<Self, EngineError> {
        let now = Instant::now();
        let EngineSettings { ring_entries, receive_buffers, receive_buffer_len, .. } = parts.settings;
        let ring = Ring::new(parts.io, ring_entries, receive_buffers, receive_buffer_len)?;
        let counters = parts.shared.counters[usize::from(parts.id.0)].clone();
        let queues_bytes_max = parts.settings.queues_bytes_max / usize::from(parts.shared.reactors);
        let relayed_bytes_max = parts.shared.settings.windows_bytes_max / usize::from(parts.shared.reactors);
        let moderation = Moderation::new(now, parts.settings.wait);
        let mut reactor = Self {
            id: parts.id,
            ring,
            blocks: Blocks::with_tables(parts.shared.settings.tables),
            shard: Shard::new(parts.shared.clone(), parts.id, parts.seed, now),
            counters: counters.clone(),
            shared: parts.shared,
            settings: parts.settings,
            slots: Slab::new(),
            adopted: 0,
            io: Io {
                now,
                transmits: Slab::new(),
                dirty: Vec::new(),
                bulk: VecDeque::new(),
                mesh: MeshSender::new(parts.mesh.clone(), parts.id),
                registry: RegistryQueue::new(parts.registry, parts.id, counters.clone()),
                reactor: parts.id,
                counters,
                asking: AHashMap::new(),
                queues: Queues::new(queues_bytes_max).with_relayed_bytes_max(relayed_bytes_max),
                watching_room: Vec::new(),
                events: parts.events.clone(),
            },
            clock: Clock::new(now),
            wait: Duration::ZERO,
            moderation,
            came: 0,
            sends: 0,
            mesh: parts.mesh,
            inbox: parts.inbox,
            wake_fd: parts.wake_fd,
            unfinished: parts.unfinished,
            events: parts.events,
            drained: parts.drained,
            dropped: parts.dropped,
            rearm: Vec::new(),
            next_sweep: now + SWEEP_INTERVAL,
            stopping: false,
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN),
            held: VecDeque::new(),
            bulk_received: VecDeque::new(),
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    /// Runs until it was told to close all links and they are gone.
    pub(super) fn run(mut self) {
        while !(self.stopping && self.slots.is_empty()) {
            // The clock is read once a turn, after the wait.
            let mut busy = self.handle_mesh();
            busy |= self.handle_inbox();
            self.handle_time();
            self.flush();
            self.io.mesh.flush();
            self.io.registry.flush();
            let backed_up = self.io.mesh.is_backed_up();
            if backed_up {
                self.counters.turns_backed_up.increment();
            }
            if busy {
                self.moderation.found(self.real_time(), 1);
            }
            if busy || backed_up || self.has_work_left() {
                self.enter(Some(Duration::ZERO));
            } else {
                self.wait();
            }
            let handled = self.handle_completions();
            self.moderation.found(self.real_time(), self.came);
            if !handled && backed_up {
                std::thread::yield_now();
            }
            if let Some(pause) = self.clock.take_pause() {
                self.catch_up(pause);
            }
        }
        self.mesh.leave(self.id);
    }

    /// This thread stood still: what came meanwhile is handled before any timer.
    fn catch_up(&mut self, pause: Duration) {
        self.counters.pauses.increment();
        if self.shard.may_log_pause(self.io.now) {
            warn!(
                ?pause,
                "this node stood still for a while, and does not take it for its peers' silence: see whether its machine, container or virtual machine was stopped, or has too little processor time",
            );
        }
        for _ in 0..CATCH_UP_TURNS_MAX {
            self.handle_mesh();
            self.flush();
            self.io.mesh.flush();
            self.enter(Some(Duration::ZERO));
            if !self.handle_completions() {
                break;
            }
        }
    }

    /// Whether a turn left something for the next one.
    fn has_work_left(&self) -> bool {
        self.ring.has_work_left()
            || !(self.held.is_empty() && self.bulk_received.is_empty() && self.io.bulk.is_empty())
    }

    /// When this turn began, pauses of this thread included: how long it waits goes by that.
    fn real_time(&self) -> Instant {
        self.io.now + self.clock.paused()
    }

    /// Nothing is left to do: waits for what comes.
    fn wait(&mut self) {
        match self.moderation.wait(Instant::now(), self.shard.awaited()) {
            Wait::Look => {
                self.counters.looks.increment();
                if self.moderation.offers_processor() {
                    // Whoever was put on this processor would wait until we sleep, for an answer of ours, too.
                    std::thread::yield_now();
                }
                self.enter(Some(Duration::ZERO));
            }
            Wait::Gather { links, at_most } => {
                self.counters.waits_gathered.increment();
                self.wait = at_most;
                // Most sends complete as they are submitted, and their completions count, too.
                let gathered = self.ring.gather(links + self.sends, at_most);
                self.or_abort(gathered);
            }
            Wait::Sleep => {
                self.counters.waits_slept.increment();
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let own = usize::from(self.id.0);
        self.mesh.sleepers[own].prepare_sleep();
        if self.mesh.is_empty_for(self.id) && self.inbox.is_empty() {
            let due = self.shard.poll_timeout().map_or(self.next_sweep, |due| due.min(self.next_sweep));
            // What the turn took so far is waited longer.
            self.enter(Some(due.saturating_duration_since(self.io.now)));
        }
        self.mesh.sleepers[own].awake();
    }

    /// Submits, and waits for a completion at most so long.
    fn enter(&mut self, wait: Option<Duration>) {
        self.wait = wait.unwrap_or_default();
        let entered = self.ring.enter(self.wait);
        self.or_abort(entered);
    }

    /// Lets the kernel begin with what was pushed.
    fn submit(&mut self) {
        let submitted = self.ring.submit();
        self.or_abort(submitted);
    }

    /// Asks the kernel for an operation.
    ///
    /// # Safety
    /// As [`Ring::push`] asks.
    unsafe fn push(&mut self, operation: Operation, user_data: u64) {
        // SAFETY: the caller's promise is what is asked for here.
        let pushed = unsafe { self.ring.push(operation, user_data) };
        self.or_abort(pushed);
    }

    /// A node whose ring fails can do nothing more.
    fn or_abort(&self, done: io::Result<()>) {
        if let Err(error) = done {
            log::abort(&self.ring.why_failed(&error));
        }
    }

    fn arm_wake(&mut self) {
        let operation = Operation::AwaitWake { eventfd: self.wake_fd };
        // SAFETY: the mesh keeps the waker that the descriptor is of.
        unsafe { self.push(operation, KIND_WAKE << 56) };
    }

    fn handle_mesh(&mut self) -> bool {
        let mut any = false;
        for from in 0..self.shared.reactors {
            let from = ReactorId(from);
            // Most turns find nothing; to take from an empty queue would cost a fence.
            if self.mesh.is_empty_between(from, self.id) {
                continue;
            }
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
        if self.unfinished.take_asked(usize::from(self.id.0)) && self.unfinished.is_over() {
            self.drop_largest_frame();
            any = true;
        }
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.inbox.try_recv() else { break };
            any = true;
            match command {
                Command::Adopt(link) => self.adopt(*link),
                Command::CloseNode { id, reason } => {
                    self.shard.close_node(self.io.now, &id, reason, &mut self.io);
                }
                Command::LedgerDialFailed(LedgerDial { session, number, .. }) => {
                    self.shard.handle_dial_failed(self.io.now, session, number, &mut self.io);
                }
                Command::Registry(output) => self.shard.handle_registry(self.io.now, output, &mut self.io),
                Command::Ask { id, question, reply } => {
                    match self.shard.ask(self.io.now, id, *question, &mut self.io) {
                        Some(answer) => reply(self.with_loads(answer)),
                        None => _ = self.io.asking.insert(id, reply),
                    }
                    // The rest has time until the next turn.
                    return true;
                }
                Command::LameDuck(within) => self.shard.handle_lame_duck(self.io.now, within, &mut self.io),
                Command::Drain => self.shard.handle_drain(self.io.now, &mut self.io),
                Command::CloseAll => self.end_all(false),
                Command::CutAll => self.end_all(true),
            }
        }
        any
    }

    /// Ends all links: once what is queued is sent, or at once.
    fn end_all(&mut self, at_once: bool) {
        self.stopping = true;
        let keys: Vec<LinkKey> = self.io.transmits.iter().map(|(_, one)| one.key).collect();
        for key in keys {
            self.io.end(key, CloseReason::Shutdown, at_once);
        }
    }

    /// Says what passes over links, of which the shard does not know.
    fn with_loads(&mut self, mut answer: Answer) -> Answer {
        if let Answer::Links(page) = &mut answer {
            page.links.retain_mut(|link| match self.load(link.key) {
                Some(load) => {
                    link.load = load;
                    true
                }
                None => false,
            });
        }
        answer
    }

    fn load(&mut self, key: LinkKey) -> Option<LinkLoad> {
        let slot = self.slots.get(key.index as usize)?;
        let transmit = self.io.transmit(key)?;
        Some(LinkLoad {
            queued_bytes: transmit.unsent_bytes(),
            is_ending: transmit.closing.is_some(),
            received_frames: slot.received_frames,
            received_bytes: slot.received_bytes,
            sent_frames: transmit.sent_frames,
            sent_bytes: transmit.sent_bytes,
        })
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
        // By the real time: whoever looks whether this thread hangs goes by that.
        let real = self.real_time();
        self.counters.heartbeat.beat(real.saturating_duration_since(self.shared.started));
    }

    fn adopt(&mut self, link: NewLink) {
        let now = self.io.now;
        self.adopted = self.adopted.wrapping_add(1);
        let key = LinkKey { index: self.slots.vacant_key() as u32, generation: self.adopted };
        // A ledger node is spoken to as it is by an application: in the same frames, and by the same rules.
        let is_sdk = matches!(link.up, LinkUp::Sdk { .. } | LinkUp::Ledger { .. });
        limit_unsent(&link.socket);
        let settings = &self.shared.settings;
        let (bounds, queue_bytes_max) = if is_sdk {
            let len_max = settings.frame_len_max;
            let bounds = FrameBounds { len_min: sdk::HEADER_LEN, len_max, read_over_max: 0 };
            (bounds, settings.session_queue_bytes_max)
        } else {
            let bounds = FrameBounds {
                // Whoever is at the other end: a node of FISCO BCOS 2.x has the shorter header.
                len_min: p2p_2x::HEADER_LEN.min(node::HEADER_LEN_MIN),
                len_max: settings.node_link_frame_len_max(),
                read_over_max: NODE_FRAME_LEN_READ_OVER_MAX,
            };
            (bounds, node_queue_bytes_max(settings))
        };
        let (sealer, opener) = link.tls.unzip();
        let receive = Receive::new(opener, bounds, self.blocks.clone());
        let is_application = matches!(link.up, LinkUp::Sdk { .. });
        let receive = if is_application { receive.of_application() } else { receive };
        let socket = Rc::new(link.socket);
        self.slots.insert(Slot {
            socket: socket.clone(),
            receive,
            token: link.token,
            is_sdk,
            received_frames: 0,
            received_bytes: 0,
            ending: Ending::No,
            was_receiving_long: false,
            long_told_after: None,
            read_paused: None,
            rekey_warned: false,
            rekey_due_since: None,
        });
        let mut transmit = Transmit::new(now, key, sealer, is_sdk, queue_bytes_max, self.blocks.clone());
        transmit.socket = Some(socket);
        let index = self.io.transmits.insert(transmit);
        assert_eq!(index, key.index as usize, "both halves of a link lie at one index");
        self.shard.handle_link_up(now, key, link.up, &mut self.io);
        if self.stopping {
            self.io.close(key, CloseReason::Shutdown);
        }
        self.arm_receive(key);
        let (mut plaintext, mut received) = (link.plaintext, link.received);
        self.take_bytes(key, &mut plaintext, &mut received);
    }

    fn handle_completions(&mut self) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.take(&mut completions, COMPLETIONS_PER_TURN);
        self.io.now = self.clock.read(Instant::now(), std::mem::take(&mut self.wait));
        self.shard.set_paused(self.clock.paused());
        (self.came, self.sends) = (0, 0);
        let mut any = false;
        // Nothing more is taken in while another reactor is behind; what went out is looked at.
        while !self.io.mesh.is_backed_up()
            && let Some(completion) = self.held.pop_front()
        {
            any = true;
            self.handle_receive_completion(completion);
        }
        for completion in completions.drain(..) {
            match completion.user_data >> 56 {
                KIND_RECEIVE_OWN => {
                    self.bulk_received.push_back(completion);
                    continue;
                }
                KIND_RECEIVE if !self.held.is_empty() || self.io.mesh.is_backed_up() => {
                    self.held.push_back(completion);
                    continue;
                }
                KIND_RECEIVE => self.handle_receive_completion(completion),
                KIND_SEND => self.handle_sent(link_key(completion.user_data), completion.result),
                KIND_CALL_OFF => {}
                _ => {
                    self.came += 1;
                    self.arm_wake();
                }
            }
            any = true;
        }
        self.completions = completions;
        if !self.bulk_received.is_empty() && !self.io.mesh.is_backed_up() {
            any = true;
            self.handle_bulk_received();
        }
        for key in std::mem::take(&mut self.rearm) {
            self.arm_receive(key);
        }
        any
    }
}

#[cfg(test)]
mod tests;
