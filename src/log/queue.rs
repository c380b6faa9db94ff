//! Lines on their way to whoever reads the log.

use std::{
    io::{ErrorKind, Write},
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender, bounded};

/// Lines that may wait.
pub(super) const LINES_MAX: usize = 16_384;
/// Bytes that may wait.
pub(super) const BYTES_MAX: usize = 4 << 20;
/// Between two looks at a sink that takes nothing just now.
const PAUSE: Duration = Duration::from_millis(5);

/// What lines are written to.
pub(super) trait Sink: Write {
    /// A whole line of so many bytes is about to come; says whether it goes to a place of its own, where no other ends before it.
    fn before_line(&mut self, _len: usize) -> bool {
        false
    }
}

impl Sink for std::fs::File {}

struct Queued {
    /// How many were lost between the one before and this one.
    lost_before: u64,
    text: Vec<u8>,
}

/// A bounded queue with any number of writers, who never wait, and one thread that empties it.
pub(super) struct Queue {
    sender: Sender<Queued>,
    receiver: Receiver<Queued>,
    /// Of lines that are not written yet.
    bytes: AtomicUsize,
    /// Written so far: whoever waits for the end sees by it that it goes on.
    written: AtomicU64,
    lost: AtomicU64,
    /// Lost, and not said yet.
    untold: AtomicU64,
}

impl Default for Queue {
    fn default() -> Self {
        Self::with_room(LINES_MAX)
    }
}

impl Queue {
    pub(super) fn with_room(lines_max: usize) -> Self {
        let (sender, receiver) = bounded(lines_max);
        let (bytes, written) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { sender, receiver, bytes, written, lost: AtomicU64::new(0), untold: AtomicU64::new(0) }
    }

    pub(super) fn lines_lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Whether no line waits but the one that is being written.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.receiver.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Acquire)
    }

    /// Takes a line, or counts it as lost.
    pub(super) fn push(&self, text: Vec<u8>) -> bool {
        let len = text.len();
        let has_room = self.bytes.fetch_add(len, AcqRel) + len <= BYTES_MAX;
        let mut lost = 1;
        if has_room {
            let lost_before = self.untold.swap(0, Relaxed);
            if self.sender.try_send(Queued { lost_before, text }).is_ok() {
                return true;
            }
            lost += lost_before;
        }
        self.lost.fetch_add(1, Relaxed);
        self.untold.fetch_add(lost, Relaxed);
        self.bytes.fetch_sub(len, AcqRel);
        false
    }

    /// Writes lines as they come, for ever. `lost_line` says that so many were lost.
    pub(super) fn write_to(&self, sink: &mut (impl Sink + ?Sized), lost_line: impl Fn(u64) -> Vec<u8>) {
        let mut is_torn = false;
        let mut write = |text: &[u8]| {
            is_torn &= !sink.before_line(text.len());
            // The rest of a line that failed midway is not to be read as the beginning of this one.
            if is_torn && self.write(sink, b"\n").is_err() {
                return false;
            }
            let written = self.write(sink, text);
            is_torn = written.is_err_and(|part| part > 0);
            written.is_ok()
        };
        let tell = |write: &mut dyn FnMut(&[u8]) -> bool, lost| {
            if lost > 0 && !write(&lost_line(lost)) {
                self.untold.fetch_add(lost, Relaxed);
            }
        };
        loop {
            let next = self.receiver.try_recv().ok().or_else(|| {
                // Nothing waits: what was lost since is said now.
                tell(&mut write, self.untold.swap(0, Relaxed));
                self.receiver.recv().ok()
            });
            // The queue has its own sender, so that this does not come.
            let Some(Queued { lost_before, text }) = next else { return };
            tell(&mut write, lost_before);
            if !write(&text) {
                self.lost.fetch_add(1, Relaxed);
                self.untold.fetch_add(1, Relaxed);
            }
            self.bytes.fetch_sub(text.len(), AcqRel);
        }
    }

    /// How much was written is the error.
    fn write(&self, sink: &mut (impl Write + ?Sized), text: &[u8]) -> Result<(), usize> {
        let mut done = 0;
        while done < text.len() {
            match sink.write(&text[done..]) {
                Ok(0) => return Err(done),
                Ok(written) => {
                    done += written;
                    self.written.fetch_add(written as u64, Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever started us may share the pipe and have set it so.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(_) => return Err(done),
            }
        }
        Ok(())
    }

    /// Waits until all lines are written; no longer than `stall_max` while nothing is taken, and `time_max` in all.
    pub(super) fn flush(&self, stall_max: Duration, time_max: Duration) -> bool {
        let start = Instant::now();
        let (mut written, mut since) = (self.written.load(Relaxed), start);
        while self.bytes() > 0 {
            let now = Instant::now();
            if self.written.load(Relaxed) != written {
                (written, since) = (self.written.load(Relaxed), now);
            }
            if now - since >= stall_max || now - start >= time_max {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }
}
