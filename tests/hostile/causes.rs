//! Handshakes that fail: the log and the figures name the cause, and what to do.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use amop::internal::{
    pki::{Authority, Issued, KeyType, Profile, Validity, write_pair},
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
    },
};
use rustls::ClientConfig;

use crate::support::{
    NoCertificate, RawSdk, application_config, host_dir, network_files, process::Process, wait_until,
};

/// What somebody tries at a port.
enum Attempt {
    /// A handshake with this.
    Handshake(Arc<ClientConfig>),
    /// These bytes.
    Bytes(Vec<u8>),
}

fn settings(suites: &[&str], groups: &[&str]) -> TlsSettings {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    TlsSettings::from_names(&[], &owned(suites), &owned(groups)).unwrap()
}

fn config_of(dir: &Path, name: &str, settings: &TlsSettings) -> Arc<ClientConfig> {
    let identity =
        Identity::load(&dir.join(format!("{name}.crt")), &dir.join(format!("{name}.key"))).unwrap();
    let roots = Roots::load(&network_files(Profile::Ec).join("nodes/cert/ca.crt")).unwrap();
    client_config(&identity, &roots, settings).unwrap()
}

/// A client without a certificate that offers TLS of one version only.
fn nobody(version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// A first message of TLS 1.0, of a library that knows nothing newer.
fn hello_of_tls_1_0() -> Vec<u8> {
    let body = [&[3, 1][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x13], &[1, 0]].concat();
    let len = body.len() as u8;
    [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat()
}

fn attempts(dir: &Path) -> Vec<(&'static str, &'static str, Attempt)> {
    let all = TlsSettings::default();
    let cert = network_files(Profile::Ec).join("nodes/cert");
    let (sdk, good) = (host_dir(Profile::Ec).join("sdk"), Validity::days(1));
    let save = |name: &str, issued: &Issued, above: &[&Issued]| {
        let dir = dir.join(name);
        write_pair(&dir, "x", issued, above).unwrap();
        Attempt::Handshake(config_of(&dir, "x", &all))
    };
    let agency = Authority::load(&cert.join("agency/agency.crt"), &cert.join("agency/agency.key")).unwrap();
    let root = Authority::load(&cert.join("ca.crt"), &cert.join("ca.key")).unwrap();
    let other_agency = root.agency("other", good).unwrap();
    let named_like_ours = other_agency.agency("agency", good).unwrap();
    let foreign = Authority::root(KeyType::Secp256k1, "chain", good).unwrap();
    let day = Duration::from_secs(86_400);
    let valid = |not_before: SystemTime| Validity { not_before, not_after: not_before + day };
    let (past, future) = (valid(SystemTime::now() - 3 * day), valid(SystemTime::now() + day));
    let leaf = |authority: &Authority, validity| authority.leaf("sdk", "sdk", validity).unwrap();
    let mut without = Arc::unwrap_or_clone(application_config(Profile::Ec));
    without.client_auth_cert_resolver = Arc::new(NoCertificate);
    // One that trusts another authority.
    write_pair(&dir.join("root"), "x", &foreign.issued, &[]).unwrap();
    let identity = Identity::load(&sdk.join("sdk.crt"), &sdk.join("sdk.key")).unwrap();
    let suspicious = client_config(&identity, &Roots::load(&dir.join("root/x.crt")).unwrap(), &all).unwrap();
    let bytes = |bytes: &[u8]| Attempt::Bytes(bytes.to_vec());
    vec![
        ("no_common_version", "[tls] channel_versions", Attempt::Handshake(nobody(&rustls::version::TLS13))),
        ("no_common_version", "TLS 1.2", Attempt::Bytes(hello_of_tls_1_0())),
        (
            "no_common_group",
            "[tls] channel_groups",
            Attempt::Handshake(config_of(&sdk, "sdk", &settings(&[], &["P-384"]))),
        ),
        (
            "no_common_cipher_suite",
            "[chain] rsa_crypto_channel",
            Attempt::Handshake(config_of(&sdk, "sdk", &settings(&["ECDHE-RSA-AES128-GCM-SHA256"], &[]))),
        ),
        ("no_certificate", "sdk.crt", Attempt::Handshake(Arc::new(without))),
        ("unknown_authority", "ca.crt", save("foreign", &leaf(&foreign, good), &[&foreign.issued])),
        ("certificate_expired", "renew it", save("past", &leaf(&agency, past), &[&agency.issued])),
        ("certificate_not_yet_valid", "clocks", save("future", &leaf(&agency, future), &[&agency.issued])),
        (
            "certificate_of_other_issuer",
            "check_cert_issuer",
            save("other", &leaf(&other_agency, good), &[&other_agency.issued]),
        ),
        (
            "certificate_of_other_issuer",
            "check_cert_issuer",
            save("posing", &leaf(&named_like_ours, good), &[&named_like_ours.issued, &other_agency.issued]),
        ),
        ("own_certificate_refused", "ca.crt is of this network", Attempt::Handshake(suspicious)),
        ("not_tls", "[admin] listen_port", bytes(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("not_tls", "PROXY protocol", bytes(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n")),
        ("not_tls", "PROXY protocol", bytes(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")),
        ("not_tls", "AMOP without TLS", bytes(b"\0\0\0\x2a\0\x14aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0\0\0\0")),
        ("not_tls", "national cryptography", bytes(&[22, 1, 1, 0, 4, 1, 0, 0, 0])),
        ("not_tls", "no TLS", bytes(b"h")),
        ("closed", "peer's log", bytes(&[22, 3, 1])),
    ]
}

fn attempt(port: SocketAddr, attempt: Attempt) {
    match attempt {
        Attempt::Handshake(config) => assert!(RawSdk::connect_with(config, port).is_err()),
        Attempt::Bytes(bytes) => {
            let mut socket = TcpStream::connect(port).unwrap();
            socket.write_all(&bytes).unwrap();
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read_to_end(&mut Vec::new());
        }
    }
}

#[test]
fn a_failed_handshake_is_counted_by_its_cause_and_the_log_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (cause, remedy, tried) in attempts(dir.path()) {
        // Of its own, since the log has ten lines of a kind in ten seconds.
        let conf = host_dir(Profile::Ec).join("node0/conf");
        let more = "[admin]\nlisten_port=0\n[tls]\nchannel_groups=P-256,secp256k1\n";
        let node = Process::start_with(&conf, false, more);
        attempt(node.channel, tried);
        let figure = format!("door_handshakes_failed_{cause}");
        wait_until(&figure, || node.figure(&figure) == 1);
        let mut lines = Vec::new();
        wait_until("it is logged", || {
            lines = node.logged("the handshake of an application failed");
            lines.extend(node.logged("the certificate of an application was refused"));
            !lines.is_empty()
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["cause"], cause, "{lines:?}");
        assert!(lines[0]["remedy"].as_str().unwrap().contains(remedy), "{lines:?}");
        assert!(lines[0]["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")));
    }
}

#[test]
fn what_a_client_offers_in_vain_is_named() {
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let node = Process::start_with(&conf, false, "[tls]\nchannel_groups=P-256\n");
    let sdk = host_dir(Profile::Ec).join("sdk");
    attempt(
        node.channel,
        Attempt::Handshake(config_of(&sdk, "sdk", &settings(&[], &["secp256k1", "P-384"]))),
    );
    wait_until("it is logged", || {
        let lines = node.logged("the handshake of an application failed");
        lines.iter().any(|line| line["reason"].as_str().unwrap().contains("groups secp256k1 P-384;"))
    });
}
