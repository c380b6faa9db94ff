//! What an operator may look at over HTTP: metrics, health, lists of nodes, sessions, links and topics, what became of
//! a message, and the route to a node. And the one thing that it does: announcing a text to all nodes.
//! Off unless `[admin] listen_path` or `listen_port` is set.
//!
//! ```text
//!   HTTP ─► one thread ─┬─► /                   a page for browsers, which reads the others
//!                       ├─► /metrics            counters, read where they are
//!                       ├─► /livez, /readyz     heartbeats of the reactors
//!                       ├─► /topics             the snapshot that shards read
//!                       ├─► /sessions, /links, /failures
//!                       │                       a message to each reactor, a page per turn
//!                       ├─► /nodes              a message to the registry
//!                       ├─► /network, /network/topics
//!                       │                       the same, and to the reactors; counted on a further thread
//!                       ├─► /trace/SEQ          a message to each reactor; questions to the nodes named
//!                       ├─► /ping/NODE          the same to the registry; messages to the node's home
//!                       └─► POST /announce      a message to the registry
//! ```
//!
//! On this machine it asks for nothing: who may write to its socket, or can reach its address on loopback, sees all of it, and can
//! change nothing. Others need TLS and a token (`access.rs`), without which it listens nowhere else. Programs on the machine itself may
//! announce, unless `[admin] announce` is false.
//!
//! Imports `relay`, `engine`, `door`, metrics of `log`, and types of `tls` and `wire`; nothing of theirs imports this.
//!
//! # Invariants
//! - It never takes a lock, and never waits, on the path of a frame.
//! - Connections, headers, time and answers have bounds; a connection serves one request.

mod access;
mod announce;
mod ask;
mod failures;
mod health;
pub(crate) mod json;
mod ledgers;
mod listener;
mod listing;
mod lists;
mod metrics;
mod network;
mod nodes;
mod pages;
mod peers_2x;
mod ping;
mod status_page;
mod trace;

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam::channel::Sender;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use self::{
    access::Access,
    listener::{Accepted, Listeners, Socket, SocketPath, Stream},
    metrics::Metrics,
    pages::{NoPage, Page},
};
pub(crate) use self::{
    access::{AccessFiles, read_token},
    ask::RegistryQuestion,
    health::{Phase, hang},
    listener::{AdminListener, PATH_LEN_MAX as SOCKET_PATH_LEN_MAX, SocketFile},
};
use crate::{
    bound::{Bound, fixed},
    clock,
    door::{DoorCounters, LedgerNode, Opening, is_refused_address},
    engine::EngineHandle,
    escape::shown_path,
    relay::{Shared, registry::RegistryCounters},
    stop::join_by,
    supervise::{Start, Supervisor, contained_task},
    tls::validity::CertificateEnds,
};

/// Connections at once that have asked for nothing yet, or for what is answered at once; for a further one the oldest of them
/// is closed. Whoever connects and says nothing keeps no probe waiting.
const BRIEF_MAX: usize = 64;
/// Requests at once whose answers are long or take their time; further ones are answered 503.
const LONG_MAX: usize = 64;
/// Lists at once, with those whose readers are slow: each may be some megabytes long.
const LISTS_MAX: usize = 4;
/// How long a request's header may take.
const HEADER_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a connection may last in all.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of a request's header.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Fields of a request's header.
const HEADER_FIELDS_MAX: usize = 64;
/// How long the endpoint waits when a connection cannot be accepted.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// How long an endpoint that is dropped may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

const ANNOUNCE_PATH: &str = "/announce";

/// Why the endpoint cannot be opened; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} ([admin] listen_port): {source}; is another node running, or is the address not this machine's?"
    )]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The socket's file cannot be made.
    #[error(
        "cannot listen on {} ([admin] listen_path): {source}; is another node running, or may this user not write there?",
        shown_path(path)
    )]
    ListenPath {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could reach it, and nothing would be asked of them.
    #[error(
        "[admin] listen_ip: others can reach {address}, so it needs TLS and a token: set tls_cert, tls_key and token_file, or listen_ip=127.0.0.1"
    )]
    Unguarded {
        /// Which address.
        address: SocketAddr,
    },
    /// A file that the section names cannot be used.
    #[error("[admin] {key} = {}: {why}", shown_path(path))]
    File {
        /// Which key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The thread or its runtime cannot be set up.
    #[error(
        "the admin endpoint cannot be set up: {0}; if files run out, raise the limit (ulimit -n, LimitNOFILE=)"
    )]
    Runtime(std::io::Error),
}

impl AdminError {
    /// Whether it will be the same until somebody changes the configuration.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Listen { source, .. } => is_refused_address(source),
            Self::Unguarded { .. } | Self::File { .. } => true,
            Self::ListenPath { .. } | Self::Runtime(_) => false,
        }
    }
}

/// What the endpoint shows.
pub(crate) struct Watched {
    /// Metrics of the reactors, topics, bounds.
    pub shared: Arc<Shared>,
    /// Metrics of the registry.
    pub registry_counters: Arc<RegistryCounters>,
    /// Metrics of the door.
    pub door_counters: Arc<DoorCounters>,
    /// Bytes of memory that all bounds together are within.
    pub memory_max: u64,
    /// The bounds of the node.
    pub bounds: Vec<Bound>,
    /// For asking the reactors.
    pub engine: EngineHandle,
    /// For asking the registry.
    pub registry: Sender<RegistryQuestion>,
    /// Whether programs on this machine may announce (`[admin] announce`).
    pub announces: bool,
    /// Whether applications are let in.
    pub opening: watch::Receiver<Opening>,
    /// Set once the node has begun to stop.
    pub stopping: Arc<AtomicBool>,
    /// When the node's certificates end.
    pub certificates: Arc<ArcSwap<CertificateEnds>>,
    /// The ledger nodes, by their numbers.
    pub ledger_nodes: Arc<[LedgerNode]>,
}

/// The open endpoint; dropping it closes it.
pub(crate) struct Admin {
    /// The address where it listens, if it does.
    pub address: Option<SocketAddr>,
    /// Its socket's file goes with it.
    _socket: Option<SocketPath>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Admin {
    /// Begins to answer.
    pub(crate) fn open(
        listener: AdminListener,
        watched: Watched,
        supervisor: &Supervisor,
    ) -> Result<Self, AdminError> {
        let AdminListener { address, socket, access } = listener;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminError::Runtime)?;
        let (listener, address) = address.unzip();
        let (listener_of_socket, socket) = socket.map(Socket::into_parts).unzip();
        let listeners = {
            let _guard = runtime.enter();
            Listeners::new(listener, listener_of_socket).map_err(AdminError::Runtime)?
        };
        if let Some(address) = address {
            info!(%address, "the admin endpoint is open");
        }
        if let Some(socket) = &socket {
            info!(path = %shown_path(socket.path()), "the admin endpoint is open by a socket");
        }
        let (stop, stopped) = oneshot::channel();
        let endpoint = Arc::new(Endpoint {
            metrics: Metrics::new(&watched),
            watched,
            access,
            supervisor: supervisor.clone(),
            brief: Arc::default(),
            long: Arc::new(Semaphore::new(LONG_MAX)),
            lists: Arc::new(Semaphore::new(LISTS_MAX)),
        });
        let run = move |start: Start| {
            runtime.block_on(async {
                start.done();
                tokio::select! { _ = stopped => {}, () = accept(&listeners, &endpoint) => {} }
            });
            // A list that is being made is not waited for.
            runtime.shutdown_background();
        };
        let thread = supervisor.reporting_thread("amop-admin", run).map_err(AdminError::Runtime)?;
        Ok(Self { address, _socket: socket, stop: Some(stop), thread: Some(thread) })
    }

    /// Answers nobody any more, and waits for its end, at most until then; whether it has come.
    pub(crate) fn closed_by(&mut self, deadline: Instant) -> bool {
        self.stop.take();
        self.thread = self.thread.take().and_then(|thread| join_by(thread, deadline).err());
        self.thread.is_none()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // One that was told to close has had its time.
        if self.stop.is_some() {
            self.closed_by(Instant::now() + CLOSE_WITHIN);
        }
    }
}

/// What all connections share.
struct Endpoint {
    watched: Watched,
    access: Access,
    metrics: Metrics,
    supervisor: Supervisor,
    brief: Arc<Mutex<BriefQueue>>,
    long: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

async fn accept(listeners: &Listeners, endpoint: &Arc<Endpoint>) {
    let mut http = http1::Builder::new();
    http.keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .max_buf_size(2 * HEADER_BYTES_MAX);
    loop {
        let accepted = match listeners.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "the admin endpoint cannot accept a connection");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        };
        let (http, endpoint) = (http.clone(), endpoint.clone());
        let (brief, evicted) = Brief::enter(&endpoint.brief);
        contained_task(async move {
            let peer = accepted.peer;
            tokio::select! {
                served = clock::timeout(CONNECTION_TIME_MAX, serve(&http, &endpoint, accepted, brief)) => match served {
                    Some(Ok(())) => {}
                    Some(Err(error)) => debug!(%peer, error, "a connection of the admin endpoint failed"),
                    None => debug!(%peer, "a connection of the admin endpoint took too long"),
                },
                () = evicted => debug!(%peer, "a connection of the admin endpoint has made room for newer ones"),
            }
        });
        // What has been asked already is read before others come, who would take its place.
        tokio::task::yield_now().await;
    }
}

/// Answers what a connection asks; why it failed is for whoever looks for that.
async fn serve(
    http: &http1::Builder,
    endpoint: &Endpoint,
    Accepted { stream, peer, is_by_socket }: Accepted,
    brief: Brief,
) -> Result<(), String> {
    // Held until the answer is read, and with them the memory of a list.
    let permits = Mutex::new(Permits { brief: Some(brief), long: None, list: None });
    let tls = endpoint.access.tls.as_ref().filter(|_| !is_by_socket);
    let stream: Box<dyn Stream> = match tls {
        None => stream,
        Some(tls) => {
            let handshake = TlsAcceptor::from(tls.clone()).accept(stream);
            let done = clock::timeout(HEADER_TIME_MAX, handshake).await;
            Box::new(done.ok_or("its TLS handshake took too long")?.map_err(|error| error.to_string())?)
        }
    };
    let service = service_fn(|request: Request<Incoming>| {
        let permits = &permits;
        async move {
            // Whoever watches whether it lives need not have the token.
            let is_admitted =
                is_by_socket || is_probe(request.uri().path()) || endpoint.access.admits(request.headers());
            let answer = match is_admitted {
                true => endpoint.answer(request, peer, permits).await,
                false => unauthorized(),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    http.serve_connection(TokioIo::new(stream), service).await.map_err(|error| error.to_string())
}

/// Connections without a place of their own, the oldest first. What is sent to one closes it.
#[derive(Default)]
struct BriefQueue {
    /// How many there have been.
    count: u64,
    entries: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// One of them, until this is dropped.
struct Brief {
    queue: Arc<Mutex<BriefQueue>>,
    number: u64,
}

impl Brief {
    /// With what tells it to make room. The oldest is told if there are too many.
    fn enter(queue: &Arc<Mutex<BriefQueue>>) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, receiver) = oneshot::channel();
        let mut locked = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let number = locked.count;
        locked.count += 1;
        locked.entries.push_back((number, sender));
        if locked.entries.len() > BRIEF_MAX
            && let Some((_, oldest)) = locked.entries.pop_front()
        {
            let _ = oldest.send(());
        }
        drop(locked);
        let evicted = async {
            if receiver.await.is_err() {
                // It has a place of its own now.
                std::future::pending().await
            }
        };
        (Self { queue: queue.clone(), number }, evicted)
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.entries.retain(|(number, _)| *number != self.number);
    }
}

/// What a connection has of that which there is a bounded number of.
struct Permits {
    brief: Option<Brief>,
    long: Option<OwnedSemaphorePermit>,
    list: Option<OwnedSemaphorePermit>,
}

type Answer = Response<Full<Bytes>>;

impl Endpoint {
    async fn answer(&self, request: Request<Incoming>, peer: IpAddr, permits: &Mutex<Permits>) -> Answer {
        if !is_probe(request.uri().path()) {
            let Ok(place) = self.long.clone().try_acquire_owned() else {
                return text(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being answered");
            };
            let mut permits = permits.lock().unwrap_or_else(PoisonError::into_inner);
            (permits.brief, permits.long) = (None, Some(place));
        }
        if request.uri().path() == ANNOUNCE_PATH {
            if *request.method() != Method::POST {
                return other_method("there is POST only", "POST");
            }
            let (head, body) = request.into_parts();
            return given(announce::announce(&self.watched, peer, &head.headers, body).await);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return other_method("there is GET and HEAD only", "GET, HEAD");
        }
        let (shared, query) = (&self.watched.shared, request.uri().query().unwrap_or_default());
        match request.uri().path() {
            "/metrics" => return self.metrics.answer(&self.watched, request.headers()).await,
            "/livez" => return health::live(&shared.counters, shared.started.elapsed()),
            "/readyz" => {
                let stopping = self.watched.stopping.load(Relaxed);
                let phase = Phase::of(*self.watched.opening.borrow(), stopping, self.supervisor.has_ended());
                return health::ready(&shared.counters, shared.started.elapsed(), phase);
            }
            _ => {}
        }
        if let Some(file) = status_page::file(request.uri().path()) {
            return file;
        }
        let Some(page) = Page::of(request.uri().path()) else {
            let there =
                format!("there is / for browsers, /metrics, /livez, /readyz, and as JSON {}", Page::PATHS);
            return text(StatusCode::NOT_FOUND, &there);
        };
        if page.is_long() {
            let place = self.lists.clone().acquire_owned().await.ok();
            permits.lock().unwrap_or_else(PoisonError::into_inner).list = place;
        }
        given(page.make(&self.watched, query).await)
    }
}

/// A page, or why it is not given.
fn given(page: Result<Answer, NoPage>) -> Answer {
    page.unwrap_or_else(|none| text(none.status, &none.line))
}

fn other_method(what: &str, allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, what);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

fn unauthorized() -> Answer {
    let what =
        "this needs the token of [admin] token_file: Authorization: Bearer TOKEN, or --admin-token-file FILE";
    let mut answer = text(StatusCode::UNAUTHORIZED, what);
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn json_answer(said: &impl Serialize) -> Answer {
    with_json(lists::shown(said))
}

fn with_json(json: Vec<u8>) -> Answer {
    with_body(StatusCode::OK, "application/json", json)
}

/// One line of text.
fn text(status: StatusCode, line: &str) -> Answer {
    with_body(status, "text/plain; charset=utf-8", format!("{line}\n").into_bytes())
}

fn with_body(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The bounds of the endpoint.
pub(crate) fn bounds() -> Vec<Bound> {
    let connection = HEADER_BYTES_MAX + (64 << 10);
    vec![
        fixed(
            "connections without a request, or with one for /livez or /readyz",
            BRIEF_MAX,
            "connections",
            "node",
            "the oldest is closed",
        )
        .memory(BRIEF_MAX * connection),
        fixed("other requests at once", LONG_MAX, "requests", "node", "answered 503")
            .memory(LONG_MAX * connection),
        fixed(
            "peers that metrics name",
            metrics::PEERS_NAMED_MAX,
            "peers",
            "node",
            "not named: peers_left_out",
        )
        .metric("amop_peers_named_max", "Bound of the peers that metrics name."),
        fixed("lists at once", LISTS_MAX, "lists", "node", "further ones wait"),
        fixed("items of a list", listing::LIMIT_MAX, "items", "answer", "answered 400"),
        fixed(
            "nodes that the items of a list name, as neighbours or with subscribers",
            listing::NAMED_MAX,
            "nodes",
            "answer",
            "those beyond are only counted",
        ),
        fixed(
            "next hops that are named",
            network::NEXT_HOPS_MAX,
            "neighbours",
            "node of the network",
            "those beyond are only counted",
        ),
        fixed(
            "nodes with subscribers that are named",
            network::TOPIC_NODES_MAX,
            "nodes",
            "topic",
            "the farther ones are only counted",
        ),
        fixed(
            "nodes that are asked about a message",
            trace::NODES_MAX,
            "nodes",
            "answer",
            "those beyond are named as not asked",
        ),
        fixed("body", announce::BODY_LEN_MAX, "bytes", "announcement", "answered 413"),
        fixed("header", HEADER_BYTES_MAX, "bytes", "request", "answered 431"),
        fixed("header", HEADER_TIME_MAX.as_millis() as usize, "ms", "request", "closed"),
        fixed("connection", CONNECTION_TIME_MAX.as_millis() as usize, "ms", "connection", "closed"),
    ]
}
