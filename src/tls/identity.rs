//! Certificates and keys from PEM files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::signature::{ECDSA_P256K1_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::SigningKey,
};
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::secp256k1::Key;
use crate::{
    encoding::{self, NotText},
    escape::shown_path,
    wire::NodeId,
};

/// The curve of SM2, as it is written in DER.
pub(crate) const SM2_CURVE: &[u8] = b"\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d";

/// What is wrong with a file of certificates or keys: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("{}: {source}", shown_path(path))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no certificate in it, or one is malformed.
    #[error("{}: no readable certificate (PEM, BEGIN CERTIFICATE) in this file", shown_path(.0))]
    Certificate(PathBuf),
    /// It is no text, in an encoding that PEM can be in.
    #[error("{}: {source}", shown_path(path))]
    NotText {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: NotText,
    },
    /// A key that needs a password.
    #[error("{}: this key needs a password, which a node cannot be given; take it away with: openssl pkey -in KEY -out NEW", shown_path(.0))]
    Password(PathBuf),
    /// A key of a kind that is not there.
    #[error("{}: this is an SM2 key; national cryptography is not there, a node's key must be of the curve secp256k1", shown_path(.0))]
    NationalCryptography(PathBuf),
    /// There is no usable key in it.
    #[error("{}: no usable private key in this file: it must be PEM, PKCS#8, RSA or secp256k1, without a password", shown_path(.0))]
    Key(PathBuf),
    /// Key and certificate are of different pairs.
    #[error(
        "{}: this key does not belong to the certificate in {}",
        shown_path(key),
        shown_path(certificate)
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A node's key must be secp256k1.
    #[error("{}: a node's key must be of the curve secp256k1", shown_path(.0))]
    NotANode(PathBuf),
}

/// A certificate with its chain and its key.
#[derive(Clone)]
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<dyn SigningKey>,
    secp256k1: Option<SecretKey>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a chain (leaf first) and its key, and checks that they belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read(certificate)?, &read(key)?, certificate, key)
    }

    /// The same from what the two files hold; errors name the files.
    pub fn from_pem(
        chain: &[u8],
        key_pem: &[u8],
        certificate: &Path,
        key: &Path,
    ) -> Result<Self, IdentityError> {
        let chain = certificates(chain, certificate)?;
        let der = private_key(key_pem, key)?;
        let leaf = parse(&chain[0]).ok_or_else(|| IdentityError::Certificate(certificate.to_owned()))?;
        let public_key = &leaf.public_key().subject_public_key.data;
        let mismatch =
            || IdentityError::Mismatch { key: key.to_owned(), certificate: certificate.to_owned() };
        if let Some(secret) = secp256k1_secret(&der) {
            let own = PublicKey::from_secret_key(SECP256K1, &secret);
            if PublicKey::from_slice(public_key).ok() != Some(own) {
                return Err(mismatch());
            }
            return Ok(Self { chain, key: Arc::new(Key(secret)), secp256k1: Some(secret) });
        }
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)
            .map_err(|_| IdentityError::Key(key.to_owned()))?;
        if signing.public_key().is_none_or(|spki| spki.as_ref() != leaf.public_key().raw) {
            return Err(mismatch());
        }
        Ok(Self { chain, key: signing, secp256k1: None })
    }

    /// The secret of a secp256k1 key, for signing state.
    pub fn secp256k1_secret(&self) -> Option<[u8; 32]> {
        self.secp256k1.map(|secret| secret.secret_bytes())
    }

    /// Whether the key is of that curve.
    pub fn is_secp256k1(&self) -> bool {
        self.secp256k1.is_some()
    }

    /// The node that a secp256k1 key makes.
    pub fn node_id(&self) -> Option<NodeId> {
        let secret = self.secp256k1.as_ref()?;
        let [_, id @ ..] = PublicKey::from_secret_key(SECP256K1, secret).serialize_uncompressed();
        Some(NodeId(id))
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The agency (the issuer's common name) and the common name in the certificate.
    pub fn names(&self) -> (String, String) {
        match parse(self.leaf()) {
            Some(leaf) => {
                let peer = super::verify::describe(&leaf);
                (peer.agency, peer.common_name)
            }
            None => Default::default(),
        }
    }
}

/// Certificates that chains must end at.
#[derive(Clone, Debug)]
pub struct Roots(pub(crate) Arc<Vec<CertificateDer<'static>>>);

impl Roots {
    /// Reads one or more certificates.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read(path)?, path)
    }

    /// The same from what a file holds; errors name it.
    pub fn from_pem(pem: &[u8], path: &Path) -> Result<Self, IdentityError> {
        let certificates = certificates(pem, path)?;
        if certificates.iter().any(|certificate| parse(certificate).is_none()) {
            return Err(IdentityError::Certificate(path.to_owned()));
        }
        Ok(Self(Arc::new(certificates)))
    }
}

pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let bytes = fs::read(path).map(Zeroizing::new);
    bytes.map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

fn pem(bytes: &[u8], path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    encoding::pem(bytes).map_err(|source| IdentityError::NotText { path: path.to_owned(), source })
}

/// The certificates of a PEM file, in their order.
pub fn certificates(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    match CertificateDer::pem_slice_iter(&pem(bytes, path)?).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(IdentityError::Certificate(path.to_owned())),
    }
}

/// The private key of a PEM file.
pub fn private_key(bytes: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let pem = pem(bytes, path)?;
    let has = |wanted: &[u8]| pem.windows(wanted.len()).any(|window| window == wanted);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(IdentityError::Password(path.to_owned()));
    }
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| IdentityError::Key(path.to_owned()))?;
    if der.secret_der().windows(SM2_CURVE.len()).any(|window| window == SM2_CURVE) {
        return Err(IdentityError::NationalCryptography(path.to_owned()));
    }
    Ok(der)
}

/// The number of a private key on secp256k1, in PKCS#8 or SEC 1; `None` for others.
pub(crate) fn secp256k1_secret(key: &PrivateKeyDer<'_>) -> Option<SecretKey> {
    use aws_lc_rs::encoding::AsBigEndian;
    let algorithm = &ECDSA_P256K1_SHA256_ASN1_SIGNING;
    let pair = match key {
        PrivateKeyDer::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der()).ok()?,
        PrivateKeyDer::Sec1(der) => {
            EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der()).ok()?
        }
        _ => return None,
    };
    let secret =
        AsBigEndian::<aws_lc_rs::encoding::EcPrivateKeyBin<'_>>::as_be_bytes(&pair.private_key()).ok()?;
    SecretKey::from_byte_array(secret.as_ref().try_into().ok()?).ok()
}
