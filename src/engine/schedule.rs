//! How a thread shares its processor with others: reactors before all else, the door behind them.
//!
//! What the kernel refuses changes how soon a thread gets a processor, and nothing else; so it is not an error.

use std::{num::NonZeroU64, time::Duration};

/// How long a thread that answers messages may run before others get their turn. Linux lets a thread that wakes up
/// go before one that has asked for longer turns (6.12 and newer; older kernels take no notice).
const SHORT_TURN: Duration = Duration::from_micros(100);
/// How much the door's thread gives way.
const WORK_NICE: i32 = 10;

/// What a thread does, and so when it is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers messages within microseconds of their coming, and then sleeps.
    Messages,
    /// Computes for a millisecond at a time, as handshakes do. It gives way, and gets a tenth of a busy processor.
    Work,
    /// Runs where nothing else would, and may starve.
    Background,
}

/// By how much a thread that answers messages may be woken later than it asked for. Linux takes 50 µs where nobody asks: as much as
/// reactors wait at most to gather messages.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// Says what the thread that calls does from here on. Threads that it starts take after it until they say otherwise. A
/// policy that the process was started with stays.
pub fn set_role(role: Role) {
    let (policy, nice, turn) = match role {
        Role::Messages => (libc::SCHED_NORMAL, None, SHORT_TURN),
        Role::Work => (libc::SCHED_NORMAL, Some(WORK_NICE), Duration::ZERO),
        Role::Background => (libc::SCHED_IDLE, None, Duration::ZERO),
    };
    // `None` is what it was created with.
    let slack = (role == Role::Messages).then_some(TIMER_SLACK_NS);
    if let Err(error) = rustix::thread::set_current_timer_slack(slack) {
        tracing::debug!(?role, %error, "the kernel refuses to wake a thread in time");
    }
    // SAFETY: it only gives a number.
    let is_usual = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_NORMAL;
    if role != Role::Background && !is_usual {
        // Whoever started us has chosen, real time perhaps.
        return;
    }
    // Of this thread alone, as Linux has it.
    let own_nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: 0,
        // Who was started with less than this keeps it.
        sched_nice: nice.unwrap_or(own_nice).max(own_nice),
        sched_priority: 0,
        sched_runtime: turn.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `attributes`, which live, and keeps nothing.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result != 0 {
        tracing::debug!(?role, error = %std::io::Error::last_os_error(), "the kernel refuses to schedule a thread so");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> libc::sched_attr {
        let len = size_of::<libc::sched_attr>();
        // SAFETY: all its fields are integers.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most `len` bytes.
        let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, len, 0) };
        assert_eq!(result, 0);
        attributes
    }

    #[test]
    fn a_thread_gets_the_policy_and_the_niceness_of_what_it_does() {
        std::thread::spawn(|| {
            let (before, slack) = (own(), rustix::thread::current_timer_slack().unwrap());
            set_role(Role::Messages);
            assert_eq!(rustix::thread::current_timer_slack().unwrap(), TIMER_SLACK_NS.get());
            assert_eq!((own().sched_policy, own().sched_nice), (before.sched_policy, before.sched_nice));
            set_role(Role::Work);
            assert_eq!(rustix::thread::current_timer_slack().unwrap(), slack);
            assert_eq!(own().sched_nice, before.sched_nice.max(WORK_NICE));
            set_role(Role::Background);
            assert_eq!(own().sched_policy, libc::SCHED_IDLE as u32);
            set_role(Role::Messages);
            assert_eq!(own().sched_policy, libc::SCHED_IDLE as u32, "a policy that is there stays");
        })
        .join()
        .unwrap();
    }
}
