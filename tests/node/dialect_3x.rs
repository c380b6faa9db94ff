//! Applications of FISCO BCOS 3.x over real TLS and sockets (INTEROP §3): with those of 2.x on one network, by our own client
//! and by a script that says what the official SDK says.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use amop::{
    client::{Client, ClientError, Dialect, MessageKind, Messages, file},
    internal::{
        pki::Profile,
        wire::{
            ResultCode,
            sdk::Seq,
            ws::{CloseCode, MessageHead, MessageType, message::AmopBody},
        },
    },
};

use crate::support::{
    BOUND, RawSdk, ReservedPort, TestNode, client, client_speaking, get, host_dir,
    process::{PROGRAM, output_of},
    runtime, wait_until,
    web_socket::{Said, WebSocketSdk},
};

const PROFILE: Profile = Profile::Rsa;

async fn client_3x(nodes: &[&TestNode]) -> (Client, Messages) {
    let addresses = nodes.iter().map(|node| node.node().channel_address().to_string());
    client_speaking(Dialect::V3, PROFILE, addresses.collect()).await
}

/// Lists of topics that come within a second of each other only add; nothing but time tells that it is over.
const LISTS_APART: Duration = Duration::from_millis(1_100);

fn known(node: &TestNode, topic: &str, count: u32) {
    tokio::task::block_in_place(|| node.wait_for_subscribers(topic, count));
}

async fn next(messages: &mut Messages) -> amop::client::Message {
    tokio::time::timeout(BOUND, messages.recv()).await.expect("a message").expect("the client lives")
}

/// One sends messages of all lengths, the other answers them with what is in them.
async fn exchange(publisher: &Client, subscriber: (&Client, &mut Messages), topic: &str) {
    let (client, messages) = subscriber;
    // In a record, in several, in blocks; and a file.
    let lens = [1, 300, 16_384, 70_000, 3_000_000];
    let payloads = lens.map(|len| (0..len).map(|at: usize| at as u8 ^ 0x5a).collect::<Vec<u8>>());
    for payload in &payloads {
        let answering = async {
            let message = next(messages).await;
            assert_eq!((message.kind, message.topic.as_str()), (MessageKind::Unicast, topic));
            assert!(message.payload == payload[..], "{} bytes arrive unchanged", payload.len());
            client.respond(&message, &message.payload).await;
        };
        let (answer, ()) = tokio::join!(publisher.request(topic, payload, BOUND), answering);
        let answer = answer.expect("a topic");
        assert_eq!(answer.code, ResultCode::OK);
        assert!(answer.payload == payload[..], "the answer of {} bytes is unchanged", payload.len());
        let sent = publisher.multicast(topic, payload, BOUND).await.expect("a topic");
        assert_eq!((sent.code, sent.payload.len()), (ResultCode::OK, 0));
        let message = next(messages).await;
        assert_eq!((message.kind, message.topic.as_str()), (MessageKind::Multicast, topic));
        assert!(message.payload == payload[..], "{} bytes arrive unchanged", payload.len());
    }
}

#[test]
fn applications_of_2x_and_3x_exchange_messages_and_answers_of_all_lengths() {
    let here = TestNode::start(PROFILE, 0, &[], "");
    let there = TestNode::start(PROFILE, 1, &[&here], "");
    here.wait_for_neighbours(&[&there]);
    runtime().block_on(async {
        let (of_2x, mut to_2x) = client(PROFILE, &[&here]).await;
        of_2x.subscribe(&["to 2.x"]).await.unwrap();
        let (of_3x, mut to_3x) = client_3x(&[&there]).await;
        of_3x.subscribe(&["to 3.x"]).await.unwrap();
        let (beside, mut to_beside) = client_3x(&[&here]).await;
        beside.subscribe(&["beside"]).await.unwrap();
        for topic in ["to 2.x", "to 3.x", "beside"] {
            known(&here, topic, 1);
            known(&there, topic, 1);
        }
        // Over the link between the nodes, and within one.
        exchange(&of_2x, (&of_3x, &mut to_3x), "to 3.x").await;
        exchange(&of_3x, (&of_2x, &mut to_2x), "to 2.x").await;
        exchange(&of_2x, (&beside, &mut to_beside), "beside").await;
        exchange(&beside, (&of_2x, &mut to_2x), "to 2.x").await;
        exchange(&of_3x, (&beside, &mut to_beside), "beside").await;
        let file = file::encode("report.pdf", &[9; 1_000_000]);
        of_2x.multicast("to 3.x", &file, BOUND).await.unwrap();
        let message = next(&mut to_3x).await;
        assert_eq!(file::decode(&message.payload), Some(("report.pdf", &[9; 1_000_000][..])));
    });
}

#[test]
fn an_application_of_3x_is_told_how_far_its_request_got_and_hears_codes_of_others() {
    let node = TestNode::start(PROFILE, 0, &[], "[amop]\npush_timeout_ms=300\nrequest_timeout_ms=1000\n");
    runtime().block_on(async {
        let (publisher, _) = client_3x(&[&node]).await;
        let nobody = publisher.request("nobody", b"x", BOUND).await.unwrap();
        assert_eq!((nobody.code, nobody.payload.len()), (ResultCode::NO_RECEIVER, 0));
        let (silent, mut messages) = client_3x(&[&node]).await;
        silent.subscribe(&["silent"]).await.unwrap();
        known(&node, "silent", 1);
        let unanswered = publisher.request("silent", b"x", BOUND).await.unwrap();
        assert_eq!(unanswered.code, ResultCode::TIMEOUT);
        next(&mut messages).await;
        // The last looks as if it had a topic in front.
        for (code, data) in [(-7, &b"why"[..]), (4_711, b"why"), (0, b"\x02tx")] {
            let answering = async {
                let message = next(&mut messages).await;
                silent.respond_with(&message, ResultCode(code), data).await;
            };
            let (answer, ()) = tokio::join!(publisher.request("silent", b"x", BOUND), answering);
            let answer = answer.unwrap();
            assert_eq!((answer.code, &answer.payload[..]), (ResultCode(code), data));
        }
        let too_long = publisher.request("silent", &vec![0; 32 << 20], BOUND).await;
        assert!(matches!(too_long, Err(ClientError::PayloadTooLong { .. })), "{too_long:?}");
        let private = publisher.request_private("deals", b"x", BOUND).await;
        assert!(matches!(private, Err(ClientError::NoPrivateTopics)), "{private:?}");
        let answer =
            publisher.rpc(r#"{"id":1,"jsonrpc":"2.0","method":"getBlockNumber"}"#, BOUND).await.unwrap();
        assert!(String::from_utf8_lossy(&answer.payload).contains("no ledger"), "{answer:?}");
    });
}

#[test]
fn a_new_list_of_topics_ends_what_is_not_in_it() {
    let node = TestNode::start(PROFILE, 0, &[], "");
    runtime().block_on(async {
        let (subscriber, _) = client_3x(&[&node]).await;
        subscriber.subscribe(&["one", "two"]).await.unwrap();
        known(&node, "one", 1);
        tokio::time::sleep(LISTS_APART).await;
        subscriber.subscribe(&["two", "three"]).await.unwrap();
        known(&node, "one", 0);
        known(&node, "three", 1);
        known(&node, "two", 1);
    });
}

#[test]
fn an_application_of_3x_is_back_with_its_topics_after_its_node_was_away() {
    let port = ReservedPort::new();
    let start = || {
        TestNode::start_with(PROFILE, 0, &[], "", |config| config.channel_listen.1 = port.address().port())
    };
    let node = start();
    runtime().block_on(async {
        let (subscriber, mut messages) =
            client_speaking(Dialect::V3, PROFILE, vec![port.address().to_string()]).await;
        subscriber.subscribe(&["t"]).await.unwrap();
        known(&node, "t", 1);
        let node = tokio::task::block_in_place(|| {
            node.stop();
            start()
        });
        known(&node, "t", 1);
        let (publisher, _) = client(PROFILE, &[&node]).await;
        publisher.multicast("t", b"again", BOUND).await.unwrap();
        assert_eq!(next(&mut messages).await.payload, &b"again"[..]);
    });
}

/// What the official SDK 3.6.0 sends and wants, to the byte.
struct Script(WebSocketSdk);

impl Script {
    fn connect(node: &TestNode) -> Self {
        let mut script = Self(WebSocketSdk::upgrade(RawSdk::connect(PROFILE, node)));
        let seq = *b"8a3ab2bcbe0c4db0a1b5f7a5f2a4b3c1";
        let request = b"{\"maxVersion\":2,\"minVersion\":0,\"moduleID\":2}\n";
        script.0.send_message(MessageType::HANDSHAKE, &seq, request);
        let (head, body) = script.message();
        assert_eq!((head.message_type, head.status, head.seq), (MessageType::HANDSHAKE, 0, seq));
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(answer["protocolVersion"], 1);
        script.topics(&[]);
        script
    }

    fn topics(&mut self, topics: &[&str]) {
        let body = format!("{}\n", serde_json::json!({ "topics": topics }));
        self.0.send_message(MessageType::TOPICS, b"8a3ab2bcbe0c4db0a1b5f7a5f2a4b3c2", body.as_bytes());
    }

    fn message(&mut self) -> (MessageHead, Vec<u8>) {
        match self.0.said() {
            Some(Said::Message(message)) => {
                let (head, len) = MessageHead::decode(&message).expect("a head");
                (head, message[len..].to_vec())
            }
            said => panic!("{said:?} where a message was to come"),
        }
    }

    /// The next message is of this type and topic; gives its seq and data.
    fn pushed(&mut self, message_type: MessageType, topic: &str) -> (Seq, Vec<u8>) {
        let (head, body) = self.message();
        let read = AmopBody::decode(&body).expect("a body");
        assert_eq!((head.message_type, head.status, read.topic), (message_type, 0, topic.as_bytes()));
        (head.seq, body[read.data_offset..].to_vec())
    }

    fn send_amop(&mut self, message_type: MessageType, seq: &Seq, topic: &str, data: &[u8]) {
        let head = [&[0; 4][..], &(topic.len() as u16).to_be_bytes(), topic.as_bytes(), data].concat();
        self.0.send_message(message_type, seq, &head);
    }
}

#[test]
fn what_the_sdk_of_3x_says_is_understood_to_the_byte() {
    let node = TestNode::start(PROFILE, 0, &[], "[admin]\nlisten_port=0\n");
    let (mut one, mut other) = (Script::connect(&node), Script::connect(&node));
    one.topics(&["one"]);
    other.topics(&["other", "all"]);
    node.wait_for_subscribers("one", 1);
    node.wait_for_subscribers("all", 1);
    let seq = *b"0123456789abcdef0123456789abcdef";
    one.send_amop(MessageType::REQUEST, &seq, "other", b"question");
    let (pushed, data) = other.pushed(MessageType::REQUEST, "other");
    assert_eq!((pushed, &data[..]), (seq, &b"question"[..]));
    other.0.send_message(MessageType::RESPONSE, &seq, b"answer");
    let (head, data) = one.message();
    assert_eq!((head.message_type, head.status, head.seq), (MessageType::RESPONSE, 0, seq));
    assert_eq!(data, b"answer");
    // It answers broadcasts, too, which goes nowhere.
    one.send_amop(MessageType::BROADCAST, &seq, "all", b"to all");
    let (pushed, data) = other.pushed(MessageType::BROADCAST, "all");
    assert_eq!(&data[..], b"to all");
    other.0.send_message(MessageType::RESPONSE, &pushed, b"thanks");
    wait_until("the answer is ignored", || node.total(|all| all.unsolicited_answers.get()) == 1);
    one.send_amop(MessageType::REQUEST, &seq, "nobody", b"x");
    let (head, text) = one.message();
    assert_eq!((head.message_type, head.status, head.seq), (MessageType::RESPONSE, 3001, seq));
    assert!(!text.is_empty());
    // A topic that it cannot send at all.
    one.0.send_message(MessageType::REQUEST, &seq, b"");
    assert_eq!(one.message().0.status, 3001);
    std::thread::sleep(LISTS_APART);
    other.topics(&["all"]);
    node.wait_for_subscribers("other", 0);
    assert!(other.0.answers(), "a ping by a pong");
    let (_, sessions) = get(node.node().admin_address().expect("it has one"), "/sessions");
    let sessions: serde_json::Value = serde_json::from_str(&sessions).expect("JSON");
    let dialects = sessions["items"].as_array().expect("a list").iter().map(|item| item["dialect"].as_str());
    assert_eq!(dialects.collect::<Vec<_>>(), [Some("3.x"); 2]);
}

#[test]
fn who_speaks_no_protocol_of_this_node_is_told_so_and_closed() {
    let node = TestNode::start(PROFILE, 0, &[], "");
    let mut app = WebSocketSdk::upgrade(RawSdk::connect(PROFILE, &node));
    let seq = *b"0123456789abcdef0123456789abcdef";
    app.send_message(MessageType::HANDSHAKE, &seq, br#"{"maxVersion":9,"minVersion":5,"moduleID":2}"#);
    let mut script = Script(app);
    let (head, text) = script.message();
    assert_eq!((head.message_type, head.seq), (MessageType::HANDSHAKE, seq));
    assert!(head.status != 0 && String::from_utf8_lossy(&text).contains("protocol 1"));
    assert_eq!(script.0.close_code(), Some(CloseCode::PROTOCOL_ERROR));
}

#[test]
fn the_commands_speak_both_dialects() {
    let node = TestNode::start(PROFILE, 0, &[], "");
    let address = node.node().channel_address().to_string();
    let application = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).args(["-n", &address]).arg("-c").arg(host_dir(PROFILE).join("sdk"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    };
    let mut subscriber =
        application(&["sub", "t", "--dialect", "3.x", "--reply", "received", "--count", "4"]);
    node.wait_for_subscribers("t", 1);
    for dialect in ["2.x", "3.x"] {
        let published = output_of(application(&["pub", "t", "hello", "--dialect", dialect]));
        assert!(published.status.success(), "{published:?}");
        assert!(String::from_utf8_lossy(&published.stdout).contains("received"), "{published:?}");
        let published = output_of(application(&["pub", "t", "to all", "--multicast", "--dialect", dialect]));
        assert!(published.status.success(), "{published:?}");
    }
    let mut text = String::new();
    subscriber.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    assert!(subscriber.wait().expect("it ends").success());
    let expected = ["t (unicast) hello", "t (multicast) to all"].repeat(2);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    let nobody = output_of(application(&["pub", "nobody", "x", "--dialect", "3.x"]));
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
}
