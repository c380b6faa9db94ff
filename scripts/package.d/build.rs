//! What `amop --version`, and the metric `amop_build_info`, say beside the number: the commit, the target, and what the processor must have.
//!
//! The commit is that of `AMOP_COMMIT` if it is set, as `scripts/package` does; else that of an archive which git has made
//! (`scripts/package.d/commit`); else that of the repository, in release builds only: others would be built anew after each commit.

use std::{env, fs, process::Command};

const ARCHIVED: &str = "scripts/package.d/commit";
/// What every processor of this kind has, so that it need not be said.
const USUAL_FEATURES: [&str; 4] = ["fxsr", "sse", "sse2", "neon"];

fn main() {
    println!("cargo::rerun-if-changed=scripts/package.d/build.rs");
    println!("cargo::rerun-if-changed={ARCHIVED}");
    println!("cargo::rerun-if-env-changed=AMOP_COMMIT");
    let said = |name: &str| env::var(name).unwrap_or_default();
    let commit = given().or_else(archived).or_else(|| of_repository(&said("PROFILE")));
    println!("cargo::rustc-env=AMOP_BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let mut parts = vec![
        commit.map_or_else(|| "commit not known".to_owned(), |commit| format!("commit {commit}")),
        said("TARGET"),
        said("PROFILE"),
    ];
    let features = said("CARGO_CFG_TARGET_FEATURE");
    let features: Vec<_> = features.split(',').filter(|name| !USUAL_FEATURES.contains(name)).collect();
    println!("cargo::rustc-env=AMOP_BUILD_FEATURES={}", features.join(","));
    if features.iter().any(|name| !name.is_empty()) {
        parts.push(format!("needs {}", features.join(" ")));
    }
    println!("cargo::rustc-env=AMOP_VERSION={} ({})", said("CARGO_PKG_VERSION"), parts.join(", "));
}

fn given() -> Option<String> {
    env::var("AMOP_COMMIT").ok().filter(|commit| !commit.is_empty())
}

/// In a repository the placeholder is still there.
fn archived() -> Option<String> {
    let text = fs::read_to_string(ARCHIVED).ok()?;
    let commit = text.trim();
    commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| commit.chars().take(12).collect())
}

fn of_repository(profile: &str) -> Option<String> {
    if profile != "release" {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
