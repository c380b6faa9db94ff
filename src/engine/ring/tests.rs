//! What holds of a ring, whatever it is on.

use std::{
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::Instant,
};

use super::*;
use crate::engine::{bounds::RECEIVES_PER_DESCRIPTOR, wake::Waker};

const BUFFERS: u16 = 8;
const BUFFER_LEN: usize = 4_096;
const BOTH: [IoBackend; 2] = [IoBackend::Uring, IoBackend::Epoll];
const SECOND: Duration = Duration::from_secs(1);

/// A ring, and what it has told.
struct Told {
    ring: Ring,
    completions: Vec<Completion>,
    /// Bytes that came, by the name of the receive.
    bytes: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl Told {
    fn new(io: IoBackend) -> Self {
        let ring = Ring::new(io, 64, BUFFERS, BUFFER_LEN).unwrap();
        Self { ring, completions: Vec::new(), bytes: Default::default() }
    }

    /// Tests keep what their operations name until they are over.
    fn push(&mut self, operation: Operation, name: u64) {
        // SAFETY: as said.
        unsafe { self.ring.push(operation, name).unwrap() };
    }

    fn receive_many(&mut self, socket: &impl AsRawFd, name: u64) {
        self.push(Operation::ReceiveMany { socket: socket.as_raw_fd() }, name);
    }

    fn send(&mut self, socket: &impl AsRawFd, bytes: &[u8], name: u64) {
        let (socket, len) = (socket.as_raw_fd(), bytes.len() as u32);
        self.push(Operation::Send { socket, bytes: bytes.as_ptr(), len }, name);
    }

    /// One turn; buffers are given back unless they are to be kept.
    fn turn(&mut self, keeps: bool) -> usize {
        self.ring.enter(SECOND).unwrap();
        let mut come = Vec::new();
        self.ring.take(&mut come, usize::MAX);
        for completion in &come {
            if let Some(id) = completion.buffer() {
                self.ring.take_buffer(id);
                if let Ok(len) = usize::try_from(completion.result) {
                    let bytes = self.ring.filled(id, len);
                    self.bytes.entry(completion.user_data).or_default().extend_from_slice(bytes);
                }
                if !keeps {
                    self.ring.give_back(id);
                }
            }
        }
        self.completions.extend(&come);
        come.len()
    }

    /// The result of the last completion of an operation, once it has come.
    fn end_of(&mut self, name: u64) -> i32 {
        loop {
            let is_it = |one: &Completion| one.user_data == name && !one.has_more();
            if let Some(at) = self.completions.iter().position(is_it) {
                return self.completions.remove(at).result;
            }
            self.turn(false);
        }
    }

    fn received(&self, name: u64) -> usize {
        self.bytes.get(&name).map_or(0, Vec::len)
    }
}

fn error(error: Errno) -> i32 {
    -error.raw_os_error()
}

#[test]
fn who_may_not_enter_a_ring_is_told_what_to_allow() {
    let ring = Ring::new(IoBackend::Uring, 8, 8, 4_096).unwrap();
    let denied = ring.why_failed(&Errno::PERM.into());
    assert!(denied.contains("io_uring_enter") && denied.contains("seccomp"), "{denied}");
    assert!(ring.why_failed(&Errno::BADF.into()).starts_with("io_uring_enter failed"));
}

#[test]
fn what_a_peer_sends_before_it_closes_one_way_comes_whole_and_then_the_end() {
    for io in BOTH {
        let (mut told, (mut peer, here)) = (Told::new(io), UnixStream::pair().unwrap());
        told.receive_many(&here, 1);
        let sent: Vec<u8> = (0..1 << 17).map(|at: u32| (at >> 7) as u8 ^ at as u8).collect();
        peer.write_all(&sent[..1_000]).unwrap();
        while told.received(1) < 1_000 {
            told.turn(false);
        }
        peer.write_all(&sent[1_000..]).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        while told.end_of(1) != 0 {
            // io_uring had no buffer, and something has come.
            told.receive_many(&here, 1);
        }
        assert!(told.bytes[&1] == sent, "{io}");
        told.send(&here, b"answer", 2);
        assert_eq!(told.end_of(2), 6, "{io}: the other way is open");
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
    }
}

#[test]
fn a_receive_that_is_called_off_ends_and_what_comes_then_goes_where_it_is_wanted() {
    for io in BOTH {
        let (mut told, (mut peer, here)) = (Told::new(io), UnixStream::pair().unwrap());
        told.receive_many(&here, 1);
        peer.write_all(b"head").unwrap();
        while told.received(1) < 4 {
            told.turn(false);
        }
        told.ring.cancel_receive(here.as_raw_fd(), 1, 2).unwrap();
        assert_eq!(told.end_of(1), error(Errno::CANCELED), "{io}");
        assert_eq!(told.end_of(2), 0, "{io}");
        let mut room = [0; 16];
        let (socket, len) = (here.as_raw_fd(), room.len() as u32);
        told.push(Operation::ReceiveInto { socket, room: room.as_mut_ptr(), len }, 3);
        peer.write_all(b"body").unwrap();
        assert_eq!(told.end_of(3), 4, "{io}");
        assert_eq!(&room[..4], b"body");
        // Nothing is pending any more.
        told.ring.cancel_receive(here.as_raw_fd(), 3, 4).unwrap();
        assert_eq!(told.end_of(4), error(Errno::NOENT), "{io}");
        // The next goes to a buffer again, though there was more than the room took.
        peer.write_all(&[7; 20]).unwrap();
        told.push(Operation::ReceiveInto { socket, room: room.as_mut_ptr(), len }, 5);
        assert_eq!(told.end_of(5), 16, "{io}");
        told.receive_many(&here, 6);
        while told.received(6) < 4 {
            told.turn(false);
        }
    }
}

#[test]
fn who_finds_no_buffer_is_told_and_gets_all_once_buffers_are_back() {
    for io in BOTH {
        let mut told = Told::new(io);
        // More links than buffers.
        let mut pairs: Vec<_> = (0..3 * BUFFERS).map(|_| UnixStream::pair().unwrap()).collect();
        for (name, (peer, here)) in pairs.iter_mut().enumerate() {
            peer.write_all(&[name as u8; 100]).unwrap();
            told.receive_many(here, name as u64);
        }
        while told.turn(true) > 0 && !told.completions.iter().any(|one| one.result == error(Errno::NOBUFS)) {}
        let filled: Vec<u16> = told.completions.iter().filter_map(Completion::buffer).collect();
        assert_eq!(filled.len(), usize::from(BUFFERS), "{io}: each holds what came of one");
        filled.into_iter().for_each(|id| told.ring.give_back(id));
        while told.bytes.values().map(Vec::len).sum::<usize>() < 100 * pairs.len() {
            for ended in std::mem::take(&mut told.completions).iter().filter(|one| !one.has_more()) {
                assert_eq!(ended.result, error(Errno::NOBUFS), "{io}");
                told.receive_many(&pairs[ended.user_data as usize].1, ended.user_data);
            }
            told.turn(false);
        }
        for (name, bytes) in &told.bytes {
            assert_eq!(bytes, &[*name as u8; 100], "{io}");
        }
    }
}

/// A reactor tells the others before it submits: whoever has its answer may count on that.
#[test]
fn nothing_goes_out_before_it_is_submitted() {
    for io in BOTH {
        let (mut told, (mut peer, here)) = (Told::new(io), UnixStream::pair().unwrap());
        peer.set_nonblocking(true).unwrap();
        told.send(&here, b"answer", 1);
        let mut answer = [0; 6];
        assert_eq!(peer.read(&mut answer).unwrap_err().kind(), io::ErrorKind::WouldBlock, "{io}");
        told.ring.submit().unwrap();
        assert_eq!((told.end_of(1), peer.read(&mut answer).unwrap()), (6, 6), "{io}");
    }
}

#[test]
fn a_send_to_a_slow_reader_goes_on_as_it_reads() {
    for io in BOTH {
        let (mut told, (mut peer, here)) = (Told::new(io), UnixStream::pair().unwrap());
        let sent: Vec<u8> = (0..1 << 20).map(|at: u32| (at >> 8) as u8).collect();
        let mut done = 0;
        // Until there is no more room, and the send waits.
        loop {
            told.send(&here, &sent[done..], 1);
            told.ring.enter(Duration::ZERO).unwrap();
            told.ring.enter(Duration::ZERO).unwrap();
            told.ring.take(&mut told.completions, usize::MAX);
            let Some(completion) = told.completions.pop() else { break };
            assert!(completion.result > 0, "{io}");
            done += completion.result as usize;
        }
        assert!(0 < done && done < sent.len(), "{io}");
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 1 << 20];
            peer.read_exact(&mut got).unwrap();
            (peer, got)
        });
        loop {
            done += usize::try_from(told.end_of(1)).unwrap();
            if done == sent.len() {
                break;
            }
            told.send(&here, &sent[done..], 1);
        }
        let (peer, got) = reader.join().unwrap();
        assert!(got == sent, "{io}");
        drop(peer);
        told.send(&here, &sent, 2);
        assert_eq!(told.end_of(2), error(Errno::PIPE), "{io}: nobody reads any more");
    }
}

#[test]
fn whoever_shuts_a_socket_down_ends_what_is_pending_on_it() {
    for io in BOTH {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, mut told) = (listener.accept().unwrap().0, Told::new(io));
        told.receive_many(&here, 1);
        let much = vec![7; 64 << 20];
        told.send(&here, &much, 2);
        told.ring.enter(Duration::ZERO).unwrap();
        here.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(told.end_of(1), 0, "{io}");
        let _ = told.end_of(2);
        told.send(&here, &much, 3);
        assert_eq!(told.end_of(3), error(Errno::PIPE), "{io}");
        drop(peer);
    }
}

#[test]
fn a_connection_that_breaks_is_told() {
    for io in BOTH {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, mut told) = (listener.accept().unwrap().0, Told::new(io));
        told.receive_many(&here, 1);
        told.ring.enter(Duration::ZERO).unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(told.end_of(1), error(Errno::CONNRESET), "{io}");
    }
}

#[test]
fn who_sleeps_is_woken_and_each_wake_is_told_even_one_that_came_before_it_was_awaited() {
    for io in BOTH {
        let (mut told, waker) = (Told::new(io), Waker::new().unwrap());
        let wake = Operation::AwaitWake { eventfd: waker.raw() };
        told.push(wake, 1);
        let other = waker.clone();
        let sleeper = std::thread::spawn(move || other.wake());
        assert_eq!(told.end_of(1), 8, "{io}");
        sleeper.join().unwrap();
        for name in 2..5 {
            waker.wake();
            told.push(wake, name);
            assert_eq!(told.end_of(name), 8, "{io}");
        }
    }
}

#[test]
fn who_has_nothing_to_do_waits_as_long_as_it_asked_to() {
    for io in BOTH {
        let mut told = Told::new(io);
        for wait in [Duration::from_micros(200), Duration::from_micros(2_300)] {
            let since = Instant::now();
            let mut entered = 0;
            while since.elapsed() < wait {
                told.ring.enter(wait.saturating_sub(since.elapsed())).unwrap();
                entered += 1;
            }
            assert!(entered <= 8, "{io}: it does not look again and again, {entered} times");
        }
        told.ring.gather(2, Duration::from_micros(50)).unwrap();
    }
}

#[test]
fn who_sends_much_has_no_more_than_its_share_of_a_turn() {
    let mut told = Told::new(IoBackend::Epoll);
    let ((mut loud, one), (mut quiet, other)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    loud.write_all(&vec![7; 2 * RECEIVES_PER_DESCRIPTOR * BUFFER_LEN]).unwrap();
    quiet.write_all(b"little").unwrap();
    told.receive_many(&one, 1);
    told.receive_many(&other, 2);
    told.turn(false);
    assert_eq!((told.received(1), told.received(2)), (RECEIVES_PER_DESCRIPTOR * BUFFER_LEN, 6));
    assert!(told.ring.has_work_left());
    while told.received(1) < 2 * RECEIVES_PER_DESCRIPTOR * BUFFER_LEN {
        told.turn(false);
    }
}

#[test]
fn a_number_that_is_used_again_is_of_another_socket_though_somebody_has_a_duplicate_of_the_first() {
    for io in BOTH {
        let (mut told, (mut peer, here)) = (Told::new(io), UnixStream::pair().unwrap());
        let (number, duplicate) = (here.as_raw_fd(), here.try_clone().unwrap());
        told.receive_many(&here, 1);
        told.ring.enter(Duration::ZERO).unwrap();
        told.ring.cancel_receive(number, 1, 2).unwrap();
        assert_eq!(told.end_of(1), error(Errno::CANCELED), "{io}");
        told.ring.let_go(number);
        drop(here);
        let (mut new_peer, new) = UnixStream::pair().unwrap();
        // Where no other test has taken the number meanwhile, it is the same.
        told.receive_many(&new, 3);
        peer.write_all(b"for nobody").unwrap();
        new_peer.write_all(b"new").unwrap();
        while told.received(3) < 3 {
            told.turn(false);
        }
        assert_eq!(told.bytes[&3], b"new", "{io}");
        drop(duplicate);
    }
}

#[test]
fn what_a_watched_socket_is_ready_for_is_told_each_time_that_it_changes() {
    for io in BOTH {
        let (mut told, (mut peer, here)) = (Told::new(io), UnixStream::pair().unwrap());
        told.push(Operation::Watch { socket: here.as_raw_fd() }, 1);
        for _ in 0..3 {
            told.completions.clear();
            peer.write_all(b"x").unwrap();
            let may_read =
                |one: &Completion| one.result & i32::from(rustix::event::PollFlags::IN.bits()) != 0;
            while !told.completions.iter().any(may_read) {
                told.turn(false);
            }
            (&here).read_exact(&mut [0]).unwrap();
        }
    }
}
