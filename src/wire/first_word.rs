//! What the first bytes within TLS tell of who sends them, where it is no channel for applications.

/// So many bytes tell.
pub const FIRST_WORD_LEN: usize = 10;

/// Who speaks like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstWord {
    /// The p2p port of a node of FISCO BCOS 2.x.
    Node2x,
    /// The p2p port of a node of this kind.
    Node,
    /// A web server, as the RPC port of FISCO BCOS 3.x is one, too.
    Http,
}

impl FirstWord {
    /// By the first bytes; `None` if they are not of these, or too few.
    pub fn of(first: &[u8]) -> Option<Self> {
        if first.starts_with(b"HTTP/") {
            return Some(Self::Http);
        }
        // Length, version, and of 2.x i32 protocol 1 or 2 (INTEROP §2.1); of nodes of this kind version 1 and the type of the first
        // frame (docs/node-link.md).
        match *first.get(..FIRST_WORD_LEN)? {
            [_, _, _, _, 0 | 0x80, 0, 0, 0, 0, 1 | 2] => Some(Self::Node2x),
            [_, _, _, _, 0, 1, 0, 1, ..] => Some(Self::Node),
            _ => None,
        }
    }
}
