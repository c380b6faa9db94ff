//! Links to the nodes of `[p2p] node.N`: dialled until they are there, and again when they are lost.

use std::{cell::Cell, rc::Rc, time::Duration};

use rand::RngExt;
use tokio_uring::net::TcpStream;
use tracing::{debug, info, warn};

use super::{Failure, HANDSHAKE_TIMEOUT, Hall, accept::admit_node, counters::FailureClass};
use crate::{tls::handshake::Handshake, wire::NodeId};

/// The first wait after a failure; each further one is twice as long …
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An address that turned out to be this node's own is tried so rarely.
const OWN_ADDRESS_PAUSE: Duration = Duration::from_secs(600);
/// How often it is looked whether a node is still linked, beside being told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps a link to the node at `peer`, whoever dialled it. Who that is goes into `found`.
pub(super) async fn keep_dialing(hall: Rc<Hall>, peer: String, found: Rc<Cell<Option<NodeId>>>) {
    let mut backoff = BACKOFF_MIN;
    let mut failing = false;
    // The link dialled last.
    let mut last = None;
    loop {
        // A link that is there and worn out is replaced before it is closed.
        let replacing = last.is_some_and(|token| hall.guests.borrow().is_here(token));
        if !replacing && let Some(id) = found.get() {
            wait_until_gone(&hall, |hall| hall.guests.borrow().has_node(&id)).await;
        }
        hall.counters.dials.increment();
        match dial(&hall, &peer, replacing).await {
            Ok((id, None)) if id == Some(hall.settings.own_id) => {
                debug!(%peer, "[p2p] node.N names this node itself");
                tokio::time::sleep(OWN_ADDRESS_PAUSE).await;
            }
            Ok((id, token)) => {
                failing = false;
                found.set(id.or(found.get()));
                if let Some(token) = token {
                    backoff = BACKOFF_MIN;
                    last = Some(token);
                    wait_until_gone(&hall, |hall| hall.guests.borrow().is_fresh(token)).await;
                    if hall.guests.borrow().is_here(token) {
                        continue;
                    }
                }
                pause(&mut backoff).await;
            }
            Err(reason) => {
                hall.counters.dials_failed.increment();
                // Once a failure; the tries after it are not news.
                if !std::mem::replace(&mut failing, true) {
                    let remedy = FailureClass::of(&reason).remedy();
                    warn!(%peer, %reason, remedy, "cannot reach a node of [p2p]; trying on");
                } else {
                    debug!(%peer, %reason, "still cannot reach a node");
                }
                pause(&mut backoff).await;
            }
        }
    }
}

async fn wait_until_gone(hall: &Hall, is_there: impl Fn(&Hall) -> bool) {
    while is_there(hall) {
        let left = hall.guests.borrow().node_left.clone();
        let _ = tokio::time::timeout(LOOK_INTERVAL, left.notified()).await;
    }
}

/// Waits, a little more or less than said so that nodes do not dial in step.
async fn pause(backoff: &mut Duration) {
    let jitter = rand::rng().random_range(0.7..1.3);
    tokio::time::sleep(backoff.mul_f64(jitter)).await;
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
}

/// Dials once; `replacing` if a link to the node is there and is to be replaced. Gives who is there, and the
/// link's token if it was let in.
async fn dial(hall: &Hall, peer: &str, replacing: bool) -> Result<(Option<NodeId>, Option<u64>), Failure> {
    let addresses = hall.lookups.resolve(peer).await?;
    let mut last = Failure::Io(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                last = error.into();
                continue;
            }
            Err(_) => {
                last = Failure::Timeout;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let handshake = Handshake::client(hall.settings.p2p_client_tls.clone())?;
        let established = match hall.shake_hands(&stream, handshake).await {
            Ok(established) => established,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let id = established.peer.node_id;
        if !replacing && id.is_some_and(|id| hall.guests.borrow().has_node(&id)) {
            // It dialled us in the meantime.
            return Ok((id, None));
        }
        let token = admit_node(hall, &stream, address.to_string(), true, established);
        if token.is_some() {
            info!(%peer, %address, "dialled a node");
        }
        return Ok((id, token));
    }
    Err(last)
}
