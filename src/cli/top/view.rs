//! The state of the full-screen view: what is known of each node, what is shown of it and in which order. Keys and looks come
//! in, rows of cells come out; nothing here knows a terminal or a clock.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use super::{
    look::{ANSWERS, Look, Rates},
    plain::FILL_WORTH_A_LOOK,
};
use crate::{
    cli::{
        net::{name_of, names},
        text::{bytes, millis, or_dash, short},
    },
    escape::shown,
};

/// What is known of a node.
pub(super) struct NodeState {
    /// Its admin endpoint.
    pub(super) address: String,
    pub(super) before: Option<Look>,
    pub(super) now: Option<Look>,
    /// Since when it is not reached, and why.
    pub(super) unreachable: Option<(String, String)>,
    /// When it was seen to have started anew.
    pub(super) restarted: Option<String>,
}

impl NodeState {
    pub(super) fn rates(&self) -> Option<Rates<'_>> {
        Rates::between(self.before.as_ref()?, self.now.as_ref()?)
    }
}

/// What is shown below of the node that is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    Links,
    Sessions,
    Bounds,
    Trouble,
    /// Ledger nodes and nodes of FISCO BCOS 2.x.
    Others,
}

impl Panel {
    pub(super) const ALL: [Self; 5] =
        [Self::Links, Self::Sessions, Self::Bounds, Self::Trouble, Self::Others];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Links => "Links",
            Self::Sessions => "Sessions",
            Self::Bounds => "Bounds",
            Self::Trouble => "Trouble",
            Self::Others => "FISCO BCOS",
        }
    }

    /// The titles of its columns, and whether what is below them is numbers.
    pub(super) fn columns(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Links => &[
                ("to", false),
                ("state", false),
                ("round trip", true),
                ("in/s", true),
                ("out/s", true),
                ("queued", true),
                ("name", false),
                ("address", false),
            ],
            Self::Sessions => &[
                ("queued", true),
                ("requests", true),
                ("pushes", true),
                ("dropped", true),
                ("topics", true),
                ("address", false),
                ("subject", false),
                ("session", false),
            ],
            Self::Bounds => &[("reached", true), ("now", true), ("bound", true), ("metric", false)],
            Self::Trouble => &[("since", true), ("per second", true), ("metric", false)],
            Self::Others => {
                &[("kind", false), ("address", false), ("waiting", true), ("queued", true), ("state", false)]
            }
        }
    }
}

/// A cell, and what it is sorted by if it is a number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    number: Option<f64>,
    /// Whether somebody should look at it.
    pub(super) is_alarming: bool,
}

fn word(text: String) -> Cell {
    Cell { text, number: None, is_alarming: false }
}

fn number(value: f64, text: String) -> Cell {
    Cell { text, number: Some(value), is_alarming: false }
}

fn count(value: usize) -> Cell {
    number(value as f64, value.to_string())
}

/// What the program does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Quit,
}

/// All of it.
pub(super) struct View {
    pub(super) nodes: Vec<NodeState>,
    /// The node of which more is shown.
    pub(super) chosen: usize,
    pub(super) panel: Panel,
    /// The column by which each panel is sorted, and whether from the largest down.
    sorts: [(usize, bool); Panel::ALL.len()],
    /// The first row that is shown of the panel.
    pub(super) scrolled: usize,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
}

impl View {
    pub(super) fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let node =
            |address| NodeState { address, before: None, now: None, unreachable: None, restarted: None };
        Self {
            nodes: addresses.into_iter().map(node).collect(),
            chosen: 0,
            panel: Panel::Links,
            // Most traffic, most waiting, the fullest, what grew most; others by their kind.
            sorts: [(3, true), (0, true), (0, true), (0, true), (0, false)],
            scrolled: 0,
            is_paused: false,
            shows_help: false,
        }
    }

    /// A node was asked at that time of day.
    pub(super) fn take(&mut self, node: usize, asked: Result<Look, String>, at: &str) {
        let Some(node) = self.nodes.get_mut(node).filter(|_| !self.is_paused) else { return };
        match asked {
            Ok(look) => {
                node.unreachable = None;
                node.before = node.now.take();
                if node.before.as_ref().is_some_and(|before| Rates::between(before, &look).is_none()) {
                    node.restarted = Some(at.to_owned());
                }
                node.now = Some(look);
            }
            Err(why) => {
                let since = node.unreachable.take().map_or_else(|| at.to_owned(), |(since, _)| since);
                node.unreachable = Some((since, why));
            }
        }
    }

    pub(super) fn handle_key(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Flow {
        if self.shows_help {
            self.shows_help = false;
            return Flow::GoOn;
        }
        let columns = self.panel.columns().len();
        let (column, is_down) = &mut self.sorts[self.panel as usize];
        match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Flow::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('l') => self.show(Panel::Links),
            KeyCode::Char('s') => self.show(Panel::Sessions),
            KeyCode::Char('b') => self.show(Panel::Bounds),
            KeyCode::Char('t') => self.show(Panel::Trouble),
            KeyCode::Char('f') => self.show(Panel::Others),
            KeyCode::Tab => self.show(Panel::ALL[(self.panel as usize + 1) % Panel::ALL.len()]),
            KeyCode::BackTab => {
                self.show(Panel::ALL[(self.panel as usize + Panel::ALL.len() - 1) % Panel::ALL.len()]);
            }
            KeyCode::Char('<') | KeyCode::Left => *column = (*column + columns - 1) % columns,
            KeyCode::Char('>') | KeyCode::Right => *column = (*column + 1) % columns,
            KeyCode::Char('r') => *is_down = !*is_down,
            KeyCode::Up => self.choose(self.chosen.saturating_sub(1)),
            KeyCode::Down => self.choose(self.chosen + 1),
            KeyCode::Char(digit @ '1'..='9') => self.choose(digit as usize - '1' as usize),
            KeyCode::PageDown => {
                self.scrolled = (self.scrolled + 10).min(self.rows().len().saturating_sub(1))
            }
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        Flow::GoOn
    }

    fn show(&mut self, panel: Panel) {
        (self.panel, self.scrolled) = (panel, 0);
    }

    fn choose(&mut self, node: usize) {
        (self.chosen, self.scrolled) = (node.min(self.nodes.len().saturating_sub(1)), 0);
    }

    /// The column by which the panel is sorted, and whether from the largest down.
    pub(super) fn sort(&self) -> (usize, bool) {
        self.sorts[self.panel as usize]
    }

    /// The rows of the panel in their order.
    pub(super) fn rows(&self) -> Vec<Vec<Cell>> {
        let Some(node) = self.nodes.get(self.chosen) else { return Vec::new() };
        let mut rows = match self.panel {
            Panel::Links => links(node),
            Panel::Sessions => sessions(node),
            Panel::Bounds => fills(node),
            Panel::Trouble => trouble(node),
            Panel::Others => others(node),
        };
        let (column, is_down) = self.sort();
        rows.sort_by(|a, b| {
            let order = match (a[column].number, b[column].number) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => a[column].text.cmp(&b[column].text),
            };
            if is_down { order.reverse() } else { order }
        });
        rows
    }
}

fn links(node: &NodeState) -> Vec<Vec<Cell>> {
    let Some(rates) = node.rates() else { return Vec::new() };
    let names = names(&rates.now.network);
    let row = |(received, sent, link): (f64, f64, &crate::admin::json::Link)| {
        let round_trip = link.round_trip_smoothed_us;
        vec![
            word(short(&link.peer)),
            word(shown(&link.state)),
            number(round_trip.map_or(-1.0, |micros| micros as f64), millis(round_trip)),
            number(received, bytes(received)),
            number(sent, bytes(sent)),
            number(link.queued_bytes as f64, bytes(link.queued_bytes as f64)),
            word(name_of(&link.peer, &names)),
            word(shown(&link.address)),
        ]
    };
    rates.links().into_iter().map(row).collect()
}

fn sessions(node: &NodeState) -> Vec<Vec<Cell>> {
    let items = node.now.iter().flat_map(|look| &look.sessions.items);
    let row = |session: &crate::admin::json::Session| {
        let mut queued = number(session.queued_bytes as f64, bytes(session.queued_bytes as f64));
        queued.is_alarming = session.queued_bytes > 0;
        vec![
            queued,
            count(session.pending_requests),
            count(session.pending_pushes),
            number(session.dropped_copies as f64, session.dropped_copies.to_string()),
            count(session.topics),
            word(shown(&session.address)),
            word(shown(&session.subject)),
            word(shown(&session.id)),
        ]
    };
    items.map(row).collect()
}

fn fills(node: &NodeState) -> Vec<Vec<Cell>> {
    let fills = node.now.iter().flat_map(|look| look.metrics.fills());
    let row = |(metric, value, bound, part): super::look::Fill| {
        let mut reached = number(part, format!("{:.1} %", 100.0 * part));
        reached.is_alarming = part >= FILL_WORTH_A_LOOK;
        vec![reached, number(value, value.to_string()), number(bound, bound.to_string()), word(shown(metric))]
    };
    fills.map(row).collect()
}

fn trouble(node: &NodeState) -> Vec<Vec<Cell>> {
    let Some(rates) = node.rates() else { return Vec::new() };
    let row = |(grown, metric): (f64, &str)| {
        let mut since = number(grown, format!("+{grown}"));
        since.is_alarming = true;
        let each = grown / rates.seconds;
        vec![since, number(each, format!("{each:.1}")), word(shown(metric))]
    };
    rates.trouble().into_iter().map(row).collect()
}

fn others(node: &NodeState) -> Vec<Vec<Cell>> {
    let Some(look) = &node.now else { return Vec::new() };
    let ledgers = look.ledgers.iter().map(|ledger| {
        let state = ledger
            .failure
            .as_ref()
            .map(|failure| format!("{}; {}", shown(&failure.reason), shown(&failure.remedy)));
        let mut state_cell = word(state.clone().unwrap_or_else(|| format!("{} sessions", ledger.sessions)));
        state_cell.is_alarming = state.is_some();
        let queued = number(ledger.queued_bytes as f64, bytes(ledger.queued_bytes as f64));
        vec![
            word("ledger".to_owned()),
            word(shown(&ledger.address)),
            count(ledger.pending_requests),
            queued,
            state_cell,
        ]
    });
    let peers = look.peers_2x.items.iter().map(|peer| {
        let mut state = word(shown(&peer.state));
        state.is_alarming = peer.state == "silent";
        let queued = number(peer.queued_bytes as f64, bytes(peer.queued_bytes as f64));
        let waiting = count(peer.pending_requests + peer.pending_pushes);
        vec![word("node of 2.x".to_owned()), word(shown(&peer.address)), waiting, queued, state]
    });
    ledgers.chain(peers).collect()
}

/// The titles of the table of nodes.
pub(super) const NODE_COLUMNS: [&str; 9] =
    ["node", "name", "up", "sessions", "msg/s", "answers/s", "not 0/s", "p99", "in queues"];

/// In the two largest units, without more room than it takes.
fn short_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A row of the table of nodes.
pub(super) fn node_row(node: &NodeState) -> Vec<Cell> {
    let Some(now) = &node.now else {
        let mut row = vec![word("-".to_owned()); NODE_COLUMNS.len()];
        row[1] = word(shown(&node.address));
        return row;
    };
    let own = now.own();
    let of = |rates: Option<f64>| {
        rates.map_or_else(|| word("-".to_owned()), |rate| number(rate, format!("{rate:.1}")))
    };
    let rates = node.rates();
    let rate =
        |names: &[&str]| rates.as_ref().map(|rates| names.iter().map(|name| rates.of(name)).sum::<f64>());
    let failed: Vec<&str> = ANSWERS[1..].iter().map(|(_, metric)| *metric).collect();
    let mut not_0 = of(rate(&failed));
    not_0.is_alarming = not_0.number.is_some_and(|rate| rate > 0.0);
    let name = own.and_then(|node| node.name.as_deref()).filter(|name| !name.is_empty());
    let queued = now.metrics.sum("amop_queues_bytes");
    vec![
        word(own.map_or_else(|| "-".to_owned(), |node| short(&node.id))),
        word(shown(name.unwrap_or(&node.address))),
        number(now.up_seconds() as f64, short_age(now.up_seconds())),
        number(now.metrics.sum("amop_sessions"), now.metrics.sum("amop_sessions").to_string()),
        of(rate(&["amop_requests_total", "amop_multicasts_total"])),
        of(rate(&[ANSWERS[0].1])),
        not_0,
        word(rates.as_ref().map_or_else(|| "-".to_owned(), |rates| latency(rates, 0.99))),
        number(queued, bytes(queued)),
    ]
}

/// A quantile of latency as text: the bound of the bucket that it is in.
pub(super) fn latency(rates: &Rates<'_>, quantile: f64) -> String {
    match rates.latency_us(quantile) {
        Some(u64::MAX) => "longer".to_owned(),
        Some(micros @ ..1_000) => format!("≤{micros} µs"),
        Some(micros @ ..1_000_000) => format!("≤{} ms", micros as f64 / 1e3),
        micros => or_dash(micros.map(|micros| format!("≤{} s", micros as f64 / 1e6))),
    }
}

/// What goes on at the node that is chosen, in lines.
pub(super) fn details(node: &NodeState) -> Vec<(&'static str, String)> {
    let Some(rates) = node.rates() else { return Vec::new() };
    let count = |name: &str| format!("{:.1}", rates.of(name));
    let volume = |name: &str| bytes(rates.of(name));
    let now = |name: &str| rates.now.metrics.sum(name);
    let answers: Vec<String> =
        ANSWERS.iter().map(|(code, name)| format!("{code}: {}", count(name))).collect();
    vec![
        (
            "messages/s",
            format!(
                "unicast {}  multicast {}  copies {}  dropped {}",
                count("amop_requests_total"),
                count("amop_multicasts_total"),
                count("amop_deliveries_total"),
                count("amop_dropped_queue_full_total")
            ),
        ),
        ("answers/s", answers.join("  ")),
        (
            "latency",
            format!(
                "p50 {}  p90 {}  p99 {}",
                latency(&rates, 0.5),
                latency(&rates, 0.9),
                latency(&rates, 0.99)
            ),
        ),
        (
            "bytes/s",
            format!(
                "in {}  out {}  passed on for others {}",
                volume("amop_received_bytes_total"),
                volume("amop_sent_bytes_total"),
                volume("amop_relayed_bytes_total")
            ),
        ),
        (
            "waiting",
            format!(
                "requests {}  pushes {}  answers of nodes {}  in queues {}",
                now("amop_pending_requests"),
                now("amop_pending_pushes"),
                now("amop_awaited_answers"),
                bytes(now("amop_queues_bytes"))
            ),
        ),
        (
            "network",
            format!(
                "neighbours {}  nodes reached {} of {}  topics {}  memory {}",
                now("amop_neighbours"),
                rates.now.network.reachable,
                rates.now.network.total.saturating_sub(1),
                now("amop_routed_topics"),
                bytes(now("process_resident_memory_bytes"))
            ),
        ),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cli::top::look::tests::{TEXT, look};

    /// A node with a link and two sessions, `seconds` after the start, with so many requests until then.
    pub(in crate::cli::top) fn busy(seconds: u64, requests: u64, started: u64, start: Instant) -> Look {
        let metrics = format!(
            "{TEXT}process_start_time_seconds {started}\namop_requests_total {requests}\namop_answered_timeout_total {}\n",
            requests / 10
        );
        let mut look = look(&metrics, Duration::from_secs(seconds), start);
        let id = "8ebe277b".repeat(16);
        let link = serde_json::json!({
            "reactor": 0, "link": 1, "kind": "node", "peer": id, "address": "10.0.0.2:30300", "state": "active",
            "round_trip_us": 900, "round_trip_smoothed_us": 1_000, "received_frames": 1, "received_bytes": 4_096 * seconds,
            "sent_frames": 1, "sent_bytes": 0, "queued_bytes": 0, "up_since": "2026-11-30T12:00:00Z",
        });
        look.network.links = vec![serde_json::from_value(link).unwrap()];
        let session = |number: u64, queued: u64| {
            serde_json::from_value(serde_json::json!({
                "id": number.to_string(), "reactor": 0, "address": format!("10.0.1.{number}:5000"),
                "subject": "CN=\u{1b}[2Jshop", "connected_since": "", "topics": number, "queued_bytes": queued,
                "pending_requests": 0, "pending_pushes": 0, "waiting_requests": 0, "dropped_copies": 0,
            }))
            .unwrap()
        };
        look.sessions.items = vec![session(1, 0), session(2, 2_048)];
        look
    }

    fn press(view: &mut View, key: KeyCode) -> Flow {
        view.handle_key(key, KeyModifiers::NONE)
    }

    fn view() -> View {
        let mut view = View::new(["127.0.0.1:9100", "127.0.0.1:9101"].map(str::to_owned));
        let start = Instant::now();
        for (seconds, requests) in [(0, 0), (2, 100)] {
            view.take(0, Ok(busy(seconds, requests, 7, start)), "12:00:00");
        }
        view
    }

    #[test]
    fn rows_are_sorted_by_the_chosen_column_up_or_down() {
        let mut view = view();
        press(&mut view, KeyCode::Char('s'));
        let first = |view: &View, column: usize| view.rows()[0][column].text.clone();
        assert_eq!(first(&view, 0), "2.0 KiB", "who has most waiting is first");
        assert!(view.rows()[0][0].is_alarming && !view.rows()[1][0].is_alarming);
        press(&mut view, KeyCode::Char('r'));
        assert_eq!(first(&view, 0), "0 B");
        for _ in 0..4 {
            press(&mut view, KeyCode::Char('>'));
        }
        assert_eq!(first(&view, 4), "1", "by topics");
        press(&mut view, KeyCode::Char('r'));
        assert_eq!(first(&view, 4), "2");
        press(&mut view, KeyCode::Left);
        assert_eq!(view.sort().0, 3);
    }

    #[test]
    fn each_panel_has_as_many_cells_as_columns_and_each_key_leads_to_one() {
        let mut view = view();
        for (key, panel) in [
            ('l', Panel::Links),
            ('s', Panel::Sessions),
            ('b', Panel::Bounds),
            ('t', Panel::Trouble),
            ('f', Panel::Others),
        ] {
            press(&mut view, KeyCode::Char(key));
            assert_eq!(view.panel, panel);
            assert!(view.rows().iter().all(|row| row.len() == panel.columns().len()));
        }
        press(&mut view, KeyCode::Tab);
        assert_eq!(view.panel, Panel::Links);
        press(&mut view, KeyCode::BackTab);
        assert_eq!(view.panel, Panel::Others);
        assert_eq!(view.rows().len(), 0);
    }

    #[test]
    fn a_node_that_is_gone_keeps_its_figures_and_when_it_went_and_one_that_is_back_is_known_to_be_new() {
        let mut view = view();
        view.take(0, Err("connection refused".to_owned()), "12:00:02");
        view.take(0, Err("still refused".to_owned()), "12:00:04");
        assert_eq!(view.nodes[0].unreachable, Some(("12:00:02".to_owned(), "still refused".to_owned())));
        assert!(view.nodes[0].rates().is_some());
        let start = Instant::now();
        view.take(0, Ok(busy(0, 5, 8, start)), "12:00:06");
        assert!(view.nodes[0].unreachable.is_none() && view.nodes[0].rates().is_none());
        assert_eq!(view.nodes[0].restarted.as_deref(), Some("12:00:06"));
        view.take(0, Ok(busy(2, 9, 8, start)), "12:00:08");
        assert_eq!(view.nodes[0].rates().map(|rates| rates.of("amop_requests_total")), Some(2.0));
    }

    #[test]
    fn a_pause_holds_what_is_shown_and_keys_choose_nodes_within_those_there_are() {
        let mut view = view();
        press(&mut view, KeyCode::Char('p'));
        view.take(0, Err("gone".to_owned()), "12:00:02");
        assert!(view.is_paused && view.nodes[0].unreachable.is_none());
        press(&mut view, KeyCode::Char(' '));
        view.take(0, Err("gone".to_owned()), "12:00:04");
        assert!(view.nodes[0].unreachable.is_some());
        for (key, chosen) in [
            (KeyCode::Down, 1),
            (KeyCode::Down, 1),
            (KeyCode::Char('1'), 0),
            (KeyCode::Up, 0),
            (KeyCode::Char('9'), 1),
        ] {
            press(&mut view, key);
            assert_eq!(view.chosen, chosen);
        }
        assert_eq!(press(&mut view, KeyCode::Char('?')), Flow::GoOn);
        assert!(view.shows_help);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Flow::GoOn, "it closes the help");
        assert_eq!(press(&mut view, KeyCode::Char('q')), Flow::Quit);
        assert_eq!(view.handle_key(KeyCode::Char('c'), KeyModifiers::CONTROL), Flow::Quit);
    }
}
