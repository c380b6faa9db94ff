//! The `amop` binary; everything is in [`amop::cli`].

fn main() -> std::process::ExitCode {
    amop::cli::run()
}
