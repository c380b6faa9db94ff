//! Files as payloads, in the form that the Java SDK's demos use (WIRE §2.2): a magic number, the length of
//! the name, the name, the bytes.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

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
pub fn save(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<PathBuf> {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let harmless = |character: &char| !character.is_control();
    let mut base: String = base.chars().filter(harmless).collect();
    while base.len() > NAME_LEN_MAX - 8 {
        base.pop();
    }
    if base.trim_matches(['.', ' ']).is_empty() {
        base = "file".to_owned();
    }
    for number in 0..NAMES_MAX {
        let name = if number == 0 { base.clone() } else { format!("{base}.{number}") };
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(bytes)?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("too many files of this name"))
}

#[cfg(test)]
mod tests {
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
}
