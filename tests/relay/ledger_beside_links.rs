//! A node with `[ledger] amop=true` that is also linked with nodes of FISCO BCOS 2.x: what links reach goes over them, and nothing
//! comes twice (INTEROP §1.3, §2.2).

use std::time::Duration;

use amop::internal::{
    relay::{ledger::Ledger, settings::Settings},
    wire::{
        ResultCode,
        p2p_2x::{self, Kind},
        sdk::{self, FrameType},
    },
};

use crate::kit::{Behaviour, Network, PeerIndex};

const SOON: Duration = Duration::from_millis(200);
const ANSWERED: Duration = Duration::from_secs(31);

/// A node with a ledger node, and a linked node of FISCO BCOS 2.x. Another ledger node is another institution's.
fn network(seed: u64) -> (Network, PeerIndex) {
    let mut net = Network::new(seed);
    (0..2).for_each(|_| _ = net.add_ledger());
    // These applications send no heartbeats.
    let ledger = Some(Ledger { amop: true, ..Ledger::of_nodes(1) });
    net.add_node(1, Settings { ledger, idle_timeout: Duration::from_secs(3_600), ..Settings::default() });
    let peer = net.add_peer_2x(&["linked"]);
    net.keep_peer_2x_linked(peer, 0);
    net.run_for(Duration::from_secs(1));
    (net, peer)
}

#[test]
fn where_a_link_leads_to_nodes_of_2x_messages_go_there_and_by_the_ledger_node_what_no_link_reaches() {
    let (mut net, peer) = network(40);
    let by_ledger = ["linked", "other"].map(|topic| net.direct_app(1, &[topic], true));
    let publisher = net.subscriber(0, &["own"]);
    net.run_for(ANSWERED);
    for topic in ["linked", "other"] {
        net.multicast(publisher, topic, b"all");
        let seq = net.unicast(publisher, topic, b"one");
        assert_eq!(net.answer(publisher, &seq, ANSWERED).0, 0);
    }
    assert_eq!(net.peers_2x[peer].received.iter().filter(|one| one.payload == b"all").count(), 1);
    assert_eq!(net.peers_2x[peer].received.iter().filter(|one| one.payload == b"one").count(), 1);
    for frame_type in [FrameType::MULTICAST, FrameType::REQUEST] {
        let pushed = by_ledger.map(|app| net.direct_pushed(app, frame_type).len());
        assert_eq!(pushed, [0, 1], "by the ledger node, of what the link reaches and what it does not");
    }
}

#[test]
fn what_comes_by_a_link_from_nodes_of_2x_goes_to_no_ledger_node_and_what_comes_both_ways_comes_once() {
    let (mut net, peer) = network(41);
    let elsewhere = net.direct_app(1, &["other"], true);
    let app = net.app(0, Behaviour::Silent);
    net.subscribe(app, &["own"]);
    net.run_for(SOON);
    // As if it had not heard yet that nobody here has the topic any more.
    let frame = sdk::encode_amop(FrameType::REQUEST, &[b'7'; 32], ResultCode::OK, "other", b"x");
    let link = net.peer_link(peer, 0).unwrap();
    net.peer_says(link, p2p_2x::encode(Kind::Unicast, 1, &frame));
    net.run_for(ANSWERED);
    assert_eq!(net.nodes[0].total(|counters| counters.peer_2x_requests.get()), 1);
    let to_ledgers = net.nodes[0]
        .total(|counters| counters.ledger_unicasts.get() + counters.ledger_messages_not_sent.get());
    assert_eq!((to_ledgers, net.direct_pushed(elsewhere, FrameType::REQUEST).len()), (0, 0));
    // Its multicast comes over the link, and by the ledger node, which has been told of the topic, too.
    let seq = net.peer_multicast(peer, "own", b"both");
    net.run_for(SOON);
    let frame = sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, "own", b"both");
    net.ledger_sends_bytes(0, frame);
    net.run_for(SOON);
    assert_eq!(net.pushed(app, FrameType::MULTICAST).len(), 1);
}
