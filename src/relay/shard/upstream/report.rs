//! What people see of connections to ledger nodes.

use std::time::Instant;

use super::{LinkKey, State, Upstream, Upstreams};
use crate::relay::{
    SessionId,
    report::{LedgerState, PeerReport, SessionLedgerReport},
};

impl Upstream {
    fn report(&self) -> SessionLedgerReport {
        let state = match self.state {
            State::Idle => LedgerState::Idle,
            State::Dialling { .. } => LedgerState::Dialling,
            State::Pausing { .. } => LedgerState::Pausing,
            State::Greeting { .. } => LedgerState::Greeting,
            State::Up { .. } => LedgerState::Up,
        };
        let topics = if self.up().is_some() && !self.is_untold { self.topics.len() } else { 0 };
        SessionLedgerReport { state, pending_requests: self.asked.len(), filters: self.filters.len(), topics }
    }

    /// Since when there is a connection.
    fn since(&self) -> Option<Instant> {
        match self.state {
            State::Greeting { since, .. } | State::Up { since, .. } => Some(since),
            _ => None,
        }
    }
}

impl Upstreams {
    /// What a session has to do with the ledger.
    pub(in crate::relay::shard) fn report(&self, session: LinkKey) -> SessionLedgerReport {
        self.by_session.get(&session).map(Upstream::report).unwrap_or_default()
    }

    /// Since when a session's connection is there, its address, and what else people see of it.
    pub(in crate::relay::shard) fn report_link(
        &self,
        link: LinkKey,
        session: LinkKey,
        id: SessionId,
    ) -> Option<(Instant, String, PeerReport)> {
        let upstream = self.by_session.get(&session).filter(|one| one.link() == Some(link))?;
        let SessionLedgerReport { state, pending_requests, .. } = upstream.report();
        let peer = PeerReport::Ledger { node: upstream.node, session: id, state, pending_requests };
        Some((upstream.since()?, upstream.address.clone(), peer))
    }
}
