//! Messages of nodes of FISCO BCOS 2.x, and to them: frames of the SDK link within their own.

use smallvec::SmallVec;

use super::{Context, Parts};
use crate::{
    relay::{
        Class, LinkKey, MeshMessage, Outbound, Queued, ReactorId, SendError, home_reactor_of,
        peer_2x::{FRAME_LEN_MAX, MulticastFrom, MulticastOf, NO_ANSWER},
        shard::{
            push::Push,
            request::{RequestOf, answer_frame},
            session::Session,
        },
        snapshot::NodeRef,
    },
    wire::{
        FrameRef, ResultCode, RetainedFrame, TopicKind,
        p2p_2x::{CompressionError, HEADER_LEN, Header, Kind, decompress},
        sdk::{self, AmopBody, FrameType, Seq},
    },
};

/// A frame of the SDK link within one of theirs.
#[derive(Clone, Copy)]
struct Inner<'a> {
    kind: Kind,
    /// Seq of the frame around it.
    seq: u32,
    header: sdk::Header,
    frame: FrameRef<'a>,
}

impl Session {
    /// Sends a message, in one or two pieces, to a node of FISCO BCOS 2.x, as which it is drawn. Out of the way of messages for sessions.
    #[cold]
    #[inline(never)]
    pub(in crate::relay::shard) fn send_to_2x(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        head: &[u8],
        frame: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        let len = HEADER_LEN + head.len() + frame.len();
        if len > FRAME_LEN_MAX {
            cx.counters.refused_too_long.increment();
            return Err(SendError::Full);
        }
        let inner = if head.is_empty() { frame.head() } else { head };
        let is_multicast = inner.get(4..6) == Some(&FrameType::MULTICAST.0.to_be_bytes());
        let kind = if is_multicast { Kind::Multicast } else { Kind::Unicast };
        let mut front: SmallVec<[u8; 384]> = SmallVec::new();
        front.extend_from_slice(&Header::encode(kind, cx.next_message().0, head.len() + frame.len()));
        front.extend_from_slice(head);
        let queued = cx.out.send(self.key, Class::Data, &front, frame)?;
        cx.counters.peer_2x_frames_sent.increment();
        cx.pay(len);
        Ok(queued)
    }
}

impl Parts {
    /// A frame of such a node.
    pub(in crate::relay::shard) fn handle_peer_2x_frame(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        cx.counters.peer_2x_frames_received.increment();
        let header = match Header::decode(frame.head()) {
            Ok(header) => header,
            Err(error) => return self.refuse_peer_2x(cx, key, error),
        };
        if header.len as usize > frame.len() || frame.len() > cx.shared.settings.node_link_frame_len_max() {
            // Only its beginning is here.
            return cx.counters.read_over.increment();
        }
        let payload = frame.advance(HEADER_LEN);
        if header.kind == Kind::Other {
            // What a ledger's groups say.
            return cx.counters.peer_2x_ignored.increment();
        }
        let opened;
        let payload = match header.is_compressed {
            false => payload,
            true => match decompress(payload, cx.shared.settings.frame_len_max) {
                Ok(bytes) => {
                    opened = RetainedFrame::from_bytes(bytes.into());
                    opened.as_ref()
                }
                Err(CompressionError::TooLong { .. }) => return cx.counters.read_over.increment(),
                Err(error) => return self.refuse_peer_2x(cx, key, error),
            },
        };
        match header.kind {
            Kind::TopicSeq => self.handle_topic_seq(cx, key, payload),
            Kind::RequestTopics => self.handle_topics_requested(cx, key, header.seq),
            Kind::Topics => self.handle_topic_list(cx, key, header.seq, payload),
            kind => match sdk::Header::decode(payload.head()) {
                Some(inner) if inner.len as usize == payload.len() => {
                    let inner = Inner { kind, seq: header.seq, header: inner, frame: payload };
                    self.handle_inner(cx, key, inner);
                }
                _ => cx.counters.peer_2x_malformed.increment(),
            },
        }
    }

    fn handle_inner(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, inner: Inner<'_>) {
        match (inner.kind, inner.header.frame_type) {
            (Kind::Unicast, FrameType::REQUEST) => self.handle_request_of_2x(cx, key, inner),
            (Kind::Multicast, FrameType::MULTICAST) => self.handle_multicast_of_2x(cx, key, inner),
            (Kind::Answer | Kind::Unicast, FrameType::RESPONSE) => self.handle_answer_of_2x(cx, key, inner),
            _ => cx.counters.peer_2x_malformed.increment(),
        }
    }

    /// A unicast of one of its applications.
    fn handle_request_of_2x(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, inner: Inner<'_>) {
        let Inner { seq: outer, header, frame, .. } = inner;
        let passes = AmopBody::decode(&frame.head()[sdk::HEADER_LEN..]).is_ok_and(|body| match body.kind() {
            TopicKind::Ordinary => true,
            TopicKind::Data => self.takes_private_of_2x(key, body.topic),
            TopicKind::Route => self.takes_challenge_of_2x(cx.now, key, body.topic),
            TopicKind::Marker | TopicKind::BlockNotify => false,
        });
        if !passes {
            cx.counters.peer_2x_withheld.increment();
            return self.answer_2x_myself(cx, key, (outer, &header.seq), ResultCode::NO_RECEIVER);
        }
        let seq = cx.seq_key(&header.seq);
        let Some(peer) = self.peer_2x_mut(key) else { return };
        if peer.session.requests.contains_key(&seq) {
            return self.answer_2x_myself(cx, key, (outer, &header.seq), ResultCode::NOT_DELIVERED);
        }
        peer.open.insert(seq, outer);
        cx.counters.peer_2x_requests.increment();
        self.handle_request(cx, key, &header, frame);
    }

    fn answer_2x_myself(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        (outer, seq): (u32, &Seq),
        code: ResultCode,
    ) {
        cx.count_answer(code);
        let answer = answer_frame(seq, code);
        let head = Header::encode(Kind::Answer, outer, answer.len());
        // So short an answer finds room, or the node tries another one in its time.
        if cx.out.send(key, Class::Control, &head, FrameRef::Slice(&answer)).is_ok() {
            cx.counters.peer_2x_frames_sent.increment();
        }
    }

    /// The answer to a request of it, in one or two pieces.
    pub(in crate::relay::shard) fn send_answer_to_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
    ) {
        let Some(header) = sdk::Header::decode(if head.is_empty() { body.head() } else { head }) else {
            return;
        };
        let seq = cx.seq_key(&header.seq);
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let Some(outer) = peer.open.remove(&seq) else { return };
        let len = head.len() + body.len();
        let mut front: SmallVec<[u8; HEADER_LEN + sdk::HEADER_LEN]> = SmallVec::new();
        front.extend_from_slice(&Header::encode(Kind::Answer, outer, len));
        front.extend_from_slice(head);
        let is_too_long = HEADER_LEN + len > FRAME_LEN_MAX;
        if !is_too_long && cx.out.send(key, Class::Answer, &front, body).is_ok() {
            cx.counters.peer_2x_frames_sent.increment();
            return cx.pay(front.len() + body.len());
        }
        cx.counters.answers_dropped.increment();
        self.answer_2x_myself(cx, key, (outer, &header.seq), ResultCode::TIMEOUT);
    }

    /// It answers what was sent to it, or says that it could not.
    fn handle_answer_of_2x(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, inner: Inner<'_>) {
        let Inner { kind, header, frame, .. } = inner;
        if kind == Kind::Answer && header.result != NO_ANSWER {
            return self.handle_session_answer(cx, key, &header, frame);
        }
        let seq = cx.seq_key(&header.seq);
        if !cx.shared.settings.retry_after_push_timeout {
            // One of its sessions may have it: nobody else gets it.
            let answer = answer_frame(&header.seq, ResultCode::TIMEOUT);
            let Some(header) = sdk::Header::decode(&answer) else { return };
            return self.handle_session_answer(cx, key, &header, FrameRef::Slice(&answer));
        }
        let Some(session) = self.session_mut(key) else { return };
        let id = session.id;
        let Some(push) = session.pushes.remove(&seq) else {
            return cx.counters.unsolicited_answers.increment();
        };
        self.end_push(&push);
        cx.counters.peer_2x_not_answered.increment();
        // No ledger node pushes anything to it.
        let Some(RequestOf { coordinator, id: request }) = push.request() else { return };
        let failed = MeshMessage::PushFailed { request, session: id, seq: header.seq, silent: false };
        self.send_to_reactor(cx, coordinator, failed, FrameRef::EMPTY);
    }

    /// A node that says nothing is not waited for any longer; what it answers after all still counts.
    pub(super) fn fail_pushes_of_silent(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Self { links, pushes, .. } = self;
        let Some(session) = super::super::session_of(links, key) else { return };
        let id = session.id;
        let open = session.pushes.iter_mut();
        let failed: Vec<(RequestOf, Seq)> = open
            .filter_map(|(seq, push): (_, &mut Push)| {
                Some((push.request().filter(|_| pushes.give_up(push))?, seq.seq))
            })
            .collect();
        for (RequestOf { coordinator, id: request }, seq) in failed {
            cx.counters.push_timeouts.increment();
            let failed = MeshMessage::PushFailed { request, session: id, seq, silent: true };
            self.send_to_reactor(cx, coordinator, failed, FrameRef::EMPTY);
        }
    }

    /// A multicast of one of its applications: to all sessions of our own network.
    fn handle_multicast_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        inner: Inner<'_>,
    ) {
        let Inner { header, frame, .. } = inner;
        let body = AmopBody::decode(&frame.head()[sdk::HEADER_LEN..]).ok();
        let passes = |body: &AmopBody<'_>| match body.kind() {
            TopicKind::Ordinary => true,
            TopicKind::Data => self.takes_private_of_2x(key, body.topic),
            _ => false,
        };
        let Some(body) = body.filter(passes) else { return cx.counters.peer_2x_withheld.increment() };
        let Some(sender) = self.session_mut(key).and_then(|session| session.dialect.of_2x()) else { return };
        let seq = cx.seq_key(&header.seq);
        if !self.is_new_of_2x(cx, sender, seq) {
            return;
        }
        cx.counters.peer_2x_multicasts.increment();
        if body.kind() == TopicKind::Data {
            return self.forward_private_multicast_of_2x(cx, key, body.topic, frame);
        }
        let snapshot = cx.shared.snapshot.load_full();
        let entry = snapshot.topic(body.topic).map(|entry| entry.without_2x());
        let nodes: SmallVec<[NodeRef; 4]> =
            entry.iter().flat_map(|entry| entry.nodes.iter().map(|(node, _)| node.clone())).collect();
        let takes = |node: &&NodeRef| snapshot.takes(&node.id, frame.len());
        let cost = match nodes.is_empty() || !cx.shared.limiter.is_limited() {
            true => 0,
            false => cx.multicast_len(nodes.iter().filter(takes), frame.len()),
        };
        if cost > 0 && !self.admit_bandwidth(cx, key, cost) {
            cx.counters.answered_over_bandwidth.increment();
            return self.warn_over_bandwidth(cx, key);
        }
        self.deliver_of_2x(cx, sender, frame);
        if nodes.is_empty() {
            return;
        }
        let of = MulticastOf { message: cx.next_message(), from_2x: Some(sender) };
        let mut fan_out = cx.fan_out();
        for node in nodes.iter().filter(|node| !takes(node)) {
            cx.note_too_long(&node.id, frame.len());
        }
        for reactor in (0..cx.shared.reactors).map(ReactorId) {
            let of_home = nodes.iter().filter(|node| node.reactor == reactor).filter(takes);
            if reactor == cx.id {
                let of_home: SmallVec<[&NodeRef; 8]> = of_home.collect();
                self.forward_multicast_to_all(cx, &of_home, of, frame, &mut fan_out);
            } else {
                let nodes: SmallVec<[NodeRef; 2]> = of_home.cloned().collect();
                if !nodes.is_empty() {
                    cx.out.to_reactor(reactor, MeshMessage::ForwardMulticast { nodes, of }, frame);
                }
            }
        }
        cx.keep_fan_out(frame, fan_out, None);
    }

    /// The same with a private topic: to whom it has accepted.
    fn forward_private_multicast_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        topic: &str,
        frame: FrameRef<'_>,
    ) {
        self.note_subscribers(cx, key.index);
        let audience = self.audience(key.index, topic);
        let cost = self.private_cost(cx, &audience, frame.len());
        if cost > 0 && !self.admit_bandwidth(cx, key, cost) {
            cx.counters.answered_over_bandwidth.increment();
            return self.warn_over_bandwidth(cx, key);
        }
        let mut fan_out = cx.fan_out();
        self.send_to_audience(cx, &audience, frame, &mut fan_out);
        cx.keep_fan_out(frame, fan_out, None);
    }

    /// The same that another node of the network has brought, which is that one's gateway.
    pub(in crate::relay::shard) fn handle_multicast_of_gateway(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        sender: u64,
        frame: FrameRef<'_>,
    ) {
        // There all of that node's multicasts come together.
        let home = home_reactor_of(sender, cx.shared.reactors);
        let message = MeshMessage::MulticastOf2x { sender, is_first: true };
        self.send_to_reactor(cx, home, message, frame);
    }

    /// A multicast of such a node for this shard: at its home it is looked at whether it is new.
    pub(in crate::relay::shard) fn take_multicast_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        (sender, is_first): (u64, bool),
        frame: FrameRef<'_>,
    ) {
        let Some(header) = sdk::Header::decode(frame.head()) else { return };
        if !is_first {
            return self.deliver_here(cx, frame);
        }
        let seq = cx.seq_key(&header.seq);
        if self.is_new_of_2x(cx, sender, seq) {
            self.deliver_of_2x(cx, sender, frame);
        }
    }

    /// To all sessions of this node.
    fn deliver_of_2x(&mut self, cx: &mut Context<'_, impl Outbound>, sender: u64, frame: FrameRef<'_>) {
        self.deliver_here(cx, frame);
        let Ok(body) = AmopBody::decode(&frame.head()[sdk::HEADER_LEN..]) else { return };
        let snapshot = cx.shared.snapshot.load_full();
        let Some(entry) = snapshot.topic(body.topic).map(|entry| entry.without_2x()) else { return };
        let own = cx.id;
        for &(reactor, _) in entry.reactors.iter().filter(|(reactor, _)| *reactor != own) {
            cx.out.to_reactor(reactor, MeshMessage::MulticastOf2x { sender, is_first: false }, frame);
        }
    }

    fn deliver_here(&mut self, cx: &mut Context<'_, impl Outbound>, frame: FrameRef<'_>) {
        let mut fan_out = cx.fan_out();
        if let Ok(body) = AmopBody::decode(&frame.head()[sdk::HEADER_LEN..])
            && body.kind() == TopicKind::Ordinary
        {
            self.deliver_multicast(cx, body.topic, frame, MulticastFrom::Node2x, &mut fan_out);
        }
        cx.keep_fan_out(frame, fan_out, None);
    }
}
