//! What a node keeps of messages that are over, for people who look for one by its seq.
//!
//! A shard keeps a trace of each message whose path it decided, once that is over: always if it did not
//! end with 0, and if it did as long as [`Shared::tracing`](super::Shared::tracing) is on. Of each of the two
//! kinds the node keeps the last [`KEPT_MAX`]. Nothing is allocated for a message that leaves no trace.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::wire::{sdk::Seq, trace::MessageTrace};

/// Messages of a node that did not end with 0, and as many that did, that are kept.
pub const KEPT_MAX: usize = 65_536;
/// Messages that are taken into memory, and out of it, at once.
pub(super) const CHUNK_LEN: usize = 256;
/// Bytes of a topic's name that are kept.
const TOPIC_KEPT_MAX: usize = 62;
/// Bytes of a sender's address, and of the subject of its certificate, that are kept.
const ADDRESS_KEPT_MAX: usize = 64;
const SUBJECT_KEPT_MAX: usize = 128;
/// Slots of the table of pending requests that are looked at for a message that is not over.
pub(super) const PENDING_LOOKED_AT_MAX: usize = 16_384;

/// The name of a topic, its end cut off if it is long.
#[derive(Clone, Copy)]
pub(super) struct TopicName {
    len: u8,
    kept: u8,
    bytes: [u8; TOPIC_KEPT_MAX],
}

impl TopicName {
    /// Of at most 254 bytes.
    pub(super) fn new(name: &str) -> Self {
        let mut new = Self { len: 0, kept: 0, bytes: [0; TOPIC_KEPT_MAX] };
        new.set(name);
        new
    }

    /// Makes it another one.
    pub(super) fn set(&mut self, name: &str) {
        let beginning = cut(name, TOPIC_KEPT_MAX).as_bytes();
        if let Some(bytes) = self.bytes.get_mut(..beginning.len()) {
            bytes.copy_from_slice(beginning);
        }
        (self.len, self.kept) = (name.len() as u8, beginning.len() as u8);
    }

    pub(super) fn to_text(self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes[..self.kept.into()]).into_owned();
        if self.kept < self.len {
            text.push('…');
        }
        text
    }
}

/// The beginning of a text, whole characters of it.
fn cut(text: &str, len_max: usize) -> &str {
    if text.len() <= len_max {
        return text;
    }
    let len = (0..=len_max.min(text.len())).rev().find(|&len| text.is_char_boundary(len));
    &text[..len.unwrap_or(0)]
}

/// The session that sent a message, as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its `ip:port`.
    pub address: String,
    /// Subject of its certificate.
    pub subject: String,
}

impl Sender {
    pub(super) fn new(address: &str, subject: &str) -> Self {
        Self {
            address: cut(address, ADDRESS_KEPT_MAX).to_owned(),
            subject: cut(subject, SUBJECT_KEPT_MAX).to_owned(),
        }
    }

    /// Memory of one at most, in bytes.
    pub(super) const LEN_MAX: usize =
        size_of::<Self>() + 16 + ADDRESS_KEPT_MAX + SUBJECT_KEPT_MAX + 3 * super::bounds::ALLOCATION;
}

/// A message that is over.
pub(super) struct Record {
    pub(super) seq: Seq,
    /// When it was taken, in microseconds since the start of the node.
    pub(super) taken_us: u64,
    /// [`MessageTrace::age_us`] is set when it is told.
    pub(super) trace: MessageTrace,
    pub(super) topic: TopicName,
    pub(super) sender: Option<Arc<Sender>>,
}

impl Record {
    /// What is told of it to people here, so many microseconds after the start of the node.
    pub(super) fn tell(&self, now_us: u64) -> LocalTrace {
        LocalTrace {
            trace: MessageTrace { age_us: now_us.saturating_sub(self.taken_us), ..self.trace.clone() },
            topic: self.topic.to_text(),
            sender: self.sender.clone(),
        }
    }
}

/// Memory of a record beside its sender and its attempts, in bytes.
pub(super) const RECORD_LEN: usize = size_of::<Record>() + size_of::<u32>() + size_of::<u64>();

/// A shard's records of one kind, the oldest first.
///
/// All shards of a node together keep a number of them: each record has a ticket, and is forgotten when as
/// many newer ones have been handed out.
pub(super) struct Records {
    chunks: VecDeque<Chunk>,
    len: usize,
    /// How many of all shards are kept.
    kept_max: usize,
}

#[derive(Default)]
struct Chunk {
    /// The beginning of each record's seq, in one piece of memory: a search looks at these.
    tags: Vec<u32>,
    tickets: Vec<u64>,
    records: Vec<Record>,
}

impl Chunk {
    fn new() -> Self {
        Self {
            tags: Vec::with_capacity(CHUNK_LEN),
            tickets: Vec::with_capacity(CHUNK_LEN),
            records: Vec::with_capacity(CHUNK_LEN),
        }
    }
}

fn tag(seq: &Seq) -> u32 {
    // The letters of a UUID have four bits of chance each.
    let word = |at: usize| u32::from_be_bytes([seq[at], seq[at + 1], seq[at + 2], seq[at + 3]]);
    word(0) ^ word(4).rotate_left(4) ^ word(20).rotate_left(8) ^ word(28).rotate_left(12)
}

impl Records {
    /// None yet; of all shards so many are kept.
    pub(super) fn new(kept_max: usize) -> Self {
        Self { chunks: VecDeque::new(), len: 0, kept_max }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds one, and forgets those that have become too old; tells how many.
    pub(super) fn push(&mut self, record: Record, tickets: &AtomicU64) -> usize {
        let ticket = tickets.fetch_add(1, Relaxed);
        if self.chunks.back().is_none_or(|chunk| chunk.records.len() == CHUNK_LEN) {
            self.chunks.push_back(Chunk::new());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.tags.push(tag(&record.seq));
            chunk.tickets.push(ticket);
            chunk.records.push(record);
            self.len += 1;
        }
        self.forget(tickets)
    }

    /// Forgets chunks of which all records are too old; tells how many records.
    pub(super) fn forget(&mut self, tickets: &AtomicU64) -> usize {
        let (oldest, before) = (self.oldest_ticket(tickets), self.len);
        while let Some(chunk) = self.chunks.front()
            && chunk.tickets.last().is_some_and(|&last| last < oldest)
        {
            self.len -= chunk.records.len();
            self.chunks.pop_front();
        }
        before - self.len
    }

    /// All of them, the newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Record> {
        self.chunks.iter().rev().flat_map(|chunk| chunk.records.iter().rev())
    }

    /// Those of a seq, the newest first.
    pub(super) fn find<'a>(&'a self, seq: &'a Seq, tickets: &AtomicU64) -> impl Iterator<Item = &'a Record> {
        let (oldest, tag) = (self.oldest_ticket(tickets), tag(seq));
        self.chunks.iter().rev().flat_map(move |chunk| {
            let places = chunk.tags.iter().enumerate().rev().filter(move |(_, other)| **other == tag);
            places
                .filter(move |(place, _)| chunk.tickets[*place] >= oldest)
                .map(|(place, _)| &chunk.records[place])
                .filter(move |record| record.seq == *seq)
        })
    }

    fn oldest_ticket(&self, tickets: &AtomicU64) -> u64 {
        tickets.load(Relaxed).saturating_sub(self.kept_max as u64)
    }
}

/// What a node itself knows of a message, with what it tells nobody else.
#[derive(Clone, Debug)]
pub struct LocalTrace {
    /// What it tells others, too.
    pub trace: MessageTrace,
    /// The topic; of a long one the beginning.
    pub topic: String,
    /// The session that sent it, if it was one of this node.
    pub sender: Option<Arc<Sender>>,
}

/// Everything that one shard knows of a message.
#[derive(Clone, Debug, Default)]
pub struct LocalTraces {
    /// The newest first.
    pub known: Vec<LocalTrace>,
    /// Whether there is more, which is older.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        Record {
            seq: seq(number),
            taken_us: number,
            trace: MessageTrace::default(),
            topic: TopicName::new("t"),
            sender: None,
        }
    }

    fn seq(number: u64) -> Seq {
        format!("{number:032x}").into_bytes().try_into().unwrap()
    }

    #[test]
    fn the_last_records_of_all_shards_together_are_kept_and_those_before_are_not() {
        let (tickets, mut shards) = (AtomicU64::new(0), [Records::new(KEPT_MAX), Records::new(KEPT_MAX)]);
        let all = 3 * KEPT_MAX as u64;
        let shard_of = |number: u64| usize::from(number.is_multiple_of(3));
        let mut forgotten = 0;
        for number in 0..all {
            forgotten += shards[shard_of(number)].push(record(number), &tickets);
        }
        forgotten += shards.iter_mut().map(|shard| shard.forget(&tickets)).sum::<usize>();
        let kept: usize = shards.iter().map(Records::len).sum();
        assert!((KEPT_MAX..KEPT_MAX + 2 * CHUNK_LEN).contains(&kept), "{kept}");
        assert_eq!(kept + forgotten, all as usize);
        for number in [0, all - KEPT_MAX as u64 - 1, all - KEPT_MAX as u64, all - 1] {
            let wanted = seq(number);
            let found = shards.iter().flat_map(|shard| shard.find(&wanted, &tickets));
            let expected: &[u64] = if all - number <= KEPT_MAX as u64 { &[number] } else { &[] };
            assert_eq!(found.map(|one| one.taken_us).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn records_of_one_seq_come_the_newest_first() {
        let (tickets, mut records) = (AtomicU64::new(0), Records::new(KEPT_MAX));
        for number in 0..1_000 {
            records.push(Record { seq: seq(number % 300), ..record(number) }, &tickets);
        }
        let found: Vec<u64> = records.find(&seq(7), &tickets).map(|one| one.taken_us).collect();
        assert_eq!(found, [907, 607, 307, 7]);
        assert_eq!(records.find(&seq(300), &tickets).count(), 0);
    }

    #[test]
    fn of_a_long_topic_whole_characters_are_kept() {
        assert_eq!(TopicName::new("payments").to_text(), "payments");
        assert_eq!(TopicName::new(&"x".repeat(62)).to_text(), "x".repeat(62));
        assert_eq!(TopicName::new(&"é".repeat(127)).to_text(), format!("{}…", "é".repeat(31)));
        assert_eq!(TopicName::new(&"信".repeat(80)).to_text(), format!("{}…", "信".repeat(20)));
    }
}
