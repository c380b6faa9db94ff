//! What the door has asked of the kernel. tokio-uring 0.5 frees the memory of operations that nobody waits for before it
//! cancels them: the kernel would write what a peer sends to memory that is somebody else's by then. So nobody stops waiting:
//! a socket is shut down, and what is pending on it is awaited, also where the door is on epoll. Listeners, which must not be shut down, are none of its (`accept.rs`).
//!
//! # Invariants
//! - Each operation on the door's ring is within [`Operations::run`], in a future that is not dropped before its end.
//! - The ring goes after [`Operations::end_all`], so that it has nothing to cancel.

use std::{cell::Cell, pin::pin};

use tokio::sync::{Notify, watch};

/// Of one ring.
pub(super) struct Operations {
    ending: watch::Sender<bool>,
    in_flight: Cell<usize>,
    /// Told when one has ended.
    ended: Notify,
}

impl Default for Operations {
    fn default() -> Self {
        Self { ending: watch::Sender::new(false), in_flight: Cell::new(0), ended: Notify::new() }
    }
}

/// Why operations have no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CalledOff<T> {
    /// The ring is about to go.
    Ending,
    /// Whoever began them said so.
    For(T),
}

/// In the count of those in flight, until it is dropped.
struct InFlight<'a>(&'a Operations);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.ended.notify_waiters();
    }
}

impl Operations {
    /// Whether none begins any more.
    pub(super) fn are_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Runs operations on one socket to their end. When the ring is about to go, or they are called off, `shut_down` ends
    /// what is pending on the socket, and its end is awaited.
    pub(super) async fn run<T, C>(
        &self,
        operations: impl Future<Output = T>,
        called_off: impl Future<Output = C>,
        shut_down: impl FnOnce(),
    ) -> Result<T, CalledOff<C>> {
        let mut ending = self.ending.subscribe();
        if *ending.borrow_and_update() {
            return Err(CalledOff::Ending);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let in_flight = InFlight(self);
        let mut operations = pin!(operations);
        let why = tokio::select! {
            biased;
            done = &mut operations => return Ok(done),
            // The sender is our own.
            _ = ending.changed() => CalledOff::Ending,
            why = called_off => CalledOff::For(why),
        };
        shut_down();
        operations.await;
        drop(in_flight);
        Err(why)
    }

    /// Has all end, and waits until the last one has. None begins any more.
    pub(super) async fn end_all(&self) {
        self.ending.send_replace(true);
        loop {
            // From here on nothing is missed.
            let ended = self.ended.notified();
            if self.in_flight.get() == 0 {
                return;
            }
            ended.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn what_is_called_off_is_shut_down_and_awaited() {
        run(async {
            let (shut, shuts) = oneshot::channel::<()>();
            let operations = Operations::default();
            let has_ended = Cell::new(false);
            let work = async {
                shuts.await.unwrap();
                tokio::task::yield_now().await;
                has_ended.set(true);
            };
            let result = operations.run(work, ready(7), || shut.send(()).unwrap()).await;
            assert_eq!(result, Err(CalledOff::For(7)));
            assert!(has_ended.get());
        });
    }

    #[test]
    fn the_ring_goes_after_the_last_operation_and_none_begins_any_more() {
        run(async {
            let (shut, shuts) = oneshot::channel::<()>();
            let operations = Operations::default();
            let has_ended = Cell::new(false);
            let work = async {
                shuts.await.unwrap();
                tokio::task::yield_now().await;
                has_ended.set(true);
            };
            let running = operations.run(work, pending::<()>(), || shut.send(()).unwrap());
            let ended = async {
                tokio::task::yield_now().await;
                operations.end_all().await;
                assert!(has_ended.get());
            };
            let (result, ()) = tokio::join!(running, ended);
            assert_eq!(result, Err(CalledOff::Ending));
            let never = async { panic!("it must not begin") };
            assert_eq!(operations.run(never, pending::<()>(), || ()).await, Err::<(), _>(CalledOff::Ending));
        });
    }
}
