//! Connections to ledger nodes, one for each session that needs one (INTEROP §1.2): when one is made, and made again, and what
//! is said at it anew.
//!
//! ```text
//!   Idle ─ something needs it ─► Dialling ─► Greeting ─ 0x14 ─► Up
//!                                 ▲   │ fails      │ lost        │ lost
//!                                 │   ▼            ▼             ▼
//!                                 └─ Pausing ◄─────┴─────────────┘   Idle, where nothing needs it any more
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `requests` | what sessions ask the ledger node |
//! | `answers` | what the ledger node says |
//! | `messages` | AMOP by the ledger node, where that is wanted |
//! | `copies` | multicasts that come from two sides |
//! | `report` | what people see of the connections |
//!
//! # Invariants
//! - A request is sent once. If the connection ends before its answer is here, it is answered by an error.
//! - Whatever a session asks is answered once: by the ledger node, when its time is up, or when the connection is lost.
//! - What is kept has its bound in [`Ledger`]; beyond it requests are refused, and a ledger node whose session takes nothing is
//!   read no further.
//! - Nothing here stops the session's own link: AMOP goes on, whatever the ledger node does.

mod answers;
pub(super) mod copies;
mod messages;
mod report;
mod requests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use tracing::{info, warn};

use self::copies::Copies;
pub(super) use self::messages::Offered;
use super::{
    Context, LinkKind, Parts,
    seqs::{BySeq, SeqKey},
    session::Dialect,
};
use crate::{
    relay::{
        Class, CloseReason, LedgerDial, LinkKey, Outbound, RequestId,
        counters::LedgerNodeCounters,
        ledger::{
            BACKOFF_MAX, BACKOFF_MIN, DEAD_AFTER, GREETING_MAX, HEARTBEAT_INTERVAL, Ledger, WAIT_MAX,
            call::{Call, Merged},
            filter,
        },
        settings::Settings,
        timers::{TimerKey, Timers},
    },
    wire::{
        FrameRef, ResultCode, RetainedFrame, Topic, TopicKind, hex,
        sdk::{FrameType, HEADER_LEN, Header, Seq},
        topic::BLOCK_NOTIFY_PREFIX,
    },
};

/// Memory of a session's connection beside what is kept for it.
pub(super) const UPSTREAM_LEN: usize = size_of::<(LinkKey, Upstream)>() + ADDRESS_LEN;
/// Memory of a ledger node's address, which most are shorter than.
const ADDRESS_LEN: usize = 64;
/// Memory of a request beside its frame.
pub(super) const CALL_LEN: usize = size_of::<(SeqKey, Asked)>() + size_of::<Due>() + 64;
/// A handshake that is longer is not kept; those of SDKs have some 80 bytes.
pub(super) const HANDSHAKE_LEN_MAX: usize = 4 << 10;
/// A connection that lasted so long shows that the next one may be tried at once.
const LASTED: Duration = Duration::from_secs(10);
/// Sessions that lose one ledger node come to the next one within so long, not all at once.
const SPREAD: Duration = Duration::from_millis(100);
/// The seq of what a ledger node sends unasked (INTEROP §1.1).
const NOTICE_SEQ: Seq = [b'0'; 32];

/// A link to a ledger node.
pub(super) struct LedgerLink {
    /// The session that it is for.
    pub(super) session: LinkKey,
}

/// All connections of a shard to ledger nodes, and the sessions that they are for.
///
/// # Invariants
/// - `bytes` and `asked` are the sums of those of all sessions.
/// - Each request has one timer.
pub(super) struct Upstreams {
    by_session: AHashMap<LinkKey, Upstream>,
    timers: Timers<Due>,
    bytes: usize,
    asked: usize,
    dials: u64,
    /// The ledger node that was reached last; whoever needs one begins with it.
    preferred: u16,
    copies: Copies,
    /// What the seqs of unicasts begin with that go to ledger nodes.
    seq_front: Option<[u8; 8]>,
}

/// What is due at a time.
#[derive(Clone, Copy)]
enum Due {
    /// The time of a request is up.
    Request { session: LinkKey, seq: SeqKey },
    /// A pause is over.
    Dial { session: LinkKey, number: u64 },
    /// A connection is to be looked at.
    Look { session: LinkKey, link: LinkKey },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Dialling {
        number: u64,
    },
    Pausing {
        number: u64,
    },
    /// The handshake is not answered yet.
    Greeting {
        link: LinkKey,
        since: Instant,
    },
    Up {
        link: LinkKey,
        since: Instant,
    },
}

/// Which event filter: the application's id for it, and the group.
type FilterKey = (String, u32);

/// What one session has to do with the ledger.
#[derive(Default)]
struct Upstream {
    state: State,
    /// The ledger node that is dialled, or was reached.
    node: u16,
    /// Where that was reached, as the configuration has it.
    address: String,
    /// Dials and short connections that failed, one after the other.
    failures: u32,
    /// Whether it has been up.
    was_up: bool,
    /// The session's last 0x14.
    handshake: Option<RetainedFrame>,
    /// What its ledger node is told that it subscribes to: block notices of groups that it may use, and its ordinary topics
    /// where messages go by ledger nodes, too.
    topics: Vec<Topic>,
    /// Whether the connection has had no room to tell them.
    is_untold: bool,
    /// Unicasts of the ledger node that wait for its answer.
    pushes: usize,
    filters: BTreeMap<FilterKey, Filter>,
    /// What it has asked.
    asked: BySeq<Asked>,
    /// Those of them that were not sent yet, in order.
    unsent: VecDeque<SeqKey>,
    /// What has come for it and waits for room.
    arrived: VecDeque<RetainedFrame>,
    /// When something last came.
    last_received: Option<Instant>,
}

/// An event filter that is open, or is about to be.
struct Filter {
    /// The whole 0x15.
    frame: RetainedFrame,
    /// Where to go on: behind the last block that logs came of.
    next_block: Option<u64>,
    /// The last block that it is for.
    last_block: Option<u64>,
}

/// A request that waits for its answer.
struct Asked {
    kind: Kind,
    /// Until it is sent.
    frame: Option<RetainedFrame>,
    /// What it counts for.
    cost: usize,
    /// When it is given up; of a unicast that was sent, its request knows.
    timer: Option<TimerKey>,
    since: Instant,
}

enum Kind {
    /// A unicast that nobody else has the topic of.
    Unicast(RequestId),
    /// Until it is sent.
    Multicast,
    Call(Call),
    Register(filter::Registration),
    Unregister,
    /// A filter is opened anew, of which the session need not know.
    Again(FilterKey),
}

impl Upstream {
    fn link(&self) -> Option<LinkKey> {
        match self.state {
            State::Greeting { link, .. } | State::Up { link, .. } => Some(link),
            _ => None,
        }
    }

    fn up(&self) -> Option<LinkKey> {
        match self.state {
            State::Up { link, .. } => Some(link),
            _ => None,
        }
    }

    fn needs_ledger(&self) -> bool {
        !(self.topics.is_empty() && self.filters.is_empty())
            || self.asked.values().any(|asked| asked.frame.is_some())
    }

    fn filter_bytes(&self) -> usize {
        self.filters.values().map(|filter| filter.frame.len()).sum()
    }

    fn handshake_len(&self) -> usize {
        self.handshake.as_ref().map_or(0, RetainedFrame::len)
    }
}

impl Upstreams {
    pub(super) fn new(settings: &Settings, hashing: RandomState) -> Self {
        let ledger = settings.ledger.as_ref();
        let request_timeout = ledger.map_or(WAIT_MAX, |ledger| ledger.request_timeout);
        Self {
            copies: Copies::new(hashing.clone()),
            seq_front: None,
            by_session: AHashMap::with_hasher(hashing),
            timers: Timers::new(request_timeout),
            bytes: 0,
            asked: 0,
            dials: 0,
            preferred: 0,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Requests that wait for their answer.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// For checks: sessions that are connected to each ledger node.
    pub(super) fn connected(&self, node: u16) -> usize {
        self.by_session.values().filter(|one| one.node == node && one.link().is_some()).count()
    }

    /// For checks: bytes and requests, counted anew.
    pub(super) fn counted_anew(&self) -> (usize, usize) {
        let bytes = |upstream: &Upstream| {
            upstream.filter_bytes()
                + upstream.handshake_len()
                + upstream.asked.values().map(|asked| asked.cost).sum::<usize>()
                + upstream.arrived.iter().map(RetainedFrame::len).sum::<usize>()
        };
        let asked = self.by_session.values().map(|upstream| upstream.asked.len()).sum();
        (self.by_session.values().map(bytes).sum(), asked)
    }

    /// Whether a session waits for nothing of its ledger node, nor that for an answer of the session.
    pub(super) fn is_quiet(&self, session: LinkKey) -> bool {
        self.by_session.get(&session).is_none_or(|upstream| upstream.asked.is_empty() && upstream.pushes == 0)
    }

    /// Unicasts of its ledger node that wait for a session's answer, as they were counted.
    pub(super) fn pushes(&self, session: LinkKey) -> usize {
        self.by_session.get(&session).map_or(0, |upstream| upstream.pushes)
    }

    fn get(&mut self, session: LinkKey) -> Option<&mut Upstream> {
        self.by_session.get_mut(&session)
    }

    fn of(&mut self, session: LinkKey) -> &mut Upstream {
        self.by_session.entry(session).or_default()
    }

    /// Takes note of a request that waits for its answer from now on.
    fn ask(&mut self, session: LinkKey, seq: SeqKey, asked: Asked) {
        self.bytes += asked.cost;
        self.asked += 1;
        let before = self.of(session).asked.insert(seq, asked);
        debug_assert!(before.is_none(), "two requests of a session have one seq");
    }

    /// A request waits no longer.
    fn end(&mut self, session: LinkKey, seq: &SeqKey) -> Option<Asked> {
        let upstream = self.by_session.get_mut(&session)?;
        let asked = upstream.asked.remove(seq)?;
        if asked.frame.is_some() {
            upstream.unsent.retain(|other| other != seq);
        }
        asked.timer.map(|timer| self.timers.cancel(timer));
        self.bytes -= asked.cost;
        self.asked -= 1;
        Some(asked)
    }

    fn keep_filter(&mut self, session: LinkKey, key: FilterKey, filter: Filter) {
        self.bytes += filter.frame.len();
        if let Some(before) = self.of(session).filters.insert(key, filter) {
            self.bytes -= before.frame.len();
        }
    }

    fn drop_filter(&mut self, session: LinkKey, key: &FilterKey) -> Option<Filter> {
        let filter = self.by_session.get_mut(&session)?.filters.remove(key)?;
        self.bytes -= filter.frame.len();
        Some(filter)
    }
}

impl<O: Outbound> Context<'_, O> {
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.common.shared.settings.ledger.as_ref()
    }

    /// What this reactor counts of a ledger node.
    fn of_ledger(&self, node: u16) -> Option<&LedgerNodeCounters> {
        self.common.shared.ledger_counters.get(usize::from(self.id.0))?.get(usize::from(node))
    }

    /// A seq of this node's own.
    fn own_seq(&mut self) -> Seq {
        let digits = hex::encode(&self.common.secret_rng.bytes::<16>());
        let mut seq = NOTICE_SEQ;
        seq.iter_mut().zip(digits.bytes()).for_each(|(digit, byte)| *digit = byte);
        seq
    }
}

impl Parts {
    /// The session is gone, and with it all that it had to do with the ledger.
    pub(super) fn end_upstream(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey) {
        let Some(upstream) = self.upstreams.by_session.get(&session) else { return };
        let (link, node) = (upstream.link(), upstream.node);
        let seqs: Vec<SeqKey> = upstream.asked.keys().copied().collect();
        for seq in seqs {
            if let Some(Asked { kind: Kind::Multicast, frame: Some(frame), .. }) =
                self.upstreams.end(session, &seq)
            {
                self.drop_message(cx, frame.len());
            }
        }
        if let Some(upstream) = self.upstreams.by_session.remove(&session) {
            self.upstreams.bytes -= upstream.filter_bytes()
                + upstream.handshake_len()
                + upstream.arrived.iter().map(RetainedFrame::len).sum::<usize>();
        }
        if let Some(link) = link {
            if let Some(of_node) = cx.of_ledger(node) {
                of_node.sessions.decrement();
            }
            cx.out.close(link, CloseReason::SessionEnded);
        }
    }

    /// The session has said by 0x14 what it speaks; `None` if that was malformed.
    pub(super) fn note_handshake(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        frame: Option<FrameRef<'_>>,
    ) {
        if cx.ledger().is_none() {
            return;
        }
        let frame = frame.filter(|frame| frame.len() <= HANDSHAKE_LEN_MAX);
        let kept = frame.map(|frame| frame.retain());
        let len = kept.as_ref().map_or(0, RetainedFrame::len);
        let upstream = self.upstreams.of(session);
        let before = upstream.handshake_len();
        upstream.handshake = kept;
        let up = upstream.up();
        self.upstreams.bytes = self.upstreams.bytes + len - before;
        if let (Some(link), Some(frame)) = (up, frame) {
            self.send_up(cx, link, (&[], frame));
        }
    }

    /// The session's topics have changed, and so perhaps those that its ledger node is told.
    pub(super) fn update_ledger_topics(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey) {
        if cx.ledger().is_none() {
            return;
        }
        let carries_amop = cx.carries_amop();
        let Some(one) = self.session_mut(session) else { return };
        if one.dialect == Dialect::App3x {
            return;
        }
        let key = one.public_key;
        let is_told = |topic: &&Topic| match topic.kind() {
            TopicKind::BlockNotify => {
                let group = topic.as_str().strip_prefix(BLOCK_NOTIFY_PREFIX);
                let group = group.and_then(|group| group.parse().ok());
                group.is_none_or(|group| cx.ledger().is_some_and(|ledger| ledger.admits(group, key.as_ref())))
            }
            TopicKind::Ordinary => carries_amop,
            _ => false,
        };
        let topics: Vec<Topic> = one.subscription.topics().iter().filter(is_told).cloned().collect();
        let known = self.upstreams.get(session).map_or(&[][..], |upstream| &upstream.topics);
        if known == topics {
            return;
        }
        let upstream = self.upstreams.of(session);
        upstream.topics = topics;
        match upstream.up() {
            Some(link) => self.tell_topics(cx, session, link),
            None => self.seek_ledger(cx, session),
        }
    }

    fn tell_topics(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey, link: LinkKey) {
        let Some(upstream) = self.upstreams.get(session) else { return };
        let names: Vec<&str> = upstream.topics.iter().map(Topic::as_str).collect();
        let body = serde_json::Value::from(names).to_string();
        let seq = cx.own_seq();
        let is_told = self.send_own(cx, link, (FrameType::SUBSCRIBE, &seq), body.as_bytes());
        if !is_told {
            cx.out.watch_room(link, Class::Data, HEADER_LEN + body.len());
        }
        if let Some(upstream) = self.upstreams.get(session) {
            upstream.is_untold = !is_told;
        }
    }

    /// The connection to a ledger node, which was full, takes something again.
    pub(super) fn handle_upstream_room(&mut self, cx: &mut Context<'_, impl Outbound>, link: LinkKey) {
        let Some(LinkKind::Ledger(LedgerLink { session })) = self.link_mut(link) else { return };
        let session = *session;
        if self.upstreams.get(session).is_some_and(|one| one.up() == Some(link) && one.is_untold) {
            self.tell_topics(cx, session, link);
        }
    }

    /// Sends a frame of this node's own making to the ledger node.
    fn send_own(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        link: LinkKey,
        (frame_type, seq): (FrameType, &Seq),
        body: &[u8],
    ) -> bool {
        let len = (HEADER_LEN + body.len()) as u32;
        let header = Header { len, frame_type, seq: *seq, result: ResultCode::OK };
        self.send_up(cx, link, (&header.encode(), FrameRef::Slice(body)))
    }

    /// Sends a frame to the ledger node. `false` if its connection takes none.
    fn send_up(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        link: LinkKey,
        (head, frame): (&[u8], FrameRef<'_>),
    ) -> bool {
        let is_sent = cx.out.send(link, Class::Data, head, frame).is_ok();
        if is_sent {
            cx.counters.ledger_frames_sent.increment();
            if let Some(of_node) = self.node_of_link(link).and_then(|node| cx.of_ledger(node)) {
                of_node.sent_bytes.add((head.len() + frame.len()) as u64);
            }
        }
        is_sent
    }

    /// The ledger node that a link leads to.
    fn node_of_link(&mut self, link: LinkKey) -> Option<u16> {
        let Some(LinkKind::Ledger(LedgerLink { session })) = self.link_mut(link) else { return None };
        let session = *session;
        self.upstreams.get(session).map(|upstream| upstream.node)
    }

    /// Something needs the ledger: a connection is made if there is none yet.
    fn seek_ledger(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey) {
        let preferred = self.upstreams.preferred;
        if let Some(upstream) = self.upstreams.get(session)
            && upstream.state == State::Idle
            && upstream.needs_ledger()
        {
            upstream.node = preferred;
            self.dial_ledger(cx, session);
        }
    }

    fn dial_ledger(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey) {
        self.upstreams.dials += 1;
        let number = self.upstreams.dials;
        let Some(upstream) = self.upstreams.get(session) else { return };
        upstream.state = State::Dialling { number };
        let node = upstream.node;
        cx.counters.ledger_dials.increment();
        cx.out.dial_ledger(LedgerDial { session, number, node });
    }

    /// After a failure another ledger node is tried, at once until all have failed.
    fn seek_another(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey, had_lasted: bool) {
        let nodes = cx.ledger().map_or(1, |ledger| ledger.nodes).max(1);
        self.upstreams.dials += 1;
        let number = self.upstreams.dials;
        let Some(upstream) = self.upstreams.get(session) else { return };
        upstream.failures = if had_lasted { 0 } else { upstream.failures.saturating_add(1) };
        upstream.node = (upstream.node + 1) % nodes;
        if !upstream.needs_ledger() {
            upstream.state = State::Idle;
            return;
        }
        let rounds = upstream.failures / u32::from(nodes);
        upstream.state = State::Pausing { number };
        let pause = match rounds {
            0 => SPREAD.mul_f64(cx.fast_rng.in_range(0.0..1.0)),
            rounds => (BACKOFF_MIN * 2u32.pow((rounds - 1).min(16)))
                .min(BACKOFF_MAX)
                .mul_f64(cx.fast_rng.in_range(0.7..1.3)),
        };
        self.upstreams.timers.start_until(cx.now + pause, Due::Dial { session, number });
    }

    /// A ledger node was not reached.
    pub(super) fn handle_dial_failed(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        session: LinkKey,
        number: u64,
    ) {
        let Some(upstream) = self.upstreams.get(session) else { return };
        if upstream.state == (State::Dialling { number }) {
            cx.counters.ledger_dials_failed.increment();
            self.seek_another(cx, session, false);
        }
    }

    /// A ledger node was reached for a session, which may have gone meanwhile.
    pub(super) fn ledger_link_up(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        link: LinkKey,
        (session, number, address): (LinkKey, u64, String),
    ) {
        cx.counters.ledger_links.increment();
        let now = cx.now;
        let Some(upstream) =
            self.upstreams.get(session).filter(|one| one.state == (State::Dialling { number }))
        else {
            return cx.out.close(link, CloseReason::SessionEnded);
        };
        upstream.state = State::Greeting { link, since: now };
        upstream.last_received = Some(now);
        upstream.address.clone_from(&address);
        let was_up = std::mem::replace(&mut upstream.was_up, true);
        let (node, is_behind) = (upstream.node, !upstream.arrived.is_empty());
        let handshake = upstream.handshake.clone();
        self.upstreams.preferred = node;
        if was_up {
            cx.counters.ledger_reconnects.increment();
        }
        if let Some(of_node) = cx.of_ledger(node) {
            of_node.sessions.increment();
            of_node.reconnects.add(was_up.into());
        }
        if cx.common.logs.ledger_up.admits(now) {
            info!(node, %address, again = was_up, "a session is connected to a ledger node");
        }
        if is_behind {
            cx.out.pause_reading(link, true);
        }
        self.upstreams.timers.start_until(now + GREETING_MAX, Due::Look { session, link });
        match handshake {
            // Sent first and alone: a ledger node handles what comes at once in any order.
            Some(frame) => _ = self.send_up(cx, link, (&[], frame.as_ref())),
            None => self.handle_greeted(cx, session),
        }
    }

    /// The ledger node knows what the session speaks: it is told the rest.
    fn handle_greeted(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey) {
        let Some(upstream) = self.upstreams.get(session) else { return };
        let State::Greeting { link, since } = upstream.state else { return };
        upstream.state = State::Up { link, since };
        let keys: Vec<FilterKey> = upstream.filters.keys().cloned().collect();
        if !upstream.topics.is_empty() {
            self.tell_topics(cx, session, link);
        }
        for key in keys {
            self.open_filter_again(cx, session, link, key);
        }
        let unsent = self.upstreams.get(session).map(|one| std::mem::take(&mut one.unsent));
        for seq in unsent.unwrap_or_default() {
            self.send_asked(cx, session, link, &seq);
        }
    }

    /// A connection to a ledger node has ended.
    pub(super) fn end_ledger_link(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        link: LinkKey,
        LedgerLink { session }: LedgerLink,
        reason: CloseReason,
    ) {
        cx.counters.ledger_links.decrement();
        let Some(upstream) = self.upstreams.get(session).filter(|one| one.link() == Some(link)) else {
            return;
        };
        let (since, was_greeted) = match upstream.state {
            State::Greeting { since, .. } => (since, false),
            State::Up { since, .. } => (since, true),
            _ => return,
        };
        upstream.state = State::Idle;
        upstream.pushes = 0;
        let (node, in_flight) =
            (upstream.node, upstream.asked.values().filter(|one| one.frame.is_none()).count());
        cx.counters.ledger_links_lost.increment();
        if let Some(of_node) = cx.of_ledger(node) {
            of_node.sessions.decrement();
            of_node.links_lost.increment();
        }
        if cx.common.logs.ledger_lost.admits(cx.now) {
            let remedy = reason.remedy().unwrap_or("see the ledger node's log, and whether it runs");
            warn!(node, %reason, in_flight, remedy, "a session's connection to a ledger node is lost; it is made anew");
        }
        self.forget_pushes_of_ledger(session);
        self.end_asked_by_loss(cx, session);
        let lasted = was_greeted && cx.now.saturating_duration_since(since) >= LASTED;
        self.seek_another(cx, session, lasted);
    }

    /// Does what is due.
    pub(super) fn handle_ledger_timeouts(&mut self, cx: &mut Context<'_, impl Outbound>) {
        while let Some(due) = self.upstreams.timers.pop_expired(cx.now) {
            match due {
                Due::Request { session, seq } => self.end_late_request(cx, session, seq),
                Due::Dial { session, number } => {
                    let upstream = self.upstreams.get(session);
                    if let Some(upstream) = upstream.filter(|one| one.state == (State::Pausing { number })) {
                        match upstream.needs_ledger() {
                            true => self.dial_ledger(cx, session),
                            false => upstream.state = State::Idle,
                        }
                    }
                }
                Due::Look { session, link } => self.look_at_ledger_link(cx, session, link),
            }
        }
    }

    /// Whether the ledger node still answers; else the connection is made anew.
    fn look_at_ledger_link(&mut self, cx: &mut Context<'_, impl Outbound>, session: LinkKey, link: LinkKey) {
        let now = cx.now;
        let Some(upstream) = self.upstreams.get(session).filter(|one| one.link() == Some(link)) else {
            return;
        };
        if matches!(upstream.state, State::Greeting { .. }) {
            return cx.out.abort(link, CloseReason::NotGreeted);
        }
        let since =
            |time: Option<Instant>| time.map_or(Duration::ZERO, |time| now.saturating_duration_since(time));
        // While it is not read, that is not its silence.
        if !upstream.arrived.is_empty() {
            upstream.last_received = Some(now);
        }
        if since(upstream.last_received) >= DEAD_AFTER {
            return cx.out.abort(link, CloseReason::Idle);
        }
        if since(upstream.last_received) >= HEARTBEAT_INTERVAL {
            let seq = cx.own_seq();
            self.send_own(cx, link, (FrameType::HEARTBEAT, &seq), b"0");
        }
        self.upstreams.timers.start_until(now + HEARTBEAT_INTERVAL, Due::Look { session, link });
    }

    /// Bytes have come from a ledger node.
    pub(super) fn note_ledger_activity(&mut self, now: Instant, session: LinkKey) {
        if let Some(upstream) = self.upstreams.get(session) {
            upstream.last_received = Some(now);
        }
    }
}
