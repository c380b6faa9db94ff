//! Multicasts: a copy to every subscriber session of the network (WIRE §2.2).

use smallvec::SmallVec;

use super::{
    Context, Parts,
    publisher::Audience,
    request::Refused,
    session::Reply,
    trace::Finished,
    upstream::{Offered, copies::Side},
};
use crate::{
    relay::{
        LinkKey, MeshMessage, Outbound, ReactorId, Recipients, SendError, SessionId,
        peer_2x::{MulticastFrom, MulticastOf},
        snapshot::{NodeRef, TopicEntry},
        trace::TopicName,
    },
    wire::{
        FrameRef, MessageNumber, NodeId, ResultCode, TopicKind, p2p_2x,
        sdk::{AmopBody, FrameType, HEADER_LEN, Header},
        trace::{Attempt, AttemptKind, AttemptOutcome, Attempts, End, MessageTrace, Refusal, Role},
    },
};

/// The fan-out of a multicast at one shard: how many copies were queued and dropped, for sessions and nodes.
pub(super) struct FanOut {
    /// Whether anybody wants to know.
    is_kept: bool,
    /// Copies that are in sessions' queues.
    pub(super) queued: u32,
    /// Copies that full queues had no room for.
    dropped: u32,
    attempts: Attempts,
}

impl FanOut {
    /// A session's queue is full.
    pub(super) fn note_dropped(&mut self, session: SessionId) {
        self.dropped += 1;
        if self.is_kept {
            let (who, outcome) = (session.0, AttemptOutcome::QueueFull);
            self.attempts.push(Attempt { who, kind: AttemptKind::Session, outcome, ..Attempt::default() });
        }
    }

    /// A node was sent its copy under a number, or the route to it had no room.
    pub(super) fn note_node(&mut self, node: &NodeId, message: MessageNumber, sent: bool) {
        self.note_fate(node, message, if sent { AttemptOutcome::Sent } else { AttemptOutcome::NotTaken });
    }

    /// A node was not sent its copy, which is longer than it takes.
    fn note_too_long(&mut self, node: &NodeId) {
        self.note_fate(node, MessageNumber::NONE, AttemptOutcome::TooLong);
    }

    /// The publisher's ledger node was sent its copy, will be once it is reached, or took none.
    fn note_ledger(&mut self, node: u16, sent: bool) {
        if self.is_kept {
            let outcome = if sent { AttemptOutcome::Sent } else { AttemptOutcome::NotTaken };
            let (who, kind) = (node.into(), AttemptKind::Ledger);
            self.attempts.push(Attempt { who, kind, outcome, ..Attempt::default() });
        }
    }

    fn note_fate(&mut self, node: &NodeId, message: MessageNumber, outcome: AttemptOutcome) {
        if self.is_kept {
            self.attempts.push(Attempt {
                who: node.short(),
                message,
                kind: AttemptKind::Node,
                outcome,
                ..Attempt::default()
            });
        }
    }
}

impl Parts {
    /// A 0x35 from a session: acknowledged at once, then delivered.
    pub(super) fn handle_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        cx.counters.multicasts.increment();
        self.try_unsettled_first(cx);
        let head = frame.head();
        let Ok(body) = AmopBody::decode(&head[HEADER_LEN..]) else {
            cx.counters.bad_bodies.increment();
            let message = Refused { header, role: Role::Multicast, topic: "" };
            self.refuse(cx, key, message, Refusal::BadBody, ResultCode::NO_RECEIVER);
            return;
        };
        if body.kind() != TopicKind::Ordinary {
            return self.handle_private_multicast(cx, key, header, &body, frame);
        }
        let snapshot = cx.shared.snapshot.load();
        let entry = snapshot.topic(body.topic);
        let all_nodes = entry.map_or(&[][..], |entry| &entry.nodes);
        let takes = |node: &&NodeRef| snapshot.takes(&node.id, frame.len());
        let nodes = all_nodes.iter().map(|(node, _)| node);
        // By ledger nodes only where no link leads to nodes of FISCO BCOS 2.x with this topic: they would have it twice.
        let goes_by_ledger =
            cx.carries_amop() && entry.is_none_or(|entry| entry.of_2x.is_none()) && !self.speaks_3x(key);
        let is_limited = cx.shared.limiter.is_limited();
        let mut cost = match entry {
            Some(entry) if is_limited => {
                cx.multicast_len(nodes.clone().filter(takes), frame.len()) + len_to_2x(entry, frame.len())
            }
            _ => 0,
        };
        if is_limited && goes_by_ledger {
            cost += frame.len() as u64;
        }
        if !self.admit_multicast(cx, key, header, body.topic, cost) {
            return;
        }
        self.acknowledge_multicast(cx, key, header, &frame.head()[..HEADER_LEN + body.payload_offset]);
        let mut fan_out = cx.fan_out();
        if goes_by_ledger {
            let node = self.upstreams.node_of(key);
            let offered = self.offer_multicast(cx, key, frame);
            fan_out.note_ledger(node, offered != Offered::NotTaken);
        }
        // Where nobody is known, sessions of this very shard can still be newer than the snapshot.
        self.deliver_multicast(cx, body.topic, frame, MulticastFrom::Session, &mut fan_out);
        let Some(entry) = entry else { return self.keep_multicast(cx, key, header, body.topic, fan_out) };
        let own = cx.id;
        for &(reactor, _) in entry.reactors.iter().filter(|(reactor, _)| *reactor != own) {
            cx.out.to_reactor(reactor, MeshMessage::Multicast, frame);
        }
        if all_nodes.is_empty() {
            return self.keep_multicast(cx, key, header, body.topic, fan_out);
        }
        let of = MulticastOf::session(cx.next_message());
        for node in nodes.clone().filter(|node| !takes(node)) {
            cx.note_too_long(&node.id, frame.len());
            fan_out.note_too_long(&node.id);
        }
        for reactor in (0..cx.shared.reactors).map(ReactorId) {
            let nodes = nodes.clone().filter(|node| node.reactor == reactor).filter(takes);
            if reactor == cx.id {
                let nodes: SmallVec<[&NodeRef; 8]> = nodes.collect();
                self.forward_multicast_to_all(cx, &nodes, of, frame, &mut fan_out);
            } else {
                let nodes: SmallVec<[NodeRef; 2]> = nodes.cloned().collect();
                if !nodes.is_empty() {
                    cx.out.to_reactor(reactor, MeshMessage::ForwardMulticast { nodes, of }, frame);
                }
            }
        }
        self.keep_multicast(cx, key, header, body.topic, fan_out);
    }

    /// Tells a publisher that its multicast is taken, if it is one of FISCO BCOS 2.x: the acknowledgement repeats the topic, without a payload. `head` is the
    /// multicast's up to there.
    fn acknowledge_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        head: &[u8],
    ) {
        if self.speaks_3x(key) {
            return;
        }
        let data = &head[HEADER_LEN..];
        self.reply(cx, key, Reply::ok(FrameType::RESPONSE, &header.seq, data));
    }

    /// Keeps what became of a session's multicast, if somebody wants to know.
    fn keep_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        topic: &str,
        fan_out: FanOut,
    ) {
        let Some(origin) = self.session_mut(key).map(|session| session.id.0) else { return };
        if fan_out.is_kept {
            let sender = self.sender(key);
            let trace = MessageTrace { role: Role::Multicast, origin, ..trace_of(header, fan_out) };
            let (seq, taken, topic) = (header.seq, cx.now, TopicName::new(topic));
            cx.common.keep(Finished { seq, taken, topic, sender, trace }, false);
        }
    }

    /// A multicast that only those may get whom its publisher has accepted.
    fn handle_private_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        body: &AmopBody<'_>,
        frame: FrameRef<'_>,
    ) {
        self.note_subscribers(cx, key.index);
        let audience = self.audience(key.index, body.topic);
        let cost = self.private_cost(cx, &audience, frame.len());
        if !self.admit_multicast(cx, key, header, body.topic, cost) {
            return;
        }
        self.acknowledge_multicast(cx, key, header, &frame.head()[..HEADER_LEN + body.payload_offset]);
        let mut fan_out = cx.fan_out();
        if audience.is_empty() {
            cx.counters.dropped_unauthorised.increment();
            return self.keep_multicast(cx, key, header, body.topic, fan_out);
        }
        self.send_to_audience(cx, &audience, frame, &mut fan_out);
        self.keep_multicast(cx, key, header, body.topic, fan_out);
    }

    /// Bytes that a multicast takes on links to other nodes, if it goes to an audience.
    pub(super) fn private_cost(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        audience: &Audience,
        frame_len: usize,
    ) -> u64 {
        let snapshot = cx.shared.snapshot.load_full();
        let to_nodes: u64 = audience
            .parts()
            .filter(|(node, _)| snapshot.takes(&node.id, frame_len))
            .map(|(node, part)| self.private_multicast_len(cx, &node.id, frame_len, part.len()))
            .sum();
        to_nodes + audience.of_2x() as u64 * (p2p_2x::HEADER_LEN + frame_len) as u64
    }

    /// Copies to an audience, wherever it is.
    pub(super) fn send_to_audience(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        audience: &Audience,
        frame: FrameRef<'_>,
        fan_out: &mut FanOut,
    ) {
        let snapshot = cx.shared.snapshot.load_full();
        let takes = |node: &NodeRef| snapshot.takes(&node.id, frame.len());
        for (node, _) in audience.nodes.iter().filter(|(node, _)| !takes(node)) {
            cx.note_too_long(&node.id, frame.len());
            fan_out.note_too_long(&node.id);
        }
        for (node, part) in audience.parts().filter(|(node, _)| takes(node)) {
            let (message, part) = (cx.next_message(), Recipients(part.to_vec()));
            if node.reactor == cx.id {
                let of = MulticastOf::session(message);
                let sent = self.forward_multicast(cx, &node.id, of, Some(&part), frame);
                fan_out.note_node(&node.id, message, sent);
            } else {
                let (to, audience) = (Box::new(node.id), Box::new(part));
                let forward = MeshMessage::ForwardPrivateMulticast { node: to, message, audience };
                cx.out.to_reactor(node.reactor, forward, frame);
            }
        }
        self.deliver_to_audience(cx, audience, frame, fan_out);
    }

    /// Copies to those of an audience who are at this node.
    fn deliver_to_audience(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        audience: &Audience,
        frame: FrameRef<'_>,
        fan_out: &mut FanOut,
    ) {
        for (reactor, audience) in audience.by_reactor() {
            if reactor == cx.id {
                self.deliver_private_multicast(cx, audience, frame, fan_out);
            } else {
                let message =
                    MeshMessage::PrivateMulticast { audience: Box::new(Recipients(audience.to_vec())) };
                cx.out.to_reactor(reactor, message, frame);
            }
        }
    }

    /// Charges what leaves on node links, all or nothing; a multicast that is not admitted is answered 103.
    fn admit_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        topic: &str,
        cost: u64,
    ) -> bool {
        // What stays on this node is free, however low the level is.
        if cost > 0 && !self.admit_bandwidth(cx, key, cost) {
            self.warn_over_bandwidth(cx, key);
            let message = Refused { header, role: Role::Multicast, topic };
            self.refuse(cx, key, message, Refusal::OverBandwidth, ResultCode::OVER_BANDWIDTH);
            return false;
        }
        true
    }

    /// A multicast from a neighbour: to the sessions of all our reactors.
    pub(super) fn handle_multicast_of_node(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        from: (&NodeId, MessageNumber),
        audience: Option<Recipients>,
        frame: FrameRef<'_>,
    ) {
        let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) else {
            cx.counters.bad_bodies.increment();
            return;
        };
        let mut fan_out = cx.fan_out();
        if let (TopicKind::Data, Some(recipients)) = (body.kind(), audience)
            && cx.shared.settings.may_publish(body.topic, from.0)
        {
            self.deliver_to_audience(cx, &Audience::of_this_node(recipients), frame, &mut fan_out);
            return cx.keep_fan_out(frame, fan_out, Some(from));
        }
        if body.kind() != TopicKind::Ordinary {
            cx.counters.dropped_unauthorised.increment();
            return cx.keep_fan_out(frame, fan_out, Some(from));
        }
        self.deliver_multicast(cx, body.topic, frame, MulticastFrom::Node, &mut fan_out);
        cx.keep_fan_out(frame, fan_out, Some(from));
        let snapshot = cx.shared.snapshot.load();
        let Some(entry) = snapshot.topic(body.topic) else { return };
        let own = cx.id;
        for &(reactor, _) in entry.reactors.iter().filter(|(reactor, _)| *reactor != own) {
            cx.out.to_reactor(reactor, MeshMessage::MulticastOfNode, frame);
        }
    }

    /// Another reactor of this node has a multicast.
    pub(super) fn handle_multicast_of_reactor(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        from: MulticastFrom,
        frame: FrameRef<'_>,
    ) {
        let mut fan_out = cx.fan_out();
        if let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) {
            self.deliver_multicast(cx, body.topic, frame, from, &mut fan_out);
        }
        cx.keep_fan_out(frame, fan_out, None);
    }

    /// Copies to this shard's own subscribers, and to nodes of FISCO BCOS 2.x by who has sent it. A full queue loses its
    /// copy, which is counted.
    pub(super) fn deliver_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        topic: &str,
        frame: FrameRef<'_>,
        from: MulticastFrom,
        fan_out: &mut FanOut,
    ) {
        let Self { sessions, links, upstreams, .. } = self;
        let digest = upstreams.digest(cx, frame);
        for &index in sessions.topics.sessions(topic) {
            let Some(Some(link)) = links.get_mut(index as usize) else { continue };
            // Nodes of FISCO BCOS 2.x have no ledger node from which the same could come.
            let (session, digest) = match &mut link.kind {
                super::LinkKind::Sdk(session) => (&mut **session, digest),
                super::LinkKind::Peer2x(peer) if peer.takes_from(from) => (&mut peer.session, None),
                _ => continue,
            };
            if let Some(digest) = digest
                && upstreams.drops_copy(cx, session.key, digest, Side::Mesh)
            {
                continue;
            }
            match session.send_data(cx, frame) {
                Ok(_) => {
                    if let Some(digest) = digest {
                        upstreams.note_copy(cx, session.key, digest, Side::Mesh);
                    }
                    session.last_activity = cx.now;
                    fan_out.queued += 1;
                    cx.counters.deliveries.increment();
                    cx.counters.sdk_frames_sent.add(u64::from(session.dialect.of_2x().is_none()));
                }
                Err(SendError::Full) => {
                    fan_out.note_dropped(session.id);
                    cx.counters.dropped_queue_full.increment();
                    session.dropped_copies += 1;
                    if cx.common.logs.queue_full.admits(cx.now) {
                        session.warn_queue_full();
                    }
                }
                Err(SendError::Gone) => {}
            }
        }
    }
}

impl<O: Outbound> Context<'_, O> {
    /// For counting copies of a multicast.
    pub(super) fn fan_out(&self) -> FanOut {
        FanOut { is_kept: self.is_kept(false), queued: 0, dropped: 0, attempts: Attempts::default() }
    }

    /// The same of the part that another shard of the node had, or a neighbour's multicast, of which are
    /// told who it was and its number.
    pub(super) fn keep_fan_out(
        &mut self,
        frame: FrameRef<'_>,
        fan_out: FanOut,
        from: Option<(&NodeId, MessageNumber)>,
    ) {
        let head = frame.head();
        if fan_out.is_kept
            && let Some(header) = Header::decode(head)
            && let Ok(body) = AmopBody::decode(&head[HEADER_LEN..])
        {
            let mut trace = MessageTrace { role: Role::FanOut, ..trace_of(&header, fan_out) };
            if let Some((node, message)) = from {
                trace =
                    MessageTrace { role: Role::ForwardedMulticast, origin: node.short(), message, ..trace };
            }
            let (seq, taken, topic) = (header.seq, self.now, TopicName::new(body.topic));
            self.common.keep(Finished { seq, taken, topic, sender: None, trace }, false);
        }
    }
}

/// Bytes that a multicast takes on the links to nodes of FISCO BCOS 2.x.
fn len_to_2x(entry: &TopicEntry, frame_len: usize) -> u64 {
    let of_2x = entry.of_2x.iter().flat_map(|of_2x| &of_2x.reactors);
    of_2x.map(|(_, count)| u64::from(*count) * (p2p_2x::HEADER_LEN + frame_len) as u64).sum()
}

/// What is told of a multicast whose copies these are.
fn trace_of(header: &Header, fan_out: FanOut) -> MessageTrace {
    MessageTrace {
        end: End::ByNode,
        code: ResultCode::OK.0,
        size: header.len,
        copies: fan_out.queued,
        dropped: fan_out.dropped,
        attempts: fan_out.attempts,
        ..MessageTrace::default()
    }
}
