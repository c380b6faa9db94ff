//! `amop top`: what nodes do just now, on the whole terminal or as text.
//!
//! ```text
//!   admin endpoints ─► Look ─► View (pure: nodes, panel, order) ─► draw ─► terminal
//!                          └─► plain text, JSON
//! ```

mod draw;
mod json;
mod look;
mod plain;
mod screen;
mod view;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use clap::Args;

use self::look::{Look, Rates};
use super::{
    Failure,
    admin::{AdminAddress, AdminCredentials},
    help::examples,
    output::{OutputArgs, note, print_line},
};

/// Sessions that are asked for where there is no terminal.
const SESSIONS_SHOWN: usize = 10;

#[derive(Args)]
#[command(after_help = examples(
    &[
        ("amop top --admin 127.0.0.1:20300", "on a terminal, anew every two seconds"),
        ("amop top --admin 127.0.0.1:20300 --admin 127.0.0.1:20301", "two nodes"),
        ("amop top --admin 127.0.0.1:20300 --once", "one look as plain text, over two seconds"),
        ("amop top --admin 127.0.0.1:20300 --once -o json | jq .latency_us", ""),
        ("amop top --admin 127.0.0.1:20300 --interval 60 >> node0.log", ""),
    ],
    &[
        "The nodes need [admin] listen_path or listen_port. Rates are per second, over the interval. A metric at 80 % of its bound, or more, is \
         marked. Latencies are of the requests that ended within the interval, by the bounds of the histogram.",
        "On a terminal keys choose the node, what is shown of it and by what that is sorted: ? tells them. A node that does not \
         answer, or starts anew, stays on the screen, with since when. Colours are left out where NO_COLOR is set.",
        "Exit status: 0 it was ended, or looked once; 1 a node was not reached.",
    ],
))]
pub(super) struct TopArgs {
    /// The admin endpoint of a node; several with several options.
    #[arg(long, value_name = "ADDRESS", env = "AMOP_ADMIN", required = true, help_heading = "Connection")]
    admin: Vec<AdminAddress>,
    #[command(flatten)]
    credentials: AdminCredentials,
    #[command(flatten)]
    output: OutputArgs,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval, help_heading = "Output")]
    interval: Duration,
    /// Look once, as text, and end.
    #[arg(long, help_heading = "Output")]
    once: bool,
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it must be a number from 0.1 to 3600".to_owned())
}

pub(super) fn run(args: &TopArgs) -> Result<ExitCode, Failure> {
    let on_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let nodes = args.admin.iter().map(|node| args.credentials.given_to(node.clone()));
    let nodes: Vec<AdminAddress> = nodes.collect::<Result<_, _>>()?;
    if on_terminal && !args.once && !args.output.is_json() {
        screen::run(args, &nodes)?;
    } else {
        super::runtime()?.block_on(print(args, &nodes))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a look at each node, once or again and again.
async fn print(args: &TopArgs, nodes: &[AdminAddress]) -> Result<(), Failure> {
    let mut before = Vec::new();
    for admin in nodes {
        // One that never was there is most likely a mistake.
        before.push(Some(Look::at(admin, SESSIONS_SHOWN).await?));
    }
    loop {
        tokio::time::sleep(args.interval).await;
        for (admin, before) in nodes.iter().zip(&mut before) {
            let now = match Look::at(admin, SESSIONS_SHOWN).await {
                Ok(now) => now,
                Err(why) if args.once => return Err(why.into()),
                Err(why) => {
                    note(&format!("amop: unreachable at {}: {why}", screen::time_of_day()));
                    continue;
                }
            };
            if let Some(before) = before.as_ref() {
                print_line(&said(args, admin, before, &now))?;
            }
            *before = Some(now);
        }
        if args.once {
            return Ok(());
        }
    }
}

fn said(args: &TopArgs, admin: &AdminAddress, before: &Look, now: &Look) -> String {
    if args.output.is_json() {
        return json::show(&admin.to_string(), now, Rates::between(before, now).as_ref());
    }
    let text = plain::show(before, now);
    match args.admin.len() {
        1 => text,
        _ => format!("== {admin}\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_number_of_seconds_within_bounds() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "3601", "2s", ""] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
