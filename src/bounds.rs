//! Every bound of a node, and what a node takes when all of them are reached at once.
//!
//! The rooms list their bounds from their own constants and settings; this one puts them together, for
//! people (`amop bounds`, `docs/resources.md`) and for the line at the start of a node.

use std::fmt::Write;

use crate::{admin, config::Config, door, engine, log, relay};

/// One bound: how much of what, who sets it, what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What is bounded.
    pub name: &'static str,
    /// How much.
    pub value: u64,
    /// Of what.
    pub unit: &'static str,
    /// For each of what.
    pub per: &'static str,
    /// The key of config.ini that sets it; `None` if it is fixed.
    pub set_by: Option<&'static str>,
    /// What happens there, and the counter that shows it.
    pub then: &'static str,
    /// Bytes of memory that the whole node takes for it when it is reached everywhere; 0 if they are in
    /// another bound, or there are none.
    pub memory: u64,
}

/// A bound of the code.
pub(crate) fn fixed(
    name: &'static str,
    value: usize,
    unit: &'static str,
    per: &'static str,
    then: &'static str,
) -> Bound {
    Bound { name, value: value as u64, unit, per, set_by: None, then, memory: 0 }
}

impl Bound {
    /// The same, as an operator may set it.
    pub(crate) fn set_by(self, key: &'static str) -> Self {
        Self { set_by: Some(key), ..self }
    }

    /// The same, with the memory that the node takes for it.
    pub(crate) fn memory(self, bytes: usize) -> Self {
        Self { memory: bytes as u64, ..self }
    }
}

/// Name of a room, and its bounds.
pub type Room = (&'static str, Vec<Bound>);

/// All bounds of a node that runs with this configuration, by room.
pub fn all(config: &Config) -> Vec<Room> {
    let reactors = usize::from(config.reactors());
    vec![
        ("door", door::bounds(config.address_handshakes_max)),
        ("engine", engine::bounds::bounds(&config.engine, &config.relay, reactors)),
        ("relay", relay::bounds::bounds(&config.relay, reactors)),
        ("admin", admin::bounds()),
        ("log", log::bounds()),
    ]
}

/// Bytes of memory that a node takes with all bounds reached at once, about; the program itself is small
/// beside it.
pub fn memory(rooms: &[Room]) -> u64 {
    rooms.iter().flat_map(|(_, bounds)| bounds).map(|bound| bound.memory).sum()
}

/// The bounds as tables of Markdown.
pub fn table(rooms: &[Room]) -> String {
    let mut text = String::new();
    for (room, bounds) in rooms {
        let _ = writeln!(
            text,
            "## {room}\n\n| what | bound | for each | set by | at the bound | memory of the node |"
        );
        let _ = writeln!(text, "|---|---|---|---|---|---|");
        for Bound { name, value, unit, per, set_by, then, memory } in bounds {
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
    let _ = writeln!(text, "All at once: {} MiB.", mebibytes(memory(rooms)));
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
