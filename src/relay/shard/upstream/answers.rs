//! What a ledger node says: answers, receipts, block notices, logs of events.

use tracing::debug;

use super::{Asked, Class, Context, FilterKey, Kind, LinkKey, NOTICE_SEQ, Outbound, Parts, State, filter};
use crate::{
    relay::{RegistryInput, SMALL_REPLY_LEN_MAX, SendError, ledger::merge::MERGED_LEN_MAX},
    wire::{
        FrameRef, ResultCode,
        sdk::{FrameType, HEADER_LEN, Header, Seq},
    },
};

/// The result of a filter that has come to its last block, as ledger nodes have it.
pub(super) const PUSH_COMPLETED: i64 = 1;

impl Parts {
    /// A frame of a ledger node.
    pub(in crate::relay::shard) fn handle_ledger_frame(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let Some(header) = Header::decode(frame.head()) else { return };
        cx.counters.ledger_frames_received.increment();
        let node = self.upstreams.get(session).map(|one| one.node);
        let is_notice =
            matches!(header.frame_type, FrameType::RECEIPT | FrameType::BLOCK_NOTICE | FrameType::EVENT_LOGS);
        if let Some(of_node) = node.and_then(|node| cx.of_ledger(node)) {
            of_node.received_bytes.add(frame.len() as u64);
            of_node.notices.add(is_notice.into());
        }
        match header.frame_type {
            FrameType::RPC => self.handle_ledger_answer(cx, session, &header, frame),
            FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER => {
                self.handle_filter_answer(cx, session, &header, frame);
            }
            FrameType::HANDSHAKE => {
                let is_greeting = self
                    .upstreams
                    .get(session)
                    .is_some_and(|one| matches!(one.state, State::Greeting { .. }));
                if is_greeting {
                    self.handle_greeted(cx, session);
                }
            }
            FrameType::HEARTBEAT => {}
            FrameType::EVENT_LOGS => {
                cx.counters.ledger_notices.increment();
                self.note_logs(session, frame);
                self.give_to_session(cx, session, frame);
            }
            FrameType::RECEIPT | FrameType::BLOCK_NOTICE => {
                cx.counters.ledger_notices.increment();
                self.give_to_session(cx, session, frame);
            }
            FrameType::RESPONSE if cx.carries_amop() => {
                self.handle_message_answer(cx, session, &header, frame);
            }
            FrameType::REQUEST | FrameType::MULTICAST if cx.carries_amop() => {
                self.handle_push_of_ledger(cx, session, &header, frame);
            }
            FrameType(frame_type) => {
                debug!(frame_type, "a ledger node sends what is not passed on");
                cx.counters.ledger_ignored.increment();
            }
        }
    }

    fn handle_ledger_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let is_call = |kind: &Kind| matches!(kind, Kind::Call(_));
        let Some(asked) = self.end_awaited(cx, session, header, is_call) else { return };
        let took = cx.now.saturating_duration_since(asked.since);
        cx.counters.latencies.ledger.record(took);
        let node = self.upstreams.get(session).map(|one| one.node);
        if let Some(of_node) = node.and_then(|node| cx.of_ledger(node)) {
            of_node.latency.record(took);
        }
        let body = frame.advance(HEADER_LEN);
        let merged = asked.merged().filter(|_| body.len() <= MERGED_LEN_MAX);
        if merged.is_some() {
            let body = bytes::Bytes::from(body.pieces().collect::<Vec<_>>().concat());
            let (reactor, seq) = (cx.id, header.seq);
            if cx.tell_registry(RegistryInput::Rpc { reactor, link: session, seq, body, ledger: merged }) {
                return;
            }
        }
        self.give_answer_to_session(cx, session, frame);
    }

    /// An answer of the ledger node in which the registry has put what is known here. It waits for its session as the
    /// ledger node's other answers do, and so takes nothing of the room for messages.
    pub(in crate::relay::shard) fn handle_merged_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: &Seq,
        body: &[u8],
    ) {
        let len = (HEADER_LEN + body.len()) as u32;
        let header = Header { len, frame_type: FrameType::RPC, seq: *seq, result: ResultCode::OK };
        let frame = [&header.encode()[..], body].concat();
        self.give_answer_to_session(cx, session, FrameRef::Slice(&frame));
    }

    /// Ends the request that a frame answers, if it is of a kind that such a frame answers.
    fn end_awaited(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        is_answered: impl Fn(&Kind) -> bool,
    ) -> Option<Asked> {
        let seq = cx.seq_key(&header.seq);
        let is_awaited = self
            .upstreams
            .get(session)
            .and_then(|one| one.asked.get(&seq))
            .is_some_and(|asked| asked.frame.is_none() && is_answered(&asked.kind));
        let asked = is_awaited.then(|| self.upstreams.end(session, &seq)).flatten();
        if asked.is_none() {
            // It came too late, or nobody asked.
            cx.counters.ledger_ignored.increment();
        }
        asked
    }

    fn handle_filter_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let is_answered = |kind: &Kind| match kind {
            Kind::Register(_) | Kind::Again(_) => header.frame_type == FrameType::EVENT_REGISTER,
            Kind::Unregister => header.frame_type == FrameType::EVENT_UNREGISTER,
            Kind::Call(_) | Kind::Unicast(_) | Kind::Multicast => false,
        };
        let Some(asked) = self.end_awaited(cx, session, header, is_answered) else { return };
        let result = filter::result_of(frame.advance(HEADER_LEN).head()).unwrap_or_default();
        match asked.kind {
            Kind::Again(key) => {
                if result != 0 {
                    self.end_filter(cx, session, &key, result);
                }
                return;
            }
            Kind::Register(registration) if result != 0 => {
                self.upstreams.drop_filter(session, &(registration.id, registration.group));
            }
            _ => {}
        }
        self.give_answer_to_session(cx, session, frame);
    }

    /// A filter is over that the session believes to be open.
    pub(super) fn end_filter(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        key: &FilterKey,
        result: i64,
    ) {
        if self.upstreams.drop_filter(session, key).is_none() {
            return;
        }
        if result != PUSH_COMPLETED {
            cx.counters.ledger_filters_refused.increment();
        }
        let data = filter::ended(&key.0, result);
        let len = (HEADER_LEN + data.len()) as u32;
        let header =
            Header { len, frame_type: FrameType::EVENT_LOGS, seq: NOTICE_SEQ, result: ResultCode::OK };
        let frame = [&header.encode()[..], &data].concat();
        self.give_to_session(cx, session, FrameRef::Slice(&frame));
    }

    /// How far the logs of a filter have come, and whether there will be more.
    fn note_logs(&mut self, session: LinkKey, frame: FrameRef<'_>) {
        let Some(push) = filter::Push::read(frame.advance(HEADER_LEN)) else { return };
        let Some(upstream) = self.upstreams.get(session) else { return };
        let range = (push.id.clone(), 0)..=(push.id, u32::MAX);
        let keys: Vec<FilterKey> = upstream.filters.range(range).map(|(key, _)| key.clone()).collect();
        // Of two groups' filters with one id nobody can tell which it is.
        let [key] = &keys[..] else { return };
        if push.result != 0 {
            self.upstreams.drop_filter(session, key);
        } else if let Some(filter) = upstream.filters.get_mut(key) {
            filter.next_block = filter.next_block.max(push.last_block.map(|block| block.saturating_add(1)));
        }
    }

    /// Passes an answer on to the session: a small one at once, as this node's own.
    fn give_answer_to_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let is_small = frame.len() <= SMALL_REPLY_LEN_MAX;
        if is_small && cx.out.send(session, Class::Control, &[], frame).is_ok() {
            cx.counters.sdk_frames_sent.increment();
            return;
        }
        self.give_to_session(cx, session, frame);
    }

    /// Passes a frame on to the session, behind what waits for it. While anything does, the ledger node is read no further.
    pub(super) fn give_to_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        frame: FrameRef<'_>,
    ) {
        let Some(upstream) = self.upstreams.get(session) else { return };
        if upstream.arrived.is_empty() {
            match cx.out.send(session, Class::Ledger, &[], frame) {
                Ok(_) => {
                    cx.counters.sdk_frames_sent.increment();
                    return;
                }
                Err(SendError::Gone) => return,
                Err(SendError::Full) => {}
            }
            cx.counters.ledger_reads_paused.increment();
            if let Some(link) = upstream.link() {
                cx.out.pause_reading(link, true);
            }
            cx.out.watch_room(session, Class::Ledger, frame.len());
        }
        upstream.arrived.push_back(frame.retain());
        self.upstreams.bytes += frame.len();
        cx.counters.ledger_bytes.set(self.upstreams.bytes as u64);
    }

    /// A session takes what comes from the ledger again.
    pub(in crate::relay::shard) fn handle_ledger_room(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
    ) {
        while let Some(upstream) = self.upstreams.get(session)
            && let Some(frame) = upstream.arrived.pop_front()
        {
            match cx.out.send(session, Class::Ledger, &[], frame.as_ref()) {
                Ok(_) => cx.counters.sdk_frames_sent.increment(),
                Err(SendError::Gone) => {}
                Err(SendError::Full) => {
                    cx.out.watch_room(session, Class::Ledger, frame.len());
                    upstream.arrived.push_front(frame);
                    return;
                }
            }
            let (is_last, link) = (upstream.arrived.is_empty(), upstream.link());
            self.upstreams.bytes -= frame.len();
            if let Some(link) = link.filter(|_| is_last) {
                cx.out.pause_reading(link, false);
            }
        }
    }
}
