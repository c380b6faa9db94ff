//! What the door counts, and the lines that it logs in bounded number.

use crate::relay::{counters::metrics, log_limit::LogLimit};

metrics! {
    /// The metrics of the door.
    pub struct DoorCounters {
        /// Handshakes under way now, of links that came in and that were dialled.
        gauge pending_handshakes,
        /// Handshakes begun: dialled, or with a peer's first byte.
        counter handshakes_begun,
        /// Handshakes done.
        counter handshakes_done,
        /// Connections whose peer closed before it sent a byte, as health checks do. No handshakes.
        counter probes,
        /// Connections closed because their peer sent nothing for the time of a handshake. No handshakes.
        counter silent_connections,
        /// Handshakes that failed because the peer spoke something else than TLS: HTTP, the PROXY protocol, AMOP.
        counter handshakes_failed_not_tls,
        /// Handshakes that failed for want of a common TLS version.
        counter handshakes_failed_no_common_version,
        /// Handshakes that failed for want of a common key exchange group.
        counter handshakes_failed_no_common_group,
        /// Handshakes that failed for want of a common cipher suite that goes with our key.
        counter handshakes_failed_no_common_cipher_suite,
        /// Handshakes that failed for want of a common kind of signature.
        counter handshakes_failed_no_common_signature,
        /// Handshakes that failed because the peer sent no certificate.
        counter handshakes_failed_no_certificate,
        /// Handshakes that failed because the peer's certificate is of an authority that is not trusted here.
        counter handshakes_failed_unknown_authority,
        /// Handshakes that failed because the peer's certificate, or one above it, has expired.
        counter handshakes_failed_certificate_expired,
        /// Handshakes that failed because the peer's certificate, or one above it, is not valid yet.
        counter handshakes_failed_certificate_not_yet_valid,
        /// Handshakes that failed because the application's certificate has another issuer than the node's.
        counter handshakes_failed_certificate_of_other_issuer,
        /// Handshakes that failed because the peer's certificate is malformed, wrongly signed or for another purpose.
        counter handshakes_failed_bad_certificate,
        /// Handshakes that failed because the peer did not accept our certificate, and said so.
        counter handshakes_failed_own_certificate_refused,
        /// Handshakes that the peer ended with another alert.
        counter handshakes_failed_alert,
        /// Handshakes that failed because the peer sent what makes no sense, or too much.
        counter handshakes_failed_malformed,
        /// Handshakes that the peer broke off.
        counter handshakes_failed_closed,
        /// Handshakes that took too long.
        counter handshakes_failed_timeout,
        /// Handshakes whose connection broke.
        counter handshakes_failed_io,
        /// Handshakes in which amop, or a library, panicked: please report the line in the log.
        counter handshakes_failed_fault,
        /// Connections that wait now because their address has its maximum of handshakes under way, or has used up its time.
        gauge waiting_connections,
        /// Connections that had to wait because of their address.
        counter connections_waited,
        /// Those of them that waited because handshakes that came to nothing had used up their address' processor time.
        counter connections_out_of_time,
        /// Connections closed because too many waited, or they waited too long.
        counter handshakes_refused,
        /// Links, and connections of other processes, that bear this node's own key.
        counter own_key_elsewhere,
        /// Connections that could not be accepted.
        counter accept_failures,
        /// Applications not let in because the node or their certificate had its maximum of sessions.
        counter sessions_refused,
        /// Nodes not let in because of the blacklist or the whitelist.
        counter nodes_refused_by_list,
        /// Nodes not let in because their certificate has no secp256k1 key.
        counter nodes_refused_by_key,
        /// Links of nodes not let in because that node had too many, or there were too many nodes.
        counter nodes_refused_by_number,
        /// Links lost because there was no file descriptor left.
        counter links_lost,
        /// Dials begun.
        counter dials,
        /// Dials that made no connection or no handshake.
        counter dials_failed,
        /// Links that were dialled, and that the peer ended within seconds, with no other link to it.
        counter dials_hung_up,
    }
}

/// One limit for each kind of line.
pub(super) struct Logs {
    pub(super) handshake_failed: LogLimit,
    pub(super) too_many_handshakes: LogLimit,
    pub(super) not_accepted: LogLimit,
    pub(super) not_let_in: LogLimit,
    pub(super) link_lost: LogLimit,
    pub(super) dialed: LogLimit,
    pub(super) not_reached: LogLimit,
    pub(super) not_there_yet: LogLimit,
    pub(super) disconnected: LogLimit,
    pub(super) ledger_not_reached: LogLimit,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            handshake_failed: LogLimit::new("failed handshakes"),
            too_many_handshakes: LogLimit::new("too many handshakes"),
            not_accepted: LogLimit::new("connections not accepted"),
            not_let_in: LogLimit::new("applications and nodes not let in"),
            dialed: LogLimit::new("nodes dialled"),
            not_there_yet: LogLimit::new("nodes that are not there yet"),
            not_reached: LogLimit::new("nodes not reached"),
            disconnected: LogLimit::new("nodes whose links are closed"),
            ledger_not_reached: LogLimit::new("ledger nodes not reached"),
            link_lost: LogLimit::new("links lost for want of file descriptors"),
        }
    }
}
