//! Multicasts: a copy to every subscriber session of the network (WIRE §2.2).

use std::{collections::BTreeMap, time::Instant};

use smallvec::SmallVec;

use super::{Shard, neighbour::private_forwarded_len, publisher::Audience};
use crate::{
    relay::{Class, LinkKey, MeshMessage, Named, Outbound, ReactorId, SendError, snapshot::NodeRef},
    wire::{
        FrameRef, NodeId, ResultCode, TopicKind,
        node::AUDIENCE_MAX,
        sdk::{AmopBody, FrameType, HEADER_LEN, Header},
    },
};

impl Shard {
    /// A 0x35 from a session: acknowledged at once, then delivered.
    pub(super) fn handle_multicast(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        self.counters.multicasts.increment();
        let head = frame.head();
        let Ok(body) = AmopBody::decode(&head[HEADER_LEN..]) else {
            self.counters.bad_bodies.increment();
            self.refuse(key, &header.seq, ResultCode::NO_RECEIVER, out);
            return;
        };
        // The acknowledgement repeats the topic, without a payload.
        let topic_field = &head[HEADER_LEN..HEADER_LEN + body.payload_offset];
        if body.kind() != TopicKind::Ordinary {
            return self.handle_private_multicast(now, key, header, (&body, topic_field), frame, out);
        }
        let snapshot = self.shared.snapshot.load();
        let entry = snapshot.topic(body.topic);
        let nodes = entry.map_or(0, |entry| entry.nodes.len());
        let cost = super::neighbour::forwarded_len(frame.len()) * nodes as u64;
        if !self.admit_multicast(now, key, header, cost, out) {
            return;
        }
        self.reply(key, FrameType::RESPONSE, &header.seq, ResultCode::OK, topic_field, out);
        let Some(entry) = entry else {
            // Only sessions of this very shard can be newer than the snapshot.
            self.deliver_multicast(now, frame, out);
            return;
        };
        self.deliver_multicast(now, frame, out);
        for &(reactor, _) in entry.reactors.iter().filter(|(reactor, _)| *reactor != self.id) {
            out.to_reactor(reactor, MeshMessage::Multicast, frame);
        }
        if nodes == 0 {
            return;
        }
        let message = self.next_message();
        let mut elsewhere: BTreeMap<ReactorId, SmallVec<[NodeRef; 2]>> = BTreeMap::new();
        for (node, _) in &entry.nodes {
            if node.reactor == self.id {
                self.forward_multicast(now, &node.id, message, None, frame, out);
            } else {
                elsewhere.entry(node.reactor).or_default().push(node.clone());
            }
        }
        for (reactor, nodes) in elsewhere {
            out.to_reactor(reactor, MeshMessage::ForwardMulticast { nodes, message }, frame);
        }
    }

    /// A multicast that only those may get whom its publisher has accepted.
    fn handle_private_multicast(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        (body, topic_field): (&AmopBody<'_>, &[u8]),
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        self.note_subscribers(now, key.index);
        let audience = self.audience(key.index, body.topic);
        // As many frames to a node as it takes to name everybody there.
        let parts = || {
            let nodes = audience.nodes.iter();
            nodes.flat_map(|(node, named)| named.chunks(AUDIENCE_MAX).map(move |part| (node, part)))
        };
        let cost: u64 = parts().map(|(_, part)| private_forwarded_len(frame.len(), part.len())).sum();
        if !self.admit_multicast(now, key, header, cost, out) {
            return;
        }
        self.reply(key, FrameType::RESPONSE, &header.seq, ResultCode::OK, topic_field, out);
        if audience.is_empty() {
            self.counters.dropped_unauthorised.increment();
            return;
        }
        for (node, part) in parts() {
            let (message, part) = (self.next_message(), Named(part.to_vec()));
            if node.reactor == self.id {
                self.forward_multicast(now, &node.id, message, Some(&part), frame, out);
            } else {
                let (to, audience) = (Box::new(node.id), Box::new(part));
                let forward = MeshMessage::ForwardPrivateMulticast { node: to, message, audience };
                out.to_reactor(node.reactor, forward, frame);
            }
        }
        self.deliver_to_audience(now, &audience, frame, out);
    }

    /// Copies to those of an audience who are at this node.
    fn deliver_to_audience(
        &mut self,
        now: Instant,
        audience: &Audience,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        for (reactor, audience) in audience.by_reactor() {
            if reactor == self.id {
                self.deliver_private_multicast(now, audience, frame, out);
            } else {
                let message = MeshMessage::PrivateMulticast { audience: Box::new(Named(audience.to_vec())) };
                out.to_reactor(reactor, message, frame);
            }
        }
    }

    /// Charges what leaves on node links, all or nothing; a multicast that is not admitted is answered 103.
    fn admit_multicast(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        cost: u64,
        out: &mut impl Outbound,
    ) -> bool {
        let elapsed = now.saturating_duration_since(self.shared.started);
        // What stays on this node is free, however low the level is.
        if cost > 0 && !self.shared.limiter.admit(elapsed, cost) {
            self.warn_over_bandwidth(now, key);
            self.refuse(key, &header.seq, ResultCode::OVER_BANDWIDTH, out);
            return false;
        }
        self.counters.bandwidth_charged_bytes.add(cost);
        true
    }

    /// A multicast from a neighbour: to the sessions of all our reactors.
    pub(super) fn handle_multicast_of_node(
        &mut self,
        now: Instant,
        source: &NodeId,
        audience: Option<Named>,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) else {
            self.counters.bad_bodies.increment();
            return;
        };
        if let (TopicKind::Data, Some(named)) = (body.kind(), audience)
            && self.shared.settings.may_publish(body.topic, source)
        {
            return self.deliver_to_audience(now, &Audience::of_this_node(named), frame, out);
        }
        if body.kind() != TopicKind::Ordinary {
            self.counters.dropped_unauthorised.increment();
            return;
        }
        self.deliver_multicast(now, frame, out);
        let snapshot = self.shared.snapshot.load();
        let Some(entry) = snapshot.topic(body.topic) else { return };
        for &(reactor, _) in entry.reactors.iter().filter(|(reactor, _)| *reactor != self.id) {
            out.to_reactor(reactor, MeshMessage::Multicast, frame);
        }
    }

    /// Copies to this shard's own subscribers. A full queue loses its copy, which is counted.
    pub(super) fn deliver_multicast(&mut self, now: Instant, frame: FrameRef<'_>, out: &mut impl Outbound) {
        let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) else { return };
        let Self { local_topics, links, counters, logs, .. } = self;
        for &index in local_topics.sessions(body.topic) {
            let Some(Some(super::Link { kind: super::LinkKind::Sdk(session), .. })) =
                links.get_mut(index as usize)
            else {
                continue;
            };
            match out.send(session.key, Class::Data, &[], frame) {
                Ok(()) => {
                    session.last_activity = now;
                    counters.deliveries.increment();
                    counters.sdk_frames_sent.increment();
                }
                Err(SendError::Full) => {
                    counters.dropped_queue_full.increment();
                    if logs.queue_full.admits(now) {
                        session.warn_queue_full();
                    }
                }
                Err(SendError::Gone) => {}
            }
        }
    }
}
