//! One verifier for both roles: certificates as FISCO BCOS makes them (WIRE §1.8).
//!
//! webpki refuses version 1 certificates, which `build_chain.sh` makes for the channel; so chains are
//! checked here: by raw subject and signature, validity, CA flags and key usage. Host names mean
//! nothing in a consortium and are never looked at.

use std::sync::Arc;

use aws_lc_rs::{digest, signature as aws};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519,
        OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, Oid,
    },
    x509::{SubjectPublicKeyInfo, X509Version},
};

use super::{
    PeerCertificate,
    identity::{Roots, parse},
    secp256k1,
};
use crate::wire::NodeId;

/// Certificates that a peer may present.
pub const CERTIFICATES_MAX: usize = 10;
/// Longest certificate in bytes that is looked at.
pub const CERTIFICATE_LEN_MAX: usize = 16 * 1024;

/// The curve's OID: 1.3.132.0.10.
const OID_SECP256K1: [u64; 5] = [1, 3, 132, 0, 10];

/// Whose certificates must have been issued by whom, beyond the roots (`[network_security]`).
#[derive(Clone, Debug, Default)]
pub struct IssuerPolicy {
    /// A peer's certificate with basic constraints must have this issuer (raw DER), if set.
    pub issuer: Option<Vec<u8>>,
    /// Also certificates of version 1 must.
    pub also_version_1: bool,
}

/// Why a chain is refused that may be a good one elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than [`CERTIFICATES_MAX`].
    #[error("more than {CERTIFICATES_MAX} certificates")]
    TooManyCertificates,
    /// One is longer than [`CERTIFICATE_LEN_MAX`].
    #[error("a certificate of more than {CERTIFICATE_LEN_MAX} bytes")]
    CertificateTooLong,
    /// [`IssuerPolicy`] wants another issuer.
    #[error("the certificate's issuer is not the node's ([network_security] check_cert_issuer)")]
    NotTheNodesIssuer,
}

impl From<Refusal> for CertificateError {
    fn from(refusal: Refusal) -> Self {
        Self::Other(OtherError(Arc::new(refusal)))
    }
}

/// Checks chains and handshake signatures.
#[derive(Debug)]
pub struct Verifier {
    roots: Roots,
    /// Certificates of our own chain: a peer of the same agency need not present them again.
    known: Vec<CertificateDer<'static>>,
    policy: IssuerPolicy,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// A verifier that trusts `roots`, and may use `known` certificates on the way to them.
    pub fn new(roots: &Roots, known: &[CertificateDer<'static>], policy: IssuerPolicy) -> Arc<Self> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Arc::new(Self { roots: roots.clone(), known: known.to_vec(), policy, algorithms })
    }

    pub(super) fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
        if presented.len() >= CERTIFICATES_MAX {
            return Err(Refusal::TooManyCertificates.into());
        }
        if presented.iter().chain([leaf]).any(|certificate| certificate.len() > CERTIFICATE_LEN_MAX) {
            return Err(Refusal::CertificateTooLong.into());
        }
        let leaf = parse(leaf).ok_or(CertificateError::BadEncoding)?;
        check_extensions(&leaf)?;
        check_validity(&leaf, now)?;
        if let Ok(Some(usage)) = leaf.key_usage()
            && !usage.value.digital_signature()
        {
            return Err(CertificateError::InvalidPurpose);
        }
        let policy = self.check_issuer_policy(&leaf);
        let roots: Vec<_> = self.roots.0.iter().filter_map(|root| parse(root)).collect();
        let mut intermediates: Vec<_> =
            presented.iter().chain(&self.known).filter_map(|certificate| parse(certificate)).collect();
        search(leaf, &roots, &mut intermediates, now)?;
        // Of another authority is worse than of another agency.
        policy
    }

    fn check_issuer_policy(&self, leaf: &X509Certificate<'_>) -> Result<(), CertificateError> {
        let Some(issuer) = &self.policy.issuer else { return Ok(()) };
        let concerned = match leaf.basic_constraints() {
            Ok(Some(_)) => true,
            _ => self.policy.also_version_1,
        };
        if concerned && leaf.issuer().as_raw() != issuer {
            return Err(Refusal::NotTheNodesIssuer.into());
        }
        Ok(())
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let leaf = parse(certificate).ok_or(CertificateError::BadEncoding)?;
        // In TLS 1.2 the curve is the certificate's, whatever the scheme is called.
        let valid = match key_kind(leaf.public_key()) {
            Some(KeyKind::Secp256k1(point)) => {
                secp256k1::verify(point, signed.scheme, message, signed.signature())
            }
            Some(kind) => tls12_algorithm(&kind, signed.scheme)
                .is_some_and(|algorithm| verify_with(algorithm, &kind, message, signed.signature())),
            None => false,
        };
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a client whose file holds its leaf alone cannot tell that an agency stands between it and a
    /// root that is named here, and some TLS libraries then send no certificate at all.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl Verifier {
    /// TLS 1.3 binds each scheme to one curve, so that secp256k1 has none. Certificates of version 1 are
    /// beyond webpki, so RSA is checked here.
    fn verify_13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let leaf = parse(certificate).ok_or(CertificateError::BadEncoding)?;
        let kind = key_kind(leaf.public_key());
        if let Some(kind @ KeyKind::Rsa(_)) = kind {
            let pss = matches!(
                signed.scheme,
                SignatureScheme::RSA_PSS_SHA256
                    | SignatureScheme::RSA_PSS_SHA384
                    | SignatureScheme::RSA_PSS_SHA512
            );
            let valid = pss
                && tls12_algorithm(&kind, signed.scheme)
                    .is_some_and(|algorithm| verify_with(algorithm, &kind, message, signed.signature()));
            return if valid {
                Ok(HandshakeSignatureValid::assertion())
            } else {
                Err(CertificateError::BadSignature.into())
            };
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// Looks for a way from a leaf up to a root, by all certificates that there are: one that has expired may
/// have a successor of the same name. It goes up level by level and asks of each certificate once, where
/// it is nearest to the leaf and so farthest from the bound on its path; that bounds the signatures that
/// are checked by the square of the certificates. Without a way it gives the first fault met, which is
/// that of the way that seemed most likely.
fn search<'a>(
    leaf: X509Certificate<'a>,
    roots: &[X509Certificate<'_>],
    intermediates: &mut Vec<X509Certificate<'a>>,
    now: i64,
) -> Result<(), CertificateError> {
    let mut fault = None;
    let mut level = vec![leaf];
    for depth in 0.. {
        let mut above = Vec::new();
        for current in &level {
            let is_issuer = |candidate: &X509Certificate<'_>| {
                candidate.subject().as_raw() == current.issuer().as_raw() && is_signed_by(current, candidate)
            };
            for root in roots.iter().filter(|root| is_issuer(root)) {
                match check_issuer(root, depth, true, now) {
                    Ok(()) => return Ok(()),
                    Err(error) => drop(fault.get_or_insert(error)),
                }
            }
            for candidate in intermediates.extract_if(.., |candidate| is_issuer(candidate)) {
                match check_issuer(&candidate, depth, false, now) {
                    Ok(()) => above.push(candidate),
                    // A root that is not ours: whatever else is wrong with it, it is of another authority.
                    Err(_) if is_self_signed(&candidate) => {}
                    Err(error) => drop(fault.get_or_insert(error)),
                }
            }
        }
        if above.is_empty() {
            break;
        }
        level = above;
    }
    Err(fault.unwrap_or(CertificateError::UnknownIssuer))
}

fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw() && is_signed_by(certificate, certificate)
}

/// Whether a certificate may stand above others; `below` intermediates are between it and the leaf.
fn check_issuer(
    certificate: &X509Certificate<'_>,
    below: usize,
    is_root: bool,
    now: i64,
) -> Result<(), CertificateError> {
    check_extensions(certificate)?;
    check_validity(certificate, now)?;
    check_authority(certificate, below, is_root)
}

/// Whether all that a certificate says of its use can be read, and nothing is critical that nobody reads
/// here (RFC 5280, section 4.2).
fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    certificate.extensions_map().map_err(|_| CertificateError::BadEncoding)?;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(_) | ParsedExtension::KeyUsage(_) => {}
            _ if extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS
                || extension.oid == OID_X509_EXT_KEY_USAGE =>
            {
                return Err(CertificateError::BadEncoding);
            }
            _ if extension.critical => return Err(CertificateError::UnhandledCriticalExtension),
            _ => {}
        }
    }
    Ok(())
}

fn check_validity(certificate: &X509Certificate<'_>, now: i64) -> Result<(), CertificateError> {
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        Err(CertificateError::NotValidYet)
    } else if now > validity.not_after.timestamp() {
        Err(CertificateError::Expired)
    } else {
        Ok(())
    }
}

/// Whether a certificate may have issued others; `below` intermediates stand between it and the leaf.
fn check_authority(
    certificate: &X509Certificate<'_>,
    below: usize,
    is_root: bool,
) -> Result<(), CertificateError> {
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err(CertificateError::InvalidPurpose);
    }
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => match constraints.value.path_len_constraint {
            Some(longest) if below > longest as usize => Err(CertificateError::InvalidPurpose),
            _ => Ok(()),
        },
        // Roots are trusted by configuration, and old ones have no extensions.
        Ok(None) if is_root && certificate.version() != X509Version::V3 => Ok(()),
        Ok(None) if is_root && certificate.extensions().is_empty() => Ok(()),
        _ => Err(CertificateError::InvalidPurpose),
    }
}

enum KeyKind<'a> {
    Secp256k1(&'a [u8]),
    P256(&'a [u8]),
    P384(&'a [u8]),
    Rsa(&'a [u8]),
    Ed25519(&'a [u8]),
}

fn key_kind<'a>(key: &'a SubjectPublicKeyInfo<'_>) -> Option<KeyKind<'a>> {
    let bits: &[u8] = &key.subject_public_key.data;
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return Some(KeyKind::Rsa(bits));
    }
    if *algorithm == OID_SIG_ED25519 {
        return Some(KeyKind::Ed25519(bits));
    }
    if *algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    if Oid::from(&OID_SECP256K1).is_ok_and(|oid| oid == curve) {
        Some(KeyKind::Secp256k1(bits))
    } else if curve == OID_EC_P256 {
        Some(KeyKind::P256(bits))
    } else if curve == OID_NIST_EC_P384 {
        Some(KeyKind::P384(bits))
    } else {
        None
    }
}

type Algorithm = &'static dyn aws::VerificationAlgorithm;

fn tls12_algorithm(kind: &KeyKind<'_>, scheme: SignatureScheme) -> Option<Algorithm> {
    Some(match (kind, scheme) {
        (KeyKind::Rsa(_), SignatureScheme::RSA_PKCS1_SHA256) => &aws::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa(_), SignatureScheme::RSA_PKCS1_SHA384) => &aws::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa(_), SignatureScheme::RSA_PKCS1_SHA512) => &aws::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa(_), SignatureScheme::RSA_PSS_SHA256) => &aws::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa(_), SignatureScheme::RSA_PSS_SHA384) => &aws::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa(_), SignatureScheme::RSA_PSS_SHA512) => &aws::RSA_PSS_2048_8192_SHA512,
        (KeyKind::P256(_), SignatureScheme::ECDSA_NISTP256_SHA256) => &aws::ECDSA_P256_SHA256_ASN1,
        (KeyKind::P256(_), SignatureScheme::ECDSA_NISTP384_SHA384) => &aws::ECDSA_P256_SHA384_ASN1,
        (KeyKind::P384(_), SignatureScheme::ECDSA_NISTP384_SHA384) => &aws::ECDSA_P384_SHA384_ASN1,
        (KeyKind::P384(_), SignatureScheme::ECDSA_NISTP256_SHA256) => &aws::ECDSA_P384_SHA256_ASN1,
        (KeyKind::Ed25519(_), SignatureScheme::ED25519) => &aws::ED25519,
        _ => return None,
    })
}

fn verify_with(algorithm: Algorithm, kind: &KeyKind<'_>, message: &[u8], signature: &[u8]) -> bool {
    let (KeyKind::Secp256k1(key)
    | KeyKind::P256(key)
    | KeyKind::P384(key)
    | KeyKind::Rsa(key)
    | KeyKind::Ed25519(key)) = kind;
    aws::UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

/// Whether the issuer's key made the signature on a certificate.
fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    // The algorithm stands there twice, and only one of them is signed.
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return false;
    }
    let Some(kind) = key_kind(issuer.public_key()) else { return false };
    let oid = &certificate.signature_algorithm.algorithm;
    let scheme = if *oid == OID_PKCS1_SHA256WITHRSA {
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
        return false;
    };
    let message = certificate.tbs_certificate.as_ref();
    let signature = &certificate.signature_value.data;
    match &kind {
        KeyKind::Secp256k1(point) => secp256k1::verify(point, scheme, message, signature),
        kind => tls12_algorithm(kind, scheme)
            .is_some_and(|algorithm| verify_with(algorithm, kind, message, signature)),
    }
}

/// What a (verified) certificate says of its holder.
pub(crate) fn describe(certificate: &X509Certificate<'_>) -> PeerCertificate {
    let subject = certificate.subject();
    let first = |mut names: &mut dyn Iterator<Item = String>| (&mut names).next().unwrap_or_default();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).unwrap_or_default()
    };
    let node_id = match key_kind(certificate.public_key()) {
        Some(KeyKind::Secp256k1(point)) => ::secp256k1::PublicKey::from_slice(point).ok().map(|key| {
            let [_, id @ ..] = key.serialize_uncompressed();
            NodeId(id)
        }),
        _ => None,
    };
    let mut fingerprint = [0; 32];
    let signed = certificate.tbs_certificate.as_ref();
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, signed).as_ref());
    PeerCertificate {
        node_id,
        subject: subject.to_string(),
        common_name: first(&mut subject.iter_common_name().map(text)),
        agency: first(&mut certificate.issuer().iter_common_name().map(text)),
        fingerprint,
    }
}
