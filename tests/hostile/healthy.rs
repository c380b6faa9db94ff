//! The honest: a pair of sessions that must not notice anything.

use std::{
    io::ErrorKind,
    net::{Shutdown, SocketAddr, TcpStream},
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, AmopBody, FrameType, HEADER_LEN},
    },
};

use crate::support::{RawSdk, TestNode, application_config, seq, wait_until};

/// Between two exchanges: the attack needs the processors too.
const PACE: Duration = Duration::from_millis(1);

/// A topic for one pair: linked nodes would share it with others.
fn own_topic() -> String {
    static PAIRS: AtomicU64 = AtomicU64::new(0);
    format!("healthy/{}", PAIRS.fetch_add(1, Relaxed))
}

/// A subscriber and a publisher that exchange unicasts all the time; one that is not answered 0 with its
/// own payload fails the test.
pub(crate) struct HealthyPair {
    stop: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    subscriber_socket: TcpStream,
    threads: [JoinHandle<()>; 2],
}

impl HealthyPair {
    /// A pair at one node of the EC profile.
    pub(crate) fn start(node: &TestNode) -> Self {
        Self::between(node, node)
    }

    /// The publisher at one node, the subscriber at another.
    pub(crate) fn between(publisher_node: &TestNode, subscriber_node: &TestNode) -> Self {
        let topic = own_topic();
        let mut subscriber = RawSdk::connect(Profile::Ec, subscriber_node);
        subscriber.subscribe(&[&topic]);
        publisher_node.wait_for_subscribers(&topic, 1);
        Self::run(topic, subscriber, RawSdk::connect(Profile::Ec, publisher_node))
    }

    /// Both at the node of another process.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let connect = || RawSdk::connect_with(application_config(Profile::Ec), address).unwrap();
        let (mut subscriber, mut publisher) = (connect(), connect());
        let topic = own_topic();
        subscriber.subscribe(&[&topic]);
        let early = sdk::encode_amop(FrameType::MULTICAST, &seq(0), ResultCode::OK, &topic, b"early");
        assert!(answers(&mut subscriber));
        // The subscriber is known once a copy comes.
        subscriber.socket.set_nonblocking(true).unwrap();
        wait_until("the subscriber is known", || {
            publisher.send(&early);
            assert!(publisher.frame().is_some());
            subscriber.socket.peek(&mut [0]).is_ok()
        });
        subscriber.socket.set_nonblocking(false).unwrap();
        Self::run(topic, subscriber, publisher)
    }

    /// The same over sessions whose subscriber has subscribed.
    fn run(topic: String, mut subscriber: RawSdk, mut publisher: RawSdk) -> Self {
        let (stop, exchanges) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let subscriber_socket = subscriber.socket.try_clone().unwrap();
        let answering = std::thread::spawn(move || {
            while let Some(mut frame) = subscriber.frame() {
                if frame_type(&frame) == FrameType::MULTICAST {
                    continue;
                }
                assert_eq!(frame_type(&frame), FrameType::REQUEST);
                frame[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
                subscriber.send(&frame);
            }
        });
        let (stopped, count) = (stop.clone(), exchanges.clone());
        let asking = std::thread::spawn(move || {
            for number in 1.. {
                if stopped.load(Relaxed) {
                    break;
                }
                // Some within one record, some not.
                let payload = vec![number as u8; [10, 500, 20_000][number as usize % 3]];
                let request =
                    sdk::encode_amop(FrameType::REQUEST, &seq(number), ResultCode::OK, &topic, &payload);
                publisher.send(&request);
                let answer = publisher.frame().expect("the publisher's session lives");
                let (answered, code, returned) = answer_of(&answer);
                assert_eq!((answered, code), (seq(number), ResultCode::OK));
                assert!(returned == payload, "another payload came back");
                count.fetch_add(1, Relaxed);
                std::thread::park_timeout(PACE);
            }
        });
        let pair = Self { stop, exchanges, subscriber_socket, threads: [asking, answering] };
        pair.wait_for_exchanges(1);
        pair
    }

    /// Waits for `count` exchanges that begin from now on.
    pub(crate) fn wait_for_exchanges(&self, count: u64) {
        // One may have been under way.
        let wanted = self.exchanges.load(Relaxed) + 1 + count;
        wait_until("the healthy pair goes on", || {
            self.exchanges.load(Relaxed) >= wanted || self.threads.iter().any(JoinHandle::is_finished)
        });
    }

    /// After the attack: the pair still works, and was answered all the time.
    pub(crate) fn finish(self) {
        self.wait_for_exchanges(3);
        self.stop.store(true, Relaxed);
        let [asking, answering] = self.threads;
        asking.join().unwrap_or_else(|panic| resume_unwind(panic));
        if let Err(error) = self.subscriber_socket.shutdown(Shutdown::Write) {
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
        answering.join().unwrap_or_else(|panic| resume_unwind(panic));
    }
}

pub(crate) fn frame_type(frame: &[u8]) -> FrameType {
    sdk::Header::decode(frame).unwrap().frame_type
}

/// Seq, result and payload of a 0x31.
pub(crate) fn answer_of(frame: &[u8]) -> (sdk::Seq, ResultCode, Vec<u8>) {
    let header = sdk::Header::decode(frame).unwrap();
    assert_eq!(header.frame_type, FrameType::RESPONSE);
    let body = &frame[HEADER_LEN..];
    let offset = AmopBody::decode(body).map_or(0, |body| body.payload_offset);
    (header.seq, header.result, body[offset..].to_vec())
}

/// A session of an application, at a node of the EC profile.
pub(crate) fn connect(node: &TestNode) -> RawSdk {
    RawSdk::connect(Profile::Ec, node)
}

/// Whether the session still answers.
pub(crate) fn answers(app: &mut RawSdk) -> bool {
    app.send(&sdk::encode(FrameType::HEARTBEAT, &seq(1), ResultCode::OK, b"0"));
    app.frame().is_some_and(|frame| frame[HEADER_LEN..] == *b"1")
}

/// Sends bytes to a node that may have closed already.
pub(crate) fn try_send(app: &mut RawSdk, bytes: &[u8]) {
    use std::io::Write;
    let _ = app.socket.write_all(bytes);
}

/// Whether the node closes the connection without another frame.
pub(crate) fn is_closed(app: &mut RawSdk) -> bool {
    app.record().is_none()
}
