//! The rules of WIRE on the sans-IO relay: one file a behaviour, all on the virtual network of `kit`.
#![allow(unreachable_pub)] // modules of one test program

mod announce;
mod bandwidth;
mod dialect_3x;
mod faults_of_fisco_bcos;
mod flow;
mod full_links;
mod injection;
mod kit;
mod lame_duck;
mod latencies;
mod ledger;
mod ledger_beside_links;
mod ledger_messages;
mod lists;
mod long_frames;
mod multicast;
mod named_frames;
mod node_links;
mod paths;
mod peer_2x;
mod peer_2x_private;
mod ping;
mod private_topics;
mod repeated_incarnations;
mod result_codes;
mod returned_nodes;
mod session;
mod simulation;
mod state_requests;
mod trace;
mod unicast;
mod unsettled;
