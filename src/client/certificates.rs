//! Certificates from a directory, as the Java SDK finds them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::ClientConfig;

use crate::{
    escape::shown_path,
    tls::{
        config::{ConfigError, client_config, showing_client_config},
        identity::{Identity, IdentityError, Roots},
        presented::Presented,
        settings::TlsSettings,
    },
};

/// Why a directory of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The three files are not there.
    #[error("{} holds no ca.crt, sdk.crt and sdk.key; give the directory that does, such as nodes/127.0.0.1/sdk", shown_path(.0))]
    Missing(PathBuf),
    /// One of them cannot be used.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// TLS refuses them.
    #[error("{0}")]
    Tls(#[from] ConfigError),
}

/// An application's certificate, key and roots.
#[derive(Clone)]
pub struct Certificates(Arc<Loaded>);

struct Loaded {
    identity: Identity,
    roots: Roots,
    config: Arc<ClientConfig>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl Certificates {
    /// Reads `ca.crt`, `sdk.crt` and `sdk.key` from `dir`, or from `sdk` or `conf` in it.
    pub fn load(dir: &Path) -> Result<Self, CertificatesError> {
        let found = ["", "sdk", "conf"]
            .into_iter()
            .map(|sub| dir.join(sub))
            .find(|dir| ["ca.crt", "sdk.crt", "sdk.key"].iter().all(|file| dir.join(file).is_file()))
            .ok_or_else(|| CertificatesError::Missing(dir.to_owned()))?;
        let identity = Identity::load(&found.join("sdk.crt"), &found.join("sdk.key"))?;
        let roots = Roots::load(&found.join("ca.crt"))?;
        let config = client_config(&identity, &roots, &TlsSettings::default())?;
        Ok(Self(Arc::new(Loaded { identity, roots, config })))
    }

    /// What rustls makes connections of.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.0.config.clone()
    }

    /// The same for one connection, which keeps what the node shows.
    pub(super) fn showing(&self) -> Result<(Arc<ClientConfig>, Arc<Presented>), ConfigError> {
        showing_client_config(&self.0.identity, &self.0.roots, &TlsSettings::default())
    }

    /// What a node is shown, and what it is judged by.
    pub(super) fn own(&self) -> (&Identity, &Roots) {
        (&self.0.identity, &self.0.roots)
    }
}
