//! The record layer: against rustls over the same secrets, and what a peer may send after the handshake.

use std::{
    io::{Read, Write},
    path::Path,
};

use amop::internal::{
    pki::Profile,
    tls::{
        Established,
        config::{client_config, server_config},
        handshake::Handshake,
        identity::{Identity, Roots},
        record::{
            Aead, ContentType, HEADER_LEN, OpenError, Opened, Opener, PLAINTEXT_LEN_MAX, RECORD_LEN_MAX,
            SealError, Sealer, record_len,
        },
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustls::{ClientConnection, Connection, ProtocolVersion, ServerConnection};

use crate::support::host_dir;

const SUITES: [(Profile, &str, &str); 9] = [
    (Profile::Rsa, "1.2", "ECDHE-RSA-AES128-GCM-SHA256"),
    (Profile::Rsa, "1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
    (Profile::Rsa, "1.2", "ECDHE-RSA-CHACHA20-POLY1305"),
    (Profile::Ec, "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (Profile::Ec, "1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (Profile::Ec, "1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (Profile::Rsa, "1.3", "TLS_AES_128_GCM_SHA256"),
    (Profile::Rsa, "1.3", "TLS_AES_256_GCM_SHA384"),
    (Profile::Rsa, "1.3", "TLS_CHACHA20_POLY1305_SHA256"),
];

fn side(dir: &Path, name: &str) -> (Identity, Roots) {
    let file = |end: &str| dir.join(format!("{name}.{end}"));
    (Identity::load(&file("crt"), &file("key")).unwrap(), Roots::load(&dir.join("ca.crt")).unwrap())
}

/// Our own end after its handshake with rustls' own connection, whose record layer is rustls'.
fn connect(profile: Profile, version: &str, suite: &str, ours_is_server: bool) -> (Established, Connection) {
    let conf = host_dir(profile).join("node0/conf");
    let conf = if profile == Profile::Rsa { conf.join("channel_cert") } else { conf };
    let settings = TlsSettings::from_names(&[version.to_owned()], &[suite.to_owned()], &[]).unwrap();
    let (identity, roots) = side(&conf, "node");
    let server = server_config(&identity, &roots, &settings, IssuerPolicy::default()).unwrap();
    let (identity, roots) = side(&host_dir(profile).join("sdk"), "sdk");
    let client = client_config(&identity, &roots, &settings).unwrap();
    let name = "0.0.0.0".try_into().unwrap();
    let (mut ours, mut theirs) = if ours_is_server {
        (Handshake::server(server).unwrap(), ClientConnection::new(client, name).unwrap().into())
    } else {
        (
            Handshake::client(client).unwrap(),
            Connection::from(ServerConnection::new(server.serving(false)).unwrap()),
        )
    };
    for _ in 0..10 {
        receive(&mut theirs, &ours.take_output());
        ours.handle_received(&send(&mut theirs)).unwrap();
        if ours.is_complete() && !theirs.is_handshaking() {
            receive(&mut theirs, &ours.take_output());
            return (ours.finish().unwrap(), theirs);
        }
    }
    panic!("the handshake does not end");
}

/// What rustls has to send.
fn send(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Lets rustls read.
fn receive(connection: &mut Connection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::new();
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = connection.reader().read(&mut buffer) {
            plaintext.extend_from_slice(&buffer[..read]);
        }
    }
    plaintext
}

/// Opens all records of `bytes` in place.
fn open_all(opener: &mut Opener, mut bytes: &mut [u8]) -> Vec<u8> {
    let mut plaintext = Vec::new();
    while !bytes.is_empty() {
        let len = record_len(bytes).unwrap().unwrap();
        let (record, rest) = bytes.split_at_mut(len);
        match opener.open_in_place(record).unwrap() {
            Opened::Data(data) => plaintext.extend_from_slice(data),
            Opened::Nothing => {}
            Opened::CloseNotify => panic!("closed"),
        }
        bytes = rest;
    }
    plaintext
}

#[test]
fn rustls_opens_what_we_seal_and_we_open_what_it_seals_in_every_suite_and_role() {
    let mut random = SmallRng::seed_from_u64(5);
    for (profile, version, suite) in SUITES {
        for ours_is_server in [true, false] {
            let (mut ours, mut theirs) = connect(profile, version, suite, ours_is_server);
            let named = theirs.negotiated_cipher_suite().unwrap().suite();
            let case = format!("{named:?}, we are the server: {ours_is_server}");
            for round in 0..60 {
                let data: Vec<u8> = (0..random.random_range(1..50_000)).map(|_| random.random()).collect();
                // Fragments and pieces of any length.
                let mut records = Vec::new();
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let len = random.random_range(1..=PLAINTEXT_LEN_MAX.min(rest.len()));
                    let (fragment, after) = rest.split_at(len);
                    let (one, other) = fragment.split_at(random.random_range(0..=len));
                    ours.sealer.seal(ContentType::ApplicationData, &[one, other], &mut records).unwrap();
                    rest = after;
                }
                assert!(receive(&mut theirs, &records) == data, "{case}");
                let mut rest = &data[..];
                let mut records = Vec::new();
                while !rest.is_empty() {
                    let written =
                        theirs.writer().write(&rest[..random.random_range(1..=rest.len())]).unwrap();
                    records.extend_from_slice(&send(&mut theirs));
                    rest = &rest[written..];
                }
                assert!(open_all(&mut ours.opener, &mut records) == data, "{case}");
                if version == "1.3" && round % 20 == 9 {
                    let mut update = Vec::new();
                    ours.sealer.update_keys(&mut update).unwrap();
                    receive(&mut theirs, &update);
                    theirs.refresh_traffic_keys().unwrap();
                    open_all(&mut ours.opener, &mut send(&mut theirs));
                    assert!(ours.opener.take_update_request(), "rustls asks for an answer");
                }
            }
            let mut record = Vec::new();
            ours.sealer.close_notify(&mut record).unwrap();
            receive(&mut theirs, &record);
            assert!(theirs.process_new_packets().unwrap().peer_has_closed(), "{case}");
            theirs.send_close_notify();
            let mut record = send(&mut theirs);
            assert_eq!(ours.opener.open_in_place(&mut record), Ok(Opened::CloseNotify), "{case}");
        }
    }
}

const KEY: [u8; 16] = [3; 16];
const IV: [u8; 12] = [7; 12];

fn pair(version: ProtocolVersion, sequence: u64) -> (Sealer, Opener) {
    (
        Sealer::from_secrets(version, Aead::Aes128Gcm, &KEY, IV, sequence).unwrap(),
        Opener::from_secrets(version, Aead::Aes128Gcm, &KEY, IV, sequence).unwrap(),
    )
}

fn sealed(sealer: &mut Sealer, content: ContentType, data: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    sealer.seal(content, &[data], &mut record).unwrap();
    record
}

/// What a receiver makes of one message of the peer's.
fn opened(version: ProtocolVersion, content: ContentType, data: &[u8]) -> Result<Opened<Vec<u8>>, OpenError> {
    let (mut sealer, mut opener) = pair(version, 0);
    let mut record = sealed(&mut sealer, content, data);
    opener.open_in_place(&mut record).map(|opened| match opened {
        Opened::Data(data) => Opened::Data(data.to_vec()),
        Opened::Nothing => Opened::Nothing,
        Opened::CloseNotify => Opened::CloseNotify,
    })
}

#[test]
fn after_the_handshake_each_message_has_its_meaning_or_ends_the_connection() {
    use ContentType::{Alert, ApplicationData, ChangeCipherSpec, Handshake};
    let both = [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3];
    for version in both {
        let opened = |content, data: &[u8]| opened(version, content, data);
        assert_eq!(opened(ApplicationData, b"x"), Ok(Opened::Data(b"x".to_vec())));
        assert_eq!(opened(ApplicationData, b""), Ok(Opened::Nothing));
        assert_eq!(opened(Alert, &[1, 0]), Ok(Opened::CloseNotify));
        assert_eq!(opened(Alert, &[2, 40]), Err(OpenError::Alert(40)));
        assert_eq!(opened(Alert, &[2]), Err(OpenError::Malformed), "half an alert");
        assert_eq!(opened(Alert, &[1, 0, 1, 0]), Err(OpenError::Malformed), "two alerts");
        assert_eq!(opened(ChangeCipherSpec, &[1]), Err(OpenError::Malformed));
        // HelloRequest and ClientHello: a renegotiation, which there is none of.
        assert_eq!(opened(Handshake, &[0, 0, 0, 0]), Err(OpenError::Handshake));
        assert_eq!(opened(Handshake, &[1, 0, 0, 1, 0]), Err(OpenError::Handshake));
        assert_eq!(opened(Handshake, b""), Err(OpenError::Handshake));
    }
    let [tls12, tls13] = both;
    assert_eq!(opened(tls12, Alert, &[1, 100]), Ok(Opened::Nothing), "no_renegotiation, a warning");
    assert_eq!(opened(tls13, Alert, &[1, 100]), Err(OpenError::Alert(100)));
    assert_eq!(opened(tls13, Alert, &[1, 90]), Ok(Opened::Nothing), "user_canceled");
    let ticket = [4, 0, 0, 2, 9, 9];
    assert_eq!(opened(tls12, Handshake, &ticket), Err(OpenError::Handshake));
    assert_eq!(opened(tls13, Handshake, &ticket), Ok(Opened::Nothing));
    assert_eq!(opened(tls13, Handshake, &[ticket, ticket].concat()), Ok(Opened::Nothing));
    assert_eq!(opened(tls13, Handshake, &ticket[..5]), Err(OpenError::Handshake), "a part of a ticket");
    // Nobody gave these sides the secrets of a next generation; anything but the very message is wrong.
    for update in [&[24, 0, 0, 1, 2][..], &[24, 0, 0, 1], &[24, 0, 0, 2, 0, 0], &[24, 0, 0, 1, 0, 4, 0, 0, 0]]
    {
        assert_eq!(opened(tls13, Handshake, update), Err(OpenError::Handshake), "{update:?}");
    }
    assert_eq!(opened(tls13, Handshake, &[13, 0, 0, 0]), Err(OpenError::Handshake), "CertificateRequest");
}

#[test]
fn a_flood_of_records_without_content_ends_the_connection() {
    use ContentType::{Alert, ApplicationData, Handshake};
    for (version, content, data) in [
        (ProtocolVersion::TLSv1_2, ApplicationData, &b""[..]),
        (ProtocolVersion::TLSv1_2, Alert, &[1, 100]),
        (ProtocolVersion::TLSv1_3, ApplicationData, b""),
        (ProtocolVersion::TLSv1_3, Alert, &[1, 90]),
        (ProtocolVersion::TLSv1_3, Handshake, &[4, 0, 0, 0]),
    ] {
        let (mut sealer, mut opener) = pair(version, 0);
        let mut records = (0..100).map(|_| {
            let mut record = sealed(&mut sealer, content, data);
            opener.open_in_place(&mut record).map(|opened| assert_eq!(opened, Opened::Nothing))
        });
        assert!(records.by_ref().take(32).all(|opened| opened.is_ok()), "{version:?} {content:?}");
        assert_eq!(records.next(), Some(Err(OpenError::EmptyRecords)), "{version:?} {content:?}");
    }
    // Content in between is no flood.
    let (mut sealer, mut opener) = pair(ProtocolVersion::TLSv1_2, 0);
    for _ in 0..100 {
        for data in [&b""[..], b"x"] {
            assert!(opener.open_in_place(&mut sealed(&mut sealer, ApplicationData, data)).is_ok());
        }
    }
}

#[test]
fn outer_types_of_tls_1_3_are_application_data_and_nothing_else() {
    for outer in [20, 21, 22, 24, 0] {
        let (mut sealer, mut opener) = pair(ProtocolVersion::TLSv1_3, 0);
        let mut record = sealed(&mut sealer, ContentType::ApplicationData, b"text");
        record[0] = outer;
        assert_eq!(opener.open_in_place(&mut record), Err(OpenError::Malformed), "{outer}");
    }
    // The ChangeCipherSpec of middlebox compatibility belongs before the end of the handshake.
    let (_, mut opener) = pair(ProtocolVersion::TLSv1_3, 0);
    assert_eq!(opener.open_in_place(&mut [20, 3, 3, 0, 1, 1]), Err(OpenError::Malformed));
}

#[test]
fn padding_of_tls_1_3_is_taken_off_and_padding_alone_is_refused() {
    // Our own sealer never pads.
    let record = |inner: &[u8]| {
        let len = (inner.len() + 16) as u16;
        let header = [&[23, 3, 3][..], &len.to_be_bytes()].concat();
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &KEY).unwrap());
        let mut body = inner.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(IV), Aad::from(&header), &mut body)
            .unwrap();
        [header, body].concat()
    };
    let opener = || pair(ProtocolVersion::TLSv1_3, 0).1;
    assert_eq!(
        opener().open_in_place(&mut record(b"text\x17\0\0\0")),
        Ok(Opened::Data(&mut b"text".to_owned()[..]))
    );
    assert_eq!(
        opener().open_in_place(&mut record(b"text\0\x17")),
        Ok(Opened::Data(&mut b"text\0".to_owned()[..]))
    );
    assert_eq!(opener().open_in_place(&mut record(b"\x17\0\0")), Ok(Opened::Nothing));
    assert_eq!(opener().open_in_place(&mut record(&[0; 8])), Err(OpenError::Malformed));
    assert_eq!(opener().open_in_place(&mut record(b"")), Err(OpenError::Malformed));
    assert_eq!(
        opener().open_in_place(&mut record(b"text\x09")),
        Err(OpenError::Malformed),
        "an unknown type"
    );
    let longest = [vec![1; PLAINTEXT_LEN_MAX], vec![23]].concat();
    assert!(opener().open_in_place(&mut record(&longest)).is_ok());
    assert_eq!(
        opener().open_in_place(&mut record(&[&longest[..], &[0]].concat())),
        Err(OpenError::Malformed)
    );
}

#[test]
fn sequence_numbers_end_before_they_come_round() {
    for version in [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3] {
        let (mut sealer, mut opener) = pair(version, u64::MAX - 3);
        for _ in 0..2 {
            let mut record = sealed(&mut sealer, ContentType::ApplicationData, b"x");
            assert!(opener.open_in_place(&mut record).is_ok());
        }
        let mut out = Vec::new();
        for _ in 0..3 {
            let refused = sealer.seal(ContentType::ApplicationData, &[b"x"], &mut out);
            assert_eq!((refused, out.len()), (Err(SealError::KeysExhausted), 0));
        }
        // Not even a record that is right for this number.
        let (mut beyond, _) = pair(version, u64::MAX - 2);
        let mut record = sealed(&mut beyond, ContentType::ApplicationData, b"x");
        assert!(opener.open_in_place(&mut record).is_err());
    }
}

#[test]
fn explicit_nonces_of_tls_1_2_never_repeat() {
    let (mut sealer, _) = pair(ProtocolVersion::TLSv1_2, 0);
    let nonces: std::collections::HashSet<[u8; 8]> = (0..5_000)
        .map(|number: usize| {
            let data = vec![0; number % 40];
            let record = sealed(&mut sealer, ContentType::ApplicationData, &data);
            record[HEADER_LEN..HEADER_LEN + 8].try_into().unwrap()
        })
        .collect();
    assert_eq!(nonces.len(), 5_000);
}

#[test]
fn a_record_that_is_longer_than_any_is_refused_by_its_header() {
    let header = |len: usize| {
        let [high, low] = ((len - HEADER_LEN) as u16).to_be_bytes();
        record_len(&[23, 3, 3, high, low])
    };
    assert_eq!(header(RECORD_LEN_MAX), Ok(Some(RECORD_LEN_MAX)));
    assert_eq!(header(RECORD_LEN_MAX + 1), Err(OpenError::Malformed));
}

#[test]
fn whatever_was_changed_in_a_record_the_error_is_the_same() {
    for version in [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3] {
        let (mut sealer, _) = pair(version, 0);
        let record = sealed(&mut sealer, ContentType::ApplicationData, b"some text of some length");
        for at in HEADER_LEN..record.len() {
            for bit in 0..8 {
                let mut changed = record.clone();
                changed[at] ^= 1 << bit;
                let (_, mut opener) = pair(version, 0);
                assert_eq!(
                    opener.open_in_place(&mut changed),
                    Err(OpenError::Decrypt),
                    "{version:?} {at} {bit}"
                );
            }
        }
        for len in HEADER_LEN..record.len() {
            let (_, mut opener) = pair(version, 0);
            let mut cut = record[..len].to_vec();
            assert_eq!(opener.open_in_place(&mut cut), Err(OpenError::Decrypt), "{version:?} cut at {len}");
        }
    }
}

#[test]
fn shared_configurations_hand_out_no_tickets() {
    // What a server sends behind its handshake would be tickets, and there are none to be resumed with.
    let (_, mut theirs) = connect(Profile::Rsa, "1.3", "TLS_AES_128_GCM_SHA256", true);
    assert!(matches!(theirs, Connection::Client(_)));
    assert_eq!(theirs.process_new_packets().unwrap().plaintext_bytes_to_read(), 0);
    if let Connection::Client(client) = &theirs {
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}
