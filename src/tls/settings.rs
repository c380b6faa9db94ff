//! Which versions, cipher suites and groups a kind of link may use.

use rustls::{SupportedCipherSuite, SupportedProtocolVersion, crypto::SupportedKxGroup};

use super::secp256k1::KeyExchangeGroup;

/// Choices for one kind of link, best first.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    pub(crate) cipher_suites: Vec<SupportedCipherSuite>,
    pub(crate) groups: Vec<&'static dyn SupportedKxGroup>,
}

/// A name that is not among the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a {what}; the choices are {choices}")]
pub struct UnknownName {
    /// What was written.
    pub name: String,
    /// What it should have been the name of.
    pub what: &'static str,
    /// All names, joined by commas.
    pub choices: String,
}

const VERSIONS: &[(&str, &SupportedProtocolVersion)] =
    &[("1.2", &rustls::version::TLS12), ("1.3", &rustls::version::TLS13)];

fn cipher_suites() -> Vec<(&'static str, SupportedCipherSuite)> {
    use rustls::crypto::aws_lc_rs::cipher_suite as suite;
    vec![
        ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
        ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
        ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
        ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    ]
}

fn groups() -> Vec<(&'static str, &'static dyn SupportedKxGroup)> {
    use rustls::crypto::aws_lc_rs::kx_group;
    vec![
        ("X25519", kx_group::X25519),
        ("P-256", kx_group::SECP256R1),
        ("P-384", kx_group::SECP384R1),
        ("secp256k1", &KeyExchangeGroup),
    ]
}

impl Default for TlsSettings {
    /// TLS 1.2 with every suite and group: what FISCO BCOS' nodes and SDKs accept. TLS 1.3 is left out
    /// because several of them offer it together with secp256k1 as their only group, which it lacks.
    fn default() -> Self {
        Self {
            versions: vec![&rustls::version::TLS12],
            cipher_suites: cipher_suites().into_iter().map(|(_, suite)| suite).collect(),
            groups: groups().into_iter().map(|(_, group)| group).collect(),
        }
    }
}

impl TlsSettings {
    /// As an application speaks to a node of FISCO BCOS 2.x: the OpenSSL there has SM2 under the number of X25519.
    pub fn of_ledger_nodes() -> Self {
        let mut settings = Self::default();
        settings.groups.retain(|group| group.name() != rustls::NamedGroup::X25519);
        settings
    }

    /// Settings by name; an empty list stands for the default.
    pub fn from_names(
        versions: &[String],
        cipher_suite_names: &[String],
        group_names: &[String],
    ) -> Result<Self, UnknownName> {
        let default = Self::default();
        let versions = find("TLS version", versions, VERSIONS)?;
        let suites = find("cipher suite", cipher_suite_names, &cipher_suites())?;
        let groups = find("group", group_names, &groups())?;
        Ok(Self {
            versions: if versions.is_empty() { default.versions } else { versions },
            cipher_suites: if suites.is_empty() { default.cipher_suites } else { suites },
            groups: if groups.is_empty() { default.groups } else { groups },
        })
    }
}

fn find<T: Copy>(
    what: &'static str,
    names: &[String],
    choices: &[(&'static str, T)],
) -> Result<Vec<T>, UnknownName> {
    let one = |name: &String| {
        choices
            .iter()
            .find(|(choice, _)| choice.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
            .ok_or_else(|| UnknownName {
                name: name.clone(),
                what,
                choices: choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", "),
            })
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_choices() {
        let error = TlsSettings::from_names(&[], &[], &["brainpool".to_owned()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"brainpool\" is not a group; the choices are X25519, P-256, P-384, secp256k1"
        );
        assert!(TlsSettings::from_names(&["1.3".to_owned()], &[], &["p-256".to_owned()]).is_ok());
    }
}
