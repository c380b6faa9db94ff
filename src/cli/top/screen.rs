//! The terminal of the full-screen view: asks the nodes, reads keys, draws.

use std::{sync::mpsc, time::Duration};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{
    TopArgs, draw,
    look::Look,
    view::{Flow, View},
};
use crate::{
    cli::{Failure, admin::AdminAddress},
    supervise::contained_task,
};

/// Sessions that are asked for.
const SESSIONS_MAX: usize = 200;
/// How long a key is waited for, and with it an answer.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Answers that wait to be shown, for each node.
const ANSWERS_MAX: usize = 4;

/// A node's answer.
type Asked = (usize, Result<Look, String>);

/// Shows nodes until somebody has seen enough.
pub(super) fn run(args: &TopArgs, nodes: &[AdminAddress]) -> Result<(), Failure> {
    let runtime = crate::cli::runtime()?;
    let (answers, answered) = mpsc::sync_channel::<Asked>(ANSWERS_MAX * nodes.len().max(1));
    for (index, node) in nodes.iter().cloned().enumerate() {
        let (answers, interval) = (answers.clone(), args.interval);
        let _inside = runtime.enter();
        contained_task(ask(index, node, interval, answers));
    }
    let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut view = View::new(nodes.iter().map(ToString::to_string));
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut view, draw::Look { has_colours }, &answered, &mut terminal);
    ratatui::try_restore()?;
    // Who is just asked need not answer.
    runtime.shutdown_background();
    Ok(shown?)
}

/// Asks a node again and again, whatever it says.
async fn ask(index: usize, node: AdminAddress, interval: Duration, answers: mpsc::SyncSender<Asked>) {
    loop {
        let asked = Look::at(&node, SESSIONS_MAX).await;
        // One that is not taken is one too many.
        if let Err(mpsc::TrySendError::Disconnected(_)) = answers.try_send((index, asked)) {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

fn show(
    view: &mut View,
    look: draw::Look,
    answered: &mpsc::Receiver<Asked>,
    terminal: &mut ratatui::DefaultTerminal,
) -> std::io::Result<()> {
    let mut is_old = true;
    loop {
        let at = time_of_day();
        while let Ok((node, asked)) = answered.try_recv() {
            view.take(node, asked, &at);
            is_old = true;
        }
        if is_old {
            terminal.draw(|frame| draw::draw(view, look, &at, frame))?;
        }
        is_old = event::poll(LOOK_EVERY)?;
        if is_old
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && view.handle_key(key.code, key.modifiers) == Flow::Quit
        {
            return Ok(());
        }
    }
}

/// Hours, minutes and seconds of UTC.
pub(super) fn time_of_day() -> String {
    let now = time::OffsetDateTime::now_utc();
    format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
}
