//! Chains of certificates, with whatever is to be wrong with them. Keys are numbers and signatures deterministic.

use std::{path::Path, time::Duration};

use rustls::{
    CertificateError,
    pki_types::{CertificateDer, UnixTime},
};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use x509_cert::{
    certificate::{TbsCertificate, Version},
    der::{
        Encode,
        asn1::{Any, BitString, GeneralizedTime, Null, ObjectIdentifier, OctetString},
        pem::LineEnding,
    },
    ext::{Extension, pkix::BasicConstraints},
    name::Name,
    serial_number::SerialNumber,
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
    time::{Time, Validity},
};

use super::super::{
    identity::Roots,
    verify::{IssuerPolicy, Refusal, Verifier},
};
use super::{Checks, SIGNATURES_MAX};

const OID_ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const OID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_SECP256K1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");
const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const OID_BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const OID_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const YEAR: u64 = 365 * 86_400;

/// Bits of a key usage, as they stand in its first byte.
pub(super) const DIGITAL_SIGNATURE: u8 = 1 << 7;
pub(super) const KEY_ENCIPHERMENT: u8 = 1 << 5;
pub(super) const CERT_SIGN: u8 = 1 << 2;
pub(super) const CRL_SIGN: u8 = 1 << 1;

/// Whose certificate it is.
#[derive(Clone)]
pub(super) enum Key {
    Secp256k1(u8),
    /// The same, its point written in the short form.
    Compressed(u8),
    /// A public key that nobody has the private one of.
    Rsa {
        modulus_bits: usize,
        exponent: u64,
    },
}

/// A certificate to be made.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) key: Key,
    /// The number of the key that signs it.
    pub(super) signed_by: u8,
    pub(super) version_1: bool,
    /// Years from now.
    pub(super) valid: (i64, i64),
    /// Whether it is an authority, and the bound on its path.
    pub(super) constraints: Option<(bool, Option<u8>)>,
    pub(super) usage: Option<u8>,
    /// Identifier, whether it is critical, value.
    pub(super) others: Vec<(&'static str, bool, Vec<u8>)>,
}

/// A root of version 1 without extensions, as `build_chain.sh` makes it.
pub(super) fn root(name: &str, key: u8) -> Plan {
    Plan { version_1: true, constraints: None, ..authority(name, name, key, key) }
}

pub(super) fn authority(subject: &str, issuer: &str, key: u8, signed_by: u8) -> Plan {
    Plan {
        subject: subject.to_owned(),
        issuer: issuer.to_owned(),
        key: Key::Secp256k1(key),
        signed_by,
        version_1: false,
        valid: (-1, 1),
        constraints: Some((true, None)),
        usage: None,
        others: Vec::new(),
    }
}

pub(super) fn leaf(issuer: &str, key: u8, signed_by: u8) -> Plan {
    Plan { constraints: Some((false, None)), ..authority("leaf", issuer, key, signed_by) }
}

impl Plan {
    pub(super) fn der(&self) -> CertificateDer<'static> {
        let time = |years: i64| {
            let seconds = NOW.saturating_add_signed(years * YEAR as i64);
            Time::GeneralTime(GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).unwrap())
        };
        let name = |name: &str| -> Name { format!("CN={name}").parse().unwrap() };
        let algorithm = AlgorithmIdentifierOwned { oid: OID_ECDSA_SHA256, parameters: None };
        let extensions = self.extensions();
        let tbs_certificate = TbsCertificate {
            version: if self.version_1 { Version::V1 } else { Version::V3 },
            serial_number: SerialNumber::new(&[1]).unwrap(),
            signature: algorithm.clone(),
            issuer: name(&self.issuer),
            validity: Validity { not_before: time(self.valid.0), not_after: time(self.valid.1) },
            subject: name(&self.subject),
            subject_public_key_info: self.key.spki(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: (!extensions.is_empty()).then_some(extensions),
        };
        let content = tbs_certificate.to_der().unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
        let digest = Message::from_digest(digest.as_ref().try_into().unwrap());
        let signature = SECP256K1.sign_ecdsa(digest, &secret(self.signed_by)).serialize_der();
        let certificate = x509_cert::Certificate {
            tbs_certificate,
            signature_algorithm: algorithm,
            signature: BitString::from_bytes(&signature).unwrap(),
        };
        certificate.to_der().unwrap().into()
    }

    fn extensions(&self) -> Vec<Extension> {
        let extension = |extn_id, critical, value: &[u8]| Extension {
            extn_id,
            critical,
            extn_value: OctetString::new(value).unwrap(),
        };
        let mut extensions = Vec::new();
        if let Some((ca, path_len_constraint)) = self.constraints {
            let value = BasicConstraints { ca, path_len_constraint }.to_der().unwrap();
            extensions.push(extension(OID_BASIC_CONSTRAINTS, true, &value));
        }
        if let Some(usage) = self.usage {
            let unused = usage.trailing_zeros().min(7) as u8;
            extensions.push(extension(OID_KEY_USAGE, true, &[3, 2, unused, usage]));
        }
        let other = |(oid, critical, value): &(&str, bool, Vec<u8>)| {
            extension(ObjectIdentifier::new_unwrap(oid), *critical, value)
        };
        extensions.extend(self.others.iter().map(other));
        extensions
    }
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_byte_array([number + 1; 32]).unwrap()
}

impl Key {
    fn spki(&self) -> SubjectPublicKeyInfoOwned {
        let point = |number: &u8| PublicKey::from_secret_key(SECP256K1, &secret(*number));
        let (oid, parameters, bits) = match self {
            Self::Secp256k1(number) => (
                OID_EC_PUBLIC_KEY,
                Any::from(&OID_SECP256K1),
                point(number).serialize_uncompressed().to_vec(),
            ),
            Self::Compressed(number) => {
                (OID_EC_PUBLIC_KEY, Any::from(&OID_SECP256K1), point(number).serialize().to_vec())
            }
            Self::Rsa { modulus_bits, exponent } => {
                // Ones only: odd, and of exactly so many bits.
                let mut modulus = vec![0xff; modulus_bits.div_ceil(8)];
                modulus[0] >>= (8 - modulus_bits % 8) % 8;
                let numbers = [integer(&modulus), integer(&exponent.to_be_bytes())].concat();
                (OID_RSA, Any::from(Null), tagged(0x30, &numbers))
            }
        };
        SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned { oid, parameters: Some(parameters) },
            subject_public_key: BitString::from_bytes(&bits).unwrap(),
        }
    }
}

/// A positive integer in DER.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|&byte| byte > 0).unwrap();
    let zero: &[u8] = if bytes[first] >= 0x80 { &[0] } else { &[] };
    tagged(2, &[zero, &bytes[first..]].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u16).to_be_bytes();
    [&[tag, 0x82], &len[..], content]
        .concat()
        .into_iter()
        .enumerate()
        // The shorter forms of a length.
        .filter(|(at, _)| match content.len() {
            0..0x80 => !(1..3).contains(at),
            0x80..0x100 => *at != 2,
            _ => true,
        })
        .map(|(at, byte)| if at == 1 && content.len() < 0x100 { 0x81 } else { byte })
        .collect()
}

/// Who judges.
pub(super) struct Judge {
    pub(super) roots: Vec<Plan>,
    pub(super) known: Vec<Plan>,
    pub(super) policy: IssuerPolicy,
}

/// What is to be said of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    UnknownIssuer,
    Expired,
    NotValidYet,
    InvalidPurpose,
    CriticalExtension,
    BadEncoding,
    Refused(Refusal),
}

impl Judge {
    pub(super) fn of(roots: &[Plan]) -> Self {
        Self { roots: roots.to_vec(), known: Vec::new(), policy: IssuerPolicy::default() }
    }

    /// The certificates that it has itself.
    fn ours(&self) -> usize {
        self.roots.len() + self.known.len()
    }

    /// Most signatures that it checks.
    pub(super) fn checks_max(&self) -> usize {
        SIGNATURES_MAX + self.ours()
    }

    /// What it says, and how many signatures it checked.
    pub(super) fn judge(&self, presented: &[Plan], leaf: &Plan) -> (Verdict, usize) {
        let ders = |plans: &[Plan]| plans.iter().map(Plan::der).collect::<Vec<_>>();
        self.judge_ders(&ders(presented), &leaf.der())
    }

    pub(super) fn judge_ders(
        &self,
        presented: &[CertificateDer<'_>],
        leaf: &CertificateDer<'_>,
    ) -> (Verdict, usize) {
        let pem = |plan: &Plan| {
            x509_cert::der::pem::encode_string("CERTIFICATE", LineEnding::LF, &plan.der()).unwrap()
        };
        let roots: String = self.roots.iter().map(pem).collect();
        let roots = Roots::from_pem(roots.as_bytes(), Path::new("roots")).unwrap();
        let known: Vec<_> = self.known.iter().map(Plan::der).collect();
        let verifier = Verifier::new(&roots, &known, self.policy.clone());
        let mut checks = Checks::up_to(self.checks_max());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let said = verifier.verify_chain_with(leaf, presented, now, &mut checks);
        (said.map_or_else(|error| Verdict::of(&error), |()| Verdict::Accepted), checks.made())
    }

    pub(super) fn accepts(&self, presented: &[Plan], leaf: &Plan) -> bool {
        self.judge(presented, leaf).0 == Verdict::Accepted
    }
}

impl Verdict {
    fn of(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Expired => Self::Expired,
            CertificateError::NotValidYet => Self::NotValidYet,
            CertificateError::InvalidPurpose => Self::InvalidPurpose,
            CertificateError::UnhandledCriticalExtension => Self::CriticalExtension,
            CertificateError::BadEncoding => Self::BadEncoding,
            CertificateError::Other(other) => Self::Refused(*other.0.downcast_ref().unwrap()),
            error => panic!("{error:?}"),
        }
    }
}
