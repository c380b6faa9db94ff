//! What the door runs on, and what it reads from and writes to: io_uring or epoll, as the engine has it. Nothing else here knows
//! which.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
};

use tokio::task::LocalSet;

use crate::engine::IoBackend;

/// A connection of the door.
pub(super) enum Stream {
    Uring(tokio_uring::net::TcpStream),
    Epoll(tokio::net::TcpStream),
}

impl Stream {
    /// Takes one that the runtime has made or accepted.
    pub(super) fn new(stream: tokio::net::TcpStream, io: IoBackend) -> io::Result<Self> {
        match io {
            IoBackend::Uring => {
                let stream = stream.into_std()?;
                // On the ring whoever reads is to wait, which one that does not block would not.
                stream.set_nonblocking(false)?;
                Ok(Self::Uring(tokio_uring::net::TcpStream::from_std(stream)))
            }
            IoBackend::Epoll => Ok(Self::Epoll(stream)),
        }
    }

    /// Connects without the ring: it has no way to end a connect that is under way, and this may be dropped at any time.
    pub(super) async fn connect(address: SocketAddr, io: IoBackend) -> io::Result<Self> {
        Self::new(tokio::net::TcpStream::connect(address).await?, io)
    }

    pub(super) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Self::Uring(stream) => stream.set_nodelay(nodelay),
            Self::Epoll(stream) => stream.set_nodelay(nodelay),
        }
    }

    /// Reads what comes next, at most as much as there is room for behind what the buffer has. Gives the buffer back.
    pub(super) async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let stream = match self {
            Self::Uring(stream) => return stream.read(buffer).await,
            Self::Epoll(stream) => stream,
        };
        let read = retried(async || stream.readable().await, || read_into(stream, &mut buffer)).await;
        (read, buffer)
    }

    /// Writes all of it.
    pub(super) async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        let stream = match self {
            Self::Uring(stream) => return stream.write_all(bytes).await.0,
            Self::Epoll(stream) => stream,
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match retried(async || stream.writable().await, || stream.try_write(rest)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => rest = &rest[written..],
            }
        }
        Ok(())
    }
}

/// Room in the buffer is what there is of it: none is added.
fn read_into(stream: &tokio::net::TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    debug_assert!(buffer.capacity() > buffer.len());
    stream.try_read_buf(buffer)
}

/// Tries each time that the runtime thinks that it can be done.
async fn retried<T>(
    ready: impl AsyncFn() -> io::Result<()>,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        ready().await?;
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Uring(stream) => stream.as_raw_fd(),
            Self::Epoll(stream) => stream.as_raw_fd(),
        }
    }
}

/// The door's runtime, of the thread that calls.
pub(super) enum Runtime {
    Uring(tokio_uring::Runtime),
    Epoll(LocalSet, tokio::runtime::Runtime),
}

impl Runtime {
    pub(super) fn new(io: IoBackend) -> io::Result<Self> {
        match io {
            IoBackend::Uring => {
                let mut builder = tokio_uring::builder();
                let mut ring = tokio_uring::uring_builder();
                ring.setup_coop_taskrun();
                builder.entries(512).uring_builder(&ring);
                Ok(Self::Uring(tokio_uring::Runtime::new(&builder)?))
            }
            IoBackend::Epoll => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(Self::Epoll(LocalSet::new(), runtime))
            }
        }
    }

    /// Runs a future, and local tasks, until the future is done.
    pub(super) fn block_on<T>(self, future: impl Future<Output = T>) -> T {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Epoll(tasks, runtime) => tasks.block_on(&runtime, future),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_both_ways_and_an_end_is_told_on_either() {
        for io in [IoBackend::Uring, IoBackend::Epoll] {
            Runtime::new(io).unwrap().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let near = Stream::connect(listener.local_addr().unwrap(), io).await.unwrap();
                let far = Stream::new(listener.accept().await.unwrap().0, io).unwrap();
                // More than the kernel takes at once.
                let sent: Vec<u8> = (0..8 << 20).map(|at: u32| (at >> 9) as u8).collect();
                let expected = sent.clone();
                let writing = tokio::task::spawn_local(async move {
                    near.write_all(sent).await.unwrap();
                });
                let (mut got, mut buffer) = (Vec::new(), Vec::with_capacity(4_096));
                loop {
                    buffer.clear();
                    let (read, back) = far.read(buffer).await;
                    buffer = back;
                    assert_eq!(*read.as_ref().unwrap(), buffer.len());
                    if buffer.is_empty() {
                        break;
                    }
                    assert!(buffer.capacity() == 4_096, "{io}: it takes no more memory than it was given");
                    got.extend_from_slice(&buffer);
                }
                assert!(got == expected, "{io}");
                writing.await.unwrap();
            });
        }
    }
}
