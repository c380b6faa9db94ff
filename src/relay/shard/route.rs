//! Frames over more than one link (WIRE §6.4): sealed for their destination, passed on from neighbour to neighbour.
//!
//! ```text
//!  home of the destination: seal ─► next hop ─► home of that neighbour: link
//!  link of a neighbour ─► for us? ─► home of the source: open, as if it had come over a link to it
//!                           └ else ─► next hop ─► home of that neighbour: link
//! ```
//!
//! # Invariants
//! - A frame never goes back to the neighbour that it came from.
//! - Nothing is kept here: what no link takes is dropped and counted. Its source has it.

use smallvec::SmallVec;

use super::{
    Common, Context, Parts,
    sealed::{SHARED_MAX, TICKET_LEN},
};
use crate::{
    relay::{
        Class, MeshMessage, Outbound, Packet, SendError, home_reactor,
        sealing::{FRONT_LEN, Subject, TAG_LEN},
        settings::NODE_FRAME_ROOM,
        snapshot::Snapshot,
    },
    wire::{
        FrameBuffer, FrameRef, MessageNumber, NodeId, RetainedFrame,
        frame::HEAD_LEN_MAX,
        node::{
            Addressing, EXTENSIONS_LEN_MAX, FLAG_PROBE, FLAG_SEALED, FLAG_SENT_AGAIN, HOPS_MAX, Header,
            Numbers, PacketType,
        },
        notice::PathEnd,
    },
};

/// Neighbours that a frame is to go to here one after the other, while none of them can take it.
const NEXT_HOPS_TRIED_MAX: u8 = 4;

/// Bytes of a shared multicast's content beside the frame of the SDK link.
pub(super) const SHARED_CONTENT_ROOM: usize = 2 + TAG_LEN;
/// The most that a sealed payload has beside the frame of the SDK link.
const SEALED_ROOM: usize = FRONT_LEN + Numbers::LEN + 2 + EXTENSIONS_LEN_MAX + TAG_LEN;

/// What goes from one node to others, as far as its way depends on it.
pub(super) struct Flow<'a> {
    pub(super) source: &'a NodeId,
    /// Length of the frame of the SDK link, as far as it shows.
    pub(super) len: usize,
    /// Neighbours that it does not go to.
    pub(super) except: Option<&'a NodeId>,
    pub(super) from: Option<&'a NodeId>,
}

impl Flow<'_> {
    /// The neighbour that it goes to next. All that one node sends to another one takes one route, so that order holds;
    /// what different ones send is spread over all shortest routes.
    pub(super) fn next_hop(&self, snapshot: &Snapshot, destination: &NodeId) -> Option<NodeId> {
        let path = snapshot.path(destination, self.len)?;
        let can = |next: &&NodeId| Some(*next) != self.except && Some(*next) != self.from;
        let count = path.next.iter().filter(can).count();
        let flow = self.source.0.last_chunk::<4>()?.iter().chain(destination.0.last_chunk::<4>()?);
        let flow = flow.fold(0, |flow: usize, byte| flow.wrapping_mul(31).wrapping_add((*byte).into()));
        path.next.iter().filter(can).nth(flow.checked_rem(count)?).copied()
    }
}

impl Packet {
    /// A message of this node.
    fn of_own(own: NodeId, destination: NodeId, subject: Subject, again: bool) -> Self {
        Self {
            source: own,
            destinations: smallvec::smallvec![destination],
            packet_type: subject.packet_type,
            message: subject.message,
            hops_left: HOPS_MAX,
            again,
            is_probe: false,
            from: None,
            next_hops_tried: 0,
        }
    }

    /// Its header before a payload of so many bytes.
    pub(super) fn head(&self, payload_len: usize) -> SmallVec<[u8; 160]> {
        let mut head = SmallVec::new();
        // Nearly all frames are for one node.
        let several: Vec<[u8; 64]>;
        let destinations = match self.destinations.as_slice() {
            [NodeId(destination)] => std::slice::from_ref(destination),
            ids => {
                several = ids.iter().map(|id| id.0).collect();
                &several
            }
        };
        let header = Header {
            packet_type: self.packet_type,
            seq: self.message.0,
            hops_left: self.hops_left,
            flags: FLAG_SEALED
                | if self.again { FLAG_SENT_AGAIN } else { 0 }
                | if self.is_probe { FLAG_PROBE } else { 0 },
            addressing: Addressing::EndToEnd { source: &self.source.0, destinations },
        };
        header.encode_into(payload_len, &mut head);
        head
    }

    /// Length of the frame of an SDK link in a payload of so many bytes: exact for a shared multicast; of what is sealed as a
    /// whole at most as much less as extensions may take.
    fn frame_len(&self, payload_len: usize) -> usize {
        payload_len.saturating_sub(match self.packet_type {
            PacketType::SHARED_MULTICAST => self.destinations.len() * TICKET_LEN + SHARED_CONTENT_ROOM,
            _ => SEALED_ROOM,
        })
    }

    /// The part of a shared multicast for some of its destinations, which are given by their index.
    fn part(&self, indices: &[usize], payload: FrameRef<'_>) -> (Self, RetainedFrame) {
        let destinations = indices.iter().filter_map(|&index| self.destinations.get(index).copied());
        let packet = Self { destinations: destinations.collect(), ..self.clone() };
        (packet, part_of(payload, self.destinations.len(), indices))
    }
}

/// The destinations of a packet, by index, that have their next hop in common.
type Part = (Option<NodeId>, SmallVec<[usize; 4]>);

/// The tickets with some indices of so many, and the content behind them.
fn part_of(payload: FrameRef<'_>, tickets: usize, indices: &[usize]) -> RetainedFrame {
    let (all, _) = payload.head().as_chunks::<TICKET_LEN>();
    let chosen = indices.iter().filter_map(|&index| all.get(index));
    let content = payload.advance(tickets * TICKET_LEN);
    let len = indices.len() * TICKET_LEN + content.len();
    if len <= HEAD_LEN_MAX {
        let mut part = FrameBuffer::with_capacity(len);
        chosen.for_each(|ticket| part.extend_from_slice(ticket));
        content.pieces().for_each(|piece| part.extend_from_slice(piece));
        return part.into_frame();
    }
    // A long content is shared.
    let chosen: Vec<u8> = chosen.flatten().copied().collect();
    content.retain().behind(chosen.into())
}

impl Parts {
    /// Sends a frame on; gives its packet back if no route leads on.
    pub(super) fn route(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        packet: Packet,
        payload: FrameRef<'_>,
        except: Option<&NodeId>,
    ) -> Option<Packet> {
        let mut parts: SmallVec<[Part; 4]> = SmallVec::new();
        let snapshot = cx.shared.snapshot.load();
        let len = packet.frame_len(payload.len());
        let flow = Flow { source: &packet.source, len, except, from: packet.from.as_ref() };
        for (index, destination) in packet.destinations.iter().enumerate() {
            let next = flow.next_hop(&snapshot, destination);
            match parts.iter_mut().find(|(other, _)| *other == next) {
                Some((_, indices)) => indices.push(index),
                None => parts.push((next, smallvec::smallvec![index])),
            }
        }
        match parts.as_slice() {
            [(None, _)] => return Some(packet),
            [(Some(next), _)] => {
                self.send_to_next(cx, packet, *next, payload);
                return None;
            }
            _ => {}
        }
        // The routes of its destinations part here.
        for (next, indices) in parts {
            let (part, payload) = packet.part(&indices, payload);
            match next {
                Some(next) => self.send_to_next(cx, part, next, payload.as_ref()),
                None => self.not_passed(cx, part, payload.as_ref()),
            }
        }
        None
    }

    pub(super) fn send_to_next(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        packet: Packet,
        next: NodeId,
        payload: FrameRef<'_>,
    ) {
        let home = home_reactor(&next, cx.shared.reactors);
        if home == cx.id {
            // Without a packet of its own on the heap.
            self.pass(cx, packet, next, payload);
        } else {
            cx.out.to_reactor(home, MeshMessage::Pass { packet: Box::new(packet), next }, payload);
        }
    }

    /// Sends a frame of this node to another one; `false` if there is no route.
    pub(super) fn send_packet(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        packet: Packet,
        payload: FrameRef<'_>,
    ) -> bool {
        if self.peers.link_to(id).is_some() {
            self.send_to_next(cx, packet, *id, payload);
            return true;
        }
        self.route(cx, packet, payload, Some(id)).is_none()
    }

    /// Sends a frame on to a neighbour whose home is here.
    pub(super) fn pass(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        mut packet: Packet,
        next: NodeId,
        payload: FrameRef<'_>,
    ) {
        let neighbour = self.peers.neighbour(&next);
        if let Some((link, frame_len_max)) =
            neighbour.and_then(|neighbour| Some((neighbour.active?, neighbour.frame_len_max)))
        {
            let head = packet.head(payload.len());
            let (is_message, is_own) = (packet.packet_type.is_amop(), packet.from.is_none());
            let len = head.len() + payload.len();
            // A last look: routes lead around those that do not take what is so long.
            if is_message && len > frame_len_max + NODE_FRAME_ROOM {
                cx.note_too_long(&next, payload.len());
                return if is_own {
                    self.not_passed(cx, packet, payload)
                };
            }
            let class = match (is_message, is_own) {
                (false, _) => Class::Control,
                (true, true) => Class::Data,
                (true, false) => Class::Relayed,
            };
            match cx.out.send(link, class, &head, payload) {
                Ok(_) if is_own && is_message => return cx.pay(len),
                Ok(_) if is_own => return,
                Ok(_) => return cx.pay_for_other(&packet, len),
                // Its source sends it again when it has waited for long: at once would be more of what is too much.
                Err(SendError::Full) if is_message && !is_own => {
                    return cx.counters.relay_dropped.increment();
                }
                Err(SendError::Full) if is_message => return self.not_passed(cx, packet, payload),
                Err(SendError::Full) => return cx.counters.dropped_control_full.increment(),
                Err(SendError::Gone) => {}
            }
        }
        packet.next_hops_tried += 1;
        let not_sent = match packet.next_hops_tried {
            ..NEXT_HOPS_TRIED_MAX => self.route(cx, packet, payload, Some(&next)),
            _ => Some(packet),
        };
        if let Some(packet) = not_sent {
            self.not_passed(cx, packet, payload);
        }
    }

    /// No neighbour could take a frame. Its source hears of it.
    pub(super) fn not_passed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        packet: Packet,
        payload: FrameRef<'_>,
    ) {
        if packet.source != cx.shared.id {
            cx.counters.relay_dropped.increment();
            return self.notify_path_ended(cx, &packet, PathEnd::NoRoute, payload);
        }
        if !packet.packet_type.is_amop() {
            return;
        }
        // What was for several is kept for each alone.
        let packet_type = packet.packet_type.of_one();
        let message = packet.message;
        for node in packet.destinations {
            let home = home_reactor(&node, cx.shared.reactors);
            let message = MeshMessage::NotPassed { node, packet_type, message };
            self.send_to_reactor(cx, home, message, FrameRef::EMPTY);
        }
    }

    /// A frame that names its ends came from a neighbour.
    pub(super) fn handle_end_to_end(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        header: &Header<'_>,
        payload: FrameRef<'_>,
    ) {
        let own = cx.shared.id;
        let Addressing::EndToEnd { source, destinations } = header.addressing else { return };
        let (source, packet_type, message) = (NodeId(*source), header.packet_type, MessageNumber(header.seq));
        let is_shared = packet_type == PacketType::SHARED_MULTICAST;
        let is_whole = match is_shared {
            true => {
                destinations.len() <= SHARED_MAX && payload.head().len() >= destinations.len() * TICKET_LEN
            }
            false => destinations.len() == 1,
        } && (1..destinations.len())
            .all(|index| !destinations[..index].contains(&destinations[index]));
        if header.flags & FLAG_SEALED == 0 || source == own || !is_whole {
            return cx.counters.not_for_us.increment();
        }
        let mut packet = Packet {
            source,
            destinations: destinations.iter().map(|id| NodeId(*id)).collect(),
            packet_type,
            message,
            hops_left: header.hops_left.saturating_sub(1),
            again: header.flags & FLAG_SENT_AGAIN != 0,
            is_probe: header.flags & FLAG_PROBE != 0,
            from: Some(*peer),
            next_hops_tried: 0,
        };
        let own_index = packet.destinations.iter().position(|id| *id == own);
        if let Some(index) = own_index {
            let part = is_shared.then(|| part_of(payload, destinations.len(), &[index]));
            let for_us = part.as_ref().map_or(payload, RetainedFrame::as_ref);
            let home = home_reactor(&source, cx.shared.reactors);
            self.send_to_reactor(cx, home, MeshMessage::Arrived { source, packet_type, message }, for_us);
        }
        let others: SmallVec<[usize; 4]> =
            (0..destinations.len()).filter(|index| packet.destinations[*index] != own).collect();
        if others.is_empty() {
            return;
        }
        if !cx.shared.settings.relays || packet.hops_left == 0 {
            cx.counters.relay_refused.increment();
            if packet.hops_left == 0 {
                self.notify_path_ended(cx, &packet, PathEnd::HopsUsed, payload);
            }
            return;
        }
        let part;
        let mut payload = payload;
        if own_index.is_some() {
            (packet, part) = packet.part(&others, payload);
            payload = part.as_ref();
        }
        cx.counters.relayed.increment();
        if let Some(packet) = self.route(cx, packet, payload, None) {
            self.not_passed(cx, packet, payload);
        }
    }
}

impl Common {
    /// A frame of this node to another one.
    pub(super) fn own_packet(&self, id: &NodeId, subject: Subject, again: bool) -> Packet {
        Packet::of_own(self.shared.id, *id, subject, again)
    }

    /// Whether frames of an SDK link of so many bytes can go to a node over others.
    pub(super) fn has_indirect_route(&self, id: &NodeId, frame_len: usize) -> bool {
        let snapshot = self.shared.snapshot.load();
        snapshot.path(id, frame_len).is_some_and(|path| path.next.iter().any(|next| next != id))
    }
}
