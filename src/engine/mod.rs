//! The reactors that own the links, on io_uring or epoll (`ring`). All `unsafe` of the project lives here.
//!
//! Each reactor is a thread with a ring, a set of receive buffers, its links and its
//! [`Shard`](crate::relay::shard::Shard). Nothing is shared between reactors but the mesh and what the
//! relay shares.
//!
//! ```text
//!   socket ─► buffers ─► receive (records, frames in place) ─► shard ─► transmit (sealed at once) ─► socket
//!                                                               │ ▲
//!                                                               ▼ │ mesh, registry, door
//! ```
//!
//! Imports `relay`, `wire` and `tls`, and `log` and `supervise`.
//!
//! # Invariants
//! - A receive buffer goes back to its ring before the completion after it is handled.
//! - A send buffer, and a block that a link receives into, stays where it is until its completion has come.
//! - A link's slot is used again only when the kernel is done with the link before.

mod assemble;
mod blocks;
pub mod bounds;
mod descriptor;
mod memory;
mod mesh;
mod moderation;
pub mod names;
mod output;
mod queues;
mod reactor;
mod receive;
mod ring;
pub mod schedule;
mod sleep_flag;
pub mod streams;
#[cfg(test)]
mod testing;
pub mod time_sync;
mod transmit;
mod wake;
mod web_socket;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{self, AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{Sender, unbounded};
pub use descriptor::{duplicate, shut_down};
pub use memory::memory_bytes;
pub use moderation::{Latency, WaitSettings};
pub use reactor::AnswerCallback;
pub use ring::{EngineError, IoBackend, IoSetting};

use self::{
    assemble::UnfinishedFrames,
    bounds::INBOX_MAX,
    mesh::{Mesh, Sleeper},
    reactor::{Command, Reactor, ReactorParts},
    wake::Waker,
};
use crate::{
    relay::{
        CloseReason, LedgerDial, LinkUp, ReactorId, RegistryInput, RegistryOutput, Shared,
        diagnostic::Question,
    },
    stop::{StopTimes, join_by, wait_by},
    supervise,
    tls::{
        random::random,
        record::{Opener, RECORD_LEN_MAX, Sealer},
    },
};

/// How the engine is laid out.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// What the reactors are on.
    pub io: IoSetting,
    /// Processors to pin the reactors to, in order; empty leaves it to the kernel.
    pub pin: Vec<usize>,
    /// How reactors wait for work.
    pub wait: WaitSettings,
    /// Submission entries of a ring.
    pub ring_entries: u32,
    /// Receive buffers of a reactor, a power of two.
    pub receive_buffers: u16,
    /// Length of each in bytes.
    pub receive_buffer_len: usize,
    /// Bytes of unfinished frames on all links together.
    pub unfinished_bytes_max: usize,
    /// Bytes in the outgoing queues of all sessions together.
    pub queues_bytes_max: usize,
    /// When the keys of a connection are worn out.
    pub keys: KeyLimits,
}

/// How much one key may protect, in AES blocks of 16 bytes (or their like).
#[derive(Clone, Copy, Debug)]
pub struct KeyLimits {
    /// A node link is replaced by a new one there. Keys of TLS 1.3 are renewed there on any link.
    pub node_blocks_max: u64,
    /// A session, which cannot get new keys in TLS 1.2, is logged there …
    pub sdk_blocks_logged: u64,
    /// … and closed there, once what is in flight is answered.
    pub sdk_blocks_max: u64,
}

impl Default for KeyLimits {
    fn default() -> Self {
        Self { node_blocks_max: 1 << 34, sdk_blocks_logged: 1 << 40, sdk_blocks_max: 1 << 44 }
    }
}

impl EngineSettings {
    fn choose_io(&self) -> Result<(IoBackend, Option<EngineError>), EngineError> {
        self.io.choose(self.ring_entries, self.receive_buffers, self.receive_buffer_len)
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        let ram = memory_bytes();
        Self {
            io: IoSetting::default(),
            pin: Vec::new(),
            wait: WaitSettings::default(),
            ring_entries: 1_024,
            receive_buffers: 256,
            receive_buffer_len: 32 * 1024,
            unfinished_bytes_max: ram / 4,
            queues_bytes_max: ram / 16,
            keys: KeyLimits::default(),
        }
    }
}

/// How long the reactors of a node that cannot start may take to end.
const START_FAILED_WITHIN: Duration = Duration::from_secs(1);

const _: () = assert!(RECORD_LEN_MAX < 32 * 1024, "a receive buffer holds a whole record");

/// A link whose handshake is done, for a reactor to own.
pub struct NewLink {
    /// The door's name for it, given back in [`LinkClosed`].
    pub token: u64,
    /// Who is to own it.
    pub reactor: ReactorId,
    /// The connection; nothing of the door's may be pending on it.
    pub socket: OwnedFd,
    /// Who is at the other end.
    pub up: LinkUp,
    /// For sending and for receiving; `None` on a link without TLS, as only a listener on loopback makes it.
    pub tls: Option<(Sealer, Opener)>,
    /// Plaintext that came with the handshake.
    pub plaintext: Vec<u8>,
    /// Bytes that came behind it.
    pub received: Vec<u8>,
}

/// A link is gone.
#[derive(Clone, Copy, Debug)]
pub struct LinkClosed {
    /// As in [`NewLink`].
    pub token: u64,
    /// Why.
    pub reason: CloseReason,
}

/// What the engine tells of a link.
#[derive(Clone, Copy, Debug)]
pub enum LinkEvent {
    /// It is gone.
    Closed(LinkClosed),
    /// A node link whose keys are used up: whoever dialled it is to dial anew while it lives on for at
    /// most ten seconds.
    RekeyDue {
        /// As in [`NewLink`].
        token: u64,
    },
    /// A session needs a ledger node: a [`NewLink`] follows, or [`EngineHandle::ledger_dial_failed`].
    DialLedger {
        /// The session's reactor.
        reactor: ReactorId,
        /// Which ledger node, and what for.
        dial: LedgerDial,
    },
}

/// The running reactors.
pub struct Engine {
    handle: EngineHandle,
    threads: Vec<thread::JoinHandle<()>>,
    drained: Vec<Arc<AtomicBool>>,
}

/// Gives work to the reactors, from any thread.
#[derive(Clone)]
pub struct EngineHandle {
    io: IoBackend,
    inboxes: Arc<[Sender<Command>]>,
    mesh: Arc<Mesh>,
    unfinished: Arc<UnfinishedFrames>,
    /// Frames of the registry that were dropped, per reactor.
    dropped: Arc<[AtomicU64]>,
}

impl EngineHandle {
    /// What the reactors are on.
    pub fn io(&self) -> IoBackend {
        self.io
    }

    /// Bytes of frames that are not complete yet, on all links.
    pub fn unfinished_bytes(&self) -> usize {
        self.unfinished.bytes()
    }

    /// Gives a link to its reactor.
    pub fn adopt(&self, link: NewLink) {
        self.command(link.reactor, Command::Adopt(Box::new(link)));
    }

    /// A ledger node was not reached.
    pub fn ledger_dial_failed(&self, reactor: ReactorId, dial: LedgerDial) {
        self.command(reactor, Command::LedgerDialFailed(dial));
    }

    /// Has all reactors let their applications go, within such a time.
    pub fn begin_lame_duck(&self, within: Duration) {
        for index in 0..self.inboxes.len() {
            self.command(ReactorId(index as u16), Command::LameDuck(within));
        }
    }

    /// Passes on what the registry says. Frames for neighbours are dropped while the reactor is far behind:
    /// the next digest mends that.
    pub fn deliver(&self, reactor: ReactorId, output: RegistryOutput) {
        let index = usize::from(reactor.0);
        if matches!(output, RegistryOutput::ToNode { .. }) && self.inboxes[index].len() >= INBOX_MAX {
            self.dropped[index].fetch_add(1, Relaxed);
            return;
        }
        self.command(reactor, Command::Registry(output));
    }

    /// Closes all links to a node, at its home.
    pub fn close_node(&self, id: crate::wire::NodeId, reason: CloseReason) {
        self.command(
            crate::relay::home_reactor(&id, self.inboxes.len() as u16),
            Command::CloseNode { id, reason },
        );
    }

    /// Asks a reactor something; `reply` is called on its thread and must not block. `id` must be drawn at random each time.
    /// One question is answered in a turn. What another node is to reply to is answered within
    /// [`REPLY_TIME_MAX`](crate::relay::diagnostic::REPLY_TIME_MAX).
    pub fn ask(&self, reactor: ReactorId, id: u64, question: Question, reply: AnswerCallback) {
        self.command(reactor, Command::Ask { id, question: Box::new(question), reply });
    }

    fn command(&self, reactor: ReactorId, command: Command) {
        // A reactor that is gone needs no commands.
        let _ = self.inboxes[usize::from(reactor.0)].send(command);
        self.mesh.sleepers[usize::from(reactor.0)].nudge();
    }
}

impl Engine {
    /// Starts as many reactors as `shared` says. `events` is called on their threads and must not block.
    pub fn start(
        settings: &EngineSettings,
        shared: &Arc<Shared>,
        registry: &Sender<RegistryInput>,
        events: &Arc<dyn Fn(LinkEvent) + Send + Sync>,
    ) -> Result<Self, EngineError> {
        let count = shared.reactors;
        let (io, why) = settings.choose_io()?;
        if let Some(why) = why {
            tracing::warn!(%io, %why, "io_uring cannot be had: the node runs on epoll, where a message costs more processor time");
        }
        let wakers = (0..count)
            .map(|_| Waker::new().map_err(|error| EngineError::from_io("an eventfd", error)))
            .collect::<Result<Vec<_>, _>>()?;
        let mesh = Arc::new(
            Mesh::new(wakers.iter().cloned().map(Sleeper::new).collect())
                .with_bytes_max(shared.settings.tables.of(bounds::MESH_BYTES_MAX)),
        );
        let unfinished = Arc::new(UnfinishedFrames::new(settings.unfinished_bytes_max, count));
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded()).unzip();
        let dropped: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let drained: Vec<Arc<AtomicBool>> = (0..count).map(|_| Arc::default()).collect();
        let mut engine = Self {
            handle: EngineHandle {
                io,
                inboxes: inboxes.into(),
                mesh: mesh.clone(),
                unfinished: unfinished.clone(),
                dropped: dropped.clone(),
            },
            threads: Vec::new(),
            drained: drained.clone(),
        };
        for (index, inbox) in receivers.into_iter().enumerate() {
            let parts = ReactorParts {
                id: ReactorId(index as u16),
                shared: shared.clone(),
                settings: settings.clone(),
                io,
                mesh: mesh.clone(),
                inbox,
                registry: registry.clone(),
                wake_fd: wakers[index].raw(),
                unfinished: unfinished.clone(),
                events: events.clone(),
                drained: drained[index].clone(),
                dropped: dropped.clone(),
                seed: random(),
            };
            let core = (!settings.pin.is_empty()).then(|| settings.pin[index % settings.pin.len()]);
            match engine.start_reactor(parts, core) {
                Ok(thread) => engine.threads.push(thread),
                Err(error) => return Err(error),
            }
        }
        Ok(engine)
    }

    fn start_reactor(
        &self,
        parts: ReactorParts,
        core: Option<usize>,
    ) -> Result<thread::JoinHandle<()>, EngineError> {
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let mesh = self.handle.mesh.clone();
        let run = move || {
            // The kernel writes to its buffers.
            supervise::must_not_unwind();
            schedule::set_role(schedule::Role::Messages);
            let reactor = pin(core).and_then(|()| Reactor::new(parts));
            match reactor {
                Ok(reactor) => {
                    let _ = started.send(Ok(()));
                    reactor.run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
            // The eventfd must outlive the reactor's ring.
            drop(mesh);
        };
        let thread = supervise::joined_thread("amop-reactor", run)
            .map_err(|error| EngineError::from_io("a thread", error))?;
        match start.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::from_io("a thread", std::io::Error::other("it ended at once"))),
        }
    }

    /// What the reactors are on.
    pub fn io(&self) -> IoBackend {
        self.handle.io
    }

    /// For giving work to the reactors.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Lets requests in flight be answered, closes all links in order, cuts those that do not close, and ends: all
    /// of it within `timeout`. `false` if a reactor still runs, which then ends with the process.
    pub fn stop(mut self, timeout: Duration) -> bool {
        self.end(timeout)
    }

    fn end(&mut self, timeout: Duration) -> bool {
        let times = StopTimes::new(Instant::now(), timeout);
        let command = |command: fn() -> Command| {
            for index in 0..self.threads.len() {
                self.handle.command(ReactorId(index as u16), command());
            }
        };
        command(|| Command::Drain);
        // Those that have not been started have nothing to finish.
        let drained = &self.drained[..self.threads.len()];
        wait_by(times.drained_by, || drained.iter().all(|drained| drained.load(Relaxed)));
        command(|| Command::CloseAll);
        wait_by(times.closed_by, || self.threads.iter().all(thread::JoinHandle::is_finished));
        command(|| Command::CutAll);
        // None can have panicked: that ends the process.
        let left = self.threads.drain(..).filter_map(|thread| join_by(thread, times.ended_by).err());
        left.count() == 0
    }
}

/// Whoever starts it and then cannot go on leaves no reactor behind.
impl Drop for Engine {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end(START_FAILED_WITHIN);
        }
    }
}

/// Whether reactors could be started so: tried on a thread of its own, which ends at once. Gives what they would be on, and why
/// that is not io_uring, if that was tried.
pub fn check(settings: &EngineSettings) -> Result<(IoBackend, Option<EngineError>), EngineError> {
    let settings = settings.clone();
    let tried = supervise::joined_thread("amop-check", move || {
        settings.pin.iter().try_for_each(|core| pin(Some(*core)))?;
        settings.choose_io()
    });
    tried
        .map_err(|error| EngineError::from_io("a thread", error))?
        .join()
        .unwrap_or_else(|_| Err(EngineError::from_io("a thread", std::io::Error::other("it ended at once"))))
}

fn pin(core: Option<usize>) -> Result<(), EngineError> {
    let Some(core) = core else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(EngineError::Pin { core, source: rustix::io::Errno::INVAL.into() });
    }
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| EngineError::Pin { core, source: error.into() })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::{NodeId, node::PacketType};

    #[test]
    fn whoever_drops_the_engine_leaves_no_reactor_behind() {
        let relay = crate::relay::settings::Settings::default();
        let shared = Arc::new(Shared::new(NodeId([1; 64]), 1, 2, Instant::now(), relay));
        let (registry, _inputs) = unbounded();
        let events: Arc<dyn Fn(LinkEvent) + Send + Sync> = Arc::new(|_| {});
        let settings = EngineSettings {
            io: testing::io(),
            ring_entries: 16,
            receive_buffers: 16,
            ..EngineSettings::default()
        };
        let engine = Engine::start(&settings, &shared, &registry, &events).unwrap();
        assert!(Arc::strong_count(&events) > 1);
        drop(engine);
        assert_eq!(Arc::strong_count(&events), 1);
    }

    #[test]
    fn a_reactor_far_behind_gets_no_more_frames_of_the_registry_but_all_answers() {
        let (inbox, commands) = unbounded();
        let sleeper = Sleeper::new(Waker::new().unwrap());
        let handle = EngineHandle {
            io: IoBackend::Epoll,
            inboxes: [inbox].into(),
            mesh: Arc::new(Mesh::new(vec![sleeper])),
            unfinished: Arc::new(UnfinishedFrames::new(1, 1)),
            dropped: [AtomicU64::new(0)].into(),
        };
        let frame = || RegistryOutput::ToNode {
            to: NodeId([1; 64]),
            packet_type: PacketType::STATE_SEQ,
            seq: None,
            payload: Bytes::new(),
        };
        for _ in 0..INBOX_MAX + 10 {
            handle.deliver(ReactorId(0), frame());
        }
        let link = crate::relay::LinkKey { index: 0, generation: 1 };
        let answer = RegistryOutput::RpcAnswer { link, seq: [0; 32], body: Bytes::new() };
        handle.deliver(ReactorId(0), answer);
        assert_eq!(handle.dropped[0].load(Relaxed), 10);
        assert_eq!(commands.len(), INBOX_MAX + 1);
        assert!(matches!(
            commands.try_iter().last(),
            Some(Command::Registry(RegistryOutput::RpcAnswer { .. }))
        ));
    }
}
