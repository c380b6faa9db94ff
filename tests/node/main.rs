//! The node, the client library and the commands, as whoever uses them meets them: over real sockets, with real certificates
//! and, where the command line is meant, by the built program. One file for each subject.
//!
//! All tests are threads of one process: none changes what the whole process shares, such as its environment, its working
//! directory, its limits, its log or its allocator. A test that must is a program of its own and says so at its top.

mod addressing;
mod admin;
mod admin_access;
mod bench;
mod client;
mod command_line;
mod configuration;
mod dialect_3x;
mod doctor;
mod engine;
mod epoll;
mod few_files;
mod flow;
mod json;
mod keys;
mod kill;
mod lame_duck;
mod layout_3x;
mod ledger;
mod ledger_check;
mod ledger_messages;
mod log_files;
mod log_reader;
mod many_reactors;
mod membership;
mod memory;
mod mistakes;
mod network;
mod pauses;
mod peer_2x;
mod pki_requests;
mod plaintext;
mod private_topics;
mod quiet;
mod readiness;
mod record;
mod result_codes;
mod service;
mod sm_chain;
mod start_scripts;
mod stop;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod trace;
mod web_sockets;
