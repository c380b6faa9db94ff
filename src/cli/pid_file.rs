//! Files by which scripts know a running node: its process id, and that it is up.
//!
//! # Invariants
//! - The pid file is locked, and held open, as long as the node lives: whoever holds it open is the node, whatever its
//!   number was before.
//! - Both files go when the node ends; what is left of one that was killed means nothing.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::escape::shown_path;

/// How long a node that was just killed may take until its last thread has let go of the file.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A node's pid file, until this is dropped.
pub(super) struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl PidFile {
    /// Takes the file for this process; an error if another one has it.
    pub(super) fn take(path: &Path) -> Result<Self, String> {
        let name = shown_path(path);
        let failed = |error: io::Error| format!("{name}: {error}");
        let end = Instant::now() + RELEASED_WITHIN;
        loop {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
            match file.try_lock() {
                // Not if one that just ended has removed what was opened here.
                Ok(()) if is_at(&file, path) => {
                    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                    written.map_err(failed)?;
                    return Ok(Self { path: path.to_owned(), _file: file });
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if Instant::now() > end {
                return Err(format!("{name}: a node that runs has this file: stop it first"));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Still locked, so that it is nobody else's.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The file that is there while a node is up; it holds its process id. Made with the pid file held.
pub(super) struct UpFile {
    path: PathBuf,
}

impl UpFile {
    /// The node is not up yet: removes what one left that was killed.
    pub(super) fn not_yet(path: &Path) -> Result<Self, String> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", shown_path(path)))
            }
            Ok(()) | Err(_) => Ok(Self { path: path.to_owned() }),
        }
    }

    /// The node is up.
    pub(super) fn make(&self) -> Result<(), String> {
        let made = fs::write(&self.path, format!("{}\n", std::process::id()));
        made.map_err(|error| format!("{}: {error}", shown_path(&self.path)))
    }
}

impl Drop for UpFile {
    fn drop(&mut self) {
        // It may not have been made.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_one_process_at_a_time_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("amop.pid");
        // What was left of one that was killed.
        fs::write(&path, "12345678\n").unwrap();
        let taken = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let refused = PidFile::take(&path).err().unwrap();
        assert!(refused.contains("stop it first"), "{refused}");
        drop(taken);
        assert!(!path.exists());
        assert!(PidFile::take(&path).is_ok());
    }

    #[test]
    fn a_node_that_is_not_up_yet_does_not_look_so_by_what_an_earlier_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("amop.up");
        fs::write(&path, "1\n").unwrap();
        let up = UpFile::not_yet(&path).unwrap();
        assert!(!path.exists());
        up.make().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(up);
        assert!(!path.exists());
    }
}
