//! A node of FISCO BCOS 2.x after a script: it speaks their node link over real TLS as INTEROP §2.1 has it, and passes messages of
//! its applications on as they do. Its applications are a list of topics and a way to answer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use amop::{
    internal::{
        pki::Profile,
        tls::{
            config::client_config,
            identity::{Identity, Roots},
            settings::TlsSettings,
        },
        wire::{
            NodeId, ResultCode,
            sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
        },
    },
    keys::PrivateKey,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_rustls::TlsConnector;

use super::{
    host_dir,
    listener::{TlsListener, key_of},
};

/// How often it says the number of its topics: 5 s in a real one.
const BEAT: Duration = Duration::from_millis(100);
/// How long it waits before it dials again: 10 s in a real one.
const REDIAL: Duration = Duration::from_millis(200);
/// Bodies above this are compressed.
const COMPRESSED_ABOVE: usize = 1_024;
const FRONT: usize = 16;
const TOPIC: i32 = 2;
const AMOP: i32 = 1;
/// Frames to one connection that wait; more than any test sends at once.
const OUTGOING_MAX: usize = 100_000;

/// How its applications answer a unicast.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Answers {
    /// With its own payload.
    #[default]
    Echo,
    /// With this code and no payload.
    Code(i32),
    /// Not at all: after a while their node answers 104 with the request's own data.
    Late,
    /// They have just left: their node answers 101 at once, in a frame that is none of an answer.
    Gone,
}

#[derive(Default)]
struct State {
    topics: Vec<String>,
    topic_seq: u32,
    answers: Answers,
    /// Keys of its subscribers of private topics, by their route topics.
    keys: BTreeMap<String, PrivateKey>,
    compresses: bool,
    is_frozen: bool,
    links: BTreeMap<NodeId, Link>,
    pending: BTreeMap<u32, oneshot::Sender<Vec<u8>>>,
    next_seq: u32,
    links_in_all: usize,
    received: Vec<Received>,
    /// All frames that have come, header and payload.
    frames: Vec<Vec<u8>>,
}

struct Link {
    number: usize,
    outgoing: mpsc::Sender<Vec<u8>>,
    topics: Vec<String>,
    topic_seq: u32,
    requested: Option<u32>,
}

/// A message that one of its applications got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub frame_type: FrameType,
    pub seq: Seq,
    pub topic: String,
    pub payload: Vec<u8>,
}

/// One that runs.
pub struct ScriptedPeer {
    pub address: SocketAddr,
    pub id: NodeId,
    state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
    identity: Identity,
    roots: Roots,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptedPeer {
    /// With the key and certificate of the `index`th node of the network's files, at an address or where the kernel likes.
    pub fn start(index: usize, at: Option<SocketAddr>) -> Self {
        let dir = host_dir(Profile::Ec).join(format!("node{index}/conf"));
        let TlsListener { identity, roots, acceptor, runtime, listener, address } =
            TlsListener::start(&dir, at);
        let state = Arc::new(Mutex::new(State { next_seq: 2, ..State::default() }));
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.ok()?;
                    let (_, connection) = stream.get_ref();
                    let id = connection.peer_certificates().and_then(|chain| key_of(chain.first()?))?;
                    serve(stream, id, state).await
                });
            }
        });
        let id = identity.node_id().expect("a node's key");
        Self { address, id, state, runtime: Some(runtime), identity, roots }
    }

    /// Dials a node, and again when the link is gone.
    pub fn dial(&self, address: SocketAddr) {
        let config =
            client_config(&self.identity, &self.roots, &TlsSettings::default()).expect("a configuration");
        let (connector, state) = (TlsConnector::from(config), self.state.clone());
        self.runtime.as_ref().expect("it runs").spawn(async move {
            loop {
                if let Ok(stream) = TcpStream::connect(address).await
                    && let name = ServerName::IpAddress(address.ip().into())
                    && let Ok(stream) = connector.connect(name, stream).await
                    && let (_, connection) = stream.get_ref()
                    && let Some(id) = connection.peer_certificates().and_then(|chain| key_of(chain.first()?))
                {
                    serve(stream, id, state.clone()).await;
                }
                tokio::time::sleep(REDIAL).await;
            }
        });
    }

    /// What its applications subscribe to from now on.
    pub fn subscribe(&self, topics: &[&str]) {
        let mut state = lock(&self.state);
        state.topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        state.topic_seq += 1;
    }

    /// One of its applications signs what comes under this route topic.
    pub fn sign(&self, route: &str, key: PrivateKey) {
        lock(&self.state).keys.insert(route.to_owned(), key);
    }

    pub fn answer_by(&self, answers: Answers) {
        lock(&self.state).answers = answers;
    }

    /// Compresses what is long, as they do unless they are told not to.
    pub fn compress(&self) {
        lock(&self.state).compresses = true;
    }

    /// Neither says nor hears anything from now on, or does again.
    pub fn freeze(&self, is_frozen: bool) {
        lock(&self.state).is_frozen = is_frozen;
    }

    /// Messages that its applications got, in order.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state).received.clone()
    }

    /// All frames that have come.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        lock(&self.state).frames.clone()
    }

    /// Nodes that are linked, and the topics that it knows of each.
    pub fn peers(&self) -> BTreeMap<NodeId, Vec<String>> {
        lock(&self.state).links.iter().map(|(id, link)| (*id, link.topics.clone())).collect()
    }

    /// Links that it has had.
    pub fn links_in_all(&self) -> usize {
        lock(&self.state).links_in_all
    }

    /// Sends raw bytes to a node that is linked.
    pub fn say(&self, to: &NodeId, bytes: Vec<u8>) {
        let state = lock(&self.state);
        let link = state.links.get(to).expect("it is linked");
        link.outgoing.try_send(bytes).expect("there is room");
    }

    /// One of its applications asks; `None` if nobody has the topic, or nobody answers in time.
    pub fn request(&self, seq: &Seq, topic: &str, payload: &[u8], bound: Duration) -> Option<(i32, Vec<u8>)> {
        let frame = sdk::encode_amop(FrameType::REQUEST, seq, ResultCode::OK, topic, payload);
        let receiver = {
            let mut state = lock(&self.state);
            let number = state.next_seq;
            state.next_seq += 1;
            let compresses = state.compresses;
            let link = state.links.values().find(|link| link.topics.iter().any(|name| name == topic))?;
            let bytes = front(AMOP, 0, number, frame, compresses);
            link.outgoing.try_send(bytes).ok()?;
            let (sender, receiver) = oneshot::channel();
            state.pending.insert(number, sender);
            receiver
        };
        let runtime = self.runtime.as_ref().expect("it runs");
        let answer = runtime.block_on(async { tokio::time::timeout(bound, receiver).await.ok()?.ok() })?;
        let header = Header::decode(&answer).expect("a frame of the SDK link");
        assert_eq!((header.frame_type, header.seq), (FrameType::RESPONSE, *seq));
        assert_eq!(header.len as usize, answer.len());
        let body = &answer[HEADER_LEN..];
        let payload = AmopBody::decode(body).map_or(body, |read| &body[read.payload_offset..]);
        Some((header.result.0, payload.to_vec()))
    }

    /// One of its applications sends to all: to each node that has the topic. Gives how many those are.
    pub fn multicast(&self, seq: &Seq, topic: &str, payload: &[u8]) -> usize {
        let frame = sdk::encode_amop(FrameType::MULTICAST, seq, ResultCode::OK, topic, payload);
        let mut state = lock(&self.state);
        state.next_seq += 1;
        let (number, compresses) = (state.next_seq, state.compresses);
        let receivers = state.links.values().filter(|link| link.topics.iter().any(|name| name == topic));
        receivers
            .map(|link| link.outgoing.try_send(front(AMOP, 1, number, frame.clone(), compresses)))
            .filter(Result::is_ok)
            .count()
    }

    /// Ends without a word.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

impl Drop for ScriptedPeer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A whole frame.
fn front(protocol: i32, packet_type: u16, seq: u32, payload: Vec<u8>, compresses: bool) -> Vec<u8> {
    let is_compressed = compresses && payload.len() > COMPRESSED_ABOVE;
    let payload = match is_compressed {
        true => snap::raw::Encoder::new().compress_vec(&payload).expect("it is short"),
        false => payload,
    };
    let mut frame = ((FRONT + payload.len()) as u32).to_be_bytes().to_vec();
    frame.extend(if is_compressed { 0x8000_u16 } else { 0 }.to_be_bytes());
    frame.extend(protocol.to_be_bytes());
    frame.extend(packet_type.to_be_bytes());
    frame.extend(seq.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    id: NodeId,
    state: Arc<Mutex<State>>,
) -> Option<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (outgoing, mut waiting) = mpsc::channel::<Vec<u8>>(OUTGOING_MAX);
    let number = {
        let mut state = lock(&state);
        // The later connection is closed.
        if state.links.contains_key(&id) {
            return None;
        }
        state.links_in_all += 1;
        let number = state.links_in_all;
        let (topics, topic_seq, requested) = (Vec::new(), 0, None);
        state.links.insert(id, Link { number, outgoing: outgoing.clone(), topics, topic_seq, requested });
        number
    };
    let writing = tokio::spawn(async move {
        while let Some(frame) = waiting.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    let beating = tokio::spawn({
        let (state, outgoing) = (state.clone(), outgoing.clone());
        async move {
            loop {
                let number = {
                    let state = lock(&state);
                    (!state.is_frozen).then_some(state.topic_seq)
                };
                if let Some(number) = number
                    && outgoing
                        .send(front(TOPIC, 1, 0, number.to_string().into_bytes(), false))
                        .await
                        .is_err()
                {
                    return;
                }
                tokio::time::sleep(BEAT).await;
            }
        }
    });
    while let Some(frame) = read_frame(&mut reader).await {
        if !lock(&state).is_frozen {
            handle(&state, id, &frame);
        }
    }
    beating.abort();
    writing.abort();
    let mut state = lock(&state);
    if state.links.get(&id).is_some_and(|link| link.number == number) {
        state.links.remove(&id);
    }
    Some(())
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut frame = vec![0; FRONT];
    reader.read_exact(&mut frame).await.ok()?;
    let len = u32::from_be_bytes(*frame.first_chunk()?) as usize;
    // As they do: what is too long for them ends the link.
    if !(FRONT..=100 << 20).contains(&len) {
        return None;
    }
    frame.resize(len, 0);
    reader.read_exact(&mut frame[FRONT..]).await.ok()?;
    Some(frame)
}

/// What a node of theirs does about a frame.
fn handle(state: &Mutex<State>, from: NodeId, frame: &[u8]) {
    let mut guard = lock(state);
    let state = &mut *guard;
    state.frames.push(frame.to_vec());
    let number = |range: std::ops::Range<usize>| -> u32 {
        frame[range].iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
    };
    let (version, protocol, packet_type, seq) =
        (number(4..6), number(6..10) as i32, number(10..12), number(12..16));
    assert_eq!(version & 0x8000, 0, "one that is told not to compress could not read it");
    let payload = &frame[FRONT..];
    let Some(link) = state.links.get_mut(&from) else { return };
    match (protocol, packet_type) {
        (TOPIC, 1) => {
            let told: u32 =
                std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).expect("a number");
            if told != link.topic_seq {
                link.requested = Some(state.next_seq);
                let _ = link.outgoing.try_send(front(TOPIC, 2, state.next_seq, Vec::new(), false));
                state.next_seq += 1;
            }
        }
        (TOPIC, 2) => {
            let list = std::iter::once(state.topic_seq.to_string()).chain(state.topics.iter().cloned());
            let list = list.collect::<Vec<_>>().join("\t").into_bytes();
            let _ = link.outgoing.try_send(front(-TOPIC, 3, seq, list, false));
        }
        (protocol, 3) if protocol == -TOPIC => {
            if link.requested != Some(seq) {
                return;
            }
            let text = std::str::from_utf8(payload).expect("names of topics");
            let mut fields = text.split('\t');
            link.topic_seq = fields.next().and_then(|number| number.parse().ok()).expect("a number first");
            link.topics = fields.map(str::to_owned).collect();
        }
        (AMOP, 0) | (AMOP, 1) => {
            let header = Header::decode(payload).expect("a frame of the SDK link");
            assert_eq!(header.len as usize, payload.len());
            let body = AmopBody::decode(&payload[HEADER_LEN..]).expect("a topic");
            let is_unicast = packet_type == 0;
            assert_eq!(header.frame_type, if is_unicast { FrameType::REQUEST } else { FrameType::MULTICAST });
            let has_topic = state.topics.iter().any(|topic| topic == body.topic);
            let received = Received {
                frame_type: header.frame_type,
                seq: header.seq,
                topic: body.topic.to_owned(),
                payload: payload[HEADER_LEN + body.payload_offset..].to_vec(),
            };
            let answers = if has_topic { state.answers } else { Answers::Late };
            if has_topic && answers != Answers::Gone {
                state.received.push(received);
            }
            if let Some(key) = state.keys.get(body.topic).filter(|_| is_unicast) {
                let signature = key.sign(&payload[HEADER_LEN + body.payload_offset..]);
                let topic = body.topic;
                let code = ResultCode::OK;
                let frame = sdk::encode_amop(FrameType::RESPONSE, &header.seq, code, topic, &signature);
                let _ = link.outgoing.try_send(front(-AMOP, 0, seq, frame, false));
            } else if is_unicast {
                answer(link, answers, (seq, state.compresses), payload);
            }
        }
        (protocol, _) if protocol == -AMOP => {
            if let Some(pending) = state.pending.remove(&seq) {
                let _ = pending.send(payload.to_vec());
            }
        }
        // No handler for it, as for a Hello of ours.
        _ => {}
    }
}

fn answer(link: &Link, answers: Answers, (seq, compresses): (u32, bool), request: &[u8]) {
    let (protocol, code) = match answers {
        Answers::Echo => (-AMOP, 0),
        Answers::Code(code) => (-AMOP, code),
        Answers::Late => (-AMOP, 104),
        Answers::Gone => (AMOP, 101),
    };
    let mut frame = match answers {
        Answers::Code(_) => request[..HEADER_LEN].to_vec(),
        _ => request.to_vec(),
    };
    let len = frame.len() as u32;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    frame[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
    frame[38..42].copy_from_slice(&i32::to_be_bytes(code));
    let _ = link.outgoing.try_send(front(protocol, 0, seq, frame, compresses));
}
