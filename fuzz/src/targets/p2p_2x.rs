//! Frames of nodes of FISCO BCOS 2.x: what is read is made to the same bytes, and nothing takes more memory than its bytes can
//! stand for. And whole nodes on the virtual network with one of theirs that says what it likes: each request of an application
//! gets one answer, and messages go on.

use std::time::Duration;

use amop::internal::{
    relay::settings::Settings,
    wire::{
        FrameRef, ResultCode, Topic, TopicKind,
        p2p_2x::{self, Dialect, HEADER_LEN, Header, Kind, TopicList},
        sdk::{self, FrameType},
    },
};
use arbitrary::{Arbitrary, Unstructured};

use super::{
    Bytes,
    shard::kit::{Behaviour, Network},
};

/// Bytes that are taken of a compressed payload.
const DECOMPRESSED_LEN_MAX: usize = 1 << 20;

/// The first byte chooses the decoder.
pub fn run(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 4 {
        0 => frame(data),
        1 => topics(data),
        2 => compressed(data),
        _ => script(data),
    }
}

/// What one of theirs does, or befalls it.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Says { version: u16, protocol: i8, packet_type: u8, seq: u8, payload: Bytes<'a, 64> },
    Carries { kind: u8, seq: u8, frame_type: u8, topic: u8, result: i8, lies: bool },
    SaysItsNumber(u8),
    GivesTopics { seq: u8, topics: Bytes<'a, 32> },
    Asked(u8),
    Told(u8),
    Waits(u16),
    IsLost,
    Freezes(bool),
}

const TOPICS: [&str; 4] = ["t", "u", "#!$TopicNeedVerify_V", "theirs"];
const STEPS_MAX: usize = 64;

fn script(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mut net = Network::new(1);
    // Nobody is closed for having nothing to say.
    let idle_timeout = Duration::from_secs(1 << 20);
    net.add_node(2, Settings { idle_timeout, ..Settings::default() });
    let peer = net.add_peer_2x(&["t", "theirs"]);
    net.keep_peer_2x_linked(peer, 0);
    net.subscriber(0, &["t", "u"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(Duration::from_secs(1));
    let mut asked = Vec::new();
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut script) else { break };
        let bytes = match step {
            Step::Says { version, protocol, packet_type, seq, payload } => {
                let mut frame = p2p_2x::encode(Kind::Unicast, seq.into(), payload.0);
                frame[4..6].copy_from_slice(&(version & 0x8001).to_be_bytes());
                frame[6..10].copy_from_slice(&i32::from(protocol).to_be_bytes());
                frame[11] = packet_type;
                frame
            }
            Step::Carries { kind, seq, frame_type, topic, result, lies } => {
                let kinds = [Kind::Unicast, Kind::Multicast, Kind::Answer];
                let types =
                    [FrameType::REQUEST, FrameType::MULTICAST, FrameType::RESPONSE, FrameType::SUBSCRIBE];
                let topic = TOPICS[usize::from(topic) % TOPICS.len()];
                // Also those that our application has open.
                let number = usize::from(seq) % 4;
                let inner = asked.get(number).copied().unwrap_or([b'0' + seq % 10; 32]);
                let frame_type = types[usize::from(frame_type) % types.len()];
                let mut frame =
                    sdk::encode_amop(frame_type, &inner, ResultCode(i32::from(result)), topic, b"payload");
                frame[3] = frame[3].wrapping_add(u8::from(lies));
                p2p_2x::encode(kinds[usize::from(kind) % kinds.len()], seq.into(), &frame)
            }
            Step::SaysItsNumber(number) => p2p_2x::encode(Kind::TopicSeq, 0, number.to_string().as_bytes()),
            Step::GivesTopics { seq, topics } => {
                p2p_2x::encode(Kind::Topics, seq.into(), &[b"7\t", topics.0].concat())
            }
            Step::Asked(topic) => {
                let topic = TOPICS[usize::from(topic) % TOPICS.len()];
                asked.push(net.unicast(publisher, topic, b"x"));
                continue;
            }
            Step::Told(topic) => {
                net.multicast(publisher, TOPICS[usize::from(topic) % TOPICS.len()], b"x");
                continue;
            }
            Step::Waits(millis) => {
                net.run_for(Duration::from_millis(millis.into()));
                continue;
            }
            Step::IsLost => {
                net.break_peer_link(peer, 0);
                continue;
            }
            Step::Freezes(is_frozen) => {
                net.peers_2x[peer].is_frozen = is_frozen;
                continue;
            }
        };
        if let Some(link) = net.peer_link(peer, 0) {
            net.peer_says(link, bytes);
        }
    }
    net.run_for(Duration::from_secs(32));
    for seq in asked {
        assert_eq!(net.answers(publisher, &seq).len(), 1, "a request has one answer");
    }
    let seq = net.unicast(publisher, "u", b"still there?");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(40)).0, 0);
}

fn frame(data: &[u8]) {
    let Ok(header) = Header::decode(data) else {
        assert!(data.len() < HEADER_LEN || Dialect::of(data) == Some(Dialect::Own));
        return;
    };
    assert_eq!(Dialect::of(data), Some(Dialect::V2x));
    let payload = &data[HEADER_LEN..];
    if header.kind != Kind::Other {
        let again = p2p_2x::encode(header.kind, header.seq, payload);
        let len = again.len() as u32;
        assert_eq!(Header::decode(&again), Ok(Header { len, is_compressed: false, ..header }));
        assert_eq!(again[HEADER_LEN..], *payload);
    }
    match header.kind {
        _ if header.is_compressed => compressed(payload),
        Kind::TopicSeq => {
            if let Some(seq) = p2p_2x::decode_topic_seq(payload) {
                assert_eq!(p2p_2x::decode_topic_seq(seq.to_string().as_bytes()), Some(seq));
            }
        }
        Kind::Topics => topics(payload),
        _ => {}
    }
}

fn topics(data: &[u8]) {
    let Some((&topics_max, data)) = data.split_first() else { return };
    let Ok(list) = TopicList::decode(data, usize::from(topics_max)) else { return };
    let named = list.topics.len() + list.private.len();
    assert!(named + list.withheld + list.invalid <= usize::from(topics_max));
    for topics in [&list.topics, &list.private] {
        assert!(topics.is_sorted_by(|one, next| one < next), "sorted, none twice");
    }
    let is_private =
        |topic: &Topic| matches!(topic.kind(), TopicKind::Data | TopicKind::Route | TopicKind::Marker);
    assert!(list.topics.iter().all(|topic| topic.kind() == TopicKind::Ordinary));
    assert!(list.private.iter().all(is_private));
    let all = list.topics.iter().chain(&list.private);
    let again = TopicList::decode(&TopicList::encode(list.seq, all), usize::from(topics_max));
    assert_eq!(again, Ok(TopicList { withheld: 0, invalid: 0, ..list }));
}

fn compressed(data: &[u8]) {
    let Ok(opened) = p2p_2x::decompress(FrameRef::Slice(data), DECOMPRESSED_LEN_MAX) else { return };
    assert!(opened.len() <= DECOMPRESSED_LEN_MAX);
    assert_eq!(p2p_2x::decompress(FrameRef::Slice(data), opened.len()), Ok(opened));
}

/// As a real node of FISCO BCOS 2.10.2 has them.
pub fn seeds() -> Vec<Vec<u8>> {
    let request: &[u8] = b"\0\0\0\x31\0\x30b3ae60984320433aa3efbc6462ef6102\0\0\0\0\x02Thello";
    let answer: &[u8] = b"\0\0\0\x31\0\x31b3ae60984320433aa3efbc6462ef6102\0\0\0\0\x02Tworld";
    let multicast: &[u8] = b"\0\0\0\x2e\0\x35380599ef254946139c19c1d87d9c937d\0\0\0\0\x02Tmc";
    let compressed: &[u8] =
        b"\x94\x08\xd0\0\0\x04\x14\0\x31ad390ea059fb472d98fb44f750138097\0\0\0\0\x02Babcdefgh";
    let copies = [0xfe, 0x08, 0].repeat(15);
    let compressed = [compressed, &copies, &[0x7a, 0x08, 0]].concat();
    let mut in_a_frame = p2p_2x::encode(Kind::Answer, 5, &compressed);
    in_a_frame[4] = 0x80;
    let group = [&[0, 0, 0, 17, 0, 0, 0, 1, 0, 9, 0, 0, 0, 0, 0, 3][..], b"s"].concat();
    let frames = [
        p2p_2x::encode(Kind::TopicSeq, 0, b"0"),
        p2p_2x::encode(Kind::RequestTopics, 2, b""),
        p2p_2x::encode(Kind::Topics, 2, b"1\tT\tT2"),
        p2p_2x::encode(Kind::Unicast, 3, request),
        p2p_2x::encode(Kind::Answer, 3, answer),
        p2p_2x::encode(Kind::Multicast, 5, multicast),
        in_a_frame,
        group,
    ];
    let lists: [&[u8]; 3] = [
        b"\x091\t#!$TopicNeedVerify_V\t#!$VerifyChannel_#!$TopicNeedVerify_V_uuid1",
        b"\x022\ta\tb\tc",
        b"\x093\tS",
    ];
    let bomb: &[u8] = &[0x80, 0x80, 0x80, 0x20, 0xfe, 0x01, 0x00, 0xfe, 0x01, 0x00];
    let of = |selector: u8, bytes: &[u8]| [&[selector][..], bytes].concat();
    let frames = frames.iter().map(|frame| of(0, frame));
    let lists = lists.iter().map(|list| of(1, list));
    let scripts = super::scripts().into_iter().map(|script| of(3, &script));
    frames.chain(lists).chain([of(2, &compressed), of(2, bomb)]).chain(scripts).collect()
}
