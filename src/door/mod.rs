//! The door: listens, accepts, dials, does handshakes, and gives each link to the reactor that is to own
//! it. One thread, on io_uring or epoll as the engine is, so that no handshake ever costs a live link its latency.
//!
//! ```text
//!   listeners ─► handshake ─┐
//!                           ├─► lists, bounds ─► engine (socket, keys, who it is)
//!   dialers   ─► handshake ─┘        ▲
//!                                    └── LinkEvent
//! ```
//!
//! Imports `engine` and `tls`, and plain types of `relay` and `wire`.
//!
//! # Invariants
//! - Nothing of the door's is pending on a descriptor that it has given away.
//! - Every handshake has a time, an amount of input, and a place among a bounded number.
//! - Those that come to nothing have a budget of processor time for each address.
//! - No operation is dropped while it is under way: its socket is shut down, and its end awaited (`operations.rs`).

mod accept;
mod cause;
mod connections;
mod counters;
mod dial;
mod handshake_queue;
mod ledger;
mod lookup;
mod membership;
mod opening;
mod operations;
mod own_key;
pub mod probe;
mod stream;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::warn;

use self::{
    cause::Cause,
    connections::Connections,
    counters::Logs,
    handshake_queue::{
        ADDRESSES_MAX, TIME_PER_ADDRESS_MAX, TIME_RECOVERY, WAIT_MAX, WAITING_MAX, WAITING_PER_ADDRESS_MAX,
    },
    ledger::{LEDGER_DIALS_MAX, LedgerDials},
    lookup::{LOOKUP_TIMEOUT, LOOKUPS_MAX, Lookups},
    operations::{CalledOff, Operations},
    own_key::{OwnDial, OwnKey},
    stream::{Runtime, Stream},
};
pub use self::{
    counters::DoorCounters,
    ledger::{DialFailure, LedgerNode},
    membership::Membership,
    opening::Opening,
};
use crate::{
    bound::{Bound, fixed},
    clock,
    engine::{EngineHandle, IoBackend, LinkEvent, schedule, shut_down},
    relay::{log_limit::LogLimit, readiness::Readiness, settings::Settings},
    stop::join_by,
    supervise::{Start, Supervisor, contained_local_task, must_not_unwind},
    tls::{
        Established,
        config::ServerTls,
        handshake::{Handshake, HandshakeError, INPUT_LEN_MAX, Offers},
        path::SIGNATURES_MAX,
        signature::RSA_MODULUS_BITS_MAX,
        verify::{CERTIFICATE_LEN_MAX, CERTIFICATES_MAX},
    },
    wire::NodeId,
};

/// How long a handshake may take (WIRE §1.8).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; further ones wait in the backlog.
pub const HANDSHAKES_MAX: usize = 1_024;
/// Memory of a handshake beside its input, in bytes: the state of rustls, certificates, its task; about
/// (`scripts/memory` measures it).
const HANDSHAKE_MEMORY: usize = 64 * 1024;
/// Memory of a connection that waits, in bytes: its task, its place among others, its socket's state here; about.
const WAITING_MEMORY: usize = 4 * 1024;
/// Memory of what is known of an address, in bytes; about.
const ADDRESS_MEMORY: usize = 512;
/// Handshakes at once from one address, unless `[amop] address_handshakes_max` says otherwise; further ones wait.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Sessions with one certificate.
pub const SESSIONS_PER_CERTIFICATE_MAX: usize = 4_096;
/// Links to one node at once: one carries, others are about to replace it or to end.
pub const LINKS_PER_NODE_MAX: usize = 8;
/// How long an address that is in use is tried again: a node that was killed, or that is about to end, may take a moment until it
/// has let go of its listeners.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);
/// Connections that the kernel keeps for us.
pub const BACKLOG: i32 = 4_096;
/// How long a door that is dropped may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Section and key that say where is listened …
pub(crate) type ListenKey = (&'static str, &'static str);
/// … for applications …
pub(crate) const CHANNEL_KEY: ListenKey = ("rpc", "channel_listen_port");
/// … and for nodes.
pub(crate) const P2P_KEY: ListenKey = ("p2p", "listen_port");
/// Bytes read at once during a handshake.
const READ_LEN: usize = 4_096;

/// Why the door cannot be opened; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} ([{section}] {key}): {source}; is another node running, or is the address not this machine's?"
    )]
    Listen {
        /// Which address.
        address: String,
        /// Where it is set.
        section: &'static str,
        /// By which key.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The listener for applications is to be without TLS where others reach it.
    #[error(
        "[tls] channel_plaintext=true is for measuring on one machine only, and {address} can be reached from others: \
         set [rpc] channel_listen_ip=127.0.0.1 (or ::1), or remove [tls] channel_plaintext"
    )]
    PlaintextForOthers {
        /// Where it listens.
        address: SocketAddr,
    },
    /// The thread or its ring cannot be set up.
    #[error("the door cannot be set up: {0}; if files run out, raise the limit (ulimit -n, LimitNOFILE=)")]
    Runtime(std::io::Error),
}

impl DoorError {
    /// Whether it will be the same until somebody changes the configuration.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Listen { source, .. } => is_refused_address(source),
            Self::PlaintextForOthers { .. } => true,
            Self::Runtime(_) => false,
        }
    }
}

/// Whether an address cannot be listened on whoever else runs, and whenever: it is none, or a port for root only. One that
/// this machine has not may come, as it does while a machine starts.
pub(crate) fn is_refused_address(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Other)
}

/// What the door needs to know.
pub struct DoorSettings {
    /// This node.
    pub own_id: NodeId,
    /// What the engine is on, and so the door.
    pub io: IoBackend,
    /// Where applications connect.
    pub channel_listen: (String, u16),
    /// Where nodes connect.
    pub p2p_listen: (String, u16),
    /// Whom it dials and lets in at first.
    pub membership: Membership,
    /// Whom it dials as well, and where: nodes that were found.
    pub discovered: watch::Receiver<BTreeMap<NodeId, String>>,
    /// The neighbours whose state is here.
    pub settled: watch::Receiver<BTreeSet<NodeId>>,
    /// How long the state of the named peers that answer is waited for before applications are let in.
    pub ready_timeout: Duration,
    /// What handshakes are made with at first.
    pub tls: DoorTls,
    /// Handshakes at once from one address, at each listener.
    pub address_handshakes_max: usize,
    /// How many there may be at once of what is let in.
    pub limits: DoorLimits,
    /// Number of reactors.
    pub reactors: u16,
    /// The ledger nodes, by their numbers.
    pub ledger_nodes: Arc<[LedgerNode]>,
}

/// How many there may be at once of what is let in.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// Sessions.
    pub(super) sessions_max: usize,
    /// Nodes that are linked.
    pub(super) neighbours_max: usize,
    /// Handshakes at a listener.
    pub(super) handshakes_max: usize,
    /// Connections at a listener that wait because of their address.
    pub(super) waiting_max: usize,
}

impl DoorLimits {
    /// Those of a node with these settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            sessions_max: settings.sessions_max,
            neighbours_max: settings.neighbours_max,
            handshakes_max: settings.tables.of(HANDSHAKES_MAX),
            waiting_max: settings.tables.of(WAITING_MAX),
        }
    }
}

/// What handshakes are made with.
#[derive(Clone, Debug)]
pub struct DoorTls {
    /// For applications.
    pub channel: ServerTls,
    /// For nodes that dial us.
    pub p2p_server: ServerTls,
    /// For nodes that we dial.
    pub p2p_client: Arc<ClientConfig>,
    /// For ledger nodes, if there are any.
    pub ledger: Option<Arc<ClientConfig>>,
}

/// An open door.
pub struct Door {
    stop: watch::Sender<bool>,
    membership: watch::Sender<Membership>,
    tls: Arc<ArcSwap<DoorTls>>,
    thread: Option<thread::JoinHandle<()>>,
    opened: watch::Sender<Opening>,
    /// Whether applications are let in.
    pub opening: watch::Receiver<Opening>,
    /// Where applications connect.
    pub channel_address: SocketAddr,
    /// Where nodes connect.
    pub p2p_address: SocketAddr,
    /// Its metrics, which anybody may read.
    pub counters: Arc<DoorCounters>,
}

/// What all tasks that accept and dial share; they run on one thread.
struct Acceptor {
    settings: DoorSettings,
    engine: EngineHandle,
    connections: RefCell<Connections>,
    lookups: Lookups,
    ledger_dials: LedgerDials,
    operations: Operations,
    own_key: OwnKey,
    readiness: RefCell<Readiness>,
    /// Told whenever it is known of one more peer whether it answers.
    dialed: Notify,
    counters: Arc<DoorCounters>,
    logs: RefCell<Logs>,
    membership: watch::Receiver<Membership>,
    /// As it is now: certificates are renewed while the node runs.
    tls: Arc<ArcSwap<DoorTls>>,
    opening: watch::Receiver<Opening>,
    stop: watch::Receiver<bool>,
}

/// Where the door listens, before it is opened.
pub struct Listeners {
    /// Nobody is to connect there before the node is ready.
    channel: socket2::Socket,
    channel_plaintext: bool,
    p2p: TcpListener,
}

impl Listeners {
    /// Takes the addresses, or the service manager's sockets in their place; nobody is let in yet. `channel_plaintext` lets
    /// applications in without TLS, which only an address on loopback may.
    pub fn bind(
        channel: &(String, u16),
        channel_plaintext: bool,
        p2p: &(String, u16),
        inherited: [Option<TcpListener>; 2],
    ) -> Result<Self, DoorError> {
        let [inherited_channel, inherited_p2p] = inherited;
        let channel = match inherited_channel {
            Some(inherited) => inherited.into(),
            None => claim(channel, CHANNEL_KEY, |_| Ok(()))?,
        };
        if channel_plaintext {
            let address = address_of(&channel)?;
            if !is_this_machine(address.ip()) {
                return Err(DoorError::PlaintextForOthers { address });
            }
            warn!(
                %address,
                "applications are let in WITHOUT TLS, whoever runs them on this machine: [tls] channel_plaintext is for measuring only",
            );
        }
        let p2p = match inherited_p2p {
            Some(inherited) => inherited,
            None => claim(p2p, P2P_KEY, |socket| socket.listen(BACKLOG))?.into(),
        };
        Ok(Self { channel, channel_plaintext, p2p })
    }

    /// Whether an address could be taken now that is set by such a key.
    pub(crate) fn check(address: &(String, u16), key: ListenKey) -> Result<(), DoorError> {
        bind(address).map(drop).map_err(|source| refused(address, key, source))
    }

    /// An address of this node for others: port 0 becomes the one that is listened on.
    pub fn fill_port(&self, address: String) -> Result<String, DoorError> {
        let Some(host) = address.strip_suffix(":0") else { return Ok(address) };
        let port = self.p2p.local_addr().map_err(DoorError::Runtime)?.port();
        Ok(format!("{host}:{port}"))
    }
}

impl Door {
    /// Begins to let nodes in, and to dial; applications as soon as it is [`Opening::Open`]. `link_events` gives what
    /// the engine reports.
    pub fn open(
        settings: DoorSettings,
        listeners: Listeners,
        engine: EngineHandle,
        link_events: mpsc::UnboundedReceiver<LinkEvent>,
        supervisor: &Supervisor,
    ) -> Result<Self, DoorError> {
        let Listeners { channel, channel_plaintext, p2p } = listeners;
        let channel_address = address_of(&channel)?;
        let p2p_address = p2p.local_addr().map_err(DoorError::Runtime)?;
        let (stop, stopped) = watch::channel(false);
        let (membership, members) = watch::channel(settings.membership.clone());
        let tls = Arc::new(ArcSwap::from_pointee(settings.tls.clone()));
        let current_tls = tls.clone();
        let (opened, opening) = watch::channel(Opening::AwaitsState);
        let (to_close, to_watch) = (opened.clone(), opening.clone());
        let counters = Arc::<DoorCounters>::default();
        let (counted, watch) = (counters.clone(), supervisor.clone());
        let run = move |start: Start| {
            // The kernel writes to its buffers.
            must_not_unwind();
            // A storm of handshakes, each a millisecond of processor time, must not keep messages waiting.
            schedule::set_role(schedule::Role::Work);
            let runtime = match Runtime::new(settings.io) {
                Ok(runtime) => runtime,
                Err(error) => return start.failed(error),
            };
            runtime.block_on(async move {
                let peers = &settings.membership.peers;
                let readiness = Readiness::new(Instant::now(), settings.ready_timeout, peers);
                let acceptor = Rc::new(Acceptor {
                    readiness: RefCell::new(readiness),
                    dialed: Notify::new(),
                    connections: RefCell::new(Connections::new(settings.reactors, settings.limits)),
                    lookups: Lookups::default(),
                    ledger_dials: LedgerDials::default(),
                    operations: Operations::default(),
                    own_key: OwnKey::default(),
                    counters: counted,
                    logs: RefCell::default(),
                    settings,
                    engine,
                    membership: members,
                    tls: current_tls,
                    opening: to_watch,
                    stop: stopped.clone(),
                });
                let accepting =
                    opening::accept_when_ready(acceptor.clone(), channel, channel_plaintext, opened);
                watch.local_task("amop-door, which lets applications in", accepting);
                watch.local_task(
                    "amop-door, which lets nodes in",
                    accept::accept_nodes(acceptor.clone(), p2p),
                );
                watch.local_task("amop-door, which dials nodes", membership::keep(acceptor.clone()));
                start.done();
                acceptor.watch_links(link_events).await;
                acceptor.operations.end_all().await;
            });
        };
        let thread = supervisor.reporting_thread("amop-door", run).map_err(DoorError::Runtime)?;
        Ok(Self {
            stop,
            membership,
            tls,
            thread: Some(thread),
            opened: to_close,
            opening,
            channel_address,
            p2p_address,
            counters,
        })
    }

    /// Dials and lets in whom this says from now on. Links with others are closed at once.
    pub fn set_membership(&self, membership: Membership) {
        self.membership.send_replace(membership);
    }

    /// Makes handshakes that begin from now on with this.
    pub fn set_tls(&self, tls: DoorTls) {
        self.tls.store(Arc::new(tls));
    }

    /// Lets no more applications in: their port is closed. Nodes still come. Returns at once.
    pub fn let_no_applications_in(&self) {
        self.opened.send_replace(Opening::Closed);
    }

    /// Lets nobody in any more and dials nobody. Returns at once.
    pub fn close(&self) {
        let _ = self.stop.send(true);
    }

    /// Waits until it is closed, at most until then; whether it is. What has not ended by then ends with the process.
    pub fn closed_by(&mut self, deadline: Instant) -> bool {
        self.close();
        self.thread = self.thread.take().and_then(|thread| join_by(thread, deadline).err());
        self.thread.is_none()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // One that was told to close has had its time.
        if !*self.stop.borrow() {
            self.closed_by(Instant::now() + CLOSE_WITHIN);
        }
    }
}

impl Acceptor {
    /// Takes note of links that ended or are to be replaced, and dials ledger nodes for sessions, until the door closes.
    async fn watch_links(self: &Rc<Self>, mut link_events: mpsc::UnboundedReceiver<LinkEvent>) {
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                event = link_events.recv() => match event {
                    Some(LinkEvent::Closed(closed)) => self.connections.borrow_mut().leave(closed.token),
                    Some(LinkEvent::RekeyDue { token }) => self.connections.borrow_mut().set_rekey_due(token),
                    Some(LinkEvent::DialLedger { reactor, dial }) => ledger::begin(self, reactor, dial),
                    None => return,
                },
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    /// What a dial has shown of a peer: which node is there, if any. One that is dialled no more shows none. Only peers that
    /// the configuration named at the start are waited for.
    fn note_dialed(&self, peer: &str, id: Option<NodeId>) {
        match id.filter(|id| *id != self.settings.own_id) {
            Some(id) => self.readiness.borrow_mut().note_answer(peer, id),
            None => self.readiness.borrow_mut().note_absence(peer),
        }
        self.dialed.notify_waiters();
    }

    /// Whether a line of this kind may be logged now.
    fn may_log(&self, kind: impl Fn(&mut Logs) -> &mut LogLimit) -> bool {
        kind(&mut self.logs.borrow_mut()).admits(Instant::now())
    }

    /// Does a whole handshake within its time, unless it is given up. Who dialled has begun it; of others it is known with
    /// their first byte. Must be awaited to its end.
    async fn shake_hands(
        &self,
        stream: &Stream,
        mut handshake: Handshake,
        given_up: impl Future<Output = ()>,
    ) -> Result<Greeted, Failure> {
        let dialed = self.own_key.dialling(&handshake);
        if dialed.is_some() {
            self.counters.handshakes_begun.increment();
        }
        let pending = Pending::begin(&self.counters);
        let called_off = async {
            tokio::select! {
                () = clock::sleep(HANDSHAKE_TIMEOUT) => Failure::Timeout,
                () = given_up => Failure::GivenUp,
            }
        };
        let driven = self.drive(stream, &mut handshake);
        // Fails only if the peer has closed already.
        let done = self.operations.run(driven, called_off, || _ = shut_down(stream)).await;
        drop(pending);
        let done = match done {
            Ok(done) => done,
            Err(CalledOff::For(Failure::GivenUp) | CalledOff::Ending) => return Err(Failure::GivenUp),
            Err(CalledOff::For(failure)) => Err(failure),
        };
        let done = done.map_err(|failure| failure.told_by(&handshake, dialed.is_some())).and_then(|is_own| {
            let is_ourselves = dialed.as_ref().map_or(is_own, OwnDial::came_back);
            Ok(Greeted { established: handshake.finish()?, is_ourselves })
        });
        match &done {
            Ok(_) => self.counters.handshakes_done.increment(),
            Err(failure) => Cause::of(failure).counter(&self.counters).increment(),
        }
        done
    }

    /// The same in a task of its own, for whoever may be dropped before its end: that gives it up.
    async fn shake_hands_apart(
        self: &Rc<Self>,
        stream: Stream,
        handshake: Handshake,
    ) -> Result<(Stream, Greeted), Failure> {
        let (mut reply, answer) = oneshot::channel();
        let acceptor = self.clone();
        contained_local_task(async move {
            let done = acceptor.shake_hands(&stream, handshake, reply.closed()).await;
            // Whoever dialled may be gone.
            let _ = reply.send(done.map(|greeted| (stream, greeted)));
        });
        let done = answer.await.unwrap_or(Err(Failure::GivenUp));
        if self.operations.are_ending() {
            // Whoever dialled ends with the door.
            return std::future::pending().await;
        }
        done
    }

    /// Goes through a handshake; gives whether it is served here for ourselves.
    async fn drive(&self, stream: &Stream, handshake: &mut Handshake) -> Result<bool, Failure> {
        let mut buffer = Vec::with_capacity(READ_LEN);
        let mut failed = None;
        let mut is_own = false;
        let is_served = handshake.client_random().is_none();
        loop {
            let output = handshake.take_output();
            if !output.is_empty() {
                stream.write_all(output).await?;
            }
            if let Some(error) = failed {
                return Err(Failure::Handshake(error));
            }
            if handshake.is_complete() {
                return Ok(is_own);
            }
            buffer.clear();
            let (read, returned) = stream.read(buffer).await;
            buffer = returned;
            if read? == 0 {
                return Err(HandshakeError::Closed.into());
            }
            if is_served && !handshake.has_heard() {
                self.counters.handshakes_begun.increment();
            }
            // An alert that tells the peer what is wrong goes out first.
            failed = handshake.handle_received(&buffer).err();
            is_own |= is_served && self.own_key.note_served(handshake);
        }
    }
}

/// A handshake in the count of those under way, until it ends in whatever way.
struct Pending<'a>(&'a DoorCounters);

impl<'a> Pending<'a> {
    fn begin(counters: &'a DoorCounters) -> Self {
        counters.pending_handshakes.increment();
        Self(counters)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending_handshakes.decrement();
    }
}

fn bind((ip, port): &(String, u16)) -> std::io::Result<socket2::Socket> {
    let ip: IpAddr = ip.parse().map_err(std::io::Error::other)?;
    let address = SocketAddr::new(ip, *port);
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn refused((ip, port): &(String, u16), (section, key): ListenKey, source: std::io::Error) -> DoorError {
    DoorError::Listen { address: format!("{ip}:{port}"), section, key, source }
}

/// Takes an address, and does with the socket what is to be done.
fn claim(
    address: &(String, u16),
    key: ListenKey,
    and_then: impl Fn(&socket2::Socket) -> std::io::Result<()>,
) -> Result<socket2::Socket, DoorError> {
    let take = || bind(address).and_then(|socket| and_then(&socket).map(|()| socket));
    let end = Instant::now() + LISTEN_WITHIN;
    let mut bound = take();
    if bound.as_ref().is_err_and(is_in_use) {
        let ((ip, port), (section, key)) = (address, key);
        warn!(
            "{ip}:{port} ([{section}] {key}) is in use: waiting up to {LISTEN_WITHIN:?}, as a node that has just ended may need"
        );
    }
    while bound.as_ref().is_err_and(is_in_use) && Instant::now() < end {
        thread::sleep(LISTEN_PAUSE);
        bound = take();
    }
    bound.map_err(|source| refused(address, key, source))
}

fn address_of(socket: &socket2::Socket) -> Result<SocketAddr, DoorError> {
    let address = socket.local_addr().map_err(DoorError::Runtime)?;
    address.as_socket().ok_or_else(|| DoorError::Runtime(std::io::ErrorKind::AddrNotAvailable.into()))
}

/// Whether only this machine itself has the address.
pub fn is_this_machine(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

pub(crate) fn is_in_use(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrInUse
}

/// A handshake that is done.
struct Greeted {
    established: Established,
    /// Whether this process is at both ends.
    is_ourselves: bool,
}

/// Why a connection became no link.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// What the peer, who is the client, offered goes with nothing here.
    #[error("{error}; it offers {offers}")]
    Offers { error: HandshakeError, offers: Offers },
    #[error("the handshake took longer than {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    #[error("the peer closed before it sent a byte")]
    Probe,
    #[error("the peer sent nothing for {HANDSHAKE_TIMEOUT:?}")]
    Silent,
    #[error("the door closes, or nobody wants it any more")]
    GivenUp,
    #[error("this node itself answers there")]
    Ourselves,
}

impl Failure {
    /// The same, with what the handshake knows of it.
    fn told_by(self, handshake: &Handshake, dialed: bool) -> Self {
        if let Some(stranger) = handshake.stranger() {
            return HandshakeError::Stranger(stranger).into();
        }
        match self {
            Self::Io(_) | Self::Handshake(HandshakeError::Closed) if !dialed && !handshake.has_heard() => {
                Self::Probe
            }
            Self::Timeout if !dialed && !handshake.has_heard() => Self::Silent,
            Self::Handshake(error @ HandshakeError::Tls(rustls::Error::PeerIncompatible(_))) => {
                if let Some(version) = handshake.old_version() {
                    return HandshakeError::OldVersion(version).into();
                }
                match handshake.offers() {
                    Some(offers) => Self::Offers { error, offers: offers.clone() },
                    None => error.into(),
                }
            }
            failure => failure,
        }
    }
}

/// The bounds of the door.
pub(crate) fn bounds(address_handshakes_max: usize, settings: &Settings) -> Vec<Bound> {
    let DoorLimits { sessions_max, handshakes_max, waiting_max, .. } = DoorLimits::of(settings);
    let handshake = INPUT_LEN_MAX + HANDSHAKE_MEMORY;
    // Nobody is dialled where no ledger node is named.
    let if_ledger = |memory: usize| if settings.ledger.is_some() { memory } else { 0 };
    vec![
        fixed("handshakes", handshakes_max, "handshakes", "listener", "further ones wait in the backlog")
            .metric(
                "amop_door_pending_handshakes_max",
                "Handshakes at once of links that come in, for applications and for nodes each.",
            )
            .memory(2 * handshakes_max * handshake),
        fixed(
            "handshakes",
            address_handshakes_max.min(handshakes_max),
            "handshakes",
            "address at a listener",
            "further ones wait",
        )
        .metric(
            "amop_address_pending_handshakes_max",
            "Handshakes at once from one address, at each listener.",
        )
        .set_by("[amop] address_handshakes_max"),
        fixed(
            "connections that wait because of their address",
            waiting_max,
            "connections",
            "listener",
            "closed: handshakes_refused",
        )
        .memory(2 * waiting_max * WAITING_MEMORY),
        fixed(
            "connections that wait because of their address",
            WAITING_PER_ADDRESS_MAX,
            "connections",
            "address at a listener",
            "closed: handshakes_refused",
        ),
        fixed(
            "processor time of handshakes that come to nothing",
            TIME_PER_ADDRESS_MAX.as_millis() as usize,
            "ms",
            "address at a listener",
            "further ones wait: connections_out_of_time",
        ),
        fixed(
            "processor time of such handshakes in the long run",
            100 / TIME_RECOVERY as usize,
            "% of a thread",
            "address at a listener",
            "the same",
        ),
        fixed(
            "addresses whose handshakes came to nothing",
            ADDRESSES_MAX,
            "addresses",
            "listener",
            "forgotten with the last of their connections",
        )
        .memory(2 * ADDRESSES_MAX * ADDRESS_MEMORY),
        fixed("wait because of the address", WAIT_MAX.as_millis() as usize, "ms", "connection", "closed"),
        fixed("handshake", HANDSHAKE_TIMEOUT.as_millis() as usize, "ms", "connection", "closed"),
        fixed("input of a handshake", INPUT_LEN_MAX, "bytes", "connection", "closed"),
        fixed("certificates", CERTIFICATES_MAX, "certificates", "connection", "closed"),
        fixed("certificate", CERTIFICATE_LEN_MAX, "bytes", "connection", "closed"),
        fixed(
            "signatures of certificates",
            SIGNATURES_MAX,
            "signatures",
            "connection, and one for each certificate of the node",
            "closed",
        ),
        fixed(
            "RSA key of a certificate",
            RSA_MODULUS_BITS_MAX,
            "bits",
            "certificate but configured roots",
            "closed",
        ),
        fixed(
            "dials of ledger nodes",
            LEDGER_DIALS_MAX,
            "dials",
            "node",
            "further ones wait, one for each session",
        )
        .memory(if_ledger(LEDGER_DIALS_MAX * handshake + sessions_max * WAITING_MEMORY)),
        fixed("lookups of names", LOOKUPS_MAX, "threads", "node", "further ones wait"),
        fixed("lookup of a name", LOOKUP_TIMEOUT.as_millis() as usize, "ms", "dial", "the dial fails"),
        fixed("links", LINKS_PER_NODE_MAX, "links", "neighbour", "not let in: nodes_refused_by_number"),
        fixed(
            "sessions with one certificate",
            SESSIONS_PER_CERTIFICATE_MAX,
            "sessions",
            "certificate",
            "not let in",
        )
        .metric("amop_certificate_sessions_max", "Sessions with one certificate that the node takes."),
        fixed(
            "connections that nobody took yet",
            BACKLOG as usize,
            "connections",
            "listener",
            "the kernel drops them",
        ),
    ]
}
