//! Which files the node proves itself with, to nodes and to applications.

use std::path::{Path, PathBuf};

use super::ini::Ini;

/// A certificate with those above it, its key, and the roots that others' certificates must chain to.
#[derive(Clone)]
pub(super) struct CertificateFiles {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) roots: PathBuf,
}

impl CertificateFiles {
    /// Those of nodes. A chain of national cryptography has SM2 keys in the files that are named, and beside them a certificate
    /// with a secp256k1 key (INTEROP §4), by these names only in FISCO BCOS too.
    pub(super) fn of_nodes(ini: &mut Ini, security: &'static str, data: &Path, sm_crypto: bool) -> Self {
        let mut file = |key: &str, default: &str| data.join(ini.text(security, key, default));
        let named = Self {
            key: file("key", "node.key"),
            certificate: file("cert", "node.crt"),
            roots: file("ca_cert", "ca.crt"),
        };
        if sm_crypto { Self::in_directory(&data.join("origin_cert")) } else { named }
    }

    fn in_directory(directory: &Path) -> Self {
        Self {
            certificate: directory.join("node.crt"),
            key: directory.join("node.key"),
            roots: directory.join("ca.crt"),
        }
    }
}

/// What the node proves itself with to applications.
pub(super) struct ChannelCertificate {
    pub(super) files: CertificateFiles,
    /// Whether they hold RSA keys.
    pub(super) is_rsa: bool,
}

impl ChannelCertificate {
    /// Those that `[cert]` names, as FISCO BCOS 3.x does; else `channel_cert/` of the RSA profile of 2.x; else those of nodes.
    pub(super) fn read(
        ini: &mut Ini,
        directory: &Path,
        nodes: &CertificateFiles,
        rsa_crypto_channel: bool,
    ) -> Self {
        // All of them are read, so that a wrong name beside others is told from these.
        let names =
            [("ca_path", "conf/"), ("ca_cert", "ca.crt"), ("node_cert", "ssl.crt"), ("node_key", "ssl.key")];
        let is_3x = names.iter().any(|(key, _)| ini.has("cert", key));
        let [path, roots, certificate, key] = names.map(|(key, default)| ini.text("cert", key, default));
        if is_3x {
            if rsa_crypto_channel {
                ini.refuse(
                    "chain",
                    "rsa_crypto_channel",
                    "false where [cert] is there: a node has one certificate for applications, and both name one",
                );
            }
            let path = directory.join(path);
            let (certificate, key, roots) = (path.join(certificate), path.join(key), path.join(roots));
            return Self { files: CertificateFiles { certificate, key, roots }, is_rsa: true };
        }
        if rsa_crypto_channel {
            // By this name only, in FISCO BCOS too.
            let data = directory.join(ini.text("network_security", "data_path", "conf/"));
            return Self { files: CertificateFiles::in_directory(&data.join("channel_cert")), is_rsa: true };
        }
        Self { files: nodes.clone(), is_rsa: false }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use std::path::Path;

    fn config(text: &str) -> Config {
        let (config, warnings) = Config::parse(text, Path::new("/n")).unwrap();
        assert_eq!(warnings, [], "{text}");
        config
    }

    #[test]
    fn what_cert_names_is_for_applications_and_leaves_nodes_their_own_files() {
        let of_applications = |text: &str| {
            let config = config(text);
            assert!(config.rsa_channel && config.node_key == Path::new("/n/conf/node.key"), "{text}");
            [config.channel_certificate, config.channel_key, config.channel_roots]
        };
        let in_conf = ["ssl.crt", "ssl.key", "ca.crt"].map(|name| Path::new("/n/conf").join(name));
        // As build_chain.sh of 3.x writes it.
        let written =
            "[cert]\n    ca_path=./conf\n    ca_cert=ca.crt\n    node_key=ssl.key\n    node_cert=ssl.crt\n";
        assert_eq!(of_applications(written), in_conf.clone());
        assert_eq!(of_applications("[cert]\nnode_key=ssl.key\n"), in_conf);
        assert_eq!(
            of_applications("[cert]\nca_path=tls\nca_cert=/etc/r.crt\nnode_key=k\nnode_cert=c\n"),
            [Path::new("/n/tls/c"), Path::new("/n/tls/k"), Path::new("/etc/r.crt")]
        );
        let without = config("");
        assert!(!without.rsa_channel && without.channel_key == without.node_key);
    }

    #[test]
    fn two_certificates_for_applications_are_refused() {
        let text = "[chain]\nrsa_crypto_channel=true\n[cert]\nca_path=conf\n";
        let problems = Config::parse(text, Path::new(".")).unwrap_err();
        assert_eq!(
            problems[0].text,
            "[chain] rsa_crypto_channel = \"true\" must be false where [cert] is there: a node has one certificate for applications, and both name one"
        );
    }
}
