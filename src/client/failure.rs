//! Why a connection with a node was not made: whose fault that is, and what to change.

use std::{
    io,
    time::{Duration, SystemTime},
};

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError};

use crate::{
    tls::{
        identity::{Identity, Roots},
        presented::{KeyProfile, Named},
        validity::CertificateFault,
    },
    wire::FirstWord,
};

/// Why a node is not reached at an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// What was given is no `host:port`.
    #[error("this is no address: it must be host:port, such as 127.0.0.1:20200")]
    NoAddress,
    /// The host's name has no address.
    #[error(
        "the name does not resolve ({0}): see how it is written, and what the name service of this machine knows"
    )]
    Unresolved(String),
    /// Nobody listens.
    #[error(
        "connection refused, nobody listens there: see whether the node runs, and whether this is its [rpc] channel_listen_ip and \
         channel_listen_port (20200 unless it was changed)"
    )]
    Refused,
    /// Nothing comes back.
    #[error("no answer within {} s: see the network and the firewalls between, and whether the node hangs", .0.as_secs())]
    TimedOut(Duration),
    /// A web server, without TLS.
    #[error(
        "HTTP is spoken there, without TLS: this is the [admin] port of a node, or no node at all; give the [rpc] channel_listen_port of \
         the node"
    )]
    AdminPort,
    /// A web server, within TLS.
    #[error(
        "HTTP is spoken there: give the [rpc] channel_listen_port of a node; one of FISCO BCOS 3.x takes --dialect 3.x (`Dialect::V3`)"
    )]
    Http,
    /// Something else without TLS.
    #[error(
        "no TLS is spoken there: give the [rpc] channel_listen_port of a node; one that listens without TLS ([tls] channel_plaintext) takes no \
         application with certificates"
    )]
    NotTls,
    /// Other nodes are to connect there.
    #[error(
        "this is the p2p port of a node: give its [rpc] channel_listen_port (20200 unless it was changed), not its [p2p] listen_port"
    )]
    NodePort,
    /// The node's certificate is of another kind than ours.
    #[error(
        "{}",
        match is_rsa {
            true => "the node's certificate is RSA, and ca.crt here is EC: take ca.crt, sdk.crt and sdk.key of its nodes/…/sdk, which are RSA \
                as [chain] rsa_crypto_channel=true has it there",
            false => "the node's certificate is EC, and ca.crt here is RSA: either this is its p2p port, and its [rpc] channel_listen_port is \
                meant, or [chain] rsa_crypto_channel is false there, and ca.crt, sdk.crt and sdk.key must be EC, too",
        }
    )]
    OtherProfile {
        /// Whether the node's is RSA, and the application's is not; or the other way round.
        is_rsa: bool,
    },
    /// The node's certificate does not lead to our root.
    #[error(
        "the node's certificate is issued by {issuer}, and nothing leads from there to ca.crt here, which is of {ours}: take ca.crt, sdk.crt \
         and sdk.key of the nodes/…/sdk of that node's chain, or give a node of this one"
    )]
    OtherChain {
        /// Who issued the node's certificate.
        issuer: String,
        /// Whose our root is.
        ours: String,
    },
    /// The node's certificate is out of its time.
    #[error(
        "the node's certificate, or one above it, has expired, itself on {not_after}: have it renewed there, unless the clock of this \
         machine is wrong"
    )]
    Expired {
        /// When.
        not_after: String,
    },
    /// The same, too early.
    #[error(
        "the node's certificate, or one above it, is not valid yet, itself before {not_before}: see that the clocks of this machine and of \
         whoever made it are right"
    )]
    NotValidYet {
        /// When.
        not_before: String,
    },
    /// Our own certificate is no good, and the node says so.
    #[error("the node does not take sdk.crt, which {0}: take another one, or have it renewed (amop pki sdk)")]
    OwnCertificate(String),
    /// The node does not take our certificate, for what only it knows.
    #[error(
        "the node does not take sdk.crt (it says {0}): its log says why; it must be of that node's chain and agency ([network_security] \
         check_cert_issuer there)"
    )]
    OwnCertificateRefused(String),
    /// Versions, cipher suites or signatures.
    #[error(
        "the node and this application have no TLS in common ({0}): see whether both are RSA or both EC ([chain] rsa_crypto_channel of the \
         node), and [tls] there"
    )]
    NothingInCommon(String),
    /// It hung up at once.
    #[error(
        "the connection was closed before a certificate was shown: this may be no node, one that listens without TLS ([tls] channel_plaintext), \
         or one that has as many connections as it takes, and its log says so"
    )]
    ClosedAtOnce,
    /// It hung up in the middle.
    #[error(
        "the node closed the connection: its log says why; it may not take sdk.crt, or have no room for another session"
    )]
    Closed,
    /// TLS is up, and nothing follows.
    #[error(
        "TLS is up, and then nothing is said: give the [rpc] channel_listen_port of a node; if it is that, see the node's log"
    )]
    Silent,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ConnectError {
    /// Why dialling failed.
    pub(super) fn of_dial(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::InvalidInput => Self::NoAddress,
            _ => Self::Other(error.to_string()),
        }
    }

    /// Why a handshake failed, with a node that has shown this.
    pub(super) fn of_handshake(error: &io::Error, theirs: Option<&Named>, own: (&Identity, &Roots)) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                    if theirs.is_none() =>
                {
                    Self::ClosedAtOnce
                }
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Self::of_own(own).unwrap_or(Self::Closed),
                _ => Self::Other(error.to_string()),
            };
        };
        match tls {
            TlsError::InvalidMessage(_) => Self::NotTls,
            TlsError::InvalidCertificate(error) => Self::of_certificate(error, theirs, own.1),
            TlsError::AlertReceived(alert) if is_about_certificate(*alert) => {
                Self::of_own(own).unwrap_or_else(|| Self::OwnCertificateRefused(format!("{alert:?}")))
            }
            TlsError::AlertReceived(alert) => {
                Self::of_own(own).unwrap_or_else(|| Self::NothingInCommon(format!("it says {alert:?}")))
            }
            TlsError::PeerIncompatible(why) => Self::NothingInCommon(format!("{why:?}")),
            other => Self::Other(other.to_string()),
        }
    }

    /// What is wrong with our own certificate.
    fn of_own((identity, roots): (&Identity, &Roots)) -> Option<Self> {
        let faults = identity.faults(roots, SystemTime::now());
        faults
            .into_iter()
            .find(CertificateFault::is_error)
            .map(|fault| Self::OwnCertificate(fault.to_string()))
    }

    fn of_certificate(error: &CertificateError, theirs: Option<&Named>, roots: &Roots) -> Self {
        let unknown = || "nobody knows whom".to_owned();
        match (error, theirs, roots.named()) {
            (CertificateError::Expired | CertificateError::ExpiredContext { .. }, theirs, _) => {
                Self::Expired { not_after: theirs.map_or_else(unknown, |theirs| theirs.not_after.clone()) }
            }
            (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, theirs, _) => {
                Self::NotValidYet {
                    not_before: theirs.map_or_else(unknown, |theirs| theirs.not_before.clone()),
                }
            }
            (_, Some(theirs), Some(ours)) if theirs.profile != ours.profile => {
                Self::OtherProfile { is_rsa: theirs.profile == KeyProfile::Rsa }
            }
            (CertificateError::UnknownIssuer | CertificateError::BadSignature, theirs, ours) => {
                Self::OtherChain {
                    issuer: theirs.map_or_else(unknown, |theirs| theirs.issuer.clone()),
                    ours: ours.map_or_else(unknown, |ours| ours.subject),
                }
            }
            (other, ..) => Self::Other(format!("the node's certificate is refused: {other:?}")),
        }
    }

    /// Why a connection ended over which TLS was up.
    pub(super) fn of_end(error: &io::Error) -> Self {
        if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return known.clone();
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Other(error.to_string()),
        }
    }

    /// Who is there, if what came first is not of a channel.
    pub(super) fn of_first_word(first: &[u8]) -> Option<Self> {
        Some(match FirstWord::of(first)? {
            FirstWord::Node | FirstWord::Node2x => Self::NodePort,
            FirstWord::Http => Self::Http,
        })
    }
}

/// Whether a node says by it that it does not take a certificate.
fn is_about_certificate(alert: Alert) -> bool {
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::AccessDenied
    )
}

/// A node that was not reached, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address}: {error}")]
pub struct Unreached {
    /// As it was given.
    pub address: String,
    /// Why.
    pub error: ConnectError,
}

/// All of them in one text.
pub(super) fn list(unreached: &[Unreached]) -> String {
    unreached.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
