//! Sections, keys and lines of an INI file, and typed access that collects faults.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr, time::Duration};

use ini_core::{Item, Parser};

use super::Problem;

/// Keys of FISCO BCOS that mean nothing to a node without a ledger; `*` is every key of the section.
const IGNORED: &[(&str, &str)] = &[
    ("rpc", "jsonrpc_listen_ip"),
    ("rpc", "jsonrpc_listen_port"),
    ("rpc", "disable_dynamic_group"),
    ("p2p", "enable_compress"),
    ("group", "group_data_path"),
    ("group", "group_config_path"),
    ("storage_security", "*"),
    ("storage", "*"),
    ("tx_pool", "*"),
    ("tx_execute", "*"),
    ("sync", "*"),
    ("consensus", "*"),
    ("sdk_allowlist", "*"),
    ("chain", "id"),
    ("log", "log_path"),
    ("log", "enable_console_output"),
    ("log", "enable_statistic"),
    ("log", "stat_flush_interval"),
    ("log", "max_log_file_size"),
    ("log", "flush"),
    ("log", "logRotationCount"),
];

struct Value {
    text: String,
    line: u32,
    used: bool,
}

/// A file's values, and what was found wrong so far.
pub(super) struct Ini {
    values: BTreeMap<(String, String), Value>,
    /// Every key that was asked for: for telling what an unknown one may have meant.
    known: Vec<(String, String)>,
    problems: Vec<Problem>,
}

impl Ini {
    pub(super) fn read(text: &str) -> Self {
        let mut ini = Self { values: BTreeMap::new(), known: Vec::new(), problems: Vec::new() };
        let mut section = String::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let number = index as u32 + 1;
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            for item in Parser::new(line).auto_trim(true) {
                match item {
                    Item::Section(name) => section = name.to_owned(),
                    Item::Property(key, Some(value)) => ini.insert(&section, key, value, number),
                    Item::Comment(_) | Item::Blank | Item::SectionEnd => {}
                    Item::Property(_, None) | Item::Error(_) => {
                        let text = format!("{line:?} is neither [section] nor key=value nor a comment");
                        ini.problems.push(Problem { line: number, text });
                    }
                }
            }
        }
        ini
    }

    fn insert(&mut self, section: &str, key: &str, text: &str, line: u32) {
        let name = (section.to_owned(), key.to_owned());
        if let Some(first) = self.values.get(&name) {
            let text =
                format!("[{section}] {key} stands here a second time; the first is on line {}", first.line);
            self.problems.push(Problem { line, text });
            return;
        }
        self.values.insert(name, Value { text: text.to_owned(), line, used: false });
    }

    /// The value of a key, if it is there and not empty.
    fn take(&mut self, section: &str, key: &str) -> Option<(String, u32)> {
        let name = (section.to_owned(), key.to_owned());
        let value = self.values.get_mut(&name).map(|value| {
            value.used = true;
            (value.text.clone(), value.line)
        });
        self.known.push(name);
        value.filter(|(text, _)| !text.is_empty())
    }

    /// Says that the value of a key cannot be.
    pub(super) fn refuse(&mut self, section: &str, key: &str, must_be: &str) {
        let value = self.values.get(&(section.to_owned(), key.to_owned()));
        let (text, line) = value.map_or(("", 0), |value| (value.text.as_str(), value.line));
        let text = format!("[{section}] {key} = {text:?} must be {must_be}");
        self.problems.push(Problem { line, text });
    }

    pub(super) fn text(&mut self, section: &str, key: &str, default: &str) -> String {
        self.take(section, key).map_or_else(|| default.to_owned(), |(text, _)| text)
    }

    pub(super) fn optional<T>(
        &mut self,
        section: &str,
        key: &str,
        must_be: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let (text, _) = self.take(section, key)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.refuse(section, key, must_be);
        }
        parsed
    }

    pub(super) fn parsed<T>(
        &mut self,
        section: &str,
        key: &str,
        default: T,
        must_be: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.optional(section, key, must_be, parse).unwrap_or(default)
    }

    pub(super) fn flag(&mut self, section: &str, key: &str, default: bool) -> bool {
        self.parsed(section, key, default, "true or false", |text| match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    pub(super) fn number(&mut self, section: &str, key: &str, default: u64, least: u64, most: u64) -> u64 {
        self.parsed(section, key, default, &format!("a number from {least} to {most}"), |text| {
            text.parse().ok().filter(|number| (least..=most).contains(number))
        })
    }

    pub(super) fn millis(
        &mut self,
        section: &str,
        key: &str,
        default: Duration,
        least: u64,
        most: u64,
    ) -> Duration {
        let default = default.as_millis() as u64;
        Duration::from_millis(self.number(section, key, default, least, most))
    }

    pub(super) fn address(&mut self, section: &str, key: &str, default: &str) -> String {
        self.parsed(section, key, default.to_owned(), "an IPv4 or IPv6 address of this machine", |text| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            IpAddr::from_str(bare).ok().map(|address| address.to_string())
        })
    }

    /// Names with commas between.
    pub(super) fn names<T>(
        &mut self,
        section: &str,
        key: &str,
        must_be: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        self.parsed(section, key, Vec::new(), must_be, |text| {
            text.split(',').map(|name| parse(name.trim())).collect()
        })
    }

    /// The values of all keys that begin with `prefix`, in the order of their numbers.
    pub(super) fn list<T>(
        &mut self,
        section: &str,
        prefix: &str,
        must_be: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut keys = self.keys(section, prefix);
        keys.sort_by_key(|key| key[prefix.len()..].parse::<u64>().unwrap_or(u64::MAX));
        keys.iter().filter_map(|key| self.optional(section, key, must_be, &parse)).collect()
    }

    /// The values of all keys that begin with `prefix`, with the rest of each key.
    pub(super) fn by_name<T>(
        &mut self,
        section: &str,
        prefix: &str,
        must_be: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<(String, T)> {
        let keys = self.keys(section, prefix);
        let value = |key: String| {
            let value = self.optional(section, &key, must_be, &parse)?;
            Some((key[prefix.len()..].to_owned(), value))
        };
        keys.into_iter().filter_map(value).collect()
    }

    fn keys(&self, section: &str, prefix: &str) -> Vec<String> {
        let of_section = self.values.keys().filter(|(other, _)| other == section);
        of_section.filter(|(_, key)| key.starts_with(prefix)).map(|(_, key)| key.clone()).collect()
    }

    /// The faults, or warnings about keys that nobody asked for.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Vec<Problem>> {
        if !self.problems.is_empty() {
            self.problems.sort_by_key(|problem| problem.line);
            return Err(self.problems);
        }
        let is_ignored = |section: &str, key: &str| {
            IGNORED.iter().any(|(other, name)| *other == section && (*name == "*" || *name == key))
        };
        let mut warnings: Vec<Problem> = self
            .values
            .iter()
            .filter(|((section, key), value)| !value.used && !is_ignored(section, key))
            .map(|((section, key), value)| {
                let near = self
                    .known
                    .iter()
                    .filter(|(other, name)| other == section && distance(name, key) <= 2)
                    .map(|(_, name)| format!("; did you mean {name}?"))
                    .next()
                    .unwrap_or_default();
                Problem {
                    line: value.line,
                    text: format!("[{section}] {key} is not known and has no effect{near}"),
                }
            })
            .collect();
        warnings.sort_by_key(|warning| warning.line);
        Ok(warnings)
    }
}

/// How many letters differ (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
