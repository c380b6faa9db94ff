//! Once traffic flows, the relay allocates nothing for a frame: what a request, a copy or a frame that waits for its
//! acknowledgement needs is used again, and so are the engine's buffers. What only ever goes from one reactor to another
//! takes an allocation each: the reactor that copies a frame for another gets the buffer back with what comes the other way.
//!
//! One test, and a program of its own: the allocator counts for the whole process.

#[path = "../perf/src/scenarios/engine.rs"]
mod engine;
#[path = "../perf/src/scenarios/relay.rs"]
mod relay;

use engine::Traffic;
use relay::Relay;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const SUBSCRIBERS: u64 = 100;
/// Before anything is counted: tables and buffers grow to what they need.
const WARM_UP: usize = 8_000;
const COUNTED: usize = 2_000;
/// Nodes of the tree in which a destination remembers the numbers of control payloads (acknowledgements), until it has its bound.
const REPLAY_WINDOW_GROWTH_MAX: u64 = 8;
/// For a multicast that two nodes share, at all four nodes together.
const SHARED_MAX: u64 = 10;
/// Messages that go through the engine at once.
const WINDOW: usize = 20;
/// Buffers that grow once more, where the processor was elsewhere and more came at once than ever before.
const GROWTH_MAX: u64 = 40;

fn allocations(what: &str, times: usize, mut operation: impl FnMut()) -> (String, u64) {
    (0..WARM_UP / times).for_each(|_| operation());
    let before = dhat::HeapStats::get().total_blocks;
    (0..COUNTED / times).for_each(|_| operation());
    let count = dhat::HeapStats::get().total_blocks - before;
    (what.to_owned(), count)
}

#[test]
fn neither_the_relay_nor_the_engine_allocates_for_a_frame() {
    let profiler = dhat::Profiler::builder();
    // With AMOP_WRITE=1 it writes to dhat-heap.json where what was allocated.
    let _profiler = match std::env::var_os("AMOP_WRITE") {
        Some(_) => profiler.build(),
        None => profiler.testing().build(),
    };
    let mut counted = Vec::new();

    for subscribers in [1, 16] {
        let mut relay = Relay::new(1);
        let publisher = relay.app(0);
        (0..subscribers).for_each(|_| _ = relay.subscriber(0));
        let what = format!("round trip in memory, {subscribers} subscribers");
        counted.push(allocations(&what, 1, || relay.round_trip(publisher, 0)));
    }
    // Two nodes that are linked, and two with one between, which relays what they have sealed.
    for nodes in [2, 3] {
        let mut relay = Relay::new(nodes);
        let (publisher, last) = (relay.app(0), usize::from(nodes) - 1);
        (0..SUBSCRIBERS).for_each(|_| _ = relay.subscriber(last));
        let round_trips = format!("round trip in memory, a line of {nodes} nodes");
        counted.push(allocations(&round_trips, 1, || relay.round_trip(publisher, last)));
        let multicasts = format!("multicast in memory, a line of {nodes} nodes");
        counted.push(allocations(&multicasts, 1, || relay.multicast(publisher, SUBSCRIBERS)));
    }

    let in_memory: Vec<_> = counted.iter().filter(|(_, count)| *count > REPLAY_WINDOW_GROWTH_MAX).collect();
    assert!(in_memory.is_empty(), "the relay allocates in {COUNTED} operations: {in_memory:#?}");

    // Two nodes behind one neighbour share a multicast's content; the list of those that it is for takes memory at each node.
    let mut relay = Relay::new(4);
    let publisher = relay.app(0);
    [2, 3].into_iter().for_each(|node| _ = relay.subscriber(node));
    let (_, count) = allocations("multicast in memory, shared", 1, || relay.multicast(publisher, 2));
    assert!(count <= SHARED_MAX * COUNTED as u64 + REPLAY_WINDOW_GROWTH_MAX, "{count} allocations");

    for (name, subscribers, copies) in [
        ("one reactor", &[0][..], 0),
        // Multicasts, which are answered by the node itself.
        ("two reactors", &[1], COUNTED as u64),
    ] {
        let mut traffic = Traffic::start(subscribers);
        let (_, count) = allocations(name, WINDOW, || traffic.round_trips(WINDOW));
        assert!(count <= GROWTH_MAX, "{count} allocations in {COUNTED} round trips, {name}");
        let (_, count) = allocations(name, WINDOW, || traffic.multicasts(WINDOW));
        assert!(count <= GROWTH_MAX + copies, "{count} allocations in {COUNTED} multicasts, {name}");
        traffic.stop();
    }
}
