//! What an application may say to its node (WIRE §1).

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use tracing::{debug, info, warn};

use super::{
    Link, LinkKind, Shard,
    push::Push,
    room::Line,
    seqs::{BySeq, SeqKey},
};
use crate::{
    relay::{
        Class, CloseReason, LinkKey, Outbound, Queued, RegistryInput, RequestId, SMALL_REPLY_LEN_MAX,
        SendError, SessionId,
        bandwidth::Share,
        report::{LinkReport, PeerReport},
        rpc,
        timers::TimerKey,
        trace::Sender,
    },
    wire::{
        FrameRef, ResultCode, Topic, TopicKind,
        json::{self, HandshakeRequest},
        sdk::{FrameType, HEADER_LEN, Header, Seq},
        topic::{ROUTE_PREFIX, data_topic_of_route},
    },
};

/// Longest body of a subscription in bytes: every name of the longest kind, each byte escaped as six.
fn subscription_len_max(topics_max: usize) -> usize {
    topics_max.saturating_mul(6 * crate::wire::topic::TOPIC_LEN_MAX + 3).saturating_add(1024)
}

/// One application's link.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) key: LinkKey,
    address: String,
    subject: String,
    /// The two as accounts of its messages have them, once there is one.
    sender: Option<Arc<Sender>>,
    since: Instant,
    protocol: u32,
    /// What it subscribes to, sorted.
    topics: Vec<Topic>,
    pub(super) last_activity: Instant,
    /// What it has had of the node's outbound bandwidth.
    bandwidth: Share,
    idle_timer: Option<TimerKey>,
    /// Token bucket of effective topic changes.
    changes_left: f64,
    changes_counted: Instant,
    /// A subscription that waits because changes came too fast; the last one wins.
    deferred: Option<Vec<Topic>>,
    /// Whether it is about to be closed, because its keys are worn out: it gets no new requests answered.
    pub(super) is_worn: bool,
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
}

impl Session {
    /// What it subscribes to.
    pub(super) fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// How many those are.
    pub(super) fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// Bytes of the frames of its open requests.
    pub(super) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Its own route topic for a data topic: what its challenges are to come under.
    pub(super) fn route_topic(&self, data: &str) -> Option<Topic> {
        let front = format!("{ROUTE_PREFIX}{data}_");
        let first = self.topics.partition_point(|topic| topic.as_str() < front.as_str());
        let named = self.topics[first..].iter().take_while(|topic| topic.as_str().starts_with(&front));
        named.into_iter().find(|topic| data_topic_of_route(topic.as_str()) == Some(data)).cloned()
    }

    /// Queues what is pushed to it: not before those who wait for room.
    pub(super) fn send_data(
        &self,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> Result<Queued, SendError> {
        self.send_data_behind(&[], frame, out)
    }

    /// The same behind another piece.
    pub(super) fn send_data_behind(
        &self,
        head: &[u8],
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) -> Result<Queued, SendError> {
        match self.line.is_empty() {
            true => out.send(self.key, Class::Data, head, frame),
            false => Err(SendError::Full),
        }
    }

    /// A request of it is open now. While those are long in all, it is read no further.
    pub(super) fn open_request(&mut self, len: usize, bytes_max: usize, out: &mut impl Outbound) {
        self.open_bytes += len;
        if self.open_bytes >= bytes_max && !std::mem::replace(&mut self.is_read_paused, true) {
            out.pause_reading(self.key, true);
        }
    }

    /// A request of it is over.
    pub(super) fn end_request(&mut self, len: usize, bytes_max: usize, out: &mut impl Outbound) {
        debug_assert!(self.open_bytes >= len, "more requests ended than began");
        self.open_bytes = self.open_bytes.saturating_sub(len);
        if self.open_bytes <= bytes_max / 2 && std::mem::take(&mut self.is_read_paused) {
            out.pause_reading(self.key, false);
        }
    }

    /// Says that a copy for it is dropped.
    pub(super) fn warn_queue_full(&self) {
        warn!(
            session = self.id.0, address = %self.address, subject = %self.subject, dropped = self.dropped_copies,
            "a message for a session is dropped, its queue is full: see why the application does not keep up, or raise [amop] session_queue_bytes_max",
        );
    }

    /// The session as accounts of its messages name it.
    pub(super) fn sender(&mut self) -> Arc<Sender> {
        self.sender.get_or_insert_with(|| Arc::new(Sender::new(&self.address, &self.subject))).clone()
    }

    pub(super) fn report(&self, key: LinkKey) -> LinkReport {
        LinkReport {
            key,
            since: self.since,
            address: self.address.clone(),
            peer: PeerReport::Session {
                id: self.id,
                subject: self.subject.clone(),
                topics: self.topics.len(),
                pending_requests: self.requests.len(),
                pending_pushes: self.pushes.len(),
                waiting_requests: self.line.len(),
                dropped_copies: self.dropped_copies,
            },
        }
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

    fn insert(&mut self, topic: &Topic, index: u32) {
        self.by_topic.entry(topic.clone()).or_default().push(index);
    }

    fn remove(&mut self, topic: &Topic, index: u32) {
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

/// Whether the network learns of subscriptions to the topic.
fn is_published(topic: &Topic) -> bool {
    matches!(topic.kind(), TopicKind::Ordinary | TopicKind::Data)
}

impl Shard {
    pub(super) fn new_session(
        &mut self,
        now: Instant,
        key: LinkKey,
        address: String,
        subject: String,
    ) -> Session {
        self.sessions_started += 1;
        let id = SessionId(u64::from(self.id.0) << 48 | self.sessions_started);
        if self.logs.sessions_up.admits(now) {
            info!(session = id.0, %address, %subject, "session up");
        }
        self.counters.sessions.increment();
        self.session_indices.insert(id, key.index);
        Session {
            id,
            key,
            address,
            subject,
            sender: None,
            bandwidth: Share::default(),
            since: now,
            protocol: json::PROTOCOL_MIN,
            topics: Vec::new(),
            last_activity: now,
            idle_timer: Some(self.idle_timers.start(now, key)),
            changes_left: f64::from(self.shared.settings.session_changes_per_second_max),
            changes_counted: now,
            deferred: None,
            is_worn: false,
            requests: BySeq::default(),
            open_bytes: 0,
            is_read_paused: false,
            pushes: BySeq::default(),
            untaken: VecDeque::new(),
            line: Line::new(),
            dropped_copies: 0,
        }
    }

    pub(super) fn end_session(
        &mut self,
        now: Instant,
        mut session: Session,
        reason: CloseReason,
        out: &mut impl Outbound,
    ) {
        let Session { id, address, subject, .. } = &session;
        match reason.remedy() {
            // Applications end as they like.
            Some(remedy) if reason != CloseReason::Broken => {
                if self.logs.sessions_cut.admits(now) {
                    warn!(session = id.0, %address, %subject, %reason, remedy, "session cut");
                }
            }
            _ => {
                if self.logs.sessions_down.admits(now) {
                    info!(session = id.0, %address, %subject, %reason, "session down");
                }
            }
        }
        self.counters.sessions.decrement();
        self.session_indices.remove(&session.id);
        if let Some(timer) = session.idle_timer.take() {
            self.idle_timers.cancel(timer);
        }
        let topics = std::mem::take(&mut session.topics);
        self.count_deferred(session.deferred.take().map_or(0, |deferred| deferred.len()), 0);
        self.change_topics(now, (session.key.index, session.key, session.id), &topics, &[], out);
        for (_, request) in std::mem::take(&mut session.requests) {
            let sender = session.sender();
            self.abandon_request(now, request, sender, out);
        }
        self.end_pushes(now, &mut session, out);
        self.end_line(now, std::mem::take(&mut session.line), out);
    }

    pub(super) fn handle_sdk_frame(
        &mut self,
        now: Instant,
        key: LinkKey,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some(header) = Header::decode(frame.head()) else { return };
        self.counters.sdk_frames_received.increment();
        match header.frame_type {
            FrameType::REQUEST => self.handle_request(now, key, &header, frame, out),
            FrameType::RESPONSE => self.handle_session_answer(now, key, &header, frame, out),
            FrameType::MULTICAST => self.handle_multicast(now, key, &header, frame, out),
            FrameType::HEARTBEAT => self.handle_heartbeat(now, key, &header, frame, out),
            FrameType::HANDSHAKE => self.handle_handshake(now, key, &header, frame, out),
            FrameType::SUBSCRIBE => self.handle_subscribe(now, key, frame, out),
            FrameType::RPC => self.handle_rpc(now, key, &header, frame, out),
            FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER => {
                // An empty topic, then a result that is not 0: there is no ledger to watch.
                let body = b"\x01{\"result\":-41002}\n";
                self.reply(now, key, header.frame_type, &header.seq, ResultCode::OK, body, out);
            }
            FrameType::TOPIC_STATUS => self.handle_verdict(now, key, frame, out),
            // An acknowledgement, which nobody waits for.
            FrameType::TOPIC_CERTIFICATION => {}
            _ => self.counters.unknown_types.increment(),
        }
    }

    /// Says, once a session, that it is to reconnect before long.
    pub fn warn_keys_wear_out(&mut self, now: Instant, key: LinkKey) {
        if self.logs.keys_worn.admits(now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "a session has moved so much data that its TLS keys will wear out; let it reconnect",
            );
        }
    }

    /// Whether a frame of a session may leave on node links, which is charged if so.
    pub(super) fn admit_bandwidth(&mut self, now: Instant, key: LinkKey, cost: u64) -> bool {
        let elapsed = self.limiter_time(now);
        let Self { shared, links, .. } = self;
        let link = links.get_mut(key.index as usize).and_then(Option::as_mut);
        match link.filter(|link| link.generation == key.generation).map(|link| &mut link.kind) {
            Some(LinkKind::Sdk(session)) => {
                shared.limiter.admit_session(elapsed, cost, session.id, &mut session.bandwidth)
            }
            _ => shared.limiter.admit(elapsed, cost),
        }
    }

    pub(super) fn warn_over_bandwidth(&mut self, now: Instant, key: LinkKey) {
        if self.logs.over_bandwidth.admits(now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "a message is answered 103, over the bandwidth limit: raise [flow_control] outgoing_bandwidth_limit, or see who sends so much",
            );
        }
    }

    pub(super) fn warn_pending_full(&mut self, now: Instant, key: LinkKey) {
        if !self.draining
            && self.logs.over_bound.admits(now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "a request is answered 99, too many wait for their answer: see which subscribers do not answer, or raise [amop] pending_requests_max",
            );
        }
    }

    /// Sends a frame of the node's own making.
    #[allow(clippy::too_many_arguments)] // the fields of one frame
    pub(super) fn reply(
        &mut self,
        now: Instant,
        key: LinkKey,
        frame_type: FrameType,
        seq: &Seq,
        result: ResultCode,
        data: &[u8],
        out: &mut impl Outbound,
    ) {
        let header = Header { len: (HEADER_LEN + data.len()) as u32, frame_type, seq: *seq, result };
        self.send_to_session(now, key, &header.encode(), FrameRef::Slice(data), out);
    }

    /// Sends a frame that the session waits for.
    pub(super) fn send_to_session(
        &mut self,
        now: Instant,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let class =
            if head.len() + body.len() <= SMALL_REPLY_LEN_MAX { Class::Control } else { Class::Answer };
        match out.send(key, class, head, body) {
            Ok(_) => self.counters.sdk_frames_sent.increment(),
            Err(SendError::Gone) => {}
            Err(SendError::Full) => self.answer_without_room(now, key, head, body, out),
        }
    }

    /// The memory of all queues has no room for an answer: its session is told so.
    fn answer_without_room(
        &mut self,
        now: Instant,
        key: LinkKey,
        head: &[u8],
        body: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        self.counters.answers_dropped.increment();
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
        let _ = out.send(key, Class::Control, &header.encode(), FrameRef::Slice(&data));
        if !self.logs.over_bound.admits(now) {
            return;
        }
        warn!(
            session = self.session_mut(key).map(|session| session.id.0),
            "a long answer is dropped, the memory for what waits for sessions is used up: see which session does not keep up, or raise [engine] queues_bytes_max",
        );
    }

    /// Says that a session is about to be cut because it takes nothing.
    pub fn warn_stalled(&mut self, now: Instant, key: LinkKey, stalled_for: Duration, waiting_bytes: usize) {
        if self.logs.sessions_cut.admits(now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                ?stalled_for, waiting_bytes,
                "a session has not taken a byte for too long",
            );
        }
    }

    /// Whether a line may tell that this node stood still.
    pub fn may_log_pause(&mut self, now: Instant) -> bool {
        self.logs.pauses.admits(now)
    }

    fn handle_heartbeat(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some(session) = self.session_mut(key) else { return };
        let answer: &[u8] = match (session.protocol, &frame.head()[HEADER_LEN..]) {
            (1, b"0") => b"1",
            (1, _) => return,
            _ => json::HEARTBEAT_ANSWER,
        };
        self.reply(now, key, FrameType::HEARTBEAT, &header.seq, ResultCode::OK, answer, out);
    }

    fn handle_handshake(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        // A body beyond the head is no handshake that anybody sends; it counts as malformed.
        let body = if frame.len() == frame.head().len() { &frame.head()[HEADER_LEN..] } else { &[] };
        let request = HandshakeRequest::decode(body);
        let Some(protocol) = request.negotiate() else {
            if self.logs.sessions_refused.admits(now)
                && let Some(session) = self.session_mut(key)
            {
                warn!(
                    session = session.id.0, address = %session.address, client = %request.client_type,
                    "closing a session: it speaks protocols {} to {}, this node 1 to 3; it needs another SDK",
                    request.minimum, request.maximum,
                );
            }
            out.close(key, CloseReason::Protocol);
            return;
        };
        let Some(session) = self.session_mut(key) else { return };
        session.protocol = protocol;
        debug!(session = session.id.0, client = %request.client_type, protocol, "handshake");
        let frame_len_max = request.shared_records.then_some(self.shared.settings.frame_len_max);
        let answer = json::handshake_answer(protocol, frame_len_max);
        self.reply(now, key, FrameType::HANDSHAKE, &header.seq, ResultCode::OK, answer.as_bytes(), out);
        if request.shared_records {
            out.share_records(key);
        }
    }

    fn handle_subscribe(&mut self, now: Instant, key: LinkKey, frame: FrameRef<'_>, out: &mut impl Outbound) {
        let topics_max = self.shared.settings.session_topics_max;
        let body = frame.advance(HEADER_LEN);
        let read = if body.len() > subscription_len_max(topics_max) {
            Err(json::SubscriptionError::TooMany(topics_max))
        } else if body.len() == body.head().len() {
            json::decode_subscription(body.head(), topics_max)
        } else {
            json::decode_subscription(&body.pieces().collect::<Vec<_>>().concat(), topics_max)
        };
        match read {
            Ok((topics, skipped)) => {
                if skipped > 0 {
                    self.counters.topics_skipped.add(skipped as u64);
                    debug!(skipped, "topic names skipped that are empty, too long or not valid");
                }
                self.subscribe(now, key, topics, out);
            }
            Err(error) => {
                self.counters.subscriptions_refused.increment();
                if self.logs.sessions_refused.admits(now)
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
    fn subscribe(&mut self, now: Instant, key: LinkKey, topics: Vec<Topic>, out: &mut impl Outbound) {
        let rate = f64::from(self.shared.settings.session_changes_per_second_max);
        let Some(session) = self.session_mut(key) else { return };
        if session.topics == topics {
            let dropped = session.deferred.take().map_or(0, |deferred| deferred.len());
            self.count_deferred(dropped, 0);
            return self.renew_publisher(key.index);
        }
        let elapsed = now.saturating_duration_since(session.changes_counted);
        session.changes_left = (session.changes_left + elapsed.as_secs_f64() * rate).min(rate);
        session.changes_counted = now;
        let waiting = session.deferred.as_ref().map_or(0, Vec::len);
        if session.changes_left < 1.0 {
            let count = topics.len();
            if !self.has_room_for_subscriptions(count.saturating_sub(waiting)) {
                return self.refuse_subscription(now, key, "[amop] node_subscriptions_max");
            }
            let Some(session) = self.session_mut(key) else { return };
            if session.deferred.replace(topics).is_none() {
                self.deferred_subscriptions.start(now, key);
            }
            self.count_deferred(waiting, count);
            self.counters.subscriptions_deferred.increment();
            return;
        }
        session.changes_left -= 1.0;
        session.deferred = None;
        let added = topics.len().saturating_sub(session.topics.len());
        self.count_deferred(waiting, 0);
        if added > 0 && self.topics_of_node() + added as u64 > self.shared.settings.node_topics_max as u64 {
            return self.refuse_subscription(now, key, "[amop] node_topics_max");
        }
        if !self.has_room_for_subscriptions(added) {
            return self.refuse_subscription(now, key, "[amop] node_subscriptions_max");
        }
        let Some(session) = self.session_mut(key) else { return };
        let id = session.id;
        let old = std::mem::replace(&mut session.topics, topics.clone());
        self.change_topics(now, (key.index, key, id), &old, &topics, out);
        self.renew_publisher(key.index);
    }

    pub(super) fn apply_deferred_subscription(
        &mut self,
        now: Instant,
        key: LinkKey,
        out: &mut impl Outbound,
    ) {
        let Some(session) = self.session_mut(key) else { return };
        if let Some(topics) = session.deferred.take() {
            self.count_deferred(topics.len(), 0);
            self.subscribe(now, key, topics, out);
        }
    }

    fn refuse_subscription(&mut self, now: Instant, key: LinkKey, bound: &str) {
        self.counters.subscriptions_refused.increment();
        if self.logs.over_bound.admits(now)
            && let Some(session) = self.session_mut(key)
        {
            warn!(
                session = session.id.0, address = %session.address, subject = %session.subject,
                "subscription refused, the old topics stay, for the node has its maximum: raise {bound}, or see who has so many in /sessions?sort=topics&order=desc",
            );
        }
    }

    /// Notes that so many subscriptions of a session waited, and so many wait now.
    fn count_deferred(&self, before: usize, after: usize) {
        let change = (after as u64).wrapping_sub(before as u64);
        self.counters.subscriptions.add(change);
    }

    fn has_room_for_subscriptions(&self, added: usize) -> bool {
        let all: u64 = self.shared.counters.iter().map(|counters| counters.subscriptions.get()).sum();
        added == 0 || all + added as u64 <= self.shared.settings.node_subscriptions_max as u64
    }

    /// Whether the session at a link index subscribes to `topic`.
    pub(super) fn subscribes(&self, index: u32, topic: &str) -> bool {
        match self.links.get(index as usize) {
            Some(Some(Link { kind: LinkKind::Sdk(session), .. })) => {
                session.topics.binary_search_by(|other| other.as_str().cmp(topic)).is_ok()
            }
            _ => false,
        }
    }

    /// Topics of all reactors; one that sessions of several reactors have counts once for each.
    fn topics_of_node(&self) -> u64 {
        self.shared.counters.iter().map(|counters| counters.topics.get()).sum()
    }

    /// Moves a session from one sorted set of topics to another.
    fn change_topics(
        &mut self,
        now: Instant,
        session: (u32, LinkKey, SessionId),
        old: &[Topic],
        new: &[Topic],
        out: &mut impl Outbound,
    ) {
        let (index, ..) = session;
        let mut changes = Vec::new();
        let (mut data_topics, mut markers) = (Vec::new(), Vec::new());
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let (topic, difference): (_, i32) = match (old.peek(), new.peek()) {
                (Some(&before), Some(&after)) if before == after => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some(&before), Some(&after)) if before > after => {
                    new.next();
                    (after, 1)
                }
                (Some(&before), _) => {
                    old.next();
                    (before, -1)
                }
                (None, Some(&after)) => {
                    new.next();
                    (after, 1)
                }
                (None, None) => break,
            };
            self.counters.subscriptions.add(difference as u64);
            if difference > 0 {
                self.local_topics.insert(topic, index);
            } else {
                self.local_topics.remove(topic, index);
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
        self.counters.topics.set(self.local_topics.len() as u64);
        if !changes.is_empty() {
            out.to_registry(RegistryInput::Topics { reactor: self.id, changes });
        }
        self.change_data_topics(index, &data_topics, out);
        self.change_markers(now, session, &markers);
    }

    fn handle_rpc(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        self.counters.rpc_requests.increment();
        let body = frame.advance(HEADER_LEN);
        let whole;
        let body = if body.len() > rpc::BODY_LEN_MAX {
            self.counters.rpc_refused.increment();
            let answer = rpc::too_large();
            self.reply(now, key, FrameType::RPC, &header.seq, ResultCode::OK, &answer, out);
            return;
        } else if body.len() == body.head().len() {
            body.head()
        } else {
            whole = body.pieces().collect::<Vec<_>>().concat();
            &whole[..]
        };
        let elapsed = self.limiter_time(now);
        if !self.shared.rpc_limiter.admit(elapsed, 1) {
            return self.refuse_rpc(now, key, header, body, out);
        }
        match rpc::classify(body, &self.shared.settings) {
            rpc::Plan::Answer(answer) => {
                self.reply(now, key, FrameType::RPC, &header.seq, ResultCode::OK, &answer, out);
            }
            rpc::Plan::Nothing => {}
            rpc::Plan::Registry => {
                let request = RegistryInput::Rpc {
                    reactor: self.id,
                    link: key,
                    seq: header.seq,
                    body: bytes::Bytes::copy_from_slice(body),
                };
                if !self.to_registry(request, out) {
                    self.refuse_rpc(now, key, header, body, out);
                }
            }
        }
    }

    /// Too many requests: each that waits for an answer gets an error.
    fn refuse_rpc(
        &mut self,
        now: Instant,
        key: LinkKey,
        header: &Header,
        body: &[u8],
        out: &mut impl Outbound,
    ) {
        self.counters.rpc_refused.increment();
        if let Some(answer) = rpc::over_rate(body) {
            self.reply(now, key, FrameType::RPC, &header.seq, ResultCode::OK, &answer, out);
        }
    }

    pub(super) fn send_rpc_answer(
        &mut self,
        now: Instant,
        key: LinkKey,
        seq: &Seq,
        body: &[u8],
        out: &mut impl Outbound,
    ) {
        self.shared.rpc_answer_bytes.fetch_sub(body.len(), std::sync::atomic::Ordering::Relaxed);
        if self.session_mut(key).is_some() {
            self.reply(now, key, FrameType::RPC, seq, ResultCode::OK, body, out);
        }
    }

    /// Closes a session that was silent in both directions, or waits for the rest of its time.
    pub(super) fn check_idle(&mut self, now: Instant, key: LinkKey, out: &mut impl Outbound) {
        let idle_timeout = self.shared.settings.idle_timeout;
        let Some(session) = self.session_mut(key) else { return };
        let mut is_active = now.saturating_duration_since(session.last_activity) < idle_timeout;
        if !is_active && let Some(progress) = out.progress(key) {
            // It takes what is sent to it, or it is this node that does not read.
            is_active =
                progress.is_read_paused || now.saturating_duration_since(progress.last_taken) < idle_timeout;
        }
        if is_active {
            let timer = self.idle_timers.start(now, key);
            if let Some(session) = self.session_mut(key) {
                session.idle_timer = Some(timer);
            }
            return;
        }
        session.idle_timer = None;
        self.counters.closed_idle.increment();
        out.close(key, CloseReason::Idle);
    }
}
