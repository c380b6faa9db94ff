//! Frames over more than one link (WIRE §6.4): sealed for their destination, passed on from neighbour to neighbour.
//!
//! ```text
//!  home of the destination: seal ─► next hop ─► home of that neighbour: window, link
//!  link of a neighbour ─► for us? ─► home of the source: open, as if it had come over a link to it
//!                           └ else ─► next hop ─► home of that neighbour: window, link
//! ```
//!
//! # Invariants
//! - A frame never goes back to the neighbour that it came from.
//! - What waits in the window of a neighbour whose link is lost goes over another route as soon as there is one, in its
//!   order, under the same identity.

use std::{collections::VecDeque, time::Instant};

use smallvec::SmallVec;

use super::{
    Common, Context, Parts,
    channel::NUMBERS_LEN,
    indirect::{SHARED_MAX, TICKET_LEN},
    neighbour::{NotEnqueued, Outgoing, Whose},
    window::Sent,
};
use crate::{
    relay::{
        Class, MeshMessage, Outbound, Packet, home_reactor,
        sealing::{FRONT_LEN, Subject, TAG_LEN},
        snapshot::Snapshot,
    },
    wire::{
        FrameRef, NodeId, RetainedFrame,
        node::{
            Addressing, EXTENSIONS_LEN_MAX, FLAG_PROBE, FLAG_SEALED, FLAG_SENT_AGAIN, HEADER_LEN_MIN,
            HOPS_MAX, Header, PacketType,
        },
        notice::PathEnd,
    },
};

/// Frames for other nodes that wait for a route …
pub(in crate::relay) const PENDING_ROUTE_FRAMES_MAX: usize = 4_096;
/// … and bytes of them.
pub(in crate::relay) const PENDING_ROUTE_BYTES_MAX: usize = 16 << 20;
/// Neighbours that a frame is to go to here one after the other, while none of them can take it.
const NEXT_HOPS_TRIED_MAX: u8 = 4;

/// Bytes of a shared multicast's content beside the frame of the SDK link.
pub(super) const SHARED_CONTENT_ROOM: usize = 2 + TAG_LEN;
/// The most that a sealed payload has beside the frame of the SDK link.
const SEALED_ROOM: usize = FRONT_LEN + NUMBERS_LEN + 2 + EXTENSIONS_LEN_MAX + TAG_LEN;

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

/// Frames for other nodes that no route leads to just now: the network has changed, and not all have heard of it.
#[derive(Default)]
pub(super) struct PendingRoute {
    frames: VecDeque<(Instant, Packet, RetainedFrame)>,
    bytes: usize,
}

impl PendingRoute {
    fn holds(&self, destinations: &[NodeId]) -> bool {
        let waits = |packet: &Packet| packet.destinations.iter().any(|id| destinations.contains(id));
        self.frames.iter().any(|(_, packet, _)| waits(packet))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// For checks.
    pub(super) fn bytes_anew(&self) -> usize {
        self.frames.iter().map(|(_, _, payload)| payload.len()).sum()
    }

    /// `false` if there is no room.
    fn push(&mut self, now: Instant, packet: Packet, payload: FrameRef<'_>) -> bool {
        if self.frames.len() >= PENDING_ROUTE_FRAMES_MAX
            || self.bytes + payload.len() > PENDING_ROUTE_BYTES_MAX
        {
            return false;
        }
        self.bytes += payload.len();
        self.frames.push_back((now, packet, payload.retain()));
        true
    }
}

impl Packet {
    /// A message of this node.
    pub(super) fn of_own(own: NodeId, destination: NodeId, subject: Subject, again: bool) -> Self {
        Self {
            source: own,
            destinations: smallvec::smallvec![destination],
            packet_type: subject.packet_type,
            seq: subject.seq,
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
        let destinations: SmallVec<[[u8; 64]; 1]> = self.destinations.iter().map(|id| id.0).collect();
        let header = Header {
            packet_type: self.packet_type,
            seq: self.seq,
            hops_left: self.hops_left,
            flags: FLAG_SEALED
                | if self.again { FLAG_SENT_AGAIN } else { 0 }
                | if self.is_probe { FLAG_PROBE } else { 0 },
            addressing: Addressing::EndToEnd { source: &self.source.0, destinations: &destinations },
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
    let chosen: Vec<u8> = indices.iter().filter_map(|&index| all.get(index)).flatten().copied().collect();
    payload.advance(tickets * TICKET_LEN).retain().behind(chosen.into())
}

impl Parts {
    /// Sends a frame on; `false` if there is no way.
    pub(super) fn route(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        packet: Packet,
        payload: FrameRef<'_>,
        except: Option<&NodeId>,
    ) -> bool {
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
            [(None, _)] => return false,
            [(Some(next), _)] => {
                self.send_to_next(cx, packet, *next, payload);
                return true;
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
        true
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

    /// Sends a frame on to a neighbour whose home is here.
    pub(super) fn pass(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        mut packet: Packet,
        next: NodeId,
        payload: FrameRef<'_>,
    ) {
        let link = self.neighbours.by_id.get(&next).and_then(|neighbour| neighbour.active);
        if let Some(link) = link {
            let head = packet.head(payload.len());
            if !packet.packet_type.is_amop() {
                // Lost without harm.
                if cx.out.send(link, Class::Control, &head, payload).is_err() {
                    cx.counters.dropped_control_full.increment();
                } else if packet.from.is_some() {
                    cx.pay_for_other(&packet, head.len() + payload.len());
                }
                return;
            }
            return self.enqueue_packet(cx, &next, &head, packet, payload);
        }
        packet.next_hops_tried += 1;
        if packet.next_hops_tried < NEXT_HOPS_TRIED_MAX
            && self.route(cx, packet.clone(), payload, Some(&next))
        {
            return;
        }
        if packet.packet_type.is_amop() && packet.from.is_some() {
            // It may return.
            let head = packet.head(payload.len());
            self.enqueue_packet(cx, &next, &head, packet, payload);
        } else {
            self.not_passed(cx, packet, payload);
        }
    }

    fn enqueue_packet(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        next: &NodeId,
        head: &[u8],
        packet: Packet,
        payload: FrameRef<'_>,
    ) {
        let outgoing = Outgoing {
            body: payload,
            subject: Subject { packet_type: packet.packet_type, seq: packet.seq },
            whose: Whose::Packet(Box::new(packet)),
        };
        match self.enqueue(cx, next, SmallVec::from_slice(head), outgoing) {
            // Its source has it. If it waited here, all that comes after it would, too, and nothing would go for as long as
            // more comes.
            Err(NotEnqueued::NoRoom(Some(packet))) if packet.source != cx.shared.id => {
                cx.counters.relay_dropped.increment();
            }
            Err(NotEnqueued::NoRoom(Some(packet)) | NotEnqueued::Away(Some(packet))) => {
                self.not_passed(cx, *packet, payload);
            }
            Err(NotEnqueued::TooLong(packet)) => {
                cx.note_too_long(next, payload.len());
                // Of our own: the routes around who does not take it are not known yet.
                if let Some(packet) = packet.filter(|packet| packet.source == cx.shared.id) {
                    self.not_passed(cx, *packet, payload);
                }
            }
            _ => {}
        }
    }

    /// No neighbour could take a frame.
    pub(super) fn not_passed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        packet: Packet,
        payload: FrameRef<'_>,
    ) {
        if packet.source != cx.shared.id {
            return self.await_route(cx, packet, payload);
        }
        let (packet_type, seq) = (packet.packet_type, packet.seq);
        for node in packet.destinations {
            let home = home_reactor(&node, cx.shared.reactors);
            self.send_to_reactor(
                cx,
                home,
                MeshMessage::NotPassed { node, packet_type, seq },
                FrameRef::EMPTY,
            );
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
        let (source, packet_type, seq) = (NodeId(*source), header.packet_type, header.seq);
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
            seq,
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
            self.send_to_reactor(cx, home, MeshMessage::Arrived { source, packet_type, seq }, for_us);
        }
        let others: SmallVec<[usize; 4]> =
            (0..destinations.len()).filter(|index| packet.destinations[*index] != own).collect();
        if others.is_empty() {
            return;
        }
        if !cx.shared.settings.relays || packet.hops_left == 0 {
            cx.counters.relay_refused.increment();
            if packet.hops_left == 0 {
                self.notify_path_ended(cx, header, PathEnd::HopsUsed, payload);
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
        // No message overtakes those before it.
        let waits = packet.packet_type.is_amop() && self.pending_route.holds(&packet.destinations);
        if waits || !self.route(cx, packet.clone(), payload, None) {
            self.await_route(cx, packet, payload);
            self.notify_path_ended(cx, header, PathEnd::NoRoute, payload);
        }
    }

    /// Sends what waits for a neighbour over other routes, where there are some.
    pub(super) fn reroute_window(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        // One that is too long for the other routes waits for the link as long as that may return, and so do those after it:
        // none overtakes it.
        let (may_return, mut one_waits) = (self.is_neighbour(id), false);
        for sent in self.take_window(id) {
            let Sent { head, body, packet_type, message, packet, is_in_channel } = sent;
            let rerouted = match packet {
                // It is for a node that the lists leave out.
                Some(packet)
                    if packet.from.is_none() && packet.destinations.contains(id) && !cx.shared.admits(id) =>
                {
                    continue;
                }
                Some(packet) => {
                    let packet = Packet { again: true, next_hops_tried: 0, ..*packet };
                    if self.route(cx, packet.clone(), body.as_ref(), Some(id)) {
                        cx.counters.frames_sent_again.increment();
                    } else if packet.from.is_none() {
                        self.not_passed(cx, packet, body.as_ref());
                    } else {
                        let packet = Some(Box::new(packet));
                        self.keep_waiting(
                            id,
                            Sent { head, body, packet_type, message, packet, is_in_channel },
                        );
                    }
                    continue;
                }
                None => {
                    let subject = Subject { packet_type, seq: message };
                    let front: &[u8] = &head[HEADER_LEN_MIN..];
                    !one_waits
                        && cx.shared.admits(id)
                        && cx.has_indirect_route(id, body.len())
                        && self.send_indirect(cx, id, subject, &[front], body.as_ref())
                }
            };
            if rerouted {
                cx.counters.frames_sent_again.increment();
            } else {
                one_waits = may_return;
                self.keep_waiting(id, Sent { head, body, packet_type, message, packet: None, is_in_channel });
            }
        }
    }

    /// Has a frame for another node wait for a route.
    fn await_route(&mut self, cx: &mut Context<'_, impl Outbound>, packet: Packet, payload: FrameRef<'_>) {
        if !packet.packet_type.is_amop()
            || !self.pending_route.push(cx.now, Packet { next_hops_tried: 0, ..packet }, payload)
        {
            return cx.counters.relay_dropped.increment();
        }
        self.want_node_tick(cx.now);
    }

    /// Sends on what was parked, if it has a way now.
    fn send_pending_route(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let PendingRoute { frames, .. } = std::mem::take(&mut self.pending_route);
        for (since, packet, payload) in frames {
            if self.pending_route.holds(&packet.destinations)
                || !self.route(cx, packet.clone(), payload.as_ref(), None)
            {
                self.pending_route.push(since, packet, payload.as_ref());
            }
        }
    }

    /// Drops what has waited for too long.
    pub(super) fn expire_pending_route(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let memory = cx.shared.settings.node_grace;
        while let Some((since, _, payload)) = self.pending_route.frames.front()
            && cx.now.saturating_duration_since(*since) >= memory
        {
            self.pending_route.bytes -= payload.len();
            self.pending_route.frames.pop_front();
            cx.counters.relay_dropped.increment();
        }
    }

    /// The routes have changed: what waits may have one now. What a node that is gone had taken and not passed on is sent
    /// again.
    pub(super) fn handle_routes_changed(&mut self, cx: &mut Context<'_, impl Outbound>, is_node_lost: bool) {
        let waiting: Vec<NodeId> = self.waiting_neighbours();
        for id in waiting {
            self.reroute_window(cx, &id);
        }
        self.send_pending_route(cx);
        self.retransmit_all_channels(cx, is_node_lost);
    }
}

impl Common {
    /// Whether frames of an SDK link of so many bytes can go to a node over others.
    pub(super) fn has_indirect_route(&self, id: &NodeId, frame_len: usize) -> bool {
        let snapshot = self.shared.snapshot.load();
        snapshot.path(id, frame_len).is_some_and(|path| path.next.iter().any(|next| next != id))
    }
}
