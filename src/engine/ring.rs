//! Setting up and entering an io_uring, and saying what to change when that fails.

use std::{io, time::Duration};

use io_uring::{IoUring, types};
use rustix::io::Errno;

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

/// A ring for one thread, with deferred task work where the kernel has it.
pub(super) fn build(entries: u32) -> Result<IoUring, EngineError> {
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

/// Why a ring that worked cannot be entered any more, with what to do where that is known.
pub(super) fn why_not_entered(error: io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => EngineError::Forbidden.to_string(),
        _ => format!("io_uring_enter failed: {error}"),
    }
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
pub(super) fn enter(ring: &mut IoUring, wait: Duration) -> io::Result<()> {
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

/// Submits, and waits for so many completions at most so long.
pub(super) fn gather(ring: &mut IoUring, count: usize, wait: Duration) -> io::Result<()> {
    unless_harmless(wait_for_completions(ring, count, wait))
}

/// Submits, and takes no completions.
pub(super) fn submit(ring: &mut IoUring) -> io::Result<()> {
    unless_harmless(ring.submit())
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
    use io_uring::opcode;

    use super::*;
    use crate::engine::wake::Waker;

    #[test]
    fn an_older_kernel_that_lacks_multishot_receives_lacks_what_each_ring_asks_for() {
        assert!(build_plain(8).unwrap().params().is_setup_single_issuer());
        let refused = EngineError::from_io("io_uring", Errno::INVAL.into()).to_string();
        assert!(refused.contains("Linux 6.0 or newer is needed"), "{refused}");
    }

    #[test]
    fn who_may_not_enter_a_ring_is_told_what_to_allow() {
        let denied = why_not_entered(Errno::PERM.into());
        assert!(denied.contains("io_uring_enter") && denied.contains("seccomp"), "{denied}");
        assert!(why_not_entered(Errno::BADF.into()).starts_with("io_uring_enter failed"));
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
}
