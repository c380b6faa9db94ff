//! Frames of nodes of FISCO BCOS 2.x: what is read is made to the same bytes, and nothing takes more memory than its bytes can
//! stand for.

use amop::internal::wire::{
    FrameRef, Topic, TopicKind,
    p2p_2x::{self, Dialect, HEADER_LEN, Header, Kind, TopicList},
};

/// Bytes that are taken of a compressed payload.
const DECOMPRESSED_LEN_MAX: usize = 1 << 20;

/// The first byte chooses the decoder.
pub fn run(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 3 {
        0 => frame(data),
        1 => topics(data),
        _ => compressed(data),
    }
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
    assert!(list.topics.len() + list.withheld + list.invalid <= usize::from(topics_max));
    assert!(list.topics.is_sorted_by(|one, next| one < next), "sorted, none twice");
    assert!(list.topics.iter().all(|topic: &Topic| topic.kind() == TopicKind::Ordinary));
    let again = TopicList::decode(&TopicList::encode(list.seq, &list.topics), usize::from(topics_max));
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
    frames.chain(lists).chain([of(2, &compressed), of(2, bomb)]).collect()
}
