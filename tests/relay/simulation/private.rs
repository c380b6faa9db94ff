//! Private topics in a simulated network (WIRE §4): applications that prove keys, that only try to look so,
//! and publishers that ask them.
//!
//! A signature is a keyed hash behind the first eight bytes of what is signed, so that the oracle can tell
//! which message it is about. Only who has the key can make it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use amop::internal::wire::{
    ResultCode,
    sdk::{self, AmopBody, FrameType, HEADER_LEN, Header, Seq},
};
use rand::RngExt;

use super::{
    oracle::{
        Verdict,
        proofs::{self, Key, marker_of},
    },
    world::{Action, Character, TOPICS, World},
};
use crate::kit::AppIndex;

pub(super) const DATA: [&str; 2] = ["#!$TopicNeedVerify_secret", "#!$TopicNeedVerify_vault"];
/// Keys that publishers may accept.
const KEYS: [Key; 2] = [1, 2];
/// One that nobody accepts.
const FOREIGN_KEY: Key = 9;
/// After all publishers have subscribed anew, every subscriber with a key is accepted within this: what is
/// open must end before it is asked again, and one challenge may be lost.
pub(super) const AUTHORISED_WITHIN: Duration = Duration::from_secs(18);
/// What was asked lately, for those who forge and replay.
const LATELY: usize = 16;

/// What an application is to private topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Signs challenges with its key and renews its uuid now and then.
    Holder,
    /// Has a key and never answers a challenge.
    Mute,
    /// Drops its topics again and again and takes them anew, with another key or without.
    Dropper,
    /// Has no key and subscribes to others' own route topics.
    Thief,
    /// Has no key, and has others sign what it is asked to.
    Relay,
    /// Challenges everybody and accepts who signs with one of its keys.
    Publisher,
    /// Accepts everybody it is asked about, unseen.
    Hasty,
    /// Sends verdicts for challenges of others.
    Forger,
}

/// A 0x37.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    token: String,
    topic: String,
    route: String,
}

#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) role: Role,
    key: Option<Key>,
    topics: Vec<&'static str>,
    uuid: u128,
    /// Route topics that it has had.
    routes: BTreeSet<String>,
    /// What a publisher accepts.
    accepts: Vec<Key>,
    /// What it was asked lately.
    asked: Vec<Asked>,
    /// What it has judged already.
    judged: Vec<Asked>,
}

#[derive(Default)]
pub(super) struct Private {
    pub(super) parts: BTreeMap<AppIndex, Part>,
    /// Challenges on their way: who sent them under which seq, for which publisher.
    challenges: BTreeMap<(AppIndex, Seq), (AppIndex, Asked, Vec<u8>)>,
    /// Challenges that were handed on: what the one who did so owes its own publisher.
    handed_on: BTreeMap<(AppIndex, Seq), (Seq, String)>,
    /// What anybody was asked lately.
    lately: Vec<Asked>,
}

fn sign(key: Key, payload: &[u8]) -> Vec<u8> {
    let hash = blake3::keyed_hash(&[key; 32], payload);
    [&payload[..payload.len().min(8)], hash.as_bytes()].concat()
}

fn route(topic: &str, uuid: u128) -> String {
    format!("#!$VerifyChannel_{topic}_{uuid:032x}")
}

fn note(list: &mut Vec<Asked>, asked: Asked) {
    list.push(asked);
    if list.len() > LATELY {
        list.remove(0);
    }
}

impl World {
    /// An application takes a role.
    pub(super) fn take_role(&mut self, app: AppIndex) {
        let role = match self.rng.random_range(0..20) {
            0..=5 => Role::Holder,
            6 => Role::Mute,
            7..=8 => Role::Dropper,
            9 => Role::Thief,
            10..=11 => Role::Relay,
            12..=17 => Role::Publisher,
            18 => Role::Hasty,
            _ => Role::Forger,
        };
        let topics = match self.rng.random_range(0..6) {
            0 => DATA.to_vec(),
            1 => vec![DATA[1]],
            _ => vec![DATA[0]],
        };
        self.begin_role(app, role, topics);
        if matches!(role, Role::Holder | Role::Mute | Role::Dropper) {
            self.draw_key(app);
        }
        if role == Role::Publisher {
            self.draw_accepted(app);
        }
        let part = &self.private.parts[&app];
        let what = (part.role, part.key, part.accepts.clone());
        self.say(|| format!("app{app} is, to private topics, {what:?}"));
        self.take_private_topics(app);
    }

    fn begin_role(&mut self, app: AppIndex, role: Role, topics: Vec<&'static str>) {
        let part = Part {
            role,
            key: None,
            topics,
            uuid: self.rng.random(),
            routes: BTreeSet::new(),
            accepts: Vec::new(),
            asked: Vec::new(),
            judged: Vec::new(),
        };
        self.private.parts.insert(app, part);
    }

    fn part(&mut self, app: AppIndex) -> &mut Part {
        self.private.parts.get_mut(&app).expect("it has a role")
    }

    fn draw_key(&mut self, app: AppIndex) {
        let key = match self.rng.random_range(0..8) {
            0 => None,
            1 => Some(FOREIGN_KEY),
            _ => Some(KEYS[self.rng.random_range(0..KEYS.len())]),
        };
        self.part(app).key = key;
        self.oracle.signs_with(self.net.now, app, key);
    }

    fn draw_accepted(&mut self, app: AppIndex) {
        let accepts = match self.rng.random_range(0..3) {
            0 => KEYS.to_vec(),
            _ => vec![KEYS[self.rng.random_range(0..KEYS.len())]],
        };
        self.part(app).accepts.clone_from(&accepts);
        self.oracle.accepts(self.net.now, app, &accepts);
    }

    /// Subscribes to what its role needs.
    pub(super) fn take_private_topics(&mut self, app: AppIndex) {
        let part = self.private.parts[&app].clone();
        let mut topics: Vec<String> = Vec::new();
        let data = part.topics.iter().map(|&topic| topic.to_owned());
        let markers = part.topics.iter().map(|topic| marker_of(topic));
        let routes: Vec<String> = part.topics.iter().map(|topic| route(topic, part.uuid)).collect();
        match part.role {
            Role::Holder | Role::Mute | Role::Dropper | Role::Thief => topics.extend(data),
            Role::Relay => topics.extend(data.chain(markers)),
            Role::Publisher | Role::Hasty | Role::Forger => topics.extend(markers),
        }
        match part.role {
            Role::Thief => {
                let victims: Vec<String> = self
                    .private
                    .parts
                    .iter()
                    .filter(|&(&other, _)| other != app && !self.net.apps[other].closed)
                    .flat_map(|(_, part)| &part.routes)
                    .cloned()
                    .collect();
                topics.extend(victims.into_iter().rev().take(6));
                topics.extend(routes.iter().cloned());
            }
            Role::Holder | Role::Mute | Role::Dropper | Role::Relay => topics.extend(routes.iter().cloned()),
            _ => {}
        }
        if self.rng.random_bool(0.3) {
            topics.push(TOPICS[self.rng.random_range(0..3)].to_owned());
        }
        self.part(app).routes.extend(routes);
        let body = serde_json::to_vec(&topics).expect("strings");
        self.net.frame(app, FrameType::SUBSCRIBE, &body);
    }

    /// What an application does of its own accord.
    pub(super) fn play_role(&mut self, app: AppIndex) {
        if self.net.apps[app].closed || self.calm {
            return;
        }
        let part = self.private.parts[&app].clone();
        match part.role {
            Role::Holder | Role::Mute | Role::Relay | Role::Thief => {
                self.part(app).uuid = self.rng.random();
                self.take_private_topics(app);
            }
            Role::Dropper => {
                self.net.frame(app, FrameType::SUBSCRIBE, b"[]");
                self.draw_key(app);
                let pause = self.millis(0..30);
                self.after(pause, Action::TakePrivateTopics(app));
            }
            Role::Publisher | Role::Hasty => {
                match self.rng.random_range(0..4) {
                    0 => self.net.frame(app, FrameType::SUBSCRIBE, b"[]"),
                    1 => [0; 32],
                    _ => {
                        if part.role == Role::Publisher {
                            self.draw_accepted(app);
                        }
                        [0; 32]
                    }
                };
                self.take_private_topics(app);
                if let Some(old) = part.judged.last() {
                    self.send_verdict(app, 0, &old.clone());
                }
            }
            Role::Forger => {
                for asked in self.private.lately.clone() {
                    self.send_verdict(app, 0, &asked);
                }
            }
        }
        let pause = match part.role {
            Role::Forger => self.millis(50..2_000),
            _ => self.millis(1_000..25_000),
        };
        self.after(pause, Action::PlayRole(app));
    }

    /// The topics that an application publishes most to.
    pub(super) fn favourite_topic(&mut self, app: AppIndex) -> Option<&'static str> {
        let topics = &self.private.parts.get(&app)?.topics;
        let topic = topics[self.rng.random_range(0..topics.len())];
        self.rng.random_bool(0.8).then_some(topic)
    }

    fn send_verdict(&mut self, app: AppIndex, result: i32, asked: &Asked) {
        let seq = self.net.seq();
        self.net.bytes(app, proofs::verdict(&seq, result, &asked.token, &asked.topic));
    }

    /// A frame that has to do with private topics has reached an application. `false` if it has not.
    pub(super) fn delivered_private(&mut self, app: AppIndex, header: &Header, bytes: &[u8]) -> bool {
        match header.frame_type {
            FrameType::TOPIC_CERTIFICATION => {
                let value: serde_json::Value =
                    serde_json::from_slice(&bytes[HEADER_LEN..]).expect("the oracle has read it");
                let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
                let asked =
                    Asked { token: field("nodeId"), topic: field("topic"), route: field("topicForCert") };
                self.was_asked(app, header, asked);
                true
            }
            FrameType::RESPONSE => {
                self.challenge_came_back(app, header, bytes);
                true
            }
            FrameType::REQUEST => {
                let Ok(body) = AmopBody::decode(&bytes[HEADER_LEN..]) else { return false };
                let is_challenge = body.topic.starts_with("#!$VerifyChannel_");
                if is_challenge {
                    let payload = bytes[HEADER_LEN + body.payload_offset..].to_vec();
                    self.was_challenged(app, &header.seq, body.topic, &payload);
                }
                is_challenge
            }
            _ => false,
        }
    }

    fn was_asked(&mut self, app: AppIndex, header: &Header, asked: Asked) {
        let Some(part) = self.private.parts.get(&app) else { return };
        let role = part.role;
        // As Java acknowledges, as Go does, or not at all.
        match self.rng.random_range(0..3) {
            0 => self
                .net
                .bytes(app, sdk::encode(FrameType::TOPIC_CERTIFICATION, &header.seq, ResultCode::OK, b"")),
            1 => {
                let topic = format!("#!$VerifyChannel_{}", asked.route);
                let frame = sdk::encode_amop(FrameType::RESPONSE, &header.seq, ResultCode::OK, &topic, b"");
                self.net.bytes(app, frame);
            }
            _ => {}
        }
        note(&mut self.part(app).asked, asked.clone());
        note(&mut self.private.lately, asked.clone());
        if self.ending {
            return;
        }
        match role {
            Role::Publisher => {
                // An SDK may be connected to several nodes, and asks through any.
                let sender = match self.rng.random_bool(0.2) && !self.calm {
                    true => self.rng.random_range(0..self.net.apps.len()),
                    false => app,
                };
                let pause = self.millis(0..60);
                self.after(pause, Action::Challenge { sender, publisher: app, asked });
            }
            Role::Hasty => {
                self.send_verdict(app, 0, &asked);
                if self.rng.random_bool(0.3) {
                    self.challenge(app, app, asked);
                }
            }
            _ => {}
        }
    }

    pub(super) fn challenge(&mut self, sender: AppIndex, publisher: AppIndex, asked: Asked) {
        if self.net.apps[sender].closed || self.net.apps[publisher].closed || self.ending {
            return;
        }
        let number = self.oracle.messages.len() as u64;
        let random: u64 = self.rng.random();
        let payload = [number, random].map(u64::to_be_bytes).concat();
        let seq = self.send_challenge(sender, &asked.route, &payload);
        self.private.challenges.insert((sender, seq), (publisher, asked, payload));
    }

    fn send_challenge(&mut self, sender: AppIndex, route: &str, payload: &[u8]) -> Seq {
        let seq = self.net.seq();
        let number = self.oracle.add_message(sender, seq, route, false);
        let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, route, payload);
        self.oracle.messages[number].frame = frame.clone();
        if payload[..8] != (number as u64).to_be_bytes() {
            self.oracle.hands_on(number);
        }
        self.net.bytes(sender, frame);
        seq
    }

    fn was_challenged(&mut self, app: AppIndex, seq: &Seq, own: &str, payload: &[u8]) {
        let Some(part) = self.private.parts.get(&app).cloned() else { return };
        let signature = match (part.role, part.key) {
            (Role::Holder | Role::Dropper, Some(key)) if part.routes.contains(own) => sign(key, payload),
            (Role::Relay, _) => {
                // Whoever it was asked about last signs for it.
                let towards = part.asked.iter().rev().find(|asked| own.contains(&asked.topic)).cloned();
                if let Some(towards) = towards.filter(|_| !self.ending) {
                    let handed = self.send_challenge(app, &towards.route, payload);
                    self.private.handed_on.insert((app, handed), (*seq, own.to_owned()));
                }
                return;
            }
            (Role::Thief, _) => sign(FOREIGN_KEY, payload),
            _ if self.rng.random_bool(0.3) => payload.to_vec(),
            _ => return,
        };
        let frame = sdk::encode_amop(FrameType::RESPONSE, seq, ResultCode::OK, own, &signature);
        let delay = self.millis(0..200);
        self.after(delay, Action::Reply { app, frame });
    }

    fn challenge_came_back(&mut self, app: AppIndex, header: &Header, bytes: &[u8]) {
        let body = AmopBody::decode(&bytes[HEADER_LEN..]);
        if let Some((seq, own)) = self.private.handed_on.remove(&(app, header.seq)) {
            let Ok(body) = body else { return };
            let signature = &bytes[HEADER_LEN + body.payload_offset..];
            let frame = sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, &own, signature);
            self.net.bytes(app, frame);
            return;
        }
        let Some((publisher, asked, payload)) = self.private.challenges.remove(&(app, header.seq)) else {
            return;
        };
        // SDKs say nothing when something went wrong.
        let Ok(body) = body else { return };
        if self.net.apps[publisher].closed {
            return;
        }
        let signature = &bytes[HEADER_LEN + body.payload_offset..];
        let part = self.part(publisher);
        let is_good =
            part.role == Role::Hasty || part.accepts.iter().any(|&key| sign(key, &payload) == signature);
        note(&mut part.judged, asked.clone());
        self.send_verdict(publisher, if is_good { 0 } else { -1 }, &asked);
        if self.rng.random_bool(0.1) {
            // It says so again, and now the contrary.
            self.send_verdict(publisher, if is_good { 1 } else { 0 }, &asked);
        }
    }

    /// Everywhere comes a publisher and somebody with its key; and all publishers subscribe anew, which has
    /// everybody challenged.
    pub(super) fn renew_publishers(&mut self) {
        for node in 0..self.net.nodes.len() {
            for role in [Role::Holder, Role::Publisher] {
                let app = self.arrive(node, Character::Good);
                self.begin_role(app, role, vec![DATA[0]]);
                let key = KEYS[0];
                if role == Role::Holder {
                    self.part(app).key = Some(key);
                    self.oracle.signs_with(self.net.now, app, Some(key));
                    self.take_private_topics(app);
                } else {
                    self.part(app).accepts = vec![key];
                    self.oracle.accepts(self.net.now, app, &[key]);
                }
            }
        }
        for app in self.open_apps(|part| matches!(part.role, Role::Publisher)) {
            self.take_private_topics(app);
        }
    }

    fn open_apps(&self, is_wanted: impl Fn(&Part) -> bool) -> Vec<AppIndex> {
        let parts = self.private.parts.iter().filter(|(_, part)| is_wanted(part));
        let apps = parts.map(|(&app, _)| app);
        apps.filter(|&app| !self.net.apps[app].closed && self.characters[app] != Character::Deaf).collect()
    }

    /// With nothing wrong for long enough, whoever has a publisher's key is accepted by it.
    pub(super) fn check_authorised(&mut self) -> Verdict {
        let now = self.net.now;
        if self.oracle.rules.tight || self.oracle.rules.limited {
            return Ok(());
        }
        for publisher in self.open_apps(|part| part.role == Role::Publisher) {
            let accepts = self.private.parts[&publisher].accepts.clone();
            let is_keyed = |part: &Part| {
                matches!(part.role, Role::Holder | Role::Dropper)
                    && part.key.is_some_and(|key| accepts.contains(&key))
            };
            for app in self.open_apps(is_keyed) {
                for topic in DATA {
                    if self.oracle.has_settled_with(now, publisher, &marker_of(topic))
                        && self.oracle.has_settled_with(now, app, topic)
                    {
                        let is_accepted = self.oracle.is_surely_accepted(publisher, app, topic, now, now);
                        // Challenges that a node alters are sent again, later and later; and one that waits behind long
                        // messages is not there yet.
                        let excused = self.oracle.rules.hostile || self.oracle.has_yet_to_read(app);
                        if !is_accepted && !excused {
                            return Err(format!(
                                "app{app} has a key of app{publisher} and is not accepted for {topic}"
                            ));
                        }
                        self.oracle.proofs.tally.authorised += u64::from(is_accepted);
                    }
                }
            }
        }
        Ok(())
    }

    /// Every publisher sends once more, now that nothing is wrong.
    pub(super) fn publish_in_private(&mut self) {
        for app in self.open_apps(|part| !matches!(part.role, Role::Thief | Role::Mute)) {
            for topic in DATA {
                self.publish(app, topic, false);
                self.publish(app, topic, true);
            }
        }
    }
}
