//! `amop`: a relay node for AMOP, the messaging protocol of FISCO BCOS consortium chains
//! (Advanced Messages Onchain Protocol), on Linux io_uring.
//!
//! The modules of the crate, from the inside out (`ARCHITECTURE.md` draws them):
//!
//! | module | holds |
//! |---|---|
//! | [`escape`] | what others wrote, made fit for terminals and logs |
//! | `files` | files that are whole or not there |
//! | [`encoding`] | text files as every editor writes them |
//! | `backoff` | how long to wait before a connection is tried again |
//! | `clock` | time without the pauses in which the process stood still |
//! | `bound` | what a bound is |
//! | `stop` | the time that a stop may take |
//! | [`supervise`] | threads and tasks, whose death is noticed |
//! | [`bounds`] | every bound, and the memory of all of them |
//! | [`wire`] | bytes ⇄ types for SDK links and node links; pure |
//! | [`relay`] | what the node decides; no sockets, no clock, no randomness of its own |
//! | [`tls`] | identities, verification, handshakes, the record layer |
//! | [`engine`] | io_uring: the reactors that own the links |
//! | [`door`] | listeners, dialers, handshakes |
//! | [`admin`] | metrics, health and lists over HTTP |
//! | [`node`] | one node, put together |
//! | [`config`] | `config.ini` |
//! | [`log`] | log lines, and the thread that writes them |
//! | [`keys`] | keys that subscribers of private topics prove themselves with |
//! | [`client`] | the Rust SDK |
//! | [`load`] | the load generator of `amop bench` |
//! | [`pki`] | certificates and ready node directories |
//! | [`cli`] | the commands of the binary |

pub mod admin;
mod backoff;
mod bound;
pub mod bounds;
pub mod cli;
pub mod client;
mod clock;
pub mod config;
pub mod door;
pub mod encoding;
pub mod engine;
pub mod escape;
mod files;
pub mod keys;
pub mod load;
pub mod log;
pub mod node;
pub mod pki;
pub mod relay;
mod stop;
pub mod supervise;
pub mod tls;
pub mod wire;
