//! What the kernel still writes to when a node closes: memory that is freed meanwhile is poisoned and kept, and whatever
//! is found changed in it was written after it was freed.
//!
//! A program of its own: the allocator is the whole process's.

#[allow(dead_code)] // a part of it is enough here
mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use amop::internal::pki::Profile;
use support::{TestNode, get, wait_until};

/// What the kernel fills for the door: a read's buffer, and an accept's address with its length.
const FILLED: [Layout; 2] =
    [layout(4_096, 1), layout(size_of::<(libc::sockaddr_storage, libc::socklen_t)>(), 8)];
const POISON: u8 = 0xdd;
/// After each block that is kept.
const PAUSE: Duration = Duration::from_micros(50);
const KEPT_MAX: usize = 1 << 16;
const HANDSHAKES: usize = 256;

const fn layout(size: usize, align: usize) -> Layout {
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("not a layout"),
    }
}

/// The system's allocator, which keeps what it may have lent to the kernel and poisons it.
struct Poisoning;

static IS_POISONING: AtomicBool = AtomicBool::new(false);
static KEPT: [AtomicUsize; KEPT_MAX] = [const { AtomicUsize::new(0) }; KEPT_MAX];
static KEPT_SIZES: [AtomicUsize; KEPT_MAX] = [const { AtomicUsize::new(0) }; KEPT_MAX];
static KEPT_COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work; a block that is kept is never given out again.
unsafe impl GlobalAlloc for Poisoning {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if IS_POISONING.load(SeqCst) && FILLED.contains(&layout) {
            let at = KEPT_COUNT.fetch_add(1, SeqCst);
            if at < KEPT_MAX {
                // SAFETY: the caller gives up the block, which is so long.
                unsafe { block.write_bytes(POISON, layout.size()) };
                // Between this block and the last one there is time for bytes to come.
                std::thread::sleep(PAUSE);
                KEPT_SIZES[at].store(layout.size(), SeqCst);
                KEPT[at].store(block as usize, SeqCst);
                return;
            }
        }
        // SAFETY: as the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Poisoning = Poisoning;

/// Blocks that were kept, and how many of them were written to afterwards.
fn kept_and_written() -> (usize, usize) {
    let blocks = KEPT.iter().zip(&KEPT_SIZES).map(|(block, size)| (block.load(SeqCst), size.load(SeqCst)));
    let blocks: Vec<_> = blocks.filter(|&(block, _)| block != 0).collect();
    let is_written = |&&(block, size): &&(usize, usize)| {
        // SAFETY: the block was never freed. Volatile, for whoever writes to it is not the program.
        (0..size).any(|at| unsafe { (block as *const u8).add(at).read_volatile() } != POISON)
    };
    (blocks.len(), blocks.iter().filter(is_written).count())
}

#[test]
fn nothing_is_written_to_what_a_door_has_freed_when_it_closes_with_handshakes_under_way() {
    for _ in 0..3 {
        let more = "[amop]\naddress_handshakes_max=1024\n[admin]\nlisten_port=0\n";
        let node = TestNode::start(Profile::Ec, 0, &[], more);
        let (channel, p2p) = (node.node().channel_address(), node.node().p2p_address());
        // The beginning of a long record; its bytes come one by one, also while the node stops.
        let mut half: Vec<TcpStream> = (0..HANDSHAKES)
            .map(|index| {
                let mut socket = TcpStream::connect(if index % 2 == 0 { channel } else { p2p }).unwrap();
                socket.set_nodelay(true).unwrap();
                socket.write_all(&[22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xf0]).unwrap();
                socket
            })
            .collect();
        let admin = node.node().admin_address().unwrap();
        let under_way = format!("amop_door_pending_handshakes {HANDSHAKES}\n");
        wait_until("all handshakes are under way", || get(admin, "/metrics").1.contains(&under_way));
        let is_over = Arc::<AtomicBool>::default();
        let is_done = is_over.clone();
        let writer = std::thread::spawn(move || {
            while !is_done.load(SeqCst) {
                // The door closes them, one after another.
                half.retain_mut(|socket| {
                    std::thread::sleep(20 * PAUSE);
                    socket.write_all(b"x").is_ok()
                });
            }
        });
        let is_done = is_over.clone();
        let caller = std::thread::spawn(move || {
            while !is_done.load(SeqCst) {
                // It may be closed already.
                let _ = (TcpStream::connect(channel), TcpStream::connect(p2p));
            }
        });
        IS_POISONING.store(true, SeqCst);
        node.stop();
        IS_POISONING.store(false, SeqCst);
        is_over.store(true, SeqCst);
        writer.join().unwrap();
        caller.join().unwrap();
        let (kept, written) = kept_and_written();
        assert!(kept >= HANDSHAKES, "{kept}");
        assert_eq!(written, 0, "of {kept} freed blocks");
    }
}
