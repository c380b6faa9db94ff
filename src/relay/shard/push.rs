//! A request at one of our sessions, from the push until the session answers (WIRE §2.2).

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{
    Common, Context, Parts,
    private::Presented,
    request::RequestOf,
    seqs::SeqKey,
    session::{Dialect, Session},
    session_of,
};
use crate::{
    relay::{
        LinkKey, MeshMessage, NotPushed, Outbound, Queued, Recipients, SendError, SessionId,
        peer_2x::{self, Draw2x},
        rng::FastRng,
        timers::{TimerKey, Timers},
    },
    wire::{
        FrameRef, Topic, TopicKind,
        sdk::{AmopBody, HEADER_LEN, Header, Seq},
    },
};

/// How often a receiver is drawn blindly before the eligible ones are listed: enough that listing is
/// rare while most sessions of a topic are eligible.
const BLIND_DRAWS: usize = 4;

/// An open push: keyed by seq in its session.
pub(super) struct Push {
    whose: Whose,
    /// In nanoseconds from the node's start.
    since_nanos: u64,
    /// The session has the frame when its machine has taken so many bytes of its link.
    end: u64,
    waits_for: WaitsFor,
}

/// Memory of a push in bytes, with the topic that is kept for its answer at an application of FISCO BCOS 3.x.
pub(super) const PUSH_LEN: usize = size_of::<(SeqKey, Push)>() + size_of::<Topic>();

/// Who waits for the answer to a push.
enum Whose {
    /// A request of the mesh.
    Request(RequestOf),
    /// The same at an application of FISCO BCOS 3.x, whose answer does not name the topic.
    RequestAt3x(RequestOf, Box<Topic>),
    /// A challenge.
    Challenge(RequestOf, Box<Presented>),
    /// The ledger node of its session, from where it came.
    Ledger,
}

impl Push {
    /// Whose it is; `None` if it came from a ledger node.
    pub(super) fn request(&self) -> Option<RequestOf> {
        match self.whose {
            Whose::Request(request) | Whose::RequestAt3x(request, _) | Whose::Challenge(request, _) => {
                Some(request)
            }
            Whose::Ledger => None,
        }
    }

    /// The topic that its answer does not name, at an application of FISCO BCOS 3.x.
    pub(super) fn topic_at_3x(&self) -> Option<&Topic> {
        match &self.whose {
            Whose::RequestAt3x(_, topic) => Some(topic),
            Whose::Request(_) | Whose::Challenge(..) | Whose::Ledger => None,
        }
    }

    /// Whether it came from the ledger node of its session.
    pub(super) fn is_of_ledger(&self) -> bool {
        matches!(self.whose, Whose::Ledger)
    }
}

/// What an open push waits for.
enum WaitsFor {
    /// That the session's machine has the frame. The push timeout has not begun (WIRE §2.3).
    Taken,
    /// The answer, for the push timeout.
    Answer(TimerKey),
    /// The answer, though the session was silent for too long.
    LateAnswer,
}

/// What a push is for.
pub(super) enum PushFor<'a> {
    /// A message with this topic.
    Message(&'a str),
    /// A challenge of a private topic's publisher.
    Challenge(Box<Presented>),
}

/// Who may get a request.
pub(super) struct Receivers<'a> {
    /// With a private topic, nobody else.
    pub(super) audience: Option<&'a Recipients>,
    /// Not these.
    pub(super) excluded: SmallVec<[SessionId; 2]>,
    /// How long it may wait for room where all their queues are full. `None`: others are to be tried.
    pub(super) wait_for_room: Option<Duration>,
    /// Whether it goes to a node of FISCO BCOS 2.x.
    pub(super) draw_2x: Draw2x,
    /// Bytes that are paid for, should it leave to one of these.
    pub(super) prepaid: u64,
}

/// Who is not drawn.
#[derive(Clone, Copy)]
struct NotDrawn<'a> {
    excluded: &'a [SessionId],
    /// All but nodes of FISCO BCOS 2.x, or all but sessions.
    only_2x: Option<bool>,
    /// Those that wait for an answer under this seq.
    seq: &'a SeqKey,
}

impl NotDrawn<'_> {
    fn admits(&self, session: &Session) -> bool {
        let is_left_out = self.only_2x.is_some_and(|only| only != session.dialect.of_2x().is_some());
        !is_left_out && !self.excluded.contains(&session.id) && !session.pushes.contains_key(self.seq)
    }
}

/// A unicast has been queued, or waits for room.
struct Pushed {
    /// Whether it leaves this node, to one of FISCO BCOS 2.x.
    leaves: bool,
}

/// A unicast for one of this shard's sessions.
#[derive(Clone, Copy)]
pub(super) struct Delivery<'a> {
    pub(super) request: RequestOf,
    pub(super) seq: &'a SeqKey,
    pub(super) topic: &'a str,
    pub(super) frame: FrameRef<'a>,
}

/// What was just queued for a session, whose answer is awaited.
pub(super) struct NewPush<'a> {
    pub(super) request: RequestOf,
    pub(super) seq: SeqKey,
    pub(super) what: PushFor<'a>,
}

/// What a push timer is about.
#[derive(Clone, Copy)]
pub(super) struct PushTimer {
    key: LinkKey,
    seq: SeqKey,
}

/// The pushes of a shard, beside what lies in the table of each session: how many there are, and when their time is up.
pub(super) struct Pushes {
    open: usize,
    timers: Timers<PushTimer>,
}

impl Pushes {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { open: 0, timers: Timers::new(timeout) }
    }

    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<PushTimer> {
        self.timers.pop_expired(now)
    }

    /// The push timeout begins now.
    fn start(&mut self, now: Instant, timer: PushTimer, is_2x: bool) -> WaitsFor {
        WaitsFor::Answer(match is_2x {
            false => self.timers.start(now, timer),
            true => self.timers.start_until(now + peer_2x::PUSH_TIMEOUT, timer),
        })
    }

    /// The answer is not waited for any longer, though it may come. `false` if it was not before.
    pub(super) fn give_up(&mut self, push: &mut Push) -> bool {
        match std::mem::replace(&mut push.waits_for, WaitsFor::LateAnswer) {
            WaitsFor::LateAnswer => false,
            WaitsFor::Taken => true,
            WaitsFor::Answer(timer) => {
                self.timers.cancel(timer);
                true
            }
        }
    }

    /// A push was taken out of its session's table.
    fn end(&mut self, push: &Push) {
        if let WaitsFor::Answer(timer) = push.waits_for {
            self.timers.cancel(timer);
        }
        debug_assert!(self.open > 0, "more pushes ended than began");
        self.open -= 1;
    }
}

/// A push of a message with this topic to an application of FISCO BCOS 3.x. Out of the way of the others.
#[cold]
#[inline(never)]
fn whose_at_3x(request: RequestOf, topic: &str) -> Whose {
    match Topic::new(topic) {
        Some(topic) => Whose::RequestAt3x(request, Box::new(topic)),
        None => Whose::Request(request),
    }
}

impl Parts {
    /// The coordinator of a request has drawn this reactor.
    pub(super) fn handle_deliver(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        request: RequestOf,
        receivers: Receivers<'_>,
        frame: FrameRef<'_>,
    ) {
        let head = frame.head();
        let pushed = match (Header::decode(head), AmopBody::decode(&head[HEADER_LEN..])) {
            (Some(header), Ok(body)) => {
                let seq = cx.seq_key(&header.seq);
                self.push_to_any(cx, Delivery { request, seq: &seq, topic: body.topic, frame }, receivers)
            }
            _ => Err(NotPushed::NobodyLeft),
        };
        if let Err(why) = pushed {
            self.report_undeliverable(cx, request, why, FrameRef::EMPTY);
        }
    }

    /// Pushes a unicast of this seq and topic to one of this shard's subscribers that is not `excluded`, each
    /// equally likely; with a private topic only to one that the `audience` names. Where all their queues are full it
    /// waits for room, if it may. Tells why if none can take it.
    pub(super) fn push_to_any(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        delivery: Delivery<'_>,
        receivers: Receivers<'_>,
    ) -> Result<(), NotPushed> {
        let prepaid = receivers.prepaid;
        let pushed = self.push_to_one(cx, delivery, receivers);
        if prepaid > 0 && !matches!(pushed, Ok(Pushed { leaves: true })) {
            cx.give_back(prepaid);
        }
        pushed.map(|_| ())
    }

    fn push_to_one(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        delivery: Delivery<'_>,
        receivers: Receivers<'_>,
    ) -> Result<Pushed, NotPushed> {
        if self.pushes.len() >= cx.shared.settings.pending_pushes_max {
            return Err(NotPushed::PushesFull);
        }
        let Delivery { request, seq, topic, frame } = delivery;
        let Receivers { audience, mut excluded, wait_for_room, draw_2x, .. } = receivers;
        let recipients: Option<Vec<u32>> = match (TopicKind::of(topic.as_bytes()), audience) {
            (TopicKind::Ordinary, None) => None,
            (TopicKind::Data, Some(audience)) => {
                let index_of = |&number| self.subscribers.index_of(number, topic);
                Some(audience.0.iter().filter_map(index_of).collect())
            }
            _ => return Err(NotPushed::NobodyLeft),
        };
        // Whose queue was found full first.
        let mut full = None;
        let (first, then): (Option<bool>, Option<Option<bool>>) = match draw_2x {
            Draw2x::Equally => (None, None),
            Draw2x::First => (Some(true), Some(None)),
            Draw2x::Last => (Some(false), Some(None)),
            Draw2x::Never => (Some(false), None),
        };
        loop {
            let mut draw = |only_2x| {
                let not_drawn = NotDrawn { excluded: &excluded, only_2x, seq };
                self.draw_session(&mut cx.fast_rng, topic, recipients.as_deref(), not_drawn)
            };
            let Some(index) = draw(first).or_else(|| then.and_then(draw)) else { break };
            let Some(session) = self.session_at(index) else { break };
            let (id, leaves) = (session.id, session.dialect.of_2x().is_some());
            match session.send_data(cx, frame) {
                Ok(queued) => {
                    let push = NewPush { request, seq: *seq, what: PushFor::Message(topic) };
                    self.note_push(cx, index, push, queued);
                    cx.counters.deliveries.increment();
                    return Ok(Pushed { leaves });
                }
                Err(SendError::Full) => full = full.or(Some((index, id))),
                Err(SendError::Gone) => {}
            }
            excluded.push(id);
        }
        let Some((index, id)) = full else {
            return Err(self.why_nobody(topic, recipients.as_deref(), &excluded, seq));
        };
        if let Some(time) = wait_for_room
            && self.wait_for_room(cx, delivery, index, time)
        {
            // If it leaves in the end, it is charged then.
            return Ok(Pushed { leaves: false });
        }
        cx.counters.dropped_queue_full.increment();
        if cx.common.logs.queue_full.admits(cx.now)
            && let Some(session) = self.session_at(index)
        {
            session.warn_queue_full();
        }
        Err(NotPushed::QueueFull(id))
    }

    /// Why none of the sessions can be drawn.
    #[cold]
    fn why_nobody(
        &self,
        topic: &str,
        recipients: Option<&[u32]>,
        excluded: &[SessionId],
        seq: &SeqKey,
    ) -> NotPushed {
        let waits = |&index: &u32| {
            let link = self.links.get(index as usize).and_then(Option::as_ref);
            link.and_then(|link| link.kind.session())
                .is_some_and(|session| !excluded.contains(&session.id) && session.pushes.contains_key(seq))
        };
        match recipients.unwrap_or_else(|| self.sessions.topics.sessions(topic)).iter().any(waits) {
            true => NotPushed::SeqInUse,
            false => NotPushed::NobodyLeft,
        }
    }

    /// Waits for the answer to what was just pushed to the session at `index`.
    pub(super) fn note_push(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        index: u32,
        NewPush { request, seq, what }: NewPush<'_>,
        queued: Queued,
    ) {
        let since_nanos = cx.nanos();
        let Self { links, pushes, .. } = self;
        let link = links.get_mut(index as usize).and_then(Option::as_mut);
        let Some(session) = link.and_then(|link| link.kind.session_mut()) else { return };
        let (key, is_2x) = (session.key, session.dialect.of_2x().is_some());
        let waits_for = if queued.is_behind {
            session.untaken.push_back((queued.end, seq));
            cx.out.watch_taken(key);
            WaitsFor::Taken
        } else {
            pushes.start(cx.now, PushTimer { key, seq }, is_2x)
        };
        session.last_activity = cx.now;
        let whose = match what {
            PushFor::Message(topic) if matches!(session.dialect, Dialect::App3x) => {
                whose_at_3x(request, topic)
            }
            PushFor::Message(_) => Whose::Request(request),
            PushFor::Challenge(presented) => Whose::Challenge(request, presented),
        };
        session.pushes.insert(seq, Push { whose, since_nanos, end: queued.end, waits_for });
        pushes.open += 1;
        // What goes to nodes of FISCO BCOS 2.x has a count of its own.
        cx.counters.sdk_frames_sent.add(u64::from(!is_2x));
    }

    /// Waits for so long for the answer to what comes from a session's ledger node.
    pub(super) fn note_push_of_ledger(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        seq: SeqKey,
        time: Duration,
    ) {
        let since_nanos = cx.nanos();
        let Self { links, pushes, .. } = self;
        let Some(session) = session_of(links, key) else { return };
        session.last_activity = cx.now;
        let waits_for = WaitsFor::Answer(pushes.timers.start_until(cx.now + time, PushTimer { key, seq }));
        session.pushes.insert(seq, Push { whose: Whose::Ledger, since_nanos, end: 0, waits_for });
        pushes.open += 1;
    }

    /// The ledger node of a session waits for its answers no longer.
    pub(super) fn forget_pushes_of_ledger(&mut self, key: LinkKey) {
        let Self { links, pushes, .. } = self;
        let Some(session) = session_of(links, key) else { return };
        session.pushes.retain(|_, push| {
            let is_kept = !push.is_of_ledger();
            if !is_kept {
                pushes.end(push);
            }
            is_kept
        });
    }

    /// A session's machine has taken so many bytes: the push timeout of what ends there begins. Asks to be told again as
    /// long as anything is on its way.
    pub(super) fn handle_taken(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, taken: u64) {
        let Self { links, pushes, .. } = self;
        let Some(session) = session_of(links, key) else { return };
        while let Some(&(end, seq)) = session.untaken.front()
            && end <= taken
        {
            session.untaken.pop_front();
            if let Some(push) = session.pushes.get_mut(&seq)
                && push.end == end
                && matches!(push.waits_for, WaitsFor::Taken)
            {
                push.waits_for =
                    pushes.start(cx.now, PushTimer { key, seq }, session.dialect.of_2x().is_some());
            }
        }
        if !session.untaken.is_empty() {
            cx.out.watch_taken(key);
        }
    }

    /// Link index of a random session that subscribes (or is `recipients`), is not excluded and has no open push
    /// with this seq.
    fn draw_session(
        &self,
        rng: &mut FastRng,
        topic: &str,
        recipients: Option<&[u32]>,
        not_drawn: NotDrawn<'_>,
    ) -> Option<u32> {
        let links = &self.links;
        let sessions = recipients.unwrap_or_else(|| self.sessions.topics.sessions(topic));
        let eligible = |index: u32| {
            let link = links.get(index as usize).and_then(Option::as_ref);
            link.and_then(|link| link.kind.session()).is_some_and(|session| not_drawn.admits(session))
        };
        if sessions.is_empty() {
            return None;
        }
        for _ in 0..BLIND_DRAWS {
            let index = sessions[rng.in_range(0..sessions.len())];
            if eligible(index) {
                return Some(index);
            }
        }
        let listed: Vec<u32> = sessions.iter().copied().filter(|&index| eligible(index)).collect();
        (!listed.is_empty()).then(|| listed[rng.in_range(0..listed.len())])
    }

    /// A 0x31 from a session: the answer to a push, or nothing that anybody waits for.
    pub(super) fn handle_session_answer(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        header: &Header,
        frame: FrameRef<'_>,
    ) {
        let seq = cx.seq_key(&header.seq);
        let Some(session) = self.session_mut(key) else { return };
        let id = session.id;
        let Some(push) = session.pushes.remove(&seq) else {
            cx.counters.unsolicited_answers.increment();
            return;
        };
        self.pushes.end(&push);
        let took = cx.micros_since(push.since_nanos);
        cx.counters.latencies.pushes.record_micros(took);
        let (RequestOf { coordinator, id: request }, rewritten) = match &push.whose {
            // One of FISCO BCOS 3.x has had its topic put in front by now.
            Whose::Request(request) | Whose::RequestAt3x(request, _) => (*request, None),
            Whose::Challenge(request, presented) => {
                (*request, self.take_challenge_answer(cx, presented, frame))
            }
            Whose::Ledger => return self.answer_to_ledger(cx, key, (push.since_nanos, frame)),
        };
        let frame = rewritten.as_deref().map_or(frame, FrameRef::Slice);
        // Each answer takes this path, so none becomes a message that stays at its reactor.
        if coordinator == cx.id {
            self.answer_from_session(cx, request, id, frame);
        } else {
            cx.out.to_reactor(coordinator, MeshMessage::Answer { request, session: id }, frame);
        }
    }

    /// A push was taken out of its session's table.
    pub(super) fn end_push(&mut self, push: &Push) {
        self.pushes.end(push);
    }

    pub(super) fn handle_push_timeout(&mut self, cx: &mut Context<'_, impl Outbound>, timer: PushTimer) {
        let Self { links, pushes, .. } = self;
        let Some(session) = session_of(links, timer.key) else { return };
        let id = session.id;
        let Some(push) = session.pushes.get_mut(&timer.seq) else { return };
        let Some(request) = push.request() else {
            let since_nanos = push.since_nanos;
            if let Some(push) = session.pushes.remove(&timer.seq) {
                pushes.end(&push);
            }
            return self.end_late_push_of_ledger(cx, timer.key, (&timer.seq.seq, since_nanos));
        };
        let progress = cx.out.progress(timer.key);
        if progress.is_some_and(|progress| progress.taken < push.end) {
            // It was thought to be there, and is not: its peer is slow.
            push.waits_for = WaitsFor::Taken;
            let at = session.untaken.partition_point(|&(end, _)| end <= push.end);
            session.untaken.insert(at, (push.end, timer.seq));
            return cx.out.watch_taken(timer.key);
        }
        if progress.is_some_and(|progress| progress.is_receiving_long || progress.is_read_paused) {
            // Who is in the middle of a long frame, or is not read, is not silent.
            push.waits_for = pushes.start(cx.now, timer, session.dialect.of_2x().is_some());
            return;
        }
        push.waits_for = WaitsFor::LateAnswer;
        let RequestOf { coordinator, id: request } = request;
        cx.counters.push_timeouts.increment();
        let failed = MeshMessage::PushFailed { request, session: id, seq: timer.seq.seq, silent: true };
        self.send_to_reactor(cx, coordinator, failed, FrameRef::EMPTY);
    }

    /// The session is gone, and with it every push to it.
    pub(super) fn end_pushes(&mut self, cx: &mut Context<'_, impl Outbound>, session: &mut Session) {
        let id = session.id;
        for (seq, push) in session.pushes.drain() {
            self.pushes.end(&push);
            let Some(RequestOf { coordinator, id: request }) = push.request() else { continue };
            let failed = MeshMessage::PushFailed { request, session: id, seq: seq.seq, silent: false };
            self.send_to_reactor(cx, coordinator, failed, FrameRef::EMPTY);
        }
    }

    /// The request is over: a late answer of this session would be nobody's.
    pub(super) fn forget_push(&mut self, common: &Common, session: SessionId, seq: &Seq) {
        let Some(&index) = self.sessions.indices.get(&session) else { return };
        let seq = common.seq_key(seq);
        let Some(session) = self.session_at(index) else { return };
        if session.pushes.get(&seq).is_some_and(|push| !push.is_of_ledger())
            && let Some(push) = session.pushes.remove(&seq)
        {
            self.pushes.end(&push);
        }
    }
}
