//! `amop node`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use super::pid_file::{PidFile, UpFile};
use crate::{
    config::Config,
    door::Membership,
    escape::{shown_lines, shown_path},
    log,
    node::{Node, Signals},
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  amop node -c nodes/127.0.0.1/node0/config.ini
  amop node -c config.ini --check        only read and check the configuration
  amop node -c config.ini --log-format json

The file is FISCO BCOS' own config.ini, as build_chain.sh writes it; docs/config.md lists every key.
SIGTERM or SIGINT stops the node in order; a second one ends it at once. SIGHUP reads [p2p] node.N,
[certificate_blacklist] and [certificate_whitelist] again; links with nodes that are not in them any more are
closed, and messages with nodes that the lists leave out end. Other keys take effect at the next start.")]
pub(super) struct NodeArgs {
    /// The configuration.
    #[arg(long, short, value_name = "FILE", default_value = "config.ini")]
    config: PathBuf,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
    /// Write the process id into this file and keep it locked while the node lives: a second node with it does not
    /// start.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Write the process id into this file once the node is up; it goes when the node ends.
    #[arg(long, value_name = "FILE", requires = "pid_file")]
    up_file: Option<PathBuf>,
    /// Level of the log, instead of [log] level.
    #[arg(long, value_name = "LEVEL", value_parser = ["trace", "debug", "info", "warn", "error", "off"])]
    log_level: Option<String>,
    /// Form of the log, instead of [log] format.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

pub(super) fn run(args: &NodeArgs) -> Result<ExitCode, super::Failure> {
    let (config, warnings) = Config::load(&args.config)?;
    if args.check {
        for warning in &warnings {
            line!("warning: {}", shown_lines(warning))?;
        }
        line!("{}: the configuration can be used", shown_path(&args.config))?;
        return Ok(ExitCode::SUCCESS);
    }
    let level = args.log_level.as_deref().unwrap_or(&config.log_level);
    let json = args.log_format.map_or(config.log_json, |format| format == LogFormat::Json);
    let _log = log::start(level, json)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let signals = Signals::take()?;
    let _pid_file = args.pid_file.as_deref().map(PidFile::take).transpose()?;
    let up_file = args.up_file.as_deref().map(UpFile::not_yet).transpose()?;
    if let Some((signals, node)) = signals.start(|| Node::start(config))? {
        let node = node?;
        up_file.as_ref().map(UpFile::make).transpose()?;
        let path = args.config.clone();
        node.run_until(signals, move || reload(&path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the configuration again, for whom to dial and to let in. One that cannot be used changes nothing.
fn reload(path: &Path) -> Option<Membership> {
    match Config::load(path) {
        Ok((config, _)) => {
            let Membership { peers, admission } = &config.membership;
            tracing::info!(
                peers = peers.len(),
                blacklist = admission.blacklist.len(),
                whitelist = admission.whitelist.len(),
                "configuration read again: [p2p] node.N and the lists hold from now on, other keys from the next start",
            );
            Some(config.membership)
        }
        Err(error) => {
            tracing::error!(%error, "configuration read again and not taken over: everything stays as it is");
            None
        }
    }
}
