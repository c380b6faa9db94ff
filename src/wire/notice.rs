//! What two nodes tell each other about challenges of private topics (WIRE §4), and for diagnostics (docs/node-link.md): the
//! payload of a Broadcast.

use std::time::Duration;

use super::{MessageNumber, Topic, TopicKind, json::ChallengeToken, reader::Reader};

/// Payload of a BROADCAST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A publisher of the sender is about to challenge a subscriber of the receiver.
    Challenge {
        /// Names the challenge.
        token: ChallengeToken,
        /// Number of the minted route topic.
        number: u64,
        /// The subscriber's number in the receiver's record.
        subscriber: u64,
        /// The sender's number for its publisher, which comes back.
        publisher: u64,
        /// How long the challenge may be carried; in milliseconds on the wire.
        open_for: Duration,
        /// The data topic.
        topic: Topic,
    },
    /// The sender will carry the challenge.
    Opened {
        /// The receiver's number for its publisher.
        publisher: u64,
        /// Which challenge.
        token: ChallengeToken,
    },
    /// The challenged session has answered.
    Answered {
        /// The receiver's number for its publisher.
        publisher: u64,
        /// Which challenge.
        token: ChallengeToken,
    },
    /// A diagnostic of the sender asks the receiver something.
    Request(Diagnostic),
    /// The sender replies to such a request.
    Reply(Diagnostic),
    /// A frame of the receiver with [`FLAG_PROBE`](super::node::FLAG_PROBE) did not get beyond the sender.
    PathEnded(PathEnded),
    /// An answer to a unicast of the receiver has begun to come to the sender.
    AnswerBegun {
        /// The receiver's number for the unicast.
        message: MessageNumber,
        /// Length of the answer's frame in bytes.
        len: u32,
    },
}

/// One side of an exchange of two nodes for a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Which diagnostic: the kind of its requests, an even number. Replies have the next one.
    pub kind: u8,
    /// The number of the request, which comes back with the reply.
    pub id: u64,
    /// What the diagnostic says, encoded by itself. Bytes behind the fields that it knows are ignored.
    pub body: Vec<u8>,
}

/// Longest request or reply of a diagnostic in bytes.
pub const DIAGNOSTIC_LEN_MAX: usize = 4 * 1024;
/// The same without kind and id.
pub const DIAGNOSTIC_BODY_LEN_MAX: usize = DIAGNOSTIC_LEN_MAX - 1 - 8;

const _: () = assert!(DIAGNOSTIC_LEN_MAX <= super::frame::HEAD_LEN_MAX, "it is contiguous");

/// Where a frame has ended that was to find out its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathEnded {
    /// Seq of that frame.
    pub seq: u32,
    /// Why.
    pub why: PathEnd,
    /// The first 8 bytes of the id of the node that it was for.
    pub destination: u64,
    /// The last 16 bytes of that frame, which only nodes on its path have seen.
    pub tag: [u8; 16],
}

/// Why a frame did not get further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEnd {
    /// It had no hops left.
    HopsUsed,
    /// The node knew no route on.
    NoRoute,
    /// Something that newer nodes know.
    Other,
}

impl PathEnd {
    fn of(tag: u8) -> Self {
        match tag {
            1 => Self::HopsUsed,
            2 => Self::NoRoute,
            _ => Self::Other,
        }
    }

    fn tag(self) -> u8 {
        match self {
            Self::HopsUsed => 1,
            Self::NoRoute => 2,
            Self::Other => 0,
        }
    }
}

/// Length of a ping, zeros at its end included, and of a [`Notice::PathEnded`]: no answer is longer than what it answers, so
/// that nobody can be flooded by means of them.
pub const PING_LEN: usize = 1 + 4 + 1 + 8 + 16;

const CHALLENGE: u8 = 1;
const OPENED: u8 = 2;
const ANSWERED: u8 = 3;
const PATH_ENDED: u8 = 8;
const ANSWER_BEGUN: u8 = 10;

const _: () = assert!(PATH_ENDED < super::announcement::KIND && super::announcement::KIND < ANSWER_BEGUN);

/// Whether notices of this kind are requests or replies of diagnostics, known ones or not.
fn is_diagnostic(kind: u8) -> bool {
    matches!(kind, 4..PATH_ENDED | 12..)
}

impl Notice {
    /// Reads a payload; `None` if it is malformed or of a kind that is not known here. Bytes behind the known
    /// fields belong to newer versions and are ignored.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        Some(match reader.u8()? {
            CHALLENGE => {
                let token = reader.array()?;
                let (number, subscriber, publisher) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let open_for = Duration::from_millis(reader.u32()?.into());
                let len = usize::from(reader.u8()?);
                let topic = Topic::new(std::str::from_utf8(reader.take(len)?).ok()?)?;
                if topic.kind() != TopicKind::Data {
                    return None;
                }
                Self::Challenge { token, number, subscriber, publisher, open_for, topic }
            }
            OPENED => Self::Opened { publisher: reader.u64()?, token: reader.array()? },
            ANSWERED => Self::Answered { publisher: reader.u64()?, token: reader.array()? },
            PATH_ENDED => Self::PathEnded(PathEnded {
                seq: reader.u32()?,
                why: PathEnd::of(reader.u8()?),
                destination: reader.u64()?,
                tag: reader.array()?,
            }),
            kind if is_diagnostic(kind) && payload.len() <= DIAGNOSTIC_LEN_MAX => {
                let (id, body) = (reader.u64()?, reader.0.to_vec());
                let diagnostic = Diagnostic { kind: kind & !1, id, body };
                if kind & 1 == 0 { Self::Request(diagnostic) } else { Self::Reply(diagnostic) }
            }
            ANSWER_BEGUN => Self::AnswerBegun { message: MessageNumber(reader.u32()?), len: reader.u32()? },
            _ => return None,
        })
    }

    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Challenge { token, number, subscriber, publisher, open_for, topic } => {
                out.push(CHALLENGE);
                out.extend_from_slice(token);
                for number in [number, subscriber, publisher] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                let open_ms = u32::try_from(open_for.as_millis()).unwrap_or(u32::MAX);
                out.extend_from_slice(&open_ms.to_be_bytes());
                out.push(topic.as_str().len() as u8);
                out.extend_from_slice(topic.as_str().as_bytes());
            }
            Self::Opened { publisher, token } | Self::Answered { publisher, token } => {
                out.push(if matches!(self, Self::Opened { .. }) { OPENED } else { ANSWERED });
                out.extend_from_slice(&publisher.to_be_bytes());
                out.extend_from_slice(token);
            }
            Self::Request(Diagnostic { kind, id, body }) | Self::Reply(Diagnostic { kind, id, body }) => {
                out.push(kind | u8::from(matches!(self, Self::Reply(_))));
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(body);
            }
            Self::PathEnded(PathEnded { seq, why, destination, tag }) => {
                out.push(PATH_ENDED);
                out.extend_from_slice(&seq.to_be_bytes());
                out.push(why.tag());
                out.extend_from_slice(&destination.to_be_bytes());
                out.extend_from_slice(tag);
            }
            Self::AnswerBegun { message, len } => {
                out.push(ANSWER_BEGUN);
                out.extend_from_slice(&message.0.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_survive_encoding_and_cut_ones_are_none() {
        let topic = Topic::new("#!$TopicNeedVerify_t").unwrap();
        let open_for = Duration::from_secs(5);
        let token = std::array::from_fn(|i| i as u8);
        let challenge = Notice::Challenge { token, number: 1, subscriber: 2, publisher: 3, open_for, topic };
        let ended = PathEnded { seq: 10, why: PathEnd::HopsUsed, destination: 11, tag: [12; 16] };
        for notice in [
            challenge,
            Notice::Opened { publisher: 4, token },
            Notice::Answered { publisher: 5, token },
            Notice::PathEnded(ended),
            Notice::PathEnded(PathEnded { why: PathEnd::NoRoute, ..ended }),
            Notice::AnswerBegun { message: MessageNumber(13), len: 14 },
        ] {
            let mut bytes = notice.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Notice::decode(&bytes[..cut]), None);
            }
            bytes.extend_from_slice(b"newer");
            assert_eq!(Notice::decode(&bytes), Some(notice));
        }
        for kind in [0, 9, 11] {
            assert_eq!(Notice::decode(&[kind; 100]), None);
        }
    }

    #[test]
    fn requests_and_replies_of_diagnostics_have_a_kind_an_id_and_a_body_within_a_bound() {
        for kind in [4, 6, 12, 254] {
            let diagnostic = Diagnostic { kind, id: 6, body: vec![b'f'; DIAGNOSTIC_BODY_LEN_MAX] };
            for (notice, first) in
                [(Notice::Request(diagnostic.clone()), kind), (Notice::Reply(diagnostic), kind + 1)]
            {
                let mut bytes = notice.encode();
                assert_eq!(
                    (bytes[0], &bytes[1..9], bytes.len()),
                    (first, &6u64.to_be_bytes()[..], DIAGNOSTIC_LEN_MAX)
                );
                assert!((0..9).all(|cut| Notice::decode(&bytes[..cut]).is_none()));
                assert_eq!(Notice::decode(&bytes), Some(notice));
                bytes.push(0);
                assert_eq!(Notice::decode(&bytes), None);
            }
        }
    }

    #[test]
    fn no_word_of_where_a_path_ended_is_longer_than_a_ping() {
        let ended = PathEnded { seq: 1, why: PathEnd::Other, destination: 2, tag: [3; 16] };
        let ended = Notice::PathEnded(ended);
        assert_eq!(Notice::decode(&ended.encode()), Some(ended.clone()));
        assert_eq!(ended.encode().len(), PING_LEN);
    }

    #[test]
    fn only_data_topics_are_challenged() {
        let topic = Topic::new("#!$TopicNeedVerify_t").unwrap();
        let token = [0; 32];
        let notice = Notice::Challenge {
            token,
            number: 1,
            subscriber: 2,
            publisher: 3,
            open_for: Duration::ZERO,
            topic,
        };
        let mut bytes = notice.encode();
        let at = bytes.iter().position(|&byte| byte == b'#').unwrap();
        bytes[at] = b'x';
        assert_eq!(Notice::decode(&bytes), None);
    }
}
