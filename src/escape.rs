//! What others wrote, made fit for terminals and logs: names, subjects, topics, texts of peers may hold any character.
//!
//! Imports nothing of ours; every room may import it.
//!
//! # Invariants
//! - Nothing that is shown moves a terminal's cursor or changes the direction of text. It ends no line, but where
//!   [`shown_lines`] is to keep the lines of a text.
//! - What is shown can be told from what it stands for: a backslash is shown as two, unless the text is escaped already
//!   ([`shown_lines`], [`shown_json`]).

use std::{
    fmt::{self, Display, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// Makes text fit for a terminal or a line of a log: characters that are not seen, or that control how others are
/// seen, are written as `\u{…}`, `\n` and so on, and a backslash as two.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // Strings take everything.
    let _ = write_shown(&mut shown, text);
    shown
}

/// The same for a text of several lines that is escaped in part already: line ends and backslashes stay.
pub(crate) fn shown_lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| line.split('\\').map(shown).collect::<Vec<_>>().join("\\"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The same for bytes that may be text: those that are none are shown as `\x…`.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let _ = write_shown(&mut text, chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The same for the name of a file.
pub(crate) fn shown_path(path: &Path) -> String {
    shown_bytes(path.as_os_str().as_bytes())
}

/// A value whose text is shown as by [`shown`].
pub(crate) struct Shown<T>(pub T);

impl<T: Display> Display for Shown<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(formatter), "{}", self.0)
    }
}

/// Escapes, as [`shown`] does, what is written through it.
pub(crate) struct Escaping<'a, W: Write + ?Sized>(pub &'a mut W);

impl<W: Write + ?Sized> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_shown(self.0, text)
    }
}

fn write_shown(out: &mut (impl Write + ?Sized), text: &str) -> fmt::Result {
    let mut escaped = text.escape_debug();
    while let Some(character) = escaped.next() {
        if character != '\\' {
            out.write_char(character)?;
            continue;
        }
        match escaped.next() {
            // Quotes need no escape here.
            Some(quote @ ('"' | '\'')) => out.write_char(quote)?,
            other => {
                out.write_char('\\')?;
                other.map_or(Ok(()), |other| out.write_char(other))?;
            }
        }
    }
    Ok(())
}

/// The same for a whole JSON text, which it stays.
pub(crate) fn shown_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        let is_plain = character.is_ascii() && character != '\u{7f}';
        if is_plain || character.escape_debug().len() == 1 {
            shown.push(character);
        } else {
            // What is beyond ASCII is inside of strings.
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

/// Text as a quoted string of JSON and of logfmt, made fit to be seen.
pub(crate) fn quoted(text: &str) -> String {
    shown_json(&serde_json::Value::from(text).to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Whatever is or may become a control, a break of lines, or a change of direction.
    pub(crate) const HOSTILE: &str = "\u{1b}[2J\u{7}\r\n\t\0\u{7f}\u{9b}31m\u{85}\u{2028}\u{2029}\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{202a}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{e0001}\u{e000}\u{fff9}";

    /// Every control, change of direction, and end of a line.
    pub(crate) fn hostile_characters() -> impl Iterator<Item = char> {
        let controls = ('\0'..'\u{20}').chain('\u{7f}'..'\u{a0}');
        let directions =
            ('\u{200b}'..='\u{200f}').chain('\u{202a}'..='\u{202e}').chain('\u{2060}'..='\u{206f}');
        let others = ['\u{61c}', '\u{2028}', '\u{2029}', '\u{feff}', '\u{ad}'];
        controls.chain(directions).chain(others)
    }

    #[test]
    fn no_control_no_change_of_direction_and_no_end_of_a_line_is_shown() {
        for hostile in hostile_characters() {
            for text in [format!("{hostile}"), format!("a{hostile}b")] {
                assert!(!shown(&text).contains(hostile), "{hostile:?}");
                assert!(!quoted(&text).contains(hostile), "{hostile:?}");
                assert_eq!(serde_json::from_str::<String>(&quoted(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn nothing_that_controls_a_terminal_is_shown_as_it_is() {
        let text = shown(HOSTILE);
        assert!(text.is_ascii() && !text.contains(|character: char| character.is_ascii_control()), "{text}");
        assert_eq!(Shown(HOSTILE).to_string(), text);
        assert_eq!(shown("a\u{202e}\"b'\\n\n"), "a\\u{202e}\"b'\\\\n\\n");
        for plain in ["payments/eu-1", "链上信使协议", "Zahlungen für Ö", "платежи", "😀 a"]
        {
            assert_eq!(shown(plain), plain);
        }
    }

    #[test]
    fn json_stays_the_same_json_without_characters_that_are_not_seen() {
        let text = format!("{HOSTILE}\"\\链😀");
        let json = serde_json::to_string(&[&text]).unwrap();
        let safe = shown_json(&json);
        assert!(safe.replace(['链', '😀'], "").is_ascii() && !safe.contains('\u{7f}'), "{safe}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [text]);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_without_loss() {
        assert_eq!(shown_bytes(b"pay\xff\xfe \\xff\n"), "pay\\xff\\xfe \\\\xff\\n");
        assert_eq!(shown_path(Path::new("a\u{1b}[2J.pem")), "a\\u{1b}[2J.pem");
    }

    #[test]
    fn lines_of_an_error_stay_lines_and_nothing_else_gets_through() {
        assert_eq!(shown_lines("a:1: \"\\n\"\nb\u{1b}[2J\r"), "a:1: \"\\n\"\nb\\u{1b}[2J\\r");
        let text = shown_lines(HOSTILE);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text}");
    }
}
