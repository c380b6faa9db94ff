//! House rules that the sources are read for: which module may import which (ARCHITECTURE.md), where `unsafe` is, how long
//! files and functions are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Files may have so many lines …
const FILE_LINES_MAX: usize = 800;
/// … and functions so many.
const FUNCTION_LINES_MAX: usize = 80;

/// Files that are longer, and why.
const LONG_FILES: [(&str, &str); 7] = [
    ("src/config/mod.rs", "every key of config.ini is read in one place"),
    ("src/relay/registry/mod.rs", "to be divided"),
    ("src/relay/registry/tests.rs", "a test for each rule of the registry"),
    ("tests/node/admin.rs", "a test for each path of the endpoint; to be divided"),
    ("tests/relay/private_topics.rs", "a test for each rule of private topics"),
    ("tests/relay/simulation/oracle.rs", "all that must be true of a simulated network; to be divided"),
    ("tests/relay/simulation/world.rs", "what befalls a simulated network; to be divided"),
];

/// Functions that are longer, and why.
const LONG_FUNCTIONS: [(&str, &str); 9] = [
    ("src/cli/demo.rs: tell", "a story told in order"),
    ("src/config/mod.rs: parse_on", "a table of keys"),
    ("src/door/mod.rs: bounds", "a table"),
    ("src/engine/bounds.rs: bounds", "a table"),
    ("src/node.rs: serve", "starts each part in order"),
    ("src/relay/bounds.rs: bounds", "a table"),
    ("src/relay/shard/dispatch.rs: handle_mesh", "a table of messages"),
    ("src/relay/shard/request/draw.rs: draw", "to be divided"),
    ("src/relay/shard/request/mod.rs: advance", "to be divided"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Sources below a folder by their path, in order.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.insert(name, text);
            }
        }
    }
    found
}

/// The lines of code of a source without comments and without its tests, which come last.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that some code names.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect()
    };
    for (_, rest) in code.match_indices("crate::").map(|(at, path)| (at, &code[at + path.len()..])) {
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        // Of a list what stands at its own level.
        let mut depth = 0;
        let mut begins = true;
        for (at, one) in list.char_indices() {
            if begins && depth == 0 {
                found.insert(name(&list[at..]));
            }
            begins = one == ',';
            match one {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

/// What stands between backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Each module with what it may import; the first are those that every module may import.
fn modules() -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page");
    let (mut shared, mut modules) = (BTreeSet::new(), BTreeMap::new());
    let rows = page.lines().skip_while(|line| *line != "| module | holds | may import |").skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let module = cells[1].trim_matches('`').trim_end_matches('/').trim_end_matches(".rs").to_owned();
        if cells[3] == "likewise" || cells[3].contains("every module may import it") {
            shared.insert(module.clone());
        }
        modules.insert(module, quoted(cells[3]));
    }
    (shared, modules)
}

#[test]
fn each_module_imports_only_what_the_table_in_architecture_lets_it() {
    let (shared, modules) = modules();
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let sources = sources("src");
    for (path, text) in &sources {
        let module = path["src/".len()..].split(['/', '.']).next().expect("a name");
        if module == "lib" || module == "main" || path.ends_with("testing.rs") {
            continue;
        }
        let allowed =
            modules.get(module).unwrap_or_else(|| panic!("{path} is in no module of ARCHITECTURE.md"));
        for import in imports(&code(text)) {
            let is_allowed = import == module || shared.contains(&import) || allowed.contains(&import);
            assert!(
                is_allowed,
                "{path} imports {import}, which ARCHITECTURE.md does not let {module} import"
            );
            used.entry(module).or_default().insert(import);
        }
    }
    for (module, allowed) in &modules {
        let used = used.get(module.as_str()).cloned().unwrap_or_default();
        let unused: Vec<_> = allowed.difference(&used).collect();
        assert!(unused.is_empty(), "ARCHITECTURE.md lets {module} import {unused:?}, which it does not need");
    }
}

#[test]
fn imports_are_found_however_they_are_written() {
    let found = |code: &str| imports(code).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::wire::NodeId;"), ["wire"]);
    assert_eq!(
        found("use crate::{\n    relay::{Class, mesh::{A, B}},\n    wire,\n};\nlet crate_ = 1;"),
        ["relay", "wire"]
    );
    assert_eq!(found("let x = crate::door::Door::new(crate::tls::y);"), ["door", "tls"]);
}

#[test]
fn unsafe_is_in_the_engine_only_and_each_has_its_reason() {
    for (path, text) in sources("src") {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let mut words = code.split(|one: char| !one.is_alphanumeric() && one != '_');
            if !words.any(|word| word == "unsafe") {
                continue;
            }
            assert!(path.starts_with("src/engine/"), "{path}:{}: unsafe outside the engine", index + 1);
            let above = &lines[index.saturating_sub(12)..index];
            let has_reason = above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            assert!(has_reason, "{path}:{}: unsafe without a SAFETY comment", index + 1);
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    for folder in ["src", "tests", "benches", "examples", "perf", "fuzz/src"] {
        for (path, text) in sources(folder) {
            assert!(text.starts_with("//!"), "{path} has no doc at its top");
        }
    }
}

#[test]
fn files_and_functions_are_short_but_for_those_that_are_listed() {
    let (mut files, mut functions) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        if text.lines().count() > FILE_LINES_MAX {
            files.insert(path.clone());
        }
        if path.starts_with("src/") {
            let long =
                function_lines(&code(&text)).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
            functions.extend(long.map(|(name, _)| format!("{path}: {name}")));
        }
    }
    let listed =
        |list: &[(&str, &str)]| list.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        files,
        listed(&LONG_FILES),
        "files of more than {FILE_LINES_MAX} lines, and those that are listed"
    );
    assert_eq!(
        functions,
        listed(&LONG_FUNCTIONS),
        "functions of more than {FUNCTION_LINES_MAX} lines, and those that are listed"
    );
}

/// The functions of some code with their lines, by the indentation that rustfmt gives them.
fn function_lines(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some((before, after)) = trimmed.split_once("fn ") else { continue };
        let is_declaration = before.split_whitespace().all(|word| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\""].contains(&word)
        });
        let name: String = after.chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect();
        // What a trait only names has no body.
        let signature_end = lines[index..].iter().find(|line| line.ends_with(['{', '}', ';']));
        if !is_declaration || name.is_empty() || !signature_end.is_some_and(|line| line.ends_with('{')) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - trimmed.len()]);
        if let Some(len) = lines[index..].iter().position(|line| *line == end) {
            found.push((name, len + 1));
        }
    }
    found
}

#[test]
fn the_lines_of_functions_are_counted_up_to_their_end() {
    let code = "pub(super) fn one() {\n    let x = 1;\n}\nimpl A {\n    fn no_body(\n        self,\n    );\n    async fn two(\n        self,\n    ) {\n    }\n}";
    assert_eq!(function_lines(code), [("one".to_owned(), 3), ("two".to_owned(), 4)]);
}
