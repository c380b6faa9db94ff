//! What the registry publishes and every shard reads: where the subscribers of each topic are.

use std::{collections::BTreeMap, sync::Arc};

use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};
use smallvec::SmallVec;

use super::{ReactorId, SubscriberId};
use crate::wire::{NodeId, Topic};

/// Where the subscribers of one topic are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicEntry {
    /// This node's reactors with sessions that subscribe, and how many each; never 0.
    pub reactors: SmallVec<[(ReactorId, u32); 2]>,
    /// Other nodes with sessions that subscribe, and how many each; never 0.
    pub nodes: SmallVec<[(NodeRef, u32); 2]>,
    /// How many of these are nodes of FISCO BCOS 2.x; `None` if none are.
    pub of_2x: Option<Box<SubscribersOf2x>>,
}

/// Those subscribers of a topic that are nodes of FISCO BCOS 2.x, each of which counts as one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribersOf2x {
    /// At this node's reactors; never 0.
    pub reactors: SmallVec<[(ReactorId, u32); 2]>,
    /// At other nodes; never 0.
    pub nodes: SmallVec<[(NodeRef, u32); 2]>,
}

impl TopicEntry {
    fn is_empty(&self) -> bool {
        self.reactors.is_empty() && self.nodes.is_empty()
    }

    /// How many of a reactor's subscribers are nodes of FISCO BCOS 2.x.
    pub fn reactor_2x(&self, reactor: ReactorId) -> u32 {
        let of_2x = self.of_2x.iter().flat_map(|of_2x| &of_2x.reactors);
        of_2x.filter(|(other, _)| *other == reactor).map(|(_, count)| *count).sum()
    }

    /// How many of another node's are.
    pub fn node_2x(&self, id: &NodeId) -> u32 {
        let of_2x = self.of_2x.iter().flat_map(|of_2x| &of_2x.nodes);
        of_2x.filter(|(other, _)| other.id == *id).map(|(_, count)| *count).sum()
    }

    /// Who subscribes beside nodes of FISCO BCOS 2.x: whom their messages may go to.
    pub fn without_2x(&self) -> Self {
        let mut entry = Self { of_2x: None, ..self.clone() };
        entry
            .reactors
            .iter_mut()
            .for_each(|(reactor, count)| *count -= self.reactor_2x(*reactor).min(*count));
        entry.nodes.iter_mut().for_each(|(node, count)| *count -= self.node_2x(&node.id).min(*count));
        entry.reactors.retain(|(_, count)| *count > 0);
        entry.nodes.retain(|(_, count)| *count > 0);
        entry
    }

    /// Whether sessions of applications subscribe, here or elsewhere.
    fn has_sessions(&self) -> bool {
        let sum = |counts: &mut dyn Iterator<Item = u32>| counts.map(u64::from).sum::<u64>();
        let all = sum(&mut self.reactors.iter().map(|(_, count)| *count))
            + sum(&mut self.nodes.iter().map(|(_, count)| *count));
        let of_2x = self.of_2x.iter().map(|of_2x| {
            sum(&mut of_2x.reactors.iter().map(|(_, count)| *count))
                + sum(&mut of_2x.nodes.iter().map(|(_, count)| *count))
        });
        all > of_2x.sum()
    }

    fn set_2x(&mut self, change: impl FnOnce(&mut SubscribersOf2x)) {
        let of_2x = self.of_2x.get_or_insert_default();
        change(of_2x);
        if of_2x.reactors.is_empty() && of_2x.nodes.is_empty() {
            self.of_2x = None;
        }
    }
}

/// The subscribers of one private topic, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateEntry {
    /// Sessions of this node.
    pub own: imbl::OrdSet<SubscriberId>,
    /// Those of other nodes; none is empty.
    pub nodes: Vec<(NodeRef, Arc<[SubscriberId]>)>,
}

impl PrivateEntry {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.nodes.is_empty()
    }
}

/// A node of the map, shared by all entries that name it.
pub type NodeRef = Arc<NodeEntry>;

/// Another node that is reachable.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeEntry {
    /// Who.
    pub id: NodeId,
    /// Which incarnation of it.
    pub incarnation: u64,
    /// The reactor of ours that is its home.
    pub reactor: ReactorId,
}

/// How another node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Which incarnation of it.
    pub incarnation: u64,
    /// What its process drew, if its record has come. Without it nothing can be sealed for it.
    pub salt: Option<super::sealing::Salt>,
    /// Links of the path; 1 to a neighbour.
    pub hops: u8,
    /// The neighbours with which a shortest route begins, by id; never empty.
    pub next: SmallVec<[NodeId; 2]>,
    /// Longest frame of an SDK link that the node takes, in bytes.
    pub frame_len_max: u32,
    /// Differs when what leads there does, wherever.
    pub fingerprint: u64,
}

/// How nodes are reached by long frames, which go around nodes that do not take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongPaths {
    /// For frames of an SDK link that are longer than this, in bytes.
    pub above: u32,
    /// The nodes that a route leads to.
    pub paths: BTreeMap<NodeId, Path>,
}

/// One immutable state of the tables. A clone shares everything; a change to a clone copies the path
/// to one entry, O(log n) of the number of topics.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every publication.
    pub version: u64,
    /// Whether the state of all neighbours is here. Until then somebody may subscribe who is not known yet.
    pub is_complete: bool,
    /// Ids of the neighbours that are up.
    pub neighbours: Arc<[NodeId]>,
    /// The nodes that a route leads to, neighbours included.
    pub paths: Arc<BTreeMap<NodeId, Path>>,
    /// The same for frames that not all nodes on the path take, the shortest first. Empty if all take all.
    pub long_paths: Arc<[LongPaths]>,
    /// All nodes, and all routes, take frames of an SDK link up to this, in bytes. 0 if that was not looked at.
    taken_by_all: u32,
    /// Grows with every change of the subscribers of private topics.
    pub private_version: u64,
    /// What nodes of FISCO BCOS 2.x are told of, while there are any.
    announced: Option<Announced>,
    topics: GenericHashMap<Topic, TopicEntry, ahash::RandomState, DefaultSharedPtr>,
    private: GenericHashMap<Topic, Arc<PrivateEntry>, ahash::RandomState, DefaultSharedPtr>,
}

/// The topics of applications that nodes of FISCO BCOS 2.x are told of: those of all nodes, up to a bound.
#[derive(Clone, Debug)]
struct Announced {
    /// What a topic begins with, one of them, to be told; `None` if all are.
    prefixes: Option<Arc<[String]>>,
    topics_max: usize,
    /// Grows with every change.
    version: u64,
    topics: imbl::OrdSet<Topic>,
    /// Whether others are left out because there are too many.
    is_truncated: bool,
}

impl Announced {
    /// Whether it is one that is told.
    fn admits(&self, topic: &Topic) -> bool {
        let begins =
            |prefixes: &Arc<[String]>| prefixes.iter().any(|prefix| topic.as_str().starts_with(prefix));
        self.prefixes.as_ref().is_none_or(begins)
    }

    /// Sessions subscribe to a topic, or none does any more.
    fn note(&mut self, topic: &Topic, has_sessions: bool) {
        if !has_sessions {
            self.version += u64::from(self.topics.remove(topic).is_some());
        } else if self.admits(topic) && !self.topics.contains(topic) {
            match self.topics.len() < self.topics_max {
                true => {
                    self.topics.insert(topic.clone());
                    self.version += 1;
                }
                false => self.is_truncated = true,
            }
        }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            version: 0,
            is_complete: true,
            neighbours: Arc::default(),
            paths: Arc::default(),
            long_paths: Arc::default(),
            taken_by_all: 0,
            private_version: 0,
            announced: None,
            topics: GenericHashMap::default(),
            private: GenericHashMap::default(),
        }
    }
}

impl Snapshot {
    /// How a node is reached by a frame of an SDK link of so many bytes.
    pub fn path(&self, id: &NodeId, frame_len: usize) -> Option<&Path> {
        let long = self.long_paths.iter().rev().find(|long| frame_len > long.above as usize);
        long.map_or(&*self.paths, |long| &long.paths).get(id)
    }

    /// Differs when any route to a node does, for frames of whatever length; `None` if there is none.
    pub fn fingerprint(&self, id: &NodeId) -> Option<u64> {
        let long = self.long_paths.iter().map(|long| long.paths.get(id).map_or(0, |path| path.fingerprint));
        let short = self.paths.get(id)?.fingerprint;
        Some(long.fold(short, |all, one| all.rotate_left(1) ^ one))
    }

    /// How other nodes are reached. `false` if that is as it was.
    pub fn set_paths(&mut self, paths: BTreeMap<NodeId, Path>, long_paths: Vec<LongPaths>) -> bool {
        if *self.paths == paths && *self.long_paths == *long_paths {
            return false;
        }
        let bounds =
            paths.values().map(|path| path.frame_len_max).chain(long_paths.iter().map(|long| long.above));
        self.taken_by_all = bounds.min().unwrap_or(u32::MAX);
        (self.paths, self.long_paths) = (Arc::new(paths), long_paths.into());
        true
    }

    /// Whether a node, and those on the route to it, take a frame of an SDK link of so many bytes. Of a node that no route
    /// leads to nothing is known.
    #[inline]
    pub fn takes(&self, id: &NodeId, frame_len: usize) -> bool {
        frame_len <= self.taken_by_all as usize || self.takes_long(id, frame_len)
    }

    fn takes_long(&self, id: &NodeId, frame_len: usize) -> bool {
        self.paths
            .get(id)
            .is_none_or(|path| frame_len <= path.frame_len_max as usize && self.path(id, frame_len).is_some())
    }

    /// Whether a neighbour takes a frame of an SDK link of so many bytes over the link to it, as far as its record tells.
    #[inline]
    pub fn takes_as_neighbour(&self, id: &NodeId, frame_len: usize) -> bool {
        frame_len <= self.taken_by_all as usize
            || self.paths.get(id).is_none_or(|path| frame_len <= path.frame_len_max as usize)
    }

    /// Where the subscribers of an ordinary topic are; `None` if there are none.
    pub fn topic(&self, topic: &str) -> Option<&TopicEntry> {
        self.topics.get(topic)
    }

    /// All topics with subscribers, in no order.
    pub fn all_topics(&self) -> impl Iterator<Item = (&Topic, &TopicEntry)> {
        self.topics.iter()
    }

    /// Number of topics with subscribers.
    pub fn topics(&self) -> usize {
        self.topics.len()
    }

    /// Differs when [`Self::announced`] does.
    pub fn announced_version(&self) -> u64 {
        self.announced.as_ref().map_or(0, |announced| announced.version)
    }

    /// The topics that nodes of FISCO BCOS 2.x are told of, in order.
    pub fn announced(&self) -> impl Iterator<Item = &Topic> {
        self.announced.iter().flat_map(|announced| announced.topics.iter())
    }

    /// Whether there are more topics than such nodes are told of.
    pub fn is_announced_truncated(&self) -> bool {
        self.announced.as_ref().is_some_and(|announced| announced.is_truncated)
    }

    /// From now on, what such nodes are told of is kept.
    pub fn begin_announcing(&mut self, prefixes: Option<Arc<[String]>>, topics_max: usize) {
        let announced =
            Announced { prefixes, topics_max, version: 0, topics: imbl::OrdSet::new(), is_truncated: false };
        self.announced = Some(announced);
        self.announce_anew();
    }

    /// No more.
    pub fn end_announcing(&mut self) {
        self.announced = None;
    }

    /// Takes up topics that were left out, once there is room for a tenth of the bound.
    pub fn announce_what_was_left_out(&mut self) -> bool {
        let has_room = |announced: &Announced| {
            announced.is_truncated
                && announced.topics.len() < announced.topics_max - announced.topics_max / 10
        };
        let has_room = self.announced.as_ref().is_some_and(has_room);
        if has_room {
            self.announce_anew();
        }
        has_room
    }

    fn announce_anew(&mut self) {
        let Some(announced) = &mut self.announced else { return };
        announced.is_truncated = false;
        announced.version += 1;
        for (topic, entry) in self.topics.iter().filter(|(_, entry)| entry.has_sessions()) {
            announced.note(topic, entry.has_sessions());
            if announced.is_truncated {
                break;
            }
        }
    }

    /// Sets how many nodes of FISCO BCOS 2.x subscribe at a reactor, which count among its sessions.
    pub fn set_reactor_2x(&mut self, topic: &Topic, reactor: ReactorId, count: u32) {
        self.change(topic, |entry| {
            let before = entry.reactor_2x(reactor);
            let all =
                entry.reactors.iter().find(|(other, _)| *other == reactor).map_or(0, |(_, count)| *count);
            let all = all.saturating_sub(before).saturating_add(count);
            set(&mut entry.reactors, |other| *other == reactor, || reactor, all);
            entry.set_2x(|of_2x| set(&mut of_2x.reactors, |other| *other == reactor, || reactor, count));
        });
    }

    /// Sets how many nodes of FISCO BCOS 2.x subscribe at another node, which count beside its sessions.
    pub fn set_node_2x(&mut self, topic: &Topic, node: &NodeRef, count: u32) {
        self.change(topic, |entry| {
            let before = entry.node_2x(&node.id);
            let all =
                entry.nodes.iter().find(|(other, _)| other.id == node.id).map_or(0, |(_, count)| *count);
            let all = all.saturating_sub(before).saturating_add(count);
            set(&mut entry.nodes, |other| other.id == node.id, || node.clone(), all);
            entry.set_2x(|of_2x| set(&mut of_2x.nodes, |other| other.id == node.id, || node.clone(), count));
        });
    }

    /// Sets how many sessions of a reactor subscribe, nodes of FISCO BCOS 2.x among them.
    pub fn set_reactor(&mut self, topic: &Topic, reactor: ReactorId, count: u32) {
        self.change(topic, |entry| {
            set(&mut entry.reactors, |other| *other == reactor, || reactor, count);
        });
    }

    /// Sets how many sessions of another node subscribe, beside nodes of FISCO BCOS 2.x.
    pub fn set_node(&mut self, topic: &Topic, node: &NodeRef, count: u32) {
        self.change(topic, |entry| {
            let count = count.saturating_add(entry.node_2x(&node.id));
            set(&mut entry.nodes, |other| other.id == node.id, || node.clone(), count);
        });
    }

    /// The subscribers of a private topic's data topic; `None` if there are none.
    pub fn private(&self, topic: &str) -> Option<&Arc<PrivateEntry>> {
        self.private.get(topic)
    }

    /// Adds a subscriber of this node to a private topic, or takes it off.
    pub fn set_own_subscriber(&mut self, topic: &Topic, subscriber: SubscriberId, subscribes: bool) {
        self.change_private(topic, |entry| {
            if subscribes {
                entry.own.insert(subscriber);
            } else {
                entry.own.remove(&subscriber);
            }
        });
    }

    /// Sets who of another node subscribes to a private topic.
    pub fn set_node_subscribers(&mut self, topic: &Topic, node: &NodeRef, subscribers: Arc<[SubscriberId]>) {
        self.change_private(topic, |entry| {
            entry.nodes.retain(|(other, _)| other.id != node.id);
            if !subscribers.is_empty() {
                entry.nodes.push((node.clone(), subscribers));
            }
        });
    }

    fn change_private(&mut self, topic: &Topic, change: impl FnOnce(&mut PrivateEntry)) {
        self.private_version += 1;
        let mut entry = self.private.get(topic.as_str()).map(|entry| (**entry).clone()).unwrap_or_default();
        change(&mut entry);
        if entry.is_empty() {
            self.private.remove(topic.as_str());
        } else {
            self.private.insert(topic.clone(), Arc::new(entry));
        }
    }

    fn change(&mut self, topic: &Topic, change: impl FnOnce(&mut TopicEntry)) {
        match self.topics.get_mut(topic.as_str()) {
            Some(entry) => {
                change(entry);
                if entry.is_empty() {
                    self.topics.remove(topic.as_str());
                }
            }
            None => {
                let mut entry = TopicEntry::default();
                change(&mut entry);
                if !entry.is_empty() {
                    self.topics.insert(topic.clone(), entry);
                }
            }
        }
        if let Some(announced) = &mut self.announced {
            let has_sessions = self.topics.get(topic.as_str()).is_some_and(TopicEntry::has_sessions);
            announced.note(topic, has_sessions);
        }
    }
}

/// Sets, adds or (for a count of 0) removes one item of a short list.
fn set<T>(list: &mut SmallVec<[(T, u32); 2]>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T, count: u32) {
    match (list.iter().position(|(item, _)| is(item)), count) {
        (Some(position), 0) => {
            list.swap_remove(position);
        }
        (Some(position), count) => list[position] = (make(), count),
        (None, 0) => {}
        (None, count) => list.push((make(), count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_snapshot_does_not_change_under_its_readers() {
        let topic = Topic::new("t").unwrap();
        let mut working = Snapshot::default();
        working.set_reactor(&topic, ReactorId(0), 2);
        let published = working.clone();
        let node = Arc::new(NodeEntry { id: NodeId([1; 64]), incarnation: 1, reactor: ReactorId(0) });
        working.set_node(&topic, &node, 5);
        working.set_reactor(&topic, ReactorId(0), 0);
        assert_eq!(published.topic("t").unwrap().reactors.as_slice(), [(ReactorId(0), 2)]);
        assert!(published.topic("t").unwrap().nodes.is_empty());
        assert_eq!(working.topic("t").unwrap().nodes.as_slice(), [(node.clone(), 5)]);
        working.set_node(&topic, &node, 0);
        assert_eq!(working.topic("t"), None);
        assert_eq!(working.topics(), 0);
    }
}
