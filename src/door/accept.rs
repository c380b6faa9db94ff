//! Links that come in.

use std::{
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};

use super::{
    Acceptor, DoorTls, Failure, Greeted, Opening,
    cause::{Cause, Peer},
    handshake_queue::{HandshakeQueue, HandshakeRefusal, HandshakeSlot, QueueEntry, WAIT_MAX},
    is_this_machine,
    stream::Stream,
};
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

pub(super) async fn accept_sessions(acceptor: Rc<Acceptor>, listener: TcpListener) {
    accept(
        acceptor,
        listener,
        |tls| &tls.channel,
        Peer::Application,
        |acceptor, stream, address, greeted| {
            let established = greeted.established;
            let fingerprint = established.peer.fingerprint;
            admit_session(acceptor, stream, address, fingerprint, Some(established))
        },
    )
    .await;
}

/// Accepts applications without TLS for ever, for a listener on loopback. Others' packets can be brought there by rules
/// of the machine's own firewall, so each connection is looked at, too.
pub(super) async fn accept_sessions_without_tls(acceptor: Rc<Acceptor>, listener: TcpListener) {
    let Some(listener) = awaitable(listener) else { return };
    loop {
        let Some((stream, address)) = next_connection(&acceptor, &listener, Peer::Application).await else {
            return close(listener).await;
        };
        let _ = stream.set_nodelay(true);
        if is_this_machine(address.ip()) {
            admit_session(&acceptor, &stream, address, NO_CERTIFICATE, None);
        } else {
            acceptor.counters.sessions_refused.increment();
            if acceptor.may_log(|logs| &mut logs.not_let_in) {
                warn!(
                    %address,
                    "application not let in: it is on another machine, and there is no TLS here: remove [tls] channel_plaintext",
                );
            }
        }
    }
}

fn admit_session(
    acceptor: &Acceptor,
    stream: &Stream,
    address: SocketAddr,
    fingerprint: [u8; 32],
    established: Option<Established>,
) -> bool {
    let peer = established.as_ref().map(|established| &established.peer);
    let subject = peer.map(|peer| peer.subject.clone()).unwrap_or_default();
    let public_key = peer.and_then(|peer| peer.node_id);
    let admitted = acceptor.connections.borrow_mut().admit_session(fingerprint);
    match admitted {
        Ok((token, reactor)) => {
            let up = LinkUp::Sdk { address: address.to_string(), subject, public_key };
            hand_over(acceptor, stream, token, reactor, up, established)
        }
        Err(reason) => {
            acceptor.counters.sessions_refused.increment();
            if acceptor.may_log(|logs| &mut logs.not_let_in) {
                warn!(
                    %address, %subject, %reason,
                    "application not let in; see whether it leaves connections behind, or use more nodes or certificates",
                );
            }
            false
        }
    }
}

pub(super) async fn accept_nodes(acceptor: Rc<Acceptor>, listener: TcpListener) {
    accept(
        acceptor,
        listener,
        |tls| &tls.p2p_server,
        Peer::Node,
        |acceptor, stream, address, greeted| {
            admit_node(acceptor, stream, address.to_string(), false, greeted).is_some()
        },
    )
    .await;
}

/// Lets in whoever has done its handshake, or does not.
trait Admit: Fn(&Acceptor, &Stream, SocketAddr, Greeted) -> bool + Copy + 'static {}
impl<F: Fn(&Acceptor, &Stream, SocketAddr, Greeted) -> bool + Copy + 'static> Admit for F {}

/// Accepts for ever. A bounded number of handshakes is under way at once.
async fn accept(
    acceptor: Rc<Acceptor>,
    listener: TcpListener,
    kind: fn(&DoorTls) -> &ServerTls,
    peer: Peer,
    admit: impl Admit,
) {
    let Some(listener) = awaitable(listener) else { return };
    let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let handshake_queue = HandshakeQueue::new(
        acceptor.settings.address_handshakes_max,
        files_max.unwrap_or(u64::MAX),
        acceptor.settings.limits,
    );
    loop {
        let Some(slot) = handshake_queue.slot().await else { return };
        let Some((stream, address)) = next_connection(&acceptor, &listener, peer).await else {
            return close(listener).await;
        };
        match handshake_queue.enter(address.ip(), slot, Instant::now()) {
            QueueEntry::Now(slot) => {
                contained_local_task(serve(
                    acceptor.clone(),
                    Connection { stream, address, slot },
                    kind,
                    peer,
                    admit,
                ));
            }
            QueueEntry::Later(waiting) => {
                let acceptor = acceptor.clone();
                acceptor.counters.connections_waited.increment();
                if waiting.is_out_of_time(Instant::now()) {
                    acceptor.counters.connections_out_of_time.increment();
                }
                acceptor.counters.waiting_connections.increment();
                contained_local_task(async move {
                    let slot = waiting.slot().await;
                    acceptor.counters.waiting_connections.decrement();
                    match slot {
                        // Boxed, so that those who wait take little memory.
                        Ok(slot) => {
                            Box::pin(serve(
                                acceptor,
                                Connection { stream, address, slot },
                                kind,
                                peer,
                                admit,
                            ))
                            .await;
                        }
                        Err(reason) => refuse(&acceptor, address, reason),
                    }
                });
            }
            QueueEntry::Refused(reason) => refuse(&acceptor, address, reason),
        }
    }
}

/// A connection is closed for which there was no handshake.
fn refuse(acceptor: &Acceptor, address: SocketAddr, reason: HandshakeRefusal) {
    acceptor.counters.handshakes_refused.increment();
    if acceptor.may_log(|logs| &mut logs.too_many_handshakes) {
        let address_handshakes_max = acceptor.settings.address_handshakes_max;
        warn!(
            %address, %reason, address_handshakes_max, wait_ms_max = WAIT_MAX.as_millis() as u64, remedy = reason.remedy(),
            "connection closed without a handshake",
        );
    }
}

/// A connection that was accepted, and its place among the handshakes.
struct Connection {
    stream: Stream,
    address: SocketAddr,
    slot: HandshakeSlot,
}

async fn serve(
    acceptor: Rc<Acceptor>,
    Connection { stream, address, slot }: Connection,
    kind: fn(&DoorTls) -> &ServerTls,
    peer: Peer,
    admit: impl Admit,
) {
    let _ = stream.set_nodelay(true);
    // As renewed by now.
    let config = kind(&acceptor.tls.load()).clone();
    let greeted = match Handshake::server(config) {
        Ok(handshake) => slot.meter(acceptor.shake_hands(&stream, handshake, std::future::pending())).await,
        Err(error) => Err(error.into()),
    };
    match greeted {
        Ok(greeted) => {
            if admit(&acceptor, &stream, address, greeted) {
                slot.refund();
            }
        }
        Err(Failure::GivenUp) => {}
        Err(reason) => log_failure(&acceptor, peer, address, &reason),
    }
}

fn log_failure(acceptor: &Acceptor, peer: Peer, address: SocketAddr, reason: &Failure) {
    let cause = Cause::of(reason);
    if cause == Cause::Probe {
        debug!(%address, "connection closed before a byte came, as health checks do");
        return;
    }
    if !acceptor.may_log(|logs| &mut logs.handshake_failed) {
        return;
    }
    let (remedy, cause_name) = (cause.remedy(peer), cause.name());
    if cause.is_about_certificate() {
        warn!(%address, cause = cause_name, %reason, remedy, "the certificate of {peer} was refused");
    } else if cause.needs_somebody() {
        warn!(%address, cause = cause_name, %reason, remedy, "the handshake of {peer} failed");
    } else {
        info!(%address, cause = cause_name, %reason, remedy, "the handshake of {peer} failed");
    }
}

/// The port is closed, and this ends with the door.
async fn close(listener: tokio::net::TcpListener) {
    drop(listener);
    std::future::pending().await
}

/// For the runtime, which tells when somebody has come.
fn awaitable(listener: TcpListener) -> Option<tokio::net::TcpListener> {
    let register = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    register()
        .inspect_err(|error| error!(%error, "nobody can be let in: a listener cannot be waited for"))
        .ok()
}

/// `None` once nobody is to be taken any more: the door closes, or applications are not let in any more. No operation is pending on
/// the listener, and it is not shut down: it may be the service manager's, and whoever is not taken here waits in it for the
/// next process.
async fn next_connection(
    acceptor: &Acceptor,
    listener: &tokio::net::TcpListener,
    peer: Peer,
) -> Option<(Stream, SocketAddr)> {
    let (mut stop, mut opening) = (acceptor.stop.clone(), acceptor.opening.clone());
    let is_for_applications = peer == Peer::Application;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stopped| *stopped) => return None,
            _ = opening.wait_for(|now| *now == Opening::Closed), if is_for_applications => return None,
            accepted = listener.accept() => accepted.and_then(|(stream, address)| {
                Ok((Stream::new(stream, acceptor.settings.io)?, address))
            }),
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            // It was gone before it was taken.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {
                acceptor.counters.probes.increment();
            }
            Err(error) => {
                acceptor.counters.accept_failures.increment();
                if acceptor.may_log(|logs| &mut logs.not_accepted) {
                    warn!(%error, "cannot accept a connection; if files run out, raise the limit (ulimit -n, LimitNOFILE=)");
                }
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// Looks at a node's identity, and lets it in. Gives the link's token if so.
pub(super) fn admit_node(
    acceptor: &Acceptor,
    stream: &Stream,
    address: String,
    dialed: bool,
    greeted: Greeted,
) -> Option<u64> {
    let Greeted { established, is_ourselves } = greeted;
    let Some(id) = established.peer.node_id else {
        acceptor.counters.nodes_refused_by_key.increment();
        if acceptor.may_log(|logs| &mut logs.not_let_in) {
            warn!(
                %address, subject = %established.peer.subject,
                "node not let in: its certificate must have a secp256k1 key; see [network_security] of that node",
            );
        }
        return None;
    };
    if id == acceptor.settings.own_id {
        if is_ourselves {
            debug!(%address, "this is ourselves");
        } else {
            acceptor.own_key.is_elsewhere(&acceptor.counters, &address, dialed);
        }
        return None;
    }
    if !acceptor.membership.borrow().admission.admits(&id) {
        acceptor.counters.nodes_refused_by_list.increment();
        if acceptor.may_log(|logs| &mut logs.not_let_in) {
            warn!(
                %address, node = %id.to_hex(),
                "node not let in: on [certificate_blacklist], or not on [certificate_whitelist], of config.ini",
            );
        }
        return None;
    }
    let admitted = acceptor.connections.borrow_mut().admit_node(id);
    let token = match admitted {
        Ok(token) => token,
        Err(reason) => {
            acceptor.counters.nodes_refused_by_number.increment();
            if acceptor.may_log(|logs| &mut logs.not_let_in) {
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
    let reactor = home_reactor(&id, acceptor.settings.reactors);
    hand_over(acceptor, stream, token, reactor, up, Some(established)).then_some(token)
}

/// Gives a link to its reactor. Nothing is pending on the stream: its handshake has ended, or there is none without TLS.
pub(super) fn hand_over(
    acceptor: &Acceptor,
    stream: &Stream,
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
            acceptor.engine.adopt(NewLink { token, reactor, socket, up, tls, plaintext, received });
            true
        }
        Err(error) => {
            acceptor.counters.links_lost.increment();
            if acceptor.may_log(|logs| &mut logs.link_lost) {
                warn!(%error, "a link is lost: no file descriptor left; raise the limit (ulimit -n, LimitNOFILE=)");
            }
            acceptor.connections.borrow_mut().leave(token);
            false
        }
    }
}
