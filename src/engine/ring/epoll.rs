//! epoll, for kernels and containers in which io_uring cannot be had: what was pushed is carried out by system calls that do not
//! block, with the next submission or as soon as its descriptor is ready.
//!
//! # Invariants
//! - A descriptor is registered with its first operation, told of changes only (edge-triggered), and let go of before it is closed.
//! - `readable` and `writable` are taken back only by a call that finds nothing, or less than it asked for.
//! - Nothing goes out before it is submitted: what a turn tells other reactors is told before peers see its answers.
//! - Whatever points to memory goes when its operation completes.

use std::{
    collections::VecDeque,
    io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use ahash::AHashMap;
use rustix::{
    buffer::spare_capacity,
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
        poll,
    },
    io::{Errno, retry_on_intr},
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{Completion, EngineError, Operation, buffers::Buffers};
use crate::engine::bounds::{EPOLL_EVENTS_MAX, RECEIVES_PER_DESCRIPTOR};

/// Waits of whole milliseconds are told to epoll itself, which knows no shorter ones before Linux 5.11; a seccomp filter may
/// end a process that tries what is newer.
const MILLISECOND: Duration = Duration::from_millis(1);
/// No wait is longer.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

const HUNG_UP: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// epoll, for one thread.
pub(super) struct Epoll {
    epoll: OwnedFd,
    /// Those with something pending, or whose owner has not closed them.
    descriptors: AHashMap<RawFd, Descriptor>,
    /// Those with a send that was pushed and not submitted yet.
    pushed: Vec<RawFd>,
    /// Those that have something to receive, in turn.
    ready: VecDeque<RawFd>,
    completions: VecDeque<Completion>,
    /// Receive buffers that can be filled; the last one back is the first to be used, for it is in the processor's cache.
    free: Vec<u16>,
    events: Vec<Event>,
    /// Whether the kernel was not asked for events the last time, since there was something to complete already.
    has_skipped: bool,
}

/// What is known of a descriptor, and pending on it.
#[derive(Default)]
struct Descriptor {
    input: Option<Input>,
    output: Option<Output>,
    readable: bool,
    writable: bool,
    /// Its stream has come to its end, or broke: it is readable until a receive has told so.
    has_hung_up: bool,
    /// Whether it is among those that are ready.
    is_queued: bool,
}

/// Memory of what is known of a descriptor, in bytes; on io_uring it is in the kernel.
pub(in crate::engine) const DESCRIPTOR_LEN: usize = size_of::<(RawFd, Descriptor)>();

struct Input {
    user_data: u64,
    kind: InputKind,
}

#[derive(Clone, Copy)]
enum InputKind {
    Many,
    Into(*mut u8, usize),
    Wake,
    Watch,
}

struct Output {
    user_data: u64,
    bytes: *const u8,
    len: usize,
}

/// # Safety
/// The descriptor is open, as it is while anything is pending on it, until it is let go of.
unsafe fn borrow<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the caller's promise.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

impl Epoll {
    pub(super) fn new(buffers: u16) -> Result<Self, EngineError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| EngineError::Other { what: "epoll", source: error.into() })?;
        Ok(Self {
            epoll,
            descriptors: AHashMap::new(),
            pushed: Vec::new(),
            ready: VecDeque::new(),
            completions: VecDeque::new(),
            free: Vec::with_capacity(buffers.into()),
            events: Vec::with_capacity(EPOLL_EVENTS_MAX),
            has_skipped: false,
        })
    }

    /// # Safety
    /// As [`Ring::push`](super::Ring::push) asks.
    pub(super) unsafe fn push(&mut self, operation: Operation, user_data: u64) {
        let (descriptor, input) = match operation {
            Operation::Send { socket, bytes, len } => {
                let output = Output { user_data, bytes, len: len as usize };
                match self.known(socket, false) {
                    Ok(descriptor) => {
                        debug_assert!(descriptor.output.is_none(), "one send at a time");
                        descriptor.output = Some(output);
                        self.pushed.push(socket);
                    }
                    Err(error) => self.complete(user_data, Err(error)),
                }
                return;
            }
            Operation::ReceiveMany { socket } => (socket, InputKind::Many),
            Operation::ReceiveInto { socket, room, len } => (socket, InputKind::Into(room, len as usize)),
            Operation::AwaitWake { eventfd } => (eventfd, InputKind::Wake),
            Operation::Watch { socket } => (socket, InputKind::Watch),
        };
        match self.known(descriptor, matches!(input, InputKind::Wake)) {
            Ok(known) => {
                debug_assert!(known.input.is_none(), "one receive at a time");
                known.input = Some(Input { user_data, kind: input });
                self.queue_if_ready(descriptor);
            }
            Err(error) => self.complete(user_data, Err(error)),
        }
    }

    /// What is known of a descriptor, which is registered with its first operation.
    fn known(&mut self, descriptor: RawFd, is_eventfd: bool) -> Result<&mut Descriptor, Errno> {
        use std::collections::hash_map::Entry;
        match self.descriptors.entry(descriptor) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                let mut wanted = EventFlags::ET | EventFlags::IN;
                if !is_eventfd {
                    wanted |= EventFlags::OUT | EventFlags::RDHUP;
                }
                // SAFETY: whoever pushes an operation keeps the descriptor open.
                let borrowed = unsafe { borrow(descriptor) };
                epoll::add(&self.epoll, borrowed, EventData::new_u64(descriptor as u64), wanted)?;
                // What is there already is told as a first change.
                Ok(vacant.insert(Descriptor { writable: true, ..Descriptor::default() }))
            }
        }
    }

    /// Ends a receive, if it is still pending.
    pub(super) fn cancel_receive(&mut self, socket: RawFd, name: u64, user_data: u64) {
        let known = self.descriptors.get_mut(&socket);
        let input = known.and_then(|known| known.input.take_if(|input| input.user_data == name));
        let found = match input {
            Some(_) => {
                self.complete(name, Err(Errno::CANCELED));
                Ok(0)
            }
            None => Err(Errno::NOENT),
        };
        self.complete(user_data, found);
    }

    /// The owner of a descriptor is about to close it.
    pub(super) fn let_go(&mut self, descriptor: RawFd) {
        let Some(known) = self.descriptors.remove(&descriptor) else { return };
        debug_assert!(known.input.is_none() && known.output.is_none(), "something is pending");
        if known.is_queued {
            self.ready.retain(|ready| *ready != descriptor);
        }
        // SAFETY: it is not closed yet.
        let borrowed = unsafe { borrow(descriptor) };
        // Somebody else may have a duplicate, so that closing it would not be enough.
        if let Err(error) = epoll::delete(&self.epoll, borrowed) {
            tracing::debug!(descriptor, %error, "epoll did not know a descriptor");
        }
    }

    pub(super) fn give_back(&mut self, id: u16) {
        self.free.push(id);
    }

    pub(super) fn take(&mut self, completions: &mut Vec<Completion>, count_max: usize) {
        let count = count_max.min(self.completions.len());
        completions.extend(self.completions.drain(..count));
    }

    /// Sends that are done are none: as with io_uring, whoever sends waits for them.
    pub(super) fn has_work_left(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Sends what was pushed, as far as there is room.
    pub(super) fn submit(&mut self) {
        let mut pushed = std::mem::take(&mut self.pushed);
        pushed.drain(..).for_each(|socket| self.send(socket));
        self.pushed = pushed;
    }

    /// Submits, receives, and waits for a completion at most so long.
    pub(super) fn enter(&mut self, wait: Duration, buffers: &Buffers) -> io::Result<()> {
        self.submit();
        self.receive_ready(buffers);
        // What is done can be seen to before the kernel is asked for more; the time after it is.
        if !self.completions.is_empty() && !std::mem::replace(&mut self.has_skipped, true) {
            return Ok(());
        }
        self.has_skipped = false;
        let is_idle = self.completions.is_empty() && self.ready.is_empty();
        self.await_events(if is_idle { wait } else { Duration::ZERO })?;
        self.receive_ready(buffers);
        Ok(())
    }

    /// Lets so much time pass before it looks, unless so many completions are there already: each wake would cost what gathering is
    /// to save.
    pub(super) fn gather(&mut self, count: usize, wait: Duration, buffers: &Buffers) -> io::Result<()> {
        self.submit();
        self.receive_ready(buffers);
        if self.completions.len() < count && self.ready.is_empty() {
            std::thread::sleep(wait);
        }
        self.has_skipped = false;
        self.await_events(Duration::ZERO)?;
        self.receive_ready(buffers);
        Ok(())
    }

    /// Asks the kernel for events, and sends where there is room now.
    fn await_events(&mut self, wait: Duration) -> io::Result<()> {
        let wait = wait.min(WAIT_MAX);
        let mut whole = Timespec { tv_sec: 0, tv_nsec: 0 };
        if wait >= MILLISECOND {
            // Of what is left beyond whole milliseconds there is a wait of its own.
            let wait = Duration::from_millis(wait.as_millis() as u64);
            whole = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        } else if !wait.is_zero() {
            let exact = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            let come = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&exact));
            if unless_interrupted(come)? == 0 {
                return Ok(());
            }
        }
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let come = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&whole));
        let come = unless_interrupted(come);
        for event in events.drain(..) {
            self.handle_event(&event);
        }
        self.events = events;
        come.map(drop)
    }

    fn handle_event(&mut self, event: &Event) {
        let descriptor = event.data.u64() as RawFd;
        let Some(known) = self.descriptors.get_mut(&descriptor) else { return };
        let flags = event.flags;
        known.has_hung_up |= flags.intersects(HUNG_UP);
        known.readable |= flags.intersects(EventFlags::IN.union(HUNG_UP));
        known.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        if let Some(Input { user_data, kind: InputKind::Watch }) = known.input {
            let either = Completion::new(user_data, flags.bits() as i32);
            self.completions.push_back(either.with_more());
            return;
        }
        self.queue_if_ready(descriptor);
        self.send(descriptor);
    }

    fn queue_if_ready(&mut self, descriptor: RawFd) {
        let Some(known) = self.descriptors.get_mut(&descriptor) else { return };
        if known.readable && known.input.is_some() && !std::mem::replace(&mut known.is_queued, true) {
            self.ready.push_back(descriptor);
        }
    }

    /// Sends what is to be sent, if there is room.
    fn send(&mut self, socket: RawFd) {
        let Some(known) = self.descriptors.get_mut(&socket) else { return };
        if !known.writable {
            return;
        }
        let Some(Output { user_data, bytes, len }) = known.output else { return };
        // SAFETY: whoever pushed the operation keeps the bytes, and the socket open, until it completes, which is below.
        let (socket, bytes) = unsafe { (borrow(socket), std::slice::from_raw_parts(bytes, len)) };
        let sent = retry_on_intr(|| send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL));
        match sent {
            // The next event tries again.
            Err(Errno::AGAIN) => known.writable = false,
            sent => {
                known.output = None;
                self.complete(user_data, sent);
            }
        }
    }

    /// Receives of whatever is ready, each in its turn.
    fn receive_ready(&mut self, buffers: &Buffers) {
        for _ in 0..self.ready.len() {
            let Some(descriptor) = self.ready.pop_front() else { break };
            if let Some(known) = self.descriptors.get_mut(&descriptor) {
                known.is_queued = false;
                self.receive(descriptor, buffers);
                self.queue_if_ready(descriptor);
            }
        }
    }

    /// Receives of one descriptor, until nothing is left, or it had its share of this turn.
    fn receive(&mut self, descriptor: RawFd, buffers: &Buffers) {
        for _ in 0..RECEIVES_PER_DESCRIPTOR {
            let Some(known) = self.descriptors.get_mut(&descriptor).filter(|known| known.readable) else {
                return;
            };
            let Some(Input { user_data, kind }) = known.input else { return };
            let (id, room, len) = match kind {
                InputKind::Into(room, len) => (None, room, len),
                InputKind::Many => match self.free.pop() {
                    Some(id) => (Some(id), buffers.address(id), buffers.len()),
                    None => {
                        known.input = None;
                        return self.complete(user_data, Err(Errno::NOBUFS));
                    }
                },
                // Nobody needs the counter: each wake is a change, told as an event of its own.
                InputKind::Wake => {
                    (known.readable, known.input) = (false, None);
                    return self.complete(user_data, Ok(size_of::<u64>()));
                }
                InputKind::Watch => return,
            };
            // SAFETY: whoever pushed the operation lends the room, and keeps the descriptor open, until it completes, which is
            // below; a buffer that is free is lent to nobody else. Both are initialized.
            let (socket, room) = unsafe { (borrow(descriptor), std::slice::from_raw_parts_mut(room, len)) };
            let came = retry_on_intr(|| recv(socket, &mut *room, RecvFlags::DONTWAIT)).map(|(_, len)| len);
            match (came, id) {
                (Err(Errno::AGAIN), id) => {
                    known.readable = false;
                    self.free.extend(id);
                    return;
                }
                (Ok(came @ 1..), Some(id)) => {
                    known.readable = came == len || known.has_hung_up;
                    let received = Completion::new(user_data, came as i32);
                    self.completions.push_back(received.with_buffer(id).with_more());
                }
                (ended, id) => {
                    known.readable = known.has_hung_up || ended == Ok(len);
                    known.input = None;
                    self.free.extend(id);
                    return self.complete(user_data, ended);
                }
            }
        }
    }

    fn complete(&mut self, user_data: u64, result: Result<usize, Errno>) {
        // Lengths are at most what was asked for, which is an u32; the kernel sends and receives no more than 2 GiB at once.
        let result = result.map_or_else(|error| -error.raw_os_error(), |len| len as i32);
        self.completions.push_back(Completion::new(user_data, result));
    }
}

/// A signal is no error: whoever waits looks again.
fn unless_interrupted(come: Result<usize, Errno>) -> io::Result<usize> {
    match come {
        Err(Errno::INTR) => Ok(0),
        come => Ok(come?),
    }
}
