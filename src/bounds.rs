//! Every bound of a node, and what a node takes when all of them are reached at once.
//!
//! The modules list their bounds from their own constants and settings; this one puts them together, for
//! people (`amop bounds`, `docs/resources.md`) and for the line at the start of a node.

use std::fmt::Write;

pub use crate::bound::Bound;
use crate::{admin, config::Config, door, engine, log, relay};

/// Name of a module, and its bounds.
pub type ModuleBounds = (&'static str, Vec<Bound>);

/// All bounds of a node that runs with this configuration, by module.
pub fn all(config: &Config) -> Vec<ModuleBounds> {
    let reactors = usize::from(config.reactors());
    vec![
        ("door", door::bounds(config.address_handshakes_max)),
        ("engine", engine::bounds::bounds(&config.engine, &config.relay, reactors)),
        ("relay", relay::bounds::bounds(&config.relay, reactors)),
        ("admin", admin::bounds()),
        ("log", log::bounds(config.log.files_max)),
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
fn mebibytes(bytes: u64) -> String {
    grouped(bytes.div_ceil(1 << 20))
}

fn grouped(number: u64) -> String {
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
