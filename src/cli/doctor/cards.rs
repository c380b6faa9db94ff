//! Network cards: how many queues they have, and which processors these interrupt.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    Check, Doctor,
    machine::{name, processors},
};

impl Doctor {
    pub(super) fn look_at_cards(&mut self) {
        for path in self.machine.entries("/sys/class/net", "") {
            // Others are no hardware.
            if path.join("device").exists() {
                self.look_at_queues(&path);
                self.look_at_interrupts(&path);
            }
        }
    }

    fn look_at_queues(&mut self, path: &Path) {
        let card = name(path);
        let queues = fs::read_dir(path.join("queues")).into_iter().flatten().filter_map(Result::ok);
        let queues = queues.filter(|queue| name(&queue.path()).starts_with("rx-")).count();
        let wanted = self.reactors.min(self.online.len());
        let most = self.machine.is_real().then(|| queues_max(&card)).flatten();
        let more = most.map_or(String::new(), |most| format!(", ethtool -l: up to {most}"));
        self.note(Check::new(
            &format!("card_queues.{card}"),
            queues >= wanted,
            format!("{queues} receive queues{more}"),
            format!("at least {wanted} (reactors)"),
            format!(
                "ethtool -L {card} combined {wanted}; a card with fewer queues has one processor take in everything: spread it with \
                 /sys/class/net/{card}/queues/rx-0/rps_cpus"
            ),
        ));
    }

    fn look_at_interrupts(&mut self, path: &Path) {
        let card = name(path);
        // It may be known by its name, or by that of the virtual device that it is.
        let device = fs::canonicalize(path.join("device")).map(|device| name(&device)).unwrap_or_default();
        let interrupts = self.machine.read("/proc/interrupts").unwrap_or_default();
        let lists: Vec<String> = interrupts
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .filter(|(number, rest)| {
                number.bytes().all(|byte| byte.is_ascii_digit()) && has_word(rest, &[&card, &device])
            })
            .filter_map(|(number, _)| self.machine.read(&format!("/proc/irq/{number}/smp_affinity_list")))
            .filter(|list| !list.is_empty())
            .collect();
        let targets: BTreeSet<usize> = lists.iter().flat_map(|list| processors(list)).collect();
        let is_one = lists.len() > 1 && self.online.len() > 1 && targets.len() == 1;
        let seen: BTreeSet<&str> = lists.iter().map(String::as_str).collect();
        let seen = seen.into_iter().collect::<Vec<_>>().join("; ");
        self.note(Check::new(
            &format!("card_interrupts.{card}"),
            !is_one,
            if seen.is_empty() { "none found" } else { &seen },
            "more than one processor",
            "all queues interrupt one processor: run irqbalance, or write /proc/irq/N/smp_affinity_list",
        ));
    }
}

/// Whether one of the words is in a text, and no part of a longer one.
fn has_word(text: &str, words: &[&str]) -> bool {
    let mut parts = text.split(|character: char| !character.is_alphanumeric() && character != '_');
    parts.any(|part| !part.is_empty() && words.contains(&part))
}

/// How many queues a card can have, where `ethtool` is there and tells.
fn queues_max(card: &str) -> Option<u64> {
    let mut ethtool = Command::new("ethtool");
    let told = ethtool.args(["-l", card]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let counts = text.lines().filter_map(|line| {
        let (what, count) = line.split_once(':')?;
        ["RX", "Combined"].contains(&what.trim()).then(|| count.trim().parse().ok()).flatten()
    });
    counts.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_known_by_its_whole_name() {
        assert!(has_word(" 1 2 PCI-MSI eth0-rx-0", &["eth0", ""]));
        assert!(!has_word(" 1 2 PCI-MSI veth0", &["eth0", ""]));
    }
}
