//! JSON bodies of the SDK link: handshake, heartbeat, subscription, private topics (WIRE §1.3, §1.4,
//! §1.6, §4).

use std::{borrow::Cow, collections::BTreeSet};

use serde::{
    Deserializer as _,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{NodeId, hex, topic::Topic};

/// Newest protocol version of the SDK link that the node speaks.
pub const PROTOCOL_MAX: u32 = 3;
/// Oldest protocol version of the SDK link that the node speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The version of FISCO BCOS that the node presents itself as.
pub const NODE_VERSION: &str = "2.10.2";
/// `clientType` of this project's own client.
pub const OWN_CLIENT_TYPE: &str = "amop";
/// Field of the handshake by which our own client allows records to be shared between frames.
pub const SHARED_RECORDS_FIELD: &str = "sharedRecords";

/// Body of a handshake request (WIRE §1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeRequest {
    /// Oldest protocol that the client speaks.
    pub minimum: u32,
    /// Newest protocol that the client speaks.
    pub maximum: u32,
    /// The client's name for itself, at most 64 characters of it.
    pub client_type: String,
    /// Whether the client reads frames independently of TLS records.
    pub shared_records: bool,
}

impl HandshakeRequest {
    /// What a malformed body counts as: protocol 1.
    pub const EMPTY: Self =
        Self { minimum: 1, maximum: 1, client_type: String::new(), shared_records: false };

    /// Reads a body; `None` if it is malformed.
    pub fn decode(body: &[u8]) -> Option<Self> {
        Self::from_value(&serde_json::from_slice(body).ok()?)
    }

    fn from_value(value: &Value) -> Option<Self> {
        let fields = value.as_object()?;
        let number = |name: &str| match fields.get(name) {
            None => Some(1),
            Some(value) => value.as_u64().map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
        };
        let client_type = match fields.get("clientType") {
            None => String::new(),
            Some(value) => value.as_str()?.chars().take(64).collect(),
        };
        let shared_records = client_type == OWN_CLIENT_TYPE
            && fields.get(SHARED_RECORDS_FIELD).and_then(Value::as_bool).unwrap_or(false);
        Some(Self {
            minimum: number("minimumSupport")?,
            maximum: number("maximumSupport")?,
            client_type,
            shared_records,
        })
    }

    /// The protocol to speak; `None` if the ranges are disjoint.
    pub fn negotiate(&self) -> Option<u32> {
        (self.minimum <= self.maximum && self.minimum <= PROTOCOL_MAX && self.maximum >= PROTOCOL_MIN)
            .then(|| self.maximum.min(PROTOCOL_MAX))
    }
}

/// Field of the answer to our own client's handshake: the longest frame that the node takes, in bytes.
const FRAME_LEN_MAX_FIELD: &str = "frameLengthMax";

/// Body of the answer to a handshake; our own client is told how long frames may be.
pub fn handshake_answer(protocol: u32, frame_len_max: Option<usize>) -> String {
    let bound = frame_len_max.map_or_else(String::new, |max| format!(",\"{FRAME_LEN_MAX_FIELD}\":{max}"));
    format!("{{\"nodeVersion\":\"{NODE_VERSION}\",\"protocol\":{protocol}{bound}}}\n")
}

/// The longest frame that a node takes, as it said in its answer to a handshake.
pub fn frame_len_max_of(answer: &[u8]) -> Option<usize> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    answer.get(FRAME_LEN_MAX_FIELD)?.as_u64()?.try_into().ok()
}

/// Newest protocol version of FISCO BCOS 3.x that the node speaks.
pub const PROTOCOL_3X_MAX: u32 = 1;
/// Oldest one. An SDK takes 0 for no handshake at all.
pub const PROTOCOL_3X_MIN: u32 = 1;

/// Body of a handshake request of an application of FISCO BCOS 3.x (INTEROP §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake3x {
    /// Oldest protocol that it speaks.
    pub minimum: u32,
    /// Newest protocol that it speaks.
    pub maximum: u32,
}

impl Handshake3x {
    /// Reads a body; `None` if it is malformed.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let number = |name: &str| Some(u32::try_from(value.get(name)?.as_u64()?).unwrap_or(u32::MAX));
        Some(Self { minimum: number("minVersion")?, maximum: number("maxVersion")? })
    }

    /// The body itself, as SDKs send it.
    pub fn encode(&self) -> String {
        let Self { minimum, maximum } = self;
        format!("{{\"maxVersion\":{maximum},\"minVersion\":{minimum},\"moduleID\":2}}\n")
    }

    /// The protocol to speak; `None` if the ranges are disjoint.
    pub fn negotiate(&self) -> Option<u32> {
        (self.minimum <= self.maximum && self.minimum <= PROTOCOL_3X_MAX && self.maximum >= PROTOCOL_3X_MIN)
            .then(|| self.maximum.min(PROTOCOL_3X_MAX))
    }

    /// Body of the answer: a node without a ledger has no groups.
    pub fn answer(protocol: u32) -> String {
        format!("{{\"groupInfoList\":[],\"protocolVersion\":{protocol}}}\n")
    }

    /// The protocol that an answer names.
    pub fn protocol_of(answer: &[u8]) -> Option<u32> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        answer.get("protocolVersion")?.as_u64()?.try_into().ok()
    }
}

/// Body of the answer to a heartbeat in protocol 2 and 3.
pub const HEARTBEAT_ANSWER: &[u8] = b"{\"heartBeat\":1}\n";

/// Why a subscription is refused as a whole (WIRE §1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// Not a JSON array of strings.
    #[error("the body is not a JSON array of strings")]
    Malformed,
    /// More names than the session may have.
    #[error("more than {0} topics")]
    TooMany(usize),
}

/// The topics of a subscription, sorted and without repetition, and how many invalid names were
/// skipped.
pub fn decode_subscription(body: &[u8], topics_max: usize) -> Result<(Vec<Topic>, usize), SubscriptionError> {
    TopicNames::read(body, topics_max, |names, deserializer| names.deserialize(deserializer))
}

/// The same of an application of FISCO BCOS 3.x, whose list is the field `topics` of an object.
pub fn decode_subscription_3x(
    body: &[u8],
    topics_max: usize,
) -> Result<(Vec<Topic>, usize), SubscriptionError> {
    struct Fields<'a>(&'a mut TopicNames);
    impl<'de> Visitor<'de> for Fields<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object with topics")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut is_there = false;
            while let Some(field) = map.next_key::<Cow<'de, str>>()? {
                match &*field {
                    "topics" => {
                        is_there = true;
                        map.next_value_seed(&mut *self.0)?;
                    }
                    _ => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            is_there.then_some(()).ok_or_else(|| serde::de::Error::missing_field("topics"))
        }
    }
    TopicNames::read(body, topics_max, |names, deserializer| deserializer.deserialize_map(Fields(names)))
}

/// Names that are read one by one, so that a bomb is refused at the bound and never held whole.
struct TopicNames {
    topics: BTreeSet<Topic>,
    skipped: usize,
    topics_max: usize,
    over: bool,
}

impl TopicNames {
    fn read<'de>(
        body: &'de [u8],
        topics_max: usize,
        read: impl FnOnce(&mut Self, &mut JsonReader<'de>) -> Result<(), serde_json::Error>,
    ) -> Result<(Vec<Topic>, usize), SubscriptionError> {
        let mut names = Self { topics: BTreeSet::new(), skipped: 0, topics_max, over: false };
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let read = read(&mut names, &mut deserializer).and_then(|()| deserializer.end());
        match read {
            Ok(()) => Ok((names.topics.into_iter().collect(), names.skipped)),
            Err(_) if names.over => Err(SubscriptionError::TooMany(topics_max)),
            Err(_) => Err(SubscriptionError::Malformed),
        }
    }
}

type JsonReader<'de> = serde_json::Deserializer<serde_json::de::SliceRead<'de>>;

impl<'de> DeserializeSeed<'de> for &mut TopicNames {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut TopicNames {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of topic names")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(name) = seq.next_element::<Cow<'de, str>>()? {
            let Some(topic) = Topic::new(&name) else {
                self.skipped += 1;
                continue;
            };
            // One that is named again is no more.
            if self.topics.insert(topic) && self.topics.len() > self.topics_max {
                self.over = true;
                return Err(serde::de::Error::custom("too many topics"));
            }
        }
        Ok(())
    }
}

/// Tells the challenges of all publishers apart, and cannot be guessed.
pub type ChallengeToken = [u8; 32];

/// Body of a 0x37 (WIRE §4): asks a publisher to verify the subscriber behind `route`. Its `nodeId` is the
/// beginning of the subscriber's node id, then the token.
pub fn topic_certification(node: &NodeId, token: &ChallengeToken, topic: &str, route: &str) -> String {
    let id = hex::encode(&node.0[..32]) + &hex::encode(token);
    // Topics are anybody's words.
    let body = serde_json::json!({ "nodeId": id, "topic": topic, "topicForCert": route });
    format!("{body}\n")
}

/// Body of a 0x37 as a publisher reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicCertification {
    /// The node's own; goes back unread.
    pub node_id: String,
    /// The data topic.
    pub topic: String,
    /// Where the subscriber is to be challenged.
    pub route: String,
}

impl TopicCertification {
    /// Reads a body; `None` if it is malformed.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let field = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        Some(Self { node_id: field("nodeId")?, topic: field("topic")?, route: field("topicForCert")? })
    }

    /// Body of the 0x38 that answers it.
    pub fn status(&self, accepted: bool) -> String {
        let result = i32::from(!accepted);
        serde_json::json!({ "checkResult": result, "nodeId": self.node_id, "topic": self.topic }).to_string()
    }
}

/// Body of a 0x38 (WIRE §4): what a publisher thinks of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicStatus {
    /// Whether the subscriber was accepted.
    pub accepted: bool,
    /// The token of the challenge.
    pub token: ChallengeToken,
    /// The data topic.
    pub topic: String,
}

impl TopicStatus {
    /// Reads a body; `None` if it is malformed or its `nodeId` holds no token.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let fields = value.as_object()?;
        let id: [u8; 64] = hex::decode(fields.get("nodeId")?.as_str()?)?;
        let (_, token) = id.split_last_chunk()?;
        Some(Self {
            accepted: fields.get("checkResult")?.as_i64()? == 0,
            token: *token,
            topic: fields.get("topic")?.as_str()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_agree_on_the_newest_protocol_of_both() {
        let negotiate = |body: &str| {
            HandshakeRequest::decode(body.as_bytes()).unwrap_or(HandshakeRequest::EMPTY).negotiate()
        };
        assert_eq!(negotiate(r#"{"minimumSupport":1,"maximumSupport":2}"#), Some(2));
        assert_eq!(negotiate(r#"{"minimumSupport":1,"maximumSupport":9,"x":[]}"#), Some(3));
        assert_eq!(negotiate("{}"), Some(1));
        assert_eq!(negotiate("nope"), Some(1));
        assert_eq!(negotiate(r#"{"minimumSupport":"1","maximumSupport":3}"#), Some(1));
        assert_eq!(negotiate(r#"{"minimumSupport":4,"maximumSupport":5}"#), None);
    }

    #[test]
    fn our_own_client_is_told_how_long_frames_may_be_and_others_get_what_they_know() {
        assert_eq!(handshake_answer(3, None), "{\"nodeVersion\":\"2.10.2\",\"protocol\":3}\n");
        assert_eq!(frame_len_max_of(handshake_answer(3, Some(5_000)).as_bytes()), Some(5_000));
        assert_eq!(frame_len_max_of(handshake_answer(3, None).as_bytes()), None, "a node of before");
    }

    #[test]
    fn only_our_own_client_gets_shared_records() {
        let flag = |client: &str| {
            let body = format!(r#"{{"clientType":"{client}","sharedRecords":true}}"#);
            HandshakeRequest::decode(body.as_bytes()).unwrap().shared_records
        };
        assert!(flag("amop"));
        assert!(!flag("python"));
    }

    #[test]
    fn a_certification_is_what_sdks_read_and_its_node_id_comes_back_as_the_token() {
        let node = NodeId(std::array::from_fn(|i| i as u8));
        let token: ChallengeToken = std::array::from_fn(|i| 0xff - i as u8);
        let body = topic_certification(&node, &token, "#!$TopicNeedVerify_\"t", "route");
        assert!(body.ends_with('\n'));
        let value: Value = serde_json::from_str(&body).unwrap();
        let id = value["nodeId"].as_str().unwrap();
        assert_eq!((id.len(), &id[..64]), (128, &node.to_hex()[..64]));
        assert_eq!(value["topicForCert"], "route");
        let verdict = |result: &str| {
            TopicStatus::decode(
                format!(r#"{{"checkResult":{result},"nodeId":"{id}","topic":{}}}"#, value["topic"])
                    .as_bytes(),
            )
        };
        let topic = "#!$TopicNeedVerify_\"t".to_owned();
        let certification = TopicCertification::decode(body.as_bytes()).unwrap();
        for accepted in [true, false] {
            let status = TopicStatus::decode(certification.status(accepted).as_bytes());
            assert_eq!(status, Some(TopicStatus { accepted, token, topic: topic.clone() }));
        }
        assert_eq!(TopicCertification::decode(br#"{"nodeId":"x","topic":"t"}"#), None);
        assert_eq!(TopicCertification::decode(b"[]"), None);
        assert_eq!(verdict("0"), Some(TopicStatus { accepted: true, token, topic: topic.clone() }));
        assert_eq!(verdict("-1"), Some(TopicStatus { accepted: false, token, topic }));
        assert_eq!(verdict("\"0\""), None);
    }

    #[test]
    fn a_status_that_is_malformed_or_without_a_token_is_none() {
        let id = "ab".repeat(64);
        let read = |body: String| TopicStatus::decode(body.as_bytes());
        assert!(read(format!(r#"{{"checkResult":0,"nodeId":"{id}","topic":"t"}}"#)).is_some());
        assert_eq!(read(format!(r#"{{"checkResult":0,"nodeId":"{}","topic":"t"}}"#, &id[1..])), None);
        assert_eq!(read(format!(r#"{{"checkResult":0,"nodeId":"{}","topic":"t"}}"#, "xy".repeat(64))), None);
        assert_eq!(read(format!(r#"{{"nodeId":"{id}","topic":"t"}}"#)), None);
        assert_eq!(read("[]".to_owned()), None);
        assert_eq!(read("[".repeat(100_000)), None);
    }

    #[test]
    fn a_subscription_skips_single_invalid_names_and_repetitions() {
        let (topics, skipped) = decode_subscription(br#"["b","a","","b","\t","\u4e3b"]"#, 10).unwrap();
        assert_eq!(topics.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a", "b", "主"]);
        assert_eq!(skipped, 2);
    }

    #[test]
    fn a_subscription_that_is_no_array_or_over_the_bound_is_refused() {
        assert_eq!(decode_subscription(b"{}", 10), Err(SubscriptionError::Malformed));
        assert_eq!(decode_subscription(b"[1]", 10), Err(SubscriptionError::Malformed));
        assert_eq!(decode_subscription(br#"["a"] x"#, 10), Err(SubscriptionError::Malformed));
        assert_eq!(decode_subscription(br#"["a","b","c"]"#, 2), Err(SubscriptionError::TooMany(2)));
        assert_eq!(
            decode_subscription(br#"["a","b","a","b","b"]"#, 2).map(|(topics, _)| topics.len()),
            Ok(2)
        );
        assert_eq!(decode_subscription("[".repeat(100_000).as_bytes(), 2), Err(SubscriptionError::Malformed));
    }

    #[test]
    fn a_list_of_3x_is_the_topics_of_an_object() {
        let read = |body: &str| decode_subscription_3x(body.as_bytes(), 2);
        let names = |body: &str| {
            let (topics, skipped) = read(body).unwrap();
            (topics.iter().map(|topic| topic.as_str().to_owned()).collect::<Vec<_>>(), skipped)
        };
        assert_eq!(names("{\"topics\":[]}\n"), (vec![], 0));
        assert_eq!(
            names(r#"{"a":[{}],"topics":["y","","x","y"],"z":null}"#),
            (vec!["x".into(), "y".into()], 1)
        );
        for malformed in ["", "[]", "{}", r#"{"topics":["a"]"#, r#"{"topics":[1]}"#, r#"{"topics":"a"}"#] {
            assert_eq!(read(malformed), Err(SubscriptionError::Malformed), "{malformed}");
        }
        assert_eq!(read(r#"{"topics":["a","b","c"]}"#), Err(SubscriptionError::TooMany(2)));
        assert_eq!(
            read(&format!("{{\"x\":{}", "[".repeat(100_000))),
            Err(SubscriptionError::Malformed),
            "as deep as it may be"
        );
    }

    #[test]
    fn handshakes_of_3x_agree_on_what_both_speak() {
        let negotiate = |body: &str| Handshake3x::decode(body.as_bytes()).map(|read| read.negotiate());
        assert_eq!(negotiate("{\"maxVersion\":2,\"minVersion\":0,\"moduleID\":2}\n"), Some(Some(1)));
        assert_eq!(negotiate(r#"{"maxVersion":0,"minVersion":0}"#), Some(None), "0 is no handshake");
        assert_eq!(negotiate(r#"{"maxVersion":3,"minVersion":2}"#), Some(None));
        assert_eq!(negotiate(r#"{"maxVersion":1,"minVersion":2}"#), Some(None));
        for malformed in ["", "[]", r#"{"maxVersion":2}"#, r#"{"maxVersion":"2","minVersion":0}"#] {
            assert_eq!(negotiate(malformed), None, "{malformed}");
        }
        let sent = Handshake3x { minimum: 0, maximum: 2 };
        assert_eq!(Handshake3x::decode(sent.encode().as_bytes()), Some(sent));
        assert_eq!(Handshake3x::protocol_of(Handshake3x::answer(1).as_bytes()), Some(1));
        assert_eq!(Handshake3x::protocol_of(b"no"), None);
    }
}
