//! Whom the node dials and whom it lets in, and what follows when that changes while it runs.

use std::{cell::Cell, collections::BTreeMap, rc::Rc};

use tokio::task::JoinHandle;
use tracing::info;

use super::{Acceptor, dial};
use crate::{
    relay::{CloseReason, admission::Admission},
    supervise::restarting_local_task,
    wire::NodeId,
};

/// Whom a node dials, and which nodes it lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Nodes to dial: `host:port`.
    pub peers: Vec<String>,
    /// The lists.
    pub admission: Admission,
}

/// A task that keeps a link to one address.
struct Dialer {
    task: JoinHandle<()>,
    /// Whether the configuration names it; else it was found.
    is_named: bool,
    /// Who was there last.
    found: Rc<Cell<Option<NodeId>>>,
}

impl Dialer {
    fn start(acceptor: &Rc<Acceptor>, peer: &str, is_named: bool) -> Self {
        let found: Rc<Cell<Option<NodeId>>> = Rc::default();
        let (acceptor, peer, who) = (acceptor.clone(), peer.to_owned(), Rc::clone(&found));
        let task = restarting_local_task("amop-dialer", move || {
            dial::keep_dialing(acceptor.clone(), peer.clone(), who.clone())
        });
        Self { task, is_named, found }
    }
}

/// Dials whom the membership names, and acts on each change of it.
pub(super) async fn keep(acceptor: Rc<Acceptor>) {
    let mut changes = acceptor.membership.clone();
    let mut discovered = acceptor.settings.discovered.clone();
    let mut dialers: BTreeMap<String, Dialer> = BTreeMap::new();
    let mut is_renewed = false;
    loop {
        let now = changes.borrow_and_update().clone();
        let found = discovered.borrow_and_update().clone();
        let found =
            found.into_iter().filter(|(id, _)| *id != acceptor.settings.own_id && now.admission.admits(id));
        let mut wanted: BTreeMap<String, bool> = found.map(|(_, address)| (address, false)).collect();
        wanted.extend(now.peers.iter().map(|peer| (peer.clone(), true)));
        let gone: Vec<String> = dialers.keys().filter(|&peer| !wanted.contains_key(peer)).cloned().collect();
        for peer in gone {
            let Some(dialer) = dialers.remove(&peer) else { continue };
            dialer.task.abort();
            acceptor.note_dialed(&peer, None);
            let Some(id) = dialer.found.get() else { continue };
            // It may be named by another address; and whoever was found is not cut because it is so no more.
            if dialer.is_named && dialers.values().all(|other| other.found.get() != Some(id)) {
                disconnect(&acceptor, &id, CloseReason::Removed);
            }
        }
        let linked = acceptor.connections.borrow().nodes();
        for id in linked.iter().filter(|id| !now.admission.admits(id)) {
            disconnect(&acceptor, id, CloseReason::NotAdmitted);
        }
        for (peer, is_named) in wanted {
            // One that waits after a failure tries again at once: it may be let in now.
            let is_linked = |dialer: &Dialer| dialer.found.get().is_some_and(|id| linked.contains(&id));
            if let Some(dialer) = dialers.get_mut(&peer) {
                dialer.is_named = is_named;
                if is_linked(dialer) || !is_renewed {
                    continue;
                }
                dialer.task.abort();
            }
            let dialer = Dialer::start(&acceptor, &peer, is_named);
            dialers.insert(peer, dialer);
        }
        is_renewed = tokio::select! {
            changed = changes.changed() => if changed.is_ok() { true } else { return },
            // The registry may end before the door.
            Ok(()) = discovered.changed() => false,
        };
    }
}

fn disconnect(acceptor: &Acceptor, id: &NodeId, reason: CloseReason) {
    if acceptor.connections.borrow().has_node(id) {
        if acceptor.may_log(|logs| &mut logs.disconnected) {
            info!(node = %id.to_hex(), %reason, "closing a node's links");
        }
        acceptor.engine.close_node(*id, reason);
    }
}
