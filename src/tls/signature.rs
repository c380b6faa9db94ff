//! Public keys of certificates, and the signatures that they check.

use aws_lc_rs::signature as aws;
use rustls::SignatureScheme;
use x509_parser::{
    certificate::X509Certificate,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519, Oid,
    },
    prelude::FromDer,
    public_key::RSAPublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::secp256k1;
use crate::wire::NodeId;

/// Longest modulus in bits of an RSA key that somebody else chose. The cost of a check grows with its square.
pub const RSA_MODULUS_BITS_MAX: usize = 4_096;
/// Largest public exponent of such a key: the one that nearly all have. The cost grows with its length.
pub const RSA_EXPONENT_MAX: u64 = 65_537;

/// The curve's OID: 1.3.132.0.10.
const OID_SECP256K1: [u64; 5] = [1, 3, 132, 0, 10];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Secp256k1,
    P256,
    P384,
    Rsa,
    Ed25519,
}

/// A public key of a kind that is known here.
#[derive(Clone, Debug)]
pub(super) struct PublicKey {
    kind: KeyKind,
    bits: Vec<u8>,
}

impl PublicKey {
    pub(super) fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let algorithm = &key.algorithm.algorithm;
        let kind = if *algorithm == OID_PKCS1_RSAENCRYPTION {
            KeyKind::Rsa
        } else if *algorithm == OID_SIG_ED25519 {
            KeyKind::Ed25519
        } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            if Oid::from(&OID_SECP256K1).is_ok_and(|oid| oid == curve) {
                KeyKind::Secp256k1
            } else if curve == OID_EC_P256 {
                KeyKind::P256
            } else if curve == OID_NIST_EC_P384 {
                KeyKind::P384
            } else {
                return None;
            }
        } else {
            return None;
        };
        Some(Self { kind, bits: key.subject_public_key.data.to_vec() })
    }

    pub(super) fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Whether a check with it costs no more than the bounds allow. Keys on curves cost what they cost.
    pub(super) fn is_within_bounds(&self) -> bool {
        if self.kind != KeyKind::Rsa {
            return true;
        }
        let Ok((_, key)) = RSAPublicKey::from_der(&self.bits) else { return false };
        let (modulus, exponent) = (without_zeros(key.modulus), without_zeros(key.exponent));
        let modulus_bits =
            modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        let exponent = exponent
            .iter()
            .try_fold(0_u64, |value, &byte| value.checked_mul(256).map(|value| value + u64::from(byte)));
        modulus_bits <= RSA_MODULUS_BITS_MAX && exponent.is_some_and(|value| value <= RSA_EXPONENT_MAX)
    }

    /// Whether it is the same key, however its point is written.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && (self.bits == other.bits || self.node_id().is_some_and(|id| other.node_id() == Some(id)))
    }

    /// The node that a secp256k1 key makes.
    pub(super) fn node_id(&self) -> Option<NodeId> {
        if self.kind != KeyKind::Secp256k1 {
            return None;
        }
        let key = ::secp256k1::PublicKey::from_slice(&self.bits).ok()?;
        let [_, id @ ..] = key.serialize_uncompressed();
        Some(NodeId(id))
    }

    /// Whether it made the signature, as TLS 1.2 names schemes: the curve is the key's, whatever the scheme is called.
    pub(super) fn verify(&self, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
        if self.kind == KeyKind::Secp256k1 {
            return secp256k1::verify(&self.bits, scheme, message, signature);
        }
        algorithm(self.kind, scheme).is_some_and(|algorithm| {
            aws::UnparsedPublicKey::new(algorithm, &self.bits).verify(message, signature).is_ok()
        })
    }
}

fn without_zeros(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}

fn algorithm(kind: KeyKind, scheme: SignatureScheme) -> Option<&'static dyn aws::VerificationAlgorithm> {
    Some(match (kind, scheme) {
        (KeyKind::Rsa, SignatureScheme::RSA_PKCS1_SHA256) => &aws::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa, SignatureScheme::RSA_PKCS1_SHA384) => &aws::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa, SignatureScheme::RSA_PKCS1_SHA512) => &aws::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA256) => &aws::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA384) => &aws::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA512) => &aws::RSA_PSS_2048_8192_SHA512,
        (KeyKind::P256, SignatureScheme::ECDSA_NISTP256_SHA256) => &aws::ECDSA_P256_SHA256_ASN1,
        (KeyKind::P256, SignatureScheme::ECDSA_NISTP384_SHA384) => &aws::ECDSA_P256_SHA384_ASN1,
        (KeyKind::P384, SignatureScheme::ECDSA_NISTP384_SHA384) => &aws::ECDSA_P384_SHA384_ASN1,
        (KeyKind::P384, SignatureScheme::ECDSA_NISTP256_SHA256) => &aws::ECDSA_P384_SHA256_ASN1,
        (KeyKind::Ed25519, SignatureScheme::ED25519) => &aws::ED25519,
        _ => return None,
    })
}

/// The scheme that a certificate is signed by; `None` if it is not known here. The algorithm stands there twice, and only
/// one of them is signed: they must be the same.
pub(super) fn scheme_of(certificate: &X509Certificate<'_>) -> Option<SignatureScheme> {
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return None;
    }
    let oid = &certificate.signature_algorithm.algorithm;
    Some(if *oid == OID_PKCS1_SHA256WITHRSA {
        SignatureScheme::RSA_PKCS1_SHA256
    } else if *oid == OID_PKCS1_SHA384WITHRSA {
        SignatureScheme::RSA_PKCS1_SHA384
    } else if *oid == OID_PKCS1_SHA512WITHRSA {
        SignatureScheme::RSA_PKCS1_SHA512
    } else if *oid == OID_SIG_ECDSA_WITH_SHA256 {
        SignatureScheme::ECDSA_NISTP256_SHA256
    } else if *oid == OID_SIG_ECDSA_WITH_SHA384 {
        SignatureScheme::ECDSA_NISTP384_SHA384
    } else if *oid == OID_SIG_ECDSA_WITH_SHA512 {
        SignatureScheme::ECDSA_NISTP521_SHA512
    } else if *oid == OID_SIG_ED25519 {
        SignatureScheme::ED25519
    } else {
        return None;
    })
}
