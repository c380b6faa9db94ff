//! Whether the kernel's clock is kept right by something, as the kernel has it.

/// Whether an NTP client or the like synchronises the clock; `None` if the kernel does not say.
pub fn is_clock_synchronised() -> Option<bool> {
    // SAFETY: all its fields are integers, and with no mode set the kernel changes nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into the `timex` that it is given, and keeps nothing.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    (state >= 0).then_some(state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whether_its_clock_is_synchronised() {
        assert!(is_clock_synchronised().is_some());
    }
}
