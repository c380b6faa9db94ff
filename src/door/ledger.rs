//! Connections to ledger nodes, dialled when a session needs one. When, and which one, is decided by the session's shard; it is
//! told what became of it.

use std::{rc::Rc, sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{
    Acceptor, Failure,
    accept::hand_over,
    cause::{Cause, Peer},
    dial::connect_to_any,
    stream::Stream,
};
use crate::{
    relay::{LedgerDial, LinkUp, ReactorId, counters::Counter},
    supervise::contained_local_task,
    tls::handshake::Handshake,
};

/// A ledger node of the configuration, as dials have found it. Only the door writes.
#[derive(Debug)]
pub struct LedgerNode {
    /// Where it is: `host:port`.
    pub address: String,
    /// Dials for sessions, that they were begun.
    pub dials: Counter,
    /// Those without success.
    pub dials_failed: Counter,
    /// Why the last dial had none; empty if it had.
    pub failure: ArcSwapOption<DialFailure>,
}

/// Why a ledger node was not reached.
#[derive(Clone, Debug)]
pub struct DialFailure {
    /// When.
    pub at: Instant,
    /// The cause by its name.
    pub cause: &'static str,
    /// What was seen.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl LedgerNode {
    /// One that was not dialled yet.
    pub fn new(address: String) -> Self {
        Self {
            address,
            dials: Counter::default(),
            dials_failed: Counter::default(),
            failure: ArcSwapOption::empty(),
        }
    }

    fn note_failure(&self, failure: &Failure, cause: Cause) {
        self.dials_failed.increment();
        self.failure.store(Some(Arc::new(DialFailure {
            at: Instant::now(),
            cause: cause.name(),
            reason: failure.to_string(),
            remedy: cause.remedy(Peer::Ledger),
        })));
    }
}

/// Dials of ledger nodes at once; further ones wait, one for each session.
pub(super) const LEDGER_DIALS_MAX: usize = 64;

/// Places for dials of ledger nodes.
pub(super) struct LedgerDials(Semaphore);

impl Default for LedgerDials {
    fn default() -> Self {
        Self(Semaphore::new(LEDGER_DIALS_MAX))
    }
}

/// Begins to dial a ledger node.
pub(super) fn begin(acceptor: &Rc<Acceptor>, reactor: ReactorId, dial: LedgerDial) {
    let acceptor = acceptor.clone();
    // Boxed, so that those who wait take little memory.
    contained_local_task(async move {
        // It is never closed.
        let Ok(_place) = acceptor.ledger_dials.0.acquire().await else { return };
        let mut attempt = Attempt { acceptor: acceptor.clone(), reactor, dial, is_up: false };
        attempt.is_up = Box::pin(try_to_connect(&acceptor, reactor, dial)).await;
    });
}

/// A dial whose session is told, however it ends.
struct Attempt {
    acceptor: Rc<Acceptor>,
    reactor: ReactorId,
    dial: LedgerDial,
    is_up: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_up {
            self.acceptor.engine.ledger_dial_failed(self.reactor, self.dial);
        }
    }
}

async fn try_to_connect(acceptor: &Rc<Acceptor>, reactor: ReactorId, dial: LedgerDial) -> bool {
    let Some(node) = acceptor.settings.ledger_nodes.get(usize::from(dial.node)) else { return false };
    let peer = &node.address;
    acceptor.counters.dials.increment();
    node.dials.increment();
    let failure = match reach(acceptor, peer).await {
        Ok((stream, established)) => {
            node.failure.store(None);
            let token = acceptor.connections.borrow_mut().admit_ledger();
            let LedgerDial { session, number, .. } = dial;
            let up = LinkUp::Ledger { session, number, address: peer.clone() };
            return hand_over(acceptor, &stream, token, reactor, up, Some(established));
        }
        Err(failure) => failure,
    };
    acceptor.counters.dials_failed.increment();
    let cause = Cause::of(&failure);
    node.note_failure(&failure, cause);
    if acceptor.may_log(|logs| &mut logs.ledger_not_reached) {
        warn!(
            %peer, cause = cause.name(), reason = %failure, remedy = cause.remedy(Peer::Ledger),
            "cannot reach a ledger node of [ledger]; trying on while applications need it",
        );
    }
    false
}

async fn reach(acceptor: &Rc<Acceptor>, peer: &str) -> Result<(Stream, crate::tls::Established), Failure> {
    let Some(config) = acceptor.tls.load().ledger.clone() else { return Err(Failure::GivenUp) };
    let addresses = acceptor.lookups.resolve(peer).await?;
    let stream = connect_to_any(addresses, acceptor.settings.io).await?;
    let (stream, greeted) = acceptor.shake_hands_apart(stream, Handshake::client(config)?).await?;
    if greeted.is_ourselves {
        return Err(Failure::Ourselves);
    }
    Ok((stream, greeted.established))
}
