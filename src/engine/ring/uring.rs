//! A ring of io_uring: set up, entered, and given its buffers.

use std::{
    alloc::{Layout, dealloc},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, AtomicU64, Ordering::Release},
    time::Duration,
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{self, BufRingEntry},
};
use rustix::{event::PollFlags, io::Errno, net::SendFlags};

use super::{
    Completion, EngineError, Operation,
    buffers::{Buffers, PAGE, allocate},
};
use crate::engine::bounds::{PUSH_ATTEMPTS_AT_ONCE, PUSH_ATTEMPTS_MAX, PUSH_PAUSE};

/// The group number of a ring's buffers; there is one group per ring.
const GROUP: u16 = 0;

/// Where the kernel puts the counters of eventfds. Nobody reads it, and reads outlive their rings.
static WAKE_COUNTER: AtomicU64 = AtomicU64::new(0);

/// io_uring, for one thread.
pub(super) struct Uring {
    // The ring goes first: the kernel must be done with the entries before they go.
    ring: IoUring,
    free: BufferRing,
    /// Completions that were taken off to make room.
    early: Vec<Completion>,
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Self {
        Self { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

impl Uring {
    /// With room for so many operations to wait, and for so many buffers.
    pub(super) fn new(entries: u32, buffers: u16) -> Result<Self, EngineError> {
        let ring = build(entries)?;
        let free = BufferRing::register(&ring, buffers)?;
        Ok(Self { ring, free, early: Vec::new() })
    }

    /// # Safety
    /// As [`Ring::push`](super::Ring::push) asks.
    pub(super) unsafe fn push(&mut self, operation: Operation, user_data: u64) -> io::Result<()> {
        let entry = match operation {
            Operation::ReceiveMany { socket } => opcode::RecvMulti::new(types::Fd(socket), GROUP).build(),
            Operation::ReceiveInto { socket, room, len } => {
                opcode::Recv::new(types::Fd(socket), room, len).build()
            }
            Operation::Send { socket, bytes, len } => opcode::Send::new(types::Fd(socket), bytes, len)
                .flags(SendFlags::NOSIGNAL.bits() as i32)
                .build(),
            Operation::AwaitWake { eventfd } => {
                opcode::Read::new(types::Fd(eventfd), WAKE_COUNTER.as_ptr().cast(), 8).build()
            }
            Operation::Watch { socket } => {
                // Told whenever either changes, so an owner reads and writes until it would block.
                let either = (PollFlags::IN | PollFlags::OUT).bits();
                opcode::PollAdd::new(types::Fd(socket), either.into()).multi(true).build()
            }
        };
        // SAFETY: what the entry names is for our caller to keep. Buffers of the group are the kernel's until a completion
        // names them, and the counter is never freed and never read.
        unsafe { self.push_entry(&entry.user_data(user_data)) }
    }

    pub(super) fn cancel(&mut self, name: u64, user_data: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(name).build().user_data(user_data);
        // SAFETY: it names neither memory nor a descriptor.
        unsafe { self.push_entry(&entry) }
    }

    /// Gives the kernel an entry. An error says that it did not take it.
    ///
    /// # Safety
    /// As [`Ring::push`](super::Ring::push) asks.
    unsafe fn push_entry(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for attempt in 0..PUSH_ATTEMPTS_MAX {
            // SAFETY: the caller's promise is what is asked for here.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            // Full: it takes entries again as soon as the kernel has these.
            if let Err(error) = self.ring.submit() {
                match error.raw_os_error().map(Errno::from_raw_os_error) {
                    // It has no room for what it would tell, or was disturbed.
                    Some(Errno::BUSY | Errno::AGAIN | Errno::INTR | Errno::NOMEM) => {}
                    _ => return Err(error),
                }
                self.early.extend(self.ring.completion().map(Completion::from));
                match attempt {
                    ..PUSH_ATTEMPTS_AT_ONCE => std::thread::yield_now(),
                    _ => std::thread::sleep(PUSH_PAUSE),
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel takes no entries"))
    }

    pub(super) fn submit(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        unless_harmless(self.ring.submit())
    }

    pub(super) fn enter(&mut self, wait: Duration) -> io::Result<()> {
        // What was taken off waits already.
        enter(&mut self.ring, if self.early.is_empty() { wait } else { Duration::ZERO })
    }

    pub(super) fn gather(&mut self, count: usize, wait: Duration) -> io::Result<()> {
        unless_harmless(wait_for_completions(&mut self.ring, count, wait))
    }

    pub(super) fn take(&mut self, completions: &mut Vec<Completion>, count_max: usize) {
        completions.append(&mut self.early);
        completions.extend(self.ring.completion().take(count_max).map(Completion::from));
    }

    pub(super) fn has_work_left(&self) -> bool {
        !self.early.is_empty()
    }

    pub(super) fn give_back(&mut self, id: u16, buffers: &Buffers) {
        self.free.add(id, buffers);
    }
}

/// The ring of entries by which the kernel is given buffers to fill.
struct BufferRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
}

impl BufferRing {
    /// For so many buffers (a power of two).
    fn register(ring: &IoUring, count: u16) -> Result<Self, EngineError> {
        let free = Self { entries: allocate(Self::layout(count)).cast(), count, tail: 0 };
        // SAFETY: the entries are page-aligned, zeroed, as many as said, and live until `drop`, which runs after the ring is
        // gone (field order in `Uring`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(free.entries.as_ptr() as u64, count, GROUP, 0)
        }
        .map_err(|error| EngineError::from_io("receive buffers", error))?;
        Ok(free)
    }

    fn layout(count: u16) -> Layout {
        let size = usize::from(count) * size_of::<BufRingEntry>();
        Layout::from_size_align(size, PAGE).expect("at most 512 KiB, page-aligned")
    }

    fn add(&mut self, id: u16, buffers: &Buffers) {
        let slot = self.tail & (self.count - 1);
        // SAFETY: the slot lies in the ring, and the kernel reads slots only below the tail, which is
        // moved past it afterwards. The tail lies in the reserved bytes of the first entry, which setting
        // address, length and id leaves alone.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(slot));
            entry.set_addr(buffers.address(id) as u64);
            entry.set_len(buffers.len() as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 inside the ring that only this thread writes and the kernel
        // reads.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Release);
        }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout.
        unsafe { dealloc(self.entries.as_ptr().cast(), Self::layout(self.count)) };
    }
}

/// A ring for one thread, with deferred task work where the kernel has it.
fn build(entries: u32) -> Result<IoUring, EngineError> {
    let mut best = IoUring::builder();
    best.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_clamp()
        .setup_cqsize(entries * 4);
    let ring = match best.build(entries) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            let ring = build_plain(entries)?;
            tracing::warn!("this kernel lacks deferred task work (Linux 6.1): io_uring runs with less speed");
            ring
        }
        built => built.map_err(|error| EngineError::from_io("io_uring", error))?,
    };
    // A filter may allow the setup and deny this.
    ring.submitter().submit().map_err(|error| EngineError::from_io("io_uring_enter", error))?;
    Ok(ring)
}

/// The same without. Multishot receives came with Linux 6.0, as the promise of a single issuer did: an older kernel refuses
/// that, and not each receive once there are links.
fn build_plain(entries: u32) -> Result<IoUring, EngineError> {
    let mut plain = IoUring::builder();
    plain
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_clamp()
        .setup_cqsize(entries * 4);
    plain.build(entries).map_err(|error| EngineError::from_io("io_uring", error))
}

/// The argument of a waiting `io_uring_enter`, as the kernel has it (`struct io_uring_getevents_arg`).
#[repr(C)]
struct WaitArgument {
    signal_mask: u64,
    signal_mask_len: u32,
    min_wait_us: u32,
    /// Address of the timeout.
    timeout: u64,
}

/// `IORING_ENTER_GETEVENTS`
const GET_EVENTS: u32 = 1 << 0;
/// `IORING_ENTER_EXT_ARG`
const EXTENDED_ARGUMENT: u32 = 1 << 3;
/// `IORING_ENTER_NO_IOWAIT`
const NO_IOWAIT: u32 = 1 << 7;

/// Waits for so many completions at most so long. A thread that waits for messages does not wait for a disk: where the kernel can
/// tell them apart (Linux 6.15), tools show its processor as idle.
fn wait_for_completions(ring: &mut IoUring, count: usize, wait: Duration) -> io::Result<usize> {
    let timeout = types::Timespec::from(wait);
    if !ring.params().is_feature_no_iowait() {
        return ring.submitter().submit_with_args(count, &types::SubmitArgs::new().timespec(&timeout));
    }
    let argument = WaitArgument {
        signal_mask: 0,
        signal_mask_len: 0,
        min_wait_us: 0,
        timeout: (&raw const timeout) as u64,
    };
    let submitted = ring.submission().len() as u32;
    let flags = GET_EVENTS | EXTENDED_ARGUMENT | NO_IOWAIT;
    // SAFETY: what was submitted is for its pusher to answer for. The kernel reads the argument and the timeout, which live
    // until it returns.
    unsafe { ring.submitter().enter(submitted, count as u32, flags, Some(&argument)) }
}

/// Submits, and waits for a completion at most so long.
fn enter(ring: &mut IoUring, wait: Duration) -> io::Result<()> {
    let entered = if wait.is_zero() {
        // To wait for no time at all is to go to sleep on a timer: a thread that looks for work asks only if there is some.
        let queue = ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        let submitted = queue.len() as u32;
        drop(queue);
        // What comes while the kernel sends is taken, too: together it costs less.
        // SAFETY: what was submitted is for its pusher to answer for.
        unsafe { ring.submitter().enter::<WaitArgument>(submitted, 0, GET_EVENTS, None) }
    } else {
        wait_for_completions(ring, 1, wait)
    };
    unless_harmless(entered)
}

/// Time being up, a signal, and completions that are to be taken first are no errors.
fn unless_harmless(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wake::Waker;

    #[test]
    fn an_older_kernel_that_lacks_multishot_receives_lacks_what_each_ring_asks_for() {
        assert!(build_plain(8).unwrap().params().is_setup_single_issuer());
        let refused = EngineError::from_io("io_uring", Errno::INVAL.into()).to_string();
        assert!(refused.contains("Linux 6.0 or newer is needed"), "{refused}");
    }

    #[test]
    fn who_does_not_wait_is_told_of_what_was_submitted_and_of_what_happened_since() {
        let (mut ring, waker) = (build(8).unwrap(), Waker::new().unwrap());
        let mut counter = 0u64;
        let entry = opcode::Read::new(types::Fd(waker.raw()), (&raw mut counter).cast(), 8).build();
        // SAFETY: `counter` and the eventfd live until the read is done.
        unsafe { ring.submission().push(&entry).unwrap() };
        enter(&mut ring, Duration::ZERO).unwrap();
        assert!(ring.completion().is_empty());
        waker.wake();
        enter(&mut ring, Duration::ZERO).unwrap();
        assert_eq!(ring.completion().next().map(|entry| entry.result()), Some(8));
        assert_eq!(counter, 1);
    }

    #[test]
    fn a_ring_that_takes_nothing_any_more_is_an_error_and_no_endless_try() {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        let (mut uring, waker) = (Uring::new(16, 16).unwrap(), Waker::new().unwrap());
        // SAFETY: the descriptor is the ring's, which is open, and is not closed here.
        let mut ring = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(uring.ring.as_raw_fd()) });
        rustix::io::dup2(std::fs::File::open("/dev/null").unwrap(), &mut ring).unwrap();
        let wake = Operation::AwaitWake { eventfd: waker.raw() };
        // SAFETY: the eventfd lives, and no other memory is used.
        let has_failed = (0..=16).any(|_| unsafe { uring.push(wake, 0) }.is_err());
        assert!(has_failed);
    }
}
