//! The client library: what is asked is answered, whatever else waits.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use amop::{
    internal::{pki::Profile, wire::ResultCode},
    keys::PrivateKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{self, BOUND, TestNode, client, client_at, runtime, wait_until};

const PROFILE: Profile = Profile::Ec;
/// More than the application's queue of messages holds, and what the machine keeps of a connection.
const MESSAGES: usize = 3_000;
/// More than wait to be sent, with what the machine keeps of a connection.
const REQUESTS: usize = 3_000;

#[test]
fn an_application_that_takes_no_messages_gets_its_answers() {
    let node = TestNode::start(PROFILE, 0, &[], "");
    runtime().block_on(async {
        let (busy, messages) = client(PROFILE, &[&node]).await;
        busy.subscribe(&["much"]).await.unwrap();
        let (clerk, mut questions) = client(PROFILE, &[&node]).await;
        clerk.subscribe(&["question"]).await.unwrap();
        let (publisher, _) = client(PROFILE, &[&node]).await;
        tokio::task::block_in_place(|| {
            node.wait_for_subscribers("much", 1);
            node.wait_for_subscribers("question", 1);
        });
        for _ in 0..MESSAGES {
            let sent = publisher.multicast("much", b"one", BOUND).await.unwrap();
            assert_eq!(sent.code, ResultCode::OK);
        }
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                clerk.respond(&question, b"answer").await;
            }
        });
        for _ in 0..3 {
            let answer = busy.request("question", b"?", BOUND / 3).await.unwrap();
            assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &b"answer"[..]));
        }
        // None is lost, and they are in order.
        let mut messages = messages;
        for _ in 0..MESSAGES {
            let message = tokio::time::timeout(BOUND, messages.recv()).await.expect("all of them").unwrap();
            assert_eq!(message.payload, &b"one"[..]);
        }
    });
}

/// Carries one connection to a node. Once it is told to stop, it takes nothing more from the client, nor from the node unless
/// that may go on.
async fn way_that_stops(to: SocketAddr, node_goes_on: bool) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, has_stopped) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::default());
    let stopped = has_stopped.clone();
    tokio::spawn(async move {
        let here = listener.accept().await.unwrap().0;
        // Whoever comes later waits for ever.
        let _listener = listener;
        let there = TcpStream::connect(to).await.unwrap();
        let (here, there) = (here.into_split(), there.into_split());
        let carry = |mut from: tokio::net::tcp::OwnedReadHalf,
                     mut to: tokio::net::tcp::OwnedWriteHalf,
                     stops: bool| {
            let stopped = stopped.clone();
            async move {
                let mut buffer = vec![0; 4_096];
                loop {
                    let read = from.read(&mut buffer).await;
                    if stops && stopped.load(SeqCst) {
                        return std::future::pending::<()>().await;
                    }
                    let Ok(read @ 1..) = read else { return };
                    to.write_all(&buffer[..read]).await.unwrap();
                }
            }
        };
        tokio::join!(carry(here.0, there.1, true), carry(there.0, here.1, !node_goes_on));
    });
    (address, has_stopped)
}

#[test]
fn a_request_ends_in_its_time_and_a_dead_link_is_missed_though_nothing_can_be_written() {
    let node = TestNode::start(PROFILE, 0, &[], "");
    runtime().block_on(async {
        let (way, has_stopped) = way_that_stops(node.node().channel_address(), false).await;
        let (client, _messages) = client_at(PROFILE, vec![way.to_string()]).await;
        has_stopped.store(true, SeqCst);
        let payload = vec![0; 20_000];
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..REQUESTS {
            let (client, payload) = (client.clone(), payload.clone());
            asking.spawn(async move {
                client.request("anything", &payload, Duration::from_millis(200)).await.unwrap().code
            });
        }
        while let Some(code) = tokio::time::timeout(BOUND, asking.join_next()).await.expect("each ends") {
            let code = code.unwrap();
            assert!([ResultCode::TIMEOUT, ResultCode::NOT_SENT].contains(&code), "{code:?}");
        }
        let gone = async {
            let short = Duration::from_millis(200);
            while client.request("anything", b"", short).await.unwrap().code != ResultCode::NOT_SENT {}
        };
        tokio::time::timeout(BOUND, gone).await.expect("the link is missed");
    });
}

#[test]
fn what_a_node_asks_by_itself_never_keeps_its_messages_from_being_read() {
    let node = TestNode::start(PROFILE, 0, &[], "");
    runtime().block_on(async {
        let (way, has_stopped) = way_that_stops(node.node().channel_address(), true).await;
        let (client, mut messages) = client_at(PROFILE, vec![way.to_string()]).await;
        let key = PrivateKey::generate();
        client.publish_private("deals", &[key.public_key()]).await.unwrap();
        client.subscribe(&["news"]).await.unwrap();
        tokio::task::block_in_place(|| node.wait_for_subscribers("news", 1));
        // Nothing can be sent any more, and as much waits as may.
        has_stopped.store(true, SeqCst);
        let mut asking = tokio::task::JoinSet::new();
        while tokio::time::timeout(Duration::from_millis(50), client.subscribe(&["news"])).await.is_ok() {
            for _ in 0..REQUESTS {
                let client = client.clone();
                asking.spawn(async move { client.request("anything", &[0; 20_000], BOUND).await });
            }
        }
        let (subscriber, _messages) = support::client(PROFILE, &[&node]).await;
        subscriber.subscribe_private("deals", &key).await.unwrap();
        tokio::task::block_in_place(|| {
            wait_until("the client is asked", || node.total(|counters| counters.challenges.get()) > 0);
        });
        subscriber.multicast("news", b"read", BOUND).await.unwrap();
        let news = tokio::time::timeout(BOUND, messages.recv()).await.expect("it is read").unwrap();
        assert_eq!(news.payload, &b"read"[..]);
        asking.abort_all();
    });
}
