//! A node that lets its applications go before it stops: one after the other, and without losing a message.

use std::{collections::BTreeSet, time::Duration};

use amop::internal::wire::sdk::FrameType;

use crate::kit::{AppIndex, Behaviour, Network};

const WITHIN: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(100);
/// Beyond its turn, what it takes until a session is closed that has nothing in flight.
const GONE_AFTER: Duration = Duration::from_millis(300);

fn closed(net: &Network, apps: &[AppIndex]) -> usize {
    apps.iter().filter(|&&app| net.apps[app].closed).count()
}

#[test]
fn applications_are_let_go_one_after_the_other() {
    let mut net = Network::mesh(1, 2, 2);
    let leaving: Vec<_> = (0..40).map(|_| net.subscriber(0, &["t"])).collect();
    let staying = net.subscriber(1, &["t"]);
    net.begin_lame_duck(0, WITHIN);
    let mut before = 0;
    for _ in 0..10 {
        net.run_for(WITHIN / 10);
        let now = closed(&net, &leaving);
        // Each reactor has 20, two of which have their turn in a second.
        assert!((2..=6).contains(&(now - before)), "{before} {now}");
        before = now;
    }
    net.run_for(GONE_AFTER);
    assert_eq!(closed(&net, &leaving), 40);
    assert!(!net.apps[staying].closed, "links with other nodes stay");
}

#[test]
fn no_message_is_lost_while_subscribers_go_that_are_connected_elsewhere_too() {
    let mut net = Network::mesh(2, 3, 2);
    // Three applications, each connected to two nodes, as SDKs are.
    let leaving: Vec<_> = (0..3).map(|_| net.subscriber(0, &["t"])).collect();
    let other_links: Vec<_> = (0..3).map(|_| net.subscriber(1, &["t"])).collect();
    let publishers = [net.app(1, Behaviour::Silent), net.app(2, Behaviour::Silent)];
    net.begin_lame_duck(0, 2 * SOON);
    let mut seqs = Vec::new();
    for _ in 0..1_000 {
        for publisher in publishers {
            seqs.push((publisher, net.unicast(publisher, "t", b"x")));
        }
        net.run_for(Duration::from_millis(1));
    }
    net.run_for(SOON);
    for (publisher, seq) in seqs {
        let answers = net.answers(publisher, &seq);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].code().0, 0, "the links that stay take what comes");
    }
    assert_eq!(closed(&net, &leaving), 3);
    let delivered = |apps: &[AppIndex]| {
        apps.iter().map(|&app| net.pushed(app, FrameType::REQUEST).len()).collect::<Vec<_>>()
    };
    assert!(delivered(&leaving).iter().sum::<usize>() > 0, "they had their share before");
    assert_eq!(delivered(&leaving).iter().chain(&delivered(&other_links)).sum::<usize>(), 2_000);
}

#[test]
fn what_a_session_asked_and_was_asked_is_answered_before_it_is_closed() {
    let mut net = Network::mesh(3, 2, 1);
    let slow = net.app(0, Behaviour::Echo(Duration::from_secs(3)));
    net.subscribe(slow, &["slow"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SOON);
    let seq = net.unicast(publisher, "slow", b"x");
    net.run_for(SOON);
    net.begin_lame_duck(0, Duration::ZERO);
    net.run_for(Duration::from_secs(2));
    assert!(!net.apps[slow].closed && !net.apps[publisher].closed);
    net.run_for(Duration::from_secs(1) + GONE_AFTER);
    assert_eq!(net.answers(publisher, &seq).iter().map(|answer| answer.code().0).collect::<Vec<_>>(), [0]);
    assert!(net.apps[slow].closed && net.apps[publisher].closed);
}

#[test]
fn who_never_answers_is_waited_for_no_longer_than_a_request_may_take() {
    let mut net = Network::mesh(4, 2, 1);
    let silent = net.app(0, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let publisher = net.app(1, Behaviour::Silent);
    net.run_for(SOON);
    net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.begin_lame_duck(0, Duration::ZERO);
    let request_timeout = net.nodes[0].shared.settings.request_timeout;
    net.run_for(request_timeout + GONE_AFTER);
    assert!(net.apps[silent].closed);
}

#[test]
fn who_asks_on_and_on_is_read_no_further_and_has_what_was_taken_answered() {
    let mut net = Network::mesh(5, 2, 1);
    let elsewhere = net.app(1, Behaviour::Echo(Duration::from_millis(30)));
    net.subscribe(elsewhere, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SOON);
    net.begin_lame_duck(0, Duration::ZERO);
    let mut seqs = Vec::new();
    for _ in 0..400 {
        seqs.push(net.unicast(publisher, "t", b"x"));
        net.run_for(Duration::from_millis(10));
    }
    assert!(net.apps[publisher].closed, "there is always one in flight, and it goes all the same");
    let answered: BTreeSet<_> = seqs.iter().filter(|seq| !net.answers(publisher, seq).is_empty()).collect();
    let carried = net.pushed(elsewhere, FrameType::REQUEST).len();
    assert!(answered.len() > 150 && carried == answered.len(), "{carried} {}", answered.len());
}

#[test]
fn nothing_that_a_session_says_while_it_goes_brings_its_topics_back() {
    let mut net = Network::mesh(6, 2, 1);
    let slow = net.app(0, Behaviour::Echo(Duration::from_secs(3)));
    net.subscribe(slow, &["slow"]);
    let publisher = net.app(1, Behaviour::Silent);
    net.run_for(SOON);
    net.unicast(publisher, "slow", b"x");
    net.run_for(SOON);
    net.begin_lame_duck(0, Duration::ZERO);
    net.run_for(SOON);
    net.subscribe(slow, &["slow", "more"]);
    net.run_for(SOON);
    for topic in ["slow", "more"] {
        let seq = net.unicast(publisher, topic, b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 100, "{topic}");
    }
}

#[test]
fn who_comes_while_others_go_is_let_go_too() {
    let mut net = Network::mesh(7, 1, 1);
    net.begin_lame_duck(0, WITHIN);
    net.run_for(SOON);
    let late = net.subscriber(0, &["t"]);
    assert!(!net.apps[late].closed);
    net.run_for(GONE_AFTER);
    assert!(net.apps[late].closed);
}
