//! Frames that name their ends, as nobody honest makes them (WIRE §6.2, §6.4): each is dropped where it must be, and
//! counted there; nothing of it is delivered, and the nodes go on working.

use std::{cell::RefCell, collections::BTreeSet, ops::Range, rc::Rc, sync::Arc, time::Duration};

use amop::internal::{
    relay::{
        admission::Admission,
        counters::Counters,
        sealing::{IncarnationId, Salt, Seal, SealNumber, Subject},
        settings::Settings,
        signing::NodeSigner,
        snapshot::Path,
    },
    wire::{
        MessageNumber, NodeId, ResultCode,
        node::{
            Addressing, DESTINATIONS_MAX, Extensions, FLAG_SEALED, FLAG_SENT_AGAIN, Header, Numbers,
            PacketType,
        },
        sdk::{self, FrameType},
    },
};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex};

const SOON: Duration = Duration::from_secs(1);
const HOSTILE: NodeIndex = 0;

/// A hostile node at the end of a line of four, and a subscriber at each other node.
fn line(seed: u64) -> (Network, Vec<AppIndex>) {
    let mut net = Network::new(seed);
    for _ in 0..4 {
        net.add_node(2, Settings { idle_timeout: 1_000 * SOON, ..Settings::default() });
    }
    (1..4).for_each(|node| net.connect(node - 1, node));
    net.run_for(SOON);
    let apps = (1..4).map(|node| net.subscriber(node, &["t"])).collect();
    net.run_for(SOON);
    (net, apps)
}

fn frame(header: Header<'_>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Default::default();
    header.encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

fn named<'a>(source: &'a [u8; 64], destinations: &'a [[u8; 64]]) -> Header<'a> {
    let addressing = Addressing::EndToEnd { source, destinations };
    Header { flags: FLAG_SEALED, addressing, ..Header::direct(PacketType::MULTICAST, 1) }
}

fn shared(header: Header<'_>) -> Header<'_> {
    Header { packet_type: PacketType::SHARED_MULTICAST, ..header }
}

/// Sends over the hostile node's link, and makes that anew, which it ends.
fn send(net: &mut Network, frame: &[u8]) {
    net.forge(HOSTILE, 1, frame);
    net.run_for(SOON);
    if net.links_between(HOSTILE, 1).is_empty() {
        net.connect(HOSTILE, 1);
    }
    net.run_for(SOON);
}

fn figures(net: &Network, node: NodeIndex) -> [u64; 5] {
    let counters: [fn(&Counters) -> u64; 5] = [
        |counters| counters.not_for_us.get(),
        |counters| counters.relayed.get(),
        |counters| counters.relay_refused.get(),
        |counters| counters.sealed_refused.get(),
        |counters| counters.sealed_late.get(),
    ];
    counters.map(|counter| net.nodes[node].total(counter))
}

/// What became of a frame at the neighbour, by its metrics.
fn counted(net: &mut Network, frame: &[u8]) -> [u64; 5] {
    let before = figures(net, 1);
    send(net, frame);
    let after = figures(net, 1);
    std::array::from_fn(|at| after[at] - before[at])
}

fn assert_that_all_works(net: &mut Network, apps: &[AppIndex]) {
    for &app in apps {
        assert_eq!(net.pushed(app, FrameType::MULTICAST), [], "nothing of it was delivered");
        assert_eq!(net.pushed(app, FrameType::REQUEST), []);
    }
    let publisher = net.app(2, Behaviour::Silent);
    for _ in 0..12 {
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
}

#[test]
fn each_strange_destination_source_and_number_of_hops_is_counted_for_what_it_is() {
    let (mut net, apps) = line(1);
    let [hostile, own, next, far] = [0, 1, 2, 3].map(|node| net.nodes[node].id.0);
    let (nobody, no_key) = ([7; 64], [0; 64]);
    // Four tickets of a shared multicast.
    let payload = [9; 4 * 120];
    // Not for us, relayed, refused to relay, not opened, late.
    for (what, header, expected) in [
        ("own id", named(&far, &[own]), [0, 0, 0, 0, 1]),
        ("own id twice", named(&far, &[own, own]), [1, 0, 0, 0, 0]),
        ("own id and others twice", named(&far, &[next, own, next, own]), [1, 0, 0, 0, 0]),
        ("own id twice, shared", shared(named(&far, &[own, own])), [1, 0, 0, 0, 0]),
        ("own id and others twice, shared", shared(named(&far, &[next, own, next, own])), [1, 0, 0, 0, 0]),
        (
            "the last hop, shared",
            Header { hops_left: 1, ..shared(named(&far, &[own, next])) },
            [0, 0, 1, 0, 1],
        ),
        (
            "less tickets than destinations",
            shared(named(&far, &[next, far, hostile, nobody, own])),
            [1, 0, 0, 0, 0],
        ),
        ("our own id as source", named(&own, &[far]), [1, 0, 0, 0, 0]),
        ("our own id as source and destination", named(&own, &[own]), [1, 0, 0, 0, 0]),
        ("no key as source", named(&no_key, &[own]), [0, 0, 0, 0, 0]),
        ("nobody as source", named(&nobody, &[far]), [0, 1, 0, 0, 0]),
        ("nobody as destination", named(&hostile, &[nobody]), [0, 1, 0, 0, 0]),
        ("back to where it came from", named(&far, &[hostile]), [0, 1, 0, 0, 0]),
        ("no hops", Header { hops_left: 0, ..named(&hostile, &[far]) }, [0, 0, 1, 0, 0]),
        ("the last hop", Header { hops_left: 1, ..named(&hostile, &[far]) }, [0, 0, 1, 0, 0]),
        ("no hops, and for us", Header { hops_left: 0, ..named(&hostile, &[own]) }, [0, 0, 0, 0, 1]),
        ("more hops than there are", Header { hops_left: 255, ..named(&hostile, &[far]) }, [0, 1, 0, 0, 0]),
        ("not sealed", Header { flags: FLAG_SENT_AGAIN, ..named(&hostile, &[far]) }, [1, 0, 0, 0, 0]),
        ("all flags", Header { flags: 255, ..named(&hostile, &[far]) }, [0, 1, 0, 0, 0]),
    ] {
        assert_eq!(counted(&mut net, &frame(header, &payload)), expected, "{what}");
    }
    assert_that_all_works(&mut net, &apps);
}

#[test]
fn only_a_shared_multicast_with_a_ticket_for_each_is_for_several() {
    let (mut net, apps) = line(2);
    let hostile = net.nodes[HOSTILE].id.0;
    let far = net.nodes[3].id.0;
    let many: Vec<[u8; 64]> = (0..DESTINATIONS_MAX as u8).map(|number| [number; 64]).collect();
    let counted = |net: &mut Network, packet_type, destinations: &[[u8; 64]], len: usize| {
        let header = Header { packet_type, ..named(&hostile, destinations) };
        let [not_for_us, relayed, ..] = counted(net, &frame(header, &vec![1; len]));
        [not_for_us, relayed]
    };
    for packet_type in [1, 2, 3, -3, 4, 0x30, -0x30, 0x35, 0x40, 0x77, -1, i16::MIN] {
        let packet_type = PacketType(packet_type);
        for destinations in [many.as_slice(), &[far; DESTINATIONS_MAX], &[far, [2; 64]]] {
            assert_eq!(counted(&mut net, packet_type, destinations, 300), [1, 0], "{packet_type:?}");
        }
    }
    let shared = PacketType::SHARED_MULTICAST;
    let (most, ticket) = (84, 128);
    // Also those to the sender, which has no other route to itself.
    assert_eq!(counted(&mut net, shared, &many[..most], most * ticket), [0, 1]);
    assert_eq!(counted(&mut net, shared, &many[..most], 3 * most * ticket), [0, 1]);
    assert_eq!(counted(&mut net, shared, &many[..most + 1], (most + 1) * ticket), [1, 0]);
    assert_eq!(counted(&mut net, shared, &many[..most], most * ticket - 1), [1, 0]);
    assert_eq!(counted(&mut net, shared, &[far, far], 2 * ticket), [1, 0]);
    assert_eq!(counted(&mut net, shared, &[far], ticket), [0, 1]);
    net.run_for(10 * SOON);
    assert_eq!(net.nodes[1].usage().map(|usage| usage.window_frames).max(), Some(0), "nothing is left");
    assert_that_all_works(&mut net, &apps);
}

#[test]
fn a_header_with_too_many_or_no_destinations_ends_the_link() {
    let (mut net, apps) = line(3);
    let hostile = net.nodes[HOSTILE].id.0;
    for destinations in [vec![], vec![[1; 64]; DESTINATIONS_MAX + 1]] {
        net.forge(HOSTILE, 1, &frame(named(&hostile, &destinations), &[1; 64]));
        net.run_for(SOON / 10);
        assert_eq!(net.links_between(HOSTILE, 1), [], "{}", destinations.len());
        net.connect(HOSTILE, 1);
        net.run_for(SOON);
    }
    assert_that_all_works(&mut net, &apps);
}

#[test]
fn payloads_too_short_to_be_sealed_are_refused_and_counted() {
    let (mut net, apps) = line(4);
    let [hostile, own] = [HOSTILE, 1].map(|node| net.nodes[node].id.0);
    for len in 0..56 {
        let expected = [0, 0, 0, 1, 0];
        assert_eq!(counted(&mut net, &frame(named(&hostile, &[own]), &vec![0; len])), expected, "{len}");
    }
    // Long enough, but not for the numbers of a message.
    let sealed = sealed_by(&net, &signer_of(&net), net.nodes[HOSTILE].shared.incarnation(), 1, &[&[0; 23]]);
    assert_eq!(counted(&mut net, &frame(named(&hostile, &[own]), &sealed)), [0, 0, 0, 1, 0]);
    assert_that_all_works(&mut net, &apps);
}

fn signer_of(net: &Network) -> NodeSigner {
    net.nodes[HOSTILE].shared.signer.clone().expect("it has a key")
}

/// Of one of the nodes, or of one that somebody invents.
fn salt_of(net: &Network, signer: &NodeSigner) -> Salt {
    net.nodes.iter().find(|node| node.id == signer.id()).map_or([0; 16], |node| node.shared.salt)
}

/// A multicast number 1 for node 1, sealed by the right rules.
fn sealed_by(net: &Network, signer: &NodeSigner, incarnation: u64, number: u64, pieces: &[&[u8]]) -> Vec<u8> {
    let other = &net.nodes[1].shared;
    let secret = signer.share_with(other.id).expect("a key");
    let incarnation = IncarnationId { incarnation, salt: salt_of(net, signer) };
    let seal = Seal::new(secret, incarnation, other.incarnation_id()).expect("incarnations");
    let subject = Subject { packet_type: PacketType::MULTICAST, message: MessageNumber(1) };
    let mut sealed = Vec::new();
    seal.seal(SealNumber(number), subject, &[], pieces.iter().copied(), &mut sealed).expect("short enough");
    sealed
}

fn multicast(net: &mut Network) -> Vec<u8> {
    let mut payload = Extensions::default().encode();
    let seq = net.seq();
    payload.extend_from_slice(&sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, "t", b"mine"));
    payload.to_vec()
}

/// A multicast for several that is none would otherwise be taken for a request, whatever frame it holds.
#[test]
fn a_shared_multicast_without_ticket_and_content_is_refused() {
    let (mut net, apps) = line(7);
    let own = net.nodes[1].id.0;
    let (signer, incarnation) = (signer_of(&net), net.nodes[HOSTILE].shared.incarnation());
    let seq = net.seq();
    let mut answer = Extensions::default().encode();
    answer.extend_from_slice(&sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, "t", b"x"));
    // Over the link, which ends.
    net.forge(HOSTILE, 1, &frame(shared(Header { flags: 0, ..named(&own, &[own]) }), &answer));
    net.forge(HOSTILE, 1, &frame(Header::direct(PacketType::SHARED_MULTICAST, 1), &answer));
    net.run_for(SOON / 10);
    assert_eq!(net.links_between(HOSTILE, 1), []);
    net.connect(HOSTILE, 1);
    net.run_for(SOON);
    // Sealed, too short for a ticket, and with a ticket for nothing.
    let subject = Subject { packet_type: PacketType::SHARED_MULTICAST, message: MessageNumber(1) };
    let incarnation = IncarnationId { incarnation, salt: salt_of(&net, &signer) };
    let seal = Seal::new(
        signer.share_with(net.nodes[1].id).unwrap(),
        incarnation,
        net.nodes[1].shared.incarnation_id(),
    );
    let seal = seal.expect("incarnations");
    for (number, inner) in [answer.as_slice(), &[], &[7; 48], &[7; 47], &[7; 400]].into_iter().enumerate() {
        let numbers = Numbers::default().encode();
        let mut sealed = Vec::new();
        seal.seal(SealNumber(number as u64), subject, &numbers, std::iter::once(inner), &mut sealed).unwrap();
        sealed.resize(sealed.len().max(128), 0);
        for cut in [sealed.len(), 128] {
            let bytes = frame(shared(named(&signer.id().0, &[own])), &sealed[..cut]);
            assert_eq!(counted(&mut net, &bytes), [0, 0, 0, 1, 0], "{number} cut to {cut}");
        }
    }
    for &app in &apps {
        assert!(net.apps[app].received.is_empty(), "{:?}", net.apps[app].received);
    }
    assert_that_all_works(&mut net, &apps);
}

#[test]
fn the_highest_numbers_of_a_channel_cannot_be_counted_beyond() {
    let (mut net, apps) = line(5);
    let own = net.nodes[1].id.0;
    let (signer, incarnation) = (signer_of(&net), net.nodes[HOSTILE].shared.incarnation());
    let mut got = 0;
    for (number, (place, least, is_taken)) in [
        (0, 0, true),
        (u64::MAX, u64::MAX, false),
        (u64::MAX, 0, false),
        (0, u64::MAX, false),
        // Its own node ends the link when it hears that this was taken.
        (u64::MAX - 1, u64::MAX - 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let numbers = Numbers { place, least, taken_below: 0 }.encode();
        let message = multicast(&mut net);
        let sealed = sealed_by(&net, &signer, incarnation, number as u64, &[&numbers, &message]);
        let [.., refused, _] = counted(&mut net, &frame(named(&signer.id().0, &[own]), &sealed));
        got += usize::from(is_taken);
        assert_eq!(refused, u64::from(!is_taken), "{place} {least}");
    }
    assert_eq!(net.pushed(apps[0], FrameType::MULTICAST).len(), got);
}

/// A sealed multicast of a node that somebody invents, for node 1.
fn invented(net: &Network, number: u32, payload: &[u8]) -> (NodeId, Vec<u8>) {
    let mut key = [1; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let signer = NodeSigner::from_secret_bytes(&key).expect("a key");
    let sealed = sealed_by(net, &signer, 1, 0, &[payload]);
    (signer.id(), frame(named(&signer.id().0, &[net.nodes[1].id.0]), &sealed))
}

#[test]
fn nodes_that_somebody_invents_are_not_taken_up() {
    let (mut net, apps) = line(6);
    let peers = |net: &Network| net.nodes[1].usage().map(|usage| usage.peers).sum::<usize>();
    let before = peers(&net);
    let message = multicast(&mut net);
    let payload = [[0; 24].as_slice(), &message].concat();
    for number in 0..300 {
        let (_, bytes) = invented(&net, number, &payload);
        net.forge(HOSTILE, 1, &bytes);
    }
    net.run_for(SOON);
    assert_eq!(peers(&net), before);
    assert_eq!(net.nodes[1].total(|counters| counters.strangers_refused.get()), 300);
    assert_that_all_works(&mut net, &apps);
}

const VICTIM: NodeIndex = 4;

/// The line with one more node, which the others reach over the hostile one only.
fn line_with_victim(seed: u64) -> (Network, Vec<AppIndex>, AppIndex) {
    let (mut net, apps) = line(seed);
    net.add_node(2, Settings { idle_timeout: 1_000 * SOON, ..Settings::default() });
    net.connect(HOSTILE, VICTIM);
    net.run_for(SOON);
    let publisher = net.app(VICTIM, Behaviour::Silent);
    (net, apps, publisher)
}

/// What a node sends while it publishes, as the hostile node passes it on to its neighbour; `lost` keeps it back.
fn recorded(net: &mut Network, publisher: AppIndex, lost: bool) -> Vec<Vec<u8>> {
    let (frames, victim) = (Rc::<RefCell<Vec<Vec<u8>>>>::default(), net.nodes[VICTIM].id.0);
    let all = frames.clone();
    net.tamper = Some(Box::new(move |from, to, bytes| {
        if let Ok((Header { packet_type, addressing: Addressing::EndToEnd { source, .. }, .. }, offset)) =
            Header::decode(bytes)
            && (from, to) == (HOSTILE, 1)
            && *source == victim
            && packet_type.is_amop()
        {
            all.borrow_mut().push(bytes.clone());
            if lost {
                bytes[offset..].iter_mut().for_each(|byte| *byte ^= 1);
            }
        }
    }));
    net.multicast(publisher, "t", b"pay 5 to bob");
    net.run_for(SOON / 5);
    net.tamper = None;
    frames.take()
}

fn got(net: &Network, app: AppIndex) -> usize {
    net.pushed(app, FrameType::MULTICAST).len()
}

/// Sends what was recorded again; gives how much of it is delivered.
fn replayed(net: &mut Network, frames: &[Vec<u8>], app: AppIndex) -> usize {
    let before = got(net, app);
    frames.iter().for_each(|frame| send(net, frame));
    got(net, app) - before
}

/// A node on the only way records a message, cuts its source off, and has nodes that it invents send until it is
/// forgotten how far the source had come.
fn replay_after_strangers(seed: u64, whitelisted: bool) {
    let (mut net, apps, publisher) = line_with_victim(seed);
    if whitelisted {
        let whitelist = net.nodes.iter().map(|node| node.id).collect();
        net.set_admission(1, Admission { blacklist: BTreeSet::new(), whitelist });
    }
    let frames = recorded(&mut net, publisher, false);
    assert_eq!(got(&net, apps[0]), 1);
    assert_eq!(replayed(&mut net, &frames, apps[0]), 0, "at once");
    net.break_links(HOSTILE, VICTIM);
    net.run_for(30 * SOON);
    assert_eq!(replayed(&mut net, &frames, apps[0]), 0, "after it was let go");
    let message = multicast(&mut net);
    let payload = [[0; 24].as_slice(), &message].concat();
    for round in 0..30 {
        for number in 0..600 {
            let (_, bytes) = invented(&net, 600 * round + number, &payload);
            net.forge(HOSTILE, 1, &bytes);
        }
        net.run_for(SOON);
        if net.links_between(HOSTILE, 1).is_empty() {
            net.connect(HOSTILE, 1);
        }
        net.run_for(13 * SOON);
        assert_eq!(replayed(&mut net, &frames, apps[0]), 0, "round {round}");
    }
}

#[test]
fn strangers_do_not_have_it_forgotten_how_far_a_node_had_come() {
    replay_after_strangers(17, false);
}

#[test]
fn strangers_do_not_either_where_the_lists_leave_them_out() {
    replay_after_strangers(10, true);
}

/// Has so many invented nodes send that somebody has told records of. Those are made known here for the time in which they
/// send, as if a route led to them.
fn send_as_known(net: &mut Network, numbers: Range<u32>) {
    let message = multicast(net);
    let payload = [[0; 24].as_slice(), &message].concat();
    let all: Vec<u32> = numbers.collect();
    for some in all.chunks(1_000) {
        let frames: Vec<(NodeId, Vec<u8>)> =
            some.iter().map(|&number| invented(net, number, &payload)).collect();
        let mut snapshot = (**net.nodes[1].shared.snapshot.load()).clone();
        let mut paths = (*snapshot.paths).clone();
        let hostile = net.nodes[HOSTILE].id;
        let path = Path {
            incarnation: 1,
            salt: Some([0; 16]),
            hops: 2,
            next: [hostile].as_slice().into(),
            frame_len_max: u32::MAX,
            fingerprint: 0,
        };
        paths.extend(frames.iter().map(|(id, _)| (*id, path.clone())));
        snapshot.paths = Arc::new(paths);
        let before = net.nodes[1].shared.snapshot.swap(Arc::new(snapshot));
        frames.iter().for_each(|(_, bytes)| net.forge(HOSTILE, 1, bytes));
        net.run_for(SOON / 10);
        net.nodes[1].shared.snapshot.store(before);
        if net.links_between(HOSTILE, 1).is_empty() {
            net.connect(HOSTILE, 1);
        }
        net.run_for(SOON);
    }
}

#[test]
fn where_no_more_can_be_remembered_a_later_incarnation_begins_and_nothing_is_taken_twice() {
    let (mut net, apps, publisher) = line_with_victim(11);
    let frames = recorded(&mut net, publisher, false);
    net.break_links(HOSTILE, VICTIM);
    net.run_for(30 * SOON);
    let incarnation = net.nodes[1].shared.incarnation();
    let max = amop::internal::relay::shard::REPLAY_FLOORS_MAX as u32;
    // One of two reactors is full with about half of them.
    send_as_known(&mut net, 0..max);
    assert_eq!(net.nodes[1].shared.incarnation(), incarnation, "there is room");
    assert_eq!(replayed(&mut net, &frames, apps[0]), 0);
    let full = |net: &Network| net.nodes[1].total(|counters| counters.replay_floors_full.get());
    assert_eq!(full(&net), 0);
    send_as_known(&mut net, max..2 * max + 2_000);
    assert!(net.nodes[1].shared.incarnation() > incarnation);
    assert!(full(&net) > 0);
    assert_eq!(replayed(&mut net, &frames, apps[0]), 0);
    net.connect(HOSTILE, VICTIM);
    for (one, other) in [(0, 1), (1, 2)] {
        if net.links_between(one, other).is_empty() {
            net.connect(one, other);
        }
    }
    net.run_for(5 * SOON);
    let before = got(&net, apps[0]);
    net.multicast(publisher, "t", b"new");
    net.run_for(5 * SOON);
    assert_eq!(got(&net, apps[0]), before + 1, "what is new is taken");
}

#[test]
fn nodes_that_the_lists_leave_out_are_forgotten_first_and_when_they_are_admitted_a_later_incarnation_begins()
{
    let (mut net, apps, publisher) = line_with_victim(12);
    let whitelist: BTreeSet<NodeId> = net.nodes.iter().map(|node| node.id).collect();
    net.set_admission(1, Admission { blacklist: BTreeSet::new(), whitelist });
    let frames = recorded(&mut net, publisher, false);
    net.break_links(HOSTILE, VICTIM);
    net.run_for(30 * SOON);
    let incarnation = net.nodes[1].shared.incarnation();
    send_as_known(&mut net, 0..2 * amop::internal::relay::shard::REPLAY_FLOORS_MAX as u32 + 2_000);
    assert_eq!(net.nodes[1].shared.incarnation(), incarnation);
    assert_eq!(replayed(&mut net, &frames, apps[0]), 0);
    net.run_for(30 * SOON);
    let peers = net.nodes[1].usage().map(|usage| usage.peers).sum::<usize>();
    assert!(peers <= net.nodes.len(), "{peers} are remembered");
    assert!(net.nodes[1].total(|counters| counters.replay_floors_forgotten.get()) > 0);
    net.set_admission(1, Admission::default());
    net.run_for(SOON);
    assert!(net.nodes[1].shared.incarnation() > incarnation);
}

#[test]
fn an_incarnation_before_that_of_the_record_is_over() {
    let (mut net, apps, publisher) = line_with_victim(13);
    let frames = recorded(&mut net, publisher, true);
    assert_eq!(got(&net, apps[0]), 0);
    net.restart(VICTIM, 3 * SOON);
    net.connect(HOSTILE, VICTIM);
    net.run_for(5 * SOON);
    let late = |net: &Network| net.nodes[1].total(|counters| counters.sealed_late.get());
    let before = late(&net);
    assert_eq!(replayed(&mut net, &frames, apps[0]), 0);
    // One of the frames is for node 1, the others for those behind it.
    assert_eq!(late(&net), before + 1);
}
