//! Applications of FISCO BCOS 3.x (INTEROP §3): the same sessions, requests and subscriptions as those of 2.x, said in another
//! dialect. What they send comes in the form of frames of 2.x, but for what is read here; what is sent to them is put into
//! theirs as the last thing before it is queued. Nothing between knows who speaks what.
//!
//! ```text
//!   0x111, 0x112 ─► a request, a multicast of 2.x ─► Requests, multicast …  ─► 0x30, 0x35 ─► 0x111, 0x112
//!   0x113, without a topic ─► the topic of its push in front ─► 0x31 ──────► without it ──► 0x113
//!                             102, 103, 100, 101, 99 ────────────────────────────────────► 1000, 1004, 3001, 3002, 3003
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `messages` | requests, multicasts and answers, both ways |
//!
//! # Invariants
//! - Topics with a prefix of 2.x have no meaning here: such a session neither subscribes to one nor sends to one.
//! - No list of topics takes away what another one said within the same second: SDKs' lists overtake each other.
//! - A multicast is never answered, neither by this node nor by who gets it.
//! - The ledger nodes of 2.x have nothing for such a session, nor it for them.

mod messages;

use std::{borrow::Cow, time::Duration};

use tracing::{debug, info, warn};

use super::{
    Context, Parts,
    session::{Dialect, Reply, Session},
};
use crate::{
    relay::{Class, CloseReason, LinkKey, Outbound, rpc},
    wire::{
        FrameRef, ResultCode, TopicKind,
        json::{self, Handshake3x},
        sdk::{FrameType, HEADER_LEN, Header},
        ws::{self, MessageType},
    },
};

/// A frame may have so many bytes more on the link of such a session.
pub(super) const ADDED_LEN_MAX: usize = ws::frame::HEADER_LEN_MAX + ws::message::MESSAGE_LEN_MORE_MAX;
/// Longest message that goes to such an application, in bytes, its head included: its SDK ends the connection for a longer one.
const MESSAGE_LEN_MAX: usize = 32 << 20;
/// The same with the header of its one WebSocket frame, whose length takes eight bytes then.
const FRAME_LEN_MAX: usize = MESSAGE_LEN_MAX + 10;

/// Lists of topics that come within this time of each other may have overtaken each other.
const LISTS_TOGETHER: Duration = Duration::from_secs(1);

/// The status of a handshake that is refused.
const HANDSHAKE_REFUSED: ResultCode = ResultCode(-1);

impl Parts {
    /// The first bytes of a session ask for a WebSocket.
    pub(super) fn handle_upgrade(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        request: &[u8],
    ) {
        let read = ws::upgrade::Request::decode(request);
        let response = match &read {
            Ok(request) => request.response(),
            Err(refusal) => refusal.response(),
        };
        // So short an answer is never refused.
        let _ = cx.out.send(key, Class::Control, &response, FrameRef::EMPTY);
        match read {
            Ok(_) => self.begin_3x(cx, key),
            Err(refusal) => cx.out.close(key, CloseReason::Upgrade(refusal)),
        }
    }

    /// A session speaks this dialect.
    fn begin_3x(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Some(session) = self.session_mut(key) else { return };
        cx.counters.sessions_3x.increment();
        debug_assert!(session.subscription.topics().is_empty(), "a session changed its dialect");
        session.dialect = Dialect::App3x;
        let Session { id, address, subject, .. } = &*session;
        if cx.common.logs.sessions_up.admits(cx.now) {
            info!(session = id.0, %address, %subject, "session of an application of FISCO BCOS 3.x");
        }
    }

    /// A frame of such a session.
    #[cold]
    #[inline(never)]
    pub(super) fn handle_frame_of_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let Some(header) = Header::decode(frame.head()) else { return };
        cx.counters.sdk_frames_received.increment();
        match (MessageType(header.frame_type.0), header.frame_type) {
            (_, FrameType::REQUEST | FrameType::MULTICAST) => {
                self.handle_message_of_3x(cx, key, &header, frame);
            }
            (_, FrameType::RESPONSE) => self.handle_answer_of_3x(cx, key, &header, frame),
            (MessageType::HANDSHAKE, _) => self.handle_handshake_of_3x(cx, key, &header, frame),
            (MessageType::TOPICS, _) => self.handle_topics_of_3x(cx, key, frame),
            (MessageType::RPC, _) => self.handle_rpc_of_3x(cx, key, &header, frame),
            _ => cx.counters.unknown_types.increment(),
        }
    }

    fn handle_handshake_of_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        // A body beyond the head is no handshake that anybody sends.
        let body = if frame.len() == frame.head().len() { &frame.head()[HEADER_LEN..] } else { &[] };
        let request = Handshake3x::decode(body);
        let Some(protocol) = request.and_then(|request| request.negotiate()) else {
            if cx.common.logs.sessions_refused.admits(cx.now)
                && let Some(session) = self.session_mut(key)
            {
                warn!(
                    session = session.id.0, address = %session.address, ?request,
                    "closing a session: this node speaks protocol 1 of FISCO BCOS 3.x; it needs another SDK",
                );
            }
            let (result, data) = (HANDSHAKE_REFUSED, &b"this node speaks protocol 1"[..]);
            self.reply(cx, key, Reply { frame_type: header.frame_type, seq: &header.seq, result, data });
            return cx.out.close(key, CloseReason::Protocol);
        };
        debug!(?request, protocol, "handshake of an application of FISCO BCOS 3.x");
        let answer = Handshake3x::answer(protocol);
        self.reply(cx, key, Reply::ok(header.frame_type, &header.seq, answer.as_bytes()));
    }

    /// A list of topics, which takes the place of the one before: SDKs say all of their topics each time. Those that come together only
    /// add: the SDK 3.6.0 sends what it has queued in any order, so that a list with fewer topics may be the older one.
    fn handle_topics_of_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let mut read = cx.read_subscription(frame, json::decode_subscription_3x);
        if let Ok((topics, skipped)) = &mut read {
            let named = topics.len();
            topics.retain(|topic| topic.kind() == TopicKind::Ordinary);
            *skipped += named - topics.len();
            let Some(session) = self.session_mut(key) else { return };
            *topics = session.subscription.merge_list(cx.now, LISTS_TOGETHER, std::mem::take(topics));
            let topics_max = cx.shared.settings.session_topics_max;
            if topics.len() > topics_max {
                read = Err(json::SubscriptionError::TooMany(topics_max));
            }
        }
        self.take_subscription(cx, key, read);
    }

    /// JSON-RPC is for a ledger, of which there is none behind this dialect: it is said at once.
    fn handle_rpc_of_3x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        cx.counters.rpc_requests.increment();
        let body = frame.advance(HEADER_LEN);
        let elapsed = cx.limiter_time();
        let answer = if body.len() > rpc::BODY_LEN_MAX {
            cx.counters.rpc_refused.increment();
            Some(rpc::too_large())
        } else if !cx.shared.rpc_limiter.admit(elapsed, 1) {
            cx.counters.rpc_refused.increment();
            rpc::over_rate(&whole(body))
        } else {
            rpc::no_ledger(&whole(body))
        };
        if let Some(answer) = answer {
            self.reply(cx, key, Reply::ok(header.frame_type, &header.seq, &answer));
        }
    }
}

/// A body in one piece.
fn whole(body: FrameRef<'_>) -> Cow<'_, [u8]> {
    body.first(body.len())
}
