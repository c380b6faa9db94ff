//! Topic names (WIRE §2.1) and the prefixes that mean something (WIRE §4).

use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest topic name in bytes.
pub const TOPIC_LEN_MAX: usize = 254;

/// A private topic's data topic: `#!$TopicNeedVerify_t`.
pub const DATA_PREFIX: &str = "#!$TopicNeedVerify_";
/// A subscriber's route topic: `#!$VerifyChannel_#!$TopicNeedVerify_t_<32 hex uuid>`.
pub const ROUTE_PREFIX: &str = "#!$VerifyChannel_";
/// A publisher's marker: `#!$PushChannel_#!$TopicNeedVerify_t`.
pub const MARKER_PREFIX: &str = "#!$PushChannel_";
/// A ledger notice: kept per session, never routed.
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
    let bare = match TopicKind::of(name) {
        TopicKind::Data => name.len() == DATA_PREFIX.len(),
        TopicKind::Route => name.len() == ROUTE_PREFIX.len(),
        TopicKind::Marker => name.len() == MARKER_PREFIX.len(),
        TopicKind::Ordinary | TopicKind::BlockNotify => false,
    };
    !bare
        && (1..=TOPIC_LEN_MAX).contains(&name.len())
        && !name.iter().any(|&byte| byte == 0 || byte == b'\t')
        && std::str::from_utf8(name).is_ok()
}

/// A valid topic name that is kept; clones share it.
///
/// ```
/// use amop::wire::{Topic, TopicKind};
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
    fn kinds_are_told_by_prefix() {
        assert_eq!(TopicKind::of(b"#!$TopicNeedVerify_t"), TopicKind::Data);
        assert_eq!(TopicKind::of(b"#!$VerifyChannel_#!$TopicNeedVerify_t_0"), TopicKind::Route);
        assert_eq!(TopicKind::of(b"#!$PushChannel_#!$TopicNeedVerify_t"), TopicKind::Marker);
        assert_eq!(TopicKind::of(b"_block_notify_1"), TopicKind::BlockNotify);
        assert_eq!(TopicKind::of(b"#news"), TopicKind::Ordinary);
    }
}
