//! The kernel, io_uring, and what one process may have.

use std::io;

use io_uring::{Builder, IoUring};
use rustix::process::{Resource, getrlimit};

use super::{
    Check, Doctor, NOT_HERE,
    machine::{read, version},
};
use crate::node::FILES_WANTED;

/// What rings took of locked memory before Linux 5.12.
const MEMLOCK_WANTED: u64 = 64 << 20;
/// The oldest kernel whose system calls suffice, on epoll.
const KERNEL_LEAST: (u32, u32) = (4, 18);
/// Swapping that a node can live with.
const SWAPPINESS_WANTED: i64 = 10;

impl Doctor {
    pub(super) fn look_at_kernel(&mut self) {
        let release = self.release();
        let version = version(&release);
        let advice = "install Linux 6.1 or newer; on 6.0 io_uring takes more processor time, and from 4.18 on a node runs on epoll";
        let check = Check::new("kernel", version >= (6, 1), &release, "6.1 or newer", advice);
        let least = if self.needs_io_uring { (6, 0) } else { KERNEL_LEAST };
        self.note(if version < least { check.must() } else { check });

        let key = "kernel.io_uring_disabled";
        let disabled = self.machine.sysctl(key);
        let check = Check::new(
            key,
            matches!(disabled.as_deref(), None | Some("0")),
            disabled.as_deref().unwrap_or(NOT_HERE),
            "0",
            "sysctl kernel.io_uring_disabled=0; with 1 only root and members of kernel.io_uring_group may use io_uring. Without it \
             nodes run on epoll, where a message costs more processor time",
        );
        let needs_io_uring = self.needs_io_uring;
        let level = |check: Check| if needs_io_uring { check.must() } else { check };
        self.note_sysctl(key, "0", level(check));
        if self.machine.is_real() {
            self.note(level(ring()));
        }
    }

    fn release(&self) -> String {
        let of_files = self.machine.sysctl("kernel.osrelease");
        of_files.unwrap_or_else(|| rustix::system::uname().release().to_string_lossy().into_owned())
    }

    pub(super) fn look_at_limits(&mut self) {
        if self.machine.is_real() {
            let hard = getrlimit(Resource::Nofile).maximum;
            self.note(Check::new(
                "open_files",
                hard.is_none_or(|hard| hard >= FILES_WANTED),
                hard.map_or("unlimited".to_owned(), |hard| hard.to_string()),
                format!("at least {FILES_WANTED} (hard limit)"),
                format!("each link is an open file: LimitNOFILE={FILES_WANTED} in the service's unit, or ulimit -Hn as root"),
            ));
            let soft = getrlimit(Resource::Memlock).current;
            let counts = version(&self.release()) < (5, 12);
            self.note(Check::new(
                "locked_memory",
                !counts || soft.is_none_or(|soft| soft >= MEMLOCK_WANTED),
                soft.map_or("unlimited".to_owned(), |soft| format!("{soft} bytes")),
                format!("at least {MEMLOCK_WANTED} bytes before Linux 5.12, any since"),
                "LimitMEMLOCK=64M in the service's unit, or ulimit -l 65536",
            ));
        }
        let advice = "no limit of open files can be above it: sysctl fs.nr_open";
        self.sysctl_at_least("fs.nr_open", FILES_WANTED, advice);
        self.sysctl_at_least(
            "fs.file-max",
            2 * FILES_WANTED,
            "open files of the whole machine: sysctl fs.file-max",
        );
    }

    pub(super) fn sysctl_at_least(&mut self, key: &str, wanted: u64, advice: &str) {
        let seen = self.machine.sysctl(key);
        let ok = seen.as_deref().is_none_or(|seen| seen.parse::<u64>().is_ok_and(|seen| seen >= wanted));
        let seen = seen.unwrap_or_else(|| NOT_HERE.to_owned());
        let check = Check::new(key, ok, seen, format!("at least {wanted}"), advice);
        self.note_sysctl(key, &wanted.to_string(), check);
    }

    pub(super) fn look_at_memory(&mut self) {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        let pages = self.machine.read(path).unwrap_or_default();
        let chosen =
            pages.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(chosen, _)| chosen);
        let seen = chosen.unwrap_or(NOT_HERE);
        let mut check = Check::new(
            "transparent_huge_pages",
            seen != "always",
            seen,
            "madvise or never",
            "with always, small allocations are given 2 MiB at a time: the node takes more memory, and waits while pages are \
             joined",
        );
        let (path, value, was) = (path.to_owned(), "madvise".to_owned(), seen.to_owned());
        check.file = Some(super::FileValue { path, value, was });
        self.note(check);

        let swap = self.memory_info("SwapTotal").unwrap_or(0);
        let swappiness = self.machine.number("/proc/sys/vm/swappiness");
        let check = Check::new(
            "swap",
            swap == 0 || swappiness.is_some_and(|swappiness| swappiness <= SWAPPINESS_WANTED),
            match swap {
                0 => "none".to_owned(),
                _ => format!(
                    "{swap} KiB, vm.swappiness {}",
                    swappiness.map_or("?".to_owned(), |one| one.to_string())
                ),
            },
            format!("none, or vm.swappiness at most {SWAPPINESS_WANTED}"),
            "a node that waits for swapped memory is taken for dead after 3 s: swapoff, or lower vm.swappiness",
        );
        match swap {
            0 => self.note(check),
            _ => self.note_sysctl("vm.swappiness", &SWAPPINESS_WANTED.to_string(), check),
        }
    }

    /// A line of `/proc/meminfo`, in KiB.
    pub(super) fn memory_info(&self, name: &str) -> Option<u64> {
        let text = self.machine.read("/proc/meminfo")?;
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.split_whitespace().next()?.parse().ok()
    }

    pub(super) fn look_at_control_groups(&mut self) {
        let mut shares = Vec::new();
        for (text, directory) in self.group_limits("cpu", &["cpu.max", "cpu.cfs_quota_us"]) {
            let (quota, period) = text.split_once(' ').unwrap_or((&text, ""));
            let period = match period {
                "" => read(&self.machine.path(&format!("{directory}/cpu.cfs_period_us"))),
                period => Some(period.to_owned()),
            };
            let period: f64 = period.and_then(|period| period.parse().ok()).unwrap_or(100_000.0);
            // `max` and -1 are no limit.
            if let Some(quota) = quota.parse().ok().filter(|quota: &f64| *quota > 0.0) {
                shares.push(quota / period);
            }
        }
        let share = shares.into_iter().min_by(f64::total_cmp);
        let wanted = self.reactors + 1;
        self.note(Check::new(
            "cgroup_processors",
            share.is_none_or(|share| share >= wanted as f64),
            share.map_or("no limit".to_owned(), |share| format!("{share} processors")),
            format!("no limit, or at least {} (reactors) + 1", self.reactors),
            "a group that has used up its time stands still until the next period, up to 100 ms: raise the limit, or lower \
             [engine] reactors",
        ));
        let total = self.memory_info("MemTotal").map(|kib| kib << 10);
        let limits = self.group_limits("memory", &["memory.max", "memory.limit_in_bytes"]);
        let bytes = limits.into_iter().filter_map(|(text, _)| text.parse::<u64>().ok());
        let limit = bytes.filter(|bytes| total.is_none_or(|total| *bytes < total)).min();
        self.note(Check::new(
            "cgroup_memory",
            limit.is_none(),
            limit.map_or("no limit".to_owned(), |limit| format!("{} MiB", limit >> 20)),
            "no limit below the machine's memory",
            "the node's defaults are parts of this limit, as far as they were not set; amop bounds, run in the group, shows \
             the sum",
        ));
    }

    /// What this process' control group and those above it say by these files, and where.
    fn group_limits(&self, controller: &str, names: &[&str]) -> Vec<(String, String)> {
        let groups = self.machine.read("/proc/self/cgroup").unwrap_or_default();
        let path_of = |wanted: &str| {
            let mut lines = groups.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
            let found = lines.find(|parts| parts.len() == 3 && parts[1].split(',').any(|one| one == wanted));
            found.map_or("/".to_owned(), |parts| parts[2].to_owned())
        };
        let bases = [
            (format!("/sys/fs/cgroup/{controller}"), path_of(controller)),
            ("/sys/fs/cgroup".to_owned(), path_of("")),
            ("/sys/fs/cgroup/unified".to_owned(), path_of("")),
        ];
        let mut found = Vec::new();
        for (base, path) in bases {
            for group in std::path::Path::new(&path).ancestors() {
                let directory = format!("{base}/{}", group.display().to_string().trim_start_matches('/'));
                for name in names {
                    if let Some(text) = self.machine.read(&format!("{directory}/{name}")) {
                        found.push((text, directory.clone()));
                    }
                }
            }
        }
        found
    }
}

/// Whether a ring can be made, as a reactor makes its own, and whether it is as good as can be.
fn ring() -> Check {
    let mut best: Builder = IoUring::builder();
    best.setup_single_issuer().setup_defer_taskrun();
    let mut plain: Builder = IoUring::builder();
    plain.setup_coop_taskrun();
    let (made, is_deferred) = match best.build(8) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => (plain.build(8).err(), false),
        made => (made.err(), true),
    };
    let advice = match made.as_ref().map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied) => {
            "io_uring is forbidden: see kernel.io_uring_disabled, and in a container allow io_uring_setup, io_uring_enter and \
             io_uring_register in its seccomp profile; nodes run on epoll meanwhile, where a message costs more processor time"
        }
        Some(io::ErrorKind::OutOfMemory) => {
            "raise the memlock limit (ulimit -l, LimitMEMLOCK=) to 64 MiB; nodes run on epoll meanwhile"
        }
        _ => {
            "io_uring needs Linux 6.0 or newer, and has deferred task work from 6.1 on, which saves processor time; nodes run on epoll \
             meanwhile"
        }
    };
    let seen = match &made {
        Some(error) => error.to_string(),
        None if is_deferred => "a ring can be made".to_owned(),
        None => "a ring can be made, without deferred task work".to_owned(),
    };
    Check::new("io_uring", made.is_none(), seen, "a ring can be made", advice)
}
