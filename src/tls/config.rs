//! rustls' configurations for our two kinds of link, in both roles.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    identity::{Identity, Roots, parse},
    settings::TlsSettings,
    verify::{IssuerPolicy, Verifier},
};

/// Versions, suites and groups that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("these TLS versions, cipher suites and groups do not go together: {0}")]
pub struct ConfigError(#[from] rustls::Error);

fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: settings.cipher_suites.clone(),
        kx_groups: settings.groups.clone(),
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

/// The policy that a peer's certificate must have the same issuer as ours.
pub fn same_issuer(identity: &Identity, also_version_1: bool) -> IssuerPolicy {
    let issuer = parse(identity.leaf()).map(|leaf| leaf.issuer().as_raw().to_vec());
    IssuerPolicy { issuer, also_version_1 }
}

/// For links that come in: a certificate is demanded, nothing is resumed.
pub fn server_config(
    identity: &Identity,
    roots: &Roots,
    settings: &TlsSettings,
    policy: IssuerPolicy,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider(settings))
        .with_protocol_versions(&settings.versions)?
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
    let mut config = ClientConfig::builder_with_provider(provider(settings))
        .with_protocol_versions(&settings.versions)?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(roots, &identity.chain[1..], IssuerPolicy::default()))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(identity))));
    config.enable_secret_extraction = true;
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn certified(identity: &Identity) -> CertifiedKey {
    CertifiedKey::new(identity.chain.clone(), identity.key.clone())
}
