//! Result codes of WIRE §3.

use std::fmt;

/// The `result` field of a frame on an SDK link: 0, a code that a node answers with, or whatever a
/// subscriber chose to send, which is passed on unchanged (WIRE §3).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResultCode(pub i32);

/// What nodes of FISCO BCOS 3.x answer in the place of this node's codes (INTEROP §3.2).
const CODES_3X: [(ResultCode, i16); 5] = [
    (ResultCode::TIMEOUT, 1000),
    (ResultCode::OVER_BANDWIDTH, 1004),
    (ResultCode::NO_RECEIVER, 3001),
    (ResultCode::NOT_DELIVERED, 3002),
    (ResultCode::NOT_SENT, 3003),
];

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

    /// The same for an application of FISCO BCOS 3.x: the statuses of its own nodes, else the code itself, or the nearest
    /// that a status can be.
    pub fn to_status_3x(self) -> i16 {
        let of_node = CODES_3X.iter().find(|(code, _)| *code == self);
        of_node.map_or_else(|| self.to_status(), |(_, status)| *status)
    }

    /// An application's own code as a status: itself, or the nearest that a status can be.
    pub fn to_status(self) -> i16 {
        self.0.clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }

    /// What a status of FISCO BCOS 3.x means here.
    pub fn from_status_3x(status: i16) -> Self {
        let of_node = CODES_3X.iter().find(|(_, other)| *other == status);
        of_node.map_or(Self(status.into()), |(code, _)| *code)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_node_have_their_status_and_those_of_subscribers_are_kept() {
        for (code, status) in
            [(0, 0), (102, 1000), (103, 1004), (100, 3001), (101, 3002), (99, 3003), (-7, -7)]
        {
            assert_eq!(ResultCode(code).to_status_3x(), status);
            assert_eq!(ResultCode::from_status_3x(status), ResultCode(code));
        }
        assert_eq!(ResultCode(65_536).to_status_3x(), i16::MAX, "an error stays one");
        assert_eq!(ResultCode(i32::MIN).to_status_3x(), i16::MIN);
    }
}
