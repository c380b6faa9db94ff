//! `amop net ping`: the route that frames take to a node.

use std::{
    fmt::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use hyper::StatusCode;
use serde::Serialize;

use super::{
    Failure,
    admin::{AdminAddress, AdminArgs, get, not_as_asked, parse},
    help::examples,
    output::{OutputArgs, ended, print_line},
    status::Status,
    text::{Column, millis, numbers, short, table, words},
};
use crate::{
    admin::json::{PingHop, PingOutcome, PingRound, Standing},
    escape::{shown, shown_json},
    wire::NodeId,
};

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop net ping 68fcf240 --admin 127.0.0.1:20300", ""),
            ("amop net ping 68fcf240 --admin 127.0.0.1:20300 --count 100 --interval 0.2", ""),
            ("amop net ping 68fcf240 --admin 127.0.0.1:20300 -o json | jq .lost", ""),
        ],
        &[
            "Each round sends one ping to each hop of the route, over the links that messages to that node take. \
             A node on the route tells that a ping's hops ended there, the node itself answers. An asterisk is a \
             hop that did not answer within 2 s: its node, or one before it, is dead, overloaded or silent, or \
             has a version that does not know pings. Each answer is sealed by the node that is shown, so nobody \
             on the route can answer for the node itself. The node that pings needs [admin] listen_port.",
            "Exit status: 0 the node has answered at least once; 3 it has not, or no route leads to it; 1 it \
             could not be asked for.",
        ],
    ))]
pub(super) struct PingArgs {
    /// The node: its id, or as many of the first digits as tell it from all others.
    #[arg(value_name = "NODE", value_parser = beginning)]
    node: String,
    #[command(flatten)]
    admin: AdminArgs,
    /// Rounds.
    #[arg(long, short_alias = 'c', default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// From the beginning of a round to that of the next, which waits for the answers of the one before.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = super::top::interval)]
    interval: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

fn beginning(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && (1..=2 * NodeId::LEN).contains(&text.len()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("it must be the 128 hex digits of a node's id, or the first of them, as `amop net` shows them"
        .to_owned())
}

/// Round-trip times.
#[derive(Clone, Default, Serialize)]
struct Times {
    answered: u32,
    last_us: u64,
    best_us: u64,
    worst_us: u64,
    mean_us: u64,
    #[serde(skip)]
    sum_us: u64,
}

impl Times {
    fn add(&mut self, micros: u64) {
        self.best_us = if self.answered == 0 { micros } else { self.best_us.min(micros) };
        self.answered += 1;
        self.last_us = micros;
        self.worst_us = self.worst_us.max(micros);
        self.sum_us += micros;
        self.mean_us = self.sum_us / u64::from(self.answered);
    }
}

/// A hop of all rounds.
#[derive(Default, Serialize)]
struct HopSum {
    hop: u8,
    sent: u32,
    lost: u32,
    /// Who answered there; several, if the route has changed.
    nodes: Vec<NodeSum>,
}

#[derive(Serialize)]
struct NodeSum {
    node: String,
    name: String,
    /// The last.
    outcome: PingOutcome,
    #[serde(flatten)]
    times: Times,
}

impl NodeSum {
    /// Who it is, and what else its last answer says.
    fn said(&self) -> String {
        let remark = match self.outcome {
            PingOutcome::NoRoute => ": knows no route on",
            PingOutcome::Ended => ": says that its way ends there",
            _ => "",
        };
        label(&self.node, &self.name) + remark
    }
}

/// A row of the table: a hop, and one of those who have answered there.
type HopRow<'a> = (&'a HopSum, Option<&'a NodeSum>);

/// All rounds.
#[derive(Serialize)]
struct Sum {
    node: String,
    name: String,
    standing: Standing,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_since: Option<String>,
    sent: u32,
    lost: u32,
    #[serde(flatten)]
    times: Times,
    hops: Vec<HopSum>,
}

impl Sum {
    fn new(round: &PingRound) -> Self {
        Self {
            node: round.node.clone(),
            name: round.name.clone(),
            standing: round.standing,
            lost_since: None,
            sent: 0,
            lost: 0,
            times: Times::default(),
            hops: Vec::new(),
        }
    }

    fn add(&mut self, round: PingRound) {
        self.sent += 1;
        (self.standing, self.lost_since) = (round.standing, round.lost_since);
        match round.round_trip_us.filter(|_| round.outcome == PingOutcome::Answered) {
            Some(micros) => self.times.add(micros),
            None => self.lost += 1,
        }
        for PingHop { hop, node, name, outcome, round_trip_us } in round.hops {
            let place = usize::from(hop.max(1)) - 1;
            if self.hops.len() <= place {
                self.hops.resize_with(place + 1, HopSum::default);
            }
            let sum = &mut self.hops[place];
            sum.hop = hop;
            sum.sent += 1;
            let (Some(node), Some(micros)) = (node, round_trip_us) else {
                sum.lost += 1;
                continue;
            };
            let at = sum.nodes.iter().position(|known| known.node == node).unwrap_or_else(|| {
                sum.nodes.push(NodeSum { node, name, outcome, times: Times::default() });
                sum.nodes.len() - 1
            });
            sum.nodes[at].outcome = outcome;
            sum.nodes[at].times.add(micros);
        }
    }
}

pub(super) fn run(args: &PingArgs) -> Result<ExitCode, Failure> {
    let sum = super::runtime()?.block_on(rounds(args))?;
    let said = if args.output.is_json() { shown_json(&serde_json::to_string(&sum)?) } else { show(&sum) };
    let status = if sum.times.answered > 0 { Status::Done } else { Status::Unanswered };
    ended(print_line(said.trim_end()), status)
}

async fn rounds(args: &PingArgs) -> Result<Sum, Failure> {
    let mut sum: Option<Sum> = None;
    for number in 1..=args.count {
        let begun = Instant::now();
        // After the first round it is known whose digits those are.
        let node = sum.as_ref().map_or(&args.node, |sum| &sum.node);
        let round = round(args.admin.address()?, node).await?;
        if round.outcome == PingOutcome::Own {
            return Err(
                format!("{} is the node that you ask itself: ping another one", short(&round.node)).into()
            );
        }
        if !args.output.is_json() {
            line!("{}", show_round(number, &round))?;
        }
        let is_hopeless = round.outcome == PingOutcome::NoRoute && round.hops.is_empty();
        let sum = sum.get_or_insert_with(|| Sum::new(&round));
        sum.add(round);
        // It is not waited for either.
        if is_hopeless {
            break;
        }
        if number < args.count {
            tokio::time::sleep(args.interval.saturating_sub(begun.elapsed())).await;
        }
    }
    sum.ok_or_else(|| "no round was made".into())
}

async fn round(admin: &AdminAddress, node: &str) -> Result<PingRound, String> {
    let (status, body) = get(admin, &format!("/ping/{node}")).await?;
    let said = String::from_utf8_lossy(&body);
    let said = said.lines().next().unwrap_or_default();
    match status {
        StatusCode::OK => {
            let round: PingRound = parse(admin, &body)?;
            if round.hops.iter().any(|hop| !(1..=16).contains(&hop.hop))
                || NodeId::from_hex(&round.node).is_none()
            {
                return Err(format!(
                    "{admin} gives an answer that is not understood: is it a node of this version?"
                ));
            }
            Ok(round)
        }
        StatusCode::BAD_REQUEST => Err(shown(said)),
        StatusCode::NOT_FOUND if said.starts_with("no node ") => Err(shown(said)),
        _ => Err(not_as_asked(admin, status, &body)),
    }
}

fn label(id: &str, name: &str) -> String {
    if name.is_empty() { short(id) } else { format!("{} ({})", short(id), shown(name)) }
}

/// Why it was not reached.
fn trouble(standing: Standing, lost_since: Option<&str>) -> String {
    match (standing, lost_since) {
        (_, Some(since)) => format!("no links lead to it since {}", shown(since)),
        (Standing::OutOfReach, _) => {
            "links lead to it, but they are too many, or only go through nodes that pass nothing on"
                .to_owned()
        }
        _ => "no answer".to_owned(),
    }
}

fn show_round(number: u32, round: &PingRound) -> String {
    let who = label(&round.node, &round.name);
    match round.round_trip_us {
        Some(micros) => {
            let hops = round.hops.len();
            let hops = if hops == 1 { "1 hop".to_owned() } else { format!("{hops} hops") };
            format!("round {number}: {who} answers over {hops} in {}", millis(Some(micros)))
        }
        None => format!("round {number}: {who}: {}", trouble(round.standing, round.lost_since.as_deref())),
    }
}

fn show(sum: &Sum) -> String {
    let mut text = String::new();
    if !sum.hops.is_empty() {
        // A hop at which nobody has answered has a row, too.
        let rows: Vec<HopRow<'_>> = sum
            .hops
            .iter()
            .flat_map(|hop| match hop.nodes.as_slice() {
                [] => vec![(hop, None)],
                nodes => nodes.iter().map(|node| (hop, Some(node))).collect(),
            })
            .collect();
        let time = |node: &Option<&NodeSum>, of: fn(&Times) -> u64| millis(node.map(|node| of(&node.times)));
        let columns: [Column<'_, HopRow<'_>>; 8] = [
            (numbers("hop"), &|(hop, _)| hop.hop.to_string()),
            (numbers("sent"), &|(hop, _)| hop.sent.to_string()),
            (numbers("lost"), &|(hop, _)| percent(hop.lost, hop.sent)),
            (numbers("last"), &|(_, node)| time(node, |times| times.last_us)),
            (numbers("best"), &|(_, node)| time(node, |times| times.best_us)),
            (numbers("mean"), &|(_, node)| time(node, |times| times.mean_us)),
            (numbers("worst"), &|(_, node)| time(node, |times| times.worst_us)),
            (words("node"), &|(_, node)| node.map_or_else(|| "*".to_owned(), NodeSum::said)),
        ];
        text.push('\n');
        text.push_str(&table(&rows, &columns));
    }
    let Sum { sent, lost, times, .. } = sum;
    let _ = writeln!(
        text,
        "\n{}: {sent} pings, {} answered, {} lost",
        label(&sum.node, &sum.name),
        times.answered,
        percent(*lost, *sent)
    );
    text
}

fn percent(part: u32, whole: u32) -> String {
    format!("{:.0} %", 100.0 * f64::from(part) / f64::from(whole.max(1)))
}

#[cfg(test)]
mod tests {
    use PingOutcome::{Answered, Passed, Silent};

    use super::*;

    fn round(hops: &[(Option<&str>, PingOutcome, u64)]) -> PingRound {
        let last = hops.last().filter(|(_, outcome, _)| *outcome == Answered);
        PingRound {
            node: "cd".repeat(64),
            name: "bank\u{1b}[2J".to_owned(),
            standing: Standing::Reachable,
            lost_since: None,
            known_hops: None,
            outcome: if last.is_some() { Answered } else { Silent },
            round_trip_us: last.map(|(.., micros)| *micros),
            hops: (1..)
                .zip(hops)
                .map(|(hop, &(node, outcome, micros))| PingHop {
                    hop,
                    node: node.map(|node| node.repeat(64)),
                    name: String::new(),
                    outcome,
                    round_trip_us: node.map(|_| micros),
                })
                .collect(),
        }
    }

    #[test]
    fn rounds_add_up_to_a_table_of_hops_with_times_and_losses() {
        let first = round(&[(Some("ab"), Passed, 1_000), (None, Silent, 0), (Some("cd"), Answered, 3_000)]);
        let mut sum = Sum::new(&first);
        sum.add(first);
        sum.add(round(&[(Some("ef"), Passed, 500), (None, Silent, 0), (None, Silent, 0)]));
        sum.add(round(&[(Some("ab"), Passed, 2_000), (None, Silent, 0), (Some("cd"), Answered, 6_000)]));
        let expected = "
  hop  sent   lost      last      best      mean     worst  node
    1     3    0 %  2.000 ms  1.000 ms  1.500 ms  2.000 ms  abababab
    1     3    0 %  0.500 ms  0.500 ms  0.500 ms  0.500 ms  efefefef
    2     3  100 %         -         -         -         -  *
    3     3   33 %  6.000 ms  3.000 ms  4.500 ms  6.000 ms  cdcdcdcd

cdcdcdcd (bank\\u{1b}[2J): 3 pings, 2 answered, 33 % lost
";
        assert_eq!(show(&sum), expected);
        let json: serde_json::Value = serde_json::to_value(&sum).unwrap();
        assert_eq!((&json["sent"], &json["lost"], &json["mean_us"]), (&3.into(), &1.into(), &4_500.into()));
        assert_eq!(json["hops"][0]["nodes"][1]["node"], "ef".repeat(64));
    }

    #[test]
    fn a_round_is_a_line_that_says_what_is_wrong() {
        let answered = round(&[(Some("cd"), Answered, 1_234)]);
        let line = show_round(1, &answered);
        assert_eq!(line, "round 1: cdcdcdcd (bank\\u{1b}[2J) answers over 1 hop in 1.234 ms");
        let silent = round(&[(None, Silent, 0)]);
        assert!(show_round(2, &silent).ends_with(": no answer"));
        let lost = PingRound { lost_since: Some("2026-11-21T12:00:00Z".to_owned()), ..silent };
        assert!(show_round(3, &lost).ends_with(": no links lead to it since 2026-11-21T12:00:00Z"));
    }

    #[test]
    fn a_node_is_named_by_hex_digits() {
        assert_eq!(beginning("AB12"), Ok("ab12".to_owned()));
        for wrong in ["", "node0", "0x12", "ab/..", &"a".repeat(129)] {
            assert!(beginning(wrong).is_err(), "{wrong}");
        }
    }
}
