//! The `amop` binary; everything is in `cli`.

fn main() -> std::process::ExitCode {
    if cfg!(target_feature = "crt-static") {
        amop::internal::engine::names::look_up_without_loading();
    }
    amop::internal::cli::run()
}
