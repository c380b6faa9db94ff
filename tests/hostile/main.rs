//! Bad input against real nodes over real sockets. In each test a pair of honest sessions goes on
//! exchanging messages at the node under attack, and every one must be answered.

mod bodies;
mod causes;
mod dialled;
mod frames;
mod handshakes;
mod healthy;
mod neighbours;
mod processes;
mod records;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
