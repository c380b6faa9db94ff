//! What a node says of its memory when it starts.

use tracing::{info, warn};

use crate::{bounds, config::Config, engine::memory_bytes};

/// What the node takes with all bounds reached at once, which is within `memory_max`; warns if the machine has less.
pub(super) fn bound_mib(config: &Config) -> u64 {
    let bytes = bounds::memory(&config.bounds());
    let there_is = memory_bytes() as u64;
    if bytes > there_is {
        warn!(
            memory_bound_mib = bytes >> 20,
            memory_mib = there_is >> 20,
            "with all bounds reached at once the node would take more memory than this machine or its control group has: \
             lower [engine] memory_max (see amop bounds)",
        );
    }
    bytes >> 20
}

/// Where memory is little, a node does less than it would; whoever wonders finds it in the log.
pub(super) fn say_what_has_no_room(config: &Config) {
    if !config.memory_max.shortages.is_empty() {
        info!(
            memory_max_mib = config.memory_max.bytes >> 20,
            "[engine] memory_max has no room for all that a node may have: {}; raise it, or set what matters more (see amop bounds)",
            config.memory_max.shortages.join(", "),
        );
    }
}
