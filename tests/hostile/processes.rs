//! The built program: killed at any moment, and its memory.

use std::{io::Write, net::SocketAddr, thread::sleep, time::Duration};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FRAME_LEN_MAX, FrameType},
    },
};
use rand::{RngExt, SeedableRng};

use crate::{
    healthy::HealthyPair,
    support::{
        RawSdk, TestNode, application_config, host_dir,
        process::{Process, spawn, write_config},
        seq, wait_until,
    },
};

#[test]
fn a_signal_as_soon_as_the_node_is_up_ends_it_in_order() {
    let conf = host_dir(Profile::Ec).join("node0/conf");
    for _ in 0..8 {
        assert_eq!(Process::start(&conf, false).stop(), Some(0));
    }
}

#[test]
fn after_a_kill_at_any_moment_the_next_start_works() {
    let conf = host_dir(Profile::Ec).join("node1/conf");
    let dir = tempfile::tempdir().unwrap();
    // An address of its own: nobody else takes the ports while the node is away.
    let any = SocketAddr::from(([127, 0, 77, 1], 0));
    let first = Process::run(&write_config(dir.path(), &conf, false, [any; 2], ""));
    let listen = [first.channel, first.p2p];
    let config = write_config(dir.path(), &conf, false, listen, "");
    let survivor = TestNode::start(Profile::Ec, 0, &[], &format!("node.9={}\n", first.p2p));
    let files = || std::fs::read_dir(&conf).unwrap().count() + std::fs::read_dir(dir.path()).unwrap().count();
    let before = files();
    let healthy = HealthyPair::start(&survivor);
    let mut random = rand::rngs::SmallRng::seed_from_u64(9);
    let mut running = first;
    for _ in 0..4 {
        // In the middle of its work …
        let mut sessions: Vec<RawSdk> = (0..4)
            .map(|_| RawSdk::connect_with(application_config(Profile::Ec), running.channel).unwrap())
            .collect();
        for app in &mut sessions {
            app.send(&sdk::encode(FrameType::SUBSCRIBE, &seq(1), ResultCode::OK, br#"["t"]"#));
            app.send(&sdk::encode_amop(FrameType::MULTICAST, &seq(1), ResultCode::OK, "t", &[7; 50_000]));
        }
        sleep(Duration::from_millis(random.random_range(0..20)));
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        // … and while it starts.
        for _ in 0..2 {
            let mut starting = spawn(&config);
            sleep(Duration::from_millis(random.random_range(0..100)));
            starting.kill().unwrap();
            starting.wait().unwrap();
        }
        running = Process::run(&config);
        assert_eq!([running.channel, running.p2p], listen);
        HealthyPair::at(running.channel).finish();
        wait_until("the other node finds it again", || {
            survivor.node().shared().snapshot.load().neighbours.len() == 1
        });
        drop(sessions);
    }
    assert_eq!(files(), before, "nothing is left behind");
    assert_eq!(running.stop(), Some(0));
    healthy.finish();
}

#[test]
fn a_hundred_frames_of_100_mb_that_dribble_cost_what_arrived() {
    let node = Process::start(&host_dir(Profile::Ec).join("node0/conf"), false);
    let healthy = HealthyPair::at(node.channel);
    let mut dribblers: Vec<RawSdk> = (0..100)
        .map(|_| RawSdk::connect_with(application_config(Profile::Ec), node.channel).unwrap())
        .collect();
    let before = node.resident_bytes();
    let promised = sdk::Header {
        len: FRAME_LEN_MAX as u32,
        frame_type: FrameType::MULTICAST,
        seq: seq(1),
        result: ResultCode::OK,
    };
    let mut arrived = 0;
    for app in &mut dribblers {
        app.send(&promised.encode());
    }
    for _ in 0..20 {
        for app in &mut dribblers {
            let record = app.seal(&[7; 10_000]);
            app.socket.write_all(&record).unwrap();
            arrived += record.len();
        }
        healthy.wait_for_exchanges(2);
    }
    let grown = node.resident_bytes().saturating_sub(before);
    // 20 MB arrived, 10 GB were promised. Room for what an allocator keeps.
    assert!(grown < 2 * arrived + (16 << 20), "{grown} bytes for {arrived}");
    assert!(grown > arrived / 2, "{grown} bytes for {arrived}: not measured");
    drop(dribblers);
    healthy.finish();
    assert_eq!(node.stop(), Some(0));
}
