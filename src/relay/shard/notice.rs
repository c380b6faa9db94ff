//! Notices: what nodes tell each other in Broadcasts about challenges, long answers, and for diagnostics.

use bytes::Bytes;

use super::{Context, Parts, challenge_broker::CHALLENGE_BROKER};
use crate::{
    relay::{
        Challenge, MeshMessage, Outbound, RegistryInput, SessionId, SubscriberId, home_reactor,
        sealing::Subject,
    },
    wire::{
        FrameRef, NodeId,
        announcement::{self, Announcement},
        node::PacketType,
        notice::Notice,
    },
};

impl Parts {
    /// Sends a node a notice. One about a challenge that is lost with its link is made up for by the next
    /// challenge; one of a diagnostic is missed by who asked.
    pub(super) fn send_notice(&mut self, cx: &mut Context<'_, impl Outbound>, node: NodeId, notice: Notice) {
        if !cx.shared.admits(&node) {
            return;
        }
        let home = home_reactor(&node, cx.shared.reactors);
        if home == cx.id {
            if matches!(notice, Notice::PathEnded(_)) && !self.admits_path_ended(cx, &node) {
                return;
            }
            let notice = notice.encode();
            if self.peers.link_to(&node).is_some() {
                return self.send_state(cx, &node, PacketType::BROADCAST, None, &notice);
            }
            let subject = Subject { packet_type: PacketType::BROADCAST, message: cx.next_message() };
            if cx.has_indirect_route(&node, 0) {
                self.send_sealed_control(cx, &node, subject, &notice);
            }
        } else {
            let message = MeshMessage::SendNotice { node, notice: Box::new(notice) };
            cx.out.to_reactor(home, message, FrameRef::EMPTY);
        }
    }

    /// A notice has come, over whatever links, to the home of its sender.
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
            Notice::Request(request) => return self.handle_diagnostic_request(cx, peer, request),
            Notice::Reply(reply) => return self.handle_diagnostic_reply(cx, peer, &reply),
            Notice::PathEnded(ended) => {
                let peer_of = self.peers.get_mut(peer);
                return match peer_of.is_some_and(|peer| peer.admits_path_end(cx.now)) {
                    true => self.handle_path_ended(cx, peer, ended),
                    false => cx.counters.ping_answers_ignored.increment(),
                };
            }
            Notice::AnswerBegun { message, len } => {
                return self.handle_answer_begun_elsewhere(cx, peer, (message, len));
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

    /// A notice that its sender's home has passed to this reactor.
    pub(super) fn take_notice(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        from: &NodeId,
        notice: &Notice,
    ) {
        match notice {
            Notice::Request(request) => self.reply_for_reactor(cx, from, request),
            Notice::PathEnded(ended) => self.handle_path_ended(cx, from, *ended),
            _ => debug_assert!(false, "{notice:?} is for the home of its sender"),
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
