//! Letting sessions go before the node stops (lame duck): one after the other, so that their applications come to other nodes
//! without a rush, and in an order of steps in which no message is lost.
//!
//! ```text
//!   its turn ──► withdrawn ──200 ms──► quiet? ── yes ──────────────────────────────► closed
//!                no topic of its        │ no: asked again every 20 ms                  ▲
//!                own, whatever it       └─ after 2 s, if it is to answer nothing: ─────┤ quiet, or its time is up
//!                says                      it is read no further                       │
//! ```
//!
//! # Invariants
//! - A session's topics are withdrawn before it is closed, so that messages for them go elsewhere. A publisher of private topics goes
//!   on as such, for what it sends is still delivered.
//! - What was taken of a session is answered before it is closed, and what it was asked it may answer, for as long as a request
//!   may take.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Context, LinkKind, Parts};
use crate::{
    relay::{CloseReason, LinkKey, Outbound, timers::Timers},
    wire::TopicKind,
};

/// So long after its topics are withdrawn a session is closed at the earliest. Until then other nodes know.
pub(in crate::relay) const WITHDRAWN_FOR: Duration = Duration::from_millis(200);
/// How often a session that is not quiet is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A session that is not quiet for so long, as it goes on to ask, is read no further.
const READ_FOR: Duration = Duration::from_secs(2);

/// The sessions of a shard that is letting them go.
pub(super) struct LameDuck {
    /// Whose turn is to come.
    waiting: VecDeque<LinkKey>,
    /// From one turn to the next.
    interval: Duration,
    next_turn: Instant,
    /// Whose topics are withdrawn, and since when.
    withdrawn: Timers<(LinkKey, Instant)>,
}

impl LameDuck {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let turn = (!self.waiting.is_empty()).then_some(self.next_turn);
        turn.into_iter().chain(self.withdrawn.deadline()).min()
    }
}

impl Parts {
    /// Lets all sessions go within such a time, and those that still come.
    pub(super) fn begin_lame_duck(&mut self, cx: &mut Context<'_, impl Outbound>, within: Duration) {
        if self.lame_duck.is_some() {
            return;
        }
        let waiting: VecDeque<_> = self
            .links
            .iter()
            .flatten()
            .filter_map(|link| match &link.kind {
                LinkKind::Sdk(session) => Some(session.key),
                LinkKind::Node(_) | LinkKind::Ledger(_) | LinkKind::Peer2x(_) => None,
            })
            .collect();
        let turns = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let interval = within.checked_div(turns).unwrap_or_default();
        self.lame_duck =
            Some(LameDuck { waiting, interval, next_turn: cx.now, withdrawn: Timers::new(WITHDRAWN_FOR) });
    }

    /// A session has come up. The door lets none in any more; this one was on its way.
    pub(super) fn note_lame_duck_session(&mut self, now: Instant, key: LinkKey) {
        if let Some(lame_duck) = &mut self.lame_duck {
            if lame_duck.waiting.is_empty() {
                lame_duck.next_turn = now;
            }
            lame_duck.waiting.push_back(key);
        }
    }

    pub(super) fn tick_lame_duck(&mut self, cx: &mut Context<'_, impl Outbound>) {
        while let Some(lame_duck) = &mut self.lame_duck
            && lame_duck.next_turn <= cx.now
            && let Some(key) = lame_duck.waiting.pop_front()
        {
            lame_duck.next_turn += lame_duck.interval;
            lame_duck.withdrawn.start(cx.now, (key, cx.now));
            self.withdraw_topics(cx, key);
        }
        while let Some((key, since)) =
            self.lame_duck.as_mut().and_then(|lame_duck| lame_duck.withdrawn.pop_expired(cx.now))
        {
            self.close_if_quiet(cx, key, since);
        }
    }

    /// From now on nothing is pushed to the session, and it subscribes to nothing.
    fn withdraw_topics(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey) {
        let Some(session) = self.session_mut(key) else { return };
        let id = session.id;
        let (old, deferred) = session.subscription.withdraw();
        let kept: Vec<_> = old.iter().filter(|topic| topic.kind() == TopicKind::Marker).cloned().collect();
        session.subscription.replace(kept.clone());
        cx.count_deferred(deferred, 0);
        self.change_topics(cx, (key.index, key, id), &old, &kept);
        self.update_ledger_topics(cx, key);
    }

    fn close_if_quiet(&mut self, cx: &mut Context<'_, impl Outbound>, key: LinkKey, since: Instant) {
        let is_quiet = self.is_link_quiet(key);
        let Some(session) = self.session_mut(key) else { return };
        let waited = cx.now.saturating_duration_since(since);
        if (is_quiet && session.line.is_empty()) || waited >= cx.shared.settings.request_timeout {
            return cx.out.close(key, CloseReason::Shutdown);
        }
        if waited >= READ_FOR && session.pushes.is_empty() && session.line.is_empty() {
            cx.out.pause_reading(key, true);
        }
        if let Some(lame_duck) = &mut self.lame_duck {
            lame_duck.withdrawn.start_until(cx.now + LOOK_AGAIN, (key, since));
        }
    }
}
