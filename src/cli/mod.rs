//! The commands of the binary.
//!
//! Each file is one command: its arguments, and what it does. They import `node`, `client`, `load`, `keys`, `pki`,
//! `config`, the log, the JSON types of `admin`, and types and bounds of `wire`, `relay` and `tls`, and decide nothing about
//! messages.

/// Prints a line.
macro_rules! line {
    ($($argument:tt)*) => { $crate::cli::output::print_line(&format!($($argument)*)) };
}

mod admin;
mod announce;
mod bench;
mod bounds;
mod connect;
mod demo;
mod diagnostics;
mod drain;
mod keys;
mod net;
mod node;
mod output;
mod pid_file;
mod ping;
mod pki;
mod pki_request;
mod publish;
mod subscribe;
mod text;
mod top;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{config::ConfigError, node::StartError};

/// A relay node for AMOP, the messaging protocol of FISCO BCOS consortium chains, and its tools.
///
/// To see a whole network at work: amop demo
#[derive(Parser)]
#[command(version = env!("AMOP_VERSION"), propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node, configured by a FISCO BCOS config.ini.
    Node(node::NodeArgs),
    /// Subscribe to topics and print what comes.
    Sub(subscribe::SubscribeArgs),
    /// Send a text or a file to one random subscriber of a topic, or to all.
    Pub(publish::PublishArgs),
    /// Show a network of three real nodes at work, and check it.
    Demo(demo::DemoArgs),
    /// Make certificates and ready node directories.
    Pki(pki::PkiArgs),
    /// Make, show and convert the keys of private topics' subscribers.
    Keys(keys::KeysArgs),
    /// Show what became of a message, on every node of its path.
    Trace(trace::TraceArgs),
    /// Show every bound of a node, and the memory that it takes when all are reached.
    Bounds(bounds::BoundsArgs),
    /// Let the applications of a node go, and stop it.
    Drain(drain::DrainArgs),
    /// Show the whole network: nodes, links, topics and where their subscribers are; ping a node, tell all nodes something.
    Net(net::NetArgs),
    /// Show what a node does just now: rates, queues, metrics near their bound, who does not keep up.
    Top(top::TopArgs),
    /// Measure nodes.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example: amop completions bash > /etc/bash_completion.d/amop")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command into a directory, for packages.
    #[command(hide = true)]
    Man {
        /// The directory, which is there.
        directory: PathBuf,
    },
}

/// Exit status of a command that did not do what was asked.
const FAILURE: u8 = 1;
/// Exit status where a configuration is refused (`EX_CONFIG` of sysexits.h): the same will happen at each further try.
const CONFIGURATION_REFUSED: u8 = 78;

/// Runs the command line and gives the exit status.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return output::print_parsed(&said),
    };
    let done = match cli.command {
        Command::Node(args) => node::run(&args),
        Command::Sub(args) => subscribe::run(args),
        Command::Pub(args) => publish::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Pki(args) => pki::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Bounds(args) => bounds::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Net(args) => net::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "amop", &mut script);
            output::ended(output::print_bytes(&script), ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            let pages = clap_mangen::generate_to(Cli::command(), directory);
            pages.map(|()| ExitCode::SUCCESS).map_err(Failure::from)
        }
    };
    done.unwrap_or_else(|error| output::failed(&*error))
}

/// The exit status of a command that failed.
fn status_of(error: &(dyn std::error::Error + 'static)) -> u8 {
    let is_configuration = error.downcast_ref::<ConfigError>().is_some_and(ConfigError::is_configuration)
        || error.downcast_ref::<StartError>().is_some_and(StartError::is_configuration);
    if is_configuration { CONFIGURATION_REFUSED } else { FAILURE }
}

/// What a command can fail with: its text says whose fault it is and what to do.
type Failure = Box<dyn std::error::Error>;

/// The runtime of commands that use the client library.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
