//! The fuzz targets over their corpora and seeds, and over some thousands of mutations of them: a short
//! pass without nightly. `scripts/fuzz` is the long one.

use std::{fs, io::ErrorKind, path::Path};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

#[path = "../../fuzz/src/targets/mod.rs"]
#[allow(unreachable_pub)] // a module of this test program, and of the fuzz crate
mod targets;

/// Inputs of a target: its seeds, and what a campaign found worth keeping.
fn inputs(name: &str, seeds: fn() -> Vec<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = match fs::read_dir(&directory) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        // One that has had no campaign yet has its seeds.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", directory.display()),
    };
    files.sort();
    let seeds = seeds().into_iter().enumerate().map(|(number, seed)| (format!("seed {number}"), seed));
    seeds.chain(files.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap()))).collect()
}

fn mutate(random: &mut SmallRng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.insert(at, random.random()),
            3 => bytes.truncate(at),
            _ => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
        }
    }
    bytes
}

fn pass(name: &str, mutations: usize) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("a target");
    let inputs = inputs(name, target.seeds);
    for (from, input) in &inputs {
        // Shown when the target panics.
        println!("{from}");
        (target.run)(input);
    }
    let mut random = SmallRng::seed_from_u64(3);
    for number in 0..mutations {
        let input = &inputs[random.random_range(0..inputs.len())].1;
        let other = &inputs[random.random_range(0..inputs.len())].1;
        let input = mutate(&mut random, input, other);
        println!("mutation {number}: {input:02x?}");
        (target.run)(&input);
    }
}

#[test]
fn certificates_of_the_corpus_are_judged_without_a_panic() {
    pass("certificate", 300);
}

#[test]
fn configurations_of_the_corpus_are_read_or_refused_with_reasons() {
    pass("config", 3_000);
}

#[test]
fn ledger_nodes_and_applications_of_the_corpus_get_one_answer_each() {
    pass("ledger", 1_500);
}

#[test]
fn frames_of_nodes_of_fisco_bcos_2x_of_the_corpus_survive_decoding_and_encoding() {
    pass("p2p_2x", 3_000);
}

#[test]
fn records_of_the_corpus_open_to_what_was_sealed_and_to_nothing_else() {
    pass("record", 3_000);
}

#[test]
fn hostile_nodes_on_the_way_of_the_corpus_change_nothing_but_what_is_theirs() {
    pass("relay", 100);
}

#[test]
fn sessions_of_the_corpus_get_what_the_invariants_promise() {
    pass("shard", 150);
}

#[test]
fn frames_of_the_corpus_survive_decoding_and_encoding() {
    pass("wire", 20_000);
}

#[test]
fn web_sockets_of_the_corpus_bring_the_same_however_they_are_cut() {
    pass("ws_frames", 10_000);
}

#[test]
fn messages_of_3x_of_the_corpus_become_frames_that_say_the_same() {
    pass("ws_message", 10_000);
}

#[test]
fn requests_for_web_sockets_of_the_corpus_are_granted_or_refused_in_words() {
    pass("ws_upgrade", 10_000);
}
