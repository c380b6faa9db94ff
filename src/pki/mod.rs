//! Certificates and ready node directories, as FISCO BCOS' `build_chain.sh` makes them.
//!
//! Two profiles (WIRE §1.8): secp256k1 chains of chain CA, agency and leaf for nodes and, if wanted,
//! for applications; and RSA-2048 pairs of CA and leaf, all of X.509 version 1, for the channel. In the layout of FISCO BCOS 3.x
//! the leaves of those are of version 3.
//!
//! ```text
//!   plan, certificate ─► network: nodes/127.0.0.1/{node0 …, sdk}, cert/{ca.crt, ca.key, agency/…}
//!   key ─► request ─► (to the agency) ─► certificate
//! ```
//!
//! Imports `config`, which reads what is written here, the reading of PEM files and checks of signatures from `tls`, and a bound of `relay`.
//!
//! # Invariants
//! - Keys are written with mode 0600, and no key is overwritten: only a whole network, where that is asked for, makes others in
//!   their place. A certificate is replaced by one for the same key, and kept beside it.

mod certificate;
mod network;
mod plan;
mod request;

pub use certificate::{Authority, DAYS_MAX, ExistingKey, Issued, KeyType, PkiError, Validity};
pub use network::{build_network, renew_public, write_pair, write_private, write_public};
pub use plan::{Host, Layout, NetworkPlan, PlanError, Profile};
pub use request::{Request, RequestError};
