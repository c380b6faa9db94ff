//! `amop trace`: what became of a message, on every node of its path.

use std::{fmt::Write, process::ExitCode};

use clap::Args;
use hyper::StatusCode;

use super::{
    Failure,
    admin::{AdminArgs, get, not_as_asked, parse},
    help::examples,
    output::{OutputArgs, ended, print_line},
    status::{Status, UsageError},
    text::short,
};
use crate::{
    admin::json::{Trace, TraceEvent, TraceStanding},
    escape::{shown, shown_json},
    wire::trace::{seq_from_text, seq_to_text},
};

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop trace b3ae60984320433aa3efbc6462ef6102 --admin 127.0.0.1:20300", ""),
            ("amop trace b3ae6098-4320-433a-a3ef-bc6462ef6102 --admin 127.0.0.1:20300 -o json", ""),
        ],
        &[
            "SEQ is what the SDK's log shows of the message. The node needs [admin] listen_port. Ask a node that \
             the message came to: the publisher's, or the subscriber's. It asks the others.",
            "Each node knows the last 65,536 requests that did not end with 0, and with [amop] trace=true (or \
             after kill -USR1) as many of the others, multicasts too. What it knows ends with it.",
            "Exit status: 0 the message is known; 3 no node knows it; 1 it could not be asked for.",
        ],
    ))]
pub(super) struct TraceArgs {
    /// The message's seq: 32 letters and digits, a UUID with its dashes, or 64 hex digits of its bytes.
    seq: String,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &TraceArgs) -> Result<ExitCode, Failure> {
    let Some(seq) = seq_from_text(&args.seq) else {
        return Err(UsageError::from(format!(
            "{:?} is no seq: it must be 32 letters and digits, such a UUID with dashes, or the 64 hex digits of \
             its bytes",
            args.seq
        ))
        .into());
    };
    let path = format!("/trace/{}", seq_to_text(&seq));
    let admin = args.admin.address()?;
    let (status, body) = super::runtime()?.block_on(get(admin, &path))?;
    let is_known = match status {
        StatusCode::OK => true,
        // What is no node of this kind, or an older one, has no such path.
        StatusCode::NOT_FOUND if body.first() == Some(&b'{') => false,
        _ => return Err(not_as_asked(admin, status, &body).into()),
    };
    let said = if args.output.is_json() {
        shown_json(&String::from_utf8_lossy(&body))
    } else {
        show(&parse(admin, &body)?)
    };
    ended(print_line(said.trim_end()), if is_known { Status::Done } else { Status::Unanswered })
}

/// As people read it.
fn show(trace: &Trace) -> String {
    let mut text = String::new();
    let _ = match trace.timeline.first() {
        Some(first) => writeln!(text, "message {}, first seen at {}\n", shown(&trace.seq), shown(&first.at)),
        None => writeln!(text, "message {}: no node that was asked knows it\n", shown(&trace.seq)),
    };
    for TraceEvent { after_us, node, what, .. } in &trace.timeline {
        let after = format!(
            "{}{}.{:03}",
            if *after_us < 0 { "-" } else { "+" },
            after_us.abs() / 1_000,
            after_us.abs() % 1_000
        );
        let _ = writeln!(text, "{after:>14} ms  {}  {}", shown(node), told(what));
    }
    if !trace.timeline.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "nodes:");
    for node in &trace.nodes {
        let mut line = format!("  {}", short(&node.id));
        if !node.name.is_empty() {
            let _ = write!(line, " ({})", shown(&node.name));
        }
        let how = match node.standing {
            TraceStanding::Here => "asked by you".to_owned(),
            TraceStanding::Answered => {
                let half_us = node.round_trip_us / 2;
                format!("answered; its times are right up to ±{}.{:03} ms", half_us / 1_000, half_us % 1_000)
            }
            // The remark says it.
            _ => String::new(),
        };
        let said = [how.as_str(), &node.remark].into_iter().filter(|said| !said.is_empty());
        let _ = write!(line, "  {}", told(&said.collect::<Vec<_>>().join("; ")));
        if node.more {
            let _ =
                write!(line, "; it also has older ones of this seq, of which {} are shown", node.accounts);
        }
        let _ = writeln!(text, "{line}");
    }
    text.push_str(
        "All times are by the clock of the node that you asked; the logs of others go by their own.\n",
    );
    text
}

/// Makes what a node tells fit for a terminal. It has names of topics in Rust's quotes, whose backslashes stay.
fn told(text: &str) -> String {
    text.split('\\').map(shown).collect::<Vec<_>>().join("\\")
}
