//! What came of a try, and how a request ends: each path out of the table answers it once.

use std::{sync::Arc, time::Instant};

use super::{
    super::{Shard, session_of},
    AnsweredBy, Ended, Furthest, Origin, Request, Try, answer_frame,
};
use crate::{
    relay::{
        MeshMessage, NotPushed, Outbound, ReactorId, RequestId, SessionId, counters::Outcome, trace::Sender,
    },
    wire::{
        FrameRef, ResultCode, RetainedFrame,
        sdk::{HEADER_LEN, Header, Seq},
        trace::{End, Fate},
    },
};

impl Shard {
    /// A challenged session could not take its challenge.
    pub(in crate::relay::shard) fn report_not_presented(
        &mut self,
        now: Instant,
        coordinator: ReactorId,
        request: RequestId,
        out: &mut impl Outbound,
    ) {
        let (request, why) = ((coordinator, request), NotPushed::ChallengeClosed);
        self.report_undeliverable(now, request, why, FrameRef::Slice(&[]), out);
    }

    pub(in crate::relay::shard) fn handle_undeliverable(
        &mut self,
        now: Instant,
        id: RequestId,
        reactor: ReactorId,
        why: NotPushed,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        if !frame.is_empty() {
            self.retain(id, frame);
        }
        let Some(request) = self.request_mut(id) else { return };
        request.end_refused_step(now, why);
        // If whom it waited for has left, others may have come meanwhile.
        if frame.is_empty() || why != NotPushed::NobodyLeft {
            request.failed().exhausted.push(reactor);
        }
        request.furthest = request.furthest.max(Furthest::NotDelivered);
        if request.current == Try::Reactor(reactor) || request.current == Try::Desk {
            self.retry(now, id, out);
        }
    }

    pub(in crate::relay::shard) fn handle_push_failed(
        &mut self,
        now: Instant,
        id: RequestId,
        session: SessionId,
        seq: Seq,
        silent: bool,
        out: &mut impl Outbound,
    ) {
        let retry_silent = self.shared.settings.retry_after_push_timeout;
        let Some(request) = self.request_mut(id) else {
            if silent {
                self.forget_push_anywhere(session, &seq, out);
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
        let fate = if silent { Fate::Silent } else { Fate::Left };
        request.end_session_step(now, session, fate);
        request.failed().tried.push(session);
        if silent && !retry_silent {
            self.give_up(now, id, out);
        } else {
            self.retry(now, id, out);
        }
    }

    pub(in crate::relay::shard) fn handle_forward_failed(
        &mut self,
        now: Instant,
        id: RequestId,
        message: u32,
        taken: bool,
        out: &mut impl Outbound,
    ) {
        let Some(request) = self.request_mut(id) else { return };
        let (reached, fate) = match taken {
            true => (Furthest::Pushed, Fate::NotHeard),
            false => (Furthest::NotSent, Fate::NotTaken),
        };
        request.end_node_step(now, message, fate);
        request.furthest = request.furthest.max(reached);
        if request.current == Try::Node(message) {
            self.retry(now, id, out);
        }
    }

    /// The time of a request is up.
    pub(in crate::relay::shard) fn handle_request_timeout(
        &mut self,
        now: Instant,
        id: RequestId,
        out: &mut impl Outbound,
    ) {
        let own = self.id;
        let Some(request) = self.request_mut(id) else { return };
        request.timer = None;
        request.deadline = request.deadline.min(now);
        // The retained frame is of no use any more; whatever is reported now ends the request.
        let freed = request.retained.take().map_or(0, |frame| frame.len());
        let current = request.current;
        let node = request.nodes.last().cloned();
        self.retained_bytes -= freed;
        match (current, node) {
            (Try::Reactor(_) | Try::Desk, _) => {
                self.note_pushed(id);
                self.close_request(now, id, out);
            }
            (Try::Node(message), Some((node, _))) if node.reactor != own => {
                let forget = MeshMessage::ForgetForward { node: node.id, message, report: true };
                out.to_reactor(node.reactor, forget, FrameRef::Slice(&[]));
                // The report ends the request. Should the link's shard know nothing of the message any
                // more, its answer is on the way and does.
            }
            (Try::Node(message), Some((node, _))) => {
                let taken = self.forget_forward(now, &node.id, message).is_some_and(|(_, taken)| taken);
                self.handle_forward_failed(now, id, message, taken, out);
            }
            _ => self.close_request(now, id, out),
        }
    }

    fn note_pushed(&mut self, id: RequestId) {
        if let Some(request) = self.request_mut(id) {
            request.furthest = Furthest::Pushed;
        }
    }

    /// Nobody is left to try: answers with how far it got. A neighbour's request with silent sessions
    /// stays open behind that, so that a late answer still reaches the publisher.
    pub(super) fn give_up(&mut self, now: Instant, id: RequestId, out: &mut impl Outbound) {
        let Some(request) = self.request_mut(id) else { return };
        if let Origin::Node { id: node, incarnation, message } = request.origin
            && !request.silent().is_empty()
            && request.timer.is_some()
        {
            if request.answered_for_now.replace(now).is_none() {
                let answer = answer_frame(&request.seq.seq, request.furthest.code());
                self.respond(now, (&node, incarnation, message), true, FrameRef::Slice(&answer), out);
            }
            return;
        }
        self.close_request(now, id, out);
    }

    pub(super) fn close_request(&mut self, now: Instant, id: RequestId, out: &mut impl Outbound) {
        if let Some(request) = self.request_mut(id) {
            let code = request.furthest.code();
            self.answer_myself(now, id, code, out);
        }
    }

    /// Ends a request with an answer of the node's own making: empty data (WIRE §3).
    pub(super) fn answer_myself(
        &mut self,
        now: Instant,
        id: RequestId,
        code: ResultCode,
        out: &mut impl Outbound,
    ) {
        let Some(request) = self.requests.get(id) else { return };
        let answer = answer_frame(&request.seq.seq, code);
        self.note_end(now, id, End::ByNode, code, |_| ());
        let Some(request) = self.end_request(now, id, AnsweredBy::Nobody, out) else { return };
        match request.origin {
            Origin::Session { key, .. } => {
                self.count_answer(code);
                self.note_latency(now, &request, Outcome::of(code));
                self.send_to_session(now, key, &answer, FrameRef::Slice(&[]), out);
            }
            Origin::Node { id, incarnation, message } if !request.is_answered_for_now => {
                self.respond(now, (&id, incarnation, message), true, FrameRef::Slice(&answer), out);
            }
            Origin::Node { .. } => {}
        }
    }

    /// A session that has the request answered; `frame` is its 0x31, passed on unchanged.
    pub(in crate::relay::shard) fn answer_from_session(
        &mut self,
        now: Instant,
        id: RequestId,
        session: SessionId,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let step = |request: &mut Request| request.end_session_step(now, session, Fate::Answered);
        self.note_end(now, id, End::BySession, result_of(frame), step);
        let Some(request) = self.end_request(now, id, AnsweredBy::Session(session), out) else {
            self.counters.late_answers.increment();
            return;
        };
        match request.origin {
            Origin::Session { key, .. } => {
                self.counters.answered_by_subscriber.increment();
                self.note_latency(now, &request, Outcome::Answered);
                self.send_to_session(now, key, &[], frame, out);
            }
            Origin::Node { id, incarnation, message } => {
                self.respond(now, (&id, incarnation, message), false, frame, out)
            }
        }
    }

    /// A destination node answered.
    pub(in crate::relay::shard) fn answer_from_node(
        &mut self,
        now: Instant,
        id: RequestId,
        message: u32,
        by_node: bool,
        frame: FrameRef<'_>,
        out: &mut impl Outbound,
    ) {
        let Some(request) = self.requests.get(id) else {
            if !by_node {
                self.counters.late_answers.increment();
            }
            return;
        };
        // Passed on unchanged, an answer under another seq would answer nothing, or another request: the
        // node has failed.
        let header = Header::decode(frame.head()).filter(|header| header.seq == request.seq.seq);
        if !by_node && header.is_some() {
            if let Origin::Session { key, .. } = request.origin
                && self.publishers.contains_key(&key.index)
                && let Some((node, _)) = request.nodes.iter().find(|(_, sent)| *sent == message)
            {
                let node = node.id;
                self.note_challenge_answered(now, key.index, &node, frame, out);
            }
            let step = |request: &mut Request| request.end_node_step(now, message, Fate::Answered);
            self.note_end(now, id, End::BySession, result_of(frame), step);
            let answered = AnsweredBy::Node(message);
            let Some(request) = self.end_request(now, id, answered, out) else { return };
            if let Origin::Session { key, .. } = request.origin {
                self.counters.answered_by_subscriber.increment();
                self.note_latency(now, &request, Outcome::Answered);
                self.send_to_session(now, key, &[], frame, out);
            }
            return;
        }
        let code = header.map_or(ResultCode::NOT_DELIVERED, |header| header.result);
        let Some(request) = self.request_mut(id) else { return };
        let (reached, fate) = match code {
            ResultCode::TIMEOUT => (Furthest::Pushed, Fate::TimedOut),
            _ => (Furthest::NotDelivered, Fate::NotDelivered),
        };
        request.end_node_step(now, message, fate);
        request.furthest = request.furthest.max(reached);
        if request.current == Try::Node(message) {
            self.retry(now, id, out);
        }
    }

    /// Takes a request out of the table and lets go of everything that still waits for it.
    fn end_request(
        &mut self,
        now: Instant,
        id: RequestId,
        answered_by: AnsweredBy,
        out: &mut impl Outbound,
    ) -> Option<Ended> {
        let bytes_max = self.shared.settings.open_requests_bytes_max();
        let Self { requests, links, .. } = self;
        let request = requests.get_mut(id)?;
        if let Some(timer) = request.timer {
            self.request_timers.cancel(timer);
        }
        self.retained_bytes -= request.retained.as_ref().map_or(0, RetainedFrame::len);
        let (origin, taken_nanos) = (request.origin, request.taken_nanos);
        let is_answered_for_now = request.is_answered_for_now();
        if let Origin::Session { key, .. } = origin
            && let Some(session) = session_of(links, key)
        {
            session.requests.remove(&request.seq);
            session.end_request(request.size as usize, bytes_max, out);
        }
        // One that is pushed to the session that answers waits nowhere; one that a silent session answers late may.
        let is_pushed = match answered_by {
            AnsweredBy::Session(session) => !request.tried().contains(&session),
            AnsweredBy::Nobody | AnsweredBy::Node(_) => false,
        };
        let waits_at = match request.current {
            Try::Reactor(reactor) if request.may_wait && !is_pushed => Some(reactor),
            _ => None,
        };
        let nodes = std::mem::take(&mut request.nodes);
        let failed = request.failed.take().map(|failed| (failed, request.seq.seq));
        request.close();
        requests.free.push(id.index);
        match waits_at {
            Some(reactor) if reactor == self.id => {
                self.forget_wait((reactor, id));
            }
            Some(reactor) => {
                out.to_reactor(reactor, MeshMessage::ForgetWait { request: id }, FrameRef::Slice(&[]));
            }
            None => {}
        }
        if let Some((failed, seq)) = failed {
            let waits = |&&session: &&SessionId| answered_by != AnsweredBy::Session(session);
            for &session in failed.silent.iter().filter(waits) {
                self.forget_push_anywhere(session, &seq, out);
            }
        }
        // Where an answer came from, the home of that node waits for none any more.
        for (node, message) in nodes.iter().filter(|(_, message)| answered_by != AnsweredBy::Node(*message)) {
            if node.reactor == self.id {
                self.forget_forward(now, &node.id, *message);
            } else {
                let forget = MeshMessage::ForgetForward { node: node.id, message: *message, report: false };
                out.to_reactor(node.reactor, forget, FrameRef::Slice(&[]));
            }
        }
        Some(Ended { origin, taken_nanos, is_answered_for_now })
    }

    fn forget_push_anywhere(&mut self, session: SessionId, seq: &Seq, out: &mut impl Outbound) {
        if session.reactor() == self.id {
            self.forget_push(session, seq);
        } else {
            let forget = MeshMessage::ForgetPush { session, seq: *seq };
            out.to_reactor(session.reactor(), forget, FrameRef::Slice(&[]));
        }
    }

    /// The publisher is gone; nobody waits for the answer.
    pub(in crate::relay::shard) fn abandon_request(
        &mut self,
        now: Instant,
        id: RequestId,
        sender: Arc<Sender>,
        out: &mut impl Outbound,
    ) {
        if let Some(request) = self.requests.get(id) {
            let account = request.account(now, End::SenderLeft, ResultCode::OK);
            let (seq, taken, topic) = (request.seq.seq, request.taken, request.topic);
            self.keep(&seq, taken, topic, Some(sender), account, true);
            self.end_request(now, id, AnsweredBy::Nobody, out);
        }
    }

    fn note_latency(&mut self, now: Instant, request: &Ended, outcome: Outcome) {
        let took = self.micros_since(now, request.taken_nanos);
        self.counters.latencies.requests(outcome).record_micros(took);
    }
}

/// The code of an answer that a session gave.
fn result_of(frame: FrameRef<'_>) -> ResultCode {
    let code = frame.head().get(HEADER_LEN - 4..HEADER_LEN).and_then(|code| code.first_chunk());
    ResultCode(code.map_or(0, |&code| i32::from_be_bytes(code)))
}
