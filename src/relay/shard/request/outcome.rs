//! What came of a try, and how a request ends: each path out of the table answers it once.

use std::sync::Arc;

use super::{super::session_of, AnsweredBy, CurrentAttempt, Ended, Furthest, Origin, Request, answer_frame};
use crate::{
    relay::{
        MeshMessage, NotPushed, Outbound, ReactorId, RequestId, SessionId,
        counters::Outcome,
        shard::{Context, Parts, trace::Finished},
        trace::Sender,
    },
    wire::{
        FrameRef, MessageNumber, ResultCode,
        sdk::{HEADER_LEN, Header, Seq},
        trace::{AttemptOutcome, End},
    },
};

impl Parts {
    pub(in crate::relay::shard) fn handle_undeliverable(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        reactor: ReactorId,
        why: NotPushed,
        frame: FrameRef<'_>,
    ) {
        if !frame.is_empty() {
            self.retain(cx, id, frame);
        }
        let Some(request) = self.request_mut(id) else { return };
        request.end_refused_attempt(cx.now, why);
        // If whom it waited for has left, others may have come meanwhile.
        if frame.is_empty() || why != NotPushed::NobodyLeft {
            request.failed().exhausted.push(reactor);
        }
        request.furthest = request.furthest.max(Furthest::NotDelivered);
        if request.current == CurrentAttempt::Reactor(reactor)
            || request.current == CurrentAttempt::ChallengeBroker
        {
            self.retry(cx, id);
        }
    }

    pub(in crate::relay::shard) fn handle_push_failed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        session: SessionId,
        seq: Seq,
        silent: bool,
    ) {
        let retry_silent = cx.shared.settings.retry_after_push_timeout;
        let Some(request) = self.request_mut(id) else {
            if silent {
                self.forget_push_anywhere(cx, session, &seq);
            }
            return;
        };
        request.furthest = Furthest::Pushed;
        if silent {
            request.failed().silent.push(session);
        } else if let Some(position) = request.silent().iter().position(|&other| other == session) {
            // It was given up already; now it cannot answer late either.
            request.failed().silent.swap_remove(position);
            return;
        }
        let outcome = if silent { AttemptOutcome::Silent } else { AttemptOutcome::Left };
        request.end_session_attempt(cx.now, session, outcome);
        request.failed().attempted.push(session);
        if silent && !retry_silent {
            self.give_up(cx, id);
        } else {
            self.retry(cx, id);
        }
    }

    pub(in crate::relay::shard) fn handle_forward_failed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        message: MessageNumber,
        taken: bool,
    ) {
        let Some(request) = self.request_mut(id) else { return };
        let (reached, outcome) = match taken {
            true => (Furthest::Pushed, AttemptOutcome::NotHeard),
            false => (Furthest::NotSent, AttemptOutcome::NotTaken),
        };
        request.end_node_attempt(cx.now, message, outcome);
        request.furthest = request.furthest.max(reached);
        if request.current == CurrentAttempt::Node(message) {
            self.retry(cx, id);
        }
    }

    /// The time of a request is up.
    pub(in crate::relay::shard) fn handle_request_timeout(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
    ) {
        let own = cx.id;
        let Some(request) = self.request_mut(id) else { return };
        request.timer = None;
        request.deadline = request.deadline.min(cx.now);
        // The retained frame is of no use any more; whatever is reported now ends the request.
        let current = request.current;
        let node = request.nodes.last().cloned();
        self.requests.drop_retained(id);
        match (current, node) {
            (CurrentAttempt::Reactor(_) | CurrentAttempt::ChallengeBroker, _) => {
                self.note_pushed(id);
                self.close_request(cx, id);
            }
            (CurrentAttempt::Node(message), Some((node, _))) if node.reactor != own => {
                let forget = MeshMessage::ForgetForward { node: node.id, message, report: true };
                cx.out.to_reactor(node.reactor, forget, FrameRef::EMPTY);
                // The report ends the request. Should the link's shard know nothing of the message any
                // more, its answer is on the way and does.
            }
            (CurrentAttempt::Node(message), Some((node, _))) => {
                let taken =
                    self.forget_forward(cx.common, cx.now, &node.id, message).is_some_and(|(_, taken)| taken);
                self.handle_forward_failed(cx, id, message, taken);
            }
            (CurrentAttempt::Ledger, _) => self.end_ledger_attempt(cx, id),
            _ => self.close_request(cx, id),
        }
    }

    fn note_pushed(&mut self, id: RequestId) {
        if let Some(request) = self.request_mut(id) {
            request.furthest = Furthest::Pushed;
        }
    }

    /// Nobody is left to try: answers with how far it got. A neighbour's request with silent sessions
    /// stays open behind that, so that a late answer still reaches the publisher.
    pub(super) fn give_up(&mut self, cx: &mut Context<'_, impl Outbound>, id: RequestId) {
        let Some(request) = self.request_mut(id) else { return };
        if let Origin::Node(origin) = request.origin
            && !request.silent().is_empty()
            && request.timer.is_some()
        {
            if request.answered_for_now.replace(cx.now).is_none() {
                let answer = answer_frame(&request.seq.seq, request.furthest.code());
                self.respond(cx, &origin, true, FrameRef::Slice(&answer));
            }
            return;
        }
        self.close_request(cx, id);
    }

    pub(super) fn close_request(&mut self, cx: &mut Context<'_, impl Outbound>, id: RequestId) {
        if let Some(request) = self.request_mut(id) {
            let code = request.furthest.code();
            self.answer_myself(cx, id, code);
        }
    }

    /// Ends a request with an answer of the node's own making: empty data (WIRE §3).
    pub(super) fn answer_myself(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        code: ResultCode,
    ) {
        let Some(request) = self.requests.get(id) else { return };
        let answer = answer_frame(&request.seq.seq, code);
        self.note_end(cx, id, End::ByNode, code, |_| ());
        let Some(request) = self.end_request(cx, id, AnsweredBy::Nobody) else { return };
        match request.origin {
            Origin::Session { key, .. } => {
                cx.count_answer(code);
                cx.note_latency(&request, Outcome::of(code));
                self.send_to_session(cx, key, &answer, FrameRef::EMPTY);
            }
            Origin::Node(origin) if !request.is_answered_for_now => {
                self.respond(cx, &origin, true, FrameRef::Slice(&answer));
            }
            Origin::Node(_) => {}
        }
    }

    /// A session that has the request answered; `frame` is its 0x31, passed on unchanged.
    pub(in crate::relay::shard) fn answer_from_session(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        session: SessionId,
        frame: FrameRef<'_>,
    ) {
        let now = cx.now;
        let attempt =
            |request: &mut Request| request.end_session_attempt(now, session, AttemptOutcome::Answered);
        self.note_end(cx, id, End::BySession, result_of(frame), attempt);
        let Some(request) = self.end_request(cx, id, AnsweredBy::Session(session)) else {
            cx.counters.late_answers.increment();
            return;
        };
        match request.origin {
            Origin::Session { key, .. } => {
                cx.counters.answered_by_subscriber.increment();
                cx.note_latency(&request, Outcome::Answered);
                self.send_to_session(cx, key, &[], frame);
            }
            Origin::Node(origin) => self.respond(cx, &origin, false, frame),
        }
    }

    /// A destination node answered.
    pub(in crate::relay::shard) fn answer_from_node(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        message: MessageNumber,
        by_node: bool,
        frame: FrameRef<'_>,
    ) {
        let Some(request) = self.requests.get(id) else {
            if !by_node {
                cx.counters.late_answers.increment();
            }
            return;
        };
        // Passed on unchanged, an answer under another seq would answer nothing, or another request: the
        // node has failed.
        let header = Header::decode(frame.head()).filter(|header| header.seq == request.seq.seq);
        if !by_node && header.is_some() {
            if let Origin::Session { key, .. } = request.origin
                && self.publishers.by_link.contains_key(&key.index)
                && let Some((node, _)) = request.nodes.iter().find(|(_, sent)| *sent == message)
            {
                let node = node.id;
                self.note_challenge_answered(cx, key.index, &node, frame);
            }
            let now = cx.now;
            let attempt =
                |request: &mut Request| request.end_node_attempt(now, message, AttemptOutcome::Answered);
            self.note_end(cx, id, End::BySession, result_of(frame), attempt);
            let answered = AnsweredBy::Node(message);
            let Some(request) = self.end_request(cx, id, answered) else { return };
            if let Origin::Session { key, .. } = request.origin {
                cx.counters.answered_by_subscriber.increment();
                cx.note_latency(&request, Outcome::Answered);
                self.send_to_session(cx, key, &[], frame);
            }
            return;
        }
        let code = header.map_or(ResultCode::NOT_DELIVERED, |header| header.result);
        let Some(request) = self.request_mut(id) else { return };
        let (reached, outcome) = match code {
            ResultCode::TIMEOUT => (Furthest::Pushed, AttemptOutcome::TimedOut),
            _ => (Furthest::NotDelivered, AttemptOutcome::NotDelivered),
        };
        request.end_node_attempt(cx.now, message, outcome);
        request.furthest = request.furthest.max(reached);
        if request.current == CurrentAttempt::Node(message) {
            self.retry(cx, id);
        }
    }

    /// Takes a request out of the table and lets go of everything that still waits for it.
    pub(super) fn end_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        answered_by: AnsweredBy,
    ) -> Option<Ended> {
        let bytes_max = cx.shared.settings.open_requests_bytes_max();
        let Self { requests, links, .. } = self;
        let request = requests.stop(id)?;
        let (origin, taken_nanos) = (request.origin, request.taken_nanos);
        let is_answered_for_now = request.is_answered_for_now();
        if let Origin::Session { key, .. } = origin
            && let Some(session) = session_of(links, key)
        {
            session.requests.remove(&request.seq);
            session.end_request(cx, request.size as usize, bytes_max);
        }
        // One that is pushed to the session that answers waits nowhere; one that a silent session answers late may.
        let is_pushed = match answered_by {
            AnsweredBy::Session(session) => !request.attempted().contains(&session),
            AnsweredBy::Nobody | AnsweredBy::Node(_) => false,
        };
        let waits_at = match request.current {
            CurrentAttempt::Reactor(reactor) if request.may_wait && !is_pushed => Some(reactor),
            _ => None,
        };
        let asks_ledger = request.current == CurrentAttempt::Ledger;
        let nodes = std::mem::take(&mut request.nodes);
        let failed = request.failed.take().map(|failed| (failed, request.seq.seq));
        request.close();
        requests.free.push(id.index);
        if let (true, Origin::Session { key, .. }) = (asks_ledger, origin) {
            self.forget_unicast(cx, key, id);
        }
        if let Some(reactor) = waits_at {
            self.send_to_reactor(cx, reactor, MeshMessage::ForgetWait { request: id }, FrameRef::EMPTY);
        }
        if let Some((failed, seq)) = failed {
            let waits = |&&session: &&SessionId| answered_by != AnsweredBy::Session(session);
            for &session in failed.silent.iter().filter(waits) {
                self.forget_push_anywhere(cx, session, &seq);
            }
        }
        // Where an answer came from, the home of that node waits for none any more.
        for (node, message) in nodes.iter().filter(|(_, message)| answered_by != AnsweredBy::Node(*message)) {
            let forget = MeshMessage::ForgetForward { node: node.id, message: *message, report: false };
            self.send_to_reactor(cx, node.reactor, forget, FrameRef::EMPTY);
        }
        Some(Ended { origin, taken_nanos, is_answered_for_now })
    }

    fn forget_push_anywhere(&mut self, cx: &mut Context<'_, impl Outbound>, session: SessionId, seq: &Seq) {
        let forget = MeshMessage::ForgetPush { session, seq: *seq };
        self.send_to_reactor(cx, session.reactor(), forget, FrameRef::EMPTY);
    }

    /// The publisher is gone; nobody waits for the answer.
    pub(in crate::relay::shard) fn abandon_request(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        sender: Arc<Sender>,
    ) {
        if let Some(request) = self.requests.get(id) {
            let trace = request.trace(cx.now, End::SenderLeft, ResultCode::OK);
            let (seq, taken, topic) = (request.seq.seq, request.taken, request.topic);
            cx.common.keep(Finished { seq, taken, topic, sender: Some(sender), trace }, true);
            self.end_request(cx, id, AnsweredBy::Nobody);
        }
    }
}

/// The code of an answer that a session gave.
fn result_of(frame: FrameRef<'_>) -> ResultCode {
    let code = frame.head().get(HEADER_LEN - 4..HEADER_LEN).and_then(|code| code.first_chunk());
    ResultCode(code.map_or(0, |&code| i32::from_be_bytes(code)))
}

impl<O: Outbound> Context<'_, O> {
    pub(super) fn note_latency(&mut self, request: &Ended, outcome: Outcome) {
        let took = self.micros_since(request.taken_nanos);
        self.counters.latencies.requests(outcome).record_micros(took);
    }
}
