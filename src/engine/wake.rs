//! Waking a reactor that waits in the kernel: an eventfd that its ring awaits.

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

    /// Waits on this thread, as the ring does for a reactor.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        rustix::io::read(&*self.0, &mut [0; 8]).unwrap();
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
