//! The buffers that the kernel fills: one ring of them per reactor.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering::Release},
};

use io_uring::{IoUring, types::BufRingEntry};

use super::ring::EngineError;

/// The ring's group number; there is one group per ring.
pub(super) const GROUP: u16 = 0;
const PAGE: usize = 4096;

/// Receive buffers shared with the kernel. A buffer is ours from [`Self::take`], which follows the completion that names
/// it, until [`Self::give_back`].
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    len: usize,
    tail: u16,
    /// Which are ours. What is read of one that the kernel has may be anything, and seldom is.
    #[cfg(debug_assertions)]
    ours: Vec<bool>,
}

impl Buffers {
    /// Makes `count` buffers (a power of two) of `len` bytes and hands them to the kernel.
    pub(super) fn register(ring: &IoUring, count: u16, len: usize) -> Result<Self, EngineError> {
        assert!(count.is_power_of_two() && len > 0);
        let entries = allocate(Self::entries_layout(count)).cast::<BufRingEntry>();
        let memory = allocate(Self::memory_layout(count, len));
        let mut buffers = Self {
            entries,
            memory,
            count,
            len,
            tail: 0,
            #[cfg(debug_assertions)]
            ours: vec![true; usize::from(count)],
        };
        // SAFETY: the entries are page-aligned, zeroed, as many as said, and live until `drop`, which the
        // reactor runs after the ring is gone.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, 0) }
            .map_err(|error| EngineError::from_io("receive buffers", error))?;
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    fn entries_layout(count: u16) -> Layout {
        let size = usize::from(count) * size_of::<BufRingEntry>();
        Layout::from_size_align(size, PAGE).expect("at most 512 KiB, page-aligned")
    }

    fn memory_layout(count: u16, len: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * len, PAGE).expect("sizes are bounded by the settings")
    }

    /// A completion has named a buffer.
    pub(super) fn take(&mut self, id: u16) {
        assert!(id < self.count, "the kernel named a buffer that does not exist");
        self.change_hands(id, true);
    }

    /// Debug builds look whether a buffer is where it should be before it goes to us, or to the kernel.
    fn change_hands(&mut self, id: u16, to_us: bool) {
        #[cfg(debug_assertions)]
        assert_eq!(std::mem::replace(&mut self.ours[usize::from(id)], to_us), !to_us, "buffer {id}");
        #[cfg(not(debug_assertions))]
        let _ = (id, to_us);
    }

    /// The filled part of a buffer that is ours.
    pub(super) fn filled(&mut self, id: u16, len: usize) -> &mut [u8] {
        #[cfg(debug_assertions)]
        assert!(self.ours[usize::from(id)], "the kernel has buffer {id}");
        assert!(id < self.count && len <= self.len, "the kernel named a buffer that does not exist");
        // SAFETY: the range lies in our memory, which is initialized; the kernel does not touch a buffer
        // between the completion that names it and its return to the ring, and `&mut self` keeps
        // `give_back` away while the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(usize::from(id) * self.len), len) }
    }

    /// Lets the kernel fill a buffer again.
    pub(super) fn give_back(&mut self, id: u16) {
        self.change_hands(id, false);
        let slot = self.tail & (self.count - 1);
        // SAFETY: the slot lies in the ring, and the kernel reads slots only below the tail, which is
        // moved past it afterwards. The tail lies in the reserved bytes of the first entry, which setting
        // address, length and id leaves alone.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(slot));
            entry.set_addr(self.memory.as_ptr().add(usize::from(id) * self.len) as u64);
            entry.set_len(self.len as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 inside the ring that only this thread writes and the kernel
        // reads.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with these layouts; the ring, and with it the kernel's interest,
        // is gone before (field order in the reactor, and no receive is pending when it ends).
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            dealloc(self.memory.as_ptr(), Self::memory_layout(self.count, self.len));
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout here has size 0.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}
