//! Signed state records and the steps that change them (WIRE §6.3, docs/node-link.md).
