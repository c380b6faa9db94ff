//! Memory that is used again: blocks of one length for large frames, so that a megabyte that passes costs
//! neither page faults nor zeroes, and little buffers, which a link has only while it has something to send.
//!
//! A reactor keeps what comes back to it, the last first, for that is in its caches; what it did not need
//! for a while it frees.

use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
    rc::Rc,
    sync::Arc,
};

use crossbeam::queue::ArrayQueue;

use super::bounds::{BLOCKS_KEPT_MAX, OUTPUT_KEPT_MAX, OUTPUTS_KEPT_MAX, OWN_RECEIVES_MAX, SEALED_AHEAD_MAX};
use crate::{
    relay::settings::Tables,
    tls::record::{OVERHEAD_MAX, PLAINTEXT_LEN_MAX},
};

/// Full records of a frame that a block holds opened: with frames of applications, whose headers have one
/// length, each record that is sent then lies in one block.
const RECORDS: usize = 17;
/// Beyond them: for the last byte of a TLS 1.3 record, which is no plaintext, and for short records in
/// between.
const SLACK: usize = 4 * 1024;
/// Length of a block in bytes.
pub(super) const BLOCK_LEN: usize = RECORDS * PLAINTEXT_LEN_MAX + SLACK;

const _: () = assert!(BLOCK_LEN >= SEALED_AHEAD_MAX + PLAINTEXT_LEN_MAX + RECORDS * OVERHEAD_MAX);

type Home = Arc<ArrayQueue<Vec<u8>>>;

/// A reactor's blocks.
#[derive(Clone)]
pub(super) struct Blocks(Rc<Inner>);

struct Inner {
    free: RefCell<Vec<Vec<u8>>>,
    /// What came back, from whichever reactor.
    home: Home,
    /// The fewest that were free since the last trim.
    least: Cell<usize>,
    /// How many blocks are kept.
    kept_max: usize,
    /// Held once by each link that receives into a block of its own.
    receives: Rc<()>,
    /// How many links that are.
    receives_max: usize,
    /// Little memory of outgoing queues, of any length …
    outputs: RefCell<Vec<Vec<u8>>>,
    /// … and empty buffers for what is gathered there.
    gathered: RefCell<Vec<Vec<u8>>>,
    /// How many of each of these are kept.
    outputs_max: usize,
}

impl Blocks {
    #[cfg(test)]
    pub(super) fn new() -> Self {
        Self::with_tables(Tables::FULL)
    }

    /// None yet, and so many at most as the node's memory has room for.
    pub(super) fn with_tables(tables: Tables) -> Self {
        let kept_max = tables.of(BLOCKS_KEPT_MAX);
        Self(Rc::new(Inner {
            free: RefCell::default(),
            home: Arc::new(ArrayQueue::new(kept_max)),
            kept_max,
            least: Cell::new(0),
            receives: Rc::default(),
            receives_max: tables.of(OWN_RECEIVES_MAX),
            outputs: RefCell::default(),
            gathered: RefCell::default(),
            outputs_max: tables.of(OUTPUTS_KEPT_MAX),
        }))
    }

    /// A block of [`BLOCK_LEN`] bytes, which hold anything.
    pub(super) fn take(&self) -> Block {
        let Inner { free, home, least, .. } = &*self.0;
        let mut free = free.borrow_mut();
        self.gather(&mut free);
        let memory = free.pop().unwrap_or_else(|| vec![0; BLOCK_LEN]);
        least.set(least.get().min(free.len()));
        Block { memory, home: Some(home.clone()) }
    }

    /// A right to receive into a block, if not too many links do.
    pub(super) fn take_receive(&self) -> Option<Rc<()>> {
        let Inner { receives, receives_max, .. } = &*self.0;
        (Rc::strong_count(receives) <= *receives_max).then(|| receives.clone())
    }

    /// Memory that an outgoing queue had before, or none.
    pub(super) fn take_output(&self) -> Block {
        Block { memory: self.0.outputs.borrow_mut().pop().unwrap_or_default(), home: None }
    }

    /// An empty buffer.
    pub(super) fn take_gathered(&self) -> Vec<u8> {
        self.0.gathered.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps memory of an outgoing queue that has nothing to send.
    pub(super) fn keep_output(&self, mut block: Block) {
        if block.home.is_none() {
            keep(&self.0.outputs, std::mem::take(&mut block.memory), self.0.outputs_max);
        }
    }

    /// The same of a buffer.
    pub(super) fn keep_gathered(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        keep(&self.0.gathered, buffer, self.0.outputs_max);
    }

    fn gather(&self, free: &mut Vec<Vec<u8>>) {
        while free.len() < self.0.kept_max
            && let Some(memory) = self.0.home.pop()
        {
            free.push(memory);
        }
    }

    /// Frees what was not needed since the last call.
    pub(super) fn trim(&self) {
        let mut free = self.0.free.borrow_mut();
        let unused = self.0.least.get().min(free.len());
        // Those at the bottom were not used for longest.
        free.drain(..unused);
        self.gather(&mut free);
        self.0.least.set(free.len());
    }
}

fn keep(list: &RefCell<Vec<Vec<u8>>>, buffer: Vec<u8>, kept_max: usize) {
    let mut list = list.borrow_mut();
    if (1..=OUTPUT_KEPT_MAX).contains(&buffer.capacity()) && list.len() < kept_max {
        list.push(buffer);
    }
}

/// Memory of its own length, or a block of [`BLOCK_LEN`] bytes that returns to its reactor.
#[derive(Default)]
pub(super) struct Block {
    memory: Vec<u8>,
    home: Option<Home>,
}

impl Block {
    /// Zeroes that return to no reactor.
    pub(super) fn of_len(len: usize) -> Self {
        Self { memory: vec![0; len], home: None }
    }

    /// The same bytes with zeroes behind them, up to such a length.
    pub(super) fn grow(&mut self, len: usize) {
        self.home = None;
        self.memory.resize(len, 0);
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // What it has no room for is freed.
            let _ = home.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_used_again_and_freed_when_they_were_not_needed_for_a_while() {
        let blocks = Blocks::new();
        let first = blocks.take();
        let memory = first.as_ptr();
        drop(first);
        assert_eq!(blocks.take().as_ptr(), memory);
        drop((0..10).map(|_| blocks.take()).collect::<Vec<_>>());
        let free = || blocks.0.free.borrow().len();
        blocks.trim();
        assert_eq!(free(), 10);
        // One is needed at a time.
        drop(blocks.take());
        blocks.trim();
        assert_eq!(free(), 1);
        blocks.trim();
        assert_eq!(free(), 0);
    }

    #[test]
    fn a_reactor_keeps_no_more_blocks_than_the_bound() {
        let blocks = Blocks::new();
        for _ in 0..2 {
            drop((0..3 * BLOCKS_KEPT_MAX).map(|_| blocks.take()).collect::<Vec<_>>());
        }
        blocks.trim();
        assert!(blocks.0.free.borrow().len() + blocks.0.home.len() <= 2 * BLOCKS_KEPT_MAX);
    }

    #[test]
    fn blocks_come_back_from_other_threads() {
        let blocks = Blocks::new();
        let block = blocks.take();
        let memory = block.as_ptr() as usize;
        std::thread::spawn(move || drop(block)).join().unwrap();
        assert_eq!(blocks.take().as_ptr() as usize, memory);
    }

    #[test]
    fn little_memory_is_used_again_and_much_or_many_are_freed() {
        let blocks = Blocks::new();
        let mut output = blocks.take_output();
        output.grow(1_000);
        let memory = output.as_ptr();
        blocks.keep_output(output);
        assert_eq!((blocks.take_output().as_ptr(), blocks.take_output().len()), (memory, 0));
        blocks.keep_output(Block::of_len(OUTPUT_KEPT_MAX + 1));
        assert_eq!(blocks.take_output().len(), 0);
        (0..2 * OUTPUTS_KEPT_MAX).for_each(|_| blocks.keep_gathered(vec![1; 10]));
        assert_eq!(blocks.0.gathered.borrow().len(), OUTPUTS_KEPT_MAX);
        assert!(blocks.take_gathered().is_empty());
    }

    #[test]
    fn only_so_many_links_receive_into_blocks() {
        let blocks = Blocks::new();
        let mut held: Vec<_> = std::iter::from_fn(|| blocks.take_receive()).collect();
        assert_eq!(held.len(), OWN_RECEIVES_MAX);
        held.pop();
        assert!(blocks.take_receive().is_some());
    }
}
