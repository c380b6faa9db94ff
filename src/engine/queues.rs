//! Memory of what waits for the sessions of one reactor. A large frame that several of them wait for lies in memory
//! once and counts once.

use std::{
    cell::Cell,
    rc::{Rc, Weak},
};

use crate::{relay::session_queue::QueuePool, wire::FrameRef};

/// What the outgoing queues of all sessions of a reactor take, and what those of its node links do of other nodes' frames.
pub(super) struct Queues {
    /// Bytes that belong to one queue each: what is sealed, small frames, places.
    owned_bytes: usize,
    /// Bytes of large frames.
    shared_bytes: Rc<Cell<usize>>,
    bytes_max: usize,
    /// Frames of other nodes that wait on node links, and their bound.
    relayed_bytes: usize,
    relayed_bytes_max: usize,
    /// Where the large frame lies that was queued last, as long as it is in a queue.
    last: (*const u8, Weak<SharedFrame>),
}

/// A large frame in one or several queues.
pub(super) struct SharedFrame {
    bytes: usize,
    total: Rc<Cell<usize>>,
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.bytes);
    }
}

impl Queues {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            owned_bytes: 0,
            shared_bytes: Rc::default(),
            bytes_max,
            relayed_bytes: 0,
            relayed_bytes_max: usize::MAX,
            last: (std::ptr::null(), Weak::new()),
        }
    }

    /// Bounds what waits of other nodes; one frame may go beyond it.
    pub(super) fn with_relayed_bytes_max(self, relayed_bytes_max: usize) -> Self {
        Self { relayed_bytes_max, ..self }
    }

    /// Whether one more frame of another node may wait on a node link.
    pub(super) fn has_room_for_relayed(&self) -> bool {
        self.relayed_bytes < self.relayed_bytes_max
    }

    /// What waits of other nodes on one link has changed.
    pub(super) fn recount_relayed(&mut self, before: usize, after: usize) {
        self.relayed_bytes = self.relayed_bytes + after - before;
    }

    /// All that waits, and its bound.
    pub(super) fn pool(&self) -> QueuePool {
        QueuePool { bytes: self.owned_bytes + self.shared_bytes.get(), bytes_max: self.bytes_max }
    }

    #[cfg(test)]
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// What one queue owns has changed.
    pub(super) fn recount(&mut self, before: usize, after: usize) {
        self.owned_bytes = self.owned_bytes + after - before;
    }

    /// To be kept as long as the frame is in a queue. `None` if the queue gets a copy of its own.
    pub(super) fn share(&mut self, frame: FrameRef<'_>) -> Option<Rc<SharedFrame>> {
        let FrameRef::Chunks { chunks, len, .. } = frame else { return None };
        let place = chunks.first()?.as_ptr();
        // As long as it is in a queue, nothing else can lie there.
        if self.last.0 == place
            && let Some(shared) = self.last.1.upgrade()
        {
            return Some(shared);
        }
        self.shared_bytes.set(self.shared_bytes.get() + len);
        let shared = Rc::new(SharedFrame { bytes: len, total: self.shared_bytes.clone() });
        self.last = (place, Rc::downgrade(&shared));
        Some(shared)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_large_frame_counts_once_however_many_queues_it_is_in() {
        let mut queues = Queues::new(1 << 20);
        let large = [Bytes::from(vec![1; 70_000]), Bytes::from(vec![2; 30_000])];
        let other = [Bytes::from(vec![3; 50_000])];
        let large = FrameRef::Chunks { chunks: &large, skip: 10, len: 99_990 };
        let other = FrameRef::Chunks { chunks: &other, skip: 0, len: 50_000 };
        assert!(queues.share(FrameRef::Slice(&[0; 1000])).is_none());
        let held: Vec<_> = (0..5).map(|_| queues.share(large)).collect();
        assert_eq!(queues.pool().bytes, 99_990);
        let held_other = queues.share(other);
        queues.recount(0, 100);
        assert_eq!(queues.pool().bytes, 99_990 + 50_000 + 100);
        drop(held);
        assert_eq!(queues.pool().bytes, 50_000 + 100);
        drop(held_other);
        queues.recount(100, 0);
        assert_eq!(queues.pool().bytes, 0);
    }
}
