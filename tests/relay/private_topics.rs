//! Private topics (WIRE §4): only who has proved its key to a publisher gets that publisher's messages.
//!
//! Applications here play the parts of unmodified SDKs: a subscriber signs whatever comes under its own
//! route topic, a publisher verifies whom it is asked to. A signature is a keyed hash.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{ReactorId, admission::Admission, bandwidth::Limiter, counters::Counters, settings::Settings},
    wire::{
        ResultCode,
        node::{self, AUDIENCE_MAX, Extensions, PacketType},
        notice::Notice,
        sdk::{self, AmopBody, FrameType, Seq},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::kit::{AppIndex, Behaviour, Network, NodeIndex, Received, line};

const SOON: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(1);
pub const DATA: &str = "#!$TopicNeedVerify_t";
const MARKER: &str = "#!$PushChannel_#!$TopicNeedVerify_t";
const OTHER_DATA: &str = "#!$TopicNeedVerify_u";
const OTHER_MARKER: &str = "#!$PushChannel_#!$TopicNeedVerify_u";

pub type Key = u8;

fn sign(key: Key, payload: &[u8]) -> Vec<u8> {
    blake3::keyed_hash(&[key; 32], payload).as_bytes().to_vec()
}

fn route(data: &str, uuid: u32) -> String {
    format!("#!$VerifyChannel_{data}_{uuid:032x}")
}

/// What an SDK makes of a 0x37.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    node_id: String,
    topic: String,
    route: String,
}

/// How an application plays its part.
#[derive(Clone, Default)]
pub struct Part {
    /// Signs challenges, as a subscriber.
    signs_with: Option<Key>,
    /// Its own route topics; a challenge under another one is not answered, as by the Go SDK.
    routes: Vec<String>,
    /// Public keys that a publisher has configured: for each of its topics.
    accepts: BTreeMap<String, Vec<Key>>,
    /// Does not answer messages either.
    is_silent: bool,
    /// Leaves 0x37 to the test.
    is_manual: bool,
    seen: usize,
    /// Challenges that it sent: by seq, what it was asked and the payload.
    sent: BTreeMap<Seq, (Asked, Vec<u8>)>,
}

pub struct Play {
    pub net: Network,
    parts: BTreeMap<AppIndex, Part>,
    payloads: u64,
}

impl Play {
    pub fn new(seed: u64, nodes: usize, reactors: u16) -> Self {
        Self::on(Network::mesh(seed, nodes, reactors))
    }

    pub fn on(net: Network) -> Self {
        Self { net, parts: BTreeMap::new(), payloads: 0 }
    }

    pub fn subscriber(&mut self, node: NodeIndex, key: Option<Key>) -> AppIndex {
        let app = self.net.app(node, Behaviour::Silent);
        self.parts.insert(app, Part { signs_with: key, ..Part::default() });
        self.take_topics(app, &[DATA], app as u32);
        app
    }

    /// Subscribes to data topics with route topics of a uuid, as the Java SDK does.
    pub fn take_topics(&mut self, app: AppIndex, data: &[&str], uuid: u32) {
        let routes: Vec<String> = data.iter().map(|data| route(data, uuid)).collect();
        self.part(app).routes.clone_from(&routes);
        let topics: Vec<&str> = data.iter().copied().chain(routes.iter().map(String::as_str)).collect();
        self.subscribe(app, &topics);
    }

    pub fn publisher(&mut self, node: NodeIndex, keys: &[Key]) -> AppIndex {
        let app = self.net.app(node, Behaviour::Silent);
        let accepts = BTreeMap::from([(DATA.to_owned(), keys.to_vec())]);
        self.parts.insert(app, Part { accepts, ..Part::default() });
        self.subscribe(app, &[MARKER]);
        app
    }

    /// A publisher that waits for the test to say what it sends.
    fn manual_publisher(&mut self, node: NodeIndex) -> AppIndex {
        let app = self.net.app(node, Behaviour::Silent);
        self.parts.insert(app, Part { is_manual: true, ..Part::default() });
        self.subscribe(app, &[MARKER]);
        app
    }

    /// Has a node send another one a private message that none of its publishers sent.
    fn forge(
        &mut self,
        (from, to): (NodeIndex, NodeIndex),
        message: u32,
        packet_type: PacketType,
        audience: Option<Vec<u64>>,
    ) {
        let frame_type =
            if packet_type == PacketType::UNICAST { FrameType::REQUEST } else { FrameType::MULTICAST };
        let seq = self.net.seq();
        let inner = sdk::encode_amop(frame_type, &seq, ResultCode::OK, DATA, b"secret");
        let extensions = Extensions { audience: audience.map(|one| vec![one]), ..Extensions::default() };
        self.net.forge_message(from, to, (packet_type, message), &extensions, &inner);
        self.run(SOON);
    }

    pub fn part(&mut self, app: AppIndex) -> &mut Part {
        self.parts.entry(app).or_default()
    }

    pub fn subscribe(&mut self, app: AppIndex, topics: &[&str]) {
        let body = serde_json::to_vec(topics).expect("strings");
        self.net.frame(app, FrameType::SUBSCRIBE, &body);
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.net.now + time;
        while self.net.now < end {
            self.net.run_for(STEP);
            let apps: Vec<AppIndex> = self.parts.keys().copied().collect();
            for app in apps {
                let from = self.parts[&app].seen;
                let new: Vec<Received> = self.net.apps[app].received[from..].to_vec();
                self.part(app).seen += new.len();
                for received in new {
                    self.react(app, &received);
                }
            }
        }
    }

    fn react(&mut self, app: AppIndex, received: &Received) {
        let part = self.parts[&app].clone();
        let seq = received.header.seq;
        match received.header.frame_type {
            FrameType::REQUEST => {
                let body = AmopBody::decode(&received.data).expect("nodes push valid bodies");
                let payload = &received.data[body.payload_offset..];
                let answer = match part.signs_with {
                    Some(key) if part.routes.iter().any(|route| route == body.topic) => sign(key, payload),
                    _ if body.topic.starts_with("#!$VerifyChannel_") || part.is_silent => return,
                    _ => payload.to_vec(),
                };
                self.answer(app, &seq, body.topic, &answer);
            }
            FrameType::TOPIC_CERTIFICATION if !part.is_manual => {
                // As Java acknowledges; Go sends a 0x31.
                self.net.bytes(app, sdk::encode(FrameType::TOPIC_CERTIFICATION, &seq, ResultCode::OK, b""));
                let asked = asked(received);
                let payload = self.payload();
                let seq = self.net.unicast(app, &asked.route, &payload);
                self.part(app).sent.insert(seq, (asked, payload));
            }
            FrameType::RESPONSE => {
                let Some((asked, payload)) = self.part(app).sent.remove(&seq) else { return };
                // The Java SDK says nothing when something goes wrong.
                let Ok(body) = AmopBody::decode(&received.data) else { return };
                assert_eq!(body.topic, asked.route, "the publisher gets the topic back that it asked");
                let signature = &received.data[body.payload_offset..];
                let keys = part.accepts.get(&asked.topic).cloned().unwrap_or_default();
                let is_good = keys.iter().any(|&key| sign(key, &payload) == signature);
                self.verdict(app, if is_good { 0 } else { -1 }, &asked.node_id, &asked.topic);
            }
            _ => {}
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        self.payloads += 1;
        format!("{:032x}", self.payloads).into_bytes()
    }

    fn answer(&mut self, app: AppIndex, seq: &Seq, topic: &str, payload: &[u8]) {
        let answer = sdk::encode_amop(FrameType::RESPONSE, seq, ResultCode::OK, topic, payload);
        self.net.bytes(app, answer);
    }

    fn verdict(&mut self, app: AppIndex, result: i32, node_id: &str, topic: &str) {
        let body = format!(r#"{{"checkResult":{result},"nodeId":"{node_id}","topic":"{topic}"}}"#);
        self.net.frame(app, FrameType::TOPIC_STATUS, body.as_bytes());
    }

    /// All 0x37 that an application got.
    pub fn asked(&self, app: AppIndex) -> Vec<Asked> {
        let certifications =
            |received: &&Received| received.header.frame_type == FrameType::TOPIC_CERTIFICATION;
        self.net.apps[app].received.iter().filter(certifications).map(asked).collect()
    }

    /// Has a manual publisher verify by the book what it was asked last.
    fn verify_last(&mut self, app: AppIndex) -> Asked {
        let asked = self.asked(app).pop().expect("it was asked");
        let payload = self.payload();
        let seq = self.net.unicast(app, &asked.route, &payload);
        self.run(SOON);
        assert_eq!(self.net.answers(app, &seq)[0].code(), ResultCode::OK);
        self.verdict(app, 0, &asked.node_id, &asked.topic);
        self.run(SOON);
        asked
    }

    /// Code of a unicast to the data topic.
    pub fn unicast(&mut self, app: AppIndex, topic: &str, payload: &[u8]) -> i32 {
        let seq = self.net.unicast(app, topic, payload);
        self.run(SOON);
        let answers = self.net.answers(app, &seq);
        assert_eq!(answers.len(), 1);
        if answers[0].code() != ResultCode::OK {
            assert_eq!(answers[0].data, b"");
        }
        answers[0].code().0
    }

    pub fn multicast(&mut self, app: AppIndex, topic: &str, payload: &[u8]) {
        let seq = self.net.multicast(app, topic, payload);
        self.run(SOON);
        assert_eq!(self.net.answers(app, &seq)[0].code(), ResultCode::OK);
    }

    /// Payloads of the messages with a data topic that an application got, of both kinds.
    pub fn messages(&self, app: AppIndex) -> Vec<Vec<u8>> {
        [FrameType::REQUEST, FrameType::MULTICAST]
            .into_iter()
            .flat_map(|frame_type| self.net.pushed(app, frame_type))
            .filter(|(topic, _)| topic.starts_with("#!$TopicNeedVerify_"))
            .map(|(_, payload)| payload)
            .collect()
    }

    /// Challenges that an application got: topic and payload.
    pub fn challenges(&self, app: AppIndex) -> Vec<(String, Vec<u8>)> {
        let mut pushed = self.net.pushed(app, FrameType::REQUEST);
        pushed.retain(|(topic, _)| topic.starts_with("#!$VerifyChannel_"));
        pushed
    }

    fn total(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.net.nodes.iter().map(|node| node.total(&counter)).sum()
    }

    /// A unicast and a multicast of `publisher` reach `yes`, each gets the multicast, and none of `no`
    /// anything.
    fn expect(&mut self, publisher: AppIndex, yes: &[AppIndex], no: &[AppIndex]) {
        let payload = self.payload();
        let code = self.unicast(publisher, DATA, &payload);
        assert_eq!(code, if yes.is_empty() { 100 } else { 0 });
        let news = self.payload();
        self.multicast(publisher, DATA, &news);
        for &app in yes {
            assert!(self.messages(app).contains(&news), "app{app} is accepted");
        }
        for &app in no {
            let messages = self.messages(app);
            assert!(!messages.contains(&news) && !messages.contains(&payload), "app{app} has proved nothing");
        }
    }
}

fn asked(received: &Received) -> Asked {
    let value: serde_json::Value = serde_json::from_slice(&received.data).expect("JSON");
    let field = |name: &str| value[name].as_str().expect("a string").to_owned();
    Asked { node_id: field("nodeId"), topic: field("topic"), route: field("topicForCert") }
}

/// Every way in which the parts of one node can lie: publisher and subscribers at one reactor or not.
const PLACES: [(u64, u16); 3] = [(1, 1), (2, 2), (3, 3)];

#[test]
fn a_subscriber_with_the_key_gets_messages_and_one_on_the_same_node_without_it_does_not() {
    for (seed, reactors) in PLACES {
        for first in 0..reactors.into() {
            let mut play = Play::new(seed, 1, reactors);
            for _ in 0..first {
                play.net.app(0, Behaviour::Silent);
            }
            let proven = play.subscriber(0, Some(1));
            let publisher = play.publisher(0, &[1]);
            let (wrong, keyless) = (play.subscriber(0, Some(2)), play.subscriber(0, None));
            play.run(SOON);
            play.expect(publisher, &[proven], &[wrong, keyless]);
            for _ in 0..10 {
                play.expect(publisher, &[proven], &[wrong, keyless]);
            }
        }
    }
}

#[test]
fn a_publisher_that_is_let_go_reaches_those_that_it_has_accepted_until_it_goes() {
    let mut play = Play::new(61, 2, 1);
    let (publisher, proven) = (play.publisher(0, &[1]), play.subscriber(1, Some(1)));
    play.run(SOON);
    play.net.begin_lame_duck(0, Duration::ZERO);
    play.run(SOON / 10);
    assert_eq!(play.unicast(publisher, DATA, b"last"), 0);
    assert_eq!(play.messages(proven), [b"last"]);
    assert!(play.net.apps[publisher].closed);
}

#[test]
fn subscribers_that_come_later_are_challenged_too() {
    let mut play = Play::new(4, 1, 2);
    let publisher = play.publisher(0, &[1]);
    play.run(SOON);
    play.expect(publisher, &[], &[]);
    let subscribers: Vec<_> = (0..4).map(|_| play.subscriber(0, Some(1))).collect();
    play.run(SOON);
    play.expect(publisher, &subscribers, &[]);
}

#[test]
fn a_challenge_names_the_node_a_fresh_token_and_a_topic_that_nobody_subscribes_to() {
    let mut play = Play::new(5, 1, 2);
    let publisher = play.manual_publisher(0);
    let subscribers = [play.subscriber(0, Some(1)), play.subscriber(0, Some(1))];
    play.run(SOON);
    let asked = play.asked(publisher);
    assert_eq!(asked.len(), subscribers.len());
    let node = play.net.nodes[0].id.to_hex();
    for asked in &asked {
        assert_eq!((asked.node_id.len(), &asked.node_id[..64]), (128, &node[..64]));
        assert_eq!(asked.topic, DATA);
        let own = route(DATA, 0);
        assert_eq!(asked.route.len(), own.len());
        assert_eq!(asked.route[..own.len() - 16], format!("#!$VerifyChannel_{DATA}_{}", &node[..16]));
    }
    assert_ne!(asked[0].node_id, asked[1].node_id);
    assert_ne!(asked[0].route, asked[1].route);
}

#[test]
fn each_subscriber_is_listed_by_a_name_that_leads_nowhere_and_is_not_its_own() {
    let mut play = Play::new(5, 2, 2);
    let own: Vec<String> = (0..3).map(|uuid| route(DATA, 0xabc0 + uuid)).collect();
    for (node, route) in [(0, &own[0]), (1, &own[1]), (1, &own[2])] {
        let app = play.net.app(node, Behaviour::Silent);
        play.net.subscribe(app, &[DATA, route]);
    }
    play.run(SOON);
    let asker = play.net.app(0, Behaviour::Silent);
    let mut listed: Vec<String> = Vec::new();
    for (method, count) in [("getNodeInfo", 1), ("getPeers", 2)] {
        let before = play.net.apps[asker].received.len();
        let body = format!(r#"{{"method":"{method}","params":[1],"id":1}}"#);
        play.net.frame(asker, FrameType::RPC, body.as_bytes());
        play.run(SOON);
        let answer = String::from_utf8(play.net.apps[asker].received[before].data.clone()).unwrap();
        let names = answer.split('"').filter(|name| name.starts_with("#!$VerifyChannel_"));
        let names: Vec<String> = names.map(str::to_owned).collect();
        assert_eq!(names.len(), count, "{method}: {answer}");
        assert!(answer.contains(&format!("\"{DATA}\"")));
        listed.extend(names);
    }
    let distinct: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(distinct.len(), 3);
    for name in &listed {
        let digits = name.strip_prefix(&format!("#!$VerifyChannel_{DATA}_")).unwrap();
        assert!(digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{name}");
        assert!(!own.contains(name));
        let seq = play.net.unicast(asker, name, b"are you there?");
        assert_eq!(play.net.answer(asker, &seq, SOON).0, 100, "{name}");
    }
    let pushed: usize = (0..3).map(|app| play.net.pushed(app, FrameType::REQUEST).len()).sum();
    assert_eq!(pushed, 0);
}

#[test]
fn a_challenge_comes_under_the_subscribers_own_topic_and_goes_back_under_the_minted_one() {
    for (seed, reactors) in PLACES {
        let mut play = Play::new(seed, 1, reactors);
        let publisher = play.manual_publisher(0);
        let subscriber = play.subscriber(0, None);
        play.run(SOON);
        let asked = play.asked(publisher).remove(0);
        let seq = play.net.unicast(publisher, &asked.route, b"sign this");
        play.run(SOON);
        let own = route(DATA, subscriber as u32);
        assert_eq!(play.challenges(subscriber), [(own.clone(), b"sign this".to_vec())]);
        play.answer(subscriber, &seq, &own, b"signed");
        play.run(SOON);
        let body = sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, &asked.route, b"signed");
        assert_eq!(play.net.answers(publisher, &seq)[0].data, body[sdk::HEADER_LEN..]);
    }
}

#[test]
fn an_open_challenge_is_carried_once() {
    let mut play = Play::new(6, 1, 2);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    let asked = play.asked(publisher).remove(0);
    assert_eq!(play.unicast(publisher, &asked.route, b"one"), 0);
    assert_eq!(play.unicast(publisher, &asked.route, b"one"), 101);
    assert_eq!(play.unicast(publisher, &asked.route, b"two"), 101);
    assert_eq!(play.challenges(subscriber).len(), 1);
    assert_eq!(play.total(|counters| counters.challenges_closed.get()), 2);
}

#[test]
fn a_challenge_is_not_carried_when_its_time_is_over() {
    let mut play = Play::new(7, 1, 2);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    let asked = play.asked(publisher).remove(0);
    play.run(Duration::from_secs(5));
    assert_eq!(play.unicast(publisher, &asked.route, b"late"), 101);
    assert_eq!(play.challenges(subscriber), []);
}

#[test]
fn a_slow_subscriber_that_has_not_taken_its_challenge_yet_has_time_to_answer() {
    for (seed, (nodes, reactors)) in [(40, (1, 1)), (41, (1, 3)), (42, (2, 2))] {
        let mut play = Play::new(seed, nodes, reactors);
        let publisher = play.manual_publisher(0);
        play.run(SOON);
        // What it is sent before the challenge takes longer than a challenge is open.
        let subscriber = play.subscriber(nodes - 1, Some(1));
        play.net.set_rate(subscriber, 1_000);
        let route = route(DATA, subscriber as u32);
        play.subscribe(subscriber, &[DATA, &route, "news"]);
        play.run(SOON);
        let other = play.net.app(nodes - 1, Behaviour::Silent);
        play.net.multicast(other, "news", &[1; 12_000]);
        let asked = play.asked(publisher).remove(0);
        let payload = play.payload();
        let challenge = play.net.unicast(publisher, &asked.route, &payload);
        play.run(Duration::from_secs(11));
        assert_eq!((play.challenges(subscriber), play.net.answers(publisher, &challenge)), (vec![], vec![]));
        play.run(Duration::from_secs(3));
        assert_eq!(play.net.answers(publisher, &challenge)[0].code(), ResultCode::OK);
        // So has the publisher, which gets the answer then.
        play.run(Duration::from_secs(3));
        play.verdict(publisher, 0, &asked.node_id, DATA);
        play.run(SOON);
        play.expect(publisher, &[subscriber], &[]);
        assert_eq!(play.asked(publisher).len(), 1, "it was challenged once");
    }
}

#[test]
fn a_challenge_is_over_after_45_seconds_however_slowly_it_is_taken() {
    let settings = Settings { request_timeout: Duration::from_secs(120), ..Settings::default() };
    let mut net = Network::new(43);
    let node = net.add_node(2, settings);
    let mut play = Play { net, parts: BTreeMap::new(), payloads: 0 };
    let publisher = play.manual_publisher(node);
    play.run(SOON);
    let subscriber = play.subscriber(node, Some(1));
    play.net.set_rate(subscriber, 1_000);
    let route = route(DATA, subscriber as u32);
    play.subscribe(subscriber, &[DATA, &route, "news"]);
    play.run(SOON);
    let other = play.net.app(node, Behaviour::Silent);
    play.net.multicast(other, "news", &[1; 46_000]);
    let asked = play.asked(publisher).remove(0);
    let challenge = play.net.unicast(publisher, &asked.route, b"sign this");
    play.run(Duration::from_secs(43));
    assert_eq!(play.asked(publisher).len(), 1, "it is open");
    play.run(Duration::from_secs(5));
    assert_eq!(play.net.answers(publisher, &challenge)[0].code(), ResultCode::OK);
    play.verdict(publisher, 0, &asked.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
}

#[test]
fn a_challenge_may_go_through_any_session_of_the_node() {
    let mut play = Play::new(8, 1, 3);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    let asked = play.asked(publisher).remove(0);
    let elsewhere = play.net.app_on(0, ReactorId(2), Behaviour::Silent);
    assert_eq!(play.unicast(elsewhere, &asked.route, b"sign this"), 0);
    play.verdict(publisher, 0, &asked.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
}

#[test]
fn route_topics_as_subscribed_lead_nowhere() {
    let mut play = Play::new(9, 1, 2);
    let publisher = play.publisher(0, &[1]);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    let before = play.challenges(subscriber).len();
    let own = route(DATA, subscriber as u32);
    assert_eq!(play.unicast(publisher, &own, b"x"), 100);
    play.multicast(publisher, &own, b"x");
    assert_eq!(play.challenges(subscriber).len(), before);
    assert_eq!(play.net.pushed(subscriber, FrameType::MULTICAST), []);
}

/// A thief that subscribes to the victim's own route topic.
#[test]
fn who_takes_anothers_route_topic_gets_none_of_its_challenges() {
    for (seed, reactors) in PLACES {
        let mut play = Play::new(seed, 1, reactors);
        let victim = play.subscriber(0, Some(1));
        let thieves: Vec<_> = (0..3).map(|_| play.net.app(0, Behaviour::Silent)).collect();
        for &thief in &thieves {
            play.part(thief).signs_with = Some(9);
            play.take_topics(thief, &[DATA], victim as u32);
        }
        let publisher = play.publisher(0, &[1]);
        play.run(SOON);
        play.expect(publisher, &[victim], &thieves);
        // Each was challenged by itself, and nobody twice.
        for app in thieves.into_iter().chain([victim]) {
            assert_eq!(play.challenges(app).len(), 1);
        }
    }
}

#[test]
fn a_verdict_of_a_session_that_was_not_asked_changes_nothing() {
    let mut play = Play::new(10, 1, 2);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, Some(1));
    let strangers: Vec<_> = (0..2).map(|_| play.manual_publisher(0)).collect();
    play.run(SOON);
    let asked = play.asked(publisher).remove(0);
    assert_eq!(play.unicast(publisher, &asked.route, b"sign this"), 0);
    let nobody = play.net.app(0, Behaviour::Silent);
    for &stranger in strangers.iter().chain([&nobody, &subscriber]) {
        play.verdict(stranger, 0, &asked.node_id, DATA);
    }
    play.run(SOON);
    for &app in strangers.iter().chain([&publisher, &nobody]) {
        play.expect(app, &[], &[subscriber]);
    }
    assert_eq!(play.total(|counters| counters.verdicts_ignored.get()), 4);
    // The forged verdicts have not used up the token either.
    play.verdict(publisher, 0, &asked.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
}

#[test]
fn a_verdict_counts_once_and_only_for_its_topic() {
    let mut play = Play::new(11, 1, 2);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    let first = play.asked(publisher).remove(0);
    assert_eq!(play.unicast(publisher, &first.route, b"sign this"), 0);
    play.verdict(publisher, 0, &first.node_id, OTHER_DATA);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
    play.verdict(publisher, 0, &first.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
    // Refused by a later challenge, it does not come back by the old verdict.
    play.subscribe(publisher, &[MARKER]);
    play.run(SOON);
    let second = play.asked(publisher).pop().unwrap();
    assert_ne!(second.node_id, first.node_id);
    play.verdict(publisher, 1, &second.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
    play.verdict(publisher, 0, &first.node_id, DATA);
    play.verdict(publisher, 0, &second.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
}

#[test]
fn a_positive_verdict_without_the_subscribers_answer_counts_for_nothing() {
    let mut play = Play::new(12, 1, 2);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, None);
    play.run(SOON);
    let asked = play.asked(publisher).remove(0);
    play.verdict(publisher, 0, &asked.node_id, DATA);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
    // Also if it was pushed and not answered.
    play.net.unicast(publisher, &asked.route, b"sign this");
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
}

/// Another session of the proven subscriber's node, with and without a key of its own.
#[test]
fn what_one_session_proved_holds_for_no_other() {
    let mut play = Play::new(13, 1, 2);
    let publisher = play.publisher(0, &[1]);
    let proven = play.subscriber(0, Some(1));
    play.run(SOON);
    play.expect(publisher, &[proven], &[]);
    let others = [play.subscriber(0, None), play.subscriber(0, Some(2))];
    play.run(Duration::from_secs(20));
    play.expect(publisher, &[proven], &others);
}

#[test]
fn what_waits_for_room_does_not_go_to_who_has_taken_the_topic_anew() {
    let mut net = Network::new(1);
    net.add_node(1, Settings { session_queue_bytes_max: 100_000, ..Settings::default() });
    let mut play = Play { net, parts: BTreeMap::new(), payloads: 0 };
    let subscriber = play.subscriber(0, Some(1));
    let publisher = play.publisher(0, &[1]);
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
    play.net.set_rate(subscriber, 20_000);
    let payload = |number| vec![number; 60_000];
    for number in 0..3 {
        play.net.multicast(publisher, DATA, &payload(number));
    }
    let seq = play.net.unicast(publisher, DATA, &payload(3));
    play.run(SOON);
    assert_eq!(play.total(|counters| counters.room_waits.get()), 1);
    // It signs nothing any more.
    play.part(subscriber).signs_with = None;
    play.subscribe(subscriber, &["other"]);
    play.run(SOON);
    play.take_topics(subscriber, &[DATA], 77);
    play.run(Duration::from_secs(20));
    assert!(!play.messages(subscriber).contains(&payload(3)), "it was accepted under another number");
    assert_eq!(play.net.answer(publisher, &seq, SOON).0, 101);
}

#[test]
fn each_publisher_judges_for_itself() {
    let mut play = Play::new(14, 1, 2);
    let publishers = [play.publisher(0, &[1]), play.publisher(0, &[2]), play.publisher(0, &[1, 2])];
    let subscribers = [play.subscriber(0, Some(1)), play.subscriber(0, Some(2))];
    let markerless = play.net.app(0, Behaviour::Silent);
    play.run(SOON);
    play.expect(publishers[0], &[subscribers[0]], &[subscribers[1]]);
    play.expect(publishers[1], &[subscribers[1]], &[subscribers[0]]);
    play.expect(publishers[2], &subscribers, &[]);
    play.expect(markerless, &[], &subscribers);
}

#[test]
fn what_was_proved_for_one_topic_holds_for_no_other() {
    let mut play = Play::new(15, 1, 2);
    let publisher = play.net.app(0, Behaviour::Silent);
    let accepts = BTreeMap::from([(DATA.to_owned(), vec![1]), (OTHER_DATA.to_owned(), vec![2])]);
    play.parts.insert(publisher, Part { accepts, ..Part::default() });
    play.subscribe(publisher, &[MARKER, OTHER_MARKER]);
    let subscriber = play.net.app(0, Behaviour::Silent);
    play.part(subscriber).signs_with = Some(1);
    play.take_topics(subscriber, &[DATA, OTHER_DATA], 7);
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
    let before = play.messages(subscriber);
    assert_eq!(play.unicast(publisher, OTHER_DATA, b"secret"), 100);
    play.multicast(publisher, OTHER_DATA, b"secret");
    assert_eq!(play.messages(subscriber), before);
}

#[test]
fn a_renewed_uuid_keeps_what_was_proved_and_challenges_come_under_the_new_one() {
    let mut play = Play::new(16, 1, 2);
    let publisher = play.publisher(0, &[1]);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    for uuid in 100..105 {
        play.take_topics(subscriber, &[DATA], uuid);
        play.run(SOON);
        play.expect(publisher, &[subscriber], &[]);
        assert_eq!(play.asked(publisher).len(), 1, "it is not challenged again");
    }
    play.subscribe(publisher, &[MARKER]);
    play.run(SOON);
    assert_eq!(play.challenges(subscriber).pop().unwrap().0, route(DATA, 104));
    play.expect(publisher, &[subscriber], &[]);
}

#[test]
fn who_drops_the_data_topic_even_for_a_moment_has_proved_nothing() {
    for (seed, reactors) in PLACES {
        let mut play = Play::new(seed, 1, reactors);
        let publisher = play.publisher(0, &[1]);
        let subscriber = play.subscriber(0, Some(1));
        play.run(SOON);
        play.expect(publisher, &[subscriber], &[]);
        // It has forgotten its key, too.
        play.part(subscriber).signs_with = None;
        play.subscribe(subscriber, &[]);
        play.take_topics(subscriber, &[DATA], 100);
        // Messages in the middle of it, before the network knows.
        for _ in 0..40 {
            play.net.multicast(publisher, DATA, b"secret");
            play.net.unicast(publisher, DATA, b"secret");
            play.run(STEP);
        }
        assert!(!play.messages(subscriber).contains(&b"secret".to_vec()));
        play.expect(publisher, &[], &[subscriber]);
    }
}

#[test]
fn a_refused_key_gets_nothing_and_is_asked_again_when_the_publisher_subscribes_anew() {
    let mut play = Play::new(17, 1, 2);
    let publisher = play.publisher(0, &[1]);
    let subscribers = [play.subscriber(0, Some(1)), play.subscriber(0, Some(2))];
    play.run(Duration::from_secs(30));
    play.expect(publisher, &subscribers[..1], &subscribers[1..]);
    assert_eq!(play.asked(publisher).len(), 2, "who is judged is left alone");
    // It gets other keys: the accepted one stays until it is refused, and then it is.
    play.part(publisher).accepts.insert(DATA.to_owned(), vec![2]);
    play.part(publisher).is_manual = true;
    play.subscribe(publisher, &[MARKER]);
    play.run(SOON);
    play.expect(publisher, &subscribers[..1], &subscribers[1..]);
    play.part(publisher).is_manual = false;
    play.subscribe(publisher, &[MARKER]);
    play.run(Duration::from_secs(15));
    play.expect(publisher, &subscribers[1..], &subscribers[..1]);
}

#[test]
fn a_publisher_that_drops_its_marker_has_accepted_nobody() {
    let mut play = Play::new(18, 1, 2);
    let publisher = play.publisher(0, &[1]);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    play.subscribe(publisher, &[]);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
    play.part(publisher).is_manual = true;
    play.subscribe(publisher, &[MARKER]);
    play.run(SOON);
    play.expect(publisher, &[], &[subscriber]);
}

#[test]
fn a_publisher_that_subscribes_to_its_own_topic_is_not_sent_its_own_challenges_or_messages() {
    let mut play = Play::new(19, 1, 2);
    let publisher = play.publisher(0, &[1]);
    play.part(publisher).signs_with = Some(1);
    let own = route(DATA, 5);
    play.subscribe(publisher, &[MARKER, DATA, &own]);
    let subscriber = play.subscriber(0, Some(1));
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[publisher]);
    assert_eq!(play.challenges(publisher), []);
}

/// One that hands its challenge on to an honest subscriber.
#[test]
fn a_payload_that_was_carried_to_one_session_is_carried_to_no_other_for_a_minute() {
    for (seed, reactors) in PLACES {
        let mut play = Play::new(seed, 1, reactors);
        let honest = play.subscriber(0, Some(1));
        let publisher = play.manual_publisher(0);
        play.run(SOON);
        play.verify_last(publisher);
        // Mallory subscribes without the key, and is a publisher to the honest one.
        let mallory = play.net.app(0, Behaviour::Silent);
        let own = route(DATA, 66);
        play.parts.insert(mallory, Part { is_manual: true, ..Part::default() });
        play.subscribe(mallory, &[DATA, &own, MARKER]);
        play.run(SOON);
        let challenge = play.asked(publisher).pop().unwrap();
        let question = play.payload();
        let carried = play.net.now;
        play.net.unicast(publisher, &challenge.route, &question);
        play.run(SOON);
        assert_eq!(play.challenges(mallory), [(own.clone(), question.clone())]);
        let towards_honest = play.asked(mallory).pop().expect("it is a publisher");
        let before = play.challenges(honest).len();
        assert_eq!(play.unicast(mallory, &towards_honest.route, &question), 101);
        assert_eq!(play.challenges(honest).len(), before);
        assert_eq!(play.total(|counters| counters.challenges_handed_on.get()), 1);
        // A publisher that comes anew may challenge at once. It is refused while the minute lasts, and not later.
        for seconds in [59, 61] {
            let at = carried + Duration::from_secs(seconds);
            play.run((at - Duration::from_secs(1)) - play.net.now);
            play.subscribe(mallory, &[DATA, &own]);
            play.run(SOON);
            play.subscribe(mallory, &[DATA, &own, MARKER]);
            play.run(at - play.net.now);
            let anew = play.asked(mallory).pop().unwrap();
            let before = play.challenges(honest).len();
            play.net.unicast(mallory, &anew.route, &question);
            play.run(SOON);
            assert_eq!(
                play.challenges(honest).len() - before,
                usize::from(seconds > 60),
                "after {seconds} s"
            );
            assert_eq!(play.total(|counters| counters.challenges_handed_on.get()), 2);
        }
        play.expect(publisher, &[honest], &[mallory]);
    }
}

#[test]
fn silent_subscribers_hold_up_nobody_and_at_most_64_challenges_are_open() {
    let mut play = Play::new(20, 1, 2);
    let silent: Vec<_> = (0..130).map(|_| play.subscriber(0, None)).collect();
    play.run(SOON);
    let publisher = play.publisher(0, &[1]);
    let honest: Vec<_> = (0..5).map(|_| play.subscriber(0, Some(1))).collect();
    play.run(Duration::from_secs(4));
    assert!(play.asked(publisher).len() <= 64 + honest.len());
    play.run(Duration::from_secs(12));
    play.expect(publisher, &honest, &silent);
    let everybody: std::collections::BTreeSet<_> =
        silent.iter().filter(|&&app| !play.challenges(app).is_empty()).collect();
    assert_eq!(everybody.len(), silent.len(), "each has its turn");
}

#[test]
fn who_does_not_answer_is_asked_again_after_5_10_20_and_at_last_300_seconds() {
    let mut play = Play::new(21, 1, 1);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(0, None);
    play.run(SOON);
    for _ in 0..50 {
        play.net.run_for(Duration::from_secs(40));
        for app in [publisher, subscriber] {
            play.net.frame(app, FrameType::HEARTBEAT, b"0");
        }
    }
    let at: Vec<_> = play.net.apps[publisher]
        .received
        .iter()
        .filter(|received| received.header.frame_type == FrameType::TOPIC_CERTIFICATION)
        .map(|received| received.at)
        .collect();
    let pauses: Vec<u64> =
        at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64().round() as u64).collect();
    assert_eq!(pauses[..8], [5, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn sessions_that_end_in_the_middle_of_a_challenge_leave_nothing_behind() {
    let mut play = Play::new(22, 1, 2);
    let publisher = play.publisher(0, &[1]);
    let survivor = play.subscriber(0, Some(1));
    for steps in 0..30u32 {
        let subscriber = play.subscriber(0, Some(1));
        let second = play.publisher(0, &[1]);
        play.run(steps * 4 * STEP);
        play.net.disconnect(if steps % 2 == 0 { subscriber } else { second });
        play.run(10 * STEP);
        play.net.disconnect(if steps % 2 == 0 { second } else { subscriber });
        play.parts.remove(&subscriber);
        play.parts.remove(&second);
    }
    play.run(Duration::from_secs(1));
    play.expect(publisher, &[survivor], &[]);
    assert_eq!(play.total(|counters| counters.pairs.get()), 1);
    play.run(Duration::from_secs(40));
    for usage in play.net.nodes[0].usage() {
        assert_eq!((usage.requests, usage.pushes), (0, 0));
    }
}

#[test]
fn unicasts_try_accepted_subscribers_only_and_each_at_most_once() {
    let mut play = Play::new(23, 1, 3);
    let publisher = play.publisher(0, &[1]);
    let proven: Vec<_> = (0..4).map(|_| play.subscriber(0, Some(1))).collect();
    let others: Vec<_> = (0..4).map(|_| play.subscriber(0, Some(2))).collect();
    play.run(SOON);
    for &app in &proven {
        play.part(app).is_silent = true;
    }
    let seq = play.net.unicast(publisher, DATA, b"secret");
    play.run(Duration::from_secs(31));
    assert_eq!(play.net.answers(publisher, &seq)[0].code(), ResultCode::TIMEOUT);
    for app in proven {
        assert_eq!(play.messages(app), [b"secret".to_vec()]);
    }
    for app in others {
        assert_eq!(play.messages(app), [] as [Vec<u8>; 0]);
    }
}

#[test]
fn across_nodes_who_proves_the_key_gets_messages_and_others_of_its_node_do_not() {
    for (seed, reactors) in PLACES {
        let mut play = Play::new(seed, 3, reactors);
        for _ in 0..seed {
            play.net.app(0, Behaviour::Silent);
        }
        let publisher = play.publisher(0, &[1]);
        let proven: Vec<_> = [1, 0, 1, 2].map(|node| play.subscriber(node, Some(1))).into();
        let others: Vec<_> = [(1, None), (0, Some(2)), (2, Some(2)), (1, Some(2))]
            .map(|(node, key)| play.subscriber(node, key))
            .into();
        play.run(SOON);
        for _ in 0..12 {
            play.expect(publisher, &proven, &others);
        }
        let unicasts = |app| play.net.pushed(app, FrameType::REQUEST).len() - play.challenges(app).len();
        assert_eq!(proven.iter().map(|&app| unicasts(app)).sum::<usize>(), 12);
        assert!(proven.iter().filter(|&&app| unicasts(app) > 0).count() > 1, "receivers are drawn");
    }
}

#[test]
fn a_challenge_names_the_subscribers_node_and_reaches_it_through_any_other() {
    for way in 0..3 {
        let mut play = Play::new(30 + way as u64, 3, 2);
        let publisher = play.manual_publisher(0);
        let subscriber = play.subscriber(1, Some(1));
        play.run(SOON);
        let asked = play.asked(publisher).remove(0);
        let node = play.net.nodes[1].id.to_hex();
        assert_eq!(&asked.node_id[..64], &node[..64]);
        assert!(asked.route.contains(&format!("_{}", &node[..16])));
        let sender = play.net.app(way, Behaviour::Silent);
        let seq = play.net.unicast(sender, &asked.route, b"sign this");
        play.run(SOON);
        let signed = sign(1, b"sign this");
        let answer = sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, &asked.route, &signed);
        assert_eq!(play.net.answers(sender, &seq)[0].data, answer[sdk::HEADER_LEN..]);
        assert_eq!(
            play.challenges(subscriber),
            [(route(DATA, subscriber as u32), b"sign this".to_vec())],
            "under its own topic"
        );
        assert_eq!(play.unicast(sender, &asked.route, b"sign this"), 101, "once");
        play.verdict(publisher, 0, &asked.node_id, DATA);
        play.run(SOON);
        play.expect(publisher, &[subscriber], &[]);
    }
}

#[test]
fn the_answer_to_a_challenge_proves_it_though_what_its_node_tells_of_it_is_lost_on_the_way() {
    for (seed, reactors) in PLACES {
        let mut play = Play::new(seed, 0, reactors);
        play.net = Network::of_edges(seed, 3, reactors, &line(3));
        let publisher = play.publisher(0, &[1]);
        let subscriber = play.subscriber(2, Some(1));
        let (mut notices, lost) = (0, Rc::new(Cell::new(0)));
        let count = lost.clone();
        play.net.tamper = Some(Box::new(move |from, to, bytes| {
            let Ok((header, offset)) = node::Header::decode(bytes) else { return };
            let is_sealed = header.flags & node::FLAG_SEALED != 0;
            if (from, to) == (1, 0) && is_sealed && header.packet_type == PacketType::BROADCAST {
                // After the one that says that the challenge is open.
                notices += 1;
                if notices > 1 {
                    bytes[offset + 30] ^= 1;
                    count.set(count.get() + 1);
                }
            }
        }));
        play.run(SOON);
        assert_eq!(lost.get(), 1);
        play.expect(publisher, &[subscriber], &[]);
    }
}

#[test]
fn only_the_subscribers_node_can_say_that_the_subscriber_answered() {
    let mut play = Play::new(40, 3, 2);
    let publisher = play.manual_publisher(0);
    let subscriber = play.subscriber(1, None);
    play.run(SOON);
    let asked = play.asked(publisher).remove(0);
    play.verdict(publisher, 0, &asked.node_id, DATA);
    play.run(SOON);
    let token: [u8; 32] =
        std::array::from_fn(|i| u8::from_str_radix(&asked.node_id[64 + 2 * i..66 + 2 * i], 16).unwrap());
    let forge = |play: &mut Play, from: NodeIndex| {
        for reactor in 0..4u64 {
            for number in 0..4 {
                let notice = Notice::Answered { publisher: reactor << 48 | number, token };
                let payload = notice.encode();
                let mut frame = Default::default();
                node::Header::direct(PacketType::BROADCAST, 0).encode_into(payload.len(), &mut frame);
                frame.extend_from_slice(&payload);
                play.net.forge(from, 0, &frame);
            }
        }
        play.run(SOON);
    };
    forge(&mut play, 2);
    play.expect(publisher, &[], &[subscriber]);
    forge(&mut play, 1);
    play.expect(publisher, &[subscriber], &[]);
}

#[test]
fn frames_of_other_nodes_reach_only_who_is_named_and_still_holds_the_topic() {
    let mut play = Play::new(41, 2, 2);
    let both: Vec<_> = (0..2).map(|_| play.net.app(1, Behaviour::Silent)).collect();
    for &app in &both {
        play.take_topics(app, &[DATA, OTHER_DATA], app as u32);
        play.run(SOON);
    }
    let number_of = |play: &Play, topic: &str, app: usize| {
        let snapshot = play.net.nodes[1].shared.snapshot.load_full();
        snapshot.private(topic).unwrap().own.iter().nth(app).unwrap().0
    };
    let (data, other) = (number_of(&play, DATA, 0), number_of(&play, OTHER_DATA, 0));
    let mut message = 0;
    let mut send = |play: &mut Play, packet_type: PacketType, audience: Option<Vec<u64>>| {
        message += 1;
        play.forge((0, 1), message, packet_type, audience);
    };
    let count = |play: &Play| -> usize { both.iter().map(|&app| play.messages(app).len()).sum() };
    for packet_type in [PacketType::UNICAST, PacketType::MULTICAST] {
        let before = count(&play);
        let strange = [u64::MAX, 7 << 48 | 1, 0, 99];
        for audience in [None, Some(vec![]), Some(vec![other]), Some(strange.to_vec())] {
            send(&mut play, packet_type, audience);
        }
        assert_eq!(count(&play), before);
        send(&mut play, packet_type, Some(vec![data, data, other]));
        assert_eq!(count(&play), before + 1, "the named one gets it once");
    }
    // The same sessions, under numbers of before.
    for &app in &both {
        play.subscribe(app, &[]);
        play.take_topics(app, &[DATA, OTHER_DATA], app as u32);
    }
    play.run(SOON);
    let before = count(&play);
    for packet_type in [PacketType::UNICAST, PacketType::MULTICAST] {
        send(&mut play, packet_type, Some(vec![data]));
    }
    assert_eq!(count(&play), before);
}

#[test]
fn who_drops_the_data_topic_at_another_node_has_proved_nothing() {
    let mut play = Play::new(42, 2, 2);
    let publisher = play.publisher(0, &[1]);
    let subscriber = play.subscriber(1, Some(1));
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
    play.part(subscriber).signs_with = None;
    play.subscribe(subscriber, &[]);
    play.take_topics(subscriber, &[DATA], 100);
    play.run(2 * STEP);
    for _ in 0..40 {
        play.net.multicast(publisher, DATA, b"secret");
        play.net.unicast(publisher, DATA, b"secret");
        play.run(STEP);
    }
    play.run(SOON);
    assert!(!play.messages(subscriber).contains(&b"secret".to_vec()));
    play.expect(publisher, &[], &[subscriber]);
    // A renewed uuid is no such thing.
    play.part(subscriber).signs_with = Some(1);
    play.run(Duration::from_secs(20));
    play.expect(publisher, &[subscriber], &[]);
    play.take_topics(subscriber, &[DATA], 101);
    play.run(SOON);
    let asked = play.asked(publisher).len();
    play.expect(publisher, &[subscriber], &[]);
    assert_eq!(play.asked(publisher).len(), asked);
}

#[test]
fn a_payload_is_not_handed_on_within_another_node_either() {
    let mut play = Play::new(43, 2, 2);
    let publisher = play.manual_publisher(0);
    let honest = play.subscriber(1, Some(1));
    let mallory = play.net.app(1, Behaviour::Silent);
    let own = route(DATA, 66);
    play.parts.insert(mallory, Part { is_manual: true, ..Part::default() });
    play.subscribe(mallory, &[DATA, &own, MARKER]);
    play.run(SOON);
    for challenge in play.asked(publisher) {
        let payload = play.payload();
        let seq = play.net.unicast(publisher, &challenge.route, &payload);
        play.run(SOON);
        if play.challenges(mallory) == [(own.clone(), payload.clone())] {
            let towards_honest = play.asked(mallory).pop().expect("it is a publisher");
            assert_eq!(play.unicast(mallory, &towards_honest.route, &payload), 101);
            assert_eq!(play.net.answers(publisher, &seq).len(), 0);
        } else {
            play.verdict(publisher, 0, &challenge.node_id, DATA);
        }
    }
    play.run(SOON);
    assert_eq!(play.total(|counters| counters.challenges_handed_on.get()), 1);
    play.expect(publisher, &[honest], &[mallory]);
}

#[test]
fn subscribers_of_a_node_that_restarts_prove_themselves_anew() {
    let mut play = Play::new(44, 2, 2);
    let publisher = play.publisher(0, &[1]);
    let subscriber = play.subscriber(1, Some(1));
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
    play.net.restart(1, Duration::from_millis(200));
    play.net.connect(0, 1);
    let impostor = play.subscriber(1, None);
    play.run(Duration::from_secs(2));
    play.expect(publisher, &[], &[impostor]);
    let again = play.subscriber(1, Some(1));
    play.run(Duration::from_secs(1));
    play.expect(publisher, &[again], &[impostor]);
}

#[test]
fn more_subscribers_than_one_frame_can_name_all_get_their_copy() {
    let mut play = Play::new(45, 2, 2);
    let publisher = play.publisher(0, &[1]);
    let subscribers: Vec<_> = (0..AUDIENCE_MAX + 10).map(|_| play.subscriber(1, Some(1))).collect();
    play.run(Duration::from_secs(2));
    play.expect(publisher, &subscribers, &[]);
    for subscriber in subscribers {
        assert_eq!(play.net.pushed(subscriber, FrameType::MULTICAST).len(), 1);
    }
}

#[test]
fn private_messages_that_leave_the_node_cost_bandwidth() {
    let mut net = Network::new(46);
    net.add_limited_node(1, Settings::default(), Limiter::new(100_000.0, Duration::from_millis(100)));
    net.add_node(1, Settings::default());
    net.connect(0, 1);
    net.run_for(SOON);
    let mut play = Play { net, parts: BTreeMap::new(), payloads: 0 };
    let publisher = play.publisher(0, &[1]);
    let subscriber = play.subscriber(1, Some(1));
    play.run(SOON);
    play.expect(publisher, &[subscriber], &[]);
    play.run(Duration::from_secs(1));
    for number in 0..2u8 {
        for frame_type in [FrameType::MULTICAST, FrameType::REQUEST] {
            let seq = play.net.seq();
            let large = vec![number; 50_000];
            play.net.bytes(publisher, sdk::encode_amop(frame_type, &seq, ResultCode::OK, DATA, &large));
            play.run(SOON / 10);
            let expected = if number == 0 && frame_type == FrameType::MULTICAST {
                ResultCode::OK
            } else {
                ResultCode::OVER_BANDWIDTH
            };
            assert_eq!(play.net.answers(publisher, &seq)[0].code(), expected);
        }
    }
}

#[test]
fn a_pinned_topic_reaches_subscribers_only_from_publishers_of_the_nodes_that_are_named() {
    let mut net = Network::new(47);
    let first = net.add_node(2, Settings::default());
    let pins = BTreeMap::from([(DATA.to_owned(), BTreeSet::from([net.nodes[first].shared.id]))]);
    let pinned = net.add_node(2, Settings { private_publishers: pins, ..Settings::default() });
    let second = net.add_node(2, Settings::default());
    for (from, to) in [(first, pinned), (second, pinned), (first, second)] {
        net.connect(from, to);
    }
    net.run_for(SOON);
    let mut play = Play { net, parts: BTreeMap::new(), payloads: 0 };
    let subscriber = play.subscriber(pinned, Some(1));
    let [named, other, own] = [first, second, pinned].map(|node| play.publisher(node, &[1]));
    play.run(SOON);
    play.expect(named, &[subscriber], &[]);
    for publisher in [other, own] {
        assert_eq!(play.unicast(publisher, DATA, b"u"), 100);
        play.multicast(publisher, DATA, b"m");
    }
    let number =
        play.net.nodes[pinned].shared.snapshot.load().private(DATA).unwrap().own.iter().next().unwrap().0;
    for (message, packet_type) in [PacketType::UNICAST, PacketType::MULTICAST].into_iter().enumerate() {
        play.forge((second, pinned), message as u32, packet_type, Some(vec![number]));
    }
    assert_eq!(play.messages(subscriber).len(), 2, "the named publisher's unicast and multicast");
    let refused = play.net.nodes[pinned].total(|counters| counters.challenges_not_pinned.get());
    assert!(refused >= 2);
}

/// Applications come and go, renew uuids, lose keys, links break; at the end everybody reaches whom it should.
#[test]
fn no_private_message_ever_reaches_a_session_that_has_not_proved_itself_to_its_publisher() {
    for seed in 0..12 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (nodes, reactors) = (rng.random_range(1..=3), rng.random_range(1..=3));
        let mut play = Play::new(1_000 + seed, nodes, reactors);
        let (mut publishers, mut subscribers) = (BTreeMap::new(), Vec::new());
        // Keys of each subscriber, and until when what it proved by them may still arrive.
        let mut keys: BTreeMap<AppIndex, Vec<(Key, Option<Instant>)>> = BTreeMap::new();
        let mut checked: BTreeMap<AppIndex, usize> = BTreeMap::new();
        let mut delivered = 0;
        for _ in 0..250 {
            let node = rng.random_range(0..nodes);
            match rng.random_range(0..12) {
                0..=1 if publishers.len() < 6 => {
                    let key: Key = rng.random_range(1..=2);
                    publishers.insert(play.publisher(node, &[key]), key);
                }
                2..=4 if subscribers.len() < 12 => {
                    let key = [None, Some(1), Some(2)][rng.random_range(0..3)];
                    let app = play.subscriber(node, key);
                    keys.insert(app, key.map(|key| (key, None)).into_iter().collect());
                    subscribers.push(app);
                }
                5 if !subscribers.is_empty() => {
                    let app = subscribers.swap_remove(rng.random_range(0..subscribers.len()));
                    play.net.disconnect(app);
                    play.parts.remove(&app);
                }
                6 if rng.random_bool(0.3) => {
                    if let Some((app, _)) = publishers.pop_first() {
                        play.net.disconnect(app);
                        play.parts.remove(&app);
                    }
                }
                7 if !subscribers.is_empty() => {
                    let app = subscribers[rng.random_range(0..subscribers.len())];
                    play.take_topics(app, &[DATA], rng.random());
                }
                8 if !subscribers.is_empty() => {
                    // It drops the topic, and takes it again with another key, or none.
                    let app = subscribers[rng.random_range(0..subscribers.len())];
                    play.subscribe(app, &[]);
                    let key = [None, Some(1), Some(2)][rng.random_range(0..3)];
                    play.part(app).signs_with = key;
                    play.take_topics(app, &[DATA], rng.random());
                    let proved = keys.get_mut(&app).expect("it is known");
                    let until = play.net.now + Duration::from_millis(10);
                    proved.iter_mut().for_each(|(_, end)| *end = Some(end.unwrap_or(until)));
                    proved.extend(key.map(|key| (key, None)));
                }
                9 if nodes > 1 && rng.random_bool(0.2) => {
                    let other = (node + 1) % nodes;
                    play.net.break_links(node, other);
                    play.net.connect(node, other);
                }
                _ => {
                    for &app in publishers.keys() {
                        let payload = (app as u64).to_be_bytes();
                        if rng.random_bool(0.5) {
                            play.net.multicast(app, DATA, &payload);
                        } else {
                            play.net.unicast(app, DATA, &payload);
                        }
                    }
                }
            }
            play.run(Duration::from_millis(rng.random_range(0..40)));
            for (&app, keys) in &keys {
                let from = checked.insert(app, play.net.apps[app].received.len()).unwrap_or(0);
                for received in &play.net.apps[app].received[from..] {
                    let is_push =
                        [FrameType::REQUEST, FrameType::MULTICAST].contains(&received.header.frame_type);
                    let body = AmopBody::decode(&received.data);
                    let Some(body) = body.ok().filter(|body| is_push && body.topic == DATA) else { continue };
                    let payload = received.data[body.payload_offset..].first_chunk().expect("a publisher");
                    let publisher = u64::from_be_bytes(*payload) as AppIndex;
                    let accepted = &play.parts.get(&publisher).map(|part| part.accepts[DATA].clone());
                    // One that has left had one of the two keys; who it was is not known any more.
                    let accepted = accepted.clone().unwrap_or_else(|| vec![1, 2]);
                    let proved = keys
                        .iter()
                        .any(|(key, end)| accepted.contains(key) && end.is_none_or(|end| received.at <= end));
                    assert!(proved, "seed {seed}: app{app} got a message of app{publisher}");
                    delivered += 1;
                }
            }
        }
        assert!(delivered > 0 || publishers.is_empty(), "seed {seed}: nothing happened");
        play.run(Duration::from_secs(25));
        for (&publisher, key) in &publishers {
            let (yes, no): (Vec<_>, Vec<_>) =
                subscribers.iter().partition(|&app| play.parts[app].signs_with == Some(*key));
            play.expect(publisher, &yes, &no);
        }
    }
}

#[test]
fn among_the_accepted_ones_near_goes_before_far_where_it_is_preferred() {
    let mut net = Network::new(80);
    for _ in 0..3 {
        net.add_node(2, Settings { prefers_near: true, ..Settings::default() });
    }
    net.connect(0, 1);
    net.connect(1, 2);
    net.run_for(SOON);
    let mut play = Play { net, parts: BTreeMap::new(), payloads: 0 };
    let publisher = play.publisher(0, &[1]);
    // The nearest has proved nothing.
    let unproven = play.subscriber(0, Some(2));
    let [near, other] = [play.subscriber(1, Some(1)), play.subscriber(1, Some(1))];
    let far = play.subscriber(2, Some(1));
    play.run(2 * SOON);
    let requests = |play: &Play, app| {
        let mut pushed = play.net.pushed(app, FrameType::REQUEST);
        pushed.retain(|(topic, _)| topic == DATA);
        pushed.len()
    };
    for _ in 0..40 {
        assert_eq!(play.unicast(publisher, DATA, b"x"), 0);
    }
    let got = [unproven, near, other, far].map(|app| requests(&play, app));
    assert_eq!((got[0], got[1] + got[2], got[3]), (0, 40, 0));
    assert!(got[1] > 5 && got[2] > 5, "{got:?}");
    // Both near ones go silent.
    for app in [near, other] {
        play.part(app).is_silent = true;
    }
    let seq = play.net.unicast(publisher, DATA, b"x");
    play.run(Duration::from_secs(11));
    assert_eq!(play.net.answers(publisher, &seq)[0].code(), ResultCode::OK);
    let after = [unproven, near, other, far].map(|app| requests(&play, app));
    assert_eq!(after, [0, got[1] + 1, got[2] + 1, 1]);
}

#[test]
fn nobody_is_challenged_between_two_nodes_one_of_which_leaves_the_other_out() {
    let mut net = Network::new(81);
    for _ in 0..3 {
        net.add_node(2, Settings::default());
    }
    net.connect(0, 1);
    net.connect(1, 2);
    net.run_for(SOON);
    let left_out = [net.nodes[2].id].into();
    net.set_admission(0, Admission { blacklist: left_out, ..Admission::default() });
    let mut play = Play { net, parts: BTreeMap::new(), payloads: 0 };
    let (near, far) = (play.publisher(0, &[1]), play.publisher(2, &[1]));
    let [here, there] = [0, 2].map(|node| play.subscriber(node, Some(1)));
    play.run(3 * SOON);
    play.expect(near, &[here], &[there]);
    play.expect(far, &[there], &[here]);
    assert_eq!(
        (play.asked(near).len(), play.asked(far).len()),
        (1, 1),
        "each was asked of its own node's only"
    );
    assert!(play.net.nodes[0].total(|counters| counters.not_admitted.get()) > 0);
    // Admitted again, both are challenged.
    play.net.set_admission(0, Admission::default());
    play.run(Duration::from_secs(6));
    play.expect(near, &[here, there], &[]);
    play.expect(far, &[here, there], &[]);
}
