//! How much memory this process may have: the machine's, or what its control groups leave of it.
//!
//! A container's limit is its control group's, of version 1 or 2, or that of a group above; the smallest holds. What the
//! kernel gives beyond it is taken back by ending a process.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Files of a group that limit its memory: where it ends processes, and where it makes them wait.
const LIMITS: &[&str] = &["memory.max", "memory.high", "memory.limit_in_bytes"];

/// Bytes of memory that this process may have, as it was when this was first asked.
pub fn memory_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let system = rustix::system::sysinfo();
        let machine = system.totalram as u64 * u64::from(system.mem_unit);
        let allowed = group_limit(Path::new("/")).map_or(machine, |limit| limit.min(machine));
        usize::try_from(allowed).unwrap_or(usize::MAX)
    })
}

/// The smallest limit of this process' groups and those above them; the machine's files are below `root`.
fn group_limit(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let directories = mounts.lines().filter_map(mount).flat_map(|mount| {
        let group = groups.lines().find_map(|line| mount.group_of(line));
        group.map(|group| mount.directories(&group)).unwrap_or_default()
    });
    let limits = directories.flat_map(|directory| {
        let directory = root.join(directory.strip_prefix("/").unwrap_or(&directory));
        LIMITS.iter().filter_map(move |name| limit(&directory.join(name)))
    });
    limits.min()
}

/// A limit in bytes; `max` is none.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A mounted hierarchy of control groups that limit memory.
struct Mount {
    /// Which group is seen at its top.
    top: PathBuf,
    at: PathBuf,
    is_version_2: bool,
}

/// Reads a line of `mountinfo`: number, parent, device, root, place, options, …, `-`, type, source, options of the whole.
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.split(' ').collect();
    let is_version_2 = match *after.first()? {
        "cgroup2" => true,
        "cgroup" if after.get(2)?.split(',').any(|controller| controller == "memory") => false,
        _ => return None,
    };
    Some(Mount { top: unescaped(before.get(3)?), at: unescaped(before.get(4)?), is_version_2 })
}

/// Blanks in paths are written as `\040`.
fn unescaped(path: &str) -> PathBuf {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}

impl Mount {
    /// The group that a line of `/proc/self/cgroup` names in this hierarchy: `number:controllers:path`.
    fn group_of(&self, line: &str) -> Option<PathBuf> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_here = match self.is_version_2 {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|controller| controller == "memory"),
        };
        is_here.then(|| path.into())
    }

    /// The directories of a group and those above it, as far as they are seen here.
    fn directories(&self, group: &Path) -> Vec<PathBuf> {
        // A container without a namespace of its own sees its group at the top, whatever that is called outside.
        let below = group.strip_prefix(&self.top).unwrap_or(Path::new(""));
        let escapes = below.components().any(|part| matches!(part, std::path::Component::ParentDir));
        let below = if escapes { Path::new("") } else { below.strip_prefix("/").unwrap_or(below) };
        below.ancestors().map(|part| self.at.join(part)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine's files, and the limit that they mean in MiB.
    fn limit_mib(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        group_limit(root.path()).map(|bytes| bytes / MIB)
    }

    fn mib(number: u64) -> String {
        format!("{}\n", number * MIB)
    }

    const V2: (&str, &str) =
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
    const V1: (&str, &str) = (
        "proc/self/mountinfo",
        "33 23 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n34 23 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    );

    #[test]
    fn the_smallest_limit_of_all_levels_holds() {
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let (own, above) = (mib(512), mib(256));
        let max = "sys/fs/cgroup/a/b/memory.max";
        assert_eq!(limit_mib(&[V2, group, (max, &own)]), Some(512));
        assert_eq!(limit_mib(&[V2, group, (max, &own), ("sys/fs/cgroup/a/memory.max", &above)]), Some(256));
        assert_eq!(limit_mib(&[V2, group, (max, &own), ("sys/fs/cgroup/a/memory.high", &above)]), Some(256));
        assert_eq!(limit_mib(&[V2, group, (max, "max\n"), ("sys/fs/cgroup/memory.max", &above)]), Some(256));
        assert_eq!(limit_mib(&[V2, group, (max, "max\n")]), None);
        // Of another group.
        assert_eq!(limit_mib(&[V2, group, ("sys/fs/cgroup/c/memory.max", &above)]), None);
    }

    #[test]
    fn version_1_limits_as_well() {
        let group = ("proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/y\n0::/\n");
        let limit = mib(256);
        let all = "9223372036854771712\n";
        let own = "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes";
        assert_eq!(limit_mib(&[V1, group, (own, &limit)]), Some(256));
        let above = "sys/fs/cgroup/memory/docker/memory.limit_in_bytes";
        assert_eq!(limit_mib(&[V1, group, (own, all), (above, &limit)]), Some(256));
        // Inside the container only its own group is seen, at the top.
        let mounted = (
            "proc/self/mountinfo",
            "34 23 0:30 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        assert_eq!(
            limit_mib(&[mounted, group, ("sys/fs/cgroup/memory/memory.limit_in_bytes", &limit)]),
            Some(256)
        );
        let other = ("proc/self/cgroup", "4:memory:/docker/x/deep\n");
        let deep = "sys/fs/cgroup/memory/deep/memory.limit_in_bytes";
        assert_eq!(limit_mib(&[mounted, other, (deep, &limit)]), Some(256));
    }

    #[test]
    fn a_group_outside_of_what_is_seen_is_looked_for_at_the_top() {
        let limit = mib(64);
        let top = ("sys/fs/cgroup/memory.max", limit.as_str());
        assert_eq!(limit_mib(&[V2, ("proc/self/cgroup", "0::/../../x\n"), top]), Some(64));
        assert_eq!(limit_mib(&[V2, ("proc/self/cgroup", "0::/\n"), top]), Some(64));
        assert_eq!(limit_mib(&[]), None);
        assert!(memory_bytes() > 0);
    }
}
