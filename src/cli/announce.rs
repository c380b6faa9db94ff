//! `amop net announce`: a text for all nodes of the network.

use std::process::ExitCode;

use clap::Args;
use hyper::StatusCode;

use super::{
    Failure,
    admin::{AdminArgs, not_as_asked, parse, post},
    help::examples,
    output::{OutputArgs, ended, print_line},
    status::Status,
};
use crate::{
    admin::json::{Announce, Announced},
    escape::{shown, shown_json},
    wire::announcement::check_text,
};

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop net announce 'upgrade at 22:00, expect a restart' --admin 127.0.0.1:20300", ""),
        ],
        &[
            "The node signs the text and floods it; each node that a route leads to now logs it once, with the \
             node that it is of, and `amop net` shows it there. One line of up to 1,024 bytes of UTF-8, at most 6 \
             a minute. All nodes of the network, those of other institutions too, can read it.",
            "The node needs [admin] listen_port and must be on this machine: HOST is localhost, 127.0.0.1 or ::1. \
             With [admin] announce=false it refuses.",
            "Exit status: 0 it was sent; 3 it was kept, but no other node can be reached now; 1 it was not sent.",
        ],
    ))]
pub(super) struct AnnounceArgs {
    /// What to say, in one line.
    text: String,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &AnnounceArgs) -> Result<ExitCode, Failure> {
    check_text(&args.text)?;
    let body = serde_json::to_vec(&Announce { text: args.text.clone() })?;
    let admin = args.admin.address()?;
    let (status, body) = super::runtime()?.block_on(post(admin, "/announce", body))?;
    let refusals = [
        StatusCode::BAD_REQUEST,
        StatusCode::FORBIDDEN,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if refusals.contains(&status) {
        let said = String::from_utf8_lossy(&body);
        let said = said.lines().next().unwrap_or_default();
        return Err(format!("{admin} does not announce it: {}", shown(said)).into());
    }
    if status != StatusCode::OK {
        return Err(not_as_asked(admin, status, &body).into());
    }
    let Announced { number, neighbours, reachable } = parse(admin, &body)?;
    let said = if args.output.is_json() {
        shown_json(&String::from_utf8_lossy(&body))
    } else if reachable == 0 {
        "no other node can be reached now: nobody else gets it".to_owned()
    } else {
        format!(
            "announcement {number} is on its way; neighbours that it was sent to: {neighbours}, nodes that can be reached: {reachable}"
        )
    };
    ended(print_line(&said), if reachable == 0 { Status::Unanswered } else { Status::Done })
}
