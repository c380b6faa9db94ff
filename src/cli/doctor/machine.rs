//! The files that tell of a machine; below another root for tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A machine, as its files have it.
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether it is this one, of which more can be known than files say.
    pub(super) fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file without what is around it; `None` if it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        read(&self.path(path))
    }

    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.read(path)?.parse().ok()
    }

    pub(super) fn sysctl(&self, key: &str) -> Option<String> {
        self.read(&format!("/proc/sys/{}", key.replace('.', "/")))
    }

    /// The entries of a directory whose names begin so, in order.
    pub(super) fn entries(&self, directory: &str, prefix: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(directory)) else { return Vec::new() };
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let mut found: Vec<PathBuf> = paths.filter(|path| name(path).starts_with(prefix)).collect();
        found.sort();
        found
    }

    /// The same where a number follows, as of processors.
    pub(super) fn numbered(&self, directory: &str, prefix: &str) -> Vec<PathBuf> {
        let is_number = |path: &PathBuf| {
            let rest = name(path)[prefix.len()..].to_owned();
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
        };
        self.entries(directory, prefix).into_iter().filter(is_number).collect()
    }
}

pub(super) fn read(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers of a list such as `0-2,5`.
pub(super) fn processors(text: &str) -> BTreeSet<usize> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ranges = parts.filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Major and minor number of a kernel's release; zeros if it has none.
pub(super) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_and_releases_of_kernels_are_read() {
        assert_eq!(processors("0-2,5\n"), BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(processors("").len() + processors("x-y").len(), 0);
        assert_eq!(version("6.8.0-40-generic"), (6, 8));
        assert_eq!(version("5.15.0"), (5, 15));
        assert_eq!(version("linux"), (0, 0));
    }
}
