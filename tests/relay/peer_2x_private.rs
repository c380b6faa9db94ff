//! Private topics between this kind of node and nodes of FISCO BCOS 2.x (INTEROP §2.2), where `[private_topics] over_2x` names them.

use std::{collections::BTreeSet, time::Duration};

use amop::internal::{
    relay::{bandwidth::Limiter, settings::Settings},
    wire::{NodeId, ResultCode, sdk::FrameType},
};

use crate::{
    kit::{Flag, Network, NodeIndex, PeerIndex, PrivateRole},
    private_topics::{DATA, Play},
};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than topics of one of theirs take to be known, and a challenge after that.
const CHALLENGED: Duration = Duration::from_secs(6);

fn route(uuid: u32) -> String {
    format!("#!$VerifyChannel_{DATA}_{uuid:032x}")
}

/// Applications here send no heartbeats.
fn plain() -> Settings {
    Settings { idle_timeout: Duration::from_secs(3600), ..Settings::default() }
}

fn allowing() -> Settings {
    Settings { private_over_2x: BTreeSet::from([DATA.to_owned()]), ..plain() }
}

/// Nodes that are all linked, and one of theirs that is linked with some of them.
fn play(seed: u64, nodes: &[Settings], reactors: u16, with: &[NodeIndex]) -> (Play, PeerIndex) {
    let mut net = Network::new(seed);
    nodes.iter().for_each(|settings| _ = net.add_node(reactors, settings.clone()));
    for one in 0..nodes.len() {
        (0..one).for_each(|other| net.connect(one, other));
    }
    let peer = net.add_peer_2x(&[]);
    with.iter().for_each(|&node| net.keep_peer_2x_linked(peer, node));
    net.run_for(SECOND);
    (Play::on(net), peer)
}

fn subscriber(play: &mut Play, peer: PeerIndex, uuid: u32, key: Option<u8>) -> usize {
    let role = PrivateRole::Subscriber { route: route(uuid), key };
    play.net.add_private_session(peer, DATA, role)
}

fn publisher(play: &mut Play, peer: PeerIndex, keys: &[u8]) -> usize {
    let role = PrivateRole::Publisher { accepts: keys.to_vec() };
    play.net.add_private_session(peer, DATA, role)
}

fn received(play: &Play, peer: PeerIndex, session: usize) -> Vec<Vec<u8>> {
    play.net.peers_2x[peer].private[session].received.clone()
}

/// What an application there is answered.
fn ask_from(play: &mut Play, peer: PeerIndex, payload: &[u8]) -> i32 {
    let seq = play.net.peer_unicast(peer, DATA, payload);
    play.run(SECOND);
    play.net.peers_2x[peer].answers[&seq][0]
}

#[test]
fn nothing_of_a_private_topic_passes_that_is_not_named_for_it() {
    let other =
        Settings { private_over_2x: BTreeSet::from(["#!$TopicNeedVerify_other".to_owned()]), ..plain() };
    for settings in [plain(), other] {
        let (mut play, peer) = play(1, &[settings.clone(), settings], 2, &[0]);
        let theirs = [subscriber(&mut play, peer, 1, Some(1)), publisher(&mut play, peer, &[1])];
        let (ours, at) = (play.subscriber(1, Some(1)), play.publisher(0, &[1]));
        play.run(CHALLENGED * 2);
        assert_eq!(play.asked(at).len(), 1, "our own subscriber");
        let link = play.net.peer_link(peer, 0).unwrap();
        assert_eq!(play.net.peer_links[link].private, [""; 0]);
        assert_eq!(play.unicast(at, DATA, b"1"), 0);
        play.multicast(at, DATA, b"2");
        assert_eq!(ask_from(&mut play, peer, b"3"), ResultCode::NO_RECEIVER.0);
        // Nor if their node sends it, whatever it was told.
        play.net.peer_links[link].flags.insert(DATA.to_owned(), Flag::Accepted);
        assert_eq!(ask_from(&mut play, peer, b"4"), ResultCode::NO_RECEIVER.0);
        play.net.peer_multicast(peer, DATA, b"5");
        play.run(SECOND);
        assert_eq!(play.messages(ours), [b"1", b"2"]);
        theirs.iter().for_each(|&session| assert!(received(&play, peer, session).is_empty()));
        assert!(play.net.peers_2x[peer].received.is_empty());
    }
}

#[test]
fn a_subscriber_at_one_of_theirs_gets_messages_once_it_has_proved_its_key() {
    for (seed, reactors, at) in [(2, 1, 0), (3, 3, 0), (4, 2, 1), (5, 3, 2)] {
        let (mut play, peer) = play(seed, &[allowing(), allowing(), allowing()], reactors, &[0]);
        let publisher = play.publisher(at, &[1]);
        let wrong = subscriber(&mut play, peer, 1, Some(2));
        let listener = play.net.add_private_session(peer, DATA, PrivateRole::Listener);
        play.run(CHALLENGED);
        assert_eq!(play.asked(publisher).len(), 1);
        assert_eq!(play.unicast(publisher, DATA, b"1"), ResultCode::NO_RECEIVER.0);
        play.multicast(publisher, DATA, b"2");
        let proven = subscriber(&mut play, peer, 2, Some(1));
        play.run(CHALLENGED);
        assert_eq!(play.asked(publisher).len(), 2);
        play.multicast(publisher, DATA, b"3");
        assert_eq!(received(&play, peer, proven), [b"3"]);
        // From there on its node may hand them to anybody: it has one topic for all.
        assert_eq!(received(&play, peer, wrong), [b"3"]);
        assert_eq!(received(&play, peer, listener), [b"3"]);
        for _ in 0..8 {
            assert_eq!(play.unicast(publisher, DATA, b"4"), 0);
        }
        let got = |session| received(&play, peer, session).len();
        assert_eq!(got(proven) + got(wrong) + got(listener), 3 + 8);
    }
}

#[test]
fn a_node_gets_a_message_once_however_many_of_its_subscribers_have_proved_their_keys() {
    let (mut play, peer) = play(6, &[allowing(), allowing()], 2, &[0]);
    let sessions: Vec<usize> = (1..=5).map(|uuid| subscriber(&mut play, peer, uuid, Some(1))).collect();
    let publisher = play.publisher(1, &[1]);
    let ours = play.subscriber(0, Some(1));
    play.run(CHALLENGED);
    assert_eq!(play.asked(publisher).len(), 6);
    play.multicast(publisher, DATA, b"once");
    for session in sessions {
        assert_eq!(received(&play, peer, session), [b"once"]);
    }
    assert_eq!(play.messages(ours), [b"once"]);
    let data = |one: &&crate::kit::PeerReceived| one.topic == DATA;
    assert_eq!(play.net.peers_2x[peer].received.iter().filter(data).count(), 1);
}

#[test]
fn only_publishers_whose_node_allows_it_challenge_subscribers_at_one_of_theirs() {
    let (mut play, peer) = play(7, &[allowing(), plain()], 2, &[0]);
    let proven = subscriber(&mut play, peer, 1, Some(1));
    let (allowed, other) = (play.publisher(0, &[1]), play.publisher(1, &[1]));
    play.run(CHALLENGED);
    assert_eq!((play.asked(allowed).len(), play.asked(other).len()), (1, 0));
    assert_eq!(play.unicast(allowed, DATA, b"1"), 0);
    assert_eq!(play.unicast(other, DATA, b"2"), ResultCode::NO_RECEIVER.0);
    assert_eq!(received(&play, peer, proven), [b"1"]);
}

#[test]
fn a_subscriber_there_that_leaves_or_renews_its_topics_has_proved_nothing() {
    let (mut play, peer) = play(8, &[allowing(), allowing()], 2, &[0]);
    subscriber(&mut play, peer, 1, Some(1));
    let publisher = play.publisher(1, &[1]);
    play.run(CHALLENGED);
    assert_eq!(play.unicast(publisher, DATA, b"1"), 0);
    // Another session has the topic, and no key.
    play.net.peers_2x[peer].private.clear();
    play.net.set_peer_topics(peer, &[DATA, &route(2)]);
    play.net.peers_2x[peer].private.push(crate::kit::PrivateSession {
        data: DATA.to_owned(),
        role: PrivateRole::Subscriber { route: route(2), key: None },
        received: Vec::new(),
    });
    play.run(CHALLENGED);
    assert_eq!(play.asked(publisher).len(), 2);
    assert_eq!(play.unicast(publisher, DATA, b"2"), ResultCode::NO_RECEIVER.0);
    assert!(received(&play, peer, 0).is_empty());
    play.net.set_peer_topics(peer, &[]);
    play.run(CHALLENGED);
    let snapshot = play.net.nodes[1].shared.snapshot.load();
    assert!(snapshot.private(DATA).is_none(), "nobody subscribes any more");
}

#[test]
fn the_next_gateway_has_them_challenged_anew() {
    let (mut play, peer) = play(9, &[allowing(), allowing(), allowing()], 2, &[0, 1]);
    let proven = subscriber(&mut play, peer, 1, Some(1));
    let ours = play.subscriber(2, Some(1));
    publisher(&mut play, peer, &[1]);
    let at = play.publisher(2, &[1]);
    play.run(CHALLENGED);
    assert_eq!(ask_from(&mut play, peer, b"0"), 0);
    let least = if play.net.nodes[0].id < play.net.nodes[1].id { 0 } else { 1 };
    play.net.kill(least);
    play.run(CHALLENGED * 3);
    play.multicast(at, DATA, b"1");
    assert_eq!(received(&play, peer, proven), [b"1"]);
    assert_eq!(ask_from(&mut play, peer, b"2"), 0);
    assert_eq!(play.messages(ours), [&b"0"[..], b"2", b"1"]);
}

#[test]
fn messages_of_private_topics_to_one_of_theirs_are_in_the_bandwidth() {
    let mut net = Network::new(10);
    net.add_limited_node(2, allowing(), Limiter::new(1000.0, Duration::from_secs(1)));
    let peer = net.add_peer_2x(&[]);
    net.keep_peer_2x_linked(peer, 0);
    let mut play = Play::on(net);
    let proven = subscriber(&mut play, peer, 1, Some(1));
    let publisher = play.publisher(0, &[1]);
    play.run(CHALLENGED);
    let payload = [1; 3000];
    let codes: Vec<i32> = (0..6).map(|_| play.unicast(publisher, DATA, &payload)).collect();
    assert!(codes.contains(&0) && codes.contains(&ResultCode::OVER_BANDWIDTH.0), "{codes:?}");
    let taken = codes.iter().filter(|&&code| code == 0).count();
    assert_eq!(received(&play, peer, proven).len(), taken);
}

#[test]
fn a_publisher_at_one_of_theirs_reaches_who_has_answered_and_nobody_else() {
    for (seed, reactors, at) in [(11, 1, 0), (12, 3, 0), (13, 2, 1), (14, 3, 2)] {
        let (mut play, peer) = play(seed, &[allowing(), plain(), allowing()], reactors, &[0]);
        let proven = play.subscriber(at, Some(1));
        publisher(&mut play, peer, &[1]);
        play.run(CHALLENGED);
        assert_eq!(play.challenges(proven).len(), 1);
        assert_eq!(play.net.flag_of(peer, 0, DATA), Some(Flag::Accepted));
        // It came later, and its turn is not before the other one's is over.
        let late = play.subscriber(at, Some(1));
        play.run(CHALLENGED);
        assert_eq!(ask_from(&mut play, peer, b"1"), 0);
        play.net.peer_multicast(peer, DATA, b"2");
        play.run(Duration::from_secs(120));
        assert_eq!(ask_from(&mut play, peer, b"3"), 0);
        assert_eq!(play.messages(proven), [b"1", b"3", b"2"]);
        assert_eq!((play.messages(late), play.challenges(late)), (vec![], vec![]));
        // When it is gone, the other one has its turn.
        play.net.disconnect(proven);
        play.run(CHALLENGED);
        assert_eq!(ask_from(&mut play, peer, b"4"), 0);
        assert_eq!(play.messages(late), [b"4"]);
    }
}

#[test]
fn who_has_not_answered_gets_nothing_whatever_their_node_thinks() {
    let (mut play, peer) = play(19, &[allowing(), plain()], 2, &[0]);
    let mute = play.subscriber(1, None);
    publisher(&mut play, peer, &[1]);
    let link = play.net.peer_link(peer, 0).unwrap();
    let mut told = 0;
    for number in 0..20_u8 {
        play.run(SECOND);
        if let Some(flag) = play.net.peer_links[link].flags.get_mut(DATA) {
            *flag = Flag::Accepted;
            told += 1;
            assert_eq!(ask_from(&mut play, peer, &[number]), ResultCode::NO_RECEIVER.0);
            play.net.peer_multicast(peer, DATA, &[number]);
        }
    }
    assert!(told > 0);
    assert_eq!(play.messages(mute), Vec::<Vec<u8>>::new());
}

#[test]
fn who_has_the_wrong_key_or_does_not_answer_leaves_its_turn_to_the_next() {
    let (mut play, peer) = play(15, &[allowing(), plain()], 2, &[0]);
    let mute = play.subscriber(1, None);
    let wrong = play.subscriber(0, Some(2));
    play.run(SECOND);
    publisher(&mut play, peer, &[1]);
    let right = play.subscriber(1, Some(1));
    let mut answered = Vec::new();
    for round in 0..40_u8 {
        answered.push(ask_from(&mut play, peer, &[round]) == 0);
        play.run(CHALLENGED);
    }
    let first = answered.iter().position(|&is_answered| is_answered).expect("its turn comes");
    assert!(answered[first..].iter().all(|&is_answered| is_answered), "and stays: {answered:?}");
    assert_eq!(play.messages(right).len(), 40 - first);
    for other in [mute, wrong] {
        assert_eq!(play.messages(other), Vec::<Vec<u8>>::new());
        assert!(!play.challenges(other).is_empty());
    }
}

#[test]
fn between_two_turns_their_node_hears_a_list_without_the_topic() {
    let (mut play, peer) = play(16, &[allowing()], 2, &[0]);
    publisher(&mut play, peer, &[1]);
    // Whoever has its turn first is refused, which their node forgets only then.
    let [wrong, right] = [2, 1].map(|key| play.subscriber(0, Some(key)));
    play.run(CHALLENGED);
    if play.challenges(right).is_empty() {
        assert_eq!(play.net.flag_of(peer, 0, DATA), Some(Flag::Refused));
        assert_eq!(play.challenges(wrong).len(), 1);
    }
    play.run(Duration::from_secs(70));
    assert_eq!((play.challenges(wrong).len().min(1), play.challenges(right).len().min(1)), (1, 1));
}

#[test]
fn a_publisher_there_that_says_nothing_of_an_answer_gets_another_one() {
    let (mut play, peer) = play(17, &[allowing()], 1, &[0]);
    let subscriber = play.subscriber(0, Some(1));
    publisher(&mut play, peer, &[1]);
    let link = play.net.peer_link(peer, 0).unwrap();
    play.run(Duration::from_secs(4));
    // As if the verdict had been lost.
    let before = play.challenges(subscriber).len();
    play.net.peer_links[link].flags.insert(DATA.to_owned(), Flag::Verifying);
    play.run(Duration::from_secs(25));
    assert!(play.challenges(subscriber).len() > before);
    assert_eq!(play.net.flag_of(peer, 0, DATA), Some(Flag::Accepted));
    assert_eq!(ask_from(&mut play, peer, b"1"), 0);
}

#[test]
fn publishers_there_that_a_pin_leaves_out_are_not_told_of_subscribers() {
    let private_publishers = [(DATA.to_owned(), BTreeSet::from([NodeId([7; 64])]))].into();
    let pinned = Settings { private_publishers, ..allowing() };
    let (mut play, peer) = play(18, &[pinned], 2, &[0]);
    let subscriber = play.subscriber(0, Some(1));
    publisher(&mut play, peer, &[1]);
    play.run(CHALLENGED * 2);
    let link = play.net.peer_link(peer, 0).unwrap();
    assert_eq!(play.net.peer_links[link].private, [""; 0]);
    assert_eq!(play.net.pushed(subscriber, FrameType::REQUEST), []);
    // No challenge was as much as tried.
    assert_eq!(play.net.nodes[0].total(|counters| counters.challenges_not_pinned.get()), 0);
}
