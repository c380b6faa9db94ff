//! `amop net …`: what a node finds out about others, or tells them.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Failure, announce, ping};

#[derive(Subcommand)]
pub(super) enum Diagnostic {
    /// Show the route that frames take to a node, how long each hop takes, and what is lost.
    Ping(ping::PingArgs),
    /// Tell all nodes of the network something: it comes into their logs, and `amop net` shows it.
    Announce(announce::AnnounceArgs),
}

impl Diagnostic {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        match self {
            Self::Ping(args) => ping::run(args),
            Self::Announce(args) => announce::run(args),
        }
    }
}
