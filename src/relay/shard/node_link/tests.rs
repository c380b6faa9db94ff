//! How a link between nodes is kept up, and what it acknowledges and when.

use std::sync::Arc;

use super::*;
use crate::{
    relay::{
        Forward, LedgerDial, LinkProgress, LinkUp, MeshMessage, Queued, ReactorId, RegistryOutput, RequestId,
        SendError, Shared, home_reactor,
        peer_2x::MulticastOf,
        settings::Settings,
        shard::{Shard, diagnostic::ping::ANSWERS_PER_SECOND_MAX},
        signing::NodeSigner,
        snapshot::{Path, Snapshot},
    },
    wire::{
        MessageNumber,
        node::{HEADER_LEN_MIN, Numbers},
        notice::{Notice, PathEnd, PathEnded},
    },
};

const OWN: NodeId = NodeId([1; 64]);
const PEER: NodeId = NodeId([2; 64]);
const KEY: LinkKey = LinkKey { index: 0, generation: 1 };

/// Links that take frames, or refuse them for a reason.
#[derive(Default)]
struct Links {
    refusal: Option<SendError>,
    refused: usize,
    /// Whether the relay may cut links.
    may_abort: bool,
    taken: Vec<(LinkKey, Vec<u8>)>,
    /// What other reactors were told.
    told: Vec<MeshMessage>,
}

impl Links {
    fn taken_of(&self, key: LinkKey, packet_type: PacketType) -> Vec<&[u8]> {
        let of_type = |(link, frame): &&(LinkKey, Vec<u8>)| {
            *link == key && Header::decode(frame).unwrap().0.packet_type == packet_type
        };
        self.taken.iter().filter(of_type).map(|(_, frame)| frame.as_slice()).collect()
    }
}

impl Outbound for Links {
    fn send(
        &mut self,
        link: LinkKey,
        _: Class,
        head: &[u8],
        body: FrameRef<'_>,
    ) -> Result<Queued, SendError> {
        if let Some(refusal) = self.refusal {
            self.refused += 1;
            return Err(refusal);
        }
        let frame = std::iter::once(head).chain(body.pieces()).flatten().copied().collect();
        self.taken.push((link, frame));
        Ok(Queued::default())
    }

    fn progress(&mut self, _: LinkKey) -> Option<LinkProgress> {
        None
    }

    fn watch_taken(&mut self, _: LinkKey) {}

    fn watch_room(&mut self, _: LinkKey, _: Class, _: usize) {}

    fn dial_ledger(&mut self, _: LedgerDial) {}

    fn pause_reading(&mut self, _: LinkKey, _: bool) {}

    fn to_reactor(&mut self, _: ReactorId, message: MeshMessage, _: FrameRef<'_>) {
        self.told.push(message);
    }

    fn to_registry(&mut self, _: RegistryInput) -> bool {
        true
    }

    fn answer(&mut self, _: u64, _: crate::relay::diagnostic::Answer) {}

    fn share_records(&mut self, _: LinkKey) {}

    fn close(&mut self, _: LinkKey, _: CloseReason) {}

    fn abort(&mut self, _: LinkKey, reason: CloseReason) {
        assert!(self.may_abort, "aborted: {reason}");
    }
}

fn frame(packet_type: PacketType, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = SmallVec::new();
    Header::direct(packet_type, seq).encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

fn multicast(number: u32) -> Vec<u8> {
    sdk::encode_amop(sdk::FrameType::MULTICAST, &[0; 32], ResultCode::OK, "t", &number.to_be_bytes())
}

/// A multicast of the peer, with its number as its place.
fn data_frame(number: u32) -> Vec<u8> {
    let numbers = Numbers { place: number.into(), least: 1, taken_below: 0 };
    let payload = [&numbers.encode(), &[0, 0][..], &multicast(number)].concat();
    frame(PacketType::MULTICAST, number, &payload)
}

fn link_up(shard: &mut Shard, now: Instant, key: LinkKey, out: &mut Links) {
    link_up_of(shard, now, key, (PEER, 1), out);
}

/// The same of a node in an incarnation of it.
fn link_up_of(
    shard: &mut Shard,
    now: Instant,
    key: LinkKey,
    (id, incarnation): (NodeId, u64),
    out: &mut Links,
) {
    let up =
        LinkUp::Node { id, dialed: true, address: String::new(), agency: String::new(), name: String::new() };
    shard.handle_link_up(now, key, up, out);
    let hello = Hello {
        version_min: LINK_VERSION,
        version_max: LINK_VERSION,
        features: 0,
        incarnation,
        lane: 0,
        link_number: u64::from(key.generation),
        replaces: 0,
        frame_len_max: Some(1 << 20),
        salt: Some([3; 16]),
    };
    let hello = frame(PacketType::HELLO, 0, &hello.encode());
    shard.handle_frame(now, key, FrameRef::Slice(&hello), out);
}

fn shard(now: Instant) -> (Shard, Links) {
    shard_with(now, Settings::default())
}

fn shard_with(now: Instant, settings: Settings) -> (Shard, Links) {
    let shared = Shared::new(OWN, 1, 1, now, settings);
    let (mut shard, mut out) = (Shard::new(Arc::new(shared), ReactorId(0), [0; 32], now), Links::default());
    link_up(&mut shard, now, KEY, &mut out);
    (shard, out)
}

#[test]
fn a_sign_of_life_that_the_link_did_not_take_is_tried_again_at_once() {
    let start = Instant::now();
    let (mut shard, mut out) = shard(start);
    let interval = shard.common.shared.settings.keepalive_interval;
    out.refusal = Some(SendError::Full);
    let mut now = start;
    while out.refused < 3 {
        now = shard.poll_timeout().unwrap();
        shard.handle_activity(now, KEY);
        shard.handle_timeout(now, &mut out);
    }
    assert!(now <= start + interval + 3 * NODE_TICK);
    assert_eq!(shard.common.counters.dropped_control_full.get(), 3);
    out.refusal = None;
    now = shard.poll_timeout().unwrap();
    shard.handle_timeout(now, &mut out);
    assert_eq!(out.taken_of(KEY, PacketType::ACK).len(), 1);
}

#[test]
fn an_acknowledgement_goes_with_the_last_frame_and_the_last_byte_that_may_wait_for_one() {
    let now = Instant::now();
    let frame = |number| data_frame(number);
    let frames_max = Settings::default().ack_frames_max;
    for (frames_max, bytes_max) in
        [(frames_max, usize::MAX), (u64::MAX, 10 * (frame(1).len() - HEADER_LEN_MIN))]
    {
        let settings =
            Settings { ack_frames_max: frames_max, ack_bytes_max: bytes_max, ..Settings::default() };
        let (mut shard, mut out) = shard_with(now, settings);
        let due = if bytes_max == usize::MAX { frames_max } else { 10 };
        for number in 1..=due {
            assert_eq!(out.taken_of(KEY, PacketType::ACK).len(), 0, "before frame {number}");
            shard.handle_frame(now, KEY, FrameRef::Slice(&frame(number as u32)), &mut out);
        }
        let acknowledgements = out.taken_of(KEY, PacketType::ACK);
        assert_eq!(acknowledgements.len(), 1, "after frame {due}");
        assert!(acknowledgements[0].ends_with(&(due + 1).to_be_bytes()));
    }
}

#[test]
fn an_acknowledgement_that_the_link_did_not_take_is_still_due() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    let due = shard.common.shared.settings.ack_frames_max as u32;
    out.refusal = Some(SendError::Full);
    for number in 1..=due + 1 {
        if number == due + 1 {
            out.refusal = None;
        }
        shard.handle_frame(now, KEY, FrameRef::Slice(&data_frame(number)), &mut out);
    }
    let acknowledgements = out.taken_of(KEY, PacketType::ACK);
    assert_eq!(acknowledgements.len(), 1);
    assert!(acknowledgements[0].ends_with(&u64::from(due + 2).to_be_bytes()));
}

#[test]
fn a_message_takes_the_acknowledgement_along_and_what_it_acknowledges_is_let_go_of() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    shard.handle_frame(now, KEY, FrameRef::Slice(&data_frame(1)), &mut out);
    let (parts, mut cx) = shard.at(now, &mut out);
    parts.forward_multicast(
        &mut cx,
        &PEER,
        MulticastOf::session(MessageNumber(7)),
        None,
        FrameRef::Slice(&multicast(7)),
    );
    let sent = out.taken_of(KEY, PacketType::MULTICAST)[0];
    let numbers = Numbers::decode(&sent[Header::decode(sent).unwrap().1..]).unwrap();
    assert_eq!(numbers.taken_below, 2);
    shard.handle_timeout(now + shard.common.shared.settings.ack_delay_max, &mut out);
    assert_eq!(out.taken_of(KEY, PacketType::ACK).len(), 0, "the message has told it");
    assert_eq!(shard.parts.usage().window_frames, 1);
    let numbers = Numbers { place: 2, least: 1, taken_below: numbers.place + 1 };
    let answer = [&numbers.encode(), &[0, 0][..], &multicast(2)].concat();
    let answer = frame(PacketType::MULTICAST, 2, &answer);
    shard.handle_frame(now, KEY, FrameRef::Slice(&answer), &mut out);
    assert_eq!((shard.parts.usage().window_frames, shard.parts.usage().windows_bytes), (0, 0));
}

#[test]
fn what_comes_while_the_link_is_about_to_end_goes_over_the_next_one() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    out.refusal = Some(SendError::Gone);
    for number in 0..3 {
        let (parts, mut cx) = shard.at(now, &mut out);
        parts.forward_multicast(
            &mut cx,
            &PEER,
            MulticastOf::session(MessageNumber(number)),
            None,
            FrameRef::Slice(&multicast(number)),
        );
    }
    assert_eq!(shard.common.counters.dropped_window_full.get(), 0);
    shard.handle_link_down(now, KEY, CloseReason::ByPeer, &mut out);
    out.refusal = None;
    let next = LinkKey { index: 0, generation: 2 };
    link_up(&mut shard, now, next, &mut out);
    let sent = out.taken_of(next, PacketType::MULTICAST);
    let numbers: Vec<_> = sent.iter().map(|frame| frame[frame.len() - 1]).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn what_is_new_does_not_overtake_what_waits_for_room_on_the_link() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    let send = |shard: &mut Shard, out: &mut Links, number| {
        let (parts, mut cx) = shard.at(now, out);
        parts.forward_multicast(
            &mut cx,
            &PEER,
            MulticastOf::session(MessageNumber(number)),
            None,
            FrameRef::Slice(&multicast(number)),
        )
    };
    out.refusal = Some(SendError::Gone);
    (0..3).for_each(|number| assert!(send(&mut shard, &mut out, number)));
    shard.handle_link_down(now, KEY, CloseReason::ByPeer, &mut out);
    out.refusal = Some(SendError::Full);
    let next = LinkKey { index: 0, generation: 2 };
    link_up(&mut shard, now, next, &mut out);
    assert!(send(&mut shard, &mut out, 3), "it waits behind the others");
    assert_eq!(out.taken_of(next, PacketType::MULTICAST).len(), 0);
    out.refusal = None;
    assert!(send(&mut shard, &mut out, 4));
    let sent = out.taken_of(next, PacketType::MULTICAST);
    let numbers: Vec<_> = sent.iter().map(|frame| frame[frame.len() - 1]).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

#[test]
fn what_comes_over_a_link_of_an_incarnation_that_is_over_takes_no_place_of_the_next_one() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    out.may_abort = true;
    let next = LinkKey { index: 1, generation: 1 };
    link_up_of(&mut shard, now, next, (PEER, 2), &mut out);
    let message = [&[0, 0][..], &multicast(1)].concat();
    let of_place = |place| {
        let numbers = Numbers { place, least: place, taken_below: 0 };
        frame(PacketType::MULTICAST, 1, &[&numbers.encode(), &message[..]].concat())
    };
    shard.handle_frame(now, KEY, FrameRef::Slice(&of_place(5_000)), &mut out);
    assert_eq!(shard.common.counters.late_messages.get(), 1);
    shard.handle_frame(now, next, FrameRef::Slice(&of_place(1)), &mut out);
    assert_eq!(shard.common.counters.duplicates_dropped.get(), 0);
    assert_eq!(shard.parts.taken_below(&PEER), 2);
}

/// A shard with two neighbours, of which the second leads to the first, too; and the id and the link of each.
fn shard_with_detour(now: Instant) -> (Shard, Links, [(NodeId, LinkKey); 2]) {
    let [own, peer, other] =
        [1, 2, 3].map(|number| NodeSigner::from_secret_bytes(&[number; 32]).expect("a key"));
    let shared =
        Shared { signer: Some(own.clone()), ..Shared::new(own.id(), 1, 1, now, Settings::default()) };
    let path = Path {
        incarnation: 1,
        salt: Some([3; 16]),
        hops: 1,
        next: SmallVec::from_slice(&[peer.id(), other.id()]),
        frame_len_max: 1 << 20,
        fingerprint: 7,
    };
    let paths = Arc::new([(peer.id(), path)].into());
    let mut snapshot = Snapshot::default();
    snapshot.paths = paths;
    shared.snapshot.store(Arc::new(snapshot));
    let mut shard = Shard::new(Arc::new(shared), ReactorId(0), [0; 32], now);
    let mut out = Links { may_abort: true, ..Links::default() };
    let links = [(peer.id(), KEY), (other.id(), LinkKey { index: 1, generation: 1 })];
    for (id, key) in links {
        link_up_of(&mut shard, now, key, (id, 1), &mut out);
    }
    (shard, out, links)
}

#[test]
fn what_was_sent_in_one_incarnation_of_either_end_does_not_go_around_in_the_next() {
    let now = Instant::now();
    for (reason, goes_around) in
        [(CloseReason::Removed, 1), (CloseReason::Replaced, 0), (CloseReason::NewIncarnation, 0)]
    {
        let (mut shard, mut out, [(peer, _), (_, detour)]) = shard_with_detour(now);
        let (parts, mut cx) = shard.at(now, &mut out);
        parts.forward_multicast(
            &mut cx,
            &peer,
            MulticastOf::session(MessageNumber(1)),
            None,
            FrameRef::Slice(&multicast(1)),
        );
        parts.give_up_node(&mut cx, &peer, reason);
        assert_eq!(out.taken_of(detour, PacketType::MULTICAST).len(), goes_around, "{reason:?}");
    }
}

#[test]
fn a_unicast_that_failed_with_its_node_is_empty_if_the_node_returns() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    out.may_abort = true;
    let request = sdk::encode_amop(sdk::FrameType::REQUEST, &[0; 32], ResultCode::OK, "t", b"once");
    let unicast = Forward {
        request: RequestId { index: 0, generation: 0 },
        node: PEER,
        message: MessageNumber(1),
        time_left_ms: 1_000,
        may_wait: false,
        audience: None,
        from_2x: None,
    };
    let (parts, mut cx) = shard.at(now, &mut out);
    assert!(parts.forward(&mut cx, ReactorId(0), &unicast, FrameRef::Slice(&request)));
    parts.give_up_node(&mut cx, &PEER, CloseReason::Removed);
    shard.handle_link_down(now, KEY, CloseReason::Removed, &mut out);
    let next = LinkKey { index: 0, generation: 2 };
    link_up(&mut shard, now, next, &mut out);
    let [again] = out.taken_of(next, PacketType::UNICAST)[..] else { panic!("its place goes again") };
    assert_eq!(again.len(), HEADER_LEN_MIN + Numbers::LEN);
}

/// A seed of the simulator found it: the route went while the neighbour's reactor had yet to say that no link took the message.
#[test]
fn a_unicast_whose_route_goes_while_another_reactor_has_it_fails_with_whether_a_link_took_it() {
    let now = Instant::now();
    let mut signers =
        (1..=u8::MAX).map(|number| NodeSigner::from_secret_bytes(&[number; 32]).expect("a key"));
    let own = signers.next().expect("a first one");
    let [far, next] = [0, 1].map(|home| {
        signers.find(|signer| home_reactor(&signer.id(), 2) == ReactorId(home)).expect("half of them").id()
    });
    let shared =
        Shared { signer: Some(own.clone()), ..Shared::new(own.id(), 1, 2, now, Settings::default()) };
    let path = Path {
        incarnation: 1,
        salt: Some([3; 16]),
        hops: 2,
        next: SmallVec::from_slice(&[next]),
        frame_len_max: 1 << 20,
        fingerprint: 7,
    };
    let mut snapshot = Snapshot::default();
    snapshot.paths = Arc::new([(far, path)].into());
    shared.snapshot.store(Arc::new(snapshot));
    let mut shard = Shard::new(Arc::new(shared), ReactorId(0), [0; 32], now);
    let mut out = Links::default();
    let request = sdk::encode_amop(sdk::FrameType::REQUEST, &[0; 32], ResultCode::OK, "t", b"once");
    let unicast = |message| Forward {
        request: RequestId { index: 0, generation: 0 },
        node: far,
        message: MessageNumber(message),
        time_left_ms: 1_000,
        may_wait: false,
        audience: None,
        from_2x: None,
    };
    for message in [1, 2] {
        let (parts, mut cx) = shard.at(now, &mut out);
        assert!(parts.forward(&mut cx, ReactorId(1), &unicast(message), FrameRef::Slice(&request)));
    }
    out.told.clear();

    shard.common.shared.snapshot.store(Arc::default());
    shard.handle_registry(now, RegistryOutput::Reach { id: far, incarnation: None }, &mut out);
    let dropped =
        MeshMessage::NotPassed { node: far, packet_type: PacketType::UNICAST, message: MessageNumber(1) };
    shard.handle_mesh(now, ReactorId(1), dropped, FrameRef::EMPTY, &mut out);
    shard.handle_timeout(now + 2 * NODE_TICK, &mut out);
    let mut failed: Vec<_> = out
        .told
        .iter()
        .filter_map(|told| match told {
            MeshMessage::ForwardFailed { message, taken, .. } => Some((*message, *taken)),
            _ => None,
        })
        .collect();
    failed.sort();
    assert_eq!(failed, [(MessageNumber(1), false), (MessageNumber(2), true)]);
}

#[test]
fn of_notices_that_messages_were_dropped_a_node_has_so_many_looked_at() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    let (parts, mut cx) = shard.at(now, &mut out);
    parts.forward_multicast(
        &mut cx,
        &PEER,
        MulticastOf::session(MessageNumber(7)),
        None,
        FrameRef::Slice(&multicast(7)),
    );
    let ended = PathEnded { seq: 7, why: PathEnd::NoRoute, destination: PEER.short(), tag: [0; 16] };
    let notice = frame(PacketType::BROADCAST, 8, &Notice::PathEnded(ended).encode());
    for _ in 0..1_000 {
        shard.handle_frame(now, KEY, FrameRef::Slice(&notice), &mut out);
    }
    let ignored = shard.common.counters.ping_answers_ignored.get();
    assert_eq!(ignored, 1_000 - u64::from(ANSWERS_PER_SECOND_MAX));
}

#[test]
fn a_link_that_replaces_one_that_is_due_for_new_keys_says_so_and_is_taken_at_once() {
    let now = Instant::now();
    let (mut shard, mut out) = shard(now);
    let hello_of = |out: &Links, key| {
        let (_, offset) = Header::decode(out.taken_of(key, PacketType::HELLO)[0]).unwrap();
        Hello::decode(&out.taken_of(key, PacketType::HELLO)[0][offset..]).unwrap()
    };
    assert_eq!(hello_of(&out, KEY).replaces, 0);
    shard.handle_rekey_due(KEY);
    let next = LinkKey { index: 1, generation: 1 };
    link_up(&mut shard, now, next, &mut out);
    assert_eq!(hello_of(&out, next).replaces, hello_of(&out, KEY).link_number);
    assert_eq!(shard.parts.peers.link_to(&PEER), Some(next));
}
