//! What the door counts, and the lines that it logs in bounded number.

use rustls::{AlertDescription, Error as TlsError};

use super::Failure;
use crate::{
    relay::{
        counters::{Counter, figures},
        log_limit::LogLimit,
    },
    tls::handshake::HandshakeError,
};

figures! {
    /// The figures of the door.
    pub struct DoorCounters {
        /// Handshakes under way now, of links that came in and that were dialled.
        gauge pending_handshakes,
        /// Handshakes begun.
        counter handshakes_begun,
        /// Handshakes done.
        counter handshakes_done,
        /// Handshakes that failed because the peer's certificate was missing or not trusted.
        counter handshakes_failed_certificate,
        /// Handshakes that failed because the peer spoke no TLS, or none that is spoken here.
        counter handshakes_failed_tls,
        /// Handshakes that the peer broke off, or ended because of our certificate.
        counter handshakes_failed_closed,
        /// Handshakes that took too long.
        counter handshakes_failed_timeout,
        /// Handshakes whose connection broke.
        counter handshakes_failed_io,
        /// Connections closed because their address had too many handshakes at once.
        counter handshakes_refused,
        /// Connections that could not be accepted.
        counter accept_failures,
        /// Applications not let in because the node or their certificate had its maximum of sessions.
        counter sessions_refused,
        /// Nodes not let in because of the blacklist or the whitelist.
        counter nodes_refused_by_list,
        /// Nodes not let in because their certificate has no secp256k1 key.
        counter nodes_refused_by_key,
        /// Links of nodes not let in because that node had too many, or there were too many nodes.
        counter nodes_refused_by_number,
        /// Links lost because there was no file descriptor left.
        counter links_lost,
        /// Dials begun.
        counter dials,
        /// Dials that made no connection or no handshake.
        counter dials_failed,
        /// Links that were dialled, and that the peer ended within seconds, with no other link to it.
        counter dials_hung_up,
    }
}

/// What made a handshake fail, as far as it tells an operator what to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureClass {
    Certificate,
    Tls,
    Closed,
    Timeout,
    Io,
}

impl FailureClass {
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Timeout => Self::Timeout,
            Failure::Io(_) => Self::Io,
            Failure::Handshake(HandshakeError::Closed) => Self::Closed,
            Failure::Handshake(
                HandshakeError::NoCertificate
                | HandshakeError::Tls(TlsError::InvalidCertificate(_) | TlsError::NoCertificatesPresented),
            ) => Self::Certificate,
            Failure::Handshake(HandshakeError::Tls(TlsError::AlertReceived(alert)))
                if is_about_certificate(*alert) =>
            {
                Self::Closed
            }
            Failure::Handshake(_) => Self::Tls,
        }
    }

    pub(super) fn counter(self, counters: &DoorCounters) -> &Counter {
        match self {
            Self::Certificate => &counters.handshakes_failed_certificate,
            Self::Tls => &counters.handshakes_failed_tls,
            Self::Closed => &counters.handshakes_failed_closed,
            Self::Timeout => &counters.handshakes_failed_timeout,
            Self::Io => &counters.handshakes_failed_io,
        }
    }

    /// What to do about it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Certificate => {
                "the peer needs a certificate of this network (amop pki show shows one), and both clocks must be right"
            }
            Self::Tls => "see that the peer speaks TLS of a version in [tls] of config.ini",
            Self::Closed => "see the peer's log; it may not accept this node's certificate",
            Self::Timeout | Self::Io => "see whether the peer runs, and the network between",
        }
    }
}

/// Whether a peer says by it that it does not accept our certificate.
fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
    )
}

/// One limit for each kind of line.
pub(super) struct Logs {
    pub(super) handshake_failed: LogLimit,
    pub(super) too_many_handshakes: LogLimit,
    pub(super) not_accepted: LogLimit,
    pub(super) not_let_in: LogLimit,
    pub(super) link_lost: LogLimit,
    pub(super) dialed: LogLimit,
    pub(super) not_reached: LogLimit,
    pub(super) not_there_yet: LogLimit,
    pub(super) disconnected: LogLimit,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            handshake_failed: LogLimit::new("failed handshakes"),
            too_many_handshakes: LogLimit::new("too many handshakes"),
            not_accepted: LogLimit::new("connections not accepted"),
            not_let_in: LogLimit::new("applications and nodes not let in"),
            dialed: LogLimit::new("nodes dialled"),
            not_there_yet: LogLimit::new("nodes that are not there yet"),
            not_reached: LogLimit::new("nodes not reached"),
            disconnected: LogLimit::new("nodes whose links are closed"),
            link_lost: LogLimit::new("links lost for want of file descriptors"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_about_our_certificate_sends_to_the_peers_log_and_another_to_the_versions() {
        let remedy = |alert| {
            let failure = Failure::Handshake(HandshakeError::Tls(TlsError::AlertReceived(alert)));
            FailureClass::of(&failure).remedy()
        };
        assert!(remedy(AlertDescription::BadCertificate).contains("this node's certificate"));
        assert!(remedy(AlertDescription::UnknownCA).contains("this node's certificate"));
        assert!(remedy(AlertDescription::ProtocolVersion).contains("[tls]"));
    }
}
