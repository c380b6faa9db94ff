//! The log: events become lines, and one thread writes them to standard error, the journal or files. Nobody else waits for
//! whoever reads it, or for a disk.
//!
//! ```text
//!   event, panic ─► line (logfmt or JSON, escaped) ─► queue (bounded) ─► one thread ─┬─► standard error
//!                                                       │ full: the line is lost,    ├─► the journal, if that is it
//!                                                       │ counted, and that is said  └─► files ([log] log_path)
//!                                                       ▼ once there is room
//! ```
//!
//! `tracing-appender` was looked at: its queue is bounded by lines and not by bytes, its log does not say what it lost,
//! its end waits for a second whether or not lines are still being taken, and a failed write is not counted.
//!
//! Imports what all modules may, and nothing else of ours.
//!
//! # Invariants
//! - Whoever logs waits for no reader of the log: it makes no call that does, and takes no lock that is held meanwhile.
//! - What the queue has taken is written in its order; an orderly end waits for it as long as it is being taken, within
//!   a bound.
//! - A line is one line whatever is in it (`line.rs`).

mod files;
mod journal;
mod line;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{IsTerminal, Write},
    os::fd::AsFd,
    panic::PanicHookInfo,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{EnvFilter, Layer, layer::Context, prelude::*};

pub(crate) use self::files::{FileSettings, reopen};
use self::{
    files::Files,
    journal::{Journal, is_journal},
    line::{Form, Line},
    queue::{BYTES_MAX, LINES_MAX, Queue, Sink},
};
use crate::{
    bound::{Bound, fixed},
    escape::shown_path,
    supervise,
};

/// An orderly end waits so long for a reader of the log that takes nothing …
const STALL_MAX: Duration = Duration::from_secs(2);
/// … and so long for one that takes lines slowly.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// An end that is not in order waits so long for each of its steps.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// A pipe that can be written to takes so much without waiting (POSIX: `PIPE_BUF` of Linux).
const WRITE_LEN: usize = 4_096;

/// The log of this process, once it has started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    form: Form,
    /// Of what goes to standard error past the queue.
    form_of_last_words: Form,
    /// Whether standard error is something else, where what ends the process is told, too.
    is_elsewhere: bool,
    queue: Arc<Queue>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Its files.
    #[error(
        "[log] log_path = {}: no log file can be opened there: {source}; name a directory that this user may write to, or set enable_console_output=true \
         for standard error",
        shown_path(directory)
    )]
    Files {
        /// Where they were to be.
        directory: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Standard error, or the thread.
    #[error("the log cannot be set up: {0}")]
    Io(#[from] std::io::Error),
}

/// The running log. At its end it waits, within a bound, until what was logged has been written.
#[must_use = "at its end the log is written out"]
#[derive(Debug)]
pub(crate) struct Logging(());

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(log) = LOG.get() {
            log.queue.flush(STALL_MAX, FLUSH_MAX);
        }
    }
}

/// Starts logging for the process, to files if they are given. `RUST_LOG` goes before `level`. A second start, as in tests,
/// changes nothing.
pub(crate) fn start(level: &str, json: bool, files: Option<&FileSettings>) -> Result<Logging, LogError> {
    let stderr = std::io::stderr();
    let colours = !json && files.is_none() && stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut form = if json { Form::Json } else { Form::Logfmt { colours } };
    let form_of_last_words = form;
    // Not std's handle, whose lock the thread would hold while the reader of the log stalls.
    let mut sink: Box<dyn Sink + Send> = Box::new(File::from(stderr.as_fd().try_clone_to_owned()?));
    if let Some(settings) = files {
        let failed = |source| LogError::Files { directory: settings.directory.clone(), source };
        let files = Files::open(settings.clone()).map_err(failed)?;
        tell(&format!("amop: the log goes to {}, and on from there", shown_path(&files.path())));
        sink = Box::new(files);
    } else if !json
        && is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), &stderr)
        && let Ok(journal) = Journal::of_machine()
    {
        form = Form::Journal;
        sink = Box::new(journal);
    }
    let queue = Arc::new(Queue::default());
    let log = Log { form, form_of_last_words, is_elsewhere: files.is_some(), queue: queue.clone() };
    if LOG.set(log).is_err() {
        return Ok(Logging(()));
    }
    supervise::restarting_thread("amop-log", move || {
        queue.write_to(&mut *sink, |lost| lost_line(form, lost))
    })?;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("off,amop={level}")));
    // Whoever embeds the node may have a subscriber of its own.
    let _ = tracing_subscriber::registry().with(filter).with(Lines).try_init();
    std::panic::set_hook(Box::new(end_by_panic));
    Ok(Logging(()))
}

/// Metrics of the log of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogMetrics {
    /// Lines that were lost: the queue was full, or they could not be written.
    pub lines_lost: u64,
    /// Bytes that wait to be written.
    pub queue_bytes: u64,
    /// Files that were removed, because there were too many.
    pub files_removed: u64,
}

/// What the log counts; nothing where it has not started.
pub(crate) fn metrics() -> LogMetrics {
    let queue = LOG.get().map(|log| &log.queue);
    LogMetrics {
        lines_lost: queue.map_or(0, |queue| queue.lines_lost()),
        queue_bytes: queue.map_or(0, |queue| queue.bytes() as u64),
        files_removed: files::removed(),
    }
}

/// Looks whether log files can be opened, without opening one.
pub(crate) fn check(settings: &FileSettings) -> Result<(), LogError> {
    let failed = |source| LogError::Files { directory: settings.directory.clone(), source };
    files::check(&settings.directory).map_err(failed)
}

/// The bounds of the log.
pub(crate) fn bounds(files_max: usize) -> Vec<Bound> {
    vec![
        fixed(
            "log files that are kept",
            files_max,
            "files",
            "node",
            "the oldest are removed: log_files_removed",
        )
        .set_by("[log] max_archive_files"),
        fixed("lines that wait to be written", LINES_MAX, "lines", "node", "lost: log_lines_lost"),
        fixed("bytes that wait to be written", BYTES_MAX, "bytes", "node", "lost: log_lines_lost")
            .metric("amop_log_queue_bytes_max", "Bound of the bytes of log lines that wait to be written.")
            .memory(BYTES_MAX),
        fixed(
            "wait of an orderly end for a reader of the log that takes nothing",
            STALL_MAX.as_millis() as usize,
            "ms",
            "node",
            "what is not written is lost",
        ),
        fixed(
            "wait of an orderly end for a reader of the log that is slow",
            FLUSH_MAX.as_millis() as usize,
            "ms",
            "node",
            "what is not written is lost",
        ),
    ]
}

/// Ends the process at once, for a reason that is written even if nobody reads the log as it should.
pub(crate) fn abort(reason: &str) -> ! {
    let message = format!("{reason}: the node ends");
    match LOG.get() {
        // Past the filter: whoever wants no log wants to know why there is no node.
        Some(log) => log.say(|form| {
            let mut line = Line::new(form, Level::ERROR, module_path!());
            line.text("message", &message);
            line.finish()
        }),
        None => tell(&format!("amop: {message}")),
    }
    std::process::abort();
}

impl Log {
    /// Logs why the process ends: past the queue if that is full, or is not written in time; and to standard error where the
    /// log is in files.
    fn say(&self, line: impl Fn(Form) -> Vec<u8>) {
        let is_taken = self.queue.push(line(self.form));
        if !is_taken || !self.queue.flush(LAST_WORDS_MAX, LAST_WORDS_MAX) || self.is_elsewhere {
            tell(String::from_utf8_lossy(&line(self.form_of_last_words)).trim_end());
        }
    }
}

/// Writes a line to standard error past the queue, for what ends the process. It gives up on a reader that stalls.
pub(crate) fn tell(text: &str) {
    let Ok(sink) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    let mut sink = File::from(sink);
    let (text, end) = (format!("{text}\n"), Instant::now() + LAST_WORDS_MAX);
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&sink, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) => return,
            Err(rustix::io::Errno::INTR) => continue,
            Ok(_) | Err(_) => {}
        }
        match sink.write(&rest[..rest.len().min(WRITE_LEN)]) {
            Ok(written) if written > 0 => rest = &rest[written..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Makes lines of events.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(log) = LOG.get() else { return };
        let metadata = event.metadata();
        let mut line = Line::new(log.form, *metadata.level(), metadata.target());
        event.record(&mut line);
        // A loss is counted there.
        log.queue.push(line.finish());
    }
}

/// Ends the process by one line. Nothing unwinds: what a panic leaves half done is shared with other threads, and what it
/// would drop may be lent to the kernel. Only where that cannot be (`supervise::guarded`) it is no more than a line.
fn end_by_panic(panic: &PanicHookInfo<'_>) {
    static ENDS: AtomicBool = AtomicBool::new(false);
    if supervise::is_guarded() {
        let message = "a panic over what a peer sent; this is a fault of amop or of a library: only that connection ends. Please report it";
        if let Some(log) = LOG.get() {
            log.say(|form| panic_line(form, message, panic));
        }
        return;
    }
    while ENDS.swap(true, Relaxed) {
        // Another thread was first, and is about to end this one, too.
        std::thread::park();
    }
    let Some(log) = LOG.get() else { std::process::abort() };
    log.say(|form| panic_line(form, "a panic; this is a fault of amop: the node ends", panic));
    std::process::abort();
}

/// What is told of a panic.
fn panic_line(form: Form, message: &str, panic: &PanicHookInfo<'_>) -> Vec<u8> {
    let mut line = Line::new(form, Level::ERROR, module_path!());
    line.text("message", message);
    line.text("thread", std::thread::current().name().unwrap_or_default());
    let what = panic.payload();
    let what =
        what.downcast_ref::<&str>().copied().or_else(|| what.downcast_ref::<String>().map(String::as_str));
    line.text("what", what.unwrap_or_default());
    if let Some(place) = panic.location() {
        line.text("place", &place.to_string());
    }
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        line.text("backtrace", &trace.to_string());
    }
    line.finish()
}

fn lost_line(form: Form, lost: u64) -> Vec<u8> {
    let mut line = Line::new(form, Level::WARN, module_path!());
    line.text(
        "message",
        "log lines were lost here: whoever reads the log did not keep up, or there was no room for them",
    );
    line.number("lost", lost);
    line.finish()
}
