//! Tests of a reactor, on the thread that runs them.

use std::os::{fd::OwnedFd, unix::net::UnixStream};

use ahash::AHashMap;
use crossbeam::channel::{Receiver, Sender, unbounded};

use super::{link::user_data, *};
use crate::{
    engine::{
        bounds::{BULK_BYTES_PER_TURN, MESH_QUEUE_LEN, NOTSENT_BYTES_MAX, SEALED_AHEAD_MAX},
        mesh::Sleeper,
        testing::{self, connection},
        wake::Waker,
    },
    relay::{Class, MeshMessage, RequestId, session_queue::SESSION_CONTROL_BYTES_MAX, settings::Settings},
    tls::record::{ContentType, PLAINTEXT_LEN_MAX, Sealer},
    wire::{FrameRef, ResultCode, ws},
};

/// A reactor on this thread, with one session, and the ends of what it hangs on.
struct Fixture {
    reactor: Reactor,
    mesh: Arc<Mesh>,
    events: Receiver<LinkEvent>,
    peer: UnixStream,
    peer_sealer: Sealer,
    _inputs: Receiver<RegistryInput>,
    commands: Sender<Command>,
    _wakers: [Waker; 2],
}

impl Fixture {
    fn new() -> Self {
        Self::with(usize::MAX, 16)
    }

    /// With so many bytes for unfinished frames, and so many receive buffers.
    fn with(unfinished_bytes_max: usize, receive_buffers: u16) -> Self {
        let (registry, _inputs) = unbounded();
        let (commands, inbox) = unbounded();
        let _wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
        let mesh = Arc::new(Mesh::new(_wakers.iter().cloned().map(Sleeper::new).collect()));
        let shared = Shared::new(NodeId([1; 64]), 1, 2, Instant::now(), Settings::default());
        let settings = EngineSettings { ring_entries: 16, receive_buffers, ..EngineSettings::default() };
        let (note, events) = unbounded();
        let mut reactor = Reactor::new(ReactorParts {
            id: ReactorId(0),
            shared: Arc::new(shared),
            settings,
            io: testing::io().choose(16, 16, 4_096).unwrap().0,
            mesh: mesh.clone(),
            inbox,
            registry,
            wake_fd: _wakers[0].raw(),
            unfinished: Arc::new(UnfinishedFrames::new(unfinished_bytes_max, 2)),
            events: Arc::new(move |event| _ = note.send(event)),
            drained: Arc::default(),
            dropped: (0..2).map(|_| AtomicU64::new(0)).collect(),
            seed: [0; 32],
        })
        .unwrap();
        let (peer, peer_sealer) = Self::session(&mut reactor);
        Self { reactor, mesh, events, peer, peer_sealer, commands, _inputs, _wakers }
    }

    /// One more session: its peer's end, and what that sends with.
    fn session(reactor: &mut Reactor) -> (UnixStream, Sealer) {
        let (socket, peer) = UnixStream::pair().unwrap();
        let ((peer_sealer, opener), (sealer, _)) = (connection(), connection());
        reactor.adopt(NewLink {
            token: 1,
            reactor: ReactorId(0),
            socket: socket.into(),
            up: LinkUp::Sdk { address: String::new(), subject: String::new(), public_key: None },
            tls: Some((sealer, opener)),
            plaintext: Vec::new(),
            received: Vec::new(),
        });
        (peer, peer_sealer)
    }

    fn say((peer, sealer): &mut (UnixStream, Sealer), plaintext: &[u8]) {
        let mut records = Vec::new();
        for part in plaintext.chunks(PLAINTEXT_LEN_MAX) {
            sealer.seal(ContentType::ApplicationData, &[part], &mut records).unwrap();
        }
        std::io::Write::write_all(peer, &records).unwrap();
    }

    fn run_until(&mut self, done: impl Fn(&Reactor) -> bool) {
        while !done(&self.reactor) {
            self.reactor.flush();
            self.reactor.enter(Some(SWEEP_INTERVAL));
            self.reactor.handle_completions();
        }
    }

    fn key(&self) -> LinkKey {
        self.reactor.io.transmits[0].key
    }

    /// The other reactor does not look into its mail.
    fn back_up(&mut self) {
        for _ in 0..MESH_QUEUE_LEN + 1 {
            self.reactor.io.to_reactor(ReactorId(1), MeshMessage::Multicast, FrameRef::EMPTY);
        }
        assert!(self.reactor.io.mesh.is_backed_up());
    }

    /// It does.
    fn catch_up(&mut self) {
        while self.mesh.pop(ReactorId(0), ReactorId(1)).is_some() {}
        self.reactor.io.mesh.flush();
    }

    fn beat() -> Vec<u8> {
        sdk::encode(sdk::FrameType::HEARTBEAT, &[0; 32], ResultCode::OK, b"0")
    }

    /// The node sends something; goes on until that is done with and something has come.
    fn send_while_something_comes(&mut self) {
        let key = self.key();
        self.reactor.io.send(key, Class::Data, &Self::beat(), FrameRef::EMPTY).unwrap();
        self.reactor.flush();
        assert!(self.reactor.io.transmit(key).unwrap().sending);
        while self.reactor.io.transmit(key).unwrap().sending || self.reactor.held.is_empty() {
            self.reactor.enter(Some(SWEEP_INTERVAL));
            self.reactor.handle_completions();
        }
    }

    /// The kernel is to be done with the buffers before they go.
    fn finish(mut self) -> CloseReason {
        self.reactor.io.abort(self.key(), CloseReason::Shutdown);
        self.run_until(|reactor| !reactor.slots.contains(0));
        let closed = self.events.try_iter().find_map(|event| match event {
            LinkEvent::Closed(closed) => Some(closed.reason),
            _ => None,
        });
        closed.unwrap()
    }
}

#[test]
fn what_was_sent_is_seen_to_while_another_reactor_is_behind_and_what_came_waits() {
    let mut fixture = Fixture::new();
    let frames_received = |fixture: &Fixture| fixture.reactor.counters.sdk_frames_received.get();
    fixture.back_up();
    let mut record = Vec::new();
    fixture.peer_sealer.seal(ContentType::ApplicationData, &[&Fixture::beat()], &mut record).unwrap();
    std::io::Write::write_all(&mut fixture.peer, &record).unwrap();
    fixture.send_while_something_comes();
    assert_eq!(frames_received(&fixture), 0);
    fixture.catch_up();
    assert!(fixture.reactor.handle_completions());
    assert_eq!((frames_received(&fixture), fixture.reactor.held.len()), (1, 0));
    assert_eq!(fixture.finish(), CloseReason::Shutdown);
}

#[test]
fn whoever_pings_and_never_reads_is_read_no_further_at_the_bound_of_replies() {
    let mut fixture = Fixture::new();
    let mut own = Fixture::session(&mut fixture.reactor);
    Fixture::say(&mut own, &ws::upgrade::Client::new([7; 16]).request("localhost"));
    let has_sent = |reactor: &Reactor| reactor.io.transmits[1].sent_frames;
    fixture.run_until(|reactor| has_sent(reactor) == 1);
    let ping = ws::frame::encode_masked(ws::Opcode::Ping, [7; 4], &[7; ws::frame::CONTROL_LEN_MAX]);
    let queue_bytes_max = SEALED_AHEAD_MAX + SESSION_CONTROL_BYTES_MAX + 1_024;
    let is_paused = |reactor: &Reactor| reactor.counters.reads_paused.get() > 0;
    while !is_paused(&fixture.reactor) {
        let pongs = has_sent(&fixture.reactor);
        Fixture::say(&mut own, &ping);
        fixture.run_until(|reactor| has_sent(reactor) > pongs || is_paused(reactor));
        assert!(fixture.reactor.io.queues.pool().bytes < queue_bytes_max);
    }
    let keys = [0, 1].map(|index: usize| fixture.reactor.io.transmits[index].key);
    keys.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
    fixture.run_until(|reactor| reactor.slots.is_empty());
}

#[test]
fn a_turn_takes_so_many_commands_and_no_more() {
    let mut fixture = Fixture::new();
    for _ in 0..COMMANDS_PER_TURN + 1 {
        let reason = CloseReason::Removed;
        fixture.commands.send(Command::CloseNode { id: NodeId([2; 64]), reason }).unwrap();
    }
    assert!(fixture.reactor.handle_inbox());
    assert_eq!(fixture.commands.len(), 1, "the rest has time until the next turn");
    assert!(fixture.reactor.handle_inbox());
    assert!(!fixture.reactor.handle_inbox());
    assert_eq!(fixture.finish(), CloseReason::Shutdown);
}

#[test]
fn what_is_little_goes_out_before_what_is_much_and_a_turn_sends_of_that_no_more_than_its_bound() {
    let mut fixture = Fixture::new();
    let _others: Vec<_> = (0..3).map(|_| Fixture::session(&mut fixture.reactor)).collect();
    let keys = [0, 1, 2, 3].map(|index: usize| fixture.reactor.io.transmits[index].key);
    let long = vec![0; 2 * BULK_BYTES_PER_TURN];
    let send = |io: &mut Io, key, frame: &[u8]| io.send(key, Class::Data, frame, FrameRef::EMPTY).unwrap();
    for key in &keys[..3] {
        send(&mut fixture.reactor.io, *key, &long);
    }
    send(&mut fixture.reactor.io, keys[3], &Fixture::beat());
    let is_sending = |reactor: &Reactor| [0, 1, 2, 3].map(|index: usize| reactor.io.transmits[index].sending);
    fixture.reactor.flush_dirty();
    assert_eq!(is_sending(&fixture.reactor), [false, false, false, true]);
    for turn in 1..=3 {
        fixture.reactor.flush();
        let sending = is_sending(&fixture.reactor)[..3].iter().filter(|sending| **sending).count();
        assert_eq!((sending, fixture.reactor.io.bulk.len()), (turn, 3 - turn));
        assert_eq!(fixture.reactor.has_work_left(), turn < 3, "who has work left does not sleep");
    }
    keys.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
    fixture.run_until(|reactor| reactor.slots.is_empty());
}

#[test]
fn a_turn_takes_in_of_large_frames_no_more_than_its_bound_and_the_answers_to_others_leave_before() {
    let mut fixture = Fixture::new();
    let key = fixture.key();
    // Of links that are gone by now, so that nothing but their length counts.
    let gone = user_data(KIND_RECEIVE_OWN, LinkKey { index: 9, generation: 1 });
    let received = Completion::new(gone, BULK_BYTES_PER_TURN as i32);
    fixture.reactor.bulk_received.extend([received; 2]);
    fixture.reactor.io.send(key, Class::Data, &Fixture::beat(), FrameRef::EMPTY).unwrap();
    fixture.reactor.handle_completions();
    assert!(fixture.reactor.io.transmit(key).unwrap().sending);
    assert_eq!(fixture.reactor.bulk_received.len(), 1);
    assert!(fixture.reactor.has_work_left());
    // While another reactor is behind they wait, as all that comes does.
    fixture.back_up();
    fixture.reactor.handle_completions();
    assert_eq!(fixture.reactor.bulk_received.len(), 1);
    fixture.catch_up();
    fixture.reactor.handle_completions();
    assert!(fixture.reactor.bulk_received.is_empty());
    assert_eq!(fixture.finish(), CloseReason::Shutdown);
}

#[test]
fn a_place_that_is_used_again_is_of_another_key() {
    let mut fixture = Fixture::new();
    let first = fixture.key();
    fixture.reactor.io.abort(first, CloseReason::Shutdown);
    fixture.run_until(|reactor| !reactor.slots.contains(0));
    let _peer = Fixture::session(&mut fixture.reactor);
    let second = fixture.key();
    assert_eq!(second.index, first.index);
    assert!(second != first && fixture.reactor.io.transmit(first).is_none());
    fixture.finish();
}

#[test]
fn the_pool_of_unfinished_frames_drops_whoever_holds_most_of_it() {
    let mut fixture = Fixture::with(13_000, 16);
    let mut others: Vec<_> = (0..2).map(|_| Fixture::session(&mut fixture.reactor)).collect();
    let begun = |len: usize| [&1_000_000u32.to_be_bytes()[..], &vec![0; len - 4]].concat();
    let holds =
        |reactor: &Reactor, index: usize| reactor.slots.get(index).map(|slot| slot.receive.progress());
    let is_here = |index, len| move |reactor: &Reactor| holds(reactor, index) == Some(len);
    Fixture::say(&mut others[0], &begun(1_000));
    fixture.run_until(is_here(1, 1_000));
    let mut own = (fixture.peer.try_clone().unwrap(), fixture.peer_sealer);
    Fixture::say(&mut own, &begun(8_000));
    fixture.peer_sealer = own.1;
    fixture.run_until(is_here(0, 8_000));
    assert_eq!(fixture.reactor.counters.unfinished_frames_dropped.get(), 0);
    Fixture::say(&mut others[1], &begun(5_000));
    fixture.run_until(|reactor| reactor.slots.len() < 3);
    assert_eq!([1, 2].map(|index| holds(&fixture.reactor, index)), [Some(1_000), Some(5_000)]);
    let keys = [1, 2].map(|index: usize| fixture.reactor.io.transmits[index].key);
    keys.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
    fixture.run_until(|reactor| reactor.slots.is_empty());
}

#[test]
fn what_waits_in_a_receive_buffer_while_another_reactor_is_behind_is_served_as_it_was_sent() {
    let mut fixture = Fixture::with(usize::MAX, 2);
    let mut others: Vec<_> = (0..20).map(|_| Fixture::session(&mut fixture.reactor)).collect();
    let frames_received = |reactor: &Reactor| reactor.counters.sdk_frames_received.get();
    fixture.back_up();
    others.iter_mut().for_each(|other| Fixture::say(other, &Fixture::beat()));
    fixture.run_until(|reactor| reactor.held.len() >= 20);
    others.iter_mut().for_each(|other| Fixture::say(other, &Fixture::beat().repeat(10)));
    assert_eq!(frames_received(&fixture.reactor), 0);
    fixture.catch_up();
    fixture.run_until(|reactor| frames_received(reactor) == 220);
    let all = fixture.reactor.io.transmits.iter().map(|(_, transmit)| transmit.key);
    let all: Vec<_> = all.collect();
    all.into_iter().for_each(|key| fixture.reactor.io.abort(key, CloseReason::Shutdown));
    fixture.run_until(|reactor| reactor.slots.is_empty());
}

#[test]
fn whom_memory_has_no_room_for_is_looked_at_once_a_turn() {
    let mut fixture = Fixture::new();
    let key = fixture.key();
    let frame = |frame_type, data: &[u8]| sdk::encode(frame_type, &[b'0'; 32], ResultCode::OK, data);
    let Reactor { shard, io, .. } = &mut fixture.reactor;
    let subscribe = frame(sdk::FrameType::SUBSCRIBE, br#"["t"]"#);
    shard.handle_frame(io.now, key, FrameRef::Slice(&subscribe), io);
    // Others use up all memory: no more than a little is taken for each.
    io.queues.recount(0, usize::MAX / 2);
    io.queues.set_bytes_max(1);
    let request = [&[2, b't'][..], &[7; 5_000]].concat();
    let request = frame(sdk::FrameType::REQUEST, &request);
    let deliver = MeshMessage::Deliver {
        request: RequestId { index: 0, generation: 0 },
        audience: None,
        excluded: Default::default(),
        wait_for_room: Some(Duration::from_secs(10)),
        draw_2x: crate::relay::peer_2x::Draw2x::Equally,
        prepaid: 0,
    };
    shard.handle_mesh(io.now, ReactorId(1), deliver, FrameRef::Slice(&request), io);
    assert_eq!(fixture.reactor.counters.room_waits.get(), 1);
    // It comes back, though the frame has no room yet.
    fixture.reactor.flush();
    assert_eq!(fixture.reactor.io.watching_room, [key]);
    fixture.reactor.io.queues.set_bytes_max(usize::MAX);
    fixture.reactor.flush();
    assert!(fixture.reactor.io.watching_room.is_empty());
    assert_eq!(fixture.reactor.counters.deliveries.get(), 1);
    assert_eq!(fixture.finish(), CloseReason::Shutdown);
}

/// What the peer said last lies unread when a send fails since it has gone: that tells why, not the send.
#[test]
fn a_peer_that_has_ended_in_order_is_not_said_to_have_broken_off_when_a_send_finds_it_gone() {
    for says_so in [true, false] {
        let mut fixture = Fixture::new();
        fixture.back_up();
        let mut record = Vec::new();
        fixture.peer_sealer.seal(ContentType::ApplicationData, &[&Fixture::beat()], &mut record).unwrap();
        if says_so {
            fixture.peer_sealer.close_notify(&mut record).unwrap();
        }
        std::io::Write::write_all(&mut fixture.peer, &record).unwrap();
        fixture.peer = std::os::unix::net::UnixStream::pair().unwrap().0;
        fixture.send_while_something_comes();
        fixture.catch_up();
        let key = fixture.key();
        while !fixture.reactor.io.is_ending(key) {
            fixture.reactor.handle_completions();
            fixture.reactor.enter(Some(SWEEP_INTERVAL));
        }
        let reason = if says_so { CloseReason::ByPeer } else { CloseReason::Broken };
        assert_eq!(fixture.finish(), reason);
    }
}

fn io(registry: Sender<RegistryInput>, queues_bytes_max: usize) -> Io {
    let mesh = Arc::new(Mesh::new(vec![Sleeper::new(Waker::new().unwrap())]));
    Io {
        now: Instant::now(),
        transmits: Slab::new(),
        dirty: Vec::new(),
        bulk: VecDeque::new(),
        mesh: MeshSender::new(mesh, ReactorId(0)),
        registry: RegistryQueue::new(registry, ReactorId(0), Arc::default()),
        reactor: ReactorId(0),
        counters: Arc::default(),
        asking: AHashMap::new(),
        queues: Queues::new(queues_bytes_max),
        watching_room: Vec::new(),
        events: Arc::new(|_| {}),
    }
}

#[test]
fn when_all_queues_are_full_a_session_with_little_in_its_own_still_gets_frames() {
    let (registry, _inputs) = unbounded();
    let mut io = io(registry, 1 << 20);
    let keys = [0, 1].map(|index| LinkKey { index, generation: 1 });
    for key in keys {
        let (sealer, _) = connection();
        io.transmits.insert(Transmit::new(io.now, key, Some(sealer), true, 8 << 20, Blocks::new()));
    }
    let send = |io: &mut Io, key| io.send(key, Class::Data, &[0; 500], FrameRef::EMPTY);
    let mut taken = 0;
    while send(&mut io, keys[0]).is_ok() {
        taken += 1;
    }
    assert!((500..1_050).contains(&taken), "{taken} frames of 500 bytes where 1 MiB is for all");
    assert_eq!(io.counters.queues_full.get(), 1);
    let mut others = 0;
    while send(&mut io, keys[1]).is_ok() {
        others += 1;
    }
    assert!((taken / 4..taken).contains(&others), "{others} frames beside {taken}");
    // What is sent makes room.
    let transmit = &mut io.transmits[0];
    for _ in 0..2 {
        transmit.next_send().unwrap();
        transmit.handle_sent(io.now, usize::MAX / 2);
    }
    io.recount(0);
    assert!(send(&mut io, keys[0]).is_ok());
    assert_eq!(
        io.queues.pool().bytes,
        io.transmits.iter().map(|(_, transmit)| transmit.charged()).sum::<usize>()
    );
}

#[test]
fn the_kernel_holds_little_unsent_of_a_node_link() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket: OwnedFd = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
    limit_unsent(&socket);
    assert_eq!(socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(), NOTSENT_BYTES_MAX);
}
