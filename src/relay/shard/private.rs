//! Private topics as a subscriber's shard knows them: who subscribes under which number, and a challenge
//! at one of our sessions, until it answers (WIRE §4).
//!
//! # Invariants
//! - A number is in the table exactly as long as its session holds the data topic.
//! - A frame with a private topic reaches numbers that were named for it, and nobody else.

use std::time::Instant;

use ahash::{AHashMap, RandomState};
use bytes::Bytes;
use smallvec::SmallVec;

use super::{Shard, desk::DESK, multicast::Copies, push::PushFor};
use crate::{
    relay::{
        Challenge, MeshMessage, Outbound, ReactorId, RegistryInput, RequestId, SendError, SessionId,
        SubscriberId, home_reactor, sealing::Subject,
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

impl Shard {
    /// A session took data topics, or dropped them.
    pub(super) fn change_data_topics(
        &mut self,
        index: u32,
        changes: &[(Topic, bool)],
        out: &mut impl Outbound,
    ) {
        let mut told = Vec::with_capacity(changes.len());
        for (topic, subscribes) in changes {
            let key = (index, topic.clone());
            let number = if *subscribes {
                self.subscribers.started += 1;
                let number = SubscriberId(u64::from(self.id.0) << 48 | self.subscribers.started);
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
            out.to_registry(RegistryInput::Subscribers { changes: told });
        }
    }

    /// Pushes a challenge to the challenged session alone, under its own route topic. `false` if it cannot
    /// take it.
    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn present(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        sender: Option<SessionId>,
        challenge: &Challenge,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
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
        if self.pushes >= self.shared.settings.pending_pushes_max {
            return false;
        }
        let seq = self.seq_key(&header.seq);
        let Some(session) = self.session_at(index) else { return false };
        let Some(own) = session.route_topic(challenge.topic.as_str()) else { return false };
        if sender == Some(session.id) || session.pushes.contains_key(&seq) {
            return false;
        }
        let front = topic_in_front(&header, &own);
        let payload = frame.advance(HEADER_LEN + body.payload_offset);
        let Ok(queued) = session.send_data_behind(&front, payload, out) else {
            self.counters.dropped_queue_full.increment();
            return false;
        };
        let Challenge { publisher, node, token, .. } = *challenge;
        let presented = Presented { own, minted, publisher, node, token };
        let presented = PushFor::Challenge(Box::new(presented));
        self.note_push(now, index, &seq, (coordinator, request), presented, queued, out);
        self.counters.challenges_presented.increment();
        true
    }

    /// A challenged session has answered: tells so, and gives the answer under the minted topic.
    pub(super) fn take_challenge_answer(
        &mut self,
        now: Instant,
        presented: &Presented,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> Option<Vec<u8>> {
        let Presented { publisher, token, .. } = *presented;
        if let Some(node) = presented.node {
            self.send_notice(now, node, Notice::Answered { publisher: publisher.0, token }, out);
        } else if publisher.reactor() == self.id {
            self.challenge_answered(now, publisher, &token, None, out);
        } else {
            let answered = MeshMessage::ChallengeAnswered { publisher, token, node: None };
            out.to_reactor(publisher.reactor(), answered, FrameRef::Slice(&[]));
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
    pub(super) fn send_notice(
        &mut self,
        now: Instant,
        node: NodeId,
        notice: Notice,
        out: &mut impl Outbound,
    ) {
        if !self.shared.admits(&node) {
            return;
        }
        let home = home_reactor(&node, self.shared.reactors);
        if home == self.id {
            let notice = notice.encode();
            if self.neighbours.get(&node).is_some_and(|neighbour| neighbour.active.is_some()) {
                return self.send_state(now, &node, PacketType::BROADCAST, None, &notice, out);
            }
            let subject = Subject { packet_type: PacketType::BROADCAST, seq: self.next_message() };
            if self.has_way_around(&node, 0) {
                self.send_sealed_control(now, &node, subject, &notice, out);
            }
        } else {
            let message = MeshMessage::SendNotice { node: Box::new(node), notice: Box::new(notice) };
            out.to_reactor(home, message, FrameRef::Slice(&[]));
        }
    }

    /// A node tells about a challenge, or asks or tells about a message or a way.
    pub(super) fn handle_notice(
        &mut self,
        now: Instant,
        peer: &NodeId,
        payload: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        if !self.shared.admits(peer) {
            return self.counters.not_admitted.increment();
        }
        if Announcement::is_one(payload.head()) {
            return self.pass_announcement(peer, payload, out);
        }
        let Some(notice) = Notice::decode(payload.head()) else {
            return self.counters.unknown_packets.increment();
        };
        let reactors = self.shared.reactors;
        let (to, message) = match notice {
            Notice::Trace { question, seq } => {
                return self.handle_trace_question(now, peer, question, &seq, out);
            }
            Notice::Traced(part) => return self.handle_trace_part(now, peer, *part, out),
            Notice::Ping { number } => return self.handle_ping(now, peer, number, out),
            Notice::Pong { number } => return self.handle_pong(now, peer, number, out),
            Notice::AnswerBegun { message, len } => {
                return self.handle_answer_begun_elsewhere(now, peer, (message, len), out);
            }
            Notice::WayEnded { seq, why, destination, tag } => {
                return self.handle_way_ended(now, peer, (seq, why, destination, tag), out);
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
                if self.id == DESK {
                    return self.open_challenge(now, challenge, out);
                }
                (DESK, MeshMessage::OpenChallenge { challenge })
            }
            Notice::Opened { publisher, token } => {
                let publisher = SessionId(publisher);
                if publisher.reactor() == self.id {
                    return self.challenge_opened(publisher, &token, Some(peer), out);
                }
                let node = Some(Box::new(*peer));
                (publisher.reactor(), MeshMessage::ChallengeOpened { publisher, token, node })
            }
            Notice::Answered { publisher, token } => {
                let publisher = SessionId(publisher);
                if publisher.reactor() == self.id {
                    return self.challenge_answered(now, publisher, &token, Some(peer), out);
                }
                let node = Some(Box::new(*peer));
                (publisher.reactor(), MeshMessage::ChallengeAnswered { publisher, token, node })
            }
        };
        // The number of a session that never was names any reactor.
        if to.0 < reactors {
            out.to_reactor(to, message, FrameRef::Slice(&[]));
        }
    }

    /// The registry judges announcements: of a neighbour, over a link of ours, for they go from neighbour to neighbour.
    fn pass_announcement(&mut self, peer: &NodeId, payload: FrameRef<'_>, out: &mut impl Outbound) {
        let head = payload.head();
        let payload = Bytes::copy_from_slice(&head[..head.len().min(announcement::LEN_MAX)]);
        let (from, packet_type) = (*peer, PacketType::BROADCAST);
        if !self.to_registry(RegistryInput::State { from, packet_type, seq: 0, payload }, out) {
            self.counters.state_refused.increment();
        }
    }

    /// Copies of a multicast to those of this shard's subscribers that are named.
    pub(super) fn deliver_private_multicast(
        &mut self,
        now: Instant,
        audience: &[SubscriberId],
        frame: FrameRef<'_>,
        copies: &mut Copies,
        out: &mut impl Outbound,
    ) {
        let Ok(body) = AmopBody::decode(&frame.head()[HEADER_LEN..]) else { return };
        if body.kind() != TopicKind::Data {
            return;
        }
        for &number in audience {
            let Some(index) = self.subscribers.index_of(number, body.topic) else {
                self.counters.dropped_unauthorised.increment();
                continue;
            };
            let Some(session) = self.session_at(index) else { continue };
            match session.send_data(frame, out) {
                Ok(_) => {
                    session.last_activity = now;
                    copies.queued += 1;
                    self.counters.deliveries.increment();
                    self.counters.sdk_frames_sent.increment();
                }
                Err(SendError::Full) => {
                    copies.note_dropped(session.id);
                    self.counters.dropped_queue_full.increment();
                    if let Some(session) = self.session_at(index) {
                        session.dropped_copies += 1;
                    }
                    if self.logs.queue_full.admits(now)
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
