//! Files to applications that read, slowly or not (WIRE §2.3).

use std::time::Duration;

use amop::internal::{
    relay::settings::Settings,
    wire::{
        ResultCode,
        sdk::{self, FrameType, Seq},
    },
};

use crate::kit::{Behaviour, Network, line};

const SECOND: Duration = Duration::from_secs(1);

/// A network of one or two nodes whose sessions may have two frames of 100 KB waiting; the subscriber takes so many bytes
/// a second.
fn slow(nodes: usize, reactors: u16, rate: u64) -> (Network, usize, usize) {
    let mut net = Network::new(7);
    for _ in 0..nodes {
        net.add_node(reactors, Settings { session_queue_bytes_max: 200_000, ..Settings::default() });
    }
    if nodes == 2 {
        net.connect(0, 1);
        net.run_for(SECOND);
    }
    let subscriber = net.app(nodes - 1, Behaviour::Echo(Duration::ZERO));
    net.set_rate(subscriber, rate);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.run_for(SECOND);
    (net, publisher, subscriber)
}

#[test]
fn a_slow_reader_is_no_silent_one() {
    for nodes in [1, 2] {
        // Each takes 8 s, which is longer than the push timeout, and the last one's turn comes after 24 s.
        let (mut net, publisher, subscriber) = slow(nodes, 1, 12_500);
        let seqs: Vec<_> = (0..3).map(|_| net.unicast(publisher, "t", &[7; 100_000])).collect();
        net.run_for(40 * SECOND);
        for seq in seqs {
            assert_eq!(net.answer(publisher, &seq, SECOND).0, 0, "{nodes} nodes");
        }
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 3);
    }
}

#[test]
fn who_has_the_message_and_says_nothing_is_silent_after_the_push_timeout() {
    let (mut net, publisher, _) = slow(1, 1, 12_500);
    let silent = net.app(0, Behaviour::Silent);
    net.set_rate(silent, 12_500);
    net.subscribe(silent, &["s"]);
    let began = net.now;
    let seq = net.unicast(publisher, "s", &[7; 100_000]);
    net.answer(publisher, &seq, 40 * SECOND);
    let took = net.now - began;
    // 8 s until the last byte is there, and 5 s of silence.
    assert!((13 * SECOND..14 * SECOND).contains(&took), "{took:?}");
    assert_eq!(net.answer(publisher, &seq, SECOND).0, 102);
}

#[test]
fn a_request_has_as_much_more_time_as_its_answer_takes_to_come() {
    // Over a link, over a node between, and none.
    for nodes in [1, 2, 3] {
        for reactors in [1, 3] {
            let mut net = Network::of_edges(9, nodes, reactors, &line(nodes));
            net.run_for(SECOND);
            let subscriber = net.app(nodes - 1, Behaviour::Silent);
            net.subscribe(subscriber, &["t"]);
            let publisher = net.app(0, Behaviour::Silent);
            net.run_for(SECOND);
            // A hundred and a half times 100 KiB.
            let answer_of =
                |seq: &Seq| sdk::encode(FrameType::RESPONSE, seq, ResultCode::OK, &[1; 10_290_000]);
            let began = net.now;
            let seqs: Vec<_> = (0..2).map(|_| net.unicast(publisher, "t", b"x")).collect();
            net.run_for(SECOND);
            let [first, second] = [answer_of(&seqs[0]), answer_of(&seqs[1])];
            net.begin_long(subscriber, &first);
            // Not as long as the idle timeout: the bytes on their way are not played here.
            net.run_for(50 * SECOND);
            assert!(net.answers(publisher, &seqs[0]).is_empty(), "{nodes} nodes of {reactors}");
            net.end_long(subscriber, first);
            let (code, data) = net.answer(publisher, &seqs[0], SECOND);
            assert_eq!((code, data.len()), (0, 10_290_000), "{nodes} nodes of {reactors}");
            // Of the other nobody knew that it would be long.
            let answer = net.answers(publisher, &seqs[1])[0];
            assert_eq!(answer.code().0, 102);
            assert!(answer.at - began < 40 * SECOND);
            net.end_long(subscriber, second);
            net.run_for(SECOND);
            assert_eq!(net.answers(publisher, &seqs[1]).len(), 1);
        }
    }
}

#[test]
fn an_answer_that_begins_and_does_not_come_gives_no_more_time_than_its_length() {
    for nodes in [1, 2] {
        let mut net = Network::of_edges(9, nodes, 1, &line(nodes));
        net.run_for(SECOND);
        let subscriber = net.app(nodes - 1, Behaviour::Silent);
        net.subscribe(subscriber, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        net.run_for(SECOND);
        let began = net.now;
        let seq = net.unicast(publisher, "t", b"x");
        net.run_for(SECOND);
        // Again and again: it adds up to nothing. What is no answer, and what answers nothing, gives none.
        for (frame_type, seq) in [
            (FrameType::RESPONSE, seq),
            (FrameType::RESPONSE, seq),
            (FrameType::REQUEST, seq),
            (FrameType::RESPONSE, [0xee; 32]),
        ] {
            net.begin_long(subscriber, &sdk::encode(frame_type, &seq, ResultCode::OK, &[1; 1_030_000]));
            net.run_for(SECOND);
        }
        assert_eq!(net.answer(publisher, &seq, 100 * SECOND), (102, vec![]), "{nodes} nodes");
        let took = net.now - began;
        assert!((40 * SECOND..41 * SECOND).contains(&took), "{took:?}");
    }
}

#[test]
fn a_unicast_waits_for_room_and_nothing_overtakes_it() {
    for (nodes, reactors) in [(1, 1), (1, 3), (2, 1), (2, 3)] {
        // Two frames may wait and one is on its way: the others wait for room, each for 0.1 s more.
        let (mut net, publisher, subscriber) = slow(nodes, reactors, 1_000_000);
        let seqs: Vec<_> = (0..40u8)
            .map(|number| {
                let mut payload = vec![7; 100_000];
                payload[0] = number;
                net.unicast(publisher, "t", &payload)
            })
            .collect();
        net.run_for(20 * SECOND);
        for seq in &seqs {
            assert_eq!(net.answer(publisher, seq, SECOND).0, 0, "{nodes} nodes of {reactors}");
        }
        let order: Vec<u8> =
            net.pushed(subscriber, FrameType::REQUEST).iter().map(|(_, payload)| payload[0]).collect();
        assert_eq!(order, (0..40).collect::<Vec<u8>>(), "{nodes} nodes of {reactors}");
    }
}

#[test]
fn what_is_short_does_not_overtake_what_is_long_where_memory_has_room_for_it_alone() {
    for nodes in [1, 2] {
        let (mut net, publisher, subscriber) = slow(nodes, 1, u64::MAX);
        let deaf = net.app(nodes - 1, Behaviour::Deaf);
        net.subscribe(deaf, &["u"]);
        // It has all the memory, but for a little that everybody has.
        net.set_queues_bytes_max(nodes - 1, 100_000);
        net.multicast(publisher, "u", &[7; 100_000]);
        net.run_for(SECOND);
        net.unicast(publisher, "t", &[7; 9_000]);
        net.unicast(publisher, "t", &[7; 10]);
        net.run_for(SECOND);
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST), [], "{nodes} nodes");
    }
    // Alone it goes.
    let (mut net, publisher, _) = slow(1, 1, u64::MAX);
    net.set_queues_bytes_max(0, 1);
    let seq = net.unicast(publisher, "t", &[7; 10]);
    assert_eq!(net.answer(publisher, &seq, SECOND).0, 0);
}

#[test]
fn a_unicast_that_finds_no_room_in_its_time_is_answered_101_and_was_never_pushed() {
    for nodes in [1, 2] {
        let (mut net, publisher, subscriber) = slow(nodes, 1, 1);
        let seqs: Vec<_> = (0..4).map(|_| net.unicast(publisher, "t", &[7; 100_000])).collect();
        let codes: Vec<i32> = seqs.iter().map(|seq| net.answer(publisher, seq, 60 * SECOND).0).collect();
        // One is being written, two wait in the queue, and what became of those is not known.
        assert_eq!(codes, [102, 102, 102, 101], "{nodes} nodes");
        assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 0);
    }
}

#[test]
fn a_unicast_goes_to_whom_has_room_before_it_waits() {
    for (nodes, reactors) in [(1, 1), (1, 2), (2, 1)] {
        let (mut net, publisher, _) = slow(nodes, reactors, 1);
        let other = net.app(0, Behaviour::Echo(Duration::ZERO));
        net.subscribe(other, &["t"]);
        for _ in 0..3 {
            net.multicast(publisher, "t", &[7; 100_000]);
        }
        net.run_for(SECOND);
        let seqs: Vec<_> = (0..30).map(|_| net.unicast(publisher, "t", &[7; 5_000])).collect();
        net.run_for(SECOND);
        for seq in &seqs {
            let codes: Vec<i32> = net.answers(publisher, seq).iter().map(|answer| answer.code().0).collect();
            assert_eq!(codes, [0], "{nodes} nodes of {reactors}");
        }
    }
}

#[test]
fn a_request_that_a_silent_session_answers_late_waits_for_room_no_longer() {
    let mut net = Network::new(7);
    let settings = Settings { session_queue_bytes_max: 20_000, ..Settings::default() };
    net.add_node(1, settings);
    let [silent, full] = [(); 2].map(|()| net.app(0, Behaviour::Silent));
    net.set_rate(full, 1_000);
    net.subscribe(silent, &["t"]);
    net.subscribe(full, &["t", "m"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..3 {
        net.multicast(publisher, "m", &[7; 10_000]);
    }
    let seq = net.unicast(publisher, "t", b"x");
    // Once the one was silent for too long, it waits for room in the other one's queue.
    net.run_for(6 * SECOND);
    assert_eq!(net.nodes[0].total(|counters| counters.room_waits.get()), 1);
    net.bytes(silent, sdk::encode(FrameType::RESPONSE, &seq, ResultCode::OK, b"late"));
    assert_eq!(net.answer(publisher, &seq, SECOND), (0, b"late".to_vec()));
    // Far longer than the queue takes to drain.
    net.run_for(60 * SECOND);
    assert_eq!(net.pushed(full, FrameType::MULTICAST).len(), 3);
    assert_eq!(net.pushed(full, FrameType::REQUEST).len(), 0);
}

#[test]
fn the_longest_message_waits_for_room_however_little_is_kept_in_all() {
    let mut net = Network::new(7);
    let settings = Settings { session_queue_bytes_max: 1, retained_bytes_max: 10, ..Settings::default() };
    net.add_node(1, settings);
    let subscriber = net.app(0, Behaviour::Echo(Duration::ZERO));
    net.set_rate(subscriber, 100_000);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.multicast(publisher, "t", &[7; 100_000]);
    net.multicast(publisher, "t", &[7; 100_000]);
    net.run_for(Duration::from_millis(100));
    // Two such are too many.
    let publishers = [(); 2].map(|()| net.app(0, Behaviour::Silent));
    let seqs = publishers.map(|publisher| net.unicast(publisher, "t", &[8; 100_000]));
    net.run_for(10 * SECOND);
    let mut codes = [0, 1].map(|one| net.answer(publishers[one], &seqs[one], SECOND).0);
    codes.sort_unstable();
    assert_eq!(codes, [0, 101]);
}

#[test]
fn requests_that_wait_go_elsewhere_when_their_session_leaves() {
    let (mut net, publisher, subscriber) = slow(1, 1, 1);
    for _ in 0..3 {
        net.multicast(publisher, "t", &[7; 100_000]);
    }
    let seq = net.unicast(publisher, "t", b"waits");
    net.run_for(SECOND);
    assert!(net.answers(publisher, &seq).is_empty());
    let other = net.app(0, Behaviour::Echo(Duration::ZERO));
    net.subscribe(other, &["t"]);
    net.disconnect(subscriber);
    assert_eq!(net.answer(publisher, &seq, SECOND), (0, b"\x02twaits".to_vec()));
    assert_eq!(net.nodes[0].total(|counters| counters.room_waits.get()), 1);
}

#[test]
fn who_waited_for_room_is_not_pushed_beyond_the_bound_of_pushes() {
    let mut net = Network::new(8);
    let bounds = Settings { session_queue_bytes_max: 200_000, pending_pushes_max: 2, ..Settings::default() };
    net.add_node(1, bounds);
    let slow = net.app(0, Behaviour::Silent);
    net.set_rate(slow, 100_000);
    net.subscribe(slow, &["t", "u"]);
    let publisher = net.app(0, Behaviour::Silent);
    for _ in 0..3 {
        net.multicast(publisher, "t", &[7; 100_000]);
    }
    // All wait for room, which there is after a second.
    let seqs: Vec<_> = (0..4).map(|_| net.unicast(publisher, "u", b"x")).collect();
    let mut pushes_max = 0;
    for _ in 0..100 {
        net.run_for(Duration::from_millis(100));
        pushes_max = pushes_max.max(net.nodes[0].usage().map(|usage| usage.pushes).sum());
    }
    assert_eq!(pushes_max, 2);
    let codes: Vec<i32> = seqs.iter().map(|seq| net.answer(publisher, seq, SECOND).0).collect();
    assert_eq!(codes, [102, 102, 101, 101]);
}

#[test]
fn a_publisher_whose_open_requests_are_long_is_read_no_further_until_they_end() {
    let (mut net, publisher, subscriber) = slow(1, 1, 1_000_000);
    let seqs: Vec<_> = (0..40).map(|_| net.unicast(publisher, "t", &[7; 100_000])).collect();
    net.run_for(Duration::from_millis(500));
    let open = net.nodes[0].usage().map(|usage| usage.requests).sum::<usize>();
    assert!((2..=5).contains(&open), "{open} requests open");
    net.run_for(10 * SECOND);
    assert!(seqs.iter().all(|seq| net.answers(publisher, seq).len() == 1));
    assert_eq!(net.pushed(subscriber, FrameType::REQUEST).len(), 40);
}

#[test]
fn replies_go_before_what_was_pushed_and_a_flood_of_them_cuts_nobody() {
    let (mut net, publisher, subscriber) = slow(1, 1, 50_000);
    net.frame(subscriber, FrameType::HANDSHAKE, br#"{"minimumSupport":1,"maximumSupport":3}"#);
    net.run_for(SECOND);
    for _ in 0..3 {
        net.multicast(publisher, "t", &[7; 100_000]);
    }
    net.run_for(Duration::from_millis(100));
    let beats: Vec<_> = (0..60_000).map(|_| net.frame(subscriber, FrameType::HEARTBEAT, b"")).collect();
    net.run_for(4 * SECOND);
    let first = net.apps[subscriber].received.iter().position(|got| got.header.seq == beats[0]);
    let pushes =
        net.apps[subscriber].received.iter().filter(|got| got.header.frame_type == FrameType::MULTICAST);
    assert!(first.is_some(), "an answer is there after the frame that had begun");
    assert_eq!(pushes.count(), 1);
    net.run_for(100 * SECOND);
    let answered =
        net.apps[subscriber].received.iter().filter(|got| got.header.frame_type == FrameType::HEARTBEAT);
    assert_eq!(answered.count(), 60_000);
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 3);
    assert!(!net.apps[subscriber].closed);
}

#[test]
fn long_answers_are_owed_whatever_the_bound_and_stop_the_reading() {
    let (mut net, publisher, _) = slow(1, 1, u64::MAX);
    net.set_rate(publisher, 100_000);
    let seqs: Vec<_> = (0..40).map(|_| net.unicast(publisher, "t", &[7; 100_000])).collect();
    net.run_for(60 * SECOND);
    assert!(seqs.iter().all(|seq| net.answers(publisher, seq).iter().all(|answer| answer.code().0 == 0)));
    assert!(seqs.iter().all(|seq| net.answers(publisher, seq).len() == 1));
    assert!(!net.apps[publisher].closed);
}

#[test]
fn an_answer_that_memory_has_no_room_for_is_told_as_102() {
    let (mut net, publisher, _) = slow(1, 1, u64::MAX);
    net.set_queues_bytes_max(0, 150_000);
    net.set_rate(publisher, 1_000);
    let seqs: Vec<_> = (0..2).map(|_| net.unicast(publisher, "t", &[7; 90_000])).collect();
    net.run_for(200 * SECOND);
    let codes: Vec<i32> = seqs.iter().map(|seq| net.answer(publisher, seq, SECOND).0).collect();
    assert_eq!(codes, [0, 102]);
    assert_eq!(net.nodes[0].total(|counters| counters.answers_dropped.get()), 1);
}

#[test]
fn who_takes_what_is_sent_is_not_idle() {
    let (mut net, publisher, subscriber) = slow(1, 1, 1_000);
    net.multicast(publisher, "t", &[7; 100_000]);
    // Beyond the idle timeout of 60 s, in which the subscriber says nothing.
    net.run_for(90 * SECOND);
    assert!(!net.apps[subscriber].closed);
    net.run_for(120 * SECOND);
    assert!(net.apps[subscriber].closed, "it said nothing after it had everything");
    assert_eq!(net.pushed(subscriber, FrameType::MULTICAST).len(), 1);
}

#[test]
fn copies_for_a_full_queue_are_counted_for_the_session() {
    let (mut net, publisher, _) = slow(1, 1, 1);
    for _ in 0..10 {
        net.multicast(publisher, "t", &[7; 100_000]);
    }
    net.run_for(SECOND);
    assert_eq!(net.nodes[0].total(|counters| counters.dropped_queue_full.get()), 7);
}
