//! Private topics of nodes of FISCO BCOS 2.x (INTEROP §2.2, WIRE §4), where `[private_topics] over_2x` names them.
//!
//! A subscriber's route topic that such a node tells is a subscriber here, whose number says where it is; a challenge goes to it under that
//! topic, and messages to its node, once for all of its subscribers. A marker makes the node a publisher here
//! (`publisher/offer.rs`), whose messages go to who has answered.

use smallvec::SmallVec;
use tracing::warn;

use super::{Context, LinkKind, Parts, Peer2x};
use crate::{
    relay::{
        LinkKey, Outbound, SessionId, peer_2x::PRIVATE_TOPICS_MAX, settings::Settings,
        shard::subscription::differences,
    },
    wire::{
        NodeId, Topic, TopicKind,
        topic::{data_topic_of_marker, data_topic_of_route},
    },
};

impl Peer2x {
    /// Takes the private topics of its list that pass, as many as are taken; tells how many are left out.
    pub(super) fn take_private(&mut self, settings: &Settings, told: Vec<Topic>) -> usize {
        let passes = |topic: &&Topic| match topic.kind() {
            TopicKind::Route => data_topic_of_route(topic.as_str())
                .is_some_and(|data| settings.private_over_2x.contains(data)),
            TopicKind::Marker => data_topic_of_marker(topic.as_str()).is_some_and(|data| {
                settings.private_over_2x.contains(data) && settings.may_publish(data, &self.id)
            }),
            _ => false,
        };
        let taken: Vec<Topic> = told.iter().filter(passes).take(PRIVATE_TOPICS_MAX).cloned().collect();
        let is_known = |topic: &&Topic| {
            topic.kind() == TopicKind::Data && settings.private_over_2x.contains(topic.as_str())
        };
        let known = told.iter().filter(is_known).count();
        let left_out = told.len() - taken.len() - known;
        self.told_private = taken;
        left_out
    }
}

impl Parts {
    /// Has its subscribers and publishers be some here exactly while messages go there.
    pub(super) fn expose_private(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Some(peer) = self.peer_2x_mut(key) else { return };
        let topics =
            if peer.is_exposed() && peer.is_for_all { peer.told_private.clone() } else { Vec::new() };
        let (id, session) = (peer.id, peer.session.id);
        let before = std::mem::replace(&mut peer.private, topics.clone());
        self.change_private_of_2x(cx, (key, session, &id), (&before, &topics));
    }

    /// Moves the subscribers and publishers of such a node from one sorted set of topics to another.
    pub(super) fn change_private_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        (key, session, id): (LinkKey, SessionId, &NodeId),
        (before, after): (&[Topic], &[Topic]),
    ) {
        let mut markers: SmallVec<[(Topic, bool); 2]> = SmallVec::new();
        let mut routes = Vec::new();
        for (topic, difference) in differences(before, after) {
            let change = (topic.clone(), difference > 0);
            match topic.kind() {
                TopicKind::Marker => markers.push(change),
                _ => routes.push(change),
            }
        }
        let data_of = |topic: &Topic| data_topic_of_route(topic.as_str()).map(str::to_owned);
        let new = routes.iter().filter(|(_, holds)| *holds).filter_map(|(route, _)| data_of(route));
        let new: std::collections::BTreeSet<String> =
            new.filter(|data| !before.iter().any(|topic| data_of(topic).as_ref() == Some(data))).collect();
        for topic in new {
            if cx.common.logs.nodes_up.admits(cx.now) {
                warn!(
                    peer = %id, %topic,
                    "a private topic has subscribers at a node of FISCO BCOS 2.x, as [private_topics] over_2x allows: once one of them has proved its key, that node may hand messages to any of its sessions",
                );
            }
        }
        self.change_routes_of_2x(cx, key.index, routes);
        if !markers.is_empty() {
            self.change_markers(cx, (key.index, key, session), &markers);
            self.tell_changed_offers(cx, key);
        }
    }

    /// For checks: subscribers at nodes of FISCO BCOS 2.x.
    pub(in crate::relay::shard) fn routes_of_2x(&self) -> usize {
        let peers = self.links.iter().flatten().filter_map(|link| match &link.kind {
            LinkKind::Peer2x(peer) => Some(&peer.private),
            _ => None,
        });
        peers.flatten().filter(|topic| topic.kind() == TopicKind::Route).count()
    }

    /// It is told at once that the private topics on our list have changed.
    pub(in crate::relay::shard) fn tell_changed_offers(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
    ) {
        if let Some(peer) = self.peer_2x_mut(key) {
            peer.offers_version += 1;
            self.tell_topics_if_new(cx, key);
        }
    }
}
