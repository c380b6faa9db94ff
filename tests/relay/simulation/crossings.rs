//! What goes over the links between nodes, checked as it does: who may see what, no frame in a circle, and how much of
//! it is state.

use std::{collections::BTreeMap, time::Instant};

use amop::internal::wire::{
    NodeId,
    node::{Addressing, Extensions, FLAG_SEALED, FLAG_SENT_AGAIN, HOPS_MAX, Header, Numbers, PacketType},
    sdk,
    state::{self, Message},
};

use super::{
    graph::Graph,
    nonces::Nonces,
    oracle::{Oracle, Verdict, number},
};
use crate::kit::{NodeIndex, VirtualNode};

/// Digits of an SDK's seq in a row that show that a payload is readable: nothing sealed has so many.
const READABLE: usize = 24;
/// A step that changes little, in its frame.
const STEP_BYTES: usize = 20 + 3 + state::Head::LEN + 4;
/// A digest in its frame.
const DIGEST_BYTES: usize = 20 + 2 + 32;
/// Hello, Ack.
const KEEPALIVE_BYTES_MAX: usize = 80;

/// Most messages of an exchange of state in one direction, for each link that came up and each node of the network.
const EXCHANGES_MAX: u64 = 6;
/// A version in a list.
const VERSION_BYTES: u64 = 64 + 8 + 8;
/// A record of a node in these networks, or its latest steps, on average.
const RECORD_BYTES: u64 = 4_000;

/// A message at its source: node and how often it had been started, number, packet type; and where it goes.
type Identity = (NodeIndex, u64, u32, i16, NodeIndex);
/// From where to where.
type Direction = (NodeIndex, NodeIndex);

/// What a link has carried in one direction.
#[derive(Clone, Copy, Default, Debug)]
pub struct Carried {
    pub frames: u64,
    pub keepalives: u64,
    pub digests: u64,
    pub steps: u64,
    pub step_bytes: u64,
    /// Lists, requests, replies.
    pub exchanges: u64,
    pub exchange_bytes: u64,
    /// How often the link was dialled.
    pub dialed: u64,
}

/// What a run came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Frames that nodes passed on for others.
    pub relayed: u64,
    /// Those that were marked as sent again.
    pub sent_again: u64,
    /// Most links that one frame took.
    pub links_max: u64,
    /// State messages other than announced steps on the busiest link, per time that it was dialled and node.
    pub exchanges_max: f64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.relayed += other.relayed;
        self.sent_again += other.sent_again;
        self.links_max = self.links_max.max(other.links_max);
        self.exchanges_max = self.exchanges_max.max(other.exchanges_max);
    }
}

#[derive(Default)]
pub struct Crossings {
    pub tally: Tally,
    ids: BTreeMap<NodeId, NodeIndex>,
    /// Links between any two nodes, at least.
    distances: Vec<Vec<Option<usize>>>,
    /// How often each node was started again.
    starts: Vec<u64>,
    seen: BTreeMap<(Identity, Direction), u32>,
    /// Over which link each message came last that is passed on, and how many hops it had left.
    passed: BTreeMap<Identity, (Direction, u8)>,
    steps: BTreeMap<(Direction, NodeIndex, u64, u64), u64>,
    links: BTreeMap<Direction, Carried>,
    nonces: Nonces,
    /// What links had carried when it became quiet.
    before: BTreeMap<Direction, Carried>,
}

macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

impl Crossings {
    pub fn new(ids: impl Iterator<Item = NodeId>, graph: &Graph) -> Self {
        let ids: BTreeMap<NodeId, NodeIndex> = ids.enumerate().map(|(node, id)| (id, node)).collect();
        let distances = (0..ids.len()).map(|node| graph.distances(node, |_| true, |_| true)).collect();
        Self { starts: vec![0; ids.len()], ids, distances, ..Self::default() }
    }

    /// A link between two nodes is being made.
    pub fn dialed(&mut self, from: NodeIndex, to: NodeIndex) {
        for direction in [(from, to), (to, from)] {
            self.links.entry(direction).or_default().dialed += 1;
        }
    }

    pub fn revived(&mut self, node: NodeIndex) {
        self.starts[node] += 1;
    }

    /// A frame has crossed from one node to another.
    pub fn crossed(
        &mut self,
        now: Instant,
        oracle: &Oracle,
        nodes: &[VirtualNode],
        (from, to): Direction,
        bytes: &[u8],
    ) -> Verdict {
        let Ok((header, offset)) = Header::decode(bytes) else {
            return Err(format!("node{from} sends node{to} a frame that is none"));
        };
        let link = self.links.entry((from, to)).or_default();
        link.frames += 1;
        match header.packet_type {
            PacketType::HELLO | PacketType::ACK if header.addressing == Addressing::Direct => {
                link.keepalives += 1;
                hold!(bytes.len() <= KEEPALIVE_BYTES_MAX, "a sign of life of {} bytes", bytes.len());
                return Ok(());
            }
            PacketType::STATE_SEQ | PacketType::STATE_REQUEST | PacketType::STATE_REPLY => {
                return self.state_crossed((from, to), header.packet_type, &bytes[offset..], bytes.len());
            }
            _ => {}
        }
        let what = format!("frame #{} of type {:#x}", header.seq, header.packet_type.0);
        let (source, destinations) = match header.addressing {
            Addressing::Direct => (from, vec![to]),
            Addressing::EndToEnd { source, destinations } => {
                let name = |id: &[u8; 64]| {
                    let node = self.ids.get(&NodeId(*id)).copied();
                    node.ok_or_else(|| format!("{what} from node{from} to node{to} names a strange node"))
                };
                let source = name(source)?;
                let destinations: Result<Vec<_>, _> = destinations.iter().map(name).collect();
                (source, destinations?)
            }
        };
        let what = format!("{what} of node{source} for {destinations:?} between node{from} and node{to}");
        if let Addressing::EndToEnd { .. } = header.addressing {
            hold!(header.flags & FLAG_SEALED != 0, "{what} is not sealed");
            hold!(!is_readable(&bytes[offset..]), "{what} can be read");
            self.nonces.left(nodes, from, bytes)?;
            let links = u64::from(HOPS_MAX.saturating_sub(header.hops_left)) + 1;
            // While nodes hear one after the other what is gone, each may take the next for the way around it, in a circle.
            let others = self.ids.len() as u64 - 1;
            let most = if oracle.was_disturbed_lately(now) { u64::from(HOPS_MAX) } else { others };
            hold!(links <= most, "{what} goes over its {links}th link");
            let behind = self.distances[source][from].unwrap_or(0) as u64;
            hold!(links > behind, "{what} says that it goes over its {links}th link, {behind} are behind it");
            self.tally.links_max = self.tally.links_max.max(links);
            self.tally.relayed += u64::from(source != from);
        } else if header.packet_type.is_amop() {
            self.check_own(oracle, (from, to), header.packet_type, &bytes[offset..])?;
        }
        let again = header.flags & FLAG_SENT_AGAIN != 0;
        self.tally.sent_again += u64::from(again);
        if again || header.packet_type == PacketType::HELLO {
            return Ok(());
        }
        // A node that says that it waits no longer may hear of an answer after that, and passes it on.
        let is_answer = header.packet_type == PacketType::UNICAST_RESPONSE;
        let times = if is_answer { 2 } else { 1 };
        for destination in destinations {
            let identity = (source, self.starts[source], header.seq, header.packet_type.0, destination);
            if matches!(header.addressing, Addressing::EndToEnd { .. }) && !is_answer {
                // There is one of it, and it goes on from where it is. Nodes that do not know alike yet that a link is lost may
                // pass it round, until its hops are used.
                let last = self.passed.insert(identity, ((from, to), header.hops_left));
                // Of one that is on its way when its source starts again the beginning was another incarnation's.
                if let Some(((was, at), hops_left)) = last {
                    hold!(from == at, "{what} leaves a node where it is not: node{at} has it");
                    hold!(to != was, "{what} goes back where it came from");
                    let left = header.hops_left;
                    hold!(left + 1 == hops_left, "{what} has {left} of {hops_left} hops left");
                }
                continue;
            }
            let count = self.seen.entry((identity, (from, to))).or_default();
            *count += 1;
            hold!(*count <= times, "{what} crosses there again");
        }
        Ok(())
    }

    /// What is not sealed is of one of the two ends and for the other.
    fn check_own(
        &self,
        oracle: &Oracle,
        (from, to): Direction,
        packet_type: PacketType,
        payload: &[u8],
    ) -> Verdict {
        let payload = payload.get(Numbers::LEN..).unwrap_or_default();
        let Some((_, len)) = Extensions::decode(payload) else { return Ok(()) };
        let inner = &payload[len..];
        let message = number(inner).and_then(|number| oracle.messages.get(number));
        let (Some(message), Some(header)) = (message, sdk::Header::decode(inner)) else { return Ok(()) };
        if message.seq != header.seq || message.shares_seq {
            return Ok(());
        }
        let node = oracle.node_of(message.from);
        let end = if packet_type == PacketType::UNICAST_RESPONSE { to } else { from };
        hold!(
            node == end,
            "node{from} sends node{to} a message of node{node} in the open (seq {})",
            String::from_utf8_lossy(&header.seq)
        );
        Ok(())
    }

    fn state_crossed(
        &mut self,
        direction: Direction,
        packet_type: PacketType,
        payload: &[u8],
        len: usize,
    ) -> Verdict {
        let (from, to) = direction;
        let link = self.links.entry(direction).or_default();
        match (packet_type, Message::decode(payload)) {
            (PacketType::STATE_SEQ, Ok(Message::Digest { .. })) => {
                link.digests += 1;
                hold!(len <= DIGEST_BYTES, "a digest of {len} bytes");
            }
            (PacketType::STATE_SEQ, Ok(Message::Steps(steps))) => {
                link.steps += steps.len() as u64;
                link.step_bytes += len as u64;
                let dialed = link.dialed;
                let changes: usize = steps.iter().map(|(_, changes)| changes.len()).sum();
                hold!(
                    len <= steps.len() * STEP_BYTES + changes,
                    "{} steps with {changes} bytes of changes take {len} bytes",
                    steps.len()
                );
                for (head, _) in steps {
                    let Some(&origin) = self.ids.get(&head.origin) else {
                        return Err("a step of a node that does not exist".to_owned());
                    };
                    let count =
                        self.steps.entry((direction, origin, head.incarnation, head.seq)).or_default();
                    *count += 1;
                    hold!(
                        *count <= 1 + dialed,
                        "step {} of node{origin} goes from node{from} to node{to} {count} times, over {dialed} links",
                        head.seq
                    );
                }
            }
            (_, Err(error)) => return Err(format!("node{from} sends node{to} state that is none: {error}")),
            _ => {
                link.exchanges += 1;
                link.exchange_bytes += len as u64;
            }
        }
        Ok(())
    }

    /// Nothing happens from here on.
    pub fn begin_quiet(&mut self) {
        self.before.clone_from(&self.links);
    }

    /// What has crossed since then keeps links alive, and says what is known. So many sessions have ended in that time.
    pub fn check_quiet(&self, seconds: u64, allows_notices: bool, ended: u64) -> Verdict {
        for (direction, now) in &self.links {
            let before = self.before.get(direction).copied().unwrap_or_default();
            let (from, to) = direction;
            let what = format!("in {seconds} quiet seconds node{from} sends node{to}");
            let since = |count: fn(&Carried) -> u64| count(now) - count(&before);
            let (steps, exchanges) = (since(|link| link.steps), since(|link| link.exchanges));
            hold!(
                // One for its topics, and one for those of whoever comes in its place.
                steps <= 2 * ended && exchanges == 0,
                "{what} {steps} steps and {exchanges} other messages of state"
            );
            let digests = since(|link| link.digests);
            hold!(digests <= seconds / 5 + 1, "{what} {digests} digests");
            // Both ends ask for a sign of life once a second, and answer each other's.
            let keepalives = since(|link| link.keepalives);
            hold!(keepalives <= 3 * (seconds + 1), "{what} {keepalives} signs of life");
            let others = since(|link| link.frames) - keepalives - digests;
            hold!(others <= steps || allows_notices, "{what} {others} other frames");
        }
        Ok(())
    }

    /// State other than what is announced is exchanged when a link comes up, and where something was missed: about once
    /// for each node. A link that comes up elsewhere brings what its ends did not know of each other's side.
    pub fn finish(&mut self) -> Verdict {
        let nodes = self.ids.len() as u64;
        let dialed = self.links.values().map(|link| link.dialed).sum::<u64>() / 2;
        for (direction, link) in &self.links {
            let most = EXCHANGES_MAX * link.dialed * nodes + 2 * dialed;
            let (from, to) = direction;
            let what = format!("node{from} has sent node{to}, over {} links,", link.dialed);
            hold!(link.exchanges <= most, "{what} {} messages of state beside steps", link.exchanges);
            let bytes = link.exchanges * (nodes * VERSION_BYTES + RECORD_BYTES);
            hold!(link.exchange_bytes <= bytes, "{what} {} bytes of state beside steps", link.exchange_bytes);
            let times = (link.dialed.max(1) * nodes) as f64;
            self.tally.exchanges_max = self.tally.exchanges_max.max(link.exchanges as f64 / times);
        }
        Ok(())
    }
}

/// Whether some seq of an SDK's stands there.
fn is_readable(payload: &[u8]) -> bool {
    let mut run = 0;
    payload.iter().any(|byte| {
        run = if byte.is_ascii_digit() || (b'a'..=b'f').contains(byte) { run + 1 } else { 0 };
        run >= READABLE
    })
}
