//! TLS: identities, verification, handshakes, and the record layer.
//!
//! Handshakes are rustls' own, driven without I/O through its unbuffered interface; afterwards the
//! secrets are taken out and the [`record`] layer carries on, so that frames are opened and sealed where
//! they lie. What FISCO BCOS' certificates need beyond rustls — secp256k1, X.509 version 1, no host
//! names — is here too (WIRE §1.8, §6.1).
//!
//! ```text
//!   identity ─┐
//!   settings ─┼─► config ─► handshake ─► Established { peer, sealer, opener }
//!   verify ───┤                             │
//!   secp256k1 ┘                             └─► record (used by the engine)
//!
//!   verify ─► path ─► signature
//! ```
//!
//! Imports nothing of ours but [`NodeId`].
//!
//! # Invariants
//! - Nobody is [`Established`] without a certificate that chains to a configured root and a proof that
//!   it has the key.
//! - One record that does not authenticate ends the connection.

pub mod config;
mod greeting;
pub mod handshake;
pub mod identity;
pub mod path;
pub mod presented;
pub mod random;
pub mod record;
pub mod secp256k1;
pub mod settings;
pub mod signature;
pub mod validity;
pub mod verify;

use crate::wire::NodeId;

/// A connection whose handshake is complete.
pub struct Established {
    /// Who is at the other end.
    pub peer: PeerCertificate,
    /// For sending.
    pub sealer: record::Sealer,
    /// For receiving.
    pub opener: record::Opener,
    /// Plaintext that came with the end of the handshake; before everything else.
    pub plaintext: Vec<u8>,
    /// Records, or the beginning of one, that came with the end of the handshake; still to be opened.
    pub received: Vec<u8>,
}

/// What a verified certificate says of its holder.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// The node that a secp256k1 key makes.
    pub node_id: Option<NodeId>,
    /// The whole subject, for people.
    pub subject: String,
    /// The subject's common name, or empty.
    pub common_name: String,
    /// The common name of the issuer, or empty: what FISCO BCOS calls the agency.
    pub agency: String,
    /// SHA-256 of what is signed of the certificate. Around that its holder could vary the encoding, and the
    /// signature itself, and be taken for many.
    pub fingerprint: [u8; 32],
}
