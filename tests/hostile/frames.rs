//! Lengths that lie, and frames that never end.

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{self, FRAME_LEN_MAX, FrameType, HEADER_LEN},
    },
};

use crate::{
    healthy::{HealthyPair, answers, connect, is_closed, try_send},
    support::{TestNode, seq, wait_until},
};

/// The header of a frame that claims a length.
fn header(len: u32) -> [u8; HEADER_LEN] {
    let frame_type = FrameType(0x7777);
    sdk::Header { len, frame_type, seq: seq(1), result: ResultCode::OK }.encode()
}

#[test]
fn frame_lengths_of_0_41_4_gb_and_just_over_the_limit_close_the_session() {
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let healthy = HealthyPair::start(&node);
    let lengths = [0, 41, FRAME_LEN_MAX as u32 + 1, u32::MAX];
    for len in lengths {
        let mut app = connect(&node);
        assert!(answers(&mut app));
        app.send(&header(len));
        assert!(is_closed(&mut app), "{len}");
        // Also when the length itself comes in two records.
        let mut app = connect(&node);
        app.send(&header(len)[..3]);
        app.send(&header(len)[3..]);
        assert!(is_closed(&mut app), "{len} in two records");
    }
    wait_until("they are counted", || {
        node.total(|counters| counters.closed_protocol.get()) == 2 * lengths.len() as u64
            && node.total(|counters| counters.sessions.get()) == 2
    });
    healthy.finish();
}

#[test]
fn a_frame_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let node = TestNode::start(Profile::Ec, 0, &[], "[amop]\nframe_len_max=300000\n");
    let healthy = HealthyPair::start(&node);
    let mut app = connect(&node);
    for len in [42, 300_000] {
        let mut frame = vec![0; len];
        frame[..HEADER_LEN].copy_from_slice(&header(len as u32));
        app.send(&frame);
        assert!(answers(&mut app), "{len}");
    }
    assert_eq!(node.total(|counters| counters.unknown_types.get()), 2);
    app.send(&header(300_001));
    assert!(is_closed(&mut app));
    healthy.finish();
}

/// Sessions that each begin a frame of 100 MiB.
const DRIBBLERS: usize = 100;
/// What each sends of it at a time.
const DRIBBLE: usize = 16_000;

#[test]
fn a_hundred_sessions_that_dribble_100_mb_frames_count_for_what_arrived() {
    // Room for two dribbles of each and a little more; a ten-thousandth of what they promise.
    let more = format!("[engine]\nunfinished_bytes_max={}\n", DRIBBLERS * DRIBBLE * 5 / 2);
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let healthy = HealthyPair::start(&node);
    let mut dribblers: Vec<_> = (0..DRIBBLERS).map(|_| connect(&node)).collect();
    // The node hands a link to its reactor after the handshake's last word.
    wait_until("all are there", || node.total(|counters| counters.sessions.get()) == 2 + DRIBBLERS as u64);
    for app in &mut dribblers {
        app.send(&header(FRAME_LEN_MAX as u32));
    }
    for _ in 0..2 {
        for app in &mut dribblers {
            app.send(&[0; DRIBBLE]);
        }
        healthy.wait_for_exchanges(3);
        assert_eq!(node.total(|counters| counters.unfinished_frames_dropped.get()), 0);
        assert_eq!(node.total(|counters| counters.sessions.get()), 2 + DRIBBLERS as u64);
    }
    // Past the bound some are closed; how many is the node's to choose, but never the honest.
    wait_until("the node makes room", || {
        for app in &mut dribblers {
            let record = app.seal(&[0; DRIBBLE / 10]);
            try_send(app, &record);
        }
        node.total(|counters| counters.closed_protocol.get()) >= 10
    });
    healthy.wait_for_exchanges(3);
    drop(dribblers);
    wait_until("only the honest are left", || node.total(|counters| counters.sessions.get()) == 2);
    healthy.finish();
}
