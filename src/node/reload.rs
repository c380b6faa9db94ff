//! Taking over a configuration that was read again while the node runs: all of what can change, or nothing.

use std::{sync::Arc, time::SystemTime};

use tracing::{error, info};

use super::{Credentials, Node, RenewError, StartError};
use crate::config::Config;

/// Why a node goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file lacks what the running one has.
    #[error("{}", .0.join("; "))]
    Lacking(Vec<String>),
    /// Its certificates cannot be taken.
    #[error("{0}")]
    Certificates(#[from] RenewError),
}

/// What a configuration that was taken over brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether the certificates, or the roots, are others than before.
    pub has_new_certificates: bool,
}

/// A configuration that was read again, and the certificates. Reading files may take long; the rest does not.
pub struct Reread {
    config: Config,
    credentials: Result<Credentials, StartError>,
}

impl Reread {
    /// Reads the certificates anew that a node runs with: from where it has them, and for the TLS that it speaks. Where
    /// others are, and what else is to be spoken, holds from the next start on.
    pub fn new(running: &Config, config: Config) -> Self {
        Self { credentials: Credentials::load(running), config }
    }
}

impl Node {
    /// Dials and lets in whom this configuration says from now on, and uses the certificates and roots as their files are now
    /// for new links; those that are there stay. A configuration that lacks what the running one has, or certificates that
    /// cannot be used, change nothing. The other keys hold from the next start on.
    pub fn reload(&mut self, read: Reread, now: SystemTime) -> Result<Reloaded, ReloadError> {
        let Reread { config: new, credentials } = read;
        let lacking = self.config.refuses_reload(&new);
        if !lacking.is_empty() {
            return Err(ReloadError::Lacking(lacking));
        }
        let credentials = credentials.map_err(RenewError::Unusable)?;
        self.credentials.accept(&credentials, &self.config, now)?;
        let has_new_certificates = !credentials.is_same(&self.credentials);
        if has_new_certificates {
            self.door.set_tls(credentials.tls.clone());
            self.certificates.store(Arc::new(credentials.ends()));
            self.credentials = credentials;
        }
        if new.membership != self.config.membership {
            self.set_membership(new.membership.clone());
        }
        self.config.take_over(new);
        Ok(Reloaded { has_new_certificates })
    }

    /// The same, for a file that was read on a signal: says what became of it.
    pub(super) fn end_reload(&mut self, read: std::io::Result<Option<Reread>>) {
        self.is_reload_refused = true;
        match read {
            Ok(Some(reread)) => self.reload_and_log(reread),
            // Whoever read it has said why.
            Ok(None) => {}
            Err(error) => {
                error!(%error, "reading the configuration again has failed; this is a fault of amop")
            }
        }
    }

    fn reload_and_log(&mut self, read: Reread) {
        let now = SystemTime::now();
        match self.reload(read, now) {
            Ok(Reloaded { has_new_certificates }) => {
                self.is_reload_refused = false;
                let membership = &self.config.membership;
                info!(
                    peers = membership.peers.len(),
                    blacklist = membership.admission.blacklist.len(),
                    whitelist = membership.admission.whitelist.len(),
                    certificates = if has_new_certificates { "new, for new links" } else { "as before" },
                    "configuration read again: [p2p] node.N, the lists and the certificates hold from now on, other keys from the next start",
                );
                if has_new_certificates {
                    self.credentials.log_findings(&self.config, now);
                }
            }
            Err(error) => {
                error!(%error, "configuration read again and not taken over: everything stays as it is");
            }
        }
    }
}
