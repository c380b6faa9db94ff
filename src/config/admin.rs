//! `[admin]`: where an operator may look at the node, and who may over the network.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use super::ini::Ini;
use crate::admin::{AccessFiles, SOCKET_PATH_LEN_MAX, SocketFile};

/// What the section says.
pub(super) struct AdminSection {
    pub(super) listen: Option<(IpAddr, u16)>,
    pub(super) socket: Option<SocketFile>,
    pub(super) access: AccessFiles,
    pub(super) announces: bool,
}

impl AdminSection {
    /// Reads it. Relative paths begin at the file's directory.
    pub(super) fn read(ini: &mut Ini, directory: &Path) -> Self {
        let ip = ini.address("admin", "listen_ip", "127.0.0.1");
        let ip = ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = ini.optional("admin", "listen_port", "a number from 0 to 65535", |text| text.parse().ok());
        let mode = ini.parsed("admin", "listen_mode", 0o600, "0600 or 0660", |text| match text {
            "0600" | "600" => Some(0o600),
            "0660" | "660" => Some(0o660),
            _ => None,
        });
        let path =
            ini.has("admin", "listen_path").then(|| directory.join(ini.text("admin", "listen_path", "")));
        let path_len = path.as_ref().map_or(0, |path| path.as_os_str().as_bytes().len());
        if path_len > SOCKET_PATH_LEN_MAX {
            let must_be = format!(
                "a path of at most {SOCKET_PATH_LEN_MAX} bytes, which a Unix socket may have; with the directory of the configuration it has {path_len}"
            );
            ini.refuse("admin", "listen_path", &must_be);
        }
        let mut file = |key| ini.has("admin", key).then(|| directory.join(ini.text("admin", key, "")));
        let (token, certificate, key) = (file("token_file"), file("tls_cert"), file("tls_key"));
        if certificate.is_some() != key.is_some() {
            let (there, missing) =
                if key.is_some() { ("tls_key", "tls_cert") } else { ("tls_cert", "tls_key") };
            ini.fault("admin", there, &format!("needs [admin] {missing}, too"));
        }
        Self {
            listen: port.map(|port| (ip, port)),
            socket: path.map(|path| SocketFile { path, mode }),
            access: AccessFiles { token, tls: certificate.zip(key) },
            announces: ini.flag("admin", "announce", true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        let parsed = Config::parse(&format!("[admin]\n{text}"), Path::new("/node0"));
        parsed.map(|(config, _)| config).map_err(|all| all.into_iter().map(|one| one.text).collect())
    }

    #[test]
    fn a_socket_is_below_the_configurations_directory_with_a_mode_and_a_path_that_fits() {
        let socket = |text: &str| parse(text).unwrap().admin_socket;
        assert_eq!(socket(""), None);
        let expected = |path: &str, mode| Some(SocketFile { path: path.into(), mode });
        assert_eq!(socket("listen_path=admin.sock\n"), expected("/node0/admin.sock", 0o600));
        assert_eq!(socket("listen_path=/run/a\nlisten_mode=0660\n"), expected("/run/a", 0o660));
        let path = |len: usize| format!("listen_path={}\n", "x".repeat(len - "/node0/".len()));
        assert!(parse(&path(107)).is_ok());
        assert!(parse(&path(108)).unwrap_err()[0].contains("at most 107 bytes"));
        assert!(parse("listen_path=a\nlisten_mode=0666\n").unwrap_err()[0].contains("0600 or 0660"));
    }

    #[test]
    fn a_certificate_goes_with_its_key() {
        assert_eq!(parse("tls_cert=a\n").unwrap_err(), ["[admin] tls_cert needs [admin] tls_key, too"]);
        assert_eq!(parse("tls_key=a\n").unwrap_err(), ["[admin] tls_key needs [admin] tls_cert, too"]);
        let tls = parse("tls_cert=a\ntls_key=/b\n").unwrap().admin_access.tls;
        assert_eq!(tls, Some(("/node0/a".into(), "/b".into())));
    }
}
