//! Buffers of frames that were kept and are not any more, for the next ones: traffic that flows allocates nothing. Each
//! thread has its own.

use std::cell::RefCell;

use super::frame::HEAD_LEN_MAX;

/// Bytes of buffers that a thread keeps; beyond it they are freed.
pub const BUFFER_POOL_BYTES_MAX: usize = 1 << 20;
/// Buffers have lengths that are multiples of this, in bytes, so that one is used again for all frames of about its length.
const STEP: usize = 64;

thread_local! {
    static POOL: RefCell<BufferPool> = const { RefCell::new(BufferPool { by_len: Vec::new(), bytes: 0 }) };
}

struct BufferPool {
    /// By capacity, in steps.
    by_len: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

impl BufferPool {
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let buffer = self.by_len.get_mut(len.div_ceil(STEP))?.pop()?;
        self.bytes -= buffer.capacity();
        debug_assert!(buffer.capacity() >= len);
        Some(buffer)
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        if capacity > HEAD_LEN_MAX || self.bytes + capacity > BUFFER_POOL_BYTES_MAX {
            return;
        }
        if self.by_len.is_empty() {
            self.by_len.resize_with(HEAD_LEN_MAX / STEP + 1, Vec::new);
        }
        self.by_len[capacity / STEP].push(buffer);
        self.bytes += capacity;
    }
}

/// An empty buffer for so many bytes, of the pool if there is one.
pub(super) fn take(len: usize) -> Vec<u8> {
    let pooled = POOL.try_with(|buffer_pool| buffer_pool.borrow_mut().take(len)).ok().flatten();
    pooled.unwrap_or_else(|| Vec::with_capacity(len.next_multiple_of(STEP)))
}

/// A copy in such a buffer.
pub(super) fn copy(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = take(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer
}

/// Takes a buffer back.
pub(super) fn give_back(buffer: Vec<u8>) {
    if buffer.capacity() > 0 {
        // A thread that ends keeps nothing.
        let _ = POOL.try_with(|buffer_pool| buffer_pool.borrow_mut().put(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_bytes() -> usize {
        POOL.with(|buffer_pool| buffer_pool.borrow().bytes)
    }

    #[test]
    fn a_buffer_is_used_again_for_frames_of_about_its_length() {
        let first = copy(&[1; 100]);
        let place = first.as_ptr();
        assert_eq!(pool_bytes(), 0, "it is in use");
        give_back(first);
        assert_eq!(pool_bytes(), 128);
        let shorter = copy(&[2; 70]);
        assert_eq!((shorter.as_ptr(), &shorter[..]), (place, &[2; 70][..]));
        give_back(shorter);
        let again = copy(&[3; 128]);
        assert_eq!((again.as_ptr(), &again[..]), (place, &[3; 128][..]));
        give_back(again);
        let longer = copy(&[4; 300]);
        assert_ne!(longer.as_ptr(), place);
        let too_long = copy(&[5; 129]);
        assert_ne!(too_long.as_ptr(), place);
    }

    #[test]
    fn spare_buffers_stay_within_their_bound() {
        let frames: Vec<Vec<u8>> = (0..2_000).map(|_| copy(&[0; 1_000])).collect();
        frames.into_iter().for_each(give_back);
        assert!(pool_bytes() <= BUFFER_POOL_BYTES_MAX && pool_bytes() > BUFFER_POOL_BYTES_MAX - 1_000);
        give_back(copy(&[0; 2 * HEAD_LEN_MAX]));
        assert!(pool_bytes() <= BUFFER_POOL_BYTES_MAX);
    }
}
