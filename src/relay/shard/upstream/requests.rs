//! What a session asks its ledger node: JSON-RPC and event filters.

use super::{
    Asked, CALL_LEN, Call, Context, Due, Filter, FilterKey, Kind, LinkKey, Merged, Outbound, Parts, SeqKey,
    WAIT_MAX, filter,
};
use crate::{
    relay::{
        RegistryInput,
        ledger::{
            BUSY, FILTER_LEN_MAX, NOT_ALLOWED, OUTCOME_UNKNOWN, SESSION_CALLS_MAX, SESSION_FILTERS_MAX,
            UNREACHABLE, call::CHECKED_LEN_MAX,
        },
        rpc,
        shard::{request::LedgerFailure, session::Reply},
    },
    wire::{
        FrameRef, NodeId,
        sdk::{FrameType, HEADER_LEN, Header},
    },
};

/// Results of event filters, as ledger nodes have them.
const INVALID_REQUEST: i64 = -41001;
const REQUEST_TIMEOUT: i64 = -41005;
const FILTER_NOT_ALLOWED: i64 = -41006;

/// Why a request goes no further.
struct Refusal {
    code: i64,
    text: &'static str,
}

impl Parts {
    /// A session's 0x12.
    pub(in crate::relay::shard) fn handle_call(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        cx.counters.rpc_requests.increment();
        let key = self.session_mut(session).and_then(|session| session.public_key);
        let checks = cx.ledger().is_some_and(|ledger| !ledger.allow.is_empty());
        let call = Call::read(frame.advance(HEADER_LEN), checks);
        let elapsed = cx.limiter_time();
        let refusal = if !cx.shared.rpc_limiter.admit(elapsed, 1) {
            cx.counters.rpc_refused.increment();
            Some(Refusal { code: rpc::OVER_RATE, text: "the node's limit of requests per second is reached" })
        } else {
            self.refuse_call(cx, &call, key.as_ref(), frame.len())
        };
        let refusal = refusal.or_else(|| self.refuse_request(cx, session, header, frame.len() + call.cost()));
        let Some(Refusal { code, text }) = refusal else {
            let cost = frame.len() + CALL_LEN + call.cost();
            return self.ask_ledger(cx, session, header, (Kind::Call(call), cost), frame);
        };
        if let Some(answer) = call.error(code, text) {
            self.reply(cx, session, Reply::ok(FrameType::RPC, &header.seq, &answer));
        }
    }

    fn refuse_call(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        call: &Call,
        key: Option<&NodeId>,
        frame_len: usize,
    ) -> Option<Refusal> {
        let ledger = cx.ledger().filter(|ledger| !ledger.allow.is_empty())?;
        let is_admitted = call.groups.iter().all(|group| ledger.admits(*group, key));
        let text = if !is_admitted {
            "the SDK is not allowed to use this group: [ledger] allow of this node leaves its key out"
        } else if frame_len > CHECKED_LEN_MAX {
            "a request above 1 MiB cannot be checked, as [ledger] allow of this node demands"
        } else if !call.is_whole {
            "the request cannot be read, and so not be checked, as [ledger] allow of this node demands"
        } else {
            return None;
        };
        cx.counters.ledger_not_allowed.increment();
        Some(Refusal { code: NOT_ALLOWED, text })
    }

    /// Whether there is no room for one more request of a session.
    fn refuse_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        cost: usize,
    ) -> Option<Refusal> {
        let seq = cx.seq_key(&header.seq);
        let reactors = usize::from(cx.shared.reactors);
        let bytes_max = cx.ledger().map_or(0, |ledger| ledger.bytes_max) / reactors;
        let bytes = self.upstreams.bytes();
        let is_draining = cx.draining;
        let asked = self.upstreams.get(session).map(|upstream| &upstream.asked);
        let text = if is_draining {
            "this node is shutting down"
        } else if asked.as_ref().is_some_and(|asked| asked.contains_key(&seq)) {
            "another request of this connection under the same seq waits for its answer"
        } else if asked.is_some_and(|asked| asked.len() >= SESSION_CALLS_MAX) {
            "too many requests of this connection wait for the ledger node"
        } else if bytes >= bytes_max || (bytes > 0 && cost > bytes_max) {
            "too much waits for the ledger node: see whether it keeps up"
        } else {
            return None;
        };
        cx.counters.ledger_busy.increment();
        Some(Refusal { code: BUSY, text })
    }

    /// A session's 0x15 or 0x16.
    pub(in crate::relay::shard) fn handle_event_filter(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let frame_type = header.frame_type;
        let body = frame.advance(HEADER_LEN);
        let whole: Vec<u8> = match body.len() <= FILTER_LEN_MAX {
            true => body.pieces().collect::<Vec<_>>().concat(),
            false => Vec::new(),
        };
        let key = self.session_mut(session).and_then(|session| session.public_key);
        let registration = filter::Registration::read(&whole);
        let is_new = frame_type == FrameType::EVENT_REGISTER;
        let filters = self.upstreams.get(session).map_or(0, |upstream| upstream.filters.len());
        let result = match &registration {
            None => Some(INVALID_REQUEST),
            Some(one) if !cx.ledger().is_some_and(|ledger| ledger.admits(one.group, key.as_ref())) => {
                cx.counters.ledger_not_allowed.increment();
                Some(FILTER_NOT_ALLOWED)
            }
            Some(_) if is_new && filters >= SESSION_FILTERS_MAX => {
                cx.counters.ledger_busy.increment();
                Some(INVALID_REQUEST)
            }
            Some(_) => self.refuse_request(cx, session, header, frame.len()).map(|_| REQUEST_TIMEOUT),
        };
        let (Some(registration), None) = (registration, result) else {
            let answer = filter::answer(result.unwrap_or(INVALID_REQUEST));
            return self.reply(cx, session, Reply::ok(frame_type, &header.seq, &answer));
        };
        if !is_new {
            self.upstreams.drop_filter(session, &(registration.id.clone(), registration.group));
            if self.upstreams.get(session).and_then(|upstream| upstream.up()).is_none() {
                // Filters end with their connection: there is none to be ended.
                return self.reply(cx, session, Reply::ok(frame_type, &header.seq, &filter::answer(0)));
            }
        }
        let kind = if is_new { Kind::Register(registration) } else { Kind::Unregister };
        self.ask_ledger(cx, session, header, (kind, frame.len() + CALL_LEN), frame);
    }

    /// Sends a request to the ledger node, or keeps it until there is a connection.
    fn ask_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        (kind, cost): (Kind, usize),
        frame: FrameRef<'_>,
    ) {
        let seq = cx.seq_key(&header.seq);
        let timer = self.upstreams.timers.start_until(cx.now + WAIT_MAX, Due::Request { session, seq });
        let up = self.upstreams.get(session).and_then(|upstream| upstream.up());
        let frame = match up {
            // Sent from where it lies.
            Some(link) if !matches!(kind, Kind::Register(_)) && self.send_up(cx, link, (&[], frame)) => None,
            _ => Some(frame.retain()),
        };
        let is_sent = frame.is_none();
        self.upstreams.ask(session, seq, Asked { kind, frame, cost, timer: Some(timer), since: cx.now });
        if is_sent {
            return self.note_asked(cx, session, seq);
        }
        self.upstreams.of(session).unsent.push_back(seq);
        match up {
            Some(link) => {
                self.upstreams.of(session).unsent.pop_back();
                self.send_asked(cx, session, link, &seq);
            }
            None => self.seek_ledger(cx, session),
        }
    }

    /// Sends what was kept.
    pub(super) fn send_asked(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        link: LinkKey,
        seq: &SeqKey,
    ) {
        let Some(asked) = self.upstreams.get(session).and_then(|one| one.asked.get_mut(seq)) else { return };
        let Some(frame) = asked.frame.take() else { return };
        let message = match asked.kind {
            Kind::Unicast(id) => Some(Kind::Unicast(id)),
            Kind::Multicast => Some(Kind::Multicast),
            _ => None,
        };
        let is_sent = match &message {
            Some(kind) => self.put_message(cx, link, (kind, &seq.seq), frame.as_ref()),
            None => self.send_up(cx, link, (&[], frame.as_ref())),
        };
        if is_sent && message.is_some() {
            return self.note_message_sent(cx, session, seq);
        }
        if !is_sent {
            // It takes nothing any more, or is about to end. Nothing was sent, so nothing can have come of it.
            if let Some(asked) = self.upstreams.get(session).and_then(|one| one.asked.get_mut(seq)) {
                asked.frame = Some(frame);
            }
            cx.counters.ledger_busy.increment();
            let text = "too much waits for the ledger node: see whether it keeps up";
            return self.refuse_asked(cx, session, seq, &Refusal { code: BUSY, text });
        }
        let upstream = self.upstreams.get(session).and_then(|one| one.asked.get(seq));
        if let Some(Asked { kind: Kind::Register(registration), .. }) = upstream {
            let key = (registration.id.clone(), registration.group);
            let filter = Filter { frame, next_block: None, last_block: registration.last_block };
            self.upstreams.keep_filter(session, key, filter);
        }
        self.note_asked(cx, session, *seq);
    }

    /// A request was sent: its answer is waited for longer than a connection.
    fn note_asked(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey, seq: SeqKey) {
        cx.counters.ledger_requests.increment();
        let node = self.upstreams.get(session).map(|one| one.node);
        if let Some(of_node) = node.and_then(|node| cx.of_ledger(node)) {
            of_node.requests.increment();
        }
        let timer = self.upstreams.timers.start(cx.now, Due::Request { session, seq });
        if let Some(asked) = self.upstreams.get(session).and_then(|one| one.asked.get_mut(&seq)) {
            let before = asked.timer.replace(timer);
            before.map(|before| self.upstreams.timers.cancel(before));
        }
    }

    /// Answers a request that was not sent.
    fn refuse_asked(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: &SeqKey,
        Refusal { code, text }: &Refusal,
    ) {
        let Some(asked) = self.upstreams.end(session, seq) else { return };
        if matches!(asked.kind, Kind::Unicast(_) | Kind::Multicast) {
            let failure =
                if *code == UNREACHABLE { LedgerFailure::NotReached } else { LedgerFailure::NotTaken };
            return self.end_message(cx, asked, failure);
        }
        let Asked { kind, frame, .. } = asked;
        let (frame_type, answer) = match kind {
            Kind::Call(call) => {
                if call.merged.is_some()
                    && let Some(frame) = &frame
                    && self.answer_for_ledger(cx, session, seq, frame.as_ref())
                {
                    return;
                }
                (FrameType::RPC, call.error(*code, text))
            }
            Kind::Register(_) => (FrameType::EVENT_REGISTER, Some(filter::answer(REQUEST_TIMEOUT))),
            Kind::Unregister => (FrameType::EVENT_UNREGISTER, Some(filter::answer(0))),
            Kind::Again(_) | Kind::Unicast(_) | Kind::Multicast => return,
        };
        if let Some(answer) = answer {
            self.reply(cx, session, Reply::ok(frame_type, &seq.seq, &answer));
        }
    }

    /// Without a ledger node, nodes and topics of AMOP are there still: applications look for topics.
    fn answer_for_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: &SeqKey,
        frame: FrameRef<'_>,
    ) -> bool {
        let body = frame.advance(HEADER_LEN);
        if body.len() > rpc::BODY_LEN_MAX {
            return false;
        }
        let body = bytes::Bytes::from(body.pieces().collect::<Vec<_>>().concat());
        let reactor = cx.id;
        cx.tell_registry(RegistryInput::Rpc { reactor, link: session, seq: seq.seq, body, ledger: None })
    }

    /// The time of a request is up: for a connection, or for its answer.
    pub(super) fn end_late_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: SeqKey,
    ) {
        let Some(asked) = self.upstreams.get(session).and_then(|one| one.asked.get(&seq)) else { return };
        if asked.frame.is_some() {
            if !matches!(asked.kind, Kind::Unicast(_) | Kind::Multicast) {
                cx.counters.ledger_unreachable.increment();
            }
            let text =
                "no ledger node can be reached now; nothing was sent: see [ledger] node.N of this node";
            return self.refuse_asked(cx, session, &seq, &Refusal { code: UNREACHABLE, text });
        }
        cx.counters.ledger_unanswered.increment();
        let text = "the ledger node has not answered in time; the outcome is unknown";
        self.end_unknown(cx, session, &seq, text);
    }

    /// Answers a request that was sent and whose answer does not come.
    fn end_unknown(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: &SeqKey,
        text: &str,
    ) {
        let Some(asked) = self.upstreams.end(session, seq) else { return };
        if matches!(asked.kind, Kind::Unicast(_)) {
            return self.end_message(cx, asked, LedgerFailure::Lost);
        }
        let (frame_type, answer) = match asked.kind {
            Kind::Call(call) => {
                cx.counters.ledger_outcome_unknown.increment();
                let node = self.upstreams.get(session).map(|one| one.node);
                if let Some(of_node) = node.and_then(|node| cx.of_ledger(node)) {
                    of_node.outcome_unknown.increment();
                }
                (FrameType::RPC, call.error(OUTCOME_UNKNOWN, text))
            }
            Kind::Register(registration) => {
                self.upstreams.drop_filter(session, &(registration.id, registration.group));
                (FrameType::EVENT_REGISTER, Some(filter::answer(REQUEST_TIMEOUT)))
            }
            // With the connection, the filter has ended.
            Kind::Unregister => (FrameType::EVENT_UNREGISTER, Some(filter::answer(0))),
            Kind::Again(_) | Kind::Unicast(_) | Kind::Multicast => return,
        };
        if let Some(answer) = answer {
            self.reply(cx, session, Reply::ok(frame_type, &seq.seq, &answer));
        }
    }

    /// The connection is lost: what was sent over it is answered, but registrations, which may be sent again.
    pub(super) fn end_asked_by_loss(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey) {
        let Some(upstream) = self.upstreams.get(session) else { return };
        let sent = upstream.asked.iter().filter(|(_, asked)| asked.frame.is_none());
        let mut sent: Vec<SeqKey> = sent.map(|(seq, _)| *seq).collect();
        // In the order in which they were asked.
        sent.sort_by_key(|seq| upstream.asked.get(seq).map(|asked| asked.since));
        for seq in sent {
            let Some(upstream) = self.upstreams.get(session) else { return };
            let key = match upstream.asked.get(&seq).map(|asked| &asked.kind) {
                Some(Kind::Register(registration)) => Some((registration.id.clone(), registration.group)),
                _ => None,
            };
            match key.and_then(|key| self.upstreams.drop_filter(session, &key)) {
                Some(filter) => self.ask_again(cx, session, seq, filter),
                None => {
                    let text = "the ledger node was lost; the outcome is unknown";
                    self.end_unknown(cx, session, &seq, text);
                }
            }
        }
    }

    /// A registration whose answer did not come waits for the next connection.
    fn ask_again(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: SeqKey,
        filter: Filter,
    ) {
        let timer = self.upstreams.timers.start_until(cx.now + WAIT_MAX, Due::Request { session, seq });
        let Some(upstream) = self.upstreams.get(session) else { return };
        let Some(asked) = upstream.asked.get_mut(&seq) else { return };
        asked.frame = Some(filter.frame);
        let before = asked.timer.replace(timer);
        upstream.unsent.push_back(seq);
        before.map(|before| self.upstreams.timers.cancel(before));
    }

    /// Opens a filter at a new connection, where its logs have come to.
    pub(super) fn open_filter_again(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        link: LinkKey,
        key: FilterKey,
    ) {
        let Some(filter) = self.upstreams.get(session).and_then(|one| one.filters.get(&key)) else { return };
        if let (Some(next), Some(last)) = (filter.next_block, filter.last_block)
            && next > last
        {
            return self.end_filter(cx, session, &key, super::answers::PUSH_COMPLETED);
        }
        let frame = filter.frame.as_ref();
        let body: Vec<u8> = frame.advance(HEADER_LEN).pieces().collect::<Vec<_>>().concat();
        let body = match filter.next_block {
            Some(block) => filter::from_block(&body, block).into_owned(),
            None => body,
        };
        let own = cx.own_seq();
        let seq = cx.seq_key(&own);
        if self.send_own(cx, link, (FrameType::EVENT_REGISTER, &own), &body) {
            cx.counters.ledger_filters_again.increment();
            let timer = self.upstreams.timers.start(cx.now, Due::Request { session, seq });
            let asked = Asked {
                kind: Kind::Again(key),
                frame: None,
                cost: CALL_LEN,
                timer: Some(timer),
                since: cx.now,
            };
            self.upstreams.ask(session, seq, asked);
        }
    }
}

impl Asked {
    /// Whether its result is merged with what is known here.
    pub(super) fn merged(&self) -> Option<Merged> {
        match &self.kind {
            Kind::Call(call) => call.merged,
            _ => None,
        }
    }
}
