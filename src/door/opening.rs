//! Opens the port for applications once the node knows the network (`relay/readiness.rs`): before that it would tell them
//! that nobody subscribes though somebody does.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, warn};

use super::{Acceptor, BACKLOG, accept};
use crate::wire::NodeId;

/// How far a node that starts is on its way to let applications in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The state of other nodes is on its way.
    AwaitsState,
    /// Somebody else listens on the port.
    AwaitsPort,
    /// Applications are let in.
    Open,
    /// They are not any more, for the node is to stop. Nodes still are.
    Closed,
}

/// Between two tries to listen on a port that somebody else has taken meanwhile.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Lets applications in as soon as the node is ready; `opening` is told how far that is.
pub(super) async fn accept_when_ready(
    acceptor: Rc<Acceptor>,
    socket: socket2::Socket,
    plaintext: bool,
    opening: watch::Sender<Opening>,
) {
    wait_for_state(&acceptor).await;
    let listener = listen(socket, &opening).await;
    opening.send_if_modified(|now| {
        let opens = *now != Opening::Closed;
        if opens {
            *now = Opening::Open;
        }
        opens
    });
    if plaintext {
        accept::accept_sessions_without_tls(acceptor, listener).await;
    } else {
        accept::accept_sessions(acceptor, listener).await;
    }
}

async fn wait_for_state(acceptor: &Acceptor) {
    let mut settled: watch::Receiver<BTreeSet<NodeId>> = acceptor.settings.settled.clone();
    let left = acceptor.connections.borrow().node_left.clone();
    let deadline = acceptor.readiness.borrow().deadline();
    loop {
        // From here on nothing is missed.
        let (dialed, left) = (acceptor.dialed.notified(), left.notified());
        let is_ready = {
            let connections = acceptor.connections.borrow();
            let settled = settled.borrow_and_update();
            acceptor.readiness.borrow_mut().is_ready(Instant::now(), &connections.nodes(), &settled)
        };
        if is_ready {
            break;
        }
        tokio::select! {
            () = dialed => {}
            () = left => {}
            Ok(()) = settled.changed() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
    for peer in acceptor.readiness.borrow().awaited() {
        warn!(
            %peer,
            "applications are let in though the state of this node is not here: what it alone knows may be answered by 100; \
             see why it does not answer, or raise [amop] ready_timeout_ms",
        );
    }
}

/// The port was taken at the start; that nobody else listens on it shows only now.
async fn listen(socket: socket2::Socket, opening: &watch::Sender<Opening>) -> TcpListener {
    while let Err(error) = socket.listen(BACKLOG) {
        if opening.send_replace(Opening::AwaitsPort) != Opening::AwaitsPort {
            error!(%error, "cannot listen on the port for applications ([rpc] channel_listen_port); trying on: is another node running?");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
    socket.into()
}
