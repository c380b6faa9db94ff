//! How much may wait for an application, and for all of one reactor (WIRE §2.3). Bytes are counted here and nothing
//! else: the engine has the frames.
//!
//! ```text
//!   small replies ─► control ─┐                      full: the session is read no further
//!   large answers ─► answers ─┼─► the link           full: the session is read no further
//!   pushes ────────► pushes ──┤                      full: refused, the message waits or goes elsewhere
//!   of the ledger ─► ledger ──┘                      full: the ledger node is read no further
//! ```
//!
//! # Invariants
//! - A small reply of the node's own is always taken, an answer unless the memory of all is used up. Then whoever has
//!   replies waiting is read no further, too.
//! - A session that is read no further is read again once half of what stopped it has gone.
//! - What all sessions of a reactor have waiting stays below the pool's bound and one frame, and
//!   [`SESSION_SHARE`] for each of them.

use super::{Class, SMALL_REPLY_LEN_MAX};

/// Bytes of control frames that may wait for a session before it is read no further, and before answers among them
/// count as others do; [`SESSION_SHARE`] where the memory of all is used up.
pub const SESSION_CONTROL_BYTES_MAX: usize = 1 << 20;
/// Bytes that a session's queue may always have, however full all of them together are.
pub const SESSION_SHARE: usize = 4 * 1024;
/// Bytes from its ledger node that may wait for a session before that is read no further; one frame may go beyond it.
pub const SESSION_LEDGER_BYTES_MAX: usize = 1 << 20;
/// What the node says of itself is at most so long: an answer without data, a heartbeat. It is never refused.
const OWN_REPLY_LEN_MAX: usize = 1024;

const _: () = assert!(OWN_REPLY_LEN_MAX < SMALL_REPLY_LEN_MAX);

/// Memory for what waits for all sessions of one reactor. Frames that several of them wait for count once.
#[derive(Clone, Copy, Debug)]
pub struct QueuePool {
    /// Bytes in use.
    pub bytes: usize,
    /// Their bound.
    pub bytes_max: usize,
}

impl QueuePool {
    /// Whether a session that has so many bytes waiting may have more of them: it may have as much as is still free.
    /// So the sessions with most waiting take no more first, and there is always room left for others.
    fn admits(&self, own: usize, len: usize) -> bool {
        if self.is_full() { own + len <= SESSION_SHARE } else { own <= self.bytes_max - self.bytes }
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// How many bytes of control frames may wait for a session.
    fn control_bytes_max(&self) -> usize {
        if self.is_full() { SESSION_SHARE } else { SESSION_CONTROL_BYTES_MAX }
    }
}

/// Why a session's queue does not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The session has as much waiting as it may have.
    Session,
    /// All sessions together have, and this one has more than its part.
    Pool,
}

/// What waits for one session, or on one node link, in bytes, by class.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionQueue {
    control: usize,
    answers: usize,
    pushes: usize,
    ledger: usize,
    relayed: usize,
    is_read_paused: bool,
}

/// What is on its way to a session, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransmitProgress {
    /// What is left in the queue of a frame that has begun: it takes none of the bound's room.
    pub begun: usize,
    /// What has left the queue and was not sent yet.
    pub sealed: usize,
}

impl SessionQueue {
    /// All that waits.
    pub fn bytes(&self) -> usize {
        self.control + self.answers + self.pushes + self.ledger
    }

    /// Whether a frame of `len` bytes may be queued.
    pub fn admit(
        &self,
        class: Class,
        len: usize,
        progress: TransmitProgress,
        bytes_max: usize,
        pool: QueuePool,
    ) -> Result<(), NoRoom> {
        let TransmitProgress { begun, sealed } = progress;
        let is_exempt = match class {
            Class::Control => len <= OWN_REPLY_LEN_MAX || self.control < pool.control_bytes_max(),
            Class::Answer => false,
            Class::Data if (self.answers + self.pushes).saturating_sub(begun) >= bytes_max => {
                return Err(NoRoom::Session);
            }
            Class::Ledger if self.ledger >= SESSION_LEDGER_BYTES_MAX => return Err(NoRoom::Session),
            Class::Data | Class::Ledger | Class::Relayed => false,
        };
        if is_exempt || pool.admits(self.bytes() + sealed, len) { Ok(()) } else { Err(NoRoom::Pool) }
    }

    /// On a node link, bytes of other nodes' frames.
    pub fn relayed(&self) -> usize {
        self.relayed
    }

    /// So many bytes of a class wait now that did not.
    pub fn add(&mut self, class: Class, bytes: usize) {
        *self.of(class) += bytes;
    }

    /// So many bytes of a class wait no longer.
    pub fn remove(&mut self, class: Class, bytes: usize) {
        let of_class = self.of(class);
        debug_assert!(*of_class >= bytes, "more left a queue than was in it");
        *of_class = of_class.saturating_sub(bytes);
    }

    fn of(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Control => &mut self.control,
            Class::Answer => &mut self.answers,
            Class::Data => &mut self.pushes,
            Class::Ledger => &mut self.ledger,
            Class::Relayed => &mut self.relayed,
        }
    }

    /// Whether the session is to be read no further for now; to be asked whenever the queue has changed.
    pub fn is_read_paused(&mut self, bytes_max: usize, pool: QueuePool) -> bool {
        let part = if self.is_read_paused { 2 } else { 1 };
        self.is_read_paused =
            self.control >= pool.control_bytes_max() / part || self.answers >= (bytes_max / part).max(1);
        self.is_read_paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: QueuePool = QueuePool { bytes: 0, bytes_max: usize::MAX };
    const NONE: QueuePool = QueuePool { bytes: 1000, bytes_max: 1000 };

    #[test]
    fn pushes_are_refused_at_the_bound_and_replies_are_not() {
        let mut queue = SessionQueue::default();
        assert!(
            queue.admit(Class::Data, 5_000, TransmitProgress::default(), 1_000, ROOM).is_ok(),
            "one frame may go beyond the bound"
        );
        queue.add(Class::Data, 5_000);
        assert!(queue.admit(Class::Data, 1, TransmitProgress::default(), 1_000, ROOM).is_err());
        assert!(
            queue.admit(Class::Data, 1, TransmitProgress { begun: 4_000, sealed: 0 }, 1_000, ROOM).is_err()
        );
        // What has begun leaves the room behind it.
        assert!(
            queue.admit(Class::Data, 1, TransmitProgress { begun: 4_001, sealed: 0 }, 1_000, ROOM).is_ok()
        );
        assert!(
            queue
                .admit(Class::Control, SMALL_REPLY_LEN_MAX, TransmitProgress::default(), 1_000, NONE)
                .is_ok()
        );
        assert!(
            queue
                .admit(
                    Class::Data,
                    1,
                    TransmitProgress::default(),
                    usize::MAX,
                    QueuePool { bytes: 1, bytes_max: 5_000 }
                )
                .is_err()
        );
        assert!(queue.admit(Class::Answer, 100 << 20, TransmitProgress::default(), 1_000, ROOM).is_ok());
        assert!(queue.admit(Class::Answer, 100 << 20, TransmitProgress::default(), 1_000, NONE).is_err());
        queue.add(Class::Control, SESSION_CONTROL_BYTES_MAX);
        assert!(
            queue.admit(Class::Control, OWN_REPLY_LEN_MAX, TransmitProgress::default(), 1_000, NONE).is_ok()
        );
        assert!(
            queue
                .admit(Class::Control, OWN_REPLY_LEN_MAX + 1, TransmitProgress::default(), 1_000, NONE)
                .is_err()
        );
    }

    #[test]
    fn a_session_is_read_again_when_half_of_what_stopped_it_has_gone() {
        for (class, bytes_max) in [(Class::Control, SESSION_CONTROL_BYTES_MAX), (Class::Answer, 10_000)] {
            let mut queue = SessionQueue::default();
            queue.add(class, bytes_max - 1);
            queue.add(Class::Data, 1 << 30);
            assert!(!queue.is_read_paused(10_000, ROOM));
            queue.add(class, 1);
            assert!(queue.is_read_paused(10_000, ROOM));
            queue.remove(class, bytes_max / 2);
            assert!(queue.is_read_paused(10_000, ROOM));
            queue.remove(class, 1);
            assert!(!queue.is_read_paused(10_000, ROOM));
            queue.add(class, 1);
            assert!(!queue.is_read_paused(10_000, ROOM));
        }
    }

    /// Any number of sessions that take nothing leave room for one more, and memory has its bound.
    #[test]
    fn however_many_take_nothing_another_session_still_gets_frames() {
        for hogs in [1, 2, 7, 50] {
            let mut pool = QueuePool { bytes: 0, bytes_max: 10_000_000 };
            let mut queues = vec![SessionQueue::default(); hogs];
            let mut is_any_taken = true;
            while std::mem::take(&mut is_any_taken) {
                for queue in &mut queues {
                    if queue.admit(Class::Data, 10_000, TransmitProgress::default(), usize::MAX, pool).is_ok()
                    {
                        queue.add(Class::Data, 10_000);
                        pool.bytes += 10_000;
                        is_any_taken = true;
                    }
                }
            }
            let fair = pool.bytes_max / (hogs + 1);
            for queue in &queues {
                assert!(queue.bytes().abs_diff(fair) <= 20_000, "{hogs}: {} of {fair}", queue.bytes());
            }
            assert!(pool.bytes < pool.bytes_max);
            assert!(
                SessionQueue::default()
                    .admit(Class::Data, 10_000, TransmitProgress::default(), usize::MAX, pool)
                    .is_ok()
            );
        }
    }

    #[test]
    fn where_memory_is_used_up_each_session_has_its_share_and_no_more_whatever_waits_for_it() {
        let mut queue = SessionQueue::default();
        assert!(
            queue.admit(Class::Data, SESSION_SHARE, TransmitProgress::default(), usize::MAX, NONE).is_ok()
        );
        // What is sealed already counts, too.
        assert!(
            queue
                .admit(Class::Data, SESSION_SHARE, TransmitProgress { begun: 0, sealed: 1 }, usize::MAX, NONE)
                .is_err()
        );
        queue.add(Class::Control, SESSION_SHARE);
        assert!(
            queue
                .admit(Class::Control, OWN_REPLY_LEN_MAX, TransmitProgress::default(), usize::MAX, NONE)
                .is_ok()
        );
        assert!(
            queue
                .admit(Class::Control, SMALL_REPLY_LEN_MAX, TransmitProgress::default(), usize::MAX, NONE)
                .is_err()
        );
        assert!(
            queue
                .admit(Class::Control, SMALL_REPLY_LEN_MAX, TransmitProgress::default(), usize::MAX, ROOM)
                .is_ok()
        );
        assert!(queue.is_read_paused(usize::MAX, NONE));
        assert!(!queue.is_read_paused(usize::MAX, ROOM));
    }
}
