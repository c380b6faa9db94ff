//! What goes over other nodes is sealed for its destination (WIRE §6.4). Here it is sealed and opened, messages as well as
//! control, and multicasts for several nodes at once.

use smallvec::SmallVec;

use super::{Context, Parts, node_link::Carrier};
use crate::{
    relay::{
        Outbound, Packet,
        peer_2x::MulticastOf,
        sealing::{
            CONTENT_KEY_LEN, ContentKey, FRONT_LEN, IncarnationId, Salt, Seal, SealIncarnations, Subject,
            TAG_LEN, number_of,
        },
        snapshot::NodeRef,
    },
    wire::{
        FrameBuffer, FrameRef, NodeId, RetainedFrame,
        frame::HEAD_LEN_MAX,
        node::{Extensions, HEADER_LEN_MIN, Numbers, PacketType},
    },
};

/// Nodes that one frame of a shared multicast is for: with their ids, their tickets lie in the head of the frame.
pub(super) const SHARED_MAX: usize = 84;
/// Bytes of a node's ticket before the content of a shared multicast.
pub(super) const TICKET_LEN: usize = FRONT_LEN + Numbers::LEN + CONTENT_KEY_LEN + TAG_LEN;

const _: () = assert!(HEADER_LEN_MIN + NodeId::LEN + SHARED_MAX * (NodeId::LEN + TICKET_LEN) <= HEAD_LEN_MAX);

impl Parts {
    /// Sends a control payload to a node, sealed, and forgets it.
    pub(super) fn send_sealed_control(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        payload: &[u8],
    ) {
        if let Some(sealed) = self.seal_control(cx, id, subject, payload) {
            let packet = cx.own_packet(id, subject, false);
            self.send_packet(cx, id, packet, sealed.as_ref());
        }
    }

    /// Seals a control payload for a node, however it is reached.
    pub(super) fn seal_control(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        subject: Subject,
        payload: &[u8],
    ) -> Option<RetainedFrame> {
        let sealed_as = self.channels.next_seal();
        let seal = self.sealed_channel(cx, id)?.seal.as_deref()?;
        seal.seal_whole(sealed_as, subject, &[], std::iter::once(payload), payload.len())
    }

    /// Sends a multicast to several nodes over others, as one frame for each next hop. Gives those that it was not sent to.
    pub(super) fn send_shared(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        nodes: &[&NodeRef],
        of: MulticastOf,
        frame: FrameRef<'_>,
    ) -> SmallVec<[NodeId; 2]> {
        let MulticastOf { message, from_2x } = of;
        let mut refused = SmallVec::new();
        let extensions = Extensions { from_2x, ..Extensions::default() }.encode();
        // The content lies behind the tickets that are to tell its key and hash.
        let tickets_len = nodes.len() * TICKET_LEN;
        let len = tickets_len + extensions.len() + frame.len() + TAG_LEN;
        let mut payload = FrameBuffer::with_capacity(len);
        payload.resize(tickets_len, 0);
        let key = ContentKey::seal(cx.secret_rng.bytes(), &extensions, frame.pieces(), &mut payload);
        let Some(key) = key else { return nodes.iter().map(|node| node.id).collect() };
        // All of them keep it, and share its bytes.
        let kept = frame.retain_shared();
        let mut destinations: SmallVec<[NodeId; 1]> = SmallVec::new();
        for node in nodes {
            match self.seal_ticket(cx, &node.id, of, &key, &kept) {
                Some(ticket) => {
                    let start = destinations.len() * TICKET_LEN;
                    payload[start..start + TICKET_LEN].copy_from_slice(ticket.as_ref().head());
                    destinations.push(node.id);
                }
                None => {
                    refused.push(node.id);
                    cx.give_back((NodeId::LEN + TICKET_LEN) as u64);
                }
            }
        }
        let Some(&first) = destinations.first() else {
            cx.give_back(frame.len() as u64);
            return refused;
        };
        let subject = Subject { packet_type: PacketType::SHARED_MULTICAST, message };
        let packet = Packet { destinations, ..cx.own_packet(&first, subject, false) };
        payload.drain(packet.destinations.len() * TICKET_LEN..tickets_len);
        if let Some(packet) = self.route(cx, packet, payload.into_frame().as_ref(), None) {
            self.not_passed(cx, packet, FrameRef::EMPTY);
        }
        refused
    }

    /// Keeps a multicast for one of its nodes until that has acknowledged it; gives the node's ticket. Should it be sent again,
    /// it goes to that node alone.
    fn seal_ticket(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        MulticastOf { message, from_2x }: MulticastOf,
        key: &ContentKey,
        kept: &RetainedFrame,
    ) -> Option<RetainedFrame> {
        let kept_as = Subject { packet_type: PacketType::MULTICAST, message };
        self.sealed_channel(cx, id)?;
        let extensions = Extensions { from_2x, ..Extensions::default() }.encode();
        let numbers = self.keep_sent(cx, id, kept_as, extensions, kept.clone())?;
        let sealed_as = self.channels.next_seal();
        let seal = self.sealed_channel(cx, id)?.seal.as_deref()?;
        let subject = Subject { packet_type: PacketType::SHARED_MULTICAST, message };
        let key = key.encode();
        seal.seal_whole(sealed_as, subject, &numbers.encode(), std::iter::once(&key[..]), key.len())
    }

    /// A sealed payload for this node, at the home of its source.
    pub(super) fn arrive(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        subject: Subject,
        sealed: FrameRef<'_>,
    ) {
        let mut bytes = FrameBuffer::copy_of(sealed);
        // Of a shared multicast, the node's ticket; the content of all is behind it.
        let sealed_len = match subject.packet_type {
            PacketType::SHARED_MULTICAST => TICKET_LEN.min(bytes.len()),
            _ => bytes.len(),
        };
        let (sealed, content) = bytes.split_at_mut(sealed_len);
        let (Some(incarnations), Some(sealed_as)) = (SealIncarnations::of(sealed), number_of(sealed)) else {
            return cx.counters.sealed_refused.increment();
        };
        let peer = self.peers.get(source).map(|peer| peer.incarnation);
        let recorded = cx.shared.snapshot.load().paths.get(source).map(|path| (path.incarnation, path.salt));
        if peer.is_none() && recorded.is_none() {
            // Its source sends it again, and is known by then if it is not invented.
            return cx.counters.strangers_refused.increment();
        }
        let replay_floor = self.channels.replay_floors.get(source).map(|replay_floor| {
            (replay_floor.incarnation_id.incarnation, Some(replay_floor.incarnation_id.salt))
        });
        let is_before = |known: (u64, Option<Salt>)| incarnations.source.is_before(known.0, known.1);
        if incarnations.destination != cx.shared.incarnation()
            || peer.is_some_and(|incarnation| is_before((incarnation, None)))
            || recorded.is_some_and(is_before)
            || replay_floor.is_some_and(is_before)
        {
            return cx.counters.sealed_late.increment();
        }
        if self.open(cx, source, incarnations.source, subject, sealed).is_none() {
            return cx.counters.sealed_refused.increment();
        }
        let mut start = FRONT_LEN;
        if subject.packet_type == PacketType::SHARED_MULTICAST {
            if open_content(&sealed[FRONT_LEN..sealed_len - TAG_LEN], content).is_none() {
                return cx.counters.sealed_refused.increment();
            }
            // The message's numbers go in front of the content, as they are in a multicast for one node.
            start = TICKET_LEN - Numbers::LEN;
            sealed.copy_within(FRONT_LEN..FRONT_LEN + Numbers::LEN, start);
        }
        let len = bytes.len() - TAG_LEN;
        bytes.truncate(len);
        if subject.packet_type.is_amop() {
            let payload = bytes.into_frame();
            let subject = Subject { packet_type: subject.packet_type.of_one(), ..subject };
            let carrier = Carrier::Waited { since: cx.now };
            return self.handle_numbered(cx, carrier, source, subject, payload.as_ref().advance(start));
        }
        let Some(channel) = self.peers.channel_mut(source) else {
            return;
        };
        if !channel.is_new_control(sealed_as) {
            return cx.counters.duplicates_dropped.increment();
        }
        let payload = FrameRef::Slice(&bytes[FRONT_LEN..]);
        match subject.packet_type {
            PacketType::BROADCAST => self.handle_notice(cx, source, payload),
            PacketType::ACK => {
                let below = payload.head().first_chunk().map(|below| u64::from_be_bytes(*below));
                if !below.is_some_and(|below| self.acknowledge(cx.now, source, below)) {
                    cx.counters.sealed_refused.increment();
                }
            }
            _ => cx.counters.unknown_packets.increment(),
        }
    }

    fn is_reached(&self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> bool {
        self.peers.neighbour(id).is_some() || cx.shared.snapshot.load().paths.contains_key(id)
    }

    /// Opens a payload in place. Only what opens makes an incarnation of its source known.
    fn open(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        source: &NodeId,
        incarnation_id: IncarnationId,
        subject: Subject,
        bytes: &mut [u8],
    ) -> Option<()> {
        let peer = self.peers.get(source).filter(|peer| peer.incarnation == incarnation_id.incarnation);
        let seal = peer.and_then(|peer| peer.channel.as_ref()).and_then(|channel| channel.seal.as_ref());
        if let Some(seal) = seal {
            return seal.open(subject, bytes).ok().map(|_| ());
        }
        let is_known_incarnation = peer.is_some();
        let secret = cx.shared.signer.as_ref()?.share_with(*source)?;
        let seal = Seal::new(secret, cx.shared.incarnation_id(), incarnation_id)?;
        seal.open(subject, bytes).ok()?;
        if !is_known_incarnation {
            let IncarnationId { incarnation, salt } = incarnation_id;
            self.replace_incarnation(cx, source, incarnation, Some(salt));
        }
        // The registry tells nothing of those that the lists leave out.
        let stays = self.is_reached(cx, source) && cx.shared.admits(source);
        if !stays {
            self.want_node_tick(cx.now);
        }
        let peer = self.peers.get_mut(source)?;
        peer.salt.get_or_insert(incarnation_id.salt);
        if !stays {
            peer.lost_since.get_or_insert(cx.now);
        }
        self.channel(cx, source).filter(|channel| channel.incarnation_id() == incarnation_id)?.seal =
            Some(Box::new(seal));
        Some(())
    }
}

/// Opens in place what a ticket without its front and tag is for. `None` if it is no ticket for that.
fn open_content(ticket: &[u8], content: &mut [u8]) -> Option<()> {
    ContentKey::decode(ticket.get(Numbers::LEN..)?)?.open(content).ok().map(|_| ())
}
