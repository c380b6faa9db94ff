//! Peers of `[p2p] node.N` that take a connection and end it: each at another point.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use amop::internal::{
    pki::Profile,
    tls::{
        Established,
        config::server_config,
        handshake::Handshake,
        identity::{Identity, Roots},
        record::ContentType,
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
    wire::{
        hello::Hello,
        node::{Header, PacketType},
    },
};
use smallvec::SmallVec;

use crate::support::{BOUND, TestNode, host_dir, wait_until};

/// Dials that are looked at; the pauses between them are 0.2, 0.4, 0.8 and 1.6 s, by the node's own account.
const DIALS: usize = 5;
/// The least that they take in all: each pause may be a little shorter. A busy machine only makes it longer.
const LEAST: Duration = Duration::from_millis(2_100);

/// After what a peer ends a connection.
#[derive(Clone, Copy, Debug)]
enum EndsAfter {
    Tcp,
    Tls,
    Hello,
}

fn conf(index: usize) -> PathBuf {
    host_dir(Profile::Ec).join(format!("node{index}/conf"))
}

/// The handshake of a node that is dialled.
fn take_handshake(socket: &mut TcpStream, index: usize) -> Established {
    let conf = conf(index);
    let identity = Identity::load(&conf.join("node.crt"), &conf.join("node.key")).unwrap();
    let roots = Roots::load(&conf.join("ca.crt")).unwrap();
    let tls = server_config(&identity, &roots, &TlsSettings::default(), IssuerPolicy::default()).unwrap();
    let mut handshake = Handshake::server(tls).unwrap();
    let mut buffer = [0; 4096];
    loop {
        socket.write_all(&handshake.take_output()).unwrap();
        if handshake.is_complete() {
            return handshake.finish().unwrap();
        }
        let read = socket.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the node goes through with its handshake");
        handshake.handle_received(&buffer[..read]).unwrap();
    }
}

/// The next connection; it fails the test if there is none.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    wait_until("the node dials", || {
        accepted = match listener.accept() {
            Ok((socket, _)) => Some(socket),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        };
        accepted.is_some()
    });
    let socket = accepted.expect("it was waited for");
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    socket
}

/// Takes one connection and ends it.
fn take_and_end(listener: &TcpListener, index: usize, ends: EndsAfter) {
    let mut socket = accept(listener);
    if let EndsAfter::Tcp = ends {
        return;
    }
    let mut link = take_handshake(&mut socket, index);
    if let EndsAfter::Hello = ends {
        let hello = Hello {
            version_min: 2,
            version_max: 2,
            features: 0,
            incarnation: 1,
            lane: 0,
            link_number: 1,
            replaces: 0,
            frame_len_max: Some(1 << 20),
            salt: Some([1; 16]),
        };
        let payload = hello.encode();
        let mut frame = SmallVec::new();
        Header::direct(PacketType::HELLO, 1).encode_into(payload.len(), &mut frame);
        let mut records = Vec::new();
        link.sealer.seal(ContentType::ApplicationData, &[&frame, &payload], &mut records).unwrap();
        link.sealer.close_notify(&mut records).unwrap();
        socket.write_all(&records).unwrap();
        // The node has taken it once it closes its side.
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_peer_that_ends_each_connection_is_dialled_less_and_less_often_wherever_it_ends_it() {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: String = listeners
        .iter()
        .enumerate()
        .map(|(number, listener)| format!("node.{number}={}\n", listener.local_addr().unwrap()))
        .collect();
    let node = TestNode::start(Profile::Ec, 0, &[], &peers);
    std::thread::scope(|scope| {
        for (index, (listener, ends)) in
            listeners.iter().zip([EndsAfter::Tcp, EndsAfter::Tls, EndsAfter::Hello]).enumerate()
        {
            scope.spawn(move || {
                let mut begun = None;
                for _ in 0..DIALS {
                    take_and_end(listener, index + 1, ends);
                    begun.get_or_insert_with(Instant::now);
                }
                let took = begun.unwrap().elapsed();
                assert!(
                    took >= LEAST,
                    "{DIALS} dials within {took:?} of a peer that ends them after {ends:?}"
                );
            });
        }
    });
    node.stop();
}
