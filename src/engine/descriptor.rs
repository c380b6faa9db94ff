//! A descriptor of our own for a socket that somebody else's type holds.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

/// Duplicates the descriptor of an open socket; the duplicate lives on when `socket` is dropped.
pub fn duplicate(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `socket` is borrowed for the whole call, and a type that gives out its descriptor keeps it
    // open as long as it lives.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 0)?)
}
