//! Somebody is killed at every point of a request's life: after each single event in the network, from the
//! moment that the request leaves its publisher until the last acknowledgement.
//!
//! | | publisher session | publisher's node | link | subscriber's node | subscriber session |
//! |---|---|---|---|---|---|
//! | on its way to the node … answered, and after | leaves | dies, restarts, drains | breaks, is cut, returns | dies, restarts, freezes, drains | leaves, comes again |
//!
//! The request is answered exactly once while its publisher lives, never twice, and no session gets it twice.
//! Where another subscriber is left, or the link comes back, it is answered by a subscriber.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amop::internal::{
    relay::ReactorId,
    wire::{
        node::{self, PacketType},
        sdk::{FrameType, HEADER_LEN, Header, Seq},
    },
};

use crate::kit::{AppIndex, Behaviour, Clock, Network, NodeIndex, Seen};

const TOPIC: &str = "t";
const PRIVATE_TOPIC: &str = "#!$TopicNeedVerify_t";
const MARKER: &str = "#!$PushChannel_#!$TopicNeedVerify_t";
/// Longer than any request.
const UNTIL_OVER: Duration = Duration::from_secs(36);
/// Longer than a session may keep silent before another one is tried.
const TIME_OF_A_PUSH: Duration = Duration::from_secs(6);
/// Acknowledgements and whatever else follows an answer are over after so long.
const AFTERMATH: Duration = Duration::from_millis(30);
/// Shorter than the time for which a node waits for a link to return.
const BACK_AFTER: Duration = Duration::from_millis(150);

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    InTransitToTheNode,
    Accepted,
    TakenByTheNeighbour,
    Pushed,
    AtTheSubscriber,
    AnsweredAtTheSession,
    AnswerAtThePublishersNode,
    Answered,
    Over,
}

const ON_ONE_NODE: [Point; 7] = [
    Point::InTransitToTheNode,
    Point::Accepted,
    Point::Pushed,
    Point::AtTheSubscriber,
    Point::AnsweredAtTheSession,
    Point::Answered,
    Point::Over,
];
/// Between two nodes; where one reactor does it all, arriving and passing on are one event.
const BETWEEN_NODES: [Point; 9] = [
    Point::InTransitToTheNode,
    Point::Accepted,
    Point::TakenByTheNeighbour,
    Point::Pushed,
    Point::AtTheSubscriber,
    Point::AnsweredAtTheSession,
    Point::AnswerAtThePublishersNode,
    Point::Answered,
    Point::Over,
];

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    PublisherLeaves,
    PublishersNodeDies,
    PublishersNodeRestarts,
    PublishersNodeDrains,
    LinkBreaks,
    LinkBreaksAndReturns,
    LinkIsCut,
    LinkIsCutAndReturns,
    SubscribersNodeDies,
    SubscribersNodeRestarts,
    SubscribersNodeFreezes,
    SubscribersNodeDrains,
    SubscriberLeaves,
    SubscriberComesAgain,
}

impl Blow {
    const ALL: [Self; 14] = [
        Self::PublisherLeaves,
        Self::PublishersNodeDies,
        Self::PublishersNodeRestarts,
        Self::PublishersNodeDrains,
        Self::LinkBreaks,
        Self::LinkBreaksAndReturns,
        Self::LinkIsCut,
        Self::LinkIsCutAndReturns,
        Self::SubscribersNodeDies,
        Self::SubscribersNodeRestarts,
        Self::SubscribersNodeFreezes,
        Self::SubscribersNodeDrains,
        Self::SubscriberLeaves,
        Self::SubscriberComesAgain,
    ];

    /// Whether it takes a link between nodes, or a node that is not the publisher's.
    fn needs_two_nodes(self) -> bool {
        !matches!(
            self,
            Self::PublisherLeaves
                | Self::PublishersNodeDies
                | Self::PublishersNodeRestarts
                | Self::PublishersNodeDrains
                | Self::SubscriberLeaves
                | Self::SubscriberComesAgain
        )
    }

    fn spares_the_publisher(self) -> bool {
        !matches!(self, Self::PublisherLeaves | Self::PublishersNodeDies | Self::PublishersNodeRestarts)
    }
}

/// Who is where; the publisher is at node 0.
#[derive(Clone, Copy, Debug)]
struct Scene {
    nodes: usize,
    reactors: u16,
    /// Node of the subscriber that the blow is for.
    subscriber: NodeIndex,
    /// Node of another subscriber.
    other: Option<NodeIndex>,
    /// Whether the topic is private; the subscribers have proved themselves before.
    is_private: bool,
    seed: u64,
}

struct Stage {
    net: Network,
    scene: Scene,
    publisher: AppIndex,
    subscriber: AppIndex,
    /// Whoever subscribed before the request.
    subscribers: Vec<AppIndex>,
    seq: Seq,
    seen: Vec<Seen>,
}

impl Stage {
    /// Everything is in place, and the request has left the publisher.
    fn set(scene: Scene) -> Self {
        let mut net = Network::mesh(scene.seed, scene.nodes, scene.reactors);
        // Where there are several reactors, not all of it happens at one.
        let publisher = net.app_on(0, ReactorId(scene.reactors - 1), Behaviour::Silent);
        let mut subscribers = Vec::new();
        for node in [Some(scene.subscriber), scene.other].into_iter().flatten() {
            let app = net.app(node, Behaviour::Echo(Duration::from_millis(1)));
            if scene.is_private {
                let own = format!("#!$VerifyChannel_{PRIVATE_TOPIC}_{app:032x}");
                net.subscribe(app, &[PRIVATE_TOPIC, &own]);
            } else {
                net.subscribe(app, &[TOPIC]);
            }
            subscribers.push(app);
        }
        if scene.is_private {
            accept_everybody(&mut net, publisher);
        }
        net.seen = Some(Vec::new());
        let seq = net.unicast(publisher, if scene.is_private { PRIVATE_TOPIC } else { TOPIC }, b"request");
        Self { net, scene, publisher, subscriber: subscribers[0], subscribers, seq, seen: Vec::new() }
    }

    fn observe(&mut self) {
        self.seen.extend(self.net.seen.replace(Vec::new()).unwrap_or_default());
    }

    /// How often applications saw a frame of a kind with the request's seq: by what was seen and by whom.
    fn count(&self, frame_type: FrameType) -> BTreeMap<(&'static str, AppIndex), usize> {
        let mut counts = BTreeMap::new();
        for seen in &self.seen {
            let (what, app, bytes) = match seen {
                Seen::Taken { app, bytes } => ("taken", app, bytes),
                Seen::Emitted { app, bytes } => ("emitted", app, bytes),
                Seen::Delivered { app, bytes } => ("delivered", app, bytes),
                _ => continue,
            };
            let header = Header::decode(bytes).expect("whole frames");
            if header.seq == self.seq && header.frame_type == frame_type {
                *counts.entry((what, *app)).or_default() += 1;
            }
        }
        counts
    }

    fn has_crossed(&self, is_answer: bool) -> bool {
        self.seen.iter().any(|seen| {
            let Seen::Crossed { bytes, .. } = seen else { return false };
            let Ok((header, _)) = node::Header::decode(bytes) else { return false };
            header.packet_type == if is_answer { PacketType::UNICAST_RESPONSE } else { PacketType::UNICAST }
        })
    }

    fn point(&self) -> Point {
        let (requests, answers) = (self.count(FrameType::REQUEST), self.count(FrameType::RESPONSE));
        let is_any = |counts: &BTreeMap<(&str, AppIndex), usize>, what: &str, publisher: bool| {
            counts.keys().any(|(seen, app)| *seen == what && (*app == self.publisher) == publisher)
        };
        let reached = [
            (Point::Over, is_any(&answers, "delivered", true)),
            (Point::Answered, is_any(&answers, "emitted", true)),
            (Point::AnswerAtThePublishersNode, self.has_crossed(true)),
            (Point::AnsweredAtTheSession, is_any(&answers, "taken", false)),
            (Point::AtTheSubscriber, is_any(&requests, "delivered", false)),
            (Point::Pushed, is_any(&requests, "emitted", false)),
            (Point::TakenByTheNeighbour, self.has_crossed(false)),
            (Point::Accepted, is_any(&requests, "taken", true)),
        ];
        reached
            .into_iter()
            .find(|(_, reached)| *reached)
            .map_or(Point::InTransitToTheNode, |(point, _)| point)
    }

    /// Lets the next event happen. `false` if all is over.
    fn step(&mut self, over: &mut Option<Instant>) -> bool {
        let end = over.unwrap_or(self.net.now + UNTIL_OVER);
        let happened = self.net.step(end);
        self.observe();
        if over.is_none() && self.point() == Point::Over {
            *over = Some(self.net.now + AFTERMATH);
        }
        happened
    }

    fn run_for(&mut self, time: Duration) {
        self.net.run_for(time);
        self.observe();
    }

    /// Until the answer is there, or could not come any more, and whoever was asked besides has had its time.
    fn run_until_over(&mut self) {
        let end = self.net.now + UNTIL_OVER;
        while self.net.now < end && self.point() != Point::Over {
            self.run_for(Duration::from_secs(1));
        }
        self.run_for(TIME_OF_A_PUSH);
    }

    fn connect(&mut self, a: NodeIndex, b: NodeIndex) {
        if self.net.links_between(a, b).is_empty() {
            self.net.connect(a, b);
        }
    }

    fn restart(&mut self, node: NodeIndex) {
        self.net.kill(node);
        self.run_for(BACK_AFTER);
        self.net.revive(node, Clock::Right);
        for other in (0..self.scene.nodes).filter(|&other| other != node) {
            self.connect(other, node);
        }
    }

    fn strike(&mut self, blow: Blow) {
        let (here, there) = (0, self.scene.subscriber);
        match blow {
            Blow::PublisherLeaves => self.net.disconnect(self.publisher),
            Blow::PublishersNodeDies => self.net.kill(here),
            Blow::PublishersNodeRestarts => self.restart(here),
            Blow::PublishersNodeDrains => self.net.drain(here),
            Blow::LinkBreaks => self.net.break_links(here, there),
            Blow::LinkBreaksAndReturns => {
                self.net.break_links(here, there);
                self.run_for(BACK_AFTER);
                self.connect(here, there);
            }
            Blow::LinkIsCut => self.net.cut_links(here, there),
            Blow::LinkIsCutAndReturns => {
                self.net.cut_links(here, there);
                while !self.net.links_between(here, there).is_empty() {
                    self.run_for(BACK_AFTER);
                }
                self.connect(here, there);
            }
            Blow::SubscribersNodeDies => self.net.kill(there),
            Blow::SubscribersNodeRestarts => self.restart(there),
            Blow::SubscribersNodeFreezes => {
                self.net.nodes[there].frozen = true;
                self.run_for(Duration::from_secs(10));
                self.net.nodes[there].frozen = false;
                self.run_for(BACK_AFTER);
                self.connect(here, there);
            }
            Blow::SubscribersNodeDrains => {
                self.net.drain(there);
                self.run_for(BACK_AFTER);
                self.net.kill(there);
            }
            Blow::SubscriberLeaves => self.net.disconnect(self.subscriber),
            Blow::SubscriberComesAgain => {
                self.net.disconnect(self.subscriber);
                let again = self.net.app(there, Behaviour::Echo(Duration::ZERO));
                // With a private topic it has proved nothing, and may have nothing.
                let topics = serde_json::to_vec(&[TOPIC, PRIVATE_TOPIC]).expect("strings");
                self.net.frame(again, FrameType::SUBSCRIBE, &topics);
            }
        }
    }

    /// What must be true in the end; gives the code if there is an answer.
    fn check(&self, blow: Blow, point: Point) -> Option<i32> {
        let requests = self.count(FrameType::REQUEST);
        for ((what, app), count) in &requests {
            assert!(*count == 1, "app{app}: the request is {what} {count} times");
            assert!(
                !self.scene.is_private || *app == self.publisher || self.subscribers.contains(app),
                "app{app}, which has proved nothing, gets it"
            );
        }
        let answers = self.count(FrameType::RESPONSE);
        let emitted = answers.get(&("emitted", self.publisher)).copied().unwrap_or(0);
        let delivered = answers.get(&("delivered", self.publisher)).copied().unwrap_or(0);
        assert!(emitted <= 1, "answered {emitted} times");
        let code = self.seen.iter().find_map(|seen| match seen {
            Seen::Delivered { app, bytes } if *app == self.publisher => {
                let header = Header::decode(bytes)?;
                (header.frame_type == FrameType::RESPONSE && header.seq == self.seq).then_some(header)
            }
            _ => None,
        });
        if let Some(header) = code.filter(|header| header.result.0 != 0) {
            assert_eq!(header.len as usize, HEADER_LEN, "an answer that a node made has no data");
        }
        if !blow.spares_the_publisher() {
            return code.map(|header| header.result.0);
        }
        assert_eq!(delivered, 1, "the request is answered exactly once");
        let code = code.expect("just counted").result.0;
        let is_taken_too_late = blow == Blow::PublishersNodeDrains && point == Point::InTransitToTheNode;
        let must_succeed = matches!(blow, Blow::LinkBreaksAndReturns | Blow::LinkIsCutAndReturns)
            || blow == Blow::PublishersNodeDrains
            || blow == Blow::SubscribersNodeDrains && point >= Point::Pushed
            || self.scene.other.is_some();
        if is_taken_too_late {
            assert_eq!(code, 99, "a node that ends takes no requests");
        } else if must_succeed {
            assert_eq!(code, 0, "somebody was left to answer");
        } else if blow == Blow::SubscriberLeaves {
            let expected: &[i32] = match point {
                Point::Pushed | Point::AtTheSubscriber => &[102],
                _ if point >= Point::AnsweredAtTheSession => &[0],
                _ => &[100, 101],
            };
            assert!(expected.contains(&code), "code {code}, not of {expected:?}");
        } else {
            assert!([0, 99, 100, 101, 102].contains(&code), "code {code}");
        }
        Some(code)
    }
}

/// The publisher challenges everybody, and accepts who answers.
fn accept_everybody(net: &mut Network, publisher: AppIndex) {
    net.subscribe(publisher, &[MARKER]);
    net.run_for(Duration::from_millis(300));
    let received = std::mem::take(&mut net.apps[publisher].received);
    let mut seqs = Vec::new();
    for asked in received.iter().filter(|one| one.header.frame_type == FrameType::TOPIC_CERTIFICATION) {
        let asked: serde_json::Value = serde_json::from_slice(&asked.data).expect("JSON");
        let route = asked["topicForCert"].as_str().expect("a topic");
        seqs.push(net.unicast(publisher, route, format!("sign {route}").as_bytes()));
        let verdict = serde_json::json!({
            "checkResult": 0, "nodeId": asked["nodeId"], "topic": asked["topic"],
        });
        net.frame(publisher, FrameType::TOPIC_STATUS, verdict.to_string().as_bytes());
    }
    for seq in seqs {
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(1)).0, 0);
    }
    net.run_for(Duration::from_millis(300));
}

/// Strikes after each event of the request's life, and gives at which points, with which codes.
fn strike_everywhere(scene: Scene, blow: Blow) -> BTreeMap<Point, BTreeSet<Option<i32>>> {
    let mut struck: BTreeMap<Point, BTreeSet<Option<i32>>> = BTreeMap::new();
    for events in 0.. {
        let mut stage = Stage::set(scene);
        let mut over = None;
        let happened = (0..events).all(|_| stage.step(&mut over));
        if !happened {
            return struck;
        }
        let point = stage.point();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stage.strike(blow);
            stage.run_until_over();
            stage.check(blow, point)
        }));
        let code = caught.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            panic!("{scene:?}, {blow:?} after {events} events, {point:?}: {}", text.unwrap_or_default());
        });
        struck.entry(point).or_default().insert(code);
    }
    struck
}

/// Strikes in all scenes. What is one event in one of them, where a single reactor does it all, is several in
/// another: together they leave no point out.
fn strike_all(scenes: &[Scene], points: &[Point]) {
    for blow in Blow::ALL {
        let mut struck: BTreeMap<Point, BTreeSet<Option<i32>>> = BTreeMap::new();
        for &scene in scenes.iter().filter(|scene| scene.nodes > 1 || !blow.needs_two_nodes()) {
            for (point, codes) in strike_everywhere(scene, blow) {
                struck.entry(point).or_default().extend(codes);
            }
        }
        println!("{blow:?}: {struck:?}");
        if struck.is_empty() {
            continue;
        }
        let missing: Vec<_> = points.iter().filter(|point| !struck.contains_key(point)).collect();
        assert!(missing.is_empty(), "{blow:?}: nobody was struck at {missing:?}");
    }
}

#[test]
fn on_one_node_a_request_is_answered_once_whoever_is_killed_at_whatever_point_of_its_life() {
    let scene =
        |reactors, other| Scene { nodes: 1, reactors, subscriber: 0, other, is_private: false, seed: 1 };
    strike_all(&[scene(1, None), scene(3, None), scene(1, Some(0)), scene(3, Some(0))], &ON_ONE_NODE);
}

#[test]
fn between_two_nodes_a_request_is_answered_once_whoever_is_killed_at_whatever_point_of_its_life() {
    let scene =
        |reactors, seed| Scene { nodes: 2, reactors, subscriber: 1, other: None, is_private: false, seed };
    strike_all(&[scene(1, 1), scene(2, 2), scene(3, 3)], &BETWEEN_NODES);
}

#[test]
fn with_another_subscriber_left_a_request_is_answered_by_one_whoever_is_killed() {
    for seed in 1..3 {
        let scene =
            |nodes, reactors, other| Scene { nodes, reactors, subscriber: 1, other, is_private: false, seed };
        // By chance it is the other one that gets it, and nobody ever is struck in its hands.
        strike_all(&[scene(2, 2, Some(0)), scene(3, 2, Some(2))], &[Point::Accepted, Point::Over]);
    }
}

#[test]
fn a_request_with_a_private_topic_is_answered_once_and_reaches_who_is_accepted_whoever_is_killed() {
    let scene = |nodes, subscriber, other| {
        let seed = 1 + nodes as u64;
        Scene { nodes, reactors: 3, subscriber, other, is_private: true, seed }
    };
    strike_all(&[scene(1, 0, None), scene(1, 0, Some(0))], &[Point::Accepted, Point::Over]);
    strike_all(&[scene(2, 1, None), scene(3, 1, Some(2))], &[Point::Accepted, Point::Over]);
}
