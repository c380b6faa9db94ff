//! What goes wrong between this node and its peers, and whose fault it is.

use crate::wire::{
    node::HeaderError,
    ws::{self, CloseCode, upgrade::Refusal},
};

/// Whose fault something is, as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer's: what it sent is none of the protocol, or more than the bounds allow.
    Protocol,
    /// The peer's: it does not keep up.
    Peer,
    /// A node's that is not the one that brought it.
    Other,
    /// The network's, or of a process that was killed.
    Path,
    /// An operator's, here or at the peer: by a list, a bound or a key.
    Operator,
    /// Nothing is wrong.
    Nobody,
}

/// What a node did on its link that no node may do, whatever the network and the settings are: always its own fault. The link
/// is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeFault {
    /// The frame has no header that can be read.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// Something came first that is no Hello.
    #[error("a frame before its Hello")]
    BeforeHello,
    /// A Hello that cannot be read.
    #[error("a malformed Hello")]
    Hello,
    /// An acknowledgement that cannot be read.
    #[error("a malformed Ack")]
    Ack,
    /// An acknowledgement of more than was sent.
    #[error("an Ack of frames that were never sent")]
    AckOfNothing,
    /// A state frame that is longer than any may be.
    #[error("a state frame beyond the bound")]
    StateLength,
    /// The numbers before a message are not there, or contradict each other.
    #[error("a message without the numbers before it, or with numbers that contradict each other")]
    Numbers,
    /// Extensions that cannot be read.
    #[error("malformed extensions")]
    Extensions,
    /// A shared multicast over a link, or without its ticket.
    #[error("a multicast for several nodes without its ticket")]
    NoTicket,
    /// The frame within is of another length or type than it says.
    #[error("an AMOP frame that lies about its length or type")]
    InnerFrame,
}

/// Why a link ends. The relay gives one to [`Outbound::close`](super::Outbound::close); the engine gives one to
/// `handle_link_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it in order.
    #[error("closed by the peer")]
    ByPeer,
    /// A node closed the connection and not the TLS link on it, as nodes do that end in order.
    #[error("closed by the peer out of order")]
    Vanished,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// A record that did not authenticate, or a TLS alert.
    #[error("TLS failed: a record did not authenticate, was malformed, or the peer sent an alert")]
    Tls,
    /// A TLS handshake on a link that is without TLS.
    #[error("the peer speaks TLS, and this listener is without")]
    TlsUnexpected,
    /// A frame length below the header's or above the bound.
    #[error("a frame of {0} bytes is outside the bounds")]
    FrameLength(u32),
    /// A frame was not complete in time, or unfinished frames took too much memory.
    #[error("a frame was not completed in time")]
    FrameUnfinished,
    /// The pool of unfinished frames was full and this link held most of it.
    #[error("too many unfinished frames at once, and this one was the largest")]
    FramePoolFull,
    /// Silent in both directions for too long.
    #[error("silent for too long")]
    Idle,
    /// It did not read what was sent to it.
    #[error("takes nothing of what is sent to it")]
    Stalled,
    /// The handshake named protocols that are not spoken here.
    #[error("no protocol version in common")]
    Protocol,
    /// A node frame that is malformed.
    #[error("a malformed frame of the node link")]
    NodeFrame,
    /// Another link to the same node stays.
    #[error("another link to the same node stays")]
    Duplicate,
    /// A new link to the same node replaced it.
    #[error("replaced by a newer link to the same node")]
    Replaced,
    /// The peer bears our own node id.
    #[error("the peer bears this node's own id")]
    OwnId,
    /// The configuration's lists do not admit the peer any more.
    #[error("the lists of config.ini do not admit the peer any more")]
    NotAdmitted,
    /// The configuration does not name the peer any more.
    #[error("config.ini does not name the peer any more")]
    Removed,
    /// This node begins a later incarnation, since its clock went back: links are made anew.
    #[error("this node begins a new incarnation")]
    NewIncarnation,
    /// The keys of the connection are worn out.
    #[error("the connection's keys are used up")]
    KeysExhausted,
    /// The application that a connection to a ledger node is for has left.
    #[error("its application has left")]
    SessionEnded,
    /// The ledger node has not answered the handshake.
    #[error("the ledger node has not answered the handshake")]
    NotGreeted,
    /// A request to make a WebSocket of the link was refused.
    #[error("refused an HTTP request: {0}")]
    Upgrade(Refusal),
    /// A WebSocket's peer broke its rules.
    #[error("the WebSocket brought {0}")]
    WebSocket(#[from] ws::Fault),
    /// The node is shutting down.
    #[error("this node is shutting down")]
    Shutdown,
}

impl CloseReason {
    /// Whose fault it is that the link ends so.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Tls
            | Self::TlsUnexpected
            | Self::FrameLength(_)
            | Self::FrameUnfinished
            | Self::FramePoolFull
            | Self::NodeFrame
            | Self::Protocol
            | Self::Upgrade(_)
            | Self::WebSocket(_) => Fault::Protocol,
            Self::Stalled | Self::NotGreeted => Fault::Peer,
            Self::Vanished | Self::Broken => Fault::Path,
            Self::OwnId | Self::NotAdmitted | Self::Removed => Fault::Operator,
            Self::ByPeer
            | Self::Idle
            | Self::Duplicate
            | Self::Replaced
            | Self::NewIncarnation
            | Self::KeysExhausted
            | Self::SessionEnded
            | Self::Shutdown => Fault::Nobody,
        }
    }

    /// What an operator can do about it; `None` if nothing is wrong.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Vanished => "see whether the peer runs: its process may have been killed",
            Self::Broken => "see the peer's log and the network between",
            Self::Tls => {
                "something on the way changes bytes, or the peer's TLS is at fault: see what it runs"
            }
            Self::TlsUnexpected => "remove [tls] channel_plaintext, which is for measuring only",
            Self::FrameLength(_) => {
                "see what the peer sends; if it needs such frames, raise [amop] frame_len_max on all nodes"
            }
            Self::FrameUnfinished => "see whether the peer hangs, and the network between",
            Self::FramePoolFull => {
                "see who sends many large frames slowly, or raise [engine] unfinished_bytes_max"
            }
            Self::Stalled => {
                "see why the peer does not keep up, or raise [amop] session_queue_bytes_max or stall_timeout_ms"
            }
            Self::Protocol => "the peer needs a version that speaks the protocol of this node",
            Self::NodeFrame => "see what the peer runs; nodes of one network should run one version",
            Self::Upgrade(_) => "see what connects there: its answer tells it what to change",
            Self::WebSocket(ws::Fault::MessageTooLong(_)) => {
                "see what the peer sends; if it needs such messages, raise [amop] frame_len_max on all nodes"
            }
            Self::WebSocket(_) => {
                "see what the peer runs: it needs an SDK of FISCO BCOS 3.x, or one that does as that does"
            }
            Self::OwnId => "give every node a key of its own",
            Self::NotGreeted => "see whether [ledger] node.N is the channel port of a FISCO BCOS 2.x node",
            Self::ByPeer
            | Self::Idle
            | Self::Duplicate
            | Self::Replaced
            | Self::NotAdmitted
            | Self::Removed
            | Self::NewIncarnation
            | Self::KeysExhausted
            | Self::SessionEnded
            | Self::Shutdown => return None,
        })
    }
}

impl CloseReason {
    /// What the last frame of a WebSocket says that ends so.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::WebSocket(fault) => fault.close_code(),
            Self::Protocol => CloseCode::PROTOCOL_ERROR,
            Self::ByPeer => CloseCode::NORMAL,
            _ => CloseCode::GOING_AWAY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_something_is_wrong_a_close_reason_says_what_to_do() {
        for reason in
            [CloseReason::Tls, CloseReason::FrameLength(7), CloseReason::NodeFrame, CloseReason::Protocol]
                .into_iter()
                .chain([CloseReason::WebSocket(ws::Fault::Text), CloseReason::Upgrade(Refusal::Key)])
        {
            assert_eq!(reason.fault(), Fault::Protocol);
            assert!(reason.remedy().is_some(), "{reason}");
        }
        for reason in [CloseReason::ByPeer, CloseReason::Idle, CloseReason::Replaced, CloseReason::Shutdown] {
            assert_eq!((reason.fault(), reason.remedy()), (Fault::Nobody, None), "{reason}");
        }
    }
}
