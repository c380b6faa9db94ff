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
mod doctor;
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
mod status;
mod subscribe;
mod text;
mod top;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use self::status::Status;

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
    /// Look whether this machine is as a node wants it, and say what to change.
    Doctor(doctor::DoctorArgs),
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
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "amop", &mut script);
            output::ended(output::print_bytes(&script), Status::Done)
        }
        Command::Man { directory } => {
            let pages = clap_mangen::generate_to(Cli::command(), directory);
            pages.map(|()| ExitCode::SUCCESS).map_err(Failure::from)
        }
    };
    done.unwrap_or_else(|error| output::failed(&*error))
}

/// What a command can fail with: its text says whose fault it is and what to do.
type Failure = Box<dyn std::error::Error>;

/// The runtime of commands that use the client library.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// All commands by their names, those within others too.
    fn commands() -> Vec<(String, clap::Command)> {
        fn add(name: &str, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
            all.push((name.to_owned(), command.clone()));
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                add(&format!("{name} {}", inner.get_name()), inner, all);
            }
        }
        let mut root = Cli::command();
        root.build();
        let mut all = Vec::new();
        add("amop", &root, &mut all);
        all
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_short_option_means_the_same_in_every_command() {
        let mut meanings: BTreeMap<char, BTreeSet<String>> = BTreeMap::new();
        for (_, command) in commands() {
            for argument in command.get_arguments() {
                for short in argument.get_short_and_visible_aliases().unwrap_or_default() {
                    let long = argument.get_long().expect("a short option has a long one").to_owned();
                    meanings.entry(short).or_default().insert(long);
                }
            }
        }
        for (short, longs) in &meanings {
            assert_eq!(longs.len(), 1, "-{short} is {longs:?}");
        }
        // The table of docs/commands.md.
        let page = include_str!("../../docs/commands.md");
        for (short, longs) in meanings.iter().filter(|(short, _)| !"hV".contains(**short)) {
            let row = format!("| `-{short}` | `--{}` |", longs.first().unwrap());
            assert!(page.contains(&row), "docs/commands.md has no {row}");
        }
    }

    #[test]
    fn a_long_option_has_the_same_short_one_in_every_command() {
        let mut shorts: BTreeMap<String, BTreeSet<Option<char>>> = BTreeMap::new();
        for (_, command) in commands() {
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long() {
                    shorts.entry(long.to_owned()).or_default().insert(argument.get_short());
                }
            }
        }
        shorts.retain(|_, shorts| shorts.len() > 1);
        assert!(shorts.is_empty(), "{shorts:?}");
    }

    /// Commands that print nothing for a program to read, and why.
    const WITHOUT_JSON: [(&str, &str); 14] = [
        ("amop bounds", "its table is that of docs/resources.md"),
        ("amop completions", "a script"),
        ("amop demo", "a story"),
        ("amop drain", "nothing"),
        ("amop keys convert", "a key"),
        ("amop man", "files"),
        ("amop pki agency", "files"),
        ("amop pki chain", "files"),
        ("amop pki csr", "files"),
        ("amop pki network", "files"),
        ("amop pki node", "files"),
        ("amop pki sdk", "files"),
        ("amop pki sign", "files"),
        ("amop top", "what changes under one's eyes"),
    ];

    #[test]
    fn what_a_command_prints_to_be_read_it_prints_as_json_too() {
        let without: Vec<String> = commands()
            .into_iter()
            .filter(|(name, command)| name == "amop net" || !command.has_subcommands())
            .filter(|(_, command)| !command.get_arguments().any(|one| one.get_long() == Some("output")))
            .map(|(name, _)| name)
            .collect();
        let listed: Vec<&str> = WITHOUT_JSON.iter().map(|(name, _)| *name).collect();
        let mut without: Vec<&str> = without.iter().map(String::as_str).collect();
        without.sort_unstable();
        assert_eq!(without, listed);
    }

    #[test]
    fn what_scripts_say_for_earlier_versions_is_understood() {
        for said in [
            "sub t -c conf",
            "pub t x -c conf",
            "bench -c conf --json",
            "net ping ab --admin h:1 -c 2 --json",
            "net --admin h:1 --json",
            "trace 0 --admin h:1 --json",
            "pki network -o nodes",
            "pki node --agency a --name n -o out",
            "pki csr --name n -o out",
            "pki sign r.csr --agency a -o out",
            "keys convert k.pem --to p12 -o k.p12",
        ] {
            let arguments = std::iter::once("amop").chain(said.split(' '));
            assert!(Cli::try_parse_from(arguments).is_ok(), "{said}");
        }
    }
}
