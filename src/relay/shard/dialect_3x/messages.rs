//! Requests, multicasts and answers of applications of FISCO BCOS 3.x, and to them.

use smallvec::SmallVec;

use super::{Context, FRAME_LEN_MAX, MESSAGE_LEN_MAX, Parts};
use crate::{
    relay::{
        Class, LinkKey, Outbound, Queued, SMALL_REPLY_LEN_MAX, SendError,
        shard::{
            push::Push,
            request::{Refused, answer_frame},
            session::Session,
        },
    },
    wire::{
        FrameRef, ResultCode, RetainedFrame, Topic, TopicKind,
        frame::HEAD_LEN_MAX,
        sdk::{AmopBody, FrameType, HEADER_LEN, Header},
        trace::{Refusal, Role},
        ws::{FrameHead, MessageHead, MessageType},
    },
};

/// Header and topic of an answer, as it goes to whoever asked.
type AnswerHead = SmallVec<[u8; 320]>;

impl Session {
    /// Sends a message to an application of FISCO BCOS 3.x. Out of the way of messages for those of 2.x.
    #[cold]
    #[inline(never)]
    pub(in crate::relay::shard) fn send_to_3x(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        frame: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        let head = frame.head();
        let (Some(header), Ok(body)) = (Header::decode(head), AmopBody::decode(&head[HEADER_LEN..])) else {
            // Nothing else is pushed.
            return Err(SendError::Gone);
        };
        let message_type = match header.frame_type {
            FrameType::MULTICAST => MessageType::BROADCAST,
            _ => MessageType::REQUEST,
        };
        let data = frame.advance(HEADER_LEN + body.payload_offset);
        let head = MessageHead { message_type, status: 0, seq: header.seq, ext: 0 };
        let head = head.amop_frame_head(body.topic, data.len());
        if head.len() + data.len() > FRAME_LEN_MAX {
            cx.note_too_long_for_3x(self, frame.len());
            return Err(SendError::Gone);
        }
        cx.out.send(self.key, Class::Data, &head, data)
    }
}

impl Parts {
    /// A unicast or a multicast of such an application.
    pub(super) fn handle_message_of_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let is_unicast = header.frame_type == FrameType::REQUEST;
        let Some(topic) = topic_with_prefix(frame) else {
            return match is_unicast {
                true => self.handle_request(cx, key, header, frame),
                false => self.handle_multicast(cx, key, header, frame),
            };
        };
        let (counter, role) = match is_unicast {
            true => (&cx.counters.requests, Role::Request),
            false => (&cx.counters.multicasts, Role::Multicast),
        };
        counter.increment();
        self.refuse(cx, key, Refused { header, role, topic }, Refusal::NotRoutable, ResultCode::NO_RECEIVER);
    }

    /// An answer of such an application: to a push, whose topic goes in front, or to a multicast, which nobody waits for.
    pub(super) fn handle_answer_of_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let seq = cx.seq_key(&header.seq);
        let Some(session) = self.session_mut(key) else { return };
        let Some(topic) = session.pushes.get(&seq).and_then(Push::topic_at_3x) else {
            return cx.counters.unsolicited_answers.increment();
        };
        let head = answer_head(header, topic);
        let data = frame.advance(HEADER_LEN);
        let len = head.len() + data.len();
        let answer = Header { len: len as u32, ..*header };
        if len > cx.shared.settings.frame_len_max {
            // With the topic it is longer than what nodes take: it was delivered, and its outcome does not become known.
            cx.counters.answers_dropped.increment();
            let answer = answer_frame(&header.seq, ResultCode::TIMEOUT);
            return self.handle_session_answer(cx, key, header, FrameRef::Slice(&answer));
        }
        if len <= HEAD_LEN_MAX {
            let mut whole: SmallVec<[u8; 1024]> = SmallVec::with_capacity(len);
            whole.extend_from_slice(&head);
            data.pieces().for_each(|piece| whole.extend_from_slice(piece));
            return self.handle_session_answer(cx, key, &answer, FrameRef::Slice(&whole));
        }
        let whole = put_behind(&head, data);
        self.handle_session_answer(cx, key, &answer, whole.as_ref());
    }

    /// Sends such a session what it waits for, in one or two pieces of the form of 2.x. `Full` if memory has no room for it, or it is
    /// longer than the SDK takes.
    pub(in crate::relay::shard) fn send_answer_to_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<(), SendError> {
        let (header, data) = match head.is_empty() {
            true => (Header::decode(body.head()), body.advance(HEADER_LEN.min(body.head().len()))),
            false => (Header::decode(head), body),
        };
        let Some(header) = header else { return Ok(()) };
        let (front, data) = encode_answer(&header, data);
        let len = front.len() + data.len();
        if len > FRAME_LEN_MAX {
            if let Some(session) = self.session_mut(key) {
                cx.note_too_long_for_3x(session, len);
            }
            return Err(SendError::Full);
        }
        let class = if len <= SMALL_REPLY_LEN_MAX { Class::Control } else { Class::Answer };
        cx.out.send(key, class, &front, data)?;
        cx.counters.sdk_frames_sent.increment();
        Ok(())
    }
}

impl<O: Outbound> Context<'_, O> {
    /// A message is not sent to an application of FISCO BCOS 3.x, for it is longer than its SDK takes.
    fn note_too_long_for_3x(&mut self, session: &Session, bytes: usize) {
        self.counters.refused_too_long.increment();
        if self.common.logs.too_long.admits(self.now) {
            tracing::warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                bytes, bytes_max = MESSAGE_LEN_MAX,
                "a message for an application of FISCO BCOS 3.x is not sent: its SDK takes none so long; let it be sent in parts",
            );
        }
    }
}

/// The topic of a message that is none for this dialect: it has a prefix of FISCO BCOS 2.x.
fn topic_with_prefix(frame: FrameRef<'_>) -> Option<&str> {
    let body = AmopBody::decode(frame.head().get(HEADER_LEN..)?).ok()?;
    (body.kind() != TopicKind::Ordinary).then_some(body.topic)
}

/// What goes before the data of an answer in the place of its header: that, with the topic.
fn answer_head(header: &Header, topic: &Topic) -> AnswerHead {
    let topic = topic.as_str().as_bytes();
    let mut head = AnswerHead::new();
    let len = header.len + 1 + topic.len() as u32;
    head.extend_from_slice(&Header { len, ..*header }.encode());
    head.push(topic.len() as u8 + 1);
    head.extend_from_slice(topic);
    head
}

/// A long body behind a head: chunks are shared.
fn put_behind(head: &[u8], body: FrameRef<'_>) -> RetainedFrame {
    match body {
        FrameRef::Slice(bytes) => RetainedFrame::from_bytes([head, bytes].concat().into()),
        FrameRef::Chunks { .. } => body.retain().behind(bytes::Bytes::copy_from_slice(head)),
    }
}

/// A frame of the form of 2.x for an application of 3.x: what goes before the data, and what of it goes.
fn encode_answer<'a>(header: &Header, data: FrameRef<'a>) -> (FrameHead, FrameRef<'a>) {
    let (message_type, status, data) = match header.frame_type {
        FrameType::RESPONSE => {
            // A subscriber's answer goes on as it is, also where its data has no topic in front.
            let topic = AmopBody::decode(data.head());
            let data = topic.map_or(data, |body| data.advance(body.payload_offset));
            let says_why = header.result != ResultCode::OK && data.is_empty();
            let data = if says_why { FrameRef::Slice(header.result.describe().as_bytes()) } else { data };
            (MessageType::RESPONSE, header.result.to_status_3x(), data)
        }
        FrameType(number) => (MessageType(number), header.result.to_status_3x(), data),
    };
    let head = MessageHead { message_type, status, seq: header.seq, ext: 0 };
    (head.frame_head(data.len()), data)
}
