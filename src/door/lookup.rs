//! Names looked up, each on a thread of its own: the system's resolver blocks, for half a minute if no server answers, and
//! cannot be called off. Its answer is waited for a while; its end is waited for by nobody, also when the node stops.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, oneshot};

use crate::{clock, supervise::joined_thread};

/// Lookups at once, with those that nobody waits for any more.
pub(super) const LOOKUPS_MAX: usize = 64;
/// How long is waited for one.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Lookups {
    places: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Lookups {
    /// The addresses of `host:port`.
    pub(super) async fn resolve(&self, peer: &str) -> std::io::Result<Vec<SocketAddr>> {
        if let Ok(address) = peer.parse::<SocketAddr>() {
            return Ok(vec![address]);
        }
        let peer = peer.to_owned();
        self.within(LOOKUP_TIMEOUT, move || {
            std::net::ToSocketAddrs::to_socket_addrs(&peer).map(Iterator::collect)
        })
        .await
    }

    async fn within<T: Send + 'static>(
        &self,
        timeout: Duration,
        look_up: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let looking = async {
            // It is never closed.
            let place = self.places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            let (reply, answer) = oneshot::channel();
            joined_thread("amop-lookup", move || {
                let _place = place;
                // Who asked may have stopped waiting.
                let _ = reply.send(look_up());
            })?;
            answer.await.map_err(|_| std::io::Error::other("the lookup failed"))?
        };
        clock::timeout(timeout, looking).await.unwrap_or_else(|| {
            let text =
                "the name servers do not answer: see /etc/resolv.conf, or use an address instead of the name";
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Those that hang do so until the test is over.
    const SOON: Duration = Duration::from_millis(1);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_lookup_that_hangs_is_waited_for_so_long_and_neither_holds_up_others_nor_the_runtime() {
        let (release, hangs) = mpsc::channel::<()>();
        let runtime = runtime();
        runtime.block_on(async {
            let lookups = Lookups::default();
            let hung = lookups.within(SOON, move || {
                let _ = hangs.recv();
                Ok(())
            });
            assert_eq!(hung.await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
            assert_eq!(lookups.places.available_permits(), LOOKUPS_MAX - 1, "its thread is still there");
            let there = lookups.resolve("127.0.0.1:1").await.unwrap();
            assert_eq!(there, [SocketAddr::from(([127, 0, 0, 1], 1))]);
        });
        // Would wait for a thread of its own.
        drop(runtime);
        drop(release);
    }

    #[test]
    fn no_more_threads_than_the_bound_hang() {
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(std::sync::Mutex::new(hangs));
        runtime().block_on(async {
            let lookups = Lookups::default();
            for _ in 0..LOOKUPS_MAX + 2 {
                let hangs = hangs.clone();
                let hung = lookups.within(SOON, move || {
                    let _ = hangs.lock().unwrap().recv();
                    Ok(())
                });
                assert!(hung.await.is_err());
            }
            assert_eq!(lookups.places.available_permits(), 0);
        });
        drop(release);
    }
}
