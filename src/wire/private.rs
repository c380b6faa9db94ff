//! What two nodes tell each other about challenges of private topics (WIRE §4), about what became of a message, and
//! about the path between them (docs/node-link.md): the payload of a Broadcast.

use std::time::Duration;

use super::{Topic, TopicKind, json::ChallengeToken, reader::Reader, sdk::Seq, trace::Part};

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
    /// What does the receiver know of a message?
    Trace {
        /// The sender's number for the question, which comes back.
        question: u64,
        /// The message.
        seq: Seq,
    },
    /// What one reactor of the sender knows of it.
    Traced(Box<Part>),
    /// The receiver is to answer at once.
    Ping {
        /// Drawn at random; nobody but the receiver sees it.
        number: u64,
    },
    /// The answer to it.
    Pong {
        /// The number of the ping.
        number: u64,
    },
    /// A frame of the receiver with [`FLAG_PROBE`](super::node::FLAG_PROBE) did not get beyond the sender.
    PathEnded {
        /// Seq of that frame.
        seq: u32,
        /// Why.
        why: PathEnd,
        /// The first 8 bytes of the id of the node that it was for.
        destination: u64,
        /// The last 16 bytes of that frame, which only nodes on its path have seen.
        tag: [u8; 16],
    },
    /// An answer to a unicast of the receiver has begun to come to the sender.
    AnswerBegun {
        /// The receiver's number for the unicast.
        message: u32,
        /// Length of the answer's frame in bytes.
        len: u32,
    },
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

/// Length of a [`Notice::Ping`], zeros at its end included, and of a [`Notice::PathEnded`]: no answer is longer than what
/// it answers, so that nobody can be flooded by means of them.
pub const PING_LEN: usize = 1 + 4 + 1 + 8 + 16;
const PING_PADDING_LEN: usize = PING_LEN - 1 - 8;

const CHALLENGE: u8 = 1;
const OPENED: u8 = 2;
const ANSWERED: u8 = 3;
const TRACE: u8 = 4;
const TRACED: u8 = 5;
const PING: u8 = 6;
const PONG: u8 = 7;
const PATH_ENDED: u8 = 8;
const ANSWER_BEGUN: u8 = 10;

const _: () = assert!(PATH_ENDED < super::announcement::KIND && super::announcement::KIND < ANSWER_BEGUN);

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
            TRACE => Self::Trace { question: reader.u64()?, seq: reader.array()? },
            TRACED => Self::Traced(Box::new(Part::decode(reader.0)?)),
            PING => {
                let number = reader.u64()?;
                reader.take(PING_PADDING_LEN)?;
                Self::Ping { number }
            }
            PONG => Self::Pong { number: reader.u64()? },
            PATH_ENDED => Self::PathEnded {
                seq: reader.u32()?,
                why: PathEnd::of(reader.u8()?),
                destination: reader.u64()?,
                tag: reader.array()?,
            },
            ANSWER_BEGUN => Self::AnswerBegun { message: reader.u32()?, len: reader.u32()? },
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
            Self::Trace { question, seq } => {
                out.push(TRACE);
                out.extend_from_slice(&question.to_be_bytes());
                out.extend_from_slice(seq);
            }
            Self::Traced(part) => {
                out.push(TRACED);
                part.encode_into(&mut out);
            }
            Self::Ping { number } => {
                out.push(PING);
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&[0; PING_PADDING_LEN]);
            }
            Self::Pong { number } => {
                out.push(PONG);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::PathEnded { seq, why, destination, tag } => {
                out.push(PATH_ENDED);
                out.extend_from_slice(&seq.to_be_bytes());
                out.push(why.tag());
                out.extend_from_slice(&destination.to_be_bytes());
                out.extend_from_slice(tag);
            }
            Self::AnswerBegun { message, len } => {
                out.push(ANSWER_BEGUN);
                out.extend_from_slice(&message.to_be_bytes());
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
        let part = Part { question: 7, reactors: 1, ..Part::default() };
        for notice in [
            challenge,
            Notice::Opened { publisher: 4, token },
            Notice::Answered { publisher: 5, token },
            Notice::Trace { question: 6, seq: [b'f'; 32] },
            Notice::Traced(Box::new(part)),
            Notice::Ping { number: 8 },
            Notice::Pong { number: 9 },
            Notice::PathEnded { seq: 10, why: PathEnd::HopsUsed, destination: 11, tag: [12; 16] },
            Notice::PathEnded { seq: 10, why: PathEnd::NoRoute, destination: 11, tag: [12; 16] },
            Notice::AnswerBegun { message: 13, len: 14 },
        ] {
            let mut bytes = notice.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Notice::decode(&bytes[..cut]), None);
            }
            bytes.extend_from_slice(b"newer");
            assert_eq!(Notice::decode(&bytes), Some(notice));
        }
        assert_eq!(Notice::decode(&[9; 100]), None);
        assert_eq!(Notice::decode(&[100; 100]), None);
    }

    #[test]
    fn no_answer_to_a_ping_is_longer_than_the_ping() {
        let ended = Notice::PathEnded { seq: 1, why: PathEnd::Other, destination: 2, tag: [3; 16] };
        assert_eq!(Notice::decode(&ended.encode()), Some(ended.clone()));
        assert_eq!([Notice::Ping { number: 4 }.encode().len(), ended.encode().len()], [PING_LEN; 2]);
        assert!(Notice::Pong { number: 4 }.encode().len() <= PING_LEN);
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
