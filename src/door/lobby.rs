//! Where connections that came in wait for their handshake. Handshakes are bounded at each listener, and for each address;
//! many applications behind one address (a gateway that translates addresses, a load balancer) come back all at once when
//! a node restarts, so those beyond their address' bound wait here for a while instead of being turned away. They take no
//! place of a handshake, and a bounded number of seats. Those of an address wait, too, whose handshakes came to nothing and
//! used up its processor time.

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

use super::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, budget::Budget};
use crate::clock;

/// Connections of a listener that wait because of their address; further ones are closed. Each takes an open file, so that
/// it is less where few may be open.
pub(super) const WAITING_MAX: usize = 2_048;
/// The same of one address.
pub(super) const WAITING_PER_ADDRESS_MAX: usize = 1_024;
/// How long one may wait.
pub(super) const WAIT_MAX: Duration = HANDSHAKE_TIMEOUT;

/// Addresses that are known at once, beyond which those that nobody comes from are forgotten with what they used up.
pub(super) const ADDRESSES_MAX: usize = 4_096;
/// Between two looks for addresses that need not be known any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Of one listener.
pub(super) struct Lobby {
    places: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    places_per_address: usize,
    seats_per_address: usize,
    addresses: RefCell<HashMap<IpAddr, Rc<Address>>>,
    looked_at: Cell<Option<Instant>>,
}

/// Those who come from one address. It is forgotten with the last of them, once its time is back.
struct Address {
    places: Arc<Semaphore>,
    waiting: Cell<usize>,
    budget: RefCell<Budget>,
}

/// Who may begin its handshake, until this is dropped.
pub(super) struct Place {
    lobby: Rc<Lobby>,
    ip: IpAddr,
    address: Rc<Address>,
    /// Processor time that its handshake took.
    spent: Cell<Duration>,
    /// Among all, and of its address.
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Who waits for others of its address.
pub(super) struct Waiting {
    lobby: Rc<Lobby>,
    ip: IpAddr,
    address: Rc<Address>,
    _seat: OwnedSemaphorePermit,
}

/// What becomes of a connection.
pub(super) enum Entry {
    Now(Place),
    Later(Waiting),
    Refused(NoPlace),
}

/// Why a connection is closed without a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("too many of its address wait")]
    AddressFull,
    #[error("too many wait, of all addresses")]
    Full,
    #[error("it has waited too long")]
    WaitedTooLong,
    #[error("handshakes of its address that came to nothing have used up its processor time")]
    OutOfTime,
}

impl NoPlace {
    /// What to do about it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::OutOfTime => "see what runs there: why its handshakes fail is in other lines",
            _ => "see what runs there, or raise [amop] address_handshakes_max",
        }
    }
}

impl Lobby {
    /// With so many handshakes for each address, in a process that may have so many files open.
    pub(super) fn new(places_per_address: usize, files_max: u64) -> Rc<Self> {
        let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
        let seats = WAITING_MAX.min(files_max / 4);
        Rc::new(Self {
            places: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            seats: Arc::new(Semaphore::new(seats)),
            places_per_address,
            seats_per_address: WAITING_PER_ADDRESS_MAX.min(seats / 4 * 3),
            addresses: RefCell::default(),
            looked_at: Cell::default(),
        })
    }

    /// Waits until a handshake may begin; whoever comes meanwhile waits in the backlog.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.places.clone().acquire_owned().await.ok()
    }

    /// A connection has come, for which there is a place.
    pub(super) fn enter(self: &Rc<Self>, ip: IpAddr, place: OwnedSemaphorePermit, now: Instant) -> Entry {
        self.forget_recovered(now);
        let ip = counted_as(ip);
        let address = self.addresses.borrow_mut().entry(ip).or_insert_with(|| self.new_address()).clone();
        if !address.is_out_of_time(now)
            && let Ok(place_of_address) = address.places.clone().try_acquire_owned()
        {
            return Entry::Now(Place::new(self.clone(), ip, address, (place, place_of_address)));
        }
        let seat = if address.waiting.get() < self.seats_per_address {
            self.seats.clone().try_acquire_owned().map_err(|_| NoPlace::Full)
        } else {
            Err(NoPlace::AddressFull)
        };
        match seat {
            Ok(_seat) => {
                address.waiting.set(address.waiting.get() + 1);
                Entry::Later(Waiting { lobby: self.clone(), ip, address, _seat })
            }
            Err(_) if address.is_out_of_time(now) => Entry::Refused(NoPlace::OutOfTime),
            Err(reason) => Entry::Refused(reason),
        }
    }

    fn new_address(&self) -> Rc<Address> {
        Rc::new(Address {
            places: Arc::new(Semaphore::new(self.places_per_address)),
            waiting: Cell::new(0),
            budget: RefCell::default(),
        })
    }

    fn is_unused(&self, address: &Address) -> bool {
        address.waiting.get() == 0 && address.places.available_permits() == self.places_per_address
    }

    /// Somebody from an address has gone.
    fn forget_unused(&self, ip: IpAddr, now: Instant) {
        let mut addresses = self.addresses.borrow_mut();
        let is_too_many = addresses.len() > ADDRESSES_MAX;
        let is_over = |address: &Rc<Address>| {
            self.is_unused(address) && (is_too_many || address.budget.borrow().is_full(now))
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
            addresses.retain(|_, address| !self.is_unused(address) || !address.budget.borrow().is_full(now));
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
        !self.budget.borrow().wait(now).is_zero()
    }
}

impl Waiting {
    /// Whether it waits because its address has used up its processor time.
    pub(super) fn is_out_of_time(&self, now: Instant) -> bool {
        self.address.is_out_of_time(now)
    }

    /// Waits until it is its turn.
    pub(super) async fn place(self) -> Result<Place, NoPlace> {
        let turn = async {
            // Neither is ever closed.
            let place_of_address = self.address.places.clone().acquire_owned().await.ok()?;
            loop {
                let wait = self.address.budget.borrow().wait(Instant::now());
                if wait.is_zero() {
                    break;
                }
                tokio::time::sleep(wait).await;
            }
            Some((self.lobby.place().await?, place_of_address))
        };
        let permits = clock::timeout(WAIT_MAX, turn).await.flatten();
        match permits {
            Some(permits) => Ok(Place::new(self.lobby.clone(), self.ip, self.address.clone(), permits)),
            None if self.is_out_of_time(Instant::now()) => Err(NoPlace::OutOfTime),
            None => Err(NoPlace::WaitedTooLong),
        }
    }
}

impl Place {
    fn new(
        lobby: Rc<Lobby>,
        ip: IpAddr,
        address: Rc<Address>,
        permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Self {
        Self { lobby, ip, address, spent: Cell::default(), permits: Some(permits) }
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

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        self.permits.take();
        self.address.budget.borrow_mut().charge(self.spent.get(), now);
        self.lobby.forget_unused(self.ip, now);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.address.waiting.set(self.address.waiting.get() - 1);
        self.lobby.forget_unused(self.ip, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::budget::{TIME_PER_ADDRESS_MAX, TIME_RECOVERY},
        *,
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
            let lobby = Lobby::new(1, 1_000_000);
            let enter = async |text: &str| {
                lobby.enter(text.parse().unwrap(), lobby.place().await.unwrap(), Instant::now())
            };
            let _first = enter("2001:db8::1").await;
            assert!(matches!(enter("2001:db8::2").await, Entry::Later(_)));
            assert!(matches!(enter("2001:db8:0:1::2").await, Entry::Now(_)));
        });
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    async fn enter(lobby: &Rc<Lobby>, last: u8) -> Entry {
        let place = lobby.place().await.unwrap();
        lobby.enter(ip(last), place, Instant::now())
    }

    async fn begin(lobby: &Rc<Lobby>, last: u8) -> Place {
        match enter(lobby, last).await {
            Entry::Now(place) => place,
            _ => panic!("there is a place"),
        }
    }

    async fn wait(lobby: &Rc<Lobby>, last: u8) -> Waiting {
        match enter(lobby, last).await {
            Entry::Later(waiting) => waiting,
            _ => panic!("there is a seat, and no place"),
        }
    }

    #[test]
    fn who_comes_beyond_the_bound_of_its_address_waits_in_order_without_a_place_and_others_do_not() {
        run(async {
            let lobby = Lobby::new(PER_ADDRESS, 1_000_000);
            let first = begin(&lobby, 1).await;
            let _second = begin(&lobby, 1).await;
            let third = wait(&lobby, 1).await;
            let fourth = wait(&lobby, 1).await;
            assert_eq!(lobby.places.available_permits(), HANDSHAKES_MAX - 2, "they take no place");
            let _other = begin(&lobby, 2).await;
            let mut third = std::pin::pin!(third.place());
            let mut fourth = std::pin::pin!(fourth.place());
            tokio::select! {
                biased;
                _ = &mut third => panic!("both places are taken"),
                _ = &mut fourth => panic!("both places are taken"),
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
            let lobby = Lobby::new(PER_ADDRESS, 32);
            assert_eq!((lobby.seats.available_permits(), lobby.seats_per_address), (8, 6));
            let mut there = Vec::new();
            let mut seated = Vec::new();
            for (last, seats, full) in [(1, 6, NoPlace::AddressFull), (2, 2, NoPlace::Full)] {
                there.extend([begin(&lobby, last).await, begin(&lobby, last).await]);
                for _ in 0..seats {
                    seated.push(wait(&lobby, last).await);
                }
                let entry = enter(&lobby, last).await;
                assert!(matches!(entry, Entry::Refused(reason) if reason == full));
            }
            there.extend([begin(&lobby, 3).await, begin(&lobby, 3).await]);
            assert!(matches!(enter(&lobby, 3).await, Entry::Refused(NoPlace::Full)));
            seated.pop();
            assert!(matches!(enter(&lobby, 3).await, Entry::Later(_)));
        });
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        run(async {
            let lobby = Lobby::new(1, 1_000_000);
            let place = begin(&lobby, 1).await;
            let waiting = wait(&lobby, 1).await;
            drop(place);
            assert_eq!(lobby.addresses.borrow().len(), 1);
            let place = waiting.place().await.ok().unwrap();
            assert_eq!(lobby.addresses.borrow().len(), 1);
            drop(place);
            assert_eq!(lobby.addresses.borrow().len(), 0);
            assert_eq!(lobby.places.available_permits(), HANDSHAKES_MAX);
        });
    }

    /// A handshake that took so long and came to nothing.
    async fn fail(lobby: &Rc<Lobby>, last: u8, took: Duration) {
        begin(lobby, last).await.spent.set(took);
    }

    #[test]
    fn an_address_whose_handshakes_come_to_nothing_waits_until_its_time_is_back_and_others_do_not() {
        run(async {
            let lobby = Lobby::new(PER_ADDRESS, 1_000_000);
            fail(&lobby, 1, TIME_PER_ADDRESS_MAX).await;
            assert_eq!(lobby.addresses.borrow().len(), 1, "it is known what it used up");
            // Just as much is free.
            fail(&lobby, 1, 1_000 * TIME_PER_ADDRESS_MAX).await;
            let first = wait(&lobby, 1).await;
            assert!(first.is_out_of_time(Instant::now()));
            drop(begin(&lobby, 2).await);
            let address = first.address.clone();
            let mut first = std::pin::pin!(first.place());
            tokio::select! {
                biased;
                _ = &mut first => panic!("there is a place, and no time"),
                () = std::future::ready(()) => {}
            }
            drop(begin(&lobby, 2).await);
            // Of another one whose time is nearly back.
            let second = wait(&lobby, 1).await;
            let mut nearly = Budget::default();
            nearly.charge(TIME_PER_ADDRESS_MAX + Duration::from_millis(1), Instant::now());
            address.budget.replace(nearly);
            assert!(second.place().await.is_ok());
        });
    }

    #[test]
    fn handshakes_that_become_links_cost_their_address_nothing() {
        run(async {
            let lobby = Lobby::new(PER_ADDRESS, 1_000_000);
            for _ in 0..10 {
                let place = begin(&lobby, 1).await;
                place.spent.set(10 * TIME_PER_ADDRESS_MAX);
                place.refund();
            }
            drop(begin(&lobby, 1).await);
            assert_eq!(lobby.addresses.borrow().len(), 0, "and leave nothing");
        });
    }

    #[test]
    fn what_is_done_for_a_connection_is_metered_and_what_it_waits_for_is_not() {
        run(async {
            let lobby = Lobby::new(PER_ADDRESS, 1_000_000);
            let place = begin(&lobby, 1).await;
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
            let (ended, ()) = tokio::join!(place.meter(work), others);
            let spent = place.spent.get();
            assert!(spent >= Duration::from_millis(5), "{spent:?}");
            assert!(spent + Duration::from_millis(20) <= ended - begun, "{spent:?}");
        });
    }

    #[test]
    fn addresses_are_known_in_bounded_number() {
        run(async {
            let lobby = Lobby::new(PER_ADDRESS, 1_000_000);
            let enter = async |number: usize, took: Duration, now: Instant| {
                let [.., high, low] = number.to_be_bytes();
                let place = lobby.place().await.unwrap();
                match lobby.enter(IpAddr::from([10, 0, high, low]), place, now) {
                    Entry::Now(place) => place.spent.set(took),
                    _ => panic!("{number} comes for the first time"),
                }
            };
            let start = Instant::now();
            for number in 0..ADDRESSES_MAX + 100 {
                enter(number, TIME_PER_ADDRESS_MAX, start).await;
            }
            assert_eq!(lobby.addresses.borrow().len(), ADDRESSES_MAX);
            // Their time is back.
            let later = start + 100 * TIME_PER_ADDRESS_MAX * TIME_RECOVERY;
            enter(ADDRESSES_MAX + 100, TIME_PER_ADDRESS_MAX, later).await;
            assert_eq!(lobby.addresses.borrow().len(), 1);
        });
    }
}
