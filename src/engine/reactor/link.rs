//! What belongs to a link beside its sending side, and how the operations of links are named.

use std::{os::fd::OwnedFd, rc::Rc, time::Instant};

use tracing::debug;

use crate::{
    engine::{bounds::NOTSENT_BYTES_MAX, receive::Receive},
    relay::LinkKey,
};

pub(super) const KIND_WAKE: u64 = 0;
pub(super) const KIND_RECEIVE: u64 = 1;
pub(super) const KIND_SEND: u64 = 2;
pub(super) const KIND_RECEIVE_OWN: u64 = 3;
pub(super) const KIND_CALL_OFF: u64 = 4;

/// What belongs to a link beside its sending side.
pub(super) struct Slot {
    pub(super) socket: Rc<OwnedFd>,
    pub(super) receive: Receive,
    pub(super) token: u64,
    pub(super) is_sdk: bool,
    /// Frames and bytes that came since the link is up.
    pub(super) received_frames: u64,
    pub(super) received_bytes: u64,
    pub(super) ending: Ending,
    /// Whether a long frame was on its way in when something came last.
    pub(super) was_receiving_long: bool,
    /// How many frames had come whole when the relay was told that a long one has begun.
    pub(super) long_told_after: Option<u64>,
    /// Since when it is read no further, because too much waits for its peer.
    pub(super) read_paused: Option<Instant>,
    pub(super) rekey_warned: bool,
    /// Since when its keys are used up.
    pub(super) rekey_due_since: Option<Instant>,
}

/// Memory of a link beside its sending side, in bytes.
pub(crate) const SLOT_LEN: usize = size_of::<Slot>();

/// How far the end of a link's connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is open, or still sends what is queued.
    No,
    /// All is sent; what the peer still sends is dropped until it closes too, or until then.
    Lingers(Instant),
    /// Nothing goes either way any more.
    Cut,
}

/// Keeps the kernel from holding much that was not sent: a link's control goes before its data.
pub(super) fn limit_unsent(socket: &OwnedFd) {
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(NOTSENT_BYTES_MAX) {
        debug!(%error, "TCP_NOTSENT_LOWAT cannot be set: control may wait behind data on a slow link");
    }
}

pub(super) fn link_key(user_data: u64) -> LinkKey {
    LinkKey { index: (user_data >> 32) as u32 & 0xff_ffff, generation: user_data as u32 }
}

pub(super) fn user_data(kind: u64, key: LinkKey) -> u64 {
    kind << 56 | u64::from(key.index & 0xff_ffff) << 32 | u64::from(key.generation)
}
