//! What a peer may do wrong on a WebSocket, and the code by which it is told.

use super::message::MessageError;

/// Why a WebSocket ends, as its close frame says it (RFC 6455, 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(pub u16);

#[allow(missing_docs)] // named as in RFC 6455
impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    pub const INVALID_PAYLOAD: Self = Self(1007);
    pub const POLICY_VIOLATION: Self = Self(1008);
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    pub const INTERNAL_ERROR: Self = Self(1011);
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Whether a close frame may bear it.
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// What a peer did that ends its WebSocket: always its own fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A client's frame without a mask.
    #[error("a frame that is not masked")]
    NotMasked,
    /// A server's frame with a mask.
    #[error("a frame of a server that is masked")]
    Masked,
    /// A reserved bit is set, though no extension was agreed on.
    #[error("a frame with a reserved bit set, as if an extension had been agreed on")]
    ReservedBit,
    /// An opcode without a meaning.
    #[error("a frame with the reserved opcode {0}")]
    ReservedOpcode(u8),
    /// A length in more bytes than it needs, or with its highest bit set.
    #[error("a frame whose length is encoded in a way that is not allowed")]
    LengthEncoding,
    /// A control frame of more than 125 bytes.
    #[error("a control frame of more than 125 bytes")]
    ControlTooLong,
    /// A control frame in several parts.
    #[error("a control frame that is fragmented")]
    ControlFragmented,
    /// A close frame whose payload is no code.
    #[error("a close frame without a valid code")]
    CloseMalformed,
    /// A part of a message that was never begun.
    #[error("a continuation frame without a message that it continues")]
    NothingToContinue,
    /// A message begins before the one before has ended.
    #[error("a message that begins before the last fragment of another")]
    MessageInterrupted,
    /// Text, where all messages are binary.
    #[error("a text message, where all messages are binary")]
    Text,
    /// A message of more bytes than the bound.
    #[error("a message of {0} bytes, more than the bound")]
    MessageTooLong(u64),
    /// A message that cannot be read.
    #[error("a malformed message: {0}")]
    Message(#[from] MessageError),
}

impl Fault {
    /// How the peer is told.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::NotMasked
            | Self::Masked
            | Self::ReservedBit
            | Self::ReservedOpcode(_)
            | Self::LengthEncoding
            | Self::ControlTooLong
            | Self::ControlFragmented
            | Self::CloseMalformed
            | Self::NothingToContinue
            | Self::MessageInterrupted => CloseCode::PROTOCOL_ERROR,
            Self::Text => CloseCode::UNSUPPORTED_DATA,
            Self::MessageTooLong(_) => CloseCode::MESSAGE_TOO_BIG,
            Self::Message(_) => CloseCode::INVALID_PAYLOAD,
        }
    }
}
