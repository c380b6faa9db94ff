//! The challenge broker: the one reactor of a node at which all challenges to its subscribers come together (WIRE §4).
//!
//! A challenge is announced here before its publisher is asked, and whoever sends a unicast to the minted
//! topic has it carried from here to the challenged session. That one place decides makes "once", and
//! "to nobody else for a minute", true of the node.
//!
//! ```text
//!  publisher's shard ── OpenChallenge ──► broker ── ChallengeOpened ──► publisher's shard: 0x37
//!  any shard: 0x30 ──── Carry ──────────► broker ── Present ──────────► subscriber's shard: 0x30
//! ```

use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};

use super::{Context, OPEN_FOR_MAX, Parts, request::RequestOf};
use crate::{
    relay::{
        Challenge, MeshMessage, Outbound, ReactorId, SessionId, SubscriberId,
        expiring_map::{self, ExpiringMap},
    },
    wire::{
        FrameRef, NodeId,
        notice::Notice,
        sdk::{AmopBody, HEADER_LEN},
        topic::MintedTopic,
    },
};

/// The reactor whose shard is the challenge broker.
pub(super) const CHALLENGE_BROKER: ReactorId = ReactorId(0);
/// Challenges to a node's subscribers that are open at once.
pub(in crate::relay) const CHALLENGES_MAX: usize = 65_536;
/// Those of them that one other node's publishers may have.
pub(in crate::relay) const CHALLENGES_OF_NODE_MAX: usize = CHALLENGES_MAX / 8;
/// Payloads of challenges that a node remembers; while there are so many it carries no further ones.
pub(in crate::relay) const CARRIED_MAX: usize = 262_144;
/// A payload that was carried to one session is carried to no other for so long: who is challenged
/// cannot have somebody else answer.
pub(in crate::relay) const CARRIED_MEMORY: Duration = Duration::from_secs(60);

/// The challenges that are open, and the payloads that were carried lately.
pub(super) struct ChallengeBroker {
    /// By the number of the minted topic.
    open: ExpiringMap<u64, OpenChallenge>,
    /// How many are of each other node.
    of_nodes: AHashMap<NodeId, usize>,
    /// To whom payloads, by their hash, were carried last.
    carried: ExpiringMap<[u8; 32], SubscriberId>,
}

/// Memory of one open challenge in bytes, and of one payload.
pub(super) const OPEN_LEN: usize = expiring_map::entry_len::<u64, OpenChallenge>();
pub(super) const CARRIED_LEN: usize = expiring_map::entry_len::<[u8; 32], SubscriberId>();

struct OpenChallenge {
    challenge: Box<Challenge>,
    /// Whether it was carried to its subscriber, which happens once.
    is_carried: bool,
}

impl ChallengeBroker {
    pub(super) fn new(hashing: RandomState) -> Self {
        Self {
            open: ExpiringMap::new(OPEN_FOR_MAX, hashing.clone()),
            of_nodes: AHashMap::with_hasher(hashing.clone()),
            carried: ExpiringMap::new(CARRIED_MEMORY, hashing),
        }
    }

    /// For checks: open challenges and payloads, each with those of which it is known when to forget them, and challenges of
    /// other nodes as they are counted and counted anew.
    pub(super) fn counted(&self) -> [(usize, usize); 3] {
        let of_nodes = self.open.iter().filter(|(_, open)| open.challenge.node.is_some()).count();
        [self.open.counted(), self.carried.counted(), (self.of_nodes.values().sum(), of_nodes)]
    }

    /// Lets go of what is over.
    fn expire(&mut self, now: Instant) {
        while let Some((_, open)) = self.open.pop_expired(now) {
            if let Some(node) = open.challenge.node
                && let Some(count) = self.of_nodes.get_mut(&node)
            {
                *count -= 1;
                if *count == 0 {
                    self.of_nodes.remove(&node);
                }
            }
        }
        while self.carried.pop_expired(now).is_some() {}
    }
}

/// Why the challenge broker does not carry a challenge.
enum NotCarried {
    /// No such challenge is open, or it was carried already.
    Closed,
    /// Its payload was carried to another session lately.
    HandedOn,
    /// No room to remember the payload.
    Full,
}

impl Parts {
    /// A publisher is about to challenge a subscriber of this node.
    pub(super) fn open_challenge(&mut self, cx: &mut Context<'_, impl Outbound>, challenge: Box<Challenge>) {
        let publisher_node = challenge.node.as_ref().unwrap_or(&cx.shared.id);
        if !cx.shared.settings.may_publish(challenge.topic.as_str(), publisher_node) {
            return cx.counters.challenges_not_pinned.increment();
        }
        self.challenge_broker.expire(cx.now);
        let of_node =
            challenge.node.and_then(|node| self.challenge_broker.of_nodes.get(&node)).copied().unwrap_or(0);
        if self.challenge_broker.open.is_full(cx.shared.settings.tables.of(CHALLENGES_MAX))
            || of_node >= cx.shared.settings.tables.of(CHALLENGES_OF_NODE_MAX)
            || self.challenge_broker.open.contains_key(&challenge.number)
        {
            // The publisher's shard tries again.
            cx.counters.challenges_over_bound.increment();
            return;
        }
        let (publisher, token, node) = (challenge.publisher, challenge.token, challenge.node);
        if let Some(node) = node {
            *self.challenge_broker.of_nodes.entry(node).or_default() += 1;
        }
        let (until, number) = (cx.now + challenge.open_for.min(OPEN_FOR_MAX), challenge.number);
        let open = OpenChallenge { challenge, is_carried: false };
        self.challenge_broker.open.insert_until(until, number, open);
        cx.counters.challenges_open.set(self.challenge_broker.open.len() as u64);
        if let Some(node) = node {
            self.send_notice(cx, node, Notice::Opened { publisher: publisher.0, token });
        } else {
            let opened = MeshMessage::ChallengeOpened { publisher, token, node: None };
            self.send_to_reactor(cx, publisher.reactor(), opened, FrameRef::EMPTY);
        }
    }

    /// A unicast to a minted topic: carries it to the challenged session. `false` if it does not.
    pub(super) fn carry(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        request: RequestOf,
        sender: Option<SessionId>,
        frame: FrameRef<'_>,
    ) -> bool {
        let challenge = match self.admit_challenge(cx.now, frame, cx.shared.settings.tables.of(CARRIED_MAX)) {
            Ok(challenge) => challenge,
            Err(why) => {
                let counter = match why {
                    NotCarried::Closed => &cx.counters.challenges_closed,
                    NotCarried::HandedOn => &cx.counters.challenges_handed_on,
                    NotCarried::Full => &cx.counters.challenges_over_bound,
                };
                counter.increment();
                return false;
            }
        };
        let reactor = challenge.subscriber.reactor();
        if reactor.0 >= cx.shared.reactors {
            return false;
        }
        let RequestOf { coordinator, id } = request;
        let present = MeshMessage::Present { coordinator, request: id, sender, challenge };
        self.send_to_reactor(cx, reactor, present, frame);
        true
    }

    fn admit_challenge(
        &mut self,
        now: Instant,
        frame: FrameRef<'_>,
        carried_max: usize,
    ) -> Result<Box<Challenge>, NotCarried> {
        let body = AmopBody::decode(&frame.head()[HEADER_LEN..]).map_err(|_| NotCarried::Closed)?;
        let minted = MintedTopic::decode(body.topic).ok_or(NotCarried::Closed)?;
        self.challenge_broker.expire(now);
        let challenge_broker = &mut self.challenge_broker;
        let open = challenge_broker
            .open
            .get_mut(&minted.number)
            .filter(|open| !open.is_carried && open.challenge.topic.as_str() == minted.data)
            .ok_or(NotCarried::Closed)?;
        let subscriber = open.challenge.subscriber;
        let mut hasher = blake3::Hasher::new();
        for piece in frame.advance(HEADER_LEN + body.payload_offset).pieces() {
            hasher.update(piece);
        }
        let hash = *hasher.finalize().as_bytes();
        match challenge_broker.carried.get(&hash) {
            Some(other) if *other != subscriber => return Err(NotCarried::HandedOn),
            _ if challenge_broker.carried.is_full(carried_max) => return Err(NotCarried::Full),
            _ => {}
        }
        challenge_broker.carried.insert(now, hash, subscriber);
        open.is_carried = true;
        Ok(open.challenge.clone())
    }
}
