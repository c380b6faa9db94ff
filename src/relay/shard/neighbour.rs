//! The links to another node: which of them carries everything, what becomes of the node when it is lost (WIRE §6.1).

use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tracing::{info, warn};

use super::{Context, LinkKind, Parts, node_link::NodeLink, peer::Peer};
use crate::{
    relay::{CloseReason, LinkKey, Outbound, RegistryInput, sealing::IncarnationId},
    wire::NodeId,
};

/// A node that is linked, or was before long.
pub(super) struct Neighbour {
    /// The link that carries everything; `None` while it is lost and may come back.
    pub(super) active: Option<LinkKey>,
    /// A second link, which replaces the active one unless a byte comes on that within the probe timeout.
    candidate_link: Option<(LinkKey, Instant)>,
    active_since: Instant,
    link_state: LinkState,
    /// Longest frame of an SDK link that it takes, as it said over its links.
    pub(super) frame_len_max: usize,
}

/// The state of the link to a neighbour.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkState {
    /// It is linked.
    Up,
    /// Its link is lost and may be replaced until then; everything waits for that.
    Lost { until: Instant },
    /// It did not return in time. Should it return in the same incarnation before then, what was answered meanwhile is sent
    /// to it.
    GivenUp { until: Instant },
}

impl Neighbour {
    /// Whether its link did not return in time.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.link_state, LinkState::GivenUp { .. })
    }
}

/// Two ends that dialled each other at the same moment have both links within this time.
const SIMULTANEOUS_DIAL: Duration = Duration::from_secs(2);

impl Parts {
    /// The peer said who it is: decides which of the links to it stays.
    pub(super) fn settle_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        link: &LinkFacts,
    ) {
        let own_id = cx.shared.id;
        let Some(neighbour) = self.peers.neighbour(&link.peer) else {
            return self.begin_neighbour(cx, key, link);
        };
        let (active_since, active) = (neighbour.active_since, neighbour.active);
        let is_given_up = neighbour.is_given_up();
        let peer = self.peers.get(&link.peer);
        let is_known = peer.is_some_and(|peer| peer.is_of(&link.incarnation_id));
        let is_older = peer.is_some_and(|peer| link.incarnation_id.incarnation < peer.incarnation);
        // One that was given up may come back with a clock that went back.
        if is_older && !is_given_up {
            self.note_other_incarnation(cx, key, &link.peer, true);
            return cx.out.close(key, CloseReason::Duplicate);
        }
        if !is_known {
            self.note_other_incarnation(cx, key, &link.peer, false);
            if !is_given_up {
                self.give_up_node(cx, &link.peer, CloseReason::Replaced);
            }
            self.forget_neighbour(cx, &link.peer);
            return self.settle_link(cx, key, link);
        }
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
            if let Some(neighbour) = self.peers.neighbour_mut(&link.peer)
                && let Some((older, _)) = neighbour.candidate_link.replace((key, cx.now))
            {
                cx.out.close(older, CloseReason::Duplicate);
            }
        }
    }

    /// The first link of a node. It may have been reached over others.
    fn begin_neighbour(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, link: &LinkFacts) {
        let IncarnationId { incarnation, salt } = link.incarnation_id;
        if !self.peers.get(&link.peer).is_some_and(|peer| peer.is_of(&link.incarnation_id)) {
            self.begin_peer(cx, &link.peer, incarnation, Some(salt));
        }
        let Some(peer) = self.peers.get_mut(&link.peer) else { return };
        peer.salt = Some(salt);
        peer.neighbour = Some(Neighbour {
            active: None,
            candidate_link: None,
            active_since: cx.now,
            link_state: LinkState::Up,
            frame_len_max: link.frame_len_max,
        });
        self.activate(cx, key, &link.peer);
    }

    /// A byte came on a link that was probed: the candidate to replace it is closed.
    pub(super) fn drop_candidate_link(&mut self, cx: &mut Context<'_, impl Outbound>, peer: &NodeId) {
        if let Some(neighbour) = self.peers.neighbour_mut(peer)
            && let Some((candidate_link, _)) = neighbour.candidate_link.take()
        {
            cx.out.close(candidate_link, CloseReason::Duplicate);
        }
    }

    /// Makes a link the one that carries everything, and sends again what was not acknowledged.
    fn activate(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, peer: &NodeId) {
        let Some(Peer { neighbour: Some(neighbour), lost_since, incarnation, .. }) = self.peers.get_mut(peer)
        else {
            return;
        };
        neighbour.active = Some(key);
        neighbour.active_since = cx.now;
        neighbour.link_state = LinkState::Up;
        if neighbour.candidate_link.is_some_and(|(candidate_link, _)| candidate_link == key) {
            neighbour.candidate_link = None;
        }
        // One that was given up is back: should its link be lost again, that counts from then.
        *lost_since = None;
        let incarnation = *incarnation;
        let again = cx.counters.frames_sent_again.get();
        self.refresh_route(cx, peer);
        let again = cx.counters.frames_sent_again.get() - again;
        let reactor = cx.id;
        let Some(link) = self.node_link_mut(key) else { return };
        let (address, agency, name) =
            (link.label.address.clone(), link.label.agency.clone(), link.label.name.clone());
        if cx.common.logs.nodes_up.admits(cx.now) {
            info!(peer = %peer, %address, sent_again = again, "node link up");
        }
        // Also for a node that never was given up: its state may have changed while it was away.
        cx.out.to_registry(RegistryInput::NodeUp { id: *peer, incarnation, reactor, address, agency, name });
    }

    /// A link to the node is gone. What it had not acknowledged takes another route, or waits for the next link.
    pub(super) fn lose_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        link: &NodeLink,
        reason: CloseReason,
    ) {
        let Some(Peer { neighbour: Some(neighbour), incarnation, .. }) = self.peers.get_mut(&link.peer)
        else {
            return;
        };
        let incarnation = *incarnation;
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
            LinkKind::Sdk(_) | LinkKind::Ledger(_) | LinkKind::Peer2x(_) => false,
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
            cx.out.to_registry(RegistryInput::LinkLost { id: link.peer, incarnation });
            self.refresh_route(cx, &link.peer);
        }
    }

    /// Looks at all neighbours: candidate links whose active link stayed silent, nodes that did not return.
    pub(super) fn tick_neighbours(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let probe_timeout = cx.shared.settings.probe_timeout;
        let mut replaced: SmallVec<[(NodeId, LinkKey); 4]> = SmallVec::new();
        let mut lost: SmallVec<[NodeId; 4]> = SmallVec::new();
        let mut forgotten: SmallVec<[NodeId; 4]> = SmallVec::new();
        for (id, peer) in self.peers.iter() {
            let Some(neighbour) = &peer.neighbour else { continue };
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
            let old = self.peers.link_to(&id);
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
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.neighbour = None;
        // If it is, or a moment ago was, reached over others, it stays.
        if !cx.shared.snapshot.load().paths.contains_key(id) {
            peer.lost_since.get_or_insert(cx.now);
            self.want_node_tick(cx.now);
        }
    }

    /// The node is gone, or has begun a new incarnation: unicasts that wait for it fail, unless another route leads there. All
    /// else that it has not acknowledged stays for a while, in case only its links were gone.
    pub(super) fn give_up_node(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        reason: CloseReason,
    ) {
        let until = cx.now + cx.shared.settings.lost_node_memory;
        let Some(Peer { neighbour: Some(neighbour), incarnation, .. }) = self.peers.get_mut(id) else {
            return;
        };
        let incarnation = *incarnation;
        neighbour.link_state = LinkState::GivenUp { until };
        let candidate_link = neighbour.candidate_link.take().map(|(candidate_link, _)| candidate_link);
        for link in [neighbour.active.take(), candidate_link].into_iter().flatten() {
            cx.out.abort(link, reason);
        }
        cx.out.to_registry(RegistryInput::NodeDown { id: *id, incarnation });
        if matches!(reason, CloseReason::Replaced | CloseReason::NewIncarnation) {
            // What was sent in one incarnation of either end is not for another.
            self.fail_awaiting(cx, id);
            return self.drop_channel(cx.common, id);
        }
        if !cx.shared.admits(id) {
            self.fail_awaiting(cx, id);
            return self.drop_unacknowledged(id);
        }
        self.refresh_route(cx, id);
        self.void_too_long(cx, id);
        if !cx.has_indirect_route(id, 0) {
            self.fail_awaiting(cx, id);
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
        self.close_peer_2x(cx, id, reason);
    }

    /// This node begins a later incarnation. What was sent in the one before could not be told from new messages if it were
    /// sent again, so nothing is.
    pub(super) fn begin_incarnation(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let links = self.links_of(None);
        for id in self.peers.ids_of(|peer| peer.neighbour.is_some()) {
            self.give_up_node(cx, &id, CloseReason::NewIncarnation);
        }
        for id in self.peers.ids_of(|_| true) {
            self.fail_awaiting(cx, &id);
            self.drop_channel(cx.common, &id);
        }
        self.channels.replay_floors.clear();
        for link in links {
            cx.out.abort(link, CloseReason::NewIncarnation);
        }
    }
}

/// What a Hello and its link say.
pub(super) struct LinkFacts {
    pub(super) peer: NodeId,
    pub(super) incarnation_id: IncarnationId,
    pub(super) dialed: bool,
    /// The peer's number of the link that this one replaces; 0 if none.
    pub(super) replaces: u64,
    /// The same by our numbers, if it was dialled here.
    pub(super) replaces_here: u64,
    /// Longest frame of an SDK link that the peer takes.
    pub(super) frame_len_max: usize,
}
