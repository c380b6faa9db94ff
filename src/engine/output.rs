//! Records that go out, one behind the other: memory that is written over, and so zeroed once.

use super::{
    blocks::{BLOCK_LEN, Block, Blocks},
    bounds::OUTPUT_KEPT_MAX,
};
use crate::tls::record::{ContentType, SealError, Sealer};

/// Shortest memory in bytes.
const LEN_MIN: usize = 512;

#[derive(Default)]
pub(super) struct Output {
    memory: Block,
    len: usize,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// Takes it that what is here has gone; memory is kept if it is little.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        if self.memory.len() > OUTPUT_KEPT_MAX {
            self.memory = Block::default();
        }
    }

    /// Gives back all memory; nothing is here.
    pub(super) fn give_back(&mut self, blocks: &Blocks) {
        self.len = 0;
        blocks.keep_output(std::mem::take(&mut self.memory));
    }

    /// Appends one record that holds `parts`, joined; without TLS just these.
    pub(super) fn seal(
        &mut self,
        blocks: &Blocks,
        sealer: Option<&mut Sealer>,
        parts: &[&[u8]],
    ) -> Result<(), SealError> {
        let Some(sealer) = sealer else {
            parts.iter().for_each(|part| self.append(blocks, part));
            return Ok(());
        };
        let len = parts.iter().map(|part| part.len()).sum::<usize>() + sealer.overhead();
        self.reserve(blocks, len);
        self.len += sealer.seal_into(ContentType::ApplicationData, parts, &mut self.memory[self.len..])?;
        Ok(())
    }

    pub(super) fn append(&mut self, blocks: &Blocks, bytes: &[u8]) {
        self.reserve(blocks, bytes.len());
        self.memory[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Makes room for so much more. Memory is less than twice what is in use, or little.
    pub(super) fn reserve(&mut self, blocks: &Blocks, more: usize) {
        let needed = self.len + more;
        if needed <= self.memory.len() {
            return;
        }
        if !(BLOCK_LEN / 2..=BLOCK_LEN).contains(&needed) {
            if self.memory.is_empty() {
                self.memory = blocks.take_output();
                if needed <= self.memory.len() {
                    return;
                }
            }
            return self.memory.grow(needed.next_power_of_two().max(LEN_MIN));
        }
        let mut block = blocks.take();
        block[..self.len].copy_from_slice(self.as_slice());
        self.memory = block;
    }
}
