//! A hostile node of FISCO BCOS 2.x: its certificate is good, and nothing else.

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        p2p_2x::{self, HEADER_LEN, Header, Kind},
        sdk::{self, FrameType},
    },
};

use crate::{
    healthy::HealthyPair,
    node_link::RawNodeLink,
    support::{TestNode, peer_2x::ScriptedPeer, seq, wait_until},
};

/// Says what it likes.
struct Liar {
    link: RawNodeLink,
}

impl Liar {
    fn connect(index: usize, node: &TestNode) -> Self {
        Self { link: RawNodeLink::connect(index, node) }
    }

    /// One that is taken for a node of theirs.
    fn greeted(index: usize, node: &TestNode) -> Self {
        let mut liar = Self::connect(index, node);
        liar.say(&p2p_2x::encode(Kind::TopicSeq, 0, b"0"));
        assert_eq!(liar.next(Kind::TopicSeq), b"0");
        liar
    }

    fn say(&mut self, bytes: &[u8]) {
        self.link.say(bytes);
    }

    /// The payload of the next frame of a kind.
    fn next(&mut self, kind: Kind) -> Vec<u8> {
        self.next_with_seq(kind).1
    }

    fn next_with_seq(&mut self, kind: Kind) -> (u32, Vec<u8>) {
        loop {
            let frame = self.link.frame().expect("the link lives");
            if let Ok(header) = Header::decode(&frame)
                && header.kind == kind
            {
                return (header.seq, frame[HEADER_LEN..].to_vec());
            }
        }
    }

    fn is_closed(&mut self) -> bool {
        self.link.is_closed()
    }

    /// Waits until the node has taken all that was said.
    fn sync(&mut self) {
        let private =
            sdk::encode_amop(FrameType::REQUEST, &seq(9), ResultCode::OK, "#!$TopicNeedVerify_V", b"");
        self.say(&p2p_2x::encode(Kind::Unicast, 999, &private));
        while self.next_with_seq(Kind::Answer).0 != 999 {}
    }
}

fn compressed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = p2p_2x::encode(kind, 1, payload);
    frame[4] = 0x80;
    frame
}

#[test]
fn what_no_node_of_fisco_bcos_2x_says_ends_its_link_and_nothing_else() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let length = |len: u32| {
        let mut frame = p2p_2x::encode(Kind::TopicSeq, 0, b"1");
        frame[..4].copy_from_slice(&len.to_be_bytes());
        frame
    };
    let mut of_ours = p2p_2x::encode(Kind::TopicSeq, 0, b"1");
    of_ours[5] = 1;
    // 64 MiB in ten bytes.
    let bomb = [0x80, 0x80, 0x80, 0x20, 0xfe, 0x01, 0x00, 0xfe, 0x01, 0x00];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of length 0", length(0)),
        ("a frame shorter than its header", length(15)),
        ("a frame of 4 GB", length(u32::MAX)),
        ("a frame of the other dialect", of_ours),
        ("a number that is none", p2p_2x::encode(Kind::TopicSeq, 0, b"x")),
        ("no number", p2p_2x::encode(Kind::TopicSeq, 0, b"")),
        ("a number beyond all", p2p_2x::encode(Kind::TopicSeq, 0, b"99999999999")),
        ("a number of a million digits", p2p_2x::encode(Kind::TopicSeq, 0, &[b'1'; 1_000_000])),
        ("a snappy bomb", compressed(Kind::Unicast, &bomb)),
        ("what is no snappy", compressed(Kind::Multicast, &[0xff; 100])),
        ("snappy of nothing", compressed(Kind::Topics, &[])),
    ];
    for (what, bytes) in &cases {
        let mut liar = Liar::greeted(1, &node);
        liar.say(bytes);
        assert!(liar.is_closed(), "{what}");
    }
    wait_until("they are counted", || {
        node.total(|counters| counters.closed_protocol.get()) == cases.len() as u64
            && node.total(|counters| counters.peer_2x_links.get()) == 0
    });
    healthy.finish();
}

#[test]
fn what_holds_no_message_or_that_nobody_asked_for_is_counted_and_the_link_goes_on() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::greeted(1, &node);
    let request = sdk::encode_amop(FrameType::REQUEST, &seq(1), ResultCode::OK, "t", b"x");
    let inner_len = |len: u32| {
        let mut frame = request.clone();
        frame[..4].copy_from_slice(&len.to_be_bytes());
        frame
    };
    let malformed = [
        p2p_2x::encode(Kind::Unicast, 1, b""),
        p2p_2x::encode(Kind::Unicast, 1, &request[..41]),
        p2p_2x::encode(Kind::Unicast, 1, &inner_len(0)),
        p2p_2x::encode(Kind::Unicast, 1, &inner_len(request.len() as u32 + 1)),
        p2p_2x::encode(Kind::Multicast, 1, &request),
        p2p_2x::encode(Kind::Answer, 1, &request),
    ];
    malformed.iter().for_each(|frame| liar.say(frame));
    let answer = sdk::encode_amop(FrameType::RESPONSE, &seq(1), ResultCode::OK, "t", b"x");
    liar.say(&p2p_2x::encode(Kind::Answer, 1, &answer));
    liar.say(&p2p_2x::encode(Kind::Topics, 1, b"7\tnever asked for"));
    // A topic of no length, and none at all.
    for data in [&b"\0"[..], b"", b"\xfft"] {
        let frame = sdk::encode(FrameType::REQUEST, &seq(2), ResultCode::OK, data);
        liar.say(&p2p_2x::encode(Kind::Unicast, 5, &frame));
        let (seq, answer) = liar.next_with_seq(Kind::Answer);
        let header = sdk::Header::decode(&answer).unwrap();
        assert_eq!((seq, header.result, answer.len()), (5, ResultCode::NO_RECEIVER, 42));
    }
    liar.sync();
    assert_eq!(node.total(|counters| counters.peer_2x_malformed.get()), malformed.len() as u64);
    assert_eq!(node.total(|counters| counters.unsolicited_answers.get()), 1);
    assert_eq!(node.total(|counters| counters.peer_2x_ignored.get()), 1);
    assert!(node.node().shared().snapshot.load().topic("never asked for").is_none());
    healthy.finish();
}

#[test]
fn topics_by_the_million_are_refused_and_the_list_before_stays() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let mut liar = Liar::greeted(1, &node);
    liar.say(&p2p_2x::encode(Kind::TopicSeq, 0, b"1"));
    let (asked, _) = liar.next_with_seq(Kind::RequestTopics);
    liar.say(&p2p_2x::encode(Kind::Topics, asked, b"1\tbefore"));
    node.wait_for_subscribers("before", 1);
    liar.say(&p2p_2x::encode(Kind::TopicSeq, 0, b"2"));
    let (asked, _) = liar.next_with_seq(Kind::RequestTopics);
    let list = (0..1_000_000).fold(String::from("2"), |list, number| list + "\tt" + &number.to_string());
    liar.say(&p2p_2x::encode(Kind::Topics, asked, list.as_bytes()));
    liar.sync();
    assert_eq!(node.total(|counters| counters.peer_2x_lists_refused.get()), 1);
    node.wait_for_subscribers("before", 1);
    assert_eq!(node.total(|counters| counters.topics.get()), 2, "that of the healthy is the other one");
    healthy.finish();
}

#[test]
fn floods_of_numbers_and_requests_are_answered_within_their_bounds() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let honest = ScriptedPeer::start(3, None);
    honest.subscribe(&["theirs"]);
    honest.dial(node.node().p2p_address());
    node.wait_for_subscribers("theirs", 1);
    let mut liar = Liar::greeted(1, &node);
    let mut flood = Vec::new();
    for number in 1..20_000_u32 {
        flood.extend(p2p_2x::encode(Kind::TopicSeq, 0, number.to_string().as_bytes()));
        flood.extend(p2p_2x::encode(Kind::RequestTopics, number, &[]));
    }
    liar.say(&flood);
    liar.sync();
    let not_given = node.total(|counters| counters.peer_2x_lists_not_given.get());
    assert!(not_given > 19_000, "only {not_given} requests were passed by");
    // One request of ours is open, whatever it says.
    assert_eq!(node.total(|counters| counters.peer_2x_lists_refused.get()), 0);
    node.wait_for_subscribers("theirs", 1);
    assert_eq!(honest.links_in_all(), 1);
    healthy.finish();
}
