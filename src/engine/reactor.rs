//! One reactor: a thread with a ring that owns its links and its shard.
//!
//! A turn: take what other reactors, the door and the registry sent; do what time asks for; seal and
//! send what is due; then wait for completions, and hand what arrived to the shard.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ahash::AHashMap;
use crossbeam::channel::{Receiver, Sender};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::io::Errno;
use slab::Slab;
use tracing::{debug, warn};

use super::{
    EngineSettings, LinkClosed, LinkEvent, NewLink,
    assemble::{FrameBounds, UnfinishedFrames},
    blocks::Blocks,
    bounds::{
        BULK_BYTES_PER_TURN, CLOSE_WITHIN, COMMANDS_PER_TURN, COMPLETIONS_PER_TURN, LINGER, MESH_PER_TURN,
        NODE_FRAME_LEN_READ_OVER_MAX, NOTSENT_BYTES_MAX, PUSH_ATTEMPTS_AT_ONCE, PUSH_ATTEMPTS_MAX,
        PUSH_PAUSE, REGISTRY_QUEUE_MAX, REPLACE_WITHIN, node_queue_bytes_max,
    },
    buffers::{Buffers, GROUP},
    descriptor::untaken_bytes,
    mesh::{Item, Mesh, MeshSender},
    moderation::{Moderation, Wait},
    queues::Queues,
    receive::{Receive, Wanted},
    ring::{self, EngineError},
    transmit::{NotTaken, RoomWanted, Transmit},
};
use crate::{
    clock::Clock,
    log,
    relay::{
        Class, CloseReason, LedgerDial, LinkKey, LinkProgress, LinkUp, MeshMessage, Outbound, Queued,
        ReactorId, RegistryInput, RegistryOutput, SendError, Shared, SubscriberId,
        counters::Counters,
        diagnostic::{Answer, Question},
        report::LinkLoad,
        rng::Seed,
        session_queue::NoRoom,
        shard::Shard,
    },
    wire::{FrameRef, NodeId, Topic, node, p2p_2x, sdk, ws},
};

/// How often all links are looked at: stalls, overdue frames, used-up keys, closing.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
const KIND_WAKE: u64 = 0;
const KIND_RECEIVE: u64 = 1;
const KIND_SEND: u64 = 2;
const KIND_RECEIVE_OWN: u64 = 3;
const KIND_CALL_OFF: u64 = 4;

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

/// What the links' owner does for its shard.
struct Io {
    now: Instant,
    transmits: Slab<Transmit>,
    dirty: Vec<u32>,
    /// Links with much to send, which wait for their turn.
    bulk: VecDeque<u32>,
    mesh: MeshSender,
    registry: Sender<RegistryInput>,
    reactor: ReactorId,
    counters: Arc<Counters>,
    /// Changes of topics that wait because the registry is behind, each topic's summed up.
    put_off: AHashMap<Topic, i32>,
    /// The same of subscribers of private topics.
    put_off_subscribers: AHashMap<SubscriberId, (Topic, bool)>,
    /// Who waits for an answer that other nodes are to give, by its id; as many as the shard has open.
    asking: AHashMap<u64, AnswerCallback>,
    /// What the outgoing queues of all sessions of this reactor take.
    queues: Queues,
    /// Links whose queues the relay wants to know room in.
    watching_room: Vec<LinkKey>,
    events: Arc<dyn Fn(LinkEvent) + Send + Sync>,
}

impl Io {
    fn transmit(&mut self, key: LinkKey) -> Option<&mut Transmit> {
        self.transmits.get_mut(key.index as usize).filter(|transmit| transmit.key == key)
    }

    /// Counts again what a link's queue takes, after it changed.
    fn recount(&mut self, index: u32) {
        if let Some(transmit) = self.transmits.get_mut(index as usize) {
            transmit.recount(&mut self.queues);
        }
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

    /// What a link's peer sends has come to its end, in order or not.
    fn end_of_input(&mut self, key: LinkKey, reason: CloseReason) {
        // It sends no more, and may read on: what is queued for it still goes out.
        let has_failed = self.transmit(key).is_some_and(|transmit| transmit.has_failed);
        let reads_on = !has_failed
            && matches!(reason, CloseReason::ByPeer | CloseReason::Vanished | CloseReason::WebSocket(_));
        self.end(key, reason, !reads_on);
    }

    fn is_registry_behind(&self) -> bool {
        self.registry.len() >= REGISTRY_QUEUE_MAX
    }

    /// Tells the registry what was put off, once it has room.
    fn flush_topics(&mut self) {
        if !self.put_off_subscribers.is_empty() && !self.is_registry_behind() {
            let changes = self
                .put_off_subscribers
                .drain()
                .map(|(subscriber, (topic, subscribes))| (topic, subscriber, subscribes))
                .collect();
            // The registry outlives the reactors.
            let _ = self.registry.send(RegistryInput::Subscribers { changes });
        }
        if !self.put_off.is_empty() && !self.is_registry_behind() {
            let changes = self.put_off.drain().filter(|&(_, difference)| difference != 0).collect();
            // The registry outlives the reactors.
            let _ = self.registry.send(RegistryInput::Topics { reactor: self.reactor, changes });
        }
    }

    /// Does what the peer of a WebSocket wants beside frames.
    fn answer_web_socket(&mut self, shard: &mut Shard, key: LinkKey, wanted: Wanted) {
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

    fn is_ending(&mut self, key: LinkKey) -> bool {
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
        match input {
            RegistryInput::State { .. } | RegistryInput::Rpc { .. } if self.is_registry_behind() => false,
            RegistryInput::Topics { changes, .. }
                if !self.put_off.is_empty() || self.is_registry_behind() =>
            {
                self.counters.registry_changes_put_off.add(changes.len() as u64);
                for (topic, difference) in changes {
                    *self.put_off.entry(topic).or_default() += difference;
                }
                true
            }
            RegistryInput::Subscribers { changes }
                if !self.put_off_subscribers.is_empty() || self.is_registry_behind() =>
            {
                self.counters.registry_changes_put_off.add(changes.len() as u64);
                for (topic, subscriber, subscribes) in changes {
                    // Each takes its topic once and drops it once; the registry need not know of both.
                    if self.put_off_subscribers.remove(&subscriber).is_none() {
                        self.put_off_subscribers.insert(subscriber, (topic, subscribes));
                    }
                }
                true
            }
            // The registry outlives the reactors.
            input => self.registry.send(input).is_ok(),
        }
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

/// What belongs to a link beside its sending side.
struct Slot {
    socket: Rc<OwnedFd>,
    receive: Receive,
    token: u64,
    is_sdk: bool,
    /// Frames and bytes that came since the link is up.
    received_frames: u64,
    received_bytes: u64,
    ending: Ending,
    /// Whether a long frame was on its way in when something came last.
    was_receiving_long: bool,
    /// How many frames had come whole when the relay was told that a long one has begun.
    long_told_after: Option<u64>,
    /// Since when it is read no further, because too much waits for its peer.
    read_paused: Option<Instant>,
    rekey_warned: bool,
    /// Since when its keys are used up.
    rekey_due_since: Option<Instant>,
}

/// Memory of a link beside its sending side, in bytes.
pub(super) const SLOT_LEN: usize = size_of::<Slot>();

/// How far the end of a link's connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is open, or still sends what is queued.
    No,
    /// All is sent; what the peer still sends is dropped until it closes too, or until then.
    Lingers(Instant),
    /// Nothing goes either way any more.
    Cut,
}

/// A completion's user data, result and flags.
type Completion = (u64, i32, u32);

pub(super) struct Reactor {
    id: ReactorId,
    // The ring goes first: the kernel must be done with the buffers before they go.
    ring: IoUring,
    buffers: Buffers,
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
    /// Where the kernel puts the eventfd's counter; never freed, since the read outlives the reactor.
    wake_counter: &'static mut u64,
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
        let ring = ring::build(parts.settings.ring_entries)?;
        let buffers =
            Buffers::register(&ring, parts.settings.receive_buffers, parts.settings.receive_buffer_len)?;
        let counters = parts.shared.counters[usize::from(parts.id.0)].clone();
        let queues_bytes_max = parts.settings.queues_bytes_max / usize::from(parts.shared.reactors);
        let relayed_bytes_max = parts.shared.settings.windows_bytes_max / usize::from(parts.shared.reactors);
        let moderation = Moderation::new(now, parts.settings.wait);
        let mut reactor = Self {
            id: parts.id,
            ring,
            buffers,
            blocks: Blocks::new(),
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
                registry: parts.registry,
                reactor: parts.id,
                counters,
                put_off: AHashMap::new(),
                put_off_subscribers: AHashMap::new(),
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
            wake_counter: Box::leak(Box::new(0)),
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
            self.io.flush_topics();
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
        !(self.completions.is_empty()
            && self.held.is_empty()
            && self.bulk_received.is_empty()
            && self.io.bulk.is_empty())
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
                if let Err(error) = ring::gather(&mut self.ring, links + self.sends, at_most) {
                    log::abort(&ring::why_not_entered(error));
                }
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
        if let Err(error) = ring::enter(&mut self.ring, self.wait) {
            log::abort(&ring::why_not_entered(error));
        }
    }

    /// Lets the kernel begin with what was pushed.
    fn submit(&mut self) {
        if !self.ring.submission().is_empty()
            && let Err(error) = ring::submit(&mut self.ring)
        {
            log::abort(&ring::why_not_entered(error));
        }
    }

    /// Gives the kernel an entry.
    ///
    /// # Safety
    /// The memory and the descriptor that it names stay, and nobody else uses the memory, until its completion has been
    /// handled.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        for attempt in 0..PUSH_ATTEMPTS_MAX {
            // SAFETY: the caller's promise is what is asked for here.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            if let Err(error) = self.ring.submit() {
                debug!(%error, "submitting early");
                // The kernel takes nothing while completions do not fit.
                self.reap(usize::MAX);
                match attempt {
                    ..PUSH_ATTEMPTS_AT_ONCE => std::thread::yield_now(),
                    _ => std::thread::sleep(PUSH_PAUSE),
                }
            }
        }
        log::abort(&format!("the kernel took no entry of {PUSH_ATTEMPTS_MAX} tries"));
    }

    /// Takes completions off the ring.
    fn reap(&mut self, count_max: usize) {
        self.completions.extend(
            self.ring
                .completion()
                .take(count_max)
                .map(|completion| (completion.user_data(), completion.result(), completion.flags())),
        );
    }

    fn arm_wake(&mut self) {
        let target = (&raw mut *self.wake_counter).cast::<u8>();
        let entry = opcode::Read::new(types::Fd(self.wake_fd), target, 8).build().user_data(KIND_WAKE << 56);
        // SAFETY: the counter is never freed and never read; the mesh keeps the waker that the descriptor is of.
        unsafe { self.push(&entry) };
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

    fn arm_receive(&mut self, key: LinkKey) {
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
        let fd = types::Fd(slot.socket.as_raw_fd());
        let entry = match slot.receive.own_room(&self.unfinished) {
            Some(room) => opcode::Recv::new(fd, room.as_mut_ptr(), room.len() as u32)
                .build()
                .user_data(user_data(KIND_RECEIVE_OWN, key)),
            None => opcode::RecvMulti::new(fd, GROUP).build().user_data(user_data(KIND_RECEIVE, key)),
        };
        slot.receive.receiving = true;
        // SAFETY: a slot stays, with socket and block, while `receiving` is set, and nothing reads or moves what the block
        // has room for until then. Buffers of the group are the kernel's until a completion names them.
        unsafe { self.push(&entry) };
    }

    /// Ends a pending receive, if it is still pending, so that the link can receive in another way.
    fn call_off_receive(&mut self, key: LinkKey, kind: u64) {
        let entry =
            opcode::AsyncCancel::new(user_data(kind, key)).build().user_data(user_data(KIND_CALL_OFF, key));
        // SAFETY: it names neither memory nor a descriptor.
        unsafe { self.push(&entry) };
    }

    /// Feeds bytes that are not in a receive buffer.
    fn take_bytes(&mut self, key: LinkKey, plaintext: &mut [u8], bytes: &mut [u8]) {
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
    fn update_reading(&mut self, key: LinkKey) {
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

    /// Tells the relay where there is room now that it waits for: once for each link, for whoever still waits then has
    /// found none.
    fn tell_room(&mut self) {
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
    fn flush(&mut self) {
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
    fn flush_dirty(&mut self) {
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
    fn flush_bulk(&mut self) {
        self.submit();
        let mut sent = 0;
        while sent < BULK_BYTES_PER_TURN
            && let Some(index) = self.io.bulk.pop_front()
        {
            sent += self.flush_link(index);
        }
    }

    /// Seals and sends for a link; gives how many bytes.
    fn flush_link(&mut self, index: u32) -> usize {
        let Some(transmit) = self.io.transmits.get_mut(index as usize) else { return 0 };
        transmit.is_dirty = false;
        let key = transmit.key;
        let Some(slot) = self.slots.get(index as usize) else { return 0 };
        let mut sent = 0;
        match transmit.next_send() {
            Ok(Some(bytes)) => {
                sent = bytes.len();
                let fd = types::Fd(slot.socket.as_raw_fd());
                let entry = opcode::Send::new(fd, bytes.as_ptr(), sent as u32)
                    .flags(rustix::net::SendFlags::NOSIGNAL.bits() as i32)
                    .build()
                    .user_data(user_data(KIND_SEND, key));
                // SAFETY: a slot stays, with its socket, while its link is `sending`, and so does the link's memory, which is
                // neither moved nor written to until `handle_sent`.
                unsafe { self.push(&entry) };
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
    fn advance_closing(&mut self, key: LinkKey) {
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
            self.slots.remove(key.index as usize);
            self.io.transmits.remove(key.index as usize).discharge(&mut self.io.queues);
            self.shard.handle_link_down(self.io.now, key, closing.reason, &mut self.io);
            (self.events)(LinkEvent::Closed(LinkClosed { token, reason: closing.reason }));
        }
    }

    fn handle_completions(&mut self) -> bool {
        self.reap(COMPLETIONS_PER_TURN);
        let mut completions = std::mem::take(&mut self.completions);
        self.io.now = self.clock.read(Instant::now(), std::mem::take(&mut self.wait));
        self.shard.set_paused(self.clock.paused());
        (self.came, self.sends) = (0, 0);
        let mut any = false;
        // Nothing more is taken in while another reactor is behind; what went out is looked at.
        while !self.io.mesh.is_backed_up()
            && let Some((user_data, result, flags)) = self.held.pop_front()
        {
            any = true;
            self.handle_receive_completion(user_data, result, flags);
        }
        for completion in completions.drain(..) {
            let (user_data, result, flags) = completion;
            match user_data >> 56 {
                KIND_RECEIVE_OWN => {
                    self.bulk_received.push_back(completion);
                    continue;
                }
                KIND_RECEIVE if !self.held.is_empty() || self.io.mesh.is_backed_up() => {
                    self.held.push_back(completion);
                    continue;
                }
                KIND_RECEIVE => self.handle_receive_completion(user_data, result, flags),
                KIND_SEND => self.handle_sent(link_key(user_data), result),
                KIND_CALL_OFF => {}
                _ => {
                    self.came += 1;
                    self.arm_wake();
                }
            }
            any = true;
        }
        if self.completions.is_empty() {
            self.completions = completions;
        }
        if !self.bulk_received.is_empty() && !self.io.mesh.is_backed_up() {
            any = true;
            self.handle_bulk_received();
        }
        for key in std::mem::take(&mut self.rearm) {
            self.arm_receive(key);
        }
        any
    }

    /// What came of large frames, as much as one turn may take. What came of others, and the answers to it, go first.
    fn handle_bulk_received(&mut self) {
        self.flush_dirty();
        self.submit();
        let mut received = 0;
        while received < BULK_BYTES_PER_TURN
            && let Some((user_data, result, flags)) = self.bulk_received.pop_front()
        {
            received += usize::try_from(result).unwrap_or(0);
            self.handle_receive_completion(user_data, result, flags);
        }
    }

    fn handle_receive_completion(&mut self, user_data: u64, result: i32, flags: u32) {
        let key = link_key(user_data);
        if let Some(id) = cqueue::buffer_select(flags) {
            self.buffers.take(id);
            // One that comes with an error is ours again, too.
            if let Ok(len) = usize::try_from(result) {
                self.handle_received(key, Some(id), len);
            }
            self.buffers.give_back(id);
        }
        if cqueue::more(flags) {
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
    fn handle_received(&mut self, key: LinkKey, id: Option<u16>, len: usize) {
        let Self { slots, io, shard, unfinished, buffers, counters, came, .. } = self;
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
            Some(id) => slot.receive.handle_bytes(now, unfinished, buffers.filled(id, len), handle),
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
    fn drop_largest_frame(&mut self) {
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
    fn largest_frame(&self) -> Option<(usize, LinkKey)> {
        let links = self.slots.iter().zip(&self.io.transmits).filter_map(|((_, slot), (_, transmit))| {
            let progress = slot.receive.progress();
            (progress > 0 && transmit.closing.is_none()).then_some((progress, transmit.key))
        });
        links.max_by_key(|&(progress, _)| progress)
    }

    /// Lets the other reactors know how much that is.
    fn note_largest_frame(&mut self) {
        let bytes = self.largest_frame().map_or(0, |(bytes, _)| bytes);
        self.unfinished.note_largest(usize::from(self.id.0), bytes);
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

    /// Looks at all links.
    fn sweep(&mut self) {
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
    fn check_keys(&mut self, key: LinkKey) {
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

/// Keeps the kernel from holding much that was not sent: a link's control goes before its data.
fn limit_unsent(socket: &OwnedFd) {
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(NOTSENT_BYTES_MAX) {
        debug!(%error, "TCP_NOTSENT_LOWAT cannot be set: control may wait behind data on a slow link");
    }
}

fn link_key(user_data: u64) -> LinkKey {
    LinkKey { index: (user_data >> 32) as u32 & 0xff_ffff, generation: user_data as u32 }
}

fn user_data(kind: u64, key: LinkKey) -> u64 {
    kind << 56 | u64::from(key.index & 0xff_ffff) << 32 | u64::from(key.generation)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use crossbeam::channel::{Receiver, unbounded};

    use super::*;
    use crate::{
        engine::{
            bounds::{MESH_QUEUE_LEN, SEALED_AHEAD_MAX},
            mesh::Sleeper,
            testing::connection,
            wake::Waker,
        },
        relay::{RequestId, session_queue::SESSION_CONTROL_BYTES_MAX, settings::Settings},
        tls::record::{ContentType, PLAINTEXT_LEN_MAX, Sealer},
        wire::{NodeId, ResultCode},
    };

    /// A reactor on this thread, with one session, and the ends of what it hangs on.
    struct Fixture {
        reactor: Reactor,
        mesh: Arc<Mesh>,
        events: Receiver<LinkEvent>,
        peer: UnixStream,
        peer_sealer: Sealer,
        _inputs: Receiver<RegistryInput>,
        commands: Sender<Command>,
        _wakers: [Waker; 2],
    }

    impl Fixture {
        fn new() -> Self {
            Self::with(usize::MAX, 16)
        }

        /// With so many bytes for unfinished frames, and so many receive buffers.
        fn with(unfinished_bytes_max: usize, receive_buffers: u16) -> Self {
            let (registry, _inputs) = unbounded();
            let (commands, inbox) = unbounded();
            let _wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
            let mesh = Arc::new(Mesh::new(_wakers.iter().cloned().map(Sleeper::new).collect()));
            let shared = Shared::new(NodeId([1; 64]), 1, 2, Instant::now(), Settings::default());
            let settings = EngineSettings { ring_entries: 16, receive_buffers, ..EngineSettings::default() };
            let (note, events) = unbounded();
            let mut reactor = Reactor::new(ReactorParts {
                id: ReactorId(0),
                shared: Arc::new(shared),
                settings,
                mesh: mesh.clone(),
                inbox,
                registry,
                wake_fd: _wakers[0].raw(),
                unfinished: Arc::new(UnfinishedFrames::new(unfinished_bytes_max, 2)),
                events: Arc::new(move |event| _ = note.send(event)),
                drained: Arc::default(),
                dropped: (0..2).map(|_| AtomicU64::new(0)).collect(),
                seed: [0; 32],
            })
            .unwrap();
            let (peer, peer_sealer) = Self::session(&mut reactor);
            Self { reactor, mesh, events, peer, peer_sealer, commands, _inputs, _wakers }
        }

        /// One more session: its peer's end, and what that sends with.
        fn session(reactor: &mut Reactor) -> (UnixStream, Sealer) {
            let (socket, peer) = UnixStream::pair().unwrap();
            let ((peer_sealer, opener), (sealer, _)) = (connection(), connection());
            reactor.adopt(NewLink {
                token: 1,
                reactor: ReactorId(0),
                socket: socket.into(),
                up: LinkUp::Sdk { address: String::new(), subject: String::new(), public_key: None },
                tls: Some((sealer, opener)),
                plaintext: Vec::new(),
                received: Vec::new(),
            });
            (peer, peer_sealer)
        }

        fn say((peer, sealer): &mut (UnixStream, Sealer), plaintext: &[u8]) {
            let mut records = Vec::new();
            for part in plaintext.chunks(PLAINTEXT_LEN_MAX) {
                sealer.seal(ContentType::ApplicationData, &[part], &mut records).unwrap();
            }
            std::io::Write::write_all(peer, &records).unwrap();
        }

        fn run_until(&mut self, done: impl Fn(&Reactor) -> bool) {
            while !done(&self.reactor) {
                self.reactor.flush();
                self.reactor.enter(Some(SWEEP_INTERVAL));
                self.reactor.handle_completions();
            }
        }

        fn key(&self) -> LinkKey {
            self.reactor.io.transmits[0].key
        }

        /// The other reactor does not look into its mail.
        fn back_up(&mut self) {
            for _ in 0..MESH_QUEUE_LEN + 1 {
                self.reactor.io.to_reactor(ReactorId(1), MeshMessage::Multicast, FrameRef::EMPTY);
            }
            assert!(self.reactor.io.mesh.is_backed_up());
        }

        /// It does.
        fn catch_up(&mut self) {
            while self.mesh.pop(ReactorId(0), ReactorId(1)).is_some() {}
            self.reactor.io.mesh.flush();
        }

        fn beat() -> Vec<u8> {
            sdk::encode(sdk::FrameType::HEARTBEAT, &[0; 32], ResultCode::OK, b"0")
        }

        /// The node sends something; goes on until that is done with and something has come.
        fn send_while_something_comes(&mut self) {
            let key = self.key();
            self.reactor.io.send(key, Class::Data, &Self::beat(), FrameRef::EMPTY).unwrap();
            self.reactor.flush();
            assert!(self.reactor.io.transmit(key).unwrap().sending);
            while self.reactor.io.transmit(key).unwrap().sending || self.reactor.held.is_empty() {
                self.reactor.enter(Some(SWEEP_INTERVAL));
                self.reactor.handle_completions();
            }
        }

        /// The kernel is to be done with the buffers before they go.
        fn finish(mut self) -> CloseReason {
            self.reactor.io.abort(self.key(), CloseReason::Shutdown);
            self.run_until(|reactor| !reactor.slots.contains(0));
            let closed = self.events.try_iter().find_map(|event| match event {
                LinkEvent::Closed(closed) => Some(closed.reason),
                _ => None,
            });
            closed.unwrap()
        }
    }

    #[test]
    fn what_was_sent_is_seen_to_while_another_reactor_is_behind_and_what_came_waits() {
        let mut fixture = Fixture::new();
        let frames_received = |fixture: &Fixture| fixture.reactor.counters.sdk_frames_received.get();
        fixture.back_up();
        let mut record = Vec::new();
        fixture.peer_sealer.seal(ContentType::ApplicationData, &[&Fixture::beat()], &mut record).unwrap();
        std::io::Write::write_all(&mut fixture.peer, &record).unwrap();
        fixture.send_while_something_comes();
        assert_eq!(frames_received(&fixture), 0);
        fixture.catch_up();
        assert!(fixture.reactor.handle_completions());
        assert_eq!((frames_received(&fixture), fixture.reactor.held.len()), (1, 0));
        assert_eq!(fixture.finish(), CloseReason::Shutdown);
    }

    #[test]
    fn whoever_pings_and_never_reads_is_read_no_further_at_the_bound_of_replies() {
        let mut fixture = Fixture::new();
        let mut own = Fixture::session(&mut fixture.reactor);
        Fixture::say(&mut own, &ws::upgrade::Client::new([7; 16]).request("localhost"));
        let has_sent = |reactor: &Reactor| reactor.io.transmits[1].sent_frames;
        fixture.run_until(|reactor| has_sent(reactor) == 1);
        let ping = ws::frame::encode_masked(ws::Opcode::Ping, [7; 4], &[7; ws::frame::CONTROL_LEN_MAX]);
        let queue_bytes_max = SEALED_AHEAD_MAX + SESSION_CONTROL_BYTES_MAX + 1_024;
        let is_paused = |reactor: &Reactor| reactor.counters.reads_paused.get() > 0;
        while !is_paused(&fixture.reactor) {
            let pongs = has_sent(&fixture.reactor);
            Fixture::say(&mut own, &ping);
            fixture.run_until(|reactor| has_sent(reactor) > pongs || is_paused(reactor));
            assert!(fixture.reactor.io.queues.pool().bytes < queue_bytes_max);
        }
        let keys = [0, 1].map(|index: usize| fixture.reactor.io.transmits[index].key);
        keys.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
        fixture.run_until(|reactor| reactor.slots.is_empty());
    }

    #[test]
    fn a_turn_takes_so_many_commands_and_no_more() {
        let mut fixture = Fixture::new();
        for _ in 0..COMMANDS_PER_TURN + 1 {
            let reason = CloseReason::Removed;
            fixture.commands.send(Command::CloseNode { id: NodeId([2; 64]), reason }).unwrap();
        }
        assert!(fixture.reactor.handle_inbox());
        assert_eq!(fixture.commands.len(), 1, "the rest has time until the next turn");
        assert!(fixture.reactor.handle_inbox());
        assert!(!fixture.reactor.handle_inbox());
        assert_eq!(fixture.finish(), CloseReason::Shutdown);
    }

    #[test]
    fn what_is_little_goes_out_before_what_is_much_and_a_turn_sends_of_that_no_more_than_its_bound() {
        let mut fixture = Fixture::new();
        let _others: Vec<_> = (0..3).map(|_| Fixture::session(&mut fixture.reactor)).collect();
        let keys = [0, 1, 2, 3].map(|index: usize| fixture.reactor.io.transmits[index].key);
        let long = vec![0; 2 * BULK_BYTES_PER_TURN];
        let send =
            |io: &mut Io, key, frame: &[u8]| io.send(key, Class::Data, frame, FrameRef::EMPTY).unwrap();
        for key in &keys[..3] {
            send(&mut fixture.reactor.io, *key, &long);
        }
        send(&mut fixture.reactor.io, keys[3], &Fixture::beat());
        let is_sending =
            |reactor: &Reactor| [0, 1, 2, 3].map(|index: usize| reactor.io.transmits[index].sending);
        fixture.reactor.flush_dirty();
        assert_eq!(is_sending(&fixture.reactor), [false, false, false, true]);
        for turn in 1..=3 {
            fixture.reactor.flush();
            let sending = is_sending(&fixture.reactor)[..3].iter().filter(|sending| **sending).count();
            assert_eq!((sending, fixture.reactor.io.bulk.len()), (turn, 3 - turn));
            assert_eq!(fixture.reactor.has_work_left(), turn < 3, "who has work left does not sleep");
        }
        keys.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
        fixture.run_until(|reactor| reactor.slots.is_empty());
    }

    #[test]
    fn a_turn_takes_in_of_large_frames_no_more_than_its_bound_and_the_answers_to_others_leave_before() {
        let mut fixture = Fixture::new();
        let key = fixture.key();
        // Of links that are gone by now, so that nothing but their length counts.
        let gone = user_data(KIND_RECEIVE_OWN, LinkKey { index: 9, generation: 1 });
        let received = (gone, BULK_BYTES_PER_TURN as i32, 0);
        fixture.reactor.bulk_received.extend([received; 2]);
        fixture.reactor.io.send(key, Class::Data, &Fixture::beat(), FrameRef::EMPTY).unwrap();
        fixture.reactor.handle_completions();
        assert!(fixture.reactor.io.transmit(key).unwrap().sending);
        assert_eq!(fixture.reactor.bulk_received.len(), 1);
        assert!(fixture.reactor.has_work_left());
        // While another reactor is behind they wait, as all that comes does.
        fixture.back_up();
        fixture.reactor.handle_completions();
        assert_eq!(fixture.reactor.bulk_received.len(), 1);
        fixture.catch_up();
        fixture.reactor.handle_completions();
        assert!(fixture.reactor.bulk_received.is_empty());
        assert_eq!(fixture.finish(), CloseReason::Shutdown);
    }

    #[test]
    fn a_place_that_is_used_again_is_of_another_key() {
        let mut fixture = Fixture::new();
        let first = fixture.key();
        fixture.reactor.io.abort(first, CloseReason::Shutdown);
        fixture.run_until(|reactor| !reactor.slots.contains(0));
        let _peer = Fixture::session(&mut fixture.reactor);
        let second = fixture.key();
        assert_eq!(second.index, first.index);
        assert!(second != first && fixture.reactor.io.transmit(first).is_none());
        fixture.finish();
    }

    #[test]
    fn the_pool_of_unfinished_frames_drops_whoever_holds_most_of_it() {
        let mut fixture = Fixture::with(13_000, 16);
        let mut others: Vec<_> = (0..2).map(|_| Fixture::session(&mut fixture.reactor)).collect();
        let begun = |len: usize| [&1_000_000u32.to_be_bytes()[..], &vec![0; len - 4]].concat();
        let holds =
            |reactor: &Reactor, index: usize| reactor.slots.get(index).map(|slot| slot.receive.progress());
        let is_here = |index, len| move |reactor: &Reactor| holds(reactor, index) == Some(len);
        Fixture::say(&mut others[0], &begun(1_000));
        fixture.run_until(is_here(1, 1_000));
        let mut own = (fixture.peer.try_clone().unwrap(), fixture.peer_sealer);
        Fixture::say(&mut own, &begun(8_000));
        fixture.peer_sealer = own.1;
        fixture.run_until(is_here(0, 8_000));
        assert_eq!(fixture.reactor.counters.unfinished_frames_dropped.get(), 0);
        Fixture::say(&mut others[1], &begun(5_000));
        fixture.run_until(|reactor| reactor.slots.len() < 3);
        assert_eq!([1, 2].map(|index| holds(&fixture.reactor, index)), [Some(1_000), Some(5_000)]);
        let keys = [1, 2].map(|index: usize| fixture.reactor.io.transmits[index].key);
        keys.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
        fixture.run_until(|reactor| reactor.slots.is_empty());
    }

    #[test]
    fn what_waits_in_a_receive_buffer_while_another_reactor_is_behind_is_served_as_it_was_sent() {
        let mut fixture = Fixture::with(usize::MAX, 2);
        let mut others: Vec<_> = (0..20).map(|_| Fixture::session(&mut fixture.reactor)).collect();
        let frames_received = |reactor: &Reactor| reactor.counters.sdk_frames_received.get();
        fixture.back_up();
        others.iter_mut().for_each(|other| Fixture::say(other, &Fixture::beat()));
        fixture.run_until(|reactor| reactor.held.len() >= 20);
        others.iter_mut().for_each(|other| Fixture::say(other, &Fixture::beat().repeat(10)));
        assert_eq!(frames_received(&fixture.reactor), 0);
        fixture.catch_up();
        fixture.run_until(|reactor| frames_received(reactor) == 220);
        let all = fixture.reactor.io.transmits.iter().map(|(_, transmit)| transmit.key);
        let all: Vec<_> = all.collect();
        all.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
        fixture.run_until(|reactor| reactor.slots.is_empty());
    }

    #[test]
    fn whom_memory_has_no_room_for_is_looked_at_once_a_turn() {
        let mut fixture = Fixture::new();
        let key = fixture.key();
        let frame = |frame_type, data: &[u8]| sdk::encode(frame_type, &[b'0'; 32], ResultCode::OK, data);
        let Reactor { shard, io, .. } = &mut fixture.reactor;
        let subscribe = frame(sdk::FrameType::SUBSCRIBE, br#"["t"]"#);
        shard.handle_frame(io.now, key, FrameRef::Slice(&subscribe), io);
        // Others use up all memory: no more than a little is taken for each.
        io.queues.recount(0, usize::MAX / 2);
        io.queues.set_bytes_max(1);
        let request = [&[2, b't'][..], &[7; 5_000]].concat();
        let request = frame(sdk::FrameType::REQUEST, &request);
        let deliver = MeshMessage::Deliver {
            request: RequestId { index: 0, generation: 0 },
            audience: None,
            excluded: Default::default(),
            wait_for_room: Some(Duration::from_secs(10)),
            draw_2x: crate::relay::peer_2x::Draw2x::Equally,
            prepaid: 0,
        };
        shard.handle_mesh(io.now, ReactorId(1), deliver, FrameRef::Slice(&request), io);
        assert_eq!(fixture.reactor.counters.room_waits.get(), 1);
        // It comes back, though the frame has no room yet.
        fixture.reactor.flush();
        assert_eq!(fixture.reactor.io.watching_room, [key]);
        fixture.reactor.io.queues.set_bytes_max(usize::MAX);
        fixture.reactor.flush();
        assert!(fixture.reactor.io.watching_room.is_empty());
        assert_eq!(fixture.reactor.counters.deliveries.get(), 1);
        assert_eq!(fixture.finish(), CloseReason::Shutdown);
    }

    /// What the peer said last lies unread when a send fails since it has gone: that tells why, not the send.
    #[test]
    fn a_peer_that_has_ended_in_order_is_not_said_to_have_broken_off_when_a_send_finds_it_gone() {
        for says_so in [true, false] {
            let mut fixture = Fixture::new();
            fixture.back_up();
            let mut record = Vec::new();
            fixture.peer_sealer.seal(ContentType::ApplicationData, &[&Fixture::beat()], &mut record).unwrap();
            if says_so {
                fixture.peer_sealer.close_notify(&mut record).unwrap();
            }
            std::io::Write::write_all(&mut fixture.peer, &record).unwrap();
            fixture.peer = std::os::unix::net::UnixStream::pair().unwrap().0;
            fixture.send_while_something_comes();
            fixture.catch_up();
            let key = fixture.key();
            while !fixture.reactor.io.is_ending(key) {
                fixture.reactor.handle_completions();
                fixture.reactor.enter(Some(SWEEP_INTERVAL));
            }
            let reason = if says_so { CloseReason::ByPeer } else { CloseReason::Broken };
            assert_eq!(fixture.finish(), reason);
        }
    }

    fn io(registry: Sender<RegistryInput>, queues_bytes_max: usize) -> Io {
        let mesh = Arc::new(Mesh::new(vec![Sleeper::new(Waker::new().unwrap())]));
        Io {
            now: Instant::now(),
            transmits: Slab::new(),
            dirty: Vec::new(),
            bulk: VecDeque::new(),
            mesh: MeshSender::new(mesh, ReactorId(0)),
            registry,
            reactor: ReactorId(0),
            counters: Arc::default(),
            put_off: AHashMap::new(),
            put_off_subscribers: AHashMap::new(),
            asking: AHashMap::new(),
            queues: Queues::new(queues_bytes_max),
            watching_room: Vec::new(),
            events: Arc::new(|_| {}),
        }
    }

    #[test]
    fn when_all_queues_are_full_a_session_with_little_in_its_own_still_gets_frames() {
        let (registry, _inputs) = unbounded();
        let mut io = io(registry, 1 << 20);
        let keys = [0, 1].map(|index| LinkKey { index, generation: 1 });
        for key in keys {
            let (sealer, _) = connection();
            io.transmits.insert(Transmit::new(io.now, key, Some(sealer), true, 8 << 20, Blocks::new()));
        }
        let send = |io: &mut Io, key| io.send(key, Class::Data, &[0; 500], FrameRef::EMPTY);
        let mut taken = 0;
        while send(&mut io, keys[0]).is_ok() {
            taken += 1;
        }
        assert!((500..1_050).contains(&taken), "{taken} frames of 500 bytes where 1 MiB is for all");
        assert_eq!(io.counters.queues_full.get(), 1);
        let mut others = 0;
        while send(&mut io, keys[1]).is_ok() {
            others += 1;
        }
        assert!((taken / 4..taken).contains(&others), "{others} frames beside {taken}");
        // What is sent makes room.
        let transmit = &mut io.transmits[0];
        for _ in 0..2 {
            transmit.next_send().unwrap();
            transmit.handle_sent(io.now, usize::MAX / 2);
        }
        io.recount(0);
        assert!(send(&mut io, keys[0]).is_ok());
        assert_eq!(
            io.queues.pool().bytes,
            io.transmits.iter().map(|(_, transmit)| transmit.charged()).sum::<usize>()
        );
    }

    #[test]
    fn changes_of_topics_are_summed_up_while_the_registry_is_behind_and_none_is_lost() {
        let (registry, inputs) = unbounded();
        let mut io = io(registry, usize::MAX);
        let topic = |name: &str| Topic::new(name).unwrap();
        let change = |name: &str, difference| RegistryInput::Topics {
            reactor: ReactorId(0),
            changes: vec![(topic(name), difference)],
        };
        for _ in 0..REGISTRY_QUEUE_MAX + 100 {
            assert!(io.to_registry(change("many", 1)));
        }
        assert!(io.to_registry(change("brief", 1)));
        assert!(io.to_registry(change("brief", -1)));
        assert_eq!(inputs.len(), REGISTRY_QUEUE_MAX);
        io.flush_topics();
        assert_eq!(inputs.try_iter().count(), REGISTRY_QUEUE_MAX);
        io.flush_topics();
        let Ok(RegistryInput::Topics { changes, .. }) = inputs.try_recv() else { panic!("nothing told") };
        assert_eq!(changes, [(topic("many"), 100)]);
        assert!(io.to_registry(change("after", 1)));
        assert_eq!(inputs.len(), 1);
        assert_eq!(io.counters.registry_changes_put_off.get(), 102);
    }

    #[test]
    fn a_subscriber_that_comes_and_goes_while_the_registry_is_behind_is_not_told_of() {
        let (registry, inputs) = unbounded();
        let mut io = io(registry, usize::MAX);
        let topic = Topic::new("#!$TopicNeedVerify_t").unwrap();
        let change = |number, subscribes| RegistryInput::Subscribers {
            changes: vec![(topic.clone(), SubscriberId(number), subscribes)],
        };
        for number in 0..REGISTRY_QUEUE_MAX as u64 {
            assert!(io.to_registry(change(number, true)));
        }
        for (number, subscribes) in [(1, false), (1 << 20, true), (1 << 20, false)] {
            assert!(io.to_registry(change(number, subscribes)));
        }
        assert_eq!(inputs.try_iter().count(), REGISTRY_QUEUE_MAX);
        io.flush_topics();
        let Ok(RegistryInput::Subscribers { changes }) = inputs.try_recv() else { panic!("nothing told") };
        assert_eq!(changes, [(topic.clone(), SubscriberId(1), false)]);
    }

    #[test]
    fn the_kernel_holds_little_unsent_of_a_node_link() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket: OwnedFd = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
        limit_unsent(&socket);
        assert_eq!(socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(), NOTSENT_BYTES_MAX);
    }
}
