//! Whether a reactor sleeps: whoever has something for it wakes it then, and only then.
//!
//! The flag is changed by swaps alone, each of which sees the one before it and all that its thread did until then. So
//! either a reactor that is about to sleep sees what another one has put into its queue, or that one sees that it sleeps.
//! `tests/loom` runs this file through the orders in which the steps of three threads can take effect.

use super::atomic::{AtomicBool, Ordering::AcqRel};

/// One for each reactor.
pub(super) struct SleepFlag(AtomicBool);

impl SleepFlag {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// This reactor is about to sleep. It must look at its queues after this call, and not sleep if there is anything.
    pub(super) fn prepare_sleep(&self) {
        self.0.swap(true, AcqRel);
    }

    /// This reactor does not sleep any more. It takes what is in its queues after this call.
    pub(super) fn awake(&self) {
        self.0.swap(false, AcqRel);
    }

    /// Something was put into a queue of this reactor before this call. Whether it must be woken; of several that ask at the
    /// same time one is told so.
    pub(super) fn must_wake(&self) -> bool {
        self.0.swap(false, AcqRel)
    }
}
