//! Requests for certificates (PKCS#10): what whoever has a key sends to an agency, so that the key need not leave its machine.

use std::path::Path;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls::SignatureScheme;
use x509_cert::{
    der::{
        Decode, Encode,
        asn1::{BitString, ObjectIdentifier, SetOfVec},
        pem::{self, LineEnding},
    },
    name::Name,
    request::{CertReq, CertReqInfo, Version},
    spki::SubjectPublicKeyInfoOwned,
};

use super::certificate::{
    Authority, ExistingKey, Form, Key, OID_ECDSA_SHA256, OID_RSA_SHA256, PkiError, Validity,
    distinguished_name, issue, pem_of, read,
};
use crate::{encoding, escape::shown_path, tls::secp256k1};

const OID_COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const OID_SECP256K1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It cannot be read.
    #[error("{}: no request for a certificate (PKCS#10 in PEM, BEGIN CERTIFICATE REQUEST)", shown_path(.0))]
    Unreadable(std::path::PathBuf),
    /// It is not signed by the key that it is for.
    #[error(
        "{}: not signed by the key that it is for, with SHA-256: it was changed on the way, or whoever made it has not that key",
        shown_path(.0)
    )]
    NotProven(std::path::PathBuf),
    /// Its key is of a kind that is of no use.
    #[error("{}: its key must be of the curve secp256k1, or RSA of 2048 bits or more for the RSA profile", shown_path(.0))]
    KeyType(std::path::PathBuf),
}

/// A request whose maker has proven that it has the key.
pub struct Request {
    subject: Name,
    key: SubjectPublicKeyInfoOwned,
    is_rsa: bool,
}

impl ExistingKey {
    /// A new one of this kind.
    pub fn generate(key_type: super::KeyType) -> Result<Self, PkiError> {
        Key::generate(key_type).map(Self)
    }

    /// PEM, PKCS#8.
    pub fn pem(&self) -> Result<String, PkiError> {
        self.0.private_pem()
    }

    /// The node that it makes; `None` of an RSA key.
    pub fn node_id(&self) -> Option<String> {
        self.0.node_id()
    }

    /// A request for a certificate of this key, in PEM; `unit` is `node` or `sdk`.
    pub fn request(&self, name: &str, unit: &str) -> Result<String, PkiError> {
        let crypto = |_| PkiError::Crypto;
        let info = CertReqInfo {
            version: Version::V1,
            subject: distinguished_name(name, unit)?,
            public_key: self.0.public_info()?,
            attributes: SetOfVec::default(),
        };
        let signature = self.0.sign(&info.to_der().map_err(crypto)?)?;
        let request = CertReq {
            info,
            algorithm: self.0.algorithm(),
            signature: BitString::from_bytes(&signature).map_err(crypto)?,
        };
        pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &request.to_der().map_err(crypto)?)
            .map_err(|_| PkiError::Crypto)
    }
}

impl Request {
    /// Reads a request, and checks that it is signed by the key that it is for.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let unreadable = || PkiError::from(RequestError::Unreadable(path.to_owned()));
        let text = encoding::pem(&read(path)?).map_err(|_| unreadable())?;
        let start = text.windows(10).position(|window| window == b"-----BEGIN").ok_or_else(unreadable)?;
        let (label, der) = pem::decode_vec(text[start..].trim_ascii_end()).map_err(|_| unreadable())?;
        if !["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(&label) {
            return Err(unreadable());
        }
        let request = CertReq::from_der(&der).map_err(|_| unreadable())?;
        let CertReq { info, algorithm, signature } = request;
        let signed = info.to_der().map_err(|_| unreadable())?;
        let key = &info.public_key;
        let bits = key.subject_public_key.as_bytes().ok_or_else(unreadable)?;
        let signature = signature.as_bytes().ok_or_else(unreadable)?;
        let curve: Option<ObjectIdentifier> =
            key.algorithm.parameters.as_ref().and_then(|parameters| parameters.decode_as().ok());
        let is_rsa = key.algorithm.oid == const { ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1") };
        let is_proven = if is_rsa {
            algorithm.oid == OID_RSA_SHA256
                && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, bits)
                    .verify(&signed, signature)
                    .is_ok()
        } else if curve == Some(OID_SECP256K1) {
            algorithm.oid == OID_ECDSA_SHA256
                && secp256k1::verify(bits, SignatureScheme::ECDSA_NISTP256_SHA256, &signed, signature)
        } else {
            return Err(RequestError::KeyType(path.to_owned()).into());
        };
        match is_proven {
            true => Ok(Self { subject: info.subject, key: info.public_key, is_rsa }),
            false => Err(RequestError::NotProven(path.to_owned()).into()),
        }
    }

    /// The common name that it asks for; empty if it asks for none.
    pub fn common_name(&self) -> String {
        let mut names = self.subject.0.iter().flat_map(|relative| relative.0.iter());
        let common = names.rfind(|name| name.oid == OID_COMMON_NAME);
        common.map(|name| String::from_utf8_lossy(name.value.value()).into_owned()).unwrap_or_default()
    }

    /// The node that its key makes; `None` of an RSA key.
    pub fn node_id(&self) -> Option<String> {
        let bits = self.key.subject_public_key.as_bytes()?;
        let point = bits.strip_prefix(&[4]).filter(|point| !self.is_rsa && point.len() == 64)?;
        Some(base16ct::lower::encode_string(point))
    }
}

impl Authority {
    /// A leaf for the key of a request, in PEM, as this authority issues them: of version 1 in the RSA profile, else of version 3.
    /// What else the request asks for is not read.
    pub fn sign(
        &self,
        request: &Request,
        (name, unit): (&str, &str),
        validity: Validity,
    ) -> Result<String, PkiError> {
        let (unit, form) = match self.is_rsa() {
            true => ("agency", Form::Version1),
            false => (unit, Form::Version3 { authority: false }),
        };
        let name = distinguished_name(name, unit)?;
        pem_of(&issue(&self.key, &self.name, request.key.clone(), &name, form, validity)?)
    }

    /// Whether this authority issues for keys as that of a request; `path` is where it is from.
    pub fn takes_request(&self, request: &Request, path: &Path) -> Result<(), PkiError> {
        match (self.is_rsa(), request.is_rsa) {
            (true, false) => Err(PkiError::KeyType { path: path.to_owned(), wanted: "RSA" }),
            (false, true) => Err(PkiError::KeyType { path: path.to_owned(), wanted: "the curve secp256k1" }),
            _ => Ok(()),
        }
    }
}
