//! What ledger nodes and other nodes are like: asked once, before a node runs (`amop node --check`). Blocking, with a time for each step.
//!
//! ```text
//!   connect ─► TLS ─► 0x14 ─► getClientVersion ─► getGroupList ─► getBlockNumber of each group     ledger nodes
//!                  └► what it says first, and nothing more                                         nodes of [p2p]
//! ```

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use serde_json::{Value, json};

use super::{
    Failure,
    cause::{Cause, Peer},
};
use crate::{
    relay::ledger::NOT_ALLOWED,
    tls::{
        Established,
        handshake::{Handshake, HandshakeError},
        identity::{Identity, Roots},
        presented::{KeyProfile, Named, Presented},
        random::random,
        record::{ContentType, Opened, record_len},
    },
    wire::{
        FIRST_WORD_LEN, FirstWord, ResultCode, hex,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};

/// How long a connection may take to come up, for each address of the name.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long the handshake, and each answer, may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const ANSWER_LEN_MAX: usize = 1 << 20;
/// Groups that are looked at.
const GROUPS_MAX: usize = 32;

/// What a ledger node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerAnswer {
    /// Its `FISCO-BCOS Version`.
    pub version: String,
    /// Its chain.
    pub chain_id: String,
    /// Its groups.
    pub groups: Vec<u64>,
    /// Those of them that the certificate of this node may not use.
    pub closed_groups: Vec<u64>,
}

/// Why whoever answers cannot be used, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct ProbeFault {
    /// What was seen.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl ProbeFault {
    fn new(what: impl ToString, remedy: impl ToString) -> Self {
        Self { what: what.to_string(), remedy: remedy.to_string() }
    }
}

const NOT_THE_CHANNEL: &str =
    "let [ledger] node.N name the [rpc] channel_listen_port of the ledger node (20200 unless it was changed)";

/// What ledger nodes are asked with.
pub struct LedgerProbe<'a> {
    /// For the handshake.
    pub tls: Arc<ClientConfig>,
    /// What the other end has presented in it.
    pub presented: Arc<Presented>,
    /// `sdk.crt`.
    pub identity: &'a Identity,
    /// `ca.crt`.
    pub roots: &'a Roots,
}

impl LedgerProbe<'_> {
    /// Asks the ledger node at `host:port`.
    pub fn ask(&self, address: &str) -> Result<LedgerAnswer, ProbeFault> {
        self.presented.forget();
        let stream = connect(address)?;
        let established = match shake_hands(&stream, &self.tls) {
            Ok(established) => established,
            Err(failure) => return Err(self.fault_of(&failure)),
        };
        let mut asking = Asking { stream, established, plaintext: Vec::new(), asked: 0 };
        asking.plaintext = std::mem::take(&mut asking.established.plaintext);
        asking.greet()?;
        let version = asking.call("getClientVersion", &json!([]))?;
        let text = |key: &str| version["result"][key].as_str().unwrap_or_default().to_owned();
        let mut answer = LedgerAnswer {
            version: text("FISCO-BCOS Version"),
            chain_id: text("Chain Id"),
            ..LedgerAnswer::default()
        };
        if answer.version.contains("(amop ") {
            return Err(ProbeFault::new(
                format!(
                    "a node of this kind answers there, amop of FISCO BCOS {}, which has no ledger",
                    answer.version
                ),
                "let [ledger] node.N name a FISCO BCOS node, not this one or another one of its kind",
            ));
        }
        if answer.version.is_empty() {
            let what = match version["error"]["message"].as_str() {
                Some(message) => format!("getClientVersion is answered with an error: {message}"),
                None => "getClientVersion is answered without a version".to_owned(),
            };
            return Err(ProbeFault::new(what, "see what answers there, and its log"));
        }
        let groups = asking.call("getGroupList", &json!([]))?;
        let groups = groups["result"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        answer.groups = groups.take(GROUPS_MAX).collect();
        for group in answer.groups.clone() {
            let height = asking.call("getBlockNumber", &json!([group]))?;
            if height["error"]["code"].as_i64() == Some(NOT_ALLOWED) {
                answer.closed_groups.push(group);
            }
        }
        Ok(answer)
    }

    fn fault_of(&self, failure: &Failure) -> ProbeFault {
        let cause = Cause::of(failure);
        let theirs = self.presented.leaf();
        let what = match &theirs {
            Some(Named { subject, issuer, .. }) => {
                format!("{failure} ({}); its certificate is of {subject}, issued by {issuer}", cause.name())
            }
            None => format!("{failure} ({})", cause.name()),
        };
        let remedy = match (cause, theirs) {
            (Cause::UnknownAuthority | Cause::BadCertificate, Some(theirs)) => self.mend_roots(&theirs),
            (Cause::Expired, Some(Named { not_after, .. })) => format!(
                "it, or one above it, has ended, itself on {not_after}: renew it there, unless the clock of this machine is wrong, which shows {}",
                clock()
            ),
            (Cause::NotYetValid, Some(Named { not_before, .. })) => format!(
                "it, or one above it, begins later, itself on {not_before}: set the clock of this machine, which shows {}, or that of the one that made it",
                clock()
            ),
            (cause, _) => cause.remedy(Peer::Ledger).to_owned(),
        };
        ProbeFault { what, remedy }
    }

    /// What to do about a certificate that `ca.crt` does not lead to.
    fn mend_roots(&self, theirs: &Named) -> String {
        let ours = self.roots.named();
        let Some(ours) = ours else { return Cause::UnknownAuthority.remedy(Peer::Ledger).to_owned() };
        match (theirs.profile, ours.profile) {
            (KeyProfile::Rsa, KeyProfile::Elliptic) => {
                "its channel is RSA and ca.crt of [ledger] certificates is EC: take ca.crt, sdk.crt and sdk.key of nodes/…/sdk, which go with \
                 [chain] rsa_crypto_channel=true there"
                    .to_owned()
            }
            (KeyProfile::Elliptic, KeyProfile::Rsa) => {
                "it is EC and ca.crt of [ledger] certificates is RSA: either this is its [p2p] listen_port, and [rpc] channel_listen_port is meant, \
                 or [chain] rsa_crypto_channel is false there, and [ledger] certificates must be those of an SDK with an EC key"
                    .to_owned()
            }
            _ => format!(
                "ca.crt of [ledger] certificates is of {}, another chain: take ca.crt, sdk.crt and sdk.key from nodes/…/sdk of the ledger node's chain",
                ours.subject
            ),
        }
    }
}

/// How long a node may take to say the first word: one of FISCO BCOS 2.x says something every 5 s.
const FIRST_WORD_MAX: Duration = Duration::from_secs(6);

/// Who answers at an address of `[p2p] node.N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// This node itself, or who has its certificate.
    Own,
    /// A node of this kind.
    Node {
        /// Whose certificate it has.
        subject: String,
    },
    /// A node of FISCO BCOS 2.x.
    Node2x {
        /// Whose certificate it has.
        subject: String,
    },
    /// Nobody, now.
    Away {
        /// What was seen.
        reason: String,
    },
}

/// What nodes of `[p2p]` are looked at with.
pub struct PeerProbe {
    /// For the handshake.
    pub tls: Arc<ClientConfig>,
    /// What the other end has presented in it.
    pub presented: Arc<Presented>,
}

impl PeerProbe {
    /// Looks at the node at `host:port`. It is told who looks, and nothing else.
    pub fn look_at(&self, address: &str) -> Result<PeerAnswer, ProbeFault> {
        self.presented.forget();
        let stream = match connect(address) {
            Ok(stream) => stream,
            Err(ProbeFault { what, .. }) => return Ok(PeerAnswer::Away { reason: what }),
        };
        let established = match shake_hands(&stream, &self.tls) {
            Ok(established) => established,
            Err(_) if self.presented.is_own() => return Ok(PeerAnswer::Own),
            Err(failure) => {
                let cause = Cause::of(&failure);
                let theirs = self.presented.leaf();
                let theirs = theirs
                    .map(|one| format!("; its certificate is of {}, issued by {}", one.subject, one.issuer));
                let what = format!("{failure} ({}){}", cause.name(), theirs.unwrap_or_default());
                return Err(ProbeFault::new(what, cause.remedy(Peer::Dialled)));
            }
        };
        let subject = established.peer.subject.clone();
        let mut asking = Asking { stream, established, plaintext: Vec::new(), asked: 0 };
        asking.plaintext = std::mem::take(&mut asking.established.plaintext);
        let end = Instant::now() + FIRST_WORD_MAX;
        while asking.plaintext.len() < FIRST_WORD_LEN {
            if let Err(error) = asking.receive(end) {
                return Err(ProbeFault::new(
                    match is_late(&error) {
                        true => format!("TLS is up, and nothing is said for {} s", FIRST_WORD_MAX.as_secs()),
                        false => format!("the connection broke: {error}"),
                    },
                    "let [p2p] node.N name the [p2p] listen_port of a node, not its [rpc] channel_listen_port; if it does, see its log",
                ));
            }
        }
        match FirstWord::of(&asking.plaintext) {
            Some(FirstWord::Node) => Ok(PeerAnswer::Node { subject }),
            Some(FirstWord::Node2x) => Ok(PeerAnswer::Node2x { subject }),
            _ => Err(ProbeFault::new("TLS is up, and what comes is of no node", "see what answers there")),
        }
    }
}

/// What this machine takes for the time.
fn clock() -> String {
    let now = time::OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

fn connect(address: &str) -> Result<TcpStream, ProbeFault> {
    let unknown = "see whether the host's name is written as it is known to this machine";
    let found = address.to_socket_addrs().map_err(|error| ProbeFault::new(error, unknown))?;
    let mut last = ProbeFault::new("the name has no address", unknown);
    for address in found {
        let connected = TcpStream::connect_timeout(&address, CONNECT_MAX).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(ANSWER_MAX))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let remedy = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => {
                        "see whether the ledger node runs, and that [ledger] node.N names its [rpc] channel_listen_port; [rpc] \
                         channel_listen_ip there must let this machine in"
                    }
                    _ => "see whether the ledger node runs, and the network and firewalls between",
                };
                last = ProbeFault::new(error, remedy);
            }
        }
    }
    Err(last)
}

/// Reads what there is until `end`; 0 bytes at the end of the stream.
fn read_by(mut stream: &TcpStream, buffer: &mut [u8], end: Instant) -> std::io::Result<usize> {
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.read(buffer)
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn shake_hands(mut stream: &TcpStream, tls: &Arc<ClientConfig>) -> Result<Established, Failure> {
    let mut handshake = Handshake::client(tls.clone())?;
    let driven = drive(&mut stream, &mut handshake);
    driven.map_err(|failure| failure.told_by(&handshake, true)).and_then(|()| Ok(handshake.finish()?))
}

fn drive(stream: &mut &TcpStream, handshake: &mut Handshake) -> Result<(), Failure> {
    let end = Instant::now() + ANSWER_MAX;
    let mut buffer = vec![0; 16 << 10];
    let mut failed = None;
    loop {
        let output = handshake.take_output();
        if let Err(error) = stream.write_all(&output)
            && failed.is_none()
        {
            return Err(error.into());
        }
        if let Some(error) = failed {
            return Err(Failure::Handshake(error));
        }
        if handshake.is_complete() {
            return Ok(());
        }
        let read = match read_by(stream, &mut buffer, end) {
            Ok(0) => return Err(HandshakeError::Closed.into()),
            Ok(read) => read,
            Err(error) if is_late(&error) => return Err(Failure::Timeout),
            Err(error) => return Err(error.into()),
        };
        failed = handshake.handle_received(&buffer[..read]).err();
    }
}

/// A connection over which questions are put, one after the other.
struct Asking {
    stream: TcpStream,
    established: Established,
    /// What has come and was not looked at.
    plaintext: Vec<u8>,
    asked: u64,
}

impl Asking {
    /// Says what is spoken here.
    fn greet(&mut self) -> Result<(), ProbeFault> {
        let hello = br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"amop-check"}"#;
        self.ask(FrameType::HANDSHAKE, hello).map(drop)
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value, ProbeFault> {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": self.asked });
        let answer = self.ask(FrameType::RPC, body.to_string().as_bytes())?;
        serde_json::from_slice(&answer).map_err(|error| {
            ProbeFault::new(format!("{method} is answered with what is no JSON: {error}"), NOT_THE_CHANNEL)
        })
    }

    /// Sends a frame, and waits for what answers it.
    fn ask(&mut self, frame_type: FrameType, data: &[u8]) -> Result<Vec<u8>, ProbeFault> {
        self.asked += 1;
        let mut seq: Seq = [b'0'; 32];
        seq.iter_mut().zip(hex::encode(&random::<16>()).bytes()).for_each(|(digit, byte)| *digit = byte);
        let frame = sdk::encode(frame_type, &seq, ResultCode::OK, data);
        let mut sealed = Vec::new();
        let broken = |reason: &dyn std::fmt::Display| {
            ProbeFault::new(
                format!("the connection broke: {reason}"),
                "see the log of the ledger node; it may not take the certificate of this node",
            )
        };
        self.established
            .sealer
            .seal(ContentType::ApplicationData, &[&frame], &mut sealed)
            .map_err(|error| broken(&error))?;
        self.stream.write_all(&sealed).map_err(|error| broken(&error))?;
        let end = Instant::now() + ANSWER_MAX;
        loop {
            while let Some((header, data)) = self.next_frame()? {
                if header.seq == seq && header.frame_type == frame_type {
                    return Ok(data);
                }
            }
            self.receive(end).map_err(|error| match is_late(&error) {
                true => ProbeFault::new(
                    format!("TLS is up, and nothing answers for {} s", ANSWER_MAX.as_secs()),
                    format!("{NOT_THE_CHANNEL}, not its [p2p] listen_port; if it does, see whether the ledger node hangs"),
                ),
                false => broken(&error),
            })?;
        }
    }

    /// Takes a whole frame from what has come.
    fn next_frame(&mut self) -> Result<Option<(Header, Vec<u8>)>, ProbeFault> {
        if let Some(fault) = stranger(&self.plaintext) {
            return Err(fault);
        }
        let Some(header) = Header::decode(&self.plaintext) else { return Ok(None) };
        let len = header.len as usize;
        if !(HEADER_LEN..=ANSWER_LEN_MAX).contains(&len) {
            return Err(ProbeFault::new(
                "TLS is up, and what comes is no frame of the channel",
                NOT_THE_CHANNEL,
            ));
        }
        if self.plaintext.len() < len {
            return Ok(None);
        }
        let rest = self.plaintext.split_off(len);
        let frame = std::mem::replace(&mut self.plaintext, rest);
        Ok(Some((header, frame[HEADER_LEN..].to_vec())))
    }

    /// Takes what comes until `end`.
    fn receive(&mut self, end: Instant) -> std::io::Result<()> {
        let Established { opener, received, .. } = &mut self.established;
        loop {
            if let Some(len) = record_len(received).map_err(std::io::Error::other)?
                && received.len() >= len
            {
                let rest = received.split_off(len);
                let mut record = std::mem::replace(received, rest);
                match opener.open_in_place(&mut record).map_err(std::io::Error::other)? {
                    Opened::Data(data) => self.plaintext.extend_from_slice(data),
                    Opened::Nothing => {}
                    Opened::CloseNotify => return Err(std::io::Error::other("the other end closed it")),
                }
                return Ok(());
            }
            let mut buffer = [0; 16 << 10];
            match read_by(&self.stream, &mut buffer, end)? {
                0 => return Err(std::io::Error::other("the other end closed it")),
                read => received.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// What is wrong if the first bytes that came over TLS are not those of a channel.
fn stranger(first: &[u8]) -> Option<ProbeFault> {
    const P2P: &str = "this is the p2p port of a node";
    Some(match FirstWord::of(first)? {
        FirstWord::Http => ProbeFault::new(
            "HTTP is spoken there, as FISCO BCOS 3.x does",
            format!("a ledger node is one of FISCO BCOS 2.x: {NOT_THE_CHANNEL}"),
        ),
        FirstWord::Node2x => ProbeFault::new(
            format!("{P2P} of FISCO BCOS 2.x"),
            format!("{NOT_THE_CHANNEL}, not its [p2p] listen_port"),
        ),
        FirstWord::Node => ProbeFault::new(
            format!("{P2P} of amop, which has no ledger"),
            "let [ledger] node.N name the [rpc] channel_listen_port of a FISCO BCOS node",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_another_kind_is_told_by_its_first_bytes() {
        let send_topic_seq = [0, 0, 0, 17, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, b'7'];
        let compressed = [0, 0, 0, 17, 0x80, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, b'7'];
        for p2p in [send_topic_seq, compressed] {
            assert!(stranger(&p2p).is_some_and(|fault| fault.what.contains("p2p")));
        }
        let hello = [0, 0, 0, 80, 0, 1, 0, 1, 0, 0, 0, 0];
        assert!(stranger(&hello).is_some_and(|fault| fault.what.contains("amop")));
        assert!(stranger(b"HTTP/1.1 400 Bad Request").is_some_and(|fault| fault.what.contains("3.x")));
        for kind in [FrameType::HANDSHAKE, FrameType::RPC, FrameType::BLOCK_NOTICE, FrameType::HEARTBEAT] {
            let frame = sdk::encode(kind, &[b'0'; 32], ResultCode::OK, b"{}");
            assert_eq!(stranger(&frame), None);
        }
    }
}
