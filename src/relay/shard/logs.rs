//! Limits of the shards' log lines, one for each kind that a peer can cause. All shards of a node have them together.

use crate::relay::log_limit::LogLimit;

/// The limits.
#[derive(Clone, Debug)]
pub struct Logs {
    pub(super) sessions_up: LogLimit,
    pub(super) sessions_down: LogLimit,
    pub(super) sessions_cut: LogLimit,
    pub(super) sessions_refused: LogLimit,
    pub(super) over_bound: LogLimit,
    pub(super) queue_full: LogLimit,
    pub(super) over_bandwidth: LogLimit,
    pub(super) nodes_up: LogLimit,
    pub(super) nodes_down: LogLimit,
    pub(super) nodes_misbehaved: LogLimit,
    pub(super) keys_used_twice: LogLimit,
    pub(super) window_full: LogLimit,
    pub(super) keys_exhausted: LogLimit,
    pub(super) too_long: LogLimit,
    pub(super) pauses: LogLimit,
    pub(super) ledger_up: LogLimit,
    pub(super) ledger_lost: LogLimit,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            sessions_up: LogLimit::new("sessions up"),
            sessions_down: LogLimit::new("sessions down"),
            sessions_cut: LogLimit::new("sessions cut"),
            sessions_refused: LogLimit::new("handshakes and subscriptions refused"),
            over_bound: LogLimit::new("requests and subscriptions over a bound"),
            queue_full: LogLimit::new("copies dropped because a session's queue is full"),
            over_bandwidth: LogLimit::new("messages over the bandwidth limit"),
            nodes_up: LogLimit::new("node links up"),
            nodes_down: LogLimit::new("node links down"),
            nodes_misbehaved: LogLimit::new("nodes that broke the protocol"),
            keys_exhausted: LogLimit::new("sessions whose keys are used up"),
            keys_used_twice: LogLimit::new("two nodes with one key"),
            window_full: LogLimit::new("messages to nodes that do not keep up"),
            too_long: LogLimit::new("messages that are too long for their node"),
            pauses: LogLimit::new("pauses of this node"),
            ledger_up: LogLimit::new("connections to ledger nodes"),
            ledger_lost: LogLimit::new("connections to ledger nodes that are lost"),
        }
    }
}
