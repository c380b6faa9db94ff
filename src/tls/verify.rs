//! One verifier for both roles: certificates as FISCO BCOS makes them (WIRE §1.8).
//!
//! webpki refuses version 1 certificates, which `build_chain.sh` makes for the channel; so chains are
//! checked here and in [`super::path`]: by raw subject and signature, validity, CA flags and key usage. Host names mean
//! nothing in a consortium and are never looked at.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::certificate::X509Certificate;

use super::{
    PeerCertificate,
    identity::{Roots, parse},
    path::{Certificate, Checks, SIGNATURES_MAX, check_extensions, check_validity, issuer_of},
    signature::{KeyKind, PublicKey, RSA_EXPONENT_MAX, RSA_MODULUS_BITS_MAX},
};

/// Certificates that a peer may present.
pub const CERTIFICATES_MAX: usize = 10;
/// Longest certificate in bytes that is looked at.
pub const CERTIFICATE_LEN_MAX: usize = 16 * 1024;

/// Whose certificates must have been issued by whom, beyond the roots (`[network_security]`).
#[derive(Clone, Debug, Default)]
pub struct IssuerPolicy {
    /// A peer's certificate with basic constraints must have the issuer of this one, if set: its name and its key. Names
    /// alone would let in whoever an authority elsewhere gives the name of this one's issuer.
    pub like: Option<CertificateDer<'static>>,
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
    /// The key of the certificate, or of one above it that is no root, is an RSA key beyond the bounds.
    #[error(
        "an RSA key of more than {RSA_MODULUS_BITS_MAX} bits, or with an exponent of more than {RSA_EXPONENT_MAX}"
    )]
    KeyTooLarge,
    /// More than [`SIGNATURES_MAX`] would have to be checked, and one for each certificate of ours.
    #[error("no way to a root was found by checking {SIGNATURES_MAX} signatures")]
    TooManySignatures,
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
    roots: Vec<Certificate>,
    /// Certificates of our own chain: a peer of the same agency need not present them again.
    known: Vec<Certificate>,
    policy: Option<SameIssuer>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Who issued our own certificate, and so must have issued those of others.
#[derive(Debug)]
struct SameIssuer {
    name: Vec<u8>,
    /// Of those certificates of its issuer that are here. None will do for anybody if there are none.
    keys: Vec<PublicKey>,
    also_version_1: bool,
}

impl Verifier {
    /// A verifier that trusts `roots`, and may use `known` certificates on the way to them.
    pub fn new(roots: &Roots, known: &[CertificateDer<'static>], policy: IssuerPolicy) -> Arc<Self> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let parsed = |certificates: &[CertificateDer<'_>], read: fn(&X509Certificate<'_>) -> Certificate| {
            certificates.iter().filter_map(|der| Some(read(&parse(der)?))).collect::<Vec<_>>()
        };
        let (roots, known) = (parsed(&roots.0, Certificate::root), parsed(known, Certificate::below_root));
        let policy = policy.like.map(|own| {
            let own = parse(&own).map(|own| Certificate::below_root(&own));
            let is_issuer =
                |authority: &&Certificate| own.as_ref().is_some_and(|own| own.is_issued_by(authority));
            let issuers = roots.iter().chain(&known).filter(is_issuer);
            SameIssuer {
                name: own.as_ref().map(|own| own.issuer().to_vec()).unwrap_or_default(),
                keys: issuers.filter_map(Certificate::key).cloned().collect(),
                also_version_1: policy.also_version_1,
            }
        });
        Arc::new(Self { roots, known, policy, algorithms })
    }

    pub(super) fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let ours = self.roots.len() + self.known.len();
        self.verify_chain_with(leaf, presented, now, &mut Checks::up_to(SIGNATURES_MAX + ours))
    }

    /// The same, with so many checks of signatures.
    pub(super) fn verify_chain_with(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
        checks: &mut Checks,
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
        let validity = leaf.validity();
        check_validity(validity.not_before.timestamp(), validity.not_after.timestamp(), now)?;
        if let Ok(Some(usage)) = leaf.key_usage()
            && !usage.value.digital_signature()
        {
            return Err(CertificateError::InvalidPurpose);
        }
        let read = Certificate::below_root(&leaf);
        if read.key().is_some_and(|key| !key.is_within_bounds()) {
            return Err(Refusal::KeyTooLarge.into());
        }
        let parsed = presented.iter().filter_map(|der| Some(Certificate::below_root(&parse(der)?)));
        let presented: Vec<Certificate> = parsed.collect();
        let others = self.known.iter().chain(&presented);
        let issuer = issuer_of(&read, &self.roots, others, now, checks)?;
        // Of another authority is worse than of another agency.
        self.check_issuer_policy(&leaf, issuer)
    }

    fn check_issuer_policy(
        &self,
        leaf: &X509Certificate<'_>,
        issuer: &Certificate,
    ) -> Result<(), CertificateError> {
        let Some(own) = &self.policy else { return Ok(()) };
        let concerned = match leaf.basic_constraints() {
            Ok(Some(_)) => true,
            _ => own.also_version_1,
        };
        let is_same = leaf.issuer().as_raw() == own.name
            && issuer.key().is_some_and(|key| own.keys.iter().any(|own_key| own_key.is_same(key)));
        if concerned && !is_same {
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
        let key = PublicKey::of(leaf.public_key());
        if key.is_some_and(|key| key.verify(signed.scheme, message, signed.signature())) {
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
        if let Some(key) = PublicKey::of(leaf.public_key())
            && key.kind() == KeyKind::Rsa
        {
            let pss = matches!(
                signed.scheme,
                SignatureScheme::RSA_PSS_SHA256
                    | SignatureScheme::RSA_PSS_SHA384
                    | SignatureScheme::RSA_PSS_SHA512
            );
            return if pss && key.verify(signed.scheme, message, signed.signature()) {
                Ok(HandshakeSignatureValid::assertion())
            } else {
                Err(CertificateError::BadSignature.into())
            };
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// What a (verified) certificate says of its holder.
pub(crate) fn describe(certificate: &X509Certificate<'_>) -> PeerCertificate {
    let subject = certificate.subject();
    let first = |mut names: &mut dyn Iterator<Item = String>| (&mut names).next().unwrap_or_default();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).unwrap_or_default()
    };
    let node_id = PublicKey::of(certificate.public_key()).and_then(|key| key.node_id());
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
