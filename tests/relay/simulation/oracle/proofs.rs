//! Who has proved which key to whom, and what may therefore be delivered (WIRE §4).
//!
//! What a node guarantees is a chain that the oracle watches link by link: the node asked a publisher about a
//! subscriber with a token (0x37); the publisher's challenge was carried to one session, once; that session
//! answered; the publisher accepted by that token, in time; the session has held the data topic, and the
//! publisher its marker, all the while. Behind the chain stands what it is for: an honest publisher's
//! message reaches sessions that have one of its keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amop::internal::wire::{
    ResultCode, TopicKind,
    sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
};
use serde_json::Value;

use super::{Message, Oracle, Verdict};
use crate::kit::{AppIndex, NodeIndex};

pub type Key = u8;

/// No challenge is open for longer, unless its subscriber is slow to take it …
const OPEN_FOR_MAX: Duration = Duration::from_secs(10);
/// … and then not for longer than this.
const OPEN_IN_ALL_MAX: Duration = Duration::from_secs(45);
/// So long after a publisher was asked its challenge is certainly open, where nothing is wrong.
const SURELY_OPEN: Duration = Duration::from_secs(4);
/// A payload goes to one session of a node, and to no other for a minute; as seen from outside, nearly.
const CARRIED_MEMORY: Duration = Duration::from_secs(59);

const DATA_PREFIX: &str = "#!$TopicNeedVerify_";

/// What private topics came to in a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// 0x37 that publishers got.
    pub asked: u64,
    /// Challenges that reached a session.
    pub carried: u64,
    pub accepted: u64,
    pub refused: u64,
    /// 0x38 of whoever was not asked, or was asked once and said so already, or was not asked lately.
    pub forged: u64,
    /// Messages with a data topic that reached a session.
    pub delivered: u64,
    /// Those that the documented limit let through: an honest subscriber of another node had signed.
    pub signed_elsewhere: u64,
    /// Pairs that had to be accepted at the end, and were.
    pub authorised: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.carried += other.carried;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.forged += other.forged;
        self.delivered += other.delivered;
        self.signed_elsewhere += other.signed_elsewhere;
        self.authorised += other.authorised;
    }
}

/// One 0x37 and what became of it.
struct Challenge {
    publisher: AppIndex,
    topic: String,
    asked: Instant,
    carried: Option<(AppIndex, Instant)>,
    /// Its publisher's own session asked, so the answer comes to its node.
    is_direct: bool,
    payload: Vec<u8>,
    answered: Option<Instant>,
    /// When the publisher's node had the answer for the session that asked.
    replied: Option<Instant>,
    verdict: Option<(bool, Instant)>,
}

impl Challenge {
    /// Since when the publisher has accepted whom it was carried to.
    fn accepted_since(&self) -> Option<Instant> {
        match self.verdict {
            Some((true, at)) => Some(at.max(self.answered?)),
            _ => None,
        }
    }

    /// Whether a verdict of now may count: with the answer the time for the verdict begins anew.
    fn may_be_open(&self, now: Instant) -> bool {
        let open_for = match (self.is_direct, self.replied, self.answered) {
            (true, Some(replied), _) if now >= replied + OPEN_FOR_MAX => OPEN_FOR_MAX,
            (true, ..) => OPEN_IN_ALL_MAX,
            // Whoever else carries it, no request of the publisher waits.
            (false, _, Some(answered)) if answered < self.asked + OPEN_FOR_MAX => 2 * OPEN_FOR_MAX,
            (false, ..) => OPEN_FOR_MAX,
        };
        now < self.asked + open_for
    }
}

#[derive(Default)]
pub struct Proofs {
    pub tally: Tally,
    challenges: Vec<Challenge>,
    by_token: BTreeMap<String, usize>,
    by_route: BTreeMap<String, usize>,
    /// Challenges of a publisher that were carried to a session.
    by_pair: BTreeMap<(AppIndex, AppIndex), Vec<usize>>,
    /// Challenges that a session has not answered.
    waiting: BTreeMap<(AppIndex, Seq), usize>,
    /// To whom each payload was carried.
    payloads: BTreeMap<Vec<u8>, Vec<(AppIndex, NodeIndex, Instant)>>,
    /// What each session signs with.
    signs: BTreeMap<AppIndex, Vec<(Instant, Option<Key>)>>,
    /// Keys that honest publishers have configured.
    accepts: BTreeMap<AppIndex, Vec<(Instant, BTreeSet<Key>)>>,
}

/// What was set at some time between two.
fn in_time<T>(list: Option<&Vec<(Instant, T)>>, from: Instant, to: Instant) -> impl Iterator<Item = &T> {
    let list = list.map_or(&[][..], Vec::as_slice);
    list.iter().enumerate().filter_map(move |(index, (since, value))| {
        let until = list.get(index + 1).map(|(next, _)| *next);
        (*since <= to && until.is_none_or(|until| until >= from)).then_some(value)
    })
}

/// The marker of a data topic.
pub fn marker_of(topic: &str) -> String {
    format!("#!$PushChannel_{topic}")
}

/// A frame with its topic changed.
fn under_topic(frame: &[u8], topic: &str) -> Option<Vec<u8>> {
    let header = Header::decode(frame)?;
    let body = AmopBody::decode(&frame[HEADER_LEN..]).ok()?;
    let payload = &frame[HEADER_LEN + body.payload_offset..];
    Some(sdk::encode_amop(header.frame_type, &header.seq, header.result, topic, payload))
}

/// Whether an answer is a reply as it must come back: with the topic that was asked for.
pub fn is_reply(message: &Message, reply: &[u8], answer: &[u8]) -> bool {
    match TopicKind::of(message.topic.as_bytes()) {
        TopicKind::Route => under_topic(reply, &message.topic).is_some_and(|reply| reply == answer),
        _ => reply == answer,
    }
}

impl Oracle {
    /// What a session signs with from now on.
    pub fn signs_with(&mut self, now: Instant, app: AppIndex, key: Option<Key>) {
        self.proofs.signs.entry(app).or_default().push((now, key));
    }

    /// An honest publisher accepts these keys from now on, and nothing else.
    pub fn accepts(&mut self, now: Instant, app: AppIndex, keys: &[Key]) {
        self.proofs.accepts.entry(app).or_default().push((now, keys.iter().copied().collect()));
    }

    /// A node asks a publisher to challenge somebody.
    pub(super) fn asked(&mut self, now: Instant, app: AppIndex, bytes: &[u8]) -> Verdict {
        let value: Value = serde_json::from_slice(&bytes[HEADER_LEN..]).map_err(|error| error.to_string())?;
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let (token, topic, route) = (field("nodeId"), field("topic"), field("topicForCert"));
        let what = format!("app{app} is asked about {topic}");
        hold!(token.len() == 128, "{what} with a node id of {} digits", token.len());
        hold!(topic.starts_with(DATA_PREFIX), "{what}");
        hold!(self.may_have(app, &marker_of(&topic), now), "{what}, which it does not publish");
        let number = self.proofs.challenges.len();
        hold!(self.proofs.by_token.insert(token, number).is_none(), "{what} with a token of before");
        hold!(self.proofs.by_route.insert(route, number).is_none(), "{what} with a route of before");
        self.proofs.challenges.push(Challenge {
            publisher: app,
            topic,
            asked: now,
            carried: None,
            is_direct: false,
            payload: Vec::new(),
            answered: None,
            replied: None,
            verdict: None,
        });
        self.proofs.tally.asked += 1;
        Ok(())
    }

    /// A challenge reaches a session.
    pub(super) fn carried(&mut self, now: Instant, app: AppIndex, number: usize, bytes: &[u8]) -> Verdict {
        let what = format!("app{app} gets the challenge of message {number}");
        let message = &self.messages[number];
        let Some(&index) = self.proofs.by_route.get(&message.topic) else {
            return Err(format!("{what}, though nobody was asked to send it"));
        };
        let challenge = &self.proofs.challenges[index];
        hold!(challenge.carried.is_none(), "{what}, which was carried before");
        let late = OPEN_FOR_MAX + self.longest_freeze() + self.rules.known_after();
        hold!(now <= challenge.asked + late, "{what} when its time is over");
        hold!(message.from != app, "{what}, its own");
        let body = AmopBody::decode(&bytes[HEADER_LEN..]).map_err(|_| format!("{what}, broken"))?;
        let prefix = format!("#!$VerifyChannel_{}_", challenge.topic);
        let own = body.topic;
        hold!(own.starts_with(&prefix) && own != message.topic, "{what} under {own}");
        hold!(self.may_have(app, own, now), "{what} under the route topic {own} of another one");
        hold!(self.may_have(app, &challenge.topic, now), "{what} without the data topic");
        hold!(under_topic(&message.frame, own).is_some_and(|frame| frame == bytes), "{what}, altered");
        let payload = bytes[HEADER_LEN + body.payload_offset..].to_vec();
        let (from, seq, node) = (message.from, message.seq, self.apps[app].node);
        for &(other, there, at) in self.proofs.payloads.get(&payload).into_iter().flatten() {
            let handed_on = other != app && there == node && now < at + CARRIED_MEMORY;
            hold!(
                !handed_on || self.is_disturbed(node, node, at, now),
                "{what} with a payload that app{other} of its node got"
            );
        }
        let proofs = &mut self.proofs;
        proofs.payloads.entry(payload.clone()).or_default().push((app, node, now));
        let challenge = &mut proofs.challenges[index];
        challenge.payload = payload;
        challenge.carried = Some((app, now));
        challenge.is_direct = from == challenge.publisher;
        proofs.by_pair.entry((challenge.publisher, app)).or_default().push(index);
        proofs.waiting.insert((app, seq), index);
        proofs.tally.carried += 1;
        Ok(())
    }

    /// A session has sent a 0x31.
    pub(super) fn answered_challenge(&mut self, now: Instant, app: AppIndex, seq: Seq) {
        if let Some(index) = self.proofs.waiting.remove(&(app, seq)) {
            self.proofs.challenges[index].answered = Some(now);
        }
    }

    /// An application gets an answer of another one.
    pub(super) fn replied(&mut self, now: Instant, number: usize) {
        let Some(&index) = self.proofs.by_route.get(&self.messages[number].topic) else { return };
        let challenge = &mut self.proofs.challenges[index];
        if challenge.is_direct {
            challenge.replied.get_or_insert(now);
        }
    }

    /// A session has sent a 0x38.
    pub(super) fn judged(&mut self, now: Instant, app: AppIndex, bytes: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(&bytes[HEADER_LEN..]) else { return };
        let proofs = &mut self.proofs;
        let token = value["nodeId"].as_str().unwrap_or_default();
        let challenge = proofs.by_token.get(token).map(|&index| &mut proofs.challenges[index]);
        let Some(challenge) = challenge.filter(|challenge| {
            challenge.publisher == app
                && challenge.topic == value["topic"].as_str().unwrap_or_default()
                && challenge.verdict.is_none()
                && challenge.may_be_open(now)
        }) else {
            proofs.tally.forged += 1;
            return;
        };
        let accepts = value["checkResult"] == 0;
        challenge.verdict = Some((accepts, now));
        match accepts {
            true => proofs.tally.accepted += 1,
            false => proofs.tally.refused += 1,
        }
    }

    /// Whether a session may get a message with a private topic.
    pub(super) fn check_entitled(&mut self, app: AppIndex, number: usize, now: Instant) -> Verdict {
        let message = &self.messages[number];
        let (sent, _) = message.taken.ok_or("a message before it was sent")?;
        let publisher = message.from;
        let what = format!("app{app} gets message {number} of app{publisher} with the private topic");
        let publishes_since = message.published_since;
        let holds_since = self.holds_since(app, &message.topic, now);
        let refused = self.pairs(publisher, app, &message.topic).filter_map(|challenge| {
            let (accepts, at) = challenge.verdict?;
            // Whoever drops the topic and takes it again is asked anew: what is said of the time before is over.
            let is_of_now =
                holds_since.is_some_and(|since| challenge.carried.is_some_and(|(_, at)| since <= at));
            (!accepts && at < sent && is_of_now && self.is_surely_open(challenge, app, at)).then_some(at)
        });
        let refused = refused.max();
        let mut why = "having proved nothing to it";
        let mut by_others = false;
        let mut entitled = false;
        for challenge in self.pairs(publisher, app, &message.topic) {
            let Some(accepted) = challenge.accepted_since() else { continue };
            let Some((_, carried)) = challenge.carried else { continue };
            if holds_since.is_none_or(|since| since > carried) {
                why = "having dropped the topic since its proof";
            } else if publishes_since.is_none_or(|since| since > challenge.asked) {
                why = "accepted by a publisher that has dropped its marker since";
            } else if refused.is_some_and(|refused| refused > accepted) {
                why = "having been refused since";
            } else {
                match self.whose_key(challenge, app) {
                    Some(elsewhere) => {
                        entitled = true;
                        by_others = elsewhere;
                        break;
                    }
                    None => why = "having none of its keys",
                }
            }
        }
        hold!(entitled, "{what}, {why}");
        self.proofs.tally.delivered += 1;
        self.proofs.tally.signed_elsewhere += u64::from(by_others);
        Ok(())
    }

    /// Whether the session that answered had one of the publisher's keys: `Some(true)` if it had not, but a
    /// session of another node that did was asked the same. `None` if neither.
    fn whose_key(&self, challenge: &Challenge, app: AppIndex) -> Option<bool> {
        let Some(accepts) = self.proofs.accepts.get(&challenge.publisher) else {
            // It accepts anybody.
            return Some(false);
        };
        let (_, carried) = challenge.carried?;
        let (_, judged) = challenge.verdict?;
        let keys: BTreeSet<Key> =
            in_time(Some(accepts), challenge.asked, judged).flatten().copied().collect();
        let has_one = |app: AppIndex, from: Instant| {
            let mut signs = in_time(self.proofs.signs.get(&app), from, judged).flatten();
            signs.any(|key| keys.contains(key))
        };
        if has_one(app, carried) {
            return Some(false);
        }
        let node = self.apps[app].node;
        let mut others = self.proofs.payloads.get(&challenge.payload).into_iter().flatten();
        others.any(|&(other, there, at)| there != node && has_one(other, at)).then_some(true)
    }

    fn pairs<'a>(
        &'a self,
        publisher: AppIndex,
        app: AppIndex,
        topic: &'a str,
    ) -> impl Iterator<Item = &'a Challenge> {
        let indices = self.proofs.by_pair.get(&(publisher, app)).into_iter().flatten();
        indices.map(|&index| &self.proofs.challenges[index]).filter(move |one| one.topic == topic)
    }

    fn is_surely_open(&self, challenge: &Challenge, app: AppIndex, at: Instant) -> bool {
        let (here, there) = (self.apps[challenge.publisher].node, self.apps[app].node);
        // It is open as long as its request waits, and then for the verdict.
        let waited_for = challenge.replied.filter(|_| at < challenge.asked + OPEN_IN_ALL_MAX - SURELY_OPEN);
        at < waited_for.unwrap_or(challenge.asked) + SURELY_OPEN
            && !self.is_disturbed(here, there, challenge.asked, at)
    }

    /// Whether a publisher's node certainly lets a session have its messages, from one time to another.
    pub fn is_surely_accepted(
        &self,
        publisher: AppIndex,
        app: AppIndex,
        topic: &str,
        from: Instant,
        to: Instant,
    ) -> bool {
        let (here, there) = (self.apps[publisher].node, self.apps[app].node);
        let Some(holds_since) = self.holds_since(app, topic, to) else { return false };
        let Some(publishes_since) = self.holds_since(publisher, &marker_of(topic), to) else { return false };
        let last = self.pairs(publisher, app, topic).filter(|one| one.verdict.is_some()).last();
        let Some((challenge, accepted)) = last.and_then(|one| Some((one, one.accepted_since()?))) else {
            return false;
        };
        let (_, carried) = challenge.carried.expect("it is one of a pair");
        // An answer goes around what was disturbed.
        accepted + self.rules.known_after() + self.slack(challenge.asked, from) <= from
            && holds_since <= carried
            && publishes_since <= challenge.asked
            && self.is_surely_open(challenge, app, accepted)
            // What a node tells another one of an answer that does not go there is told once, and may be altered on the way.
            && (challenge.is_direct
                || !self.rules.hostile && self.faults_in(challenge.asked, accepted).next().is_none())
            && !self.is_disturbed(here, there, challenge.asked, to)
    }

    /// Since when an application has had a topic without a break that its node must have seen.
    pub(super) fn holds_since(&self, app: AppIndex, topic: &str, at: Instant) -> Option<Instant> {
        let mut since = None;
        for (from, set) in self.apps[app].sets.iter().rev().filter(|(from, _)| *from <= at) {
            if set.contains(topic) {
                since = Some(*from);
            } else if !self.apps[app].may_be_skipped.contains(from) {
                break;
            }
        }
        since
    }

    /// Whether an application has a topic, and has had it for a while.
    pub fn has_settled_with(&self, now: Instant, app: AppIndex, topic: &str) -> bool {
        self.apps[app].closed.is_none() && self.held(app, topic, now - 2 * self.rules.known_after(), now)
    }

    /// Messages with a topic that is never routed, or to a route topic that nobody was asked about.
    pub(super) fn leads_nowhere(&self, message: &Message) -> bool {
        match TopicKind::of(message.topic.as_bytes()) {
            TopicKind::Ordinary => false,
            TopicKind::Data => self.holds_since_ever(message.from, &marker_of(&message.topic)).is_none(),
            TopicKind::Route => !self.proofs.by_route.contains_key(&message.topic),
            TopicKind::Marker | TopicKind::BlockNotify => true,
        }
    }

    fn holds_since_ever(&self, app: AppIndex, topic: &str) -> Option<Instant> {
        self.apps[app].sets.iter().find(|(_, set)| set.contains(topic)).map(|(since, _)| *since)
    }
}

/// A 0x38.
pub fn verdict(seq: &Seq, result: i32, token: &str, topic: &str) -> Vec<u8> {
    let body = serde_json::json!({"checkResult": result, "nodeId": token, "topic": topic}).to_string();
    sdk::encode(FrameType::TOPIC_STATUS, seq, ResultCode::OK, body.as_bytes())
}
