//! A node may live in one incarnation twice: its clock went back, its machine was restored, or a neighbour told it of an
//! old incarnation. No key and nonce of what is sealed comes twice for that, and nothing of the first incarnation opens in the second.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use amop::internal::{
    relay::sealing::{SealIncarnations, SealNumber, number_of},
    wire::{
        node::{Addressing, Header, PacketType},
        sdk::FrameType,
        state::Message,
    },
};

use crate::{
    kit::{AppIndex, Behaviour, Clock, Network, NodeIndex, Seen, line},
    simulation::nonces::Nonces,
};

const SOON: Duration = Duration::from_secs(1);

/// A line of four, and a subscriber at each of the last two.
fn network(seed: u64) -> (Network, Vec<AppIndex>) {
    let mut net = Network::of_edges(seed, 4, 2, &line(4));
    let apps = (2..4).map(|node| net.subscriber(node, &["t"])).collect();
    net.run_for(SOON);
    (net, apps)
}

/// Starts a node at an end of the line again as if its clock stood as at its last start. Its neighbour does not tell it that
/// the network knows that incarnation.
fn repeat(net: &mut Network, node: NodeIndex, neighbour: NodeIndex) {
    let (incarnation, own) = (net.nodes[node].shared.incarnation(), net.nodes[node].id);
    net.kill(node);
    net.run_for(SOON);
    net.revive(node, Clock::Same);
    net.tamper = Some(Box::new(move |from, to, bytes| {
        if (from, to) == (neighbour, node)
            && let Ok((header, offset)) = Header::decode(bytes)
            && let Ok(Message::List(mut versions)) = Message::decode(&bytes[offset..])
            && matches!(header.packet_type, PacketType::STATE_SEQ | PacketType::STATE_REPLY)
        {
            versions.retain(|version| version.origin != own);
            let list = Message::List(versions).encode();
            let mut frame = Default::default();
            header.encode_into(list.len(), &mut frame);
            frame.extend_from_slice(&list);
            *bytes = frame.to_vec();
        }
    }));
    net.connect(node, neighbour);
    net.run_for(5 * SOON);
    assert_eq!(net.nodes[node].shared.incarnation(), incarnation, "the same incarnation");
}

/// What a node has sealed, from what was seen.
fn sealed_of(net: &mut Network, node: NodeIndex) -> Vec<Vec<u8>> {
    let seen = net.seen.replace(Vec::new()).expect("it was noted");
    let frames = seen.into_iter().filter_map(|seen| match seen {
        Seen::Crossed { from, bytes, .. } if from == node => Some(bytes),
        _ => None,
    });
    let own = net.nodes[node].id.0;
    frames
        .filter(|bytes| {
            Header::decode(bytes).is_ok_and(
                |(header, _)| matches!(header.addressing, Addressing::EndToEnd { source, .. } if *source == own),
            )
        })
        .collect()
}

fn publish(net: &mut Network, node: NodeIndex, text: &str) {
    let publisher = net.app(node, Behaviour::Silent);
    for at in 0..5 {
        net.multicast(publisher, "t", format!("{text} {at}").as_bytes());
        net.unicast(publisher, "t", format!("{text} {at}").as_bytes());
        net.run_for(SOON / 10);
    }
}

#[test]
fn no_key_and_nonce_seals_two_payloads_though_an_incarnation_is_repeated() {
    let (mut net, _) = network(1);
    net.seen = Some(Vec::new());
    publish(&mut net, 0, "first");
    let first = sealed_of(&mut net, 0);
    repeat(&mut net, 0, 1);
    publish(&mut net, 0, "second");
    let second = sealed_of(&mut net, 0);
    let numbers = |frames: &[Vec<u8>]| -> BTreeSet<(u64, SealNumber)> {
        let payload = |bytes: &[u8]| bytes[Header::decode(bytes).expect("a frame").1..].to_vec();
        let payloads = frames.iter().map(|bytes| payload(bytes));
        payloads
            .filter_map(|sealed| {
                Some((SealIncarnations::of(&sealed)?.source.incarnation, number_of(&sealed)?))
            })
            .collect()
    };
    assert!(
        numbers(&first).intersection(&numbers(&second)).count() > 3,
        "incarnations and numbers come again"
    );
    let mut nonces = Nonces::default();
    for bytes in first.iter().chain(&second) {
        nonces.left(&net.nodes, 0, bytes).unwrap();
    }
}

#[test]
fn a_neighbour_that_repeats_its_incarnation_is_another_one_whose_messages_are_all_new() {
    let (mut net, _) = network(3);
    let neighbour = net.subscriber(1, &["t"]);
    net.run_for(SOON);
    let got = |net: &Network| net.pushed(neighbour, FrameType::MULTICAST).len();
    publish(&mut net, 0, "first");
    assert_eq!(got(&net), 5);
    repeat(&mut net, 0, 1);
    publish(&mut net, 0, "second");
    net.run_for(SOON);
    assert_eq!(got(&net), 10);
}

#[test]
fn what_was_sealed_for_the_first_incarnation_does_not_open_in_the_second() {
    let (mut net, apps) = network(2);
    let frames = Rc::<RefCell<Vec<Vec<u8>>>>::default();
    let (all, publisher_node) = (frames.clone(), net.nodes[0].id.0);
    net.tamper = Some(Box::new(move |from, to, bytes| {
        if let Ok((Header { packet_type, addressing: Addressing::EndToEnd { source, .. }, .. }, _)) =
            Header::decode(bytes)
            && (from, to) == (2, 3)
            && *source == publisher_node
            && packet_type.is_amop()
        {
            all.borrow_mut().push(bytes.clone());
        }
    }));
    let publisher = net.app(0, Behaviour::Silent);
    net.multicast(publisher, "t", b"pay 5 to bob");
    net.run_for(SOON / 5);
    net.tamper = None;
    assert_eq!(net.pushed(apps[1], FrameType::MULTICAST).len(), 1);
    repeat(&mut net, 3, 2);
    let again = net.subscriber(3, &["t"]);
    net.run_for(SOON);
    assert!(!frames.borrow().is_empty());
    for frame in frames.take() {
        net.forge(2, 3, &frame);
        net.run_for(SOON);
    }
    assert_eq!(net.pushed(again, FrameType::MULTICAST), []);
}
