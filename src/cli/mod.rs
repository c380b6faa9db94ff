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
mod help;
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

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::status::Status;

/// A relay node for AMOP, the messaging protocol of FISCO BCOS consortium chains, and its tools.
#[derive(Parser)]
#[command(version = env!("AMOP_VERSION"), propagate_version = true)]
#[command(after_help = help::examples(
    &[
        ("amop demo", "a whole network at work"),
        ("amop pki network -l 127.0.0.1:4 --out nodes", "a network of one's own"),
        ("amop node -c nodes/127.0.0.1/node0/config.ini", ""),
        ("amop pub --help", "what there is to say to a command"),
    ],
    &["What statuses commands end with, and what they print as JSON, is in docs/commands.md and docs/json.md."],
))]
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
    /// Send a text or a file to one subscriber of a topic, or to all.
    Pub(publish::PublishArgs),
    /// Show a network of three real nodes at work, and check it.
    Demo(demo::DemoArgs),
    /// Make certificates and ready node directories.
    Pki(pki::PkiArgs),
    /// Make, show and convert the keys of private topics' subscribers.
    Keys(keys::KeysArgs),
    /// Show what became of a message, on every node of its path.
    Trace(trace::TraceArgs),
    /// Show every bound of a node, and its memory with all reached.
    Bounds(bounds::BoundsArgs),
    /// Let the applications of a node go, and stop it.
    Drain(drain::DrainArgs),
    /// Show the network and its topics, ping a node, tell all something.
    Net(net::NetArgs),
    /// Show what nodes do just now, and who does not keep up.
    Top(top::TopArgs),
    /// Look whether this machine is as a node wants it.
    Doctor(doctor::DoctorArgs),
    /// Measure nodes.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    #[command(after_help = help::examples(
        &[
            ("amop completions bash > /etc/bash_completion.d/amop", ""),
            ("amop completions zsh > /usr/share/zsh/site-functions/_amop", ""),
        ],
        &[],
    ))]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command into a directory, for packages.
    #[command(hide = true, after_help = help::examples(&[("amop man /usr/share/man/man1", "")], &[]))]
    Man {
        /// The directory, which is there.
        directory: PathBuf,
    },
}

/// Commands that are shown together; those that are in no group are shown last.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Messages", &["sub", "pub", "demo", "bench"]),
    ("Nodes", &["node", "drain", "reload", "doctor", "bounds"]),
    ("What goes on", &["top", "net", "trace"]),
    ("Certificates and keys", &["pki", "keys"]),
];

/// All that the command line can be.
fn command() -> clap::Command {
    let command = Cli::command();
    let template = help::grouped(&command, &GROUPS);
    command.help_template(template)
}

/// Runs the command line and gives the exit status.
pub fn run() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
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
        let mut root = command();
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
    const WITHOUT_JSON: [(&str, &str); 12] = [
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
            assert!(command().try_get_matches_from(arguments).is_ok(), "{said}");
        }
    }

    /// The lines of a command's examples, without what they do.
    fn example_lines(command: &clap::Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
        let lines = lines.take_while(|line| !line.is_empty()).map(str::to_owned);
        lines.filter(|line| !line.starts_with("   ")).collect()
    }

    /// The commands of this program in a line for a shell, each as its words.
    fn amop_commands(line: &str) -> Vec<Vec<String>> {
        let line = line.trim().split("  ").next().unwrap_or_default();
        let (mut words, mut commands, mut quote, mut parens) = (vec![String::new()], Vec::new(), false, 0);
        for character in line.chars() {
            match character {
                '\'' => quote = !quote,
                '(' if !quote => parens += 1,
                ')' if !quote => parens -= 1,
                ' ' if !quote && parens == 0 => words.push(String::new()),
                '|' | '>' if !quote && parens == 0 => {
                    commands.push(std::mem::replace(&mut words, vec![String::new()]))
                }
                _ if parens == 0 => words.last_mut().unwrap().push(character),
                _ => {}
            }
        }
        commands.push(words);
        for command in &mut commands {
            command.retain(|word| !word.is_empty());
            // What a shell would put there.
            command
                .iter_mut()
                .filter(|word| *word == "$" || *word == "PID")
                .for_each(|word| *word = "1".to_owned());
        }
        commands.retain(|words| words.first().is_some_and(|word| word == "amop"));
        commands
    }

    #[test]
    fn the_words_of_an_example_are_those_that_a_shell_makes() {
        let found = amop_commands("  make | amop pub t 'a | b' --pid $(cat x) > y  what it does");
        assert_eq!(found, [["amop", "pub", "t", "a | b", "--pid", "1"].map(str::to_owned)]);
    }

    #[test]
    fn each_command_has_examples_which_parse_and_fit_a_terminal() {
        for (name, help) in commands() {
            let lines = example_lines(&help);
            assert!(!lines.is_empty(), "{name} --help has no examples");
            let mut is_shown = false;
            for line in lines {
                for words in amop_commands(&line) {
                    is_shown |= format!("{} ", words.join(" ")).starts_with(&format!("{name} "));
                    if !words.contains(&"--help".to_owned()) {
                        let parsed = command().try_get_matches_from(&words);
                        assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
                    }
                }
            }
            assert!(is_shown, "the examples of {name} do not show it");
        }
    }

    #[test]
    fn help_is_broken_at_the_width_of_the_terminal_and_nowhere_else() {
        for (name, help) in commands() {
            // A line of text that goes on in the next one was broken by hand.
            let notes = help.get_after_help().map(ToString::to_string).unwrap_or_default();
            let notes = notes.split("\n\n").skip(1);
            assert!(notes.into_iter().all(|note| !note.contains('\n')), "{name}");
            for width in [60, 100] {
                let shown = help.clone().term_width(width).render_long_help().to_string();
                // What has no space cannot be broken, and clap breaks no usage.
                let text = shown.lines().filter(|line| !line.contains("Usage:") && line.trim().contains(' '));
                let longest = text.max_by_key(|line| line.chars().count()).unwrap_or_default();
                assert!(name == "amop" || longest.chars().count() <= width, "{name}: {longest}");
            }
        }
    }

    #[test]
    fn all_commands_are_shown_in_groups() {
        let shown = command().term_width(80).render_long_help().to_string();
        for (heading, _) in GROUPS {
            assert!(shown.contains(&format!("\n{heading}:\n")), "{shown}");
        }
        for inner in command().get_subcommands().filter(|inner| !inner.is_hide_set()) {
            let line = format!("\n  {} ", inner.get_name());
            assert_eq!(shown.matches(&line).count(), 1, "{}: {shown}", inner.get_name());
        }
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    }
}
