//! A frame as it lies in memory: one slice, or the chunks of a large one.

use std::borrow::Cow;

use bytes::Bytes;

use super::buffer_pool;

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
    /// No frame.
    pub const EMPTY: FrameRef<'static> = FrameRef::Slice(&[]);

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

    /// The first `len` bytes, or all if there are fewer: from where they lie if they lie together.
    pub fn first(&self, len: usize) -> Cow<'a, [u8]> {
        let len = len.min(self.len());
        if let Some(first) = self.head().get(..len) {
            return Cow::Borrowed(first);
        }
        let mut first = Vec::with_capacity(len);
        for piece in self.pieces() {
            first.extend_from_slice(&piece[..piece.len().min(len - first.len())]);
        }
        Cow::Owned(first)
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
            Self::Slice(bytes) if bytes.len() <= HEAD_LEN_MAX => {
                RetainedFrame(FrameBytes::Copy(buffer_pool::copy(bytes)))
            }
            Self::Slice(bytes) => RetainedFrame::from_bytes(Bytes::copy_from_slice(bytes)),
            Self::Chunks { chunks, skip, len } => {
                RetainedFrame(FrameBytes::Shared { chunks: chunks.iter().cloned().collect(), skip, len })
            }
        }
    }

    /// The same where several keep it: they share its bytes, however short it is.
    pub fn retain_shared(&self) -> RetainedFrame {
        match self {
            Self::Slice(bytes) => RetainedFrame::from_bytes(Bytes::copy_from_slice(bytes)),
            Self::Chunks { .. } => self.retain(),
        }
    }
}

/// A frame that is kept: for a retry, until a neighbour acknowledged it, or while a slow receiver has
/// not taken it yet.
#[derive(Clone, Debug, Default)]
pub struct RetainedFrame(FrameBytes);

#[derive(Debug)]
enum FrameBytes {
    /// At most [`HEAD_LEN_MAX`] bytes, copied into a buffer that can be used again.
    Copy(Vec<u8>),
    Shared {
        chunks: smallvec::SmallVec<[Bytes; 1]>,
        skip: usize,
        len: usize,
    },
}

impl Default for FrameBytes {
    fn default() -> Self {
        Self::Copy(Vec::new())
    }
}

impl Clone for FrameBytes {
    fn clone(&self) -> Self {
        match self {
            Self::Copy(bytes) => Self::Copy(buffer_pool::copy(bytes)),
            Self::Shared { chunks, skip, len } => {
                Self::Shared { chunks: chunks.clone(), skip: *skip, len: *len }
            }
        }
    }
}

impl Drop for RetainedFrame {
    fn drop(&mut self) {
        if let FrameBytes::Copy(buffer) = &mut self.0 {
            buffer_pool::give_back(std::mem::take(buffer));
        }
    }
}

/// A buffer in which a frame is made, or changed, before it is kept or dropped. One of up to [`HEAD_LEN_MAX`] bytes is used again.
#[derive(Debug)]
pub struct FrameBuffer(Vec<u8>);

impl FrameBuffer {
    /// An empty one for so many bytes.
    pub fn with_capacity(len: usize) -> Self {
        Self(buffer_pool::take(len))
    }

    /// One that holds a frame.
    pub fn copy_of(frame: FrameRef<'_>) -> Self {
        let mut buffer = Self::with_capacity(frame.len());
        frame.pieces().for_each(|piece| buffer.extend_from_slice(piece));
        buffer
    }

    /// The frame that it holds.
    pub fn into_frame(mut self) -> RetainedFrame {
        let bytes = std::mem::take(&mut self.0);
        match bytes.len() {
            ..=HEAD_LEN_MAX => RetainedFrame(FrameBytes::Copy(bytes)),
            _ => RetainedFrame::from_bytes(bytes.into()),
        }
    }
}

impl std::ops::Deref for FrameBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for FrameBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for FrameBuffer {
    fn drop(&mut self) {
        buffer_pool::give_back(std::mem::take(&mut self.0));
    }
}

impl RetainedFrame {
    /// A frame made of one piece.
    pub fn from_bytes(bytes: Bytes) -> Self {
        let len = bytes.len();
        Self(FrameBytes::Shared { chunks: smallvec::smallvec![bytes], skip: 0, len })
    }

    /// Lends the frame out again. Keeping a long one once more shares its bytes.
    pub fn as_ref(&self) -> FrameRef<'_> {
        match &self.0 {
            FrameBytes::Copy(bytes) => FrameRef::Slice(bytes),
            FrameBytes::Shared { chunks, skip, len } => match chunks.as_slice() {
                [one] if *len <= HEAD_LEN_MAX => FrameRef::Slice(&one[*skip..*skip + *len]),
                chunks => FrameRef::Chunks { chunks, skip: *skip, len: *len },
            },
        }
    }

    /// The frame behind another piece. Long ones are shared.
    pub fn behind(&self, front: Bytes) -> Self {
        let len = front.len() + self.len();
        let mut all: smallvec::SmallVec<[Bytes; 1]> = smallvec::smallvec![front];
        match &self.0 {
            FrameBytes::Copy(bytes) => all.push(Bytes::copy_from_slice(bytes)),
            FrameBytes::Shared { chunks, skip, .. } => {
                let mut skip = *skip;
                for chunk in chunks {
                    all.push(chunk.slice(std::mem::take(&mut skip).min(chunk.len())..));
                }
            }
        }
        Self(FrameBytes::Shared { chunks: all, skip: 0, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            FrameBytes::Copy(bytes) => bytes.len(),
            FrameBytes::Shared { len, .. } => *len,
        }
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
