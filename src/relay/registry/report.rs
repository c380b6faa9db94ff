//! What the registry tells people about the whole network.

use super::Registry;
use crate::relay::report::{KnownReport, NetworkReport, NodeLabel, Reachability};

impl Registry {
    /// Tells about every node that is known, this one first. Costs O(nodes): the entries are shared, not
    /// copied, and whoever asked counts and compares them on a thread of its own.
    pub fn report_network(&self) -> NetworkReport {
        let own_version = self.own.version();
        let own = KnownReport {
            id: self.shared.id,
            standing: Reachability::Own,
            next_hops: Vec::new(),
            is_routed: true,
            is_admitted: true,
            incarnation: own_version.incarnation,
            seq: own_version.seq,
            label: Some(NodeLabel {
                address: self.shared.own_address.clone(),
                agency: self.shared.own_agency.clone(),
                name: self.shared.own_name.clone(),
            }),
            entries: self.own.entries().clone(),
        };
        let others = self.known.iter().map(|(id, known)| {
            let path = self.routes.paths.get(id);
            let standing = match (path, known.lost_since) {
                (Some(path), _) => Reachability::Reachable { hops: path.hops },
                (None, Some(since)) => Reachability::Lost { since },
                (None, None) => Reachability::OutOfReach,
            };
            let label = self.neighbours.get(id).map(|neighbour| NodeLabel {
                address: neighbour.address.clone(),
                agency: neighbour.agency.clone(),
                name: neighbour.name.clone(),
            });
            let version = known.record.version();
            KnownReport {
                id: *id,
                standing,
                next_hops: path.map_or_else(Vec::new, |path| path.next.to_vec()),
                is_routed: known.routed.is_some(),
                is_admitted: self.shared.admits(id),
                incarnation: version.incarnation,
                seq: version.seq,
                label,
                entries: known.record.entries().clone(),
            }
        });
        let announcements = self.report_announcements();
        NetworkReport { nodes: std::iter::once(own).chain(others).collect(), announcements }
    }
}
