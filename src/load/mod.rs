//! A load generator: many links on one thread and one ring, closed and open loops, every answer matched.
//!
//! It costs about what a bare forwarder of bytes costs, so that one processor of load keeps one processor of a node
//! busy. `amop bench` runs it, and so does `perf/` for the peers that the node is compared with, which speak another
//! [`Protocol`].
//!
//! Imports `wire`, `tls`, `engine::streams`, the roles of threads from `engine`, and a bound of `relay`.
//!
//! # Invariants
//! - A message is counted once: when its answer and all its deliveries are there.
//! - In an open loop a time begins when the message was due, not when it was sent.

mod amop;
mod link;
mod outcome;
mod protocol;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use slab::Slab;

pub use crate::engine::schedule::{Role as ThreadRole, set_role as set_thread_role};
pub use amop::Amop;
pub use link::{CONNECT_WITHIN, Connection, Link, Records, Security, shake_hands};
pub use outcome::{Outcome, Usage};
pub use protocol::{Protocol, Role, Seen, Ticket, decode_ticket, encode_ticket};

use crate::engine::streams::{Input, Outputs, Streams};

/// Receive buffers of the load's ring, and bytes of each.
const RECEIVE_BUFFERS: (u16, usize) = (512, 64 * 1024);
/// Records that are read one by one in a turn, of all links together.
const RECORDS_PER_TURN: usize = 64;
/// Messages under way at once, in an open loop; more than that are not sent, and counted.
const PENDING_MAX: usize = 1 << 20;
/// How long what is under way at the end of a run may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(35);
/// How long subscriptions may take to be known where the publishers are.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// A probe is sent again after this, and after twice the time whenever that was not enough.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often links say that they live.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Shorter waits than this are spent looking, since sleeping is not that exact.
const SPIN_BELOW: Duration = Duration::from_micros(100);

/// From this share of a processor on, the load may be what holds a closed loop up.
const OWN_SHARE_MAX: f64 = 0.9;
/// Quantiles that are told.
const QUANTILES: [(&str, f64); 6] = [
    ("p50_us", 0.5),
    ("p90_us", 0.9),
    ("p99_us", 0.99),
    ("p999_us", 0.999),
    ("p9999_us", 0.9999),
    ("max_us", 1.0),
];

/// Who is connected to whom.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Links that publish, each on a topic of its own.
    pub publishers: usize,
    /// Links that are subscribed, to one topic each, in turn.
    pub subscribers: usize,
    /// Where the publishers are.
    pub publish_at: String,
    /// Where the subscribers are.
    pub subscribe_at: String,
}

/// Which messages are sent.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// So many of a hundred go to all, the others to one.
    pub multicast_percent: u8,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many are under way for each publisher.
    Closed {
        /// Messages.
        window: usize,
    },
    /// So many a second in all, whether or not those before are done.
    Open {
        /// Messages.
        per_second: u32,
        /// Whether to look for answers without sleeping in between.
        spins: bool,
    },
}

/// How long a run lasts, and whom it watches.
#[derive(Clone, Debug)]
pub struct Span {
    /// Not counted, at the beginning.
    pub warm_up: Duration,
    /// Counted.
    pub counted: Duration,
    /// Processes whose processor time is read meanwhile.
    pub pids: Vec<u32>,
}

/// What a run found.
pub struct Run {
    /// How long was counted.
    pub elapsed: Duration,
    /// What became of messages meanwhile.
    pub outcome: Outcome,
    /// What the watched processes used.
    pub watched: Usage,
    /// What this process used.
    pub own: Usage,
    /// Messages that were not done long after the end.
    pub lost: u64,
    /// Open loop: how late messages were sent, in nanoseconds.
    pub lateness: hdrhistogram::Histogram<u64>,
    /// Open loop: messages that were not sent, since too many were under way.
    pub unsent: u64,
}

impl Run {
    /// Share of a processor that this process used.
    pub fn own_share(&self) -> f64 {
        self.own.processor().as_secs_f64() / self.elapsed.as_secs_f64()
    }

    /// Share of a processor that the watched processes used.
    pub fn watched_share(&self) -> f64 {
        self.watched.processor().as_secs_f64() / self.elapsed.as_secs_f64()
    }

    /// Whether nothing was lost, failed, came twice or was not sent.
    pub fn is_clean(&self) -> bool {
        self.outcome.failed() == 0 && self.outcome.unmatched == 0 && self.lost == 0 && self.unsent == 0
    }

    /// Open loop: how late messages were sent, in microseconds, at p99.
    pub fn late_micros(&self) -> f64 {
        self.lateness.value_at_quantile(0.99) as f64 / 1000.0
    }

    /// Whether the load itself was at its limit, so that the figures say more of it than of the node.
    pub fn is_load_bottleneck(&self, pace: Pace) -> bool {
        match pace {
            Pace::Closed { .. } => self.own_share() > OWN_SHARE_MAX,
            Pace::Open { .. } => self.unsent > 0 || self.late_micros() > self.outcome.micros(0.5),
        }
    }

    /// All figures. `what` is what the watched processes' time is told for, and `count` how many of it there were.
    pub fn to_json(&self, pace: Pace, what: &str, count: u64) -> serde_json::Value {
        let outcome = &self.outcome;
        let seconds = self.elapsed.as_secs_f64();
        let (load, value) = match pace {
            Pace::Closed { window } => ("window", window as u64),
            Pace::Open { per_second, .. } => ("rate", per_second.into()),
        };
        let failed: BTreeMap<String, u64> =
            outcome.failed.iter().map(|(code, &count)| (code.to_string(), count)).collect();
        let steps = outcome.times.iter_quantiles(2);
        let histogram: Vec<(f64, f64)> = steps
            .map(|step| (step.quantile_iterated_to(), step.value_iterated_to() as f64 / 1000.0))
            .collect();
        let mut object = serde_json::json!({
            load: value, "seconds": seconds, "messages": outcome.times.len(),
            "messages_per_second": outcome.times.len() as f64 / seconds,
            "deliveries_per_second": outcome.deliveries as f64 / seconds,
            "failed": failed, "unmatched": outcome.unmatched, "lost": self.lost, "unsent": self.unsent,
            "sent_late_p99_us": self.late_micros(), "own_processor_share": self.own_share(),
            "load_is_bottleneck": self.is_load_bottleneck(pace), "is_clean": self.is_clean(),
            "node_processor_share": self.watched_share(),
            "node_user_seconds": self.watched.user.as_secs_f64(),
            "node_system_seconds": self.watched.system.as_secs_f64(),
            "node_cpu_us_each": self.watched_micros_per(count), "node_cpu_each": what,
            "node_resident_kib": self.watched.resident_kib, "histogram_us": histogram,
        });
        for (name, quantile) in QUANTILES {
            object[name] = outcome.micros(quantile).into();
        }
        object
    }

    /// Processor time of the watched processes for each of `count`, in microseconds.
    pub fn watched_micros_per(&self, count: u64) -> f64 {
        self.watched.processor().as_secs_f64() * 1e6 / count.max(1) as f64
    }
}

#[derive(Clone, Copy)]
struct Pending {
    /// Tells messages at one index apart.
    number: u32,
    due: Instant,
    /// Deliveries that are still to come.
    deliveries: u32,
    /// Whether the answer is still to come.
    awaits_answer: bool,
    publisher: u32,
    code: i32,
}

/// What is under way, and what became of the rest.
struct Table {
    pending: Slab<Pending>,
    taken: u32,
    outcome: Outcome,
    is_counting: bool,
    /// Publishers whose message was done, and whether it was taken.
    done: Vec<(u32, bool)>,
}

impl Table {
    fn take(&mut self, due: Instant, publisher: usize, deliveries: u32, awaits_answer: bool) -> Ticket {
        self.taken = self.taken.wrapping_add(1);
        let (number, publisher) = (self.taken, publisher as u32);
        let index =
            self.pending.insert(Pending { number, due, deliveries, awaits_answer, publisher, code: 0 });
        u64::from(number) << 32 | index as u64
    }

    fn under_way(&self) -> usize {
        self.pending.len()
    }

    /// Gives up all that is under way.
    fn forget(&mut self) {
        self.pending.clear();
        self.done.clear();
    }

    fn see(&mut self, now: Instant, seen: Seen) {
        let (ticket, code) = match seen {
            Seen::Nothing | Seen::Request => return,
            Seen::Delivered(ticket) => (ticket, None),
            Seen::Answered { ticket, code } => (ticket, Some(code)),
        };
        let index = ticket as u32 as usize;
        let pending = self.pending.get_mut(index);
        let Some(pending) = pending.filter(|pending| pending.number == (ticket >> 32) as u32) else {
            self.outcome.unmatched += u64::from(self.is_counting);
            return;
        };
        match code {
            Some(code) if pending.awaits_answer => {
                pending.awaits_answer = false;
                pending.code = code;
                if code != 0 {
                    // Whom it reached nobody can say.
                    pending.deliveries = 0;
                }
            }
            None if pending.deliveries > 0 => {
                pending.deliveries -= 1;
                self.outcome.deliveries += u64::from(self.is_counting);
            }
            _ => {
                self.outcome.unmatched += u64::from(self.is_counting);
                return;
            }
        }
        if pending.awaits_answer || pending.deliveries > 0 {
            return;
        }
        let (due, publisher, code) = (pending.due, pending.publisher, pending.code);
        self.pending.remove(index);
        self.done.push((publisher, code == 0));
        match code {
            _ if !self.is_counting => {}
            0 => self.outcome.times.saturating_record(now.saturating_duration_since(due).as_nanos() as u64),
            code => *self.outcome.failed.entry(code).or_default() += 1,
        }
    }
}

/// The links of a run.
pub struct Load<P: Protocol> {
    protocol: P,
    streams: Streams,
    /// Publishers, then subscribers, then idle ones.
    links: Vec<Link>,
    publishers: usize,
    subscribers: usize,
    table: Table,
    mix: Mix,
    /// Messages begun, by which unicasts and multicasts take turns.
    begun: u64,
    touched: Vec<u32>,
    /// Links that read one by one and may have something to read.
    readable: VecDeque<u32>,
    failure: Option<io::Error>,
    next_heartbeat: Instant,
}

impl<P: Protocol> Load<P> {
    /// Connects and subscribes everybody. The thread that calls is the one that measures from here on.
    pub fn connect(protocol: P, shape: &Shape, security: &Security) -> io::Result<Self> {
        set_thread_role(ThreadRole::Messages);
        let (buffers, buffer_len) = RECEIVE_BUFFERS;
        let streams = Streams::new(buffers, buffer_len).map_err(io::Error::other)?;
        let table = Table {
            pending: Slab::new(),
            taken: 0,
            outcome: Outcome::default(),
            is_counting: false,
            done: Vec::new(),
        };
        let mut load = Self {
            protocol,
            streams,
            links: Vec::new(),
            publishers: shape.publishers,
            subscribers: shape.subscribers,
            table,
            mix: Mix { multicast_percent: 0 },
            begun: 0,
            touched: Vec::new(),
            readable: VecDeque::new(),
            failure: None,
            next_heartbeat: Instant::now() + HEARTBEAT_INTERVAL,
        };
        for publisher in 0..shape.publishers {
            load.add(&shape.publish_at, security, Role::Publisher(publisher))?;
        }
        for subscriber in 0..shape.subscribers {
            let role = Role::Subscriber(subscriber % shape.publishers.max(1));
            load.add(&shape.subscribe_at, security, role)?;
        }
        Ok(load)
    }

    /// Connects one more link.
    pub fn add(&mut self, address: &str, security: &Security, role: Role) -> io::Result<()> {
        let connection = self.protocol.connect(address, security, role)?;
        let socket = connection.socket.try_clone()?;
        socket.set_read_timeout(None)?;
        let stream = if connection.is_one_by_one() {
            socket.set_nonblocking(true)?;
            self.streams.watch(socket.into())?
        } else {
            self.streams.add(socket.into())?
        };
        self.links.push(Link::new(stream, connection));
        // Whoever waits long until all are connected keeps those that are.
        if Instant::now() >= self.next_heartbeat {
            self.flush()?;
            self.turn(Duration::ZERO, false)?;
        }
        Ok(())
    }

    /// How the protocol was set up.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// Which messages are sent from now on.
    pub fn set_mix(&mut self, mix: Mix) {
        self.mix = mix;
    }

    /// Waits until a message of each publisher reaches whom it is for.
    pub fn wait_until_ready(&mut self) -> io::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        // Long messages take their time: probes that come faster than they are answered would only delay each other.
        let mut interval = PROBE_INTERVAL_MIN;
        let mut is_ready = vec![false; self.publishers];
        while is_ready.contains(&false) {
            self.table.forget();
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the subscribers do not become known where the publishers are: are the nodes linked?",
                ));
            }
            for (publisher, _) in is_ready.iter().enumerate().filter(|(_, is_ready)| !**is_ready) {
                self.send(publisher, Instant::now());
            }
            let round = Instant::now() + interval;
            interval *= 2;
            while Instant::now() < round && is_ready.contains(&false) {
                self.flush()?;
                self.turn(round.saturating_duration_since(Instant::now()), false)?;
                for (publisher, is_ok) in std::mem::take(&mut self.table.done) {
                    is_ready[publisher as usize] |= is_ok;
                }
            }
        }
        Ok(())
    }

    /// Sends as said and counts; `progress` gets what was done so far about once a second.
    pub fn run(
        &mut self,
        pace: Pace,
        span: &Span,
        mut progress: impl FnMut(Duration, u64),
    ) -> io::Result<Run> {
        let start = Instant::now();
        let (count_from, end) = (start + span.warm_up, start + span.warm_up + span.counted);
        let mut lateness = Outcome::default().times;
        let (mut unsent, mut sent) = (0, 0u64);
        let mut counted: Option<(Instant, Usage, Usage)> = None;
        let mut next_progress = count_from + Duration::from_secs(1);
        self.table.outcome = Outcome::default();
        if let Pace::Closed { window } = pace {
            for publisher in 0..self.publishers {
                (0..window).for_each(|_| self.send(publisher, start));
            }
        }
        loop {
            let now = Instant::now();
            if counted.is_none() && now >= count_from {
                self.table.is_counting = true;
                counted = Some((now, Usage::of(&span.pids), Usage::own()));
            }
            if now >= end {
                break;
            }
            if now >= next_progress {
                next_progress += Duration::from_secs(1);
                progress(now - count_from, self.table.outcome.times.len());
            }
            let mut wait = end.min(next_progress).saturating_duration_since(now);
            if let Pace::Open { per_second, spins } = pace {
                let due_at = |number: u64| {
                    start + Duration::from_nanos(number * 1_000_000_000 / u64::from(per_second.max(1)))
                };
                while due_at(sent) <= now {
                    if self.table.under_way() < PENDING_MAX {
                        self.send(sent as usize % self.publishers, due_at(sent));
                        lateness.saturating_record((now - due_at(sent)).as_nanos() as u64);
                    } else {
                        unsent += 1;
                    }
                    sent += 1;
                }
                let gap = due_at(sent).saturating_duration_since(now);
                wait = wait.min(if spins || gap < SPIN_BELOW { Duration::ZERO } else { gap - SPIN_BELOW });
            }
            self.flush()?;
            let is_closed = matches!(pace, Pace::Closed { .. });
            self.turn(wait, is_closed)?;
            self.refill(is_closed);
        }
        let (from, watched, own) = counted.expect("the end is not before counting begins");
        let elapsed = from.elapsed();
        let (watched, own) = (Usage::of(&span.pids).since(&watched), Usage::own().since(&own));
        self.table.is_counting = false;
        let outcome = std::mem::take(&mut self.table.outcome);
        let lost = self.drain()?;
        Ok(Run { elapsed, outcome, watched, own, lost, lateness, unsent })
    }

    /// SealIncarnations on for so long without sending messages.
    pub fn idle(&mut self, how_long: Duration) -> io::Result<()> {
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            self.flush()?;
            self.turn(end.saturating_duration_since(Instant::now()), false)?;
        }
        Ok(())
    }

    /// Waits for what is under way; gives how much of it never comes.
    fn drain(&mut self) -> io::Result<u64> {
        let end = Instant::now() + DRAIN_WITHIN;
        while self.table.under_way() > 0 && Instant::now() < end {
            self.flush()?;
            self.turn(end.saturating_duration_since(Instant::now()), false)?;
            self.table.done.clear();
        }
        let lost = self.table.under_way() as u64;
        self.table.forget();
        Ok(lost)
    }

    /// Reads a record of each link in turn that may have one, and writes at once what it calls for: its answer and, in a
    /// closed loop, the next message.
    fn read_one_by_one(&mut self, is_closed: bool) -> io::Result<()> {
        for _ in 0..RECORDS_PER_TURN {
            let Some(index) = self.readable.pop_front() else { break };
            let Self { protocol, links, table, touched, .. } = self;
            let link = &mut links[index as usize];
            link.is_readable = link
                .read_one(|plaintext, link| see_frames(protocol, table, Instant::now(), plaintext, link))?;
            if link.is_readable {
                self.readable.push_back(index);
                touch(touched, link, index as usize);
                if is_closed {
                    self.refill(true);
                }
                self.flush()?;
            }
        }
        Ok(())
    }

    /// A closed loop sends the next message for each that is done.
    fn refill(&mut self, sends: bool) {
        if self.table.done.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut done = std::mem::take(&mut self.table.done);
        for (publisher, _) in done.drain(..) {
            if sends {
                self.send(publisher as usize, now);
            }
        }
        self.table.done = done;
    }

    fn send(&mut self, publisher: usize, due: Instant) {
        let is_multicast = self.begun % 100 < u64::from(self.mix.multicast_percent);
        self.begun += 1;
        let link = &mut self.links[publisher];
        if is_multicast {
            let all = (publisher..self.subscribers).step_by(self.publishers).len() as u32;
            let ticket = self.table.take(due, publisher, all, P::MULTICASTS_ARE_ANSWERED);
            self.protocol.multicast(publisher, ticket, link.frame());
        } else {
            let ticket = self.table.take(due, publisher, 0, true);
            self.protocol.request(publisher, ticket, link.frame());
        }
        touch(&mut self.touched, link, publisher);
    }

    fn flush(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + HEARTBEAT_INTERVAL;
            for (index, link) in self.links.iter_mut().enumerate() {
                self.protocol.heartbeat(link.frame());
                touch(&mut self.touched, link, index);
            }
        }
        while let Some(index) = self.touched.pop() {
            let link = &mut self.links[index as usize];
            link.is_touched = false;
            link.flush(self.streams.outputs())?;
        }
        Ok(())
    }

    fn turn(&mut self, wait: Duration, is_closed: bool) -> io::Result<()> {
        let wait = match self.readable.is_empty() {
            true => wait.min(self.next_heartbeat.saturating_duration_since(Instant::now())),
            false => Duration::ZERO,
        };
        let Self { protocol, streams, links, table, touched, readable, failure, .. } = self;
        let mut turn_began = None;
        streams.turn(wait, |_: &mut Outputs, stream, input| {
            let link = &mut links[stream];
            touch(touched, link, stream);
            let broken = match input {
                Input::Bytes(bytes) => {
                    let now = *turn_began.get_or_insert_with(Instant::now);
                    link.handle_bytes(bytes, |plaintext, link| {
                        see_frames(protocol, table, now, plaintext, link)
                    })
                    .err()
                }
                Input::Ready => {
                    if !std::mem::replace(&mut link.is_readable, true) {
                        readable.push_back(stream as u32);
                    }
                    None
                }
                Input::End => Some(io::Error::new(io::ErrorKind::UnexpectedEof, link::CLOSED)),
                Input::Broken(error) => Some(error),
            };
            if let Some(error) = broken {
                failure.get_or_insert(error);
            }
        })?;
        self.failure.take().map_or(Ok(()), Err)?;
        self.read_one_by_one(is_closed)
    }
}

/// Has the link flushed at the end of the turn.
fn touch(touched: &mut Vec<u32>, link: &mut Link, index: usize) {
    if !std::mem::replace(&mut link.is_touched, true) {
        touched.push(index as u32);
    }
}

/// Takes all whole frames at the beginning of `plaintext`; gives their length.
fn see_frames<P: Protocol>(
    protocol: &P,
    table: &mut Table,
    now: Instant,
    plaintext: &[u8],
    link: &mut Link,
) -> io::Result<usize> {
    let mut at = 0;
    while let Some(len) = protocol.frame_len(&plaintext[at..])? {
        table.see(now, protocol.handle(&plaintext[at..at + len], link));
        at += len;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            pending: Slab::new(),
            taken: 0,
            outcome: Outcome::default(),
            is_counting: true,
            done: Vec::new(),
        }
    }

    #[test]
    fn a_message_is_done_once_when_its_answer_and_all_deliveries_are_there() {
        let (mut table, start) = (table(), Instant::now());
        let ticket = table.take(start, 0, 2, true);
        for seen in [Seen::Delivered(ticket), Seen::Answered { ticket, code: 0 }] {
            table.see(start, seen);
            assert_eq!(table.outcome.times.len(), 0);
        }
        table.see(start + Duration::from_millis(1), Seen::Delivered(ticket));
        assert_eq!((table.outcome.times.len(), table.outcome.deliveries, table.under_way()), (1, 2, 0));
        for seen in [Seen::Delivered(ticket), Seen::Answered { ticket, code: 0 }] {
            table.see(start, seen);
        }
        assert_eq!((table.outcome.times.len(), table.outcome.unmatched), (1, 2));
    }

    #[test]
    fn answers_to_an_earlier_message_in_the_same_place_are_not_taken_for_a_later_ones() {
        let (mut table, start) = (table(), Instant::now());
        let first = table.take(start, 0, 0, true);
        table.see(start, Seen::Answered { ticket: first, code: 102 });
        let second = table.take(start, 0, 0, true);
        assert_eq!((first as u32, table.outcome.failed.get(&102)), (second as u32, Some(&1)));
        table.see(start, Seen::Answered { ticket: first, code: 0 });
        assert_eq!((table.outcome.unmatched, table.under_way()), (1, 1));
    }
}
