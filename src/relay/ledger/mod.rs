//! What passes between applications and the ledger node behind this one, as far as it is read here (INTEROP §1).
//!
//! ```text
//!   application ─ 0x12 ─► call: which group, which ids ────► ledger node
//!               ─ 0x15 ─► filter: kept, to be opened anew ─►
//!               ◄─ 0x12 ─ merge: nodes and topics of AMOP ◄─
//!               ◄─ 0x1002 ─ filter: how far it has come ◄───
//! ```
//!
//! All else passes unread.

pub mod call;
pub mod filter;
pub mod merge;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::wire::NodeId;

/// How long a request waits for a connection to a ledger node before it is answered that there is none.
pub const WAIT_MAX: Duration = Duration::from_secs(5);
/// Requests of one session that wait for the ledger node or its answer.
pub const SESSION_CALLS_MAX: usize = 4_096;
/// Event filters of one session.
pub const SESSION_FILTERS_MAX: usize = 1_000;
/// Longest registration of an event filter in bytes.
pub const FILTER_LEN_MAX: usize = 256 << 10;
/// The first wait after all ledger nodes have failed; each further one is twice as long …
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// … up to this.
pub const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A connection on which nothing has come for so long gets a heartbeat, and another one each time that it has not. A ledger node
/// closes a connection after 60 s of silence (INTEROP §1.1).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A ledger node that says nothing for so long is lost.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);
/// How long a ledger node may take to answer the handshake 0x14.
pub const GREETING_MAX: Duration = Duration::from_secs(5);

/// Unicasts from the ledger node at one session that wait for its answer.
pub const SESSION_PUSHES_MAX: usize = 4_096;
/// How long a session may take to answer what comes from the ledger node. That node waits for 5 s from when it begins to send,
/// and takes no later answer.
pub const PUSH_KEPT: Duration = Duration::from_secs(10);
/// Multicasts at sessions that are known again as such, of one reactor.
pub const COPIES_MAX: usize = 131_072;

/// The ledger node was lost, or has not answered: nobody knows what became of the request.
pub const OUTCOME_UNKNOWN: i64 = -32000;
/// No ledger node can be reached: the request was not sent.
pub const UNREACHABLE: i64 = -32001;
/// More waits for the ledger node than may: the request was not sent.
pub const BUSY: i64 = -32002;
/// As of a ledger node whose group has an allowlist.
pub const NOT_ALLOWED: i64 = -40012;

/// What `[ledger]` says, but for where the ledger nodes are.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// How many ledger nodes there are; their numbers are below.
    pub nodes: u16,
    /// For groups that not all may use, the public keys of those applications that may.
    pub allow: BTreeMap<u32, BTreeSet<NodeId>>,
    /// How long a ledger node may take to answer a request.
    pub request_timeout: Duration,
    /// Bytes that may be kept for it: requests until their answer, event filters, and what waits for its session. Each reactor
    /// has an equal share, and one frame may go beyond it.
    pub bytes_max: usize,
    /// Whether messages go by the ledger node, too, to where no other way leads (INTEROP §1.3).
    pub amop: bool,
}

impl Ledger {
    /// Some ledger nodes that everybody may use, for as long and as much as is usual.
    pub fn of_nodes(nodes: u16) -> Self {
        Self {
            nodes,
            allow: BTreeMap::new(),
            request_timeout: Duration::from_secs(120),
            bytes_max: 256 << 20,
            amop: false,
        }
    }

    /// Whether an application with this key may use a group.
    pub fn admits(&self, group: u32, key: Option<&NodeId>) -> bool {
        self.allow.get(&group).is_none_or(|keys| key.is_some_and(|key| keys.contains(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_with_a_list_is_for_those_on_it_and_another_one_for_all() {
        let (one, other) = (NodeId([1; 64]), NodeId([2; 64]));
        let mut ledger = Ledger::of_nodes(1);
        ledger.allow.insert(1, [one].into());
        assert!(ledger.admits(1, Some(&one)) && !ledger.admits(1, Some(&other)) && !ledger.admits(1, None));
        assert!(ledger.admits(2, Some(&other)) && ledger.admits(2, None));
    }
}
