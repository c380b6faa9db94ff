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
