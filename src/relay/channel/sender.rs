//! What goes to another node.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::ChannelNumber;
use crate::{
    relay::sealing::Subject,
    wire::{
        RetainedFrame,
        node::{ExtensionBlock, Numbers},
    },
};

/// Time after which messages that take several links are sent again. It doubles with each time …
const RETRANSMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// … up to this.
const RETRANSMIT_TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// The share of that time after which it is done, drawn at random.
pub(in crate::relay) const RETRANSMIT_JITTER: std::ops::Range<f64> = 0.5..1.0;

/// An acknowledgement of what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) struct NeverSent;

/// A message that the other end has not acknowledged.
#[derive(Debug)]
pub(in crate::relay) struct Message {
    pub(in crate::relay) subject: Subject,
    pub(in crate::relay) extensions: ExtensionBlock,
    pub(in crate::relay) frame: RetainedFrame,
    /// Whether a link has taken it on the route that leads to the other end now.
    is_sent: bool,
    /// Links that took it, one after the other, those included that may yet turn out not to have.
    times_sent: u32,
}

impl Message {
    pub(in crate::relay) fn new(
        subject: Subject,
        extensions: ExtensionBlock,
        frame: RetainedFrame,
        is_sent: bool,
    ) -> Self {
        Self { subject, extensions, frame, is_sent, times_sent: is_sent.into() }
    }

    /// Memory that it takes: its bytes, its place, and the allocation of its frame.
    fn cost(&self) -> usize {
        self.extensions.len() + self.frame.len() + size_of::<Self>() + 64
    }

    /// Whether a link ever took it.
    pub(in crate::relay) fn was_sent(&self) -> bool {
        self.times_sent > 0
    }

    pub(in crate::relay) fn is_sent(&self) -> bool {
        self.is_sent
    }
}

/// The sender's half of a channel.
///
/// # Invariants
/// - The places of unacknowledged messages follow each other and end before `next`.
/// - `bytes` and `unsent` are those of all of them. None before `unsent_from` is unsent.
/// - A message is sent again unchanged, or empty in its place; the first that comes counts.
pub(in crate::relay) struct Sender {
    next: ChannelNumber,
    unacknowledged: VecDeque<Message>,
    bytes: usize,
    unsent: usize,
    unsent_from: ChannelNumber,
    retransmit_timeout: Duration,
    /// When unacknowledged messages are sent again, unless an acknowledgement comes before.
    retransmit_at: Instant,
}

impl Sender {
    /// `first` is a place that no message to the other end had in these incarnations of the two nodes.
    pub(in crate::relay) fn new(now: Instant, first: ChannelNumber) -> Self {
        Self {
            next: first,
            unacknowledged: VecDeque::new(),
            bytes: 0,
            unsent: 0,
            unsent_from: first,
            retransmit_timeout: RETRANSMIT_TIMEOUT,
            retransmit_at: now + RETRANSMIT_TIMEOUT,
        }
    }

    /// The place of the oldest unacknowledged message, or of the next one.
    fn least(&self) -> ChannelNumber {
        ChannelNumber(self.next.0 - self.unacknowledged.len() as u64)
    }

    /// What goes before the message with a place.
    #[inline]
    pub(in crate::relay) fn numbers(&self, place: ChannelNumber, taken_below: ChannelNumber) -> Numbers {
        Numbers { place: place.0, least: self.least().0, taken_below: taken_below.0 }
    }

    /// The place of the next message.
    pub(in crate::relay) fn next(&self) -> ChannelNumber {
        self.next
    }

    /// Number of unacknowledged messages.
    pub(in crate::relay) fn len(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Their memory.
    pub(in crate::relay) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no link has taken some of them on the present route.
    pub(in crate::relay) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// For checks: what is counted wrongly.
    pub(in crate::relay) fn miscount(&self) -> Option<String> {
        let counted = (self.bytes, self.unsent, self.places(false).count());
        let unsent = self.unacknowledged.iter().filter(|message| !message.is_sent).count();
        let anew = (self.unacknowledged.iter().map(Message::cost).sum(), unsent, unsent);
        (counted != anew).then(|| format!("{counted:?} bytes and unsent messages of a channel, not {anew:?}"))
    }

    /// Keeps the next message.
    #[inline]
    pub(in crate::relay) fn push(&mut self, now: Instant, message: Message) -> ChannelNumber {
        if self.unacknowledged.is_empty() {
            (self.retransmit_timeout, self.retransmit_at) = (RETRANSMIT_TIMEOUT, now + RETRANSMIT_TIMEOUT);
        }
        let place = self.next;
        self.next = place.next();
        self.bytes += message.cost();
        if !message.is_sent {
            self.note_unsent(place);
        }
        self.unacknowledged.push_back(message);
        place
    }

    /// A message that counted as sent, or is new, is unsent.
    fn note_unsent(&mut self, place: ChannelNumber) {
        self.unsent_from = if self.unsent == 0 { place } else { self.unsent_from.min(place) };
        self.unsent += 1;
    }

    fn index(&self, place: ChannelNumber) -> Option<usize> {
        place.since(self.least()).filter(|index| *index < self.unacknowledged.len())
    }

    /// The message with a place, unless it was acknowledged.
    pub(in crate::relay) fn get(&self, place: ChannelNumber) -> Option<&Message> {
        self.unacknowledged.get(self.index(place)?)
    }

    /// Whether a link ever took the message with a place, or the other end has taken it.
    pub(in crate::relay) fn was_sent(&self, place: ChannelNumber) -> bool {
        self.get(place).is_none_or(Message::was_sent)
    }

    /// The messages whose turn it is to be sent, with their places: those that no link has taken on the present route, or
    /// all; the oldest first.
    pub(in crate::relay) fn places(&self, all: bool) -> impl Iterator<Item = (ChannelNumber, &Message)> {
        let least = self.least();
        let first = match all {
            true => least,
            false if self.unsent == 0 => self.next,
            false => least.max(self.unsent_from),
        };
        let skipped = first.since(least).unwrap_or_default();
        let places = (first.0..).map(ChannelNumber);
        places
            .zip(self.unacknowledged.iter().skip(skipped))
            .filter(move |(_, message)| all || !message.is_sent)
    }

    /// The first message that no link has taken on the present route.
    pub(in crate::relay) fn next_unsent(&mut self) -> Option<ChannelNumber> {
        let place = self.places(false).next().map(|(place, _)| place)?;
        // Those before it are not looked at again.
        self.unsent_from = place;
        Some(place)
    }

    /// A link has taken a message, or it is to be sent again.
    pub(in crate::relay) fn set_sent(&mut self, place: ChannelNumber, is_sent: bool) {
        let Some(index) = self.index(place) else { return };
        let message = &mut self.unacknowledged[index];
        message.times_sent += u32::from(is_sent);
        match (std::mem::replace(&mut message.is_sent, is_sent), is_sent) {
            (false, true) => self.unsent -= 1,
            (true, false) => self.note_unsent(place),
            _ => {}
        }
    }

    /// It turns out that a link did not take a message, which is known by its number at this node.
    pub(in crate::relay) fn note_not_sent(&mut self, subject: Subject) {
        let Some(index) = self.unacknowledged.iter().position(|message| message.subject == subject) else {
            return;
        };
        let message = &mut self.unacknowledged[index];
        message.times_sent = message.times_sent.saturating_sub(1);
        self.set_sent(ChannelNumber(self.least().0 + index as u64), false);
    }

    /// Another route leads to the other end: nothing was sent on that.
    pub(in crate::relay) fn forget_route(&mut self) {
        self.unacknowledged.iter_mut().for_each(|message| message.is_sent = false);
        (self.unsent, self.unsent_from) = (self.unacknowledged.len(), self.least());
    }

    /// The other end has taken all messages below a place.
    #[inline]
    pub(in crate::relay) fn acknowledge(
        &mut self,
        now: Instant,
        below: ChannelNumber,
    ) -> Result<(), NeverSent> {
        let Some(count) = below.since(self.least()) else { return Ok(()) };
        if count == 0 {
            return Ok(());
        }
        if below > self.next {
            return Err(NeverSent);
        }
        for message in self.unacknowledged.drain(..count) {
            self.bytes -= message.cost();
            self.unsent -= usize::from(!message.is_sent);
        }
        (self.retransmit_timeout, self.retransmit_at) = (RETRANSMIT_TIMEOUT, now + RETRANSMIT_TIMEOUT);
        Ok(())
    }

    /// A message is not wanted any more: an empty one takes its place, so that those behind it need not wait for it. Should it
    /// have been taken already, it stays so. Gives how many bytes of it no link ever took.
    pub(in crate::relay) fn void(&mut self, place: ChannelNumber) -> usize {
        let Some(index) = self.index(place) else { return 0 };
        let message = &mut self.unacknowledged[index];
        let never_sent = if message.was_sent() { 0 } else { message.frame.len() };
        self.bytes -= message.cost();
        (message.extensions, message.frame) = (ExtensionBlock::new(), RetainedFrame::default());
        self.bytes += message.cost();
        self.set_sent(place, false);
        never_sent
    }

    /// Forgets all messages. The other end does not wait for them: it hears of the least place that may come.
    pub(in crate::relay) fn clear(&mut self) {
        self.unacknowledged.clear();
        (self.bytes, self.unsent) = (0, 0);
    }

    /// Whether the retransmit timeout has passed. It doubles for the next time, of which `jitter` is the share that counts:
    /// nodes that send over one neighbour that lacks room should not send again at the same moment.
    pub(in crate::relay) fn is_overdue(&mut self, now: Instant, jitter: f64) -> bool {
        let is_overdue = !self.unacknowledged.is_empty() && now >= self.retransmit_at;
        if is_overdue {
            self.retransmit_timeout = (self.retransmit_timeout * 2).min(RETRANSMIT_TIMEOUT_MAX);
            self.retransmit_at = now + self.retransmit_timeout.mul_f64(jitter);
        }
        is_overdue
    }
}
