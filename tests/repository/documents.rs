//! What the documents say about the code is made from the code.

use std::path::{Path, PathBuf};

use amop::internal::{bounds, config::Config};

/// As by default on a machine with 16 GiB of memory and two processors.
const CONFIG: &str = "[engine]\nmemory_max=4G\nreactors=2\n[ledger]\nnode.0=127.0.0.1:20200\n";

/// With `AMOP_WRITE=1` it writes the page.
#[test]
fn the_page_of_bounds_is_what_the_code_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/resources.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let marker = "<!-- from here on written by `AMOP_WRITE=1 cargo test --test repository documents` -->\n\n";
    let (about, tables) = page.split_once(marker).expect("the marker");
    let (config, _) = Config::parse(CONFIG, Path::new(".")).expect("a configuration");
    let made = bounds::table(&config.bounds());
    if std::env::var_os("AMOP_WRITE").is_some() {
        std::fs::write(&path, format!("{about}{marker}{made}")).expect("writing");
    } else {
        assert!(
            tables == made,
            "docs/resources.md is old: AMOP_WRITE=1 cargo test --test repository documents"
        );
    }
}

/// Threads and tasks are started in `src/supervise.rs` only, where each one's end is noticed.
#[test]
fn nothing_starts_a_thread_or_a_task_past_the_supervisor() {
    for (path, code) in code_below(&source()) {
        if !path.ends_with("supervise.rs") {
            let found: Vec<&str> = code.lines().filter(|line| starts_a_thread(line)).collect();
            assert_eq!(found, [""; 0], "{}: use a function of src/supervise.rs", path.display());
        }
    }
}

/// The code below a folder, file by file, without tests: they come last.
fn code_below(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() {
            files.extend(code_below(&path));
        } else if is_code && !path.ends_with("tests.rs") && !path.ends_with("testing.rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            files.push((path, code));
        }
    }
    files
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn starts_a_thread(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    // A process is started by `spawn()`.
    ["spawn(", "spawn_local(", "spawn_blocking(", "spawn_unchecked(", "spawn_scoped(", "thread::scope("]
        .into_iter()
        .flat_map(|call| code.match_indices(call).map(move |(at, call)| &code[at + call.len()..]))
        .any(|rest| !rest.starts_with(')'))
}

#[test]
fn the_look_for_threads_finds_each_way_to_start_one() {
    for line in [
        "    tokio::spawn(async move {",
        "let task = tokio_uring::spawn(run());",
        "        .spawn(run)",
        "std::thread::spawn(move || drop(block));",
        "tokio::task::spawn_blocking(make).await",
        "tokio::task::spawn_local(task);",
        "thread::scope(|scope| {",
    ] {
        assert!(starts_a_thread(line), "{line}");
    }
    for line in ["            .spawn()?;", "// not thread::spawn(run)", "    respawned = 3;"] {
        assert!(!starts_a_thread(line), "{line}");
    }
}

/// Lines of the modules that peers talk to without a limit: those of a start, of an operator's request, of the limit itself.
const UNLIMITED: [&str; 10] = [
    // Once at the start, for each peer that the configuration names.
    "applications are let in though the state",
    "cannot listen on the port for applications",
    "nobody can be let in: a listener cannot be waited for",
    "applications are let in WITHOUT TLS",
    "is in use: waiting up to",
    // Once at the start.
    "io_uring cannot be had",
    // Once for each reactor at the start.
    "this kernel lacks deferred task work",
    "announcing to all nodes",
    "log lines of a kind were left out",
    // Whoever calls it asks the limit.
    "a message for a session is dropped, its queue is full",
];

/// What asks a limit.
const ASKS: [&str; 4] = ["admits(", "may_log(", "may_log_pause(", "absence.note("];

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Whether a line of formatted code is reached only where its limit was asked: by the head of a block that it is in, or by
/// an `if` before it in such a block that leaves the function.
fn asks_its_limit(lines: &[&str], index: usize) -> bool {
    let asks = |text: &str| ASKS.iter().any(|ask| text.contains(ask));
    let mut inside = depth(lines[index]);
    if asks(lines[index]) {
        return true;
    }
    for at in (0..index).rev().filter(|at| !lines[*at].trim().is_empty()) {
        let line = lines[at];
        let is_head = depth(line) < inside;
        if is_head || depth(line) == inside && line.trim_end().ends_with('{') {
            // A condition of several lines has its brace at the depth of its beginning.
            let begins = match line.trim() {
                "{" => (0..at).rev().find(|above| depth(lines[*above]) == depth(line)).unwrap_or(at),
                _ => at,
            };
            let leaves = || lines[at + 1..index].iter().take(2).any(|line| line.trim().starts_with("return"));
            if asks(&lines[begins..=at].join(" ")) && (is_head || leaves()) {
                return true;
            }
        }
        if is_head {
            inside = depth(line);
            if line.contains("fn ") {
                return false;
            }
        }
    }
    false
}

#[test]
fn the_look_for_limits_finds_them_in_the_heads_of_blocks_and_in_ifs_that_leave() {
    let asked = [
        "fn one() {\n    if limit.admits(now) {\n        warn!(\n    }\n}",
        "fn one() {\n    if is_so\n        && limit.admits(now)\n    {\n        warn!(\n    }\n}",
        "fn one() {\n    if !limit.admits(now) {\n        return;\n    }\n    warn!(\n}",
        "fn one() {\n    match absence.note(now) {\n        First => warn!(\n    }\n}",
    ];
    let unasked = [
        "fn one() {\n    warn!(\n}",
        "fn one() {\n    if limit.admits(now) {\n        info!(\n    }\n    warn!(\n}",
        "fn one() {\n    limit.admits(now);\n}\nfn other() {\n    warn!(\n}",
    ];
    for (code, is_asked) in
        asked.map(|code| (code, true)).into_iter().chain(unasked.map(|code| (code, false)))
    {
        let lines: Vec<&str> = code.lines().collect();
        let index = lines.iter().position(|line| line.contains("warn!(")).expect("it logs");
        assert_eq!(asks_its_limit(&lines, index), is_asked, "{code}");
    }
}

/// "At most ten lines of a kind in ten seconds" (docs/monitoring.md): `relay::log_limit` sees to it where it is asked.
#[test]
fn every_log_line_that_peers_can_cause_asks_for_its_limit() {
    for module in ["relay", "door", "engine"] {
        for (path, code) in code_below(&source().join(module)) {
            let lines: Vec<&str> = code.lines().collect();
            for (index, line) in lines.iter().enumerate() {
                if !["info!(", "warn!(", "error!("].iter().any(|call| line.contains(call)) {
                    continue;
                }
                let said = lines[index..lines.len().min(index + 5)].join(" ");
                let is_limited = asks_its_limit(&lines, index);
                let is_known = UNLIMITED.iter().any(|text| said.contains(text));
                assert!(is_limited || is_known, "{}:{}: {}", path.display(), index + 1, line.trim());
            }
        }
    }
}

/// ARCHITECTURE.md walks the paths of messages by the names of functions.
#[test]
fn the_paths_name_functions_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page");
    let section =
        page.split("## Paths\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let walked = section.split("\nWhat fails ").next().expect("the paths");
    let code: String = code_below(&source().join("relay/shard")).into_iter().map(|(_, code)| code).collect();
    let names: Vec<&str> = walked.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
    assert!(names.len() > 30, "the paths are told by {} names", names.len());
    let lacking: Vec<&&str> = names.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(lacking.is_empty(), "no functions of relay/shard: {lacking:?}");
    let lines = walked.lines().filter(|line| !line.is_empty()).count();
    assert!(lines <= 4 * 10 + 1, "a path takes at most ten lines");
}
