//! Where connections that came in wait for their handshake. Handshakes are bounded at each listener, and for each address;
//! many applications behind one address (a gateway that translates addresses, a load balancer) come back all at once when
//! a node restarts, so those beyond their address' bound wait here for a while instead of being turned away. They take no
//! place of a handshake, and a bounded number of seats.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};

/// Connections of a listener that wait because of their address; further ones are closed. Each takes an open file, so that
/// it is less where few may be open.
pub(super) const WAITING_MAX: usize = 2_048;
/// The same of one address.
pub(super) const WAITING_PER_ADDRESS_MAX: usize = 1_024;
/// How long one may wait.
pub(super) const WAIT_MAX: Duration = HANDSHAKE_TIMEOUT;

/// Of one listener.
pub(super) struct Lobby {
    places: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    places_per_address: usize,
    seats_per_address: usize,
    addresses: RefCell<HashMap<IpAddr, Rc<Address>>>,
}

/// Those who come from one address. It is forgotten with the last of them.
struct Address {
    places: Arc<Semaphore>,
    waiting: Cell<usize>,
}

/// Who may begin its handshake, until this is dropped.
pub(super) struct Place {
    lobby: Rc<Lobby>,
    ip: IpAddr,
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
    /// No seat is left, and why.
    Full {
        reason: &'static str,
    },
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
        })
    }

    /// Waits until a handshake may begin; whoever comes meanwhile waits in the backlog.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.places.clone().acquire_owned().await.ok()
    }

    /// A connection has come, for which there is a place.
    pub(super) fn enter(self: &Rc<Self>, ip: IpAddr, place: OwnedSemaphorePermit) -> Entry {
        let address = self.addresses.borrow_mut().entry(ip).or_insert_with(|| self.new_address()).clone();
        if let Ok(place_of_address) = address.places.clone().try_acquire_owned() {
            return Entry::Now(Place { lobby: self.clone(), ip, permits: Some((place, place_of_address)) });
        }
        if address.waiting.get() >= self.seats_per_address {
            return Entry::Full { reason: "too many of its address wait" };
        }
        let Ok(_seat) = self.seats.clone().try_acquire_owned() else {
            return Entry::Full { reason: "too many wait, of all addresses" };
        };
        address.waiting.set(address.waiting.get() + 1);
        Entry::Later(Waiting { lobby: self.clone(), ip, address, _seat })
    }

    fn new_address(&self) -> Rc<Address> {
        Rc::new(Address { places: Arc::new(Semaphore::new(self.places_per_address)), waiting: Cell::new(0) })
    }

    /// Somebody from an address has gone.
    fn forget_unused(&self, ip: IpAddr) {
        let mut addresses = self.addresses.borrow_mut();
        let is_unused = addresses.get(&ip).is_some_and(|address| {
            address.waiting.get() == 0 && address.places.available_permits() == self.places_per_address
        });
        if is_unused {
            addresses.remove(&ip);
        }
    }
}

impl Waiting {
    /// Waits until it is its turn; `None` if that takes too long.
    pub(super) async fn place(self) -> Option<Place> {
        let turn = async {
            let place_of_address = self.address.places.clone().acquire_owned().await.ok()?;
            Some((self.lobby.place().await?, place_of_address))
        };
        let permits = tokio::time::timeout(WAIT_MAX, turn).await.ok()?;
        permits.map(|permits| Place { lobby: self.lobby.clone(), ip: self.ip, permits: Some(permits) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permits.take();
        self.lobby.forget_unused(self.ip);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.address.waiting.set(self.address.waiting.get() - 1);
        self.lobby.forget_unused(self.ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_ADDRESS: usize = 2;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    async fn enter(lobby: &Rc<Lobby>, last: u8) -> Entry {
        let place = lobby.place().await.unwrap();
        lobby.enter(ip(last), place)
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
            assert!(fourth.await.is_some());
        });
    }

    #[test]
    fn seats_are_bounded_for_each_address_and_in_all() {
        run(async {
            let lobby = Lobby::new(PER_ADDRESS, 32);
            assert_eq!((lobby.seats.available_permits(), lobby.seats_per_address), (8, 6));
            let mut there = Vec::new();
            let mut seated = Vec::new();
            for (last, seats, full) in [(1, 6, "its address"), (2, 2, "all addresses")] {
                there.extend([begin(&lobby, last).await, begin(&lobby, last).await]);
                for _ in 0..seats {
                    seated.push(wait(&lobby, last).await);
                }
                let entry = enter(&lobby, last).await;
                assert!(matches!(entry, Entry::Full { reason } if reason.contains(full)));
            }
            there.extend([begin(&lobby, 3).await, begin(&lobby, 3).await]);
            assert!(
                matches!(enter(&lobby, 3).await, Entry::Full { reason } if reason.contains("all addresses"))
            );
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
            let place = waiting.place().await;
            assert_eq!(lobby.addresses.borrow().len(), 1);
            drop(place);
            assert_eq!(lobby.addresses.borrow().len(), 0);
            assert_eq!(lobby.places.available_permits(), HANDSHAKES_MAX);
        });
    }
}
