//! What the documents say about the code is made from the code.

use std::path::Path;

use amop::{bounds, config::Config};

/// A machine with 16 GiB of memory and four processors.
const CONFIG: &str = "[engine]\nreactors=4\nunfinished_bytes_max=4294967296\nqueues_bytes_max=1073741824\n[amop]\n\
    records_bytes_max=1073741824\nwindows_bytes_max=1073741824\nretained_bytes_max=536870912\n";

/// With `AMOP_WRITE=1` it writes the page.
#[test]
fn the_page_of_bounds_is_what_the_code_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/resources.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let marker = "<!-- from here on written by `AMOP_WRITE=1 cargo test --test documents` -->\n\n";
    let (about, tables) = page.split_once(marker).expect("the marker");
    let (config, _) = Config::parse(CONFIG, Path::new(".")).expect("a configuration");
    let made = bounds::table(&bounds::all(&config));
    if std::env::var_os("AMOP_WRITE").is_some() {
        std::fs::write(&path, format!("{about}{marker}{made}")).expect("writing");
    } else {
        assert!(tables == made, "docs/resources.md is old: AMOP_WRITE=1 cargo test --test documents");
    }
}

/// Threads and tasks are started in `src/supervise.rs` only, where each one's end is noticed.
#[test]
fn nothing_starts_a_thread_or_a_task_past_the_supervisor() {
    let mut places = Vec::new();
    look_for_spawns(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut places);
    assert_eq!(places, [""; 0], "use a function of src/supervise.rs");
}

fn look_for_spawns(dir: &Path, places: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            look_for_spawns(&path, places);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("supervise.rs")
        {
            let text = std::fs::read_to_string(&path).expect("a source");
            // Tests come last, and their threads die with them.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let is_test = path.ends_with("tests.rs") || path.ends_with("testing.rs");
            let found = code.lines().filter(|line| starts_a_thread(line)).filter(|_| !is_test);
            places.extend(found.map(|line| format!("{}: {}", path.display(), line.trim())));
        }
    }
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
