//! How the kernel treats connections, and time.

use super::{Check, Doctor, NOT_HERE};
use crate::{engine::time_sync::is_clock_synchronised, node::BACKLOG};

/// The largest buffers that the kernel may give a connection by itself: 1 Gbit/s over 32 ms is 4 MiB.
const SOCKET_BUFFER_WANTED: u64 = 4 << 20;
/// Congestion control that is well known, and clocks that are read without a system call.
const CONTROLS_WANTED: [&str; 2] = ["cubic", "bbr"];
const CLOCKS_WANTED: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

impl Doctor {
    pub(super) fn look_at_network(&mut self) {
        let backlog = u64::from(BACKLOG.unsigned_abs());
        let advice = format!(
            "the kernel cuts the listeners' backlog of {backlog} to it, so that connections are dropped when many come at once"
        );
        self.sysctl_at_least("net.core.somaxconn", backlog, &advice);
        let advice = "connections that are half open, when many come at once";
        self.sysctl_at_least("net.ipv4.tcp_max_syn_backlog", backlog, advice);
        for (key, what) in [("net.ipv4.tcp_rmem", "received"), ("net.ipv4.tcp_wmem", "sent")] {
            self.look_at_buffers(key, what);
        }
        let key = "net.ipv4.tcp_slow_start_after_idle";
        let idle = self.machine.sysctl(key);
        let check = Check::new(
            key,
            matches!(idle.as_deref(), None | Some("0")),
            idle.as_deref().unwrap_or(NOT_HERE),
            "0",
            "with 1 a link that was quiet for a moment begins slowly again, which costs round trips over a long way",
        );
        self.note_sysctl(key, "0", check);
        let control = self.machine.sysctl("net.ipv4.tcp_congestion_control");
        self.note(Check::new(
            "net.ipv4.tcp_congestion_control",
            control.as_deref().is_none_or(|control| CONTROLS_WANTED.contains(&control)),
            control.as_deref().unwrap_or(NOT_HERE),
            CONTROLS_WANTED.join(" or "),
            "what is in use everywhere else is best known: cubic, or bbr where links lose packets",
        ));
    }

    /// Least, usual and largest buffers of a connection.
    fn look_at_buffers(&mut self, key: &str, what: &str) {
        let seen = self.machine.sysctl(key).unwrap_or_default();
        let fields: Vec<&str> = seen.split_whitespace().collect();
        let largest = fields.get(2).and_then(|field| field.parse().ok()).unwrap_or(SOCKET_BUFFER_WANTED);
        let check = Check::new(
            key,
            largest >= SOCKET_BUFFER_WANTED,
            if fields.is_empty() { NOT_HERE.to_owned() } else { fields.join(" ") },
            format!("the third at least {SOCKET_BUFFER_WANTED}"),
            format!(
                "bytes that may be {what} and not taken yet bound a link's rate over a long way: rate × round trip. The node sets \
                 no buffer sizes itself, so net.core.rmem_max and wmem_max do not matter"
            ),
        );
        match fields.as_slice() {
            [least, usual, ..] => {
                self.note_sysctl(key, &format!("{least} {usual} {SOCKET_BUFFER_WANTED}"), check);
            }
            _ => self.note(check),
        }
    }

    pub(super) fn look_at_time(&mut self) {
        let clock = self.machine.read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        self.note(Check::new(
            "clock_source",
            clock.as_deref().is_none_or(|clock| CLOCKS_WANTED.contains(&clock)),
            clock.as_deref().unwrap_or(NOT_HERE),
            CLOCKS_WANTED.join(" or "),
            "the node reads the time several times a turn, and other sources take a system call and a microsecond each: see \
             dmesg for why the kernel does not trust tsc",
        ));
        if self.machine.is_real() {
            let synchronised = is_clock_synchronised();
            self.note(Check::new(
                "time_synchronised",
                synchronised.unwrap_or(true),
                match synchronised {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => NOT_HERE,
                },
                "yes",
                "certificates are valid by the clock, and a node whose clock goes back begins a new incarnation: run chrony or \
                 another NTP client",
            ));
        }
    }
}
