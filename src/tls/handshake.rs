//! A handshake without I/O: bytes in, bytes out, an [`Established`] at the end.

use std::sync::Arc;

use rustls::{
    ClientConfig, NamedGroup,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::{IpAddr, Ipv4Addr, ServerName},
    server::{Acceptor, ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};

pub use super::greeting::{Offers, Stranger};
use super::{
    Established,
    config::ServerTls,
    greeting::{self, GREETING_LEN},
    identity::parse,
    record,
    verify::describe,
};
use crate::supervise;

/// Most bytes that a peer may send before its handshake is complete (WIRE §1.8).
pub const INPUT_LEN_MAX: usize = 64 * 1024;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// rustls' reason; most often the peer's certificate or its offers.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The peer speaks something else.
    #[error("the peer speaks {0}")]
    Stranger(Stranger),
    /// The client knows nothing newer than this.
    #[error("the peer speaks {0} at most")]
    OldVersion(&'static str),
    /// More than [`INPUT_LEN_MAX`] bytes.
    #[error("the peer sent more than a handshake needs")]
    TooLong,
    /// The peer closed the connection in the middle.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// No certificate, though one is demanded.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// A cipher suite that the record layer does not know, which settings exclude.
    #[error("a cipher suite that is not served here was negotiated")]
    Suite,
    /// This program, or a library, panicked over what the peer sent.
    #[error("what the peer sent met a fault of amop, or of a library; please report it")]
    Fault,
}

enum Role {
    /// The peer's first message decides which configuration serves it; so many bytes of it were looked at.
    Hello(Box<Acceptor>, ServerTls, usize),
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// A handshake in progress.
pub struct Handshake {
    role: Role,
    input: Vec<u8>,
    received: usize,
    /// The first bytes that the peer sent.
    greeting: Vec<u8>,
    /// The random bytes of the client's first message, whichever end that is.
    client_random: Option<[u8; 32]>,
    /// What the client offered, if that is the peer.
    offers: Option<Offers>,
    output: Vec<u8>,
    plaintext: Vec<u8>,
    complete: bool,
}

enum Progress {
    More,
    Blocked,
    Complete,
}

impl Handshake {
    /// Of a link that came in.
    pub fn server(tls: ServerTls) -> Result<Self, HandshakeError> {
        Ok(Self::new(Role::Hello(Box::default(), tls, 0)))
    }

    /// Of a link that we dialled. The first bytes are ready at once.
    pub fn client(config: Arc<ClientConfig>) -> Result<Self, HandshakeError> {
        // Names are never sent nor checked.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
        let mut handshake = Self::new(Role::Client(UnbufferedClientConnection::new(config, nobody)?));
        handshake.advance()?;
        handshake.client_random = greeting::client_random(&handshake.output);
        Ok(handshake)
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            input: Vec::new(),
            received: 0,
            greeting: Vec::new(),
            client_random: None,
            offers: None,
            output: Vec::new(),
            plaintext: Vec::new(),
            complete: false,
        }
    }

    /// Takes bytes from the peer.
    pub fn handle_received(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        // Anybody can send these bytes, and most of the code that reads them is other people's.
        supervise::guarded(|| self.take(bytes)).unwrap_or_else(|| {
            // Nothing of it is used any more.
            self.output.clear();
            Err(HandshakeError::Fault)
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.received += bytes.len();
        self.note_greeting(bytes);
        if self.received > INPUT_LEN_MAX {
            return Err(HandshakeError::TooLong);
        }
        self.input.extend_from_slice(bytes);
        if self.complete { Ok(()) } else { self.advance() }
    }

    fn note_greeting(&mut self, bytes: &[u8]) {
        let missing = GREETING_LEN - self.greeting.len();
        self.greeting.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        if missing > 0 && matches!(self.role, Role::Hello(..)) {
            self.client_random = greeting::client_random(&self.greeting);
        }
    }

    /// Whether the peer has sent anything.
    pub fn has_heard(&self) -> bool {
        self.received > 0
    }

    /// What the peer speaks instead of TLS, if that can be told.
    pub fn stranger(&self) -> Option<Stranger> {
        Stranger::of(&self.greeting)
    }

    /// What the peer speaks at most, if it is a client that is too old for all that is served here.
    pub fn old_version(&self) -> Option<&'static str> {
        greeting::old_version(&self.greeting)
    }

    /// The random bytes of the client's first message, once it is here: both ends of a handshake have the same.
    pub fn client_random(&self) -> Option<[u8; 32]> {
        self.client_random
    }

    /// What the peer offered, if it is the client and has said so.
    pub fn offers(&self) -> Option<&Offers> {
        self.offers.as_ref()
    }

    /// Bytes to send now; after an error perhaps an alert.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether [`Self::finish`] may be called, once the output has been sent.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn advance(&mut self) -> Result<(), HandshakeError> {
        loop {
            let Self { role, input, output, plaintext, offers, .. } = self;
            let (discard, progress) = match role {
                Role::Hello(acceptor, tls, seen) => {
                    let Some((has_alternative, offered)) = look(acceptor, &input[*seen..]) else {
                        *seen = input.len();
                        return Ok(());
                    };
                    *offers = offered;
                    *role = Role::Server(UnbufferedServerConnection::new(tls.serving(has_alternative))?);
                    continue;
                }
                Role::Server(connection) => step(connection.process_tls_records(input), output, plaintext),
                Role::Client(connection) => step(connection.process_tls_records(input), output, plaintext),
            };
            self.input.drain(..discard);
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::Blocked) => return Ok(()),
                Ok(Progress::Complete) => {
                    self.complete = true;
                    return Ok(());
                }
                Err(error) => {
                    self.encode_alert();
                    return Err(error);
                }
            }
        }
    }

    /// After an error rustls has an alert to send, which the peer's log will show, or makes it when it is asked once more. It
    /// counts on the input that it has looked at already, and on not being asked again once it has given the alert: it panics
    /// otherwise.
    fn encode_alert(&mut self) {
        for _ in 0..2 {
            let Self { role, input, output, plaintext, .. } = self;
            let before = output.len();
            let (discard, progress) = match role {
                Role::Hello(..) => return,
                Role::Server(connection) => step(connection.process_tls_records(input), output, plaintext),
                Role::Client(connection) => step(connection.process_tls_records(input), output, plaintext),
            };
            input.drain(..discard);
            if progress.is_ok() || output.len() > before {
                return;
            }
        }
    }

    /// Takes the secrets out.
    pub fn finish(self) -> Result<Established, HandshakeError> {
        supervise::guarded(|| self.establish()).unwrap_or(Err(HandshakeError::Fault))
    }

    fn establish(self) -> Result<Established, HandshakeError> {
        let certificates = match &self.role {
            Role::Hello(..) => return Err(HandshakeError::Closed),
            Role::Server(connection) => connection.peer_certificates(),
            Role::Client(connection) => connection.peer_certificates(),
        };
        let leaf = certificates.and_then(|chain| chain.first()).ok_or(HandshakeError::NoCertificate)?;
        let peer = describe(&parse(leaf).ok_or(HandshakeError::NoCertificate)?);
        let (sealer, opener) = match self.role {
            Role::Hello(..) => return Err(HandshakeError::Closed),
            Role::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                record::split::<ServerConnectionData>(secrets, kernel)
            }
            Role::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                record::split::<ClientConnectionData>(secrets, kernel)
            }
        }
        .ok_or(HandshakeError::Suite)?;
        Ok(Established { peer, sealer, opener, plaintext: self.plaintext, received: self.input })
    }
}

/// Looks at what came of a peer's first message: whether its offers hold P-256 beside X25519, and what they are. `None` if
/// more is needed. What is wrong with it is found, and answered, by the connection that serves it.
fn look(acceptor: &mut Acceptor, mut bytes: &[u8]) -> Option<(bool, Option<Offers>)> {
    while !bytes.is_empty() {
        if !matches!(acceptor.read_tls(&mut bytes), Ok(1..)) {
            return Some((false, None));
        }
    }
    let Ok(accepted) = acceptor.accept().transpose()? else { return Some((false, None)) };
    let hello = accepted.client_hello();
    let groups = hello.named_groups().unwrap_or_default();
    let offers = |group| groups.contains(&group);
    let has_alternative = offers(NamedGroup::X25519) && offers(NamedGroup::secp256r1);
    Some((has_alternative, Some(Offers::new(groups, hello.cipher_suites()))))
}

/// Does what one state asks for; gives how many bytes of input are done with.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Vec<u8>,
    plaintext: &mut Vec<u8>,
) -> (usize, Result<Progress, HandshakeError>) {
    let UnbufferedStatus { mut discard, state, .. } = status;
    let progress = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = output.len();
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                _ => 0,
            };
            output.resize(start + needed, 0);
            let encoded = data.encode(&mut output[start..]).unwrap_or(0);
            output.truncate(start + encoded);
            Ok(Progress::More)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Progress::More)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Progress::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Progress::Complete),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut failed = None;
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            failed.map_or(Ok(Progress::More), |error| Err(error.into()))
        }
        Ok(_) => Err(HandshakeError::Closed),
        Err(error) => Err(error.into()),
    };
    (discard, progress)
}
