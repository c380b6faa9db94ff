//! What descriptors need beyond what libraries give: one of our own for a socket that somebody else's type
//! holds, and what a socket's peer has not taken yet.

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

/// Ends whatever is pending on an open socket, whether it is connected or listens.
pub fn shut_down(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: as in `duplicate`.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    Ok(rustix::net::shutdown(borrowed, rustix::net::Shutdown::Both)?)
}

/// `SIOCOUTQ`: the same number as `TIOCOUTQ`.
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// Bytes of a TCP socket that its peer has not acknowledged; 0 if that cannot be told.
pub(super) fn untaken_bytes(socket: &OwnedFd) -> usize {
    // SAFETY: SIOCOUTQ writes one int, and on a socket that is none it fails without writing.
    let bytes = unsafe {
        let outq = rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(socket, outq)
    };
    bytes.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}
