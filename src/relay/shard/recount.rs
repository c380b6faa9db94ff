//! Counts anew what a shard counts as it comes and goes. What is never given back is seen by this only: each answer may
//! be right while a bound creeps nearer.

use super::{
    Common, LinkKind, Parts, channel::Channel, publisher::Publisher, request::Origin, room, session::Session,
};
use crate::{
    relay::SessionId,
    wire::{Topic, topic::TopicKind},
};

impl Parts {
    /// What does not agree with the tables that it is the sum of, in words; `None` if all does.
    pub(super) fn miscount(&self, common: &Common) -> Option<String> {
        let sessions = || self.links.iter().flatten().filter_map(|link| link.kind.session());
        let count =
            |is: fn(&LinkKind) -> bool| self.links.iter().flatten().filter(|link| is(&link.kind)).count();
        let (waits, wait_bytes) = self.room_waits.counted();
        let lines = || sessions().map(|session| room::count(&session.line));
        let channels = || self.peers.channels();
        let (subscribers, numbers) = self.subscribers.counted();
        let [(challenges, ends), (carried, carried_anew), (of_nodes, of_nodes_anew)] =
            self.challenge_broker.counted();
        let is_data = |topic: &&Topic| topic.kind() == TopicKind::Data;
        let data_topics: usize =
            sessions().map(|session| session.subscription.topics().iter().filter(is_data).count()).sum();
        let routes_2x: usize = self.routes_of_2x();
        let node_links = count(|kind| matches!(kind, LinkKind::Node(_)));
        let applications = count(|kind| matches!(kind, LinkKind::Sdk(_)));
        let peers_2x = count(|kind| matches!(kind, LinkKind::Peer2x(_)));
        let counts = [
            ("sessions", self.sessions.indices.len(), sessions().count()),
            ("sessions in the metrics", common.counters.sessions.get() as usize, applications),
            ("links to nodes of FISCO BCOS 2.x", common.counters.peer_2x_links.get() as usize, peers_2x),
            ("node links in the metrics", common.counters.node_links.get() as usize, node_links),
            ("pushes", self.pushes.len(), sessions().map(|session| session.pushes.len()).sum()),
            ("waits for room", waits, lines().map(|(count, _)| count).sum()),
            ("bytes that wait for room", wait_bytes, lines().map(|(_, bytes)| bytes).sum()),
            (
                "bytes kept for a retry",
                self.requests.retained_bytes(),
                self.requests.iter().map(|request| request.retained_len()).sum(),
            ),
            (
                "subscriptions",
                self.sessions.topics.pairs(),
                sessions().map(|session| session.subscription.topics().len()).sum(),
            ),
            ("numbers of subscribers", subscribers, numbers),
            ("subscriptions to private topics", numbers, data_topics + routes_2x),
            (
                "pairs",
                self.publishers.pairs,
                self.publishers.by_link.values().map(|publisher| publisher.pairs_len()).sum(),
            ),
            ("ends of challenges", ends, challenges),
            ("payloads that were carried", carried, carried_anew),
            ("challenges of other nodes", of_nodes, of_nodes_anew),
            ("bytes in channels", self.channels.bytes(), channels().map(Channel::bytes).sum()),
        ];
        let wrong = counts.into_iter().find(|(_, counted, anew)| counted != anew);
        let wrong =
            wrong.map(|(what, counted, anew)| format!("{counted} {what} are counted, and there are {anew}"));
        wrong
            .or_else(|| sessions().find_map(|session| self.miscount_of(session)))
            .or_else(|| self.miscount_of_ledgers(common))
            .or_else(|| channels().find_map(Channel::miscount))
            .or_else(|| self.publishers.by_link.values().find_map(Publisher::miscount))
    }

    fn miscount_of_ledgers(&self, common: &Common) -> Option<String> {
        let is_ledger = |link: &&super::Link| matches!(link.kind, LinkKind::Ledger(_));
        let links = self.links.iter().flatten().filter(is_ledger).count();
        let in_metrics = common.counters.ledger_links.get() as usize;
        let counted = (self.upstreams.bytes(), self.upstreams.asked());
        let anew = self.upstreams.counted_anew();
        let of_nodes = common.shared.ledger_counters.get(usize::from(common.id.0));
        let wrong = of_nodes.into_iter().flatten().zip(0..).find_map(|(of_node, node)| {
            let (counted, there) = (of_node.sessions.get(), self.upstreams.connected(node));
            (counted != there as u64).then(|| {
                format!("{counted} sessions are counted at ledger node {node}, and there are {there}")
            })
        });
        if wrong.is_some() {
            return wrong;
        }
        (in_metrics != links || counted != anew).then(|| {
            format!(
                "{in_metrics} links to ledger nodes, and bytes and requests for them {counted:?}, are counted, and there are {links}, {anew:?}"
            )
        })
    }

    fn miscount_of(&self, session: &Session) -> Option<String> {
        let id = session.id;
        let of_ledger = session.pushes.values().filter(|push| push.is_of_ledger()).count();
        let is_of = |origin: &Origin| matches!(origin, Origin::Session { id: other, .. } if *other == id);
        let open = || self.requests.iter().filter(|request| is_of(request.origin()));
        let counts = [
            ("requests", session.requests.len(), open().count()),
            ("bytes of requests", session.open_bytes(), open().map(|request| request.frame_len()).sum()),
            ("pushes of a ledger node", self.upstreams.pushes(session.key), of_ledger),
        ];
        let wrong = counts.into_iter().find(|(_, counted, anew)| counted != anew);
        wrong.map(|(what, counted, anew)| {
            let SessionId(id) = id;
            format!("{counted} {what} of session {id} are counted, and there are {anew}")
        })
    }
}
