//! The buffers that the kernel fills, and whose each of them is.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
};

pub(super) const PAGE: usize = 4096;

/// Receive buffers shared with the kernel. A buffer is ours from [`Self::take`], which follows the completion that names
/// it, until [`Self::release`].
pub(super) struct Buffers {
    memory: NonNull<u8>,
    count: u16,
    len: usize,
    /// Which are ours. What is read of one that the kernel has may be anything, and seldom is.
    #[cfg(debug_assertions)]
    ours: Vec<bool>,
}

impl Buffers {
    /// Makes `count` buffers (a power of two) of `len` bytes. All are the kernel's.
    pub(super) fn new(count: u16, len: usize) -> Self {
        assert!(count.is_power_of_two() && len > 0);
        Self {
            memory: allocate(Self::layout(count, len)),
            count,
            len,
            #[cfg(debug_assertions)]
            ours: vec![false; usize::from(count)],
        }
    }

    fn layout(count: u16, len: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * len, PAGE).expect("sizes are bounded by the settings")
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// The length of each.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where a buffer begins.
    pub(super) fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "no such buffer");
        // SAFETY: it lies in our memory, which has `count` times `len` bytes.
        unsafe { self.memory.as_ptr().add(usize::from(id) * self.len) }
    }

    /// A completion has named a buffer.
    pub(super) fn take(&mut self, id: u16) {
        assert!(id < self.count, "the kernel named a buffer that does not exist");
        self.change_hands(id, true);
    }

    /// A buffer is the kernel's again.
    pub(super) fn release(&mut self, id: u16) {
        self.change_hands(id, false);
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
        // between the completion that names it and its return, and `&mut self` keeps `release` away while the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.address(id), len) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the kernel's interest is gone before (field order in `Ring`, and
        // no receive is pending when it ends).
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.count, self.len)) };
    }
}

/// Zeroed memory.
pub(super) fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout here has size 0.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}
