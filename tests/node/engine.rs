//! How links end, what their keys are worth, and what unfinished frames may take: on real sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use amop::{
    client::{Certificates, Client, ClientOptions, Dialect, MessageKind},
    internal::{
        config::Config,
        pki::Profile,
        tls::{
            config::client_config,
            identity::{Identity, Roots},
            settings::TlsSettings,
        },
        wire::{
            ResultCode,
            sdk::{self, FrameType},
        },
    },
};

use crate::support::{RawSdk, TestNode, host_dir, wait_until};

const SEQ: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
const BOUND: Duration = Duration::from_secs(30);

fn code(frame: &[u8]) -> i32 {
    sdk::Header::decode(frame).unwrap().result.0
}

/// A subscriber of `t` whose kernel takes little of what it does not read.
fn slow_subscriber(node: &TestNode) -> RawSdk {
    let mut subscriber = RawSdk::connect(Profile::Ec, node);
    socket2::SockRef::from(&subscriber.socket).set_recv_buffer_size(64 * 1024).unwrap();
    subscriber.send(&sdk::encode(FrameType::SUBSCRIBE, &SEQ, ResultCode::OK, br#"["t"]"#));
    node.wait_for_subscribers("t", 1);
    subscriber
}

/// Publishes so many multicasts of so many bytes and waits until the node has taken them.
fn publish(node: &TestNode, count: u32, len: usize) {
    let mut publisher = RawSdk::connect(Profile::Ec, node);
    for number in 0..count {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(len, 7);
        publisher.send(&sdk::encode_amop(FrameType::MULTICAST, &SEQ, ResultCode::OK, "t", &payload));
        assert_eq!(code(&publisher.frame().unwrap()), 0);
    }
}

fn assert_published(subscriber: &mut RawSdk, count: u32) {
    for number in 0..count {
        let frame = subscriber.frame().unwrap_or_else(|| panic!("the end comes before frame {number}"));
        assert_eq!(frame[44..48], number.to_be_bytes());
    }
}

#[test]
fn an_application_that_sends_no_more_still_gets_what_is_queued_for_it() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[amop]\nsession_queue_bytes_max=67108864\n");
    let mut subscriber = slow_subscriber(&node);
    publish(&node, 20, 1 << 20);
    subscriber.socket.shutdown(Shutdown::Write).unwrap();
    assert_published(&mut subscriber, 20);
    assert_eq!(subscriber.frame(), None);
}

#[test]
fn a_session_that_the_node_closes_gets_its_last_frames_while_it_still_sends() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let mut subscriber = slow_subscriber(&node);
    publish(&node, 60, 10_000);
    // A handshake without a protocol in common: the node closes the session. More follows it, and goes on.
    let refused = br#"{"minimumSupport":8,"maximumSupport":9,"clientType":"test"}"#;
    subscriber.send(&sdk::encode(FrameType::HANDSHAKE, &SEQ, ResultCode::OK, refused));
    let flood = subscriber.seal(&sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0").repeat(50));
    let mut writing = subscriber.socket.try_clone().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let read = over.clone();
    let writer = std::thread::spawn(move || {
        while !read.load(Relaxed) && writing.write_all(&flood).is_ok() {
            std::thread::yield_now();
        }
    });
    assert_published(&mut subscriber, 60);
    assert_eq!(subscriber.frame(), None);
    over.store(true, Relaxed);
    writer.join().unwrap();
}

#[test]
fn a_session_that_does_not_read_is_cut_by_a_reset() {
    let more = "[amop]\nstall_timeout_ms=1000\n";
    let node = TestNode::start(Profile::Ec, 0, &[], more);
    let mut deaf = slow_subscriber(&node);
    publish(&node, 8, 1 << 20);
    wait_until("the deaf session is closed", || node.total(|counters| counters.closed_stalled.get()) == 1);
    let mut rest = Vec::new();
    let ended = deaf.socket.read_to_end(&mut rest);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn no_more_links_are_closed_than_the_pool_of_unfinished_frames_needs() {
    let node = TestNode::start_with(Profile::Ec, 0, &[], "", |config: &mut Config| {
        config.engine.unfinished_bytes_max = 115_000;
        config.reactors = Some(1);
    });
    let mut frame = vec![0; 10_000];
    frame[..4].copy_from_slice(&1_000_000u32.to_be_bytes());
    let mut apps: Vec<RawSdk> = (0..20).map(|_| RawSdk::connect(Profile::Ec, &node)).collect();
    let mut others: Vec<RawSdk> = (0..20).map(|_| RawSdk::connect(Profile::Ec, &node)).collect();
    wait_until("all are there", || node.total(|counters| counters.sessions.get()) == 40);
    // While many are looked at, all the rest arrives, and is looked at in one go.
    let beat = sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0");
    others[0].send(&beat.repeat(10_000));
    for (app, other) in apps.iter_mut().zip(&mut others) {
        app.send(&frame);
        other.send(&beat);
    }
    wait_until("as many are gone as must be", || node.total(|counters| counters.sessions.get()) == 31);
    assert_eq!(node.total(|counters| counters.unfinished_frames_dropped.get()), 9);
}

#[test]
fn worn_node_links_are_replaced_and_nothing_is_lost_doubled_or_out_of_order() {
    let worn_soon = |config: &mut Config| config.engine.keys.node_blocks_max = 2_000;
    let first = TestNode::start_with(Profile::Ec, 0, &[], "", worn_soon);
    let second = TestNode::start_with(Profile::Ec, 1, &[&first], "", worn_soon);
    first.wait_for_neighbours(&[&second]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = async |node: &TestNode| {
            let options = ClientOptions {
                nodes: vec![node.node().channel_address().to_string()],
                certificates: Certificates::load(&host_dir(Profile::Ec).join("sdk")).unwrap(),
                connect_timeout: BOUND,
                dialect: Dialect::V2,
            };
            Client::connect(options).await.unwrap()
        };
        // Both ways at once, so that both ends have frames on the way when the link changes.
        let mut asking = Vec::new();
        let total = Arc::new(AtomicU32::new(0));
        for (from, to, topic) in [(&first, &second, "there"), (&second, &first, "back")] {
            let (subscriber, mut messages) = client(to).await;
            subscriber.subscribe(&[topic]).await.unwrap();
            from.wait_for_subscribers(topic, 1);
            let (publisher, rest) = client(from).await;
            let total = total.clone();
            let received = Arc::new(AtomicU32::new(0));
            let count = received.clone();
            tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    if message.kind == MessageKind::Unicast {
                        subscriber.respond(&message, &message.payload).await;
                    } else {
                        let number = u32::from_be_bytes(message.payload[..4].try_into().unwrap());
                        // A number that is not the next one stops the count for good.
                        let _ = count.compare_exchange(number, number + 1, Relaxed, Relaxed);
                        total.fetch_add(1, Relaxed);
                    }
                }
            });
            asking.push((topic, publisher, rest, received));
        }
        let worn = || second.total(|counters| counters.node_links_worn.get());
        let mut sent = 0u32;
        let end = std::time::Instant::now() + 2 * BOUND;
        while worn() < 4 {
            assert!(std::time::Instant::now() < end, "only {} links wore out", worn());
            let mut payload = sent.to_be_bytes().to_vec();
            payload.resize(2_000, 0);
            for (topic, publisher, ..) in &asking {
                assert_eq!(publisher.multicast(topic, &payload, BOUND).await.unwrap().code, ResultCode::OK);
                let answer = publisher.request(topic, &payload, BOUND).await.unwrap();
                assert_eq!((answer.code, answer.payload == payload), (ResultCode::OK, true));
            }
            sent += 1;
        }
        // A multicast goes before the request after it, so all are here; each once and in order.
        for (.., received) in &asking {
            assert_eq!(received.load(Relaxed), sent);
        }
        assert_eq!(total.load(Relaxed), 2 * sent);
    });
    for node in [&first, &second] {
        assert_eq!(node.total(|counters| counters.dropped_window_full.get()), 0);
        assert_eq!(node.total(|counters| counters.closed_dead.get()), 0);
        assert_eq!(node.total(|counters| counters.closed_worn.get()), 0, "closed before it was replaced");
    }
    first.wait_for_neighbours(&[&second]);
}

#[test]
fn a_worn_session_gets_its_answers_in_flight_and_is_then_closed_in_order() {
    let node = TestNode::start_with(Profile::Ec, 0, &[], "", |config: &mut Config| {
        config.engine.keys.sdk_blocks_logged = 20_000;
        config.engine.keys.sdk_blocks_max = 40_000;
    });
    let mut subscriber = slow_subscriber(&node);
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    publisher.send(&sdk::encode_amop(FrameType::REQUEST, &SEQ, ResultCode::OK, "t", b"question"));
    let pushed = subscriber.frame().unwrap();
    assert_eq!(&pushed[44..], b"question");
    let much = sdk::encode_amop(FrameType::MULTICAST, &[b'm'; 32], ResultCode::OK, "nobody", &[0; 100_000]);
    wait_until("the session is worn", || {
        publisher.send(&much);
        assert!(publisher.frame().is_some());
        node.total(|counters| counters.sessions_worn.get()) == 1
    });
    // What is new is refused; what was taken is answered.
    publisher.send(&sdk::encode_amop(FrameType::REQUEST, &[b'n'; 32], ResultCode::OK, "t", b"late"));
    assert_eq!(code(&publisher.frame().unwrap()), ResultCode::NOT_SENT.0);
    subscriber.send(&sdk::encode_amop(FrameType::RESPONSE, &SEQ, ResultCode::OK, "t", b"answer"));
    let answer = publisher.frame().unwrap();
    assert_eq!((code(&answer), &answer[44..]), (0, &b"answer"[..]));
    assert_eq!(publisher.frame(), None);
    wait_until("only the subscriber is left", || node.total(|counters| counters.sessions.get()) == 1);
    assert_eq!(node.total(|counters| counters.closed_worn.get()), 1);
}

#[test]
fn keys_of_tls_1_3_are_renewed_on_a_link_that_lives_on() {
    let more = "[tls]\nchannel_versions=1.3\n";
    let node = TestNode::start_with(Profile::Rsa, 0, &[], more, |config: &mut Config| {
        config.engine.keys.node_blocks_max = 2_000;
    });
    let dir = host_dir(Profile::Rsa).join("sdk");
    let identity = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key")).unwrap();
    let roots = Roots::load(&dir.join("ca.crt")).unwrap();
    let settings = TlsSettings::from_names(&["1.3".to_owned()], &[], &[]).unwrap();
    let config = client_config(&identity, &roots, &settings).unwrap();
    let mut app = RawSdk::connect_with(config, node.node().channel_address()).unwrap();
    let beat = sdk::encode(FrameType::HEARTBEAT, &SEQ, ResultCode::OK, b"0");
    wait_until("the keys were renewed some times", || {
        for _ in 0..200 {
            app.send(&beat);
            assert_eq!(app.frame().unwrap()[42..], *b"1");
        }
        node.total(|counters| counters.keys_updated.get()) >= 3
    });
    assert_eq!(node.total(|counters| counters.sessions.get()), 1);
}
