//! Sockets of which nothing is wanted but that bytes come and go: a ring, its receive buffers, and for each
//! socket a buffer that is sent once a turn, as the reactors do it. The load generator runs on it, and the
//! bare forwarder that the node is measured against. A socket that is only watched is read and written by its owner.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::io::Errno;

use super::ring::{Completion, EngineError, IoSetting, Operation, Ring};

const KIND_RECEIVE: u64 = 0;
const KIND_SEND: u64 = 1;
const KIND_READY: u64 = 2;
/// Completions handled before what they caused is sent.
const COMPLETIONS_PER_TURN: usize = 1_024;
/// Submission entries of the ring.
const RING_ENTRIES: u32 = 4_096;

/// What a turn gives about one stream.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes that came.
    Bytes(&'a mut [u8]),
    /// A watched socket may have bytes, or room for some, after it had none.
    Ready,
    /// The peer sends no more.
    End,
    /// The connection broke.
    Broken(io::Error),
}

/// What is to be sent, by stream; goes out at the end of a turn.
#[derive(Default)]
pub struct Outputs {
    outputs: Vec<Output>,
    touched: Vec<u32>,
}

#[derive(Default)]
struct Output {
    gathered: Vec<u8>,
    in_flight: Vec<u8>,
    sent: usize,
    is_sending: bool,
    is_touched: bool,
    has_ended: bool,
}

impl Outputs {
    /// The buffer of a stream, to append to. It is not bounded: whoever writes bounds what is under way.
    pub fn of(&mut self, stream: usize) -> &mut Vec<u8> {
        self.touch(stream);
        &mut self.outputs[stream].gathered
    }

    fn touch(&mut self, stream: usize) {
        if !std::mem::replace(&mut self.outputs[stream].is_touched, true) {
            self.touched.push(stream as u32);
        }
    }
}

/// The sockets of one thread, and their ring.
pub struct Streams {
    // The ring goes first: the kernel must be done with the buffers before they go.
    ring: Ring,
    sockets: Vec<Socket>,
    outputs: Outputs,
    completions: Vec<Completion>,
    /// Streams whose receive ended, to be armed again.
    rearm: Vec<u32>,
}

struct Socket {
    socket: OwnedFd,
    /// Whether its owner reads and writes.
    is_watched: bool,
    /// Whether the kernel may write into a receive buffer for it.
    is_receiving: bool,
}

impl Streams {
    /// A ring with so many receive buffers (a power of two) of so many bytes, for the thread that calls: of io_uring, or of epoll
    /// where that cannot be had.
    pub fn new(receive_buffers: u16, receive_buffer_len: usize) -> Result<Self, EngineError> {
        Self::on(IoSetting::Auto, receive_buffers, receive_buffer_len)
    }

    /// The same on what is asked for.
    pub fn on(io: IoSetting, receive_buffers: u16, receive_buffer_len: usize) -> Result<Self, EngineError> {
        let (io, _) = io.choose(RING_ENTRIES, receive_buffers, receive_buffer_len)?;
        Ok(Self {
            ring: Ring::new(io, RING_ENTRIES, receive_buffers, receive_buffer_len)?,
            sockets: Vec::new(),
            outputs: Outputs::default(),
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN),
            rearm: Vec::new(),
        })
    }

    /// Takes a connected socket; gives its number, counted from 0.
    pub fn add(&mut self, socket: OwnedFd) -> io::Result<usize> {
        self.take(socket, false)
    }

    /// The same for one that its owner reads and writes through another descriptor, until that would block.
    pub fn watch(&mut self, socket: OwnedFd) -> io::Result<usize> {
        self.take(socket, true)
    }

    fn take(&mut self, socket: OwnedFd, is_watched: bool) -> io::Result<usize> {
        let stream = self.sockets.len();
        self.sockets.push(Socket { socket, is_watched, is_receiving: false });
        self.outputs.outputs.push(Output::default());
        self.arm(stream)?;
        Ok(stream)
    }

    /// What is to be sent.
    pub fn outputs(&mut self) -> &mut Outputs {
        &mut self.outputs
    }

    /// Sends what is gathered, waits at most so long until anything has happened, and gives it to `handle`,
    /// which may gather more.
    pub fn turn(
        &mut self,
        wait: Duration,
        mut handle: impl FnMut(&mut Outputs, usize, Input<'_>),
    ) -> io::Result<()> {
        self.flush()?;
        self.ring.enter(wait)?;
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.take(&mut completions, COMPLETIONS_PER_TURN);
        for completion in completions.drain(..) {
            let stream = completion.user_data as u32 as usize;
            match completion.user_data >> 32 {
                KIND_SEND => self.handle_sent(stream, completion.result, &mut handle),
                KIND_READY => self.handle_ready(stream, completion, &mut handle),
                _ => self.handle_received(stream, completion, &mut handle),
            }
        }
        self.completions = completions;
        for stream in std::mem::take(&mut self.rearm) {
            self.arm(stream as usize)?;
        }
        Ok(())
    }

    fn handle_sent(
        &mut self,
        stream: usize,
        result: i32,
        handle: &mut impl FnMut(&mut Outputs, usize, Input<'_>),
    ) {
        let output = &mut self.outputs.outputs[stream];
        output.is_sending = false;
        match usize::try_from(result) {
            Ok(len) => output.sent += len,
            Err(_) => {
                output.has_ended = true;
                let error = io::Error::from_raw_os_error(-result);
                return handle(&mut self.outputs, stream, Input::Broken(error));
            }
        }
        self.outputs.touch(stream);
    }

    fn handle_received(
        &mut self,
        stream: usize,
        completion: Completion,
        handle: &mut impl FnMut(&mut Outputs, usize, Input<'_>),
    ) {
        let result = completion.result;
        if let Some(id) = completion.buffer() {
            self.ring.take_buffer(id);
            // One that comes with an error is ours again, too.
            if let Ok(len @ 1..) = usize::try_from(result) {
                handle(&mut self.outputs, stream, Input::Bytes(self.ring.filled(id, len)));
            }
            self.ring.give_back(id);
        }
        if completion.has_more() {
            return;
        }
        self.sockets[stream].is_receiving = false;
        match result {
            _ if result > 0 || result == -Errno::NOBUFS.raw_os_error() => self.rearm.push(stream as u32),
            0 => handle(&mut self.outputs, stream, Input::End),
            _ => handle(&mut self.outputs, stream, Input::Broken(io::Error::from_raw_os_error(-result))),
        }
    }

    fn handle_ready(
        &mut self,
        stream: usize,
        completion: Completion,
        handle: &mut impl FnMut(&mut Outputs, usize, Input<'_>),
    ) {
        if completion.result < 0 {
            let error = io::Error::from_raw_os_error(-completion.result);
            return handle(&mut self.outputs, stream, Input::Broken(error));
        }
        if !completion.has_more() {
            self.rearm.push(stream as u32);
        }
        handle(&mut self.outputs, stream, Input::Ready);
    }

    fn arm(&mut self, stream: usize) -> io::Result<()> {
        let Socket { socket, is_watched, .. } = &self.sockets[stream];
        let (socket, is_watched) = (socket.as_raw_fd(), *is_watched);
        let (operation, kind) = match is_watched {
            true => (Operation::Watch { socket }, KIND_READY),
            false => (Operation::ReceiveMany { socket }, KIND_RECEIVE),
        };
        // SAFETY: sockets stay as long as this object, whose `drop` waits for what is pending on them.
        unsafe { self.ring.push(operation, kind << 32 | stream as u64)? };
        self.sockets[stream].is_receiving = !is_watched;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(stream) = self.outputs.touched.pop() {
            let output = &mut self.outputs.outputs[stream as usize];
            output.is_touched = false;
            if output.is_sending || output.has_ended {
                continue;
            }
            if output.sent == output.in_flight.len() {
                output.in_flight.clear();
                output.sent = 0;
                std::mem::swap(&mut output.in_flight, &mut output.gathered);
                if output.in_flight.is_empty() {
                    continue;
                }
            }
            let rest = &output.in_flight[output.sent..];
            let (bytes, len) = (rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX));
            let socket = self.sockets[stream as usize].socket.as_raw_fd();
            let operation = Operation::Send { socket, bytes, len };
            // SAFETY: the socket stays as long as this object. A buffer in flight is neither changed nor freed while
            // `is_sending`, and `drop` waits for all of them.
            unsafe { self.ring.push(operation, KIND_SEND << 32 | u64::from(stream))? };
            self.outputs.outputs[stream as usize].is_sending = true;
        }
        Ok(())
    }
}

impl Drop for Streams {
    /// Ends all connections and waits until the kernel is done with their buffers.
    fn drop(&mut self) {
        for socket in &self.sockets {
            let _ = rustix::net::shutdown(socket.socket.as_fd(), rustix::net::Shutdown::Both);
        }
        let is_busy = |streams: &Self| {
            streams.sockets.iter().any(|socket| socket.is_receiving)
                || streams.outputs.outputs.iter().any(|output| output.is_sending)
        };
        while is_busy(self) {
            for output in &mut self.outputs.outputs {
                output.has_ended = true;
            }
            if self.turn(Duration::from_millis(100), |_, _, _| ()).is_err() {
                // Better a leak of buffers than memory that the kernel writes to after it is freed.
                std::process::abort();
            }
            self.sockets.iter().for_each(|socket| {
                let _ = rustix::net::shutdown(socket.socket.as_fd(), rustix::net::Shutdown::Both);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;
    use crate::engine::testing;

    #[test]
    fn bytes_of_one_stream_are_forwarded_to_another_in_order_and_an_end_is_told() {
        let mut streams = Streams::on(testing::io(), 16, 4_096).unwrap();
        let ((mut from, here), (mut to, there)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        assert_eq!([here, there].map(|socket| streams.add(socket.into()).unwrap()), [0, 1]);
        let sent: Vec<u8> = (0..1 << 20).map(|at: u32| (at >> 8) as u8 ^ at as u8).collect();
        let writer = {
            let sent = sent.clone();
            std::thread::spawn(move || from.write_all(&sent).unwrap())
        };
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 1 << 20];
            io::Read::read_exact(&mut to, &mut got).unwrap();
            got
        });
        let mut ended = Vec::new();
        while !(ended == [0] && reader.is_finished()) && ended.len() < 2 {
            let handle = |outputs: &mut Outputs, stream: usize, input: Input<'_>| match input {
                Input::Bytes(bytes) => outputs.of(1 - stream).extend_from_slice(bytes),
                Input::Ready | Input::End | Input::Broken(_) => ended.push(stream),
            };
            streams.turn(Duration::from_millis(10), handle).unwrap();
        }
        writer.join().unwrap();
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn a_watched_socket_is_told_each_time_that_bytes_come_and_they_stay_in_it() {
        let mut streams = Streams::on(testing::io(), 16, 4_096).unwrap();
        let ((mut peer, here), mut bytes) = (UnixStream::pair().unwrap(), [0; 8]);
        here.set_nonblocking(true).unwrap();
        let mut owner = here.try_clone().unwrap();
        streams.watch(here.into()).unwrap();
        for sent in 1..=3u8 {
            peer.write_all(&[sent]).unwrap();
            let mut read = 0;
            while read == 0 {
                let mut is_ready = false;
                let handle = |_: &mut Outputs, _, input: Input<'_>| is_ready = matches!(input, Input::Ready);
                streams.turn(Duration::from_secs(10), handle).unwrap();
                assert!(is_ready);
                // Room for bytes is told, too, so there need not be any.
                read = io::Read::read(&mut owner, &mut bytes).unwrap_or(0);
            }
            assert_eq!((read, bytes[0]), (1, sent));
        }
    }
}
