//! Messages and files between Java applications and our own, over two nodes and three.

use amop::internal::{
    pki::Profile,
    wire::{ResultCode, sdk::FrameType},
};
use serde_json::{Value, json};

use crate::{
    kit::{
        ADMIN, Machine, Subscriber, certificates, have_java, hex, noise, publish, two_nodes,
        wait_for_subscribers,
    },
    support::{host_dir, process::Process},
};

#[test]
fn java_applications_and_our_own_exchange_messages_over_two_nodes() {
    if !have_java() {
        return;
    }
    let (first, second) = two_nodes("");
    let machine = Machine::start();
    let mut publisher = machine.connect(&certificates(), &[&first]);
    let mut subscriber = machine.connect(&certificates(), &[&second]);

    subscriber.subscribe("贸易");
    wait_for_subscribers(&[&first, &second], "贸易", 1);
    for payload in [&b"hello"[..], "你好".as_bytes(), b"", &noise(20_000), &noise(1 << 20)] {
        let answer = publisher.unicast("贸易", payload);
        assert_eq!((&answer["code"], &answer["topic"]), (&json!(0), &json!("贸易")));
        assert!(answer["payload"] == hex(payload), "{} bytes came back changed", payload.len());
        let received = subscriber.received("贸易");
        assert_eq!(received["seq"], answer["seq"]);
        assert_eq!((&received["multicast"], &received["result"]), (&json!(false), &json!(0)));
        assert!(received["payload"] == hex(payload), "{} bytes arrived changed", payload.len());
    }

    let name = "报告.pdf";
    let answer = publisher.send_file("贸易", name, &noise(70_000));
    assert_eq!(answer["code"], 0);
    assert_eq!(subscriber.received("贸易")["file"], json!({ "name": name, "content": hex(&noise(70_000)) }));

    // The other applications speak the same.
    let ours = Subscriber::start(&second, "ours", &["--reply", "from ours"]);
    wait_for_subscribers(&[&first], "ours", 1);
    let answer = publisher.unicast("ours", b"from Java");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"from ours"))));
    let received = ours.next();
    assert_eq!((&received["text"], &received["seq"]), (&json!("from Java"), &answer["seq"]));
    // Without waiting for answers they arrive in the order sent.
    let ids: Vec<u64> =
        (0..200).map(|number| publisher.send("ours", number.to_string().as_bytes())).collect();
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(ours.next()["text"], number.to_string());
        assert_eq!(publisher.answer(id)["code"], 0);
    }
    let answer = publish(&first, &["贸易", "from ours"]);
    assert_eq!((&answer["code"], &answer["answer"]), (&json!(0), &json!("from ours")));
    assert_eq!(subscriber.received("贸易")["payload"], hex(b"from ours"));

    // Everybody once, on the publisher's node too, and the publisher.
    let mut near = machine.connect(&certificates(), &[&first]);
    for java in [&mut publisher, &mut subscriber, &mut near] {
        java.subscribe("ours");
    }
    wait_for_subscribers(&[&first, &second], "ours", 4);
    publisher.broadcast("ours", b"all");
    let copies = [&mut publisher, &mut subscriber, &mut near].map(|java| java.received("ours"));
    for copy in &copies {
        assert_eq!((&copy["multicast"], &copy["payload"]), (&json!(true), &json!(hex(b"all"))));
        assert_eq!(copy["seq"], copies[0]["seq"]);
    }
    let copy = ours.next();
    assert_eq!((&copy["kind"], &copy["seq"]), (&json!("multicast"), &copies[0]["seq"]));
    // A second copy would have come before what follows on the same connection.
    publisher.broadcast("ours", b"again");
    for java in [&mut publisher, &mut subscriber, &mut near] {
        assert_eq!(java.received("ours")["payload"], hex(b"again"));
    }
    assert_eq!(ours.next()["text"], "again");
    assert_eq!(publish(&second, &["ours", "ours to all", "--multicast"])["code"], 0);
    for java in [&mut publisher, &mut subscriber, &mut near] {
        assert_eq!(java.received("ours")["payload"], hex(b"ours to all"));
    }

    // The nodes as the SDK sees them, which is how its demos wait for a subscriber.
    publisher.tell(json!({ "do": "get_peers" }));
    let peers = publisher.next("peers")["peers"].clone();
    let topics: Vec<String> = serde_json::from_value(peers[0]["Topic"].clone()).unwrap();
    assert!(peers.as_array().unwrap().len() == 1 && topics.contains(&"贸易".to_owned()), "{peers}");

    // The SDK writes the length of a topic that is too long as 0, which crashed FISCO BCOS' node (WIRE §8).
    let too_long = "t".repeat(255);
    assert_eq!(publisher.frame(FrameType::REQUEST, &too_long, b""), (ResultCode(100), String::new()));
    assert_eq!(publisher.unicast("贸易", b"still here")["code"], 0);

    // An application that unsubscribes is gone, and only from that topic.
    subscriber.unsubscribe("贸易");
    wait_for_subscribers(&[&first], "贸易", 0);
    let answer = publisher.unicast("贸易", b"nobody");
    assert_eq!((&answer["code"], &answer["payload"]), (&json!(100), &Value::Null));
    assert_eq!(first.subscribers("ours"), 4);
    assert_eq!(publisher.frame(FrameType::REQUEST, "贸易", b"nobody"), (ResultCode(100), String::new()));
    // A multicast is accepted even then, and answered with its topic.
    let topic = hex(&[&[7], "贸易".as_bytes()].concat());
    assert_eq!(publisher.frame(FrameType::MULTICAST, "贸易", b"nobody"), (ResultCode::OK, topic));

    // The SDK sends its whole list with each new topic, here faster than a node takes changes.
    for number in 0..50 {
        near.subscribe(&format!("burst {number}"));
    }
    for topic in ["burst 0", "burst 49"] {
        wait_for_subscribers(&[&first, &second], topic, 1);
    }
    // An application that ends is gone from all.
    near.stop();
    for (topic, left) in [("burst 0", 0), ("burst 49", 0), ("ours", 3)] {
        wait_for_subscribers(&[&first, &second], topic, left);
    }
}

#[test]
fn files_travel_among_three_nodes_between_java_applications_and_our_own() {
    if !have_java() {
        return;
    }
    let (first, third) = two_nodes("");
    let more = format!("node.0={}\nnode.1={}\n{ADMIN}", first.p2p, third.p2p);
    let second = Process::start_with(&host_dir(Profile::Rsa).join("node2/conf"), true, &more);
    let machine = Machine::start();
    let mut java = machine.connect(&certificates(), &[&first]);
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("saved");
    let ours = Subscriber::start(&second, "reports", &["--save", saved.to_str().unwrap()]);
    java.subscribe("statements");
    wait_for_subscribers(&[&first], "reports", 1);
    wait_for_subscribers(&[&second], "statements", 1);

    let content = noise(300_000);
    assert_eq!(java.send_file("reports", "../报告.pdf", &content)["code"], 0);
    let received = ours.next();
    assert_eq!(received["file"]["name"], "../报告.pdf");
    // Its name leads nowhere else.
    assert!(std::fs::read(saved.join("报告.pdf")).unwrap() == content);

    let file = dir.path().join("对账单.csv");
    std::fs::write(&file, &content).unwrap();
    let answer = publish(&second, &["statements", "--file", file.to_str().unwrap()]);
    assert_eq!(answer["code"], 0);
    let file = java.received("statements")["file"].clone();
    assert_eq!(file["name"], "对账单.csv");
    assert!(file["content"] == hex(&content));
}

#[test]
fn bursts_of_files_reach_a_java_subscriber_whole() {
    if !have_java() {
        return;
    }
    let (first, second) = two_nodes("");
    let machine = Machine::start();
    let mut subscriber = machine.connect(&certificates(), &[&second]);
    subscriber.subscribe("files");
    wait_for_subscribers(&[&first, &second], "files", 1);
    let dir = tempfile::tempdir().unwrap();
    for (count, len) in [(20, 1_000_000), (5, 20_000_000)] {
        let (path, shown) = (dir.path().join("payload"), hex(&noise(len)));
        std::fs::write(&path, noise(len)).unwrap();
        let path = path.to_str().unwrap();
        for _ in 0..count {
            assert_eq!(publish(&first, &["files", "--multicast", "--raw", path])["code"], 0);
        }
        for number in 0..count {
            let received = subscriber.received("files");
            assert!(received["payload"] == shown, "{len} bytes arrived changed, number {number}");
        }
        // The answer is as long as what was asked.
        assert_eq!(publish(&first, &["files", "--raw", path])["code"], 0);
        assert!(subscriber.received("files")["payload"] == shown, "{len} bytes arrived changed");
    }
}
