//! Keys and certificates in memory.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256K1_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base16ct::lower::encode_string;
use rustls::pki_types::PrivateKeyDer;
use x509_cert::{
    Certificate,
    certificate::{TbsCertificate, Version},
    der::{
        Decode, Encode,
        asn1::{Any, BitString, Null, ObjectIdentifier, OctetString},
        pem::LineEnding,
    },
    ext::{Extension, pkix::BasicConstraints},
    name::Name,
    serial_number::SerialNumber,
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
    time::Time,
};
use zeroize::Zeroizing;

use crate::tls::identity::{IdentityError, certificates, private_key};

use super::plan::PlanError;

use crate::escape::shown_path;

pub(super) const OID_RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
pub(super) const OID_ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const OID_BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");

/// Why certificates or their files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Something is there already.
    #[error("{} exists already; nothing was changed. Choose another place (or, for a network, say --force to replace it)", shown_path(.0))]
    Exists(PathBuf),
    /// To be replaced, but nothing that was made here.
    #[error("{} is not a network that this program made (no cert/ca.crt in it), so it is not replaced", shown_path(.0))]
    NotANetwork(PathBuf),
    /// A network that would not run.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// A file cannot be written or read.
    #[error("{}: {source}", shown_path(path))]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name that does not fit into a certificate.
    #[error(
        "{0:?} is not a name for a certificate: use letters, digits, dots, dashes and underscores, at most 64"
    )]
    Name(String),
    /// `ip:count` was not understood.
    #[error("{0:?} is not a host with a number of nodes, such as 127.0.0.1:4")]
    Host(String),
    /// A certificate or key that cannot be read.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A key that is to be certified and is of another kind than the certificate has to be.
    #[error("{}: this authority certifies keys of {wanted} here, and the key is another", shown_path(path))]
    KeyType {
        /// The key's file.
        path: PathBuf,
        /// What it must be.
        wanted: &'static str,
    },
    /// There is a certificate for another key.
    #[error("{} is the certificate of another key than the one given; nothing was changed. Choose another place", shown_path(.0))]
    AnotherKey(PathBuf),
    /// A file that is no authority's certificate or key, or not of one pair.
    #[error("{}: not the certificate or key (PEM, PKCS#8, secp256k1 or RSA) of one authority", shown_path(.0))]
    Unusable(PathBuf),
    /// A request for a certificate that is not signed.
    #[error("{0}")]
    Request(#[from] super::request::RequestError),
    /// The cryptographic library refused.
    #[error("the cryptographic library could not make or use a key")]
    Crypto,
}

/// Most days that a certificate is good for: about 7,900 years, short of the year 9999.
pub const DAYS_MAX: u64 = 2_880_000;

/// What kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// For nodes, and for channels of the EC profile.
    Secp256k1,
    /// For channels of the RSA profile.
    Rsa2048,
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From an hour ago, for clocks that differ, for so many days.
    pub fn days(days: u64) -> Self {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let days = days.min(DAYS_MAX);
        Self { not_before: now - hour, not_after: now + Duration::from_secs(86_400 * days) }
    }

    /// The same for a certificate that takes the place of one that is good from then on: it begins later, so that the two
    /// can be told apart also when both are made within a second.
    pub fn replacing(self, not_before: SystemTime) -> Self {
        let later = not_before + Duration::from_secs(1);
        // Not in the future: a clock may have gone back.
        Self { not_before: self.not_before.max(later.min(SystemTime::now())), ..self }
    }
}

pub(super) enum Key {
    Secp256k1(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

/// A key that is there already, to be certified (again).
pub struct ExistingKey(pub(super) Key);

impl ExistingKey {
    /// Reads it: PEM without a password, in PKCS#8, PKCS#1 or SEC 1.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        Key::load(path).map(Self)
    }

    /// Whether it is the key that a PEM text of ours holds.
    pub fn has_pem(&self, pem: &str) -> Result<bool, PkiError> {
        Ok(self.0.private_pem()? == pem)
    }

    /// Whether a certificate is for this key.
    pub fn is_of(&self, certificate: &Path) -> Result<bool, PkiError> {
        let first = Authority::first_certificate(certificate)?;
        let spki = first.tbs_certificate.subject_public_key_info.to_der().map_err(|_| PkiError::Crypto)?;
        Ok(spki == self.0.public_der()?)
    }
}

impl Key {
    fn load(path: &Path) -> Result<Self, PkiError> {
        let bytes = read(path)?;
        let der = private_key(&bytes, path)?;
        let algorithm = &ECDSA_P256K1_SHA256_ASN1_SIGNING;
        let secp256k1 = || match &der {
            PrivateKeyDer::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Sec1(der) => {
                EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der()).ok()
            }
            _ => None,
        };
        let rsa = || match &der {
            PrivateKeyDer::Pkcs8(der) => rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der()).ok(),
            _ => None,
        };
        let key = secp256k1().map(Self::Secp256k1).or_else(|| rsa().map(Self::Rsa));
        key.ok_or_else(|| IdentityError::Key(path.to_owned()).into())
    }

    pub(super) fn generate(key_type: KeyType) -> Result<Self, PkiError> {
        Ok(match key_type {
            KeyType::Secp256k1 => loop {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256K1_SHA256_ASN1_SIGNING)
                    .map_err(|_| PkiError::Crypto)?;
                // FISCO BCOS refuses a private key, and misreads a public one, that begins with a zero byte.
                let private: EcPrivateKeyBin<'_> =
                    pair.private_key().as_be_bytes().map_err(|_| PkiError::Crypto)?;
                if private.as_ref()[0] != 0 && pair.public_key().as_ref()[1] != 0 {
                    break Self::Secp256k1(pair);
                }
            },
            KeyType::Rsa2048 => {
                Self::Rsa(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(|_| PkiError::Crypto)?)
            }
        })
    }

    pub(super) fn public_der(&self) -> Result<Vec<u8>, PkiError> {
        let der = match self {
            Self::Secp256k1(pair) => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()),
            Self::Rsa(pair) => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()),
        };
        der.map(|der| der.as_ref().to_vec()).map_err(|_| PkiError::Crypto)
    }

    pub(super) fn public_info(&self) -> Result<SubjectPublicKeyInfoOwned, PkiError> {
        SubjectPublicKeyInfoOwned::from_der(&self.public_der()?).map_err(|_| PkiError::Crypto)
    }

    /// The public key's point without its leading 04, for secp256k1.
    pub(super) fn node_id(&self) -> Option<String> {
        match self {
            Self::Secp256k1(pair) => Some(encode_string(&pair.public_key().as_ref()[1..])),
            Self::Rsa(_) => None,
        }
    }

    pub(super) fn private_pem(&self) -> Result<String, PkiError> {
        let pem = |der: &[u8]| {
            x509_cert::der::pem::encode_string("PRIVATE KEY", LineEnding::LF, der)
                .map_err(|_| PkiError::Crypto)
        };
        match self {
            Self::Secp256k1(pair) => pem(pair.to_pkcs8v1().map_err(|_| PkiError::Crypto)?.as_ref()),
            Self::Rsa(pair) => {
                let der = AsDer::<Pkcs8V1Der<'_>>::as_der(pair).map_err(|_| PkiError::Crypto)?;
                pem(der.as_ref())
            }
        }
    }

    pub(super) fn algorithm(&self) -> AlgorithmIdentifierOwned {
        match self {
            Self::Secp256k1(_) => AlgorithmIdentifierOwned { oid: OID_ECDSA_SHA256, parameters: None },
            Self::Rsa(_) => {
                AlgorithmIdentifierOwned { oid: OID_RSA_SHA256, parameters: Some(Any::from(Null)) }
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let random = SystemRandom::new();
        match self {
            Self::Secp256k1(pair) => {
                let signature = pair.sign(&random, message).map_err(|_| PkiError::Crypto)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| PkiError::Crypto)?;
                Ok(signature)
            }
        }
    }
}

/// A key with a certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM, one certificate.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
    /// The public key's point without its leading 04, for secp256k1.
    pub node_id: Option<String>,
}

/// A certificate authority: can issue.
pub struct Authority {
    /// Its certificate and key.
    pub issued: Issued,
    pub(super) name: Name,
    pub(super) key: Key,
}

/// How a certificate is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// X.509 version 1, without extensions.
    Version1,
    /// Version 3 with basic constraints.
    Version3 { authority: bool },
}

impl Authority {
    /// Reads an authority back from its PEM files, to issue more.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let parsed = Self::first_certificate(certificate)?;
        let key_pair = Key::load(key)?;
        let spki = parsed.tbs_certificate.subject_public_key_info.to_der().map_err(|_| PkiError::Crypto)?;
        if spki != key_pair.public_der()? {
            return Err(PkiError::Unusable(key.to_owned()));
        }
        let name = parsed.tbs_certificate.subject.clone();
        Ok(Self { issued: issued(parsed, &key_pair)?, name, key: key_pair })
    }

    fn first_certificate(path: &Path) -> Result<Certificate, PkiError> {
        let first = certificates(&read(path)?, path)?.swap_remove(0);
        Certificate::from_der(&first).map_err(|_| PkiError::Unusable(path.to_owned()))
    }

    /// Whether it issues for the RSA profile.
    pub fn is_rsa(&self) -> bool {
        matches!(self.key, Key::Rsa(_))
    }

    /// A root that signs itself, of version 1 without extensions.
    pub fn root(key_type: KeyType, name: &str, validity: Validity) -> Result<Self, PkiError> {
        let key = Key::generate(key_type)?;
        let name = distinguished_name(name, "chain")?;
        let certificate = issue(&key, &name, key.public_info()?, &name, Form::Version1, validity)?;
        Ok(Self { issued: issued(certificate, &key)?, name, key })
    }

    /// An authority below this one: version 3, CA.
    pub fn agency(&self, name: &str, validity: Validity) -> Result<Self, PkiError> {
        let key = Key::generate(KeyType::Secp256k1)?;
        let name = distinguished_name(name, "agency")?;
        let form = Form::Version3 { authority: true };
        let certificate = issue(&self.key, &self.name, key.public_info()?, &name, form, validity)?;
        Ok(Self { issued: issued(certificate, &key)?, name, key })
    }

    /// A leaf of version 3 that may issue nothing, with a new secp256k1 key; `unit` is `node` or `sdk`.
    pub fn leaf(&self, name: &str, unit: &str, validity: Validity) -> Result<Issued, PkiError> {
        self.certify_leaf(&ExistingKey(Key::generate(KeyType::Secp256k1)?), name, unit, validity)
    }

    /// The same with a key that is there.
    pub fn certify_leaf(
        &self,
        ExistingKey(key): &ExistingKey,
        name: &str,
        unit: &str,
        validity: Validity,
    ) -> Result<Issued, PkiError> {
        let name = distinguished_name(name, unit)?;
        let form = Form::Version3 { authority: false };
        issued(issue(&self.key, &self.name, key.public_info()?, &name, form, validity)?, key)
    }

    /// A leaf of version 1 with a new RSA key, for the channel.
    pub fn channel_leaf(&self, name: &str, validity: Validity) -> Result<Issued, PkiError> {
        self.certify_channel_leaf(&ExistingKey(Key::generate(KeyType::Rsa2048)?), name, validity)
    }

    /// A leaf of version 3 that may issue nothing, with a new RSA key, as FISCO BCOS 3.x makes them.
    pub fn rsa_leaf(&self, name: &str, validity: Validity) -> Result<Issued, PkiError> {
        let key = Key::generate(KeyType::Rsa2048)?;
        let name = distinguished_name(name, "agency")?;
        let form = Form::Version3 { authority: false };
        issued(issue(&self.key, &self.name, key.public_info()?, &name, form, validity)?, &key)
    }

    /// The same as [`Self::channel_leaf`] with a key that is there.
    pub fn certify_channel_leaf(
        &self,
        ExistingKey(key): &ExistingKey,
        name: &str,
        validity: Validity,
    ) -> Result<Issued, PkiError> {
        let name = distinguished_name(name, "agency")?;
        issued(issue(&self.key, &self.name, key.public_info()?, &name, Form::Version1, validity)?, key)
    }

    /// Whether leaves of this authority have keys of this kind; `path` is where the key is from.
    pub fn takes(&self, ExistingKey(key): &ExistingKey, path: &Path) -> Result<(), PkiError> {
        match (&self.key, key) {
            (Key::Rsa(_), Key::Rsa(_)) | (Key::Secp256k1(_), Key::Secp256k1(_)) => Ok(()),
            (Key::Rsa(_), _) => Err(PkiError::KeyType { path: path.to_owned(), wanted: "RSA" }),
            (Key::Secp256k1(_), _) => {
                Err(PkiError::KeyType { path: path.to_owned(), wanted: "the curve secp256k1" })
            }
        }
    }
}

pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    fs::read(path).map(Zeroizing::new).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

pub(super) fn distinguished_name(common_name: &str, unit: &str) -> Result<Name, PkiError> {
    let valid = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if common_name.is_empty() || common_name.len() > 64 || !common_name.chars().all(valid) {
        return Err(PkiError::Name(common_name.to_owned()));
    }
    // Written from the last to the first, as in RFC 4514.
    Name::from_str(&format!("OU={unit},O=fisco-bcos,CN={common_name}")).map_err(|_| PkiError::Crypto)
}

/// A certificate as PEM.
pub(super) fn pem_of(certificate: &Certificate) -> Result<String, PkiError> {
    let der = certificate.to_der().map_err(|_| PkiError::Crypto)?;
    x509_cert::der::pem::encode_string("CERTIFICATE", LineEnding::LF, &der).map_err(|_| PkiError::Crypto)
}

fn issued(certificate: Certificate, key: &Key) -> Result<Issued, PkiError> {
    Ok(Issued { certificate: pem_of(&certificate)?, key: key.private_pem()?, node_id: key.node_id() })
}

pub(super) fn issue(
    signer: &Key,
    issuer: &Name,
    subject_key: SubjectPublicKeyInfoOwned,
    subject: &Name,
    form: Form,
    validity: Validity,
) -> Result<Certificate, PkiError> {
    let crypto = |_| PkiError::Crypto;
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| PkiError::Crypto)?;
    // Positive, and never shorter.
    serial[0] = serial[0] & 0x7f | 0x40;
    let extensions = match form {
        Form::Version1 => None,
        Form::Version3 { authority } => {
            let constraints = BasicConstraints { ca: authority, path_len_constraint: None };
            let value = OctetString::new(constraints.to_der().map_err(crypto)?).map_err(crypto)?;
            Some(vec![Extension { extn_id: OID_BASIC_CONSTRAINTS, critical: false, extn_value: value }])
        }
    };
    let tbs_certificate = TbsCertificate {
        version: if form == Form::Version1 { Version::V1 } else { Version::V3 },
        serial_number: SerialNumber::new(&serial).map_err(crypto)?,
        signature: signer.algorithm(),
        issuer: issuer.clone(),
        validity: x509_cert::time::Validity {
            not_before: Time::try_from(validity.not_before).map_err(crypto)?,
            not_after: Time::try_from(validity.not_after).map_err(crypto)?,
        },
        subject: subject.clone(),
        subject_public_key_info: subject_key,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions,
    };
    let signature = signer.sign(&tbs_certificate.to_der().map_err(crypto)?)?;
    Ok(Certificate {
        tbs_certificate,
        signature_algorithm: signer.algorithm(),
        signature: BitString::from_bytes(&signature).map_err(crypto)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replaces_a_certificate_begins_later_and_not_in_the_future() {
        let (made, second) = (Validity::days(30), Duration::from_secs(1));
        let again = made.replacing(made.not_before);
        assert_eq!((again.not_before, again.not_after), (made.not_before + second, made.not_after));
        let long_ago = made.not_before - Duration::from_secs(86_400);
        assert_eq!(made.replacing(long_ago).not_before, made.not_before);
        let ahead = made.replacing(SystemTime::now() + Duration::from_secs(86_400));
        assert!(ahead.not_before > made.not_before && ahead.not_before <= SystemTime::now());
    }
}
