//! A unicast for which nobody is known in the mesh, and which so goes by its session's ledger node, where messages do (INTEROP
//! §1.3).
//!
//! It goes there only if nobody else was tried: what the mesh reaches goes first, and subscribers there may be connected to
//! ledger nodes as well, so that another try by this way could push to one of them a second time.

use super::{AnsweredBy, CurrentAttempt, Furthest, Origin};
use crate::{
    relay::{
        Outbound, RequestId,
        counters::Outcome,
        peer_2x::NO_ANSWER,
        shard::{Context, Parts, upstream::Offered},
    },
    wire::{
        FrameRef, MessageNumber, ResultCode, TopicKind,
        sdk::{FrameType, HEADER_LEN, Header},
        trace::{AttemptKind, AttemptOutcome, End},
    },
};

/// Why a message did not come back from a ledger node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay::shard) enum LedgerFailure {
    /// None was reached in time, and so nothing was sent.
    NotReached,
    /// It took nothing.
    NotTaken,
    /// It had the message, and was lost, or has not answered in time.
    Lost,
}

impl Parts {
    /// Sends a request to the ledger node, if that is a way; `false` if it is none, or was tried.
    pub(super) fn try_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        topic: &str,
        frame: FrameRef<'_>,
    ) -> bool {
        if !cx.carries_amop() || TopicKind::of(topic.as_bytes()) != TopicKind::Ordinary {
            return false;
        }
        let Some(request) = self.request_mut(id) else { return false };
        let Origin::Session { key, .. } = request.origin else { return false };
        if self.speaks_3x(key) {
            return false;
        }
        let Some(request) = self.request_mut(id) else { return false };
        // The nodes of that network have it from the one that sent it, if that was one of theirs.
        let is_theirs = request.from_2x.is_some();
        if is_theirs || request.furthest != Furthest::NoReceiver || !request.is_first_attempt() {
            return false;
        }
        let node = u64::from(self.upstreams.node_of(key));
        let Some(request) = self.request_mut(id) else { return false };
        request.begin_attempt(cx.now, AttemptKind::Ledger, node, MessageNumber::NONE);
        if cx.shared.limiter.is_limited() && !self.admit_bandwidth(cx, key, frame.len() as u64) {
            self.warn_over_bandwidth(cx, key);
            self.end_attempt_at_ledger(cx, id, AttemptOutcome::OverBandwidth);
            self.answer_myself(cx, id, ResultCode::OVER_BANDWIDTH);
            return true;
        }
        match self.offer_unicast(cx, key, id, frame) {
            Offered::Sent | Offered::Waits => {
                // Nobody else is tried with it.
                self.requests.drop_retained(id);
                if let Some(request) = self.request_mut(id) {
                    request.current = CurrentAttempt::Ledger;
                }
            }
            Offered::NotTaken => self.handle_ledger_failed(cx, id, LedgerFailure::NotTaken),
        }
        true
    }

    fn end_attempt_at_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        outcome: AttemptOutcome,
    ) {
        if let Some(request) = self.request_mut(id) {
            request.end_attempt(cx.now, outcome, |attempt| attempt.kind == AttemptKind::Ledger);
        }
    }

    /// It was sent to this ledger node, once one was reached.
    pub(in crate::relay::shard) fn note_ledger_attempt(&mut self, id: RequestId, node: u16) {
        let attempt = self
            .request_mut(id)
            .and_then(|request| request.attempts.last_mut(|attempt| attempt.kind == AttemptKind::Ledger));
        if let Some(attempt) = attempt {
            attempt.who = node.into();
        }
    }

    /// Nothing comes back from the ledger node any more, which has forgotten the request.
    pub(in crate::relay::shard) fn handle_ledger_failed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        failure: LedgerFailure,
    ) {
        let (reached, outcome) = match failure {
            LedgerFailure::NotReached => (Furthest::NoReceiver, AttemptOutcome::NotTaken),
            LedgerFailure::NotTaken => (Furthest::NotSent, AttemptOutcome::NotTaken),
            LedgerFailure::Lost => (Furthest::Pushed, AttemptOutcome::NotHeard),
        };
        self.end_attempt_at_ledger(cx, id, outcome);
        if let Some(request) = self.request_mut(id) {
            request.current = CurrentAttempt::None;
            request.furthest = request.furthest.max(reached);
            if let (LedgerFailure::Lost, Origin::Session { key, .. }) = (failure, request.origin) {
                self.count_unknown(cx, key);
            }
        }
        self.close_request(cx, id);
    }

    /// The time of a request is up that is at the ledger node.
    pub(super) fn end_ledger_attempt(&mut self, cx: &mut Context<'_, impl Outbound>, id: RequestId) {
        let Some(Origin::Session { key, .. }) = self.requests.get(id).map(|request| request.origin) else {
            return;
        };
        let failure = match self.forget_unicast(cx, key, id) {
            true => LedgerFailure::Lost,
            false => LedgerFailure::NotReached,
        };
        self.handle_ledger_failed(cx, id, failure);
    }

    /// The ledger node has answered a request: a subscriber's answer goes back unchanged but for its seq.
    pub(in crate::relay::shard) fn answer_from_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        id: RequestId,
        frame: FrameRef<'_>,
    ) {
        let Some(answer) = Header::decode(frame.head()) else { return };
        let code = answer.result;
        let has_data = frame.len() > HEADER_LEN;
        // What nodes of FISCO BCOS answer themselves has no data, but for 104, which repeats the request.
        let (outcome, code) = match code {
            NO_ANSWER => (AttemptOutcome::TimedOut, Some(ResultCode::TIMEOUT)),
            ResultCode::TIMEOUT if !has_data => (AttemptOutcome::TimedOut, Some(code)),
            ResultCode::NO_RECEIVER if !has_data => (AttemptOutcome::NobodyLeft, Some(code)),
            ResultCode::OVER_BANDWIDTH if !has_data => (AttemptOutcome::OverBandwidth, Some(code)),
            ResultCode::NOT_SENT | ResultCode::NOT_DELIVERED if !has_data => {
                (AttemptOutcome::NotDelivered, Some(code))
            }
            _ => (AttemptOutcome::Answered, None),
        };
        self.end_attempt_at_ledger(cx, id, outcome);
        let Some(request) = self.request_mut(id) else { return };
        request.current = CurrentAttempt::None;
        if let Some(code) = code {
            return self.answer_myself(cx, id, code);
        }
        let header = Header { frame_type: FrameType::RESPONSE, seq: request.seq.seq, ..answer };
        self.note_end(cx, id, End::BySession, answer.result, |_| ());
        let Some(request) = self.end_request(cx, id, AnsweredBy::Nobody) else { return };
        if let Origin::Session { key, .. } = request.origin {
            cx.counters.answered_by_subscriber.increment();
            cx.note_latency(&request, Outcome::Answered);
            self.send_to_session(cx, key, &header.encode(), frame.advance(HEADER_LEN));
        }
    }
}
