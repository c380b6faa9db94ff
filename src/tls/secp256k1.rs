//! secp256k1 for rustls: key exchange, signing, verification (DESIGN, TLS facts).

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::{
    Error, NamedGroup, PeerMisbehaved, ProtocolVersion, SignatureAlgorithm, SignatureScheme,
    crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup},
    ffdhe_groups::FfdheGroup,
    sign::{Signer, SigningKey},
};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey, ecdsa::Signature};
use zeroize::Zeroizing;

/// The group's number in TLS.
pub const GROUP: NamedGroup = NamedGroup::Unknown(0x0016);

/// ECDHE on secp256k1, TLS 1.2 only.
#[derive(Debug)]
pub struct KeyExchangeGroup;

impl SupportedKxGroup for KeyExchangeGroup {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = random_secret()?;
        let public = PublicKey::from_secret_key(SECP256K1, &secret).serialize_uncompressed();
        Ok(Box::new(KeyExchange { secret, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        GROUP
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_2
    }
}

/// A fresh secret key from the system's randomness.
fn random_secret() -> Result<SecretKey, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    loop {
        aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| Error::FailedToGetRandomBytes)?;
        // Fails for about one in 2^128.
        if let Ok(secret) = SecretKey::from_byte_array(*bytes) {
            return Ok(secret);
        }
    }
}

struct KeyExchange {
    secret: SecretKey,
    public: [u8; 65],
}

impl ActiveKeyExchange for KeyExchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let invalid = || Error::from(PeerMisbehaved::InvalidKeyShare);
        // Points travel uncompressed only (RFC 8422, section 5.4); the library would read other forms too.
        let uncompressed: &[u8; 65] = peer.try_into().map_err(|_| invalid())?;
        let peer = match uncompressed[0] {
            4 => PublicKey::from_byte_array_uncompressed(*uncompressed).map_err(|_| invalid())?,
            _ => return Err(invalid()),
        };
        let point = Zeroizing::new(secp256k1::ecdh::shared_secret_point(&peer, &self.secret));
        Ok(SharedSecret::from(&point[..32]))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        GROUP
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }
}

impl Drop for KeyExchange {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}

/// A private key of a certificate.
#[derive(Clone)]
pub struct Key(pub(crate) SecretKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secp256k1 key")
    }
}

/// ECDSA schemes of TLS 1.2, where the curve is the certificate's; with the length of their hash.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
];

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = SCHEMES.into_iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TlsSigner { key: Arc::new(self.clone()), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

#[derive(Debug)]
struct TlsSigner {
    key: Arc<Key>,
    scheme: SignatureScheme,
}

impl Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = digest_for(self.scheme, message)
            .ok_or_else(|| Error::General("a scheme that was never offered".to_owned()))?;
        let signature = SECP256K1.sign_ecdsa(Message::from_digest(digest), &self.key.0);
        Ok(signature.serialize_der().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// The hash of a scheme, as ECDSA on a curve of 256 bits uses it: its leftmost 32 bytes.
fn digest_for(scheme: SignatureScheme, message: &[u8]) -> Option<[u8; 32]> {
    let algorithm = match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => &digest::SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384 => &digest::SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512 => &digest::SHA512,
        _ => return None,
    };
    digest::digest(algorithm, message).as_ref().first_chunk().copied()
}

/// Whether `signature` (DER) over `message` is by `public_key` (a point). OpenSSL makes signatures with
/// a high S; they are as good.
pub fn verify(public_key: &[u8], scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(mut signature), Some(digest)) =
        (PublicKey::from_slice(public_key), Signature::from_der(signature), digest_for(scheme, message))
    else {
        return false;
    };
    signature.normalize_s();
    SECP256K1.verify_ecdsa(Message::from_digest(digest), &signature, &key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_an_exchange_agree_and_a_foreign_point_is_refused() {
        let (one, other) = (KeyExchangeGroup.start().unwrap(), KeyExchangeGroup.start().unwrap());
        let (one_public, other_public) = (one.pub_key().to_vec(), other.pub_key().to_vec());
        let secrets = (one.complete(&other_public).unwrap(), other.complete(&one_public).unwrap());
        assert_eq!(secrets.0.secret_bytes(), secrets.1.secret_bytes());
        assert!(KeyExchangeGroup.start().unwrap().complete(&[4; 65]).is_err());
    }

    #[test]
    fn compressed_and_hybrid_points_are_refused_in_an_exchange() {
        let exchange = || KeyExchangeGroup.start().unwrap();
        let point = PublicKey::from_secret_key(SECP256K1, &random_secret().unwrap());
        assert!(exchange().complete(&point.serialize()).is_err());
        let mut hybrid = point.serialize_uncompressed();
        hybrid[0] = 6 + (hybrid[64] & 1);
        assert!(PublicKey::from_slice(&hybrid).is_ok(), "the library reads it");
        assert!(exchange().complete(&hybrid).is_err());
        assert!(exchange().complete(&point.serialize_uncompressed()).is_ok());
    }
}
