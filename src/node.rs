//! One node, put together: identities, registry, engine, door; started, drained, stopped.

pub mod check;
mod credentials;
mod lame_duck;
mod memory;
mod reload;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use crossbeam::{
    channel::{Receiver, Sender, bounded, never, unbounded},
    select,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};

use crate::{
    admin::{Admin, AdminError, AdminListener, RegistryQuestion, Watched},
    config::{Bandwidth, Config},
    door::{
        Door, DoorError, DoorLimits, DoorSettings, HANDSHAKES_MAX, LINKS_PER_NODE_MAX, LedgerNode, Listeners,
        Membership, Opening, is_in_use,
    },
    engine::{Engine, EngineError, EngineHandle, IoBackend, LinkEvent},
    relay::{
        RegistryInput, RegistryOutput, Shared,
        bandwidth::Limiter,
        registry::{NEIGHBOURS_MAX, Registry},
        settings::SESSIONS_MAX,
    },
    service::{InheritError, InheritedSockets, ServiceManager},
    stop::join_by,
    supervise::{Start, Supervisor, blocking, contained_task},
    tls::{config::ConfigError, identity::IdentityError, random::random, validity::CertificateEnds},
    wire::NodeId,
};

pub use self::{
    credentials::{Credentials, Finding, RenewError},
    reload::{ReloadError, Reloaded, Reread},
};
pub use crate::door::BACKLOG;

/// Changes are gathered this long for one snapshot, unless the last one is older.
const GATHER: Duration = Duration::from_millis(1);
/// Inputs that go into one snapshot at most.
const GATHERED_MAX: usize = 1_024;
/// Questions of the admin endpoint that wait for the registry; further ones are refused.
const REGISTRY_REQUESTS_MAX: usize = 16;
/// How long the door may take to close before the reactors are drained, out of the time of the whole stop.
const DOOR_CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// How long what should have ended with the reactors may take beyond the time of the stop.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Fewer are a mistake of whoever set the limit, for any node.
const FILES_NEEDED: u64 = 4_096;
/// Open files of a node with all its links, and some hundred of its own.
pub const FILES_WANTED: u64 =
    (SESSIONS_MAX + NEIGHBOURS_MAX * LINKS_PER_NODE_MAX + 2 * HANDSHAKES_MAX + 512) as u64;
/// A node that cannot open so many more files once it is up does not start: it could let nobody in.
const FILES_FOR_LINKS_LEAST: usize = 16;
/// What a runtime and its signals open.
const FILES_FOR_SIGNALS: usize = 8;
/// Most starts are ready within this.
const READY_SOON: Duration = Duration::from_millis(500);
/// How often a running node looks at the time of its certificates.
const CERTIFICATES_LOOKED_AT_EVERY: Duration = Duration::from_secs(86_400);

/// When a running node looks at the time of its certificates: a day after its start, which looks itself, and each day after that.
fn certificate_looks() -> tokio::time::Interval {
    let first = tokio::time::Instant::now() + CERTIFICATES_LOOKED_AT_EVERY;
    tokio::time::interval_at(first, CERTIFICATES_LOOKED_AT_EVERY)
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates or keys.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The node's key is kept as key-manager encrypts it.
    #[error(
        "{}: no private key in PEM, and [storage_security] enable=true says why: FISCO BCOS keeps it encrypted by key-manager. \
         Decrypt it first (node.key.bak.*, which encrypt_node_key.sh leaves, is the PEM; docs/migrating.md has another way), put \
         the PEM there, and set enable=false", crate::escape::shown_path(.0)
    )]
    EncryptedOnDisk(PathBuf),
    /// The other certificate of a chain of national cryptography is not there.
    #[error(
        "{source}; [chain] sm_crypto=true: other nodes of this kind, and applications, need the node's certificate with a secp256k1 key, \
         which build_chain.sh -g leaves in conf/origin_cert (node.crt, node.key, ca.crt): copy it from where the chain was made, or have its \
         agency make one (amop pki csr, amop pki sign)"
    )]
    OriginCertificate {
        /// What is wrong with it.
        source: IdentityError,
    },
    /// Certificate and key for ledger nodes.
    #[error(
        "[ledger] certificates = {}: {source}; the directory must hold ca.crt, sdk.crt and sdk.key, as nodes/127.0.0.1/sdk of the ledger's chain does",
        crate::escape::shown_path(directory)
    )]
    Ledger {
        /// Which directory.
        directory: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// TLS settings.
    #[error("[tls] {link}_versions, {link}_cipher_suites, {link}_groups: {source}")]
    Tls {
        /// The kind of link, as its keys begin.
        link: &'static str,
        /// Why.
        source: ConfigError,
    },
    /// io_uring, or epoll.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Addresses.
    #[error("{0}")]
    Door(#[from] DoorError),
    /// The admin endpoint.
    #[error("{0}")]
    Admin(#[from] AdminError),
    /// Sockets of the service manager.
    #[error("{0}")]
    Inherited(#[from] InheritError),
    /// Files.
    #[error("no files are left to be opened: {0}; raise the limit (ulimit -n, LimitNOFILE=)")]
    Files(#[from] std::io::Error),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A part of a running node has ended of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of the node has ended: {0}; this is a fault of amop, see the log before; the node ends")]
pub struct PartFailed(&'static str);

impl StartError {
    /// Whether somebody else has an address.
    fn is_address_in_use(&self) -> bool {
        match self {
            Self::Door(DoorError::Listen { source, .. }) | Self::Admin(AdminError::Listen { source, .. }) => {
                is_in_use(source)
            }
            Self::Admin(AdminError::ListenPath { source, .. }) => is_in_use(source),
            _ => false,
        }
    }

    /// Whether it will be the same at each further start, until somebody changes the configuration.
    pub fn is_configuration(&self) -> bool {
        match self {
            // It may be on a disk that is not there yet.
            Self::Identity(IdentityError::Read { .. })
            | Self::OriginCertificate { source: IdentityError::Read { .. } }
            | Self::Ledger { source: IdentityError::Read { .. }, .. } => false,
            Self::Inherited(_)
            | Self::Ledger { .. }
            | Self::OriginCertificate { .. }
            | Self::Identity(_)
            | Self::EncryptedOnDisk(_)
            | Self::Tls { .. } => true,
            Self::Engine(error) => matches!(error, EngineError::Pin { .. }),
            Self::Door(error) => error.is_configuration(),
            Self::Admin(error) => error.is_configuration(),
            Self::Files(_) | Self::Thread(_) => false,
        }
    }
}

/// A running node.
pub struct Node {
    /// What it runs with, as far as that may change while it does.
    config: Config,
    credentials: Credentials,
    /// When its certificates end, for the metrics.
    certificates: Arc<ArcSwap<CertificateEnds>>,
    shared: Arc<Shared>,
    /// For the registry, which ends when nobody has one.
    registry_inputs: Option<Sender<RegistryInput>>,
    engine: Option<Engine>,
    door: Door,
    registry: Option<thread::JoinHandle<()>>,
    admin: Option<Admin>,
    /// Set once the node has begun to stop.
    stopping: Arc<AtomicBool>,
    supervisor: Supervisor,
    shutdown_timeout: Duration,
    facts: Facts,
    /// Whether the configuration that was read again last changed nothing.
    is_reload_refused: bool,
}

/// What is logged of a node when it is up.
struct Facts {
    io: IoBackend,
    profile: &'static str,
    memory_max_mib: u64,
    memory_bound_mib: u64,
    frame_bytes_max: usize,
    sessions_max: usize,
    bandwidth_mbit: Option<f64>,
}

/// The ledger nodes, before any was dialled.
fn ledger_nodes(config: &Config) -> Arc<[LedgerNode]> {
    let addresses = config.ledger.iter().flat_map(|ledger| &ledger.addresses);
    addresses.cloned().map(LedgerNode::new).collect()
}

/// Whoever sees the admin endpoint answer and connects at once is let in, where that takes no time to speak of; `/readyz`
/// tells of longer starts.
fn wait_for_ready(door: &Door) {
    let end = Instant::now() + READY_SOON;
    while *door.opening.borrow() != Opening::Open && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A node that has what it needs: files are read, addresses are taken. Nobody has been let in, so that it can be dropped.
pub struct PreparedNode {
    config: Config,
    credentials: Credentials,
    listeners: Listeners,
    admin_listener: Option<AdminListener>,
}

impl PreparedNode {
    /// Lets nodes in from now on, and applications as soon as it [is ready](Node::is_ready). Takes a moment: whoever is told
    /// to end meanwhile is to stop the node that this gives.
    pub fn serve(self) -> Result<Node, StartError> {
        let Self { config, credentials, listeners, admin_listener } = self;
        let (identity, signer) = (&credentials.identity, credentials.signer.clone());
        let reactors = config.reactors();
        let memory_bound_mib = memory::bound_mib(&config);
        memory::say_what_has_no_room(&config);
        let (agency, name) = identity.names();
        let shared = Arc::new(Shared {
            own_address: format!("{}:{}", config.p2p_listen.0, config.p2p_listen.1),
            advertised: config.advertised.clone().map(|address| listeners.fill_port(address)).transpose()?,
            signer: Some(signer.clone()),
            own_agency: agency,
            own_name: name,
            limiter: Bandwidth::limiter(config.bandwidth),
            rpc_limiter: match config.relay.rpc_requests_per_second_max {
                Some(limit) => Limiter::new(limit.into(), Duration::from_secs(1)),
                None => Limiter::unlimited(),
            },
            next_message: AtomicU32::new(u32::from_be_bytes(random())),
            salt: random(),
            admission: Arc::new(ArcSwap::from_pointee(config.membership.admission.clone())),
            ..Shared::new(signer.id(), incarnation(), reactors, Instant::now(), config.relay.clone())
        });

        let (registry_sender, registry_inputs) = unbounded();
        let (event_sender, link_events) = mpsc::unbounded_channel();
        let event_callback: Arc<dyn Fn(LinkEvent) + Send + Sync> = Arc::new(move |event| {
            // The door may be closed already.
            let _ = event_sender.send(event);
        });
        let engine = Engine::start(&config.engine, &shared, &registry_sender, &event_callback)?;
        let handle = engine.handle();
        let registry = Registry::new(shared.clone(), signer);
        let registry_counters = registry.counters();
        let (question_sender, questions) = bounded(REGISTRY_REQUESTS_MAX);
        let (discovery, discovered) = watch::channel(BTreeMap::new());
        let stopping = Arc::<AtomicBool>::default();
        let supervisor = Supervisor::new(stopping.clone());
        let (settling, settled) = watch::channel(BTreeSet::new());
        let run = move |start: Start| {
            start.done();
            run_registry(registry, &registry_inputs, questions, &handle, &discovery, &settling);
        };
        let registry = supervisor.reporting_thread("amop-registry", run).map_err(StartError::Thread)?;
        let ledger_nodes = ledger_nodes(&config);
        let settings = DoorSettings {
            own_id: shared.id,
            io: engine.io(),
            channel_listen: config.channel_listen.clone(),
            p2p_listen: config.p2p_listen.clone(),
            membership: config.membership.clone(),
            discovered,
            settled,
            ready_timeout: config.relay.ready_timeout,
            tls: credentials.tls.clone(),
            address_handshakes_max: config.address_handshakes_max,
            limits: DoorLimits::of(&config.relay),
            reactors,
            ledger_nodes: ledger_nodes.clone(),
        };
        let door = Door::open(settings, listeners, engine.handle(), link_events, &supervisor)?;
        if admin_listener.is_some() {
            wait_for_ready(&door);
        }
        let certificates = Arc::new(ArcSwap::from_pointee(credentials.ends()));
        let watched = Watched {
            shared: shared.clone(),
            registry_counters,
            door_counters: door.counters.clone(),
            memory_max: config.memory_max.bytes,
            bounds: config.bounds().into_iter().flat_map(|(_, bounds)| bounds).collect(),
            engine: engine.handle(),
            registry: question_sender,
            announces: config.admin_announces,
            opening: door.opening.clone(),
            stopping: stopping.clone(),
            certificates: certificates.clone(),
            ledger_nodes,
        };
        let admin = admin_listener.map(|listener| Admin::open(listener, watched, &supervisor)).transpose()?;
        // Else it would be up, and let nobody in.
        let _ = spare_files(FILES_FOR_LINKS_LEAST)?;
        let facts = Facts {
            io: engine.io(),
            profile: if config.rsa_channel { "RSA" } else { "EC" },
            memory_max_mib: config.memory_max.bytes >> 20,
            memory_bound_mib,
            frame_bytes_max: config.relay.frame_len_max,
            sessions_max: config.relay.sessions_max,
            bandwidth_mbit: config.bandwidth.map(|limit| limit.bytes_per_second * 8.0 / 1_048_576.0),
        };
        let shutdown_timeout = config.shutdown_timeout;
        let (engine, registry, registry_inputs) = (Some(engine), Some(registry), Some(registry_sender));
        Ok(Node {
            config,
            credentials,
            certificates,
            shared,
            registry_inputs,
            engine,
            door,
            registry,
            admin,
            stopping,
            supervisor,
            shutdown_timeout,
            facts,
            is_reload_refused: false,
        })
    }
}

impl Node {
    /// Starts a node as configured.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::prepare(config, InheritedSockets::default())?.serve()
    }

    /// All of a start that may take its time. Sockets of the service manager are in the place of those of the configuration.
    pub fn prepare(config: Config, sockets: InheritedSockets) -> Result<PreparedNode, StartError> {
        raise_file_limit();
        let credentials = Credentials::load(&config)?;
        credentials.log_findings(&config, SystemTime::now());
        let (channel_listen, p2p_listen) = (&config.channel_listen, &config.p2p_listen);
        sockets.warn_where_elsewhere((&channel_listen.0, channel_listen.1), (&p2p_listen.0, p2p_listen.1));
        let InheritedSockets { channel, p2p, admin } = sockets;
        if admin.is_some() && config.admin_listen.is_none() {
            return Err(InheritError::NoAdmin.into());
        }
        let listeners =
            Listeners::bind(channel_listen, config.channel_plaintext, p2p_listen, [channel, p2p])?;
        let (socket, access) = (config.admin_socket.as_ref(), &config.admin_access);
        let admin_listener = AdminListener::bind(config.admin_listen, admin, socket, access)?;
        Ok(PreparedNode { config, credentials, listeners, admin_listener })
    }

    /// Whether it knows the network, as far as that answers, and lets applications in.
    pub fn is_ready(&self) -> bool {
        *self.door.opening.borrow() == Opening::Open && !self.supervisor.has_ended()
    }

    fn say_that_it_is_up(&self) {
        let Facts {
            io,
            profile,
            memory_max_mib,
            memory_bound_mib,
            frame_bytes_max,
            sessions_max,
            bandwidth_mbit,
        } = self.facts;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            node = %self.shared.id.to_hex(),
            channel = %self.channel_address(),
            p2p = %self.p2p_address(),
            profile,
            reactors = self.shared.reactors,
            %io,
            memory_max_mib,
            memory_bound_mib,
            frame_bytes_max,
            sessions_max,
            bandwidth_mbit,
            "the node is up",
        );
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Where applications connect.
    pub fn channel_address(&self) -> SocketAddr {
        self.door.channel_address
    }

    /// Where nodes connect.
    pub fn p2p_address(&self) -> SocketAddr {
        self.door.p2p_address
    }

    /// The address where the admin endpoint listens, if it does.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|admin| admin.address)
    }

    /// What the node's shards share: metrics, and the snapshot of topics and nodes.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Dials and lets in whom this says from now on. Links with others are closed at once, and no messages are exchanged
    /// with whom the lists leave out.
    pub fn set_membership(&self, membership: Membership) {
        self.shared.admission.store(Arc::new(membership.admission.clone()));
        if let Some(inputs) = &self.registry_inputs {
            // A registry that has failed has ended.
            let _ = inputs.send(RegistryInput::Admission);
        }
        self.door.set_membership(membership);
    }

    /// Waits until a part of the node has ended of itself, by a fault of amop, and names it. The node is to be stopped then.
    pub async fn failed(&self) -> PartFailed {
        PartFailed(self.supervisor.ended().await)
    }

    /// Runs until SIGTERM or SIGINT, or until a part of the node fails, then stops in order. SIGQUIT, and SIGTERM where
    /// `[amop] lame_duck_ms` says so, let applications go first; another signal has the stop begin. The next one ends the
    /// process at once. Calls `when_up` once applications are let in. On SIGHUP it takes over what `read` gives, which knows
    /// what the node runs with, reads files, and may take as long as they do. SIGUSR1 switches tracing on, SIGUSR2 off. The
    /// service manager is told of all of it.
    pub fn run_until(
        mut self,
        signals: Signals,
        mut manager: ServiceManager,
        when_up: impl FnOnce(),
        read: impl Fn(&Config) -> Option<Reread> + Clone + Send + 'static,
    ) -> Result<(), PartFailed> {
        let Signals {
            runtime,
            mut terminate,
            mut interrupt,
            mut quit,
            mut hangup,
            mut trace,
            mut trace_no_more,
        } = signals;
        let result = runtime.block_on(async {
            let mut reloading = None;
            let mut certificate_looks = certificate_looks();
            let mut looks = manager.looks();
            let mut opening = self.door.opening.clone();
            let mut when_up = Some(when_up);
            let lame_duck = loop {
                tokio::select! {
                    is_open = async { opening.wait_for(|now| *now == Opening::Open).await.is_ok() }, if when_up.is_some() => {
                        if let Some(when_up) = when_up.take()
                            && is_open
                        {
                            self.say_that_it_is_up();
                            manager.ready();
                            self.report(&mut manager);
                            when_up();
                        }
                    }
                    _ = terminate.recv() => break self.lame_duck(),
                    _ = quit.recv() => break Some(self.lame_duck_at_request()),
                    _ = interrupt.recv() => break None,
                    failed = self.failed() => return Err(failed),
                    // One at a time. Signals that come meanwhile are one, which is looked at afterwards.
                    _ = hangup.recv(), if reloading.is_none() => {
                        manager.reloading();
                        let (read, running) = (read.clone(), self.config.clone());
                        reloading = Some(Box::pin(blocking(move || read(&running))));
                    },
                    read = ended(&mut reloading) => {
                        reloading = None;
                        self.end_reload(read);
                        self.report(&mut manager);
                        manager.reloaded();
                    },
                    _ = looks.tick() => self.report(&mut manager),
                    _ = certificate_looks.tick() => self.credentials.log_findings(&self.config, SystemTime::now()),
                    _ = trace.recv() => self.set_tracing(true),
                    _ = trace_no_more.recv() => self.set_tracing(false),
                }
            };
            match lame_duck {
                Some(within) => self.let_go(within, [&mut terminate, &mut interrupt], &mut manager).await,
                None => Ok(()),
            }
        });
        if let Err(failed) = &result {
            error!("{failed}");
        }
        info!("stopping: no new links; what is in flight is answered");
        manager.stopping();
        let entered = runtime.enter();
        contained_task(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            std::process::exit(130);
        });
        drop(entered);
        self.stop();
        info!("stopped");
        // A file that is still being read is not waited for.
        runtime.shutdown_background();
        result
    }

    /// Whether accounts of messages that end with 0 are kept, too.
    pub fn set_tracing(&self, tracing: bool) {
        self.shared.tracing.store(tracing, Relaxed);
        if tracing {
            info!("messages that end with 0 are traced, too, until SIGUSR2");
        } else {
            info!("only messages that do not end with 0 are traced");
        }
    }

    /// Stops: no new links, what is in flight is answered, links are closed in order; all of it within
    /// `[amop] shutdown_timeout_ms`. What has not ended by then is left behind, and ends with the process.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if self.stopping.swap(true, Relaxed) {
            return;
        }
        let begun = Instant::now();
        let end = begun + self.shutdown_timeout;
        let mut left = Vec::new();
        // It ends at once unless something hangs in it; then there is one more look at it below.
        self.door.closed_by(begun + DOOR_CLOSED_WITHIN.min(self.shutdown_timeout / 4));
        if let Some(engine) = self.engine.take()
            && !engine.stop(end.saturating_duration_since(Instant::now()))
        {
            left.push("reactors");
        }
        let end = end.max(Instant::now() + LAST_LOOK);
        self.registry_inputs.take();
        if let Some(registry) = self.registry.take()
            && join_by(registry, end).is_err()
        {
            left.push("registry");
        }
        if !self.door.closed_by(end) {
            left.push("door");
        }
        // To the last, it tells that the node is stopping.
        if self.admin.as_mut().is_some_and(|admin| !admin.closed_by(end)) {
            left.push("admin endpoint");
        }
        if !left.is_empty() {
            let timeout_ms = self.shutdown_timeout.as_millis() as u64;
            warn!(
                timeout_ms,
                left = left.join(", "),
                "not all parts of the node have ended within [amop] shutdown_timeout_ms; they end with the process",
            );
        }
    }
}

async fn ended<F: Future + Unpin>(task: &mut Option<F>) -> F::Output {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// The signals that a node understands, from the moment that this is made. It is made before the node starts: one that came in
/// between would end the process, with a node in it that others may have seen already.
#[derive(Debug)]
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    trace: Signal,
    trace_no_more: Signal,
}

impl Signals {
    /// Takes the signals of this process.
    pub fn take() -> Result<Self, StartError> {
        // Where there are none, the runtime panics.
        let _ = spare_files(FILES_FOR_SIGNALS)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let _entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let quit = signal(SignalKind::quit())?;
        let hangup = signal(SignalKind::hangup())?;
        let trace = signal(SignalKind::user_defined1())?;
        let trace_no_more = signal(SignalKind::user_defined2())?;
        drop(_entered);
        Ok(Self { runtime, terminate, interrupt, quit, hangup, trace, trace_no_more })
    }

    /// Does something that may take its time. `None` if the process is told to end meanwhile: nothing is served yet, so
    /// nothing is waited for.
    pub fn prepare<T: Send + 'static>(
        mut self,
        prepare: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<Option<(Self, T)>> {
        let Self { runtime, terminate, interrupt, quit, .. } = &mut self;
        let prepared = runtime.block_on(async {
            tokio::select! {
                prepared = blocking(prepare) => Some(prepared),
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                _ = quit.recv() => None,
            }
        });
        let Some(prepared) = prepared else {
            info!("told to end before the node was up");
            self.runtime.shutdown_background();
            return Ok(None);
        };
        Ok(Some((self, prepared?)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Grows with every start, as long as the clock does not go back.
fn incarnation() -> u64 {
    incarnation_at(SystemTime::now(), u32::from_be_bytes(random()))
}

/// A clock from before 1970 tells nothing: any number below those of other clocks is as good, as long as it is not always
/// the same. If the network knows a later incarnation, this node hears of it.
fn incarnation_at(now: SystemTime, random: u32) -> u64 {
    let micros = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    micros.max(u64::from(random) + 1)
}

fn run_registry(
    mut registry: Registry,
    inputs: &Receiver<RegistryInput>,
    mut questions: Receiver<RegistryQuestion>,
    engine: &EngineHandle,
    discovery: &watch::Sender<BTreeMap<NodeId, String>>,
    settling: &watch::Sender<BTreeSet<NodeId>>,
) {
    let counters = registry.counters();
    let mut last = Instant::now();
    loop {
        counters.pending_inputs.set(inputs.len() as u64);
        let wait = registry
            .poll_timeout()
            .map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
        select! {
            recv(inputs) -> input => {
                let Ok(input) = input else { return };
                registry.handle(Instant::now(), input);
                let end = last + GATHER;
                for _ in 1..GATHERED_MAX {
                    match inputs.recv_deadline(end) {
                        Ok(input) => registry.handle(Instant::now(), input),
                        Err(_) => break,
                    }
                }
            }
            recv(questions) -> question => match question {
                Ok(ask) => ask(&mut registry),
                // There is no admin endpoint.
                Err(_) => questions = never(),
            },
            default(wait) => {}
        }
        last = Instant::now();
        registry.handle_timeout(last);
        registry.publish(last);
        if let Some(discovered) = registry.take_discovered() {
            discovery.send_replace(discovered);
        }
        if let Some(settled) = registry.take_settled() {
            settling.send_replace(settled);
        }
        while let Some((reactor, output)) = registry.poll_output() {
            let is_answer = matches!(output, RegistryOutput::RpcAnswer { .. });
            engine.deliver(reactor, output);
            if is_answer && !registry.has_output() && !inputs.is_empty() {
                // They go before further answers.
                break;
            }
        }
    }
}

/// So many more open files, if there may be; given back by being dropped.
fn spare_files(count: usize) -> std::io::Result<Vec<OwnedFd>> {
    let flags = rustix::event::EventfdFlags::CLOEXEC;
    let files: Result<Vec<_>, _> = (0..count).map(|_| rustix::event::eventfd(0, flags)).collect();
    Ok(files?)
}

/// Each link is an open file.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    match allowed {
        Some(allowed @ ..FILES_NEEDED) => warn!(
            allowed,
            "few files may be open: this bounds the number of links; raise it with ulimit -n or LimitNOFILE="
        ),
        Some(allowed @ ..FILES_WANTED) => {
            info!(allowed, "each link is an open file: for more of them raise ulimit -n or LimitNOFILE=");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{NetworkPlan, build_network};

    #[tokio::test(start_paused = true)]
    async fn a_running_node_looks_at_its_certificates_each_day() {
        let (start, mut looks) = (tokio::time::Instant::now(), certificate_looks());
        for day in 1..=3 {
            looks.tick().await;
            assert_eq!(start.elapsed(), Duration::from_secs(24 * 3_600) * day);
        }
    }

    #[test]
    fn a_clock_from_before_1970_does_not_make_all_incarnations_one() {
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!([0, 7, u32::MAX].map(|random| incarnation_at(early, random)), [1, 8, 1 << 32]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1 << 50);
        assert_eq!(incarnation_at(now, u32::MAX), 1 << 50);
    }

    #[test]
    fn a_node_ends_in_order_and_names_the_part_of_it_that_has_died() {
        let dir = tempfile::tempdir().unwrap();
        build_network(&NetworkPlan::default(), &dir.path().join("nodes")).unwrap();
        let text = "[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n[p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n\
                    [engine]\nreactors=2\nreceive_buffers=64\n";
        let (config, _) = Config::parse(text, &dir.path().join("nodes/127.0.0.1/node0")).unwrap();
        let signals = Signals::take().unwrap();
        let node = Node::start(config).unwrap();
        let channel = node.channel_address();
        let dies = node.supervisor.thread("amop-test", || panic!("meant")).unwrap();
        assert_eq!(
            node.run_until(signals, ServiceManager::none(), || (), |_| None),
            Err(PartFailed("amop-test"))
        );
        dies.join().unwrap();
        assert!(std::net::TcpStream::connect(channel).is_err(), "it has stopped");
    }
}
