//! Threads and tasks: whichever dies is missed. Nothing else in the crate starts one (`tests/repository/documents.rs` looks).
//!
//! | what it is for | by | when it dies |
//! |---|---|---|
//! | the node cannot do without it | [`Supervisor::thread`], [`Supervisor::local_task`] | the node ends in order, and names it |
//! | it begins anew without harm | `restarting_thread`, `restarting_local_task` | it is started again after a pause |
//! | one connection, one question | `contained_task`, `contained_local_task` | that one is over |
//! | somebody waits for its result | `joined_thread`, `blocking` | whoever waits gets an error |
//!
//! In the program a panic is no such death, whatever it is in: it is logged where it happens, and ends the process at once
//! (`log`), for what it leaves behind half done is shared with others. Where the crate runs in somebody else's process, a panic
//! is counted here, and ends what the table says; but one of a thread whose memory the kernel writes to ends the process there,
//! too (`must_not_unwind`).
//!
//! What is [`guarded`] is the exception: it reads what strangers sent, mostly by other people's code, and owns all that it
//! changes. A panic in it is logged and counted, and ends only that, in the program as well.
//!
//! Imports nothing of ours.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    process,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

/// Before what has died is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1_000 });

/// Threads and tasks that have died in this process.
static DEATHS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether no panic may unwind this thread.
    static MUST_NOT_UNWIND: Cell<bool> = const { Cell::new(false) };
    /// Whether a panic of this thread is caught before it comes to anything that is shared, or lent to the kernel.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Threads and tasks of this process that have died, by faults of amop.
pub(crate) fn deaths() -> u64 {
    DEATHS.load(Relaxed)
}

/// From now on a panic of this thread ends the process where it happens. It would unwind past operations that the kernel
/// has under way, and free what they write to.
pub(crate) fn must_not_unwind() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            before(panic);
            if MUST_NOT_UNWIND.get() && !is_guarded() {
                process::abort();
            }
        }));
    });
    MUST_NOT_UNWIND.set(true);
}

/// Runs what owns all that it changes, and waits for nothing. A panic ends here, and is counted, whatever the thread is.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    let before = IS_GUARDED.replace(true);
    let done = caught(run);
    IS_GUARDED.set(before);
    done
}

/// Whether a panic of this thread would end no more than what is [`guarded`].
pub(crate) fn is_guarded() -> bool {
    IS_GUARDED.get()
}

/// Runs it. A panic ends here, and is counted.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    counted(run).ok()
}

fn counted<T>(run: impl FnOnce() -> T) -> thread::Result<T> {
    catch_unwind(AssertUnwindSafe(run)).inspect_err(|_| {
        DEATHS.fetch_add(1, Relaxed);
    })
}

/// The same for a future.
pub(crate) async fn contained<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match caught(|| future.as_mut().poll(context)) {
        Some(poll) => poll.map(Some),
        None => std::task::Poll::Ready(None),
    })
    .await
}

/// Watches what a node cannot do without.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// Set once the node has begun to stop; from then on ends are in order.
    stopping: Arc<AtomicBool>,
    /// What has ended first.
    ended: Arc<watch::Sender<Option<&'static str>>>,
}

impl Supervisor {
    /// For a node that sets `stopping` before it ends its threads.
    pub fn new(stopping: Arc<AtomicBool>) -> Self {
        Self { stopping, ended: Arc::new(watch::Sender::new(None)) }
    }

    /// Waits until a part of the node has ended, though the node was not stopping, and names it.
    pub async fn ended(&self) -> &'static str {
        let mut ended = self.ended.subscribe();
        // The sender is our own.
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|name| *name);
        ended.unwrap_or("the supervisor")
    }

    /// Starts a thread whose end, before the node is stopped, ends the node.
    pub fn thread(
        &self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<thread::JoinHandle<()>> {
        let supervisor = self.clone();
        joined_thread(name, move || {
            let _ = caught(run);
            supervisor.note_end(name);
        })
    }

    /// The same of a thread that says how its start went. Gives the error if it failed, or if it ended without a word.
    pub(crate) fn reporting_thread(
        &self,
        name: &'static str,
        run: impl FnOnce(Start) + Send + 'static,
    ) -> io::Result<thread::JoinHandle<()>> {
        let (start, started) = mpsc::sync_channel(1);
        let thread = self.thread(name, move || run(Start(start)))?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("a thread ended at once")))?;
        Ok(thread)
    }

    /// The same as a task of the thread that calls.
    pub fn local_task(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + 'static,
    ) -> JoinHandle<()> {
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            let _ = contained(future).await;
            supervisor.note_end(name);
        })
    }

    /// Whether a part of the node has ended of itself.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    fn note_end(&self, name: &'static str) {
        if !self.stopping.load(Relaxed) {
            self.ended.send_if_modified(|ended| {
                let is_first = ended.is_none();
                ended.get_or_insert(name);
                is_first
            });
        }
    }
}

/// By which a thread says how its start went, to whoever waits for that.
pub(crate) struct Start(mpsc::SyncSender<io::Result<()>>);

impl Start {
    /// It has what it needs.
    pub(crate) fn done(self) {
        self.tell(Ok(()));
    }

    /// It ends.
    pub(crate) fn failed(self, error: io::Error) {
        self.tell(Err(error));
    }

    fn tell(self, result: io::Result<()>) {
        // There is room for the only word; somebody waits for it.
        let _ = self.0.try_send(result);
    }
}

/// Starts a thread that runs again after each panic, and ends when `run` returns.
pub(crate) fn restarting_thread(
    name: &'static str,
    mut run: impl FnMut() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    joined_thread(name, move || {
        while caught(&mut run).is_none() {
            thread::sleep(RESTART_PAUSE);
            tracing::warn!(name, "a thread that has failed is started again");
        }
    })
}

/// Starts a task of the thread that calls. It is made again after each panic, and ends when one returns.
pub(crate) fn restarting_local_task<F: Future<Output = ()> + 'static>(
    name: &'static str,
    mut make: impl FnMut() -> F + 'static,
) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        while contained(make()).await.is_none() {
            tokio::time::sleep(RESTART_PAUSE).await;
            tracing::warn!(name, "a task that has failed is started again");
        }
    })
}

/// Starts a task that serves one connection or one question, and nobody waits for. What it holds must be given back by
/// its being dropped.
pub(crate) fn contained_task(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async { _ = contained(future).await })
}

/// The same as a task of the thread that calls.
pub(crate) fn contained_local_task(future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(async { _ = contained(future).await })
}

/// Starts a thread whose result somebody waits for.
pub(crate) fn joined_thread<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    // Whoever joins it gets the panic.
    let run = || counted(run).unwrap_or_else(|panic| resume_unwind(panic));
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Runs what blocks on a thread of its own, from now on, and gives its result.
pub(crate) fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    let task = tokio::task::spawn_blocking(|| caught(run));
    async {
        let result = task.await.map_err(io::Error::other)?;
        result.ok_or_else(|| io::Error::other("a thread has failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> (Supervisor, Arc<AtomicBool>) {
        let stopping = Arc::<AtomicBool>::default();
        (Supervisor::new(stopping.clone()), stopping)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    #[test]
    fn the_first_thread_or_task_that_ends_unasked_is_named_whether_it_panics_or_returns() {
        for panics in [true, false] {
            let (supervisor, _) = supervisor();
            let thread = supervisor.thread("first", move || assert!(!panics, "meant")).unwrap();
            thread.join().unwrap();
            assert_eq!(run(supervisor.ended()), "first");
            supervisor.thread("second", || ()).unwrap().join().unwrap();
            assert_eq!(run(supervisor.ended()), "first");

            let (supervisor, _) = self::supervisor();
            let ended = run(async {
                let _task = supervisor.local_task("a task", async move { assert!(!panics, "meant") });
                supervisor.ended().await
            });
            assert_eq!(ended, "a task");
        }
    }

    /// Says that it was dropped, on standard error as it is.
    struct Dropped;

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = io::Write::write_all(&mut io::stderr(), b"unwound\n");
        }
    }

    /// Runs a test of this program alone in a process of its own, with a variable set; gives its standard error, and whether
    /// it was aborted.
    fn run_alone(test: &str, variable: &str) -> (String, bool) {
        use std::os::unix::process::ExitStatusExt;
        let mut command = process::Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env(variable, "1").env("RUST_BACKTRACE", "0");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (text, output.status.signal() == Some(rustix::process::Signal::ABORT.as_raw()))
    }

    const ALONE: &str = "AMOP_TEST_ALONE";

    #[test]
    fn a_panic_where_the_kernel_writes_ends_the_process_before_anything_is_dropped() {
        if std::env::var_os(ALONE).is_none() {
            let name = "supervise::tests::a_panic_where_the_kernel_writes_ends_the_process_before_anything_is_dropped";
            let (text, is_aborted) = run_alone(name, ALONE);
            assert!(is_aborted && text.contains("meant") && !text.contains("unwound"), "{text}");
            return;
        }
        // One of a thread that nothing is lent to unwinds.
        let _ = thread::spawn(must_not_unwind).join();
        assert!(caught(|| panic!("harmless")).is_none());
        let dies = joined_thread("lends", || {
            must_not_unwind();
            let _dropped = Dropped;
            caught(|| panic!("meant"))
        });
        let _ = dies.unwrap().join();
    }

    #[test]
    fn a_panic_of_the_program_ends_it_at_once_by_one_line_whatever_it_is_in() {
        if std::env::var_os(ALONE).is_none() {
            let name =
                "supervise::tests::a_panic_of_the_program_ends_it_at_once_by_one_line_whatever_it_is_in";
            let (text, is_aborted) = run_alone(name, ALONE);
            let lines: Vec<&str> = text.lines().filter(|line| line.contains("level")).collect();
            assert!(is_aborted && lines.len() == 1 && !text.contains("unwound"), "{text}");
            let [line] = lines[..] else { panic!("{text}") };
            for part in ["a panic; this is a fault of amop: the node ends", "meant", "supervise.rs"] {
                assert!(line.contains(part), "{line}");
            }
            return;
        }
        let _log = crate::log::start("info", true, None).unwrap();
        run(async {
            _ = contained_local_task(async {
                let _dropped = Dropped;
                panic!("meant");
            })
            .await;
        });
    }

    #[test]
    fn whoever_starts_a_thread_that_reports_is_told_whether_it_has_started() {
        let (supervisor, _) = supervisor();
        let started = supervisor.reporting_thread("starts", Start::done);
        started.unwrap().join().unwrap();
        let failed =
            supervisor.reporting_thread("fails", |start| start.failed(io::ErrorKind::OutOfMemory.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert!(supervisor.reporting_thread("ends", drop).is_err());
        assert!(supervisor.has_ended());
    }

    #[test]
    fn an_end_while_the_node_stops_is_none_of_a_fault() {
        let (supervisor, stopping) = supervisor();
        stopping.store(true, Relaxed);
        supervisor.thread("asked to", || ()).unwrap().join().unwrap();
        assert!(supervisor.ended.borrow().is_none());
    }

    #[test]
    fn what_may_begin_anew_runs_again_after_each_panic_and_is_counted() {
        let before = deaths();
        let runs = run(async {
            let runs = std::rc::Rc::new(Cell::new(0));
            let counted = runs.clone();
            let made = move || {
                let runs = counted.clone();
                async move {
                    runs.set(runs.get() + 1);
                    tokio::task::yield_now().await;
                    assert!(runs.get() == 3, "meant");
                }
            };
            restarting_local_task("a task", made).await.unwrap();
            runs.get()
        });
        assert_eq!(runs, 3);
        let mut left = 2;
        let thread = restarting_thread("a thread", move || {
            left -= 1;
            assert!(left == 0, "meant");
        });
        thread.unwrap().join().unwrap();
        // Other tests may count, too.
        assert!(deaths() >= before + 3);
    }

    #[test]
    fn a_thread_that_somebody_waits_for_is_counted_too_and_whoever_waits_is_told() {
        let before = deaths();
        let panics = joined_thread("a thread", || panic!("meant")).unwrap().join();
        assert!(panics.is_err_and(|_: Box<dyn std::any::Any + Send>| true));
        assert!(deaths() > before);
        assert_eq!(joined_thread("a thread", || 7).unwrap().join().unwrap(), 7);
    }

    #[test]
    fn one_connection_that_panics_is_over_and_gives_back_what_it_held() {
        run(async {
            let held = Arc::new(());
            let (local, sent) = (held.clone(), held.clone());
            let panics = |held: Arc<()>| async move {
                let _held = held;
                tokio::task::yield_now().await;
                panic!("meant");
            };
            contained_local_task(panics(local)).await.unwrap();
            contained_task(panics(sent)).await.unwrap();
            assert_eq!(Arc::strong_count(&held), 1);
            assert!(blocking(|| panic!("meant")).await.is_err_and(|_: io::Error| true));
            assert_eq!(blocking(|| 7).await.unwrap(), 7);
        });
    }
}
