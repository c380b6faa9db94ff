//! Private topics as a subscriber's shard knows them: who subscribes under which number, and a challenge
//! at one of our sessions, until it answers (WIRE §4).
//!
//! # Invariants
//! - A number is in the table exactly as long as its session holds the data topic.
//! - A frame with a private topic reaches numbers that were named for it, and nobody else.

use ahash::{AHashMap, RandomState};
use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Context, Parts,
    challenge_broker::CHALLENGE_BROKER,
    multicast::FanOut,
    push::{NewPush, PushFor},
    request::RequestOf,
};
use crate::{
    relay::{
        Challenge, MeshMessage, Outbound, RegistryInput, SendError, SessionId, SubscriberId, home_reactor,
        ping::PathEnded, sealing::Subject,
    },
    wire::{
        FrameRef, NodeId, Topic, TopicKind,
        announcement::{self, Announcement},
        frame::HEAD_LEN_MAX,
        json::ChallengeToken,
        node::PacketType,
        private::Notice,
        sdk::{AmopBody, HEADER_LEN, Header},
    },
};

/// This shard's sessions that hold data topics.
pub(super) struct Subscribers {
    /// Link index and topic.
    by_number: AHashMap<SubscriberId, (u32, Topic)>,
    by_session: AHashMap<(u32, Topic), SubscriberId>,
    started: u64,
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
        self.by_number.get(&number).filter(|(_, held)| held.as_str() == topic).map(|(index, _)| *index)
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
            let key = (index, topic.clone());
            let number = if *subscribes {
                self.subscribers.started += 1;
                let number = SubscriberId(u64::from(cx.id.0) << 48 | self.subscribers.started);
                self.subscribers.by_number.insert(number, key.clone());
                self.subscribers.by_session.insert(key, number);
                number
            } else {
                let Some(number) = self.subscribers.by_session.remove(&key) else { continue };
                self.subscribers.by_number.remove(&number);
                number
            };
            told.push((topic.clone(), number, *subscribes));
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
        let Some(session) = self.session_at(index) else { return false };
        let Some(own) = session.subscription.route_topic(challenge.topic.as_str()) else { return false };
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

    /// Sends a node a notice. One about a challenge that is lost with its link is made up for by the next
    /// challenge; a question or answer about a message or a way is missed by who asked.
    pub(super) fn send_notice(&mut self, cx: &mut Context<'_, impl Outbound>, node: NodeId, notice: Notice) {
        if !cx.shared.admits(&node) {
            return;
        }
        let home = home_reactor(&node, cx.shared.reactors);
        if home == cx.id {
            let notice = notice.encode();
            if self.neighbours.by_id.get(&node).is_some_and(|neighbour| neighbour.active.is_some()) {
                return self.send_state(cx, &node, PacketType::BROADCAST, None, &notice);
            }
            let subject = Subject { packet_type: PacketType::BROADCAST, seq: cx.next_message() };
            if cx.has_indirect_route(&node, 0) {
                self.send_sealed_control(cx, &node, subject, &notice);
            }
        } else {
            let message = MeshMessage::SendNotice { node, notice: Box::new(notice) };
            cx.out.to_reactor(home, message, FrameRef::EMPTY);
        }
    }

    /// A node tells about a challenge, or asks or tells about a message or a way.
    pub(super) fn handle_notice(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        peer: &NodeId,
        payload: FrameRef<'_>,
    ) {
        if !cx.shared.admits(peer) {
            return cx.counters.not_admitted.increment();
        }
        if Announcement::is_one(payload.head()) {
            return cx.pass_announcement(peer, payload);
        }
        let Some(notice) = Notice::decode(payload.head()) else {
            return cx.counters.unknown_packets.increment();
        };
        let reactors = cx.shared.reactors;
        let (to, message) = match notice {
            Notice::Trace { question, seq } => {
                return self.handle_trace_question(cx, peer, question, &seq);
            }
            Notice::Traced(part) => return cx.handle_trace_part(peer, *part),
            Notice::Ping { number } => return self.handle_ping(cx, peer, number),
            Notice::Pong { number } => return self.handle_pong(cx, peer, number),
            Notice::AnswerBegun { message, len } => {
                return self.handle_answer_begun_elsewhere(cx, peer, (message, len));
            }
            Notice::PathEnded { seq, why, destination, tag } => {
                return self.handle_path_ended(cx, peer, PathEnded { seq, why, destination, tag });
            }
            Notice::Challenge { token, number, subscriber, publisher, open_for, topic } => {
                let challenge = Box::new(Challenge {
                    topic,
                    number,
                    token,
                    subscriber: SubscriberId(subscriber),
                    publisher: SessionId(publisher),
                    node: Some(*peer),
                    open_for,
                });
                (CHALLENGE_BROKER, MeshMessage::OpenChallenge { challenge })
            }
            Notice::Opened { publisher, token } => {
                let publisher = SessionId(publisher);
                let node = Some(Box::new(*peer));
                (publisher.reactor(), MeshMessage::ChallengeOpened { publisher, token, node })
            }
            Notice::Answered { publisher, token } => {
                let publisher = SessionId(publisher);
                let node = Some(Box::new(*peer));
                (publisher.reactor(), MeshMessage::ChallengeAnswered { publisher, token, node })
            }
        };
        // The number of a session that never was names any reactor.
        if to.0 < reactors {
            self.send_to_reactor(cx, to, message, FrameRef::EMPTY);
        }
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
        for &number in audience {
            let Some(index) = self.subscribers.index_of(number, body.topic) else {
                cx.counters.dropped_unauthorised.increment();
                continue;
            };
            let Some(session) = self.session_at(index) else { continue };
            match session.send_data(cx, frame) {
                Ok(_) => {
                    session.last_activity = cx.now;
                    fan_out.queued += 1;
                    cx.counters.deliveries.increment();
                    cx.counters.sdk_frames_sent.increment();
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

impl<O: Outbound> Context<'_, O> {
    /// The registry judges announcements: of a neighbour, over a link of ours, for they go from neighbour to neighbour.
    fn pass_announcement(&mut self, peer: &NodeId, payload: FrameRef<'_>) {
        let head = payload.head();
        let payload = Bytes::copy_from_slice(&head[..head.len().min(announcement::LEN_MAX)]);
        let (from, packet_type) = (*peer, PacketType::BROADCAST);
        if !self.tell_registry(RegistryInput::State { from, packet_type, seq: 0, payload }) {
            self.counters.state_refused.increment();
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
