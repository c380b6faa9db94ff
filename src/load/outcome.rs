//! What a run found, and what it cost.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// Longest time that is told apart: 60 s.
const LONGEST_NS: u64 = 60_000_000_000;

/// What became of messages.
pub struct Outcome {
    /// From when each was due until it was done, in nanoseconds; of those that were.
    pub times: Histogram<u64>,
    /// Deliveries to subscribers that were counted.
    pub deliveries: u64,
    /// Messages that were answered with an error, by its code.
    pub failed: BTreeMap<i32, u64>,
    /// Answers and deliveries to nothing that was asked, or too many of them.
    pub unmatched: u64,
}

impl Default for Outcome {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds and precision are valid");
        Self { times, deliveries: 0, failed: BTreeMap::new(), unmatched: 0 }
    }
}

impl Outcome {
    /// Messages that were answered with an error.
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// A quantile of the times in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Processor time and memory of processes, as the kernel tells them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads.
    pub user: Duration,
    /// Of it, in the kernel.
    pub system: Duration,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Of several processes together; those that are gone count nothing.
    pub fn of(pids: &[u32]) -> Self {
        pids.iter().filter_map(|&pid| Self::of_one(pid)).fold(Self::default(), |sum, one| Self {
            user: sum.user + one.user,
            system: sum.system + one.system,
            resident_kib: sum.resident_kib + one.resident_kib,
        })
    }

    /// Of this process.
    pub fn own() -> Self {
        Self::of(&[std::process::id()])
    }

    fn of_one(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let time = |index: usize| {
            fields.get(index)?.parse::<f64>().ok().map(|count| Duration::from_secs_f64(count / ticks))
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
        let resident_kib =
            resident.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0);
        Some(Self { user: time(11)?, system: time(12)?, resident_kib })
    }

    /// Processor time since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            resident_kib: self.resident_kib,
        }
    }

    /// User and system time.
    pub fn processor(&self) -> Duration {
        self.user + self.system
    }
}
