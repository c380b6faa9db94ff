//! What the engine asks of the kernel, and how it is told: operations are pushed, and their completions are taken. A thread has
//! one ring, with the buffers that its sockets receive into.
//!
//! ```text
//!   push ─► kernel ─► take ─► filled … give_back
//! ```
//!
//! # Invariants
//! - An operation that was pushed completes, once, or many times of which the last says that no more come.
//! - A buffer that a completion names belongs to whoever took it, until it is given back.
//! - A descriptor is let go of before it is closed, with nothing pending on it.

mod buffers;
mod choice;
mod epoll;
mod uring;

use std::{io, os::fd::RawFd, time::Duration};

use io_uring::cqueue;
use rustix::io::Errno;

pub use self::choice::{IoBackend, IoSetting};
pub(super) use self::epoll::DESCRIPTOR_LEN;
use self::{buffers::Buffers, epoll::Epoll, uring::Uring};

/// Why the engine cannot start. The system's doing; each text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `kernel.io_uring_disabled`, or a seccomp filter.
    #[error(
        "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, and in a container allow the \
         io_uring_setup, io_uring_enter and io_uring_register system calls in its seccomp profile"
    )]
    Forbidden,
    /// A kernel without io_uring, or without what is needed of it.
    #[error(
        "this kernel has no io_uring with multishot receives and buffer rings: Linux 6.0 or newer is needed, best 6.1 or newer"
    )]
    OldKernel,
    /// Locked memory is limited.
    #[error(
        "io_uring may not lock enough memory: raise the memlock limit (ulimit -l, LimitMEMLOCK=) to 64 MiB or more"
    )]
    Memlock,
    /// Files are limited.
    #[error("too few files may be open: raise the limit (ulimit -n, LimitNOFILE=)")]
    Files,
    /// A processor that this process may not use.
    #[error(
        "cannot pin a reactor to processor {core}: {source}; check [engine] pin against the machine and its cpuset"
    )]
    Pin {
        /// Which processor.
        core: usize,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("setting up {what} failed: {source}")]
    Other {
        /// What was being set up.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl EngineError {
    pub(super) fn from_io(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::Forbidden,
            Some(Errno::NOSYS | Errno::INVAL) => Self::OldKernel,
            Some(Errno::NOMEM) => Self::Memlock,
            Some(Errno::MFILE | Errno::NFILE) => Self::Files,
            _ => Self::Other { what, source },
        }
    }
}

/// What can be asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// Whatever comes, each time into a receive buffer, until the stream ends or no buffer is left (`ENOBUFS`).
    ReceiveMany {
        /// From where.
        socket: RawFd,
    },
    /// What comes next, into memory of one's own.
    ReceiveInto {
        /// From where.
        socket: RawFd,
        /// To where.
        room: *mut u8,
        /// How much at most.
        len: u32,
    },
    /// Bytes go out, as many of them as there is room for.
    Send {
        /// To where.
        socket: RawFd,
        /// What.
        bytes: *const u8,
        /// How much.
        len: u32,
    },
    /// Completes once when others have written to an eventfd.
    AwaitWake {
        /// To which.
        eventfd: RawFd,
    },
    /// Completes each time that there may be bytes to read, or room to write.
    Watch {
        /// Of what.
        socket: RawFd,
    },
}

/// `IORING_CQE_F_BUFFER`: the upper half of the flags is a buffer's number.
const HAS_BUFFER: u32 = 1 << 0;
/// `IORING_CQE_F_MORE`
const HAS_MORE: u32 = 1 << 1;

/// What became of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// Its name, as it was pushed.
    pub(super) user_data: u64,
    /// How much; or which error, negated.
    pub(super) result: i32,
    /// As io_uring has them.
    flags: u32,
}

impl Completion {
    /// Of an operation that does not go on.
    pub(super) fn new(user_data: u64, result: i32) -> Self {
        Self { user_data, result, flags: 0 }
    }

    /// The same with a receive buffer.
    fn with_buffer(self, id: u16) -> Self {
        Self { flags: self.flags | HAS_BUFFER | u32::from(id) << 16, ..self }
    }

    /// The same of one that goes on.
    fn with_more(self) -> Self {
        Self { flags: self.flags | HAS_MORE, ..self }
    }

    /// The receive buffer that was used. It comes with an error, too.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether the operation goes on.
    pub(super) fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

/// For one thread.
pub(super) struct Ring {
    // It goes first: the kernel must be done with the buffers before they go.
    backend: Backend,
    buffers: Buffers,
}

/// What carries it out. Nobody else knows which it is.
enum Backend {
    Uring(Uring),
    Epoll(Epoll),
}

impl Ring {
    /// With room for so many operations to wait, and so many receive buffers (a power of two) of such a length.
    pub(super) fn new(
        io: IoBackend,
        entries: u32,
        buffers: u16,
        buffer_len: usize,
    ) -> Result<Self, EngineError> {
        let buffers = Buffers::new(buffers, buffer_len);
        let backend = match io {
            IoBackend::Uring => Backend::Uring(Uring::new(entries, buffers.count())?),
            IoBackend::Epoll => Backend::Epoll(Epoll::new(buffers.count())?),
        };
        let mut ring = Self { backend, buffers };
        for id in 0..ring.buffers.count() {
            ring.lend(id);
        }
        Ok(ring)
    }

    /// Asks for an operation, whose completions will have this name. An error says that it was not taken, and that nothing
    /// will be. A socket has one receive and one send at a time.
    ///
    /// # Safety
    /// The memory and the descriptor that it names stay, and nobody else uses the memory, until its last completion has been
    /// handled. The descriptor is [let go of](Self::let_go) before it is closed, unless this goes first.
    pub(super) unsafe fn push(&mut self, operation: Operation, user_data: u64) -> io::Result<()> {
        // SAFETY: the caller's promise is what is asked for here.
        unsafe {
            match &mut self.backend {
                Backend::Uring(uring) => uring.push(operation, user_data),
                Backend::Epoll(epoll) => {
                    epoll.push(operation, user_data);
                    Ok(())
                }
            }
        }
    }

    /// Ends a receive of a socket if it is still pending: it completes by `ECANCELED`, unless something came. This itself
    /// completes, too.
    pub(super) fn cancel_receive(&mut self, socket: RawFd, name: u64, user_data: u64) -> io::Result<()> {
        match &mut self.backend {
            Backend::Uring(uring) => uring.cancel(name, user_data),
            Backend::Epoll(epoll) => {
                epoll.cancel_receive(socket, name, user_data);
                Ok(())
            }
        }
    }

    /// A descriptor is about to be closed; nothing is pending on it.
    pub(super) fn let_go(&mut self, descriptor: RawFd) {
        match &mut self.backend {
            // The kernel has a hold of its own on whatever it works with.
            Backend::Uring(_) => {}
            Backend::Epoll(epoll) => epoll.let_go(descriptor),
        }
    }

    /// Lets the kernel begin with what was pushed.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match &mut self.backend {
            Backend::Uring(uring) => uring.submit(),
            Backend::Epoll(epoll) => {
                epoll.submit();
                Ok(())
            }
        }
    }

    /// Submits, and waits for a completion at most so long.
    pub(super) fn enter(&mut self, wait: Duration) -> io::Result<()> {
        match &mut self.backend {
            Backend::Uring(uring) => uring.enter(wait),
            Backend::Epoll(epoll) => epoll.enter(wait, &self.buffers),
        }
    }

    /// Submits, and waits for about so many completions at most so long.
    pub(super) fn gather(&mut self, count: usize, wait: Duration) -> io::Result<()> {
        match &mut self.backend {
            Backend::Uring(uring) => uring.gather(count, wait),
            Backend::Epoll(epoll) => epoll.gather(count, wait, &self.buffers),
        }
    }

    /// Takes completions, in their order.
    pub(super) fn take(&mut self, completions: &mut Vec<Completion>, count_max: usize) {
        match &mut self.backend {
            Backend::Uring(uring) => uring.take(completions, count_max),
            Backend::Epoll(epoll) => epoll.take(completions, count_max),
        }
    }

    /// Whether there is something that nobody need wait for.
    pub(super) fn has_work_left(&self) -> bool {
        match &self.backend {
            Backend::Uring(uring) => uring.has_work_left(),
            Backend::Epoll(epoll) => epoll.has_work_left(),
        }
    }

    /// Why it can be used no more, with what to do where that is known.
    pub(super) fn why_failed(&self, error: &io::Error) -> String {
        if matches!(self.backend, Backend::Epoll(_)) {
            return format!("epoll failed: {error}");
        }
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM | Errno::ACCESS) => EngineError::Forbidden.to_string(),
            _ => format!("io_uring_enter failed: {error}"),
        }
    }

    /// A completion has named a buffer.
    pub(super) fn take_buffer(&mut self, id: u16) {
        self.buffers.take(id);
    }

    /// The filled part of a buffer that was taken.
    pub(super) fn filled(&mut self, id: u16, len: usize) -> &mut [u8] {
        self.buffers.filled(id, len)
    }

    /// Lets the kernel fill a buffer again.
    pub(super) fn give_back(&mut self, id: u16) {
        self.buffers.release(id);
        self.lend(id);
    }

    fn lend(&mut self, id: u16) {
        match &mut self.backend {
            Backend::Uring(uring) => uring.give_back(id, &self.buffers),
            Backend::Epoll(epoll) => epoll.give_back(id),
        }
    }
}

#[cfg(test)]
mod tests;
