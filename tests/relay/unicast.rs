//! Unicasts (WIRE §2.2, §3).

use std::time::Duration;

use crate::kit::{Behaviour, Network};

const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_subscriber_on_the_publishers_own_node_answers() {
    let mut net = Network::mesh(1, 1, 1);
    net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"hello");
    assert_eq!(net.answer(publisher, &seq, SOON), (0, b"\x02thello".to_vec()));
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
