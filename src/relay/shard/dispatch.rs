//! The parts of a shard, and which of them an event goes to.

use std::time::Instant;

use smallvec::SmallVec;

use super::{
    Usage,
    challenge_broker::ChallengeBroker,
    channel::{Channel, Channels},
    context::{Common, Context},
    diagnostic::Diagnostics,
    lame_duck::LameDuck,
    node_link::{self, NodeLink, NodeLinks},
    peer::Peers,
    peer_2x::{Peer2x, Peers2x},
    private::Subscribers,
    publisher::Publishers,
    push::{Pushes, Receivers},
    request::{self, RequestOf, Requests},
    room::RoomWaits,
    session::{Dialect, Session, Sessions},
    upstream::{LedgerLink, Upstreams},
};
use crate::{
    relay::{
        CloseReason, Fault, LinkKey, LinkUp, MeshMessage, NotPushed, Outbound, ReactorId, RegistryOutput,
        SessionId,
        peer_2x::{MulticastFrom, MulticastOf},
        report::{LinkLoad, LinkPage, LinkReport},
        sealing::Subject,
        snapshot::NodeRef,
    },
    wire::FrameRef,
};

/// What a shard keeps of its links, messages and other nodes. What concerns several parts at once is a method here.
pub(super) struct Parts {
    /// Links by [`LinkKey::index`].
    pub(super) links: Vec<Option<Link>>,
    pub(super) sessions: Sessions,
    pub(super) subscribers: Subscribers,
    pub(super) publishers: Publishers,
    pub(super) challenge_broker: ChallengeBroker,
    pub(super) requests: Requests,
    pub(super) pushes: Pushes,
    pub(super) room_waits: RoomWaits,
    pub(super) node_links: NodeLinks,
    pub(super) peers: Peers,
    pub(super) channels: Channels,
    pub(super) diagnostics: Diagnostics,
    pub(super) upstreams: Upstreams,
    pub(super) peers_2x: Peers2x,
    /// While sessions are let go before the node stops.
    pub(super) lame_duck: Option<LameDuck>,
}

/// One link.
pub(super) struct Link {
    pub(super) generation: u32,
    pub(super) kind: LinkKind,
}

/// What is at its other end.
pub(super) enum LinkKind {
    Sdk(Box<Session>),
    Node(Box<NodeLink>),
    Ledger(LedgerLink),
    Peer2x(Box<Peer2x>),
}

impl LinkKind {
    /// As which its peer gets messages and sends them.
    #[inline]
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Self::Sdk(session) => Some(session),
            Self::Peer2x(peer) => Some(&peer.session),
            Self::Node(_) | Self::Ledger(_) => None,
        }
    }

    #[inline]
    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Self::Sdk(session) => Some(session),
            Self::Peer2x(peer) => Some(&mut peer.session),
            Self::Node(_) | Self::Ledger(_) => None,
        }
    }
}

impl Parts {
    pub(super) fn new(common: &Common) -> Self {
        let (settings, hashing) = (&common.shared.settings, &common.hashing);
        Self {
            links: Vec::new(),
            sessions: Sessions::new(settings, hashing),
            subscribers: Subscribers::new(hashing.clone()),
            publishers: Publishers::default(),
            challenge_broker: ChallengeBroker::new(hashing.clone()),
            requests: Requests::new(settings.request_timeout),
            pushes: Pushes::new(settings.push_timeout),
            room_waits: RoomWaits::new(settings.request_timeout, hashing.clone()),
            node_links: NodeLinks::new(),
            peers: Peers::new(hashing.clone()),
            channels: Channels::new(settings.ack_delay_max, hashing.clone()),
            diagnostics: Diagnostics::new(hashing.clone()),
            upstreams: Upstreams::new(settings, hashing.clone()),
            peers_2x: Peers2x::new(hashing.clone()),
            lame_duck: None,
        }
    }

    /// A link has come up.
    pub(super) fn handle_link_up(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, up: LinkUp) {
        let index = key.index as usize;
        if self.links.len() <= index {
            self.links.resize_with(index + 1, || None);
        }
        debug_assert!(self.links[index].is_none(), "a link came up in an occupied slot");
        let kind = match up {
            LinkUp::Sdk { address, subject, public_key } => {
                self.note_lame_duck_session(cx.now, key);
                LinkKind::Sdk(Box::new(self.new_session(cx, key, (address, subject, public_key))))
            }
            LinkUp::Ledger { session, number, address } => {
                let kind = LinkKind::Ledger(LedgerLink { session });
                self.links[index] = Some(Link { generation: key.generation, kind });
                return self.ledger_link_up(cx, key, (session, number, address));
            }
            LinkUp::Node { id, dialed, address, agency, name } => {
                let link = self.new_node_link(cx, id, dialed, node_link::PeerLabel { address, agency, name });
                LinkKind::Node(Box::new(link))
            }
        };
        let is_node = matches!(kind, LinkKind::Node(_));
        self.links[index] = Some(Link { generation: key.generation, kind });
        if is_node {
            self.greet(cx, key);
        }
    }

    /// A whole frame arrived on a link.
    pub(super) fn handle_frame(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        match self.link_mut(key) {
            Some(LinkKind::Sdk(session)) if matches!(session.dialect, Dialect::App3x) => {
                self.handle_frame_of_3x(cx, key, frame);
            }
            Some(LinkKind::Sdk(_)) => self.handle_sdk_frame(cx, key, frame),
            Some(LinkKind::Node(link)) if link.is_of_2x(frame) => self.begin_peer_2x(cx, key, frame),
            Some(LinkKind::Node(_)) => self.handle_node_frame(cx, key, frame),
            Some(LinkKind::Peer2x(_)) => self.handle_peer_2x_frame(cx, key, frame),
            Some(LinkKind::Ledger(LedgerLink { session })) => {
                let session = *session;
                self.handle_ledger_frame(cx, session, frame);
            }
            None => {}
        }
    }

    /// A link is gone. Comes once for each link that came up.
    pub(super) fn handle_link_down(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        reason: CloseReason,
    ) {
        let Some(slot) = self.links.get_mut(key.index as usize) else { return };
        let Some(link) = slot.take_if(|link| link.generation == key.generation) else { return };
        match (reason.fault(), reason) {
            (Fault::Protocol, _) => cx.counters.closed_protocol.increment(),
            (_, CloseReason::Stalled) => cx.counters.closed_stalled.increment(),
            (_, CloseReason::KeysExhausted) => cx.counters.closed_worn.increment(),
            _ => {}
        }
        match link.kind {
            LinkKind::Sdk(session) => self.end_session(cx, *session, reason),
            LinkKind::Node(node_link) => self.end_node_link(cx, key, *node_link, reason),
            LinkKind::Ledger(ledger_link) => self.end_ledger_link(cx, key, ledger_link, reason),
            LinkKind::Peer2x(peer) => self.end_peer_2x(cx, key, *peer, reason),
        }
    }

    /// Another shard sent a message, with the frame that belongs to it.
    pub(super) fn handle_mesh(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        from: ReactorId,
        message: MeshMessage,
        frame: FrameRef<'_>,
    ) {
        match message {
            MeshMessage::Deliver { request, audience, excluded, wait_for_room, draw_2x, prepaid } => {
                let audience = audience.as_deref();
                let receivers = Receivers { audience, excluded, wait_for_room, draw_2x, prepaid };
                self.handle_deliver(cx, RequestOf { coordinator: from, id: request }, receivers, frame);
            }
            MeshMessage::ForgetWait { request } => {
                self.forget_wait(RequestOf { coordinator: from, id: request });
            }
            MeshMessage::Undeliverable { request, why } => {
                self.handle_undeliverable(cx, request, from, why, frame);
            }
            MeshMessage::PushFailed { request, session, seq, silent } => {
                self.handle_push_failed(cx, request, session, seq, silent);
            }
            MeshMessage::Answer { request, session } => {
                self.answer_from_session(cx, request, session, frame);
            }
            MeshMessage::ForgetPush { session, seq } => self.forget_push(cx.common, session, &seq),
            MeshMessage::Multicast => self.handle_multicast_of_reactor(cx, MulticastFrom::Session, frame),
            MeshMessage::MulticastOfNode => {
                self.handle_multicast_of_reactor(cx, MulticastFrom::Node, frame);
            }
            MeshMessage::MulticastOf2x { sender, is_first } => {
                self.take_multicast_of_2x(cx, (sender, is_first), frame);
            }
            MeshMessage::PrivateMulticast { audience } => {
                let mut fan_out = cx.fan_out();
                self.deliver_private_multicast(cx, &audience.0, frame, &mut fan_out);
                cx.keep_fan_out(frame, fan_out, None);
            }
            MeshMessage::OpenChallenge { challenge } => self.open_challenge(cx, challenge),
            MeshMessage::ChallengeOpened { publisher, token, node } => {
                self.challenge_opened(cx, publisher, &token, node.as_deref());
            }
            MeshMessage::SendNotice { node, notice } => self.send_notice(cx, node, *notice),
            MeshMessage::Carry { request, sender } => {
                let request = RequestOf { coordinator: from, id: request };
                if !self.carry(cx, request, sender, frame) {
                    self.report_undeliverable(cx, request, NotPushed::ChallengeClosed, FrameRef::EMPTY);
                }
            }
            MeshMessage::Present { coordinator, request, sender, challenge } => {
                let request = RequestOf { coordinator, id: request };
                if !self.present(cx, request, sender, &challenge, frame) {
                    self.report_undeliverable(cx, request, NotPushed::ChallengeClosed, FrameRef::EMPTY);
                }
            }
            MeshMessage::ChallengeAnswered { publisher, token, node } => {
                self.challenge_answered(cx, publisher, &token, node.as_deref());
            }
            MeshMessage::Forward(forward) => {
                if !self.forward(cx, from, &forward, frame) {
                    let (request, message) = (forward.request, forward.message);
                    let failed = MeshMessage::ForwardFailed { request, message, taken: false };
                    self.send_to_reactor(cx, from, failed, FrameRef::EMPTY);
                }
            }
            MeshMessage::Pass { packet, next } => self.pass(cx, *packet, next, frame),
            MeshMessage::Arrived { source, packet_type, message } => {
                self.arrive(cx, &source, Subject { packet_type, message }, frame);
            }
            MeshMessage::NotPassed { node, packet_type, message } => {
                self.handle_not_passed(cx.now, &node, Subject { packet_type, message });
            }
            MeshMessage::ForwardFailed { request, message, taken } => {
                self.handle_forward_failed(cx, request, message, taken);
            }
            MeshMessage::ForwardAnswer { request, message, by_node } => {
                self.answer_from_node(cx, request, message, by_node, frame);
            }
            MeshMessage::AnswerBegun { request, len } => self.handle_answer_begun(cx, request, len),
            MeshMessage::ForgetForward { node, message, report } => {
                if let Some((request, taken)) = self.forget_forward(cx.common, cx.now, &node, message)
                    && report
                {
                    let failed = MeshMessage::ForwardFailed { request, message, taken };
                    self.send_to_reactor(cx, from, failed, FrameRef::EMPTY);
                }
            }
            MeshMessage::ForwardMulticast { nodes, of } => {
                let mut fan_out = cx.fan_out();
                let nodes: SmallVec<[&NodeRef; 8]> = nodes.iter().collect();
                self.forward_multicast_to_all(cx, &nodes, of, frame, &mut fan_out);
                cx.keep_fan_out(frame, fan_out, None);
            }
            MeshMessage::ForwardPrivateMulticast { node, message, audience } => {
                let of = MulticastOf::session(message);
                let taken = self.forward_multicast(cx, &node, of, Some(&audience), frame);
                let mut fan_out = cx.fan_out();
                fan_out.note_node(&node, message, taken);
                cx.keep_fan_out(frame, fan_out, None);
            }
            MeshMessage::TakeNotice { from, notice } => self.take_notice(cx, &from, &notice),
        }
    }

    /// Has a reactor act on a message and its frame: this one at once, another one when it takes it from the mesh.
    pub(super) fn send_to_reactor(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        to: ReactorId,
        message: MeshMessage,
        frame: FrameRef<'_>,
    ) {
        match to == cx.id {
            true => self.handle_mesh(cx, to, message, frame),
            false => cx.out.to_reactor(to, message, frame),
        }
    }

    /// The registry has something to say.
    pub(super) fn handle_registry(&mut self, cx: &mut Context<'_, impl Outbound>, output: RegistryOutput) {
        match output {
            RegistryOutput::ToNode { to, packet_type, seq, payload } => {
                self.send_state(cx, &to, packet_type, seq, &payload);
            }
            RegistryOutput::RpcAnswer { link, seq, body } => {
                self.send_rpc_answer(cx, link, &seq, &body);
            }
            RegistryOutput::Reach { id, incarnation } => self.handle_reach(cx, &id, incarnation),
            RegistryOutput::Gateway2x { id, is_gateway, is_for_all } => {
                self.set_gateway_2x(cx, &id, is_gateway, is_for_all);
            }
            RegistryOutput::RoutesChanged => self.refresh_routes(cx),
            RegistryOutput::StateCame => self.try_unsettled(cx),
            RegistryOutput::NewIncarnation => self.begin_incarnation(cx),
            RegistryOutput::CloseNode { id, reason } => self.close_node(cx, &id, reason),
        }
    }

    /// Does what is due by now.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_, impl Outbound>) {
        while let Some(timer) = self.pushes.pop_expired(cx.now) {
            self.handle_push_timeout(cx, timer);
        }
        while let Some(request) = self.requests.pop_expired(cx.now) {
            self.handle_request_timeout(cx, request);
        }
        while let Some(key) = self.sessions.idle_timers.pop_expired(cx.now) {
            self.check_idle(cx, key);
        }
        while let Some(request) = self.room_waits.pop_expired(cx.now) {
            self.handle_room_timeout(cx, request);
        }
        while let Some(key) = self.sessions.deferred_subscriptions.pop_expired(cx.now) {
            self.apply_deferred_subscription(cx, key);
        }
        while let Some(id) = self.channels.pop_due_ack(cx.now) {
            self.send_due_ack(cx, &id);
        }
        self.handle_ledger_timeouts(cx);
        self.end_late_questions(cx);
        if self.node_links.next_tick.is_some_and(|due| due <= cx.now) {
            self.tick_nodes(cx);
        }
        if self.peers_2x.next_tick.is_some_and(|due| due <= cx.now) {
            self.tick_peers_2x(cx);
        }
        if self.publishers.next_look.is_some_and(|due| due <= cx.now) {
            self.look_at_publishers(cx);
        }
        if self.lame_duck.is_some() {
            self.tick_lame_duck(cx);
        }
    }

    /// The keys of a link are worn out.
    pub(super) fn handle_rekey_due(&mut self, common: &Common, key: LinkKey) {
        match self.link_mut(key) {
            Some(LinkKind::Sdk(session)) => {
                session.keys_exhausted = true;
                common.counters.sessions_worn.increment();
            }
            Some(LinkKind::Node(_)) => self.set_rekey_due(common, key),
            // It is closed once nothing is awaited of it, and made anew.
            Some(LinkKind::Ledger(_)) | None => {}
            // Likewise: whoever dials it does so again.
            Some(LinkKind::Peer2x(_)) => common.counters.node_links_worn.increment(),
        }
    }

    /// Bytes arrived on a link, whether or not they complete a frame.
    pub(super) fn handle_activity(&mut self, now: Instant, key: LinkKey) {
        match self.link_mut(key) {
            Some(LinkKind::Sdk(session)) => session.last_activity = now,
            Some(LinkKind::Node(link)) => link.last_received = now,
            Some(LinkKind::Ledger(LedgerLink { session })) => {
                let session = *session;
                self.note_ledger_activity(now, session);
            }
            Some(LinkKind::Peer2x(_)) => self.note_peer_2x_activity(now, key),
            None => {}
        }
    }

    /// When [`Self::handle_timeout`] is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.pushes.deadline(),
            self.requests.deadline(),
            self.sessions.idle_timers.deadline(),
            self.room_waits.deadline(),
            self.sessions.deferred_subscriptions.deadline(),
            self.channels.deadline(),
            self.diagnostics.deadline(),
            self.upstreams.deadline(),
            self.node_links.next_tick,
            self.peers_2x.next_tick,
            self.publishers.next_look,
            self.lame_duck.as_ref().and_then(LameDuck::deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether a link's session, if it is one, waits for no answer, and none is awaited of it.
    pub(super) fn is_link_quiet(&mut self, key: LinkKey) -> bool {
        let session = match self.link_mut(key) {
            Some(LinkKind::Ledger(LedgerLink { session })) => *session,
            _ => key,
        };
        self.upstreams.is_quiet(session)
            && self.session_mut(key).is_none_or(|one| one.requests.is_empty() && one.pushes.is_empty())
    }

    /// Tells about the links in slots from `from` on, at most `slots_max` of them.
    pub(super) fn report_links(&self, common: &Common, from: u32, slots_max: u32) -> LinkPage {
        let end = from.saturating_add(slots_max).min(self.links.len() as u32);
        let slots = self.links.get(from as usize..end as usize).unwrap_or_default();
        let report = |(offset, slot)| self.report_link(common, from as usize + offset, slot);
        let links = slots.iter().enumerate().filter_map(report).collect();
        LinkPage { links, next: ((end as usize) < self.links.len()).then_some(end) }
    }

    /// Tells about all links to nodes, which are few.
    pub(super) fn report_node_links(&self, common: &Common) -> LinkPage {
        let is_node = |slot: &Option<Link>| {
            slot.as_ref().is_some_and(|link| matches!(link.kind, LinkKind::Node(_) | LinkKind::Peer2x(_)))
        };
        let slots = self.links.iter().enumerate().filter(|(_, slot)| is_node(slot));
        let links = slots.filter_map(|(index, slot)| self.report_link(common, index, slot)).collect();
        LinkPage { links, next: None }
    }

    fn report_link(&self, common: &Common, index: usize, slot: &Option<Link>) -> Option<LinkReport> {
        let link = slot.as_ref()?;
        let key = LinkKey { index: index as u32, generation: link.generation };
        let (since, address, peer) = match &link.kind {
            LinkKind::Sdk(session) => {
                let has_ledger = common.shared.settings.ledger.is_some();
                session.report(has_ledger.then(|| self.upstreams.report(key)))
            }
            LinkKind::Node(link) => link.report(self.is_active(key, &link.peer)),
            LinkKind::Ledger(ledger) => {
                self.upstreams.report_link(key, ledger.session, self.session_id(ledger.session)?)?
            }
            LinkKind::Peer2x(peer) => peer.report(),
        };
        Some(LinkReport { reactor: common.id, key, since, address, peer, load: LinkLoad::default() })
    }

    /// How many answers are to come, of sessions and of nodes that were asked something.
    pub(super) fn awaited(&self) -> usize {
        self.pushes.len() + self.requests.len()
    }

    /// Whether no request waits for its answer.
    pub(super) fn is_drained(&self) -> bool {
        // A request whose node was told that nobody answered is kept for a late answer only.
        self.requests.iter().all(request::Request::is_answered_for_now) && self.upstreams.asked() == 0
    }

    /// How full its tables are. Looks at every neighbour.
    pub(super) fn usage(&self) -> Usage {
        let channels = || self.peers.channels();
        let most = |of: fn(&Channel) -> usize| channels().map(of).max().unwrap_or(0);
        Usage {
            requests: self.requests.len(),
            pushes: self.pushes.len(),
            retained_bytes: self.requests.retained_bytes(),
            awaiting: self.peers.iter().map(|(_, peer)| peer.awaiting()).sum(),
            window_frames: most(|channel| channel.sender.len()),
            window_bytes: most(|channel| channel.sender.bytes()),
            peers: self.peers.len(),
            windows_bytes: self.channels.bytes(),
            topics: self.sessions.topics.len(),
        }
    }

    pub(super) fn link_mut(&mut self, key: LinkKey) -> Option<&mut LinkKind> {
        match self.links.get_mut(key.index as usize)? {
            Some(link) if link.generation == key.generation => Some(&mut link.kind),
            _ => None,
        }
    }

    pub(super) fn session_mut(&mut self, key: LinkKey) -> Option<&mut Session> {
        session_of(&mut self.links, key)
    }

    pub(super) fn node_link_mut(&mut self, key: LinkKey) -> Option<&mut NodeLink> {
        match self.link_mut(key)? {
            LinkKind::Node(link) => Some(link),
            LinkKind::Sdk(_) | LinkKind::Ledger(_) | LinkKind::Peer2x(_) => None,
        }
    }

    fn session_id(&self, key: LinkKey) -> Option<SessionId> {
        match self.links.get(key.index as usize)? {
            Some(Link { generation, kind: LinkKind::Sdk(session) }) if *generation == key.generation => {
                Some(session.id)
            }
            _ => None,
        }
    }

    /// The session at an index that a topic's list or a session number gave.
    pub(super) fn session_at(&mut self, index: u32) -> Option<&mut Session> {
        match self.links.get_mut(index as usize)? {
            Some(link) => link.kind.session_mut(),
            None => None,
        }
    }
}

/// The session on a link, if there is one.
pub(super) fn session_of(links: &mut [Option<Link>], key: LinkKey) -> Option<&mut Session> {
    match links.get_mut(key.index as usize)? {
        Some(link) if link.generation == key.generation => link.kind.session_mut(),
        _ => None,
    }
}
