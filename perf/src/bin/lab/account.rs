//! What became of each message, and whose fault that was.
//!
//! # Rules
//! - A unicast is to be answered 0, and to be answered by a subscriber that has it. A dead node excuses only what it asked or
//!   was asked.
//! - A multicast that was accepted is to come to every subscriber. A dead node excuses only copies from and to it.
//! - Nodes that were cut off from each other for so long that they had to notice it are excused from both.
//! - Nothing comes twice, and what comes from one publisher comes in its order, but for what comes to a dead node. A unicast to
//!   any subscriber may come behind later ones if one of them is dead or cut off, for it may have been meant for that one
//!   first.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::events::{Event, Kind, Payload, Phase, QUIET, Timeline};

/// Faults of one sort in one phase that are told one by one.
const TOLD_MAX: usize = 100;
/// Longer than any delay.
const DELAY_MAX: u64 = 120_000_000_000;

/// All that was due in phases of one name.
pub(crate) struct Row {
    pub topology: String,
    pub phase: String,
    pub seconds: f64,
    pub unicasts: u64,
    pub answered: u64,
    /// Of unicasts that were not answered 0, by code.
    pub codes: BTreeMap<i32, u64>,
    /// Of those, the ones that a subscriber has all the same.
    pub taken: u64,
    pub multicasts: u64,
    /// Multicasts that were not accepted.
    pub refused: u64,
    /// Copies of accepted multicasts, one a subscriber.
    pub copies: u64,
    pub missing: u64,
    pub doubled: u64,
    pub disordered: u64,
    /// How many of the above have an excuse.
    pub excused: u64,
    /// In nanoseconds: until the answer, and until a copy came, both since it was due.
    pub unicast_delays: Histogram<u64>,
    pub multicast_delays: Histogram<u64>,
}

impl Row {
    pub(crate) fn unanswered(&self) -> u64 {
        self.unicasts - self.answered
    }

    pub(crate) fn faults(&self) -> u64 {
        self.unanswered() + self.refused + self.missing + self.doubled + self.disordered - self.excused
    }
}

/// How long a message took that was due at a time.
#[derive(Clone, Copy)]
pub(crate) struct Delay {
    pub due: u64,
    pub nanoseconds: u64,
    pub is_multicast: bool,
}

/// What went wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Sort {
    /// A unicast without the answer 0, which no subscriber has.
    Lost,
    /// A unicast without the answer 0, which a subscriber has.
    AnswerLost,
    NotAccepted,
    Missing,
    Doubled,
    Disordered,
}

/// Faults of one sort in one phase.
#[derive(Default, Serialize)]
pub(crate) struct Faults {
    pub count: u64,
    /// The first of them.
    pub told: Vec<String>,
}

/// A whole run.
pub(crate) struct Account {
    pub timeline: Timeline,
    pub rows: Vec<Row>,
    pub delays: Vec<Delay>,
    /// Those without an excuse, by phase.
    pub faults: BTreeMap<(String, Sort), Faults>,
}

type Failure = Box<dyn std::error::Error>;

impl Account {
    /// Reads `timeline.json` and the accounts of the applications, `*.log`, in a directory.
    pub(crate) fn read(dir: &Path) -> Result<Self, Failure> {
        let failed = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let path = dir.join("timeline.json");
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
        let timeline: Timeline = serde_json::from_str(&text).map_err(|error| failed(&path, &error))?;
        let mut events = Vec::new();
        for node in 0..timeline.nodes {
            let path = dir.join(format!("{node}.log"));
            if !timeline.publishers.contains(&node) && !timeline.subscribers.contains(&node) {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
            for line in text.lines() {
                events.push(serde_json::from_str(line).map_err(|error| failed(&path, &error))?);
            }
        }
        Ok(Self::of(timeline, &events))
    }

    fn of(timeline: Timeline, events: &[Event]) -> Self {
        let rows = rows(&timeline);
        let mut account = Self { timeline, rows, delays: Vec::new(), faults: BTreeMap::new() };
        let mut receivers: HashMap<(usize, u64), Vec<usize>> = HashMap::new();
        for event in events {
            if let Event::Got { receiver, message, got } = event {
                receivers.entry((message.publisher, message.number)).or_default().push(*receiver);
                account.count_delivery(message, *got);
            }
        }
        account.count_order(events);
        for event in events {
            if let Event::Asked { message, code, answered, answerer } = event {
                let receivers = receivers.get(&(message.publisher, message.number));
                let receivers = receivers.map_or(&[][..], Vec::as_slice);
                match message.kind {
                    Kind::One(_) | Kind::Any => {
                        account.count_unicast(message, *code, (*answered, *answerer), receivers);
                    }
                    Kind::All => account.count_multicast(message, *code, receivers),
                }
            }
        }
        account
    }

    /// The phase and the row that a message belongs to; none if it is due before or after the run.
    fn place(&self, message: &Payload) -> Option<(Phase, usize)> {
        let due = message.due;
        let phase = self.timeline.phases.iter().find(|phase| (phase.begin..phase.end).contains(&due))?;
        let row = self.rows.iter().position(|row| row.phase == phase.name)?;
        Some((phase.clone(), row))
    }

    fn fault(&mut self, phase: &Phase, message: &Payload, excused: bool, sort: Sort, what: &str) {
        if excused {
            self.rows.iter_mut().filter(|row| row.phase == phase.name).for_each(|row| row.excused += 1);
            return;
        }
        let faults = self.faults.entry((phase.name.clone(), sort)).or_default();
        faults.count += 1;
        if faults.told.len() < TOLD_MAX {
            let since = (message.due - phase.begin) as f64 / 1e9;
            let Payload { publisher, number, kind, .. } = message;
            faults.told.push(format!(
                "{kind:?} {number} of node {publisher}, due {since:.3} s after the begin, {what}"
            ));
        }
    }

    fn count_delivery(&mut self, message: &Payload, got: u64) {
        let Some((_, row)) = self.place(message) else { return };
        if message.kind == Kind::All {
            let nanoseconds = got.saturating_sub(message.due);
            self.rows[row].multicast_delays.saturating_record(nanoseconds);
            self.delays.push(Delay { due: message.due, nanoseconds, is_multicast: true });
        }
    }

    /// Events of one receiver are in the order of their coming.
    fn count_order(&mut self, events: &[Event]) {
        let mut seen = HashSet::new();
        let mut newest: HashMap<(usize, usize), u64> = HashMap::new();
        for event in events {
            let Event::Got { receiver, message, .. } = event else { continue };
            let Some((phase, row)) = self.place(message) else { continue };
            if !seen.insert((*receiver, message.publisher, message.number)) {
                self.rows[row].doubled += 1;
                let excused = phase.dead.contains(receiver);
                self.fault(
                    &phase,
                    message,
                    excused,
                    Sort::Doubled,
                    &format!("comes to node {receiver} again"),
                );
                continue;
            }
            let newest = newest.entry((*receiver, message.publisher)).or_insert(message.number);
            if message.number < *newest {
                self.rows[row].disordered += 1;
                // Who would have had it is dead or out of reach: it comes to another later.
                let is_subscriber = |node| self.timeline.subscribers.contains(node);
                let redrawn =
                    message.kind == Kind::Any && (phase.cut_off || phase.dead.iter().any(is_subscriber));
                let what = format!("comes to node {receiver} behind {newest}");
                let excused = redrawn || phase.dead.contains(receiver);
                self.fault(&phase, message, excused, Sort::Disordered, &what);
            }
            *newest = message.number.max(*newest);
        }
    }

    fn count_unicast(
        &mut self,
        message: &Payload,
        code: i32,
        (answered, answerer): (u64, Option<usize>),
        receivers: &[usize],
    ) {
        let target = match message.kind {
            Kind::One(target) => Some(target),
            Kind::Any | Kind::All => None,
        };
        let Some((phase, index)) = self.place(message) else { return };
        let row = &mut self.rows[index];
        row.unicasts += 1;
        let is_right = answerer
            .is_some_and(|node| receivers.contains(&node) && target.is_none_or(|target| node == target));
        if code == 0 && is_right {
            row.answered += 1;
            let nanoseconds = answered.saturating_sub(message.due);
            row.unicast_delays.saturating_record(nanoseconds);
            self.delays.push(Delay { due: message.due, nanoseconds, is_multicast: false });
            return;
        }
        *row.codes.entry(code).or_default() += 1;
        row.taken += u64::from(!receivers.is_empty());
        let is_dead = |node| phase.dead.contains(&node);
        let excused = phase.cut_off || is_dead(message.publisher) || target.is_some_and(is_dead);
        let after = answered.saturating_sub(message.due) as f64 / 1e9;
        let sort = if receivers.is_empty() { Sort::Lost } else { Sort::AnswerLost };
        let what = match (code, receivers) {
            (0, _) => format!("is answered 0 by who has not got it, {answerer:?}"),
            (code, _) => format!("is answered {code} after {after:.3} s; it came to nodes {receivers:?}"),
        };
        self.fault(&phase, message, excused, sort, &what);
    }

    fn count_multicast(&mut self, message: &Payload, code: i32, receivers: &[usize]) {
        let Some((phase, index)) = self.place(message) else { return };
        self.rows[index].multicasts += 1;
        let is_dead = |node| phase.dead.contains(&node);
        if code != 0 {
            self.rows[index].refused += 1;
            let excused = is_dead(message.publisher);
            return self.fault(
                &phase,
                message,
                excused,
                Sort::NotAccepted,
                &format!("is not accepted: {code}"),
            );
        }
        for subscriber in self.timeline.subscribers.clone() {
            self.rows[index].copies += 1;
            if !receivers.contains(&subscriber) {
                self.rows[index].missing += 1;
                let excused = phase.cut_off || is_dead(message.publisher) || is_dead(subscriber);
                self.fault(
                    &phase,
                    message,
                    excused,
                    Sort::Missing,
                    &format!("does not come to node {subscriber}"),
                );
            }
        }
    }
}

/// A row for each name, the quiet one first.
fn rows(timeline: &Timeline) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let delays = || Histogram::new_with_bounds(1, DELAY_MAX, 3).expect("valid bounds");
    for phase in &timeline.phases {
        let seconds = (phase.end - phase.begin) as f64 / 1e9;
        if let Some(row) = rows.iter_mut().find(|row| row.phase == phase.name) {
            row.seconds += seconds;
            continue;
        }
        rows.push(Row {
            topology: timeline.topology.clone(),
            phase: phase.name.clone(),
            seconds,
            unicasts: 0,
            answered: 0,
            codes: BTreeMap::new(),
            taken: 0,
            multicasts: 0,
            refused: 0,
            copies: 0,
            missing: 0,
            doubled: 0,
            disordered: 0,
            excused: 0,
            unicast_delays: delays(),
            multicast_delays: delays(),
        });
    }
    rows.sort_by_key(|row| row.phase != QUIET);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Nodes 0 and 1 with applications, node 2 without; a quiet second, then one with a fault.
    fn account(dead: &[usize], cut_off: bool, events: &[Event]) -> Account {
        let phase = |name: &str, begin, dead: &[usize], cut_off| Phase {
            name: name.to_owned(),
            begin,
            end: begin + SECOND,
            dead: dead.to_vec(),
            cut_off,
        };
        let timeline = Timeline {
            topology: "test".to_owned(),
            nodes: 3,
            links: 3,
            publishers: vec![0],
            subscribers: vec![0, 1],
            rate: 1,
            payload: 1,
            load_before: 0.0,
            load_after: 0.0,
            processors: 1,
            kernel: String::new(),
            phases: vec![phase(QUIET, 0, &[], false), phase("fault", SECOND, dead, cut_off)],
            troubles: Vec::new(),
        };
        Account::of(timeline, events)
    }

    fn message(number: u64, kind: Kind) -> Payload {
        Payload { publisher: 0, number, kind, due: SECOND + number }
    }

    fn asked(number: u64, kind: Kind, code: i32, answerer: Option<usize>) -> Event {
        Event::Asked { message: message(number, kind), code, answered: 2 * SECOND, answerer }
    }

    fn got(receiver: usize, number: u64, kind: Kind) -> Event {
        Event::Got { receiver, message: message(number, kind), got: 2 * SECOND }
    }

    /// Faults, and what is excused, of the phase with the fault.
    fn told(account: &Account) -> (u64, u64) {
        (account.rows[1].faults(), account.rows[1].excused)
    }

    #[test]
    fn what_comes_once_and_in_order_and_is_answered_is_no_fault() {
        let one = Kind::One(1);
        let events = [
            got(0, 1, Kind::All),
            got(1, 0, one),
            got(1, 1, Kind::All),
            asked(0, one, 0, Some(1)),
            asked(1, Kind::All, 0, None),
        ];
        let account = account(&[], false, &events);
        assert_eq!(told(&account), (0, 0));
        assert_eq!((account.rows[1].answered, account.rows[1].copies), (1, 2));
    }

    #[test]
    fn a_copy_that_does_not_come_is_missing_unless_its_own_ends_died_or_were_cut_off() {
        let events = [asked(0, Kind::All, 0, None), got(0, 0, Kind::All)];
        assert_eq!(told(&account(&[], false, &events)), (1, 0));
        assert_eq!(told(&account(&[2], false, &events)), (1, 0));
        assert_eq!(told(&account(&[1], false, &events)), (0, 1));
        assert_eq!(told(&account(&[], true, &events)), (0, 1));
    }

    #[test]
    fn a_unicast_that_is_not_answered_0_is_a_fault_unless_its_own_ends_died() {
        let events = [asked(0, Kind::One(1), 102, None)];
        assert_eq!(told(&account(&[], false, &events)), (1, 0));
        assert_eq!(told(&account(&[2], false, &events)), (1, 0));
        assert_eq!(told(&account(&[1], false, &events)), (0, 1));
        let by_a_stranger = [asked(0, Kind::One(1), 0, Some(1))];
        assert_eq!(told(&account(&[], false, &by_a_stranger)), (1, 0));
    }

    #[test]
    fn what_comes_twice_or_behind_a_later_one_is_a_fault_wherever_nobody_died() {
        let one = Kind::One(1);
        let answers = [asked(0, one, 0, Some(1)), asked(1, one, 0, Some(1))];
        let overtaken = [got(1, 1, one), got(1, 0, one)];
        let twice = [got(1, 0, one), got(1, 1, one), got(1, 0, one)];
        for deliveries in [&overtaken[..], &twice[..]] {
            let events = [&answers[..], deliveries].concat();
            assert_eq!(told(&account(&[], true, &events)), (1, 0));
            assert_eq!(told(&account(&[2], false, &events)), (1, 0));
        }
    }
}
