//! One line of the log, as logfmt for people, as JSON, or as fields for the journal of systemd.
//!
//! ```text
//!   time=2026-11-28T22:43:21.123456Z level=INFO msg="session up" session=3 subject="CN=shop, O=agency"
//!   {"timestamp":"2026-11-28T22:43:21.123456Z","level":"INFO","fields":{"message":"session up","session":3},"target":"…"}
//! ```
//!
//! # Invariants
//! - Whatever a value holds, it ends no line, moves no cursor, changes no direction of text, and reads as one value.
//!   All text passes [`Line::text`], and that alone sees to it.

use std::fmt::{self, Display, Write};

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tracing::{
    Level,
    field::{Field, Visit},
};

use crate::escape::{quoted, shown};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `key=value`, for people and programs.
    Logfmt {
        /// Whether levels have colours.
        colours: bool,
    },
    /// One JSON object a line.
    Json,
    /// Fields of the journal: the message as people read it, and each value by its name.
    Journal,
}

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// A line in the making.
pub(super) struct Line<'a> {
    form: Form,
    target: &'a str,
    /// All before the message.
    head: String,
    message: String,
    /// All after it.
    fields: String,
    /// For the journal: each value once more.
    named: String,
}

impl<'a> Line<'a> {
    pub(super) fn new(form: Form, level: Level, target: &'a str) -> Self {
        let time = OffsetDateTime::now_utc().format(TIME).unwrap_or_default();
        let head = match form {
            Form::Json => format!("{{\"timestamp\":\"{time}\",\"level\":\"{level}\",\"fields\":{{"),
            Form::Journal => {
                let priority = match level {
                    Level::ERROR => 3,
                    Level::WARN => 4,
                    Level::INFO => 6,
                    _ => 7,
                };
                format!(
                    "PRIORITY={priority}\nSYSLOG_IDENTIFIER=amop\nAMOP_TARGET={}\nMESSAGE=",
                    shown(target)
                )
            }
            Form::Logfmt { colours: false } => format!("time={time} level={level}"),
            Form::Logfmt { colours: true } => {
                let colour = match level {
                    Level::ERROR => 31,
                    Level::WARN => 33,
                    Level::INFO => 32,
                    _ => 34,
                };
                format!("time={time} level=\x1b[{colour}m{level}\x1b[0m")
            }
        };
        Self { form, target, head, message: String::new(), fields: String::new(), named: String::new() }
    }

    /// Adds text, whoever wrote it.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        if self.form == Form::Journal {
            // One line, so that it cannot become a field of its own.
            self.name(key, &shown(value));
        }
        let value = match self.form {
            Form::Journal if key == "message" => shown(value),
            Form::Logfmt { .. } | Form::Journal if is_bare(value) => value.to_owned(),
            _ => quoted(value),
        };
        self.put(key, &value);
    }

    fn name(&mut self, key: &str, value: &str) {
        if key != "message" {
            // Nothing fails to be written into memory.
            let _ = writeln!(self.named, "AMOP_{}={value}", key.to_ascii_uppercase().replace('.', "_"));
        }
    }

    /// Adds what looks the same in both forms: numbers, `true` and `false`.
    pub(super) fn number(&mut self, key: &str, value: impl Display) {
        let value = value.to_string();
        if self.form == Form::Journal {
            self.name(key, &value);
        }
        self.put(key, &value);
    }

    fn put(&mut self, key: &str, value: &str) {
        let is_message = key == "message";
        let part = if is_message { &mut self.message } else { &mut self.fields };
        // Nothing fails to be written into memory.
        let _ = match self.form {
            Form::Json => write!(part, ",\"{key}\":{value}"),
            Form::Logfmt { .. } if is_message => write!(part, " msg={value}"),
            Form::Journal if is_message => write!(part, "{value}"),
            Form::Logfmt { .. } | Form::Journal => write!(part, " {key}={value}"),
        };
    }

    /// The line with its end.
    pub(super) fn finish(self) -> Vec<u8> {
        let Self { form, target, head, message, fields, named } = self;
        match form {
            Form::Journal => format!("{head}{message}{fields}\n{named}"),
            Form::Logfmt { .. } => format!("{head}{message}{fields}\n"),
            Form::Json => {
                let all = message + &fields;
                let all = all.strip_prefix(',').unwrap_or_default();
                format!("{head}{all}}},\"target\":{}}}\n", quoted(target))
            }
        }
        .into_bytes()
    }
}

/// Whether a value of logfmt needs no quotes.
fn is_bare(value: &str) -> bool {
    let is_plain = |character: char| {
        !matches!(character, '"' | '=' | '\\')
            && !character.is_whitespace()
            && (character.is_ascii_graphic()
                || (!character.is_ascii() && character.escape_debug().len() == 1))
    };
    !value.is_empty() && value.chars().all(is_plain)
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field.name(), value);
        } else {
            self.text(field.name(), &value.to_string());
        }
    }

    /// Also what is shown by `Display`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }
}
