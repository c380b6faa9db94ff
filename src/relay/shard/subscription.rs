//! What sessions subscribe to (WIRE §1.6): a session says all of its topics at once, and what that changes is told to the
//! registry and to the private topics.

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};
use tracing::{debug, warn};

use super::{Common, Context, Link, Parts};
use crate::{
    rate_limit::{Rate, RateLimit},
    relay::{LinkKey, Outbound, RegistryInput, SessionId},
    wire::{
        FrameRef, Topic, TopicKind, json,
        sdk::HEADER_LEN,
        topic::{ROUTE_PREFIX, data_topic_of_route},
    },
};

/// Longest body of a subscription in bytes: every name of the longest kind, each byte escaped as six.
fn subscription_len_max(topics_max: usize) -> usize {
    topics_max.saturating_mul(6 * crate::wire::topic::TOPIC_LEN_MAX + 3).saturating_add(1024)
}

/// The topics of a subscription, and how many names were skipped that are none.
pub(super) type ReadSubscription = Result<(Vec<Topic>, usize), json::SubscriptionError>;

/// What one session subscribes to.
#[derive(Default)]
pub(super) struct Subscription {
    /// Sorted.
    topics: Vec<Topic>,
    changes: RateLimit,
    /// One that waits because changes came too fast; the last one wins.
    deferred: Option<Vec<Topic>>,
    /// Whether it is not changed any more: its session is about to be closed.
    is_withdrawn: bool,
    /// When the last list came; of an application of FISCO BCOS 3.x only.
    last_list: Option<Instant>,
}

impl Subscription {
    pub(super) fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn contains(&self, topic: &str) -> bool {
        self.topics.binary_search_by(|other| other.as_str().cmp(topic)).is_ok()
    }

    /// Puts others, sorted, in their place; gives those before.
    pub(super) fn replace(&mut self, topics: Vec<Topic>) -> Vec<Topic> {
        std::mem::replace(&mut self.topics, topics)
    }

    /// What a list that comes now makes of the topics: all of both where the one before came within `together`, since then either may
    /// be the newer one; else what it says.
    pub(super) fn merge_list(
        &mut self,
        now: Instant,
        together: Duration,
        mut list: Vec<Topic>,
    ) -> Vec<Topic> {
        let before = self.last_list.replace(now);
        if before.is_some_and(|before| now.saturating_duration_since(before) < together) {
            list.extend_from_slice(self.deferred.as_deref().unwrap_or(&self.topics));
            list.sort_unstable();
            list.dedup();
        }
        list
    }

    /// Takes out the topics, and tells how many waited to take their place.
    pub(super) fn take(&mut self) -> (Vec<Topic>, usize) {
        let deferred = self.deferred.take().map_or(0, |deferred| deferred.len());
        (std::mem::take(&mut self.topics), deferred)
    }

    /// The same, for good: whatever the session says, it subscribes to nothing.
    pub(super) fn withdraw(&mut self) -> (Vec<Topic>, usize) {
        self.is_withdrawn = true;
        self.take()
    }

    /// Its own route topic for a data topic: what its challenges are to come under.
    pub(super) fn route_topic(&self, data: &str) -> Option<Topic> {
        let front = format!("{ROUTE_PREFIX}{data}_");
        let first = self.topics.partition_point(|topic| topic.as_str() < front.as_str());
        let named = self.topics[first..].iter().take_while(|topic| topic.as_str().starts_with(&front));
        named.into_iter().find(|topic| data_topic_of_route(topic.as_str()) == Some(data)).cloned()
    }
}

/// Which of this shard's sessions subscribe to what. Route, marker and block-notify topics are here
/// too; only [`is_published`] ones are told to the registry.
pub(super) struct LocalTopics {
    by_topic: AHashMap<Topic, Vec<u32>>,
}

impl LocalTopics {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self { by_topic: AHashMap::with_hasher(hashing) }
    }

    /// For checks: pairs of session and topic.
    pub(super) fn pairs(&self) -> usize {
        self.by_topic.values().map(Vec::len).sum()
    }

    /// Link indices of the sessions that subscribe to `topic`.
    pub(super) fn sessions(&self, topic: &str) -> &[u32] {
        self.by_topic.get(topic).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert(&mut self, topic: &Topic, index: u32) {
        self.by_topic.entry(topic.clone()).or_default().push(index);
    }

    pub(super) fn remove(&mut self, topic: &Topic, index: u32) {
        let Some(sessions) = self.by_topic.get_mut(topic.as_str()) else { return };
        if let Some(position) = sessions.iter().position(|&other| other == index) {
            sessions.swap_remove(position);
        }
        if sessions.is_empty() {
            self.by_topic.remove(topic.as_str());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_topic.len()
    }
}

/// What is in one of two sorted sets only: 1 if it is in the new one, -1 if in the old one.
pub(super) fn differences<'a>(
    old: &'a [Topic],
    new: &'a [Topic],
) -> impl Iterator<Item = (&'a Topic, i32)> + use<'a> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            match (old.peek(), new.peek()) {
                (Some(before), Some(after)) if before == after => {
                    old.next();
                    new.next();
                }
                (Some(before), Some(after)) if before > after => return new.next().map(|after| (after, 1)),
                (Some(_), _) => return old.next().map(|before| (before, -1)),
                (None, _) => return new.next().map(|after| (after, 1)),
            }
        }
    })
}

/// Whether the network learns of subscriptions to the topic.
fn is_published(topic: &Topic) -> bool {
    matches!(topic.kind(), TopicKind::Ordinary | TopicKind::Data)
}

impl Parts {
    pub(super) fn handle_subscribe(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let read = cx.read_subscription(frame, json::decode_subscription);
        self.take_subscription(cx, key, read);
    }

    /// A session says all of its topics.
    pub(super) fn take_subscription(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        read: ReadSubscription,
    ) {
        match read {
            Ok((topics, skipped)) => {
                if skipped > 0 {
                    cx.counters.topics_skipped.add(skipped as u64);
                    debug!(skipped, "topic names skipped that are empty, too long or not valid");
                }
                self.subscribe(cx, key, topics);
            }
            Err(error) => {
                cx.counters.subscriptions_refused.increment();
                if cx.common.logs.sessions_refused.admits(cx.now)
                    && let Some(session) = self.session_mut(key)
                {
                    warn!(
                        session = session.id.0, address = %session.address, subject = %session.subject, %error,
                        "subscription refused, the old topics stay; see what the application sends, and [amop] session_topics_max",
                    );
                }
            }
        }
    }

    /// Replaces the topic set of a session, or puts it off if the session changes it too often.
    fn subscribe(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, topics: Vec<Topic>) {
        let rate = Rate::per_second(cx.shared.settings.session_changes_per_second_max);
        let Some(session) = self.session_mut(key) else { return };
        if session.subscription.is_withdrawn {
            return;
        }
        if session.subscription.topics == topics {
            let dropped = session.subscription.deferred.take().map_or(0, |deferred| deferred.len());
            cx.count_deferred(dropped, 0);
            return self.renew_publisher(key.index);
        }
        let waiting = session.subscription.deferred.as_ref().map_or(0, Vec::len);
        if !session.subscription.changes.take(cx.now, rate, 1) {
            let count = topics.len();
            if !cx.has_room_for_subscriptions(count.saturating_sub(waiting)) {
                return self.refuse_subscription(cx, key, "[amop] node_subscriptions_max");
            }
            let Some(session) = self.session_mut(key) else { return };
            if session.subscription.deferred.replace(topics).is_none() {
                self.sessions.deferred_subscriptions.start(cx.now, key);
            }
            cx.count_deferred(waiting, count);
            cx.counters.subscriptions_deferred.increment();
            return;
        }
        session.subscription.deferred = None;
        let added = topics.len().saturating_sub(session.subscription.topics.len());
        cx.count_deferred(waiting, 0);
        if added > 0 && cx.topics_of_node() + added as u64 > cx.shared.settings.node_topics_max as u64 {
            return self.refuse_subscription(cx, key, "[amop] node_topics_max");
        }
        if !cx.has_room_for_subscriptions(added) {
            return self.refuse_subscription(cx, key, "[amop] node_subscriptions_max");
        }
        let Some(session) = self.session_mut(key) else { return };
        let id = session.id;
        let old = std::mem::replace(&mut session.subscription.topics, topics.clone());
        self.change_topics(cx, (key.index, key, id), &old, &topics);
        self.renew_publisher(key.index);
        self.update_ledger_topics(cx, key);
    }

    pub(super) fn apply_deferred_subscription(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Some(session) = self.session_mut(key) else { return };
        if let Some(topics) = session.subscription.deferred.take() {
            cx.count_deferred(topics.len(), 0);
            self.subscribe(cx, key, topics);
        }
    }

    fn refuse_subscription(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, bound: &str) {
        cx.counters.subscriptions_refused.increment();
        if cx.common.logs.over_bound.admits(cx.now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "subscription refused, the old topics stay, for the node has its maximum: raise {bound}, or see who has so many in /sessions?sort=topics&order=desc",
            );
        }
    }

    /// Whether the session at a link index subscribes to `topic`.
    pub(super) fn subscribes(&self, index: u32, topic: &str) -> bool {
        match self.links.get(index as usize) {
            Some(Some(Link { kind, .. })) => {
                kind.session().is_some_and(|session| session.subscription.contains(topic))
            }
            _ => false,
        }
    }

    /// Moves a session from one sorted set of topics to another.
    pub(super) fn change_topics(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: (u32, LinkKey, SessionId),
        old: &[Topic],
        new: &[Topic],
    ) {
        let (index, ..) = session;
        let mut changes = Vec::new();
        let (mut data_topics, mut markers) = (Vec::new(), Vec::new());
        for (topic, difference) in differences(old, new) {
            cx.counters.subscriptions.add(difference as u64);
            if difference > 0 {
                self.sessions.topics.insert(topic, index);
            } else {
                self.sessions.topics.remove(topic, index);
            }
            match topic.kind() {
                TopicKind::Data => data_topics.push((topic.clone(), difference > 0)),
                TopicKind::Marker => markers.push((topic.clone(), difference > 0)),
                _ => {}
            }
            if is_published(topic) {
                changes.push((topic.clone(), difference));
            }
        }
        cx.counters.topics.set(self.sessions.topics.len() as u64);
        if !changes.is_empty() {
            cx.out.to_registry(RegistryInput::Topics { reactor: cx.id, changes });
        }
        self.change_data_topics(cx, index, &data_topics);
        self.change_markers(cx, session, &markers);
    }
}

impl Common {
    /// Reads the body of a subscription in its dialect, if it is not too long for its topics.
    pub(super) fn read_subscription(
        &self,
        frame: FrameRef<'_>,
        decode: impl FnOnce(&[u8], usize) -> ReadSubscription,
    ) -> ReadSubscription {
        let topics_max = self.shared.settings.session_topics_max;
        let body = frame.advance(HEADER_LEN);
        match body.len() > subscription_len_max(topics_max) {
            true => Err(json::SubscriptionError::TooMany(topics_max)),
            false => decode(&body.first(body.len()), topics_max),
        }
    }

    /// Notes that so many subscriptions of a session waited, and so many wait now.
    pub(super) fn count_deferred(&self, before: usize, after: usize) {
        let change = (after as u64).wrapping_sub(before as u64);
        self.counters.subscriptions.add(change);
    }

    pub(super) fn has_room_for_subscriptions(&self, added: usize) -> bool {
        let all: u64 = self.shared.counters.iter().map(|counters| counters.subscriptions.get()).sum();
        added == 0 || all + added as u64 <= self.shared.settings.node_subscriptions_max as u64
    }

    /// Topics of all reactors; one that sessions of several reactors have counts once for each.
    fn topics_of_node(&self) -> u64 {
        self.shared.counters.iter().map(|counters| counters.topics.get()).sum()
    }
}
