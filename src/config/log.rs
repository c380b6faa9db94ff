//! `[log]`: how much is logged, in which form, and where to. Keys and names of files are those of FISCO BCOS.

use std::path::Path;

use super::ini::Ini;
use crate::log::FileSettings;

/// Files that are kept where nobody says how many: a week, where each hour has one.
const FILES_KEPT: u64 = 168;
/// Files that may be kept.
const FILES_MAX: u64 = 10_000;
/// Largest file, in MB.
const FILE_MB_MAX: u64 = 1 << 20;

/// What the section says.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The least level that is logged: trace, debug, info, warn, error or off.
    pub level: String,
    /// Whether lines are JSON.
    pub is_json: bool,
    /// The files that lines go to; `None` for standard error.
    pub(crate) files: Option<FileSettings>,
    /// Files that are kept.
    pub files_max: usize,
}

impl LogSettings {
    /// Reads the section. A relative path begins at the file's directory.
    pub(super) fn read(ini: &mut Ini, directory: &Path) -> Self {
        let enabled = ini.flag("log", "enable", true);
        let level = ini.parsed(
            "log",
            "level",
            "info".to_owned(),
            "trace, debug, info, warning, error or fatal",
            |text| {
                Some(match text.to_ascii_lowercase().as_str() {
                    "warning" | "warn" => "warn".to_owned(),
                    "fatal" | "error" => "error".to_owned(),
                    level @ ("trace" | "debug" | "info") => level.to_owned(),
                    _ => return None,
                })
            },
        );
        let is_json = ini.parsed("log", "format", false, "human or json", |text| match text {
            "human" => Some(false),
            "json" => Some(true),
            // How lines are laid out, in files of the first releases.
            _ => text.starts_with('%').then_some(false),
        });
        let is_console = ini.flag("log", "enable_console_output", false);
        // A line is always written at once.
        _ = ini.flag("log", "flush", true);
        let path = ini.has("log", "log_path").then(|| ini.text("log", "log_path", "log"));
        let file_mb_max = ini.number("log", "max_log_file_size", 200, 1, FILE_MB_MAX);
        let by_hour = ini.flag("log", "enable_rotate_by_hour", true);
        // There 0 is any number.
        let files_max = match ini.number("log", "max_archive_files", FILES_KEPT, 0, FILES_MAX) {
            0 => FILES_MAX,
            files => files,
        };
        let files_max = files_max as usize;
        let files = path.filter(|_| enabled && !is_console).map(|path| FileSettings {
            directory: directory.join(path),
            file_bytes_max: file_mb_max << 20,
            files_max,
            by_hour,
        });
        Self { level: if enabled { level } else { "off".to_owned() }, is_json, files, files_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn files(text: &str) -> Option<FileSettings> {
        let (config, warnings) = Config::parse(&format!("[log]\n{text}"), Path::new("/node0")).unwrap();
        assert_eq!(warnings, []);
        config.log.files
    }

    #[test]
    fn log_path_is_where_files_go_as_build_chain_writes_it_and_without_it_there_are_none() {
        let of_2x = "enable=true\nlog_path=./log\nenable_console_output = false\nenable_statistic=false\n\
            stat_flush_interval=60\nlevel=info\nmax_log_file_size=200\nflush=true\n";
        let expected = FileSettings {
            directory: "/node0/./log".into(),
            file_bytes_max: 200 << 20,
            files_max: 168,
            by_hour: true,
        };
        assert_eq!(files(of_2x), Some(expected.clone()));
        let of_3x = "enable=true\nenable_console_output = false\nlog_path=/var/log/node0\nlevel=info\nmax_log_file_size=1024\n\
            enable_rotate_by_hour=false\nenable_rate_collector=false\nmax_archive_files=0\n";
        let expected = FileSettings {
            directory: "/var/log/node0".into(),
            file_bytes_max: 1 << 30,
            files_max: 10_000,
            by_hour: false,
        };
        assert_eq!(files(of_3x), Some(expected));
        for none in [
            "",
            "max_log_file_size=5\n",
            "log_path=log\nenable_console_output=true\n",
            "log_path=log\nenable=false\n",
        ] {
            assert_eq!(files(none), None, "{none}");
        }
        let problems =
            Config::parse("[log]\nlog_path=log\nmax_log_file_size=0\n", Path::new(".")).unwrap_err();
        assert_eq!(problems[0].text, "[log] max_log_file_size = \"0\" must be a number from 1 to 1048576");
    }
}
