//! What is known of a frame that takes several links.

use smallvec::SmallVec;

use crate::wire::{MessageNumber, NodeId, node::PacketType};

/// A frame that names its ends, on its way over more than one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The node that originated it.
    pub source: NodeId,
    /// The nodes that it is for: one, or several of a shared multicast, for each of which a ticket lies before the
    /// content, in this order.
    pub destinations: SmallVec<[NodeId; 1]>,
    /// What it is.
    pub packet_type: PacketType,
    /// The message's number at its source.
    pub message: MessageNumber,
    /// Links that it may still take.
    pub hops_left: u8,
    /// Whether it was sent before.
    pub again: bool,
    /// Whether its source is to be told where its path ends.
    pub is_probe: bool,
    /// The neighbour that it came from, which it does not go back to.
    pub from: Option<NodeId>,
    /// How many neighbours it was to go to here that could not take it.
    pub next_hops_tried: u8,
}
