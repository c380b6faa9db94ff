//! What a node tells of a message that it had to do with: how it came, who was tried, how it ended. Nodes ask
//! each other for it by the message's seq (docs/node-link.md §9).
//!
//! Nothing of a message but its size and its times is in here: no topic, no payload, nobody's name.

use smallvec::SmallVec;

use super::{MessageNumber, ResultCode, notice::DIAGNOSTIC_BODY_LEN_MAX, reader::Reader, sdk::Seq};

/// Attempts that a trace has; of more, those in the middle are left out.
pub const ATTEMPTS_MAX: usize = 8;
/// Traces that one part of an answer has, the newest.
pub const TRACES_MAX: usize = 8;
/// Bytes of an attempt, and of a trace before its attempts.
const ATTEMPT_LEN: usize = 22;
const TRACE_LEN: usize = 51;

const _: () = assert!(
    PART_HEAD_LEN + TRACES_MAX * (2 + TRACE_LEN + ATTEMPTS_MAX * ATTEMPT_LEN) <= DIAGNOSTIC_BODY_LEN_MAX,
    "what nodes of this version know of a message fits into the parts that they take"
);

/// Makes an enum whose values go over the wire as a byte; one that only newer nodes know is read as the first.
macro_rules! tags {
    (
        $(#[doc = $about:literal])+
        pub enum $Tag:ident {
            $(#[doc = $first_help:literal])+ $First:ident = $first_name:literal,
            $($(#[doc = $help:literal])+ $Value:ident = $name:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $Tag {
            $(#[doc = $first_help])+
            #[default]
            $First,
            $($(#[doc = $help])+ $Value,)+
        }

        impl $Tag {
            const ALL: &[Self] = &[$(Self::$Value),+];

            fn of(byte: u8) -> Self {
                Self::ALL.iter().copied().find(|tag| *tag as u8 == byte).unwrap_or_default()
            }

            /// Its name for programs.
            pub fn name(self) -> &'static str {
                match self {
                    Self::$First => $first_name,
                    $(Self::$Value => $name,)+
                }
            }
        }
    };
}

tags! {
    /// What a node was to a message.
    pub enum Role {
        /// One that this version does not know.
        Other = "other",
        /// It took a unicast from a session.
        Request = "request",
        /// It took a unicast from another node.
        Forwarded = "forwarded_request",
        /// It took a multicast from a session.
        Multicast = "multicast",
        /// It took a multicast from another node.
        ForwardedMulticast = "forwarded_multicast",
        /// One of its other reactors copied a multicast to sessions and nodes.
FanOut = "copies",
        /// It took a unicast from the ledger node of a session, for that session.
        OfLedger = "request_of_ledger_node",
    }
}

tags! {
    /// How a message ended at a node.
    pub enum End {
        /// One that this version does not know.
        Other = "other",
        /// It has not: its answer is awaited.
        Open = "open",
        /// The node made the answer.
        ByNode = "answered_by_node",
        /// A session's answer was passed back.
        BySession = "answered_by_session",
        /// Who sent it left before there was an answer.
        SenderLeft = "sender_left",
        /// No session answered what a ledger node had sent, which has a timeout of its own.
        Unanswered = "unanswered",
    }
}

tags! {
    /// Why a message was refused before anybody was tried.
    pub enum Refusal {
        /// It was not refused, or for a reason that this version does not know.
        None = "none",
        /// Its body is malformed.
        BadBody = "bad_body",
        /// Its topic is one that is not routed, or a private one with nobody who may get it.
        NotRoutable = "not_routable",
        /// Its session waits for an answer under this seq already.
        SeqInUse = "seq_in_use",
        /// Too many requests wait for their answer.
        TableFull = "too_many_requests",
        /// The node is stopping.
        Stopping = "node_stopping",
        /// The TLS keys of its session are worn out.
        KeysExhausted = "keys_worn",
        /// It is over the limit of outbound bandwidth.
        OverBandwidth = "over_bandwidth",
        /// Its node is left out by the blacklist or the whitelist of the one that tells.
        NotAdmitted = "node_not_admitted",
        /// It is longer than the node that tells takes.
        TooLong = "too_long",
    }
}

tags! {
    /// Who was tried.
    pub enum AttemptKind {
        /// One that this version does not know.
        Other = "other",
        /// A session of the node that tells. [`Attempt::who`] is its number; with its lower 48 bits 0, it is only
        /// known that the session was one of the reactor in the upper 16 bits.
        Session = "session",
        /// Another node. [`Attempt::who`] is the first 8 bytes of its id.
        Node = "node",
        /// A session that is challenged for a private topic.
        Challenged = "challenged_session",
        /// The ledger node behind the node that tells. [`Attempt::who`] is its number there.
        Ledger = "ledger_node",
    }
}

tags! {
    /// What came of a try.
    pub enum AttemptOutcome {
        /// One that this version does not know.
        Other = "other",
        /// Nothing yet, or not before the message's time was up.
        Open = "open",
        /// It answered.
        Answered = "answered",
        /// The session had it and was silent for the push timeout.
        Silent = "silent",
        /// The session had it and left.
        Left = "left",
        /// No (other) session there could get it: they left, dropped the topic, or were tried before.
        NobodyLeft = "nobody_left",
        /// The session's queue was full.
        QueueFull = "queue_full",
        /// The session waits for an answer under this seq already.
        SeqInUse = "seq_in_use",
        /// Too many pushes wait for their answer there.
        PushesFull = "too_many_pushes",
        /// The node did not take it: the link to it was full, lost or silent.
        NotTaken = "not_taken",
        /// The node took it, and what became of it there was not heard in time.
        NotHeard = "not_heard",
        /// The node answered that none of its sessions could take it.
        NotDelivered = "not_delivered",
        /// The node answered that its sessions stayed silent.
        TimedOut = "timed_out",
        /// The limit of outbound bandwidth kept it from being sent.
        OverBandwidth = "over_bandwidth",
        /// The challenge is not open any more, or was carried already.
        ChallengeClosed = "challenge_closed",
        /// It was put on the link to the node, where nothing more is heard of it.
        Sent = "sent",
        /// It is longer than the node, or those on every route to it, take.
        TooLong = "too_long",
    }
}

/// One attempt to deliver a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// When, in microseconds after the message was taken.
    pub at_us: u32,
    /// How long until its outcome, in microseconds.
    pub took_us: u32,
    /// Who was tried.
    pub who: u64,
    /// For a node: the message's number on the node link.
    pub message: MessageNumber,
    /// What `who` is.
    pub kind: AttemptKind,
    /// Its outcome.
    pub outcome: AttemptOutcome,
}

/// The attempts of a message in their order; of many the first and the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    list: SmallVec<[Attempt; 2]>,
    left_out: u16,
}

impl Attempts {
    /// The attempts that were kept.
    pub fn as_slice(&self) -> &[Attempt] {
        &self.list
    }

    /// How many were not, in the middle.
    pub fn left_out(&self) -> u16 {
        self.left_out
    }

    /// Adds an attempt.
    pub fn push(&mut self, attempt: Attempt) {
        if self.list.len() == ATTEMPTS_MAX {
            self.list.remove(ATTEMPTS_MAX / 2);
            self.left_out = self.left_out.saturating_add(1);
        }
        self.list.push(attempt);
    }

    /// The last try that fits.
    pub fn last_mut(&mut self, fits: impl Fn(&Attempt) -> bool) -> Option<&mut Attempt> {
        self.list.iter_mut().rev().find(|attempt| fits(attempt))
    }
}

/// What a node knows of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageTrace {
    /// What the node was to it.
    pub role: Role,
    /// How it ended there.
    pub end: End,
    /// Whether it was refused at once, and why.
    pub refusal: Refusal,
    /// With which code, unless [`Self::end`] tells that there was no answer.
    pub code: i32,
    /// How long before it told this the node had taken the message, in microseconds.
    pub age_us: u64,
    /// From then to the end, in microseconds.
    pub took_us: u32,
    /// How long it could take at most, in milliseconds; 0 for a multicast.
    pub time_ms: u32,
    /// Where it came from: the number of a session of the node that tells, or the first 8 bytes of the id of
    /// another node, as [`Self::role`] tells.
    pub origin: u64,
    /// If it came from a node: its number on the node link.
    pub message: MessageNumber,
    /// Bytes of the whole frame.
    pub size: u32,
    /// Copies of a multicast that were queued for sessions.
    pub copies: u32,
    /// Copies that were not, because the session's queue was full.
    pub dropped: u32,
    /// Who was tried.
    pub attempts: Attempts,
}

impl MessageTrace {
    /// The code of its answer, if there was one.
    pub fn code(&self) -> Option<ResultCode> {
        matches!(self.end, End::ByNode | End::BySession).then_some(ResultCode(self.code))
    }

    /// Whether it came from another node.
    pub fn is_from_node(&self) -> bool {
        matches!(self.role, Role::Forwarded | Role::ForwardedMulticast)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&((TRACE_LEN + ATTEMPT_LEN * self.attempts.list.len()) as u16).to_be_bytes());
        out.extend_from_slice(&[self.role as u8, self.end as u8, self.refusal as u8]);
        out.extend_from_slice(&self.code.to_be_bytes());
        out.extend_from_slice(&self.age_us.to_be_bytes());
        out.extend_from_slice(&self.took_us.to_be_bytes());
        out.extend_from_slice(&self.time_ms.to_be_bytes());
        out.extend_from_slice(&self.origin.to_be_bytes());
        for number in [self.message.0, self.size, self.copies, self.dropped] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.attempts.left_out.to_be_bytes());
        out.extend_from_slice(&[ATTEMPT_LEN as u8, self.attempts.list.len() as u8]);
        for attempt in &self.attempts.list {
            for number in [attempt.at_us, attempt.took_us, attempt.message.0] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            out.extend_from_slice(&attempt.who.to_be_bytes());
            out.extend_from_slice(&[attempt.kind as u8, attempt.outcome as u8]);
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [role, end, refusal] = reader.array()?;
        let mut trace = Self {
            role: Role::of(role),
            end: End::of(end),
            refusal: Refusal::of(refusal),
            code: i32::from_be_bytes(reader.array()?),
            age_us: reader.u64()?,
            took_us: reader.u32()?,
            time_ms: reader.u32()?,
            origin: reader.u64()?,
            message: MessageNumber(reader.u32()?),
            size: reader.u32()?,
            copies: reader.u32()?,
            dropped: reader.u32()?,
            attempts: Attempts { list: SmallVec::new(), left_out: reader.u16()? },
        };
        let [step_len, count] = reader.array()?;
        if usize::from(step_len) < ATTEMPT_LEN || usize::from(count) > ATTEMPTS_MAX {
            return None;
        }
        for _ in 0..count {
            let mut attempt = Reader(reader.take(step_len.into())?);
            trace.attempts.list.push(Attempt {
                at_us: attempt.u32()?,
                took_us: attempt.u32()?,
                message: MessageNumber(attempt.u32()?),
                who: attempt.u64()?,
                kind: AttemptKind::of(attempt.u8()?),
                outcome: AttemptOutcome::of(attempt.u8()?),
            });
        }
        Some(trace)
    }
}

/// Bytes of a part before its traces.
const PART_HEAD_LEN: usize = 2 + 2 + 8 + 1 + 1 + 1;

/// What one reactor of a node knows of a message; all of them answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Which reactor this is.
    pub reactor: u16,
    /// How many there are; as many parts make the answer.
    pub reactors: u16,
    /// For how long the node has been up, in microseconds: it knows nothing of what was before.
    pub up_us: u64,
    /// Whether it keeps messages that end with 0.
    pub tracing: bool,
    /// Whether it knows of further traces, which are older.
    pub more: bool,
    /// What it knows, the newest first.
    pub traces: Vec<MessageTrace>,
}

impl Part {
    /// The body of the reply.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.reactor.to_be_bytes());
        out.extend_from_slice(&self.reactors.to_be_bytes());
        out.extend_from_slice(&self.up_us.to_be_bytes());
        out.extend_from_slice(&[self.tracing.into(), self.more.into(), self.traces.len() as u8]);
        for trace in &self.traces {
            trace.encode_into(&mut out);
        }
        out
    }

    /// Reads it back; `None` if it is malformed, or has more than [`TRACES_MAX`].
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let (reactor, reactors) = (reader.u16()?, reader.u16()?);
        let up_us = reader.u64()?;
        let [tracing, more, count] = reader.array()?;
        if reactor >= reactors || usize::from(count) > TRACES_MAX {
            return None;
        }
        let trace = |_| {
            let len = reader.u16()?;
            MessageTrace::decode(reader.take(len.into())?)
        };
        let traces = (0..count).map(trace).collect::<Option<Vec<_>>>()?;
        Some(Self { reactor, reactors, up_us, tracing: tracing != 0, more: more != 0, traces })
    }
}

/// Reads a seq as people write it: its 32 characters, a UUID with its dashes, or 64 hex digits of its bytes.
pub fn seq_from_text(text: &str) -> Option<Seq> {
    if let Some(seq) = super::hex::decode(text) {
        return Some(seq);
    }
    let dashes = [8, 13, 18, 23];
    let is_uuid = text.len() == 36 && dashes.iter().all(|&at| text.as_bytes()[at] == b'-');
    let plain: Vec<u8> = match is_uuid {
        true => text.bytes().filter(|&byte| byte != b'-').collect(),
        false => text.bytes().collect(),
    };
    plain.try_into().ok().filter(|seq: &Seq| seq.iter().all(u8::is_ascii_alphanumeric))
}

/// Shows a seq so that [`seq_from_text`] reads it.
pub fn seq_to_text(seq: &Seq) -> String {
    match std::str::from_utf8(seq) {
        Ok(text) if seq.iter().all(u8::is_ascii_alphanumeric) => text.to_owned(),
        _ => super::hex::encode(seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Part {
        let mut attempts = Attempts::default();
        for index in 0..ATTEMPTS_MAX as u32 {
            attempts.push(Attempt {
                at_us: index,
                took_us: u32::MAX,
                who: u64::MAX - u64::from(index),
                message: MessageNumber(7),
                kind: AttemptKind::Node,
                outcome: AttemptOutcome::Sent,
            });
        }
        let trace = MessageTrace {
            role: Role::FanOut,
            end: End::SenderLeft,
            refusal: Refusal::OverBandwidth,
            code: -1,
            age_us: u64::MAX,
            took_us: 1,
            time_ms: 2,
            origin: 3,
            message: MessageNumber(4),
            size: 5,
            copies: 6,
            dropped: 7,
            attempts,
        };
        let traces = vec![trace; TRACES_MAX];
        Part { reactor: 2, reactors: 3, up_us: 4, tracing: true, more: true, traces }
    }

    #[test]
    fn a_full_part_survives_encoding_and_cut_ones_are_none() {
        let part = part();
        let mut bytes = part.encode();
        assert!(bytes.len() <= DIAGNOSTIC_BODY_LEN_MAX);
        for cut in 0..bytes.len() {
            assert_eq!(Part::decode(&bytes[..cut]), None);
        }
        bytes.extend_from_slice(b"newer");
        assert_eq!(Part::decode(&bytes), Some(part));
    }

    #[test]
    fn what_is_beyond_the_bounds_is_none() {
        let mut many = part();
        many.traces = vec![MessageTrace::default(); TRACES_MAX + 1];
        assert_eq!(Part::decode(&many.encode()), None);
        assert_eq!(Part::decode(&Part { reactor: 3, ..part() }.encode()), None);
    }

    #[test]
    fn tags_accounts_and_steps_of_newer_nodes_are_read_as_far_as_they_are_known() {
        let mut one = part();
        one.traces.truncate(1);
        let mut bytes = one.encode();
        let at = PART_HEAD_LEN;
        let len = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at + 2] = 200;
        bytes[at..at + 2].copy_from_slice(&(len + 3).to_be_bytes());
        bytes.extend_from_slice(b"new");
        one.traces[0].role = Role::Other;
        assert_eq!(Part::decode(&bytes), Some(one));
    }

    #[test]
    fn of_many_steps_the_first_and_the_last_are_kept() {
        let mut attempts = Attempts::default();
        for at_us in 0..20 {
            attempts.push(Attempt { at_us, ..Attempt::default() });
        }
        let kept: Vec<u32> = attempts.as_slice().iter().map(|attempt| attempt.at_us).collect();
        assert_eq!((kept.as_slice(), attempts.left_out()), (&[0, 1, 2, 3, 16, 17, 18, 19][..], 12));
    }

    #[test]
    fn a_seq_is_read_as_it_is_shown_and_as_people_write_uuids() {
        let plain = *b"b3ae60984320433aa3efbc6462ef6102";
        assert_eq!(seq_from_text("b3ae6098-4320-433a-a3ef-bc6462ef6102"), Some(plain));
        for seq in [plain, [0xff; 32], [b' '; 32], [b'Z'; 32]] {
            assert_eq!(seq_from_text(&seq_to_text(&seq)), Some(seq));
        }
        for wrong in ["", "abc", &"g".repeat(33), &"-".repeat(32), &"g".repeat(64), &"é".repeat(16)] {
            assert_eq!(seq_from_text(wrong), None, "{wrong}");
        }
    }
}
