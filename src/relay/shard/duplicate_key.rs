//! One key, two incarnations: what a neighbour is told that says it has another incarnation than the known one. Most often it was
//! started again; its clock may have gone back; or two nodes have one key, as after a machine was copied.

use std::time::Duration;

use tracing::{error, info, warn};

use super::{Context, Parts};
use crate::{
    relay::{LinkKey, Outbound},
    wire::NodeId,
};

/// Each end of a node link says something every second, so one that was heard of within this time lives.
const LIVES_WITHIN: Duration = Duration::from_secs(2);

impl Parts {
    /// A link is of another incarnation of its peer than the known one; of an older one, if so.
    pub(super) fn note_other_incarnation(
        &mut self,
        cx: &mut Context<'_, impl Outbound>,
        key: LinkKey,
        peer: &NodeId,
        is_older: bool,
    ) {
        let Some(address) = self.node_link_mut(key).map(|link| link.label.address.clone()) else { return };
        let active = self.peers.link_to(peer);
        let other = active
            .and_then(|active| self.node_link_mut(active))
            .filter(|link| cx.now.saturating_duration_since(link.last_received) < LIVES_WITHIN);
        if let Some(other) = other.map(|link| link.label.address.clone()) {
            cx.counters.keys_used_twice.increment();
            if cx.common.logs.keys_used_twice.admits(cx.now) {
                error!(
                    %peer, %address, other_address = %other,
                    "two nodes have one key: both are linked at once, and only one of them is reached; stop one, and give it a key of its own \
                     (amop pki)",
                );
            }
        } else if is_older {
            if cx.common.logs.keys_used_twice.admits(cx.now) {
                warn!(
                    %peer, %address,
                    "a node's link is refused, for it says that it started before the one that is known: its clock went back, or two nodes have one key",
                );
            }
        } else if cx.common.logs.nodes_up.admits(cx.now) {
            info!(%peer, %address, "the node has restarted");
        }
    }
}
