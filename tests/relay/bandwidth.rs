//! Outbound bandwidth, measured where the frames arrive (WIRE §5).

use std::time::Duration;

use amop::{
    relay::{bandwidth::Limiter, settings::Settings},
    wire::sdk::FrameType,
};

use crate::kit::{Behaviour, Network};

#[test]
fn between_99_and_101_percent_of_the_cap_arrive_where_more_is_offered() {
    let cap = 100_000.0;
    for reactors in [1, 2] {
        let mut net = Network::new(1);
        net.add_limited_node(reactors, Settings::default(), Limiter::new(cap, Duration::from_millis(100)));
        net.add_node(reactors, Settings::default());
        net.connect(0, 1);
        net.run_for(Duration::from_millis(100));
        let subscriber = net.app(1, Behaviour::Silent);
        net.subscribe(subscriber, &["t"]);
        let publishers = [net.app(0, Behaviour::Silent), net.app(0, Behaviour::Silent)];
        let start = net.now;
        while net.now - start < Duration::from_secs(12) {
            for publisher in publishers {
                net.multicast(publisher, "t", &[0; 300]);
            }
            net.run_for(Duration::from_millis(2));
        }
        // What each frame takes on the node link: its own bytes, the node header, the extensions' length
        // and the time left.
        let cost = 42 + 2 + 300 + 30;
        let window = start + Duration::from_secs(1)..start + Duration::from_secs(11);
        let arrived = net.apps[subscriber]
            .received
            .iter()
            .filter(|received| received.header.frame_type == FrameType::MULTICAST)
            .filter(|received| window.contains(&received.at))
            .count();
        let share = (arrived * cost) as f64 / (cap * 10.0);
        assert!((0.99..=1.01).contains(&share), "{reactors} reactors: {share}");
    }
}

#[test]
fn deliveries_on_the_own_node_are_free() {
    let mut net = Network::new(2);
    net.add_limited_node(1, Settings::default(), Limiter::new(1.0, Duration::from_millis(100)));
    net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..10 {
        let seq = net.unicast(publisher, "t", &[0; 1_000]);
        assert_eq!(net.answer(publisher, &seq, Duration::from_millis(100)).0, 0);
    }
}

#[test]
fn answers_are_charged_and_never_refused() {
    let mut net = Network::new(3);
    net.add_node(1, Settings::default());
    net.add_limited_node(1, Settings::default(), Limiter::new(100.0, Duration::from_millis(100)));
    net.connect(0, 1);
    net.run_for(Duration::from_millis(100));
    net.subscriber(1, &["t"]);
    net.subscriber(0, &["back"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..20 {
        let seq = net.unicast(publisher, "t", &[0; 500]);
        assert_eq!(net.answer(publisher, &seq, Duration::from_millis(100)).0, 0);
    }
    let other = net.app(1, Behaviour::Silent);
    let seq = net.unicast(other, "back", b"x");
    assert_eq!(net.answer(other, &seq, Duration::from_millis(100)).0, 103);
}

/// Multicasts of several sessions for ten seconds, each so many every 2 ms; gives what arrived of each in the last nine, and
/// their share of the cap in percent.
fn offer(reactors: u16, cap: f64, offers: &[f64]) -> (Vec<usize>, f64) {
    let mut net = Network::new(1);
    net.add_limited_node(reactors, Settings::default(), Limiter::new(cap, Duration::from_millis(100)));
    net.add_node(reactors, Settings::default());
    net.connect(0, 1);
    net.run_for(Duration::from_millis(100));
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publishers: Vec<_> = offers.iter().map(|_| net.app(0, Behaviour::Silent)).collect();
    let (start, mut due) = (net.now, vec![0.0; offers.len()]);
    while net.now - start < Duration::from_secs(10) {
        for (number, publisher) in publishers.iter().enumerate() {
            due[number] += offers[number];
            while due[number] >= 1.0 {
                due[number] -= 1.0;
                net.multicast(*publisher, "t", &[number as u8; 300]);
            }
        }
        net.run_for(Duration::from_millis(2));
    }
    let mut arrived = vec![0; offers.len()];
    for received in &net.apps[subscriber].received {
        if received.header.frame_type == FrameType::MULTICAST && received.at >= start + Duration::from_secs(1)
        {
            arrived[usize::from(*received.data.last().unwrap())] += 1;
        }
    }
    let share = (arrived.iter().sum::<usize>() * (42 + 2 + 300 + 30)) as f64 / (cap * 9.0) * 100.0;
    (arrived, share)
}

#[test]
fn sessions_that_each_offer_more_than_their_part_get_the_same_however_much_more_it_is() {
    for reactors in [1, 2] {
        for offers in [[1.0, 1.0, 1.0, 1.0], [6.0, 1.0, 0.5, 1.0]] {
            let (arrived, share) = offer(reactors, 100_000.0, &offers);
            let (most, least) = (*arrived.iter().max().unwrap(), *arrived.iter().min().unwrap());
            assert!(most - least <= most / 50, "{reactors} reactors, {offers:?}: {arrived:?}");
            assert!((99.0..=101.0).contains(&share), "{reactors} reactors, {offers:?}: {share}");
        }
    }
}

#[test]
fn a_session_that_offers_less_than_its_part_gets_nearly_all_of_it_and_the_others_the_rest() {
    // 25 frames a second of the first, where 267 pass in all.
    let (arrived, share) = offer(2, 100_000.0, &[0.05, 3.0, 3.0]);
    assert!(arrived[0] >= 9 * 25 * 95 / 100, "{arrived:?}");
    assert!(arrived[1].abs_diff(arrived[2]) <= arrived[1] / 50, "{arrived:?}");
    assert!((99.0..=101.0).contains(&share), "{share}");
}
