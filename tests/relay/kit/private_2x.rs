//! Private topics at nodes of FISCO BCOS 2.x (WIRE §4, INTEROP §2.2; P2PSession of v2.10.3): a node has one flag for each data topic of each
//! of its peers. It has a random publisher of its own verify the first route topic of the peer's list, when it gets one and whenever
//! it hears that the list is the same; a verdict sets the flag once, and the topic's absence from a list forgets it.

use std::collections::BTreeMap;

use amop::internal::wire::{
    ResultCode,
    sdk::{self, AmopBody, FrameType, Seq},
    topic::{DATA_PREFIX, ROUTE_PREFIX},
};
use rand::RngExt;

use super::{Network, NodeIndex, PeerIndex, peer_2x::PeerLinkIndex};

/// A session of one of theirs that takes part in private topics.
pub struct PrivateSession {
    pub data: String,
    pub role: PrivateRole,
    /// What it got with the data topic.
    pub received: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivateRole {
    /// Signs what comes under its route topic with a key, if it has one.
    Subscriber { route: String, key: Option<u8> },
    /// Holds the data topic alone.
    Listener,
    /// Accepts who signs with one of these keys.
    Publisher { accepts: Vec<u8> },
}

/// What a node thinks of a data topic of one of its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    Verifying,
    Accepted,
    Refused,
}

/// A challenge of a publisher there.
pub struct ChallengeOf2x {
    session: usize,
    node: NodeIndex,
    data: String,
    payload: Vec<u8>,
}

pub fn sign(key: u8, payload: &[u8]) -> Vec<u8> {
    blake3::keyed_hash(&[key; 32], payload).as_bytes().to_vec()
}

impl Network {
    /// A session of one of theirs takes part in a private topic.
    pub fn add_private_session(&mut self, peer: PeerIndex, data: &str, role: PrivateRole) -> usize {
        let peer = &mut self.peers_2x[peer];
        let topics = match &role {
            PrivateRole::Subscriber { route, .. } => vec![data.to_owned(), route.clone()],
            PrivateRole::Listener => vec![data.to_owned()],
            PrivateRole::Publisher { .. } => vec![format!("#!$PushChannel_{data}")],
        };
        peer.topics.extend(topics);
        peer.topics.sort();
        peer.topics.dedup();
        peer.topic_seq += 1;
        peer.private.push(PrivateSession { data: data.to_owned(), role, received: Vec::new() });
        peer.private.len() - 1
    }

    /// Its list has come, with these names in their order, or is known to be the same.
    pub(super) fn verify_peers_topics(&mut self, link: PeerLinkIndex, names: &[String]) {
        let (peer, node) = (self.peer_links[link].peer, self.peer_links[link].node);
        let open = self.peer_links[link].flags.iter().filter(|(_, flag)| **flag == Flag::Verifying);
        let open: Vec<String> = open.map(|(data, _)| data.clone()).collect();
        for data in open {
            let front = format!("{ROUTE_PREFIX}{data}");
            let Some(route) = names.iter().find(|name| name.starts_with(&front)) else { continue };
            let publishers: Vec<usize> =
                self.publishers_of(peer, &data).map(|(session, _)| session).collect();
            if publishers.is_empty() {
                continue;
            }
            let session = publishers[self.rng.random_range(0..publishers.len())];
            let payload = format!("{:032x}", self.rng.random::<u128>()).into_bytes();
            let seq = self.peer_unicast(peer, route, &payload);
            self.peers_2x[peer].challenges.insert(seq, ChallengeOf2x { session, node, data, payload });
        }
    }

    /// Takes over the data topics of a list.
    pub(super) fn take_private_topics(&mut self, link: PeerLinkIndex, names: Vec<String>) {
        let one = &mut self.peer_links[link];
        let before = std::mem::take(&mut one.flags);
        let data = names.iter().filter(|name| name.starts_with(DATA_PREFIX));
        let flag = |name: &String| before.get(name).copied().unwrap_or(Flag::Verifying);
        one.flags = data.map(|name| (name.clone(), flag(name))).collect::<BTreeMap<_, _>>();
        one.private = names.clone();
        self.verify_peers_topics(link, &names);
    }

    fn publishers_of(&self, peer: PeerIndex, data: &str) -> impl Iterator<Item = (usize, &PrivateSession)> {
        let sessions = self.peers_2x[peer].private.iter().enumerate();
        sessions.filter(move |(_, session)| {
            session.data == data && matches!(session.role, PrivateRole::Publisher { .. })
        })
    }

    /// A publisher there has the answer to its challenge.
    pub(super) fn take_signature(&mut self, peer: PeerIndex, seq: &Seq, frame: &[u8]) {
        let Some(challenge) = self.peers_2x[peer].challenges.remove(seq) else { return };
        let ChallengeOf2x { session, node, data, payload } = challenge;
        // The Java SDK says nothing when something goes wrong.
        let Ok(body) = AmopBody::decode(&frame[sdk::HEADER_LEN..]) else { return };
        let PrivateRole::Publisher { accepts } = &self.peers_2x[peer].private[session].role else { return };
        let signature = &frame[sdk::HEADER_LEN + body.payload_offset..];
        let is_good = accepts.iter().any(|&key| sign(key, &payload) == signature);
        if let Some(link) = self.peer_link(peer, node)
            && let Some(flag) = self.peer_links[link].flags.get_mut(&data)
            && *flag == Flag::Verifying
        {
            *flag = if is_good { Flag::Accepted } else { Flag::Refused };
        }
    }

    /// A session there gets a message of a private topic: gives what it answers; `None` if it does not.
    pub(super) fn private_session_gets(
        &mut self,
        peer: PeerIndex,
        is_multicast: bool,
        topic: &str,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let sessions = &mut self.peers_2x[peer].private;
        if topic.starts_with(ROUTE_PREFIX) {
            let key = sessions.iter().find_map(|session| match &session.role {
                PrivateRole::Subscriber { route, key } if route == topic => *key,
                _ => None,
            });
            return key.map(|key| sign(key, payload));
        }
        let is_publisher = |session: &PrivateSession| matches!(session.role, PrivateRole::Publisher { .. });
        let holders: Vec<usize> = (0..sessions.len())
            .filter(|&index| sessions[index].data == topic && !is_publisher(&sessions[index]))
            .collect();
        if is_multicast {
            holders.iter().for_each(|&holder| sessions[holder].received.push(payload.to_vec()));
        } else if !holders.is_empty() {
            let drawn = holders[self.rng.random_range(0..holders.len())];
            self.peers_2x[peer].private[drawn].received.push(payload.to_vec());
        }
        (!holders.is_empty()).then(|| payload.to_vec())
    }

    /// What one thinks of a data topic of a node.
    pub fn flag_of(&self, peer: PeerIndex, node: NodeIndex, data: &str) -> Option<Flag> {
        self.peer_links[self.peer_link(peer, node)?].flags.get(data).copied()
    }
}

/// The answer of a session, under the topic of what it got.
pub fn answer_of(frame: &[u8], topic: &str, payload: &[u8]) -> Vec<u8> {
    let seq = sdk::Header::decode(frame).expect("a frame").seq;
    sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, topic, payload)
}
