//! `amop node`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use clap::{Args, ValueEnum};

use super::{
    Failure,
    help::examples,
    output::{self, OutputArgs},
    pid_file::{PidFile, UpFile},
    status::{Status, UsageError},
};
use crate::{
    config::Config,
    escape::{shown_json, shown_lines, shown_path},
    log,
    node::{Credentials, Finding, Node, Reread, Signals, StartError, check},
    service::{InheritedSockets, ServiceManager},
};

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop node -c nodes/127.0.0.1/node0/config.ini", ""),
            ("amop node -c config.ini --check", "only look at the configuration, its certificates and ports"),
            ("amop node -c config.ini --check --strict -o json", "warnings are errors"),
            ("amop node -c config.ini --log-format json", ""),
        ],
        &[
            "The file is FISCO BCOS' own config.ini, as build_chain.sh writes it; docs/config.md lists every key.",
            "SIGTERM or SIGINT stops the node in order; a second one ends it at once. SIGQUIT lets its \
             applications go first, one after the other, and so does SIGTERM where [amop] lame_duck_ms is set. \
             SIGHUP reads [p2p] node.N, [certificate_blacklist], [certificate_whitelist] and the certificates \
             again; links with nodes that are not in them any more are closed, and messages with nodes that the \
             lists leave out end. Certificates hold for new links. Other keys take effect at the next start. A \
             file that lacks a section of the running one changes nothing.",
            "Exit status: 0 stopped in order, or checked; 78 the configuration is refused; 2 the command line is \
             wrong; 1 anything else.",
        ],
    ))]
pub(super) struct NodeArgs {
    /// The configuration.
    #[arg(long, short, value_name = "FILE", default_value = "config.ini")]
    config: PathBuf,
    /// Check the configuration, the certificates, ports, ledger nodes and peers that it names, and end.
    #[arg(help_heading = "Checking", long)]
    check: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Write the process id into this file and keep it locked while the node lives: a second node with it does not
    /// start.
    #[arg(help_heading = "Running", long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Write the process id into this file once the node is up; it goes when the node ends.
    #[arg(help_heading = "Running", long, value_name = "FILE", requires = "pid_file")]
    up_file: Option<PathBuf>,
    /// Refuse a configuration about which there is a warning.
    #[arg(help_heading = "Checking", long)]
    strict: bool,
    /// Level of the log, instead of [log] level.
    #[arg(help_heading = "Log", long, value_name = "LEVEL", value_parser = ["trace", "debug", "info", "warn", "error", "off"])]
    log_level: Option<String>,
    /// Form of the log, instead of [log] format.
    #[arg(help_heading = "Log", long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

pub(super) fn run(args: &NodeArgs) -> Result<ExitCode, Failure> {
    let (config, warnings) = Config::load(&args.config)?;
    if args.check {
        return run_check(args, &config, warnings);
    }
    if args.output.is_json() {
        return Err(UsageError::from("-o json is for --check; the log's form is --log-format json").into());
    }
    if args.strict {
        let found = Credentials::load(&config)?.findings(&config, SystemTime::now());
        let reasons: Vec<_> =
            warnings.iter().cloned().chain(found.into_iter().map(|found| found.text)).collect();
        if !reasons.is_empty() {
            return Ok(refuse(&reasons).into());
        }
    }
    // Before anything else opens files.
    let sockets = InheritedSockets::take().map_err(StartError::from)?;
    let mut manager = ServiceManager::of_process();
    let signals = Signals::take()?;
    // Given back last: until the log is written out, the node lives.
    let _pid_file = args.pid_file.as_deref().map(PidFile::take).transpose()?;
    let level = args.log_level.as_deref().unwrap_or(&config.log.level);
    let json = args.log_format.map_or(config.log.is_json, |format| format == LogFormat::Json);
    let _log = log::start(level, json, config.log.files.as_ref())?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let up_file = args.up_file.as_deref().map(UpFile::not_yet).transpose()?;
    if let Some((signals, prepared)) = signals.prepare(|| Node::prepare(config, sockets))? {
        let node = prepared?.serve()?;
        let path = args.config.clone();
        let when_up = || {
            if let Some(Err(error)) = up_file.as_ref().map(UpFile::make) {
                tracing::error!(%error, "cannot write the file that says that the node is up (--up-file)");
            }
        };
        let ran = node.run_until(signals, manager, when_up, move |running| read_again(running, &path));
        if ran.is_err() {
            // The log has said why.
            return Ok(Status::Failed.into());
        }
    } else {
        manager.stopping();
    }
    Ok(ExitCode::SUCCESS)
}

fn run_check(args: &NodeArgs, config: &Config, warnings: Vec<String>) -> Result<ExitCode, Failure> {
    let warnings = warnings.into_iter().map(|text| Finding { is_error: false, text });
    let checked = check::check(config, &args.config, SystemTime::now());
    let (errors, warnings): (Vec<_>, Vec<_>) =
        warnings.chain(checked.findings).partition(|finding| finding.is_error || args.strict);
    let is_usable = errors.is_empty();
    if args.output.is_json() {
        let texts = |findings: Vec<Finding>| findings.into_iter().map(|found| found.text).collect::<Vec<_>>();
        let said = serde_json::json!({
            "ok": is_usable, "errors": texts(errors), "warnings": texts(warnings), "ready": checked.ready,
        });
        let status = if is_usable { Status::Done } else { Status::ConfigurationRefused };
        return output::ended(output::print_line(&shown_json(&said.to_string())), status);
    }
    let status = match is_usable {
        true => Status::Done,
        // Whoever reads no further than some of the warnings gets the status all the same.
        false => refuse(&errors.into_iter().map(|error| error.text).collect::<Vec<_>>()),
    };
    let print = || {
        for warning in &warnings {
            line!("warning: {}", shown_lines(&warning.text))?;
        }
        for part in &checked.ready {
            line!("{part}")?;
        }
        if is_usable {
            line!("{}: the configuration can be used", shown_path(&args.config))?;
        }
        Ok(())
    };
    output::ended(print(), status)
}

fn refuse(reasons: &[String]) -> Status {
    for reason in reasons {
        output::note(&format!("amop: {}", shown_lines(reason)));
    }
    Status::ConfigurationRefused
}

/// Reads the configuration again, for a node that runs.
fn read_again(running: &Config, path: &Path) -> Option<Reread> {
    // Whoever moves log files away asks by the same signal.
    log::reopen();
    match Config::load(path) {
        Ok((config, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Some(Reread::new(running, config))
        }
        Err(error) => {
            tracing::error!(%error, "configuration read again and not taken over: everything stays as it is");
            None
        }
    }
}
