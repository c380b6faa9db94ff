//! Result codes of WIRE §3.

use std::fmt;

/// The `result` field of a frame on an SDK link: 0, a code that a node answers with, or whatever a
/// subscriber chose to send, which is passed on unchanged (WIRE §3).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResultCode(pub i32);

impl ResultCode {
    /// Answered by a subscriber.
    pub const OK: Self = Self(0);
    /// A node with subscribers was known, but every link towards it failed or was full before the
    /// frame was taken; or the node's own table of pending requests was full.
    pub const NOT_SENT: Self = Self(99);
    /// No (authorised) subscriber is known, no path leads to one, or the body is malformed.
    pub const NO_RECEIVER: Self = Self(100);
    /// It reached a node with subscribers, and none of its sessions could take it.
    pub const NOT_DELIVERED: Self = Self(101);
    /// Pushed to a session or taken by a node, and its outcome never became known in time.
    pub const TIMEOUT: Self = Self(102);
    /// Refused by the outbound bandwidth limit (WIRE §5); nothing was sent.
    pub const OVER_BANDWIDTH: Self = Self(103);

    /// What the code means, in words for a person.
    pub fn describe(self) -> &'static str {
        match self {
            Self::OK => "answered",
            Self::NOT_SENT => "could not be sent: every link towards a subscriber's node failed or is full",
            Self::NO_RECEIVER => "no node can receive it: nobody subscribes to this topic",
            Self::NOT_DELIVERED => "not delivered: no subscriber's session could take it",
            Self::TIMEOUT => "timeout: it may have been delivered, but no answer came in time",
            Self::OVER_BANDWIDTH => "over the node's outbound bandwidth limit: nothing was sent",
            _ => "a code chosen by the subscriber",
        }
    }
}

impl fmt::Debug for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.describe())
    }
}
