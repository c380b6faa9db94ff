//! Topics: which ones a node of FISCO BCOS 2.x has, and which it is told of.

use tracing::{debug, warn};

use super::{Context, LinkKind, Parts, next_beat};
use crate::{
    rate_limit::Rate,
    relay::{
        Class, CloseReason, LinkKey, Outbound, RegistryInput,
        peer_2x::{
            LISTS_PER_SECOND_MAX, News, REQUEST_AGAIN_AFTER, REQUEST_PAUSE, TOPICS_IN_ALL_MAX, TOPICS_MAX,
        },
        shard::subscription::differences,
    },
    wire::{
        FrameRef, Topic,
        p2p_2x::{Header, Kind, TopicList, decode_topic_seq},
    },
};

impl Parts {
    /// Says the number of our list of topics, which shows that this node lives, too.
    pub(super) fn beat(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Some(peer) = self.peer_2x_mut(key) else { return };
        peer.next_beat = next_beat(cx.now);
        let number = peer.own_seq.to_string();
        // As they do themselves.
        self.send_control_2x(cx, key, Kind::TopicSeq, 0, number.as_bytes());
    }

    /// Tells it at once that the list is another one, if it is.
    pub(super) fn tell_topics_if_new(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let version = cx.shared.snapshot.load().announced_version();
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let version = if peer.is_gateway { version } else { 0 };
        let state = (peer.is_gateway, version, peer.offers_version);
        if peer.own_state == state {
            return;
        }
        peer.own_state = state;
        peer.own_seq = peer.own_seq.wrapping_add(1);
        self.beat(cx, key);
    }

    fn send_control_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        kind: Kind,
        seq: u32,
        payload: &[u8],
    ) {
        let head = Header::encode(kind, seq, payload.len());
        match cx.out.send(key, Class::Control, &head, FrameRef::Slice(payload)) {
            Ok(_) => cx.counters.peer_2x_frames_sent.increment(),
            // Whatever it is, it is said again before long.
            Err(_) => cx.counters.dropped_control_full.increment(),
        }
    }

    /// It has said the number of its list.
    pub(super) fn handle_topic_seq(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        payload: FrameRef<'_>,
    ) {
        let number =
            (payload.len() == payload.head().len()).then(|| decode_topic_seq(payload.head())).flatten();
        let Some(number) = number else {
            return self.refuse_peer_2x(cx, key, "the number of its list of topics is none");
        };
        let Some(peer) = self.peer_2x_mut(key) else { return };
        peer.latest_seq = number;
        self.ask_for_topics_if_due(cx, key);
    }

    /// Asks for its list if that is another one than the one that is known.
    pub(super) fn ask_for_topics_if_due(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let seq = cx.next_message().0;
        let now = cx.now;
        let Some(peer) = self.peer_2x_mut(key) else { return };
        if peer.latest_seq == peer.list_seq {
            peer.requested = None;
            return self.settle_peer_2x(cx, key);
        }
        let pause = if peer.requested.is_some() { REQUEST_AGAIN_AFTER } else { REQUEST_PAUSE };
        if peer.last_request.is_some_and(|last| now.saturating_duration_since(last) < pause) {
            return;
        }
        if peer.requested.replace((seq, now)).is_some() {
            cx.counters.peer_2x_lists_unanswered.increment();
        }
        peer.last_request = Some(now);
        self.send_control_2x(cx, key, Kind::RequestTopics, seq, &[]);
    }

    /// Its list.
    pub(super) fn handle_topic_list(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        seq: u32,
        payload: FrameRef<'_>,
    ) {
        let Some(peer) = self.peer_2x_mut(key) else { return };
        if peer.requested.is_none_or(|(requested, _)| requested != seq) {
            return cx.counters.peer_2x_ignored.increment();
        }
        peer.requested = None;
        let (latest_seq, told) = (peer.latest_seq, peer.told.len());
        let room =
            cx.shared.settings.tables.of(TOPICS_IN_ALL_MAX).saturating_sub(self.topics_told_by_2x() - told);
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let whole = payload.first(payload.len());
        match TopicList::decode(&whole, TOPICS_MAX.min(room)) {
            Ok(list) => {
                (peer.list_seq, peer.latest_seq) = (list.seq, list.seq);
                peer.told = list.topics;
                let withheld = list.withheld + peer.take_private(&cx.common.shared.settings, list.private);
                let (id, topics) = (peer.id, peer.told.len());
                debug!(peer = %id, topics, withheld, invalid = list.invalid, "topics of a node of FISCO BCOS 2.x");
                cx.counters.peer_2x_topics_withheld.add(withheld as u64);
                cx.counters.topics_skipped.add(list.invalid as u64);
                self.expose_topics(cx, key);
                self.settle_peer_2x(cx, key);
            }
            Err(error) => {
                // The one before stays until it has another one.
                peer.list_seq = latest_seq;
                cx.counters.peer_2x_lists_refused.increment();
                let (id, address) = (peer.id, peer.label.address.clone());
                if cx.common.logs.over_bound.admits(cx.now) {
                    warn!(peer = %id, %address, %error, "the list of topics of a node of FISCO BCOS 2.x is refused, the one before stays; see what its applications subscribe to");
                }
            }
        }
    }

    fn topics_told_by_2x(&self) -> usize {
        let told = self.peers_2x.by_id.values().map(|key| {
            match self.links.get(key.index as usize).and_then(Option::as_ref).map(|link| &link.kind) {
                Some(LinkKind::Peer2x(peer)) => peer.told.len(),
                _ => 0,
            }
        });
        told.sum()
    }

    /// Its topics are known now.
    fn settle_peer_2x(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        if let Some(peer) = self.peer_2x_mut(key)
            && !std::mem::replace(&mut peer.is_settled, true)
        {
            let id = peer.id;
            cx.out.to_registry(RegistryInput::Peer2x { id, news: News::Settled });
        }
    }

    /// It asks for ours.
    pub(super) fn handle_topics_requested(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        seq: u32,
    ) {
        self.tell_topics_if_new(cx, key);
        let now = cx.now;
        let Some(peer) = self.peer_2x_mut(key) else { return };
        if !peer.lists.take(now, Rate::per_second(LISTS_PER_SECOND_MAX), 1) {
            // It asks again.
            return cx.counters.peer_2x_lists_not_given.increment();
        }
        let (own_seq, is_gateway) = (peer.own_seq, peer.is_gateway);
        let snapshot = cx.shared.snapshot.load();
        let topics = snapshot.announced().filter(|_| is_gateway);
        let offered = self.offered_to_2x(key);
        let list = TopicList::encode(own_seq, topics.chain(&offered));
        self.send_control_2x(cx, key, Kind::Topics, seq, &list);
        self.note_offers_given(key);
    }

    /// Has its topics be subscribed to here exactly while messages go there.
    pub(super) fn expose_topics(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        self.expose_private(cx, key);
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let topics = if peer.is_exposed() { peer.told.clone() } else { Vec::new() };
        let id = peer.id;
        let added = topics.len().saturating_sub(peer.session.subscription.topics().len());
        if !cx.has_room_for_subscriptions(added) {
            cx.counters.subscriptions_refused.increment();
            if cx.common.logs.over_bound.admits(cx.now) {
                warn!(peer = %id, "topics of a node of FISCO BCOS 2.x are not taken, for the node has its maximum: raise [amop] node_subscriptions_max");
            }
            return;
        }
        let before = peer.session.subscription.replace(topics.clone());
        self.change_topics_of_2x(cx, key, &id, (&before, &topics));
    }

    /// Moves the session of such a node from one sorted set of topics to another.
    pub(in crate::relay::shard) fn change_topics_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        id: &crate::wire::NodeId,
        (before, after): (&[Topic], &[Topic]),
    ) {
        let changes: Vec<(Topic, i32)> =
            differences(before, after).map(|(topic, difference)| (topic.clone(), difference)).collect();
        for (topic, difference) in &changes {
            cx.counters.subscriptions.add(*difference as u64);
            match difference {
                1 => self.sessions.topics.insert(topic, key.index),
                _ => self.sessions.topics.remove(topic, key.index),
            }
        }
        cx.counters.topics.set(self.sessions.topics.len() as u64);
        if !changes.is_empty() {
            cx.out.to_registry(RegistryInput::Peer2x { id: *id, news: News::Topics(changes) });
        }
    }

    /// It has broken its protocol.
    pub(super) fn refuse_peer_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        what: impl std::fmt::Display,
    ) {
        if cx.common.logs.nodes_misbehaved.admits(cx.now)
            && let Some(peer) = self.peer_2x_mut(key)
        {
            warn!(
                peer = %peer.id, address = %peer.label.address, %what,
                "closing the link to a node of FISCO BCOS 2.x: it broke the protocol; see what it runs, or put it on [certificate_blacklist]",
            );
        }
        cx.out.abort(key, CloseReason::NodeFrame);
    }
}
