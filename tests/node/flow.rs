//! Files to clients that read, slowly or not, over real sockets (WIRE §2.3): everything arrives, nobody is cut.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, Header},
    },
};
use socket2::{Domain, Socket, Type};

use crate::support::{RawSdk, TestNode, application_config, seq, wait_until};

/// A push timeout that each file would exceed if it ran while the file is on its way.
const SHORT_PUSH: &str = "[amop]\npush_timeout_ms=2000\n";
/// On a busy machine whoever answers many at once may take its time.
const LONG_PUSH: &str = "[amop]\npush_timeout_ms=30000\n";

/// A client with little room in its kernel.
fn with_little_room(node: &TestNode) -> RawSdk {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(256 * 1024).unwrap();
    socket.connect(&node.node().channel_address().into()).unwrap();
    RawSdk::connect_over(application_config(Profile::Ec), TcpStream::from(socket)).unwrap()
}

/// A client with little room in its kernel that reads so many bytes a second, sends heartbeats and answers requests.
struct Reader {
    app: RawSdk,
    rate: f64,
    began: Instant,
    read: usize,
    beats: u32,
    beats_answered: u32,
    /// Length of the answers that it gives to requests.
    answer_len: usize,
}

impl Reader {
    fn connect(node: &TestNode, rate: f64) -> Self {
        let app = with_little_room(node);
        let mut reader =
            Self { app, rate, began: Instant::now(), read: 0, beats: 0, beats_answered: 0, answer_len: 2 };
        reader.send(FrameType::HANDSHAKE, 0, br#"{"minimumSupport":1,"maximumSupport":3,"clientType":"x"}"#);
        assert_eq!(reader.app.frame().unwrap()[4..6], [0, 0x14]);
        reader
    }

    fn send(&mut self, frame_type: FrameType, number: u32, data: &[u8]) {
        self.app.send(&sdk::encode(frame_type, &seq(number.into()), ResultCode::OK, data));
    }

    fn subscribe(&mut self, node: &TestNode, topic: &str) {
        self.send(FrameType::SUBSCRIBE, 0, format!("[{topic:?}]").as_bytes());
        node.wait_for_subscribers(topic, 1);
        self.began = Instant::now();
    }

    /// The next frame that is no heartbeat's answer, read at the reader's pace.
    fn frame(&mut self) -> (Header, Vec<u8>) {
        loop {
            let mut frame = Vec::new();
            while frame.len() < 4 || frame.len() < Header::decode(&frame).unwrap().len as usize {
                frame.extend(self.app.record().expect("nobody who reads is cut"));
                self.read += 16 * 1024;
                // Nothing tells that it is time to read on but the time.
                let due = Duration::from_secs_f64(self.read as f64 / self.rate);
                std::thread::park_timeout(due.saturating_sub(self.began.elapsed()));
                if self.began.elapsed().as_millis() / 300 > u128::from(self.beats) {
                    self.beats += 1;
                    self.send(FrameType::HEARTBEAT, 0xbea7, b"");
                }
            }
            let header = Header::decode(&frame).unwrap();
            match header.frame_type {
                FrameType::HEARTBEAT => self.beats_answered += 1,
                FrameType::REQUEST => {
                    let answer = vec![7; self.answer_len];
                    let frame_of = |data| sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, data);
                    self.app.send(&frame_of(&[&[1][..], &answer].concat()));
                    return (header, frame);
                }
                _ => return (header, frame),
            }
        }
    }
}

fn payload(len: usize, number: u32) -> Vec<u8> {
    let mut payload = vec![3; len];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn message(frame_type: FrameType, number: u32, len: usize) -> Vec<u8> {
    sdk::encode_amop(frame_type, &seq(number.into()), ResultCode::OK, "t", &payload(len, number))
}

fn nobody_was_cut(nodes: &[&TestNode]) {
    for node in nodes {
        for (what, count) in [
            ("stalled", node.total(|counters| counters.closed_stalled.get())),
            ("idle", node.total(|counters| counters.closed_idle.get())),
            ("dropped", node.total(|counters| counters.dropped_queue_full.get())),
            ("answers dropped", node.total(|counters| counters.answers_dropped.get())),
            ("windows", node.total(|counters| counters.dropped_window_full.get())),
        ] {
            assert_eq!(count, 0, "{what}");
        }
    }
}

#[test]
fn a_file_reaches_a_slow_reader_of_another_node_and_its_heartbeats_are_answered() {
    let there = TestNode::start(Profile::Ec, 0, &[], SHORT_PUSH);
    let here = TestNode::start(Profile::Ec, 1, &[&there], SHORT_PUSH);
    here.wait_for_neighbours(&[&there]);
    let mut reader = Reader::connect(&there, 5e6);
    reader.subscribe(&there, "t");
    here.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &here);
    // 4 s for each, where a push may take 2 s.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..2 {
                publisher.send(&message(FrameType::REQUEST, number, 20_000_000));
            }
            for _ in 0..2 {
                let answer = publisher.frame().unwrap();
                assert_eq!(Header::decode(&answer).unwrap().result, ResultCode::OK);
            }
        });
        for number in 0..2 {
            let (header, frame) = reader.frame();
            assert_eq!((header.seq, frame.len()), (seq(number), 42 + 2 + 20_000_000));
        }
    });
    assert!(reader.beats_answered > 0, "of {}", reader.beats);
    nobody_was_cut(&[&here, &there]);
}

#[test]
fn bursts_of_multicasts_that_were_accepted_reach_a_slow_reader() {
    let there = TestNode::start(Profile::Ec, 0, &[], SHORT_PUSH);
    let here = TestNode::start(Profile::Ec, 1, &[&there], SHORT_PUSH);
    here.wait_for_neighbours(&[&there]);
    let mut reader = Reader::connect(&there, 40e6);
    reader.subscribe(&there, "t");
    here.wait_for_subscribers("t", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &here);
    let mut number = 0u32;
    for (count, len) in [(20, 1_000_000), (100, 1_000_000), (5, 20_000_000)] {
        let burst = number..number + count;
        number = burst.end;
        std::thread::scope(|scope| {
            let (publisher, sent) = (&mut publisher, burst.clone());
            scope.spawn(move || {
                for number in sent {
                    publisher.send(&message(FrameType::MULTICAST, number, len));
                    assert_eq!(Header::decode(&publisher.frame().unwrap()).unwrap().result, ResultCode::OK);
                }
            });
            for number in burst {
                let (header, frame) = reader.frame();
                assert_eq!((header.seq, frame.len()), (seq(number.into()), 42 + 2 + len));
            }
        });
    }
    nobody_was_cut(&[&here, &there]);
}

#[test]
fn long_answers_reach_who_asked_for_them_however_slowly_it_reads() {
    let there = TestNode::start(Profile::Ec, 0, &[], LONG_PUSH);
    let here = TestNode::start(Profile::Ec, 1, &[&there], LONG_PUSH);
    here.wait_for_neighbours(&[&there]);
    let mut subscriber = Reader::connect(&there, 1e9);
    subscriber.subscribe(&there, "t");
    here.wait_for_subscribers("t", 1);
    let mut publisher = Reader::connect(&here, 25e6);
    for (count, len) in [(60, 1_000_000), (5, 20_000_000)] {
        for number in 0..count {
            publisher.app.send(&message(FrameType::REQUEST, number, 100));
        }
        subscriber.answer_len = len;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..count).for_each(|_| drop(subscriber.frame())));
            for number in 0..count {
                let (header, frame) = publisher.frame();
                assert_eq!((header.seq, header.result.0, frame.len()), (seq(number.into()), 0, 43 + len));
            }
        });
    }
    nobody_was_cut(&[&here, &there]);
}

#[test]
fn an_answer_that_comes_slowly_has_the_time_that_its_length_gives() {
    const SHORT_REQUEST: &str = "[amop]\nrequest_timeout_ms=3000\npush_timeout_ms=3000\n";
    let there = TestNode::start(Profile::Ec, 0, &[], SHORT_REQUEST);
    let here = TestNode::start(Profile::Ec, 1, &[&there], SHORT_REQUEST);
    here.wait_for_neighbours(&[&there]);
    let mut subscriber = RawSdk::connect(Profile::Ec, &there);
    subscriber.subscribe(&["t"]);
    here.wait_for_subscribers("t", 1);
    for (node, [long, other]) in [(&here, [0, 1]), (&there, [2, 3])] {
        let mut publisher = RawSdk::connect(Profile::Ec, node);
        for number in [long, other] {
            publisher.send(&message(FrameType::REQUEST, number, 100));
            subscriber.frame().unwrap();
        }
        // 10 s more for this one. That the time of the other is up tells that this one's would be.
        let answer =
            sdk::encode(FrameType::RESPONSE, &seq(long.into()), ResultCode::OK, &payload(1 << 20, long));
        let (first, rest) = answer.split_at(200_000);
        subscriber.send(first);
        let timed_out = Header::decode(&publisher.frame().unwrap()).unwrap();
        assert_eq!((timed_out.seq, timed_out.result), (seq(other.into()), ResultCode::TIMEOUT));
        subscriber.send(rest);
        assert_eq!(publisher.frame().unwrap(), answer);
    }
}

#[test]
fn any_number_of_heartbeats_at_once_is_answered() {
    let node = TestNode::start(Profile::Ec, 0, &[], SHORT_PUSH);
    // More answers than the kernels between take with little room here, and the node keeps for who reads none of them.
    const BEATS: usize = 200_000;
    let mut app = with_little_room(&node);
    let beat = sdk::encode(FrameType::HEARTBEAT, &seq(0), ResultCode::OK, b"0");
    let mut writer = app.socket.try_clone().unwrap();
    let flood: Vec<u8> = (0..BEATS / 1_000).flat_map(|_| app.seal(&beat.repeat(1_000))).collect();
    // Both ways are full before anything is read.
    let sending = std::thread::spawn(move || writer.write_all(&flood).unwrap());
    wait_until("the node reads no further", || node.total(|counters| counters.reads_paused.get()) > 0);
    for _ in 0..BEATS {
        assert_eq!(app.frame().expect("nobody who reads is cut")[42..], *b"1");
    }
    sending.join().unwrap();
    nobody_was_cut(&[&node]);
}

#[test]
fn who_sends_no_more_and_reads_on_gets_all_that_waits() {
    let node = TestNode::start(Profile::Ec, 0, &[], SHORT_PUSH);
    let mut reader = Reader::connect(&node, 6e6);
    reader.subscribe(&node, "t");
    let mut publisher = RawSdk::connect(Profile::Ec, &node);
    // 7 s, where a link that closes had 5 s.
    for number in 0..4 {
        publisher.send(&message(FrameType::MULTICAST, number, 10_000_000));
        publisher.frame().unwrap();
    }
    reader.app.socket.shutdown(std::net::Shutdown::Write).unwrap();
    reader.beats = u32::MAX;
    for number in 0..4 {
        let (header, frame) = reader.frame();
        assert_eq!((header.seq, frame.len()), (seq(number), 42 + 2 + 10_000_000));
    }
    assert_eq!(reader.app.record(), None);
}

#[test]
fn early_data_that_ends_with_the_connection_is_answered() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    for _ in 0..5 {
        let mut app = RawSdk::connect(Profile::Ec, &node);
        let beat = sdk::encode(FrameType::HEARTBEAT, &seq(0), ResultCode::OK, b"0");
        let mut bytes = app.seal(&beat);
        app.sealer.close_notify(&mut bytes).unwrap();
        app.socket.write_all(&bytes).unwrap();
        assert_eq!(app.frame().unwrap()[42..], *b"1");
        assert_eq!(app.record(), None);
    }
}
