//! Certificates from a directory, as the Java SDK finds them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::ClientConfig;

use crate::{
    escape::shown_path,
    tls::{
        config::{ConfigError, client_config},
        identity::{Identity, IdentityError, Roots},
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
pub struct Certificates(Arc<ClientConfig>);

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
        Ok(Self(client_config(&identity, &roots, &TlsSettings::default())?))
    }

    /// What rustls makes connections of.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}
