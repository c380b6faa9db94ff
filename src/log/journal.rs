//! The journal of systemd, by its own protocol: one datagram a line, with each field by its name.
//!
//! `tracing-journald` was looked at: whoever logs would send to the journal, and wait for it.

use std::{
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use super::queue::Sink;

/// Where the journal takes lines.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether this stream is what the service manager has connected to the journal: `JOURNAL_STREAM` is its device and inode.
pub(super) fn is_journal(variable: Option<&str>, stream: impl AsFd) -> bool {
    let numbers = variable.and_then(|text| text.split_once(':'));
    let number = |text: &str| text.parse::<u64>().ok();
    let Some((Some(device), Some(inode))) = numbers.map(|(device, inode)| (number(device), number(inode)))
    else {
        return false;
    };
    rustix::fs::fstat(stream).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
}

/// Sends lines to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// That of this machine, if it is there.
    pub(super) fn of_machine() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // Nothing is sent by this. Each line names the address, for the journal may start anew.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket, path: path.to_owned() })
    }
}

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.socket.send_to(line, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Journal {}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::log::line::{Form, Line};

    #[test]
    fn the_journal_is_known_by_the_device_and_inode_of_standard_error() {
        let (stream, _other) = io::pipe().unwrap();
        let stat = rustix::fs::fstat(&stream).unwrap();
        let variable = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(&variable), &stream));
        let other = format!("{}:{}", stat.st_dev, stat.st_ino + 1);
        for variable in [None, Some(""), Some("1"), Some(":"), Some("a:b"), Some(other.as_str())] {
            assert!(!is_journal(variable, &stream), "{variable:?}");
        }
    }

    #[test]
    fn the_journal_gets_priority_message_and_each_field_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(Journal::at(&path).is_err(), "nobody is there");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(&path).unwrap();
        let mut line = Line::new(Form::Journal, Level::WARN, "amop::door");
        line.text("subject", "CN=shop\nPRIORITY=0\n, O=agency");
        line.text("message", "session \u{1b}[2Jcut");
        line.number("session", 3);
        journal.write_all(&line.finish()).unwrap();
        let mut datagram = [0; 4096];
        let len = receiver.recv(&mut datagram).unwrap();
        let said = std::str::from_utf8(&datagram[..len]).unwrap();
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=amop",
                "AMOP_TARGET=amop::door",
                "MESSAGE=session \\u{1b}[2Jcut subject=\"CN=shop\\nPRIORITY=0\\n, O=agency\" session=3",
                "AMOP_SUBJECT=CN=shop\\nPRIORITY=0\\n, O=agency",
                "AMOP_SESSION=3",
            ]
        );
        for (level, priority) in [(Level::ERROR, 3), (Level::INFO, 6), (Level::DEBUG, 7), (Level::TRACE, 7)] {
            let line = Line::new(Form::Journal, level, "amop").finish();
            assert!(line.starts_with(format!("PRIORITY={priority}\n").as_bytes()), "{level}");
        }
    }
}
