//! What the fuzz targets do; the programs in `fuzz_targets/` only hand their input on.

use std::{env, fs, path::Path};

pub mod targets;

/// Writes a target's seeds into the directory that `AMOP_FUZZ_SEEDS` names, if it does: `scripts/fuzz`
/// asks for them so.
///
/// # Panics
/// If they cannot be written.
pub fn write_seeds(name: &str) {
    let Some(directory) = env::var_os("AMOP_FUZZ_SEEDS") else { return };
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("a target");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&directory).join(format!("seed-{number:03}"));
        fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
