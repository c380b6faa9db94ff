//! Below the frames: TLS records that a holder of a good certificate forges, and bytes that change on
//! their way.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use amop::internal::{
    pki::Profile,
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        record::{ContentType, HEADER_LEN, RECORD_LEN_MAX},
        settings::TlsSettings,
    },
    wire::{
        ResultCode,
        sdk::{self, FrameType},
    },
};

use crate::{
    healthy::{HealthyPair, answer_of, answers, connect, is_closed, try_send},
    support::{RawSdk, TestNode, host_dir, seq, wait_until},
};

/// Records without content that a session may send one after another.
const EMPTY_RECORDS_MAX: usize = 32;

fn seal(app: &mut RawSdk, content_type: ContentType, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    app.sealer.seal(content_type, &[content], &mut record).unwrap();
    record
}

fn heartbeat() -> Vec<u8> {
    sdk::encode(FrameType::HEARTBEAT, &seq(1), ResultCode::OK, b"0")
}

/// Waits until so many links were closed for breaking the protocol, and only the honest are left.
fn wait_for_closed(node: &TestNode, count: u64) {
    wait_until("they are counted", || {
        node.total(|counters| counters.closed_protocol.get()) == count
            && node.total(|counters| counters.sessions.get()) == 2
    });
}

#[test]
fn a_flood_of_records_without_content_closes_the_session() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    for (content_type, content) in [(ContentType::ApplicationData, &[][..]), (ContentType::Alert, &[1, 100])]
    {
        let mut app = connect(&node);
        // Some are harmless, again and again.
        for _ in 0..3 {
            for _ in 0..EMPTY_RECORDS_MAX {
                let record = seal(&mut app, content_type, content);
                try_send(&mut app, &record);
            }
            assert!(answers(&mut app), "{content_type:?}");
        }
        for _ in 0..1_000 {
            let record = seal(&mut app, content_type, content);
            try_send(&mut app, &record);
        }
        assert!(is_closed(&mut app), "{content_type:?}");
    }
    wait_for_closed(&node, 2);
    healthy.finish();
}

#[test]
fn alerts_renegotiation_and_strange_records_close_the_session() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let client_hello = [&[1, 0, 0, 43, 3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    let forged: [(&str, ContentType, &[u8]); 9] = [
        ("a fatal alert", ContentType::Alert, &[2, 40]),
        ("a fatal alert of no known kind", ContentType::Alert, &[2, 255]),
        ("an alert of no known level", ContentType::Alert, &[9, 40]),
        ("half an alert", ContentType::Alert, &[1]),
        ("an empty alert", ContentType::Alert, &[]),
        ("two alerts in one record", ContentType::Alert, &[1, 100, 1, 100]),
        ("a request to negotiate anew", ContentType::Handshake, &[0, 0, 0, 0]),
        ("a new ClientHello", ContentType::Handshake, &client_hello),
        ("a change of ciphers", ContentType::ChangeCipherSpec, &[1]),
    ];
    for (what, content_type, content) in forged {
        let mut app = connect(&node);
        assert!(answers(&mut app), "{what}");
        let record = seal(&mut app, content_type, content);
        app.socket.write_all(&record).unwrap();
        assert!(is_closed(&mut app), "{what}");
    }
    wait_for_closed(&node, forged.len() as u64);
    // The end in order is no fault.
    let mut app = connect(&node);
    let record = seal(&mut app, ContentType::Alert, &[1, 0]);
    app.socket.write_all(&record).unwrap();
    assert!(is_closed(&mut app));
    wait_for_closed(&node, forged.len() as u64);
    healthy.finish();
}

#[test]
fn records_with_wrong_headers_or_lengths_close_the_session() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let too_long = ((RECORD_LEN_MAX - HEADER_LEN + 1) as u16).to_be_bytes();
    let forged: [(&str, Vec<u8>); 9] = [
        ("no content, no tag", vec![23, 3, 3, 0, 0]),
        ("shorter than a tag", [&[23, 3, 3, 0, 10][..], &[0; 10]].concat()),
        ("a tag alone", [&[23, 3, 3, 0, 24][..], &[0; 24]].concat()),
        ("longer than records are", vec![23, 3, 3, too_long[0], too_long[1]]),
        ("the greatest length", vec![23, 3, 3, 0xff, 0xff]),
        ("a version before", vec![23, 3, 1, 0, 40]),
        ("no version", vec![23, 0, 0, 0, 40]),
        ("no type", vec![99, 3, 3, 0, 40]),
        ("plain HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    for (what, record) in &forged {
        let mut app = connect(&node);
        assert!(answers(&mut app), "{what}");
        app.socket.write_all(record).unwrap();
        assert!(is_closed(&mut app), "{what}");
    }
    wait_for_closed(&node, forged.len() as u64);
    healthy.finish();
}

#[test]
fn flipped_cut_repeated_swapped_and_returned_records_close_the_session_and_are_not_served() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut closed = 0;
    let multicast = sdk::encode_amop(FrameType::MULTICAST, &seq(1), ResultCode::OK, "t", &[7; 300]);
    let mut attack = |what: &str, forge: &dyn Fn(&mut RawSdk) -> Vec<u8>| {
        let mut app = connect(&node);
        let records = forge(&mut app);
        app.socket.write_all(&records).unwrap();
        assert!(is_closed(&mut app), "{what}");
        closed += 1;
    };
    let len = connect(&node).seal(&multicast).len();
    // Type, version, nonce, header and payload of the frame, tag.
    for index in [0, 1, 2, 5, 12, 13, 17, 100, len - 17, len - 16, len - 1] {
        for bit in [0, 7] {
            attack(&format!("bit {bit} of byte {index}"), &|app| {
                let mut record = app.seal(&multicast);
                record[index] ^= 1 << bit;
                record
            });
        }
    }
    // Its length one shorter, and what follows is no record.
    attack("cut", &|app| {
        let mut record = app.seal(&multicast);
        record[4] -= 1;
        record.pop();
        record
    });
    attack("swapped", &|app| {
        let first = app.seal(&multicast);
        [app.seal(&multicast), first].concat()
    });
    attack("left out", &|app| {
        app.seal(&multicast);
        app.seal(&multicast)
    });
    assert_eq!(node.total(|counters| counters.multicasts.get()), 0);
    // Twice with one sequence number: once it counts.
    let mut app = connect(&node);
    let record = app.seal(&heartbeat());
    app.socket.write_all(&record).unwrap();
    assert!(app.frame().is_some());
    app.socket.write_all(&record).unwrap();
    assert!(is_closed(&mut app));
    // What the node said, said back to it.
    let mut app = connect(&node);
    app.send(&heartbeat());
    let mut said = [0; 1];
    app.socket.read_exact(&mut said).unwrap();
    let mut record = [said.to_vec(), vec![0; 4]].concat();
    app.socket.read_exact(&mut record[1..]).unwrap();
    let rest = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(HEADER_LEN + rest, 0);
    app.socket.read_exact(&mut record[HEADER_LEN..]).unwrap();
    app.socket.write_all(&record).unwrap();
    assert!(is_closed(&mut app));
    wait_for_closed(&node, closed + 2);
    healthy.finish();
}

#[test]
fn a_record_that_ends_with_the_connection_is_not_served() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let multicast = sdk::encode_amop(FrameType::MULTICAST, &seq(1), ResultCode::OK, "t", &[7; 300]);
    for cut in [1, 4, 5, 13, 100, 371] {
        let mut app = connect(&node);
        let record = app.seal(&multicast);
        assert!(cut < record.len());
        app.socket.write_all(&record[..cut]).unwrap();
        app.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(is_closed(&mut app), "{cut}");
    }
    wait_until("they are gone", || node.total(|counters| counters.sessions.get()) == 2);
    assert_eq!(node.total(|counters| counters.multicasts.get()), 0);
    healthy.finish();
}

#[test]
fn tls_1_3_key_updates_serve_on_and_floods_and_strange_messages_close_the_session() {
    let node = TestNode::start(Profile::Rsa, 0, &[], "[tls]\nchannel_versions=1.3\n");
    let dir = host_dir(Profile::Rsa).join("sdk");
    let identity = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key")).unwrap();
    let roots = Roots::load(&dir.join("ca.crt")).unwrap();
    let settings = TlsSettings::from_names(&["1.3".to_owned()], &[], &[]).unwrap();
    let config = client_config(&identity, &roots, &settings).unwrap();
    let connect = || {
        let mut app = RawSdk::connect_with(config.clone(), node.node().channel_address()).unwrap();
        // In TLS 1.3 the client is done before the node is.
        assert!(answers(&mut app));
        app
    };
    let mut honest = connect();
    let mut app = connect();
    for _ in 0..100 {
        let mut record = Vec::new();
        app.sealer.update_keys(&mut record).unwrap();
        app.socket.write_all(&record).unwrap();
        assert!(answers(&mut app));
    }
    for _ in 0..=EMPTY_RECORDS_MAX {
        let mut record = Vec::new();
        app.sealer.update_keys(&mut record).unwrap();
        try_send(&mut app, &record);
    }
    assert!(is_closed(&mut app), "a flood of key updates");
    let forged: [(&str, ContentType, &[u8]); 6] = [
        ("a key update of no known kind", ContentType::Handshake, &[24, 0, 0, 1, 2]),
        ("a key update that lies about its length", ContentType::Handshake, &[24, 0, 0, 9, 0]),
        ("a new ClientHello", ContentType::Handshake, &[1, 0, 0, 2, 3, 3]),
        ("a request for a certificate", ContentType::Handshake, &[13, 0, 0, 3, 0, 0, 0]),
        ("an empty handshake message", ContentType::Handshake, &[]),
        ("a fatal alert", ContentType::Alert, &[2, 40]),
    ];
    for (what, content_type, content) in forged {
        let mut app = connect();
        let record = seal(&mut app, content_type, content);
        app.socket.write_all(&record).unwrap();
        assert!(is_closed(&mut app), "{what}");
    }
    let mut app = connect();
    try_send(&mut app, &[20, 3, 3, 0, 1, 1].repeat(1_000));
    assert!(is_closed(&mut app), "a flood of changes of ciphers");
    wait_until("they are counted", || node.total(|counters| counters.closed_protocol.get()) == 8);
    assert!(answers(&mut honest));
}

/// Carries connections to an address, and flips one bit of what it carries when it is told to.
struct Proxy {
    address: SocketAddr,
    flip: Arc<AtomicBool>,
    flipped: Arc<AtomicU64>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (flip, flipped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (flip.clone(), flipped.clone());
        std::thread::spawn(move || {
            for one in listener.incoming() {
                let (one, other) = (one.unwrap(), TcpStream::connect(to).unwrap());
                for (from, to) in [(one.try_clone().unwrap(), other.try_clone().unwrap()), (other, one)] {
                    let (told, count) = (told.clone(), count.clone());
                    std::thread::spawn(move || carry(from, to, &told, &count));
                }
            }
        });
        Self { address, flip, flipped }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, flip: &AtomicBool, flipped: &AtomicU64) {
    let mut buffer = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if flip.swap(false, Relaxed) {
            buffer[read - 1] ^= 1;
            flipped.fetch_add(1, Relaxed);
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_bit_flipped_between_nodes_costs_the_link_and_the_next_one_serves() {
    let first = TestNode::start(Profile::Ec, 0, &[], "");
    let proxy = Proxy::start(first.node().p2p_address());
    let second = TestNode::start(Profile::Ec, 1, &[], &format!("node.9={}\n", proxy.address));
    first.wait_for_neighbours(&[&second]);
    let pairs = [HealthyPair::start(&first), HealthyPair::start(&second)];
    let mut subscriber = connect(&second);
    subscriber.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(1), ResultCode::OK, br#"["far"]"#));
    // Those that were sent before a link was lost come too; none comes changed.
    let arrived = Arc::new(AtomicU64::new(0));
    let newest = arrived.clone();
    let reader = std::thread::spawn(move || {
        while newest.load(Relaxed) < 3 {
            let frame = subscriber.frame().unwrap();
            assert_eq!(frame[frame.len() - 1], b'x');
            for round in 1..=3 {
                if sdk::Header::decode(&frame).unwrap().seq == seq(round) {
                    newest.fetch_max(round, Relaxed);
                }
            }
        }
    });
    let mut publisher = connect(&first);
    for round in 1..=3 {
        first.wait_for_subscribers("far", 1);
        proxy.flip.store(true, Relaxed);
        wait_until("a bit was flipped, and its receiver noticed", || {
            let closed = |node: &TestNode| node.total(|counters| counters.closed_protocol.get());
            proxy.flipped.load(Relaxed) == round && closed(&first) + closed(&second) >= round
        });
        // A multicast may be lost with the node's grace: the next one is not.
        wait_until("the next link serves", || {
            let multicast = sdk::encode_amop(FrameType::MULTICAST, &seq(round), ResultCode::OK, "far", b"x");
            publisher.send(&multicast);
            assert_eq!(answer_of(&publisher.frame().unwrap()).1, ResultCode::OK);
            arrived.load(Relaxed) == round
        });
    }
    reader.join().unwrap();
    pairs.into_iter().for_each(HealthyPair::finish);
}
