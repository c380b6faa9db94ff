//! Handshakes in memory with certificates as FISCO BCOS has them, and the record layer behind them.

use std::{path::Path, sync::Arc};

use amop::internal::{
    pki::{Authority, KeyType, Profile, Validity, write_pair, write_private, write_public},
    tls::{
        Established, PeerCertificate,
        config::{ConfigError, client_config, leaves_out_tls13, same_issuer, server_config},
        handshake::{Handshake, HandshakeError},
        identity::{Identity, Roots},
        record::{ContentType, Opened, record_len},
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
};
use rustls::{
    ClientConnection, NamedGroup,
    pki_types::{CertificateDer, ServerName},
};
use secp256k1::{SecretKey, ecdsa::Signature};
use x509_cert::{
    Certificate,
    der::{Decode, Encode, asn1::BitString},
};

use crate::support::host_dir;

struct Side {
    identity: Identity,
    roots: Roots,
}

fn side(dir: &Path, name: &str) -> Side {
    Side {
        identity: Identity::load(&dir.join(format!("{name}.crt")), &dir.join(format!("{name}.key"))).unwrap(),
        roots: Roots::load(&dir.join("ca.crt")).unwrap(),
    }
}

fn node(profile: Profile) -> Side {
    let conf = host_dir(profile).join("node0/conf");
    match profile {
        Profile::Rsa => side(&conf.join("channel_cert"), "node"),
        Profile::Ec => side(&conf, "node"),
    }
}

fn sdk(profile: Profile) -> Side {
    side(&host_dir(profile).join("sdk"), "sdk")
}

fn settings(version: &str, suite: &str, group: &str) -> TlsSettings {
    let list = |name: &str| if name.is_empty() { vec![] } else { vec![name.to_owned()] };
    TlsSettings::from_names(&list(version), &list(suite), &list(group)).unwrap()
}

fn handshake(
    server: &Side,
    client: &Side,
    server_settings: &TlsSettings,
    client_settings: &TlsSettings,
    policy: IssuerPolicy,
) -> Result<(Established, Established), HandshakeError> {
    let config = server_config(&server.identity, &server.roots, server_settings, policy).unwrap();
    let mut server = Handshake::server(config)?;
    let config = client_config(&client.identity, &client.roots, client_settings).unwrap();
    let mut client = Handshake::client(config)?;
    for _ in 0..10 {
        let bytes = client.take_output();
        server.handle_received(&bytes)?;
        let bytes = server.take_output();
        client.handle_received(&bytes)?;
        if client.is_complete() && server.is_complete() {
            let rest = client.take_output();
            server.handle_received(&rest)?;
            return Ok((server.finish()?, client.finish()?));
        }
    }
    panic!("the handshake does not end");
}

fn exchange(from: &mut Established, to: &mut Established, lengths: &[usize]) {
    for &len in lengths {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut record = Vec::new();
        let (one, two) = data.split_at(len / 3);
        let parts: &[&[u8]] = if len % 2 == 0 { &[one, two] } else { &[&data] };
        from.sealer.seal(ContentType::ApplicationData, parts, &mut record).unwrap();
        assert_eq!(record_len(&record).unwrap(), Some(record.len()));
        assert_eq!(record.len(), len + from.sealer.overhead());
        if len % 5 < 2 {
            let mut out = vec![0; record.len()];
            match to.opener.open_into(&record, &mut out).unwrap() {
                Opened::Data(opened) => assert_eq!(out[..opened], data),
                other => assert_eq!((other, len), (Opened::Nothing, 0)),
            }
        } else {
            match to.opener.open_in_place(&mut record).unwrap() {
                Opened::Data(opened) => assert_eq!(opened, data),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn both_profiles_carry_data_over_every_suite_and_group() {
    let lengths = [1, 0, 16, 42, 1000, 4096, 4097, 10_001, 16_384];
    for (profile, version, suite, group) in [
        (Profile::Rsa, "1.2", "ECDHE-RSA-AES128-GCM-SHA256", "secp256k1"),
        (Profile::Rsa, "1.2", "ECDHE-RSA-AES256-GCM-SHA384", "X25519"),
        (Profile::Rsa, "1.2", "ECDHE-RSA-CHACHA20-POLY1305", "P-256"),
        (Profile::Rsa, "1.3", "TLS_AES_128_GCM_SHA256", "X25519"),
        (Profile::Rsa, "1.3", "TLS_AES_256_GCM_SHA384", "P-384"),
        (Profile::Rsa, "1.3", "TLS_CHACHA20_POLY1305_SHA256", "P-256"),
        (Profile::Ec, "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", "secp256k1"),
        (Profile::Ec, "1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", "X25519"),
        (Profile::Ec, "1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", "P-256"),
    ] {
        let (server, client) = (node(profile), sdk(profile));
        let choice = settings(version, suite, group);
        let (mut server, mut client) = handshake(&server, &client, &choice, &choice, IssuerPolicy::default())
            .unwrap_or_else(|error| panic!("{profile:?} {version} {suite} {group}: {error}"));
        assert_eq!(client.peer.node_id.is_some(), profile == Profile::Ec);
        exchange(&mut client, &mut server, &lengths);
        exchange(&mut server, &mut client, &lengths);
        if version == "1.3" {
            let mut record = Vec::new();
            client.sealer.update_keys(&mut record).unwrap();
            assert_eq!(server.opener.open_in_place(&mut record).unwrap(), Opened::Nothing);
            exchange(&mut client, &mut server, &lengths);
        }
        let mut record = Vec::new();
        client.sealer.close_notify(&mut record).unwrap();
        assert_eq!(server.opener.open_in_place(&mut record).unwrap(), Opened::CloseNotify);
    }
}

#[test]
fn a_flipped_cut_repeated_or_reordered_record_does_not_open() {
    let (server, client) = (node(Profile::Ec), sdk(Profile::Ec));
    let default = TlsSettings::default();
    let connect = || handshake(&server, &client, &default, &default, IssuerPolicy::default()).unwrap();
    let seal = |from: &mut Established, text: &str| {
        let mut record = Vec::new();
        from.sealer.seal(ContentType::ApplicationData, &[text.as_bytes()], &mut record).unwrap();
        record
    };
    for index in [0, 5, 12, 13, 20, 30] {
        let (mut server, mut client) = connect();
        let mut record = seal(&mut client, "some text of some length");
        record[index] ^= 1;
        assert!(server.opener.open_in_place(&mut record).is_err(), "byte {index}");
    }
    let (mut server, mut client) = connect();
    let (first, second) = (seal(&mut client, "first"), seal(&mut client, "second"));
    assert!(server.opener.open_in_place(&mut second.clone()).is_err());
    let (mut server, mut client) = connect();
    let record = seal(&mut client, "first");
    drop(first);
    assert!(server.opener.open_in_place(&mut record.clone()).is_ok());
    assert!(server.opener.open_in_place(&mut record.clone()).is_err());
    let mut record = seal(&mut client, "cut");
    record.pop();
    assert!(server.opener.open_in_place(&mut record).is_err());
}

#[test]
fn strangers_expired_certificates_and_leaves_that_pose_as_authorities_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = Validity::days(1);
    let save = |name: &str, chain: &[&str], key: &str, root: &str| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        write_public(&dir.join("x.crt"), &chain.concat()).unwrap();
        write_private(&dir.join("x.key"), key).unwrap();
        write_public(&dir.join("ca.crt"), root).unwrap();
        side(&dir, "x")
    };
    let chain = Authority::root(KeyType::Secp256k1, "chain", good).unwrap();
    let agency = chain.agency("agency", good).unwrap();
    let root = chain.issued.certificate.clone();
    let leaf = agency.leaf("node", "node", good).unwrap();
    let server = save("server", &[&leaf.certificate, &agency.issued.certificate], &leaf.key, &root);
    let connect = |client: &Side| {
        let default = TlsSettings::default();
        handshake(&server, client, &default, &default, IssuerPolicy::default())
    };

    let fine = agency.leaf("sdk", "sdk", good).unwrap();
    assert!(
        connect(&save("fine", &[&fine.certificate, &agency.issued.certificate], &fine.key, &root)).is_ok()
    );
    // The server's own chain has the agency's certificate.
    assert!(connect(&save("chainless", &[&fine.certificate], &fine.key, &root)).is_ok());
    let elsewhere = chain.agency("elsewhere", good).unwrap().leaf("sdk", "sdk", good).unwrap();
    assert!(connect(&save("elsewhere", &[&elsewhere.certificate], &elsewhere.key, &root)).is_err());

    let foreign = Authority::root(KeyType::Secp256k1, "chain", good).unwrap();
    let stranger = foreign.agency("agency", good).unwrap();
    let leaf = stranger.leaf("sdk", "sdk", good).unwrap();
    assert!(
        connect(&save("stranger", &[&leaf.certificate, &stranger.issued.certificate], &leaf.key, &root))
            .is_err()
    );

    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400 * 3);
    let expired = Validity { not_before: past, not_after: past + std::time::Duration::from_secs(86_400) };
    let leaf = agency.leaf("sdk", "sdk", expired).unwrap();
    assert!(
        connect(&save("expired", &[&leaf.certificate, &agency.issued.certificate], &leaf.key, &root))
            .is_err()
    );

    // A key of a mere leaf issues; its certificate says that it may not.
    let poser = Authority::root(KeyType::Secp256k1, "sdk", good).unwrap();
    let below = poser.leaf("below", "sdk", good).unwrap();
    let chain = [below.certificate.as_str(), &poser.issued.certificate, &agency.issued.certificate];
    assert!(connect(&save("poser", &chain, &below.key, &root)).is_err());
}

#[test]
fn applications_of_another_agency_are_refused_where_the_issuer_is_checked() {
    let (server, client) = (node(Profile::Ec), sdk(Profile::Ec));
    let default = TlsSettings::default();
    let policy = same_issuer(&server.identity, false);
    assert!(handshake(&server, &client, &default, &default, policy.clone()).is_ok());
    let rsa = same_issuer(&node(Profile::Rsa).identity, false);
    assert!(handshake(&server, &client, &default, &default, rsa.clone()).is_err());
    // Certificates of version 1 carry no basic constraints and are exempt unless told otherwise.
    let (server, client) = (node(Profile::Rsa), sdk(Profile::Rsa));
    assert!(handshake(&server, &client, &default, &default, policy.clone()).is_ok());
    let strict = IssuerPolicy { also_version_1: true, ..policy };
    assert!(handshake(&server, &client, &default, &default, strict).is_err());
    let strict = IssuerPolicy { also_version_1: true, ..rsa };
    assert!(handshake(&server, &client, &default, &default, strict).is_ok());
}

/// An agency can issue an authority of whatever name it likes.
#[test]
fn an_application_below_an_authority_that_has_but_the_name_of_the_nodes_agency_is_refused() {
    let (dir, good) = (tempfile::tempdir().unwrap(), Validity::days(1));
    let chain = Authority::root(KeyType::Secp256k1, "chain", good).unwrap();
    let save = |name: &str, above: &[&Authority]| {
        let issued = above[0].leaf(name, "sdk", good).unwrap();
        let above: Vec<_> = above.iter().map(|authority| &authority.issued).collect();
        let dir = dir.path().join(name);
        write_pair(&dir, "x", &issued, &above).unwrap();
        write_public(&dir.join("ca.crt"), &chain.issued.certificate).unwrap();
        side(&dir, "x")
    };
    let (one, other) = (chain.agency("one", good).unwrap(), chain.agency("other", good).unwrap());
    let named_like_other = one.agency("other", good).unwrap();
    let node = save("node", &[&other]);
    let connect = |application: &Side| {
        let default = TlsSettings::default();
        handshake(&node, application, &default, &default, same_issuer(&node.identity, false))
    };
    assert!(connect(&save("own", &[&other])).is_ok());
    assert!(connect(&save("theirs", &[&one])).is_err());
    assert!(connect(&save("posing", &[&named_like_other, &one])).is_err());
    // Its chain is good otherwise.
    let default = TlsSettings::default();
    let posing = save("let-in", &[&named_like_other, &one]);
    assert!(handshake(&node, &posing, &default, &default, IssuerPolicy::default()).is_ok());
}

#[test]
fn a_handshake_takes_a_bounded_amount_of_input() {
    let server = node(Profile::Ec);
    let config =
        server_config(&server.identity, &server.roots, &TlsSettings::default(), IssuerPolicy::default())
            .unwrap();
    let mut handshake = Handshake::server(config.clone()).unwrap();
    // A handshake record that never completes its message.
    let record = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
    let refused = (0..100).any(|_| handshake.handle_received(&record).is_err());
    assert!(refused);
    let mut handshake = Handshake::server(config).unwrap();
    assert!(handshake.handle_received(b"GET / HTTP/1.1\r\n\r\n").is_err());
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
    let conf = host_dir(Profile::Ec);
    let error =
        Identity::load(&conf.join("node0/conf/node.crt"), &conf.join("node1/conf/node.key")).unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
}

#[test]
fn tls_1_3_is_left_out_where_the_key_is_secp256k1() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let settings = |versions: &[&str]| TlsSettings::from_names(&names(versions), &[], &[]).unwrap();
    let (both, newest) = (settings(&["1.2", "1.3"]), settings(&["1.3"]));
    let (server, client) = (node(Profile::Ec), sdk(Profile::Ec));
    assert!(leaves_out_tls13(&server.identity, &both));
    let (mut near, mut far) = handshake(&server, &client, &both, &both, IssuerPolicy::default()).unwrap();
    exchange(&mut near, &mut far, &[100]);
    assert_eq!(near.sealer.overhead(), 5 + 8 + 16, "a record of TLS 1.2 with its explicit nonce");
    // Nothing is left: that is said at the start, not by every peer.
    let refused = server_config(&server.identity, &server.roots, &newest, IssuerPolicy::default());
    assert!(matches!(refused, Err(ConfigError::NoVersion)));
    let refused = client_config(&client.identity, &client.roots, &newest);
    assert!(matches!(refused, Err(ConfigError::NoVersion)));

    let (server, client) = (node(Profile::Rsa), sdk(Profile::Rsa));
    assert!(!leaves_out_tls13(&server.identity, &both));
    let (near, _) = handshake(&server, &client, &both, &both, IssuerPolicy::default()).unwrap();
    assert_eq!(near.sealer.overhead(), 5 + 1 + 16, "a record of TLS 1.3 with its inner type");
}

#[test]
fn cipher_suites_that_the_own_key_cannot_serve_are_refused_at_the_start() {
    for (profile, version, suite, wanted) in [
        (Profile::Ec, "1.2", "ECDHE-RSA-AES128-GCM-SHA256", Some("ECDSA")),
        (Profile::Rsa, "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", Some("RSA")),
        (Profile::Rsa, "1.2", "TLS_AES_128_GCM_SHA256", Some("RSA")),
        (Profile::Rsa, "1.3", "ECDHE-RSA-AES128-GCM-SHA256", Some("RSA")),
        (Profile::Rsa, "1.3", "TLS_AES_128_GCM_SHA256", None),
        (Profile::Ec, "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", None),
    ] {
        let Side { identity, roots } = node(profile);
        let made = server_config(&identity, &roots, &settings(version, suite, ""), IssuerPolicy::default());
        match (made, wanted) {
            (Err(ConfigError::NoCipherSuite(kind)), Some(wanted)) => assert_eq!(kind, wanted),
            (made, wanted) => assert_eq!(made.err().map(|error| error.to_string()), None, "{wanted:?}"),
        }
    }
}

/// Sends its certificate only to a server that names its issuer or nobody, as some libraries do.
#[derive(Debug)]
struct Cautious(Arc<rustls::sign::CertifiedKey>, Vec<u8>);

impl rustls::client::ResolvesClientCert for Cautious {
    fn resolve(
        &self,
        hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        (hints.is_empty() || hints.contains(&&self.1[..])).then(|| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What the server learns of a client that presents `chain` with the application's key, in answer to
/// hints as [`Cautious`] has it.
fn present(
    chain: impl FnOnce(&[CertificateDer<'static>]) -> Vec<CertificateDer<'static>>,
) -> PeerCertificate {
    let (server, client) = (node(Profile::Ec), sdk(Profile::Ec));
    let default = TlsSettings::default();
    let mut config = Arc::unwrap_or_clone(client_config(&client.identity, &client.roots, &default).unwrap());
    // The issuer is the agency, which is no root.
    let schemes = [rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
    let known = config.client_auth_cert_resolver.resolve(&[], &schemes).unwrap();
    let issuer = Certificate::from_der(&known.cert[0]).unwrap().tbs_certificate.issuer.to_der().unwrap();
    let presented = rustls::sign::CertifiedKey::new(chain(&known.cert), known.key.clone());
    config.client_auth_cert_resolver = Arc::new(Cautious(Arc::new(presented), issuer));
    let server_side =
        server_config(&server.identity, &server.roots, &default, IssuerPolicy::default()).unwrap();
    let (mut server, mut client) =
        (Handshake::server(server_side).unwrap(), Handshake::client(Arc::new(config)).unwrap());
    while !server.is_complete() {
        server.handle_received(&client.take_output()).unwrap();
        client.handle_received(&server.take_output()).unwrap();
    }
    server.finish().unwrap().peer
}

/// A part of a handshake that has a fault.
#[derive(Debug)]
struct Faulty;

impl rustls::client::ResolvesClientCert for Faulty {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        panic!("meant")
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_panic_over_what_a_peer_sent_ends_that_handshake_and_nothing_else() {
    let (server, client) = (node(Profile::Ec), sdk(Profile::Ec));
    let default = TlsSettings::default();
    let mut config = Arc::unwrap_or_clone(client_config(&client.identity, &client.roots, &default).unwrap());
    config.client_auth_cert_resolver = Arc::new(Faulty);
    let tls = server_config(&server.identity, &server.roots, &default, IssuerPolicy::default()).unwrap();
    let (mut server, mut client) =
        (Handshake::server(tls).unwrap(), Handshake::client(Arc::new(config)).unwrap());
    server.handle_received(&client.take_output()).unwrap();
    let failed = client.handle_received(&server.take_output());
    assert!(matches!(failed, Err(HandshakeError::Fault)), "{failed:?}");
    assert!(client.take_output().is_empty() && !client.is_complete());
}

#[test]
fn a_client_with_its_leaf_alone_is_not_kept_from_sending_it() {
    assert!(present(|chain| chain[..1].to_vec()).node_id.is_some());
}

#[test]
fn a_certificate_under_another_form_of_its_signature_counts_as_the_same() {
    // Of every ECDSA signature there are two: s, and the order less s.
    let other_signature = |chain: &[CertificateDer<'static>]| {
        let mut certificate = Certificate::from_der(&chain[0]).unwrap();
        let signature = Signature::from_der(certificate.signature.raw_bytes()).unwrap();
        let mut compact = signature.serialize_compact();
        let s = SecretKey::from_byte_array(compact[32..].try_into().unwrap()).unwrap().negate();
        compact[32..].copy_from_slice(&s.secret_bytes());
        let signature = Signature::from_compact(&compact).unwrap().serialize_der();
        certificate.signature = BitString::from_bytes(&signature).unwrap();
        let leaf = CertificateDer::from(certificate.to_der().unwrap());
        assert_ne!(leaf, chain[0]);
        [&[leaf], &chain[1..]].concat()
    };
    assert_eq!(present(other_signature).fingerprint, present(|chain| chain.to_vec()).fingerprint);
}

/// The OpenSSL that the Java SDK brings along has SM2 under the number of X25519, and offers it first.
#[test]
fn x25519_is_taken_only_from_a_peer_that_does_not_offer_p_256() {
    let (server, client) = (node(Profile::Ec), sdk(Profile::Ec));
    let tls =
        server_config(&server.identity, &server.roots, &TlsSettings::default(), IssuerPolicy::default());
    let tls = tls.unwrap();
    for (offered, taken) in [
        (&["X25519", "P-256"][..], NamedGroup::secp256r1),
        (&["X25519", "secp256k1", "P-256"], NamedGroup::Unknown(0x16)),
        (&["X25519", "P-384"], NamedGroup::X25519),
        (&["X25519"], NamedGroup::X25519),
        (&["P-384", "X25519", "P-256"], NamedGroup::secp384r1),
    ] {
        let names: Vec<String> = offered.iter().map(|&name| name.to_owned()).collect();
        let settings = TlsSettings::from_names(&[], &[], &names).unwrap();
        let config = client_config(&client.identity, &client.roots, &settings).unwrap();
        let nobody = ServerName::try_from("nobody").unwrap();
        let mut client = ClientConnection::new(config, nobody).unwrap();
        let mut server = Handshake::server(tls.clone()).unwrap();
        while client.is_handshaking() {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            // However it is cut on the way.
            for byte in sent {
                server.handle_received(&[byte]).unwrap();
            }
            client.read_tls(&mut server.take_output().as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, taken, "of {offered:?}");
    }
}
