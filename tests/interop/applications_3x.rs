//! Applications of FISCO BCOS 3.x by its official SDKs, in Java and in C, among themselves and with those of 2.x.

use std::{net::SocketAddr, path::Path, process::Command};

use amop::internal::pki::Profile;
use serde_json::{Value, json};

use crate::{
    keys::{Format, Key},
    kit::{
        ADMIN, Java, Machine, Sdk, Subscriber, certificates, hex, noise, publish, text, two_nodes, wait_for,
        wait_for_subscribers,
    },
    support::{
        have, host_dir, host_dir_3x,
        process::{Process, write_config},
    },
};

/// What applications of 3.x are told.
const TIMEOUT: u64 = 1000;
const OVER_BANDWIDTH: u64 = 1004;
const NO_NODE: u64 = 3001;

/// A unicast whose answer is what was sent.
fn exchange(publisher: &mut Java, topic: &str, payload: &[u8]) {
    let answer = publisher.unicast(topic, payload);
    assert_eq!(answer["code"], 0, "{} bytes: {}", payload.len(), answer["message"]);
    assert!(answer["payload"] == hex(payload), "{} bytes came back changed", payload.len());
}

fn talk_to_itself(application: &mut Java, node: &Process) {
    application.subscribe("t");
    wait_for_subscribers(&[node], "t", 1);
    application.broadcast("t", b"to myself");
    is_received(application, "t", b"to myself");
}

/// A unicast that no subscriber answers. The SDKs send nothing that is empty.
fn is_refused(publisher: &mut Java, topic: &str, code: u64) {
    let answer = publisher.unicast(topic, b"refused");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(code), &Value::Null), "{topic}");
    assert_ne!(answer["message"], "", "an application has nothing but the code and this");
}

fn is_received(subscriber: &mut Java, topic: &str, payload: &[u8]) -> Value {
    let received = subscriber.received(topic);
    assert!(received["payload"] == hex(payload), "{} bytes arrived changed", payload.len());
    received
}

fn exchange_messages_over_two_nodes(sdk: Sdk) {
    if !sdk.is_there() {
        return;
    }
    let (first, second) = two_nodes("[amop]\npush_timeout_ms=2000\n");
    let machine = Machine::start_of(sdk);
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut subscriber = machine.connect(&certificates(), &[&second]);
    subscriber.subscribe("贸易");
    wait_for_subscribers(&[&first, &second], "贸易", 1);
    for payload in [&b"hello"[..], "你好".as_bytes(), &noise(20_000), &noise(1 << 20)] {
        exchange(&mut publisher, "贸易", payload);
        let received = is_received(&mut subscriber, "贸易", payload);
        assert_eq!(received["node"], second.channel.to_string());
    }
    is_refused(&mut publisher, "nobody", NO_NODE);
    // Longer than a topic can be in the network.
    is_refused(&mut publisher, &"t".repeat(300), NO_NODE);
    is_refused(&mut publisher, &"t".repeat(70_000), NO_NODE);
    exchange(&mut publisher, "贸易", b"still here");
    is_received(&mut subscriber, "贸易", b"still here");

    // Nobody is asked what it sends itself: the SDK would take its own request for the answer.
    publisher.subscribe("own");
    wait_for_subscribers(&[&first, &second], "own", 1);
    is_refused(&mut publisher, "own", NO_NODE);

    // Everybody once, the sender, too. Each answers, as the SDKs cannot tell a broadcast from a unicast.
    subscriber.subscribe("own");
    wait_for_subscribers(&[&first, &second], "own", 2);
    for payload in [&b"all"[..], b"again", &noise(1 << 20)] {
        publisher.broadcast("own", payload);
        let one = is_received(&mut publisher, "own", payload);
        let other = is_received(&mut subscriber, "own", payload);
        assert_ne!(one["node"], other["node"]);
    }
    assert!(!publisher.has_received("own") && !subscriber.has_received("own"));

    // Who does not answer costs the push timeout; an answer that comes too late disturbs nothing.
    subscriber.tell(json!({ "do": "subscribe", "topic": "slow", "hold": true }));
    wait_for_subscribers(&[&first], "slow", 1);
    is_refused(&mut publisher, "slow", TIMEOUT);
    is_received(&mut subscriber, "slow", b"refused");
    subscriber.tell(json!({ "do": "release" }));
    exchange(&mut publisher, "贸易", b"after that");
    is_received(&mut subscriber, "贸易", b"after that");
    let id = publisher.send("slow", b"in time");
    is_received(&mut subscriber, "slow", b"in time");
    subscriber.tell(json!({ "do": "release" }));
    let answer = publisher.answer(id);
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"in time"))));
    // The SDK has a timeout of its own.
    let own =
        publisher.ask(json!({ "do": "unicast", "topic": "slow", "payload": hex(b"x"), "timeout_ms": 100 }));
    assert_eq!(own["code"], -4008, "{own}");
    // Many at once: the SDK sends them in any order.
    let ids: Vec<u64> = (0..200u8).map(|number| publisher.send("贸易", &[number])).collect();
    for (number, id) in (0..200u8).zip(ids) {
        let answer = publisher.answer(id);
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(&[number]))));
    }
}

#[test]
fn java_applications_of_3x_exchange_messages_over_two_nodes() {
    exchange_messages_over_two_nodes(Sdk::Java3x);
}

#[test]
fn applications_of_the_c_library_exchange_messages_over_two_nodes() {
    exchange_messages_over_two_nodes(Sdk::C3x);
}

fn unsubscribe_and_leave(sdk: Sdk) {
    if !sdk.is_there() {
        return;
    }
    let (first, second) = two_nodes("[amop]\npush_timeout_ms=2000\n");
    let machine = Machine::start_of(sdk);
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut subscriber = machine.connect(&certificates(), &[&second]);
    subscriber.tell(json!({ "do": "subscribe", "topic": "slow", "hold": true }));
    // The SDK sends its whole list each time, and its lists overtake each other.
    let topics: Vec<String> = (0..50).map(|number| format!("burst {number}")).collect();
    for topic in &topics {
        subscriber.subscribe(topic);
    }
    for topic in &topics {
        wait_for_subscribers(&[&first, &second], topic, 1);
    }
    exchange(&mut publisher, "burst 7", b"before");
    is_received(&mut subscriber, "burst 7", b"before");
    // A list that comes right after another one takes nothing away, so this one must come later: the node waits 2 s for an answer.
    is_refused(&mut publisher, "slow", TIMEOUT);
    subscriber.unsubscribe("burst 7");
    wait_for_subscribers(&[&first, &second], "burst 7", 0);
    is_refused(&mut publisher, "burst 7", NO_NODE);
    assert_eq!((first.subscribers("burst 6"), first.subscribers("burst 49")), (1, 1));
    exchange(&mut publisher, "burst 49", b"after");
    // An application that ends is gone from all.
    subscriber.stop();
    for topic in &topics {
        wait_for_subscribers(&[&first, &second], topic, 0);
    }
    is_refused(&mut publisher, "burst 49", NO_NODE);
}

#[test]
fn a_java_application_of_3x_subscribes_to_many_topics_and_leaves_them() {
    unsubscribe_and_leave(Sdk::Java3x);
}

#[test]
fn an_application_of_the_c_library_subscribes_to_many_topics_and_leaves_them() {
    unsubscribe_and_leave(Sdk::C3x);
}

/// As applications of 2.x write a file into a message.
fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let len = name.len() as u32;
    [&(-128i32).to_be_bytes()[..], &len.to_be_bytes(), name.as_bytes(), content].concat()
}

fn meet_applications_of_2x(sdk: Sdk) {
    if !sdk.is_there() || !have("openssl", "version") {
        return;
    }
    let (first, second) = two_nodes("");
    let (of_2x, of_3x) = (Machine::start(), Machine::start_of(sdk));
    let mut old = of_2x.connect(&certificates(), &[&first]);
    let mut new = of_3x.connect(&certificates(), &[&second]);
    old.subscribe("to old");
    new.subscribe("to new");
    wait_for_subscribers(&[&first, &second], "to old", 1);
    wait_for_subscribers(&[&first, &second], "to new", 1);
    for payload in [&b"hello"[..], "你好".as_bytes(), &noise(20_000), &noise(1 << 20)] {
        exchange(&mut new, "to old", payload);
        assert_eq!(is_received(&mut old, "to old", payload)["multicast"], false);
        exchange(&mut old, "to new", payload);
        is_received(&mut new, "to new", payload);
    }
    is_refused(&mut new, "nobody", NO_NODE);
    assert_eq!(old.unicast("nobody", b"x")["code"], 100);
    let dialect = |node: &Process| node.admin_json("/sessions")["items"][0]["dialect"].clone();
    assert_eq!((dialect(&first), dialect(&second)), (json!("2.x"), json!("3.x")));

    // Files, which only those of 2.x have a form for.
    let content = noise(1 << 20);
    exchange(&mut new, "to old", &file("报告.pdf", &content));
    assert!(old.received("to old")["file"] == json!({ "name": "报告.pdf", "content": hex(&content) }));
    assert_eq!(old.send_file("to new", "报告.pdf", &content)["code"], 0);
    is_received(&mut new, "to new", &file("报告.pdf", &content));

    // Our own client.
    let ours = Subscriber::start(&second, "to ours", &["--reply", "from ours"]);
    wait_for_subscribers(&[&first, &second], "to ours", 1);
    let answer = new.unicast("to ours", b"from 3.x");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"from ours"))));
    assert_eq!(ours.next()["text"], "from 3.x");
    let answer = publish(&first, &["to new", "from ours"]);
    assert_eq!((&answer["code"], &answer["answer"]), (&json!(0), &json!("from ours")));
    is_received(&mut new, "to new", b"from ours");

    // Everybody, whoever sends.
    new.subscribe("to old");
    let all = Subscriber::start(&first, "to old", &[]);
    wait_for_subscribers(&[&first, &second], "to old", 3);
    new.broadcast("to old", b"of 3.x to all");
    old.broadcast("to old", b"of 2.x to all");
    assert_eq!(publish(&first, &["to old", "of ours to all", "--multicast"])["code"], 0);
    let texts = ["of 3.x to all", "of 2.x to all", "of ours to all"];
    let mut expected = texts.map(|text| hex(text.as_bytes()));
    expected.sort();
    for application in [&mut old, &mut new] {
        let mut received =
            [(); 3].map(|()| application.received("to old")["payload"].as_str().unwrap().to_owned());
        received.sort();
        assert_eq!(received, expected);
    }
    let mut received = [(); 3].map(|()| all.next()["text"].as_str().unwrap().to_owned());
    received.sort();
    let mut expected = texts.map(str::to_owned);
    expected.sort();
    assert_eq!(received, expected);
    leave_private_topics_untouched(&of_2x, &mut new, [&first, &second]);
}

/// Private topics of 2.x beside an application of 3.x, which means nothing by their names.
fn leave_private_topics_untouched(of_2x: &Machine, new: &mut Java, [first, second]: [&Process; 2]) {
    let keys = tempfile::tempdir().unwrap();
    let key = Key::make(keys.path(), "key");
    for prefix in ["#!$TopicNeedVerify_", "#!$VerifyChannel_", "#!$PushChannel_"] {
        new.subscribe(&format!("{prefix}secret"));
    }
    let mut publisher = of_2x.connect(&certificates(), &[first]);
    let mut subscriber = of_2x.connect(&certificates(), &[second]);
    subscriber.subscribe_privately("secret", &key.private(Format::Pem));
    publisher.publish_privately("secret", &[key.public(Format::Pem)]);
    wait_for("the subscriber is accepted", || first.figure("verdicts_positive") == 1);
    let answer = publisher.unicast_privately("secret", b"for one");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"for one"))));
    is_received(&mut subscriber, "secret", b"for one");
    publisher.broadcast_privately("secret", b"for all");
    is_received(&mut subscriber, "secret", b"for all");
    // What was sent before has passed.
    exchange(&mut publisher, "to new", b"fence");
    is_received(new, "to new", b"fence");
    assert!(!new.has_received("#!$TopicNeedVerify_secret"));
    is_refused(new, "#!$TopicNeedVerify_secret", NO_NODE);
    assert_eq!(first.figure("verdicts_negative"), 0);
}

#[test]
fn java_applications_of_3x_and_of_2x_exchange_messages() {
    meet_applications_of_2x(Sdk::Java3x);
}

#[test]
fn applications_of_the_c_library_and_of_2x_exchange_messages() {
    meet_applications_of_2x(Sdk::C3x);
}

#[test]
fn applications_of_3x_with_two_nodes_outlive_either_and_subscribe_again_by_themselves() {
    if !Sdk::Java3x.is_there() {
        return;
    }
    let host = host_dir(Profile::Rsa);
    let dir = tempfile::tempdir().unwrap();
    let first = Process::start_with(&host.join("node0/conf"), true, ADMIN);
    // An address of its own: nobody else takes the ports while the node is away.
    let any = SocketAddr::from(([127, 0, 80, 1], 0));
    let more = format!("node.0={}\n{ADMIN}", first.p2p);
    let config = |listen| write_config(dir.path(), &host.join("node1/conf"), true, listen, &more);
    let second = Process::run(&config([any; 2]));
    let config = config([second.channel, second.p2p]);
    let machine = Machine::start_of(Sdk::Java3x);
    let mut publisher = machine.connect(&certificates(), &[&first, &second]);
    let mut subscriber = machine.connect(&certificates(), &[&first, &second]);
    subscriber.subscribe("t");
    wait_for_subscribers(&[&first, &second], "t", 2);
    // The SDK broadcasts to each of its nodes, and each of the subscriber's two sessions gets each frame.
    publisher.broadcast("t", b"four");
    let copies: Vec<Value> = (0..4).map(|_| is_received(&mut subscriber, "t", b"four")).collect();
    let through_first = copies.iter().filter(|copy| copy["node"] == first.channel.to_string()).count();
    assert_eq!(through_first, 2);
    // A unicast arrives once, and there was no fifth copy.
    for number in 0..8u8 {
        exchange(&mut publisher, "t", &[number]);
        is_received(&mut subscriber, "t", &[number]);
    }
    assert_eq!(second.stop(), Some(0));
    wait_for_subscribers(&[&first], "t", 1);
    reach(&mut publisher, &mut subscriber, &first);
    let second = Process::run(&config);
    // It looks every 20 s whether one is back, and says its list again.
    wait_for_subscribers(&[&first, &second], "t", 2);
    wait_for("the publisher is back, too", || second.admin_json("/sessions")["total"] == 2);
    assert_eq!(first.stop(), Some(0));
    wait_for_subscribers(&[&second], "t", 1);
    reach(&mut publisher, &mut subscriber, &second);
}

/// Sends until it arrives through the only node that is left: an SDK may not have seen yet that the other one is gone.
fn reach(publisher: &mut Java, subscriber: &mut Java, node: &Process) {
    wait_for("a message arrives", || {
        publisher.unicast("t", node.channel.to_string().as_bytes())["code"] == 0
    });
    let received = is_received(subscriber, "t", node.channel.to_string().as_bytes());
    assert_eq!(received["node"], node.channel.to_string());
}

#[test]
fn what_the_limiter_refuses_reaches_an_application_of_3x_as_1004() {
    if !Sdk::Java3x.is_there() {
        return;
    }
    // 1,311 bytes a second.
    let (first, second) = two_nodes("[flow_control]\noutgoing_bandwidth_limit=0.01\n");
    let machine = Machine::start_of(Sdk::Java3x);
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut subscriber = machine.connect(&certificates(), &[&second]);
    subscriber.subscribe("far");
    wait_for_subscribers(&[&first], "far", 1);
    // A full bucket lets one frame through whatever its length, and then owes for minutes.
    let payload = noise(500_000);
    exchange(&mut publisher, "far", &payload);
    is_received(&mut subscriber, "far", &payload);
    is_refused(&mut publisher, "far", OVER_BANDWIDTH);
}

#[test]
fn a_client_for_contracts_is_refused_clearly_and_messages_go_on() {
    if !Sdk::Java3x.is_there() {
        return;
    }
    let node = Process::start_with(&host_dir(Profile::Rsa).join("node0/conf"), true, ADMIN);
    let machine = Machine::start_of(Sdk::Java3x);
    let mut java = machine.connect(&certificates(), &[&node]);
    let client = java.ask(json!({ "do": "get_client", "group": "group0" }));
    let answer = client["answer"].as_str().expect("a reason");
    assert!(answer.contains("The group not exist") && answer.contains("group0"), "{answer}");
    talk_to_itself(&mut java, &node);
}

/// Each way to the certificates: as this program makes them in the layout of 3.x, as `build_chain.sh` of 3.x makes them with OpenSSL, and
/// the RSA certificates of 2.x.
#[test]
fn applications_of_3x_take_certificates_of_either_layout_and_of_openssl() {
    if !Sdk::Java3x.is_there() || !have("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/openssl_chain_3x.sh");
    let made = Command::new("sh").arg(script).arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "openssl_chain_3x.sh: {}", text(&made.stderr));
    let (host, old) = (host_dir_3x(), host_dir(Profile::Rsa));
    let node_cert = host.join("node0/conf/node_cert");
    let named = |conf: &Path| {
        Process::start_with(&node_cert, false, &format!("{ADMIN}[cert]\nca_path={}\n", conf.display()))
    };
    let machines = [Machine::start_of(Sdk::Java3x), Machine::start_of(Sdk::C3x)];
    for (node, certificates) in [
        (named(&host.join("node0/conf")), host.join("sdk")),
        (named(&dir.path().join("conf")), dir.path().join("sdk")),
        (Process::start_with(&old.join("node0/conf"), true, ADMIN), old.join("sdk")),
    ] {
        for machine in &machines {
            let mut application = machine.connect(&certificates, &[&node]);
            talk_to_itself(&mut application, &node);
            application.stop();
            wait_for_subscribers(&[&node], "t", 0);
        }
        // Those of 2.x with the same.
        let answer = publish_with(&node, &certificates);
        assert_eq!(answer["code"], 100, "{answer}");
    }
}

#[test]
fn applications_of_3x_that_are_told_to_use_no_tls_find_a_node_that_is_told_so() {
    if !Sdk::C3x.is_there() {
        return;
    }
    let more = format!("{ADMIN}[tls]\nchannel_plaintext=true\n");
    let node = Process::start_with(&host_dir(Profile::Rsa).join("node0/conf"), true, &more);
    for (sdk, without_tls) in [(Sdk::Java3x, "disableSsl=\"true\"\n"), (Sdk::C3x, "disable_ssl=true\n")] {
        let machine = Machine::start_of(sdk);
        let mut application = machine.connect_with(&certificates(), &[&node], &[], without_tls);
        talk_to_itself(&mut application, &node);
        application.stop();
        wait_for_subscribers(&[&node], "t", 0);
    }
}

fn publish_with(node: &Process, certificates: &Path) -> Value {
    let arguments = ["pub", "-o", "json", "t", "x", "-n", &node.channel.to_string(), "-c"];
    let output =
        Command::new(crate::support::process::PROGRAM).args(arguments).arg(certificates).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}
