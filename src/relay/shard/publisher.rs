//! Publishers of private topics: whom they have challenged, and whom they have accepted (WIRE §4).
//!
//! A session is a publisher of a private topic while it holds the topic's marker. For each subscriber
//! session of the topic, wherever it is, there is a pair; each pair is challenged by a 0x37 until the
//! publisher has judged the subscriber. Only accepted pairs carry messages.
//!
//! # Invariants
//! - A pair is accepted only if this publisher said so by a token that it was given for that very
//!   subscriber, and the subscriber answered the challenge with that token.
//! - A pair that is neither judged nor open is due some time.

mod offer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use tracing::debug;

use self::offer::Offer;
pub(in crate::relay) use self::offer::TURN_2X;
use super::{
    Common, Context, Parts,
    challenge_broker::{CARRIED_MEMORY, CHALLENGE_BROKER},
    request::Requests,
};
use crate::{
    relay::{
        Challenge, Class, LinkKey, MeshMessage, Outbound, ReactorId, Recipients, RequestId, SessionId,
        SubscriberId,
        snapshot::{NodeRef, PrivateEntry, TopicEntry},
    },
    wire::{
        FrameRef, NodeId, ResultCode, Topic,
        json::{self, ChallengeToken, TopicStatus},
        node::AUDIENCE_MAX,
        notice::Notice,
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Seq},
        topic::{MintedTopic, data_topic_of_marker},
    },
};

/// How often publishers are looked at: new subscribers, challenges that are due or over.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Challenges of one publisher session that are open at once (WIRE §4).
pub(in crate::relay) const OPEN_MAX: usize = 64;
/// Pairs of publisher and subscriber sessions of one reactor's publishers.
pub(in crate::relay) const PAIRS_MAX: usize = 262_144;
/// An unanswered pair is challenged again after so long at first, then after twice as long each time …
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// … up to this at a node of FISCO BCOS 2.x, where others wait for their turn …
const RETRY_LAST_2X: Duration = Duration::from_secs(20);
/// … and else up to this.
const RETRY_LAST: Duration = Duration::from_secs(300);
/// A challenge is open until its pair is challenged again, but no longer than this …
pub(in crate::relay) const OPEN_FOR_MAX: Duration = Duration::from_secs(10);
/// … unless the request that carries it waits for its answer, as it does while a subscriber's machine has not taken it:
/// then it is open until that ends, and as long again for the verdict, but no longer than this in all. Whoever got it must not
/// be able to hand its payload on and still answer in time.
pub(in crate::relay) const OPEN_IN_ALL_MAX: Duration = Duration::from_secs(45);
const _: () = assert!(OPEN_IN_ALL_MAX.as_nanos() < CARRIED_MEMORY.as_nanos());
/// Longest body of a 0x38 that is read: the longest topic, each byte escaped as six, and the rest.
const STATUS_LEN_MAX: usize = 4096;

/// A session that holds markers.
pub(super) struct Publisher {
    session: SessionId,
    key: LinkKey,
    /// Whether it is a node of FISCO BCOS 2.x, whose own sessions publish.
    is_2x: bool,
    /// By data topic.
    topics: BTreeMap<Topic, Pairs>,
    open: AHashMap<ChallengeToken, PublisherChallenge>,
    /// Pairs that wait to be challenged, in rotation.
    due: BTreeMap<Due, (Topic, Subscriber)>,
    /// Tells those apart that are due at one moment.
    dues: u64,
    /// The version of the subscribers that the pairs are of.
    seen: Option<u64>,
    /// It has subscribed since the last look.
    is_renewed: bool,
}

type Due = (Instant, u64);

/// A subscriber session of the network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subscriber {
    /// Its node; `None` is our own.
    node: Option<NodeRef>,
    number: SubscriberId,
}

#[derive(Default)]
struct Pairs {
    /// The subscribers that the pairs are of.
    seen: Option<Arc<PrivateEntry>>,
    pairs: BTreeMap<Subscriber, Pair>,
    /// What a node of FISCO BCOS 2.x is told.
    offer: Offer,
}

struct Pair {
    is_accepted: bool,
    /// Set while it waits to be challenged.
    due: Option<Due>,
    /// Set while a challenge is open.
    open: Option<ChallengeToken>,
    /// Whether it is to be challenged again when the open challenge is judged.
    again: bool,
    retry_after: Duration,
}

/// A challenge that a publisher's shard has announced, and how far it has come.
struct PublisherChallenge {
    topic: Topic,
    subscriber: Subscriber,
    /// Number of the minted route topic.
    number: u64,
    since: Instant,
    /// When it is over, unless what carries it waits for its answer.
    until: Instant,
    open_for: Duration,
    /// The 0x37 was pushed.
    is_asked: bool,
    /// The publisher has it when its machine has taken so many bytes of its link, if that may take a while.
    asked_end: Option<u64>,
    /// The request of the publisher's session that carries it.
    carried_by: Option<RequestId>,
    /// The publisher accepted the subscriber.
    is_accepted: bool,
    /// The subscriber answered.
    is_answered: bool,
}

impl PublisherChallenge {
    /// Whether the subscriber is at this node; `None` is our own.
    fn is_at(&self, node: Option<&NodeId>) -> bool {
        self.subscriber.node.as_ref().map(|node| &node.id) == node
    }

    fn is_minted(&self, minted: &MintedTopic<'_>) -> bool {
        self.number == minted.number && self.topic.as_str() == minted.data
    }

    fn is_over(&self, now: Instant, requests: &Requests) -> bool {
        let waits = || self.carried_by.is_some_and(|request| requests.is_open(request));
        now >= self.until && (now >= self.since + OPEN_IN_ALL_MAX || !waits())
    }

    /// The subscriber has answered; now the publisher has as much time for its verdict.
    fn note_answered(&mut self, now: Instant) {
        self.is_answered = true;
        self.until = self.until.max((now + self.open_for).min(self.since + OPEN_IN_ALL_MAX));
    }
}

/// Memory of one pair, and of one open challenge, in bytes.
pub(super) const PAIR_LEN: usize = size_of::<(Subscriber, Pair)>() + size_of::<(Due, (Topic, Subscriber))>();
pub(super) const OPEN_LEN: usize = size_of::<(ChallengeToken, PublisherChallenge)>();

/// Whom a message with a private topic may reach.
#[derive(Default)]
pub(super) struct Audience {
    /// Sessions of this node, by number; so those of one reactor are together.
    own: Vec<SubscriberId>,
    /// Those of other nodes.
    pub(super) nodes: Vec<(NodeRef, Vec<SubscriberId>)>,
}

impl Audience {
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.nodes.is_empty()
    }

    /// What a neighbour's message may reach here.
    pub(super) fn of_this_node(recipients: Recipients) -> Self {
        Self { own: recipients.0, nodes: Vec::new() }
    }

    /// The part of it at each reactor of this node.
    pub(super) fn by_reactor(&self) -> impl Iterator<Item = (ReactorId, &[SubscriberId])> {
        self.own.chunk_by(|one, other| one.reactor() == other.reactor()).map(|part| (part[0].reactor(), part))
    }

    /// Those of other nodes, in as many parts as it takes to name everybody there.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&NodeRef, &[SubscriberId])> {
        self.nodes
            .iter()
            .flat_map(|(node, recipients)| recipients.chunks(AUDIENCE_MAX).map(move |part| (node, part)))
    }

    /// How many of this node's are at nodes of FISCO BCOS 2.x.
    pub(super) fn of_2x(&self) -> usize {
        self.own.iter().filter(|number| number.is_of_2x()).count()
    }

    /// As an entry of the topic table.
    pub(super) fn entry(&self) -> TopicEntry {
        let count = |(reactor, part): (ReactorId, &[SubscriberId])| (reactor, part.len() as u32);
        let nodes = self.nodes.iter().map(|(node, recipients)| (node.clone(), recipients.len() as u32));
        let reactors = self.by_reactor().map(count).collect();
        TopicEntry { reactors, nodes: nodes.collect(), of_2x: None }
    }
}

impl Publisher {
    fn new(session: SessionId, key: LinkKey, is_2x: bool, hashing: RandomState) -> Self {
        Self {
            session,
            key,
            is_2x,
            topics: BTreeMap::new(),
            open: AHashMap::with_hasher(hashing),
            due: BTreeMap::new(),
            dues: 0,
            seen: None,
            is_renewed: false,
        }
    }

    fn pair_mut(&mut self, topic: &Topic, subscriber: &Subscriber) -> Option<&mut Pair> {
        self.topics.get_mut(topic)?.pairs.get_mut(subscriber)
    }

    /// Has a pair challenged at `at`.
    fn make_due(&mut self, topic: &Topic, subscriber: &Subscriber, at: Instant) {
        let due = (at, self.dues);
        let Some(pair) = self.pair_mut(topic, subscriber) else { return };
        let before = pair.due.replace(due);
        if let Some(before) = before {
            self.due.remove(&before);
        }
        self.dues += 1;
        self.due.insert(due, (topic.clone(), subscriber.clone()));
    }

    fn remove_pair(&mut self, pair: &Pair) {
        if let Some(due) = pair.due {
            self.due.remove(&due);
        }
        if let Some(token) = pair.open {
            self.open.remove(&token);
        }
    }

    /// The publisher has judged a subscriber.
    fn judge(&mut self, now: Instant, token: &ChallengeToken, is_accepted: bool) {
        let Some(open) = self.open.remove(token) else { return };
        let Some(pair) = self.pair_mut(&open.topic, &open.subscriber) else { return };
        pair.is_accepted = is_accepted;
        pair.open = None;
        pair.retry_after = RETRY_FIRST;
        if std::mem::take(&mut pair.again) {
            self.make_due(&open.topic, &open.subscriber, now);
        }
    }

    /// Its keys may have changed: makes all pairs due. Who is accepted stays so until refused.
    fn renew(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (topic, pairs) in &mut self.topics {
            // Those for whom there was no room may have it now.
            pairs.seen = None;
            for (subscriber, pair) in &mut pairs.pairs {
                pair.retry_after = RETRY_FIRST;
                if pair.open.is_some() {
                    pair.again = true;
                } else {
                    due.push((topic.clone(), subscriber.clone()));
                }
            }
        }
        self.seen = None;
        for (topic, subscriber) in due {
            self.make_due(&topic, &subscriber, now);
        }
    }

    /// Makes pairs due whose challenge was not answered in time; gives how many. Of the publisher's link so many bytes were
    /// taken.
    fn end_unanswered(&mut self, now: Instant, taken: u64, requests: &Requests) -> u64 {
        let retry_last = if self.is_2x { RETRY_LAST_2X } else { RETRY_LAST };
        let is_over = |open: &PublisherChallenge| open.is_over(now, requests);
        let ended: Vec<ChallengeToken> =
            self.open.iter().filter(|(_, open)| is_over(open)).map(|(token, _)| *token).collect();
        for token in &ended {
            let Some(open) = self.open.remove(token) else { continue };
            let Some(pair) = self.pair_mut(&open.topic, &open.subscriber) else { continue };
            pair.open = None;
            pair.again = false;
            let at = open.since + pair.retry_after;
            // A publisher that does not have the 0x37 yet is slow, and nobody has failed to answer.
            if open.asked_end.is_none_or(|end| end <= taken) {
                pair.retry_after = (2 * pair.retry_after).min(retry_last);
            }
            self.make_due(&open.topic, &open.subscriber, at);
        }
        ended.len() as u64
    }
}

impl Publisher {
    /// For checks: its pairs, counted anew.
    pub(super) fn pairs_len(&self) -> usize {
        self.topics.values().map(|pairs| pairs.pairs.len()).sum()
    }

    /// For checks: challenges that no pair has, or pairs that are due and will not be looked at, or the other way round.
    pub(super) fn miscount(&self) -> Option<String> {
        let pairs = || self.topics.values().flat_map(|pairs| pairs.pairs.values());
        let open = pairs().filter_map(|pair| pair.open);
        let due = pairs().filter_map(|pair| pair.due);
        let counted = (self.open.len(), self.due.len());
        let anew = (
            open.filter(|token| self.open.contains_key(token)).count(),
            due.filter(|due| self.due.contains_key(due)).count(),
        );
        let told =
            || format!("{counted:?} challenges are open and pairs due at a publisher, and {anew:?} of pairs");
        (counted != anew).then(told)
    }
}

/// The publishers of a shard.
///
/// # Invariants
/// - `pairs` are those of all of them.
#[derive(Default)]
pub(super) struct Publishers {
    /// By link index.
    pub(super) by_link: BTreeMap<u32, Publisher>,
    pub(super) pairs: usize,
    pub(super) next_look: Option<Instant>,
}

impl Parts {
    /// A session took markers, or dropped them.
    pub(super) fn change_markers(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        (index, key, session): (u32, LinkKey, SessionId),
        changes: &[(Topic, bool)],
    ) {
        for (marker, holds) in changes {
            let Some(topic) = data_topic_of_marker(marker.as_str()).and_then(Topic::new) else { continue };
            if *holds {
                let hashing = &cx.hashing;
                let is_2x = self.peer_2x_mut(key).is_some();
                self.publishers
                    .by_link
                    .entry(index)
                    .or_insert_with(|| Publisher::new(session, key, is_2x, hashing.clone()))
                    .topics
                    .entry(topic)
                    .or_default();
                self.publishers.next_look.get_or_insert(cx.now + LOOK_INTERVAL);
            } else if let Some(publisher) = self.publishers.by_link.get_mut(&index)
                && let Some(dropped) = publisher.topics.remove(&topic)
            {
                self.publishers.pairs -= dropped.pairs.len();
                cx.counters.pairs.set(self.publishers.pairs as u64);
                for pair in dropped.pairs.values() {
                    publisher.remove_pair(pair);
                }
                if publisher.topics.is_empty() {
                    self.publishers.by_link.remove(&index);
                }
            }
        }
    }

    /// A session said what it subscribes to. If that holds markers, everybody is challenged anew at the next
    /// look.
    pub(super) fn renew_publisher(&mut self, index: u32) {
        if let Some(publisher) = self.publishers.by_link.get_mut(&index) {
            publisher.is_renewed = true;
        }
    }

    pub(super) fn look_at_publishers(&mut self, cx: &mut Context<'_, impl Outbound>) {
        let indices: Vec<u32> = self.publishers.by_link.keys().copied().collect();
        for index in indices {
            if let Some(publisher) = self.publishers.by_link.get_mut(&index)
                && std::mem::take(&mut publisher.is_renewed)
            {
                publisher.renew(cx.now);
            }
            self.look_at_publisher(cx, index);
        }
        self.publishers.next_look = (!self.publishers.by_link.is_empty()).then(|| cx.now + LOOK_INTERVAL);
    }

    /// Notes who subscribes now, ends what was not answered, and challenges who is due.
    fn look_at_publisher(&mut self, cx: &mut Context<'_, impl Outbound>, index: u32) {
        self.note_subscribers(cx, index);
        let Some(publisher) = self.publishers.by_link.get_mut(&index) else { return };
        let taken = cx.out.progress(publisher.key).map_or(u64::MAX, |progress| progress.taken);
        cx.counters.challenges_unanswered.add(publisher.end_unanswered(cx.now, taken, &self.requests));
        self.end_turns(cx, index);
        let Some(publisher) = self.publishers.by_link.get_mut(&index) else { return };
        let mut challenges = Vec::new();
        while publisher.open.len() < OPEN_MAX
            && let Some((topic, subscriber)) = publisher.pop_due(cx.now)
        {
            let session = publisher.session;
            let Some(pair) = publisher.pair_mut(&topic, &subscriber) else { continue };
            let (number, token) = (cx.secret_rng.number(), cx.secret_rng.bytes());
            pair.due = None;
            pair.open = Some(token);
            let open_for = pair.retry_after.min(OPEN_FOR_MAX);
            let open = PublisherChallenge {
                topic: topic.clone(),
                subscriber: subscriber.clone(),
                number,
                since: cx.now,
                until: cx.now + open_for,
                open_for,
                is_asked: false,
                asked_end: None,
                carried_by: None,
                is_accepted: false,
                is_answered: false,
            };
            publisher.open.insert(token, open);
            let Subscriber { node, number: subscriber } = subscriber;
            let publisher = session;
            let challenge = Challenge { topic, number, token, subscriber, publisher, node: None, open_for };
            challenges.push((node, challenge));
        }
        for (node, challenge) in challenges {
            self.announce_challenge(cx, node, challenge);
        }
    }

    /// Tells the challenge broker of the subscriber's node.
    fn announce_challenge(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        node: Option<NodeRef>,
        challenge: Challenge,
    ) {
        if let Some(node) = node {
            let Challenge { topic, number, token, subscriber, publisher, open_for, .. } = challenge;
            let (subscriber, publisher) = (subscriber.0, publisher.0);
            let notice = Notice::Challenge { token, number, subscriber, publisher, open_for, topic };
            return self.send_notice(cx, node.id, notice);
        }
        let challenge = Box::new(challenge);
        self.send_to_reactor(cx, CHALLENGE_BROKER, MeshMessage::OpenChallenge { challenge }, FrameRef::EMPTY);
    }

    /// Makes the pairs of a publisher those of the subscribers that there are.
    pub(super) fn note_subscribers(&mut self, cx: &mut Context<'_, impl Outbound>, index: u32) {
        let snapshot = cx.shared.snapshot.load();
        let Some(publisher) = self.publishers.by_link.get_mut(&index) else { return };
        if publisher.seen == Some(snapshot.private_version) {
            return;
        }
        publisher.seen = Some(snapshot.private_version);
        let topics: Vec<Topic> = publisher.topics.keys().cloned().collect();
        for topic in topics {
            let Some(pairs) = publisher.topics.get_mut(&topic) else { continue };
            let entry = snapshot.private(topic.as_str());
            let is_same = match (&pairs.seen, entry) {
                (Some(seen), Some(entry)) => Arc::ptr_eq(seen, entry),
                (None, None) => pairs.pairs.is_empty(),
                _ => false,
            };
            if is_same {
                continue;
            }
            pairs.seen = entry.cloned();
            let before = pairs.pairs.len();
            // A publisher that subscribes as well is not sent challenges of its own.
            let subscribers = &self.subscribers;
            let is_other = |number: SubscriberId| subscribers.index_of(number, topic.as_str()) != Some(index);
            // From one node of FISCO BCOS 2.x to another nothing passes, and from here to there what is named.
            let is_2x = publisher.is_2x;
            let settings = &cx.shared.settings;
            let passes = |number: SubscriberId| {
                !number.is_of_2x() || (!is_2x && settings.private_over_2x.contains(topic.as_str()))
            };
            let there: BTreeSet<Subscriber> = entry
                .into_iter()
                .flat_map(|entry| subscribers_of(entry))
                .filter(|subscriber| subscriber.node.is_some() || is_other(subscriber.number))
                .filter(|subscriber| passes(subscriber.number))
                .collect();
            let gone: Vec<Subscriber> =
                pairs.pairs.keys().filter(|&subscriber| !there.contains(subscriber)).cloned().collect();
            let gone: Vec<Pair> =
                gone.iter().filter_map(|subscriber| pairs.pairs.remove(subscriber)).collect();
            let new: Vec<Subscriber> =
                there.into_iter().filter(|subscriber| !pairs.pairs.contains_key(subscriber)).collect();
            let room = (cx.shared.settings.tables.of(PAIRS_MAX) + before)
                .saturating_sub(self.publishers.pairs + pairs.pairs.len());
            if new.len() > room {
                cx.counters.pairs_over_bound.add((new.len() - room) as u64);
                debug!(%topic, "too many pairs of publishers and subscribers: some are not challenged");
            }
            let new = &new[..new.len().min(room)];
            for subscriber in new {
                let pair = Pair {
                    is_accepted: false,
                    due: None,
                    open: None,
                    again: false,
                    retry_after: RETRY_FIRST,
                };
                pairs.pairs.insert(subscriber.clone(), pair);
            }
            self.publishers.pairs = self.publishers.pairs + pairs.pairs.len() - before;
            for pair in &gone {
                publisher.remove_pair(pair);
            }
            for subscriber in new {
                publisher.make_due(&topic, subscriber, cx.now);
            }
        }
        cx.counters.pairs.set(self.publishers.pairs as u64);
    }

    fn publisher_mut(&mut self, session: SessionId) -> Option<&mut Publisher> {
        let index = self.sessions.indices.get(&session)?;
        self.publishers.by_link.get_mut(index)
    }

    /// The subscriber's node knows of a challenge: the publisher is asked.
    pub(super) fn challenge_opened(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: SessionId,
        token: &ChallengeToken,
        node: Option<&NodeId>,
    ) {
        let seq = cx.fresh_seq();
        let own = cx.shared.id;
        let Some(publisher) = self.publisher_mut(session) else { return };
        let key = publisher.key;
        let open = publisher.open.get_mut(token);
        let Some(open) = open.filter(|open| !open.is_asked && open.is_at(node)) else { return };
        let node = node.unwrap_or(&own);
        let Some(route) = MintedTopic::new(open.topic.as_str(), node, open.number).to_topic() else {
            // So long a name has no room for a route topic, a subscriber's own neither.
            return;
        };
        open.is_asked = true;
        if publisher.is_2x {
            let topic = open.topic.clone();
            publisher.offer_route(&topic, route);
            return self.tell_changed_offers(cx, key);
        }
        let body = json::topic_certification(node, token, open.topic.as_str(), route.as_str());
        let frame = sdk::encode(FrameType::TOPIC_CERTIFICATION, &seq, ResultCode::OK, body.as_bytes());
        let Ok(queued) = cx.out.send(key, Class::Control, &frame, FrameRef::EMPTY) else {
            cx.counters.dropped_queue_full.increment();
            return;
        };
        open.asked_end = queued.is_behind.then_some(queued.end);
        cx.counters.challenges.increment();
        cx.counters.sdk_frames_sent.increment();
    }

    /// A session has sent a unicast to a minted topic. If it is the publisher that was asked to, the challenge is not over
    /// before the request is: its subscriber may be slow.
    pub(super) fn note_challenge_sent(&mut self, index: u32, topic: &str, request: RequestId) {
        let Self { publishers, requests, .. } = self;
        let (Some(minted), Some(publisher)) =
            (MintedTopic::decode(topic), publishers.by_link.get_mut(&index))
        else {
            return;
        };
        let is_asked = |open: &&mut PublisherChallenge| open.is_asked && open.is_minted(&minted);
        let Some(open) = publisher.open.values_mut().find(is_asked) else { return };
        if !open.carried_by.is_some_and(|before| requests.is_open(before)) {
            open.carried_by = Some(request);
        }
    }

    /// The challenged session has answered.
    pub(super) fn challenge_answered(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: SessionId,
        token: &ChallengeToken,
        node: Option<&NodeId>,
    ) {
        let Some(publisher) = self.publisher_mut(session) else { return };
        let open = publisher.open.get_mut(token);
        let Some(open) = open.filter(|open| open.is_at(node)) else { return };
        open.note_answered(cx.now);
        if publisher.is_2x && open.is_asked {
            // The verdict is a matter of its node, which sends nothing before it.
            let topic = open.topic.clone();
            publisher.note_turn_answered(&topic, cx.now);
            return publisher.judge(cx.now, token, true);
        }
        if open.is_accepted {
            publisher.judge(cx.now, token, true);
            cx.counters.verdicts_positive.increment();
            if let Some(&index) = self.sessions.indices.get(&session) {
                self.look_at_publisher(cx, index);
            }
        }
    }

    /// A node has answered a unicast of a publisher. If that was its challenge, its subscriber there has answered, though
    /// what that node tells of it may be lost on the way.
    pub(super) fn note_challenge_answered(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        index: u32,
        node: &NodeId,
        answer: FrameRef<'_>,
    ) {
        let body = answer.head().get(HEADER_LEN..).and_then(|body| AmopBody::decode(body).ok());
        let minted = body.and_then(|body| MintedTopic::decode(body.topic));
        let (Some(minted), Some(publisher)) = (minted, self.publishers.by_link.get(&index)) else { return };
        let token = publisher.open.iter().find(|(_, open)| open.is_minted(&minted)).map(|(token, _)| *token);
        if let Some(token) = token {
            self.challenge_answered(cx, publisher.session, &token, Some(node));
        }
    }

    /// A 0x38 from a session.
    pub(super) fn handle_verdict(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let body = frame.advance(HEADER_LEN);
        let status = (body.len() <= STATUS_LEN_MAX).then(|| TopicStatus::decode(body.head())).flatten();
        let Some(status) = status else { return cx.counters.verdicts_ignored.increment() };
        // Only what this very session was asked, and once.
        let Self { publishers, requests, .. } = self;
        let open = publishers.by_link.get_mut(&key.index).and_then(|publisher| {
            publisher.open.get_mut(&status.token).filter(|open| {
                open.is_asked
                    && !open.is_accepted
                    && !open.is_over(cx.now, requests)
                    && open.topic.as_str() == status.topic
            })
        });
        let Some(open) = open else { return cx.counters.verdicts_ignored.increment() };
        if status.accepted && !open.is_answered {
            // Counts when the subscriber's node says that it answered; if it never does, not at all.
            open.is_accepted = true;
            return;
        }
        let counter = match status.accepted {
            true => &cx.counters.verdicts_positive,
            false => &cx.counters.verdicts_negative,
        };
        counter.increment();
        if let Some(publisher) = self.publishers.by_link.get_mut(&key.index) {
            publisher.judge(cx.now, &status.token, status.accepted);
        }
        self.look_at_publisher(cx, key.index);
    }

    /// Whom a message of a session with a private topic may reach: who is accepted and still there.
    pub(super) fn audience(&self, index: u32, topic: &str) -> Audience {
        let pairs = self.publishers.by_link.get(&index).and_then(|publisher| publisher.topics.get(topic));
        let accepted = pairs.into_iter().flat_map(|pairs| &pairs.pairs).filter(|(_, pair)| pair.is_accepted);
        let mut audience = Audience::default();
        for (subscriber, _) in accepted {
            match (&subscriber.node, audience.nodes.last_mut()) {
                (None, _) => audience.own.push(subscriber.number),
                (Some(node), Some((last, recipients))) if node == last => recipients.push(subscriber.number),
                (Some(node), _) => audience.nodes.push((node.clone(), vec![subscriber.number])),
            }
        }
        audience
    }
}

/// All subscribers of a private topic.
fn subscribers_of(entry: &PrivateEntry) -> impl Iterator<Item = Subscriber> {
    let own = entry.own.iter().map(|&number| Subscriber { node: None, number });
    let of_node = |(node, numbers): &(NodeRef, Arc<[SubscriberId]>)| {
        let node = node.clone();
        let numbers: Vec<SubscriberId> = numbers.to_vec();
        numbers.into_iter().map(move |number| Subscriber { node: Some(node.clone()), number })
    };
    own.chain(entry.nodes.iter().flat_map(of_node))
}

impl Common {
    fn fresh_seq(&mut self) -> Seq {
        let bytes: [u8; 32] = self.secret_rng.bytes();
        bytes.map(|byte| b"0123456789abcdef"[usize::from(byte & 15)])
    }
}
