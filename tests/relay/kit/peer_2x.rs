//! Nodes of FISCO BCOS 2.x, modelled after INTEROP §2.1 with the faults of WIRE §8: their topics are seconds late, their threads
//! reorder what comes, they answer 104 with the request's own data, they freeze, and try another node only after 30 s. All of
//! them are linked with each other.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{CloseReason, LinkUp, home_reactor},
    wire::{
        NodeId, ResultCode, Topic,
        p2p_2x::{self, HEADER_LEN, Header, Kind, TopicList},
        sdk::{self, AmopBody, FrameType, Seq},
    },
};
use rand::RngExt;

use super::{
    End, Event, LINK_LATENCY, Network, NodeIndex,
    private_2x::{ChallengeOf2x, Flag, PrivateSession, answer_of},
};

pub type PeerIndex = usize;
pub type PeerLinkIndex = usize;

/// How often each says the number of its list.
const BEAT: Duration = Duration::from_secs(5);
/// How long one waits for an answer before it tries another node.
const TRY: Duration = Duration::from_secs(30);
/// How long one waits before it dials again.
const REDIAL: Duration = Duration::from_secs(10);
/// A node that reads no further is looked at again after this.
const READ_AGAIN: Duration = Duration::from_millis(10);

/// How the applications of one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerBehaviour {
    /// With the request's payload.
    Echo,
    /// Not at all: their node answers 104 after five seconds.
    Silent,
}

pub struct VirtualPeer {
    pub id: NodeId,
    pub topics: Vec<String>,
    pub behaviour: PeerBehaviour,
    /// How long a message takes from the link to an application, and its answer back: drawn for each, so they overtake.
    pub delay: RangeInclusive<Duration>,
    /// It does nothing at all.
    pub is_frozen: bool,
    pub is_up: bool,
    /// What its applications got, in order.
    pub received: Vec<PeerReceived>,
    /// What became of what its applications asked.
    pub answers: BTreeMap<Seq, Vec<i32>>,
    /// Nodes that it dials.
    pub dials: Vec<NodeIndex>,
    /// Its sessions that take part in private topics, and what its publishers have asked.
    pub private: Vec<PrivateSession>,
    pub(super) challenges: BTreeMap<Seq, ChallengeOf2x>,
    pub(super) topic_seq: u32,
    next_seq: u32,
    open: BTreeMap<u32, Asked>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReceived {
    pub at: Instant,
    pub frame_type: FrameType,
    pub seq: Seq,
    pub topic: String,
    pub payload: Vec<u8>,
    /// The node that brought it; `None` if another one of theirs did.
    pub from: Option<NodeIndex>,
}

struct Asked {
    seq: Seq,
    topic: String,
    frame: Vec<u8>,
    tried: Vec<NodeIndex>,
}

/// A link as it has it.
pub struct PeerLink {
    pub peer: PeerIndex,
    pub node: NodeIndex,
    pub is_open: bool,
    pub end: End,
    /// What it knows of the node's topics.
    pub topics: Vec<String>,
    /// Those of private topics, in the order of the list, and what it thinks of each data topic.
    pub private: Vec<String>,
    pub flags: BTreeMap<String, Flag>,
    known_seq: u32,
    requested: Option<u32>,
    arrival: Option<Instant>,
    /// What has come to the node that it has not read.
    unread: VecDeque<Vec<u8>>,
}

impl Network {
    pub fn add_peer_2x(&mut self, topics: &[&str]) -> PeerIndex {
        self.peers_2x.push(VirtualPeer {
            id: NodeId(std::array::from_fn(|_| self.rng.random())),
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            behaviour: PeerBehaviour::Echo,
            delay: LINK_LATENCY..=LINK_LATENCY,
            is_frozen: false,
            is_up: true,
            received: Vec::new(),
            answers: BTreeMap::new(),
            dials: Vec::new(),
            private: Vec::new(),
            challenges: BTreeMap::new(),
            topic_seq: u32::from(!topics.is_empty()),
            next_seq: 2,
            open: BTreeMap::new(),
        });
        self.peers_2x.len() - 1
    }

    /// Another one with the key of this one; what that has is not shared.
    pub fn set_peer_topics(&mut self, peer: PeerIndex, topics: &[&str]) {
        let peer = &mut self.peers_2x[peer];
        peer.topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        peer.topic_seq += 1;
    }

    /// A link between one of theirs and a node comes up, whoever has dialled.
    pub fn link_peer_2x(&mut self, peer: PeerIndex, node: NodeIndex, is_dialled_here: bool) {
        // The later of two is closed.
        let is_open = self.peer_link(peer, node).is_none();
        self.open_peer_link(peer, node, is_dialled_here, is_open);
    }

    /// The same of one that has not noticed that it has a link already.
    pub fn double_peer_link(&mut self, peer: PeerIndex, node: NodeIndex) {
        self.open_peer_link(peer, node, true, true);
    }

    fn open_peer_link(&mut self, peer: PeerIndex, node: NodeIndex, is_dialled_here: bool, is_open: bool) {
        let id = self.peers_2x[peer].id;
        let (now, link) = (self.now, self.peer_links.len());
        let home = home_reactor(&id, self.nodes[node].shared.reactors);
        let key = self.nodes[node].io[usize::from(home.0)].insert(now, false, End::Peer2x(link));
        let end = self.end(node, home, key);
        self.peer_links.push(PeerLink {
            peer,
            node,
            is_open,
            end,
            topics: Vec::new(),
            private: Vec::new(),
            flags: BTreeMap::new(),
            known_seq: 0,
            requested: None,
            arrival: None,
            unread: VecDeque::new(),
        });
        let up = LinkUp::Node {
            id,
            dialed: is_dialled_here,
            address: format!("127.0.0.1:{}", 31300 + peer),
            agency: "agency".to_owned(),
            name: format!("peer{peer}"),
        };
        self.drive(node, home, |shard, now, io| shard.handle_link_up(now, key, up, io));
        if is_open {
            self.beat(link);
        } else {
            self.schedule(LINK_LATENCY, Event::LinkDown { end, reason: CloseReason::ByPeer });
        }
    }

    /// The same, and again whenever the link is gone.
    pub fn keep_peer_2x_linked(&mut self, peer: PeerIndex, node: NodeIndex) {
        self.peers_2x[peer].dials.push(node);
        self.link_peer_2x(peer, node, false);
    }

    pub(super) fn redial(&mut self, peer: PeerIndex, node: NodeIndex) {
        let is_wanted = self.peers_2x[peer].dials.contains(&node) && self.peers_2x[peer].is_up;
        if !is_wanted || self.peer_link(peer, node).is_some() {
            return;
        }
        if self.nodes[node].running && !self.nodes[node].frozen && !self.peers_2x[peer].is_frozen {
            return self.link_peer_2x(peer, node, false);
        }
        self.schedule(REDIAL, Event::PeerRedials { peer, node });
    }

    /// The open link of one of theirs to a node.
    pub fn peer_link(&self, peer: PeerIndex, node: NodeIndex) -> Option<PeerLinkIndex> {
        self.peer_links.iter().position(|link| link.is_open && link.peer == peer && link.node == node)
    }

    /// Nodes that tell one of theirs of a topic.
    pub fn gateways_of(&self, peer: PeerIndex, topic: &str) -> Vec<NodeIndex> {
        let links = self.peer_links.iter().filter(|link| link.is_open && link.peer == peer);
        let is_told = |link: &&PeerLink| match link.flags.get(topic) {
            Some(flag) => *flag == Flag::Accepted,
            None => link.topics.iter().chain(&link.private).any(|name| name == topic),
        };
        links.filter(is_told).map(|link| link.node).collect()
    }

    /// Breaks the link between one of theirs and a node.
    pub fn break_peer_link(&mut self, peer: PeerIndex, node: NodeIndex) {
        if let Some(link) = self.peer_link(peer, node) {
            let end = self.peer_links[link].end;
            self.close_peer_link(link);
            self.link_down(end, CloseReason::Broken);
        }
    }

    /// Cuts its cable: nobody notices, and what it says vanishes.
    pub fn cut_peer_link(&mut self, link: PeerLinkIndex) {
        self.peer_links[link].is_open = false;
    }

    /// One of theirs ends without a word, and forgets all.
    pub fn kill_peer_2x(&mut self, peer: PeerIndex) {
        self.peers_2x[peer].is_up = false;
        self.peers_2x[peer].open.clear();
        for node in 0..self.nodes.len() {
            self.break_peer_link(peer, node);
        }
    }

    pub fn revive_peer_2x(&mut self, peer: PeerIndex) {
        self.peers_2x[peer].is_up = true;
        self.peers_2x[peer].topic_seq = 1;
        for node in self.peers_2x[peer].dials.clone() {
            self.redial(peer, node);
        }
    }

    /// Its end of a link is gone.
    pub(super) fn close_peer_link(&mut self, link: PeerLinkIndex) {
        let PeerLink { peer, node, .. } = self.peer_links[link];
        if std::mem::replace(&mut self.peer_links[link].is_open, false) {
            self.schedule(REDIAL, Event::PeerRedials { peer, node });
        }
    }

    /// One says the number of its list, and again every five seconds.
    pub(super) fn beat(&mut self, link: PeerLinkIndex) {
        if !self.peer_links[link].is_open {
            return;
        }
        let peer = &self.peers_2x[self.peer_links[link].peer];
        if !peer.is_frozen {
            let number = peer.topic_seq.to_string();
            self.peer_says(link, p2p_2x::encode(Kind::TopicSeq, 0, number.as_bytes()));
        }
        self.schedule(BEAT, Event::PeerBeats { link });
    }

    /// Sends bytes over a link, in order.
    pub fn peer_says(&mut self, link: PeerLinkIndex, bytes: Vec<u8>) {
        let at = self.now + self.link_latency();
        let one = &mut self.peer_links[link];
        if !one.is_open {
            return;
        }
        let at = one.arrival.map_or(at, |last| at.max(last));
        one.arrival = Some(at);
        self.schedule_at(at, Event::PeerSent { link, bytes });
    }

    /// What one has sent has come to a node, which takes it as far as it reads.
    pub(super) fn take_from_peer(&mut self, link: PeerLinkIndex, bytes: Vec<u8>) {
        self.peer_links[link].unread.push_back(bytes);
        self.read_peer(link);
    }

    pub(super) fn read_peer(&mut self, link: PeerLinkIndex) {
        let to = self.peer_links[link].end;
        while !self.peer_links[link].unread.is_empty() {
            if let End::Node { node, incarnation, reactor, key } = to
                && self.is_current(node, incarnation)
            {
                let io = &mut self.nodes[node].io[usize::from(reactor.0)];
                let (bound, pool) = (io.queue_bytes_max, io.pool());
                if io.link(key).is_some_and(|link| link.is_read_paused(bound, pool)) {
                    return self.schedule(READ_AGAIN, Event::PeerReads { link });
                }
            }
            if let Some(bytes) = self.peer_links[link].unread.pop_front() {
                self.deliver(to, bytes);
            }
        }
    }

    pub(super) fn deliver_to_peer(&mut self, link: PeerLinkIndex, bytes: &[u8]) {
        let PeerLink { peer, node, is_open, .. } = self.peer_links[link];
        if !is_open || self.peers_2x[peer].is_frozen {
            return;
        }
        // A Hello of ours is of no protocol that it knows.
        let Ok(header) = Header::decode(bytes) else { return };
        assert_eq!(header.len as usize, bytes.len(), "a node lied about a frame's length");
        assert!(!header.is_compressed, "one that is told not to compress could not read it");
        let payload = &bytes[HEADER_LEN..];
        match header.kind {
            Kind::TopicSeq => {
                let number = p2p_2x::decode_topic_seq(payload).expect("a number");
                let (one, peer) = (&mut self.peer_links[link], &mut self.peers_2x[peer]);
                if number != one.known_seq {
                    one.requested = Some(peer.next_seq);
                    let request = p2p_2x::encode(Kind::RequestTopics, peer.next_seq, &[]);
                    peer.next_seq += 1;
                    self.peer_says(link, request);
                } else {
                    // In the order of a set.
                    let mut names = one.private.clone();
                    names.sort();
                    self.verify_peers_topics(link, &names);
                }
            }
            Kind::RequestTopics => {
                let peer = &self.peers_2x[peer];
                let mut list = peer.topic_seq.to_string();
                peer.topics.iter().for_each(|topic| list.push_str(&format!("\t{topic}")));
                self.peer_says(link, p2p_2x::encode(Kind::Topics, header.seq, list.as_bytes()));
            }
            Kind::Topics => {
                let one = &mut self.peer_links[link];
                if one.requested == Some(header.seq) {
                    let list = TopicList::decode(payload, usize::MAX).expect("a list");
                    assert_eq!((list.withheld, list.invalid), (0, 0), "what does not pass was told");
                    one.known_seq = list.seq;
                    one.topics = list.topics.iter().map(Topic::as_str).map(str::to_owned).collect();
                    let text = String::from_utf8(payload.to_vec()).expect("names");
                    let private = text.split('\t').filter(|name| name.starts_with("#!$"));
                    let private = private.map(str::to_owned).collect();
                    self.take_private_topics(link, private);
                }
            }
            Kind::Unicast | Kind::Multicast => {
                let delay = self.draw_latency(self.peers_2x[peer].delay.clone());
                let bytes = bytes.to_vec();
                self.schedule(delay, Event::PeerHandles { peer, link: Some(link), bytes });
            }
            Kind::Answer => {
                if let Some(asked) = self.peers_2x[peer].open.remove(&header.seq) {
                    let inner = sdk::Header::decode(payload).expect("a frame of the SDK link");
                    assert_eq!((inner.seq, inner.frame_type), (asked.seq, FrameType::RESPONSE));
                    assert_eq!(inner.len as usize, payload.len());
                    self.peers_2x[peer].answers.entry(asked.seq).or_default().push(inner.result.0);
                    self.take_signature(peer, &inner.seq, payload);
                }
            }
            Kind::Other => panic!("node {node} has said {header:?}"),
        }
    }

    /// A message has come to a thread of one of theirs.
    pub(super) fn peer_handles(&mut self, peer: PeerIndex, link: Option<PeerLinkIndex>, bytes: &[u8]) {
        if self.peers_2x[peer].is_frozen || !self.peers_2x[peer].is_up {
            return;
        }
        let header = Header::decode(bytes).expect("it was read before");
        let frame = &bytes[HEADER_LEN..];
        let inner = sdk::Header::decode(frame).expect("a frame of the SDK link");
        assert_eq!(inner.len as usize, frame.len());
        let body = AmopBody::decode(&frame[sdk::HEADER_LEN..]).expect("a topic");
        let has_topic = self.peers_2x[peer].topics.iter().any(|topic| topic == body.topic);
        if has_topic {
            let received = PeerReceived {
                at: self.now,
                frame_type: inner.frame_type,
                seq: inner.seq,
                topic: body.topic.to_owned(),
                payload: frame[sdk::HEADER_LEN + body.payload_offset..].to_vec(),
                from: link.map(|link| self.peer_links[link].node),
            };
            self.peers_2x[peer].received.push(received);
        }
        let is_private = body.topic.starts_with("#!$") && has_topic;
        let payload = &frame[sdk::HEADER_LEN + body.payload_offset..];
        let said = is_private
            .then(|| self.private_session_gets(peer, header.kind == Kind::Multicast, body.topic, payload))
            .flatten();
        let (Kind::Unicast, Some(link)) = (header.kind, link) else { return };
        if let Some(said) = said {
            let bytes = p2p_2x::encode(Kind::Answer, header.seq, &answer_of(frame, body.topic, &said));
            return self.schedule(Duration::ZERO, Event::PeerAnswers { link, bytes });
        }
        let (code, delay) = match self.peers_2x[peer].behaviour {
            _ if !has_topic => (104, Duration::ZERO),
            _ if is_private => (104, Duration::from_secs(5)),
            PeerBehaviour::Echo => (0, Duration::ZERO),
            PeerBehaviour::Silent => (104, Duration::from_secs(5)),
        };
        let mut answer = frame.to_vec();
        answer[4..6].copy_from_slice(&FrameType::RESPONSE.0.to_be_bytes());
        answer[38..42].copy_from_slice(&i32::to_be_bytes(code));
        let bytes = p2p_2x::encode(Kind::Answer, header.seq, &answer);
        self.schedule(delay, Event::PeerAnswers { link, bytes });
    }

    /// An application of one of theirs asks: some node that has the topic, and another one after 30 s.
    pub fn peer_unicast(&mut self, peer: PeerIndex, topic: &str, payload: &[u8]) -> Seq {
        let seq = self.seq();
        let frame = sdk::encode_amop(FrameType::REQUEST, &seq, ResultCode::OK, topic, payload);
        let number = self.peers_2x[peer].next_seq;
        self.peers_2x[peer].next_seq += 1;
        let asked = Asked { seq, topic: topic.to_owned(), frame, tried: Vec::new() };
        self.peers_2x[peer].open.insert(number, asked);
        self.peer_tries(peer, number);
        seq
    }

    pub(super) fn peer_tries(&mut self, peer: PeerIndex, number: u32) {
        let Some(mut asked) = self.peers_2x[peer].open.remove(&number) else { return };
        let mut nodes = self.gateways_of(peer, &asked.topic);
        nodes.retain(|node| !asked.tried.contains(node));
        if nodes.is_empty() {
            self.peers_2x[peer].answers.entry(asked.seq).or_default().push(100);
            return;
        }
        let node = nodes[self.rng.random_range(0..nodes.len())];
        asked.tried.push(node);
        // Each try has a seq of its own.
        let again = self.peers_2x[peer].next_seq;
        self.peers_2x[peer].next_seq += 1;
        let bytes = p2p_2x::encode(Kind::Unicast, again, &asked.frame);
        self.peers_2x[peer].open.insert(again, asked);
        if let Some(link) = self.peer_link(peer, node) {
            self.peer_says(link, bytes);
        }
        self.schedule(TRY, Event::PeerTries { peer, number: again });
    }

    /// An application of one of theirs sends to all: each node and each other one of theirs that has the topic.
    pub fn peer_multicast(&mut self, peer: PeerIndex, topic: &str, payload: &[u8]) -> Seq {
        let seq = self.seq();
        let frame = sdk::encode_amop(FrameType::MULTICAST, &seq, ResultCode::OK, topic, payload);
        let bytes = p2p_2x::encode(Kind::Multicast, 1, &frame);
        for node in self.gateways_of(peer, topic) {
            if let Some(link) = self.peer_link(peer, node) {
                self.peer_says(link, bytes.clone());
            }
        }
        // Their own private topics among themselves are not modelled.
        let is_private = topic.starts_with("#!$");
        for other in (0..self.peers_2x.len()).filter(|&other| other != peer && !is_private) {
            let event = Event::PeerHandles { peer: other, link: None, bytes: bytes.clone() };
            self.schedule(LINK_LATENCY, event);
        }
        seq
    }
}
