//! What messages take on node links, and who pays for it (WIRE §5).
//!
//! A client's message is paid for when it is admitted: by what it is going to take. Whatever leaves uses that up first, and
//! what goes beyond it is charged as it leaves: answers, what is sent again, what is passed on for others, and a message
//! that took another route than it seemed. So each byte that leaves is charged once, whatever its sender says of it.

use smallvec::SmallVec;

use super::{
    Common, Context, Parts,
    route::{Flow, SHARED_CONTENT_ROOM},
    sealed::{SHARED_MAX, TICKET_LEN},
};
use crate::{
    relay::{
        Outbound, Packet, ReactorId,
        sealing::{FRONT_LEN, TAG_LEN},
        snapshot::{NodeRef, Snapshot},
    },
    wire::{
        NodeId,
        node::{EXTENSIONS_OFFSET, HEADER_LEN_MIN, PacketType, audience_len},
    },
};

/// The length of the extensions before them.
const EXTENSIONS_FRONT_LEN: usize = 2;
/// The extension with the time that is left.
const TIME_LEFT_LEN: usize = 8;
/// What a frame takes besides if it is sealed for another node.
const SEALED_LEN: usize = 2 * NodeId::LEN + FRONT_LEN + TAG_LEN;
/// A relayed frame of a control type up to this is control, and free like one of this node's own; a longer one is charged:
/// its source is free to call it so.
const CONTROL_LEN_MAX: usize = 8 << 10;

/// Bytes of a multicast for one node on a link.
fn multicast_len(frame_len: usize, recipients: Option<usize>, is_sealed: bool) -> u64 {
    let extensions = EXTENSIONS_FRONT_LEN + recipients.map_or(0, audience_len);
    (EXTENSIONS_OFFSET + extensions + frame_len + if is_sealed { SEALED_LEN } else { 0 }) as u64
}

/// Bytes of a multicast for several nodes on the link that they have in common.
fn shared_len(frame_len: usize, nodes: usize) -> u64 {
    let addresses_len = NodeId::LEN + nodes * (NodeId::LEN + TICKET_LEN);
    (HEADER_LEN_MIN + addresses_len + SHARED_CONTENT_ROOM + frame_len) as u64
}

impl Parts {
    /// Bytes of a unicast to a node on its first link; with a private topic so many subscribers are named.
    pub(super) fn unicast_len(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        frame_len: usize,
        recipients: Option<usize>,
    ) -> u64 {
        let is_sealed = self.peers.link_to(node).is_none() && cx.has_indirect_route(node, frame_len);
        multicast_len(frame_len, recipients, is_sealed) + TIME_LEFT_LEN as u64
    }

    /// The same of a private topic, for a node of which so many subscribers are named.
    pub(super) fn private_multicast_len(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        frame_len: usize,
        recipients: usize,
    ) -> u64 {
        let is_sealed = self.peers.link_to(node).is_none() && cx.has_indirect_route(node, frame_len);
        multicast_len(frame_len, Some(recipients), is_sealed)
    }
}

impl Common {
    /// Bytes that a multicast takes on all links that it leaves on.
    pub(super) fn multicast_len<'a>(
        &self,
        nodes: impl Iterator<Item = &'a NodeRef> + Clone,
        frame_len: usize,
    ) -> u64 {
        let snapshot = self.shared.snapshot.load();
        let of_home = |home: ReactorId| nodes.clone().filter(move |node| node.reactor == home);
        let homes = (0..self.shared.reactors).map(ReactorId);
        homes.map(|home| self.multicast_len_of(&snapshot, of_home(home), frame_len)).sum()
    }

    /// The same for the nodes of one home, which sends one frame for all that are behind one neighbour.
    fn multicast_len_of<'a>(
        &self,
        snapshot: &Snapshot,
        nodes: impl Iterator<Item = &'a NodeRef>,
        frame_len: usize,
    ) -> u64 {
        let mut indirect: SmallVec<[&NodeId; 8]> = SmallVec::new();
        let mut all = 0;
        for node in nodes {
            match snapshot.path(&node.id, frame_len) {
                Some(path) if path.hops > 1 => indirect.push(&node.id),
                _ => all += multicast_len(frame_len, None, false),
            }
        }
        if let [_] = indirect.as_slice() {
            return all + multicast_len(frame_len, None, true);
        }
        for sent_together in indirect.chunks(SHARED_MAX) {
            let mut behind: SmallVec<[(NodeId, usize); 4]> = SmallVec::new();
            for node in sent_together {
                let flow = Flow { source: &self.shared.id, len: frame_len, except: None, from: None };
                let Some(next) = flow.next_hop(snapshot, node) else { continue };
                match behind.iter_mut().find(|(other, _)| *other == next) {
                    Some((_, count)) => *count += 1,
                    None => behind.push((next, 1)),
                }
            }
            all += behind.iter().map(|(_, count)| shared_len(frame_len, *count)).sum::<u64>();
        }
        all
    }

    /// A message that was admitted does not leave.
    pub(super) fn give_back(&self, len: u64) {
        self.shared.limiter.give_back(len);
    }
}

impl<O: Outbound> Context<'_, O> {
    /// A frame of so many bytes leaves on a node link. It is charged, as far as nobody has paid for it.
    pub(super) fn pay(&self, len: usize) {
        if self.shared.limiter.is_limited() {
            self.shared.limiter.leave(self.limiter_time(), len as u64);
        }
        self.counters.bandwidth_charged_bytes.add(len as u64);
    }

    /// The same of a frame that is passed on for others; control is free.
    pub(super) fn pay_for_other(&self, packet: &Packet, len: usize) {
        self.counters.relayed_bytes.add(len as u64);
        let is_control = matches!(packet.packet_type, PacketType::BROADCAST | PacketType::ACK);
        if !is_control || len > CONTROL_LEN_MAX {
            self.pay(len);
        }
    }
}
