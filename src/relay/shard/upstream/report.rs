//! What people see of connections to ledger nodes.

use std::time::Instant;

use super::{Context, LinkKey, Outbound, Parts, State, Upstream, Upstreams};
use crate::relay::{
    SessionId,
    report::{LedgerState, LinkLoad, LinkPage, LinkReport, PeerReport, SessionLedgerReport},
    shard::{Link, LinkKind},
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
        SessionLedgerReport { state, pending_requests: self.asked.len(), filters: self.filters.len() }
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
    /// Since when a session's connection is there, its address, and what else people see of it.
    fn report_link(
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

impl Parts {
    /// Tells about the links in slots from `from` on, at most `slots_max` of them: those of all kinds, and of sessions also what
    /// they have to do with the ledger.
    pub(in crate::relay::shard) fn report_all_links(
        &self,
        cx: &Context<'_, impl Outbound>,
        from: u32,
        slots_max: u32,
    ) -> LinkPage {
        let mut page = self.report_links(cx.id, from, slots_max);
        if cx.ledger().is_none() {
            return page;
        }
        for link in &mut page.links {
            if let PeerReport::Session(session) = &mut link.peer {
                let upstream = self.upstreams.by_session.get(&link.key);
                session.ledger = Some(upstream.map(Upstream::report).unwrap_or_default());
            }
        }
        let end = page.next.map_or(self.links.len(), |next| next as usize);
        let slots = self.links.get(from as usize..end).unwrap_or_default();
        let report = |(offset, slot): (usize, &Option<Link>)| {
            let link = slot.as_ref()?;
            let LinkKind::Ledger(ledger) = &link.kind else { return None };
            let key = LinkKey { index: from + offset as u32, generation: link.generation };
            let id = self.session_id(ledger.session)?;
            let (since, address, peer) = self.upstreams.report_link(key, ledger.session, id)?;
            Some(LinkReport { reactor: cx.id, key, since, address, peer, load: LinkLoad::default() })
        };
        page.links.extend(slots.iter().enumerate().filter_map(report));
        page
    }

    fn session_id(&self, key: LinkKey) -> Option<SessionId> {
        match self.links.get(key.index as usize)? {
            Some(Link { generation, kind: LinkKind::Sdk(session) }) if *generation == key.generation => {
                Some(session.id)
            }
            _ => None,
        }
    }
}
