//! Private topics as a subscriber's shard knows them: who subscribes under which number, and a challenge
//! at one of our sessions, until it answers (WIRE §4).
//!
//! # Invariants
//! - A number is in the table exactly as long as its session holds the data topic.
//! - A frame with a private topic reaches numbers that were named for it, and nobody else.

use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;

use super::{
    Context, Parts,
    multicast::FanOut,
    push::{NewPush, PushFor},
    request::RequestOf,
};
use crate::{
    relay::{Challenge, MeshMessage, Outbound, ReactorId, RegistryInput, SendError, SessionId, SubscriberId},
    wire::{
        FrameRef, NodeId, Topic, TopicKind,
        frame::HEAD_LEN_MAX,
        json::ChallengeToken,
        notice::Notice,
        sdk::{AmopBody, HEADER_LEN, Header},
        topic::data_topic_of_route,
    },
};

/// This shard's sessions that hold data topics. A node of FISCO BCOS 2.x is several of a topic's subscribers: one for each
/// route topic that it has told.
pub(super) struct Subscribers {
    by_number: AHashMap<SubscriberId, Held>,
    /// By link index, and data topic or the route topic of a node of FISCO BCOS 2.x.
    by_session: AHashMap<(u32, Topic), SubscriberId>,
    started: u64,
}

/// What a subscriber has.
struct Held {
    /// Of its link.
    index: u32,
    /// The data topic.
    topic: Topic,
    /// Under which it is challenged, if it is at a node of FISCO BCOS 2.x; else that is a matter of its session.
    route: Option<Topic>,
}

impl Subscribers {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self {
            by_number: AHashMap::with_hasher(hashing.clone()),
            by_session: AHashMap::with_hasher(hashing),
            started: 0,
        }
    }

    /// The session that holds a topic under a number, by its link index.
    pub(super) fn index_of(&self, number: SubscriberId, topic: &str) -> Option<u32> {
        self.by_number.get(&number).filter(|held| held.topic.as_str() == topic).map(|held| held.index)
    }

    /// The route topic of a subscriber at a node of FISCO BCOS 2.x.
    fn route_of_2x(&self, number: SubscriberId) -> Option<&Topic> {
        self.by_number.get(&number)?.route.as_ref()
    }

    /// A session holds a topic from now on, the one or the other.
    fn insert(&mut self, reactor: ReactorId, held: Held) -> SubscriberId {
        self.started += 1;
        let number = SubscriberId::new(reactor, self.started, held.route.is_some());
        let key = held.route.as_ref().unwrap_or(&held.topic).clone();
        self.by_session.insert((held.index, key), number);
        self.by_number.insert(number, held);
        number
    }

    /// It holds it no more.
    fn remove(&mut self, index: u32, topic: &Topic) -> Option<SubscriberId> {
        let number = self.by_session.remove(&(index, topic.clone()))?;
        self.by_number.remove(&number);
        Some(number)
    }

    /// For checks: those by session, and those by number.
    pub(super) fn counted(&self) -> (usize, usize) {
        (self.by_session.len(), self.by_number.len())
    }

    /// Under which number the session with that link index holds a topic.
    pub(super) fn number_of(&self, index: u32, topic: &str) -> Option<SubscriberId> {
        if TopicKind::of(topic.as_bytes()) != TopicKind::Data {
            return None;
        }
        self.by_session.get(&(index, Topic::new(topic)?)).copied()
    }
}

/// What an answer to a challenge is matched with.
pub(super) struct Presented {
    /// The session's own route topic, which it was asked under.
    own: Topic,
    /// The one that the publisher asked.
    minted: Topic,
    publisher: SessionId,
    /// The publisher's node, if it is another one.
    node: Option<NodeId>,
    token: ChallengeToken,
}

impl Parts {
    /// A session took data topics, or dropped them.
    pub(super) fn change_data_topics(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        index: u32,
        changes: &[(Topic, bool)],
    ) {
        let mut told = Vec::with_capacity(changes.len());
        for (topic, subscribes) in changes {
            let number = match *subscribes {
                true => {
                    let held = Held { index, topic: topic.clone(), route: None };
                    Some(self.subscribers.insert(cx.id, held))
                }
                false => self.subscribers.remove(index, topic),
            };
            told.extend(number.map(|number| (topic.clone(), number, *subscribes)));
        }
        if !told.is_empty() {
            cx.out.to_registry(RegistryInput::Subscribers { changes: told });
        }
    }

    /// Route topics of a node of FISCO BCOS 2.x came or went, each of which is a subscriber.
    pub(super) fn change_routes_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        index: u32,
        changes: Vec<(Topic, bool)>,
    ) {
        let mut told = Vec::new();
        for (route, subscribes) in changes {
            let Some(topic) = data_topic_of_route(route.as_str()).and_then(Topic::new) else { continue };
            let number = match subscribes {
                true => {
                    let held = Held { index, topic: topic.clone(), route: Some(route) };
                    Some(self.subscribers.insert(cx.id, held))
                }
                false => self.subscribers.remove(index, &route),
            };
            told.extend(number.map(|number| (topic, number, subscribes)));
        }
        if !told.is_empty() {
            cx.out.to_registry(RegistryInput::Subscribers { changes: told });
        }
    }

    /// Pushes a challenge to the challenged session alone, under its own route topic. `false` if it cannot
    /// take it.
    pub(super) fn present(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        request: RequestOf,
        sender: Option<SessionId>,
        challenge: &Challenge,
        frame: FrameRef<'_>,
    ) -> bool {
        let head = frame.head();
        let (Some(header), Ok(body)) = (Header::decode(head), AmopBody::decode(&head[HEADER_LEN..])) else {
            return false;
        };
        let (Some(minted), Some(index)) = (
            Topic::new(body.topic),
            self.subscribers.index_of(challenge.subscriber, challenge.topic.as_str()),
        ) else {
            return false;
        };
        if self.pushes.len() >= cx.shared.settings.pending_pushes_max {
            return false;
        }
        let seq = cx.seq_key(&header.seq);
        let of_2x = self.subscribers.route_of_2x(challenge.subscriber).cloned();
        let Some(session) = self.session_at(index) else { return false };
        let own = of_2x.or_else(|| session.subscription.route_topic(challenge.topic.as_str()));
        let Some(own) = own else { return false };
        if sender == Some(session.id) || session.pushes.contains_key(&seq) {
            return false;
        }
        let front = topic_in_front(&header, &own);
        let payload = frame.advance(HEADER_LEN + body.payload_offset);
        let Ok(queued) = session.send_data_behind(cx, &front, payload) else {
            cx.counters.dropped_queue_full.increment();
            return false;
        };
        let Challenge { publisher, node, token, .. } = *challenge;
        let presented = Presented { own, minted, publisher, node, token };
        let presented = PushFor::Challenge(Box::new(presented));
        let push = NewPush { request, seq, what: presented };
        self.note_push(cx, index, push, queued);
        cx.counters.challenges_presented.increment();
        true
    }

    /// A challenged session has answered: tells so, and gives the answer under the minted topic.
    pub(super) fn take_challenge_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        presented: &Presented,
        frame: FrameRef<'_>,
    ) -> Option<Vec<u8>> {
        let Presented { publisher, token, .. } = *presented;
        if let Some(node) = presented.node {
            self.send_notice(cx, node, Notice::Answered { publisher: publisher.0, token });
        } else {
            let answered = MeshMessage::ChallengeAnswered { publisher, token, node: None };
            self.send_to_reactor(cx, publisher.reactor(), answered, FrameRef::EMPTY);
        }
        // Nobody signs as much as this; it goes back as it is.
        if frame.len() > HEAD_LEN_MAX {
            return None;
        }
        let head = frame.head();
        let header = Header::decode(head)?;
        let body = AmopBody::decode(head.get(HEADER_LEN..)?).ok()?;
        if body.topic != presented.own.as_str() {
            return None;
        }
        let mut answer = topic_in_front(&header, &presented.minted).to_vec();
        answer.extend_from_slice(&head[HEADER_LEN + body.payload_offset..]);
        Some(answer)
    }

    /// Copies of a multicast to those of this shard's subscribers that are named.
    pub(super) fn deliver_private_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        audience: &[SubscriberId],
        frame: FrameRef<'_>,
        fan_out: &mut FanOut,
    ) {
        let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) else { return };
        if body.kind() != TopicKind::Data {
            return;
        }
        let mut nodes_2x: SmallVec<[u32; 4]> = SmallVec::new();
        for &number in audience {
            let Some(index) = self.subscribers.index_of(number, body.topic) else {
                cx.counters.dropped_unauthorised.increment();
                continue;
            };
            // One copy for all who have proved themselves at one node of FISCO BCOS 2.x.
            if number.is_of_2x() && nodes_2x.contains(&index) {
                continue;
            }
            nodes_2x.extend(number.is_of_2x().then_some(index));
            let Some(session) = self.session_at(index) else { continue };
            match session.send_data(cx, frame) {
                Ok(_) => {
                    session.last_activity = cx.now;
                    fan_out.queued += 1;
                    cx.counters.deliveries.increment();
                    cx.counters.sdk_frames_sent.add(u64::from(!number.is_of_2x()));
                }
                Err(SendError::Full) => {
                    fan_out.note_dropped(session.id);
                    cx.counters.dropped_queue_full.increment();
                    if let Some(session) = self.session_at(index) {
                        session.dropped_copies += 1;
                    }
                    if cx.common.logs.queue_full.admits(cx.now)
                        && let Some(session) = self.session_at(index)
                    {
                        session.warn_queue_full();
                    }
                }
                Err(SendError::Gone) => {}
            }
        }
    }
}

/// Header, topic length and another topic of the same length, for a frame whose length stays.
fn topic_in_front(header: &Header, topic: &Topic) -> SmallVec<[u8; 320]> {
    let mut front = SmallVec::new();
    front.extend_from_slice(&header.encode());
    front.push(topic.as_str().len() as u8 + 1);
    front.extend_from_slice(topic.as_str().as_bytes());
    front
}
