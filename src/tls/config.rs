//! rustls' configurations for our two kinds of link, in both roles.

use std::sync::Arc;

use rustls::{
    ClientConfig, NamedGroup, ProtocolVersion, ServerConfig, SignatureAlgorithm, SupportedCipherSuite,
    SupportedProtocolVersion,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, SupportedKxGroup},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    identity::{Identity, Roots},
    presented::Presented,
    settings::TlsSettings,
    verify::{IssuerPolicy, Verifier},
};

/// Settings that do not go together, or not with the key; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// TLS 1.3 alone, with a key that it has no signatures for.
    #[error("TLS 1.3 has no secp256k1, which the certificate's key is of; allow version 1.2 as well")]
    NoVersion,
    /// No cipher suite of the versions in question that the key can sign for.
    #[error("none of the cipher suites goes with these versions and the certificate's {0} key")]
    NoCipherSuite(&'static str),
    /// rustls' reason.
    #[error("these TLS versions, cipher suites and groups do not go together: {0}")]
    Tls(#[from] rustls::Error),
}

/// Whether TLS 1.3 is among the settings and left out for this identity: it binds each signature scheme
/// to one curve and has none for secp256k1, so that a handshake that settled on it could not succeed.
pub fn leaves_out_tls13(identity: &Identity, settings: &TlsSettings) -> bool {
    identity.is_secp256k1()
        && settings.versions.iter().any(|version| version.version == ProtocolVersion::TLSv1_3)
}

/// The versions that the identity's key can be proven with.
fn versions(
    identity: &Identity,
    settings: &TlsSettings,
) -> Result<Vec<&'static SupportedProtocolVersion>, ConfigError> {
    let mut versions = settings.versions.clone();
    if leaves_out_tls13(identity, settings) {
        versions.retain(|version| version.version != ProtocolVersion::TLSv1_3);
    }
    if versions.is_empty() { Err(ConfigError::NoVersion) } else { Ok(versions) }
}

fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: settings.cipher_suites.clone(),
        kx_groups: settings.groups.clone(),
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

/// The policy that a peer's certificate must have the same issuer as ours.
pub fn same_issuer(identity: &Identity, also_version_1: bool) -> IssuerPolicy {
    IssuerPolicy { like: Some(identity.leaf().clone()), also_version_1 }
}

/// How links that come in are served.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// The same without X25519, where P-256 is left.
    without_x25519: Option<Arc<ServerConfig>>,
}

impl ServerTls {
    /// The configuration for a peer that offers X25519 and `has_alternative`, P-256. X25519 is left out for it: the
    /// OpenSSL that the Java SDK brings along has SM2 under that number, and offers it first.
    pub fn serving(&self, has_alternative: bool) -> Arc<ServerConfig> {
        self.without_x25519.as_ref().filter(|_| has_alternative).unwrap_or(&self.config).clone()
    }
}

/// For links that come in: a certificate is demanded, nothing is resumed.
pub fn server_config(
    identity: &Identity,
    roots: &Roots,
    settings: &TlsSettings,
    policy: IssuerPolicy,
) -> Result<ServerTls, ConfigError> {
    let is = |name: NamedGroup| move |group: &&dyn SupportedKxGroup| group.name() == name;
    let mut others = settings.clone();
    others.groups.retain(|group| group.name() != NamedGroup::X25519);
    let has_both = settings.groups.iter().any(is(NamedGroup::X25519))
        && others.groups.iter().any(is(NamedGroup::secp256r1));
    let config = one_server_config(identity, roots, settings, policy.clone())?;
    let without_x25519 = has_both.then(|| one_server_config(identity, roots, &others, policy)).transpose()?;
    Ok(ServerTls { config, without_x25519 })
}

fn one_server_config(
    identity: &Identity,
    roots: &Roots,
    settings: &TlsSettings,
    policy: IssuerPolicy,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let versions = versions(identity, settings)?;
    // In TLS 1.2 a suite names the kind of the server's key; as a client any key will do.
    let algorithm = identity.key.algorithm();
    let usable = |suite: &SupportedCipherSuite| {
        versions.contains(&suite.version()) && suite.usable_for_signature_algorithm(algorithm)
    };
    if !settings.cipher_suites.iter().any(usable) {
        let is_rsa = algorithm == SignatureAlgorithm::RSA;
        return Err(ConfigError::NoCipherSuite(if is_rsa { "RSA" } else { "ECDSA" }));
    }
    let mut config = ServerConfig::builder_with_provider(provider(settings))
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(Verifier::new(roots, &identity.chain[1..], policy))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(identity))));
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For links that we dial: no server name is sent, nothing is resumed.
pub fn client_config(
    identity: &Identity,
    roots: &Roots,
    settings: &TlsSettings,
) -> Result<Arc<ClientConfig>, ConfigError> {
    client_with(identity, settings, client_verifier(identity, roots))
}

/// The same, for one handshake whose other end is to be shown to people.
pub fn showing_client_config(
    identity: &Identity,
    roots: &Roots,
    settings: &TlsSettings,
) -> Result<(Arc<ClientConfig>, Arc<Presented>), ConfigError> {
    let presented = Presented::to(client_verifier(identity, roots), identity.leaf().clone());
    Ok((client_with(identity, settings, presented.clone())?, presented))
}

fn client_verifier(identity: &Identity, roots: &Roots) -> Arc<Verifier> {
    Verifier::new(roots, &identity.chain[1..], IssuerPolicy::default())
}

fn client_with(
    identity: &Identity,
    settings: &TlsSettings,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let versions = versions(identity, settings)?;
    let mut config = ClientConfig::builder_with_provider(provider(settings))
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(identity))));
    config.enable_secret_extraction = true;
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn certified(identity: &Identity) -> CertifiedKey {
    CertifiedKey::new(identity.chain.clone(), identity.key.clone())
}
