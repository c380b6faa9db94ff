//! Every code of WIRE §3 over real sockets, through one node and through two: the code, the seq, and that an
//! answer which a node made has no data, while a subscriber's is passed back unchanged.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};

use crate::support::{RawSdk, TestNode, seq, wait_until};

const PROFILE: Profile = Profile::Ec;
const TOPIC: &str = "t";
/// So that nobody waits for long.
const PUSH_TIMEOUT: &str = "[amop]\npush_timeout_ms=200\n";

/// A cable between two nodes, which can swallow what is sent, and be torn.
struct Cable {
    address: SocketAddr,
    swallows: Arc<AtomicBool>,
    is_torn: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let cable = Self {
            address: listener.local_addr().unwrap(),
            swallows: Arc::default(),
            is_torn: Arc::default(),
            ends: Arc::default(),
        };
        let (swallows, is_torn, ends) = (cable.swallows.clone(), cable.is_torn.clone(), cable.ends.clone());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if is_torn.load(Relaxed) {
                    return;
                }
                let far = TcpStream::connect(target).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    ends.lock().unwrap().push(from.try_clone().unwrap());
                    let swallows = swallows.clone();
                    thread::spawn(move || {
                        let mut buffer = [0; 65_536];
                        while let Ok(read @ 1..) = from.read(&mut buffer) {
                            if !swallows.load(Relaxed) && to.write_all(&buffer[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        cable
    }

    fn tear(&self) {
        self.is_torn.store(true, Relaxed);
        for end in self.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A publisher at the first of one or two nodes, a subscriber at the last.
struct Scene {
    nodes: Vec<TestNode>,
    cable: Option<Cable>,
    publisher: RawSdk,
    subscriber: RawSdk,
}

impl Scene {
    /// `more` is configuration of the publisher's node, `everywhere` of all.
    fn new(count: usize, more: &str, everywhere: &str) -> Self {
        let mut nodes = Vec::new();
        let mut cable = None;
        let mut more = format!("{everywhere}{more}");
        if count > 1 {
            let second = TestNode::start(PROFILE, 1, &[], everywhere);
            let between = Cable::to(second.node().p2p_address());
            more = format!("node.0={}\n{more}", between.address);
            cable = Some(between);
            nodes.push(second);
        }
        nodes.insert(0, TestNode::start(PROFILE, 0, &[], &more));
        if let [first, second] = nodes.as_slice() {
            first.wait_for_neighbours(&[second]);
        }
        let publisher = RawSdk::connect(PROFILE, &nodes[0]);
        let mut subscriber = RawSdk::connect(PROFILE, nodes.last().unwrap());
        subscriber.subscribe(&["t"]);
        nodes[0].wait_for_subscribers(TOPIC, 1);
        Self { nodes, cable, publisher, subscriber }
    }

    fn ask(&mut self, seq: &Seq) -> Vec<u8> {
        ask(&mut self.publisher, seq);
        self.publisher.frame().unwrap()
    }

    /// The subscriber takes a request and answers it with these bytes.
    fn reply(&mut self, seq: &Seq, code: i32, data: &[u8]) -> Vec<u8> {
        assert_eq!(Header::decode(&self.subscriber.frame().unwrap()).unwrap().seq, *seq);
        let reply = sdk::encode(FrameType::RESPONSE, seq, ResultCode(code), data);
        self.subscriber.send(&reply);
        reply
    }
}

fn ask(app: &mut RawSdk, seq: &Seq) {
    app.send(&sdk::encode_amop(FrameType::REQUEST, seq, ResultCode::OK, TOPIC, b"request"));
}

/// What came of a row: the answer, and what it must be.
struct Outcome {
    seq: Seq,
    code: i32,
    /// What the subscriber answered, if it did.
    reply: Option<Vec<u8>>,
    answer: Vec<u8>,
}

impl Outcome {
    fn of_node(seq: Seq, code: i32, answer: Vec<u8>) -> Self {
        Self { seq, code, reply: None, answer }
    }
}

type Row = (&'static str, fn(usize) -> (Scene, Outcome));

fn answered_by_the_subscriber(nodes: usize, code: i32, data: &[u8]) -> (Scene, Outcome) {
    let mut scene = Scene::new(nodes, "", "");
    let seq = seq(1);
    ask(&mut scene.publisher, &seq);
    let reply = scene.reply(&seq, code, data);
    let answer = scene.publisher.frame().unwrap();
    (scene, Outcome { seq, code, reply: Some(reply), answer })
}

const ROWS: &[Row] = &[
    ("0: a subscriber's answer", |nodes| answered_by_the_subscriber(nodes, 0, b"\x02tanswer")),
    ("0 without data", |nodes| answered_by_the_subscriber(nodes, 0, b"")),
    ("a subscriber's own code with data", |nodes| answered_by_the_subscriber(nodes, -7, b"\x02twhy not")),
    ("a subscriber's own code without data", |nodes| answered_by_the_subscriber(nodes, 12_345, b"")),
    ("a subscriber's code that nodes use, too", |nodes| {
        answered_by_the_subscriber(nodes, 102, b"no body of AMOP")
    }),
    ("99: the table of pending requests is full", |nodes| {
        let mut scene = Scene::new(nodes, "[amop]\npending_requests_max=1\n", "");
        ask(&mut scene.publisher, &seq(1));
        assert!(scene.subscriber.frame().is_some());
        let answer = scene.ask(&seq(2));
        scene.subscriber.send(&sdk::encode(FrameType::RESPONSE, &seq(1), ResultCode::OK, b""));
        assert_eq!(Header::decode(&scene.publisher.frame().unwrap()).unwrap().seq, seq(1));
        (scene, Outcome::of_node(seq(2), 99, answer))
    }),
    ("101: the seq is in use by the publisher itself", |nodes| {
        let mut scene = Scene::new(nodes, "", "");
        ask(&mut scene.publisher, &seq(1));
        let answer = scene.ask(&seq(1));
        let reply = scene.reply(&seq(1), 0, b"");
        assert_eq!(scene.publisher.frame().unwrap(), reply);
        (scene, Outcome::of_node(seq(1), 101, answer))
    }),
    ("100: nobody subscribes any more", |nodes| {
        let mut scene = Scene::new(nodes, "", "");
        scene.subscriber.subscribe(&[]);
        scene.nodes[0].wait_for_subscribers(TOPIC, 0);
        let answer = scene.ask(&seq(1));
        (scene, Outcome::of_node(seq(1), 100, answer))
    }),
    ("100: a body that is none", |nodes| {
        let mut scene = Scene::new(nodes, "", "");
        scene.publisher.send(&sdk::encode(FrameType::REQUEST, &seq(1), ResultCode::OK, b"\0t"));
        let answer = scene.publisher.frame().unwrap();
        (scene, Outcome::of_node(seq(1), 100, answer))
    }),
    ("101: the seq is in use at the only subscriber", |nodes| {
        let mut scene = Scene::new(nodes, "", "");
        let mut other = RawSdk::connect(PROFILE, &scene.nodes[0]);
        ask(&mut other, &seq(1));
        let reply = sdk::encode(FrameType::RESPONSE, &seq(1), ResultCode::OK, b"");
        assert!(scene.subscriber.frame().is_some());
        let answer = scene.ask(&seq(1));
        scene.subscriber.send(&reply);
        assert_eq!(other.frame().unwrap(), reply);
        (scene, Outcome::of_node(seq(1), 101, answer))
    }),
    ("102: the subscriber keeps silent", |nodes| {
        let mut scene = Scene::new(nodes, "", PUSH_TIMEOUT);
        let answer = scene.ask(&seq(1));
        // What it says later answers nothing any more.
        scene.reply(&seq(1), 0, b"late");
        (scene, Outcome::of_node(seq(1), 102, answer))
    }),
    ("102: the subscriber leaves with the request", |nodes| {
        let mut scene = Scene::new(nodes, "", "");
        ask(&mut scene.publisher, &seq(1));
        assert!(scene.subscriber.frame().is_some());
        scene.subscriber.socket.shutdown(Shutdown::Both).unwrap();
        let answer = scene.publisher.frame().unwrap();
        (scene, Outcome::of_node(seq(1), 102, answer))
    }),
    ("103: the bandwidth is used up, where it is needed", |nodes| {
        let mut scene = Scene::new(nodes, "[flow_control]\noutgoing_bandwidth_limit=0.001\n", "");
        // A full bucket lets one through, whatever its size, and is then far below zero.
        let large = sdk::encode_amop(FrameType::REQUEST, &seq(1), ResultCode::OK, TOPIC, &[0; 100_000]);
        scene.publisher.send(&large);
        scene.reply(&seq(1), 0, b"");
        assert_eq!(Header::decode(&scene.publisher.frame().unwrap()).unwrap().result, ResultCode::OK);
        if nodes > 1 {
            let answer = scene.ask(&seq(2));
            return (scene, Outcome::of_node(seq(2), 103, answer));
        }
        // What stays on the node is free.
        ask(&mut scene.publisher, &seq(2));
        let reply = scene.reply(&seq(2), 0, b"");
        let answer = scene.publisher.frame().unwrap();
        (scene, Outcome { seq: seq(2), code: 0, reply: Some(reply), answer })
    }),
];

/// What takes a link.
const ROWS_OF_TWO_NODES: &[Row] =
    &[("102: the link takes the frame and fails before anything is heard", |nodes| {
        let mut scene = Scene::new(nodes, "", "");
        let cable = scene.cable.as_ref().expect("there are two");
        cable.swallows.store(true, Relaxed);
        ask(&mut scene.publisher, &seq(1));
        wait_until("the node has it", || scene.nodes[0].total(|counters| counters.requests.get()) == 1);
        cable.tear();
        let answer = scene.publisher.frame().unwrap();
        (scene, Outcome::of_node(seq(1), 102, answer))
    })];

fn provoke_all(nodes: usize, rows: &[Row]) {
    for (name, provoke) in rows {
        let (mut scene, outcome) = provoke(nodes);
        let what = format!("{name}, through {nodes} nodes");
        let header = Header::decode(&outcome.answer).expect("a whole frame");
        assert_eq!(header.frame_type, FrameType::RESPONSE, "{what}");
        assert_eq!(header.result.0, outcome.code, "{what}");
        assert_eq!(header.seq, outcome.seq, "{what}");
        match outcome.reply {
            Some(reply) => assert_eq!(outcome.answer, reply, "{what}: passed back unchanged"),
            None => assert_eq!(outcome.answer.len(), HEADER_LEN, "{what}: a node's answer has no data"),
        }
        // And no other answer comes.
        scene.publisher.send(&sdk::encode(FrameType::HEARTBEAT, &seq(9), ResultCode::OK, b"0"));
        let next = scene.publisher.frame().expect("the publisher's session lives");
        assert_eq!(
            Header::decode(&next).unwrap().frame_type,
            FrameType::HEARTBEAT,
            "{what}: a second answer"
        );
        let Scene { nodes, cable, publisher, subscriber } = scene;
        drop((publisher, subscriber, cable));
        for node in nodes {
            node.stop();
        }
    }
}

#[test]
fn each_code_comes_through_one_node_with_its_seq_and_without_data_of_the_nodes_making() {
    provoke_all(1, ROWS);
}

#[test]
fn each_code_comes_through_two_nodes_with_its_seq_and_without_data_of_the_nodes_making() {
    provoke_all(2, ROWS);
    provoke_all(2, ROWS_OF_TWO_NODES);
}
