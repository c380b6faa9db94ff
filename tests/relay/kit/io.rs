//! What a shard sees of its engine: links with queues, and what it does to them.

use std::{collections::VecDeque, time::Instant};

use amop::internal::{
    relay::{
        Class, CloseReason, LedgerDial, LinkKey, LinkProgress, MeshMessage, Outbound, Queued, ReactorId,
        RegistryInput, SendError,
        diagnostic::Answer,
        session_queue::{QueuePool, SessionQueue, TransmitProgress},
    },
    wire::FrameRef,
};

use super::End;

pub(super) struct IoLink {
    pub(super) key: LinkKey,
    pub(super) other: End,
    pub(super) sdk: bool,
    pub(super) open: bool,
    /// What waits for an application, or is on its way to it.
    pub(super) queue: SessionQueue,
    /// What the link still has to write: replies and control, then the others. The first of them is under way.
    pub(super) waiting: [VecDeque<(Class, Vec<u8>)>; 2],
    /// Bytes of a node link's control and data that have not left.
    pub(super) unsent_bytes: [usize; 2],
    /// Bytes a second that the other end takes; `None` is as fast as they come.
    pub(super) rate: Option<u64>,
    pub(super) is_writing: Option<usize>,
    /// Bytes that were queued since it came up, and those of them that the application has taken.
    pub(super) queued_in_all: u64,
    pub(super) taken: u64,
    pub(super) last_taken: Instant,
    pub(super) watches_taken: bool,
    /// For how many bytes the relay asks for room: of messages, and of what comes from the ledger.
    pub(super) room_wanted: [Option<usize>; 2],
    pub(super) relay_pauses: bool,
    /// What the application has sent, and the node does not read yet.
    pub(super) unread: VecDeque<Vec<u8>>,
    /// The application is in the middle of a long frame.
    pub(super) is_sending_long: bool,
    /// Frames vanish, as on a cable that was cut.
    pub(super) cut: bool,
    /// Frames wait on the way until then.
    pub(super) stalled_until: Option<Instant>,
    pub(super) last_arrival: Instant,
}

/// Bytes of control frames that may wait on a link to a node, as in the engine.
const CONTROL_BYTES_MAX: usize = 1 << 20;

/// In which of a link's queues a frame waits: control goes first.
pub(super) fn queue_of(class: Class) -> usize {
    usize::from(class != Class::Control)
}

/// The engine of one reactor, as far as a shard can tell.
#[derive(Default)]
pub struct Io {
    pub(super) links: Vec<Option<IoLink>>,
    pub(super) generations: Vec<u32>,
    pub(super) effects: Vec<Effect>,
    pub(super) queue_bytes_max: usize,
    /// The same for data on a link to a node.
    pub(super) node_queue_bytes_max: usize,
    /// Bytes of data that nodes' links took.
    pub(super) left_bytes: u64,
    /// What all queues of the reactor may take.
    pub(super) pool: Option<QueuePool>,
    /// The registry takes no state and no JSON-RPC.
    pub(super) is_registry_behind: bool,
    pub(super) now: Option<Instant>,
    /// What was answered, with the ids of the questions.
    pub(super) answers: Vec<(u64, Answer)>,
}

pub(super) enum Effect {
    Frame { link: LinkKey, class: Class, bytes: Vec<u8> },
    Resume { link: LinkKey },
    Mesh { to: ReactorId, message: MeshMessage, frame: Vec<u8> },
    Registry(RegistryInput),
    Close { link: LinkKey, reason: CloseReason },
    DialLedger(LedgerDial),
}

impl Io {
    pub(super) fn link(&mut self, key: LinkKey) -> Option<&mut IoLink> {
        self.links.get_mut(key.index as usize)?.as_mut().filter(|link| link.key == key)
    }

    pub(super) fn insert(&mut self, now: Instant, sdk: bool, other: End) -> LinkKey {
        let index = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        if index == self.links.len() {
            self.links.push(None);
            self.generations.push(0);
        }
        self.generations[index] += 1;
        let key = LinkKey { index: index as u32, generation: self.generations[index] };
        self.links[index] = Some(IoLink {
            key,
            other,
            sdk,
            open: true,
            queue: SessionQueue::default(),
            waiting: Default::default(),
            unsent_bytes: [0; 2],
            rate: None,
            is_writing: None,
            queued_in_all: 0,
            taken: 0,
            last_taken: now,
            watches_taken: false,
            room_wanted: [None; 2],
            relay_pauses: false,
            unread: VecDeque::new(),
            is_sending_long: false,
            cut: false,
            stalled_until: None,
            last_arrival: now,
        });
        key
    }
}

impl IoLink {
    /// What is left of the frame that is being written.
    pub(super) fn begun(&self) -> usize {
        match self.is_writing {
            Some(1) => self.waiting[1].front().map_or(0, |(_, bytes)| bytes.len()),
            _ => 0,
        }
    }

    /// Whether a link to a node takes one more frame. Neither class blocks the other.
    fn has_room_to_node(&self, class: Class, bytes_max: usize) -> bool {
        let bytes_max = if class == Class::Control { CONTROL_BYTES_MAX } else { bytes_max };
        self.unsent_bytes[queue_of(class)] < bytes_max
    }

    pub(super) fn is_read_paused(&mut self, queue_bytes_max: usize, pool: QueuePool) -> bool {
        (self.sdk && self.queue.is_read_paused(queue_bytes_max, pool)) || self.relay_pauses
    }
}

impl Io {
    pub(super) fn pool(&self) -> QueuePool {
        self.pool.unwrap_or(QueuePool { bytes: 0, bytes_max: usize::MAX })
    }

    /// The links on which there is room again for what the relay asked for.
    pub(super) fn with_room(&self) -> Vec<LinkKey> {
        let (bound, pool) = (self.queue_bytes_max, self.pool());
        let has_room = |link: &&IoLink| {
            [Class::Data, Class::Ledger].into_iter().zip(link.room_wanted).any(|(class, len)| {
                len.is_some_and(|len| match link.sdk {
                    true => link
                        .queue
                        .admit(class, len, TransmitProgress { begun: link.begun(), sealed: 0 }, bound, pool)
                        .is_ok(),
                    false => link.has_room_to_node(Class::Data, self.node_queue_bytes_max),
                })
            })
        };
        self.links.iter().flatten().filter(has_room).map(|link| link.key).collect()
    }

    /// A link's application has taken a frame.
    pub(super) fn note_taken(&mut self, now: Instant, key: LinkKey, class: Class, len: usize) {
        if let Some(link) = self.link(key)
            && link.sdk
        {
            link.queue.remove(class, len);
            link.taken += len as u64;
            link.last_taken = now;
            if let Some(pool) = &mut self.pool {
                pool.bytes -= len;
            }
        }
    }
}

impl Outbound for Io {
    fn send(
        &mut self,
        key: LinkKey,
        class: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        let (bound, pool, node_bound) = (self.queue_bytes_max, self.pool(), self.node_queue_bytes_max);
        let link = self.link(key).filter(|link| link.open).ok_or(SendError::Gone)?;
        let len = head.len() + body.len();
        let mut queued = Queued::default();
        if link.sdk {
            let begun = link.begun();
            link.queue
                .admit(class, len, TransmitProgress { begun, sealed: 0 }, bound, pool)
                .map_err(|_| SendError::Full)?;
            link.queue.add(class, len);
            link.queued_in_all += len as u64;
            queued = Queued { end: link.queued_in_all, is_behind: link.rate.is_some() };
        } else {
            if !link.has_room_to_node(class, node_bound) {
                return Err(SendError::Full);
            }
            link.unsent_bytes[queue_of(class)] += len;
        }
        let is_data = !link.sdk && class != Class::Control;
        let (is_sdk, left_bytes) = (link.sdk, if is_data { len as u64 } else { 0 });
        if let Some(pool) = &mut self.pool
            && is_sdk
        {
            pool.bytes += len;
        }
        self.left_bytes += left_bytes;
        let bytes: Vec<u8> = std::iter::once(head).chain(body.pieces()).flatten().copied().collect();
        self.effects.push(Effect::Frame { link: key, class, bytes });
        Ok(queued)
    }

    fn progress(&mut self, key: LinkKey) -> Option<LinkProgress> {
        let (now, bound, pool) = (self.now?, self.queue_bytes_max, self.pool());
        let link = self.link(key)?;
        // As fast as they come, or not at all: then the kernels between hold what was sent.
        let (taken, last_taken) = match link.rate {
            Some(_) => (link.taken, if link.is_writing.is_some() { now } else { link.last_taken }),
            None => (link.queued_in_all, link.last_taken),
        };
        let (is_receiving_long, is_read_paused) = (link.is_sending_long, link.is_read_paused(bound, pool));
        Some(LinkProgress { taken, last_taken, is_receiving_long, is_read_paused })
    }

    fn watch_taken(&mut self, key: LinkKey) {
        if let Some(link) = self.link(key) {
            link.watches_taken = true;
        }
    }

    fn watch_room(&mut self, key: LinkKey, class: Class, len: usize) {
        if let Some(link) = self.link(key) {
            link.room_wanted[usize::from(class == Class::Ledger)] = Some(len);
        }
    }

    fn dial_ledger(&mut self, dial: LedgerDial) {
        self.effects.push(Effect::DialLedger(dial));
    }

    fn pause_reading(&mut self, key: LinkKey, pause: bool) {
        if let Some(link) = self.link(key) {
            link.relay_pauses = pause;
            self.effects.push(Effect::Resume { link: key });
        }
    }

    fn to_reactor(&mut self, to: ReactorId, message: MeshMessage, frame: FrameRef<'_>) {
        let frame = frame.pieces().flatten().copied().collect();
        self.effects.push(Effect::Mesh { to, message, frame });
    }

    fn to_registry(&mut self, input: RegistryInput) -> bool {
        if self.is_registry_behind && matches!(input, RegistryInput::State { .. } | RegistryInput::Rpc { .. })
        {
            return false;
        }
        self.effects.push(Effect::Registry(input));
        true
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        self.answers.push((id, answer));
    }

    fn share_records(&mut self, _: LinkKey) {}

    fn close(&mut self, key: LinkKey, reason: CloseReason) {
        if let Some(link) = self.link(key).filter(|link| link.open) {
            link.open = false;
            self.effects.push(Effect::Close { link: key, reason });
        }
    }

    fn abort(&mut self, key: LinkKey, reason: CloseReason) {
        self.close(key, reason);
    }
}
