//! Counts the processor's instructions for what a node does again and again, and compares them with the table in
//! `instructions.csv`: unlike times they are the same on a busy machine. `scripts/instructions` runs it.
//!
//! Each scenario runs alone under valgrind, once `OPERATIONS` long and once twice that; the difference is free of what it
//! takes to set up. The keys of some hash tables are drawn anew in each process: that moves figures by up to 2 %. Whoever gains or loses on purpose renews the table with `--write`, and says why in the commit.

use std::{collections::BTreeMap, fmt::Write, hint::black_box, process::Command};

use amop::internal::{
    relay::{ReactorId, snapshot::Snapshot},
    tls::record::{Aead, ContentType, Opened, Opener, Sealer},
    wire::Topic,
};
use rustls::ProtocolVersion;

#[path = "../scenarios/relay.rs"]
mod relay;
use relay::{PAYLOAD_LEN, Relay};

/// By how much a scenario may take more than the table says before that is an error.
const EXCESS_MAX: f64 = 0.05;
/// By how much it may take less before the table is to be renewed.
const GAIN_MAX: f64 = 0.05;
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/instructions.csv");
const SUBSCRIBERS: u64 = 100;
const TOPICS: usize = 10_000;

type Operation = Box<dyn FnMut()>;

struct Scenario {
    name: &'static str,
    /// How many times it is done in the shorter run.
    operations: u64,
    /// What one of them is divided by.
    parts: u64,
    /// Whether cryptography decides, whose code is chosen by what the processor can.
    is_cryptography: bool,
    prepare: fn() -> Operation,
}

const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "round trip through one node",
        operations: 2_000,
        parts: 1,
        is_cryptography: false,
        prepare: || {
            let mut relay = Relay::new(1);
            let (publisher, _) = (relay.app(0), relay.subscriber(0));
            Box::new(move || relay.round_trip(publisher, 0))
        },
    },
    Scenario {
        name: "round trip through one node, one of 16 subscribers",
        operations: 2_000,
        parts: 1,
        is_cryptography: false,
        prepare: || {
            let mut relay = Relay::new(1);
            let publisher = relay.app(0);
            (0..16).for_each(|_| _ = relay.subscriber(0));
            Box::new(move || relay.round_trip(publisher, 0))
        },
    },
    Scenario {
        name: "round trip through two nodes",
        operations: 2_000,
        parts: 1,
        is_cryptography: false,
        prepare: || {
            let mut relay = Relay::new(2);
            let (publisher, _) = (relay.app(0), relay.subscriber(1));
            Box::new(move || relay.round_trip(publisher, 1))
        },
    },
    Scenario {
        name: "round trip over a node in between",
        operations: 1_000,
        parts: 1,
        is_cryptography: true,
        prepare: || {
            let mut relay = Relay::new(3);
            let (publisher, _) = (relay.app(0), relay.subscriber(2));
            Box::new(move || relay.round_trip(publisher, 2))
        },
    },
    Scenario {
        name: "delivery of a multicast to 100",
        operations: 200,
        parts: SUBSCRIBERS,
        is_cryptography: false,
        prepare: || {
            let mut relay = Relay::new(1);
            let publisher = relay.app(0);
            (0..SUBSCRIBERS).for_each(|_| _ = relay.subscriber(0));
            Box::new(move || relay.multicast(publisher, SUBSCRIBERS))
        },
    },
    Scenario {
        name: "multicast to one through two nodes",
        operations: 2_000,
        parts: 1,
        is_cryptography: false,
        prepare: || {
            let mut relay = Relay::new(2);
            let (publisher, _) = (relay.app(0), relay.subscriber(1));
            Box::new(move || relay.multicast(publisher, 1))
        },
    },
    Scenario {
        name: "record of 256 B sealed and opened",
        operations: 2_000,
        parts: 1,
        is_cryptography: true,
        prepare: || {
            let (mut sealer, mut opener) = record_layer();
            let (plaintext, mut record) = (vec![7; PAYLOAD_LEN], Vec::new());
            Box::new(move || {
                record.clear();
                sealer
                    .seal(ContentType::ApplicationData, &[&plaintext], &mut record)
                    .expect("keys that are new");
                let opened = opener.open_in_place(&mut record);
                assert!(matches!(opened, Ok(Opened::Data(data)) if data.len() == PAYLOAD_LEN));
            })
        },
    },
    Scenario {
        name: "topic looked up among 10,000",
        operations: 10_000,
        parts: 1,
        is_cryptography: false,
        prepare: || {
            let names: Vec<Topic> = (0..TOPICS).map(topic).collect();
            let mut table = Snapshot::default();
            names.iter().for_each(|name| table.set_reactor(name, ReactorId(0), 1));
            let mut next = (0..).map(|number: usize| number.wrapping_mul(7_919) % TOPICS);
            Box::new(move || {
                let name = &names[next.next().expect("without end")];
                assert!(black_box(table.topic(name.as_str())).is_some());
            })
        },
    },
    Scenario {
        name: "topic added to and taken from a table of 10,000",
        operations: 2_000,
        parts: 1,
        is_cryptography: false,
        prepare: || {
            let names: Vec<Topic> = (0..2 * TOPICS).map(topic).collect();
            let mut table = Snapshot::default();
            names[TOPICS..].iter().for_each(|name| table.set_reactor(name, ReactorId(0), 1));
            let mut next = (0..TOPICS).cycle();
            Box::new(move || {
                let name = &names[next.next().expect("without end")];
                // What is published is held, so that each change copies its path.
                table.set_reactor(name, ReactorId(0), 1);
                let published = table.clone();
                table.set_reactor(name, ReactorId(0), 0);
                black_box(published);
            })
        },
    },
    Scenario {
        name: "subscription and its end among 10,000 topics, signed",
        operations: 200,
        parts: 1,
        is_cryptography: true,
        prepare: || {
            let names: Vec<Topic> = (0..TOPICS).map(topic).collect();
            let names: Vec<&str> = names.iter().map(Topic::as_str).collect();
            let mut relay = Relay::new(1);
            let (many, one) = (relay.app(0), relay.app(0));
            relay.subscribe(many, &names);
            Box::new(move || {
                relay.subscribe(one, &["orders"]);
                relay.subscribe(one, &[]);
            })
        },
    },
];

fn topic(index: usize) -> Topic {
    Topic::new(&format!("orders/region-{}/{index}", index % 97)).expect("a valid name")
}

fn record_layer() -> (Sealer, Opener) {
    let (version, aead, key, iv) = (ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, [7; 16], [9; 12]);
    let sealer = Sealer::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    let opener = Opener::from_secrets(version, aead, &key, iv, 0).expect("a key of that length");
    (sealer, opener)
}

/// What of the processor decides which code is run, as this process sees it.
fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("aes", is_x86_feature_detected!("aes")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("sha", is_x86_feature_detected!("sha")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features = [(std::env::consts::ARCH, true)];
    let there: Vec<_> = features.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
    there.join(" ")
}

/// This program under valgrind: what it prints, and how many instructions it took.
fn count(arguments: &[&str]) -> (String, u64) {
    let own = std::env::current_exe().expect("a path");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .args(arguments)
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{arguments:?} failed:\n{report}");
    let collected = report.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    (String::from_utf8_lossy(&run.stdout).trim().to_owned(), count.expect("valgrind tells the count"))
}

/// Instructions of one operation, or part of one.
fn measure(scenario: &Scenario) -> f64 {
    let run = |operations: u64| count(&["run", scenario.name, &operations.to_string()]).1;
    let more = run(2 * scenario.operations) - run(scenario.operations);
    more as f64 / (scenario.operations * scenario.parts) as f64
}

/// The processor's features and the figures of the table.
fn read_table() -> (String, BTreeMap<String, f64>) {
    let table = std::fs::read_to_string(TABLE).unwrap_or_default();
    let features = table.lines().find_map(|line| line.strip_prefix("# processor: ")).unwrap_or_default();
    let figures = table.lines().filter_map(|line| {
        let (name, figure) = line.rsplit_once(';')?;
        Some((name.to_owned(), figure.parse().ok()?))
    });
    (features.to_owned(), figures.collect())
}

fn write_table(features: &str, measured: &[(&Scenario, f64)]) {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().expect("it is installed").stdout;
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    let mut table = format!(
        "# Instructions per operation: scripts/instructions --write\n# processor: {features}\n# {}, {}\nscenario;instructions\n",
        version("rustc"),
        version("valgrind")
    );
    for (scenario, figure) in measured {
        let _ = writeln!(table, "{};{figure:.0}", scenario.name);
    }
    std::fs::write(TABLE, table).expect("the table can be written");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["features"] => return println!("{}", features()),
        ["run", name, operations] => {
            let scenario =
                SCENARIOS.iter().find(|scenario| scenario.name == *name).expect("a scenario's name");
            let mut operation = (scenario.prepare)();
            return (0..operations.parse::<u64>().expect("a number")).for_each(|_| operation());
        }
        [] | ["--write"] => {}
        _ => {
            eprintln!("usage: scripts/instructions [--write]");
            std::process::exit(2);
        }
    }
    let (known_features, known) = read_table();
    let (features, _) = count(&["features"]);
    let is_same_processor = features == known_features;
    println!("{:<60} {:>10} {:>10}", "instructions per operation", "table", "now");
    let (mut measured, mut failed) = (Vec::new(), false);
    for scenario in &SCENARIOS {
        let figure = measure(scenario);
        measured.push((scenario, figure));
        let table = known.get(scenario.name);
        let excess = table.map(|table| figure / table - 1.0);
        let verdict = match excess {
            None => "not in the table",
            Some(_) if scenario.is_cryptography && !is_same_processor => "another processor, not compared",
            Some(excess) if excess > EXCESS_MAX => {
                failed = true;
                "MORE than the bound"
            }
            Some(excess) if excess < -GAIN_MAX => "less: renew the table",
            Some(_) => "",
        };
        let (table, excess) = (table.copied().unwrap_or_default(), 100.0 * excess.unwrap_or_default());
        println!("{:<60} {table:>10.0} {figure:>10.0} {excess:>+6.1} %  {verdict}", scenario.name);
    }
    if arguments.is_empty() {
        let is_whole = SCENARIOS.iter().all(|scenario| known.contains_key(scenario.name));
        if failed || !is_whole {
            eprintln!(
                "a scenario takes {:.0} % more than perf/results/instructions.csv says, or is not in it: see what the change costs, \
                 or say in the commit why it is worth it and renew the table by scripts/instructions --write",
                100.0 * EXCESS_MAX
            );
            std::process::exit(1);
        }
    } else {
        write_table(&features, &measured);
    }
}
