//! Bad input against real nodes over real sockets. In each test a pair of honest sessions goes on
//! exchanging messages at the node under attack, and every one must be answered.
//!
//! A program of its own: its floods take most of the files that a process may have open, one of them 11,000.

mod bodies;
mod causes;
mod dialled;
mod frames;
mod handshakes;
mod healthy;
mod neighbours;
mod node_link;
mod peers_2x;
mod processes;
mod records;
mod sessions;
#[allow(dead_code)] // a part of it is enough here
#[path = "../support/mod.rs"]
mod support;
mod web_sockets;
