//! Private topics (WIRE §4) from application to application: our own client on real nodes over real sockets.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use amop::{
    client::{Client, Message, MessageKind, Messages, Verdict},
    internal::{
        pki::Profile,
        wire::{
            ResultCode,
            sdk::{self, AmopBody, FrameType, HEADER_LEN, Header},
        },
    },
    keys::{PrivateKey, PublicKey},
};
use tokio::sync::broadcast;

use crate::support::{BOUND, RawSdk, TestNode, client, client_at, host_dir, process::PROGRAM, runtime};

const PROFILE: Profile = Profile::Ec;
const DATA: &str = "#!$TopicNeedVerify_deals";
const SEQ: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

fn one_node() -> Vec<TestNode> {
    vec![TestNode::start(PROFILE, 0, &[], "")]
}

fn two_nodes() -> Vec<TestNode> {
    let first = TestNode::start(PROFILE, 0, &[], "");
    let second = TestNode::start(PROFILE, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    second.wait_for_neighbours(&[&first]);
    vec![first, second]
}

/// An application that publishes `deals`.
struct Publisher {
    client: Client,
    verdicts: broadcast::Receiver<Verdict>,
    _messages: Messages,
}

impl Publisher {
    async fn connect(node: &TestNode, keys: &[PublicKey]) -> Self {
        let (client, messages) = client(PROFILE, &[node]).await;
        let verdicts = client.verdicts();
        client.publish_private("deals", keys).await.unwrap();
        Self { client, verdicts, _messages: messages }
    }

    /// The key that the next subscriber has proved to have; `None` if it was refused.
    async fn verdict(&mut self) -> Option<PublicKey> {
        let verdict = tokio::time::timeout(BOUND, self.verdicts.recv()).await.expect("in time").unwrap();
        assert_eq!((verdict.topic.as_str(), verdict.node), ("deals", 0));
        verdict.key
    }

    async fn request(&self, payload: &[u8]) -> ResultCode {
        let answer = self.client.request_private("deals", payload, BOUND).await.unwrap();
        if answer.code == ResultCode::OK {
            assert_eq!(&answer.payload[..], payload, "an echo");
        } else {
            assert_eq!(&answer.payload[..], b"", "the node's answer");
        }
        answer.code
    }

    /// A multicast to `deals`, and one to `news` behind it.
    async fn multicast_and_news(&self, payload: &[u8]) {
        let private = self.client.multicast_private("deals", payload, BOUND).await.unwrap();
        let news = self.client.multicast("news", payload, BOUND).await.unwrap();
        assert_eq!([private.code, news.code], [ResultCode::OK; 2]);
    }
}

/// An application that answers each unicast with its payload and keeps the multicasts.
struct Subscriber {
    client: Client,
    multicasts: tokio::sync::mpsc::UnboundedReceiver<Message>,
}

impl Subscriber {
    fn serve(client: Client, mut messages: Messages) -> Self {
        let (kept, multicasts) = tokio::sync::mpsc::unbounded_channel();
        let answering = client.clone();
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                match message.kind {
                    MessageKind::Unicast => answering.respond(&message, &message.payload).await,
                    MessageKind::Multicast => _ = kept.send(message),
                }
            }
        });
        Self { client, multicasts }
    }

    /// Subscribes to `news`, and to `deals` if there is a key.
    async fn connect(node: &TestNode, key: Option<&PrivateKey>) -> Self {
        let (client, messages) = client(PROFILE, &[node]).await;
        client.subscribe(&["news"]).await.unwrap();
        if let Some(key) = key {
            client.subscribe_private("deals", key).await.unwrap();
        }
        Self::serve(client, messages)
    }

    /// The next multicast: whether it came privately, and its payload.
    async fn next(&mut self) -> (bool, Vec<u8>) {
        let message = tokio::time::timeout(BOUND, self.multicasts.recv()).await.expect("in time").unwrap();
        assert_eq!(message.topic, if message.is_private { "deals" } else { "news" });
        (message.is_private, message.payload.to_vec())
    }
}

#[test]
fn a_subscriber_with_the_key_gets_everything_on_the_own_node_and_across_nodes() {
    for nodes in [one_node(), two_nodes()] {
        let (near, far) = (&nodes[0], nodes.last().unwrap());
        runtime().block_on(async {
            let key = PrivateKey::generate();
            let mut publisher = Publisher::connect(near, &[key.public_key()]).await;
            let mut subscriber = Subscriber::connect(far, Some(&key)).await;
            assert_eq!(publisher.verdict().await, Some(key.public_key()));
            near.wait_for_subscribers("news", 1);
            tokio::time::timeout(BOUND, publisher.client.authorised("deals")).await.unwrap().unwrap();
            for payload in [&b""[..], b"5 to bob", &[7; 300_000]] {
                assert_eq!(publisher.request(payload).await, ResultCode::OK);
                publisher.multicast_and_news(payload).await;
                assert_eq!(subscriber.next().await, (true, payload.to_vec()));
                assert_eq!(subscriber.next().await, (false, payload.to_vec()));
            }
        });
    }
}

#[test]
fn a_subscriber_without_the_key_or_with_another_gets_nothing() {
    for nodes in [one_node(), two_nodes()] {
        let (near, far) = (&nodes[0], nodes.last().unwrap());
        runtime().block_on(async {
            let (key, other) = (PrivateKey::generate(), PrivateKey::generate());
            let mut publisher = Publisher::connect(near, &[key.public_key()]).await;
            let mut wrong = Subscriber::connect(far, Some(&other)).await;
            assert_eq!(publisher.verdict().await, None);
            // Says that it subscribes, and knows no key: nobody signs for it.
            let mut keyless = Subscriber::connect(far, None).await;
            keyless.client.subscribe(&["news", DATA]).await.unwrap();
            near.wait_for_private_subscribers(DATA, 2);
            near.wait_for_subscribers("news", 2);
            assert_eq!(publisher.request(b"x").await, ResultCode::NO_RECEIVER);
            publisher.multicast_and_news(b"to nobody").await;
            for subscriber in [&mut wrong, &mut keyless] {
                assert_eq!(subscriber.next().await, (false, b"to nobody".to_vec()));
            }
            // Nor by being where one is that has it.
            let mut right = Subscriber::connect(far, Some(&key)).await;
            assert_eq!(publisher.verdict().await, Some(key.public_key()));
            near.wait_for_subscribers("news", 3);
            publisher.multicast_and_news(b"to one").await;
            assert_eq!(right.next().await, (true, b"to one".to_vec()));
            for subscriber in [&mut right, &mut wrong, &mut keyless] {
                assert_eq!(subscriber.next().await, (false, b"to one".to_vec()));
            }
        });
    }
}

#[test]
fn a_publisher_with_two_keys_serves_both_and_tells_them_apart() {
    let nodes = two_nodes();
    runtime().block_on(async {
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let publics = keys.each_ref().map(PrivateKey::public_key);
        let mut publisher = Publisher::connect(&nodes[0], &publics).await;
        let mut subscribers = Vec::new();
        for (node, key) in nodes.iter().zip(&keys) {
            subscribers.push(Subscriber::connect(node, Some(key)).await);
            assert_eq!(publisher.verdict().await, Some(key.public_key()));
        }
        nodes[0].wait_for_subscribers("news", 2);
        publisher.multicast_and_news(b"to both").await;
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.next().await, (true, b"to both".to_vec()));
        }
    });
}

#[test]
fn publishers_of_one_topic_reach_each_their_own_subscribers() {
    let nodes = two_nodes();
    runtime().block_on(async {
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let mut subscribers = Vec::new();
        for key in &keys {
            subscribers.push(Subscriber::connect(&nodes[1], Some(key)).await);
        }
        nodes[0].wait_for_private_subscribers(DATA, 2);
        nodes[0].wait_for_subscribers("news", 2);
        for (index, key) in keys.iter().enumerate() {
            let mut publisher = Publisher::connect(&nodes[0], &[key.public_key()]).await;
            let mut verdicts = [publisher.verdict().await, publisher.verdict().await];
            verdicts.sort();
            assert_eq!(verdicts, [None, Some(key.public_key())]);
            publisher.multicast_and_news(b"x").await;
            assert_eq!(subscribers[index].next().await, (true, b"x".to_vec()));
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.next().await, (false, b"x".to_vec()));
            }
        }
    });
}

#[test]
fn a_subscriber_that_leaves_and_comes_back_proves_itself_again() {
    for nodes in [one_node(), two_nodes()] {
        let (near, far) = (&nodes[0], nodes.last().unwrap());
        runtime().block_on(async {
            let key = PrivateKey::generate();
            let mut publisher = Publisher::connect(near, &[key.public_key()]).await;
            let subscriber = Subscriber::connect(far, Some(&key)).await;
            for _ in 0..2 {
                assert_eq!(publisher.verdict().await, Some(key.public_key()));
                assert_eq!(publisher.request(b"x").await, ResultCode::OK);
                subscriber.client.unsubscribe_private("deals").await.unwrap();
                near.wait_for_private_subscribers(DATA, 0);
                assert_eq!(publisher.request(b"x").await, ResultCode::NO_RECEIVER);
                subscriber.client.subscribe_private("deals", &key).await.unwrap();
            }
            assert_eq!(publisher.verdict().await, Some(key.public_key()));
            assert_eq!(publisher.request(b"x").await, ResultCode::OK);
        });
    }
}

#[test]
fn a_key_that_a_publisher_drops_ends_what_its_owner_gets() {
    let nodes = two_nodes();
    runtime().block_on(async {
        let (key, other) = (PrivateKey::generate(), PrivateKey::generate());
        let mut publisher = Publisher::connect(&nodes[0], &[key.public_key()]).await;
        let _subscriber = Subscriber::connect(&nodes[1], Some(&key)).await;
        assert_eq!(publisher.verdict().await, Some(key.public_key()));
        assert_eq!(publisher.request(b"x").await, ResultCode::OK);
        publisher.client.publish_private("deals", &[other.public_key()]).await.unwrap();
        assert_eq!(publisher.verdict().await, None);
        assert_eq!(publisher.request(b"x").await, ResultCode::NO_RECEIVER);
        publisher.client.publish_private("deals", &[other.public_key(), key.public_key()]).await.unwrap();
        assert_eq!(publisher.verdict().await, Some(key.public_key()));
        assert_eq!(publisher.request(b"x").await, ResultCode::OK);
        publisher.client.unpublish_private("deals").await.unwrap();
        assert_eq!(publisher.request(b"x").await, ResultCode::NO_RECEIVER);
    });
}

#[test]
fn requests_go_where_a_subscriber_was_accepted() {
    // The second node has no link to the first: only a session at the first can have accepted anybody.
    let first = TestNode::start(PROFILE, 0, &[], "");
    let second = TestNode::start(PROFILE, 1, &[], "");
    runtime().block_on(async {
        let key = PrivateKey::generate();
        let (publisher, _messages) = client(PROFILE, &[&first, &second]).await;
        publisher.publish_private("deals", &[key.public_key()]).await.unwrap();
        let _subscriber = Subscriber::connect(&first, Some(&key)).await;
        tokio::time::timeout(BOUND, publisher.authorised("deals")).await.unwrap().unwrap();
        for _ in 0..8 {
            let answer = publisher.request_private("deals", b"x", BOUND).await.unwrap();
            assert_eq!(answer.code, ResultCode::OK);
        }
    });
}

/// Stands between applications and a node; can cut what goes through it.
struct Wire {
    address: SocketAddr,
    flows: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Wire {
    async fn to(node: &TestNode) -> Self {
        let to = node.node().channel_address();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self { address: listener.local_addr().unwrap(), flows: Arc::default() };
        let flows = wire.flows.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let flow = tokio::spawn(async move {
                    let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
                flows.lock().unwrap().push(flow.abort_handle());
            }
        });
        wire
    }

    fn cut(&self) {
        self.flows.lock().unwrap().drain(..).for_each(|flow| flow.abort());
    }
}

#[test]
fn both_sides_take_up_their_topics_again_after_a_lost_connection() {
    let nodes = two_nodes();
    runtime().block_on(async {
        let (wire, far_wire) = (Wire::to(&nodes[0]).await, Wire::to(&nodes[1]).await);
        let key = PrivateKey::generate();
        let (publishing, _messages) = client_at(PROFILE, vec![wire.address.to_string()]).await;
        let verdicts = publishing.verdicts();
        publishing.publish_private("deals", &[key.public_key()]).await.unwrap();
        let mut publisher = Publisher { client: publishing, verdicts, _messages };
        let (subscribing, messages) = client_at(PROFILE, vec![far_wire.address.to_string()]).await;
        subscribing.subscribe_private("deals", &key).await.unwrap();
        let _subscriber = Subscriber::serve(subscribing, messages);
        assert_eq!(publisher.verdict().await, Some(key.public_key()));
        for cut in [far_wire, wire] {
            cut.cut();
            assert_eq!(publisher.verdict().await, Some(key.public_key()));
            assert_eq!(publisher.request(b"x").await, ResultCode::OK);
        }
    });
}

#[test]
fn a_session_that_subscribes_to_anothers_route_topic_sees_no_challenge() {
    for nodes in [one_node(), two_nodes()] {
        let (near, far) = (&nodes[0], nodes.last().unwrap());
        let route = format!("#!$VerifyChannel_{DATA}_{}", "ab".repeat(16));
        let subscribe = |topics: &[&str]| {
            let topics = serde_json::to_vec(topics).unwrap();
            sdk::encode(FrameType::SUBSCRIBE, &SEQ, ResultCode::OK, &topics)
        };
        let mut thieves = [near, far].map(|node| RawSdk::connect(PROFILE, node));
        for thief in &mut thieves {
            thief.send(&subscribe(&[&route, "news"]));
        }
        near.wait_for_subscribers("news", 2);
        let mut victim = RawSdk::connect(PROFILE, far);
        victim.send(&subscribe(&[&route, DATA]));
        near.wait_for_private_subscribers(DATA, 1);
        let key = PrivateKey::generate();
        let answering = key.clone();
        let answering = std::thread::spawn(move || {
            let challenge = victim.frame().expect("a challenge");
            let header = Header::decode(&challenge).unwrap();
            let body = AmopBody::decode(&challenge[HEADER_LEN..]).unwrap();
            assert_eq!((header.frame_type, body.topic), (FrameType::REQUEST, route.as_str()));
            let signature = answering.sign(&challenge[HEADER_LEN + body.payload_offset..]);
            let seq = header.seq;
            victim.send(&sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, &route, &signature));
            victim
        });
        runtime().block_on(async {
            let mut publisher = Publisher::connect(near, &[key.public_key()]).await;
            assert_eq!(publisher.verdict().await, Some(key.public_key()));
            publisher.multicast_and_news(b"x").await;
        });
        let delivered = answering.join().unwrap().frame().expect("the message");
        assert_eq!(AmopBody::decode(&delivered[HEADER_LEN..]).unwrap().topic, DATA);
        for thief in &mut thieves {
            let first = thief.frame().expect("the news");
            assert_eq!(AmopBody::decode(&first[HEADER_LEN..]).unwrap().topic, "news");
        }
    }
}

const PASSWORD: &str = "a password";

/// The program with a password for keys that need one.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("AMOP_KEY_PASSWORD", PASSWORD).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program as an application of a node.
fn application(node: &TestNode, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command.arg("-n").arg(node.node().channel_address().to_string());
    command.arg("-c").arg(host_dir(PROFILE).join("sdk"));
    command
}

/// Makes a key with `amop keys new`: its private and its public file.
fn new_key(dir: &Path, format: &str) -> [PathBuf; 2] {
    let made = program(&["keys", "new", "--format", format, "--out"]).arg(dir).output().unwrap();
    let text = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let path = |line: usize| text.lines().nth(line).unwrap()["private file ".len()..].into();
    [path(2), path(3)]
}

/// `amop sub` of the private topic `deals`, as soon as it has subscribed.
fn subscribe(node: &TestNode, key: &Path) -> Child {
    let mut child = application(node, &["sub", "deals", "--count", "1", "--reply", "taken"])
        .arg("--private-key")
        .arg(key)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("subscribed to private deals at "), "{line}");
    child
}

/// What a subscriber printed; it has to end by itself.
fn printed(mut child: Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    text
}

fn publish(node: &TestNode, keys: &[&Path], more: &[&str]) -> Output {
    let mut command = application(node, &["pub", "deals", "5 to bob"]);
    for key in keys {
        command.arg("--public-key").arg(key);
    }
    command.args(more).output().unwrap()
}

#[test]
fn the_program_carries_private_messages_with_keys_of_every_format() {
    for nodes in [one_node(), two_nodes()] {
        let (near, far) = (&nodes[0], nodes.last().unwrap());
        let dir = tempfile::tempdir().unwrap();
        for format in ["pem", "p12", "hex"] {
            let [private, public] = new_key(dir.path(), format);
            let subscriber = subscribe(far, &private);
            let published = publish(near, &[&public], &[]);
            let answer = String::from_utf8(published.stdout).unwrap();
            let error = String::from_utf8(published.stderr).unwrap();
            assert_eq!(published.status.code(), Some(0), "{format}: {error}");
            assert!(
                answer.starts_with("answered in ") && answer.ends_with(": taken\n"),
                "{format}: {answer}"
            );
            assert_eq!(printed(subscriber), "deals (unicast) 5 to bob\n", "{format}");
        }
    }
}

#[test]
fn the_program_publishes_to_several_keys_given_as_files_and_as_digits() {
    let nodes = two_nodes();
    let dir = tempfile::tempdir().unwrap();
    let [first, first_public] = new_key(dir.path(), "pem");
    let [second, second_public] = new_key(dir.path(), "hex");
    let digits = program(&["keys", "convert", "--to", "public-hex"]).arg(&second_public).output().unwrap();
    let digits = String::from_utf8(digits.stdout).unwrap();
    let keys = [&first_public, Path::new(digits.trim())];
    for (node, key) in [(&nodes[0], &first), (&nodes[1], &second)] {
        let subscriber = subscribe(node, key);
        let published = publish(&nodes[0], &keys, &["--multicast"]);
        assert_eq!(published.status.code(), Some(0), "{published:?}");
        assert_eq!(printed(subscriber), "deals (multicast) 5 to bob\n");
    }
}

#[test]
fn the_program_says_what_it_means_that_nobody_has_the_key() {
    let nodes = one_node();
    let dir = tempfile::tempdir().unwrap();
    let ([wrong, _], [_, public]) = (new_key(dir.path(), "pem"), new_key(dir.path(), "pem"));
    let mut subscriber = subscribe(&nodes[0], &wrong);
    for (more, answer) in [(None, "100"), (Some("--multicast"), "accepted by the node")] {
        let more: Vec<&str> = ["--wait", "0.2"].into_iter().chain(more).collect();
        let published = publish(&nodes[0], &[&public], &more);
        assert_eq!(published.status.code(), Some(3));
        let (text, error) = (published.stdout, published.stderr);
        assert!(String::from_utf8(text).unwrap().contains(answer), "{answer}");
        let error = String::from_utf8(error).unwrap();
        assert!(error.contains("nobody has proved to have a key for the private topic \"deals\""), "{error}");
    }
    // What needs no node is refused before any is asked.
    for (key, why) in [
        (wrong.to_str().unwrap(), "this is a private key"),
        ("no-such-file", "is neither a file nor"),
        ("abcd", "these hex digits are no key"),
    ] {
        let refused = publish(&nodes[0], &[Path::new(key)], &[]);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && error.contains(why), "{key}: {error}");
    }
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}
