//! Applications of FISCO BCOS 3.x that break the rules: of HTTP, of WebSocket, of messages.

use amop::internal::{
    pki::Profile,
    wire::{
        sdk::FrameType,
        ws::{
            CloseCode, MessageHead, MessageType, Opcode,
            frame::{Header, encode_masked},
            upgrade,
        },
    },
};

use crate::{
    healthy::{HealthyPair, connect, is_closed, try_send},
    support::{
        RawSdk, TestNode, application_config, host_dir,
        process::Process,
        seq, wait_until,
        web_socket::{MASK, Said, WebSocketSdk},
    },
};

const FRAME_LEN_MAX: usize = 300_000;

fn start() -> TestNode {
    TestNode::start(Profile::Ec, 0, &[], &format!("[amop]\nframe_len_max={FRAME_LEN_MAX}\n"))
}

fn request() -> Vec<u8> {
    upgrade::Client::new([7; 16]).request("localhost")
}

fn upgraded(node: &TestNode) -> WebSocketSdk {
    WebSocketSdk::upgrade(connect(node))
}

/// A frame's header with a length that need not be true.
fn header(opcode: Opcode, is_final: bool, len: u64) -> Vec<u8> {
    Header { opcode, is_final, mask: Some(MASK), len }.encode().to_vec()
}

fn fragment(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = encode_masked(opcode, MASK, payload);
    frame[0] &= 0x7f;
    frame
}

fn message(message_type: MessageType, body: &[u8]) -> Vec<u8> {
    MessageHead { message_type, status: 0, seq: seq(1), ext: 0 }.encode_message(body)
}

/// Status and text of the HTTP answer that is all that a link brings before it closes.
fn refusal(app: &mut RawSdk) -> (u16, String) {
    let mut answer = Vec::new();
    while let Some(record) = app.record() {
        answer.extend(record);
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    assert!(head.contains("\r\nConnection: close"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

#[test]
fn an_upgrade_request_with_every_byte_in_a_packet_of_its_own_is_granted() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    let client = upgrade::Client::new([7; 16]);
    let (last, first) = request().split_last().map(|(last, first)| (*last, first.to_vec())).unwrap();
    for byte in first {
        app.send(&[byte]);
    }
    app.send(&[last]);
    let answer = app.record().expect("an answer");
    assert_eq!(client.read_response(&answer), Ok(Some(answer.len())));
    // A ping comes the same way.
    for byte in encode_masked(Opcode::Ping, MASK, b"ping") {
        app.send(&[byte]);
    }
    assert_eq!(app.record().as_deref(), Some(&b"\x8a\x04ping"[..]));
    healthy.finish();
}

#[test]
fn what_is_no_upgrade_is_refused_in_words_that_say_what_to_change() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let request = String::from_utf8(request()).unwrap();
    let many: String = (0..100).map(|number| format!("X-{number}: 1\r\n")).collect();
    let cases = [
        (request.replace("GET", "POST"), 405, "send GET"),
        (request.replace("Upgrade: websocket\r\n", ""), 426, "send Upgrade: websocket"),
        (request.replace("Version: 13", "Version: 8"), 426, "send Sec-WebSocket-Version: 13"),
        (request.replace("\r\nHost", &format!("\r\n{many}Host")), 431, "send fewer"),
        (request.replace("localhost", &"x".repeat(1 << 20)), 431, "send fewer or shorter headers"),
        (request.replace("HTTP/1.1", "HTTP/1.0"), 505, "HTTP/1.1"),
        (format!("{request}{request}"), 400, "wait for the answer 101"),
        (request.replace("Host:", "Host"), 400, "no HTTP request"),
    ];
    let count = cases.len() as u64;
    for (request, status, says) in cases {
        let mut app = connect(&node);
        let records = app.seal(request.as_bytes());
        try_send(&mut app, &records);
        let (came, text) = refusal(&mut app);
        assert_eq!(came, status, "{text}");
        assert!(text.contains(says), "{text}");
    }
    wait_until("they are counted, and gone", || {
        node.total(|counters| counters.closed_protocol.get()) == count
            && node.total(|counters| counters.sessions.get()) == 2
    });
    healthy.finish();
}

#[test]
fn frames_that_break_the_rules_end_the_session_with_the_code_for_that() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let (unmasked, reserved_bit) = (vec![0x82, 1, b'x'], vec![0xc2, 0x81, 0, 0, 0, 0, b'x']);
    let long_control = [&[0x89, 0xfe, 0, 126][..], &MASK, &[0; 126]].concat();
    let not_minimal = [&[0x82, 0xfe, 0, 5][..], &MASK, b"hello"].concat();
    let sign_bit = [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    let begun = fragment(Opcode::Binary, b"begun");
    let cases = [
        (unmasked, CloseCode::PROTOCOL_ERROR),
        (reserved_bit, CloseCode::PROTOCOL_ERROR),
        (vec![0x83, 0x80], CloseCode::PROTOCOL_ERROR),
        (vec![0x8b, 0x80], CloseCode::PROTOCOL_ERROR),
        (long_control, CloseCode::PROTOCOL_ERROR),
        (fragment(Opcode::Ping, b"ping"), CloseCode::PROTOCOL_ERROR),
        (not_minimal, CloseCode::PROTOCOL_ERROR),
        (sign_bit, CloseCode::PROTOCOL_ERROR),
        (fragment(Opcode::Continuation, b"of what"), CloseCode::PROTOCOL_ERROR),
        ([begun.clone(), begun].concat(), CloseCode::PROTOCOL_ERROR),
        (encode_masked(Opcode::Close, MASK, b"\x03"), CloseCode::PROTOCOL_ERROR),
        (encode_masked(Opcode::Close, MASK, b"\x03\xed"), CloseCode::PROTOCOL_ERROR),
        (encode_masked(Opcode::Text, MASK, b"{}"), CloseCode::UNSUPPORTED_DATA),
        (header(Opcode::Binary, true, FRAME_LEN_MAX as u64 + 6), CloseCode::MESSAGE_TOO_BIG),
        (header(Opcode::Binary, false, u64::MAX >> 1), CloseCode::MESSAGE_TOO_BIG),
    ];
    let count = cases.len() as u64;
    for (bytes, code) in cases {
        let mut app = upgraded(&node);
        assert!(app.answers());
        app.link.send(&bytes);
        assert_eq!(app.close_code(), Some(code), "{bytes:02x?}");
        // Also when every byte comes alone.
        let mut app = upgraded(&node);
        for byte in &bytes {
            let record = app.link.seal(&[*byte]);
            try_send(&mut app.link, &record);
        }
        assert_eq!(app.close_code(), Some(code), "{bytes:02x?} byte by byte");
    }
    wait_until("they are counted, and gone", || {
        node.total(|counters| counters.closed_protocol.get()) == 2 * count
            && node.total(|counters| counters.sessions.get()) == 2
    });
    healthy.finish();
}

#[test]
fn messages_that_are_shorter_than_they_say_end_the_session_or_are_none() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let mut long_seq = message(MessageType::REQUEST, b"\0\0\0\0\0\x01tdata");
    long_seq[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
    for bad in [&b""[..], b"\0", &[0; 9], &message(MessageType::RESPONSE, b"")[..41], &long_seq] {
        let mut app = upgraded(&node);
        app.send_frame(Opcode::Binary, bad);
        assert_eq!(app.close_code(), Some(CloseCode::INVALID_PAYLOAD), "{bad:02x?}");
    }
    // What can be read and means nothing is answered or dropped, and the session stays.
    let mut app = upgraded(&node);
    let good = [
        message(MessageType::RESPONSE, b"nobody asked"),
        message(MessageType::REQUEST, b"\0\0\0\0\xff\xfftoo short"),
        message(MessageType::REQUEST, b""),
        message(MessageType::BROADCAST, b"\0\0\0\0"),
        message(MessageType(FrameType::SUBSCRIBE.0), br#"["smuggled"]"#),
        message(MessageType(0xffff), b"?"),
    ];
    for message in &good {
        app.send_frame(Opcode::Binary, message);
    }
    app.send_frame(Opcode::Ping, b"still there");
    loop {
        match app.said().expect("the session stays") {
            Said::Message(_) => {}
            said => break assert_eq!(said, Said::Pong(b"still there".to_vec())),
        }
    }
    let topics = node.total(|counters| counters.topics.get());
    assert_eq!(topics, 1, "only that of the healthy pair");
    healthy.finish();
}

#[test]
fn fragments_without_end_are_taken_up_to_the_bound_of_a_message() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let mut app = upgraded(&node);
    app.link.send(&fragment(Opcode::Binary, &[7; 1_000]));
    for number in 1..FRAME_LEN_MAX / 1_000 {
        app.link.send(&fragment(Opcode::Continuation, &[7; 1_000]));
        // Pings come between them.
        assert!(number % 50 != 0 || app.answers());
    }
    let one_more = app.link.seal(&fragment(Opcode::Continuation, &[7; 1_000]));
    try_send(&mut app.link, &one_more);
    assert_eq!(app.close_code(), Some(CloseCode::MESSAGE_TOO_BIG));
    // Without payload they take no memory, but time.
    let mut app = upgraded(&node);
    let empty = [fragment(Opcode::Binary, b""), fragment(Opcode::Continuation, b"").repeat(50_000)].concat();
    app.link.send(&empty);
    assert!(app.answers());
    drop(app);
    wait_until("only the honest are left", || node.total(|counters| counters.sessions.get()) == 2);
    healthy.finish();
}

#[test]
fn of_pings_that_come_at_once_the_last_is_answered() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let mut app = upgraded(&node);
    let mut flood = encode_masked(Opcode::Ping, MASK, b"").repeat(1_000_000);
    flood.extend(encode_masked(Opcode::Ping, MASK, b"last"));
    let mut writer = app.link.socket.try_clone().unwrap();
    let records = app.link.seal(&flood);
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &records));
    let mut pongs = 1;
    while app.said() != Some(Said::Pong(b"last".to_vec())) {
        pongs += 1;
    }
    writing.join().unwrap().unwrap();
    assert!(pongs < 100_000, "{pongs} of a million");
    healthy.finish();
}

#[test]
fn a_close_frame_is_answered_and_a_node_that_stops_says_that_it_goes() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    for payload in [&b""[..], b"\x03\xe8", b"\x03\xe9going, with \xff and no UTF-8"] {
        let mut app = upgraded(&node);
        app.send_frame(Opcode::Close, payload);
        assert_eq!(app.close_code(), Some(CloseCode::NORMAL));
    }
    let mut app = upgraded(&node);
    assert!(app.answers());
    healthy.finish();
    node.stop();
    assert_eq!(app.close_code(), Some(CloseCode::GOING_AWAY));
}

#[test]
fn json_that_is_deep_or_long_or_none_disturbs_nobody() {
    let node = start();
    let healthy = HealthyPair::start(&node);
    let deep = "[".repeat(100_000);
    let many = format!("{{\"topics\":[{}\"t\"]}}", "\"t\",".repeat(50_000));
    let numbers = format!("{{\"maxVersion\":{}}}", "9".repeat(100_000));
    for body in [deep.as_str(), &many, &numbers, "", "{", "\u{0}", "{\"topics\":{\"topics\":[]}}"] {
        let types = [MessageType::HANDSHAKE, MessageType::TOPICS, MessageType::RPC];
        for message_type in types.into_iter().chain([MessageType::EVENT_SUBSCRIBE]) {
            let mut app = upgraded(&node);
            app.send_message(message_type, &seq(1), body.as_bytes());
            let ping = app.link.seal(&encode_masked(Opcode::Ping, MASK, b"there"));
            try_send(&mut app.link, &ping);
            loop {
                match app.said().expect("a pong, or a close frame") {
                    Said::Message(_) => {}
                    Said::Pong(_) | Said::Close(_) => break,
                    said => panic!("{said:?}"),
                }
            }
        }
    }
    wait_until("only the honest are left", || node.total(|counters| counters.sessions.get()) == 2);
    healthy.finish();
}

/// Sessions that each send a request without end, or hold one back.
const SLOW: usize = 200;

#[test]
fn requests_by_the_megabyte_and_requests_that_do_not_end_cost_what_may_come_of_them() {
    let node = Process::start(&host_dir(Profile::Ec).join("node0/conf"), false);
    let healthy = HealthyPair::at(node.channel);
    let connect = || RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap();
    let mut slow: Vec<RawSdk> = (0..SLOW).map(|_| connect()).collect();
    let before = node.resident_bytes();
    let endless = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 1 << 20]].concat();
    for app in &mut slow[SLOW / 2..] {
        let records = app.seal(&endless);
        try_send(app, &records);
    }
    for app in &mut slow[..SLOW / 2] {
        app.send(&endless[..upgrade::HEAD_LEN_MAX]);
    }
    healthy.wait_for_exchanges(3);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < SLOW * upgrade::HEAD_LEN_MAX + (16 << 20), "{grown} bytes");
    for app in &mut slow[SLOW / 2..] {
        assert_eq!(refusal(app).0, 431);
    }
    // The others have a time.
    for app in &mut slow[..SLOW / 2] {
        assert!(is_closed(app));
    }
    healthy.finish();
    assert_eq!(node.stop(), Some(0));
}
