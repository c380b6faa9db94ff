//! The SDK link of FISCO BCOS 3.x (INTEROP §3): an HTTP upgrade, then WebSocket frames, whose messages are put
//! into the form that frames of the SDK link of 2.x have, where they lie.
//!
//! ```text
//!   upgrade::Request ─► 101        GET / … Sec-WebSocket-Key
//!   Deframer ─► pieces             frame::Header · payload (unmasked) · …
//!   message::SdkHead ─► SDK frame  version type status n seq ext │ version topic length │ topic data
//!                                                 len type seq result │ topic length │ topic data
//! ```
//!
//! The head of a message with a seq of 32 bytes is as long as the header of an SDK frame, so that it is written over
//! in place, and what the relay sees of a message is the same whichever dialect its application speaks.

pub mod deframe;
pub mod fault;
pub mod frame;
pub mod message;
pub mod upgrade;

pub use deframe::{Deframer, Step};
pub use fault::{CloseCode, Fault};
pub use frame::{FrameHead, Opcode, Role};
pub use message::{MessageHead, MessageType, SdkHead};
