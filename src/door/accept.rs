//! Links that come in.

use std::{
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_uring::net::TcpStream;
use tracing::{debug, info, warn};

use super::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, Hall, counters::FailureClass};
use crate::{
    engine::{NewLink, duplicate},
    relay::{LinkUp, home_reactor},
    tls::{Established, config::ServerTls, handshake::Handshake},
};

/// How long the door waits when the system has no descriptors left.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

pub(super) async fn accept_sessions(hall: Rc<Hall>, listener: TcpListener) {
    let config = hall.settings.channel_tls.clone();
    accept(hall, listener, config, "an application", |hall, stream, address, established| {
        match hall.guests.borrow_mut().admit_session(established.peer.fingerprint) {
            Ok((token, reactor)) => {
                let up =
                    LinkUp::Sdk { address: address.to_string(), subject: established.peer.subject.clone() };
                hand_over(hall, stream, token, reactor, up, established);
            }
            Err(reason) => {
                hall.counters.sessions_refused.increment();
                if hall.may_log(|logs| &mut logs.not_let_in) {
                    warn!(
                        %address, subject = %established.peer.subject, %reason,
                        "application not let in; see whether it leaves connections behind, or use more nodes or certificates",
                    );
                }
            }
        }
    })
    .await;
}

pub(super) async fn accept_nodes(hall: Rc<Hall>, listener: TcpListener) {
    let config = hall.settings.p2p_server_tls.clone();
    accept(hall, listener, config, "a node", |hall, stream, address, established| {
        admit_node(hall, stream, address.to_string(), false, established);
    })
    .await;
}

/// Accepts for ever. A bounded number of handshakes is under way at once.
async fn accept(
    hall: Rc<Hall>,
    listener: TcpListener,
    config: ServerTls,
    what: &'static str,
    admit: impl Fn(&Hall, &TcpStream, SocketAddr, Established) + Copy + 'static,
) {
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                hall.counters.accept_failures.increment();
                if hall.may_log(|logs| &mut logs.not_accepted) {
                    warn!(%error, "cannot accept a connection; if files run out, raise the limit (ulimit -n, LimitNOFILE=)");
                }
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        };
        if !hall.guests.borrow_mut().begin_handshake(address.ip()) {
            hall.counters.handshakes_refused.increment();
            if hall.may_log(|logs| &mut logs.too_many_handshakes) {
                warn!(
                    %address,
                    "connection closed: this address has {HANDSHAKES_PER_ADDRESS_MAX} handshakes under way; see what runs there",
                );
            }
            continue;
        }
        let (hall, config) = (hall.clone(), config.clone());
        tokio_uring::spawn(async move {
            let _ = stream.set_nodelay(true);
            let established = match Handshake::server(config) {
                Ok(handshake) => hall.shake_hands(&stream, handshake).await,
                Err(error) => Err(error.into()),
            };
            hall.guests.borrow_mut().end_handshake(address.ip());
            drop(place);
            match established {
                Ok(established) => admit(&hall, &stream, address, established),
                Err(reason) => {
                    let class = FailureClass::of(&reason);
                    let remedy = class.remedy();
                    if !hall.may_log(|logs| &mut logs.handshake_failed) {
                    } else if class == FailureClass::Certificate {
                        warn!(%address, %reason, remedy, "the certificate of {what} was refused");
                    } else {
                        info!(%address, %reason, remedy, "the handshake of {what} failed");
                    }
                }
            }
        });
    }
}

/// Looks at a node's identity, and lets it in. Gives the link's token if so.
pub(super) fn admit_node(
    hall: &Hall,
    stream: &TcpStream,
    address: String,
    dialed: bool,
    established: Established,
) -> Option<u64> {
    let Some(id) = established.peer.node_id else {
        hall.counters.nodes_refused_by_key.increment();
        if hall.may_log(|logs| &mut logs.not_let_in) {
            warn!(
                %address, subject = %established.peer.subject,
                "node not let in: its certificate must have a secp256k1 key; see [network_security] of that node",
            );
        }
        return None;
    };
    if id == hall.settings.own_id {
        debug!(%address, "this is ourselves");
        return None;
    }
    if !hall.membership.borrow().admission.admits(&id) {
        hall.counters.nodes_refused_by_list.increment();
        if hall.may_log(|logs| &mut logs.not_let_in) {
            warn!(
                %address, node = %id.to_hex(),
                "node not let in: on [certificate_blacklist], or not on [certificate_whitelist], of config.ini",
            );
        }
        return None;
    }
    let admitted = hall.guests.borrow_mut().admit_node(id);
    let token = match admitted {
        Ok(token) => token,
        Err(reason) => {
            hall.counters.nodes_refused_by_number.increment();
            if hall.may_log(|logs| &mut logs.not_let_in) {
                warn!(%address, node = %id.to_hex(), %reason, "node not let in; see why that node dials again and again");
            }
            return None;
        }
    };
    let up = LinkUp::Node {
        id,
        dialed,
        address,
        agency: established.peer.agency.clone(),
        name: established.peer.common_name.clone(),
    };
    let reactor = home_reactor(&id, hall.settings.reactors);
    hand_over(hall, stream, token, reactor, up, established).then_some(token)
}

/// Gives a link to its reactor. Nothing is pending on the stream: its handshake has ended.
fn hand_over(
    hall: &Hall,
    stream: &TcpStream,
    token: u64,
    reactor: crate::relay::ReactorId,
    up: LinkUp,
    established: Established,
) -> bool {
    match duplicate(stream) {
        Ok(socket) => {
            let Established { sealer, opener, plaintext, received, .. } = established;
            hall.engine.adopt(NewLink { token, reactor, socket, up, sealer, opener, plaintext, received });
            true
        }
        Err(error) => {
            hall.counters.links_lost.increment();
            if hall.may_log(|logs| &mut logs.link_lost) {
                warn!(%error, "a link is lost: no file descriptor left; raise the limit (ulimit -n, LimitNOFILE=)");
            }
            hall.guests.borrow_mut().leave(token);
            false
        }
    }
}
