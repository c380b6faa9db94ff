//! What nodes keep of messages, for who looks for one by its seq, and tell each other of it.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        ReactorId,
        bandwidth::Limiter,
        diagnostic::{
            Answer, Question, REPLY_TIME_MAX,
            trace::{QUESTIONS_PER_SECOND_MAX, ReplyStatus},
        },
        settings::Settings,
        trace::KEPT_MAX,
    },
    wire::{
        ResultCode,
        node::{Header, PacketType},
        notice::{Diagnostic, Notice},
        sdk::{self, FrameType, Seq},
        trace::{Attempt, AttemptKind, AttemptOutcome, End, MessageTrace, Part, Refusal, Role},
    },
};

use crate::kit::{Behaviour, Network};

const SOON: Duration = Duration::from_millis(100);
/// The kinds of these diagnostics on the wire (docs/node-link.md §9 and §11).
const TRACE: u8 = 4;
const PING: u8 = 6;

/// What a node knows of a message that it had to do with once.
fn trace(net: &mut Network, node: usize, seq: &Seq) -> MessageTrace {
    let mut known = net.known_of(node, seq);
    assert_eq!(known.len(), 1, "node {node}: {known:?}");
    known.remove(0).trace
}

fn outcomes(trace: &MessageTrace) -> Vec<(AttemptKind, AttemptOutcome)> {
    trace.attempts.as_slice().iter().map(|attempt| (attempt.kind, attempt.outcome)).collect()
}

#[track_caller]
fn assert_ended(
    trace: &MessageTrace,
    role: Role,
    end: End,
    code: i32,
    expected: &[(AttemptKind, AttemptOutcome)],
) {
    assert_eq!((trace.role, trace.end, trace.code), (role, end, code), "{trace:?}");
    assert_eq!(outcomes(trace), expected, "{trace:?}");
}

fn frame(notice: &Notice) -> Vec<u8> {
    let payload = notice.encode();
    let mut frame = smallvec::SmallVec::new();
    Header::direct(PacketType::BROADCAST, 1).encode_into(payload.len(), &mut frame);
    frame.extend_from_slice(&payload);
    frame.to_vec()
}

fn reply_of(id: u64, part: &Part) -> Notice {
    Notice::Reply(Diagnostic { kind: TRACE, id, body: part.encode() })
}

fn told(id: u64, part: &Part) -> Vec<u8> {
    frame(&reply_of(id, part))
}

#[test]
fn what_ends_with_0_leaves_nothing_unless_tracing_is_on() {
    for reactors in 1..=2 {
        let mut net = Network::mesh(1, 2, reactors);
        net.subscriber(1, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        net.run_for(SOON);
        assert_eq!(net.known_of(0, &seq).len() + net.known_of(1, &seq).len(), 0);

        for node in &net.nodes {
            node.shared.tracing.store(true, Relaxed);
        }
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, SOON).0, 0);
        let known = net.known_of(0, &seq).remove(0);
        assert_eq!(known.topic, "t");
        assert_eq!(known.sender.unwrap().subject, "CN=sdk");
        let (here, there) = (known.trace, trace(&mut net, 1, &seq));
        assert_ended(
            &here,
            Role::Request,
            End::BySession,
            0,
            &[(AttemptKind::Node, AttemptOutcome::Answered)],
        );
        assert_ended(
            &there,
            Role::Forwarded,
            End::BySession,
            0,
            &[(AttemptKind::Session, AttemptOutcome::Answered)],
        );
        let attempt = here.attempts.as_slice()[0];
        assert_eq!((attempt.who, attempt.message), (net.nodes[1].id.short(), there.message));
        assert_eq!((there.origin, here.size), (net.nodes[0].id.short(), 42 + 3));
        assert!(here.age_us > there.age_us && here.took_us > there.took_us, "{here:?} {there:?}");
        assert!(there.took_us >= 2_000, "two ways to the application");
        assert_eq!((here.time_ms, there.attempts.as_slice()[0].who & 0xffff_ffff), (30_000, 1));
    }
}

#[test]
fn a_subscribers_own_code_leaves_an_account_everywhere() {
    let mut net = Network::mesh(2, 2, 2);
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    let before = trace(&mut net, 1, &seq);
    assert_ended(&before, Role::Forwarded, End::Open, 0, &[(AttemptKind::Session, AttemptOutcome::Open)]);
    net.bytes(subscriber, sdk::encode(FrameType::RESPONSE, &seq, ResultCode(-7), b"\x02tno"));
    assert_eq!(net.answer(publisher, &seq, SOON).0, -7);
    for (node, role, kind) in
        [(0, Role::Request, AttemptKind::Node), (1, Role::Forwarded, AttemptKind::Session)]
    {
        let trace = trace(&mut net, node, &seq);
        assert_ended(&trace, role, End::BySession, -7, &[(kind, AttemptOutcome::Answered)]);
    }
}

#[test]
fn code_99_names_the_node_that_did_not_take_it() {
    let mut net = Network::mesh(3, 2, 2);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.break_links(0, 1);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)).0, 99);
    let trace = trace(&mut net, 0, &seq);
    assert_ended(&trace, Role::Request, End::ByNode, 99, &[(AttemptKind::Node, AttemptOutcome::NotTaken)]);
    assert!(trace.took_us > 900_000 && trace.took_us < 6_000_000, "{trace:?}");
}

#[test]
fn code_102_names_the_node_that_was_not_heard_of() {
    let mut net = Network::mesh(3, 2, 2);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.cut_links(0, 1);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)).0, 102);
    let trace = trace(&mut net, 0, &seq);
    assert_ended(&trace, Role::Request, End::ByNode, 102, &[(AttemptKind::Node, AttemptOutcome::NotHeard)]);
    assert!(trace.took_us > 1_000_000 && trace.took_us < 6_000_000, "{trace:?}");
}

#[test]
fn what_is_refused_at_once_says_why() {
    let mut net = Network::new(4);
    net.add_node(1, Settings { pending_requests_max: 1, ..Settings::default() });
    let silent = net.app(0, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let first = net.unicast(publisher, "t", b"x");
    let full = net.unicast(publisher, "t", b"x");
    let nobody = net.unicast(publisher, "#!$TopicNeedVerify_t", b"x");
    let malformed = net.frame(publisher, FrameType::REQUEST, b"\0");
    let malformed_multicast = net.frame(publisher, FrameType::MULTICAST, b"");
    net.run_for(SOON);
    for (seq, role, code, refusal) in [
        (full, Role::Request, 99, Refusal::TableFull),
        (nobody, Role::Request, 100, Refusal::NotRoutable),
        (malformed, Role::Request, 100, Refusal::BadBody),
        (malformed_multicast, Role::Multicast, 100, Refusal::BadBody),
    ] {
        let trace = trace(&mut net, 0, &seq);
        assert_ended(&trace, role, End::ByNode, code, &[]);
        assert_eq!(trace.refusal, refusal);
    }
    // The same seq again, while the first waits: both are known.
    let again = sdk::encode_amop(FrameType::REQUEST, &first, ResultCode::OK, "t", b"y");
    net.bytes(publisher, again);
    net.run_for(SOON);
    let known = net.known_of(0, &first);
    let ends: Vec<_> = known.iter().map(|known| (known.trace.end, known.trace.refusal)).collect();
    assert_eq!(ends, [(End::ByNode, Refusal::SeqInUse), (End::Open, Refusal::None)]);
}

#[test]
fn code_100_says_that_nobody_was_tried() {
    let mut net = Network::mesh(5, 2, 2);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "nobody", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 100);
    let known = net.known_of(0, &seq).remove(0);
    assert_ended(&known.trace, Role::Request, End::ByNode, 100, &[]);
    assert_eq!((known.trace.refusal, known.topic.as_str()), (Refusal::None, "nobody"));
}

#[test]
fn code_101_names_the_session_whose_queue_is_full() {
    for (seed, node) in [(6, 0), (7, 1)] {
        let mut net = Network::new(seed);
        for _ in 0..2 {
            net.add_node(2, Settings { session_queue_bytes_max: 1_000, ..Settings::default() });
        }
        net.connect(0, 1);
        net.run_for(SOON);
        let deaf = net.app_on(node, ReactorId(1), Behaviour::Deaf);
        net.subscribe(deaf, &["t"]);
        let publisher = net.app_on(0, ReactorId(0), Behaviour::Silent);
        net.multicast(publisher, "t", &[0; 2_000]);
        let seq = net.unicast(publisher, "t", b"x");
        // It waits for room within its time.
        assert_eq!(net.answer(publisher, &seq, Settings::default().request_timeout).0, 101);
        let at = trace(&mut net, node, &seq);
        assert_eq!(outcomes(&at), [(AttemptKind::Session, AttemptOutcome::QueueFull)]);
        assert_eq!(at.attempts.as_slice()[0].who, 1 << 48 | 1);
        if node == 1 {
            let here = trace(&mut net, 0, &seq);
            assert_ended(
                &here,
                Role::Request,
                End::ByNode,
                101,
                &[(AttemptKind::Node, AttemptOutcome::NotDelivered)],
            );
        }
    }
}

#[test]
fn code_101_tells_of_a_topic_that_was_dropped_and_of_a_seq_in_use() {
    let mut net = Network::mesh(8, 2, 1);
    let subscriber = net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    net.frame(subscriber, FrameType::SUBSCRIBE, b"[]");
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, SOON).0, 101);
    let there = trace(&mut net, 1, &seq);
    assert_ended(&there, Role::Forwarded, End::ByNode, 101, &[]);

    let silent = net.app(0, Behaviour::Silent);
    net.subscribe(silent, &["s"]);
    let seq = net.unicast(publisher, "s", b"x");
    net.run_for(SOON);
    let other = net.app(0, Behaviour::Silent);
    net.bytes(other, sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, "s", b"y"));
    assert_eq!(net.answer(other, &seq, SOON).0, 101);
    let known = net.known_of(0, &seq);
    let ended = known.iter().find(|known| known.trace.end == End::ByNode).unwrap();
    assert_eq!(outcomes(&ended.trace), [(AttemptKind::Session, AttemptOutcome::SeqInUse)]);
}

#[test]
fn code_102_tells_how_long_each_session_was_silent() {
    for (seed, node, reactors) in [(9, 0, 1), (10, 0, 2), (11, 1, 2)] {
        let mut net = Network::mesh(seed, 2, reactors);
        for _ in 0..2 {
            let silent = net.app(node, Behaviour::Silent);
            net.subscribe(silent, &["t"]);
        }
        let publisher = net.app(0, Behaviour::Silent);
        let seq = net.unicast(publisher, "t", b"x");
        assert_eq!(net.answer(publisher, &seq, Duration::from_secs(11)).0, 102);
        let at = trace(&mut net, node, &seq);
        // A reactor may be asked in vain whether there is another session.
        let (mut attempts, vain): (Vec<Attempt>, Vec<Attempt>) = at
            .attempts
            .as_slice()
            .iter()
            .copied()
            .partition(|attempt| attempt.outcome == AttemptOutcome::Silent);
        assert!(vain.iter().all(|attempt| attempt.outcome == AttemptOutcome::NobodyLeft), "{at:?}");
        attempts.sort_by_key(|attempt| attempt.at_us);
        assert_eq!(attempts.len(), 2);
        assert_ne!(attempts[0].who, attempts[1].who);
        for (attempt, at_ms) in attempts.iter().zip([0, 5_000]) {
            assert!(attempt.who & 0xffff_ffff != 0, "the session is known");
            assert_eq!(
                (attempt.at_us / 100_000, attempt.took_us / 100_000),
                (at_ms / 100, 50),
                "{attempt:?}"
            );
        }
        if node == 1 {
            let here = trace(&mut net, 0, &seq);
            assert_ended(
                &here,
                Role::Request,
                End::ByNode,
                102,
                &[(AttemptKind::Node, AttemptOutcome::TimedOut)],
            );
        }
    }
}

#[test]
fn a_late_answer_of_a_silent_session_is_told() {
    let mut net = Network::mesh(12, 1, 1);
    net.nodes[0].shared.tracing.store(true, Relaxed);
    for _ in 0..2 {
        let slow = net.app(0, Behaviour::Echo(Duration::from_secs(7)));
        net.subscribe(slow, &["t"]);
    }
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(8)).0, 0);
    let trace = trace(&mut net, 0, &seq);
    let expected =
        [(AttemptKind::Session, AttemptOutcome::Answered), (AttemptKind::Session, AttemptOutcome::Open)];
    assert_ended(&trace, Role::Request, End::BySession, 0, &expected);
    assert_eq!(trace.attempts.as_slice()[0].took_us / 1_000_000, 7);
}

#[test]
fn code_102_names_who_left_and_the_node_that_was_lost() {
    let mut net = Network::mesh(13, 2, 1);
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.disconnect(subscriber);
    assert_eq!(net.answer(publisher, &seq, SOON).0, 102);
    let there = trace(&mut net, 1, &seq);
    assert_ended(&there, Role::Forwarded, End::ByNode, 102, &[(AttemptKind::Session, AttemptOutcome::Left)]);

    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.kill(1);
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(31)).0, 102);
    let here = trace(&mut net, 0, &seq);
    assert_ended(&here, Role::Request, End::ByNode, 102, &[(AttemptKind::Node, AttemptOutcome::NotHeard)]);
}

#[test]
fn code_103_names_the_node_that_it_would_have_gone_to() {
    let mut net = Network::new(14);
    net.add_limited_node(1, Settings::default(), Limiter::new(10_000.0, SOON));
    net.add_node(1, Settings::default());
    net.connect(0, 1);
    net.run_for(SOON);
    net.subscriber(1, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", &[0; 2_000]);
    net.answer(publisher, &seq, SOON);
    let (seq, multicast) = (net.unicast(publisher, "t", b"x"), net.multicast(publisher, "t", b"x"));
    assert_eq!(net.answer(publisher, &seq, SOON).0, 103);
    let here = trace(&mut net, 0, &seq);
    assert_ended(
        &here,
        Role::Request,
        End::ByNode,
        103,
        &[(AttemptKind::Node, AttemptOutcome::OverBandwidth)],
    );
    let here = trace(&mut net, 0, &multicast);
    assert_ended(&here, Role::Multicast, End::ByNode, 103, &[]);
    assert_eq!(here.refusal, Refusal::OverBandwidth);
}

#[test]
fn a_request_whose_sender_left_is_known() {
    let mut net = Network::mesh(15, 1, 2);
    let subscriber = net.app_on(0, ReactorId(1), Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app_on(0, ReactorId(0), Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.run_for(SOON);
    net.disconnect(publisher);
    let known = net.known_of(0, &seq).remove(0);
    assert_ended(
        &known.trace,
        Role::Request,
        End::SenderLeft,
        0,
        &[(AttemptKind::Session, AttemptOutcome::Open)],
    );
    assert_eq!(known.sender.unwrap().address, format!("127.0.0.1:{publisher}"));
}

#[test]
fn a_multicast_is_traced_with_the_links_that_it_took_and_the_copies_that_were_dropped() {
    for reactors in 1..=2 {
        let mut net = Network::new(16);
        for _ in 0..3 {
            net.add_node(reactors, Settings { session_queue_bytes_max: 1_000, ..Settings::default() });
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            net.connect(a, b);
        }
        net.run_for(SOON);
        for node in &net.nodes {
            node.shared.tracing.store(true, Relaxed);
        }
        for node in 0..3 {
            net.subscriber(node, &["t"]);
            net.subscriber(node, &["t"]);
        }
        let deaf = net.app(1, Behaviour::Deaf);
        net.subscribe(deaf, &["t"]);
        let publisher = net.app(0, Behaviour::Silent);
        net.multicast(publisher, "t", &[0; 2_000]);
        net.run_for(SOON);
        let seq = net.multicast(publisher, "t", b"x");
        net.run_for(SOON);
        let mut nodes = Vec::new();
        for (node, copies, dropped) in [(0, 2, 0), (1, 2, 1), (2, 2, 0)] {
            let known = net.known_of(node, &seq);
            let sum = |of: fn(&MessageTrace) -> u32| known.iter().map(|known| of(&known.trace)).sum::<u32>();
            assert_eq!((sum(|a| a.copies), sum(|a| a.dropped)), (copies, dropped), "node {node}: {known:?}");
            let role = if node == 0 { Role::Multicast } else { Role::ForwardedMulticast };
            assert_eq!(known.iter().filter(|known| known.trace.role == role).count(), 1);
            for attempt in known.iter().flat_map(|known| known.trace.attempts.as_slice()) {
                match attempt.kind {
                    AttemptKind::Node => nodes.push((attempt.who, attempt.outcome)),
                    _ => assert_eq!((node, attempt.outcome), (1, AttemptOutcome::QueueFull)),
                }
            }
        }
        nodes.sort_by_key(|&(who, _)| who);
        let mut expected = [1, 2].map(|node| (net.nodes[node].id.short(), AttemptOutcome::Sent));
        expected.sort_by_key(|&(who, _)| who);
        assert_eq!(nodes, expected);
    }
}

#[test]
fn the_oldest_failures_are_forgotten_at_the_bound_and_successes_do_not_push_them_out() {
    let mut net = Network::mesh(17, 1, 1);
    net.nodes[0].shared.tracing.store(true, Relaxed);
    net.subscriber(0, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let first = net.unicast(publisher, "nobody", b"x");
    net.run_for(SOON);
    for _ in 0..100 {
        net.unicast(publisher, "t", b"x");
    }
    let mut last = first;
    for _ in 0..KEPT_MAX - 1 {
        last = net.unicast(publisher, "nobody", b"x");
        net.step(net.now + SOON);
    }
    net.run_for(SOON);
    assert_eq!((net.known_of(0, &first).len(), net.known_of(0, &last).len()), (1, 1));
    net.unicast(publisher, "nobody", b"x");
    net.run_for(SOON);
    assert_eq!((net.known_of(0, &first).len(), net.known_of(0, &last).len()), (0, 1));
    for _ in 0..300 {
        net.unicast(publisher, "nobody", b"x");
    }
    net.run_for(SOON);
    assert!(net.nodes[0].total(|counters| counters.traces_forgotten.get()) >= 256);
}

#[test]
fn a_node_tells_its_neighbour_what_all_its_reactors_know() {
    let mut net = Network::mesh(18, 2, 3);
    let subscriber = net.app_on(1, ReactorId(2), Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app_on(0, ReactorId(1), Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"secret");
    assert_eq!(net.answer(publisher, &seq, Duration::from_secs(6)).0, 102);
    let started = net.nodes[0].shared.started;
    for (asking, status) in [(0, 1), (1, 0)] {
        let known = trace(&mut net, status, &seq);
        let reply = net.ask_for_traces(asking, status, &seq, SOON).expect("an answer");
        assert_eq!(
            (reply.status, reply.traces.len(), reply.more, reply.tracing),
            (ReplyStatus::Answered, 1, false, false)
        );
        let trace = &reply.traces[0];
        assert_eq!(trace, &MessageTrace { age_us: trace.age_us, ..known });
        assert!(reply.round_trip >= Duration::from_millis(2), "{reply:?}");
        assert!(reply.up <= net.now.saturating_duration_since(started));
    }
    let reply = net.ask_for_traces(0, 1, &[b'0'; 32], SOON).unwrap();
    assert_eq!((reply.status, reply.traces.len()), (ReplyStatus::Answered, 0));
}

#[test]
fn a_node_that_does_not_answer_or_is_not_there_is_told_so() {
    let mut net = Network::mesh(19, 3, 2);
    net.kill(2);
    net.run_for(SOON);
    assert_eq!(net.ask_for_traces(0, 2, &[b'0'; 32], SOON).unwrap().status, ReplyStatus::NotLinked);
    net.nodes[1].frozen = true;
    let before = net.now;
    let reply = net.ask_for_traces(0, 1, &[b'0'; 32], Duration::from_secs(9)).unwrap();
    assert_eq!(reply.status, ReplyStatus::Silent);
    assert_eq!(net.now - before, REPLY_TIME_MAX);
}

#[test]
fn a_node_that_was_restarted_knows_nothing_of_what_was_before() {
    let mut net = Network::mesh(20, 2, 1);
    let subscriber = net.app(1, Behaviour::Silent);
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    net.answer(publisher, &seq, Duration::from_secs(6));
    net.restart(1, SOON);
    net.connect(0, 1);
    net.run_for(SOON);
    let reply = net.ask_for_traces(0, 1, &seq, SOON).unwrap();
    assert_eq!((reply.status, reply.traces.len()), (ReplyStatus::Answered, 0));
    let here = trace(&mut net, 0, &seq);
    assert!(reply.up < Duration::from_micros(here.age_us), "it shows by its age");
}

#[test]
fn answers_that_nobody_asked_for_are_ignored_and_counted() {
    let mut net = Network::mesh(21, 3, 1);
    let ignored = |net: &Network| net.nodes[0].total(|counters| counters.trace_answers_ignored.get());
    let unknown = |net: &Network| net.nodes[0].total(|counters| counters.unknown_packets.get());
    let part = || Part { reactors: 2, traces: vec![MessageTrace::default()], ..Part::default() };
    net.forge(1, 0, &told(7, &part()));
    net.run_for(SOON);
    assert_eq!(ignored(&net), 1);

    // One that is under way is answered by who was asked only, each part once.
    net.nodes[1].frozen = true;
    let (id, now, seq) = (net.nodes[1].id, net.now, [b'0'; 32]);
    let ask = |net: &mut Network, question| net.ask(0, &id, question, Question::Trace { node: id, seq });
    ask(&mut net, 8);
    net.forge(2, 0, &told(8, &part()));
    net.forge(1, 0, &told(8, &part()));
    net.forge(1, 0, &told(8, &part()));
    net.forge(1, 0, &told(8, &Part { reactors: 3, reactor: 1, ..part() }));
    net.run_for(SOON);
    assert_eq!((ignored(&net), net.answer_to(0, 8).is_none()), (4, true));
    net.forge(1, 0, &told(8, &Part { reactor: 1, ..part() }));
    net.run_for(SOON);
    let Some(Answer::Trace(reply)) = net.answer_to(0, 8) else { panic!("no answer") };
    assert_eq!((reply.status, reply.traces.len()), (ReplyStatus::Answered, 2));

    // Too large, cut off, or of a reactor that nobody can have.
    ask(&mut net, 9);
    net.forge(1, 0, &told(9, &Part { traces: vec![MessageTrace::default(); 9], ..part() }));
    let mut cut = reply_of(9, &part()).encode();
    cut.truncate(60);
    let mut cut_frame = smallvec::SmallVec::new();
    Header::direct(PacketType::BROADCAST, 1).encode_into(cut.len(), &mut cut_frame);
    cut_frame.extend_from_slice(&cut);
    net.forge(1, 0, &cut_frame);
    net.run_for(SOON);
    assert_eq!((unknown(&net), net.answer_to(0, 9).is_none()), (2, true));
    net.forge(1, 0, &told(9, &Part { reactor: 60_000, reactors: 65_535, ..part() }));
    net.run_for(SOON);
    assert_eq!(ignored(&net), 5);
    // Of a diagnostic that is not known here, and of another one than was asked.
    let other = |kind| frame(&Notice::Reply(Diagnostic { kind, id: 9, body: part().encode() }));
    net.forge(1, 0, &other(12));
    net.forge(1, 0, &other(PING));
    net.run_for(SOON / 100);
    let pings = net.nodes[0].total(|counters| counters.ping_answers_ignored.get());
    assert_eq!((unknown(&net), pings, net.answer_to(0, 9).is_none()), (3, 1, true));
    assert!(net.now > now);
}

#[test]
fn a_neighbour_that_asks_too_often_is_not_answered() {
    let mut net = Network::mesh(22, 2, 2);
    for question in 0..3 * u64::from(QUESTIONS_PER_SECOND_MAX) {
        net.forge(
            1,
            0,
            &frame(&Notice::Request(Diagnostic { kind: TRACE, id: question, body: vec![b'0'; 32] })),
        );
    }
    net.run_for(SOON);
    let total = |net: &Network, counter: fn(&amop::internal::relay::counters::Counters) -> u64| {
        net.nodes[0].total(counter)
    };
    assert_eq!(total(&net, |counters| counters.trace_questions.get()), 192);
    assert_eq!(total(&net, |counters| counters.trace_questions_over_bound.get()), 128);
    // Nobody asked at the other node, which ignores what comes.
    assert_eq!(net.nodes[1].total(|counters| counters.trace_answers_ignored.get()), 2 * 64);
    let before: Instant = net.now;
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.ask_for_traces(1, 0, &[b'0'; 32], SOON).unwrap().status, ReplyStatus::Answered);
    assert!(net.now > before);
}
