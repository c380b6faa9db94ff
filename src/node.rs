//! One node, put together: identities, registry, engine, door; started, drained, stopped.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32},
    thread,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, RecvTimeoutError, unbounded};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    config::{Bandwidth, Config},
    door::{Door, DoorError, DoorSettings, Listeners},
    engine::{Engine, EngineError, EngineHandle, LinkClosed},
    relay::{
        RegistryInput, Shared, bandwidth::Limiter, registry::Registry, signing::NodeSigner,
        snapshot::Snapshot,
    },
    tls::{
        config::{ConfigError, client_config, leaves_out_tls13, same_issuer, server_config},
        identity::{Identity, IdentityError, Roots},
        verify::IssuerPolicy,
    },
    wire::NodeId,
};

/// Changes are gathered this long for one snapshot, unless the last one is older.
const GATHER: Duration = Duration::from_millis(1);
/// Inputs that go into one snapshot at most.
const GATHERED_MAX: usize = 1_024;
/// Open files that a busy node wants.
const FILES_WANTED: u64 = 65_536;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates or keys.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// TLS settings.
    #[error("[tls] {link}_versions, {link}_cipher_suites, {link}_groups: {source}")]
    Tls {
        /// The kind of link, as its keys begin.
        link: &'static str,
        /// Why.
        source: ConfigError,
    },
    /// io_uring.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Addresses.
    #[error("{0}")]
    Door(#[from] DoorError),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running node.
pub struct Node {
    shared: Arc<Shared>,
    engine: Option<Engine>,
    door: Door,
    registry: Option<thread::JoinHandle<()>>,
    shutdown_timeout: Duration,
}

impl Node {
    /// Starts a node as configured. It lets links in when this returns.
    pub fn start(config: Config) -> Result<Self, StartError> {
        raise_file_limit();
        let identity = Identity::load(&config.node_certificate, &config.node_key)?;
        let roots = Roots::load(&config.node_roots)?;
        let not_a_node = || IdentityError::NotANode(config.node_key.clone());
        let signer = identity
            .secp256k1_secret()
            .and_then(|secret| NodeSigner::from_secret_bytes(&secret))
            .ok_or_else(not_a_node)?;
        let channel_identity = Identity::load(&config.channel_certificate, &config.channel_key)?;
        let channel_roots = Roots::load(&config.channel_roots)?;
        let policy = if config.check_cert_issuer {
            same_issuer(&channel_identity, config.check_v1_issuer)
        } else {
            IssuerPolicy::default()
        };
        let tls = |link: &'static str| move |source| StartError::Tls { link, source };
        for (link, identity, settings) in
            [("channel", &channel_identity, &config.channel_tls), ("p2p", &identity, &config.p2p_tls)]
        {
            if leaves_out_tls13(identity, settings) {
                warn!(
                    "[tls] {link}_versions: 1.3 is left out, for it has no secp256k1, which this key is of"
                );
            }
        }
        let channel_tls = server_config(&channel_identity, &channel_roots, &config.channel_tls, policy)
            .map_err(tls("channel"))?;
        let p2p_server_tls =
            server_config(&identity, &roots, &config.p2p_tls, IssuerPolicy::default()).map_err(tls("p2p"))?;
        let p2p_client_tls = client_config(&identity, &roots, &config.p2p_tls).map_err(tls("p2p"))?;

        let reactors = config.reactors.unwrap_or_else(|| {
            let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
            cores.min(256) as u16
        });
        let listeners = Listeners::bind(&config.channel_listen, &config.p2p_listen)?;
        let (agency, name) = identity.names();
        let shared = Arc::new(Shared {
            id: signer.id(),
            incarnation: incarnation(),
            reactors,
            started: Instant::now(),
            own_address: format!("{}:{}", config.p2p_listen.0, config.p2p_listen.1),
            own_agency: agency,
            own_name: name,
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            limiter: Bandwidth::limiter(config.bandwidth),
            rpc_limiter: match config.relay.rpc_requests_per_second_max {
                Some(limit) => Limiter::new(limit.into(), Duration::from_secs(1)),
                None => Limiter::unlimited(),
            },
            next_message: AtomicU32::new(rand::random()),
            counters: (0..reactors).map(|_| Arc::default()).collect(),
            settings: config.relay.clone(),
        });

        let (registry_sender, registry_inputs) = unbounded();
        let (closed_sender, closed) = mpsc::unbounded_channel();
        let closed_callback: Arc<dyn Fn(LinkClosed) + Send + Sync> = Arc::new(move |event| {
            // The door may be closed already.
            let _ = closed_sender.send(event);
        });
        let engine = Engine::start(&config.engine, &shared, &registry_sender, &closed_callback)?;
        // The registry ends when the last reactor lets go of it.
        drop(registry_sender);
        let handle = engine.handle();
        let registry = Registry::new(shared.clone(), signer);
        let registry = thread::Builder::new()
            .name("amop-registry".to_owned())
            .spawn(move || run_registry(registry, &registry_inputs, &handle))
            .map_err(StartError::Thread)?;
        let settings = DoorSettings {
            own_id: shared.id,
            channel_listen: config.channel_listen,
            p2p_listen: config.p2p_listen,
            peers: config.peers,
            blacklist: config.blacklist,
            whitelist: config.whitelist,
            channel_tls,
            p2p_server_tls,
            p2p_client_tls,
            reactors,
        };
        let door = Door::open(settings, listeners, engine.handle(), closed)?;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            node = %shared.id.to_hex(),
            channel = %door.channel_address,
            p2p = %door.p2p_address,
            profile = if config.rsa_channel { "RSA" } else { "EC" },
            reactors,
            bandwidth_mbit = config.bandwidth.map(|limit| limit.bytes_per_second * 8.0 / 1_048_576.0),
            "the node is up",
        );
        let shutdown_timeout = config.shutdown_timeout;
        Ok(Self { shared, engine: Some(engine), door, registry: Some(registry), shutdown_timeout })
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

    /// What the node's shards share: figures, and the snapshot of topics and nodes.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs until SIGTERM or SIGINT, then stops in order. A second signal ends the process at once.
    pub fn run_until_signal(self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _guard = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        });
        info!("stopping: no new links; what is in flight is answered");
        runtime.spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            std::process::exit(130);
        });
        self.stop();
        info!("stopped");
        runtime.shutdown_background();
        Ok(())
    }

    /// Stops: no new links, what is in flight is answered within the bound, links are closed in order.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.door.close();
        if let Some(engine) = self.engine.take() {
            engine.stop(self.shutdown_timeout);
        }
        if let Some(registry) = self.registry.take() {
            // A registry that has failed has ended.
            let _ = registry.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Grows with every start, as long as the clock does not go back.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}

fn run_registry(mut registry: Registry, inputs: &Receiver<RegistryInput>, engine: &EngineHandle) {
    let mut last = Instant::now();
    loop {
        let wait = registry
            .poll_timeout()
            .map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
        match inputs.recv_timeout(wait) {
            Ok(input) => {
                registry.handle(Instant::now(), input);
                let end = last + GATHER;
                for _ in 1..GATHERED_MAX {
                    match inputs.recv_deadline(end) {
                        Ok(input) => registry.handle(Instant::now(), input),
                        Err(_) => break,
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        last = Instant::now();
        registry.handle_timeout(last);
        registry.publish(last);
        while let Some((reactor, output)) = registry.poll_output() {
            engine.deliver(reactor, output);
        }
    }
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
    if let Some(allowed) = allowed.filter(|&allowed| allowed < FILES_WANTED) {
        warn!(
            allowed,
            "few files may be open: this bounds the number of links; raise it with ulimit -n or LimitNOFILE="
        );
    }
}
