//! Messages for other nodes, whatever route they take: unicasts and multicasts of this node's sessions, and answers.

use smallvec::SmallVec;

use super::{
    Context, Parts,
    multicast::FanOut,
    peer::Peer,
    request::{FromNode, RequestOf},
    sealed::SHARED_MAX,
};
use crate::{
    relay::{
        Forward, Outbound, ReactorId, Recipients, channel::ChannelNumber, peer_2x::MulticastOf,
        sealing::Subject, snapshot::NodeRef,
    },
    wire::{
        FrameRef, NodeId, ResultCode,
        node::{EXTENSIONS_OFFSET, Extensions, PacketType},
        sdk,
    },
};

/// The audience of a frame for one node.
fn audience_of(recipients: &Recipients) -> Vec<Vec<u64>> {
    vec![recipients.0.iter().map(|subscriber| subscriber.0).collect()]
}

impl Parts {
    /// Sends a publisher's unicast to a node. `false` if nothing leads there, or there is no room.
    pub(super) fn forward(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        coordinator: ReactorId,
        unicast: &Forward,
        frame: FrameRef<'_>,
    ) -> bool {
        let Forward { request, ref node, message, time_left_ms, may_wait, ref audience, from_2x } = *unicast;
        let extensions = Extensions {
            time_left_ms: Some(time_left_ms),
            may_wait,
            audience: audience.as_deref().map(audience_of),
            from_2x,
            ..Extensions::default()
        };
        let subject = Subject { packet_type: PacketType::UNICAST, message };
        let Some(place) = self.send_amop(cx, node, subject, &extensions, frame) else { return false };
        if let Some(peer) = self.peers.get_mut(node) {
            peer.await_answer(message, RequestOf { coordinator, id: request }, place);
        }
        true
    }

    /// Sends a multicast to a node; a full channel loses it, which is counted. `false` if so.
    pub(super) fn forward_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        of: MulticastOf,
        audience: Option<&Recipients>,
        frame: FrameRef<'_>,
    ) -> bool {
        let MulticastOf { message, from_2x } = of;
        let audience = audience.map(audience_of);
        let extensions = Extensions { audience, from_2x, ..Extensions::default() };
        let subject = Subject { packet_type: PacketType::MULTICAST, message };
        let is_sent = self.send_amop(cx, node, subject, &extensions, frame).is_some();
        if !is_sent {
            cx.counters.dropped_window_full.increment();
        }
        is_sent
    }

    /// Sends a multicast to nodes whose home is here; tells of each whether it was sent.
    pub(super) fn forward_multicast_to_all(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        nodes: &[&NodeRef],
        of: MulticastOf,
        frame: FrameRef<'_>,
        fan_out: &mut FanOut,
    ) {
        let is_indirect = |node: &&NodeRef| {
            self.peers.link_to(&node.id).is_none()
                && cx.shared.admits(&node.id)
                && cx.has_indirect_route(&node.id, frame.len())
        };
        let (indirect, others): (SmallVec<[&NodeRef; 8]>, SmallVec<[&NodeRef; 8]>) =
            nodes.iter().copied().partition(is_indirect);
        let (shared, others) = match indirect.len() {
            0 | 1 => (SmallVec::new(), nodes.iter().copied().collect()),
            _ => (indirect, others),
        };
        for node in others {
            let is_sent = self.forward_multicast(cx, &node.id, of, None, frame);
            fan_out.note_node(&node.id, of.message, is_sent);
        }
        for nodes in shared.chunks(SHARED_MAX) {
            let refused = self.send_shared(cx, nodes, of, frame);
            for node in nodes {
                let is_sent = !refused.contains(&node.id);
                if !is_sent {
                    cx.counters.dropped_window_full.increment();
                }
                fan_out.note_node(&node.id, of.message, is_sent);
            }
        }
    }

    /// Answers a node's unicast; `is_by_node` tells that no session answered. An answer to a node that
    /// has restarted since is nobody's.
    pub(super) fn respond(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        origin: &FromNode,
        is_by_node: bool,
        answer: FrameRef<'_>,
    ) {
        let FromNode { id: ref node, incarnation, message } = *origin;
        let peer = self.peers.get(node).filter(|peer| peer.incarnation == incarnation);
        // One that the lists leave out is told no more than that nobody answers it.
        let Some(peer) = peer.filter(|_| is_by_node || cx.admits(node)) else {
            return cx.counters.late_answers.increment();
        };
        let refusal;
        let (by_node, answer) = match cx.takes(node, peer.neighbour.as_ref(), answer.len()) {
            true => (is_by_node, answer),
            // A session has answered, and its answer cannot get there.
            false => {
                cx.note_too_long(node, answer.len());
                let Some(header) = sdk::Header::decode(answer.head()) else { return };
                refusal = super::request::answer_frame(&header.seq, ResultCode::TIMEOUT);
                (true, FrameRef::Slice(&refusal))
            }
        };
        let extensions = Extensions { by_node, ..Extensions::default() };
        let subject = Subject { packet_type: PacketType::UNICAST_RESPONSE, message };
        if self.send_amop(cx, node, subject, &extensions, answer).is_none() {
            cx.counters.dropped_window_full.increment();
        }
    }

    fn send_amop(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        subject: Subject,
        extensions: &Extensions,
        frame: FrameRef<'_>,
    ) -> Option<ChannelNumber> {
        let is_answer = subject.packet_type == PacketType::UNICAST_RESPONSE;
        let place = match is_answer || self.may_send_request(cx, node, frame.len()) {
            true => self.send_message(cx, node, subject, extensions.encode(), frame),
            false => None,
        };
        if place.is_none() && !is_answer {
            cx.give_back((EXTENSIONS_OFFSET + frame.len()) as u64);
        }
        place
    }

    /// Whether a request or a multicast of so many bytes goes to a node, or may before long. An answer always may: who asks is
    /// known before the route to it, if its records come later, and may return.
    fn may_send_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        frame_len: usize,
    ) -> bool {
        if !cx.admits(node) {
            return false;
        }
        let peer = self.peers.get(node);
        if !cx.takes(node, peer.and_then(|peer| peer.neighbour.as_ref()), frame_len) {
            cx.note_too_long(node, frame_len);
            return false;
        }
        peer.is_some_and(Peer::is_neighbour) || cx.has_indirect_route(node, frame_len)
    }
}
