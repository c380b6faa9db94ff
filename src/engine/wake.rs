//! Waking a reactor that waits in the kernel: an eventfd that its ring reads.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use rustix::event::{EventfdFlags, eventfd};

/// Can be cloned and used from any thread.
#[derive(Clone, Debug)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?)))
    }

    pub(super) fn wake(&self) {
        // It fails only when the counter is at its end, and then the reactor will wake anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
