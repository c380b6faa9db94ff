//! Whether a file may replace the one that a node runs with: what is cut, empty or overwritten must not take away whom the
//! node dials and keeps out.
//!
//! A file that lacks what the running one has is refused: a section, a key by which the node listens, the rest of a line.
//! Whoever means to remove the last peer or a whole list leaves the section there without entries.

use std::collections::{BTreeMap, BTreeSet};

use super::{Config, ini::Ini};

/// The sections that older files call otherwise.
const RENAMED: &[(&str, &str)] = &[
    ("crl", "certificate_blacklist"),
    ("cal", "certificate_whitelist"),
    ("secure", "network_security"),
    ("data_secure", "storage_security"),
];

/// The keys that say where a node listens.
const LISTEN_KEYS: &[(&str, &str)] = &[
    ("rpc", "channel_listen_ip"),
    ("rpc", "listen_ip"),
    ("rpc", "channel_listen_port"),
    ("p2p", "listen_ip"),
    ("p2p", "listen_port"),
    ("admin", "listen_ip"),
    ("admin", "listen_port"),
];

/// What entries of lists begin with: one may be taken out anywhere.
const ENTRIES: &[&str] = &["node.", "crl.", "cal."];

/// A file as it was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    text: String,
    sections: BTreeSet<String>,
    listen: BTreeMap<(&'static str, &'static str), String>,
}

impl Written {
    pub(super) fn new(text: &str, ini: &Ini) -> Self {
        let current = |section: &str| {
            RENAMED.iter().find(|(old, _)| *old == section).map_or(section, |(_, name)| name).to_owned()
        };
        let listen =
            LISTEN_KEYS.iter().filter_map(|&(section, key)| Some(((section, key), ini.value(section, key)?)));
        Self {
            text: text.to_owned(),
            sections: ini.known_sections().map(current).collect(),
            listen: listen.collect(),
        }
    }
}

/// Why a file must not replace the one that a node runs with; nothing if it may.
pub(super) fn refusals(running: &Config, new: &Config) -> Vec<String> {
    let (was, is) = (&running.written, &new.written);
    if is.text.trim().is_empty() && !was.text.trim().is_empty() {
        return vec!["the file is empty".to_owned()];
    }
    let mut refusals: Vec<String> = cut(&was.text, &is.text).into_iter().collect();
    let gone: Vec<_> = was.sections.difference(&is.sections).map(|section| format!("[{section}]")).collect();
    if !gone.is_empty() {
        refusals.push(format!(
            "{} of the file that the node runs with {} missing; to remove what is in a section, leave the section there, empty",
            gone.join(", "),
            if gone.len() == 1 { "is" } else { "are" },
        ));
    }
    for (section, what, before, now) in [
        ("rpc", "channel", Some(address(&running.channel_listen)), Some(address(&new.channel_listen))),
        ("p2p", "node", Some(address(&running.p2p_listen)), Some(address(&new.p2p_listen))),
        (
            "admin",
            "admin",
            running.admin_listen.as_ref().map(address),
            new.admin_listen.as_ref().map(address),
        ),
    ] {
        let Some(before) = before.filter(|before| now.as_ref() != Some(before)) else { continue };
        let keys: Vec<_> = LISTEN_KEYS
            .iter()
            .filter(|key| key.0 == section && was.listen.get(key) != is.listen.get(key))
            .map(|&(section, key)| {
                let state = if is.listen.contains_key(&(section, key)) { "is another" } else { "is missing" };
                format!("[{section}] {key} {state}")
            })
            .collect();
        refusals.push(format!(
            "{}: the {what} port is open on {before}, and where a node listens changes only when it starts",
            keys.join(", "),
        ));
    }
    refusals
}

fn address((ip, port): &(impl ToString, u16)) -> String {
    format!("{}:{port}", ip.to_string())
}

/// Where a file seems to be cut off, if it does.
fn cut(was: &str, is: &str) -> Option<String> {
    let say = |line: usize| {
        format!(
            "line {line}: the file ends in the middle of what the node runs with; if lines at its end were removed on \
             purpose, end it with a comment line"
        )
    };
    let lines = is.lines().count();
    let last = is.lines().last().unwrap_or_default();
    let is_ended = is.ends_with('\n');
    if !is_ended && is_cut_value(was, last) {
        return Some(say(lines));
    }
    let rest = was.strip_prefix(is)?;
    // What there was of the last line, and then the lines that are not there at all.
    let (of_last, after) = if is_ended { ("", rest) } else { rest.split_once('\n').unwrap_or((rest, "")) };
    if means_something(last) && !of_last.trim().is_empty() {
        return Some(say(lines));
    }
    // Of which nothing but blanks was left.
    let of_last = if last.trim().is_empty() { of_last } else { "" };
    let first =
        std::iter::once(of_last).chain(after.lines()).map(str::trim).find(|line| means_something(line))?;
    let may_go = first.starts_with('[') || ENTRIES.iter().any(|entry| first.starts_with(entry));
    (!may_go).then(|| say(lines))
}

/// Whether a line without an end is the beginning of one with the same key.
fn is_cut_value(was: &str, last: &str) -> bool {
    let last = last.trim();
    means_something(last)
        && last.contains('=')
        && was.lines().map(str::trim).any(|line| line.len() > last.len() && line.starts_with(last))
        && !was.lines().any(|line| line.trim() == last)
}

fn means_something(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with([';', '#'])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const PEER: &str = "node.0=127.0.0.1:30301\n";

    fn id(byte: &str) -> String {
        byte.repeat(64)
    }

    /// As `amop pki network` writes one, with the lists in the middle or at the end.
    fn files() -> Vec<String> {
        let (a, b) = (id("ab"), id("cd"));
        let lists = format!(
            "[certificate_blacklist]\n    ; ids\n    crl.0={a}\n    crl.1={b}\n\n[certificate_whitelist]\n    cal.0={b}\n"
        );
        let head = format!(
            "[rpc]\n    channel_listen_ip=127.0.0.1\n    channel_listen_port=20200\n[p2p]\n    listen_ip=127.0.0.1\n    \
             listen_port=30300\n    {PEER}    node.1=127.0.0.1:30302\n"
        );
        let tail = "[network_security]\n    data_path=conf/\n    key=node.key\n[chain]\n    id=1\n[admin]\n    listen_port=9100\n";
        vec![format!("{head}{lists}{tail}"), format!("{tail}{head}{lists}"), format!("{tail}{lists}{head}")]
    }

    fn refused(was: &str, is: &str) -> Vec<String> {
        let parse = |text: &str| Config::parse(text, Path::new(".")).map(|(config, _)| config);
        let was = parse(was).expect("the file that runs");
        match parse(is) {
            Ok(is) => refusals(&was, &is),
            Err(problems) => problems.into_iter().map(|problem| problem.text).collect(),
        }
    }

    #[test]
    fn a_file_cut_anywhere_takes_nothing_away() {
        for file in files() {
            let (was, _) = Config::parse(&file, Path::new(".")).unwrap();
            for end in 0..file.len() {
                let cut = &file[..end];
                let refused = refused(&file, cut);
                let Ok((is, _)) = Config::parse(cut, Path::new(".")) else { continue };
                // Whole entries that are gone at the very end cannot be told from entries that were taken out there.
                let at_an_entry = cut.trim_end_matches(' ').ends_with('\n') || file[end..].starts_with('\n');
                assert!(
                    !refused.is_empty() || is.membership == was.membership || at_an_entry,
                    "cut after {end} bytes: {cut}"
                );
                assert!(!refused.is_empty() || is.admin_listen == was.admin_listen);
            }
            assert_eq!(refused(&file, &file), [""; 0]);
        }
    }

    #[test]
    fn the_error_says_what_is_missing() {
        let file = &files()[0];
        assert_eq!(refused(file, ""), ["the file is empty"]);
        assert_eq!(refused(file, " \n\n"), ["the file is empty"]);
        for (from, to, expected) in [
            (
                "[certificate_whitelist]\n",
                ";",
                "[certificate_whitelist] of the file that the node runs with is missing",
            ),
            ("[admin]\n    listen_port=9100\n", "", "[admin] of the file that the node runs with is missing"),
            (
                "    listen_port=30300\n",
                "listen_port=30310\n",
                "[p2p] listen_port is another: the node port is open on 127.0.0.1:30300",
            ),
            ("=20200\n", "=20201\n", "[rpc] channel_listen_port is another"),
            ("    channel_listen_ip=127.0.0.1\n", "", "[rpc] channel_listen_ip is missing"),
            (
                "    listen_port=9100\n",
                "",
                "[admin] listen_port is missing: the admin port is open on 127.0.0.1:9100",
            ),
            ("    id=1\n[admin]\n    listen_port=9100\n", "    id=1", "[admin]"),
            (
                "    key=node.key\n[chain]\n    id=1\n[admin]\n    listen_port=9100\n",
                "    key=no",
                "the file ends in the middle",
            ),
        ] {
            let refused = refused(file, &file.replacen(from, to, 1));
            assert!(refused.iter().any(|text| text.contains(expected)), "{expected}: {refused:?}");
        }
    }

    #[test]
    fn an_operator_may_remove_peers_and_lists_whose_sections_stay() {
        for file in files() {
            let no_peers = file.replace(PEER, "\n").replace("    node.1=127.0.0.1:30302\n", "");
            let no_lists: String = file
                .lines()
                .filter(|line| !line.contains("crl.") && !line.contains("cal."))
                .fold(String::new(), |text, line| text + line + "\n");
            let one_less = file.replace("    node.1=127.0.0.1:30302\n", "");
            let no_end = file.trim_end();
            let more = file.replace(PEER, &format!("{PEER}    node.7=127.0.0.1:30307\n"));
            let mark = format!("{file}; nothing more\n");
            for new in [&no_peers, &no_lists, &one_less, no_end, &more, &mark] {
                assert_eq!(refused(&file, new), [""; 0], "{new}");
            }
        }
    }

    #[test]
    fn sections_may_get_their_new_names_and_unknown_ones_may_go() {
        let old = format!("[crl]\ncrl.0={}\n[secure]\nkey=node.key\n[admim]\nlisten_port=1\n", id("ab"));
        let new = format!("[certificate_blacklist]\ncrl.0={}\n[network_security]\nkey=node.key\n", id("ab"));
        assert_eq!(refused(&old, &new), [""; 0]);
        assert_eq!(refused(&old, "[secure]\nkey=node.key\n").len(), 1);
    }
}
