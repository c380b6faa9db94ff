//! Nodes of FISCO BCOS 2.x as peers (INTEROP §2), over real sockets: scripted ones, which speak their dialect byte for byte.

use amop::{
    client::{Client, MessageKind, Messages},
    internal::{
        pki::Profile,
        wire::{
            ResultCode,
            p2p_2x::{self, Kind},
            sdk::{self, FrameType},
        },
    },
    keys::PrivateKey,
};

use crate::support::{
    BOUND, TestNode, client, get,
    peer_2x::{Answers, ScriptedPeer},
    process::{PROGRAM, output},
    runtime, seq, wait_until,
};

/// The scripted nodes have the certificates of the last two.
const FIRST_PEER: usize = 3;

fn total_links(node: &TestNode) -> u64 {
    node.total(|counters| counters.peer_2x_links.get())
}

/// A subscriber that answers each unicast with its payload, and keeps what it got.
async fn echo(node: &TestNode, topic: &str) -> (Client, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let (client, mut messages) = client(Profile::Ec, &[node]).await;
    client.subscribe(&[topic]).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            let _ = sender.send(message.payload.to_vec());
            if message.kind == MessageKind::Unicast {
                answering.respond(&message, &message.payload).await;
            }
        }
    });
    (client, receiver)
}

async fn publisher(node: &TestNode) -> (Client, Messages) {
    client(Profile::Ec, &[node]).await
}

#[test]
fn a_node_of_fisco_bcos_2x_is_linked_whoever_dials_and_topics_pass_both_ways() {
    for is_dialled_here in [true, false] {
        let peer = ScriptedPeer::start(FIRST_PEER, None);
        peer.subscribe(&["theirs", "#!$TopicNeedVerify_V", "_block_notify_1"]);
        let more = if is_dialled_here { format!("node.0={}\n", peer.address) } else { String::new() };
        let node = TestNode::start(Profile::Ec, 0, &[], &more);
        if !is_dialled_here {
            peer.dial(node.node().p2p_address());
        }
        node.wait_for_subscribers("theirs", 1);
        assert_eq!(total_links(&node), 1);
        runtime().block_on(async {
            let (application, _messages) = publisher(&node).await;
            application.subscribe(&["ours", "more"]).await.unwrap();
            wait_until("they know our topics", || {
                peer.peers().get(&node.node().id()).is_some_and(|topics| *topics == ["more", "ours"])
            });
            application.subscribe(&["ours"]).await.unwrap();
            wait_until("they know that one is gone", || {
                peer.peers().get(&node.node().id()).is_some_and(|topics| *topics == ["ours"])
            });
        });
        peer.subscribe(&[]);
        node.wait_for_subscribers("theirs", 0);
        assert_eq!(peer.links_in_all(), 1, "it was never made anew");
        assert_eq!(node.total(|counters| counters.closed_protocol.get()), 0);
        let snapshot = node.node().shared().snapshot.load();
        assert_eq!(snapshot.topics(), 0, "none of private topics, and none of the ledger");
    }
}

#[test]
fn unicasts_pass_both_ways_with_their_answers_and_codes_of_every_length() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    peer.subscribe(&["theirs"]);
    peer.compress();
    let node = TestNode::start(Profile::Ec, 0, &[], &format!("node.0={}\n", peer.address));
    node.wait_for_subscribers("theirs", 1);
    runtime().block_on(async {
        let (_subscriber, _got) = echo(&node, "ours").await;
        let (application, _messages) = publisher(&node).await;
        wait_until("they know our topic", || {
            peer.peers().get(&node.node().id()).is_some_and(|topics| *topics == ["ours"])
        });
        for len in [0_u32, 1, 900, 1_024, 5_000, 70_000, 3 << 20] {
            let payload: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let answer = application.request("theirs", &payload, BOUND).await.unwrap();
            assert_eq!(answer.code, ResultCode::OK, "{len} bytes");
            assert!(answer.payload == payload, "{len} bytes came back changed");
            let peer = &peer;
            let answer =
                tokio::task::block_in_place(|| peer.request(&seq(len.into()), "ours", &payload, BOUND));
            let (code, back) = answer.expect("it is answered");
            assert_eq!(code, 0, "{len} bytes");
            assert!(back == payload, "{len} bytes came back changed");
        }
        // An application's own code is passed on; that nobody has answered is told as it is here.
        for (answers, code) in [
            (Answers::Code(7), ResultCode(7)),
            (Answers::Late, ResultCode::TIMEOUT),
            (Answers::Gone, ResultCode::TIMEOUT),
        ] {
            peer.answer_by(answers);
            let answer = application.request("theirs", b"x", BOUND).await.unwrap();
            assert_eq!((answer.code, answer.payload.len()), (code, 0), "{answers:?}");
        }
        // Nobody of ours has it, or it is none that passes.
        for topic in ["nobody", "#!$TopicNeedVerify_V"] {
            assert_eq!(application.request(topic, b"x", BOUND).await.unwrap().code, ResultCode::NO_RECEIVER);
        }
    });
    assert_eq!(node.total(|counters| counters.peer_2x_malformed.get()), 0);
}

#[test]
fn a_multicast_reaches_each_application_once_on_either_side() {
    let peers = [ScriptedPeer::start(2, None), ScriptedPeer::start(FIRST_PEER, None)];
    peers.iter().for_each(|peer| peer.subscribe(&["all"]));
    let first = TestNode::start(Profile::Ec, 0, &[], "");
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    // Both are linked with both.
    for peer in &peers {
        peer.dial(first.node().p2p_address());
        peer.dial(second.node().p2p_address());
    }
    runtime().block_on(async {
        let (_one, mut of_first) = echo(&first, "all").await;
        let (_other, mut of_second) = echo(&second, "all").await;
        for node in [&first, &second] {
            node.wait_for_subscribers("all", 4);
            wait_until("all are linked", || total_links(node) == 2);
        }
        // The one with the least id, once it knows that both are linked.
        let least = first.node().id().min(second.node().id());
        let has_gateway = |peer: &ScriptedPeer| {
            let peers = peer.peers().into_iter();
            let gateways = peers.filter(|(_, topics)| topics.iter().any(|topic| topic == "all"));
            gateways.map(|(id, _)| id).eq([least])
        };
        wait_until("that one is the gateway of each", || peers.iter().all(has_gateway));
        for node in [&first, &second] {
            node.wait_for_subscribers("all", 4);
        }
        let (application, _messages) = publisher(&second).await;
        application.multicast("all", b"of ours", BOUND).await.unwrap();
        for got in [&mut of_first, &mut of_second] {
            assert_eq!(got.recv().await.as_deref(), Some(&b"of ours"[..]));
        }
        wait_until("both of theirs have it", || peers.iter().all(|peer| peer.received().len() == 1));
        assert_eq!(peers[0].multicast(&seq(1), "all", b"of theirs"), 1);
        for got in [&mut of_first, &mut of_second] {
            assert_eq!(got.recv().await.as_deref(), Some(&b"of theirs"[..]));
        }
        // Whatever came twice, or went on to the other one of theirs, would be here by now.
        application.multicast("all", b"last", BOUND).await.unwrap();
        for got in [&mut of_first, &mut of_second] {
            assert_eq!(got.recv().await.as_deref(), Some(&b"last"[..]));
        }
        wait_until("both of theirs have it", || peers.iter().all(|peer| peer.received().len() >= 2));
        for peer in &peers {
            let got = peer.received();
            let payloads: Vec<&[u8]> = got.iter().map(|one| &one.payload[..]).collect();
            assert_eq!(payloads, [&b"of ours"[..], b"last"]);
            assert!(got.iter().all(|one| one.frame_type == FrameType::MULTICAST));
        }
    });
}

#[test]
fn every_application_reaches_every_other_one_over_any_number_of_links() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    peer.subscribe(&["theirs"]);
    // A line: only its first node is linked with theirs.
    let first = TestNode::start(Profile::Ec, 0, &[], &format!("node.0={}\n", peer.address));
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    let third = TestNode::start(Profile::Ec, 2, &[&second], "");
    runtime().block_on(async {
        let (_subscriber, mut got) = echo(&third, "ours").await;
        for node in [&first, &second, &third] {
            node.wait_for_subscribers("theirs", 1);
            node.wait_for_subscribers("ours", 1);
        }
        let (application, _messages) = publisher(&third).await;
        let answer = application.request("theirs", b"far", BOUND).await.unwrap();
        assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &b"far"[..]));
        wait_until("they know our topic", || {
            peer.peers().get(&first.node().id()).is_some_and(|topics| *topics == ["ours"])
        });
        let answer = tokio::task::block_in_place(|| peer.request(&seq(1), "ours", b"back", BOUND));
        assert_eq!(answer, Some((0, b"back".to_vec())));
        assert_eq!(peer.multicast(&seq(2), "ours", b"to all"), 1);
        assert_eq!(got.recv().await.as_deref(), Some(&b"back"[..]));
        assert_eq!(got.recv().await.as_deref(), Some(&b"to all"[..]));
        application.multicast("theirs", b"all of you", BOUND).await.unwrap();
        wait_until("it has come", || peer.received().len() == 2);
    });
}

#[test]
fn the_next_gateway_takes_over_when_one_is_gone_and_the_restart_of_each_side_heals() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    peer.subscribe(&["theirs"]);
    let address = peer.address;
    let more = format!("node.7={address}\n");
    let third = TestNode::start(Profile::Ec, 2, &[], "");
    let mut both: Vec<TestNode> =
        (0..2).map(|index| TestNode::start(Profile::Ec, index, &[&third], &more)).collect();
    both.sort_by_key(|node| node.node().id());
    let (least, other) = (both.remove(0), both.remove(0));
    runtime().block_on(async {
        let (_subscriber, _got) = echo(&third, "ours").await;
        let acts =
            |node: &TestNode| peer.peers().get(&node.node().id()).is_some_and(|topics| *topics == ["ours"]);
        wait_until("the least acts", || acts(&least) && !acts(&other));
        third.wait_for_subscribers("theirs", 1);
        let (application, _messages) = publisher(&third).await;
        assert_eq!(application.request("theirs", b"1", BOUND).await.unwrap().code, ResultCode::OK);
        least.stop();
        wait_until("the other one acts", || acts(&other));
        third.wait_for_subscribers("theirs", 1);
        assert_eq!(application.request("theirs", b"2", BOUND).await.unwrap().code, ResultCode::OK);
        let answer = tokio::task::block_in_place(|| peer.request(&seq(1), "ours", b"3", BOUND));
        assert_eq!(answer, Some((0, b"3".to_vec())));
        // Theirs starts anew where it was.
        tokio::task::block_in_place(|| peer.kill());
        third.wait_for_subscribers("theirs", 0);
        let again = ScriptedPeer::start(FIRST_PEER, Some(address));
        again.subscribe(&["theirs"]);
        third.wait_for_subscribers("theirs", 1);
        assert_eq!(application.request("theirs", b"4", BOUND).await.unwrap().code, ResultCode::OK);
        tokio::task::block_in_place(|| again.kill());
    });
}

#[test]
fn a_node_that_says_nothing_any_more_is_passed_by_and_its_requests_go_elsewhere() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    peer.subscribe(&["t"]);
    let node = TestNode::start(Profile::Ec, 0, &[], &format!("node.0={}\n", peer.address));
    runtime().block_on(async {
        let (_subscriber, _got) = echo(&node, "t").await;
        node.wait_for_subscribers("t", 2);
        peer.freeze(true);
        let (application, _messages) = publisher(&node).await;
        let asked = (0..16).map(|_| {
            let application = application.clone();
            tokio::spawn(async move { application.request("t", b"x", 2 * BOUND).await.unwrap() })
        });
        // Those that it has got go elsewhere after eleven seconds of silence, and not after thirty.
        for asked in asked.collect::<Vec<_>>() {
            let answer = asked.await.unwrap();
            assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &b"x"[..]));
        }
        node.wait_for_subscribers("t", 1);
        assert_eq!(node.total(|counters| counters.peer_2x_silent.get()), 1);
        peer.freeze(false);
        node.wait_for_subscribers("t", 2);
    });
    assert_eq!(peer.links_in_all(), 1);
}

#[test]
fn it_is_shown_as_what_it_is_and_is_told_only_what_its_dialect_has() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    peer.subscribe(&["theirs"]);
    let more = format!("node.0={}\n[admin]\nlisten_port=0\n", peer.address);
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let admin = node.node().admin_address().unwrap();
    wait_until("this node acts", || {
        let (_, links) = get(admin, "/links");
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        let link = &links["items"][0];
        link["kind"] == "node_2x" && link["state"] == "active" && link["peer"] == peer.id.to_hex()
    });
    let json = |path: &str| -> serde_json::Value { serde_json::from_str(&get(admin, path).1).unwrap() };
    let shown = &json("/peers_2x")["items"][0];
    let expected = (peer.id.to_hex().into(), "active".into(), 1.into(), true.into());
    assert_eq!(
        (shown["id"].clone(), shown["state"].clone(), shown["topics"].clone(), shown["dialed"].clone()),
        expected
    );
    let nodes = json("/nodes");
    let linked = &nodes["items"][0];
    assert_eq!(
        (&nodes["total"], &linked["kind"], &linked["topics"]),
        (&1.into(), &"node_2x".into(), &1.into())
    );
    assert_eq!((&linked["id"], &linked["address"]), (&shown["id"], &shown["address"]));
    assert!(linked["name"].is_string() && linked.get("incarnation").is_none(), "{linked}");
    runtime().block_on(async {
        let (application, _messages) = publisher(&node).await;
        peer.answer_by(Answers::Late);
        let answer = application.request("theirs", b"x", BOUND).await.unwrap();
        assert_eq!(answer.code, ResultCode::TIMEOUT);
    });
    let asked = String::from_utf8(peer.received()[0].seq.to_vec()).unwrap();
    let told = json(&format!("/trace/{asked}"));
    let named = format!("node {} of FISCO BCOS 2.x", &peer.id.to_hex()[..8]);
    assert!(told.to_string().contains(&named), "{told}");
    let network = json("/network");
    assert_eq!(
        network["items"][0]["peers_2x"],
        serde_json::json!([{ "id": peer.id.to_hex(), "gateway": true }])
    );
    let top = output(
        std::process::Command::new(PROGRAM)
            .args(["top", "--once", "--interval", "0.1"])
            .args(["--admin", &admin.to_string()]),
    );
    let said = String::from_utf8(top.stdout).unwrap();
    assert!(
        said.contains("nodes of FISCO BCOS 2.x: 1;") && said.contains("this node is its gateway"),
        "{said}"
    );
    let net = output(std::process::Command::new(PROGRAM).args(["net", "--admin", &admin.to_string()]));
    let said = String::from_utf8(net.stdout).unwrap();
    let [theirs, ours] = [peer.id, node.node().id()].map(|id| id.to_hex()[..8].to_owned());
    let lines = said.lines().skip_while(|line| !line.starts_with("nodes of FISCO BCOS 2.x"));
    let line = lines.clone().find(|line| line.contains(&theirs)).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(line.matches(&ours).count(), 2, "its gateway, and linked with it: {line}");
    let (_, metrics) = get(admin, "/metrics");
    assert!(metrics.contains("\namop_peer_2x_links 1\n"), "{metrics}");
    assert!(metrics.contains(&format!("amop_peer_up{{peer=\"{theirs}\"}} 1\n")), "{metrics}");
    assert!(metrics.contains("kind=\"node_2x\""), "{metrics}");
    let id = node.node().id();
    let frame =
        |topic: &str| sdk::encode_amop(FrameType::REQUEST, &seq(7), ResultCode::OK, topic, b"private");
    // What groups say is ignored; a private topic does not pass, and neither does what cannot be read.
    peer.say(&id, [&[0, 0, 0, 17, 0, 0, 0, 1, 0, 9, 0, 0, 0, 0, 0, 5][..], b"x"].concat());
    peer.say(&id, p2p_2x::encode(Kind::Unicast, 77, &frame("#!$TopicNeedVerify_V")));
    let lies = [&frame("t")[..], b"more"].concat();
    peer.say(&id, p2p_2x::encode(Kind::Unicast, 78, &lies));
    wait_until("it is answered", || peer.frames().iter().any(|frame| frame[12..16] == 77_u32.to_be_bytes()));
    let frames = peer.frames();
    let answer = frames.iter().find(|frame| frame[12..16] == 77_u32.to_be_bytes()).unwrap();
    let expected = sdk::encode(FrameType::RESPONSE, &seq(7), ResultCode::NO_RECEIVER, b"");
    assert_eq!(*answer, p2p_2x::encode(Kind::Answer, 77, &expected));
    wait_until("all are counted", || {
        node.total(|counters| counters.peer_2x_withheld.get()) == 1
            && node.total(|counters| counters.peer_2x_malformed.get()) == 1
            && node.total(|counters| counters.peer_2x_ignored.get()) == 1
    });
    // The Hello, which it does not know, is the only frame of ours that is none of its own.
    let strange = frames.iter().filter(|frame| p2p_2x::Header::decode(frame).is_err());
    assert_eq!(strange.count(), 1);
    assert_eq!(frames[1], p2p_2x::encode(Kind::TopicSeq, 0, b"0"));
    assert_eq!(peer.links_in_all(), 1);
}

const DATA: &str = "#!$TopicNeedVerify_deals";
const PASSES: &str = "[private_topics]\nover_2x=deals\n";

#[test]
fn subscribers_of_a_private_topic_at_one_of_theirs_prove_their_keys_and_get_its_messages() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    let (key, wrong) = (PrivateKey::generate(), PrivateKey::generate());
    let routes = [1, 2].map(|uuid: u8| format!("#!$VerifyChannel_{DATA}_{uuid:032x}"));
    peer.sign(&routes[0], key.clone());
    peer.sign(&routes[1], wrong.clone());
    peer.subscribe(&[DATA, &routes[0], &routes[1]]);
    let first = TestNode::start(Profile::Ec, 0, &[], &format!("node.0={}\n{PASSES}", peer.address));
    let second = TestNode::start(Profile::Ec, 1, &[&first], PASSES);
    first.wait_for_neighbours(&[&second]);
    for node in [&first, &second] {
        runtime().block_on(async {
            let (application, _messages) = publisher(node).await;
            let mut verdicts = application.verdicts();
            application.publish_private("deals", &[key.public_key()]).await.unwrap();
            let mut proved = Vec::new();
            for _ in 0..2 {
                proved.push(tokio::time::timeout(BOUND, verdicts.recv()).await.unwrap().unwrap().key);
            }
            assert!(proved.contains(&Some(key.public_key())) && proved.contains(&None), "{proved:?}");
            tokio::time::timeout(BOUND, application.authorised("deals")).await.unwrap().unwrap();
            for payload in [&b""[..], b"5 to bob", &[7; 300_000]] {
                let answer = application.request_private("deals", payload, BOUND).await.unwrap();
                assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, payload));
                let before = peer.received().len();
                application.multicast_private("deals", payload, BOUND).await.unwrap();
                wait_until("the multicast is there", || peer.received().len() > before);
                let last = peer.received().pop().unwrap();
                assert_eq!((last.frame_type, last.topic.as_str()), (FrameType::MULTICAST, DATA));
                assert!(last.payload == payload);
            }
        });
    }
    assert_eq!(first.total(|counters| counters.peer_2x_malformed.get()), 0);
}

#[test]
fn a_publisher_of_a_private_topic_at_one_of_theirs_reaches_the_subscriber_that_it_has_verified() {
    let peer = ScriptedPeer::start(FIRST_PEER, None);
    peer.subscribe(&["#!$PushChannel_#!$TopicNeedVerify_deals"]);
    let first = TestNode::start(Profile::Ec, 0, &[], &format!("node.0={}\n{PASSES}", peer.address));
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    runtime().block_on(async {
        let key = PrivateKey::generate();
        let (application, mut messages) = client(Profile::Ec, &[&second]).await;
        application.subscribe_private("deals", &key).await.unwrap();
        let told = || peer.peers().remove(&first.node().id()).unwrap_or_default();
        wait_until("they are told of it", || told().len() == 2);
        let [data, route] = <[String; 2]>::try_from(told()).unwrap();
        assert_eq!(data, DATA);
        assert!(route.starts_with("#!$VerifyChannel_#!$TopicNeedVerify_deals_"), "{route}");
        let peer = &peer;
        let ask = |number: u64, topic: &str, payload: &[u8]| {
            let answer = tokio::task::block_in_place(|| peer.request(&seq(number), topic, payload, BOUND));
            answer.expect("it is answered")
        };
        // Nothing comes before the answer to the challenge, whatever their node does.
        assert_eq!(ask(1, DATA, b"too early").0, ResultCode::NO_RECEIVER.0);
        let challenge = [7; 32];
        let (code, signature) = ask(2, &route, &challenge);
        assert_eq!(code, 0);
        assert!(key.public_key().verify(&challenge, &signature.try_into().expect("a signature")));
        let answering = application.clone();
        let (kept, mut got) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                if message.kind == MessageKind::Unicast {
                    answering.respond(&message, &message.payload).await;
                }
                let _ = kept.send(message.payload.to_vec());
            }
        });
        for (number, len) in [(10, 0_usize), (11, 5), (12, 300_000)] {
            let payload = vec![number as u8; len];
            assert_eq!(ask(number, DATA, &payload), (0, payload.clone()));
            assert!(got.recv().await.unwrap() == payload);
            assert_eq!(peer.multicast(&seq(100 + number), DATA, &payload), 1);
            assert!(tokio::time::timeout(BOUND, got.recv()).await.unwrap().unwrap() == payload);
        }
        application.unsubscribe_private("deals").await.unwrap();
        wait_until("they are told that it has left", || told().is_empty());
    });
    assert_eq!(first.total(|counters| counters.peer_2x_malformed.get()), 0);
}
