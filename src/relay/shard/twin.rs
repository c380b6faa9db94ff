//! One key, two lives: what a neighbour is told that says it lives another life than the one that is known. Most often it was
//! started again; its clock may have gone back; or two nodes have one key, as after a machine was copied.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::Shard;
use crate::relay::LinkKey;
use crate::wire::NodeId;

/// Each end of a node link says something every second, so one that was heard of within this time lives.
const LIVES_WITHIN: Duration = Duration::from_secs(2);

impl Shard {
    /// A link is of another life of its peer than the known one; of an older one, if so.
    pub(super) fn note_other_life(&mut self, now: Instant, key: LinkKey, peer: &NodeId, is_older: bool) {
        let Some(address) = self.node_link_mut(key).map(|link| link.label.address.clone()) else { return };
        let active = self.neighbours.get(peer).and_then(|neighbour| neighbour.active);
        let other = active
            .and_then(|active| self.node_link_mut(active))
            .filter(|link| now.saturating_duration_since(link.last_received) < LIVES_WITHIN);
        if let Some(other) = other.map(|link| link.label.address.clone()) {
            self.counters.keys_used_twice.increment();
            if self.logs.keys_used_twice.admits(now) {
                error!(
                    %peer, %address, other_address = %other,
                    "two nodes have one key: both are linked at once, and only one of them is reached; stop one, and give it a key of its own \
                     (amop pki)",
                );
            }
        } else if is_older {
            if self.logs.keys_used_twice.admits(now) {
                warn!(
                    %peer, %address,
                    "a node's link is refused, for it says that it started before the one that is known: its clock went back, or two nodes have one key",
                );
            }
        } else if self.logs.nodes_up.admits(now) {
            info!(%peer, %address, "the node has restarted");
        }
    }
}
