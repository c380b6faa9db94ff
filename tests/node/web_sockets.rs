//! Applications of FISCO BCOS 3.x over real sockets: their messages lie in receive buffers, records and blocks as the network
//! cuts them.

use std::net::TcpStream;

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        ws::{CloseCode, MessageHead, MessageType, Opcode, frame::encode_masked, message::AmopBody},
    },
};

use crate::support::{
    BOUND, RawSdk, TestNode, client, runtime, seq,
    web_socket::{Link, MASK, Said, WebSocketSdk},
};

/// An application that has said hello and subscribes to a topic.
fn application<L: Link>(link: L, topic: &str) -> WebSocketSdk<L> {
    let mut app = WebSocketSdk::upgrade(link);
    let hello = br#"{"maxVersion":2,"minVersion":0,"moduleID":2}"#;
    app.send_message(MessageType::HANDSHAKE, &seq(1), hello);
    let (head, body) = app.message();
    assert_eq!((head.message_type, head.seq, head.status), (MessageType::HANDSHAKE, seq(1), 0));
    assert!(String::from_utf8_lossy(&body).contains("\"protocolVersion\":1"));
    let topics = format!("{{\"topics\":[\"{topic}\"]}}");
    app.send_message(MessageType::TOPICS, &seq(2), topics.as_bytes());
    app
}

/// A message in as many fragments, with a ping before the last.
fn fragments(message: &[u8], count: usize) -> Vec<u8> {
    let parts: Vec<&[u8]> = message.chunks(message.len().div_ceil(count)).collect();
    let mut stream = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        if is_last && number > 0 {
            stream.extend(encode_masked(Opcode::Ping, MASK, b"in between"));
        }
        let opcode = if number == 0 { Opcode::Binary } else { Opcode::Continuation };
        let mut frame = encode_masked(opcode, MASK, part);
        frame[0] &= if is_last { 0xff } else { 0x7f };
        stream.extend(frame);
    }
    stream
}

/// Messages both ways between an application on a link to `node` and one of FISCO BCOS 2.x at another node.
fn exchange(link: impl Link + Send + 'static, node: &TestNode, other: &TestNode) {
    let mut app = application(link, "to-3x");
    other.wait_for_subscribers("to-3x", 1);
    let mut app = runtime().block_on(async {
        let (client, mut messages) = client(Profile::Ec, &[other]).await;
        client.subscribe(&["to-2x"]).await.unwrap();
        node.wait_for_subscribers("to-2x", 1);
        for (len, count) in
            [(1, 1), (1_000, 2), (16_341, 1), (70_000, 3), (1 << 20, 1), (5 << 20, 1), (5 << 20, 9)]
        {
            let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let expected = payload.clone();
            // Towards it, and its answer.
            let answering = tokio::task::spawn_blocking(move || {
                let (head, body) = app.message();
                let amop = AmopBody::decode(&body).unwrap();
                assert_eq!((head.message_type, amop.topic), (MessageType::REQUEST, &b"to-3x"[..]));
                assert!(body[amop.data_offset..] == expected);
                let head = MessageHead { message_type: MessageType::RESPONSE, ..head };
                app.link.send(&fragments(&head.encode_message(&expected), count));
                if count > 1 {
                    assert_eq!(app.said(), Some(Said::Pong(b"in between".to_vec())));
                }
                app
            });
            let answer = client.request("to-3x", &payload, BOUND).await.unwrap();
            app = answering.await.unwrap();
            assert_eq!(answer.code, ResultCode::OK);
            assert!(answer.payload == payload, "{len} bytes");
            // From it.
            let head = MessageHead { message_type: MessageType::REQUEST, status: 0, seq: seq(9), ext: 0 };
            let stream = fragments(&head.encode_amop_message("to-2x", &payload), count);
            for piece in stream.chunks(3 + stream.len() / 7) {
                app.link.send(piece);
            }
            let message = messages.recv().await.unwrap();
            assert!(message.payload == payload, "{len} bytes");
            client.respond(&message, &message.payload).await;
            if count > 1 {
                assert_eq!(app.said(), Some(Said::Pong(b"in between".to_vec())));
            }
            let (head, body) = app.message();
            assert_eq!((head.message_type, head.seq, head.status), (MessageType::RESPONSE, seq(9), 0));
            assert!(body == payload, "{len} bytes");
        }
        app
    });
    assert!(app.answers());
    app.send_frame(Opcode::Text, b"{}");
    assert_eq!(app.close_code(), Some(CloseCode::UNSUPPORTED_DATA));
}

#[test]
fn an_application_of_3x_exchanges_messages_of_any_length_with_one_of_2x_on_another_node() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let other = TestNode::start(Profile::Ec, 1, &[&node], "");
    other.wait_for_neighbours(&[&node]);
    exchange(RawSdk::connect(Profile::Ec, &node), &node, &other);
}

#[test]
fn an_application_of_3x_without_tls_does_so_too() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[tls]\nchannel_plaintext=true\n");
    let other = TestNode::start(Profile::Ec, 1, &[&node], "");
    other.wait_for_neighbours(&[&node]);
    let socket = TcpStream::connect(node.node().channel_address()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    exchange(socket, &node, &other);
}
