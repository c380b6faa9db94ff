//! Signatures by node keys over state (WIRE §6.3): ECDSA on secp256k1, 64 bytes compact.

use secp256k1::{Message, PublicKey, SECP256K1, SecretKey, ecdsa::Signature};

use super::sealing::Secret;
use crate::wire::NodeId;

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A node's private key, as far as state is concerned.
#[derive(Clone)]
pub struct NodeSigner {
    secret: SecretKey,
    id: NodeId,
}

impl NodeSigner {
    /// Takes the 32 bytes of a private key; `None` if they are none.
    pub fn from_secret_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_byte_array(*bytes).ok()?;
        let [_, id @ ..] = PublicKey::from_secret_key(SECP256K1, &secret).serialize_uncompressed();
        Some(Self { secret, id: NodeId(id) })
    }

    /// The node that the key makes.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What this node shares with another one; `None` if its id is no key.
    pub fn share_with(&self, other: NodeId) -> Option<Secret> {
        Secret::new(&self.secret, self.id, other)
    }

    /// Signs a digest.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; SIGNATURE_LEN] {
        SECP256K1.sign_ecdsa(Message::from_digest(*digest), &self.secret).serialize_compact()
    }
}

impl std::fmt::Debug for NodeSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeSigner({})", self.id)
    }
}

/// Whether `signature` over `digest` is by the node.
pub fn verify(id: &NodeId, digest: &[u8; 32], signature: &[u8; SIGNATURE_LEN]) -> bool {
    let mut point = [4; 65];
    point[1..].copy_from_slice(&id.0);
    let (Ok(key), Ok(mut signature)) =
        (PublicKey::from_byte_array_uncompressed(point), Signature::from_compact(signature))
    else {
        return false;
    };
    signature.normalize_s();
    SECP256K1.verify_ecdsa(Message::from_digest(*digest), &signature, &key).is_ok()
}
