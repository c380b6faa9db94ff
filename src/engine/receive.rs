//! The receiving side of a link: bytes → records → plaintext → frames, in place where they lie whole.

use std::time::Instant;

use super::assemble::{Assembler, FrameBounds, UnfinishedFrames};
use crate::{
    relay::CloseReason,
    tls::record::{Opened, Opener, record_len},
    wire::FrameRef,
};

pub(super) struct Receive {
    opener: Opener,
    bounds: FrameBounds,
    /// The beginning of a record whose end is not here yet.
    carry: Vec<u8>,
    pub(super) assembler: Assembler,
    /// Whether a receive is pending at the kernel.
    pub(super) receiving: bool,
}

impl Receive {
    pub(super) fn new(opener: Opener, bounds: FrameBounds) -> Self {
        Self { opener, bounds, carry: Vec::new(), assembler: Assembler::default(), receiving: false }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.opener.blocks()
    }

    /// Whether the peer asked for new keys.
    pub(super) fn take_update_request(&mut self) -> bool {
        self.opener.take_update_request()
    }

    /// Plaintext that came with the handshake.
    pub(super) fn handle_plaintext(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        plaintext: &[u8],
        handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        self.assembler.feed(now, self.bounds, unfinished, plaintext, handle)
    }

    /// Bytes off the socket. `handle` gets each frame and tells whether to go on; what follows after it
    /// said no is dropped, for the link ends.
    pub(super) fn handle_bytes(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        mut bytes: &mut [u8],
        mut handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        while !self.carry.is_empty() && !bytes.is_empty() {
            let wanted = match record_len(&self.carry).map_err(|_| CloseReason::Tls)? {
                Some(len) => len - self.carry.len(),
                None => crate::tls::record::HEADER_LEN - self.carry.len(),
            };
            let (taken, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            self.carry.extend_from_slice(taken);
            bytes = rest;
            if record_len(&self.carry).map_err(|_| CloseReason::Tls)? == Some(self.carry.len()) {
                let mut record = std::mem::take(&mut self.carry);
                if !self.handle_record(now, unfinished, &mut record, &mut handle)? {
                    return Ok(false);
                }
            }
        }
        while let Some(len) = record_len(bytes).map_err(|_| CloseReason::Tls)? {
            if len > bytes.len() {
                break;
            }
            let (record, rest) = bytes.split_at_mut(len);
            bytes = rest;
            if !self.handle_record(now, unfinished, record, &mut handle)? {
                return Ok(false);
            }
        }
        self.carry.extend_from_slice(bytes);
        Ok(true)
    }

    fn handle_record(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        record: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        match self.opener.open_in_place(record) {
            Ok(Opened::Data(plaintext)) => {
                self.assembler.feed(now, self.bounds, unfinished, plaintext, handle)
            }
            Ok(Opened::Nothing) => Ok(true),
            Ok(Opened::CloseNotify) => Err(CloseReason::ByPeer),
            Err(_) => Err(CloseReason::Tls),
        }
    }
}
