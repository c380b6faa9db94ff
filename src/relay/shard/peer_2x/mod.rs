//! Nodes of FISCO BCOS 2.x as peers (INTEROP §2): a node of theirs is a receiver of messages like a session, and sends some.
//!
//! ```text
//!   link of a node ─ first frame in their dialect ─► Peer2x ─ the registry says who acts ─► its topics are this node's,
//!                                                     │                                     and it is told of ours
//!                                                     └─ silent for long: nothing goes there
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `topics` | which topics it has, and which it is told of |
//! | `private` | private topics that pass |
//! | `messages` | unicasts, multicasts and answers, both ways |
//!
//! # Invariants
//! - Of all nodes of the network that are linked with one such node, one acts as its gateway: only there its topics have
//!   subscribers, and only that one tells it of topics.
//! - What came from one of them goes to no other: they are linked with each other.
//! - Of one node there is one link; a later one is closed, as they do themselves.
//! - Topics of the ledger pass neither way, and those of private topics only if they are named for it.

mod messages;
mod private;
mod topics;

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;
use tracing::{info, warn};

use super::{
    Context, Link, LinkKind, NODE_TICK, Parts,
    node_link::PeerLabel,
    seqs::{BySeq, SeqKey},
    session::{Dialect, Session},
};
use crate::{
    rate_limit::RateLimit,
    relay::{
        CloseReason, LinkKey, Outbound, RegistryInput,
        expiring_map::{ExpiringMap, entry_len},
        peer_2x::{
            BEAT_INTERVAL, COPIES_TIME, DEAD_AFTER, MulticastFrom, News, REMEMBERED_MAX, SILENT_AFTER,
        },
        report::{Peer2xReport, PeerReport},
    },
    wire::{FrameRef, NodeId, Topic},
};

/// The link to a node of FISCO BCOS 2.x.
pub(super) struct Peer2x {
    id: NodeId,
    dialed: bool,
    label: PeerLabel,
    /// As which it gets messages, and sends them.
    pub(super) session: Session,
    since: Instant,
    last_received: Instant,
    /// When it is told the number of our list next.
    next_beat: Instant,
    /// Whether this node is its gateway.
    is_gateway: bool,
    /// Whether it is that for other nodes, too. Private topics pass only then: others would have them twice.
    is_for_all: bool,
    /// Whether nothing has come from it for long.
    is_silent: bool,
    /// Whether its topics have been known.
    is_settled: bool,
    /// Seqs of its frames with requests that wait for their answer.
    open: BySeq<u32>,
    /// The topics that it has told.
    told: Vec<Topic>,
    /// Route topics and markers of those private topics that pass, as it has told them, and those that are subscribers and publishers
    /// here.
    told_private: Vec<Topic>,
    private: Vec<Topic>,
    /// The number of that list, and the latest that it has said.
    list_seq: u32,
    latest_seq: u32,
    /// The seq of our request for it, and when that was made.
    requested: Option<(u32, Instant)>,
    /// When a request was made last.
    last_request: Option<Instant>,
    /// The number of the list that it is told of, and of which state of ours that is.
    own_seq: u32,
    own_state: (bool, u64, u64),
    /// Grows with every change of the private topics that it is told of.
    offers_version: u64,
    lists: RateLimit,
}

/// Memory of such a link beside its session's, in bytes.
pub(super) const PEER_LEN: usize = size_of::<Peer2x>() + size_of::<(NodeId, LinkKey)>();
/// Memory of a multicast that is known again.
pub(super) const REMEMBERED_LEN: usize = entry_len::<(u64, SeqKey), ()>();

/// The nodes of FISCO BCOS 2.x whose home is a shard.
pub(super) struct Peers2x {
    by_id: AHashMap<NodeId, LinkKey>,
    /// When they are looked at next.
    pub(super) next_tick: Option<Instant>,
    /// Their multicasts of the last seconds, by who sent them and its application's seq.
    recent: ExpiringMap<(u64, SeqKey), ()>,
}

impl Peers2x {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self {
            by_id: AHashMap::with_hasher(hashing.clone()),
            next_tick: None,
            recent: ExpiringMap::new(COPIES_TIME, hashing),
        }
    }
}

impl Peer2x {
    /// Whether messages for its topics go there.
    fn is_exposed(&self) -> bool {
        self.is_gateway && !self.is_silent
    }

    /// Whether it gets multicasts of such a one.
    pub(super) fn takes_from(&self, from: MulticastFrom) -> bool {
        match from {
            MulticastFrom::Session => true,
            MulticastFrom::Node => self.is_for_all,
            MulticastFrom::Node2x => false,
        }
    }

    /// Since when it is there, its address, and what else people see of it.
    pub(super) fn report(&self) -> (Instant, String, PeerReport) {
        let peer = Peer2xReport {
            id: self.id,
            session: self.session.id,
            agency: self.label.agency.clone(),
            name: self.label.name.clone(),
            dialed: self.dialed,
            is_gateway: self.is_gateway,
            is_silent: self.is_silent,
            topics: self.told.len(),
            pending_requests: self.open.len(),
            pending_pushes: self.session.pushes.len(),
            dropped_copies: self.session.dropped_copies,
        };
        (self.since, self.label.address.clone(), PeerReport::Node2x(peer))
    }
}

impl Parts {
    pub(super) fn peer_2x_mut(&mut self, key: LinkKey) -> Option<&mut Peer2x> {
        match self.link_mut(key)? {
            LinkKind::Peer2x(peer) => Some(peer),
            _ => None,
        }
    }

    /// The first frame of a node's link is in the dialect of FISCO BCOS 2.x.
    #[cold]
    pub(super) fn begin_peer_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let Some(slot) = self.links.get_mut(key.index as usize) else { return };
        let Some(Link { generation, kind: LinkKind::Node(node_link) }) = slot.take() else { return };
        let (id, dialed, label) = (node_link.peer, node_link.dialed, node_link.label);
        cx.counters.node_links.decrement();
        cx.counters.peer_2x_links.increment();
        let subject = format!("a node of FISCO BCOS 2.x, {}", label.name);
        let mut session = self.make_session(cx, key, (label.address.clone(), subject, None));
        session.dialect = Dialect::Node2x(id.short());
        let (address, agency, name) = (label.address.clone(), label.agency.clone(), label.name.clone());
        let peer = Box::new(Peer2x {
            id,
            dialed,
            label,
            session,
            since: cx.now,
            last_received: cx.now,
            next_beat: cx.now,
            is_gateway: false,
            is_for_all: false,
            is_silent: false,
            is_settled: false,
            open: BySeq::default(),
            told: Vec::new(),
            told_private: Vec::new(),
            private: Vec::new(),
            list_seq: 0,
            latest_seq: 0,
            requested: None,
            last_request: None,
            own_seq: 0,
            own_state: (false, 0, 0),
            offers_version: 0,
            lists: RateLimit::default(),
        });
        if let Some(slot) = self.links.get_mut(key.index as usize) {
            *slot = Some(Link { generation, kind: LinkKind::Peer2x(peer) });
        }
        if !self.has_place_for_peer_2x(cx, &id) {
            return cx.out.close(key, CloseReason::Duplicate);
        }
        self.peers_2x.by_id.insert(id, key);
        if cx.common.logs.nodes_up.admits(cx.now) {
            info!(peer = %id, %address, "link to a node of FISCO BCOS 2.x up");
        }
        cx.out.to_registry(RegistryInput::Peer2x { id, news: News::Up { address, agency, name } });
        self.peers_2x.next_tick.get_or_insert(cx.now + NODE_TICK);
        self.beat(cx, key);
        self.handle_peer_2x_frame(cx, key, frame);
    }

    /// Whether a link to the node is the only one. One that has long been silent is given up for it.
    fn has_place_for_peer_2x(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) -> bool {
        if self.peers.link_to(id).is_some() {
            if cx.common.logs.keys_used_twice.admits(cx.now) {
                warn!(
                    peer = %id,
                    "a node of FISCO BCOS 2.x has the key of a node of this kind that is linked: give each a key of its own (amop pki)",
                );
            }
            cx.counters.keys_used_twice.increment();
            return false;
        }
        let Some(&before) = self.peers_2x.by_id.get(id) else { return true };
        match self.peer_2x_mut(before) {
            Some(peer) if !peer.is_silent => false,
            _ => {
                cx.out.abort(before, CloseReason::Replaced);
                self.forget_peer_2x(cx, id);
                true
            }
        }
    }

    /// Its link does not count any more.
    fn forget_peer_2x(&mut self, cx: &mut Context<'_, impl Outbound>, id: &NodeId) {
        let Some(key) = self.peers_2x.by_id.remove(id) else { return };
        if let Some(peer) = self.peer_2x_mut(key) {
            peer.is_gateway = false;
        }
        self.expose_topics(cx, key);
        cx.out.to_registry(RegistryInput::Peer2x { id: *id, news: News::Down });
    }

    /// A link to such a node has ended.
    pub(super) fn end_peer_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        peer: Peer2x,
        reason: CloseReason,
    ) {
        cx.counters.peer_2x_links.decrement();
        let Peer2x { id, label, session, private, .. } = peer;
        self.change_private_of_2x(cx, (key, session.id, &id), (&private, &[]));
        if self.peers_2x.by_id.get(&id) == Some(&key) {
            self.peers_2x.by_id.remove(&id);
            if cx.common.logs.nodes_down.admits(cx.now) {
                let address = &label.address;
                match reason.remedy() {
                    Some(remedy) => {
                        warn!(peer = %id, %address, %reason, remedy, "link to a node of FISCO BCOS 2.x down");
                    }
                    None => info!(peer = %id, %address, %reason, "link to a node of FISCO BCOS 2.x down"),
                }
            }
            // Its topics go with its session, which is told before.
            self.end_session_of_2x(cx, &id, session);
            cx.out.to_registry(RegistryInput::Peer2x { id, news: News::Down });
        } else {
            self.end_session_of_2x(cx, &id, session);
        }
    }

    /// Closes the link to such a node, if there is one.
    pub(super) fn close_peer_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        reason: CloseReason,
    ) {
        if let Some(&key) = self.peers_2x.by_id.get(id) {
            cx.out.abort(key, reason);
        }
    }

    /// This node is its gateway from now on, or is no more.
    pub(super) fn set_gateway_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        is_gateway: bool,
        is_for_all: bool,
    ) {
        let Some(&key) = self.peers_2x.by_id.get(id) else { return };
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let before = (peer.is_gateway, peer.is_for_all);
        (peer.is_gateway, peer.is_for_all) = (is_gateway, is_for_all);
        if before == (is_gateway, is_for_all) {
            return;
        }
        if cx.common.logs.nodes_up.admits(cx.now) {
            info!(peer = %id, is_gateway, is_for_all, "whether this node passes messages to and from a node of FISCO BCOS 2.x");
        }
        self.expose_topics(cx, key);
        self.tell_topics_if_new(cx, key);
    }

    /// Bytes have come from it.
    pub(super) fn note_peer_2x_activity(&mut self, now: Instant, key: LinkKey) {
        if let Some(peer) = self.peer_2x_mut(key) {
            peer.last_received = now;
        }
    }

    /// Looks at all of them.
    pub(super) fn tick_peers_2x(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let keys: SmallVec<[(NodeId, LinkKey); 8]> =
            self.peers_2x.by_id.iter().map(|(id, key)| (*id, *key)).collect();
        for (id, key) in keys {
            // Who is not read is not silent.
            let is_read = cx.out.progress(key).is_none_or(|progress| !progress.is_read_paused);
            let Some(peer) = self.peer_2x_mut(key) else { continue };
            if !is_read {
                peer.last_received = cx.now;
            }
            let silent_for = cx.now.saturating_duration_since(peer.last_received);
            if silent_for >= DEAD_AFTER {
                if cx.common.logs.nodes_down.admits(cx.now) {
                    warn!(peer = %id, "nothing heard from a node of FISCO BCOS 2.x for {DEAD_AFTER:?}: see whether it runs, and the network between");
                }
                cx.counters.closed_dead.increment();
                cx.out.abort(key, CloseReason::Idle);
                continue;
            }
            self.note_silence(cx, key, silent_for);
            self.ask_for_topics_if_due(cx, key);
            self.tell_topics_if_new(cx, key);
            if self.peer_2x_mut(key).is_some_and(|peer| peer.next_beat <= cx.now) {
                self.beat(cx, key);
            }
        }
        while self.peers_2x.recent.pop_expired(cx.now).is_some() {}
        let goes_on = !self.peers_2x.by_id.is_empty() || !self.peers_2x.recent.is_empty();
        self.peers_2x.next_tick = goes_on.then(|| cx.now + NODE_TICK);
    }

    /// A node that says nothing gets nothing, until it does.
    fn note_silence(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, silent_for: Duration) {
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let is_silent = silent_for >= SILENT_AFTER;
        if std::mem::replace(&mut peer.is_silent, is_silent) == is_silent {
            return;
        }
        if is_silent {
            cx.counters.peer_2x_silent.increment();
            let (id, address) = (peer.id, peer.label.address.clone());
            if cx.common.logs.nodes_down.admits(cx.now) {
                warn!(peer = %id, %address, "a node of FISCO BCOS 2.x says nothing: messages go elsewhere until it does; see whether it runs");
            }
        }
        self.expose_topics(cx, key);
        if is_silent {
            self.fail_pushes_of_silent(cx, key);
        }
    }

    /// Whether such a node's multicast did not come before, by whatever way.
    fn is_new_of_2x(&mut self, cx: &mut Context<'_, impl Outbound>, sender: u64, seq: SeqKey) -> bool {
        let recent = &mut self.peers_2x.recent;
        while recent.pop_expired(cx.now).is_some() {}
        if recent.contains_key(&(sender, seq)) {
            cx.counters.peer_2x_repeated.increment();
            return false;
        }
        if recent.is_full(cx.shared.settings.tables.of(REMEMBERED_MAX)) && recent.pop_oldest().is_some() {
            cx.counters.peer_2x_forgotten.increment();
        }
        recent.insert(cx.now, (sender, seq), ());
        self.peers_2x.next_tick.get_or_insert(cx.now + NODE_TICK);
        true
    }

    /// How many of these sessions are those of nodes of FISCO BCOS 2.x.
    pub(super) fn subscribers_2x(&self, sessions: &[u32]) -> usize {
        let of_2x = |index: &&u32| {
            let link = self.links.get(**index as usize).and_then(Option::as_ref);
            link.is_some_and(|link| matches!(link.kind, LinkKind::Peer2x(_)))
        };
        sessions.iter().filter(of_2x).count()
    }
}

/// When the number of the list is told next.
fn next_beat(now: Instant) -> Instant {
    now + BEAT_INTERVAL
}
