//! Connections: nodes that go away and come back, and certificates of other makers.

use std::{net::SocketAddr, path::Path, process::Command};

use amop::pki::Profile;
use serde_json::{Value, json};

use crate::{
    kit::{ADMIN, Machine, certificates, have_java, hex, text, wait_for_subscribers},
    support::{
        have, host_dir,
        process::{Process, write_config},
    },
};

#[test]
fn java_applications_of_two_nodes_outlive_either_and_subscribe_again_by_themselves() {
    if !have_java() {
        return;
    }
    let host = host_dir(Profile::Rsa);
    let first = Process::start_with(&host.join("node0/conf"), true, ADMIN);
    let dir = tempfile::tempdir().unwrap();
    // An address of its own: nobody else takes the ports while the node is away.
    let any = SocketAddr::from(([127, 0, 78, 1], 0));
    let more = format!("node.0={}\n{ADMIN}", first.p2p);
    let config = |listen| write_config(dir.path(), &host.join("node1/conf"), true, listen, &more);
    let second = Process::run(&config([any; 2]));
    let config = config([second.channel, second.p2p]);
    let machine = Machine::start();
    let mut publisher = machine.connect(&certificates(), &[&first, &second]);
    let mut subscriber = machine.connect(&certificates(), &[&first, &second]);
    subscriber.subscribe("t");
    wait_for_subscribers(&[&first, &second], "t", 2);

    // The SDK broadcasts to each of its nodes, and each of the subscriber's two sessions gets each frame.
    publisher.broadcast("t", b"four");
    let copies: Vec<Value> = (0..4).map(|_| subscriber.received("t")).collect();
    for copy in &copies {
        assert_eq!((&copy["multicast"], &copy["seq"]), (&json!(true), &copies[0]["seq"]));
    }
    let through_first = copies.iter().filter(|copy| copy["node"] == format!("/{}", first.channel)).count();
    assert_eq!(through_first, 2);
    // A unicast arrives once, and there was no fifth copy.
    for number in 0..8u8 {
        let answer = publisher.unicast("t", &[number]);
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(&[number]))));
        let received = subscriber.received("t");
        assert_eq!((&received["seq"], &received["payload"]), (&answer["seq"], &answer["payload"]));
    }

    assert_eq!(second.stop(), Some(0));
    for java in [&mut publisher, &mut subscriber] {
        java.wait_for_nodes(&[&first]);
    }
    assert_eq!(publisher.unicast("t", b"through the first alone")["code"], 0);

    let second = Process::run(&config);
    for java in [&mut publisher, &mut subscriber] {
        java.wait_for_nodes(&[&first, &second]);
    }
    wait_for_subscribers(&[&first, &second], "t", 2);
    assert_eq!(first.stop(), Some(0));
    for java in [&mut publisher, &mut subscriber] {
        java.wait_for_nodes(&[&second]);
    }
    assert_eq!(subscriber.received("t")["payload"], hex(b"through the first alone"));
    let answer = publisher.unicast("t", b"through the one that was away");
    assert_eq!((&answer["code"], &answer["node"]), (&json!(0), &json!(format!("/{}", second.channel))));
    assert_eq!(subscriber.received("t")["payload"], hex(b"through the one that was away"));
}

#[test]
fn the_java_sdk_takes_certificates_as_build_chain_makes_them_with_openssl() {
    if !have_java() || !have("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/openssl_chain.sh");
    let output = Command::new("sh").arg(script).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "openssl_chain.sh: {}", text(&output.stderr));
    let node = Process::start_with(&dir.path().join("conf"), true, ADMIN);
    let machine = Machine::start();
    let mut java = machine.connect(&dir.path().join("sdk"), &[&node]);
    java.subscribe("t");
    wait_for_subscribers(&[&node], "t", 1);
    java.broadcast("t", b"to myself");
    assert_eq!(java.received("t")["payload"], hex(b"to myself"));
}
