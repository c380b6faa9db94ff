//! Real nodes on real sockets with real certificates.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use amop::{
    client::{Client, MessageKind},
    internal::{
        pki::Profile,
        tls::{config::client_config, identity, settings::TlsSettings},
        wire::{
            ResultCode,
            sdk::{self, FrameType},
        },
    },
};

use crate::support::{BOUND, NoCertificate, RawSdk, TestNode, client, host_dir, runtime, wait_until};

const SEQ: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

/// A subscriber that answers each unicast with its payload.
async fn echo(profile: Profile, node: &TestNode, topics: &[&str]) -> Client {
    let (client, mut messages) = client(profile, &[node]).await;
    client.subscribe(topics).await.unwrap();
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if message.kind == MessageKind::Unicast {
                answering.respond(&message, &message.payload).await;
            }
        }
    });
    client
}

#[test]
fn messages_of_every_size_cross_two_nodes_in_both_profiles() {
    for profile in [Profile::Rsa, Profile::Ec] {
        let first = TestNode::start(profile, 0, &[], "");
        let second = TestNode::start(profile, 1, &[&first], "");
        first.wait_for_neighbours(&[&second]);
        runtime().block_on(async {
            let _subscriber = echo(profile, &second, &["t"]).await;
            first.wait_for_subscribers("t", 1);
            let (publisher, _messages) = client(profile, &[&first]).await;
            for len in [0, 1, 256, 4_000, 16_340, 16_384, 16_385, 65_536, 100_000, 1 << 20, 20 << 20] {
                let payload: Vec<u8> =
                    (0..len).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
                let answer = publisher.request("t", &payload, BOUND).await.unwrap();
                assert_eq!(answer.code, ResultCode::OK, "{len} bytes");
                assert!(answer.payload == payload, "{len} bytes came back changed");
            }
        });
        second.stop();
        first.stop();
    }
}

#[test]
fn many_requests_at_once_are_each_answered_once_and_right() {
    let first = TestNode::start(Profile::Ec, 0, &[], "");
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    runtime().block_on(async {
        let mut subscribers = Vec::new();
        for index in 0..6 {
            subscribers.push(echo(Profile::Ec, if index % 2 == 0 { &first } else { &second }, &["t"]).await);
        }
        for node in [&first, &second] {
            node.wait_for_subscribers("t", 6);
        }
        let mut asking = Vec::new();
        for index in 0..8u32 {
            let (publisher, messages) =
                client(Profile::Ec, &[if index % 2 == 0 { &first } else { &second }]).await;
            for window in 0..8u32 {
                let publisher = publisher.clone();
                asking.push(tokio::spawn(async move {
                    for number in 0..100u32 {
                        let payload = [index, window, number].map(u32::to_be_bytes).concat();
                        let answer = publisher.request("t", &payload, BOUND).await.unwrap();
                        assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &payload[..]));
                    }
                }));
            }
            std::mem::forget(messages);
        }
        for asked in asking {
            asked.await.unwrap();
        }
    });
    assert_eq!(
        first.total(|counters| counters.requests.get()) + second.total(|counters| counters.requests.get()),
        6_400
    );
}

#[test]
fn every_frame_starts_a_record_and_shares_none_in_a_flood() {
    // Room for the whole flood, about 14 MB, and all the time of the test: a subscriber that gets no processor
    // for a while is no slow one.
    let more = "[amop]\nsession_queue_bytes_max=67108864\nstall_timeout_ms=3600000\n";
    let node = TestNode::start(Profile::Rsa, 0, &[], more);
    let mut subscriber = RawSdk::connect(Profile::Rsa, &node);
    subscriber.send(&sdk::encode(FrameType::SUBSCRIBE, &SEQ, ResultCode::OK, br#"["t"]"#));
    node.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Rsa, &node);
    let sending = std::thread::spawn(move || {
        for number in 0..2_000u32 {
            let len = [10, 300, 20_000][number as usize % 3];
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(len, 0);
            publisher.send(&sdk::encode_amop(FrameType::MULTICAST, &SEQ, ResultCode::OK, "t", &payload));
        }
        for _ in 0..2_000 {
            assert!(publisher.frame().is_some());
        }
    });
    for number in 0..2_000u32 {
        let frame = subscriber.frame().unwrap();
        assert_eq!(frame[44..48], number.to_be_bytes());
    }
    sending.join().unwrap();
}

#[test]
fn frames_are_understood_however_their_bytes_are_cut() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let mut app = RawSdk::connect(Profile::Ec, &node);
    let beat = sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0");
    // One frame over many records, many frames in one record, and records byte by byte.
    for byte in &beat {
        app.send(&[*byte]);
    }
    app.send(&beat.repeat(50));
    for byte in app.seal(&beat.repeat(2)) {
        app.socket.write_all(&[byte]).unwrap();
    }
    for _ in 0..53 {
        assert_eq!(app.frame().unwrap()[42..], *b"1");
    }
}

#[test]
fn frame_length_below_42_or_above_the_bound_closes_the_session() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[amop]\nframe_len_max=100000\n");
    for len in [0u32, 41, 100_001, u32::MAX] {
        let mut app = RawSdk::connect(Profile::Ec, &node);
        let mut frame = sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0");
        app.send(&frame);
        assert!(app.frame().is_some());
        frame[..4].copy_from_slice(&len.to_be_bytes());
        app.send(&frame);
        assert_eq!(app.frame(), None, "{len}");
    }
    // The node counts a link when the kernel is done with it, which its peer may see before.
    wait_until("all four are counted", || node.total(|counters| counters.closed_protocol.get()) == 4);
}

#[test]
fn a_record_that_does_not_authenticate_closes_only_its_own_session() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let (mut good, mut bad) = (RawSdk::connect(Profile::Ec, &node), RawSdk::connect(Profile::Ec, &node));
    let beat = sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0");
    let mut record = bad.seal(&beat);
    *record.last_mut().unwrap() ^= 1;
    bad.socket.write_all(&record).unwrap();
    assert_eq!(bad.frame(), None);
    good.send(&beat);
    assert!(good.frame().is_some());
}

#[test]
fn receiver_that_does_not_read_is_cut_loose_and_disturbs_nobody() {
    let more = "[amop]\nstall_timeout_ms=1000\nsession_queue_bytes_max=1048576\n";
    let node = TestNode::start(Profile::Ec, 0, &[], more);
    let mut deaf = RawSdk::connect(Profile::Ec, &node);
    deaf.send(&sdk::encode(FrameType::SUBSCRIBE, &SEQ, ResultCode::OK, br#"["t"]"#));
    let mut subscriber = RawSdk::connect(Profile::Ec, &node);
    subscriber.send(&sdk::encode(FrameType::SUBSCRIBE, &SEQ, ResultCode::OK, br#"["t"]"#));
    node.wait_for_subscribers("t", 2);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    let frame = sdk::encode_amop(FrameType::MULTICAST, &SEQ, ResultCode::OK, "t", &[7; 60_000]);
    let mut sent = 0;
    // As long as it takes: the deaf one is the first to go.
    wait_until("the deaf session is closed", || {
        publisher.send(&frame);
        assert!(publisher.frame().is_some());
        assert_eq!(subscriber.frame().unwrap().len(), frame.len());
        sent += 1;
        node.total(|counters| counters.closed_stalled.get()) == 1
    });
    assert!(node.total(|counters| counters.dropped_queue_full.get()) > 0);
    assert_eq!(node.total(|counters| counters.sessions.get()), 2);
}

#[test]
fn strangers_do_not_get_in() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let address = node.node().channel_address();
    let good = host_dir(Profile::Ec).join("sdk");
    let foreign = host_dir(Profile::Rsa).join("sdk");
    let load =
        |dir: &std::path::Path| identity::Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key")).unwrap();
    let roots = identity::Roots::load(&good.join("ca.crt")).unwrap();
    // Of another CA.
    let config = client_config(&load(&foreign), &roots, &TlsSettings::default()).unwrap();
    let mut refused = RawSdk::connect_with(config, address);
    if let Ok(app) = &mut refused {
        assert_eq!(app.record(), None);
    }
    // Without a certificate.
    let mut config =
        Arc::unwrap_or_clone(client_config(&load(&good), &roots, &TlsSettings::default()).unwrap());
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    if let Ok(mut app) = RawSdk::connect_with(Arc::new(config), address) {
        assert_eq!(app.record(), None);
    }
    // Not even TLS.
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    // Others do.
    let mut app = RawSdk::connect(Profile::Ec, &node);
    app.send(&sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0"));
    assert!(app.frame().is_some());
    assert_eq!(node.total(|counters| counters.sessions.get()), 1);
}

#[test]
fn nodes_on_the_blacklist_or_off_the_whitelist_are_not_linked() {
    let first = TestNode::start(Profile::Ec, 0, &[], "");
    let id = first.node().id().to_hex();
    let black = TestNode::start(Profile::Ec, 1, &[&first], &format!("[certificate_blacklist]\ncrl.0={id}\n"));
    let white = TestNode::start(Profile::Ec, 2, &[&first], &format!("[certificate_whitelist]\ncal.0={id}\n"));
    let both = format!("[certificate_whitelist]\ncal.0={id}\n[certificate_blacklist]\ncrl.0={id}\n");
    let both = TestNode::start(Profile::Ec, 3, &[&first], &both);
    first.wait_for_neighbours(&[&white]);
    white.wait_for_neighbours(&[&first]);
    black.wait_for_neighbours(&[]);
    both.wait_for_neighbours(&[]);
}

#[test]
fn a_node_that_dials_itself_goes_on_without_a_link() {
    let first = TestNode::start(Profile::Ec, 0, &[], "");
    // The same key on other ports, told to dial the first: it meets its own id.
    let twin = TestNode::start(Profile::Ec, 0, &[&first], "");
    let other = TestNode::start(Profile::Ec, 1, &[&twin], "");
    twin.wait_for_neighbours(&[&other]);
    first.wait_for_neighbours(&[]);
}

#[test]
fn a_restarted_node_is_linked_again_and_its_subscribers_are_found() {
    let first = TestNode::start(Profile::Ec, 0, &[], "");
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    second.stop();
    first.wait_for_neighbours(&[]);
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    runtime().block_on(async {
        let _subscriber = echo(Profile::Ec, &second, &["t"]).await;
        first.wait_for_subscribers("t", 1);
        let (publisher, _messages) = client(Profile::Ec, &[&first]).await;
        assert_eq!(publisher.request("t", b"x", BOUND).await.unwrap().code, ResultCode::OK);
    });
}

#[test]
fn a_client_fails_over_and_subscribes_again_when_its_node_returns() {
    runtime().block_on(async {
        let first = TestNode::start(Profile::Ec, 0, &[], "");
        let second = TestNode::start(Profile::Ec, 1, &[&first], "");
        first.wait_for_neighbours(&[&second]);
        let (subscriber, mut messages) = client(Profile::Ec, &[&first, &second]).await;
        subscriber.subscribe(&["t"]).await.unwrap();
        second.wait_for_subscribers("t", 2);
        first.stop();
        second.wait_for_subscribers("t", 1);
        let (publisher, _messages) = client(Profile::Ec, &[&second]).await;
        publisher.multicast("t", b"still here", BOUND).await.unwrap();
        assert_eq!(&messages.recv().await.unwrap().payload[..], b"still here");
    });
}

#[test]
fn a_stopping_node_answers_what_is_in_flight() {
    runtime().block_on(async {
        let node = TestNode::start(Profile::Ec, 0, &[], "");
        let (subscriber, mut messages) = client(Profile::Ec, &[&node]).await;
        subscriber.subscribe(&["t"]).await.unwrap();
        node.wait_for_subscribers("t", 1);
        let (publisher, _messages) = client(Profile::Ec, &[&node]).await;
        let asking = tokio::spawn(async move { publisher.request("t", b"x", BOUND).await.unwrap() });
        let message = messages.recv().await.unwrap();
        let stopping = tokio::task::spawn_blocking(move || node.stop());
        subscriber.respond(&message, b"in time").await;
        let answer = asking.await.unwrap();
        assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &b"in time"[..]));
        stopping.await.unwrap();
    });
}
