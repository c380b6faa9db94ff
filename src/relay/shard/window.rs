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
/// - `bytes` is what its frames cost. `in_channels` is the number of frames that the channels with their destinations
///   count; these cost nothing here. Whatever changes a window also updates the total of all windows of the shard.
#[derive(Default)]
pub(super) struct Window {
    frames: VecDeque<Sent>,
    bytes: usize,
    in_channels: usize,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Frames that cost something.
    pub(super) fn len_counted(&self) -> usize {
        self.frames.len() - self.in_channels
    }

    /// Frames that cost nothing, for the channels with their ends have counted them.
    pub(super) fn len_in_channels(&self) -> usize {
        self.in_channels
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
        let counted = (self.bytes, self.in_channels);
        let anew = (self.bytes_anew(), self.frames.iter().filter(|sent| sent.is_in_channel).count());
        let told = || {
            format!(
                "{counted:?} bytes and frames of channels in a window are counted, and there are {anew:?}"
            )
        };
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
        self.in_channels += usize::from(sent.is_in_channel);
        self.frames.push_back(sent);
    }

    /// Puts one that its channel has counted before all others.
    pub(super) fn push_from_channel_first(&mut self, sent: Sent) {
        debug_assert!(sent.is_in_channel, "a frame that costs something came before others");
        self.in_channels += 1;
        self.frames.push_front(sent);
    }

    #[inline]
    pub(super) fn pop(&mut self, all_bytes: &mut usize) -> Option<Sent> {
        let sent = self.frames.pop_front()?;
        debug_assert!(self.bytes >= sent.cost(), "a window gave more than it had");
        self.bytes -= sent.cost();
        *all_bytes -= sent.cost();
        self.in_channels -= usize::from(sent.is_in_channel);
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
    pub(super) is_in_channel: bool,
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
        if self.is_in_channel {
            return 0;
        }
        self.len() + size_of::<Self>() + 64
    }
}
