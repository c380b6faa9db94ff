//! How commands show what others have named: names of topics and nodes may hold any character.
//!
//! # Invariants
//! - Nothing that is shown moves a terminal's cursor, changes the direction of text, or ends a line.

use std::fmt::Write;

/// Makes text fit for a terminal: characters that are not seen, or that control how others are seen, are
/// written as `\u{…}`, `\n` and so on, and a backslash as two.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut escaped = text.escape_debug();
    while let Some(character) = escaped.next() {
        if character != '\\' {
            shown.push(character);
            continue;
        }
        match escaped.next() {
            // Quotes need no escape here.
            Some(quote @ ('"' | '\'')) => shown.push(quote),
            other => {
                shown.push('\\');
                shown.extend(other);
            }
        }
    }
    shown
}

/// The same for a whole JSON text, which it stays.
pub(super) fn shown_json(json: &str) -> String {
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

/// Text as a quoted string of a DOT file, to be seen as it would be on a terminal.
pub(super) fn dot_string(text: &str) -> String {
    quote_for_dot(&shown(text))
}

/// The same of text that is fit for a terminal already.
pub(super) fn quote_for_dot(shown: &str) -> String {
    let mut quoted = String::from("\"");
    for character in shown.chars() {
        match character {
            // Labels know escapes and entities.
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            '&' => quoted.push_str("&amp;"),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// The first eight digits of a node's id, as in logs.
pub(super) fn short(id: &str) -> String {
    shown(&id.chars().take(8).collect::<String>())
}

/// A column of a table.
#[derive(Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    is_number: bool,
}

/// A column of words, beginning below each other.
pub(super) const fn words(title: &'static str) -> Column {
    Column { title, is_number: false }
}

/// A column of numbers, ending below each other.
pub(super) const fn numbers(title: &'static str) -> Column {
    Column { title, is_number: true }
}

/// Rows below their titles, if there are any. Names go into the last column, where nothing can be pushed aside.
pub(super) fn table<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> String {
    let mut widths = columns.map(|column| column.title.len());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut padded = String::new();
        for ((cell, width), column) in cells.into_iter().zip(widths).zip(columns) {
            let _ = match column.is_number {
                true => write!(padded, "  {cell:>width$}"),
                false => write!(padded, "  {cell:<width$}"),
            };
        }
        let _ = writeln!(text, "{}", padded.trim_end());
    };
    if columns.iter().any(|column| !column.title.is_empty()) {
        line(columns.map(|column| column.title));
    }
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

/// Bytes in the largest unit that leaves a number before the point.
pub(super) fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut count, mut unit) = (count, 0);
    while count >= 1024.0 && unit + 1 < UNITS.len() {
        count /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count:.0} B"),
        unit => format!("{count:.1} {}", UNITS[unit]),
    }
}

/// Microseconds as milliseconds; what is not known as a dash.
pub(super) fn millis(micros: Option<u64>) -> String {
    micros.map_or_else(|| "-".to_owned(), |micros| format!("{}.{:03} ms", micros / 1_000, micros % 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is or may become a control, a break of lines, or a change of direction.
    const HOSTILE: &str = "\u{1b}[2J\u{7}\r\n\t\0\u{7f}\u{9b}31m\u{85}\u{2028}\u{2029}\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{202a}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{e0001}\u{e000}\u{fff9}";

    #[test]
    fn nothing_that_controls_a_terminal_is_shown_as_it_is() {
        let text = shown(HOSTILE);
        assert!(text.is_ascii() && !text.contains(|character: char| character.is_ascii_control()), "{text}");
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
    fn a_string_of_a_drawing_ends_where_it_is_meant_to() {
        assert_eq!(dot_string("a\"];x--y\\"), "\"a\\\"];x--y\\\\\\\\\"");
        assert_eq!(dot_string("&lt;\n"), "\"&amp;lt;\\\\n\"");
        // Without pairs of a backslash and what follows it, no quote is left inside.
        let text = dot_string(&format!("{HOSTILE}\\\"\\\\\""));
        let mut inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap().chars();
        while let Some(character) = inside.next() {
            assert_ne!(character, '"', "{text}");
            if character == '\\' {
                inside.next().expect("a pair");
            }
        }
    }

    #[test]
    fn columns_are_below_each_other() {
        let rows = [
            ["a".to_owned(), "10".to_owned(), "x".to_owned()],
            ["bcd".to_owned(), "9".to_owned(), "".to_owned()],
        ];
        let expected = "  id   hops  name\n  a      10  x\n  bcd     9\n";
        assert_eq!(table([words("id"), numbers("hops"), words("name")], &rows), expected);
    }

    #[test]
    fn quantities_have_their_unit() {
        assert_eq!([0.0, 1023.0, 1024.0, 1_572_864.0].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 MiB"]);
        assert_eq!([None, Some(7), Some(12_345)].map(millis), ["-", "0.007 ms", "12.345 ms"]);
    }
}
