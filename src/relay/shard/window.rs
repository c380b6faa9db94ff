//! What was sent to a neighbour and not acknowledged yet (WIRE §6.3 Ack), or waits for its link.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::{
    relay::Packet,
    wire::{
        RetainedFrame,
        node::{HEAD_LEN_USUAL, PacketType},
    },
};

/// The frames of one neighbour, in the order in which they are sent.
///
/// # Invariants
/// - `bytes` is what its frames cost, and `kept` is how many of them the channels with their ends have counted, which cost
///   nothing here. All that changes it is given what all windows of the shard cost, and keeps that true, too.
#[derive(Default)]
pub(super) struct Window {
    frames: VecDeque<Sent>,
    bytes: usize,
    kept: usize,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Frames that cost something.
    pub(super) fn len_paid(&self) -> usize {
        self.frames.len() - self.kept
    }

    /// Frames that cost nothing, for the channels with their ends have counted them.
    pub(super) fn len_kept(&self) -> usize {
        self.kept
    }

    /// What its frames cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same, counted anew.
    pub(super) fn bytes_anew(&self) -> usize {
        self.frames.iter().map(Sent::cost).sum()
    }

    /// For checks: what is counted wrongly.
    pub(super) fn miscount(&self) -> Option<String> {
        let counted = (self.bytes, self.kept);
        let anew = (self.bytes_anew(), self.frames.iter().filter(|sent| sent.is_kept).count());
        let told =
            || format!("{counted:?} bytes and kept frames of a window are counted, and there are {anew:?}");
        (counted != anew).then(told)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.frames.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Sent> {
        self.frames.iter_mut()
    }

    #[inline]
    pub(super) fn push(&mut self, sent: Sent, all_bytes: &mut usize) {
        self.bytes += sent.cost();
        *all_bytes += sent.cost();
        self.kept += usize::from(sent.is_kept);
        self.frames.push_back(sent);
    }

    /// Puts one that its channel has counted before all others.
    pub(super) fn push_kept_first(&mut self, sent: Sent) {
        debug_assert!(sent.is_kept, "a frame that costs something came before others");
        self.kept += 1;
        self.frames.push_front(sent);
    }

    #[inline]
    pub(super) fn pop(&mut self, all_bytes: &mut usize) -> Option<Sent> {
        let sent = self.frames.pop_front()?;
        debug_assert!(self.bytes >= sent.cost(), "a window gave more than it had");
        self.bytes -= sent.cost();
        *all_bytes -= sent.cost();
        self.kept -= usize::from(sent.is_kept);
        Some(sent)
    }

    /// Takes out all frames.
    pub(super) fn take(&mut self, all_bytes: &mut usize) -> VecDeque<Sent> {
        let window = std::mem::take(self);
        *all_bytes -= window.bytes;
        window.frames
    }
}

pub(super) struct Sent {
    /// A frame between the two ends of a link has a short one.
    pub(super) head: SmallVec<[u8; HEAD_LEN_USUAL]>,
    pub(super) body: RetainedFrame,
    pub(super) packet_type: PacketType,
    pub(super) message: u32,
    /// Set if it names its ends.
    pub(super) packet: Option<Box<Packet>>,
    /// Whether the channel with its end has counted it.
    pub(super) is_kept: bool,
}

impl Sent {
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether it is passed on for another node.
    pub(super) fn is_relayed(&self) -> bool {
        self.packet.as_ref().is_some_and(|packet| packet.from.is_some())
    }

    /// What it takes in the window: its bytes, its place, and the allocation of its body.
    fn cost(&self) -> usize {
        if self.is_kept {
            return 0;
        }
        self.len() + size_of::<Self>() + 64
    }
}
