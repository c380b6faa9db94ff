//! One connection to one node: made, kept alive, made again.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::{debug, info};

use super::{
    Answer, BACKLOG_BYTES_MAX, BACKLOG_MAX, Certificates, ConnectError, Dialect, Inner, Message, MessageKind,
    dialect_3x::{self, Heard, WebSocket},
    lock, new_seq,
};
use crate::{
    backoff::Backoff,
    supervise::contained,
    wire::{
        FIRST_WORD_LEN, PrivateTopic, ResultCode, TopicKind, json,
        sdk::{self, AmopBody, FrameType, HEADER_LEN, Header},
    },
};

/// How long dialling and the handshake may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A node that says nothing for so long is gone.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How often it is looked whether it has said anything.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Frames that say what the node is told by itself, without the application; of more, the node asks again.
const REPLIES_MAX: usize = 1_024;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Keeps one connection until the client is dropped.
pub(super) async fn run(
    inner: Arc<Inner>,
    node: usize,
    (certificates, mut outgoing): (Certificates, mpsc::Receiver<Vec<u8>>),
    mut dropped: watch::Receiver<()>,
    failures: mpsc::Sender<(usize, ConnectError)>,
) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let mut connected: Option<Instant> = None;
        let life = async {
            let stream = tokio::select! {
                stream = connect(&inner.nodes[node].address, &certificates) => stream?,
                () = discard(&mut outgoing) => pending().await,
            };
            connected = Some(Instant::now());
            live(&inner, node, stream, &mut outgoing).await.map_err(|error| ConnectError::of_end(&error))
        };
        let ended = tokio::select! {
            ended = contained(life) => ended.unwrap_or_else(|| Err(ConnectError::Other("a fault of amop: report it".to_owned()))),
            _ = dropped.changed() => return,
        };
        backoff.ended_after(connected.map_or(Duration::ZERO, |since| since.elapsed()));
        inner.set_up(node, false);
        if let Err(error) = ended {
            debug!(node = %inner.nodes[node].address, %error, "connection ended");
            let _ = failures.try_send((node, error));
        }
        let pause = backoff.next_pause(&mut rand::rng());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = discard(&mut outgoing) => {}
            _ = dropped.changed() => return,
        }
    }
}

/// Drops what was meant for the connection before, so that nobody waits for room while there is none.
async fn discard(outgoing: &mut mpsc::Receiver<Vec<u8>>) {
    while outgoing.recv().await.is_some() {}
}

async fn connect(address: &str, certificates: &Certificates) -> Result<TlsStream<TcpStream>, ConnectError> {
    let connecting = async {
        let stream = dial(address).await?;
        let (config, presented) =
            certificates.showing().map_err(|error| ConnectError::Other(error.to_string()))?;
        // Names are never sent nor checked.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
        let connected = TlsConnector::from(config).connect(nobody, stream).await;
        let error = match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => ConnectError::of_handshake(&error, presented.leaf().as_ref(), certificates.own()),
        };
        let is_web = error == ConnectError::NotTls && speaks_http(address).await;
        Err(if is_web { ConnectError::AdminPort } else { error })
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    connected.unwrap_or(Err(ConnectError::TimedOut(CONNECT_TIMEOUT)))
}

async fn dial(address: &str) -> Result<TcpStream, ConnectError> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => ConnectError::NoAddress,
        _ => ConnectError::Unresolved(error.to_string()),
    })?;
    let found: Vec<_> = found.collect();
    let dialling = async {
        let stream = TcpStream::connect(found.as_slice()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    dialling.await.map_err(|error| ConnectError::of_dial(&error))
}

/// Asks whoever speaks no TLS whether it is a web server.
async fn speaks_http(address: &str) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
        let mut first = [0; b"HTTP/".len()];
        stream.read_exact(&mut first).await?;
        Ok::<_, std::io::Error>(first == *b"HTTP/")
    };
    tokio::time::timeout(LOOK_INTERVAL, asking).await.is_ok_and(|asked| asked.unwrap_or(false))
}

/// Serves a connection until it ends.
async fn live(
    inner: &Inner,
    node: usize,
    mut stream: TlsStream<TcpStream>,
    outgoing: &mut mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    let mut received = Received::default();
    let hello = match inner.dialect {
        Dialect::V2 => {
            let hello = format!(
                "{{\"minimumSupport\":1,\"maximumSupport\":3,\"clientType\":\"{}\",\"{}\":true}}",
                json::OWN_CLIENT_TYPE,
                json::SHARED_RECORDS_FIELD,
            );
            sdk::encode(FrameType::HANDSHAKE, &new_seq(), ResultCode::OK, hello.as_bytes())
        }
        Dialect::V3 => {
            received.open_web_socket(&mut stream, &inner.nodes[node].address).await?;
            dialect_3x::handshake()
        }
    };
    let (reader, mut writer) = tokio::io::split(stream);
    write(&mut writer, &hello).await?;
    let (heard, last_heard) = watch::channel(Some(Instant::now()));
    let (replies, mut replying) = mpsc::channel(REPLIES_MAX);
    let reading = read(inner, node, (reader, received), &heard, &replies);
    let write_frame = async |writer: &mut _, frame: &[u8]| match inner.dialect {
        Dialect::V2 => write(writer, frame).await,
        Dialect::V3 => write(writer, &dialect_3x::encode(frame)).await,
    };
    let writing = async {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.tick().await;
        loop {
            tokio::select! {
                biased;
                _ = heartbeat.tick() => {
                    let beat = sdk::encode(FrameType::HEARTBEAT, &new_seq(), ResultCode::OK, b"0");
                    write_frame(&mut writer, &beat).await?;
                }
                Some(reply) = replying.recv() => match reply {
                    Reply::Frame(frame) => write_frame(&mut writer, &frame).await?,
                    Reply::Pong(bytes) => write(&mut writer, &bytes).await?,
                },
                frame = outgoing.recv() => match frame {
                    Some(frame) => write_frame(&mut writer, &frame).await?,
                    None => return Ok(()),
                },
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        // By itself: to a node that is gone, a write may wait for ever.
        ended = silence(last_heard) => ended,
    }
}

/// Ends when the node has been silent for too long. While it is not read, that is not its silence.
async fn silence(last_heard: watch::Receiver<Option<Instant>>) -> std::io::Result<()> {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        if last_heard.borrow().is_some_and(|heard| heard.elapsed() > DEAD_AFTER) {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the node is silent"));
        }
    }
}

/// Each frame is written and flushed by itself, so that it starts a record.
async fn write(writer: &mut WriteHalf<TlsStream<TcpStream>>, frame: &[u8]) -> std::io::Result<()> {
    writer.write_all(frame).await?;
    writer.flush().await
}

/// Messages that found no room with the application.
#[derive(Default)]
struct Backlog {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Backlog {
    fn push(&mut self, message: Message) {
        self.bytes += message.payload.len();
        self.messages.push_back(message);
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.payload.len();
        Some(message)
    }

    /// Whether more may be read: else an application that asks between two messages would never get its answer.
    fn lets_read(&self, is_asking: impl FnOnce() -> bool) -> bool {
        let has_room = self.messages.len() < BACKLOG_MAX && self.bytes < BACKLOG_BYTES_MAX;
        self.messages.is_empty() || (has_room && is_asking())
    }
}

/// What a node has sent.
#[derive(Default)]
struct Received {
    buffer: BytesMut,
    /// In the dialect of FISCO BCOS 3.x.
    web_socket: Option<WebSocket>,
    /// Whether the first bytes are those of a channel.
    is_channel: bool,
}

impl Received {
    async fn open_web_socket(
        &mut self,
        stream: &mut TlsStream<TcpStream>,
        host: &str,
    ) -> std::io::Result<()> {
        let opening = WebSocket::open(stream, host, &mut self.buffer);
        match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => self.web_socket = Some(opened?),
            Err(_) => {
                let text = "no answer to the upgrade to WebSocket in time";
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text));
            }
        }
        Ok(())
    }

    /// What is whole of it.
    fn next(&mut self, len_max: usize) -> std::io::Result<Option<Heard>> {
        if let Some(web_socket) = &mut self.web_socket {
            return web_socket.next(&mut self.buffer);
        }
        if !self.is_channel {
            if let Some(error) = ConnectError::of_first_word(&self.buffer) {
                return Err(std::io::Error::other(error));
            }
            self.is_channel = self.buffer.len() >= FIRST_WORD_LEN;
        }
        let Some(header) = Header::decode(&self.buffer) else { return Ok(None) };
        let len = header.len as usize;
        if !(HEADER_LEN..=len_max).contains(&len) {
            let text = "the node sent a malformed frame";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        if self.buffer.len() < len {
            return Ok(None);
        }
        let mut data = self.buffer.split_to(len).freeze();
        data.advance(HEADER_LEN);
        Ok(Some(Heard::Frame(header, data)))
    }
}

async fn read(
    inner: &Inner,
    node: usize,
    (mut reader, mut received): (ReadHalf<TlsStream<TcpStream>>, Received),
    heard: &watch::Sender<Option<Instant>>,
    replies: &Replies,
) -> std::io::Result<()> {
    let mut backlog = Backlog::default();
    loop {
        let len_max = || inner.nodes[node].frame_len_max.load(Relaxed).max(sdk::FRAME_LEN_MAX);
        while let Some(heard) = received.next(len_max())? {
            match heard {
                Heard::Frame(header, data) => handle(inner, node, &header, data, &mut backlog, replies),
                Heard::Ping(pong) => _ = reply(replies, Reply::Pong(pong)),
            }
        }
        // From here on nothing is missed.
        let asked = inner.asked.notified();
        let reads = backlog.lets_read(|| inner.is_asking(node));
        if heard.borrow().is_some() != reads {
            heard.send_replace(reads.then(Instant::now));
        }
        tokio::select! {
            read = reader.read_buf(&mut received.buffer), if reads => {
                if read? == 0 {
                    let text = "the node closed the connection";
                    return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text));
                }
                heard.send_replace(Some(Instant::now()));
            }
            room = inner.messages.reserve(), if !backlog.messages.is_empty() => {
                match (room, backlog.pop()) {
                    (Ok(room), Some(message)) => room.send(message),
                    // An application that takes no messages any more takes none.
                    _ => backlog = Backlog::default(),
                }
            }
            () = asked, if !reads => {}
        }
    }
}

/// What the client itself answers to its node. Whoever reads never waits for room in it: a node that waits until it is read
/// takes nothing, and neither would go on.
type Replies = mpsc::Sender<Reply>;

enum Reply {
    /// A frame of the form of 2.x.
    Frame(Vec<u8>),
    /// What a ping is answered, as it is on the wire.
    Pong(Vec<u8>),
}

/// `false` if there is no room.
fn reply(replies: &Replies, reply: Reply) -> bool {
    let is_queued = replies.try_send(reply).is_ok();
    if !is_queued {
        debug!("a reply to the node is dropped, which takes nothing; it asks again");
    }
    is_queued
}

fn handle(
    inner: &Inner,
    node: usize,
    header: &Header,
    data: Bytes,
    backlog: &mut Backlog,
    replies: &Replies,
) {
    match header.frame_type {
        FrameType::HANDSHAKE => {
            info!(node = %inner.nodes[node].address, "connected");
            let frame_len_max = json::frame_len_max_of(&data).unwrap_or(inner.dialect.frame_len_max());
            inner.nodes[node].frame_len_max.store(frame_len_max, Relaxed);
            // In this order: whoever subscribes meanwhile either sees the node up, and its set goes behind this one, or is
            // seen here.
            inner.set_up(node, true);
            if !inner.subscribed().is_empty() {
                reply(replies, Reply::Frame(inner.subscription()));
            }
        }
        FrameType::RESPONSE if judge(inner, node, header, &data, replies) => {}
        FrameType::RESPONSE | FrameType::RPC => {
            let Some(pending) = lock(&inner.pending).remove(&header.seq) else { return };
            let payload = match (header.frame_type, inner.dialect) {
                (FrameType::RESPONSE, Dialect::V2) => payload(&data),
                _ => data,
            };
            let (code, seq) = (header.result, header.seq);
            let answer = Answer { code, payload, round_trip: pending.sent.elapsed(), seq };
            // Whoever asked may have given up.
            let _ = pending.answer.send(answer);
        }
        FrameType::REQUEST | FrameType::MULTICAST => {
            let Ok(body) = AmopBody::decode(&data) else { return };
            if body.kind() == TopicKind::Route {
                return prove(inner, header, &body, &data[body.payload_offset..], replies);
            }
            let private = PrivateTopic::of_data(body.topic);
            let kind = match header.frame_type {
                FrameType::REQUEST => MessageKind::Unicast,
                _ => MessageKind::Multicast,
            };
            let message = Message {
                topic: private.as_ref().map_or(body.topic, |private| private.name()).to_owned(),
                is_private: private.is_some(),
                payload: data.slice(body.payload_offset..),
                seq: header.seq,
                kind,
                node,
            };
            if !backlog.messages.is_empty() {
                return backlog.push(message);
            }
            // An application that takes no messages any more takes none.
            if let Err(TrySendError::Full(message)) = inner.messages.try_send(message) {
                backlog.push(message);
            }
        }
        FrameType::TOPIC_CERTIFICATION => {
            // As the Java SDK does, whatever becomes of it.
            let taken = sdk::encode(FrameType::TOPIC_CERTIFICATION, &header.seq, ResultCode::OK, b"");
            reply(replies, Reply::Frame(taken));
            let fresh = (new_seq(), new_seq());
            let challenge = lock(&inner.private).handle_certification(Instant::now(), node, &data, fresh);
            if let Some(challenge) = challenge {
                reply(replies, Reply::Frame(challenge));
            }
        }
        _ => {}
    }
}

/// Takes the answer to a challenge of ours; `false` if it is to something else.
fn judge(inner: &Inner, node: usize, header: &Header, data: &Bytes, replies: &Replies) -> bool {
    let answer = (&header.seq, header.result);
    let judged = lock(&inner.private).handle_answer(Instant::now(), node, answer, &payload(data));
    let Some(judged) = judged else { return false };
    let status = sdk::encode(FrameType::TOPIC_STATUS, &new_seq(), ResultCode::OK, judged.status.as_bytes());
    if !reply(replies, Reply::Frame(status)) {
        return true;
    }
    // What is sent from now on comes behind it.
    lock(&inner.private).note_sent(&judged);
    debug!(
        topic = judged.verdict.topic,
        accepted = judged.verdict.key.is_some(),
        "a subscriber was verified"
    );
    // Nobody need listen.
    let _ = inner.verdicts.send(judged.verdict);
    inner.changed.send_modify(|count| *count += 1);
    true
}

/// Answers a challenge to us.
fn prove(inner: &Inner, header: &Header, body: &AmopBody<'_>, challenge: &[u8], replies: &Replies) {
    let signature = lock(&inner.private).handle_challenge(body.topic, challenge);
    let Some(signature) = signature else { return };
    let answer = sdk::encode_amop(FrameType::RESPONSE, &header.seq, ResultCode::OK, body.topic, &signature);
    reply(replies, Reply::Frame(answer));
}

/// The payload of an AMOP body; all of it where it is none, for subscribers may answer what they like.
fn payload(data: &Bytes) -> Bytes {
    match AmopBody::decode(data) {
        Ok(body) => data.slice(body.payload_offset..),
        Err(_) => data.clone(),
    }
}
