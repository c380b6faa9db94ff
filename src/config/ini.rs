//! Sections, keys and lines of an INI file, and typed access that collects faults.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr, time::Duration};

use ini_core::{Item, Parser};
use strsim::levenshtein;

use super::Problem;

/// Keys of FISCO BCOS that mean nothing to a node without a ledger; `*` is every key of the section.
const IGNORED: &[(&str, &str)] = &[
    ("rpc", "jsonrpc_listen_ip"),
    ("rpc", "jsonrpc_listen_port"),
    ("rpc", "disable_dynamic_group"),
    ("rpc", "channel_thread_count"),
    ("rpc", "jsonrpc_thread_count"),
    ("rpc", "act_as_group_member"),
    ("p2p", "enable_compress"),
    ("p2p", "connection_warning"),
    ("p2p", "peers_param_limit"),
    ("p2p", "max_nodes_limit"),
    ("group", "group_data_path"),
    ("group", "group_config_path"),
    ("storage_security", "*"),
    ("data_secure", "*"),
    ("network_security", "crypto_provider"),
    ("network_security", "key_id"),
    ("network_security", "enckey_id"),
    ("network_security", "en_key"),
    ("network_security", "en_cert"),
    ("storage", "*"),
    ("tx_pool", "*"),
    ("tx_execute", "*"),
    ("sync", "*"),
    ("consensus", "*"),
    ("sdk_allowlist", "*"),
    ("log", "enable_statistic"),
    ("log", "stat_flush_interval"),
    ("log", "enable_rate_collector"),
    ("log", "log_name_pattern"),
    ("log", "rotate_name_pattern"),
    ("log", "rotate_time_point"),
    ("log", "archive_path"),
    ("log", "compress_archive_file"),
    ("log", "max_archive_size"),
    ("log", "min_free_space"),
    ("log", "logRotationCount"),
    ("log", "log_flush_threshold"),
];

/// Quotation marks that people put around a value.
const QUOTES: &[char] = &['"', '\'', '“', '‘'];

struct Value {
    text: String,
    line: u32,
    used: bool,
}

/// A file's values, and what was found wrong so far.
pub(super) struct Ini {
    values: BTreeMap<(String, String), Value>,
    /// Each section, and the line where it stands first.
    sections: BTreeMap<String, u32>,
    /// Every key that was asked for: for telling what an unknown one may have meant.
    known: Vec<(String, String)>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Ini {
    pub(super) fn read(text: &str) -> Self {
        let mut ini = Self {
            values: BTreeMap::new(),
            sections: BTreeMap::new(),
            known: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        let mut section = String::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let number = index as u32 + 1;
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            for item in Parser::new(line).auto_trim(true) {
                match item {
                    Item::Section(name) => {
                        section = name.to_owned();
                        ini.sections.entry(section.clone()).or_insert(number);
                    }
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
            let is_new = !std::mem::replace(&mut value.used, true);
            (value.text.clone(), value.line, is_new)
        });
        self.known.push(name);
        let (text, line, is_new) = value.filter(|(text, ..)| !text.is_empty())?;
        if is_quoted(&text) {
            if is_new {
                let text = format!(
                    "[{section}] {key} = {text}: the quotation marks would be part of the value; leave them out"
                );
                self.problems.push(Problem { line, text });
            }
            return None;
        }
        Some((text, line))
    }

    /// The name under which a section is read that had another one once. As in FISCO BCOS 2.x, the old one counts where the
    /// new one is absent, or has no key.
    pub(super) fn renamed(&mut self, name: &'static str, old: &'static str) -> &'static str {
        self.known.extend([name, old].map(|section| (section.to_owned(), String::new())));
        let has_keys = |ini: &Self, name: &str| ini.values.keys().any(|(section, _)| section == name);
        if !has_keys(self, old) {
            return name;
        }
        if !has_keys(self, name) {
            return old;
        }
        for ((_, _), value) in self.values.iter_mut().filter(|((section, _), _)| section == old) {
            value.used = true;
        }
        let line = self.sections.get(old).copied().unwrap_or_default();
        let text = format!("[{old}] has no effect, for [{name}] is there, which replaces it");
        self.warnings.push(Problem { line, text });
        name
    }

    /// Refuses entries of lists that nobody would read: whoever is on a blacklist would be let in.
    pub(super) fn refuse_dropped_lists(&mut self, lists: [(&str, &str, &str); 2]) {
        let mut dropped = Vec::new();
        for ((section, key), value) in self.values.iter().filter(|(_, value)| !value.used) {
            let text = if let Some((_, name, prefix)) = lists.iter().find(|(read, ..)| read == section) {
                format!(
                    "[{section}] {key} is no entry of this list: those of [{name}] are {prefix}0, {prefix}1, …"
                )
            } else if let Some((_, name, _)) = lists.iter().find(|(.., prefix)| key.starts_with(prefix)) {
                format!(
                    "[{section}] {key}: entries of this list are read in [{name}] only, and none may be lost"
                )
            } else {
                continue;
            };
            dropped.push(Problem { line: value.line, text });
        }
        self.problems.extend(dropped);
    }

    /// Adds a warning about a key.
    pub(super) fn warn(&mut self, section: &str, key: &str, text: &str) {
        let line = self.line(section, key);
        self.warnings.push(Problem { line, text: format!("[{section}] {key} {text}") });
    }

    /// Says of a key what is wrong with it together with others.
    pub(super) fn fault(&mut self, section: &str, key: &str, text: &str) {
        let line = self.line(section, key);
        self.problems.push(Problem { line, text: format!("[{section}] {key} {text}") });
    }

    fn get(&self, section: &str, key: &str) -> Option<&Value> {
        self.values.get(&(section.to_owned(), key.to_owned()))
    }

    /// Where a key stands; 0 if it does not.
    fn line(&self, section: &str, key: &str) -> u32 {
        self.get(section, key).map_or(0, |value| value.line)
    }

    /// What stands in the file.
    pub(super) fn value(&self, section: &str, key: &str) -> Option<String> {
        Some(self.get(section, key)?.text.clone())
    }

    /// Whether the file has the key, empty or not.
    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        self.get(section, key).is_some()
    }

    /// Says that the value of a key cannot be.
    pub(super) fn refuse(&mut self, section: &str, key: &str, must_be: &str) {
        let (text, line) = self.get(section, key).map_or(("", 0), |value| (value.text.as_str(), value.line));
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
        self.number_if_set(section, key, least, most).unwrap_or(default)
    }

    /// A number, if the file has it.
    pub(super) fn number_if_set(&mut self, section: &str, key: &str, least: u64, most: u64) -> Option<u64> {
        self.optional(section, key, &format!("a number from {least} to {most}"), |text| {
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
        self.known.push((section.to_owned(), format!("{prefix}0")));
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
        self.known.push((section.to_owned(), format!("{prefix}NAME")));
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

    /// Whether anything of a section is known, here or to FISCO BCOS.
    fn knows_section(&self, section: &str) -> bool {
        self.known.iter().any(|(known, _)| known == section)
            || IGNORED.iter().any(|(known, _)| *known == section)
    }

    /// The sections that mean something, with the line where each stands first.
    pub(super) fn known_sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str).filter(|section| self.knows_section(section))
    }

    /// The faults, or warnings about what nobody asked for.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Vec<Problem>> {
        if !self.problems.is_empty() {
            self.problems.sort_by_key(|problem| problem.line);
            return Err(self.problems);
        }
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(self.unknown_sections());
        warnings.extend(self.unknown_keys());
        warnings.sort_by_key(|warning| warning.line);
        Ok(warnings)
    }

    fn unknown_sections(&self) -> impl Iterator<Item = Problem> {
        let unknown = self.sections.iter().filter(|(section, _)| !self.knows_section(section));
        unknown.map(|(section, &line)| {
            let known = self
                .known
                .iter()
                .map(|(known, _)| known.as_str())
                .chain(IGNORED.iter().map(|(known, _)| *known));
            let near =
                nearest(section, known).map(|name| format!("; did you mean [{name}]?")).unwrap_or_default();
            Problem { line, text: format!("[{section}] is not known, and nothing in it has an effect{near}") }
        })
    }

    fn unknown_keys(&self) -> impl Iterator<Item = Problem> {
        let is_ignored = |section: &str, key: &str| {
            IGNORED.iter().any(|(other, name)| *other == section && (*name == "*" || *name == key))
        };
        let unknown = self.values.iter().filter(move |((section, key), value)| {
            !value.used && (section.is_empty() || self.knows_section(section)) && !is_ignored(section, key)
        });
        unknown.map(|((section, key), value)| {
            let text = if section.is_empty() {
                format!("{key} stands before the first [section] and has no effect")
            } else {
                format!("[{section}] {key} is not known and has no effect{}", self.meant(section, key))
            };
            Problem { line: value.line, text }
        })
    }

    /// What an unknown key may have meant: one of nearly this name, or one of this name elsewhere.
    fn meant(&self, section: &str, key: &str) -> String {
        let here = self.known.iter().filter(|(other, _)| other == section).map(|(_, name)| name.as_str());
        if let Some(name) = nearest(key, here) {
            return format!("; did you mean {name}?");
        }
        let elsewhere = self.known.iter().find(|(_, name)| name == key);
        elsewhere.map(|(other, _)| format!("; it belongs in [{other}]")).unwrap_or_default()
    }
}

fn is_quoted(text: &str) -> bool {
    text.starts_with(QUOTES)
}

/// The name that is meant by a misspelt one, if one is near enough.
fn nearest<'a>(misspelt: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = misspelt.to_ascii_lowercase();
    let far = (misspelt.chars().count() / 4).max(2);
    // Units at the end are what is left out most easily.
    let without_unit = |name: &str| {
        ["_ms", "_max", "_bytes_max"]
            .iter()
            .filter_map(|unit| name.strip_suffix(unit).map(|name| levenshtein(name, &lower)))
            .min()
    };
    names
        .map(|name| (levenshtein(name, &lower).min(without_unit(name).unwrap_or(usize::MAX)), name))
        .filter(|&(distance, name)| distance <= far && distance < name.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}
