//! What a reactor counts. One writer each, so plain relaxed stores suffice.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A figure that only its reactor changes and anybody may read.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Call it from the owning reactor only.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds one. Call it from the owning reactor only.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes one off, for gauges. Call it from the owning reactor only.
    pub fn decrement(&self) {
        self.add(1u64.wrapping_neg());
    }

    /// Sets the figure, for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The figure.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The figures of one reactor.
        #[derive(Default, Debug)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl Counters {
            /// Every figure with its name and its meaning.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// SDK sessions now.
    sessions,
    /// Links to other nodes now.
    node_links,
    /// Distinct topics that sessions of this reactor subscribe to now.
    topics,
    /// Subscriptions of this reactor's sessions now: pairs of session and topic, with those that wait.
    subscriptions,
    /// Frames received on SDK links.
    sdk_frames_received,
    /// Frames sent on SDK links.
    sdk_frames_sent,
    /// Frames received on node links.
    node_frames_received,
    /// Frames sent on node links.
    node_frames_sent,
    /// Unicast requests taken from sessions.
    requests,
    /// Requests answered 0 or with a subscriber's own code.
    answered_by_subscriber,
    /// Requests answered 99.
    answered_not_sent,
    /// Requests answered 100.
    answered_no_receiver,
    /// Requests answered 101.
    answered_not_delivered,
    /// Requests answered 102.
    answered_timeout,
    /// Requests and multicasts answered 103.
    answered_over_bandwidth,
    /// Multicasts taken from sessions.
    multicasts,
    /// Copies of frames queued for subscribers.
    deliveries,
    /// Copies dropped because the subscriber's queue was full.
    dropped_queue_full,
    /// Frames refused because the queues of all sessions together were full, and this one's not small.
    queues_full,
    /// Multicast copies not sent because a neighbour's window was full or its link was gone.
    dropped_window_full,
    /// Multicasts with a private topic and no authorised receiver.
    dropped_unauthorised,
    /// Requests without a retry because no more frames could be kept.
    retention_refused,
    /// Answers that came after their request was over.
    late_answers,
    /// 0x31 from sessions that were not asked.
    unsolicited_answers,
    /// Pushes that a session did not answer in time.
    push_timeouts,
    /// Frames of unknown type on SDK links.
    unknown_types,
    /// Packets of unknown type on node links.
    unknown_packets,
    /// AMOP bodies that were malformed.
    bad_bodies,
    /// Subscriptions refused whole.
    subscriptions_refused,
    /// Topic names skipped in subscriptions.
    topics_skipped,
    /// Subscriptions put off because the session changed its topics too often.
    subscriptions_deferred,
    /// JSON-RPC requests.
    rpc_requests,
    /// JSON-RPC requests refused by a limit.
    rpc_refused,
    /// Sessions closed because they were idle.
    closed_idle,
    /// Sessions closed because they did not read.
    closed_stalled,
    /// Node links closed because nothing was heard.
    closed_dead,
    /// Links closed because of malformed frames or records.
    closed_protocol,
    /// Message identities forgotten before their time because there were too many.
    identities_forgotten,
    /// Requests given up after the most tries that one may have.
    tries_exhausted,
    /// Repeated messages of neighbours that were not delivered again.
    duplicates_dropped,
    /// Frames sent again on a new link.
    frames_sent_again,
    /// State frames of neighbours that the registry had no room for.
    state_refused,
    /// Frames that named other nodes than the two ends of the link.
    not_for_us,
    /// Times that the receive buffers were all in use.
    receive_buffers_exhausted,
    /// Links closed because unfinished frames of all links together took too much memory.
    unfinished_frames_dropped,
    /// Control frames of node links that were not sent because too many waited.
    dropped_control_full,
    /// Turns in which nothing was taken in because another reactor was behind.
    turns_backed_up,
    /// Frames of the registry for neighbours that were dropped because the reactor was behind.
    registry_frames_dropped,
    /// Changes of topics that waited because the registry was behind.
    registry_changes_put_off,
    /// Links closed because their keys were worn out; node links only if nobody replaced them.
    closed_worn,
    /// Node links whose keys were worn out, to be replaced.
    node_links_worn,
    /// Sessions whose keys were worn out, to be closed.
    sessions_worn,
    /// TLS 1.3 keys that were renewed.
    keys_updated,
    /// Bytes received, as TLS records.
    bytes_received,
    /// Bytes sent, as TLS records.
    bytes_sent,
    /// Bytes of AMOP frames charged to the outbound bandwidth.
    bandwidth_charged_bytes,
}
