//! What commands print: whole lines, each at once, and what becomes of a command whose output cannot be written.
//!
//! # Invariants
//! - What does not reach standard output is an error with a word on standard error and a status other than 0. Only
//!   where the reader went away by itself, as `head` does, the command ends without a word.
//! - Nothing here panics, whatever becomes of standard output and standard error.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use super::{Failure, status::Status};
use crate::{escape, log};

/// Form of what a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For programs: docs/json.md has every field.
    Json,
}

#[derive(Args, Clone, Copy)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Form of what is printed; docs/json.md has every field.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "text")]
    output: Form,
    /// How several commands were told so before.
    #[arg(long, hide = true)]
    json: bool,
}

impl OutputArgs {
    pub(super) fn is_json(self) -> bool {
        self.json || self.output == Form::Json
    }
}

/// Standard output took no more.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written, so that what should be there is not: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether somebody read as much as they wanted, and left.
    fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints a line.
pub(super) fn print_line(line: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Prints bytes as they are.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Prints what the parser of the command line has to say: a help text, the version, or what is wrong.
pub(super) fn print_parsed(said: &clap::Error) -> ExitCode {
    if said.use_stderr() {
        said.exit();
    }
    let printed = said.print().and_then(|()| io::stdout().flush());
    match printed.map_err(OutputError::from) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Tells the operator something beside the output. Whoever cannot read it need not.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The status of a command that has done what was asked, and has shown what came of it: also if the reader had
/// seen enough.
pub(super) fn ended(printed: Result<(), OutputError>, status: Status) -> Result<ExitCode, Failure> {
    match printed {
        Err(error) if !error.is_closed() => Err(error.into()),
        Ok(()) | Err(_) => Ok(status.into()),
    }
}

/// Tells why a command failed, and gives its exit status.
pub(super) fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    if error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed) {
        return ExitCode::SUCCESS;
    }
    // Errors name files, and repeat what others said.
    log::tell(&format!("amop: {}", escape::shown_lines(&error.to_string())));
    Status::of(error).into()
}
