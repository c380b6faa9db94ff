//! The official Java SDK, as it is, against the built program. Without Java or Maven these tests say so and
//! pass, unless AMOP_INTEROP_REQUIRED is set, as in CI. `interop/java` is what runs over there: it does what
//! it is told and reports what happens.

mod keys;
mod kit;
mod messages;
mod networks;
mod private_topics;
mod result_codes;
#[path = "../support/mod.rs"]
mod support;
