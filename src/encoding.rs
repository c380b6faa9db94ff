//! Text files as editors on every system write them: with a byte order mark or without, in UTF-8 or UTF-16, with the line
//! ends of Windows or of old Macs. What cannot be read is refused with the line and the reason.
//!
//! ```text
//!   bytes ─► UTF-16 and marks undone ─┬─► text         passwords, lists of keys
//!                                     ├─► config_text  comments may be in any encoding (GBK)
//!                                     └─► pem          lines without spaces around; what is no PEM may be anything
//! ```
//!
//! Imports nothing of ours.

use zeroize::Zeroizing;

/// Why bytes are no text; whoever saved the file has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// Neither UTF-8 nor UTF-16.
    #[error("this is not UTF-8 text; is it GBK or the like? Save the file as UTF-8")]
    Encoding {
        /// In which line, from 1.
        line: u32,
    },
    /// UTF-16 with half a character, or a pair of surrogates that is none.
    #[error("the file looks like UTF-16 and is damaged here; save it as UTF-8")]
    Utf16 {
        /// In which line, from 1.
        line: u32,
    },
    /// An encoding that nobody should save files in.
    #[error("the file is UTF-32; save it as UTF-8")]
    Utf32,
}

impl NotText {
    /// The line that cannot be read, from 1.
    pub fn line(self) -> u32 {
        match self {
            Self::Encoding { line } | Self::Utf16 { line } => line,
            Self::Utf32 => 1,
        }
    }
}

const MARK: &str = "\u{feff}";

/// The text of a file, with `\n` at the ends of lines.
pub(crate) fn text(bytes: &[u8]) -> Result<Zeroizing<String>, NotText> {
    let bytes = unmarked(bytes)?;
    // Never more than one end of a line longer: it never grows, and so leaves no copies behind.
    let mut out = Zeroizing::new(String::with_capacity(bytes.len() + 1));
    for (index, line) in lines(&bytes).enumerate() {
        let refuse = |_| NotText::Encoding { line: index as u32 + 1 };
        out.push_str(std::str::from_utf8(line).map_err(refuse)?);
        out.push('\n');
    }
    end_like(&bytes, &mut out);
    Ok(out)
}

/// The text of a configuration: lines that begin with `;` or `#` may be in any encoding.
pub(crate) fn config_text(bytes: &[u8]) -> Result<String, NotText> {
    let bytes = unmarked(bytes)?;
    let mut out = String::with_capacity(bytes.len());
    for (index, line) in lines(&bytes).enumerate() {
        match std::str::from_utf8(line) {
            Ok(line) => out.push_str(line),
            Err(_) if matches!(line.trim_ascii_start().first(), Some(b';' | b'#')) => {
                out.push_str(&String::from_utf8_lossy(line));
            }
            Err(_) => return Err(NotText::Encoding { line: index as u32 + 1 }),
        }
        out.push('\n');
    }
    end_like(&bytes, &mut out);
    Ok(out)
}

/// The lines of a PEM file, for a decoder that takes no spaces around them and no marks between joined files.
/// Texts between the blocks may be in any encoding.
pub(crate) fn pem(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotText> {
    let bytes = unmarked(bytes)?;
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len() + 1));
    for line in lines(&bytes) {
        out.extend_from_slice(line.trim_ascii());
        out.push(b'\n');
    }
    Ok(out)
}

/// UTF-8 as far as the file is text, without a mark at its beginning.
fn unmarked(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotText> {
    let (little, big) = (u16::from_le_bytes as fn([u8; 2]) -> u16, u16::from_be_bytes as fn([u8; 2]) -> u16);
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(NotText::Utf32),
        [0xff, 0xfe, rest @ ..] => from_utf16(rest, little),
        [0xfe, 0xff, rest @ ..] => from_utf16(rest, big),
        // Without a mark: what these files begin with is one of the first 128 characters.
        [1..=255, 0, 1..=255, 0, ..] => from_utf16(bytes, little),
        [0, 1..=255, 0, 1..=255, ..] => from_utf16(bytes, big),
        _ => Ok(Zeroizing::new(bytes.strip_prefix(MARK.as_bytes()).unwrap_or(bytes).to_vec())),
    }
}

fn from_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Zeroizing<Vec<u8>>, NotText> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    // Three bytes for a unit at most: this does not grow either.
    let mut out = Zeroizing::new(Vec::with_capacity(3 * pairs.len()));
    let mut line = 1;
    for character in char::decode_utf16(pairs.iter().map(|&pair| unit(pair))) {
        let character = character.map_err(|_| NotText::Utf16 { line })?;
        line += u32::from(character == '\n');
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    if rest.is_empty() { Ok(out) } else { Err(NotText::Utf16 { line }) }
}

/// The lines, whichever way they end, without marks at their beginnings, as joining files leaves them.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    let lines = std::iter::from_fn(move || {
        let bytes = rest.filter(|bytes| !bytes.is_empty())?;
        let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(end) = end else {
            rest = None;
            return Some(bytes);
        };
        let after = if bytes[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        rest = Some(&bytes[after..]);
        Some(&bytes[..end])
    });
    lines.map(|line| line.strip_prefix(MARK.as_bytes()).unwrap_or(line))
}

/// Takes the last line's end away where the file has none.
fn end_like(bytes: &[u8], out: &mut String) {
    if !matches!(bytes.last(), Some(b'\n' | b'\r')) {
        out.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same text as editors save it.
    fn saved(text: &str) -> Vec<(&'static str, Vec<u8>)> {
        let utf16 = |unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
        vec![
            ("UTF-8", text.into()),
            ("UTF-8 with a mark", [MARK.as_bytes(), text.as_bytes()].concat()),
            ("Windows", [MARK.as_bytes(), text.replace('\n', "\r\n").as_bytes()].concat()),
            ("old Macs", text.replace('\n', "\r").into()),
            ("UTF-16, little", [&[0xff, 0xfe], little.as_slice()].concat()),
            ("UTF-16, big", [&[0xfe, 0xff], big.as_slice()].concat()),
            ("UTF-16, little, without a mark", little),
            ("UTF-16, big, without a mark", big),
        ]
    }

    #[test]
    fn a_text_is_the_same_however_it_was_saved() {
        for written in ["[p2p]\n; 节点 ☃ 🦀\nnode.0=a:1\n\n", "-----BEGIN X-----\nAA==", "[a]"] {
            for (how, bytes) in saved(written) {
                assert_eq!(config_text(&bytes).unwrap(), written, "{how}");
                assert_eq!(*text(&bytes).unwrap(), written, "{how}");
            }
        }
        assert_eq!(config_text(b"").unwrap(), "");
    }

    #[test]
    fn comments_may_be_in_any_encoding_and_other_lines_are_named() {
        // GBK of two Chinese characters.
        let gbk = [b"[p2p]\n  ; \xbd\xda\xb5\xe3\nlisten_port=1\n".as_slice(), b"#\xbd\xda\n"].concat();
        assert!(config_text(&gbk).unwrap().contains("\nlisten_port=1\n"));
        assert_eq!(text(&gbk), Err(NotText::Encoding { line: 2 }));
        assert_eq!(config_text(b"[chain]\nid=\xbd\xda\n"), Err(NotText::Encoding { line: 2 }));
        assert_eq!(config_text(b"\xff\xfea\0\n\0b"), Err(NotText::Utf16 { line: 2 }));
        assert_eq!(config_text(b"\xff\xfe\x00\xd8a\0"), Err(NotText::Utf16 { line: 1 }));
        assert_eq!(config_text(b"\xff\xfe\0\0a\0\0\0"), Err(NotText::Utf32));
    }

    #[test]
    fn blocks_of_a_pem_file_stand_at_the_beginning_of_their_lines() {
        let joined =
            [b"\xbd\xda\r\n  -----BEGIN A----- \r\n".as_slice(), b"AA\t\r\n\xef\xbb\xbf-----END A-----"];
        let expected = b"\xbd\xda\n-----BEGIN A-----\nAA\n-----END A-----\n";
        assert_eq!(*pem(&joined.concat()).unwrap(), expected);
        for (how, bytes) in saved("-----BEGIN A-----\nAA\n-----END A-----\n") {
            assert_eq!(*pem(&bytes).unwrap(), b"-----BEGIN A-----\nAA\n-----END A-----\n", "{how}");
        }
    }
}
