//! `amop doctor` and `scripts/tune`: what they say of this machine, and of one that has everything wrong.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::process::PROGRAM;

const TUNE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/tune");

/// Runs `amop doctor`; gives its exit status and what it printed.
fn doctor(arguments: &[&str]) -> (i32, String) {
    said(Command::new(PROGRAM).arg("doctor").args(arguments))
}

/// Runs `scripts/tune` with it.
fn tune(arguments: &[&str]) -> (i32, String) {
    said(Command::new("python3").args([TUNE, "--amop", PROGRAM]).args(arguments))
}

fn said(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("it runs");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), said)
}

/// The checks of a machine by `-o json`; the exit status must fit them.
fn checks(arguments: &[&str]) -> Vec<Value> {
    let (status, said) = doctor(&[arguments, &["-o", "json"]].concat());
    let said: Value = serde_json::from_str(&said).unwrap();
    let checks = said["checks"].as_array().unwrap().clone();
    let all_ok = checks.iter().all(|check| check["ok"] == true);
    assert_eq!((said["ok"] == true, status), (all_ok, if all_ok { 0 } else { 4 }));
    checks
}

fn find<'a>(checks: &'a [Value], id: &str) -> &'a Value {
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no check {id}"))
}

/// A machine as files, below a directory.
fn machine(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn every_check_says_what_it_is_what_it_saw_what_it_wants_and_what_to_do() {
    let checks = checks(&[]);
    let mut ids: Vec<&str> = Vec::new();
    for check in &checks {
        for field in ["id", "seen", "wanted", "advice"] {
            assert!(check[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {check}");
        }
        assert!(check["ok"].is_boolean() && (check["level"] == "must" || check["level"] == "should"));
        ids.push(check["id"].as_str().unwrap());
    }
    for id in [
        "kernel",
        "io_uring",
        "kernel.io_uring_disabled",
        "open_files",
        "locked_memory",
        "fs.nr_open",
        "net.core.somaxconn",
        "net.ipv4.tcp_max_syn_backlog",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
        "net.ipv4.tcp_slow_start_after_idle",
        "net.ipv4.tcp_congestion_control",
        "cpu_governor",
        "turbo",
        "transparent_huge_pages",
        "smt",
        "numa",
        "isolated_processors",
        "pin",
        "reactors",
        "clock_source",
        "swap",
        "time_synchronised",
        "cgroup_processors",
        "cgroup_memory",
    ] {
        assert!(ids.contains(&id), "no check {id}");
    }
    let (_, text) = doctor(&[]);
    for id in &ids {
        assert!(text.contains(id), "the text leaves out {id}");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), checks.len(), "two checks with one id");
}

#[test]
fn a_ring_can_be_made_where_nodes_run() {
    // The tests of this package run nodes here.
    assert_eq!(find(&checks(&[]), "io_uring")["ok"], true);
}

#[test]
fn a_configuration_is_read_as_the_node_reads_it_or_refused_with_the_same_status() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.ini");
    let arguments = ["-o", "json", "--config", config.to_str().unwrap()];
    let text = "; \u{8282}\r\n[engine]\r\nreactors=7\r\n";
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for bytes in
        [utf16.as_slice(), b"; \xbd\xda\n[engine]\nreactors=7\n", b"\xef\xbb\xbf[engine]\nreactors=7\n"]
    {
        fs::write(&config, bytes).unwrap();
        let (_, said) = doctor(&arguments);
        assert!(said.contains("7 (reactors)"), "{said}");
    }
    fs::write(&config, "[engine]\nreactors=x\n").unwrap();
    let refused = Command::new(PROGRAM).arg("doctor").args(arguments).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
}

const GOOD: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.8.0-40-generic\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "0\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("proc/meminfo", "MemTotal:  16000000 kB\nSwapTotal:  0 kB\n"),
    ("proc/self/cgroup", "0::/amop\n"),
    ("sys/fs/cgroup/amop/cpu.max", "max 100000\n"),
    ("sys/fs/cgroup/amop/memory.max", "max\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/smt/active", "1\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2\n"),
    ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n"),
    ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("sys/devices/system/node/node1/cpulist", "2-3\n"),
    ("sys/devices/system/cpu/cpu0/node0/cpulist", "0-1\n"),
    ("sys/devices/system/cpu/cpu1/node0/cpulist", "0-1\n"),
    ("sys/devices/system/cpu/cpu2/node1/cpulist", "2-3\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/class/net/lo/mtu", "65536\n"),
    ("sys/class/net/eth0/device/vendor", "0x8086\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
    ("proc/interrupts", "  24:  1  2  PCI-MSI  eth0-rx-0\n  25:  1  2  PCI-MSI  eth0-rx-1\n"),
    ("proc/irq/24/smp_affinity_list", "0\n"),
    ("proc/irq/25/smp_affinity_list", "1\n"),
    ("config.ini", "[engine]\n    reactors=2\n    pin=0,1\n"),
];

/// What each fault of a machine is found by.
const FAULTS: &[(&str, &str, &str)] = &[
    ("proc/sys/kernel/osrelease", "5.15.0-100-generic\n", "kernel"),
    ("proc/sys/kernel/io_uring_disabled", "2\n", "kernel.io_uring_disabled"),
    ("proc/sys/fs/nr_open", "4096\n", "fs.nr_open"),
    ("proc/sys/fs/file-max", "10000\n", "fs.file-max"),
    ("proc/sys/net/core/somaxconn", "128\n", "net.core.somaxconn"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "512\n", "net.ipv4.tcp_max_syn_backlog"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t262144\n", "net.ipv4.tcp_rmem"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t65536\n", "net.ipv4.tcp_wmem"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n", "net.ipv4.tcp_slow_start_after_idle"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "vegas\n", "net.ipv4.tcp_congestion_control"),
    ("proc/meminfo", "MemTotal:  16000000 kB\nSwapTotal:  4000000 kB\n", "swap"),
    ("sys/fs/cgroup/amop/cpu.max", "150000 100000\n", "cgroup_processors"),
    ("sys/fs/cgroup/amop/memory.max", "1073741824\n", "cgroup_memory"),
    ("sys/devices/system/cpu/isolated", "2-3\n", "isolated_processors"),
    ("config.ini", "[engine]\nreactors=2\npin=0,2\n", "smt"),
    ("config.ini", "[engine]\nreactors=2\npin=0,9\n", "pin"),
    ("config.ini", "[engine]\nreactors=8\n", "reactors"),
    ("config.ini", "[engine]\nreactors=4\npin=0,1\n", "card_queues.eth0"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n", "cpu_governor"),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n", "turbo"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n", "clock_source"),
    ("config.ini", "[engine]\nreactors=2\n", "numa"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n", "transparent_huge_pages"),
    ("proc/irq/25/smp_affinity_list", "0\n", "card_interrupts.eth0"),
];

#[test]
fn each_fault_of_a_machine_is_found_and_nothing_is_found_on_a_good_one() {
    for (path, text, id) in [("", "", "")].iter().chain(FAULTS) {
        let dir = tempfile::tempdir().unwrap();
        machine(dir.path(), GOOD);
        if !path.is_empty() {
            machine(dir.path(), &[(path, text)]);
        }
        let root = dir.path().to_str().unwrap();
        let config = dir.path().join("config.ini");
        let checks = checks(&["--root", root, "--config", config.to_str().unwrap()]);
        let wrong: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
        if id.is_empty() {
            assert!(wrong.is_empty(), "{wrong:?}");
        } else {
            assert_eq!(find(&checks, id)["ok"], false, "{path}: {wrong:?}");
        }
    }
}

#[test]
fn tune_says_what_it_would_set_to_what_and_how_to_undo_it() {
    let dir = tempfile::tempdir().unwrap();
    machine(dir.path(), GOOD);
    let root = dir.path().to_str().unwrap();
    let (status, said) = tune(&["--dry-run", "--root", root]);
    // Only what depends on a configuration, which is not given here, is left.
    assert!(status == 0 && !said.contains("sysctl -w"), "{said}");
    for (path, text, _) in FAULTS {
        machine(dir.path(), &[(path, text)]);
    }
    let (status, said) = tune(&["--dry-run", "--persist", "--root", root]);
    assert_eq!(status, 0);
    for wanted in [
        "sysctl -w net.core.somaxconn='4096'",
        "#   sysctl -w net.core.somaxconn='128'",
        "sysctl -w net.ipv4.tcp_rmem='4096 131072 4194304'",
        "sysctl -w net.ipv4.tcp_slow_start_after_idle='0'",
        "sysctl -w kernel.io_uring_disabled='0'",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        "#   echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        "# to /etc/sysctl.d/90-amop.conf: ",
        "# left to you: cpu_governor",
    ] {
        assert!(said.contains(wanted), "no {wanted} in:\n{said}");
    }
    let text = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    assert_eq!(text("proc/sys/net/core/somaxconn"), "128\n", "nothing is set by a dry run");
}
