//! What the registry publishes and every shard reads: the topic table and the node map.

use std::sync::Arc;

use smallvec::SmallVec;

use super::ReactorId;
use crate::wire::{NodeId, Topic};

/// Where the subscribers of one topic are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicEntry {
    /// This node's reactors with sessions that subscribe, and how many each; never 0.
    pub reactors: SmallVec<[(ReactorId, u32); 2]>,
    /// Other nodes with sessions that subscribe, and how many each; never 0.
    pub nodes: SmallVec<[(NodeRef, u32); 2]>,
}

/// A node of the map, shared by all entries that name it.
pub type NodeRef = Arc<NodeEntry>;

/// Another node that is reachable.
#[derive(Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Who.
    pub id: NodeId,
    /// Its incarnation.
    pub incarnation: u64,
    /// The reactor of ours that owns the link towards it.
    pub reactor: ReactorId,
}

/// One immutable state of the tables. Cheap to clone: a change shares everything else.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub version: u64,
    topics:
        imbl::GenericHashMap<Topic, Arc<TopicEntry>, ahash::RandomState, imbl::shared_ptr::DefaultSharedPtr>,
}

impl Snapshot {
    /// Where the subscribers of `topic` are; `None` if there are none. Never knows route, marker or
    /// `_block_notify_` topics.
    pub fn topic(&self, topic: &str) -> Option<&Arc<TopicEntry>> {
        self.topics.get(topic)
    }
}
