//! Which other nodes this one has to do with.

use std::collections::BTreeSet;

use crate::wire::NodeId;

/// The blacklist and the whitelist (WIRE §6.1). A node that they leave out is not linked, and exchanges no messages with
/// this one over others either. What others exchange with it is none of their concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Nodes that are left out; goes before the whitelist.
    pub blacklist: BTreeSet<NodeId>,
    /// If not empty, the only nodes that are not left out.
    pub whitelist: BTreeSet<NodeId>,
}

impl Admission {
    /// Whether this node has to do with another one.
    #[inline]
    pub fn admits(&self, id: &NodeId) -> bool {
        (self.blacklist.is_empty() || !self.blacklist.contains(id))
            && (self.whitelist.is_empty() || self.whitelist.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blacklist_goes_before_the_whitelist_and_an_empty_whitelist_admits_all() {
        let [one, other] = [NodeId([1; 64]), NodeId([2; 64])];
        let admission = |blacklist: &[NodeId], whitelist: &[NodeId]| Admission {
            blacklist: blacklist.iter().copied().collect(),
            whitelist: whitelist.iter().copied().collect(),
        };
        for (admission, admitted) in [
            (admission(&[], &[]), [true, true]),
            (admission(&[one], &[]), [false, true]),
            (admission(&[], &[one]), [true, false]),
            (admission(&[one], &[one]), [false, false]),
        ] {
            assert_eq!([one, other].map(|id| admission.admits(&id)), admitted, "{admission:?}");
        }
    }
}
