//! `amop`: a relay node for AMOP, the messaging protocol of FISCO BCOS consortium chains
//! (Advanced Messages Onchain Protocol), on Linux, by io_uring, or by epoll where that cannot be had.
//!
//! For applications there are [`client`] and [`keys`]. Everything else is the program's own, and changes with it
//! (`ARCHITECTURE.md` says what each module holds); its tests, benches and rigs reach it by `internal`.

mod admin;
mod backoff;
mod bound;
mod bounds;
mod cli;
pub mod client;
mod clock;
mod config;
mod door;
mod encoding;
mod engine;
mod escape;
mod files;
pub mod keys;
mod load;
mod log;
mod node;
mod pki;
mod rate_limit;
mod relay;
mod service;
mod stop;
mod supervise;
mod tls;
mod wire;

/// What the program is made of, for its own tests, benches and rigs. It may change with every version.
#[doc(hidden)]
pub mod internal {
    /// Opens modules of the crate.
    macro_rules! open {
        ($($module:ident),+) => {
            $(pub mod $module {
                pub use crate::$module::*;
            })+
        };
    }

    open!(bounds, cli, config, door, engine, load, node, pki, relay, tls, wire);
}
