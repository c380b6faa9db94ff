//! The log of real nodes in files, as FISCO BCOS has it: where they are, what becomes of them on SIGHUP, and where they cannot grow.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use amop::internal::pki::Profile;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{get, host_dir, process, wait_until};

struct Logging {
    child: Child,
    dir: tempfile::TempDir,
}

fn configuration(dir: &Path, more: &str) -> PathBuf {
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    process::write_config(dir, &conf, false, [any; 2], &format!("[admin]\nlisten_port=0\n[log]\n{more}"))
}

impl Logging {
    /// Starts a node whose files may have so many blocks, if that is said.
    fn start(blocks_max: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = configuration(
            dir.path(),
            "log_path=./log\nenable_console_output = false\nmax_log_file_size=200\n",
        );
        // Whoever writes beyond is not killed, but told.
        let script = format!("trap '' XFSZ; ulimit -f {blocks_max}; exec \"$0\" node -c \"$1\"");
        let child = Command::new("sh")
            .args(["-c", &script, process::PROGRAM])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let node = Self { child, dir };
        wait_until("the node is up", || !node.logged("the node is up").is_empty());
        node
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("log")).into_iter().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The fields of all whole lines with this message.
    fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let text: String = self.files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.map(|line| line["fields"].clone()).filter(|fields| fields["message"] == message).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it has said on standard error, once it has ended in order.
    fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves the files away, as `logrotate` does.
fn move_away(node: &Logging) {
    for file in node.files() {
        fs::rename(&file, node.dir.path().join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn the_log_goes_to_files_named_as_those_of_fisco_bcos_and_a_moved_one_is_begun_anew_on_sighup() {
    let node = Logging::start("unlimited");
    let [file] = node.files().try_into().expect("one file, unless the hour has changed");
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let digits = name.strip_prefix("log_").and_then(|name| name.strip_suffix(".log")).unwrap();
    assert_eq!(digits.len(), "2026113018.31".len(), "{name}");
    assert!(digits.bytes().enumerate().all(|(at, byte)| byte.is_ascii_digit() != (at == 10)), "{name}");
    move_away(&node);
    node.signal(Signal::HUP);
    let read_again = "configuration read again: [p2p] node.N, the lists and the certificates hold from now on, other keys from the next start";
    wait_until("it goes on in a new file", || !node.logged(read_again).is_empty());
    assert!(node.logged("the node is up").is_empty(), "that is in the one that was moved");
    let moved = fs::read_to_string(node.dir.path().join(&name)).unwrap();
    assert!(moved.contains("the node is up") && !moved.contains("read again"), "{moved}");
    let log = node.dir.path().join("log");
    let said = node.stop();
    let expected = format!("amop: the log goes to {}", log.display());
    assert!(said.starts_with(&expected.replace("/log", "/./log")) && said.lines().count() == 1, "{said}");
}

#[test]
fn a_node_whose_log_file_cannot_grow_goes_on_counts_what_is_lost_and_says_so_once_there_is_room() {
    let node = Logging::start("16");
    let admin = &node.logged("the admin endpoint is open")[0]["address"];
    let admin = admin.as_str().unwrap().parse().unwrap();
    let lost = || {
        let (_, metrics) = get(admin, "/metrics");
        let lost = metrics.lines().find_map(|line| line.strip_prefix("amop_log_lines_lost_total "));
        lost.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(lost(), 0);
    wait_until("lines are lost", || {
        // Each is a line.
        node.signal(Signal::HUP);
        lost() >= 2
    });
    assert_eq!(get(admin, "/livez").0, 200);
    move_away(&node);
    node.signal(Signal::HUP);
    let told =
        "log lines were lost here: whoever reads the log did not keep up, or there was no room for them";
    wait_until("it is said how many were lost", || !node.logged(told).is_empty());
    assert!(node.logged(told)[0]["lost"].as_u64().unwrap() >= 2);
    let said = node.stop();
    assert_eq!(said.matches("the log cannot be written to ").count(), 1, "{said}");
}

#[test]
fn a_directory_that_cannot_be_ends_the_start_with_a_line_on_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), "log_path=config.ini/log\n");
    for check in [&[][..], &["--check"]] {
        let done =
            process::output(Command::new(process::PROGRAM).args(["node", "-c"]).arg(&config).args(check));
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success(), "{said}");
        let path = dir.path().join("config.ini/log");
        let expected = format!("[log] log_path = {}: no log file can be opened there: ", path.display());
        assert!(said.contains(&expected) && said.contains("or set enable_console_output=true"), "{said}");
    }
}
