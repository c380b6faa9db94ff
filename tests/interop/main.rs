//! The built program against what other people wrote: OpenSSL's command and a scripted SDK in Python (`tls_clients`), and the
//! official SDKs, as they are: those for FISCO BCOS 3.x in Java and C (`applications_3x`), and the Java SDK for 2.x (all else). `java`, `java3x`
//! and `c_sdk.py` are what runs over there: they do what they are told and report what happens.
//! `status_page` is for a browser. Without `python3`, `openssl`, `chromium`, Java or Maven these tests say so and pass, unless AMOP_INTEROP_REQUIRED is set, as in CI.
//!
//! A program of its own, which `scripts/interop.sh` runs alone where nothing may be skipped.

mod applications_3x;
mod keys;
mod kit;
mod ledger;
mod messages;
mod networks;
mod private_topics;
mod result_codes;
mod status_page;
#[allow(dead_code)] // a part of it is enough here
#[path = "../support/mod.rs"]
mod support;
mod tls_clients;
