//! Links to the nodes of `[p2p] node.N`: dialled until they are there, and again when they are lost.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    Acceptor, Failure, HANDSHAKE_TIMEOUT,
    accept::admit_node,
    cause::{Cause, Peer},
    stream::Stream,
};
use crate::{
    backoff::{Backoff, LASTED},
    clock,
    engine::IoBackend,
    tls::handshake::{Handshake, HandshakeError},
    wire::NodeId,
};

/// The first wait after a failure, or after a link that did not last; each further one is twice as long …
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An address that turned out to be this node's own is tried so rarely.
const OWN_ADDRESS_PAUSE: Duration = Duration::from_secs(600);
/// A node without a link for so long is warned of; until then it may be starting, or starting again.
const WARN_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked whether a node is still linked, beside being told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps a link to the node at `peer`, whoever dialled it. Who that is goes into `found`.
pub(super) async fn keep_dialing(acceptor: Rc<Acceptor>, peer: String, found: Rc<Cell<Option<NodeId>>>) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut absence = Absence::default();
    // The link dialled last.
    let mut last = None;
    loop {
        // A link that is there and due for new keys is replaced before it is closed.
        let replacing = last.is_some_and(|token| acceptor.connections.borrow().is_here(token));
        if !replacing && let Some(id) = found.get() {
            let lasted =
                wait_until_gone(&acceptor, |acceptor| acceptor.connections.borrow().has_node(&id)).await;
            backoff.ended_after(lasted);
            absence.ended_after(lasted);
        }
        acceptor.counters.dials.increment();
        let dialled = dial(&acceptor, &peer, replacing).await;
        acceptor.note_dialed(&peer, dialled.as_ref().ok().and_then(Dialled::node));
        match dialled {
            Ok(Dialled::Ourselves) => {
                debug!(%peer, "[p2p] node.N names this node itself");
                tokio::time::sleep(OWN_ADDRESS_PAUSE).await;
            }
            Ok(Dialled::Node { id, token }) => {
                found.set(id.or(found.get()));
                if let Some(token) = token {
                    last = Some(token);
                    let lasted =
                        wait_until_gone(&acceptor, |acceptor| acceptor.connections.borrow().is_fresh(token))
                            .await;
                    backoff.ended_after(lasted);
                    absence.ended_after(lasted);
                    if acceptor.connections.borrow().is_here(token) {
                        continue;
                    }
                    note_hung_up(&acceptor, &peer, id, lasted, &mut absence);
                }
                pause(&mut backoff).await;
            }
            Err(reason) => {
                acceptor.counters.dials_failed.increment();
                let cause = Cause::of(&reason);
                let (cause, remedy) = (cause.name(), cause.remedy(Peer::Dialled));
                match absence.note(&acceptor, Instant::now(), may_pass(&reason)) {
                    News::First => info!(%peer, %reason, "a node of [p2p] is not there yet; trying on"),
                    News::Lasts => {
                        warn!(%peer, cause, %reason, remedy, "cannot reach a node of [p2p]; trying on")
                    }
                    News::Old => debug!(%peer, %reason, "still cannot reach a node"),
                }
                pause(&mut backoff).await;
            }
        }
    }
}

/// A link that we dialled is over. Says so once if it was over at once and no other is there: the peer took the
/// handshake, and does not want the link.
fn note_hung_up(
    acceptor: &Acceptor,
    peer: &str,
    id: Option<NodeId>,
    lasted: Duration,
    absence: &mut Absence,
) {
    let is_linked = id.is_some_and(|id| acceptor.connections.borrow().has_node(&id));
    if lasted >= LASTED || is_linked {
        return;
    }
    acceptor.counters.dials_hung_up.increment();
    let lasted_ms = lasted.as_millis() as u64;
    match absence.note(acceptor, Instant::now(), true) {
        News::First => {
            info!(%peer, lasted_ms, "a node of [p2p] took the handshake and ended the link; trying on")
        }
        News::Lasts => warn!(
            %peer, lasted_ms,
            "a node of [p2p] took the handshake and ended the link at once; trying on, less and less often. See its log: its \
             blacklist or whitelist may leave this node out, another node may have this one's key, or it is no node of amop",
        ),
        News::Old => debug!(%peer, lasted_ms, "a node took the handshake and ended the link again"),
    }
}

/// A node that there is no link to, and what was said of it.
#[derive(Debug, Default)]
struct Absence {
    since: Option<Instant>,
    /// The last of what was logged.
    said: Option<News>,
}

/// What a failure tells that was not said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// There is no link just now, as when a node starts or stops.
    First,
    /// It will not come without somebody's doing.
    Lasts,
    Old,
}

impl Absence {
    /// There was a link for so long.
    fn ended_after(&mut self, lasted: Duration) {
        if lasted >= LASTED {
            *self = Self::default();
        }
    }

    /// Another try has failed; `may_pass` if it looks as it does with a node that is about to start or to stop.
    fn note(&mut self, acceptor: &Acceptor, now: Instant, may_pass: bool) -> News {
        self.news(now, may_pass, |news| match news {
            News::First => acceptor.may_log(|logs| &mut logs.not_there_yet),
            News::Lasts => acceptor.may_log(|logs| &mut logs.not_reached),
            News::Old => true,
        })
    }

    /// What is not `admitted` to the log now is news at the next try still.
    fn news(&mut self, now: Instant, may_pass: bool, admitted: impl FnOnce(News) -> bool) -> News {
        let since = *self.since.get_or_insert(now);
        let lasts = !may_pass || now.saturating_duration_since(since) >= WARN_AFTER;
        let news = match self.said {
            None | Some(News::First) if lasts => News::Lasts,
            None => News::First,
            Some(_) => News::Old,
        };
        if news == News::Old || !admitted(news) {
            return News::Old;
        }
        self.said = Some(news);
        news
    }
}

/// Whether a failure is what one sees of a node that is about to start or to stop.
fn may_pass(failure: &Failure) -> bool {
    matches!(failure, Failure::Io(_) | Failure::Timeout | Failure::Handshake(HandshakeError::Closed))
}

/// Gives how long it was there.
async fn wait_until_gone(acceptor: &Acceptor, is_there: impl Fn(&Acceptor) -> bool) -> Duration {
    let since = Instant::now();
    while is_there(acceptor) {
        let left = acceptor.connections.borrow().node_left.clone();
        let _ = tokio::time::timeout(LOOK_INTERVAL, left.notified()).await;
    }
    since.elapsed()
}

async fn pause(backoff: &mut Backoff) {
    let pause = backoff.next_pause(&mut rand::rng());
    tokio::time::sleep(pause).await;
}

/// Who was dialled.
enum Dialled {
    /// The address is one of this node's own.
    Ourselves,
    /// A node, and the link's token if it was let in.
    Node { id: Option<NodeId>, token: Option<u64> },
}

impl Dialled {
    /// The other node, if there is one.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Ourselves => None,
            Self::Node { id, .. } => *id,
        }
    }
}

/// Connects to the first of these addresses that answers.
pub(super) async fn connect_to_any(addresses: Vec<SocketAddr>, io: IoBackend) -> Result<Stream, Failure> {
    let mut last = Failure::Io(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        match clock::timeout(HANDSHAKE_TIMEOUT, Stream::connect(address, io)).await {
            Some(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Some(Err(error)) => last = error.into(),
            None => last = Failure::Timeout,
        }
    }
    Err(last)
}

/// Dials once; `replacing` if a link to the node is there and is to be replaced.
async fn dial(acceptor: &Rc<Acceptor>, peer: &str, replacing: bool) -> Result<Dialled, Failure> {
    let addresses = acceptor.lookups.resolve(peer).await?;
    let mut last = Failure::Io(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        let stream =
            match clock::timeout(HANDSHAKE_TIMEOUT, Stream::connect(address, acceptor.settings.io)).await {
                Some(Ok(stream)) => stream,
                Some(Err(error)) => {
                    last = error.into();
                    continue;
                }
                None => {
                    last = Failure::Timeout;
                    continue;
                }
            };
        let _ = stream.set_nodelay(true);
        let handshake = Handshake::client(acceptor.tls.load().p2p_client.clone())?;
        let (stream, greeted) = match acceptor.shake_hands_apart(stream, handshake).await {
            Ok(done) => done,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let id = greeted.established.peer.node_id;
        if greeted.is_ourselves {
            return Ok(Dialled::Ourselves);
        }
        if !replacing && id.is_some_and(|id| acceptor.connections.borrow().has_node(&id)) {
            // It dialled us in the meantime.
            return Ok(Dialled::Node { id, token: None });
        }
        let token = admit_node(acceptor, &stream, address.to_string(), true, greeted);
        if token.is_some() && acceptor.may_log(|logs| &mut logs.dialed) {
            info!(%peer, %address, "dialled a node");
        }
        return Ok(Dialled::Node { id, token });
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_there_is_warned_of_once_and_only_after_it_had_its_time_to_start() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        let news = |absence: &mut Absence, at_ms, may_pass| {
            absence.news(start + Duration::from_millis(at_ms), may_pass, |_| true)
        };
        assert_eq!(news(&mut absence, 0, true), News::First);
        assert_eq!(news(&mut absence, 9_999, true), News::Old);
        assert_eq!(news(&mut absence, 10_000, true), News::Lasts);
        assert_eq!(news(&mut absence, 60_000, true), News::Old);
        absence.ended_after(LASTED - Duration::from_millis(1));
        assert_eq!(news(&mut absence, 60_001, true), News::Old, "a link that did not last ends nothing");
        absence.ended_after(LASTED);
        assert_eq!(news(&mut absence, 80_000, true), News::First);
        assert_eq!(
            news(&mut absence, 80_001, false),
            News::Lasts,
            "its certificate will not become another one"
        );
        assert_eq!(news(&mut Absence::default(), 0, false), News::Lasts);
    }

    #[test]
    fn a_warning_that_the_log_had_no_room_for_comes_with_a_later_try() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        let late = start + WARN_AFTER;
        assert_eq!(absence.news(start, true, |_| false), News::Old);
        assert_eq!(absence.news(start, true, |_| true), News::First);
        assert_eq!(absence.news(late, true, |_| false), News::Old);
        assert_eq!(absence.news(late, true, |_| true), News::Lasts);
        assert_eq!(absence.news(late, true, |_| true), News::Old);
    }
}
