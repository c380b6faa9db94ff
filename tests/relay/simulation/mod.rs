//! Whole networks under everything that can befall them, from one seed: each run is a network of its own
//! with applications good and bad, faults of nodes and links, and an oracle that checks every frame.
//!
//! | file | holds |
//! |---|---|
//! | `world` | what happens: applications, and the end in which all must work again |
//! | `faults` | what befalls nodes and links |
//! | `hostile` | a node that alters what it passes on |
//! | `mixed` | a world of its own: networks with nodes of FISCO BCOS 2.x, and what holds across that border |
//! | `graph` | which nodes are linked |
//! | `starts` | when nodes let applications in |
//! | `private` | what applications do with private topics: prove keys, or try to look so |
//! | `oracle` | what must be true of it |
//! | `oracle/starts` | what a node must know since it lets applications in |
//! | `oracle/proofs` | who has proved which key to whom, and may therefore get what |
//! | `crossings` | what may go over the links between nodes |
//! | `nonces` | no key and nonce seal two payloads |
//!
//! There are networks of up to 4 nodes that are all linked, of 3 to 12 nodes with few links, and of up to 200.
//! `cargo test` runs a fixed set of seeds; `scripts/simulate` any number. A failure names its kind of network and its
//! seed; `AMOP_WORLD=sparse AMOP_SEED=n cargo test --test relay simulation -- --nocapture` runs that one and writes its
//! trace.

mod crossings;
mod faults;
mod graph;
mod hostile;
mod mixed;
pub mod nonces;
mod oracle;
mod private;
mod starts;
mod world;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use world::{Kind, Report, World};

/// Seeds of every test run, by kind of network.
const SEEDS: u64 = 120;
const SPARSE_SEEDS: u64 = 24;
const WIDE_SEEDS: u64 = 3;
/// `scripts/simulate` makes a wide network of one seed in so many.
const SEEDS_PER_WIDE: u64 = 50;
/// Lines of a failure's trace that are printed.
const LINES_SHOWN: usize = 60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The kinds of networks that are asked for.
fn kinds() -> Vec<Kind> {
    let Ok(wanted) = std::env::var("AMOP_WORLD") else { return Kind::ALL.to_vec() };
    let is_wanted =
        |kind: &Kind| wanted.split(',').any(|name| format!("{kind:?}").eq_ignore_ascii_case(name));
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(is_wanted).collect();
    assert!(!kinds.is_empty(), "AMOP_WORLD is a list of {:?}", Kind::ALL);
    kinds
}

/// Runs a seed; the error holds the end of its trace.
fn run(kind: Kind, seed: u64) -> Result<Report, String> {
    let caught = |traced: bool| {
        let mut world = World::new(kind, seed, traced);
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
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{kind:?}-{seed}.trace"));
        let written = std::fs::write(&path, trace);
        let end = excerpt(trace, &error);
        let place = written.map_or_else(|error| error.to_string(), |()| path.display().to_string());
        let differs = match again {
            Err(again) if again == error => "",
            _ => " (the traced run went another way: something does not follow from the seed)",
        };
        format!("AMOP_WORLD={kind:?} AMOP_SEED={seed}: {error}{differs}\n{end}\nthe whole trace: {place}")
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

/// Runs networks on all processors.
fn run_many(networks: &[(Kind, u64)], progress: bool) -> (Report, Vec<String>) {
    let count = networks.len();
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let total = Mutex::new((Report::default(), Vec::new(), 0u64));
    let begun = Instant::now();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // What a mutant is caught by is known with the first.
    let stops_at_failure = std::env::var_os("AMOP_STOP_AT_FAILURE").is_some();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let Some(&(kind, seed)) = networks.get(next.fetch_add(1, Relaxed)) else { return };
                        let ran = run(kind, seed);
                        let mut total = total.lock().expect("no holder panics");
                        total.2 += 1;
                        match ran {
                            Ok(report) => add(&mut total.0, report),
                            Err(text) => {
                                if progress {
                                    eprintln!("{}", text.lines().next().unwrap_or_default());
                                }
                                total.1.push(text);
                                if stops_at_failure {
                                    next.store(count, Relaxed);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let teller = progress.then(|| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    thread::park_timeout(Duration::from_secs(5));
                    let total = total.lock().expect("no holder panics");
                    let hours = total.0.virtual_time.as_secs_f64() / 3600.0;
                    eprintln!(
                        "{:5.0} s: {} of {count} networks, {hours:.1} network-hours, {} failed",
                        begun.elapsed().as_secs_f64(),
                        total.2,
                        total.1.len(),
                    );
                }
            })
        });
        for worker in workers {
            worker.join().expect("what panics in a run is caught");
        }
        done.store(true, Relaxed);
        if let Some(teller) = teller {
            teller.thread().unpark();
        }
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
    total.crossings.add(one.crossings);
    total.in_spite += one.in_spite;
    total.between_dialects += one.between_dialects;
    for (code, count) in one.codes {
        *total.codes.entry(code).or_default() += count;
    }
}

fn tell(report: &Report, networks: usize) {
    let Report { messages, pushes, faults, codes, in_spite, between_dialects, .. } = report;
    let hours = report.virtual_time.as_secs_f64() / 3600.0;
    println!(
        "{networks} networks, {hours:.1} network-hours, {faults} faults, {messages} messages, {pushes} pushes, {between_dialects} between dialects, {in_spite} answered in spite of a fault; answers by code {codes:?}; {:?}; {:?}",
        report.private, report.crossings
    );
}

/// Runs these seeds, or the one that is asked for.
fn run_fixed(kind: Kind, seeds: std::ops::Range<u64>) -> Option<Report> {
    let seeds = match number("AMOP_SEED") {
        Some(seed) if kinds().contains(&kind) => seed..seed + 1,
        Some(_) => return None,
        None => seeds,
    };
    let networks: Vec<(Kind, u64)> = seeds.map(|seed| (kind, seed)).collect();
    let (report, failures) = run_many(&networks, false);
    tell(&report, networks.len());
    assert!(
        failures.is_empty(),
        "{} of {} fail, the first:\n{}",
        failures.len(),
        networks.len(),
        failures[0]
    );
    (networks.len() > 1).then_some(report)
}

#[test]
fn every_request_is_answered_once_and_truly_whatever_befalls_the_network() {
    let Some(report) = run_fixed(Kind::Mesh, 0..SEEDS) else { return };
    // The runs are worth something only if everything happens in them.
    for code in [0, 99, 100, 101, 102, 103] {
        assert!(report.codes.contains_key(&code), "no seed leads to code {code}: {:?}", report.codes);
    }
    assert!(report.between_dialects >= 10 * SEEDS, "{} pushes between dialects", report.between_dialects);
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
fn messages_arrive_over_many_hops_as_long_as_a_way_leads_to_where_they_go() {
    let Some(report) = run_fixed(Kind::Sparse, 0..SPARSE_SEEDS) else { return };
    for code in [0, 99, 100, 101, 102, 103] {
        assert!(report.codes.contains_key(&code), "no seed leads to code {code}: {:?}", report.codes);
    }
    let crossings = report.crossings;
    for (what, count, expected) in [
        ("relayed frame", crossings.relayed, 1_000 * SPARSE_SEEDS),
        ("frame sent again", crossings.sent_again, 10 * SPARSE_SEEDS),
        ("answer in spite of a fault", report.in_spite, 10 * SPARSE_SEEDS),
        ("push between dialects", report.between_dialects, 10 * SPARSE_SEEDS),
        ("private message", report.private.delivered, SPARSE_SEEDS / 2),
    ] {
        assert!(count >= expected, "hardly any {what} in {SPARSE_SEEDS} seeds: {count}");
    }
    assert!(crossings.links_max >= 8, "{crossings:?}");
}

#[test]
fn messages_arrive_in_networks_of_many_nodes() {
    let Some(report) = run_fixed(Kind::Wide, 0..WIDE_SEEDS) else { return };
    assert!(report.crossings.relayed >= 100 * WIDE_SEEDS, "{report:?}");
}

#[test]
fn a_seed_decides_everything_that_happens() {
    for (kind, seed) in (0..4).map(|seed| (Kind::Mesh, seed)).chain((0..2).map(|seed| (Kind::Sparse, seed))) {
        let traces: Vec<String> = (0..2)
            .map(|_| {
                let mut world = World::new(kind, seed, true);
                let _ = world.run();
                world.trace().to_owned()
            })
            .collect();
        let differing = traces[0].lines().zip(traces[1].lines()).find(|(one, other)| one != other);
        assert_eq!(differing, None, "{kind:?}, seed {seed}");
        assert_eq!(traces[0].len(), traces[1].len(), "{kind:?}, seed {seed}");
    }
}

/// For `scripts/simulate`: `AMOP_SEEDS` seeds from `AMOP_FIRST_SEED` on, each of them in networks of all kinds, or of
/// `AMOP_WORLD`; one seed in `SEEDS_PER_WIDE` also makes a wide one.
#[test]
#[ignore = "runs as long as it is told to"]
fn any_number_of_seeds() {
    let first = number("AMOP_FIRST_SEED").unwrap_or(0);
    let count = number("AMOP_SEEDS").unwrap_or(10_000);
    let kinds = kinds();
    let is_due =
        |kind: Kind, seed: u64| kind != Kind::Wide || kinds.len() == 1 || seed.is_multiple_of(SEEDS_PER_WIDE);
    let networks: Vec<(Kind, u64)> = (first..first + count)
        .flat_map(|seed| kinds.iter().map(move |&kind| (kind, seed)))
        .filter(|&(kind, seed)| is_due(kind, seed))
        .collect();
    let (report, failures) = run_many(&networks, true);
    tell(&report, networks.len());
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
        "{} of {} networks fail: {kinds:#?}\n{}",
        failures.len(),
        networks.len(),
        shown.join("\n\n")
    );
}
