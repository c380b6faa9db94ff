//! Unicasts: who is drawn, who is tried next, who answers (WIRE §2.2).

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use amop::internal::{
    relay::{ReactorId, settings::Settings},
    wire::{
        ResultCode,
        node::{self, Extensions, Numbers, PacketType},
        sdk,
        sdk::FrameType,
    },
};

use crate::kit::{Behaviour, Network, Seen, line};

const SOON: Duration = Duration::from_millis(100);
const ECHO: Behaviour = Behaviour::Echo(Duration::ZERO);

#[test]
fn a_subscriber_on_any_reactor_of_the_node_answers() {
    let mut net = Network::mesh(1, 1, 3);
    net.subscriber(0, &["t"]);
    for _ in 0..3 {
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"hello");
        assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x02thello".to_vec()));
    }
}

#[test]
fn a_subscriber_on_another_node_answers() {
    let mut net = Network::mesh(2, 2, 2);
    net.subscriber(1, &["t"]);
    for _ in 0..2 {
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"hello");
        assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x02thello".to_vec()));
    }
}

#[test]
fn every_subscriber_of_the_network_is_equally_likely() {
    let mut net = Network::mesh(3, 3, 2);
    let publisher = net.app(0, Behaviour::Silent);
    // 1 on the publisher's node, 3 on the next, 2 on the last.
    let subscribers: Vec<_> =
        [0, 1, 1, 1, 2, 2].into_iter().map(|node| net.subscriber(node, &["t"])).collect();
    let rounds = 3_000;
    for number in 0..rounds {
        net.unicast(publisher, "t", &[number as u8]);
        net.run_for(Duration::from_millis(10));
    }
    let expected = f64::from(rounds) / subscribers.len() as f64;
    let chi_square: f64 = subscribers
        .iter()
        .map(|&app| (net.pushed(app, FrameType::REQUEST).len() as f64 - expected).powi(2) / expected)
        .sum();
    // 5 degrees of freedom: above 20.5 in one of 1,000 runs; the seed is fixed.
    assert!(chi_square < 20.5, "{chi_square}");
}

#[test]
fn the_sending_session_never_gets_its_own_unicast() {
    let mut net = Network::mesh(4, 1, 1);
    let publisher = net.subscriber(0, &["t"]);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON), (100, vec![]));
    let other = net.subscriber(0, &["t"]);
    for _ in 0..20 {
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    }
    assert_eq!(net.pushed(publisher, FrameType::REQUEST), []);
    assert_eq!(net.pushed(other, FrameType::REQUEST).len(), 20);
}

#[test]
fn a_silent_subscriber_is_followed_by_another_wherever_it_is() {
    for (seed, node) in [(5, 0), (6, 1)] {
        for reactors in [1, 2] {
            let mut net = Network::mesh(seed, 2, reactors);
            let silent = net.app(0, Behaviour::Silent);
            net.subscribe(silent, &["t"]);
            let publisher = net.app(0, Behaviour::Silent);
            let other = net.app(node, ECHO);
            net.subscribe(other, &["t"]);
            for _ in 0..10 {
                let seq = net.unicast(publisher, "t", b"x");
                assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)).0, 0);
            }
            assert!(!net.pushed(silent, FrameType::REQUEST).is_empty());
            assert_eq!(net.pushed(other, FrameType::REQUEST).len(), 10, "nobody gets a request twice");
        }
    }
}

#[test]
fn no_other_is_tried_after_silence_where_that_is_switched_off() {
    let mut net = Network::new(7);
    net.add_node(1, Settings { retry_after_push_timeout: false, ..Settings::default() });
    for _ in 0..3 {
        let app = net.app(0, Behaviour::Silent);
        net.subscribe(app, &["t"]);
    }
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)).0, 102);
    let pushed: usize = (0..3).map(|app| net.pushed(app, FrameType::REQUEST).len()).sum();
    assert_eq!(pushed, 1);
}

#[test]
fn a_late_answer_wins_while_others_are_being_tried() {
    let mut net = Network::mesh(8, 1, 2);
    let late = net.app(0, Behaviour::Echo(Duration::from_secs(7)));
    net.subscribe(late, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    // The second one is silent, so the request is still open when the first answers.
    let silent = net.app(0, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let (code, _) = net.answer(publisher, &seq, Duration::from_secs(9));
    // Nothing was kept for another try when there was but one: then silence ends the request.
    assert!(code == 0 || code == 102);
    net.run_for(Duration::from_secs(40));
    assert_eq!(net.answers(publisher, &seq).len(), 1);
}

#[test]
fn a_late_answer_from_another_node_still_reaches_the_publisher() {
    let mut net = Network::mesh(9, 3, 1);
    let late = net.app(1, Behaviour::Echo(Duration::from_secs(7)));
    net.subscribe(late, &["t"]);
    let silent = net.app(2, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..8 {
        let seq = net.unicast(publisher, "t", b"x");
        let (code, _) = net.answer(publisher, &seq, Duration::from_secs(35));
        let late_was_first = net.pushed(late, FrameType::REQUEST).len();
        let silent_has = net.pushed(silent, FrameType::REQUEST).len();
        // Drawn first, it answers while the silent one is tried; drawn second, its five seconds are over
        // when everybody has been tried.
        assert!(code == 0 || (code == 102 && silent_has > 0), "{code} {late_was_first} {silent_has}");
    }
    assert!(net.nodes[0].total(|counters| counters.answered_by_subscriber.get()) > 0);
}

#[test]
fn a_subscribers_answer_is_passed_back_unchanged_whatever_it_is() {
    let mut net = Network::mesh(10, 2, 2);
    for node in [0, 1] {
        let topic = format!("t{node}");
        let subscriber = net.app(node, Behaviour::Silent);
        net.subscribe(subscriber, &[&topic]);
        let publisher = net.app(0, Behaviour::Silent);
        for (result, data) in [(7, &b"raw"[..]), (102, b""), (101, b""), (-5, b"\x02tpayload")] {
            let seq = net.unicast(publisher, &topic, b"x");
            net.run_for(SOON);
            net.bytes(subscriber, sdk::encode(FrameType::RESPONSE, &seq, ResultCode(result), data));
            assert_eq!(net.answer(publisher, &seq, SOON), (result, data.to_vec()), "from node {node}");
        }
    }
}

#[test]
fn a_request_with_a_result_is_treated_as_any_and_passed_on_unchanged() {
    let mut net = Network::mesh(11, 1, 1);
    let subscriber = net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.seq();
    net.bytes(publisher, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode(9), "t", b"x"));
    assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
    assert_eq!(net.apps[subscriber].received[0].code(), ResultCode(9));
}

#[test]
fn unsolicited_answers_and_those_of_strangers_change_nothing() {
    let mut net = Network::mesh(12, 1, 2);
    let subscriber = net.app(0, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let (stranger, publisher) = (net.app(0, Behaviour::Silent), net.app(0, Behaviour::Silent));
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.bytes(stranger, sdk::encode(FrameType::RESPONSE, &seq, ResultCode::OK, b"\x02tforged"));
    net.run_for(SOON);
    assert_eq!(net.answers(publisher, &seq).len(), 0);
    for _ in 0..3 {
        net.bytes(subscriber, sdk::encode(FrameType::RESPONSE, &seq, ResultCode::OK, b"\x02treal"));
    }
    assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x02treal".to_vec()));
    net.run_for(Duration::from_secs(40));
    assert_eq!(net.answers(publisher, &seq).len(), 1);
    assert_eq!(net.nodes[0].total(|counters| counters.unsolicited_answers.get()), 3);
}

#[test]
fn messages_of_one_publisher_arrive_in_the_order_sent() {
    for (seed, node) in [(13, 0), (14, 1)] {
        let mut net = Network::mesh(seed, 2, 3);
        let subscriber = net.subscriber(node, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        for number in 0..200u8 {
            if number % 3 == 0 {
                net.multicast(publisher, "t", &[number]);
            } else {
                net.unicast(publisher, "t", &[number]);
            }
        }
        net.run_for(SOON);
        let numbers: Vec<u8> = net.apps[subscriber]
            .received
            .iter()
            .filter(|received| received.header.frame_type != FrameType::RESPONSE)
            .map(|received| received.data[2])
            .collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    }
}

#[test]
fn each_request_of_many_is_answered_once_with_its_own_seq() {
    let mut net = Network::mesh(15, 3, 2);
    for node in 0..3 {
        net.subscriber(node, &["t"]);
    }
    let publishers: Vec<_> = (0..6).map(|index| net.app(index % 3, Behaviour::Silent)).collect();
    let mut asked = BTreeMap::new();
    for number in 0..600usize {
        let publisher = publishers[number % publishers.len()];
        let payload = (number as u32).to_be_bytes();
        asked.insert((publisher, net.unicast(publisher, "t", &payload)), payload);
    }
    net.run_for(Duration::from_secs(1));
    for ((publisher, seq), payload) in asked {
        let answers = net.answers(publisher, &seq);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].data[2..], payload);
    }
}

/// Found by the simulator: a silent subscriber that left was still subtracted from those to be tried.
#[test]
fn after_a_silent_subscriber_that_left_the_others_are_tried() {
    for reactors in [1, 2] {
        let mut net = Network::mesh(reactors.into(), 1, reactors);
        let publisher = net.app_on(0, ReactorId(0), Behaviour::Silent);
        let silent = net.app_on(0, ReactorId(reactors - 1), Behaviour::Silent);
        let other = net.app_on(0, ReactorId(reactors - 1), ECHO);
        net.subscribe(silent, &["t"]);
        net.subscribe(other, &["t"]);
        let seq = loop {
            let seq = net.unicast(publisher, "t", b"x");
            net.run_for(SOON);
            if net.answers(publisher, &seq).is_empty() {
                break seq;
            }
        };
        net.subscribe(silent, &[]);
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)).0, 0);
    }
}

#[test]
fn a_request_that_waits_for_those_before_it_has_no_more_time_for_that() {
    let mut net = Network::new(1);
    let settings = Settings {
        request_timeout: Duration::from_secs(2),
        push_timeout: Duration::from_secs(1),
        ..Settings::default()
    };
    (0..3).for_each(|_| _ = net.add_node(1, settings.clone()));
    line(3).iter().for_each(|&(one, other)| net.connect(one, other));
    net.run_for(Duration::from_secs(1));
    let subscriber = net.app(2, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    net.run_for(Duration::from_secs(1));
    let publisher = net.app(0, Behaviour::Silent);
    // The first comes altered, and is sent again and again.
    let (alters, mut first) = (Rc::new(Cell::new(true)), None);
    let still_alters = alters.clone();
    net.tamper = Some(Box::new(move |_, to, bytes: &mut Vec<u8>| {
        let (header, payload) = node::Header::decode(bytes).unwrap();
        let is_first =
            header.packet_type == PacketType::UNICAST && *first.get_or_insert(header.seq) == header.seq;
        if to == 2 && is_first && still_alters.get() {
            bytes[payload..].iter_mut().for_each(|byte| *byte ^= 1);
        }
    }));
    for seq in [b"first", b"later"].map(|payload| net.unicast(publisher, "t", payload)) {
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(3)).0, 102);
    }
    let held = net.nodes[2].total(|counters| counters.held_for_order.get());
    assert!(held > 0);
    alters.set(false);
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.pushed(subscriber, FrameType::REQUEST), [], "their publisher has its answers");
}

#[test]
fn a_node_is_told_the_time_that_a_request_still_has_when_it_is_sent_on() {
    let mut net = Network::new(1);
    let settings = Settings { prefers_near: true, ..Settings::default() };
    let (request_timeout, push_timeout) = (settings.request_timeout, settings.push_timeout);
    (0..2).for_each(|_| _ = net.add_node(1, settings.clone()));
    net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    for node in [0, 1] {
        let silent = net.app(node, Behaviour::Silent);
        net.subscribe(silent, &["t"]);
    }
    net.run_for(Duration::from_secs(1));
    let publisher = net.app(0, Behaviour::Silent);
    net.seen = Some(Vec::new());
    let sent = net.now;
    net.unicast(publisher, "t", b"x");
    let mut told = None;
    while told.is_none() {
        net.run_for(Duration::from_millis(1));
        told = net.seen.iter().flatten().find_map(|seen| match seen {
            Seen::Crossed { bytes, .. } => {
                let (header, payload) = node::Header::decode(bytes).unwrap();
                let is_unicast = header.packet_type == PacketType::UNICAST;
                is_unicast.then(|| {
                    Extensions::decode(&bytes[payload + Numbers::LEN..]).unwrap().0.time_left_ms.unwrap()
                })
            }
            _ => None,
        });
    }
    // The one here had its time, and did not answer.
    let passed = net.now - sent;
    assert!(passed >= push_timeout);
    let told = Duration::from_millis(told.unwrap().into());
    let left = request_timeout - passed;
    assert!(told >= left && told - left < Duration::from_millis(100), "{told:?} where {left:?} are left");
}
