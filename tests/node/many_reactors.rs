//! Many more reactors than processors: whatever order they run in, nothing is lost, doubled or out of order.

use std::collections::BTreeMap;

use amop::{
    client::{Client, MessageKind, Messages},
    internal::{pki::Profile, wire::ResultCode},
};
use tokio::sync::{oneshot, watch};

use crate::support::{BOUND, TestNode, client, runtime};

const REACTORS: u16 = 16;
/// More than reactors, over both nodes together, so that each has some.
const SUBSCRIBERS: u32 = 48;
const PUBLISHERS: u32 = 8;
const GROUPS: u32 = 4;
const REQUESTS: u32 = 100;
const MULTICASTS: u32 = 60;

/// The numbers of the multicasts that came, in this order, by their publisher.
type Numbers = BTreeMap<u32, Vec<u32>>;

/// Answers each unicast with its payload, and gives the numbers of multicasts once so many have come.
fn serve(client: Client, mut messages: Messages, multicasts: u32) -> oneshot::Receiver<Numbers> {
    let (all_are_here, served) = oneshot::channel();
    tokio::spawn(async move {
        let (mut all_are_here, mut left, mut numbers) = (Some(all_are_here), multicasts, Numbers::new());
        while let Some(message) = messages.recv().await {
            if message.kind == MessageKind::Unicast {
                client.respond(&message, &message.payload).await;
                continue;
            }
            let (numbered, _) = message.payload.as_chunks::<4>();
            let [publisher, number] = [0, 1].map(|at| u32::from_be_bytes(numbered[at]));
            numbers.entry(publisher).or_default().push(number);
            left -= 1;
            if left == 0
                && let Some(all_are_here) = all_are_here.take()
            {
                let _ = all_are_here.send(std::mem::take(&mut numbers));
            }
        }
    });
    served
}

/// Asks a group and tells all, one after the other.
async fn publish(publisher: Client, index: u32) {
    let group = format!("group-{}", index % GROUPS);
    let asking = (0..4).map(|part| {
        let (publisher, group) = (publisher.clone(), group.clone());
        tokio::spawn(async move {
            for number in (part..REQUESTS).step_by(4) {
                let payload = [index, number].map(u32::to_be_bytes).concat();
                let answer = publisher.request(&group, &payload, BOUND).await.unwrap();
                assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &payload[..]));
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    for number in 0..MULTICASTS {
        let payload = [index, number].map(u32::to_be_bytes).concat();
        assert_eq!(publisher.multicast("all", &payload, BOUND).await.unwrap().code, ResultCode::OK);
    }
    for asked in asking {
        asked.await.unwrap();
    }
}

/// Subscribes to groups and leaves them again until it is told to end.
async fn come_and_go(client: Client, mut end: watch::Receiver<bool>) {
    let changes = async {
        for round in 0.. {
            let group = format!("group-{}", round % GROUPS);
            client.subscribe(&[&group]).await.unwrap();
            // So that it does not change faster than a session may.
            let answer = client.request("all", b"", BOUND).await.unwrap();
            assert_eq!(answer.code, ResultCode::OK);
        }
    };
    tokio::select! {
        _ = end.wait_for(|end| *end) => {}
        () = changes => {}
    }
}

#[test]
fn sixteen_reactors_on_whatever_processors_lose_double_and_reorder_nothing() {
    let start = |index, peers: &[&TestNode]| {
        TestNode::start_with(Profile::Ec, index, peers, "", |config| config.reactors = Some(REACTORS))
    };
    let first = start(0, &[]);
    let second = start(1, &[&first]);
    first.wait_for_neighbours(&[&second]);
    runtime().block_on(async {
        let at = |index: u32| if index.is_multiple_of(2) { &first } else { &second };
        let mut served = Vec::new();
        for index in 0..SUBSCRIBERS {
            let (subscriber, messages) = client(Profile::Ec, &[at(index)]).await;
            let group = format!("group-{}", index / 2 % GROUPS);
            subscriber.subscribe(&["all", &group]).await.unwrap();
            served.push(serve(subscriber, messages, PUBLISHERS * MULTICASTS));
        }
        for node in [&first, &second] {
            node.wait_for_subscribers("all", SUBSCRIBERS);
            for group in 0..GROUPS {
                node.wait_for_subscribers(&format!("group-{group}"), SUBSCRIBERS / GROUPS);
            }
        }
        let ((end, ending), mut coming_and_going) = (watch::channel(false), Vec::new());
        for index in 0..6 {
            let (subscriber, messages) = client(Profile::Ec, &[at(index)]).await;
            serve(subscriber.clone(), messages, u32::MAX);
            coming_and_going.push(tokio::spawn(come_and_go(subscriber, ending.clone())));
        }
        let mut publishing = Vec::new();
        for index in 0..PUBLISHERS {
            let (publisher, _messages) = client(Profile::Ec, &[at(index)]).await;
            publishing.push(tokio::spawn(publish(publisher, index)));
        }
        for published in publishing {
            published.await.unwrap();
        }
        end.send(true).unwrap();
        for ended in coming_and_going {
            ended.await.unwrap();
        }
        for numbers in served {
            let numbers = numbers.await.unwrap();
            assert_eq!(numbers.len(), PUBLISHERS as usize);
            assert!(numbers.values().all(|numbers| numbers.iter().copied().eq(0..MULTICASTS)), "{numbers:?}");
        }
    });
    for node in [&first, &second] {
        let with_sessions =
            node.node().shared().counters.iter().filter(|counters| counters.requests.get() > 0);
        assert!(with_sessions.count() > 1, "one reactor had all publishers");
    }
}
