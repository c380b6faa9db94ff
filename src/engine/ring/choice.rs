//! Which of the kernel's interfaces the engine is on: io_uring where it can be had, else epoll.

use std::fmt;

use super::{EngineError, Ring};
use crate::supervise;

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoSetting {
    /// io_uring if it can be had, else epoll.
    #[default]
    Auto,
    /// io_uring, or no start.
    Uring,
    /// epoll, wherever it is.
    Epoll,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring.
    Uring,
    /// epoll, at the cost of a system call for each receive and each send.
    Epoll,
}

impl IoBackend {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for IoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl IoSetting {
    /// The values of `[engine] io`.
    pub const NAMES: [&'static str; 3] = ["auto", "io_uring", "epoll"];

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "io_uring" => Some(Self::Uring),
            "epoll" => Some(Self::Epoll),
            _ => None,
        }
    }

    /// What it comes to on this machine, for rings and buffers of such sizes; and why it is not io_uring, if that was tried.
    pub(in crate::engine) fn choose(
        self,
        entries: u32,
        buffers: u16,
        buffer_len: usize,
    ) -> Result<(IoBackend, Option<EngineError>), EngineError> {
        if self == Self::Epoll {
            return Ok((IoBackend::Epoll, None));
        }
        // A filter may let one of its system calls through and not another, so all are tried. On a thread that ends: what the
        // kernel has left to do for a ring interrupts system calls of the thread that made it.
        let tried = supervise::joined_thread("amop-ring", move || {
            Ring::new(IoBackend::Uring, entries, buffers, buffer_len).map(drop)
        });
        let failed = |error| EngineError::from_io("a thread", error);
        let tried = tried.map_err(failed)?.join();
        match tried.unwrap_or_else(|_| Err(failed(std::io::Error::other("it ended at once")))) {
            Ok(()) => Ok((IoBackend::Uring, None)),
            Err(why) if self == Self::Auto && why.is_about_io_uring() => Ok((IoBackend::Epoll, Some(why))),
            Err(why) => Err(why),
        }
    }
}

impl EngineError {
    /// Whether it says that io_uring cannot be had, and nothing of what epoll needs, too.
    fn is_about_io_uring(&self) -> bool {
        matches!(self, Self::Forbidden | Self::OldKernel | Self::Memlock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_io_uring_lacks_is_no_reason_against_epoll_and_what_both_need_is() {
        for why in [EngineError::Forbidden, EngineError::OldKernel, EngineError::Memlock] {
            assert!(why.is_about_io_uring(), "{why}");
        }
        assert!(!EngineError::Files.is_about_io_uring());
    }

    #[test]
    fn every_name_is_a_setting() {
        let settings = IoSetting::NAMES.map(|name| IoSetting::from_name(name).unwrap());
        assert_eq!(settings, [IoSetting::Auto, IoSetting::Uring, IoSetting::Epoll]);
        assert_eq!(IoSetting::from_name("uring"), None);
    }

    #[test]
    fn who_asks_for_epoll_gets_it_where_io_uring_can_be_had_too() {
        assert_eq!(IoSetting::Epoll.choose(16, 16, 4_096).unwrap().0, IoBackend::Epoll);
        assert_eq!(IoSetting::Auto.choose(16, 16, 4_096).unwrap().0, IoBackend::Uring);
    }
}
