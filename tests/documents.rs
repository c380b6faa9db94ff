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
