//! Metrics of the process, by the names that Prometheus' own libraries give them, and of what runs.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, info::Info},
};
use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use super::encode_gauge;

/// The process, which started then.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, started: SystemTime) -> fmt::Result {
    let build = Info::new([
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", env!("AMOP_BUILD_COMMIT")),
        ("features", env!("AMOP_BUILD_FEATURES")),
    ]);
    let help = "What runs: version, commit, and the features that the processor must have.";
    build.encode(encoder.encode_descriptor("amop_build", help, None, MetricType::Info)?)?;
    let help = "Time that processors have spent on the process, in it and in the kernel for it.";
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    let family = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
    ConstCounter::new(used).encode(family)?;
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let help = "When the node started, since 1970.";
    encode_gauge(encoder, "process_start_time_seconds", help, started.as_secs_f64())?;
    if let Some([virtual_bytes, resident_bytes]) = memory() {
        let help = "Memory that the process has addresses for.";
        encode_gauge(encoder, "process_virtual_memory_bytes", help, virtual_bytes as f64)?;
        encode_gauge(encoder, "process_resident_memory_bytes", "Resident memory.", resident_bytes as f64)?;
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the directory itself.
        let open = files.count().saturating_sub(1);
        encode_gauge(encoder, "process_open_fds", "Open files.", open as f64)?;
    }
    let limit = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64);
    encode_gauge(encoder, "process_max_fds", "Files that may be open.", limit)
}

/// Memory of the process in bytes: what it has addresses for, and what is resident.
fn memory() -> Option<[u64; 2]> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').map(|pages| pages.parse::<u64>().ok());
    let mut bytes = || Some(pages.next()?? * page_size() as u64);
    Some([bytes()?, bytes()?])
}
