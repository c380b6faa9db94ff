//! `amop doctor`: whether a machine is as a node wants it, and what to change.
//!
//! ```text
//!   Machine (files, of another root in tests) ─► Doctor: limits, network, processors, cards ─► checks ─► text or JSON
//! ```
//!
//! What a check cannot see (no such hardware, a virtual machine that hides it) is no fault.

mod cards;
mod limits;
mod machine;
mod network;
mod processors;

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;

use self::machine::{Machine, processors};
use super::{
    Failure,
    help::examples,
    output::{OutputArgs, ended, print_line},
    status::Status,
};
use crate::{
    config::Config,
    engine::IoSetting,
    escape::{shown, shown_json},
};

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop doctor", ""),
            ("amop doctor -c config.ini", "against a node's [engine] reactors and pin"),
            ("amop doctor -o json | jq '.checks[] | select(.ok | not)'", "what is not as wanted"),
        ],
        &[
            "What is marked `must` a node does not run without; `should` is what costs it speed, memory or links. \
             What cannot be seen on this machine (no such hardware, a virtual machine that hides it) is no fault. \
             scripts/tune sets what can be set while the machine runs.",
            "Exit status: 0 all is as wanted; 4 something is not; 78 the configuration is refused.",
        ],
    ))]
pub(super) struct DoctorArgs {
    /// A node's configuration, whose reactors and processors are looked at, too.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Where the files of the machine are.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// How much depends on a check.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// A node does not run without.
    Must,
    /// Without, it is slower, takes more memory, or has fewer links.
    Should,
}

/// What was looked at, seen and wanted.
#[derive(Serialize)]
struct Check {
    id: String,
    ok: bool,
    level: Level,
    seen: String,
    wanted: String,
    advice: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sysctl: Option<Sysctl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileValue>,
}

/// A setting of the kernel that makes it well.
#[derive(Serialize)]
struct Sysctl {
    key: String,
    value: String,
    was: Option<String>,
}

/// A file of the kernel whose text makes it well.
#[derive(Serialize)]
struct FileValue {
    path: String,
    value: String,
    was: String,
}

impl Check {
    fn new(id: &str, ok: bool, seen: impl ToString, wanted: impl ToString, advice: impl ToString) -> Self {
        Self {
            id: id.to_owned(),
            ok,
            level: Level::Should,
            seen: seen.to_string(),
            wanted: wanted.to_string(),
            advice: advice.to_string(),
            sysctl: None,
            file: None,
        }
    }

    fn must(mut self) -> Self {
        self.level = Level::Must;
        self
    }
}

/// Looks at a machine for a node.
struct Doctor {
    machine: Machine,
    /// The processors of its reactors, if they are chosen.
    pin: BTreeSet<usize>,
    reactors: usize,
    /// Whether the node does not start without io_uring, because its configuration says so.
    needs_io_uring: bool,
    /// Processors that this process may use, and all that run.
    allowed: BTreeSet<usize>,
    online: BTreeSet<usize>,
    checks: Vec<Check>,
}

/// What is not told.
const NOT_HERE: &str = "not here";

impl Doctor {
    fn new(machine: Machine, reactors: usize, pin: BTreeSet<usize>, io: IoSetting) -> Self {
        let online = processors(&machine.read("/sys/devices/system/cpu/online").unwrap_or_default());
        let allowed = match machine.is_real() {
            true => own_processors(),
            false => online.clone(),
        };
        let online = if online.is_empty() { allowed.clone() } else { online };
        let reactors = if reactors > 0 { reactors } else { allowed.len().max(1) };
        let needs_io_uring = io == IoSetting::Uring;
        Self { machine, pin, reactors, needs_io_uring, allowed, online, checks: Vec::new() }
    }

    fn run(mut self) -> Vec<Check> {
        self.look_at_kernel();
        self.look_at_limits();
        self.look_at_network();
        self.look_at_processors();
        self.look_at_memory();
        self.look_at_time();
        self.look_at_control_groups();
        self.look_at_cards();
        self.checks
    }

    fn note(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Notes a check that a setting of the kernel makes well.
    fn note_sysctl(&mut self, key: &str, value: &str, mut check: Check) {
        let was = self.machine.sysctl(key);
        check.sysctl = Some(Sysctl { key: key.to_owned(), value: value.to_owned(), was });
        self.note(check);
    }
}

/// The processors that this process may use.
fn own_processors() -> BTreeSet<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    set.map_or_else(|_| BTreeSet::new(), |set| (0..1_024).filter(|&number| set.is_set(number)).collect())
}

/// Numbers with commas between, or a word where there are none.
fn list(numbers: &BTreeSet<usize>, none: &str) -> String {
    if numbers.is_empty() {
        return none.to_owned();
    }
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let (reactors, pin, io) = match &args.config {
        Some(path) => {
            let (config, _) = Config::load(path)?;
            (
                config.reactors.map_or(0, usize::from),
                config.engine.pin.into_iter().collect(),
                config.engine.io,
            )
        }
        None => (0, BTreeSet::new(), IoSetting::default()),
    };
    let checks = Doctor::new(Machine::at(&args.root), reactors, pin, io).run();
    let wrong = checks.iter().filter(|check| !check.ok).count();
    let said = match args.output.is_json() {
        true => shown_json(&serde_json::json!({ "ok": wrong == 0, "checks": checks }).to_string()),
        false => show(&checks),
    };
    ended(print_line(&said), if wrong == 0 { Status::Done } else { Status::Incomplete })
}

fn show(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let mark = match (check.ok, check.level) {
            (true, _) => "ok",
            (false, Level::Must) => "must",
            (false, Level::Should) => "should",
        };
        lines.push(format!("{mark:6} {:width$}  {}", shown(&check.id), shown(&check.seen)));
        if !check.ok {
            lines.push(format!("{:6} {:width$}  wanted: {}", "", "", check.wanted));
            lines.push(format!("{:6} {:width$}  {}", "", "", check.advice));
        }
    }
    let wrong = checks.iter().filter(|check| !check.ok).count();
    let more = if wrong == 0 { "" } else { "; scripts/tune sets what can be set while the machine runs" };
    lines.push(format!("{} checks, {wrong} not as wanted{more}", checks.len()));
    lines.join("\n")
}
