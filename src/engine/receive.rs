//! The receiving side of a link: bytes → records → plaintext → frames, in place where they lie whole. Without
//! TLS the bytes are the plaintext.

use std::time::Instant;

use super::{
    assemble::{Assembler, FrameBounds, UnfinishedFrames},
    bounds::RECORD_COMPLETE_WITHIN,
};
use crate::{
    relay::CloseReason,
    tls::record::{Opened, Opener, record_len},
    wire::FrameRef,
};

/// What a TLS connection begins with: type and major version of a handshake's record.
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

pub(super) struct Receive {
    /// `None` without TLS.
    opener: Option<Opener>,
    bounds: FrameBounds,
    /// The beginning of a record whose end is not here yet; counted among the unfinished frames.
    carry: Vec<u8>,
    /// When the first byte of `carry` came.
    carried_since: Option<Instant>,
    assembler: Assembler,
    /// Whether a receive is pending at the kernel.
    pub(super) receiving: bool,
}

impl Receive {
    pub(super) fn new(opener: Option<Opener>, bounds: FrameBounds) -> Self {
        Self {
            opener,
            bounds,
            carry: Vec::new(),
            carried_since: None,
            assembler: Assembler::default(),
            receiving: false,
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.opener.as_ref().map_or(0, Opener::blocks)
    }

    /// Whether the peer asked for new keys.
    pub(super) fn take_update_request(&mut self) -> bool {
        self.opener.as_mut().is_some_and(Opener::take_update_request)
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
        if self.opener.is_none() {
            return self.handle_without_tls(now, unfinished, bytes, handle);
        }
        while !self.carry.is_empty() && !bytes.is_empty() {
            let wanted = match record_len(&self.carry).map_err(|_| CloseReason::Tls)? {
                Some(len) => len - self.carry.len(),
                None => crate::tls::record::HEADER_LEN - self.carry.len(),
            };
            let (taken, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            self.carry(now, unfinished, taken);
            bytes = rest;
            if record_len(&self.carry).map_err(|_| CloseReason::Tls)? == Some(self.carry.len()) {
                let mut record = self.take_carried(unfinished);
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
        self.carry(now, unfinished, bytes);
        Ok(true)
    }

    fn carry(&mut self, now: Instant, unfinished: &UnfinishedFrames, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.carried_since.get_or_insert(now);
            self.carry.extend_from_slice(bytes);
            unfinished.add(bytes.len());
        }
    }

    fn take_carried(&mut self, unfinished: &UnfinishedFrames) -> Vec<u8> {
        self.carried_since = None;
        unfinished.release(self.carry.len());
        std::mem::take(&mut self.carry)
    }

    /// Gives up the frame and the record in progress; the link ends.
    pub(super) fn abandon(&mut self, unfinished: &UnfinishedFrames) {
        self.take_carried(unfinished);
        self.assembler.abandon(unfinished);
    }

    /// Bytes of the frame in progress.
    pub(super) fn progress(&self) -> usize {
        self.assembler.progress() + self.carry.len()
    }

    /// Whether the frame or the record in progress has taken too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.assembler.is_overdue(now)
            || self
                .carried_since
                .is_some_and(|since| now.saturating_duration_since(since) > RECORD_COMPLETE_WITHIN)
    }

    fn handle_without_tls(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        bytes: &[u8],
        handle: impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        self.assembler.feed(now, self.bounds, unfinished, bytes, handle).map_err(|reason| match reason {
            CloseReason::FrameLength(len) if len.to_be_bytes().starts_with(&TLS_HANDSHAKE) => {
                CloseReason::TlsUnexpected
            }
            reason => reason,
        })
    }

    fn handle_record(
        &mut self,
        now: Instant,
        unfinished: &UnfinishedFrames,
        record: &mut [u8],
        handle: &mut impl FnMut(FrameRef<'_>) -> bool,
    ) -> Result<bool, CloseReason> {
        let Some(opener) = &mut self.opener else { return Err(CloseReason::Tls) };
        match opener.open_in_place(record) {
            Ok(Opened::Data(plaintext)) => {
                self.assembler.feed(now, self.bounds, unfinished, plaintext, handle)
            }
            Ok(Opened::Nothing) => Ok(true),
            Ok(Opened::CloseNotify) => Err(CloseReason::ByPeer),
            Err(_) => Err(CloseReason::Tls),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engine::testing::connection,
        tls::record::{ContentType, Sealer},
    };

    const BOUNDS: FrameBounds = FrameBounds { len_min: 42, len_max: 1 << 20 };

    fn record(sealer: &mut Sealer, frame_len: usize) -> Vec<u8> {
        let mut frame = vec![0; frame_len];
        frame[..4].copy_from_slice(&(frame_len as u32).to_be_bytes());
        let mut record = Vec::new();
        sealer.seal(ContentType::ApplicationData, &[&frame], &mut record).unwrap();
        record
    }

    #[test]
    fn a_record_that_dribbles_is_counted_and_overdue_until_it_is_whole() {
        let (mut sealer, opener) = connection();
        let (mut receive, start) = (Receive::new(Some(opener), BOUNDS), Instant::now());
        let unfinished = UnfinishedFrames::new(usize::MAX);
        let mut record = record(&mut sealer, 9_000);
        let (last, dribbled) = record.split_last_mut().unwrap();
        let mut now = start;
        for byte in dribbled {
            now += Duration::from_millis(2);
            let taken =
                receive.handle_bytes(now, &unfinished, std::slice::from_mut(byte), |_| unreachable!());
            assert_eq!(taken, Ok(true));
        }
        assert_eq!(unfinished.bytes(), receive.progress());
        assert!(unfinished.bytes() > 9_000);
        assert!(!receive.is_overdue(start + RECORD_COMPLETE_WITHIN));
        assert!(receive.is_overdue(now));
        let mut frames = 0;
        let taken = receive.handle_bytes(now, &unfinished, std::slice::from_mut(last), |_| {
            frames += 1;
            true
        });
        assert_eq!((taken, frames), (Ok(true), 1));
        assert!(!receive.is_overdue(now + Duration::from_secs(3600)));
        assert_eq!(unfinished.bytes(), 0);
    }

    #[test]
    fn a_link_that_ends_gives_back_what_it_had_of_a_record() {
        let (mut sealer, opener) = connection();
        let mut receive = Receive::new(Some(opener), BOUNDS);
        let unfinished = UnfinishedFrames::new(10);
        let mut record = record(&mut sealer, 100);
        let taken = receive.handle_bytes(Instant::now(), &unfinished, &mut record[..50], |_| unreachable!());
        assert_eq!(taken, Ok(true));
        assert!(unfinished.is_over());
        receive.abandon(&unfinished);
        assert_eq!(unfinished.bytes(), 0);
    }
}
