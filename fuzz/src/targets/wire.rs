//! Every decoder of `wire`: what decodes, encodes to what decodes the same.

use amop::{
    client::file,
    internal::{
        relay::{rpc, settings::Settings},
        wire::{
            FrameRef, NodeId, PrivateTopic, ResultCode, Topic, TopicKind,
            announcement::{self, Announcement},
            hello::Hello,
            json::{self, HandshakeRequest, TopicCertification, TopicStatus},
            node::{self, Extensions},
            notice::{Diagnostic, Notice, PING_LEN, PathEnd, PathEnded},
            sdk::{self, AmopBody, HEADER_LEN, Header},
            state::{Change, Entries, Message},
            topic,
            trace::Part,
        },
    },
};

/// The first byte chooses the decoder.
pub fn run(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 11 {
        0 => sdk_frame(data),
        1 => amop_body(data),
        2 => frame_in_chunks(data),
        3 => hello(data),
        4 => {
            handshake(data);
            certification(data);
        }
        5 => subscription(data),
        6 => node_header(data),
        7 => extensions(data),
        8 => {
            state(data);
            notice(data);
        }
        9 => json_rpc(data),
        _ => names(data),
    }
}

fn sdk_frame(data: &[u8]) {
    let Some(header) = Header::decode(data) else {
        assert!(data.len() < HEADER_LEN);
        return;
    };
    assert_eq!(header.encode(), data[..HEADER_LEN]);
    let frame = sdk::encode(header.frame_type, &header.seq, header.result, &data[HEADER_LEN..]);
    assert_eq!(frame[4..], data[4..]);
    assert_eq!(Header::decode(&frame).map(|header| header.len as usize), Some(frame.len()));
    amop_body(&data[HEADER_LEN..]);
}

fn amop_body(data: &[u8]) {
    let Ok(body) = AmopBody::decode(data) else { return };
    assert!(topic::is_valid(body.topic.as_bytes()));
    let payload = &data[body.payload_offset..];
    let frame = sdk::encode_amop(sdk::FrameType::REQUEST, &[0; 32], ResultCode::OK, body.topic, payload);
    assert_eq!(frame[HEADER_LEN..], *data);
    if let Some((name, bytes)) = file::decode(payload) {
        assert_eq!(file::encode(name, bytes), payload);
    }
}

/// A frame reads the same however it is cut.
fn frame_in_chunks(data: &[u8]) {
    let Some((&[step, skip, end], bytes)) = data.split_first_chunk::<3>() else { return };
    let step = usize::from(step) + 1;
    let whole = bytes::Bytes::copy_from_slice(bytes);
    let chunks: Vec<_> =
        (0..bytes.len()).step_by(step).map(|at| whole.slice(at..bytes.len().min(at + step))).collect();
    let Some(first) = chunks.first() else { return };
    let skip = usize::from(skip) % (first.len() + 1);
    let len = bytes.len() - skip - usize::from(end).min(bytes.len() - skip);
    let expected = &bytes[skip..skip + len];
    let frame = FrameRef::Chunks { chunks: &chunks, skip, len };
    let joined = |frame: FrameRef<'_>| frame.pieces().flatten().copied().collect::<Vec<u8>>();
    assert_eq!(joined(frame), expected);
    assert!(expected.starts_with(frame.head()));
    let kept = frame.retain();
    assert_eq!((kept.len(), joined(kept.as_ref())), (len, expected.to_vec()));
    for count in 0..=frame.head().len() {
        assert_eq!(joined(frame.advance(count)), expected[count..]);
    }
}

fn hello(data: &[u8]) {
    let Some(hello) = Hello::decode(data) else { return };
    let encoded = hello.encode();
    assert!(data.starts_with(&encoded));
    assert_eq!(Hello::decode(&encoded), Some(hello));
}

fn handshake(data: &[u8]) {
    let Some(request) = HandshakeRequest::decode(data) else { return };
    assert!(request.client_type.chars().count() <= 64);
    if let Some(protocol) = request.negotiate() {
        assert!((json::PROTOCOL_MIN..=json::PROTOCOL_MAX).contains(&protocol));
        assert!(protocol <= request.maximum);
        let answer = json::handshake_answer(protocol, None);
        assert!(serde_json::from_str::<serde_json::Value>(&answer).is_ok_and(|answer| answer.is_object()));
    }
}

fn certification(data: &[u8]) {
    let Some(certification) = TopicCertification::decode(data) else { return };
    for accepted in [true, false] {
        // A node that made it finds its token again.
        if let Some(status) = TopicStatus::decode(certification.status(accepted).as_bytes()) {
            assert_eq!((status.accepted, &status.topic), (accepted, &certification.topic));
        }
    }
}

fn subscription(data: &[u8]) {
    let Some((&topics_max, data)) = data.split_first() else { return };
    let topics_max = usize::from(topics_max);
    let Ok((topics, _)) = json::decode_subscription(data, topics_max) else { return };
    assert!(topics.len() <= topics_max);
    assert!(topics.is_sorted_by(|one, next| one < next), "sorted, none twice");
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    let again = json::decode_subscription(&serde_json::to_vec(&names).expect("strings"), topics_max);
    assert_eq!(again, Ok((topics, 0)));
}

fn node_header(data: &[u8]) {
    let Ok((header, offset)) = node::Header::decode(data) else { return };
    assert!(offset <= data.len());
    let payload = &data[offset..];
    let mut encoded = smallvec::SmallVec::new();
    header.encode_into(payload.len(), &mut encoded);
    assert!(encoded.len() <= node::HEADER_LEN_MAX);
    let len = u32::from_be_bytes([encoded[0], encoded[1], encoded[2], encoded[3]]);
    assert_eq!(len as usize, encoded.len() + payload.len());
    assert_eq!(node::Header::decode(&encoded), Ok((header, encoded.len())));
    if header.packet_type.is_amop() {
        if let Some(numbers) = node::Numbers::decode(payload) {
            assert!(payload.starts_with(&numbers.encode()));
            extensions(&payload[node::Numbers::LEN..]);
        }
    } else if header.packet_type == node::PacketType::HELLO {
        hello(payload);
    } else if header.packet_type == node::PacketType::BROADCAST {
        notice(payload);
    } else {
        state(payload);
    }
}

fn extensions(data: &[u8]) {
    let Some((extensions, offset)) = Extensions::decode(data) else { return };
    let encoded = extensions.encode();
    assert!(encoded.len() <= offset, "shorter by what was skipped or stood there twice");
    assert_eq!(Extensions::decode(&encoded), Some((extensions, encoded.len())));
    sdk_frame(&data[offset..]);
}

fn state(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        let encoded = message.encode();
        assert!(encoded.len() <= data.len());
        assert_eq!(Message::decode(&encoded).as_ref(), Ok(&message));
        match message {
            Message::Steps(steps) => steps.iter().for_each(|(_, bytes)| changes(bytes)),
            Message::Part { entries, .. } => changes(entries),
            _ => {}
        }
    }
    changes(data);
}

fn changes(data: &[u8]) {
    let Some(changes) = Change::decode_all(data) else { return };
    let mut encoded = Vec::new();
    changes.iter().for_each(|change| change.encode_into(&mut encoded));
    assert_eq!(encoded, data);
    let mut entries = Entries::default();
    for change in &changes {
        entries.apply(change);
        assert_eq!(entries.get(change.key), change.value);
    }
    assert_eq!(entries.bytes(), entries.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>());
    entries.topics().for_each(drop);
    // The parts join to the whole.
    let (mut joined, mut after) = (Entries::default(), Vec::new());
    loop {
        let (part, last) = entries.part(&after);
        for change in Change::decode_all(&part).expect("our own encoding") {
            joined.apply(&change);
            after = change.key.to_vec();
        }
        if last {
            break;
        }
    }
    assert_eq!(joined.root(), entries.root());
}

fn notice(data: &[u8]) {
    if let Some(notice) = Notice::decode(data) {
        assert!(!Announcement::is_one(data));
        assert_eq!(Notice::decode(&notice.encode()).as_ref(), Some(&notice));
        if let Notice::Reply(reply) = &notice
            && let Some(part) = Part::decode(&reply.body)
        {
            assert_eq!(Part::decode(&part.encode()), Some(part));
        }
    }
    if let Ok(announcement) = Announcement::decode(data) {
        assert!(Announcement::is_one(data) && Notice::decode(data).is_none());
        let encoded = announcement.encode();
        assert!(encoded.len() <= announcement::LEN_MAX && data.starts_with(&encoded));
        assert!(!announcement.text.chars().any(char::is_control));
        assert_eq!(Announcement::decode(&encoded), Ok(announcement));
    }
}

fn json_rpc(data: &[u8]) {
    let settings = Settings::default();
    let _ = rpc::classify(data, &settings);
    let answer = rpc::over_rate(data);
    assert!(answer.is_none_or(|answer| serde_json::from_slice::<serde_json::Value>(&answer).is_ok()));
}

fn names(data: &[u8]) {
    let name = std::str::from_utf8(data).ok();
    let topic = name.and_then(Topic::new);
    assert_eq!(topic.is_some(), topic::is_valid(data));
    if let Some(topic) = topic {
        assert_eq!((topic.kind(), topic.as_str().as_bytes()), (TopicKind::of(data), data));
        assert!(AmopBody::decode(&[&[data.len() as u8 + 1], data].concat()).is_ok());
    }
    if let Some(private) = name.and_then(PrivateTopic::new) {
        let route = private.route(b"00112233445566778899aabbccddeeff");
        let (data, marker) = (private.data().as_str(), private.marker());
        assert_eq!(topic::data_topic_of_route(&route), Some(data));
        assert_eq!(topic::data_topic_of_marker(&marker), Some(data));
        assert_eq!(PrivateTopic::of_data(data).as_ref(), Some(&private));
        assert_eq!(Some(private.name()), name);
        assert!(topic::is_valid(route.as_bytes()));
    }
    if let Some(id) = name.and_then(NodeId::from_hex) {
        assert_eq!(id.to_hex(), name.unwrap_or_default().to_ascii_lowercase());
    }
    if let Some(code) = data.first_chunk::<4>() {
        assert!(!ResultCode(i32::from_be_bytes(*code)).to_string().is_empty());
    }
}

/// Frames as FISCO BCOS' SDKs and our own nodes send them.
pub fn seeds() -> Vec<Vec<u8>> {
    use node::{Addressing, PacketType};
    use sdk::FrameType;

    let seq = *b"b3ae60984320433aa3efbc6462ef6102";
    let frame = |kind: FrameType, data: &[u8]| sdk::encode(kind, &seq, ResultCode::OK, data);
    let amop = |kind: FrameType, topic: &str, payload: &[u8]| {
        sdk::encode_amop(kind, &seq, ResultCode::OK, topic, payload)
    };
    let id = NodeId([9; 64]);
    let head = amop::internal::wire::state::Head {
        origin: id,
        incarnation: 2,
        seq: 3,
        previous: [4; 32],
        root: [5; 32],
        changes_hash: [6; 32],
        signature: [7; 64],
    };
    let mut changes = Vec::new();
    for (key, value) in [
        (amop::internal::wire::state::topic_key("news"), Some(&[0, 0, 0, 1][..])),
        (amop::internal::wire::state::neighbour_key(&id), Some(&[])),
        (amop::internal::wire::state::topic_key("gone"), None),
    ] {
        Change { key: &key, value }.encode_into(&mut changes);
    }
    let version = amop::internal::wire::state::Version { origin: id, incarnation: 1, seq: 2 };
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        incarnation: 4,
        lane: 0,
        link_number: 6,
        replaces: 0,
        frame_len_max: Some(8),
        salt: Some([9; 16]),
    };
    let states = [
        Message::Steps(vec![(head.clone(), &changes), (head.clone(), b"")]).encode(),
        Message::Digest { scope: amop::internal::wire::state::Scope::ALL, hash: [3; 32] }.encode(),
        Message::List(vec![version, version]).encode(),
        Message::WantList.encode(),
        Message::Want { known: version, after: b"key" }.encode(),
        Message::Part { head, after: b"", last: true, entries: &changes }.encode(),
    ];
    let announcement = Announcement {
        origin: id,
        incarnation: 1,
        number: 2,
        text: "升级 at 22:00".to_owned(),
        signature: [3; 64],
    };
    let token = [8; 32];
    let part = Part { reactors: 1, traces: vec![Default::default()], ..Default::default() };
    let notices = [
        Notice::Challenge {
            token,
            number: 1,
            subscriber: 2,
            publisher: 3,
            open_for: std::time::Duration::from_secs(5),
            topic: Topic::new("#!$TopicNeedVerify_t").expect("a topic"),
        },
        Notice::Opened { publisher: 1, token },
        Notice::Answered { publisher: 1, token },
        Notice::Request(Diagnostic { kind: 4, id: 1, body: seq.to_vec() }),
        Notice::Reply(Diagnostic { kind: 4, id: 1, body: part.encode() }),
        Notice::Request(Diagnostic { kind: 6, id: 1, body: vec![0; PING_LEN - 9] }),
        Notice::Reply(Diagnostic { kind: 6, id: 1, body: Vec::new() }),
        Notice::PathEnded(PathEnded { seq: 1, why: PathEnd::HopsUsed, destination: 2, tag: [3; 16] }),
    ];
    let notices: Vec<Vec<u8>> = notices.iter().map(Notice::encode).chain([announcement.encode()]).collect();
    let packet = |packet_type: PacketType, addressing: Addressing<'_>, payload: &[u8]| {
        let mut out = smallvec::SmallVec::new();
        node::Header { addressing, ..node::Header::direct(packet_type, 7) }
            .encode_into(payload.len(), &mut out);
        [&out[..], payload].concat()
    };
    let block = Extensions {
        time_left_ms: Some(29_000),
        may_wait: true,
        audience: Some(vec![vec![1, 2], vec![]]),
        tried: smallvec::smallvec![9, 10],
        by_node: true,
        from_2x: Some(11),
    }
    .encode();
    let numbers = node::Numbers { place: 7, least: 6, taken_below: 5 }.encode();
    let request = amop(FrameType::REQUEST, "T", b"hello");
    let named = Addressing::EndToEnd { source: &[1; 64], destinations: &[[2; 64], [3; 64]] };
    let file = file::encode("report.txt", b"content");

    let mut seeds: Vec<(u8, Vec<u8>)> = vec![
        (0, request.clone()),
        (0, frame(FrameType::HEARTBEAT, b"0")),
        (0, frame(FrameType::RESPONSE, b"")),
        (0, amop(FrameType::MULTICAST, "主题", &file)),
        (
            0,
            frame(
                FrameType::TOPIC_STATUS,
                br##"{"checkResult":0,"nodeId":"ab","topic":"#!$TopicNeedVerify_t"}"##,
            ),
        ),
        (1, b"\x02Thello".to_vec()),
        (1, b"\0".to_vec()),
        (2, [&[15, 3, 1][..], &[7; 100]].concat()),
        (3, hello.encode()),
        (4, br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"java-sdk"}"#.to_vec()),
        (4, br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"amop","sharedRecords":true}"#.to_vec()),
        (
            4,
            json::topic_certification(
                &id,
                &[8; 32],
                "#!$TopicNeedVerify_t",
                "#!$VerifyChannel_#!$TopicNeedVerify_t_00112233445566778899aabbccddeeff",
            )
            .into_bytes(),
        ),
        (5, [&[9][..], br#"["b","a","","\t","\u4e3b"]"#].concat()),
        (6, packet(PacketType::HELLO, Addressing::Direct, &hello.encode())),
        (6, packet(PacketType::UNICAST, Addressing::Direct, &[&numbers, &block[..], &request].concat())),
        (6, packet(PacketType::MULTICAST, named, &[&numbers, &[0, 0][..], &request].concat())),
        (6, packet(PacketType::STATE_SEQ, Addressing::Direct, &states[0])),
        (6, packet(PacketType::ACK, Addressing::Direct, &9u64.to_be_bytes())),
        (6, packet(PacketType::BROADCAST, named, &notices[5])),
        (6, packet(PacketType::BROADCAST, Addressing::Direct, &announcement.encode())),
        (7, [&block[..], &request].concat()),
        (9, br#"{"jsonrpc":"2.0","method":"getBlockNumber","params":[1],"id":1}"#.to_vec()),
        (
            9,
            br#"[{"jsonrpc":"2.0","method":"getPeers","params":[1],"id":"x"},{"method":"getClientVersion"}]"#
                .to_vec(),
        ),
        (10, b"#!$VerifyChannel_#!$TopicNeedVerify_t_00112233445566778899aabbccddeeff".to_vec()),
        (10, id.to_hex().into_bytes()),
    ];
    seeds.extend(states.into_iter().chain([changes]).chain(notices).map(|state| (8, state)));
    seeds.into_iter().map(|(selector, seed)| [&[selector][..], &seed].concat()).collect()
}
