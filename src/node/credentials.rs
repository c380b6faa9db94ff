//! A node's certificates, keys and roots: read at the start and again on SIGHUP, and looked at for what is wrong with them.

use std::{path::Path, time::SystemTime};

use tracing::{error, warn};

use super::StartError;
use crate::{
    config::Config,
    door::{
        DoorTls,
        probe::{LedgerProbe, PeerProbe},
    },
    escape::shown_path,
    relay::signing::NodeSigner,
    tls::{
        config::{client_config, leaves_out_tls13, same_issuer, server_config, showing_client_config},
        identity::{Identity, IdentityError, Roots},
        settings::TlsSettings,
        validity::{CertificateEnds, CertificateFault},
        verify::IssuerPolicy,
    },
};

/// Something about a configuration that its operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the node cannot be used with it; else it can, but probably not as it is meant.
    pub is_error: bool,
    /// What it is, and what to do.
    pub text: String,
}

impl Finding {
    pub(super) fn error(text: impl ToString) -> Self {
        Self { is_error: true, text: text.to_string() }
    }

    pub(super) fn warning(text: impl ToString) -> Self {
        Self { is_error: false, text: text.to_string() }
    }
}

/// Why renewed certificates cannot be taken while the node runs.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// They cannot be used at all.
    #[error("{0}")]
    Unusable(#[from] StartError),
    /// The node would be another one.
    #[error(
        "the certificate is for another key, and so for another node ({new} instead of {old}): put the old key back, or restart"
    )]
    AnotherNode {
        /// Who it was.
        old: String,
        /// Who it would be.
        new: String,
    },
    /// Others would refuse them.
    #[error("{0}")]
    Refused(String),
}

/// What a node proves itself with, and whom it trusts.
pub struct Credentials {
    pub(super) identity: Identity,
    roots: Roots,
    channel_identity: Identity,
    channel_roots: Roots,
    /// Signs what the node says of itself.
    pub(super) signer: NodeSigner,
    /// What ledger nodes are reached with, if there are any.
    ledger: Option<(Identity, Roots)>,
    /// What handshakes are made with.
    pub(super) tls: DoorTls,
}

/// Reads `ca.crt`, `sdk.crt` and `sdk.key` of `[ledger] certificates`.
fn load_ledger(config: &Config) -> Result<Option<(Identity, Roots)>, StartError> {
    let Some(ledger) = &config.ledger else { return Ok(None) };
    let file = |name: &str| ledger.certificates.join(name);
    let of_ledger = |source| StartError::Ledger { directory: ledger.certificates.clone(), source };
    let identity = Identity::load(&file("sdk.crt"), &file("sdk.key")).map_err(of_ledger)?;
    let roots = Roots::load(&file("ca.crt")).map_err(of_ledger)?;
    Ok(Some((identity, roots)))
}

impl Credentials {
    /// Reads the files that the configuration names.
    pub fn load(config: &Config) -> Result<Self, StartError> {
        let of_node = |error| match error {
            // What is encrypted there is no PEM, and no PEM with a password.
            IdentityError::Key(path) if config.storage_security => StartError::EncryptedOnDisk(path),
            error => error.into(),
        };
        let of_chain = |error| match error {
            error @ (IdentityError::Read { .. } | IdentityError::NationalCryptography(_))
                if config.sm_crypto =>
            {
                StartError::OriginCertificate { source: error }
            }
            error => of_node(error),
        };
        let identity = Identity::load(&config.node_certificate, &config.node_key).map_err(of_chain)?;
        let roots = Roots::load(&config.node_roots).map_err(of_chain)?;
        let signer = identity
            .secp256k1_secret()
            .and_then(|secret| NodeSigner::from_secret_bytes(&secret))
            .ok_or_else(|| IdentityError::NotANode(config.node_key.clone()))?;
        let channel_identity =
            Identity::load(&config.channel_certificate, &config.channel_key).map_err(of_node)?;
        let channel_roots = Roots::load(&config.channel_roots)?;
        let policy = if config.check_cert_issuer {
            same_issuer(&channel_identity, config.check_v1_issuer)
        } else {
            IssuerPolicy::default()
        };
        let refused = |link: &'static str| move |source| StartError::Tls { link, source };
        let ledger = load_ledger(config)?;
        let ledger_tls = ledger.as_ref().map(|(identity, roots)| {
            client_config(identity, roots, &TlsSettings::of_ledger_nodes()).map_err(refused("ledger"))
        });
        let tls = DoorTls {
            ledger: ledger_tls.transpose()?,
            channel: server_config(&channel_identity, &channel_roots, &config.channel_tls, policy)
                .map_err(refused("channel"))?,
            p2p_server: server_config(&identity, &roots, &config.p2p_tls, IssuerPolicy::default())
                .map_err(refused("p2p"))?,
            p2p_client: client_config(&identity, &roots, &config.p2p_tls).map_err(refused("p2p"))?,
        };
        Ok(Self { identity, roots, channel_identity, channel_roots, signer, ledger, tls })
    }

    /// What ledger nodes are asked with, before the node runs; `None` if there are none.
    pub(super) fn ledger_probe(&self) -> Option<LedgerProbe<'_>> {
        let (identity, roots) = self.ledger.as_ref()?;
        let (tls, presented) =
            showing_client_config(identity, roots, &TlsSettings::of_ledger_nodes()).ok()?;
        Some(LedgerProbe { tls, presented, identity, roots })
    }

    /// What nodes of `[p2p]` are looked at with, before the node runs.
    pub(super) fn peer_probe(&self, config: &Config) -> Option<PeerProbe> {
        let (tls, presented) = showing_client_config(&self.identity, &self.roots, &config.p2p_tls).ok()?;
        Some(PeerProbe { tls, presented })
    }

    /// Whether others may take the place of these while the node runs.
    pub fn accept(&self, new: &Self, config: &Config, now: SystemTime) -> Result<(), RenewError> {
        let (old_id, new_id) = (self.signer.id(), new.signer.id());
        if old_id != new_id {
            return Err(RenewError::AnotherNode { old: old_id.to_hex(), new: new_id.to_hex() });
        }
        // Those that are there are kept, whatever has become of them since.
        if new.is_same(self) {
            return Ok(());
        }
        match new.findings(config, now).into_iter().find(|finding| finding.is_error) {
            Some(error) => Err(RenewError::Refused(error.text)),
            None => Ok(()),
        }
    }

    /// Whether all files hold what those of the other one held.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identity.is_same(&other.identity)
            && self.roots.is_same(&other.roots)
            && self.channel_identity.is_same(&other.channel_identity)
            && self.channel_roots.is_same(&other.channel_roots)
            && match (&self.ledger, &other.ledger) {
                (Some(one), Some(other)) => one.0.is_same(&other.0) && one.1.is_same(&other.1),
                (one, other) => one.is_none() == other.is_none(),
            }
    }

    /// What is wrong with them at that time.
    pub fn findings(&self, config: &Config, now: SystemTime) -> Vec<Finding> {
        let mut findings = Vec::new();
        let node = ("the node's certificate", config.node_certificate.as_path(), config.node_roots.as_path());
        let channel = (
            "the channel's certificate",
            config.channel_certificate.as_path(),
            config.channel_roots.as_path(),
        );
        let mut look =
            |(what, file, roots_file): (&str, &Path, &Path), identity: &Identity, roots: &Roots| {
                let at = |fault: CertificateFault| Finding {
                    is_error: fault.is_error(),
                    text: format!("{}: {what} {fault} (roots: {})", shown_path(file), shown_path(roots_file)),
                };
                findings.extend(identity.faults(roots, now).into_iter().map(at));
                // One of several may be on its way out; whether it is needed shows above.
                let root = |fault| Finding::warning(format!("{}: a root {fault}", shown_path(roots_file)));
                findings.extend(roots.faults(now).into_iter().map(root));
            };
        look(node, &self.identity, &self.roots);
        if config.channel_certificate != config.node_certificate {
            look(channel, &self.channel_identity, &self.channel_roots);
        }
        if let (Some((identity, roots)), Some(ledger)) = (&self.ledger, &config.ledger) {
            let (certificate, roots_file) =
                (ledger.certificates.join("sdk.crt"), ledger.certificates.join("ca.crt"));
            look(("the certificate for ledger nodes", &certificate, &roots_file), identity, roots);
        }
        for (link, identity, settings) in [
            ("channel", &self.channel_identity, &config.channel_tls),
            ("p2p", &self.identity, &config.p2p_tls),
        ] {
            if leaves_out_tls13(identity, settings) {
                findings.push(Finding::warning(format!(
                    "[tls] {link}_versions: 1.3 is left out, for it has no secp256k1, which this key is of"
                )));
            }
        }
        let lists = &config.membership.admission;
        if config.sm_crypto && !(lists.whitelist.is_empty() && lists.blacklist.is_empty()) {
            findings.push(Finding::warning(
                "[certificate_whitelist], [certificate_blacklist] of a chain with [chain] sm_crypto=true: nodes of this kind go by the secp256k1 keys \
                 in their conf/origin_cert, not by the SM2 keys that FISCO BCOS' lists name: see that the lists hold those (amop pki show)",
            ));
        }
        if config.storage_security {
            findings.push(Finding::warning(
                "[storage_security] enable=true has no effect: the node's key is read as it lies there, unencrypted",
            ));
        }
        findings
    }

    /// Logs what is wrong with them.
    pub fn log_findings(&self, config: &Config, now: SystemTime) {
        for finding in self.findings(config, now) {
            if finding.is_error {
                error!("{}", finding.text);
            } else {
                warn!("{}", finding.text);
            }
        }
    }

    /// When each kind of certificate ends, in seconds since 1970: the first of them, where there are several.
    pub fn ends(&self) -> CertificateEnds {
        let ends = [
            ("node_certificate", self.identity.not_after()),
            ("node_chain", self.identity.chain_not_after()),
            ("node_roots", self.roots.not_after()),
            ("channel_certificate", self.channel_identity.not_after()),
            ("channel_chain", self.channel_identity.chain_not_after()),
            ("channel_roots", self.channel_roots.not_after()),
            ("ledger_certificate", self.ledger.as_ref().and_then(|(identity, _)| identity.not_after())),
            ("ledger_roots", self.ledger.as_ref().and_then(|(_, roots)| roots.not_after())),
        ];
        ends.into_iter().filter_map(|(certificate, end)| Some((certificate, end?))).collect()
    }
}
