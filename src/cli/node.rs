//! `amop node`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};

use crate::{
    config::{Config, logging},
    node::{EndSignals, Node},
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  amop node -c nodes/127.0.0.1/node0/config.ini
  amop node -c config.ini --check        only read and check the configuration
  amop node -c config.ini --log-format json

The file is FISCO BCOS' own config.ini, as build_chain.sh writes it; docs/config.md lists every key.
SIGTERM or SIGINT stops the node in order; a second one ends it at once.")]
pub(super) struct NodeArgs {
    /// The configuration.
    #[arg(long, short, value_name = "FILE", default_value = "config.ini")]
    config: PathBuf,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
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
            line!("warning: {warning}");
        }
        line!("{}: the configuration can be used", args.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    let level = args.log_level.as_deref().unwrap_or(&config.log_level);
    let json = args.log_format.map_or(config.log_json, |format| format == LogFormat::Json);
    logging::start(level, json);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let signals = EndSignals::take()?;
    Node::start(config)?.run_until(signals);
    Ok(ExitCode::SUCCESS)
}
