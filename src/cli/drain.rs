//! `amop drain`: a node lets its applications go, and stops.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::{Failure, help::examples, output, status::Status};
use crate::escape::shown_path;

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop drain --pid-file nodes/127.0.0.1/node0/amop.pid", ""),
            ("amop drain --pid-file /run/amop/amop.pid --timeout 120", ""),
        ],
        &[
            "The node lets no new applications in, and those that it has go one after the other within [amop] \
             lame_duck_ms, or 10 s: their topics are withdrawn from the network, what is in flight is answered, \
             then each is closed, so that it goes on with another node that it knows. Then the node stops. It is \
             told so by SIGQUIT; another SIGTERM has it stop at once.",
            "Exit status: 0 it has ended; 4 it was told so, and still runs; 1 it could not be told.",
        ],
    ))]
pub(super) struct DrainArgs {
    /// The node's pid file (`amop node --pid-file`).
    #[arg(long, value_name = "FILE")]
    pid_file: PathBuf,
    /// How many seconds to wait for its end.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    timeout: u64,
}

/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn run(args: &DrainArgs) -> Result<ExitCode, Failure> {
    let path = &args.pid_file;
    let Some(pid) = running(path)? else {
        return Err(format!("{}: no node runs that holds this file", shown_path(path)).into());
    };
    // The node holds the file's lock until it ends, so that the number was its own just now.
    kill_process(pid, Signal::QUIT).map_err(|error| {
        format!(
            "process {} cannot be told to stop: {error}; do it as the user that it runs as",
            pid.as_raw_nonzero()
        )
    })?;
    let end = Instant::now() + Duration::from_secs(args.timeout);
    while running(path)? == Some(pid) {
        if Instant::now() > end {
            output::note(&format!("amop: the node still runs after {} s; its log says why", args.timeout));
            return Ok(Status::Incomplete.into());
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(ExitCode::SUCCESS)
}

/// The process that holds a pid file.
fn running(path: &Path) -> Result<Option<Pid>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", shown_path(path));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.map(Some).ok_or_else(|| format!("{}: holds no process id", shown_path(path)))
}
