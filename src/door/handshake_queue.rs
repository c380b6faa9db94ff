//! The queue of connections that wait for their handshake. Handshakes are bounded for each listener and for each address.
//! Many applications behind one address (a gateway that translates addresses, a load balancer) come back all at once when
//! a node restarts, so those beyond their address' bound wait here for a while instead of being turned away. A waiting
//! connection takes no handshake slot; the number of those that wait is bounded. Connections of an address whose failed
//! handshakes have used up its processor time wait, too.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{DoorLimits, HANDSHAKE_TIMEOUT};
use crate::{clock, rate_limit::RateLimit};

/// Connections of a listener that wait because of their address; further ones are closed. Each takes an open file, so that
/// it is less where few may be open.
pub(super) const WAITING_MAX: usize = 2_048;
/// The same of one address.
pub(super) const WAITING_PER_ADDRESS_MAX: usize = 1_024;
/// How long one may wait.
pub(super) const WAIT_MAX: Duration = HANDSHAKE_TIMEOUT;

/// Processor time that an address may use up at once for handshakes that come to nothing. Somebody without a certificate
/// makes no others, each of which costs the door more than it costs a peer; those that become links are free, so that all
/// applications behind one address can come back at once.
pub(super) const TIME_PER_ADDRESS_MAX: Duration = Duration::from_secs(1);
/// It comes back at one part in so many of the door's thread.
pub(super) const TIME_RECOVERY: u32 = 5;

/// Addresses that are known at once, beyond which those that nobody comes from are forgotten with what they used up.
pub(super) const ADDRESSES_MAX: usize = 4_096;
/// Between two looks for addresses that need not be known any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Of one listener.
pub(super) struct HandshakeQueue {
    slots: Arc<Semaphore>,
    waiting_slots: Arc<Semaphore>,
    slots_per_address: usize,
    waiting_slots_per_address: usize,
    addresses: RefCell<HashMap<IpAddr, Rc<Address>>>,
    looked_at: Cell<Option<Instant>>,
}

/// Those who come from one address. It is forgotten with the last of them, once its time is back.
struct Address {
    slots: Arc<Semaphore>,
    waiting: Cell<usize>,
    budget: Cell<RateLimit>,
}

/// Who may begin its handshake, until this is dropped.
pub(super) struct HandshakeSlot {
    handshake_queue: Rc<HandshakeQueue>,
    ip: IpAddr,
    address: Rc<Address>,
    /// Processor time that its handshake took.
    spent: Cell<Duration>,
    /// Among all, and of its address.
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Who waits for others of its address.
pub(super) struct QueuedHandshake {
    handshake_queue: Rc<HandshakeQueue>,
    ip: IpAddr,
    address: Rc<Address>,
    _waiting_slot: OwnedSemaphorePermit,
}

/// What becomes of a connection.
pub(super) enum QueueEntry {
    Now(HandshakeSlot),
    Later(QueuedHandshake),
    Refused(HandshakeRefusal),
}

/// Why a connection is closed without a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeRefusal {
    #[error("too many of its address wait")]
    AddressFull,
    #[error("too many wait, of all addresses")]
    Full,
    #[error("it has waited too long")]
    WaitedTooLong,
    #[error("handshakes of its address that came to nothing have used up its processor time")]
    OutOfTime,
}

impl HandshakeRefusal {
    /// What to do about it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::OutOfTime => "see what runs there: why its handshakes fail is in other lines",
            _ => "see what runs there, or raise [amop] address_handshakes_max",
        }
    }
}

impl HandshakeQueue {
    /// With so many handshakes for each address, in a process that may have so many files open.
    pub(super) fn new(slots_per_address: usize, files_max: u64, limits: DoorLimits) -> Rc<Self> {
        let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
        let waiting_slots = limits.waiting_max.min(files_max / 4);
        Rc::new(Self {
            slots: Arc::new(Semaphore::new(limits.handshakes_max)),
            waiting_slots: Arc::new(Semaphore::new(waiting_slots)),
            slots_per_address,
            waiting_slots_per_address: WAITING_PER_ADDRESS_MAX.min(waiting_slots / 4 * 3),
            addresses: RefCell::default(),
            looked_at: Cell::default(),
        })
    }

    /// Waits until a handshake may begin; whoever comes meanwhile waits in the backlog.
    pub(super) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.slots.clone().acquire_owned().await.ok()
    }

    /// A connection has come, for which there is a handshake slot.
    pub(super) fn enter(self: &Rc<Self>, ip: IpAddr, slot: OwnedSemaphorePermit, now: Instant) -> QueueEntry {
        self.forget_recovered(now);
        let ip = counted_as(ip);
        let address = self.addresses.borrow_mut().entry(ip).or_insert_with(|| self.new_address()).clone();
        if !address.is_out_of_time(now)
            && let Ok(slot_of_address) = address.slots.clone().try_acquire_owned()
        {
            return QueueEntry::Now(HandshakeSlot::new(self.clone(), ip, address, (slot, slot_of_address)));
        }
        let waiting_slot = if address.waiting.get() < self.waiting_slots_per_address {
            self.waiting_slots.clone().try_acquire_owned().map_err(|_| HandshakeRefusal::Full)
        } else {
            Err(HandshakeRefusal::AddressFull)
        };
        match waiting_slot {
            Ok(_waiting_slot) => {
                address.waiting.set(address.waiting.get() + 1);
                QueueEntry::Later(QueuedHandshake {
                    handshake_queue: self.clone(),
                    ip,
                    address,
                    _waiting_slot,
                })
            }
            Err(_) if address.is_out_of_time(now) => QueueEntry::Refused(HandshakeRefusal::OutOfTime),
            Err(reason) => QueueEntry::Refused(reason),
        }
    }

    fn new_address(&self) -> Rc<Address> {
        Rc::new(Address {
            slots: Arc::new(Semaphore::new(self.slots_per_address)),
            waiting: Cell::new(0),
            budget: Cell::default(),
        })
    }

    fn is_unused(&self, address: &Address) -> bool {
        address.waiting.get() == 0 && address.slots.available_permits() == self.slots_per_address
    }

    /// Somebody from an address has gone.
    fn forget_unused(&self, ip: IpAddr, now: Instant) {
        let mut addresses = self.addresses.borrow_mut();
        let is_too_many = addresses.len() > ADDRESSES_MAX;
        let is_over = |address: &Rc<Address>| {
            self.is_unused(address) && (is_too_many || address.budget.get().is_full(now))
        };
        if addresses.get(&ip).is_some_and(is_over) {
            addresses.remove(&ip);
        }
    }

    /// Forgets addresses whose time came back after the last of them had gone, where there are many.
    fn forget_recovered(&self, now: Instant) {
        let is_due = self.looked_at.get().is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL);
        let mut addresses = self.addresses.borrow_mut();
        if is_due && addresses.len() >= ADDRESSES_MAX {
            self.looked_at.set(Some(now));
            addresses.retain(|_, address| !self.is_unused(address) || !address.budget.get().is_full(now));
        }
    }
}

/// What an address is counted as: whoever has one of IPv6 has all that begin with the same 64 bits.
fn counted_as(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

impl Address {
    fn is_out_of_time(&self, now: Instant) -> bool {
        !self.out_of_time_for(now).is_zero()
    }

    /// How long it is until it has some processor time left.
    fn out_of_time_for(&self, now: Instant) -> Duration {
        self.budget.get().until_full(now).saturating_sub(TIME_PER_ADDRESS_MAX * TIME_RECOVERY)
    }

    /// So much was used up, be it more than is left.
    fn charge(&self, now: Instant, time: Duration) {
        let mut budget = self.budget.get();
        budget.charge(now, time.saturating_mul(TIME_RECOVERY));
        self.budget.set(budget);
    }
}

impl QueuedHandshake {
    /// Whether it waits because its address has used up its processor time.
    pub(super) fn is_out_of_time(&self, now: Instant) -> bool {
        self.address.is_out_of_time(now)
    }

    /// Waits until it is its turn.
    pub(super) async fn slot(self) -> Result<HandshakeSlot, HandshakeRefusal> {
        let turn = async {
            // Neither is ever closed.
            let slot_of_address = self.address.slots.clone().acquire_owned().await.ok()?;
            loop {
                let wait = self.address.out_of_time_for(Instant::now());
                if wait.is_zero() {
                    break;
                }
                tokio::time::sleep(wait).await;
            }
            Some((self.handshake_queue.slot().await?, slot_of_address))
        };
        let permits = clock::timeout(WAIT_MAX, turn).await.flatten();
        match permits {
            Some(permits) => {
                Ok(HandshakeSlot::new(self.handshake_queue.clone(), self.ip, self.address.clone(), permits))
            }
            None if self.is_out_of_time(Instant::now()) => Err(HandshakeRefusal::OutOfTime),
            None => Err(HandshakeRefusal::WaitedTooLong),
        }
    }
}

impl HandshakeSlot {
    fn new(
        handshake_queue: Rc<HandshakeQueue>,
        ip: IpAddr,
        address: Rc<Address>,
        permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Self {
        Self { handshake_queue, ip, address, spent: Cell::default(), permits: Some(permits) }
    }

    /// Does what is done for the connection, and takes note of the processor time that it takes.
    pub(super) async fn meter<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            let begun = thread_time();
            let polled = work.as_mut().poll(context);
            self.spent.set(self.spent.get() + thread_time().saturating_sub(begun));
            polled
        })
        .await
    }

    /// The connection became a link: its handshake costs its address nothing.
    pub(super) fn refund(self) {
        self.spent.take();
    }
}

/// Processor time that this thread has taken.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        let now = Instant::now();
        self.permits.take();
        self.address.charge(now, self.spent.get());
        self.handshake_queue.forget_unused(self.ip, now);
    }
}

impl Drop for QueuedHandshake {
    fn drop(&mut self) {
        self.address.waiting.set(self.address.waiting.get() - 1);
        self.handshake_queue.forget_unused(self.ip, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::HANDSHAKES_MAX, *};

    const FULL: DoorLimits = DoorLimits {
        sessions_max: 0,
        neighbours_max: 0,
        handshakes_max: HANDSHAKES_MAX,
        waiting_max: WAITING_MAX,
    };

    const PER_ADDRESS: usize = 2;

    #[test]
    fn addresses_of_one_network_of_ipv6_count_as_one() {
        let counted = |text: &str| counted_as(text.parse().unwrap());
        assert_eq!(counted("2001:db8:0:1::1"), counted("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(counted("2001:db8:0:1::1"), counted("2001:db8:0:2::1"));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
        assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let handshake_queue = HandshakeQueue::new(1, 1_000_000, FULL);
            let enter = async |text: &str| {
                handshake_queue.enter(
                    text.parse().unwrap(),
                    handshake_queue.slot().await.unwrap(),
                    Instant::now(),
                )
            };
            let _first = enter("2001:db8::1").await;
            assert!(matches!(enter("2001:db8::2").await, QueueEntry::Later(_)));
            assert!(matches!(enter("2001:db8:0:1::2").await, QueueEntry::Now(_)));
        });
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    async fn enter(handshake_queue: &Rc<HandshakeQueue>, last: u8) -> QueueEntry {
        let slot = handshake_queue.slot().await.unwrap();
        handshake_queue.enter(ip(last), slot, Instant::now())
    }

    async fn begin(handshake_queue: &Rc<HandshakeQueue>, last: u8) -> HandshakeSlot {
        match enter(handshake_queue, last).await {
            QueueEntry::Now(slot) => slot,
            _ => panic!("there is a handshake slot"),
        }
    }

    async fn wait(handshake_queue: &Rc<HandshakeQueue>, last: u8) -> QueuedHandshake {
        match enter(handshake_queue, last).await {
            QueueEntry::Later(waiting) => waiting,
            _ => panic!("it may wait, and there is no handshake slot"),
        }
    }

    #[test]
    fn who_comes_beyond_the_bound_of_its_address_waits_in_order_without_a_place_and_others_do_not() {
        run(async {
            let handshake_queue = HandshakeQueue::new(PER_ADDRESS, 1_000_000, FULL);
            let first = begin(&handshake_queue, 1).await;
            let _second = begin(&handshake_queue, 1).await;
            let third = wait(&handshake_queue, 1).await;
            let fourth = wait(&handshake_queue, 1).await;
            assert_eq!(handshake_queue.slots.available_permits(), HANDSHAKES_MAX - 2, "they take no place");
            let _other = begin(&handshake_queue, 2).await;
            let mut third = std::pin::pin!(third.slot());
            let mut fourth = std::pin::pin!(fourth.slot());
            tokio::select! {
                biased;
                _ = &mut third => panic!("both handshake slots are taken"),
                _ = &mut fourth => panic!("both handshake slots are taken"),
                () = std::future::ready(()) => {}
            }
            drop(first);
            let third = tokio::select! {
                biased;
                _ = &mut fourth => panic!("it came later"),
                third = &mut third => third.unwrap(),
            };
            drop(third);
            assert!(fourth.await.is_ok());
        });
    }

    #[test]
    fn seats_are_bounded_for_each_address_and_in_all() {
        run(async {
            let handshake_queue = HandshakeQueue::new(PER_ADDRESS, 32, FULL);
            assert_eq!(
                (
                    handshake_queue.waiting_slots.available_permits(),
                    handshake_queue.waiting_slots_per_address
                ),
                (8, 6)
            );
            let mut there = Vec::new();
            let mut seated = Vec::new();
            for (last, waiting_slots, full) in
                [(1, 6, HandshakeRefusal::AddressFull), (2, 2, HandshakeRefusal::Full)]
            {
                there.extend([begin(&handshake_queue, last).await, begin(&handshake_queue, last).await]);
                for _ in 0..waiting_slots {
                    seated.push(wait(&handshake_queue, last).await);
                }
                let entry = enter(&handshake_queue, last).await;
                assert!(matches!(entry, QueueEntry::Refused(reason) if reason == full));
            }
            there.extend([begin(&handshake_queue, 3).await, begin(&handshake_queue, 3).await]);
            assert!(matches!(enter(&handshake_queue, 3).await, QueueEntry::Refused(HandshakeRefusal::Full)));
            seated.pop();
            assert!(matches!(enter(&handshake_queue, 3).await, QueueEntry::Later(_)));
        });
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        run(async {
            let handshake_queue = HandshakeQueue::new(1, 1_000_000, FULL);
            let slot = begin(&handshake_queue, 1).await;
            let waiting = wait(&handshake_queue, 1).await;
            drop(slot);
            assert_eq!(handshake_queue.addresses.borrow().len(), 1);
            let slot = waiting.slot().await.ok().unwrap();
            assert_eq!(handshake_queue.addresses.borrow().len(), 1);
            drop(slot);
            assert_eq!(handshake_queue.addresses.borrow().len(), 0);
            assert_eq!(handshake_queue.slots.available_permits(), HANDSHAKES_MAX);
        });
    }

    /// A handshake that took so long and came to nothing.
    async fn fail(handshake_queue: &Rc<HandshakeQueue>, last: u8, took: Duration) {
        begin(handshake_queue, last).await.spent.set(took);
    }

    #[test]
    fn an_address_whose_handshakes_come_to_nothing_waits_until_its_time_is_back_and_others_do_not() {
        run(async {
            let handshake_queue = HandshakeQueue::new(PER_ADDRESS, 1_000_000, FULL);
            fail(&handshake_queue, 1, TIME_PER_ADDRESS_MAX).await;
            assert_eq!(handshake_queue.addresses.borrow().len(), 1, "it is known what it used up");
            // Just as much is free.
            fail(&handshake_queue, 1, 1_000 * TIME_PER_ADDRESS_MAX).await;
            let first = wait(&handshake_queue, 1).await;
            assert!(first.is_out_of_time(Instant::now()));
            drop(begin(&handshake_queue, 2).await);
            let address = first.address.clone();
            let mut first = std::pin::pin!(first.slot());
            tokio::select! {
                biased;
                _ = &mut first => panic!("there is a place, and no time"),
                () = std::future::ready(()) => {}
            }
            drop(begin(&handshake_queue, 2).await);
            // Of another one whose time is nearly back.
            let second = wait(&handshake_queue, 1).await;
            address.budget.take();
            address.charge(Instant::now(), TIME_PER_ADDRESS_MAX + Duration::from_millis(1));
            assert!(second.slot().await.is_ok());
        });
    }

    #[test]
    fn handshakes_that_become_links_cost_their_address_nothing() {
        run(async {
            let handshake_queue = HandshakeQueue::new(PER_ADDRESS, 1_000_000, FULL);
            for _ in 0..10 {
                let slot = begin(&handshake_queue, 1).await;
                slot.spent.set(10 * TIME_PER_ADDRESS_MAX);
                slot.refund();
            }
            drop(begin(&handshake_queue, 1).await);
            assert_eq!(handshake_queue.addresses.borrow().len(), 0, "and leave nothing");
        });
    }

    #[test]
    fn what_is_done_for_a_connection_is_metered_and_what_it_waits_for_is_not() {
        run(async {
            let handshake_queue = HandshakeQueue::new(PER_ADDRESS, 1_000_000, FULL);
            let slot = begin(&handshake_queue, 1).await;
            let work = async {
                let begun = thread_time();
                while thread_time() - begun < Duration::from_millis(5) {}
                tokio::task::yield_now().await;
                thread_time()
            };
            let others = async {
                let begun = thread_time();
                while thread_time() - begun < Duration::from_millis(20) {}
            };
            let begun = thread_time();
            let (ended, ()) = tokio::join!(slot.meter(work), others);
            let spent = slot.spent.get();
            assert!(spent >= Duration::from_millis(5), "{spent:?}");
            assert!(spent + Duration::from_millis(20) <= ended - begun, "{spent:?}");
        });
    }

    #[test]
    fn addresses_are_known_in_bounded_number() {
        run(async {
            let handshake_queue = HandshakeQueue::new(PER_ADDRESS, 1_000_000, FULL);
            let enter = async |number: usize, took: Duration, now: Instant| {
                let [.., high, low] = number.to_be_bytes();
                let slot = handshake_queue.slot().await.unwrap();
                match handshake_queue.enter(IpAddr::from([10, 0, high, low]), slot, now) {
                    QueueEntry::Now(slot) => slot.spent.set(took),
                    _ => panic!("{number} comes for the first time"),
                }
            };
            let start = Instant::now();
            for number in 0..ADDRESSES_MAX + 100 {
                enter(number, TIME_PER_ADDRESS_MAX, start).await;
            }
            assert_eq!(handshake_queue.addresses.borrow().len(), ADDRESSES_MAX);
            // Their time is back.
            let later = start + 100 * TIME_PER_ADDRESS_MAX * TIME_RECOVERY;
            enter(ADDRESSES_MAX + 100, TIME_PER_ADDRESS_MAX, later).await;
            assert_eq!(handshake_queue.addresses.borrow().len(), 1);
        });
    }
}
