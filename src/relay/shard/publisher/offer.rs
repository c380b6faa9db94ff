//! Publishers at a node of FISCO BCOS 2.x (INTEROP §2.2): which subscriber of ours it is told of.
//!
//! Such a node has one flag for each private topic and node of ours. The first verdict sets it, for all its publishers, and only a list of
//! topics without the data topic resets it. Verdicts are not seen here. So one subscriber at a time has its turn: the node is told of the
//! data topic and of a route topic that was minted for this subscriber's challenge, and once that is answered, messages go to this subscriber alone.
//!
//! ```text
//!   Withdrawn ─ a list without the topic is given ─► Free ─ a pair is due ─► Turn ─ challenge opened ─► its topics are on the list
//!       ▲                                                                     │
//!       └────── not answered in time, gone, or others wait for too long ──────┘
//! ```
//!
//! # Invariants
//! - Of a topic's pairs, none but that of whose turn it is has an open challenge or is accepted.
//! - Between two turns the node was given a list without the topic.

use std::time::{Duration, Instant};

use super::{Publisher, RETRY_FIRST, Subscriber};
use crate::{
    relay::{
        LinkKey, Outbound,
        shard::{Context, Parts},
    },
    wire::Topic,
};

/// Who has answered a challenge, and has got no message for so long, leaves the turn to others that wait for one. A verdict that comes
/// later than this would be taken for one of the next.
pub(in crate::relay) const TURN_2X: Duration = Duration::from_secs(60);
/// A node that asks again so long after the answer has got no verdict: it asks whenever it is told the number of our list. Before, the verdict
/// may be on its way.
const NO_VERDICT_AFTER: Duration = Duration::from_secs(4);

/// What a node of FISCO BCOS 2.x is told of a private topic.
#[derive(Default)]
pub(super) enum Offer {
    /// Nothing more, but it may not know yet.
    #[default]
    Withdrawn,
    /// Nothing, and it was given a list without it.
    Free,
    /// That one subscriber has it.
    To(Turn),
}

/// The turn of one subscriber.
pub(super) struct Turn {
    subscriber: Subscriber,
    /// The route topic of its challenge, once its node has opened that.
    route: Option<Topic>,
    /// When it answered.
    answered: Option<Instant>,
    /// Whether a message came after that: a publisher has accepted it.
    is_proven: bool,
}

impl Publisher {
    /// The pair that is to be challenged next, if one is due. At a node of FISCO BCOS 2.x it has its turn then.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Topic, Subscriber)> {
        if !self.is_2x {
            let (&(at, _), _) = self.due.first_key_value()?;
            return (at <= now).then(|| self.due.pop_first()).flatten().map(|(_, pair)| pair);
        }
        let is_free =
            |topic: &Topic| self.topics.get(topic).is_some_and(|pairs| matches!(pairs.offer, Offer::Free));
        if !self.topics.keys().any(is_free) {
            return None;
        }
        let mut due = self.due.iter().take_while(|((at, _), _)| *at <= now);
        let key = *due.find(|(_, (topic, _))| is_free(topic))?.0;
        let (topic, subscriber) = self.due.remove(&key)?;
        let turn = Turn { subscriber: subscriber.clone(), route: None, answered: None, is_proven: false };
        self.topics.get_mut(&topic)?.offer = Offer::To(turn);
        Some((topic, subscriber))
    }

    fn turn_mut(&mut self, topic: &str) -> Option<&mut Turn> {
        match &mut self.topics.get_mut(topic)?.offer {
            Offer::To(turn) => Some(turn),
            Offer::Withdrawn | Offer::Free => None,
        }
    }

    /// The challenge of whose turn it is has been opened under a route topic.
    pub(super) fn offer_route(&mut self, topic: &Topic, route: Topic) {
        if let Some(turn) = self.turn_mut(topic.as_str()) {
            turn.route = Some(route);
        }
    }

    /// Whose turn it is has answered.
    pub(super) fn note_turn_answered(&mut self, topic: &Topic, now: Instant) {
        if let Some(turn) = self.turn_mut(topic.as_str()) {
            turn.answered.get_or_insert(now);
        }
    }

    /// Ends turns that are over; tells whether any is.
    fn end_turns(&mut self, now: Instant) -> bool {
        let mut is_changed = false;
        let mut again = Vec::new();
        for (topic, pairs) in &mut self.topics {
            let Offer::To(turn) = &pairs.offer else { continue };
            let others_wait = pairs.pairs.len() > 1;
            let pair = pairs.pairs.get_mut(&turn.subscriber);
            let is_over = match pair {
                None => true,
                Some(pair) if !pair.is_accepted => pair.open.is_none(),
                Some(pair) => {
                    let has_had_its_time = turn
                        .answered
                        .is_some_and(|answered| now.saturating_duration_since(answered) >= TURN_2X);
                    let is_over = others_wait && !turn.is_proven && has_had_its_time;
                    if is_over {
                        pair.is_accepted = false;
                        again.push((topic.clone(), turn.subscriber.clone()));
                    }
                    is_over
                }
            };
            if is_over {
                pairs.offer = Offer::Withdrawn;
                is_changed = true;
            }
        }
        for (topic, subscriber) in again {
            self.make_due(&topic, &subscriber, now);
        }
        is_changed
    }

    /// A challenge under this route topic has come from the node. Whether it is open; if it has long been answered, its subscriber is
    /// challenged anew, for there was no verdict.
    fn is_asked_under(&mut self, now: Instant, route: &str) -> bool {
        let mut turns = self.topics.iter_mut().filter_map(|(topic, pairs)| match &mut pairs.offer {
            Offer::To(turn) => Some((topic, turn)),
            Offer::Withdrawn | Offer::Free => None,
        });
        let is_it = |turn: &Turn| turn.route.as_ref().is_some_and(|own| own.as_str() == route);
        let Some((topic, turn)) = turns.find(|(_, turn)| is_it(turn)) else { return false };
        let Some(answered) = turn.answered else { return true };
        if now.saturating_duration_since(answered) >= NO_VERDICT_AFTER {
            let (topic, subscriber) = (topic.clone(), turn.subscriber.clone());
            if let Some(pair) = self.pair_mut(&topic, &subscriber)
                && std::mem::take(&mut pair.is_accepted)
            {
                self.make_due(&topic, &subscriber, now + RETRY_FIRST);
            }
        }
        false
    }
}

impl Parts {
    /// Ends turns of subscribers at a publisher's node, if that is one of FISCO BCOS 2.x.
    pub(super) fn end_turns(&mut self, cx: &mut Context<'_, impl Outbound>, index: u32) {
        let Some(publisher) = self.publishers.by_link.get_mut(&index) else { return };
        if publisher.is_2x && publisher.end_turns(cx.now) {
            let key = publisher.key;
            self.tell_changed_offers(cx, key);
        }
    }

    /// The private topics that a node of FISCO BCOS 2.x is told of now: each data topic, and the route topic of whose turn it is.
    pub(in crate::relay::shard) fn offered_to_2x(&self, key: LinkKey) -> Vec<Topic> {
        let topics = self.publishers.by_link.get(&key.index).map(|publisher| &publisher.topics);
        let offered = topics.into_iter().flatten().filter_map(|(topic, pairs)| match &pairs.offer {
            Offer::To(Turn { route: Some(route), .. }) => Some([topic.clone(), route.clone()]),
            _ => None,
        });
        offered.flatten().collect()
    }

    /// The node was given a list with just these.
    pub(in crate::relay::shard) fn note_offers_given(&mut self, key: LinkKey) {
        let publisher = self.publishers.by_link.get_mut(&key.index);
        for pairs in publisher.into_iter().flat_map(|publisher| publisher.topics.values_mut()) {
            if matches!(pairs.offer, Offer::Withdrawn) {
                pairs.offer = Offer::Free;
            }
        }
    }

    /// Whether a node of FISCO BCOS 2.x that publishes a private topic may send it, which shows that it has accepted whose turn it is.
    pub(in crate::relay::shard) fn takes_private_of_2x(&mut self, key: LinkKey, topic: &str) -> bool {
        let Some(publisher) = self.publishers.by_link.get_mut(&key.index) else { return false };
        if let Some(turn) = publisher.turn_mut(topic) {
            turn.is_proven = turn.answered.is_some();
        }
        publisher.topics.contains_key(topic)
    }

    /// Whether a node of FISCO BCOS 2.x may send a challenge under a route topic: it was told of that, and nobody has answered yet.
    pub(in crate::relay::shard) fn takes_challenge_of_2x(
        &mut self,
        now: Instant,
        key: LinkKey,
        route: &str,
    ) -> bool {
        let publisher = self.publishers.by_link.get_mut(&key.index);
        publisher.is_some_and(|publisher| publisher.is_asked_under(now, route))
    }
}
