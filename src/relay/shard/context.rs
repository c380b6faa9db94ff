//! What all parts of a shard need besides what they keep themselves.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ahash::RandomState;

use super::{logs::Logs, trace::Traces};
use crate::{
    relay::{
        Outbound, ReactorId, RegistryInput, STATE_BYTES_MAX, Shared,
        admission::Admission,
        counters::Counters,
        current::Current,
        rng::{FastRng, SecretRng, Seed},
        snapshot::Snapshot,
    },
    wire::{MessageNumber, NodeId, ResultCode, sdk},
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What the parts of a shard have in common, whatever happens.
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: Current<Snapshot>,
    pub(super) admission: Current<Admission>,
    pub(super) counters: Arc<Counters>,
    pub(super) id: ReactorId,
    /// The last moment that was asked for by [`Context::nanos`], and what it is.
    clock: (Instant, u64),
    /// What this shard's time leaves out of the real one.
    pub(super) paused: Duration,
    pub(super) fast_rng: FastRng,
    /// Draws keys, tokens and numbers.
    pub(super) secret_rng: SecretRng,
    /// Keys all hash tables, so that the seed decides the order in which they are walked, too.
    pub(super) hashing: RandomState,
    pub(super) draining: bool,
    pub(super) logs: Logs,
    pub(super) traces: Traces,
}

/// What comes with one event: its moment, and where its consequences go. It gives all of [`Common`], too; where a field of it
/// is used together with the moment or the way out, that is written as `common.field`.
pub(super) struct Context<'a, O> {
    pub(super) now: Instant,
    pub(super) out: &'a mut O,
    pub(super) common: &'a mut Common,
}

impl<O> Deref for Context<'_, O> {
    type Target = Common;

    fn deref(&self) -> &Common {
        self.common
    }
}

impl<O> DerefMut for Context<'_, O> {
    fn deref_mut(&mut self) -> &mut Common {
        self.common
    }
}

impl Common {
    pub(super) fn new(shared: Arc<Shared>, id: ReactorId, seed: &Seed) -> Self {
        let mut secret_rng = SecretRng::new(seed);
        let fast_rng = FastRng::new(&mut secret_rng);
        let mut number = || secret_rng.number();
        let hashing = RandomState::with_seeds(number(), number(), number(), number());
        Self {
            snapshot: Current::new(&shared.snapshot),
            admission: Current::new(&shared.admission),
            counters: shared.counters[usize::from(id.0)].clone(),
            id,
            clock: (shared.started, 0),
            paused: Duration::ZERO,
            fast_rng,
            secret_rng,
            draining: false,
            logs: shared.logs.clone(),
            traces: Traces::new(shared.settings.tables.of(crate::relay::trace::KEPT_MAX)),
            hashing,
            shared,
        }
    }

    /// How long a request with a frame of so many bytes may take (WIRE §2.3).
    pub(super) fn request_time(&self, frame_len: usize) -> Duration {
        self.shared.settings.request_timeout + sdk::transfer_time(frame_len)
    }

    pub(super) fn next_message(&self) -> MessageNumber {
        MessageNumber(self.shared.next_message.fetch_add(1, Relaxed))
    }

    pub(super) fn count_answer(&self, code: ResultCode) {
        let counter = match code {
            ResultCode::NOT_SENT => &self.counters.answered_not_sent,
            ResultCode::NO_RECEIVER => &self.counters.answered_no_receiver,
            ResultCode::NOT_DELIVERED => &self.counters.answered_not_delivered,
            ResultCode::TIMEOUT => &self.counters.answered_timeout,
            ResultCode::OVER_BANDWIDTH => &self.counters.answered_over_bandwidth,
            _ => &self.counters.answered_by_subscriber,
        };
        counter.increment();
    }
    /// Whether this node has to do with another one.
    pub(super) fn admits(&mut self, id: &NodeId) -> bool {
        self.admission.refresh();
        self.admission.admits(id)
    }
}

impl<O: Outbound> Context<'_, O> {
    /// This moment by the clock of the limiters, which all reactors have in common.
    pub(super) fn limiter_time(&self) -> Duration {
        (self.now + self.paused).saturating_duration_since(self.shared.started)
    }

    /// Passes a state frame or a JSON-RPC request on, if there is room.
    pub(super) fn tell_registry(&mut self, input: RegistryInput) -> bool {
        let (RegistryInput::State { payload: bytes, .. } | RegistryInput::Rpc { body: bytes, .. }) = &input
        else {
            return self.out.to_registry(input);
        };
        let (len, in_transit_bytes) = (bytes.len(), &self.common.shared.registry_input_bytes);
        if in_transit_bytes.load(Relaxed) >= self.common.shared.settings.tables.of(STATE_BYTES_MAX) {
            return false;
        }
        // Before it is passed on: the registry takes it off.
        in_transit_bytes.fetch_add(len, Relaxed);
        let passed = self.out.to_registry(input);
        if !passed {
            in_transit_bytes.fetch_sub(len, Relaxed);
        }
        passed
    }

    /// Nanoseconds from the node's start to this moment. They are computed once for each moment.
    pub(super) fn nanos(&mut self) -> u64 {
        if self.now != self.clock.0 {
            let elapsed = self.now.saturating_duration_since(self.shared.started);
            self.clock = (self.now, elapsed.as_secs() * NANOS_PER_SECOND + u64::from(elapsed.subsec_nanos()));
        }
        self.clock.1
    }

    /// Microseconds from a moment, in nanoseconds from the node's start, to this one.
    pub(super) fn micros_since(&mut self, nanos: u64) -> u64 {
        self.nanos().saturating_sub(nanos) / 1_000
    }
}
