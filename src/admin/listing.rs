//! What a list's query may say, and the page that it asks for.

use std::cmp::Ordering;

use crate::wire::hex;

/// Items of a page unless the query says otherwise.
const LIMIT_DEFAULT: usize = 100;
/// Items of a page at most.
pub(super) const LIMIT_MAX: usize = 10_000;
/// Nodes that the items of one answer name, as neighbours or as those with subscribers; the others are only
/// counted.
pub(super) const NAMED_MAX: usize = 65_536;

/// A query that makes no sense; the caller's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("limit must be a number from 0 to {LIMIT_MAX}")]
    Limit,
    #[error("sort must be one of {0}")]
    Sort(String),
    #[error("order must be asc or desc")]
    Order,
    #[error("there is ?limit=, &sort= and &order= only")]
    Unknown,
    #[error("there is ?limit=, &sort=, &order=, &filter= and &after= only")]
    UnknownOfTopics,
    #[error("filter and after must be UTF-8 in percent-encoding")]
    Text,
}

/// A field by which items can be sorted, and how two of them compare.
pub(super) type Field<T> = (&'static str, fn(&T, &T) -> Ordering);

/// Which items are wanted, and in which order.
pub(super) struct Query<'f, T> {
    limit: usize,
    fields: &'f [Field<T>],
    sort: fn(&T, &T) -> Ordering,
    descending: bool,
}

impl<'f, T> Query<'f, T> {
    /// Reads a query. Items are sorted by the first of `fields`, which tells all apart, unless it says
    /// otherwise.
    pub(super) fn parse(query: &str, fields: &'f [Field<T>]) -> Result<Self, QueryError> {
        let mut parsed = Self { limit: LIMIT_DEFAULT, fields, sort: fields[0].1, descending: false };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("limit", limit) => {
                    let limit = limit.parse().ok().filter(|&limit| limit <= LIMIT_MAX);
                    parsed.limit = limit.ok_or(QueryError::Limit)?;
                }
                ("sort", name) => {
                    let field = fields.iter().find(|(field, _)| *field == name);
                    let names = || fields.iter().map(|(field, _)| *field).collect::<Vec<_>>().join(", ");
                    parsed.sort = field.ok_or_else(|| QueryError::Sort(names()))?.1;
                }
                ("order", "asc") => parsed.descending = false,
                ("order", "desc") => parsed.descending = true,
                ("order", _) => return Err(QueryError::Order),
                _ => return Err(QueryError::Unknown),
            }
        }
        Ok(parsed)
    }

    /// How many items are wanted.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The items that are wanted, in order.
    pub(super) fn page(&self, mut items: Vec<T>) -> Vec<T> {
        let compare = |a: &T, b: &T| {
            let (a, b) = if self.descending { (b, a) } else { (a, b) };
            (self.sort)(a, b).then_with(|| (self.fields[0].1)(a, b))
        };
        if self.limit == 0 {
            items.clear();
        } else if self.limit < items.len() {
            items.select_nth_unstable_by(self.limit - 1, compare);
            items.truncate(self.limit);
        }
        items.sort_unstable_by(compare);
        items
    }
}

/// Reads percent-encoded text.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.extend(hex::decode::<1>(digits)?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Item = (u32, u32);
    const FIELDS: &[Field<Item>] = &[("id", |a, b| a.0.cmp(&b.0)), ("size", |a, b| a.1.cmp(&b.1))];

    fn page(query: &str) -> Vec<u32> {
        let items = (0..300).rev().map(|id| (id, id % 3)).collect();
        Query::parse(query, FIELDS).unwrap().page(items).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_page_is_the_beginning_of_all_items_in_order() {
        assert_eq!(page(""), (0..100).collect::<Vec<_>>());
        assert_eq!(page("limit=3&sort=size"), [0, 3, 6]);
        assert_eq!(page("order=desc&sort=size&limit=4"), [299, 296, 293, 290]);
        assert_eq!(page("limit=0"), [0; 0]);
        assert_eq!(page("limit=10000&order=desc").len(), 300);
    }

    #[test]
    fn text_is_percent_decoded_or_refused() {
        for (text, decoded) in [
            ("", Some("")),
            ("a%20b%C3%a9", Some("a bé")),
            ("%00%25", Some("\0%")),
            ("a+b", Some("a+b")),
            ("%", None),
            ("%1", None),
            ("%+1", None),
            ("%é", None),
            ("%ff", None),
        ] {
            assert_eq!(percent_decode(text).as_deref(), decoded, "{text}");
        }
    }

    #[test]
    fn a_query_that_makes_no_sense_is_told_what_there_is() {
        for (query, expected) in [
            ("limit=10001", "limit must be a number from 0 to 10000"),
            ("limit=-1", "limit must be a number from 0 to 10000"),
            ("limit", "limit must be a number from 0 to 10000"),
            ("sort=colour", "sort must be one of id, size"),
            ("order=up", "order must be asc or desc"),
            ("page=2", "there is ?limit=, &sort= and &order= only"),
        ] {
            let error = Query::parse(query, FIELDS).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(expected), "{query}");
        }
    }
}
