//! Keys of applications: pairs on secp256k1 by which subscribers of private topics prove who they are
//! (WIRE §4).
//!
//! A subscriber signs the Keccak-256 hash of what it is challenged with; a publisher knows the public keys of
//! those who may read. Keys are written as FISCO BCOS' `get_account.sh` writes accounts, so that its tools and
//! SDKs read ours and we read theirs. National cryptography (SM2) is not there.
//!
//! Imports `wire` for hex digits, and `tls` for reading keys.
//!
//! # Invariants
//! - A private key is never printed but by those who ask for its digits, and is erased when it is dropped.

pub mod file;

use std::fmt;

use secp256k1::{Message, SECP256K1, SecretKey, ecdsa::Signature};
use sha3::{Digest, Keccak256};
use zeroize::Zeroizing;

use crate::wire::hex;

/// Length of a signature in bytes: r, s, and the number of the point that the public key is recovered from.
pub const SIGNATURE_LEN: usize = 65;

/// Proves who a subscriber is.
#[derive(Clone)]
pub struct PrivateKey(SecretKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the private key of {}", self.public_key())
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl PrivateKey {
    /// A fresh key.
    ///
    /// # Panics
    /// If the system has no randomness.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        loop {
            aws_lc_rs::rand::fill(bytes.as_mut()).expect("the system has randomness");
            // Fails for about one in 2^128.
            if let Some(key) = Self::from_bytes(&bytes) {
                return key;
            }
        }
    }

    /// The key of a number; `None` if that is 0 or beyond the curve's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        SecretKey::from_byte_array(*bytes).ok().map(Self)
    }

    /// The key's number.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.secret_bytes())
    }

    /// The other half of the pair.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key(SECP256K1))
    }

    /// Signs the Keccak-256 hash of `message`, as the official SDKs do: r, s in the lower half, and 0 to 3.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature = SECP256K1.sign_ecdsa_recoverable(digest(message), &self.0);
        let (recovery, compact) = signature.serialize_compact();
        let mut bytes = [0; SIGNATURE_LEN];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = i32::from(recovery) as u8;
        bytes
    }
}

/// By which a publisher knows a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(secp256k1::PublicKey);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 128 hex digits, as FISCO BCOS writes public keys.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.to_bytes()))
    }
}

impl PublicKey {
    /// The key of a point: 64 bytes, or 65 or 33 of SEC 1; `None` if it is not on the curve.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let point = match <[u8; 64]>::try_from(bytes) {
            Ok(coordinates) => {
                let mut point = [4; 65];
                point[1..].copy_from_slice(&coordinates);
                secp256k1::PublicKey::from_byte_array_uncompressed(point)
            }
            Err(_) => secp256k1::PublicKey::from_slice(bytes),
        };
        point.ok().map(Self)
    }

    /// Both coordinates of the point.
    pub fn to_bytes(&self) -> [u8; 64] {
        let [_, coordinates @ ..] = self.0.serialize_uncompressed();
        coordinates
    }

    /// The account that FISCO BCOS knows the key by: the last 20 bytes of its Keccak-256 hash.
    pub fn address(&self) -> [u8; 20] {
        let hash: [u8; 32] = Keccak256::digest(self.to_bytes()).into();
        *hash.last_chunk().expect("20 of 32 bytes")
    }

    /// Whether `signature` is this key's over the Keccak-256 hash of `message`. Its last byte, which says where
    /// the key could be found, is not looked at: SDKs differ in what they put there.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let [compact @ .., _] = signature;
        let Ok(mut signature) = Signature::from_compact(compact) else { return false };
        // Some libraries make signatures with a high S; they are as good.
        signature.normalize_s();
        SECP256K1.verify_ecdsa(digest(message), &signature, &self.0).is_ok()
    }
}

fn digest(message: &[u8]) -> Message {
    Message::from_digest(Keccak256::digest(message).into())
}

#[cfg(test)]
mod tests {
    use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};

    use super::*;

    fn key(number: u8) -> PrivateKey {
        let mut bytes = [0; 32];
        bytes[31] = number;
        PrivateKey::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn the_address_of_key_1_is_the_known_one() {
        // Of every chain that makes addresses like Ethereum.
        let address = key(1).public_key().address();
        assert_eq!(hex::encode(&address), "7e5f4552091a69125d5dfcb7b8c2659029395bdf");
    }

    #[test]
    fn a_signature_is_its_keys_over_its_message_only() {
        let signature = key(7).sign(b"challenge");
        assert!(key(7).public_key().verify(b"challenge", &signature));
        assert!(!key(8).public_key().verify(b"challenge", &signature));
        assert!(!key(7).public_key().verify(b"another", &signature));
        for index in 0..64 {
            let mut changed = signature;
            changed[index] ^= 1;
            assert!(!key(7).public_key().verify(b"challenge", &changed), "byte {index}");
        }
        for malformed in [[0xff; 65], [0; 65]] {
            assert!(!key(7).public_key().verify(b"challenge", &malformed));
        }
    }

    #[test]
    fn signatures_are_those_of_the_java_sdk() {
        // Made with its 2.10.1.
        let known = [
            (
                1,
                "b033aa79a34eb7c594c5233012bf93f8d6b87d490544da7ec52ff5b4267ca163\
                 6407e96eaa299a089eaf3861f852719bf0b9c657c5a833d1fff6b7ca9b6fd26a00",
            ),
            (
                3,
                "a226b65ca6be993ffe9559271ee43ff6a286ca3f5a2dbc7f85ad82f4430c0910\
                 196a1ff2349752bc06f3ef964fb0384a2cde10767fd39d1894c94ebbdd40213e01",
            ),
        ];
        for (number, signature) in known {
            let made = key(number).sign(b"0123456789abcdef0123456789abcdef");
            assert_eq!(hex::encode(&made), signature, "{number}");
        }
    }

    #[test]
    fn the_signers_key_is_recovered_from_its_signature() {
        for number in 1..20 {
            let signature = key(number).sign(b"challenge");
            let recovery = RecoveryId::try_from(i32::from(signature[64])).unwrap();
            let signature = RecoverableSignature::from_compact(&signature[..64], recovery).unwrap();
            let found = SECP256K1.recover_ecdsa(digest(b"challenge"), &signature).unwrap();
            assert_eq!(PublicKey(found), key(number).public_key());
        }
    }

    #[test]
    fn a_public_key_is_read_in_every_form_of_its_point() {
        let public = key(3).public_key();
        assert_eq!(PublicKey::from_bytes(&public.to_bytes()), Some(public));
        assert_eq!(PublicKey::from_bytes(&public.0.serialize_uncompressed()), Some(public));
        assert_eq!(PublicKey::from_bytes(&public.0.serialize()), Some(public));
        assert_eq!(PublicKey::from_bytes(&[1; 64]), None, "not on the curve");
        assert_eq!(PublicKey::from_bytes(&[]), None);
        assert!(PrivateKey::from_bytes(&[0; 32]).is_none() && PrivateKey::from_bytes(&[0xff; 32]).is_none());
    }

    #[test]
    fn a_private_key_does_not_show_in_what_is_printed_for_debugging() {
        let printed = format!("{:?}", key(0xab));
        assert!(!printed.contains(&hex::encode(key(0xab).to_bytes().as_ref())), "{printed}");
    }
}
