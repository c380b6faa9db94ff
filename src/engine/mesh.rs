//! What reactors tell each other: one bounded queue per ordered pair, and a nudge for one that sleeps.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
};

use crossbeam::queue::ArrayQueue;

use super::{bounds::MESH_QUEUE_LEN, wake::Waker};
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
    sleeping: AtomicBool,
    waker: Waker,
}

impl Sleeper {
    pub(super) fn new(waker: Waker) -> Self {
        Self { sleeping: AtomicBool::new(false), waker }
    }

    /// Says that this reactor is about to sleep; it looks at its queues once more after that.
    pub(super) fn prepare_sleep(&self) {
        self.sleeping.store(true, SeqCst);
        fence(SeqCst);
    }

    pub(super) fn awake(&self) {
        self.sleeping.store(false, SeqCst);
    }

    /// Wakes the reactor if it sleeps. What it is to see must be in its queue before.
    pub(super) fn nudge(&self) {
        fence(SeqCst);
        if self.sleeping.swap(false, SeqCst) {
            self.waker.wake();
        }
    }
}

/// All queues between reactors.
pub(super) struct Mesh {
    queues: Vec<ArrayQueue<Item>>,
    pub(super) sleepers: Vec<Sleeper>,
    /// Reactors that have ended and take nothing any more.
    left: Vec<AtomicBool>,
}

impl Mesh {
    pub(super) fn new(sleepers: Vec<Sleeper>) -> Self {
        let count = sleepers.len();
        Self {
            queues: (0..count * count).map(|_| ArrayQueue::new(MESH_QUEUE_LEN)).collect(),
            sleepers,
            left: (0..count).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// A reactor has ended: what others have for it is nobody's, and they do not wait for room.
    pub(super) fn leave(&self, reactor: ReactorId) {
        self.left[usize::from(reactor.0)].store(true, SeqCst);
    }

    fn queue(&self, from: ReactorId, to: ReactorId) -> &ArrayQueue<Item> {
        &self.queues[usize::from(from.0) * self.sleepers.len() + usize::from(to.0)]
    }

    /// What others sent to `to`, one by one.
    pub(super) fn pop(&self, from: ReactorId, to: ReactorId) -> Option<Item> {
        self.queue(from, to).pop()
    }

    /// Whether anything is there for `to`.
    pub(super) fn is_empty_for(&self, to: ReactorId) -> bool {
        (0..self.sleepers.len() as u16).all(|from| self.queue(ReactorId(from), to).is_empty())
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
            self.mesh.queue(self.from, to).push(item).err()
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
                    if let Err(item) = self.mesh.queue(self.from, to).push(item) {
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
    fn what_a_full_queue_has_no_room_for_arrives_later_and_in_order() {
        let mesh = mesh(2);
        let mut sender = MeshSender::new(mesh.clone(), FIRST);
        let count = 3 * MESH_QUEUE_LEN as u32 + 7;
        (0..count).for_each(|number| send(&mut sender, OTHER, number));
        let mut received = Vec::new();
        while sender.is_backed_up() || !mesh.is_empty_for(OTHER) {
            sender.flush();
            received.extend(std::iter::from_fn(|| receive(&mesh, FIRST, OTHER)));
        }
        assert!(received == (0..count).collect::<Vec<_>>());
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
