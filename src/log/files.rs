//! Log files, as FISCO BCOS lays them out: `log_2026113018.31.log` in a directory, a new one each hour and where one is full.
//! Their names are in UTC, as the times of their lines. Only the thread of the log comes here once they are open.
//!
//! ```text
//!   line ─► is the file full, or of another hour? ─► the next one; of those that are too many the oldest go
//!   SIGHUP ─► the file is opened again by its name, for whoever has moved it away
//! ```
//!
//! # Invariants
//! - A file ends with a whole line, unless what it is on is full.
//! - Where no next file can be opened, lines go on to the one that is open.
//! - No file is removed but those that are named so and begin as a line of ours does.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::{queue::Sink, tell};
use crate::escape::shown_path;

/// Files of one minute; with more of them lines go on to the last.
const OF_ONE_MINUTE_MAX: u32 = 10_000;
/// After a file could not be opened it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Who may read them: their owner, and a group that an operator is in.
const MODE: u32 = 0o640;
/// How lines of ours begin, in either form.
const BEGINNINGS: [&[u8]; 2] = [b"time=", b"{\"timestamp\""];

const MINUTE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day][hour].[minute]");

/// Set when the file is to be opened again.
static REOPEN: AtomicBool = AtomicBool::new(false);
/// Files that were removed, because there were too many.
static REMOVED: AtomicU64 = AtomicU64::new(0);

/// Where log files are, and how many of what size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSettings {
    /// Their directory, which is made.
    pub directory: PathBuf,
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Files that are kept.
    pub files_max: usize,
    /// Whether each hour has a file of its own.
    pub by_hour: bool,
}

/// Whether the directory, or the nearest above it that is there, can be written to.
pub(super) fn check(directory: &Path) -> io::Result<()> {
    for above in directory.ancestors().filter(|above| !above.as_os_str().is_empty()) {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        match rustix::fs::access(above, access) {
            Ok(()) if above.is_dir() => return Ok(()),
            Ok(()) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Has the thread of the log open its file again by the next line, for whoever has moved it away.
pub(crate) fn reopen() {
    REOPEN.store(true, Relaxed);
}

/// Files that were removed, because there were too many.
pub(super) fn removed() -> u64 {
    REMOVED.load(Relaxed)
}

/// The name of a log file: the minute in which it was begun, and which one of that minute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    minute: String,
    number: u32,
}

impl Name {
    fn at(now: OffsetDateTime, number: u32) -> Self {
        Self { minute: now.format(MINUTE).unwrap_or_default(), number }
    }

    fn parse(name: &str) -> Option<Self> {
        let middle = name.strip_prefix("log_")?.strip_suffix(".log")?;
        let (hour, rest) = middle.split_once('.')?;
        let (minute, number) = rest.split_once('.').unwrap_or((rest, "0"));
        let are_digits =
            |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let is_name = are_digits(hour, 10) && are_digits(minute, 2) && are_digits(number, number.len());
        let number = number.parse().ok().filter(|_| is_name)?;
        Some(Self { minute: format!("{hour}.{minute}"), number })
    }

    fn file(&self) -> String {
        match self.number {
            0 => format!("log_{}.log", self.minute),
            number => format!("log_{}.{number}.log", self.minute),
        }
    }

    /// Year, month, day and hour.
    fn hour(&self) -> &str {
        self.minute.split_once('.').map_or("", |(hour, _)| hour)
    }
}

/// The files, of which one is open.
pub(super) struct Files {
    settings: FileSettings,
    name: Name,
    file: File,
    len: u64,
    /// When a next file is tried, after one could not be opened.
    retry_at: Option<Instant>,
    is_failing: bool,
}

impl Files {
    /// Makes the directory, and opens a file. Its name is for whoever looks for the log.
    pub(super) fn open(settings: FileSettings) -> io::Result<Self> {
        Self::open_at(settings, OffsetDateTime::now_utc())
    }

    fn open_at(settings: FileSettings, now: OffsetDateTime) -> io::Result<Self> {
        fs::create_dir_all(&settings.directory)?;
        let (name, file, len) = open_next(&settings, now, 0)?;
        let files = Self { settings, name, file, len, retry_at: None, is_failing: false };
        files.remove_oldest();
        Ok(files)
    }

    /// The file that is open.
    pub(super) fn path(&self) -> PathBuf {
        self.settings.directory.join(self.name.file())
    }

    /// What a line of so many bytes goes to is open after this, if it can be; says whether it is another file than before.
    fn before_line_at(&mut self, len: usize, now: OffsetDateTime, is_asked: bool) -> bool {
        let is_full = self.len > 0 && self.len + len as u64 > self.settings.file_bytes_max;
        let is_over = self.settings.by_hour && Name::at(now, 0).hour() != self.name.hour();
        if is_asked && !is_full && !is_over && fs::exists(self.path()).unwrap_or(false) {
            // It is still there, or somebody has put another one in its place.
            if let Ok((file, len)) = open(&self.path()) {
                (self.file, self.len) = (file, len);
                return len == 0;
            }
        }
        let is_due = is_asked || is_full || is_over;
        is_due && self.retry_at.is_none_or(|at| at <= Instant::now()) && self.open_next(len as u64, now)
    }

    fn open_next(&mut self, len: u64, now: OffsetDateTime) -> bool {
        match open_next(&self.settings, now, len) {
            Ok((name, file, len)) => {
                (self.name, self.file, self.len, self.retry_at) = (name, file, len, None);
                self.remove_oldest();
                true
            }
            Err(error) => {
                if self.retry_at.is_none() {
                    let directory = shown_path(&self.settings.directory);
                    tell(&format!(
                        "amop: no further log file can be opened in {directory}: {error}; lines go on to the one before"
                    ));
                }
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
                false
            }
        }
    }

    /// Removes the oldest files that are too many. What cannot be removed stays.
    fn remove_oldest(&self) {
        let Ok(entries) = fs::read_dir(&self.settings.directory) else { return };
        let path = |name: &Name| self.settings.directory.join(name.file());
        let names = entries.flatten().filter_map(|entry| Name::parse(entry.file_name().to_str()?));
        let mut names: Vec<Name> = names.filter(|name| *name != self.name && is_ours(&path(name))).collect();
        names.sort();
        let too_many = (names.len() + 1).saturating_sub(self.settings.files_max.max(1));
        for name in &names[..too_many] {
            if fs::remove_file(path(name)).is_ok() {
                REMOVED.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The first file of this minute that has room for a line, made if need be.
fn open_next(settings: &FileSettings, now: OffsetDateTime, line_len: u64) -> io::Result<(Name, File, u64)> {
    for number in 0..OF_ONE_MINUTE_MAX {
        let name = Name::at(now, number);
        let path = settings.directory.join(name.file());
        let len = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if len == 0 || len + line_len < settings.file_bytes_max {
            let (file, len) = open(&path)?;
            return Ok((name, file, len));
        }
    }
    Err(io::Error::other("there are too many files of this minute"))
}

/// With how much is in it.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

/// Whether a file begins as our lines do: FISCO BCOS names its own likewise.
fn is_ours(path: &Path) -> bool {
    let mut beginning = Vec::new();
    let longest = BEGINNINGS.map(<[u8]>::len).into_iter().max().unwrap_or_default() as u64;
    let read = File::open(path).and_then(|file| file.take(longest).read_to_end(&mut beginning));
    read.is_ok() && (beginning.is_empty() || BEGINNINGS.iter().any(|one| beginning.starts_with(one)))
}

impl Write for Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        match &written {
            Ok(len) => {
                self.len += *len as u64;
                self.is_failing = false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // Once for all lines that are lost by it.
                if !std::mem::replace(&mut self.is_failing, true) {
                    let path = self.path();
                    tell(&format!(
                        "amop: the log cannot be written to {}: {error}; lines are lost, and counted",
                        shown_path(&path)
                    ));
                }
            }
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Files {
    fn before_line(&mut self, len: usize) -> bool {
        self.before_line_at(len, OffsetDateTime::now_utc(), REOPEN.swap(false, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-30 18:31:20 UTC);
    const LINE: &str = "time=2026 msg=x\n";

    struct Rig {
        directory: tempfile::TempDir,
        files: Files,
    }

    fn settings(directory: &Path, lines: u64, files_max: usize) -> FileSettings {
        let file_bytes_max = lines * LINE.len() as u64;
        FileSettings { directory: directory.to_owned(), file_bytes_max, files_max, by_hour: true }
    }

    fn rig(lines: u64, files_max: usize) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open_at(settings(&directory.path().join("a/log"), lines, files_max), NOW).unwrap();
        Rig { directory, files }
    }

    impl Rig {
        fn log(&mut self, now: OffsetDateTime) {
            self.files.before_line_at(LINE.len(), now, false);
            self.files.write_all(LINE.as_bytes()).unwrap();
        }

        fn dir(&self) -> PathBuf {
            self.directory.path().join("a/log")
        }

        /// Lines of each file.
        fn there(&self) -> Vec<(String, usize)> {
            let read = |entry: fs::DirEntry| {
                let lines = fs::read_to_string(entry.path()).unwrap().lines().count();
                (entry.file_name().into_string().unwrap(), lines)
            };
            let mut all: Vec<_> =
                fs::read_dir(self.dir()).unwrap().map(|entry| read(entry.unwrap())).collect();
            all.sort();
            all
        }
    }

    fn named(list: &[(&str, usize)]) -> Vec<(String, usize)> {
        list.iter().map(|(name, lines)| ((*name).to_owned(), *lines)).collect()
    }

    #[test]
    fn a_full_file_is_followed_by_the_next_one_and_an_hour_by_that_of_the_next() {
        let mut rig = rig(3, 100);
        for _ in 0..7 {
            rig.log(NOW);
        }
        let full =
            [("log_2026113018.31.1.log", 3), ("log_2026113018.31.2.log", 1), ("log_2026113018.31.log", 3)];
        assert_eq!(rig.there(), named(&full));
        rig.log(datetime!(2026-11-30 18:59:59 UTC));
        assert_eq!(rig.there()[1].1, 2, "the hour is not over");
        rig.log(datetime!(2026-11-30 19:00:00 UTC));
        assert_eq!(rig.there()[3], ("log_2026113019.00.log".to_owned(), 1));
        rig.files.settings.by_hour = false;
        rig.log(datetime!(2026-12-01 20:00:00 UTC));
        assert_eq!(rig.there()[3].1, 2);
    }

    #[test]
    fn so_many_files_are_kept_and_none_of_others_is_touched() {
        let mut rig = rig(1, 3);
        let of_others = [
            // Of a FISCO BCOS node that was here before, and of people.
            ("log_2026113018.01.log", "info|2026-11-30 18:01:00.000001|x\n"),
            ("log_2026113018.02.log.gz", "x\n"),
            ("log_2026113018.2.log", "time=x\n"),
            ("log_20261130180.02.log", "time=x\n"),
            ("log_2026113018.02.x.log", "time=x\n"),
            ("stat_2026113018.02.log", "time=x\n"),
        ];
        for (name, text) in of_others {
            fs::write(rig.dir().join(name), text).unwrap();
        }
        for minute in 31..41 {
            rig.log(NOW.replace_minute(minute).unwrap());
        }
        let mut expected = named(&of_others.map(|(name, _)| (name, 1)));
        expected.extend(named(&[
            ("log_2026113018.38.log", 1),
            ("log_2026113018.39.log", 1),
            ("log_2026113018.40.log", 1),
        ]));
        expected.sort();
        assert_eq!(rig.there(), expected);
        assert!(removed() >= 7);
    }

    #[test]
    fn a_start_goes_on_with_the_file_of_its_minute() {
        let mut first = rig(3, 9);
        first.log(NOW);
        first.files = Files::open_at(first.files.settings.clone(), NOW).unwrap();
        first.log(NOW);
        assert_eq!(first.there(), named(&[("log_2026113018.31.log", 2)]));
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew_when_that_is_asked_and_one_that_is_there_goes_on() {
        let mut rig = rig(10, 9);
        rig.log(NOW);
        rig.files.before_line_at(LINE.len(), NOW, true);
        rig.log(NOW);
        assert_eq!(rig.there(), named(&[("log_2026113018.31.log", 2)]));
        fs::rename(rig.files.path(), rig.dir().join("moved")).unwrap();
        rig.log(NOW);
        assert_eq!(rig.there(), named(&[("moved", 3)]));
        rig.files.before_line_at(LINE.len(), NOW, true);
        rig.log(NOW);
        assert_eq!(rig.there(), named(&[("log_2026113018.31.log", 1), ("moved", 3)]));
    }

    #[test]
    fn where_no_next_file_can_be_opened_lines_go_on_to_the_one_before() {
        let mut rig = rig(1, 9);
        rig.log(NOW);
        let moved = rig.directory.path().join("moved");
        fs::rename(rig.dir(), &moved).unwrap();
        // A file is in the way of the directory.
        fs::write(rig.dir(), "").unwrap();
        rig.log(NOW);
        rig.log(NOW);
        assert_eq!(fs::read_to_string(moved.join("log_2026113018.31.log")).unwrap().lines().count(), 3);
        fs::remove_file(rig.dir()).unwrap();
        fs::create_dir(rig.dir()).unwrap();
        rig.files.retry_at = Some(Instant::now());
        rig.log(NOW);
        assert_eq!(rig.there(), named(&[("log_2026113018.31.log", 1)]));
    }
}
