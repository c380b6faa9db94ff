//! The engine's file `sleep_flag.rs` on loom's atomics instead of the standard library's: `cargo test --package amop-loom`.

#![cfg(test)]

use loom::sync::atomic;

#[path = "../../../src/engine/sleep_flag.rs"]
mod sleep_flag;

use loom::{
    sync::{
        Arc, Notify,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use sleep_flag::SleepFlag;

/// A reactor with a queue, of which only the length counts, and the eventfd that it sleeps on.
struct Reactor {
    flag: SleepFlag,
    queued: AtomicUsize,
    wakes: Notify,
    woken: AtomicUsize,
}

impl Reactor {
    fn new() -> Arc<Self> {
        let (queued, woken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { flag: SleepFlag::new(), queued, wakes: Notify::new(), woken })
    }

    /// What another reactor does that has something for it.
    fn tell(&self) {
        self.queued.fetch_add(1, Relaxed);
        if self.flag.must_wake() {
            self.woken.fetch_add(1, Relaxed);
            self.wakes.notify();
        }
    }

    /// What it does itself until it has taken so much. Loom fails if it sleeps for ever.
    fn take(&self, count: usize) {
        let mut taken = 0;
        while taken < count {
            self.flag.prepare_sleep();
            if self.queued.load(Relaxed) == 0 {
                self.wakes.wait();
            }
            self.flag.awake();
            taken += self.queued.swap(0, Relaxed);
        }
    }
}

#[test]
fn a_reactor_never_sleeps_while_something_is_there_for_it() {
    loom::model(|| {
        let reactor = Reactor::new();
        let told = reactor.clone();
        let other = thread::spawn(move || told.tell());
        reactor.take(1);
        other.join().unwrap();
    });
}

#[test]
fn a_reactor_never_sleeps_while_something_of_two_others_is_there_for_it() {
    let mut model = loom::model::Builder::new();
    // All orders take minutes.
    model.preemption_bound = Some(3);
    model.check(|| {
        let reactor = Reactor::new();
        let others = [(); 2].map(|()| {
            let told = reactor.clone();
            thread::spawn(move || told.tell())
        });
        reactor.take(2);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn a_reactor_that_does_not_sleep_is_not_woken() {
    loom::model(|| {
        let reactor = Reactor::new();
        reactor.flag.prepare_sleep();
        reactor.flag.awake();
        let told = reactor.clone();
        thread::spawn(move || told.tell()).join().unwrap();
        assert_eq!(reactor.woken.load(Relaxed), 0);
    });
}
