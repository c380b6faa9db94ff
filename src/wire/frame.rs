//! A frame as it lies in memory: one slice, or the chunks of a large one.

use bytes::Bytes;

use super::spare;

/// The longest prefix of a frame that is contiguous in memory whenever the frame is that long: enough
/// for every header, option list, extension and topic that a decoder looks at. Chunks of large frames
/// are at least this long.
pub const HEAD_LEN_MAX: usize = 16 * 1024;

/// A whole frame, borrowed from where it was received. Copying the reference copies no payload.
#[derive(Clone, Copy, Debug)]
pub enum FrameRef<'a> {
    /// A frame that lies in one piece.
    Slice(&'a [u8]),
    /// A large frame: `len` bytes that begin `skip` bytes into `chunks`. `skip` lies in the first chunk.
    Chunks {
        /// Reference-counted pieces, in order.
        chunks: &'a [Bytes],
        /// Bytes of the first chunk that do not belong to the frame.
        skip: usize,
        /// Length of the frame in bytes.
        len: usize,
    },
}

impl<'a> FrameRef<'a> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match *self {
            Self::Slice(bytes) => bytes.len(),
            Self::Chunks { len, .. } => len,
        }
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The contiguous beginning: the whole frame, or what of it lies in the first chunk.
    pub fn head(&self) -> &'a [u8] {
        match *self {
            Self::Slice(bytes) => bytes,
            Self::Chunks { chunks, skip, len } => match chunks.first() {
                Some(first) => {
                    let head = first.get(skip..).unwrap_or_default();
                    &head[..head.len().min(len)]
                }
                None => &[],
            },
        }
    }

    /// The frame without its first `count` bytes, which must lie in its head.
    ///
    /// # Panics
    /// If `count` exceeds the length of [`Self::head`].
    pub fn advance(&self, count: usize) -> FrameRef<'a> {
        assert!(count <= self.head().len(), "advance past the head of a frame");
        match *self {
            Self::Slice(bytes) => Self::Slice(&bytes[count..]),
            Self::Chunks { chunks, skip, len } => {
                Self::Chunks { chunks, skip: skip + count, len: len - count }
            }
        }
    }

    /// The pieces in order, none of them empty.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let (slice, chunks, mut skip, mut left) = match *self {
            Self::Slice(bytes) => (bytes, &[][..], 0, 0),
            Self::Chunks { chunks, skip, len } => (&[][..], chunks, skip, len),
        };
        std::iter::once(slice)
            .chain(chunks.iter().map(move |chunk| {
                let piece = chunk.get(skip..).unwrap_or_default();
                let piece = &piece[..piece.len().min(left)];
                skip = 0;
                left -= piece.len();
                piece
            }))
            .filter(|piece| !piece.is_empty())
    }

    /// Keeps the frame beyond the call that lent it: copies a slice, shares chunks.
    pub fn retain(&self) -> RetainedFrame {
        match *self {
            Self::Slice(bytes) => RetainedFrame {
                chunks: smallvec::smallvec![spare::copy(bytes)],
                skip: 0,
                len: bytes.len(),
                is_copy: true,
            },
            Self::Chunks { chunks, skip, len } => {
                RetainedFrame { chunks: chunks.iter().cloned().collect(), skip, len, is_copy: false }
            }
        }
    }
}

/// A frame that is kept: for a retry, until a neighbour acknowledged it, or while a slow receiver has
/// not taken it yet.
#[derive(Clone, Debug, Default)]
pub struct RetainedFrame {
    chunks: smallvec::SmallVec<[Bytes; 1]>,
    skip: usize,
    len: usize,
    /// Whether its bytes were copied for it, into a buffer that can be used again.
    is_copy: bool,
}

impl Drop for RetainedFrame {
    fn drop(&mut self) {
        if self.is_copy {
            self.chunks.drain(..).for_each(spare::give_back);
        }
    }
}

impl RetainedFrame {
    /// A frame made of one piece.
    pub fn from_bytes(bytes: Bytes) -> Self {
        let len = bytes.len();
        Self { chunks: smallvec::smallvec![bytes], skip: 0, len, is_copy: false }
    }

    /// Lends the frame out again. Keeping a long one once more shares its bytes.
    pub fn as_ref(&self) -> FrameRef<'_> {
        match self.chunks.as_slice() {
            [one] if self.len <= HEAD_LEN_MAX => FrameRef::Slice(&one[self.skip..self.skip + self.len]),
            chunks => FrameRef::Chunks { chunks, skip: self.skip, len: self.len },
        }
    }

    /// The frame behind another piece. Long ones are shared.
    pub fn behind(&self, front: Bytes) -> Self {
        let len = front.len() + self.len;
        let mut chunks: smallvec::SmallVec<[Bytes; 1]> = smallvec::smallvec![front];
        let mut skip = self.skip;
        for chunk in &self.chunks {
            chunks.push(chunk.slice(std::mem::take(&mut skip).min(chunk.len())..));
        }
        Self { chunks, skip: 0, len, is_copy: false }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_behind_a_piece_reads_like_both() {
        let chunks = [Bytes::from_static(b"..frame"), Bytes::from_static(b" goes on....")];
        let frame = FrameRef::Chunks { chunks: &chunks, skip: 2, len: 13 }.retain();
        for frame in [frame.clone(), frame.behind(Bytes::new())] {
            let whole = frame.behind(Bytes::from_static(b"front "));
            let pieces: Vec<u8> = whole.as_ref().pieces().flatten().copied().collect();
            assert_eq!(pieces, b"front frame goes on");
            assert_eq!(whole.len(), 19);
        }
    }

    #[test]
    fn chunks_read_like_the_slice_they_were_cut_from() {
        let whole: Vec<u8> = (0..=255).collect();
        let chunks = [
            Bytes::copy_from_slice(&whole[..100]),
            Bytes::copy_from_slice(&whole[100..200]),
            Bytes::copy_from_slice(&whole[200..]),
        ];
        let frame = FrameRef::Chunks { chunks: &chunks, skip: 10, len: 220 };
        let joined: Vec<u8> = frame.pieces().flatten().copied().collect();
        assert_eq!(joined, whole[10..230]);
        let later = frame.advance(50);
        let joined: Vec<u8> = later.pieces().flatten().copied().collect();
        assert_eq!(joined, whole[60..230]);
        assert_eq!(later.head(), &whole[60..100]);
        let kept = later.retain();
        assert_eq!(kept.as_ref().pieces().flatten().copied().collect::<Vec<u8>>(), whole[60..230]);
    }
}
