//! Private topics (WIRE §4) between Java applications: the SDK challenges, signs and verifies, and nobody
//! without a key that the publisher has gets anything.

use std::collections::BTreeSet;

use amop::internal::wire::{ResultCode, sdk::FrameType};
use serde_json::{Value, json};

use crate::{
    keys::{Format, Key},
    kit::{
        Java, Machine, Subscriber, certificates, have_java, hex, noise, publish, two_nodes, wait_for,
        wait_for_subscribers,
    },
    support::{have, process::Process},
};

fn data_topic(topic: &str) -> String {
    format!("#!$TopicNeedVerify_{topic}")
}

/// Waits until a publisher's node has had so many verdicts of each kind.
fn wait_for_verdicts(node: &Process, positive: u64, negative: u64) {
    wait_for("the publisher has judged", || {
        let verdicts = (node.figure("verdicts_positive"), node.figure("verdicts_negative"));
        assert!(verdicts.0 <= positive && verdicts.1 <= negative, "{verdicts:?}");
        verdicts == (positive, negative)
    });
}

/// Sends unicasts until each of these has had one; none may go astray.
fn reach_all(publisher: &mut Java, topic: &str, subscribers: &mut [&mut Java]) {
    let mut reached = BTreeSet::new();
    // Missing one of two so often would be a fault.
    for number in 0..100u8 {
        let answer = publisher.unicast_privately(topic, &[number]);
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(&[number]))));
        assert_eq!(answer["topic"], topic);
        let at = subscribers.iter_mut().position(|java| java.has_received(topic)).expect("it has arrived");
        let received = subscribers[at].received(topic);
        assert_eq!((&received["seq"], &received["payload"]), (&answer["seq"], &answer["payload"]));
        assert_eq!((&received["private"], &received["multicast"]), (&json!(true), &json!(false)));
        reached.insert(at);
        if reached.len() == subscribers.len() {
            return;
        }
    }
    panic!("only {reached:?} had any");
}

/// Everybody of one network.
struct Cast {
    publisher: Java,
    /// Have keys.
    near: Java,
    far: Java,
    /// Has a key that the publisher does not have.
    wrong: Java,
    /// Subscribe to the data topics without a key, at either node.
    thieves: [Java; 2],
}

impl Cast {
    /// Waits until whatever was multicast before has arrived wherever it does.
    fn pass_fence(&mut self) {
        self.publisher.broadcast("fence", b"");
        let Self { near, far, wrong, thieves: [one, other], .. } = self;
        for java in [near, far, wrong, one, other] {
            java.received("fence");
        }
    }

    fn assert_nothing_stolen(&mut self, topic: &str) {
        let Self { wrong, thieves: [one, other], .. } = self;
        for java in [wrong, one, other] {
            assert!(!java.has_received(topic), "{topic}");
        }
    }
}

/// The publisher and half of the others are at the first of the nodes.
fn exchange_privately(first: &Process, second: &Process) {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, other] = ["one", "two", "other"].map(|name| Key::make(dir.path(), name));
    let machine = Machine::start();
    let connect = |node| machine.connect(&certificates(), &[node]);
    let mut cast = Cast {
        publisher: connect(first),
        near: connect(first),
        far: connect(second),
        wrong: connect(second),
        thieves: [connect(first), connect(second)],
    };
    let formats = [("pem", Format::Pem), ("p12", Format::P12), ("hex", Format::Hex)];
    for (topic, format) in formats {
        cast.publisher.publish_privately(topic, &[one.public(format), two.public(format)]);
    }
    cast.publisher.publish_privately("refused", &[one.public(Format::Pem)]);
    // Nobody subscribes; and once this is answered the node has the subscriptions sent before.
    assert_eq!(cast.publisher.unicast_privately("pem", b"")["code"], 100);
    {
        let Cast { near, far, wrong, thieves: [near_thief, far_thief], .. } = &mut cast;
        for java in [&mut *near, far, wrong, near_thief, far_thief] {
            java.subscribe("fence");
        }
        for (topic, format) in formats {
            near.subscribe_privately(topic, &one.private(format));
            far.subscribe_privately(topic, &two.private(format));
            wrong.subscribe_privately(topic, &other.private(format));
            for thief in [&mut *near_thief, far_thief] {
                thief.subscribe(&data_topic(topic));
            }
        }
        wrong.subscribe_privately("refused", &other.private(Format::Hex));
    }
    wait_for_subscribers(&[first], "fence", 5);
    wait_for_verdicts(first, 6, 4);
    assert_eq!(first.figure("pairs"), 3 * 5 + 1);

    for (topic, _) in formats {
        reach_all(&mut cast.publisher, topic, &mut [&mut cast.near, &mut cast.far]);
        cast.publisher.broadcast_privately(topic, b"all");
        for java in [&mut cast.near, &mut cast.far] {
            let received = java.received(topic);
            assert_eq!((&received["private"], &received["multicast"]), (&json!(true), &json!(true)));
            assert_eq!(received["payload"], hex(b"all"));
        }
        let content = noise(40_000);
        let answer = cast.publisher.send_file_privately(topic, "合同.pdf", &content);
        assert_eq!(answer["code"], 0);
        let at = if cast.near.has_received(topic) { &mut cast.near } else { &mut cast.far };
        assert_eq!(at.received(topic)["file"], json!({ "name": "合同.pdf", "content": hex(&content) }));

        // Having proved a key does not make a publisher.
        for java in [&mut cast.near, &mut cast.far] {
            let answer = java.unicast_privately(topic, b"");
            assert_eq!((&answer["code"], &answer["payload"]), (&json!(100), &Value::Null));
            java.broadcast_privately(topic, b"");
        }
        cast.pass_fence();
        cast.assert_nothing_stolen(topic);
        for java in [&mut cast.near, &mut cast.far] {
            assert!(!java.has_received(topic), "it has had its copy");
        }
    }

    // Where the only key is not the publisher's, nobody is there.
    let refused = data_topic("refused");
    assert_eq!(cast.publisher.frame(FrameType::REQUEST, &refused, b"x"), (ResultCode(100), String::new()));
    cast.publisher.broadcast_privately("refused", b"x");
    cast.pass_fence();
    cast.assert_nothing_stolen("refused");

    // The publisher takes a key back: everybody of its topics is asked anew, and one is refused. The SDK
    // answers no challenge for topics that it has left since.
    for topic in ["p12", "hex"] {
        for java in [&mut cast.near, &mut cast.far, &mut cast.wrong] {
            java.unsubscribe(topic);
        }
    }
    cast.wrong.unsubscribe("refused");
    wait_for("the thieves are left, and all of one topic", || first.figure("pairs") == 2 + 2 + 5);
    assert_eq!(cast.publisher.unicast_privately("hex", b"")["code"], 100);
    cast.publisher.publish_privately("pem", &[two.public(Format::Pem)]);
    wait_for_verdicts(first, 6 + 1, 4 + 2);
    for number in 0..20 {
        assert_eq!(cast.publisher.unicast_privately("pem", &[number])["code"], 0);
        assert_eq!(cast.far.received("pem")["payload"], hex(&[number]));
    }
    cast.publisher.broadcast_privately("pem", b"not for all");
    assert_eq!(cast.far.received("pem")["payload"], hex(b"not for all"));
    cast.pass_fence();
    cast.assert_nothing_stolen("pem");
    assert!(!cast.near.has_received("pem"));
}

#[test]
fn on_one_node_only_java_subscribers_that_proved_a_key_receive() {
    if !have_java() || !have("openssl", "version") {
        return;
    }
    let host = crate::support::host_dir(amop::internal::pki::Profile::Rsa);
    let node = Process::start_with(&host.join("node0/conf"), true, crate::kit::ADMIN);
    exchange_privately(&node, &node);
}

#[test]
fn across_nodes_only_java_subscribers_that_proved_a_key_receive() {
    if !have_java() || !have("openssl", "version") {
        return;
    }
    let (first, second) = two_nodes("");
    exchange_privately(&first, &second);
}

#[test]
fn java_applications_and_our_own_prove_keys_to_each_other() {
    if !have_java() || !have("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = two_nodes("");
    let machine = Machine::start();
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut subscriber = machine.connect(&certificates(), &[&second]);
    let content = noise(70_000);
    let file = dir.path().join("对账单.csv");
    std::fs::write(&file, &content).unwrap();
    for format in [Format::Pem, Format::P12, Format::Hex] {
        let theirs = Key::make(dir.path(), &format!("theirs {format:?}"));
        let ours = Key::make_ours(dir.path(), &format!("ours {format:?}"), format);
        for (maker, key) in [("openssl", theirs), ("amop", ours)] {
            // From our own publisher to a Java subscriber …
            let topic = format!("to Java {maker} {format:?}");
            subscriber.subscribe_privately(&topic, &key.private(format));
            let to_java = ["--public-key", key.public_file(format)];
            let answer = publish(&first, &[&[&topic, "hello"], &to_java[..]].concat());
            assert_eq!((&answer["code"], &answer["answer"]), (&json!(0), &json!("hello")), "{topic}");
            let received = subscriber.received(&topic);
            assert_eq!((&received["private"], &received["payload"]), (&json!(true), &json!(hex(b"hello"))));
            let sent = ["--file", file.to_str().unwrap()];
            assert_eq!(publish(&first, &[&[&*topic], &sent[..], &to_java].concat())["code"], 0);
            let received = subscriber.received(&topic);
            assert_eq!(received["file"], json!({ "name": "对账单.csv", "content": hex(&content) }));
            assert_eq!(publish(&first, &[&[&topic, "all", "--multicast"], &to_java[..]].concat())["code"], 0);
            assert_eq!(subscriber.received(&topic)["multicast"], true);
            // … and the other way.
            let topic = format!("from Java {maker} {format:?}");
            let saved = dir.path().join(&topic);
            let more = ["--private-key", key.file(format), "--save", saved.to_str().unwrap()];
            let judged = first.figure("verdicts_positive");
            publisher.publish_privately(&topic, &[key.public(format)]);
            let own = Subscriber::start(&second, &topic, &[&more[..], &["--reply", "yes"]].concat());
            wait_for("it is accepted", || first.figure("verdicts_positive") > judged);
            let answer = publisher.unicast_privately(&topic, b"hello");
            assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"yes"))), "{topic}");
            let received = own.next();
            assert_eq!((&received["private"], &received["text"]), (&json!(true), &json!("hello")));
            assert_eq!(publisher.send_file_privately(&topic, "../合同.pdf", &content)["code"], 0);
            assert_eq!(own.next()["file"]["name"], "../合同.pdf");
            assert!(std::fs::read(saved.join("合同.pdf")).unwrap() == content);
            publisher.broadcast_privately(&topic, b"all");
            assert_eq!(own.next()["kind"], "multicast");
        }
    }
}
