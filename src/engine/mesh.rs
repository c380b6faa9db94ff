//! What reactors tell each other: one bounded queue per ordered pair, and a nudge for one that sleeps.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
};

use crossbeam::queue::ArrayQueue;

use super::wake::Waker;
use crate::{
    relay::{MeshMessage, ReactorId},
    wire::RetainedFrame,
};

/// Messages that one queue holds.
pub(super) const QUEUE_LEN: usize = 4_096;

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
}

impl Mesh {
    pub(super) fn new(sleepers: Vec<Sleeper>) -> Self {
        let count = sleepers.len();
        Self { queues: (0..count * count).map(|_| ArrayQueue::new(QUEUE_LEN)).collect(), sleepers }
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
            touched: vec![false; count],
        }
    }

    pub(super) fn send(&mut self, to: ReactorId, item: Item) {
        let index = usize::from(to.0);
        self.touched[index] = true;
        if !self.spilled[index].is_empty() {
            self.spilled[index].push_back(item);
        } else if let Err(item) = self.mesh.queue(self.from, to).push(item) {
            self.spilled[index].push_back(item);
        }
    }

    /// Moves on what was spilled, and wakes receivers. Once a turn.
    pub(super) fn flush(&mut self) {
        for index in 0..self.spilled.len() {
            let to = ReactorId(index as u16);
            while let Some(item) = self.spilled[index].pop_front() {
                if let Err(item) = self.mesh.queue(self.from, to).push(item) {
                    self.spilled[index].push_front(item);
                    break;
                }
            }
            if std::mem::take(&mut self.touched[index]) {
                self.mesh.sleepers[index].nudge();
            }
        }
    }

    /// Whether a receiver is so far behind that this reactor must not take more in.
    pub(super) fn is_backed_up(&self) -> bool {
        self.spilled.iter().any(|spilled| !spilled.is_empty())
    }
}
