//! Each code of WIRE §3, provoked in the way that its row says; and that an answer which a node made has
//! no data.

use std::time::Duration;

use amop::internal::{
    relay::{bandwidth::Limiter, settings::Settings},
    wire::sdk::FrameType,
};

use crate::kit::{Behaviour, Network};

const SOON: Duration = Duration::from_millis(100);

#[test]
fn code_0_is_a_subscribers_answer() {
    let mut net = Network::mesh(1, 2, 1);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x02tx".to_vec()));
}

#[test]
fn code_99_where_the_link_to_the_only_node_fails_before_it_takes_the_frame() {
    let mut net = Network::mesh(2, 2, 2);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.break_links(0, 1);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)), (99, vec![]));
}

#[test]
fn code_102_where_a_link_has_taken_the_frame_and_fails_before_anything_is_heard() {
    let mut net = Network::mesh(2, 2, 2);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.cut_links(0, 1);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)), (102, vec![]));
}

#[test]
fn code_99_where_the_table_of_pending_requests_is_full() {
    let mut net = Network::new(3);
    net.add_node(1, Settings { pending_requests_max: 2, ..Settings::default() });
    let subscriber = net.app(0, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..2 {
        net.unicast(publisher, "t", b"x");
    }
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON), (99, vec![]));
}

#[test]
fn code_99_where_requests_have_half_of_the_window_towards_the_only_node() {
    for settings in [
        Settings { window_frames_max: 6, ..Settings::default() },
        Settings { window_bytes_max: 50_000, ..Settings::default() },
        Settings { windows_bytes_max: 50_000, ..Settings::default() },
    ] {
        // Of a neighbour it is what the link carries, of one behind it what is kept until it acknowledges.
        for nodes in [2, 3] {
            let mut net = Network::new(4);
            for _ in 0..nodes {
                net.add_node(1, settings.clone());
            }
            (1..nodes).for_each(|node| net.connect(node - 1, node));
            net.run_for(SOON);
            net.subscriber(nodes - 1, &["t"]);
            let publisher = net.app(0, Behaviour::Silent);
            net.cut_links(nodes - 2, nodes - 1);
            let seqs: Vec<_> = (0..4).map(|_| net.unicast(publisher, "t", &[0; 10_000])).collect();
            assert_eq!(net.answer(publisher, &seqs[3], SOON), (99, vec![]));
            assert!(seqs[..3].iter().all(|seq| net.answers(publisher, seq).is_empty()));
        }
    }
}

#[test]
fn code_100_where_nobody_subscribes() {
    let mut net = Network::mesh(5, 2, 2);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "nobody", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON), (100, vec![]));
}

#[test]
fn code_100_once_the_only_node_with_subscribers_is_gone() {
    let mut net = Network::mesh(6, 2, 1);
    net.subscriber(1, &["t"]);
    net.kill(1);
    net.run_for(Duration::from_secs(5));
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON), (100, vec![]));
}

#[test]
fn code_101_where_the_only_subscriber_has_no_room() {
    for (seed, node) in [(7, 0), (8, 1)] {
        let mut net = Network::new(seed);
        for _ in 0..2 {
            net.add_node(2, Settings { session_queue_bytes_max: 1_000, ..Settings::default() });
        }
        net.connect(0, 1);
        net.run_for(SOON);
        let deaf = net.app(node, Behaviour::Deaf);
        net.subscribe(deaf, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        net.multicast(publisher, "t", &[0; 2_000]);
        let seq = net.unicast(publisher, "t", b"x");
        // It waits for room within its time (WIRE §2.3).
        assert_eq!(net.answer(publisher, &seq, Settings::default().request_timeout), (101, vec![]));
    }
}

#[test]
fn code_101_where_the_topic_was_dropped_in_the_last_moment() {
    let mut net = Network::mesh(9, 2, 1);
    let subscriber = net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    // The request and the news that nobody listens cross on the link.
    net.frame(subscriber, FrameType::SUBSCRIBE, b"[]");
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON), (101, vec![]));
}

#[test]
fn code_101_where_the_seq_is_in_use_at_the_only_subscriber() {
    use amop::internal::wire::{ResultCode, sdk};
    let mut net = Network::mesh(10, 1, 1);
    let subscriber = net.app(0, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let (one, other) = (net.app(0, Behaviour::Silent), net.app(0, Behaviour::Silent));
    let seq = net.unicast(one, "t", b"x");
    net.run_for(SOON);
    net.bytes(other, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "t", b"y"));
    assert_eq!(net.answer(other, &seq, SOON), (101, vec![]));
    assert_eq!(net.answers(one, &seq).len(), 0);
}

#[test]
fn code_102_where_every_subscriber_stays_silent() {
    for (seed, node) in [(11, 0), (12, 1)] {
        let mut net = Network::mesh(seed, 2, 2);
        for _ in 0..2 {
            let silent = net.app(node, Behaviour::Silent);
            net.subscribe(silent, &["t"]);
        }
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(11)), (102, vec![]), "node {node}");
    }
}

#[test]
fn code_102_where_the_subscriber_leaves_after_the_push() {
    for (seed, node) in [(13, 0), (14, 1)] {
        let mut net = Network::mesh(seed, 2, 2);
        let subscriber = net.app(node, Behaviour::Silent);
        net.subscribe(subscriber, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"x");
        net.run_for(SOON);
        net.disconnect(subscriber);
        assert_eq!(net.answer(publisher, &seq, SOON), (102, vec![]), "node {node}");
    }
}

#[test]
fn code_102_where_the_node_that_took_it_dies() {
    let mut net = Network::mesh(15, 2, 1);
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.kill(1);
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(31)), (102, vec![]));
}

#[test]
fn code_102_at_the_end_of_the_requests_time() {
    let mut net = Network::new(16);
    let settings = Settings { request_timeout: Duration::from_secs(3), ..Settings::default() };
    net.add_node(2, settings);
    let subscriber = net.app_on(0, amop::internal::relay::ReactorId(1), Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    for reactor in 0..2 {
        let publisher = net.app_on(0, amop::internal::relay::ReactorId(reactor), Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, Duration::from_millis(3_100)), (102, vec![]));
    }
}

#[test]
fn code_103_where_the_bandwidth_is_used_up_and_nothing_is_sent() {
    for reactors in [1, 3] {
        let mut net = Network::new(17);
        net.add_limited_node(reactors, Settings::default(), Limiter::new(10_000.0, SOON));
        net.add_node(reactors, Settings::default());
        net.connect(0, 1);
        net.run_for(SOON);
        let subscriber = net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", &[0; 2_000]);
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0, "a full bucket lets a larger frame pass");
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON), (103, vec![]));
        let seq = net.multicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON), (103, vec![]));
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 1);
        assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 0);
    }
}
