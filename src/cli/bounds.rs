//! `amop bounds`: what bounds a node, for operators.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{
    Failure,
    help::examples,
    output::{OutputArgs, print_line},
};
use crate::{
    bounds::{self, Bound, ModuleBounds, grouped, mebibytes},
    config::{Config, MemoryMax},
};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Where text begins behind the memory.
const INDENT: usize = 15;
/// Parts that take less are summed up.
const WORTH_A_LINE: u64 = 1 << 20;

#[derive(Args)]
#[command(after_help = examples(
    &[
        ("amop bounds -c config.ini", "what takes how much memory, the most first"),
        ("amop bounds -c config.ini --all", "every bound, and what happens there"),
        ("amop bounds -c config.ini -o json", "the same for programs"),
    ],
    &["All bounds together are within [engine] memory_max. What the file does not set follows from it."],
))]
pub(super) struct BoundsArgs {
    /// The node's config.ini.
    #[arg(short, long, default_value = "config.ini")]
    config: PathBuf,
    /// Also bounds that take no memory, and what happens at each.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &BoundsArgs) -> Result<ExitCode, Failure> {
    let (config, _) = Config::load(&args.config)?;
    let modules = config.bounds();
    let said = match args.output.is_json() {
        true => json(&config.memory_max, &modules),
        false => text(&config.memory_max, modules, args.all),
    };
    print_line(said.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn json(max: &MemoryMax, modules: &[ModuleBounds]) -> String {
    let bounds = modules.iter().flat_map(|(module, bounds)| bounds.iter().map(move |bound| (module, bound)));
    let bounds: Vec<_> = bounds
        .map(|(module, bound)| {
            json!({
                "module": module, "name": bound.name, "value": bound.value, "unit": bound.unit, "per": bound.per,
                "set_by": bound.set_by, "then": bound.then, "memory_bytes": bound.memory,
                "metric": bound.metric.map(|metric| metric.name),
            })
        })
        .collect();
    let sum = bounds::memory(modules);
    json!({
        "memory_max_bytes": max.bytes, "memory_max_is_set": max.is_set, "memory_bytes": sum,
        "left_bytes": max.bytes.saturating_sub(sum), "bounds": bounds,
    })
    .to_string()
}

/// The parts with most memory first.
fn text(max: &MemoryMax, mut modules: Vec<ModuleBounds>, all: bool) -> String {
    let sum = bounds::memory(&modules);
    let whose =
        if max.is_set { "as [engine] memory_max says" } else { "by default; [engine] memory_max sets it" };
    let mut text = String::new();
    for (bytes, what) in [
        (max.bytes, format!("memory_max, {whose}")),
        (sum, "all bounds reached at once, of which".to_owned()),
    ] {
        entry(&mut text, Some(bytes), &what);
    }
    let memory = |bounds: &[Bound]| bounds.iter().map(|bound| bound.memory).sum::<u64>();
    modules.sort_by_key(|(_, bounds)| std::cmp::Reverse(memory(bounds)));
    for (module, bounds) in &mut modules {
        bounds.sort_by_key(|bound| std::cmp::Reverse(bound.memory));
        text.push('\n');
        entry(&mut text, Some(memory(bounds)), &module.to_uppercase());
        let (shown, others) =
            bounds.split_at(bounds.partition_point(|bound| all || bound.memory >= WORTH_A_LINE));
        for bound in shown {
            entry(&mut text, Some(bound.memory).filter(|&bytes| bytes > 0), &describe(bound, all));
        }
        let rest = others.iter().filter(|bound| bound.memory > 0).count();
        if rest > 0 {
            entry(&mut text, Some(memory(others)), &format!("{rest} smaller ones"));
        }
    }
    text.push('\n');
    entry(&mut text, Some(max.bytes.saturating_sub(sum)), "left of memory_max");
    if !all {
        text.push_str("\n--all shows every bound, and what happens there.\n");
    }
    text
}

fn describe(bound: &Bound, all: bool) -> String {
    let Bound { name, value, unit, per, set_by, then, .. } = bound;
    let key = set_by.map_or_else(String::new, |key| format!(" ({key})"));
    let then = if all { format!("; then: {then}") } else { String::new() };
    format!("{name}: {} {unit} for each {per}{key}{then}", grouped(*value))
}

/// A line with its memory, or several, none wider than a terminal unless a word is.
fn entry(text: &mut String, memory: Option<u64>, what: &str) {
    let mut line = match memory {
        Some(bytes) => format!("{:>9} MiB", mebibytes(bytes)),
        None => String::new(),
    };
    line = format!("{line:<INDENT$}");
    let mut is_first = true;
    for word in what.split(' ') {
        if !is_first && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(INDENT + 2);
            is_first = true;
        }
        if !is_first {
            line.push(' ');
        }
        line.push_str(word);
        is_first = false;
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max() -> MemoryMax {
        MemoryMax { bytes: 1 << 40, is_set: false, shortages: Vec::new() }
    }

    #[test]
    fn each_line_fits_a_terminal_and_numbers_end_below_each_other() {
        for all in [false, true] {
            let text = text(&max(), bounds::of_defaults(), all);
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                if let Some((memory, _)) = line.split_once(" MiB ") {
                    assert_eq!(memory.len(), 9, "{line}");
                }
            }
            assert_eq!(text.contains("; then: "), all);
        }
    }

    #[test]
    fn groups_and_parts_come_by_size_and_add_up() {
        let text = text(&max(), bounds::of_defaults(), true);
        let mib = |line: &str| line.get(..9)?.trim().replace(',', "").parse::<u64>().ok();
        let groups: Vec<&str> = text.split("\n\n").collect();
        let (head, last) = (groups[0], groups[groups.len() - 1]);
        assert!(head.contains("memory_max, by default") && last.contains("left of memory_max"), "{text}");
        let groups = &groups[1..groups.len() - 1];
        let totals: Vec<u64> =
            groups.iter().map(|group| group.lines().next().and_then(mib).expect("a total")).collect();
        assert_eq!(groups.len(), bounds::of_defaults().len());
        assert!(totals.is_sorted_by(|one, next| one >= next), "{totals:?}");
        let sum = head.lines().nth(1).and_then(mib).expect("a sum");
        // Each is rounded up.
        assert!(totals.iter().sum::<u64>().abs_diff(sum) <= groups.len() as u64, "{totals:?} {sum}");
        for group in groups {
            let parts: Vec<u64> =
                group.lines().skip(1).filter(|line| line.contains(" MiB ")).filter_map(mib).collect();
            assert!(parts.is_sorted_by(|one, next| one >= next), "{group}");
        }
    }

    #[test]
    fn json_has_every_bound_and_the_sum_of_their_memory() {
        let modules = bounds::of_defaults();
        let value: serde_json::Value = serde_json::from_str(&json(&max(), &modules)).unwrap();
        let bounds = value["bounds"].as_array().unwrap();
        assert_eq!(bounds.len(), modules.iter().map(|(_, bounds)| bounds.len()).sum::<usize>());
        let sum: u64 = bounds.iter().map(|bound| bound["memory_bytes"].as_u64().unwrap()).sum();
        assert_eq!(value["memory_bytes"].as_u64(), Some(sum));
        assert_eq!(value["left_bytes"].as_u64(), Some((1 << 40) - sum));
    }
}
