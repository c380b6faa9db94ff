//! What the unit tests have in common: both ends of connections whose handshakes were made in memory, and how bytes come off
//! a socket.

use std::{sync::OnceLock, time::Instant};

use super::{assemble::UnfinishedFrames, receive::Receive, ring::IoSetting};

use crate::{
    pki::{NetworkPlan, Profile, build_network},
    relay::CloseReason,
    tls::{
        config::{client_config, server_config},
        handshake::Handshake,
        identity::{Identity, Roots},
        record::{Opener, Sealer},
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
    wire::FrameRef,
};

/// What tests of this run are on: `AMOP_IO=epoll` has them run without io_uring.
pub(super) fn io() -> IoSetting {
    match std::env::var("AMOP_IO") {
        Ok(name) => IoSetting::from_name(&name).expect("AMOP_IO is auto, io_uring or epoll"),
        Err(_) => IoSetting::Uring,
    }
}

/// One direction of a TLS 1.2 connection.
pub(super) fn connection() -> (Sealer, Opener) {
    connection_of("1.2")
}

/// One direction of a connection of a TLS version.
pub(super) fn connection_of(version: &str) -> (Sealer, Opener) {
    static FILES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("amop-test-keys-").tempdir().expect("a directory");
        let plan = NetworkPlan { profile: Profile::Rsa, days: 1, ..NetworkPlan::default() };
        build_network(&plan, &dir.path().join("nodes")).expect("certificates");
        dir
    });
    let host = files.path().join("nodes/127.0.0.1");
    let side = |dir: &str, name: &str| {
        let dir = host.join(dir);
        let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let identity = Identity::load(&certificate, &key).expect("an identity");
        (identity, Roots::load(&dir.join("ca.crt")).expect("roots"))
    };
    let settings = TlsSettings::from_names(&[version.to_owned()], &[], &[]).expect("a version");
    let (identity, roots) = side("node0/conf/channel_cert", "node");
    let config = server_config(&identity, &roots, &settings, IssuerPolicy::default()).expect("certificates");
    let mut server = Handshake::server(config).expect("a server");
    let (identity, roots) = side("sdk", "sdk");
    let config = client_config(&identity, &roots, &settings).expect("certificates");
    let mut client = Handshake::client(config).expect("a client");
    while !(server.is_complete() && client.is_complete()) {
        server.handle_received(&client.take_output()).expect("a good client");
        client.handle_received(&server.take_output()).expect("a good server");
    }
    server.handle_received(&client.take_output()).expect("a good client");
    let (server, client) = (server.finish().expect("complete"), client.finish().expect("complete"));
    (client.sealer, server.opener)
}

/// What a reactor does with what comes off a socket, `step` giving how much comes at once.
pub(super) fn pump(
    receive: &mut Receive,
    unfinished: &UnfinishedFrames,
    mut stream: &[u8],
    mut step: impl FnMut() -> usize,
    mut handle: impl FnMut(FrameRef<'_>) -> bool,
) -> Result<usize, CloseReason> {
    let (now, mut own) = (Instant::now(), 0);
    while !stream.is_empty() {
        let mut came = step().clamp(1, stream.len());
        if let Some(room) = receive.own_room(unfinished) {
            came = came.min(room.len());
            room[..came].copy_from_slice(&stream[..came]);
            receive.handle_own(now, unfinished, came, &mut handle)?;
            own += came;
        } else {
            came = came.min(32 * 1024);
            receive.handle_bytes(now, unfinished, &mut stream[..came].to_vec(), &mut handle)?;
        }
        stream = &stream[came..];
        if receive.wants_own() {
            assert!(receive.begin_own());
        } else if receive.is_own_idle() && step().is_multiple_of(3) {
            receive.end_own(now, unfinished);
        }
    }
    Ok(own)
}
