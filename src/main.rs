//! The `amop` binary; everything is in `cli`.

fn main() -> std::process::ExitCode {
    amop::internal::cli::run()
}
