//! When a node that has just started lets applications in, over real sockets: not before it can tell them the truth
//! (WIRE §3, code 100), and not never.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header},
    },
};

use crate::support::{RawSdk, ReservedPort, TestNode, get, seq, wait_until};

const ADMIN: &str = "[admin]\nlisten_port=0\n";
const FOR_EVER: &str = "[amop]\nready_timeout_ms=600000\n";

/// Subscribes, and answers everything until the node goes.
fn serve(mut app: RawSdk, topic: &'static str) -> std::thread::JoinHandle<()> {
    app.subscribe(&[topic]);
    std::thread::spawn(move || {
        while let Some(frame) = app.frame() {
            let header = Header::decode(&frame).unwrap();
            let answer = sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode::OK, &frame[HEADER_LEN..]);
            app.send(&answer);
        }
    })
}

fn request(app: &mut RawSdk, number: u64, topic: &str) -> ResultCode {
    app.send(&sdk::encode_amop(FrameType::REQUEST, &seq(number), ResultCode::OK, topic, b"payload"));
    Header::decode(&app.frame().expect("an answer")).unwrap().result
}

fn readyz(node: &TestNode) -> u16 {
    get(node.node().admin_address().expect("it is configured"), "/readyz").0
}

fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// What `more` begins with to name one more peer.
fn peer(number: usize, address: SocketAddr) -> String {
    format!("node.{number}={address}\n")
}

#[test]
fn the_first_message_after_each_start_is_answered_by_a_subscriber_elsewhere() {
    // The subscriber is at a neighbour, or behind one.
    let far = TestNode::start(Profile::Ec, 2, &[], "");
    let near = TestNode::start(Profile::Ec, 1, &[&far], "");
    let subscribers = [
        serve(RawSdk::connect(Profile::Ec, &near), "near"),
        serve(RawSdk::connect(Profile::Ec, &far), "far"),
    ];
    near.wait_for_subscribers("near", 1);
    near.wait_for_subscribers("far", 1);
    for start in 0..6 {
        let node = TestNode::start(Profile::Ec, 0, &[&near], "");
        let mut app = RawSdk::connect(Profile::Ec, &node);
        for (number, topic) in (1..).zip(["near", "far", "far", "near"]) {
            assert_eq!(request(&mut app, number, topic), ResultCode::OK, "start {start}, message {number}");
        }
        node.stop();
    }
    near.stop();
    far.stop();
    subscribers.into_iter().for_each(|subscriber| subscriber.join().unwrap());
}

#[test]
fn the_port_is_closed_and_the_node_not_ready_while_a_peer_may_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = peer(0, silent.local_addr().unwrap()) + FOR_EVER + ADMIN;
    let node = TestNode::starting(Profile::Ec, 0, &[], &more, |_| {});
    let (dialed, _) = silent.accept().unwrap();
    assert!(is_closed(node.node().channel_address()));
    assert_eq!(readyz(&node), 503);
    assert_eq!(get(node.node().admin_address().unwrap(), "/livez").0, 200);
    // Other nodes are let in meanwhile.
    let other = TestNode::start(Profile::Ec, 1, &[&node], "");
    node.wait_for_neighbours(&[&other]);
    assert!(is_closed(node.node().channel_address()) && !node.node().is_ready());
    // It hangs up: it is not waited for.
    drop((dialed, silent));
    wait_until("the node is ready", || node.node().is_ready());
    assert_eq!(readyz(&node), 200);
    let subscriber = serve(RawSdk::connect(Profile::Ec, &other), "t");
    node.wait_for_subscribers("t", 1);
    assert_eq!(request(&mut RawSdk::connect(Profile::Ec, &node), 1, "t"), ResultCode::OK);
    node.stop();
    other.stop();
    subscriber.join().unwrap();
}

#[test]
fn a_peer_that_never_answers_is_waited_for_as_long_as_is_configured_and_no_longer() {
    const WAIT: Duration = Duration::from_millis(200);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let wait_ms = WAIT.as_millis();
    let more = peer(0, silent.local_addr().unwrap()) + &format!("[amop]\nready_timeout_ms={wait_ms}\n");
    let began = Instant::now();
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    // A busy machine only makes it longer.
    assert!(began.elapsed() >= WAIT, "it was let in though a peer might answer");
    let _dialed = silent.accept().unwrap();
    assert_eq!(request(&mut RawSdk::connect(Profile::Ec, &node), 1, "t"), ResultCode::NO_RECEIVER);
    node.stop();
}

#[test]
fn ports_where_nobody_listens_nodes_that_are_not_admitted_and_the_node_itself_are_not_waited_for() {
    // Ports where nobody listens, who is not admitted, and this node's own.
    let nobody = ReservedPort::new();
    let stranger = TestNode::start(Profile::Ec, 1, &[], "");
    let own = ReservedPort::new();
    let id = stranger.node().id().to_hex();
    let more = peer(1, nobody.address())
        + &peer(2, own.address())
        + FOR_EVER
        + &format!("[certificate_blacklist]\ncrl.0={id}\n");
    let change = |config: &mut amop::internal::config::Config| config.p2p_listen.1 = own.address().port();
    let node = TestNode::start_with(Profile::Ec, 0, &[&stranger], &more, change);
    node.stop();
    stranger.stop();
}

#[test]
fn a_peer_that_is_removed_while_it_is_waited_for_is_waited_for_no_more() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = peer(0, silent.local_addr().unwrap()) + FOR_EVER;
    let node = TestNode::starting(Profile::Ec, 0, &[], &more, |_| {});
    let _dialed = silent.accept().unwrap();
    assert!(!node.node().is_ready());
    node.node().set_membership(amop::internal::door::Membership::default());
    wait_until("the node is ready", || node.node().is_ready());
    node.stop();
}

#[test]
fn a_node_whose_port_is_taken_while_it_starts_says_so_and_opens_once_it_is_free() {
    // Both may take the address as long as nobody listens there.
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.set_reuse_address(true).unwrap();
    other.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = other.local_addr().unwrap().as_socket().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = peer(0, silent.local_addr().unwrap()) + FOR_EVER + ADMIN;
    let node = TestNode::starting(Profile::Ec, 0, &[], &more, |config| {
        config.channel_listen = (address.ip().to_string(), address.port());
    });
    let dialed = silent.accept().unwrap();
    let reason = || get(node.node().admin_address().unwrap(), "/readyz").1;
    assert!(reason().contains("the state of other nodes"), "{}", reason());
    other.listen(1).unwrap();
    drop((dialed, silent));
    wait_until("it says that the port is taken", || reason().contains("[rpc] channel_listen_port"));
    assert_eq!(readyz(&node), 503);
    drop(other);
    wait_until("the node is ready", || node.node().is_ready());
    assert_eq!(readyz(&node), 200);
    node.stop();
}

#[test]
fn a_node_stops_in_order_while_it_waits() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = peer(0, silent.local_addr().unwrap()) + FOR_EVER;
    let node = TestNode::starting(Profile::Ec, 0, &[], &more, |_| {});
    let _dialed = silent.accept().unwrap();
    node.stop();
}
