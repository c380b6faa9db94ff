//! The kit of the tests over real TLS and real sockets.
#![allow(dead_code, unreachable_pub)] // each test file uses its part of it

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use amop::pki::{Host, NetworkPlan, Profile, build_network};

/// A network's files, made once per run and test program for each profile.
pub fn network_files(profile: Profile) -> &'static Path {
    static RSA: OnceLock<tempfile::TempDir> = OnceLock::new();
    static EC: OnceLock<tempfile::TempDir> = OnceLock::new();
    let (cell, name) = match profile {
        Profile::Rsa => (&RSA, "rsa"),
        Profile::Ec => (&EC, "ec"),
    };
    let dir = cell.get_or_init(|| {
        let dir =
            tempfile::Builder::new().prefix(&format!("amop-test-{name}-")).tempdir().expect("a directory");
        let plan = NetworkPlan {
            hosts: vec![Host { address: "127.0.0.1".to_owned(), nodes: 4 }],
            profile,
            agency: "agency".to_owned(),
            p2p_port: 30300,
            channel_port: 20200,
            listen_ip: "127.0.0.1".to_owned(),
            chain_id: "1".to_owned(),
            days: 1,
            force: false,
        };
        build_network(&plan, &dir.path().join("nodes")).expect("certificates");
        dir
    });
    dir.path()
}

/// `nodes/127.0.0.1` of the network's files.
pub fn host_dir(profile: Profile) -> PathBuf {
    network_files(profile).join("nodes/127.0.0.1")
}
