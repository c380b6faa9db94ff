//! The full-screen view on a terminal of any size.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Row, Table, Wrap},
};

use super::view::{Cell, NODE_COLUMNS, NodeState, Panel, View, details, node_row};

/// Rows of nodes that are shown at once where there is little room.
const NODE_ROWS_MAX: usize = 6;
/// Columns of a terminal from which on there is more room between columns.
const WIDE: u16 = 100;
/// Lines that why a node is not reached may take.
const STATE_LINES_MAX: usize = 3;

/// How things look.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// Whether there are colours (NO_COLOR).
    pub(super) has_colours: bool,
}

impl Look {
    fn coloured(self, colour: Color, otherwise: Modifier) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    fn alarm(self) -> Style {
        self.coloured(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    fn title(self) -> Style {
        self.coloured(Color::Cyan, Modifier::BOLD)
    }

    fn quiet(self) -> Style {
        self.coloured(Color::DarkGray, Modifier::DIM)
    }
}

const KEYS: &str = " q quit  ? help  ↑↓ node  Tab what is below  ←→ column  r reverse  p pause";

const HELP: [(&str, &str); 10] = [
    ("q, Esc, Ctrl-C", "end"),
    ("↑ ↓, 1 to 9", "choose a node"),
    ("l", "its links to other nodes"),
    ("s", "its sessions, those first that have most waiting"),
    ("b", "metrics and their bounds, the fullest first"),
    ("t", "what did not go as it should since the last look"),
    ("f", "ledger nodes, and nodes of FISCO BCOS 2.x"),
    ("← →, < >", "sort by another column"),
    ("r", "from the largest down, or from the smallest up"),
    ("p, space", "stop and go on"),
];

/// Draws all of it; `at` is the time of day.
pub(super) fn draw(view: &View, look: Look, at: &str, frame: &mut Frame<'_>) {
    let node_rows = view.nodes.len().min(NODE_ROWS_MAX) as u16;
    let lines = view.nodes.get(view.chosen).map(details).unwrap_or_default();
    let width = usize::from(frame.area().width.max(1));
    let state = view.nodes.get(view.chosen).and_then(|node| state_of(node, look, width));
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(node_rows + 1),
        Constraint::Length(state.as_ref().map_or(0, |(_, lines)| *lines)),
        Constraint::Length(lines.len() as u16 + 1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .split(frame.area());
    draw_head(view, look, at, frame, areas[0]);
    draw_nodes(view, look, frame, areas[1]);
    if let Some((state, _)) = state {
        frame.render_widget(state, areas[2]);
    }
    let label = |(name, text): (&'static str, String)| {
        Line::from(vec![Span::styled(format!(" {name:11}"), look.title()), Span::raw(text)])
    };
    frame.render_widget(Paragraph::new(lines.into_iter().map(label).collect::<Vec<_>>()), areas[3]);
    draw_panel(view, look, frame, areas[4]);
    frame.render_widget(Paragraph::new(Span::styled(KEYS, look.quiet())), areas[5]);
    if view.shows_help {
        draw_help(look, frame);
    }
}

fn draw_head(view: &View, look: Look, at: &str, frame: &mut Frame<'_>, area: Rect) {
    let nodes =
        if view.nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", view.nodes.len()) };
    let mut spans = vec![Span::styled(" amop top", look.title()), Span::raw(format!("  {nodes}  {at} UTC"))];
    if view.is_paused {
        spans.push(Span::styled("  paused: p goes on", look.alarm()));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// Why there is nothing new of a node.
fn state_of(node: &NodeState, look: Look, width: usize) -> Option<(Paragraph<'static>, u16)> {
    let (text, style) = match (&node.unreachable, &node.restarted, &node.now, node.rates()) {
        (Some((since, why)), ..) => {
            (format!(" unreachable since {since}: {}", crate::escape::shown(why)), look.alarm())
        }
        (None, _, None, _) => (" asked for the first time".to_owned(), look.quiet()),
        (None, Some(at), Some(_), None) => (format!(" started anew, seen at {at}"), look.alarm()),
        (None, None, Some(_), None) => (" rates are there at the next look".to_owned(), look.quiet()),
        _ => return None,
    };
    // Words that are broken take somewhat more.
    let lines = text.chars().count().div_ceil(width.saturating_sub(10).max(1)).min(STATE_LINES_MAX);
    Some((Paragraph::new(Span::styled(text, style)).wrap(Wrap { trim: false }), lines as u16))
}

/// Columns between columns.
fn gap(area: Rect) -> u16 {
    if area.width < WIDE { 1 } else { 2 }
}

/// As wide as the widest of each column; where there is too little room, the last ones are cut.
fn widths<'a>(titles: impl Iterator<Item = &'a str>, rows: &[Vec<Cell>], area: Rect) -> Vec<Constraint> {
    let mut left = area.width;
    let widest = |(column, title): (usize, &str)| {
        let cells = rows.iter().map(|row| row[column].text.chars().count());
        let widest = cells.chain([title.chars().count()]).max().unwrap_or(0) as u16;
        let width = widest.min(left);
        left = left.saturating_sub(width + gap(area));
        Constraint::Length(width)
    };
    titles.enumerate().map(widest).collect()
}

fn styled(cell: &Cell, width: Constraint, is_number: bool, look: Look) -> Line<'static> {
    let Constraint::Length(width) = width else { return Line::raw(cell.text.clone()) };
    let text = if is_number { format!("{:>1$}", cell.text, usize::from(width)) } else { cell.text.clone() };
    Line::styled(text, if cell.is_alarming { look.alarm() } else { Style::new() })
}

fn draw_nodes(view: &View, look: Look, frame: &mut Frame<'_>, area: Rect) {
    let area = inside(area);
    let rows: Vec<Vec<Cell>> = view.nodes.iter().map(node_row).collect();
    let widths = widths(NODE_COLUMNS.into_iter(), &rows, area);
    let is_number = |column: usize| column >= 2;
    let title = |(column, title): (usize, &&'static str)| {
        let Constraint::Length(width) = widths[column] else { return Line::raw(*title) };
        Line::styled(
            if is_number(column) { format!("{title:>0$}", usize::from(width)) } else { (*title).to_owned() },
            look.quiet(),
        )
    };
    let head = Row::new(NODE_COLUMNS.iter().enumerate().map(title).collect::<Vec<_>>());
    // The chosen one is always there.
    let first = (view.chosen + 1).saturating_sub(NODE_ROWS_MAX);
    let row = |(index, cells): (usize, &Vec<Cell>)| {
        let cells = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| styled(cell, widths[column], is_number(column), look));
        let row = Row::new(cells.collect::<Vec<_>>());
        let style = if view.nodes[index].unreachable.is_some() { look.alarm() } else { Style::new() };
        let is_chosen = index == view.chosen && view.nodes.len() > 1;
        row.style(if is_chosen { style.add_modifier(Modifier::REVERSED) } else { style })
    };
    let rows = rows.iter().enumerate().skip(first).map(row).collect::<Vec<_>>();
    let table = Table::new(rows, widths.clone()).header(head).column_spacing(gap(area));
    frame.render_widget(table, area);
}

/// One column from the left.
fn inside(area: Rect) -> Rect {
    Rect { x: area.x + 1, width: area.width.saturating_sub(1), ..area }
}

fn draw_panel(view: &View, look: Look, frame: &mut Frame<'_>, area: Rect) {
    let titles: Vec<Span<'_>> = Panel::ALL
        .into_iter()
        .flat_map(|panel| {
            let style = if panel == view.panel {
                look.title().add_modifier(Modifier::REVERSED)
            } else {
                look.quiet()
            };
            [Span::styled(format!(" {} ", panel.title()), style), Span::raw(" ")]
        })
        .collect();
    let block = Block::new()
        .borders(ratatui::widgets::Borders::TOP)
        .border_style(look.quiet())
        .title(Line::from(titles));
    let body = inside(block.inner(area));
    frame.render_widget(block, area);
    let rows = view.rows();
    if rows.is_empty() {
        let text = match view.panel {
            Panel::Links => "no links to nodes",
            Panel::Sessions => "no sessions",
            Panel::Bounds => "no metric tells a bound",
            Panel::Trouble => "all went as it should since the last look",
            Panel::Others => "no ledger nodes, and no nodes of FISCO BCOS 2.x",
        };
        return frame.render_widget(Paragraph::new(Span::styled(text, look.quiet())), body);
    }
    let columns = view.panel.columns();
    let (sorted, is_down) = view.sort();
    let titles: Vec<String> = columns.iter().map(|(title, _)| format!("{title} ")).collect();
    let widths = widths(titles.iter().map(String::as_str), &rows, body);
    let title = |(column, (title, is_number)): (usize, &(&str, bool))| {
        let mark = match (column == sorted, is_down) {
            (true, true) => "▼",
            (true, false) => "▲",
            (false, _) => "",
        };
        let text = format!("{title}{mark}");
        let Constraint::Length(width) = widths[column] else { return Line::raw(text) };
        let text = if *is_number { format!("{text:>0$}", usize::from(width)) } else { text };
        Line::styled(text, if column == sorted { look.title() } else { look.quiet() })
    };
    let head = Row::new(columns.iter().enumerate().map(title).collect::<Vec<_>>());
    let row = |cells: &Vec<Cell>| {
        let cells = cells.iter().enumerate();
        Row::new(
            cells
                .map(|(column, cell)| styled(cell, widths[column], columns[column].1, look))
                .collect::<Vec<_>>(),
        )
    };
    let shown = rows.iter().skip(view.scrolled).map(row).collect::<Vec<_>>();
    frame.render_widget(Table::new(shown, widths.clone()).header(head).column_spacing(gap(body)), body);
}

fn draw_help(look: Look, frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (70.min(area.width), (HELP.len() as u16 + 4).min(area.height));
    let area = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let lines = HELP.iter().map(|(keys, what)| {
        Line::from(vec![Span::styled(format!(" {keys:16}"), look.title()), Span::raw(*what)])
    });
    let block = Block::bordered().title(" keys; any of them closes this ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyModifiers},
    };

    use super::*;
    use crate::cli::top::view::tests::busy;

    /// What is on a terminal, line by line, and whether any of it has a colour.
    fn drawn(view: &View, size: (u16, u16), has_colours: bool) -> (String, bool) {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(view, Look { has_colours }, "12:00:05", frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let is_coloured =
            buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        let lines = buffer.content().chunks(usize::from(size.0));
        let lines =
            lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned());
        (lines.collect::<Vec<_>>().join("\n"), is_coloured)
    }

    fn view(nodes: usize) -> View {
        let mut view = View::new((0..nodes).map(|node| format!("127.0.0.1:{}", 9_100 + node)));
        let start = Instant::now();
        for (seconds, requests) in [(0, 0), (2, 100)] {
            view.take(0, Ok(busy(seconds, requests, 7, start)), "12:00:00");
        }
        view
    }

    #[test]
    fn a_small_terminal_has_all_that_matters_and_a_large_one_shows_more() {
        let view = view(2);
        let (small, _) = drawn(&view, (80, 24), true);
        for text in [
            "amop top  2 nodes",
            "127.0.0.1:9101",
            "unicast 50.0",
            "102: 5.0",
            "latency",
            "8ebe277b active",
            "q quit",
        ] {
            assert!(small.contains(text), "no {text} in\n{small}");
        }
        assert!(small.lines().any(|line| line.contains("1.000 ms") && line.contains("4.0 KiB")), "{small}");
        let (large, _) = drawn(&view, (160, 50), true);
        assert!(large.contains("10.0.0.2:30300"), "{large}");
        // However little there is, nothing panics.
        for size in [(1, 1), (10, 3), (20, 8), (300, 5)] {
            drawn(&view, size, true);
        }
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        assert!(drawn(&view(1), (80, 24), true).1);
        assert!(!drawn(&view(1), (80, 24), false).1);
    }

    #[test]
    fn a_node_that_does_not_answer_is_shown_with_since_when() {
        let mut view = view(1);
        view.take(0, Err("cannot connect \u{1b}[2J".to_owned()), "12:00:04");
        let (text, _) = drawn(&view, (80, 24), true);
        assert!(text.contains("unreachable since 12:00:04: cannot connect \\u{1b}[2J"), "{text}");
        assert!(text.contains("unicast 50.0"), "what it last said stays: {text}");
    }

    #[test]
    fn the_chosen_node_is_there_however_many_there_are() {
        let mut view = view(20);
        for _ in 0..15 {
            view.handle_key(KeyCode::Down, KeyModifiers::NONE);
        }
        let (text, _) = drawn(&view, (80, 24), true);
        assert!(text.contains("127.0.0.1:9115") && text.contains("asked for the first time"), "{text}");
    }

    #[test]
    fn help_lies_over_it_until_a_key_is_pressed() {
        let mut view = view(1);
        view.handle_key(KeyCode::Char('?'), KeyModifiers::NONE);
        let (text, _) = drawn(&view, (80, 24), true);
        assert!(
            text.contains("keys; any of them closes this") && text.contains("sort by another column"),
            "{text}"
        );
    }
}
