//! Traffic through a laboratory of real nodes, and the account of what became of it; `scripts/lab` runs both.
//!
//! ```text
//!  lab traffic, one at each node that has applications ──► events of its own, one JSON object a line
//!  scripts/lab: what it did to the network, and when   ──► timeline.json ─┐
//!                                                          events ────────┴► lab report: table, JSON, CSV, SVG
//! ```
//!
//! All times are nanoseconds of the machine's monotonic clock, which every network namespace shares.

mod account;
mod draw;
mod events;
mod report;
mod traffic;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Publish and subscribe at one node, as told on standard input.
    Traffic(traffic::TrafficArgs),
    /// Say what was lost, doubled, out of order, and how long everything took.
    Report(report::ReportArgs),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Traffic(args) => traffic::run(args),
        Command::Report(args) => report::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("lab: {error}");
        ExitCode::from(2)
    })
}
