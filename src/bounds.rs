//! Every bound of a node, and what a node takes when all of them are reached at once.
//!
//! The modules list their bounds from their own constants and settings; this one puts them together, for
//! people (`amop bounds`, `docs/resources.md`) and for the line at the start of a node.

use std::fmt::Write;

pub use crate::bound::Bound;
use crate::bound::fixed;
use crate::{
    admin, door,
    engine::{self, EngineSettings},
    log,
    relay::{self, settings::Settings},
};

/// What an idle node takes that is in no table: its program, certificates, runtimes (`scripts/memory` measures it).
const PROGRAM_BYTES: usize = 24 << 20;
/// What an idle reactor takes: its ring, stack and what its allocator keeps.
const REACTOR_BYTES: usize = 2 << 20;

/// Name of a module, and its bounds.
pub type ModuleBounds = (&'static str, Vec<Bound>);

/// All bounds of a node that runs with these settings, by module.
pub fn of(
    engine: &EngineSettings,
    relay: &Settings,
    reactors: usize,
    address_handshakes_max: usize,
    log_files_max: usize,
) -> Vec<ModuleBounds> {
    vec![
        ("door", door::bounds(address_handshakes_max, relay)),
        ("engine", engine::bounds::bounds(engine, relay, reactors)),
        ("relay", relay::bounds::bounds(relay, reactors)),
        ("admin", admin::bounds()),
        ("log", log::bounds(log_files_max)),
        ("program", program(reactors)),
    ]
}

/// All bounds of a node whose settings are the defaults, for what does not depend on how much they are.
pub fn of_defaults() -> Vec<ModuleBounds> {
    of(&EngineSettings::default(), &Settings::default(), 1, door::HANDSHAKES_PER_ADDRESS_MAX, 0)
}

/// What the process takes before anything is in its tables.
fn program(reactors: usize) -> Vec<Bound> {
    vec![
        fixed("the program and its libraries", 1, "program", "node", "by design").memory(PROGRAM_BYTES),
        fixed("reactors", reactors, "threads", "node", "by design")
            .set_by("[engine] reactors")
            .memory(reactors * REACTOR_BYTES),
    ]
}

/// Bytes of memory that a node takes with all bounds reached at once, about; the program itself is small
/// beside it.
pub fn memory(modules: &[ModuleBounds]) -> u64 {
    modules.iter().flat_map(|(_, bounds)| bounds).map(|bound| bound.memory).sum()
}

/// The bounds as tables of Markdown.
pub fn table(modules: &[ModuleBounds]) -> String {
    let mut text = String::new();
    for (module, bounds) in modules {
        let _ = writeln!(
            text,
            "## {module}\n\n| what | bound | for each | set by | at the bound | memory of the node |"
        );
        let _ = writeln!(text, "|---|---|---|---|---|---|");
        for Bound { name, value, unit, per, set_by, then, memory, .. } in bounds {
            let set_by = set_by.map_or_else(|| "fixed".to_owned(), |key| format!("`{key}`"));
            let memory = match memory {
                0 => String::new(),
                bytes => format!("{} MiB", mebibytes(*bytes)),
            };
            let value = grouped(*value);
            let _ = writeln!(text, "| {name} | {value} {unit} | {per} | {set_by} | {then} | {memory} |");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "All at once: {} MiB.", mebibytes(memory(modules)));
    text
}

/// Rounded up, so that nothing seems free.
pub fn mebibytes(bytes: u64) -> String {
    grouped(bytes.div_ceil(1 << 20))
}

/// With a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
