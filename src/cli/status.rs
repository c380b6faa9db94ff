//! How commands end: the exit statuses of all of them, which docs/commands.md lists.

use std::process::ExitCode;

use crate::{config::ConfigError, node::StartError};

/// An exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// What was asked is done.
    Done = 0,
    /// It failed: a node that is not reached, a file that cannot be read, output that cannot be written.
    Failed = 1,
    /// The command line is wrong, and nothing was tried.
    Usage = 2,
    /// It was asked, and nobody gave what was asked for.
    Unanswered = 3,
    /// It ran to its end, and not all that it did or saw is as it should be.
    Incomplete = 4,
    /// A configuration is refused (`EX_CONFIG` of sysexits.h): the same will happen at each further try.
    ConfigurationRefused = 78,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

impl Status {
    /// That of a command that failed.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let is_configuration = error.downcast_ref::<ConfigError>().is_some_and(ConfigError::is_configuration)
            || error.downcast_ref::<StartError>().is_some_and(StartError::is_configuration);
        if is_configuration {
            Self::ConfigurationRefused
        } else if error.is::<UsageError>() {
            Self::Usage
        } else {
            Self::Failed
        }
    }
}

/// What is wrong with a command line that the parser lets pass.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

impl From<String> for UsageError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for UsageError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_documents_has_every_status_and_no_other() {
        let all = [
            Status::Done,
            Status::Failed,
            Status::Usage,
            Status::Unanswered,
            Status::Incomplete,
            Status::ConfigurationRefused,
        ];
        let page = include_str!("../../docs/commands.md");
        let table = page.split("## Exit statuses\n").nth(1).expect("the section");
        let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let listed: Vec<u8> = rows
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.split('|').nth(1).and_then(|cell| cell.trim().parse().ok()).expect("a status"))
            .collect();
        assert_eq!(listed, all.map(|status| status as u8));
    }

    #[test]
    fn an_error_has_the_status_of_its_kind() {
        let usage = UsageError::from("--rate");
        assert_eq!(Status::of(&usage), Status::Usage);
        assert_eq!(Status::of(&std::io::Error::other("x")), Status::Failed);
    }
}
