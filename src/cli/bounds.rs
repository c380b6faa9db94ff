//! `amop bounds`: what bounds a node, for operators.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Failure, help::examples};
use crate::{bounds, config::Config};

#[derive(Args)]
#[command(after_help = examples(&[("amop bounds -c config.ini", "")], &[]))]
pub(super) struct BoundsArgs {
    /// The node's config.ini.
    #[arg(short, long, default_value = "config.ini")]
    config: PathBuf,
}

pub(super) fn run(args: &BoundsArgs) -> Result<ExitCode, Failure> {
    let (config, _) = Config::load(&args.config)?;
    line!("{}", bounds::table(&bounds::all(&config)).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
