//! Links that come in.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_uring::net::TcpStream;
use tracing::{debug, info, warn};

use super::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, Hall, counters::FailureClass, is_this_machine};
use crate::{
    engine::{NewLink, duplicate},
    relay::{LinkUp, home_reactor},
    supervise::contained_local_task,
    tls::{Established, config::ServerTls, handshake::Handshake},
};

/// How long the door waits when the system has no descriptors left.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// What all applications without a certificate count as.
const NO_CERTIFICATE: [u8; 32] = [0; 32];

pub(super) async fn accept_sessions(hall: Rc<Hall>, listener: TcpListener) {
    let config = hall.settings.channel_tls.clone();
    accept(hall, listener, config, "an application", |hall, stream, address, established| {
        let (fingerprint, subject) = (established.peer.fingerprint, established.peer.subject.clone());
        admit_session(hall, stream, address, fingerprint, subject, Some(established));
    })
    .await;
}

/// Accepts applications without TLS for ever, for a listener on loopback. Others' packets can be brought there by rules
/// of the machine's own firewall, so each connection is looked at, too.
pub(super) async fn accept_sessions_without_tls(hall: Rc<Hall>, listener: TcpListener) {
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    loop {
        let (stream, address) = next_connection(&hall, &listener).await;
        let _ = stream.set_nodelay(true);
        if is_this_machine(address.ip()) {
            admit_session(&hall, &stream, address, NO_CERTIFICATE, String::new(), None);
        } else {
            hall.counters.sessions_refused.increment();
            if hall.may_log(|logs| &mut logs.not_let_in) {
                warn!(
                    %address,
                    "application not let in: it is on another machine, and there is no TLS here: remove [tls] channel_plaintext",
                );
            }
        }
    }
}

fn admit_session(
    hall: &Hall,
    stream: &TcpStream,
    address: SocketAddr,
    fingerprint: [u8; 32],
    subject: String,
    established: Option<Established>,
) {
    let admitted = hall.guests.borrow_mut().admit_session(fingerprint);
    match admitted {
        Ok((token, reactor)) => {
            let up = LinkUp::Sdk { address: address.to_string(), subject };
            hand_over(hall, stream, token, reactor, up, established);
        }
        Err(reason) => {
            hall.counters.sessions_refused.increment();
            if hall.may_log(|logs| &mut logs.not_let_in) {
                warn!(
                    %address, %subject, %reason,
                    "application not let in; see whether it leaves connections behind, or use more nodes or certificates",
                );
            }
        }
    }
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
        let (stream, address) = next_connection(&hall, &listener).await;
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
        let underway = Underway { hall: hall.clone(), address: address.ip() };
        contained_local_task(async move {
            let _ = stream.set_nodelay(true);
            let established = match Handshake::server(config) {
                Ok(handshake) => hall.shake_hands(&stream, handshake).await,
                Err(error) => Err(error.into()),
            };
            drop((underway, place));
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

/// A handshake's place among those of its address.
struct Underway {
    hall: Rc<Hall>,
    address: IpAddr,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.hall.guests.borrow_mut().end_handshake(self.address);
    }
}

async fn next_connection(hall: &Hall, listener: &tokio_uring::net::TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                hall.counters.accept_failures.increment();
                if hall.may_log(|logs| &mut logs.not_accepted) {
                    warn!(%error, "cannot accept a connection; if files run out, raise the limit (ulimit -n, LimitNOFILE=)");
                }
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
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
    hand_over(hall, stream, token, reactor, up, Some(established)).then_some(token)
}

/// Gives a link to its reactor. Nothing is pending on the stream: its handshake has ended, or there is none without TLS.
fn hand_over(
    hall: &Hall,
    stream: &TcpStream,
    token: u64,
    reactor: crate::relay::ReactorId,
    up: LinkUp,
    established: Option<Established>,
) -> bool {
    match duplicate(stream) {
        Ok(socket) => {
            let (tls, plaintext, received) = match established {
                Some(done) => (Some((done.sealer, done.opener)), done.plaintext, done.received),
                None => (None, Vec::new(), Vec::new()),
            };
            hall.engine.adopt(NewLink { token, reactor, socket, up, tls, plaintext, received });
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
