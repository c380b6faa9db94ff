//! Files that are whole or not there.
//!
//! # Invariants
//! - Whatever bears a name given here is whole, and on the disk, before that name is there; a write that fails leaves
//!   nothing.
//! - Nothing is replaced unless asked for.

use std::{
    fs::{File, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use tempfile::NamedTempFile;

/// A file that has been written and has no name yet; without one it goes with this.
pub(crate) struct Unnamed(NamedTempFile);

impl Unnamed {
    /// Writes a file in a directory, with the mode that the umask leaves.
    pub(crate) fn write(dir: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let mut file = builder
            .prefix(".amop-")
            .suffix(".part")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(dir)?;
        // Through the file itself, whose errors do not tell the temporary name.
        file.as_file_mut().write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(Self(file))
    }

    /// Gives it a name in its directory; gives it back where that name is taken.
    pub(crate) fn place(self, path: &Path) -> io::Result<Option<Self>> {
        match self.0.persist_noclobber(path) {
            Ok(_) => {}
            Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists => {
                return Ok(Some(Self(taken.file)));
            }
            Err(failed) => return Err(failed.error),
        }
        sync_names(path).inspect_err(|_| {
            // Whether the name stays is not known.
            let _ = std::fs::remove_file(path);
        })?;
        Ok(None)
    }

    /// The same over a file that is there.
    pub(crate) fn replace(self, path: &Path) -> io::Result<()> {
        self.0.persist(path).map_err(|failed| failed.error)?;
        sync_names(path)
    }
}

/// The directory that a path's last part is in.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a new file, with the mode that the umask leaves; [`ErrorKind::AlreadyExists`] if there is one.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    match Unnamed::write(directory(path), bytes, mode)?.place(path)? {
        None => Ok(()),
        Some(_) => Err(ErrorKind::AlreadyExists.into()),
    }
}

/// Has the names in a path's directory written, where its file system can be asked to.
fn sync_names(path: &Path) -> io::Result<()> {
    // One that may not be listed can be written into.
    let Ok(dir) = File::open(directory(path)) else { return Ok(()) };
    dir.sync_all().or_else(|error| match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::Unsupported => Ok(()),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_whole_or_not_there_and_replaces_none() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("link"));
        write_new(&path, b"first", 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for taken in [&path, &link] {
            assert_eq!(write_new(taken, b"second", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert!(!dir.path().join("nowhere").exists());
        assert_eq!(write_new(&dir.path().join("no/b"), b"", 0o600).unwrap_err().kind(), ErrorKind::NotFound);
        Unnamed::write(dir.path(), b"third", 0o600).unwrap().replace(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        drop(Unnamed::write(dir.path(), b"fourth", 0o600).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
