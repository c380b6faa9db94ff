//! The built program against what other people wrote: OpenSSL's command and a scripted SDK in Python (`tls_clients`), and the
//! official Java SDK, as it is (all else); `java` is what runs over there: it does what it is told and reports what happens.
//! Without `python3`, `openssl`, Java or Maven these tests say so and pass, unless AMOP_INTEROP_REQUIRED is set, as in CI.
//!
//! A program of its own, which `scripts/interop.sh` runs alone where nothing may be skipped.

mod keys;
mod kit;
mod ledger;
mod messages;
mod networks;
mod private_topics;
mod result_codes;
#[allow(dead_code)] // a part of it is enough here
#[path = "../support/mod.rs"]
mod support;
mod tls_clients;
