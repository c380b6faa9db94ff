//! Another node, as the shard that is its home knows it: which link to it is live, what was sent and
//! not acknowledged yet, whose answers are awaited, what it sent before (WIRE §6.1–§6.4).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;
use tracing::{info, warn};

use super::{
    Context, LinkKind, Parts, Usage,
    channel::Channel,
    indirect::SHARED_MAX,
    multicast::FanOut,
    node_link::NodeLink,
    request::{FromNode, RequestOf},
    window::{Sent, Window},
};
use crate::{
    relay::{
        Class, CloseReason, Forward, LinkKey, MeshMessage, Outbound, Packet, ReactorId, Recipients,
        RegistryInput, SendError, Shared, home_reactor, sealing::Subject, settings::NODE_FRAME_ROOM,
        snapshot::NodeRef,
    },
    wire::{
        FrameRef, NodeId, ResultCode,
        node::{Extensions, FLAG_SENT_AGAIN, HEAD_LEN_USUAL, HEADER_LEN_MIN, PacketType},
        sdk,
    },
};

/// Where the flags of a node frame's header lie.
const FLAGS_OFFSET: usize = 13;
/// The audience of a frame for one node.
fn audience_of(recipients: &Recipients) -> Vec<Vec<u64>> {
    vec![recipients.0.iter().map(|subscriber| subscriber.0).collect()]
}

/// Another node whose home is this shard.
pub(super) struct Neighbour {
    /// The link that carries everything; `None` while it is lost and may come back.
    pub(super) active: Option<LinkKey>,
    /// A second link, which replaces the active one unless a byte comes on that within the probe timeout.
    candidate_link: Option<(LinkKey, Instant)>,
    active_since: Instant,
    link_state: LinkState,
    window: Window,
    /// Longest frame of an SDK link that it takes, as it said over its links.
    pub(super) frame_len_max: usize,
}

/// What a frame in the window of a neighbour belongs to.
pub(super) enum Whose {
    /// It is between the two ends of the link, and is taken only if there is one.
    Link,
    /// It is between the two ends of the link.
    Neighbour,
    /// It names its ends.
    Packet(Box<Packet>),
}

/// A frame for a neighbour's window, behind the head of a node link.
pub(super) struct Outgoing<'a> {
    pub(super) body: FrameRef<'a>,
    pub(super) subject: Subject,
    pub(super) whose: Whose,
}

/// A message for another node, whatever route it takes: what it is, and the frame of an SDK link behind its extensions.
struct Amop<'a> {
    subject: Subject,
    extensions: Extensions,
    frame: FrameRef<'a>,
}

/// Why a frame is not in the window of a neighbour.
pub(super) enum NotEnqueued {
    /// There is no link.
    NotLinked,
    /// It is unknown, or was given up.
    Away(Option<Box<Packet>>),
    /// There is no room.
    NoRoom(Option<Box<Packet>>),
    /// The neighbour does not take frames that are so long.
    TooLong(Option<Box<Packet>>),
}

/// The state of the link to a neighbour.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkState {
    /// It is linked.
    Up,
    /// Its link is lost and may be replaced until then; everything waits for that.
    Lost { until: Instant },
    /// It did not return in time: other routes were tried. Should it return in the same incarnation before then,
    /// what it sends again is known, and what was answered meanwhile is sent to it.
    GivenUp { until: Instant },
}

/// The neighbours whose home is a shard.
///
/// # Invariants
/// - `windows_bytes` are those in the windows of all of them.
pub(super) struct Neighbours {
    pub(super) by_id: AHashMap<NodeId, Neighbour>,
    windows_bytes: usize,
}

impl Neighbours {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { by_id: AHashMap::with_hasher(hashing), windows_bytes: 0 }
    }

    /// Bytes in the windows of all of them.
    pub(super) fn windows_bytes(&self) -> usize {
        self.windows_bytes
    }
}

/// Two ends that dialled each other at the same moment have both links within this time.
const SIMULTANEOUS_DIAL: Duration = Duration::from_secs(2);

impl Neighbour {
    /// Its part of the shard's usage.
    pub(super) fn usage(&self) -> Usage {
        let window_frames = self.window.len_counted();
        Usage { window_frames, window_bytes: self.window.bytes(), ..Usage::default() }
    }

    /// For checks.
    pub(super) fn window_bytes_anew(&self) -> usize {
        self.window.bytes_anew()
    }

    /// For checks: what its window has counted wrongly.
    pub(super) fn miscount(&self) -> Option<String> {
        self.window.miscount()
    }
}

impl Parts {
    /// The peer said who it is: decides which of the links to it stays.
    pub(super) fn settle_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        link: &LinkFacts,
    ) {
        let own_id = cx.shared.id;
        let Some(neighbour) = self.neighbours.by_id.get(&link.peer) else {
            let neighbour = Neighbour {
                active: None,
                candidate_link: None,
                active_since: cx.now,
                link_state: LinkState::Up,
                window: Window::default(),
                frame_len_max: link.frame_len_max,
            };
            self.neighbours.by_id.insert(link.peer, neighbour);
            match self.peers.by_id.get_mut(&link.peer) {
                // It was reached over others.
                Some(peer) if peer.incarnation == link.incarnation => {}
                _ => self.begin_peer(cx, &link.peer, link.incarnation),
            }
            return self.activate(cx, key, &link.peer);
        };
        let given_up = matches!(neighbour.link_state, LinkState::GivenUp { .. });
        let incarnation = self.peers.by_id.get(&link.peer).map_or(0, |peer| peer.incarnation);
        // One that was given up may come back with a clock that went back.
        if link.incarnation < incarnation && !given_up {
            self.note_other_incarnation(cx, key, &link.peer, true);
            return cx.out.close(key, CloseReason::Duplicate);
        }
        if link.incarnation != incarnation {
            self.note_other_incarnation(cx, key, &link.peer, false);
            if !given_up {
                self.give_up_node(cx, &link.peer, CloseReason::Replaced);
            }
            self.forget_neighbour(cx, &link.peer);
            return self.settle_link(cx, key, link);
        }
        let (active_since, active) = (neighbour.active_since, neighbour.active);
        let Some(active) = active else { return self.activate(cx, key, &link.peer) };
        let Some(current) = self.node_link_mut(active) else {
            return self.activate(cx, key, &link.peer);
        };
        let simultaneous = current.dialed != link.dialed
            && cx.now.saturating_duration_since(active_since) < SIMULTANEOUS_DIAL;
        // Either end may have named the link that this one replaces.
        let replaces = (link.replaces != 0 && current.peer_link_number == Some(link.replaces))
            || (link.replaces_here != 0 && current.number == link.replaces_here);
        if replaces {
            self.activate(cx, key, &link.peer);
            cx.out.close(active, CloseReason::Replaced);
        } else if simultaneous {
            // Both ends come to the same result: the link that the smaller id dialled stays.
            let ours_is_smaller = own_id < link.peer;
            if link.dialed == ours_is_smaller {
                self.activate(cx, key, &link.peer);
                cx.out.close(active, CloseReason::Duplicate);
            } else {
                cx.out.close(key, CloseReason::Duplicate);
            }
        } else {
            current.probe(cx.now);
            self.probe(cx, active);
            if let Some(neighbour) = self.neighbours.by_id.get_mut(&link.peer)
                && let Some((older, _)) = neighbour.candidate_link.replace((key, cx.now))
            {
                cx.out.close(older, CloseReason::Duplicate);
            }
        }
    }

    /// A byte came on a link that was probed: the candidate to replace it is closed.
    pub(super) fn drop_candidate_link(&mut self, cx: &mut Context<'_, impl Outbound>, peer: &NodeId) {
        if let Some(neighbour) = self.neighbours.by_id.get_mut(peer)
            && let Some((candidate_link, _)) = neighbour.candidate_link.take()
        {
            cx.out.close(candidate_link, CloseReason::Duplicate);
        }
    }

    /// Makes a link the one that carries everything, and sends again what was not acknowledged.
    fn activate(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, peer: &NodeId) {
        let Some(neighbour) = self.neighbours.by_id.get_mut(peer) else { return };
        neighbour.active = Some(key);
        neighbour.active_since = cx.now;
        if let Some(peer) = self.peers.by_id.get_mut(peer) {
            // One that was given up is back: should its link be lost again, that counts from then.
            peer.lost_since = None;
        }
        // What was to go around it is older than what waits for its link.
        let own = cx.shared.id;
        let unacknowledged = self.peers.by_id.get_mut(peer).and_then(|peer| peer.channel.as_mut());
        let unacknowledged: Vec<_> = unacknowledged.map_or(Vec::new(), |channel| channel.retransmit_all());
        for (subject, body) in unacknowledged.into_iter().rev() {
            let packet = Packet::of_own(own, *peer, subject, true);
            let head = SmallVec::from_slice(&packet.head(body.len()));
            let (packet_type, message) = (subject.packet_type, subject.seq);
            let packet = Some(Box::new(packet));
            let sent = Sent { head, body, packet_type, message, packet, is_in_channel: true };
            neighbour.window.push_from_channel_first(sent);
        }
        if neighbour.candidate_link.is_some_and(|(candidate_link, _)| candidate_link == key) {
            neighbour.candidate_link = None;
        }
        let incarnation = self.peers.by_id.get(peer).map_or(0, |peer| peer.incarnation);
        neighbour.link_state = LinkState::Up;
        let (mut again, mut bytes) = (0, 0);
        for sent in neighbour.window.iter_mut() {
            sent.head[FLAGS_OFFSET] |= FLAG_SENT_AGAIN;
            if cx.out.send(key, Class::Data, &sent.head, sent.body.as_ref()).is_err() {
                // Cannot be: a link that has just come up has room for a whole window. Acknowledgements
                // count what was sent on the link, so a gap must not stay.
                cx.out.abort(key, CloseReason::Broken);
                break;
            }
            if sent.is_relayed() {
                cx.counters.relayed_bytes.add(sent.len() as u64);
            }
            bytes += sent.len();
            again += 1;
        }
        cx.pay(bytes);
        cx.counters.frames_sent_again.add(again);
        let reactor = cx.id;
        let Some(link) = self.node_link_mut(key) else { return };
        link.last_sent = cx.now;
        let (address, agency, name) =
            (link.label.address.clone(), link.label.agency.clone(), link.label.name.clone());
        if cx.common.logs.nodes_up.admits(cx.now) {
            info!(peer = %peer, %address, sent_again = again, "node link up");
        }
        // Also for a node that never was given up: its state may have changed while it was away.
        cx.out.to_registry(RegistryInput::NodeUp { id: *peer, incarnation, reactor, address, agency, name });
    }

    /// A link to the node is gone. What it had not acknowledged waits for the next link.
    pub(super) fn lose_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        link: &NodeLink,
        reason: CloseReason,
    ) {
        let Some(neighbour) = self.neighbours.by_id.get_mut(&link.peer) else { return };
        if neighbour.candidate_link.is_some_and(|(candidate_link, _)| candidate_link == key) {
            neighbour.candidate_link = None;
        }
        if neighbour.active != Some(key) {
            return;
        }
        neighbour.active = None;
        // The Hello of one that replaces it may be on its way.
        let successor = self.links.iter().flatten().any(|other| match &other.kind {
            LinkKind::Node(other) => other.peer == link.peer && other.peer_link_number.is_none(),
            LinkKind::Sdk(_) | LinkKind::Ledger(_) => false,
        });
        let grace = match reason {
            CloseReason::ByPeer | CloseReason::Vanished if !successor => {
                cx.shared.settings.node_grace_after_close
            }
            _ => cx.shared.settings.node_grace,
        };
        neighbour.link_state = LinkState::Lost { until: cx.now + grace };
        if cx.common.logs.nodes_down.admits(cx.now) {
            let (peer, address) = (&link.peer, &link.label.address);
            match reason.remedy() {
                Some(remedy) => warn!(%peer, %address, %reason, remedy, "node link down"),
                // Nodes stop and start again; whoever dials one that does not says so before long.
                None => info!(%peer, %address, %reason, "node link down"),
            }
        }
        if let Some((candidate_link, _)) = neighbour.candidate_link.take() {
            self.activate(cx, candidate_link, &link.peer);
        } else {
            self.want_node_tick(cx.now);
            let incarnation = self.peers.by_id.get(&link.peer).map_or(0, |peer| peer.incarnation);
            cx.out.to_registry(RegistryInput::LinkLost { id: link.peer, incarnation });
            self.reroute_window(cx, &link.peer);
        }
    }

    /// Looks at all neighbours: candidate links whose active link stayed silent, nodes that did not return.
    pub(super) fn tick_neighbours(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let probe_timeout = cx.shared.settings.probe_timeout;
        let mut replaced: SmallVec<[(NodeId, LinkKey); 4]> = SmallVec::new();
        let mut lost: SmallVec<[NodeId; 4]> = SmallVec::new();
        let mut forgotten: SmallVec<[NodeId; 4]> = SmallVec::new();
        for (id, neighbour) in &self.neighbours.by_id {
            if let Some((candidate_link, since)) = neighbour.candidate_link
                && cx.now.saturating_duration_since(since) >= probe_timeout
            {
                replaced.push((*id, candidate_link));
            }
            match neighbour.link_state {
                LinkState::Lost { until } if cx.now >= until => lost.push(*id),
                LinkState::GivenUp { until } if cx.now >= until => forgotten.push(*id),
                _ => {}
            }
        }
        for (id, candidate_link) in replaced {
            let old = self.neighbours.by_id.get(&id).and_then(|neighbour| neighbour.active);
            if cx.common.logs.nodes_up.admits(cx.now) {
                info!(peer = %id, "the old link to the node is silent, the new one replaces it");
            }
            self.activate(cx, candidate_link, &id);
            if let Some(old) = old {
                cx.out.abort(old, CloseReason::Replaced);
            }
        }
        for id in lost {
            self.give_up_node(cx, &id, CloseReason::Broken);
        }
        for id in forgotten {
            self.forget_neighbour(cx, &id);
        }
    }

    pub(super) fn forget_neighbour(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        if let Some(neighbour) = self.neighbours.by_id.remove(id) {
            self.neighbours.windows_bytes -= neighbour.window.bytes();
        }
        // If it is, or a moment ago was, reached over others, unacknowledged messages to it stay: they are under way, and
        // would come after what is sent when it returns.
        if !cx.shared.snapshot.load().paths.contains_key(id)
            && let Some(peer) = self.peers.by_id.get_mut(id)
        {
            peer.lost_since.get_or_insert(cx.now);
            self.want_node_tick(cx.now);
        }
    }

    /// Whether a node is linked, or its link may return.
    pub(super) fn is_neighbour(&self, id: &NodeId) -> bool {
        let link_state = self.neighbours.by_id.get(id).map(|neighbour| neighbour.link_state);
        matches!(link_state, Some(LinkState::Up | LinkState::Lost { .. }))
    }

    /// Takes out what waits for a neighbour, in order.
    pub(super) fn take_window(&mut self, id: &NodeId) -> VecDeque<Sent> {
        let Neighbours { by_id, windows_bytes } = &mut self.neighbours;
        by_id.get_mut(id).map_or(VecDeque::new(), |neighbour| neighbour.window.take(windows_bytes))
    }

    /// Puts back what was taken out.
    pub(super) fn keep_waiting(&mut self, id: &NodeId, sent: Sent) {
        let Neighbours { by_id, windows_bytes } = &mut self.neighbours;
        if let Some(neighbour) = by_id.get_mut(id) {
            neighbour.window.push(sent, windows_bytes);
        }
    }

    /// Whether a link to a node is live.
    pub(super) fn is_linked(&self, id: &NodeId) -> bool {
        self.neighbours.by_id.get(id).is_some_and(|neighbour| neighbour.active.is_some())
    }

    /// Whether messages of this node wait for a link to a neighbour.
    fn has_waiting(&self, id: &NodeId) -> bool {
        self.neighbours
            .by_id
            .get(id)
            .is_some_and(|neighbour| neighbour.window.iter().any(|sent| sent.packet.is_none()))
    }

    /// The neighbours without a link for whom something waits.
    pub(super) fn waiting_neighbours(&self) -> Vec<NodeId> {
        let waits = |neighbour: &Neighbour| neighbour.active.is_none() && !neighbour.window.is_empty();
        self.neighbours.by_id.iter().filter(|(_, neighbour)| waits(neighbour)).map(|(id, _)| *id).collect()
    }

    /// The node is gone, or has begun a new incarnation: what waits for it fails. Answers to it stay in the window, and what
    /// it sent is remembered, in case only its links were gone.
    pub(super) fn give_up_node(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        reason: CloseReason,
    ) {
        let until = cx.now + cx.shared.settings.identity_memory;
        let Some(neighbour) = self.neighbours.by_id.get_mut(id) else { return };
        neighbour.link_state = LinkState::GivenUp { until };
        let candidate_link = neighbour.candidate_link.take().map(|(candidate_link, _)| candidate_link);
        for link in [neighbour.active.take(), candidate_link].into_iter().flatten() {
            cx.out.abort(link, reason);
        }
        self.reroute_window(cx, id);
        let mut failed: Vec<u32> = Vec::new();
        for sent in self.take_window(id) {
            match (sent.packet, sent.packet_type) {
                (Some(packet), _) => {
                    let packet = Packet { again: true, ..*packet };
                    self.not_passed(cx, packet, sent.body.as_ref());
                }
                (None, PacketType::UNICAST_RESPONSE) => self.keep_waiting(id, Sent { packet: None, ..sent }),
                (None, PacketType::MULTICAST) => cx.counters.dropped_window_full.increment(),
                // It is too long for the routes around, if there are some.
                (None, _) => failed.push(sent.message),
            }
        }
        failed.into_iter().for_each(|message| self.fail_unicast(cx, id, message));
        let incarnation = self.peers.by_id.get(id).map_or(0, |peer| peer.incarnation);
        cx.out.to_registry(RegistryInput::NodeDown { id: *id, incarnation });
        let is_admitted = cx.shared.admits(id);
        if !cx.has_indirect_route(id, 0) || !is_admitted {
            self.fail_awaiting(cx, id);
        }
        if !is_admitted {
            self.drop_unacknowledged(id);
        }
    }

    /// The links to one node, or to all, whether they have said Hello or not.
    fn links_of(&self, node: Option<&NodeId>) -> SmallVec<[LinkKey; 8]> {
        let links = self.links.iter().enumerate();
        links
            .filter_map(|(index, link)| match link {
                Some(super::Link { generation, kind: LinkKind::Node(link) })
                    if node.is_none_or(|node| *node == link.peer) =>
                {
                    Some(LinkKey { index: index as u32, generation: *generation })
                }
                _ => None,
            })
            .collect()
    }

    /// Closes all links to a node. One that is not to be linked any more is given up at once.
    pub(super) fn close_node(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        reason: CloseReason,
    ) {
        let links = self.links_of(Some(id));
        if matches!(reason, CloseReason::NotAdmitted | CloseReason::Removed) {
            self.give_up_node(cx, id, reason);
        }
        for link in links {
            cx.out.abort(link, reason);
        }
    }

    /// This node begins a later incarnation. What was sent in the one before could not be told from new messages if it were
    /// sent again, so nothing is.
    pub(super) fn begin_incarnation(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let links = self.links_of(None);
        let nodes: Vec<NodeId> = self.neighbours.by_id.keys().copied().collect();
        for id in nodes {
            drop(self.take_window(&id));
            self.give_up_node(cx, &id, CloseReason::NewIncarnation);
        }
        let peers: Vec<NodeId> = self.peers.by_id.keys().copied().collect();
        for id in peers {
            self.fail_awaiting(cx, &id);
            self.drop_channel(&id);
        }
        self.channels.forget_replay_floors();
        for link in links {
            cx.out.abort(link, CloseReason::NewIncarnation);
        }
    }

    /// Sends a publisher's unicast to a neighbour. `false` if its window is full or it is unknown.
    pub(super) fn forward(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        coordinator: ReactorId,
        unicast: &Forward,
        frame: FrameRef<'_>,
    ) -> bool {
        let Forward { request, ref node, message, time_left_ms, may_wait, ref audience } = *unicast;
        let extensions = Extensions {
            time_left_ms: Some(time_left_ms),
            may_wait,
            audience: audience.as_deref().map(audience_of),
            ..Extensions::default()
        };
        let subject = Subject { packet_type: PacketType::UNICAST, seq: message };
        if !self.send_amop(cx, node, &Amop { subject, extensions, frame }) {
            return false;
        }
        if let Some(peer) = self.peers.by_id.get_mut(node) {
            peer.await_answer(message, RequestOf { coordinator, id: request });
        }
        true
    }

    /// Sends a multicast to a neighbour; a full window loses it, which is counted. `false` if so.
    pub(super) fn forward_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        message: u32,
        audience: Option<&Recipients>,
        frame: FrameRef<'_>,
    ) -> bool {
        let extensions = Extensions { audience: audience.map(audience_of), ..Extensions::default() };
        let subject = Subject { packet_type: PacketType::MULTICAST, seq: message };
        let taken = self.send_amop(cx, node, &Amop { subject, extensions, frame });
        if !taken {
            cx.counters.dropped_window_full.increment();
        }
        taken
    }

    /// Answers a neighbour's unicast; `by_node` tells that no session answered. An answer to a node that
    /// has restarted since is nobody's.
    pub(super) fn respond(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        origin: &FromNode,
        is_by_node: bool,
        answer: FrameRef<'_>,
    ) {
        let FromNode { id: ref node, incarnation, message } = *origin;
        let is_gone = self.peers.by_id.get(node).is_none_or(|peer| peer.incarnation != incarnation);
        // One that the lists leave out is told no more than that nobody answers it.
        if is_gone || (!is_by_node && !cx.admits(node)) {
            cx.counters.late_answers.increment();
            return;
        }
        let refusal;
        let (by_node, answer) = match self.takes(cx, node, answer.len()) {
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
        let subject = Subject { packet_type: PacketType::UNICAST_RESPONSE, seq: message };
        if !self.send_amop(cx, node, &Amop { subject, extensions, frame: answer }) {
            cx.counters.dropped_window_full.increment();
        }
    }

    /// Sends a multicast to nodes whose home is here; tells of each whether it was sent.
    pub(super) fn forward_multicast_to_all(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        nodes: &[&NodeRef],
        message: u32,
        frame: FrameRef<'_>,
        fan_out: &mut FanOut,
    ) {
        let is_indirect = |node: &&NodeRef| {
            !self.is_linked(&node.id)
                && cx.shared.admits(&node.id)
                && cx.has_indirect_route(&node.id, frame.len())
                && !self.has_waiting(&node.id)
        };
        let (indirect, others): (SmallVec<[&NodeRef; 8]>, SmallVec<[&NodeRef; 8]>) =
            nodes.iter().copied().partition(is_indirect);
        let (shared, others) = match indirect.len() {
            0 | 1 => (SmallVec::new(), nodes.iter().copied().collect()),
            _ => (indirect, others),
        };
        for node in others {
            let is_sent = self.forward_multicast(cx, &node.id, message, None, frame);
            fan_out.note_node(&node.id, message, is_sent);
        }
        for nodes in shared.chunks(SHARED_MAX) {
            let refused = self.send_shared(cx, nodes, message, frame);
            for node in nodes {
                let is_sent = !refused.contains(&node.id);
                if !is_sent {
                    cx.counters.dropped_window_full.increment();
                }
                fan_out.note_node(&node.id, message, is_sent);
            }
        }
    }

    fn send_amop(&mut self, cx: &mut Context<'_, impl Outbound>, node: &NodeId, amop: &Amop<'_>) -> bool {
        let is_sent = self.try_send_amop(cx, node, amop);
        if !is_sent && amop.subject.packet_type != PacketType::UNICAST_RESPONSE {
            cx.give_back((HEADER_LEN_MIN + amop.frame.len()) as u64);
        }
        is_sent
    }

    fn try_send_amop(&mut self, cx: &mut Context<'_, impl Outbound>, node: &NodeId, amop: &Amop<'_>) -> bool {
        let Amop { subject, ref extensions, frame } = *amop;
        let packet_type = subject.packet_type;
        if packet_type != PacketType::UNICAST_RESPONSE && !cx.admits(node) {
            return false;
        }
        if !self.takes(cx, node, frame.len()) {
            cx.note_too_long(node, frame.len());
            return false;
        }
        let head = extensions.encode_behind_header(packet_type, subject.seq, frame.len());
        match self.enqueue(cx, node, head, Outgoing { body: frame, subject, whose: Whose::Link }) {
            Ok(()) => return true,
            Err(NotEnqueued::Away(_) | NotEnqueued::NoRoom(_) | NotEnqueued::TooLong(_)) => return false,
            Err(NotEnqueued::NotLinked) => {}
        }
        // Who asks is known before the route to it, if its records come later; the answer waits for that.
        let is_answer =
            packet_type == PacketType::UNICAST_RESPONSE && !self.neighbours.by_id.contains_key(node);
        let has_route = cx.has_indirect_route(node, frame.len());
        // None overtakes those before it, which may be too long for that route.
        if has_route && self.has_waiting(node) {
            self.reroute_window(cx, node);
        }
        if is_answer || (has_route && !self.has_waiting(node)) {
            let mut block = SmallVec::new();
            extensions.encode_into(&mut block);
            let share = if packet_type == PacketType::UNICAST_RESPONSE { 1 } else { 2 };
            return self.has_room(cx, node, share, self.channels.bytes)
                && self.send_indirect(cx, node, subject, &[&block], frame);
        }
        let head = extensions.encode_behind_header(packet_type, subject.seq, frame.len());
        self.enqueue(cx, node, head, Outgoing { body: frame, subject, whose: Whose::Neighbour }).is_ok()
    }

    /// Whether the unacknowledged messages to a node leave room for one more within the bounds divided by `share`, which is 1
    /// or 2. `all_bytes` is the memory of all windows, or of all channels: each has a bound of its own, so that nodes whose
    /// channels are full still pass on what others wait for.
    pub(super) fn has_room(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        share: usize,
        all_bytes: usize,
    ) -> bool {
        let window = self.neighbours.by_id.get(node).map(|neighbour| &neighbour.window);
        let channel = self.peers.by_id.get(node).and_then(|peer| peer.channel.as_deref());
        let has_room = has_room(&cx.shared, window, channel, share, all_bytes);
        if !has_room {
            cx.warn_no_room(node);
        }
        has_room
    }

    /// Sends a frame over the link to a neighbour, or has it wait for that, and keeps it until it is acknowledged.
    /// Gives back the packet that it was if there is no room, or it is for a node that was given up, which gets only
    /// answers.
    pub(super) fn enqueue(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: &NodeId,
        head: SmallVec<[u8; HEAD_LEN_USUAL]>,
        outgoing: Outgoing<'_>,
    ) -> Result<(), NotEnqueued> {
        let Outgoing { body: frame, subject, whose } = outgoing;
        let Subject { packet_type, seq: message } = subject;
        let (packet, only_if_linked) = match whose {
            Whose::Link => (None, true),
            Whose::Neighbour => (None, false),
            Whose::Packet(packet) => (Some(packet), false),
        };
        // The channel with its destination counts it already; were it refused here, nothing of a full channel could ever go.
        let is_in_channel = packet.as_ref().is_some_and(|packet| packet.from.is_none());
        // Requests leave room for the answers to those of the neighbour, and for what is passed on: a lost answer
        // costs its publisher the whole request time.
        let share = if packet_type == PacketType::UNICAST_RESPONSE || packet.is_some() { 1 } else { 2 };
        let neighbour = self.neighbours.by_id.get_mut(node);
        if only_if_linked && neighbour.as_ref().is_none_or(|neighbour| neighbour.active.is_none()) {
            return Err(NotEnqueued::NotLinked);
        }
        let Some(neighbour) = neighbour else { return Err(NotEnqueued::Away(packet)) };
        // A last look: routes lead around those that do not take what is so long.
        if head.len() + frame.len() > neighbour.frame_len_max + NODE_FRAME_ROOM {
            return Err(NotEnqueued::TooLong(packet));
        }
        let is_given_up = matches!(neighbour.link_state, LinkState::GivenUp { .. });
        // What is passed on for others would wait for longer than its end remembers what it took.
        if is_given_up && (packet.is_some() || packet_type != PacketType::UNICAST_RESPONSE) {
            return Err(NotEnqueued::Away(packet));
        }
        let window = &mut neighbour.window;
        let has_room = match is_in_channel {
            true => window.len_in_channels() < cx.shared.settings.window_frames_max,
            false => {
                let channel = self.peers.by_id.get(node).and_then(|peer| peer.channel.as_deref());
                has_room(&cx.shared, Some(window), channel, share, self.neighbours.windows_bytes)
            }
        };
        if !has_room {
            if !is_in_channel {
                cx.warn_no_room(node);
            }
            return Err(NotEnqueued::NoRoom(packet));
        }
        let active = neighbour.active;
        // A link that is about to end takes nothing: the frame waits in the window for the next link.
        let taken = match active {
            Some(key) => cx.out.send(key, Class::Data, &head, frame),
            None => Err(SendError::Gone),
        };
        if taken == Err(SendError::Full) {
            return Err(NotEnqueued::NoRoom(packet));
        }
        let sent = Sent { head, body: frame.retain(), packet_type, message, packet, is_in_channel };
        let (len, is_relayed) = (sent.len(), sent.is_relayed());
        window.push(sent, &mut self.neighbours.windows_bytes);
        if let Some(link) = active.and_then(|key| self.node_link_mut(key)) {
            link.last_sent = cx.now;
        }
        if taken.is_ok() {
            cx.pay(len);
            if is_relayed {
                cx.counters.relayed_bytes.add(len as u64);
            }
        }
        cx.counters.node_frames_sent.increment();
        Ok(())
    }

    /// The neighbour has taken the oldest `count` frames of the window. `false` if there are not so many.
    pub(super) fn acknowledge(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        count: u64,
    ) -> bool {
        let Some(neighbour) = self.neighbours.by_id.get_mut(id) else { return false };
        if count > neighbour.window.len() as u64 {
            return false;
        }
        // Of unicasts of this node that go on from there, with their ends.
        let mut passed: SmallVec<[(NodeId, u32); 4]> = SmallVec::new();
        let window = &mut neighbour.window;
        let mut peer = self.peers.by_id.get_mut(id);
        for _ in 0..count {
            let Some(sent) = window.pop(&mut self.neighbours.windows_bytes) else { break };
            if sent.packet_type != PacketType::UNICAST {
                continue;
            }
            match sent.packet.as_deref() {
                None => {
                    if let Some(peer) = &mut peer {
                        peer.note_taken(sent.message);
                    }
                }
                Some(packet) if packet.from.is_none() => {
                    passed.extend(packet.destinations.first().map(|end| (*end, sent.message)));
                }
                Some(_) => {}
            }
        }
        for (end, message) in passed {
            let home = home_reactor(&end, cx.shared.reactors);
            self.send_to_reactor(cx, home, MeshMessage::Taken { node: end, message }, FrameRef::EMPTY);
        }
        true
    }
}

impl<O: Outbound> Context<'_, O> {
    #[cold]
    fn warn_no_room(&mut self, node: &NodeId) {
        if self.common.logs.window_full.admits(self.now) {
            warn!(
                peer = %node,
                "a message for a node is not sent, it does not acknowledge those before: see its load and the network between, or raise [amop] window_bytes_max",
            );
        }
    }
}

/// Whether a window and a channel leave room for one more frame, as [`Parts::has_room`] tells it.
fn has_room(
    shared: &Shared,
    window: Option<&Window>,
    channel: Option<&Channel>,
    share: usize,
    all_bytes: usize,
) -> bool {
    let settings = &shared.settings;
    let (window_frames, window_bytes) =
        window.map_or((0, 0), |window| (window.len_counted(), window.bytes()));
    let (channel_frames, channel_bytes) =
        channel.map_or((0, 0), |channel| (channel.frames(), channel.bytes().0));
    // A share is one or two: this is less than a division.
    let halves = u32::from(share > 1);
    window_frames + channel_frames < settings.window_frames_max >> halves
        && window_bytes + channel_bytes < settings.window_bytes_max >> halves
        && all_bytes < (settings.windows_bytes_max / usize::from(shared.reactors)) >> halves
}

/// What a Hello and its link say.
pub(super) struct LinkFacts {
    pub(super) peer: NodeId,
    pub(super) incarnation: u64,
    pub(super) dialed: bool,
    /// The peer's number of the link that this one replaces; 0 if none.
    pub(super) replaces: u64,
    /// The same by our numbers, if it was dialled here.
    pub(super) replaces_here: u64,
    /// Longest frame of an SDK link that the peer takes.
    pub(super) frame_len_max: usize,
}
