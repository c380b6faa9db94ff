//! Files as payloads, in the form that the Java SDK's demos use (WIRE §2.2): a magic number, the length of
//! the name, the name, the bytes.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::files::Unnamed;

const MAGIC: [u8; 4] = [0xff, 0xff, 0xff, 0x80];
/// Longest name in bytes, as file systems have it.
const NAME_LEN_MAX: usize = 255;
/// Names tried for a file whose own name is taken.
const NAMES_MAX: u32 = 10_000;

/// A payload that carries a file.
pub fn encode(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(MAGIC.len() + 4 + name.len() + bytes.len());
    payload.extend_from_slice(&MAGIC);
    payload.extend_from_slice(&(name.len() as u32).to_be_bytes());
    payload.extend_from_slice(name.as_bytes());
    payload.extend_from_slice(bytes);
    payload
}

/// The name and bytes of a file, if the payload carries one. The name is whatever the sender chose: use
/// [`save`].
pub fn decode(payload: &[u8]) -> Option<(&str, &[u8])> {
    let rest = payload.strip_prefix(&MAGIC)?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (name, bytes) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    Some((std::str::from_utf8(name).ok()?, bytes))
}

/// Writes a received file into `dir` under the last part of its name, never over another: then a number
/// is added. Gives the path.
///
/// When this returns, the whole file is on the disk under that name, or, with an error, nothing of it is there.
pub fn save(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let base = base_name(name);
    let mut file = Unnamed::write(dir, bytes, 0o666)?;
    for number in 0..NAMES_MAX {
        let name = if number == 0 { base.clone() } else { format!("{base}.{number}") };
        let path = dir.join(name);
        match file.place(&path)? {
            None => return Ok(path),
            Some(unnamed) => file = unnamed,
        }
    }
    Err(io::Error::other("too many files of this name"))
}

/// The name under which a received file is saved, which leads to no other directory, and is shown by what lists one: programs
/// obey files that begin with a dot.
fn base_name(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let harmless = |character: &char| !character.is_control();
    let mut base: String = base.chars().filter(harmless).collect();
    base.drain(..base.len() - base.trim_start_matches(['.', ' ']).len());
    while base.len() > NAME_LEN_MAX - 8 {
        base.pop();
    }
    if base.is_empty() {
        base = "file".to_owned();
    }
    base
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind};

    use super::*;

    #[test]
    fn a_file_survives_encoding_and_a_text_is_no_file() {
        assert_eq!(decode(&encode("报告.pdf", b"bytes")), Some(("报告.pdf", &b"bytes"[..])));
        assert_eq!(decode(b"text"), None);
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0x80, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_received_name_leads_nowhere_and_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../../etc/passwd", "/etc/passwd", "..\\passwd", "passwd"] {
            assert_eq!(save(dir.path(), name, b"x").unwrap().parent(), Some(dir.path()));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
        for name in ["..", ".", "", "a/", "\n"] {
            assert!(save(dir.path(), name, b"x").unwrap().file_name().is_some());
        }
    }

    #[test]
    fn no_received_name_hides_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".profile", "../.profile", "\n.profile", " .profile", "..profile", ".", ". ."] {
            let path = save(dir.path(), name, b"x").unwrap();
            assert!(!path.file_name().unwrap().to_str().unwrap().starts_with(['.', ' ']), "{path:?}");
        }
        assert!(dir.path().join("profile").exists(), "else it keeps its name");
    }

    #[test]
    fn names_that_run_out_are_an_error_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"first").unwrap();
        for number in 1..NAMES_MAX {
            fs::hard_link(dir.path().join("a"), dir.path().join(format!("a.{number}"))).unwrap();
        }
        assert!(save(dir.path(), "a", b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), NAMES_MAX as usize);
        assert_eq!(save(dir.path(), "b", b"x").unwrap(), dir.path().join("b"));
    }

    #[test]
    fn a_file_that_cannot_be_saved_leaves_nothing_and_one_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names =
            || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(save(&dir.path().join("gone"), "a", b"x").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(names().is_empty());
        assert_eq!(save(dir.path(), "a", b"first").unwrap(), dir.path().join("a"));
        assert_eq!(save(dir.path(), "a", b"second").unwrap(), dir.path().join("a.1"));
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"first");
        assert_eq!(fs::read(dir.path().join("a.1")).unwrap(), b"second");
        assert_eq!(names().len(), 2, "{:?}", names());
    }
}
