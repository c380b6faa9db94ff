//! What reactors tell each other: one bounded queue per ordered pair, and a nudge for one that sleeps.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use crossbeam::queue::ArrayQueue;

use super::{
    bounds::{MESH_BYTES_MAX, MESH_QUEUE_LEN, MESH_SMALL_FRAME_MAX},
    sleep_flag::SleepFlag,
    wake::Waker,
};
use crate::{
    relay::{MeshMessage, ReactorId},
    wire::RetainedFrame,
};

pub(super) struct Item {
    pub(super) message: MeshMessage,
    pub(super) frame: RetainedFrame,
}

/// Whether a reactor sleeps, and how to wake it.
pub(super) struct Sleeper {
    flag: SleepFlag,
    waker: Waker,
}

impl Sleeper {
    pub(super) fn new(waker: Waker) -> Self {
        Self { flag: SleepFlag::new(), waker }
    }

    /// Says that this reactor is about to sleep; it looks at its queues once more after that.
    pub(super) fn prepare_sleep(&self) {
        self.flag.prepare_sleep();
    }

    pub(super) fn awake(&self) {
        self.flag.awake();
    }

    /// Wakes the reactor if it sleeps. What it is to see must be in its queue before.
    pub(super) fn nudge(&self) {
        if self.flag.must_wake() {
            self.waker.wake();
        }
    }
}

/// All queues between reactors.
pub(super) struct Mesh {
    queues: Vec<ArrayQueue<Item>>,
    /// Bytes of large frames in each queue.
    bytes: Vec<AtomicUsize>,
    /// The bound of each of these.
    bytes_max: usize,
    pub(super) sleepers: Vec<Sleeper>,
    /// Reactors that have ended and take nothing any more.
    left: Vec<AtomicBool>,
}

impl Mesh {
    pub(super) fn new(sleepers: Vec<Sleeper>) -> Self {
        let count = sleepers.len();
        Self {
            queues: (0..count * count).map(|_| ArrayQueue::new(MESH_QUEUE_LEN)).collect(),
            bytes: (0..count * count).map(|_| AtomicUsize::new(0)).collect(),
            bytes_max: MESH_BYTES_MAX,
            sleepers,
            left: (0..count).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// The same, with another bound of large frames in each queue.
    pub(super) fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// A reactor has ended: what others have for it is nobody's, and they do not wait for room.
    pub(super) fn leave(&self, reactor: ReactorId) {
        self.left[usize::from(reactor.0)].store(true, SeqCst);
    }

    fn index(&self, from: ReactorId, to: ReactorId) -> usize {
        usize::from(from.0) * self.sleepers.len() + usize::from(to.0)
    }

    /// Small frames are bounded by their number; only large ones are worth counting.
    fn large_bytes(item: &Item) -> Option<usize> {
        Some(item.frame.len()).filter(|&len| len > MESH_SMALL_FRAME_MAX)
    }

    #[allow(clippy::result_large_err)] // the queue gives an item back as it is
    fn push(&self, from: ReactorId, to: ReactorId, item: Item) -> Result<(), Item> {
        let index = self.index(from, to);
        let Some(len) = Self::large_bytes(&item) else { return self.queues[index].push(item) };
        if self.bytes[index].load(Relaxed) >= self.bytes_max {
            return Err(item);
        }
        self.bytes[index].fetch_add(len, Relaxed);
        self.queues[index].push(item).inspect_err(|_| {
            self.bytes[index].fetch_sub(len, Relaxed);
        })
    }

    /// What others sent to `to`, one by one.
    pub(super) fn pop(&self, from: ReactorId, to: ReactorId) -> Option<Item> {
        let index = self.index(from, to);
        let item = self.queues[index].pop()?;
        if let Some(len) = Self::large_bytes(&item) {
            self.bytes[index].fetch_sub(len, Relaxed);
        }
        Some(item)
    }

    /// Whether anything is there for `to`.
    pub(super) fn is_empty_for(&self, to: ReactorId) -> bool {
        (0..self.sleepers.len() as u16).all(|from| self.is_empty_between(ReactorId(from), to))
    }

    /// Whether `from` has sent nothing that `to` has not taken.
    pub(super) fn is_empty_between(&self, from: ReactorId, to: ReactorId) -> bool {
        self.queues[self.index(from, to)].is_empty()
    }
}

/// One reactor's sending end of the mesh.
pub(super) struct MeshSender {
    mesh: Arc<Mesh>,
    from: ReactorId,
    /// What the queues had no room for, per receiver. While there is any, this reactor does not read
    /// from its links.
    spilled: Vec<VecDeque<Item>>,
    /// Items in all of them.
    spilled_len: usize,
    /// Receivers that got something since the last flush.
    touched: Vec<bool>,
}

impl MeshSender {
    pub(super) fn new(mesh: Arc<Mesh>, from: ReactorId) -> Self {
        let count = mesh.sleepers.len();
        Self {
            mesh,
            from,
            spilled: (0..count).map(|_| VecDeque::new()).collect(),
            spilled_len: 0,
            touched: vec![false; count],
        }
    }

    pub(super) fn send(&mut self, to: ReactorId, item: Item) {
        let index = usize::from(to.0);
        self.touched[index] = true;
        let refused = if self.spilled[index].is_empty() {
            self.mesh.push(self.from, to, item).err()
        } else {
            Some(item)
        };
        if let Some(item) = refused {
            self.spilled[index].push_back(item);
            self.spilled_len += 1;
        }
    }

    /// Moves on what was spilled, and wakes receivers. Once a turn.
    pub(super) fn flush(&mut self) {
        for index in 0..self.spilled.len() {
            let to = ReactorId(index as u16);
            if !self.spilled[index].is_empty() {
                if self.mesh.left[index].load(SeqCst) {
                    self.spilled_len -= self.spilled[index].len();
                    self.spilled[index].clear();
                }
                while let Some(item) = self.spilled[index].pop_front() {
                    if let Err(item) = self.mesh.push(self.from, to, item) {
                        self.spilled[index].push_front(item);
                        break;
                    }
                    self.spilled_len -= 1;
                    self.touched[index] = true;
                }
            }
            if std::mem::take(&mut self.touched[index]) {
                self.mesh.sleepers[index].nudge();
            }
        }
    }

    /// Whether a receiver is so far behind that this reactor must not take more in.
    pub(super) fn is_backed_up(&self) -> bool {
        self.spilled_len > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FrameRef;

    fn mesh(count: usize) -> Arc<Mesh> {
        Arc::new(Mesh::new((0..count).map(|_| Sleeper::new(Waker::new().unwrap())).collect()))
    }

    fn send(sender: &mut MeshSender, to: ReactorId, number: u32) {
        let frame = number.to_be_bytes();
        sender.send(to, Item { message: MeshMessage::Multicast, frame: FrameRef::Slice(&frame).retain() });
    }

    fn receive(mesh: &Mesh, from: ReactorId, to: ReactorId) -> Option<u32> {
        let item = mesh.pop(from, to)?;
        let bytes: Vec<u8> = item.frame.as_ref().pieces().flatten().copied().collect();
        Some(u32::from_be_bytes(bytes.try_into().unwrap()))
    }

    const FIRST: ReactorId = ReactorId(0);
    const OTHER: ReactorId = ReactorId(1);

    #[test]
    fn large_frames_fill_a_queue_by_their_bytes() {
        let mesh = mesh(2);
        let mut sender = MeshSender::new(mesh.clone(), FIRST);
        let large = vec![0; 1 << 20];
        let frames = MESH_BYTES_MAX / large.len();
        for number in 0..frames + 1 {
            assert!(!sender.is_backed_up(), "after {number} frames");
            let frame = FrameRef::Slice(&large).retain();
            sender.send(OTHER, Item { message: MeshMessage::Multicast, frame });
        }
        assert!(sender.is_backed_up());
        assert!(mesh.pop(FIRST, OTHER).is_some());
        sender.flush();
        assert!(!sender.is_backed_up());
        assert_eq!(std::iter::from_fn(|| mesh.pop(FIRST, OTHER)).count(), frames);
        assert_eq!(mesh.bytes[mesh.index(FIRST, OTHER)].load(Relaxed), 0);
    }

    #[test]
    fn what_a_full_queue_has_no_room_for_arrives_later_and_in_order() {
        let mesh = mesh(2);
        let mut sender = MeshSender::new(mesh.clone(), FIRST);
        let count = 3 * MESH_QUEUE_LEN as u32 + 7;
        let mut received = Vec::new();
        for number in 0..count {
            send(&mut sender, OTHER, number);
            // There is room again before what waits was moved on.
            if number % 3 == 0 && sender.is_backed_up() {
                received.extend(receive(&mesh, FIRST, OTHER));
            }
        }
        while sender.is_backed_up() || !mesh.is_empty_for(OTHER) {
            sender.flush();
            received.extend(std::iter::from_fn(|| receive(&mesh, FIRST, OTHER)));
        }
        assert!(received == (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_no_frame_waits_as_what_has_one() {
        let mesh = mesh(2);
        let mut sender = MeshSender::new(mesh.clone(), FIRST);
        let frames = [FrameRef::Slice(&[0; 4]), FrameRef::EMPTY];
        let count = 2 * MESH_QUEUE_LEN + 7;
        for number in 0..count {
            let frame = frames[number % 2].retain();
            sender.send(OTHER, Item { message: MeshMessage::Multicast, frame });
        }
        let mut received = 0;
        while sender.is_backed_up() || !mesh.is_empty_for(OTHER) {
            sender.flush();
            received += std::iter::from_fn(|| mesh.pop(FIRST, OTHER)).count();
        }
        assert_eq!(received, count);
    }

    #[test]
    fn a_reactor_on_another_thread_gets_everything_in_order_and_is_woken_for_it() {
        let mesh = mesh(2);
        let count = 3 * MESH_QUEUE_LEN as u32;
        let other = std::thread::spawn({
            let mesh = mesh.clone();
            move || {
                let sleeper = &mesh.sleepers[usize::from(OTHER.0)];
                for expected in 0..count {
                    loop {
                        if let Some(number) = receive(&mesh, FIRST, OTHER) {
                            assert_eq!(number, expected);
                            break;
                        }
                        sleeper.prepare_sleep();
                        if mesh.is_empty_for(OTHER) {
                            sleeper.waker.wait();
                        }
                        sleeper.awake();
                    }
                }
            }
        });
        let mut sender = MeshSender::new(mesh.clone(), FIRST);
        for number in 0..count {
            send(&mut sender, OTHER, number);
            sender.flush();
        }
        while sender.is_backed_up() {
            std::thread::yield_now();
            sender.flush();
        }
        other.join().unwrap();
        assert!(mesh.is_empty_for(OTHER));
    }

    #[test]
    fn nobody_waits_for_a_reactor_that_has_ended() {
        let mesh = mesh(3);
        let mut sender = MeshSender::new(mesh.clone(), FIRST);
        for number in 0..2 * MESH_QUEUE_LEN as u32 {
            send(&mut sender, OTHER, number);
        }
        sender.flush();
        assert!(sender.is_backed_up());
        mesh.leave(OTHER);
        sender.flush();
        assert!(!sender.is_backed_up());
        send(&mut sender, ReactorId(2), 1);
        assert_eq!(receive(&mesh, FIRST, ReactorId(2)), Some(1));
    }
}
