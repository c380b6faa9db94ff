//! Private topics as an application's end knows them (WIRE §4): which it subscribes to with which key, which it
//! publishes to for which keys, and the challenges that it has made.
//!
//! ```text
//!   subscriber                      node                        publisher
//!       │                             │ ── 0x37 ──► handle_certification ──┐
//!       │ ◄── 0x30 ──── challenge ─── │ ◄─────────────── 0x30 ─────────────┘
//!   handle_challenge ── signature ──► │ ── 0x31 ──► handle_answer ─────────┐
//!       │                             │ ◄─────────────── 0x38 ─────────────┘
//! ```
//!
//! Performs no I/O; time and randomness are passed in.
//!
//! # Invariants
//! - Only what came under this client's own route topic, and is no longer than a challenge, is signed: a key
//!   may be an account of a ledger too, whose transactions are longer.
//! - A challenge is judged once, by the answer to it that comes over the connection that it went out on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use super::Verdict;
use crate::{
    keys::{PrivateKey, PublicKey, SIGNATURE_LEN},
    wire::{
        PrivateTopic, ResultCode, Topic,
        json::TopicCertification,
        sdk::{self, FrameType, Seq},
    },
};

/// Longest challenge that is signed, in bytes; SDKs send at most 32.
const CHALLENGE_LEN_MAX: usize = 64;
/// Challenges of one client that are open at once; one more is not made, and the node asks again. A node asks
/// for 64 at most.
const OPEN_MAX: usize = 1_024;
/// How long an answer is waited for, as in the Java SDK.
const OPEN_FOR: Duration = Duration::from_secs(5);

/// One client's private topics.
#[derive(Default)]
pub(super) struct PrivateTopics {
    subscriptions: BTreeMap<PrivateTopic, Subscription>,
    publications: BTreeMap<PrivateTopic, Vec<PublicKey>>,
    open: HashMap<Seq, SentChallenge>,
    /// Connections whose node was told to let a subscriber have the topic's messages.
    authorised: BTreeSet<(PrivateTopic, usize)>,
}

struct Subscription {
    key: PrivateKey,
    route: String,
}

/// A challenge that was sent.
struct SentChallenge {
    node: usize,
    topic: PrivateTopic,
    payload: Seq,
    certification: TopicCertification,
    until: Instant,
}

/// What a publisher made of an answer.
pub(super) struct Judged {
    /// The 0x38, for the connection that the answer came over.
    pub(super) status: String,
    pub(super) topic: PrivateTopic,
    pub(super) verdict: Verdict,
}

impl PrivateTopics {
    /// Subscribes with a key; `uuid` is 32 fresh hex digits.
    pub(super) fn subscribe(&mut self, topic: PrivateTopic, key: PrivateKey, uuid: &Seq) {
        let route = topic.route(uuid);
        self.subscriptions.insert(topic, Subscription { key, route });
    }

    /// Ends a subscription; `false` if there was none.
    pub(super) fn unsubscribe(&mut self, topic: &PrivateTopic) -> bool {
        self.subscriptions.remove(topic).is_some()
    }

    /// Publishes to who has one of `keys`; they replace those of before.
    pub(super) fn publish(&mut self, topic: PrivateTopic, keys: Vec<PublicKey>) {
        // Nodes ask anew about those whom they were told to accept by other keys, and are answered then.
        self.authorised.retain(|(other, _)| *other != topic);
        self.publications.insert(topic, keys);
    }

    /// Ends publishing; `false` if it had not begun.
    pub(super) fn unpublish(&mut self, topic: &PrivateTopic) -> bool {
        self.authorised.retain(|(other, _)| other != topic);
        self.publications.remove(topic).is_some()
    }

    /// What to subscribe to at every node.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let subscribed = self.subscriptions.iter();
        let subscribed = subscribed.flat_map(|(topic, own)| [topic.data().to_string(), own.route.clone()]);
        subscribed.chain(self.publications.keys().map(PrivateTopic::marker))
    }

    /// A node asks to have a subscriber verified: gives the 0x30 to send over the same connection. `seq` and
    /// `payload` are 32 fresh hex digits each.
    pub(super) fn handle_certification(
        &mut self,
        now: Instant,
        node: usize,
        body: &[u8],
        (seq, payload): (Seq, Seq),
    ) -> Option<Vec<u8>> {
        let certification = TopicCertification::decode(body)?;
        let topic = PrivateTopic::of_data(&certification.topic)?;
        let route = Topic::new(&certification.route)?;
        if !self.publications.contains_key(&topic) {
            return None;
        }
        if self.open.len() >= OPEN_MAX {
            self.open.retain(|_, open| now < open.until);
        }
        if self.open.len() >= OPEN_MAX {
            warn!(topic = topic.name(), "too many challenges at once: a subscriber has to wait");
            return None;
        }
        let until = now + OPEN_FOR;
        self.open.insert(seq, SentChallenge { node, topic, payload, certification, until });
        Some(sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, route.as_str(), &payload))
    }

    /// An answer came; `None` if it is not to a challenge, or says that nobody answered it. `signature` is the
    /// payload of its body.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        node: usize,
        (seq, result): (&Seq, ResultCode),
        signature: &[u8],
    ) -> Option<Judged> {
        if self.open.get(seq).is_none_or(|open| open.node != node) {
            return None;
        }
        let SentChallenge { topic, payload, certification, until, .. } = self.open.remove(seq)?;
        if result != ResultCode::OK || until <= now {
            debug!(topic = topic.name(), %result, "a challenge was not answered: the node asks again");
            return None;
        }
        let keys = self.publications.get(&topic)?;
        let signature = <&[u8; SIGNATURE_LEN]>::try_from(signature).ok();
        let is_of = |key: &&PublicKey| signature.is_some_and(|signature| key.verify(&payload, signature));
        let key = keys.iter().find(is_of).copied();
        let status = certification.status(key.is_some());
        let verdict = Verdict { topic: topic.name().to_owned(), node, key };
        Some(Judged { status, topic, verdict })
    }

    /// A verdict is on its way.
    pub(super) fn note_sent(&mut self, judged: &Judged) {
        if judged.verdict.key.is_some() && self.publications.contains_key(&judged.topic) {
            self.authorised.insert((judged.topic.clone(), judged.verdict.node));
        }
    }

    /// A challenge came: gives the signature to answer it with. `None` if it is not for us to answer.
    pub(super) fn handle_challenge(&self, topic: &str, payload: &[u8]) -> Option<[u8; SIGNATURE_LEN]> {
        let subscription = self.subscriptions.values().find(|own| own.route == topic)?;
        if payload.len() > CHALLENGE_LEN_MAX {
            warn!(topic, len = payload.len(), "this is no challenge, and is not signed");
            return None;
        }
        Some(subscription.key.sign(payload))
    }

    /// A connection has ended, and with it whatever its node was told.
    pub(super) fn handle_down(&mut self, node: usize) {
        self.open.retain(|_, open| open.node != node);
        self.authorised.retain(|&(_, other)| other != node);
    }

    /// Connections over which some subscriber of a topic was accepted.
    pub(super) fn authorised(&self, topic: &PrivateTopic) -> impl Iterator<Item = usize> {
        let range = (topic.clone(), 0)..=(topic.clone(), usize::MAX);
        self.authorised.range(range).map(|&(_, node)| node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        NodeId,
        json::{TopicStatus, topic_certification},
        sdk::{AmopBody, HEADER_LEN, Header},
    };

    const UUID: Seq = *b"0123456789abcdef0123456789abcdef";
    const SEQ: Seq = [b'5'; 32];
    const PAYLOAD: Seq = [b'a'; 32];
    const OWN_ROUTE: &str = "#!$VerifyChannel_#!$TopicNeedVerify_t_0123456789abcdef0123456789abcdef";

    fn topic() -> PrivateTopic {
        PrivateTopic::new("t").unwrap()
    }

    /// The node's 0x37 about the challenge of `number`.
    fn certification(number: u8) -> String {
        topic_certification(&NodeId([7; 64]), &[number; 32], topic().data().as_str(), OWN_ROUTE)
    }

    fn publisher(keys: &[&PrivateKey]) -> PrivateTopics {
        let mut publisher = PrivateTopics::default();
        publisher.publish(topic(), keys.iter().map(|key| key.public_key()).collect());
        publisher
    }

    fn subscriber(key: &PrivateKey) -> PrivateTopics {
        let mut subscriber = PrivateTopics::default();
        subscriber.subscribe(topic(), key.clone(), &UUID);
        subscriber
    }

    /// Lets a publisher challenge and judge a subscriber.
    fn introduce(publisher: &mut PrivateTopics, subscriber: &PrivateTopics, number: u8) -> Judged {
        let now = Instant::now();
        let seq = [number; 32];
        let challenge = publisher
            .handle_certification(now, 0, certification(number).as_bytes(), (seq, PAYLOAD))
            .expect("a challenge");
        assert_eq!(Header::decode(&challenge).unwrap().frame_type, FrameType::REQUEST);
        let body = AmopBody::decode(&challenge[HEADER_LEN..]).unwrap();
        let payload = &challenge[HEADER_LEN + body.payload_offset..];
        let signature = subscriber.handle_challenge(body.topic, payload).expect("a signature");
        let judged = publisher.handle_answer(now, 0, (&seq, ResultCode::OK), &signature).expect("a verdict");
        publisher.note_sent(&judged);
        let status = TopicStatus::decode(judged.status.as_bytes()).unwrap();
        assert_eq!((status.token, status.accepted), ([number; 32], judged.verdict.key.is_some()));
        judged
    }

    #[test]
    fn a_publisher_accepts_who_has_one_of_its_keys_and_nobody_else() {
        let (first, second, other) = (PrivateKey::generate(), PrivateKey::generate(), PrivateKey::generate());
        let mut publisher = publisher(&[&first, &second]);
        assert_eq!(introduce(&mut publisher, &subscriber(&other), 1).verdict.key, None);
        assert_eq!(publisher.authorised(&topic()).count(), 0);
        for (number, key) in [(2, &first), (3, &second)] {
            let verdict = introduce(&mut publisher, &subscriber(key), number).verdict;
            assert_eq!(verdict, Verdict { topic: "t".to_owned(), node: 0, key: Some(key.public_key()) });
        }
        assert!(publisher.authorised(&topic()).eq([0]));
    }

    #[test]
    fn a_challenge_is_judged_once_in_time_and_only_on_its_connection() {
        let key = PrivateKey::generate();
        let (mut publisher, subscriber) = (publisher(&[&key]), subscriber(&key));
        let signature = subscriber.handle_challenge(OWN_ROUTE, &PAYLOAD).unwrap();
        let (now, ok) = (Instant::now(), ResultCode::OK);
        let challenge = |publisher: &mut PrivateTopics| {
            let body = certification(1);
            assert!(publisher.handle_certification(now, 0, body.as_bytes(), (SEQ, PAYLOAD)).is_some());
        };
        challenge(&mut publisher);
        assert!(publisher.handle_answer(now, 1, (&SEQ, ok), &signature).is_none(), "another connection");
        assert!(publisher.handle_answer(now, 0, (&[0; 32], ok), &signature).is_none(), "another seq");
        assert!(publisher.handle_answer(now, 0, (&SEQ, ok), &signature).is_some());
        assert!(publisher.handle_answer(now, 0, (&SEQ, ok), &signature).is_none(), "judged");
        challenge(&mut publisher);
        assert!(publisher.handle_answer(now + OPEN_FOR, 0, (&SEQ, ok), &signature).is_none(), "late");
        challenge(&mut publisher);
        assert!(publisher.handle_answer(now, 0, (&SEQ, ResultCode::TIMEOUT), b"").is_none(), "unanswered");
        challenge(&mut publisher);
        publisher.handle_down(0);
        assert!(publisher.handle_answer(now, 0, (&SEQ, ok), &signature).is_none(), "ended");
        for malformed in [&signature[..64], b"", &[0; 100]] {
            challenge(&mut publisher);
            let judged = publisher.handle_answer(now, 0, (&SEQ, ok), malformed).unwrap();
            assert_eq!(judged.verdict.key, None);
        }
    }

    #[test]
    fn only_a_challenge_under_the_own_route_topic_is_signed() {
        let subscriber = subscriber(&PrivateKey::generate());
        assert!(subscriber.handle_challenge(OWN_ROUTE, &PAYLOAD).is_some());
        assert!(subscriber.handle_challenge(&topic().route(&SEQ), &PAYLOAD).is_none());
        assert!(subscriber.handle_challenge(topic().data().as_str(), &PAYLOAD).is_none());
        assert!(subscriber.handle_challenge(OWN_ROUTE, &[0; CHALLENGE_LEN_MAX]).is_some());
        assert!(subscriber.handle_challenge(OWN_ROUTE, &[0; CHALLENGE_LEN_MAX + 1]).is_none());
    }

    #[test]
    fn who_does_not_publish_challenges_nobody() {
        let now = Instant::now();
        let mut publisher = publisher(&[&PrivateKey::generate()]);
        let certification = certification(1);
        for malformed in
            ["", "[]", "{}", &certification.replace("TopicNeedVerify_t\"", "TopicNeedVerify_u\"")]
        {
            let challenge = publisher.handle_certification(now, 0, malformed.as_bytes(), (SEQ, PAYLOAD));
            assert_eq!(challenge, None, "{malformed}");
        }
        assert!(publisher.unpublish(&topic()));
        assert_eq!(publisher.handle_certification(now, 0, certification.as_bytes(), (SEQ, PAYLOAD)), None);
    }

    #[test]
    fn open_challenges_are_bounded_and_end() {
        let mut publisher = publisher(&[&PrivateKey::generate()]);
        let now = Instant::now();
        let mut challenge = |now, number: usize| {
            let seq: Seq = std::array::from_fn(|i| (number >> (8 * (i % 4))) as u8);
            publisher.handle_certification(now, 0, certification(1).as_bytes(), (seq, PAYLOAD)).is_some()
        };
        assert!((0..OPEN_MAX).all(|number| challenge(now, number)));
        assert!(!challenge(now, OPEN_MAX));
        assert!(challenge(now + OPEN_FOR, OPEN_MAX));
    }

    #[test]
    fn names_are_those_of_all_roles_and_go_with_them() {
        let mut topics = subscriber(&PrivateKey::generate());
        let other = PrivateTopic::new("u").unwrap();
        topics.publish(other.clone(), vec![PrivateKey::generate().public_key()]);
        let names: Vec<String> = topics.names().collect();
        assert_eq!(names, ["#!$TopicNeedVerify_t", OWN_ROUTE, "#!$PushChannel_#!$TopicNeedVerify_u"]);
        assert!(topics.unsubscribe(&topic()) && !topics.unsubscribe(&topic()));
        assert!(topics.unpublish(&other) && !topics.unpublish(&other));
        assert_eq!(topics.names().count(), 0);
    }
}
