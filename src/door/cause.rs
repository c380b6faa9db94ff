//! Why a handshake failed, by what an operator can do about it.

use std::fmt;

use rustls::{
    AlertDescription as Alert, CertificateError, Error as TlsError, PeerIncompatible, PeerMisbehaved,
};

use super::{DoorCounters, Failure};
use crate::{
    relay::counters::Counter,
    tls::{
        handshake::{HandshakeError, Stranger},
        verify::Refusal,
    },
};

/// Who is at the other end, as far as it is known before the handshake is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// It connected to the port for applications.
    Application,
    /// It connected to the port for nodes.
    Node,
    /// We dialled it.
    Dialled,
    /// We dialled it, and it is a ledger node.
    Ledger,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "an application",
            Self::Node | Self::Dialled => "a node",
            Self::Ledger => "a ledger node",
        })
    }
}

const FAULT_REMEDY: &str = "report it, with the line of the panic before this one; see who sends this";

/// What made a handshake fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It closed before it sent a byte, as health checks do.
    Probe,
    /// It sent nothing for the time of a handshake.
    Silent,
    /// It speaks something else than TLS, or a TLS of its own.
    Stranger(Stranger),
    NoCommonVersion,
    NoCommonGroup,
    NoCommonCipherSuite,
    NoCommonSignature,
    NoCertificate,
    UnknownAuthority,
    Expired,
    NotYetValid,
    OtherIssuer,
    BadCertificate,
    /// It refused our certificate, or the like, and said so.
    OwnCertificateRefused,
    /// It gave up with another alert.
    Alert,
    /// It sent what makes no sense.
    Malformed,
    /// It closed in the middle.
    Closed,
    Timeout,
    Io,
    /// What it sent met a fault of amop, or of a library.
    Fault,
}

impl Cause {
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Probe => Self::Probe,
            Failure::Silent => Self::Silent,
            Failure::Timeout => Self::Timeout,
            Failure::Io(_) | Failure::GivenUp => Self::Io,
            Failure::Ourselves => Self::Stranger(Stranger::Other),
            Failure::Handshake(HandshakeError::Closed) => Self::Closed,
            Failure::Handshake(HandshakeError::NoCertificate) => Self::NoCertificate,
            Failure::Handshake(HandshakeError::Stranger(stranger)) => Self::Stranger(*stranger),
            Failure::Handshake(HandshakeError::OldVersion(_)) => Self::NoCommonVersion,
            Failure::Handshake(HandshakeError::TooLong) => Self::Malformed,
            Failure::Handshake(HandshakeError::Fault) => Self::Fault,
            Failure::Handshake(HandshakeError::Suite) => Self::NoCommonCipherSuite,
            // As the OpenSSL of FISCO BCOS 2.x offers it, by the numbers of TLS 1.2.
            Failure::Offers { offers, .. } if offers.has_national => Self::Stranger(Stranger::NationalTls),
            // It has no use for groups.
            Failure::Offers {
                error: HandshakeError::Tls(TlsError::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)),
                offers,
            } if !offers.has_ecdhe => Self::NoCommonCipherSuite,
            Failure::Handshake(HandshakeError::Tls(error))
            | Failure::Offers { error: HandshakeError::Tls(error), .. } => Self::of_tls(error),
            Failure::Offers { .. } => Self::Malformed,
        }
    }

    fn of_tls(error: &TlsError) -> Self {
        match error {
            TlsError::NoCertificatesPresented => Self::NoCertificate,
            TlsError::InvalidCertificate(error) => Self::of_certificate(error),
            TlsError::PeerIncompatible(error) => Self::of_offers(error),
            TlsError::AlertReceived(alert) => Self::of_alert(*alert),
            TlsError::PeerMisbehaved(
                PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme
                | PeerMisbehaved::SignedKxWithWrongAlgorithm,
            ) => Self::NoCommonSignature,
            _ => Self::Malformed,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::Other(other)
                if other.0.downcast_ref::<Refusal>() == Some(&Refusal::NotTheNodesIssuer) =>
            {
                Self::OtherIssuer
            }
            _ => Self::BadCertificate,
        }
    }

    fn of_offers(error: &PeerIncompatible) -> Self {
        use PeerIncompatible as Offers;
        match error {
            Offers::ServerDoesNotSupportTls12Or13
            | Offers::ServerTlsVersionIsDisabledByOurConfig
            | Offers::SupportedVersionsExtensionRequired
            | Offers::Tls12NotOffered
            | Offers::Tls12NotOfferedOrEnabled => Self::NoCommonVersion,
            Offers::NoKxGroupsInCommon
            | Offers::NamedGroupsExtensionRequired
            | Offers::KeyShareExtensionRequired
            | Offers::EcPointsExtensionRequired
            | Offers::NoEcPointFormatsInCommon
            | Offers::UncompressedEcPointsRequired => Self::NoCommonGroup,
            Offers::NoCipherSuitesInCommon => Self::NoCommonCipherSuite,
            Offers::NoSignatureSchemesInCommon
            | Offers::SignatureAlgorithmsExtensionRequired
            | Offers::NoCertificateRequestSignatureSchemesInCommon => Self::NoCommonSignature,
            _ => Self::Malformed,
        }
    }

    /// What the peer says of us.
    fn of_alert(alert: Alert) -> Self {
        match alert {
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::AccessDenied => Self::OwnCertificateRefused,
            Alert::ProtocolVersion => Self::NoCommonVersion,
            _ => Self::Alert,
        }
    }

    /// As it stands in the log, and in the names of the counters.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Silent => "silent",
            Self::Stranger(_) => "not_tls",
            Self::NoCommonVersion => "no_common_version",
            Self::NoCommonGroup => "no_common_group",
            Self::NoCommonCipherSuite => "no_common_cipher_suite",
            Self::NoCommonSignature => "no_common_signature",
            Self::NoCertificate => "no_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::OtherIssuer => "certificate_of_other_issuer",
            Self::BadCertificate => "bad_certificate",
            Self::OwnCertificateRefused => "own_certificate_refused",
            Self::Alert => "alert",
            Self::Malformed => "malformed",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Io => "io",
            Self::Fault => "fault",
        }
    }

    pub(super) fn counter(self, counters: &DoorCounters) -> &Counter {
        match self {
            Self::Probe => &counters.probes,
            Self::Silent => &counters.silent_connections,
            Self::Stranger(_) => &counters.handshakes_failed_not_tls,
            Self::NoCommonVersion => &counters.handshakes_failed_no_common_version,
            Self::NoCommonGroup => &counters.handshakes_failed_no_common_group,
            Self::NoCommonCipherSuite => &counters.handshakes_failed_no_common_cipher_suite,
            Self::NoCommonSignature => &counters.handshakes_failed_no_common_signature,
            Self::NoCertificate => &counters.handshakes_failed_no_certificate,
            Self::UnknownAuthority => &counters.handshakes_failed_unknown_authority,
            Self::Expired => &counters.handshakes_failed_certificate_expired,
            Self::NotYetValid => &counters.handshakes_failed_certificate_not_yet_valid,
            Self::OtherIssuer => &counters.handshakes_failed_certificate_of_other_issuer,
            Self::BadCertificate => &counters.handshakes_failed_bad_certificate,
            Self::OwnCertificateRefused => &counters.handshakes_failed_own_certificate_refused,
            Self::Alert => &counters.handshakes_failed_alert,
            Self::Malformed => &counters.handshakes_failed_malformed,
            Self::Closed => &counters.handshakes_failed_closed,
            Self::Timeout => &counters.handshakes_failed_timeout,
            Self::Io => &counters.handshakes_failed_io,
            Self::Fault => &counters.handshakes_failed_fault,
        }
    }

    /// Whether the peer's certificate is what is wrong.
    pub(super) fn is_about_certificate(self) -> bool {
        matches!(
            self,
            Self::NoCertificate
                | Self::UnknownAuthority
                | Self::Expired
                | Self::NotYetValid
                | Self::OtherIssuer
                | Self::BadCertificate
        )
    }

    /// Whether it is somebody who belongs here, most likely, and cannot come in until somebody does something.
    pub(super) fn needs_somebody(self) -> bool {
        self.is_about_certificate()
            || matches!(
                self,
                Self::NoCommonVersion
                    | Self::NoCommonGroup
                    | Self::NoCommonCipherSuite
                    | Self::NoCommonSignature
                    | Self::OwnCertificateRefused
            )
    }

    /// What to do about it.
    pub(super) fn remedy(self, peer: Peer) -> &'static str {
        if peer == Peer::Ledger {
            return self.remedy_of_ledger();
        }
        match self {
            Self::Stranger(stranger) if peer == Peer::Dialled && stranger != Stranger::NationalTls => {
                "no node answers at this address: let [p2p] node.N name the [p2p] listen_port of a node, or see what that node says \
                 of itself by [p2p] advertise"
            }
            Self::Probe => "nothing: health checks do this",
            Self::Silent => "see what connects and says nothing; a health check should close at once",
            Self::Stranger(Stranger::Http) => {
                "HTTP was sent to a port of TLS: for health checks and metrics use [admin] listen_port, for applications an SDK"
            }
            Self::Stranger(Stranger::Proxy) => {
                "a load balancer sends the PROXY protocol, which is not understood here: switch it off there (send-proxy)"
            }
            Self::Stranger(Stranger::Ssh) => "SSH was sent to this port: see who mistakes it",
            Self::Stranger(Stranger::PlainAmop) => {
                "an application speaks AMOP without TLS: give its SDK the certificates of this network"
            }
            Self::Stranger(Stranger::NationalTls) if peer == Peer::Application => {
                "the application speaks TLS of national cryptography (SM2, SM3, SM4), which is not there yet: give its SDK ca.crt, sdk.crt and sdk.key of \
                 nodes/…/sdk instead of the files in nodes/…/sdk/gm; contracts and keys of accounts stay SM"
            }
            Self::Stranger(Stranger::NationalTls) => {
                "the peer speaks TLS of national cryptography (SM2, SM3, SM4), which is not there yet: nodes of this kind link by conf/origin_cert, \
                 and a FISCO BCOS node with such certificates cannot be linked"
            }
            Self::Stranger(Stranger::Ssl2) => {
                "the peer speaks SSL 2.0, which is broken: renew its TLS library"
            }
            Self::Stranger(Stranger::Other) => "the peer speaks no TLS: see what connects to this port",
            Self::NoCommonVersion => {
                "the peer speaks no TLS version of [tls] channel_versions (p2p_versions for nodes): let it offer TLS 1.2"
            }
            Self::NoCommonGroup => {
                "the peer offers no group of [tls] channel_groups (p2p_groups for nodes): let it offer one of them, such as P-256 or secp256k1"
            }
            Self::NoCommonCipherSuite => {
                "the peer offers no cipher suite that goes with this node's key and [tls] channel_cipher_suites (p2p_cipher_suites for nodes): \
                 let it offer ECDHE with AES-GCM, or see whether [chain] rsa_crypto_channel is what the application expects"
            }
            Self::NoCommonSignature => {
                "the peer and this node have no kind of signature in common: let it offer SHA-256 with RSA and ECDSA, or see whether [chain] \
                 rsa_crypto_channel is what the application expects"
            }
            Self::NoCertificate if peer != Peer::Application => {
                "the peer sent no certificate: give that node the node.crt and node.key of this network (amop pki makes them), or see \
                 what else connects to this port"
            }
            Self::NoCertificate => {
                "the peer sent no certificate: give the application the sdk.crt and sdk.key of this network (amop pki makes them)"
            }
            Self::UnknownAuthority => {
                "the peer's certificate is of another authority than the ca.crt here: give it one of this network, and see that it sends those \
                 between too (amop pki show shows a chain)"
            }
            Self::Expired => {
                "the peer's certificate, or one above it, has expired: renew it; and see that this machine's clock is right"
            }
            Self::NotYetValid => "the peer's certificate is not valid yet: see that both clocks are right",
            Self::OtherIssuer => {
                "the application's certificate is of another agency: give it one of this node's, or set [network_security] check_cert_issuer=false"
            }
            Self::BadCertificate => {
                "the peer's certificate is malformed, wrongly signed or for another purpose: make it anew (amop pki show shows it)"
            }
            Self::OwnCertificateRefused => {
                "the peer does not accept this node's certificate: see its log, and that its ca.crt is of this network"
            }
            Self::Alert => {
                "the peer gave up: see its log, and whether it offers what [tls] of config.ini allows"
            }
            Self::Malformed => "see what TLS library the peer uses; something on the way may change bytes",
            Self::Closed => "see the peer's log; it may not accept this node's certificate",
            Self::Timeout | Self::Io => "see whether the peer runs, and the network between",
            Self::Fault => FAULT_REMEDY,
        }
    }
}

impl Cause {
    /// What to do about it, of a ledger node that we dialled.
    fn remedy_of_ledger(self) -> &'static str {
        match self {
            Self::Stranger(Stranger::NationalTls) => {
                "the ledger node speaks TLS of national cryptography, which is not there yet: set [chain] sm_crypto_channel=false there"
            }
            Self::Stranger(_) | Self::Malformed => {
                "no channel of a ledger node answers at this address: let [ledger] node.N name its [rpc] channel_listen_port, not the port \
                 of JSON-RPC over HTTP or of p2p"
            }
            Self::UnknownAuthority | Self::BadCertificate | Self::NoCertificate | Self::OtherIssuer => {
                "the ledger node's certificate is not of the ca.crt in [ledger] certificates: take ca.crt, sdk.crt and sdk.key from nodes/…/sdk \
                 of that chain; see too whether [rpc] channel_listen_port is meant and not [p2p] listen_port, and [chain] rsa_crypto_channel there"
            }
            Self::OwnCertificateRefused
            | Self::Alert
            | Self::NoCommonSignature
            | Self::NoCommonCipherSuite => {
                "the ledger node does not take sdk.crt of [ledger] certificates: see its log; it must be of that chain and agency \
                 ([network_security] check_cert_issuer there), and RSA or EC as [chain] rsa_crypto_channel says there"
            }
            Self::Expired => {
                "the ledger node's certificate has expired: renew it; and see that this machine's clock is right"
            }
            Self::NotYetValid => {
                "the ledger node's certificate is not valid yet: see that both clocks are right"
            }
            Self::NoCommonVersion | Self::NoCommonGroup => {
                "the ledger node speaks no TLS 1.2 with P-256, P-384 or secp256k1: see what it is"
            }
            Self::Closed => {
                "the ledger node broke off: see its log; it may not take sdk.crt of [ledger] certificates, or the port is that of p2p"
            }
            Self::Probe | Self::Silent | Self::Timeout | Self::Io => {
                "see whether the ledger node runs, and the network between"
            }
            Self::Fault => FAULT_REMEDY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::handshake::Offers;

    #[test]
    fn an_alert_about_our_certificate_sends_to_the_peers_log_and_one_about_versions_to_the_settings() {
        let remedy = |alert| {
            let failure = Failure::Handshake(HandshakeError::Tls(TlsError::AlertReceived(alert)));
            Cause::of(&failure).remedy(Peer::Application)
        };
        assert!(remedy(Alert::BadCertificate).contains("this node's certificate"));
        assert!(remedy(Alert::UnknownCA).contains("this node's certificate"));
        assert!(remedy(Alert::ProtocolVersion).contains("[tls]"));
        assert!(remedy(Alert::HandshakeFailure).contains("[tls]"));
    }

    #[test]
    fn whoever_dialled_a_stranger_is_sent_to_its_own_configuration() {
        for stranger in [
            Stranger::Http,
            Stranger::Proxy,
            Stranger::Ssh,
            Stranger::PlainAmop,
            Stranger::Ssl2,
            Stranger::Other,
        ] {
            let cause = Cause::Stranger(stranger);
            assert!(cause.remedy(Peer::Dialled).contains("[p2p] node.N"), "{stranger}");
            assert!(!cause.remedy(Peer::Node).contains("node.N"), "{stranger}");
        }
    }

    #[test]
    fn only_applications_are_sent_for_the_certificate_of_an_sdk() {
        assert!(Cause::NoCertificate.remedy(Peer::Application).contains("sdk.crt"));
        for peer in [Peer::Node, Peer::Dialled] {
            let remedy = Cause::NoCertificate.remedy(peer);
            assert!(remedy.contains("node.crt") && !remedy.contains("sdk"), "{remedy}");
        }
    }

    #[test]
    fn a_client_without_cipher_suites_for_groups_is_not_sent_for_a_group() {
        use rustls::{CipherSuite, NamedGroup};
        let cause = |suite| {
            let offers = Offers {
                groups: vec![NamedGroup::X25519],
                cipher_suites: vec![suite],
                has_national: false,
                has_ecdhe: suite == CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            };
            let error = HandshakeError::Tls(PeerIncompatible::NoKxGroupsInCommon.into());
            Cause::of(&Failure::Offers { error, offers })
        };
        assert_eq!(cause(CipherSuite::TLS_RSA_WITH_AES_128_GCM_SHA256), Cause::NoCommonCipherSuite);
        assert_eq!(cause(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), Cause::NoCommonGroup);
    }
}
