//! Whole networks under everything that can befall them, from one seed: each run is a network of its own
//! with applications good and bad, faults of nodes and links, and an oracle that checks every frame.
//!
//! | file | holds |
//! |---|---|
//! | `world` | what happens: applications, faults, the end in which all must work again |
//! | `private` | what applications do with private topics: prove keys, or try to look so |
//! | `oracle` | what must be true of it |
//! | `oracle/proofs` | who has proved which key to whom, and may therefore get what |
//!
//! `cargo test` runs a fixed set of seeds; `scripts/simulate` any number. A failure names its seed;
//! `AMOP_SEED=n cargo test --test relay simulation -- --nocapture` runs that one and writes its trace.

mod oracle;
mod private;
mod world;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use world::{Report, World};

/// Seeds of every test run.
const SEEDS: u64 = 120;
/// Lines of a failure's trace that are printed.
const LINES_SHOWN: usize = 60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs a seed; the error holds the end of its trace.
fn run(seed: u64) -> Result<Report, String> {
    let caught = |traced: bool| {
        let mut world = World::new(seed, traced);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        let ran = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(format!("the relay panicked: {text}"))
        });
        (ran, world)
    };
    caught(false).0.map_err(|error| {
        let (again, world) = caught(true);
        let trace = world.trace();
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{seed}.trace"));
        let written = std::fs::write(&path, trace);
        let end = excerpt(trace, &error);
        let place = written.map_or_else(|error| error.to_string(), |()| path.display().to_string());
        let differs = match again {
            Err(again) if again == error => "",
            _ => " (the traced run went another way: something does not follow from the seed)",
        };
        format!("seed {seed}: {error}{differs}\n{end}\nthe whole trace: {place}")
    })
}

/// What of a trace says most about an error: the story of the message and the applications that it names,
/// and what befell the network.
fn excerpt(trace: &str, error: &str) -> String {
    let words: Vec<&str> = error.split([' ', ',', ';', ':']).collect();
    let message =
        words.windows(2).find(|pair| pair[0] == "message").map(|pair| format!(" message {}", pair[1]));
    let apps: Vec<String> = words
        .iter()
        .filter(|word| word.starts_with("app"))
        .flat_map(|app| {
            [format!("{app} connects"), format!("{app} ("), format!("{app} is"), format!("{app} leaves")]
        })
        .collect();
    let topics = words.iter().filter(|word| word.starts_with("app")).map(|app| format!("{app} -> "));
    let topics: Vec<String> = topics.collect();
    let tells = |line: &&str| {
        line.contains("FAULT")
            || line.contains(" dials ")
            || line.contains("link to")
            || ["goes on", "starts, its clock", "can connect", "the faults stop"]
                .iter()
                .any(|what| line.contains(what))
            || message.as_ref().is_some_and(|message| {
                line.ends_with(message.as_str()) || line.contains(&format!("{message} "))
            })
            || apps.iter().any(|app| line.contains(app.as_str()))
            || topics.iter().any(|app| line.contains(app.as_str()) && line.contains("0x32"))
    };
    let lines: Vec<&str> = match message {
        Some(_) => trace.lines().filter(tells).collect(),
        None => trace.lines().collect(),
    };
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

/// Runs `count` seeds from `first` on all processors.
fn run_many(first: u64, count: u64, progress: bool) -> (Report, Vec<String>) {
    let (next, done) = (AtomicU64::new(first), AtomicBool::new(false));
    let total = Mutex::new((Report::default(), Vec::new(), 0u64));
    let begun = Instant::now();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Relaxed);
                        if seed >= first + count {
                            return;
                        }
                        let ran = run(seed);
                        let mut total = total.lock().expect("no holder panics");
                        total.2 += 1;
                        match ran {
                            Ok(report) => add(&mut total.0, report),
                            Err(text) => {
                                if progress {
                                    eprintln!("{}", text.lines().next().unwrap_or_default());
                                }
                                total.1.push(text);
                            }
                        }
                    }
                })
            })
            .collect();
        if progress {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    thread::park_timeout(Duration::from_secs(5));
                    let total = total.lock().expect("no holder panics");
                    let hours = total.0.virtual_time.as_secs_f64() / 3600.0;
                    eprintln!(
                        "{:5.0} s: {} of {count} seeds, {hours:.1} network-hours, {} failed",
                        begun.elapsed().as_secs_f64(),
                        total.2,
                        total.1.len(),
                    );
                }
            });
        }
        for worker in workers {
            worker.join().expect("what panics in a run is caught");
        }
        done.store(true, Relaxed);
    });
    let (report, failures, _) = total.into_inner().expect("no holder panics");
    (report, failures)
}

fn add(total: &mut Report, one: Report) {
    total.virtual_time += one.virtual_time;
    total.messages += one.messages;
    total.pushes += one.pushes;
    total.faults += one.faults;
    total.private.add(one.private);
    for (code, count) in one.codes {
        *total.codes.entry(code).or_default() += count;
    }
}

fn tell(report: &Report, seeds: u64) {
    let Report { messages, pushes, faults, codes, .. } = report;
    let hours = report.virtual_time.as_secs_f64() / 3600.0;
    println!(
        "{seeds} seeds, {hours:.1} network-hours, {faults} faults, {messages} messages, {pushes} pushes; answers by code {codes:?}; {:?}",
        report.private
    );
}

#[test]
fn every_request_is_answered_once_and_truly_whatever_befalls_the_network() {
    if let Some(seed) = number("AMOP_SEED") {
        return match run(seed) {
            Ok(report) => tell(&report, 1),
            Err(text) => panic!("{text}"),
        };
    }
    let (report, failures) = run_many(0, SEEDS, false);
    tell(&report, SEEDS);
    assert!(failures.is_empty(), "{} of {SEEDS} seeds fail, the first:\n{}", failures.len(), failures[0]);
    // The runs are worth something only if everything happens in them.
    for code in [0, 99, 100, 101, 102, 103] {
        assert!(report.codes.contains_key(&code), "no seed leads to code {code}: {:?}", report.codes);
    }
    let private = report.private;
    for (what, count) in [
        ("challenge", private.carried),
        ("acceptance", private.accepted),
        ("refusal", private.refused),
        ("forged verdict", private.forged),
        ("private message", private.delivered),
        ("pair that must be accepted", private.authorised),
    ] {
        assert!(count >= SEEDS / 2, "hardly any {what} in {SEEDS} seeds: {private:?}");
    }
}

#[test]
fn a_seed_decides_everything_that_happens() {
    for seed in 0..6 {
        let traces: Vec<String> = (0..2)
            .map(|_| {
                let mut world = World::new(seed, true);
                let _ = world.run();
                world.trace().to_owned()
            })
            .collect();
        let differing = traces[0].lines().zip(traces[1].lines()).find(|(one, other)| one != other);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!(traces[0].len(), traces[1].len(), "seed {seed}");
    }
}

/// For `scripts/simulate`: `AMOP_SEEDS` seeds from `AMOP_FIRST_SEED` on.
#[test]
#[ignore = "runs as long as it is told to"]
fn any_number_of_seeds() {
    let first = number("AMOP_FIRST_SEED").unwrap_or(0);
    let count = number("AMOP_SEEDS").unwrap_or(10_000);
    let (report, failures) = run_many(first, count, true);
    tell(&report, count);
    let shown: Vec<&str> = failures.iter().take(3).map(String::as_str).collect();
    let kinds = failures.iter().fold(BTreeMap::<String, u64>::new(), |mut kinds, failure| {
        let line = failure.lines().next().unwrap_or_default();
        let kind = line.rsplit(": ").next().unwrap_or_default();
        let kind: String = kind.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        *kinds.entry(kind).or_default() += 1;
        kinds
    });
    assert!(
        failures.is_empty(),
        "{} of {count} seeds fail: {kinds:#?}\n{}",
        failures.len(),
        shown.join("\n\n")
    );
}
