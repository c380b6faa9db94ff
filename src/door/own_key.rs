//! Who bears this node's own key: this node itself, reached by one of its own addresses, or another process with a copy of the
//! key, as a cloned machine has it. Addresses do not tell them apart where gateways change them; what the client said
//! first in the handshake does, for both ends have it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use tracing::error;

use super::DoorCounters;
use crate::tls::handshake::Handshake;

/// It is said so rarely that another process has the key, for each of the two ways to meet it.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The handshakes that we have dialled and that are under way, by the random bytes that they begin with, and whether
/// each came in here, too.
type Dialling = Rc<RefCell<HashMap<[u8; 32], bool>>>;

#[derive(Default)]
pub(super) struct OwnKey {
    dialling: Dialling,
    /// When it was last said of who was dialled, and of who came.
    said: [Said; 2],
}

/// When something was said last.
#[derive(Default)]
struct Said(Cell<Option<Instant>>);

impl Said {
    /// Whether it may be said again now.
    fn admits(&self, now: Instant) -> bool {
        let may = self.0.get().is_none_or(|said| now.saturating_duration_since(said) >= LOG_INTERVAL);
        if may {
            self.0.set(Some(now));
        }
        may
    }
}

/// A handshake that we have dialled, until this is dropped.
pub(super) struct OwnDial {
    dialling: Dialling,
    random: [u8; 32],
}

impl OwnKey {
    /// Notes a handshake that begins; `None` if we are not the client.
    pub(super) fn dialling(&self, handshake: &Handshake) -> Option<OwnDial> {
        let random = handshake.client_random()?;
        self.dialling.borrow_mut().insert(random, false);
        Some(OwnDial { dialling: self.dialling.clone(), random })
    }

    /// Notes what a client has said here; whether the client is we.
    pub(super) fn note_served(&self, handshake: &Handshake) -> bool {
        let Some(random) = handshake.client_random() else { return false };
        match self.dialling.borrow_mut().get_mut(&random) {
            Some(came_back) => {
                *came_back = true;
                true
            }
            None => false,
        }
    }

    /// Somebody else has proved that it has our key.
    pub(super) fn is_elsewhere(&self, counters: &DoorCounters, address: &str, dialed: bool) {
        counters.own_key_elsewhere.increment();
        if !self.said[usize::from(dialed)].admits(Instant::now()) {
            return;
        }
        error!(
            address,
            dialed,
            "two nodes have one key: another node bears this node's own id, as after copying a machine. Parts of the network reach \
             only one of them, and messages go astray: stop one, and give it a key of its own (amop pki)",
        );
    }
}

impl OwnDial {
    /// Whether our own listener has served it.
    pub(super) fn came_back(&self) -> bool {
        self.dialling.borrow().get(&self.random).copied().unwrap_or(false)
    }
}

impl Drop for OwnDial {
    fn drop(&mut self) {
        self.dialling.borrow_mut().remove(&self.random);
    }
}
