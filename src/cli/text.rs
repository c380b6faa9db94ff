//! How commands lay out what they show.

use comfy_table::{CellAlignment, Table, presets};

use crate::escape::shown;

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

/// What stands above a column of a table, and how it is laid out.
#[derive(Clone, Copy)]
pub(super) struct Title {
    text: &'static str,
    is_number: bool,
}

/// A column of words, beginning below each other.
pub(super) const fn words(title: &'static str) -> Title {
    Title { text: title, is_number: false }
}

/// A column of numbers, ending below each other.
pub(super) const fn numbers(title: &'static str) -> Title {
    Title { text: title, is_number: true }
}

/// A column, and what it shows of an item.
pub(super) type Column<'a, T> = (Title, &'a dyn Fn(&T) -> String);

/// Items below the titles of their columns, if there are any. Names go into the last column, where nothing can be pushed
/// aside.
pub(super) fn table<T>(items: &[T], columns: &[Column<'_, T>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_rows(items.iter().map(|item| columns.iter().map(move |(_, cell)| cell(item))));
    if columns.iter().any(|(title, _)| !title.text.is_empty()) {
        table.set_header(columns.iter().map(|(title, _)| title.text));
    }
    for ((title, _), laid_out) in columns.iter().zip(table.column_iter_mut()) {
        laid_out.set_padding((2, 0));
        if title.is_number {
            laid_out.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
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
    or_dash(micros.map(|micros| format!("{}.{:03} ms", micros / 1_000, micros % 1_000)))
}

/// What is not known as a dash.
pub(super) fn or_dash(known: Option<impl ToString>) -> String {
    known.map_or_else(|| "-".to_owned(), |known| known.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::tests::HOSTILE;

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
        let rows = [("a", 10, "x"), ("bcd", 9, "")];
        let columns: [Column<'_, (&str, i32, &str)>; 3] = [
            (words("id"), &|row| row.0.to_owned()),
            (numbers("hops"), &|row| row.1.to_string()),
            (words("name"), &|row| row.2.to_owned()),
        ];
        assert_eq!(table(&rows, &columns), "  id   hops  name\n  a      10  x\n  bcd     9\n");
        // By the width that a terminal shows them with.
        let columns: [Column<'_, [&str; 2]>; 2] =
            [(words(""), &|row| row[0].to_owned()), (words(""), &|row| row[1].to_owned())];
        assert_eq!(table(&[], &columns), "");
        assert_eq!(table(&[["订单", "1"], ["news", "2"]], &columns), "  订单  1\n  news  2\n");
    }

    #[test]
    fn quantities_have_their_unit() {
        assert_eq!([0.0, 1023.0, 1024.0, 1_572_864.0].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 MiB"]);
        assert_eq!([None, Some(7), Some(12_345)].map(millis), ["-", "0.007 ms", "12.345 ms"]);
    }
}
