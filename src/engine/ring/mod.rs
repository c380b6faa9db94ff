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

mod buffers;
mod uring;

use std::{io, os::fd::RawFd, time::Duration};

use io_uring::cqueue;
use rustix::io::Errno;

use self::{buffers::Buffers, uring::Uring};

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
    #[cfg(test)]
    pub(super) fn new(user_data: u64, result: i32) -> Self {
        Self { user_data, result, flags: 0 }
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
    backend: Uring,
    buffers: Buffers,
}

impl Ring {
    /// With room for so many operations to wait, and so many receive buffers (a power of two) of such a length.
    pub(super) fn new(entries: u32, buffers: u16, buffer_len: usize) -> Result<Self, EngineError> {
        let buffers = Buffers::new(buffers, buffer_len);
        let mut ring = Self { backend: Uring::new(entries, buffers.count())?, buffers };
        for id in 0..ring.buffers.count() {
            ring.backend.give_back(id, &ring.buffers);
        }
        Ok(ring)
    }

    /// Asks for an operation, whose completions will have this name. An error says that it was not taken, and that nothing
    /// will be.
    ///
    /// # Safety
    /// The memory and the descriptor that it names stay, and nobody else uses the memory, until its last completion has been
    /// handled.
    pub(super) unsafe fn push(&mut self, operation: Operation, user_data: u64) -> io::Result<()> {
        // SAFETY: the caller's promise is what is asked for here.
        unsafe { self.backend.push(operation, user_data) }
    }

    /// Ends a receive of a socket if it is still pending: it completes by `ECANCELED`, unless something came. This itself
    /// completes, too.
    pub(super) fn cancel_receive(&mut self, _socket: RawFd, name: u64, user_data: u64) -> io::Result<()> {
        self.backend.cancel(name, user_data)
    }

    /// Lets the kernel begin with what was pushed.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.backend.submit()
    }

    /// Submits, and waits for a completion at most so long.
    pub(super) fn enter(&mut self, wait: Duration) -> io::Result<()> {
        self.backend.enter(wait)
    }

    /// Submits, and waits for so many completions at most so long.
    pub(super) fn gather(&mut self, count: usize, wait: Duration) -> io::Result<()> {
        self.backend.gather(count, wait)
    }

    /// Takes completions, in their order.
    pub(super) fn take(&mut self, completions: &mut Vec<Completion>, count_max: usize) {
        self.backend.take(completions, count_max);
    }

    /// Whether there is something that nobody need wait for.
    pub(super) fn has_work_left(&self) -> bool {
        self.backend.has_work_left()
    }

    /// Why it can be used no more, with what to do where that is known.
    pub(super) fn why_failed(error: &io::Error) -> String {
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
        self.backend.give_back(id, &self.buffers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_enter_a_ring_is_told_what_to_allow() {
        let denied = Ring::why_failed(&Errno::PERM.into());
        assert!(denied.contains("io_uring_enter") && denied.contains("seccomp"), "{denied}");
        assert!(Ring::why_failed(&Errno::BADF.into()).starts_with("io_uring_enter failed"));
    }
}
