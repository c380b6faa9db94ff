//! Bytes ⇄ types for both kinds of link.
//!
//! This room knows what frames look like and nothing else: no clock, no sockets, no state between two
//! calls, nothing of ours imported. Decoders take a slice and give back views into it; they never
//! panic, whatever the bytes are, and never allocate because a length field promised something.
//!
//! ```text
//!   SDK link:   sdk::Header ── AmopBody ── topic::Topic        (WIRE §1)
//!   node link:  node::Header ── node::Extensions ── SDK frame  (WIRE §6.2, §6.3)
//!               hello::Hello, state::…, notice::Notice, trace, announcement (docs/node-link.md)
//!   of FISCO BCOS 2.x:  p2p_2x::Header ── TopicList, SDK frame  (INTEROP §2.1)
//!   SDK link of 3.x:    ws::upgrade, ws::frame::Header ── ws::MessageHead ── AMOP body  (INTEROP §3)
//! ```

pub mod announcement;
pub mod code;
mod first_word;
pub mod frame;
pub mod hello;
pub mod json;
pub mod node;
pub mod notice;
pub mod p2p_2x;
pub mod sdk;
pub mod state;
pub mod topic;
pub mod trace;
pub mod ws;

mod buffer_pool;
pub(crate) mod hex;
mod reader;

pub use buffer_pool::BUFFER_POOL_BYTES_MAX;
pub use code::ResultCode;
pub use first_word::{FIRST_WORD_LEN, FirstWord};
pub use frame::{FrameBuffer, FrameRef, RetainedFrame};
pub use node::{MessageNumber, NodeId};
pub use topic::{PrivateTopic, Topic, TopicKind};
