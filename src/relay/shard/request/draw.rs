//! Whom a request is tried at next: a reactor of this node, another node, or the challenge broker.

use super::{super::publisher::Audience, Origin};
use crate::{
    relay::{
        Outbound, ReactorId, Recipients, RequestId, SessionId, home_reactor,
        shard::{Common, Context, Parts},
        snapshot::{NodeEntry, NodeRef, TopicEntry},
    },
    wire::{NodeId, TopicKind, node::AUDIENCE_MAX, topic::MintedTopic},
};

/// Who a request could be tried at.
pub(super) enum Candidate {
    /// With a private topic only those of its sessions that are named.
    Reactor(ReactorId, Option<Box<Recipients>>),
    ChallengeBroker,
    /// With a private topic only those of its sessions that are named.
    Node(NodeRef, Option<Box<Recipients>>),
    /// Nobody: the frame is too long for the nodes that are left, of which this is one.
    TooLong(NodeId),
}

/// Who could be tried if the one who was drawn fails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Nobody.
    None,
    /// Other sessions of the reactor that was drawn.
    SameReactor,
    /// Sessions of other reactors or nodes.
    Elsewhere,
}

impl Others {
    /// Of so many subscribers in all, so many are at the reactor that was drawn.
    fn of(total: u64, here: u64) -> Self {
        match () {
            () if total > here => Self::Elsewhere,
            () if total > 1 => Self::SameReactor,
            () => Self::None,
        }
    }
}

impl Parts {
    /// Draws the next reactor or node, each weighted by its subscribers that were not tried yet, with
    /// [`Settings::prefers_near`] among the nearest only; also tells who else would be left.
    ///
    /// [`Settings::prefers_near`]: crate::relay::settings::Settings::prefers_near
    pub(super) fn draw(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        topic: &str,
    ) -> (Option<Candidate>, Others) {
        cx.snapshot.refresh();
        let Some(request) = self.requests.get(id) else { return (None, Others::None) };
        let audience = match (TopicKind::of(topic.as_bytes()), request.origin) {
            (TopicKind::Data, Origin::Session { key, .. }) => Some(self.audience(key.index, topic)),
            (TopicKind::Data, Origin::Node(_)) => request.audience.clone().map(Audience::of_this_node),
            (TopicKind::Route, origin) => {
                // There is one route, and it is gone once.
                let candidate = cx.minted_topic_candidate(topic, matches!(origin, Origin::Session { .. }));
                return (candidate.filter(|_| request.is_first_attempt()), Others::None);
            }
            _ => None,
        };
        let accepted = audience.as_ref().map(Audience::entry);
        let entry = accepted.as_ref().or_else(|| cx.common.snapshot.topic(topic));
        // What came from a node of FISCO BCOS 2.x goes to none of them.
        let beside_2x = entry.filter(|_| request.from_2x.is_some()).map(TopicEntry::without_2x);
        let entry = beside_2x.as_ref().or(entry);
        let (all_reactors, all_nodes) =
            entry.map_or((&[][..], &[][..]), |entry| (&entry.reactors[..], &entry.nodes[..]));
        let (publisher, foreign) = match request.origin {
            Origin::Session { key, .. } => (Some(key.index), true),
            Origin::Node(_) => (None, false),
        };
        let own_sessions = self.sessions.topics.sessions(topic);
        let own = cx.id;
        let attempted_of = |reactor: ReactorId| {
            request.attempted().iter().filter(move |session| session.reactor() == reactor)
        };
        // Our own sessions are known better than the snapshot knows them.
        let still_subscribes = |session: &&SessionId| {
            self.sessions.indices.get(session).is_some_and(|&index| self.subscribes(index, topic))
        };
        let itself = publisher.is_some_and(|index| self.subscribes(index, topic));
        let itself = match request.from_2x {
            None => usize::from(itself),
            Some(_) => self.subscribers_2x(own_sessions),
        };
        let gone = itself + attempted_of(own).filter(still_subscribes).count();
        // Those that were tried elsewhere may have left, and others be there in their place: who knows is
        // asked.
        let weight_of = |reactor: ReactorId, count: u64| match request.exhausted().contains(&reactor) {
            true => 0,
            false => count.saturating_sub(attempted_of(reactor).count() as u64).max(count.min(1)),
        };
        let own_weight = match audience {
            _ if request.exhausted().contains(&own) => 0,
            None => own_sessions.len().saturating_sub(gone) as u64,
            Some(_) => all_reactors
                .iter()
                .find(|(reactor, _)| *reactor == own)
                .map_or(0, |&(reactor, count)| weight_of(reactor, count.into())),
        };
        let recipients = |reactor: ReactorId| {
            let mut parts = audience.iter().flat_map(Audience::by_reactor);
            parts.find(|(other, _)| *other == reactor).map(|(_, part)| Box::new(Recipients(part.to_vec())))
        };
        let reactors = all_reactors.iter().filter(|(reactor, _)| *reactor != own);
        let untried = all_nodes.iter().filter(|(node, _)| {
            foreign && !request.nodes.iter().any(|(attempted, _)| attempted.id == node.id)
        });
        let takes = |node: &NodeRef| cx.common.snapshot.takes(&node.id, request.size as usize);
        let nodes = untried.clone().filter(|(node, _)| takes(node));
        let here = own_weight
            + reactors.clone().map(|&(reactor, count)| weight_of(reactor, count.into())).sum::<u64>();
        let total = here + subscribers_of(nodes.clone());
        if total == 0 {
            let too_long = untried.map(|(node, _)| Candidate::TooLong(node.id)).next();
            return (too_long.filter(|_| request.nodes.is_empty()), Others::None);
        }
        // Those at the least distance, where near goes before far; else all.
        let hops_to =
            |node: &NodeRef| cx.common.snapshot.paths.get(&node.id).map_or(u8::MAX, |path| path.hops);
        let hops_max = match cx.shared.settings.prefers_near {
            false => u8::MAX,
            true if here > 0 => 0,
            true => nodes.clone().map(|(node, _)| hops_to(node)).min().unwrap_or(u8::MAX),
        };
        let nodes = nodes.filter(|(node, _)| hops_max == u8::MAX || hops_to(node) <= hops_max);
        let mut point = cx.common.fast_rng.in_range(0..here + subscribers_of(nodes.clone()));
        if point < own_weight {
            return (Some(Candidate::Reactor(own, recipients(own))), Others::of(total, own_weight));
        }
        point -= own_weight;
        for &(reactor, count) in reactors {
            let weight = weight_of(reactor, count.into());
            if point < weight {
                return (Some(Candidate::Reactor(reactor, recipients(reactor))), Others::of(total, weight));
            }
            point -= weight;
        }
        for (node, count) in nodes {
            if point < u64::from(*count) {
                // Should one frame not hold all names, it holds those from a random one on.
                let recipients = audience.iter().flat_map(|audience| &audience.nodes);
                let mut recipients = recipients.filter(|(other, _)| other.id == node.id);
                let recipients = recipients.next().map(|(_, recipients)| {
                    let from = recipients.iter().cycle().skip(point as usize);
                    Box::new(Recipients(from.take(recipients.len().min(AUDIENCE_MAX)).copied().collect()))
                });
                let others = if total > u64::from(*count) { Others::Elsewhere } else { Others::None };
                return (Some(Candidate::Node(node.clone(), recipients)), others);
            }
            point -= u64::from(*count);
        }
        (None, Others::None)
    }
}

/// Sessions of other nodes.
fn subscribers_of<'a>(nodes: impl Iterator<Item = &'a (NodeRef, u32)>) -> u64 {
    nodes.map(|&(_, count)| u64::from(count)).sum()
}

impl Common {
    /// Where a challenge with this route topic goes: to the challenge broker here, or to a node `elsewhere` by the
    /// topic's node part. `None` if it is no node's.
    pub(super) fn minted_topic_candidate(&self, topic: &str, elsewhere: bool) -> Option<Candidate> {
        let minted = MintedTopic::decode(topic)?;
        if minted.is_at(&self.shared.id) {
            return Some(Candidate::ChallengeBroker);
        }
        let snapshot = self.shared.snapshot.load();
        let admission = self.shared.admission.load();
        let id = *snapshot.paths.keys().find(|id| elsewhere && minted.is_at(id) && admission.admits(id))?;
        let reactor = home_reactor(&id, self.shared.reactors);
        // Which incarnation of it does not matter: a challenge of another one is not open.
        Some(Candidate::Node(NodeRef::new(NodeEntry { id, incarnation: 0, reactor }), None))
    }
}
