//! What `amop top` prints where there is no terminal to draw on.

use std::fmt::Write;

use super::look::{ANSWERS, Fill, LinkRates, Look, MetricValues, Rates};
use crate::{
    admin::json::{LedgerNode, Page, Peer2x, Session},
    cli::{
        net::{name_of, names},
        text::{Column, bytes, millis, numbers, short, table, words},
    },
    escape::shown,
};

/// Sessions that are shown as those that do not keep up.
const SESSIONS_SHOWN: usize = 10;
/// Links that are shown, those with most traffic first.
const LINKS_SHOWN: usize = 10;
/// Metrics that are shown with their bound, the fullest first.
const FILLS_SHOWN: usize = 8;
/// Part of a bound from which a metric is marked.
pub(super) const FILL_WORTH_A_LOOK: f64 = 0.8;

/// A look, and what went on since the one before.
pub(super) fn show(before: &Look, now: &Look) -> String {
    let mut text = head(now);
    let Some(rates) = Rates::between(before, now) else {
        text.push_str("\nthe node has started anew since the last look\n");
        return text;
    };
    show_rates(&mut text, &rates);
    show_trouble(&mut text, &rates);
    show_fills(&mut text, &now.metrics);
    show_links(&mut text, &rates);
    if now.peers_2x.total > 0 {
        show_peers_2x(&mut text, &rates, &now.peers_2x);
    }
    if !now.ledgers.is_empty() {
        show_ledgers(&mut text, &rates, &now.ledgers);
    }
    show_sessions(&mut text, &now.sessions);
    text
}

fn head(now: &Look) -> String {
    let metrics = &now.metrics;
    let (id, name) = now.own().map_or_else(Default::default, |node| {
        (short(&node.id), [&node.agency, &node.name].map(|part| shown(part.as_deref().unwrap_or_default())))
    });
    format!(
        "node {id}, up {}; sessions {}, neighbours {}, other nodes reached {} of {}, topics routed {}, memory {}\nagency {}, name {}\n",
        age(now.up_seconds()),
        metrics.sum("amop_sessions"),
        metrics.sum("amop_neighbours"),
        now.network.reachable,
        now.network.total.saturating_sub(1),
        metrics.sum("amop_routed_topics"),
        bytes(metrics.sum("process_resident_memory_bytes")),
        name[0],
        name[1],
    )
}

/// In the two largest units.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn show_rates(text: &mut String, rates: &Rates<'_>) {
    let _ = writeln!(text, "\nper second, over {:.1} s", rates.seconds);
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let volume = |name: &str| bytes(rates.of(name));
    let rows = [
        [
            "messages taken from sessions".to_owned(),
            format!("unicast {}", count("amop_requests_total")),
            format!("multicast {}", count("amop_multicasts_total")),
        ],
        [
            "copies for subscribers".to_owned(),
            format!("queued {}", count("amop_deliveries_total")),
            format!("dropped {}", count("amop_dropped_queue_full_total")),
        ],
        [
            "frames of applications".to_owned(),
            format!("in {}", count("amop_sdk_frames_received_total")),
            format!("out {}", count("amop_sdk_frames_sent_total")),
        ],
        [
            "frames of nodes".to_owned(),
            format!("in {}", count("amop_node_frames_received_total")),
            format!("out {}", count("amop_node_frames_sent_total")),
        ],
        [
            "of them passed on for others".to_owned(),
            format!("frames {}", count("amop_relayed_total")),
            format!("bytes {}", volume("amop_relayed_bytes_total")),
        ],
        [
            "bytes".to_owned(),
            format!("in {}", volume("amop_received_bytes_total")),
            format!("out {}", volume("amop_sent_bytes_total")),
        ],
    ];
    let columns: [Column<'_, [String; 3]>; 3] = [
        (words(""), &|row| row[0].clone()),
        (words(""), &|row| row[1].clone()),
        (words(""), &|row| row[2].clone()),
    ];
    text.push_str(&table(&rows, &columns));
    let answers: Vec<String> =
        ANSWERS.iter().map(|(code, name)| format!("{code}: {}", count(name))).collect();
    let _ = writeln!(text, "  answers by code               {}", answers.join("  "));
    let waiting = ["amop_pending_requests", "amop_pending_pushes", "amop_awaited_answers"];
    let [requests, pushes, answers] = waiting.map(|name| rates.now.metrics.sum(name));
    let _ = writeln!(
        text,
        "  waiting now                   requests {requests}  pushes {pushes}  answers of nodes {answers}  in queues {}",
        bytes(rates.now.metrics.sum("amop_queues_bytes"))
    );
}

fn show_trouble(text: &mut String, rates: &Rates<'_>) {
    let growing = rates.trouble();
    if !growing.is_empty() {
        text.push_str("\nwhat did not go as it should\n");
        let columns: [Column<'_, (f64, &str)>; 2] = [
            (numbers("since"), &|(grown, _)| format!("+{grown}")),
            (words("metric"), &|(_, name)| shown(name)),
        ];
        text.push_str(&table(&growing, &columns));
    }
}

fn show_fills(text: &mut String, metrics: &MetricValues) {
    text.push_str("\nnearest to their bound\n");
    let fills: Vec<_> = metrics.fills().into_iter().take(FILLS_SHOWN).collect();
    let columns: [Column<'_, Fill>; 5] = [
        (words(""), &|&(.., part)| if part >= FILL_WORTH_A_LOOK { "!" } else { "" }.to_owned()),
        (numbers("reached"), &|(.., part)| format!("{:.1} %", 100.0 * part)),
        (numbers("now"), &|(_, value, ..)| value.to_string()),
        (numbers("bound"), &|(_, _, bound, _)| bound.to_string()),
        (words("metric"), &|(name, ..)| shown(name)),
    ];
    text.push_str(&table(&fills, &columns));
}

fn show_links(text: &mut String, rates: &Rates<'_>) {
    let names = names(&rates.now.network);
    let mut links = rates.links();
    let _ = writeln!(text, "\nlinks to nodes: {}", links.len());
    links.truncate(LINKS_SHOWN);
    let columns: [Column<'_, LinkRates<'_>>; 8] = [
        (words("to"), &|(.., link)| short(&link.peer)),
        (words("state"), &|(.., link)| shown(&link.state)),
        (numbers("round trip"), &|(.., link)| millis(link.round_trip_smoothed_us)),
        (numbers("in"), &|(received, ..)| format!("{}/s", bytes(*received))),
        (numbers("out"), &|(_, sent, _)| format!("{}/s", bytes(*sent))),
        (numbers("queued"), &|(.., link)| bytes(link.queued_bytes as f64)),
        (words("address"), &|(.., link)| shown(&link.address)),
        (words("name"), &|(.., link)| name_of(&link.peer, &names)),
    ];
    text.push_str(&table(&links, &columns));
}

/// Nodes of FISCO BCOS 2.x, and what passes between the two networks.
fn show_peers_2x(text: &mut String, rates: &Rates<'_>, peers: &Page<Peer2x>) {
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let _ = writeln!(
        text,
        "\nnodes of FISCO BCOS 2.x: {}; per second: requests of theirs {}, multicasts {}, not answered there {}",
        peers.total,
        count("amop_peer_2x_requests_total"),
        count("amop_peer_2x_multicasts_total"),
        count("amop_peer_2x_not_answered_total"),
    );
    let state = |peer: &Peer2x| match shown(&peer.state).as_str() {
        "active" => "this node is its gateway".to_owned(),
        "spare" => "another node is its gateway".to_owned(),
        "silent" => "silent: see whether it runs".to_owned(),
        other => other.to_owned(),
    };
    let columns: [Column<'_, Peer2x>; 6] = [
        (words("address"), &|peer| shown(&peer.address)),
        (numbers("topics"), &|peer| peer.topics.to_string()),
        (numbers("waiting"), &|peer| format!("{} + {}", peer.pending_requests, peer.pending_pushes)),
        (numbers("queued"), &|peer| bytes(peer.queued_bytes as f64)),
        (numbers("dropped"), &|peer| peer.dropped_copies.to_string()),
        (words("state"), &state),
    ];
    text.push_str(&table(&peers.items, &columns));
}

/// Ledger nodes, and what passes between applications and them.
fn show_ledgers(text: &mut String, rates: &Rates<'_>, ledgers: &[LedgerNode]) {
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let (asked, took) = (rates.of("amop_ledger_seconds_count"), rates.of("amop_ledger_seconds_sum"));
    let mean = millis((asked > 0.0).then_some((1e6 * took / asked) as u64));
    let _ = writeln!(
        text,
        "\nledger nodes: {}; per second: requests {}, notices {}, outcome unknown {}, messages to them {:.1}, from them {}; an answer takes {mean}",
        ledgers.len(),
        count("amop_ledger_requests_total"),
        count("amop_ledger_notices_total"),
        count("amop_ledger_outcome_unknown_total"),
        rates.of("amop_ledger_unicasts_total") + rates.of("amop_ledger_multicasts_total"),
        count("amop_ledger_pushes_total"),
    );
    let state = |ledger: &LedgerNode| match &ledger.failure {
        Some(failure) => format!("not reached: {}; {}", shown(&failure.reason), shown(&failure.remedy)),
        None if ledger.dials == 0 => "not needed so far".to_owned(),
        None => "reached".to_owned(),
    };
    let columns: [Column<'_, LedgerNode>; 6] = [
        (words("address"), &|ledger| shown(&ledger.address)),
        (numbers("sessions"), &|ledger| ledger.sessions.to_string()),
        (numbers("waiting"), &|ledger| ledger.pending_requests.to_string()),
        (numbers("queued"), &|ledger| bytes(ledger.queued_bytes as f64)),
        (numbers("dials failed"), &|ledger| format!("{} of {}", ledger.dials_failed, ledger.dials)),
        (words("state"), &state),
    ];
    text.push_str(&table(ledgers, &columns));
}

fn show_sessions(text: &mut String, sessions: &Page<Session>) {
    let slow: Vec<_> =
        sessions.items.iter().filter(|session| session.queued_bytes > 0).take(SESSIONS_SHOWN).collect();
    if slow.is_empty() {
        text.push_str("\nall sessions keep up\n");
        return;
    }
    text.push_str("\nsessions that do not keep up\n");
    let columns: [Column<'_, &Session>; 7] = [
        (words("session"), &|session| shown(&session.id)),
        (words("dialect"), &|session| shown(&session.dialect)),
        (numbers("queued"), &|session| bytes(session.queued_bytes as f64)),
        (numbers("requests"), &|session| session.pending_requests.to_string()),
        (numbers("pushes"), &|session| session.pending_pushes.to_string()),
        (words("address"), &|session| shown(&session.address)),
        (words("subject"), &|session| shown(&session.subject)),
    ];
    text.push_str(&table(&slow, &columns));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cli::top::look::tests::{TEXT, look};

    #[test]
    fn a_metric_at_its_bound_is_marked_and_what_did_not_go_well_is_named() {
        let start = Instant::now();
        let before = look(TEXT, Duration::ZERO, start);
        let now = look(
            &TEXT.replace("total{reactor=\"0\"} 3", "total{reactor=\"0\"} 5"),
            Duration::from_secs(2),
            start,
        );
        let text = show(&before, &now);
        assert!(text.contains("  !  100.0 %  100    100  amop_sessions\n"), "{text}");
        assert!(text.contains("+2  amop_closed_stalled_total"), "{text}");
        assert!(!show(&before, &before).contains("amop_closed_stalled_total"));
    }
}
