//! The Rust SDK: connects to one or more nodes, subscribes, asks, answers, multicasts, and proves and verifies
//! who may read private topics.
//!
//! ```text
//!   Client ──► connection to node 0 ─┐ each: TLS, handshake, heartbeats, reconnection, re-subscription
//!          ──► connection to node 1 ─┴─► Messages
//! ```
//!
//! Runs on tokio. Imports `wire`, `tls` and `keys`.
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//!
//! use amop::client::{Certificates, Client, ClientOptions, Dialect};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, mut messages) = Client::connect(ClientOptions {
//!     nodes: vec!["127.0.0.1:20200".to_owned(), "127.0.0.1:20201".to_owned()],
//!     certificates: Certificates::load(Path::new("nodes/127.0.0.1/sdk"))?,
//!     connect_timeout: Duration::from_secs(10),
//!     dialect: Dialect::V2,
//! })
//! .await?;
//!
//! // To one subscriber of the topic, which answers.
//! let answer = client.request("payments", b"5 to bob", Duration::from_secs(5)).await?;
//! println!("{}: {:?}", answer.code, answer.payload);
//!
//! // What others send to a topic of its own; a unicast is to be answered.
//! client.subscribe(&["receipts"]).await?;
//! while let Some(message) = messages.recv().await {
//!     client.respond(&message, b"received").await;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has whole programs.
//!
//! # Invariants
//! - Every frame starts a TLS record of its own.
//! - A request is answered exactly once: by a node, or by the client itself with 99 or 102, and within its time.
//! - While a request waits for its answer, its connection is read, whether or not the application takes messages, within a bound.

mod certificates;
mod connection;
mod dialect_3x;
mod failure;
pub mod file;
mod private;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
pub use certificates::{Certificates, CertificatesError};
pub use failure::{ConnectError, Unreached};
use rand::RngExt;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tracing::warn;

use self::private::PrivateTopics;
pub use crate::wire::{ResultCode, sdk::Seq};
use crate::{
    keys::{PrivateKey, PublicKey},
    supervise::contained_task,
    wire::{
        PrivateTopic, Topic,
        sdk::{self, FrameType},
    },
};

/// Frames that wait to be sent on one connection.
const OUTGOING_MAX: usize = 1_024;
/// Messages that wait to be taken by the application.
const MESSAGES_MAX: usize = 1_024;
/// Messages of a connection that wait beside them while an answer is waited for, which may come behind them. Where there are
/// more, the connection is read no further, and the node keeps the rest.
const BACKLOG_MAX: usize = 65_536;
/// The same in bytes of payload; a message may go beyond it.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Verdicts that wait to be taken by the application; of more, the oldest are lost.
const VERDICTS_MAX: usize = 1_024;

/// What nodes are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// That of FISCO BCOS 2.x, over the channel port.
    #[default]
    V2,
    /// That of FISCO BCOS 3.x, over the RPC port of its nodes, or any port for applications of this node. It has no private
    /// topics, and carries messages of up to 32 MiB.
    V3,
}

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Nodes as `host:port`; each gets a connection, and requests go to one that is up.
    pub nodes: Vec<String>,
    /// Certificates, as the Java SDK finds them.
    pub certificates: Certificates,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
    /// What they are spoken to in.
    pub dialect: Dialect,
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node was named.
    #[error("no node was named: give at least one address, such as 127.0.0.1:20200")]
    NoNode,
    /// None of the nodes could be reached.
    #[error("no node could be reached: {}", failure::list(.0))]
    Unreachable(Vec<Unreached>),
    /// A topic that breaks WIRE §2.1.
    #[error("{0:?} is not a topic: 1 to 254 bytes, no tab, no NUL")]
    Topic(String),
    /// A name that cannot be a private topic's.
    #[error(
        "{0:?} is not the name of a private topic: 1 to {max} bytes, no tab, no NUL, without the prefixes \
         that it has on the wire",
        max = PrivateTopic::NAME_LEN_MAX
    )]
    PrivateTopic(String),
    /// A private topic in a dialect that has none.
    #[error("there are no private topics in the dialect of FISCO BCOS 3.x: connect with that of 2.x")]
    NoPrivateTopics,
    /// A private topic without keys of subscribers.
    #[error("nobody could read the private topic {0:?}: give at least one public key")]
    NoKeys(String),
    /// More than one frame holds, as long as the node takes them.
    #[error(
        "a payload of {len} bytes is more than one message carries: with this topic {max} bytes. How long a message may be \
         says [amop] frame_len_max of the node"
    )]
    PayloadTooLong {
        /// Its bytes.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// The client has been dropped.
    #[error("the client is closed")]
    Closed,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0, a code of WIRE §3, or whatever the subscriber chose.
    pub code: ResultCode,
    /// What the subscriber sent: an AMOP body's payload, or empty.
    pub payload: Bytes,
    /// From sending to the answer.
    pub round_trip: Duration,
    /// What `amop trace` finds the message by; of several tries the last one's.
    pub seq: Seq,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// To this subscriber; it is to answer.
    Unicast,
    /// To all subscribers.
    Multicast,
}

/// A message for a topic that this client subscribes to.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its topic; a private topic's plain name.
    pub topic: String,
    /// Whether the topic is a private one.
    pub is_private: bool,
    /// Its payload.
    pub payload: Bytes,
    /// What it is traced by.
    pub seq: Seq,
    /// How it came.
    pub kind: MessageKind,
    /// Which of [`ClientOptions::nodes`] brought it.
    pub node: usize,
}

/// What this client, as a publisher of a private topic, has told a node about a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The private topic's plain name.
    pub topic: String,
    /// Which of [`ClientOptions::nodes`] asked: messages that are sent there reach the subscriber.
    pub node: usize,
    /// The key that the subscriber has proved to have; `None` if it is none of this publisher's, and the
    /// subscriber was refused.
    pub key: Option<PublicKey>,
}

/// The messages of a client, in the order of their arrival.
pub type Messages = mpsc::Receiver<Message>;

/// An application's end of AMOP. Clones share the connections; they end with the last clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    _alive: Arc<watch::Sender<()>>,
}

struct Pending {
    node: usize,
    sent: Instant,
    answer: oneshot::Sender<Answer>,
}

struct NodeState {
    address: String,
    outgoing: mpsc::Sender<Vec<u8>>,
    up: AtomicBool,
    /// The longest frame that it takes, in bytes, once it said so.
    frame_len_max: AtomicUsize,
}

struct Inner {
    dialect: Dialect,
    nodes: Vec<NodeState>,
    next: AtomicUsize,
    pending: Mutex<HashMap<Seq, Pending>>,
    /// Told when a request begins.
    asked: Notify,
    topics: Mutex<Vec<String>>,
    private: Mutex<PrivateTopics>,
    /// Held from a change of topics until it is queued, so that the last change is queued last.
    subscribing: tokio::sync::Mutex<()>,
    messages: mpsc::Sender<Message>,
    verdicts: broadcast::Sender<Verdict>,
    /// Counts changes of any connection's state, and subscribers that were accepted.
    changed: watch::Sender<u64>,
}

impl Client {
    /// Connects to all nodes; returns when the first is up.
    pub async fn connect(options: ClientOptions) -> Result<(Self, Messages), ClientError> {
        if options.nodes.is_empty() {
            return Err(ClientError::NoNode);
        }
        let (messages, receiver) = mpsc::channel(MESSAGES_MAX);
        let (changed, mut changes) = watch::channel(0);
        let (alive, dropped) = watch::channel(());
        let (nodes, outgoings): (Vec<_>, Vec<_>) = options
            .nodes
            .iter()
            .map(|address| {
                let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
                let frame_len_max = AtomicUsize::new(options.dialect.frame_len_max());
                let up = AtomicBool::new(false);
                (NodeState { address: address.clone(), outgoing, up, frame_len_max }, receiver)
            })
            .unzip();
        let inner = Arc::new(Inner {
            dialect: options.dialect,
            nodes,
            next: AtomicUsize::new(rand::rng().random_range(0..options.nodes.len())),
            pending: Mutex::default(),
            asked: Notify::new(),
            topics: Mutex::default(),
            private: Mutex::default(),
            subscribing: tokio::sync::Mutex::default(),
            messages,
            verdicts: broadcast::channel(VERDICTS_MAX).0,
            changed,
        });
        let (failures, mut failed) = mpsc::channel(16);
        for (index, outgoing) in outgoings.into_iter().enumerate() {
            let task = connection::run(
                inner.clone(),
                index,
                (options.certificates.clone(), outgoing),
                dropped.clone(),
                failures.clone(),
            );
            contained_task(task);
        }
        drop(failures);
        let mut reasons: HashMap<usize, ConnectError> = HashMap::new();
        let deadline = tokio::time::sleep(options.connect_timeout);
        tokio::pin!(deadline);
        loop {
            if inner.nodes.iter().any(|node| node.up.load(Relaxed)) {
                return Ok((Self { inner, _alive: Arc::new(alive) }, receiver));
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some((node, reason)) = failed.recv() => {
                    reasons.insert(node, reason);
                    if reasons.len() == options.nodes.len() {
                        break;
                    }
                }
                () = &mut deadline => break,
            }
        }
        let nothing = || match options.connect_timeout > connection::CONNECT_TIMEOUT {
            // Dialling and TLS would have failed by themselves.
            true => ConnectError::Silent,
            false => ConnectError::TimedOut(options.connect_timeout),
        };
        let addresses = options.nodes.into_iter().enumerate();
        let unreached = addresses.map(|(node, address)| Unreached {
            address,
            error: reasons.remove(&node).unwrap_or_else(nothing),
        });
        Err(ClientError::Unreachable(unreached.collect()))
    }

    /// Replaces the set of topics, on all nodes, now and after every reconnection. Private topics stay as they
    /// are.
    pub async fn subscribe(&self, topics: &[&str]) -> Result<(), ClientError> {
        for topic in topics {
            if Topic::new(topic).is_none() {
                return Err(ClientError::Topic((*topic).to_owned()));
            }
        }
        let _guard = self.inner.subscribing.lock().await;
        *lock(&self.inner.topics) = topics.iter().map(|&topic| topic.to_owned()).collect();
        self.inner.send_subscription().await;
        Ok(())
    }

    /// Subscribes to a private topic, in addition to all others: publishers that know the key's public half
    /// send their messages. Another key for the same topic replaces the one before.
    pub async fn subscribe_private(&self, topic: &str, key: &PrivateKey) -> Result<(), ClientError> {
        let topic = self.private_topic(topic)?;
        let _guard = self.inner.subscribing.lock().await;
        lock(&self.inner.private).subscribe(topic, key.clone(), &new_seq());
        self.inner.send_subscription().await;
        Ok(())
    }

    /// Ends the subscription to a private topic.
    pub async fn unsubscribe_private(&self, topic: &str) -> Result<(), ClientError> {
        let topic = self.private_topic(topic)?;
        let _guard = self.inner.subscribing.lock().await;
        if lock(&self.inner.private).unsubscribe(&topic) {
            self.inner.send_subscription().await;
        }
        Ok(())
    }

    /// Makes this client a publisher of a private topic: from now on its nodes have it verify subscribers, and
    /// [`Client::request_private`] and [`Client::multicast_private`] reach those that have proved one of
    /// `keys`. Other keys for the same topic replace those before, and everybody is verified anew.
    ///
    /// Returns before anybody is verified: see [`Client::authorised`].
    pub async fn publish_private(&self, topic: &str, keys: &[PublicKey]) -> Result<(), ClientError> {
        let topic = self.private_topic(topic)?;
        if keys.is_empty() {
            return Err(ClientError::NoKeys(topic.name().to_owned()));
        }
        let _guard = self.inner.subscribing.lock().await;
        lock(&self.inner.private).publish(topic, keys.to_vec());
        self.inner.send_subscription().await;
        Ok(())
    }

    /// Ends publishing to a private topic.
    pub async fn unpublish_private(&self, topic: &str) -> Result<(), ClientError> {
        let topic = self.private_topic(topic)?;
        let _guard = self.inner.subscribing.lock().await;
        if lock(&self.inner.private).unpublish(&topic) {
            self.inner.send_subscription().await;
        }
        Ok(())
    }

    /// Waits until, on some connection that is up, a subscriber of a private topic has been accepted since
    /// [`Client::publish_private`]; for ever if there is none. It may have left meanwhile.
    pub async fn authorised(&self, topic: &str) -> Result<(), ClientError> {
        let topic = self.private_topic(topic)?;
        let mut changes = self.inner.changed.subscribe();
        while self.inner.authorised_node(&topic).is_none() {
            // The sender lives as long as this client.
            let _ = changes.changed().await;
        }
        Ok(())
    }

    /// From now on, what this client tells nodes about subscribers of its private topics.
    pub fn verdicts(&self) -> broadcast::Receiver<Verdict> {
        self.inner.verdicts.subscribe()
    }

    /// Sends a unicast and waits for its answer; a node that answers 99 is followed by the next. Gives 99 if
    /// no node is up, 102 if nothing came within
    /// `timeout` or the connection broke.
    pub async fn request(
        &self,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.ask(FrameType::REQUEST, topic, payload, timeout).await
    }

    /// Sends a unicast to a subscriber of a private topic that has proved its key to this client, over a
    /// connection on which there is one.
    pub async fn request_private(
        &self,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.ask(FrameType::REQUEST, self.private_topic(topic)?.data().as_str(), payload, timeout).await
    }

    /// Sends a multicast; the answer is the node's acknowledgement. In the dialect of FISCO BCOS 3.x, which has none, it says
    /// that the node has read it.
    pub async fn multicast(
        &self,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.ask(FrameType::MULTICAST, topic, payload, timeout).await
    }

    /// Sends a multicast to all subscribers of a private topic that have proved their keys to this client; the
    /// answer is the node's acknowledgement, also if there is none.
    pub async fn multicast_private(
        &self,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.ask(FrameType::MULTICAST, self.private_topic(topic)?.data().as_str(), payload, timeout).await
    }

    async fn ask(
        &self,
        frame_type: FrameType,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        if Topic::new(topic).is_none() {
            return Err(ClientError::Topic(topic.to_owned()));
        }
        // All tries together.
        let deadline = tokio::time::Instant::now() + timeout;
        let mut answer = self.ask_once(frame_type, topic, payload, deadline).await;
        // 99 says that nobody has it: a node that is stopping, cut off, or takes none so long. Another one may do better.
        for _ in 1..self.inner.nodes.len() {
            match &answer {
                Ok(answer) if answer.code != ResultCode::NOT_SENT || !answer.payload.is_empty() => break,
                _ => answer = self.ask_once(frame_type, topic, payload, deadline).await,
            }
        }
        answer
    }

    /// Asks one node.
    async fn ask_once(
        &self,
        frame_type: FrameType,
        topic: &str,
        payload: &[u8],
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ClientError> {
        let (sent, seq) = (Instant::now(), new_seq());
        let by_client = |code| Answer { code, payload: Bytes::new(), round_trip: sent.elapsed(), seq };
        let Some(node) = self.inner.usable_node_for(topic) else {
            return Ok(by_client(ResultCode::NOT_SENT));
        };
        // The node would close the connection, and with it whatever else waits there.
        let head_len = sdk::FRAME_LEN_MAX - sdk::payload_len_max(topic.len());
        let max = self.inner.nodes[node].frame_len_max.load(Relaxed).saturating_sub(head_len);
        if payload.len() > max {
            return Err(ClientError::PayloadTooLong { len: payload.len(), max });
        }
        let frame = sdk::encode_amop(frame_type, &seq, ResultCode::OK, topic, payload);
        Ok(match self.inner.exchange(node, seq, sent, frame, deadline).await {
            Exchanged::Answered(answer) => answer,
            Exchanged::NotSent => by_client(ResultCode::NOT_SENT),
            Exchanged::Unanswered => by_client(ResultCode::TIMEOUT),
        })
    }

    /// Answers a unicast that came as `message`.
    pub async fn respond(&self, message: &Message, payload: &[u8]) {
        self.respond_with(message, ResultCode::OK, payload).await;
    }

    /// Answers a unicast with a code of the application's own, which its publisher is given unchanged: nodes answer
    /// with 99 to 103.
    pub async fn respond_with(&self, message: &Message, code: ResultCode, payload: &[u8]) {
        let private = message.is_private.then(|| PrivateTopic::new(&message.topic)).flatten();
        let topic = private.as_ref().map_or(message.topic.as_str(), |private| private.data().as_str());
        let frame = sdk::encode_amop(FrameType::RESPONSE, &message.seq, code, topic, payload);
        let len_max = self.inner.nodes[message.node].frame_len_max.load(Relaxed);
        if frame.len() > len_max {
            // The node would close the connection.
            let bytes = frame.len();
            return warn!(
                topic,
                bytes,
                bytes_max = len_max,
                "an answer is not sent, it is longer than the node takes"
            );
        }
        // If the connection is gone, the node tries another subscriber.
        let _ = self.inner.nodes[message.node].outgoing.send(frame).await;
    }

    /// Sends a JSON-RPC request to one node and gives its answer.
    pub async fn rpc(&self, body: &str, timeout: Duration) -> Result<Answer, ClientError> {
        let (sent, seq) = (Instant::now(), new_seq());
        let deadline = tokio::time::Instant::now() + timeout;
        let node = self.inner.usable_node().ok_or(ClientError::Closed)?;
        let frame = sdk::encode(FrameType::RPC, &seq, ResultCode::OK, body.as_bytes());
        Ok(match self.inner.exchange(node, seq, sent, frame, deadline).await {
            Exchanged::Answered(answer) => answer,
            Exchanged::NotSent | Exchanged::Unanswered => {
                let (code, payload) = (ResultCode::TIMEOUT, Bytes::new());
                Answer { code, payload, round_trip: sent.elapsed(), seq }
            }
        })
    }

    /// Addresses of the nodes that are up.
    pub fn nodes_up(&self) -> Vec<&str> {
        self.inner
            .nodes
            .iter()
            .filter(|node| node.up.load(Relaxed))
            .map(|node| node.address.as_str())
            .collect()
    }
}

impl Client {
    fn private_topic(&self, name: &str) -> Result<PrivateTopic, ClientError> {
        match self.inner.dialect {
            Dialect::V2 => PrivateTopic::new(name).ok_or_else(|| ClientError::PrivateTopic(name.to_owned())),
            Dialect::V3 => Err(ClientError::NoPrivateTopics),
        }
    }
}

/// What became of a frame that asks for an answer.
enum Exchanged {
    Answered(Answer),
    /// The connection is gone for good.
    NotSent,
    /// The time is over, or the connection broke.
    Unanswered,
}

/// A request whose answer is waited for, until this is dropped.
struct PendingRequest<'a> {
    inner: &'a Inner,
    seq: Seq,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        lock(&self.inner.pending).remove(&self.seq);
    }
}

impl Inner {
    /// Sends a frame and waits for its answer, both until the deadline.
    async fn exchange(
        &self,
        node: usize,
        seq: Seq,
        sent: Instant,
        frame: Vec<u8>,
        deadline: tokio::time::Instant,
    ) -> Exchanged {
        let (answer, answered) = oneshot::channel();
        lock(&self.pending).insert(seq, Pending { node, sent, answer });
        let _pending = PendingRequest { inner: self, seq };
        self.asked.notify_waiters();
        let exchanging = async {
            if self.nodes[node].outgoing.send(frame).await.is_err() {
                return Exchanged::NotSent;
            }
            answered.await.map_or(Exchanged::Unanswered, Exchanged::Answered)
        };
        tokio::time::timeout_at(deadline, exchanging).await.unwrap_or(Exchanged::Unanswered)
    }

    /// Whether an answer from a node is waited for.
    fn is_asking(&self, node: usize) -> bool {
        lock(&self.pending).values().any(|pending| pending.node == node)
    }

    /// A node that is up, each in turn.
    fn usable_node(&self) -> Option<usize> {
        let start = self.next.fetch_add(1, Relaxed);
        (0..self.nodes.len())
            .map(|offset| (start + offset) % self.nodes.len())
            .find(|&index| self.nodes[index].up.load(Relaxed))
    }

    /// The same; if the topic is private, one over which a subscriber was accepted if there is any.
    fn usable_node_for(&self, topic: &str) -> Option<usize> {
        let authorised = PrivateTopic::of_data(topic).and_then(|topic| self.authorised_node(&topic));
        authorised.or_else(|| self.usable_node())
    }

    /// A node that is up and was told to let a subscriber have the topic's messages.
    fn authorised_node(&self, topic: &PrivateTopic) -> Option<usize> {
        let private = lock(&self.private);
        private.authorised(topic).find(|&node| self.nodes[node].up.load(Relaxed))
    }

    /// Tells all nodes what to send here.
    async fn send_subscription(&self) {
        let frame = self.subscription();
        for node in self.nodes.iter().filter(|node| node.up.load(Relaxed)) {
            // A connection that is ending subscribes anew when it is back.
            let _ = node.outgoing.send(frame.clone()).await;
        }
    }

    fn subscription(&self) -> Vec<u8> {
        let body = serde_json::to_vec(&self.subscribed()).unwrap_or_default();
        sdk::encode(FrameType::SUBSCRIBE, &new_seq(), ResultCode::OK, &body)
    }

    /// All topics, as they are on the wire.
    fn subscribed(&self) -> Vec<String> {
        let mut topics = lock(&self.topics).clone();
        topics.extend(lock(&self.private).names());
        topics
    }

    fn set_up(&self, node: usize, up: bool) {
        self.nodes[node].up.store(up, Relaxed);
        if !up {
            // What was asked there: nobody knows what became of it. Dropping the sender says so.
            lock(&self.pending).retain(|_, pending| pending.node != node);
            lock(&self.private).handle_down(node);
        }
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Dialect {
    /// The longest frame of the form of 2.x that goes to a node, unless that says otherwise.
    fn frame_len_max(self) -> usize {
        match self {
            Self::V2 => sdk::FRAME_LEN_MAX,
            Self::V3 => dialect_3x::FRAME_LEN_MAX,
        }
    }
}

/// 32 random hex digits.
fn new_seq() -> Seq {
    let random: [u8; 16] = rand::random();
    let mut seq = [0; 32];
    for (pair, byte) in seq.chunks_exact_mut(2).zip(random) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    seq
}

/// Nothing here panics while it holds a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
