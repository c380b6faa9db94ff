//! A hostile node: its certificate is good, and nothing else. It is made of the crate's own encoders.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use amop::internal::{
    pki::Profile,
    relay::{
        counters::Counters,
        sealing::{FRONT_LEN, TAG_LEN},
        signing::NodeSigner,
    },
    wire::{
        NodeId, ResultCode,
        announcement::{self, Announcement},
        hello::Hello,
        node::{
            Addressing, Extensions, FLAG_PROBE, FLAG_SEALED, HEADER_LEN_MIN, Header, Numbers, PacketType,
        },
        notice::{Diagnostic, Notice, PING_LEN, PathEnd, PathEnded},
        sdk::{self, FrameType},
        state::{Change, Entries, Head, Message, Version, changes_hash, topic_key},
    },
};
use smallvec::SmallVec;

use crate::{
    healthy::{HealthyPair, answer_of, answers, connect},
    node_link::{RawNodeLink, identity},
    support::{TestNode, get, seq, wait_until},
};

const INCARNATION: u64 = 7;

/// Says what it likes over a node link.
struct Liar {
    link: RawNodeLink,
    id: NodeId,
    signer: NodeSigner,
    next_seq: u32,
}

impl Liar {
    /// With the certificate of the `index`th node; nothing is said yet.
    fn connect(index: usize, node: &TestNode) -> Self {
        let identity = identity(index);
        Self {
            link: RawNodeLink::connect(index, node),
            id: identity.node_id().unwrap(),
            signer: NodeSigner::from_secret_bytes(&identity.secp256k1_secret().unwrap()).unwrap(),
            next_seq: 1,
        }
    }

    /// And has said Hello, and is taken for a neighbour.
    fn greeted(index: usize, node: &TestNode) -> Self {
        let mut liar = Self::connect(index, node);
        liar.send(PacketType::HELLO, &hello(INCARNATION).encode());
        liar.sync();
        liar
    }

    fn say(&mut self, bytes: &[u8]) {
        self.link.say(bytes);
    }

    fn send(&mut self, packet_type: PacketType, payload: &[u8]) {
        self.next_seq += 1;
        self.say(&packet(packet_type, self.next_seq, payload));
    }

    /// The next frame of a type: its seq and payload.
    fn next(&mut self, packet_type: PacketType) -> (u32, Vec<u8>) {
        loop {
            let frame = self.link.frame().expect("the link lives");
            let (header, offset) = Header::decode(&frame).unwrap();
            if header.packet_type == packet_type {
                return (header.seq, frame[offset..].to_vec());
            }
        }
    }

    /// Waits until the node, its registry included, has taken all that was said; fails if it has closed
    /// the link.
    fn sync(&mut self) {
        self.send(PacketType::STATE_REQUEST, &Message::WantList.encode());
        while self.next(PacketType::STATE_REPLY).0 != self.next_seq {}
    }

    fn is_closed(&mut self) -> bool {
        self.link.is_closed()
    }

    /// A step of a record, about one topic; signed by whoever is asked to.
    fn step(&self, origin: NodeId, signer: &NodeSigner, topic: &str, count: u32) -> (Head, Vec<u8>) {
        let (key, value) = (topic_key(topic), count.to_be_bytes());
        let change = Change { key: &key, value: Some(&value) };
        let mut entries = Entries::default();
        entries.apply(&change);
        let mut changes = Vec::new();
        change.encode_into(&mut changes);
        let mut head = Head {
            origin,
            incarnation: INCARNATION,
            seq: 1,
            previous: [0; 32],
            root: entries.root(),
            changes_hash: changes_hash(&changes),
            signature: [0; 64],
        };
        head.signature = signer.sign(&head.digest());
        (head, changes)
    }
}

/// The message that announces a step.
fn announced((head, changes): &(Head, Vec<u8>)) -> Vec<u8> {
    Message::Steps(vec![(head.clone(), changes)]).encode()
}

fn hello(incarnation: u64) -> Hello {
    Hello {
        version_min: 2,
        version_max: 2,
        features: 0,
        incarnation,
        lane: 0,
        link_number: 1,
        replaces: 0,
        frame_len_max: Some(1 << 20),
        salt: Some([1; 16]),
    }
}

fn with_header(header: &Header<'_>, payload: &[u8]) -> Vec<u8> {
    let mut frame = SmallVec::new();
    header.encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

fn packet(packet_type: PacketType, seq: u32, payload: &[u8]) -> Vec<u8> {
    with_header(&Header::direct(packet_type, seq), payload)
}

/// What a Unicast, its response or a Multicast carries.
/// The payload of a message, in a place behind all that anybody had here before.
fn amop(frame: &[u8]) -> Vec<u8> {
    message(&Extensions::default(), frame)
}

fn message(extensions: &Extensions, frame: &[u8]) -> Vec<u8> {
    [&numbers()[..], &extensions.encode(), frame].concat()
}

fn numbers() -> [u8; Numbers::LEN] {
    static LAST_PLACE: AtomicU64 = AtomicU64::new(0);
    let place = 1 + LAST_PLACE.fetch_add(1, Relaxed);
    Numbers { place, least: place, taken_below: 0 }.encode()
}

fn amop_frame(frame_type: FrameType, topic: &str) -> Vec<u8> {
    sdk::encode_amop(frame_type, &seq(5), ResultCode::OK, topic, b"payload")
}

fn knows_topic(node: &TestNode, topic: &str) -> bool {
    node.node().shared().snapshot.load().topic(topic).is_some()
}

#[test]
fn a_frame_that_is_too_long_for_the_node_is_read_over_and_its_link_goes_on() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[amop]\nframe_len_max=100000\n");
    let mut peer = Liar::greeted(1, &node);
    for len in [100_000 + 16_385, 3_000_000] {
        let payload = vec![7; len - HEADER_LEN_MIN - 2 - 42 - 2];
        let frame = sdk::encode_amop(FrameType::REQUEST, &seq(5), ResultCode::OK, "t", &payload);
        peer.say(&packet(PacketType::UNICAST, len as u32, &amop(&frame)));
    }
    wait_until("both were read over", || node.total(|counters| counters.read_over.get()) == 2);
    peer.say(&packet(PacketType::UNICAST, 1, &amop(&amop_frame(FrameType::REQUEST, "t"))));
    // What comes behind is taken, and has its own answer.
    while peer.next(PacketType::UNICAST_RESPONSE).0 != 1 {}
    assert_eq!(node.total(|counters| counters.closed_protocol.get()), 0);
    assert_eq!(node.total(|counters| counters.node_links.get()), 1);
}

#[test]
fn whoever_breaks_the_format_of_the_node_link_loses_the_link() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let own = node.node().id();
    // A good frame with some bytes replaced.
    let patched = |offset: usize, bytes: &[u8]| {
        let mut frame = packet(PacketType::ACK, 1, &[0; 64]);
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let length = |len: usize| patched(0, &(len as u32).to_be_bytes());
    let ids = [[3; 64]; 129];
    let named = |destinations: &[[u8; 64]]| {
        let addressing = Addressing::EndToEnd { source: &[1; 64], destinations };
        with_header(&Header { addressing, ..Header::direct(PacketType::ACK, 1) }, &[0; 8])
    };
    let request = amop_frame(FrameType::REQUEST, "t");
    let inner_len = |len: u32| {
        let mut frame = request.clone();
        frame[..4].copy_from_slice(&len.to_be_bytes());
        packet(PacketType::UNICAST, 1, &amop(&frame))
    };
    let extensions = |block: &[u8]| packet(PacketType::UNICAST, 1, &[&numbers(), block, &request].concat());
    let before_hello: Vec<(&str, Vec<u8>)> = vec![
        ("an Ack before Hello", packet(PacketType::ACK, 1, &[0; 8])),
        ("a Unicast before Hello", packet(PacketType::UNICAST, 1, &amop(&request))),
        ("half a Hello", packet(PacketType::HELLO, 1, &hello(1).encode()[..37])),
        ("an empty Hello", packet(PacketType::HELLO, 1, &[])),
        (
            "versions upside down",
            packet(PacketType::HELLO, 1, &Hello { version_min: 3, ..hello(1) }.encode()),
        ),
        (
            "versions to come",
            packet(PacketType::HELLO, 1, &Hello { version_min: 3, version_max: 9, ..hello(1) }.encode()),
        ),
        (
            "a version of before",
            packet(PacketType::HELLO, 1, &Hello { version_min: 1, version_max: 1, ..hello(1) }.encode()),
        ),
        ("a Hello without a salt", packet(PacketType::HELLO, 1, &hello(1).encode()[..42])),
    ];
    let after_hello: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of length 0", length(0)),
        ("a frame shorter than its header", length(HEADER_LEN_MIN - 1)),
        ("a frame that no node could take", length((1 << 30) + (16 << 10) + 1)),
        ("a frame of 4 GB", length(u32::MAX as usize)),
        ("version 0", patched(4, &[0, 0])),
        ("version 2", patched(4, &[0, 2])),
        ("a frame of FISCO BCOS 2.x", patched(4, &[0x80, 0])),
        ("a group beyond the frame", patched(14, &[0xff, 0xff])),
        ("ids of 63 bytes", patched(16, &[0, 63])),
        ("ids of 65,535 bytes", patched(16, &[0xff, 0xff])),
        ("destinations without ids", patched(18, &[0, 2])),
        ("ids beyond the frame", patched(16, &[0, 64])),
        ("no destination", named(&[])),
        ("129 destinations", named(&ids)),
        ("half an Ack", packet(PacketType::ACK, 1, &[0; 7])),
        ("an Ack of what was never sent", packet(PacketType::ACK, 1, &(1u64 << 40).to_be_bytes())),
        ("the greatest Ack", packet(PacketType::ACK, 1, &u64::MAX.to_be_bytes())),
        ("no numbers", packet(PacketType::UNICAST, 1, &[])),
        ("half of the numbers", packet(PacketType::UNICAST, 1, &numbers()[..Numbers::LEN - 1])),
        (
            "numbers that contradict each other",
            packet(PacketType::UNICAST, 1, &Numbers { place: 1, least: 2, taken_below: 0 }.encode()),
        ),
        (
            "an acknowledgement of what was never sent",
            packet(
                PacketType::UNICAST,
                1,
                &Numbers { place: 1 << 50, least: 1 << 50, taken_below: 1 << 50 }.encode(),
            ),
        ),
        (
            "half of the length of extensions",
            packet(PacketType::UNICAST, 1, &[&numbers()[..], &[0]].concat()),
        ),
        ("extensions beyond the frame", extensions(&[0xff, 0xff])),
        ("an extension beyond its block", extensions(&[0, 4, 0, 1, 0xff, 0xff])),
        ("half an extension", extensions(&[0, 3, 0, 1, 0])),
        ("time left in two bytes", extensions(&[0, 6, 0, 1, 0, 2, 0, 9])),
        ("an audience that lies about its count", extensions(&[0, 6, 0, 2, 0, 2, 0xff, 0xff])),
        ("sessions tried of seven bytes", extensions(&[&[0, 11, 0, 3, 0, 7][..], &[0; 7]].concat())),
        ("a Unicast with nothing in it", packet(PacketType::UNICAST, 1, &amop(&[]))),
        ("a Unicast with half a header in it", packet(PacketType::UNICAST, 1, &amop(&request[..41]))),
        ("an inner length of 0", inner_len(0)),
        ("an inner length one too small", inner_len(request.len() as u32 - 1)),
        ("an inner length one too large", inner_len(request.len() as u32 + 1)),
        ("a Multicast with a request in it", packet(PacketType::MULTICAST, 1, &amop(&request))),
        (
            "a Unicast with a subscription in it",
            packet(PacketType::UNICAST, 1, &amop(&amop_frame(FrameType::SUBSCRIBE, "x"))),
        ),
        ("a response with a request in it", packet(PacketType::UNICAST_RESPONSE, 1, &amop(&request))),
    ];
    let mut count = 0;
    for (what, bytes) in &before_hello {
        let mut liar = Liar::connect(1, &node);
        liar.say(bytes);
        assert!(liar.is_closed(), "{what}");
        count += 1;
    }
    for (what, bytes) in &after_hello {
        let mut liar = Liar::greeted(1, &node);
        liar.say(bytes);
        assert!(liar.is_closed(), "{what}");
        count += 1;
    }
    wait_until("they are counted", || {
        node.total(|counters| counters.closed_protocol.get()) == count
            && node.total(|counters| counters.node_links.get()) == 0
    });
    // With our own certificate nobody gets as far as that.
    assert!(Liar::connect(0, &node).is_closed());
    assert_eq!(node.node().id(), own);
    assert!(answers(&mut connect(&node)));
    healthy.finish();
}

#[test]
fn an_oversized_state_message_costs_the_link() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::greeted(1, &node);
    liar.send(PacketType::STATE_SEQ, &vec![0xff; (2 << 20) + 1]);
    assert!(liar.is_closed());
    wait_until("it is counted", || node.total(|counters| counters.closed_protocol.get()) == 1);
    healthy.finish();
}

#[test]
fn frames_in_other_names_are_counted_and_delivered_to_nobody() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut subscriber = connect(&node);
    subscriber.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(1), ResultCode::OK, br#"["named"]"#));
    node.wait_for_subscribers("named", 1);
    let mut liar = Liar::greeted(1, &node);
    let (own, liars, other) = (node.node().id().0, liar.id.0, identity(2).node_id().unwrap().0);
    let mut count = 0;
    for (source, destinations) in [
        (other, vec![own]),
        (own, vec![own]),
        (own, vec![liars]),
        (liars, vec![other]),
        (liars, vec![own, other]),
        (liars, vec![other; 128]),
        ([0; 64], vec![own]),
        (other, vec![liars]),
    ] {
        for (packet_type, payload) in [
            (PacketType::UNICAST, amop(&amop_frame(FrameType::REQUEST, "named"))),
            (PacketType::MULTICAST, amop(&amop_frame(FrameType::MULTICAST, "named"))),
            (PacketType::UNICAST_RESPONSE, amop(&amop_frame(FrameType::RESPONSE, "named"))),
            (PacketType::STATE_SEQ, announced(&liar.step(liar.id, &liar.signer, "of another name", 1))),
            (PacketType::ACK, u64::MAX.to_be_bytes().to_vec()),
            (PacketType::HELLO, hello(u64::MAX).encode()),
        ] {
            let addressing = Addressing::EndToEnd { source: &source, destinations: &destinations };
            let header = Header { addressing, ..Header::direct(packet_type, count as u32) };
            liar.say(&with_header(&header, &payload));
            count += 1;
        }
    }
    liar.sync();
    assert_eq!(node.total(|counters| counters.not_for_us.get()), count);
    assert!(answers(&mut subscriber), "nothing came before its heartbeat's answer");
    assert!(!knows_topic(&node, "of another name"));
    // In its own name it is served like any other.
    let addressing = Addressing::EndToEnd { source: &liars, destinations: &[own] };
    let header = Header { addressing, ..Header::direct(PacketType::MULTICAST, 999) };
    let multicast = amop_frame(FrameType::MULTICAST, "named");
    liar.say(&with_header(&header, &amop(&multicast)));
    assert_eq!(subscriber.frame().unwrap(), multicast);
    healthy.finish();
}

#[test]
fn floods_of_unknown_packets_probes_and_repeats_are_counted_and_the_link_stays() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut subscriber = connect(&node);
    subscriber.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(1), ResultCode::OK, br#"["once"]"#));
    node.wait_for_subscribers("once", 1);
    let mut liar = Liar::greeted(1, &node);
    let unknown: Vec<u8> = (0..10_000u32)
        .flat_map(|number| packet(PacketType(0x1000 + (number % 0x1000) as i16), number, b"what?"))
        .collect();
    liar.say(&unknown);
    liar.sync();
    assert_eq!(node.total(|counters| counters.unknown_packets.get()), 10_000);
    // A probe each, whatever it claims.
    for number in 0..1_000 {
        let probe = Hello { incarnation: u64::MAX - number, replaces: number, link_number: 0, ..hello(0) };
        liar.send(PacketType::HELLO, &probe.encode());
    }
    liar.sync();
    let multicast = amop_frame(FrameType::MULTICAST, "once");
    liar.say(&packet(PacketType::MULTICAST, 77, &amop(&multicast)).repeat(1_000));
    liar.sync();
    assert_eq!(node.total(|counters| counters.duplicates_dropped.get()), 999);
    assert_eq!(subscriber.frame().unwrap(), multicast);
    assert!(answers(&mut subscriber), "no second copy came");
    healthy.finish();
}

#[test]
fn responses_that_were_never_asked_for_change_no_answer() {
    let (node, other) = {
        let node = TestNode::start(Profile::Ec, 0, &[], "");
        let other = TestNode::start(Profile::Ec, 2, &[&node], "");
        (node, other)
    };
    node.wait_for_neighbours(&[&other]);
    // Its questions go to the other node, over a link of its own.
    let healthy = HealthyPair::between(&node, &other);
    let mut liar = Liar::greeted(1, &node);
    let sent = 5_000;
    for round in 0..sent {
        // The numbers of messages that are under way, or will be.
        let near = node.node().shared().next_message.load(Relaxed).wrapping_add(round % 7).wrapping_sub(3);
        let lie = sdk::encode_amop(FrameType::RESPONSE, &seq(1), ResultCode::OK, "t", b"a lie");
        liar.say(&packet(PacketType::UNICAST_RESPONSE, near, &amop(&lie)));
    }
    liar.sync();
    assert_eq!(node.total(|counters| counters.late_answers.get()), u64::from(sent));
    healthy.finish();
}

#[test]
fn unicasts_of_a_neighbour_that_nobody_can_take_are_answered_with_a_code() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::greeted(1, &node);
    let bad = sdk::encode(FrameType::REQUEST, &seq(1), ResultCode::OK, b"\0bad");
    let invalid = sdk::encode(FrameType::REQUEST, &seq(1), ResultCode::OK, b"\x03\xff\xfe");
    let nobody = amop_frame(FrameType::REQUEST, "nobody");
    let private = amop_frame(FrameType::REQUEST, "#!$TopicNeedVerify_t");
    for (number, frame) in [bad, invalid, nobody, private].iter().enumerate() {
        let number = 500 + number as u32;
        liar.say(&packet(PacketType::UNICAST, number, &amop(frame)));
        let (answered, payload) = liar.next(PacketType::UNICAST_RESPONSE);
        assert_eq!(answered, number);
        let payload = &payload[Numbers::LEN..];
        let (_, offset) = Extensions::decode(payload).unwrap();
        let (_, code, data) = answer_of(&payload[offset..]);
        assert!(matches!(code, ResultCode::NO_RECEIVER | ResultCode::NOT_DELIVERED), "{number}: {code:?}");
        assert_eq!(data, b"");
    }
    healthy.finish();
}

#[test]
fn states_that_are_forged_or_unasked_change_nothing_and_too_many_cost_the_link() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::greeted(1, &node);
    let other = NodeSigner::from_secret_bytes(&identity(2).secp256k1_secret().unwrap()).unwrap();
    let own = node.node().id();
    let mut tampered = announced(&liar.step(liar.id, &liar.signer, "forged", 1));
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    let misbehaviour = [
        ("signed by another key", announced(&liar.step(liar.id, &other, "forged", 1))),
        ("of another node, signed by itself", announced(&liar.step(other.id(), &liar.signer, "forged", 1))),
        ("of another node, signed by that node", announced(&liar.step(other.id(), &other, "forged", 1))),
        ("of the node that hears it", announced(&liar.step(own, &liar.signer, "forged", 1))),
        ("other changes than were signed", tampered),
        ("a count of 65,535 steps", vec![1, 0xff, 0xff]),
        ("a list of 65,535", vec![3, 0xff, 0xff]),
        ("empty", vec![]),
        ("random", (0..200u8).map(|byte| byte.wrapping_mul(37) | 1).collect()),
    ];
    for (what, payload) in &misbehaviour {
        liar.send(PacketType::STATE_SEQ, payload);
        liar.sync();
        assert!(!knows_topic(&node, "forged"), "{what}");
    }
    // Replies to nothing.
    let unasked = liar.step(liar.id, &liar.signer, "unasked", 1);
    let (head, changes) = &unasked;
    let part = Message::Part { head: head.clone(), after: b"", last: true, entries: changes }.encode();
    for _ in 0..50 {
        liar.send(PacketType::STATE_REPLY, &part);
        liar.send(PacketType::STATE_REPLY, &announced(&unasked));
    }
    liar.sync();
    assert!(!knows_topic(&node, "unasked"));
    // Our own id, and its own, with lives and steps that nobody reaches.
    let version = |origin| Version { origin, incarnation: u64::MAX, seq: u64::MAX };
    for _ in 0..20 {
        let versions = vec![version(own), version(liar.id), version(other.id())];
        liar.send(PacketType::STATE_SEQ, &Message::List(versions).encode());
    }
    liar.sync();
    // More requests than are answered.
    for _ in 0..2_000 {
        liar.send(PacketType::STATE_REQUEST, &Message::Want { known: version(own), after: b"" }.encode());
    }
    // What it signs itself is taken.
    let honest = announced(&liar.step(liar.id, &liar.signer, "its own", 1));
    liar.send(PacketType::STATE_SEQ, &honest);
    wait_until("its own topic is known", || knows_topic(&node, "its own"));
    // It goes on and on.
    for _ in 0..200 {
        liar.send(PacketType::STATE_SEQ, &misbehaviour[0].1);
    }
    assert!(liar.is_closed());
    wait_until("what it said is forgotten", || !knows_topic(&node, "its own"));
    healthy.finish();
}

#[test]
fn announcements_that_are_forged_or_repeated_are_not_shown_and_too_many_cost_the_link() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[admin]\nlisten_port=0\n");
    let healthy = HealthyPair::start(&node);
    let admin = node.node().admin_address().unwrap();
    let texts = || {
        let network: serde_json::Value = serde_json::from_str(&get(admin, "/network").1).unwrap();
        let all = network["announcements"].as_array().unwrap().iter();
        all.map(|one| one["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut liar = Liar::greeted(1, &node);
    let other = NodeSigner::from_secret_bytes(&identity(2).secp256k1_secret().unwrap()).unwrap();
    let said = |origin: NodeId, signer: &NodeSigner, number: u64, text: &str| {
        let text = text.to_owned();
        let mut said = Announcement { origin, incarnation: INCARNATION, number, text, signature: [0; 64] };
        said.signature = signer.sign(&said.digest());
        said.encode()
    };
    let (own, id) = (node.node().id(), liar.id);
    let record = announced(&liar.step(id, &liar.signer, "t", 1));
    liar.send(PacketType::STATE_SEQ, &record);
    liar.sync();
    let mut changed = said(id, &liar.signer, 1, "forged");
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let mut long = said(id, &liar.signer, 1, "forged");
    long[1 + 64 + 16..][..2].copy_from_slice(&[0xff, 0xff]);
    for (what, payload) in [
        ("signed by another key", said(id, &other, 1, "forged")),
        ("of a node that nobody knows", said(other.id(), &other, 1, "forged")),
        ("of the node that hears it", said(own, &liar.signer, 1, "forged")),
        ("a changed signature", changed),
        ("a text of 65,535 bytes", long),
        ("a text for terminals", said(id, &liar.signer, 1, "forged\u{1b}[2J")),
        ("no number", said(id, &liar.signer, 0, "forged")),
        ("a kind and no more", vec![announcement::KIND]),
        ("a kind and far more than there can be", vec![announcement::KIND; 100_000]),
    ] {
        liar.send(PacketType::BROADCAST, &payload);
        liar.sync();
        assert_eq!(texts(), [""; 0], "{what}");
    }
    // What it signs itself is taken, once.
    let honest = said(id, &liar.signer, 1, "its own");
    for _ in 0..3 {
        liar.send(PacketType::BROADCAST, &honest);
    }
    liar.sync();
    assert_eq!(texts(), ["its own"]);
    // It goes on and on; what it brings beyond so many a second is not looked at.
    wait_until("it is cut", || {
        (0..60).for_each(|_| liar.send(PacketType::BROADCAST, &honest));
        node.node().shared().snapshot.load().paths.is_empty()
    });
    assert!(liar.is_closed());
    healthy.finish();
}

#[test]
fn floods_of_pings_are_answered_within_an_allowance_and_the_link_stays() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::greeted(1, &node);
    let (liars, other) = (liar.id.0, identity(2).node_id().unwrap().0);
    for number in 0..1_000 {
        let ping = Diagnostic { kind: 6, id: number, body: vec![0; PING_LEN - 9] };
        liar.send(PacketType::BROADCAST, &Notice::Request(ping.clone()).encode());
        // Of itself and in another name, to a node that is not there, with nothing in it that anybody sealed.
        for source in [&liars, &other] {
            let addressing = Addressing::EndToEnd { source, destinations: &[[9; 64]] };
            let (flags, hops_left) = (FLAG_SEALED | FLAG_PROBE, number as u8 % 3);
            let header = Header { addressing, flags, hops_left, ..Header::direct(PacketType::BROADCAST, 5) };
            liar.say(&with_header(&header, &[7; FRONT_LEN + 30 + TAG_LEN]));
        }
        // And answers to nothing.
        liar.send(PacketType::BROADCAST, &Notice::Reply(ping).encode());
        let ended = PathEnded { seq: 1, why: PathEnd::NoRoute, destination: number, tag: [0; 16] };
        liar.send(PacketType::BROADCAST, &Notice::PathEnded(ended).encode());
    }
    liar.sync();
    let total = |counter: fn(&Counters) -> u64| node.total(counter);
    wait_until("all are counted", || total(|counters| counters.ping_answers_ignored.get()) == 2_000);
    let answered = total(|counters| counters.pings_answered.get() + counters.pings_ended.get());
    assert!(answered >= 64, "{answered}");
    wait_until("the others are counted, too", || {
        total(|counters| {
            counters.pings_answered.get() + counters.pings_ended.get() + counters.pings_not_answered.get()
        }) == 3_000
    });
    assert!(
        total(|counters| counters.pings_not_answered.get()) >= 1_000,
        "nobody by the other name is known"
    );
    liar.sync();
    healthy.finish();
}

#[test]
fn an_absurd_incarnation_does_not_outlive_its_link() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::connect(1, &node);
    liar.send(PacketType::HELLO, &hello(u64::MAX).encode());
    liar.sync();
    drop(liar);
    // The honest bearer of the id, with a clock.
    let honest = TestNode::start(Profile::Ec, 1, &[&node], "");
    node.wait_for_neighbours(&[&honest]);
    HealthyPair::between(&node, &honest).finish();
    healthy.finish();
}

#[test]
fn subscribers_beyond_all_measure_neither_overflow_nor_silence_a_topic() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liars = [1, 2].map(|index| Liar::greeted(index, &node));
    for liar in &mut liars {
        let step = announced(&liar.step(liar.id, &liar.signer, "claimed", u32::MAX));
        liar.send(PacketType::STATE_SEQ, &step);
        liar.sync();
    }
    let mut honest = connect(&node);
    honest.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(1), ResultCode::OK, br#"["claimed"]"#));
    wait_until("all are known", || {
        let snapshot = node.node().shared().snapshot.load();
        snapshot.topic("claimed").is_some_and(|entry| entry.nodes.len() == 2 && entry.reactors.len() == 1)
    });
    let mut publisher = connect(&node);
    // It goes to one of the liars, which refuses it in its node's name; then to the other; then home.
    publisher.send(&amop_frame(FrameType::REQUEST, "claimed"));
    std::thread::scope(|scope| {
        for liar in &mut liars {
            scope.spawn(|| {
                let (number, _) = liar.next(PacketType::UNICAST);
                let extensions = Extensions { by_node: true, ..Extensions::default() };
                let refused = ResultCode::NOT_DELIVERED;
                let answer = sdk::encode(FrameType::RESPONSE, &seq(5), refused, b"");
                liar.say(&packet(PacketType::UNICAST_RESPONSE, number, &message(&extensions, &answer)));
            });
        }
        let mut frame = honest.frame().unwrap();
        frame[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
        honest.send(&frame);
    });
    assert_eq!(answer_of(&publisher.frame().unwrap()).1, ResultCode::OK);
    // A multicast reaches the honest one whatever the others do.
    let multicast = amop_frame(FrameType::MULTICAST, "claimed");
    publisher.send(&multicast);
    assert_eq!(answer_of(&publisher.frame().unwrap()).1, ResultCode::OK);
    assert_eq!(honest.frame().unwrap(), multicast);
    healthy.finish();
}

#[test]
fn a_node_that_never_says_hello_or_falls_silent_is_left() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut mute = Liar::connect(1, &node);
    let mut silent = Liar::greeted(2, &node);
    assert!(mute.is_closed() && silent.is_closed());
    assert_eq!(node.total(|counters| counters.closed_dead.get()), 2);
    wait_until("they are forgotten", || node.node().shared().snapshot.load().neighbours.is_empty());
    healthy.finish();
}

#[test]
fn two_nodes_with_one_key_are_counted_whichever_of_them_came_first() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let twins = || node.total(|counters| counters.keys_used_twice.get());
    let first = Liar::greeted(1, &node);
    assert_eq!(twins(), 0);
    // The one that started later takes the link …
    let mut later = Liar::connect(1, &node);
    later.send(PacketType::HELLO, &hello(INCARNATION + 1).encode());
    later.sync();
    assert_eq!(twins(), 1);
    // … and the other one does not get it back.
    let mut earlier = Liar::connect(1, &node);
    earlier.send(PacketType::HELLO, &hello(INCARNATION).encode());
    assert!(earlier.is_closed());
    assert_eq!(twins(), 2);
    later.sync();
    drop(first);
}

#[test]
fn a_node_that_is_started_again_is_no_twin() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    for incarnation in 0..3 {
        let mut liar = Liar::connect(1, &node);
        liar.send(PacketType::HELLO, &hello(INCARNATION + incarnation).encode());
        liar.sync();
        drop(liar);
        wait_until("its link is gone", || node.total(|counters| counters.node_links.get()) == 0);
    }
    assert_eq!(node.total(|counters| counters.keys_used_twice.get()), 0);
}
