//! Topic names (WIRE §2.1) and the prefixes that mean something (WIRE §4).

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{NodeId, hex};

/// Longest topic name in bytes.
pub const TOPIC_LEN_MAX: usize = 254;

/// A private topic's data topic: `#!$TopicNeedVerify_t`.
pub const DATA_PREFIX: &str = "#!$TopicNeedVerify_";
/// A subscriber's route topic: `#!$VerifyChannel_#!$TopicNeedVerify_t_<32 hex uuid>`.
pub const ROUTE_PREFIX: &str = "#!$VerifyChannel_";
/// A publisher's marker: `#!$PushChannel_#!$TopicNeedVerify_t`.
const MARKER_PREFIX: &str = "#!$PushChannel_";
/// A block notice of the ledger, whose group follows: kept per session, never routed.
pub const BLOCK_NOTIFY_PREFIX: &str = "_block_notify_";

/// What a topic name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// An application's own name.
    Ordinary,
    /// `#!$TopicNeedVerify_…`: reaches authorised sessions only.
    Data,
    /// `#!$VerifyChannel_…`: never routable as subscribed, never listed.
    Route,
    /// `#!$PushChannel_…`: makes its session a publisher of a private topic; never listed.
    Marker,
    /// `_block_notify_…`: a ledger notice.
    BlockNotify,
}

impl TopicKind {
    /// Reads the kind off a name.
    pub fn of(name: &[u8]) -> Self {
        // Ordinary names rarely begin with one of these two bytes.
        match name.first() {
            Some(b'#') if name.starts_with(DATA_PREFIX.as_bytes()) => Self::Data,
            Some(b'#') if name.starts_with(ROUTE_PREFIX.as_bytes()) => Self::Route,
            Some(b'#') if name.starts_with(MARKER_PREFIX.as_bytes()) => Self::Marker,
            Some(b'_') if name.starts_with(BLOCK_NOTIFY_PREFIX.as_bytes()) => Self::BlockNotify,
            _ => Self::Ordinary,
        }
    }
}

/// Whether `name` may be a topic: 1..=254 bytes of UTF-8, no NUL, no tab, and more than a bare prefix
/// of WIRE §4.
pub fn is_valid(name: &[u8]) -> bool {
    read(name).is_some()
}

/// The text of a name that may be a topic.
pub(super) fn read(name: &[u8]) -> Option<&str> {
    let bare = match TopicKind::of(name) {
        TopicKind::Data => name.len() == DATA_PREFIX.len(),
        TopicKind::Route => name.len() == ROUTE_PREFIX.len(),
        TopicKind::Marker => name.len() == MARKER_PREFIX.len(),
        TopicKind::Ordinary | TopicKind::BlockNotify => false,
    };
    let fits = !bare
        && (1..=TOPIC_LEN_MAX).contains(&name.len())
        && !name.iter().any(|&byte| byte == 0 || byte == b'\t');
    if fits { std::str::from_utf8(name).ok() } else { None }
}

/// The data topic that a marker makes its session a publisher of; `None` if the name is no marker of one.
pub fn data_topic_of_marker(name: &str) -> Option<&str> {
    name.strip_prefix(MARKER_PREFIX).filter(|data| TopicKind::of(data.as_bytes()) == TopicKind::Data)
}

/// Hex digits behind the last `_` of a route topic: a subscriber's uuid, or what a node minted.
const ROUTE_TAIL_LEN: usize = 32;

/// The data topic of a route topic, and the 32 hex digits at its end; `None` for other names.
fn split_route(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(ROUTE_PREFIX)?;
    let (front, tail) = rest.split_at_checked(rest.len().checked_sub(ROUTE_TAIL_LEN)?)?;
    let data = front.strip_suffix('_')?;
    let fits = is_valid(data.as_bytes())
        && TopicKind::of(data.as_bytes()) == TopicKind::Data
        && tail.bytes().all(|digit| digit.is_ascii_hexdigit());
    fits.then_some((data, tail))
}

/// The data topic that a subscriber's own route topic belongs to; `None` for other names.
pub fn data_topic_of_route(name: &str) -> Option<&str> {
    split_route(name).map(|(data, _)| data)
}

/// A private topic by the name that applications know it by, and its names on the wire (WIRE §4).
///
/// ```
/// use amop::internal::wire::PrivateTopic;
///
/// let deals = PrivateTopic::new("deals").expect("a short name");
/// assert_eq!(deals.data().as_str(), "#!$TopicNeedVerify_deals");
/// assert_eq!(deals.marker(), "#!$PushChannel_#!$TopicNeedVerify_deals");
/// assert_eq!(PrivateTopic::of_data("#!$TopicNeedVerify_deals"), Some(deals));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrivateTopic(Topic);

impl PrivateTopic {
    /// Longest name in bytes: what a route topic leaves of [`TOPIC_LEN_MAX`].
    pub const NAME_LEN_MAX: usize =
        TOPIC_LEN_MAX - ROUTE_PREFIX.len() - DATA_PREFIX.len() - 1 - ROUTE_TAIL_LEN;

    /// The private topic of a name; `None` if it is empty, too long, no topic (WIRE §2.1), or has one of the
    /// prefixes of private topics already.
    pub fn new(name: &str) -> Option<Self> {
        let has_prefix = [DATA_PREFIX, ROUTE_PREFIX, MARKER_PREFIX].iter().any(|&it| name.starts_with(it));
        if has_prefix || !(1..=Self::NAME_LEN_MAX).contains(&name.len()) {
            return None;
        }
        Topic::new(&format!("{DATA_PREFIX}{name}")).map(Self)
    }

    /// The private topic of a data topic; `None` for other topics.
    pub fn of_data(topic: &str) -> Option<Self> {
        topic.strip_prefix(DATA_PREFIX).and_then(Self::new)
    }

    /// The name that applications know it by.
    pub fn name(&self) -> &str {
        &self.0.as_str()[DATA_PREFIX.len()..]
    }

    /// The topic of its messages.
    pub fn data(&self) -> &Topic {
        &self.0
    }

    /// The topic by which a session says that it publishes.
    pub fn marker(&self) -> String {
        format!("{MARKER_PREFIX}{}", self.0)
    }

    /// The topic that a subscriber is challenged under; `uuid` is 32 hex digits of its choice.
    pub fn route(&self, uuid: &[u8; 32]) -> String {
        debug_assert!(uuid.iter().all(u8::is_ascii_hexdigit));
        format!("{ROUTE_PREFIX}{}_{}", self.0, uuid.escape_ascii())
    }
}

/// A route topic that a node made up for one challenge (WIRE §4).
///
/// ```
/// use amop::internal::wire::{NodeId, topic::MintedTopic};
///
/// let minted = MintedTopic::new("#!$TopicNeedVerify_deals", &NodeId([0xab; 64]), 0x1234);
/// let name = minted.to_topic().expect("not too long");
/// assert_eq!(
///     name.as_str(),
///     "#!$VerifyChannel_#!$TopicNeedVerify_deals_abababababababab0000000000001234"
/// );
/// assert_eq!(MintedTopic::decode(name.as_str()), Some(minted));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MintedTopic<'a> {
    /// The data topic.
    pub data: &'a str,
    /// First bytes of the id of the node that carries the challenge to its subscriber.
    pub node: [u8; 8],
    /// Tells the challenges apart.
    pub number: u64,
}

impl<'a> MintedTopic<'a> {
    /// The topic of challenge `number` at a subscriber of `node`.
    pub fn new(data: &'a str, node: &NodeId, number: u64) -> Self {
        let [n0, n1, n2, n3, n4, n5, n6, n7, ..] = node.0;
        Self { data, node: [n0, n1, n2, n3, n4, n5, n6, n7], number }
    }

    /// Reads a name. A subscriber's own route topic looks the same: only who knows the number can tell.
    pub fn decode(name: &'a str) -> Option<Self> {
        let (data, tail) = split_route(name)?;
        let [node @ .., n0, n1, n2, n3, n4, n5, n6, n7] = hex::decode::<16>(tail)?;
        let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        Some(Self { data, node, number })
    }

    /// Whether the node is the one that carries the challenge.
    pub fn is_at(&self, node: &NodeId) -> bool {
        node.0.starts_with(&self.node)
    }

    /// The name; `None` if the data topic leaves no room for it.
    pub fn to_topic(&self) -> Option<Topic> {
        let node = hex::encode(&self.node);
        Topic::new(&format!("{ROUTE_PREFIX}{}_{node}{:016x}", self.data, self.number))
    }
}

/// A valid topic name that is kept; clones share it.
///
/// ```
/// use amop::internal::wire::{Topic, TopicKind};
///
/// assert!(Topic::new("").is_none());
/// assert!(Topic::new("#!$TopicNeedVerify_").is_none(), "a bare prefix is no topic");
/// let private = Topic::new("#!$TopicNeedVerify_deals").expect("a valid name");
/// assert_eq!(private.kind(), TopicKind::Data);
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks and keeps a name.
    pub fn new(name: &str) -> Option<Self> {
        is_valid(name.as_bytes()).then(|| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the name is for.
    pub fn kind(&self) -> TopicKind {
        TopicKind::of(self.0.as_bytes())
    }
}

// Tables are looked up with the name as it lies in a frame, which has been checked to be UTF-8.
impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_254_bytes_of_utf8_without_nul_and_tab() {
        assert!(is_valid("主题".as_bytes()));
        assert!(is_valid(&[b'a'; 254]));
        assert!(!is_valid(&[b'a'; 255]));
        assert!(!is_valid(b""));
        assert!(!is_valid(b"a\tb"));
        assert!(!is_valid(b"a\0b"));
        assert!(!is_valid(b"\xff\xfe"));
    }

    #[test]
    fn a_bare_prefix_of_a_private_topic_is_no_topic() {
        for prefix in [DATA_PREFIX, ROUTE_PREFIX, MARKER_PREFIX] {
            assert!(!is_valid(prefix.as_bytes()), "{prefix}");
            assert!(is_valid(format!("{prefix}t").as_bytes()), "{prefix}t");
        }
    }

    #[test]
    fn a_marker_belongs_to_a_data_topic_or_to_nothing() {
        let of = data_topic_of_marker;
        assert_eq!(of("#!$PushChannel_#!$TopicNeedVerify_t"), Some("#!$TopicNeedVerify_t"));
        assert_eq!(of("#!$PushChannel_t"), None);
        assert_eq!(of("#!$TopicNeedVerify_t"), None);
    }

    #[test]
    fn a_route_topic_ends_in_32_hex_digits() {
        let uuid = "0123456789abcdefABCDEF0123456789";
        let route = |data: &str, tail: &str| format!("{ROUTE_PREFIX}{data}_{tail}");
        let data = "#!$TopicNeedVerify_a_b";
        assert_eq!(data_topic_of_route(&route(data, uuid)), Some(data));
        assert_eq!(data_topic_of_route(&route("t", uuid)), None, "no data topic");
        assert_eq!(data_topic_of_route(&route(DATA_PREFIX, uuid)), None, "a bare prefix");
        assert_eq!(data_topic_of_route(&route(data, &uuid[1..])), None, "too few digits");
        assert_eq!(data_topic_of_route(&route(data, &uuid.replace('0', "g"))), None, "no digits");
        assert_eq!(data_topic_of_route(&route(data, &uuid.replace('0', "主"))), None, "cut in a character");
        assert_eq!(data_topic_of_route(ROUTE_PREFIX), None);
    }

    #[test]
    fn a_minted_topic_is_as_long_as_a_subscribers_own_and_names_its_node() {
        let node = NodeId(std::array::from_fn(|i| i as u8));
        let minted = MintedTopic::new("#!$TopicNeedVerify_t", &node, u64::MAX - 1);
        let topic = minted.to_topic().unwrap();
        let own = "#!$VerifyChannel_#!$TopicNeedVerify_t_0123456789abcdef0123456789abcdef";
        assert_eq!(topic.as_str().len(), own.len());
        assert_eq!(MintedTopic::decode(topic.as_str()), Some(minted));
        assert!(minted.is_at(&node));
        assert!(!minted.is_at(&NodeId([1; 64])));
        let long = format!("{DATA_PREFIX}{}", "x".repeat(TOPIC_LEN_MAX - DATA_PREFIX.len()));
        assert_eq!(MintedTopic::new(&long, &node, 0).to_topic(), None);
    }

    #[test]
    fn a_private_topics_longest_name_leaves_room_for_its_routes() {
        let uuid = *b"0123456789abcdef0123456789abcdef";
        let longest = PrivateTopic::new(&"x".repeat(PrivateTopic::NAME_LEN_MAX)).unwrap();
        let route = longest.route(&uuid);
        assert_eq!(route.len(), TOPIC_LEN_MAX);
        assert_eq!(data_topic_of_route(&route), Some(longest.data().as_str()));
        assert_eq!(data_topic_of_marker(&longest.marker()), Some(longest.data().as_str()));
        assert_eq!(PrivateTopic::new(&"x".repeat(PrivateTopic::NAME_LEN_MAX + 1)), None);
        for name in ["", "a\tb", "#!$TopicNeedVerify_t", "#!$PushChannel_#!$TopicNeedVerify_t"] {
            assert_eq!(PrivateTopic::new(name), None, "{name}");
        }
        assert_eq!(PrivateTopic::of_data("#!$TopicNeedVerify_t").unwrap().name(), "t");
        assert_eq!(PrivateTopic::of_data("t"), None);
    }

    #[test]
    fn kinds_are_told_by_prefix() {
        assert_eq!(TopicKind::of(b"#!$TopicNeedVerify_t"), TopicKind::Data);
        assert_eq!(TopicKind::of(b"#!$VerifyChannel_#!$TopicNeedVerify_t_0"), TopicKind::Route);
        assert_eq!(TopicKind::of(b"#!$PushChannel_#!$TopicNeedVerify_t"), TopicKind::Marker);
        assert_eq!(TopicKind::of(b"_block_notify_1"), TopicKind::BlockNotify);
        assert_eq!(TopicKind::of(b"#news"), TopicKind::Ordinary);
    }
}
