//! The commands of the binary.

/// Runs the command line and gives the exit status.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
