//! What an application may say to its node (WIRE §1).

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use tracing::{debug, info, warn};

use super::{
    Context, DEFERRED_SUBSCRIPTION_DELAY, IDLE_CHECKS_PER_TIMEOUT, Link, LinkKind, Parts, dialect_3x,
    push::Push,
    room::Line,
    seqs::{BySeq, SeqKey},
    subscription::{LocalTopics, Subscription},
};
use crate::{
    relay::{
        Class, CloseReason, LinkKey, Outbound, Queued, RegistryInput, RequestId, SMALL_REPLY_LEN_MAX,
        SendError, SessionId,
        bandwidth::Share,
        log_limit::LogLimit,
        report::{PeerReport, SessionLedgerReport, SessionReport},
        rpc,
        settings::Settings,
        timers::{TimerKey, Timers},
        trace::Sender,
    },
    wire::{
        FrameRef, NodeId, ResultCode,
        json::{self, HandshakeRequest},
        sdk::{FrameType, HEADER_LEN, Header, Seq},
    },
};

/// One application's link.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) key: LinkKey,
    pub(super) address: String,
    pub(super) subject: String,
    /// The public key of its certificate, if that is a secp256k1 key.
    pub(super) public_key: Option<NodeId>,
    /// The two as accounts of its messages have them, once there is one.
    sender: Option<Arc<Sender>>,
    since: Instant,
    protocol: u32,
    pub(super) subscription: Subscription,
    pub(super) last_activity: Instant,
    /// What it has had of the node's outbound bandwidth.
    bandwidth: Share,
    idle_timer: Option<TimerKey>,
    /// Whether it is about to be closed, because its keys are used up: it gets no new requests answered.
    pub(super) keys_exhausted: bool,
    /// Open requests of this publisher, by seq.
    pub(super) requests: BySeq<RequestId>,
    /// Bytes of the frames of those.
    open_bytes: usize,
    /// Whether it is read no further because of them.
    is_read_paused: bool,
    /// Open pushes to this subscriber, by seq.
    pub(super) pushes: BySeq<Push>,
    /// Where the frames of those end that it has not taken yet, in this order.
    pub(super) untaken: VecDeque<(u64, SeqKey)>,
    /// Requests that wait for room in its queue.
    pub(super) line: Line,
    /// Copies of multicasts that its full queue had no room for.
    pub(super) dropped_copies: u64,
    pub(super) dialect: Dialect,
}

/// Who is at the other end, by the form of its frames. Within the node all have that of an application of FISCO BCOS 2.x.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// An application of FISCO BCOS 2.x.
    App2x,
    /// An application of FISCO BCOS 3.x.
    App3x,
    /// A node of FISCO BCOS 2.x: the first bytes of its id.
    Node2x(u64),
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Self::App2x | Self::Node2x(_) => "2.x",
            Self::App3x => "3.x",
        }
    }

    /// Whether frames go there as they are.
    #[inline]
    pub(super) fn is_app_2x(self) -> bool {
        matches!(self, Self::App2x)
    }

    /// If it is that of a node of FISCO BCOS 2.x, the first bytes of its id.
    #[inline]
    pub(super) fn of_2x(self) -> Option<u64> {
        match self {
            Self::Node2x(short) => Some(short),
            Self::App2x | Self::App3x => None,
        }
    }
}

impl Session {
    /// Bytes of the frames of its open requests.
    pub(super) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Queues what is pushed to it: not before those who wait for room.
    pub(super) fn send_data(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        frame: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        self.send_data_behind(cx, &[], frame)
    }

    /// The same behind another piece.
    pub(super) fn send_data_behind(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        head: &[u8],
        frame: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        match self.line.is_empty() {
            true => self.send_pushed(cx, head, frame),
            false => Err(SendError::Full),
        }
    }

    /// Queues what is pushed to it, whoever waits for room.
    pub(super) fn send_pushed(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        head: &[u8],
        frame: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        match self.dialect.is_app_2x() {
            true => cx.out.send(self.key, Class::Data, head, frame),
            false => self.send_pushed_otherwise(cx, head, frame),
        }
    }

    #[cold]
    #[inline(never)]
    fn send_pushed_otherwise(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        head: &[u8],
        frame: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        match self.dialect {
            Dialect::App3x => self.send_to_3x(cx, frame),
            Dialect::App2x | Dialect::Node2x(_) => self.send_to_2x(cx, head, frame),
        }
    }

    /// How long a frame of so many bytes is on its link, at most.
    pub(super) fn len_on_link(&self, len: usize) -> usize {
        match self.dialect {
            Dialect::App2x | Dialect::Node2x(_) => len,
            Dialect::App3x => len + dialect_3x::ADDED_LEN_MAX,
        }
    }

    /// A request of it is open now. While those are long in all, it is read no further.
    pub(super) fn open_request(&mut self, cx: &mut Context<'_, impl Outbound>, len: usize, bytes_max: usize) {
        self.open_bytes += len;
        if self.open_bytes >= bytes_max && !std::mem::replace(&mut self.is_read_paused, true) {
            cx.out.pause_reading(self.key, true);
        }
    }

    /// A request of it is over.
    pub(super) fn end_request(&mut self, cx: &mut Context<'_, impl Outbound>, len: usize, bytes_max: usize) {
        debug_assert!(self.open_bytes >= len, "more requests ended than began");
        self.open_bytes = self.open_bytes.saturating_sub(len);
        if self.open_bytes <= bytes_max / 2 && std::mem::take(&mut self.is_read_paused) {
            cx.out.pause_reading(self.key, false);
        }
    }

    /// Says that a copy for it is dropped.
    pub(super) fn warn_queue_full(&self) {
        warn!(
            session = self.id.0, address = %self.address, subject = %self.subject, dropped = self.dropped_copies,
            "a message for a session is dropped, its queue is full: see why the application does not keep up, or raise [amop] session_queue_bytes_max",
        );
    }

    pub(super) fn warn_keys_exhausted(&self, now: Instant, limit: &mut LogLimit) {
        if limit.admits(now) {
            warn!(
                session = self.id.0, address = %self.address, subject = %self.subject,
                "a session has moved so much data that its TLS keys will be used up; let it reconnect",
            );
        }
    }

    pub(super) fn warn_stalled(
        &self,
        now: Instant,
        limit: &mut LogLimit,
        stalled_for: Duration,
        waiting_bytes: usize,
    ) {
        if limit.admits(now) {
            warn!(
                session = self.id.0, address = %self.address, subject = %self.subject,
                ?stalled_for, waiting_bytes,
                "a session has not taken a byte for too long",
            );
        }
    }

    /// The session as accounts of its messages name it.
    pub(super) fn sender(&mut self) -> Arc<Sender> {
        self.sender.get_or_insert_with(|| Arc::new(Sender::new(&self.address, &self.subject))).clone()
    }

    /// Since when it is there, its address, and what else people see of it.
    pub(super) fn report(&self, ledger: Option<SessionLedgerReport>) -> (Instant, String, PeerReport) {
        let session = SessionReport {
            id: self.id,
            subject: self.subject.clone(),
            is_3x: self.dialect == Dialect::App3x,
            topics: self.subscription.topics().len(),
            pending_requests: self.requests.len(),
            pending_pushes: self.pushes.len(),
            waiting_requests: self.line.len(),
            dropped_copies: self.dropped_copies,
            ledger,
        };
        (self.since, self.address.clone(), PeerReport::Session(session))
    }
}

/// A frame of the node's own making for a session.
pub(super) struct Reply<'a> {
    pub(super) frame_type: FrameType,
    pub(super) seq: &'a Seq,
    pub(super) result: ResultCode,
    pub(super) data: &'a [u8],
}

impl<'a> Reply<'a> {
    /// One with the result 0.
    pub(super) fn ok(frame_type: FrameType, seq: &'a Seq, data: &'a [u8]) -> Self {
        Self { frame_type, seq, result: ResultCode::OK, data }
    }
}

/// The sessions of a shard, beside what lies with the link of each.
pub(super) struct Sessions {
    started: u64,
    /// Where each lies, by [`LinkKey::index`].
    pub(super) indices: AHashMap<SessionId, u32>,
    pub(super) topics: LocalTopics,
    pub(super) idle_timers: Timers<LinkKey>,
    pub(super) deferred_subscriptions: Timers<LinkKey>,
}

impl Sessions {
    pub(super) fn new(settings: &Settings, hashing: &RandomState) -> Self {
        Self {
            started: 0,
            indices: AHashMap::with_hasher(hashing.clone()),
            topics: LocalTopics::new(hashing.clone()),
            idle_timers: Timers::new(settings.idle_timeout / IDLE_CHECKS_PER_TIMEOUT),
            deferred_subscriptions: Timers::new(DEFERRED_SUBSCRIPTION_DELAY),
        }
    }
}

impl Parts {
    pub(super) fn new_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        who: (String, String, Option<NodeId>),
    ) -> Session {
        let mut session = self.make_session(cx, key, who);
        session.idle_timer = Some(self.sessions.idle_timers.start(cx.now, key));
        if cx.common.logs.sessions_up.admits(cx.now) {
            let Session { id, address, subject, .. } = &session;
            info!(session = id.0, %address, %subject, "session up");
        }
        cx.counters.sessions.increment();
        session
    }

    /// A session of whomever, with its number.
    pub(super) fn make_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        (address, subject, public_key): (String, String, Option<NodeId>),
    ) -> Session {
        self.sessions.started += 1;
        let id = SessionId(u64::from(cx.id.0) << 48 | self.sessions.started);
        self.sessions.indices.insert(id, key.index);
        Session {
            id,
            key,
            address,
            subject,
            public_key,
            sender: None,
            bandwidth: Share::default(),
            since: cx.now,
            protocol: json::PROTOCOL_MIN,
            subscription: Subscription::default(),
            last_activity: cx.now,
            idle_timer: None,
            keys_exhausted: false,
            requests: BySeq::default(),
            open_bytes: 0,
            is_read_paused: false,
            pushes: BySeq::default(),
            untaken: VecDeque::new(),
            line: Line::new(),
            dropped_copies: 0,
            dialect: Dialect::App2x,
        }
    }

    pub(super) fn end_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        mut session: Session,
        reason: CloseReason,
    ) {
        let Session { id, address, subject, dialect, .. } = &session;
        match reason.remedy() {
            // Applications end as they like.
            Some(remedy) if reason != CloseReason::Broken => {
                if cx.common.logs.sessions_cut.admits(cx.now) {
                    let dialect = dialect.name();
                    warn!(session = id.0, %address, %subject, dialect, %reason, remedy, "session cut");
                }
            }
            _ => {
                if cx.common.logs.sessions_down.admits(cx.now) {
                    let dialect = dialect.name();
                    info!(session = id.0, %address, %subject, dialect, %reason, "session down");
                }
            }
        }
        cx.counters.sessions.decrement();
        if session.dialect == Dialect::App3x {
            cx.counters.sessions_3x.decrement();
        }
        self.sessions.indices.remove(&session.id);
        if let Some(timer) = session.idle_timer.take() {
            self.sessions.idle_timers.cancel(timer);
        }
        let (topics, deferred) = session.subscription.take();
        cx.count_deferred(deferred, 0);
        self.change_topics(cx, (session.key.index, session.key, session.id), &topics, &[]);
        self.end_messages(cx, &mut session);
        self.end_upstream(cx, session.key);
        self.end_line(cx, std::mem::take(&mut session.line));
    }

    /// Nobody waits for the answers to what the session asked, and those that it was asked do not come.
    fn end_messages(&mut self, cx: &mut Context<'_, impl Outbound>, session: &mut Session) {
        for (_, request) in std::mem::take(&mut session.requests) {
            let sender = session.sender();
            self.abandon_request(cx, request, sender);
        }
        self.end_pushes(cx, session);
    }

    /// The session of a node of FISCO BCOS 2.x is over.
    pub(super) fn end_session_of_2x(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: &NodeId,
        mut session: Session,
    ) {
        self.sessions.indices.remove(&session.id);
        let (topics, _) = session.subscription.take();
        self.change_topics_of_2x(cx, session.key, id, (&topics, &[]));
        self.end_messages(cx, &mut session);
    }

    pub(super) fn handle_sdk_frame(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let Some(header) = Header::decode(frame.head()) else { return };
        cx.counters.sdk_frames_received.increment();
        match header.frame_type {
            FrameType::REQUEST => self.handle_request(cx, key, &header, frame),
            FrameType::RESPONSE => self.handle_session_answer(cx, key, &header, frame),
            FrameType::MULTICAST => self.handle_multicast(cx, key, &header, frame),
            FrameType::HEARTBEAT => self.handle_heartbeat(cx, key, &header, frame),
            FrameType::HANDSHAKE => self.handle_handshake(cx, key, &header, frame),
            FrameType::SUBSCRIBE => self.handle_subscribe(cx, key, frame),
            FrameType::RPC if cx.shared.settings.ledger.is_some() => {
                self.handle_call(cx, key, &header, frame);
            }
            FrameType::RPC => self.handle_rpc(cx, key, &header, frame),
            FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER
                if cx.shared.settings.ledger.is_some() =>
            {
                self.handle_event_filter(cx, key, &header, frame);
            }
            FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER => {
                // An empty topic, then a result that is not 0: there is no ledger to watch.
                let body = b"\x01{\"result\":-41002}\n";
                self.reply(cx, key, Reply::ok(header.frame_type, &header.seq, body));
            }
            FrameType::TOPIC_STATUS => self.handle_verdict(cx, key, frame),
            // An acknowledgement, which nobody waits for.
            FrameType::TOPIC_CERTIFICATION => {}
            _ => cx.counters.unknown_types.increment(),
        }
    }

    /// Whether a frame of a session may leave on node links, which is charged if so.
    pub(super) fn admit_bandwidth(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        cost: u64,
    ) -> bool {
        let elapsed = cx.limiter_time();
        let shared = &cx.common.shared;
        let link = self.links.get_mut(key.index as usize).and_then(Option::as_mut);
        let link = link.filter(|link| link.generation == key.generation);
        match link.and_then(|link| link.kind.session_mut()) {
            Some(session) => shared.limiter.admit_session(elapsed, cost, session.id, &mut session.bandwidth),
            None => shared.limiter.admit(elapsed, cost),
        }
    }

    pub(super) fn warn_over_bandwidth(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        if cx.common.logs.over_bandwidth.admits(cx.now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "a message is answered 103, over the bandwidth limit: raise [flow_control] outgoing_bandwidth_limit, or see who sends so much",
            );
        }
    }

    pub(super) fn warn_pending_full(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        if !cx.draining
            && cx.common.logs.over_bound.admits(cx.now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "a request is answered 99, too many wait for their answer: see which subscribers do not answer, or raise [amop] pending_requests_max",
            );
        }
    }

    /// Sends a frame of the node's own making.
    pub(super) fn reply(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, reply: Reply<'_>) {
        let Reply { frame_type, seq, result, data } = reply;
        let header = Header { len: (HEADER_LEN + data.len()) as u32, frame_type, seq: *seq, result };
        self.send_to_session(cx, key, &header.encode(), FrameRef::Slice(data));
    }

    /// Sends a frame that the session waits for.
    pub(super) fn send_to_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
    ) {
        if !self.is_app_2x(key) {
            return self.send_to_other_dialect(cx, key, head, body);
        }
        let class =
            if head.len() + body.len() <= SMALL_REPLY_LEN_MAX { Class::Control } else { Class::Answer };
        match cx.out.send(key, class, head, body) {
            Ok(_) => cx.counters.sdk_frames_sent.increment(),
            Err(SendError::Gone) => {}
            Err(SendError::Full) => self.answer_without_room(cx, key, head, body),
        }
    }

    /// Whether a link's session is that of an application of FISCO BCOS 2.x, so that its frames are sent as they are.
    #[inline]
    fn is_app_2x(&self, key: LinkKey) -> bool {
        match self.links.get(key.index as usize) {
            Some(Some(Link { generation, kind: LinkKind::Sdk(session) })) => {
                *generation == key.generation && session.dialect.is_app_2x()
            }
            _ => false,
        }
    }

    /// Whether a link's session is that of an application of FISCO BCOS 3.x.
    #[inline]
    pub(super) fn speaks_3x(&self, key: LinkKey) -> bool {
        match self.links.get(key.index as usize) {
            Some(Some(Link { generation, kind: LinkKind::Sdk(session) })) => {
                *generation == key.generation && matches!(session.dialect, Dialect::App3x)
            }
            _ => false,
        }
    }

    /// Out of the way of frames that are sent as they are.
    #[cold]
    #[inline(never)]
    fn send_to_other_dialect(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
    ) {
        match self.session_mut(key).map(|session| session.dialect) {
            Some(Dialect::App3x) => match self.send_answer_to_3x(cx, key, head, body) {
                Ok(()) | Err(SendError::Gone) => {}
                Err(SendError::Full) => self.answer_without_room(cx, key, head, body),
            },
            Some(Dialect::Node2x(_)) => self.send_answer_to_2x(cx, key, head, body),
            // It is gone.
            Some(Dialect::App2x) | None => {}
        }
    }

    /// The memory of all queues has no room for an answer: its session is told so.
    fn answer_without_room(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
    ) {
        cx.counters.answers_dropped.increment();
        let Some(header) = Header::decode(if head.is_empty() { body.head() } else { head }) else { return };
        let (result, data) = match header.frame_type {
            // It was delivered, and its outcome does not become known (WIRE §3).
            FrameType::RESPONSE => (ResultCode::TIMEOUT, Vec::new()),
            // What the node itself makes, in one piece behind its header.
            _ => (ResultCode::OK, rpc::no_room(body.head())),
        };
        let len = (HEADER_LEN + data.len()) as u32;
        let header = Header { len, result, ..header };
        // So short an answer is never refused.
        match self.is_app_2x(key) {
            true => _ = cx.out.send(key, Class::Control, &header.encode(), FrameRef::Slice(&data)),
            false => _ = self.send_answer_to_3x(cx, key, &header.encode(), FrameRef::Slice(&data)),
        }
        if !cx.common.logs.over_bound.admits(cx.now) {
            return;
        }
        warn!(
            session = self.session_mut(key).map(|session| session.id.0),
            "a long answer is dropped, the memory for what waits for sessions is used up: see which session does not keep up, or raise [engine] queues_bytes_max",
        );
    }

    fn handle_heartbeat(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let Some(session) = self.session_mut(key) else { return };
        let answer: &[u8] = match (session.protocol, &frame.head()[HEADER_LEN..]) {
            (1, b"0") => b"1",
            (1, _) => return,
            _ => json::HEARTBEAT_ANSWER,
        };
        self.reply(cx, key, Reply::ok(FrameType::HEARTBEAT, &header.seq, answer));
    }

    fn handle_handshake(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        // A body beyond the head is no handshake that anybody sends; it counts as malformed.
        let body = if frame.len() == frame.head().len() { &frame.head()[HEADER_LEN..] } else { &[] };
        let read = HandshakeRequest::decode(body);
        // A ledger node would never answer a malformed one.
        let is_well_formed = read.is_some();
        let request = read.unwrap_or(HandshakeRequest::EMPTY);
        let Some(protocol) = request.negotiate() else {
            if cx.common.logs.sessions_refused.admits(cx.now)
                && let Some(session) = self.session_mut(key)
            {
                warn!(
                    session = session.id.0, address = %session.address, client = %request.client_type,
                    "closing a session: it speaks protocols {} to {}, this node 1 to 3; it needs another SDK",
                    request.minimum, request.maximum,
                );
            }
            cx.out.close(key, CloseReason::Protocol);
            return;
        };
        let Some(session) = self.session_mut(key) else { return };
        session.protocol = protocol;
        debug!(session = session.id.0, client = %request.client_type, protocol, "handshake");
        let frame_len_max = request.shared_records.then_some(cx.shared.settings.frame_len_max);
        let answer = json::handshake_answer(protocol, frame_len_max);
        self.reply(cx, key, Reply::ok(FrameType::HANDSHAKE, &header.seq, answer.as_bytes()));
        if request.shared_records {
            cx.out.share_records(key);
        }
        self.note_handshake(cx, key, is_well_formed.then_some(frame));
    }

    fn handle_rpc(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        cx.counters.rpc_requests.increment();
        let body = frame.advance(HEADER_LEN);
        let whole;
        let body = if body.len() > rpc::BODY_LEN_MAX {
            cx.counters.rpc_refused.increment();
            let answer = rpc::too_large();
            self.reply(cx, key, Reply::ok(FrameType::RPC, &header.seq, &answer));
            return;
        } else if body.len() == body.head().len() {
            body.head()
        } else {
            whole = body.pieces().collect::<Vec<_>>().concat();
            &whole[..]
        };
        let elapsed = cx.limiter_time();
        if !cx.shared.rpc_limiter.admit(elapsed, 1) {
            return self.refuse_rpc(cx, key, header, body);
        }
        match rpc::classify(body, &cx.shared.settings) {
            rpc::Plan::Answer(answer) => {
                self.reply(cx, key, Reply::ok(FrameType::RPC, &header.seq, &answer));
            }
            rpc::Plan::Nothing => {}
            rpc::Plan::Registry => {
                let request = RegistryInput::Rpc {
                    reactor: cx.id,
                    link: key,
                    seq: header.seq,
                    body: bytes::Bytes::copy_from_slice(body),
                    ledger: None,
                };
                if !cx.tell_registry(request) {
                    self.refuse_rpc(cx, key, header, body);
                }
            }
        }
    }

    /// Too many requests: each that waits for an answer gets an error.
    fn refuse_rpc(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        body: &[u8],
    ) {
        cx.counters.rpc_refused.increment();
        if let Some(answer) = rpc::over_rate(body) {
            self.reply(cx, key, Reply::ok(FrameType::RPC, &header.seq, &answer));
        }
    }

    pub(super) fn send_rpc_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        seq: &Seq,
        body: &[u8],
    ) {
        cx.shared.rpc_answer_bytes.fetch_sub(body.len(), std::sync::atomic::Ordering::Relaxed);
        if self.session_mut(key).is_none() {
            return;
        }
        match cx.ledger() {
            Some(_) => self.handle_merged_answer(cx, key, seq, body),
            None => self.reply(cx, key, Reply::ok(FrameType::RPC, seq, body)),
        }
    }

    /// Closes a session that was silent in both directions, or waits for the rest of its time.
    pub(super) fn check_idle(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let idle_timeout = cx.shared.settings.idle_timeout;
        let Some(session) = self.session_mut(key) else { return };
        let mut is_active = cx.now.saturating_duration_since(session.last_activity) < idle_timeout;
        if !is_active && let Some(progress) = cx.out.progress(key) {
            // It takes what is sent to it, or it is this node that does not read.
            is_active = progress.is_read_paused
                || cx.now.saturating_duration_since(progress.last_taken) < idle_timeout;
        }
        if is_active {
            let timer = self.sessions.idle_timers.start(cx.now, key);
            if let Some(session) = self.session_mut(key) {
                session.idle_timer = Some(timer);
            }
            return;
        }
        session.idle_timer = None;
        cx.counters.closed_idle.increment();
        cx.out.close(key, CloseReason::Idle);
    }
}
