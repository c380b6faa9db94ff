//! Messages that go by a session's ledger node, or come from there (INTEROP §1.3): for those whom no other way reaches.
//!
//! ```text
//!   session ─ 0x32 ─► its ordinary topics, beside its block notices ──────────► ledger node ─► nodes of 2.x
//!           ─ 0x30 ─► nobody else has the topic: under a seq of this node's own ►
//!           ─ 0x35 ─► to the mesh, and as it is ──────────────────────────────►
//!           ◄──────── unless the mesh brought the same ─────────── 0x30, 0x35 ◄─
//!           ─ 0x31 ─► by the connection that brought the request ─────────────►
//! ```
//!
//! What comes for a session waits for it as all does that comes from its ledger node: that node is read no further while its
//! session takes nothing. Nobody else waits behind that connection, so that nothing need be dropped, and the room of other
//! messages is theirs.

use super::{Asked, CALL_LEN, Context, Due, Kind, LinkKey, Outbound, Parts, WAIT_MAX, copies::Side};
use crate::{
    relay::{
        RequestId,
        ledger::{PUSH_KEPT, SESSION_CALLS_MAX, SESSION_PUSHES_MAX},
        shard::{
            request::{LedgerFailure, answer_frame},
            seqs::SeqKey,
            trace::{Finished, refused},
        },
        trace::TopicName,
    },
    wire::{
        FrameRef, ResultCode, TopicKind, hex,
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
        trace::{Attempt, AttemptKind, AttemptOutcome, Attempts, End, MessageTrace, Refusal, Role},
    },
};

/// Of the pushes that may wait for their answer, sessions' ledger nodes have this part at most.
const PUSHES_PART: usize = 2;

/// What became of a message that is for a ledger node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay::shard) enum Offered {
    Sent,
    /// It waits for a connection.
    Waits,
    NotTaken,
}

impl<O: Outbound> Context<'_, O> {
    /// Whether messages go by ledger nodes, too.
    pub(in crate::relay::shard) fn carries_amop(&self) -> bool {
        self.ledger().is_some_and(|ledger| ledger.amop)
    }
}

impl super::Upstreams {
    /// The seq under which a request goes to the ledger node: this node's own, for the session's may be in use there.
    fn seq_of(&self, id: RequestId) -> Seq {
        let mut seq = [b'0'; 32];
        let [a, b, c, d] = id.index.to_be_bytes();
        let [e, f, g, h] = id.generation.to_be_bytes();
        let front = self.seq_front.unwrap_or_default();
        let digits = hex::encode(&[&front[..], &[a, b, c, d, e, f, g, h]].concat());
        seq.iter_mut().zip(digits.bytes()).for_each(|(digit, byte)| *digit = byte);
        seq
    }

    /// The ledger node that a session is connected to, or would be.
    pub(in crate::relay::shard) fn node_of(&self, session: LinkKey) -> u16 {
        self.by_session.get(&session).map_or(self.preferred, |upstream| upstream.node)
    }
}

impl Parts {
    /// Whether one more message may wait for a connection, or for its answer.
    fn has_room_for_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        cost: usize,
    ) -> bool {
        let bytes_max = cx.ledger().map_or(0, |ledger| ledger.bytes_max) / usize::from(cx.shared.reactors);
        let bytes = self.upstreams.bytes();
        let asked = self.upstreams.get(session).map_or(0, |upstream| upstream.asked.len());
        asked < SESSION_CALLS_MAX && bytes < bytes_max && (bytes == 0 || cost <= bytes_max)
    }

    /// A unicast of a session for its ledger node.
    pub(in crate::relay::shard) fn offer_unicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        id: RequestId,
        frame: FrameRef<'_>,
    ) -> Offered {
        self.upstreams.seq_front.get_or_insert_with(|| cx.common.secret_rng.bytes());
        let own = self.upstreams.seq_of(id);
        self.offer_message(cx, session, (Kind::Unicast(id), own), frame)
    }

    /// A multicast of a session for its ledger node.
    pub(in crate::relay::shard) fn offer_multicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        frame: FrameRef<'_>,
    ) -> Offered {
        let place = cx.own_seq();
        self.offer_message(cx, session, (Kind::Multicast, place), frame)
    }

    fn offer_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        (kind, own): (Kind, Seq),
        frame: FrameRef<'_>,
    ) -> Offered {
        let up = self.upstreams.get(session).and_then(|upstream| upstream.up());
        let cost = CALL_LEN + if up.is_some() { 0 } else { frame.len() };
        // A longer frame would cost the connection: no node of FISCO BCOS 2.x takes one.
        let is_taken = frame.len() <= sdk::FRAME_LEN_MAX
            && self.has_room_for_message(cx, session, cost)
            && up.is_none_or(|link| self.put_message(cx, link, (&kind, &own), frame));
        if !is_taken {
            self.drop_message(cx, frame.len());
            return Offered::NotTaken;
        }
        let seq = cx.seq_key(&own);
        let is_sent = up.is_some();
        if is_sent && matches!(kind, Kind::Multicast) {
            return Offered::Sent;
        }
        let due = Due::Request { session, seq };
        let timer = (!is_sent).then(|| self.upstreams.timers.start_until(cx.now + WAIT_MAX, due));
        let kept = (!is_sent).then(|| frame.retain());
        self.upstreams.ask(session, seq, Asked { kind, frame: kept, cost, timer, since: cx.now });
        if is_sent {
            return Offered::Sent;
        }
        self.upstreams.of(session).unsent.push_back(seq);
        self.seek_ledger(cx, session);
        Offered::Waits
    }

    /// Puts a message on the link to a ledger node. A unicast goes under a seq of this node's own.
    pub(super) fn put_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        link: LinkKey,
        (kind, own): (&Kind, &Seq),
        frame: FrameRef<'_>,
    ) -> bool {
        let is_sent = match kind {
            Kind::Unicast(_) => {
                let (len, frame_type) = (frame.len() as u32, FrameType::REQUEST);
                let header = Header { len, frame_type, seq: *own, result: ResultCode::OK };
                self.send_up(cx, link, (&header.encode(), frame.advance(HEADER_LEN)))
            }
            _ => self.send_up(cx, link, (&[], frame)),
        };
        if is_sent {
            cx.pay(frame.len());
            let sent = match kind {
                Kind::Unicast(_) => &cx.counters.ledger_unicasts,
                _ => &cx.counters.ledger_multicasts,
            };
            sent.increment();
            if let Some(of_node) = self.node_of_link(link).and_then(|node| cx.of_ledger(node)) {
                of_node.messages_sent.increment();
            }
        }
        is_sent
    }

    /// A message of a session does not go to its ledger node.
    pub(super) fn drop_message(&mut self, cx: &mut Context<'_, impl Outbound>, len: usize) {
        cx.give_back(len as u64);
        cx.counters.ledger_messages_not_sent.increment();
    }

    /// A message that waited was sent: nothing is awaited of a multicast, and a unicast has the time of its request.
    pub(super) fn note_message_sent(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: &SeqKey,
    ) {
        let node = self.upstreams.node_of(session);
        let Some(asked) = self.upstreams.get(session).and_then(|one| one.asked.get_mut(seq)) else { return };
        if let Kind::Unicast(id) = asked.kind {
            let timer = asked.timer.take();
            // Its frame is kept no longer.
            let kept = std::mem::replace(&mut asked.cost, CALL_LEN);
            self.upstreams.bytes -= kept - CALL_LEN;
            timer.map(|timer| self.upstreams.timers.cancel(timer));
            self.note_ledger_attempt(id, node);
        } else {
            self.upstreams.end(session, seq);
        }
        cx.counters.ledger_bytes.set(self.upstreams.bytes() as u64);
    }

    /// A message that was not sent, or whose answer does not come any more.
    pub(super) fn end_message(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        asked: Asked,
        failure: LedgerFailure,
    ) {
        if let Some(frame) = &asked.frame {
            self.drop_message(cx, frame.len());
        }
        if let Kind::Unicast(id) = asked.kind {
            self.handle_ledger_failed(cx, id, failure);
        }
    }

    /// A unicast was sent to a session's ledger node, and what became of it does not become known.
    pub(in crate::relay::shard) fn count_unknown(
        &self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
    ) {
        cx.counters.ledger_messages_unknown.increment();
        if let Some(of_node) = cx.of_ledger(self.upstreams.node_of(session)) {
            of_node.messages_unknown.increment();
        }
    }

    /// A request is over: an answer of the ledger node would be nobody's. Whether it was sent there.
    pub(in crate::relay::shard) fn forget_unicast(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        id: RequestId,
    ) -> bool {
        let seq = cx.seq_key(&self.upstreams.seq_of(id));
        match self.upstreams.end(session, &seq) {
            Some(Asked { frame: Some(frame), .. }) => {
                self.drop_message(cx, frame.len());
                false
            }
            asked => asked.is_some(),
        }
    }

    /// A 0x31 of the ledger node: the answer to a unicast, or what it says to a multicast.
    pub(super) fn handle_message_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let seq = cx.seq_key(&header.seq);
        let is_awaited = self
            .upstreams
            .get(session)
            .and_then(|one| one.asked.get(&seq))
            .is_some_and(|asked| asked.frame.is_none() && matches!(asked.kind, Kind::Unicast(_)));
        let asked = is_awaited.then(|| self.upstreams.end(session, &seq)).flatten();
        match asked {
            Some(Asked { kind: Kind::Unicast(id), .. }) => self.answer_from_ledger(cx, id, frame),
            _ if header.result != ResultCode::OK => cx.counters.ledger_messages_refused.increment(),
            // That a multicast was taken, which its session was told before.
            _ => {}
        }
    }

    /// The beginning of a long answer of a ledger node is here.
    pub(in crate::relay::shard) fn handle_message_answer_begun(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
    ) {
        let seq = cx.seq_key(&header.seq);
        let asked = self.upstreams.get(session).and_then(|one| one.asked.get(&seq));
        if let Some(Asked { kind: Kind::Unicast(id), frame: None, .. }) = asked {
            let id = *id;
            self.handle_answer_begun(cx, id, header.len);
        }
    }

    /// A 0x30 or 0x35 of the ledger node, for its session.
    pub(super) fn handle_push_of_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let body = AmopBody::decode(&frame.head()[HEADER_LEN..]);
        // Private topics do not pass: that node has one flag for all of its sessions.
        let Some(body) = body.ok().filter(|body| body.kind() == TopicKind::Ordinary) else {
            cx.counters.ledger_ignored.increment();
            return;
        };
        let node = self.upstreams.node_of(session);
        let is_subscribed = self.subscribes(session.index, body.topic);
        if header.frame_type == FrameType::MULTICAST {
            let Some(digest) = self.upstreams.digest(cx, frame).filter(|_| is_subscribed) else {
                // It has dropped the topic.
                cx.counters.ledger_ignored.increment();
                return;
            };
            if self.upstreams.drops_copy(cx, session, digest, Side::Ledger) {
                return;
            }
            self.upstreams.note_copy(cx, session, digest, Side::Ledger);
        } else {
            let seq = cx.seq_key(&header.seq);
            match self.refuse_push_of_ledger(cx, session, &seq, is_subscribed) {
                Ok(()) => {}
                Err(refusal) => return self.tell_refused_push(cx, session, header, (body.topic, refusal)),
            }
            self.upstreams.of(session).pushes += 1;
            self.note_push_of_ledger(cx, session, seq, PUSH_KEPT);
        }
        cx.counters.ledger_pushes.increment();
        if let Some(of_node) = cx.of_ledger(node) {
            of_node.messages_received.increment();
        }
        cx.counters.deliveries.increment();
        self.give_to_session(cx, session, frame);
    }

    /// Why a session does not get a unicast of its ledger node, if it does not.
    fn refuse_push_of_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        seq: &SeqKey,
        is_subscribed: bool,
    ) -> Result<(), Refusal> {
        let pushes_max = cx.shared.settings.pending_pushes_max / PUSHES_PART;
        let open = self.upstreams.get(session).map_or(0, |upstream| upstream.pushes);
        let is_full = open >= SESSION_PUSHES_MAX || self.pushes.len() >= pushes_max;
        let Some(one) = self.session_mut(session) else { return Err(Refusal::NotRoutable) };
        match () {
            () if !is_subscribed => Err(Refusal::NotRoutable),
            () if one.pushes.contains_key(seq) => Err(Refusal::SeqInUse),
            () if is_full => Err(Refusal::TableFull),
            () => Ok(()),
        }
    }

    /// Answers the ledger node that its unicast goes to nobody (WIRE §2.2): it knows no other way to tell.
    fn tell_refused_push(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        header: &Header,
        (topic, refusal): (&str, Refusal),
    ) {
        cx.counters.ledger_pushes_refused.increment();
        let node = self.upstreams.node_of(session);
        let trace = MessageTrace {
            role: Role::OfLedger,
            origin: node.into(),
            size: header.len,
            ..refused(refusal, ResultCode::NOT_DELIVERED)
        };
        let (seq, topic) = (header.seq, TopicName::new(topic));
        cx.common.keep(Finished { seq, taken: cx.now, topic, sender: None, trace }, true);
        let key = cx.seq_key(&seq);
        let link = self.upstreams.get(session).and_then(|upstream| upstream.link());
        // Where another one of its own waits under this seq, the answer would be taken for that one's.
        let is_its_own = self
            .session_mut(session)
            .is_some_and(|one| one.pushes.get(&key).is_some_and(|push| push.is_of_ledger()));
        if let Some(link) = link.filter(|_| !is_its_own) {
            let answer = answer_frame(&seq, ResultCode::NOT_DELIVERED);
            if self.send_up(cx, link, (&answer, FrameRef::EMPTY)) {
                cx.pay(answer.len());
            }
        }
    }

    /// A session answers what came from its ledger node: back to there, and nowhere else.
    pub(in crate::relay::shard) fn answer_to_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        (since_nanos, frame): (u64, FrameRef<'_>),
    ) {
        let Some(upstream) = self.upstreams.get(session) else { return };
        upstream.pushes = upstream.pushes.saturating_sub(1);
        let link = upstream.link().filter(|_| may_be_told(frame));
        let is_sent = link.is_some_and(|link| self.send_up(cx, link, (&[], frame)));
        let head = frame.head();
        if let Some(Header { seq, result, .. }) = Header::decode(head) {
            let topic = AmopBody::decode(&head[HEADER_LEN..]).map_or("", |body| body.topic);
            let outcome = AttemptOutcome::Answered;
            self.keep_push_of_ledger(cx, session, (&seq, since_nanos), (result, topic, outcome));
        }
        if !is_sent {
            cx.counters.ledger_answers_dropped.increment();
            return;
        }
        cx.counters.ledger_answers.increment();
        cx.pay(frame.len());
    }

    /// Keeps what became of a unicast of a ledger node, if somebody wants to know.
    fn keep_push_of_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        (seq, since_nanos): (&Seq, u64),
        (code, topic, outcome): (ResultCode, &str, AttemptOutcome),
    ) {
        let end = if outcome == AttemptOutcome::Answered { End::BySession } else { End::Unanswered };
        let failed = code != ResultCode::OK || end == End::Unanswered;
        if !cx.is_kept(failed) {
            return;
        }
        let Some(id) = self.session_mut(session).map(|one| one.id) else { return };
        let took_us = u32::try_from(cx.micros_since(since_nanos)).unwrap_or(u32::MAX);
        let mut attempts = Attempts::default();
        let kind = AttemptKind::Session;
        attempts.push(Attempt { took_us, who: id.0, kind, outcome, ..Attempt::default() });
        let (role, origin) = (Role::OfLedger, self.upstreams.node_of(session).into());
        let trace =
            MessageTrace { role, end, code: code.0, took_us, origin, attempts, ..MessageTrace::default() };
        let (seq, topic) = (*seq, TopicName::new(topic));
        let taken = cx.shared.started + std::time::Duration::from_nanos(since_nanos);
        cx.common.keep(Finished { seq, taken, topic, sender: None, trace }, failed);
    }

    /// A session has not answered in the time that its ledger node waits.
    pub(in crate::relay::shard) fn end_late_push_of_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        push: (&Seq, u64),
    ) {
        cx.counters.push_timeouts.increment();
        if let Some(upstream) = self.upstreams.get(session) {
            upstream.pushes = upstream.pushes.saturating_sub(1);
        }
        self.keep_push_of_ledger(cx, session, push, (ResultCode::OK, "", AttemptOutcome::Silent));
    }
}

/// Whether a ledger node of FISCO BCOS 2.x may be sent an answer: of one that comes too late it reads the topic without looking
/// whether that is there, and a length of 0 ends it (WIRE §8). Nor does it take longer frames.
fn may_be_told(answer: FrameRef<'_>) -> bool {
    let data = answer.advance(HEADER_LEN);
    let is_topic_there = |&len: &u8| len > 0 && usize::from(len) <= data.len();
    answer.len() <= sdk::FRAME_LEN_MAX && data.head().first().is_none_or(is_topic_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_ledger_node_is_not_sent_there() {
        let told = |data: &[u8]| {
            let answer = crate::wire::sdk::encode(FrameType::RESPONSE, &[b'1'; 32], ResultCode::OK, data);
            may_be_told(FrameRef::Slice(&answer))
        };
        for fine in [&b""[..], b"\x01", b"\x01x", b"\x02t", b"\x02tpayload", b"\x02\xff"] {
            assert!(told(fine), "{fine:?}");
        }
        for deadly in [&b"\0"[..], b"\0payload", b"\x02", b"\x09topic"] {
            assert!(!told(deadly), "{deadly:?}");
        }
    }
}
