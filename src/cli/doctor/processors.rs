//! The processors, for the reactors of a node.

use std::collections::BTreeSet;

use super::{
    Check, Doctor, NOT_HERE, list,
    machine::{name, processors, read},
};

const CPUS: &str = "/sys/devices/system/cpu";

impl Doctor {
    pub(super) fn look_at_processors(&mut self) {
        let missing: BTreeSet<usize> = self.pin.difference(&self.allowed).copied().collect();
        let check = Check::new(
            "pin",
            missing.is_empty(),
            list(&self.pin, "not pinned"),
            format!("of the processors {}", list(&self.allowed, "that there are")),
            format!("[engine] pin names processors that a node cannot have: {}", list(&missing, "none")),
        );
        self.note(check.must());
        self.note(Check::new(
            "reactors",
            self.reactors <= self.allowed.len().max(1),
            self.reactors,
            format!("at most {}", self.allowed.len()),
            "[engine] reactors: more than there are processors take turns and wait for each other",
        ));
        let isolated = processors(&self.machine.read(&format!("{CPUS}/isolated")).unwrap_or_default());
        let unused: BTreeSet<usize> = isolated.difference(&self.pin).copied().collect();
        self.note(Check::new(
            "isolated_processors",
            unused.is_empty(),
            list(&isolated, "none"),
            "none, or those of [engine] pin",
            format!(
                "the kernel puts nothing on isolated processors by itself: name {} in [engine] pin, or boot without isolcpus",
                list(&unused, "them")
            ),
        ));
        self.look_at_siblings();
        self.look_at_speed();
        self.look_at_memory_nodes();
    }

    /// How fast processors run.
    fn look_at_speed(&mut self) {
        let cpus = self.machine.numbered(CPUS, "cpu");
        let governors: BTreeSet<String> =
            cpus.iter().filter_map(|cpu| read(&cpu.join("cpufreq/scaling_governor"))).collect();
        let seen = governors.iter().cloned().collect::<Vec<_>>().join(",");
        self.note(Check::new(
            "cpu_governor",
            governors.iter().all(|governor| governor == "performance"),
            if seen.is_empty() { "not here (a virtual machine hides it)" } else { &seen },
            "performance",
            "cpupower frequency-set -g performance: else a processor that was idle answers late",
        ));
        let is_on = match self.machine.number(&format!("{CPUS}/intel_pstate/no_turbo")) {
            Some(no_turbo) => Some(no_turbo == 0),
            None => self.machine.number(&format!("{CPUS}/cpufreq/boost")).map(|boost| boost != 0),
        };
        self.note(Check::new(
            "turbo",
            is_on != Some(false),
            on_or_off(is_on),
            "on (off while measuring, so that runs compare)",
            "echo 1 > /sys/devices/system/cpu/cpufreq/boost, or 0 > /sys/devices/system/cpu/intel_pstate/no_turbo",
        ));
    }

    /// Reactors that share a core.
    fn look_at_siblings(&mut self) {
        let active = self.machine.number(&format!("{CPUS}/smt/active"));
        let siblings =
            |cpu: &usize| self.machine.read(&format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list"));
        let cores: Vec<String> = self.pin.iter().filter_map(siblings).collect();
        let different: BTreeSet<&String> = cores.iter().collect();
        self.note(Check::new(
            "smt",
            different.len() == cores.len(),
            on_or_off(active.map(|active| active != 0)),
            "off, or [engine] pin names one thread of a core",
            "two reactors on one core share its caches and units: pin them to different cores (thread_siblings_list)",
        ));
    }

    /// Memory that is nearer to some processors than to others.
    fn look_at_memory_nodes(&mut self) {
        let nodes = self.machine.numbered("/sys/devices/system/node", "node").len().max(1);
        let node_of = |cpu: &usize| {
            self.machine.numbered(&format!("{CPUS}/cpu{cpu}"), "node").first().map(|path| name(path))
        };
        let spread: BTreeSet<Option<String>> = self.pin.iter().map(node_of).collect();
        self.note(Check::new(
            "numa",
            nodes == 1 || spread.len() == 1,
            format!("{nodes} memory node{}", if nodes == 1 { "" } else { "s" }),
            "1, or [engine] pin within one of them",
            "pin the reactors to processors of the memory node that the network card is on (/sys/class/net/*/device/numa_node)",
        ));
    }
}

fn on_or_off(is_on: Option<bool>) -> &'static str {
    match is_on {
        Some(true) => "on",
        Some(false) => "off",
        None => NOT_HERE,
    }
}
